"""Which bumps meet which tiles of points, so that pairs that add nothing are left out: the Triton twin of csrc/cull.h.

A bump is sigmoid(s S): away from its shell |s S| is large, and the bump is 0 or 1 to the last digit with derivatives 0.
The points are ordered along a Z-curve with cells in Gray-code order, and cut into tiles.  Two evaluations of the edges
bound S over a tile's box.  Beyond its margin a bump is out of a tile, or 1 all over it: then its amplitude
is added to the tile's values, and the tile's cotangents of the values to its amplitude's gradient.  All other
pairs are listed in CSR: by tile for programs that own points, by bump for the sums per bump.

Each list takes two launches, to count and to fill, of the same kernel, so that both find the same pairs.
Traffic: the table by columns and the boxes, once per owner from the caches; bound by instruction issue.

Versions tried (instructions per pair of a tile and a bump on sm_90, d = 2, by tile): one to a thread, with masks, 179;
four from columns of whole blocks 111.  Without Gray's order a quarter more pairs meet, and a tile's longest list is
three times as long: N = 2^18, M = 10^4, p A = 10.
"""

import triton
import triton.language as tl

from .bump_math import edge, reciprocal


@triton.jit
def cells_kernel(x, low, high, codes, N, D: tl.constexpr, BITS: tl.constexpr, BLOCK: tl.constexpr):
    """Places along a Z-curve of the cells that the points are in, 2^BITS to an axis; NaN is in the first."""
    CELLS: tl.constexpr = 2**BITS
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = n < N
    code = tl.zeros([BLOCK], tl.int32)
    for j in tl.static_range(D):
        first, last = tl.load(low + j), tl.load(high + j)
        at = (tl.load(x + n * D + j, mask=inside, other=0.0) - first) / (last - first) * CELLS
        cell = tl.where(at > 0, tl.minimum(at, CELLS - 1), 0.0).to(tl.int32)
        for bit in tl.static_range(BITS):
            code |= ((cell >> bit) & 1) << (bit * D + D - 1 - j)
    for power in tl.static_range(5):  # in Gray's order: the curve jumps along one axis only, and fewer bumps meet
        code ^= code >> (1 << power)
    tl.store(codes + n, code.to(codes.dtype.element_ty), mask=inside)


