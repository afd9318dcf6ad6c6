"""Maps of coordinates: bumps on an even grid of xi = g(x) are small where g is steep.

Every axis has a map of its own, an analytic monotone function from [lo, hi] onto [lo, hi], so that the frame and the
domain of a net keep their meaning.  docs/math.md, "mapped coordinates".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .jet import Jet
from .types import Want

Kind = Literal["identity", "asinh", "logistic"]
Coefficients = tuple[Tensor | None, Tensor | None, Tensor | None]

KINDS: tuple[Kind, ...] = ("identity", "asinh", "logistic")
#: Limits of a feature's width in lengths of the axis: what float64 can place, and what is no feature any more.
NARROWEST, WIDEST = 1e-8, 10.0
#: Limits of the even part: without any of it a bump far from the features would be as wide as the axis.
LEAST_EVEN, MOST_EVEN = 1e-3, 0.999
#: Nodes of the table that an inverse starts from, for the even part and for every feature; and steps that follow.
_NODES, _STEPS = 65, 60


@dataclass(frozen=True)
class AxisMap:
    """A monotone map of [lo, hi] onto itself: ``share`` of the identity, the rest steep at the features.

    Parameters
    ----------
    lo, hi : float
        Ends of the axis.
    kind : "identity", "asinh" or "logistic"
        asinh((x - c) / w) is for layers and shocks, whose tails are long; the logistic function for peaks.
    centres, widths : tuple of float
        Centre and width of every feature, in coordinates; none for "identity".  The centres are in [lo, hi].
    share : float
        Share of the identity, from 0.001 to 0.999; 1 for "identity".

    Raises
    ------
    ValueError
        If a parameter is outside its bounds.

    Notes
    -----
    docs/math.md, "mapped coordinates".

    Examples
    --------
    >>> layer = AxisMap(0.0, 1.0, "asinh", (1.0,), (0.01,), 0.2)
    >>> xi, first, second = layer(torch.tensor([0.0, 0.99, 1.0], dtype=torch.float64))
    >>> xi.round(decimals=2).tolist(), bool(first[2] > 10 * first[0])
    ([0.0, 0.86, 1.0], True)
    >>> layer.inverse(xi).round(decimals=6).tolist()
    [0.0, 0.99, 1.0]
    """

    lo: float
    hi: float
    kind: Kind = "identity"
    centres: tuple[float, ...] = ()
    widths: tuple[float, ...] = ()
    share: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if not (math.isfinite(self.lo) and math.isfinite(self.hi) and self.lo < self.hi):
            raise ValueError(f"lo and hi must be finite with lo < hi, got {self.lo} and {self.hi}")
        if self.kind == "identity":
            if self.centres or self.widths or self.share != 1.0:
                raise ValueError(f"an identity has no centres, no widths and share 1, got {self}")
            return
        length = self.hi - self.lo
        if not self.centres or len(self.centres) != len(self.widths):
            counts = f"{len(self.centres)} and {len(self.widths)}"
            raise ValueError(f"centres and widths must be as many, and at least one, got {counts}")
        if not all(self.lo <= centre <= self.hi for centre in self.centres):
            raise ValueError(f"centres must be in [{self.lo}, {self.hi}], got {self.centres}")
        if not all(NARROWEST * length <= width <= WIDEST * length for width in self.widths):
            limits = f"[{NARROWEST * length:g}, {WIDEST * length:g}]"
            raise ValueError(f"widths must be in {limits}, got {self.widths}")
        if not LEAST_EVEN <= self.share <= MOST_EVEN:
            raise ValueError(f"share must be in [{LEAST_EVEN}, {MOST_EVEN}], got {self.share}")

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """xi and its first and second derivative at ``x``, of any shape; computed in float64, in the dtype of x."""
        if self.kind == "identity":
            return x, torch.ones_like(x), torch.zeros_like(x)
        at, (below, above), length = x.double(), self._ends(), self.hi - self.lo
        value, first, second = self._raw(at)
        factor = (1 - self.share) * length / (above - below)
        xi = self.lo + self.share * (at - self.lo) + factor * (value - below)
        return xi.to(x), (self.share + factor * first).to(x), (factor * second).to(x)

    def _raw(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sum of the features, not normalised, with derivatives."""
        parts = []
        for centre, width in zip(self.centres, self.widths, strict=True):
            z = (x - centre) / width
            if self.kind == "asinh":
                slope = (1 + z * z).rsqrt()
                parts.append((torch.asinh(z), slope / width, -z * slope**3 / width**2))
            else:
                step = torch.sigmoid(z)
                slope = step * torch.sigmoid(-z)
                parts.append((step, slope / width, slope * (1 - 2 * step) / width**2))
        value, first, second = (torch.stack(part).sum(0) for part in zip(*parts, strict=True))
        return value, first, second

    def _ends(self) -> tuple[float, float]:
        """The sum of the features at lo and hi, in plain numbers: they are needed at every call."""
        below, above = (
            sum(
                _feature(self.kind, (x - centre) / width)
                for centre, width in zip(self.centres, self.widths, strict=True)
            )
            for x in (self.lo, self.hi)
        )
        return below, above

    def inverse(self, xi: Tensor) -> Tensor:
        """The x in [lo, hi] that is mapped to ``xi``, to rounding, or the nearer end; differentiable once."""
        if self.kind == "identity":
            return xi
        wanted = xi.detach().double()
        nodes = self._nodes(wanted)
        table = self(nodes)[0]
        k = torch.searchsorted(table, wanted.contiguous()).clamp(1, len(nodes) - 1)
        a, b = nodes[k - 1], nodes[k]
        x = a + (b - a) * ((wanted - table[k - 1]) / (table[k] - table[k - 1]).clamp_min(1e-300)).clamp(0, 1)
        tiny = 4 * torch.finfo(torch.float64).eps * max(abs(self.lo), abs(self.hi))
        for _ in range(_STEPS):  # Newton's, within a bracket that shrinks
            value, first, _ = self(x)
            low = value < wanted
            a, b = torch.where(low, x, a), torch.where(low, b, x)
            step = x - (value - wanted) / first
            step = torch.where((step >= a) & (step <= b), step, 0.5 * (a + b))
            done = bool(((step - x).abs() <= tiny).all())
            x = step
            if done:
                break
        x = torch.where(torch.isnan(wanted), wanted, x)
        if xi.requires_grad:  # of the implicit function
            x = x + (xi - xi.detach()) / self(x)[1]
        return x.to(xi)

    def _nodes(self, like: Tensor) -> Tensor:
        """Sorted places in [lo, hi], dense where the map is steep."""
        t = torch.linspace(0, 1, _NODES, dtype=torch.float64, device=like.device)
        nodes = [self.lo + (self.hi - self.lo) * t]
        for centre, width in zip(self.centres, self.widths, strict=True):
            spread = torch.sinh(22 * (2 * t - 1)) if self.kind == "asinh" else torch.logit(t, 1e-15)
            nodes.append((centre + width * spread).clamp(self.lo, self.hi))
        return torch.cat(nodes).sort().values

    def described(self) -> str:
        """In words, for a representation."""
        if self.kind == "identity":
            return "identity"
        places = zip(self.centres, self.widths, strict=True)
        return f"{self.kind} at {', '.join(f'{centre:.4g} (width {width:.2g})' for centre, width in places)}"


