"""Many functions of the same bumps, out_bn = sum_m h_bm psi_m(x_n), and its gradients, on tensor cores.

Nothing of size N x M exists: a tile of psi [points, bumps] is made in registers and is one operand of a matrix product.

    forward      out^T [n, b]  sums psi h^T over bumps     a program owns points and functions
    to h         [b, m]        sums g psi over points      functions and bumps, and a chunk of the points
    to rows      [sums, m]     c = g^T h over functions,   bumps, and a chunk of the points
    to x         [n, d]        then bump_math.pair_vjp     points

The sums of a chunk are added up afterwards: no atomics, so one order of sums.  A point or a bump past the end is a
point 0 or a bump of zeros, finite, against a coefficient 0.  Infinite coefficients give NaN in tf32x3.  Loads of the
table are TS apart: the compiler gathers each column once per tile, so transposing the table gains nothing.

Versions tried (instructions per pair on sm_90, d = 2, 64 functions, sizes divisible by 16, tf32x3): Triton's own
"tf32x3" with psi on the right 168, as every warp then computes the whole tile; the three products by hand and psi on
the left 80, with the tile still computed twice; with ``once`` 39.  Gradient of the rows: points by bumps 134, with
spills; bumps by points 121, two thirds computed again; with ``beside`` 84.
"""

import triton
import triton.language as tl

from .bump_math import evaluate_axes, pair_vjp, psi


@triton.jit
def once(v, NVIDIA: tl.constexpr):
    """``v``, in a layout without copies: the compiler does not compute an operation with side effects again."""
    if NVIDIA:  # ptxas removes the move
        if v.dtype == tl.float32:
            v = tl.inline_asm_elementwise("mov.b32 $0, $1;", "=f,f", [v], dtype=tl.float32, is_pure=False, pack=1)
        else:
            v = tl.inline_asm_elementwise("mov.b64 $0, $1;", "=d,d", [v], dtype=tl.float64, is_pure=False, pack=1)
    return v


@triton.jit
def beside(X, tile, D: tl.constexpr, NVIDIA: tl.constexpr):
    """Points as whole tiles in the layout of ``tile``, so that everything computed from them has that layout."""
    if NVIDIA:
        Y = ()
        for i in tl.static_range(D):
            if tile.dtype == tl.float32:
                v = tl.inline_asm_elementwise(
                    "mov.b32 $0, $1;", "=f,f,f", [X[i], tile], dtype=tl.float32, is_pure=True, pack=1
                )
            else:
                v = tl.inline_asm_elementwise(
                    "mov.b64 $0, $1;", "=d,d,d", [X[i], tile], dtype=tl.float64, is_pure=True, pack=1
                )
            Y = Y + (v,)
        return Y
    else:
        return X


@triton.jit
def high(v):
    """The part of a float32 that tf32 holds."""
    return (v.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)


@triton.jit
def add_product(a, b, total, PRECISION: tl.constexpr):
    if PRECISION == "tf32x3":
        a1 = high(a)
        b1 = high(b)
        total = tl.dot(a - a1, b1, total, input_precision="tf32")
        total = tl.dot(a1, b - b1, total, input_precision="tf32")
        return tl.dot(a1, b1, total, input_precision="tf32")
    else:
        return tl.dot(a, b, total, input_precision=PRECISION, out_dtype=total.dtype)


@triton.jit
def load_points(x, n, last, D: tl.constexpr, AXIS: tl.constexpr):
    """Points as [n, 1] or, with AXIS = 0, as [1, n]."""
    X = ()
    for i in tl.static_range(D):
        v = tl.load(x + n * D + i, mask=n < last, other=0.0)
        v = v + (v - v)  # an infinity becomes NaN
        X = X + (tl.expand_dims(v, AXIS),)
    return X


@triton.jit
def load_table(table, m, M, D: tl.constexpr, TS: tl.constexpr, AXIS: tl.constexpr):
    """The table entries for the values and gradients of bumps, as [1, m] or, with AXIS = 1, as [m, 1]."""
    R = ()
    for j in tl.static_range(D * D + 4 * D + 3):
        r = tl.load(table + m * TS + j, mask=m < M, other=0.0)
        R = R + (tl.expand_dims(r, AXIS),)
    return R


@triton.jit
def load_tile(matrix, row, column, stride, rows, columns):
    """Indices [r, 1] and [1, c] give a tile of the matrix, [1, r] and [c, 1] its transpose; zeros past the ends."""
    return tl.load(matrix + row * stride + column, mask=(row < rows) & (column < columns), other=0.0)


@triton.jit
def combine_kernel(h, x, table, out, B, N, M, D: tl.constexpr, TS: tl.constexpr, PRECISION: tl.constexpr,
                   BLOCK_B: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
                   NVIDIA: tl.constexpr):  # fmt: skip
    FAST: tl.constexpr = NVIDIA and x.dtype.element_ty == tl.float32
    n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    b = tl.program_id(1).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    X = load_points(x, n, N, D, 1)
    total = tl.zeros([BLOCK_N, BLOCK_B], x.dtype.element_ty)
    for first in tl.range(0, M, BLOCK_M, num_stages=1):
        m = (first + tl.arange(0, BLOCK_M)).to(tl.int64)
        R = load_table(table, m, M, D, TS, 0)
        _, g, _ = evaluate_axes(X, R, D, True, FAST)
        p = once(psi(g, R, D, FAST), NVIDIA)
        total = add_product(p, load_tile(h, b[None, :], m[:, None], M, B, M), total, PRECISION)
    tl.store(out + b[None, :] * N + n[:, None], total, mask=(b[None, :] < B) & (n[:, None] < N))


