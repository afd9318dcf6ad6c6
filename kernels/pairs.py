"""Kernels with an entry for every pair of point and bump: the bumps' own jets, design matrices, and their backward.

The pairs' tensors have the points last ([M, N], [M, d, N] ...), so that the threads of a warp, which hold neighbouring
points, read and write neighbouring numbers.  Where a program owns points and runs over bumps, a bump's table entry is
the same for all threads, as in jet.py.  Traffic: the pairs' own numbers, once; at 12 to 100 bytes a pair the kernels
are bound by memory, not by the arithmetic of bump_math.

Backward of the basis.  To the bumps: a program owns one bump and a chunk of the points, sums per thread and adds the
threads up at its end; partial sums [chunks, SUMS, M] as in jet_vjp.py.  To the points: bumps in the inner loop, several
side by side where points are few.  No atomics, so one order of sums.
"""

import triton
import triton.language as tl

from .bump_math import evaluate_axes, load_bumps, load_points, load_scalars, pair_jet, pair_vjp, psi


@triton.jit
def basis_kernel(x, table, value, gradient, second, N, M, share, D: tl.constexpr, WANT: tl.constexpr,
                 TS: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr, FAST: tl.constexpr):  # fmt: skip
    """Jets of the bumps, ``share`` of them to a program."""
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = n < N
    X = load_points(x, n, inside, D, 1)
    first = tl.program_id(1) * share
    last = tl.minimum(first + share, M)
    stride = tl.cast(N, tl.int64)
    s: tl.constexpr = D * D + 4 * D + 2
    for m in tl.range(first, last):
        bump = tl.cast(m, tl.int64)
        R = load_scalars(table + bump * TS, TS)
        _, g, d = evaluate_axes(X, R, D, WANT == 0, FAST)
        p = psi(g, R, D, FAST)
        tl.store(value + bump * stride + n, p, mask=inside)
        if WANT >= 1:
            terms = pair_jet(g, d, p, R, D, 0, WANT)
            weight = R[s] * (p - p * p)
            for i in tl.static_range(C - 1):
                v = weight * terms[i]
                if i < D:
                    tl.store(gradient + (bump * D + i) * stride + n, v, mask=inside)
                elif WANT == 2:
                    tl.store(second + (bump * D + (i - D)) * stride + n, v, mask=inside)
                elif WANT == 4:
                    tl.store(second + bump * stride + n, v, mask=inside)
                else:
                    for a in tl.static_range(D):
                        for b in tl.static_range(a, D):
                            if D + a * D - a * (a - 1) // 2 + b - a == i:
                                tl.store(second + (bump * (D * D) + (a * D + b)) * stride + n, v, mask=inside)
                                if a != b:
                                    tl.store(second + (bump * (D * D) + (b * D + a)) * stride + n, v, mask=inside)


@triton.jit
def shape_columns(by_s, dB, dA, dV, y, H, R, E, D: tl.constexpr, WANT: tl.constexpr,
                  TIED: tl.constexpr):  # fmt: skip
    """Derivatives by the shape columns of the row from those by the packed values; E is the chain of pack_kernel."""
    sharp = dA[0] * 0.0
    full = ()
    for k in tl.static_range(D):
        for i in tl.static_range(D):
            v = dB[k] * y[i]
            if WANT >= 1:
                v = dV[k * D + i] + v
            if WANT == 2:
                v = (2.0 * R[k * D + i]) * H[k * D + i] + v
            if WANT == 4:
                v = (2.0 * R[k * D + i]) * H[k] + v
            full = full + (v,)
            sharp = v * R[k * D + i] + sharp
    sizes = ()
    for k in tl.static_range(D):
        by_A = (2.8853900817779268 * R[D * D + D + k]) * dA[k]  # 1 / kappa
        sizes = sizes + (by_A,)
        sharp = sharp + by_A
    out = ()
    for j in tl.static_range(D):
        c = dB[0] * R[j]
        for k in tl.static_range(1, D):
            c = dB[k] * R[k * D + j] + c
        out = out + (-E[j] * c,)
    out = out + sizes
    W = ()  # of the antisymmetric Z - Z^T the upper triangle
    for i in tl.static_range(D):
        for j in tl.static_range(i + 1, D):
            w = full[i * D] * R[j * D] - full[j * D] * R[i * D]
            for o in tl.static_range(1, D):
                w = full[i * D + o] * R[j * D + o] - full[j * D + o] * R[i * D + o] + w
            W = W + (w,)
    SKEWS: tl.constexpr = D * (D - 1) // 2
    for a in tl.static_range(SKEWS):
        v = E[2 * D - 1 + a * SKEWS] * W[0]
        for b in tl.static_range(1, SKEWS):
            v = E[2 * D - 1 + a * SKEWS + b] * W[b] + v
        if a < D - 1:
            v = E[D + a] * sharp + v
        out = out + (v,)
    if TIED:
        out = out + (sharp + by_s,)
    else:
        out = out + (sharp, by_s)
    return out


