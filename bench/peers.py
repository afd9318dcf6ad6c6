"""The same training step in every way a user could write it: ``bumpnet_fast.speed`` has them, JAX is apart."""

from __future__ import annotations

from bumpnet_fast.speed import Residual, analytic, case, compiled, nested_autograd, ours, step

__all__ = ["Residual", "analytic", "case", "compiled", "nested_autograd", "ours", "step"]
