"""The work of a training: a net, functions and a fit; and its stages."""

from __future__ import annotations

import contextlib
import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...nets.deeponet import BumpDeepONet
from ...problems.operators.base import Operator, OperatorData
from .. import gradient as trainer
from .. import threads
from ..arguments import number, option, positive
from ..loop import LARGE_LOSS, Method, StopReason, Work
from . import branch as branches
from . import gradient
from .check import Options
from .fit import fit_to_data, fit_to_equations
from .trunk import Trunk

#: Evaluations of the loss and errors of all functions, in a stage of gradient steps.
_LOOKS = 40
#: Fewest steps of L-BFGS between two evaluations.
_ROUND = 20
#: Name of the option with the number of iterations, by stage.
LIMITS = {"trunk": "trunk_iterations", "branch": "iterations", "adam": "iterations", "lbfgs": "polish"}


class OperatorTask(Work):
    """A net that is trained, in place, to approximate an operator.

    Parameters
    ----------
    net : BumpDeepONet
        The net.
    data : OperatorData
        Training functions, unless there are equations.
    test : OperatorData or None
        Functions to measure errors on, instead of ``data``.
    equations : (Operator, Tensor) or None
        Operator whose equations are trained on, and input functions [B, fine] as it draws them.
    options : Options
        Options of the training.

    Attributes
    ----------
    fit : Fit
        Least-squares problem of the trunk, which also defines the coordinates of the branch.
    mix : Tensor or None
        [M, M], float64: maps the current output of the branch to amplitudes; None where it is amplitudes.

    Raises
    ------
    ValueError
        If two steps cannot solve an equation.
    """

    def __init__(
        self, net: BumpDeepONet, data: OperatorData, test: OperatorData | None,
        equations: tuple[Operator, Tensor] | None, options: Options,
    ):  # fmt: skip
        self.net, self.data, self.measured, self.equations = net, data, data if test is None else test, equations
        self.two_step, self.ridge, self.seed = options.method == "two-step", options.ridge_for(net), options.seed
        self.name, self.device, self.generation = "the loss", net.rows.device, 0
        self.fit = fit_to_equations(net, *equations) if equations and self.two_step else fit_to_data(net, data)
        self.mix: Tensor | None = None

    def few_threads(self) -> contextlib.AbstractContextManager[None]:
        """No more threads than the matrices of the fit can use."""
        return threads.few_threads(self.fit.targets.shape[1] * self.net.rows.numel())

    # --- what the stages do --------------------------------------------------------------------

    @torch.no_grad()
    def coordinates(self, net: BumpDeepONet) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of the fit [R, M] for the shapes of a net, and their :func:`.branch.coordinates`."""
        with self.few_threads():
            A, _ = self.fit.design(net, net.rows.double())
            return A, *branches.coordinates(A, self.ridge)

    @torch.no_grad()
    def settle(self, net: BumpDeepONet, rows: Tensor) -> None:
        """Set the shapes [M, Q] of a net, and the last layer of its branch that fits them best."""
        net.rows.copy_(rows)
        _, functions, mix = self.coordinates(net)
        with self.few_threads():
            branches.regress(net, self.fit, self.fit.targets @ functions / len(functions), mix)

    @torch.no_grad()
    def objective(self, batch: int | None) -> gradient.FunctionsObjective:
        """The loss with its gradient; until the stage ends, the branch outputs coordinates."""
        net = self.net
        A, _, mix = self.coordinates(net)
        if self.mix is None:
            self.mix = branches.enter_coordinates(net, mix)
        mix = self.mix.to(net.rows)
        if self.two_step:
            loss = gradient.branch_loss(net, A @ mix.double().T, self.fit)
        elif self.equations:
            loss = gradient.physics_loss(net, mix, *self.equations)
        else:
            loss = gradient.data_loss(net, mix, self.data)
        trained, count = net.branch if self.two_step else net, len(self.data.inputs)
        return gradient.FunctionsObjective(loss, trained, count, batch, self.seed, self.leave)

    def leave(self) -> None:
        """Make the branch output amplitudes, if it does not."""
        if self.mix is not None:
            mix, self.mix = self.mix, None
            branches.leave_coordinates(self.net, mix)

    # --- as the work of a run ------------------------------------------------------------------

    def begin(self, stage: int) -> bool:
        """The trunk has another loss, that of the leading modes, than the other stages, that of the functions."""
        return self.two_step and stage == 1

    def ended(self, reason: StopReason, loss: float) -> StopReason:
        """The trunk stage converges when it fits the leading modes; the functions may have others."""
        large = reason is StopReason.CONVERGED and self.measure(None) ** 2 > LARGE_LOSS
        return StopReason.STALLED if large else reason

    def snapshot(self) -> dict[str, Tensor]:
        """Parameters and buffers by name and, where the branch outputs coordinates, ``mix``."""
        now = {name: value.detach().clone() for name, value in self.net.state_dict().items()}
        return now if self.mix is None else now | {"mix": self.mix}

    @torch.no_grad()
    def put_back(self, best: dict[str, Tensor]) -> None:
        own = self.net.state_dict()
        for name, value in best.items():
            if name != "mix":
                own[name].copy_(value)
        if "mix" in best and self.mix is None:
            branches.leave_coordinates(self.net, best["mix"].to(self.device))

    def measure(self, now: dict[str, Tensor] | None) -> float | None:
        """Mean error; None in the trunk stage, which does not change the branch until its end."""
        if now is not None:
            return None
        mix = None if self.mix is None else self.mix.to(self.net.rows)
        return float(relative_errors(self.net, self.measured, mix).mean())

    @torch.no_grad()
    def net_at(self, now: dict[str, Tensor] | None) -> BumpDeepONet:
        net = copy.deepcopy(self.net)
        if now is not None:
            self.settle(net, now["rows"])
        elif self.mix is not None:
            branches.leave_coordinates(net, self.mix)
        return net

    def state_dict(self) -> dict[str, object]:
        return {"net": self.net.state_dict(), "mix": self.mix}

    def load_state_dict(self, state: dict[str, object]) -> None:
        self.net.load_state_dict(state["net"])
        mix, count = state["mix"], len(self.net.rows)
        self.mix = None if mix is None else mix.to(self.device, torch.float64).reshape(count, count)


# --- errors --------------------------------------------------------------------------------------


@torch.no_grad()
def relative_errors(net: BumpDeepONet, data: OperatorData, mix: Tensor | None = None) -> Tensor:
    """Relative L2 error [count], float64, of every output function; absolute where the function is zero.

    ``mix`` maps the branch's output to amplitudes, if it is not amplitudes.
    """
    inputs, _, points = data.to(net.rows)
    with branches.evaluating(net):
        h = net.coefficients(inputs)
    u = net.combine(h if mix is None else h @ mix, points).value.double()
    return relative(u - data.outputs.to(u), data.outputs.to(u))


def relative(difference: Tensor, functions: Tensor) -> Tensor:
    """Ratio [count] of the norms of ``difference`` and ``functions`` [count, N], with 1 for a norm of 0."""
    size = torch.linalg.vector_norm(functions, dim=1)
    return torch.linalg.vector_norm(difference, dim=1) / torch.where(size > 0, size, torch.ones_like(size))


@torch.no_grad()
def projection_error(net: BumpDeepONet, data: OperatorData) -> float:
    """Mean relative L2 error of the best amplitudes for these bumps."""
    fit = fit_to_data(net, data)
    A, _ = fit.design(net, net.rows.double())
    Q, _ = torch.linalg.qr(A / torch.linalg.vector_norm(A, dim=0))
    return float(relative(fit.targets - fit.targets @ Q @ Q.T, data.outputs.to(Q)).mean())


# --- stages --------------------------------------------------------------------------------------


@dataclass
class Adam(trainer.Adam, listed=False):
    """Adam on everything, in batches of functions.

    Parameters are those of :class:`bumpnet_fast.solvers.Adam`.
    """

    name: ClassVar[str] = "adam"
    iterations: ClassVar[int] = 4000
    measure_every: ClassVar[int] = 1
    learning_rate: float = option(3e-3, positive())
    final_rate: float = option(1e-3, number(0, 1))


@dataclass
class Branch(Adam, listed=False):
    """Adam on the branch, for a given trunk."""

    name: ClassVar[str] = "branch"


@dataclass
class Polish(trainer.LBFGS, listed=False):
    """L-BFGS on all functions."""

    name: ClassVar[str] = "lbfgs"
    measure_every: ClassVar[int] = 1


def stages(net: BumpDeepONet, options: Options) -> list[Method]:
    """The stages of a training."""
    adam = {"learning_rate": options.learning_rate, "batch": options.batch}
    adam["log_every"] = max(1, options.iterations // _LOOKS)
    polish = [Polish(log_every=max(_ROUND, options.polish // _LOOKS))] if options.polish else []
    found: list[Method] = [Adam(**adam), *polish]
    if options.method == "two-step":
        trained = not branches.is_linear(net.branch) and any(p.requires_grad for p in net.branch.parameters())
        trunk = Trunk(options.tolerance, options.ridge_for(net))
        found = [trunk, *([Branch(**adam), *polish] if trained else [])]
    for method in found:
        method.iterations = getattr(options, LIMITS[method.name])
    return found


__all__ = ["LIMITS", "Adam", "Branch", "OperatorTask", "Polish", "projection_error", "relative", "relative_errors",
           "stages"]  # fmt: skip
