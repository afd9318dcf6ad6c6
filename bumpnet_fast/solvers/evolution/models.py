"""The moving quantities of an evolution: the amplitudes over a fixed basis, or all parameters of the bumps.

A model turns ``u_t = rhs`` into ``y' = slope(t, y)`` for a flat state y, by least squares over the collocation
points.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core import checking
from ...core.jet import Jet
from ...core.ranks import ALONE
from ...core.reference import DIAGONAL, WANTS, second_shape
from ...core.rows import bounded_atanh
from ..edges import EdgeLimit
from ..elimination import Separable, ridge_solve
from ..levenberg_marquardt import descend
from ..residual import Block, Coefficients, linearise
from ..trained import TrainedShapes
from .basis import Space

#: Singular values below this fraction of the largest are omitted from the pseudo-inverse.
_CUT = 1e-10
#: Training of the shapes on the initial values: steps, largest change of a parameter per step, and ridge.
_FIT_STEPS, _FIT_CAP, _FIT_RIDGE = 100, 0.5, 1e-14


@dataclass(frozen=True)
class Report:
    """What an evolution reports of a state.

    Attributes
    ----------
    rows, rates : Tensor
        [M, columns]: all bumps, and their derivatives by t.
    norm, rate, residual : float
        Root mean squares of u, of u_t, and of the part of u_t that the model misses.
    """

    rows: Tensor
    rates: Tensor
    norm: float
    rate: float
    residual: float

    @property
    def relative(self) -> float:
        """The residual, relative to u_t."""
        return self.residual / self.rate if self.rate else 0.0

    def is_finite(self) -> bool:
        return math.isfinite(self.norm + self.rate + self.residual)


class Model:
    """What all models share: points, weights, right-hand side and initial values.

    ``start`` [N, K] is u at the points to begin with: by default the initial values.
    """

    def __init__(self, space: Space, rows: Tensor, x: Tensor, weights: Tensor, start: Tensor | None = None):
        self.space, self.problem, self.start_rows = space, space.problem, rows
        self.x, self.root, self.layout = x, weights.sqrt()[:, None], space.layout(rows)
        self.stages = 0
        self.lift = space.lift(x, self.problem.want)
        if start is None:
            start = self.shaped(self.problem.initial(x), "initial(x)")
            checking.check_finite(checking.called("initial(x)", self.problem), start, x)
        self.start = start - self.lift.value
        self.size = max(self.rms(start), self.rms(self.lift.value))

    def rms(self, values: Tensor) -> float:
        """Root mean square over the domain of values [N, K]."""
        return float(torch.linalg.vector_norm(self.root * values))

    def rhs(self, t: float, u: Jet) -> Tensor:
        """[N, K]."""
        return self.shaped(self.problem.rhs(self.x, u, t), "rhs(x, u, t)")

    def shaped(self, values: Tensor, what: str) -> Tensor:
        n, k = len(self.x), self.layout.outputs
        what, wanted = checking.called(what, self.problem), f"[{n}, {k}]" if k > 1 else f"[{n}] or [{n}, 1]"
        checking.check_real(what, values, wanted)
        if values.shape != (n, k) and (k > 1 or values.shape != (n,)):
            raise ValueError(f"{what} must have shape {wanted}, got {tuple(values.shape)}")
        return values.reshape(n, k).to(self.x)


class FixedBasis(Model):
    """Fixed basis: the amplitudes move.  The state is u in an orthonormal basis of the span of the bumps.

    One singular value decomposition of the basis serves the whole evolution: the rates are one matrix product of u_t at
    the points.  In the orthonormal coordinates [r, K] magnitudes are those of u; the amplitudes themselves cancel.

    Attributes
    ----------
    state : Tensor
        [r K], the initial state.
    fit_error : float
        Relative misfit of the initial values.
    """

    def __init__(
        self, space: Space, rows: Tensor, x: Tensor, weights: Tensor, ridge: float = 0.0, start: Tensor | None = None
    ):
        super().__init__(space, rows, x, weights, start)
        basis = space.basis(x, rows, self.problem.want)
        weighted = self.root * basis.value
        length = torch.linalg.vector_norm(weighted, dim=0)
        length = length.clamp_min(1e-6 * float(length.max()))
        left, self.to_amplitudes, self.to_coordinates = self.factorised(weighted / length, length)  # [M, r], [r, M]
        self.rank = left.shape[1]
        self.project = (self.root * left).T.contiguous()  # [r, N]
        self.basis = basis.map(self.combined)
        self.stacked = _stack(self.basis)
        self.lifted, self.lift_size = bool(self.lift.value.any()), self.rms(self.lift.value)
        self.state = self.solve(self.start)
        misfit = self.start - self.basis.value @ self.state.view(self.rank, -1)
        self.fit_error = self.rms(misfit) / (self.size or 1.0)

    def factorised(self, unit: Tensor, length: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Orthonormal columns [N, r] of bumps ``unit * length`` at the points; from coordinates to amplitudes; back."""
        left, singular, right = torch.linalg.svd(unit, full_matrices=False)
        keep = singular > _CUT * singular[0]
        to_amplitudes = (right[keep].T / singular[keep]) / length[:, None]
        return left[:, keep], to_amplitudes, singular[keep, None] * right[keep] * length

    def combined(self, part: Tensor) -> Tensor:
        """The bumps' [N, M, ...] in the orthonormal basis, [N, r, ...]."""
        return torch.einsum("nm...,mr->nr...", part, self.to_amplitudes)

    def solve(self, values: Tensor) -> Tensor:
        """The state [r K] of the function nearest to ``values`` [N, K]."""
        return (self.project @ values).flatten()

    def jet(self, y: Tensor) -> Jet:
        """Jet of u at the points."""
        n, d, want = len(self.x), self.x.shape[1], self.problem.want
        parts = (self.stacked @ y.view(self.rank, -1)).view(-1, n, self.layout.outputs)
        gradient = second = None
        if len(parts) > 1:
            gradient = parts[1 : d + 1].permute(1, 2, 0)
        if want == "laplacian":
            second = parts[d + 1]
        elif len(parts) > d + 1:
            second = parts[d + 1 :].permute(1, 2, 0)
            second = second.unflatten(-1, (d, d)) if want == "hessian" else second
        jet = Jet(want, parts[0], gradient, second)
        return jet + self.lift if self.lifted else jet

    def slope(self, t: float, y: Tensor) -> Tensor:
        self.stages += 1
        return self.solve(self.rhs(t, self.jet(y)))

    def norm(self, y: Tensor) -> float:
        """A lower bound of the root mean square of u: that of its part in the bumps, minus that of the lift."""
        return float(torch.linalg.vector_norm(y)) - self.lift_size

    def distance(self, a: Tensor, b: Tensor) -> float:
        return float(torch.linalg.vector_norm(a - b))

    def settle(self, y: Tensor) -> Tensor:
        return y

    def report(self, t: float, y: Tensor) -> Report:
        u = self.jet(y)
        rate = self.rhs(t, u)
        slope = self.solve(rate)
        residual = rate - self.basis.value @ slope.view(self.rank, -1)
        rows, rates = self.start_rows.clone(), torch.zeros_like(self.start_rows)
        rows[:, self.layout.amplitude] = self.amplitudes(y)
        rates[:, self.layout.amplitude] = self.amplitudes(slope)
        return Report(rows, rates, self.rms(u.value), self.rms(rate), self.rms(residual))

    def amplitudes(self, y: Tensor) -> Tensor:
        """[M, K]."""
        return self.to_amplitudes @ y.view(self.rank, -1)

    def recalled(self, y: Tensor, rows: Tensor) -> tuple[Tensor, bool]:
        """The state that an earlier session stored as ``y`` and these rows, and whether its coordinates are the same.

        The coordinates belong to a singular value decomposition that is computed anew.  Another backend, processor or
        LAPACK may give other singular vectors, or another number of them.  The amplitudes then determine the
        coordinates.
        """
        amplitudes = rows[:, self.layout.amplitude]
        if y.shape == self.state.shape and torch.equal(self.amplitudes(y), amplitudes):
            return y, True
        return (self.to_coordinates @ amplitudes).flatten(), False

    # --- linearisation ---------------------------------------------------------------------------

    def linearise(self, t: float, jet: Jet, function=None) -> tuple[Tensor, list[list[Coefficients]]]:
        """rhs [K, N], or another function of x and a jet, at a jet; and its coefficients by equation and output."""
        whole = function or (lambda x, u: self.problem.rhs(x, u, t))
        block = Block(self.problem.name, self.x, self.problem.want, lambda u: whole(self.x, u), 1.0)
        rhs, by_equation = linearise(block, (jet,), {})
        return rhs, [by_output for (by_output,) in by_equation]

    def operator(self, coefficients: list[list[Coefficients]]) -> Tensor:
        """The matrix [r K, r K] of the linear operator with these coefficients, projected."""
        k, r = self.layout.outputs, self.rank
        A = self.x.new_zeros(r, k, r, k)
        for e, by_output in enumerate(coefficients):
            for o, (c0, c1, c2) in enumerate(by_output):
                image = torch.zeros_like(self.basis.value)
                for c, part in ((c0, self.basis.value), (c1, self.basis.gradient), (c2, self.basis.second)):
                    if c is not None:
                        image += (c.unsqueeze(1) * part).flatten(2).sum(-1) if c.dim() > 1 else c[:, None] * part
                A[:, e, :, o] = self.project @ image
        return A.view(r * k, r * k)

    def jacobian(self, t: float, y: Tensor) -> Tensor:
        """Derivative [r K, r K] of :meth:`slope` by the state."""
        return self.operator(self.linearise(t, self.jet(y))[1])

    def random_jet(self, seed: int) -> Jet:
        generator = torch.Generator().manual_seed(seed)
        n, k, d = len(self.x), self.layout.outputs, self.x.shape[1]
        level = WANTS.index(self.problem.want)
        shapes = [(n, k), (n, k, d), (n, k, *second_shape(level, d))][: min(level, DIAGONAL) + 1]
        parts = (torch.randn(s, dtype=torch.float64, generator=generator).to(self.x) for s in shapes)
        return Jet(self.problem.want, *parts)


