"""BumpNet in NVIDIA PhysicsNeMo: derivatives by name, ``u__x__x``, from one fused jet."""

from __future__ import annotations

import functools
import inspect
import sys
import warnings
import weakref
from collections.abc import Iterable, Sequence
from itertools import permutations

from torch import Tensor, nn

from ..core.private import is_view
from .lanes import FusedNet, LazyJet, known_version

#: The versions of PhysicsNeMo whose internals are known.  Others differentiate the net themselves.
KNOWN = ("2.1", "2.2")

#: Latest points, jet and value node of every net: an informer is called before the net gets other points that require
#: gradients.
_LATEST: weakref.WeakKeyDictionary[BumpNet, tuple] = weakref.WeakKeyDictionary()


class BumpNet(FusedNet):
    """A :class:`bumpnet_fast.BumpNet`, with the same arguments, that replaces PhysicsNeMo's ``FullyConnected``.

    A ``PhysicsInformer(..., grad_method="autodiff")`` that gets columns of its output then needs no automatic
    differentiation.  For this the ``forward`` of PhysicsNeMo's ``GradientsAutoDiff`` is wrapped when such a net is
    first called with points that require gradients.  The wrapper checks whether the output is this net's at these
    points; otherwise it calls the original.  In versions of PhysicsNeMo that are not ``KNOWN`` nothing is wrapped,
    which is correct and slower.  :meth:`computation` needs no wrapper, and allows any coordinates, including time.

    Attributes
    ----------
    fused : bool
        If False, a ``PhysicsInformer`` differentiates by ``torch.autograd`` as for any model.

    Examples
    --------
    >>> BumpNet(2, 64, outputs=3)                       # where there was FullyConnected(2, out_features=3, ...)
    BumpNet(dim=2, bumps=64, outputs=3, outer='tied', parameters=576, dtype=float32)
    """

    def forward(self, x: Tensor) -> Tensor:
        """Value [N, K] at the points ``x`` [N, d]."""
        if not self.jets_wanted(x) or "physicsnemo.sym" not in sys.modules or not _wrap_gradients():
            return super().forward(x)
        jet = LazyJet(self, x)
        _LATEST[self] = x, jet, jet.value.grad_fn
        return jet.value

    def computation(self, equations: Iterable, outputs: Sequence[str], coordinates: Sequence[str]):
        """This net as a node of a ``physicsnemo.sym`` graph, with the derivatives that ``equations`` need.

        Parameters
        ----------
        equations : iterable of physicsnemo.sym.computation.Computation
            Result of ``PDE.make_computations()``.
        outputs, coordinates : sequence of str
            Names of the net's K outputs and of its d coordinates, ``["u"]`` and ``["x", "t"]``.

        Returns
        -------
        physicsnemo.sym.computation.Computation
            From ``"coordinates"`` [N, d], which need no gradient, to everything that the equations name: outputs, their
            first and second derivatives, and coordinates, each [N, 1].

        Raises
        ------
        ValueError
            If the numbers of names, outputs and coordinates differ, or if a derivative is of third order or by another
            variable.

        Notes
        -----
        Use it in a ``physicsnemo.sym.graph.Graph`` with the equations; docs/integrations.md has an example.
        """
        from physicsnemo.sym.computation import Computation

        outputs, coordinates = list(outputs), list(coordinates)
        _check_names("outputs", outputs, self.layout.outputs)
        _check_names("coordinates", coordinates, self.layout.dim)
        wanted = sorted({name for node in equations for name in (*node.inputs, *node.derivatives)})
        wanted = [name for name in wanted if name in coordinates or name.split("__")[0] in outputs]
        for name in wanted:
            by = name.split("__")[1:]
            if len(by) > 2 or not set(by) <= set(coordinates):
                raise ValueError(f"derivatives must be at most the second by {', '.join(coordinates)}, got {name}")
        return Computation(["coordinates"], wanted, _Named(self, wanted, outputs, coordinates), name=repr(self))


def _check_names(what: str, names: list[str], count: int) -> None:
    if len(names) != count or len(set(names)) != count:
        raise ValueError(f"{what} must be {count} different names, got {names}")


class _Named(nn.Module):
    """Values of a net and its derivatives by name, from the smallest jet that contains them."""

    def __init__(self, net: BumpNet, wanted: list[str], outputs: list[str], coordinates: list[str]):
        super().__init__()
        self.net, self.wanted, self.outputs, self.coordinates = net, wanted, outputs, coordinates
        orders = [name.split("__")[1:] for name in wanted]
        self.want = ("value", "gradient", "diagonal")[max(map(len, orders), default=0)]
        if any(len(by) == 2 and by[0] != by[1] for by in orders):
            self.want = "hessian"

    def forward(self, variables: dict[str, Tensor]) -> dict[str, Tensor]:
        x = variables["coordinates"]
        named = {c: x[:, i : i + 1] for i, c in enumerate(self.coordinates)}
        jet = self.net.jet(x, want=self.want)
        for k, name in enumerate(self.outputs):
            named |= jet.output(k).as_dict(name, self.coordinates)
        return {name: named[name] for name in self.wanted}


def _column(y: Tensor, value: Tensor) -> int | None:
    """Index of the column of ``value`` [N, K] that is the tensor ``y`` [N, 1]; None if none is."""
    known = y is value or (is_view(y, value) and y.requires_grad)
    if not known or y.shape != (len(value), 1) or (len(value) > 1 and y.stride(0) != value.stride(0)):
        return None
    return y.storage_offset() - value.storage_offset()


def _derivatives(module, variables: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """Result of ``GradientsAutoDiff.forward`` if the variable is a column of a net's latest output; otherwise None."""
    y, x, name, axes = variables[module.invar], variables["coordinates"], module.invar, "xyz"[: module.dim]
    for points, jet, node in list(_LATEST.values()):
        k = _column(y, jet.value) if points is x and jet.value.grad_fn is node else None
        if k is None or module.dim > jet.dim or module.order not in (1, 2):
            continue
        if module.order == 1:
            gradient = jet.gradient(k)
            return {f"{name}__{a}": gradient[:, i : i + 1] for i, a in enumerate(axes)}
        pairs = [*permutations(enumerate(axes), 2)] if module.return_mixed_derivs else []
        pairs += [(a, a) for a in enumerate(axes)]
        return {f"{name}__{a}__{b}": jet.second(k, i, j) for (i, a), (j, b) in pairs}
    return None


@functools.cache
def _wrap_gradients() -> bool:
    """Wrap PhysicsNeMo's function with :func:`_derivatives`, once; False where it is not as known."""
    if not known_version("nvidia-physicsnemo", KNOWN):
        return False
    from physicsnemo.sym.eq.gradients import GradientsAutoDiff

    theirs = inspect.unwrap(GradientsAutoDiff.forward)
    known = ["self", "invar", "dim", "order", "return_mixed_derivs"]
    if [*inspect.signature(GradientsAutoDiff.__init__).parameters] != known:
        warnings.warn("GradientsAutoDiff has other parameters than those known: torch.autograd serves", stacklevel=3)
        return False

    @functools.wraps(theirs)
    def forward(self, input_dict):
        result = _derivatives(self, input_dict)
        return theirs(self, input_dict) if result is None else result

    GradientsAutoDiff.forward = forward
    return True


__all__ = ["KNOWN", "BumpNet"]
