"""What is known about the quality of a solution, as a table, and what looks wrong with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..core.jet import Jet
from ..nets.bumpnet import BumpNet
from ..problems.base import Condition, call_residual
from . import refine
from .estimate import ErrorEstimate, Places, Stage
from .given_values import warned
from .grad_mode import differentiating
from .loop import StopReason
from .residual import Block, System, blocks, linearise

#: A loss that is a larger share of that of u = 0 is no solution.
_LARGE_LOSS = 0.01
#: Unless all residuals are as small as this beside their terms.
_SMALL_MISFIT = 1e-3
#: Ends of a run that say that there is nothing to be gained.
_ENDED = (StopReason.CONVERGED, StopReason.NO_DECREASE)
#: A residual between the points that is so many times that at the points.
_LARGE_HELD_OUT = 10.0
#: A relative error that is worth a word.
_LARGE_ERROR = 0.01
#: Points that nothing was trained on.
_HELD_OUT = 4096


@dataclass(frozen=True)
class Misfit:
    """How well one equation or condition holds.

    Attributes
    ----------
    name : str
        "equation", "equation 1", ..., or the name of a condition.
    rms, largest : float
        Root mean square and largest absolute value of its residual, as the problem writes it.
    size : float
        Root mean square of its terms: the data, or what is added and subtracted to give the residual.
    """

    name: str
    rms: float
    largest: float
    size: float

    @property
    def relative(self) -> float:
        """The root mean square relative to the terms; NaN where these are zero."""
        return self.rms / self.size if self.size > 0 else math.nan


@dataclass(frozen=True)
class Report:
    """What is known about the quality of a solution; ``str`` makes a table of it.

    Attributes
    ----------
    misfits : tuple of Misfit
        Of every equation and every condition.
    loss, reference_loss : float
        The loss at the end, and that of u = 0 (of what the boundary alone makes of u, where it is built in).
    held_out : float
        Root mean square of the residual at points that were not trained on, relative to that at those of training.
    error : ErrorEstimate
        The estimated error of u.
    unknowns : dict of str to float
        Of the equation, as found.
    stop : StopReason
        Why the solve ended.
    warnings : tuple of str
        What looks wrong, and what to do about it.
    """

    misfits: tuple[Misfit, ...]
    loss: float
    reference_loss: float
    held_out: float
    error: ErrorEstimate
    unknowns: dict[str, float]
    stop: StopReason
    warnings: tuple[str, ...] = field(default=())

    @classmethod
    def of(cls, solution: Any) -> Report:
        """That of a solution or a march."""
        return _report(solution)

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values."""
        misfits = [
            {"name": m.name, "rms": m.rms, "largest": m.largest, "size": m.size, "relative": m.relative}
            for m in self.misfits
        ]
        error = {
            "rel_l2": list(self.error.rel_l2), "max": list(self.error.max), "reliable": self.error.reliable,
            "reason": self.error.reason, "unknowns": dict(self.error.unknowns),
        }  # fmt: skip
        return {
            "misfits": misfits, "loss": self.loss, "reference_loss": self.reference_loss, "held_out": self.held_out,
            "error": error, "unknowns": dict(self.unknowns), "stop": self.stop.value, "warnings": list(self.warnings),
        }  # fmt: skip

    def __str__(self) -> str:
        head = ("residual of", "root mean square", "largest", "size of its terms", "relative")
        table = [head, *((m.name, *map(_number, (m.rms, m.largest, m.size, m.relative))) for m in self.misfits)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in table if self.misfits
        ]
        about = [*self._lines(), *(("warning", warning) for warning in self.warnings)]
        width = max(len(name) for name, _ in about)
        return "\n".join([*lines, *([""] if lines else []), *(f"{name.ljust(width)}  {text}" for name, text in about)])

    def _lines(self) -> list[tuple[str, str]]:
        """What is below the table, each with its name."""
        error, share = self.error, self.loss / self.reference_loss if self.reference_loss > 0 else math.nan
        lines = [("loss", f"{_number(self.loss)}, relative to that of u = 0: {_number(share)}")]
        lines.append(("between the points", f"the residual is {_number(self.held_out)} times that at the points"))
        for k, (rel_l2, largest) in enumerate(zip(error.rel_l2, error.max, strict=True)):
            name = f"error of output {k + 1}" if len(error.rel_l2) > 1 else "error"
            lines.append((name, f"{_number(rel_l2)} relative L2, {_number(largest)} at most (estimated)"))
        lines.append(("estimate", f"{'reliable' if error.reliable else 'NOT reliable'}: {error.reason}"))
        for name, value in self.unknowns.items():
            lines.append((name, f"{value:.6g} +- {_number(error.unknowns.get(name, math.nan))}"))
        return [*lines, ("stopped", self.stop.message)]


