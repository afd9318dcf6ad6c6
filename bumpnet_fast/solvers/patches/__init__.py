"""Linear problems over a quadtree of patches, for features that are local and not along the axes."""

from .stage import Patches, PatchWork, local, suits

__all__ = ["PatchWork", "Patches", "local", "suits"]
