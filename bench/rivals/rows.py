"""Least squares over any basis: the rows of a problem, linearised by automatic differentiation, over given functions.

The rows are those of our own solvers with a soft boundary.  So no equation is written twice.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from bumpnet_fast import Jet
from bumpnet_fast.core.reference import DIAGONAL, GRADIENT, HESSIAN, WANTS, second_shape
from bumpnet_fast.problems import Problem
from bumpnet_fast.problems.sampling import lattice
from bumpnet_fast.solvers.residual import Block, blocks, linearise

from .rungs import Answer

#: Gauss-Newton ends when a step changes the coefficients by less than this share (the next one would by about its
#: square), or after so many.
CONVERGED, STEPS = 1e-6, 12
#: Singular values below this share of the largest are left out, if the functions are nearly dependent.
CUT = 1e-15


def is_box(problem: Problem) -> bool:
    """Whether the domain is all of its box."""
    return bool(problem.inside(lattice(problem.domain)).all())


class Basis:
    """Functions b_1 ... b_M of d coordinates.

    Attributes
    ----------
    independent : bool
        Whether QR without pivoting is good enough.
    """

    independent = False

    def __len__(self) -> int:
        raise NotImplementedError

    def columns(self, x: Tensor) -> Callable[[tuple[int, ...]], Tensor]:
        """A function that gives the derivatives [N, M] of all functions at ``x``, by the order along every axis."""
        raise NotImplementedError


class Product(Basis):
    """Products of functions of one coordinate each; with ``kept``, those at these places alone.

    Parameters
    ----------
    factors : sequence of callables
        For every axis: points [N] and an order give the derivatives [N, n] of its n functions.
    counts : tuple of int
        n for every axis.
    kept : Tensor, optional
        Places among all products, the last axis first.
    """

    def __init__(
        self,
        factors: Sequence[Callable[[np.ndarray, int], np.ndarray]],
        counts: tuple[int, ...],
        kept: Tensor | None = None,
        independent: bool = False,
    ):
        self.factors, self.kept, self.independent = factors, kept, independent
        self.number = math.prod(counts) if kept is None else len(kept)

    def __len__(self) -> int:
        return self.number

    def columns(self, x):
        @functools.cache
        def factor(axis: int, order: int) -> Tensor:
            return torch.from_numpy(self.factors[axis](x[:, axis].numpy(), order))

        def derivative(orders: tuple[int, ...]) -> Tensor:
            parts = [factor(axis, order) for axis, order in enumerate(orders)]
            product = functools.reduce(lambda a, b: (a[:, :, None] * b[:, None, :]).flatten(1), parts)
            return product if self.kept is None else product[:, self.kept]

        return derivative


class Columns:
    """All functions of a basis and their derivatives at points [N, d], as far as they are asked for."""

    def __init__(self, basis: Basis, x: Tensor):
        self.dim, self.get = x.shape[1], functools.cache(basis.columns(x))

    def by(self, *axes: int) -> Tensor:
        """Derivative [N, M] by coordinates: by none, one or two of them."""
        return self.get(tuple(axes.count(j) for j in range(self.dim)))

    def applied(self, coefficients: Sequence[Tensor | None], want: str) -> Tensor | float:
        """``c0 b + c1 . grad b + c2 : D^2 b`` [N, M] for all functions b; terms without coefficients are left out."""
        total = 0.0
        for c, axes in self._terms(*coefficients, want):
            if bool(c.any()):
                total = total + c[:, None] * self.by(*axes)
        return total

    def _terms(self, c0, c1, c2, want):
        axes = range(self.dim)
        if c0 is not None:
            yield c0, ()
        if c1 is not None:
            yield from ((c1[:, j], (j,)) for j in axes)
        if c2 is not None and want == "hessian":
            yield from ((c2[:, i, j], (i, j)) for i, j in itertools.product(axes, axes))
        elif c2 is not None:
            yield from ((c2[:, j] if want == "diagonal" else c2, (j, j)) for j in axes)

    def jet(self, h: Tensor, want: str) -> Jet:
        """The jet of the functions with coefficients ``h`` [M, K]."""
        level, axes = WANTS.index(want), range(self.dim)
        parts = [self.by() @ h]
        if level >= GRADIENT:
            parts.append(torch.stack([self.by(j) @ h for j in axes], -1))
        if level == HESSIAN:
            parts.append(torch.stack([torch.stack([self.by(i, j) @ h for j in axes], -1) for i in axes], -2))
        elif level >= DIAGONAL:
            second = torch.stack([self.by(j, j) @ h for j in axes], -1)
            parts.append(second if level == DIAGONAL else second.sum(-1))
        return Jet(want, *parts)


def solve_rows(problem: Problem, basis: Basis, x: Tensor, counts: tuple[int, ...], weight: float = 1.0) -> Answer:
    """Solve by least squares over a basis; Gauss-Newton from u = 0 where the problem is not linear.

    Parameters
    ----------
    problem : Problem
        Its conditions are rows, too.
    basis : Basis
        The same functions for every output of u.
    x : Tensor
        [N, d], where the equation is fulfilled.
    counts : tuple of int
        Points along the axes, for the conditions.
    weight : float
        Of the conditions: at 1 their rows have the norm of those of the equation.
    """
    rows = blocks(problem, "soft", counts, x, 1.0)
    columns = [[Columns(basis, at) for at in (block.x, *block.others)] for block in rows]
    h = torch.zeros(len(basis), problem.outputs, dtype=torch.float64)
    unknowns = {name: torch.tensor(float(value), dtype=torch.float64) for name, value in problem.unknowns.items()}
    factors: list[Tensor] | None = None
    for _ in range(1 if problem.linear else STEPS):
        parts = [_linear(block, at, h, unknowns) for block, at in zip(rows, columns, strict=True)]
        factors = factors or _factors(rows, [A for A, _ in parts], weight)
        A = torch.cat([(f * A).flatten(0, 1) for f, (A, _) in zip(factors, parts, strict=True)])
        b = torch.cat([(f[..., 0] * r).flatten() for f, (_, r) in zip(factors, parts, strict=True)])
        step = least_squares(A, -b, basis.independent)
        change, step = step[: h.numel()].view(h.shape[1], -1).T, step[h.numel() :]
        h = h + change
        unknowns = {name: value + s for (name, value), s in zip(unknowns.items(), step, strict=True)}
        if float(change.norm()) < CONVERGED * float(h.norm()):
            break
    return Answer(h.numel() + len(unknowns), lambda at: Columns(basis, at).by() @ h)


def _linear(block: Block, columns: list[Columns], h: Tensor, unknowns: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Derivatives [E, N, K M + T] of the rows of a block by coefficients and unknowns, and the rows [E, N]."""
    jets = tuple(at.jet(h, block.want) if bool(h.any()) else _zero(block, len(h.T)) for at in columns)
    r, by_equation = linearise(block, jets, unknowns)
    A = torch.zeros(*r.shape, h.numel() + len(unknowns), dtype=torch.float64)
    for e, by_argument in enumerate(by_equation):
        for at, by_output in zip(columns, by_argument, strict=True):
            for k, coefficients in enumerate(by_output):
                A[e, :, k * len(h) : (k + 1) * len(h)] += at.applied(coefficients, block.want)
    for t, name in enumerate(unknowns):
        A[..., h.numel() + t] = _by_unknown(block, jets, unknowns, name)
    return A, r


