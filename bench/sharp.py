"""Sharp bumps in large numbers, of which few meet at any one point: what leaving pairs out is for."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from bumpnet_fast.core.reference import LAPLACIAN
from bumpnet_fast.core.rows import RowLayout

_ops = torch.ops.bumpnet_fast


class Sharp(NamedTuple):
    """In two dimensions and float32, ``sharpness`` being p A."""

    points: int
    bumps: int
    sharpness: float

    def arguments(self, device: str = "cpu") -> tuple[Tensor, ...]:
        """Points, rows, frame and cotangents: bumps anywhere, which cover the domain four times."""
        generator, m = torch.Generator().manual_seed(0), self.bumps
        layout = RowLayout(2)
        rows = torch.zeros(m, layout.columns)
        rows[:, layout.centre] = torch.atanh((2 * torch.rand(m, 2, generator=generator) - 1) / 1.2)
        rows[:, layout.size] = math.log(2)
        rows[:, layout.skew] = torch.rand(m, 1, generator=generator) - 0.5
        rows[:, layout.sharpness] = math.log(self.sharpness)
        rows[:, layout.amplitude] = torch.randn(m, 1, generator=generator)
        frame = torch.tensor([[-1.2, -1.2], [1.2, 1.2], [math.sqrt(m / 4)] * 2])
        x = 2 * torch.rand(self.points, 2, generator=generator) - 1
        return tuple(t.to(device) for t in (x, rows, frame, torch.randn(self.points, 1, generator=generator)))


def forward(x: Tensor, rows: Tensor, frame: Tensor, cotangent: Tensor) -> Tensor:
    """A Laplacian."""
    return _ops.jet(x, rows, frame, LAPLACIAN, True)[2]


def backward(x: Tensor, rows: Tensor, frame: Tensor, cotangent: Tensor) -> Tensor:
    """Its gradient to the rows."""
    return _ops.jet_vjp(None, None, cotangent, x, rows, frame, LAPLACIAN, True, False, True)[1]
