"""Pack rows, points and cotangents into the tables that the kernels read, and turn sums into gradients of the rows.

Each takes one launch; PyTorch would take 20 and 40.  At M = 40 a step costs little but its launches.  Formulas in
docs/math.md, "packing"; the twin of csrc/packing.h, in double precision whatever the kernels compute in.  Traffic: a
row in, its table entry out (4 to 22 of 16 bytes in float32); a point with its cotangents in and out; the partial sums
of the backward in, a row out.

Orientation.  With U = L Q (Gram-Schmidt) and dQ = Omega Q, the strict upper part of the antisymmetric Omega is that of
L^-1 dU Q^T, and L^-1 = Q U^-1.  A cotangent Y of Q thus gives, with Z = Y Q^T, the one of U:
sum over i < j of L^-1_ia (Z_ij - Z_ji) Q_jb.  V'_kj is Q_kj times a factor of column j, so Z is dV' V'^T.

Versions tried: packing in torch operations (as above); the exponentials in float32, whose error is multiplied by p A in
the second derivatives.
"""

import triton
import triton.language as tl


@triton.jit
def _read(row, j, inside):
    return tl.load(row + j, mask=inside, other=0.0).to(tl.float64)


@triton.jit
def orientation(row, inside, zero, D: tl.constexpr):
    """U and its orthonormalised rows Q, both [d d], and the length of U's first row."""
    U = ()
    for a in tl.static_range(D):
        for b in tl.static_range(D):
            if a < b:
                U = U + (_read(row, 2 * D + a * D - a * (a + 1) // 2 + b - a - 1, inside),)
            elif a == b:
                U = U + (zero + 1.0,)
            else:
                U = U + (zero,)
    if D == 1:
        return U, U, U[0]
    elif D == 2:  # exact for any skew
        length = tl.sqrt(1.0 + U[1] * U[1])
        return U, (1.0 / length, U[1] / length, -U[1] / length, 1.0 / length), length
    else:
        Q = ()
        length = zero
        for k in tl.static_range(D):
            v = ()
            for j in tl.static_range(D):
                v = v + (U[k * D + j],)
            for other in tl.static_range(k):
                along = v[0] * Q[other * D]
                for j in tl.static_range(1, D):
                    along += v[j] * Q[other * D + j]
                rest = ()
                for j in tl.static_range(D):
                    rest = rest + (v[j] - along * Q[other * D + j],)
                v = rest
            norm = v[0] * v[0]
            for j in tl.static_range(1, D):
                norm += v[j] * v[j]
            norm = tl.sqrt(norm)
            for j in tl.static_range(D):
                Q = Q + (v[j] / norm,)
            if k == 0:
                length = norm
        return U, Q, length


@triton.jit
def chain_factors(U, Q, D: tl.constexpr):
    """L^-1_ia Q_jb for every a < b (rows) and i < j (columns): skews from the upper triangle of Z - Z^T."""
    inverse = ()  # L^-1 = Q U^-1, row by row
    for i in tl.static_range(D):
        for j in tl.static_range(D):
            v = Q[i * D + j]
            for other in tl.static_range(j):
                v -= inverse[i * D + other] * U[other * D + j]
            inverse = inverse + (v,)
    E = ()
    for a in tl.static_range(D):
        for b in tl.static_range(a + 1, D):
            for i in tl.static_range(D):
                for j in tl.static_range(i + 1, D):
                    E = E + (inverse[i * D + a] * Q[j * D + b],)
    return E


@triton.jit
def unpack(row, frame, inside, zero, D: tl.constexpr, TIED: tl.constexpr):
    """Used values of bumps: c, dc/d(column), A', V', s; and U, Q, length."""
    L: tl.constexpr = 1.4426950408889634
    U, Q, length = orientation(row, inside, zero, D)
    at: tl.constexpr = 2 * D + D * (D - 1) // 2
    p = tl.exp(_read(row, at, inside))
    if TIED:
        s = 2.0 * p
    else:
        s = tl.exp(_read(row, at + 1, inside))
    c = ()
    by_centre = ()
    A = ()
    factor = ()
    V = ()
    for j in tl.static_range(D):
        lo = tl.load(frame + j).to(tl.float64)
        width = tl.load(frame + D + j).to(tl.float64) - lo
        centre = _read(row, j, inside)
        small = tl.exp(-2.0 * tl.abs(centre))  # (1 + tanh) / 2 without overflow
        share = tl.where(centre < 0, small, 1.0) / (1.0 + small)
        c = c + (lo + width * tl.where(centre == centre, share, centre),)
        by_centre = by_centre + (width * (2.0 * small / ((1.0 + small) * (1.0 + small))),)
        A = A + (L * (p * length) * tl.exp(_read(row, D + j, inside)),)
        factor = factor + (2.0 * L * (p * length) * tl.load(frame + 2 * D + j).to(tl.float64),)
    for k in tl.static_range(D):
        for j in tl.static_range(D):
            V = V + (factor[j] * Q[k * D + j],)
    return c, by_centre, A, V, s, U, Q, length


@triton.jit
def one_less_exp(z):
    """1 - exp(-z) for z >= 0 without cancellation: a series where z is small."""
    series = 1.0 + 0.0 * z
    for j in tl.static_range(13):
        series = 1.0 - z / (14 - j) * series
    return tl.where(z < 0.5, z * series, 1.0 - tl.exp(-z))


@triton.jit
def _pack_bumps(rows, frame, table, columns, M, first, D: tl.constexpr, K: tl.constexpr, TIED: tl.constexpr,
                CHAIN: tl.constexpr, TS: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    L: tl.constexpr = 1.4426950408889634
    m = first.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = m < M
    zero = tl.zeros([BLOCK], tl.float64)
    shape: tl.constexpr = 2 * D + D * (D - 1) // 2 + (1 if TIED else 2)
    row = rows + m * columns
    c, by_centre, A, V, s, U, Q, length = unpack(row, frame, inside, zero, D, TIED)
    R = V + c + A
    # of the rounded A', so that q T^2 is 1 at the centre, where d vanishes, for large A too
    for k in tl.static_range(D):
        R = R + (tl.exp2(-2.0 * A[k].to(table.dtype.element_ty).to(tl.float64)),)
    for k in tl.static_range(D):
        R = R + (2.0 * L * one_less_exp(2.0 / L * A[k].to(table.dtype.element_ty).to(tl.float64)),)
    R = R + (-s * L, s * (L * (2 * D - 1)), s)
    for k in tl.static_range(K):
        R = R + (_read(row, shape + k, inside),)
    for j in tl.static_range(D * D):
        R = R + (2.0 * (V[j] * V[j]),)
    for k in tl.static_range(D):
        norm = zero
        for j in tl.static_range(D):
            norm += V[k * D + j] * V[k * D + j]
        R = R + (2.0 * norm,)
    filled: tl.constexpr = 2 * D * D + 5 * D + 3 + K
    if CHAIN:  # from the next multiple of 4 on
        for j in tl.static_range((4 - filled % 4) % 4):
            R = R + (zero,)
        R = R + by_centre
        for j in tl.static_range(1, D):
            R = R + (U[j] / (length * length),)
        R = R + chain_factors(U, Q, D)
    SKEWS: tl.constexpr = D * (D - 1) // 2
    known: tl.constexpr = (filled + 3) // 4 * 4 + 2 * D - 1 + SKEWS * SKEWS if CHAIN else filled
    for j in tl.static_range(TS):
        value = R[j] if j < known else zero
        tl.store(table + m * TS + j, value.to(table.dtype.element_ty), mask=inside)


@triton.jit
def _pack_points(x, g0, g1, g2, points, order, N, first, D: tl.constexpr, K: tl.constexpr, WANT: tl.constexpr,
                 HAS0: tl.constexpr, HAS1: tl.constexpr, PS: tl.constexpr, C: tl.constexpr, TILE: tl.constexpr,
                 BLOCK: tl.constexpr):  # fmt: skip
    n = first.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = n < N
    zero = tl.zeros([BLOCK], x.dtype.element_ty)
    to = points + (n // TILE * (TILE * PS) + n % TILE)
    if order is not None:
        n = tl.load(order + n, mask=inside, other=0)
    for j in tl.static_range(PS):
        if j < D:
            v = tl.load(x + n * D + j, mask=inside, other=0.0)
            tl.store(to + j * TILE, v + (v - v), mask=inside)  # an infinity becomes NaN
        elif j >= D + K * C:
            tl.store(to + j * TILE, zero, mask=inside)
    for k in tl.static_range(K):
        at = n * K + k
        out = to + (D + k * C) * TILE
        if HAS0:
            tl.store(out, tl.load(g0 + at, mask=inside, other=0.0), mask=inside)
        else:
            tl.store(out, zero, mask=inside)
        if WANT >= 1:
            for j in tl.static_range(D):
                if HAS1:
                    tl.store(out + (1 + j) * TILE, tl.load(g1 + at * D + j, mask=inside, other=0.0), mask=inside)
                else:
                    tl.store(out + (1 + j) * TILE, zero, mask=inside)
        if WANT == 2:
            for j in tl.static_range(D):
                tl.store(out + (1 + D + j) * TILE, tl.load(g2 + at * D + j, mask=inside, other=0.0), mask=inside)
        if WANT == 4:
            tl.store(out + (1 + D) * TILE, tl.load(g2 + at, mask=inside, other=0.0), mask=inside)
        if WANT == 3:
            for i in tl.static_range(D):
                for j in tl.static_range(i, D):  # only the symmetric part counts
                    upper = tl.load(g2 + at * (D * D) + i * D + j, mask=inside, other=0.0)
                    lower = tl.load(g2 + at * (D * D) + j * D + i, mask=inside, other=0.0)
                    place = out + (1 + D + i * D - i * (i - 1) // 2 + j - i) * TILE
                    tl.store(place, 0.5 * upper + 0.5 * lower, mask=inside)


@triton.jit
def pack_kernel(rows, frame, table, x, g0, g1, g2, points, order, columns, M, N, bump_programs, D: tl.constexpr,
                K: tl.constexpr, CHAIN: tl.constexpr, WANT: tl.constexpr, TIED: tl.constexpr, HAS0: tl.constexpr,
                HAS1: tl.constexpr, OUTPUTS: tl.constexpr, TS: tl.constexpr, PS: tl.constexpr, C: tl.constexpr,
                TILE: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Table [M, TS] of the bumps and, if OUTPUTS, [N, PS]: each point with its cotangents, output by output.

    A row has ``columns`` numbers.  The table also has K amplitudes (K = 0 if they are not used), and with CHAIN the
    factors from the packed values to the columns of the row: dc/d(column) [d], (log of U_1's length)/dU_1b [d - 1],
    and chain_factors.  TILE is 1, or the points come in the ``order`` of tiles of so many, [N / TILE, PS, TILE].
    """
    program = tl.program_id(0)
    if OUTPUTS > 0:
        if program >= bump_programs:
            _pack_points(
                x, g0, g1, g2, points, order, N, program - bump_programs, D, OUTPUTS, WANT, HAS0, HAS1, PS, C, TILE,
                BLOCK,
            )  # fmt: skip
        else:
            _pack_bumps(rows, frame, table, columns, M, program, D, K, TIED, CHAIN, TS, BLOCK)
    else:
        _pack_bumps(rows, frame, table, columns, M, program, D, K, TIED, CHAIN, TS, BLOCK)


@triton.jit
def _totals(partial, m, inside, M, chunks, SUMS: tl.constexpr, ABREAST: tl.constexpr, BLOCK: tl.constexpr):
    """Sums over the chunks of points, in double and in an order that depends on their number only.

    One loop does all, so that the loads of one chunk do not wait for each other.
    """
    lane = tl.arange(0, ABREAST)[:, None]
    totals = ()
    for _ in tl.static_range(SUMS):
        totals = totals + (tl.zeros([ABREAST, BLOCK], tl.float64),)
    for first in tl.range(0, chunks, ABREAST):
        at = (first + lane).to(tl.int64) * SUMS * M + m[None, :]
        there = (first + lane < chunks) & inside[None, :]
        added = ()
        for j in tl.static_range(SUMS):
            added = added + (totals[j] + tl.load(partial + at + j * M, mask=there, other=0.0).to(tl.float64),)
        totals = added
    out = ()
    for j in tl.static_range(SUMS):
        out = out + (tl.sum(totals[j], axis=0),)
    return out


@triton.jit
def unpack_gradient_kernel(partial, rows, frame, gradient, columns, M, chunks, D: tl.constexpr, K: tl.constexpr,
                           TIED: tl.constexpr, ABREAST: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Gradient of the rows from partial sums [chunks, SUMS, M]: of h [K], s ds, kappa A' [d], B' [d], V' [d d].

    K is 0 where the amplitudes take no part: then their columns, of ``columns`` in all, are left alone.
    """
    L: tl.constexpr = 1.4426950408889634
    m = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = m < M
    zero = tl.zeros([BLOCK], tl.float64)
    shape: tl.constexpr = 2 * D + D * (D - 1) // 2 + (1 if TIED else 2)
    SUMS: tl.constexpr = K + 1 + 2 * D + D * D
    row = rows + m * columns
    out = gradient + m * columns
    kind = gradient.dtype.element_ty
    totals = _totals(partial, m, inside, M, chunks, SUMS, ABREAST, BLOCK)
    _, by_centre, A, V, _, U, Q, length = unpack(row, frame, inside, zero, D, TIED)
    scale = zero + 1.0
    if K == 1:  # the sums were taken without the amplitude
        scale = _read(row, shape, inside)
    for k in tl.static_range(K):
        tl.store(out + shape + k, totals[k].to(kind), mask=inside)
    s_ds = scale * totals[K]
    sharp = zero
    for k in tl.static_range(D):
        by_A = A[k] * (2.0 * L * scale * totals[K + 1 + k])
        tl.store(out + D + k, by_A.to(kind), mask=inside)
        sharp += by_A
    dB = ()
    for k in tl.static_range(D):
        dB = dB + (scale * totals[K + 1 + D + k],)
    for j in tl.static_range(D):
        dc = zero
        for k in tl.static_range(D):
            dc -= dB[k] * V[k * D + j]
        tl.store(out + j, (dc * by_centre[j]).to(kind), mask=inside)
    dV = ()
    for k in tl.static_range(D * D):
        v = scale * totals[K + 1 + 2 * D + k]
        sharp += v * V[k]
        dV = dV + (v,)
    at: tl.constexpr = 2 * D + D * (D - 1) // 2
    if TIED:
        tl.store(out + at, (sharp + s_ds).to(kind), mask=inside)
    else:
        tl.store(out + at, sharp.to(kind), mask=inside)
        tl.store(out + at + 1, s_ds.to(kind), mask=inside)
    E = chain_factors(U, Q, D)
    W = ()  # the upper triangle of Z - Z^T
    for i in tl.static_range(D):
        for j in tl.static_range(i + 1, D):
            w = zero
            for other in tl.static_range(D):
                w += dV[i * D + other] * V[j * D + other] - dV[j * D + other] * V[i * D + other]
            W = W + (w,)
    SKEWS: tl.constexpr = D * (D - 1) // 2
    for a in tl.static_range(SKEWS):
        v = zero
        if a < D - 1:  # the first row of U, whose length is in V' and A'
            v = U[1 + a] / (length * length) * sharp
        for b in tl.static_range(SKEWS):
            v += E[a * SKEWS + b] * W[b]
        tl.store(out + (2 * D + a), v.to(kind), mask=inside)
