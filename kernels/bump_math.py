"""The bump's formulas in base 2, for one (point, bump) pair at a time: the Triton twin of csrc/bump_math.h.

With L = log2 e and kappa = 1 / (2 L) the table holds V' = 2 L V, A' = 2 L A, q = exp(-4 A), k = (1 - q) / kappa, so
that exp(2 B) = exp2(B') and no scaling is left in a loop.  g is taken as a function of (A', B'), d' = kappa d:

    T = exp2(min(A' - |B'|, cap))     u = q T     r = 2 kappa / ((1 + T)(1 + u))     w = T r
    g = k w         d' = sign(B') (r - u w)        z = r + u w        e' = w (z + q (z + 4 w))
    G1 = -d' g      al = d'^2 - e' = 2 (d'^2 - kappa z)               ga = (kappa g)^2 - e'
    G2 = g al       G3 = G1 (4 kappa^2 - 6 e')                        D3 = -(al ga + 2 (kappa G1)^2)

One exponential and one reciprocal per axis; T is cut off from above only, so nothing overflows: T -> 0 outside, large
inside, q -> 0 for sharp bumps.  e', ga and D3 are kappa times the derivatives of g, G1 and G2 by A'.  e' and al have no
difference of large numbers where they vanish: the gradient by A multiplies e' by A, which has no bound.  All values
here stay in registers; only the callers read and write memory.

Versions tried (instructions per pair on sm_90, d = 2, Hessian diagonal, and MUFU): two exponentials and two reciprocals
per axis 69 and 10, so bound by MUFU; libdevice.tanh 145, with branches; tanh.approx 65, but wrong in the third digit;
``1 / x`` instead of rcp.approx + 18; V.x - beta instead of V.(x - c) 2 fewer, with up to 23 times the error.  One
reciprocal for two axes pays for values only.

WANT: 0 value, 1 and gradient, 2 and Hessian diagonal, 3 and full Hessian, 4 and Laplacian.  Components of a jet: value,
gradient, then the diagonal, the upper triangle row by row, or the sum.  A bump is a tuple R in the order of the table's
columns: V' [d d], c [d], A' [d], q [d], k [d], c1, c0, s, h [K], 2 V'^2 [d d], 2 |V'_k|^2 [d].
FAST is float32 on NVIDIA; without it there is no inline assembly, which Triton's interpreter does not know.
"""

import triton
import triton.language as tl


@triton.jit
def reciprocal(x, FAST: tl.constexpr):
    if FAST:  # one MUFU.RCP
        return tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        return 1.0 / x


@triton.jit
def flip_sign(magnitude, sign):
    if magnitude.dtype == tl.float32:  # one LOP3
        bits = magnitude.to(tl.int32, bitcast=True) | (sign.to(tl.int32, bitcast=True) & -2147483648)
        return bits.to(tl.float32, bitcast=True)
    else:
        return tl.where(sign < 0, -magnitude, magnitude)


