"""h-adaptivity: remove and add bumps while a net is trained, together with their part of the optimiser's state.

The paper prunes bumps by the size of h and calls that irreversible (arXiv:2512.17198, section 3).  Here
a bump is judged by its peak-normalised amplitude or by the exact increase of a least-squares loss, and
bumps can be grown where a residual is large.  This module knows no solver and no problem: it serves any
training loop, and ``solvers/strategies.py`` builds on it.

``net.rows`` becomes a new Parameter, which replaces the old one in the optimiser.  The old one cannot be resized,
because autograd remembers its size as long as a graph with it is alive, such as that of the last loss.

With a ``group`` of torch.distributed all its processes do the same, to the last bit (docs/distributed.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer

from ..core.functional import bump_compact
from ..core.private import forget_sizes
from ..core.ranks import Ranks
from .bumpnet import BumpNet, rows_to_change
from .cancelling import warn_if_heavy
from .events import Event

#: Side lengths of a new bump in grid cells, the same as in a new net.
_OVERLAP = 3.0
#: Least distance between bumps that are added together, in side lengths.
_APART = 0.5


def peak_scores(net: BumpNet) -> Tensor:
    """Largest peak-normalised amplitude ``|h psi(centre)|`` of every bump over its outputs: [M].

    Raw h does not measure the height: if psi's peak is far below 1, a bump of height 1 can have h = 1e9.  Where
    the bumps cancel heavily, heights do not tell what a bump is worth: a
    :class:`~bumpnet_fast.nets.cancelling.CancellationWarning` says so.

    Examples
    --------
    >>> net = BumpNet(1, 3)
    >>> peak_scores(net)
    tensor([0., 0., 0.])
    """
    warn_if_heavy(net, "the heights of its bumps do not tell which can be removed")
    return net.peaks.detach().abs().amax(1)


def loss_increases(design: Tensor, amplitudes: Tensor, ridge: float = 1e-12, group: Any = None) -> Tensor:
    """Increase of a least-squares loss if one bump is removed and all other amplitudes are solved for again.

    For ``|A^T h - b|^2`` at its minimum over h, taking out the amplitudes h_i of bump i costs exactly
    ``h_i^T [(G^-1)_ii]^-1 h_i`` with the Gram matrix ``G = A A^T`` (the optimal brain surgeon).

    Parameters
    ----------
    design : Tensor
        A [M K, R]: the rows' derivatives by the amplitudes, those of a bump's K outputs together.
    amplitudes : Tensor
        h [M, K], a minimiser.
    ridge : float
        Tikhonov weight on the amplitudes, after the rows of A are scaled to unit length.
    group : torch.distributed.ProcessGroup, optional
        Its processes have further columns of A.

    Returns
    -------
    Tensor
        [M], at least 0.

    Examples
    --------
    Of two orthogonal functions of unit length each costs its own amplitude squared:

    >>> loss_increases(torch.eye(2, 5), torch.tensor([[3.0], [4.0]]))
    tensor([ 9., 16.])
    """
    m, k = amplitudes.shape
    A, h, ranks = design.double(), amplitudes.double(), Ranks(group, design.device)
    ranks.checked(lambda: _check_design(design, m, k))
    length = ranks.norm(torch.linalg.vector_norm(A, dim=1))
    length = length.clamp_min(1e-6 * float(length.max()) or 1.0)
    weight = math.sqrt(ridge) if ranks.rank == 0 else 0.0
    augmented = torch.cat([A / length[:, None], weight * torch.eye(m * k).to(A)], 1)
    upper = ranks.triangle(augmented.T)
    inverse = torch.linalg.solve_triangular(upper, torch.eye(m * k).to(A), upper=True)  # G^-1 = inverse inverse^T
    rows = inverse.view(m, k, m * k)
    scaled = (h * length.view(m, k))[..., None]
    cost = scaled.mT @ torch.linalg.solve(rows @ rows.mT, scaled)
    return ranks.agreed(cost[:, 0, 0].to(design.dtype))


def _check_design(design: Tensor, m: int, k: int) -> None:
    if design.dim() != 2 or design.shape[0] != m * k:
        raise ValueError(f"design must have shape [{m * k}, R] for amplitudes {m, k}, got {tuple(design.shape)}")


@torch.no_grad()
def keep_bumps(net: BumpNet, keep: Tensor, optimizer: Optimizer | None = None, group: Any = None) -> int:
    """Remove the bumps that ``keep`` does not mark, in place, with their part of the optimiser's state.

    Parameters
    ----------
    net : BumpNet
        Gets a new Parameter ``rows``.
    keep : Tensor
        [M], bool, on the device of the net; at least one bump must stay.
    optimizer : torch.optim.Optimizer, optional
        One that trains ``net.rows``.  Its moments are compacted with the rows; the curvature pairs of
        LBFGS, which mix all parameters, are dropped.
    group : torch.distributed.ProcessGroup, optional
        Its processes, with the same rows and moments, all use the ``keep`` of rank 0.

    Returns
    -------
    int
        Number of bumps removed.

    Raises
    ------
    TypeError, ValueError
        For a mask of another type, shape or device, one that keeps nothing, an optimiser that does not train the
        net, or ranks that differ in rows or moments; nothing is changed then.
    RuntimeError
        If the rows are computed from other parameters (torch's parametrizations and pruning), or another rank failed.

    Notes
    -----
    One :func:`bumpnet_fast.bump_compact` moves all tensors.

    Examples
    --------
    >>> net = BumpNet(1, 4)
    >>> optimizer = torch.optim.Adam(net.parameters())
    >>> net(torch.rand(9, 1)).sum().backward()
    >>> optimizer.step()
    >>> keep_bumps(net, torch.tensor([True, False, True, True]), optimizer)
    1
    >>> net.rows.shape, optimizer.state[net.rows]["exp_avg"].shape
    (torch.Size([3, 4]), torch.Size([3, 4]))
    """
    ranks, before = Ranks(group, net.rows.device), len(net.rows)
    places = _places(ranks, net, optimizer, lambda: _check_mask(net, keep))
    keep = ranks.agreed(keep.byte()).bool()
    kept = bump_compact(keep, [net.rows.data, *(store[key] for store, key in places)])
    _replace(net, optimizer, places, kept, net.trainable[keep])
    return before - len(net.rows)


def _check_mask(net: BumpNet, keep: Tensor) -> None:
    rows, before = net.rows, len(net.rows)
    if not isinstance(keep, Tensor) or keep.dtype != torch.bool:
        raise TypeError(f"keep must be a bool tensor [{before}], got {getattr(keep, 'dtype', type(keep).__name__)}")
    if keep.shape != (before,) or keep.device != rows.device:
        raise ValueError(f"keep must be of shape [{before}] on {rows.device}, got {tuple(keep.shape)} on {keep.device}")
    if not bool(keep.any()):
        raise ValueError("keep must keep at least one bump")


@torch.no_grad()
def add_bumps(net: BumpNet, rows: Tensor, optimizer: Optimizer | None = None, group: Any = None) -> None:
    """Append bumps, in place; the optimiser's moments of the new ones start at zero, and they are trained.

    Parameters
    ----------
    net : BumpNet
        Gets a new Parameter ``rows``.
    rows : Tensor
        [new, columns], finite, of the net's dtype and device; see :func:`rows_at`.
    optimizer : torch.optim.Optimizer, optional
        One that trains ``net.rows``.
    group : torch.distributed.ProcessGroup, optional
        Its processes, with the same rows and moments, all append the ``rows`` of rank 0.

    Raises
    ------
    ValueError
        For rows that do not fit the net, an optimiser that does not train it, or ranks that differ in rows or
        moments; nothing is changed then.
    RuntimeError
        If the net's rows are computed from other parameters, or another rank failed.

    Examples
    --------
    >>> net = BumpNet(1, 4)
    >>> add_bumps(net, rows_at(net, torch.tensor([[0.3]])))
    >>> len(net.rows)
    5
    """
    ranks = Ranks(group, net.rows.device)
    places = _places(ranks, net, optimizer, lambda: _check_rows(net, rows))
    rows = ranks.agreed_rows(rows.detach())
    longer = [torch.cat([net.rows.data, rows])]
    for store, key in places:
        zeros = store[key].new_zeros(len(rows), *store[key].shape[1:])
        longer.append(torch.cat([store[key], zeros]))
    _replace(net, optimizer, places, longer, torch.cat([net.trainable, net.trainable.new_ones(len(rows))]))


def _check_rows(net: BumpNet, rows: Tensor) -> None:
    own = net.rows
    if rows.dim() != 2 or rows.shape[1] != own.shape[1] or rows.dtype != own.dtype or rows.device != own.device:
        wanted = f"[new, {own.shape[1]}], {own.dtype} on {own.device}"
        raise ValueError(f"rows must be {wanted}, got {tuple(rows.shape)}, {rows.dtype} on {rows.device}")
    if not bool(torch.isfinite(rows).all()):
        raise ValueError("rows must be finite")


Places = list[tuple[dict, str]]


def _places(ranks: Ranks, net: BumpNet, optimizer: Optimizer | None, check: Callable[[], None]) -> Places:
    """Places of the optimiser's tensors that move with the rows, after checking that all ranks agree."""

    def checked() -> Places:
        rows = rows_to_change(net)
        check()
        return _moments(rows, optimizer)

    places = ranks.checked(checked)
    moments = {f"{key} of the optimiser": store[key] for store, key in places}
    ranks.check_same({"the net's rows": net.rows, "trainable": net.trainable} | moments)
    return places


def _moments(rows: Tensor, optimizer: Optimizer | None) -> Places:
    """Places of the optimiser's tensors that have a row for every bump."""
    if optimizer is None:
        return []
    if not any(p is rows for group in optimizer.param_groups for p in group["params"]):
        raise ValueError("optimizer must train net.rows: it has no such parameter")
    if isinstance(optimizer, LBFGS):
        return []
    state = optimizer.state.get(rows, {})
    like_rows = (key for key, v in state.items() if isinstance(v, Tensor) and v.dim() == 2 and len(v) == len(rows))
    return [(state, key) for key in like_rows]


def put_rows(net: BumpNet, rows: Tensor, trainable: Tensor | None = None) -> None:
    """Give a net other rows [m, columns], copied; a new Parameter only if their number differs.

    Without ``trainable`` [m] the marks stay as they are, and if the number differs all bumps are trained.
    """
    rows = rows.to(net.rows)
    if rows.shape == net.rows.shape:
        with torch.no_grad():
            net.rows.copy_(rows)
    else:
        net.rows = torch.nn.Parameter(rows.clone(), net.rows.requires_grad)
    if trainable is None and len(rows) != len(net.trainable):
        trainable = net.trainable.new_ones(len(rows))
    if trainable is not None and not torch.equal(trainable.to(net.trainable), net.trainable):
        net.trainable = trainable


def _replace(
    net: BumpNet, optimizer: Optimizer | None, places: Places, tensors: Sequence[Tensor], trainable: Tensor
) -> None:
    """Store ``tensors``, the rows first, in the net and in the optimiser's places."""
    old, new = net.rows, torch.nn.Parameter(tensors[0], net.rows.requires_grad)
    for (store, key), t in zip(places, tensors[1:], strict=True):
        store[key] = t
    net.rows = new
    net.trainable = trainable
    if optimizer is None:
        return
    for group in optimizer.param_groups:
        group["params"][:] = [new if p is old else p for p in group["params"]]
    if isinstance(optimizer, LBFGS):
        optimizer.state.clear()
        forget_sizes(optimizer)
    elif old in optimizer.state:
        optimizer.state[new] = optimizer.state.pop(old)


@torch.no_grad()
def rows_at(net: BumpNet, x: Tensor, bumps: int | None = None, shrink: float = 1.0) -> Tensor:
    """Rows of new bumps centred at ``x`` [new, d], in the shape of a uniform grid, with amplitude zero.

    The shape is not copied from a neighbour: trained bumps often have shapes that train badly.

    Parameters
    ----------
    net : BumpNet
        Gives the frame and the domain.
    x : Tensor
        [new, d], finite; a point outside the box of the centres goes to its edge.
    bumps : int, optional
        Number of bumps of that grid; by default the net's and the new ones together.
    shrink : float
        Factor on the side lengths of the grid; the sharpness is divided by its square root.

    Returns
    -------
    Tensor
        [new, columns], in the net's dtype.

    Examples
    --------
    >>> net = BumpNet(2, 9)
    >>> rows = rows_at(net, torch.tensor([[0.5, 0.25]]))
    >>> BumpNet.from_rows(rows, net.frame, net.domain).centres.detach()
    tensor([[0.5000, 0.2500]])
    """
    layout, (lo, hi, scale) = net.layout, net.frame.double()
    if x.dim() != 2 or x.shape[1] != layout.dim or not bool(torch.isfinite(x).all()):
        raise ValueError(f"x must be finite and of shape [new, {layout.dim}], got {tuple(x.shape)}")
    if not 0 < shrink < math.inf:
        raise ValueError(f"shrink must be positive, got {shrink!r}")
    volume = float(torch.prod((net.domain[1] - net.domain[0]).double() * scale))
    spacing = shrink * (volume / (bumps or len(net.rows) + len(x))) ** (1 / layout.dim)
    rows = x.new_zeros(len(x), layout.columns, dtype=torch.float64)
    at = x.double() if net.maps is None else net.maps.at(x.double()).xi
    unit = (2 * at - lo - hi) / (hi - lo)
    rows[:, layout.centre] = torch.atanh(unit.clamp(-0.999, 0.999))
    rows[:, layout.size] = math.log(_OVERLAP * spacing)
    rows[:, layout.sharpness] = -0.5 * math.log(spacing)
    if not layout.tied:
        rows[:, layout.outer] = math.log(2) - 0.5 * math.log(spacing)
    return rows.to(net.rows)


@torch.no_grad()
def residual_peaks(net: BumpNet, x: Tensor, residual: Tensor, count: int, group: Any = None) -> Tensor:
    """Up to ``count`` of the points ``x`` [N, d] where ``residual`` is largest, half a bump's side apart.

    Parameters
    ----------
    net : BumpNet
        Gives the scale of each coordinate and the side of a bump, the median.
    x : Tensor
        [N, d].
    residual : Tensor
        [N] or [N, E].
    count : int
        At least 1.
    group : torch.distributed.ProcessGroup, optional
        Each of its processes has its own points, [N, d] with any N; all get the peaks over all points.

    Examples
    --------
    >>> net, x = BumpNet(1, 8), torch.linspace(-1, 1, 201)[:, None]
    >>> [round(p, 2) for p in residual_peaks(net, x, torch.exp(-((x - 0.5) ** 2)) + (x == -0.5), 2).flatten().tolist()]
    [-0.5, 0.5]
    """
    ranks = Ranks(group, x.device)
    ranks.checked(lambda: _check_peaks(x, residual, count))
    ranks.check_same({"count": count})
    height = residual.reshape(len(x), -1).norm(dim=1).double().nan_to_num(-1.0)
    places = x.to(net.frame) if net.maps is None else net.maps.at(x.double()).xi.to(net.frame)
    scaled = places * net.frame[2]
    apart = _APART * float(net.sizes.detach().median())
    found: list[Tensor] = []
    while len(found) < count:
        own = int(height.argmax())
        peak = torch.cat([height[own : own + 1], x[own].double()])
        peak = ranks.agreed(peak, ranks.highest(float(height[own])))
        if not peak[0] > 0:
            break
        found.append(peak[1:].to(x))
        center = peak[1:] if net.maps is None else net.maps.at(peak[1:]).xi
        near = torch.linalg.vector_norm(scaled - center.to(net.frame) * net.frame[2], dim=1) < apart
        height[near] = -1.0
    return torch.stack(found) if found else x[:0]


def _check_peaks(x: Tensor, residual: Tensor, count: int) -> None:
    if residual.shape[:1] != x.shape[:1] or residual.dim() not in (1, 2):
        raise ValueError(f"residual must have shape [{len(x)}] or [{len(x)}, E], got {tuple(residual.shape)}")
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")


@dataclass
class Pruning:
    """Prunes a net on a schedule in any training loop: call :meth:`step` after each step of the optimiser.

    Parameters
    ----------
    net : BumpNet
        What is trained.
    optimizer : torch.optim.Optimizer, optional
        What trains it.
    threshold : float
        Bumps with a score below this fraction of the largest are removed; 0 to 1.  Those that are not trained stay.
    every, start, stop : int
        At the steps start, start + every, ... up to stop.
    least : int
        Never fewer bumps than this.
    score : callable
        ``score(net)`` -> [M], :func:`peak_scores` by default.
    group : torch.distributed.ProcessGroup, optional
        Its processes, which train the same net, all remove the bumps that rank 0 chooses.

    Attributes
    ----------
    events : list of Event
        Bumps removed so far; :meth:`state_dict` contains them.

    Examples
    --------
    >>> net = BumpNet(1, 8)
    >>> with torch.no_grad():
    ...     net.amplitudes[:, 0] = torch.tensor([1.0, 1.0, 1e-4, 1.0, 1.0, 1e-4, 1.0, 1.0])
    ...
    >>> pruning = Pruning(net, threshold=0.05, every=1, start=1)
    >>> pruning.step(loss=0.25)
    Event(step=1, kind='prune', before=8, after=6, loss=0.25)
    """

    net: BumpNet
    optimizer: Optimizer | None = None
    threshold: float = 0.05
    every: int = 500
    start: int = 500
    stop: int | None = None
    least: int = 1
    score: Callable[[BumpNet], Tensor] = peak_scores
    events: list[Event] = field(default_factory=list)
    taken: int = 0
    group: Any = None

    def __post_init__(self):
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be between 0 and 1, got {self.threshold!r}")
        for name in ("every", "start", "least"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
        if self.stop is not None and self.stop < self.start:
            raise ValueError(f"stop must be at least start, {self.start}, got {self.stop!r}")
        when = {name: getattr(self, name) for name in ("every", "start", "stop", "taken")}
        Ranks(self.group, self.net.rows.device).check_same(when)

    def step(self, loss: float | Tensor | None = None) -> Event | None:
        """Count a step and prune if it is due; returns the event, or None."""
        self.taken += 1
        at, last = self.taken - self.start, math.inf if self.stop is None else self.stop
        if at < 0 or at % self.every or self.taken > last:
            return None
        before = len(self.net.rows)
        keep = worth_keeping(self.score(self.net), self.threshold, self.least) | ~self.net.trainable
        keep = Ranks(self.group, keep.device).agreed(keep.byte()).bool()
        if bool(keep.all()):
            return None
        keep_bumps(self.net, keep, self.optimizer, self.group)
        loss = None if loss is None else float(torch.as_tensor(loss).detach())
        self.events.append(Event(self.taken, "prune", before, len(self.net.rows), loss))
        return self.events[-1]

    def state_dict(self) -> dict[str, Any]:
        """Steps taken and events, as plain data."""
        return {"taken": self.taken, "events": [asdict(event) for event in self.events]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.taken, self.events = int(state["taken"]), [Event(**event) for event in state["events"]]


def worth_keeping(scores: Tensor, threshold: float, least: int = 1) -> Tensor:
    """Mask [M] of the bumps with a score of at least ``threshold`` times the largest, and of the ``least`` best ones.

    A bump whose score is NaN is kept, as it cannot be judged.

    >>> worth_keeping(torch.tensor([1.0, 0.01, float("nan"), 0.2]), 0.05)
    tensor([ True, False,  True,  True])
    """
    if scores.dim() != 1:
        raise ValueError(f"scores must have shape [M], got {tuple(scores.shape)}")
    known = scores.nan_to_num(math.inf, posinf=math.inf)
    finite = known[torch.isfinite(known)]
    keep = known >= threshold * (finite.max() if len(finite) else 0.0)
    best = torch.topk(known, min(least, len(known))).indices
    return keep.index_fill(0, best, True)


__all__ = [
    "Pruning",
    "add_bumps",
    "keep_bumps",
    "loss_increases",
    "peak_scores",
    "put_rows",
    "residual_peaks",
    "rows_at",
    "worth_keeping",
]
