"""From the arguments of a solve to its solution: bases of growing size, up to a number of bumps or down to an error."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from ...problems.base import Problem
from ..loop import Callback, Run, Stop
from ..report import doubts
from ..solution import Solution
from ..starting import Start, check_start, trivial
from ..threads import few_threads
from .levels import MOST, Levels, first_bumps, first_shape
from .task import FrozenTask

#: Entries of the matrix of the largest basis that one thread can do.
_ENTRIES = 4 * 10**6


@torch.no_grad()
def solved(
    problem: Problem, *, error: float | None, bumps: int | None, boundary: str | None, ridge: float, seed: int,
    condition_weight: float, start: Start | None, seconds: float | None, callbacks: Sequence[Callback],
    group: Any = None, started: float | None = None,
) -> Solution:  # fmt: skip
    """The solution over a smooth basis of ``bumps``, or over the smallest that is thought to have the error."""
    started = time.perf_counter() if started is None else started
    check_start(problem, start)
    most = bumps or max(1, MOST // problem.outputs)
    dim = len(problem.lower)
    first = first_bumps(dim, most)
    task = FrozenTask(problem, first, first_shape(dim), boundary, ridge, seed, start, condition_weight, group=group)
    task.check()
    levels = Levels(error, most)
    with few_threads(_ENTRIES):
        run = Run(task, [levels], Stop(None, seconds), callbacks, None, started)
        reason = run.follow()
        (levels,) = run.methods
        warnings = [*run.warnings, *doubts(task, reason, run.history[-1]["loss"]), *trivial(task)]
        rel_l2, max_error = run.errors()
    solution = Solution(
        net=task.net, problem=problem, boundary=task.boundary, history=run.history, loss=run.history[-1]["loss"],
        rel_l2=rel_l2, max_error=max_error, seconds=run.seconds, processor_seconds=run.processor_seconds,
        iterations=run.done, stop=reason, method=levels.name, unknowns=task.named_unknowns(), warnings=warnings,
        places=task.places(),
    )  # fmt: skip
    if task.is_linear() and levels.levels:
        solution.error_estimate = levels.estimate()
    return solution


__all__ = ["solved"]
