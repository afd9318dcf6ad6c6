"""Evolutions to a stated error in files."""

import pytest
import torch

from bumpnet_fast import load, save
from bumpnet_fast.core.files import CheckpointError
from bumpnet_fast.problems.evolution import get_evolution
from bumpnet_fast.solvers import evolve


@pytest.fixture(scope="module")
def run():
    return evolve(get_evolution("burgers"), error=1e-3, times=5)


def test_a_saved_one_is_the_same(run, tmp_path):
    save(tmp_path / "u.pt", run)
    again, x = load(tmp_path / "u.pt"), torch.rand(9, 1, dtype=torch.float64)
    assert type(again) is type(run) and again.stop is run.stop and again.levels == run.levels
    for t in (0.0, 0.123, 0.4, 1.0):
        assert torch.equal(again.predict(x, t), run.predict(x, t)) and torch.equal(again.on(x)(t), run.on(x)(t))
    for name in ("rel_l2", "max", "reliable", "reason", "times", "over_time"):
        assert getattr(again.error_estimate, name) == getattr(run.error_estimate, name)


def wrong_amplitudes(stretches):
    stretches[0]["amplitudes"] = stretches[0]["amplitudes"][:, :-1]


def no_stretches(stretches):
    stretches.clear()


def descending(stretches):
    stretches[0]["times"] = stretches[0]["times"].flip(0)


@pytest.mark.parametrize("damage", [wrong_amplitudes, no_stretches, descending])
def test_a_damaged_one_is_refused(run, tmp_path, damage):
    save(tmp_path / "u.pt", run)
    content = torch.load(tmp_path / "u.pt")
    damage(content["evolution"]["stretches"])
    torch.save(content, tmp_path / "u.pt")
    with pytest.raises(CheckpointError, match="is damaged"):
        load(tmp_path / "u.pt")


def test_at_most_one_set_of_bumps_is_evaluated_for_points_at_rest(run):
    x = torch.rand(5, 1, dtype=torch.float64)
    u = run.on(x)
    assert torch.equal(u(0.5), u(0.5)) and u(0.0).shape == (5, 1)
