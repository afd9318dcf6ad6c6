"""Forward kernel: the jet of sum_i h_i psi_i at many points in one pass.

    u += h psi      u_i += (h s psi') S_i      u_ij += (h s psi') (S_ij + s (1 - 2 psi) S_i S_j)

A program owns BLOCK points, several to a thread, and runs over the bumps, whose table entries are the same for all
threads: each is loaded four numbers at a time and shared by the points of a thread.  Few points do not fill a GPU;
then a tile is BLOCK x SPLIT, with SPLIT bumps side by side that are summed in the program (no second launch, one order
of sums).
In float32 very many bumps are summed in two levels: a run of RUN x SPLIT bumps is added to what the program has stored
before, which takes no registers for sums.  Traffic: N d numbers in, the jet out, M TS per program from the caches;
bound by instruction issue.

Versions tried (instructions per pair on sm_90, d = 2, Hessian diagonal): the table by columns 179, by entries 91, both
with one point per thread; four points 70; eight 66.5, of which 65 are needed.  Partial sums of a split in memory need
a launch more.
"""

import triton
import triton.language as tl

from .bump_math import evaluate_axes, listed_entry, load_bumps, load_points, pair_jet, psi


@triton.jit
def nothing(zero, COUNT: tl.constexpr):
    sums = ()
    for _ in tl.static_range(COUNT):
        sums = sums + (zero,)
    return sums


@triton.jit
def add_within(sums, within, K: tl.constexpr, C: tl.constexpr):
    """Add to the values the bumps that are 1 at all these points."""
    added = ()
    for i in tl.static_range(K * C):
        if i % C == 0:
            added = added + (sums[i] + tl.load(within + i // C).to(sums[i].dtype),)
        else:
            added = added + (sums[i],)
    return added


@triton.jit
def sum_of_jets(X, zero, table, ids, first, last, D: tl.constexpr, K: tl.constexpr, WANT: tl.constexpr,
                TS: tl.constexpr, C: tl.constexpr, SPLIT: tl.constexpr, FAST: tl.constexpr):  # fmt: skip
    """Components [K C] of the bumps first ... last - 1, or of those in the list, at the points X, summed."""
    sums = nothing(zero, K * C)
    at: tl.constexpr = D * D + 4 * D + 2
    entry = table
    if ids is None:
        entry = table + tl.cast(first, tl.int64) * TS
    for m in tl.range(first, last, SPLIT):
        if ids is not None:
            entry = listed_entry(table, ids, m, TS)
        R = load_bumps(entry, m, last, TS, SPLIT)
        _, g, d = evaluate_axes(X, R, D, WANT == 0, FAST)
        p = psi(g, R, D, FAST)
        added = ()
        if WANT == 0:
            for k in tl.static_range(K):
                added = added + (sums[k] + R[at + 1 + k] * p,)
        else:
            terms = pair_jet(g, d, p, R, D, K, WANT)
            if K == 1:
                weight = (R[at + 1] * R[at]) * (p - p * p)
                added = added + (sums[0] + R[at + 1] * p,)
                for i in tl.static_range(C - 1):
                    added = added + (sums[1 + i] + weight * terms[i],)
            else:
                weight = R[at] * (p - p * p)
                for k in tl.static_range(K):
                    added = added + (sums[k * C] + R[at + 1 + k] * p,)
                    for i in tl.static_range(C - 1):
                        added = added + (sums[k * C + 1 + i] + R[at + 1 + k] * (weight * terms[i]),)
        sums = added
        if ids is None:
            entry += TS * SPLIT
    return sums


@triton.jit
def put(ptr, v, more, inside):
    """Store ``v``, or with ``more`` add it to what this program stored before."""
    if more:
        v += tl.load(ptr, mask=inside)
    tl.store(ptr, v, mask=inside)


@triton.jit
def store_jet(sums, value, gradient, second, more, n, inside, D: tl.constexpr, K: tl.constexpr, WANT: tl.constexpr,
              C: tl.constexpr, SPLIT: tl.constexpr):  # fmt: skip
    for k in tl.static_range(K):
        for i in tl.static_range(C):
            v = sums[k * C + i]
            if SPLIT > 1:
                v = tl.sum(v, axis=1)
            if i == 0:
                put(value + n * K + k, v, more, inside)
            elif i <= D:
                put(gradient + (n * K + k) * D + (i - 1), v, more, inside)
            elif WANT == 2:
                put(second + (n * K + k) * D + (i - 1 - D), v, more, inside)
            elif WANT == 4:
                put(second + (n * K + k), v, more, inside)
            else:
                for a in tl.static_range(D):
                    for b in tl.static_range(a, D):
                        if 1 + D + a * D - a * (a - 1) // 2 + b - a == i:
                            put(second + (n * K + k) * (D * D) + (a * D + b), v, more, inside)
                            if a != b:
                                put(second + (n * K + k) * (D * D) + (b * D + a), v, more, inside)


@triton.jit
def jet_kernel(x, table, value, gradient, second, order, starts, ids, within, N, M, D: tl.constexpr, K: tl.constexpr,
               WANT: tl.constexpr, TS: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr, SPLIT: tl.constexpr,
               RUN: tl.constexpr, FAST: tl.constexpr):  # fmt: skip
    """Jets of all bumps at all points or, with lists (cull.py), of the bumps in a tile's list at its points."""
    program = tl.program_id(0)
    n = program.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = n < N
    begin, end = 0, M
    if ids is not None:
        n = tl.load(order + n, mask=inside, other=0)
        begin, end = tl.load(starts + program), tl.load(starts + program + 1)
    X = load_points(x, n, inside, D, SPLIT)
    kind = x.dtype.element_ty
    zero = tl.zeros([BLOCK, SPLIT], kind) if SPLIT > 1 else tl.zeros([BLOCK], kind)
    if RUN == 0:
        sums = sum_of_jets(X, zero, table, ids, begin, end, D, K, WANT, TS, C, SPLIT, FAST)
        if ids is not None:
            sums = add_within(sums, within + program * K, K, C)
        store_jet(sums, value, gradient, second, False, n, inside, D, K, WANT, C, SPLIT)
    else:
        more = False
        if ids is not None:  # a list may be empty
            sums = add_within(nothing(zero, K * C), within + program * K, K, C)
            store_jet(sums, value, gradient, second, False, n, inside, D, K, WANT, C, SPLIT)
            more = True
        for first in tl.range(begin, end, RUN * SPLIT):
            last = tl.minimum(first + RUN * SPLIT, end)
            sums = sum_of_jets(X, zero, table, ids, first, last, D, K, WANT, TS, C, SPLIT, FAST)
            store_jet(sums, value, gradient, second, more or first > begin, n, inside, D, K, WANT, C, SPLIT)
