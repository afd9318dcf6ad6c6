"""Equations u_t = ... solved by the amplitudes of fixed, or of moving, bumps (Bump-EDNN)."""

from .basis import uniform_net
from .ednn import Evolution, evolve

__all__ = ["Evolution", "evolve", "uniform_net"]
