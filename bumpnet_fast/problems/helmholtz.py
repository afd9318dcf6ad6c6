"""Helmholtz's equation on a box."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .base import Problem


@dataclass
class Helmholtz(Problem):
    """``u_xx + u_yy + k^2 u = f`` with the solution ``sin(a1 pi x) sin(a2 pi y)`` (arXiv:2512.17198, section 4).

    Examples
    --------
    >>> problem, x = Helmholtz(k=2.0), torch.rand(5, 2, dtype=torch.float64)
    >>> from bumpnet_fast import Jet
    >>> bool(problem.residual(x, Jet.of(problem.exact, x, problem.want)).abs().max() < 1e-10)
    True
    """

    name = "helmholtz"
    summary = "u_xx + u_yy + k^2 u = f on a box, u = sin(a1 pi x) sin(a2 pi y)"
    want = "laplacian"
    linear = True
    default_bumps = (4, 10)

    a1: float = 1.0
    a2: float = 4.0
    k: float = 1.0

    def residual(self, x, u):
        f = (self.k**2 - math.pi**2 * (self.a1**2 + self.a2**2)) * self.exact(x)
        return u.laplacian[:, 0] + self.k**2 * u.value[:, 0] - f

    def exact(self, x):
        return torch.sin(self.a1 * math.pi * x[:, 0]) * torch.sin(self.a2 * math.pi * x[:, 1])
