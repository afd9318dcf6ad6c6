"""A first u, starts that lead nowhere, and several starts."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from cases import Cubic, Rotation

from bumpnet_fast import BumpNet, Problem, Stop, resume, solve
from bumpnet_fast.problems import Condition, get, sampling
from bumpnet_fast.solvers import march, prune, train


@dataclass
class Bistable(Problem):
    """u = 0 solves it, and so do two arches, one up and one down; ``unit`` is the unit of u."""

    name, want = "bistable", "laplacian"
    unit: float = 1.0
    ends: float = 0.0
    lower: tuple = (0.0,)
    upper: tuple = (1.0,)

    def residual(self, x, u):
        return u.laplacian + 40 * (u.value - u.value**3 / self.unit**2)

    def boundary_values(self, x):
        return self.ends + 0 * x[:, 0]


@dataclass
class Eigen(Problem):
    """u'' + E u = 0 with u(1/2)^power = 1; E = pi^2 is the least."""

    name, want = "eigen", "laplacian"
    power: int = 1
    lower: tuple = (0.0,)
    upper: tuple = (1.0,)
    unknowns = {"E": 1.0}

    def residual(self, x, u, E):
        return u.laplacian + E * u.value

    def side_conditions(self):
        middle = torch.tensor([[0.5]], dtype=torch.float64)
        return [Condition("norm", lambda counts: middle, lambda x, u: u.value[:, 0] ** self.power - 1)]


def net_for(problem, bumps=8):
    return BumpNet(len(problem.lower), bumps, problem.domain, problem.outputs, dtype="float64")


def arch(x):
    return torch.sin(math.pi * x[:, 0])


def middle(solution):
    return solution.predict([[0.5]]).item()


# --- a first u -------------------------------------------------------------------------------------


@pytest.mark.parametrize("boundary", ["hard", "soft"])
@pytest.mark.parametrize("name", ["kovasznay", "advection", "heat"])
def test_a_first_u_is_fitted_with_its_boundary_values(name, boundary):
    """Several outputs, periodic axes, a start in time."""
    problem = get(name) if name != "advection" else get(name, nu=1)
    first = train(problem, net_for(problem, (6, 6)), boundary=boundary, start=problem.exact, iterations=0)
    x = sampling.interior(problem.domain, (200, 1), "uniform")
    exact = problem.exact(x).reshape(200, -1)
    assert float((first.predict(x) - exact).norm() / exact.norm()) < 0.15


def test_a_first_u_is_a_function_an_array_or_a_result():
    problem = Cubic()
    made = [problem.exact, lambda x: np.sin(math.pi * x.numpy()), solve(problem, 12, iterations=5)]
    nets = [net_for(problem, 12) for _ in made]
    for net, start in zip(nets, made, strict=True):
        train(problem, net, start=start, iterations=0)
    for net in nets[1:]:
        x = torch.linspace(-1, 1, 50, dtype=torch.float64)[:, None]
        torch.testing.assert_close(net(x), nets[0](x), rtol=0, atol=1e-2)


def test_it_chooses_among_several_solutions():
    up, down = (middle(solve(Bistable(), 8, start=lambda x, s=s: s * arch(x))) for s in (1, -1))
    assert up == pytest.approx(0.953, abs=1e-3) == -down


def test_the_guess_of_a_problem_is_its_first_u_unless_there_is_another():
    class Guessed(Bistable):
        def guess(self, x):
            return arch(x)

    problem = Guessed()
    assert middle(solve(problem, 8)) == pytest.approx(0.953, abs=1e-3)
    assert middle(solve(problem, 8, start=lambda x: -arch(x))) == pytest.approx(-0.953, abs=1e-3)
    net = net_for(problem)
    solve(problem, net, start=lambda x: -arch(x), iterations=3)
    assert middle(solve(problem, net, iterations=3)) < -0.9  # a net that has amplitudes is its own start


def test_a_march_starts_its_first_window_and_a_search_its_first_net():
    problem, told = get("heat"), []
    march(problem, (3, 3), windows=2, iterations=0, method="adam", start=lambda x: told.append(1) or 0 * x[:, 0])
    assert len(told) == 1
    assert middle(prune(Bistable(), net_for(Bistable()), 7, iterations=5, start=arch)) > 0.9


def refused(error, text, **options):
    problem = options.pop("problem", Bistable())
    net = net_for(problem)
    before = net.rows.detach().clone()
    with pytest.raises(error, match=text):
        solve(problem, net, **options)
    assert torch.equal(net.rows, before)


@pytest.mark.parametrize(("start", "error", "text"), [
    (3.0, TypeError, "start must be a function of points"),
    (Bistable, TypeError, "start must be a function of points"),
    (lambda x: [0.0] * len(x), TypeError, r"start must give a tensor \[\d+\] or \[\d+, 1\], got list"),
    (lambda x: 1.0, TypeError, "got float"),
    (lambda x: x.new_zeros(len(x), 2), ValueError, r"start must give a tensor of shape .* got \(\d+, 2\)"),
    (lambda x: x.new_zeros(3), ValueError, r"got \(3,\)"),
    (lambda x: x[:, 0] > 0.5, TypeError, "start must give real numbers"),
    (lambda x: torch.log(x[:, 0] - 0.5), ValueError, r"must give finite numbers, got others at \d+ of \d+ points"),
    (lambda x: None, TypeError, "got NoneType"),
])  # fmt: skip
def test_what_is_no_first_u(start, error, text):
    refused(error, text, start=start)


def test_results_and_guesses_that_do_not_fit():
    refused(
        ValueError, "start has 2 dimensions and problem 'bistable' has 1", start=solve(get("poisson"), 4, iterations=0)
    )
    refused(ValueError, "start has 1 outputs and problem 'rotation' has 2", problem=Rotation(),
            start=solve(Bistable(), 4, iterations=0))  # fmt: skip

    class Bad(Bistable):
        def guess(self, x):
            return x.new_zeros(2)

    refused(ValueError, r"guess of problem 'bistable' must give a tensor of shape", problem=Bad())
    with pytest.raises(ValueError, match="start cannot be kept in the checkpoint of a march"):
        march(get("heat"), (3, 3), windows=2, start=arch, checkpoint="never.pt")


def test_a_run_with_a_first_u_is_resumed_to_the_last_bit(tmp_path):
    options = {"start": arch, "method": "gauss-newton"}
    whole = solve(Bistable(), 8, iterations=6, **options)
    solve(Bistable(), 8, iterations=3, checkpoint=tmp_path / "run.pt", **options)
    resumed = resume(tmp_path / "run.pt", problem=Bistable(), iterations=6)
    assert torch.equal(resumed.net.rows, whole.net.rows)


# --- starts that lead nowhere ------------------------------------------------------------------------


@pytest.mark.parametrize("boundary", ["hard", "soft"])
@pytest.mark.parametrize("unit", [1.0, 1e-9])
def test_zero_that_solves_a_problem_with_other_solutions_is_told(unit, boundary):
    for start in (None, lambda x: 1e-3 * unit * arch(x)):  # one that falls back to it
        solution = solve(Bistable(unit=unit), 10, boundary=boundary, start=start)
        assert abs(middle(solution)) < 1e-6 * unit
        assert solution.warnings[0].startswith("u = 0 solves the equation and its conditions, and nothing leads away")
        assert "start=" in solution.warnings[0] and "restarts=" in solution.warnings[0]


def test_zero_is_told_where_the_given_values_are_rounding():
    class Sine(Bistable):
        def boundary_values(self, x):
            return arch(x)  # 1.2e-16 at 1

    assert any("u = 0 solves" in warning for warning in solve(Sine(), 8).warnings)


def test_zero_of_a_linear_problem_without_data_is_told():
    class Vibration(Bistable):
        def residual(self, x, u):
            return u.laplacian + math.pi**2 * u.value

    (warning,) = solve(Vibration(), 8).warnings
    assert warning.startswith("u = 0 solves the equation") and "check that sources" in warning


def test_a_constant_that_solves_a_nonlinear_problem_is_told():
    (warning,) = solve(Bistable(ends=1.0), 8).warnings
    assert warning.startswith("what the boundary values alone make of u solves the equation")


def test_a_solution_that_is_not_trivial_has_no_such_warning():
    assert solve(Bistable(), 8, start=arch).warnings == []
    assert solve(Cubic(), 12).warnings == []


def test_a_stationary_start_is_told():
    solution = solve(Eigen(power=2), 8)
    assert solution.unknowns["E"] == 1.0
    assert any(warning.startswith("the start is a stationary point, not a solution") for warning in solution.warnings)


@pytest.mark.parametrize("guess", [1.0, 5.0, 8.0, 12.0, 30.0])
def test_an_eigenvalue_is_found(guess):
    class Guessed(Eigen):
        unknowns = {"E": guess}

    solution = solve(Guessed(), 10, iterations=40)
    assert solution.unknowns["E"] == pytest.approx(math.pi**2, rel=1e-6) and middle(solution) == pytest.approx(1)


@pytest.mark.parametrize("guess", [{"r": 5.0, "K": 5.0}, {"r": 20.0, "K": 20.0}, {"r": 1.0, "K": 0.2}])
def test_two_unknowns_are_found_from_guesses_that_are_far_off_or_a_warning_names_them(guess):
    """Growth u' = r u (1 - u / K) with r = 3, K = 2, measured, from nothing else."""

    @dataclass
    class Growth(Problem):
        name, want, dirichlet = "growth", "gradient", ()
        lower: tuple = (0.0,)
        upper: tuple = (2.0,)
        unknowns = guess

        def exact(self, x):
            return 2 / (1 + 19 * torch.exp(-3 * x[:, 0]))

        def residual(self, x, u, r, K):
            return u.d(0) - r * u.value * (1 - u.value / K)

        def side_conditions(self):
            at = torch.linspace(0, 2, 25, dtype=torch.float64)[:, None]
            return [Condition("measured", lambda counts: at, lambda x, u: u.value[:, 0] - self.exact(x))]

    solution = solve(Growth(), 8, iterations=30)
    found, far = solution.unknowns, guess["r"] == 20
    if far:
        assert any("unknown K has run from 20" in warning for warning in solution.warnings)
        found = solve(Growth(), 8, iterations=30, restarts=5).unknowns
    assert found["r"] == pytest.approx(3, rel=1e-4) and found["K"] == pytest.approx(2, rel=1e-4)