@triton.jit
def boxes_kernel(x, points, order, boxes, N, stride, D: tl.constexpr, K: tl.constexpr, C: tl.constexpr,
                 PS: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Columns ``stride`` apart of every tile: centre [d], half sides [d] and, with cotangents, K sums of the values'.

    A NaN or infinity, also in a cotangent, makes the centre NaN; then every bump meets the tile.
    """
    tile = tl.program_id(0)
    lane = tl.arange(0, BLOCK)
    n = tile.to(tl.int64) * BLOCK + lane
    at = tl.load(order + tl.minimum(n, N - 1)) * D  # past the end the last point again
    bad = tl.zeros([BLOCK], x.dtype.element_ty)
    for i in tl.static_range(K * C):
        v = tl.load(points + tile.to(tl.int64) * (BLOCK * PS) + (D + i) * BLOCK + lane, mask=n < N, other=0.0)
        bad += v - v
        if i % C == 0:
            tl.store(boxes + (2 * D + i // C) * stride + tile, tl.sum(v, axis=0))
    for j in tl.static_range(D):
        v = tl.load(x + at + j)
        bad += v - v
    bad = tl.sum(bad, axis=0)
    for j in tl.static_range(D):
        v = tl.load(x + at + j)
        low, high = tl.min(v, axis=0), tl.max(v, axis=0)
        centre = low + (high - low) / 2
        tl.store(boxes + j * stride + tile, centre + bad)
        tl.store(boxes + (D + j) * stride + tile, tl.maximum(high - centre, centre - low))


@triton.jit
def load_columns(columns, at, stride, COUNT: tl.constexpr):
    """Entries ``at`` of columns that are whole blocks long: without a mask a thread's come in one load."""
    R = ()
    for j in tl.static_range(COUNT):
        R = R + (tl.load(columns + j * stride + at),)
    return R


@triton.jit
def bounds(box, R, D: tl.constexpr, FAST: tl.constexpr):
    """The most and the least that s S may be in a box.

    g falls with |B|, and over a box |B| differs from its value at the centre by at most the box's reach.
    """
    s = R[D * D + 4 * D + 2]
    most = box[0] * 0.0 - (2.0 * D - 1.0)
    least = most
    for k in tl.static_range(D):
        b = R[k * D] * (box[0] - R[D * D])
        reach = tl.abs(R[k * D]) * box[D]
        for i in tl.static_range(1, D):
            b = R[k * D + i] * (box[i] - R[D * D + i]) + b
            reach = tl.abs(R[k * D + i]) * box[D + i] + reach
        nearest = tl.maximum(tl.abs(b) - reach, 0.0, propagate_nan=tl.PropagateNan.ALL)
        t, _, n = edge(nearest, R, k, D, 100.0)
        most = (R[D * D + 3 * D + k] * t) * reciprocal(n, FAST) + most
        t, _, n = edge(tl.abs(b) + reach, R, k, D, 100.0)
        least = (R[D * D + 3 * D + k] * t) * reciprocal(n, FAST) + least
    return s * most, s * least


@triton.jit
def lists_kernel(boxes, columns, margins, starts, counts, ids, within, tiles, M, tile_stride, bump_stride,
                 D: tl.constexpr, K: tl.constexpr, BY_TILE: tl.constexpr, BLOCK: tl.constexpr,
                 FAST: tl.constexpr):  # fmt: skip
    """The bumps that meet one tile, or (not BY_TILE) the tiles that meet one bump: their number and their indices.

    Only places before ``starts`` [owners + 1] of the next owner are filled; with zeros in ``starts`` it only counts.
    ``within`` [owners, K]: sums of the amplitudes of the bumps that are 1 all over the tile, or of such tiles' value
    cotangents.
    """
    PACKED: tl.constexpr = D * D + 4 * D + 3
    owner = tl.program_id(0)
    others = M if BY_TILE else tiles
    begin, end = tl.load(starts + owner), tl.load(starts + owner + 1)
    if BY_TILE:
        box = load_columns(boxes, owner, tile_stride, 2 * D)
    else:
        R = load_columns(columns, owner, bump_stride, PACKED)
        margin = tl.load(margins + owner)
    totals = ()
    for _ in tl.static_range(K):
        totals = totals + (tl.zeros([BLOCK], tl.float64),)
    for first in tl.range(0, others, BLOCK):
        lane = first + tl.arange(0, BLOCK)
        if BY_TILE:
            R = load_columns(columns, lane, bump_stride, PACKED)
            margin = tl.load(margins + lane)
        else:
            box = load_columns(boxes, lane, tile_stride, 2 * D)
        most, least = bounds(box, R, D, FAST)
        there = lane < others
        one = there & (least > margin)
        met = (there & ~one & ~(most < -margin)).to(tl.int32)  # NaN: the bump meets the tile
        added = ()
        for k in tl.static_range(K):
            if BY_TILE:
                v = tl.load(columns + (PACKED + k) * bump_stride + lane, mask=one, other=0.0)
            else:
                v = tl.load(boxes + (2 * D + k) * tile_stride + lane, mask=one, other=0.0)
            added = added + (totals[k] + v.to(tl.float64),)
        totals = added
        to = begin + tl.cumsum(met, axis=0) - 1
        tl.store(ids + to, lane, mask=(met > 0) & (to < end))
        begin += tl.sum(met, axis=0)
    tl.store(counts + owner, (begin - tl.load(starts + owner)).to(tl.int32))
    for k in tl.static_range(K):
        tl.store(within + owner * K + k, tl.sum(totals[k], axis=0))
