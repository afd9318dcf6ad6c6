"""Time-marching: one net per window of time; each window starts from the end of the one before.

Over a long time the least-squares loss is nearly flat in some directions: a solution that fades away is one of them.
Over a short window it is not.  A window starts with the shapes of the one before.
"""

from __future__ import annotations

import copy
import functools
import itertools
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from ..core.jet import Jet
from ..core.ranks import Ranks
from ..core.rows import RowLayout, bounded_atanh, check_memory
from ..core.types import Boundary, Want
from ..nets.bumpnet import BumpNet
from ..nets.events import Event
from ..problems.base import Condition, Problem
from . import run_state
from .arguments import check, check_fit, check_problem, integer, number, positive
from .enriched import check_enrich, enriched
from .estimate import Places, Stage
from .given_values import contradictions, enforcement
from .grad_mode import differentiating
from .journal import Journal
from .loop import Callback, Progress, Stop, StopReason
from .placement import drop_outside, grade
from .refine import held_out_loss
from .solution import ErrorMeasure, FieldResult, Solution
from .starting import Start, check_start
from .stationary import as_settings, new_net, solve
from .task import Task

#: A window is solved again, from another start, if its loss is this many times that of the window before.
_BAD_LOSS = 4.0
#: Number of points for that loss; they are not trained on.
_HELD_OUT = 20_000
#: Ends of a window that are the end of the march, too.
_BAD_ENDS = (StopReason.DIVERGED, StopReason.STALLED)

#: Arguments of :func:`march` beside the options of a solve.
_RULES = {
    "windows": integer(1),
    "graded": number(0, 1, open="high"),
    "perturb": number(),
    "max_seconds": positive(optional=True),
    "seed": integer(),
}

#: Initial state of a window: the jet of the solution before it, at given points.
State = Callable[[Tensor, str], Jet]


def window(problem: Problem, start: float, stop: float, state: State | None = None) -> Problem:
    """``problem`` between two times, started from ``state``; if None, from its own initial values.

    Raises
    ------
    ValueError
        If the problem has no axis of time, or needs more than initial values.
    """
    axis = problem.time
    lower = tuple(start if j == axis else a for j, a in enumerate(problem.lower))
    upper = tuple(stop if j == axis else b for j, b in enumerate(problem.upper))
    settings = {f.name: getattr(problem, f.name) for f in fields(problem)} | {"lower": lower, "upper": upper}
    return (type(problem) if state is None else _continued(type(problem), state))(**settings)


def _continued(kind: type[Problem], state: State) -> type[Problem]:
    """A class of problems that start from ``state``."""

    class Window(kind):
        continues = True

        def compose(self, x: Tensor, want: str) -> Callable[[Jet], Jet]:
            now = _at_time(x, self.time, self.lower[self.time])
            before = _frozen(state(now, "diagonal" if want == "laplacian" else want), self.time, want)
            distance, change = (self.jet_of(f, x, want) for f in (self.distance, self._change_at_sides))
            wrap = self.wrap(x, want)
            return lambda *v: distance * wrap(*v) + change + before

        def _change_at_sides(self, x: Tensor) -> Tensor:
            """Change of the boundary values at the sides since the start, extended inwards."""
            if all(axis == self.time for axis, _ in self.faces):
                return torch.zeros_like(x[:, 0])
            return self.lift(x) - self.lift(_at_time(x, self.time, self.lower[self.time]))

        def _start_values(self, x: Tensor) -> Tensor:
            return state(x, "value").value

        def conditions(self) -> list[Condition]:
            def started(x: Tensor, u: Jet) -> Tensor:
                return u.value - state(x, "value").value

            return [replace(c, residual=started) if c.name == "initial" else c for c in super().conditions()]

    return Window


def _at_time(x: Tensor, axis: int, now: float) -> Tensor:
    columns = list(x.unbind(1))
    columns[axis] = torch.full_like(columns[axis], now)
    return torch.stack(columns, 1)


