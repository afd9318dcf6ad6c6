"""Solvers: what trains a net to solve a problem; none knows a problem by name."""

from .first_order import train
from .least_squares import Progress, Solution, solve

__all__ = ["Progress", "Solution", "solve", "train"]
