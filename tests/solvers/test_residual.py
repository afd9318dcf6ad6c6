"""Rows of the least-squares system: residuals, coefficients, design matrices, points."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from cases import Cubic, Free, Rotation, Tangle

from bumpnet_fast import BumpNet, Jet
from bumpnet_fast.problems import Condition, Problem, get
from bumpnet_fast.solvers import march, solve, train
from bumpnet_fast.solvers.residual import System, blocks, collocation


def net_for(problem, bumps=5, dtype="float64", seed=0, **options):
    net = BumpNet(len(problem.lower), bumps, problem.domain, problem.outputs, dtype=dtype, **options)
    generator = torch.Generator().manual_seed(seed)
    net.perturb_(0.1, generator)
    net.rows.data[:, net.layout.amplitude] = torch.randn(net.amplitudes.shape, generator=generator).to(net.rows)
    return net


def system_for(problem, net, boundary="hard", points=30, weight=1.0):
    x, counts = collocation(problem, net, points, "uniform", 0)
    return System(blocks(problem, boundary, counts, x, weight), net)


@pytest.mark.parametrize("boundary", ["hard", "soft"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("problem", [get("poisson"), get("helmholtz", a1=1.3), Cubic(), Rotation(), Tangle()], ids=str)
def test_linearisation_is_the_derivative_by_all_parameters(problem, boundary, tied):
    net = net_for(problem, outer="tied" if tied else "free")
    system, layout = system_for(problem, net, boundary), net.layout
    rows = net.rows.detach()
    wanted = torch.autograd.functional.jacobian(lambda rows: system.residual(system.jets(rows)), rows)
    residual, coefficients = system.linearise(system.jets(rows))
    A, D = system.design(rows, coefficients, derivatives=True)
    by_shape = system.shape_jacobian(D, rows[:, layout.amplitude])
    assert residual.shape == (system.size,) and wanted.shape[0] == system.size
    torch.testing.assert_close(residual, system.residual(system.jets(rows)))
    by_shape = by_shape.view(len(rows), layout.shape_columns, -1).permute(2, 0, 1)
    by_amplitude = A.view(len(rows), layout.outputs, -1).permute(2, 0, 1)
    size = wanted.abs().max()
    torch.testing.assert_close(by_amplitude, wanted[..., layout.amplitude], rtol=0, atol=1e-12 * size)
    torch.testing.assert_close(by_shape, wanted[..., : layout.shape_columns], rtol=0, atol=1e-11 * size)


@pytest.mark.parametrize("problem", [get("helmholtz", a1=0.7), Cubic(), Tangle()], ids=str)
def test_hard_rows_are_the_residual_of_the_composed_function(problem):
    net = net_for(problem)
    system = system_for(problem, net)

    def u(x):
        return problem.lift(x).reshape(len(x), -1) + problem.distance(x)[:, None] * net(x)

    x = system.blocks[0].x
    wanted = problem.residual(x, Jet.of(u, x, problem.want)).reshape(len(x), -1)
    rows = system.residual(system.jets(net.rows.detach()))
    torch.testing.assert_close(rows, (wanted.T / len(x) ** 0.5).flatten())


def test_soft_rows_are_mean_squares_with_weights():
    problem = get("poisson", a1=1.5)
    net = net_for(problem)
    system = system_for(problem, net, "soft", weight=7.0)
    equation, boundary = system.blocks
    u = Jet.of(net, equation.x, "laplacian")
    mean_square = problem.residual(equation.x, u).square().mean()
    at_boundary = (net(boundary.x)[:, 0] - problem.exact(boundary.x)).square().mean()
    rows = system.residual(system.jets(net.rows.detach()))
    torch.testing.assert_close(rows @ rows, mean_square + 7 * at_boundary)


def test_a_linear_system_is_its_coefficients():
    problem = Rotation()
    net = net_for(problem)
    system = system_for(problem, net, "soft")
    offset, coefficients = system.linearise()
    A, _ = system.design(net.rows.detach(), coefficients)
    rows = system.residual(system.jets(net.rows.detach()))
    torch.testing.assert_close(offset + net.amplitudes.detach().flatten() @ A, rows)


@pytest.mark.parametrize(
    ("problem", "linear"), [(get("poisson"), True), (Rotation(), True), (Cubic(), False), (Tangle(), False)], ids=str
)
@pytest.mark.parametrize("boundary", ["hard", "soft"])
def test_linearity_is_found_out(problem, linear, boundary):
    assert system_for(problem, net_for(problem), boundary).is_linear() is linear


def test_a_nonlinear_term_is_found_in_any_units_of_u():
    def residual(self, x, u):
        return u.laplacian - u.value - u.value**3 / 1e24  # of u of size 1e12

    large = type("Large", (Cubic,), {"residual": residual})()
    assert not system_for(large, net_for(large)).is_linear()


def test_a_value_is_not_open_because_its_coefficient_or_the_data_are_of_another_size():
    def residual(self, x, u):
        return u.laplacian - 1e-15 * u.value + 1e150

    small = type("Small", (Cubic,), {"residual": residual, "dirichlet": ()})()
    assert system_for(small, net_for(small)).open_constants() == []
    shifted = type("Shifted", (Cubic,), {"residual": lambda self, x, u: u.laplacian + 1e150, "dirichlet": ()})()
    assert system_for(shifted, net_for(shifted)).open_constants() == [0]


def test_float32_net_gives_float64_matrices():
    problem = get("helmholtz")
    wide, narrow = net_for(problem), net_for(problem, dtype="float32")
    results = []
    for net in (wide, narrow):
        system = system_for(problem, net)
        r, coefficients = system.linearise(system.jets(net.rows.detach()))
        A, D = system.design(net.rows.detach(), coefficients, derivatives=True)
        results.append((r, A, system.shape_jacobian(D, net.amplitudes.detach().double())))
    for exact, rounded in zip(*results, strict=True):
        assert rounded.dtype == torch.float64
        torch.testing.assert_close(rounded, exact, rtol=0, atol=float(2e-5 * exact.abs().max()))


def test_a_residual_that_forgets_u_is_refused():
    problem = Free()
    system = system_for(problem, net_for(problem))
    with pytest.raises(ValueError, match="'free' does not depend on u"):
        system.linearise()


def test_a_residual_of_a_wrong_shape_is_refused():
    class Sum(Free):
        def residual(self, x, u):
            return u.value.sum()

    with pytest.raises(ValueError, match=r"'free' must have shape \[36\] or \[36, equations\], got \(\)"):
        system_for(Sum(), net_for(Sum()))


# --- points --------------------------------------------------------------------------------------


def test_points_are_as_dense_as_the_bumps():
    problem = get("helmholtz")
    net = BumpNet(2, (4, 10), problem.domain)
    x, counts = collocation(problem, net, None, "grid", 0)
    assert counts == (24, 60) and x.shape == (24 * 60, 2) and x.dtype == torch.float64
    x, counts = collocation(problem, net, (3, 5), "grid", 0)
    assert counts == (3, 5) and len(x) == 15
    given = torch.rand(11, 2)
    x, counts = collocation(problem, net, given, "grid", 0)
    assert torch.equal(x, given.double()) and len(counts) == 2


_WRONG_TENSORS = [torch.rand(4), torch.rand(4, 3), torch.rand(0, 2), torch.full((1, 2), torch.nan)]


@pytest.mark.parametrize("points", [0, -3, 2.5, True, (3,), (3, 0), "many", *_WRONG_TENSORS])
def test_wrong_points_are_refused(points):
    problem = get("poisson")
    with pytest.raises(ValueError, match="points must be"):
        collocation(problem, BumpNet(2, 4), points, "grid", 0)


# --- columns for the points ----------------------------------------------------------------------

_POINTS = torch.linspace(-0.9, 0.9, 5, dtype=torch.float64)[:, None]
_DATA = torch.tensor([0.3, -0.2, 0.5, 0.7, 0.1], dtype=torch.float64)


def _f(x):
    return torch.sin(3 * x[:, 0])


#: Residuals [N, N] at any N, or, with the table, at the five points.
_BROADCAST = {
    "jet minus function": lambda x, u: u.laplacian - _f(x),
    "function times jet": lambda x, u: _f(x) * u.value - u.laplacian,
    "function times a nonlinear term": lambda x, u: u.laplacian + _f(x) * u.value**3,
    "vector minus column": lambda x, u: u.laplacian[:, 0] - _f(x)[:, None],
    "column minus vector of jets": lambda x, u: u.laplacian - u.value[:, 0],
    "minus a constant": lambda x, u: u.laplacian - torch.ones_like(x[:, 0]),
    "beside a right one": lambda x, u: torch.cat([u.value, u.laplacian - _f(x)], 1),
    "table": lambda x, u: u.value - _DATA,
    "table, first": lambda x, u: _DATA[:, None] - u.value[:, 0],
    "table, nonlinear": lambda x, u: u.value**2 - _DATA,
    "function, and a table of weights": lambda x, u: _DATA[:, None] * (u.value - _f(x)),
    "noise": lambda x, u: u.value - torch.rand(len(x)).to(x),
}

#: Residuals of as many equations as points, or of fewer; the last ones by chance.
_RIGHT = {
    "vector": (1, lambda x, u: u.laplacian[:, 0] - _f(x)),
    "column": (1, lambda x, u: u.laplacian - _f(x)[:, None]),
    "table": (1, lambda x, u: u.value[:, 0] - _DATA),
    "column of a table": (1, lambda x, u: u.value - _DATA[:, None]),
    "five equations": (5, lambda x, u: torch.cat([u.value, u.d(0), u.laplacian, u.value**2, u.value - u.d(0)], 1)),
    "multiples": (5, lambda x, u: torch.stack([k * (u.value[:, 0] - _f(x)) for k in range(1, 6)], 1)),
    "five right-hand sides": (5, lambda x, u: u.value - _f(x)[:, None] * torch.arange(5).to(x)),
    "six, with a table": (6, lambda x, u: torch.cat([(u.value - _DATA[:, None]) * (x + k) for k in range(6)], 1)),
    "one at first alone": (5, lambda x, u: (u.value[:, 0] * x[:, 0]).squeeze()[:, None].expand(-1, 5)),
}


@dataclass
class _Line(Problem):
    """An equation on a line, given as a function, at five points."""

    name, want, points, dirichlet = "line", "laplacian", _POINTS, ()
    lower: tuple = (-1.0,)
    upper: tuple = (1.0,)
    equation: ClassVar = None

    def residual(self, x, u):
        return type(self).equation(x, u)


def _line(function, **attributes):
    return type("_Posed", (_Line,), {"equation": staticmethod(function), **attributes})()


@dataclass
class _Measured(_Line):
    """A right equation, and a condition that is given as a function."""

    period: ClassVar = None
    needs: ClassVar = "laplacian"

    def residual(self, x, u):
        return u.laplacian

    def side_conditions(self):
        return [Condition("probes", lambda counts: _POINTS, type(self).equation, self.needs, period=self.period)]


def _system(problem, boundary="hard"):
    net = BumpNet(1, 4, problem.domain, dtype="float64")
    x, counts = collocation(problem, net, None, "grid", 0)
    return System(blocks(problem, boundary, counts, x, 1.0), net)


@pytest.mark.parametrize("function", _BROADCAST.values(), ids=_BROADCAST)
def test_a_column_for_every_point_is_refused(function):
    message = (
        r"residual of problem 'line' must have shape \[5\] or \[5, equations\], got \(5, \d\): .* f\(x\)\[:, None\]"
    )
    with pytest.raises(ValueError, match=message):
        _system(_line(function))


@pytest.mark.parametrize("period", [None, (2.0,)])
@pytest.mark.parametrize("function", _BROADCAST.values(), ids=_BROADCAST)
def test_a_column_for_every_point_of_a_condition_is_refused(function, period):
    problem = type("_Posed", (_Measured,), {"equation": staticmethod(function), "period": period})()
    with pytest.raises(ValueError, match=r"residual of condition 'probes' must have shape \[5\] or .* got \(5, \d\)"):
        _system(problem)


def test_a_table_that_multiplies_is_refused_at_more_than_a_few_points():
    """At every point it looks like as many equations as there are points, and nothing else is wrong with them."""
    problem = _line(lambda x, u: u.laplacian - torch.linspace(1, 2, len(x)).to(x) * u.value)
    net = net_for(problem)
    x = torch.linspace(-1, 1, 40, dtype=torch.float64)[:, None]
    with pytest.raises(ValueError, match=r"must have shape \[40\] or \[40, equations\], got \(40, 40\)"):
        System(blocks(problem, "soft", (40,), x, 1.0), net)


@pytest.mark.parametrize(("equations", "function"), _RIGHT.values(), ids=_RIGHT)
def test_as_many_equations_as_points_are_fine(equations, function):
    assert _system(_line(function, want="diagonal")).size == 5 * equations
    condition = type("_Posed", (_Measured,), {"equation": staticmethod(function), "needs": "diagonal"})()
    assert _system(condition).size == 5 + 5 * equations


@pytest.mark.parametrize("points", [2, 3, 7])
def test_the_number_of_points_does_not_matter(points):
    x = torch.linspace(-0.8, 0.8, points, dtype=torch.float64)[:, None]
    wrong = lambda x, u: u.value - _f(x)  # noqa: E731
    with pytest.raises(ValueError, match=rf"got \({points}, {points}\)"):
        _system(_line(wrong, points=x))
    right = lambda x, u: torch.cat([u.value, u.laplacian], 1) - _f(x)[:, None]  # noqa: E731
    assert _system(_line(right, points=x)).size == 2 * points


def test_two_components_at_two_points_are_fine():
    data = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    x = torch.tensor([[-0.5], [0.5]], dtype=torch.float64)
    problem = _line(lambda x, u: u.value - data, points=x, outputs=2)
    net = BumpNet(1, 4, problem.domain, 2, dtype="float64")
    assert System(blocks(problem, "hard", (2,), x, 1.0), net).size == 4


def test_random_numbers_of_a_residual_are_as_if_nothing_was_probed():
    def noisy(x, u):
        return torch.cat([u.value, u.d(0), u.laplacian, u.value**2, torch.rand(len(x), 1).to(x) * u.value], 1)

    torch.manual_seed(0)
    _system(_line(noisy, want="diagonal"))
    after = torch.rand(3)
    torch.manual_seed(0)
    torch.rand(5, 1)
    assert torch.equal(after, torch.rand(3))


@pytest.mark.parametrize(("given", "message"), [
    ([1.0, 2.0], r"give a tensor \[5\] or \[5, equations\], got list"),
    (0.0, "give a tensor .*, got float"),
    (None, "give a tensor .*, got NoneType"),
    (torch.zeros(5).numpy(), "give a tensor .*, got ndarray"),
    (torch.zeros(()), r"have shape \[5\] or \[5, equations\], got \(\)"),
    (torch.zeros(1, 5), r"have shape .*, got \(1, 5\)"),
    (torch.zeros(5, 1, 1), r"have shape .*, got \(5, 1, 1\)"),
    (torch.zeros(5, 0), r"have shape .*, got \(5, 0\)"),
    (torch.zeros(5, dtype=torch.int64), "give real numbers, got torch.int64"),
    (torch.zeros(5, dtype=torch.complex128), "give real numbers, got torch.complex128"),
])  # fmt: skip
def test_what_is_no_residual_is_named(given, message):
    with pytest.raises(ValueError, match=f"the residual of problem 'line' must {message}"):
        _system(_line(lambda x, u: given))


@pytest.mark.parametrize(
    "solver", [solve, train, lambda *a: march(a[0], (3, 3), windows=2)], ids=("solve", "train", "march")
)
def test_every_solver_refuses_a_column_for_every_point(solver):
    @dataclass
    class Wrong(Problem):
        name, time = "wrong", 1

        def residual(self, x, u):
            return u.laplacian - _f(x)

    problem = Wrong()
    net = BumpNet(2, (3, 3), problem.domain, dtype="float64")
    before = net.rows.detach().clone()
    with pytest.raises(ValueError, match=r"residual of problem 'wrong' must have shape .*: a column for every point"):
        solver(problem, net)
    assert torch.equal(net.rows, before)
