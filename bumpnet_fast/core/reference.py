"""The bumps in plain, differentiable PyTorch: the reference that every kernel is compared with.

Closed forms throughout (docs/math.md), any dimension, any number of outputs, float32 and
float64.  Every function can be differentiated again to any order, mapped with ``torch.vmap`` and
traced; the vector-Jacobian products are written out by hand so that they also work inside an
operator's kernel, where autograd is switched off.

Shapes: N points, M bumps, d dimensions, K outputs.  ``want`` says how far a jet goes: 0 value,
1 and gradient, 2 and Hessian diagonal, 3 and full Hessian, 4 and Laplacian.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple, get_args

import torch
from torch import Tensor

from .rows import Packed, RowLayout, chain_to_rows, pack
from .types import Want

WANTS: tuple[Want, ...] = get_args(Want)
VALUE, GRADIENT, DIAGONAL, HESSIAN, LAPLACIAN = range(5)


def level_of(want: Want) -> int:
    """The place of ``want`` among :data:`WANTS`; ValueError if it is none of them."""
    if want not in WANTS:
        raise ValueError(f"want must be one of {', '.join(WANTS)}, got {want!r}")
    return WANTS.index(want)


def _full_precision(function: Callable) -> Callable:
    """``function`` outside autocast, which would take its contractions to bfloat16 or float16."""

    @functools.wraps(function)
    def outside_autocast(*args):
        device = next(a.device.type for a in args if isinstance(a, Tensor))
        if not torch.is_autocast_enabled(device):
            return function(*args)
        with torch.autocast(device, enabled=False):
            return function(*args)

    return outside_autocast


class Axes(NamedTuple):
    """Values per point, bump and axis [N, M, d]; all later formulas are polynomials of these."""

    B: Tensor
    g: Tensor  # tanh(A+B) + tanh(A-B)
    d: Tensor  # tanh(A+B) - tanh(A-B)
    e: Tensor  # dg/dA = dd/dB
    G1: Tensor  # dg/dB
    G2: Tensor
    G3: Tensor
    bend: Tensor  # G2 / g


def points_or_nan(x: Tensor) -> Tensor:
    """``x`` with infinities turned to NaN, so that a bump at infinity is NaN and not a limit."""
    return torch.where(torch.isfinite(x), x, torch.full_like(x, float("nan")))


def axes(y: Tensor, packed: Packed) -> Axes:
    """The two edges of every axis at ``y = x - c`` [N, M, d].

    The kernels use the exponential of ``|B|``.  Sigmoids give the same numbers and are smooth at B = 0, so that
    automatic differentiation can continue from here.  The product form keeps g's relative accuracy for small A
    and far outside.
    """
    B = (packed.V * y[..., None, :]).sum(-1)
    up, down = torch.sigmoid(2 * (packed.A + B)), torch.sigmoid(2 * (packed.A - B))
    g = -2 * torch.expm1(-4 * packed.A) * up * down
    d = 2 * (up - down)
    gg, dd = g * g, d * d
    e = 2 - 0.5 * (gg + dd)
    bend = 0.5 * (gg + 3 * dd) - 2
    G1 = -d * g
    return Axes(B, g, d, e, G1, g * bend, G1 * (bend + gg - 3 * e), bend)


def _sum_over_axes(per_axis: Tensor, V: Tensor) -> Tensor:
    """sum_k per_axis_k V_kj: [N, M, d]."""
    return (per_axis[..., None] * V).sum(-2)


class Pairs(NamedTuple):
    """Quantities of every (point, bump) pair shared by jets and their derivatives."""

    axes: Axes
    S: Tensor  # [N, M]
    psi: Tensor
    p1: Tensor  # first, second and third derivative of the sigmoid
    p2: Tensor
    p3: Tensor
    S1: Tensor  # [N, M, d] gradient of S


def pairs(x: Tensor, packed: Packed) -> tuple[Tensor, Pairs]:
    # nearer where V y would overflow: a difference of infinities is NaN, and so far away it makes no difference
    most = torch.finfo(x.dtype).max / (4 * x.shape[-1] * packed.V.detach().abs().amax(-2))
    y = (points_or_nan(x)[:, None, :] - packed.c).clamp(-most, most)
    ax = axes(y, packed)
    S = ax.g.sum(-1) - (2 * x.shape[-1] - 1)
    psi = torch.sigmoid(packed.s * S)
    p1 = psi * (1 - psi)
    return y, Pairs(ax, S, psi, p1, p1 * (1 - 2 * psi), p1 * (1 - 6 * p1), _sum_over_axes(ax.G1, packed.V))


def _second(want: int, G2: Tensor, V: Tensor) -> Tensor:
    """Second derivatives of S in the form ``want`` asks for."""
    if want == HESSIAN:
        return (G2[..., None, None] * (V[..., :, None] * V[..., None, :])).sum(-3)
    diagonal = _sum_over_axes(G2, V * V)
    return diagonal if want == DIAGONAL else diagonal.sum(-1)


def _outer_square(want: int, S1: Tensor) -> Tensor:
    if want == HESSIAN:
        return S1[..., :, None] * S1[..., None, :]
    return S1 * S1 if want == DIAGONAL else (S1 * S1).sum(-1)


def _fill(values: Tensor, like: Tensor) -> Tensor:
    """``values`` [N, M] or [M] with trailing dimensions up to those of ``like``."""
    return values[(...,) + (None,) * (like.dim() - 2)]


@_full_precision
def basis(x: Tensor, rows: Tensor, frame: Tensor, want: int, tied: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The bumps' own jets: value [N, M], gradient [N, M, d], second derivatives [N, M, ...].

    What ``want`` does not ask for is an empty tensor.  (docs/math.md, "jets")
    """
    packed = pack(rows, frame, tied)
    _, p = pairs(x, packed)
    s = packed.s
    if want == VALUE:
        return p.psi, x.new_zeros(0), x.new_zeros(0)
    gradient = (s * p.p1)[..., None] * p.S1
    if want == GRADIENT:
        return p.psi, gradient, x.new_zeros(0)
    S2 = _second(want, p.axes.G2, packed.V)
    second = _fill(s * p.p1, S2) * S2 + _fill(s * s * p.p2, S2) * _outer_square(want, p.S1)
    return p.psi, gradient, second


