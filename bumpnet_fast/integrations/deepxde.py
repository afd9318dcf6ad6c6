"""BumpNet as a network of DeepXDE (pytorch backend); Jacobians and Hessians come from one fused jet."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable

from torch import Tensor

from .lanes import FusedNet, LazyJet, known_version

#: The versions of DeepXDE whose caches are written to.  Others differentiate the net themselves.
KNOWN = ("1.14", "1.15")


class BumpNet(FusedNet):
    """A :class:`bumpnet_fast.BumpNet`, with the same arguments, that replaces ``dde.nn.FNN``.

    ``dde.grad.jacobian`` and ``dde.grad.hessian`` of its output by its input then need no automatic differentiation.
    DeepXDE still differentiates by itself, which is correct and slower, in three cases: with a feature or output
    transform; in forward mode (``dde.config.set_default_autodiff("forward")``); and in versions of DeepXDE that are not
    ``KNOWN``.

    Attributes
    ----------
    fused : bool
        If False, DeepXDE differentiates by ``torch.autograd`` as for any network.
    regularizer : None or tuple
        ("l1" or "l2", factor), as in DeepXDE.

    Examples
    --------
    >>> net = BumpNet(2, 64, [[0, 0], [1, 1]])         # where there was dde.nn.FNN([2] + [32] * 3 + [1], ...)
    >>> net.num_trainable_parameters()
    448
    """

    regularizer = None
    auxiliary_vars = None
    _input_transform = None
    _output_transform = None

    def forward(self, x: Tensor) -> Tensor:
        """Value [N, K] at the points ``x`` [N, d]; stores its derivatives in DeepXDE's caches."""
        if self._input_transform is not None or self._output_transform is not None:
            u = super().forward(x if self._input_transform is None else self._input_transform(x))
            return u if self._output_transform is None else self._output_transform(x, u)
        caches = _caches() if self.jets_wanted(x) and "deepxde" in sys.modules else None
        if caches is None or not _reverse_mode():
            return super().forward(x)
        jet, (first, second) = LazyJet(self, x, spare="derivatives"), caches
        u = jet.value
        first.Js[u, x] = _Jacobian(jet)
        second.Hs |= {(u, x, k): _Hessian(jet, k) for k in range(jet.outputs)}
        return u

    def apply_feature_transform(self, transform: Callable[[Tensor], Tensor]) -> None:
        """Apply the net to ``transform(x)`` instead of ``x``."""
        self._input_transform = transform

    def apply_output_transform(self, transform: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Replace the output ``u`` by ``transform(x, u)``."""
        self._output_transform = transform

    def num_trainable_parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)


class _Jacobian:
    """DeepXDE's cache entry for a pair of output and input, served from the jet."""

    def __init__(self, jet: LazyJet):
        self.jet = jet

    def __call__(self, i: int | None = None, j: int | None = None) -> Tensor:
        if i is None and j is None and (self.jet.outputs, self.jet.dim) != (1, 1):
            raise ValueError("i and j cannot be both None, unless there is one output and one coordinate")
        if i is None and self.jet.outputs > 1:
            raise NotImplementedError("a column of the Jacobian is not supported by DeepXDE in reverse mode")
        row = self.jet.gradient(_index("i", i or 0, self.jet.outputs))
        if j is None:
            return row
        j = _index("j", j, self.jet.dim)
        return row[:, j : j + 1]


class _Hessian:
    """The same for second derivatives of one output."""

    def __init__(self, jet: LazyJet, component: int):
        self.jet, self.component = jet, component

    def __call__(self, i: int = 0, j: int = 0) -> Tensor:
        return self.jet.second(self.component, _index("i", i, self.jet.dim), _index("j", j, self.jet.dim))


def _index(name: str, value: int, size: int) -> int:
    if not 0 <= value < size:
        raise ValueError(f"{name} must be from 0 to {size - 1}, got {value}")
    return value


@functools.cache
def _caches():
    """DeepXDE's caches of Jacobians and of Hessians; None where they are not as known."""
    if not known_version("deepxde", KNOWN):
        return None
    from deepxde.gradients.gradients_reverse import hessian, jacobian

    return jacobian._Jacobians, hessian._Hessians


def _reverse_mode() -> bool:
    from deepxde import config

    return config.autodiff == "reverse"


__all__ = ["KNOWN", "BumpNet"]
