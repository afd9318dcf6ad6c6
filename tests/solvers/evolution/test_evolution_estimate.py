"""The estimated error of an evolution, its report, and its warnings: beside the true error."""

import dataclasses
import math

import pytest
import torch
from evolutions import Bistable, Decay, Porous, Rod, Steep, Tidal, Waves

from bumpnet_fast.problems.evolution import Advection, AllenCahn, Burgers, Heat, Heat2D
from bumpnet_fast.problems.sampling import lattice
from bumpnet_fast.solvers import EvolutionReport, evolve
from bumpnet_fast.solvers.evolution import estimate
from bumpnet_fast.solvers.evolution.estimate import _Axis, _Grid, estimated


def against(run, finer):
    """The relative L2 error of every output at the end, against another evolution."""
    x, t = lattice(run.problem.domain), float(run.times[-1])
    a, b = run(x, t), finer(x, t)
    return ((a - b).norm(dim=0) / b.norm(dim=0)).tolist()


# --- the estimate --------------------------------------------------------------------------------


@pytest.mark.parametrize(("problem", "bumps", "options"), [
    (Heat(), 10, {}),
    (Heat(periodic=False), 12, {}),
    (Heat(), 20, {"method": "cn", "step": 0.05}),  # the steps are what is wrong
    (Advection(narrow=2.0), 10, {}),
    (Advection(narrow=2.0), 8, {"shapes": "evolve", "step": 0.1}),
    (Burgers(nu=0.1), 10, {}),
    (Burgers(), 20, {}),
    (Burgers(nu=0.1), 20, {"points": 21}),  # the residual at so few points is zero
    (AllenCahn(), 20, {}),
    (Heat2D(), (6, 6), {}),
    (Heat2D(periodic=False), (5, 5), {}),
    (Rod(beat=20.0), 10, {}),
    (Waves(), 10, {}),
    (Tidal(), 12, {}),
], ids=str)  # fmt: skip
def test_the_estimate_is_the_error(problem, bumps, options):
    run = evolve(problem, bumps, times=4, **options)
    error = estimated(run)
    assert error.reliable, error.reason
    assert 0.5 < max(error.rel_l2) / run.rel_l2 < 2 and 0.5 < max(error.max) / run.max_error < 2


@pytest.mark.parametrize(("problem", "bumps", "finer"), [
    (Steep(), 16, 100), (Porous(), 10, 40), (Bistable(), (5, 5), (12, 12)), (Decay(start="tent"), 12, 80),
], ids=str)  # fmt: skip
def test_where_no_solution_is_known(problem, bumps, finer):
    run = evolve(problem, bumps, times=2)
    error, wanted = estimated(run), against(run, evolve(problem, finer, times=2))
    assert run.rel_l2 is None or not problem.held_axes
    assert error.reliable, error.reason
    assert all(1 / 3 < a / b < 3 for a, b in zip(error.rel_l2, wanted, strict=True))


def test_it_is_lazy_and_kept_and_changes_nothing(monkeypatch):
    run = evolve(Heat(), 12, times=2, measure=False)
    before = dataclasses.replace(run)
    error = run.error_estimate
    monkeypatch.setattr(estimate, "_estimated", None)
    assert run.error_estimate is error and torch.equal(run.states, before.states)
    again = run.estimate_error()
    assert not again.reliable and again.reason.startswith("it could not be computed: TypeError")


def test_what_would_take_too_long_is_not_done():
    error = estimated(evolve(Burgers(), 40, times=2, measure=False), 1e-3)
    assert not error.reliable and math.isnan(error.rel_l2[0]) and "run.estimate_error() takes the time" in error.reason


def test_what_no_grid_resolves_is_not_reliable():
    error = estimated(evolve(Decay(start="peak"), 20, times=2), 0.5)
    assert not error.reliable


def test_grids_on_which_u_grows_beyond_all_numbers_tell_nothing():
    # As in the heat equation with a negative conductivity: both grids agree that u is infinite.
    own, grid = torch.ones(2, 5, 1), torch.full((2, 5, 1), 1e300, dtype=torch.float64)
    error = estimate._judged(own.double(), (grid, grid), lambda: "", (0.5, 1.0))
    assert not error.reliable and math.isnan(error.rel_l2[0]) and "wrong sign" in error.reason


def test_an_error_at_rounding_is_called_that():
    error = estimated(evolve(Heat(), 40, times=2))
    assert max(error.rel_l2) < 1e-10 and error.reason.startswith("the difference is rounding")
    assert evolve(Heat(), 40, times=2).report().warnings == ()


