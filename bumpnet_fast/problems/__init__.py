"""The library of problems, by name."""

from __future__ import annotations

from typing import Any

from .advection import Advection
from .allen_cahn import AllenCahn
from .base import Condition, Problem, choose
from .burgers import Burgers
from .convection_diffusion import ConvectionDiffusion
from .heat import Heat, Heat2D
from .helmholtz import Helmholtz
from .inverse_heat import InverseHeat
from .kovasznay import Kovasznay
from .lshape import LShape
from .poisson import Poisson
from .regression import Regression
from .sharp_poisson import SharpPoisson
from .wave import Wave

_LIBRARY = (
    Poisson,
    SharpPoisson,
    LShape,
    Helmholtz,
    ConvectionDiffusion,
    Regression,
    Heat,
    Heat2D,
    Advection,
    Wave,
    Burgers,
    AllenCahn,
    Kovasznay,
    InverseHeat,
)

#: Every problem that the command line knows.
PROBLEMS: dict[str, type[Problem]] = {cls.name: cls for cls in _LIBRARY}


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
    ValueError: unknown problem 'helmholz'; there are: ...
    """
    return choose(PROBLEMS, name, settings)


__all__ = ["PROBLEMS", "Condition", "Problem", "get", *(cls.__name__ for cls in _LIBRARY)]
