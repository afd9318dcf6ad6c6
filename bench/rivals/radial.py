"""Gaussian radial basis functions and least squares (Larsson, Shcherbakov and Heryudono, SIAM J. Sci. Comput. 2017).

Centres on a grid that reaches beyond the domain, which spares its boundary; 1.5 times as many points along every axis.
The width of the Gaussians decides: each size is solved with several, and the best one by the true error counts, in
favour of the method.  Only the time of this solve counts.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch

from bumpnet_fast.problems import Problem
from bumpnet_fast.problems.sampling import interior

from .rows import Product, is_box, solve_rows
from .rungs import Answer, Rung

NAME = "radial functions"
ABOUT = "Gaussians on a grid, least squares with 1.5 times as many points an axis"

#: Centres along the axes, by problem.
SIZES: dict[str, tuple[tuple[int, ...], ...]] = {
    "poisson": ((8, 8), (12, 12), (16, 16), (20, 20)),
    "sharp-poisson": ((24, 24), (32, 32)),
    "lshape": ((12, 12), (20, 20), (28, 28)),
    "helmholtz": ((8, 18), (10, 24), (14, 30)),
    "convection-diffusion": ((30, 8), (45, 10), (60, 12)),
    "regression": ((10,), (16,), (24,)),
    "heat": ((10, 8), (14, 12), (18, 16)),
    "heat2d": ((6, 6, 5), (8, 8, 6), (10, 10, 8)),
    "advection": ((8, 40), (10, 50), (14, 60)),
    "wave": ((14, 14), (18, 18), (24, 24)),
    "kovasznay": ((9, 10), (12, 13)),
    "inverse-heat": ((5, 5), (7, 7), (9, 9)),
    "star": ((8, 8), (12, 12), (16, 16), (20, 20)),
    "disk": ((8, 8), (12, 12), (16, 16), (20, 20)),
    "ball": ((6, 6, 6), (8, 8, 8), (10, 10, 10), (12, 12, 12)),
}
#: Widths to choose from: the distance of two centres by the radius of the Gaussians.
SHAPES = (0.2, 0.3, 0.45, 0.6)
#: How far the centres reach beyond the box, in its widths.
BEYOND = 0.1
#: Centres outside the domain are kept so near to it, in distances of centres.
NEAR = 1.5


def basis(problem: Problem, counts: tuple[int, ...], shape: float) -> Product:
    """Gaussians at the places of a grid; beside a domain that is no box, those in it and near it."""
    ticks = []
    for a, b, n in zip(problem.lower, problem.upper, counts, strict=True):
        ticks.append(np.linspace(a - BEYOND * (b - a), b + BEYOND * (b - a), n))

    def along(axis: int):
        centres = ticks[axis]
        rate = (shape / (centres[1] - centres[0])) ** 2

        def factor(x: np.ndarray, order: int) -> np.ndarray:
            r = x[:, None] - centres
            g = np.exp(-rate * r * r)
            return (g, -2 * rate * r * g, (4 * rate * rate * r * r - 2 * rate) * g)[order]

        return factor

    kept = None if is_box(problem) else _near(problem, ticks)
    return Product([along(j) for j in range(len(counts))], counts, kept)


def _near(problem: Problem, ticks: list[np.ndarray]) -> torch.Tensor:
    """The places of a grid that are in the domain or near a point of its boundary."""
    places = torch.cartesian_prod(*map(torch.from_numpy, ticks))
    spacing = torch.tensor([t[1] - t[0] for t in ticks])
    edge = problem.boundary_points(tuple(4 * len(t) for t in ticks))
    near = torch.cdist(places / spacing, edge / spacing).amin(1) < NEAR
    return torch.nonzero(problem.inside(places) | near)[:, 0]


def solve(problem: Problem, counts: tuple[int, ...], shape: float) -> Answer:
    """Solve with so many centres along the axes."""
    per_axis = tuple(math.ceil(1.5 * n) for n in counts)
    x = interior(problem.domain, per_axis, "chebyshev" if is_box(problem) else "grid")
    return solve_rows(problem, basis(problem, counts, shape), x[problem.inside(x)], per_axis)


def ladder(name: str, problem: Problem) -> list[Rung]:
    return [
        Rung("x".join(map(str, counts)), [functools.partial(solve, problem, counts, shape) for shape in SHAPES])
        for counts in SIZES.get(name, ())
    ]
