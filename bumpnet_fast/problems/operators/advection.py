"""Advection of a periodic function."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .base import Operator
from .fields import fourier, fourier_sum


@dataclass
class Advection(Operator):
    """``u(x) = f(x - shift)`` with period 1: the solution of ``u_t + u_x = 0`` from f at the time ``shift``.

    Examples
    --------
    >>> f = torch.randn(2, 128, dtype=torch.float64)
    >>> torch.allclose(Advection(shift=0.25).apply(f), f.roll(32, 1))
    True
    """

    name = "advection"
    summary = "u(x) = f(x - shift), periodic on [0, 1]"
    periodic = True
    default_bumps = 16
    signed = ("shift",)

    sensors: int = 32
    grid: int = 128
    shift: float = 0.3

    def apply(self, f):
        c = fourier(f)
        k = torch.arange(c.shape[-1], dtype=torch.float64)
        return fourier_sum(c * torch.exp(-2j * math.pi * self.shift * k), self.points[:, 0])
