"""A trained net with a smooth basis added to it: one linear solve, or a few Gauss-Newton steps, for all amplitudes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ..core.rows import bounded_atanh
from ..nets.bumpnet import BumpNet
from ..nets.smooth import smooth_rows
from . import arguments
from .enrichment import Enriched, fitted, in_float64
from .estimate import Places, Stage, Window
from .threads import few_threads

#: Sharpness of the added bumps, relative to the default.
_SHARPNESS = 0.3
#: Mean width of the domain in the units of a net's sizes, between which the shape of the added bumps is as usual.
_USUAL = (0.5, 8.0)
#: Bumps that are added by dimension, and in more dimensions.
_BUMPS, _MORE_BUMPS = (40, 200, 300, 400), 500
#: An enrichment after a training is kept if the held-out residual falls to this share, and is enough at that one.
_ACCEPTED, _ENOUGH = 0.4, 0.02
#: Points for every amplitude of an output.
_POINTS = 3


@dataclass
class Joined:
    """A net with further bumps, and all amplitudes solved for."""

    net: BumpNet
    unknowns: dict[str, float]
    places: Places
    loss: float
    fall: float  # of the held-out residual, to this share


@torch.no_grad()
def joined(stage: Stage, bumps: int | None, seed: int) -> Joined:
    """The net of a solution with about ``bumps`` smooth bumps added to it; see :meth:`Solution.enrich`."""
    net = in_float64(stage.net)
    outputs = net.layout.outputs
    larger = with_smooth(net, bumps or usual_bumps(net.layout.dim), seed)
    unknowns = torch.tensor([*stage.unknowns.values()], dtype=torch.float64, device=net.rows.device)
    window = Window(stage.problem, net, stage.boundary, unknowns, stage.places, seed)
    with few_threads(_POINTS * len(larger.rows) ** 2 * outputs**2):
        window.place(len(larger.rows), 1.0)
        rows = window.rows(stage.problem)
        fit = fitted(Enriched(stage.problem, stage.boundary, [larger], unknowns), rows)
        fall = 0.0 if window.held_out is None else window.held_out_fall(fit)
    named = dict(zip(stage.unknowns, fit.u.unknowns.tolist(), strict=True))
    places, at = window.places, (window.x, window.counts, window.weights)
    places = Places(*at, places.condition_weight, places.balance, places.reference_loss)
    fit.u.nets[0].trainable = larger.trainable
    return Joined(fit.u.nets[0], named, places, fit.norms[1] ** 2, fall)


def accepted(stage: Stage, bumps: int | None, seed: int) -> Joined | None:
    """The best of an enrichment and, where it leaves much of the held-out residual, one of twice as many bumps.

    None if the residual does not fall by much.
    """
    first = bumps or usual_bumps(stage.net.layout.dim)
    found = joined(stage, first, seed)
    if not found.fall < _ENOUGH:
        larger = joined(stage, 2 * first, seed)
        if larger.fall < found.fall or math.isnan(found.fall):
            found = larger
    return found if found.fall < _ACCEPTED else None


def usual_bumps(dim: int) -> int:
    """How many bumps are added if nobody says it."""
    return _BUMPS[dim - 1] if dim <= len(_BUMPS) else _MORE_BUMPS


def with_smooth(net: BumpNet, bumps: int, seed: int) -> BumpNet:
    """``net`` and a smooth basis of about ``bumps``, which is as dense along each axis, as one net.

    Raises
    ------
    ValueError
        If the units of the net's sizes are so unusual that bumps of the usual shape cannot be expressed in them.
    """
    widths, frame = arguments.widths(net.domain, net), net.frame.detach().cpu()
    if not _USUAL[0] <= math.prod(widths) ** (1 / len(widths)) <= _USUAL[1]:
        raise ValueError(f"net must have a scale such as 'auto', which makes the domain about 2 wide, got {widths}")
    spacing = (math.prod(widths) / bumps) ** (1 / len(widths))
    counts = tuple(max(3, round(width / spacing)) for width in widths)
    rows, own = smooth_rows(counts, net.domain, net.layout, _SHARPNESS, seed, scale=frame[2])
    centre = net.layout.centre
    places = own[0] + (own[1] - own[0]) * 0.5 * (1 + torch.tanh(rows[:, centre]))
    rows[:, centre] = bounded_atanh((2 * places - frame[0] - frame[1]) / (frame[1] - frame[0]))
    trainable = torch.cat([net.trainable, torch.zeros(len(rows), dtype=torch.bool, device=net.trainable.device)])
    both = torch.cat([net.rows.detach(), rows.to(net.rows)])
    return BumpNet.from_rows(both, net.frame, net.domain, net.tied, trainable=trainable, maps=net.maps)


__all__ = ["Joined", "accepted", "joined", "usual_bumps", "with_smooth"]
