"""Where bumps start: closer together where the solution is steep, and none outside the domain."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core import checking
from ..core.jet import Jet
from ..core.maps import refuse_maps
from ..core.rows import bounded_atanh
from ..nets.adapt import keep_bumps
from ..nets.bumpnet import BumpNet
from ..problems.base import Problem
from ..problems.sampling import lattice
from .arguments import check_problem, inside

#: Points along the graded axis, and along each of the others.
_ALONG, _ACROSS = 2001, 5
#: Slopes up to this size are rounding.
_FLAT = 1e-9
#: A bump is outside if it nowhere in the domain exceeds this share of its peak.
_OUTSIDE = 0.01


def drop_outside(net: BumpNet, problem: Problem) -> int:
    """Remove, in place, the bumps that are practically zero in the domain of the problem.

    Their columns of the least-squares system are practically zero.  A bump outside whose tail reaches into the domain
    stays: training can move it inside.

    Returns
    -------
    Number of bumps removed.
        Number of bumps taken out.

    Examples
    --------
    >>> from bumpnet_fast import problems
    >>> problem = problems.get("lshape")
    >>> net = BumpNet(2, (16, 16), problem.domain)
    >>> drop_outside(net, problem)
    9
    """
    check_problem(problem)
    x = lattice(problem.domain)
    held = inside(problem, x)
    if bool(held.all()):
        return 0
    with torch.no_grad():
        peaks = net.basis(net.centres).value.diagonal()
        seen = net.basis(x[held].to(net.rows)).value.amax(0) >= _OUTSIDE * peaks
    return keep_bumps(net, seen)


def grade(net: BumpNet, problem: Problem, share: float) -> BumpNet:
    """Move the bumps of a uniform grid, in place, along each axis but time.

    ``share`` of them move to where the outline of the problem, or else its lift, is steep.  The others stay evenly
    spread.  Side lengths and sharpness follow the spacing.  Bumps centred beyond an end of the domain stay beyond it,
    with the spacing of that end, and inside the box of the centres.

    Raises
    ------
    ValueError
        If ``share`` is not at least 0 and less than 1.
    """
    if not isinstance(share, (int, float)) or not 0 <= share < 1:
        raise ValueError(f"graded must be at least 0 and less than 1, got {share!r}")
    check_problem(problem)
    if not share:
        return net
    refuse_maps(net, "graded")
    layout, frame = net.layout, net.frame
    with torch.no_grad():
        for axis in range(layout.dim):
            density = None if axis == problem.time else _density(problem, axis, share)
            if density is None:
                continue
            lo, hi = (float(end[axis]) for end in net.domain)
            box_lo, box_hi = (float(end) for end in frame[:2, axis])
            ends = (lo - box_lo) / (hi - lo), (box_hi - hi) / (hi - lo)
            centres = net.centres[:, axis].double()
            moved, stretch = _warp((centres - lo) / (hi - lo), density, ends)
            unit = (2 * (lo + (hi - lo) * moved - box_lo) / (box_hi - box_lo) - 1).to(net.rows)
            stretch = stretch.to(net.rows)
            net.rows[:, axis] = bounded_atanh(unit)
            net.rows[:, layout.size][:, axis] += torch.log(stretch)
            net.rows[:, layout.sharpness] -= 0.5 * torch.log(stretch)
    return net


def _density(problem: Problem, axis: int, share: float) -> Tensor | None:
    """Bumps per length at equal steps along the unit axis, 1 on average; None if nothing is steep."""
    lo, hi = problem.domain
    ticks = [(torch.arange(_ACROSS, dtype=torch.float64) + 0.5) / _ACROSS for _ in lo]
    ticks[axis] = torch.linspace(0, 1, _ALONG, dtype=torch.float64)
    if problem.time is not None:
        ticks[problem.time] = torch.zeros(1, dtype=torch.float64)
    x = lo + (hi - lo) * torch.cartesian_prod(*ticks).reshape(-1, len(lo))
    slopes = _outline(problem, x).d(axis).abs().sum(1)
    if not bool(slopes.isfinite().all()):
        raise ValueError(f"the outline of problem {problem.name!r} must have finite slopes, got one that is not")
    profile = slopes.reshape([len(t) for t in ticks]).movedim(axis, 0).reshape(_ALONG, -1).mean(1)
    mean = float(profile.mean())
    return 1 - share + share * profile / mean if mean > _FLAT else None


def _outline(problem: Problem, x: Tensor) -> Jet:
    """Jet at ``x`` [N, d] of a function that is steep where the solution is."""
    if (given := problem.outline(x)) is not None:
        checking.check_real(checking.called("outline", problem), given, f"[{len(x)}] or [{len(x)}, {problem.outputs}]")
        return Jet.of(problem.outline, x, "gradient")
    none = Jet("gradient", x.new_zeros(len(x), problem.outputs), x.new_zeros(len(x), problem.outputs, x.shape[1]))
    return problem.compose(x, "gradient")(*[none] * len(problem.shifts()))


def _warp(unit: Tensor, density: Tensor, ends: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """New places of points of a uniform grid on [0, 1], and the growth of the spacing there; float64.

    ``ends`` say how far points may be below 0 and above 1.  Such points stay on their sides and in their order.
    """
    steps = torch.cumsum(0.5 * (density[1:] + density[:-1]), 0)
    share = torch.cat([steps.new_zeros(1), steps / steps[-1]]).to(unit)
    cells, tiny = len(share) - 1, torch.finfo(unit.dtype).tiny
    right = torch.searchsorted(share, unit.contiguous()).clamp(1, cells)
    left = share[right - 1]
    width = (share[right] - left).clamp_min(tiny)  # a share near 1 leaves cells empty
    moved, stretch = (right - 1 + (unit - left) / width) / cells, 1 / (width * cells)
    for beyond, cell, reach, end, sign in ((-unit, 0, ends[0], 0.0, -1), (unit - 1, cells - 1, ends[1], 1.0, 1)):
        growth, outside = 1 / (float(share[cell + 1] - share[cell]) * cells or tiny), beyond > 0
        if float(beyond.max()) * growth > reach:  # else the spacing at the end goes on
            there, spacing = _beyond(beyond.clamp_min(0), growth, reach)
            moved = torch.where(outside, end + sign * there, moved)
            stretch = torch.where(outside, spacing, stretch)
    return moved, stretch


def _beyond(distance: Tensor, slope: float, reach: float) -> tuple[Tensor, Tensor]:
    """New distances beyond an end of points up to ``reach`` beyond it, and the growth of the spacing there.

    At the end the growth is ``slope``.  If that exceeds 1 it decreases outwards, so that no point exceeds ``reach``.
    """
    excess = max(slope - 1, 0.0) / reach if reach > 0 else 0.0
    scale = 1 + excess * distance
    return slope * distance / scale, slope / scale**2
