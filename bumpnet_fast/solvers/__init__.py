"""Solvers: what trains a net to solve a problem; none knows a problem by name."""

from .ednn import Evolution, evolve
from .evolving_basis import uniform_net
from .least_squares import Progress, Solution, solve

__all__ = ["Evolution", "Progress", "Solution", "evolve", "solve", "uniform_net"]