@_full_precision
def jet(x: Tensor, rows: Tensor, frame: Tensor, want: int, tied: bool) -> tuple[Tensor, Tensor, Tensor]:
    """u(x) = sum_i h_i psi_i(x) and its derivatives: [N, K], [N, K, d], [N, K, ...]."""
    h = rows[:, RowLayout.of(rows, frame.shape[1], tied).amplitude]
    value, gradient, second = basis(x, rows, frame, want, tied)
    return (
        torch.einsum("nm,mk->nk", value, h),
        torch.einsum("nmj,mk->nkj", gradient, h) if want >= GRADIENT else gradient,
        torch.einsum("nm...,mk->nk...", second, h) if want >= DIAGONAL else second,
    )


class PairCotangents(NamedTuple):
    """Per pair: the contraction L and its derivatives by the packed values and by y = x - c."""

    L: Tensor  # [N, M]
    V: Tensor  # [N, M, d, d]
    c: Tensor  # [N, M, d]; the derivative by x is its negative
    A: Tensor  # [N, M, d]
    s: Tensor  # [N, M]


def pair_vjp(x: Tensor, packed: Packed, want: int, c0: Tensor, c1: Tensor, c2: Tensor) -> PairCotangents:
    """L = c0 psi + c1 . grad psi + c2 : second derivatives, and its derivatives, pair by pair.

    ``c0`` [N, M], ``c1`` [N, M, d] and ``c2`` [N, M, ...] may have size 1 in the bumps' place.
    ``want`` decides which of them are used.  (docs/math.md, "backward")
    """
    y, p = pairs(x, packed)
    V, s, ax = packed.V, packed.s, p.axes
    P, T = torch.zeros_like(p.S), torch.zeros_like(p.S)
    dS1 = c2_S1 = c2_V = None
    if want >= GRADIENT:
        P = (c1 * p.S1).sum(-1)
        dS1 = (s * p.p1)[..., None] * c1
    if want >= DIAGONAL:
        if want == HESSIAN:
            c2 = 0.5 * (c2 + c2.transpose(-1, -2))
            c2_S1 = (c2 * p.S1[..., None, :]).sum(-1)
            c2_V = (c2[..., None, :, :] * V[..., None, :]).sum(-1)
        else:
            weight = c2 if want == DIAGONAL else c2[..., None]
            c2_S1, c2_V = weight * p.S1, weight[..., None, :] * V
        T = (c2_S1 * p.S1).sum(-1)
        c2_VV = (c2_V * V).sum(-1)
        P = P + (ax.G2 * c2_VV).sum(-1)
        dS1 = dS1 + (2 * s * s * p.p2)[..., None] * c2_S1
    L = c0 * p.psi + s * p.p1 * P + s * s * p.p2 * T
    Ls = c0 * p.p1 + s * p.p2 * P + s * s * p.p3 * T
    ds = p.S * Ls + p.p1 * P + 2 * s * p.p2 * T
    dS = (s * Ls)[..., None]
    dB, dA = dS * ax.G1, dS * ax.e
    dV = torch.zeros_like(V)
    if want >= GRADIENT:
        dG1 = (dS1[..., None, :] * V).sum(-1)
        dB = dB + dG1 * ax.G2
        dA = dA + dG1 * (ax.d * (ax.g * ax.g - ax.e))
        dV = dV + dS1[..., None, :] * ax.G1[..., None]
    if want >= DIAGONAL:
        dG2 = (s * p.p1)[..., None] * c2_VV
        gg = ax.g * ax.g
        dB = dB + dG2 * ax.G3
        dA = dA + dG2 * (ax.e * (ax.bend + gg) - 3 * gg * ax.d * ax.d)
        dV = dV + (2 * s * p.p1)[..., None, None] * c2_V * ax.G2[..., None]
    dV = dV + dB[..., None] * y[..., None, :]
    return PairCotangents(L, dV, -_sum_over_axes(dB, V), dA, ds)


