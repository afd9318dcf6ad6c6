"""Least squares of the second order: what it converges to, in every kind of problem, and why it stops."""

import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from cases import Cubic, Rotation

from bumpnet_fast import BumpNet, use_backend
from bumpnet_fast.problems import Problem, Regression, get
from bumpnet_fast.solvers.stationary import new_net, solve


def net_for(problem, bumps=(4, 4), dtype="float64", **options):
    return BumpNet(len(problem.lower), bumps, problem.domain, problem.outputs, dtype=dtype, **options)


# --- convergence ---------------------------------------------------------------------------------


def test_poisson_by_variable_projection():
    problem = get("poisson")
    net = net_for(problem)
    solution = solve(problem, net, iterations=25)
    assert solution.rel_l2 < 3e-4 and solution.max_error < 1e-3
    assert solution.net is net and solution.iterations == 25 and solution.stop_reason == "iterations"
    x = 2 * torch.rand(100, 2, dtype=torch.float64) - 1
    error = solution.predict(x)[:, 0] - problem.exact(x)
    assert error.abs().max() <= 1.5 * solution.max_error
    edge = torch.tensor([[1.0, 0.3], [-0.2, -1.0]], dtype=torch.float64)
    assert solution.predict(edge).abs().max() < 1e-12


def test_same_start_gives_the_same_rows():
    problem = get("helmholtz", a1=1, a2=2)
    rows = [solve(problem, net_for(problem), iterations=8).net.rows.detach() for _ in range(2)]
    assert torch.equal(*rows)


