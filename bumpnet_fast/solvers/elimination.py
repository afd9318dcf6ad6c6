"""Elimination of amplitudes: how the rows of a system depend on the parameters that are stepped.

The *inner* parameters of a system are the amplitudes and the unknowns of the equation; the others are the
shapes.  ``Separable`` and ``Projected`` eliminate the inner ones; ``Joint`` steps in all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..core.ranks import ALONE
from .edges import EdgeLimit
from .residual import System

#: Steps of the inner solve: from a cold start, and from the tangent of a point nearby.
_INNER_COLD, _INNER_WARM = 30, 4
#: The inner solve ends when its next step would lower the loss by less than this fraction of it.  From the tangent of a
#: point nearby it need not be exact: every move begins with a step of it.  From a cold start it must: away from the
#: best amplitudes the shapes may have no gradient, as at amplitudes 0, and a first step may gain little.
_COLD_TOLERANCE, _WARM_TOLERANCE = 1e-9, 0.05
#: Without unknowns the looser one is enough once the loss is a smaller share of that of u = 0.
_LEFT = 0.1
#: A start with unknowns held first is taken if its loss is a smaller share of that of the usual one.
_MUCH_BETTER = 0.5
#: What solving for the inner parameters once more must gain to be worth a new descent.
_WORTH = 1e-3
#: Smallest ridge, on columns of length 1: rounding.  Without any ridge columns of zeros are undetermined.
_LEAST_RIDGE = 1e-32
#: Halvings of an inner step.
_HALVINGS = 8
#: Rows per block of the Gram matrix.  Blocks above the diagonal are not computed, which saves a third.
_GRAM_BLOCK = 48


@dataclass
class Point:
    """A place in parameter space, with everything that was computed there."""

    x: Tensor  # [P] stepped parameters
    loss: float
    residual: Tensor  # [R]
    inner: Tensor  # [M K + T] amplitudes and unknowns
    fit: Fit | None = None
    damping: float | None = None  # of the descent that reached it
    scale: Tensor | None = None  # [P], likewise


@dataclass
class Normal:
    """Normal equations of a Gauss-Newton step."""

    matrix: Tensor  # [P, P], of which the lower triangle counts
    gradient: Tensor  # [P] of half the loss
    jacobian: Tensor | None = None  # [P, R], where the curvature of the rows along a step is to be measured


@dataclass
class Fit:
    """A ridge solve (see :func:`ridge_solve`), kept to repeat it for other right-hand sides."""

    basis: Tensor  # [R, n]: its columns, continued by the ridge rows, are an orthonormal basis of the scaled A^T
    upper: Tensor  # [n, n]
    length: Tensor  # [n] of the columns of A^T
    ranks: Any  # that share the basis
    reach: Tensor | None = None  # [P, n]: the part of the shape Jacobian within the basis
    left: float = math.nan  # sum of squares of the residual and the ridge rows, where it is known

    def solve(self, projection: Tensor) -> Tensor:
        """Inner parameters, from the products of a right-hand side with the basis."""
        h = torch.linalg.solve_triangular(self.upper, projection[:, None], upper=True)[:, 0] / self.length
        return self.ranks.agreed(h)


class _Model:
    """What all models share: the layout of the parameters."""

    def __init__(self, system: System, ridge: float):
        self.system, self.ranks, self.ridge, self.stepped = system, system.ranks, ridge, 0
        zero, _ = system.linearise()
        self.reference_loss = self._square(zero)

    def _square(self, residual: Tensor) -> float:
        """Sum of squares of the rows [R] of all ranks."""
        return float(self.ranks.total(residual @ residual))

    def _split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Shapes and inner parameters of rows, flat; the unknowns have their first guesses."""
        amplitudes = rows[:, self.system.layout.amplitude].flatten()
        return self.system.shapes_of(rows), torch.cat([amplitudes, self.system.guesses.to(rows)])

    def _joined(self, shapes: Tensor, inner: Tensor) -> Tensor:
        bumps = self.system.bumps_of(len(shapes))
        return self.system.with_shapes(shapes, self._amplitudes(inner, bumps))

    def _amplitudes(self, inner: Tensor, bumps: int) -> Tensor:
        return inner[: bumps * self.system.layout.outputs].view(bumps, -1)

    @property
    def edges(self) -> EdgeLimit:
        """How thin edges may become."""
        return self.system.edges

    def shapes(self, point: Point) -> Tensor:
        """The shapes [M, shape columns] of a point, which are the last of the stepped parameters."""
        return point.x[self.stepped :].view(-1, self.system.layout.shape_columns)

    def normal(self, point: Point) -> Normal:
        """The normal equations of a step from ``point``."""
        J, gradient = self.jacobian(point)
        return Normal(self.ranks.total(lower_gram(J)), gradient, J)

    def settled(self, point: Point) -> Point | None:
        """A better point with the same shapes; None if there is none."""
        return None

    def unknowns(self, point: Point) -> Tensor:
        """Values of the unknowns [T]."""
        return point.inner[len(point.inner) - len(self.system.guesses) :]

    def memory(self, point: Point) -> dict[str, Any]:
        """State from which :meth:`recalled` rebuilds this point bit for bit."""
        return {"x": point.x, "damping": point.damping, "scale": point.scale}

    def recalled(self, memory: dict[str, Any]) -> Point:
        x, scale = memory["x"], memory["scale"]
        if scale is not None and scale.shape != x.shape:
            raise ValueError(f"there are {len(x)} parameters and {len(scale)} scales")
        return replace(self._recomputed(memory), damping=memory["damping"], scale=scale)

    def _recomputed(self, memory: dict[str, Any]) -> Point:
        return self.evaluate(memory["x"])

    def _designs(self, rows: Tensor, coefficients: Any) -> tuple[Tensor, Any]:
        """Derivatives of the rows by all amplitudes, and of these by the trained shapes."""
        if self.system.trained is None:
            return self.system.design(rows, coefficients, derivatives=True)
        A, _ = self.system.design(rows, coefficients)
        return A, self.system.design(self.system.of_trained(rows), coefficients, derivatives=True)[1]

    def _shape_jacobian(self, rows: Tensor, coefficients: Any, D: Any = None, **options: Tensor) -> Tensor:
        """Derivatives [P, R] of the rows by the trained shapes, at fixed amplitudes."""
        trained = self.system.of_trained(rows)
        if D is None:
            _, D = self.system.design(trained, coefficients, derivatives=True)
        return self.system.shape_jacobian(D, trained[:, self.system.layout.amplitude], **options)

    def _inner_matrix(self, rows: Tensor, jets: list, unknowns: Tensor) -> tuple[Tensor, Tensor]:
        """Rows [R] and their derivatives [n, R] by the inner parameters."""
        residual, coefficients = self.system.linearise(jets, unknowns)
        A, _ = self.system.design(rows, coefficients)
        return residual, torch.cat([A, self.system.sensitivity(jets, unknowns)]) if len(unknowns) else A


