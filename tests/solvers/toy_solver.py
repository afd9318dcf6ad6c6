"""A solver as a user of the library would write one: random restarts, with nothing of how a run goes."""

from dataclasses import dataclass

import torch

from bumpnet_fast.solvers import Method
from bumpnet_fast.solvers.arguments import choice, integer, option, positive


@dataclass
class RandomRestarts(Method):
    """Perturb the start at random, several times per iteration; the run keeps the best of all.

    Parameters
    ----------
    tries : int
        Perturbations per iteration.
    size : float
        Standard deviation of a perturbation, in raw parameters.
    amplitudes : str
        "best" solves for them by least squares; "random" perturbs them too.
    """

    name = "random-restarts"
    iterations = 20
    tries: int = option(3, integer(1))
    size: float = option(0.1, positive())
    amplitudes: str = option("best", choice("best", "random"))

    def start(self, work, iterations):
        self.work, self.first = work, work.net.rows.detach().clone()
        self.generator = torch.Generator().manual_seed(work.seed)

    def step(self, most):
        self._take(min((self._tried() for _ in range(self.tries)), key=lambda tried: tried[0])[1])
        return 1

    def loss(self):
        return self.work.loss()

    def state_dict(self):
        return {"first": self.first, "generator": self.generator.get_state()}

    def load_state_dict(self, state):
        self.first = state["first"].to(self.first)
        self.generator.set_state(state["generator"])

    def _tried(self):
        noise = torch.randn(self.first.shape, generator=self.generator, dtype=torch.float64)
        self._take({**self.work.snapshot(), "rows": self.first + self.size * noise.to(self.first)})
        if self.amplitudes == "best":
            self.work.solve_amplitudes()
        return self.work.loss(), self.work.snapshot()

    def _take(self, rows):
        self.work.put_back(rows)
