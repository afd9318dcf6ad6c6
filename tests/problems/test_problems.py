"""Problems: exact solutions, boundary functions, settings and their errors."""

from dataclasses import dataclass

import pytest
import torch

from bumpnet_fast import Jet
from bumpnet_fast.problems import PROBLEMS, Problem, Regression, get, sampling
from bumpnet_fast.solvers.refine import residual_and_terms

BOXES = [{}, {"lower": (0, 0), "upper": (1, 1)}, {"lower": (0, -3), "upper": (10, -2)}]
WAVES = [{}, {"a1": 2, "a2": 3}, {"a1": 1.3, "a2": 0.6}]


def inside(problem, count=50):
    return sampling.interior(problem.domain, (count,) + (1,) * (len(problem.lower) - 1), "uniform")


EXACT = [name for name in PROBLEMS if name != "allen-cahn"]


def true_unknowns(problem):
    return {name: getattr(problem, f"true_{name}") for name in problem.unknowns}


def without_residual(problem):
    x = inside(problem)
    x = x[problem.inside(x)]
    exact, unknowns = Jet.of(problem.exact, x, problem.want), true_unknowns(problem)
    other = exact + Jet.of(lambda x: torch.sin(3 * x[:, 0] + x.sum(1)), x, problem.want)
    _, terms = residual_and_terms(problem, lambda x: other, "soft", unknowns, x)
    assert problem.residual(x, exact, **unknowns).abs().max() < 1e-11 * terms.max()
    assert problem.residual(x, other, **unknowns).abs().max() > 1e-3 * terms.max()


@pytest.mark.parametrize("name", EXACT)
def test_exact_solution_has_no_residual(name):
    without_residual(get(name))


@pytest.mark.parametrize("name", ["poisson", "helmholtz"])
@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("waves", WAVES)
def test_exact_solution_has_no_residual_whatever_the_settings(name, box, waves):
    without_residual(get(name, **box, **waves))


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_problem_is_whole(name):
    problem = get(name)
    x = inside(problem)
    reference = problem.reference(x)
    assert torch.isfinite(reference).all() and len(reference) == len(x)
    assert problem.boundary_values(x).reshape(len(x), -1).shape[1] in (1, problem.outputs)
    for condition in [*problem.conditions(), *problem.side_conditions()]:
        points = condition.points((5,) * x.shape[1])
        assert points.shape[1] == x.shape[1] and len(points) > 0, condition.name
    if problem.exact(x) is not None:
        for condition in problem.conditions():
            points = condition.points((5,) * x.shape[1])
            u = Jet.of(problem.exact, points, condition.want)
            if condition.period:
                u = u - Jet.of(problem.exact, points + points.new_tensor(condition.period), condition.want)
            assert condition.residual(points, u).abs().max() < 1e-12, condition.name


def test_wave_number_enters_helmholtz():
    x = inside(get("helmholtz"))
    u = Jet.of(lambda x: x[:, 0] ** 2, x, "laplacian")
    k, zero = get("helmholtz", k=3), get("helmholtz", k=0)
    residuals = k.residual(x, u) - zero.residual(x, u)
    torch.testing.assert_close(residuals, 9 * (u.value[:, 0] - k.exact(x)))


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("waves", WAVES)
def test_composition_is_exact_on_the_boundary(box, waves):
    problem = get("poisson", **box, **waves)
    edge = sampling.faces(problem.domain, (7, 9))
    wild = Jet("value", 1e3 * torch.randn(len(edge), 1, dtype=torch.float64))
    u = problem.compose(edge, "value")(wild).value[:, 0]
    torch.testing.assert_close(u, problem.exact(edge), rtol=0, atol=1e-12)
    assert (problem.distance(inside(problem)) > 0).all()
    assert problem.distance(problem.domain.mean(0, keepdim=True)).item() == pytest.approx(1)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_lift_interpolates_the_faces_in_any_dimension(dim):
    @dataclass
    class Box(Problem):
        lower: tuple = (0.0,) * dim
        upper: tuple = (1.0, 2.0, 3.0)[:dim]

        def boundary_values(self, x):
            value = torch.cos(x.sum(1)) + x.prod(1)
            return torch.stack([value, x[:, 0]], 1)

    problem = Box()
    edge = sampling.faces(problem.domain, (5,) * dim)
    torch.testing.assert_close(problem.lift(edge), problem.boundary_values(edge))