class Separable(_Model):
    """Variable projection: rows ``A(shapes)^T h - b`` of a linear problem, with the amplitudes h eliminated."""

    def __init__(self, system: System, ridge: float):
        super().__init__(system, ridge)
        offset, self.coefficients = system.linearise()
        self.target = -offset

    def start(self, rows: Tensor) -> Point:
        return self.evaluate(self._split(rows)[0])

    def rows(self, point: Point) -> Tensor:
        return self._joined(point.x, point.inner)

    def evaluate(self, x: Tensor) -> Point:
        outputs, bumps = self.system.layout.outputs, self.system.bumps_of(len(x))
        A, _ = self.system.design(self._joined(x, x.new_zeros(bumps * outputs)), self.coefficients)
        h, residual, fit, loss = ridge_solve(
            A, self.target, self.ridge, ranks=self.ranks, kinds=kinds_of(self.system, len(A))
        )
        return Point(x, loss, residual, h, fit)

    def move(self, point: Point, step: Tensor) -> Point:
        return self.evaluate(point.x + step)

    def ahead(self, point: Point, step: Tensor) -> Tensor:
        """Rows [R] after a step."""
        return self.evaluate(point.x + step).residual

    def jacobian(self, point: Point) -> tuple[Tensor, Tensor]:
        """Kaufman's Jacobian, transposed, [P, R], and the gradient of half the loss."""
        J = self._shape_jacobian(self.rows(point), self.coefficients)
        J.addmm_(self.ranks.total(J @ point.fit.basis), point.fit.basis.T, alpha=-1)
        return J, self.ranks.total(J @ point.residual)


