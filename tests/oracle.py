"""What the tests compare with: the paper's formula read literally, differentiated by torch.autograd.

Nothing here uses the package's packing or closed forms.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bumpnet_fast.core.rows import RowLayout

WANTS = ("value", "gradient", "diagonal", "hessian", "laplacian")


def bumps(dim: int, count: int, outputs: int = 1, tied: bool = True, seed: int = 0, dtype=torch.float64):
    """Random rows and a random frame of bumps of everyday shapes (p A below 100)."""
    generator = torch.Generator().manual_seed(1000 * seed + 10 * dim + count)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    layout = RowLayout(dim, outputs, tied)
    rows = 0.4 * normal(count, layout.columns)
    rows[:, layout.size] += 0.25 * dim
    rows[:, layout.outer] += 0.5
    rows[:, layout.amplitude] += torch.sign(rows[:, layout.amplitude])
    frame = torch.stack([-1.2 - normal(dim).abs(), 1 + normal(dim).abs(), 0.5 + normal(dim).abs()])
    return rows.to(dtype), frame.to(dtype)


def points(dim: int, count: int, seed: int = 0, dtype=torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(7 * seed + count)
    return (2.4 * torch.rand(count, dim, generator=generator, dtype=torch.float64) - 1.2).to(dtype)


def normals(skew: Tensor, dim: int) -> Tensor:
    """w_1 ... w_d of one bump: orthonormalised rows of the unit upper-triangular U, times |U_1|."""
    entries = iter(skew.unbind())
    one, zero = skew.new_ones(()), skew.new_zeros(())
    lines = [[zero] * k + [one] + [next(entries) for _ in range(k + 1, dim)] for k in range(dim)]
    U = torch.stack([torch.stack(line) for line in lines])
    if dim == 1:
        return U
    Q, R = torch.linalg.qr(U.T)
    return torch.linalg.vector_norm(U[0]) * (Q * torch.sign(R.diagonal())).T


def psi(x: Tensor, row: Tensor, frame: Tensor, tied: bool) -> Tensor:
    """One bump at the points x [N, d]: arXiv:2512.17198, section 3, tanh by tanh."""
    dim = frame.shape[1]
    layout = RowLayout.of(row[None], dim, tied)
    lo, hi, scale = frame
    c = lo + (hi - lo) * (1 + torch.tanh(row[layout.centre])) / 2
    size, p = torch.exp(row[layout.size]), torch.exp(row[layout.sharpness])
    w = normals(row[layout.skew], dim)
    z = (scale * (x - c)) @ w.T
    reach = size * torch.linalg.vector_norm(w, dim=1) / 2
    S = (torch.tanh(p * (z + reach)) + torch.tanh(p * (reach - z))).sum(1) - (2 * dim - 1)
    slope = p if tied else torch.exp(row[layout.outer]) / 2
    return torch.sigmoid(2 * slope * S)  # (1 + tanh(slope S)) / 2, but with digits where it is small


def basis(x: Tensor, rows: Tensor, frame: Tensor, tied: bool) -> Tensor:
    """[N, M]."""
    return torch.stack([psi(x, row, frame, tied) for row in rows], 1)


def net(x: Tensor, rows: Tensor, frame: Tensor, tied: bool) -> Tensor:
    """[N, K]."""
    layout = RowLayout.of(rows, frame.shape[1], tied)
    return basis(x, rows, frame, tied) @ rows[:, layout.amplitude]


def gradient(values: Tensor, x: Tensor) -> Tensor:
    """Derivative of ``values`` [N, ...], each point of its own x [N, d]: [N, ..., d]."""
    flat = values.reshape(len(x), -1)
    each = [torch.autograd.grad(flat[:, i].sum(), x, create_graph=True)[0] for i in range(flat.shape[1])]
    return torch.stack(each, 1).reshape(*values.shape, x.shape[1])


def jet(values: Tensor, x: Tensor, want: str) -> list[Tensor]:
    """Value, gradient and second derivatives as wanted, by nested autograd; all differentiable."""
    level = WANTS.index(want)
    parts = [values]
    if level >= 1:
        parts.append(gradient(values, x))
    if level >= 2:
        hessian = gradient(parts[1], x)
        diagonal = hessian.diagonal(dim1=-2, dim2=-1)
        parts.append({"diagonal": diagonal, "hessian": hessian, "laplacian": diagonal.sum(-1)}[want])
    return parts


def error(got: Tensor, wanted: Tensor) -> float:
    """Largest difference, relative to the largest entry wanted."""
    assert got.shape == wanted.shape, f"shape {tuple(got.shape)}, wanted {tuple(wanted.shape)}"
    if wanted.numel() == 0:
        return 0.0
    difference = (got.detach().double() - wanted.detach().double()).abs().max().item()
    return difference / max(wanted.detach().abs().max().item(), 1e-30) if difference else 0.0


def assert_close(got: Tensor, wanted: Tensor, tolerance: float, what: str = "") -> None:
    """Within ``tolerance`` of the largest entry; a NaN is never close."""
    found = error(got, wanted)
    assert found <= tolerance, f"{what}: relative error {found:.3g}, tolerance {tolerance:g}"
