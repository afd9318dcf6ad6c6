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
from ..nets.adapt import add_bumps, keep_bumps, loss_increases, peak_scores, put_rows, residual_peaks, rows_at
from ..nets.bumpnet import BumpNet
from ..nets.events import Event
from ..nets.frozen import free_parameters, some_frozen
from ..problems.base import Problem, call_residual
from . import run_state
from .arguments import check, check_fit, integer, positive
from .enriched import check_enrich
from .grad_mode import differentiating
from .journal import Journal
from .loop import Callback, Progress, StopReason
from .solution import Solution
from .starting import check_start, first_rows
from .stationary import as_settings, solve
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
#: Copies of a net's rows and of its marks of the trained ones.
Rows = tuple[Tensor, Tensor]


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
        self.held: tuple[Solution, Rows, int] | None = None

    def where(self, net: BumpNet) -> dict[str, Any]:
        """Where the residual is evaluated: points for the largest net so far.

        With fewer points for fewer bumps, sharp bumps would hide between them.
        """
        self.largest = max(self.largest, free_parameters(net))
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
        self.held = solution, _taken(solution.net), len(self.events)

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
    began, start = time.perf_counter(), options.pop("start", None)
    check_enrich(options.get("enrich", False), name)
    task = Task(problem, net, options.get("boundary"), options.get("group"))
    task.check_same(name, settings)
    check_start(problem, start)
    positive(optional=True).check("max_seconds", follow.max_seconds)

    if (rows := first_rows(problem, net, task.boundary, start)) is not None:
        with torch.no_grad():
            net.rows.copy_(task.ranks.agreed(rows))

    def content() -> dict[str, Any]:
        return run_state.content(name, problem, net, as_settings(options) | settings)

    with run_state.opened(follow.checkpoint, follow.every_seconds, content) as store:
        trace = _Trace(Journal(solve, store, began, _CUT_SHORT), follow, options)
        try:
            return search(trace)
        except KeyboardInterrupt:
            if trace.held is None:
                raise
            solution, rows, events = trace.held
            put_rows(net, *rows)
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
        Number of bumps at the end, at least 1.  Only trained bumps are removed (``net.trainable``).
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
    if bumps < _frozen(net):
        least = f"{_frozen(net)}, those that are not trained and therefore stay"
        raise ValueError(f"bumps must be at least {least}, got {bumps}")
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
    best, rows, bumps, least = solution, _taken(net), len(net.rows), max(1, _frozen(net))
    go = bumps - _fewer(bumps)
    while go >= 1 and bumps > least and not _cut_short(solution):
        solution = _take_out(trace, best, score, max(least, bumps - go), iterations)
        if _error(solution) <= error:
            best, rows, bumps = solution, _taken(net), len(net.rows)
            go = min(go, max(1, bumps - _fewer(bumps)))
        else:
            before, go = len(net.rows), go // 2
            put_rows(net, *rows)
            trace.note("restore", before, best)
            trace.hold(best)
    return trace.whole(best, solution.stop if _cut_short(solution) else StopReason.REACHED)


def _take_out(trace: _Trace, solution: Solution, score: Score | None, left: int, iterations: int) -> Solution:
    net = solution.net
    values, before = score(solution) if score else removal_costs(solution, **trace.where(net)), len(net.rows)
    if values.shape != (before,):
        raise ValueError(f"score must give a tensor of shape [{before}], got {tuple(values.shape)}")
    keep = ~net.trainable
    worth = values.nan_to_num(math.inf).masked_fill(keep, -math.inf)
    keep[worth.topk(left - _frozen(net)).indices] = True
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
    net, bumps = solution.net, len(solution.net.rows)
    if some_frozen(net):
        return solution
    rows = _taken(net)
    centres, _ = grid_centres(bumps, *net.domain.cpu())
    put_rows(net, rows_at(net, centres.to(net.rows), bumps=bumps))
    anew = trace.solve(solution.problem, net, iterations)
    if _error(anew) < _error(solution):
        trace.note("restart", bumps, anew)
        return anew
    put_rows(net, *rows)
    trace.hold(solution)
    return replace(solution, stop=anew.stop) if _cut_short(anew) else solution


def _taken(net: BumpNet) -> Rows:
    return net.rows.detach().clone(), net.trainable.clone()


def _frozen(net: BumpNet) -> int:
    """Number of bumps that are not trained, which no search removes."""
    return int((~net.trainable).sum())


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
