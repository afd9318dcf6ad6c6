"""Bumps placed by the slopes of the start."""

from dataclasses import dataclass

import pytest
import torch

from bumpnet_fast import BumpNet
from bumpnet_fast.problems import Problem, get, sampling
from bumpnet_fast.problems.evolution import EvolutionProblem
from bumpnet_fast.solvers import solve, uniform_net
from bumpnet_fast.solvers.placement import _warp, drop_outside, grade


@dataclass
class Front(Problem):
    """Something that starts as a steep front at x = 0.4."""

    name, want, time = "front", "diagonal", 1
    lower: tuple = (-1.0, 0.0)
    upper: tuple = (1.0, 1.0)

    def boundary_values(self, x):
        return torch.tanh(50 * (x[:, 0] - 0.4))


def test_bumps_gather_at_a_front_and_shrink_there():
    problem = Front()
    net = BumpNet(2, (20, 3), problem.domain, dtype="float64")
    before = net.rows.detach().clone()
    grade(net, problem, 0.5)
    x, sizes = net.centres[:, 0], net.sizes / net.frame[2]
    assert ((x - 0.4).abs() < 0.1).double().mean() == pytest.approx(0.5, abs=0.12)
    at_front = (x - 0.4).abs() < 0.05
    assert sizes[at_front, 0].max() < 0.3 * sizes[~at_front, 0].max()
    assert net.sharpness[at_front].min() > net.sharpness[(x - 0.4).abs() > 0.5].max()
    assert torch.equal(net.rows[:, 1], before[:, 1]) and torch.equal(net.rows[:, 3], before[:, 3])
    columns = x.reshape(20, 3)
    assert (columns.diff(dim=0) > 0).all() and columns.abs().max() < 1


def test_without_slopes_or_share_nothing_moves():
    problem = get("poisson")
    for share, where in ((0.5, problem), (0.0, Front())):
        net = BumpNet(2, (4, 4), where.domain, dtype="float64")
        before = net.rows.detach().clone()
        grade(net, where, share)
        torch.testing.assert_close(net.rows.detach(), before)


def test_bumps_gather_where_the_outline_of_a_layer_is_steep():
    problem = get("convection-diffusion", eps=0.02, lower=(0, 0), upper=(2, 1))
    net = BumpNet(2, (16, 3), problem.domain, dtype="float64")
    before = net.centres.detach()
    grade(net, problem, 0.5)
    x = net.centres[:, 0]
    assert (x > 2 - 0.1).double().mean() == pytest.approx(0.5, abs=0.1) and x.max() < 2
    torch.testing.assert_close(net.centres[:, 1].detach(), before[:, 1])


def test_an_outline_without_finite_slopes_is_refused():
    problem = Front()
    problem.outline = lambda x: (x[:, 0] - problem.lower[0]).sqrt()
    with pytest.raises(ValueError, match="outline of problem 'front' must have finite slopes"):
        grade(BumpNet(2, (4, 4), problem.domain, dtype="float64"), problem, 0.5)


@dataclass
class Disc(Problem):
    """Poisson's equation in a disc of a large box, zero at the edge, which is built in by its distance."""

    name, linear = "disc", True
    radius: float = 0.7

    def inside(self, x):
        return self.distance(x) >= 0

    def distance(self, x):
        return 1 - x.square().sum(1) / self.radius**2

    def lift(self, x):
        return torch.zeros_like(x[:, 0])

    def exact(self, x):
        return self.distance(x) * torch.sin(4 * x[:, 0])

    def residual(self, x, u):
        sine, cosine = torch.sin(4 * x[:, 0]), torch.cos(4 * x[:, 0])
        change = -4 * sine - 16 * x[:, 0] * cosine
        return u.laplacian[:, 0] - change / self.radius**2 + 16 * self.distance(x) * sine


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bumps_outside_the_domain_are_dropped(dtype):
    problem = Disc(radius=0.3)
    net = BumpNet(2, (12, 12), problem.domain, dtype=dtype)
    before, centres = net.rows.detach().clone(), net.centres.detach()
    dropped = drop_outside(net, problem)
    assert dropped + len(net.rows) == 144 and 40 < dropped < 120 and net.rows.dtype == before.dtype
    radius = centres.norm(dim=1)
    assert (net.centres.norm(dim=1) < radius.max()).all()
    near = before[radius < problem.radius]
    assert all((net.rows == row).all(1).any() for row in near)
    scales = torch.linalg.vector_norm(net.basis(sampling.interior(problem.domain, (60, 60)).to(net.rows)).value, dim=0)
    assert drop_outside(net, problem) == 0 and scales.min() > 0


def test_where_the_domain_is_the_box_every_bump_stays():
    net = BumpNet(2, (5, 5), get("poisson").domain)
    assert drop_outside(net, get("poisson")) == 0 and len(net.rows) == 25


