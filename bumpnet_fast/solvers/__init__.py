"""Solvers: train a net to solve a problem.  No solver knows a problem by name."""

from .estimate import ErrorEstimate
from .evolution import Evolution, EvolutionEstimate, EvolutionReport, GradedEvolution, evolve, uniform_net
from .gradient import LBFGS, Adam, VarProAdam
from .levenberg_marquardt import GaussNewton, LeastSquares, LevenbergMarquardt, VarPro
from .linear import Linear
from .loop import Method, Progress, Stop, StopReason
from .marching import March, march
from .operators import OperatorSolution, learn
from .placement import drop_outside, grade
from .report import Report
from .solution import Solution
from .stationary import solve, train
from .strategies import grow, prune, reach

__all__ = [
    "LBFGS",
    "Adam",
    "ErrorEstimate",
    "Evolution",
    "EvolutionEstimate",
    "EvolutionReport",
    "GaussNewton",
    "GradedEvolution",
    "LeastSquares",
    "LevenbergMarquardt",
    "Linear",
    "March",
    "Method",
    "OperatorSolution",
    "Progress",
    "Report",
    "Solution",
    "Stop",
    "StopReason",
    "VarPro",
    "VarProAdam",
    "drop_outside",
    "evolve",
    "grade",
    "grow",
    "learn",
    "march",
    "prune",
    "reach",
    "solve",
    "train",
    "uniform_net",
]
