"""What the integrations share: a jet that goes as far as it is asked, and the choice between the lanes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib import metadata
from types import MappingProxyType

import torch
from torch import Tensor

from ..core.functional import Spare, sparing_jet
from ..core.jet import Jet
from ..core.ops import under_transform
from ..nets import bumpnet

#: Each has what the ones before it have.
_ORDER = ("value", "gradient", "laplacian", "diagonal", "hessian")


class FusedNet(bumpnet.BumpNet):
    """A BumpNet that another library differentiates, from one fused jet where it can.

    Attributes
    ----------
    fused : bool
        Set to False, the library differentiates by ``torch.autograd`` as it does any network.
    usual : mapping
        How far the jets of the training steps have gone, by the number of points: what is asked at the points of the
        interior is not asked at those of the boundary.
    """

    fused = True
    usual: Mapping[int, str] = MappingProxyType({})

    def jets_wanted(self, x: Tensor) -> bool:
        """Whether somebody may ask for derivatives by ``x``, and a fused jet may give them."""
        asked = self.fused and x.requires_grad and torch.is_grad_enabled()
        return asked and not under_transform() and not torch.compiler.is_compiling()


class LazyJet:
    """Jet of ``net`` at ``x`` [N, d], taken again when more is asked than it has.

    In training the net learns from this, and the next jet of so many points has it at once: one operator a step.
    A net in evaluation mode is asked for values alone more often than not.

    In training ``loss.backward()`` may leave the gradient by the points out, which costs third derivatives: where
    ``spare`` is "derivatives", once one was served; where it is "always", of values, too.  It does so only at points
    that somebody sampled, not at ones that are trained or computed, and a backward with ``create_graph=True`` has it
    always.
    """

    def __init__(self, net: FusedNet, x: Tensor, spare: str = "never"):
        self.x = x
        self.outputs, self.dim = net.layout.outputs, net.layout.dim
        self._rows, self._frame, self._tied = net.rows, net.frame, net.tied  # not the net, which may go before
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
    """The tensor that ``x`` took its columns from, or itself."""
    node = x.grad_fn
    while node is not None and node.name() in ("AliasBackward0", "IndexBackward0", "SliceBackward0", "ViewBackward0"):
        node = node.next_functions[0][0]
    return getattr(node, "variable", x)


def known_version(package: str, known: tuple[str, ...]) -> bool:
    """Whether the installed version of ``package`` starts like one of ``known``; warns if it does not."""
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