def test_composed_values_can_be_differentiated_by_the_points():
    problem = get("poisson", a1=1.5)
    x = inside(problem).requires_grad_()
    u = problem.compose(x, "value")(Jet("value", torch.ones(len(x), 1, dtype=torch.float64))).value
    by_graph = torch.autograd.grad(u.sum(), x)[0]
    whole = Jet.of(lambda x: problem.lift(x) + problem.distance(x), x, "gradient").gradient[:, 0]
    torch.testing.assert_close(by_graph, whole)


# --- faces, time, periods ------------------------------------------------------------------------


@dataclass
class Timed(Problem):
    name, want, time = "timed", "diagonal", 1
    lower: tuple = (-1.0, 2.0)
    upper: tuple = (1.0, 5.0)

    def boundary_values(self, x):
        return torch.cos(x[:, 0]) * (1 + x[:, 1])


class Held(Timed):
    dirichlet = ((0, 1),)


class Ring(Timed):
    periodic = (0,)

    def boundary_values(self, x):
        return torch.cos(torch.pi * x[:, 0]) * (1 + x[:, 1])


class Free(Timed):
    dirichlet = ()


@pytest.mark.parametrize("kind", [Timed, Held, Ring, Free])
def test_the_given_faces_are_those_declared_and_hold(kind):
    problem = kind()
    faces = {Timed: {(0, 0), (0, 1), (1, 0)}, Held: {(0, 1)}, Ring: {(1, 0)}, Free: set()}[kind]
    assert set(problem.faces) == faces
    for face in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        x = sampling.faces(problem.domain, (7, 7), [face])[1:-1]
        if face in faces:
            assert problem.distance(x).abs().max() < 1e-12
            torch.testing.assert_close(problem.lift(x), problem.boundary_values(x))
        else:
            assert (problem.distance(x) > 0).all()
    assert (problem.distance(inside(problem)) > 0).all()
    named = {c.name for c in problem.conditions()}
    start = {"initial"} if (1, 0) in faces else set()
    sides = {"boundary"} if faces - {(1, 0)} else set()
    assert named == start | sides | ({"period of axis 0"} if kind is Ring else set())


def test_a_start_with_velocity_has_a_distance_that_vanishes_twice():
    problem = get("wave")
    x = sampling.faces(problem.domain, (9, 9), [(1, 0)])
    distance = Jet.of(problem.distance, x, "gradient")
    assert distance.value.abs().max() == 0 and distance.gradient.abs().max() == 0
    assert "velocity" in {c.name for c in problem.conditions()}


@pytest.mark.parametrize("periodic", [(0,), (0, 1)])
def test_what_is_wrapped_is_periodic_to_the_second_derivative(periodic):
    @dataclass
    class Torus(Problem):
        lower: tuple = (-1.0, 0.0)
        upper: tuple = (1.0, 3.0)

    Torus.periodic = periodic
    problem = Torus()

    def wild(x):
        return torch.exp(x[:, 0]) * torch.sin(2 + x[:, 1]) + x[:, 1] ** 3

    for axis in periodic:
        faces = [sampling.faces(problem.domain, (5, 6), [(axis, side)]) for side in (0, 1)]
        ends = [problem.extend(lambda x: Jet.of(wild, x, "hessian"), x, "hessian") for x in faces]
        for low, high in zip(ends[0].parts(), ends[1].parts(), strict=True):
            torch.testing.assert_close(low, high, atol=1e-9, rtol=1e-9)


def test_a_layer_at_a_seam_lets_slopes_count_less():
    problem = get("allen-cahn")
    condition = problem.periodicity(0, length=0.01)
    x = condition.points((4, 6))
    jump = Jet.of(lambda x: x[:, 0] ** 3 + x[:, 1], x, "gradient") - Jet.of(lambda x: x[:, 1], x, "gradient")
    torch.testing.assert_close(condition.residual(x, jump), torch.tensor([[-1.0, 0.03]]).to(x).expand(len(x), 2))


def test_wrapping_keeps_what_is_periodic():
    problem = get("advection")
    x = inside(problem, 200)
    u = problem.wrap(x, "gradient")(*(Jet.of(problem.exact, x + x.new_tensor(s), "gradient") for s in problem.shifts()))
    exact = Jet.of(problem.exact, x, "gradient")
    torch.testing.assert_close(u.value, exact.value)
    torch.testing.assert_close(u.gradient, exact.gradient)


# --- single problems -----------------------------------------------------------------------------


