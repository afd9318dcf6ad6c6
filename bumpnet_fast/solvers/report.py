"""What is known about the quality of a solution, as a table, and what looks wrong with it."""

from __future__ import annotations

import contextlib
import functools
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..core.jet import Jet
from ..nets.bumpnet import BumpNet
from ..problems.base import Condition, call_residual
from . import refine
from .arguments import listed_conditions
from .estimate import ErrorEstimate, Places, Stage, denser
from .given_values import warned
from .grad_mode import differentiating
from .loop import LARGE_LOSS, StopReason
from .residual import Block, bumps_of, linearise

#: A loss is not large where all residuals are as small as this beside their terms; as that where u = 0 has none.
_SMALL_MISFIT, _SMALL_WITHOUT = 1e-3, 0.1
#: Ends of a run at which there is nothing more to be gained in the same way.
_STUCK = (StopReason.STALLED, StopReason.NO_DECREASE)
#: Columns of the report as text, and longest name in it.
_WIDE, _NAME = 100, 30
#: A loss so many times that of u = 0 is not compared with it.
_MEANINGLESS = 1e6
#: An unknown that is so many times its first guess has run away.
_RUN_AWAY = 1e6
#: A relative error that is worth a word.
LARGE_ERROR = 0.01
#: Points that nothing was trained on, of all windows together, and the least of a window.
_HELD_OUT, _LEAST = 2048, 512


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
        return {
            "misfits": misfits, "loss": self.loss, "reference_loss": self.reference_loss, "held_out": self.held_out,
            "error": self.error and self.error.as_dict(), "unknowns": dict(self.unknowns), "stop": self.stop.value,
            "stop_message": self.stop.message, "warnings": list(self.warnings),
        }  # fmt: skip

    def __str__(self) -> str:
        return self.table(warnings=True)

    def table(self, *, warnings: bool = False) -> str:
        """The report as text, with or without the warnings."""
        head = ("residual of", "root mean square", "between points", "largest", "size of terms", "relative")
        table = [head]
        for m in self.misfits:
            held_out = number(m.held_out) if math.isfinite(m.held_out) else "-"
            table.append((_short(m.name), number(m.rms), held_out, *map(number, (m.largest, m.size, m.relative))))
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in table if self.misfits
        ]
        about = [*self._lines(), *(("warning", warning) for warning in self.warnings if warnings)]
        return "\n".join([*lines, *([""] if lines else []), *beside_names(about)])

    def _lines(self) -> list[tuple[str, str]]:
        """What is below the table, each with its name."""
        lines = [("loss", f"{number(self.loss)}, {self._beside_zero()}")]
        if math.isfinite(self.held_out):
            beside = f"the residual is {number(self.held_out)} times that at the points"
            lines.append(("between the points", beside))
        lines += of_error(self.error, "at most (estimated)")
        for name, value in self.unknowns.items():
            deviation = math.nan if self.error is None else self.error.unknowns.get(name, math.nan)
            lines.append((name, f"{value:.6g} +- {number(deviation)}"))
        return [*lines, ("stopped", f"{self.stop.value}: {self.stop.message}".removeprefix(": "))]

    def _beside_zero(self) -> str:
        if self.reference_loss == 0:
            return "that of u = 0 is 0"
        share = self.loss / self.reference_loss if self.reference_loss > 0 else math.nan
        return f"relative to that of u = 0: {number(share)}"


def of_error(
    error: ErrorEstimate | None, ending: str, more: Sequence[tuple[str, str]] = ()
) -> list[tuple[str, str]]:  # fmt: skip
    """What a report says of an estimate, or of none; ``ending`` follows the numbers, and ``more`` follows that."""
    if error is None:
        return [("estimate", "switched off")]
    lines = []
    for k, (rel_l2, largest) in enumerate(zip(error.rel_l2, error.max, strict=True)):
        if math.isfinite(rel_l2):
            name = f"error of output {k + 1}" if len(error.rel_l2) > 1 else "error"
            lines.append((name, f"{number(rel_l2)} relative L2, {number(largest)} {ending}"))
    return [*lines, *more, ("estimate", f"{'reliable' if error.reliable else 'NOT reliable'}: {error.reason}")]


