"""The same training step in every way a user could write it, for side-by-side timing.

The step is ``loss = mean((u_xx + u_yy + u - f)^2)`` with its gradient to all rows.  Every peer
starts from the same rows [M, columns] and points [N, d], so that the results can be compared too.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bumpnet_fast import bump_jet
from bumpnet_fast.rows import RowLayout, grid_rows, orientation

Residual = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def case(
    dim: int, points: int, bumps: int, dtype: torch.dtype, seed: int = 0, device: str = "cpu"
) -> tuple[Tensor, ...]:
    """Points x [N, d], rows [M, columns] that require gradients, their frame, and a right-hand side f [N]."""
    generator = torch.Generator().manual_seed(seed)
    layout = RowLayout(dim)
    domain = torch.stack([-torch.ones(dim), torch.ones(dim)])
    rows, frame = grid_rows(bumps, domain, layout)
    rows += 0.05 * torch.randn(rows.shape, generator=generator, dtype=rows.dtype)
    x = 2 * torch.rand(points, dim, generator=generator, dtype=torch.float64) - 1
    f = torch.randn(points, generator=generator, dtype=torch.float64)
    x, rows, frame, f = (t.to(device, dtype) for t in (x, rows, frame, f))
    return x, rows.requires_grad_(), frame, f


def _used_values(rows: Tensor, frame: Tensor) -> tuple[Tensor, ...]:
    """Plain torch: normals w [M, d, d], centres, sizes, sharpness and amplitudes, from the rows."""
    dim = frame.shape[1]
    layout = RowLayout(dim)
    p = rows[:, layout.sharpness].exp()
    w, _, length = orientation(rows[:, layout.skew], dim)
    c = frame[0] + (frame[1] - frame[0]) * (1 + rows[:, layout.centre].tanh()) / 2
    half = rows[:, layout.size].exp() * length[:, None] / 2
    return w * frame[2], c, half, p, rows[:, layout.amplitude][:, 0]


def plain_value(x: Tensor, rows: Tensor, frame: Tensor) -> Tensor:
    """u(x) by the paper's formula: 2 d hyperbolic tangents per bump and one more."""
    w, c, half, p, h = _used_values(rows, frame)
    dim = x.shape[1]
    S = 1 - 2 * dim
    for k in range(dim):
        z = sum((x[:, j : j + 1] - c[:, j]) * w[:, k, j] for j in range(dim))
        S = S + torch.tanh(p * (z + half[:, k])) + torch.tanh(p * (half[:, k] - z))
    return (0.5 * (1 + torch.tanh(p * S))) @ h


def nested_autograd(x: Tensor, rows: Tensor, frame: Tensor, f: Tensor) -> Tensor:
    """What a PINN code does: differentiate the value twice by automatic differentiation."""
    x = x.detach().requires_grad_()
    u = plain_value(x, rows, frame)
    gradient = torch.autograd.grad(u.sum(), x, create_graph=True)[0]
    second = [
        torch.autograd.grad(gradient[:, j].sum(), x, create_graph=True)[0][:, j : j + 1] for j in range(x.shape[1])
    ]
    return torch.cat(second, 1).sum(1) + u - f


def analytic(x: Tensor, rows: Tensor, frame: Tensor, f: Tensor) -> Tensor:
    """The closed form in plain torch, written elementwise so that a compiler can fuse all of it."""
    w, c, half, p, h = _used_values(rows, frame)
    dim = x.shape[1]
    S, S1, S2 = 1 - 2 * dim, [0.0] * dim, 0.0
    for k in range(dim):
        z = sum((x[:, j : j + 1] - c[:, j]) * w[:, k, j] for j in range(dim))
        up, down = torch.tanh(p * (z + half[:, k])), torch.tanh(p * (half[:, k] - z))
        g, d = up + down, up - down
        S = S + g
        G1, G2 = -d * g, g * ((g * g + 3 * d * d) / 2 - 2)
        S1 = [S1[j] + G1 * (p * w[:, k, j]) for j in range(dim)]
        S2 = S2 + G2 * (p * p * (w[:, k] ** 2).sum(-1))
    psi = torch.sigmoid(2 * p * S)
    slope = 2 * p * psi * (1 - psi)
    laplacian = slope * (S2 + 2 * p * (1 - 2 * psi) * sum(s * s for s in S1))
    return laplacian @ h + psi @ h - f


def ours(x: Tensor, rows: Tensor, frame: Tensor, f: Tensor) -> Tensor:
    jet = bump_jet(x, rows, frame, "laplacian")
    return (jet.laplacian + jet.value)[:, 0] - f


def compiled() -> Residual:
    return torch.compile(analytic, dynamic=False)


def step(residual: Residual, x: Tensor, rows: Tensor, frame: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and its gradient to all rows."""
    loss = residual(x, rows, frame, f).square().mean()
    return loss.detach(), torch.autograd.grad(loss, rows)[0]
