"""Solvers: what trains a net to solve a problem; none knows a problem by name."""

from .least_squares import Progress, Solution, solve
from .marching import March, march

__all__ = ["March", "Progress", "Solution", "march", "solve"]
