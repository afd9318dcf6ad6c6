"""Solves over smooth bases: to a number of bumps, to an error, and what they say of themselves."""

import math
from dataclasses import dataclass

import pytest
import torch
from cases import Cubic, Rotation

from bumpnet_fast import BumpNet, io
from bumpnet_fast.problems import Condition, Problem, get
from bumpnet_fast.solvers import Stop, solve
from bumpnet_fast.solvers.linear.task import FrozenTask
from bumpnet_fast.solvers.loop import StopReason


@dataclass
class Star(Problem):
    """Poisson's equation in a star: no box, soft conditions."""

    name, want, forms = "star", "laplacian", ("soft",)

    def radius(self, angle):
        return 0.75 + 0.15 * torch.cos(4 * angle)

    def inside(self, x):
        return torch.linalg.vector_norm(x, dim=1) < self.radius(torch.atan2(x[:, 1], x[:, 0]))

    def boundary_points(self, counts):
        angle = torch.linspace(0, 2 * math.pi, 4 * sum(counts) + 1, dtype=torch.float64)[:-1]
        return self.radius(angle)[:, None] * torch.stack([torch.cos(angle), torch.sin(angle)], 1)

    def boundary_values(self, x):
        return self.exact(x)

    def exact(self, x):
        return torch.exp(x[:, 0]) * torch.sin(2 * x[:, 1])

    def residual(self, x, u):
        return u.laplacian[:, 0] + 3 * self.exact(x)


@dataclass
class Cube(Problem):
    """Poisson's equation in three dimensions."""

    name, want = "cube", "laplacian"
    lower: tuple = (0.0, 0.0, 0.0)
    upper: tuple = (1.0, 1.0, 1.0)

    def exact(self, x):
        return torch.exp(x[:, 0]) * torch.sin(x[:, 1]) * torch.cos(x[:, 2])

    def boundary_values(self, x):
        return self.exact(x)

    def residual(self, x, u):
        return u.laplacian[:, 0] + self.exact(x)


@dataclass
class Spike(Problem):
    """A source so narrow that few points see it."""

    name, want = "spike", "laplacian"
    lower: tuple = (0.0,)
    upper: tuple = (1.0,)
    width: float = 1e-3

    def residual(self, x, u):
        return u.laplacian[:, 0] + torch.exp(-(((x[:, 0] - 0.37) / self.width) ** 2)) / self.width


@dataclass
class Open(Problem):
    """Laplace's equation with values on one side only: u is not determined."""

    name, want, dirichlet = "open", "laplacian", ((0, 0),)
    lower: tuple = (0.0, 0.0)
    upper: tuple = (1.0, 1.0)

    def residual(self, x, u):
        return u.laplacian[:, 0] - 1


@dataclass
class Found(Problem):
    """u'' = -k pi^2 sin(pi x), with u known at some points: an unknown k = 2."""

    name, want = "found", "laplacian"
    lower: tuple = (0.0,)
    upper: tuple = (1.0,)

    def __post_init__(self):
        self.unknowns = {"k": 1.0}

    def exact(self, x):
        return 2 * torch.sin(math.pi * x[:, 0])

    def residual(self, x, u, k):
        return u.laplacian[:, 0] + k * math.pi**2 * torch.sin(math.pi * x[:, 0])

    def side_conditions(self):
        def points(counts):
            return torch.linspace(0.1, 0.9, 9, dtype=torch.float64)[:, None]

        return [Condition("measured", points, lambda x, u: u.value[:, 0] - self.exact(x))]


def worst(solution):
    return max(solution.error_estimate.rel_l2)


LINEAR = [
    (get("poisson"), 1e-6),
    (get("helmholtz"), 1e-5),
    (get("heat"), 1e-5),
    (get("wave"), 1e-4),
    (get("heat2d"), 1e-4),
    (get("advection", nu=3.0), 1e-5),
    (get("convection-diffusion", eps=0.1), 1e-5),
    (get("regression"), 1e-6),
    (Rotation(), 1e-6),
    (Star(), 1e-6),
    (Cube(), 1e-4),
]


