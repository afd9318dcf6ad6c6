"""The bumps of a net as functions of space: periodic by images, exact on faces where u is given.

Along a periodic axis a bump is the sum of its copies a period apart.  There are so many that the next ones would be
constant to rounding over the domain, so values and derivatives match across the seam.  Along the other axes the
bumps are multiplied by the problem's distance, and its lift is added.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from numpy.polynomial.legendre import leggauss
from torch import Tensor

from ...core.functional import bump_basis, bump_design, bump_jet
from ...core.jet import Jet
from ...core.rows import RowLayout, bounded_atanh, check_memory, pack
from ...nets.bumpnet import BumpNet
from ...problems.base import Problem
from ..arguments import check_points, counts

#: An edge is flat this many widths away: exp(-2 * 18) is rounding.
_FLAT = 18.0
#: More images along an axis mean bumps far wider than the domain.
IMAGES_MOST = 64
#: Pairs of points and bumps whose images are summed at a time.
_CHUNK = 8192
#: Collocation points per bump along an axis, by dimension; the last holds for all higher ones.
_DENSITY = (6, 4, 3)
#: Fewest collocation points along an axis.
_FEWEST = 32


@dataclass(frozen=True)
class Space:
    """The function space of a net's bumps: frame, tie, images, and the problem's boundary.  All in float64.

    Attributes
    ----------
    problem : EvolutionProblem
        Gives the domain, the periodic axes, distance and lift.
    frame : Tensor
        [3, d], float64.
    tied : bool
        As in the net.
    images : tuple of int
        Copies of every bump on either side, one number per axis; 0 where the axis is not periodic.
    """

    problem: Problem
    frame: Tensor
    tied: bool
    images: tuple[int, ...]

    @classmethod
    def of(cls, problem: Problem, net: BumpNet, slack: float = 1.0) -> Space:
        """The space of a net's bumps, with enough images for bumps ``slack`` times as wide.

        Raises
        ------
        ValueError
            If bumps are rotated in a problem with a periodic axis, or are far too wide.
        """
        frame, rows = net.frame.double(), net.rows.detach().double()
        if problem.periodic_axes and bool((rows[:, net.layout.skew] != 0).any()):
            raise ValueError("net has rotated bumps, whose images do not add up along a periodic axis; set skew to 0")
        return cls(problem, frame, net.tied, _images(problem, rows, frame, net.tied, slack))

    def layout(self, rows: Tensor) -> RowLayout:
        return RowLayout.of(rows, self.frame.shape[1], self.tied)

    def shifts(self) -> list[Tensor]:
        """Displacements [d] of the images, including the bump itself."""
        lo, hi = self.problem.domain.to(self.frame)
        numbers = itertools.product(*(range(-n, n + 1) for n in self.images))
        return [(hi - lo) * self.frame.new_tensor(number) for number in numbers]

    def basis(self, x: Tensor, rows: Tensor, want: str) -> Jet:
        """Jets of the M basis functions at ``x`` [N, d]; M takes the place of the outputs."""
        parts = [self._images_of(part, rows, want) for part in x.split(max(1, _CHUNK // len(rows)))]
        total = Jet(want, *(None if p[0] is None else torch.cat(p) for p in zip(*parts, strict=True)))
        return self._distance(x, want) * total

    def _images_of(self, x: Tensor, rows: Tensor, want: str) -> tuple[Tensor | None, ...]:
        """Value and derivatives [n, M, ...] of the sums over images, for points few enough to fit the cache."""
        total = None
        for shift in self.shifts():
            parts = bump_basis(x + shift, rows, self.frame, want, tied=self.tied).parts()
            total = (
                parts
                if total is None
                else tuple(t if t is None else t.add_(p) for t, p in zip(total, parts, strict=True))
            )
        return total

    def jet(self, x: Tensor, rows: Tensor, want: str) -> Jet:
        """Jet of u at ``x`` [N, d]."""
        total = None
        for shift in self.shifts():
            jet = bump_jet(x + shift, rows, self.frame, want, tied=self.tied)
            total = jet if total is None else total + jet
        return self.problem.compose(x, want)(total)

    def lift(self, x: Tensor, want: str) -> Jet:
        """Jet [N, K or 1] of u without bumps."""
        if want == "value":
            return Jet(want, self.problem.lift(x).reshape(len(x), -1))
        return Jet.of(self.problem.lift, x, want)

    def design(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Values [N, M] of the basis functions and their derivatives [N, M, shape columns] by the shapes."""
        factor = self.problem.distance(x)
        Phi = D = None
        for shift in self.shifts():
            values, derivatives = bump_design(
                (factor, None, None), x + shift, rows, self.frame, "value", tied=self.tied, derivatives=True
            )
            Phi, D = (values, derivatives) if Phi is None else (Phi + values, D + derivatives)
        return Phi, D

    def _distance(self, x: Tensor, want: str) -> Jet:
        if want == "value":
            return Jet(want, self.problem.distance(x).reshape(len(x), -1))
        return Jet.of(self.problem.distance, x, want)


