"""Least squares over a tree of patches: the equation in every leaf, conditions on the sides, and matching at edges.

The unknowns of a leaf are coupled to those of its neighbours alone, so that the normal equations are sparse in blocks.
Their solution is corrected by the residual of the rows themselves, as their condition is the square of that of these.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.jet import Jet
from ...core.reference import WANTS, second_shape
from ...nets.patches import PatchNet
from ...problems.base import Condition, Problem, call_residual
from ..residual import Block, Coefficients, linearise
from .basis import CONDITION, EQUATION, SLOPE, Basis, Table
from .factor import Factors
from .tree import Leaf, Tree

#: Corrections of the solution of the normal equations.
_CORRECTIONS = 2


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
    rows, right : Tensor
        [n, r] and [n]: the equation, and conditions on sides, which are the last ``sides`` of them.
    held, held_right : Tensor
        The equation at points that nothing is solved on.
    """

    rows: Tensor
    right: Tensor
    held: Tensor
    held_right: Tensor
    sides: int

    def __post_init__(self):
        self.gram = self.rows.T @ self.rows


@dataclass
class Match:
    """Two neighbours: ``own`` and ``other`` times their coefficients add up to the jumps of value and slope."""

    leaf: int
    beside: int
    own: Tensor
    other: Tensor
    products: tuple[Tensor, Tensor, Tensor]


@dataclass
class Pieces:
    """A solution over a tree.

    Attributes
    ----------
    tree : Tree
        The leaves.
    coefficients : Tensor
        [n, r], of the functions in every leaf.
    equation, sides, jumps : Tensor
        [n], what is left in every leaf: of the equation between the points, of conditions, and of jumps.
    misfit : float
        How large an error what is left of the conditions makes, as a mean over u in its units.
    """

    tree: Tree
    coefficients: Tensor
    equation: Tensor
    sides: Tensor
    jumps: Tensor
    misfit: float

    @property
    def left(self) -> Tensor:
        """[n], all of it together, in the units of u."""
        return (self.equation**2 + self.sides**2 + self.jumps**2).sqrt()


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
        self.problem, self.given, self.basis, self.roots = problem, given, basis, roots
        self.lo, hi = problem.domain
        self.widths = (hi - self.lo) / torch.tensor(roots)
        self._parts: dict[Leaf, Part] = {}
        self._matches: dict[tuple[int, int, int | None], tuple[Tensor, Tensor, tuple]] = {}

    def ratio(self) -> float:
        """How many cells of level 0 along the first axis suit one along the second: second derivatives count alike."""
        table, leaf = self.basis.inside, torch.zeros(1, 2, dtype=torch.float64)
        x = self.lo + self.widths * table.points
        _, coefficients = _linearised(x, self.problem.residual, self.problem.want)
        local = _in_leaves(
            tuple(None if c is None else c[None] for c in coefficients), self.problem.want, leaf + self.widths
        )
        along = [float(local[name].abs().mean()) if name in local else 0.0 for name in ("00", "11")]
        return (along[1] / along[0]) ** 0.5 if min(along) > 0 else 1.0

    def boxes(self, leaves: list[Leaf]) -> tuple[Tensor, Tensor]:
        """Lower corners and widths, [n, 2] each."""
        at = torch.tensor(leaves)
        h = self.widths * 0.5 ** at[:, :1]
        return self.lo + h * at[:, 1:], h

    def net(self, pieces: Pieces) -> PatchNet:
        """The solution as a net."""
        basis, leaves = self.basis, torch.tensor(pieces.tree.leaves)
        amplitudes = pieces.coefficients @ basis.mixture.T
        return PatchNet(basis.shapes, basis.frame, self.problem.domain, self.roots, leaves, amplitudes)

    # --- the rows --------------------------------------------------------------------------------

    def parts(self, tree: Tree) -> list[Part]:
        """Of every leaf."""
        new = [leaf for leaf in tree.leaves if leaf not in self._parts]
        if new:
            self._make(tree, new)
        self._parts = {leaf: self._parts[leaf] for leaf in tree.leaves}
        return [*self._parts.values()]

    def _make(self, tree: Tree, new: list[Leaf]) -> None:
        lo, h = self.boxes(new)
        A, b = self._equation(lo, h, self.basis.inside)
        held, held_right = self._equation(lo, h, self.basis.between)
        sides: list[list[tuple[Tensor, Tensor]]] = [[] for _ in new]
        for given in self.given:
            for axis, side in given.faces:
                at = [k for k, leaf in enumerate(new) if not tree.inside(leaf.beside(axis, side))]
                if at:
                    rows, right = self._on_side(given.condition, lo[at], h[at], self.basis.edge(axis, side))
                    for k, *pair in zip(at, rows, right, strict=True):
                        sides[k].append(tuple(pair))
        for k, leaf in enumerate(new):
            rows, right = (torch.cat([one[k], *(pair[i] for pair in sides[k])]) for i, one in enumerate((A, b)))
            self._parts[leaf] = Part(rows, right, held[k], held_right[k], len(right) - len(b[k]))

    def _equation(self, lo: Tensor, h: Tensor, table: Table) -> tuple[Tensor, Tensor]:
        """Rows [n, points, r] and right sides [n, points]."""
        problem = self.problem
        return self._rows(problem.residual, problem.want, lo, h, table, EQUATION)

    def _on_side(self, condition: Condition, lo: Tensor, h: Tensor, table: Table) -> tuple[Tensor, Tensor]:
        return self._rows(condition.residual, condition.want, lo, h, table, CONDITION)

    def _rows(self, residual, want, lo: Tensor, h: Tensor, table: Table, weight: float) -> tuple[Tensor, Tensor]:
        """Rows of an operator in the coordinates of the leaves, where its largest coefficient is of order one."""
        n, points = len(lo), len(table.points)
        x = (lo[:, None] + h[:, None] * table.points).flatten(0, 1)
        right, coefficients = _linearised(x, residual, want)
        local = _in_leaves(tuple(None if c is None else c.unflatten(0, (n, points)) for c in coefficients), want, h)
        sizes = torch.stack([c.square().mean(1).sqrt() for c in local.values()]).amax(0)
        scale = weight * table.roots / torch.where(sizes > 0, sizes, 1.0)[:, None]
        rows = lo.new_zeros(n, points, len(self.basis))
        for name, c in local.items():
            if c.any():
                rows.addcmul_((scale * c)[..., None], table.parts[name])
        return rows, -scale * right.view(n, points)

    def matches(self, tree: Tree) -> list[Match]:
        """All pairs of neighbours."""
        found = []
        for leaf, axis, side, other in tree.edges():
            if other is not None:
                half = (leaf.i, leaf.j)[1 - axis] % 2 if other.level < leaf.level else None
                found.append(Match(tree.number[leaf], tree.number[other], *self._match(axis, side, half)))
        return found

    def _match(self, axis: int, side: int, half: int | None) -> tuple[Tensor, Tensor, tuple]:
        key = (axis, side, half)
        if key not in self._matches:
            tables = self.basis.edge(axis, side), self.basis.edge(axis, 1 - side, half)
            slopes = SLOPE, SLOPE * (1.0 if half is None else 0.5)
            own, other = (
                torch.cat([table.parts[""], slope * table.parts[f"{axis}"]]) * tables[0].roots.repeat(2)[:, None]
                for table, slope in zip(tables, slopes, strict=True)
            )
            self._matches[key] = own, -other, (own.T @ own, other.T @ other, -own.T @ other)
        return self._matches[key]

    # --- the solution over a tree ----------------------------------------------------------------

    def solve(self, tree: Tree) -> Pieces:
        """The least squares solution."""
        parts, matches = self.parts(tree), self.matches(tree)
        diagonal = torch.stack([part.gram for part in parts])
        coupling: dict[tuple[int, int], Tensor] = {}
        for m in matches:
            diagonal[m.leaf] += m.products[0]
            diagonal[m.beside] += m.products[1]
            coupling[m.leaf, m.beside] = m.products[2]
        factors = Factors(diagonal, coupling)
        c = torch.zeros(len(tree), len(self.basis), dtype=torch.float64)
        for _ in range(1 + _CORRECTIONS):
            gradient = torch.stack([p.rows.T @ (p.right - p.rows @ one) for p, one in zip(parts, c, strict=True)])
            for m in matches:
                jump = m.own @ c[m.leaf] + m.other @ c[m.beside]
                gradient[m.leaf] -= m.own.T @ jump
                gradient[m.beside] -= m.other.T @ jump
            c += factors.solve(gradient)
        return Pieces(tree, c, *self._left(tree, parts, matches, c))

    def _left(self, tree: Tree, parts: list[Part], matches: list[Match], c: Tensor) -> tuple[Tensor, ...]:
        equation, sides, jumps = (c.new_zeros(len(parts)) for _ in range(3))
        misfit = length = 0.0
        roots = self.basis.edge(0, 0).roots
        for k, p in enumerate(parts):
            equation[k] = (p.held @ c[k] - p.held_right).norm()
            if p.sides:
                by_side = (p.rows[-p.sides :] @ c[k] - p.right[-p.sides :]).view(-1, len(roots)) / CONDITION
                sides[k] = by_side.norm()
                # What oscillates along a side does not reach further into the domain than the leaf does.
                means, h = (by_side @ roots).square().sum(), 0.5 ** tree.leaves[k].level
                misfit += h * float(means + h * (by_side.square().sum() - means))
                length += h * len(by_side)
        for m in matches:
            square = (m.own @ c[m.leaf] + m.other @ c[m.beside]).square().sum()
            jumps[m.leaf] += square
            jumps[m.beside] += square
        return equation, sides, jumps.sqrt(), (misfit / length) ** 0.5


