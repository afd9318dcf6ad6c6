"""Lean fits of maps: what they leave is what the net leaves, and maps of layers leave less."""

import math
from dataclasses import dataclass

import pytest
import torch
from cases import Rotation

from bumpnet_fast.core.maps import AxisMap, Maps
from bumpnet_fast.nets.smooth import Shape
from bumpnet_fast.problems import Condition, Problem, get
from bumpnet_fast.solvers.linear.levels import first_shape
from bumpnet_fast.solvers.linear.mapped_fits import MappedFits, denser_where_mapped
from bumpnet_fast.solvers.linear.task import FrozenTask
from bumpnet_fast.solvers.map_search import Places

SQUARE = Shape(0.3, (0.0, 0.0))


def fits(problem, bumps=128, boundary="hard"):
    work = FrozenTask(problem, bumps, first_shape(len(problem.lower)), boundary, 1e-26, 0)
    return MappedFits(work, Shape(0.3, (0.0,) * len(problem.lower)))


def layer(width, share=0.1):
    return Maps((AxisMap(0.0, 1.0, "asinh", (1.0,), (width,), share), AxisMap(0.0, 1.0)))


@pytest.mark.parametrize("maps", [None, layer(0.01)], ids=["none", "layer"])
@torch.no_grad()
def test_what_is_left_is_the_residual_of_the_net(maps):
    problem = get("convection-diffusion", eps=0.05)
    fit = fits(problem)
    held_out, net = fit(maps)
    maps = Maps.identity(problem.domain) if maps is None else maps
    roots = []
    for k, at in enumerate([fit.even, fit.xi[fit.number :]]):
        x = at if k == 0 else maps.inverse(at)
        weights = torch.ones(len(x)).double() if k == 0 else 1 / maps.at(x).first.prod(-1)
        squares = Places(problem, "hard", x).residual(net).square().sum(0)
        roots.append(float((squares * weights).sum() / weights.sum()) ** 0.5)
    assert held_out == pytest.approx(max(roots), rel=1e-6)


@torch.no_grad()
def test_the_map_of_a_layer_leaves_less_and_comes_closer():
    problem = get("convection-diffusion", eps=0.001)
    fit = fits(problem)
    x = torch.rand(999, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    errors, left = [], []
    for maps in (None, layer(1e-3), layer(0.03)):
        held_out, net = fit(maps)
        u = problem.extend(lambda x, net=net: net.jet(x, want="value"), x, "value", "hard").value[:, 0]
        exact = problem.exact(x)
        left.append(held_out)
        errors.append(float((u - exact).norm() / exact.norm()))
    assert left[1] < 0.05 * min(left[0], left[2]) and errors[1] < 0.05 * min(errors[0], errors[2])


@torch.no_grad()
def test_inverses_are_kept():
    fit = fits(get("convection-diffusion"))
    first, _ = fit(layer(0.01))
    kept = dict(fit._inverted)
    again, _ = fit(layer(0.01))
    assert first == again and len(kept) == 2 and all(fit._inverted[key] is kept[key] for key in kept)


def test_cells_go_where_the_maps_are():
    both = Maps((AxisMap(0.0, 1.0, "asinh", (1.0,), (0.1,), 0.1), AxisMap(0.0, 1.0, "asinh", (0.0,), (0.1,), 0.1)))
    assert denser_where_mapped(SQUARE, layer(0.1)).counts(128, (1.0, 1.0)) == (23, 6)
    assert denser_where_mapped(SQUARE, both) == denser_where_mapped(SQUARE, None) == SQUARE


@dataclass
class Flux(Problem):
    """A flux on one side, as a condition beside the values on the others."""

    name, want, dirichlet = "flux", "laplacian", ((0, 0), (1, 0), (1, 1))
    lower: tuple = (0.0, 0.0)
    upper: tuple = (1.0, 1.0)

    def exact(self, x):
        return torch.sin(2 * x[:, 0]) * torch.sin(math.pi * x[:, 1])

    def residual(self, x, u):
        return u.laplacian[:, 0] + (4 + math.pi**2) * self.exact(x)

    def side_conditions(self):
        def points(counts):
            along = torch.linspace(0, 1, 30, dtype=torch.float64)
            return torch.stack([torch.ones_like(along), along], 1)

        def flux(x, u):
            return u.d(0)[:, 0] - 2 * math.cos(2.0) * torch.sin(math.pi * x[:, 1])

        return [Condition("flux", points, flux, "gradient")]


@pytest.mark.parametrize("problem, boundary", [(Flux(), "hard"), (Flux(), "soft"), (Rotation(), "hard")])
@torch.no_grad()
def test_conditions_and_systems_are_solved_with_the_equation(problem, boundary):
    _, net = fits(problem, 100, boundary)(None)
    lo, hi = problem.domain
    x = lo + (hi - lo) * torch.rand(500, len(lo), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    u = problem.extend(lambda x: net.jet(x, want="value"), x, "value", boundary).value
    exact = problem.exact(x).reshape(len(x), -1)
    assert float((u - exact).norm() / exact.norm()) < 1e-3
