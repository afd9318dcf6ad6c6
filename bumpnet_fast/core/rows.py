"""The row of a bump: its columns, the values packed from them, and the initial grid.

All parameters of all bumps are one contiguous tensor ``rows`` of shape [bumps, columns]:
one bump, one row.  Only the packing here (and its twins for the kernels) knows how raw columns become
used values; all other code treats a row as opaque.

The *frame* is the small companion tensor of shape [3, dim] that fixes the meaning of a row:
the box ``[lo, hi]`` that the centres cannot leave, and the scale (internal units per unit of
each coordinate) in which sizes and orientations are measured.
"""

from __future__ import annotations

import math
import operator
import os
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

#: Widths that differ by more than this factor are taken to have different units, such as a length and a time.
_UNLIKE = 10.0


@dataclass(frozen=True)
class RowLayout:
    """Columns of a row, in order: centre, size, skew, sharpness, [outer sharpness,] amplitudes.

    Parameters
    ----------
    dim : int
        Space dimension d >= 1.
    outputs : int
        Number of outputs K >= 0; the row ends with K amplitudes.
    tied : bool
        True ties the outer slope to the inner sharpness, ``s = 2 p`` (the paper's choice);
        False makes the outer slope a separate column.

    Examples
    --------
    >>> layout = RowLayout(dim=2, outputs=1, tied=True)
    >>> layout.columns, layout.shape_columns
    (7, 6)
    >>> layout.names
    ('centre_0', 'centre_1', 'size_0', 'size_1', 'skew_0', 'sharpness', 'amplitude_0')
    """

    dim: int
    outputs: int = 1
    tied: bool = True

    @property
    def skews(self) -> int:
        return self.dim * (self.dim - 1) // 2

    @property
    def shape_columns(self) -> int:
        """Number of columns that are not amplitudes."""
        return 2 * self.dim + self.skews + (1 if self.tied else 2)

    @property
    def columns(self) -> int:
        return self.shape_columns + self.outputs

    @property
    def centre(self) -> slice:
        return slice(0, self.dim)

    @property
    def size(self) -> slice:
        return slice(self.dim, 2 * self.dim)

    @property
    def skew(self) -> slice:
        return slice(2 * self.dim, 2 * self.dim + self.skews)

    @property
    def sharpness(self) -> int:
        return 2 * self.dim + self.skews

    @property
    def outer(self) -> int:
        """Column of the log outer slope; the sharpness column itself when tied."""
        return self.sharpness if self.tied else self.sharpness + 1

    @property
    def amplitude(self) -> slice:
        return slice(self.shape_columns, self.columns)

    @property
    def names(self) -> tuple[str, ...]:
        d = self.dim
        head = [f"centre_{j}" for j in range(d)] + [f"size_{j}" for j in range(d)]
        head += [f"skew_{m}" for m in range(self.skews)] + ["sharpness"]
        head += [] if self.tied else ["outer"]
        return tuple(head + [f"amplitude_{o}" for o in range(self.outputs)])

    @classmethod
    def of(cls, rows: Tensor, dim: int, tied: bool) -> RowLayout:
        """Layout of ``rows`` [bumps, columns], with the number of outputs read off the width."""
        shape_columns = cls(dim, 0, tied).shape_columns
        return cls(dim, rows.shape[-1] - shape_columns, tied)


class Packed(NamedTuple):
    """Used values of M bumps (docs/math.md, "packing"): all that an evaluation needs.

    ``B_k = V_k . (x - c)`` and ``psi = sigmoid(s S)`` with S the sum of
    ``tanh(A_k + B_k) + tanh(A_k - B_k)`` over the axes k, less 2d - 1.
    """

    V: Tensor  # [M, d, d] row k is the sharp normal of axis k, per unit of each coordinate
    c: Tensor  # [M, d]    centre
    A: Tensor  # [M, d]    half side length in units of the edge thickness
    s: Tensor  # [M]       outer slope
    h: Tensor  # [M, K]    amplitudes


def skew_matrix(skew: Tensor, dim: int) -> Tensor:
    """Unit upper-triangular U [M, d, d] with ``skew`` [M, d(d-1)/2] above its diagonal, row-major."""
    U = torch.eye(dim, dtype=skew.dtype, device=skew.device).expand(skew.shape[0], dim, dim)
    m = 0
    for a in range(dim):
        for b in range(a + 1, dim):
            unit = torch.zeros(dim, dim, dtype=skew.dtype, device=skew.device)
            unit[a, b] = 1
            U = U + skew[:, m, None, None] * unit
            m += 1
    return U


