"""Collocation points where the residual is large."""

import pytest
import torch
from cases import Cubic, Rotation

from bumpnet_fast import BumpNet
from bumpnet_fast.problems import get
from bumpnet_fast.solvers import solve
from bumpnet_fast.solvers.refine import held_out_loss, refined
from bumpnet_fast.solvers.residual import collocation


def net_for(problem, bumps):
    return BumpNet(len(problem.lower), bumps, problem.domain, problem.outputs, dtype="float64")


def test_points_go_where_the_residual_is_large():
    problem = get("sharp-poisson")
    net = net_for(problem, (4, 4))
    x, _ = collocation(problem, net, 100, "grid", 0)
    points, weights = refined(problem, net, "hard", {}, x, 200, 0)
    assert torch.equal(points[: len(x)], x) and len(points) == len(weights) == len(x) + 200
    distance = (points[len(x) :] - torch.tensor([0.3, 0.2])).norm(dim=1)
    assert (distance < 0.3).double().mean() > 0.4  # of the area, 0.07
    assert (points.abs() <= 1).all() and (weights > 0).all() and (weights <= 1).all()


@pytest.mark.parametrize("size", (1.0, 1e9))
def test_terms_that_a_source_is_as_large_as_keep_half_their_weight(size):
    kind = type(get("sharp-poisson"))
    problem = type("Sized", (kind,), {"residual": lambda self, x, u: size * kind.residual(self, x, u)})()
    x = torch.tensor([[0.3, 0.2], [-0.9, -0.9]], dtype=torch.float64)  # at the peak, and far from it
    net = solve(problem, (4, 4), iterations=2).net
    _, weights = refined(problem, net, "hard", {}, x, 100, 0)
    assert 0.3 < weights[0] < weights[1] <= 1


def with_a_thin_bump(problem):
    net = BumpNet(2, (3, 3), problem.domain, dtype="float64", outer="free")
    with torch.no_grad():
        net.rows[4, net.layout.size] = torch.log(torch.tensor(1e-3))
        net.rows[4, net.layout.sharpness] = torch.log(torch.tensor(4e3))
        net.rows[4, net.layout.amplitude] = 1.0
    return net


def test_points_that_are_held_out_see_a_thin_bump():
    problem = get("lshape")
    thin, flat = with_a_thin_bump(problem), net_for(problem, (3, 3))
    seen, nothing = (held_out_loss(problem, net, "soft", {}, 4000, 0) for net in (thin, flat))
    assert seen > 1e-2 and nothing == 0
    x, _ = collocation(problem, thin, 100, "grid", 0)
    with torch.no_grad():
        assert problem.residual(x, thin.jet(x, want="laplacian")).square().mean() < 1e-6


def test_a_thin_bump_between_the_points_is_found():
    problem = get("poisson")
    net = with_a_thin_bump(problem)
    x, _ = collocation(problem, net, 100, "grid", 0)
    points, _ = refined(problem, net, "hard", {}, x, 100, 0)
    near = (points[len(x) :] - net.centres[4]).abs().amax(1) < 2e-3
    assert near.double().mean() > 0.1  # of the area, 4e-6


def test_rows_count_less_where_the_terms_of_the_equation_are_large():
    problem = get("convection-diffusion", eps=0.05)
    net = net_for(problem, (8, 4))
    solve(problem, net, iterations=40)
    x, _ = collocation(problem, net, 400, "grid", 0)
    points, weights = refined(problem, net, "hard", {}, x, 10, 0)
    layer = points[:, 0] > 0.95
    assert weights[layer].median() < 0.4 * weights[points[:, 0] < 0.8].median()


@pytest.mark.parametrize(("problem", "bumps"), [(Cubic(), 8), (Rotation(), 6), (get("inverse-heat"), (4, 4))], ids=str)
@pytest.mark.parametrize("boundary", ["hard", "soft"])
def test_refining_serves_every_kind_of_problem(problem, bumps, boundary):
    if problem.name == "cubic" and boundary == "soft":
        bumps = 10
    solution = solve(
        problem, net_for(problem, bumps), boundary=boundary, refine=2, iterations=60, condition_weight=10.0
    )
    assert solution.rel_l2 < 1e-3


def test_a_boundary_layer_needs_it():
    problem = get("convection-diffusion", eps=0.01)
    plain, refined = (solve(problem, net_for(problem, (12, 3)), iterations=100, refine=n).rel_l2 for n in (0, 8))
    assert refined < 5e-3 and refined < 0.3 * plain


@pytest.mark.parametrize("size", [1e250, 0.0])
def test_residuals_whose_squares_are_no_numbers_or_all_zero(size):
    problem = get("sharp-poisson")
    net, (x, _) = net_for(problem, (4, 4)), collocation(problem, net_for(problem, (4, 4)), 100, "grid", 0)
    usual = type(problem).residual

    class Scaled(type(problem)):
        def residual(self, x, u):
            return size * usual(self, x, u)

    points, _ = refined(Scaled(), net, "hard", {}, x, 50, 0)
    assert bool(points.isfinite().all()) and len(points) == len(x) + 50
