"""Several starts of one solve, of which the best is kept: where a problem has several solutions, or local minima."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..core.ranks import Ranks
from ..nets.adapt import put_rows
from ..nets.bumpnet import BumpNet
from ..problems.base import Problem
from ..problems.sampling import lattice
from . import refine, run_state
from .arguments import check_fit
from .journal import Journal
from .loop import Callback, Progress, StopReason
from .solution import Solution
from .starting import Start, check_start, first_rows, is_trivial, nonlinear_height
from .task import Task

#: Standard deviation of the changes of the shapes, and of the logarithms of the first guesses of unknowns.
_SHAPES, _UNKNOWNS = 0.2, 1.0
#: Heights of random starts, relative to u, in turn; around a given start a share of them.
_HEIGHTS, _AROUND = (3.0, 0.3, 1.0, 10.0, 0.1), 0.3
#: Random waves of a start, and how many half waves fit along an axis at most.
_WAVES, _LONGEST = 6, 2
#: Points that nothing was trained on.
_HELD_OUT = 4096
#: A residual that is a larger share of its terms is no solution.
_NO_SOLUTION = 0.1
#: Two solutions that differ by more than this share of them are not the same.
_OTHER = 0.05


@dataclass
class _Trial:
    """The result of a start, and what it is worth."""

    solution: Solution
    loss: float  # held out, or of training if that is larger
    relative: float  # the held-out residual, relative to its terms
    u: Tensor  # [n, K] on a lattice

    @property
    def solves(self) -> bool:
        return self.relative < _NO_SOLUTION and not is_trivial(self.solution.warnings)

    def key(self) -> tuple[bool, float]:
        """Trivial solutions and stationary points come last, but for what is no solution at all."""
        rank = 0 if self.solves else 1 if is_trivial(self.solution.warnings, solved=True) else 2
        return rank, self.loss if math.isfinite(self.loss) else math.inf


def restarted(
    solve: Callable[..., Solution], problem: Problem, net: BumpNet, restarts: int, start: Start | None,
    settings: dict[str, Any], options: dict[str, Any], checkpoint: Any, every_seconds: float,
    callbacks: Sequence[Callback], group: Any,
) -> Solution:  # fmt: skip
    """As :func:`~bumpnet_fast.solvers.solve`, which is ``solve``, with ``restarts``.

    ``options`` are its arguments for every start, limits included, and ``settings`` the same as a file can hold them.
    """
    began, options = time.perf_counter(), dict(options)
    if Ranks(group, net.rows.device).count > 1:
        raise ValueError("restarts is for one process, and this group has several: solve with several seeds instead")
    check_fit(problem, net, options["boundary"])
    check_start(problem, start)
    boundary = problem.forms[0] if options["boundary"] is None else options["boundary"]
    rows = first_rows(problem, net, boundary, start)
    if rows is not None:
        with torch.no_grad():
            net.rows.copy_(rows)
    limit = options.pop("max_seconds", None)

    def content() -> dict[str, Any]:
        return run_state.content("solve", problem, net, settings | {"restarts": restarts})

    first, trials, done = copy.deepcopy(net), [], 0
    with run_state.opened(checkpoint, every_seconds, content) as store:
        journal = Journal(solve, store, began)
        for k in range(restarts + 1):
            now = dict(options)
            if limit is not None:
                now["max_seconds"] = max(1e-9, limit + began - time.perf_counter()) / (restarts + 1 - k)
            tell = _counted(callbacks, done, k, restarts + 1)
            try:
                trial, posed = (first, problem) if not k else _other(problem, first, boundary, trials, options, k)
                solution = journal.solve(posed, copy.deepcopy(trial), callback=tell, **now)
                done += solution.iterations
                trials.append(_measured(problem, solution, options["seed"]))
            except KeyboardInterrupt:  # between two solves
                if not trials:
                    raise
                trials[-1].solution.stop = StopReason.INTERRUPTED
            if trials[-1].solution.stop is StopReason.INTERRUPTED:
                break
    return _best(problem, net, trials, journal)


def _counted(callbacks: Sequence[Callback], done: int, k: int, starts: int) -> Callback | None:
    """A callback for one of the starts: iterations count on."""
    if not callbacks:
        return None

    def tell(progress: Progress) -> None:
        at = {"iteration": done + progress.iteration}
        share = None if progress.share is None else (k + progress.share) / starts
        for callback in callbacks:
            callback(replace(progress, **at, share=share, entry=progress.entry | at | {"start": k}))

    return tell


def _other(
    problem: Problem, first: BumpNet, boundary: str, trials: Sequence[_Trial], options: dict[str, Any], k: int
) -> tuple[BumpNet, Problem]:
    """The net and the first guesses of the ``k``-th further start."""
    generator = torch.Generator().manual_seed(1000 * options["seed"] + k)
    net, posed = copy.deepcopy(first).perturb_(_SHAPES, generator), problem
    points = {name: options[name] for name in ("points", "sampling", "condition_weight", "seed")}
    task = Task(problem, net, boundary).collocate(**points)
    given = bool(first.amplitudes.any())
    if task.is_linear():
        return net, posed
    height = _height(task, trials[0])
    u = _varied(problem, first, boundary, height * (_AROUND if given else _HEIGHTS[(k - 1) % len(_HEIGHTS)]), generator)
    with torch.no_grad():
        net.rows.copy_(first_rows(problem, net, boundary, u))
    if problem.unknowns:
        posed, noise = copy.copy(problem), torch.randn(len(problem.unknowns), dtype=torch.float64, generator=generator)
        factors = torch.exp(_UNKNOWNS * noise).tolist()
        posed.unknowns = {
            name: value * by if value else n
            for (name, value), by, n in zip(problem.unknowns.items(), factors, noise.tolist(), strict=True)
        }
    return net, posed


def _height(task: Task, first: _Trial) -> float:
    """How large u is: of the first solution, or else where the equation begins to be nonlinear."""
    height = float(first.u.abs().max())
    trusted = math.isfinite(height) and height > 0 and not is_trivial(first.solution.warnings)
    return height if trusted else nonlinear_height(task)


def _varied(
    problem: Problem, net: BumpNet, boundary: str, height: float, generator: torch.Generator
) -> Callable[[Tensor], Tensor]:
    """The u of ``net``, if it has amplitudes, and a few random waves about as high as ``height``."""
    lo, hi = problem.domain
    shape = _WAVES, problem.outputs
    numbers = torch.randint(0, _LONGEST + 1, (_WAVES, len(lo)), generator=generator).double()
    phases, sizes = (torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(2))
    before = Solution(
        net=copy.deepcopy(net), problem=problem, boundary=boundary, history=[], loss=0.0, seconds=0.0, stop=""
    )

    def u(x: Tensor) -> Tensor:
        unit = ((x.cpu().double() - lo) / (hi - lo)) @ numbers.T
        waves = (torch.cos(math.pi * (unit[:, :, None] + phases)) * sizes).sum(1) / _WAVES**0.5
        return height * waves.to(x) + (before.predict(x) if bool(net.amplitudes.any()) else 0.0)

    return u


def _measured(problem: Problem, solution: Solution, seed: int) -> _Trial:
    net, boundary = solution.net, solution.boundary
    about = problem, net, boundary, solution.unknowns, _HELD_OUT, seed
    x = lattice(problem.domain, 1000)
    u = solution.predict(x[problem.inside(x)])
    with torch.no_grad():
        held_out, relative = refine.held_out_loss(*about), refine.held_out_share(*about)
    return _Trial(replace(solution, problem=problem), max(held_out, solution.loss), relative, u)


def _best(problem: Problem, net: BumpNet, trials: Sequence[_Trial], journal: Journal) -> Solution:
    """The best of them, in the net that was given, and a word about others that are as good."""
    best = min(trials, key=_Trial.key)
    with torch.no_grad():
        put_rows(net, best.solution.net.rows.detach(), best.solution.net.trainable)
    size, warnings = best.u.abs().max(), list(best.solution.warnings)
    others = [t for t in trials if t.solves and float((t.u - best.u).abs().max() / size) > _OTHER]
    if best.solves and others:
        warnings.append(
            f"{len(others)} of {len(trials)} starts ended at other solutions: which of them is meant says start=..., "
            f"or a condition"
        )
    stop = trials[-1].solution.stop
    stop = stop if stop is StopReason.INTERRUPTED else best.solution.stop
    return replace(
        best.solution, net=net, stop=stop, warnings=warnings, seconds=journal.seconds(),
        processor_seconds=journal.processor_seconds,
    )  # fmt: skip


__all__ = ["restarted"]
