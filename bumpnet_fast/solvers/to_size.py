"""The best net of a given size: grids with other numbers of bumps along the axes, of which the best is trained on.

How many bumps a solution needs along an axis is not known before.  Some iterations tell: all grids that have nearly as
many parameters as are allowed are trained for a few, the best of them for more, and the best one to the end
(successive halving: Jamieson and Talwalkar, arXiv:1502.07943).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..nets.bumpnet import BumpNet
from ..nets.frozen import free_parameters
from ..problems import sampling
from ..problems.base import Problem
from .arguments import integer
from .levenberg_marquardt import LeastSquares
from .linear.task import alike
from .loop import Callback, Progress, Stop, StopReason
from .refine import held_out_loss
from .solution import Solution

#: Grids that are tried, and the largest ratio of their cells' sides to those of cells that are alike.
_GRIDS, _RATIO = 6, 5.0
#: A grid is as large as is allowed if it has this share of the bumps.
_FULL = 0.9
#: Shares of the iterations after which grids are left out, and how many are left.
_ROUNDS = ((0.2, 3), (0.5, 1), (1.0, 1))
#: Points that nothing was trained on.
_HELD_OUT = 4096


@dataclass
class _Grid:
    """A net that is tried."""

    counts: tuple[int, ...]
    net: BumpNet
    solution: Solution | None = None
    worth: float = math.inf  # the loss between the points, or at them if that is larger

    def measure(self, seed: int) -> None:
        s = self.solution
        loss = max(held_out_loss(s.problem, s.net, s.boundary, s.unknowns, _HELD_OUT, seed), s.loss)
        self.worth = loss if math.isfinite(loss) else math.inf


def sized(
    solve: Callable[..., Solution], new_net: Callable[..., BumpNet], problem: Problem, parameters: int,
    methods: Sequence[Any], limits: Stop, about: dict[str, Any], callbacks: Sequence[Callback] = (),
) -> Solution:  # fmt: skip
    """The solution by the best net of at most so many ``parameters``.

    Parameters
    ----------
    solve, new_net : callable
        :func:`~bumpnet_fast.solvers.solve`, and what makes a net with so many bumps along the axes.
    problem : Problem
        What is solved.
    parameters : int
        Of the net; unknowns of the equation are not counted.
    methods : sequence of Method
        One of least squares.
    limits : Stop
        On the iterations of the best net, and on the time of all of them.
    about : dict
        Further arguments of ``solve``.
    callbacks : sequence of callable
        Their entries have the ``cells`` of the net.

    Raises
    ------
    ValueError
        If no bump has so few parameters, or the method is not of least squares.
    """
    integer(1).check("parameters", parameters)
    if len(methods) != 1 or not isinstance(methods[0], LeastSquares):
        named = "+".join(m.name for m in methods)
        raise ValueError(f"parameters is for least squares, whose iterations are comparable, got method {named!r}")
    dim = len(problem.lower)
    each = free_parameters(new_net(problem, (1,) * dim))
    most = parameters // each
    if most < 1:
        raise ValueError(f"parameters must be at least {each}, those of one bump, got {parameters}")
    started, (total,) = time.perf_counter(), limits.limits(methods)
    counts = grids_of(most, alike(problem), problem.default_bumps)
    grids = [_Grid(grid, new_net(problem, grid)) for grid in counts]
    spent, done = 0.0, 0
    for share, left in _ROUNDS if len(grids) > 1 else _ROUNDS[-1:]:
        for grid in grids:
            options = dict(about)
            if limits.seconds is not None:
                seconds = limits.seconds - (time.perf_counter() - started)
                options["max_seconds"] = max(1e-9, seconds * share / len(grids))
            before = grid.solution
            iterations = round(share * total) - (before.iterations if before and share < 1 else 0)
            tell = [_with_cells(callback, grid.counts, done) for callback in callbacks]
            grid.solution = solve(problem, grid.net, iterations=max(1, iterations), callbacks=tell, **options)
            done, spent = done + grid.solution.iterations, spent + grid.solution.processor_seconds
            if before is not None:
                grid.solution = _joined(before, grid.solution)
            if grid.solution.stop is StopReason.INTERRUPTED:
                break
            grid.measure(about["seed"])
        if any(grid.solution is not None and grid.solution.stop is StopReason.INTERRUPTED for grid in grids):
            grids = [grid for grid in grids if grid.solution is not None]
            best = min(grids, key=lambda grid: grid.worth)
            best.solution.stop = StopReason.INTERRUPTED
            break
        grids = sorted(grids, key=lambda grid: grid.worth)[:left]
        best = grids[0]
    return replace(best.solution, seconds=time.perf_counter() - started, processor_seconds=spent)


def check_sized(given: dict[str, Any]) -> None:
    """Raise ValueError for arguments of :func:`solve` that do not go with ``parameters``."""
    for name, why in {
        "net": "parameters chooses the bumps", "restarts": "parameters tries several nets itself",
        "enrich": "it adds parameters", "checkpoint": "its nets are not stored", "group": "it is for one process",
    }.items():  # fmt: skip
        if given[name] is not None and given[name] is not False and given[name] != 0:
            raise ValueError(f"{name} must be left out beside parameters: {why}")


def grids_of(most: int, widths: Sequence[float], usual: Any = None) -> list[tuple[int, ...]]:
    """Up to six grids of nearly ``most`` bumps, from cells with equal sides to such with a ratio of five.

    Parameters
    ----------
    most : int
        Bumps.
    widths : sequence of float
        Of the domain, in units in which its axes are alike.
    usual : int or tuple of int
        A grid that is among them if it is as large.

    Examples
    --------
    >>> grids_of(40, (1.0, 1.0))[:3]
    [(6, 6), (5, 8), (8, 5)]
    """
    found = [counts for counts in _grids(most, len(widths)) if math.prod(counts) >= _FULL * most]
    plain = tuple(sampling.spread(most, widths))

    def uneven(counts: tuple[int, ...]) -> float:
        sides = [math.log(width / count) for width, count in zip(widths, counts, strict=True)]
        return max(sides) - min(sides)

    found = sorted((g for g in found if uneven(g) <= math.log(_RATIO)), key=lambda g: (round(uneven(g), 6), g))
    first = [plain] if math.prod(plain) <= most else []
    if isinstance(usual, (tuple, list)) and _FULL * most <= math.prod(usual) <= most:
        first.append(tuple(usual))
    return list(dict.fromkeys([*first, *found]))[:_GRIDS] or [max(_grids(most, len(widths)), key=math.prod)]


def _grids(most: int, dim: int) -> Iterator[tuple[int, ...]]:
    """All grids to which no row of bumps can be added along the last axis."""
    if dim == 1:
        yield (most,)
        return
    for count in range(1, most + 1):
        for others in _grids(most // count, dim - 1):
            yield (count, *others)


def _with_cells(callback: Callback, counts: tuple[int, ...], done: int) -> Callback:
    """A callback that is told the net's cells, and for which iterations count on."""

    def tell(progress: Progress) -> None:
        at = {"iteration": done + progress.iteration}
        callback(replace(progress, **at, share=None, entry=progress.entry | at | {"cells": list(counts)}))

    return tell


def _joined(before: Solution, after: Solution) -> Solution:
    """The second of two solves of one net, with the history of both."""
    further = [entry | {"iteration": entry["iteration"] + before.iterations} for entry in after.history[1:]]
    return replace(after, history=[*before.history, *further], iterations=before.iterations + after.iterations)


__all__ = ["check_sized", "grids_of", "sized"]
