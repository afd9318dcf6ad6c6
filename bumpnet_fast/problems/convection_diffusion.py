"""Convection and diffusion: a boundary layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType

import torch

from .base import Problem


@dataclass
class ConvectionDiffusion(Problem):
    """``u_x = eps (u_xx + u_yy)`` on [0, 1]^2 with a layer of thickness eps at x = 1.

    The solution is ``sin(pi y) (exp(a (x - 1)) - exp(b (x - 1)))`` with the roots a and b of
    ``eps r^2 - r - eps pi^2 = 0``: zero on three sides, and slowly varying outside the layer.

    Examples
    --------
    >>> x = torch.tensor([[0.5, 0.5], [1.0, 0.5]], dtype=torch.float64)
    >>> [round(u, 3) for u in ConvectionDiffusion().exact(x).tolist()]
    [1.051, 0.0]
    """

    name = "convection-diffusion"
    summary = "u_x = eps (u_xx + u_yy) on a box: a boundary layer of thickness eps"
    want = "diagonal"
    linear = True
    default_bumps = (16, 3)
    options = MappingProxyType({"graded": 0.5, "refine": 4, "iterations": 60})

    eps: float = 0.01
    lower: tuple[float, ...] = (0.0, 0.0)
    upper: tuple[float, ...] = (1.0, 1.0)

    def residual(self, x, u):
        return u.d(0) - self.eps * u.laplacian

    def outline(self, x):
        return torch.exp((x[:, 0] - self.upper[0]) / self.eps)

    def exact(self, x):
        root = math.sqrt(1 + (2 * self.eps * math.pi) ** 2)
        fast = (1 + root) / (2 * self.eps)
        slow = -2 * self.eps * math.pi**2 / (1 + root)
        along = x[:, 0] - 1
        return torch.sin(math.pi * x[:, 1]) * (torch.exp(slow * along) - torch.exp(fast * along))
