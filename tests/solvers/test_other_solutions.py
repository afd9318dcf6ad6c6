"""Another solution of a nonlinear equation is met where there is one, and not where there is none."""

from dataclasses import dataclass

import pytest
import torch

from bumpnet_fast.problems import Problem, get
from bumpnet_fast.solvers import solve


@dataclass
class Exponential(Problem):
    """u'' + s exp(u) = 0: two solutions for s = 1, one for s = -1."""

    name, want = "exponential", "laplacian"
    sign: float = 1.0
    lower: tuple = (0.0,)
    upper: tuple = (1.0,)

    def residual(self, x, u):
        return u.laplacian + self.sign * torch.exp(u.value)


@pytest.mark.parametrize("boundary", ("hard", "soft"))
def test_two_solutions(boundary):
    error = solve(Exponential(), 6, iterations=20, boundary=boundary).error_estimate
    assert not error.reliable and "another solution" in error.reason
    assert error.rel_l2[0] < 0.01  # as a solution it is known


@pytest.mark.parametrize("boundary", ("hard", "soft"))
def test_one_solution(boundary):
    error = solve(Exponential(sign=-1.0), 6, iterations=5, boundary=boundary).error_estimate
    assert error.reliable, error.reason


@dataclass
class Wells(Problem):
    """u'' + s (u - u^3) = 0: beside 0.8 at the ends, where s is small, there is no room for a second solution."""

    name, want = "wells", "laplacian"
    strength: float = 4.0
    lower: tuple = (0.0,)
    upper: tuple = (1.0,)

    def residual(self, x, u):
        return u.laplacian + self.strength * (u.value - u.value**3)

    def boundary_values(self, x):
        return 0.8 * torch.ones_like(x[:, 0])


def test_a_reaction_that_is_weak():
    error = solve(Wells(), 6, iterations=10).error_estimate
    assert error.reliable, error.reason


def test_least_residuals_are_no_solutions():
    assert solve(get("kovasznay"), (4, 4), iterations=2).error_estimate.reliable


@pytest.mark.parametrize(("sign", "alone"), [(1.0, False), (-1.0, True)])
def test_solutions_to_an_error_whose_own_error_is_rounding(sign, alone):
    solution = solve(Exponential(sign=sign), error=1e-6)
    error = solution.error_estimate
    assert solution.stop == ("error reached" if alone else "error not reached") and error.rel_l2[0] < 1e-6
    assert any("not be the solution that is meant" in warning for warning in solution.warnings) != alone
    assert error.reliable == alone and ("another solution" in error.reason) != alone, error.reason
