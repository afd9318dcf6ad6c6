"""How good an evolution is: the same problem solved once more without bumps, on two grids that have to agree.

u is given by its values at the nodes of a grid, equidistant along periodic axes and Chebyshev's along the others.  Such
a solution has nothing in common with the bumps: neither their span, nor their points, nor their steps in time.  What
it differs by is the error, if a finer grid with a smaller tolerance in time confirms it.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...core.jet import Jet
from ...core.reference import DIAGONAL, GRADIENT, WANTS
from ...problems.evolution.base import EvolutionProblem
from .. import arguments
from ..estimate import ErrorEstimate
from ..grad_mode import differentiating
from ..residual import Block, linearise
from ..threads import few_threads
from .integrators import Exponential, Rosenbrock, ScipyMarcher, StepTooSmall
from .method import OverTime

#: Nodes of the first grid along an axis relative to the bumps, by kind of axis, and how much finer every next one is.
_PERIODIC, _HELD, _FINER = 1.0, 1.4, 1.5
#: Fewest nodes along an axis, by dimension; most grids, and most unknowns whose matrices are factorised.
_FEWEST, _GRIDS, _DENSE = (24, 12, 8), 6, 2500
#: Points for every node at which the start is fitted.
_FINE = 4
#: Share of the time that one grid may take.
_PART = 0.6
#: Equal intervals of time at whose ends u is compared.
_INTERVALS = 11
#: Points along an axis where u is compared, by dimension.
_COMPARED = (512, 36, 12)
#: Tolerance in time of the first grid relative to u; later ones relative to the error, between two bounds.
_FIRST, _SHARE, _TIGHTEST = 1e-6, 0.01, 1e-12
#: Two grids agree if they differ by this share of their difference to u: less than slow convergence would feign.
_AGREE = 0.15
#: The start and its rate are seen by a grid if it misses no more of them: root mean square, and the largest.
_MISSED, _LARGEST_MISSED = 0.05, 0.25
#: An error relative to u as small as this is rounding.
_ROUNDING = 1e-10
#: Points along an axis where start and coefficients are looked at, by dimension, and powers for the largest rate.
_LOOKED_AT, _POWERS = (2048, 96, 24), 12
#: A difference that is rounding, in words.
SMALL = "the difference is rounding"
#: Flops in a second, products of matrices in an exponential, and steps that are expected with the first tolerance.
_SPEED, _PRODUCTS, _STEPS = 15e9, 30, 35


class _TooLong(Exception):
    """The time for an estimate is over."""


@dataclass(frozen=True)
class EvolutionEstimate(ErrorEstimate):
    """The estimated error of an evolution at its last time, and on the way there.

    Attributes
    ----------
    times, over_time : tuple of float
        Times between the first and the last one, and the relative L2 error there (the largest of all outputs).  It
        includes what is lost by interpolation between output times.
    rel_l2, max, reliable, reason, seconds
        As of every :class:`~bumpnet_fast.solvers.ErrorEstimate`.
    """

    times: tuple[float, ...] = ()
    over_time: tuple[float, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """What it says, as plain values."""
        return super().as_dict() | {"times": list(self.times), "over_time": list(self.over_time)}


@dataclass(frozen=True)
class _Axis:
    """The nodes of one axis, and the functions that are 1 at one of them."""

    lo: float
    hi: float
    n: int
    periodic: bool

    @functools.cached_property
    def nodes(self) -> Tensor:
        i = torch.arange(self.n, dtype=torch.float64)
        if self.periodic:
            return self.lo + (self.hi - self.lo) * i / self.n
        x = 0.5 * (self.lo + self.hi) - 0.5 * (self.hi - self.lo) * torch.cos(math.pi * i / (self.n - 1))
        x[0], x[-1] = self.lo, self.hi
        return x

    @property
    def weights(self) -> Tensor:
        """Weights of the nodes, up to a factor."""
        if self.periodic:
            return torch.ones(self.n, dtype=torch.float64)
        return torch.sin(math.pi * torch.arange(self.n, dtype=torch.float64) / (self.n - 1)).abs()

    @functools.cached_property
    def derivatives(self) -> tuple[Tensor, Tensor]:
        """The matrices [n, n] of the first and the second derivative at the nodes."""
        if not self.periodic:
            angle = math.pi * torch.arange(self.n, dtype=torch.float64) / (self.n - 1) / 2
            apart = 2 * torch.sin(angle[:, None] + angle) * torch.sin(angle[:, None] - angle)  # no cancellation
            sign = self._signs()
            first = sign[None, :] / sign[:, None] / (apart + torch.eye(self.n, dtype=torch.float64))
            first.fill_diagonal_(0)
            first -= torch.diag(first.sum(1))
            first *= 2 / (self.hi - self.lo)
            return first, first @ first
        modes = torch.fft.fftfreq(self.n, 1 / self.n, dtype=torch.float64) * (2 * math.pi / (self.hi - self.lo))
        odd = modes.clone()
        if self.n % 2 == 0:
            odd[self.n // 2] = 0
        columns = torch.fft.fft(torch.eye(self.n, dtype=torch.float64), dim=0)
        first, second = (torch.fft.ifft(f[:, None] * columns, dim=0).real.contiguous() for f in (1j * odd, -(modes**2)))
        return first, second

    def _signs(self) -> Tensor:
        """Barycentric weights of Chebyshev's nodes."""
        sign = 1.0 - 2.0 * (torch.arange(self.n, dtype=torch.float64) % 2)
        sign[0], sign[-1] = 0.5 * sign[0], 0.5 * sign[-1]
        return sign

    def interpolation(self, x: Tensor) -> Tensor:
        """The matrix [len(x), n] that gives values at ``x`` from those at the nodes."""
        if self.periodic:
            half = math.pi * ((x[:, None] - self.nodes) / (self.hi - self.lo))
            below = self.n * (torch.sin(half) if self.n % 2 else torch.tan(half))
            hit = torch.sin(half).abs() < 1e-14
            return torch.where(hit, torch.ones_like(half), torch.sin(self.n * half) / torch.where(hit, 1.0, below))
        apart = x[:, None] - self.nodes
        hit = apart == 0
        weights = self._signs() / torch.where(hit, torch.ones_like(apart), apart)
        weights = torch.where(hit.any(1, keepdim=True), hit.to(weights), weights)
        return weights / weights.sum(1, keepdim=True)


