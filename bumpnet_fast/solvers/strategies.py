"""As few bumps as an accuracy needs: elimination, growth, and a search that uses both.

Between the changes the least-squares solver trains; its start is an exact solve for the amplitudes.
That matters: the amplitudes of a trained net cancel heavily, so that bumps taken out without solving for
the others again leave nothing usable behind (docs/choosing.md).
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..core.rows import grid_centres
from ..nets.adapt import add_bumps, keep_bumps, loss_increases, peak_scores, residual_peaks, rows_at
from ..nets.bumpnet import BumpNet
from ..nets.events import Event
from ..problems.base import Problem
from . import run_state
from .arguments import check, check_fit, integer, positive
from .grad_mode import differentiating
from .journal import Journal
from .loop import Progress, StopReason
from .solution import Solution
from .task import Task

#: Share of the bumps that go, or come, at a time.
_SHARE = 1 / 6
#: Growth that leaves more than this share of the error has not helped.
_STUCK = 0.5
#: New bumps have this side length in that of their nearest neighbour.
_SHRINK = 0.8

Score = Callable[[Solution], Tensor]


@differentiating
def removal_costs(solution: Solution, points=None, sampling: str = "grid", seed: int = 0, group: Any = None) -> Tensor:
    """Increase of the loss [M] if one bump goes and the amplitudes of all others are solved for again.

    Exact for linear problems, and for the linearisation of others.

    Parameters
    ----------
    solution : Solution
        Of :func:`bumpnet_fast.solvers.solve`.
    points, sampling, seed, group
        Where the residual is taken, and by whom, as for :func:`bumpnet_fast.solvers.solve`.
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
    """Peak-normalised amplitudes [M]: a cheaper and nearly as good a score."""
    return peak_scores(solution.net)


SCORES: dict[str, Score] = {"loss": removal_costs, "peak": heights}


class _Trace:
    """Solutions one after the other as one: history, events, time and iterations go on."""

    def __init__(self, journal: Journal, callback, options: dict[str, Any]):
        self.journal, self.callback, self.options = journal, callback, options
        self.history: list[dict[str, Any]] = []
        self.events: list[Event] = []
        self.steps = self.largest = 0
        self.processor_seconds = 0.0

    def where(self, net: BumpNet) -> dict[str, Any]:
        """Where the residual is taken: points for the largest net so far.

        With fewer points for fewer bumps, sharp ones would hide between them.
        """
        self.largest = max(self.largest, net.rows.numel())
        usual = {"points": 5 * self.largest, "sampling": "grid", "seed": 0, "group": None}
        return usual | {key: value for key, value in self.options.items() if key in usual}

    def solve(self, problem: Problem, net: BumpNet, iterations: int) -> Solution:
        before = self.steps

        def follow(progress: Progress) -> None:
            self.steps = before + progress.iteration
            if self.callback is not None:  # how much of all the solves is done is not known
                self.callback(replace(progress, iteration=self.steps, seconds=self.journal.seconds(), share=None))

        options = self.options | self.where(net)
        solution = self.journal.solve(problem, net, iterations=iterations, callback=follow, **options)
        self.steps, began = before + solution.iterations, self.journal.ended - solution.seconds
        self.processor_seconds += solution.processor_seconds
        for entry in solution.history:
            at = {"iteration": before + entry["iteration"], "seconds": max(0.0, began + entry["seconds"])}
            self.history.append(entry | at | {"bumps": len(net.rows)})
        return solution

    def note(self, kind: str, before: int, solution: Solution) -> None:
        self.events.append(Event(self.steps, kind, before, len(solution.net.rows), solution.loss))

    def whole(self, solution: Solution, reason: StopReason) -> Solution:
        return replace(
            solution,
            history=self.history,
            events=self.events,
            seconds=self.journal.seconds(),
            processor_seconds=self.processor_seconds,
            iterations=self.steps,
            stop=reason,
        )


