"""Evolution problems u_t = ..., solved over a fixed or a moving basis of bumps (Bump-EDNN)."""

from .basis import uniform_net
from .ednn import Evolution, evolve

__all__ = ["Evolution", "evolve", "uniform_net"]
