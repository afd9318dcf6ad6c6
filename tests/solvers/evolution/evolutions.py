"""Evolution problems with features that the library's own do not have."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from bumpnet_fast.problems.evolution import EvolutionProblem


@dataclass
class Waves(EvolutionProblem):
    """u_t = v_x, v_t = u_x: two outputs that run into one another."""

    name, want, outputs, linear = "waves", "gradient", 2, True
    growth = 1.0

    def rhs(self, x, u, t):
        return u.d(0).flip(1)

    def exact(self, x, t):
        right, left = torch.sin(math.pi * (x[:, 0] - t)), torch.cos(2 * math.pi * (x[:, 0] + t))
        return torch.stack([right + left, left - right], 1)


@dataclass
class Rod(EvolutionProblem):
    """u_t = u_xx between ends at 1 and 3, with a source that may vary in time."""

    name, want, periodic = "rod", "diagonal", False
    beat: float = 0.0
    lower: tuple = (0.0,)
    upper: tuple = (1.0,)
    final_time: float = 0.2

    def boundary_values(self, x):
        return 1 + 2 * x[:, 0]

    def rhs(self, x, u, t):
        s = torch.sin(math.pi * x[:, 0])
        return u.dd(0)[:, 0] + (math.pi**2 * math.cos(self.beat * t) - self.beat * math.sin(self.beat * t)) * s

    def exact(self, x, t):
        return 1 + 2 * x[:, 0] + math.cos(self.beat * t) * torch.sin(math.pi * x[:, 0])


@dataclass
class Swelling(EvolutionProblem):
    """u_t = power-law growth of u, everywhere alike: u = 1/(1 - t) for the power 2."""

    name, want = "swelling", "value"
    power: int = 2

    def initial(self, x):
        return torch.ones_like(x[:, 0])

    def rhs(self, x, u, t):
        return u.value**self.power


@dataclass
class Bistable(EvolutionProblem):
    """u_t = nu (u_xx + u_yy) + u - u^3 with u = 0 on two sides and periodic along the others: nonlinear, 2D."""

    name, want, periodic = "bistable", "hessian", (True, False)
    lower: tuple = (0.0, 0.0)
    upper: tuple = (2.0, 1.0)
    final_time: float = 0.5
    nu: float = 0.05

    def initial(self, x):
        return torch.sin(math.pi * x[:, 1]) * (1 + 0.5 * torch.cos(math.pi * x[:, 0]))

    def rhs(self, x, u, t):
        return self.nu * (u.hessian[..., 0, 0] + u.hessian[..., 1, 1]) + u.value - u.value**3


@dataclass
class Tidal(EvolutionProblem):
    """u_t = -cos(t) u_x: linear, with an operator that depends on time."""

    name, want = "tidal", "gradient"

    def rhs(self, x, u, t):
        return -math.cos(t) * u.d(0)

    def exact(self, x, t):
        return torch.sin(math.pi * (x[:, 0] - math.sin(t)))


@dataclass
class Porous(EvolutionProblem):
    """u_t = (u^2/2)_xx: diffusion that is stiff by u itself, none of it at u = 0."""

    name, want = "porous", "laplacian"

    def initial(self, x):
        return 2 + torch.cos(math.pi * x[:, 0])

    def rhs(self, x, u, t):
        return u.value * u.laplacian + u.d(0) ** 2


@dataclass
class Decay(EvolutionProblem):
    """u_t = nu u_xx with u = 0 at the ends of [-1, 1], from one of several starts; ``pulse`` heats for a short time."""

    name, want, periodic = "decay", "laplacian", False
    start: str = "tent"
    nu: float = 0.1
    pulse: float = 0.0

    def initial(self, x):
        s = x[:, 0]
        starts = {
            "tent": 1 - s.abs(), "ones": torch.ones_like(s), "zero": 0 * s, "wave": torch.cos(0.5 * math.pi * s),
            "peak": torch.cos(0.5 * math.pi * s) + torch.exp(-(((s - 0.3) / 3e-3) ** 2)),
        }  # fmt: skip
        return starts[self.start]

    def rhs(self, x, u, t):
        heat = self.pulse * math.exp(-(((t - 0.53) / 5e-3) ** 2)) * torch.exp(-((x[:, 0] / 0.2) ** 2))
        return self.nu * u.laplacian[:, 0] + heat


@dataclass
class Steep(EvolutionProblem):
    """Burgers' equation with u = 0 at the ends."""

    name, want, periodic = "steep", "laplacian", False
    lower: tuple = (0.0,)
    final_time: float = 0.5
    nu: float = 0.02

    def initial(self, x):
        return torch.sin(2 * math.pi * x[:, 0]) + 0.5 * torch.sin(math.pi * x[:, 0])

    def rhs(self, x, u, t):
        return self.nu * u.laplacian - u.value * u.d(0)