@triton.jit
def load_scalars(ptr, COUNT: tl.constexpr):
    """COUNT (a multiple of 4) scalars, the same for all threads, four to a load: scalar loads are never merged."""
    R = ()
    for j in tl.static_range(COUNT // 4):
        four = tl.load(ptr + (4 * j + tl.arange(0, 4)))
        even, odd = tl.split(tl.reshape(four, [2, 2]))
        r0, r2 = tl.split(even)
        r1, r3 = tl.split(odd)
        R = R + (r0, r1, r2, r3)
    return R


@triton.jit
def load_points(x, n, inside, D: tl.constexpr, SPLIT: tl.constexpr):
    """Coordinates of the points ``n``, as a column where bumps lie side by side; an infinity becomes NaN."""
    X = ()
    for i in tl.static_range(D):
        v = tl.load(x + n * D + i, mask=inside, other=0.0)
        v = v + (v - v)
        if SPLIT > 1:
            v = v[:, None]
        X = X + (v,)
    return X


@triton.jit
def load_bumps(ptr, m, M, TS: tl.constexpr, SPLIT: tl.constexpr):
    """Bump ``m`` as scalars, or bumps m ... m + SPLIT - 1 as [1, SPLIT]; past the end come zeros, which add nothing."""
    if SPLIT == 1:
        return load_scalars(ptr, TS)
    else:
        lane = tl.arange(0, SPLIT)[None, :]
        R = ()
        for j in tl.static_range(TS):
            R = R + (tl.load(ptr + lane * TS + j, mask=m + lane < M, other=0.0),)
        return R


@triton.jit
def listed_entry(table, ids, at, TS: tl.constexpr):
    """Where the table has the bump that stands at ``at`` in a list."""
    return table + tl.load(ids + at).to(tl.int64) * TS


@triton.jit
def edge(b, R, k: tl.constexpr, D: tl.constexpr, cap: tl.constexpr):
    """T, u and the denominator of r on axis k, where |B'| is ``b``."""
    L: tl.constexpr = 1.4426950408889634
    # min(NaN, cap) must be NaN; without this option it is not on the device
    t = tl.exp2(tl.minimum(R[D * D + D + k] - b, cap, propagate_nan=tl.PropagateNan.ALL))
    u = R[D * D + 2 * D + k] * t
    n = L * t + L
    return t, u, u * n + n


@triton.jit
def evaluate_axes(x, R, D: tl.constexpr, PAIRED: tl.constexpr, FAST: tl.constexpr):
    """x - c; g of every axis; and the tuple of all |d'|, z, e' and B'.  PAIRED: one reciprocal serves two axes.

    Without PAIRED 1 / 2^cap is as good as 0, whatever the size of a wide bump multiplies it by.
    """
    cap: tl.constexpr = 60.0 if PAIRED else (120.0 if x[0].dtype == tl.float32 else 1000.0)
    y = ()
    for i in tl.static_range(D):
        y = y + (x[i] - R[D * D + i],)
    B = ()
    T = ()
    u = ()
    den = ()
    for k in tl.static_range(D):
        b = R[k * D] * y[0]
        for i in tl.static_range(1, D):
            b = R[k * D + i] * y[i] + b
        t, v, n = edge(tl.abs(b), R, k, D, cap)
        B = B + (b,)
        T = T + (t,)
        u = u + (v,)
        den = den + (n,)
    g = ()
    d = ()
    z = ()
    e = ()
    for k in tl.static_range(D):
        if PAIRED and D > 1 and (k % 2 == 1 or k + 1 < D):
            if k % 2 == 0:
                both = reciprocal(den[k] * den[k + 1], FAST)
                r = both * den[k + 1]
            else:
                r = both * den[k - 1]
        else:
            r = reciprocal(den[k], FAST)
        t = T[k] * r
        g = g + (R[D * D + 3 * D + k] * t,)
        d = d + (r - u[k] * t,)
        bend = r + u[k] * t
        z = z + (bend,)
        e = e + (t * (R[D * D + 2 * D + k] * (4.0 * t + bend) + bend),)
    return y, g, d + z + e + B


@triton.jit
def psi(g, R, D: tl.constexpr, FAST: tl.constexpr):
    sum_g = g[0]
    for k in tl.static_range(1, D):
        sum_g = sum_g + g[k]
    at: tl.constexpr = D * D + 4 * D
    return reciprocal(1.0 + tl.exp2(R[at] * sum_g + R[at + 1]), FAST)


@triton.jit
def gradient_of_S(G1, R, D: tl.constexpr):
    S1 = ()
    for j in tl.static_range(D):
        a = G1[0] * R[j]
        for k in tl.static_range(1, D):
            a = G1[k] * R[k * D + j] + a
        S1 = S1 + (a,)
    return S1


@triton.jit
def pair_jet(g, d, p, R, D: tl.constexpr, K: tl.constexpr, WANT: tl.constexpr):
    """Derivatives of psi, without the factor s psi (1 - psi): a tuple of the components after the value."""
    kappa: tl.constexpr = 0.34657359027997264
    s = R[D * D + 4 * D + 2]
    VV: tl.constexpr = D * D + 4 * D + 3 + K
    G1 = ()
    for k in tl.static_range(D):
        G1 = G1 + (-flip_sign(d[k] * g[k], d[3 * D + k]),)
    S1 = gradient_of_S(G1, R, D)
    out = S1
    if WANT >= 2:
        f = (-2.0 * s) * p + s
        G2 = ()
        for k in tl.static_range(D):
            G2 = G2 + (g[k] * (d[k] * d[k] - kappa * d[D + k]),)
        if WANT == 2:
            for i in tl.static_range(D):
                a = (f * S1[i]) * S1[i]
                for k in tl.static_range(D):
                    a = G2[k] * R[VV + k * D + i] + a
                out = out + (a,)
        elif WANT == 3:
            for i in tl.static_range(D):
                for j in tl.static_range(i, D):
                    a = (f * S1[i]) * S1[j]
                    for k in tl.static_range(D):
                        a = G2[k] * ((R[k * D + i] * R[k * D + j]) * 2.0) + a
                    out = out + (a,)
        else:
            q = S1[0] * S1[0]
            for i in tl.static_range(1, D):
                q = S1[i] * S1[i] + q
            a = f * q
            for k in tl.static_range(D):
                a = G2[k] * R[VV + D * D + k] + a
            out = out + (a,)
    return out


@triton.jit
def contract_second(c2, S1, R, D: tl.constexpr, WANT: tl.constexpr):
    """c2 grad S [d], V'_k . c2 V'_k [d], and c2 V'_k [d d] (WANT = 3; otherwise it is left to the caller)."""
    cS = ()
    cV = ()
    w = ()
    for i in tl.static_range(D):
        if WANT == 3:
            a = c2[i] * S1[0]  # the first row of the triangle
            for j in tl.static_range(1, D):
                if j >= i:
                    a = c2[i * D - i * (i - 1) // 2 + j - i] * S1[j] + a
                else:
                    a = c2[j * D - j * (j - 1) // 2 + i - j] * S1[j] + a
            cS = cS + (a,)
        elif WANT == 2:
            cS = cS + (c2[i] * S1[i],)
        else:
            cS = cS + (c2[0] * S1[i],)
    for k in tl.static_range(D):
        if WANT == 3:
            a = S1[0] * 0.0
            for i in tl.static_range(D):
                z = c2[i] * R[k * D]
                for j in tl.static_range(1, D):
                    if j >= i:
                        z = c2[i * D - i * (i - 1) // 2 + j - i] * R[k * D + j] + z
                    else:
                        z = c2[j * D - j * (j - 1) // 2 + i - j] * R[k * D + j] + z
                cV = cV + (z,)
                if i == 0:
                    a = z * R[k * D]
                else:
                    a = z * R[k * D + i] + a
        elif WANT == 2:
            a = c2[0] * (R[k * D] * R[k * D])
            for i in tl.static_range(1, D):
                a = c2[i] * (R[k * D + i] * R[k * D + i]) + a
        else:
            norm = R[k * D] * R[k * D]
            for i in tl.static_range(1, D):
                norm = R[k * D + i] * R[k * D + i] + norm
            a = c2[0] * norm
        w = w + (a,)
    return cS, w, cV


@triton.jit
def pair_vjp(g, d, p, cot, weight, R, D: tl.constexpr, WANT: tl.constexpr, K: tl.constexpr = 1):
    """L = cotangents . jet of psi, and its derivatives; all except L have the factor ``weight`` instead of s.

    Returns L, s dL/ds, dB' [d], kappa dA' [d], the part of dV' [d d] that does not come from B', and the values H whose
    sums give the rest: 2 V'_ki H_ki (WANT = 2) or 2 V'_ki H_k (WANT = 4).
    """
    s = R[D * D + 4 * D + 2]
    p1 = p - p * p
    c = weight * p1
    S = g[0]  # summed as in psi, so that it is the same sum
    for k in tl.static_range(1, D):
        S = S + g[k]
    S = S - (2.0 * D - 1.0)
    signed = ()
    G1 = ()
    G2 = ()
    e = ()
    al = ()
    ga = ()
    for k in tl.static_range(D):
        gg = g[k] * g[k]
        ek = d[2 * D + k]
        ak = d[k] * d[k] - ek
        signed = signed + (flip_sign(d[k], d[3 * D + k]),)
        if K == 1:
            G1 = G1 + (-signed[k] * g[k],)
        else:  # as in pair_jet, which the caller needs too, so that it is computed once
            G1 = G1 + (-flip_sign(d[k] * g[k], d[3 * D + k]),)
        G2 = G2 + (g[k] * ak,)
        e = e + (ek,)
        al = al + (ak,)
        ga = ga + (0.12011325347955035 * gg - ek,)  # kappa^2
    dS = c * cot[0]
    value = cot[0] * p
    by_s = dS
    dS1 = G1
    w = G1
    cV = G1
    H = G1
    if WANT >= 1:
        S1 = gradient_of_S(G1, R, D)
        f = s - (2.0 * s) * p
        dS1 = ()
        for i in tl.static_range(D):
            dS1 = dS1 + (c * cot[1 + i],)
        a = dS1[0] * S1[0]
        for i in tl.static_range(1, D):
            a = dS1[i] * S1[i] + a
        if WANT == 1:
            value += a
            by_s = a
        else:
            c2 = ()
            for m in tl.static_range(D if WANT == 2 else (D * (D + 1) // 2 if WANT == 3 else 1)):
                c2 = c2 + (c * cot[1 + D + m],)
            cS, w, cV = contract_second(c2, S1, R, D, WANT)
            rho = f + f
            b2 = cS[0] * S1[0]
            for i in tl.static_range(1, D):
                b2 = cS[i] * S1[i] + b2
            full = ()
            H = ()
            for i in tl.static_range(D):
                full = full + (dS1[i] + rho * cS[i],)
                a = G2[i] * w[i] + a
            dS1 = full
            for k in tl.static_range(D):
                for m in tl.static_range(D if WANT == 2 else 1):
                    H = H + (c2[m] * G2[k],)
            t = f * b2 + a
            value += t
            by_s = f * b2 + t
            dS = (s * s - (6.0 * (s * s)) * p1) * b2 + dS
        dS = f * a + dS
        by_s = dS * S + by_s
    else:
        by_s = dS * S
    dB = ()
    dA = ()
    dV = ()
    for k in tl.static_range(D):
        b = dS * G1[k]
        a = dS * e[k]
        if WANT >= 1:
            z = dS1[0] * R[k * D]
            for i in tl.static_range(1, D):
                z = dS1[i] * R[k * D + i] + z
            b = b + z * G2[k]
            a = z * (signed[k] * ga[k]) + a
            if WANT >= 2:
                b = w[k] * (G1[k] * (0.48045301391820144 - 6.0 * e[k])) + b  # 4 kappa^2
                a = a - w[k] * (al[k] * ga[k] + G1[k] * (0.2402265069591007 * G1[k]))  # 2 kappa^2
            for i in tl.static_range(D):
                v = dS1[i] * G1[k]
                if WANT == 3:
                    v = (cV[k * D + i] + cV[k * D + i]) * G2[k] + v
                dV = dV + (v,)
        dB = dB + (b,)
        dA = dA + (a,)
    if WANT == 0:
        dV = G1
    return value, by_s, dB, dA, dV, H
