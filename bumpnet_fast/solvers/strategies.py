"""Find the number of bumps: remove, add, or search for the fewest that reach an error.

Between the changes the least-squares solver trains; it starts with an exact solve for the amplitudes.  This is
necessary: the amplitudes of a trained net cancel heavily, so removing bumps without solving for the others again
leaves nothing usable (docs/choosing.md).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..core.rows import grid_centres
from ..nets.adapt import add_bumps, keep_bumps, loss_increases, peak_scores, residual_peaks, rows_at
from ..nets.bumpnet import BumpNet
from ..nets.events import Event
from ..problems.base import Problem, call_residual
from . import run_state
from .arguments import check, check_fit, integer, positive
from .grad_mode import differentiating
from .journal import Journal
from .loop import Callback, Progress, StopReason
from .solution import Solution
from .stationary import as_settings
from .task import Task

#: Share of the bumps that is added or removed at a time.
_SHARE = 1 / 6
#: Growth that leaves more than this share of the error did not help.
_STUCK = 0.5
#: Side length of new bumps, relative to that of their nearest neighbour.
_SHRINK = 0.8

#: Reasons for which a solve, and with it the whole search, ends early.
_CUT_SHORT = (StopReason.INTERRUPTED, StopReason.TIME)

Score = Callable[[Solution], Tensor]


@differentiating
def removal_costs(solution: Solution, points=None, sampling: str = "grid", seed: int = 0, group: Any = None) -> Tensor:
    """Increase of the loss [M] if one bump is removed and the amplitudes of all others are solved for again.

    Exact for linear problems, and for the linearisation of others.

    Parameters
    ----------
    solution : Solution
        Of :func:`bumpnet_fast.solvers.solve`.
    points, sampling, seed, group
        Where the residual is evaluated, as for :func:`bumpnet_fast.solvers.solve`.
    """
    net = solution.net
    task = Task(solution.problem, net, solution.boundary, group).collocate(points, sampling, seed=seed)
    with torch.no_grad():
        system, rows = task.system, net.rows.detach().double()
        unknowns = system.guesses.new_tensor([solution.unknowns[name] for name in system.names])
        _, coefficients = system.linearise(system.jets(rows), unknowns)
        A, _ = system.design(rows, coefficients)
        return loss_increases(A, rows[:, net.layout.amplitude], group=group)


def heights(solution: Solution) -> Tensor:
    """Peak-normalised amplitudes [M]: a cheaper score, nearly as good."""
    return peak_scores(solution.net)


SCORES: dict[str, Score] = {"loss": removal_costs, "peak": heights}


@dataclass(frozen=True)
class _Follow:
    """Limits and callbacks of a run, and the number of its solves if known."""

    max_seconds: float | None
    checkpoint: Any
    every_seconds: float
    callbacks: tuple[Callback | None, ...]
    solves: int | None = None


class _Trace:
    """Several solves as one: history, events, time and iterations count on."""

    def __init__(self, journal: Journal, follow: _Follow, options: dict[str, Any]):
        self.journal, self.follow, self.options = journal, follow, options
        self.history: list[dict[str, Any]] = []
        self.events: list[Event] = []
        self.steps = self.largest = 0
        self.began, self.share = time.perf_counter(), 0.0
        self.held: tuple[Solution, Tensor, int] | None = None

    def where(self, net: BumpNet) -> dict[str, Any]:
        """Where the residual is evaluated: points for the largest net so far.

        With fewer points for fewer bumps, sharp bumps would hide between them.
        """
        self.largest = max(self.largest, net.rows.numel())
        usual = {"points": 5 * self.largest, "sampling": "grid", "seed": 0, "group": None}
        return usual | {key: value for key, value in self.options.items() if key in usual}

    def solve(self, problem: Problem, net: BumpNet, iterations: int) -> Solution:
        before, options = self.steps, self.options | self.where(net)
        if self.follow.max_seconds is not None:
            options["max_seconds"] = max(1e-9, self.began + self.follow.max_seconds - time.perf_counter())

        def tell(progress: Progress) -> None:
            self._tell(before + progress.iteration, progress)

        solution = self.journal.solve(problem, net, iterations=iterations, callback=tell, **options)
        self.steps, began = before + solution.iterations, self.journal.ended - solution.seconds
        for entry in solution.history:
            at = {"iteration": before + entry["iteration"], "seconds": max(0.0, began + entry["seconds"])}
            self.history.append(entry | at)
        self.events += [replace(event, step=before + event.step) for event in solution.events]
        self.hold(solution)
        return solution

    def hold(self, solution: Solution) -> None:
        """Remember the current net: the solution to return if the search is interrupted before the next one."""
        self.held = solution, solution.net.rows.detach().clone(), len(self.events)

    def _tell(self, iteration: int, progress: Progress) -> None:
        limit, solves = self.follow.max_seconds, self.follow.solves
        shares = [] if solves is None else [(self.journal.at + (progress.share or 0.0)) / solves]
        shares += [] if limit is None else [(time.perf_counter() - self.began) / limit]
        self.share = min(1.0, max(self.share, *shares)) if shares else None
        at = {"iteration": iteration, "seconds": self.journal.seconds()}
        told = replace(progress, **at, share=self.share, entry=progress.entry | at)
        for callback in self.follow.callbacks:
            if callback is not None:
                callback(told)

    def note(self, kind: str, before: int, solution: Solution) -> None:
        self.events.append(Event(self.steps, kind, before, len(solution.net.rows), solution.loss))

    def whole(self, solution: Solution, reason: StopReason) -> Solution:
        return replace(
            solution,
            history=self.history,
            events=self.events,
            seconds=self.journal.seconds(),
            processor_seconds=self.journal.processor_seconds,
            iterations=self.steps,
            stop=reason,
        )


def _searched(
    name: str, problem: Problem, net: BumpNet, settings: dict[str, Any], options: dict[str, Any], follow: _Follow,
    search: Callable[[_Trace], Solution],
) -> Solution:  # fmt: skip
    """Result of ``search`` in the run ``name``, which ``settings`` and ``options`` define.

    Ctrl-C between two solves, while bumps are scored or placed, ends it with the last solution.
    """
    start = time.perf_counter()
    Task(problem, net, None, options.get("group")).check_same(name, settings)
    positive(optional=True).check("max_seconds", follow.max_seconds)

    def content() -> dict[str, Any]:
        return run_state.content(name, problem, net, as_settings(options) | settings)

    with run_state.opened(follow.checkpoint, follow.every_seconds, content) as store:
        trace = _Trace(Journal(store, start, _CUT_SHORT), follow, options)
        try:
            return search(trace)
        except KeyboardInterrupt:
            if trace.held is None:
                raise
            solution, rows, events = trace.held
            _put_back(net, rows)
            del trace.events[events:]
            return trace.whole(solution, StopReason.INTERRUPTED)


@differentiating
def prune(
    problem: Problem,
    net: BumpNet,
    bumps: int,
    *,
    score: str | Score = "loss",
    iterations: int = 60,
    checkpoint: str | os.PathLike | None = None,
    every_seconds: float = run_state.EVERY,
    callbacks: Iterable[Callback] = (),
    callback: Callback | None = None,
    max_seconds: float | None = None,
    **options,
) -> Solution:
    """Solve with ever fewer bumps, down to ``bumps``: remove a sixth of them, train the rest, and repeat.

    Parameters
    ----------
    problem, net
        As for :func:`bumpnet_fast.solvers.solve`; the net is changed in place.
    bumps : int
        Number of bumps at the end, at least 1.
    score : "loss", "peak" or callable
        Worth of a bump: the increase of the loss without it, its height, or ``score(solution)`` -> [M].
    iterations : int
        Iterations of the solver between two changes.
    max_seconds : float, optional
        Stop after about this time, in this session of the run.
    checkpoint, every_seconds, callbacks, callback, **options
        As for :func:`bumpnet_fast.solvers.solve`, ``group`` among them.

    Returns
    -------
    Solution
        With all changes in ``events``, and the number of bumps in every entry of ``history``.

    Raises
    ------
    ValueError
        As the solver does, and for an invalid number of bumps or score.

    Examples
    --------
    >>> from bumpnet_fast import problems
    >>> problem = problems.get("poisson")
    >>> net = BumpNet(2, (4, 4), problem.domain, dtype="float64")
    >>> solution = prune(problem, net, 12, iterations=10)
    >>> len(net.rows), [event.after for event in solution.events]
    (12, [14, 12])
    """
    _check(problem, net, iterations, options, bumps=bumps)
    scored, settings = _score(score), {"bumps": bumps, "score": _named(score), "iterations": iterations}
    follow = _Follow(
        max_seconds, checkpoint, every_seconds, (*callbacks, callback), _solves(net, min(bumps, len(net.rows)))
    )

    def search(trace: _Trace) -> Solution:
        solution = trace.solve(problem, net, iterations)
        while not _cut_short(solution) and len(net.rows) > bumps:
            solution = _take_out(trace, solution, scored, max(bumps, _fewer(len(net.rows))), iterations)
        return trace.whole(solution, solution.stop)

    return _searched("prune", problem, net, settings, options, follow, search)


@differentiating
def grow(
    problem: Problem,
    net: BumpNet,
    bumps: int,
    *,
    iterations: int = 60,
    checkpoint: str | os.PathLike | None = None,
    every_seconds: float = run_state.EVERY,
    callbacks: Iterable[Callback] = (),
    callback: Callback | None = None,
    max_seconds: float | None = None,
    **options,
) -> Solution:
    """Solve with ever more bumps, up to ``bumps``; new ones are placed where the residual is largest.

    Parameters and result are those of :func:`prune`.  A net that was pruned too far can grow again.

    Examples
    --------
    >>> from bumpnet_fast import problems
    >>> problem = problems.get("poisson")
    >>> net = BumpNet(2, (3, 3), problem.domain, dtype="float64")
    >>> solution = grow(problem, net, 12, iterations=10)
    >>> len(net.rows), solution.events[0].kind
    (12, 'grow')
    """
    _check(problem, net, iterations, options, bumps=bumps)
    settings = {"bumps": bumps, "iterations": iterations}
    follow = _Follow(
        max_seconds, checkpoint, every_seconds, (*callbacks, callback), _solves(net, max(bumps, len(net.rows)))
    )

    def search(trace: _Trace) -> Solution:
        solution = trace.solve(problem, net, iterations)
        while not _cut_short(solution) and len(net.rows) < bumps:
            before = len(net.rows)
            solution = _put_in(trace, solution, min(bumps, _more(before)), iterations)
            if len(net.rows) == before:
                return trace.whole(solution, StopReason.NO_RESIDUAL)
        return trace.whole(solution, solution.stop)

    return _searched("grow", problem, net, settings, options, follow, search)


@differentiating
def reach(
    problem: Problem,
    net: BumpNet,
    error: float,
    *,
    most: int = 1000,
    score: str | Score = "loss",
    iterations: int = 60,
    checkpoint: str | os.PathLike | None = None,
    every_seconds: float = run_state.EVERY,
    callbacks: Iterable[Callback] = (),
    callback: Callback | None = None,
    max_seconds: float | None = None,
    **options,
) -> Solution:
    """Search for the fewest bumps that reach an error: add bumps until it is reached, then remove while it still is.

    Parameters
    ----------
    error : float
        Relative L2 error to reach where the exact solution is known, otherwise the root of the loss.
    most : int
        Largest number of bumps that is tried.
    problem, net, score, iterations, max_seconds, checkpoint, every_seconds, callbacks, callback, **options
        As for :func:`prune`.

    Returns
    -------
    Solution
        The smallest net found that reaches the error; otherwise the best of the last size, with ``stop`` "error not
        reached".

    Notes
    -----
    A greedy search.  If removing a sixth is too much, half as many are tried, down to one bump.
    """
    _check(problem, net, iterations, options, bumps=most)
    positive().check("error", error)
    scored, settings = _score(score), {"error": error, "most": most, "score": _named(score), "iterations": iterations}
    follow = _Follow(max_seconds, checkpoint, every_seconds, (*callbacks, callback))

    def search(trace: _Trace) -> Solution:
        solution = trace.solve(problem, net, iterations)
        while _error(solution) > error and not _cut_short(solution):
            before, reached = len(net.rows), _error(solution)
            if before < most:
                solution = _put_in(trace, solution, min(most, _more(before)), iterations)
            if len(net.rows) == before:
                return trace.whole(solution, StopReason.NOT_REACHED)
            if _error(solution) > _STUCK * reached and not _cut_short(solution):
                solution = _start_anew(trace, solution, iterations)
        return _fewest(trace, solution, error, scored, iterations)

    return _searched("reach", problem, net, settings, options, follow, search)


def _fewest(trace: _Trace, solution: Solution, error: float, score: Score | None, iterations: int) -> Solution:
    """Remove bumps while the error is still reached."""
    net = solution.net
    best, rows = solution, net.rows.detach().clone()
    go = len(rows) - _fewer(len(rows))
    while go >= 1 and len(rows) > 1 and not _cut_short(solution):
        solution = _take_out(trace, best, score, max(1, len(rows) - go), iterations)
        if _error(solution) <= error:
            best, rows = solution, net.rows.detach().clone()
            go = min(go, max(1, len(rows) - _fewer(len(rows))))
        else:
            before, go = len(net.rows), go // 2
            _put_back(net, rows)
            trace.note("restore", before, best)
            trace.hold(best)
    return trace.whole(best, solution.stop if _cut_short(solution) else StopReason.REACHED)


def _take_out(trace: _Trace, solution: Solution, score: Score | None, left: int, iterations: int) -> Solution:
    net = solution.net
    values, before = score(solution) if score else removal_costs(solution, **trace.where(net)), len(net.rows)
    if values.shape != (before,):
        raise ValueError(f"score must give a tensor of shape [{before}], got {tuple(values.shape)}")
    keep = torch.zeros_like(net.rows[:, 0], dtype=torch.bool)
    keep[values.nan_to_num(math.inf).topk(left).indices] = True
    keep_bumps(net, keep, group=trace.options.get("group"))
    trace.note("prune", before, solution)
    return trace.solve(solution.problem, net, iterations)


def _put_in(trace: _Trace, solution: Solution, wanted: int, iterations: int) -> Solution:
    net, problem, before = solution.net, solution.problem, len(solution.net.rows)
    where = trace.where(net)
    group = where.pop("group")
    task = Task(problem, net, solution.boundary, group).collocate(**where)
    x = task.x
    with torch.no_grad():
        u, unknowns = solution.jet(x, problem.want), solution.unknowns
        residual = task.ranks.checked(lambda: call_residual(problem.residual, x, u, unknowns))
    places = residual_peaks(net, x, residual, wanted - before, group)
    if len(places):
        add_bumps(net, rows_at(net, places, shrink=_SHRINK), group=group)
        trace.note("grow", before, solution)
        solution = trace.solve(problem, net, iterations)
    return solution


def _start_anew(trace: _Trace, solution: Solution, iterations: int) -> Solution:
    """Try as many bumps on a new grid, and keep the better: growth cannot leave a poor local minimum."""
    net, rows = solution.net, solution.net.rows.detach().clone()
    centres, _ = grid_centres(len(rows), *net.domain.cpu())
    _put_back(net, rows_at(net, centres.to(rows), bumps=len(rows)))
    anew = trace.solve(solution.problem, net, iterations)
    if _error(anew) < _error(solution):
        trace.note("restart", len(rows), anew)
        return anew
    _put_back(net, rows)
    trace.hold(solution)
    return replace(solution, stop=anew.stop) if _cut_short(anew) else solution


@torch.no_grad()
def _put_back(net: BumpNet, rows: Tensor) -> None:
    net.rows = torch.nn.Parameter(rows.clone(), net.rows.requires_grad)


def _fewer(bumps: int) -> int:
    return bumps - max(1, int(_SHARE * bumps))


def _more(bumps: int) -> int:
    return bumps + max(1, round(_SHARE * bumps))


def _solves(net: BumpNet, wanted: int) -> int:
    """Number of solves on the way to another number of bumps."""
    bumps, solves = len(net.rows), 1
    while bumps != wanted:
        bumps = max(wanted, _fewer(bumps)) if bumps > wanted else min(wanted, _more(bumps))
        solves += 1
    return solves


def _cut_short(solution: Solution) -> bool:
    return solution.stop in _CUT_SHORT


def _error(solution: Solution) -> float:
    return math.sqrt(solution.loss) if solution.rel_l2 is None else solution.rel_l2


def _score(score: str | Score) -> Score | None:
    """The scoring function; None for the increase of the loss, which needs the points."""
    if callable(score):
        return score
    if score not in SCORES:
        raise ValueError(f"score must be one of {', '.join(SCORES)} or a function, got {score!r}")
    return None if score == "loss" else SCORES[score]


def _named(score: str | Score) -> str:
    return score if isinstance(score, str) else "a function"


def _check(problem: Problem, net: BumpNet, iterations: int, options: dict[str, Any], bumps: int) -> None:
    check_fit(problem, net, options.get("boundary"))
    check({"bumps": integer(1), "iterations": integer(1)}, {"bumps": bumps, "iterations": iterations})


__all__ = ["SCORES", "grow", "heights", "prune", "reach", "removal_costs"]