def _images(problem: Problem, rows: Tensor, frame: Tensor, tied: bool, slack: float) -> tuple[int, ...]:
    packed, (lo, hi) = pack(rows, frame, tied), problem.domain.to(frame)
    copies = [0] * len(lo)
    for j in problem.periodic_axes:
        period = float(hi[j] - lo[j])
        reach = slack * (packed.A[:, j] + _FLAT) / packed.V[:, j, j].abs()
        farthest = torch.maximum(hi[j] - packed.c[:, j], packed.c[:, j] - lo[j])
        needed = float(((reach + farthest) / period - 1).max())
        if not needed <= IMAGES_MOST:
            raise ValueError(f"net has bumps so wide that {needed:.0f} images do not make them periodic: sharpen them")
        copies[j] = max(1, math.ceil(needed))
    return tuple(copies)


def quadrature(problem: Problem, net: BumpNet, points) -> tuple[Tensor, Tensor]:
    """Collocation points [N, d] and weights [N], of sum 1, of a quadrature rule.

    Equidistant along periodic axes, Gauss-Legendre along the others.  Least squares over these points is then the
    projection in L2, and the evolution of a dissipative equation stays dissipative.

    Parameters
    ----------
    points : int, tuple of int, Tensor or None
        Their number, their numbers per axis, the points themselves (with equal weights), or None for six per bump and
        axis (four in two dimensions, three in more).

    Raises
    ------
    ValueError
        If ``points`` is none of these, or there are fewer points than bumps.
    """
    domain, d, bumps = problem.domain, net.layout.dim, len(net.rows)
    if isinstance(points, Tensor):
        check_points(points, d)
        x = points.detach().to(net.rows.device, torch.float64)
        weights = torch.full_like(x[:, 0], 1 / len(x))
    else:
        numbers = counts(points, _DENSITY[min(d, len(_DENSITY)) - 1] ** d * bumps, domain, net)
        if points is None and d == 1:
            numbers = (max(_FEWEST, *numbers),)
        check_memory("points", points, numbers, d)
        axes = [_rule(domain[:, j], n, periodic=j in problem.periodic_axes) for j, n in enumerate(numbers)]
        x = torch.cartesian_prod(*(ticks for ticks, _ in axes)).reshape(-1, d).to(net.rows.device)
        weights = torch.cartesian_prod(*(w for _, w in axes)).reshape(-1, d).prod(1).to(net.rows.device)
    if len(x) < bumps:
        raise ValueError(f"points must be at least as many as the {bumps} bumps, got {len(x)}")
    return x, weights


def _rule(ends: Tensor, n: int, periodic: bool) -> tuple[Tensor, Tensor]:
    """Points and weights, of sum 1, of a rule with ``n`` points on the interval ``ends``."""
    lo, hi = ends.tolist()
    if periodic:
        return lo + (hi - lo) * (torch.arange(n, dtype=torch.float64) + 0.5) / n, torch.full(
            (n,), 1 / n, dtype=torch.float64
        )
    nodes, weights = (torch.from_numpy(part) for part in leggauss(n))  # on [-1, 1], with sum 2
    return 0.5 * (lo + hi) + 0.5 * (hi - lo) * nodes, 0.5 * weights


def uniform_net(problem: Problem, bumps: int | tuple[int, ...] | None = None, **options) -> BumpNet:
    """A net of equal bumps on a grid, with shapes that suit an evolution problem.

    Along periodic axes the grid fills the domain, along the others the box of the centres.  Without bumps centred
    beyond a face the error near it is 10 to 1,000 times larger.

    Parameters
    ----------
    problem : EvolutionProblem
        Gives the domain, the outputs, and the defaults of the rest.
    bumps : int or tuple of int, optional
        Number of bumps in total, or of grid cells along each axis.
    **options
        Further arguments of :class:`~bumpnet_fast.BumpNet`.  By default ``overlap`` is the problem's
        ``default_overlap``, and ``sharpness`` its ``default_sharpness`` over the square root of the grid spacing.  The
        default dtype is float64.

    Examples
    --------
    >>> from bumpnet_fast.problems.evolution import Heat
    >>> uniform_net(Heat(), 20)
    BumpNet(dim=1, bumps=20, outputs=1, outer='tied', parameters=80, dtype=float64)
    """
    options = {"overlap": problem.default_overlap, "sharpness": None, "dtype": torch.float64} | options
    bumps = problem.default_bumps if bumps is None else bumps
    net = BumpNet(len(problem.lower), bumps, problem.domain, problem.outputs, **options)
    layout, held = net.layout, list(problem.held_axes)
    (lo, hi), box = net.domain, net.frame[1] - net.frame[0]
    stretch = (box / (hi - lo))[held]
    with torch.no_grad():
        rows = net.rows
        rows[:, held] = bounded_atanh(stretch * torch.tanh(rows[:, held]))
        rows[:, layout.size][:, held] += torch.log(stretch)
        if options["sharpness"] is None:
            change = math.log(problem.default_sharpness) - 0.5 * float(torch.log(stretch).sum()) / layout.dim
            for column in {layout.sharpness, layout.outer}:
                rows[:, column] += change
    return net


__all__ = ["Space", "quadrature", "uniform_net"]
