"""The Allen-Cahn equation: reaction to +-1, and diffusion that keeps the fronts between them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .base import EvolutionProblem


@dataclass
class AllenCahn(EvolutionProblem):
    """``u_t = diffusion u_xx + rate (u - u^3)``, periodic, from ``sin(pi x / 2)^2 cos(pi x)``.

    The start resembles the usual ``x^2 cos(pi x)``, but has no kink at the ends of the period.

    Examples
    --------
    >>> AllenCahn().initial(torch.tensor([[1.0]])).item()
    -1.0
    """

    name = "allen-cahn"
    summary = "u_t = diffusion u_xx + rate (u - u^3), periodic: fronts between -1 and 1"
    want = "laplacian"
    growth = 4.0  # |u| stays below 1, and the start has a root mean square of 0.4
    default_bumps = 60

    diffusion: float = 1e-3
    rate: float = 5.0

    def initial(self, x):
        return torch.sin(0.5 * math.pi * x[:, 0]) ** 2 * torch.cos(math.pi * x[:, 0])

    def rhs(self, x, u, t):
        return self.diffusion * u.laplacian + self.rate * (u.value - u.value**3)

    def stiff_part(self, x, u):
        return self.diffusion * u.laplacian
