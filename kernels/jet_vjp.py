"""Backward kernels: from cotangents of a jet to sums per bump, and to the points.

Both evaluate again instead of saving anything.  Formulas in docs/math.md, "backward", and in bump_math.pair_vjp.

To the bumps: a program owns BLOCK bumps, one or two to a thread with all their sums in registers, and runs over a chunk
of the packed points, the same for all threads.  Partial sums [chunks, SUMS, M] are added up by
pack.unpack_gradient_kernel: no atomics, so one order of sums.  To the points: the forward's mapping.  Traffic: the
packed points once per block of bumps, or the table once per block of points; bound by instruction issue.

Versions tried (instructions per pair on sm_90, d = 2, Hessian diagonal): one bump per thread 140, two 135, of which 130
are needed; 2 V (sum of c2 G2) summed apart saves 4.  Sums over a tile of points in the loop: the shuffles cost more
than the formulas.
"""

import triton
import triton.language as tl

from .bump_math import evaluate_axes, listed_entry, load_bumps, load_scalars, pair_jet, pair_vjp, psi


@triton.jit
def cotangents(point, R, D: tl.constexpr, K: tl.constexpr, C: tl.constexpr):
    """Cotangents of the bump's own jet.  With one output the amplitude is multiplied at the end."""
    at: tl.constexpr = D * D + 4 * D + 3
    cot = ()
    for i in tl.static_range(C):
        if K == 1:
            cot = cot + (point[D + i],)
        else:
            v = R[at] * point[D + i]
            for k in tl.static_range(1, K):
                v = R[at + k] * point[D + k * C + i] + v
            cot = cot + (v,)
    return cot


@triton.jit
def load_tile(points, tile, inside, NUMBERS: tl.constexpr, PS: tl.constexpr, BLOCK: tl.constexpr):
    """The points of a tile with their cotangents, component after component (pack.pack_kernel)."""
    at = points + tile.to(tl.int64) * (BLOCK * PS) + tl.arange(0, BLOCK)
    point = ()
    for j in tl.static_range(NUMBERS):
        point = point + (tl.load(at + j * BLOCK, mask=inside, other=0.0),)
    return point


@triton.jit
def add_pairs(sums, point, R, D: tl.constexpr, K: tl.constexpr, WANT: tl.constexpr, C: tl.constexpr,
              FAST: tl.constexpr):  # fmt: skip
    """Add one point to the sums of bumps, or points side by side to the sums of one bump."""
    SUMS: tl.constexpr = K + 1 + 2 * D + D * D
    EXTRA: tl.constexpr = D * D if WANT == 2 else (D if WANT == 4 else 0)
    at: tl.constexpr = D * D + 4 * D + 2
    y, g, d = evaluate_axes(point, R, D, False, FAST)
    p = psi(g, R, D, FAST)
    cot = cotangents(point, R, D, K, C)
    value, by_s, dB, dA, dV, H = pair_vjp(g, d, p, cot, R[at], R, D, WANT, K)
    added = ()
    if K == 1:
        added = added + (sums[0] + value,)
    else:
        weight = R[at] * (p - p * p)
        terms = pair_jet(g, d, p, R, D, K, WANT)
        for k in tl.static_range(K):
            v = point[D + k * C] * p
            for i in tl.static_range(1, C):
                t = (weight * terms[i - 1]) * point[D + k * C + i]
                v = v + t
                if WANT == 3 and i > D:  # off the diagonal a component stands for two entries
                    if not (i == 1 + D or i == 2 * D + 1 or i == 3 * D or (i == 4 * D - 2 and D == 4)):
                        v = v + t
            added = added + (sums[k] + v,)
    added = added + (sums[K] + by_s,)
    for k in tl.static_range(D):
        added = added + (sums[K + 1 + k] + dA[k],)
    for k in tl.static_range(D):
        added = added + (sums[K + 1 + D + k] + dB[k],)
    for k in tl.static_range(D):
        for i in tl.static_range(D):
            v = dB[k] * y[i] + sums[K + 1 + 2 * D + k * D + i]
            if WANT >= 1:
                v = dV[k * D + i] + v
            added = added + (v,)
    for j in tl.static_range(EXTRA):
        added = added + (sums[SUMS + j] + H[j],)
    return added


