"""Graded bumps of one shape as a fixed basis: ordinary rows of a net, with free outer slope.

The shape is nearly Gaussian and truly local: its tails are below 1e-17 of its height, and its amplitudes do not cancel.
Along a periodic axis the bumps may move at a constant speed, which adds ``speed u_x`` to the rate of u.
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ...core.jet import Jet
from ...core.rows import RowLayout, bounded_atanh
from ...nets.bumpnet import BumpNet
from ...problems.evolution.base import EvolutionProblem
from .basis import IMAGES_MOST, Space
from .grading import Axis, Grid, slope_of_shape
from .models import FixedBasis, Report

#: The shape of all bumps: half their side in widths of an edge, and the outer slope.
_SIDE, _OUTER = 0.5, 43.0
#: A bump is constant to rounding so many widths of its edge away from its centre.
_FAR = 3.0
#: Diagonal entries of a triangular factor below this share of the largest: the bumps are nearly dependent.
_DEPENDENT = 1e-9


def frame_of(problem: EvolutionProblem) -> Tensor:
    """The frame [3, 1] of graded bumps: their centres may lie a width of the domain beyond its ends."""
    lo, hi = problem.domain.double()
    scale = BumpNet(1, 2, problem.domain, dtype=torch.float64).frame[2]
    return torch.stack([lo - (hi - lo), hi + (hi - lo), scale])


def rows_of(grid: Grid, kappa: float, frame: Tensor, outputs: int) -> Tensor:
    """Rows [M, columns] of the bumps of a grid, with amplitudes of 0."""
    layout = RowLayout(1, outputs, tied=False)
    rows = torch.zeros(len(grid.centres), layout.columns, dtype=torch.float64)
    sharpness = torch.from_numpy(slope_of_shape(kappa) / grid.sizes) / frame[2]
    rows[:, layout.centre] = centre_columns(torch.from_numpy(grid.centres), frame)[:, None]
    rows[:, layout.size] = torch.log(2 * _SIDE / sharpness)[:, None]
    rows[:, layout.sharpness] = torch.log(sharpness)
    rows[:, layout.outer] = math.log(_OUTER)
    return rows


def centre_columns(centres: Tensor, frame: Tensor) -> Tensor:
    """The column of rows for centres [M] on the axis."""
    lo, hi = frame[0, 0], frame[1, 0]
    return bounded_atanh((2 * centres - lo - hi) / (hi - lo))


def space_of(problem: EvolutionProblem, grid: Grid, kappa: float, frame: Tensor) -> Space:
    """The function space of the bumps of a grid."""
    images = 0
    if problem.periodic_axes:
        lo, hi = problem.domain[:, 0].tolist()
        reach = _FAR * grid.sizes / slope_of_shape(kappa)
        farthest = np.maximum(hi - grid.centres, grid.centres - lo)
        images = min(IMAGES_MOST, max(1, math.ceil(float(np.max((reach + farthest) / (hi - lo))) - 1)))
    return Space(problem, frame, False, (images,))


class GradedBasis(FixedBasis):
    """The basis of graded bumps.

    Parameters
    ----------
    problem : EvolutionProblem
        In one dimension.
    grid : Grid
        Where the bumps are, and the quadrature.
    kappa : float
        The accuracy that determines the shape of the bumps.
    start : Tensor, optional
        [N, K], u at the points of the grid: by default the initial values.
    speed, since : float
        Of the bumps, and the time at which they are where the grid says.

    Attributes
    ----------
    axis : Axis
        The domain.
    grid, speed, since
        As given.
    """

    def __init__(
        self, problem: EvolutionProblem, grid: Grid, kappa: float, start: Tensor | None = None,
        speed: float = 0.0, since: float = 0.0,
    ):  # fmt: skip
        frame = frame_of(problem)
        self.axis, self.grid, self.speed, self.since = axis_of(problem), grid, speed, since
        rows = rows_of(grid, kappa, frame, problem.outputs)
        points, weights = (torch.from_numpy(np.ascontiguousarray(part)) for part in (grid.points, grid.weights))
        super().__init__(space_of(problem, grid, kappa, frame), rows, points[:, None], weights, start=start)
        self._fine: Jet | None = None

    def factorised(self, unit: Tensor, length: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        columns, upper = torch.linalg.qr(unit)
        diagonal = upper.diagonal().abs()
        if float(diagonal.min()) > _DEPENDENT * float(diagonal.max()):
            inverse = torch.linalg.solve_triangular(upper, torch.eye(len(upper), dtype=upper.dtype), upper=True)
            found = columns, inverse / length[:, None], upper * length
        else:
            found = super().factorised(unit, length)
        return self._flat(*found) if self.problem.sloped else found

    def _flat(self, columns: Tensor, to_amplitudes: Tensor, to_coordinates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The part of a basis without slope at the ends: the lift has the slopes that are given there."""
        slopes = self.space.basis(self.problem.domain.double(), self.start_rows, "gradient").gradient[..., 0]
        all_of_it, _ = torch.linalg.qr((slopes @ to_amplitudes).T, mode="complete")
        flat = all_of_it[:, 2:]
        return columns @ flat, to_amplitudes @ flat, flat.T @ to_coordinates

    # --- while the bumps move ---------------------------------------------------------------------

    def moved(self, t: float) -> float:
        """How far the bumps have moved at ``t``."""
        return self.speed * (t - self.since)

    def points_at(self, t: float) -> Tensor:
        """The points [N, 1] at ``t``."""
        if not self.speed:
            return self.x
        return torch.from_numpy(self.axis.wrapped(self.x.numpy() + self.moved(t)))

    def rhs(self, t: float, u: Jet) -> Tensor:
        return self.shaped(self.problem.rhs(self.points_at(t), u, t), "rhs(x, u, t)")

    def slope(self, t: float, y: Tensor) -> Tensor:
        self.stages += 1
        u = self.jet(y)
        rate = self.rhs(t, u)
        return self.solve(rate + self.speed * u.d(0) if self.speed else rate)

    def linearise(self, t: float, jet: Jet, function=None):
        whole = function or (lambda x, u: self.problem.rhs(self.points_at(t), u, t))
        return super().linearise(t, jet, whole)

    def jacobian(self, t: float, y: Tensor) -> Tensor:
        matrix = super().jacobian(t, y)
        if self.speed:
            r, k = self.rank, self.layout.outputs
            along = self.speed * (self.project @ self.basis.gradient[..., 0])
            for output in range(k):
                matrix.view(r, k, r, k)[:, output, :, output] += along
        return matrix

    def carried(self, t: float, speed: float) -> GradedBasis:
        """The same bumps where they are at ``t``, with another speed from then on."""
        other, d = copy.copy(self), self.moved(t)
        grid, period = self.grid, self.axis.width
        fine = grid.fine + d
        other.grid = replace(
            grid, centres=self.axis.wrapped(grid.centres + d), points=self.axis.wrapped(grid.points + d),
            fine=fine - period * np.floor((fine[0] - self.axis.lo) / period),
        )  # fmt: skip
        other.x, other.start_rows = self.points_at(t), self.start_rows.clone()
        centres = torch.from_numpy(other.grid.centres)
        other.start_rows[:, self.layout.centre] = centre_columns(centres, self.space.frame)[:, None]
        other.speed, other.since, other.stages = speed, t, 0
        return other

    def report(self, t: float, y: Tensor) -> Report:
        if not self.speed:
            return super().report(t, y)
        u = self.jet(y)
        rate = self.rhs(t, u)
        whole = rate + self.speed * u.d(0)
        slope = self.solve(whole)
        residual = whole - self.basis.value @ slope.view(self.rank, -1)
        here, rates = self.carried(t, self.speed), torch.zeros_like(self.start_rows)
        rows, layout = here.start_rows, self.layout
        rows[:, layout.amplitude], rates[:, layout.amplitude] = self.amplitudes(y), self.amplitudes(slope)
        half = 0.5 * (self.space.frame[1] - self.space.frame[0])
        rates[:, layout.centre] = self.speed / (half * (1 - torch.tanh(rows[:, layout.centre]) ** 2))
        return Report(rows, rates, self.rms(u.value), self.rms(rate), self.rms(residual))

    def drift(self, t: float, y: Tensor) -> float:
        """The speed at which u moves as a whole: the one that leaves the least to u_t."""
        u = self.jet(y)
        slopes, rate = u.d(0), self.rhs(t, u)
        size = float((self.root**2 * slopes**2).sum())
        return -float((self.root**2 * rate * slopes).sum()) / size if size > 0 else 0.0

    def rms_of_outputs(self, values: Tensor) -> Tensor:
        """[K], the root mean squares over the domain of values [N, K]."""
        return torch.linalg.vector_norm(self.root * values, dim=0)

    # --- u elsewhere ------------------------------------------------------------------------------

    def fine(self, y: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """u and its first two derivatives, each [n, K], at the fine points of the grid."""
        if self._fine is None:
            x = torch.from_numpy(np.ascontiguousarray(self.grid.fine))[:, None]
            basis = self.space.basis(x, self.start_rows, "laplacian").map(self.combined)
            parts = torch.stack([basis.value, basis.gradient[..., 0], basis.second])
            self._fine = parts.flatten(0, 1), self.space.lift(x, "laplacian")
        parts, lift = self._fine
        u = (parts @ y.view(self.rank, -1)).view(3, -1, self.layout.outputs)
        shifts = (lift.value, lift.gradient[..., 0], lift.second)
        return tuple((part + shift).numpy() for part, shift in zip(u, shifts, strict=True))

    def values(self, x: Tensor, t: float, y: Tensor) -> Tensor:
        """u [n, K] at ``x`` [n] at the time ``t``."""
        return values_of(self.space, self.axis, self.start_rows, x, self.moved(t), self.amplitudes(y))


def values_of(space: Space, axis: Axis, rows: Tensor, x: Tensor, moved: float, amplitudes: Tensor) -> Tensor:
    """u [n, K] at ``x`` [n], from bumps that have moved so far and have these amplitudes [M, K]."""
    return basis_of(space, axis, rows, x, moved) @ amplitudes + space.lift(x[:, None], "value").value


def basis_of(space: Space, axis: Axis, rows: Tensor, x: Tensor, moved: float) -> Tensor:
    """The bumps [n, M] at ``x`` [n] after they have moved so far."""
    at = torch.from_numpy(axis.wrapped((x - moved).numpy())) if moved else x
    return space.basis(at[:, None], rows, "value").value


def axis_of(problem: EvolutionProblem) -> Axis:
    lo, hi = problem.domain[:, 0].tolist()
    return Axis(lo, hi, bool(problem.periodic_axes))


__all__ = ["GradedBasis", "axis_of", "basis_of", "centre_columns", "frame_of", "rows_of", "space_of", "values_of"]