def _filled(cotangent: Tensor | None, shape: tuple[int, ...], like: Tensor) -> Tensor:
    return like.new_zeros(shape) if cotangent is None else cotangent


def _rows_gradient(pair: PairCotangents, packed, rows, frame, tied: bool) -> Tensor:
    """Shape columns of the rows' gradient, summed over the points: [M, shape_columns]."""
    summed = (pair.V.sum(0), pair.c.sum(0), pair.A.sum(0), pair.s.sum(0))
    return chain_to_rows(packed, rows, frame, tied, *summed)


def second_shape(want: int, dim: int) -> tuple[int, ...]:
    """Trailing shape of the second derivatives in the form ``want``."""
    return {DIAGONAL: (dim,), HESSIAN: (dim, dim), LAPLACIAN: ()}.get(want, ())


@_full_precision
def basis_vjp(g0, g1, g2, x, rows, frame, want: int, tied: bool) -> tuple[Tensor, Tensor]:
    """Gradients of x [N, d] and of rows [M, columns] from cotangents of :func:`basis` (or None)."""
    packed = pack(rows, frame, tied)
    n, m, d = x.shape[0], rows.shape[0], x.shape[1]
    g0 = _filled(g0, (n, m), x)
    g1 = _filled(g1, (n, m, d), x)
    g2 = _filled(g2, (n, m, *second_shape(want, d)), x)
    pair = pair_vjp(x, packed, want, g0, g1, g2)
    shape = _rows_gradient(pair, packed, rows, frame, tied)
    amplitudes = torch.zeros_like(packed.h)
    return -pair.c.sum(1), torch.cat([shape, amplitudes], -1)


@_full_precision
def jet_vjp(g0, g1, g2, x, rows, frame, want: int, tied: bool) -> tuple[Tensor, Tensor]:
    """Gradients of x [N, d] and of rows [M, columns] from cotangents of :func:`jet` (or None)."""
    packed = pack(rows, frame, tied)
    n, d, outputs = x.shape[0], x.shape[1], packed.h.shape[1]
    g0 = _filled(g0, (n, outputs), x)
    g1 = _filled(g1, (n, outputs, d), x)
    g2 = _filled(g2, (n, outputs, *second_shape(want, d)), x)
    by_bump = [torch.einsum("nk...,mk->nm...", g, packed.h) for g in (g0, g1, g2)]
    pair = pair_vjp(x, packed, want, *by_bump)
    value, gradient, second = basis(x, rows, frame, want, tied)
    amplitudes = torch.einsum("nm,nk->mk", value, g0)
    for level, part, g in ((GRADIENT, gradient, g1), (DIAGONAL, second, g2)):
        if want >= level:
            amplitudes = amplitudes + torch.einsum("nm...,nk...->mk", part, g)
    shape = _rows_gradient(pair, packed, rows, frame, tied)
    return -pair.c.sum(1), torch.cat([shape, amplitudes], -1)


@_full_precision
def design(c0, c1, c2, x, rows, frame, want: int, tied: bool, derivatives: bool) -> tuple[Tensor, Tensor]:
    """Design matrix of a row operator, and its derivative by every shape column.

    Parameters
    ----------
    c0, c1, c2 : Tensor or None
        Coefficients per point of the value [N], of the gradient [N, d] and of the second
        derivatives in the form of ``want``: [N, d], [N, d, d] or [N].

    Returns
    -------
    Phi : Tensor
        [N, M], ``L psi_i`` at every point.
    D : Tensor
        [N, M, shape_columns], or empty unless ``derivatives``.
    """
    packed = pack(rows, frame, tied)
    n, d = x.shape
    c0 = _filled(c0, (n,), x)[:, None]
    c1 = _filled(c1, (n, d), x)[:, None]
    c2 = _filled(c2, (n, *second_shape(want, d)), x)[:, None]
    pair = pair_vjp(x, packed, want, c0, c1, c2)
    if not derivatives:
        return pair.L, x.new_zeros(0)
    return pair.L, chain_to_rows(packed, rows, frame, tied, pair.V, pair.c, pair.A, pair.s)


@_full_precision
def combine(h, x, rows, frame, tied: bool) -> Tensor:
    """Many functions of the same bumps: out_bn = sum_i h_bi psi_i(x_n), [B, N] from h [B, M].

    The amplitudes in the rows take no part.
    """
    return h @ basis(x, rows, frame, VALUE, tied)[0].T


@_full_precision
def combine_vjp(g, h, x, rows, frame, tied: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of h [B, M], of x [N, d] and of rows [M, columns] from the cotangent [B, N] of :func:`combine`."""
    psi = basis(x, rows, frame, VALUE, tied)[0]
    return g @ psi, *basis_vjp(g.T @ h, None, None, x, rows, frame, VALUE, tied)
