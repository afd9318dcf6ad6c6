"""From the arguments of a solve to its solution: bases of growing size, up to a number of bumps or down to an error."""

from __future__ import annotations

import dataclasses
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
from ..loop import Callback, Run, Stop, StopReason
from ..patches import Patches, PatchWork, local, suits
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
#: Ends after which nothing else is tried.
_ENDS = StopReason.REACHED, StopReason.TIME, StopReason.INTERRUPTED
#: Bumps from which on patches, whose cost is linear, are quicker.
_MANY = 1024


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
    started, clock = time.perf_counter() if started is None else started, time.process_time()
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
    patchable = error is not None and task.ranks.alone and task.is_linear()
    patchable = patchable and suits(problem, boundary, condition_weight)
    few = min(most, _MANY) if patchable and method.most is None else most
    levels = Levels(
        error=error, most=few, shape=shape, fixed=counts is not None, elsewhere=_local if patchable else None
    )
    found = _by_levels(task, levels, stop, callbacks, started)
    if not patchable or found.stop is not StopReason.NOT_REACHED or task.doubt():
        return found
    tried = [found, _by_patches(found, error, stop, callbacks, started)]
    if tried[-1].stop not in _ENDS:  # what was left out for patches may help all the same
        task = FrozenTask(problem, first_bumps(dim, most), shape, *about, group=group)
        tried.append(_by_levels(task, Levels(error=error, most=most, shape=shape), stop, callbacks, started))
    last = tried[-1]
    best = last if last.stop is StopReason.REACHED else min(tried, key=_worth)
    best.stop = last.stop if last.stop in _ENDS else StopReason.NOT_REACHED
    best.processor_seconds, best.seconds = time.process_time() - clock, last.seconds
    return best


def _local(task: FrozenTask) -> bool:
    return local(task.posed, task.net, task.boundary)


def _worth(solution: Solution) -> tuple[bool, float]:
    estimate = solution.error_estimate
    error = max(estimate.rel_l2)
    return not estimate.reliable, error if error == error else math.inf


def _by_levels(
    task: FrozenTask, levels: Levels, stop: Stop, callbacks: Sequence[Callback], started: float
) -> Solution:  # fmt: skip
    """The solution over smooth bases of all of the domain."""
    problem = task.posed
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
            solution.know_error(estimate, lambda: _coarse(solution, task.basis_seed))
    return solution


def _coarse(solution: Solution, seed: int) -> Stage:
    """About the same u with few bumps."""
    problem, outputs = solution.problem, solution.problem.outputs
    counts = first_shape(len(problem.lower)).counts(_COARSE[min(len(problem.lower), len(_COARSE)) - 1], alike(problem))
    net = smooth_net(counts, problem.domain, outputs, _FIXED, seed, solution.net.rows.device)
    rows = first_rows(problem, net, solution.boundary, solution)
    net = BumpNet.from_rows(rows, net.frame, net.domain, maps=solution.net.maps)
    return Stage(problem, net, solution.boundary, solution.unknowns)


def _by_patches(
    before: Solution, error: float, stop: Stop, callbacks: Sequence[Callback], started: float
) -> Solution:  # fmt: skip
    """The solution over a tree of patches, after one that did not reach the error."""
    with few_threads(_ENTRIES):
        run = Run(PatchWork(before.problem, error), [Patches(error=error)], stop, callbacks, None, started)
        reason = run.follow()
        (patches,) = run.methods
        if not patches.known:
            return before
        rel_l2, max_error = run.errors()
    history = [*before.history, *({**e, "iteration": e["iteration"] + before.iterations} for e in run.history[1:])]
    solution = dataclasses.replace(
        before, net=run.work.net, boundary=PatchWork.boundary, history=history, loss=run.history[-1]["loss"],
        rel_l2=rel_l2, max_error=max_error, seconds=run.seconds,
        processor_seconds=before.processor_seconds + run.processor_seconds, iterations=before.iterations + run.done,
        stop=reason, method=f"{before.method}+{patches.name}", warnings=run.warnings,
    )  # fmt: skip
    solution.error_estimate = patches.estimate()
    return solution


__all__ = ["solved"]