@triton.jit
def design_kernel(points, table, phi, derivatives, N, M, share, D: tl.constexpr, WANT: tl.constexpr,
                  TIED: tl.constexpr, COLUMNS: tl.constexpr, TS: tl.constexpr, CHAIN: tl.constexpr, PS: tl.constexpr,
                  C: tl.constexpr, BLOCK: tl.constexpr, FAST: tl.constexpr):  # fmt: skip
    """Phi = L psi [M, N] for the coefficients that ``points`` hold and, if COLUMNS, its derivatives [M, COLUMNS, N]."""
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = n < N
    point = ()
    for j in tl.static_range(D + C):
        point = point + (tl.load(points + n * PS + j, mask=inside, other=0.0),)
    coefficients = ()
    for j in tl.static_range(C):
        coefficients = coefficients + (point[D + j],)
    first = tl.program_id(1) * share
    last = tl.minimum(first + share, M)
    stride = tl.cast(N, tl.int64)
    s: tl.constexpr = D * D + 4 * D + 2
    for m in tl.range(first, last):
        bump = tl.cast(m, tl.int64)
        entry = table + bump * (TS + CHAIN)
        R = load_scalars(entry, TS)
        y, g, d = evaluate_axes(point, R, D, False, FAST)
        p = psi(g, R, D, FAST)
        L, by_s, dB, dA, dV, H = pair_vjp(g, d, p, coefficients, R[s], R, D, WANT)
        tl.store(phi + bump * stride + n, L, mask=inside)
        if COLUMNS > 0:
            E = load_scalars(entry + TS, CHAIN)
            by = shape_columns(by_s, dB, dA, dV, y, H, R, E, D, WANT, TIED)
            for q in tl.static_range(COLUMNS):
                tl.store(derivatives + (bump * COLUMNS + q) * stride + n, by[q], mask=inside)


@triton.jit
def load_cotangents(g0, g1, g2, bump, stride, n, inside, zero, D: tl.constexpr, WANT: tl.constexpr,
                    HAS0: tl.constexpr, HAS1: tl.constexpr):  # fmt: skip
    """Cotangents of one bump's jet at the points ``n``, zero if missing; a Hessian's only by its symmetric part."""
    cot = (zero,)
    if HAS0:
        cot = (tl.load(g0 + bump * stride + n, mask=inside, other=0.0),)
    if WANT >= 1:
        for j in tl.static_range(D):
            if HAS1:
                cot = cot + (tl.load(g1 + (bump * D + j) * stride + n, mask=inside, other=0.0),)
            else:
                cot = cot + (zero,)
    if WANT == 2:
        for j in tl.static_range(D):
            cot = cot + (tl.load(g2 + (bump * D + j) * stride + n, mask=inside, other=0.0),)
    if WANT == 4:
        cot = cot + (tl.load(g2 + bump * stride + n, mask=inside, other=0.0),)
    if WANT == 3:
        for i in tl.static_range(D):
            for j in tl.static_range(i, D):
                upper = tl.load(g2 + (bump * (D * D) + (i * D + j)) * stride + n, mask=inside, other=0.0)
                if i < j:
                    lower = tl.load(g2 + (bump * (D * D) + (j * D + i)) * stride + n, mask=inside, other=0.0)
                    upper = 0.5 * upper + 0.5 * lower
                cot = cot + (upper,)
    return cot