@contextlib.contextmanager
def _trace(
    name: str, problem: Problem, net: BumpNet, settings: dict[str, Any], checkpoint, every_seconds: float, callback,
    options: dict[str, Any],
) -> Iterator[_Trace]:  # fmt: skip
    """The trace of the run ``name``, which ``settings`` and ``options`` define, and of what its checkpoint holds."""
    start = time.perf_counter()
    Task(problem, net, None, options.get("group")).check_same(name, settings)
    with run_state.opened(
        checkpoint, every_seconds, lambda: run_state.content(name, problem, net, options | settings)
    ) as store:
        yield _Trace(Journal(store, start), callback, options)


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
    callback: Callable[[Progress], Any] | None = None,
    **options,
) -> Solution:
    """Solve with ever fewer bumps, down to ``bumps``: a sixth of them goes at a time, then the rest is trained on.

    Parameters
    ----------
    problem, net
        As for :func:`bumpnet_fast.solvers.solve`; the net is changed in place.
    bumps : int
        How many are to be left, at least 1.
    score : "loss", "peak" or callable
        What a bump is worth: the increase of the loss without it, its height, or ``score(solution)`` -> [M].
    iterations : int
        Of the solver, between the changes.
    checkpoint, every_seconds, callback, **options
        As for :func:`bumpnet_fast.solvers.solve`, ``group`` among them.

    Returns
    -------
    Solution
        With all changes in ``events``, and the number of bumps in every entry of ``history``.

    Raises
    ------
    ValueError
        As the solver does, and for a number of bumps or a score that cannot be.

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
    with _trace("prune", problem, net, settings, checkpoint, every_seconds, callback, options) as trace:
        solution = trace.solve(problem, net, iterations)
        while solution.stop is not StopReason.INTERRUPTED and len(net.rows) > bumps:
            solution = _take_out(trace, solution, scored, max(bumps, _fewer(len(net.rows))), iterations)
    return trace.whole(solution, solution.stop)


@differentiating
def grow(
    problem: Problem,
    net: BumpNet,
    bumps: int,
    *,
    iterations: int = 60,
    checkpoint: str | os.PathLike | None = None,
    every_seconds: float = run_state.EVERY,
    callback: Callable[[Progress], Any] | None = None,
    **options,
) -> Solution:
    """Solve with ever more bumps, up to ``bumps``, which are put where the residual is largest.

    Parameters and result are those of :func:`prune`; so what was pruned too far can be grown again.

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
    with _trace("grow", problem, net, settings, checkpoint, every_seconds, callback, options) as trace:
        solution = trace.solve(problem, net, iterations)
        while solution.stop is not StopReason.INTERRUPTED and len(net.rows) < bumps:
            before = len(net.rows)
            solution = _put_in(trace, solution, min(bumps, _more(before)), iterations)
            if len(net.rows) == before:
                return trace.whole(solution, StopReason.NO_RESIDUAL)
    return trace.whole(solution, solution.stop)


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
    callback: Callable[[Progress], Any] | None = None,
    **options,
) -> Solution:
    """Solve to an error with as few bumps as can be found: grow until it is reached, then prune while it still is.

    Parameters
    ----------
    error : float
        Relative L2 error to reach where the problem knows its solution, otherwise the root of the loss.
    most : int
        Bumps beyond which growing is given up.
    problem, net, score, iterations, checkpoint, every_seconds, callback, **options
        As for :func:`prune`.

    Returns
    -------
    Solution
        The smallest net that was found to do; or the best of the last size, with ``stop_reason`` "error not reached".

    Notes
    -----
    A greedy search.  Where taking out a sixth is too much, half as many are tried, down to one bump.
    """
    _check(problem, net, iterations, options, bumps=most)
    positive().check("error", error)
    scored, settings = _score(score), {"error": error, "most": most, "score": _named(score), "iterations": iterations}
    with _trace("reach", problem, net, settings, checkpoint, every_seconds, callback, options) as trace:
        solution = trace.solve(problem, net, iterations)
        while _error(solution) > error and solution.stop is not StopReason.INTERRUPTED:
            before, reached = len(net.rows), _error(solution)
            if before < most:
                solution = _put_in(trace, solution, min(most, _more(before)), iterations)
            if len(net.rows) == before:
                return trace.whole(solution, StopReason.NOT_REACHED)
            if _error(solution) > _STUCK * reached and solution.stop is not StopReason.INTERRUPTED:
                solution = _start_anew(trace, solution, iterations)
        return _fewest(trace, solution, error, scored, iterations)


def _fewest(trace: _Trace, solution: Solution, error: float, score: Score | None, iterations: int) -> Solution:
    """Take out bumps while the error is still reached."""
    net = solution.net
    best, rows = solution, net.rows.detach().clone()
    go = len(rows) - _fewer(len(rows))
    while go >= 1 and len(rows) > 1 and solution.stop is not StopReason.INTERRUPTED:
        solution = _take_out(trace, best, score, max(1, len(rows) - go), iterations)
        if _error(solution) <= error:
            best, rows = solution, net.rows.detach().clone()
            go = min(go, max(1, len(rows) - _fewer(len(rows))))
        else:
            before, go = len(net.rows), go // 2
            _put_back(net, rows)
            trace.note("restore", before, best)
    return trace.whole(best, solution.stop if solution.stop is StopReason.INTERRUPTED else StopReason.REACHED)


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
        residual = task.ranks.checked(lambda: problem.residual(x, solution.jet(x, problem.want), **solution.unknowns))
    places = residual_peaks(net, x, residual, wanted - before, group)
    if len(places):
        add_bumps(net, rows_at(net, places, shrink=_SHRINK), group=group)
        trace.note("grow", before, solution)
        solution = trace.solve(problem, net, iterations)
    return solution


def _start_anew(trace: _Trace, solution: Solution, iterations: int) -> Solution:
    """As many bumps on a new grid, if they do better: growth cannot leave a poor local minimum."""
    net, rows = solution.net, solution.net.rows.detach().clone()
    centres, _ = grid_centres(len(rows), *net.domain.cpu())
    _put_back(net, rows_at(net, centres.to(rows), bumps=len(rows)))
    anew = trace.solve(solution.problem, net, iterations)
    if _error(anew) < _error(solution):
        trace.note("restart", len(rows), anew)
        return anew
    _put_back(net, rows)
    return replace(solution, stop=anew.stop) if anew.stop is StopReason.INTERRUPTED else solution


@torch.no_grad()
def _put_back(net: BumpNet, rows: Tensor) -> None:
    net.rows = torch.nn.Parameter(rows.clone(), net.rows.requires_grad)


def _fewer(bumps: int) -> int:
    return bumps - max(1, int(_SHARE * bumps))


def _more(bumps: int) -> int:
    return bumps + max(1, round(_SHARE * bumps))


def _error(solution: Solution) -> float:
    return math.sqrt(solution.loss) if solution.rel_l2 is None else solution.rel_l2


def _score(score: str | Score) -> Score | None:
    """The function that scores, or None for the increase of the loss, which has to know the points."""
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