def orientation(skew: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Normals W [M, d, d] of the bump's sides and what their derivatives need.

    Gram-Schmidt on the rows of U gives orthonormal q_k; ``w_k = |U_1| q_k``.  In two dimensions
    this is exactly the paper's (1, a), (-a, 1).

    Returns
    -------
    W : Tensor
        [M, d, d].
    Q : Tensor
        [M, d, d], orthonormal rows.
    length : Tensor
        [M], ``|U_1|``, the common length of the rows of W.
    """
    if dim == 1:
        one = skew.new_ones(skew.shape[0])
        return one[:, None, None], one[:, None, None], one
    if dim == 2:
        a = skew[:, 0]
        one = torch.ones_like(a)
        W = torch.stack([torch.stack([one, a], -1), torch.stack([-a, one], -1)], 1)
        length = torch.sqrt(1 + a * a)
        return W, W / length[:, None, None], length
    U = skew_matrix(skew, dim)
    q: list[Tensor] = []
    for k in range(dim):
        v = U[:, k]
        for other in q:
            v = v - (v * other).sum(-1, keepdim=True) * other
        q.append(v / torch.linalg.vector_norm(v, dim=-1, keepdim=True))
    Q = torch.stack(q, 1)
    length = torch.linalg.vector_norm(U[:, 0], dim=-1)
    return length[:, None, None] * Q, Q, length


def orientation_jacobian(skew: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Derivative of :func:`orientation` by every skew column.

    With ``U = L Q`` and ``dQ = Omega Q``, Omega antisymmetric, the strict upper part of
    ``L^-1 dU Q^T`` is that of Omega; ``L^-1 = Q U^-1``.

    Returns
    -------
    dW : Tensor
        [M, skews, d, d].
    dlength : Tensor
        [M, skews], derivative of ``|U_1|``.
    """
    M, skews = skew.shape
    if skews == 0:
        return skew.new_zeros(M, 0, dim, dim), skew.new_zeros(M, 0)
    _, Q, length = orientation(skew, dim)
    if dim == 2:
        quarter_turn = torch.tensor([[0, 1], [-1, 0]], dtype=skew.dtype, device=skew.device)
        return quarter_turn.expand(M, 1, 2, 2), skew / length[:, None]
    U = skew_matrix(skew, dim)
    L_inv = torch.linalg.solve_triangular(U, Q, upper=True, left=False)
    pairs = [(a, b) for a in range(dim) for b in range(a + 1, dim)]
    X = torch.stack([L_inv[:, :, a, None] * Q[:, None, :, b] for a, b in pairs], 1)
    upper = torch.triu(X, diagonal=1)
    dQ = (upper - upper.transpose(-1, -2)) @ Q[:, None]
    zero = torch.zeros_like(length)
    dlength = torch.stack([U[:, 0, b] / length if a == 0 else zero for a, b in pairs], 1)
    return dlength[..., None, None] * Q[:, None] + length[:, None, None, None] * dQ, dlength


def pack(rows: Tensor, frame: Tensor, tied: bool) -> Packed:
    """Used values of every bump from its raw row.

    Parameters
    ----------
    rows : Tensor
        [M, columns], see :class:`RowLayout`.
    frame : Tensor
        [3, d]: lower and upper corner of the centres' box, and the scale of each coordinate.
    tied : bool
        Whether the outer slope is ``2 p``.
    """
    dim = frame.shape[1]
    layout = RowLayout.of(rows, dim, tied)
    lo, hi, scale = frame[0], frame[1], frame[2]
    p = torch.exp(rows[:, layout.sharpness])
    W, _, length = orientation(rows[:, layout.skew], dim)
    c = lo + (hi - lo) * (0.5 * (1 + torch.tanh(rows[:, layout.centre])))
    A = 0.5 * (p * length)[:, None] * torch.exp(rows[:, layout.size])
    s = 2 * p if tied else torch.exp(rows[:, layout.outer])
    return Packed(p[:, None, None] * W * scale, c, A, s, rows[:, layout.amplitude])


def chain_to_rows(packed: Packed, rows: Tensor, frame: Tensor, tied: bool, dV, dc, dA, ds) -> Tensor:
    """Chain cotangents of the packed values to the shape columns of the rows.

    Parameters
    ----------
    packed, rows, frame, tied
        As given to and returned by :func:`pack`.
    dV, dc, dA, ds : Tensor
        Cotangents [..., M, d, d], [..., M, d], [..., M, d] and [..., M]; any leading dimensions.

    Returns
    -------
    Tensor
        [..., M, shape_columns].
    """
    dim = frame.shape[1]
    layout = RowLayout.of(rows, dim, tied)
    half_width = 0.5 * (frame[1] - frame[0])
    tanh = torch.tanh(rows[:, layout.centre])
    columns = [dc * (half_width * (1 - tanh * tanh)), dA * packed.A]
    skew = rows[:, layout.skew]
    if layout.skews:
        p = torch.exp(rows[:, layout.sharpness])
        dW, dlength = orientation_jacobian(skew, dim)
        length = orientation(skew, dim)[2]
        along = (dV[..., None, :, :] * (p[:, None, None, None] * dW * frame[2])).sum((-1, -2))
        stretch = (dA * packed.A).sum(-1, keepdim=True) * (dlength / length[:, None])
        columns.append(along + stretch)
    by_sharpness = (dV * packed.V).sum((-1, -2)) + (dA * packed.A).sum(-1)
    by_outer = ds * packed.s
    columns += [(by_sharpness + by_outer)[..., None]] if tied else [by_sharpness[..., None], by_outer[..., None]]
    return torch.cat(columns, -1)


def bounded_atanh(unit: Tensor) -> Tensor:
    """Raw centre columns of centres ``unit`` in the box [-1, 1]; points outside count as the ends, which stay finite.

    >>> bounded_atanh(torch.tensor([-2.0, 0.0, 0.5, 1.0])).tanh()
    tensor([-1.0000,  0.0000,  0.5000,  1.0000])
    """
    most = 1 - torch.finfo(unit.dtype).eps
    return torch.atanh(unit.clamp(-most, most))


def split_grid(bumps: int, widths: tuple[float, ...]) -> tuple[int, ...]:
    """Number of grid cells per axis, about ``bumps`` in all, with cells as square as possible.

    >>> split_grid(40, (2.0, 2.0))
    (6, 7)
    """
    d = len(widths)
    if d == 1:
        return (bumps,)
    spacing = (math.prod(widths) / bumps) ** (1 / d)
    first = min(bumps, max(1, round(widths[0] / spacing)))
    return (first, *split_grid(max(1, round(bumps / first)), widths[1:]))


def grid_centres(bumps: int | tuple[int, ...], lo: Tensor, hi: Tensor) -> tuple[Tensor, tuple[float, ...]]:
    """Centres of a uniform grid of cells over the box, and the spacing per axis.

    A tuple is the number of cells per axis.  A plain number is spread over rows of nearly equal
    length, so that any count is met exactly with nearly square cells.  Where the widths differ by more than ten times,
    as a length and a time may, they are not compared: every axis gets about as many cells.

    Returns
    -------
    centres : Tensor
        [bumps, d], float64.
    spacing : tuple of float
        Cell widths, one per axis.
    """
    lo, hi = lo.double(), hi.double()
    widths = tuple((hi - lo).tolist())
    if isinstance(bumps, tuple):
        counts = bumps
        centres = _rows_of_cells(math.prod(counts), lo, hi, counts)
    else:
        alike = max(widths) <= _UNLIKE * min(widths)
        counts = split_grid(bumps, widths if alike else (1.0,) * len(widths))
        centres = _rows_of_cells(bumps, lo, hi, counts)
    return centres, tuple(w / n for w, n in zip(widths, counts, strict=True))


def _rows_of_cells(bumps: int, lo: Tensor, hi: Tensor, counts: tuple[int, ...]) -> Tensor:
    def along(axis: int, n: int) -> Tensor:
        return lo[axis] + (hi[axis] - lo[axis]) * (torch.arange(n, dtype=torch.float64) + 0.5) / n

    if len(counts) == 1:
        return along(0, bumps)[:, None]
    if bumps == math.prod(counts):  # all rows are alike
        return torch.cartesian_prod(*(along(axis, n) for axis, n in enumerate(counts)))
    n, ticks = counts[0], along(0, counts[0])
    blocks = []
    for i in range(n):
        share = bumps * (i + 1) // n - bumps * i // n
        if share:
            inner = _rows_of_cells(share, lo[1:], hi[1:], counts[1:])
            blocks.append(torch.cat([ticks[i].expand(share, 1), inner], 1))
    return torch.cat(blocks)


def least_spacing(dim: int) -> float:
    """The spacing, in internal units, below which bumps of the initial shape are too low to train.

    With sides of three spacings and ``p = 1/sqrt(spacing)`` a bump is about ``exp(6 d - (4 d - 2) / sqrt(spacing))``
    high.  In two dimensions nets lower than ``exp(-11)`` train worse, and below ``exp(-20)`` not at all.

    >>> [round(least_spacing(d), 3) for d in (1, 2, 3)]
    [0.014, 0.068, 0.119]
    """
    return ((4 * dim - 2) / (6 * dim + 11)) ** 2


def frame_for(domain: Tensor, spacing: tuple[float, ...], centre_box: float, scale) -> Tensor:
    """Frame [3, d] of a domain [2, d]: the enlarged box of the centres, and the coordinate scales.

    ``scale="auto"`` makes the grid cells square and the scaled domain as large as [-1, 1]^d, as
    the initial sharpness ``1/sqrt(spacing)`` assumes (it depends on the unit of length).  The scaled domain is
    larger where so many bumps would be closer than :func:`least_spacing`.
    """
    lo, hi = domain[0].double(), domain[1].double()
    middle, half = 0.5 * (lo + hi), 0.5 * (hi - lo)
    if isinstance(scale, str):
        cells = 2 * half / torch.tensor(spacing, dtype=torch.float64)
        side = (2 / torch.prod(cells) ** (1 / len(spacing))).clamp_min(least_spacing(len(spacing)))
        scale = side / torch.tensor(spacing, dtype=torch.float64)
    else:
        scale = torch.as_tensor(scale, dtype=torch.float64).expand(len(spacing))
    return torch.stack([middle - centre_box * half, middle + centre_box * half, scale])


def grid_rows(
    bumps: int | tuple[int, ...],
    domain: Tensor,
    layout: RowLayout,
    *,
    centre_box: float = 1.3,
    scale="auto",
    overlap: float = 3.0,
    sharpness: float | None = None,
    outer: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Rows on a uniform grid with zero amplitudes, and their frame; both float64.

    The recipe is the one measured to work (docs/choosing.md): side lengths ``overlap`` times the
    grid spacing, ``p = 1/sqrt(spacing)`` in scaled coordinates, skew 0, centres on a grid over the
    domain within a centre box enlarged by ``centre_box``.
    """
    domain = domain.double()
    centres, spacing = grid_centres(bumps, domain[0], domain[1])
    frame = frame_for(domain, spacing, centre_box, scale)
    scaled = frame[2] * torch.tensor(spacing, dtype=torch.float64)
    mean = float(torch.prod(scaled)) ** (1 / layout.dim)
    p = 1 / math.sqrt(mean) if sharpness is None else float(sharpness)
    rows = torch.zeros(centres.shape[0], layout.columns, dtype=torch.float64)
    unit = (2 * centres - frame[0] - frame[1]) / (frame[1] - frame[0])
    rows[:, layout.centre] = torch.atanh(unit)
    rows[:, layout.size] = torch.log(overlap * scaled)
    rows[:, layout.sharpness] = math.log(p)
    if not layout.tied:
        rows[:, layout.outer] = math.log(2 * p if outer is None else float(outer))
    return rows, frame


def check_memory(name: str, value: Any, counts: Any, columns: int) -> None:
    """Raise ValueError for an argument that needs more memory than the machine has, if its size is known.

    Parameters
    ----------
    name, value
        Of the argument, for the message.
    counts : int or sequence of int
        Their product is the number of bumps or points.
    columns : int
        Numbers per bump or point.
    """
    try:
        counts = counts if isinstance(counts, (tuple, list)) else (counts,)
        size = 8 * columns * math.prod(operator.index(count) for count in counts)
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (TypeError, AttributeError, ValueError, OSError):  # not on Windows; what is no count is refused elsewhere
        return
    if 0 < memory < size:
        wanted = f"so few that all of them fit into the memory of {memory / 1e9:.3g} GB"
        raise ValueError(f"{name} must be {wanted}, got {value!r}, which takes {size / 1e9:.3g} GB")