def beside_names(lines: Sequence[tuple[str, str]]) -> list[str]:
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


def number(value: float) -> str:
    """A number of a report."""
    return f"{value:.2g}" if math.isfinite(value) else "unknown"


# --- what looks wrong ----------------------------------------------------------------------------


def is_large(task: Any, loss: float) -> bool:
    """Whether the loss of what a run has found is a large part of that of u = 0; all ranks agree."""
    return not task.ranks.every(not _large_loss(_stage(task), loss, task.reference_loss()))


def doubts(task: Any, reason: StopReason, loss: float) -> list[str]:
    """What looks wrong with a solution, as far as that is known at the end of a solve without further work."""
    found = warned(task.problem, task.net, task.boundary, task.contradictions)
    for k in task.system.open_constants():
        which = f"output {k}" if task.problem.outputs > 1 else "u"
        found.append(
            f"{which} is determined up to a constant only, as its derivatives alone occur: give its value at a point,"
            " by a Condition in side_conditions()"
        )
    found += _run_away(task.problem.unknowns, task.named_unknowns())
    if not math.isfinite(loss) or reason is StopReason.DIVERGED:
        found.append("the loss is not finite: check the coefficients of the equation, or take smaller steps")
    elif reason in _STUCK:
        found += _large_loss(_stage(task), loss, task.reference_loss())
    return found + _slipping(task.net)


def _run_away(guesses: Mapping[str, float], found: dict[str, float]) -> list[str]:
    """Unknowns that have left every scale: the equation does not depend on them there."""
    gone = [name for name, guess in guesses.items() if guess and not abs(found[name]) < _RUN_AWAY * abs(guess)]
    advice = "this is no solution of the inverse problem: take another first guess, or restarts=5"
    return [f"the unknown {name} has run from {guesses[name]:g} to {found[name]:.3g}; {advice}" for name in gone]


def at_the_start(solution: Any) -> list[str]:
    """A warning where the loss was rounding before any step was taken, unless the estimate of the error confirms it."""
    if solution.stop is not StopReason.LOSS_FLOOR or solution.iterations:
        return []
    if all(_is_zero(stage) for stage in solution.stages()):  # which has a warning of its own
        return []
    error = solution.error_estimate
    if error.reliable or error.is_rounding:
        return []
    return ["the loss was rounding before any step was taken: take more points, and check the units of the equation"]


def _is_zero(stage: Stage) -> bool:
    """Whether u is zero at all points."""
    return not bool(_jet(stage, _points(stage), "value").value.any())


