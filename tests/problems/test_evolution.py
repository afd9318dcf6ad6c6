"""Evolution problems: exact solutions, the Fourier reference, boundary functions, settings and their errors."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from bumpnet_fast import BumpNet, Jet
from bumpnet_fast.problems import sampling
from bumpnet_fast.problems.evolution import EVOLUTIONS, AllenCahn, Burgers, EvolutionProblem, Heat, get_evolution
from bumpnet_fast.problems.evolution.spectral import _Fourier, fourier_solution
from bumpnet_fast.solvers import solve

KNOWN = [
    ("heat", {}),
    ("heat", {"nu": 0.3, "lower": (-1,), "upper": (2,)}),
    ("heat", {"periodic": False}),
    ("heat2d", {}),
    ("heat2d", {"lower": (1, -2), "upper": (2, 1), "periodic": False}),
    ("advection", {"speed": 30}),
    ("advection", {"narrow": 2.0, "speed": -1.5}),
]


def inside(problem, count=40):
    return sampling.interior(problem.domain, (count, *[1] * (len(problem.lower) - 1)), "uniform")


@pytest.mark.parametrize("name, settings", KNOWN)
def test_exact_solutions_evolve_as_the_equation_says(name, settings):
    problem = get_evolution(name, **settings)
    x, t, dt = inside(problem), 0.1, 1e-4
    change = (problem.exact(x, t + dt) - problem.exact(x, t - dt)) / (2 * dt)
    rhs = problem.rhs(x, Jet.of(lambda x: problem.exact(x, t), x, problem.want), t).reshape(-1)
    torch.testing.assert_close(rhs, change, rtol=1e-5, atol=1e-5 * float(change.abs().max()))
    assert change.abs().max() > 0.1


@pytest.mark.parametrize("name", EVOLUTIONS)
def test_every_start_is_periodic_and_finite(name):
    problem = get_evolution(name)
    lo, hi = problem.domain
    edge = inside(problem)
    for j in problem.periodic_axes:
        edge[:, j] = lo[j]
        other = edge.clone()
        other[:, j] = hi[j]
        for part in ("value", "gradient"):
            a, b = (getattr(Jet.of(problem.initial, at, "gradient"), part) for at in (edge, other))
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    assert problem.initial(inside(problem)).abs().max() > 0.1


@pytest.mark.parametrize("name, settings", [case for case in KNOWN if case[1].get("periodic", True)])
def test_the_fourier_method_finds_the_exact_solutions(name, settings):
    problem = get_evolution(name, **settings, final_time=0.2)
    x = inside(problem)
    for t in (0.0, 0.1, 0.2, 0.05):  # going back in time, too
        values = fourier_solution(problem, x, t)[:, 0]
        torch.testing.assert_close(values, problem.exact(x, t), rtol=0, atol=2e-9)


def test_the_reference_of_burgers_is_that_of_cole_and_hopf():
    """u as a quotient of integrals, by Gauss-Hermite quadrature."""
    problem = Burgers(nu=0.05)
    nodes, weights = np.polynomial.hermite.hermgauss(80)
    x, t = np.array([-0.7, -0.2, 0.1, 0.55]), 0.4
    y = x[:, None] - np.sqrt(4 * problem.nu * t) * nodes
    f = weights * np.exp(-np.cos(np.pi * y) / (2 * np.pi * problem.nu))
    wanted = -(f * np.sin(np.pi * y)).sum(1) / f.sum(1)
    reference = problem.reference(torch.from_numpy(x)[:, None], t)[:, 0]
    torch.testing.assert_close(reference, torch.from_numpy(wanted), rtol=0, atol=1e-8)


def test_the_reference_is_computed_once(monkeypatch):
    calls = []

    class Counting(AllenCahn):
        def rhs(self, x, u, t):
            calls.append(t)
            return super().rhs(x, u, t)

    problem, x = Counting(rate=1.0), inside(AllenCahn())
    first = problem.reference(x, 0.1)
    number = len(calls)
    assert number > 10
    assert torch.equal(Counting(rate=1.0).reference(x, 0.1), first) and len(calls) == number
    assert not torch.equal(Counting(rate=2.0).reference(x, 0.1), first) and len(calls) > number


@pytest.mark.parametrize("want", ["value", "gradient", "diagonal", "hessian", "laplacian"])
def test_the_fourier_jets_are_derivatives(want):
    @dataclass
    class Waves(EvolutionProblem):
        outputs = 2
        lower: tuple = (0.0, 1.0)
        upper: tuple = (1.0, 3.0)

        def initial(self, x):
            a, b = 2 * math.pi * x[:, 0], math.pi * (x[:, 1] - 1)
            return torch.stack([torch.sin(a) * torch.cos(2 * b), torch.cos(a + 3 * b)], 1)

    Waves.want = want
    problem = Waves()
    solver = _Fourier(problem, 16)
    found, wanted = solver._jet(solver.states[0.0]), Jet.of(problem.initial, solver.x, want)
    for a, b in zip(found.parts(), wanted.parts(), strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_what_no_grid_resolves_has_no_reference():
    class Kink(AllenCahn):
        def initial(self, x):
            return x[:, 0].abs().sqrt()

    assert Kink().reference(torch.zeros(1, 1), 0.0) is None
    assert Heat(periodic=False).reference(torch.ones(1, 1), 0.1) is not None  # it is exact
    held = type("Held", (AllenCahn,), {"periodic": False})()
    assert held.reference(torch.zeros(1, 1), 0.1) is None


def test_distance_and_lift_see_the_held_axes_only():
    @dataclass
    class Channel(EvolutionProblem):
        periodic = (True, False)
        lower: tuple = (0.0, 0.0)
        upper: tuple = (1.0, 2.0)

        def boundary_values(self, x):
            return torch.cos(2 * math.pi * x[:, 0]) * (1 + x[:, 1])

    problem = Channel()
    assert problem.periodic_axes == (0,) and problem.held_axes == (1,)
    x = inside(problem)
    wall = x.clone()
    wall[::2, 1], wall[1::2, 1] = 0, 2
    assert problem.distance(wall).abs().max() == 0
    torch.testing.assert_close(problem.lift(wall), problem.boundary_values(wall))
    seam = x.clone()
    seam[:, 0] = 0
    torch.testing.assert_close(problem.distance(seam), problem.distance(x))
    closed = Heat()
    assert (closed.distance(inside(closed)) == 1).all() and (closed.lift(inside(closed)) == 0).all()


@pytest.mark.parametrize(("settings", "message"), [
    ({"name": "burger"}, "unknown problem 'burger'; there are: advection, allen-cahn, burgers, heat, heat2d"),
    ({"viscosity": 1}, "burgers has no field 'viscosity'; it has: lower, upper, final_time, nu"),
    ({"final_time": 0}, "final_time must be positive, got 0.0"),
    ({"final_time": -1.0}, "final_time must be positive"),
    ({"final_time": "soon"}, "final_time must be a finite number, got 'soon'"),
    ({"name": "heat", "periodic": "perhaps"}, "periodic must be True, False or 1 of them, one per axis, got 'perhaps'"),
    ({"name": "heat2d", "periodic": (True, False, True)}, "periodic must be True, False or 2 of them"),
    ({"lower": 1, "upper": 0}, "lower must be 1 finite number"),
    ({"lower": (1,), "upper": (0,)}, "lower must be below upper"),
])  # fmt: skip
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError) as error:
        get_evolution(**{"name": "burgers"} | settings)
    assert message in str(error.value)


def test_what_a_class_lacks_is_named():
    bare = EvolutionProblem()
    with pytest.raises(NotImplementedError, match=r"EvolutionProblem must define rhs\(x, u, t\)"):
        bare.rhs(torch.zeros(1, 1), None, 0.0)
    with pytest.raises(NotImplementedError, match=r"must define initial\(x\) or exact\(x, t\)"):
        bare.initial(torch.zeros(1, 1))


def test_the_solver_of_boundary_value_problems_says_what_to_use():
    problem = Burgers()
    with pytest.raises(NotImplementedError, match=r"'burgers' evolves in time: use solvers.evolve"):
        solve(problem, BumpNet(1, 8, problem.domain, dtype="float64"))
