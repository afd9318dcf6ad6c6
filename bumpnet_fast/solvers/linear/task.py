"""The work of a linear solve: a basis of smooth bumps, chosen and not trained, and the amplitudes over it."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...core.functional import bump_basis, bump_jet
from ...core.jet import Jet
from ...core.maps import Maps
from ...nets.bumpnet import BumpNet
from ...nets.smooth import Shape, smooth_net, smooth_rows
from ...problems import sampling
from ...problems.base import Problem
from .. import arguments, refine
from ..elimination import Fit, Projected, kinds_of, triangular_solve
from ..enrichment import AMPLIFIED, UNDETERMINED
from ..estimate import jump
from ..residual import System, balance_by, blocks
from ..starting import Start, first_rows
from ..task import Task
from .method import POINTS

#: Points of the held-out residual; of these at most a half where sources peak.
_HELD_OUT = 600
#: Steps of Newton's method at most, halvings of one, and a gain that is none.
_STEPS, _HALVINGS, _GAIN = 30, 8, 1e-9
#: It ends where the rows differ from the predicted ones by no larger share: that share squared is left to be gained.
_AS_PREDICTED = 0.1
#: Points at which two solutions are compared, and at fewer it is seen whether u is determined.
_COMPARED, _FEWER = 600, 256


@dataclass
class Candidate:
    """The best amplitudes over one basis, and how good they are."""

    shape: Shape
    rows: Tensor  # [M, columns], with the amplitudes
    frame: Tensor
    unknowns: Tensor
    parts: tuple[float, ...]  # root mean squares of the weighted residual, by block, at points not solved on
    fit: Fit
    predicted: Tensor | None = None  # [R], the rows that the linearised equations leave, of a nonlinear problem

    @property
    def held_out(self) -> float:
        """Root mean square of the weighted residual of all blocks at points that nothing was solved on."""
        return math.hypot(*self.parts)

    def key(self) -> float:
        """What is compared; infinite for what is not finite."""
        return self.held_out if math.isfinite(self.held_out) else math.inf


class FrozenTask(Task):
    """A problem that is solved for amplitudes and unknowns over smooth bases of growing size.

    Parameters
    ----------
    problem, boundary, group
        As for :func:`~bumpnet_fast.solvers.solve`.
    bumps : int
        Of the first basis, about.
    shape : Shape
        Of the first basis.
    ridge : float
        Weight of the squares of the scaled amplitudes.
    seed : int
        Of points and bases.
    start : callable or Solution, optional
        A first u, for nonlinear problems.

    Attributes
    ----------
    bumps : int
        Bumps that the present points are for.
    best : Candidate or None
        The present solution.
    """

    def __init__(
        self, problem: Problem, bumps: int, shape: Shape, boundary: str | None, ridge: float, seed: int,
        start: Start | None = None, condition_weight: float = 1.0, device: torch.device | str = "cpu",
        group: Any = None,
    ):  # fmt: skip
        self.widths, self.ridge, self.start = alike(problem), ridge, start
        self.bumps, self.best = bumps, None
        self.basis_seed, self._factor = seed, float(condition_weight)
        counts = shape.counts(bumps, self.widths)
        net = smooth_net(counts, problem.domain, problem.outputs, shape.sharpness, seed, torch.device(device))
        super().__init__(problem, net, boundary, group)
        self.posed, self.doubts = problem, jump(self.contradictions)
        self.maps: Maps | None = None
        self._held_out_at = self._seen = None
        self._tried: dict[tuple, Candidate] = {}
        self._amplified_of: tuple[Candidate | None, float] = None, 0.0
        self.resize(bumps)

    @torch.no_grad()
    def remap(self, maps: Maps | None, bumps: int) -> None:
        """Take other maps of the coordinates, and points for so many bumps; there is no solution yet."""
        if self.best is not None and not self.is_linear():
            net = self.net
            self.start = lambda x: self._values(net, x)
        self.maps, self.best, self._held_out_at, self._seen = maps, None, None, None
        self.net = self._net_of(self.net.rows.detach(), self.net.frame)
        self.resize(bumps)

    @torch.no_grad()
    def resize(self, bumps: int) -> None:
        """Take points for so many bumps."""
        self.bumps, self.problem = bumps, self.posed
        points = POINTS * bumps if self.problem.points is None else None
        self.collocate(points, "sobol", self._factor, seed=self.basis_seed + 1)
        if self.maps is not None:
            x = self.maps.inverse(self.x)
            x = x[arguments.inside(self.problem, x)]
            self.place(x, self.maps.weights(x))
        _ = self.system  # whose balance is that of both
        self._linearised, self._tried, balance = None, {}, self.balance
        if self._held_out_at is None or self.problem is not self.posed:
            self.held = self._held_out()
        balance_by(self.held.blocks, balance)

    def _held_out(self) -> System:
        """Rows at points that nothing is solved on; half of them where sources or coefficients peak."""
        problem, named = self.problem, self.named_unknowns()
        if problem.points is not None:
            return self.system
        if self._held_out_at is None:
            few = (1,) * (self.net.layout.dim - 1)
            x = sampling.interior(problem.domain, (_HELD_OUT, *few), "sobol", self.basis_seed + 2)
            x = x[arguments.inside(problem, x)].to(self.device)
            peaked = refine.where_data_peak(problem, self.net, named, refine.PEAKED, _HELD_OUT // 2, self.basis_seed)
            self._held_out_at, self._held_out_weights = torch.cat([x, peaked]), None
            if self.maps is not None:
                dense = self.maps.inverse(x)
                dense = dense[arguments.inside(problem, dense)]
                even = x.new_ones(len(self._held_out_at))
                self._held_out_at = torch.cat([self._held_out_at, dense])
                self._held_out_weights = torch.cat([even, self.maps.weights(dense)])
        about = self.condition_weight, self._held_out_weights, self.ranks
        return System(
            blocks(problem, self.boundary, self.counts, self._held_out_at, *about), self.net, named, self.ranks
        )

    # --- the amplitudes over a basis -------------------------------------------------------------

    @torch.no_grad()
    def candidate(self, shape: Shape) -> Candidate:
        """The best amplitudes and unknowns over the basis of a shape.

        A nonlinear problem is linearised at the present solution, for all shapes alike; see :meth:`polished`.
        """
        key = self._key(shape)
        if key not in self._tried:
            self._tried[key] = self._solved(shape)
        return replace(self._tried[key], shape=shape)

    def tried(self, shape: Shape) -> bool:
        """Whether the candidate of a shape is known, and costs nothing."""
        return self._key(shape) in self._tried

    def _key(self, shape: Shape) -> tuple[tuple[int, ...], float]:
        """What makes a basis of the present size: steps in the shape may lead to the same one."""
        return shape.counts(self.bumps, self.widths), round(math.log(shape.sharpness), 6)

    def _solved(self, shape: Shape) -> Candidate:
        layout, domain = self.net.layout, self.problem.domain
        basis = smooth_rows(shape.counts(self.bumps, self.widths), domain, layout, shape.sharpness, self.basis_seed)
        rows, frame = (part.to(self.device) for part in basis)
        system = _framed(self.system, frame)
        if self.best is None and not self.is_linear():
            first = first_rows(self.problem, self._net_of(rows, frame), self.boundary, self.start)
            return self._by_newton(shape, rows if first is None else first, frame)
        if self._linearised is None:
            self._linearised = self._linearise()
        target, coefficients, sensitivity = self._linearised
        A = torch.cat([system.design(rows, coefficients)[0], sensitivity])
        inner, fit = triangular_solve(A, target, self.ridge, self.ranks, kinds_of(system, len(A)))
        amplitudes = rows[:, layout.amplitude]
        amplitudes.copy_(inner[: amplitudes.numel()].view_as(amplitudes))
        found = self._measured(shape, rows, frame, self.unknowns + inner[amplitudes.numel() :], fit)
        return found if self.is_linear() else replace(found, predicted=inner @ A - target)

    def _linearise(self) -> tuple[Tensor, list, Tensor]:
        """Rows [R] that the linearised equations have to give, their coefficients, and derivatives by the unknowns.

        For a linear problem that is at u = 0, and else at the present solution.
        """
        if self.is_linear():
            offset, coefficients = self.system.linearise()
            return -offset, coefficients, offset.new_empty(0, len(offset))
        jets = _framed(self.system, self.best.frame).jets(self.best.rows)
        offset, coefficients = self.system.linearise(jets, self.unknowns)
        sensitivity = self.system.sensitivity(jets, self.unknowns)
        return self.system.applied(coefficients, jets) - offset, coefficients, sensitivity

    @torch.no_grad()
    def polished(self, candidate: Candidate) -> Candidate:
        """A candidate of a nonlinear problem after Newton steps of its own; the same one if they would gain nothing."""
        if self.is_linear():
            return candidate
        self.unknowns = candidate.unknowns
        if candidate.predicted is not None:
            residual, _ = self._residual(_framed(self.system, candidate.frame), candidate.rows)
            if self._as_predicted(residual, candidate.predicted):
                return candidate
        found = self._by_newton(candidate.shape, candidate.rows, candidate.frame)
        return found if found.key() <= candidate.key() else candidate

    def _by_newton(self, shape: Shape, rows: Tensor, frame: Tensor) -> Candidate:
        system, rows = _framed(self.system, frame), rows.clone()
        if not self.problem.unknowns:
            return self._measured(shape, rows, frame, self.unknowns, self._newton(system, rows))
        system.guesses = self.unknowns
        model = Projected(system, self.ridge)
        point = model.start(rows)
        amplitudes = rows[:, self.net.layout.amplitude]
        amplitudes.copy_(point.inner[: amplitudes.numel()].view_as(amplitudes))
        return self._measured(shape, rows, frame, model.unknowns(point), point.fit)

    def _newton(self, system: System, rows: Tensor) -> Fit:
        """Give the rows, in place, the best amplitudes for their shapes, by Gauss-Newton steps from those they have."""
        amplitudes = rows[:, self.net.layout.amplitude]
        fit, (_, loss) = None, self._residual(system, rows)
        for _ in range(_STEPS):
            jets = system.jets(rows)
            offset, coefficients = system.linearise(jets, self.unknowns)
            A, _ = system.design(rows, coefficients)
            if not self.ranks.every(bool(torch.isfinite(A).all() & torch.isfinite(offset).all())):
                break
            target = system.applied(coefficients, jets) - offset
            inner, fit = triangular_solve(A, target, self.ridge, self.ranks, kinds_of(system, len(A)))
            if not fit.left < loss * (1 - _GAIN):
                break
            before, step = amplitudes.clone(), inner.view_as(amplitudes) - amplitudes
            found, best, done = 0.0, loss, False
            for halving in range(_HALVINGS):
                torch.add(before, step, alpha=0.5**halving, out=amplitudes)
                residual, there = self._residual(system, rows)
                done = not halving and self._as_predicted(residual, inner @ A - target)
                if there < best:
                    found, best = 0.5**halving, there
                elif found:
                    break
                if done:
                    break
            amplitudes.copy_(before + found * step)
            loss = best
            if done or not found:
                break
        if fit is None:  # nothing is finite there
            n = amplitudes.numel()
            fit = Fit(rows.new_empty(0, n), torch.eye(n).to(rows), rows.new_ones(n), self.ranks)
        return fit

    def _as_predicted(self, residual: Tensor, predicted: Tensor) -> bool:
        """Whether rows differ so little from what was predicted that another step of Newton's would gain nothing."""
        sizes = torch.stack([(residual - predicted).square().sum(), predicted.square().sum()])
        off, size = self.ranks.total(sizes).tolist()
        return off <= _AS_PREDICTED**2 * size

    def _residual(self, system: System, rows: Tensor) -> tuple[Tensor, float]:
        """All rows for the bumps ``rows``, and the sum of their squares; infinite if it is not finite."""
        residual = system.residual(system.jets(rows), self.unknowns)
        found = float(self.ranks.total(residual @ residual))
        return residual, found if math.isfinite(found) else math.inf

    def _measured(self, shape: Shape, rows: Tensor, frame: Tensor, unknowns: Tensor, fit: Fit) -> Candidate:
        held = _framed(self.held, frame)
        residual = held.residual(held.jets(rows), unknowns)
        sizes = [equations * len(block.x) for block, equations in zip(held.blocks, held.equations, strict=True)]
        squares = torch.stack([part @ part for part in residual.split(sizes)])
        if not self.ranks.alone:  # every rank has other conditions
            squares = torch.stack([squares[0], squares[1:].sum()])
        parts = tuple(self.ranks.total(squares).sqrt().tolist())
        return Candidate(shape, rows, frame, unknowns, parts, fit)

    def _net_of(self, rows: Tensor, frame: Tensor) -> BumpNet:
        return BumpNet.from_rows(rows, frame, self.problem.domain, maps=self.maps)

    def take(self, candidate: Candidate) -> None:
        """Make a candidate the present solution."""
        self.best, self.unknowns = candidate, candidate.unknowns
        self.net = self._net_of(candidate.rows, candidate.frame)
        self._system, self._error = _framed(self.system, candidate.frame), None
        if not self.is_linear():
            self._linearised, self._tried = None, {}

    # --- as the work of a run: the last size counts, and not the one with the smallest loss -------

    def snapshot(self) -> dict[str, Tensor]:
        return {}

    def net_at(self, now: dict[str, Tensor] | None) -> BumpNet:
        return self.net

    def goes_on(self) -> bool:
        return False

    def measure(self, now: dict[str, Tensor] | None) -> float | None:
        """Nothing: it would take longer than small sizes do."""
        return None

    # --- what is compared ------------------------------------------------------------------------

    def rounding(self) -> float:
        """What rounding leaves of the held-out residual, about: amplitudes cancel, and so do the terms of a lift."""
        assert self.best is not None
        rows, system = self.best.rows, _framed(self.held, self.best.frame)
        jets = None if self.is_linear() else system.jets(rows)
        offset, coefficients = system.linearise(jets, self.unknowns)
        A, _ = system.design(rows, coefficients)
        sizes = rows[:, self.net.layout.amplitude].flatten().abs() @ A.abs_() + offset.abs()
        return torch.finfo(torch.float64).eps * float(self.ranks.total(sizes @ sizes)) ** 0.5

    def u(self) -> Tensor:
        """The present solution [n, K] at :meth:`places_to_compare`."""
        assert self.best is not None
        return self._places().u(self.best.rows, self.best.frame)

    def _values(self, net: BumpNet, x: Tensor) -> Tensor:
        return self.problem.extend(lambda at: net.jet(at, "value"), x, "value", self.boundary).value.detach()

    def places_to_compare(self) -> Tensor:
        """Points [n, d]: spread evenly, and those of the held-out residual."""
        return self._places().x

    def _places(self) -> Seen:
        if self._seen is None:
            few = (_COMPARED,) + (1,) * (self.net.layout.dim - 1)
            x = sampling.interior(self.problem.domain, few, "sobol", self.basis_seed + 4)
            x = x[arguments.inside(self.problem, x)].to(self.device)
            self._seen = Seen(self.problem, self.boundary, self.maps, torch.cat([x, self.held.blocks[0].x]))
        return self._seen

    def doubt(self) -> str:
        """Why no estimate can be relied upon, in words; empty if nothing speaks against it."""
        if self.problem.points is not None:
            return "the equation holds at given points only, and says nothing about u between them"
        if not bool(self.u().any()):
            return "u is zero everywhere: another solution may exist, or a source that no point meets"
        return self.doubts or (UNDETERMINED if self._amplified() > AMPLIFIED else "")

    def _amplified(self) -> float:
        """How much a small random change of the rows changes u, beside what bumps of such rows are high."""
        if self._amplified_of[0] is not self.best:
            fit, generator = self.best.fit, torch.Generator().manual_seed(0)
            change, mixed = (
                torch.randn(len(fit.length), dtype=torch.float64, generator=generator).to(self.device) for _ in range(2)
            )
            by_change = fit.solve(change / self.system.size**0.5)
            both = torch.stack([by_change, mixed / mixed.norm() / fit.length])
            largest, usual = self._places().changes(self.best.rows, self.best.frame, both, _FEWER).norm(dim=1)
            self._amplified_of = self.best, float((largest / usual).nan_to_num(0.0).max())
        return self._amplified_of[1]