class _Grid:
    """A problem on a grid: u_t at the nodes, from the values there.

    Parameters
    ----------
    problem : EvolutionProblem
        Gives the axes, the equation, and the nodes at which u is given: where its distance is zero.
    counts : tuple of int
        Nodes along the axes.
    """

    def __init__(self, problem: EvolutionProblem, counts: tuple[int, ...]):
        lo, hi = problem.domain.tolist()
        self.problem, self.counts, self.outputs = problem, counts, problem.outputs
        self.axes = [_Axis(lo[j], hi[j], n, j in problem.periodic_axes) for j, n in enumerate(counts)]
        self.x = torch.cartesian_prod(*(axis.nodes for axis in self.axes)).reshape(-1, len(counts))
        self.given = torch.zeros(len(self.x), self.outputs, dtype=torch.float64)
        self.free = torch.ones(len(self.x), dtype=torch.bool)
        if problem.held_axes:
            distance = problem.distance(self.x).abs()
            self.free = distance > 1e-12 * float(distance.max())
            self.given += problem.lift(self.x).reshape(len(self.x), -1)
            self.given[self.free] = 0
        self.start = self._start()
        self.size = len(self.start)

    def _start(self) -> Tensor:
        """The start at the free nodes, by least squares: where it has a kink, its values there are less accurate."""
        inner = [slice(None) if axis.periodic else slice(1, -1) for axis in self.axes]
        usual = torch.zeros(self.counts, dtype=torch.bool)
        usual[tuple(inner)] = True
        if not torch.equal(usual.flatten(), self.free):
            return self.problem.initial(self.x).reshape(len(self.x), -1).double()[self.free].flatten()
        fine = [_Axis(axis.lo, axis.hi, _FINE * axis.n, axis.periodic) for axis in self.axes]
        # along periodic axes between the nodes, as a start that is not periodic has its jump at one of them
        ticks = [a.nodes + 0.5 * (a.hi - a.lo) / a.n if a.periodic else a.nodes for a in fine]
        x = _points(ticks)
        start = self.problem.initial(x).reshape(len(x), -1).double() - self.problem.lift(x).reshape(len(x), -1)
        start = start.reshape(*(axis.n for axis in fine), -1)
        for j, (axis, finer, part) in enumerate(zip(self.axes, fine, inner, strict=True)):
            basis = axis.interpolation(ticks[j])[:, part]
            weighted = basis.T * finer.weights
            matrix = torch.linalg.solve(weighted @ basis, weighted)
            start = torch.tensordot(matrix, start, ([1], [j])).movedim(0, j)
        lift = self.problem.lift(self.x).reshape(len(self.x), -1)[self.free]
        return (start.reshape(-1, self.outputs) + lift).flatten()

    def values(self, y: Tensor) -> Tensor:
        """u [N, K] at all nodes."""
        u = self.given.clone()
        u[self.free] = y.view(-1, self.outputs)
        return u

    def along(self, u: Tensor, j: int, matrix: Tensor) -> Tensor:
        """Apply a matrix along an axis to [N, K]."""
        if len(self.counts) == 1:
            return matrix @ u
        whole = u.reshape(*self.counts, -1)
        return torch.tensordot(matrix, whole, ([1], [j])).movedim(0, j).reshape(len(u), -1)

    def jet(self, u: Tensor) -> Jet:
        """The jet at the nodes of values [N, K] there."""
        want = self.problem.want
        level, d = WANTS.index(want), len(self.counts)
        if level < GRADIENT:
            return Jet(want, u)
        first = [self.along(u, j, axis.derivatives[0]) for j, axis in enumerate(self.axes)]
        gradient = torch.stack(first, -1)
        if level < DIAGONAL:
            return Jet(want, u, gradient)
        unmixed = [self.along(u, j, axis.derivatives[1]) for j, axis in enumerate(self.axes)]
        if want == "laplacian":
            return Jet(want, u, gradient, sum(unmixed[1:], unmixed[0]))
        if want == "diagonal":
            return Jet(want, u, gradient, torch.stack(unmixed, -1))
        second = u.new_empty(*u.shape, d, d)
        for i in range(d):
            for j in range(d):
                second[..., i, j] = unmixed[i] if i == j else self.along(first[i], j, self.axes[j].derivatives[0])
        return Jet(want, u, gradient, second)

    def rate(self, t: float, y: Tensor) -> Tensor:
        """u_t [N, K] at all nodes."""
        return self.problem.rhs(self.x, self.jet(self.values(y)), t).reshape(len(self.x), -1)

    def slope(self, t: float, y: Tensor) -> Tensor:
        return self.rate(t, y)[self.free].flatten()

    def jacobian(self, t: float, y: Tensor) -> Tensor:
        """The derivative of :meth:`slope` by the values at the free nodes."""
        problem = self.problem
        block = Block(problem.name, self.x, problem.want, lambda u: problem.rhs(self.x, u, t), 1.0)
        _, by_equation = linearise(block, (self.jet(self.values(y)),), {})
        free, k = self.free, self.outputs
        n = int(free.sum())
        matrix = torch.zeros(n, k, n, k, dtype=torch.float64)
        for e, (by_output,) in enumerate(by_equation):
            for o, (c0, c1, c2) in enumerate(by_output):
                part = torch.zeros(n, n, dtype=torch.float64)
                if c0 is not None:
                    part.diagonal().add_(c0[free])
                for (level, *axes), matrix_of in self.operators.items():
                    c = c1 if level == 1 else c2
                    if c is not None:
                        c = c[(slice(None), *axes)] if c.dim() > 1 else c
                        if bool(c.any()):
                            part.addcmul_(c[free, None], matrix_of)
                matrix[:, e, :, o] = part
        return matrix.view(n * k, n * k)

    @functools.cached_property
    def operators(self) -> dict[tuple[int, ...], Tensor]:
        """Matrices over the free nodes by order of the derivative and axes (none for the Laplacian)."""
        want, d = self.problem.want, len(self.counts)
        level, found = WANTS.index(want), {}
        eye = [torch.eye(n, dtype=torch.float64) for n in self.counts]

        def product(by: dict[int, Tensor]) -> Tensor:
            whole = functools.reduce(torch.kron, [by.get(j, eye[j]) for j in range(d)])
            return whole[self.free][:, self.free]

        if level >= GRADIENT:
            found |= {(1, j): product({j: axis.derivatives[0]}) for j, axis in enumerate(self.axes)}
        if level >= DIAGONAL:
            unmixed = [product({j: axis.derivatives[1]}) for j, axis in enumerate(self.axes)]
            if want == "laplacian":
                found[(2,)] = sum(unmixed[1:], unmixed[0])
            elif want == "diagonal":
                found |= {(2, j): m for j, m in enumerate(unmixed)}
            else:
                firsts = [axis.derivatives[0] for axis in self.axes]
                found |= {
                    (2, i, j): unmixed[i] if i == j else product({i: firsts[i], j: firsts[j]})
                    for i in range(d) for j in range(d)
                }  # fmt: skip
        return found

    def seen_from(self, ticks: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
        """The map from values [N, K] at the nodes to those [n, K] at products of coordinates along each axis."""
        matrices = [axis.interpolation(x) for axis, x in zip(self.axes, ticks, strict=True)]

        def values(u: Tensor) -> Tensor:
            whole = u.reshape(*self.counts, -1)
            for j, matrix in enumerate(matrices):
                whole = torch.tensordot(matrix, whole, ([1], [j])).movedim(0, j)
            return whole.reshape(-1, u.shape[1])

        return values


def _ticks(problem: EvolutionProblem, n: int) -> list[Tensor]:
    """So many coordinates along each axis, evenly spread."""
    shares = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    return [lo + (hi - lo) * shares for lo, hi in problem.domain.T.tolist()]


def _points(ticks: Sequence[Tensor]) -> Tensor:
    """All products [n, d] of coordinates along each axis."""
    return torch.cartesian_prod(*ticks).reshape(-1, len(ticks))


# --- in time -------------------------------------------------------------------------------------


class _Clock:
    """The time that is left."""

    def __init__(self, seconds: float):
        self.until, self.seconds = time.process_time() + seconds, seconds

    def left(self) -> float:
        return self.until - time.process_time()

    def check(self, more: float = 0.0) -> None:
        if self.left() < more:
            raise _TooLong


def _marcher(
    grid: _Grid, horizon: float, dt: float, tolerance: float, size: float, linear: bool, longest: float | None,
    clock: _Clock,
) -> Any:  # fmt: skip
    """What advances the values at the nodes: the cheapest of an exponential, an implicit and an explicit method."""
    y, n = grid.start, grid.size
    slope = grid.slope(0.0, y)
    began = time.process_time()
    radius = _radius(grid, y, slope)
    once = max((time.process_time() - began) / (_POWERS + 1), 2e-5)
    cube, sharper = n**3 / _SPEED, _FIRST / tolerance
    least = 0.0 if longest is None else horizon / longest
    explicit = 12 * once * max(_STEPS * sharper**0.125, radius * horizon / 6, least)
    implicit = max(_STEPS * sharper**0.2, least) * (0.7 * cube + 15 * once + 4e-4) if n <= _DENSE else math.inf
    exact = 2 * cube * (_PRODUCTS + max(0.0, math.log2(max(radius * dt, 1)))) if linear and n <= _DENSE else math.inf
    clock.check(0.5 * min(explicit, implicit, exact))
    if exact <= min(explicit, implicit):
        return _Exact(Exponential(grid.jacobian(0.0, y), grid.slope(0.0, torch.zeros_like(y))))
    if implicit <= explicit:
        return Rosenbrock(grid.slope, grid.jacobian, horizon, tolerance * size, longest)
    return ScipyMarcher("dop853", grid.slope, grid.jacobian, horizon, tolerance, size * math.sqrt(n), longest)


class _Exact:
    """The exponential of a linear equation."""

    def __init__(self, method: Exponential):
        self.method = method

    def advance(self, t: float, y: Tensor, until: float, watch: Callable[[float, Tensor], None]) -> Tensor:
        y = self.method.step(t, y, until - t)
        watch(until, y)
        return y


def _radius(grid: _Grid, y: Tensor, slope: Tensor) -> float:
    """About the largest rate of the equation at the start."""
    v, found = torch.randn(len(y), dtype=torch.float64, generator=torch.Generator().manual_seed(0)), 0.0
    small = 1e-6 * max(float(y.abs().max()), 1e-3)
    for _ in range(_POWERS):
        v = v / max(float(v.norm()), 1e-300) * math.sqrt(len(y))
        v = (grid.slope(0.0, y + small * v) - slope) / small
        found = float(v.norm()) / math.sqrt(len(y))
    return found if math.isfinite(found) else math.inf


def _solved(
    grid: _Grid, times: Sequence[float], tolerance: float, size: float, linear: bool, longest: float | None,
    clock: _Clock,
) -> list[Tensor]:  # fmt: skip
    """u [N, K] at the nodes, at each of the times."""

    def watch(t: float, y: Tensor) -> None:
        clock.check()
        if not bool(torch.isfinite(y).all()):
            raise StepTooSmall

    y, t, found = grid.start, 0.0, []
    marcher = _marcher(grid, times[-1], times[0], tolerance, size, linear, longest, clock)
    for until in times:
        y = marcher.advance(t, y, until, watch)
        t = until
        found.append(grid.values(y))
    return found


# --- the estimate --------------------------------------------------------------------------------


@differentiating
def estimated(run: Any, seconds: float = math.inf) -> EvolutionEstimate:
    """The error of an evolution; it never raises, and changes nothing.

    Parameters
    ----------
    run : Evolution
        What was computed.
    seconds : float
        Of the processor, about, that it may take.
    """
    began = time.process_time()
    try:
        with torch.no_grad(), few_threads(0):
            found = _estimated(run, seconds)
    except Exception as error:  # a finished evolution is worth more than its estimate
        text = f"{type(error).__name__}: {error}".split("\n")[0]
        found = _unknown(run, f"it could not be computed: {text}")
    return replace(found, seconds=time.process_time() - began)


def _unknown(run: Any, reason: str) -> EvolutionEstimate:
    nothing = (math.nan,) * run.problem.outputs
    return EvolutionEstimate(nothing, nothing, False, reason)


def _estimated(run: Any, seconds: float) -> EvolutionEstimate:
    problem, clock = run.problem, _Clock(seconds)
    ticks = _ticks(problem, _COMPARED[min(len(problem.lower), 3) - 1])
    last = float(run.times[-1])
    times = [last * i / _INTERVALS for i in range(1, _INTERVALS)] + [last]
    u = run.on(_points(ticks))
    own = torch.stack([u(t) for t in times])
    if not bool(torch.isfinite(own).all()):
        return _unknown(run, "the solution is not finite")
    if last == 0:
        return _judged(own[-1:], [problem.initial(_points(ticks)).reshape(own[:1].shape)] * 2, lambda: "")
    norms = own.square().mean((1, 2)).sqrt()
    size = max(float(norms.min()), 1e-6 * float(norms.max())) or 1.0
    before = found = over_time = None
    tolerance, spent, trouble = _FIRST, 0.0, "no time is left"
    for i in range(_GRIDS):
        began = time.process_time()
        try:
            clock.check(1.5 * spent)
            grid, own_clock = _Grid(problem, _counts(run, _FINER**i)), _Clock(min(clock.left(), _PART * seconds))
            over_time = over_time or OverTime.of(functools.partial(grid.slope, y=grid.start), last)
            linear = run.method == "expm" and over_time.other is None
            nodal = _solved(grid, times, tolerance, size, linear, over_time.longest, own_clock)
        except _TooLong:
            trouble = f"it takes more than {seconds:.2g} s; run.estimate_error() takes the time that it needs"
            if before is None and clock.left() > 0:  # too coarse a grid can take steps without end
                continue
            break
        except StepTooSmall:
            trouble, before = "the solution on a grid without bumps is not finite", None
            continue
        spent = time.process_time() - began
        values = torch.stack([*map(grid.seen_from(ticks), nodal)])
        if before is not None:
            found = _judged(own, [before, values], lambda grid=grid: _unseen(grid, last), times)
            if found.reliable or found.reason.startswith(SMALL):
                return found
        off = (values[-1] - own[-1]).square().mean().sqrt() / size
        tolerance = min(_FIRST, max(_TIGHTEST, _SHARE * float(off)))
        before = values
    if found is None and before is not None:
        found = _judged(own, [before, before], lambda: trouble, times)
    return found or _unknown(run, trouble)


def _counts(run: Any, finer: float) -> tuple[int, ...]:
    """Nodes along each axis."""
    problem, bumps = run.problem, len(run.net.rows)
    widths = arguments.widths(problem.domain, run.net)
    spacing = (math.prod(widths) / bumps) ** (1 / len(widths))
    fewest = _FEWEST[min(len(widths), len(_FEWEST)) - 1]
    by_axis = (_PERIODIC if j in problem.periodic_axes else _HELD for j in range(len(widths)))
    return tuple(
        math.ceil(finer * max(fewest, kind * width / spacing)) for kind, width in zip(by_axis, widths, strict=True)
    )


def _unseen(grid: _Grid, last: float) -> str:
    """What of the start and of the equation falls between the nodes; nothing if the grid sees all of it."""
    problem = grid.problem
    ticks = _ticks(problem, _LOOKED_AT[min(len(grid.counts), 3) - 1])
    x, start, seen = _points(ticks), grid.values(grid.start), grid.seen_from(ticks)
    if _missed(problem.initial(x).reshape(len(x), -1), seen(start)):
        return "the start is too fine for the grids: it has jumps or peaks"
    here, there = (functools.partial(_of_constant, problem, at, grid.jet(start)) for at in (grid.x, x))
    if any(_missed(there(c, t), seen(here(c, t))) for c in (0.0, 1.0) for t in (0.0, last)):
        return "the coefficients of the equation are too fine for the grids: they have jumps or peaks"
    return ""


def _of_constant(problem: EvolutionProblem, x: Tensor, like: Jet, constant: float, t: float) -> Tensor:
    """rhs [n, K] where u and its derivatives all have one value: what it depends on besides u."""
    u = like.map(lambda part: part.new_full((len(x), *part.shape[1:]), constant))
    return problem.rhs(x, u, t).reshape(len(x), -1)


def _missed(wanted: Tensor, seen: Tensor) -> bool:
    """Whether values [n, K] differ much from those that a grid sees."""
    off, rounding = wanted - seen, 1e-9 * float(wanted.abs().max())
    spread = (wanted - wanted.mean(0)).abs().amax(0) + rounding
    size = wanted.square().mean(0).sqrt() + rounding
    much = (off.square().mean(0).sqrt() > _MISSED * size) | (off.abs().amax(0) > _LARGEST_MISSED * spread)
    return bool(much.any())


def _judged(
    own: Tensor, grids: Sequence[Tensor], doubt: Callable[[], str], times: Sequence[float] = ()
) -> EvolutionEstimate:
    """The estimate from u [T, n, K] and its like on two grids, and whether it can be relied upon."""
    coarse, fine = grids

    def rms(values: Tensor) -> Tensor:
        return values.square().mean(-2).sqrt()

    size = rms(fine)  # [T, K]
    least = 1e-12 * size.amax(1, keepdim=True)
    size = torch.where(size > least, size, torch.ones_like(size))  # an output that is zero has an absolute error
    size[:-1] = torch.maximum(size[:-1], 1e-3 * size.amax(0))  # on the way u may pass through zero
    error, apart = rms(fine - own) / size, rms(fine - coarse) / size
    rel_l2, agreed = error[-1], apart[-1] <= torch.clamp_min(_AGREE * error[-1], _ROUNDING)
    largest = (fine[-1] - own[-1]).abs().amax(0)
    over = error.amax(1)
    if not bool(torch.isfinite(torch.cat([rel_l2, apart[-1]])).all()):
        reason = "on grids without bumps u grows beyond all numbers: the equation may have a wrong sign"
        rel_l2, reliable = torch.full_like(rel_l2, math.nan), False
        largest = torch.full_like(largest, math.nan)
    elif not bool(agreed.all()):
        rel_l2, largest = torch.maximum(rel_l2, rms(coarse[-1] - own[-1]) / size[-1]), largest
        reliable, reason = False, f"two grids without bumps differ by {float(apart[-1].max()):.1g}"
    elif float(rel_l2.max()) < _ROUNDING:
        reliable, reason = False, f"{SMALL}, so the error is at most about that"
    else:
        reason = doubt()
        reliable = not reason
        reason = reason or "two solutions on grids without bumps agree"
    return EvolutionEstimate(
        tuple(rel_l2.tolist()), tuple(largest.tolist()), reliable, reason,
        times=tuple(times[:-1]), over_time=tuple(over[:-1].tolist()),
    )  # fmt: skip


__all__ = ["SMALL", "EvolutionEstimate", "estimated"]
