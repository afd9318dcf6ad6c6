"""Damped Gauss-Newton descent with geodesic acceleration, for any model that can linearise itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from .models import Point

#: Marquardt's scaling forgets large diagonals by this factor per iteration.
_FADE = 0.9
#: Damping at which no step is left to try.
_DAMPING_MOST = 1e12
#: Step, relative to the whole, over which the second directional derivative is measured.
_PROBE = 0.1
#: Longest acceleration, relative to the velocity, that is believed.
_ACCELERATION_MOST = 0.4
#: Damping of the amplitudes relative to that of the shapes, where they are stepped together.
_AMPLITUDE_DAMPING = 1e-2
#: Rows of a block of the Gram matrix; leaving out the blocks above the diagonal saves a third.
_GRAM_BLOCK = 48


def descend(model, point: Point, damping: float, step_cap: float) -> Iterator[Point]:
    """Points of ever smaller loss by damped Gauss-Newton steps; ends when no step decreases the loss.

    The damping follows Nielsen's rule in the metric of Marquardt's scaling.  A step is the velocity
    of the damped normal equations plus half the geodesic acceleration, which follows the curved
    floor of the valley that the velocity is tangent to.  The first ``model.stepped`` unknowns are
    amplitudes: damped less, and not capped.

    A point that comes out of here knows its own damping and scaling: from it, a descent goes on.
    """
    growth, scale, ranks = 2.0, point.scale, model.ranks
    damping = damping if point.damping is None else point.damping
    while True:
        J, gradient = model.jacobian(point)
        H = ranks.total(lower_gram(J))
        diagonal = H.diagonal().clone()
        scale = diagonal if scale is None else torch.maximum(diagonal, _FADE * scale)
        metric = scale.clamp_min(1e-14 * float(scale.max()))
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
            cap = min(1.0, step_cap / max(float(velocity[model.stepped :].abs().max()), 1e-300))
            velocity *= cap
            # (H + damping metric) velocity = -gradient spares H @ velocity.
            predicted = -2 * cap * slope + cap**2 * (slope + damping * size)
            step = ranks.agreed(velocity + _acceleration(model, point, J, L, metric, velocity))
            trial = model.move(point, step)
            if math.isfinite(trial.loss) and trial.loss < point.loss:
                gain = min((point.loss - trial.loss) / max(predicted, 1e-300), 1.0)
                damping = max(damping * max(1 / 5, 1 - (2 * gain - 1) ** 3), 1e-15)
                growth, point = 2.0, replace(trial, damping=damping, scale=scale)
                break
            damping, growth = damping * growth, 2 * growth
        yield point


def lower_gram(J: Tensor) -> Tensor:
    """``J J^T`` [P, P] of J [P, R], only the lower triangle filled for certain: all that Cholesky reads.

    >>> J = torch.arange(200.0).reshape(100, 2)
    >>> torch.equal(lower_gram(J).tril(), (J @ J.T).tril())
    True
    """
    H = J.new_zeros(len(J), len(J))
    for start in range(0, len(J), _GRAM_BLOCK):
        stop = min(start + _GRAM_BLOCK, len(J))
        torch.mm(J[start:stop], J[:stop].T, out=H[start:stop, :stop])
    return H


def _acceleration(model, point: Point, J: Tensor, L: Tensor, metric: Tensor, velocity: Tensor) -> Tensor | float:
    """Half the geodesic acceleration along ``velocity``, or 0 where it is too large to be trusted."""
    ahead = model.ahead(point, _PROBE * velocity)
    curvature = (2 / _PROBE) * ((ahead - point.residual) / _PROBE - velocity @ J)
    bend = model.ranks.total(J @ curvature)
    half = -0.5 * torch.cholesky_solve(bend[:, None], L)[:, 0]
    sizes = [float((metric * v * v).sum()) ** 0.5 for v in (half, velocity)]
    return half if sizes[0] <= _ACCELERATION_MOST * sizes[1] else 0.0
