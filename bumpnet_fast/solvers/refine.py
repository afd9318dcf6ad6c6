"""More collocation points where the residual is large: between distant points it can be anything."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..core.jet import Jet
from ..core.rows import orientation
from ..nets.bumpnet import BumpNet
from ..nets.patches import PatchNet
from ..problems import sampling
from ..problems.base import Problem, call_residual
from .arguments import widths
from .balance import balancing
from .residual import Block, Coefficients, blocks, bumps_of, linearise

#: Points at which sources and coefficients are looked at for peaks.
PEAKED = 32768
#: Further rounds, at most, if nothing is said, and points at which it is seen whether they are needed.
ROUNDS, BETWEEN = 2, 2048
#: A residual between the points that is so many times that at the points shows that they miss something.
MISSED = 10.0
#: Candidates per chosen point: half evenly spread, half near the edges of the bumps.
_CANDIDATES = 20
#: Candidates of bumps fill their boxes, enlarged by this factor.
_ENLARGED = 1.3
#: Share of the points that is placed where the residual is not large.
_EVEN = 0.1
#: Points that tell how the equations of a system compare.
_BALANCED = 256
#: Terms as large as the largest source halve the weight of a point; without sources, this share of their mean does.
_USUAL = 0.5


def refined(
    problem: Problem, net: BumpNet, boundary: str, unknowns: dict, x: Tensor, number: int, seed: int,
    balance: Tensor | None = None,
):  # fmt: skip
    """``x`` [N, d] with ``number`` more points where the residual is large, and weights of their rows.

    Candidates are spread over the domain and over the boxes of the bumps: where these are small, the solution may have
    features that an even spread would miss.  A point's weight is less than 1 where the terms of the equation are larger
    than usual, as in a layer: errors there are large, but add up over a short distance only.

    Returns
    -------
    points : Tensor
        [N + number, d], the first N as given.
    weights : Tensor
        [N + number].
    """
    generator = torch.Generator().manual_seed(seed)
    there = candidates(problem, net, number * _CANDIDATES, generator, seed).to(x)
    both = torch.cat([x, there])
    residual, weights, _ = _residual_and_weights(problem, net, boundary, unknowns, both, len(x), balance)
    size = (residual * weights)[len(x) :].cpu()
    density = size.square()
    if not bool(density.isfinite().all()):  # the square of a large residual overflows
        size = size.abs().nan_to_num(0.0)
        density = (size / (size.max() or 1.0)).square()
    density = density / (density.sum() or 1.0) + _EVEN / len(density)
    chosen = torch.multinomial(density, min(number, len(density)), generator=generator).to(x.device)
    return torch.cat([x, there[chosen]]), torch.cat([weights[: len(x)], weights[len(x) :][chosen]])


def held_out_loss(problem: Problem, net: BumpNet, boundary: str, unknowns: dict, number: int, seed: int) -> float:
    """Mean square of the weighted residual at about ``number`` new points, evenly spread and near the bumps.

    The training loss misses what lies between its points, such as a bump too thin to meet any of them.
    """
    x = candidates(problem, net, number, torch.Generator().manual_seed(seed), seed).to(net.frame.device)
    with torch.no_grad():
        counts = (2,) * net.layout.dim
        few = blocks(problem, boundary, counts, x[:_BALANCED], 1.0)[:1]
        (balance,) = balancing(few, net, unknowns)
        residual, weights, _ = _residual_and_weights(problem, net, boundary, unknowns, x, len(x) // 2, balance)
    return float((residual * weights).square().mean())


def between(
    problem: Problem, net: BumpNet, boundary: str, unknowns: dict, x: Tensor, number: int, seed: int, balance: Tensor
) -> tuple[float, float, float]:
    """Root mean square of the weighted residual at ``x`` [N, d] and between these points, and the size of its terms.

    Between the points means at about ``number`` others: the larger of the mean squares over an even spread, and over
    the boxes of the bumps by their volumes.  ``balance`` [E] are the factors of the equations.
    """
    half, layout = number // 2, net.layout
    spread = sampling.interior(problem.domain, (half,) + (1,) * (layout.dim - 1), "sobol", seed)
    near = _near_bumps(net, half, torch.Generator().manual_seed(seed))
    sides = torch.exp(net.rows.detach().cpu().double()[:, layout.size])
    volumes = (_ENLARGED * sides).prod(1) / math.prod(widths(problem.domain, net))
    shares = (volumes / max(1.0, float(volumes.sum()))).repeat_interleave(len(near) // len(volumes))
    inside = sampling.within(problem.domain, near)
    spread, near, shares = spread[problem.inside(spread)], near[inside], shares[inside] * len(volumes) / len(near)
    inside = problem.inside(near)
    near, shares = near[inside].to(x), shares[inside].to(x)
    with torch.no_grad():
        at = torch.cat([x, spread.to(x), near])
        even = len(x) + len(spread)
        residual, weights, usual = _residual_and_weights(problem, net, boundary, unknowns, at, even, balance)
    own, evenly, nearby = (residual * weights).square().split([len(x), len(spread), len(near)])
    others = max(float(evenly.mean()), float(shares @ nearby))
    return math.sqrt(float(own.mean())), math.sqrt(others), usual


def held_out_share(problem: Problem, net: BumpNet, boundary: str, unknowns: dict, number: int, seed: int) -> float:
    """Root mean square of the residual at the points of :func:`held_out_loss`, relative to that of its terms."""
    x = candidates(problem, net, number, torch.Generator().manual_seed(seed), seed).to(net.frame.device)
    with torch.no_grad():
        residual, terms = residual_and_terms(problem, bumps_of(net, problem.want), boundary, unknowns, x)
    return float(residual.norm() / (terms.norm() + residual.norm()).clamp_min(1e-300))


def candidates(problem: Problem, net: BumpNet, number: int, generator: torch.Generator, seed: int) -> Tensor:
    """Points inside the domain, half of them spread evenly and half near the bumps."""
    half = number // 2
    spread = sampling.interior(problem.domain, (half,) + (1,) * (net.layout.dim - 1), "sobol", seed)
    near = _near_bumps(net, half, generator)
    x = torch.cat([spread, near[sampling.within(problem.domain, near)]])
    return x[problem.inside(x)]


def where_data_peak(
    problem: Problem, net: BumpNet, unknowns: Mapping[str, float], most: int, number: int, seed: int
) -> Tensor:
    """Up to ``number`` points [n, d] where sources or coefficients differ much from what is usual.

    A narrow source, which no point of a usual set may meet, is found in this way: the equation is looked at for
    constant jets, which costs little, at ``most`` points.
    """
    generator = torch.Generator().manual_seed(seed)
    x = sampling.interior(problem.domain, (most,) + (1,) * (net.layout.dim - 1), "sobol", seed + 3)
    x = x[problem.inside(x)].to(net.frame.device)
    named = {name: x.new_tensor(value) for name, value in unknowns.items()}
    one = bumps_of(net, problem.want)(x[:1])
    density = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for constant in (0.0, 1.0):
        jet = one.map(lambda part, c=constant: part.new_full((len(x), *part.shape[1:]), c))
        rows = call_residual(problem.residual, x, jet, named).reshape(len(x), -1).double().nan_to_num(0.0)
        off = (rows - rows.median(0).values).abs()
        density += (off / off.amax(0).clamp_min(1e-300)).square().sum(1)
    density = density.cpu()
    number = min(number, int((density > 1e-6 * density.max()).sum()))
    return x[torch.multinomial(density, number, generator=generator).to(x.device)] if number else x[:0]


def _residual_and_weights(
    problem: Problem, net: BumpNet, boundary: str, unknowns: dict, x: Tensor, even: int, balance: Tensor | None
):
    """Length [n] of the residual at ``x``, weights [n] from the size of its terms, and their mean at the first points.

    The first ``even`` points are spread evenly: those near bumps crowd in layers, where terms are large.
    """
    bumps = bumps_of(net, problem.want)
    residual, terms = residual_and_terms(problem, bumps, boundary, unknowns, x, balance)
    usual = terms[:even].mean().clamp_min(1e-300)
    zero = bumps(x[:1]).map(lambda part: part.new_zeros(len(x), *part.shape[1:]))
    source = torch.linalg.vector_norm(_equation(problem, x, balance).residual((zero,), unknowns), dim=0).max()
    large = torch.where((source > 0) & source.isfinite(), source, _USUAL * usual)
    return residual, 1 / (1 + terms / large), float(usual.detach())


def _equation(problem: Problem, x: Tensor, balance: Tensor | None) -> Block:
    """The rows of the equation at ``x`` as a function of u."""
    residual = lambda u, **k: call_residual(problem.residual, x, u, k)  # noqa: E731
    return Block(problem.name, x, problem.want, residual, 1.0, balance=balance)


def residual_and_terms(
    problem: Problem, bumps: Callable[[Tensor], Jet], boundary: str, unknowns: dict, x: Tensor,
    balance: Tensor | None = None,
):  # fmt: skip
    """Length [n] of the residual at ``x`` [n, d], and the sum [n] of the sizes of its terms.

    ``bumps`` gives the jet of the net, which is u but for the boundary, at points.  ``balance`` [E] are the factors of
    the equations.
    """
    u = problem.extend(bumps, x, problem.want) if boundary == "hard" else bumps(x)
    residual, by_equation = linearise(_equation(problem, x, balance), (u,), unknowns)
    terms = x.new_zeros(len(x))
    for (by_output,) in by_equation:
        add_terms(terms, by_output, u)
    return torch.linalg.vector_norm(residual, dim=0), terms


def add_terms(total: Tensor, coefficients: list[Coefficients], u: Jet) -> None:
    """Add to ``total`` [n] the absolute values of the terms of one equation, given by output, at the jet ``u``."""
    n = len(total)
    for k, by_part in enumerate(coefficients):
        for c, part in zip(by_part, u.output(k).parts(), strict=True):
            if c is not None:
                total += (c.flatten(1) * part.reshape(n, -1)).abs().sum(1) if c.dim() > 1 else (c * part[:, 0]).abs()


def _near_bumps(net: BumpNet, number: int, generator: torch.Generator) -> Tensor:
    """About ``number`` points [n, d] spread evenly over the bumps' boxes, the same number in each."""
    if isinstance(net, PatchNet):
        return net.spread(max(1, number // len(net.leaves)), generator)
    layout, frame = net.layout, net.frame.cpu().double()
    rows = net.rows.detach().cpu().double()
    d, each = layout.dim, max(1, number // len(rows))
    unit = _ENLARGED * (torch.rand(len(rows), each, d, dtype=torch.float64, generator=generator) - 0.5)
    _, Q, _ = orientation(rows[:, layout.skew], d)
    offset = (unit * torch.exp(rows[:, None, layout.size])) @ Q / frame[2]
    centre = frame[0] + (frame[1] - frame[0]) * 0.5 * (1 + torch.tanh(rows[:, layout.centre]))
    x = (centre[:, None] + offset).reshape(-1, d)
    return x if net.maps is None else net.maps.inverse(x)
