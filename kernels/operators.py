"""The operators on CUDA tensors: buffers, launches and their configurations.

A training step is five launches: packing and the jet; packing (bumps and points in one), the sums per bump, and the
gradient of the rows.  Memory beyond the results is O(N + M); nothing here waits for the device, so a step can be
captured in a CUDA graph.  Configurations come from tables, not from autotuning, which would run and wait.

Where bumps are many and sharp, the jets leave out pairs that add nothing (tiles.py).  This takes memory for lists, and
waits twice.
"""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from ..core.reference import DIAGONAL, GRADIENT, HESSIAN, VALUE, second_shape
from ..core.rows import RowLayout
from . import tiles
from .jet import jet_kernel
from .jet_vjp import jet_vjp_rows_kernel, jet_vjp_x_kernel
from .pack import pack_kernel, unpack_gradient_kernel
from .pairs import basis_kernel, basis_vjp_rows_kernel, basis_vjp_x_kernel, design_kernel

MAX_DIM = 4
MAX_OUTPUTS = 4
_PACK_BLOCK = 64
#: Programs that fill a large GPU, with 32 warps on each of 132 processors.
_PROGRAMS = 1056
#: Least number of points for a program of the backward.
_CHUNK = 64
#: Stands for missing lists.
_ALL_PAIRS = (None, None, None)
#: Most points in one float32 sum; sums of chunks are added in double precision.
_LONGEST = 2**14


def serves(name: str, dim: int, outputs: int, dtype: torch.dtype) -> bool:
    """Whether the operator supports the dimension, the outputs (if it uses them) and the dtype."""
    fits = 1 <= outputs <= MAX_OUTPUTS if name in ("jet", "jet_vjp") else True
    return fits and 1 <= dim <= MAX_DIM and dtype in (torch.float32, torch.float64)


