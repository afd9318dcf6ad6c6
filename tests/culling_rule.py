"""The rule by which pairs of tiles and bumps are left out, in plain PyTorch: csrc/cull.h and kernels/cull.py share it.

Over the box of a tile, with centre x0 and half sides r, B_k = V_k . (x - c) is within V_k . (x0 - c) and plus or minus
sum_i |V_ki| r_i.  g_k = tanh(A_k + B_k) + tanh(A_k - B_k) falls with |B_k|, so S = sum_k g_k - (2d - 1) has bounds.  A
bump is out of the tile if s S < -margin all over it, and 1 if s S > margin.  The margin is 17 in float32 and 37 in
float64, and more by log(|h| (s |V|)^order) where that is above the mean over the bumps of the same and, where a bump
is small at its centre, the logarithm s S of its height there.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import torch

from bumpnet_fast.core.rows import pack

_SOURCE = (Path(__file__).parents[1] / "csrc" / "cull.h").read_text(encoding="utf-8")


def _number(name: str) -> float:
    return float(re.search(rf"{name} = ([\d.]+);", _SOURCE)[1])


#: As csrc/cull.h has them: points of a tile, the share that may be active, and margins in float32 and float64.
CONSTANTS = {
    "kTile": _number("kTile"),
    "kWorthwhile": _number("kWorthwhile"),
    "kNothingLeft": tuple(map(float, re.search(r"kNothingLeft = .*T\((\d+)\) : T\((\d+)\)", _SOURCE).groups())),
}


def bounds(x, rows, frame, tied, tile, order):
    """Least and most s S [tiles, M] of points in the order of the tiles, and margins [M], all in float64."""
    V, c, A, s, h = (t.double() for t in pack(rows, frame, tied))
    boxes = [part.double() for part in x.split(tile)]
    low, high = (torch.stack([getattr(part, name)(0) for part in boxes]) for name in ("amin", "amax"))
    centre, half = (low + high) / 2, (high - low) / 2
    B = torch.einsum("mki,tmi->tmk", V, centre[:, None] - c).abs()
    reach = torch.einsum("mki,ti->tmk", V.abs(), half)
    least, most = (
        (s * (torch.tanh(A + b) + torch.tanh(A - b)).sum(-1) - s * (2 * x.shape[1] - 1))
        for b in (B + reach, (B - reach).clamp(min=0))
    )
    size = h.abs().amax(1).log() + order * (s * torch.linalg.vector_norm(V, dim=2).amax(1)).log()
    nothing_left = CONSTANTS["kNothingLeft"][rows.dtype == torch.float64]
    height = (s * (2 * torch.tanh(A).sum(1) - (2 * x.shape[1] - 1))).clamp(max=0)
    usual = (size + height)[size.isfinite()].mean()
    return least, most, torch.where(size - usual < math.inf, nothing_left + (size - usual).clamp(min=0), math.inf)
