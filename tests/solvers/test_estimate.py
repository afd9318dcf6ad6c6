"""The error estimate: within a factor of three where it calls itself reliable, and modest where it cannot be known."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from cases import Rotation

from bumpnet_fast import BumpNet, load, problems, save
from bumpnet_fast.problems import Condition, Problem
from bumpnet_fast.problems.regression import Regression
from bumpnet_fast.problems.sampling import lattice
from bumpnet_fast.solvers import march, solve
from bumpnet_fast.solvers.estimate import Places, estimate_seconds, estimated

get = problems.get


@dataclass
class Layer(Problem):
    """-eps u'' + u' = 1, zero at both ends: a layer of thickness eps."""

    name, want = "layer", "diagonal"
    eps: float = 0.05
    lower: tuple = (0.0,)
    upper: tuple = (1.0,)

    def residual(self, x, u):
        return u.d(0) - self.eps * u.dd(0) - 1

    def exact(self, x):
        t, whole = x[:, 0], 1 - math.exp(-1 / self.eps)
        return t - (torch.exp((t - 1) / self.eps) - math.exp(-1 / self.eps)) / whole


@dataclass
class Kink(Problem):
    """u'' jumps."""

    name, want = "kink", "laplacian"
    at: float = 0.37
    lower: tuple = (0.0,)
    upper: tuple = (1.0,)

    def residual(self, x, u):
        return u.laplacian[:, 0] - torch.where(x[:, 0] > self.at, 2.0, -1.0)

    def exact(self, x):
        t = x[:, 0] - self.at
        return torch.where(t > 0, t * t, -t * t / 2)


@dataclass
class Spike(Problem):
    """A narrow peak in one dimension."""

    name, want = "spike", "laplacian"
    width: float = 0.03
    lower: tuple = (0.0,)
    upper: tuple = (1.0,)

    def residual(self, x, u):
        r = (x[:, 0] - 0.431) / self.width
        return u.laplacian[:, 0] - (r * r - 1) / self.width**2 * torch.exp(-r * r / 2)

    def exact(self, x):
        return torch.exp(-(((x[:, 0] - 0.431) / self.width) ** 2) / 2)


@dataclass
class Units(Problem):
    """The heat equation in units of one's own."""

    name, want, time = "units", "diagonal", 1
    lower: tuple = (0.0, 0.0)
    upper: tuple = (1.0, 1.0)

    def residual(self, x, u):
        length, duration = self.upper
        return u.d(1) - 0.1 * length**2 / duration * u.dd(0)

    def exact(self, x):
        length, duration = self.upper
        return torch.sin(math.pi * x[:, 0] / length) * torch.exp(-0.1 * math.pi**2 * x[:, 1] / duration)


@dataclass
class Cube(Problem):
    """A smooth solution in three dimensions."""

    name, want = "cube", "laplacian"
    lower: tuple = (0.0, 0.0, 0.0)
    upper: tuple = (1.0, 1.0, 1.0)

    def residual(self, x, u):
        return u.laplacian[:, 0] + 12 * self.exact(x)

    def exact(self, x):
        return torch.sin(2 * x).prod(1)


@dataclass
class Disc(Problem):
    """A mask: the unit disc in its box."""

    name, want, forms = "disc", "laplacian", ("soft",)

    def inside(self, x):
        return x.square().sum(1) <= 1

    def boundary_points(self, counts):
        angle = 2 * math.pi * torch.arange(4 * max(counts), dtype=torch.float64) / (4 * max(counts))
        return torch.stack([angle.cos(), angle.sin()], 1)

    def residual(self, x, u):
        return u.laplacian[:, 0] + 3 * self.exact(x)

    def exact(self, x):
        return torch.exp(x[:, 0]) * torch.sin(2 * x[:, 1])


@dataclass
class Growing(Problem):
    """Errors of the first window are a hundred times larger in the last one."""

    name, want, time = "growing", "diagonal", 1
    lower: tuple = (0.0, 0.0)
    upper: tuple = (1.0, 1.0)

    def residual(self, x, u):
        return u.d(1) - 0.05 * u.dd(0) - 5 * u.value

    def exact(self, x):
        return torch.sin(math.pi * x[:, 0]) * torch.exp((5 - 0.05 * math.pi**2) * x[:, 1])