@triton.jit
def jet_vjp_rows_kernel(points, table, partial, starts, ids, within, N, M, length, D: tl.constexpr, K: tl.constexpr,
                        WANT: tl.constexpr, TS: tl.constexpr, PS: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr,
                        FAST: tl.constexpr):  # fmt: skip
    """Sums over all points or, with lists (cull.py), of one bump over the tiles in its list, points side by side."""
    SUMS: tl.constexpr = K + 1 + 2 * D + D * D
    EXTRA: tl.constexpr = D * D if WANT == 2 else (D if WANT == 4 else 0)
    zero = tl.zeros([BLOCK], points.dtype.element_ty)
    sums = ()
    for j in tl.static_range(SUMS + EXTRA):
        sums = sums + (zero,)
    chunk = tl.program_id(1)
    if ids is None:
        m = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = m < M
        R = ()
        for j in tl.static_range(TS):
            R = R + (tl.load(table + m * TS + j, mask=inside, other=0.0),)
        first = chunk.to(tl.int64) * length
        last = tl.minimum(first + length, N)
        entry = points + first * PS
        for n in tl.range(0, (last - first).to(tl.int32)):
            sums = add_pairs(sums, load_scalars(entry, PS), R, D, K, WANT, C, FAST)
            entry += PS
    else:
        m = tl.program_id(0).to(tl.int64)
        R = load_scalars(table + m * TS, TS)
        begin, end = tl.load(starts + m), tl.load(starts + m + 1)
        for at in tl.range(begin + chunk, end, tl.num_programs(1)):
            tile = tl.load(ids + at)
            inside = tile.to(tl.int64) * BLOCK + tl.arange(0, BLOCK) < N
            point = load_tile(points, tile, inside, D + K * C, PS, BLOCK)
            sums = add_pairs(sums, point, R, D, K, WANT, C, FAST)
    out = partial + chunk.to(tl.int64) * SUMS * M + m
    for j in tl.static_range(SUMS):
        v = sums[j]
        if j >= K + 1 + 2 * D:
            if WANT == 2:
                v = v + 2.0 * R[j - (K + 1 + 2 * D)] * sums[SUMS + j - (K + 1 + 2 * D)]
            if WANT == 4:
                v = v + 2.0 * R[j - (K + 1 + 2 * D)] * sums[SUMS + (j - (K + 1 + 2 * D)) // D]
        if ids is None:
            tl.store(out + j * M, v, mask=inside)
        else:
            total = tl.sum(v, axis=0)
            if j < K:  # by the points where the bump is 1
                total += tl.where(chunk == 0, tl.load(within + m * K + j), 0.0).to(total.dtype)
            tl.store(out + j * M, total)


@triton.jit
def jet_vjp_x_kernel(points, table, gradient, order, starts, ids, N, M, D: tl.constexpr, K: tl.constexpr,
                     WANT: tl.constexpr, TS: tl.constexpr, PS: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr,
                     SPLIT: tl.constexpr, FAST: tl.constexpr):  # fmt: skip
    program = tl.program_id(0)
    n = program.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = n < N
    begin, end = 0, M
    if ids is not None:
        point = load_tile(points, program, inside, D + K * C, PS, BLOCK)
        n = tl.load(order + n, mask=inside, other=0)
        begin, end = tl.load(starts + program), tl.load(starts + program + 1)
    else:
        point = ()
        for j in tl.static_range(D + K * C):
            number = tl.load(points + n * PS + j, mask=inside, other=0.0)
            if SPLIT > 1:
                point = point + (number[:, None],)
            else:
                point = point + (number,)
    kind = points.dtype.element_ty
    zero = tl.zeros([BLOCK, SPLIT], kind) if SPLIT > 1 else tl.zeros([BLOCK], kind)
    sums = ()
    for i in tl.static_range(D):
        sums = sums + (zero,)
    at: tl.constexpr = D * D + 4 * D + 2
    entry = table
    for m in tl.range(begin, end, SPLIT):
        if ids is not None:
            entry = listed_entry(table, ids, m, TS)
        R = load_bumps(entry, m, end, TS, SPLIT)
        _, g, d = evaluate_axes(point, R, D, False, FAST)
        p = psi(g, R, D, FAST)
        cot = cotangents(point, R, D, K, C)
        weight = R[at] * R[at + 1] if K == 1 else R[at]
        _, _, dB, _, _, _ = pair_vjp(g, d, p, cot, weight, R, D, WANT)
        added = ()
        for i in tl.static_range(D):
            v = sums[i]
            for k in tl.static_range(D):
                v = dB[k] * R[k * D + i] + v
            added = added + (v,)
        sums = added
        if ids is None:
            entry += TS * SPLIT
    for i in tl.static_range(D):
        v = sums[i]
        if SPLIT > 1:
            v = tl.sum(v, axis=1)
        tl.store(gradient + n * D + i, v, mask=inside)
