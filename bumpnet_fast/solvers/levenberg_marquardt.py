"""Levenberg-Marquardt: damped Gauss-Newton steps with geodesic acceleration, and the methods that use it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from .arguments import number, option, positive
from .elimination import Joint, Normal, Point, Projected, Separable
from .loop import Method, StopReason

#: Marquardt's scaling forgets large diagonals by this factor per iteration.
_FADE = 0.9
#: Damping at which no further step is tried.
_DAMPING_MOST = 1e12
#: Part of the step over which the second directional derivative is measured.
_PROBE = 0.1
#: Longest acceleration that is trusted, relative to the velocity.
_ACCELERATION_MOST = 0.4
#: Damping of the amplitudes relative to that of the shapes, where both are stepped.
_AMPLITUDE_DAMPING = 1e-2
#: Iterations over which the relative decrease of the loss is measured.
PATIENCE = 10
#: A loss this small, relative to that of u = 0, is rounding.
_FLOOR = 1e-28


def descend(model: Any, point: Any, damping: float, step_cap: float) -> Iterator[Any]:
    """Yield points of ever smaller loss, by damped Gauss-Newton steps, until no step decreases the loss.

    The damping follows Nielsen's rule in the metric of Marquardt's scaling.  A step is the velocity of the damped
    normal equations.  Where the model gives a Jacobian, half the geodesic acceleration is added: it follows the curve
    to which the velocity is tangent.  The first ``model.stepped`` unknowns are amplitudes: damped less, and not capped.
    Edges that are as thin as the points can see are held.

    A model has ``normal(point)``, ``move(point, step)``, ``ranks``, and ``ahead(point, step)`` for the acceleration;
    and ``edges``, a limit on the ``shapes(point)``.  A point has ``loss``, ``damping`` and ``scale``.  A descent
    continues from any point that this function yielded.
    """
    growth, scale, ranks = 2.0, point.scale, model.ranks
    damping = damping if point.damping is None else point.damping
    while True:
        normal = model.normal(point)
        H, gradient = normal.matrix, normal.gradient
        if not len(gradient):  # no shape is trained: the amplitudes are the best already
            return
        diagonal = H.diagonal().clone()
        if len(held := _held(model, point, -gradient)):
            H[held], H[:, held], gradient = 0.0, 0.0, gradient.index_fill(0, held, 0.0)
            H.diagonal()[held] = diagonal[held]
        scale = diagonal if scale is None else torch.maximum(diagonal, _FADE * scale)
        # Amplitudes have the units of u, which shapes have not.
        parts = [part for part in scale.split([model.stepped, len(scale) - model.stepped]) if len(part)]
        metric = torch.cat([part.clamp_min(1e-14 * float(part.max() or scale.max())) for part in parts])
        metric[: model.stepped] *= _AMPLITUDE_DAMPING
        while True:
            if damping > _DAMPING_MOST:
                return
            damped = H.clone()
            damped.diagonal().add_(metric, alpha=damping)
            L, failed = torch.linalg.cholesky_ex(damped)
            if ranks.agreed_flag(bool(failed)):
                damping *= 10
                continue
            velocity = ranks.agreed(-torch.cholesky_solve(gradient[:, None], L)[:, 0])
            slope, size = float(gradient @ velocity), float(metric @ velocity.square())
            longest = velocity[model.stepped :].abs().max() if len(velocity) > model.stepped else 0.0
            cap = min(1.0, step_cap / max(float(longest), 1e-300))
            velocity *= cap
            # (H + damping metric) velocity = -gradient spares H @ velocity.
            predicted = -2 * cap * slope + cap**2 * (slope + damping * size)
            bend = _acceleration(model, point, normal, L, metric, velocity)
            trial = model.move(point, ranks.agreed(_limited(model, point, velocity + bend)))
            if math.isfinite(trial.loss) and trial.loss < point.loss:
                gain = min((point.loss - trial.loss) / max(predicted, 1e-300), 1.0)
                damping = max(damping * max(1 / 5, 1 - (2 * gain - 1) ** 3), 1e-15)
                growth, point = 2.0, replace(trial, damping=damping, scale=scale)
                break
            damping, growth = damping * growth, 2 * growth
        yield point


def _held(model: Any, point: Any, descent: Tensor) -> Tensor:
    """Indices of the parameters that the way down would move beyond the limit."""
    shapes = model.shapes(point)
    held = model.edges.held(shapes, descent[model.stepped :].view_as(shapes)).flatten()
    return model.stepped + model.ranks.agreed(held.to(descent)).nonzero()[:, 0]


def _limited(model: Any, point: Any, step: Tensor) -> Tensor:
    """A step that makes no edge too thin."""
    shapes = model.shapes(point)
    after = shapes + step[model.stepped :].view_as(shapes)
    there = model.edges.limited(shapes, after)
    return step if there is after else torch.cat([step[: model.stepped], (there - shapes).flatten()])


def _acceleration(
    model: Any, point: Any, normal: Normal, L: Tensor, metric: Tensor, velocity: Tensor
) -> Tensor | float:
    """Half the geodesic acceleration along ``velocity``; 0 where it is unknown or too large to be trusted."""
    J = normal.jacobian
    if J is None:
        return 0.0
    ahead = model.ahead(point, _PROBE * velocity)
    curvature = (2 / _PROBE) * ((ahead - point.residual) / _PROBE - velocity @ J)
    bend = model.ranks.total(J @ curvature)
    half = -0.5 * torch.cholesky_solve(bend[:, None], L)[:, 0]
    sizes = [float((metric * v * v).sum()) ** 0.5 for v in (half, velocity)]
    return half if sizes[0] <= _ACCELERATION_MOST * sizes[1] else 0.0


def converged(history: Sequence[dict[str, Any]], tolerance: float) -> bool:
    """Whether the loss decreased by at most the fraction ``tolerance`` over the last iterations."""
    if len(history) <= PATIENCE:
        return False
    earlier, loss = history[-1 - PATIENCE]["loss"], history[-1]["loss"]
    return earlier - loss <= tolerance * earlier


class Descent(Method):
    """A method that follows the points of :func:`descend`; subclasses choose the model.

    Attributes
    ----------
    model
        Model that :func:`descend` steps in.
    """

    steady: ClassVar[bool] = True
    damping: float
    step_cap: float
    tolerance: float

    def start(self, work: Any, iterations: int) -> None:
        self.work, self.generation = work, work.generation
        self.model = self.make_model(work)
        self._point: Any = None
        self._steps: Iterator[Any] | None = None

    def make_model(self, work: Any) -> Any:
        """The model of the descent."""
        raise NotImplementedError

    def first_point(self) -> Any:
        """The point to start from."""
        raise NotImplementedError

    @property
    def point(self) -> Any:
        """The current point."""
        if self._point is None:
            self._point = self.first_point()
        return self._point

    @torch.no_grad()
    def step(self, most: int) -> int:
        if self._steps is None:
            self._steps = descend(self.model, self.point, self.damping, self.step_cap)
        point = next(self._steps, None)
        if point is None:
            return 0
        self._point = point
        return 1

    @torch.no_grad()
    def loss(self) -> float:
        return self.point.loss

    def over(self, history: Sequence[dict[str, Any]]) -> StopReason | None:
        return StopReason.CONVERGED if converged(history, self.tolerance) else None


@dataclass
class LeastSquares(Descent):
    """Least squares of second order: :class:`VarPro` where the problem is linear, else :class:`GaussNewton`.

    Parameters
    ----------
    tolerance : float
        Converged when the loss decreases by less than this fraction over ten iterations.
    ridge : float
        Tikhonov weight on the squares of the scaled amplitudes.
    damping : float
        Initial Levenberg-Marquardt damping, relative to the diagonal of the Gauss-Newton matrix.
    step_cap : float
        Largest change of a raw shape parameter in a step.

    Notes
    -----
    Variable projection: Golub and Pereyra (1973), with Kaufman's Jacobian (1975).  Its functional form, for problems
    nonlinear in the amplitudes: Ruhe and Wedin (1980).  Damping: Marquardt's scaling, Nielsen's update.  Geodesic
    acceleration: Transtrum and Sethna, arXiv:1201.5885.
    """

    name: ClassVar[str] = "auto"
    tolerance: float = option(1e-4, number())
    ridge: float = option(1e-12, number())
    damping: float = option(1.0, positive())
    step_cap: float = option(1.0, positive())

    def name_for(self, work: Any) -> str:
        if self.name != LeastSquares.name:
            return self.name
        return (VarPro if work.is_linear() else GaussNewton).name

    def make_model(self, work: Any) -> Separable | Projected | Joint:
        self.name = self.name_for(work)
        return (Separable if work.is_linear() else Projected)(work.system, self.ridge)

    @torch.no_grad()
    def first_point(self) -> Point:
        return self.model.start(self.work.net.rows.detach().double())

    @torch.no_grad()
    def step(self, most: int) -> int:
        if super().step(most):
            return 1
        better = self.model.settled(self.point)
        if better is None:
            return 0
        self._point, self._steps = better, None
        return 1

    def best(self) -> dict[str, Tensor]:
        return {"rows": self.model.rows(self.point), "unknowns": self.model.unknowns(self.point)}

    def over(self, history: Sequence[dict[str, Any]]) -> StopReason | None:
        if self.point.loss <= _FLOOR * self.model.reference_loss:
            return StopReason.LOSS_FLOOR
        return super().over(history)

    def state_dict(self) -> dict[str, Any]:
        return self.model.memory(self.point)

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        device = self.work.device
        self._point = self.model.recalled({k: v.to(device) if isinstance(v, Tensor) else v for k, v in state.items()})


@dataclass
class VarPro(LeastSquares):
    """Variable projection: the amplitudes are eliminated exactly; linear problems only.

    Parameters are those of :class:`LeastSquares`.
    """

    name: ClassVar[str] = "varpro"

    def check_work(self, work: Any) -> None:
        if not work.is_linear():
            advice = "which 'varpro' cannot do; use method='gauss-newton'"
            raise ValueError(f"problem {work.problem.name!r} is nonlinear in u or its unknowns, {advice}")

    def make_model(self, work: Any) -> Separable:
        return Separable(work.system, self.ridge)


@dataclass
class GaussNewton(LeastSquares):
    """Gauss-Newton in the shapes: amplitudes and unknowns are eliminated from every linearisation; any problem.

    Parameters are those of :class:`LeastSquares`.
    """

    name: ClassVar[str] = "gauss-newton"

    def make_model(self, work: Any) -> Projected:
        return Projected(work.system, self.ridge)


@dataclass
class LevenbergMarquardt(LeastSquares):
    """Levenberg-Marquardt in all parameters together; any problem.

    Parameters are those of :class:`LeastSquares`.
    """

    name: ClassVar[str] = "lm"

    def make_model(self, work: Any) -> Joint:
        return Joint(work.system, self.ridge)


__all__ = ["PATIENCE", "Descent", "GaussNewton", "LeastSquares", "LevenbergMarquardt", "VarPro", "converged", "descend"]
