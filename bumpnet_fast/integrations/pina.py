"""BumpNet as a model of PINA; its differential operators are served from one fused jet."""

from __future__ import annotations

import functools
import inspect
import sys
import warnings
import weakref

import torch
from torch import Tensor

from ..core.private import plain_tensors
from .lanes import FusedNet, LazyJet, known_version, leaf

#: The versions of PINA whose operators are known.  Others differentiate the net themselves.
KNOWN = ("0.3.2",)

#: Latest jet of every net: PINA computes the residual of an output before it calls the net again.
_LATEST: weakref.WeakKeyDictionary[BumpNet, _Served] = weakref.WeakKeyDictionary()


class BumpNet(FusedNet):
    """A :class:`bumpnet_fast.BumpNet`, with the same arguments, that replaces PINA's ``FeedForward``.

    ``grad``, ``laplacian``, ``div`` and ``advection`` of its output by its input, and ``grad`` of such a ``grad``, then
    need no automatic differentiation, in PINA's own equations too.  For this PINA's internal functions ``fast_grad``
    and ``fast_laplacian`` are wrapped when such a net is first called.  The wrappers check whether the output is this
    net's; otherwise they call the original.  In versions of PINA that are not ``KNOWN`` nothing is wrapped, which is
    correct and slower.

    Attributes
    ----------
    fused : bool
        If False, PINA differentiates by ``torch.autograd`` as for any model.

    Examples
    --------
    >>> BumpNet(2, 64, [[0, 0], [1, 1]])               # where there was FeedForward(2, 1, ...)
    BumpNet(dim=2, bumps=64, outputs=1, outer='tied', parameters=448, dtype=float32)
    """

    def forward(self, x: Tensor) -> Tensor:
        """Value [N, K] at the points ``x`` [N, d], a ``LabelTensor`` or not."""
        with plain_tensors():  # a look at a LabelTensor costs microseconds, and a step has many
            labelled = getattr(x, "labels", None) is not None and "pina" in sys.modules
            if not labelled or not self.jets_wanted(x) or not _wrap_operators():
                return super().forward(x)
            served = _LATEST[self] = _Served(LazyJet(self, x.tensor, spare="always"), x)
            return served.jet.value


class _Served:
    """A jet, with the output that it belongs to and the points that it was computed at."""

    def __init__(self, jet: LazyJet, x: Tensor):
        self.jet, self.x, self.labels = jet, x, list(x.labels)
        self.node = jet.value.grad_fn
        self.points = None

    def is_of(self, output: Tensor) -> bool:
        return _unaliased(output.grad_fn) is self.node and output.shape == self.jet.value.shape

    def is_at(self, points: Tensor) -> bool:
        """Whether ``x`` holds the columns of ``points``; determined once."""
        if points is not self.points:
            same = leaf(self.x) is points and set(self.labels) <= set(points.labels or ())
            if not same or not torch.equal(self.x.tensor, points.extract(self.labels).tensor):
                return False
            self.points = points
        return True

    def gradient(self, k: int, d: list[str]) -> Tensor:
        gradient = self.jet.gradient(k)
        return gradient if d == self.labels else _joined([_column(gradient, self.labels.index(c)) for c in d])

    def laplacian(self, k: int, d: list[str]) -> Tensor:
        if sorted(d) == sorted(self.labels):
            return self.jet.laplacian(k)
        return sum(self.second(k, i, i) for i in d)

    def second(self, k: int, i: str, j: str) -> Tensor:
        return self.jet.second(k, self.labels.index(i), self.labels.index(j))


def _column(values: Tensor, i: int) -> Tensor:
    return values[:, i : i + 1]


def _joined(columns: list[Tensor]) -> Tensor:
    return columns[0] if len(columns) == 1 else torch.cat(columns, -1)


def _unaliased(node):
    while node is not None and node.name() == "AliasBackward0":
        node = node.next_functions[0][0]
    return node


def _find(output: Tensor, points: Tensor, d: list[str]) -> _Served | None:
    """The jet with the value ``output``, if its derivatives by ``d`` of ``points`` are requested."""
    for served in list(_LATEST.values()):
        if served.is_of(output) and served.is_at(points) and set(d) <= set(served.labels):
            return served
    return None


def _grad(output_, input_, components, d):
    """``fast_grad`` of an output, or of an earlier result of this function; None for anything else."""
    before = getattr(output_, "_bump_gradient", None)
    if before is None:
        served = _find(output_, input_, d)
        if served is None:
            return None
        columns = [(output_.labels.index(c), None) for c in components]
        values = [served.gradient(k, d) for k, _ in columns]
        taken = [(k, i) for k, _ in columns for i in d]
    else:
        served, taken, node = before
        if output_.grad_fn is not node or not served.is_at(input_) or not set(d) <= set(served.labels):
            return None
        columns = [taken[output_.labels.index(c)] for c in components]
        values, taken = [served.second(k, i, j) for k, i in columns for j in d], None
    result = _labelled(_joined(values), [f"d{c}d{i}" for c in components for i in d])
    if taken is not None:
        result._bump_gradient = served, taken, result.grad_fn
    return result


def _laplacian(output_, input_, components, d, method="std"):
    """``fast_laplacian`` of an output; None for anything else."""
    served = _find(output_, input_, d) if method in ("std", "divgrad") else None
    if served is None:
        return None
    columns = [output_.labels.index(c) for c in components]
    values = [served.laplacian(k, d) for k in columns]
    return _labelled(_joined(values), [f"dd{c}" for c in components])


def _labelled(values: Tensor, labels: list[str]):
    from pina import LabelTensor

    return LabelTensor(values, labels)


def _first(ours, theirs):
    """``ours`` if it has a result, otherwise ``theirs``."""

    @functools.wraps(theirs)
    def function(*args, **kwargs):
        with plain_tensors():
            result = ours(*args, **kwargs)
        return theirs(*args, **kwargs) if result is None else result

    return function


@functools.cache
def _wrap_operators() -> bool:
    """Wrap PINA's functions, once; False where PINA is not as known."""
    if not known_version("pina-mathlab", KNOWN):
        return False
    from pina._src.core import operator

    ours = {"fast_grad": _grad, "fast_laplacian": _laplacian}
    theirs = {name: inspect.unwrap(getattr(operator, name)) for name in ours}
    for name, function in ours.items():
        if [*inspect.signature(theirs[name]).parameters] != [*inspect.signature(function).parameters]:
            warnings.warn(f"PINA's {name} has other parameters than those known: torch.autograd serves", stacklevel=3)
            return False
    for name, function in ours.items():
        setattr(operator, name, _first(function, theirs[name]))
    return True


__all__ = ["KNOWN", "BumpNet"]
