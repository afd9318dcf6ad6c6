"""Sizes and places of graded bumps along one axis."""

import numpy as np
import pytest

from bumpnet_fast.solvers.evolution import grading
from bumpnet_fast.solvers.evolution.grading import Axis

WIDTH = 0.02
AXES = {"periodic": Axis(-1.0, 1.0, True), "held": Axis(-1.0, 1.0, False)}


def sizes(axis, front=0.3):
    """The wanted sizes for a periodic pair of fronts, or for one."""
    x = grading.sampled(axis, 4000)
    u = np.tanh((x - front) / WIDTH) - (np.tanh((x + 0.5) / WIDTH) if axis.periodic else 0)
    return x, grading.wanted(axis, x, grading.jet_of_samples(axis, x, u[:, None]), np.ones(1))


@pytest.mark.parametrize("axis", AXES.values(), ids=AXES)
def test_bumps_are_narrow_where_the_front_is_and_wide_elsewhere(axis):
    x, size = sizes(axis)
    at = np.argmin(np.abs(x - 0.3))
    assert 0.3 * WIDTH < size[at] < WIDTH
    assert size[np.argmin(np.abs(x + 0.1))] > 5 * size[at]
    assert np.abs(np.gradient(size, x)).max() < 0.6


def test_sizes_match_across_the_seam():
    x, size = sizes(AXES["periodic"], front=0.99)
    assert size[0] == pytest.approx(size[-1], rel=0.05) and size[0] < 3 * WIDTH


def test_an_end_can_ask_for_narrow_bumps():
    axis = AXES["held"]
    x = grading.sampled(axis, 500)
    flat = grading.jet_of_samples(axis, x, np.zeros((500, 1)))
    size = grading.wanted(axis, x, flat, np.ones(1), at_ends=(0.01, np.inf))
    assert size[0] < 0.03 and size[-1] > 0.2


@pytest.mark.parametrize("axis", AXES.values(), ids=AXES)
def test_the_points_integrate(axis):
    grid = grading.placed(axis, *sizes(axis), 0.25)
    assert grid.weights.sum() == pytest.approx(1) and (grid.weights > 0).all()
    found = np.sum(grid.weights * np.exp(np.cos(np.pi * grid.points)))
    assert found == pytest.approx(1.2660658777520084, abs=1e-6)  # the Bessel function I_0 at 1
    assert (np.diff(grid.fine) > 0).all() and axis.lo <= grid.fine[0] and grid.fine[-1] <= axis.hi


@pytest.mark.parametrize("axis", AXES.values(), ids=AXES)
def test_the_offered_size_is_the_wanted_one_times_the_accuracy(axis):
    x, size = sizes(axis)
    grid = grading.placed(axis, x, size, 0.25)
    ratio = grid.offered / np.interp(grid.fine, x, size) / 0.25
    assert ratio.min() > 0.7 and ratio.max() < 1.05
