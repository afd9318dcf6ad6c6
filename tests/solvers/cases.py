"""Problems with features that the library's own do not have: nonlinear, systems, every form of jet."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from bumpnet_fast.problems import Condition, Problem


@dataclass
class Cubic(Problem):
    """u'' + u^3 = f in one dimension, u = sin(pi x): nonlinear."""

    name, want = "cubic", "laplacian"
    lower: tuple = (-1.0,)
    upper: tuple = (1.0,)

    def exact(self, x):
        return torch.sin(math.pi * x[:, 0])

    def residual(self, x, u):
        exact = self.exact(x)
        return u.laplacian + u.value**3 - (exact**3 - math.pi**2 * exact)[:, None]


@dataclass
class Rotation(Problem):
    """u' = w v, v' = -w u with u(0) = 0, v(0) = 1: two outputs, two equations, data at one end."""

    name, want, outputs = "rotation", "gradient", 2
    w: float = 3.0
    lower: tuple = (0.0,)
    upper: tuple = (1.0,)

    def exact(self, x):
        return torch.cat([torch.sin(self.w * x), torch.cos(self.w * x)], 1)

    def residual(self, x, u):
        first, second = u.value.unbind(1)
        return torch.stack([u.d(0)[:, 0] - self.w * second, u.d(0)[:, 1] + self.w * first], 1)

    def distance(self, x):
        return x[:, 0]

    def lift(self, x):
        return torch.tensor([0.0, 1.0]).to(x).expand(len(x), 2)

    def conditions(self):
        def start(counts):
            return torch.zeros(1, 1, dtype=torch.float64)

        return [Condition("start", start, lambda x, u: u.value - self.exact(x))]


@dataclass
class Tangle(Problem):
    """Two outputs, three nonlinear equations with mixed derivatives: nothing to solve, all to differentiate."""

    name, want, outputs = "tangle", "hessian", 2

    def residual(self, x, u):
        a, b = u.output(0), u.output(1)
        return torch.cat(
            [
                a.dd(0, 1) * b.value + x[:, :1] * b.d(1),
                a.d(0) ** 2 + b.laplacian - a.value,
                torch.sin(a.value) * b.dd(1, 0),
            ],
            1,
        )


@dataclass
class Free(Problem):
    """A residual that forgets u."""

    name = "free"

    def residual(self, x, u):
        return x[:, 0]
