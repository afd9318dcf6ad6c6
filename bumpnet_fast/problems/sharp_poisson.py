"""Poisson's equation with a narrow peak."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import torch

from .base import Problem


@dataclass
class SharpPoisson(Problem):
    """``u_xx + u_yy = f`` on [-1, 1]^2 with the solution ``exp(-a ((x - x0)^2 + (y - y0)^2))``.

    Examples
    --------
    >>> SharpPoisson().exact(torch.tensor([[0.3, 0.2]])).item()
    1.0
    """

    name = "sharp-poisson"
    summary = "u_xx + u_yy = f on a box, u = exp(-a |x - x0|^2): a narrow peak"
    want = "laplacian"
    linear = True
    default_bumps = (8, 8)
    options = MappingProxyType({"graded": 0.5, "refine": 3, "iterations": 60})

    a: float = 100.0
    at: tuple[float, ...] = (0.3, 0.2)

    def residual(self, x, u):
        r2 = self._distances(x)
        return u.laplacian[:, 0] - (4 * self.a**2 * r2 - 4 * self.a) * torch.exp(-self.a * r2)

    def outline(self, x):
        return self.exact(x)  # the shape of the peak; its place follows from the right-hand side

    def exact(self, x):
        return torch.exp(-self.a * self._distances(x))

    def _distances(self, x):
        return (x - x.new_tensor(self.at)).square().sum(1)
