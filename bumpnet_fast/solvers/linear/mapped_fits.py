"""Fits of a linear problem over one basis in many mapped coordinates, as few steps as they can be."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...core.maps import AxisMap, Maps
from ...nets.bumpnet import BumpNet
from ...nets.smooth import Shape, smooth_rows
from ...problems import sampling
from ..elimination import kinds_of, triangular_solve
from ..map_search import uniform
from ..residual import System, balance_by, blocks
from .method import POINTS
from .task import FrozenTask

#: Points of the held-out residual: half uniform in x, and half in xi.
_HELD_OUT = 400
#: How many more cells there are along axes with a map than along the others: logarithm to the base of 2.
_DENSER = 1.0


class MappedFits:
    """``fit(maps)`` of :func:`~bumpnet_fast.solvers.map_search.search`: the best amplitudes, and what they leave.

    All points of a fit, those that are solved on and those that are not, are rows of one matrix.  What depends on the
    map of one axis is kept, as most maps that are tried differ along one axis only.

    Parameters
    ----------
    work : FrozenTask
        A linear problem on a box, in one process.
    shape : Shape
        Of the basis, before there are more cells along axes with maps.
    bumps : int, optional
        Of the basis, about; by default the present size of ``work``.
    """

    def __init__(self, work: FrozenTask, shape: Shape, bumps: int | None = None):
        self.work, self.shape, self.bumps = work, shape, bumps or work.bumps
        self.problem, self.domain = work.problem, work.problem.domain.double()
        counts = (POINTS * self.bumps,) + (1,) * (len(self.domain[0]) - 1)
        solved = sampling.interior(self.domain, counts, "sobol", work.basis_seed + 1)
        self.number, half = len(solved), _HELD_OUT // 2
        self.xi = torch.cat([solved, uniform(self.domain, half, 8)]).to(work.device)
        self.even = uniform(self.domain, half, 7).to(work.device)
        self._inverted: dict[tuple[int, AxisMap], Tensor] = {}
        self._shares: dict[Maps | None, float] = {}

    def __call__(self, maps: Maps | None) -> tuple[float, BumpNet]:
        maps = None if maps is None or all(axis.kind == "identity" for axis in maps.axes) else maps
        work, n = self.work, self.number
        layout, counts = work.net.layout, denser_where_mapped(self.shape, maps).counts(self.bumps, work.widths)
        rows, frame = smooth_rows(counts, self.domain.cpu(), layout, self.shape.sharpness, work.basis_seed)
        net = BumpNet.from_rows(rows.to(work.device), frame.to(work.device), self.problem.domain, maps=maps)
        moved = self.xi if maps is None else self._moved(maps)
        x = torch.cat([moved, self.even])
        made = blocks(self.problem, work.boundary, work.counts, x, work.condition_weight)
        balance_by(made, work.balance)
        system = System(made, net)
        offset, coefficients = system.linearise()
        A, _ = system.design(net.rows.detach(), coefficients)
        density = torch.ones_like(x[:, 0]) if maps is None else maps.at(x).first.prod(-1)
        weights = density[:n].rsqrt()
        weights = weights / weights.square().mean().sqrt() * math.sqrt(len(x) / n)
        own, others = system.equations[0] * len(x), system.size - system.equations[0] * len(x)
        solved = torch.arange(system.size, device=x.device)
        solved = torch.cat([solved[:own].view(-1, len(x))[:, :n].flatten(), solved[own:]])
        factors = torch.cat([weights.repeat(system.equations[0]), weights.new_ones(others)])
        h, _ = triangular_solve(
            A[:, solved] * factors, -offset[solved] * factors, work.ridge, kinds=kinds_of(system, len(A))
        )
        net.rows.data[:, layout.amplitude] = h.view(len(rows), -1)
        found, nothing = (self._held_out(part, own, len(x), density) for part in (h @ A + offset, offset))
        self._shares[maps] = found / nothing if nothing > 0 else math.inf
        return (found if math.isfinite(found) else math.inf), net

    def left(self, maps: Maps | None) -> float:
        """The held-out residual with maps that were tried, relative to that of no bumps at all."""
        return self._shares[maps]

    def _held_out(self, rows: Tensor, own: int, points: int, density: Tensor) -> float:
        """Root mean square of rows [R], those of the equation first: over x, the larger one by both kinds of points."""
        squares = rows[:own].view(-1, points).square().sum(0) * points
        moved = len(self.xi)
        by_x = squares[moved:].mean()
        shares = 1 / density[self.number : moved]
        by_xi = (squares[self.number : moved] * shares).sum() / shares.sum()
        return float((torch.maximum(by_x, by_xi) + rows[own:].square().sum()).sqrt())

    def _moved(self, maps: Maps) -> Tensor:
        """The points that are mapped to :attr:`xi`."""
        columns = []
        for j, axis in enumerate(maps.axes):
            if (j, axis) not in self._inverted:
                self._inverted[j, axis] = axis.inverse(self.xi[:, j])
            columns.append(self._inverted[j, axis])
        return torch.stack(columns, 1)


def denser_where_mapped(shape: Shape, maps: Maps | None) -> Shape:
    """A shape with more cells along axes with a map than along those without: there is more to be resolved."""
    axes = () if maps is None else maps.axes
    mapped = [j for j, axis in enumerate(axes) if axis.kind != "identity"]
    if len(mapped) < len(axes):
        for axis in mapped:
            shape = shape.denser(axis, _DENSER)
    return shape


__all__ = ["MappedFits", "denser_where_mapped"]