@dataclass
class Stiffening(Problem):
    """u'' - u^3 = f: nonlinear, with one solution."""

    name, want = "stiffening", "laplacian"
    lower: tuple = (-1.0,)
    upper: tuple = (1.0,)

    def exact(self, x):
        return torch.sin(math.pi * x[:, 0])

    def residual(self, x, u):
        exact = self.exact(x)
        return u.laplacian - u.value**3 + (exact**3 + math.pi**2 * exact)[:, None]


def true_error(solution):
    """Relative L2 by output."""
    problem = solution.problem
    x = lattice(problem.domain)
    x = x[problem.inside(x)]
    exact = problem.reference(x).reshape(len(x), -1)
    return ((solution.predict(x).double() - exact).norm(dim=0) / exact.norm(dim=0)).tolist()


def ratios(solution):
    """Estimates relative to the truth."""
    return [e / t for e, t in zip(solution.error_estimate.rel_l2, true_error(solution), strict=True)]


SMOOTH = [
    (get("poisson"), (4, 4), (5, 20, 60), {}),
    (get("poisson"), (4, 4), (5, 40), {"boundary": "soft"}),
    (get("helmholtz", a2=2), (5, 5), (5, 20), {}),
    (get("heat"), (4, 4), (5, 40), {}),
    (get("wave"), (5, 5), (5, 30), {}),
    (get("kovasznay"), (4, 4), (2,), {}),
    (get("inverse-heat"), (4, 4), (5, 20), {}),
    (get("convection-diffusion", eps=0.1), (8, 3), (10, 40), {}),
    (get("advection", nu=3.0), (4, 4), (5, 20), {}),
    (get("regression"), 6, (5, 30), {}),
    (Layer(), 8, (5, 20), {}),
    (Stiffening(), 6, (2, 10), {}),
    (Rotation(), 6, (5, 20), {}),
    (Rotation(), 6, (5, 20), {"boundary": "soft"}),
    (Disc(), (4, 4), (5, 40), {}),
    (Cube(), (2, 2, 2), (5, 10), {}),
    (Units(upper=(1e-6, 86400.0)), (4, 4), (5, 30), {}),
    (Units(upper=(1e5, 1e-6)), (4, 4), (30,), {"boundary": "soft"}),  # trained in vain: the weights have units
]


@pytest.mark.parametrize(
    "problem, bumps, iterations, options",
    [(p, b, i, o) for p, b, its, o in SMOOTH for i in its],
    ids=[f"{p.name}-{o.get('boundary', 'first')}-{i}" for p, _, its, o in SMOOTH for i in its],
)
def test_where_u_is_smooth_the_estimate_is_right(problem, bumps, iterations, options):
    solution = solve(problem, bumps, iterations=iterations, **options)
    rows = solution.net.rows.detach().clone()
    error = solution.error_estimate
    assert error.reliable, error.reason
    assert all(1 / 3 < ratio < 3 for ratio in ratios(solution))
    assert torch.equal(solution.net.rows, rows) and solution.error_estimate is error


@pytest.mark.parametrize("problem, bumps, iterations, options", [
    (get("lshape"), (5, 5), 40, {}),
    (get("lshape"), (8, 8), 20, {}),
    (get("sharp-poisson"), (5, 5), 20, {}),
    (get("sharp-poisson", a=1000.0), (6, 6), 40, {}),
    (get("sharp-poisson", a=10000.0), (6, 6), 40, {}),
    (get("sharp-poisson", a=100000.0), (6, 6), 10, {}),
    (get("convection-diffusion", eps=0.001), (8, 3), 20, {}),
    (get("burgers"), (6, 4), 10, {}),
    (Kink(), 8, 20, {}),
    (Spike(width=0.001), 8, 20, {}),
    (Spike(width=0.0001), 8, 20, {}),
])  # fmt: skip
def test_what_smooth_bumps_do_not_resolve_is_not_called_reliable(problem, bumps, iterations, options):
    error = solve(problem, bumps, iterations=iterations, **options).error_estimate
    assert not error.reliable and error.reason


