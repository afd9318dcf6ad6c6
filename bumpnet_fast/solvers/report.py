"""What is known about the quality of a solution, as a table, and what looks wrong with it."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..core.jet import Jet
from ..nets.bumpnet import BumpNet
from ..problems.base import Condition
from . import refine
from .estimate import _ROUNDING, ErrorEstimate, Places, Stage
from .given_values import contradictions
from .grad_mode import differentiating
from .loop import StopReason
from .residual import Block, System, blocks, linearise

#: A loss that is a larger share of that of u = 0 is no solution.
_LARGE_LOSS = 0.01
#: Unless all residuals are as small as this beside their terms; where u = 0 has no residual, as small as that.
_SMALL_MISFIT, _SMALL_WITHOUT = 1e-3, 0.1
#: Ends of a run at which there is nothing more to be gained in the same way.
_STUCK = (StopReason.STALLED, StopReason.NO_DECREASE)
#: Columns of the report as text, and longest name in it.
_WIDE, _NAME = 100, 30
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
    held_out : float
        Root mean square of its residual at points that were not trained on; NaN where there are none.
    """

    name: str
    rms: float
    largest: float
    size: float
    held_out: float = math.nan

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
    error : ErrorEstimate or None
        The estimated error of u; None if it was switched off.
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
    error: ErrorEstimate | None
    unknowns: dict[str, float]
    stop: StopReason
    warnings: tuple[str, ...] = field(default=())

    @classmethod
    def of(cls, solution: Any, estimate: bool = True) -> Report:
        """That of a solution or a march; it never raises.  ``estimate`` is whether to estimate the error of u."""
        return _report(solution, estimate)

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values."""
        misfits = [asdict(m) | {"relative": m.relative} for m in self.misfits]
        error = self.error and {
            "rel_l2": list(self.error.rel_l2), "max": list(self.error.max), "reliable": self.error.reliable,
            "reason": self.error.reason, "unknowns": dict(self.error.unknowns),
        }  # fmt: skip
        return {
            "misfits": misfits, "loss": self.loss, "reference_loss": self.reference_loss, "held_out": self.held_out,
            "error": error, "unknowns": dict(self.unknowns), "stop": self.stop.value,
            "stop_message": self.stop.message, "warnings": list(self.warnings),
        }  # fmt: skip

    def __str__(self) -> str:
        return self.table(warnings=True)

    def table(self, *, warnings: bool = False) -> str:
        """The report as text, with or without the warnings."""
        head = ("residual of", "root mean square", "between points", "largest", "size of terms", "relative")
        table = [head]
        for m in self.misfits:
            held_out = _number(m.held_out) if math.isfinite(m.held_out) else "-"
            table.append((_short(m.name), _number(m.rms), held_out, *map(_number, (m.largest, m.size, m.relative))))
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in table if self.misfits
        ]
        about = [*self._lines(), *(("warning", warning) for warning in self.warnings if warnings)]
        return "\n".join([*lines, *([""] if lines else []), *_named(about)])

    def _lines(self) -> list[tuple[str, str]]:
        """What is below the table, each with its name."""
        lines = [("loss", f"{_number(self.loss)}, {self._beside_zero()}")]
        if math.isfinite(self.held_out):
            beside = f"the residual is {_number(self.held_out)} times that at the points"
            lines.append(("between the points", beside))
        lines += [("estimate", "switched off")] if self.error is None else self._estimated(self.error)
        for name, value in self.unknowns.items():
            deviation = math.nan if self.error is None else self.error.unknowns.get(name, math.nan)
            lines.append((name, f"{value:.6g} +- {_number(deviation)}"))
        return [*lines, ("stopped", f"{self.stop.value}: {self.stop.message}".removeprefix(": "))]

    @staticmethod
    def _estimated(error: ErrorEstimate) -> list[tuple[str, str]]:
        lines = []
        for k, (rel_l2, largest) in enumerate(zip(error.rel_l2, error.max, strict=True)):
            if math.isfinite(rel_l2):
                name = f"error of output {k + 1}" if len(error.rel_l2) > 1 else "error"
                lines.append((name, f"{_number(rel_l2)} relative L2, {_number(largest)} at most (estimated)"))
        return [*lines, ("estimate", f"{'reliable' if error.reliable else 'NOT reliable'}: {error.reason}")]

    def _beside_zero(self) -> str:
        if self.reference_loss == 0:
            return "that of u = 0 is 0"
        share = self.loss / self.reference_loss if self.reference_loss > 0 else math.nan
        return f"relative to that of u = 0: {_number(share)}"


def _named(lines: Sequence[tuple[str, str]]) -> list[str]:
    """Texts beside their names, wrapped."""
    width = max(len(_short(name)) for name, _ in lines)
    found = []
    for name, text in lines:
        first, *others = textwrap.wrap(text, _WIDE - width - 2, break_on_hyphens=False)
        found += [f"{_short(name).ljust(width)}  {first}", *(" " * (width + 2) + part for part in others)]
    return found


def _short(name: str) -> str:
    """A name in one short line."""
    name = " ".join(name.split())
    return name if len(name) <= _NAME else f"{name[: _NAME - 3]}..."


def _number(value: float) -> str:
    return f"{value:.2g}" if math.isfinite(value) else "unknown"


#: For the reports of other results.
beside_names, number = _named, _number


# --- what looks wrong ----------------------------------------------------------------------------


def is_large(task: Any, loss: float) -> bool:
    """Whether the loss of what a run has found is a large part of that of u = 0; all ranks agree."""
    large = bool(_large_loss(loss, task.reference_loss(), lambda: _joined([_misfits(_stage(task))])))
    return not task.ranks.every(not large)


def doubts(task: Any, reason: StopReason, loss: float) -> list[str]:
    """What looks wrong with a solution, as far as that is known at the end of a solve without further work."""
    advice = "no smooth u has both, so expect errors near there; let one of them change over a short length"
    found = [f"{sentence}; {advice}" for sentence in contradictions(task.problem)]
    if not math.isfinite(loss) or reason is StopReason.DIVERGED:
        found.append("the loss is not finite: check the coefficients of the equation, or take smaller steps")
    elif reason in _STUCK:
        found += _large_loss(loss, task.reference_loss(), lambda: _joined([_misfits(_stage(task))]))
    return found + _slipping(task.net)


def at_the_start(solution: Any) -> list[str]:
    """A warning where the loss was rounding before any step was taken, unless the estimate of the error confirms it."""
    if solution.stop is not StopReason.LOSS_FLOOR or solution.iterations:
        return []
    if all(_is_zero(stage) for stage in solution.stages()):
        return [_ZERO]
    error = solution.error_estimate
    if error.reliable or max(error.rel_l2) < _ROUNDING:
        return []
    return ["the loss was rounding before any step was taken: take more points, and check the units of the equation"]


#: A warning about an answer of zeros.
_ZERO = (
    "u = 0 solves the equation and its conditions, and nothing leads away from it: start from other amplitudes"
    " if you look for another solution"
)


def _is_zero(stage: Stage) -> bool:
    """Whether u is zero at all points."""
    return not bool(_jet(stage, _points(stage), "value").value.any())


def _large_loss(
    loss: float, reference: float, misfits: Callable[[], Sequence[Misfit]], stop: StopReason = StopReason.STALLED
) -> list[str]:
    """That a loss is large beside that of u = 0, unless u = 0 fits as well as that by itself."""
    if not loss > _LARGE_LOSS * reference:
        return []
    small, parts = _SMALL_MISFIT if reference > 0 else _SMALL_WITHOUT, misfits()
    if all(m.rms <= small * m.size for m in parts):
        return []
    still = f"is still {loss / reference:.0%} of that of u = 0" if reference > 0 else "is large, and that of u = 0 is 0"
    if stop not in _STUCK:
        return [f"the loss {still}: take more iterations or bumps"]
    advice = (
        "take more bumps, another start, or boundary='hard'; check that the equations do not contradict one another"
    )
    return [f"the loss does not decrease any more, but {still}: {advice}"]


def _slipping(net: BumpNet) -> list[str]:
    """Bumps whose edges may slip between the points, and others that are of no use."""
    return [f"{finding}: take more points where they are (refine=2), or fewer bumps" for finding in net.check()]


# --- what is measured ----------------------------------------------------------------------------


Found = TypeVar("Found")


@differentiating
@torch.no_grad()
def _report(solution: Any, estimate: bool) -> Report:
    warnings = list(solution.warnings)

    def known(what: Callable[[], Found], otherwise: Found) -> Found:
        """What can be measured: a problem may not be known any more, or hold at its own points only."""
        try:
            return what()
        except Exception as problem:
            text = f"{type(problem).__name__}: {problem}".split("\n")[0]
            warnings.append(f"not everything could be measured: {text}")
            return otherwise

    error = None
    if estimate or "_error_estimate" in vars(solution):
        unknown = (math.nan,) * solution.net.layout.outputs
        error = known(lambda: solution.error_estimate, ErrorEstimate(unknown, unknown, False, "it cannot be computed"))
    stages = known(solution.stages, [])
    misfits = known(lambda: _joined([_misfits(stage, held_out=True) for stage in stages]), [])
    reference = known(lambda: max(map(_reference_loss, stages)), math.nan)
    held_out = known(lambda: max(map(_held_out, stages)), math.nan)
    if error is None or solution.stop in _STUCK:  # else the estimate says more
        warnings += known(lambda: _large_loss(solution.loss, reference, lambda: misfits, solution.stop), [])
    warnings += known(lambda: [found for stage in stages for found in _slipping(stage.net)], [])
    if held_out > _LARGE_HELD_OUT:
        warnings.append(
            f"the residual between the points is {held_out:.2g} times that at the points: take more points, or refine=2"
        )
    if reference == 0 and known(lambda: all(map(_is_zero, stages)), False):
        warnings.append(_ZERO)
    if error is not None:
        warnings += known(lambda: at_the_start(solution), []) + _about(error)
    return Report(
        tuple(misfits), solution.loss, reference, held_out, error, dict(solution.unknowns), solution.stop,
        tuple(dict.fromkeys(warnings)),
    )  # fmt: skip


def _about(error: ErrorEstimate) -> list[str]:
    """What the estimate says against a solution."""
    if not error.reliable:
        return ["the error is not known reliably: solve again with more bumps and points, and compare"]
    largest = max(error.rel_l2)
    return [f"the error is about {largest:.1%}: take more bumps, points or iterations"] * (largest > _LARGE_ERROR)


def _stage(task: Any) -> Stage:
    """What a run has found."""
    places = Places(task.x, task.counts, task.weights, task.condition_weight)
    return Stage(task.problem, task.net, task.boundary, task.named_unknowns(), places)


def _places(stage: Stage) -> Places:
    return Places.default(stage.problem, stage.net) if stage.places is None else stage.places


def _points(stage: Stage) -> Tensor:
    return _places(stage).x.to(stage.net.rows.device)


def _jet(stage: Stage, x: Tensor, want: str) -> Jet:
    """The jet of u, in float64."""

    def bumps(x: Tensor) -> Jet:
        return stage.net.jet(x.to(stage.net.rows), want=want).map(Tensor.double)

    return stage.problem.extend(bumps, x, want, stage.boundary)


#: Of one equation or condition: its name, its residual [n], the sizes of its terms [n], and its residual elsewhere.
_Row = tuple[str, Tensor, Tensor, Tensor]


def _misfits(stage: Stage, held_out: bool = False) -> list[_Row]:
    """By equation and condition; with ``held_out`` also at points that were not trained on, where there are any."""
    problem, places = stage.problem, _places(stage)
    x = _points(stage)
    named = {name: x.new_tensor(value) for name, value in stage.unknowns.items()}
    want = "diagonal" if problem.want == "laplacian" else problem.want  # its terms may cancel

    def equation(x: Tensor) -> list[tuple[Tensor, Tensor]]:
        block = Block(problem.name, x, want, lambda u, **k: problem.residual(x, u, **k), 1.0)
        return _of_block(block, _jet(stage, x, want), named)

    other = _between(stage).to(x) if held_out and problem.points is None else x[:0]
    rows = _rows("equation", equation, x, other)
    if len(rows) > 1:
        rows = [(f"equation {k + 1}", *row[1:]) for k, row in enumerate(rows)]
    for condition in [*([] if stage.boundary == "hard" else problem.conditions()), *problem.side_conditions()]:
        at = condition.points(places.counts).to(x)
        other = condition.points(tuple(n + n // 2 + 1 for n in places.counts)).to(x) if held_out else at
        other = x[:0] if len(other) == len(at) else other  # measurements have no other points
        rows += _rows(condition.name, lambda x, c=condition: _of_condition(stage, c, x), at, other)
    return rows


def _rows(name: str, measured: Callable[[Tensor], list[tuple[Tensor, Tensor]]], x: Tensor, other: Tensor) -> list[_Row]:
    """The equations of a block at its points, and elsewhere if its function can do that."""
    found = measured(x)
    names = [name] if len(found) == 1 else [f"{name} {k + 1}" for k in range(len(found))]
    try:
        elsewhere = [rows for rows, _ in measured(other)] if len(other) else []
    except Exception:  # a user's function may have a table for its own points
        elsewhere = []
    elsewhere = elsewhere or [x.new_empty(0)] * len(found)
    return [(name, *both, there) for name, both, there in zip(names, found, elsewhere, strict=True)]


def _of_condition(stage: Stage, condition: Condition, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    u = _jet(stage, x, condition.want)
    size = 0.0
    if condition.period is not None:
        there = _jet(stage, x + x.new_tensor(condition.period), condition.want)
        u, size = u - there, u.value.abs().amax(1)
    block = Block(condition.name, x, condition.want, lambda u, **_: condition.residual(x, u), 1.0)
    return [(rows, terms + size) for rows, terms in _of_block(block, u, {})]


def _of_block(block: Block, u: Jet, unknowns: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    residual, by_equation = linearise(block, (u,), unknowns)
    zero = block.residual((u.map(torch.zeros_like),), unknowns)
    found = []
    for rows, data, (by_output,) in zip(residual, zero, by_equation, strict=True):
        terms = data.abs()
        refine.add_terms(terms, by_output, u)
        found.append((rows, terms))
    return found


def _joined(windows: Sequence[list[_Row]]) -> list[Misfit]:
    """The rows of all windows of time, by name; a condition that only some windows have is of these."""
    by_name: dict[str, list[tuple[Tensor, ...]]] = {}
    for rows in windows:
        for name, *parts in rows:
            by_name.setdefault(name, []).append(tuple(parts))
    misfits = []
    for name, parts in by_name.items():
        residual, terms, elsewhere = (torch.cat(part) for part in zip(*parts, strict=True))
        rms, size, held_out = (float(part.square().mean().sqrt()) for part in (residual, terms, elsewhere))
        misfits.append(Misfit(name, rms, float(residual.abs().max()), size, held_out))
    return misfits


def _between(stage: Stage) -> Tensor:
    """Points of the equation that nothing was trained on."""
    return refine.candidates(stage.problem, stage.net, _HELD_OUT, torch.Generator().manual_seed(1), 1)


def _reference_loss(stage: Stage) -> float:
    places = _places(stage)
    rows = blocks(stage.problem, stage.boundary, places.counts, places.x, places.condition_weight, places.weights)
    zero, _ = System(rows, stage.net, stage.unknowns).linearise()
    return float(zero @ zero)


def _held_out(stage: Stage) -> float:
    """Root mean square of the residual between the points, relative to that at the points; NaN if it has no other."""
    if stage.problem.points is not None:
        return math.nan
    problem, x = stage.problem, _points(stage)
    there = _between(stage).to(x)

    def bumps(x: Tensor) -> Jet:
        return stage.net.jet(x.to(stage.net.rows), want=problem.want).map(Tensor.double)

    both = torch.cat([x, there])
    named = {name: x.new_tensor(value) for name, value in stage.unknowns.items()}
    residual, terms = refine.residual_and_terms(problem, bumps, stage.boundary, named, both)
    residual = residual / (1 + terms / terms.mean().clamp_min(1e-300))
    own, others = (float(part.square().mean().sqrt()) for part in residual.split([len(x), len(there)]))
    return others / own if own > 0 else math.nan


__all__ = ["Misfit", "Report", "at_the_start", "beside_names", "doubts", "is_large", "number"]
