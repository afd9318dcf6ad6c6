"""Jet: a function's value with its first and second derivatives, and the calculus on it."""

from __future__ import annotations

import numbers
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .reference import DIAGONAL, GRADIENT, HESSIAN, VALUE, WANTS, level_of
from .types import Want


@dataclass(frozen=True, eq=False)
class Jet:
    """Value and derivatives of a function with K outputs at N points in d dimensions.

    Jets add, subtract, multiply and divide like the functions they belong to: ``u * v`` follows the product
    rule, which is how exact boundary conditions are built, ``u = lift + distance * net``.

    Parameters
    ----------
    want : str
        How far the jet goes: "value", "gradient", "diagonal", "hessian" or "laplacian".
    value : Tensor
        [N, K].
    gradient : Tensor or None
        [N, K, d].
    second : Tensor or None
        Second derivatives in the form ``want``: Hessian diagonal [N, K, d], full Hessian
        [N, K, d, d], or Laplacian [N, K].

    Notes
    -----
    The other operand may be a number or a tensor, on either side.  A tensor counts as constant in x: as a factor it
    scales the derivatives too, as an addend it leaves them alone.  If it depends on x and its derivatives matter,
    make a jet of it by :meth:`of`.  The shape of a tensor says what it means:

    ============ =========================================
    [N]          a value per point, the same for all outputs, also where N = K
    [N, K]       a value per point and output
    [N, 1]       as [N]
    [1, K]       a value per output, the same at all points
    []           a number
    ============ =========================================

    A jet with one output takes a tensor [N, L] or [1, L] too, and has L outputs then.  Any other shape is a
    ValueError.  Of two jets the left one says how far the result goes, and the right one must go as far.

    Examples
    --------
    >>> x = torch.tensor([[1.0, 2.0]])
    >>> a = Jet.of(lambda x: x[:, 0] * x[:, 1], x, "hessian")
    >>> a.value.item(), a.gradient[0, 0].tolist(), a.hessian[0, 0, 0, 1].item()
    (2.0, [2.0, 1.0], 1.0)
    >>> (a * a).laplacian.item()
    10.0
    >>> b = 1 - x[:, 0] * a
    >>> b.value.item(), b.d(0).item()
    (-1.0, -2.0)
    """

    want: Want
    value: Tensor
    gradient: Tensor | None = None
    second: Tensor | None = None

    __array_ufunc__ = None  # or numpy would take a jet for an element of its arrays

    def _missing(self, name: str) -> AttributeError:
        return AttributeError(f"this jet was computed with want={self.want!r} and has no {name}; ask for it by want=")

    @property
    def hessian(self) -> Tensor:
        """Full Hessian [N, K, d, d]; of a jet with want "hessian"."""
        if self.want != "hessian" or self.second is None:
            raise self._missing("hessian")
        return self.second

    @property
    def diagonal(self) -> Tensor:
        """Unmixed second derivatives [N, K, d]; of a jet with want "diagonal" or "hessian"."""
        if self.want == "hessian":
            return self.hessian.diagonal(dim1=-2, dim2=-1)
        if self.want != "diagonal" or self.second is None:
            raise self._missing("diagonal")
        return self.second

    @property
    def laplacian(self) -> Tensor:
        """Sum of the unmixed second derivatives [N, K]; of a jet with want "diagonal", "hessian" or "laplacian"."""
        if self.want == "laplacian" and self.second is not None:
            return self.second
        if self.want not in ("diagonal", "hessian"):
            raise self._missing("laplacian")
        return self.diagonal.sum(-1)

    def d(self, i: int) -> Tensor:
        """First derivative by coordinate ``i``: [N, K].

        Parameters
        ----------
        i : int
            From 0 on; negative numbers count from the last coordinate.

        Raises
        ------
        AttributeError
            If the jet has no gradient.
        IndexError, TypeError
            If there is no such coordinate, or ``i`` is no integer.

        Examples
        --------
        >>> u = Jet.of(lambda x: x[:, 0] ** 2 * x[:, 1], torch.tensor([[1.0, 2.0]]), "hessian")
        >>> u.d(0).item(), u.d(-1).item(), u.dd(0).item(), u.dd(0, 1).item()
        (4.0, 1.0, 4.0, 2.0)
        """
        if self.gradient is None:
            raise self._missing("gradient")
        return self.gradient[..., _index("coordinate", i, self.gradient.shape[-1])]

    def dd(self, i: int, j: int | None = None) -> Tensor:
        """Second derivative by coordinates ``i`` and ``j``, by default ``i`` twice: [N, K]; otherwise as :meth:`d`.

        Mixed derivatives are in a jet with want "hessian", the others also with "diagonal".
        """
        if self.second is None or self.want not in ("diagonal", "hessian"):
            raise self._missing("diagonal" if j is None or i == j else "hessian")
        i, j = (_index("coordinate", axis, self.second.shape[-1]) for axis in (i, i if j is None else j))
        return self.diagonal[..., i] if i == j else self.hessian[..., i, j]

    def output(self, k: int) -> Jet:
        """The jet of output ``k`` alone, with K = 1; IndexError if there is no such output.

        >>> u = Jet.of(lambda x: torch.cat([x, x**2], 1), torch.tensor([[3.0]]), "gradient")
        >>> u.output(1).value.item(), u.output(-1).d(0).item()
        (9.0, 6.0)
        """
        k = _index("output", k, self.value.shape[1])
        return self.map(lambda t: t[:, k : k + 1])

    def as_dict(self, name: str, coordinates: Sequence[str]) -> dict[str, Tensor]:
        """Derivatives by the names ``u``, ``u__x``, ``u__x__y`` that physicsnemo gives them.

        >>> Jet.of(lambda x: x[:, 0] ** 2, torch.ones(1, 1), "diagonal").as_dict("u", ["t"])["u__t__t"].item()
        2.0
        """
        if self.gradient is not None and len(coordinates) != self.gradient.shape[-1]:
            raise ValueError(f"coordinates must be {self.gradient.shape[-1]} names, got {coordinates!r}")
        named = {name: self.value}
        if self.gradient is not None:
            named |= {f"{name}__{c}": self.d(i) for i, c in enumerate(coordinates)}
        if self.want in ("diagonal", "hessian"):
            named |= {f"{name}__{c}__{c}": self.dd(i) for i, c in enumerate(coordinates)}
        if self.want == "hessian":
            pairs = [(i, j) for i in range(len(coordinates)) for j in range(len(coordinates)) if i != j]
            named |= {f"{name}__{coordinates[i]}__{coordinates[j]}": self.dd(i, j) for i, j in pairs}
        return named

    def map(self, f: Callable[[Tensor], Tensor]) -> Jet:
        """Apply ``f`` to every part of the jet; ``f`` must be linear and act alike on all points and derivatives.

        >>> Jet("value", torch.ones(5, 1)).map(Tensor.double).value.dtype
        torch.float64
        """
        gradient, second = (None if t is None else f(t) for t in (self.gradient, self.second))
        return Jet(self.want, f(self.value), gradient, second)

    # --- arithmetic ------------------------------------------------------------------------------

    def __neg__(self) -> Jet:
        return self.map(torch.neg)

    def __pos__(self) -> Jet:
        return self

    def __add__(self, other: Jet | Tensor | complex) -> Jet:
        if isinstance(other, Jet):
            value, *others = other._parts_as(self.want)
            pairs = zip((self.gradient, self.second), others, strict=True)
            return Jet(self.want, self.value + value, *(None if a is None or b is None else a + b for a, b in pairs))
        constant = self._constant(other)
        if constant is None:
            return NotImplemented
        value = self.value + constant
        if value.shape == self.value.shape:
            return Jet(self.want, value, self.gradient, self.second)
        n, k = value.shape  # a tensor for several outputs made so many of one
        return Jet(self.want, value, *(None if t is None else t.expand(n, k, *t.shape[2:]) for t in self.parts()[1:]))

    __radd__ = __add__

    def __sub__(self, other: Jet | Tensor | complex) -> Jet:
        if isinstance(other, Jet):
            return self + (-other)
        constant = self._constant(other)
        return NotImplemented if constant is None else self + (-constant)

    def __rsub__(self, other: Tensor | complex) -> Jet:
        return (-self) + other

    def __mul__(self, other: Jet | Tensor | complex) -> Jet:
        if isinstance(other, Jet):
            return self._times(other._parts_as(self.want))
        constant = self._constant(other)
        return NotImplemented if constant is None else self.map(lambda t: t * _spread(constant, t))

    __rmul__ = __mul__

    def __truediv__(self, other: Jet | Tensor | complex) -> Jet:
        if isinstance(other, Jet):
            return self._times(other._reciprocal(self.want))
        constant = self._constant(other)
        return NotImplemented if constant is None else self.map(lambda t: t / _spread(constant, t))

    def __rtruediv__(self, other: Tensor | complex) -> Jet:
        return Jet(self.want, *self._reciprocal(self.want)) * other

    def _constant(self, other: Any) -> Tensor | complex | None:
        """What is constant in x as a number or as a tensor [N or 1, outputs or 1]; None if it is neither of them."""
        if isinstance(other, Tensor):
            n, k = self.value.shape
            shape = tuple(other.shape)
            if len(shape) == 1 and shape[0] == n:
                return other[:, None]
            if shape in ((), (1,)) or (len(shape) == 2 and shape[0] in (1, n) and (k == 1 or shape[1] in (1, k))):
                return other
            wanted = f"a tensor must have shape [{n}] (a value per point) or [{n}, {k}] to go with a jet [{n}, {k}]"
            remedy = ""
            if len(shape) == 1 and k in (1, shape[0]):
                remedy = "; for a value per output, the same at all points, write t[None]"
            raise ValueError(f"{wanted}, got {shape}{remedy}")
        if isinstance(other, numbers.Number):
            return other  # type: ignore[return-value]
        if isinstance(other, (list, tuple)) or hasattr(other, "__array__"):
            kind = type(other).__name__
            raise TypeError(f"a jet goes with jets, tensors and numbers, got {kind}: use torch.as_tensor")
        return None

    def _times(self, other: tuple[Tensor, Tensor | None, Tensor | None]) -> Jet:
        """The product with the function that has these parts."""
        a, a1, a2 = self.parts()
        b, b1, b2 = other
        gradient = second = None
        if a1 is not None and b1 is not None:
            gradient = a[..., None] * b1 + b[..., None] * a1
            if a2 is not None and b2 is not None:
                if self.want == "hessian":
                    cross = a1[..., :, None] * b1[..., None, :]
                    second = a[..., None, None] * b2 + b[..., None, None] * a2 + cross + cross.transpose(-1, -2)
                elif self.want == "diagonal":
                    second = a[..., None] * b2 + b[..., None] * a2 + 2 * a1 * b1
                else:
                    second = a * b2 + b * a2 + 2 * (a1 * b1).sum(-1)
        return Jet(self.want, a * b, gradient, second)

    def _reciprocal(self, want: Want) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The parts of 1 / u: with r = 1 / u, r' = -r^2 u' and r'' = -r^2 u'' + 2 r^3 u' u'."""
        u, u1, u2 = self._parts_as(want)
        r = 1 / u
        gradient = second = None
        if u1 is not None:
            gradient = -(r * r)[..., None] * u1
            if u2 is not None:
                squares = u1[..., :, None] * u1[..., None, :] if want == "hessian" else u1 * u1
                squares = squares.sum(-1) if want == "laplacian" else squares
                second = _spread(2 * r**3, squares) * squares - _spread(r * r, u2) * u2
        return r, gradient, second

    # --- parts -----------------------------------------------------------------------------------

    def parts(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Value, gradient and second derivatives, None for those that are not there."""
        return self.value, self.gradient, self.second

    def _parts_as(self, want: Want) -> tuple[Tensor, Tensor | None, Tensor | None]:
        if want == self.want:
            return self.parts()
        level = WANTS.index(want)
        second = getattr(self, want) if level >= DIAGONAL else None
        if level >= GRADIENT and self.gradient is None:
            raise self._missing("gradient")
        return self.value, self.gradient if level >= GRADIENT else None, second

    @classmethod
    def of(cls, function: Callable[[Tensor], Tensor], x: Tensor, want: Want) -> Jet:
        """Jet of any differentiable torch function at ``x`` [N, d], by automatic differentiation.

        ``function`` maps [N, d] to [N] or [N, K], each point on its own.  The result carries no
        autograd graph: it is meant for fixed functions such as a distance to the boundary.
        """
        level = level_of(want)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            value = function(x)
            value = value[:, None] if value.dim() == 1 else value
            if level == VALUE:
                return cls(want, value.detach())
            gradient = torch.stack([_gradient(value[:, k], x) for k in range(value.shape[1])], 1)
            if level == GRADIENT:
                return cls(want, value.detach(), gradient.detach())
            rows = [torch.stack([_gradient(g[:, j], x) for j in range(x.shape[1])], 1) for g in gradient.unbind(1)]
            hessian = torch.stack(rows, 1).detach()
        jet = cls("hessian", value.detach(), gradient.detach(), hessian)
        return jet if level == HESSIAN else cls(want, *jet._parts_as(want))


def _spread(constant: Tensor | complex, like: Tensor) -> Tensor | complex:
    """A tensor [N, K], or a number, in a form that multiplies a part [N, K, ...]."""
    if not isinstance(constant, Tensor) or constant.dim() < 2:
        return constant
    return constant.reshape(constant.shape + (1,) * (like.dim() - 2))


def _index(name: str, i: int, size: int) -> int:
    """``i`` as a nonnegative index; negative ones count from the end, as in Python."""
    try:
        i = operator.index(i)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {i!r}") from None
    if not -size <= i < size:
        raise IndexError(f"{name} must be from 0 to {size - 1}, got {i}")
    return i % size


def _gradient(values: Tensor, x: Tensor) -> Tensor:
    if not values.requires_grad:
        return torch.zeros_like(x)
    grad = torch.autograd.grad(values.sum(), x, create_graph=True, allow_unused=True)[0]
    return torch.zeros_like(x) if grad is None else grad


__all__ = ["WANTS", "Jet"]