def _frozen(jet: Jet, axis: int, want: Want) -> Jet:
    """Jet of a function constant along ``axis``, from the jet of a function with the same values here."""
    gradient, second = jet.gradient, jet.second
    if gradient is not None:
        keep = torch.ones_like(gradient[0, 0])
        keep[axis] = 0
        gradient = gradient * keep
        if second is not None:
            second = second * (keep[:, None] * keep if jet.want == "hessian" else keep)
    return Jet(want, jet.value, gradient, second.sum(-1) if want == "laplacian" else second)


@dataclass(frozen=True)
class Part:
    """The solution in one window."""

    problem: Problem
    net: BumpNet
    boundary: Boundary
    places: Places | None = field(default=None, repr=False, compare=False)

    def jet(self, x: Tensor, want: Want = "hessian") -> Jet:
        """Jet at the points ``x`` [N, d]."""
        return self.problem.extend(lambda x: self.net.jet(x, want=want), x, want, self.boundary)


def _end(before: Part | Solution) -> State:
    """Initial state of the next window, at points of any dtype."""
    return lambda x, want: before.jet(x.to(before.net.rows), want).map(lambda part: part.to(x))


def chain(problem: Problem, nets: Sequence[BumpNet], boundary: Boundary) -> list[Part]:
    """The parts of a solution from the nets of its windows, which have equal lengths."""
    parts: list[Part] = []
    for net, (start, stop) in zip(nets, itertools.pairwise(_edges(problem, len(nets))), strict=True):
        part = window(problem, start, stop, _end(parts[-1]) if parts else None)
        parts.append(Part(part, net, boundary))
    return parts


def chained_jet(parts: Sequence[Part], x: Tensor, want: Want) -> Jet:
    """Jet at ``x`` [N, d] of a solution in parts; on a seam, that of the earlier part."""
    axis = parts[0].problem.time
    ends = torch.tensor([part.problem.upper[axis] for part in parts[:-1]], dtype=torch.float64, device=x.device)
    which = torch.bucketize(x[:, axis].detach().double().contiguous(), ends)
    order = torch.argsort(which, stable=True)
    counts = torch.bincount(which, minlength=len(parts)).tolist()
    pieces = [part.jet(xs, want) for part, xs in zip(parts, x[order].split(counts), strict=True) if len(xs)]
    columns, back = zip(*(piece.parts() for piece in pieces), strict=True), torch.argsort(order)
    return Jet(want, *(None if column[0] is None else torch.cat(column)[back] for column in columns))


def _edges(problem: Problem, windows: int) -> Iterator[float]:
    first, last = problem.lower[problem.time], problem.upper[problem.time]
    yield from (first + (last - first) * k / windows for k in range(windows))
    yield last


@dataclass(kw_only=True)
class March(FieldResult):
    """A solution in windows of time; has everything that a :class:`~bumpnet_fast.solvers.Solution` has.

    Attributes
    ----------
    net : BumpNet
        All bumps of all windows in one net, for counting and drawing.  Do not evaluate it.
    problem : Problem
        What was solved; its time ends where the march ended.
    parts : list of Part
        The windows, in order.
    history : list of dict
        As of one solution, with ``window``; iterations count on, and errors are those within the window.
    loss : float
        Largest loss of the windows.
    rel_l2, max_error : float or None
        Over the whole time.
    """

    net: BumpNet = None
    parts: list[Part] = field(repr=False)

    def __post_init__(self):
        super().__post_init__()
        self.net = _joined(self.problem, [part.net for part in self.parts])

    def stages(self) -> list[Stage]:
        stages, axis = [], self.problem.time
        for part in self.parts:
            times = part.problem.lower[axis], part.problem.upper[axis]
            continued = functools.partial(window, self.problem, *times) if stages else None
            stages.append(Stage(part.problem, part.net, part.boundary, {}, part.places, continued))
        return stages

    @property
    def like(self) -> Tensor:
        return self.parts[0].net.rows

    @property
    def nets(self) -> list[BumpNet]:
        return [part.net for part in self.parts]

    def jet(self, x: Tensor, want: Want = "hessian") -> Jet:
        """Jet of the solution at the points ``x`` [N, d]."""
        return self._over_time(self.parts, x, want)

    def _over_time(self, parts: Sequence[Any], x: Tensor, want: Want) -> Jet:
        return chained_jet(parts, x, want)


