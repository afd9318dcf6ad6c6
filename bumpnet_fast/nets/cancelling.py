"""How much the bumps of a net cancel one another, and what that costs in another dtype.

Smooth bumps are nearly dependent: the best amplitudes of such a basis are 1e5 to 1e7 times as large as u
(docs/choosing.md).  u is then a small difference of large terms, which float64 resolves and float32 does not.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from ..core.functional import bump_jet

#: A BumpNet, whose module imports this one.
BumpNet = Any

#: Points at which it is measured.
POINTS = 512
#: A relative error of u in another dtype beyond which a warning is given.
ERROR = 1e-3
#: Relative error of u in units of the dtype's eps times the cancellation, as measured: roundings partly cancel, too.
ROUNDING = 0.25
#: An output that is a smaller share of the largest one is rounding: boundary values may make all of it.
_NOTHING = 1e-6
#: Cancellation beyond which the size of an amplitude tells nothing about what the bump is worth.
HEAVY = 1e4


class CancellationWarning(UserWarning):
    """The amplitudes of a net cancel so much that what is done with it loses u."""


def points(net: BumpNet) -> Tensor:
    """Some hundred points [n, d] of the domain, in float64 and without rounding in float32."""
    lo, hi = net.domain.detach().double()
    with torch.device("cpu"):
        engine = torch.quasirandom.SobolEngine(net.layout.dim).fast_forward(1)  # past the corner
        unit = engine.draw(POINTS, dtype=torch.float64).to(lo)
    return (lo + unit * (hi - lo)).float().double()


@torch.no_grad()
def cancellation(net: BumpNet, x: Tensor, rows: Tensor | None = None, frame: Tensor | None = None) -> float:
    """Root mean square of ``sum_i |h_i psi_i|`` over that of u at ``x`` [n, d], of the output where it is largest."""
    rows = (net.rows if rows is None else rows).detach().double()
    frame = (net.frame if frame is None else frame).double()
    sizes = rows.clone()
    sizes[:, net.layout.amplitude] = sizes[:, net.layout.amplitude].abs()  # psi is positive
    total, u = (_rms(_value(x.to(rows), r, frame, net.tied)) for r in (sizes, rows))
    return _largest(total, u, 1.0)


@torch.no_grad()
def error_in(net: BumpNet, dtype: torch.dtype, rows: Tensor | None = None, frame: Tensor | None = None) -> float:
    """Relative error of u, root mean square over points, if it is computed from rows and frame in ``dtype``.

    With a dtype of fewer than 32 bits the numbers are rounded to it and u is computed in float32.
    """
    rows = net.rows.detach() if rows is None else rows
    frame = net.frame if frame is None else frame
    wide = torch.promote_types(dtype, torch.float32)
    x = points(net).to(rows.device)
    exact = _value(x, rows.double(), frame.double(), net.tied)
    cast = _value(x.to(wide), rows.to(dtype).to(wide), frame.to(dtype).to(wide), net.tied)
    lost = torch.isfinite(exact) & ~torch.isfinite(cast)  # amplitudes beyond the largest number of the dtype
    size, off = _rms(exact), _rms((cast.double() - exact).masked_fill(lost, torch.inf))
    return _largest(off, size, 0.0)


def warn_of_cast(net: BumpNet, rows: Tensor, frame: Tensor) -> None:
    """Warn if the u of former ``rows`` and ``frame`` is lost in the dtype that the net has now."""
    _warn_of(net, "the net was cast to", rows, frame)


def warn_of_saving(net: BumpNet) -> None:
    """Warn if a file of the net holds few digits of u: if it is in float32, and its amplitudes cancel."""
    if net.rows.dtype != torch.float64 and not net.rows.is_meta:
        _warn_of(net, "the net was saved in", net.rows.detach(), net.frame)


def _warn_of(net: BumpNet, what: str, rows: Tensor, frame: Tensor) -> None:
    off = error_in(net, net.rows.dtype, rows, frame)
    if off > ERROR:  # a NaN in the net is not a matter of rounding
        lost = f"by about {100 * off:.2g} %" if off < 1 else "by more than its own size"
        kind, amount = str(net.rows.dtype).removeprefix("torch."), cancellation(net, points(net), rows, frame)
        reason = f"as the amplitudes cancel by a factor of {amount:.0e}; keep it in float64"
        warnings.warn(f"{what} {kind}: u will be off {lost}, {reason}", CancellationWarning, stacklevel=5)


def warn_if_heavy(net: BumpNet, what: str) -> None:
    """Warn if the amplitudes cancel much; ``what`` says what that means here."""
    if net.rows.is_meta:
        return
    amount = net.cancellation()
    if amount > HEAVY:
        warnings.warn(
            f"the amplitudes of the net cancel by a factor of {amount:.0e}: {what}", CancellationWarning, stacklevel=3
        )


def _value(x: Tensor, rows: Tensor, frame: Tensor, tied: bool) -> Tensor:
    return bump_jet(x, rows, frame, "value", tied=tied).value


def _largest(amounts: Tensor, sizes: Tensor, default: float) -> float:
    """The largest of the ratios of the outputs; those with u beside nothing, in any likely units, do not count."""
    counting = ~(sizes < _NOTHING * sizes.max())
    ratios = torch.where(amounts == 0, default, amounts / sizes)[counting]
    return float(ratios.max())


def _rms(values: Tensor) -> Tensor:
    """Of every output [K]."""
    return values.square().mean(0).sqrt()


__all__ = [
    "CancellationWarning",
    "cancellation",
    "error_in",
    "points",
    "warn_if_heavy",
    "warn_of_cast",
    "warn_of_saving",
]
