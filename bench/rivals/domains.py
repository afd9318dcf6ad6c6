"""Poisson's equation where there is no box: in a star, in the unit disk and in the unit ball."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bumpnet_fast import problems
from bumpnet_fast.problems import Problem


@dataclass
class Star(Problem):
    """``u_xx + u_yy = -3 u`` with ``u = exp(x) sin(2 y)``, in ``r < 0.75 + 0.15 cos(4 theta)``."""

    name = "star"
    summary = "u_xx + u_yy = f in a star, u = exp(x) sin(2 y)"
    want = "laplacian"
    linear = True
    forms = ("soft",)
    default_bumps = (8, 8)

    mean: float = 0.75
    wave: float = 0.15
    lower: tuple[float, ...] = (-1.0, -1.0)
    upper: tuple[float, ...] = (1.0, 1.0)

    def radius(self, angle: Tensor) -> Tensor:
        """Distance of the boundary from the origin."""
        return self.mean + self.wave * torch.cos(4 * angle)

    def inside(self, x):
        return x.norm(dim=1) < self.radius(torch.atan2(x[:, 1], x[:, 0]))

    def boundary_points(self, counts):
        number = 2 * sum(counts)
        angle = 2 * math.pi * torch.arange(number, dtype=torch.float64) / number
        return self.radius(angle)[:, None] * torch.stack([torch.cos(angle), torch.sin(angle)], 1)

    def residual(self, x, u):
        return u.laplacian[:, 0] + 3 * self.exact(x)

    def exact(self, x):
        return torch.exp(x[:, 0]) * torch.sin(2 * x[:, 1])


@dataclass
class Disk(Star):
    """The same in the unit disk."""

    name = "disk"
    summary = "u_xx + u_yy = f in a disk, u = exp(x) sin(2 y)"

    mean: float = 1.0
    wave: float = 0.0


@dataclass
class Ball(Problem):
    """``u_xx + u_yy + u_zz = -4 u`` with ``u = exp(x) sin(2 y) cos(z)``, in the unit ball."""

    name = "ball"
    summary = "u_xx + u_yy + u_zz = f in a ball, u = exp(x) sin(2 y) cos(z)"
    want = "laplacian"
    linear = True
    forms = ("soft",)
    default_bumps = (5, 5, 5)

    lower: tuple[float, ...] = (-1.0, -1.0, -1.0)
    upper: tuple[float, ...] = (1.0, 1.0, 1.0)

    def inside(self, x):
        return x.norm(dim=1) < 1

    def boundary_points(self, counts):
        """Points on a golden spiral, about as dense as a grid with these counts on the faces of the box."""
        k = torch.arange(3 * max(counts) ** 2, dtype=torch.float64) + 0.5
        z = 1 - 2 * k / len(k)
        angle, r = math.pi * (1 + math.sqrt(5)) * k, (1 - z * z).sqrt()
        return torch.stack([r * torch.cos(angle), r * torch.sin(angle), z], 1)

    def residual(self, x, u):
        return u.laplacian[:, 0] + 4 * self.exact(x)

    def exact(self, x):
        return torch.exp(x[:, 0]) * torch.sin(2 * x[:, 1]) * torch.cos(x[:, 2])


#: Problems that need no box.
DOMAINS: dict[str, type[Problem]] = {cls.name: cls for cls in (Star, Disk, Ball)}
#: Everything that is solved, by name.
NAMES = (*problems.PROBLEMS, *DOMAINS)


def get(name: str) -> Problem:
    """A problem of the library or of :data:`DOMAINS`; KeyError if there is none."""
    return DOMAINS[name]() if name in DOMAINS else problems.PROBLEMS[name]()
