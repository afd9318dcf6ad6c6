"""EDNN with a multilayer perceptron, the baseline: every weight evolves, by a least-squares solution at every stage.

Periodic in one dimension through cos and sin of x as inputs: 2-20-20-20-1, tanh, 921 weights.  All derivatives are by
torch.func.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad, vmap

WIDTH, LAYERS = 20, 3
#: Relative cut-off of the least-squares solution.
CUT = 1e-4


class Perceptron:
    """u(x) with the period ``length``, as a function of one flat tensor of weights [P], float64."""

    def __init__(self, length: float, seed: int = 0):
        sizes = [2, *[WIDTH] * LAYERS, 1]
        self.shapes, self.length = list(itertools.pairwise(sizes)), length
        generator = torch.Generator().manual_seed(seed)
        parts = []
        for inputs, outputs in self.shapes:
            weights = torch.randn(inputs * outputs, generator=generator, dtype=torch.float64) / math.sqrt(inputs)
            parts += [weights, torch.zeros(outputs, dtype=torch.float64)]
        self.weights = torch.cat(parts)
        self.u = vmap(self._value, (None, 0))
        self.u_x = vmap(grad(self._value, 1), (None, 0))
        self.u_xx = vmap(grad(grad(self._value, 1), 1), (None, 0))
        self.jacobian = vmap(grad(self._value, 0), (None, 0))

    def _value(self, weights: Tensor, x: Tensor) -> Tensor:
        z, at = torch.stack([torch.cos(2 * math.pi * x / self.length), torch.sin(2 * math.pi * x / self.length)]), 0
        for layer, (inputs, outputs) in enumerate(self.shapes):
            W = weights[at : at + inputs * outputs].view(outputs, inputs)
            at += inputs * outputs
            z = W @ z + weights[at : at + outputs]
            at += outputs
            z = torch.tanh(z) if layer < len(self.shapes) - 1 else z
        return z[0]

    def fit(self, x: Tensor, values: Tensor, steps: int = 60) -> float:
        """Levenberg-Marquardt on ``values`` [N] at ``x`` [N]; returns the relative misfit."""
        damping, weights = 1e-2, self.weights
        misfit = self.u(weights, x) - values
        for _ in range(steps):
            J = self.jacobian(weights, x)
            while damping < 1e8:
                damped = J @ J.T + damping * torch.eye(len(x), dtype=x.dtype)
                trial = weights - J.T @ torch.linalg.solve(damped, misfit)
                after = self.u(trial, x) - values
                if after.norm() < misfit.norm():
                    weights, misfit, damping = trial, after, max(damping / 4, 1e-12)
                    break
                damping *= 4
        self.weights = weights
        return float(misfit.norm() / values.norm())


def solve_for_rates(J: Tensor, slope: Tensor) -> Tensor:
    """Rates [P] of the weights for u_t = ``slope`` [N]: the least-squares solution over all weights."""
    return torch.linalg.lstsq(J, slope[:, None], rcond=CUT, driver="gelsd").solution[:, 0]


def evolve(
    net: Perceptron, x: Tensor, rhs: Callable[[Tensor, Tensor, Tensor], Tensor], final: float, steps: int
) -> Tensor:
    """Weights at the final time by the classical Runge-Kutta method; ``rhs(u, u_x, u_xx)`` is u_t."""

    def slope(w: Tensor) -> Tensor:
        return solve_for_rates(net.jacobian(w, x), rhs(net.u(w, x), net.u_x(w, x), net.u_xx(w, x)))

    h, w = final / steps, net.weights
    for _ in range(steps):
        k1 = slope(w)
        k2 = slope(w + h / 2 * k1)
        k3 = slope(w + h / 2 * k2)
        w = w + h / 6 * (k1 + 2 * k2 + 2 * k3 + slope(w + h * k3))
    return w
