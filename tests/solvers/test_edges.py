"""Edges of bumps that stay as thick as the points can see."""

import math

import pytest
import torch

from bumpnet_fast import BumpNet
from bumpnet_fast.core.rows import RowLayout
from bumpnet_fast.problems.regression import Regression
from bumpnet_fast.solvers import solve
from bumpnet_fast.solvers.edges import EdgeLimit


def net_of(dim, bumps=4, **options):
    domain = torch.tensor([[0.0] * dim, [1.0] * dim])
    return BumpNet(dim, (bumps,) * dim, domain, dtype="float64", **options).perturb_(
        0.2, torch.Generator().manual_seed(0)
    )


def grid(dim, number):
    axis = (torch.arange(number, dtype=torch.float64) + 0.5) / number
    return torch.cartesian_prod(*(axis,) * dim).reshape(-1, dim)


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("outer", ["tied", "free"])
def test_thickness_is_that_of_psi_where_the_box_ends(dim, outer):
    net = net_of(dim, outer=outer)
    packed = net._packed()
    steepest = packed.s * torch.linalg.vector_norm(packed.V[:, 0], dim=1) / net.frame[2, 0]
    assert torch.allclose(EdgeLimit(grid(dim, 5), net.frame, net.layout).log_thickness(net.rows), -steepest.log())


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_distances_of_a_grid_are_its_spacing(dim):
    net = net_of(dim)
    limit = EdgeLimit(grid(dim, 12), net.frame, net.layout)
    spacing = float(net.frame[2, 0]) / 12
    assert 0.8 * spacing < float(limit.distances.median()) < 1.6 * spacing


def test_points_that_crowd_allow_thinner_edges_there():
    net = net_of(1, 8, overlap=0.5)
    crowded = torch.cat([grid(1, 20), 0.2 * grid(1, 400)])
    thinnest = EdgeLimit(crowded, net.frame, net.layout).log_thinnest(net.rows)
    centres = net.centres[:, 0]
    left, right = thinnest[centres < 0.1].exp(), thinnest[(centres > 0.3) & (centres < 0.9)].exp()
    assert len(left) and len(right) and float(right.min()) > 5 * float(left.max())


@pytest.mark.parametrize("outer", ["tied", "free"])
def test_a_step_stops_at_the_limit_and_an_edge_that_is_beyond_it_stays(outer):
    net = net_of(2, outer=outer)
    layout, rows = net.layout, net.rows.detach()
    limit = EdgeLimit(grid(2, 20), net.frame, layout)
    far = rows.clone()
    far[:, layout.sharpness] += 5.0
    limited = limit.limited(rows, far)
    assert torch.allclose(limit.log_thickness(limited), limit.log_thinnest(far), rtol=0, atol=1e-9)
    others = [c for c in range(layout.columns) if c not in (layout.sharpness, layout.outer)]
    assert torch.equal(limited[:, others], far[:, others])
    assert torch.allclose(limit.limited(far, far), far, rtol=0, atol=1e-12)
    assert limit.limited(rows, rows) is rows


def test_only_the_way_to_thinner_edges_is_held():
    net = net_of(2)
    layout = net.layout
    limit = EdgeLimit(grid(2, 20), net.frame, layout)
    thin = net.rows.detach().clone()
    thin[:, layout.sharpness] += 5.0
    thin = limit.limited(net.rows.detach(), thin)[:, : layout.shape_columns]
    down = torch.ones_like(thin)
    held = limit.held(thin, down)
    assert bool(held[:, layout.sharpness].all()) and int(held.sum()) == len(thin)
    assert not bool(limit.held(thin, -down).any())
    assert not bool(limit.held(net.rows.detach()[:, : layout.shape_columns], down).any())


def test_one_point_sets_no_limit():
    layout = RowLayout(1)
    net = net_of(1)
    limit = EdgeLimit(torch.zeros(1, 1), net.frame, layout)
    rows = net.rows.detach()
    sharper = rows.clone()
    sharper[:, layout.sharpness] += 10
    assert limit.limited(rows, sharper) is sharper
    assert limit.log_enough == -math.inf


@pytest.mark.parametrize("method", ["varpro", "lm", "adam", "lbfgs"])
def test_no_method_makes_edges_that_fit_noise_between_the_points(method):
    x = grid(1, 60)
    noise = torch.randn(60, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    solution = solve(Regression.through(x, noise), 12, method=method, iterations=150)
    limit = EdgeLimit(x, solution.net.frame, solution.net.layout)
    rows = solution.net.rows.detach()
    assert bool((limit.log_thickness(rows) >= limit.log_thinnest(rows) - 1e-9).all())
    assert solution.loss < solution.history[0]["loss"]