class Projected(_Model):
    """Rows of any problem as functions of the shapes; the inner parameters follow.

    Every step is the Gauss-Newton step in all parameters, from which the undamped inner ones are eliminated
    (functional variable projection, with Kaufman's Jacobian).  The inner parameters first move along the
    tangent.  A few Gauss-Newton steps of their own, on the nonlinear rows, then solve for them.
    """

    def start(self, rows: Tensor) -> Point:
        shapes, inner = self._split(rows)
        point = self._fitted(shapes, inner, _INNER_COLD, _COLD_TOLERANCE)
        if not self.system.names:
            return point
        # From u = 0 a step in all can ruin the unknowns: it may be better to solve for u with their guesses first.
        held = self._fitted(shapes, inner, _INNER_COLD, _COLD_TOLERANCE, held=True).inner
        other = self._fitted(shapes, held, _INNER_COLD, _COLD_TOLERANCE)
        return other if other.loss < _MUCH_BETTER * point.loss or not math.isfinite(point.loss) else point

    def settled(self, point: Point) -> Point | None:
        """``point`` with its inner parameters solved for as from a cold start; None if that gains nothing."""
        again = self._fitted(point.x, point.inner, _INNER_COLD, _COLD_TOLERANCE)
        return again if again.loss < (1 - _WORTH) * point.loss else None

    def rows(self, point: Point) -> Tensor:
        return self._joined(point.x, point.inner)

    def memory(self, point: Point) -> dict[str, Any]:
        return super().memory(point) | {"inner": point.inner, "length": point.fit.length}

    def _recomputed(self, memory: dict[str, Any]) -> Point:
        return self._at(memory["x"], memory["inner"], memory["length"])[0]

    def _rows_at(self, shapes: Tensor, inner: Tensor) -> tuple[Tensor, list, Tensor]:
        rows = self._joined(shapes, inner)
        return rows, self.system.jets(rows), inner[len(inner) - len(self.system.guesses) :]

    def _fitted(self, shapes: Tensor, inner: Tensor, most: int, tolerance: float, held: bool = False) -> Point:
        """The point at ``shapes``, with the inner parameters solved for, starting at a guess.

        If ``held``, unknowns keep their values.
        """
        length, best = None, None
        for left in range(most, -1, -1):
            best, step, after = self._at(shapes, inner, length, held)
            if step is None:
                return best
            length = best.fit.length
            gain = 1 - (self._square(after) + self._penalty(inner + step, length)) / max(best.loss, 1e-300)
            far = bool(self.system.names) or best.loss > _LEFT * self.reference_loss
            if left == 0 or not gain > (tolerance if far else _WARM_TOLERANCE):
                break
            shorter = self._descended(best, step, exact=tolerance < _WARM_TOLERANCE)
            if shorter is None:
                break
            inner = shorter
        return best

    def _at(
        self, shapes: Tensor, inner: Tensor, length: Tensor | None, held: bool = False
    ) -> tuple[Point, Tensor | None, Tensor | None]:
        """A point, its best step of the inner parameters, and the rows after that step; None if not finite."""
        rows, jets, unknowns = self._rows_at(shapes, inner)
        residual, A = self._inner_matrix(rows, jets, unknowns)
        if not self.ranks.every(bool(torch.isfinite(A).all())):
            return Point(shapes, math.inf, residual, inner), None, None
        free = len(inner) - len(unknowns) if held else len(inner)
        kinds = kinds_of(self.system, len(inner))[:free]
        step, after, fit, _ = ridge_solve(A[:free], -residual, self.ridge, inner[:free], length, self.ranks, kinds)
        step = torch.cat([step, step.new_zeros(len(inner) - free)])
        loss = self._square(residual) + self._penalty(inner, fit.length)
        return Point(shapes, loss, residual, inner, fit), step, after

    def _penalty(self, inner: Tensor, length: Tensor) -> float:
        return self.ridge * float((length * inner[: len(length)]).square().sum())

    def _descended(self, point: Point, step: Tensor, exact: bool) -> Tensor | None:
        """Inner parameters with a smaller loss, along ``step``; with ``exact`` those after the best of the halvings."""
        least, found = point.loss, None
        for halving in range(_HALVINGS):
            inner = point.inner + 0.5**halving * step
            _, jets, unknowns = self._rows_at(point.x, inner)
            loss = self._square(self.system.residual(jets, unknowns)) + self._penalty(inner, point.fit.length)
            if loss < least:
                least, found = loss, inner
            elif found is not None:
                break
            if found is not None and not exact:
                break
        return found

    def _tangent(self, point: Point, step: Tensor) -> Tensor:
        """Change of the inner parameters that best compensates a step in the shapes."""
        return -point.fit.solve(step @ point.fit.reach)

    def move(self, point: Point, step: Tensor) -> Point:
        fit, tangent = point.fit, self._tangent(point, step)
        off = self.ranks.total(point.residual @ fit.basis)
        moved = self._fitted(point.x + step, point.inner - fit.solve(off) + tangent, _INNER_WARM, _WARM_TOLERANCE)
        if moved.loss < point.loss or float(off @ off) <= _WARM_TOLERANCE * point.loss:
            return moved
        return self._fitted(point.x + step, point.inner + tangent, _INNER_WARM, _WARM_TOLERANCE)  # no step that far

    def ahead(self, point: Point, step: Tensor) -> Tensor:
        """Rows [R] after a step along the tangent."""
        _, jets, unknowns = self._rows_at(point.x + step, point.inner + self._tangent(point, step))
        return self.system.residual(jets, unknowns)

    def jacobian(self, point: Point) -> tuple[Tensor, Tensor]:
        """Kaufman's Jacobian, transposed, [P, R], and the gradient of half the loss."""
        rows, jets, unknowns = self._rows_at(point.x, point.inner)
        _, coefficients = self.system.linearise(jets, unknowns)
        J = self._shape_jacobian(rows, coefficients)
        point.fit.reach = self.ranks.total(J @ point.fit.basis)
        J.addmm_(point.fit.reach, point.fit.basis.T, alpha=-1)
        return J, self.ranks.total(J @ point.residual)