def _number(value: float) -> str:
    return f"{value:.2g}" if math.isfinite(value) else "unknown"


# --- what looks wrong ----------------------------------------------------------------------------


def doubts(task: Any, reason: StopReason, loss: float) -> list[str]:
    """What looks wrong with a solution, as far as that is known at the end of a solve without further work."""
    found = warned(task.problem, task.net, task.boundary, task.contradictions)
    for k in task.system.open_constants():
        which = f"output {k}" if task.problem.outputs > 1 else "u"
        found.append(
            f"{which} is determined up to a constant only, as its derivatives alone occur: give its value at a point,"
            " by a Condition in side_conditions()"
        )
    if not math.isfinite(loss) or reason is StopReason.DIVERGED:
        found.append("the loss is not finite: check the coefficients of the equation, or take smaller steps")
    elif reason in _ENDED:
        places = Places(task.x, task.counts, task.weights, task.condition_weight, task.balance)
        stage = Stage(task.problem, task.net, task.boundary, task.named_unknowns(), places)
        found += _large_loss(loss, task.reference_loss(), lambda: _joined([_misfits(stage)]))
    return found + _slipping(task.net)


def _large_loss(loss: float, reference: float, misfits: Callable[[], Sequence[Misfit]]) -> list[str]:
    """That a loss is large beside that of u = 0, unless u = 0 fits as well as that by itself."""
    if not loss > _LARGE_LOSS * reference or all(m.relative < _SMALL_MISFIT for m in misfits()):
        return []
    share = f"{loss / reference:.0%}" if reference > 0 else "more"
    advice = (
        "take more bumps, another start, or boundary='hard'; check that the equations do not contradict one another"
    )
    return [f"the loss does not decrease any more, but is still {share} of that of u = 0: {advice}"]


def _slipping(net: BumpNet) -> list[str]:
    """Bumps whose edges may slip between the points, and others that are of no use."""
    return [f"{finding}: take more points where they are (refine=2), or fewer bumps" for finding in net.check()]


# --- what is measured ----------------------------------------------------------------------------


@differentiating
def _report(solution: Any) -> Report:
    stages, error = solution.stages(), solution.error_estimate
    warnings = list(solution.warnings)
    misfits, reference, held_out, homogeneous = [], math.nan, math.nan, False
    try:
        with torch.no_grad():
            misfits = _joined([_misfits(stage) for stage in stages])
            reference = max(_reference_loss(stage) for stage in stages)
            held_out = max(_held_out(stage) for stage in stages)
            homogeneous = reference == 0 and not bool(torch.cat([s.net.amplitudes.flatten() for s in stages]).any())
    except Exception as problem:  # a problem that is not known any more, or holds at its own points only
        text = f"{type(problem).__name__}: {problem}".split("\n")[0]
        warnings.append(f"not everything could be measured: {text}")
    if solution.stop in _ENDED:
        warnings += _large_loss(solution.loss, reference, lambda: misfits)
    for stage in stages:
        warnings += _slipping(stage.net)
    if held_out > _LARGE_HELD_OUT:
        warnings.append(
            f"the residual between the points is {held_out:.2g} times that at the points: take more points, or refine=2"
        )
    if homogeneous:
        warnings.append(
            "u = 0 solves the equation and its conditions, and nothing leads away from it: start from other amplitudes"
            " if you look for another solution"
        )
    if solution.stop is StopReason.LOSS_FLOOR and not solution.iterations and not error.reliable:
        warnings.append("the loss was rounding before any step was taken: check the units of the equation")
    if not error.reliable:
        warnings.append("the error is not known reliably: solve again with more bumps and points, and compare")
    elif max(error.rel_l2) > _LARGE_ERROR:
        warnings.append(f"the error is about {max(error.rel_l2):.1%}: take more bumps, points or iterations")
    warnings = list(dict.fromkeys(warnings))
    return Report(
        tuple(misfits), solution.loss, reference, held_out, error, dict(getattr(solution, "unknowns", {})),
        solution.stop, tuple(warnings),
    )  # fmt: skip


def _places(stage: Stage) -> Places:
    places = Places.default(stage.problem, stage.net) if stage.places is None else stage.places
    return places.balanced(stage.problem, stage.net, stage.boundary, stage.unknowns)


