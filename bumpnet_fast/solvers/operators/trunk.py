"""The trunk by variable projection: fits bump shapes so that their span best approximates the leading POD modes.

The wanted functions are represented by their leading modes (proper orthogonal decomposition).  All modes share the
shapes, and each has its own amplitudes, which are eliminated.  Only the shapes are unknown, and the cost of a step
does not grow with the number of modes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...core.ranks import ALONE
from ...nets.deeponet import BumpDeepONet
from ..arguments import number, option, positive
from ..edges import EdgeLimit
from ..elimination import Normal
from ..levenberg_marquardt import Descent
from .fit import Fit

#: Largest factor by which a column is scaled up, relative to the longest: the amplitudes of a dying bump stay finite.
_SHORTEST = 1e-6


def modes(functions: Tensor, count: int) -> Tensor:
    """The ``count`` leading modes [R, count] of ``functions`` [B, R], as large as in these.

    The squares of all entries of all modes sum to one, so a squared distance from the modes is a relative mean square.

    >>> u = torch.tensor([[1.0], [2.0]]) * torch.tensor([3.0, 4.0])
    >>> modes(u, 1).abs()[:, 0]
    tensor([0.6000, 0.8000])
    """
    _, sizes, V = torch.linalg.svd(functions, full_matrices=False)
    return (V[:count] * (sizes[:count, None] / torch.linalg.vector_norm(sizes))).T


def scaled_qr(A: Tensor, ridge: float) -> tuple[Tensor, Tensor, Tensor]:
    """QR of A [R, M] with columns divided by the lengths (third result), continued by rows of a ridge."""
    length = torch.linalg.vector_norm(A, dim=0)
    length = length.clamp_min(_SHORTEST * float(length.max()) or 1.0)
    Q, R = torch.linalg.qr(torch.cat([A / length, math.sqrt(ridge) * torch.eye(A.shape[1]).to(A)]))
    return Q, R, length


@dataclass
class Point:
    """Shapes, with everything computed for them."""

    rows: Tensor  # [M, Q]
    loss: float
    residual: Tensor  # [R, K]
    amplitudes: Tensor  # [M, K]
    basis: Tensor  # [R, M] orthonormal columns that span the bumps
    damping: float | None = None  # of the descent that reached it
    scale: Tensor | None = None  # [P], likewise

    def memory(self) -> dict[str, Any]:
        """State from which a descent continues."""
        return {"rows": self.rows, "damping": self.damping, "scale": self.scale}


class Projection:
    """Least squares of the modes [R, K] over the amplitudes, as a function of the shapes.

    A model for :func:`~bumpnet_fast.solvers.levenberg_marquardt.descend`.
    """

    #: No amplitude is stepped, and there is one process.
    stepped, ranks = 0, ALONE

    def __init__(self, net: BumpDeepONet, fit: Fit, modes: Tensor, ridge: float):
        self.net, self.fit, self.modes, self.ridge = net, fit, modes, ridge
        self.edges = EdgeLimit(fit.blocks[0].points, net.frame, net.layout)

    def shapes(self, point: Point) -> Tensor:
        """Those of a point, [M, shape columns]."""
        return point.rows

    def evaluate(self, rows: Tensor) -> Point:
        """The best amplitudes, with a ridge, by QR: normal equations would square a condition number of 1e5."""
        A, _ = self.fit.design(self.net, rows)
        Q, upper, length = scaled_qr(A, self.ridge)
        y = Q[: len(A)].T @ self.modes
        h = torch.linalg.solve_triangular(upper, y, upper=True) / length[:, None]
        residual = Q @ y
        residual[: len(A)] -= self.modes
        return Point(rows, float(residual.square().sum()), residual[: len(A)], h, Q[: len(A)])

    def move(self, point: Point, step: Tensor) -> Point:
        """The point after a step [P] of the shapes."""
        return self.evaluate(point.rows + step.view_as(point.rows))

    def normal(self, point: Point) -> Normal:
        """Gauss-Newton matrix [P, P] and gradient [P] of half the loss, by Kaufman's Jacobian.

        The derivative of mode k's residual is that of the bumps, orthogonal to their span, times the mode's amplitudes.
        The sum over the modes therefore takes one Gram matrix, times products of amplitudes.  The Jacobian [R K, P] is
        never formed.
        """
        _, D = self.fit.design(self.net, point.rows, derivatives=True)
        R, M, Q = D.shape
        D = D.reshape(R, M * Q)
        D = D - point.basis @ (point.basis.T @ D)
        together = point.amplitudes @ point.amplitudes.T
        H = (D.T @ D).view(M, Q, M, Q) * together[:, None, :, None]
        pull = point.residual @ point.amplitudes.T
        return Normal(H.reshape(M * Q, M * Q), (D.view(R, M, Q) * pull[:, :, None]).sum(0).flatten())


@dataclass
class Trunk(Descent, listed=False):
    """The stage that fits the shapes, by Levenberg-Marquardt steps of :class:`Projection`.

    The work of its run is an :class:`~bumpnet_fast.solvers.operators.task.OperatorTask`.

    Parameters
    ----------
    tolerance : float
        Converged when the loss decreases by less than this fraction over ten iterations.
    ridge : float
        Tikhonov weight on the squares of the scaled amplitudes.
    damping : float
        Initial damping.  With ten times less, every second trunk of 8 bumps ends in a minimum fifty times too high.
    step_cap : float
        Largest change of a raw shape parameter in a step.
    """

    name: ClassVar[str] = "trunk"
    iterations: ClassVar[int] = 200
    tolerance: float = option(1e-3, number())
    ridge: float = option(1e-16, number())
    damping: float = option(10.0, positive())
    step_cap: float = option(1.0, positive())

    def start(self, work: Any, iterations: int) -> None:
        with work.few_threads():
            super().start(work, iterations)

    def make_model(self, work: Any) -> Projection:
        fit, net = work.fit, work.net
        return Projection(net, fit, modes(fit.weights * fit.targets, len(net.rows)), self.ridge)

    def first_point(self) -> Point:
        return self.model.evaluate(self.work.net.rows.detach().double())

    def step(self, most: int) -> int:
        with self.work.few_threads():
            return super().step(most)

    def loss(self) -> float:
        with self.work.few_threads():
            return super().loss()

    def best(self) -> dict[str, Tensor]:
        return {"rows": self.point.rows}

    def finish(self) -> None:
        if self._point is not None:
            self.work.settle(self.work.net, self.point.rows)

    def state_dict(self) -> dict[str, Any]:
        return self.point.memory()

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        rows, scale = state["rows"].to(self.work.device), state["scale"]
        scale = None if scale is None else scale.to(rows).reshape(rows.numel())
        self._point = replace(self.model.evaluate(rows), damping=state["damping"], scale=scale)