@pytest.mark.parametrize("problem, error", LINEAR, ids=[p.name for p, _ in LINEAR])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_stated_error_is_reached_and_estimated(problem, error, seed):
    solution = solve(problem, error=error, seed=seed)
    assert solution.stop is StopReason.REACHED and not solution.warnings
    assert solution.error_estimate.reliable and worst(solution) <= error
    assert solution.rel_l2 <= 3 * error and solution.rel_l2 <= 3 * worst(solution)
    assert worst(solution) <= 30 * solution.rel_l2 or solution.rel_l2 < 1e-3 * error


@pytest.mark.parametrize("boundary", ["hard", "soft"])
def test_both_forms_of_the_boundary(boundary):
    solution = solve(get("poisson"), error=1e-4, boundary=boundary)
    assert solution.boundary == boundary and solution.stop is StopReason.REACHED and solution.rel_l2 <= 3e-4


@pytest.mark.parametrize("problem, error", [(Cubic(), 1e-6), (get("kovasznay"), 1e-4)], ids=["cubic", "kovasznay"])
def test_nonlinear_problems_take_newton_steps(problem, error):
    start = (lambda x: torch.sin(math.pi * x[:, 0])) if isinstance(problem, Cubic) else None
    solution = solve(problem, error=error, start=start)
    assert solution.stop is StopReason.REACHED and solution.rel_l2 <= 3 * error


@pytest.mark.parametrize("eps", [0.01, 0.001])
def test_layers_are_reached_by_maps_of_the_coordinates(eps, tmp_path):
    problem = get("convection-diffusion", eps=eps)
    solution = solve(problem, error=1e-5)
    assert solution.stop is StopReason.REACHED and solution.rel_l2 <= 3e-5
    assert solution.net.maps is not None and len(solution.net.rows) < 1000
    io.save(tmp_path / "model.pt", solution)
    x = torch.rand(9, 2, dtype=torch.float64)
    assert torch.equal(io.load(tmp_path / "model.pt").predict(x), solution.predict(x))


def test_unknowns_are_found():
    solution = solve(Found(), error=1e-6)
    assert abs(solution.unknowns["k"] - 2) < 1e-4 and solution.rel_l2 < 1e-4


def test_units_change_nothing():
    @dataclass
    class Scaled(Problem):
        name, want, time = "scaled", "diagonal", 1
        lower: tuple = (0.0, 0.0)
        upper: tuple = (1e-3, 1e6)

        def residual(self, x, u):
            return u.d(1) - 0.1 * (1e-6 / 1e6) * u.dd(0)

        def boundary_values(self, x):
            return torch.sin(math.pi * x[:, 0] / self.upper[0]) * (x[:, 1] == 0)

        def exact(self, x):
            first = torch.sin(math.pi * x[:, 0] / self.upper[0])
            return first * torch.exp(-0.1 * math.pi**2 * x[:, 1] / self.upper[1])

    solution = solve(Scaled(), error=1e-5)
    assert solution.stop is StopReason.REACHED and solution.rel_l2 < 3e-5


@pytest.mark.parametrize("problem", [Spike(), get("lshape"), Open()], ids=["spike", "lshape", "open"])
def test_what_is_not_reached_is_said(problem):
    solution = solve(problem, error=1e-5, stop=Stop(seconds=5.0), most=500)
    assert solution.stop is not StopReason.REACHED
    assert not solution.error_estimate.reliable or worst(solution) > 1e-5


def test_nothing_is_reached_where_something_speaks_against_the_estimate(monkeypatch):
    monkeypatch.setattr(FrozenTask, "doubt", lambda self: "u is not determined")
    solution = solve(get("poisson"), error=1e-3, max_seconds=0.5)
    assert solution.stop is not StopReason.REACHED or solution.method != "linear"  # a trained net has its own estimate