def _zero(block: Block, outputs: int) -> Jet:
    n, d, level = len(block.x), block.x.shape[1], WANTS.index(block.want)
    shapes = [(n, outputs), (n, outputs, d), (n, outputs, *second_shape(level, d))][: min(level, 2) + 1]
    return Jet(block.want, *(torch.zeros(shape, dtype=torch.float64) for shape in shapes))


def _by_unknown(block: Block, jets: tuple[Jet, ...], unknowns: dict[str, Tensor], name: str) -> Tensor:
    """Derivative [E, N] of the rows by one unknown."""

    def rows(value: Tensor) -> Tensor:
        return block.residual(jets, unknowns | {name: value})

    return torch.autograd.functional.jvp(rows, unknowns[name])[1]


def _factors(rows: list[Block], parts: list[Tensor], weight: float) -> list[Tensor]:
    """Factors [E, 1, 1] of the equations of every block: conditions get the norm of the equation's rows."""
    size = float(parts[0].square().sum((1, 2)).mean().sqrt())
    factors = [torch.ones(len(parts[0]), 1, 1, dtype=torch.float64)]
    for block, A in zip(rows[1:], parts[1:], strict=True):
        norm = A.square().sum((1, 2), keepdim=True).sqrt().clamp_min(1e-300)
        factors.append(weight * math.sqrt(block.weight) * size / norm)
    return factors


def least_squares(A: Tensor, b: Tensor, independent: bool) -> Tensor:
    """The vector that makes ``|A x - b|`` least, by QR of the columns scaled to the same length."""
    scale = A.norm(dim=0).clamp_min(1e-300)
    A = A / scale
    if independent and bool(A.any(0).all()):  # an unknown coefficient has no effect where u = 0
        return torch.linalg.lstsq(A, b[:, None], driver="gels").solution[:, 0] / scale
    return torch.linalg.lstsq(A, b[:, None], rcond=CUT, driver="gelsy").solution[:, 0] / scale
