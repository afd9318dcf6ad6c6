"""All uses of torch's private names.  If a name is missing, public functions do the same, more slowly.

tests/core/test_private.py fails when the installed torch lacks one of the names, and exercises every substitute.
"""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor
from torch.autograd import forward_ad

#: Looked up once: torch.compile knows these functions by themselves.
_transforms_active = getattr(torch._C, "_are_functorch_transforms_active", None)
_below_autograd = getattr(torch._C, "_AutoDispatchBelowAutograd", None)
_without_subclasses = getattr(torch._C, "DisableTorchFunctionSubclass", None)
_has_kernel = getattr(torch._C, "_dispatch_has_kernel_for_dispatch_key", None)
_knows_level = hasattr(forward_ad, "_current_level")
_knows_base = hasattr(Tensor, "_base")


def under_transform() -> bool:
    """Whether a transform is active that registered operators do not take part in.

    An operator with ``register_autograd`` gives a zero tangent to forward-mode differentiation
    without any error, so this looks for an active ``torch.func`` transform or dual level.  Only the private
    functions answer correctly under torch.compile, too.
    """
    if _transforms_active is None or not _knows_level:
        return torch.compiler.is_compiling() or _transform_found()
    return _transforms_active() or forward_ad._current_level >= 0


class _Old(torch.autograd.Function):
    """A function without ``setup_context``, which torch refuses under every transform of ``torch.func``."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()


def _transform_found() -> bool:
    """:func:`under_transform` by public means: one call fails inside a transform, the other outside a dual level."""
    probe = torch.zeros(())
    try:
        _Old.apply(probe)
    except RuntimeError:
        return True
    try:
        forward_ad.make_dual(probe, probe)
    except RuntimeError:
        return False
    return True


def below_autograd(op, *args):
    """An operator whose results nobody differentiates, past autograd's layers of Python."""
    with torch.no_grad() if _below_autograd is None else _below_autograd():
        return op(*args)


def plain_tensors() -> contextlib.AbstractContextManager:
    """Block that ignores the overrides of Tensor subclasses, which saves microseconds per access."""
    return contextlib.nullcontext() if _without_subclasses is None else _without_subclasses()


def has_kernel(operator: str, device: str) -> bool | None:
    """Whether a kernel is registered for an operator, "namespace::name", on a device; None where nobody can tell."""
    return None if _has_kernel is None else _has_kernel(operator, device.upper())


def is_view(t: Tensor, of: Tensor) -> bool:
    """Whether ``t`` is a view of ``of``, which is no view itself."""
    if _knows_base:
        return t._base is of
    if t is of or t.untyped_storage().data_ptr() != of.untyped_storage().data_ptr():
        return False
    node = t.grad_fn
    while node is not None and node is not of.grad_fn and node.next_functions:
        node = node.next_functions[0][0]
    return node is of.grad_fn


def forget_sizes(optimizer: torch.optim.LBFGS) -> None:
    """Make an L-BFGS optimiser count its parameters again after they were exchanged; it caches their number.

    If the cache has another name, the optimiser is initialised again with the same settings.
    """
    if hasattr(optimizer, "_numel_cache"):
        optimizer._numel_cache = None
        return
    (group,) = optimizer.param_groups
    settings = {name: group[name] for name in optimizer.defaults}
    torch.optim.LBFGS.__init__(optimizer, group["params"], **settings)


__all__ = ["below_autograd", "forget_sizes", "has_kernel", "is_view", "plain_tensors", "under_transform"]