def _joined(problem: Problem, nets: Sequence[BumpNet]) -> BumpNet:
    """All bumps of the windows in one net."""
    first, axis = nets[0], problem.time
    frame = first.frame.clone()
    frame[1, axis] = nets[-1].frame[1, axis]
    rows = torch.cat([net.rows.detach() for net in nets])
    centres = torch.cat([net.centres.detach()[:, axis] for net in nets])
    unit = (2 * centres - frame[0, axis] - frame[1, axis]) / (frame[1, axis] - frame[0, axis])
    rows[:, axis] = bounded_atanh(unit)  # a centre may have reached the end of its box
    return BumpNet.from_rows(rows, frame, problem.domain, first.tied)


@differentiating
def march(
    problem: Problem,
    bumps: int | tuple[int, ...] | None = None,
    *,
    windows: int = 10,
    net: Mapping[str, Any] | None = None,
    graded: float = 0.0,
    perturb: float = 0.0,
    stop: Stop | None = None,
    max_seconds: float | None = None,
    seed: int = 0,
    start: Start | None = None,
    enrich: bool | int = False,
    checkpoint: str | os.PathLike | None = None,
    every_seconds: float = run_state.EVERY,
    callbacks: Iterable[Callback] = (),
    callback: Callback | None = None,
    **options: Any,
) -> March:
    """Solve a problem in time, window by window.

    Parameters
    ----------
    problem : Problem
        Must have an axis of time and be of first order in it.
    bumps : int or tuple of int, optional
        Bumps per window; by default the problem's.
    windows : int
        Number of windows of equal length.  About half a period of the fastest wave is a good length.
    net : mapping, optional
        Further arguments of :class:`~bumpnet_fast.nets.bumpnet.BumpNet`.
    graded : float
        Share of the bumps, less than 1, placed where the initial state of the window is steep: for layers and shocks.
        With 0 the bumps start with the shapes of the window before.
    perturb : float
        Standard deviation of a random change of new initial shapes, applied before grading.
    stop : Stop, optional
        Limits on the iterations of every window, and on the total time.
    max_seconds : float, optional
        Shorthand for ``stop=Stop(seconds=...)``.
    seed : int
        Seed of everything random.
    start : callable or Solution, optional
        A first u of the first window, as for :func:`~bumpnet_fast.solvers.solve`.  A checkpoint cannot hold it; the
        problem's :meth:`~bumpnet_fast.problems.Problem.guess` goes with the problem.
    enrich : bool or int
        As for :func:`~bumpnet_fast.solvers.solve`, for every window.  The next one starts from the better u, with the
        shapes of the trained bumps alone.
    checkpoint, every_seconds
        As for :func:`~bumpnet_fast.solvers.solve`; a finished window is never solved again.
    callbacks, callback
        As for :func:`~bumpnet_fast.solvers.solve`; iterations count on from window to window.
    options
        Further arguments of :func:`~bumpnet_fast.solvers.solve`, for every window.

    Returns
    -------
    March

    Raises
    ------
    ValueError
        Before any computing, if the problem cannot be marched or an argument is out of range.

    Examples
    --------
    >>> from bumpnet_fast import problems
    >>> solution = march(problems.get("advection", nu=3), (4, 4), windows=2, iterations=20)
    >>> solution.rel_l2 < 1e-2, solution.predict(torch.zeros(5, 2, dtype=torch.float64)).shape
    (True, torch.Size([5, 1]))
    """
    began = time.perf_counter()
    if stop is not None:
        if max_seconds is not None or "iterations" in options:
            raise TypeError("iterations and max_seconds must go into stop, which is given as well")
        options |= {} if stop.iterations is None else {"iterations": stop.iterations}
        max_seconds = stop.seconds
    given = {"windows": windows, "graded": graded, "perturb": perturb, "max_seconds": max_seconds, "seed": seed}
    _check_march(problem, given, options)
    several = Ranks(options.get("group"), torch.device("cpu")).count > 1 if enrich else False
    check_enrich(enrich, "a group of several ranks" if several else None)
    check_start(problem, start)
    if start is not None and checkpoint is not None:
        raise ValueError("start cannot be kept in the checkpoint of a march: define guess(x) of the problem instead")
    if (net or {}).get("maps") is not None:
        raise ValueError("net must have no maps for a march: its windows have nets that are joined")
    boundary = enforcement(problem, options.get("boundary"), contradictions(problem))
    if boundary != problem.forms[0]:  # alike in all windows, although only the first one may have contradictions
        options["boundary"] = boundary
    bumps, net = bumps or problem.default_bumps, {"dtype": "float64"} | dict(net or {})
    settings = as_settings(options) | {"bumps": bumps, "windows": windows, "net": net, "graded": graded}
    settings |= {"perturb": perturb, "seed": seed} | ({"enrich": enrich} if enrich else {})
    counts = bumps if isinstance(bumps, (tuple, list)) else (bumps,)
    check_memory("windows", windows, (windows, *counts), RowLayout(len(problem.lower), problem.outputs).columns)
    store = run_state.opened(checkpoint, every_seconds, lambda: run_state.content("march", problem, None, settings))
    _check_later(problem, new_net(problem, bumps, **net), options)
    solutions: list[Solution] = []
    trained: Solution | None = None
    worst = math.inf
    with store:
        log = _Log(Journal(solve, store, began), windows, (*callbacks, *([] if callback is None else [callback])))
        for k, (begin, end) in enumerate(itertools.pairwise(_edges(problem, windows))):
            part = window(problem, begin, end, _end(solutions[-1]) if solutions else None)
            fresh = new_net(part, bumps, **net)
            regular = _placed(copy.deepcopy(fresh), part, graded)
            if perturb:  # before grading: relative to the spacing, which is small where the solution is steep
                fresh.perturb_(perturb, torch.Generator().manual_seed(seed))
            fresh = _placed(fresh, part, graded)
            now, log.window = dict(options, seed=seed, callback=log, start=None if solutions else start), k
            if max_seconds is not None:
                now["max_seconds"] = max(1e-9, max_seconds + began - time.perf_counter()) / (windows - k)
            warm = trained and BumpNet.from_rows(trained.net.rows, fresh.frame, part.domain, fresh.tied)
            if trained is None:
                starts = [fresh]
            elif graded:
                starts = [fresh, regular, warm] if perturb else [fresh, warm]
            else:
                starts = [warm, fresh]
            try:
                solution, loss = _window_solution(log.journal, part, starts, worst, now)
            except KeyboardInterrupt:  # before anything of this window exists
                if not solutions:
                    raise
                solutions[-1] = replace(solutions[-1], stop=StopReason.INTERRUPTED)
                break
            trained = solution  # with whose shapes alone the next starts
            better = enriched(solution, enrich, seed)
            log.journal.processor_seconds += better.processor_seconds - solution.processor_seconds
            solutions.append(better)
            worst = _BAD_LOSS * loss
            log.add(k, solutions[-1])
            if solutions[-1].stop is StopReason.INTERRUPTED:
                break
    return _marched(problem, solutions, log)


