"""Operator learning: trains a BumpDeepONet.  It knows no operator by name."""

from .check import METHODS
from .learn import OperatorSolution, learn, new_net

#: The earlier name.
train = learn

__all__ = ["METHODS", "OperatorSolution", "learn", "new_net", "train"]
