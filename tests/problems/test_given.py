"""What is given on the boundary: by output, and a velocity at the start; and conditions with unknowns."""

import math
from dataclasses import dataclass

import pytest
import torch

from bumpnet_fast import Jet
from bumpnet_fast.problems import Condition, Problem, sampling
from bumpnet_fast.problems.base import call_residual, required, taken

FACES = [(0, 0), (0, 1), (1, 0), (1, 1)]


def wild(x):
    return torch.stack([torch.exp(x[:, 0] * x[:, 1]), torch.cos(5 * x[:, 0] - x[:, 1]), 2 + x.sum(1)], 1)


# --- by output -----------------------------------------------------------------------------------


@dataclass
class Flow(Problem):
    """Three outputs: the first is given on all sides, the second on two of them, the third nowhere."""

    name, want, outputs = "flow", "diagonal", 3
    dirichlet = {0: "all", 1: ((0, 0), (1, 1))}
    lower: tuple = (-1.0, 0.0)
    upper: tuple = (1.0, 3.0)

    def boundary_values(self, x):
        nothing = torch.full_like(x[:, 0], math.nan)
        return torch.stack([torch.cos(x.sum(1)), x[:, 0] + x[:, 1] ** 2, nothing], 1)


class Timed(Flow):
    time = 1
    dirichlet = {0: "all", 1: ((1, 0),), 2: ((0, 1),)}

    def boundary_values(self, x):
        return torch.stack([torch.cos(x.sum(1)), x[:, 0] + x[:, 1] ** 2, x.prod(1)], 1)


@pytest.mark.parametrize("problem", [Flow(), Timed()])
def test_each_output_is_exact_where_it_is_given_and_free_elsewhere(problem):
    assert problem.distance(sampling.interior(problem.domain, (5, 5))).shape == (25, 3)
    for face in FACES:
        x = sampling.faces(problem.domain, (7, 7), [face])[1:-1]
        u = problem.extend(lambda x: Jet("value", wild(x)), x, "value").value
        for k in range(3):
            held = face in problem.faces_of(k)
            off = (u[:, k] - problem.boundary_values(x)[:, k]).abs()
            assert float(off.max()) < 1e-12 if held else not float(off.min()) < 1e-3, (face, k)
    free = problem.extend(lambda x: Jet("value", wild(x)), x, "value").value[:, 2]
    if problem.faces_of(2) == ():
        assert torch.equal(free, wild(x)[:, 2])


def test_the_ansatz_by_output_has_the_derivatives_of_its_values():
    problem = Flow()
    x = sampling.interior(problem.domain, (4, 5))
    jet = problem.extend(lambda x: Jet.of(wild, x, "hessian"), x, "hessian")
    whole = Jet.of(lambda x: problem.lift(x) + problem.distance(x) * wild(x), x, "hessian")
    for mine, wanted in zip(jet.parts(), whole.parts(), strict=True):
        torch.testing.assert_close(mine, wanted)


def test_a_mapping_to_the_same_faces_is_no_mapping():
    class Same(Flow):
        dirichlet = {0: "all", 1: "all", 2: "all"}

        def boundary_values(self, x):
            return wild(x)

    class Plain(Same):
        dirichlet = None

    x = sampling.interior(Flow().domain, (4, 5))
    torch.testing.assert_close(Same().lift(x), Plain().lift(x))
    torch.testing.assert_close(Same().distance(x), Plain().distance(x)[:, None].expand(-1, 3))


def test_soft_conditions_are_those_of_each_output():
    conditions = {c.name: c for c in Timed().conditions()}
    assert list(conditions) == ["boundary 1", "boundary 3", "initial 1", "initial 2"]
    x = conditions["boundary 3"].points((5, 6))
    assert (x[:, 0] == 1).all() and len(x) == 6
    u = Jet("value", wild(x))
    torch.testing.assert_close(conditions["boundary 3"].residual(x, u)[:, 0], wild(x)[:, 2] - x.prod(1))
    assert (conditions["initial 2"].points((5, 6))[:, 1] == 0).all()


@pytest.mark.parametrize(("given", "error", "message"), [
    (((2, 0),), ValueError, r"dirichlet must hold faces \(axis, side\) with an axis from 0 to 1 .*, got \(2, 0\)"),
    ({0: ((0, 2),)}, ValueError, r"dirichlet\[0\] must hold faces .*, got \(0, 2\)"),
    ({3: "all"}, ValueError, "dirichlet must name outputs from 0 to 2, got 3"),
    ({0: "left"}, TypeError, r"dirichlet\[0\] must hold faces .* or be 'all', got 'left'"),
    ((0, 1), ValueError, "dirichlet must hold faces .*, got 0"),
    (((0, 1), (0, 1)), ValueError, "dirichlet must name every face once"),
])  # fmt: skip
def test_faces_that_do_not_exist_are_named(given, error, message):
    with pytest.raises(error, match=message):
        type("Wrong", (Flow,), {"dirichlet": given})()


def test_faces_of_a_periodic_axis_are_refused():
    with pytest.raises(
        ValueError, match=r"dirichlet must not hold faces of a periodic axis, got .*: give u there by a Con"
    ):
        type("Wrong", (Flow,), {"periodic": (0,), "dirichlet": ((1, 0), (0, 0))})()


