"""The heat equation over space and time, in one and two space dimensions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .base import Problem


@dataclass
class Heat(Problem):
    """``u_t = nu u_xx`` on [0, 1], zero at the ends, from ``sin(pi x) + 0.5 sin(3 pi x)``.

    Examples
    --------
    >>> Heat().exact(torch.tensor([[0.5, 0.0]])).item()
    0.5
    """

    name = "heat"
    summary = "u_t = nu u_xx from sin(pi x) + 0.5 sin(3 pi x), zero at the ends"
    want = "diagonal"
    linear = True
    time = 1
    default_bumps = (6, 5)

    nu: float = 0.1
    lower: tuple[float, ...] = (0.0, 0.0)
    upper: tuple[float, ...] = (1.0, 1.0)

    def residual(self, x, u):
        return u.d(1) - self.nu * u.dd(0)

    def exact(self, x):
        modes = (a * torch.sin(k * math.pi * x[:, 0]) * self._decay(k, x[:, 1]) for k, a in ((1, 1.0), (3, 0.5)))
        return sum(modes)

    def _decay(self, k, t):
        return torch.exp(-self.nu * (k * math.pi) ** 2 * t)


@dataclass
class Heat2D(Problem):
    """``u_t = nu (u_xx + u_yy)`` on [0, 1]^2, zero at the sides, from ``sin(pi x) sin(pi y)``: three coordinates.

    Examples
    --------
    >>> Heat2D().domain.shape
    torch.Size([2, 3])
    """

    name = "heat2d"
    summary = "u_t = nu (u_xx + u_yy) from sin(pi x) sin(pi y), zero at the sides"
    want = "diagonal"
    linear = True
    time = 2
    default_bumps = (4, 4, 3)

    nu: float = 0.1
    lower: tuple[float, ...] = (0.0, 0.0, 0.0)
    upper: tuple[float, ...] = (1.0, 1.0, 1.0)

    def residual(self, x, u):
        return u.d(2) - self.nu * (u.dd(0) + u.dd(1))

    def exact(self, x):
        wave = torch.sin(math.pi * x[:, 0]) * torch.sin(math.pi * x[:, 1])
        return wave * torch.exp(-2 * self.nu * math.pi**2 * x[:, 2])
