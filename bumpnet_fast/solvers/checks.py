"""Whether a net can carry the solution of a problem: of one kind for what is solved and for what evolves."""

from __future__ import annotations

from typing import Any

import torch

from ..core.reference import WANTS
from ..nets.bumpnet import BumpNet


def check_net(problem: Any, net: BumpNet) -> None:
    """Raise ValueError unless dimension, outputs and domain are the problem's, ``want`` is one, and rows are finite."""
    domain, name = problem.domain, problem.name or type(problem).__name__
    for what, own, wanted in (
        ("dimensions", net.layout.dim, domain.shape[1]),
        ("outputs", net.layout.outputs, problem.outputs),
    ):
        if own != wanted:
            raise ValueError(f"net has {own} {what} and problem {name!r} has {wanted}")
    own, width = net.domain.cpu().double(), domain[1] - domain[0]
    if not bool(((own - domain).abs() <= 1e-5 * width).all()):
        raise ValueError(f"net is for the domain {own.tolist()} and problem {name!r} is posed on {domain.tolist()}")
    if not bool(torch.isfinite(net.rows).all()):
        raise ValueError("net has rows that are not finite")
    if problem.want not in WANTS:
        raise ValueError(f"want of problem {name!r} must be one of {', '.join(WANTS)}, got {problem.want!r}")


__all__ = ["check_net"]
