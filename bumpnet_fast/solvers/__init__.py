"""Solvers: what trains a net to solve a problem; none knows a problem by name."""

from .adaptive import grow, prune, reach
from .ednn import Evolution, evolve
from .evolving_basis import uniform_net
from .first_order import train
from .least_squares import Progress, Solution, solve
from .marching import March, march

__all__ = [
    "Evolution",
    "March",
    "Progress",
    "Solution",
    "evolve",
    "grow",
    "march",
    "prune",
    "reach",
    "solve",
    "train",
    "uniform_net",
]