def _stack(basis: Jet) -> Tensor:
    """Value, gradient and second derivatives one below the other: [parts N, r]."""
    parts = [basis.value[None]]
    if basis.gradient is not None:
        parts.append(basis.gradient.movedim(-1, 0))
    if basis.second is not None:
        second = basis.second if basis.second.dim() > 2 else basis.second[..., None]
        parts.append(second.flatten(2).movedim(-1, 0))
    return torch.cat(parts).flatten(0, 1).contiguous()


class MovingBasis(Model):
    """Moving basis: all parameters move.  The state is the rows, flat.

    Every right-hand side needs its own least-squares solution, with a ridge, as the rates of bumps that do the same
    work are undetermined.  Along periodic axes centres that leave the domain return at the other end; in more than one
    dimension bumps then stay unrotated.
    """

    def __init__(self, space: Space, rows: Tensor, x: Tensor, weights: Tensor, ridge: float):
        super().__init__(space, rows, x, weights)
        self.ridge = ridge
        columns = torch.ones(self.layout.shape_columns, dtype=torch.bool)
        columns[self.layout.skew] = not self.problem.periodic_axes
        self.moving = columns.nonzero()[:, 0].to(x.device)
        Psi, _ = space.design(x, rows)
        targets = (self.root * self.start).unbind(1)
        amplitudes = [ridge_solve((self.root * Psi).T, target, _FIT_RIDGE)[0] for target in targets]
        rows = rows.clone()
        rows[:, self.layout.amplitude] = torch.stack(amplitudes, 1)
        self.state = rows.flatten()
        misfit = self.start - Psi @ rows[:, self.layout.amplitude]
        self.fit_error = self.rms(misfit) / (self.size or 1.0)

    def rows(self, y: Tensor) -> Tensor:
        return y.view(-1, self.layout.columns)

    def jet(self, y: Tensor) -> Jet:
        return self.space.jet(self.x, self.rows(y), self.problem.want)

    def solve(self, values: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Rates [M, columns] of the rows for u_t nearest to ``values`` [N, K], and the weighted residual [K N]."""
        rows = self.rows(self.state if y is None else y)
        h, k = rows[:, self.layout.amplitude], self.layout.outputs
        Psi, D = self.space.design(self.x, rows)
        Psi, D = self.root * Psi, self.root[..., None] * D[..., self.moving]
        n, bumps = Psi.shape
        A = Psi.new_zeros(bumps, k + len(self.moving), k, n)
        for o in range(k):
            A[:, o, o] = Psi.T
            A[:, k:, o] = (h[:, o, None] * D).permute(1, 2, 0)
        rates, residual, *_ = ridge_solve(A.view(-1, k * n), (self.root * values).T.flatten(), self.ridge)
        rates = rates.view(bumps, -1)
        whole = torch.zeros_like(rows)
        whole[:, self.layout.amplitude], whole[:, self.moving] = rates[:, :k], rates[:, k:]
        return whole, residual

    def slope(self, t: float, y: Tensor) -> Tensor:
        self.stages += 1
        return self.solve(self.rhs(t, self.jet(y)), y)[0].flatten()

    def norm(self, y: Tensor) -> float:
        return self.rms(self._value(y))

    def distance(self, a: Tensor, b: Tensor) -> float:
        return self.rms(self._value(a) - self._value(b))

    def _value(self, y: Tensor) -> Tensor:
        return self.space.jet(self.x, self.rows(y), "value").value

    def settle(self, y: Tensor) -> Tensor:
        rows, (lo, hi, _), domain = self.rows(y).clone(), self.space.frame, self.problem.domain.to(y)
        for j in self.problem.periodic_axes:
            half, middle = 0.5 * (hi[j] - lo[j]), 0.5 * (hi[j] + lo[j])
            centre = middle + half * torch.tanh(rows[:, j])
            centre = domain[0, j] + torch.remainder(centre - domain[0, j], domain[1, j] - domain[0, j])
            rows[:, j] = bounded_atanh((centre - middle) / half)
        return rows.flatten()

    def report(self, t: float, y: Tensor) -> Report:
        u = self.jet(y)
        rate = self.rhs(t, u)
        rates, residual = self.solve(rate, y)
        size = float(torch.linalg.vector_norm(residual))
        return Report(self.rows(y).clone(), rates, self.rms(u.value), self.rms(rate), size)

    def recalled(self, y: Tensor, rows: Tensor) -> tuple[Tensor, bool]:
        """As for a fixed basis; here the coordinates are the rows."""
        if y.shape != self.state.shape:
            raise ValueError(f"the state has shape {tuple(y.shape)}, not {tuple(self.state.shape)}")
        return y, True


class _Fit(TrainedShapes):
    """The initial values as a least-squares problem for the shapes, in the form for variable projection."""

    ranks = ALONE

    def __init__(self, space: Space, rows: Tensor, x: Tensor, weights: Tensor):
        model = Model(space, rows, x, weights)
        self.space, self.layout, self.x, self.root = space, model.layout, x, model.root
        self.target = (model.root * model.start).T.flatten()
        self.guesses = x.new_empty(0)  # only the shapes are unknown
        self.edges = EdgeLimit(x, space.frame, self.layout)

    def linearise(self):
        return -self.target, None

    def design(self, rows: Tensor, coefficients, derivatives: bool = False):
        k = self.layout.outputs
        Psi, D = self.space.design(self.x, rows)
        Psi = (self.root * Psi).T
        A = Psi.new_zeros(len(rows), k, k, len(self.x))
        for o in range(k):
            A[:, o, o] = Psi
        return A.view(len(rows) * k, -1), self.root[..., None] * D if derivatives else []

    def shape_jacobian(self, D: Tensor, amplitudes: Tensor) -> Tensor:
        return torch.einsum("nmq,mk->mqkn", D, amplitudes).reshape(-1, len(self.target))


def fitted_shapes(space: Space, rows: Tensor, x: Tensor, weights: Tensor) -> Tensor:
    """Rows [M, columns] with shapes trained on the initial values by variable projection; unrotated if periodic."""
    fit = _Fit(space, rows, x, weights)
    model = Separable(fit, _FIT_RIDGE)
    point = model.start(rows)
    steps = descend(model, point, damping=1.0, step_cap=_FIT_CAP)
    for better in itertools.islice(steps, _FIT_STEPS):
        point = better
        if not math.isfinite(point.loss) or point.loss < _FIT_RIDGE**2 * model.reference_loss:
            break
    return model.rows(point)


__all__ = ["FixedBasis", "Model", "MovingBasis", "Report", "fitted_shapes"]
