"""The library of operators, by name; each generates its own data."""

from __future__ import annotations

from typing import Any

from .advection import Advection
from .antiderivative import Antiderivative
from .base import Equation, Operator, OperatorData
from .burgers import Burgers
from .heat import Heat

#: Every operator that the command line knows.
OPERATORS: dict[str, type[Operator]] = {cls.name: cls for cls in (Antiderivative, Advection, Heat, Burgers)}


def get_operator(name: str, **settings: Any) -> Operator:
    """The operator called ``name``, with some of its fields set.

    Raises
    ------
    ValueError
        If there is no such operator or field, or if a value does not fit; the message lists what exists.

    Examples
    --------
    >>> get_operator("advection", shift="0.1")
    Advection(length_scale=0.2, sensors=32, grid=128, shift=0.1)
    >>> get_operator("advektion")
    Traceback (most recent call last):
    ValueError: unknown operator 'advektion'; there are: advection, antiderivative, burgers, heat
    """
    if name not in OPERATORS:
        raise ValueError(f"unknown operator {name!r}; there are: {', '.join(sorted(OPERATORS))}")
    known = OPERATORS[name].settings()
    for field in settings:
        if field not in known:
            raise ValueError(f"{name} has no field {field!r}; it has: {', '.join(known)}")
    return OPERATORS[name](**settings)


__all__ = ["OPERATORS", "Advection", "Antiderivative", "Burgers", "Equation", "Heat", "Operator", "OperatorData",
           "get_operator"]  # fmt: skip
