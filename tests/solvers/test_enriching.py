"""A trained net with a smooth background: what it gains, and what it says where it gains nothing."""

import pytest
import torch
from cases import Cubic, Rotation

from bumpnet_fast import BumpNet, io
from bumpnet_fast.problems import get
from bumpnet_fast.solvers import StopReason, solve
from bumpnet_fast.solvers.enriching import with_smooth

#: Problems, bumps, iterations, and how many times smaller the error becomes at least.
BETTER = [
    (get("poisson"), (4, 4), 10, 100),
    (get("heat"), (4, 4), 5, 100),
    (get("wave"), (5, 5), 10, 10),
    (get("helmholtz", a2=2), (5, 5), 10, 100),
    (get("kovasznay"), (4, 4), 2, 100),
    (get("convection-diffusion", eps=0.1), (8, 3), 10, 10),
    (Rotation(), 6, 5, 100),
    (Cubic(), 6, 5, 100),
]


@pytest.mark.parametrize("problem, bumps, iterations, times", BETTER, ids=[p.name for p, *_ in BETTER])
def test_smooth_solutions_become_much_better(problem, bumps, iterations, times):
    solution = solve(problem, bumps, iterations=iterations)
    rows = solution.net.rows.detach().clone()
    better = solution.enrich()
    assert better.rel_l2 < solution.rel_l2 / times and better.stop is StopReason.SOLVED
    assert torch.equal(solution.net.rows, rows), "the present solution stays as it is"
    own = slice(0, solution.net.layout.shape_columns)
    assert torch.equal(better.net.rows[: len(rows), own], rows[:, own])
    assert better.processor_seconds > solution.processor_seconds and better.method.endswith("+enrich")


def test_only_the_first_bumps_are_trained_on():
    better = solve(get("heat"), (3, 3), iterations=3).enrich(60)
    trainable = better.net.trainable
    assert trainable[:9].all() and not trainable[9:].any()
    shapes = better.net.rows[9:, : better.net.layout.shape_columns].detach().clone()
    before = better.rel_l2
    again = solve(get("heat"), better.net, iterations=3)
    assert again.rel_l2 <= 1.5 * before
    assert torch.equal(again.net.rows[9:, : again.net.layout.shape_columns], shapes)


def test_where_it_does_not_help_nothing_is_added():
    solution = solve(get("sharp-poisson", a=5000.0), (5, 5), iterations=5)
    same = solution.enrich(40)
    assert same.net is solution.net and same.rel_l2 == solution.rel_l2
    assert any("none were added" in warning for warning in same.warnings)


def test_unknowns_are_solved_for_too():
    solution = solve(get("inverse-heat"), (4, 4), iterations=3)
    better = solution.enrich()
    assert abs(better.unknowns["k"] - 0.2) <= abs(solution.unknowns["k"] - 0.2)
    assert better.rel_l2 < solution.rel_l2


def test_it_is_saved_and_loaded(tmp_path):
    better = solve(get("poisson"), (3, 3), iterations=3).enrich(50)
    io.save(tmp_path / "model.pt", better)
    loaded = io.load(tmp_path / "model.pt")
    x = torch.rand(5, 2, dtype=torch.float64)
    assert torch.equal(loaded.predict(x), better.predict(x))


def test_the_number_of_bumps_is_about_what_was_asked_for():
    net = BumpNet(2, (4, 4), get("poisson").domain, dtype="float64")
    assert 80 <= len(with_smooth(net, 100, 0).rows) - 16 <= 125


def test_an_unusual_scale_is_refused():
    net = BumpNet(2, (4, 4), [[0.0, 0.0], [1e-4, 1e-4]], scale=1.0, dtype="float64")
    with pytest.raises(ValueError, match="scale"):
        with_smooth(net, 100, 0)


@pytest.mark.parametrize("arguments", [{"bumps": 0}, {"bumps": 1.5}, {"bumps": 9, "seed": -1}])
def test_bad_arguments_are_named(arguments):
    solution = solve(get("poisson"), (3, 3), iterations=0)
    with pytest.raises(ValueError, match="seed" if "seed" in arguments else "bumps"):
        solution.enrich(**arguments)


def test_cells_far_from_square_are_no_obstacle():
    better = solve(get("convection-diffusion", eps=0.1), (16, 2), iterations=3).enrich(100)
    assert better.rel_l2 < 1e-2 and len(better.net.rows) > 100
