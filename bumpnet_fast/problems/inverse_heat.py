"""An inverse problem: a diffusivity from measured temperatures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType

import torch

from . import sampling
from .base import Condition, Problem


@dataclass
class InverseHeat(Problem):
    """``u_t = k u_xx + q`` on [0, 1], zero at the ends, with an unknown k and u measured at scattered points.

    The start and the measurements come from ``u = sin(pi x) exp(-t)``.  The source q follows from this u and the true
    diffusivity.  The first guess of k is 1.

    Examples
    --------
    >>> InverseHeat(noise=0.01).side_conditions()[0].points(None).shape
    torch.Size([40, 2])
    """

    name = "inverse-heat"
    summary = "u_t = k u_xx + q with k unknown, from measurements of u"
    want = "diagonal"
    linear = False
    time = 1
    unknowns = MappingProxyType({"k": 1.0})
    default_bumps = (4, 4)

    true_k: float = 0.2
    measurements: int = 40
    noise: float = 0.0
    lower: tuple[float, ...] = (0.0, 0.0)
    upper: tuple[float, ...] = (1.0, 1.0)

    def residual(self, x, u, k):
        return u.d(1) - k * u.dd(0) - ((self.true_k * math.pi**2 - 1) * self.exact(x))[:, None]

    def exact(self, x):
        return torch.sin(math.pi * x[:, 0]) * torch.exp(-x[:, 1])

    def side_conditions(self):
        x = sampling.interior(self.domain, (self.measurements, 1), "sobol")
        error = torch.randn(len(x), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        values = self.exact(x) + self.noise * error
        return [Condition("measured", lambda counts: x, lambda at, u: u.value[:, 0] - values.to(at), weight=1e-3)]
