"""Advection at a constant speed, periodic."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .base import EvolutionProblem


@dataclass
class Advection(EvolutionProblem):
    """``u_t + speed u_x = 0``, periodic; the start is a sine wave or, with ``narrow`` > 0, a pulse.

    The pulse is ``exp(narrow (cos s - 1))``, where s goes once around the domain.

    Examples
    --------
    >>> Advection(speed=30, final_time=1).exact(torch.tensor([[30.0]]), 1.0).item()
    0.0
    """

    name = "advection"
    summary = "u_t + speed u_x = 0, periodic, of a sine wave or of a pulse (narrow > 0)"
    want = "gradient"
    linear = True
    growth = 1.0

    lower: tuple = (0.0,)
    upper: tuple = (2 * math.pi,)
    final_time: float = 2 * math.pi
    speed: float = 1.0
    narrow: float = 0.0

    def rhs(self, x, u, t):
        return -self.speed * u.d(0)

    def exact(self, x, t):
        w = 2 * math.pi / (self.upper[0] - self.lower[0])
        s = w * (x[:, 0] - self.lower[0] - self.speed * t)
        return torch.sin(s) if self.narrow == 0 else torch.exp(self.narrow * (-torch.cos(s) - 1))
