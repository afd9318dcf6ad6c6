"""Maps of coordinates for a problem: proposed from its data and a solution so far, and polished on the residual.

An even grid of smooth bumps does not reach layers, shocks and peaks.  With a map ``xi = g(x)`` of every axis it does,
and a few parameters say where.  A map is as good as the residual of its solution at points that nothing was solved on.
Half of them are uniform in x and half uniform in xi, and the larger of both means counts: a map that leaves out a
feature has a small residual where its own points are (docs/math.md, "mapped coordinates").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..core.jet import Jet
from ..core.maps import LEAST_EVEN, MOST_EVEN, NARROWEST, WIDEST, AxisMap, Kind, Maps
from ..nets.bumpnet import BumpNet
from ..problems.base import Problem, call_residual
from .residual import Block, blocks, bumps_of

#: Gives the held-out residual of the best amplitudes over mapped bumps, and their net.
Fit = Callable[[Maps | None], tuple[float, BumpNet]]

#: Widths of layers that are tried at faces, in lengths of the axis, and the even share of all first maps there.
_LAYERS, _SHARE = (10**-1.5, 10**-2.5, 10**-3.5), 0.1
#: Places along an axis, and along each of the others, where variation is looked for.
_ALONG, _ACROSS = 240, 7
#: Half of the variation along an axis is within this share of it, or there is no feature.
_LOCAL = 0.25
#: A map, or a further feature, must lower the held-out residual to this share.
_WORTH, _FURTHER = 0.5, 0.5
#: No map is looked for where bumps leave so little of the residual of u = 0 and nothing is local.
_SOLVED = 1e-2
#: Rounds from the solution so far, those that add layers at faces, and steps of the polish.
_ROUNDS, _FACES, _STEPS = 3, 3, 8
#: Points of the polish and of :func:`held_out`.
_POINTS, _HELD_OUT = 300, 400
#: First damping of the polish, its changes, and the gain of a step that ends it.
_DAMPING, _EASED, _HARDER, _TRIES, _GAINED = 1e-2, 0.2, 8.0, 4, 0.7
#: Step of the differences, in units of a width or of a logarithm.
_DIFFERENCE = 1e-2


def search(
    problem: Problem, bumps: tuple[int, ...], fit: Fit, solution: BumpNet | None = None, boundary: str = "hard"
) -> Maps | None:
    """Maps for a problem, or None if those that were tried are hardly better than none.

    Parameters
    ----------
    problem : Problem
        On a box.
    bumps : tuple of int
        Along the axes, as ``fit`` has them.  The features must be visible at this size.
    fit : callable
        ``fit(maps)`` gives the held-out residual of the solution over mapped bumps, as :func:`held_out` does, and its
        net; ``fit(None)`` that without maps.
    solution : BumpNet, optional
        A solution so far, without maps; by default that of ``fit(None)``.
    boundary : "hard" or "soft"
        How the conditions are enforced.

    Returns
    -------
    Maps or None
        With at most half the held-out residual of bumps without maps.

    Raises
    ------
    ValueError
        If ``bumps`` are not one number for every axis.
    """
    if len(bumps) != len(problem.lower):
        raise ValueError(f"bumps must be {len(problem.lower)} numbers, one for every axis, got {bumps!r}")
    return _Search(problem, fit, boundary).run(solution)


def polished(problem: Problem, maps: Maps, fit: Fit, boundary: str = "hard") -> Maps:
    """Maps that were found with few bumps, polished with those of another ``fit``; arguments as for :func:`search`."""
    looked = _Search(problem, fit, boundary)
    looked.best = Found(maps, *fit(maps))
    looked._polish()
    return looked.best.maps


class Places:
    """Points and the rows of a problem there, for many nets.

    Parameters
    ----------
    problem : Problem
        Gives the rows.
    boundary : "hard" or "soft"
        How the conditions are enforced.
    x : Tensor
        [N, d].
    """

    def __init__(self, problem: Problem, boundary: str, x: Tensor):
        counts = (max(2, round(len(x) ** (1 / x.shape[1]))),) * x.shape[1]
        self.x, self.blocks = x, blocks(problem, boundary, counts, x, 1.0)

    def residual(self, net: BumpNet, unknowns: dict[str, Tensor] | None = None) -> Tensor:
        """The rows [E, N] of the equation for the bumps of ``net``, scaled but not divided by the number of points."""
        return _rows(self.blocks[0], net, unknowns or {}) / self.blocks[0].factor

    def conditions(self, net: BumpNet, unknowns: dict[str, Tensor] | None = None) -> Tensor:
        """All weighted rows of soft conditions, flat."""
        rows = [_rows(block, net, unknowns or {}).flatten() for block in self.blocks[1:]]
        return torch.cat(rows) if rows else self.x.new_empty(0)


def _rows(block: Block, net: BumpNet, unknowns: dict[str, Tensor]) -> Tensor:
    jet = bumps_of(net, block.want)
    return block.residual(tuple(jet(x) for x in (block.x, *block.others)), unknowns)


def uniform(domain: Tensor, number: int, seed: int) -> Tensor:
    """So many points [n, d], uniform in a box."""
    generator = torch.Generator().manual_seed(seed)
    unit = torch.rand(number, domain.shape[1], dtype=torch.float64, generator=generator)
    return domain[0].cpu() + (domain[1] - domain[0]).cpu() * unit


class HeldOut:
    """The held-out residual of nets with any maps; the points that are uniform in x are the same for all.

    Parameters
    ----------
    problem : Problem
        Gives the rows.
    boundary : "hard" or "soft"
        How the conditions are enforced.
    number : int
        Of points.
    seed : int
        Of the points.
    """

    def __init__(self, problem: Problem, boundary: str = "hard", number: int = _HELD_OUT, seed: int = 7):
        self.problem, self.boundary, self.domain = problem, boundary, problem.domain.double()
        self.even = Places(problem, boundary, uniform(self.domain, number // 2, seed))
        self.xi = uniform(self.domain, number - number // 2, seed + 1)

    def __call__(self, net: BumpNet) -> float:
        """Root mean square of the residual over the box: the larger one of both kinds of points."""
        rest = self.even.conditions(net).square().sum()
        square = self.even.residual(net).square().sum(0).mean()
        if net.maps is not None:
            x = net.maps.inverse(self.xi)
            rows = Places(self.problem, self.boundary, x).residual(net).square().sum(0)
            weights = 1 / net.maps.at(x).first.prod(-1)
            square = torch.maximum(square, (rows * weights).sum() / weights.sum())
        found = float((square + rest).detach().sqrt())
        return found if math.isfinite(found) else math.inf


# --- features ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Feature:
    """A place along an axis where u or its data vary: centre, width, and the even share that suits."""

    centre: float
    width: float
    share: float

    def map(self, kind: Kind, lo: float, hi: float) -> AxisMap:
        """The map of an axis with this feature, its parameters within their bounds."""
        return AxisMap(
            lo, hi, kind, (min(max(self.centre, lo), hi),), (_width(self.width, lo, hi),), _share(self.share)
        )


def _width(width: float, lo: float, hi: float) -> float:
    return min(max(width, NARROWEST * (hi - lo)), WIDEST * (hi - lo))


def _share(share: float) -> float:
    return min(max(share, LEAST_EVEN), MOST_EVEN)


def feature(x: Tensor, density: Tensor) -> Feature | None:
    """The feature of a density of variation at sorted places ``x`` of an axis; None if it is nearly even."""
    if not bool(density.isfinite().all()):
        return None
    total = torch.cat([density.new_zeros(1), (0.5 * (density[1:] + density[:-1]) * x.diff()).cumsum(0)])
    length = float(x[-1] - x[0])
    if not float(total[-1]) > 0:
        return None
    wanted = total[-1] * density.new_tensor([0.25, 0.5, 0.75])
    k = torch.searchsorted(total, wanted).clamp(1, len(x) - 1)
    t = (wanted - total[k - 1]) / (total[k] - total[k - 1]).clamp_min(1e-300)
    first, middle, last = (x[k - 1] + t * (x[k] - x[k - 1])).tolist()
    if last - first > _LOCAL * length:
        return None
    return Feature(middle, max(0.5 * (last - first), 1e-6 * length), 1 / (1 + float(total[-1])))


def _grid(maps: Maps, domain: Tensor, axis: int) -> Tensor:
    """Points [_ALONG, others, d], uniform in xi: many along one axis, few along the others."""
    d = domain.shape[1]
    ticks = []
    for k in range(d):
        unit = torch.arange(_ALONG if k == axis else _ACROSS, dtype=torch.float64) + 0.5
        xi = domain[0, k] + (domain[1, k] - domain[0, k]) * unit / len(unit)
        ticks.append(maps.axes[k].inverse(xi))
    x = torch.stack(torch.meshgrid(*ticks, indexing="ij"), -1)
    return x.movedim(axis, 0).reshape(_ALONG, -1, d)


def _of_solution(problem: Problem, boundary: str, net: BumpNet | None, maps: Maps, axis: int) -> Feature | None:
    """The feature of u along an axis; of its lift if there is no net."""
    grid = _grid(maps, problem.domain.double(), axis)
    x = grid.flatten(0, 1)

    def nothing(x: Tensor) -> Jet:
        zero = x.new_zeros(len(x), problem.outputs)
        more = zero[..., None].expand(*zero.shape, x.shape[1])
        return Jet("diagonal", zero, more, more)

    function = nothing if net is None else bumps_of(net, "diagonal")
    jet = problem.extend(function, x, "diagonal", boundary)
    size = (jet.value.amax(0) - jet.value.amin(0)).clamp_min(1e-300)
    density = jet.d(axis).abs() / size + (jet.dd(axis).abs() / size).sqrt()
    return feature(grid[:, 0, axis], density.view(_ALONG, -1).amax(1).detach())


def _of_data(problem: Problem, axis: int) -> Feature | None:
    """The feature of sources and coefficients along an axis: the equation is looked at for constant jets."""
    domain = problem.domain.double()
    grid = _grid(Maps.identity(domain), domain, axis)
    x, d, k = grid.flatten(0, 1), domain.shape[1], problem.outputs
    shapes = {"laplacian": (k,), "diagonal": (k, d), "hessian": (k, d, d)}
    ticks, density = grid[:, 0, axis], x.new_zeros(_ALONG)
    for constant in (0.0, 1.0):
        value, gradient = x.new_full((len(x), k), constant), x.new_full((len(x), k, d), constant)
        second = x.new_full((len(x), *shapes[problem.want]), constant) if problem.want in shapes else None
        jet = Jet(problem.want, value, None if problem.want == "value" else gradient, second)
        rows = call_residual(problem.residual, x, jet, {}).reshape(_ALONG, -1).double()
        size = float(rows.amax() - rows.amin())
        if size > 1e-12 * float(rows.abs().amax()):
            slope = (rows[2:] - rows[:-2]) / (ticks[2:] - ticks[:-2])[:, None] / size
            density[1:-1] += slope.abs().amax(1)
    return feature(ticks, density)


# --- the search ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """A map with its held-out residual and solution."""

    maps: Maps
    held_out: float
    net: BumpNet | None


class _Search:
    """The best map so far, and what is tried next."""

    def __init__(self, problem: Problem, fit: Fit, boundary: str):
        self.problem, self.fit, self.boundary = problem, fit, boundary
        self.domain = problem.domain.double().cpu()
        self.identity = Maps.identity(self.domain)
        self.axes = range(len(problem.lower))
        self.space = [axis for axis in self.axes if axis != problem.time]
        self.best = Found(self.identity, math.inf, None)

    def run(self, solution: BumpNet | None) -> Maps | None:
        if self.problem.unknowns or self.problem.points is not None:
            return None
        held_out, net = self.fit(None)
        plain = self.best = Found(self.identity, held_out, solution or net)
        features = [[_of_solution(self.problem, self.boundary, None, self.identity, j) for j in self.axes]]
        features.append([_of_data(self.problem, j) for j in self.axes])
        features.append(self._of_best())
        solved = _SOLVED * self._nothing(net)
        if not any(any(fs) for fs in features) and held_out <= solved:
            return None
        for fs in features:
            self._consider_features(fs)
        for _ in range(_FACES):
            if self.best.held_out <= solved or not self._layers_at_faces():
                break
        for _ in range(_ROUNDS):
            before = self.best.held_out
            self._consider_features(self._of_best())
            if not self.best.held_out <= 0.7 * before:
                break
        if not self.best.held_out < plain.held_out:
            return None
        self._polish()
        return self.best.maps if self.best.held_out <= _WORTH * plain.held_out else None

    def _nothing(self, net: BumpNet) -> float:
        """The held-out residual of no bumps at all."""
        rows = net.rows.detach().clone()
        rows[:, net.layout.amplitude] = 0.0
        zero = BumpNet.from_rows(rows, net.frame, net.domain, net.tied)
        return HeldOut(self.problem, self.boundary)(zero)

    def _of_best(self) -> list[Feature | None]:
        net, maps = self.best.net, self.best.maps
        return [_of_solution(self.problem, self.boundary, net, maps, j) for j in self.axes]

    def _consider(self, maps: Maps) -> bool:
        """Try a map; whether it is the best so far."""
        held_out, net = self.fit(maps)
        better = held_out < self.best.held_out
        if better:
            self.best = Found(maps, held_out, net)
        return better

    def _consider_features(self, features: Sequence[Feature | None]) -> None:
        """Try the features of all axes together, of either kind."""
        if not any(features):
            return
        for kind in ("asinh", "logistic"):
            axes = (
                AxisMap(old.lo, old.hi) if f is None else f.map(kind, old.lo, old.hi)
                for old, f in zip(self.identity.axes, features, strict=True)
            )
            self._consider(Maps(tuple(axes)))

    def _layers_at_faces(self) -> bool:
        """Add the layer that helps most at some face; whether that is worth going on."""
        start = self.best
        for axis in self.space:
            old = start.maps.axes[axis]
            for face in (old.lo, old.hi):
                if face in old.centres or (old.centres and old.kind != "asinh"):
                    continue
                for width in _LAYERS:
                    widths = (*old.widths, width * (old.hi - old.lo))
                    share = old.share if old.centres else _SHARE
                    new = AxisMap(old.lo, old.hi, "asinh", (*old.centres, face), widths, share)
                    self._consider(start.maps.with_axis(axis, new))
        worth = self.best.held_out <= _FURTHER * start.held_out
        if not worth and start.maps != self.identity:  # a further layer that hardly helps is not there
            self.best = start
        return worth

    # --- the polish ------------------------------------------------------------------------------

    def _polish(self) -> None:
        """Levenberg-Marquardt on the residual vector, by differences; the amplitudes follow (variable projection)."""
        damping = _DAMPING
        for _ in range(_STEPS):
            start, steps = self.best, _moves(self.best.maps)
            places, weights = self._points(start.maps)
            assert start.net is not None
            r = self._vector(places, weights, start.net)
            columns = []
            for move in steps:
                maps, sign = _moved(start.maps, move, _DIFFERENCE)
                columns.append((self._vector(places, weights, self.fit(maps)[1]) - r) / (sign * _DIFFERENCE))
            J = torch.stack(columns, 1)
            H, g = J.T @ J, J.T @ r
            if not bool(torch.isfinite(H).all() & torch.isfinite(g).all()):
                return
            for _ in range(_TRIES):
                damped = H + torch.diag(damping * H.diagonal() + 1e-300)
                change = -torch.linalg.lstsq(damped, g[:, None]).solution[:, 0].clamp(-1.0, 1.0)
                maps = start.maps
                for move, by in zip(steps, change.tolist(), strict=True):
                    maps = _moved(maps, move, by)[0]
                if self._consider(maps):
                    damping = max(damping * _EASED, 1e-4)
                    break
                damping *= _HARDER
            else:
                return
            if self.best.held_out > _GAINED * start.held_out:
                return

    def _points(self, maps: Maps) -> tuple[Places, Tensor]:
        """Points of both kinds and the weights of an integral over x."""
        x = uniform(self.domain, _POINTS // 3, 11)
        x = torch.cat([x, maps.inverse(uniform(self.domain, _POINTS - _POINTS // 3, 12))])
        density = 1 / 3 + 2 / 3 * maps.at(x).first.prod(-1)
        return Places(self.problem, self.boundary, x), density.rsqrt() / math.sqrt(len(x))

    def _vector(self, places: Places, weights: Tensor, net: BumpNet) -> Tensor:
        return torch.cat([(places.residual(net) * weights).flatten(), places.conditions(net)]).detach()


#: A change of one parameter of the map of an axis: of a centre or a width k, or of the share.
Move = tuple[int, int, Callable[[AxisMap, int, float], AxisMap]]


def _moves(maps: Maps) -> list[Move]:
    """The parameters of maps that may change; the layer of a face stays there."""
    moves: list[Move] = []
    for axis, old in enumerate(maps.axes):
        for k, centre in enumerate(old.centres):
            moves += [(axis, k, _moved_centre)] if old.lo < centre < old.hi else []
            moves.append((axis, k, _moved_width))
        if old.centres:
            moves.append((axis, 0, _moved_share))
    return moves


def _moved(maps: Maps, move: Move, by: float) -> tuple[Maps, float]:
    """Maps after a change by so many units of a parameter, within the bounds; and the sign that was possible.

    The unit of a centre is the width; widths change by a factor, and the share as a logit.
    """
    axis, k, change = move
    old = maps.axes[axis]
    new = change(old, k, by)
    if new == old:  # at a bound
        return maps.with_axis(axis, change(old, k, -by)), -1.0
    return maps.with_axis(axis, new), 1.0


def _moved_centre(old: AxisMap, k: int, by: float) -> AxisMap:
    centres = list(old.centres)
    centres[k] = min(max(centres[k] + by * old.widths[k], old.lo), old.hi)
    return replace(old, centres=tuple(centres))


def _moved_width(old: AxisMap, k: int, by: float) -> AxisMap:
    widths = list(old.widths)
    widths[k] = _width(widths[k] * math.exp(by), old.lo, old.hi)
    return replace(old, widths=tuple(widths))


def _moved_share(old: AxisMap, _: int, by: float) -> AxisMap:
    odds = old.share / (1 - old.share) * math.exp(by)
    return replace(old, share=_share(odds / (1 + odds)))


__all__ = ["Feature", "Fit", "HeldOut", "Places", "feature", "polished", "search"]
