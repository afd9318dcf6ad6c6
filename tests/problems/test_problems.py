"""Problems: exact solutions, boundary functions, settings and their errors."""

from dataclasses import dataclass

import pytest
import torch

from bumpnet_fast import Jet
from bumpnet_fast.problems import PROBLEMS, Problem, get, sampling

BOXES = [{}, {"lower": (0, 0), "upper": (1, 1)}, {"lower": (0, -3), "upper": (10, -2)}]
WAVES = [{}, {"a1": 2, "a2": 3}, {"a1": 1.3, "a2": 0.6}]


def inside(problem, count=50):
    return sampling.interior(problem.domain, (count, 1), "uniform")


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("waves", WAVES)
def test_exact_solution_has_no_residual(name, box, waves):
    problem = get(name, **box, **waves)
    x = inside(problem)
    exact = Jet.of(problem.exact, x, problem.want)
    residual = problem.residual(x, exact)
    assert residual.abs().max() < 1e-11 * problem.residual_scale
    twice = problem.residual(x, exact + exact)
    assert twice.abs().max() > 1e-2 * problem.residual_scale


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
