"""The operators ``combine`` and ``combine_vjp`` on CUDA tensors: buffers, launches and their configurations.

The forward takes two launches: packing and the product.  The backward packs; then h takes the partial sums and
PyTorch's sum over them, the rows take the partial sums and the gradient of the rows, and x takes one launch.  Memory
beyond the results is O(B M + B N) with a bound on the number of partial sums; nothing waits for the device.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from .combine import combine_kernel, combine_vjp_h_kernel, combine_vjp_rows_kernel, combine_vjp_x_kernel
from .operators import MAX_DIM, on_device_of, pack_tables, unpack_gradient

#: Programs that fill a large GPU, with 12 warps on each of 132 processors.
_PROGRAMS = 396
#: Least number of points for a program of the backward.
_CHUNK = 256


def serves(dim: int, dtype: torch.dtype) -> bool:
    """Whether these kernels support the number of dimensions and the dtype."""
    return 1 <= dim <= MAX_DIM and dtype in (torch.float32, torch.float64)


def products(precision: str, dtype: torch.dtype, amd: str | None) -> str:
    """Precision of a target's products.  ``amd`` is the architecture of an AMD device.

    AMD's matrix units compute in float32 itself; only gfx942 has tf32.
    """
    if dtype == torch.float64:
        return "ieee"
    if amd is None:
        return precision
    return "tf32" if precision == "tf32" and amd.startswith("gfx942") else "ieee"


def blocks(dim: int, functions: int, points: int, precision: str, dtype: torch.dtype) -> dict[str, dict[str, int]]:
    """Functions, points and bumps in a block, and warps, of every kernel.

    Every block of functions computes psi again; at 128 in tf32x3 that takes as long as the products.  The other sizes
    are limited by the registers.
    """
    all_functions = max(16, triton.next_power_of_2(functions))

    def shape(b: int, n: int, m: int, warps: int = 4) -> dict[str, int]:
        return dict(BLOCK_B=min(b, all_functions), BLOCK_N=n, BLOCK_M=m, num_warps=warps)

    if dtype == torch.float64:
        forward, h = (shape(32, n, m, 8 if dim == 4 else 4) for n, m in ((64, 16), (16, 64)))
        pairs = shape(16, 8, 64, 8 if dim > 2 else 4)
    elif points < 2**13:
        forward, h, pairs = shape(64, 32, 16, 1), shape(32, 16, 64), shape(16, 16, 64)
    else:
        wide = all_functions > 64 and precision != "ieee"
        forward, h = shape(128, 128, 16, 8) if wide else shape(64, 128, 16), shape(64, 16, 128)
        pairs = shape(16, 16 if dim == 4 else 32, 64)
    return dict(forward=forward, h=h, rows=pairs, x=pairs)


def chunks(points: int, tiles: int) -> tuple[int, int]:
    """Points in a chunk, and the number of chunks, for a given number of tiles; each takes a chunk at a time."""
    count = max(1, min(triton.cdiv(points, _CHUNK), triton.cdiv(_PROGRAMS, tiles), 65535))
    length = triton.cdiv(points, count)
    return length, triton.cdiv(points, length)


def _nvidia(x: Tensor) -> bool:
    return x.is_cuda and torch.version.hip is None


def _target(x: Tensor, precision: str) -> str:
    amd = torch.cuda.get_device_properties(x.device).gcnArchName if x.is_cuda and torch.version.hip else None
    return products(precision, x.dtype, amd)


def _grid(block: dict[str, int], functions: int, points: int, bumps: int) -> tuple[int, int, int]:
    sizes = (("BLOCK_B", functions), ("BLOCK_N", points), ("BLOCK_M", bumps))
    return tuple(triton.cdiv(size, block[name]) for name, size in sizes)


def combine(h: Tensor, x: Tensor, rows: Tensor, frame: Tensor, tied: bool, precision: str) -> Tensor:
    """See ``bumpnet_fast.core.reference.combine``."""
    (functions, m), (n, dim) = h.shape, x.shape
    out = (x.new_empty if m else x.new_zeros)(functions, n)
    if not (functions and n and m):
        return out
    h, x, rows, frame = (t.contiguous() for t in (h, x, rows, frame))
    precision = _target(x, precision)
    block = blocks(dim, functions, n, precision, x.dtype)["forward"]
    by_b, by_n, _ = _grid(block, functions, n, m)
    with on_device_of(x):
        table = pack_tables(rows, frame, tied, 0)
        combine_kernel[(by_n, by_b)](
            h, x, table, out, functions, n, m, D=dim, TS=table.shape[1], PRECISION=precision, NVIDIA=_nvidia(x), **block
        )
    return out


def combine_vjp(g, h, x, rows, frame, tied: bool, precision: str, need_h: bool, need_x: bool, need_rows: bool):
    """See ``bumpnet_fast.core.reference.combine_vjp``; what is not needed comes back empty."""
    (functions, m), (n, dim) = h.shape, x.shape
    by_h, by_x, by_rows = (
        t.new_zeros(t.shape if need else (0,)) for t, need in ((h, need_h), (x, need_x), (rows, need_rows))
    )
    if not (functions and n and m and (need_h or need_x or need_rows)):
        return by_h, by_x, by_rows
    g, h, x, rows, frame = (t.contiguous() for t in (g, h, x, rows, frame))
    precision = _target(x, precision)
    block = blocks(dim, functions, n, precision, x.dtype)
    sizes = (functions, n, m)
    with on_device_of(x):
        table = pack_tables(rows, frame, tied, 0)
        shapes = dict(D=dim, TS=table.shape[1], PRECISION=precision, NVIDIA=_nvidia(x))
        if need_h:
            tiles_b, _, tiles_m = _grid(block["h"], *sizes)
            length, count = chunks(n, tiles_b * tiles_m)
            partial = x.new_empty(count, functions, m)
            combine_vjp_h_kernel[(tiles_m, tiles_b, count)](
                g, x, table, partial, *sizes, length, **shapes, **block["h"]
            )
            by_h = partial[0] if count == 1 else partial.sum(0)
        if need_rows:
            _, _, tiles_m = _grid(block["rows"], *sizes)
            length, count = chunks(n, tiles_m)
            partial = x.new_empty(count, 1 + 2 * dim + dim * dim, m)
            combine_vjp_rows_kernel[(tiles_m, count)](
                g, h, x, table, partial, *sizes, length, **shapes, **block["rows"]
            )
            unpack_gradient(partial, rows, frame, by_rows, tied, 0)
        if need_x:
            _, tiles_n, _ = _grid(block["x"], *sizes)
            combine_vjp_x_kernel[(tiles_n,)](g, h, x, table, by_x, *sizes, **shapes, **block["x"])
    return by_h, by_x, by_rows