# --- several starts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", [1.0, 1e-6])
def test_several_starts_find_what_one_does_not(unit):
    net = net_for(Bistable())
    solution = solve(Bistable(unit=unit), net, restarts=4, iterations=40)
    assert abs(middle(solution)) == pytest.approx(0.953 * unit, rel=1e-3)
    assert solution.net is net and not any("u = 0 solves" in warning for warning in solution.warnings)
    again = solve(Bistable(unit=unit), net_for(Bistable()), restarts=4, iterations=40)
    assert torch.equal(again.net.rows, net.rows)
    assert not torch.equal(solve(Bistable(unit=unit), 8, restarts=4, iterations=40, seed=1).net.rows, net.rows)


def test_several_starts_leave_a_stationary_point():
    solution = solve(Eigen(power=2), 10, restarts=5, iterations=60)
    assert solution.unknowns["E"] == pytest.approx(math.pi**2, rel=1e-5) and solution.problem.unknowns == {"E": 1.0}


def test_zero_is_kept_where_nothing_else_solves():
    class Only(Bistable):
        def residual(self, x, u):
            return u.laplacian - u.value**3

    solution = solve(Only(), 8, restarts=3, iterations=20)
    assert middle(solution) == 0 and "u = 0 solves" in solution.warnings[0]