@triton.jit
def basis_vjp_rows_kernel(g0, g1, g2, x, table, partial, N, M, length, D: tl.constexpr, WANT: tl.constexpr,
                          HAS0: tl.constexpr, HAS1: tl.constexpr, TS: tl.constexpr, BLOCK: tl.constexpr,
                          FAST: tl.constexpr):  # fmt: skip
    """Sums over a chunk of ``length`` points for one bump: of s ds, kappa A' [d], B' [d], V' [d d]."""
    bump = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1).to(tl.int64)
    R = load_scalars(table + bump * TS, TS)
    stride = tl.cast(N, tl.int64)
    first = chunk * length
    last = tl.minimum(first + length, N)
    zero = tl.zeros([BLOCK], x.dtype.element_ty)
    SUMS: tl.constexpr = 1 + 2 * D + D * D
    EXTRA: tl.constexpr = D * D if WANT == 2 else (D if WANT == 4 else 0)
    sums = ()
    for j in tl.static_range(SUMS + EXTRA):
        sums = sums + (zero,)
    s: tl.constexpr = D * D + 4 * D + 2
    for step in tl.range(0, (last - first).to(tl.int32), BLOCK):
        n = first + step + tl.arange(0, BLOCK)
        inside = n < last
        X = load_points(x, n, inside, D, 1)
        y, g, d = evaluate_axes(X, R, D, False, FAST)
        p = psi(g, R, D, FAST)
        cot = load_cotangents(g0, g1, g2, bump, stride, n, inside, zero, D, WANT, HAS0, HAS1)
        _, by_s, dB, dA, dV, H = pair_vjp(g, d, p, cot, R[s], R, D, WANT)
        added = (sums[0] + by_s,)
        for k in tl.static_range(D):
            added = added + (sums[1 + k] + dA[k],)
        for k in tl.static_range(D):
            added = added + (sums[1 + D + k] + dB[k],)
        for k in tl.static_range(D):
            for i in tl.static_range(D):
                v = dB[k] * y[i] + sums[1 + 2 * D + k * D + i]
                if WANT >= 1:
                    v = dV[k * D + i] + v
                added = added + (v,)
        for j in tl.static_range(EXTRA):
            added = added + (sums[SUMS + j] + H[j],)
        sums = added
    out = partial + chunk * SUMS * M + bump
    for j in tl.static_range(SUMS):
        v = sums[j]
        if j > 2 * D:
            if WANT == 2:
                v = v + 2.0 * R[j - (1 + 2 * D)] * sums[SUMS + j - (1 + 2 * D)]
            if WANT == 4:
                v = v + 2.0 * R[j - (1 + 2 * D)] * sums[SUMS + (j - (1 + 2 * D)) // D]
        tl.store(out + j * M, tl.sum(v, axis=0))


@triton.jit
def basis_vjp_x_kernel(g0, g1, g2, x, table, gradient, N, M, D: tl.constexpr, WANT: tl.constexpr, HAS0: tl.constexpr,
                       HAS1: tl.constexpr, TS: tl.constexpr, BLOCK: tl.constexpr, SPLIT: tl.constexpr,
                       FAST: tl.constexpr):  # fmt: skip
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = n < N
    X = load_points(x, n, inside, D, SPLIT)
    stride = tl.cast(N, tl.int64)
    kind = x.dtype.element_ty
    zero = tl.zeros([BLOCK, SPLIT], kind) if SPLIT > 1 else tl.zeros([BLOCK], kind)
    sums = ()
    for i in tl.static_range(D):
        sums = sums + (zero,)
    s: tl.constexpr = D * D + 4 * D + 2
    for m in tl.range(0, M, SPLIT):
        bump = tl.cast(m, tl.int64)
        R = load_bumps(table + bump * TS, m, M, TS, SPLIT)
        _, g, d = evaluate_axes(X, R, D, False, FAST)
        p = psi(g, R, D, FAST)
        if SPLIT > 1:
            lane = bump + tl.arange(0, SPLIT)[None, :]
            there = inside[:, None] & (lane < M)
            cot = load_cotangents(g0, g1, g2, lane, stride, n[:, None], there, zero, D, WANT, HAS0, HAS1)
        else:
            cot = load_cotangents(g0, g1, g2, bump, stride, n, inside, zero, D, WANT, HAS0, HAS1)
        _, _, dB, _, _, _ = pair_vjp(g, d, p, cot, R[s], R, D, WANT)
        added = ()
        for i in tl.static_range(D):
            v = sums[i]
            for k in tl.static_range(D):
                v = dB[k] * R[k * D + i] + v
            added = added + (v,)
        sums = added
    for i in tl.static_range(D):
        v = sums[i]
        if SPLIT > 1:
            v = tl.sum(v, axis=1)
        tl.store(gradient + n * D + i, v, mask=inside)
