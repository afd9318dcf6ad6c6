"""Input functions: Gaussian random fields on [0, 1], and their interpolation; all float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def grid(count: int, periodic: bool) -> Tensor:
    """``count`` equally spaced points of [0, 1], both ends included unless periodic.

    >>> grid(5, periodic=False).tolist(), grid(4, periodic=True).tolist()
    ([0.0, 0.25, 0.5, 0.75, 1.0], [0.0, 0.25, 0.5, 0.75])
    """
    steps = count if periodic else max(count - 1, 1)
    return torch.arange(count, dtype=torch.float64) / steps


def covariance(distance: Tensor, length_scale: float, periodic: bool) -> Tensor:
    """``exp(-r^2 / (2 l^2))``; if periodic, r is the chord of a circle whose arc is the distance.

    Near points have the same correlation in both cases, so a length scale has the same meaning.
    """
    r = torch.sin(math.pi * distance) / math.pi if periodic else distance
    return torch.exp(-0.5 * (r / length_scale) ** 2)


def gaussian_field(count: int, points: int, length_scale: float, *, periodic: bool, generator: torch.Generator):
    """Functions with mean 0 and variance 1, drawn from a Gaussian random field.

    Parameters
    ----------
    count : int
        Number of functions.
    points : int
        Number of grid points, see :func:`grid`.
    length_scale : float
        Distance l over which a function changes.
    periodic : bool
        Whether the functions have period 1.
    generator : torch.Generator
        Generator of the random numbers.

    Returns
    -------
    Tensor
        [count, points].

    Notes
    -----
    The functions are white noise times the symmetric square root of the covariance matrix.  That root is unique, so
    a seed gives the same functions on every machine, up to rounding.

    Examples
    --------
    >>> generator = torch.Generator().manual_seed(0)
    >>> gaussian_field(3, 64, 0.2, periodic=True, generator=generator).shape
    torch.Size([3, 64])
    """
    noise = torch.randn(count, points, dtype=torch.float64, generator=generator)
    x = grid(points, periodic)
    values, vectors = torch.linalg.eigh(covariance(x[:, None] - x, length_scale, periodic))
    return noise @ ((vectors * values.clamp_min(0).sqrt()) @ vectors.T)


def fourier(f: Tensor) -> Tensor:
    """Coefficients [B, n // 2 + 1] of ``f`` [B, n], values on the periodic grid: ``sum_k c_k exp(2 pi i k x)``.

    The function is the real part of the sum; the coefficients include the negative frequencies.
    """
    n = f.shape[-1]
    c = torch.fft.rfft(f, norm="forward")
    c[..., 1 : (n + 1) // 2] *= 2
    return c


def fourier_sum(c: Tensor, x: Tensor) -> Tensor:
    """Values [B, N] at the points ``x`` [N] of the functions with the coefficients ``c`` [B, modes].

    >>> f = torch.sin(2 * math.pi * grid(8, periodic=True))[None]
    >>> round(fourier_sum(fourier(f), torch.tensor([0.0625], dtype=torch.float64)).item() ** 2, 9)
    0.146446609
    """
    phase = 2 * math.pi * torch.arange(c.shape[-1], dtype=torch.float64)[:, None] * x.double()
    return c.real @ torch.cos(phase) - c.imag @ torch.sin(phase)


def interpolation(sensors: int, x: Tensor, periodic: bool) -> Tensor:
    """Matrix E [sensors, N]: ``f @ E`` are the values at ``x`` [N] of the interpolant of the values f [B, sensors].

    The interpolant is a trigonometric polynomial on a periodic grid, and a cubic spline otherwise.

    >>> x = grid(7, periodic=False)
    >>> E = interpolation(5, x, periodic=False)
    >>> torch.allclose((grid(5, periodic=False) ** 3)[None] @ E, x**3)
    True
    """
    eye = torch.eye(sensors, dtype=torch.float64)
    if periodic:
        return fourier_sum(fourier(eye), x)
    from scipy.interpolate import CubicSpline

    spline = CubicSpline(grid(sensors, False).numpy(), eye.numpy())
    return torch.from_numpy(spline(x.double().numpy())).T.contiguous()
