"""Equations and conditions count alike, whatever the units of x, of u and of the equations."""

import math
from dataclasses import dataclass

import pytest
import torch

from bumpnet_fast import BumpNet, problems, solve
from bumpnet_fast.problems import Condition, Problem
from bumpnet_fast.solvers.balance import balanced
from bumpnet_fast.solvers.task import Task


@dataclass
class Heat(Problem):
    """The heat equation of the documentation with a length and a time in any units, and u in any units."""

    name, want, time, linear = "heat in units", "diagonal", 1, True
    length: float = 1.0
    duration: float = 1.0
    size: float = 1.0
    lower: tuple = (0.0, 0.0)
    upper: tuple = (1.0, 1.0)

    def __post_init__(self):
        self.upper = (self.length, self.duration)
        super().__post_init__()

    def residual(self, x, u):
        return u.d(1) - 0.1 * self.length**2 / self.duration * u.dd(0)

    def exact(self, x):
        decay = torch.exp(-0.1 * math.pi**2 * x[:, 1] / self.duration)
        return self.size * torch.sin(math.pi * x[:, 0] / self.length) * decay


@dataclass
class Flow(Problem):
    """Stokes' equations for an exact flow, with units of length, velocity and pressure."""

    name, want, outputs = "flow in units", "diagonal", 3
    length: float = 1.0
    speed: float = 1.0
    viscosity: float = 1.0
    lower: tuple = (0.0, 0.0)
    upper: tuple = (1.0, 1.0)

    def __post_init__(self):
        self.upper = (self.length, self.length)
        super().__post_init__()

    def exact(self, x):
        a, b = (math.pi * x / self.length).unbind(1)
        v = self.speed
        flow = [v * torch.sin(a) * torch.cos(b), -v * torch.cos(a) * torch.sin(b)]
        return torch.stack([*flow, self.viscosity * v / self.length * torch.cos(a) * torch.cos(b)], 1)

    def residual(self, x, u):
        k, nu = math.pi / self.length, self.viscosity
        a, b = (k * x).unbind(1)
        v, p = self.speed, nu * self.speed / self.length
        force = [2 * nu * k**2 * v * torch.sin(a) * torch.cos(b) - k * p * torch.sin(a) * torch.cos(b)]
        force.append(-2 * nu * k**2 * v * torch.cos(a) * torch.sin(b) - k * p * torch.cos(a) * torch.sin(b))
        laplacian = u.dd(0) + u.dd(1)
        momentum = [-nu * laplacian[:, j] + u.d(j)[:, 2] - force[j] for j in (0, 1)]
        return torch.stack([*momentum, u.d(0)[:, 0] + u.d(1)[:, 1]], 1)


def by_output(solution):
    x = solution.places.x
    u, exact = solution.predict(x), solution.problem.exact(x).reshape(len(x), -1)
    return (u - exact).norm(dim=0) / exact.norm(dim=0)


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
@pytest.mark.parametrize("bumps", [6, 12, 24])
def test_a_parabola_with_soft_ends(bumps, seed):
    @dataclass
    class Parabola(Problem):
        name, want = "parabola", "laplacian"
        lower: tuple = (0.0,)
        upper: tuple = (1.0,)

        def residual(self, x, u):
            return u.laplacian[:, 0] + 2

        def exact(self, x):
            return x[:, 0] * (1 - x[:, 0])

    net = BumpNet(1, bumps, Parabola().domain, dtype="float64")
    if seed is not None:
        net.perturb_(0.05, torch.Generator().manual_seed(seed))
    assert solve(Parabola(), net, boundary="soft").rel_l2 < 1e-5


@pytest.mark.parametrize("boundary", ["hard", "soft"])
@pytest.mark.parametrize("method", ["auto", "gauss-newton", "lm"])
def test_the_heat_equation_in_any_units(boundary, method):
    units = [(1.0, 1.0, 1.0), (1e-6, 86400.0, 1e5), (1e7, 1e12, 1e-7)]
    errors = [
        solve(
            Heat(length=u[0], duration=u[1], size=u[2]), (4, 4), boundary=boundary, method=method, iterations=40
        ).rel_l2
        for u in units
    ]
    assert max(errors) < 2 * min(errors) and max(errors) < 1e-4


