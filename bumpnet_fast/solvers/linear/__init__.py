"""Linear solves: amplitudes over bases of smooth bumps that are chosen and not trained."""

from .solved import solved

__all__ = ["solved"]