def test_the_best_of_several_starts_of_a_linear_problem():
    one = solve(get("helmholtz"), (4, 8), iterations=10)
    several = solve(get("helmholtz"), (4, 8), iterations=10, restarts=2)
    assert several.rel_l2 <= 1.5 * one.rel_l2 and len(several.history) == 11


def test_several_starts_are_followed_stopped_and_resumed(tmp_path):
    told, path = [], tmp_path / "run.pt"
    whole = solve(Bistable(), 8, restarts=2, iterations=8, callback=told.append)
    assert [p.iteration for p in told] == sorted(p.iteration for p in told) and told[-1].share > 0.6

    def stop(progress):
        if progress.entry["start"] == 1 and progress.entry["iteration"] >= 3:
            raise KeyboardInterrupt

    stopped = solve(Bistable(), 8, restarts=2, iterations=8, callback=stop, checkpoint=path)
    assert stopped.stop_reason == "interrupted"
    with pytest.raises(ValueError, match="iterations of a run with restarts cannot be changed"):
        resume(path, problem=Bistable(), iterations=20)
    resumed = resume(path, problem=Bistable())
    assert torch.equal(resumed.net.rows, whole.net.rows) and resumed.stop_reason == whole.stop_reason
    assert [e["loss"] for e in resumed.history] == [e["loss"] for e in whole.history]


def test_all_starts_share_the_limit_of_time():
    solution = solve(get("helmholtz"), restarts=3, max_seconds=0.4)
    assert solution.seconds < 60 and solution.stop_reason == "time"


def test_restarts_within_a_march_are_resumed(tmp_path):
    problem, path = get("burgers", nu=0.1, upper=(1.0, 0.2)), tmp_path / "run.pt"
    options = {"windows": 2, "iterations": 3, "restarts": 1}
    whole, count = march(problem, (4, 3), **options), [0]

    def stop(progress):
        count[0] += 1
        if count[0] == 11:
            raise KeyboardInterrupt

    march(problem, (4, 3), checkpoint=path, callback=stop, **options)
    resumed = resume(path, problem=problem)
    assert torch.equal(resumed.net.rows, whole.net.rows)


def test_bad_numbers_of_restarts():
    for bad in (-1, 1.5, True, "two"):
        with pytest.raises(ValueError, match="restarts must be an integer of at least 0"):
            solve(Bistable(), 4, restarts=bad)
    with pytest.raises(TypeError, match="must go into stop"):
        solve(Bistable(), 4, restarts=1, iterations=3, stop=Stop(iterations=2))
