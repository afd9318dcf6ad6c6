"""Jet: a function's value with its first and second derivatives, and the calculus on it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .reference import DIAGONAL, GRADIENT, HESSIAN, VALUE, WANTS, level_of


@dataclass(frozen=True, eq=False)
class Jet:
    """Value and derivatives of a function with K outputs at N points in d dimensions.

    Jets add and multiply like the functions they belong to (product rule), which is how exact
    boundary conditions are built: ``u = lift + distance * net``.

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

    Examples
    --------
    >>> x = torch.tensor([[1.0, 2.0]])
    >>> a = Jet.of(lambda x: x[:, 0] * x[:, 1], x, "hessian")
    >>> a.value.item(), a.gradient[0, 0].tolist(), a.hessian[0, 0, 0, 1].item()
    (2.0, [2.0, 1.0], 1.0)
    >>> (a * a).laplacian.item()
    10.0
    """

    want: str
    value: Tensor
    gradient: Tensor | None = None
    second: Tensor | None = None

    def _missing(self, name: str):
        return AttributeError(f"this jet was computed with want={self.want!r} and has no {name}; ask for it by want=")

    @property
    def hessian(self) -> Tensor:
        """Full Hessian [N, K, d, d]."""
        if self.want != "hessian":
            raise self._missing("hessian")
        return self.second

    @property
    def diagonal(self) -> Tensor:
        """Unmixed second derivatives [N, K, d]."""
        if self.want == "hessian":
            return self.second.diagonal(dim1=-2, dim2=-1)
        if self.want != "diagonal":
            raise self._missing("diagonal")
        return self.second

    @property
    def laplacian(self) -> Tensor:
        """Sum of the unmixed second derivatives [N, K]."""
        return self.second if self.want == "laplacian" else self.diagonal.sum(-1)

    def d(self, i: int) -> Tensor:
        """First derivative by coordinate ``i``: [N, K]; IndexError if there is no such coordinate."""
        if self.gradient is None:
            raise self._missing("gradient")
        return self.gradient[..., _index("coordinate", i, self.gradient.shape[-1])]

    def dd(self, i: int, j: int | None = None) -> Tensor:
        """Second derivative by coordinates ``i`` and ``j`` (default ``i`` twice): [N, K]; as for :meth:`d`."""
        second = self.diagonal if j is None or j == i else self.hessian
        i, j = (_index("coordinate", axis, second.shape[-1]) for axis in (i, i if j is None else j))
        return second[..., i] if second.dim() == 3 else second[..., i, j]

    def output(self, k: int) -> Jet:
        """The jet of output ``k`` alone; IndexError if there is no such output."""
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
        return Jet(self.want, *(None if t is None else f(t) for t in (self.value, self.gradient, self.second)))

    def __neg__(self) -> Jet:
        return self.map(torch.neg)

    def __add__(self, other: Jet) -> Jet:
        if not isinstance(other, Jet):
            return NotImplemented
        parts = zip(self.parts(), other._parts_as(self.want), strict=True)
        return Jet(self.want, *(None if a is None else a + b for a, b in parts))

    def __sub__(self, other: Jet) -> Jet:
        return self + (-other) if isinstance(other, Jet) else NotImplemented

    def __mul__(self, other: Jet | Tensor | float) -> Jet:
        """Product rule with a jet; a number or a tensor [N, 1] without derivatives scales."""
        if isinstance(other, Tensor):
            return self.map(lambda t: t * other.reshape(other.shape + (1,) * (t.dim() - other.dim())))
        if not isinstance(other, Jet):
            return self.map(lambda t: t * other)
        a, a1, a2 = self.parts()
        b, b1, b2 = other._parts_as(self.want)
        gradient = second = None
        if a1 is not None:
            gradient = a[..., None] * b1 + b[..., None] * a1
        if a2 is not None:
            if self.want == "hessian":
                cross = a1[..., :, None] * b1[..., None, :]
                second = a[..., None, None] * b2 + b[..., None, None] * a2 + cross + cross.transpose(-1, -2)
            elif self.want == "diagonal":
                second = a[..., None] * b2 + b[..., None] * a2 + 2 * a1 * b1
            else:
                second = a * b2 + b * a2 + 2 * (a1 * b1).sum(-1)
        return Jet(self.want, a * b, gradient, second)

    __rmul__ = __mul__

    def parts(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Value, gradient and second derivatives, None for those that are not there."""
        return self.value, self.gradient, self.second

    def _parts_as(self, want: str) -> tuple[Tensor, Tensor | None, Tensor | None]:
        if want == self.want:
            return self.parts()
        level = WANTS.index(want)
        second = getattr(self, want) if level >= DIAGONAL else None
        if level >= GRADIENT and self.gradient is None:
            raise self._missing("gradient")
        return self.value, self.gradient if level >= GRADIENT else None, second

    @classmethod
    def of(cls, function: Callable[[Tensor], Tensor], x: Tensor, want: str) -> Jet:
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


def _index(name: str, i: int, size: int) -> int:
    """``i`` as a nonnegative index; negative ones count from the end, as in Python."""
    i = operator.index(i)
    if not -size <= i < size:
        raise IndexError(f"{name} must be from 0 to {size - 1}, got {i}")
    return i % size


def _gradient(values: Tensor, x: Tensor) -> Tensor:
    if not values.requires_grad:
        return torch.zeros_like(x)
    grad = torch.autograd.grad(values.sum(), x, create_graph=True, allow_unused=True)[0]
    return torch.zeros_like(x) if grad is None else grad


__all__ = ["WANTS", "Jet"]
