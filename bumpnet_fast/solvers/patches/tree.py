"""Quadtrees as sets of leaves: who is whose neighbour, and splitting."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

#: Sides of a leaf: the axis, and 0 for the lower or 1 for the upper one.
SIDES = ((0, 0), (0, 1), (1, 0), (1, 1))


class Leaf(NamedTuple):
    """A leaf: its level, and its place along the axes in cells of that level."""

    level: int
    i: int
    j: int

    @property
    def parent(self) -> Leaf:
        return Leaf(self.level - 1, self.i // 2, self.j // 2)

    @property
    def children(self) -> list[Leaf]:
        return [Leaf(self.level + 1, 2 * self.i + a, 2 * self.j + b) for a in (0, 1) for b in (0, 1)]

    def beside(self, axis: int, side: int) -> Leaf:
        """The cell of the same level beyond a side."""
        by = 2 * side - 1
        return Leaf(self.level, self.i + by * (axis == 0), self.j + by * (axis == 1))


class Tree:
    """Leaves that cover ``roots`` cells of level 0 once; neighbours differ by one level at most.

    Parameters
    ----------
    roots : tuple of int
        Cells of level 0 along the axes.
    leaves : iterable of Leaf
        Those of a tree, which may be unbalanced.
    """

    def __init__(self, roots: tuple[int, int], leaves: Iterable[Leaf]):
        self.roots = roots
        self.leaves = sorted(self._balanced(set(leaves)))
        self.number = {leaf: k for k, leaf in enumerate(self.leaves)}

    @classmethod
    def even(cls, roots: tuple[int, int], level: int) -> Tree:
        """All cells of a level."""
        across, along = (n * 2**level for n in roots)
        return cls(roots, [Leaf(level, i, j) for i in range(across) for j in range(along)])

    def __len__(self) -> int:
        return len(self.leaves)

    def inside(self, cell: Leaf) -> bool:
        """Whether there is such a cell."""
        across, along = (n * 2**cell.level for n in self.roots)
        return 0 <= cell.i < across and 0 <= cell.j < along

    def split(self, marked: Iterable[Leaf]) -> Tree:
        """A tree where the marked leaves are split, and others as far as the balance needs it."""
        left = set(self.leaves)
        for leaf in marked:
            left.remove(leaf)
            left.update(leaf.children)
        return Tree(self.roots, left)

    def owner(self, cell: Leaf) -> Leaf | None:
        """The leaf that covers a cell; None if the cell is split."""
        while cell.level >= 0:
            if cell in self.number:
                return cell
            cell = cell.parent
        return None

    def edges(self) -> Iterator[tuple[Leaf, int, int, Leaf | None]]:
        """All edges once: a leaf, the axis and side of its edge, and the neighbour, not finer; None is the boundary."""
        for leaf in self.leaves:
            for axis, side in SIDES:
                beside = leaf.beside(axis, side)
                if not self.inside(beside):
                    yield leaf, axis, side, None
                    continue
                other = self.owner(beside)
                if other is not None and (other.level < leaf.level or side == 1):
                    yield leaf, axis, side, other

    def _balanced(self, leaves: set[Leaf]) -> set[Leaf]:
        left = list(leaves)
        while left:
            leaf = left.pop()
            if leaf not in leaves:
                continue
            for axis, side in SIDES:
                cell = leaf.beside(axis, side)
                if not self.inside(cell):
                    continue
                while cell.level >= 0 and cell not in leaves:
                    cell = cell.parent
                if 0 <= cell.level < leaf.level - 1:
                    leaves.remove(cell)
                    leaves.update(cell.children)
                    left += [*cell.children, leaf]
        return leaves


__all__ = ["SIDES", "Leaf", "Tree"]
