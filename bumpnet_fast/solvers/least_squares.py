"""Second-order training: variable projection, Gauss-Newton with projection, joint Levenberg-Marquardt.

All minimise the sum of squares of the rows of a :class:`~bumpnet_fast.solvers.system.System` by
damped Gauss-Newton steps with geodesic acceleration.  The first two step in the shapes only: for
every shape the amplitudes are solved for, exactly where the problem is linear in them.  All linear
algebra is in float64 whatever the net's dtype.
"""

from __future__ import annotations

import functools
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..distributed import ALONE, Ranks
from ..events import Event
from ..functional import bump_jet
from ..jet import Jet
from ..layer import BumpNet
from ..problems.base import Problem
from ..problems.sampling import lattice
from . import runs
from .descent import descend
from .grad_mode import differentiating
from .models import Joint, Projected, Separable
from .refine import refined
from .sharing import check_same, check_unstored, interrupts_shared
from .system import System, blocks, check_fit, check_kinds, collocation
from .threads import few_threads

METHODS = ("auto", "varpro", "gauss-newton", "lm")

#: The error is measured every so many iterations (it costs about a tenth of one).
_MEASURE_EVERY = 10
#: Iterations over which the relative decrease of the loss is judged.
_PATIENCE = 10
#: A loss this small, relative to that of u = 0, is rounding.
_FLOOR = 1e-28


@dataclass(frozen=True)
class Progress:
    """What a callback is told after every iteration; 0 is the start with the best amplitudes.

    ``net()`` makes a net of the bumps as they are now, which costs nothing unless it is asked for; it is None where
    what is trained is no single :class:`~bumpnet_fast.layer.BumpNet`.
    """

    iteration: int
    seconds: float
    loss: float
    rel_l2: float | None
    net: Callable[[], BumpNet] | None = field(default=None, repr=False, compare=False)


@dataclass
class Solution:
    """A trained net and how it came about.

    Attributes
    ----------
    net : BumpNet
        The net that was given, now with the best rows found.
    problem, boundary
        As given to :func:`solve`.
    history : list of dict
        ``iteration``, ``seconds``, ``loss``, and ``rel_l2`` in the iterations where it was measured.
    loss : float
        Mean square of the scaled residual, plus weighted conditions and the ridge.
    rel_l2, max_error : float or None
        Against the exact solution on a regular grid over the domain (101 x 101 in 2D), if it is known.
    seconds : float
        Wall time of :func:`solve`.
    iterations : int
        Accepted steps.
    stop_reason : str
        "converged", "iterations", "time", "interrupted", "loss floor" or "no further decrease".
    method : str
        The method that was used.
    unknowns : dict of str to float
        The unknowns of the equation, as found.
    events : list of Event
        Bumps taken out and put in on the way.
    """

    net: BumpNet
    problem: Problem
    boundary: str
    history: list[dict[str, Any]] = field(repr=False)
    loss: float
    rel_l2: float | None
    max_error: float | None
    seconds: float
    iterations: int
    stop_reason: str
    method: str = "varpro"
    unknowns: dict[str, float] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)

    def jet(self, x: Tensor, want: str = "value") -> Jet:
        """Jet of the solution at the points ``x`` [N, d], boundary composition included."""
        return self.problem.extend(lambda x: self.net.jet(x, want=want), x, want, self.boundary)

    def predict(self, x: Tensor) -> Tensor:
        """The solution [N, K] at the points ``x`` [N, d], boundary composition included."""
        return self.jet(x).value


