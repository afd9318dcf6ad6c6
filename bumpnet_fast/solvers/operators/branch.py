"""The branch for a given trunk: coordinates in which it is well conditioned, and its last layer in closed form."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ...nets.deeponet import BumpDeepONet
from .fit import Fit
from .trunk import scaled_qr

#: Ridges that are tried, relative to the squared largest singular value.
_RIDGES = 10.0 ** torch.arange(-16, 1, dtype=torch.float64)


def last_layer(branch: nn.Module) -> tuple[nn.Module, nn.Linear | None]:
    """The layers before the last one, and the last one if it is linear, else None."""
    if isinstance(branch, nn.Linear):
        return nn.Identity(), branch
    if isinstance(branch, nn.Sequential) and len(branch) and isinstance(branch[-1], nn.Linear):
        return branch[:-1], branch[-1]
    return branch, None


@contextlib.contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Context manager: layers such as dropout behave as in evaluation."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def is_linear(branch: nn.Module) -> bool:
    """Whether the branch is a single linear layer."""
    return isinstance(branch, nn.Linear)


def coordinates(A: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Combinations of the columns of A [R, M] that are orthogonal and of mean square 1.

    Returns
    -------
    functions : Tensor
        [R, M].
    mix : Tensor
        [M, M]: the amplitudes of ``functions @ z`` are ``z @ mix``, as it equals ``A @ (z @ mix)``.
    """
    Q, R, length = scaled_qr(A, ridge)
    mix = (torch.linalg.inv(R) / length[:, None]).T
    size = math.sqrt(len(A))
    return size * Q[: len(A)], size * mix


def enter_coordinates(net: BumpDeepONet, mix: Tensor) -> Tensor:
    """Make the branch output coordinates in an orthonormal basis; return the matrix that maps them to amplitudes.

    The bumps overlap so much that their amplitudes cancel by a factor of a thousand and more, and gradient descent
    converges badly.  The change of coordinates is built into the last layer; :func:`leave_coordinates` removes it.  The
    function of the net does not change.  A branch whose last layer is not linear keeps its amplitudes.
    """
    _, last = last_layer(net.branch)
    if last is None:
        return torch.eye(len(mix)).to(mix)
    _transform(last, torch.linalg.inv(mix))
    return mix


def leave_coordinates(net: BumpDeepONet, mix: Tensor) -> None:
    """Make the branch output amplitudes again; ``mix`` is the result of :func:`enter_coordinates`."""
    _, last = last_layer(net.branch)
    if last is not None:
        _transform(last, mix)


@torch.no_grad()
def _transform(layer: nn.Linear, matrix: Tensor) -> None:
    """Multiply the output of the layer, a row, by ``matrix`` from the right."""
    layer.weight.copy_(matrix.T @ layer.weight.double())
    if layer.bias is not None:
        layer.bias.copy_(layer.bias.double() @ matrix)


@torch.no_grad()
def regress(net: BumpDeepONet, fit: Fit, targets: Tensor, mix: Tensor) -> None:
    """Set the last layer of the branch, if it is linear, by ridge regression.

    Parameters
    ----------
    fit : Fit
        Gives the inputs and weights.
    targets : Tensor
        [B, M], coordinates of the wanted functions.
    mix : Tensor
        From :func:`coordinates`.
    """
    body, last = last_layer(net.branch)
    if last is None:
        return
    with evaluating(net):
        features = body(fit.inputs.to(net.rows)).double()
    if last.bias is not None:
        features = torch.cat([features, torch.ones_like(features[:, :1])], 1)
    W = ridge_regression(fit.weights * features, fit.weights * targets) @ mix
    last.weight.copy_(W[: last.in_features].T)
    if last.bias is not None:
        last.bias.copy_(W[-1])


def ridge_regression(A: Tensor, B: Tensor) -> Tensor:
    """Solution W [q, k] of ``A W = B`` for A [n, q] and B [n, k]; generalised cross-validation chooses the ridge.

    Sensors of a smooth function are nearly dependent, and data may be noisy.  The best ridge differs by orders of
    magnitude between sets of data.

    Notes
    -----
    Golub, Heath and Wahba, Technometrics 21 (1979).

    Examples
    --------
    >>> A = torch.randn(50, 3, dtype=torch.float64)
    >>> W = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64)
    >>> torch.allclose(ridge_regression(A, A @ W), W)
    True
    """
    U, s, V = torch.linalg.svd(A, full_matrices=False)
    C = U.T @ B
    outside = (B - U @ C).square().sum()
    best, chosen = math.inf, None
    for ridge in _RIDGES * float(s[0]) ** 2:
        kept = s**2 / (s**2 + ridge)
        residual = float(outside + ((1 - kept)[:, None] * C).square().sum())
        score = residual / max(len(A) - float(kept.sum()), 0.5) ** 2
        if score < best:
            best, chosen = score, ridge
    return V.T @ ((s / (s**2 + chosen))[:, None] * C)
