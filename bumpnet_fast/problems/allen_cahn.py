"""The Allen-Cahn equation: reaction against weak diffusion, and the fronts between two phases."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import torch

from .base import Problem

#: Modes of the reference, and times at which it is kept.
_MODES, _TIMES = 1024, 201


@dataclass
class AllenCahn(Problem):
    """``u_t = nu u_xx + a (u - u^3)``, periodic on [-1, 1], ``u(x, 0) = x^2 cos(pi x)``.

    With nu = 1e-4 and a = 5 as in Raissi, Perdikaris and Karniadakis (2019).  The initial values have a kink where
    the period closes, so periodicity is imposed by side conditions: a smooth ansatz would keep the kink.

    Examples
    --------
    >>> x = torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    >>> AllenCahn().boundary_values(x).tolist()
    [0.0, -1.0]
    """

    name = "allen-cahn"
    summary = "u_t = nu u_xx + a (u - u^3), periodic, u = x^2 cos(pi x) at t = 0: fronts"
    want = "diagonal"
    linear = False
    time = 1
    dirichlet = ((1, 0),)
    default_bumps = (48, 2)
    default_windows = 10
    options = MappingProxyType({"graded": 0.5, "scale": 20.0, "refine": 2, "iterations": 30})

    nu: float = 1e-4
    a: float = 5.0
    lower: tuple[float, ...] = (-1.0, 0.0)
    upper: tuple[float, ...] = (1.0, 1.0)

    def residual(self, x, u):
        return u.d(1) - self.nu * u.dd(0) - self.a * (u.value - u.value**3)

    def boundary_values(self, x):
        return x[:, 0] ** 2 * torch.cos(math.pi * x[:, 0])

    def side_conditions(self):
        # Nothing can close the kink at the start: with more weight, bumps would fit only its slopes.
        return [replace(self.periodicity(0, length=math.sqrt(self.nu)), weight=1e-5)]

    def reference(self, x):
        """By a Fourier series in space and scipy's integrator in time, interpolated by splines."""
        values = _spectral(self.nu, self.a, max(1.0, self.upper[1]))(*x.detach().cpu().double().numpy().T, grid=False)
        return torch.from_numpy(values).to(x)


@functools.cache
def _spectral(nu: float, a: float, end: float) -> Callable[..., np.ndarray]:
    from scipy.integrate import solve_ivp
    from scipy.interpolate import RectBivariateSpline

    x, t = np.linspace(-1, 1, _MODES + 1), np.linspace(0, end, _TIMES)
    diffusion = -nu * (np.pi * np.arange(_MODES // 2 + 1)) ** 2

    def rate(_, u):
        return np.fft.irfft(diffusion * np.fft.rfft(u), _MODES) + a * (u - u**3)

    start = x[:-1] ** 2 * np.cos(np.pi * x[:-1])
    with np.errstate(all="ignore"):  # a trial step that overflows is repeated with a shorter one
        u = solve_ivp(rate, (0, end), start, method="DOP853", t_eval=t, rtol=1e-8, atol=1e-10).y
    return RectBivariateSpline(x, t, np.vstack([u, u[:1]]), kx=5, ky=5, s=0)