@triton.jit
def combine_vjp_h_kernel(g, x, table, partial, B, N, M, length, D: tl.constexpr, TS: tl.constexpr,
                         PRECISION: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
                         NVIDIA: tl.constexpr):  # fmt: skip
    """Partial sums [chunks, B, M] of the gradient of h."""
    FAST: tl.constexpr = NVIDIA and x.dtype.element_ty == tl.float32
    m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    b = tl.program_id(1).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    chunk = tl.program_id(2).to(tl.int64)
    last = tl.minimum((chunk + 1) * length, N)
    R = load_table(table, m, M, D, TS, 0)
    total = tl.zeros([BLOCK_B, BLOCK_M], x.dtype.element_ty)
    for first in tl.range(chunk * length, last, BLOCK_N, num_stages=1):
        n = first + tl.arange(0, BLOCK_N)
        _, edges, _ = evaluate_axes(load_points(x, n, last, D, 1), R, D, True, FAST)
        p = once(psi(edges, R, D, FAST), NVIDIA)
        total = add_product(load_tile(g, b[:, None], n[None, :], N, B, last), p, total, PRECISION)
    inside = (b[:, None] < B) & (m[None, :] < M)
    tl.store(partial + (chunk * B + b[:, None]) * M + m[None, :], total, mask=inside)


@triton.jit
def cotangents(g, h, n, m, B, last, N, M, PRECISION: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_N: tl.constexpr,
               BLOCK_M: tl.constexpr):  # fmt: skip
    """Cotangents of the values of a tile of bumps and points: sum_b h_bm g_bn."""
    total = tl.zeros([BLOCK_M, BLOCK_N], g.dtype.element_ty)
    for first in tl.range(0, B, BLOCK_B, num_stages=1):
        b = (first + tl.arange(0, BLOCK_B)).to(tl.int64)
        left = load_tile(h, b[None, :], m[:, None], M, B, M)
        right = load_tile(g, b[:, None], n[None, :], N, B, last)
        total = add_product(left, right, total, PRECISION)
    return total


@triton.jit
def combine_vjp_rows_kernel(g, h, x, table, partial, B, N, M, length, D: tl.constexpr, TS: tl.constexpr,
                            PRECISION: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_N: tl.constexpr,
                            BLOCK_M: tl.constexpr, NVIDIA: tl.constexpr):  # fmt: skip
    """Partial sums [chunks, sums, M] for pack.unpack_gradient_kernel: of s ds, kappa A' [d], B' [d], V' [d d]."""
    FAST: tl.constexpr = NVIDIA and x.dtype.element_ty == tl.float32
    m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    chunk = tl.program_id(1).to(tl.int64)
    last = tl.minimum((chunk + 1) * length, N)
    R = load_table(table, m, M, D, TS, 1)
    SUMS: tl.constexpr = 1 + 2 * D + D * D
    sums = ()
    for j in tl.static_range(SUMS):
        sums = sums + (tl.zeros([BLOCK_M], x.dtype.element_ty),)
    for first in tl.range(chunk * length, last, BLOCK_N, num_stages=1):
        n = first + tl.arange(0, BLOCK_N)
        c = cotangents(g, h, n, m, B, last, N, M, PRECISION, BLOCK_B, BLOCK_N, BLOCK_M)
        X = beside(load_points(x, n, last, D, 0), c, D, NVIDIA)
        y, edges, d = evaluate_axes(X, R, D, False, FAST)
        numbers = edges + d  # in the layout they have: the sums of dA would have them computed again
        apart = ()
        for k in tl.static_range(5 * D):
            apart = apart + (once(numbers[k], NVIDIA),)
        edges = apart[:D]
        d = apart[D:]
        p = psi(edges, R, D, FAST)
        _, by_s, dB, dA, _, _ = pair_vjp(edges, d, p, (c,), R[D * D + 4 * D + 2], R, D, 0)
        terms = (by_s,) + dA + dB
        for k in tl.static_range(D):
            for i in tl.static_range(D):
                terms = terms + (dB[k] * y[i],)
        added = ()
        for j in tl.static_range(SUMS):
            added = added + (sums[j] + tl.sum(terms[j], axis=1),)
        sums = added
    for j in tl.static_range(SUMS):
        tl.store(partial + (chunk * SUMS + j) * M + m, sums[j], mask=m < M)


@triton.jit
def combine_vjp_x_kernel(g, h, x, table, gradient, B, N, M, D: tl.constexpr, TS: tl.constexpr,
                         PRECISION: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
                         NVIDIA: tl.constexpr):  # fmt: skip
    FAST: tl.constexpr = NVIDIA and x.dtype.element_ty == tl.float32
    n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    X = load_points(x, n, N, D, 0)
    sums = ()
    for i in tl.static_range(D):
        sums = sums + (tl.zeros([BLOCK_M, BLOCK_N], x.dtype.element_ty),)
    for first in tl.range(0, M, BLOCK_M, num_stages=1):
        m = (first + tl.arange(0, BLOCK_M)).to(tl.int64)
        R = load_table(table, m, M, D, TS, 1)
        c = cotangents(g, h, n, m, B, N, N, M, PRECISION, BLOCK_B, BLOCK_N, BLOCK_M)
        _, edges, d = evaluate_axes(beside(X, c, D, NVIDIA), R, D, False, FAST)
        p = psi(edges, R, D, FAST)
        _, _, dB, _, _, _ = pair_vjp(edges, d, p, (c,), R[D * D + 4 * D + 2], R, D, 0)
        added = ()
        for i in tl.static_range(D):
            v = sums[i]
            for k in tl.static_range(D):
                v = dB[k] * R[k * D + i] + v
            added = added + (v,)
        sums = added
    for i in tl.static_range(D):
        tl.store(gradient + n * D + i, tl.sum(sums[i], axis=0), mask=n < N)