def test_on_the_way_interpolation_counts():
    run = evolve(Advection(narrow=2.0), 30, times=1)
    error = estimated(run)
    assert max(error.rel_l2) < 1e-8 and max(error.over_time) > 0.1
    (warning,) = run.report().warnings
    assert warning.startswith("the error on the way is up to 1") and "more times" in warning


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("n", [15, 16])
def test_an_axis_differentiates_and_interpolates(periodic, n):
    axis = _Axis(0.0, 3.0, n, periodic)
    w = 2 * math.pi / 3

    def f(x):
        return torch.sin(2 * w * x) + torch.cos(w * x) if periodic else x**5 - x**2

    x = axis.nodes
    first, second = axis.derivatives
    known = (2 * w * torch.cos(2 * w * x) - w * torch.sin(w * x) if periodic else 5 * x**4 - 2 * x,
             -4 * w**2 * torch.sin(2 * w * x) - w**2 * torch.cos(w * x) if periodic else 20 * x**3 - 2)  # fmt: skip
    torch.testing.assert_close(first @ f(x), known[0], rtol=0, atol=1e-9)
    torch.testing.assert_close(second @ f(x), known[1], rtol=0, atol=1e-7)
    there = torch.cat([torch.linspace(0, 3, 11, dtype=torch.float64), x[:3]])
    torch.testing.assert_close(axis.interpolation(there) @ f(x), f(there), rtol=0, atol=1e-11)


@pytest.mark.parametrize("problem", [Bistable(), Waves(), Steep(), Rod()], ids=str)
def test_the_jacobian_of_a_grid_is_the_derivative_of_its_slope(problem):
    grid = _Grid(problem, (9, 8)[: len(problem.lower)])
    v = torch.randn(grid.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        y = grid.start
        change = (grid.slope(0.1, y + 1e-6 * v) - grid.slope(0.1, y - 1e-6 * v)) / 2e-6
        torch.testing.assert_close(grid.jacobian(0.1, y) @ v, change, rtol=0, atol=1e-6 * float(change.norm()))


# --- warnings and report -------------------------------------------------------------------------


@pytest.mark.parametrize(("problem", "bumps", "options", "warned"), [
    (Burgers(nu=0.1), 20, {}, False),  # misses 60 % of u_t, and is right to 0.3 %
    (Burgers(nu=0.01), 40, {}, True),  # is wrong by 1.9 %
    (Burgers(), 20, {"points": 21}, True),  # misses nothing at its points, and is wrong by 10 %
    (Steep(), 12, {}, True),
    (Steep(), 24, {}, False),
    (Heat(), 20, {}, False),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("measure", [True, False])
def test_one_measure_warns(problem, bumps, options, warned, measure):
    run = evolve(problem, bumps, times=10, measure=measure, **options)
    assert [w.startswith("the error at the end is ") for w in run.warnings] == [True] * warned
    assert run.report().warnings == tuple(run.warnings)


@pytest.mark.parametrize(("problem", "words"), [
    (Decay(start="ones"), "the start and the boundary values disagree at (-1)"),
    (Decay(start="peak"), "the start is 1.89 at (0.3), and 1 at most where the bumps are fitted"),
    (Decay(start="wave", final_time=1e-9), "u hardly moves until t = 1e-09: check the units"),
    (Decay(start="wave", final_time=1e4), "nothing is left of u at t = 10000: check the units"),
], ids=str)  # fmt: skip
def test_data_that_cannot_be_right_are_named(problem, words):
    run = evolve(problem, 20, times=2)
    assert any(w.startswith(words) for w in run.warnings), run.warnings
    assert set(run.warnings) <= set(run.report().warnings)


def test_a_short_pulse_is_not_stepped_over():
    problem = Decay(start="zero", pulse=50.0)
    run = evolve(problem, 16)
    assert run.method == "dop853"  # and not "expm", which takes the source for steady
    slow = evolve(problem, 16, method="rk4", step=1e-3)
    assert float(run.history[-1]["norm"]) > 0.1 and against(run, slow)[0] < 1e-4


def test_a_report_can_be_read():
    run = evolve(Waves(), 10, times=2)
    text = str(run.report())
    for words in (
        "error of output 2",
        "estimate           reliable",
        "on the way",
        "stopped            at t = 1, finished",
    ):
        assert words in text, text
    told = run.report().as_dict()
    assert told["error"]["reliable"] and len(told["error"]["times"]) == len(told["error"]["over_time"]) == 10
    off = run.report(estimate=False)
    assert isinstance(off, EvolutionReport) and off.error is None and "switched off" in str(off)
