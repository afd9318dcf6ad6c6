"""A trained net with smooth bumps added to it: all amplitudes and unknowns solved for once more."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.jet import Jet
from ..nets.bumpnet import BumpNet
from ..nets.smooth import smooth_net
from ..problems.base import Problem
from . import arguments
from .balance import factors_of, squares
from .elimination import Fit, kinds_of, ridge_solve
from .residual import Block, System

#: Sharpness of the added bumps, relative to the default.
_SHARPNESS = 0.3
#: Weight of the squares of the scaled amplitudes: the best smooth fits cancel, and a larger one forbids that.
_RIDGE = 1e-26
#: Gauss-Newton steps, halvings of one, and further ones with its matrix.
_STEPS, _HALVINGS, _CHORDS = 4, 6, 6
#: They are done when the rows are as predicted, up to a share of the predicted ones or of those at the start.
_OFF_BEST, _OFF_FIRST = 1e-2, 1e-6
#: Or up to rounding: so much of the sizes of what is added up in them.
_ROUNDING = 1e-14
#: An unknown is not determined if its effect differs by less than this share from what u and others can make.
_UNDETERMINED = 1e-5

#: A random change of the rows changes u at most about five times as much as usual in all of docs/trust_table.md,
#: and more than 1e4 times where a side has no condition.
AMPLIFIED = 1e3
UNDETERMINED = (
    "equation and conditions do not determine u, or data that hardly differ make quite another u: look for a condition"
    " that is missing, and for a wrong sign"
)


class Enriched:
    """u as a trained net and added bumps, in float64, with amplitudes and unknowns of its own."""

    def __init__(self, problem: Problem, boundary: str, nets: Sequence[BumpNet], unknowns: Tensor):
        self.problem, self.boundary, self.nets, self.unknowns = problem, boundary, nets, unknowns

    def bumps(self, x: Tensor, want: str) -> Jet:
        """The jet of the net, without boundary values."""
        jets = [net.jet(x.to(net.rows), want=want) for net in self.nets]
        return functools.reduce(Jet.__add__, jets)

    def jet(self, x: Tensor, want: str) -> Jet:
        """The jet of u."""
        return self.problem.extend(lambda x: self.bumps(x, want), x, want, self.boundary)

    def state(self, x: Tensor, want: str) -> Jet:
        """The jet of u at points of any dtype and device, as the start of a window of time."""
        return self.jet(x.to(self.nets[0].rows), want).map(lambda part: part.to(x))

    def systems(self, rows: list[Block]) -> list[System]:
        named = dict(zip(self.problem.unknowns, self.unknowns.tolist(), strict=True))
        return [System(rows, net, named) for net in self.nets]

    def moved(self, amplitudes: Tensor, unknowns: Tensor) -> Enriched:
        """The same with other amplitudes, flat, and unknowns."""
        nets, at = [], 0
        for net in self.nets:
            rows, layout = net.rows.detach().clone(), net.layout
            stop = at + len(rows) * layout.outputs
            rows[:, layout.amplitude] = amplitudes[at:stop].view(len(rows), -1)
            nets.append(BumpNet.from_rows(rows, net.frame, net.domain, net.tied, maps=net.maps))
            at = stop
        return Enriched(self.problem, self.boundary, nets, unknowns)

    def amplitudes(self) -> Tensor:
        """Of all nets, flat."""
        return torch.cat([net.amplitudes.detach().flatten() for net in self.nets])


@dataclass
class Rows:
    """Rows of a problem at the points of a fit or of a check."""

    blocks: list[Block]
    system: System

    def groups(self) -> list[slice]:
        """The rows of every equation of every block."""
        found, at = [], 0
        for block, equations in zip(self.blocks, self.system.equations, strict=True):
            for _ in range(equations):
                found.append(slice(at, at + len(block.x)))
                at += len(block.x)
        return found

    def weights(self, balance: Tensor) -> Tensor:
        """Factors [R] of the rows, from those of their groups."""
        return torch.cat([w.expand(g.stop - g.start) for w, g in zip(balance, self.groups(), strict=True)])


@dataclass
class EnrichedFit:
    """An enrichment, solved."""

    u: Enriched
    balance: Tensor  # factors of the groups of rows
    converged: bool
    deviations: Tensor  # [T] standard deviations of the unknowns
    rows: list[Block]
    weights: Tensor  # of the rows, all of them
    factors: Fit  # of their last linearisation
    norms: tuple[float, float]  # of the rows at the start and at the end

    def amplified(self, x: Tensor) -> float:
        """How much a small random change of the rows changes u at ``x``, beside what bumps of such rows are high.

        It is immense where equation and conditions leave something of u open.
        """
        generator, n = torch.Generator().manual_seed(0), len(self.factors.length)
        change, mixed = (torch.randn(size, dtype=torch.float64, generator=generator) for size in (len(self.weights), n))
        by_change = self.factors.solve(change.to(x) / change.norm() @ self.factors.basis)
        largest, usual = (self._values(x, h) for h in (by_change, mixed.to(x) / mixed.norm() / self.factors.length))
        return float((largest / usual).nan_to_num(0.0).max())

    def _values(self, x: Tensor, change: Tensor) -> Tensor:
        """Norms [K] of what so much more of the amplitudes adds to u at ``x``."""
        amplitudes = change[: len(self.u.amplitudes())]
        u, zero = (self.u.moved(c * amplitudes, self.u.unknowns).jet(x, "value").value for c in (1.0, 0.0))
        return torch.linalg.vector_norm(u - zero, dim=0)


def jets_of(systems: Sequence[System], nets: Sequence[BumpNet]) -> list[tuple[Jet, ...]]:
    """Of the sum of some nets, at the points of all blocks."""
    parts = [system.jets(net.rows.detach()) for system, net in zip(systems, nets, strict=True)]
    return [
        tuple(functools.reduce(Jet.__add__, js) for js in zip(*by_net, strict=True))
        for by_net in zip(*parts, strict=True)
    ]


def fitted(u: Enriched, blocks: list[Block], steps: int = _STEPS) -> EnrichedFit:
    """The best amplitudes and unknowns, by at most so many Gauss-Newton steps; a linear problem takes one."""
    systems = u.systems(blocks)
    rows = Rows(systems[0].blocks, systems[0])
    balance = weights = fit = None
    converged, first = False, None
    residual = systems[0].residual(jets_of(systems, u.nets), u.unknowns)
    for _ in range(steps):
        jets = jets_of(systems, u.nets)
        _, coefficients = systems[0].linearise(jets, u.unknowns)
        A = torch.cat([s.design(n.rows.detach(), coefficients)[0] for s, n in zip(systems, u.nets, strict=True)])
        if weights is None:
            balance = factors_of(systems[0], squares(A, systems[0]))
            weights = rows.weights(balance)
            residual = residual * weights
            first = float(residual.norm())
        if len(u.unknowns):
            A = torch.cat([A, systems[0].sensitivity(jets, u.unknowns)])
        step, predicted, fit, _ = ridge_solve(A.mul_(weights), -residual, _RIDGE, kinds=kinds_of(systems[0], len(A)))
        h, moved = u.amplitudes(), None
        rounding = _ROUNDING * float(torch.linalg.vector_norm((h + step[: len(h)]).abs() @ A[: len(h)].abs()))
        enough = max(_OFF_BEST * float(predicted.norm()), _OFF_FIRST * first, rounding)
        for halving in range(_HALVINGS):
            shorter = 0.5**halving * step
            moved = u.moved(h + shorter[: len(h)], u.unknowns + shorter[len(h) :])
            there = systems[0].residual(jets_of(systems, moved.nets), moved.unknowns) * weights
            if bool(torch.isfinite(there).all()) and float(there.norm()) < float(residual.norm()):
                break
        else:  # nothing to be gained
            gain = float(residual.norm()) - float(predicted.norm())
            converged = bool(torch.isfinite(residual).all()) and gain <= max(0.1 * float(residual.norm()), rounding)
            break
        off, u, residual = (there - predicted).norm(), moved, there
        for _ in range(_CHORDS if halving == 0 else 0):  # with the same factors, which cost nearly nothing
            converged = float(off) <= enough
            if converged:
                break
            inside = residual @ fit.basis
            h, step, predicted = u.amplitudes(), fit.solve(-inside), residual - fit.basis @ inside
            moved = u.moved(h + step[: len(h)], u.unknowns + step[len(h) :])
            there = systems[0].residual(jets_of(systems, moved.nets), moved.unknowns) * weights
            if not float(there.norm()) < float(residual.norm()):
                break
            off, u, residual = (there - predicted).norm(), moved, there
        if converged:
            break
    deviations = _deviations(fit, residual, rows.groups(), len(u.unknowns))
    norms = first, float(residual.norm())
    return EnrichedFit(u, balance, converged, deviations, blocks, weights, fit, norms)


def _deviations(fit: Fit, residual: Tensor, groups: list[slice], unknowns: int) -> Tensor:
    """Standard deviations [T] of the unknowns, from the misfit of every group of rows (White's sandwich estimator).

    They are infinite where neither equation nor data determine an unknown, as a product of two unknowns does not.
    """
    if not unknowns:
        return residual.new_empty(0)
    n = fit.upper.shape[0]
    own = torch.linalg.svd(fit.upper[n - unknowns :, n - unknowns :])
    undetermined = (own.Vh[own.S < _UNDETERMINED].abs() > 0.1).any(0)
    wanted = torch.eye(n, dtype=residual.dtype, device=residual.device)[:, n - unknowns :]
    G = fit.basis @ torch.linalg.solve_triangular(fit.upper.T, wanted, upper=False) / fit.length[n - unknowns :]
    total = residual.new_zeros(unknowns)
    leverage = fit.basis.square().sum(1)
    for g in groups:
        free = max(1.0, g.stop - g.start - float(leverage[g].sum()))
        total += G[g].square().sum(0) * float(residual[g].square().sum()) / free
    return torch.where(undetermined, math.inf, total.sqrt())


def added_bumps(net: BumpNet, domain: Tensor, number: int, seed: int) -> BumpNet:
    """About ``number`` smooth bumps on a grid over the domain, as dense along each axis as those of ``net``."""
    widths = arguments.widths(domain, net)
    spacing = (math.prod(widths) / number) ** (1 / len(widths))
    counts = tuple(max(3, round(width / spacing)) for width in widths)
    added = smooth_net(counts, domain, net.layout.outputs, _SHARPNESS, seed, net.rows.device)
    return added if net.maps is None else BumpNet.from_rows(added.rows, added.frame, added.domain, maps=net.maps)


def in_float64(net: BumpNet) -> BumpNet:
    """A copy in float64."""
    frame, domain = net.frame.double(), net.domain.double()
    return BumpNet.from_rows(net.rows.detach().double(), frame, domain, net.tied, maps=net.maps)


__all__ = [
    "AMPLIFIED",
    "UNDETERMINED",
    "Enriched",
    "EnrichedFit",
    "Rows",
    "added_bumps",
    "fitted",
    "in_float64",
    "jets_of",
]