def components(dim: int, want: int) -> int:
    """Numbers in a jet of one output; the full Hessian counts by its upper triangle."""
    second = {2: dim, 3: dim * (dim + 1) // 2, 4: 1}.get(want, 0)
    return 1 + (dim if want >= GRADIENT else 0) + second


def table_stride(dim: int, outputs: int) -> int:
    return -(2 * dim * dim + 5 * dim + 3 + outputs) // 4 * -4


def chain_stride(dim: int) -> int:
    """Numbers in a table entry for the chain rule to the columns of the row."""
    skews = dim * (dim - 1) // 2
    return -(2 * dim - 1 + skews * skews) // 4 * -4


def point_stride(dim: int, outputs: int, want: int) -> int:
    return -(dim + outputs * components(dim, want)) // 4 * -4


def by_points(n: int, numbers: int, single: bool) -> tuple[int, int, int]:
    """Points in a block, bumps side by side, and warps, for the kernels whose programs own points.

    ``numbers`` is how many numbers a thread keeps for every point, in ``single`` precision or not: it decides how many
    points may share a load.
    """
    if n < 2**13:
        return 32, 8, 4 if single else 8  # more warps, so that double precision fits the registers
    numbers *= 1 if single else 2
    most = next((block for block, limit in ((1024, 7), (512, 12), (256, 24)) if numbers <= limit), 128)
    fills = 128 if n < 2**16 else 256 if n < 2**18 else 1024
    return min(most, fills), 1, 4


def by_tiles(numbers: int, single: bool) -> tuple[int, int, int]:
    """The same for programs that own a tile: as many points to a thread."""
    return tiles.TILE, 1, max(1, 512 // by_points(2**20, numbers, single)[0])


def two_fit(numbers: int, single: bool) -> bool:
    """Whether a thread has registers for the sums of two bumps, or those of one at two points side by side."""
    return numbers <= 16 and single


def by_bumps(n: int, m: int, numbers: int, single: bool) -> tuple[int, int, int, int]:
    """Bumps in a block, warps, points in a chunk, and the number of chunks, for the sums per bump."""
    block = max(32, min(triton.next_power_of_2(m), 256 if two_fit(numbers, single) else 128))
    warps = max(1, min(4, block // 32))
    fills = triton.cdiv(_PROGRAMS, triton.cdiv(m, block))
    # The rounding of a sum grows with its length; the partial sums must not take more memory than the points.
    short = min(triton.cdiv(n, _LONGEST), n // (4 * m)) if single else 1
    chunks = max(1, min(triton.cdiv(n, _CHUNK), max(fills, short), 65535))
    length = triton.cdiv(n, chunks)
    return block, warps, length, triton.cdiv(n, length)


def run_of_bumps(m: int, dtype: torch.dtype) -> int:
    """Bumps that are summed at a time, or 0 for all: in float32 the rounding of a sum grows with its length."""
    return 256 if m > 4096 and dtype == torch.float32 else 0


def by_lists(n: int, m: int, numbers: int, single: bool) -> tuple[int, int, int]:
    """Points in a block, warps, and programs that share a bump's list of tiles, for the sums of one bump.

    Several, so that one large bump among small ones does not leave the others waiting.
    """
    chunks = min(triton.cdiv(n, tiles.TILE), max(4, triton.cdiv(4 * _PROGRAMS, m)), 65535)
    return tiles.TILE, 2 if two_fit(numbers, single) else 4, chunks


def by_pairs(n: int, m: int, single: bool) -> tuple[int, int, int]:
    """Points in a block, bumps of a program, and warps, for kernels with results for every pair."""
    block = 128 if n < 2**16 or not single else 256
    share = max(1, min(16, triton.cdiv(n, block) * m // (2 * _PROGRAMS)))
    return block, max(share, triton.cdiv(m, 65535)), 4


def _needed(want: int, g1: Tensor | None, g2: Tensor | None) -> int:
    """The want of the jet that the given cotangents need."""
    if g2 is None:
        want = min(want, GRADIENT)
    return VALUE if g1 is None and want == GRADIENT else want


def on_device_of(t: Tensor):
    """Launches go to the current stream of the tensor's device."""
    return torch.cuda.device(t.device) if t.is_cuda else contextlib.nullcontext()


def _fast(t: Tensor) -> bool:
    return t.is_cuda and torch.version.hip is None and t.dtype == torch.float32


class Points(NamedTuple):
    """Points with the cotangents of ``outputs`` outputs, and the table that both are packed to."""

    table: Tensor
    x: Tensor
    cotangents: tuple[Tensor | None, ...]
    outputs: int
    want: int
    order: Tensor | None = None

    @classmethod
    def of(cls, x: Tensor, cotangents, outputs: int, want: int, order: Tensor | None = None) -> Points:
        """With room for the table; a cotangent beyond ``want`` is left out.  With an ``order``, in whole tiles."""
        n = x.shape[0] if order is None else triton.cdiv(x.shape[0], tiles.TILE) * tiles.TILE
        table = x.new_empty(n, point_stride(x.shape[1], outputs, want))
        return cls(table, x, tuple(g if i <= want else None for i, g in enumerate(cotangents)), outputs, want, order)


def pack_tables(
    rows: Tensor, frame: Tensor, tied: bool, outputs: int, points: Points | None = None, chain: bool = False
):
    """The table of the bumps, with ``outputs`` amplitudes, and that of the points, by one launch."""
    dim, m = frame.shape[1], rows.shape[0]
    table = rows.new_empty(m, table_stride(dim, outputs) + (chain_stride(dim) if chain else 0))
    bump_programs = triton.cdiv(m, _PACK_BLOCK)
    to, x, cotangents, each, want, order = points or Points(table, rows, (None,) * 3, 0, VALUE)
    n = x.shape[0] if points else 0
    pack_kernel[(bump_programs + triton.cdiv(n, _PACK_BLOCK),)](
        rows, frame, table, x, *(rows if g is None else g for g in cotangents), to, order, rows.shape[1], m, n,
        bump_programs, D=dim, K=outputs, CHAIN=chain, WANT=want, TIED=tied, HAS0=cotangents[0] is not None,
        HAS1=cotangents[1] is not None, OUTPUTS=each, TS=table.shape[1], PS=to.shape[1], C=components(dim, want),
        TILE=1 if order is None else tiles.TILE, BLOCK=_PACK_BLOCK, num_warps=2,
    )  # fmt: skip
    return table


def unpack_gradient(partial: Tensor, rows: Tensor, frame: Tensor, gradient: Tensor, tied: bool, outputs: int):
    """The gradient of the rows from partial sums [chunks, sums, M], the first of them those of the amplitudes."""
    dim, m = frame.shape[1], rows.shape[0]
    unpack_gradient_kernel[(triton.cdiv(m, 8),)](
        partial, rows, frame, gradient, rows.shape[1], m, partial.shape[0], D=dim, K=outputs, TIED=tied, ABREAST=16,
        BLOCK=8, num_warps=4,
    )  # fmt: skip


def jet(x: Tensor, rows: Tensor, frame: Tensor, want: int, tied: bool, culling: str = "auto"):
    """See ``bumpnet_fast.core.reference.jet``; ``culling`` is "never", "auto" or "always" (native.use_culling)."""
    (n, dim), m = x.shape, rows.shape[0]
    outputs = RowLayout.of(rows, dim, tied).outputs
    empty = x.new_empty if n and m else x.new_zeros
    value = empty(n, outputs)
    gradient = empty(n, outputs, dim) if want >= GRADIENT else x.new_empty(0)
    second = empty(n, outputs, *second_shape(want, dim)) if want >= DIAGONAL else x.new_empty(0)
    if n == 0 or m == 0:
        return value, gradient, second
    x, rows, frame = x.contiguous(), rows.contiguous(), frame.contiguous()
    count, run = components(dim, want), run_of_bumps(m, x.dtype)
    numbers = (dim + outputs * count) * (3 if run else 2) // 2  # with the addresses of what a run is added to
    block, split, warps = by_points(n, numbers, x.dtype == torch.float32)
    order, by_tile = None, _ALL_PAIRS
    with on_device_of(x):
        culled = tiles.may_pay(x, rows, tied, culling)
        table = pack_tables(rows, frame, tied, outputs)
        if culled:
            order = tiles.z_order(x)
            met = tiles.lists(order, x, table, outputs, want, culling, _fast(x), (True,))
            if met is None:
                return jet(x, rows, frame, want, tied, "never")
            by_tile, (block, split, warps) = met[True], by_tiles(numbers, x.dtype == torch.float32)
        jet_kernel[(triton.cdiv(n, block),)](
            x, table, value, gradient if want >= GRADIENT else value, second if want >= DIAGONAL else value, order,
            *by_tile, n, m, D=dim, K=outputs, WANT=want, TS=table.shape[1], C=count, BLOCK=block, SPLIT=split, RUN=run,
            FAST=_fast(x), num_warps=warps,
        )  # fmt: skip
    return value, gradient, second


def jet_vjp(
    g0, g1, g2, x, rows, frame, want: int, tied: bool, need_x: bool, need_rows: bool, culling: str = "auto"
) -> tuple[Tensor, Tensor]:
    """See ``core.reference.jet_vjp``; what is not needed comes back empty.  ``culling`` as for :func:`jet`."""
    (n, dim), m = x.shape, rows.shape[0]
    outputs = RowLayout.of(rows, dim, tied).outputs
    want = _needed(want, g1, g2)
    g0, g1, g2 = (g if g is None else g.contiguous() for g in (g0, g1, g2))
    nothing = n == 0 or m == 0
    empty = x.new_zeros if nothing else x.new_empty
    x_gradient = empty(x.shape) if need_x else x.new_empty(0)
    rows_gradient = empty(rows.shape) if need_rows else x.new_empty(0)
    if nothing or not (need_x or need_rows):
        return x_gradient, rows_gradient
    x, rows, frame = x.contiguous(), rows.contiguous(), frame.contiguous()
    count, single = components(dim, want), x.dtype == torch.float32
    order, by_tile, by_bump = None, _ALL_PAIRS, _ALL_PAIRS
    with on_device_of(x):
        if tiles.may_pay(x, rows, tied, culling):
            order = tiles.z_order(x)
        packed = Points.of(x, (g0, g1, g2), outputs, want, order)
        points, table = packed.table, pack_tables(rows, frame, tied, outputs, packed)
        if order is not None:
            asked = (True,) * need_x + (False,) * need_rows
            met = tiles.lists(order, x, table, outputs, want, culling, _fast(x), asked, points, count)
            if met is None:
                return jet_vjp(g0, g1, g2, x, rows, frame, want, tied, need_x, need_rows, "never")
            by_tile, by_bump = met.get(True, _ALL_PAIRS), met.get(False, _ALL_PAIRS)
        shapes = dict(D=dim, K=outputs, WANT=want, TS=table.shape[1], PS=points.shape[1], C=count, FAST=_fast(x))
        if need_rows:
            numbers = dim * dim + outputs * count
            block, warps, length, chunks = by_bumps(n, m, numbers, single)
            programs = triton.cdiv(m, block)
            if order is not None:
                block, warps, chunks, programs = *by_lists(n, m, numbers, single), m
            partial = x.new_empty(chunks, outputs + 1 + 2 * dim + dim * dim, m)
            jet_vjp_rows_kernel[(programs, chunks)](
                points, table, partial, *by_bump, n, m, length, **shapes, BLOCK=block, num_warps=warps
            )
            unpack_gradient(partial, rows, frame, rows_gradient, tied, outputs)
        if need_x:
            numbers = 2 * dim + outputs * count
            block, split, warps = by_points(n, numbers, single) if order is None else by_tiles(numbers, single)
            jet_vjp_x_kernel[(triton.cdiv(n, block),)](
                points, table, x_gradient, order, *by_tile[:2], n, m, **shapes, BLOCK=block, SPLIT=split,
                num_warps=warps,
            )  # fmt: skip
    return x_gradient, rows_gradient


def basis(x: Tensor, rows: Tensor, frame: Tensor, want: int, tied: bool) -> tuple[Tensor, Tensor, Tensor]:
    """See ``bumpnet_fast.core.reference.basis``; with the points last."""
    (n, dim), m = x.shape, rows.shape[0]
    value = x.new_empty(m, n)
    gradient = x.new_empty(m, dim, n) if want >= GRADIENT else x.new_empty(0)
    second = x.new_empty(m, *second_shape(want, dim), n) if want >= DIAGONAL else x.new_empty(0)
    if n == 0 or m == 0:
        return value, gradient, second
    x, rows, frame = x.contiguous(), rows.contiguous(), frame.contiguous()
    block, share, warps = by_pairs(n, m, x.dtype == torch.float32)
    with on_device_of(x):
        table = pack_tables(rows, frame, tied, 0)
        basis_kernel[(triton.cdiv(n, block), triton.cdiv(m, share))](
            x, table, value, gradient, second, n, m, share, D=dim, WANT=want, TS=table.shape[1],
            C=components(dim, want), BLOCK=block, FAST=_fast(x), num_warps=warps,
        )  # fmt: skip
    return value, gradient, second


def basis_vjp(g0, g1, g2, x, rows, frame, want: int, tied: bool, need_x: bool, need_rows: bool):
    """See ``bumpnet_fast.core.reference.basis_vjp``; cotangents with the points last, empty what is not needed."""
    (n, dim), m = x.shape, rows.shape[0]
    want = _needed(want, g1, g2)
    nothing = n == 0 or m == 0
    x_gradient = (x.new_zeros if nothing else x.new_empty)(x.shape if need_x else 0)
    rows_gradient = rows.new_zeros(rows.shape if need_rows else 0)  # the amplitudes' columns stay zero
    if nothing or not (need_x or need_rows):
        return x_gradient, rows_gradient
    given = [g0, g1 if want >= GRADIENT else None, g2 if want >= DIAGONAL else None]
    cotangents = [x if g is None else g.contiguous() for g in given]
    x, rows, frame = x.contiguous(), rows.contiguous(), frame.contiguous()
    single = x.dtype == torch.float32
    with on_device_of(x):
        table = pack_tables(rows, frame, tied, 0)
        shapes = dict(D=dim, WANT=want, HAS0=given[0] is not None, HAS1=given[1] is not None, TS=table.shape[1],
                      FAST=_fast(x))  # fmt: skip
        if need_rows:
            chunks = max(1, min(triton.cdiv(n, 512), triton.cdiv(4 * _PROGRAMS, m), 65535))
            length = triton.cdiv(n, chunks)
            chunks = triton.cdiv(n, length)
            partial = x.new_empty(chunks, 1 + 2 * dim + dim * dim, m)
            basis_vjp_rows_kernel[(m, chunks)](
                *cotangents, x, table, partial, n, m, length, **shapes, BLOCK=128, num_warps=4
            )
            unpack_gradient(partial, rows, frame, rows_gradient, tied, 0)
        if need_x:
            block, split, warps = by_points(n, 2 * dim + components(dim, want), single)
            basis_vjp_x_kernel[(triton.cdiv(n, block),)](
                *cotangents, x, table, x_gradient, n, m, **shapes, BLOCK=block, SPLIT=split, num_warps=warps
            )
    return x_gradient, rows_gradient


def design(c0, c1, c2, x, rows, frame, want: int, tied: bool, derivatives: bool) -> tuple[Tensor, Tensor]:
    """See ``bumpnet_fast.core.reference.design``; with the points last."""
    (n, dim), m = x.shape, rows.shape[0]
    columns = RowLayout(dim, 0, tied).shape_columns if derivatives else 0
    phi, by_shape = x.new_empty(m, n), x.new_empty(m, columns, n) if derivatives else x.new_empty(0)
    if n == 0 or m == 0:
        return phi, by_shape
    want = _needed(want, c1, c2)
    coefficients = [c if c is None else c.contiguous() for c in (c0, c1, c2)]
    x, rows, frame = x.contiguous(), rows.contiguous(), frame.contiguous()
    block, share, warps = by_pairs(n, m, x.dtype == torch.float32)
    with on_device_of(x):
        points = Points.of(x, coefficients, 1, want)
        table = pack_tables(rows, frame, tied, 0, points, chain=derivatives)
        design_kernel[(triton.cdiv(n, block), triton.cdiv(m, share))](
            points.table, table, phi, by_shape, n, m, share, D=dim, WANT=want, TIED=tied, COLUMNS=columns,
            TS=table_stride(dim, 0), CHAIN=chain_stride(dim) if derivatives else 0, PS=points.table.shape[1],
            C=components(dim, want), BLOCK=block, FAST=_fast(x), num_warps=warps,
        )  # fmt: skip
    return phi, by_shape


assert HESSIAN == 3  # the kernels spell the wants as numbers
