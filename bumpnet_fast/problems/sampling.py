"""Collocation points in a box and on its faces, all float64."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor

from ..core.rows import check_memory
from ..core.types import Sampling

KINDS: tuple[Sampling, ...] = get_args(Sampling)

#: Fewest points along an axis when a number of points is spread over the axes.
_FEWEST = 4


def spread(points: int, widths: tuple[float, ...]) -> tuple[int, ...]:
    """Numbers of grid points per axis, ``points`` or a little more in all, in proportion to ``widths``.

    >>> spread(1000, (1.0, 2.5))
    (20, 50)
    """
    spacing = (math.prod(widths) / points) ** (1 / len(widths))
    return tuple(max(_FEWEST, math.ceil(width / spacing - 1e-9)) for width in widths)


def interior(domain: Tensor, counts: tuple[int, ...], kind: Sampling = "grid", seed: int = 0) -> Tensor:
    """Points [n, d] inside the box ``domain`` [2, d], none on its boundary.

    Parameters
    ----------
    domain : Tensor
        [2, d], lower and upper corner.
    counts : tuple of int
        Points per axis; a scattered kind uses only their product.
    kind : str
        "grid": middles of equal cells.  "chebyshev": denser at the boundary.  "sobol": scrambled
        low-discrepancy points.  "uniform": independent random points.
    seed : int
        Seed of the scattered kinds.

    Raises
    ------
    ValueError
        For an unknown kind, or counts that do not fit the domain.

    Examples
    --------
    >>> interior(torch.tensor([[0.0], [1.0]]), (2,))[:, 0].tolist()
    [0.25, 0.75]
    """
    lo, hi = domain.double()
    if len(counts) != len(lo) or min(counts) < 1:
        raise ValueError(f"points must be {len(lo)} positive counts, one per dimension, got {tuple(counts)}")
    check_memory("points", tuple(counts), counts, len(lo))
    n, generator = math.prod(counts), torch.Generator().manual_seed(seed)
    if kind == "grid":
        unit = torch.cartesian_prod(*((torch.arange(k, dtype=torch.float64) + 0.5) / k for k in counts))
    elif kind == "chebyshev":
        angles = (math.pi * (torch.arange(k, dtype=torch.float64) + 0.5) / k for k in counts)
        unit = torch.cartesian_prod(*(torch.sin(0.5 * angle) ** 2 for angle in angles))
    elif kind == "sobol":
        unit = torch.quasirandom.SobolEngine(len(lo), scramble=True, seed=seed).draw(n, dtype=torch.float64)
    elif kind == "uniform":
        unit = torch.rand(n, len(lo), dtype=torch.float64, generator=generator)
    else:
        raise ValueError(f"sampling must be one of {', '.join(KINDS)}, got {kind!r}")
    return lo + (hi - lo) * unit.reshape(n, len(lo))


def faces(domain: Tensor, counts: tuple[int, ...], held: Sequence[tuple[int, int]] | None = None) -> Tensor:
    """Points [n, d] on faces of the box ``domain`` [2, d]: grids with ``counts`` points per axis, edges included.

    ``held`` names the faces by axis and side, 0 for the lower and 1 for the upper one; by default all.

    >>> faces(torch.tensor([[0.0], [1.0]]), (7,))[:, 0].tolist()
    [0.0, 1.0]
    """
    lo, hi = domain.double()
    ticks = [torch.linspace(0, 1, k, dtype=torch.float64) for k in counts]
    parts = [torch.empty(0, len(ticks), dtype=torch.float64)]
    for axis, side in itertools.product(range(len(ticks)), (0, 1)) if held is None else held:
        ends = [*ticks[:axis], torch.tensor([float(side)], dtype=torch.float64), *ticks[axis + 1 :]]
        parts.append(torch.cartesian_prod(*ends).reshape(-1, len(ticks)))
    return lo + (hi - lo) * torch.cat(parts)


def within(domain: Tensor, x: Tensor) -> Tensor:
    """Which of the points ``x`` [n, d] lie in the closed box ``domain`` [2, d]."""
    lo, hi = domain.to(x)
    return ((x >= lo) & (x <= hi)).all(1)


def lattice(domain: Tensor, most: int = 10_201) -> Tensor:
    """A regular grid [n, d] over the closed box with at most ``most`` points, to measure errors on: 101 x 101 in 2D."""
    lo, hi = domain.double()
    d = len(lo)
    per_axis = max(2, math.floor(most ** (1 / d) + 1e-9))
    unit = torch.cartesian_prod(*[torch.linspace(0, 1, per_axis, dtype=torch.float64)] * d)
    return lo + (hi - lo) * unit.reshape(-1, d)