def test_burgers_solution_forms_a_shock_layer():
    problem = get("burgers")
    x = torch.tensor([[-1e-3, 0.0], [-1e-3, 0.5], [0.0, 0.5], [-0.5, 0.0]], dtype=torch.float64)
    u = problem.exact(x)
    assert u[0] < 0.01 and 0.05 < u[1] < 0.3 and abs(u[2]) < 1e-12 and u[3] == pytest.approx(1)


def test_allen_cahn_reference_fulfils_the_equation_from_its_start():
    problem = get("allen-cahn")
    x = sampling.interior(problem.domain, (40, 1), "uniform") * torch.tensor([0.9, 0.8]) + torch.tensor([0.0, 0.1])

    def at(dx=0.0, dt=0.0):
        return problem.reference(x + x.new_tensor([dx, dt]))

    h, u = 1e-3, at()
    rate = (at(dt=h) - at(dt=-h)) / (2 * h)
    curvature = (at(dx=h) - 2 * u + at(dx=-h)) / h**2
    assert (rate - problem.nu * curvature - problem.a * (u - u**3)).abs().max() < 1e-2 * rate.abs().max()
    start = torch.stack([x[:, 0], torch.zeros(len(x))], 1)
    torch.testing.assert_close(problem.reference(start), problem.boundary_values(start), atol=1e-6, rtol=0)


def test_the_l_shape_and_its_boundary():
    problem = get("lshape")
    x = problem.boundary_points((20, 20))
    on_box = (x.abs() == 1).any(1)
    on_corner_edges = ((x[:, 1] == 0) & (x[:, 0] >= 0)) | ((x[:, 0] == 0) & (x[:, 1] <= 0))
    assert problem.inside(x).all() and (on_box | on_corner_edges).all() and on_corner_edges.sum() >= 38
    assert problem.exact(x[on_corner_edges]).abs().max() < 1e-12


def test_regression_of_a_function_and_through_data():
    problem = Regression.of(lambda x: torch.stack([x.sum(1), x.prod(1)], 1), [0, 0, 0], [1, 2, 3], outputs=2)
    x = inside(problem)
    assert problem.domain.tolist() == [[0, 0, 0], [1, 2, 3]] and problem.exact(x).shape == (50, 2)
    assert problem.residual(x, Jet("value", problem.exact(x))).abs().max() == 0
    through = Regression.through(x, x[:, 0])
    assert torch.equal(through.points, x) and through.exact(x) is None
    assert through.residual(x, Jet("value", x[:, :1])).abs().max() == 0
    with pytest.raises(ValueError, match=r"x must be \[N, d\] and values \[N\] or \[N, K\], got \(50, 3\), \(3,\)"):
        Regression.through(x, x[0])


def test_nan_stays_nan():
    problem = get("helmholtz")
    x = torch.tensor([[0.1, 0.2], [float("nan"), 0.3], [0.4, 0.5]], dtype=torch.float64)
    assert problem.residual(x, Jet.of(problem.exact, x, problem.want)).isnan().tolist() == [False, True, False]


def test_soft_condition_is_zero_for_the_exact_solution():
    problem = get("poisson", a1=1.3, lower=(0, 0), upper=(2, 1))
    (condition,) = problem.conditions()
    x = condition.points((6, 8))
    assert len(x) == 2 * (6 + 8)
    on_a_face = ((x == problem.domain[0]) | (x == problem.domain[1])).any(1)
    assert on_a_face.all()
    exact = Jet.of(problem.exact, x, condition.want)
    assert condition.residual(x, exact).abs().max() == 0
    assert condition.residual(x, exact + exact).abs().max() > 0.1


@pytest.mark.parametrize(
    ("settings", "value"),
    [
        ({"a1": "2"}, {"a1": 2.0}),
        ({"a1": 3}, {"a1": 3.0}),
        ({"upper": "2, 3"}, {"upper": (2.0, 3.0)}),
        ({"lower": [-2, 0]}, {"lower": (-2.0, 0.0)}),
    ],
)
def test_settings_take_numbers_and_text(settings, value):
    problem = get("poisson", **settings)
    assert {name: getattr(problem, name) for name in value} == value
    assert all(type(getattr(problem, name)) is type(wanted) for name, wanted in value.items())


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("laplace", {}, r"unknown problem 'laplace'; there are: .*helmholtz.*poisson"),
        ("poisson", {"k": 1}, r"poisson has no field 'k'; it has: lower, upper, a1, a2"),
        ("poisson", {"a1": "one"}, r"a1 must be a finite number, got 'one'"),
        ("poisson", {"a1": float("nan")}, r"a1 must be a finite number"),
        ("poisson", {"a1": None}, r"a1 must be a finite number"),
        ("poisson", {"upper": (1,)}, r"upper must be 2 finite numbers, got \(1,\)"),
        ("poisson", {"upper": 1}, r"upper must be 2 finite numbers"),
        ("poisson", {"upper": (1, -1)}, r"lower must be below upper"),
        ("poisson", {"upper": (1, float("inf"))}, r"upper must be 2 finite numbers"),
    ],
)
def test_wrong_settings_are_named(name, settings, message):
    with pytest.raises(ValueError, match=message):
        get(name, **settings)


