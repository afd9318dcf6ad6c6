"""A condition that contradicts the equation or others is named, and one that does not is not."""

import math
from dataclasses import dataclass

import pytest
import torch

from bumpnet_fast.problems import Condition, Problem
from bumpnet_fast.solvers import solve


def _side(axis, value):
    def points(counts):
        x = torch.full((max(counts), 2), float(value), dtype=torch.float64)
        x[:, 1 - axis] = torch.linspace(0, 1, len(x), dtype=torch.float64)
        return x

    return points


@dataclass
class Insulated(Problem):
    """u_xx + u_yy = f with no flux on any side: it has a solution for a mean source of 0 only."""

    name, want = "insulated", "laplacian"
    dirichlet = {0: ()}
    lower: tuple = (0.0, 0.0)
    upper: tuple = (1.0, 1.0)
    mean: float = 1.0

    def residual(self, x, u):
        return u.laplacian[:, 0] - self.mean - torch.cos(torch.pi * x[:, 0])

    def side_conditions(self):
        fluxes = [
            Condition(f"flux {axis} at {end}", _side(axis, end), lambda x, u, axis=axis: u.d(axis), want="gradient")
            for axis in (0, 1)
            for end in (0, 1)
        ]
        corner = torch.zeros(1, 2, dtype=torch.float64)
        return [*fluxes, Condition("level", lambda counts: corner, lambda x, u: u.value)]


@dataclass
class Pinned(Problem):
    """u'' - u^p + sin 3x = 0, held at the ends and at one more place."""

    name, want = "pinned", "laplacian"
    lower: tuple = (0.0,)
    upper: tuple = (1.0,)
    place: float = 0.5
    value: float = 2.0
    power: int = 1

    def residual(self, x, u):
        return u.laplacian[:, 0] - u.value[:, 0] ** self.power + torch.sin(3 * x[:, 0])

    def side_conditions(self):
        there = torch.tensor([[self.place]], dtype=torch.float64)
        return [Condition("pin", lambda counts: there, lambda x, u: u.value[:, 0] - self.value)]


def test_sources_that_no_flux_lets_out():
    solution = solve(Insulated(), (4, 4), iterations=10)
    error = solution.error_estimate
    assert not error.reliable
    assert {"flux 0 at 0", "flux 0 at 1", "flux 1 at 0", "flux 1 at 1"} <= set(error.incompatible)
    (said,) = (warning for warning in solution.report().warnings if "no u fulfils all conditions" in warning)
    assert "'flux 0 at 0'" in said and "more bumps and compare" not in said
    assert error.as_dict()["incompatible"] == list(error.incompatible)


@pytest.mark.parametrize("boundary", ("hard", "soft"))
@pytest.mark.parametrize("power", (1, 3))
@pytest.mark.parametrize("place", (0.5, 0.0))
def test_a_place_that_is_held_too_high(boundary, power, place):
    if boundary == "hard" and place == 0.0:
        pytest.skip("no bump rises there")
    error = solve(Pinned(place=place, power=power), 8, iterations=15, boundary=boundary).error_estimate
    assert error.incompatible == ("pin",), error.reason


def test_conditions_that_go_together():
    error = solve(Insulated(mean=0.0), (4, 4), iterations=10).error_estimate
    assert error.reliable and not error.incompatible, error.reason
    value = 0.1 * (math.sin(1.5) - math.sin(3) * math.sinh(0.5) / math.sinh(1))  # that of u without the condition
    error = solve(Pinned(value=value), 8, iterations=15).error_estimate
    assert error.reliable and not error.incompatible, error.reason

    error = solve(Pinned(value=round(value, 6)), 8, iterations=15).error_estimate
    assert "few digits" in error.reason and error.rel_l2[0] < 1e-4  # too few digits are no contradiction by much


def test_a_feature_that_bumps_do_not_reach_is_no_contradiction():
    @dataclass
    class Kinked(Pinned):
        """Not smooth at the place: the equation, and no condition, is what smooth bumps cannot fulfil."""

        def residual(self, x, u):
            return u.laplacian[:, 0] - torch.where(x[:, 0] > 1 / 3, 50.0, -50.0)

    error = solve(Kinked(place=0.0, value=0.0), 8, iterations=15, boundary="soft").error_estimate
    assert not error.reliable and not error.incompatible


def test_it_is_named_where_an_error_is_stated():
    solution = solve(Pinned(), error=1e-3)
    assert solution.stop == "error not reached" and solution.error_estimate.incompatible == ("pin",)
