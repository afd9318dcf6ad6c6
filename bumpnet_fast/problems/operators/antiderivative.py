"""The antiderivative: the shortest operator, a template for others."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .base import Equation, Operator
from .fields import grid


@dataclass
class Antiderivative(Operator):
    """``u(x) = integral of f from 0 to x``, exact for the cubic spline through the values of f.

    Examples
    --------
    >>> one = torch.ones(1, 30, dtype=torch.float64)
    >>> torch.allclose(Antiderivative().apply(one)[0], Antiderivative().points[:, 0])
    True
    """

    name = "antiderivative"
    summary = "u' = f, u(0) = 0 on [0, 1]"

    def apply(self, f):
        from scipy.interpolate import CubicSpline

        spline = CubicSpline(grid(f.shape[1], periodic=False).numpy(), f.T.numpy())
        return torch.from_numpy(spline.antiderivative()(self.points[:, 0].numpy())).T.contiguous()

    def equations(self):
        start = torch.zeros(1, 1, dtype=torch.float64)
        return [
            Equation("u' = f", self.points, lambda y, f, u: u.d(0) - f, "gradient"),
            Equation("u(0) = 0", start, lambda y, f, u: u.value),
        ]
