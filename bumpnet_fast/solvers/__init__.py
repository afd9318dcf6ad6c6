"""Solvers: what trains a net to solve a problem; none knows a problem by name."""

from .evolution import Evolution, evolve, uniform_net
from .first_order import train
from .marching import March, march
from .placement import drop_outside, grade
from .stationary import Progress, Solution, solve
from .strategies import grow, prune, reach

__all__ = [
    "Evolution",
    "March",
    "Progress",
    "Solution",
    "drop_outside",
    "evolve",
    "grade",
    "grow",
    "march",
    "prune",
    "reach",
    "solve",
    "train",
    "uniform_net",
]
