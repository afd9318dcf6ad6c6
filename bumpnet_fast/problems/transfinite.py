"""Transfinite interpolation: the values on faces of a box, continued into it, and derivatives in closed form.

The interpolation is a sum over edges of any dimension.  A term is a product of factors of one coordinate each, for the
coordinates that are *held* at faces, times the values there, which depend on the other coordinates.  So only the values
are differentiated automatically, for all terms at once, and only along the faces.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..core.jet import Jet
from ..core.reference import DIAGONAL, level_of
from ..core.types import Want

#: Faces of a box: the axis, and 0 for its lower or 1 for its upper face.
Faces = Sequence[tuple[int, int]]
#: A function of one coordinate at N points: value, first and second derivative, [N] each.
Factor = tuple[Tensor, Tensor, Tensor]
#: The factor of the value on a face, at places in [0, 1] along its axis: ``blend(places, side)``.
Blend = Callable[[Tensor, int], Factor]


def smooth_step(t: Tensor) -> Factor:
    """From 0 at t = 0 to 1 at t = 1, with two continuous derivatives; ``f(t) + f(1 - t) = 1``."""
    t = t.clamp(0, 1)
    rest = 1 - t
    return t**3 * (10 - 15 * t + 6 * t * t), 30 * (t * rest) ** 2, 60 * t * rest * (1 - 2 * t)


def linear(t: Tensor, side: int) -> Factor:
    """The blend of an interpolation between two faces."""
    one = torch.ones_like(t)
    return (t, one, torch.zeros_like(t)) if side else (1 - t, -one, torch.zeros_like(t))


def sides(faces: Faces, axis: int) -> list[int]:
    """Which of the two faces of an axis there are."""
    return [side for j, side in faces if j == axis]


def edges(faces: Faces, dim: int) -> list[Faces]:
    """All that are held on one face, on two that meet, and so on."""
    choices = ([None, *((j, side) for side in sides(faces, j))] for j in range(dim))
    held = [tuple(face for face in chosen if face is not None) for chosen in itertools.product(*choices)]
    return [some for some in held if some]


def interpolated(
    domain: Tensor, x: Tensor, faces: Faces, function: Callable[[Tensor], Tensor], blend: Blend | None = None
) -> Tensor:
    """The values of ``function`` on some faces, continued into the box; it can be differentiated by ``x``.

    Parameters
    ----------
    domain : Tensor
        [2, d].
    faces : sequence of (int, int)
        Where values are given.
    function : callable
        The values, [n] or [n, K], at points [n, d] of the faces.
    x : Tensor
        [N, d].
    blend : callable, optional
        By default linear between two faces, and 1 everywhere if there is one only.

    Returns
    -------
    Tensor
        [N] or [N, K].
    """
    lo, hi = domain.to(x)
    t = ((x - lo) / (hi - lo)).unbind(1)
    total = None
    for held in edges(faces, len(t)):
        at = list(x.unbind(1))
        for j, side in held:
            at[j] = (hi if side else lo)[j].expand(len(x))
        values = function(torch.stack(at, 1))
        if not values.requires_grad and not values.any():
            continue  # nothing, and nothing to differentiate
        blended = [(_blend_of(blend, sides(faces, j)), j, side) for j, side in held]
        factors = [how(t[j], side)[0] for how, j, side in blended if how is not None]
        part = -((-1) ** len(held)) * values
        if factors:
            part = math.prod(factors).reshape(-1, *(1,) * (values.dim() - 1)) * part
        total = part if total is None else total + part
    return torch.zeros_like(x[:, 0]) if total is None else total


def _blend_of(blend: Blend | None, given: list[int]) -> Blend | None:
    """How an axis with some faces is blended; None for a factor of 1."""
    return blend or (linear if len(given) == 2 else None)


@torch.no_grad()
def interpolated_jet(
    domain: Tensor,
    x: Tensor,
    want: Want,
    faces: Faces,
    function: Callable[[Tensor], Tensor],
    blend: Blend | None = None,
    *,
    rest: bool = False,
) -> Jet:
    """The jet of :func:`interpolated`, as constants; with ``rest`` that of ``function`` without it.

    ``function`` is called once, with the points of all terms.
    """
    lo, hi = domain.to(x)
    n, d = x.shape
    terms: list[Faces] = [*([()] if rest else []), *edges(faces, d)]
    whole = [held for held in terms if len(held) < d]
    corners = [held for held in terms if len(held) == d]  # whose values are the same for all points
    parts = _along(function, x, (lo, hi), whole, corners, want) if terms else []
    if not any(bool(part.any()) for part in parts):
        return _no_jet(x, want)
    values, slopes, *bends = (_at_points(part, n, len(whole)) for part in parts)
    held = [dict(term) for term in (*whole, *corners)]
    axes = [_factors(x[:, j], lo[j], hi[j], sides(faces, j), [by.get(j) for by in held], blend) for j in range(d)]
    signs = x.new_tensor([(-1.0) ** (len(by) + (not rest)) for by in held])[:, None]
    products: dict[tuple[int, ...], Tensor] = {}

    def summed(part: Tensor, *orders: int) -> Tensor:
        """The sum over the terms of a part [terms, N, K], times the factors, differentiated by some axes."""
        if orders not in products:
            factors = [axis[orders.count(j)] for j, axis in enumerate(axes)]
            products[orders] = (signs * math.prod(factors))[..., None]
        return (products[orders] * part).sum(0)

    gradient = torch.stack([summed(values, j) + summed(slopes[..., j]) for j in range(d)], -1)
    found = [summed(values), gradient]
    if want == "hessian":

        def mixed(i: int, j: int) -> Tensor:
            across = summed(slopes[..., i], j) + summed(slopes[..., j], i)
            return summed(values, i, j) + across + summed(bends[0][..., i, j])

        rows = [torch.stack([mixed(i, j) for j in range(d)], -1) for i in range(d)]
        found.append(torch.stack(rows, -2))
    elif bends:  # no axis is held and free at once
        second = [summed(bends[0][..., j]) for j in range(d)]
        if blend is not None:  # that of two faces is linear
            second = [along + summed(values, j, j) for j, along in enumerate(second)]
        found.append(sum(second[1:], second[0]) if want == "laplacian" else torch.stack(second, -1))
    return Jet(want, *found)


def _no_jet(x: Tensor, want: Want) -> Jet:
    n, d = x.shape
    seconds = {"diagonal": (n, 1, d), "hessian": (n, 1, d, d), "laplacian": (n, 1)}
    second = [x.new_zeros(seconds[want])] if want in seconds else []
    return Jet(want, x.new_zeros(n, 1), x.new_zeros(n, 1, d), *second)


def _at_points(part: Tensor, n: int, edges: int) -> Tensor:
    """[terms, n, ...] from the points of all edges, n each, and the corners."""
    corners = part[n * edges :, None]
    return torch.cat([part[: n * edges].unflatten(0, (edges, n)), corners.expand(-1, n, *part.shape[1:])])


def _factors(
    x: Tensor, lo: Tensor, hi: Tensor, given: list[int], held: list[int | None], blend: Blend | None
) -> tuple[Tensor, ...]:
    """The factors of an axis and their derivatives, [terms, N] each, where a term is held on a side, or on none."""
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    options: dict[int | None, Factor] = {None: (one, zero, zero)}
    for side in given:
        options[side] = options[None]
        if (how := _blend_of(blend, given)) is not None:
            f, f1, f2 = how((x - lo) / (hi - lo), side)
            options[side] = f, f1 / (hi - lo), f2 / (hi - lo) ** 2
    return tuple(torch.stack([options[side][order] for side in held]) for order in range(3))


def _along(
    function: Callable[[Tensor], Tensor],
    x: Tensor,
    box: tuple[Tensor, Tensor],
    whole: list[Faces],
    corners: list[Faces],
    want: Want,
) -> list[Tensor]:
    """Values, gradients and second derivatives along the faces: at all points for every edge, and at the corners.

    With P points in all they are [P, K], [P, K, d], and [P, K, d] or, of a Hessian, [P, K, d, d].
    """
    (n, d), level = x.shape, level_of(want)
    free = [[j for j in range(d) if j not in dict(held)] for held in whole]
    ends = torch.stack(box).expand(2, d)
    with torch.enable_grad():
        leaf = x.repeat(len(whole), 1).requires_grad_()
        columns = [list(part.unbind(1)) for part in leaf.split(n)] if whole else []
        for column, held in zip(columns, whole, strict=True):
            for j, side in held:  # no derivative across: it need not be finite
                column[j] = ends[side, j].expand(n)
        places = [torch.stack(column, 1) for column in columns]
        places += [torch.stack([ends[side, j] for j, side in held])[None] for held in corners]
        values = function(torch.cat(places))
        values = values[:, None] if values.dim() == 1 else values
        slopes, bends = values.new_zeros(*values.shape, d), None
        if level >= DIAGONAL:
            bends = values.new_zeros(*values.shape, *((d, d) if want == "hessian" else (d,)))
        for k, value in enumerate(values.unbind(1) if values.requires_grad else ()):
            slope = _gradient(value.sum(), leaf, more=bends is not None)
            if slope is None:
                continue
            slopes[: len(leaf), k] = slope.detach()
            if bends is None or not slope.requires_grad:
                continue
            slope = slope.view(len(whole), n, d)
            for which in range(max(map(len, free))):  # the first free axis of every edge, then the second, ...
                chosen = [(i, axes[which]) for i, axes in enumerate(free) if which < len(axes)]
                edge, axis = (list(part) for part in zip(*chosen, strict=True))
                bend = _gradient(slope[edge, :, axis].sum(), leaf, more=False)
                if bend is not None:
                    bend = bend.view(len(whole), n, d)
                    for i, j in chosen:
                        bends[i * n : (i + 1) * n, k, j] = bend[i] if want == "hessian" else bend[i, :, j]
    return [values.detach(), slopes, *([] if bends is None else [bends])]


def _gradient(total: Tensor, by: Tensor, more: bool) -> Tensor | None:
    """None where it is zero."""
    if not total.requires_grad:
        return None
    return torch.autograd.grad(total, by, create_graph=more, retain_graph=True, allow_unused=True)[0]


def product_jet(axes: Sequence[Factor], want: Want) -> Jet:
    """The jet, with one output, of a product of functions of one coordinate each; its derivatives are constants."""

    def product(orders: Sequence[int]) -> Tensor:
        return math.prod(factor[order] for factor, order in zip(axes, orders, strict=True))

    unit = torch.eye(len(axes), dtype=torch.long).tolist()
    value = product([0] * len(axes))
    gradient = second = None
    if want != "value":
        gradient = torch.stack([product(e) for e in unit], 1)
    if want in ("laplacian", "diagonal"):
        second = torch.stack([product([2 * k for k in e]) for e in unit], 1)
        second = second.sum(1) if want == "laplacian" else second
    elif want == "hessian":
        rows = [[product([a + b for a, b in zip(d, e, strict=True)]) for e in unit] for d in unit]
        second = torch.stack([torch.stack(row, 1) for row in rows], 1)
    return Jet(want, value[:, None], *(None if part is None else part.detach()[:, None] for part in (gradient, second)))


__all__ = [
    "Blend",
    "Faces",
    "Factor",
    "edges",
    "interpolated",
    "interpolated_jet",
    "linear",
    "product_jet",
    "sides",
    "smooth_step",
]