def test_a_disc_with_its_edge_built_in():
    problem = Disc()
    net = BumpNet(2, (7, 7), problem.domain, dtype="float64")
    drop_outside(net, problem)
    solution = solve(problem, net, iterations=10)
    assert solution.boundary == "hard" and solution.rel_l2 < 1e-4


@pytest.mark.parametrize("share", [1.0, -0.1, "half", float("nan")])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match="graded must be at least 0 and less than 1, got"):
        grade(BumpNet(2, 4), get("poisson"), share)


def test_a_graded_start_finds_a_layer():
    problem = get("convection-diffusion", eps=0.03)
    errors = []
    for share in (0.0, 0.5):
        net = BumpNet(2, (8, 2), problem.domain, dtype="float64")
        errors.append(solve(problem, grade(net, problem, share), iterations=12, refine=2).rel_l2)
    assert errors[1] < 2e-3 and errors[1] < 0.2 * errors[0]


# --- centres beyond the domain -----------------------------------------------------------------------


@dataclass
class Bump(Front):
    """Steep in the middle: at the ends the spacing grows as much as the share lets it."""

    def boundary_values(self, x):
        return torch.tanh(200 * x[:, 0])


@dataclass
class Edge(Front):
    """Steep at the right end, where the spacing shrinks."""

    def boundary_values(self, x):
        return torch.exp(-50 * (1 - x[:, 0]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("centre_box", [1.0, 1.3, 4.0])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.99, 0.9999999])
@pytest.mark.parametrize("problem", [Front(), Bump(), Edge()], ids=lambda problem: type(problem).__name__)
def test_centres_beyond_the_domain_keep_side_and_order_and_stay_in_their_box(problem, share, centre_box, dtype):
    net = BumpNet(2, (24, 2), problem.domain, dtype=dtype, centre_box=centre_box)
    unit = torch.linspace(-1, 1, 24).repeat_interleave(2)
    net.rows.data[:, 0] = torch.atanh(unit.clamp(-0.9999, 0.9999)).to(net.rows)
    net.rows.data[0, 0], net.rows.data[-1, 0] = -50, 50  # at the ends of the box, to rounding
    before = net.centres[:, 0].detach()
    grade(net, problem, share)
    after, (lo, hi) = net.centres[:, 0].detach(), net.frame[:2, 0]
    slack = 1e-5 if dtype == "float32" else 1e-12
    assert torch.isfinite(net.rows).all()
    assert (after.diff() >= -slack).all() and (after >= lo).all() and (after <= hi).all()
    assert (after[before < -1] <= -1 + slack).all() and (after[before > 1] >= 1 - slack).all()
    assert (after[before.abs() <= 1].abs() <= 1 + slack).all()


def test_the_spacing_goes_on_beyond_an_end_of_the_domain():
    unit = torch.linspace(-0.5, 1.5, 4001, dtype=torch.float64)
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    for density in (1.8 * t + 0.1, 1.9 - 1.8 * t, torch.ones_like(t)):
        moved, stretch = _warp(unit, density, (0.5, 0.5))
        slopes = torch.gradient(moved, spacing=(unit,))[0]
        assert moved[0] >= -0.5 and moved[-1] <= 0.5 + 1 and (moved.diff() > 0).all()
        assert moved[1000].abs() < 1e-12 and (moved[3000] - 1).abs() < 1e-12
        torch.testing.assert_close(slopes[1:-1], stretch[1:-1], rtol=0.1, atol=0.02)
    torch.testing.assert_close(moved, unit)


@pytest.mark.parametrize("std", [0.1, 2.0])
@pytest.mark.parametrize("share", [0.5, 0.7, 0.95])
def test_a_perturbed_net_is_graded(share, std):
    problem = get("convection-diffusion", eps=0.02)
    net = BumpNet(2, (12, 12), problem.domain, dtype="float64").perturb_(std, torch.Generator().manual_seed(0))
    grade(net, problem, share)
    assert torch.isfinite(net.rows).all()
    assert ((net.centres >= net.frame[0]) & (net.centres <= net.frame[1])).all()


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_net_that_fills_the_box_of_its_centres_is_graded(share):
    @dataclass
    class Held(EvolutionProblem):
        name, periodic = "held", False

        def outline(self, x):
            return torch.tanh(40 * x[:, 0])

    problem = Held()
    net = uniform_net(problem, 30)
    before = net.centres.detach()[:, 0]
    assert (before.abs() > 1).sum() >= 4
    grade(net, problem, share)
    after = net.centres.detach()[:, 0]
    assert torch.isfinite(net.rows).all() and (after.diff() > 0).all() and after.abs().max() < 1.3
    assert torch.equal(after.abs() > 1, before.abs() > 1)