@pytest.mark.parametrize("boundary", ["hard", "soft"])
def test_a_system_in_any_units(boundary):
    units = [(1.0, 1.0, 1.0), (1e-5, 1e-3, 1e3), (1e6, 1e2, 1e-6)]
    errors = [
        by_output(solve(Flow(length=u[0], speed=u[1], viscosity=u[2]), (4, 4), boundary=boundary, iterations=15))
        for u in units
    ]
    assert all(bool((e < 2 * errors[0]).all() and (e < 0.02).all()) for e in errors)


def rows_of(problem):
    return Task(problem, BumpNet(2, (4, 4), problem.domain, dtype="float64")).collocate().system


@pytest.mark.parametrize("size", [1.0, 1e-8, 1e8])
def test_a_condition_of_other_units_and_the_users_weight(size):
    @dataclass
    class Measured(Heat):
        weight: float = 1.0

        def side_conditions(self):
            x = 0.5 * torch.ones(4, 2, dtype=torch.float64)
            return [Condition("flux", lambda counts: x, lambda at, u: size * (u.d(0) - 1), "gradient", self.weight)]

    systems = [rows_of(Measured(weight=weight)) for weight in (1.0, 9.0)]
    rows = [system.residual(system.jets(torch.ones(16, system.layout.columns).double())) for system in systems]
    flux = slice(systems[0].size - 4, None)
    torch.testing.assert_close(rows[1][flux], 3 * rows[0][flux])
    torch.testing.assert_close(rows[1][:-4], rows[0][:-4])
    assert float(systems[0].blocks[1].balance * size) == pytest.approx(0.9045, rel=1e-3)  # for any size


def random_squares(groups, bumps, outputs, seed=0):
    return torch.rand(groups, bumps, outputs, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("holes", [[], [(0, 1), (2, 0)]])
def test_factors_follow_the_units(holes):
    S, data = random_squares(4, 6, 2), torch.rand(4, dtype=torch.float64)
    for g, k in holes:
        S[g, :, k] = 0
    of_rows, of_outputs = torch.tensor([1e4, 1e-8, 3.0, 1e12]).double(), torch.tensor([1e-9, 1e7]).double()
    plain = balanced(S.flatten(1), data, 3, 2)
    scaled = of_rows[:, None, None] * S * of_outputs
    other = balanced(scaled.flatten(1), data * of_rows, 3, 2)
    torch.testing.assert_close(other * of_rows.sqrt() / of_rows[0].sqrt(), plain)


def test_parts_that_have_nothing_in_common_are_compared_by_their_data():
    S, data = torch.zeros(2, 3, 2, dtype=torch.float64), torch.tensor([4.0, 100.0], dtype=torch.float64)
    S[0, :, 0], S[1, :, 1] = 5.0, 7.0
    factors = balanced(S.flatten(1), data, 2, 2)
    assert float(factors[1] ** 2 * data[1]) == pytest.approx(float(factors[0] ** 2 * data[0]))


def test_what_depends_on_u_only_away_from_the_start_is_measured_by_its_data():
    S, data = random_squares(2, 3, 1), torch.tensor([2.0, 50.0], dtype=torch.float64)
    S[1] = 0
    factors = balanced(S.flatten(1), data, 1, 1)
    assert factors[0] == 1 and torch.isfinite(factors).all() and factors[1] > 0


def test_one_equation_alone_is_not_scaled():
    problem = problems.get("poisson")
    task = Task(problem, BumpNet(2, (3, 3), problem.domain, dtype="float64")).collocate()
    assert [f.tolist() for f in (task.system, task.balance)[1]] == [[1.0]]


@pytest.mark.parametrize("method", ["adam", "varpro-adam", "lbfgs"])
@pytest.mark.parametrize("boundary", ["hard", "soft"])
def test_first_order_methods_in_any_units(boundary, method):
    units = [(1.0, 1.0, 1.0), (1e-6, 86400.0, 1e5), (1e7, 1e12, 1e-7)]
    made = [Heat(length=length, duration=duration, size=size) for length, duration, size in units]
    errors = [solve(p, (4, 4), boundary=boundary, method=method, iterations=300).rel_l2 for p in made]
    assert max(errors) < 2 * min(errors) and max(errors) < 0.2