class Seen:
    """u at some points, for many bases and amplitudes: what the points alone say is known.

    Parameters
    ----------
    problem, boundary
        As for :func:`~bumpnet_fast.solvers.solve`.
    maps : Maps or None
        Of the coordinates of the bumps.
    x : Tensor
        [n, d].
    """

    def __init__(self, problem: Problem, boundary: str, maps: Maps | None, x: Tensor):
        hard = boundary == "hard"
        self.x, self.outputs = x, problem.outputs
        self.compose = problem.compose(x, "value") if hard else lambda v: v
        places = [x + x.new_tensor(shift) for shift in problem.shifts()] if hard else [x]
        self.xi = places if maps is None else [maps.at(place).xi for place in places]

    def u(self, rows: Tensor, frame: Tensor) -> Tensor:
        """u [n, K] of bumps."""
        return self.compose(*(bump_jet(xi, rows, frame, "value") for xi in self.xi)).value

    def changes(self, rows: Tensor, frame: Tensor, inner: Tensor, few: int) -> Tensor:
        """What u changes by at the first ``few`` points, [k, few, K], if amplitudes and unknowns change by ``inner``.

        ``inner`` is [k, M K + T].
        """
        amplitudes = inner[:, : len(rows) * self.outputs].unflatten(1, (len(rows), self.outputs))
        by_place = [torch.zeros(len(inner), *self.x.shape[:1], self.outputs).to(self.x) for _ in self.xi]
        for change, xi in zip(by_place, self.xi, strict=True):
            change[:, :few] = bump_basis(xi[:few], rows, frame).value @ amplitudes

        def composed(parts: Sequence[Tensor]) -> Tensor:
            return self.compose(*(Jet("value", part) for part in parts)).value[:few]

        nothing = composed([torch.zeros_like(self.x[:, :1]) for _ in self.xi])
        return torch.stack([composed(parts) - nothing for parts in zip(*by_place, strict=True)])


def _framed(system: System, frame: Tensor) -> System:
    """The same rows for a net of another frame."""
    framed = copy.copy(system)
    framed.frame = frame
    return framed


def alike(problem: Problem) -> tuple[float, ...]:
    """Widths of the domain, with a time as long as the space is wide: they have units of their own."""
    lo, hi = problem.domain
    widths = (hi - lo).clone()
    if problem.time is not None and len(widths) > 1:
        widths[problem.time] = torch.cat([widths[: problem.time], widths[problem.time + 1 :]]).log().mean().exp()
    return tuple(widths.tolist())


__all__ = ["Candidate", "FrozenTask", "alike"]
