"""Least squares over a tree of patches: the equation in every leaf, conditions on the sides, and matching at edges.

The unknowns of a leaf are coupled to those of its neighbours alone, so that the normal equations are sparse in blocks.
They are solved by a block Cholesky factorisation in an order of nested dissection, and corrected by the residual of the
rows themselves, as their condition is the square of that of the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.linalg
import torch
from scipy.linalg import lapack
from torch import Tensor

from ...problems.base import Problem
from ...problems.condition import Condition, call_residual
from ..residual import Block, Coefficients, linearise
from .basis import EQUATION, SLOPE, Basis, Table
from .tree import Leaf, Tree

#: Corrections of the solution of the normal equations.
_CORRECTIONS = 2
#: Share of the trace that is added to the diagonal where it is singular.
_SINGULAR = 1e-14


@dataclass(frozen=True)
class Given:
    """A condition, and the sides of the domain where it holds, as axis and 0 or 1."""

    condition: Condition
    faces: tuple[tuple[int, int], ...]


@dataclass
class Part:
    """What is known of a leaf by itself, whatever its neighbours are.

    Attributes
    ----------
    rows, right : ndarray
        [n, r] and [n]: the equation, and conditions on sides.
    held, held_right : ndarray
        The equation at points that nothing is solved on.
    gram : ndarray
        ``rows.T @ rows``.
    """

    rows: np.ndarray
    right: np.ndarray
    held: np.ndarray
    held_right: np.ndarray
    sides: int = 0
    gram: np.ndarray = field(init=False)

    def __post_init__(self):
        self.gram = self.rows.T @ self.rows


class Rows:
    """The rows of a problem over any tree; what belongs to a leaf alone is computed once for all trees.

    Parameters
    ----------
    problem : Problem
        Linear, in two dimensions, with one output.
    given : list of Given
        Its conditions.
    basis : Basis
        Of every leaf.
    roots : tuple of int
        Cells of level 0 along the axes.
    """

    def __init__(self, problem: Problem, given: list[Given], basis: Basis, roots: tuple[int, int]):
        self.problem, self.given, self.basis = problem, given, basis
        self.lo, hi = (c.numpy() for c in problem.domain)
        self.widths = (hi - self.lo) / np.array(roots)
        self.roots = roots
        self._parts: dict[Leaf, Part] = {}

    def box(self, leaf: Leaf) -> tuple[np.ndarray, np.ndarray]:
        """Lower corner and widths."""
        h = self.widths * 2.0**-leaf.level
        return self.lo + h * np.array([leaf.i, leaf.j]), h

    def parts(self, tree: Tree) -> list[Part]:
        """Of every leaf."""
        new = [leaf for leaf in tree.leaves if leaf not in self._parts]
        if new:
            self._make(tree, new)
        return [self._parts[leaf] for leaf in tree.leaves]

    def _make(self, tree: Tree, new: list[Leaf]) -> None:
        boxes = [self.box(leaf) for leaf in new]
        tables = (self.basis.inside, self.basis.between)
        rows = [self._equation(boxes, table) for table in tables]
        sides: dict[Leaf, list[tuple[np.ndarray, np.ndarray]]] = {leaf: [] for leaf in new}
        for one in self.given:
            for axis, side in one.faces:
                at = [k for k, leaf in enumerate(new) if not tree.inside(leaf.beside(axis, side))]
                if at:
                    found = self._on_side(one.condition, [boxes[k] for k in at], self.basis.edge(axis, side))
                    for k, *pair in zip(at, *found, strict=True):
                        sides[new[k]].append(tuple(pair))
        (A, b), (held, held_right) = rows
        for k, leaf in enumerate(new):
            more = sides[leaf]
            self._parts[leaf] = Part(
                np.concatenate([A[k], *(a for a, _ in more)]), np.concatenate([b[k], *(r for _, r in more)]),
                held[k], held_right[k], sum(len(r) for _, r in more),
            )  # fmt: skip

    def _equation(self, boxes: list, table: Table) -> tuple[np.ndarray, np.ndarray]:
        """Rows [n, points, r] and right sides [n, points] in leaves."""
        problem = self.problem
        x = _places(boxes, table)
        function = lambda u: call_residual(problem.residual, x, u, {})  # noqa: E731
        right, coefficients = _linearised(Block("equation", x, problem.want, function, 1.0))
        return self._operator(right, coefficients, problem.want, boxes, table, EQUATION, second=True)

    def _on_side(self, condition: Condition, boxes: list, table: Table) -> tuple[np.ndarray, np.ndarray]:
        x = _places(boxes, table)
        function = lambda u: call_residual(condition.residual, x, u, {})  # noqa: E731
        right, coefficients = _linearised(Block(condition.name, x, condition.want, function, 1.0))
        return self._operator(right, coefficients, condition.want, boxes, table, 1.0, second=False)

    def _operator(
        self, right: Tensor, coefficients: Coefficients, want: str, boxes: list, table: Table, weight: float,
        second: bool,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """Rows of an operator in the coordinates of the leaves, whose largest coefficient is of order one."""
        n, points = len(boxes), len(table.points)
        h = np.stack([h for _, h in boxes])
        local: dict[str, np.ndarray] = {}
        c0, c1, c2 = (None if c is None else c.numpy().reshape(n, points, *c.shape[1:]) for c in coefficients)
        if c0 is not None:
            local[""] = c0
        for a in (0, 1) if c1 is not None else ():
            local[f"{a}"] = c1[..., a] / h[:, None, a]
        if c2 is not None:
            for a in (0, 1):
                one = c2 if want == "laplacian" else c2[..., a] if want == "diagonal" else c2[..., a, a]
                local[f"{a}{a}"] = one / h[:, None, a] ** 2
            if want == "hessian":
                local["01"] = 2 * c2[..., 0, 1] / (h[:, None, 0] * h[:, None, 1])
        sizes = np.max([np.sqrt((c**2).mean(1)) for c in local.values()], 0)
        scale = weight * table.roots / np.where(sizes > 0, sizes, 1.0)[:, None]
        rows = 0.0
        for name, c in local.items():
            if c.any():
                rows = rows + (scale * c)[..., None] * table.parts[name]
        return np.broadcast_to(rows, (n, points, len(self.basis))), -scale * right.numpy().reshape(n, points)

    # --- the solution over a tree ----------------------------------------------------------------

    def matching(self, tree: Tree) -> list[tuple[int, int, np.ndarray, np.ndarray, tuple]]:
        """Pairs of neighbours: rows of the first plus rows of the second are the jumps of value and slope."""
        found = []
        for leaf, axis, side, other in tree.edges():
            if other is not None:
                part = (leaf.i, leaf.j)[1 - axis] % 2 if other.level < leaf.level else 0
                key = (axis, side, leaf.level - other.level, part)
                found.append((tree.number[leaf], tree.number[other], *self._jump(key), key))
        return found

    def _jump(self, key: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray]:
        axis, side, finer, part = key
        own = self.basis.edge(axis, side)
        other = self.basis.edge(axis, 1 - side, bool(finer), part)
        root = own.roots[:, None]

        def rows(table: Table, scale: float) -> np.ndarray:
            return np.concatenate([root * table.parts[""], scale * SLOPE * root * table.parts[f"{axis}"]])

        return rows(own, 1.0), -rows(other, 2.0**-finer)

    def solve(self, tree: Tree) -> Pieces:
        """The least squares solution."""
        parts, matching = self.parts(tree), self.matching(tree)
        blocks: dict[tuple[int, int], np.ndarray] = {(k, k): part.gram.copy() for k, part in enumerate(parts)}
        products: dict[tuple, tuple[np.ndarray, ...]] = {}
        for k, q, A, B, key in matching:
            if key not in products:
                products[key] = A.T @ A, B.T @ B, A.T @ B
            own, other, both = products[key]
            blocks[k, k] += own
            blocks[q, q] += other
            pair, block = ((k, q), both) if k > q else ((q, k), both.T)
            blocks[pair] = blocks[pair] + block if pair in blocks else block
        solve = factorised(blocks, tree.order())
        c = np.zeros((len(tree), len(self.basis)))
        for _ in range(1 + _CORRECTIONS):
            gradient = np.stack([p.rows.T @ (p.right - p.rows @ one) for p, one in zip(parts, c, strict=True)])
            for k, q, A, B, _ in matching:
                jump = A @ c[k] + B @ c[q]
                gradient[k] -= A.T @ jump
                gradient[q] -= B.T @ jump
            c += solve(gradient)
        return Pieces(tree, c, *self._misfits(parts, matching, c))

    def _misfits(self, parts: list[Part], matching: list, c: np.ndarray) -> tuple[np.ndarray, ...]:
        """Norms [n] of what is left, by leaf: of the equation between the points, of conditions, and of jumps."""
        equation, sides, jumps = (np.zeros(len(parts)) for _ in range(3))
        for k, p in enumerate(parts):
            equation[k] = np.linalg.norm(p.held @ c[k] - p.held_right) / EQUATION
            if p.sides:
                sides[k] = np.linalg.norm(p.rows[-p.sides :] @ c[k] - p.right[-p.sides :])
        for k, q, A, B, _ in matching:
            jump = np.linalg.norm(A @ c[k] + B @ c[q])
            jumps[k], jumps[q] = np.hypot(jumps[k], jump), np.hypot(jumps[q], jump)
        return equation, sides, jumps


@dataclass
class Pieces:
    """A solution over a tree.

    Attributes
    ----------
    tree : Tree
        The leaves.
    coefficients : ndarray
        [n, r], of the functions in every leaf.
    equation, sides, jumps : ndarray
        [n], what is left in every leaf.
    """

    tree: Tree
    coefficients: np.ndarray
    equation: np.ndarray
    sides: np.ndarray
    jumps: np.ndarray


def _places(boxes: list, table: Table) -> Tensor:
    return torch.from_numpy(np.concatenate([lo + h * table.points for lo, h in boxes]))


def _linearised(block: Block) -> tuple[Tensor, Coefficients]:
    from ...core.jet import Jet
    from ...core.reference import WANTS, second_shape

    n, level = len(block.x), WANTS.index(block.want)
    shapes = [(n, 1), (n, 1, 2), (n, 1, *second_shape(level, 2))][: min(level, 2) + 1]
    zero = Jet(block.want, *(torch.zeros(shape, dtype=torch.float64) for shape in shapes))
    rows, by_equation = linearise(block, (zero,), {})
    return rows[0], by_equation[0][0][0]


def factorised(
    blocks: dict[tuple[int, int], np.ndarray], order: list[int]
) -> Callable[[np.ndarray], np.ndarray]:
    """Cholesky factors of a symmetric matrix in blocks (row, column), row >= column; gives its solver.

    The blocks are of one size; ``order`` is that of elimination.
    """
    place = {k: p for p, k in enumerate(order)}
    diagonal: list[Any] = [None] * len(order)
    below: list[dict[int, np.ndarray]] = [{} for _ in order]
    for (a, b), block in blocks.items():
        p, q = place[a], place[b]
        if p == q:
            diagonal[p] = block
        elif p > q:
            below[q][p] = block
        else:
            below[p][q] = block.T
    factors: list[tuple[np.ndarray, list[int], np.ndarray | None]] = []
    for p in range(len(order)):
        lower = _cholesky(diagonal[p])
        rows = sorted(below[p])
        if not rows:
            factors.append((lower, rows, None))
            continue
        r = len(lower)
        stacked = np.concatenate([below[p][q] for q in rows])
        panel = scipy.linalg.blas.dtrsm(1.0, lower, stacked.T, lower=1).T
        update = panel @ panel.T
        for a, q in enumerate(rows):
            diagonal[q] = diagonal[q] - update[a * r : (a + 1) * r, a * r : (a + 1) * r]
            for b in range(a):
                column, block = below[rows[b]], update[a * r : (a + 1) * r, b * r : (b + 1) * r]
                column[q] = column[q] - block if q in column else -block
        factors.append((lower, rows, panel))
        diagonal[p], below[p] = None, {}

    def solve(right: np.ndarray) -> np.ndarray:
        y = right[order]
        for p, (lower, rows, panel) in enumerate(factors):
            y[p] = scipy.linalg.blas.dtrsv(lower, y[p], lower=1)
            if panel is not None:
                y[rows] -= (panel @ y[p]).reshape(len(rows), -1)
        for p in range(len(factors) - 1, -1, -1):
            lower, rows, panel = factors[p]
            known = y[p] if panel is None else y[p] - panel.T @ y[rows].ravel()
            y[p] = scipy.linalg.blas.dtrsv(lower, known, lower=1, trans=1)
        found = np.empty_like(y)
        found[order] = y
        return found

    return solve


def _cholesky(A: np.ndarray) -> np.ndarray:
    lower, info = lapack.dpotrf(A, lower=1, clean=1)
    if info:
        lower, info = lapack.dpotrf(A + _SINGULAR * np.trace(A) * np.eye(len(A)), lower=1, clean=1)
    if info:
        raise np.linalg.LinAlgError("the matrix is not positive definite")
    return lower


__all__ = ["Given", "Part", "Pieces", "Rows", "factorised"]