@pytest.mark.parametrize("eps", (0.5, 0.01, 0.001))
@pytest.mark.parametrize("iterations", (5, 40))
def test_layers_are_told_or_not_told_but_never_wrongly(eps, iterations):
    solution = solve(Layer(eps=eps), 8, iterations=iterations)
    assert not solution.error_estimate.reliable or all(1 / 3 < ratio < 3 for ratio in ratios(solution))


def test_the_largest_error():
    problem = get("poisson")
    solution = solve(problem, (4, 4), iterations=20)
    (largest,) = solution.error_estimate.max
    x = lattice(problem.domain)
    assert largest == pytest.approx(float((solution.predict(x)[:, 0] - problem.exact(x)).abs().max()), rel=0.2)


def test_a_net_in_float32():
    problem = get("poisson")
    net = BumpNet(2, (4, 4), problem.domain, dtype="float32")
    solution = solve(problem, net, method="varpro-adam", iterations=100)
    assert solution.error_estimate.reliable and net.rows.dtype == torch.float32
    assert all(0.5 < ratio < 2 for ratio in ratios(solution))


# --- unknowns of the equation ------------------------------------------------------------------------------


@dataclass
class Reaction(Problem):
    """u'' = (a unknown) u^3 - f, zero at the ends, u measured; ``kind`` says where the unknowns are."""

    name, want, unknowns = "reaction", "laplacian", {"a": 1.0, "b": 2.0}
    kind: str = "determined"
    lower: tuple = (0.0,)
    upper: tuple = (1.0,)

    def exact(self, x):
        return torch.sin(math.pi * x[:, 0])

    def residual(self, x, u, a, b):
        e, v = self.exact(x), u.value[:, 0]
        rate = {"determined": a, "product": a * b, "unused": a + 0 * b, "nowhere": a}[self.kind]
        rest = b * v if self.kind == "determined" else 0.0
        return u.laplacian[:, 0] - rate * v**3 + math.pi**2 * e + 20 * e**3 - rest

    def side_conditions(self):
        at = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)[:, None]
        measured = Condition("measured", lambda counts: at, lambda x, u: u.value[:, 0] - self.exact(x))
        return [] if self.kind == "nowhere" else [measured]


@pytest.mark.parametrize(("kind", "free"), [
    ("determined", []), ("product", ["a", "b"]), ("unused", ["b"]), ("nowhere", ["a", "b"]),
])  # fmt: skip
def test_an_unknown_that_nothing_determines_has_no_finite_deviation(kind, free):
    solution = solve(Reaction(kind=kind), 10, iterations=60)
    deviations = solution.error_estimate.unknowns
    assert [name for name, deviation in deviations.items() if deviation == math.inf] == free
    told = [warning for warning in solution.report().warnings if warning.startswith("equation and data do not")]
    assert len(told) == bool(free) and all(", ".join(free) in warning for warning in told)
    if not free:
        assert abs(solution.unknowns["a"] - 20) < 3 * deviations["a"] < 1


@pytest.mark.parametrize(("bumps", "weight"), [(4, 0.01), (7, 1.0), (7, 100.0), (8, 0.01)])
def test_a_diffusivity_from_data_of_any_weight(bumps, weight):
    class Weighted(type(get("inverse-heat"))):
        def side_conditions(self):
            return [replace(condition, weight=weight) for condition in super().side_conditions()]

    solution = solve(Weighted(), (bumps, bumps), iterations=30)
    assert abs(solution.unknowns["k"] - 0.2) < 3 * solution.error_estimate.unknowns["k"] < 1e-3


