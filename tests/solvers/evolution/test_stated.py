"""``evolve(problem, error=...)``: the estimate is right, and what cannot be solved is said."""

import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from evolutions import Decay, Rod, Swelling, Tidal, Waves

from bumpnet_fast.problems.evolution import Advection, EvolutionProblem, Heat, Heat2D, get_evolution
from bumpnet_fast.solvers import Evolution, StopReason, evolve
from bumpnet_fast.solvers.evolution import level, stated


@dataclass
class Insulated(EvolutionProblem):
    """Heat between ends of given slopes."""

    name, want, periodic = "insulated", "laplacian", False
    lower: tuple = (0.0,)
    final_time: float = 0.1
    slope: float = 0.0

    def boundary_slopes(self, x):
        return self.slope + 0 * x[:, 0]

    def rhs(self, x, u, t):
        return u.laplacian

    def exact(self, x, t):
        return 1 + self.slope * x[:, 0] + math.exp(-(math.pi**2) * t) * torch.cos(math.pi * x[:, 0])


PROBLEMS = {
    "heat": Heat(), "heat, held": Heat(periodic=False), "pulse": Advection(narrow=20), "waves": Waves(),
    "rod": Rod(beat=20.0), "tidal": Tidal(), "insulated": Insulated(), "sloped": Insulated(slope=2.0),
}  # fmt: skip


def true_error(run):
    """The largest relative L2 error over time and outputs, between output times, too."""
    problem, found = run.problem, []
    lo, hi = problem.domain[:, 0].tolist()
    x = (lo + (hi - lo) * torch.linspace(0, 1, 801, dtype=torch.float64))[:, None]
    for i in range(31):
        t = problem.final_time * (i / 30) ** 2
        known = problem.exact(x, t).reshape(len(x), -1)
        size = known.square().mean(0).sqrt().clamp_min(1e-3)
        found.append(((run.predict(x, t) - known).square().mean(0).sqrt() / size).max())
    return float(max(found))


def estimate(run):
    return max((*run.error_estimate.over_time, *run.error_estimate.rel_l2))


@pytest.mark.parametrize("name, error", [*zip(PROBLEMS, itertools.cycle([1e-6, 1e-4])), ("heat, held", 1e-6)])
def test_the_error_is_reached_and_its_estimate_is_right(name, error):
    problem = PROBLEMS[name]
    run = evolve(problem, error=error)
    assert run.stop is StopReason.REACHED and isinstance(run, Evolution)
    true = true_error(run)
    assert true <= error and estimate(run) <= error
    assert true / 3 < estimate(run) < 3 * true
    assert run.rel_l2 <= error and run.error_estimate.reliable and not run.warnings


def test_it_is_an_ordinary_evolution():
    run = evolve(get_evolution("burgers"), error=1e-4, times=[0.1, 0.35, 1.0])
    assert run.times.tolist() == [0, 0.1, 0.35, 1.0] and len(run.history) == 4
    assert run.states.shape == run.rates.shape and len(run.states) == 4
    x = torch.rand(7, 1, dtype=torch.float64)
    u = run.on(x)
    for t in (0.0, 0.1, 0.222, 1.0):
        assert torch.allclose(u(t), run.predict(x, t), atol=1e-12)
    assert torch.allclose(run.space.jet(x, run.states[2], "value").value, run.predict(x, 0.35), atol=1e-12)
    assert run.jet(x, 0.5).second.shape == (7, 1, 1, 1) and run.at(0.222).layout.outputs == 1
    assert "error reached" in str(run.report()) and run.estimate_error() is run.error_estimate
    with pytest.raises(ValueError, match="t must be from 0 to 1, got 2"):
        run.predict(x, 2)


def test_rates_are_derivatives_by_time():
    run = evolve(get_evolution("advection", narrow=5), error=1e-6, times=8)
    x, t = torch.rand(7, 1, dtype=torch.float64), float(run.times[3])
    apart = (run.predict(x, t + 1e-4) - run.predict(x, t - 1e-4)) / 2e-4
    ends = [run.space.jet(x, run.states[3] + s * 1e-5 * run.rates[3], "value").value for s in (1, -1)]
    assert torch.allclose((ends[0] - ends[1]) / 2e-5, apart, atol=1e-4)


WRONG = {
    "two dimensions": (Heat2D(), {}, "one space dimension, and problem 'heat2d' has 2"),
    "bumps": (Heat(), {"net": 20}, "error chooses net itself"),
    "method": (Heat(), {"method": "rk4"}, "error chooses method itself"),
    "checkpoint": (Heat(), {"checkpoint": "x.pt"}, "not resumed"),
    "above 1": (Heat(), {"error": 1.5}, "error must be above 0 and below 1, got 1.5"),
    "a flag": (Heat(), {"error": True}, "error must be above 0 and below 1, got True"),
    "a start against the ends": (
        Decay(start="ones"),
        {},
        r"at t = 0: the start and the boundary values disagree at \(-1\)",
    ),
}


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG)
def test_what_cannot_be_is_an_error(case):
    problem, options, message = case
    with pytest.raises(ValueError, match=message):
        evolve(problem, **{"error": 1e-4} | options)


def test_a_start_against_the_slopes_is_an_error():
    @dataclass
    class Tilted(Insulated):
        def initial(self, x):
            return x[:, 0]

    with pytest.raises(ValueError, match="contradicts its slopes at t = 0, x = 0: initial has 1 there"):
        evolve(Tilted(), error=1e-4)
    with pytest.raises(ValueError, match="only where error is given"):
        evolve(Insulated(), 20)


def test_what_blows_up_is_kept_until_then():
    run = evolve(Swelling(), error=1e-4)
    assert run.stop is StopReason.UNSTABLE and "t = 0.99" in run.warnings[0] and "x = " in run.warnings[0]
    t = float(run.times[-1])
    assert 0.9 < t < 1 and run.predict([[0.3]], t).item() == pytest.approx(1 / (1 - t), rel=1e-2)


def test_a_front_that_is_too_thin_is_not_reached(monkeypatch):
    monkeypatch.setattr(level, "MOST", 60)
    run = evolve(get_evolution("burgers", nu=1e-3), error=1e-4)
    assert run.stop is StopReason.NOT_REACHED and not run.error_estimate.reliable
    assert "too fine at t = 0." in run.warnings[0] and "is kept" in run.warnings[-1]
    assert 0.2 < float(run.times[-1]) < 0.6


def test_an_interrupt_keeps_what_there_is():
    calls = itertools.count()

    def callback(progress):
        if next(calls) == 3:
            raise KeyboardInterrupt

    run = evolve(get_evolution("burgers"), error=1e-6, callback=callback)
    assert run.stop is StopReason.INTERRUPTED and 0 < float(run.times[-1]) < 1
    assert torch.isfinite(run.predict([[0.2]], float(run.times[-1]))).all()


def test_an_error_that_rounding_forbids_is_not_reached():
    run = evolve(Insulated(), error=1e-13)
    assert run.stop is StopReason.NOT_REACHED and any("was not reached" in w for w in run.warnings)


def test_arguments_that_are_chosen_are_those_of_evolve():
    import inspect

    parameters = inspect.signature(evolve).parameters
    assert {name: parameters[name].default for name in stated.CHOSEN} == stated.CHOSEN
