"""The functions of a leaf: flat bumps in the unit square, made orthonormal, and their tables at points."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...core.functional import bump_basis
from ...core.rows import RowLayout
from ...core.types import Want
from ...nets.smooth import smooth_rows

#: Bumps along each side of a leaf, and their sharpness relative to that of a net to be trained: with sharper ones
#: smaller leaves are no better.
ACROSS, SHARPNESS = 10, 0.15
#: Functions whose size is a smaller share of the largest one are left out, for an error of at least so much and for all
#: others, and relative errors that nothing falls below then.
_KINDS = ((1e-5, 1e-10, 1e-6), (0.0, 1e-12, 1e-8))
#: Points along each side for the equation, for its residual between them, and on an edge.
_POINTS, _BETWEEN, _ON_EDGE = 14, 7, 14
#: Weight of the second derivatives of the equation beside jumps of values, of slopes across an edge, of conditions.
EQUATION, SLOPE, CONDITION = 0.1, 0.3, 3.0
#: Points on a side that make the functions orthonormal.
_DENSE = 20


@dataclass(frozen=True)
class Table:
    """Values and derivatives of all functions of a leaf at points of the unit square, in its coordinates.

    Attributes
    ----------
    points : Tensor
        [n, 2].
    roots : Tensor
        [n], square roots of the weights of the points.
    parts : dict
        [n, r] by name: "", "0", "1", "00", "01", "11".
    """

    points: Tensor
    roots: Tensor
    parts: dict[str, Tensor]


class Basis:
    """The orthonormal functions of a leaf.

    Attributes
    ----------
    shapes, frame : Tensor
        Rows [m, columns] of the bumps, and their frame.
    mixture : Tensor
        [m, r], amplitudes of the bumps in every function.
    inside, between : Table
        At the points of the equation, and of its residual at points that nothing is solved on.
    rounding : float
        A relative error that is smaller cannot be told.

    Parameters
    ----------
    tolerance : float
        Size of the smallest function, relative to the largest one.
    rounding : float
        As above.
    """

    def __init__(self, tolerance: float, rounding: float) -> None:
        self.rounding = rounding
        self.layout = RowLayout(2, 1)
        unit = torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
        self.shapes, self.frame = smooth_rows((ACROSS, ACROSS), unit, self.layout, SHARPNESS, 0)
        self.shapes[:, self.layout.amplitude] = 1.0
        points, roots = _square(_DENSE)
        second = self._raw(points, "diagonal")[2].sum(-1) * roots[:, None] * EQUATION
        sides = torch.cat([_side(axis, side, _gauss(_DENSE)[0]) for axis in (0, 1) for side in (0, 1)])
        sizes = torch.cat([second, self._raw(sides, "value")[0] / len(sides) ** 0.5])
        norms = sizes.norm(dim=0)
        _, singular, right = torch.linalg.svd(sizes / norms, full_matrices=False)
        kept = singular > tolerance * singular[0]
        self.mixture = right[kept].T / singular[kept] / norms[:, None]
        self.inside = self._table(*_square(_POINTS))
        self.between = self._table(*_square(_BETWEEN))
        self._edges: dict[tuple, Table] = {}

    def __len__(self) -> int:
        return self.mixture.shape[1]

    def edge(self, axis: int, side: int, half: int | None = None) -> Table:
        """At points on a side: on all of it, or on its lower or upper ``half``."""
        key = (axis, side, half)
        if key not in self._edges:
            t, w = _gauss(_ON_EDGE)
            places = t if half is None else (t + half) / 2
            self._edges[key] = self._table(_side(axis, side, places), w.sqrt())
        return self._edges[key]

    def _raw(self, x: Tensor, want: Want) -> tuple:
        return bump_basis(x, self.shapes, self.frame, want, tied=True).parts()

    def _table(self, points: Tensor, roots: Tensor) -> Table:
        value, gradient, second = self._raw(points, "hessian")
        named = {"": value, "0": gradient[..., 0], "1": gradient[..., 1]}
        named |= {f"{a}{b}": second[..., a, b] for a, b in ((0, 0), (0, 1), (1, 1))}
        return Table(points, roots, {name: part @ self.mixture for name, part in named.items()})


def basis(error: float = 0.0) -> Basis:
    """The basis of all leaves for a relative error: the smaller this is the more functions it has."""
    return next(_basis(*kind) for least, *kind in _KINDS if error >= least)


_basis = functools.cache(Basis)


def _gauss(n: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of the Gauss rule on [0, 1]; the weights add up to 1."""
    t, w = np.polynomial.legendre.leggauss(n)
    return torch.from_numpy((t + 1) / 2), torch.from_numpy(w / 2)


def _square(n: int) -> tuple[Tensor, Tensor]:
    """Points [n^2, 2] of the unit square, and square roots of their weights."""
    t, w = _gauss(n)
    return torch.cartesian_prod(t, t), torch.outer(w, w).flatten().sqrt()


def _side(axis: int, side: int, t: Tensor) -> Tensor:
    columns = [t, torch.full_like(t, float(side))]
    return torch.stack(columns if axis else columns[::-1], 1)


__all__ = ["CONDITION", "EQUATION", "SLOPE", "Basis", "Table", "basis"]
