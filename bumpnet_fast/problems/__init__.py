"""The library of problems, by name."""

from __future__ import annotations

from typing import Any

from .base import Condition, Problem, choose
from .helmholtz import Helmholtz
from .poisson import Poisson

#: Every problem that the command line knows.
PROBLEMS: dict[str, type[Problem]] = {cls.name: cls for cls in (Poisson, Helmholtz)}


def get(name: str, **settings: Any) -> Problem:
    """The problem called ``name``, with some of its fields set.

    Raises
    ------
    ValueError
        If there is no such problem or field, or if a value does not fit; the message lists what exists.

    Examples
    --------
    >>> get("helmholtz", a1=2, k="5")
    Helmholtz(lower=(-1.0, -1.0), upper=(1.0, 1.0), a1=2.0, a2=4.0, k=5.0)
    >>> get("helmholz")
    Traceback (most recent call last):
    ValueError: unknown problem 'helmholz'; there are: helmholtz, poisson
    """
    return choose(PROBLEMS, name, settings)


__all__ = ["PROBLEMS", "Condition", "Helmholtz", "Poisson", "Problem", "get"]
