"""A limit on the steps of the shapes: no edge of a bump becomes thinner than the collocation points can see.

An edge is a smooth step.  Between two points a thinner one is seen by none of them: the loss then says nothing about
it, and least squares use it to fit what the points happen to see.
"""

from __future__ import annotations

import functools
import math

import torch
from scipy.spatial import KDTree
from torch import Tensor

from ..core.ranks import ALONE, Ranks
from ..core.rows import RowLayout, orientation

#: Thickness of the thinnest edge, in distances of the points: it rises from 10 to 90 % over 4.4 thicknesses.
_THINNEST = 0.1
#: Edges within this factor of the limit are at the limit.
_AT = 1 + 1e-6


class EdgeLimit:
    """How thin edges may become beside the distances of points.

    Parameters
    ----------
    x : Tensor
        [N, d], the points of this rank; with one point there is no limit.
    frame : Tensor
        [3, d] of the net.
    layout : RowLayout
        Of its rows.
    ranks : Ranks
        That share the points: the distances are taken to be alike on all of them.
    """

    def __init__(self, x: Tensor, frame: Tensor, layout: RowLayout, ranks: Ranks = ALONE):
        self.layout, self.frame = layout, frame.detach().double().cpu()
        points = (x.detach().double().cpu() * self.frame[2]).numpy()
        number, dim = min(2 * layout.dim + 1, len(points) - 1), layout.dim
        self.tree = KDTree(points) if number > 0 else None
        if self.tree is not None:
            reach = torch.from_numpy(self.tree.query(points, [number + 1])[0][:, 0])
            ball = math.pi ** (dim / 2) / math.gamma(dim / 2 + 1)
            self.distances = reach * (ball / number / ranks.count) ** (1 / dim)

    def log_thickness(self, rows: Tensor) -> Tensor:
        """Logarithms [M] of the thickness of the edges, in internal units: that of psi where the box ends."""
        rows, layout = rows.detach().double().cpu(), self.layout
        _, _, length = orientation(rows[:, layout.skew], layout.dim)
        slope = math.log(2) + rows[:, layout.sharpness] if layout.tied else rows[:, layout.outer]
        return -(slope + rows[:, layout.sharpness] + length.log())

    def log_thinnest(self, rows: Tensor) -> Tensor:
        """Logarithms [M] of the least thickness where the edges are."""
        rows, layout, frame = rows.detach().double().cpu(), self.layout, self.frame
        if self.tree is None:
            return rows.new_full((len(rows),), -math.inf)
        centre = (frame[0] + (frame[1] - frame[0]) * 0.5 * (1 + torch.tanh(rows[:, layout.centre]))) * frame[2]
        _, Q, _ = orientation(rows[:, layout.skew], layout.dim)
        half = 0.5 * torch.exp(rows[:, layout.size, None]) * Q  # [M, sides, d]
        places = (centre[:, None] + torch.cat([half, -half], 1)).nan_to_num()
        _, nearest = self.tree.query(places.flatten(0, 1).numpy())
        near = self.distances[torch.from_numpy(nearest)].view(len(rows), -1).amin(1)
        return (_THINNEST * near).log()

    @functools.cached_property
    def log_enough(self) -> float:
        """Logarithm of a thickness that is enough anywhere."""
        return -math.inf if self.tree is None else math.log(max(_THINNEST * float(self.distances.max()), 1e-300))

    def limited(self, before: Tensor, after: Tensor) -> Tensor:
        """Rows [M, columns] after a step from ``before``, with edges no thinner than the limit, or than before."""
        thickness = self.log_thickness(after)
        if bool((thickness >= self.log_enough).all()):
            return after
        least = torch.minimum(self.log_thinnest(after), self.log_thickness(before))
        excess = torch.where(thickness < least, least - thickness, 0.0)
        if not bool((excess > 0).any()):
            return after
        limited = after.clone()
        for column in self._slopes():
            limited[:, column] -= (0.5 * excess).to(after)
        return limited

    def held(self, rows: Tensor, descent: Tensor) -> Tensor:
        """Columns [M, shape columns], true where ``descent``, the way down, is that of an edge at the limit."""
        held = torch.zeros(descent.shape, dtype=torch.bool)
        thickness = self.log_thickness(rows) - math.log(_AT)
        if bool((thickness > self.log_enough).all()):
            return held.to(descent.device)
        at_limit = thickness <= self.log_thinnest(rows)
        for column in self._slopes():
            held[:, column] = at_limit & (descent[:, column].cpu() > 0)
        return held.to(descent.device)

    def _slopes(self) -> tuple[int, ...]:
        """The columns that make edges thin."""
        return (self.layout.sharpness,) if self.layout.tied else (self.layout.sharpness, self.layout.outer)


__all__ = ["EdgeLimit"]
