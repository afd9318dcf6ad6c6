"""Kovasznay flow: the steady Navier-Stokes equations behind a grid."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .base import Problem


@dataclass
class Kovasznay(Problem):
    """Steady incompressible flow (u, v, p) behind a two-dimensional grid, with Kovasznay's exact solution (1948).

    Examples
    --------
    >>> Kovasznay().exact(torch.zeros(1, 2)).shape
    torch.Size([1, 3])
    """

    name = "kovasznay"
    summary = "steady Navier-Stokes equations for (u, v, p), Kovasznay's solution"
    want = "diagonal"
    linear = False
    outputs = 3
    default_bumps = (6, 7)

    re: float = 40.0
    lower: tuple[float, ...] = (-0.5, -0.5)
    upper: tuple[float, ...] = (1.0, 1.5)

    def residual(self, x, u):
        (a, b, _), laplacian = u.value.unbind(1), u.laplacian
        momentum = a[:, None] * u.d(0)[:, :2] + b[:, None] * u.d(1)[:, :2] - laplacian[:, :2] / self.re
        pressure = torch.stack([u.d(0)[:, 2], u.d(1)[:, 2]], 1)
        divergence = u.d(0)[:, :1] + u.d(1)[:, 1:2]
        return torch.cat([momentum + pressure, divergence], 1)

    def exact(self, x):
        rate = self.re / 2 - math.sqrt((self.re / 2) ** 2 + 4 * math.pi**2)
        decay, angle = torch.exp(rate * x[:, 0]), 2 * math.pi * x[:, 1]
        u = 1 - decay * torch.cos(angle)
        v = rate / (2 * math.pi) * decay * torch.sin(angle)
        return torch.stack([u, v, (1 - decay**2) / 2], 1)
