"""PatchNet: one small basis of flat bumps, repeated in every leaf of a quadtree with amplitudes of its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..core.functional import bump_basis
from ..core.jet import Jet
from ..core.reference import level_of
from ..core.rows import RowLayout
from ..core.types import Want

#: Points evaluated at once.
_CHUNK = 8192
#: The largest level of a leaf: numbers of leaves along the curve that orders them stay exact.
DEEPEST = 26


class PatchNet(nn.Module):
    """A function in pieces: in every leaf of a quadtree a sum of the same flat bumps, with amplitudes of its own.

    It is what :func:`~bumpnet_fast.solve` with ``error`` finds where a solution has local features in two dimensions.
    It is evaluated as a :class:`~bumpnet_fast.BumpNet` is, in float64, and is not trained: values and derivatives of
    neighbouring leaves agree as far as its error.

    Parameters
    ----------
    shapes : Tensor
        [m, columns], float64: the bumps in the unit square; their amplitudes are not read.
    frame : Tensor
        [3, 2], of these rows.
    domain : Tensor
        [2, 2], lower and upper corner.
    roots : tuple of int
        Cells of level 0 along the axes.
    leaves : Tensor
        [n, 3], int64: level, and place along the axes in cells of that level.  They cover the domain once.
    amplitudes : Tensor
        [n, m], of the bumps of every leaf.

    Attributes
    ----------
    rows : Tensor
        [n m, 1]: the amplitudes of all bumps.

    Examples
    --------
    >>> from bumpnet_fast import problems, solve
    >>> net = solve(problems.get("sharp-poisson"), error=1e-3).net
    >>> net.jet(torch.zeros(5, 2, dtype=torch.float64), "laplacian").laplacian.shape
    torch.Size([5, 1])
    """

    shapes: Tensor
    frame: Tensor
    domain: Tensor
    leaves: Tensor
    amplitudes: Tensor
    maps = None
    tied = True
    all_trained = False

    def __init__(
        self, shapes: Tensor, frame: Tensor, domain: Tensor, roots: tuple[int, int], leaves: Tensor, amplitudes: Tensor
    ):
        super().__init__()
        self.layout, self.roots = RowLayout(2, 1), (int(roots[0]), int(roots[1]))
        for name, tensor, shape in (
            ("shapes", shapes, (None, self.layout.columns)), ("frame", frame, (3, 2)), ("domain", domain, (2, 2)),
            ("amplitudes", amplitudes, (len(leaves), len(shapes))),
        ):  # fmt: skip
            if tensor.dtype != torch.float64 or len(tensor.shape) != 2 or any(
                wanted not in (None, got) for wanted, got in zip(shape, tensor.shape, strict=True)
            ):  # fmt: skip
                raise ValueError(f"{name} must be float64 of shape {shape}, got {tensor.dtype} {tuple(tensor.shape)}")
        _check_leaves(leaves, self.roots)
        shapes = shapes.detach().clone()
        shapes[:, self.layout.amplitude] = 1.0
        order = _starts(leaves, self.roots).argsort()
        for name, tensor in (
            ("shapes", shapes), ("frame", frame), ("domain", domain), ("leaves", leaves[order]),
            ("amplitudes", amplitudes[order]),
        ):  # fmt: skip
            self.register_buffer(name, tensor.detach().clone())

    @property
    def rows(self) -> Tensor:
        return self.amplitudes.reshape(-1, 1)

    @property
    def boxes(self) -> Tensor:
        """Lower and upper corner [n, 2, 2] of every leaf."""
        counts = torch.tensor(self.roots) * 2 ** self.leaves[:, :1]
        lo, widths = self.domain[0], self.domain[1] - self.domain[0]
        corners = [lo + widths * (self.leaves[:, 1:] + k) / counts for k in (0, 1)]
        return torch.stack(corners, 1)

    def leaf_of(self, x: Tensor) -> Tensor:
        """The number [N] of the leaf of every point [N, 2]; points outside of the domain belong to the nearest one."""
        t = (x.detach() - self.domain[0]) / (self.domain[1] - self.domain[0])
        cells = torch.tensor(self.roots) * 2**DEEPEST
        at = (t.nan_to_num(0.0) * cells).floor().long()
        at = torch.minimum(at.clamp_min(0), cells - 1)
        return torch.searchsorted(_starts(self.leaves, self.roots), _along_curve(at, self.roots), right=True) - 1

    def spread(self, number: int, generator: torch.Generator) -> Tensor:
        """Random points [n number, 2], ``number`` in every leaf."""
        boxes = self.boxes[:, :, None]
        t = torch.rand(len(boxes), number, 2, dtype=torch.float64, generator=generator)
        return (boxes[:, 0] + (boxes[:, 1] - boxes[:, 0]) * t).flatten(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Value [N, 1] at the points ``x`` [N, 2]."""
        return self.jet(x, "value").value

    def jet(self, x: Tensor, want: Want = "hessian") -> Jet:
        """Value and derivatives at ``x`` [N, 2]; as :meth:`bumpnet_fast.BumpNet.jet`."""
        level_of(want)
        if not isinstance(x, Tensor) or x.dim() != 2 or x.shape[1] != 2:
            got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"x must be a tensor [N, 2], got {got}")
        if x.dtype != self.amplitudes.dtype or x.dtype != torch.float64:
            raise TypeError(f"x and the net must be float64, as the amplitudes cancel, got {x.dtype}")
        jets = [self._jet(chunk, want) for chunk in x.split(_CHUNK)]
        parts = [[part for part in jet.parts() if part is not None] for jet in jets]
        return Jet(want, *(torch.cat(part) for part in zip(*parts, strict=True)))

    def _jet(self, x: Tensor, want: Want) -> Jet:
        leaf = self.leaf_of(x)
        level, place = self.leaves[leaf, :1], self.leaves[leaf, 1:]
        widths = (self.domain[1] - self.domain[0]) / (torch.tensor(self.roots) * 2**level)
        lo = self.domain[0] + widths * place
        within = bump_basis((x - lo) / widths, self.shapes, self.frame, _inner(want), tied=True)
        by = self.amplitudes[leaf]

        def summed(part: Tensor) -> Tensor:
            return torch.einsum("nm...,nm->n...", part, by)[:, None]

        value = summed(within.value)
        gradient = None if within.gradient is None else summed(within.gradient) / widths[:, None]
        second = None if within.second is None else summed(within.second)
        if second is not None and want == "hessian":
            second = second / (widths[:, None, :, None] * widths[:, None, None, :])
        elif second is not None:
            second = second / widths[:, None] ** 2
            second = second.sum(-1) if want == "laplacian" else second
        return Jet(want, value, gradient, second)

    def check(self) -> list[str]:
        """Nothing: bumps that are not trained do not slip between points."""
        return []

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        found = fn(self.amplitudes.new_empty(0))
        if found.dtype != torch.float64 or found.device.type != "cpu":
            got = f"{found.dtype} on {found.device}"
            raise TypeError(f"a net of patches must be float64 on the CPU, as its amplitudes cancel, got {got}")
        return super()._apply(fn, recurse)

    def extra_repr(self) -> str:
        return f"dim=2, leaves={len(self.leaves)}, bumps={self.amplitudes.numel()}, outputs=1, dtype=float64"


