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
from ..map_search import HeldOut, search
from .task import Candidate, FrozenTask

#: Sharpness of the first basis, relative to that of a net to be trained, and the limits of all others.
_FIRST, _FLATTEST, _SHARPEST = 0.3, 0.05, 1.2
#: Bumps of the first basis by dimension, and of more dimensions.
_BUMPS, _MORE_BUMPS = (16, 64, 125, 256), 512
#: Solves that look for a shape: at the first size, and at every other one.
_LOOKS_FIRST, _LOOKS = 12, 5
#: Steps of the search: logarithm of a ratio of cells at the first and at other sizes; factor of a sharpness.
_DENSER_FIRST, _DENSER, _SHARPER = 1.0, 0.5, 1.4
#: A shape is better if its held-out residual is a smaller share than this of that of another.
_BETTER = 0.97
#: Growth of the size, at most and at least, and how many times smaller than what is wanted the error shall be.
_GROWTH, _LEAST_GROWTH, _SAFETY = 2.0, 1.25, 2.0
#: As long as the held-out residual is a larger share of that of u = 0, the shape may be quite wrong.
_RESOLVED = 0.1
#: So many sizes that leave it so large are enough to look for maps of the coordinates, in so many dimensions at most.
_UNRESOLVED, _MAPPED_DIM = 2, 3
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
    """

    bumps: int
    parts: tuple[float, ...]
    u: Tensor
    fall: float = math.nan
    changes: Tensor | None = None

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
        return self.change <= _CONVERGED and (self.fall <= _FALLEN or self.change <= _ROUNDING)

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
        self._sizes, self.searched = [work.bumps], False
        self.floor = _NO_RESIDUAL * math.sqrt(work.reference_loss())
        self.x = work.places_to_compare()

    def loss(self) -> float:
        return self.levels[-1].held_out ** 2 if self.levels else self.work.reference_loss()

    @torch.no_grad()
    def step(self, most: int) -> int:
        work = self.work
        if not self.levels:
            work.take(work.candidate(self.shape))
            best = work.polished(self._searched(work.best, _DENSER_FIRST, _LOOKS_FIRST))
            work.take(best)
            self.levels.append(Level(len(best.rows), best.parts, work.u(self.x)))
            return 1
        resolved = self.levels[-1].held_out < _RESOLVED * math.sqrt(work.reference_loss())
        if not resolved and self._mapping():
            if self.elsewhere is not None and self.elsewhere(work):
                raise Ended(StopReason.NOT_REACHED)
            if self._mapped():
                return 1
        looks = (_DENSER, _LOOKS) if resolved else (_DENSER_FIRST, _LOOKS_FIRST)
        best = work.polished(self._searched(work.best, *looks))
        work.take(best)
        before = self.levels[-1] = replace(self.levels[-1], parts=best.parts, u=work.u(self.x))
        work.resize(self._next())
        best = work.polished(work.candidate(best.shape))
        work.take(best)
        self.levels.append(Level.after(before, len(best.rows), best.parts, work.u(self.x), self.floor))
        return 1

    def _mapping(self) -> bool:
        """Whether maps of the coordinates are to be looked for, which is done once, for boxes."""
        work = self.work
        if self.searched or self.fixed or len(self.levels) < _UNRESOLVED or not work.ranks.alone:
            return False
        return (
            work.net.layout.dim <= _MAPPED_DIM and bool(work.problem.inside(self.x).all()) and not work.problem.periodic
        )

    def _mapped(self) -> bool:
        """Look for maps of the coordinates; begin again with them if they are worth it."""
        work, self.searched = self.work, True
        shape, bumps = self.shape, work.bumps  # what suited what was not resolved says nothing
        counts = shape.counts(bumps, work.widths)
        held_out = HeldOut(work.problem, work.boundary)

        def fit(maps: Maps | None) -> tuple[float, BumpNet]:
            work.remap(maps, bumps)
            work.take(work.candidate(shape))
            return held_out(work.net), work.net

        maps = search(work.problem, counts, fit, boundary=work.boundary)
        work.remap(maps, bumps)
        self.x = work.places_to_compare()
        work.take(work.candidate(shape))
        found = work.polished(self._searched(work.best, _DENSER_FIRST, _LOOKS_FIRST))
        work.take(found)
        self.levels = [Level(len(found.rows), found.parts, work.u(self.x))]
        self._sizes = [bumps]
        return True

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

    def _searched(self, best: Candidate, denser: float, looks: int) -> Candidate:
        """The best shape near that of ``best``, by steps along one coordinate after the other."""
        dim = self.work.net.layout.dim
        moves: list[tuple[int | None, float]] = [(None, 1 / _SHARPER), (None, _SHARPER)]
        if dim > 1 and not self.fixed:
            moves += [(axis, sign * denser) for axis in range(dim) for sign in (1, -1)]
        refused: set = set()
        while looks and (left := [move for move in moves if move not in refused]):
            for axis, by in left:
                shape = best.shape.sharper(by) if axis is None else best.shape.denser(axis, by)
                refused.add((axis, by))
                if not looks or not _FLATTEST <= shape.sharpness <= _SHARPEST:
                    continue
                looks -= 1
                found = self.work.candidate(shape)
                if found.key() < _BETTER * best.key():
                    best, refused = found, {(axis, 1 / by if axis is None else -by)}
        return best

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
            reason = (
                f"the last size of the basis changed u by {last.change:.1g}, and the residual fell to {last.fall:.1g}"
            )
            return ErrorEstimate(rel_l2, largest, True, reason, {}, last.fall)
        return ErrorEstimate(rel_l2, largest, False, reason, {}, last.fall)
