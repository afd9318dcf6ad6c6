"""Operator learning: what trains a BumpDeepONet; knows no operator by name."""

from .check import METHODS
from .train import OperatorSolution, train

__all__ = ["METHODS", "OperatorSolution", "train"]