@differentiating
def solve(
    problem: Problem,
    net: BumpNet,
    *,
    method: str = "auto",
    boundary: str | None = None,
    points: int | tuple[int, ...] | Tensor | None = None,
    sampling: str = "grid",
    iterations: int = 100,
    max_seconds: float | None = None,
    tolerance: float = 1e-4,
    ridge: float = 1e-12,
    damping: float = 1.0,
    step_cap: float = 1.0,
    condition_weight: float = 1.0,
    refine: int = 0,
    seed: int = 0,
    checkpoint: str | os.PathLike | None = None,
    every_seconds: float = runs.EVERY,
    callback: Callable[[Progress], Any] | None = None,
    group: Any = None,
) -> Solution:
    """Train ``net``, in place, to solve ``problem``.

    Ctrl-C, or a callback that raises KeyboardInterrupt, ends the training; the best rows are kept.

    Parameters
    ----------
    problem : Problem
        What to solve.
    net : BumpNet
        With the problem's dimension, outputs and domain.  Its shapes are the start.
    method : str
        "varpro" (linear problems; the amplitudes are eliminated), "gauss-newton" (any; they are eliminated
        from every linearisation), "lm" (any; all parameters together), or "auto": the first that can.
    boundary : str, optional
        "hard" builds given values and periods into the solution, "soft" adds the problem's conditions as rows.
        Default: "hard" where the problem allows it.
    points : int, tuple of int, or Tensor, optional
        Collocation points: how many, how many per axis, or [N, d].  Default: 5 per parameter.
    sampling : str
        "grid", "chebyshev", "sobol" or "uniform", see :func:`bumpnet_fast.problems.sampling.interior`.
    iterations : int
        At most so many steps.
    max_seconds : float, optional
        Stop after this time.
    tolerance : float
        Converged when the loss decreases by less than this fraction over ten iterations.
    ridge : float
        Tikhonov weight on the squares of the scaled amplitudes.
    damping : float
        Initial Levenberg-Marquardt damping, relative to the diagonal of the Gauss-Newton matrix.
    step_cap : float
        Largest change of a raw shape parameter in a step.
    condition_weight : float
        Factor on the weights of all conditions of the soft form.
    refine : int
        So many times on the way, choose half as many points again where the residual is large.
    seed : int
        Of the scattered kinds of points.
    checkpoint : str or path, optional
        File for the state of the run, see :func:`bumpnet_fast.checkpoint.resume`.
    every_seconds : float
        Write it no more often than this, and at the end, however that comes.
    callback : callable, optional
        Called with a :class:`Progress` after every iteration.
    group : torch.distributed.ProcessGroup, optional
        Its processes share the points and solve together, each calling this with the same net and arguments
        (docs/distributed.md).  A tensor of points is a rank's own; otherwise each takes its share.

    Returns
    -------
    Solution

    Raises
    ------
    ValueError
        Before any computing, if an argument is out of range, if net and problem do not fit, or if
        "varpro" is asked of a nonlinear problem; also if the residual is not finite at the start, and if the ranks
        of a group differ in the net or an argument, or are to write a checkpoint.
    RuntimeError
        If another rank has failed.
    OSError
        If the checkpoint cannot be written.

    Notes
    -----
    Variable projection: Golub and Pereyra (1973), with Kaufman's Jacobian (1975), its functional form for
    problems that are nonlinear in the amplitudes: Ruhe and Wedin (1980).  Damping:
    Marquardt's scaling, Nielsen's update.  Geodesic acceleration: Transtrum and Sethna,
    arXiv:1201.5885.  docs/choosing.md says what was measured.

    Examples
    --------
    >>> from bumpnet_fast import problems
    >>> problem = problems.get("poisson")
    >>> net = BumpNet(2, (4, 4), problem.domain, dtype="float64")
    >>> solution = solve(problem, net, iterations=20)
    >>> solution.rel_l2 < 1e-3, solution.predict(torch.zeros(5, 2, dtype=torch.float64)).shape
    (True, torch.Size([5, 1]))
    """
    start = time.perf_counter()
    check_kinds(problem, net)
    ranks, boundary = Ranks(group, net.rows.device), problem.forms[0] if boundary is None else boundary

    settings = {
        "method": method, "boundary": boundary, "points": points, "sampling": sampling, "iterations": iterations,
        "tolerance": tolerance, "ridge": ridge, "damping": damping, "step_cap": step_cap,
        "condition_weight": condition_weight, "refine": refine, "seed": seed,
    }  # fmt: skip

    def opened() -> runs.Store:
        _check_options(settings, max_seconds)
        check_fit(problem, net, boundary)
        store = runs.opened(checkpoint, every_seconds, lambda: runs.content("solve", problem, net, settings))
        check_unstored(ranks, store.on)
        return store

    store = ranks.checked(opened)
    check_same(ranks, "solve", problem, net, settings)
    x, counts = collocation(problem, net, points, sampling, seed, ranks)
    with store, torch.no_grad(), few_threads(net.rows.numel() * ranks.most(len(x))):
        run = _Run(ErrorMeasure(problem, net, boundary, ranks), start, callback, max_seconds, tolerance, store, ranks)
        stage = run.restored(x.device, iterations) or _Stage(0, 0, x, None, dict(problem.unknowns))
        for round in range(stage.round, refine + 1):
            rows = blocks(problem, boundary, counts, stage.x, float(condition_weight), stage.weights, ranks)
            system = System(rows, net, stage.unknowns, ranks)
            method, model = _model(method, problem, system, ridge)
            point = run.recalled(model) or model.start(net.rows.detach().double())
            if not math.isfinite(point.loss):
                raise ValueError(f"the residual of problem {problem.name!r} is not finite at the start")
            last = iterations * (round + 1) // (refine + 1)
            reason = run.follow(stage, model, point, damping, step_cap, last)
            net.rows.copy_(model.rows(run.best))
            guesses = dict(zip(system.names, model.unknowns(run.best).tolist(), strict=True))
            if round == refine or reason in ("interrupted", "time"):
                break
            own = seed + round + (refine + 1) * ranks.rank  # every rank has candidates of its own
            more = partial(refined, problem, net, boundary, guesses, x, max(1, len(x) // 2), own)
            stage = _Stage(round + 1, run.done, *ranks.checked(more), guesses)
        rel_l2, max_error = run.error(net.rows)
    seconds, steps, loss = time.perf_counter() - run.start, run.done, run.best.loss
    found = rel_l2, max_error, seconds, steps, reason, method, guesses
    return Solution(net, problem, boundary, run.history, loss, *found)


def _model(method: str, problem: Problem, system: System, ridge: float):
    """The method, "auto" decided, and the model it descends in."""
    if method in ("auto", "varpro"):
        linear = not problem.unknowns and (system.is_linear() if problem.linear is None else problem.linear)
        if method == "varpro" and not linear:
            advice = "which 'varpro' cannot do; use method='gauss-newton'"
            raise ValueError(f"problem {problem.name!r} is nonlinear in u or its unknowns, {advice}")
        method = "varpro" if linear else "gauss-newton"
    models = {"varpro": Separable, "gauss-newton": Projected, "lm": Joint}
    return method, models[method](system, ridge)


def _check_options(o: dict[str, Any], max_seconds: float | None) -> None:
    if o["method"] not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {o['method']!r}")
    for name in ("iterations", "refine", "seed"):
        if not isinstance(o[name], int) or isinstance(o[name], bool) or o[name] < 0:
            raise ValueError(f"{name} must be an integer of at least 0, got {o[name]!r}")
    not_negative = {name: o[name] for name in ("tolerance", "ridge")}
    positive = {name: o[name] for name in ("damping", "step_cap", "condition_weight")}
    positive |= {} if max_seconds is None else {"max_seconds": max_seconds}
    for name, value in (not_negative | positive).items():
        if not isinstance(value, (int, float)) or not 0 <= value < math.inf or (name in positive and value == 0):
            raise ValueError(f"{name} must be {'positive' if name in positive else 'at least 0'}, got {value!r}")


@dataclass(frozen=True)
class _Stage:
    """A round of refinement: its number, the iterations before it, its points, their weights, first unknowns."""

    round: int
    first: int
    x: Tensor
    weights: Tensor | None
    unknowns: dict[str, float]


class _Run:
    """Follows a sequence of accepted points, keeps the best and the history, and says why it ended."""

    def __init__(
        self, error: ErrorMeasure, start: float, callback, max_seconds, tolerance: float, store: runs.Store,
        ranks: Ranks,
    ):  # fmt: skip
        self.error, self.start, self.callback, self.ranks = error, start, callback, ranks
        self.limit = math.inf if max_seconds is None else start + max_seconds
        self.tolerance, self.store = tolerance, store
        self.history: list[dict[str, Any]] = []
        self.memory: dict[str, Any] | None = None

    @property
    def done(self) -> int:
        """Accepted steps."""
        return max(0, len(self.history) - 1)

    def follow(self, stage: _Stage, model, point, damping: float, step_cap: float, last: int) -> str:
        """Descend from ``point`` to iteration ``last`` at most; says why it ended."""
        self.stage, self.model, self.best = stage, model, point
        try:
            with interrupts_shared(self.ranks) as self._release:
                if not self.history:
                    self._record(0, last == 0)
                steps = descend(model, point, damping, step_cap)
                while (reason := self._over(last)) is None:
                    point = next(steps, None)
                    if point is None:
                        return "no further decrease"
                    self.best = point
                    self._record(self.done + 1, self.done + 1 == last)
        except KeyboardInterrupt:
            return "interrupted"
        return reason

    def _over(self, last: int) -> str | None:
        loss = self.best.loss
        if self.done - self.stage.first >= _PATIENCE:
            earlier = self.history[-1 - _PATIENCE]["loss"]
            if earlier - loss <= self.tolerance * earlier:
                return "converged"
        if self.done >= last:
            return "iterations"
        if loss <= _FLOOR * self.model.reference_loss:
            return "loss floor"
        return "time" if self.ranks.agreed_flag(time.perf_counter() >= self.limit) else None

    def _record(self, iteration: int, last: bool) -> None:
        rel_l2 = None
        if iteration % _MEASURE_EVERY == 0 or last:
            rel_l2, _ = self.error(self.model.rows(self.best))
        net = functools.partial(_net_at, self.error.net, self.model, self.best)
        progress = Progress(iteration, time.perf_counter() - self.start, self.best.loss, rel_l2, net)
        entry = {"iteration": iteration, "seconds": progress.seconds, "loss": progress.loss}
        self.history.append(entry if rel_l2 is None else entry | {"rel_l2": rel_l2})
        if self.store.on:
            state = self._state(progress.seconds)
            self.store.keep(lambda: state)
        self.ranks.checked(lambda: self._tell(progress))

    def _tell(self, progress: Progress) -> None:
        self._release()
        if self.callback is not None:
            self.callback(progress)

    # --- its state -----------------------------------------------------------------------------

    def _state(self, seconds: float) -> dict[str, Any]:
        """Nothing in it will be changed in place."""
        return {
            "stage": vars(self.stage),
            "point": self.model.memory(self.best),
            "history": list(self.history),
            "seconds": seconds,
            "random": runs.random_state(self.best.x.device),
        }

    def restored(self, device: torch.device, iterations: int) -> _Stage | None:
        """Take up the state of the store, if it has one; gives its round of refinement."""
        with self.store.reading() as state:
            if state is None:
                return None
            self.history, self.memory = list(state["history"]), state
            self.start -= float(state["seconds"])
            s = state["stage"]
            weights = None if s["weights"] is None else s["weights"].to(device)
            stage = _Stage(int(s["round"]), int(s["first"]), s["x"].to(device), weights, dict(s["unknowns"]))
        if iterations < self.done:
            raise ValueError(f"iterations must be at least {self.done}, which are done, got {iterations}")
        return stage

    def recalled(self, model):
        """The point that the state of the store is at, once; None if there is none."""
        state, self.memory = self.memory, None
        if state is None:
            return None
        with self.store.reading():
            device = model.system.guesses.device
            point = model.recalled({k: v.to(device) if isinstance(v, Tensor) else v for k, v in state["point"].items()})
            runs.set_random_state(state["random"], device)
        return point


@torch.no_grad()
def _net_at(net: BumpNet, model, point) -> BumpNet:
    return BumpNet.from_rows(model.rows(point).to(net.rows), net.frame, net.domain, net.tied)


class ErrorMeasure:
    """Relative L2 and maximum error of the rows of a net on a lattice over the domain, or None and None."""

    def __init__(self, problem: Problem, net: BumpNet, boundary: str, ranks: Ranks = ALONE):
        x = lattice(problem.domain)
        x = x[problem.inside(x)].to(net.rows.device)
        exact = problem.reference(x)
        self.exact = None if exact is None else exact.reshape(len(x), -1)
        self.compose = problem.compose(x, "value") if boundary == "hard" else None
        self.shifts = problem.shifts() if boundary == "hard" else [(0.0,) * net.layout.dim]
        self.x, self.net, self.ranks = x, net, ranks

    def __call__(self, rows: Tensor) -> tuple[float | None, float | None]:
        if self.exact is None:
            return None, None
        rows, net, jets = rows.to(self.net.rows), self.net, []
        for shift in self.shifts:
            x = (self.x + self.x.new_tensor(shift)).to(rows)
            jets.append(bump_jet(x, rows, net.frame, "value", tied=net.tied).map(Tensor.double))
        difference = (self.compose(*jets) if self.compose else jets[0]).value - self.exact
        size = float(torch.linalg.vector_norm(self.exact)) or 1.0
        found = float(torch.linalg.vector_norm(difference)) / size, float(difference.abs().max())
        return tuple(self.ranks.agreed(difference.new_tensor(found)).tolist())