def test_a_u_that_is_zero_is_not_called_good():
    @dataclass
    class Unseen(Problem):
        """A source that no point meets."""

        name, want = "unseen", "laplacian"
        lower: tuple = (0.0, 0.0)
        upper: tuple = (1.0, 1.0)

        def residual(self, x, u):
            return u.laplacian[:, 0] + ((x - 1 / math.pi).norm(dim=1) < 1e-5)

    error = solve(Unseen(), 100, method="linear").error_estimate
    assert not error.reliable and "zero everywhere" in error.reason


def test_a_number_of_bumps_is_solved_for_and_estimated():
    solution = solve(get("poisson"), 200, method="linear")
    assert solution.stop is StopReason.SOLVED and 150 < len(solution.net.rows) <= 220
    assert solution.rel_l2 < 1e-8 and solution.error_estimate.reliable and solution.rel_l2 <= 3 * worst(solution)
    assert [entry["bumps"] for entry in solution.history] == sorted(entry["bumps"] for entry in solution.history)


def test_cells_along_the_axes_are_kept():
    solution = solve(get("helmholtz"), (8, 32), method="linear")
    assert len(solution.net.rows) == 256 and solution.history[-1]["cells"] == [8, 32]
    assert solution.rel_l2 < 1e-4


def test_a_net_keeps_its_shapes():
    net = BumpNet(2, (10, 10), get("poisson").domain, dtype="float64", overlap=6.0, sharpness=0.5)
    before = net.rows.detach().clone()
    solution = solve(get("poisson"), net, method="linear")
    shapes = slice(0, net.layout.shape_columns)
    assert solution.net is net and torch.equal(net.rows[:, shapes], before[:, shapes])
    assert solution.rel_l2 < 1e-4 and solution.stop is StopReason.SOLVED and len(solution.places.x) < 1000


def test_a_result_goes_on_as_any_other():
    solution = solve(get("heat"), error=1e-3)
    x = torch.rand(7, 2, dtype=torch.float64)
    assert solution.predict(x).shape == (7, 1) and "reliable" in str(solution.report())
    assert torch.allclose(solution.residual(x), solution.jet(x).d(1) - 0.05 * 0 - solution.jet(x).d(1), atol=1)


def test_callbacks_see_every_size_and_can_interrupt():
    seen = []

    def stop(progress):
        seen.append(progress.entry["bumps"])
        if len(seen) == 3:
            raise KeyboardInterrupt

    solution = solve(get("helmholtz"), error=1e-12, callback=stop)
    assert len(seen) == 3 and solution.stop is StopReason.INTERRUPTED and solution.rel_l2 < 1


@pytest.mark.parametrize("arguments, named", [
    ({"error": 0.0}, "error"),
    ({"error": -1e-3}, "error"),
    ({"error": math.nan}, "error"),
    ({"error": 1e-3, "net": 40}, "net"),
    ({"error": 1e-3, "method": "adam"}, "method"),
    ({"error": 1e-3, "points": 100}, "points"),
    ({"error": 1e-3, "restarts": 2}, "restarts"),
    ({"error": 1e-3, "seed": -1}, "seed"),
    ({"error": 1e-3, "condition_weight": 0.0}, "condition_weight"),
    ({"error": 1e-3, "most": 0}, "most"),
    ({"method": "linear", "net": 0}, "net"),
    ({"method": "linear", "net": 64, "ridge": -1.0}, "ridge"),
    ({"method": "linear", "net": 64, "checkpoint": "run.pt"}, "checkpoint"),
])  # fmt: skip
def test_bad_arguments_are_named(arguments, named):
    arguments = dict(arguments)
    with pytest.raises(ValueError, match=named):
        solve(get("poisson"), arguments.pop("net", None), **arguments)


def test_unknown_options_are_named():
    with pytest.raises(TypeError, match="tolerance"):
        solve(get("poisson"), error=1e-3, tolerance=1e-3)
