"""One level of an evolution to a stated error: bumps that are rebuilt as u changes, and steps of a chosen tolerance.

The bumps stay as they are while they are fine enough, for a *stretch* of time.  Then they are placed anew, from u
itself, and u is projected onto them.  Between the steps u is known by the interpolation of the integrator.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ...core import checking
from ...core.jet import Jet
from ...core.reference import DIAGONAL, WANTS, second_shape
from ...problems.evolution.base import EvolutionProblem
from ..loop import StopReason
from ..residual import Block, linearise
from . import grading
from .graded import GradedBasis, axis_of
from .integrators import Rosenbrock, StepTooSmall, within_step

#: The error of a level is about this times ``exp(-_DECAY / kappa)``.
_FACTOR, _DECAY = 0.06, 2.9
#: The smallest size of bumps relative to the needed one.
_FINEST = 0.08
#: The error of a step relative to that of the level.
_PER_STEP = 0.3
#: Smallest tolerance of a step: rounding.
_LEAST_TOLERANCE = 1e-14
#: The largest error for which there is a level.
COARSEST = 5e-4
#: Points at which the start is looked at, and how often bumps are placed anew for it.
_SAMPLES, _TRIED = 2048, 5
#: The thinnest layer that is looked for, relative to the domain.
_THINNEST = 1e-6
#: Width of a layer that begins at an end, in square roots of its rate and time.
_SPREAD = 0.7
#: Points at which it is looked at again.
_BETWEEN = 5003
#: A step after which the bumps are so many times too wide is repeated with narrower ones.
_TOO_WIDE = 1.25
#: Bumps are placed anew where so many times fewer would do.
_TOO_MANY = 1.7
#: Steps after which the speed of moving bumps is chosen anew.
_SAME_SPEED = 10
#: Most unknowns.
MOST = 700
#: Smallest step, as a fraction of the whole time; the first one.
_SHORTEST, _FIRST = 2.0**-40, 1e-4
#: Errors are relative to the size of an output, or to this share of its largest over time.
LEAST_SIZE = 1e-3
#: An output that is smaller than the largest by this factor is zero.
_ZERO = 1e-12
#: What counts as a change of an output: half its range, or this share of its size.
_OF_SIZE = 0.05
#: Factor by which a solution may exceed the growth that its problem allows.
_MARGIN = 1.5


class Unresolved(ArithmeticError):
    """More bumps would be needed than are allowed."""


@dataclass(frozen=True)
class Fineness:
    """How fine a level is: bumps of ``kappa`` times the needed size, and the error of a step relative to u."""

    error: float
    kappa: float
    tolerance: float

    @classmethod
    def of(cls, error: float) -> Fineness:
        """What usually has about this error, :data:`COARSEST` at most.

        >>> Fineness.of(1e-6).kappa < Fineness.of(1e-3).kappa
        True
        """
        kappa = _DECAY / math.log(_FACTOR / error)
        return cls(error, max(kappa, _FINEST), max(_PER_STEP * error, _LEAST_TOLERANCE))


@dataclass
class Stretch:
    """A stretch of time with the same bumps.

    Attributes
    ----------
    model : GradedBasis
        The bumps.
    times : list of float
        From the start of the stretch, the ends of its steps.
    states : list of Tensor
        The states there.
    within : list of Tensor
        What gives the states within each step.
    """

    model: GradedBasis
    times: list[float]
    states: list[Tensor]
    within: list[Tensor] = field(default_factory=list)

    def state(self, t: float) -> Tensor:
        """The state at a time of the stretch."""
        i = min(max(bisect_right(self.times, t) - 1, 0), len(self.within) - 1)
        if i < 0 or t == self.times[i]:
            return self.states[max(i, 0)]
        share = (t - self.times[i]) / (self.times[i + 1] - self.times[i])
        return within_step(self.states[i], self.states[i + 1], self.within[i], share)


@dataclass
class Sizes:
    """The size of every output: what errors are relative to.

    Attributes
    ----------
    largest : Tensor
        [K], the largest root mean square over time so far, or over all times of an earlier level.
    """

    largest: Tensor

    def at(self, rms: Tensor) -> Tensor:
        """[K], the sizes where u has these root mean squares."""
        self.largest = torch.maximum(self.largest, rms)
        size = torch.maximum(rms, LEAST_SIZE * self.largest)
        top = float(self.largest.max())
        return torch.where(self.largest > _ZERO * top, size, max(top, 1e-290))


def jet_of(problem: EvolutionProblem, part: Callable[[tuple[int, ...]], Tensor], n: int = _SAMPLES) -> Jet:
    """A jet at ``n`` points, whose parts are made by their shape."""
    k, level = problem.outputs, WANTS.index(problem.want)
    shapes = [(n, k), (n, k, 1), (n, k, *second_shape(level, 1))][: min(level, DIAGONAL) + 1]
    return Jet(problem.want, *(part(shape).expand(shape) for shape in shapes))


class Level:
    """A level, solved from the start to the last output time by :meth:`follow`.

    Parameters
    ----------
    problem : EvolutionProblem
        In one dimension.
    fineness : Fineness
        How fine.
    ends : sequence of float
        Output times after 0.
    by_time : bool
        Whether the right-hand side depends on t.
    by_place : bool
        Whether it depends on x.
    longest : float or None
        Longest step.
    sizes : Tensor, optional
        [K], the largest size of every output as an earlier level knows it.
    tell : callable
        Called with the time after every step, and whether an output time was passed; may raise to end the level.

    Attributes
    ----------
    stretches : list of Stretch
        What was computed.
    times, reports : list
        Output times reached, 0 first, and the reports of the states there.
    reason, message : StopReason, str
        Why the level ended, in words if that was early.
    steps, stages : int
        Numbers of steps and of evaluations of the right-hand side.
    """

    def __init__(
        self, problem: EvolutionProblem, fineness: Fineness, ends: Sequence[float], by_time: bool, by_place: bool,
        longest: float | None, sizes: Tensor | None = None, tell: Callable[[float, bool], None] = lambda t, out: None,
    ):  # fmt: skip
        self.problem, self.fineness, self.ends = problem, fineness, tuple(ends)
        self.axis, self.by_time, self.by_place, self.tell = axis_of(problem), by_time, by_place, tell
        self.longest = math.inf if longest is None else longest
        self.horizon, self.steps, self.stages = self.ends[-1], 0, 0
        self.moving = self.axis.periodic and problem.want != "value"
        self.reason, self.message = StopReason.FINISHED, ""
        self.stretches: list[Stretch] = []
        self.places = self._of_places()
        self.model = self._started(sizes)
        self.fit_error = self.model.fit_error
        self.times, self.reports = [0.0], [self.model.report(0.0, self.model.state)]

    # --- the start --------------------------------------------------------------------------------

    def _started(self, sizes: Tensor | None) -> GradedBasis:
        problem, axis = self.problem, self.axis
        x = grading.sampled(axis, _SAMPLES)
        points = torch.from_numpy(x)[:, None]
        start = problem.initial(points).reshape(_SAMPLES, -1).double()
        checking.check_finite(checking.called("initial(x)", problem), start, points)
        rms = start.square().mean(0).sqrt()
        self.sizes = Sizes(rms if sizes is None else torch.maximum(sizes, rms))
        self.layers = [(math.inf, 0.0)] * 2  # until the sizes are known
        want = self._wanted(x, grading.jet_of_samples(axis, x, start.numpy()), rms)
        model = self._placed(x, want, 0.0, None)
        if sizes is None:  # an output that starts at zero is as large as its rate makes it
            moved = 0.1 * self.horizon * (model.root * model.rhs(0.0, model.jet(model.state))).square().sum(0).sqrt()
            self.sizes.largest = torch.where(self.sizes.largest > 0, self.sizes.largest, moved)
        self.layers = self._layers(self.sizes.at(rms))
        for _ in range(_TRIED):
            want = self._needed(model, model.state, 0.0)
            if not float(np.max(model.grid.offered / want)) > self.fineness.kappa:
                break
            model = self._placed(model.grid.fine, want, 0.0, None)
        self.bound = _MARGIN * problem.growth * model.size if model.size > 0 else math.inf
        return model

    def _layers(self, size: Tensor) -> list[tuple[float, float]]:
        """Sizes at the ends for the layers that begin there, and the rates at which these spread.

        A start that does not agree with steady values at an end, as the equation moves u there, has such a layer: it
        grows with the square root of time, and before it is as wide as the bumps the error is about that of u_xx
        times their size to the power 2.5.
        """
        problem, none = self.problem, [(math.inf, 0.0)] * 2
        if not problem.held_axes or WANTS.index(problem.want) < DIAGONAL:
            return none
        x = torch.tensor([[self.axis.lo], [self.axis.hi]], dtype=torch.float64)
        try:
            u = Jet.of(problem.initial, x, problem.want)
            block = Block(problem.name, x, problem.want, lambda u: problem.rhs(x, u, 0.0), 1.0)
            rates, coefficients = linearise(block, (u,), {})
        except RuntimeError:  # the start cannot be differentiated
            return none
        found = []
        for end in range(2):
            sizes, fastest = [], 0.0
            for k, (by_output,) in enumerate(coefficients):
                second = by_output[k][2]
                spread = 0.0 if second is None else float(second[end].reshape(-1)[0])
                if spread > 0:
                    wrong = abs(float(rates[k, end])) / spread
                    share = self.fineness.error * float(size[k]) * math.sqrt(self.axis.width)
                    size_of_one = (share / wrong) ** 0.4 if wrong > 0 else math.inf
                    sizes.append(max(size_of_one, _THINNEST * self.axis.width))
                    fastest = max(fastest, spread)
            found.append((min(sizes, default=math.inf), fastest))
        return found

    def _unit(self, u: np.ndarray, rms: Tensor) -> np.ndarray:
        """[K], what counts as a change of each output; 0 for one that is zero."""
        size = self.sizes.at(rms).numpy()
        unit = np.maximum(0.5 * np.ptp(u, axis=0), _OF_SIZE * size)
        largest = self.sizes.largest.numpy()
        return np.where(largest > _ZERO * max(float(largest.max()), 1e-290), unit, 0.0)

    def _wanted(
        self, x: np.ndarray, jet: tuple, rms: Tensor, t: float = 0.0, stride: int = 1, moved: float = 0.0
    ) -> np.ndarray:
        at_ends = tuple(size + _SPREAD * math.sqrt(rate * t) for size, rate in self.layers)
        size = grading.wanted(self.axis, x, jet, self._unit(jet[0], rms), stride, at_ends)
        if self.places is None:
            return size
        at = self.axis.wrapped(x + moved) if self.axis.periodic else x
        return np.minimum(size, np.interp(at, *self.axis.extended(*self.places)))

    def _of_places(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The size that the coefficients and sources of the equation need, at points; None if there are none."""
        if not self.by_place:
            return None
        x = grading.sampled(self.axis, _SAMPLES)
        points, found = torch.from_numpy(x)[:, None], None
        for t in (0.0, 0.5 * self.horizon, self.horizon):
            for constant in (0.0, 1.0):
                part = torch.full((_SAMPLES, self.problem.outputs), constant, dtype=torch.float64)
                u = jet_of(self.problem, lambda shape, part=part: part.reshape(shape[:2] + (1,) * (len(shape) - 2)))
                rate = self.problem.rhs(points, u, t).reshape(_SAMPLES, -1).numpy()
                unit = np.maximum(0.5 * np.ptp(rate, axis=0), 1e-6 * np.abs(rate).max())
                size = grading.wanted(self.axis, x, grading.jet_of_samples(self.axis, x, rate), unit)
                found = size if found is None else np.minimum(found, size)
        return x, found

    def _needed(self, model: GradedBasis, y: Tensor, t: float) -> np.ndarray:
        """The size that a state needs at the fine points."""
        fine, rms = model.grid.fine, self._rms(model, y)
        moved = model.moved(t) if model.speed else 0.0
        return self._wanted(fine, model.fine(y), rms, t, grading.STRIDE, moved)

    @staticmethod
    def _rms(model: GradedBasis, y: Tensor) -> Tensor:
        return model.rms_of_outputs(model.basis.value @ y.view(model.rank, -1) + model.lift.value)

    def _placed(self, x: np.ndarray, want: np.ndarray, t: float, start: Callable[[Tensor], Tensor] | None):
        """New bumps for a wanted size; ``start`` gives u at points, by default the initial values."""
        axis, kappa = self.axis, self.fineness.kappa
        if grading.count(axis, x, want, kappa) * self.problem.outputs > MOST:
            i = int(np.argmin(want))
            at = f"at t = {t:.4g}, x = {float(axis.wrapped(x[i]) if axis.periodic else x[i]):.6g}"
            size = f"u varies over a length of {float(want[i]):.2g} there, which needs more than {MOST} unknowns"
            raise Unresolved(f"too fine {at}: {size}")
        grid = grading.placed(axis, x, want, kappa)
        points = torch.from_numpy(np.ascontiguousarray(grid.points))
        return GradedBasis(self.problem, grid, kappa, None if start is None else start(points), since=t)

    # --- in time ----------------------------------------------------------------------------------

    def follow(self) -> Level:
        """Solve up to the last output time, or as far as it goes."""
        try:
            self._follow()
        except Unresolved as error:
            self.reason, self.message = StopReason.NOT_REACHED, str(error)
        except StepTooSmall as error:
            self.reason, self.message = StopReason.UNSTABLE, str(error)
        self.stages += self.model.stages
        return self

    def _follow(self) -> None:
        t, y, h = 0.0, self.model.state, _FIRST * self.horizon
        since_moved, narrower = 0, 0
        self._begin(t, y)
        y = self.stretches[-1].states[0]
        known = None
        while t < self.horizon:
            model, method = self.model, self.method
            h = min(h, self.longest)
            ending = h >= (self.horizon - t) * (1 - 1e-9)
            step = self.horizon - t if ending else h
            if known is None:
                timed = self.by_time or (self.by_place and model.speed != 0)
                known = model.slope(t, y), method.by_time(t, y) if timed else None, model.jacobian(t, y)
            rms = self._rms(model, y)
            size = self.sizes.at(rms)
            new, stages = method.attempt(t, y, step, *known)
            error = float((torch.linalg.vector_norm(stages[-1].view(model.rank, -1), dim=0) / size).max())
            error /= self.fineness.tolerance
            factor = 0.9 * max(error, 1e-8) ** -0.2 if math.isfinite(error) else 0.0
            if not error <= 1:
                h = step * min(1.0, max(0.2, factor))
                if h < _SHORTEST * self.horizon:
                    raise StepTooSmall(self._lost(t, y, "no step is small enough to go on"))
                continue
            want = self._needed(model, new, t + step)
            ratio = float(np.max(model.grid.offered / want)) / self.fineness.kappa
            if ratio > _TOO_WIDE and narrower < 3:
                narrower += 1
                want = np.minimum(want, self._needed(model, y, t))
                y = self._rebuilt(model.grid.fine + model.moved(t), want, t, y)
                known, h, since_moved = None, step if narrower < 2 else 0.5 * step, 0
                continue
            narrower = 0
            after = self.horizon if ending else t + step
            stretch = self.stretches[-1]
            stretch.times.append(after)
            stretch.states.append(new)
            stretch.within.append(method.within(stages))
            t, y, known = after, new, None
            self.steps += 1
            since_moved += 1
            if not model.norm(y) <= self.bound:
                raise StepTooSmall(self._lost(t, y, "u is larger than its problem allows"))
            out = self._outputs(t)
            proposed = step * min(4.0, max(0.2, factor))
            h = max(h, proposed) if ending else proposed
            self.tell(t, out)
            if t < self.horizon:
                fewer = grading.count(self.axis, model.grid.fine, want, self.fineness.kappa)
                if ratio > 1 or len(model.start_rows) > _TOO_MANY * fewer:
                    y, since_moved = self._rebuilt(model.grid.fine + model.moved(t), want, t, y), 0
                elif self.moving and since_moved >= _SAME_SPEED:
                    self.stages += model.stages
                    self.model, since_moved = model.carried(t, 0.0), 0
                    y = self._begin(t, y)

    def _begin(self, t: float, y: Tensor) -> Tensor:
        """Begin a stretch with the present bumps."""
        model = self.model
        if self.moving:
            speed = model.drift(t, y)
            matters = abs(speed) * self.horizon > float(model.grid.sizes.min())
            model.speed, model.since = (speed if matters else 0.0), t
        self.method = Rosenbrock(model.slope, model.jacobian, self.horizon, self.fineness.tolerance)
        self.stretches.append(Stretch(model, [t], [y]))
        return y

    def _rebuilt(self, x: np.ndarray, want: np.ndarray, t: float, y: Tensor) -> Tensor:
        """New bumps for the wanted size at the points ``x`` where the fine points are now; the state in these."""
        before = self.model
        model = self._placed(x, want, t, lambda points: before.values(points, t, y))
        self.stages += before.stages
        self.model = model
        return self._begin(t, model.state)

    def _outputs(self, t: float) -> bool:
        """Report the states at the output times up to ``t``."""
        stretch, passed = self.stretches[-1], False
        while len(self.times) <= len(self.ends) and self.ends[len(self.times) - 1] <= t:
            at = self.ends[len(self.times) - 1]
            report = stretch.model.report(at, stretch.state(at))
            if not report.is_finite():
                raise StepTooSmall(self._lost(at, stretch.state(at), "the solution is not finite"))
            self.times.append(at)
            self.reports.append(report)
            passed = True
        return passed

    def _lost(self, t: float, y: Tensor, what: str) -> str:
        model = self.model
        u = model.basis.value @ y.view(model.rank, -1) + model.lift.value
        worst = int(u.abs().amax(1).argmax())
        advice = f"if u does grow by more than {self.problem.growth:g}, set growth of the problem"
        where = f"t = {t:.4g}, x = {float(model.points_at(t)[worst, 0]):.4g}"
        return f"unstable at {where}: {what}; u is {float(u[worst].abs().max()):.3g} there; {advice}"

    def missed_start(self) -> float:
        """What the bumps miss of the start at points that were not looked at, relative to it."""
        x = torch.from_numpy(self.axis.lo + self.axis.width * (np.arange(_BETWEEN) + 0.37) / _BETWEEN)
        start = self.problem.initial(x[:, None]).reshape(_BETWEEN, -1).double()
        off = (self.values(x, 0.0) - start).square().mean(0).sqrt()
        return float((off / self.sizes.at(start.square().mean(0).sqrt())).max())

    # --- afterwards -------------------------------------------------------------------------------

    @property
    def reached(self) -> float:
        """The last time that was computed."""
        return self.stretches[-1].times[-1] if self.stretches else 0.0

    def stretch_at(self, t: float) -> Stretch:
        """The stretch to which a time belongs."""
        i = bisect_right([stretch.times[0] for stretch in self.stretches], t) - 1
        return self.stretches[max(i, 0)]

    def values(self, x: Tensor, t: float) -> Tensor:
        """u [n, K] at ``x`` [n] at the time ``t``."""
        stretch = self.stretch_at(t)
        return stretch.model.values(x, t, stretch.state(t))


__all__ = ["COARSEST", "LEAST_SIZE", "MOST", "Fineness", "Level", "Sizes", "Stretch", "Unresolved", "jet_of"]
