"""Conditions beside an equation, and how a residual gets the unknowns that it takes."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..core.jet import Jet
from ..core.reference import WANTS
from ..core.types import Want


def call_residual(residual: Callable[..., Tensor], x: Tensor, u: Jet, unknowns: Mapping[str, Any]) -> Tensor:
    """``residual(x, u)`` of an equation or a condition, with those of the unknowns, by name, that it takes.

    >>> call_residual(lambda x, u, k: k * u, 1, 2.0, {"k": 3.0, "q": 4.0}), call_residual(max, 1, 2, {"k": 3.0})
    (6.0, 2)
    """
    return residual(x, u, **{name: unknowns[name] for name in taken(residual, unknowns)})


def taken(residual: Callable[..., Any], names: Sequence[str] | Mapping[str, Any]) -> list[str]:
    """Those of the names that the signature of a residual has; all if it has ``**``."""
    parameters = _arguments(residual) if names else []
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return list(names)
    there = {p.name for p in parameters}
    return [name for name in names if name in there]


def required(residual: Callable[..., Any]) -> list[str]:
    """What a residual needs beside x and u."""
    many = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in _arguments(residual) if p.default is p.empty and p.kind not in many][2:]


def _arguments(residual: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(residual).parameters.values())
    except (TypeError, ValueError):  # some builtins have no signature
        return []


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
        ``residual(x, u)`` -> [n] or [n, E], zero where the jet ``u`` fulfils the condition at ``x``.  It gets those of
        the problem's unknowns that it takes by name: ``lambda x, u, k: -k * u.d(0) - q``.
    want : str
        The jet that ``residual`` needs.
    weight : float
        Factor without units: at 1 the condition counts as much as the equation.
    period : tuple of float, optional
        If given, ``residual`` gets the jet of ``u(x) - u(x + period)`` instead of that of u.

    Raises
    ------
    TypeError, ValueError
        If points or residual are no functions, ``want`` is unknown, or the weight is not a finite number from 0 on.
    """

    name: str
    points: Callable[[tuple[int, ...]], Tensor]
    residual: Callable[..., Tensor]
    want: Want = "value"
    weight: float = 1.0
    period: tuple[float, ...] | None = None

    def __post_init__(self):
        of = f"of condition {self.name!r}"
        for what, needed in (("points", "points(counts)"), ("residual", "residual(x, u)")):
            if not callable(getattr(self, what)):
                got = type(getattr(self, what)).__name__
                raise TypeError(f"{what} {of} must be a function {needed}, got {got}")
        if self.want not in WANTS:
            raise ValueError(f"want {of} must be one of {', '.join(WANTS)}, got {self.want!r}")
        weight = self.weight
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < math.inf:
            raise ValueError(f"weight {of} must be a finite number of at least 0, got {weight!r}")
