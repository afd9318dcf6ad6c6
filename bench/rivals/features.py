"""The random feature method (Chen, Chi, E and Yang, J. Mach. Learn. 2022): tanh features, a partition of unity.

Every patch of a grid has as many features ``tanh(w . z + b)`` of its own, with z in [-1, 1] on the patch and w and b
drawn evenly from [-R, R]; the amplitudes are solved for by least squares with rows of the same norm.
"""

from __future__ import annotations

import functools
import itertools
import math

import torch
from torch import Tensor

from bumpnet_fast.problems import Problem
from bumpnet_fast.problems.sampling import interior

from .rows import Basis, solve_rows
from .rungs import Answer, Rung

NAME = "random features"
ABOUT = "tanh features on patches with a partition of unity, least squares"

#: Patches along the axes and features of each, by problem.
SIZES: dict[str, tuple[tuple[tuple[int, ...], int], ...]] = {
    "poisson": (((1, 1), 50), ((1, 1), 100), ((1, 1), 200), ((1, 1), 400)),
    "sharp-poisson": (((3, 3), 60), ((4, 4), 60)),
    "lshape": (((1, 1), 200), ((2, 2), 100)),
    "helmholtz": (((1, 2), 100), ((1, 2), 200), ((1, 2), 300)),
    "convection-diffusion": (((2, 1), 100), ((2, 1), 200), ((2, 1), 400)),
    "regression": (((1,), 8), ((1,), 12), ((1,), 24)),
    "heat": (((1, 1), 100), ((1, 1), 200), ((1, 1), 400)),
    "heat2d": (((1, 1, 1), 150), ((1, 1, 1), 300), ((1, 1, 1), 600)),
    "advection": (((1, 5), 80), ((1, 5), 120), ((1, 5), 160)),
    "wave": (((1, 1), 150), ((1, 1), 300), ((1, 1), 600)),
    "kovasznay": (((1, 1), 80), ((1, 1), 120), ((1, 1), 200)),
    "inverse-heat": (((1, 1), 30), ((1, 1), 60), ((1, 1), 120)),
    "star": (((1, 1), 50), ((1, 1), 100), ((1, 1), 200)),
    "disk": (((1, 1), 50), ((1, 1), 100), ((1, 1), 200)),
    "ball": (((1, 1, 1), 100), ((1, 1, 1), 300), ((1, 1, 1), 600)),
}
#: R to choose from: the best one by the true error counts, in favour of the method.
REACHES = (0.4, 0.7, 1.2, 2.0)
#: Points for every feature.
POINTS = 2.5


class Features(Basis):
    """Features of all patches that are not empty, each times the weight of its patch.

    Parameters
    ----------
    problem : Problem
        Gives the box and the domain.
    patches : tuple of int
        Patches along the axes of the box.
    number : int
        Features of a patch.
    reach : float
        R.
    seed : int
        Of the features.
    """

    def __init__(self, problem: Problem, patches: tuple[int, ...], number: int, reach: float, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        lo, hi = problem.domain
        self.patches, self.number = patches, number
        self.half = (hi - lo) / torch.tensor(patches) / 2
        some = interior(problem.domain, tuple(16 * n for n in patches))
        some = some[problem.inside(some)]
        self.parts = []
        for place in itertools.product(*map(range, patches)):
            centre = lo + (2 * torch.tensor(place) + 1) * self.half
            if bool(((some - centre).abs() < self.half).all(1).any()):
                w = reach * (2 * torch.rand(len(lo), number, generator=generator, dtype=torch.float64) - 1)
                b = reach * (2 * torch.rand(number, generator=generator, dtype=torch.float64) - 1)
                self.parts.append((place, centre, w, b))

    def __len__(self):
        return self.number * len(self.parts)

    def columns(self, x):
        local = [self._local(x, *part) for part in self.parts]

        def derivative(orders: tuple[int, ...]) -> Tensor:
            out = torch.zeros(len(x), len(self), dtype=torch.float64)
            for k, (at, weights, powers, tanh) in enumerate(local):
                out[at, k * self.number : (k + 1) * self.number] = self._product(orders, weights, powers, tanh)
            return out

        return derivative

    def _local(self, x, place, centre, w, b):
        """Where a patch has weight; the weight's factors and the features there, with derivatives by z."""
        z = (x - centre) / self.half
        axes = [(z[:, j], k == 0, k == n - 1) for j, (k, n) in enumerate(zip(place, self.patches, strict=True))]
        at = torch.nonzero(torch.stack([_reached(*axis) for axis in axes]).all(0))[:, 0]
        weights = [[_weight(t[at], first, last, order) for order in range(3)] for t, first, last in axes]
        t = torch.tanh(z[at] @ w + b)
        slope = 1 - t * t
        return at, weights, w, (t, slope, -2 * t * slope)

    def _product(self, orders, weights, w, tanh):
        """Leibniz's rule for the weight of a patch, a product over the axes, times its features."""
        total = 0.0
        for taken in itertools.product(*(range(k + 1) for k in orders)):  # derivatives of the features
            of_weight, of_feature = 1.0, 1.0
            for j, (k, q) in enumerate(zip(orders, taken, strict=True)):
                of_weight = of_weight * math.comb(k, q) * weights[j][k - q]
                of_feature = of_feature * w[j] ** q
            total = total + of_weight[:, None] * (tanh[sum(taken)] * of_feature)
        return total / float(torch.prod(self.half ** torch.tensor(orders)))


def _reached(t: Tensor, first: bool, last: bool) -> Tensor:
    return (t.abs() < 1.25) | ((t < 0) & first) | ((t > 0) & last)


def _weight(t: Tensor, first: bool, last: bool, order: int) -> Tensor:
    """Derivative of the weight along an axis: 1 up to 3/4, falling as ``(1 - sin 2 pi |t|) / 2`` to 0 at 5/4."""
    whole = (t.abs() <= 0.75) | ((t < 0) & first) | ((t > 0) & last)
    angle = 2 * math.pi * t.abs()
    falling = (
        (1 - torch.sin(angle)) / 2,
        -math.pi * torch.sign(t) * torch.cos(angle),
        2 * math.pi**2 * torch.sin(angle),
    )[order]
    return torch.where(whole, torch.full_like(t, float(order == 0)), falling)


def solve(problem: Problem, patches: tuple[int, ...], number: int, reach: float) -> Answer:
    """Solve with so many features on so many patches, at an even grid of points."""
    basis = Features(problem, patches, number, reach)
    each = math.ceil((POINTS * number) ** (1 / len(patches)))
    per_axis = tuple(each * n for n in patches)
    x = interior(problem.domain, per_axis, "chebyshev" if max(patches) == 1 else "grid")
    return solve_rows(problem, basis, x[problem.inside(x)], tuple(2 * n for n in per_axis))


def ladder(name: str, problem: Problem) -> list[Rung]:
    return [
        Rung(f"{'x'.join(map(str, patches))} patches, {number} features",
             [functools.partial(solve, problem, patches, number, reach) for reach in REACHES])
        for patches, number in SIZES.get(name, ())
    ]  # fmt: skip