def _in_leaves(coefficients: Coefficients, want: str, h: Tensor) -> dict[str, Tensor]:
    """By the names of a table, coefficients [n, points] in the coordinates of leaves of widths [n, 2]."""
    c0, c1, c2 = coefficients
    local = {} if c0 is None else {"": c0}
    for a in (0, 1):
        if c1 is not None:
            local[f"{a}"] = c1[..., a] / h[:, a, None]
        if c2 is not None:
            one = {"laplacian": lambda: c2, "diagonal": lambda: c2[..., a], "hessian": lambda: c2[..., a, a]}[want]()  # noqa: B023
            local[f"{a}{a}"] = one / h[:, a, None] ** 2
    if c2 is not None and want == "hessian":
        local["01"] = 2 * c2[..., 0, 1] / h.prod(1)[:, None]
    return local


def _linearised(x: Tensor, residual, want) -> tuple[Tensor, Coefficients]:
    """What a residual with one equation is at u = 0, and its coefficients."""
    n, level = len(x), WANTS.index(want)
    shapes = [(n, 1), (n, 1, 2), (n, 1, *second_shape(level, 2))][: min(level, 2) + 1]
    zero = Jet(want, *(x.new_zeros(shape) for shape in shapes))
    block = Block("patches", x, want, lambda u: call_residual(residual, x, u, {}), 1.0)
    rows, by_equation = linearise(block, (zero,), {})
    return rows[0], by_equation[0][0][0]


__all__ = ["Given", "Part", "Pieces", "Rows"]
