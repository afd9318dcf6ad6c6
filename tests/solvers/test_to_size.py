"""The best net of a size: which grids are tried, which one is kept, and what does not go with it."""

import math

import pytest
import torch

from bumpnet_fast import BumpNet
from bumpnet_fast.problems import get
from bumpnet_fast.solvers import solve
from bumpnet_fast.solvers.loop import StopReason
from bumpnet_fast.solvers.to_size import grids_of


@pytest.mark.parametrize("most", (1, 2, 3, 5, 7, 12, 40, 101))
@pytest.mark.parametrize("widths", [(1.0,), (1.0, 1.0), (4.0, 1.0), (1.0, 1.0, 2.0), (1.0,) * 4])
def test_grids_have_at_most_so_many_bumps(most, widths):
    grids = grids_of(most, widths)
    assert 1 <= len(grids) <= 6 and len(set(grids)) == len(grids)
    assert all(len(grid) == len(widths) and 1 <= math.prod(grid) <= most for grid in grids)


def test_the_usual_grid_is_among_them():
    assert (4, 10) in grids_of(40, (1.0, 1.0), (4, 10))
    assert (4, 20) not in grids_of(40, (1.0, 1.0), (4, 20))  # too many


def test_the_better_grid_is_found():
    problem, tried = get("helmholtz"), []  # one wave along x, four along y
    solution = solve(problem, parameters=170, iterations=25, callback=lambda p: tried.append(tuple(p.entry["cells"])))
    assert solution.net.rows.numel() <= 170 and len(set(tried)) > 3
    x, y = tried[-1]
    assert y > x, tried[-1]
    assert solution.rel_l2 < solve(problem, (y, x), iterations=25).rel_l2
    assert solution.history[-1]["iteration"] == solution.iterations > 25
    assert solution.stop is StopReason.ITERATIONS and solution.processor_seconds > 0


def test_one_dimension_has_one_grid():
    solution = solve(get("regression"), parameters=24, iterations=5)
    assert solution.net.rows.numel() <= 24 and solution.iterations <= 5


def test_it_can_be_interrupted():
    def stop(progress):
        if progress.iteration >= 7:
            raise KeyboardInterrupt

    solution = solve(get("poisson"), parameters=84, iterations=20, callback=stop)
    assert solution.stop is StopReason.INTERRUPTED
    assert bool(torch.isfinite(solution([[0.5, 0.5]])).all())


@pytest.mark.parametrize(("arguments", "message"), [
    ({"parameters": 6}, "parameters must be at least 7, those of one bump, got 6"),
    ({"parameters": 0}, "parameters must be an integer of at least 1"),
    ({"parameters": 280.5}, "parameters must be an integer"),
    ({"net": (4, 4)}, "net must be left out beside parameters"),
    ({"net": BumpNet(2, (2, 2), get("poisson").domain)}, "net must be left out beside parameters"),
    ({"restarts": 2}, "restarts must be left out"),
    ({"enrich": True}, "enrich must be left out"),
    ({"checkpoint": "run.pt"}, "checkpoint must be left out"),
    ({"method": "adam"}, "parameters is for least squares"),
    ({"error": 1e-3}, "parameters must be left out"),
    ({"method": "linear"}, "parameters must be left out"),
])  # fmt: skip
def test_what_does_not_go_with_it(arguments, message):
    net = arguments.pop("net", None)
    with pytest.raises((ValueError, TypeError), match=message):
        solve(get("poisson"), net, **{"parameters": 84} | arguments)
