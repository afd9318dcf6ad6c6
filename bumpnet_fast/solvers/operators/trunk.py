"""The trunk by variable projection: bumps whose span holds what is wanted as well as M bumps can.

What is wanted is known by its leading modes (proper orthogonal decomposition).  All modes share the
shapes, and each has amplitudes of its own, which are eliminated.  So the unknowns are the shapes only,
and the cost of a step does not grow with the number of modes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...nets.deeponet import BumpDeepONet
from .fit import Fit

#: A column is scaled up by no more than this, relative to the longest: a dying bump keeps finite amplitudes.
_SHORTEST = 1e-6
#: Initial damping.  Ten times less sends every second trunk of 8 bumps into a valley fifty times too high.
_DAMPING = 10.0
#: Damping at which no step is left to try, and the largest change of a shape in a step.
_DAMPING_MOST, _STEP_CAP = 1e12, 1.0
#: Marquardt's scaling forgets large diagonals by this factor per iteration.
_FADE = 0.9


def modes(functions: Tensor, count: int) -> Tensor:
    """The ``count`` leading modes [R, count] of ``functions`` [B, R], as large as they are in them.

    The squares of all entries of all modes sum to one: a squared distance from the modes is a
    relative mean square.

    >>> u = torch.tensor([[1.0], [2.0]]) * torch.tensor([3.0, 4.0])
    >>> modes(u, 1).abs()[:, 0]
    tensor([0.6000, 0.8000])
    """
    _, sizes, V = torch.linalg.svd(functions, full_matrices=False)
    return (V[:count] * (sizes[:count, None] / torch.linalg.vector_norm(sizes))).T


def scaled_qr(A: Tensor, ridge: float) -> tuple[Tensor, Tensor, Tensor]:
    """QR of A [R, M] with its columns divided by the lengths, the third result, and with rows of a ridge below."""
    length = torch.linalg.vector_norm(A, dim=0)
    length = length.clamp_min(_SHORTEST * float(length.max()) or 1.0)
    Q, R = torch.linalg.qr(torch.cat([A / length, math.sqrt(ridge) * torch.eye(A.shape[1]).to(A)]))
    return Q, R, length


@dataclass
class Point:
    """Shapes with all that was computed for them."""

    rows: Tensor  # [M, Q]
    loss: float
    residual: Tensor  # [R, K]
    amplitudes: Tensor  # [M, K]
    basis: Tensor  # [R, M] orthonormal columns that the amplitudes reach
    damping: float | None = None  # of the descent that came here
    scale: Tensor | None = None  # [P], likewise

    def memory(self) -> dict[str, Any]:
        """What :func:`points_of_descent` goes on from."""
        return {"rows": self.rows, "damping": self.damping, "scale": self.scale}


class Projection:
    """Least squares of the modes [R, K] over the amplitudes of the bumps, for any shapes of them."""

    def __init__(self, net: BumpDeepONet, fit: Fit, modes: Tensor, ridge: float):
        self.net, self.fit, self.modes, self.ridge = net, fit, modes, ridge

    def evaluate(self, rows: Tensor) -> Point:
        """The best amplitudes, with a ridge on them, by QR: normal equations would square a condition of 1e5."""
        A, _ = self.fit.design(self.net, rows)
        Q, upper, length = scaled_qr(A, self.ridge)
        y = Q[: len(A)].T @ self.modes
        h = torch.linalg.solve_triangular(upper, y, upper=True) / length[:, None]
        residual = Q @ y
        residual[: len(A)] -= self.modes
        return Point(rows, float(residual.square().sum()), residual[: len(A)], h, Q[: len(A)])

    def normal(self, point: Point) -> tuple[Tensor, Tensor]:
        """Gauss-Newton matrix [P, P] and gradient [P] of half the loss, by Kaufman's Jacobian.

        The derivative of mode k's residual is that of the bumps, off their span, times the mode's
        amplitudes; so summing over the modes takes one Gram matrix, times products of amplitudes.
        """
        _, D = self.fit.design(self.net, point.rows, derivatives=True)
        R, M, Q = D.shape
        D = D.reshape(R, M * Q)
        D = D - point.basis @ (point.basis.T @ D)
        together = point.amplitudes @ point.amplitudes.T
        H = (D.T @ D).view(M, Q, M, Q) * together[:, None, :, None]
        pull = point.residual @ point.amplitudes.T
        return H.reshape(M * Q, M * Q), (D.view(R, M, Q) * pull[:, :, None]).sum(0).flatten()


def descend(model: Projection, point: Point) -> Iterator[Point]:
    """Points of ever smaller loss by Levenberg-Marquardt steps; ends when no step decreases the loss.

    The damping follows Nielsen's rule in the metric of Marquardt's scaling, as in ``solvers``.  A point that
    comes out of here knows both: from it, a descent goes on.
    """
    damping, growth, scale = _DAMPING if point.damping is None else point.damping, 2.0, point.scale
    while True:
        H, gradient = model.normal(point)
        diagonal = H.diagonal().clone()
        scale = diagonal if scale is None else torch.maximum(diagonal, _FADE * scale)
        metric = scale.clamp_min(1e-14 * float(scale.max()))
        while True:
            if damping > _DAMPING_MOST:
                return
            L, failed = torch.linalg.cholesky_ex(H + torch.diag(damping * metric))
            if failed:
                damping *= 10
                continue
            step = -torch.cholesky_solve(gradient[:, None], L)[:, 0]
            slope, size = float(gradient @ step), float(metric @ step.square())
            cap = min(1.0, _STEP_CAP / max(float(step.abs().max()), 1e-300))
            # (H + damping metric) step = -gradient spares H @ step.
            predicted = -2 * cap * slope + cap**2 * (slope + damping * size)
            trial = model.evaluate(point.rows + (cap * step).view_as(point.rows))
            if math.isfinite(trial.loss) and trial.loss < point.loss:
                gain = min((point.loss - trial.loss) / max(predicted, 1e-300), 1.0)
                damping = max(damping * max(1 / 5, 1 - (2 * gain - 1) ** 3), 1e-15)
                growth, point = 2.0, replace(trial, damping=damping, scale=scale)
                break
            damping, growth = damping * growth, 2 * growth
        yield point


def points_of_descent(
    net: BumpDeepONet, fit: Fit, ridge: float, memory: dict[str, Any] | None = None
) -> Iterator[Point]:
    """The start, and the point after every step, of the shapes of ``net``, which it leaves alone.

    With the ``memory`` of a point, that one is the start.
    """
    model = Projection(net, fit, modes(fit.weights * fit.targets, len(net.rows)), ridge)
    if memory is None:
        point = model.evaluate(net.rows.detach().double())
    else:
        rows, scale = memory["rows"].to(net.rows.device), memory["scale"]
        scale = None if scale is None else scale.to(rows).reshape(rows.numel())
        point = replace(model.evaluate(rows), damping=memory["damping"], scale=scale)
    yield point
    yield from descend(model, point)