def _feature(kind: Kind, z: float) -> float:
    if kind == "asinh":
        return math.asinh(z)
    return 1 / (1 + math.exp(-z)) if z >= 0 else 1 - 1 / (1 + math.exp(z)) if z > -700 else 0.0


class Mapped(NamedTuple):
    """xi [N, d] at some points, and the first and second derivative [N, d] of each axis' map."""

    xi: Tensor
    first: Tensor
    second: Tensor

    def jet(self, jet: Jet, want: Want) -> Jet:
        """The jet in x, as far as ``want``, of a function whose jet in xi is known, as far as :func:`inner_want`."""
        if want == "value":
            return jet
        g1, g2 = self.first[:, None], self.second[:, None]
        du = jet.gradient
        assert du is not None
        gradient = g1 * du
        if want == "gradient":
            return Jet(want, jet.value, gradient)
        if want == "hessian":
            second = g1[..., :, None] * g1[..., None, :] * jet.hessian + torch.diag_embed(g2 * du)
            return Jet(want, jet.value, gradient, second)
        second = g1 * g1 * jet.diagonal + g2 * du
        return Jet(want, jet.value, gradient, second.sum(-1) if want == "laplacian" else second)

    def coefficients(self, coefficients: Coefficients, want: Want) -> Coefficients:
        """Coefficients of a row operator by derivatives in xi, in the form of :func:`inner_want`, from those in x."""
        c0, c1, c2 = coefficients
        b1 = None if c1 is None else self.first * c1
        if c2 is None:
            return c0, b1, None
        if want == "hessian":
            unmixed, b2 = c2.diagonal(dim1=-2, dim2=-1), self.first[:, :, None] * self.first[:, None, :] * c2
        else:
            unmixed = c2[:, None] if want == "laplacian" else c2
            b2 = self.first * self.first * unmixed
        bent = self.second * unmixed
        return c0, bent if b1 is None else b1 + bent, b2


def inner_want(want: Want) -> Want:
    """How far a jet in xi has to go for one in x: the axes have different factors in a Laplacian."""
    return "diagonal" if want == "laplacian" else want


