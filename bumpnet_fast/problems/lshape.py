"""Laplace's equation on an L-shaped domain: a singular corner."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from . import sampling
from .base import Problem


@dataclass
class LShape(Problem):
    """``u_xx + u_yy = 0`` on [-1, 1]^2 without its fourth quarter, with ``u = r^(2/3) sin(2 theta / 3)``.

    The derivatives of u are unbounded at the corner in the middle.

    Examples
    --------
    >>> LShape().inside(torch.tensor([[0.5, -0.5], [0.5, 0.5]])).tolist()
    [False, True]
    """

    name = "lshape"
    summary = "u_xx + u_yy = 0 on an L, u = r^(2/3) sin(2 theta / 3): a singular corner"
    want = "laplacian"
    linear = True
    forms = ("soft",)
    default_bumps = (8, 8)

    def inside(self, x):
        return (x[:, 0] <= 0) | (x[:, 1] >= 0)

    def boundary_points(self, counts):
        outer = sampling.faces(self.domain, counts)
        steps = [torch.arange(n, dtype=torch.float64) / n for n in counts]
        right = torch.stack([self.upper[0] * steps[0], 0 * steps[0]], 1)
        down = torch.stack([0 * steps[1], self.lower[1] * steps[1]], 1)
        return torch.cat([outer[self.inside(outer)], right, down])

    def residual(self, x, u):
        return u.laplacian

    def exact(self, x):
        angle = torch.remainder(torch.atan2(x[:, 1], x[:, 0]), 2 * math.pi)
        return x.norm(dim=1) ** (2 / 3) * torch.sin(2 / 3 * angle)
