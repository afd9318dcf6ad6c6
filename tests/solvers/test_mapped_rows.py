"""Rows of equations over nets with maps: matrices, training, errors and enrichment."""

import pytest
import torch

import bumpnet_fast as bf
from bumpnet_fast import BumpNet, problems
from bumpnet_fast.core.maps import AxisMap, Maps
from bumpnet_fast.problems.evolution import Burgers
from bumpnet_fast.solvers.enrichment import Enriched, added_bumps, fitted, in_float64
from bumpnet_fast.solvers.refine import candidates
from bumpnet_fast.solvers.residual import System, blocks
from bumpnet_fast.solvers.run_state import net_from, net_state
from bumpnet_fast.solvers.solution import NetErrorMeasure

LAYER = Maps((AxisMap(0.0, 1.0, "asinh", (1.0,), (0.03,), 0.2), AxisMap(0.0, 1.0, "logistic", (0.5,), (0.2,), 0.4)))


def layer(bumps=(4, 3), **options):
    problem = problems.get("convection-diffusion")
    net = BumpNet(2, bumps, problem.domain, dtype="float64", maps=LAYER, **options)
    with torch.no_grad():
        net.rows += 0.3 * torch.randn(net.rows.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return problem, net


def points(n=20):
    return torch.rand(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("boundary", ["hard", "soft"])
def test_matrices_are_the_derivatives_of_the_rows(boundary):
    problem, net = layer()
    system = System(blocks(problem, boundary, (4, 4), points(), 1.0), net)
    rows = net.rows.detach().clone().requires_grad_()
    _, coefficients = system.linearise(system.jets(net.rows.detach()))
    A, D = system.design(net.rows.detach(), coefficients, True)
    expected = torch.autograd.functional.jacobian(lambda r: system.residual(system.jets(r)), rows)
    shapes = net.layout.shape_columns
    torch.testing.assert_close(A.T, expected[:, :, shapes], rtol=1e-8, atol=1e-8 * float(A.abs().max()))
    J = system.shape_jacobian(D, net.amplitudes.detach()).view(len(rows), shapes, -1).movedim(-1, 0)
    torch.testing.assert_close(J, expected[:, :, :shapes], rtol=1e-8, atol=1e-8 * float(J.abs().max()))


def test_jets_are_those_of_the_net():
    problem, net = layer()
    system = System(blocks(problem, "hard", (4, 4), points(), 1.0), net)
    (jets,) = system.jets(net.rows.detach())
    for part, other in zip(jets[0].parts(), net.jet(points(), want=problem.want).parts(), strict=True):
        torch.testing.assert_close(part, other)


def test_training_keeps_the_maps_and_resolves_the_layer():
    problem = problems.get("convection-diffusion")
    net = BumpNet(2, (6, 3), problem.domain, dtype="float64", maps=LAYER)
    solution = bf.solve(problem, net, iterations=10, seed=0)
    even = bf.solve(problem, BumpNet(2, (6, 3), problem.domain, dtype="float64"), iterations=10, seed=0)
    assert solution.net.maps == LAYER
    assert solution.rel_l2 < 0.1 * even.rel_l2
    x = points()
    measured = NetErrorMeasure(problem, solution.net, "hard").of(solution.net.rows.detach())
    assert measured[0] == pytest.approx(solution.rel_l2)
    torch.testing.assert_close(
        solution.predict(x), problem.compose(x, "value")(solution.net.jet(x, want="value")).value
    )


def test_enrichment_keeps_the_maps():
    problem, net = layer()
    added = added_bumps(net, problem.domain, 60, 0)
    assert added.maps == LAYER and in_float64(net).maps == LAYER
    u = Enriched(problem, "hard", [net, added], torch.empty(0, dtype=torch.float64))
    found = fitted(u, blocks(problem, "hard", (8, 8), points(400), 1.0))
    assert all(n.maps == LAYER for n in found.u.nets)
    assert found.norms[1] < 0.2 * found.norms[0]


def test_states_of_runs_keep_the_maps():
    _, net = layer()
    assert net_from(net_state(net)).maps == LAYER
    plain = BumpNet(2, 4)
    assert "maps" not in net_state(plain) and net_from(net_state(plain)).maps is None


def test_candidates_are_near_the_bumps():
    problem = problems.get("convection-diffusion")
    net = BumpNet(2, (8, 4), problem.domain, dtype="float64", maps=LAYER)
    even = BumpNet(2, (8, 4), problem.domain, dtype="float64")
    found, usual = (candidates(problem, n, 2000, torch.Generator().manual_seed(0), 0) for n in (net, even))
    assert float((found[:, 0] > 0.97).double().mean()) > 3 * float((usual[:, 0] > 0.97).double().mean())


def test_refused_where_they_are_not_supported():
    problem = problems.get("convection-diffusion")
    net = BumpNet(2, (4, 4), problem.domain, maps=LAYER)
    with pytest.raises(ValueError, match="no maps for graded"):
        bf.solvers.placement.grade(net, problem, 0.5)
    heat = problems.get("heat")
    with pytest.raises(ValueError, match="no maps for a march"):
        bf.march(heat, windows=2, bumps=4, net={"maps": LAYER})
    burgers = Burgers()
    lo, hi = burgers.lower[0], burgers.upper[0]
    moving = BumpNet(1, 8, [[lo], [hi]], maps=Maps((AxisMap(lo, hi, "asinh", (lo,), (0.1,), 0.5),)))
    with pytest.raises(ValueError, match="no maps for evolve"):
        bf.evolve(burgers, moving)