def _check_march(problem: Problem, values: dict[str, Any], options: dict[str, Any]) -> None:
    check_problem(problem)
    name = problem.name or type(problem).__name__
    if problem.time is None or problem.time_order != 1:
        wanted = "time: it must declare an axis `time`, in which it is of first order"
        raise ValueError(f"problem {name!r} cannot be marched in {wanted}")
    if problem.unknowns:
        names = ", ".join(problem.unknowns)
        why = "every window of time would find values of its own; solve finds those for the whole time"
        raise ValueError(f"problem {name!r} has unknowns ({names}), which march cannot find: {why}")
    if isinstance(options.get("points"), Tensor) or problem.points is not None:
        raise ValueError("points of a march must be their number in a window, or the numbers per axis, got a tensor")
    check(_RULES, values)


def _check_later(problem: Problem, net: BumpNet, options: dict[str, Any]) -> None:
    """Raise ValueError, before any work, for what would be found in a later window only."""
    task = Task(problem, net, options.get("boundary"))
    check_fit(problem, net, task.boundary)
    task.collocate(options.get("points"), options.get("sampling", "grid"))
    task.check()
    task.check_always()


def _placed(net: BumpNet, part: Problem, graded: float) -> BumpNet:
    """``net``, with its bumps moved to where they are needed."""
    if graded:
        grade(net, part, graded)
    drop_outside(net, part)
    return net


