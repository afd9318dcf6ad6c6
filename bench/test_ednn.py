"""One solve for the evolution of the weights, and whole evolutions: bumps against a multilayer perceptron.

    pytest bench/test_ednn.py

prints, at the end, the times of both and their ratios.  float64, one thread, 256 collocation points, periodic.
"""

from __future__ import annotations

import math

import mlp_ednn
import pytest
import torch

from bumpnet_fast.problems.evolution import Advection, Burgers, Heat
from bumpnet_fast.solvers import evolve, uniform_net
from bumpnet_fast.solvers.evolution.basis import Space, quadrature
from bumpnet_fast.solvers.evolution.models import FixedBasis

POINTS, BUMPS = 256, 40
SOLVE = "solve for the evolution of the weights, 256 points, float64"
WHOLE = "evolution of a pulse once around, float64"
PULSE = Advection(narrow=2.0)


@pytest.fixture(scope="module")
def bumps():
    net = uniform_net(PULSE, BUMPS)
    with torch.no_grad():
        return FixedBasis(Space.of(PULSE, net), net.rows.double(), *quadrature(PULSE, net, POINTS))


@pytest.fixture(scope="module")
def perceptron(bumps):
    x = bumps.x[:, 0]
    net = mlp_ednn.Perceptron(2 * math.pi)
    misfit = net.fit(x, PULSE.initial(bumps.x))
    assert len(net.weights) == 921 and misfit < 1e-2
    return net, x


@pytest.mark.benchmark(group=SOLVE, warmup=True)
def test_solve_bumps(benchmark, bumps):
    benchmark.extra_info["contestant"] = "ours"
    values = PULSE.rhs(bumps.x, bumps.jet(bumps.state), 0.0)
    rates = benchmark(bumps.solve, values)
    missed = bumps.basis.value @ rates[:, None] - values
    assert missed.norm() < 1e-6 * values.norm()


@pytest.mark.benchmark(group=SOLVE, min_rounds=10)
def test_solve_perceptron(benchmark, perceptron):
    net, x = perceptron
    benchmark.extra_info["contestant"] = "perceptron, 921 weights"
    J, slope = net.jacobian(net.weights, x), -net.u_x(net.weights, x)
    rates = benchmark(mlp_ednn.solve_for_rates, J, slope)
    assert (J @ rates - slope).norm() < 0.1 * slope.norm()


@pytest.mark.benchmark(group=SOLVE, min_rounds=10)
def test_solve_perceptron_by_svd(benchmark, perceptron):
    net, x = perceptron
    benchmark.extra_info["contestant"] = "perceptron, SVD"
    J, slope = net.jacobian(net.weights, x), -net.u_x(net.weights, x)

    def solve():
        left, singular, right = torch.linalg.svd(J, full_matrices=False)
        keep = singular > mlp_ednn.CUT * singular[0]
        return right[keep].T @ ((left[:, keep].T @ slope) / singular[keep])

    rates = benchmark(solve)
    torch.testing.assert_close(J @ rates, J @ mlp_ednn.solve_for_rates(J, slope), rtol=0, atol=1e-6)


@pytest.mark.benchmark(group=WHOLE, min_rounds=3)
def test_evolution_bumps(benchmark):
    benchmark.extra_info["contestant"] = "ours"
    options = {"points": POINTS, "method": "rk4", "step": PULSE.final_time / 100, "times": 1}
    run = benchmark(evolve, PULSE, 20, **options)
    assert run.steps == 100 and run.rel_l2 < 1e-3


@pytest.mark.benchmark(group=WHOLE)
def test_evolution_perceptron(benchmark, perceptron):
    net, x = perceptron
    benchmark.extra_info["contestant"] = "perceptron, 921 weights"
    args = net, x, lambda u, u_x, u_xx: -u_x, PULSE.final_time, 100
    weights = benchmark.pedantic(mlp_ednn.evolve, args, rounds=1)
    error = net.u(weights, x) - PULSE.exact(x[:, None], PULSE.final_time)
    assert error.norm() < 0.05 * PULSE.initial(x[:, None]).norm()


@pytest.mark.parametrize("problem, wanted", [(Heat(), 1e-7), (Advection(), 1e-7), (Burgers(), 5e-5)], ids=str)
@pytest.mark.benchmark(group="evolutions by 40 bumps, with set-up and reference", min_rounds=1)
def test_evolutions(benchmark, problem, wanted):
    run = benchmark.pedantic(evolve, (problem, BUMPS), rounds=1)
    benchmark.extra_info |= {"rel_l2": run.rel_l2, "stepping_seconds": run.seconds, "method": run.method}
    assert run.rel_l2 < wanted
