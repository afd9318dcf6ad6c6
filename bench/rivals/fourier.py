"""Fourier series in space, exponential integrators in time: exact where linear, else ETDRK4.

Cox and Matthews (J. Comput. Phys. 2002), its coefficients by contour integrals as in Kassam and Trefethen (SIAM J. Sci.
Comput. 2005).  For problems that are periodic, or zero at the ends of an interval, and first or second order in time.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import numpy as np
import scipy.fft
import torch
from torch import Tensor

from bumpnet_fast.problems import Problem

from .rungs import Answer, Rung

NAME = "Fourier, ETDRK4"
ABOUT = "Fourier or sine series; exact in time for linear equations, else an exponential integrator of fourth order"

#: Points along the axes of space, by problem; for ETDRK4 points and steps.
SIZES: dict[str, tuple[tuple[int, ...], ...]] = {
    "heat": ((4,), (8,)),
    "heat2d": ((4,), (8,)),
    "wave": ((4,), (8,)),
    "advection": ((4,), (8,)),
    "burgers": ((256, 100), (512, 200), (768, 300), (1024, 300), (1536, 500), (1536, 1000), (2048, 2000)),
    "allen-cahn": ((128, 100), (256, 100), (512, 100), (1024, 200)),
}
#: Those that a periodic series solves: Burgers' solution is odd, so its ends are zero.
PERIODIC = ("advection", "burgers", "allen-cahn")
#: Times at which ETDRK4 keeps the series; errors are measured at these.
KEPT = 100
#: Points of the contours.
_CONTOUR = 32
#: Values at points that are computed at once.
_CHUNK = 2_000_000


def _at_start(problem: Problem, *axes: np.ndarray) -> Tensor:
    """Points [N, d] of a grid over space at the start of time, which is the last axis."""
    grid = itertools.chain(map(torch.from_numpy, axes), [torch.tensor(problem.lower[-1:], dtype=torch.float64)])
    return torch.cartesian_prod(*grid)


# --- zero at the ends: sines ---------------------------------------------------------------------


def sines(problem: Problem, n: int) -> Answer:
    """The heat or the wave equation, from the sine series of its start with n - 1 modes an axis: exact in time."""
    d = len(problem.lower) - 1
    lengths = [b - a for a, b in zip(problem.lower[:d], problem.upper[:d], strict=True)]
    ticks = [a + w * np.arange(1, n) / n for a, w in zip(problem.lower, lengths, strict=False)]
    x = _at_start(problem, *ticks)
    modes = [np.pi * np.arange(1, n) / w for w in lengths]
    squares = functools.reduce(np.add.outer, [k * k for k in modes]).ravel()

    def series(values: Tensor) -> np.ndarray:
        return scipy.fft.dstn(values.numpy().reshape((n - 1,) * d), type=1).ravel() / n**d

    start = series(problem.boundary_values(x))
    if problem.time_order == 2:
        rate = problem.c * np.sqrt(squares)
        moving = series(problem.velocity(x)) / rate
        at_time = lambda t: start * np.cos(t * rate) + moving * np.sin(t * rate)  # noqa: E731
    else:
        at_time = lambda t: start * np.exp(-problem.nu * squares * t)  # noqa: E731

    def u(x: Tensor) -> Tensor:
        at = x.numpy()
        parts = [np.sin((at[:, j, None] - problem.lower[j]) * modes[j]) for j in range(d)]
        waves = functools.reduce(lambda a, b: (a[:, :, None] * b[:, None, :]).reshape(len(at), -1), parts)
        return torch.from_numpy((waves * at_time(at[:, d:] - problem.lower[d])).sum(1, keepdims=True))

    return Answer(len(start), u)


# --- periodic ------------------------------------------------------------------------------------


def _rates(problem: Problem, k: np.ndarray, n: int) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray] | None]:
    """The linear part of the time derivative of a series, by mode, and the nonlinear one."""
    if problem.name == "advection":
        return -1j * problem.nu * k, None
    if problem.name == "burgers":
        kept = k < 2 / 3 * k[-1]  # no aliases

        def steepening(v: np.ndarray) -> np.ndarray:
            u = scipy.fft.irfft(v, n)
            return -0.5j * k * scipy.fft.rfft(u * u) * kept

        return -problem.nu * k**2, steepening

    def reaction(v: np.ndarray) -> np.ndarray:
        return -problem.a * scipy.fft.rfft(scipy.fft.irfft(v, n) ** 3)

    return problem.a - problem.nu * k**2, reaction


def etdrk4(
    rate: np.ndarray, nonlinear: Callable[[np.ndarray], np.ndarray], v: np.ndarray, step: float, steps: int, every: int
) -> np.ndarray:
    """Series [steps / every + 1, modes] at every so many steps, the start first."""
    z = step * rate
    circle = z[:, None] + np.exp(1j * np.pi * (np.arange(1, _CONTOUR + 1) - 0.5) / _CONTOUR)
    e, half = np.exp(z), np.exp(z / 2)

    def mean(values: np.ndarray) -> np.ndarray:
        return step * np.real(values.mean(1))  # rates are real, so half a circle is enough

    power = np.exp(circle)
    q = mean((np.exp(circle / 2) - 1) / circle)
    f1 = mean((-4 - circle + power * (4 - 3 * circle + circle**2)) / circle**3)
    f2 = 2 * mean((2 + circle + power * (circle - 2)) / circle**3)
    f3 = mean((-4 - 3 * circle - circle**2 + power * (4 - circle)) / circle**3)
    kept = [v]
    for k in range(steps):
        at_v = nonlinear(v)
        a = half * v + q * at_v
        at_a = nonlinear(a)
        at_b = nonlinear(half * v + q * at_a)
        at_c = nonlinear(half * a + q * (2 * at_b - at_v))
        v = e * v + f1 * at_v + f2 * (at_a + at_b) + f3 * at_c
        if (k + 1) % every == 0:
            kept.append(v)
    return np.array(kept)


def periodic(problem: Problem, n: int, steps: int = 0) -> Answer:
    """From n points of the start; with so many steps of ETDRK4 if the equation is not linear."""
    (low, begin), (high, end) = problem.lower, problem.upper
    start = problem.boundary_values(_at_start(problem, low + (high - low) * np.arange(n) / n))
    k = 2 * np.pi / (high - low) * np.arange(n // 2 + 1)
    v = scipy.fft.rfft(start.numpy())
    rate, nonlinear = _rates(problem, k, n)
    if nonlinear is None:
        at_time = lambda t: v * np.exp(rate * t[:, None])  # noqa: E731
    else:
        kept = etdrk4(rate, nonlinear, v, (end - begin) / steps, steps, steps // KEPT)
        at_time = functools.partial(_kept_at, kept, (end - begin) / KEPT)
    weights = np.full(len(k), 2.0 / n)
    weights[[0, -1]] = 1.0 / n

    def part(x: np.ndarray) -> np.ndarray:
        return np.real(at_time(x[:, 1] - begin) * np.exp(1j * (x[:, :1] - low) * k)) @ weights

    def u(x: Tensor) -> Tensor:
        parts = np.array_split(x.numpy(), 1 + len(x) * len(k) // _CHUNK)
        return torch.from_numpy(np.concatenate(list(map(part, parts))))[:, None]

    return Answer(n, u)


def _kept_at(kept: np.ndarray, step: float, t: np.ndarray) -> np.ndarray:
    index = np.rint(t / step).astype(int)
    if not np.allclose(index * step, t, rtol=0, atol=1e-9):
        raise ValueError(f"the series is known at multiples of {step:g} in time only")
    return kept[index]


def ladder(name: str, problem: Problem) -> list[Rung]:
    solve = periodic if name in PERIODIC else sines
    return [
        Rung(", ".join(f"{n} {what}" for n, what in zip(size, ("points", "steps"), strict=False)),
             [functools.partial(solve, problem, *size)])
        for size in SIZES.get(name, ())
    ]  # fmt: skip