class Joint(_Model):
    """Rows of any problem as functions of all parameters, the inner ones first."""

    def start(self, rows: Tensor) -> Point:
        """The better of the given rows and of those whose amplitudes solve the linearised problem."""
        shapes, inner = self._split(rows)
        self.stepped = len(inner)
        residual, A = self._inner_matrix(rows, self.system.jets(rows), self.system.guesses)
        change, *_ = ridge_solve(A, -residual, self.ridge, ranks=self.ranks, kinds=kinds_of(self.system, len(A)))
        points = [self.evaluate(torch.cat([z, shapes])) for z in (inner, inner + change)]
        return min(points, key=lambda p: p.loss if math.isfinite(p.loss) else math.inf)

    def rows(self, point: Point) -> Tensor:
        return self._joined(point.x[self.stepped :], point.inner)

    def _recomputed(self, memory: dict[str, Any]) -> Point:
        layout, unknowns = self.system.layout, len(self.system.guesses)
        whole = (len(memory["x"]) - unknowns) // layout.columns  # if all are trained
        self.stepped = self.system.bumps_of(whole * layout.shape_columns) * layout.outputs + unknowns
        return self.evaluate(memory["x"])

    def evaluate(self, x: Tensor) -> Point:
        inner = x[: self.stepped]
        jets = self.system.jets(self._joined(x[self.stepped :], inner))
        residual = self.system.residual(jets, inner[len(inner) - len(self.system.guesses) :])
        return Point(x, self._square(residual), residual, inner)

    def move(self, point: Point, step: Tensor) -> Point:
        return self.evaluate(point.x + step)

    def ahead(self, point: Point, step: Tensor) -> Tensor:
        """Rows [R] a step away."""
        return self.evaluate(point.x + step).residual

    def jacobian(self, point: Point) -> tuple[Tensor, Tensor]:
        """The Jacobian, transposed, [P, R], and the gradient of half the loss."""
        rows, unknowns, at = self.rows(point), self.unknowns(point), self.stepped
        jets = self.system.jets(rows)
        _, coefficients = self.system.linearise(jets, unknowns)
        A, D = self._designs(rows, coefficients)
        J = A.new_empty(len(point.x), self.system.size)
        J[: len(A)] = A
        J[len(A) : at] = self.system.sensitivity(jets, unknowns)
        self._shape_jacobian(rows, coefficients, D, out=J[at:])
        return J, self.ranks.total(J @ point.residual)


