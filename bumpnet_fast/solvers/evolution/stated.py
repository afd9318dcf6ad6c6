"""Evolutions to a stated error: levels of growing fineness until the change to the next one is small enough.

The change from a level to a finer one is the error of the former, as that of the latter is several times smaller.  The
result is the former level.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...core.jet import Jet
from ...nets.bumpnet import BumpNet
from ...problems.evolution.base import EvolutionProblem
from ...problems.sampling import lattice
from ..given_values import contradictions
from ..loop import Callback, Ended, Progress, Stop, StopReason
from ..solution import errors
from ..threads import few_threads
from .basis import Space
from .estimate import EvolutionEstimate
from .graded import axis_of
from .graded_result import Bumps, GradedEvolution
from .grading import sampled
from .level import COARSEST, LEAST_SIZE, MOST, Fineness, Level, jet_of
from .method import OverTime
from .report import doubts

#: The aim of a level relative to the error asked for, and of the finer level relative to that.
_AIM, _FINER = 0.7, 0.2
#: The smallest aim of a level, and most pairs of levels.
_LEAST_AIM, _PAIRS = 1e-12, 5
#: Times at which two levels are compared, about.
_COMPARED = 48
#: A finer level whose aim is larger by this factor still serves.
_SERVES = 1.25
#: Points at which slopes of the start are looked at, and the share of the largest up to which two agree.
_ALONG, _SLOPES_AGREE = 512, 1e-6
#: Points at which the right-hand side is looked at for places.
_PLACES = 64
#: Changes relative to u below this are rounding.
_ROUNDING = 1e-12
#: The start between the points may be missed by so many times the aim.
_MISSED = 30.0
#: Levels that end at times closer than this share end for the same reason.
_SAME_END = 0.05

#: What ``evolve`` chooses itself if an error is stated, with the default of each argument.
CHOSEN = {
    "net": None, "method": "auto", "step": None, "tolerance": None, "points": None, "shapes": "frozen",
    "initial_shapes": None, "checkpoint": None,
}  # fmt: skip


def check_error(problem: EvolutionProblem, error: float, given: dict[str, Any]) -> None:
    """Raise ValueError if the arguments do not go with a stated error, or the problem cannot be solved to one."""
    wrong = [name for name, default in CHOSEN.items() if given[name] is not default and given[name] != default]
    if "checkpoint" in wrong:
        raise ValueError("checkpoint cannot be given with error: such an evolution is not resumed")
    if wrong:
        raise ValueError(f"error chooses {wrong[0]} itself: leave out {wrong[0]}, or error")
    if not (isinstance(error, (int, float)) and not isinstance(error, bool) and 0 < error < 1):
        raise ValueError(f"error must be above 0 and below 1, got {error!r}")
    if len(problem.lower) != 1:
        d = len(problem.lower)
        raise ValueError(
            f"error is for problems in one space dimension, and problem {problem.name!r} has {d}: give the number of"
            " bumps instead"
        )
    _check_slopes(problem)
    jumps = [one for one in contradictions(problem) if one.kind == "jump"]
    if jumps:
        raise ValueError(
            f"no u has a small error if the data of problem {problem.name!r} contradict one another at t = 0:"
            f" {jumps[0]}; correct them, or give the number of bumps instead of error"
        )


def _check_slopes(problem: EvolutionProblem) -> None:
    """Raise ValueError if the start has other slopes at the ends than those that are given."""
    if not problem.sloped:
        return
    ends = problem.domain.double()
    x = torch.from_numpy(sampled(axis_of(problem), _ALONG))[:, None]
    try:
        slope, along = (Jet.of(problem.initial, at, "gradient").d(0) for at in (ends, x))
    except RuntimeError:  # the start cannot be differentiated
        return
    given = problem.boundary_slopes(ends).reshape(2, -1).to(slope)
    apart = (slope - given).abs() - _SLOPES_AGREE * along.abs().amax(0) - 1e-9
    end, output = divmod(int(apart.argmax()), apart.shape[1])
    if float(apart[end, output]) > 0:
        raise ValueError(
            f"the start of problem {problem.name!r} contradicts its slopes at t = 0, x = {float(ends[end, 0]):g}:"
            f" initial has {float(slope[end, output]):.4g} there and boundary_slopes {float(given[end, output]):.4g}"
        )


def evolve_to(
    problem: EvolutionProblem, error: float, ends: Sequence[float], stop: Stop, callbacks: Iterable[Callback],
    started: float,
) -> GradedEvolution:  # fmt: skip
    """Solve an evolution problem in one dimension to a stated error: see :func:`~bumpnet_fast.solvers.evolve`."""
    with torch.no_grad(), few_threads(0):
        return _Search(problem, error, ends, stop, tuple(callbacks), started).result()


@dataclass
class _Solved:
    """A level, and what it took."""

    level: Level
    seconds: float
    clock: list[tuple[float, int]]  # seconds and steps at the output times
    change: float | None = None


class _Search:
    """The levels of one evolution."""

    def __init__(
        self, problem: EvolutionProblem, error: float, ends: Sequence[float], stop: Stop,
        callbacks: tuple[Callback, ...], started: float,
    ):  # fmt: skip
        self.problem, self.error, self.callbacks, self.started = problem, error, callbacks, started
        most = len(ends) if stop.iterations is None else min(len(ends), int(stop.iterations))
        self.ends, self.cut = tuple(ends[:most]), most < len(ends)
        self.deadline = math.inf if stop.seconds is None else started + stop.seconds
        self.began = time.process_time()
        self.solved: list[_Solved] = []
        self.told, self.reason, self.message = 0, StopReason.NOT_REACHED, ""
        self._look()

    def _look(self) -> None:
        """How the right-hand side depends on time and place."""
        problem, axis = self.problem, axis_of(self.problem)
        x = torch.from_numpy(sampled(axis, _PLACES))[:, None]
        generator = torch.Generator().manual_seed(0)
        u = jet_of(problem, lambda shape: torch.randn(shape, dtype=torch.float64, generator=generator), _PLACES)
        rate = problem.rhs(x, u, 0.0)
        if not isinstance(rate, Tensor) or rate.numel() != _PLACES * problem.outputs:
            got = tuple(rate.shape) if isinstance(rate, Tensor) else type(rate).__name__
            wanted = f"[N, {problem.outputs}]" if problem.outputs > 1 else "[N] or [N, 1]"
            raise ValueError(f"rhs(x, u, t) of problem {problem.name!r} must have shape {wanted}, got {got}")
        over_time = OverTime.of(lambda t: problem.rhs(x, u, t).reshape(_PLACES, -1), self.ends[-1])
        self.by_time, self.longest = over_time.other is not None, over_time.longest
        elsewhere = problem.rhs(x.roll(_PLACES // 3, 0), u, 0.0)
        self.by_place = not torch.equal(rate, elsewhere)

    # --- the levels -------------------------------------------------------------------------------

    def result(self) -> GradedEvolution:
        """Solve levels until the error is reached, or as far as it goes."""
        best, estimate = None, None
        try:
            for pair in self._pairs():
                best, estimate = pair
        except KeyboardInterrupt:
            if not self.solved:
                raise
            self.reason, self.message = StopReason.INTERRUPTED, ""
        except Ended as end:
            self.reason, self.message = end.reason, ""
        if best is None:
            best = self.solved[-1]
        return self._evolution(best, estimate)

    def _pairs(self):
        """Solve pairs of levels; yield the coarser one of each with its estimate."""
        aim, finer, before = min(_AIM * self.error, COARSEST), None, None
        for _ in range(_PAIRS):
            coarse = self._level(aim) if finer is None else finer
            fine = None if coarse.level.reason is StopReason.NOT_REACHED else self._level(_FINER * aim)
            if fine is None:
                self.message = coarse.level.message
                if before is None:
                    yield coarse, None
                return
            estimate = compared(coarse.level, fine.level)
            coarse.change = change = max((*estimate.over_time, *estimate.rel_l2))
            yield coarse, estimate
            if self._ended(coarse.level, fine.level):
                return
            reached = change <= self.error and coarse.level.reason is StopReason.FINISHED
            if reached and self._sound(coarse.level, fine.level, aim, change, before):
                self.reason = StopReason.REACHED
                return
            if before is not None and not change < 0.7 * before:
                self.message = f"finer bumps and steps change u by {change:.2g} still: this does not fall any more"
                return
            before = change
            wanted = aim * min(1.0, self.error / change) * _AIM if change > 0 else aim
            finer = fine if wanted >= _FINER * aim / _SERVES or reached else None
            aim = _FINER * aim if finer is not None else wanted
            if aim < _LEAST_AIM:
                self.message = f"the change of u to a finer level is {change:.2g}, and finer ones only add rounding"
                return
        self.message = f"after {_PAIRS} pairs of levels the change of u is still {change:.2g}"

    def _ended(self, coarse: Level, fine: Level) -> bool:
        """Whether two levels ended early for the same reason, which is kept."""
        if fine.reason is StopReason.NOT_REACHED:
            self.message = f"{fine.message}, in a finer level that the error asks for"
            return True
        early = coarse.reason is StopReason.UNSTABLE, fine.reason is StopReason.UNSTABLE
        if all(early) and abs(coarse.reached - fine.reached) <= _SAME_END * fine.reached:
            self.reason, self.message = StopReason.UNSTABLE, fine.message
            return True
        return False

    def _sound(self, coarse: Level, fine: Level, aim: float, change: float, before: float | None) -> bool:
        """Whether nothing speaks against the estimate: both levels must see all of the start."""
        missed = max(level.missed_start() for level in (coarse, fine))
        return missed <= max(3 * change, _MISSED * aim)

    def _level(self, aim: float) -> _Solved:
        """Solve one level; an interrupt leaves what there is of it."""
        began, clock, entries = time.process_time(), [], self.callbacks

        def tell(t: float, out: bool) -> None:
            if out:
                while len(clock) < len(level.times):
                    clock.append((time.perf_counter() - self.started, level.steps))
                for callback in entries:
                    callback(self._progress(level, t))
            if time.perf_counter() > self.deadline:
                raise Ended(StopReason.TIME)

        sizes = self.solved[-1].level.sizes.largest if self.solved else None
        level = Level(
            self.problem, Fineness.of(aim), self.ends, self.by_time, self.by_place, self.longest, sizes, tell
        )  # fmt: skip
        clock.append((time.perf_counter() - self.started, 0))
        solved = _Solved(level, 0.0, clock)
        self.solved.append(solved)
        try:
            level.follow()
        finally:
            solved.seconds = time.process_time() - began
        return solved

    def _progress(self, level: Level, t: float) -> Progress:
        self.told += 1
        entry = _entry(level, len(level.times) - 1, time.perf_counter() - self.started, level.steps, self.ends[-1])
        entry |= {"level": len(self.solved), "iteration": self.told}
        return Progress(
            self.told, entry["seconds"], entry["loss"], None, lambda: _net_of(level, t), t / self.ends[-1], entry
        )

    # --- the result -------------------------------------------------------------------------------

    def _evolution(self, best: _Solved, estimate: EvolutionEstimate | None) -> GradedEvolution:
        level, problem = best.level, self.problem
        columns, most = level.reports[0].rows.shape[1], max(len(report.rows) for report in level.reports)
        states, rates = (torch.zeros(len(level.times), most, columns, dtype=torch.float64) for _ in range(2))
        for i, report in enumerate(level.reports):
            n = len(report.rows)
            states[i, :n], rates[i, :n] = report.rows, report.rates
            states[i, n:, : columns - problem.outputs] = report.rows[-1, : columns - problem.outputs]
        images = max(stretch.model.space.images[0] for stretch in level.stretches)
        frame = level.stretches[0].model.space.frame
        first = level.reports[0].rows
        seconds = [*best.clock, *[(time.perf_counter() - self.started, level.steps)] * len(level.times)]
        history = [_entry(level, i, *seconds[i], self.ends[-1]) for i in range(len(level.times))]
        x = lattice(problem.domain)
        known = problem.exact(x, level.times[-1])
        if estimate is None:
            why = self.reason.message if self.reason is not StopReason.NOT_REACHED else self.message
            nothing = (math.nan,) * problem.outputs
            estimate = EvolutionEstimate(nothing, nothing, False, f"there is no finer level to compare with: {why}")
        warnings = list(dict.fromkeys(doubts(level.stretches[0].model, level.times, level.reports)))
        warnings += self._warnings(level, estimate)
        result = GradedEvolution(
            net=BumpNet.from_rows(first, frame, problem.domain, False), problem=problem, history=history,
            stop=self.reason, seconds=best.clock[-1][0] - best.clock[0][0],
            processor_seconds=time.process_time() - self.began, warnings=warnings,
            times=torch.tensor(level.times, dtype=torch.float64), states=states, rates=rates,
            space=Space(problem, frame, False, (images,)), fit_error=level.fit_error,
            setup_seconds=best.clock[0][0], steps=level.steps, stages=level.stages, solve_seconds=0.0,
            method="rodas5p", shapes="graded", error=self.error, estimate=estimate,
            stretches=[_bumps(stretch) for stretch in level.stretches], levels=[_summary(one) for one in self.solved],
        )  # fmt: skip
        if known is not None:
            result.rel_l2, result.max_error = errors(result.predict(x, level.times[-1]), known)
        return result

    def _warnings(self, level: Level, estimate: EvolutionEstimate) -> list[str]:
        if self.reason is StopReason.REACHED:
            return []
        found = [self.message] if self.message else []
        if self.reason is StopReason.NOT_REACHED:
            size = max((*estimate.over_time, *estimate.rel_l2))
            about = f": it is about {size:.2g}" if math.isfinite(size) else ""
            until = f", and what was computed until t = {level.times[-1]:.4g} is kept" if level.message else ""
            found.append(f"the error {self.error:g} was not reached{about}{until}")
        return found


def _entry(level: Level, i: int, seconds: float, steps: int, final: float) -> dict[str, Any]:
    """The entry of the history for an output time."""
    report = level.reports[i]
    return {
        "iteration": i, "seconds": seconds, "loss": report.relative, "stage": "rodas5p", "time": level.times[i],
        "final_time": final, "norm": report.norm, "residual": report.relative, "steps": steps,
        "bumps": len(report.rows),
    }  # fmt: skip


def _net_of(level: Level, t: float) -> BumpNet:
    stretch = level.stretch_at(t)
    report = stretch.model.report(t, stretch.state(t))
    return BumpNet.from_rows(report.rows, stretch.model.space.frame, level.problem.domain, False)


def _bumps(stretch: Any) -> Bumps:
    model = stretch.model
    n, m, k = len(stretch.within), len(model.start_rows), model.layout.outputs
    states = torch.stack(stretch.states).view(n + 1, model.rank, k)
    within = torch.stack(stretch.within) if n else states.new_empty(0, 3, model.rank * k)
    return Bumps(
        model.start_rows, float(model.speed), torch.tensor(stretch.times, dtype=torch.float64),
        model.to_amplitudes @ states, (model.to_amplitudes @ within.view(n, 3, model.rank, k)).reshape(n, 3, m, k),
    )  # fmt: skip


def _summary(solved: _Solved) -> dict[str, Any]:
    level = solved.level
    bumps = max(len(stretch.model.start_rows) for stretch in level.stretches)
    return {"bumps": bumps, "steps": level.steps, "seconds": solved.seconds, "change": solved.change}


def compared(coarse: Level, fine: Level) -> EvolutionEstimate:
    """The error of a level, by its difference to a finer one at the ends of the steps of that."""
    until = min(coarse.times[-1], fine.times[-1])
    steps = sorted({t for stretch in fine.stretches for t in stretch.times if 0 < t < until})
    every = max(1, len(steps) // _COMPARED)
    times = [0.0, *steps[::every], until]
    off, size, largest = [], [], None
    for t in times:
        stretch = fine.stretch_at(t)
        model, y = stretch.model, stretch.state(t)
        u = model.basis.value @ y.view(model.rank, -1) + model.lift.value
        apart = u - coarse.values(model.points_at(t)[:, 0], t)
        off.append(model.rms_of_outputs(apart))
        size.append(model.rms_of_outputs(u))
        largest = apart.abs().amax(0)
    off, size = torch.stack(off), torch.stack(size)
    top = size.amax(0)
    zero = top <= _ROUNDING * float(top.max())
    size = torch.where(zero, torch.ones_like(size), torch.maximum(size, LEAST_SIZE * top))
    relative = off / size
    over_time = relative[:-1].amax(1)
    worst = float(relative.max())
    reason = "a finer level, with more bumps and shorter steps, differs by so much"
    if worst < _ROUNDING:
        reason = "the difference is rounding, so the error is at most about that"
    return EvolutionEstimate(
        tuple(relative[-1].tolist()), tuple(largest.tolist()), worst >= _ROUNDING, reason, times=tuple(times[:-1]),
        over_time=tuple(over_time.tolist()),
    )  # fmt: skip


__all__ = ["CHOSEN", "MOST", "check_error", "compared", "evolve_to"]
