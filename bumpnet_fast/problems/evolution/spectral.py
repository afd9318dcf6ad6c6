"""A Fourier pseudo-spectral method for periodic problems: reference solutions without bumps.

The right-hand side is evaluated on a grid with derivatives by FFT, and scipy integrates in time at
tight tolerances.  The grid is refined until the spectrum of the solution has decayed.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import torch
from torch import Tensor

from ...core.jet import Jet
from ...core.reference import DIAGONAL, GRADIENT, WANTS, second_shape

#: Grid points per axis to try, by dimension.
_SIZES = {1: (128, 256, 512, 1024, 2048), 2: (32, 64, 128, 256), 3: (16, 32, 64)}
#: The highest third of the modes must have decayed to this fraction of the largest mode.
_DECAYED = 1e-8
#: Relative and absolute tolerance in time.
_RTOL, _ATOL = 1e-11, 1e-12
#: Largest number of unknowns for an integrator with a dense Jacobian, which suits stiff problems.
_DENSE = 256
#: Points evaluated at a time.
_CHUNK = 512


def fourier_solution(problem, x: Tensor, t: float) -> Tensor | None:
    """Values [N, K] of the solution of a periodic problem at ``x`` [N, d] and time ``t``.

    States are stored, so that ascending times take one integration in all.

    Parameters
    ----------
    problem : EvolutionProblem
        Periodic along all axes, in at most three dimensions.
    x : Tensor
        [N, d], any dtype; the result has it.
    t : float
        At least 0.

    Returns
    -------
    Tensor or None
        None if none of the grids resolves the solution.

    Examples
    --------
    >>> from bumpnet_fast.problems.evolution import Heat
    >>> x = torch.rand(5, 1, dtype=torch.float64)
    >>> torch.allclose(fourier_solution(Heat(), x, 0.1)[:, 0], Heat().exact(x, 0.1), atol=1e-10)
    True
    """
    fields = tuple((field.name, getattr(problem, field.name)) for field in dataclasses.fields(problem))
    for size in _SIZES.get(len(problem.lower), ()):
        solver = _solver(type(problem), fields, size)
        if solver.resolves(t):
            return solver.values(x.detach().cpu().double(), t).to(x)
    return None


@functools.lru_cache(maxsize=32)
def _solver(kind: type, fields: tuple, size: int) -> _Fourier:
    problem = kind(**dict(fields))
    return _Fourier(problem, size)


class _Fourier:
    """The solution on one grid of ``size`` points per axis."""

    def __init__(self, problem, size: int):
        self.problem, self.size, self.outputs = problem, size, problem.outputs
        lo, hi = problem.domain
        d = len(lo)
        self.axes = tuple(range(d))
        ticks = [lo[j] + (hi[j] - lo[j]) * torch.arange(size, dtype=torch.float64) / size for j in range(d)]
        self.x = torch.cartesian_prod(*ticks).reshape(-1, d)
        modes = [2 * math.pi / float(hi[j] - lo[j]) * np.fft.fftfreq(size, 1 / size) for j in range(d)]
        self.k = np.stack(np.meshgrid(*modes, indexing="ij"), -1)
        self.factors = self._factors(self.k, size)
        scaled = np.abs(np.stack(np.meshgrid(*[np.fft.fftfreq(size, 0.5)] * d, indexing="ij"), -1)).max(-1)
        self.high = scaled > 2 / 3
        self.states = {0.0: problem.initial(self.x).reshape(-1, self.outputs).numpy()}

    def resolves(self, t: float) -> bool:
        return all(self._decay(self.states[0.0] if s == 0 else self._state(s)) < _DECAYED for s in (0.0, t))

    def _decay(self, u: np.ndarray) -> float:
        size = np.abs(self._modes(u))
        return float(size[self.high].max() / max(size.max(), 1e-300)) if np.isfinite(size).all() else math.inf

    def _modes(self, u: np.ndarray) -> np.ndarray:
        """[size, ..., K]."""
        return np.fft.fftn(u.reshape(*(self.size,) * len(self.axes), -1), axes=self.axes)

    def _state(self, t: float) -> np.ndarray:
        if t not in self.states:
            from scipy.integrate import solve_ivp

            before = max(s for s in self.states if s < t)
            start = self.states[before].ravel()
            scale = max(float(np.abs(start).max()), 1e-300)
            method = "LSODA" if start.size <= _DENSE else "DOP853"
            run = solve_ivp(self._slope, (before, t), start, method, (t,), rtol=_RTOL, atol=_ATOL * scale)
            done = run.success and run.y.shape[1] == 1
            self.states[t] = (run.y[:, -1] if done else np.full_like(start, np.nan)).reshape(-1, self.outputs)
        return self.states[t]

    def _slope(self, t: float, state: np.ndarray) -> np.ndarray:
        u = state.reshape(-1, self.outputs)
        slope = self.problem.rhs(self.x, self._jet(u), t)
        return slope.reshape(len(u), -1).numpy().ravel()

    def _jet(self, u: np.ndarray) -> Jet:
        """The jet of the state [grid points, K], all derivatives by one inverse transform."""
        want, d = self.problem.want, len(self.axes)
        level = WANTS.index(want)
        if level < GRADIENT:
            return Jet(want, torch.from_numpy(u))
        derivatives = np.fft.ifftn(self.factors * self._modes(u)[..., None], axes=self.axes).real
        parts = torch.from_numpy(derivatives.reshape(*u.shape, -1))
        second = parts[..., d:].reshape(*u.shape, *second_shape(level, d)) if level >= DIAGONAL else None
        return Jet(want, torch.from_numpy(u), parts[..., :d], second)

    def _factors(self, k: np.ndarray, size: int) -> np.ndarray:
        """Multipliers [size, ..., 1, derivatives] of the modes: the gradient, then second derivatives as wanted."""
        want, odd = self.problem.want, k.copy()
        for j in self.axes:  # the highest mode of an even grid has no derivative of odd order
            odd[(slice(None),) * j + (size // 2,)][..., j] = 0
        parts = [1j * odd]
        if want == "laplacian":
            parts.append(-(k**2).sum(-1, keepdims=True))
        elif want == "diagonal":
            parts.append(-(k**2))
        elif want == "hessian":
            pairs = [k[..., i] ** 2 if i == j else odd[..., i] * odd[..., j] for i in self.axes for j in self.axes]
            parts.append(-np.stack(pairs, -1))
        return np.concatenate(parts, -1)[..., None, :]

    def values(self, x: Tensor, t: float) -> Tensor:
        """The trigonometric interpolant [N, K] at any points."""
        modes = torch.from_numpy(self._modes(self._state(t)).reshape(-1, self.outputs)) / self.size ** len(self.axes)
        k = torch.from_numpy(self.k.reshape(-1, len(self.axes)))
        keep = modes.abs().amax(1) > 1e-15 * float(modes.abs().max())
        modes, k, origin = modes[keep], k[keep], self.problem.domain[0]
        parts = []
        for part in x.split(_CHUNK):
            phase = (part - origin) @ k.T
            parts.append((torch.polar(torch.ones_like(phase), phase) @ modes).real)
        return torch.cat(parts) if parts else x.new_zeros(0, self.outputs)


__all__ = ["fourier_solution"]