def test_a_problem_without_a_residual_says_so():
    with pytest.raises(NotImplementedError, match=r"Problem must define residual"):
        Problem().residual(torch.zeros(1, 2), None)


# --- sampling ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sampling.KINDS)
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_points_lie_strictly_inside_and_fill_the_box(kind, dim):
    domain = torch.tensor([[-1.0, 2.0, 5.0], [0.0, 12.0, 5.5]], dtype=torch.float64)[:, :dim]
    counts = (16, 8, 4)[:dim]
    x = sampling.interior(domain, counts, kind)
    assert x.shape == (torch.tensor(counts).prod(), dim) and x.dtype == torch.float64
    assert (x > domain[0]).all() and (x < domain[1]).all()
    middle = domain.mean(0)
    width = domain[1] - domain[0]
    assert ((x.mean(0) - middle).abs() < 0.2 * width).all()
    assert ((x.amax(0) - x.amin(0)) > 0.7 * width).all()


@pytest.mark.parametrize("kind", ["sobol", "uniform"])
def test_scattered_points_follow_the_seed(kind):
    domain = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    draws = [sampling.interior(domain, (5, 5), kind, seed) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_chebyshev_points_are_denser_at_the_boundary():
    x = sampling.interior(torch.tensor([[0.0], [1.0]]), (20,), "chebyshev")[:, 0]
    gaps = x.diff()
    assert gaps[0] < 0.2 * gaps[10] and torch.allclose(x + x.flip(0), torch.ones_like(x))


@pytest.mark.parametrize("widths", [(1.0,), (1.0, 2.5), (3.0, 1.0, 0.5), (1.0, 50.0)])
@pytest.mark.parametrize("points", [1, 100, 3000])
def test_spread_gives_enough_points_evenly(widths, points):
    counts = sampling.spread(points, widths)
    total = torch.tensor(counts).prod().item()
    assert total >= points
    spacings = [width / count for width, count in zip(widths, counts, strict=True) if count > 4]
    assert not spacings or max(spacings) < 1.35 * min(spacings)


@pytest.mark.parametrize(("counts", "kind", "message"), [
    ((4,), "grid", "points must be 2 positive counts"),
    ((4, 0), "grid", "points must be 2 positive counts"),
    ((4, 4), "halton", "sampling must be one of grid, chebyshev, sobol, uniform, got 'halton'"),
])  # fmt: skip
def test_wrong_points_are_named(counts, kind, message):
    with pytest.raises(ValueError, match=message):
        sampling.interior(torch.tensor([[0.0, 0.0], [1.0, 1.0]]), counts, kind)


def test_lattice_covers_the_closed_box():
    x = sampling.lattice(torch.tensor([[0.0, -1.0], [2.0, 1.0]]))
    assert x.shape == (101 * 101, 2)
    assert x.amin(0).tolist() == [0, -1] and x.amax(0).tolist() == [2, 1]


def test_a_field_that_would_be_left_unread_is_refused():
    """Without the decorator, or the annotation, the base's default would hold without a word."""

    class Bare(Problem):
        lower, upper = (0.0,), (1.0,)

    class Undecorated(Problem):
        upper: tuple = (2.0, 2.0)

    for kind, name in ((Bare, "Bare.lower"), (Undecorated, "Undecorated.upper")):
        with pytest.raises(TypeError, match=rf"{name} is a field .* @dataclass and write `\w+: tuple = ...`"):
            kind()

    class Renamed(Problem):
        name = "no field"

    @dataclass
    class Decorated(Problem):
        upper: tuple = (2.0, 2.0)

    assert Renamed().upper == (1.0, 1.0) and Decorated().upper == Decorated(upper=(2.0, 2.0)).upper == (2.0, 2.0)
