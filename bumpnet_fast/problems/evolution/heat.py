"""The heat equation, periodic or with the ends held at zero."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .base import EvolutionProblem


@dataclass
class Heat(EvolutionProblem):
    """``u_t = nu u_xx`` from two waves, ``sin w x + sin(3 w x)/2``, with w such that one wave fits the domain.

    The waves vanish at both ends, so the same solution serves the periodic and the Dirichlet problem.

    Examples
    --------
    >>> Heat().exact(torch.tensor([[math.pi / 2]]), 0.0).item()
    0.5
    """

    name = "heat"
    summary = "u_t = nu u_xx on an interval, from two sine waves"
    want = "laplacian"
    linear = True
    growth = 1.0

    lower: tuple = (0.0,)
    upper: tuple = (2 * math.pi,)
    final_time: float = 0.5
    nu: float = 1.0
    periodic: bool = True

    def rhs(self, x, u, t):
        return self.nu * u.laplacian

    def exact(self, x, t):
        w = 2 * math.pi / (self.upper[0] - self.lower[0])
        s = w * (x[:, 0] - self.lower[0])
        slow, fast = math.exp(-self.nu * w**2 * t), math.exp(-9 * self.nu * w**2 * t)
        return slow * torch.sin(s) + 0.5 * fast * torch.sin(3 * s)


@dataclass
class Heat2D(EvolutionProblem):
    """``u_t = nu (u_xx + u_yy)`` from ``sin v sin w + sin(2 v) sin(w)/2``, v and w with one wave on their side.

    Examples
    --------
    >>> x, heat = torch.rand(5, 2), Heat2D()
    >>> torch.allclose(heat.exact(x, 0.0), heat.initial(x))
    True
    """

    name = "heat2d"
    summary = "u_t = nu (u_xx + u_yy) on a rectangle, from two products of sine waves"
    want = "laplacian"
    linear = True
    growth = 1.0
    default_bumps = (12, 12)

    lower: tuple = (0.0, 0.0)
    upper: tuple = (1.0, 1.0)
    final_time: float = 0.5
    nu: float = 0.02
    periodic: bool = True

    def rhs(self, x, u, t):
        return self.nu * u.laplacian

    def exact(self, x, t):
        lo, hi = self.domain.to(x)
        w = 2 * math.pi / (hi - lo)
        a, b = (w * (x - lo)).unbind(1)
        rate = (self.nu * w**2).tolist()
        one, two = (math.exp(-(k * k * rate[0] + rate[1]) * t) for k in (1, 2))
        return (one * torch.sin(a) + 0.5 * two * torch.sin(2 * a)) * torch.sin(b)
