"""From the arguments of a solve to its solution: bases of growing size, up to a number of bumps or down to an error."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import torch

from ...nets.bumpnet import BumpNet
from ...nets.smooth import Shape, smooth_net
from ...problems.base import Problem
from ..arguments import integer
from ..estimate import Stage
from ..loop import Callback, Run, Stop
from ..report import doubts
from ..solution import Solution
from ..starting import Start, check_start, first_rows, trivial
from ..threads import few_threads
from .levels import MOST, Levels, first_bumps, first_shape
from .method import Linear
from .task import FrozenTask, alike

#: Sharpness of a basis to begin with, relative to that of a net to be trained.
_FIXED = 0.3
#: Bumps by dimension if nothing is said.
_DEFAULT = (64, 256, 512, 1024)
#: Bumps by dimension that u is fitted by to look for other solutions.
_COARSE = (8, 40, 60)
#: Entries of the matrix of the largest basis that one thread can do.
_ENTRIES = 4 * 10**6


@torch.no_grad()
def solved(
    problem: Problem, method: Linear, stop: Stop, *, error: float | None = None,
    bumps: int | tuple[int, ...] | None = None, boundary: str | None = None, seed: int = 0,
    condition_weight: float = 1.0, start: Start | None = None, callbacks: Sequence[Callback] = (), group: Any = None,
    started: float | None = None,
) -> Solution:  # fmt: skip
    """The solution over a smooth basis of ``bumps``, or over the smallest that is thought to have the error.

    The arguments are those of :func:`~bumpnet_fast.solvers.solve`.
    """
    started = time.perf_counter() if started is None else started
    check_start(problem, start)
    dim = len(problem.lower)
    counts = bumps if isinstance(bumps, tuple) else None
    if error is None:
        usual = _DEFAULT[min(dim, len(_DEFAULT)) - 1]
        most = math.prod(counts) if counts else usual if bumps is None else integer(1).check("net", bumps)
    else:
        most = method.most or max(1, MOST // problem.outputs)
    shape = first_shape(dim) if counts is None else Shape.of_counts(_FIXED, counts, alike(problem))
    about = boundary, method.ridge, seed, start, condition_weight
    task = FrozenTask(problem, first_bumps(dim, most), shape, *about, group=group)
    task.check()
    levels = Levels(error=error, most=most, shape=shape, fixed=counts is not None)
    with few_threads(_ENTRIES):
        run = Run(task, [levels], stop, callbacks, None, started)
        reason = run.follow()
        (levels,) = run.methods
        loss = run.history[-1]["loss"]
        warnings = [*run.warnings, *doubts(task, reason, loss), *trivial(task)]
        rel_l2, max_error = run.errors()
    solution = Solution(
        net=task.net, problem=problem, boundary=task.boundary, history=run.history, loss=loss, rel_l2=rel_l2,
        max_error=max_error, seconds=run.seconds, processor_seconds=run.processor_seconds, iterations=run.done,
        stop=reason, method=Linear.name, unknowns=task.named_unknowns(), warnings=warnings, places=task.places(),
    )  # fmt: skip
    if levels.levels:
        estimate = levels.estimate()
        if task.is_linear():
            solution.error_estimate = estimate
        else:  # it may not be the only solution, which takes long to find out
            solution.know_error(estimate, lambda: _coarse(solution, seed))
    return solution


def _coarse(solution: Solution, seed: int) -> Stage:
    """About the same u with few bumps."""
    problem, outputs = solution.problem, solution.problem.outputs
    counts = first_shape(len(problem.lower)).counts(_COARSE[min(len(problem.lower), len(_COARSE)) - 1], alike(problem))
    net = smooth_net(counts, problem.domain, outputs, _FIXED, seed, solution.net.rows.device)
    rows = first_rows(problem, net, solution.boundary, solution)
    net = BumpNet.from_rows(rows, net.frame, net.domain, maps=solution.net.maps)
    return Stage(problem, net, solution.boundary, solution.unknowns)


__all__ = ["solved"]
