"""Bases of growing size until the error is small enough: the change of u with the size tells how large it is.

For every size the shape of the basis, its sharpness and the ratio of its cells, is that with the smallest residual at
points that nothing was solved on.  It is looked for at the size before, where a solve costs an eighth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...core.maps import Maps
from ...nets.bumpnet import BumpNet
from ...nets.smooth import Shape
from ..estimate import ErrorEstimate
from ..loop import Ended, Method, StopReason
from ..map_search import Fit, HeldOut, polished, search
from .mapped_fits import MappedFits, denser_where_mapped
from .task import Candidate, FrozenTask

#: Sharpness of the first basis, relative to that of a net to be trained, and the limits of all others.
_FIRST, _FLATTEST, _SHARPEST = 0.3, 0.05, 1.2
#: Bumps of the first basis by dimension, and of more dimensions.
_BUMPS, _MORE_BUMPS = (16, 64, 125, 256), 512
#: Solves that look for a shape: at the first size, and at every other one.
_LOOKS_FIRST, _LOOKS = 12, 5
#: They shall not take a larger share of the time of the next size, where a solve takes the more by the third power.
_SEARCH = 0.5
#: Steps of the search: logarithm of a ratio of cells at the first and at other sizes; factor of a sharpness.
_DENSER_FIRST, _DENSER, _SHARPER = 1.0, 0.5, 1.4
#: A shape is better if its held-out residual is a smaller share than this of that of another.
_BETTER = 0.97
#: Growth of the size, at most and at least, and how many times smaller than what is wanted the error shall be.
_GROWTH, _LEAST_GROWTH, _SAFETY = 2.0, 1.25, 2.0
#: The cells of a basis may be so many times as many as its points are for.
_ROUNDED_UP = 1.3
#: As long as the held-out residual is a larger share of that of u = 0, the shape may be quite wrong.
_RESOLVED = 0.1
#: So many sizes that leave it so large are enough to look for maps of the coordinates, in so many dimensions at most.
_UNRESOLVED, _MAPPED_DIM = 2, 3
#: Maps that leave a larger share of the residual of u = 0 are polished with twice the bumps, up to so many.
_SEEN, _POLISHED = 0.02, 300
#: Sizes do not help any more if the held-out residual fell no further than to this share, so many times.
_STALLED, _TIMES = 0.7, 2
#: That may be seen from so many bumps on.
_RESOLVING = 500
#: An estimate is reliable if the last size changed u by no more than this, and the held-out residual fell to this.
_CONVERGED, _FALLEN = 0.1, 0.5
#: The error is taken to fall as the held-out residual, but no further than to this share.
_FALL_TRUSTED = 1e-3
#: A held-out residual that is a smaller share of that of u = 0 is rounding.
_NO_RESIDUAL = 1e-12
#: So is one that is no more times as large as what amplitudes that cancel leave of one unit of rounding each.
_ROUNDED = 100.0
#: An output that is smaller relative to the largest has no size.
_NO_SIZE = 1e-12
#: The largest number of amplitudes that is tried unless it is said.
MOST = 2048
#: A relative change as small as this is rounding: amplitudes cancel.
_ROUNDING = 1e-12


def first_shape(dim: int) -> Shape:
    """The shape to start from."""
    return Shape(_FIRST, (0.0,) * dim)


def first_bumps(dim: int, most: int) -> int:
    """Bumps of the first basis."""
    usual = _BUMPS[dim - 1] if dim <= len(_BUMPS) else _MORE_BUMPS
    return max(1, min(usual, most))


@dataclass(frozen=True)
class Level:
    """What is known of one size.

    Attributes
    ----------
    bumps : int
        Of the basis.
    parts : tuple of float
        Root mean squares of the weighted residual, by block of rows, at points that nothing was solved on.
    u : Tensor
        [n, K], at the points where solutions are compared.
    fall : float
        The held-out residual, relative to that of the size before: the largest ratio of all blocks.  What is wrong with
        u by a solution of the equation alone, such as a slope, shows in the conditions.
    changes : Tensor
        [2, K], of u by this size: relative in the mean square, and the largest in the units of u.
    rounded : bool
        Whether rounding is all that is left of the residual: then it does not fall any more.
    """

    bumps: int
    parts: tuple[float, ...]
    u: Tensor
    fall: float = math.nan
    changes: Tensor | None = None
    rounded: bool = False

    @classmethod
    def after(cls, before: Level, bumps: int, parts: tuple[float, ...], u: Tensor, floor: float) -> Level:
        """A size and how it compares with the one before; a residual below ``floor`` does not fall any further."""
        size = torch.linalg.vector_norm(u, dim=0)
        size = torch.where(size > _NO_SIZE * size.max(), size, 1.0)
        changes = torch.stack([torch.linalg.vector_norm(u - before.u, dim=0) / size, (u - before.u).abs().amax(0)])
        falls = [now / then for now, then in zip(parts, before.parts, strict=True) if then > 0 and now > floor]
        return cls(bumps, parts, u, max(falls, default=0.0), changes)

    @property
    def held_out(self) -> float:
        """Root mean square of the weighted residual of all blocks."""
        return math.hypot(*self.parts)

    @property
    def change(self) -> float:
        """The largest relative change of an output; infinite if it is not known."""
        return math.inf if self.changes is None else float(self.changes[0].nan_to_num(math.inf).max())

    @property
    def converged(self) -> bool:
        """Whether the last change tells how large the error is."""
        settled = self.fall <= _FALLEN or self.change <= _ROUNDING or self.rounded
        return self.change <= _CONVERGED and settled

    @property
    def predicted(self) -> tuple[float, ...]:
        """Relative errors of the outputs: the change is the error of the size before, and falls as the residual."""
        return self._fallen(0)

    @property
    def largest(self) -> tuple[float, ...]:
        """Largest errors of the outputs."""
        return self._fallen(1)

    def _fallen(self, k: int) -> tuple[float, ...]:
        if self.changes is None:
            return (math.nan,) * self.u.shape[1]
        fall = min(1.0, max(_FALL_TRUSTED, self.fall)) if self.fall == self.fall else 1.0
        return tuple((self.changes[k] * fall).tolist())


@dataclass
class Levels(Method, listed=False):
    """The stage that solves over bases of growing size.

    Parameters
    ----------
    error : float or None
        Relative L2 error to reach; None for the largest size.
    most : int
        Bumps of the largest basis.
    shape : Shape, optional
        To begin with.
    fixed : bool
        Whether the ratio of its cells is kept.
    elsewhere : callable, optional
        Says of the work, before maps are looked for, whether another stage suits better; this one then ends.
    """

    name: ClassVar[str] = "linear"
    iterations: ClassVar[int] = 64
    measure_every: ClassVar[int] = 10**9
    error: float | None = None
    most: int = MOST
    shape: Shape | None = None
    fixed: bool = False
    elsewhere: Callable[[FrozenTask], bool] | None = None

    def start(self, work: FrozenTask, iterations: int) -> None:
        self.work, self.shape = work, self.shape or first_shape(work.net.layout.dim)
        self.levels: list[Level] = []
        self._sizes, self.searched, self._moves = [work.bumps], False, self._first_moves()
        self.floor = _NO_RESIDUAL * math.sqrt(work.reference_loss())

    def loss(self) -> float:
        return self.levels[-1].held_out ** 2 if self.levels else self.work.reference_loss()

    @torch.no_grad()
    def step(self, most: int) -> int:
        work = self.work
        if not self.levels:
            self._begin(self.shape)
            return 1
        resolved = self.levels[-1].held_out < _RESOLVED * math.sqrt(work.reference_loss())
        if not resolved and self._mapping():
            if self.elsewhere is not None and self.elsewhere(work):
                raise Ended(StopReason.NOT_REACHED)
            if self._mapped():
                return 1
        now, following = work.bumps, self._next()
        if len(self.levels) > 1:  # at the first size it was looked for
            worth = max(1, min(_LOOKS, round(_SEARCH * (following / now) ** 3)))
            looks = (_DENSER, worth) if resolved else (_DENSER_FIRST, _LOOKS_FIRST)
            best = work.polished(self._searched(work.best, *looks))
            work.take(best)
            self.levels[-1] = replace(self.levels[-1], parts=best.parts, u=work.u())
        before, shape = self.levels[-1], self._grown(now, following)
        best = work.polished(work.candidate(shape))
        work.take(best)
        level = Level.after(before, len(best.rows), best.parts, work.u(), self.floor)
        if level.change <= _CONVERGED and level.fall > _FALLEN:
            level = replace(level, rounded=level.held_out <= _ROUNDED * work.rounding())
        self.levels.append(level)
        return 1

    def _begin(self, shape: Shape) -> None:
        """Solve over the first basis, of the best shape that is found near one."""
        work = self.work
        work.take(work.candidate(shape))
        best = work.polished(self._searched(work.best, _DENSER_FIRST, _LOOKS_FIRST))
        work.take(best)
        self.levels = [Level(len(best.rows), best.parts, work.u())]

    def _mapping(self) -> bool:
        """Whether maps of the coordinates are to be looked for, which is done once, for boxes."""
        work = self.work
        if self.searched or self.fixed or len(self.levels) < _UNRESOLVED or not work.ranks.alone:
            return False
        box = bool(work.problem.inside(work.places_to_compare()).all())
        return work.net.layout.dim <= _MAPPED_DIM and box and not work.problem.periodic

    def _mapped(self) -> bool:
        """Look for maps of the coordinates; begin again with them if they are worth it."""
        work, self.searched = self.work, True
        shape, bumps = self.shape, work.bumps  # what suited what was not resolved says nothing
        fits = self._fits(shape)
        maps = search(work.problem, shape.counts(bumps, work.widths), fits, boundary=work.boundary)
        if isinstance(fits, MappedFits):  # a feature that so few bumps hardly see is not yet where it seems to be
            while maps is not None and fits.left(maps) > _SEEN and 2 * fits.bumps <= _POLISHED:
                fits = MappedFits(work, shape, 2 * fits.bumps)
                maps = polished(work.problem, maps, fits, work.boundary)
        work.remap(maps, bumps)
        self._begin(denser_where_mapped(shape, maps))
        self._sizes = [bumps]
        return True

    def _fits(self, shape: Shape) -> Fit:
        """The best amplitudes over mapped bases of a shape, as the search for maps wants them."""
        work, bumps = self.work, self.work.bumps
        if work.is_linear():
            return MappedFits(work, shape)
        held_out = HeldOut(work.problem, work.boundary)

        def fit(maps: Maps | None) -> tuple[float, BumpNet]:
            work.remap(maps, bumps)
            work.take(work.candidate(shape))
            return held_out(work.net), work.net

        return fit

    def _next(self) -> int:
        """The next size: twice the present one, or less if that will do; errors fall with the bumps along an axis."""
        now, dim = self.work.bumps, self.work.net.layout.dim
        error, before = max(self.levels[-1].predicted), self.levels[-1].change
        size = float(_GROWTH * now)
        if self.error is not None and 0 < error < before < math.inf:
            along, less = (self._sizes[k] ** (1 / dim) for k in (-1, -2))
            further = math.log(error * _SAFETY / self.error) * (along - less) / math.log(before / error)
            size = min(size, (along + max(0.0, further)) ** dim)
        self._sizes.append(min(self.most, max(math.ceil(_LEAST_GROWTH * now), round(size))))
        return self._sizes[-1]

    def _grown(self, now: int, following: int) -> Shape:
        """Take the next size, and its shape: with more cells along every axis, or the change of u is not its error."""
        work, shape = self.work, self.work.best.shape
        if not self.fixed:
            pairs = zip(shape.counts(following, work.widths), shape.counts(now, work.widths), strict=True)
            counts = [max(then, before + 1) for then, before in pairs]
            following, shape = math.prod(counts), Shape.of_counts(shape.sharpness, counts, work.widths)
        self._sizes[-1] = following
        work.resize(following)
        return shape

    def _searched(self, best: Candidate, denser: float, looks: int) -> Candidate:
        """The best shape near that of ``best``, by steps along one coordinate after the other.

        What helped last is tried first, and what has just been tried last.
        """
        refused: set[tuple[int, int, int]] = set()
        while looks and (left := [move for move in self._moves if move not in refused]):
            for move in left:
                axis, more, sharper = move
                shape = best.shape.denser(axis, more * denser).sharper(_SHARPER**sharper)
                refused.add(move)
                if not looks or not self._allowed(shape):
                    continue
                looks -= not self.work.tried(shape)
                found = self.work.candidate(shape)
                better = found.key() < _BETTER * best.key()
                self._moves.remove(move)
                self._moves.insert(0 if better else len(self._moves), move)
                if better:
                    best, refused = found, {(axis, -more, -sharper)}
        return best

    def _allowed(self, shape: Shape) -> bool:
        """Whether a shape can be tried: few cells along an axis are rounded up, and make too many in all."""
        number = math.prod(shape.counts(self.work.bumps, self.work.widths))
        return _FLATTEST <= shape.sharpness <= _SHARPEST and number <= _ROUNDED_UP * self.work.bumps

    def _first_moves(self) -> list[tuple[int, int, int]]:
        """Steps of the search: an axis with more or fewer cells, and flatter or sharper bumps.

        With fewer cells along an axis bumps must be flatter: that is a step, too.
        """
        dim = self.work.net.layout.dim
        cells = [(axis, sign) for axis in range(dim) for sign in (1, -1)] if dim > 1 and not self.fixed else []
        return [(0, 0, -1), (0, 0, 1), *((*cell, 0) for cell in cells), *((*cell, -1) for cell in cells)]

    def over(self, history: Sequence[dict[str, Any]]) -> StopReason | None:
        last = self.levels[-1] if self.levels else None
        if self.error is not None and last and last.converged and max(last.predicted) <= self.error:
            return StopReason.NOT_REACHED if self.work.doubt() else StopReason.REACHED
        if self.work.bumps >= self.most or (self.error is not None and self._stalled()):
            return StopReason.SOLVED if self.error is None else StopReason.NOT_REACHED
        return None

    def _stalled(self) -> bool:
        """Whether larger bases do not help any more."""
        falls = [b.held_out / a.held_out if a.held_out else 1.0 for a, b in pairwise(self.levels)]
        return self.work.bumps >= _RESOLVING and len(falls) >= _TIMES and min(falls[-_TIMES:]) > _STALLED

    def notes(self) -> dict[str, Any]:
        if not self.levels:
            return {}
        estimate = max(self.levels[-1].predicted)
        shape = self.work.best.shape
        found = {"sharpness": shape.sharpness, "cells": list(shape.counts(self.work.bumps, self.work.widths))}
        return found | ({"estimate": estimate} if math.isfinite(estimate) else {})

    def estimate(self) -> ErrorEstimate:
        """How good the last solution is."""
        last = self.levels[-1]
        rel_l2, largest = last.predicted, last.largest
        doubt = self.work.doubt()
        if doubt:
            reason = doubt
        elif len(self.levels) < 2:
            reason = "there is one size of the basis only"
        elif not last.change <= _CONVERGED:
            reason = f"the last size of the basis changed u by {last.change:.1g}: it does not reach the features of u"
        elif not last.converged:
            share = f"fell to {last.fall:.0%} only" if last.fall < 1 else "did not fall"
            reason = f"the residual between the points {share} with the last size of the basis"
        else:
            left = (
                "rounding is all that is left of the residual"
                if last.rounded
                else f"the residual fell to {last.fall:.1g}"
            )
            reason = f"the last size of the basis changed u by {last.change:.1g}, and {left}"
            return ErrorEstimate(rel_l2, largest, True, reason, {}, last.fall)
        return ErrorEstimate(rel_l2, largest, False, reason, {}, last.fall)