# --- the velocity at the start -------------------------------------------------------------------


@dataclass
class Moving(Problem):
    """Ends that move, and a velocity that goes with them: that of sin(pi x) sin(t) + x sin(t) + (1 - x) t^2 + cos x."""

    name, want, time, time_order = "moving", "diagonal", 1, 2
    lower: tuple = (0.0, 0.5)
    upper: tuple = (1.0, 2.0)

    def true(self, x):
        a, t = x[:, 0], x[:, 1] - 0.5
        return torch.sin(math.pi * a) * torch.sin(t) + a * torch.sin(t) + (1 - a) * t**2 + torch.cos(a)

    def boundary_values(self, x):
        return self.true(x)

    def velocity(self, x):
        return torch.sin(math.pi * x[:, 0]) + x[:, 0]


class ByExact(Moving):
    def exact(self, x):
        return self.true(x)

    velocity = Problem.velocity


@pytest.mark.parametrize("problem", [Moving(), ByExact()])
def test_a_velocity_holds_at_the_start_and_leaves_the_sides_as_they_are(problem):
    def bumps_value(x):
        return 50 * torch.cos(3 * x[:, :1] + x[:, 1:])

    def bumps(x):
        return Jet.of(bumps_value, x, "diagonal")

    start, *sides = (sampling.faces(problem.domain, (9, 9), [face]) for face in [(1, 0), (0, 0), (0, 1)])
    u = problem.extend(bumps, start, "diagonal")
    torch.testing.assert_close(u.value[:, 0], problem.true(start))
    torch.testing.assert_close(u.d(1)[:, 0], Moving().velocity(start))
    for side in sides:
        torch.testing.assert_close(problem.extend(bumps, side, "diagonal").value[:, 0], problem.true(side))
    x = sampling.interior(problem.domain, (4, 4))
    u = problem.extend(bumps, x, "diagonal")
    whole = Jet.of(lambda x: problem.extend(lambda x: Jet("value", bumps_value(x)), x, "value").value, x, "diagonal")
    torch.testing.assert_close(u.gradient, whole.gradient)
    torch.testing.assert_close(u.diagonal, whole.diagonal)


def test_a_velocity_that_contradicts_the_sides_gives_way_to_them_near_them_only():
    problem = type("Rest", (Moving,), {"velocity": Problem.velocity})()
    x = sampling.faces(problem.domain, (41, 5), [(1, 0)])
    u = problem.extend(lambda x: Jet.of(lambda x: 0 * x[:, 0], x, "diagonal"), x, "diagonal")
    inner = (x[:, 0] > 0.1) & (x[:, 0] < 0.9)
    assert u.d(1)[inner].abs().max() < 1e-12 and u.d(1)[-1].item() == pytest.approx(1)


def test_a_lift_of_ones_own_keeps_its_velocity():
    class Own(Moving):
        velocity = Problem.velocity

        def lift(self, x):
            return (x[:, 1] - 0.5) * 7 + 0 * x[:, 0]

    x = sampling.faces(Own().domain, (5, 5), [(1, 0)])
    u = Own().extend(lambda x: Jet.of(lambda x: x[:, 0], x, "gradient"), x, "gradient")
    assert (u.d(1) == 7).all()


def test_softly_the_velocity_is_a_condition():
    problem = Moving()
    condition = next(c for c in problem.conditions() if c.name == "velocity")
    x = condition.points((6, 6))
    assert (x[:, 1] == 0.5).all()
    assert condition.residual(x, Jet.of(problem.true, x, condition.want)).abs().max() < 1e-12


# --- conditions ----------------------------------------------------------------------------------


def test_a_residual_gets_the_unknowns_that_it_takes():
    both = {"k": 2.0, "q": 3.0}
    assert call_residual(lambda x, u: (x, u), 1, 2, both) == (1, 2)
    assert call_residual(lambda x, u, q: (x, u, q), 1, 2, both) == (1, 2, 3.0)
    assert call_residual(lambda x, u, **named: named, 1, 2, both) == both
    assert call_residual(lambda x, u, table=5, q=7: (table, q), 1, 2, both) == (5, 3.0)
    assert taken(lambda x, u, k, table=5: 0, both) == ["k"] and required(lambda at, jet, k, table=5: 0) == ["k"]
    assert required(Problem().residual) == []


@pytest.mark.parametrize(("changed", "error", "message"), [
    ({"points": torch.zeros(2, 2)}, TypeError, "points of condition 'c' must be a function .*, got Tensor"),
    ({"residual": None}, TypeError, "residual of condition 'c' must be a function"),
    ({"want": "curl"}, ValueError, "want of condition 'c' must be one of value, .*, got 'curl'"),
    ({"weight": math.nan}, ValueError, "weight of condition 'c' must be a finite number of at least 0, got nan"),
    ({"weight": -1}, ValueError, "weight of condition 'c' must be a finite number of at least 0, got -1"),
])  # fmt: skip
def test_a_condition_that_cannot_be_is_named(changed, error, message):
    with pytest.raises(error, match=message):
        Condition(**{"name": "c", "points": lambda counts: None, "residual": lambda x, u: u.value, **changed})
