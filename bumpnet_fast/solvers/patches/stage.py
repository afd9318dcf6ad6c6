"""The stage that solves over trees of patches, finer where the residual is large, until the error is small enough."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...nets.patches import DEEPEST, PatchNet
from ...problems import sampling
from ...problems.base import Condition, Problem, call_residual
from ..arguments import listed_conditions
from ..estimate import ErrorEstimate
from ..given_values import contradictions
from ..loop import Ended, Method, StopReason, Work
from ..residual import bumps_of
from ..solution import ErrorMeasure
from .basis import Basis, basis
from .system import Given, Pieces, Rows
from .tree import Tree

#: Level of the first tree, and the largest number of leaves.
_FIRST, MOST = 2, 1200
#: The residual of a leaf falls to about this share where it is split: others that have no more are left as they are.
_BY_SPLITTING = 2e-2
#: Leaves that together have this share of what may be left are not split.
_SPARED = 0.7
#: What is left shall fall to this share at least: less would tell nothing.
_LEAST = 0.25
#: It falls less where leaves are left as they were: the share is larger by so many times their share.
_KEPT = 3.0
#: The error is taken to fall as the residual, but no further than to this share.
_FALL_TRUSTED = 1e-3
#: An estimate is reliable if the last tree changed u by no more than this, and the residual fell to this share.
_CONVERGED, _FALLEN = 0.1, 0.5
#: A tree does not help if the residual fell no further than to this share.
_STALLED = 0.7
#: In leaves that are split what is left falls to this share at least where u is smooth.
_STEEP = 0.1
#: What is left and a smaller share of the data is rounding.
_NO_RESIDUAL = 1e-11
#: Points, evenly spread and in every leaf, where two trees are compared.
_COMPARED, _IN_LEAF = 1024, 16
#: Cells along each axis, and points along each in every cell, where it is looked for how local a residual is.
_CELLS, _IN_CELL = 32, 2
#: Share of the cells of a band along an axis that a local residual has at most.
_LOCAL = 0.4
#: A ratio of cells of level 0 along the axes at most.
_LONGEST = 8


def suits(problem: Problem, boundary: str | None, condition_weight: float = 1.0) -> bool:
    """Whether a problem can be solved over patches: a linear one with one output on a rectangle, without a time."""
    return (
        boundary != "hard" and condition_weight == 1.0 and len(problem.lower) == 2 and problem.outputs == 1
        and problem.time is None and not problem.periodic and not problem.unknowns and problem.points is None
        and not problem.continues and problem.want in ("laplacian", "diagonal", "hessian")
        and type(problem).lift is Problem.lift and type(problem).distance is Problem.distance
        and bool(problem.inside(sampling.lattice(problem.domain)).all())
        and not contradictions(problem) and _given(problem) is not None
    )  # fmt: skip


def _given(problem: Problem) -> list[Given] | None:
    """The conditions with the sides where they hold; None if one holds anywhere else."""
    found = []
    for condition in listed_conditions(problem, "soft"):
        faces = _faces(problem, condition)
        if faces is None or condition.period is not None:
            return None
        found.append(Given(condition, faces))
    sides = {face for given in found for face in given.faces}
    return found if len(sides) == 4 == sum(len(given.faces) for given in found) else None


def _faces(problem: Problem, condition: Condition) -> tuple[tuple[int, int], ...] | None:
    """The sides that the points of a condition cover; None if they are not those of whole sides."""
    counts = (5, 6)
    points = condition.points(counts).double()
    faces = []
    for face in ((0, 0), (0, 1), (1, 0), (1, 1)):
        side = sampling.faces(problem.domain, counts, [face])
        if bool((torch.cdist(side, points).amin(1) == 0).all()):
            faces.append(face)
    own = sampling.faces(problem.domain, counts, faces)
    whole = len(own) and bool((torch.cdist(points, own).amin(1) == 0).all())
    return tuple(faces) if whole else None


@torch.no_grad()
def local(problem: Problem, net: Any, boundary: str) -> bool:
    """Whether a residual is large in places that are no bands along the axes, where maps of these cannot help."""
    x = sampling.interior(problem.domain, (_CELLS * _IN_CELL,) * 2)
    u = problem.extend(bumps_of(net, problem.want), x, problem.want, boundary)
    squares = call_residual(problem.residual, x, u, {}).reshape(-1).square()
    cells = squares.view(_CELLS, _IN_CELL, _CELLS, _IN_CELL).sum((1, 3))
    bands = min(_occupied(cells.sum(0)), _occupied(cells.sum(1)))
    return _occupied(cells.flatten()) < _LOCAL * bands


def _occupied(cells: Tensor) -> float:
    """The share of cells that hold nearly all."""
    return float(cells.sum() ** 2 / cells.square().sum().clamp_min(1e-300) / len(cells))


class PatchWork(Work):
    """A problem that is solved over trees of patches.

    Attributes
    ----------
    problem : Problem
        The problem.
    rows : Rows
        Of all trees.
    pieces : Pieces or None
        The present solution.
    net : PatchNet
        The same as a net.

    Parameters
    ----------
    problem : Problem
        It suits: see :func:`suits`.
    error : float
        Relative error that is looked for.
    """

    boundary = "soft"

    def __init__(self, problem: Problem, error: float = 0.0):
        given = _given(problem)
        assert given is not None, "it is seen before whether a problem suits"
        self.problem, self.name = problem, f"the residual of problem {problem.name!r}"
        shared = basis(error)
        self.rows = Rows(problem, given, shared, _roots(problem, shared))
        self.pieces: Pieces | None = None
        self._tree = Tree.even(self.rows.roots, _FIRST)
        self._net: PatchNet | None = None
        self.reference = math.nan

    @property
    def net(self) -> PatchNet:
        if self._net is None:
            assert self.pieces is not None
            self._net = self.rows.net(self.pieces)
        return self._net

    @torch.no_grad()
    def solve(self, tree: Tree) -> None:
        """Take the solution over a tree."""
        self.pieces, self._net = self.rows.solve(tree), None

    def first(self) -> Tree:
        return self._tree

    def data(self) -> float:
        """The size of what is given, over the first tree."""
        return math.sqrt(sum(float(part.right.square().sum()) for part in self.rows.parts(self._tree)))

    def snapshot(self) -> dict[str, Tensor]:
        return {}

    def put_back(self, best: dict[str, Tensor]) -> None:
        pass

    def net_at(self, now: dict[str, Tensor] | None) -> Any:
        return None if self.pieces is None else self.net

    @torch.no_grad()
    def errors(self) -> tuple[float | None, float | None]:
        if self.pieces is None:
            return None, None
        return ErrorMeasure(self.problem, torch.device("cpu"))(self.net)

    def notes(self, now: dict[str, Tensor] | None) -> dict[str, Any]:
        return {} if self.pieces is None else {"bumps": len(self.net.rows), "leaves": len(self.pieces.tree)}


@dataclass(frozen=True)
class Known:
    """What is known of one tree.

    Attributes
    ----------
    leaves : int
        Of it.
    left : tuple of float
        What is left of the equation and of jumps.
    fall : float
        The largest ratio of these to those of the tree before.
    kept : float
        Share of the leaves of that tree that were not split.
    change, largest : float
        Of u by this tree: relative in the mean square, and the largest in the units of u.
    relative_misfit, misfit : float
        What is left of the conditions, relative to u and in its units.
    steep : bool
        Whether the residual fell in the leaves that were split as it does where u is smooth.
    before : float
        If it did not, the predicted error of the tree before, if known: two trees may agree by chance.
    again : bool
        If it did not, whether the tree before has converged by itself.
    rounding : float
        A relative error that is smaller cannot be told.
    """

    leaves: int
    left: tuple[float, ...]
    fall: float = math.nan
    kept: float = 0.0
    change: float = math.inf
    largest: float = math.inf
    relative_misfit: float = 0.0
    misfit: float = 0.0
    steep: bool = True
    before: float = 0.0
    again: bool = True
    rounding: float = 0.0

    @property
    def converged(self) -> bool:
        """Whether the last change tells how large the error is."""
        return self.settled and self.again

    @property
    def settled(self) -> bool:
        """The same, where u is smooth."""
        return self.change <= _CONVERGED and (self.fall <= _FALLEN or self.change <= self.rounding)

    @property
    def predicted(self) -> float:
        """The relative error: the change is that of the tree before, and falls as what is left of the equation.

        An error on the boundary spreads to all of u, and has its own size.
        """
        return max(self.rounding, max(self.change, self.before) * self._trusted + self.relative_misfit)

    @property
    def predicted_largest(self) -> float:
        return self.largest * self._trusted + self.misfit

    @property
    def _trusted(self) -> float:
        """The share to which the error fell, which is more than that of the residual where leaves were not split."""
        return min(1.0, max(_FALL_TRUSTED, (1 + _KEPT * self.kept) * self.fall)) if self.fall == self.fall else 1.0


@dataclass
class Patches(Method, listed=False):
    """The stage that solves over finer and finer trees.

    Parameters
    ----------
    error : float
        Relative L2 error to reach.
    most : int
        Leaves of the largest tree.
    """

    name: ClassVar[str] = "patches"
    iterations: ClassVar[int] = 64
    measure_every: ClassVar[int] = 10**9
    error: float = 1e-6
    most: int = MOST

    def start(self, work: PatchWork, iterations: int) -> None:
        self.work = work
        self.known: list[Known] = []
        self.floor = _NO_RESIDUAL * work.data()

    def loss(self) -> float:
        return sum(left**2 for left in self.known[-1].left) if self.known else self.work.data() ** 2

    @torch.no_grad()
    def step(self, most: int) -> int:
        work = self.work
        if work.pieces is None:
            self._solve(work.first())
            self.known.append(Known(len(work.pieces.tree), self._left()))
            return 1
        tree = self._next()
        if tree is None:
            raise Ended(StopReason.NOT_REACHED)
        before, old, left_before = work.net, work.pieces.tree, work.pieces.left
        self._solve(tree)
        change, largest, size = _changes(before, work.net)
        left = self._left()
        falls = [now / then for now, then in zip(left, self.known[-1].left, strict=True) if now > self.floor]
        misfit = work.pieces.misfit
        kept = len(set(old.leaves) & set(tree.leaves)) / len(old)
        fall = max(falls, default=0.0)
        steep = self._fall_of_split(old, left_before) <= _STEEP
        last = self.known[-1]
        before = last.predicted if not steep and math.isfinite(last.predicted) else 0.0
        about = steep, before, steep or last.settled, work.rows.basis.rounding
        self.known.append(Known(len(tree), left, fall, kept, change, largest, misfit / size, misfit, *about))
        return 1

    def _solve(self, tree: Tree) -> None:
        try:
            self.work.solve(tree)
        except torch.linalg.LinAlgError:  # nothing determines u
            raise Ended(StopReason.NOT_REACHED) from None

    def _fall_of_split(self, old: Tree, left: Tensor) -> float:
        """How far what is left fell in the leaves that were split."""
        pieces = self.work.pieces
        split = [k for k, leaf in enumerate(old.leaves) if leaf not in pieces.tree.number]
        new = [k for k, leaf in enumerate(pieces.tree.leaves) if leaf not in old.number]
        return float(pieces.left[new].norm() / left[split].norm().clamp_min(1e-300))

    def _left(self) -> tuple[float, ...]:
        pieces = self.work.pieces
        return tuple(float(part.norm()) for part in (pieces.equation, pieces.jumps))

    def _next(self) -> Tree | None:
        """The next tree; None if it would be too large."""
        pieces, last = self.work.pieces, self.known[-1]
        shares = pieces.left.square()
        wanted = self.error / last.predicted if math.isfinite(last.predicted) else 0.0
        order = shares.argsort()
        spared = shares[order].cumsum(0) <= (_SPARED * min(_LEAST, wanted)) ** 2 * float(shares.sum())
        spared |= shares[order] <= _BY_SPLITTING**2 * float(shares.max())
        marked = [pieces.tree.leaves[k] for k in order[~spared].tolist()]
        tree = pieces.tree.split(leaf for leaf in marked if leaf.level < DEEPEST)
        return tree if len(pieces.tree) < len(tree) <= self.most else None

    def over(self, history: Sequence[dict[str, Any]]) -> StopReason | None:
        last = self.known[-1] if self.known else None
        if last is None:
            return None
        if last.converged and last.predicted <= self.error:
            return StopReason.REACHED
        stalled = len(self.known) > 2 and min(one.fall for one in self.known[-2:]) > _STALLED
        return StopReason.NOT_REACHED if stalled or self._next() is None else None

    def notes(self) -> dict[str, Any]:
        last = self.known[-1] if self.known else None
        return {"estimate": last.predicted} if last and math.isfinite(last.predicted) else {}

    def estimate(self) -> ErrorEstimate:
        """How good the last solution is."""
        last = self.known[-1]
        about = (last.predicted,), (last.predicted_largest,)
        if len(self.known) < 2:
            reason = "there is one tree of patches only"
        elif not last.change <= _CONVERGED:
            reason = f"the last tree of patches changed u by {last.change:.1g}: it does not reach the features of u"
        elif not last.fall <= _FALLEN:
            share = f"fell to {last.fall:.0%} only" if last.fall < 1 else "did not fall"
            reason = f"the residual between the points {share} with the last tree of patches"
        else:
            reason = (
                f"the last tree of patches changed u by {last.change:.1g}, and the residual fell to {last.fall:.1g}"
            )
        return ErrorEstimate(*about, last.converged, reason, {}, last.fall)


def _changes(before: PatchNet, now: PatchNet) -> tuple[float, float, float]:
    """The relative change of u in the mean square, the largest one, and the root mean square of u.

    The larger of two means: over points that are spread evenly, and over points in every leaf by its area, which are
    dense where the leaves are small.
    """
    even = sampling.interior(now.domain, (_COMPARED, 1), "sobol", 4)
    boxes = now.boxes
    t = sampling.interior(torch.tensor([[0.0, 0.0], [1.0, 1.0]]), (_IN_LEAF, 1), "sobol", 5)
    widths = boxes[:, 1] - boxes[:, 0]
    dense = (boxes[:, None, 0] + widths[:, None] * t).flatten(0, 1)
    areas = (widths / (now.domain[1] - now.domain[0])).prod(1).repeat_interleave(len(t))
    change, largest, mean = 0.0, 0.0, 0.0
    for x, weights in ((even, torch.ones(len(even), dtype=torch.float64)), (dense, areas)):
        u, difference = now(x)[:, 0], (now(x) - before(x))[:, 0]
        size = float((weights * u.square()).sum().sqrt()) or 1.0
        change = max(change, float((weights * difference.square()).sum().sqrt()) / size)
        largest, mean = max(largest, float(difference.abs().max())), size / float(weights.sum()) ** 0.5
    return change, largest, mean


def _roots(problem: Problem, shared: Basis) -> tuple[int, int]:
    """Cells of level 0 along the axes: in these the second derivatives of the equation count alike."""
    ratio = Rows(problem, [], shared, (1, 1)).ratio()
    power = round(math.log2(ratio)) if math.isfinite(ratio) and ratio > 0 else 0
    power = max(-round(math.log2(_LONGEST)), min(round(math.log2(_LONGEST)), power))
    return (2**power, 1) if power > 0 else (1, 2**-power)


__all__ = ["MOST", "Known", "PatchWork", "Patches", "local", "suits"]
