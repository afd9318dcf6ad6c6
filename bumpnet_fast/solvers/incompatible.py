"""Conditions that contradict the equation or one another: leave one out, and the residual vanishes.

No u solves a problem whose conditions are one too many, such as a plate that is heated and insulated on all sides.
Least squares return a compromise, whose residual does not fall with more bumps.  That could also be a feature that
smooth bumps do not reach.  What tells the two apart is whether everything else has a solution without one of the
conditions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .enrichment import Enriched, EnrichedFit, Rows, jets_of
from .residual import Block

#: Conditions that are left out, one after the other, at most.
_MOST = 12
#: The residual does not fall if more bumps leave a larger share of it than this, at the points or between them.
_STUCK = 0.7
#: It vanishes without a condition if it falls to this share of what it was with it.
_VANISHED = 0.05


def incompatible(
    names: Sequence[str], small: EnrichedFit, large: EnrichedFit, refit: Callable[[list[Block]], EnrichedFit],
    held_out: list[Block],
) -> tuple[tuple[str, ...], float]:  # fmt: skip
    """Names of the conditions without each of which all other rows hold, and how much of the rows of u = 0 is left.

    There are no names if nothing is wrong with any condition.

    Parameters
    ----------
    names : sequence of str
        Of the conditions that may be left out.
    small, large : EnrichedFit
        Of all rows, with fewer and with more added bumps.
    refit : callable
        Solves some of the rows of ``large``, with as many bumps as ``large`` has.
    held_out : list of Block
        The same kinds of rows at points that nothing is solved on.
    """
    if not (small.converged and large.converged) or len(large.rows) < 2:
        return (), math.nan
    candidates = [k for k, block in enumerate(large.rows) if k and block.name in names][:_MOST]
    if not candidates:
        return (), math.nan
    before, now = (math.hypot(*_by_block(fit.u, held_out, large.balance)) for fit in (small, large))
    if now <= _STUCK * before and large.norms[1] <= _STUCK * small.norms[1]:
        return (), math.nan
    found = []
    for k in candidates:
        fit = refit([block for j, block in enumerate(large.rows) if j != k])
        left = _by_block(fit.u, held_out, large.balance)
        others = [size for j, size in enumerate(left) if j != k]
        if math.hypot(*others) <= _VANISHED * now:
            found.append(large.rows[k].name)
    zero = large.u.moved(torch.zeros_like(large.u.amplitudes()), large.u.unknowns)
    return tuple(found), now / math.hypot(*_by_block(zero, held_out, large.balance))


def _by_block(u: Enriched, blocks: list[Block], balance: Tensor) -> list[float]:
    """Norms of the weighted rows of every block."""
    systems = u.systems(blocks)
    rows = Rows(systems[0].blocks, systems[0])
    residual = systems[0].residual(jets_of(systems, u.nets), u.unknowns) * rows.weights(balance)
    sizes = [equations * len(block.x) for block, equations in zip(rows.blocks, systems[0].equations, strict=True)]
    return [float(part.norm()) for part in residual.split(sizes)]


__all__ = ["incompatible"]
