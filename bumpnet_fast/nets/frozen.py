"""Bumps whose shapes are not trained: no gradient, no smaller loss and no optimiser of torch moves them.

``BumpNet.trainable`` marks the rows that are trained.  Of the others only the amplitudes change.  Two things hold that:

- what a net evaluates passes no gradient to their shapes, and
- every step of a :class:`torch.optim.Optimizer` first clears what else arrived in the gradient of these shapes, and
  then puts them back to the last bit.  Weight decay, moments from before and updates that mix entries would move
  them without any gradient.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

#: A BumpNet, whose module imports this one.
BumpNet = Any

#: The living nets with such bumps.  Hooks are registered with the first one: other programs pay nothing.
_nets: weakref.WeakSet[BumpNet] = weakref.WeakSet()
_hooks: list[Any] = []
#: Shapes from before the step that an optimiser is in.
_before: weakref.WeakKeyDictionary[Optimizer, list[tuple[BumpNet, Tensor]]] = weakref.WeakKeyDictionary()


def checked(trainable: Any, rows: Tensor) -> Tensor:
    """``trainable`` as a new bool tensor [M] on the device of the rows; TypeError or ValueError if it is not one."""
    try:
        mask = torch.as_tensor(trainable, device=rows.device).clone()
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"trainable must be a bool tensor [{len(rows)}], got {type(trainable).__name__}") from None
    if mask.dtype != torch.bool:
        raise TypeError(f"trainable must be a bool tensor [{len(rows)}], got {mask.dtype}")
    if mask.shape != rows.shape[:1]:
        raise ValueError(f"trainable must have shape [{len(rows)}], one entry per bump, got {tuple(mask.shape)}")
    return mask


def without_gradient(rows: Tensor, trainable: Tensor, shape_columns: int) -> Tensor:
    """``rows``, through which no gradient reaches the shapes of bumps that are not trained."""
    if trainable.shape[-1] != rows.shape[-2]:
        got = f"{trainable.shape[-1]} entries for {rows.shape[-2]} bumps"
        raise RuntimeError(f"net.trainable has {got}: where rows are replaced, assign it as well")
    shapes, amplitudes = rows[:, :shape_columns], rows[:, shape_columns:]
    return torch.cat([torch.where(trainable[:, None], shapes, shapes.detach()), amplitudes], 1)


def some_frozen(net: BumpNet) -> bool:
    """Whether there are bumps whose shapes are not trained, by the tensor itself; it waits for the device."""
    return not net.trainable.is_meta and not bool(net.trainable.all())


def clear_gradient_(net: BumpNet, gradient: Tensor | None) -> None:
    """Set the gradient of shapes that are not trained to zero, in place; it does not wait for the device."""
    if gradient is not None:
        gradient[:, : net.layout.shape_columns].masked_fill_(~net.trainable[:, None], 0.0)


def free_parameters(net: BumpNet) -> int:
    """How many numbers a solver finds: whole rows of trained bumps, and the amplitudes of the others."""
    if net.rows.shape[1] < net.layout.columns:  # a net of patches, whose rows are amplitudes
        return net.rows.numel()
    frozen = int((~net.trainable).sum())
    return net.rows.numel() - frozen * net.layout.shape_columns


def hold(net: BumpNet) -> None:
    """Keep the shapes of a net's bumps that are not trained in every step of every optimiser from now on."""
    _nets.add(net)
    if not _hooks:
        _hooks.append(register_optimizer_step_pre_hook(_remember))
        _hooks.append(register_optimizer_step_post_hook(_put_back))


@torch.no_grad()
def _remember(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    stepped = {id(p) for group in optimizer.param_groups for p in group["params"]} if _nets else set()
    held = []
    for net in list(_nets):
        rows = net._parameters.get("rows")  # None where a parametrization computes them
        if rows is not None and id(rows) in stepped and not net.all_trained:
            clear_gradient_(net, rows.grad)
            held.append((net, rows.detach()[:, : net.layout.shape_columns].clone()))
    if held:
        _before[optimizer] = held


@torch.no_grad()
def _put_back(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    for net, shapes in _before.pop(optimizer, ()):
        now = net.rows[:, : net.layout.shape_columns]
        now.copy_(torch.where(net.trainable[:, None], now, shapes))


__all__ = ["checked", "clear_gradient_", "free_parameters", "hold", "some_frozen", "without_gradient"]
