"""Chebyshev polynomials and least squares at Chebyshev points: the spectral method for a box.

Where the domain is not a box, the polynomials are those of its box up to a total degree, and the points those of a grid
inside: polynomial least squares, a frame (Adcock and Huybrechs, "Frames and numerical approximation", 2019).
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

NAME = "Chebyshev"
ABOUT = (
    "products of Chebyshev polynomials, least squares at Chebyshev points; where the domain is no box, polynomials on "
    "the bounding box and least squares inside"
)

#: Degrees plus one along the axes, by problem.
SIZES: dict[str, tuple[tuple[int, ...], ...]] = {
    "poisson": ((6, 6), (8, 8), (12, 12), (16, 16)),
    "sharp-poisson": ((24, 24), (32, 32), (40, 40), (52, 52)),
    "lshape": ((8, 8), (16, 16), (24, 24)),
    "helmholtz": ((6, 14), (8, 16), (10, 20), (14, 24)),
    "convection-diffusion": ((24, 8), (32, 10), (40, 12), (52, 14)),
    "regression": ((8,), (12,), (16,)),
    "heat": ((8, 6), (12, 8), (16, 10), (18, 12), (22, 14)),
    "heat2d": ((5, 5, 4), (7, 7, 5), (9, 9, 6), (11, 11, 8)),
    "advection": ((8, 32), (10, 40), (14, 48), (18, 60)),
    "wave": ((12, 12), (16, 16), (20, 20), (24, 24)),
    "kovasznay": ((8, 10), (10, 12), (12, 14), (14, 16)),
    "inverse-heat": ((4, 4), (6, 6), (8, 8), (10, 10)),
    "star": ((6, 6), (10, 10), (14, 14), (18, 18)),
    "disk": ((6, 6), (10, 10), (14, 14), (18, 18)),
    "ball": ((5, 5, 5), (8, 8, 8), (11, 11, 11), (14, 14, 14)),
}


@functools.cache
def _differentiation(n: int, order: int) -> np.ndarray:
    """[n, n]: from the coefficients of derivatives to those of T_0 ... T_(n-1), to multiply T from the right."""
    D = np.polynomial.chebyshev.chebder(np.eye(n), order, axis=0)
    return np.vstack([D, np.zeros((n - len(D), n))])


def basis(problem: Problem, counts: tuple[int, ...], total: bool = False) -> Product:
    """Products of Chebyshev polynomials on the box; with ``total`` of total degree below the largest count."""

    def along(axis: int):
        lo, hi, n = problem.lower[axis], problem.upper[axis], counts[axis]

        def factor(x: np.ndarray, order: int) -> np.ndarray:
            T = np.polynomial.chebyshev.chebvander((2 * x - lo - hi) / (hi - lo), n - 1)
            return T @ _differentiation(n, order) * (2 / (hi - lo)) ** order if order else T

        return factor

    kept = None
    if total:
        degree = torch.cartesian_prod(*map(torch.arange, counts)).reshape(-1, len(counts)).sum(1)
        kept = torch.nonzero(degree < max(counts))[:, 0]
    return Product([along(j) for j in range(len(counts))], counts, kept, independent=not total)


def solve(problem: Problem, counts: tuple[int, ...], total: bool = False) -> Answer:
    """Solve with so many polynomials along the axes, in a box at four more points along each of them."""
    functions = basis(problem, counts, total)
    if total:  # three points of a grid in the box for every polynomial, those inside
        d = len(counts)
        per_axis = (math.ceil((3 * len(functions)) ** (1 / d)) + 2,) * d
        x = interior(problem.domain, per_axis)
        return solve_rows(problem, functions, x[problem.inside(x)], per_axis)
    x = interior(problem.domain, tuple(n + 4 for n in counts), "chebyshev")
    return solve_rows(problem, functions, x[problem.inside(x)], tuple(2 * n for n in counts))


def ladder(name: str, problem: Problem) -> list[Rung]:
    total = not is_box(problem)
    return [
        Rung("x".join(map(str, counts)), [functools.partial(solve, problem, counts, total)])
        for counts in SIZES.get(name, ())
    ]
