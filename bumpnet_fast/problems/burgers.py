"""Viscous Burgers' equation: a wave that steepens into a shock layer."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch

from .base import Problem


@dataclass
class Burgers(Problem):
    """``u_t + u u_x = nu u_xx`` on [-1, 1], ``u(x, 0) = -sin(pi x)``, zero at the ends.

    By default nu = 0.01/pi, as in Raissi, Perdikaris and Karniadakis (2019), who made it the benchmark of
    physics-informed networks; the layer at x = 0 is then a few thousandths wide.

    Examples
    --------
    >>> problem = Burgers()
    >>> [round(u, 3) for u in problem.exact(torch.tensor([[-0.5, 0.0], [-0.5, 0.7]])).tolist()]
    [1.0, 0.483]
    """

    name = "burgers"
    summary = "u_t + u u_x = nu u_xx, u = -sin(pi x) at t = 0: a shock layer"
    want = "diagonal"
    linear = False
    time = 1
    default_bumps = (30, 3)
    default_windows = 24
    options = MappingProxyType({"graded": 0.5, "scale": 10.0, "refine": 2, "iterations": 60})

    nu: float = 0.01 / math.pi
    lower: tuple[float, ...] = (-1.0, 0.0)
    upper: tuple[float, ...] = (1.0, 1.0)

    def residual(self, x, u):
        return u.d(1) + u.value * u.d(0) - self.nu * u.dd(0)

    def boundary_values(self, x):
        return -torch.sin(math.pi * x[:, 0])

    def exact(self, x):
        """By the transform of Cole and Hopf, its integral by Gauss-Hermite quadrature."""
        s, w = (torch.from_numpy(a).to(x) for a in _gauss_hermite())
        y = x[:, :1] - 2 * torch.sqrt(self.nu * x[:, 1:]) * s
        exponent = -torch.cos(math.pi * y) / (2 * math.pi * self.nu)
        weight = w * torch.exp(exponent - exponent.amax(1, keepdim=True))
        return -(weight * torch.sin(math.pi * y)).sum(1) / weight.sum(1)


@functools.cache
def _gauss_hermite(nodes: int = 128) -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.hermite.hermgauss(nodes)
