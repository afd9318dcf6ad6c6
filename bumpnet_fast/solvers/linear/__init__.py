"""Linear solves: amplitudes over bases of smooth bumps that are chosen and not trained."""

from .method import POINTS, Linear
from .solved import solved

__all__ = ["POINTS", "Linear", "solved"]
