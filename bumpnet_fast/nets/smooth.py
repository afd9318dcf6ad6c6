"""Bases of smooth bumps on a grid, made for amplitudes that are solved for while the shapes stay as they are.

Bumps that are trained start sharp, so that each has a place of its own.  A basis whose amplitudes alone are solved for
is the better the flatter and the wider its bumps are, until rounding ends that: their amplitudes cancel
(docs/choosing.md).  How flat, and how many cells along which axis, depends on u.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.rows import RowLayout, grid_rows
from .bumpnet import BumpNet

#: Side lengths of the bumps in cells of the grid, and the change that breaks the grid.
OVERLAP, PERTURBED = 6.0, 0.1
#: Fewest cells along an axis.
_FEWEST = 2


@dataclass(frozen=True)
class Shape:
    """What may be chosen of a smooth basis, whatever its size.

    Attributes
    ----------
    sharpness : float
        Relative to that of a net to be trained.
    ratio : tuple of float
        Logarithms, to the base of 2, of how many more cells there are along each axis than in square cells.
    """

    sharpness: float
    ratio: tuple[float, ...]

    @classmethod
    def of_counts(cls, sharpness: float, counts: Sequence[int], widths: Sequence[float]) -> Shape:
        """With the ratio of so many cells along the axes of a box of these widths."""
        logs = [math.log2(count / width) for count, width in zip(counts, widths, strict=True)]
        return cls(sharpness, tuple(one - sum(logs) / len(logs) for one in logs))

    def denser(self, axis: int, by: float) -> Shape:
        """With cells ``2**by`` times as many along an axis, and as many in all."""
        others = by / max(1, len(self.ratio) - 1)
        return Shape(self.sharpness, tuple(r + (by if j == axis else -others) for j, r in enumerate(self.ratio)))

    def sharper(self, by: float) -> Shape:
        """With the sharpness times ``by``."""
        return Shape(self.sharpness * by, self.ratio)

    def counts(self, bumps: int, widths: Sequence[float]) -> tuple[int, ...]:
        """Cells along the axes of a box of these widths, about ``bumps`` in all."""
        lengths = [width * 2**r for width, r in zip(widths, self.ratio, strict=True)]
        spacing = (math.prod(lengths) / bumps) ** (1 / len(lengths))
        return tuple(max(_FEWEST, round(length / spacing)) for length in lengths)


def smooth_rows(
    counts: tuple[int, ...], domain: Tensor, layout: RowLayout, sharpness: float, seed: int, scale: Any = "auto"
) -> tuple[Tensor, Tensor]:
    """Rows [M, columns] of a smooth basis with zero amplitudes, and their frame [3, d]; both float64 on the CPU.

    Parameters
    ----------
    counts : tuple of int
        Cells along the axes.
    domain : Tensor
        [2, d].
    layout : RowLayout
        Of the rows.
    sharpness : float
        Relative to that of a net to be trained.
    seed : int
        Of the change that breaks the grid.
    scale : "auto" or Tensor
        Units of sizes, as for :class:`~bumpnet_fast.BumpNet`.
    """
    rows, frame = grid_rows(counts, domain.cpu(), layout, overlap=OVERLAP, scale=scale)
    rows[:, layout.sharpness] += math.log(sharpness)
    shapes = rows[:, : layout.shape_columns]
    shapes += PERTURBED * torch.randn(shapes.shape, dtype=rows.dtype, generator=torch.Generator().manual_seed(seed))
    return rows, frame


def smooth_net(
    counts: tuple[int, ...], domain: Tensor, outputs: int, sharpness: float, seed: int, device: torch.device
) -> BumpNet:
    """A net of a smooth basis; see :func:`smooth_rows`."""
    rows, frame = smooth_rows(counts, domain, RowLayout(len(counts), outputs), sharpness, seed)
    return BumpNet.from_rows(rows.to(device), frame.to(device), domain)


__all__ = ["OVERLAP", "PERTURBED", "Shape", "smooth_net", "smooth_rows"]
