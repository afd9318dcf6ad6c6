"""Second-order training: variable projection and joint Levenberg-Marquardt.

Both minimise the sum of squares of the rows of a :class:`~bumpnet_fast.solvers.system.System` by
damped Gauss-Newton steps with geodesic acceleration.  Variable projection steps in the shapes
only: for every shape the amplitudes, in which a linear problem is linear, are solved for exactly.
All linear algebra is in float64 whatever the net's dtype.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..functional import bump_jet
from ..layer import BumpNet
from ..problems.base import Problem
from ..problems.sampling import lattice
from .system import System, blocks, check_fit, collocation

METHODS = ("varpro", "lm")

#: The error is measured every so many iterations (it costs about a tenth of one).
_MEASURE_EVERY = 10
#: Iterations over which the relative decrease of the loss is judged.
_PATIENCE = 10
#: A loss this small, relative to that of u = 0, is rounding.
_FLOOR = 1e-28
#: Marquardt's scaling forgets large diagonals by this factor per iteration.
_FADE = 0.9
#: Damping at which no step is left to try.
_DAMPING_MOST = 1e12
#: Step, relative to the whole, over which the second directional derivative is measured.
_PROBE = 0.1
#: Longest acceleration, relative to the velocity, that is believed.
_ACCELERATION_MOST = 0.4
#: Damping of the amplitudes relative to that of the shapes, where they are stepped together.
_AMPLITUDE_DAMPING = 1e-2
#: Rows of a block of the Gram matrix; leaving out the blocks above the diagonal saves a third.
_GRAM_BLOCK = 48
#: Entries of the Jacobian that make a thread worth its while.
_ENTRIES_PER_THREAD = 2 * 10**6


@dataclass(frozen=True)
class Progress:
    """What a callback is told after every iteration; 0 is the start with the best amplitudes."""

    iteration: int
    seconds: float
    loss: float
    rel_l2: float | None


@dataclass
class Solution:
    """A trained net and how it came about.

    Attributes
    ----------
    net : BumpNet
        The net that was given, now with the best rows found.
    problem, boundary
        As given to :func:`solve`.
    history : list of dict
        ``iteration``, ``seconds``, ``loss``, and ``rel_l2`` in the iterations where it was measured.
    loss : float
        Mean square of the scaled residual, plus weighted conditions and the ridge.
    rel_l2, max_error : float or None
        Against the exact solution on a regular grid over the domain (101 x 101 in 2D), if it is known.
    seconds : float
        Wall time of :func:`solve`.
    iterations : int
        Accepted steps.
    stop_reason : str
        "converged", "iterations", "time", "interrupted", "loss floor" or "no further decrease".
    """

    net: BumpNet
    problem: Problem
    boundary: str
    history: list[dict[str, Any]] = field(repr=False)
    loss: float
    rel_l2: float | None
    max_error: float | None
    seconds: float
    iterations: int
    stop_reason: str

    def predict(self, x: Tensor) -> Tensor:
        """The solution [N, K] at the points ``x`` [N, d], boundary composition included."""
        if self.boundary == "soft":
            return self.net(x)
        return self.problem.compose(x, "value")(self.net.jet(x, order=0)).value


def solve(
    problem: Problem,
    net: BumpNet,
    *,
    method: str = "varpro",
    boundary: str = "hard",
    points: int | tuple[int, ...] | Tensor | None = None,
    sampling: str = "grid",
    iterations: int = 100,
    max_seconds: float | None = None,
    tolerance: float = 1e-4,
    ridge: float = 1e-12,
    damping: float = 1.0,
    step_cap: float = 1.0,
    condition_weight: float = 1.0,
    seed: int = 0,
    callback: Callable[[Progress], Any] | None = None,
) -> Solution:
    """Train ``net``, in place, to solve ``problem``.

    Ctrl-C, or a callback that raises KeyboardInterrupt, ends the training; the best rows are kept.

    Parameters
    ----------
    problem : Problem
        What to solve.
    net : BumpNet
        With the problem's dimension, outputs and domain.  Its shapes are the start.
    method : str
        "varpro" (linear problems; the amplitudes are eliminated) or "lm" (any; all parameters together).
    boundary : str
        "hard" builds the Dirichlet data into the solution, "soft" adds the problem's conditions as rows.
    points : int, tuple of int, or Tensor, optional
        Collocation points: how many, how many per axis, or [N, d].  Default: 5 per parameter.
    sampling : str
        "grid", "chebyshev", "sobol" or "uniform", see :func:`bumpnet_fast.problems.sampling.interior`.
    iterations : int
        At most so many steps.
    max_seconds : float, optional
        Stop after this time.
    tolerance : float
        Converged when the loss decreases by less than this fraction over ten iterations.
    ridge : float
        Tikhonov weight on the squares of the scaled amplitudes.
    damping : float
        Initial Levenberg-Marquardt damping, relative to the diagonal of the Gauss-Newton matrix.
    step_cap : float
        Largest change of a raw shape parameter in a step.
    condition_weight : float
        Factor on the weights of all conditions of the soft form.
    seed : int
        Of the scattered kinds of points.
    callback : callable, optional
        Called with a :class:`Progress` after every iteration.

    Returns
    -------
    Solution

    Raises
    ------
    ValueError
        Before any computing, if an argument is out of range, if net and problem do not fit, or if
        "varpro" is asked of a nonlinear problem; also if the residual is not finite at the start.

    Notes
    -----
    Variable projection: Golub and Pereyra (1973), with Kaufman's Jacobian (1975).  Damping:
    Marquardt's scaling, Nielsen's update.  Geodesic acceleration: Transtrum and Sethna,
    arXiv:1201.5885.  docs/choosing.md says what was measured.

    Examples
    --------
    >>> from bumpnet_fast import problems
    >>> problem = problems.get("poisson")
    >>> net = BumpNet(2, (4, 4), problem.domain, dtype="float64")
    >>> solution = solve(problem, net, iterations=20)
    >>> solution.rel_l2 < 1e-3, solution.predict(torch.zeros(5, 2, dtype=torch.float64)).shape
    (True, torch.Size([5, 1]))
    """
    start = time.perf_counter()
    _check_options(method, iterations, max_seconds, tolerance, ridge, damping, step_cap, condition_weight, seed)
    check_fit(problem, net, boundary)
    x, counts = collocation(problem, net, points, sampling, seed)
    with torch.no_grad(), _few_threads(net.rows.numel() * len(x)):
        system = System(blocks(problem, boundary, counts, x, float(condition_weight)), net)
        linear = system.is_linear() if problem.linear is None else problem.linear
        if method == "varpro" and not linear:
            raise ValueError(f"problem {problem.name!r} is nonlinear in u, which 'varpro' cannot do; use method='lm'")
        model = (_Separable if method == "varpro" else _Joint)(system, ridge)
        point = model.start(net.rows.detach().double())
        if not math.isfinite(point.loss):
            raise ValueError(f"the residual of problem {problem.name!r} is not finite at the start")
        run = _Run(model, _Error(problem, net, boundary), start, callback)
        reason = run.follow(point, damping, step_cap, iterations, max_seconds, tolerance)
        net.rows.copy_(model.rows(run.best))
        rel_l2, max_error = run.error(net.rows)
    seconds, steps = time.perf_counter() - start, run.history[-1]["iteration"] if run.history else 0
    return Solution(net, problem, boundary, run.history, run.best.loss, rel_l2, max_error, seconds, steps, reason)


def _check_options(method, iterations, max_seconds, tolerance, ridge, damping, step_cap, condition_weight, seed):
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    for name, value in (("iterations", iterations), ("seed", seed)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ValueError(f"{name} must be an integer of at least 0, got {value!r}")
    not_negative = {"tolerance": tolerance, "ridge": ridge}
    positive = {"damping": damping, "step_cap": step_cap, "condition_weight": condition_weight}
    positive |= {} if max_seconds is None else {"max_seconds": max_seconds}
    for name, value in (not_negative | positive).items():
        if not isinstance(value, (int, float)) or not 0 <= value < math.inf or (name in positive and value == 0):
            raise ValueError(f"{name} must be {'positive' if name in positive else 'at least 0'}, got {value!r}")


@contextlib.contextmanager
def _few_threads(entries: int) -> Iterator[None]:
    """Run torch on no more threads than matrices of this size can use, and on all of them afterwards.

    A small iteration is a hundred parallel regions of microseconds.  A second thread saves it a
    quarter on an idle machine, and makes it thirty times slower where another process holds the core.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(min(before, 1 + entries // _ENTRIES_PER_THREAD))
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Run:
    """Follows a sequence of accepted points, keeps the best and the history, and says why it ended."""

    def __init__(self, model, error: _Error, start: float, callback):
        self.model, self.error, self.start, self.callback = model, error, start, callback
        self.history: list[dict[str, Any]] = []

    def follow(self, point, damping, step_cap, iterations, max_seconds, tolerance) -> str:
        self.best = point
        floor = _FLOOR * self.model.reference_loss
        try:
            self._record(0, last=iterations == 0)
            steps = descend(self.model, point, damping, step_cap)
            for iteration in range(1, iterations + 1):
                if point.loss <= floor:
                    return "loss floor"
                if max_seconds is not None and time.perf_counter() - self.start >= max_seconds:
                    return "time"
                point = next(steps, None)
                if point is None:
                    return "no further decrease"
                self.best = point
                self._record(iteration, last=iteration == iterations)
                if iteration >= _PATIENCE:
                    earlier = self.history[-1 - _PATIENCE]["loss"]
                    if earlier - point.loss <= tolerance * earlier:
                        return "converged"
        except KeyboardInterrupt:
            return "interrupted"
        return "iterations"

    def _record(self, iteration: int, last: bool) -> None:
        rel_l2 = None
        if iteration % _MEASURE_EVERY == 0 or last:
            rel_l2, _ = self.error(self.model.rows(self.best))
        progress = Progress(iteration, time.perf_counter() - self.start, self.best.loss, rel_l2)
        entry = {"iteration": iteration, "seconds": progress.seconds, "loss": progress.loss}
        self.history.append(entry if rel_l2 is None else entry | {"rel_l2": rel_l2})
        if self.callback is not None:
            self.callback(progress)


class _Error:
    """Relative L2 and maximum error of the rows of a net on a lattice over the domain, or None and None."""

    def __init__(self, problem: Problem, net: BumpNet, boundary: str):
        x = lattice(problem.domain).to(net.rows.device)
        exact = problem.exact(x)
        self.exact = None if exact is None else exact.reshape(len(x), -1)
        self.compose = problem.compose(x, "value") if boundary == "hard" else None
        self.x, self.net = x.to(net.rows.dtype), net

    def __call__(self, rows: Tensor) -> tuple[float | None, float | None]:
        if self.exact is None:
            return None, None
        u = bump_jet(self.x, rows.to(self.x.dtype), self.net.frame, "value", tied=self.net.tied)
        u = u._map(Tensor.double)
        difference = (self.compose(u) if self.compose else u).value - self.exact
        size = float(torch.linalg.vector_norm(self.exact)) or 1.0
        return float(torch.linalg.vector_norm(difference)) / size, float(difference.abs().max())


# --- descent -------------------------------------------------------------------------------------


@dataclass
class _Point:
    """A place in parameter space with all that was computed there."""

    x: Tensor  # [P] unknowns
    loss: float
    residual: Tensor  # [R]
    amplitudes: Tensor  # [M, K]
    basis: Tensor | None = None  # [R, M K] orthonormal columns that the amplitudes reach


def descend(model, point: _Point, damping: float, step_cap: float) -> Iterator[_Point]:
    """Points of ever smaller loss by damped Gauss-Newton steps; ends when no step decreases the loss.

    The damping follows Nielsen's rule in the metric of Marquardt's scaling.  A step is the velocity
    of the damped normal equations plus half the geodesic acceleration, which follows the curved
    floor of the valley that the velocity is tangent to.  The first ``model.stepped`` unknowns are
    amplitudes: damped less, and not capped.
    """
    growth, scale = 2.0, None
    while True:
        J, gradient = model.jacobian(point)
        H = lower_gram(J)
        diagonal = H.diagonal().clone()
        scale = diagonal if scale is None else torch.maximum(diagonal, _FADE * scale)
        metric = scale.clamp_min(1e-14 * float(scale.max()))
        metric[: model.stepped] *= _AMPLITUDE_DAMPING
        while True:
            if damping > _DAMPING_MOST:
                return
            damped = H.clone()
            damped.diagonal().add_(metric, alpha=damping)
            L, failed = torch.linalg.cholesky_ex(damped)
            if failed:
                damping *= 10
                continue
            velocity = -torch.cholesky_solve(gradient[:, None], L)[:, 0]
            slope, size = float(gradient @ velocity), float(metric @ velocity.square())
            cap = min(1.0, step_cap / float(velocity[model.stepped :].abs().max()))
            velocity *= cap
            # (H + damping metric) velocity = -gradient spares H @ velocity.
            predicted = -2 * cap * slope + cap**2 * (slope + damping * size)
            step = velocity + _acceleration(model, point, J, L, metric, velocity)
            trial = model.evaluate(point.x + step)
            if math.isfinite(trial.loss) and trial.loss < point.loss:
                gain = min((point.loss - trial.loss) / max(predicted, 1e-300), 1.0)
                damping = max(damping * max(1 / 5, 1 - (2 * gain - 1) ** 3), 1e-15)
                growth, point = 2.0, trial
                break
            damping, growth = damping * growth, 2 * growth
        yield point


def lower_gram(J: Tensor) -> Tensor:
    """``J J^T`` [P, P] of J [P, R], only the lower triangle filled for certain: all that Cholesky reads.

    >>> J = torch.arange(200.0).reshape(100, 2)
    >>> torch.equal(lower_gram(J).tril(), (J @ J.T).tril())
    True
    """
    H = J.new_zeros(len(J), len(J))
    for start in range(0, len(J), _GRAM_BLOCK):
        stop = min(start + _GRAM_BLOCK, len(J))
        torch.mm(J[start:stop], J[:stop].T, out=H[start:stop, :stop])
    return H


def _acceleration(model, point: _Point, J: Tensor, L: Tensor, metric: Tensor, velocity: Tensor) -> Tensor | float:
    """Half the geodesic acceleration along ``velocity``, or 0 where it is too large to be trusted."""
    ahead = model.evaluate(point.x + _PROBE * velocity)
    curvature = (2 / _PROBE) * ((ahead.residual - point.residual) / _PROBE - velocity @ J)
    half = -0.5 * torch.cholesky_solve((J @ curvature)[:, None], L)[:, 0]
    sizes = [float((metric * v * v).sum()) ** 0.5 for v in (half, velocity)]
    return half if sizes[0] <= _ACCELERATION_MOST * sizes[1] else 0.0


class _Separable:
    """Rows ``A(shapes)^T h - b`` of a linear problem with the amplitudes h solved for (variable projection)."""

    def __init__(self, system: System, ridge: float):
        self.system, self.ridge, self.stepped = system, ridge, 0
        offset, self.coefficients = system.linearise()
        self.target = -offset
        self.reference_loss = float(offset @ offset)

    def start(self, rows: Tensor) -> _Point:
        return self.evaluate(rows[:, : self.system.layout.shape_columns].flatten())

    def _rows(self, x: Tensor, amplitudes: Tensor) -> Tensor:
        return torch.cat([x.view(-1, self.system.layout.shape_columns), amplitudes], 1)

    def rows(self, point: _Point) -> Tensor:
        return self._rows(point.x, point.amplitudes)

    def evaluate(self, x: Tensor) -> _Point:
        outputs = self.system.layout.outputs
        bumps = len(x) // self.system.layout.shape_columns
        A, _ = self.system.design(self._rows(x, x.new_zeros(bumps, outputs)), self.coefficients)
        h, residual, Q, loss = ridge_solve(A, self.target, self.ridge)
        return _Point(x, loss, residual, h.view(bumps, outputs), Q)

    def jacobian(self, point: _Point) -> tuple[Tensor, Tensor]:
        """Kaufman's Jacobian, transposed, [P, R], and the gradient of half the loss."""
        _, D = self.system.design(self.rows(point), self.coefficients, derivatives=True)
        J = self.system.shape_jacobian(D, point.amplitudes)
        J.addmm_(J @ point.basis, point.basis.T, alpha=-1)
        return J, J @ point.residual


class _Joint:
    """Rows of any problem over amplitudes and shapes together."""

    def __init__(self, system: System, ridge: float):
        self.system, self.ridge = system, ridge
        zero, _ = system.linearise()
        self.reference_loss = float(zero @ zero)

    def start(self, rows: Tensor) -> _Point:
        """The better one of the given rows and of those with amplitudes solved for on the linearised problem."""
        layout = self.system.layout
        shapes, given = rows.split([layout.shape_columns, layout.outputs], 1)
        self.stepped = given.numel()
        residual, coefficients = self.system.linearise(self.system.jets(rows))
        A, _ = self.system.design(rows, coefficients)
        change, *_ = ridge_solve(A, -residual, self.ridge)
        candidates = (given, given + change.view_as(given))
        points = [self.evaluate(torch.cat([h.flatten(), shapes.flatten()])) for h in candidates]
        return min(points, key=lambda p: p.loss if math.isfinite(p.loss) else math.inf)

    def _rows(self, x: Tensor) -> Tensor:
        layout, at = self.system.layout, self.stepped
        return torch.cat([x[at:].view(-1, layout.shape_columns), x[:at].view(-1, layout.outputs)], 1)

    def rows(self, point: _Point) -> Tensor:
        return self._rows(point.x)

    def evaluate(self, x: Tensor) -> _Point:
        residual = self.system.residual(self.system.jets(self._rows(x)))
        amplitudes = x[: self.stepped].view(-1, self.system.layout.outputs)
        return _Point(x, float(residual @ residual), residual, amplitudes)

    def jacobian(self, point: _Point) -> tuple[Tensor, Tensor]:
        """The Jacobian, transposed, [P, R], and the gradient of half the loss."""
        rows, at = self.rows(point), self.stepped
        _, coefficients = self.system.linearise(self.system.jets(rows))
        A, D = self.system.design(rows, coefficients, derivatives=True)
        J = A.new_empty(len(point.x), self.system.size)
        J[:at] = A
        self.system.shape_jacobian(D, point.amplitudes, out=J[at:])
        return J, J @ point.residual


def ridge_solve(A: Tensor, target: Tensor, ridge: float) -> tuple[Tensor, Tensor, Tensor, float]:
    """Least-squares solution h of ``A^T h = target`` with a ridge on the scaled amplitudes, by QR.

    The columns are scaled to unit length, but by no less than 1e-6 of the longest: a dying bump
    would otherwise get an amplitude without bound.  The ridge goes in as further rows, never through
    normal equations, which would square a condition number of 1e10.

    Parameters
    ----------
    A : Tensor
        [n, R], float64.
    target : Tensor
        [R].
    ridge : float
        Weight of the squares of the scaled amplitudes.

    Returns
    -------
    h : Tensor
        [n].
    residual : Tensor
        [R], ``A^T h - target``.
    Q : Tensor
        [R, n], its columns, continued by the ridge rows, are orthonormal and span the scaled A^T.
    loss : float
        Sum of squares of the residual and of the ridge rows.
    """
    n, R = A.shape
    length = torch.linalg.vector_norm(A, dim=1)
    length = length.clamp_min(1e-6 * float(length.max()))
    augmented = A.new_zeros(n, R + n)
    torch.div(A, length[:, None], out=augmented[:, :R])
    augmented[:, R:].diagonal().fill_(math.sqrt(ridge))
    Q, upper = torch.linalg.qr(augmented.T)
    y = target @ Q[:R]
    h = torch.linalg.solve_triangular(upper, y[:, None], upper=True)[:, 0] / length
    residual = Q @ y
    residual[:R] -= target
    return h, residual[:R], Q[:R], float(residual @ residual)
