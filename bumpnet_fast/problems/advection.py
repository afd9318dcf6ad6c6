"""Linear advection: a wave that travels around a ring many times."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .base import Problem


@dataclass
class Advection(Problem):
    """``u_t + nu u_x = 0``, periodic on [0, 2 pi], ``u(x, 0) = sin(x)``.

    At nu = 30 it is the failure of physics-informed networks of Krishnapriyan et al. (arXiv:2109.01050) that
    arXiv:2512.17198 leaves open.

    Examples
    --------
    >>> Advection(nu=math.pi).exact(torch.tensor([[0.5, 0.5]])).item() < 0
    True
    """

    name = "advection"
    summary = "u_t + nu u_x = 0, periodic, u = sin(x) at t = 0"
    want = "gradient"
    linear = True
    time = 1
    periodic = (0,)
    default_bumps = (4, 20)

    nu: float = 30.0
    lower: tuple[float, ...] = (0.0, 0.0)
    upper: tuple[float, ...] = (2 * math.pi, 1.0)

    def residual(self, x, u):
        return u.d(1) + self.nu * u.d(0)

    def exact(self, x):
        return torch.sin(x[:, 0] - self.nu * x[:, 1])