def _large_loss(
    stage: Stage, loss: float, reference: float, misfits: Sequence[Misfit] = (), stop: StopReason = StopReason.STALLED
) -> list[str]:
    """That a loss is large beside that of u = 0, unless u = 0 fits as well as that by itself.

    ``misfits`` are those of the stage, unless they are not known yet.
    """
    if not math.inf > loss > LARGE_LOSS * reference:
        return []
    meaningless = loss > _MEANINGLESS * reference  # u = 0 solves it, and says nothing about other solutions
    small = _SMALL_WITHOUT if meaningless else _SMALL_MISFIT
    if all(m.rms <= small * m.size for m in misfits or _misfits([_rows(stage)])):
        return []
    still = "is large, and u = 0 has none" if meaningless else f"is still {loss / reference:.0%} of that of u = 0"
    if stop not in _STUCK:
        return [f"the loss {still}: take more iterations or bumps"]
    hard = ", or boundary='hard'" if stage.boundary == "soft" and "hard" in stage.problem.forms else ""
    advice = f"take more bumps, or another start{hard}; check that the equations do not contradict one another"
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
    number = max(_LEAST, _HELD_OUT // max(1, len(stages)))
    rows = known(lambda: [_rows(stage, number) for stage in stages], [])
    misfits, ratios = _misfits(rows), [ratio for ratio in map(_held_out, rows) if not math.isnan(ratio)]
    held_out = max(ratios, default=math.nan)
    reference = known(lambda: max(map(_reference_loss, stages)), math.nan)
    if error is None or solution.stop in _STUCK:  # else the estimate says more
        warnings += known(lambda: _large_loss(stages[0], solution.loss, reference, misfits, solution.stop), [])
    warnings += known(lambda: [found for stage in stages for found in _slipping(stage.net)], [])
    if held_out > refine.MISSED:
        warnings.append(
            f"the residual between the points is {held_out:.2g} times that at the points: take more points, or refine=2"
        )
    if error is not None:
        warnings += known(lambda: at_the_start(solution), []) + _about(error)
    return Report(
        tuple(misfits), solution.loss, reference, held_out, error, dict(solution.unknowns), solution.stop,
        tuple(dict.fromkeys(warnings)),
    )  # fmt: skip


def _about(error: ErrorEstimate) -> list[str]:
    """What the estimate says against a solution."""
    found = []
    if free := [name for name, deviation in error.unknowns.items() if deviation == math.inf]:
        advice = "their values mean nothing: add measurements, or fix some of them"
        found.append(f"equation and data do not determine {', '.join(free)}; {advice}")
    if not error.reliable:
        found.append(not_reliable(error))
    elif max(error.rel_l2) > LARGE_ERROR:
        found.append(f"the error is about {max(error.rel_l2):.1%}: take more bumps, points or iterations")
    return found


def not_reliable(error: ErrorEstimate, about: str = "") -> str:
    """The warning that an estimate may be wrong; ``about`` is what it says all the same."""
    if error.incompatible:  # more bumps are of no use
        return f"the error is not known reliably{about}: {error.reason}"
    return f"the error is not known reliably{about}: {error.reason}; solve again with more bumps and compare"


def _stage(task: Any) -> Stage:
    """What a run has found."""
    places = Places(task.x, task.counts, task.weights, task.condition_weight, task.balance)
    return Stage(task.problem, task.net, task.boundary, task.named_unknowns(), places)


def _places(stage: Stage) -> Places:
    return Places.default(stage.problem, stage.net) if stage.places is None else stage.places


def _points(stage: Stage) -> Tensor:
    return _places(stage).x.to(stage.net.rows.device)


def _jet(stage: Stage, x: Tensor, want: str) -> Jet:
    """The jet of u, in float64."""
    return stage.problem.extend(bumps_of(stage.net, want), x, want, stage.boundary)


#: Residual [n] of an equation or condition, and the sizes of its terms [n].
_Measured = tuple[Tensor, Tensor]


@dataclass
class _Row:
    """One equation or condition in one window of time."""

    name: str
    condition: bool
    own: _Measured  # at the points of training
    others: _Measured  # at others, of which there may be none


def _rows(stage: Stage, number: int = 0) -> list[_Row]:
    """All equations and conditions; those that can be had there also at about ``number`` points between the others."""
    problem, places = stage.problem, _places(stage)
    x = _points(stage)
    named = {name: x.new_tensor(value) for name, value in stage.unknowns.items()}

    def equation(x: Tensor) -> list[_Measured]:
        def measured(u: Jet) -> list[_Measured]:
            residual = lambda u, **k: call_residual(problem.residual, x, u, k)  # noqa: E731
            return _of_block(Block(problem.name, x, u.want, residual, 1.0), u, named)

        if problem.want != "laplacian":
            return measured(_jet(stage, x, problem.want))
        u = _jet(stage, x, "diagonal")
        found = measured(Jet("laplacian", u.value, u.gradient, u.laplacian))
        with contextlib.suppress(Exception):  # a user's function may read the Laplacian in ways of its own
            finer = measured(u)  # the terms of a Laplacian may cancel in it
            if all(torch.equal(a, b) for (a, _), (b, _) in zip(found, finer, strict=True)):
                return finer
        return found

    def candidates() -> Tensor:
        return refine.candidates(problem, stage.net, number, torch.Generator().manual_seed(1), 1)

    between = number and problem.points is None
    rows = _both("equation", False, equation, x, candidates if between else None)
    for condition in listed_conditions(problem, stage.boundary):
        at = condition.points(places.counts).to(x)
        others = functools.partial(condition.points, denser(places.counts)) if number else None
        rows += _both(condition.name, True, functools.partial(_of_condition, stage, condition, named), at, others)
    return rows


def _both(
    name: str, condition: bool, measured: Callable[[Tensor], list[_Measured]], x: Tensor,
    between: Callable[[], Tensor] | None,
) -> list[_Row]:  # fmt: skip
    """The equations of a block at its points, and at others if there are any and its function can do that."""
    found, nothing = measured(x), x.new_empty(0)
    there = [(nothing, nothing)] * len(found)
    if between is not None:
        with contextlib.suppress(Exception):  # a user's functions may have tables for their own points
            others = between().to(x)
            if len(others) and not torch.equal(others, x):  # as those of measurements are
                there = measured(others)
    names = [name] if len(found) == 1 else [f"{name} {k + 1}" for k in range(len(found))]
    return [_Row(n, condition, own, other) for n, own, other in zip(names, found, there, strict=True)]


def _of_condition(stage: Stage, condition: Condition, named: dict[str, Tensor], x: Tensor) -> list[_Measured]:
    u = _jet(stage, x, condition.want)
    size = 0.0
    if condition.period is not None:
        there = _jet(stage, x + x.new_tensor(condition.period), condition.want)
        u, size = u - there, u.value.abs().amax(1)
    block = Block(condition.name, x, condition.want, lambda u, **k: call_residual(condition.residual, x, u, k), 1.0)
    return [(rows, terms + size) for rows, terms in _of_block(block, u, named)]


def _of_block(block: Block, u: Jet, unknowns: dict[str, Tensor]) -> list[_Measured]:
    residual, by_equation = linearise(block, (u,), unknowns)
    zero = block.residual((u.map(torch.zeros_like),), unknowns)
    found = []
    for rows, data, (by_output,) in zip(residual, zero, by_equation, strict=True):
        terms = data.abs()
        refine.add_terms(terms, by_output, u)
        found.append((rows, terms))
    return found


def _misfits(windows: Sequence[list[_Row]]) -> list[Misfit]:
    """The rows of all windows of time, by name; a condition that only some windows have is of these."""
    by_name: dict[str, list[_Row]] = {}
    for rows in windows:
        for row in rows:
            by_name.setdefault(row.name, []).append(row)
    misfits = []
    for name, parts in by_name.items():
        residual, terms = (torch.cat(part) for part in zip(*(row.own for row in parts), strict=True))
        others = torch.cat([row.others[0] for row in parts])
        rms, size, held_out = (float(part.square().mean().sqrt()) for part in (residual, terms, others))
        misfits.append(Misfit(name, rms, float(residual.abs().max()), size, held_out))
    return misfits


def _held_out(rows: Sequence[_Row]) -> float:
    """Root mean square of the residual between the points, relative to that at the points; NaN if it has no other.

    It is that of all equations, each relative to the size of its terms.
    """
    squares = torch.zeros(2, dtype=torch.float64)
    for row in rows:
        if not row.condition:
            usual = torch.cat([row.own[1], row.others[1]]).mean().clamp_min(1e-300)
            for k, (residual, terms) in enumerate((row.own, row.others)):
                squares[k] += float((residual / (usual + terms)).square().mean())
    own, others = squares.sqrt().tolist()
    return others / own if own > 0 else math.nan


def _reference_loss(stage: Stage) -> float:
    places = _places(stage).balanced(stage.problem, stage.net, stage.boundary, stage.unknowns)
    return math.nan if places.reference_loss is None else places.reference_loss


__all__ = [
    "LARGE_ERROR",
    "Misfit",
    "Report",
    "at_the_start",
    "beside_names",
    "doubts",
    "is_large",
    "not_reliable",
    "number",
    "of_error",
]