def ridge_solve(
    A: Tensor,
    target: Tensor,
    ridge: float,
    start: Tensor | None = None,
    length: Tensor | None = None,
    ranks: Any = ALONE,
    kinds: Tensor | None = None,
) -> tuple[Tensor, Tensor, Fit, float]:
    """Least-squares solution h of ``A^T h = target`` with a ridge on the scaled amplitudes, by QR.

    The columns are scaled to unit length, but at least to 1e-6 of the longest of their kind: the amplitude of a dying
    bump would otherwise be unbounded.  The ridge is added as further rows.  Normal equations would square a condition
    number of 1e10.

    Parameters
    ----------
    A : Tensor
        [n, R], float64.
    target : Tensor
        [R].
    ridge : float
        Weight of the squares of the scaled amplitudes.
    start : Tensor, optional
        [n].  If given, h is a change of ``start``, and the ridge applies to their sum.
    length : Tensor, optional
        [n], the scale of the columns; by default their own.
    ranks : of :mod:`bumpnet_fast.core.ranks`
        ranks of core/ranks.py with further columns of A and entries of ``target``; rank 0 has the ridge rows.
    kinds : Tensor, optional
        [n], numbers of the kinds of columns, each with units of its own; by default all are of one kind.

    Returns
    -------
    h : Tensor
        [n].
    residual : Tensor
        [R], ``A^T h - target``.
    fit : Fit
        The factors.
    loss : float
        Sum of squares of the residual and the ridge rows.
    """
    n, R = A.shape
    length = _lengths(A, ranks, kinds) if length is None else length
    weight = math.sqrt(max(ridge, _LEAST_RIDGE)) if ranks.rank == 0 else 0.0
    augmented = A.new_zeros(n, R + n)
    torch.div(A, length[:, None], out=augmented[:, :R])
    augmented[:, R:].diagonal().fill_(weight)
    Q, upper = ranks.qr(augmented.T)
    y = target @ Q[:R]
    if start is not None:
        y = y - weight * (length * start) @ Q[R:]
    y, fit = ranks.total(y), Fit(Q[:R], upper, length, ranks)
    residual = Q @ y
    residual[:R] -= target
    if start is not None:
        residual[R:] += weight * length * start
    return fit.solve(y), residual[:R], fit, float(ranks.total(residual @ residual))


def triangular_solve(
    A: Tensor, target: Tensor, ridge: float, ranks: Any = ALONE, kinds: Tensor | None = None
) -> tuple[Tensor, Fit]:
    """The solution h [n] of :func:`ridge_solve` alone, in half the time, and its factors without a basis."""
    n, R = A.shape
    length = _lengths(A, ranks, kinds)
    augmented = A.new_zeros(n + 1, R + n)
    torch.div(A, length[:, None], out=augmented[:n, :R])
    augmented[n, :R] = target
    augmented[:n, R:].diagonal().fill_(math.sqrt(max(ridge, _LEAST_RIDGE)) if ranks.rank == 0 else 0.0)
    upper = ranks.triangle(augmented.T)
    fit = Fit(A.new_empty(0, n), upper[:n, :n], length, ranks, left=float(upper[n, n]) ** 2)
    return fit.solve(upper[:n, n]), fit


def _lengths(A: Tensor, ranks: Any, kinds: Tensor | None) -> Tensor:
    """Lengths [n] by which the columns are scaled."""
    length = ranks.norm(torch.linalg.vector_norm(A, dim=1))
    # Where nothing depends on the amplitudes, as at a stationary point, they are not scaled and do not change.
    longest = length.max() if kinds is None else _longest(length, kinds)
    return torch.maximum(length, torch.where(longest > 0, 1e-6 * longest, 1.0))


def kinds_of(system: Any, inner: int) -> Tensor:
    """For each of so many inner parameters, which output's amplitude or which unknown it is: their units differ."""
    outputs, unknowns, device = system.layout.outputs, len(system.guesses), system.guesses.device
    of_amplitudes = torch.arange(inner - unknowns, device=device) % outputs
    return torch.cat([of_amplitudes, outputs + torch.arange(unknowns, device=device)])


def _longest(length: Tensor, kinds: Tensor) -> Tensor:
    """The longest column of the kind of each column, [n]."""
    by_kind = length.new_zeros(int(kinds.max()) + 1).scatter_reduce_(0, kinds, length, "amax")
    return by_kind[kinds]


def lower_gram(J: Tensor) -> Tensor:
    """``J J^T`` [P, P] of J [P, R].  Only the lower triangle is certain, which is all that Cholesky reads.

    >>> J = torch.arange(200.0).reshape(100, 2)
    >>> torch.equal(lower_gram(J).tril(), (J @ J.T).tril())
    True
    """
    H = J.new_zeros(len(J), len(J))
    for start in range(0, len(J), _GRAM_BLOCK):
        stop = min(start + _GRAM_BLOCK, len(J))
        torch.mm(J[start:stop], J[:stop].T, out=H[start:stop, :stop])
    return H