def _jet(stage: Stage, x: Tensor, want: str) -> Jet:
    """The jet of u, in float64."""

    def bumps(x: Tensor) -> Jet:
        return stage.net.jet(x.to(stage.net.rows), want=want).map(Tensor.double)

    return stage.problem.extend(bumps, x, want, stage.boundary)


def _misfits(stage: Stage) -> list[tuple[str, Tensor, Tensor]]:
    """By equation and condition: its name, its residual [n] and the sizes of its terms [n]."""
    problem, places = stage.problem, _places(stage)
    x = places.x.to(stage.net.rows.device)
    named = {name: x.new_tensor(value) for name, value in stage.unknowns.items()}
    block = Block(problem.name, x, problem.want, lambda u, **k: call_residual(problem.residual, x, u, k), 1.0)
    found = _of_block(block, _jet(stage, x, problem.want), named)
    names = ["equation"] if len(found) == 1 else [f"equation {k + 1}" for k in range(len(found))]
    rows = [(name, *values) for name, values in zip(names, found, strict=True)]
    conditions = [*([] if stage.boundary == "hard" else problem.conditions()), *problem.side_conditions()]
    for condition in conditions:
        rows += _of_condition(stage, condition, condition.points(places.counts).to(x), named)
    return rows


def _of_condition(
    stage: Stage, condition: Condition, x: Tensor, named: dict[str, Tensor]
) -> list[tuple[str, Tensor, Tensor]]:
    u = _jet(stage, x, condition.want)
    size = 0.0
    if condition.period is not None:
        there = _jet(stage, x + x.new_tensor(condition.period), condition.want)
        u, size = u - there, u.value.abs().amax(1)
    block = Block(condition.name, x, condition.want, lambda u, **k: call_residual(condition.residual, x, u, k), 1.0)
    found = _of_block(block, u, named)
    names = [condition.name] if len(found) == 1 else [f"{condition.name} {k + 1}" for k in range(len(found))]
    return [(name, rows, terms + size) for name, (rows, terms) in zip(names, found, strict=True)]


def _of_block(block: Block, u: Jet, unknowns: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    residual, by_equation = linearise(block, (u,), unknowns)
    zero = block.residual((u.map(torch.zeros_like),), unknowns)
    found = []
    for rows, data, (by_output,) in zip(residual, zero, by_equation, strict=True):
        terms = data.abs()
        refine.add_terms(terms, by_output, u)
        found.append((rows, terms))
    return found


def _joined(windows: Sequence[list[tuple[str, Tensor, Tensor]]]) -> list[Misfit]:
    """The rows of all windows of time, by name; a condition that only some windows have is of these."""
    by_name: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for rows in windows:
        for name, residual, terms in rows:
            by_name.setdefault(name, []).append((residual, terms))
    misfits = []
    for name, parts in by_name.items():
        residual, terms = (torch.cat(part) for part in zip(*parts, strict=True))
        rms, size = (float(part.square().mean().sqrt()) for part in (residual, terms))
        misfits.append(Misfit(name, rms, float(residual.abs().max()), size))
    return misfits


def _reference_loss(stage: Stage) -> float:
    places = _places(stage)
    about = stage.problem, stage.boundary, places.counts, places.x, places.condition_weight, places.weights
    rows = blocks(*about, balance=places.balance)
    zero, _ = System(rows, stage.net, stage.unknowns).linearise()
    return float(zero @ zero)


def _held_out(stage: Stage) -> float:
    """Root mean square of the residual between the points, relative to that at the points; NaN if it has no other."""
    if stage.problem.points is not None:
        return math.nan
    problem, places = stage.problem, _places(stage)
    x = places.x.to(stage.net.rows.device)
    there = refine.candidates(problem, stage.net, _HELD_OUT, torch.Generator().manual_seed(1), 1).to(x)

    def bumps(x: Tensor) -> Jet:
        return stage.net.jet(x.to(stage.net.rows), want=problem.want).map(Tensor.double)

    both = torch.cat([x, there])
    named = {name: x.new_tensor(value) for name, value in stage.unknowns.items()}
    residual, terms = refine.residual_and_terms(problem, bumps, stage.boundary, named, both, places.balance[0])
    residual = residual / (1 + terms / terms.mean().clamp_min(1e-300))
    own, others = (float(part.square().mean().sqrt()) for part in residual.split([len(x), len(there)]))
    return others / own if own > 0 else math.nan


__all__ = ["Misfit", "Report", "doubts"]