def test_the_unknown_has_a_standard_deviation():
    exact = solve(get("inverse-heat"), (4, 4), iterations=12)
    assert abs(exact.unknowns["k"] - 0.2) < 2 * exact.error_estimate.unknowns["k"] < 1e-4
    deviations = []
    for noise in (0.001, 0.01):
        solution = solve(get("inverse-heat", noise=noise), (4, 4), iterations=10)
        deviations.append(solution.error_estimate.unknowns["k"])
        assert abs(solution.unknowns["k"] - 0.2) < 3 * deviations[-1]
    assert deviations[1] / deviations[0] == pytest.approx(10, rel=0.5)
    assert "data are noisy" in solution.error_estimate.reason


@dataclass
class Squared(Problem):
    """u^2 + 1 = 0 has no real solution, and its residual no gradient at u = 0."""

    name, want, dirichlet = "squared", "value", {0: ()}
    lower: tuple = (0.0,)
    upper: tuple = (1.0,)

    def residual(self, x, u):
        return u.value**2 + 1


@dataclass
class Explosion(Problem):
    """u' = u^2 from 1, which is infinite at 1."""

    name, want, time, dirichlet = "explosion", "gradient", 0, {0: ((0, 0),)}
    lower: tuple = (0.0,)
    upper: tuple = (2.0,)

    def residual(self, x, u):
        return u.d(0) - u.value**2

    def boundary_values(self, x):
        return torch.ones_like(x[:, 0])


@pytest.mark.parametrize("problem", [Squared(), Explosion()], ids=lambda problem: problem.name)
def test_no_change_is_no_error_of_zero_where_the_residual_is_large(problem):
    solution = solve(problem, 8, iterations=40)
    error = solution.error_estimate
    assert not error.reliable and not error.rel_l2[0] < 0.01, error
    assert any("not known reliably" in warning for warning in solution.report().warnings)


# --- marched ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("iterations", (2, 8))
def test_errors_of_windows_go_on_into_the_next_ones(iterations):
    solution = march(Growing(), (4, 3), windows=3, iterations=iterations)
    assert solution.error_estimate.reliable, solution.error_estimate.reason
    assert all(0.5 < ratio < 2 for ratio in ratios(solution))


# --- what cannot be known -----------------------------------------------------------------------------------


@dataclass
class Pitchfork(Problem):
    """u = 0 solves it, and other functions, too."""

    name, want = "pitchfork", "laplacian"
    lower: tuple = (0.0,)
    upper: tuple = (1.0,)

    def residual(self, x, u):
        return u.laplacian + 20 * (u.value - u.value**3)


def test_zero_is_not_called_reliable():
    error = solve(Pitchfork(), 6, iterations=5).error_estimate
    assert not error.reliable and "u is zero everywhere" in error.reason


def test_data_at_points_say_nothing_between_them():
    x = torch.linspace(0, 1, 50, dtype=torch.float64)[:, None]
    error = solve(Regression.through(x, x[:, 0] ** 2), 5, iterations=5).error_estimate
    assert not error.reliable and "given points only" in error.reason


@dataclass
class Table(Problem):
    """A right-hand side that is known at the points of the solve only."""

    name, want = "table", "laplacian"
    lower: tuple = (0.0,)
    upper: tuple = (1.0,)

    def residual(self, x, u):
        return u.laplacian[:, 0] - torch.ones(40, dtype=torch.float64)


def test_it_never_raises():
    solution = solve(Table(), 4, points=40, iterations=5)
    error = solution.error_estimate
    assert math.isnan(error.rel_l2[0]) and not error.reliable
    assert error.reason.startswith("it could not be computed: ")


@dataclass
class Measured(Problem):
    """A condition whose data are a table for the points of the solve."""

    name, want, dirichlet = "measured", "diagonal", ((0, 0),)
    lower: tuple = (0.0,)
    upper: tuple = (1.0,)

    def residual(self, x, u):
        return u.dd(0)[:, 0] + torch.sin(x[:, 0])

    def exact(self, x):
        return torch.sin(x[:, 0])

    def side_conditions(self):
        def points(counts):
            self.given = torch.linspace(0.1, 0.9, counts[0], dtype=torch.float64)
            return self.given[:, None]

        table = torch.sin(torch.linspace(0.1, 0.9, 50, dtype=torch.float64))
        return [Condition("table", points, lambda x, u: u.value[:, 0] - table)]


