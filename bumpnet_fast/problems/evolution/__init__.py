"""The library of evolution problems, by name."""

from __future__ import annotations

from typing import Any

from ..base import choose
from .advection import Advection
from .allen_cahn import AllenCahn
from .base import EvolutionProblem
from .burgers import Burgers
from .heat import Heat, Heat2D

#: Every evolution problem that the command line knows.
EVOLUTIONS: dict[str, type[EvolutionProblem]] = {cls.name: cls for cls in (Heat, Heat2D, Advection, Burgers, AllenCahn)}


def get_evolution(name: str, **settings: Any) -> EvolutionProblem:
    """The evolution problem called ``name``, with some of its fields set.

    Raises
    ------
    ValueError
        If there is no such problem or field, or if a value does not fit; the message lists what exists.

    Examples
    --------
    >>> get_evolution("burgers", nu="0.05")
    Burgers(lower=(-1.0,), upper=(1.0,), final_time=1.0, nu=0.05)
    >>> get_evolution("burger")
    Traceback (most recent call last):
    ValueError: unknown problem 'burger'; there are: advection, allen-cahn, burgers, heat, heat2d
    """
    return choose(EVOLUTIONS, name, settings)


__all__ = ["EVOLUTIONS", "Advection", "AllenCahn", "Burgers", "EvolutionProblem", "Heat", "Heat2D", "get_evolution"]