def _inner(want: Want) -> Want:
    return "diagonal" if want == "laplacian" else want


def _along_curve(at: Tensor, roots: tuple[int, int]) -> Tensor:
    """Numbers along a curve through the cells [N, 2] of the deepest level that passes through leaf after leaf."""
    root, inner = at >> DEEPEST, at & (2**DEEPEST - 1)
    number = root[:, 0] * roots[1] + root[:, 1]
    return (number << (2 * DEEPEST)) | (_spread(inner[:, 0]) << 1) | _spread(inner[:, 1])


def _spread(bits: Tensor) -> Tensor:
    """The bits with a zero between each two."""
    for by, mask in (
        (16, 0x0000FFFF0000FFFF), (8, 0x00FF00FF00FF00FF), (4, 0x0F0F0F0F0F0F0F0F), (2, 0x3333333333333333),
        (1, 0x5555555555555555),
    ):  # fmt: skip
        bits = (bits | (bits << by)) & mask
    return bits


def _starts(leaves: Tensor, roots: tuple[int, int]) -> Tensor:
    return _along_curve(leaves[:, 1:] << (DEEPEST - leaves[:, :1]), roots)


def _check_leaves(leaves: Tensor, roots: tuple[int, int]) -> None:
    """Raise ValueError unless the leaves cover all the cells of level 0 exactly once."""
    if leaves.dtype != torch.int64 or leaves.dim() != 2 or leaves.shape[1] != 3 or not len(leaves):
        raise ValueError(f"leaves must be int64 of shape [n, 3], got {leaves.dtype} {tuple(leaves.shape)}")
    if min(roots) < 1 or max(roots) > 2**10:
        raise ValueError(f"roots must be two numbers from 1 to {2**10}, got {roots}")
    level, place = leaves[:, :1], leaves[:, 1:]
    known = (level >= 0) & (level <= DEEPEST)
    if not bool((known & (place >= 0) & (place < torch.tensor(roots) * 2 ** level.clamp(0, DEEPEST))).all()):
        raise ValueError("leaves must have a level and a place inside of the domain")
    starts, order = _starts(leaves, roots).sort()
    ends = starts + (1 << (2 * (DEEPEST - level[order, 0])))
    whole = int(starts[0]) == 0 and int(ends[-1]) == math.prod(roots) << (2 * DEEPEST)
    if not whole or not torch.equal(ends[:-1], starts[1:]):
        raise ValueError("leaves must cover the domain once")


__all__ = ["DEEPEST", "PatchNet"]
