"""Rows that count alike: every equation and every condition is weighted by the norm of its own rows over the bumps.

Equations and conditions stand in one sum of squares, but each has its own units: a flux beside a temperature, a second
derivative by micrometres beside a value.  The norm of the rows of an equation over the bumps has the same units as its
residual, so its inverse makes them comparable.  A user's weights are then plain factors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.nn.functional import one_hot

from ..core.ranks import ALONE
from ..nets.bumpnet import BumpNet
from ..problems import sampling
from . import arguments
from .residual import Block, System

#: Bumps, at most, over which the norms are taken.
_BUMPS_MOST = 1000
#: Entries of a matrix that is computed at once.
_ENTRIES = 4_000_000
#: Square of the shortest column, relative to the longest of its output, that a condition is measured by.
_SHORTEST = 1e-12
#: A term whose logarithm of squares is so much less than expected does not count.
_MUCH_LESS = 10.0
#: Passes that compare equations by sums of squares.
_PASSES = 5


@torch.no_grad()
def balancing(blocks: list[Block], net: BumpNet, unknowns: Mapping[str, float], ranks: Any = ALONE) -> list[Tensor]:
    """Factors that make all rows of a problem count alike, whatever the units of x, of u and of the equations.

    The norms are over about as many bumps as the net has, on a regular grid.  So the factors, and with them the loss,
    are those of the problem, and not of what a net has learned.

    Parameters
    ----------
    blocks : list of Block
        The first one is the equation, the others are conditions.  None of them has factors yet.
    net : BumpNet
        Nonlinear rows are linearised at its u.
    unknowns : mapping of str to float
        Of the equation, likewise.
    ranks : of :mod:`bumpnet_fast.core.ranks`
        Ranks with further rows.

    Returns
    -------
    list of Tensor
        Of every block, the factors [E] of its equations; 1 for the first equation, so that the loss keeps its units.
    """
    rows, device = net.rows.detach().double(), net.rows.device
    system = System(blocks, net, unknowns, ranks)
    if system.equations[0] == 1 and ranks.every(len(blocks) == 1):
        return [torch.ones(1, dtype=torch.float64, device=device)]
    layout, number = net.layout, min(len(rows), _BUMPS_MOST)
    counts = sampling.spread(number, arguments.widths(net.domain, net))
    regular = BumpNet(layout.dim, counts, net.domain, layout.outputs, dtype=torch.float64, device=device)
    basis = System(blocks, regular, unknowns, ranks)
    _, coefficients = system.linearise(system.jets(rows), system.guesses)
    each = max(1, _ENTRIES // max(1, system.size * layout.outputs))
    parts = [squares(basis.design(part, coefficients)[0], basis) for part in regular.rows.detach().split(each)]
    return [*factors_of(basis, torch.cat(parts, 1)).split(system.equations)]


def factors_of(system: System, by_column: Tensor) -> Tensor:
    """The factors [G] of all equations and conditions of a system, from the :func:`squares` [G, n] of its rows."""
    data = squares(system.residual()[None], system)[:, 0]
    return balanced(by_column, data, system.equations[0], system.layout.outputs, system.ranks)


def squares(A: Tensor, system: System) -> Tensor:
    """Sums [G, n] of the squares of the rows A^T [n, R] of a system, for each equation and condition, unweighted."""
    pairs = [(b.weight, len(b.x)) for b, e in zip(system.blocks, system.equations, strict=True) for _ in range(e)]
    parts = A.split([n for _, n in pairs], 1)
    return torch.stack([part.square().sum(1) / weight for part, (weight, _) in zip(parts, pairs, strict=True)])


def balanced(by_column: Tensor, data: Tensor, equations: int, outputs: int, ranks: Any = ALONE) -> Tensor:
    """Factors [G] of groups of rows, from the sums of their squares over the columns.

    The sums of squares of equation g over the bumps of output k are, in the mean, ``s_g u_k``, where s depends on the
    units of the equation and u on those of the output: s is the size of the equation.  A condition is compared with the
    equations, over the bumps that it depends on.

    Parameters
    ----------
    by_column : Tensor
        [G, M K]: the equations of the problem first.  Their sums over all ranks count; a condition belongs to one rank.
    data : Tensor
        [G], sums of squares of the rows at u = 0.
    equations : int
        Number of equations.
    outputs : int
        K.
    ranks : of :mod:`bumpnet_fast.core.ranks`
        That share the points of the equations.
    """
    S = by_column.unflatten(1, (-1, outputs))
    own, others = ranks.total(S[:equations]), S[equations:]
    data = torch.cat([ranks.total(data[:equations]), data[equations:]])
    sizes = _sizes(own.sum(1), data[:equations])
    columns = (own / sizes[:, None, None]).sum(0)
    columns = torch.where(columns.amax(0) > 0, columns, ranks.total(others.sum(0)))  # an output in conditions only
    columns = columns.clamp_min(_SHORTEST * columns.amax(0)).clamp_min(1e-300)
    number = len(columns) * (others.sum(1) > 0).sum(1)
    size = (others / columns).sum((1, 2)) / number.clamp_min(1)
    sizes = torch.cat([sizes, torch.where(number > 0, size, _or_one(data[equations:]))])
    sizes = sizes * _apart(S.sum(1) > 0, own.sum(1) > 0, data / sizes, ranks)
    return (sizes[0] / sizes).sqrt()


def _sizes(by_output: Tensor, data: Tensor) -> Tensor:
    """The sizes s [E] of equations, from their squares [E, K] by output; from their data where they do not depend on u.

    Where a term of an equation is much smaller than expected, as the velocity in front of a derivative at rest, the
    other terms tell.
    """
    g, k = (by_output > 0).nonzero(as_tuple=True)
    number, kept = len(by_output), torch.ones(len(g), dtype=torch.bool, device=g.device)
    design = torch.cat([one_hot(g, number), one_hot(k, by_output.shape[1])], 1).to(by_output)
    wanted = by_output[g, k].log()
    solved = wanted.new_zeros(design.shape[1])
    for _ in range(len(g)):
        solved = torch.linalg.pinv(design[kept]) @ wanted[kept]
        less = torch.where(kept, design @ solved - wanted, 0.0)
        if float(less.max()) < _MUCH_LESS:
            break
        kept[less.argmax()] = False
    there, of_outputs = design[kept, :number].sum(0) > 0, solved[number:].exp()
    sizes = solved[:number].exp()
    for _ in range(_PASSES):  # large terms count more than in a mean of logarithms
        of_outputs = _or_one((by_output / sizes[:, None]).sum(0))
        sizes = torch.where(there, (by_output / of_outputs).sum(1), sizes)
    return torch.where(there, sizes, _or_one(data))


def _apart(touched: Tensor, by_equations: Tensor, data: Tensor, ranks: Any) -> Tensor:
    """Factors [G] of the sizes of groups, so that parts of a system with no output in common count alike at u = 0.

    Their rows cannot be compared, but their data can: ``data`` [G] are those relative to the sizes.
    """
    together = (by_equations.double().T @ by_equations.double()).cpu().numpy()
    number, part_of_output = connected_components(together, directed=False)
    if number == 1:
        return torch.ones_like(data)
    part = torch.as_tensor(part_of_output, dtype=torch.long, device=data.device)[touched.double().argmax(1)]
    equations = len(by_equations)
    by_part = data.new_zeros(2, number)
    by_part[0].index_add_(0, part[:equations], data[:equations])
    by_part[1].index_add_(0, part[equations:], data[equations:])
    total = _or_one(by_part[0] + ranks.total(by_part[1]))
    return (total / total[part[0]])[part]


def _or_one(t: Tensor) -> Tensor:
    return torch.where(t > 0, t, torch.ones_like(t))


__all__ = ["balanced", "balancing", "factors_of", "squares"]
