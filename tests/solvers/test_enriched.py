"""``solve(enrich=)``: what the enrichment at the end gains, when it is kept, resumed, and refused."""

import pytest
import torch

from bumpnet_fast.io import load, resume, save
from bumpnet_fast.problems import get
from bumpnet_fast.solvers import march, prune, solve

FEW = {"iterations": 5}


@pytest.mark.parametrize("name", ["heat", "inverse-heat"])
def test_the_solution_becomes_much_better(name):
    plain = solve(get(name), (4, 4), **FEW)
    better = solve(get(name), (4, 4), enrich=True, **FEW)
    assert better.rel_l2 < plain.rel_l2 / 100
    assert better.stop is plain.stop and better.method == f"{plain.method}+enrich"
    assert torch.equal(better.net.rows[:16, :2], plain.net.rows[:, :2]), "the trained bumps come first"


def test_a_number_of_bumps():
    small = solve(get("poisson"), (4, 4), enrich=30, **FEW)
    assert 16 + 20 < len(small.net.rows) < 16 + 90


def test_nothing_is_kept_where_it_does_not_help():
    same = solve(get("sharp-poisson", a=5000.0), (5, 5), enrich=40, **FEW)
    assert len(same.net.rows) == 25
    assert any("none were added" in warning for warning in same.warnings)


def test_it_is_saved_and_resumed(tmp_path):
    whole = solve(get("heat"), (4, 4), iterations=8, tolerance=0.0, enrich=50)

    def stop(progress):
        if progress.iteration == 4:
            raise KeyboardInterrupt

    file = tmp_path / "state.pt"
    part = solve(get("heat"), (4, 4), iterations=8, tolerance=0.0, enrich=50, checkpoint=file, callback=stop)
    assert part.stop_reason == "interrupted" and len(part.net.rows) == 16
    again = resume(file)
    assert torch.equal(again.net.rows, whole.net.rows) and len(again.net.rows) > 16
    save(tmp_path / "model.pt", again)
    x = torch.rand(5, 2, dtype=torch.float64)
    assert torch.equal(load(tmp_path / "model.pt").predict(x), again.predict(x))


def test_the_best_of_the_restarts_is_enriched(tmp_path):
    file = tmp_path / "state.pt"
    best = solve(get("poisson"), (3, 3), restarts=1, enrich=50, checkpoint=file, **FEW)
    assert len(best.net.rows) > 9 and best.method.endswith("+enrich")
    assert torch.equal(resume(file).net.rows, best.net.rows)


@pytest.mark.parametrize("options, message", [
    ({"enrich": 0.5}, "enrich must be an integer"),
    ({"enrich": -1}, "enrich must be"),
    ({"enrich": True, "error": 1e-3}, "enrich must be left out beside error"),
    ({"enrich": True, "method": "linear"}, "enrich must be left out beside"),
])  # fmt: skip
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        solve(get("poisson"), **options)


def test_searches_refuse_it():
    net = solve(get("poisson"), (3, 3), **FEW).net
    with pytest.raises(ValueError, match="enrich must be left out beside prune"):
        prune(get("poisson"), net, 5, enrich=True, **FEW)


def test_every_window_of_a_march(tmp_path):
    options = {"windows": 2, "iterations": 8}
    plain = march(get("advection", nu=3), (4, 4), **options)
    file = tmp_path / "state.pt"
    better = march(get("advection", nu=3), (4, 4), enrich=100, checkpoint=file, **options)
    assert better.rel_l2 < plain.rel_l2 / 10
    assert all(len(net.rows) > 80 for net in better.nets)
    assert len(better.nets[1].rows) < 2 * 100, "the added bumps of a window are not those of the next"
    again = resume(file)
    assert all(torch.equal(a.rows, b.rows) for a, b in zip(again.nets, better.nets, strict=True))
    save(tmp_path / "march.pt", better)
    x = torch.rand(5, 2, dtype=torch.float64)
    assert torch.equal(load(tmp_path / "march.pt").predict(x), better.predict(x))
