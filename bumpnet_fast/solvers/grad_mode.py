"""Solvers work under ``torch.no_grad`` and ``torch.inference_mode``, although they need gradients."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Function = TypeVar("Function", bound=Callable[..., Any])


def differentiating(solver: Function) -> Function:
    """Decorator: run a solver outside of inference mode, with gradients, on tensors that allow them.

    Tensors made in inference mode cannot be trained.  Those among the arguments are copied.  Parameters and buffers of
    a net are replaced, in the net, by others with the same numbers.
    """

    @functools.wraps(solver)
    def solve(*arguments: Any, **options: Any) -> Any:
        with torch.inference_mode(False), torch.enable_grad():
            arguments = [ordinary(value) for value in arguments]
            return solver(*arguments, **{name: ordinary(value) for name, value in options.items()})

    return solve


def ordinary(value: Any) -> Any:
    """``value`` without tensors made in inference mode: a tensor, a tuple of tensors, or a module."""
    if isinstance(value, Tensor):
        return value.clone() if value.is_inference() else value
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        parts = [ordinary(part) for part in value]
        return value if all(a is b for a, b in zip(parts, value, strict=True)) else type(value)(*parts)
    if isinstance(value, nn.Module):
        _replace_tensors(value)
    return value


def _replace_tensors(module: nn.Module) -> None:
    replaced: dict[int, Tensor] = {}  # a parameter shared by two modules stays shared
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None and parameter.is_inference():
                new = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
                part._parameters[name] = replaced.setdefault(id(parameter), new)
        for name, buffer in part._buffers.items():
            if buffer is not None and buffer.is_inference():
                part._buffers[name] = replaced.setdefault(id(buffer), buffer.clone())


__all__ = ["differentiating", "ordinary"]
