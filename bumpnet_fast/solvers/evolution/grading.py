"""Where bumps along one axis are needed, and how wide: sizes from the derivatives of u, and a grid of such sizes.

All bumps have the same shape and differ by their width alone.  The widths vary smoothly along the axis: the logarithm
of the wanted sizes is averaged over windows of their own length.  Without that the errors are some hundred times
larger.  Everything here is one-dimensional and in NumPy.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.polynomial.legendre import leggauss
from scipy.interpolate import CubicSpline

Array = np.ndarray

#: The largest change of the size along the axis, per length, and the largest size as a share of the width.
_SLOPE, _LARGEST = 0.5, 0.25
#: The fourth and the sixth derivative count by so many ranges of u.  The sixth sees a front before it is steep: without
#: it the error is thirty times larger while the front forms.
_FOURTH, _SIXTH = 4.0, 6.0
#: The average over windows of its own length is taken so often.
_PASSES = 3
#: A grid is so much finer than needed, so that it serves for a while.
_MARGIN = 0.85
#: Fewest bumps in the domain, and bumps beyond each end of an axis that is not periodic.
_LEAST, _BEYOND = 16, 6
#: Points for every bump: of the quadrature along a periodic axis, along others, and to look at sizes.
_POINTS, _POINTS_HELD, _FINE = 2, 3, 6
#: Fine points between which the higher derivatives of bumps are differences.
STRIDE = 3


@dataclass(frozen=True)
class Axis:
    """An interval, and whether it is periodic."""

    lo: float
    hi: float
    periodic: bool

    @property
    def width(self) -> float:
        return self.hi - self.lo

    def wrapped(self, x: Array) -> Array:
        """Coordinates in the period from ``lo`` on."""
        return self.lo + np.mod(x - self.lo, self.width)

    def extended(self, x: Array, values: Array, mirrored: bool = False) -> tuple[Array, Array]:
        """Ascending coordinates and their values, with those of the neighbouring periods or mirror images."""
        if self.periodic:
            return np.concatenate([x - self.width, x, x + self.width]), np.concatenate([values] * 3)
        if not mirrored:
            return x, values
        back, forth = values[:0:-1], values[-2::-1]
        return np.concatenate([2 * x[0] - x[:0:-1], x, 2 * x[-1] - x[-2::-1]]), np.concatenate([back, values, forth])


@dataclass(frozen=True)
class Grid:
    """Bumps of graded widths, and the points of a quadrature rule for them.

    Attributes
    ----------
    centres, sizes : array
        [M], of the bumps; a size is the distance to the neighbours.
    points, weights : array
        [N], ascending where the axis is not periodic; the weights add up to 1.
    fine : array
        Ascending points at which the size that u needs is looked at.
    offered : array
        The size of the bumps there.
    """

    centres: Array
    sizes: Array
    points: Array
    weights: Array
    fine: Array
    offered: Array


def wanted(
    axis: Axis, x: Array, jet: tuple[Array, Array, Array], unit: Array, stride: int = 1,
    at_ends: tuple[float, float] = (np.inf, np.inf),
) -> Array:  # fmt: skip
    """The size [n] that u needs at ascending points ``x`` [n], up to a factor that is the accuracy.

    ``jet`` is u and its first two derivatives, each [n, K]; ``unit`` [K] is what counts as a change of each output.
    It is at most ``at_ends`` at the ends.  Higher derivatives are differences between every so many points: those of
    close ones are mostly errors of u.
    """
    u, first, second = jet
    tiny, size = 1e-290, np.full(len(x), _LARGEST * axis.width)
    few = slice(None, None, stride) if axis.periodic else slice(stride, -stride, stride)  # at the ends u is less known
    for k in range(u.shape[1]):
        if not unit[k] > 0:
            continue
        size = np.minimum(size, unit[k] / np.maximum(np.abs(first[:, k]), tiny))
        size = np.minimum(size, np.sqrt(unit[k] / np.maximum(np.abs(second[:, k]), tiny)))
        at, values = x[few], second[few, k]
        for order, factor in ((4, _FOURTH), (6, _SIXTH)):
            at, values = second_differences(axis, at, values)
            needed = (factor * unit[k] / np.maximum(np.abs(values), tiny)) ** (1 / order)
            size = np.minimum(size, np.interp(x, *axis.extended(at, needed)))
    size[0], size[-1] = min(size[0], at_ends[0]), min(size[-1], at_ends[1])
    return _smooth(axis, x, _limited(axis, x, size))


def second_differences(axis: Axis, x: Array, values: Array) -> tuple[Array, Array]:
    """Ascending points and the second derivative there, by differences of three; without those at the ends."""
    if axis.periodic:
        x = np.concatenate([x[-1:] - axis.width, x, x[:1] + axis.width])
        values = np.concatenate([values[-1:], values, values[:1]])
    apart = np.diff(x)
    slopes = np.diff(values) / apart
    return x[1:-1], 2 * np.diff(slopes) / (apart[1:] + apart[:-1])


def _limited(axis: Axis, x: Array, size: Array) -> Array:
    """The largest function below ``size`` that changes by no more than :data:`_SLOPE` per length."""
    xx, ss = axis.extended(x, size)
    up = np.minimum.accumulate(ss - _SLOPE * xx) + _SLOPE * xx
    down = np.minimum.accumulate((ss + _SLOPE * xx)[::-1])[::-1] - _SLOPE * xx
    both = np.minimum(up, down)
    return both[len(x) : 2 * len(x)] if axis.periodic else both


def _smooth(axis: Axis, x: Array, size: Array) -> Array:
    for _ in range(_PASSES):
        xx, logs = axis.extended(x, np.log(size), mirrored=True)
        whole = np.concatenate([[0.0], np.cumsum(0.5 * (logs[1:] + logs[:-1]) * np.diff(xx))])
        half = np.minimum(size, 0.5 * axis.width)
        size = np.exp((np.interp(x + half, xx, whole) - np.interp(x - half, xx, whole)) / (2 * half))
    return size


def _number(axis: Axis, x: Array, size: Array, kappa: float) -> float:
    """How many bumps of ``kappa`` times the wanted size fill the domain."""
    seam = 0.5 * (1 / size[0] + 1 / size[-1]) * (x[0] + axis.width - x[-1]) if axis.periodic else 0.0
    return float(np.sum(0.5 * (1 / size[1:] + 1 / size[:-1]) * np.diff(x)) + seam) / kappa


def count(axis: Axis, x: Array, size: Array, kappa: float) -> int:
    """The number of bumps of the grid that :func:`placed` makes, with those beyond the ends."""
    inside = max(_LEAST, int(np.ceil(_number(axis, x, size, kappa * _MARGIN))))
    return inside + (0 if axis.periodic else 2 * _BEYOND)


def placed(axis: Axis, x: Array, size: Array, kappa: float) -> Grid:
    """The grid for a wanted size at ascending points: its spacing is that size times a factor.

    The points of the quadrature are equidistant where the spacing is 1: along a periodic axis their sum is exact up to
    an error that decays faster than any power.
    """
    bumps = count(axis, x, size, kappa)
    xx, hh = (np.append(x, x[0] + axis.width), np.append(size, size[0])) if axis.periodic else (x, size)
    steps = np.concatenate([[0.0], np.cumsum(0.5 * (1 / hh[1:] + 1 / hh[:-1]) * np.diff(xx))])
    total = steps[-1]
    if axis.periodic:
        apart = np.concatenate([xx[:-1] - axis.width, xx, xx[1:] + axis.width])
        inverse = CubicSpline(np.concatenate([steps[:-1] - total, steps, steps[1:] + total]), apart)
        d = total / bumps
        at, points = (np.arange(bumps) + 0.5) * d, (np.arange(_POINTS * bumps) + 0.5) * d / _POINTS
        fine = np.sort(axis.wrapped(inverse((np.arange(_FINE * bumps) + 0.5) * d / _FINE)))
        centres, sizes = axis.wrapped(inverse(at)), inverse(at, 1) * d
        points, weights = axis.wrapped(inverse(points)), inverse(points, 1) * d / _POINTS
    else:
        inside = bumps - 2 * _BEYOND
        inverse, d = CubicSpline(steps, xx), total / inside
        at = (np.arange(-_BEYOND, inside + _BEYOND) + 0.5) * d
        held = np.clip(at, 0, total)
        slopes = inverse(held, 1)
        centres, sizes = inverse(held) + (at - held) * slopes, slopes * d
        nodes, parts = leggauss(_POINTS_HELD)
        points = ((np.arange(inside) * d)[:, None] + 0.5 * d * (nodes + 1)).ravel()
        weights = np.tile(0.5 * d * parts, inside) * inverse(points, 1)
        points, fine = inverse(points), inverse(np.linspace(0, total, _FINE * inside + 1))
        fine[0], fine[-1] = axis.lo, axis.hi
    return Grid(centres, sizes, points, weights / weights.sum(), fine, _offered(axis, centres, sizes, fine))


def _offered(axis: Axis, centres: Array, sizes: Array, x: Array) -> Array:
    order = np.argsort(centres)
    at, logs = axis.extended(centres[order], np.log(sizes[order]))
    return np.exp(np.interp(x, at, logs))


def sampled(axis: Axis, n: int) -> Array:
    """So many ascending points, evenly spread over the domain."""
    return axis.lo + axis.width * (np.arange(n) + 0.5) / n if axis.periodic else np.linspace(axis.lo, axis.hi, n)


def jet_of_samples(axis: Axis, x: Array, u: Array) -> tuple[Array, Array, Array]:
    """u [n, K] at ascending points with its first two derivatives, by differences."""
    second = np.stack([np.interp(x, *second_differences(axis, x, part)) for part in u.T], 1)
    xx, values = axis.extended(x, u)
    first = np.gradient(values, xx, axis=0)
    return u, first[len(x) : 2 * len(x)] if axis.periodic else first, second


@functools.cache
def slope_of_shape(kappa: float) -> float:
    """How steep the sides of the bumps are, times their size, for an accuracy: flatter ones where it is higher.

    >>> slope_of_shape(0.2) < slope_of_shape(0.35)
    True
    """
    return 0.25 * (0.2 + 0.57 * kappa)


__all__ = ["STRIDE", "Axis", "Grid", "count", "jet_of_samples", "placed", "sampled", "slope_of_shape", "wanted"]
