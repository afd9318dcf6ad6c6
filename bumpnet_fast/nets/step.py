"""A training step without autograd: for small nets, whose steps are mostly overhead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..core import functional
from ..core.jet import Jet
from ..core.maps import refuse_maps
from ..core.reference import level_of
from ..core.types import Want
from .bumpnet import BumpNet
from .frozen import clear_gradient_


def compile_step(
    net: BumpNet, loss: Callable[..., Tensor], want: Want = "laplacian", **options: Any
) -> Callable[..., Tensor]:
    """A function that computes a loss of the net's jet and its gradient, without autograd's bookkeeping.

    ``torch.compile`` compiles the loss and its gradient by the jet, once for every size and dtype.  The jet and the
    gradient by the rows are one kernel each.  A step of 40 bumps at 1,000 points takes a quarter less than with
    ``loss.backward()`` (docs/benchmarks.md); large nets gain nothing.

    Parameters
    ----------
    net : BumpNet
        Of any size; bumps may be removed or added between steps.
    loss : callable
        ``loss(jet, *tensors)``, a differentiable scalar.
    want : str
        How far the jet goes: "value", "gradient", "diagonal", "hessian" or "laplacian".
    **options
        For ``torch.compile``, for example ``backend="aot_eager"`` where there is no compiler.

    Returns
    -------
    callable
        ``step(x, *tensors)``: computes ``loss`` at the points ``x`` [N, d], replaces
        ``net.rows.grad``, and returns the loss, detached.  Nothing else gets a gradient.

    Raises
    ------
    TypeError, ValueError
        For an unknown ``want``; the step itself for an ``x`` that does not fit, and for a tensor that requires a
        gradient, as it would not get one.

    Examples
    --------
    >>> net, x, f = BumpNet(2, 16), torch.rand(50, 2), torch.ones(50, 1)
    >>> step = compile_step(net, lambda u, f: (u.laplacian + u.value - f).square().mean(), backend="eager")
    >>> optimizer = torch.optim.Adam(net.parameters(), fused=True)
    >>> losses = []
    >>> for _ in range(20):
    ...     losses.append(step(x, f).item())
    ...     optimizer.step()
    >>> losses[-1] < losses[0]
    True
    """
    level = level_of(want)
    refuse_maps(net, "a compiled step")
    parts = 1 if want == "value" else 2 if want == "gradient" else 3

    def of_parts(*tensors: Tensor) -> Tensor:
        return loss(Jet(want, *tensors[:parts]), *tensors[parts:])

    by_parts = torch.compile(torch.func.grad_and_value(of_parts, argnums=tuple(range(parts))), **options)

    @torch.no_grad()
    def step(x: Tensor, *tensors: Any) -> Tensor:
        if any(isinstance(t, Tensor) and t.requires_grad for t in (x, *tensors)):
            raise ValueError("x and the other tensors of a step must not require gradients: it gives none to them")
        rows = net.rows  # reading an attribute of a Module takes as long as a small operator
        x, frame = functional.check(x, rows, net.frame, net.tied)
        bumps = x, rows, frame, level, net.tied
        jet = functional.serve("jet", *bumps)
        cotangents, value = by_parts(*jet[:parts], *tensors)
        cotangents = (*cotangents, None, None)[:3]
        rows.grad = functional.serve("jet_vjp", *cotangents, *bumps, False, True)[1]
        if not net.all_trained:
            clear_gradient_(net, rows.grad)
        return value

    return step


__all__ = ["compile_step"]
