"""Elimination, growth and the search for few bumps, by the least-squares solver."""

import math

import pytest
import torch

from bumpnet_fast import BumpNet, problems
from bumpnet_fast.solvers import solve
from bumpnet_fast.solvers.strategies import SCORES, grow, heights, prune, reach, removal_costs


def start(bumps=(4, 4), **settings):
    problem = problems.get("poisson", **settings)
    return problem, BumpNet(2, bumps, problem.domain, dtype="float64")


@pytest.mark.parametrize("boundary", ("hard", "soft"))
def test_removal_cost_is_the_increase_of_the_loss(boundary):
    problem, net = start()
    solution = solve(problem, net, boundary=boundary, iterations=5, points=(20, 20))
    costs = removal_costs(solution, points=(20, 20))
    for i in (0, 5, 10):
        keep = torch.arange(len(net.rows)) != i
        without = BumpNet.from_rows(net.rows[keep], net.frame, net.domain)
        loss = solve(problem, without, boundary=boundary, iterations=0, points=(20, 20)).loss
        assert abs(costs[i] - (loss - solution.loss)) <= 0.05 * loss


@pytest.mark.parametrize("score", [*SCORES, lambda solution: -heights(solution)])
def test_pruning_goes_down_in_steps_and_notes_them(score):
    problem, net = start((5, 5))
    seen = []
    solution = prune(problem, net, 12, score=score, iterations=8, callback=seen.append)
    assert len(net.rows) == 12 and solution.net is net
    assert [(e.kind, e.before, e.after) for e in solution.events] == [
        ("prune", 25, 21), ("prune", 21, 18), ("prune", 18, 15), ("prune", 15, 13), ("prune", 13, 12),
    ]  # fmt: skip
    iterations = [entry["iteration"] for entry in solution.history]
    assert iterations == sorted(iterations) and iterations[-1] == solution.iterations == seen[-1].iteration
    assert [e["bumps"] for e in solution.history] == sorted((e["bumps"] for e in solution.history), reverse=True)
    assert solution.rel_l2 < 1e-2 or callable(score)
    times = [entry["seconds"] for entry in solution.history]
    assert times == sorted(times) and times[-1] <= solution.seconds


def test_half_of_the_bumps_can_go():
    """The figure of docs/choosing.md, on a smaller budget."""
    problem, net = start((6, 6))
    before = solve(problem, BumpNet.from_rows(net.rows, net.frame, net.domain), iterations=30).rel_l2
    assert prune(problem, net, 18, iterations=30).rel_l2 < 20 * before < 1e-4


def test_growth_puts_back_what_pruning_took_too_much_of():
    problem, net = start((4, 4))
    full = solve(problem, BumpNet.from_rows(net.rows, net.frame, net.domain), iterations=30).rel_l2
    poor = prune(problem, net, 3, iterations=15).rel_l2
    solution = grow(problem, net, 16, iterations=30)
    assert poor > 100 * full and solution.rel_l2 < 20 * full
    assert len(net.rows) == 16 and {e.kind for e in solution.events} == {"grow"}


def test_an_error_is_reached_with_few_bumps():
    problem, net = start((3, 3))
    solution = reach(problem, net, 1e-4, iterations=25)
    assert solution.stop_reason == "error reached" and solution.rel_l2 <= 1e-4 and solution.net is net
    assert len(net.rows) < 16
    x = torch.rand(200, 2, dtype=torch.float64) * 2 - 1
    difference = solution.predict(x)[:, 0] - problem.exact(x)
    assert difference.norm() <= 3e-4 * problem.exact(x).norm(), "the net that is left is the one that did it"


def test_a_start_that_is_stuck_is_left_behind():
    """Two columns of bumps cannot bend eight times: growth alone would not get there."""
    problem, net = start((2, 2), a2=4)
    solution = reach(problem, net, 1e-2, iterations=25, most=60)
    assert solution.rel_l2 <= 1e-2 and solution.stop_reason == "error reached"


def test_what_cannot_be_reached_is_said():
    problem, net = start((2, 2), a1=5, a2=5)
    solution = reach(problem, net, 1e-9, iterations=2, most=6)
    assert solution.stop_reason == "error not reached" and len(net.rows) == 6 and math.isfinite(solution.rel_l2)


@pytest.mark.parametrize("function", (prune, grow, reach))
def test_ctrl_c_keeps_what_there_is(function):
    problem, net = start((4, 4))

    def stop(progress):
        if progress.iteration == 7:
            raise KeyboardInterrupt

    target = {prune: 8, grow: 30, reach: 1e-12}[function]
    solution = function(problem, net, target, iterations=5, callback=stop)
    assert solution.stop_reason == "interrupted" and math.isfinite(solution.loss)
    assert bool(torch.isfinite(net.rows).all()) and solution.iterations == 7


@pytest.mark.parametrize(
    ("function", "target", "options", "message"),
    [
        (prune, 0, {}, "bumps must be an integer"),
        (grow, 1.5, {}, "bumps must be an integer"),
        (prune, 4, {"score": "size"}, "score must be one of loss, peak"),
        (prune, 4, {"score": lambda s: torch.ones(2)}, r"score must give a tensor of shape \[16\]"),
        (prune, 4, {"iterations": 0}, "iterations"),
        (reach, 0.0, {}, "error must be positive"),
        (reach, math.nan, {}, "error must be positive"),
        (prune, 4, {"boundary": "loose"}, "boundary"),
        (grow, 20, {"damping": -1.0}, "damping"),
    ],
)
def test_bad_arguments_are_refused(function, target, options, message):
    problem, net = start((4, 4))
    with pytest.raises(ValueError, match=message):
        function(problem, net, target, **{"iterations": 1} | options)
