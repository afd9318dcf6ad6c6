"""Shared by the integrations: a jet with the requested derivatives, and the choice between fused jet and autograd."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib import metadata
from types import MappingProxyType

import torch
from torch import Tensor

from ..core.functional import Spare, sparing_jet
from ..core.jet import Jet
from ..core.maps import refuse_maps
from ..core.ops import under_transform
from ..nets import bumpnet

#: Each includes the ones before it.
_ORDER = ("value", "gradient", "laplacian", "diagonal", "hessian")


class FusedNet(bumpnet.BumpNet):
    """A BumpNet that another library differentiates, from one fused jet where possible.

    Attributes
    ----------
    fused : bool
        If False, the library differentiates by ``torch.autograd`` as for any network.
    usual : mapping
        Derivatives in the jets of the training steps, by the number of points.  Points of the interior need other
        derivatives than those of the boundary.
    """

    fused = True
    usual: Mapping[int, str] = MappingProxyType({})

    def jets_wanted(self, x: Tensor) -> bool:
        """Whether derivatives by ``x`` may be requested, and a fused jet can provide them."""
        asked = self.fused and x.requires_grad and torch.is_grad_enabled()
        return asked and not under_transform() and not torch.compiler.is_compiling()


class LazyJet:
    """Jet of ``net`` at ``x`` [N, d]; computed again when more derivatives are requested.

    In training the net remembers the request, and the next jet with as many points includes it: one operator per step.
    In evaluation mode mostly values are requested, and nothing is remembered.

    ``spare``: when to skip the gradient by x in training: never, after a derivative was requested ("derivatives"), or
    always ("always").  Skipping it saves third derivatives.  It is skipped only at points that were sampled, not at
    trained or computed ones, and never in a backward with ``create_graph=True``.
    """

    def __init__(self, net: FusedNet, x: Tensor, spare: str = "never"):
        refuse_maps(net, "the jets of an integration")
        self.x = x
        self.outputs, self.dim = net.layout.outputs, net.layout.dim
        self._rows, self._frame, self._tied = net.rows, net.frame, net.tied  # not the net, which may be freed before
        self._usual = net.__dict__.setdefault("usual", {}) if net.training else {}
        origin = leaf(x)
        sampled = net.training and origin.is_leaf and not isinstance(origin, torch.nn.Parameter)
        self._may_spare = sampled and spare != "never"
        self._spare = Spare(points=sampled and spare == "always")
        self.jet = self._evaluate(self._usual.get(len(x), "value"))
        self.value = self.jet.value

    def _evaluate(self, want: str) -> Jet:
        return sparing_jet(self._spare, self.x, self._rows, self._frame, want, tied=self._tied)

    def _up_to(self, want: str) -> Jet:
        self._spare.points = self._may_spare
        if _ORDER.index(want) > _ORDER.index(self.jet.want):
            self.jet, self._usual[len(self.x)] = self._evaluate(want), want
        return self.jet

    def gradient(self, k: int) -> Tensor:
        """Gradient [N, d] of output ``k``."""
        return self._up_to("gradient").gradient[:, k]

    def laplacian(self, k: int) -> Tensor:
        """Laplacian [N, 1] of output ``k`` by all coordinates."""
        return self._up_to("laplacian").laplacian[:, k : k + 1]

    def second(self, k: int, i: int, j: int) -> Tensor:
        """Second derivative [N, 1] of output ``k`` by coordinates ``i`` and ``j``."""
        return self._up_to("diagonal" if i == j else "hessian").dd(i, j)[:, k : k + 1]


def leaf(x: Tensor) -> Tensor:
    """The tensor whose columns ``x`` is made of, or ``x`` itself."""
    node = x.grad_fn
    while node is not None and node.name() in ("AliasBackward0", "IndexBackward0", "SliceBackward0", "ViewBackward0"):
        node = node.next_functions[0][0]
    return getattr(node, "variable", x)


def known_version(package: str, known: tuple[str, ...]) -> bool:
    """Whether the installed version of ``package`` starts like one of ``known``; otherwise warns."""
    version = metadata.version(package)
    if any(version == start or version.startswith(start + ".") for start in known):
        return True
    warnings.warn(
        f"{package} {version} is not among the versions whose insides are known ({', '.join(known)}): "
        "derivatives of a BumpNet are taken by torch.autograd, which is correct and slower",
        stacklevel=4,
    )
    return False


__all__ = ["FusedNet", "LazyJet", "known_version", "leaf"]
