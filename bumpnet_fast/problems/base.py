"""What a problem is: a domain, a residual written with a jet, boundary data, perhaps an exact solution.

A problem knows nothing of bumps or solvers.  To pose one, subclass :class:`Problem` (``poisson.py``
is the model to imitate); whatever solves it sees only what is declared here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..jet import Jet
from . import sampling


@dataclass(frozen=True)
class Condition:
    """A condition that is imposed by least squares, beside the residual of the equation.

    Parameters
    ----------
    name : str
        For messages.
    points : callable
        Gives the points [n, d] for a number of points per axis, ``points((32, 32))``.
    residual : callable
        ``residual(x, u)`` -> [n] or [n, E], zero where the jet ``u`` fulfils the condition at ``x``.
    want : str
        The jet that ``residual`` needs.
    weight : float
        Factor of the mean square of the residual in the loss.
    """

    name: str
    points: Callable[[tuple[int, ...]], Tensor]
    residual: Callable[[Tensor, Jet], Tensor]
    want: str = "value"
    weight: float = 1.0


@dataclass
class Problem:
    """A boundary value problem for u(x) on the box from ``lower`` to ``upper``.

    A subclass is a dataclass: its fields, with defaults, are what a user may set
    (``Poisson(a1=2)``, ``bumpnet solve poisson --set a1=2``).  It must define :meth:`residual`;
    the rest has defaults.

    Parameters
    ----------
    lower, upper : tuple of float
        Corners of the domain.

    Attributes
    ----------
    name, summary : str
        Its name in :data:`bumpnet_fast.problems.PROBLEMS`, and a line for the list.
    outputs : int
        Number of components K of u.
    want : str
        The jet that :meth:`residual` needs: "value", "gradient", "diagonal", "hessian" or "laplacian".
    linear : bool or None
        Whether the residual is affine in u; None lets the solver find out.
    default_bumps : int or tuple of int
        A size of net that solves it well.
    residual_scale : float
        Typical size of the terms of the residual, which divides it in the loss.

    Raises
    ------
    ValueError
        If a field cannot be what its default is (a number, some numbers), or the domain is empty.

    Examples
    --------
    Everything it takes to pose u' + u = 0, u(0) = 1:

    >>> @dataclass
    ... class Decay(Problem):
    ...     name, want = "decay", "gradient"
    ...     rate: float = 1.0
    ...     lower: tuple = (0.0,)
    ...     upper: tuple = (1.0,)
    ...
    ...     def residual(self, x, u):
    ...         return u.d(0) + self.rate * u.value
    ...
    ...     def distance(self, x):
    ...         return x[:, 0]
    ...
    ...     def lift(self, x):
    ...         return torch.ones_like(x[:, 0])
    ...
    >>> Decay(rate="2.5")
    Decay(lower=(0.0,), upper=(1.0,), rate=2.5)
    """

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    outputs: ClassVar[int] = 1
    want: ClassVar[str] = "laplacian"
    linear: ClassVar[bool | None] = None
    default_bumps: ClassVar[Any] = 40
    residual_scale: ClassVar[Any] = 1.0

    lower: tuple[float, ...] = (-1.0, -1.0)
    upper: tuple[float, ...] = (1.0, 1.0)

    def __post_init__(self):
        for field in fields(self):
            setattr(self, field.name, _like_default(field.name, getattr(self, field.name), field.default))
        if len(self.lower) != len(self.upper) or not all(a < b for a, b in zip(self.lower, self.upper, strict=True)):
            raise ValueError(f"lower must be below upper in every coordinate, got {self.lower} and {self.upper}")

    @classmethod
    def settings(cls) -> dict[str, Any]:
        """Names and defaults of the fields that a user may set."""
        return {field.name: field.default for field in fields(cls)}

    @property
    def domain(self) -> Tensor:
        """Lower and upper corner [2, d], float64."""
        return torch.tensor([self.lower, self.upper], dtype=torch.float64)

    # --- the equation: what a subclass writes ------------------------------------------------------

    def residual(self, x: Tensor, u: Jet) -> Tensor:
        """Residual of the equation, [N] or [N, E], from the jet of u at the points ``x`` [N, d].

        Nonlinear ones are welcome.  The residual at a point may depend on u at that point only.
        """
        raise NotImplementedError(f"{type(self).__name__} must define residual(x, u)")

    def exact(self, x: Tensor) -> Tensor | None:
        """Exact solution, [N] or [N, K], where known."""
        return None

    def boundary_values(self, x: Tensor) -> Tensor:
        """Dirichlet data, [N] or [N, K], at points of the boundary: the exact solution, or else zero."""
        exact = self.exact(x)
        return torch.zeros_like(x[:, 0]) if exact is None else exact

    # --- the boundary, exactly ("hard") or by least squares ("soft") --------------------------------

    @property
    def held_axes(self) -> tuple[int, ...]:
        """The axes whose two faces carry Dirichlet data."""
        return tuple(range(len(self.lower)))

    def distance(self, x: Tensor) -> Tensor:
        """A smooth function [N] that is zero on the boundary and positive inside; 1 at the middle of a box."""
        lo, hi = self.domain.to(x)
        factors = (x - lo) * (hi - x) / (0.5 * (hi - lo)) ** 2
        return torch.prod(factors[:, [*self.held_axes]], dim=1)

    def lift(self, x: Tensor) -> Tensor:
        """A smooth function, [N] or [N, K], with the boundary values on the boundary of the domain.

        For a box, transfinite interpolation: with P_j the linear interpolation along axis j between
        the two faces, ``1 - (1 - P_1) ... (1 - P_d)`` applied to the boundary values.
        """
        corners = self.domain.to(x)
        t = ((x - corners[0]) / (corners[1] - corners[0])).unbind(1)
        total: Tensor | float = 0.0
        choices = ((None, 0, 1) if j in self.held_axes else (None,) for j in range(len(t)))
        for faces in itertools.product(*choices):  # of each axis: free, lower face, upper face
            held = [(j, face) for j, face in enumerate(faces) if face is not None]
            if held:
                at = list(x.unbind(1))
                for j, face in held:
                    at[j] = corners[face, j].expand(len(x))
                values = self.boundary_values(torch.stack(at, 1))
                blend = math.prod(t[j] if face else 1 - t[j] for j, face in held)
                total = total - (-1) ** len(held) * blend.reshape(-1, *(1,) * (values.dim() - 1)) * values
        return total

    def compose(self, x: Tensor, want: str) -> Callable[[Jet], Jet]:
        """The map from a free jet v at ``x`` [N, d] to ``u = lift + distance * v``, exact on the boundary.

        Values can be differentiated by ``x``; beyond them, the jets of distance and lift are constants.

        >>> from bumpnet_fast.problems import get
        >>> edge, v = torch.tensor([[1.0, 0.3]]), Jet("value", torch.ones(1, 1))
        >>> get("poisson").compose(edge, "value")(v).value.abs().item() < 1e-6
        True
        """

        def jet(function: Callable[[Tensor], Tensor]) -> Jet:
            return Jet(want, function(x).reshape(len(x), -1)) if want == "value" else Jet.of(function, x, want)

        distance, lift = jet(self.distance), jet(self.lift)
        return lambda v: distance * v + lift

    def conditions(self) -> list[Condition]:
        """What the soft form imposes beside the equation: here the Dirichlet data on the faces of the box."""

        def residual(x: Tensor, u: Jet) -> Tensor:
            return u.value - self.boundary_values(x).reshape(len(x), -1)

        return [Condition("boundary", lambda counts: sampling.faces(self.domain, counts), residual)]


def choose(registry: dict[str, type[Problem]], name: str, settings: dict[str, Any]) -> Problem:
    """The problem called ``name`` in a registry, with some of its fields set; ValueError if either does not exist."""
    if name not in registry:
        raise ValueError(f"unknown problem {name!r}; there are: {', '.join(sorted(registry))}")
    known = registry[name].settings()
    for field in settings:
        if field not in known:
            raise ValueError(f"{name} has no field {field!r}; it has: {', '.join(known)}")
    return registry[name](**settings)


def _like_default(name: str, value: Any, default: Any) -> Any:
    """``value``, which may come as text from a command line, in the type of the field's default."""
    if default is MISSING or default is None or isinstance(default, bool):
        return value
    try:
        if isinstance(default, (float, int)):
            number = type(default)(value)
            if math.isfinite(number) and (isinstance(value, str) or number == value):
                return number
        elif isinstance(default, tuple):
            parts = value.strip("()[] ").split(",") if isinstance(value, str) else value
            numbers = tuple(float(part) for part in parts)
            if len(numbers) == len(default) and all(map(math.isfinite, numbers)):
                return numbers
        else:
            return type(default)(value)
    except (TypeError, ValueError):
        pass
    raise ValueError(f"{name} must be {_kind(default)}, got {value!r}")


def _kind(default: Any) -> str:
    if isinstance(default, tuple):
        return f"{len(default)} finite number{'s' * (len(default) != 1)}"
    return {float: "a finite number", int: "an integer"}.get(type(default), f"a {type(default).__name__}")
