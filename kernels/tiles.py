"""Culling on CUDA tensors: when it pays, the order of the points, and the lists that cull.py's kernels make.

Memory is O(N + M + pairs of tiles and bumps that meet).  The host waits for the device twice: for the share of bumps
that are sharp, before anything is sorted, and for the lengths of the lists.  Where it must not wait, all pairs are
taken.  The rule and its constants are those of csrc/cull.h; only the sizes from which on it pays differ on a GPU.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from ..core.reference import DIAGONAL
from ..core.rows import RowLayout
from .cull import boxes_kernel, cells_kernel, lists_kernel

#: Points of a tile; one program owns a tile.
TILE = 128
#: Exponents beyond which a sigmoid is 0 or 1 to working precision.
NOTHING_LEFT = {torch.float32: 17.0, torch.float64: 37.0}
#: Largest fraction of pairs of tiles and bumps that may meet.
WORTHWHILE = 0.4
#: Tiles or bumps that a program looks at together; columns are padded to a multiple of it.
_ABREAST = 512
#: Fewest points, and pairs of points and bumps, that sorting and waiting may pay for: half a millisecond of an H100.
FEWEST_POINTS, FEWEST_PAIRS = 64 * TILE, 2**28


class Lists(NamedTuple):
    """Owner o, a tile or a bump, has ids[starts[o]] ... ids[starts[o + 1] - 1], and sums ``within`` [owners, K]."""

    starts: Tensor
    ids: Tensor
    within: Tensor


def read(numbers: Tensor) -> list[int]:
    """Read numbers on the host, which waits for them."""
    return numbers.tolist()


def may_wait(x: Tensor) -> bool:
    """Whether the host may wait: not while a CUDA graph is captured, and not for fake tensors."""
    return not (x.is_meta or (x.is_cuda and torch.cuda.is_current_stream_capturing()))


def may_pay(x: Tensor, rows: Tensor, tied: bool, when: str) -> bool:
    """Whether to sort: many pairs, and most bumps so sharp that they vanish where S is lowest, 1 - 2d."""
    (n, dim), m = x.shape, rows.shape[0]
    if when == "never" or n == 0 or m == 0 or not may_wait(x):
        return False
    if when == "always":
        return True
    if n < FEWEST_POINTS or n * m < FEWEST_PAIRS:
        return False
    layout = RowLayout.of(rows, dim, tied)
    slope = 2 * rows[:, layout.sharpness].exp() if tied else rows[:, layout.outer].exp()
    [sharp] = read((slope * (2 * dim - 1) > NOTHING_LEFT[x.dtype]).sum()[None])
    return 2 * sharp > m


def z_order(x: Tensor) -> Tensor:
    """Indices of the points in the order of cells along a Z-curve (in Gray's order), a cell holding about 32."""
    n, dim = x.shape
    bits = 0
    while bits < 8 and n >> (bits + 1) * dim >= 32:
        bits += 1
    finite = x.isfinite()
    low, high = x.where(finite, math.inf).amin(0), x.where(finite, -math.inf).amax(0)
    codes = torch.empty(n, dtype=torch.int16 if bits * dim < 16 else torch.int32, device=x.device)
    cells_kernel[(triton.cdiv(n, 256),)](x, low, high, codes, n, D=dim, BITS=bits, BLOCK=256, num_warps=4)
    return codes.sort(stable=True).indices


def margins(columns: Tensor, dim: int, outputs: int, order: int) -> Tensor:
    """Margin [M] of s S beyond which a bump adds nothing; ``columns`` is the table's transpose.

    The margin is larger for a bump whose derivatives (up to ``order``) and amplitude are larger than usual.  The usual
    size is the geometric mean over the bumps, which a single large bump hardly changes.  The mean counts a bump by its
    height, not by its raw amplitude.  Bumps with values that are not finite are kept everywhere.
    """
    s = dim * dim + 4 * dim + 2
    norms = s + 1 + outputs + dim * dim
    amplitude = columns[s + 1 : s + 1 + outputs].abs().amax(0).double()
    steepness = columns[s].double() * (2 * columns[norms : norms + dim].amax(0).double()).sqrt()
    size = amplitude.log() + order * steepness.log()
    finite = size.isfinite()
    half_sides = columns[s - 3 * dim - 2 : s - 2 * dim - 2].double() * (math.log(2) / 2)
    log_height = (columns[s].double() * (1 - 2 * dim + 2 * half_sides.tanh().sum(0))).clamp(max=0)
    usual = (size + log_height).where(finite, 0).sum() / finite.sum().clamp(min=1)
    excess = size - usual  # -inf: an amplitude of zero
    margin = NOTHING_LEFT[columns.dtype] + excess.clamp(min=0)
    return margin.where(excess < math.inf, math.inf).to(columns.dtype)


def _padded(count: int) -> int:
    return triton.cdiv(count, _ABREAST) * _ABREAST


def lists(
    order: Tensor, x: Tensor, table: Tensor, outputs: int, want: int, when: str, fast: bool, by_tile: tuple[bool, ...],
    points: Tensor | None = None, components: int = 0,
) -> dict[bool, Lists] | None:  # fmt: skip
    """Lists by tile (True), by bump (False), or both, as asked for; None where it does not pay.

    ``points`` [tiles, numbers, TILE] have ``components`` cotangents of each output.
    """
    (n, dim), m = x.shape, table.shape[0]
    tiles = triton.cdiv(n, TILE)
    columns = table.new_zeros(table.shape[1], _padded(m))
    columns[:, :m] = table.t()
    beyond = margins(columns, dim, outputs, min(want, DIAGONAL))
    summed = 0 if points is None else outputs
    boxes = x.new_empty(2 * dim + summed, _padded(tiles))
    boxes_kernel[(tiles,)](
        x, points, order, boxes, n, boxes.shape[1], D=dim, K=summed, C=components,
        PS=0 if points is None else points.shape[1], BLOCK=TILE, num_warps=1,
    )  # fmt: skip

    def launch(of_tiles: bool, starts: Tensor, counts: Tensor, ids: Tensor, within: Tensor) -> None:
        lists_kernel[(len(counts),)](
            boxes, columns, beyond, starts, counts, ids, within, tiles, m, boxes.shape[1], columns.shape[1], D=dim,
            K=outputs, BY_TILE=of_tiles, BLOCK=_ABREAST, FAST=fast, num_warps=4,
        )  # fmt: skip

    found = {}
    for of_tiles in by_tile:
        owners = tiles if of_tiles else m
        starts = torch.zeros(owners + 1, dtype=torch.int64, device=x.device)
        counts = torch.empty(owners, dtype=torch.int32, device=x.device)
        within = torch.empty(owners, outputs, dtype=torch.float64, device=x.device)
        launch(of_tiles, starts, counts, counts, within)
        torch.cumsum(counts, 0, out=starts[1:])
        found[of_tiles] = starts, counts, within
    lengths = read(torch.stack([starts[-1] for starts, _, _ in found.values()]))
    if when != "always" and lengths[0] > WORTHWHILE * tiles * m:
        return None
    for (of_tiles, (starts, counts, within)), length in zip(list(found.items()), lengths, strict=True):
        ids = torch.empty(length, dtype=torch.int32, device=x.device)
        launch(of_tiles, starts, counts, ids, within)
        found[of_tiles] = Lists(starts, ids, within)
    return found
