"""Bump-EDNN: evolution problems by bumps whose shapes stay and whose amplitudes move.

The start is fitted once, the basis is factorised once, and u_t = rhs becomes an ordinary differential
equation for the amplitudes; how it is integrated is chosen by its linearity and stiffness.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...layer import BumpNet
from ...problems.evolution.base import EvolutionProblem
from ...problems.sampling import lattice
from ...rows import bounded_atanh
from .. import runs
from ..checks import check_net
from ..grad_mode import differentiating
from ..threads import few_threads
from .basis import Space, quadrature, uniform_net
from .integrators import StepTooSmall
from .method import METHODS, RK4_STABLE, marcher, spectral_radius
from .models import Frozen, Moving, Report, fitted_shapes
from .result import ROUNDING, Evolution, EvolutionProgress

SHAPES = ("frozen", "evolve")
INITIAL_SHAPES = ("uniform", "fit")

#: Default tolerances in time: moving shapes are costly, and their accuracy is limited by other things.
_TOLERANCE, _TOLERANCE_MOVING = 1e-8, 1e-3
#: Bumps whose shapes change may become so much wider before their images no longer add up to rounding.
_SLACK = 1.5
#: How far beyond the growth that its problem allows a solution may grow.
_MARGIN = 1.5
#: A fit of the start, or a part of u_t not followed, beyond this earns a warning.
_POOR_FIT, _POOR_RESIDUAL = 1e-2, 0.3
#: Points of the lattice on which the error is followed.
_FEW = 1024
#: Applications of the pseudo-inverse that are timed, to take the fastest.
_TIMED = 50


@differentiating
def evolve(
    problem: EvolutionProblem,
    net: BumpNet | int | tuple[int, ...] | None = None,
    *,
    method: str = "auto",
    step: float | None = None,
    tolerance: float | None = None,
    times: int | Sequence[float] = 50,
    points: int | tuple[int, ...] | Tensor | None = None,
    shapes: str = "frozen",
    initial_shapes: str | None = None,
    ridge: float = 1e-8,
    max_seconds: float | None = None,
    measure: bool = True,
    checkpoint: str | os.PathLike | None = None,
    every_seconds: float = runs.EVERY,
    callback: Callable[[EvolutionProgress], Any] | None = None,
) -> Evolution:
    """Evolve a problem from its start.

    Ctrl-C, or a callback that raises KeyboardInterrupt, ends it early, and so does a solution that is not
    finite or grows beyond what the problem allows (``stop_reason`` "unstable"): the states up to the last good
    time are returned.

    Parameters
    ----------
    problem : EvolutionProblem
        What to solve.
    net : BumpNet, int or tuple of int, optional
        The bumps, whose shapes are the basis and which are not changed; or how many, for
        :func:`uniform_net`.  Bumps must not be rotated if an axis is periodic.
    method : str
        "auto" chooses by linearity and stiffness; "expm" is exact, for linear problems constant in time; "cn",
        Crank-Nicolson, for linear ones; "rk4" and "dop853" are explicit; "etdrk4" is for a stiff linear part;
        "radau" and "bdf" are implicit; any other is one of torchdiffeq by its name, such as "dopri5", where
        that is installed.
    step : float, optional
        Length of steps; chosen by the tolerance if left out.  "expm" needs none; for "dop853", "radau" and "bdf"
        it is the longest; of torchdiffeq, methods of fixed steps take it.
    tolerance : float, optional
        Error in time that is allowed, relative to the size of u: by default 1e-8, and 1e-3 for moving shapes.
    times : int or sequence of float
        Where the states are kept, beside 0: so many equal intervals up to the problem's final time, or these times.
    points : int, tuple of int, or Tensor, optional
        Collocation points, see :func:`~bumpnet_fast.solvers.evolution.basis.quadrature`.
    shapes : str
        "frozen", or "evolve": all parameters move, at a far higher cost ("rk4" and torchdiffeq only).
    initial_shapes : str, optional
        "uniform" takes the net as it is, the default for frozen shapes; "fit" first trains the shapes on the
        start, the default for moving ones.  For frozen ones it is a trap unless the solution keeps its form.
    ridge : float
        Of the least squares for moving shapes: weight of the squares of their scaled rates.
    max_seconds : float, optional
        Stop after this time; what lies beyond the last of the times reached is lost.
    measure : bool
        Whether to compute the reference, if there is no exact solution, to measure the error at the end.
    checkpoint : str or path, optional
        File for the state of the run, see :func:`bumpnet_fast.checkpoint.resume`; it is that at one of the times.
    every_seconds : float
        Write it no more often than this, and at the end, however that comes.
    callback : callable, optional
        Called with an :class:`EvolutionProgress` at every time of the output.

    Returns
    -------
    Evolution

    Raises
    ------
    ValueError
        Before any computing, if an argument is out of range, net and problem do not fit, or the method does not
        serve the problem; also if the start or its right-hand side is not finite.
    TypeError
        If ``problem`` is no evolution problem.
    ModuleNotFoundError
        If the method is torchdiffeq's, and that is not installed.

    Notes
    -----
    Evolutional networks: Du and Zaki, arXiv:2104.14320; with bumps, arXiv:2512.17198.  All computing is in float64
    whatever the net's dtype.  docs/evolution.md says what was measured.

    Examples
    --------
    >>> from bumpnet_fast.problems.evolution import Heat
    >>> run = evolve(Heat(), 20)
    >>> run.method, run.stop_reason, run.rel_l2 < 1e-6
    ('expm', 'finished', True)
    >>> run.predict(torch.zeros(3, 1), 0.25).shape
    torch.Size([3, 1])
    """
    start = time.perf_counter()
    if not isinstance(problem, EvolutionProblem):
        raise TypeError(f"problem must be an EvolutionProblem, got {type(problem).__name__}")
    initial_shapes = initial_shapes or ("uniform" if shapes == "frozen" else "fit")
    _check_options(method, step, tolerance, shapes, initial_shapes, ridge, max_seconds)
    ends = _times(times, problem.final_time)
    net = net if isinstance(net, BumpNet) else uniform_net(problem, net)
    check_net(problem, net)
    x, weights = quadrature(problem, net, points)
    settings = {
        "method": method, "step": step, "tolerance": tolerance, "times": ends, "points": points, "shapes": shapes,
        "initial_shapes": initial_shapes, "ridge": ridge, "measure": measure,
    }  # fmt: skip
    store = runs.opened(checkpoint, every_seconds, lambda: runs.content("evolve", problem, net, settings))
    with store, torch.no_grad(), few_threads(len(x) * len(net.rows)):
        net = net if shapes == "frozen" else _roomy(problem, net)
        space = Space.of(problem, net, slack=1.0 if (shapes, initial_shapes) == ("frozen", "uniform") else _SLACK)
        with store.reading() as state:
            rows = net.rows.detach().double() if state is None else state["rows"].to(x)
        if initial_shapes == "fit" and state is None:
            rows = fitted_shapes(space, rows, x, weights)
        model = (Frozen if shapes == "frozen" else Moving)(space, rows, x, weights, ridge)
        if not bool(torch.isfinite(model.slope(0.0, model.state)).all()):
            raise ValueError(f"the right-hand side of problem {problem.name!r} is not finite at the start")
        tolerance = tolerance or (_TOLERANCE if shapes == "frozen" else _TOLERANCE_MOVING)
        march, name = marcher(model, method, step, tolerance, ends[-1])
        run = _Run(model, march, name, start, callback, max_seconds, store)
        reason = run.follow(ends)
        return run.result(net, reason, measure)


def _check_options(method, step, tolerance, shapes, initial_shapes, ridge, max_seconds):
    for name, value, choices in (("shapes", shapes, SHAPES), ("initial_shapes", initial_shapes, INITIAL_SHAPES)):
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    if not isinstance(method, str):
        raise ValueError(f"method must be one of {', '.join(METHODS)}, or of torchdiffeq, got {method!r}")
    positive = {"step": step, "tolerance": tolerance, "ridge": ridge, "max_seconds": max_seconds}
    for name, value in positive.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not (number and 0 < value < math.inf) and (value is not None or name == "ridge"):
            raise ValueError(f"{name} must be positive, got {value!r}")


def _times(times: int | Sequence[float], final: float) -> list[float]:
    if isinstance(times, int) and not isinstance(times, bool):
        if times < 1:
            raise ValueError(f"times must be at least 1, or ascending and above 0, got {times!r}")
        return [*(final * i / times for i in range(1, times)), final]  # final * times / times may miss it by rounding
    try:
        ends = [float(t) for t in times]
    except (TypeError, ValueError):
        raise ValueError(f"times must be an integer, or ascending numbers above 0, got {times!r}") from None
    ends = ends[1:] if ends[:1] == [0.0] else ends
    if ends and abs(ends[-1] - final) <= ROUNDING * math.ulp(final):
        ends[-1] = final
    if not ends or not all(a < b < math.inf for a, b in zip([0.0, *ends], ends, strict=False)):
        raise ValueError(f"times must be an integer, or ascending numbers above 0, got {times!r}")
    return ends


def _roomy(problem: EvolutionProblem, net: BumpNet) -> BumpNet:
    """The same bumps in a box a period larger on either side along periodic axes, for centres that move around."""
    domain, frame, rows = problem.domain.to(net.frame), net.frame.clone(), net.rows.detach().clone()
    centres = net.centres.detach()
    for j in problem.periodic_axes:
        width = domain[1, j] - domain[0, j]
        frame[0, j], frame[1, j] = domain[0, j] - width, domain[1, j] + width
        rows[:, j] = bounded_atanh((2 * centres[:, j] - frame[0, j] - frame[1, j]) / (frame[1, j] - frame[0, j]))
    return BumpNet.from_rows(rows, frame, net.domain, net.tied)


class _Unstable(ArithmeticError):
    """The solution left the bounds of its problem at the time that is its argument."""


class _OutOfTime(Exception):
    """The time that was given is over."""


class _Run:
    """Follows an evolution from one time of the output to the next, keeps the states, and says why it ended."""

    def __init__(
        self, model: Frozen | Moving, march, method: str, start: float, callback, max_seconds, store: runs.Store
    ):
        self.model, self.march, self.method, self.store = model, march, method, store
        self.callback = callback
        problem = model.problem
        size = model.size
        self.limit = _MARGIN * problem.growth * size if size > 0 else math.inf
        self.times: list[float] = []
        self.reports: list[Report] = []
        self.history: list[dict[str, Any]] = []
        self.few, self.few_basis = lattice(problem.domain, _FEW).to(model.x), None
        self.warnings: list[str] = []
        self.solve_seconds = self._time_a_solve()
        self.setup_seconds, self.seconds = time.perf_counter() - start, 0.0
        self.state = model.state
        with store.reading() as state:
            if state is not None:
                self._restore(state)
        self.limit_seconds = math.inf if max_seconds is None else self.seconds + max_seconds

    def _time_a_solve(self) -> float:
        values = torch.ones(len(self.model.x), self.model.layout.outputs).to(self.model.x)
        number = _TIMED if isinstance(self.model, Frozen) else 1
        seconds = []
        for _ in range(number):
            start = time.perf_counter()
            self.model.solve(values)
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    def follow(self, ends: list[float]) -> str:
        t, y = self.times[-1] if self.times else 0.0, self.state
        try:
            if not self.times:
                self._record(t, y)
            for until in ends[len(self.times) - 1 :]:
                y = self._advance(t, y, until)
                t = until
                self._record(t, y)
        except KeyboardInterrupt:
            return "interrupted"
        except _OutOfTime:
            return "time"
        except _Unstable as trouble:
            return self._give_up(float(trouble.args[0]), "it left the bounds that its problem sets")
        except StepTooSmall:
            return self._give_up(t, "no step is small enough to go on")
        return "finished"

    def _advance(self, t: float, y: Tensor, until: float) -> Tensor:
        self.began = time.perf_counter()
        try:
            return self.march.advance(t, y, until, self._watch)
        finally:
            self.seconds += time.perf_counter() - self.began

    def _watch(self, t: float, y: Tensor) -> None:
        if self.seconds + time.perf_counter() - self.began > self.limit_seconds:
            raise _OutOfTime
        if not self.model.norm(y) <= self.limit:  # a NaN is not, either
            raise _Unstable(t)

    def _give_up(self, t: float, what: str) -> str:
        advice = "more bumps or points, a smaller tolerance or another method may help"
        if self.method == "rk4" and self.march.step and isinstance(self.model, Frozen):
            radius = spectral_radius(self.model.jacobian(0.0, self.model.state))
            if self.march.step * radius > RK4_STABLE:
                advice = f"steps of 'rk4' can be {RK4_STABLE / radius:.2g} at most, or leave step out"
        advice += f"; if u does grow by more than {self.model.problem.growth:g}, set growth of the problem"
        self.warnings.append(f"unstable at t = {t:.4g}: {what}; {advice}")
        return "unstable"

    def _record(self, t: float, y: Tensor) -> None:
        report = self.model.report(t, y)
        if not math.isfinite(report.norm + report.speed + report.defect):
            raise _Unstable(t)
        self.times.append(t)
        self.reports.append(report)
        entry = {
            "time": t,
            "seconds": self.seconds,
            "norm": report.norm,
            "residual": report.defect / report.speed if report.speed else 0.0,
        }
        exact = self.model.problem.exact(self.few, t)
        if exact is not None:
            entry["rel_l2"] = _compare(self._few_values(report.rows), exact)[0]
        self.history.append(entry)
        if self.store.on:
            state = self._stored(y)
            self.store.keep(lambda: state)
        if self.callback is not None:
            progress = (entry["residual"], entry.get("rel_l2"))
            final = self.model.problem.final_time
            self.callback(EvolutionProgress(t, final, self.seconds, self.march.steps, *progress))

    def _stored(self, y: Tensor) -> dict[str, Any]:
        """The state at the last of the times, in which nothing will be changed in place."""
        return {
            "rows": self.model.start_rows,
            "y": y,
            "march": self.march.state_dict(),
            "times": list(self.times),
            "reports": [vars(report) for report in self.reports],
            "history": list(self.history),
            "stages": self.model.stages,
            "seconds": [self.setup_seconds, self.solve_seconds, self.seconds],
            "random": runs.random_state(y.device),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        like = self.model.state
        self.state, self.times = state["y"].to(like), [float(t) for t in state["times"]]
        self.history = list(state["history"])
        tensors = ("rows", "rates")
        reports = [report | {name: report[name].to(like) for name in tensors} for report in state["reports"]]
        self.reports = [Report(**report) for report in reports]
        self.march.load_state_dict(state["march"], self.times[-1], self.state)
        if not len(self.times) == len(self.reports) == len(self.history) or self.state.shape != like.shape:
            raise ValueError("times, states and history do not fit together")
        self.model.stages = int(state["stages"])
        self.setup_seconds, self.solve_seconds, self.seconds = map(float, state["seconds"])
        runs.set_random_state(state["random"], like.device)

    def _few_values(self, rows: Tensor) -> Tensor:
        """u [n, K] on the lattice where the error is followed; frozen bumps are evaluated there once."""
        space, layout = self.model.space, self.model.layout
        if not isinstance(self.model, Frozen):
            return space.jet(self.few, rows, "value").value
        if self.few_basis is None:
            self.few_basis = space.basis(self.few, rows, "value").value, space.lift(self.few, "value").value
        return self.few_basis[0] @ rows[:, layout.amplitude] + self.few_basis[1]

    def result(self, net: BumpNet, reason: str, measure: bool) -> Evolution:
        model, problem, last = self.model, self.model.problem, self.times[-1]
        x = lattice(problem.domain).to(model.x)
        known = problem.reference(x, last) if measure else problem.exact(x, last)
        rel_l2, max_error = (
            (None, None) if known is None else _compare(model.space.jet(x, self.reports[-1].rows, "value").value, known)
        )
        if model.fit_error > _POOR_FIT:
            self.warnings.append(f"the bumps fit the start to {model.fit_error:.1g} only: use more")
        slow = 1 / problem.final_time  # a motion that changes nothing by the end may be as wrong as it likes
        worst = max(r.defect / (max(r.speed, slow * r.norm) or 1.0) for r in self.reports)
        if worst > _POOR_RESIDUAL:
            self.warnings.append(f"the bumps cannot follow u_t (they miss up to {worst:.0%} of it): use more")
        return Evolution(
            problem, net, torch.tensor(self.times, dtype=torch.float64),
            torch.stack([r.rows for r in self.reports]), torch.stack([r.rates for r in self.reports]),
            self.history, model.space, model.fit_error, rel_l2, max_error, self.setup_seconds, self.seconds,
            self.march.steps, model.stages, self.solve_seconds, self.method,
            "frozen" if isinstance(model, Frozen) else "evolve", reason, self.warnings,
        )  # fmt: skip


def _compare(values: Tensor, known: Tensor) -> tuple[float, float]:
    """Relative L2 and maximum error of values [n, K]."""
    known = known.reshape(len(values), -1)
    size = float(torch.linalg.vector_norm(known)) or 1.0
    return float(torch.linalg.vector_norm(values - known)) / size, float((values - known).abs().max())


__all__ = ["INITIAL_SHAPES", "METHODS", "SHAPES", "Evolution", "EvolutionProgress", "evolve"]
