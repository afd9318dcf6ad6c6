"""The heat equation: from the initial function to the solution over space and time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .base import Equation, Operator
from .fields import fourier, fourier_sum
from .fields import grid as regular


@dataclass
class Heat(Operator):
    """``u_t = nu u_xx`` with ``u(x, 0) = f(x)`` and period 1 in x: f -> u(x, t) for t in [0, horizon].

    Examples
    --------
    >>> heat = Heat(grid=16, times=5)
    >>> heat.generate(3).outputs.shape, heat.points.shape
    (torch.Size([3, 80]), torch.Size([80, 2]))
    """

    name = "heat"
    summary = "u_t = nu u_xx, u(x, 0) = f(x), periodic in x: f -> u(x, t)"
    periodic = True
    default_bumps = (10, 4)

    sensors: int = 32
    grid: int = 64
    nu: float = 0.01
    horizon: float = 1.0
    times: int = 17

    @property
    def domain(self):
        return torch.tensor([[0.0, 0.0], [1.0, self.horizon]], dtype=torch.float64)

    @property
    def points(self):
        return torch.cartesian_prod(regular(self.grid, True), self.horizon * regular(self.times, False))

    def apply(self, f):
        c = fourier(f)
        rate = self.nu * (2 * math.pi * torch.arange(c.shape[-1], dtype=torch.float64)) ** 2
        x, times = regular(self.grid, True), self.horizon * regular(self.times, False)
        return torch.stack([fourier_sum(c * torch.exp(-rate * t), x) for t in times], -1).flatten(1)

    def equations(self):
        x = regular(self.grid, True)[:, None]
        start = torch.cat([x, torch.zeros_like(x)], 1)
        return [
            Equation("u_t = nu u_xx", self.points, lambda y, f, u: u.d(1) - self.nu * u.dd(0), "diagonal"),
            Equation("u(x, 0) = f", start, lambda y, f, u: u.value - f, weight=10.0),
        ]