def _window_solution(
    journal: Journal, part: Problem, starts: Sequence[BumpNet], worst: float, options: dict[str, Any]
) -> tuple[Solution, float]:
    """Best of the starts, and its badness.  The next start is tried only if all so far are worse than ``worst``.

    Badness is the loss, which includes conditions, or the loss at points that were not trained on, if larger.
    """
    solution, best, least = None, None, math.inf
    try:
        for start in starts:
            solution = journal.solve(part, start, **options)
            loss = held_out_loss(part, solution.net, solution.boundary, solution.unknowns, _HELD_OUT, options["seed"])
            loss = max(loss, solution.loss)
            if best is None or loss < least:
                best, least = solution, loss
            if solution.stop is StopReason.INTERRUPTED:
                return replace(best, stop=StopReason.INTERRUPTED), least
            if least <= worst:
                break
    except KeyboardInterrupt:  # between two solves
        if solution is None:
            raise
        return replace(best or solution, stop=StopReason.INTERRUPTED), least
    return best, least


class _Log:
    """History over all windows; calls the callbacks with iterations that count on."""

    def __init__(self, journal: Journal, windows: int, callbacks: Sequence[Callback]):
        self.journal, self.windows, self.callbacks = journal, windows, callbacks
        self.history: list[dict[str, Any]] = []
        self.events: list[Event] = []
        self.iterations = self.window = 0
        self.share = 0.0

    def __call__(self, progress: Progress) -> None:
        at = {"iteration": self.iterations + progress.iteration, "seconds": self.journal.seconds()}
        # Solving a window again does not reduce the finished part.
        self.share = max(self.share, (self.window + (progress.share or 0.0)) / self.windows)
        told = replace(progress, **at, share=self.share, entry=progress.entry | at | {"window": self.window})
        for callback in self.callbacks:
            callback(told)

    def add(self, k: int, solution: Solution) -> None:
        end = self.journal.ended
        for entry in solution.history:
            later = {"iteration": self.iterations + entry["iteration"], "window": k}
            self.history.append(entry | later | {"seconds": max(0.0, end - solution.seconds + entry["seconds"])})
        self.events += [replace(event, step=self.iterations + event.step) for event in solution.events]
        self.iterations += solution.iterations


def _marched(problem: Problem, solutions: list[Solution], log: _Log) -> March:
    last = solutions[-1]
    reached = window(problem, problem.lower[problem.time], last.problem.upper[problem.time])
    ends = [last.stop] if last.stop is StopReason.INTERRUPTED else [s.stop for s in solutions if s.stop in _BAD_ENDS]
    marched = March(
        problem=reached, boundary=last.boundary,
        parts=[Part(s.problem, s.net, s.boundary, s.places) for s in solutions],
        history=log.history, events=log.events, loss=max(s.loss for s in solutions), iterations=log.iterations,
        method=last.method,
        stop=next(iter(ends), StopReason.MARCHED), seconds=log.journal.seconds(),
        processor_seconds=log.journal.processor_seconds,
        warnings=list(dict.fromkeys(warning for s in solutions for warning in s.warnings)),
    )  # fmt: skip
    measure = ErrorMeasure(reached, last.net.rows.device)
    marched.rel_l2, marched.max_error = measure(lambda x: marched.predict(x))
    return marched
