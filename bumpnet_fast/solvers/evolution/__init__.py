"""Evolution problems u_t = ..., solved over a fixed or a moving basis of bumps (Bump-EDNN)."""

from .basis import uniform_net
from .ednn import Evolution, evolve
from .estimate import EvolutionEstimate
from .graded_result import GradedEvolution
from .report import EvolutionReport

__all__ = ["Evolution", "EvolutionEstimate", "EvolutionReport", "GradedEvolution", "evolve", "uniform_net"]