def test_backends_agree():
    problem = get("helmholtz", a1=1, a2=2)
    losses = []
    for name in ("auto", "reference"):
        with use_backend(name):
            losses.append(solve(problem, net_for(problem), iterations=4).loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_helmholtz_of_the_paper():
    problem = get("helmholtz")
    solution = solve(problem, net_for(problem, (4, 10)), iterations=40)
    assert solution.net.rows.numel() == 280 and solution.rel_l2 < 4e-5


@pytest.mark.parametrize("method", ["varpro", "lm"])
def test_soft_boundary(method):
    problem = get("poisson", a1=1.5)
    solution = solve(problem, net_for(problem, (5, 5)), method=method, boundary="soft", iterations=60)
    assert solution.rel_l2 < 5e-3
    x = torch.rand(3, 2, dtype=torch.float64)
    assert torch.equal(solution.predict(x), solution.net(x))


def test_a_number_of_bumps_is_spread_alike_whatever_the_unit_of_time():
    usual = new_net(get("heat"), 12)
    grid = BumpNet(2, 12, get("heat").domain, dtype="float64").rows
    torch.testing.assert_close(usual.rows, grid, rtol=0, atol=1e-8)
    assert not torch.equal(usual.rows, grid), "a trace breaks the grid, as a symmetric net stays symmetric"
    for end in (1e-6, 0.25, 3.0, 86400.0):
        net = new_net(get("heat", upper=(1.0, end)), 12, dtype="float64")
        torch.testing.assert_close(net.rows, usual.rows)
        width = torch.tensor([1.0, end], dtype=torch.float64)
        torch.testing.assert_close(net.centres / width, usual.centres)
        x = torch.rand(50, 2, dtype=torch.float64)
        torch.testing.assert_close(net.basis(x * width).value, usual.basis(x).value)


def test_box_far_from_square_with_boundary_values():
    problem = get("helmholtz", a1=0.13, a2=0.9, lower=(0, 0), upper=(10, 1))
    assert solve(problem, net_for(problem, (5, 4)), iterations=25).rel_l2 < 1e-4


@pytest.mark.parametrize("method", ["lm", "auto"])
def test_nonlinear_problem(method):
    solution = solve(Cubic(), net_for(Cubic(), 8), method=method, iterations=60)
    assert solution.rel_l2 < 1e-5
    assert solution.method == {"auto": "gauss-newton"}.get(method, method)


def test_linear_problem_by_joint_steps():
    problem = get("poisson")
    solution = solve(problem, net_for(problem).perturb_(0.05, torch.Generator().manual_seed(0)), method="lm")
    assert solution.rel_l2 < 5e-4


@pytest.mark.parametrize("method", ["varpro", "gauss-newton", "lm"])
@pytest.mark.parametrize("boundary", ["hard", "soft"])
def test_system_with_two_outputs(method, boundary):
    problem = Rotation()
    solution = solve(problem, net_for(problem, 6), method=method, boundary=boundary, iterations=40)
    assert solution.rel_l2 < 1e-4
    start = solution.predict(torch.zeros(1, 1, dtype=torch.float64))
    torch.testing.assert_close(start, torch.tensor([[0.0, 1.0]]).double(), rtol=0, atol=1e-4)


def test_float32_net():
    problem = get("poisson")
    solution = solve(problem, net_for(problem, dtype="float32"), iterations=25)
    assert solution.net.rows.dtype == torch.float32
    assert solution.predict(torch.zeros(1, 2)).dtype == torch.float32
    assert solution.rel_l2 < 1e-3


def test_free_outer_slope():
    problem = get("poisson")
    assert solve(problem, net_for(problem, outer="free"), iterations=25).rel_l2 < 3e-4


def test_problem_without_exact_solution():
    problem = get("poisson")
    f = problem.exact

    class Unknown(type(problem)):
        def exact(self, x):
            return None

        def residual(self, x, u):
            return u.laplacian[:, 0] + 2 * math.pi**2 * f(x)

    net = net_for(problem)
    solution = solve(Unknown(), net, iterations=12)
    assert solution.rel_l2 is None and solution.max_error is None
    assert all("rel_l2" not in entry for entry in solution.history)
    x = 2 * torch.rand(100, 2, dtype=torch.float64) - 1
    assert (solution.predict(x)[:, 0] - f(x)).abs().max() < 5e-3


@pytest.mark.parametrize("method", ["gauss-newton", "lm"])
@pytest.mark.parametrize("boundary", ["hard", "soft"])
def test_an_unknown_coefficient_is_found(method, boundary):
    problem = get("inverse-heat", true_k=0.35)
    solution = solve(problem, net_for(problem), method=method, boundary=boundary, iterations=80, condition_weight=100.0)
    assert solution.unknowns == {"k": pytest.approx(0.35, rel=1e-3)} and solution.rel_l2 < 1e-3


def test_an_unknown_coefficient_from_noisy_data():
    problem = get("inverse-heat", noise=0.01, measurements=100)
    solution = solve(problem, net_for(problem), iterations=40)
    assert solution.unknowns["k"] == pytest.approx(0.2, rel=0.05)


def test_side_conditions_are_imposed_in_the_hard_form_too():
    problem = get("allen-cahn", nu=0.002, a=1.0)
    solution = solve(problem, net_for(problem, (16, 3)), iterations=30, condition_weight=100.0)
    ends = torch.tensor([[-1.0, 0.7], [1.0, 0.7]], dtype=torch.float64)
    u = solution.jet(ends, "gradient")
    assert abs(u.value[0] - u.value[1]) < 1e-3 and abs(u.d(0)[0] - u.d(0)[1]) < 0.1
    assert solution.rel_l2 < 1e-2


def test_periodic_problem_is_exactly_periodic():
    problem = get("advection", nu=2)
    solution = solve(problem, net_for(problem), iterations=30)
    t = torch.linspace(0, 1, 9, dtype=torch.float64)
    ends = [solution.jet(torch.stack([torch.full_like(t, end), t], 1), "gradient") for end in (0, 2 * math.pi)]
    torch.testing.assert_close(ends[0].value, ends[1].value, atol=1e-9, rtol=0)
    torch.testing.assert_close(ends[0].gradient, ends[1].gradient, atol=1e-6, rtol=0)
    assert solution.rel_l2 < 1e-4


def test_three_outputs_and_three_coordinates():
    flow = solve(get("kovasznay"), net_for(get("kovasznay"), (4, 5)), iterations=15)
    assert flow.rel_l2 < 1e-2
    heat = solve(get("heat2d"), net_for(get("heat2d"), (3, 3, 2)), iterations=15)
    assert heat.rel_l2 < 1e-2


@pytest.mark.parametrize("dim", [1, 2, 3, 4])
def test_regression_in_any_dimension(dim):
    problem = Regression.of(lambda x: torch.exp(-x.square().sum(1)), [-1] * dim, [1] * dim)
    bumps = {1: 6, 2: (4, 4), 3: (3, 3, 3), 4: (2, 2, 2, 2)}[dim]
    assert solve(problem, net_for(problem, bumps), iterations=20).rel_l2 < 1e-2


def test_regression_through_data_collocates_at_the_data():
    x = 2 * torch.rand(300, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 1
    problem = Regression.through(x, torch.sin(x.sum(1)))
    solution = solve(problem, net_for(problem), iterations=20)
    assert solution.rel_l2 is None and (solution.predict(x)[:, 0] - torch.sin(x.sum(1))).abs().max() < 1e-3


def test_an_l_shape_is_solved_on_the_l():
    problem = get("lshape")
    net = net_for(problem, (5, 5))
    solution = solve(problem, net, iterations=40)
    assert solution.boundary == "soft" and solution.rel_l2 < 5e-2
    with pytest.raises(ValueError, match="boundary of problem 'lshape' must be soft, got 'hard'"):
        solve(problem, net, boundary="hard")


# --- course of a run -----------------------------------------------------------------------------


def test_history_and_callback_tell_every_iteration():
    problem, told = get("poisson"), []
    solution = solve(problem, net_for(problem), iterations=12, callback=told.append)
    assert [p.iteration for p in told] == [e["iteration"] for e in solution.history] == list(range(13))
    assert [p.loss for p in told] == [e["loss"] for e in solution.history]
    assert [p.iteration for p in told if p.rel_l2 is not None] == [0, 10, 12]
    assert {e["iteration"] for e in solution.history if "rel_l2" in e} == {0, 10, 12}
    seconds = [p.seconds for p in told]
    assert seconds == sorted(seconds) and seconds[-1] <= solution.seconds
    assert solution.loss == told[-1].loss and solution.rel_l2 == pytest.approx(told[-1].rel_l2)


def test_small_problems_take_one_thread_and_give_the_others_back(threads):
    threads(2)
    problem, during = get("poisson"), []
    solve(problem, net_for(problem), iterations=1, callback=lambda _: during.append(torch.get_num_threads()))
    with pytest.raises(ValueError, match="nonlinear"):
        solve(Cubic(), net_for(Cubic(), 4), method="varpro")
    assert set(during) == {1} and torch.get_num_threads() == 2


def test_reasons_for_stopping():
    problem = get("poisson")

    def reason(bumps=(2, 2), problem=problem, **options):
        return solve(problem, net_for(problem, bumps), **options).stop_reason

    assert reason(iterations=0) == "iterations"
    assert reason(max_seconds=1e-9) == "time"
    assert reason((4, 4), tolerance=0.99) == "converged"
    assert reason(tolerance=0, iterations=2000) == "no further decrease"

    class Nothing(type(problem)):
        def exact(self, x):
            return torch.zeros_like(x[:, 0])

    assert reason(problem=Nothing()) == "loss floor"


def test_no_iterations_is_the_best_amplitudes():
    problem = get("poisson")
    net = net_for(problem)
    shapes = net.rows.detach()[:, :6].clone()
    solution = solve(problem, net, iterations=0)
    assert torch.equal(net.rows[:, :6], shapes) and 0 < solution.rel_l2 < 0.5


def test_variable_projection_refuses_a_nonlinear_problem():
    with pytest.raises(ValueError, match=r"'cubic' is nonlinear in u .* use method='gauss-newton'"):
        solve(Cubic(), net_for(Cubic(), 4), method="varpro")


def test_a_residual_that_is_not_finite_is_refused():
    class Broken(type(get("poisson"))):
        def residual(self, x, u):
            return u.laplacian[:, 0] / 0.0

    with pytest.raises(ValueError, match="residual of problem 'poisson' is not finite at the start"):
        solve(Broken(), net_for(get("poisson")))


# --- where a step has no length, or nothing to go on --------------------------------------------------


@dataclass
class _Pointwise(Problem):
    """An equation for the values of u alone, given as a function."""

    name, want, dirichlet = "pointwise", "value", ()
    lower: tuple = (-1.0,)
    upper: tuple = (1.0,)
    equation: ClassVar = None

    def residual(self, x, u, **unknowns):
        return type(self).equation(x, u.value, **unknowns)


def pointwise(equation, **unknowns):
    return type("_Posed", (_Pointwise,), {"equation": staticmethod(equation), "unknowns": unknowns})()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bumps", [1, 4])
def test_a_first_step_that_leaves_the_shapes_alone(bumps, dtype):
    problem = pointwise(lambda x, u: u**3 + 0.01 * u - 100)
    solution = solve(problem, net_for(problem, bumps, dtype), method="lm", iterations=60)
    u = solution.predict(torch.linspace(-0.9, 0.9, 50)[:, None].to(solution.net.rows)).double()
    assert solution.iterations > 5 and solution.loss < 1e-3
    torch.testing.assert_close(u, torch.full_like(u, 4.6409), rtol=0, atol=2e-3)


@pytest.mark.parametrize("ridge", [0.0, 1e-12])
@pytest.mark.parametrize("method", ["lm", "gauss-newton"])
def test_an_unknown_is_found_though_nothing_depends_on_the_bumps(method, ridge):
    problem = pointwise(lambda x, u, a: 0 * u + a - 3, a=1.0)
    solution = solve(problem, net_for(problem, 3), method=method, ridge=ridge)
    assert solution.unknowns["a"] == pytest.approx(3, abs=1e-9) and solution.loss < 1e-10


@pytest.mark.parametrize(("equation", "loss"), [
    (lambda x, u: u**2 - 1, 1.0),  # the gradient is zero at u = 0
    (lambda x, u: 0 * u + 2, 4.0),  # and everywhere
    (lambda x, u: u, 0.0),
    (lambda x, u: u**2, 0.0),
    (lambda x, u: 1e-200 * (u - 1), 0.0),
])  # fmt: skip
@pytest.mark.parametrize("ridge", [0.0, 1e-12])
@pytest.mark.parametrize("method", ["lm", "gauss-newton", "auto"])
@pytest.mark.parametrize("bumps", [1, 3])
def test_where_no_step_helps_the_run_ends_where_it_is(bumps, method, ridge, equation, loss):
    problem = pointwise(equation)
    solution = solve(problem, net_for(problem, bumps), method=method, ridge=ridge)
    assert solution.loss == pytest.approx(loss, rel=1e-9, abs=1e-300)
    assert solution.stop_reason in ("no further decrease", "loss floor", "converged")
    assert torch.isfinite(solution.net.rows).all()


@pytest.mark.parametrize("net", ["small", 2.5, True, object()])
def test_what_is_no_net_and_no_number_of_bumps(net):
    with pytest.raises(TypeError, match="net must be a BumpNet, or how many bumps, in all or along the axes, got"):
        solve(get("poisson"), net)


def test_points_have_as_many_coordinates_as_the_problem():
    solution = solve(get("poisson"), (2, 2), iterations=0)
    with pytest.raises(ValueError, match=r"x must have shape \[N, 2\], got \(1, 1\)"):
        solution.predict([[0.0]])
