"""The wave equation: two conditions at the start."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .base import Problem


@dataclass
class Wave(Problem):
    """``u_tt = c^2 u_xx`` on [0, 1], zero at the ends, from ``sin(pi x) + 0.5 sin(4 pi x)`` at rest.

    The start at rest is built in by ``u = u(x, 0) + t^2 x (1 - x) v``.

    Examples
    --------
    >>> round(Wave().exact(torch.tensor([[0.5, 0.0]])).item(), 3)
    1.0
    """

    name = "wave"
    summary = "u_tt = c^2 u_xx from sin(pi x) + 0.5 sin(4 pi x) at rest, zero at the ends"
    want = "diagonal"
    linear = True
    time = 1
    time_order = 2
    default_bumps = (9, 9)

    c: float = 1.0
    lower: tuple[float, ...] = (0.0, 0.0)
    upper: tuple[float, ...] = (1.0, 1.0)

    def residual(self, x, u):
        return u.dd(1) - self.c**2 * u.dd(0)

    def exact(self, x):
        modes = ((1, 1.0), (4, 0.5))
        return sum(a * torch.sin(k * math.pi * x[:, 0]) * torch.cos(k * math.pi * self.c * x[:, 1]) for k, a in modes)