def test_tables_of_conditions_are_left_as_they_are():
    solution = solve(Measured(), 5, points=(50,), iterations=5)
    assert solution.error_estimate.reliable, solution.error_estimate.reason
    assert all(1 / 3 < ratio < 3 for ratio in ratios(solution))


def test_rows_that_are_not_finite():
    solution = solve(get("poisson"), (4, 4), iterations=2)
    with torch.no_grad():
        solution.net.rows[0, 0] = math.nan
    assert solution.error_estimate.reason == "the solution is not finite"


def test_what_would_take_too_long_says_so():
    solution = solve(get("poisson"), (4, 4), iterations=2)
    error = estimated(solution.stages(), seconds=1e-6)
    assert math.isnan(error.rel_l2[0]) and "solution.estimate_error() takes that time" in error.reason
    assert (estimate_seconds(0.1), estimate_seconds(10.0), estimate_seconds(1.0, 10)) == (0.2, 2.0, 2.0)


# --- how it is asked for --------------------------------------------------------------------------------------


def test_bumps_and_seed():
    solution = solve(get("poisson"), (4, 4), iterations=20)
    again = [solution.estimate_error(bumps=100, seed=seed) for seed in (0, 0, 1)]
    assert again[0] == again[1] != again[2] and all(e.reliable for e in again)
    assert again[0].rel_l2[0] == pytest.approx(solution.error_estimate.rel_l2[0], rel=0.1)
    for options, message in (({"bumps": 0}, "bumps must be an integer of at least 1"), ({"seed": -1}, "seed must be")):
        with pytest.raises(ValueError, match=message):
            solution.estimate_error(**options)


def test_the_points_of_the_solve_are_taken(monkeypatch):
    solution = solve(get("poisson"), (4, 4), points=(20, 20), iterations=5)
    assert len(solution.places.x) == 400
    monkeypatch.setattr(Places, "default", None)
    assert solution.error_estimate.reliable


def test_of_a_file_the_points_are_chosen_anew(tmp_path):
    solution = solve(get("poisson"), (4, 4), iterations=20)
    save(tmp_path / "model.pt", solution)
    again = load(tmp_path / "model.pt")
    assert again.places is None and again.error_estimate.reliable
    assert again.error_estimate.rel_l2[0] == pytest.approx(solution.error_estimate.rel_l2[0], rel=0.1)


def test_under_inference_mode():
    with torch.inference_mode():
        assert solve(get("poisson"), (4, 4), iterations=5).error_estimate.reliable


def test_a_changed_solution_is_estimated_anew():
    solution = solve(get("poisson"), (4, 4), iterations=5)
    first = solution.error_estimate
    other = replace(solution, net=solve(get("poisson"), (4, 4), iterations=30).net)
    assert other.error_estimate.rel_l2[0] < 0.5 * first.rel_l2[0]


@dataclass
class Open(Problem):
    """Poisson's equation where some sides of the square may be without a condition."""

    name, want = "open", "laplacian"
    lower: tuple = (0.0, 0.0)
    upper: tuple = (1.0, 1.0)

    def residual(self, x, u):
        return u.laplacian[:, 0] + 2 * math.pi**2 * self.exact(x)

    def exact(self, x):
        return torch.sin(math.pi * x).prod(1)


@pytest.mark.parametrize("boundary", ("hard", "soft"))
def test_an_estimate_is_not_reliable_where_a_boundary_condition_is_missing(boundary):
    problem = Open()
    known = solve(problem, (4, 4), boundary=boundary, iterations=10).error_estimate
    assert "determine" not in known.reason and (known.reliable or boundary == "soft")
    problem.dirichlet = ((0, 0), (0, 1), (1, 0))
    solution = solve(problem, (4, 4), boundary=boundary, iterations=10)
    assert not solution.error_estimate.reliable and "do not determine u" in solution.error_estimate.reason
    assert any("do not determine u" in warning for warning in solution.report().warnings)
