"""Graded bumps as a fixed basis, at rest and in motion."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from bumpnet_fast.problems.evolution import Burgers
from bumpnet_fast.solvers.evolution import grading
from bumpnet_fast.solvers.evolution.graded import GradedBasis, axis_of

KAPPA = 0.25


@dataclass
class Held(Burgers):
    periodic: bool = False


@dataclass
class Sloped(Held):
    def boundary_slopes(self, x):
        return x[:, 0]

    def initial(self, x):
        return torch.cos(torch.pi * x[:, 0]) + 0.5 * x[:, 0] ** 2


@dataclass
class Pulled(Burgers):
    """A right-hand side that depends on the place."""

    def rhs(self, x, u, t):
        return super().rhs(x, u, t)[:, 0] + torch.sin(torch.pi * x[:, 0])


def basis(problem):
    axis = axis_of(problem)
    x = grading.sampled(axis, 1000)
    u = problem.initial(torch.from_numpy(x)[:, None]).numpy()[:, None]
    size = grading.wanted(axis, x, grading.jet_of_samples(axis, x, u), np.ones(1))
    return GradedBasis(problem, grading.placed(axis, x, size, KAPPA), KAPPA)


@pytest.mark.parametrize("problem", [Burgers(), Held(), Sloped()], ids=["periodic", "held", "sloped"])
def test_the_start_is_fitted_and_the_columns_are_orthonormal(problem):
    model = basis(problem)
    assert model.fit_error < 1e-6
    own = model.project @ model.basis.value
    assert torch.allclose(own, torch.eye(model.rank, dtype=torch.float64), atol=1e-8)


def test_amplitudes_do_not_cancel():
    model = basis(Burgers())
    bumps = model.space.basis(model.x, model.start_rows, "value").value
    amplitudes = model.amplitudes(model.state)
    assert float((bumps.abs() @ amplitudes.abs()).max()) < 3 * float((bumps @ amplitudes).abs().max())


def test_slopes_at_the_ends_are_those_that_are_given():
    model = basis(Sloped())
    ends = model.problem.domain.double()
    rows = model.start_rows.clone()
    rows[:, model.layout.amplitude] = model.amplitudes(model.state)
    assert torch.allclose(model.space.jet(ends, rows, "gradient").d(0)[:, 0], ends[:, 0], atol=1e-9)


def test_moving_bumps_carry_u_along():
    model = basis(Burgers())
    model.speed = 0.7
    x = torch.linspace(-1, 0.9, 7, dtype=torch.float64)
    shifted = model.problem.initial((x - 0.7 * 0.4)[:, None])
    assert torch.allclose(model.values(x, 0.4, model.state)[:, 0], shifted, atol=1e-6)
    later = model.carried(0.4, 0.0)
    assert torch.allclose(later.values(x, 0.4, model.state), model.values(x, 0.4, model.state), atol=1e-12)


@pytest.mark.parametrize("speed", [0.0, 0.7])
def test_the_jacobian_is_the_derivative_of_the_slope(speed):
    model = basis(Pulled())
    model.speed = speed
    generator = torch.Generator().manual_seed(0)
    y = model.state
    v = torch.randn(y.shape, dtype=torch.float64, generator=generator)
    apart = (model.slope(0.3, y + 1e-6 * v) - model.slope(0.3, y - 1e-6 * v)) / 2e-6
    assert torch.allclose(model.jacobian(0.3, y) @ v, apart, rtol=1e-6, atol=1e-5 * float(apart.abs().max()))


def test_the_rate_of_u_is_the_same_for_bumps_at_rest_and_in_motion():
    model = basis(Pulled())
    x = torch.linspace(-0.9, 0.9, 9, dtype=torch.float64)
    rates = []
    for speed in (0.0, 0.7):
        model.speed = speed
        report, step = model.report(0.0, model.state), 1e-5
        ends = [report.rows + sign * step * report.rates for sign in (1, -1)]
        apart = [model.space.jet(x[:, None], rows, "value").value for rows in ends]
        rates.append((apart[0] - apart[1]) / (2 * step))
    assert torch.allclose(*rates, atol=1e-4 * float(rates[0].abs().max()))


def test_the_drift_of_a_moving_profile_is_its_speed():
    @dataclass
    class Moved(Burgers):
        def rhs(self, x, u, t):
            return -0.4 * u.d(0)

    assert basis(Moved()).drift(0.0, basis(Moved()).state) == pytest.approx(0.4, rel=1e-6)