@dataclass(frozen=True)
class Maps:
    """A map for every axis of a box.

    Parameters
    ----------
    axes : tuple of AxisMap
        One for every axis.

    Examples
    --------
    >>> maps = Maps((AxisMap(0.0, 1.0, "asinh", (1.0,), (0.01,), 0.2), AxisMap(0.0, 2.0)))
    >>> maps.at(torch.tensor([[0.99, 0.5]])).xi
    tensor([[0.8649, 0.5000]])
    >>> Maps.from_tensor(maps.to_tensor()) == maps
    True
    """

    axes: tuple[AxisMap, ...]

    def __post_init__(self) -> None:
        if not self.axes or not all(isinstance(axis, AxisMap) for axis in self.axes):
            raise TypeError(f"axes must be an AxisMap for every axis, got {self.axes!r}")

    @classmethod
    def identity(cls, domain: Tensor) -> Maps:
        """Maps that change nothing, of the box [2, d]."""
        return cls(tuple(AxisMap(lo, hi) for lo, hi in domain.detach().double().cpu().T.tolist()))

    def __len__(self) -> int:
        return len(self.axes)

    def with_axis(self, axis: int, new: AxisMap) -> Maps:
        """The same with another map of one axis."""
        return Maps(tuple(new if j == axis else old for j, old in enumerate(self.axes)))

    def at(self, x: Tensor) -> Mapped:
        """xi and derivatives at the points ``x`` [N, d], differentiable by x."""
        parts = zip(*(axis(x[..., j]) for j, axis in enumerate(self.axes)), strict=True)
        return Mapped(*(torch.stack(part, -1) for part in parts))

    def inverse(self, xi: Tensor) -> Tensor:
        """The points [..., d] that are mapped to ``xi``; beyond the box its faces."""
        return torch.stack([axis.inverse(xi[..., j]) for j, axis in enumerate(self.axes)], -1)

    def weights(self, x: Tensor) -> Tensor:
        """Factors [N] of rows at points that are uniform in xi, 1 in the mean square: those of an integral over x."""
        w = self.at(x).first.prod(-1).rsqrt()
        return w / w.square().mean().sqrt()

    def to_tensor(self) -> Tensor:
        """All parameters as one float64 tensor; see :meth:`from_tensor`."""
        numbers = []
        for axis in self.axes:
            features = *axis.centres, *axis.widths
            numbers += [KINDS.index(axis.kind), axis.lo, axis.hi, axis.share, len(axis.centres), *features]
        return torch.tensor(numbers, dtype=torch.float64, device="cpu")

    @classmethod
    def from_tensor(cls, numbers: Tensor) -> Maps:
        """The maps of :meth:`to_tensor`; ValueError if the numbers are none."""
        left, axes = numbers.flatten().tolist(), []
        try:
            while left:
                kind, lo, hi, share, count = left[:5]
                features, left = left[5 : 5 + 2 * int(count)], left[5 + 2 * int(count) :]
                if count < 0 or len(features) != 2 * count:
                    raise ValueError("their number is wrong")
                centres, widths = features[: int(count)], features[int(count) :]
                axes.append(AxisMap(lo, hi, KINDS[int(kind)], tuple(centres), tuple(widths), share))
            return cls(tuple(axes))
        except (ValueError, IndexError, TypeError, OverflowError) as error:
            raise ValueError(f"the numbers of the maps are damaged: {error}") from error

    def described(self) -> str:
        """In words, for a representation."""
        return "; ".join(axis.described() for axis in self.axes)


def check_maps(maps: Maps | Sequence[AxisMap] | None, domain: Tensor) -> Maps | None:
    """Maps of the box [2, d]; None if they change nothing.

    Raises
    ------
    TypeError, ValueError
        If they are no maps, or those of another box.
    """
    if maps is None:
        return None
    if not isinstance(maps, Maps):
        if not isinstance(maps, (tuple, list)):
            raise TypeError(f"maps must be Maps, an AxisMap for every axis or None, got {type(maps).__name__}")
        maps = Maps(tuple(maps))
    box = domain.detach().double().cpu()
    ends = torch.tensor([[a.lo for a in maps.axes], [a.hi for a in maps.axes]], dtype=torch.float64)
    widths = box[1] - box[0]
    if ends.shape != box.shape or not bool(((ends - box).abs() <= 1e-5 * widths).all()):  # the box may be of float32
        raise ValueError(f"maps must be those of the domain {box.tolist()}, got maps of {ends.tolist()}")
    return None if all(axis.kind == "identity" for axis in maps.axes) else maps


def refuse_maps(net: object, what: str) -> None:
    """Raise ValueError if a net has maps, where ``what`` does not know them."""
    maps = getattr(net, "maps", None)
    if maps is not None:
        remedy = "use a net without maps= there"
        raise ValueError(f"net must have no maps for {what}, got a net with maps {maps.described()}: {remedy}")


def mapped_jet(maps: Maps | None, x: Tensor, want: Want, jet: Callable[[Tensor, Want], Jet]) -> Jet:
    """The jet in x of a function that ``jet`` gives in xi."""
    if maps is None:
        return jet(x, want)
    mapped = maps.at(x)
    return mapped.jet(jet(mapped.xi, inner_want(want)), want)


__all__ = ["KINDS", "AxisMap", "Mapped", "Maps", "check_maps", "inner_want", "mapped_jet", "refuse_maps"]
