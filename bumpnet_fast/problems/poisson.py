"""Poisson's equation on a box: the shortest problem, a template for others."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .base import Problem


@dataclass
class Poisson(Problem):
    """``u_xx + u_yy = f`` with the solution ``sin(a1 pi x) sin(a2 pi y)`` (arXiv:2512.17198, section 4).

    Examples
    --------
    >>> Poisson(a1=2).exact(torch.tensor([[0.25, 0.5]])).item()
    1.0
    """

    name = "poisson"
    summary = "u_xx + u_yy = f on a box, u = sin(a1 pi x) sin(a2 pi y)"
    want = "laplacian"
    linear = True
    default_bumps = (5, 8)

    a1: float = 1.0
    a2: float = 1.0

    def residual(self, x, u):
        f = -(math.pi**2) * (self.a1**2 + self.a2**2) * self.exact(x)
        return u.laplacian[:, 0] - f

    def exact(self, x):
        return torch.sin(self.a1 * math.pi * x[:, 0]) * torch.sin(self.a2 * math.pi * x[:, 1])
