"""Which shapes of a net are trained: a descent steps in these alone, and its Jacobian has rows for no others."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.rows import RowLayout
from ..nets.bumpnet import BumpNet
from ..nets.frozen import some_frozen


class TrainedShapes:
    """Rows of a net as trained shapes [P], flat, amplitudes, and shapes that stay as they are.

    A system of rows (:class:`~bumpnet_fast.solvers.residual.System`) is one; by default all shapes are trained.
    """

    layout: RowLayout
    #: [M], bool; None if all are trained.
    trained: Tensor | None = None
    #: [bumps that are not trained, shape columns], float64.
    frozen: Tensor

    def hold_frozen(self, net: BumpNet) -> None:
        """Take the shapes that are not trained from ``net``."""
        if some_frozen(net):
            self.trained = net.trainable.clone()
            self.frozen = net.rows.detach()[~self.trained, : self.layout.shape_columns].double()

    def of_trained(self, by_bump: Tensor) -> Tensor:
        """The part of a tensor [M, ...] for the trained bumps."""
        return by_bump if self.trained is None else by_bump[self.trained]

    def shapes_of(self, rows: Tensor) -> Tensor:
        """The trained shapes [P] of rows [M, columns]."""
        return self.of_trained(rows[:, : self.layout.shape_columns]).flatten()

    def with_shapes(self, shapes: Tensor, amplitudes: Tensor) -> Tensor:
        """Rows [M, columns] with trained shapes [P] and amplitudes [M, K]."""
        shapes = shapes.view(-1, self.layout.shape_columns)
        if self.trained is not None:
            whole = shapes.new_empty(len(self.trained), self.layout.shape_columns)
            whole[self.trained], whole[~self.trained] = shapes, self.frozen.to(shapes)
            shapes = whole
        return torch.cat([shapes, amplitudes], 1)

    def bumps_of(self, shapes: int) -> int:
        """Number of all bumps, where there are so many trained shapes P."""
        return shapes // self.layout.shape_columns if self.trained is None else len(self.trained)


__all__ = ["TrainedShapes"]
