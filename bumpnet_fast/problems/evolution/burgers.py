"""Burgers' equation: the shortest nonlinear evolution problem, a template for others."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .base import EvolutionProblem


@dataclass
class Burgers(EvolutionProblem):
    """``u_t + u u_x = nu u_xx``, periodic, from ``-sin(pi x)``, which steepens to a front at x = 0.

    Examples
    --------
    >>> from bumpnet_fast import Jet
    >>> x, burgers = torch.tensor([[0.5]]), Burgers()
    >>> burgers.rhs(x, Jet.of(burgers.initial, x, burgers.want), 0.0).item()  # nu pi^2
    0.197...
    """

    name = "burgers"
    summary = "u_t + u u_x = nu u_xx, periodic, from -sin(pi x), which steepens to a front"
    want = "laplacian"
    growth = 1.0
    default_sharpness, default_overlap = 1.41, 2.5  # sharper bumps resolve the front

    nu: float = 0.02

    def initial(self, x):
        return -torch.sin(math.pi * x[:, 0])

    def rhs(self, x, u, t):
        return self.nu * u.laplacian - u.value * u.d(0)
