"""Saved evolutions: the way there and back, and files that are something else."""

import pytest
import torch

from bumpnet_fast import BumpNet
from bumpnet_fast.io import saved as checkpoint
from bumpnet_fast.io import saved_evolution as evolution_checkpoint
from bumpnet_fast.io.saved import CheckpointError
from bumpnet_fast.problems.evolution import Advection, Burgers, Heat
from bumpnet_fast.solvers import evolve


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.pt"


@pytest.mark.parametrize(("problem", "bumps", "options"), [
    (Burgers(nu=0.1), 12, {"measure": False}),
    (Heat(periodic=False), 10, {}),
    (Advection(narrow=2.0), 4, {"shapes": "evolve", "step": 0.3}),
], ids=str)  # fmt: skip
def test_there_and_back(problem, bumps, options, path):
    run = evolve(problem, bumps, times=4, **options)
    evolution_checkpoint.save(path, run)
    again = evolution_checkpoint.load(path)
    assert again.problem == problem and again.history == run.history
    x = torch.rand(20, 1, dtype=torch.float64)
    for t in (0.0, 0.33 * float(run.times[-1]), float(run.times[-1])):
        assert torch.equal(again.predict(x, t), run.predict(x, t))
        assert torch.equal(again.at(t).rows, run.at(t).rows)
    for name in evolution_checkpoint._PLAIN:
        assert getattr(again, name) == getattr(run, name)


def test_float32(path):
    run = evolve(Heat(), BumpNet(1, 9, Heat().domain, dtype="float32"), times=2)
    evolution_checkpoint.save(path, run)
    again = evolution_checkpoint.load(path)
    x = torch.rand(4, 1)
    assert again.net.rows.dtype == torch.float32 and torch.equal(again.predict(x, 0.2), run.predict(x, 0.2))


def test_torch_reads_it_safely_and_finds_the_last_net(path):
    run = evolve(Heat(), 9, times=2)
    evolution_checkpoint.save(path, run)
    content = torch.load(path, weights_only=True)
    net = BumpNet(**content["kwargs"])
    net.load_state_dict(content["model"])
    assert torch.equal(net.rows, run.at(0.5).rows)


def test_a_problem_of_ones_own_is_asked_for(path):
    class Mine(Heat):
        name = "mine"

    evolution_checkpoint.save(path, evolve(Mine(), 9, times=1))
    with pytest.raises(CheckpointError, match=r"needs its problem, unknown problem 'mine'.*pass it as problem="):
        evolution_checkpoint.load(path)
    assert evolution_checkpoint.load(path, problem=Mine()).problem.name == "mine"


def test_files_of_the_other_kind_are_refused(path):
    evolution_checkpoint.save(path, evolve(Heat(), 9, times=1))
    with pytest.raises(CheckpointError, match=r"holds an evolution: load it with evolution_checkpoint.load"):
        checkpoint.load(path)
    checkpoint.save(path, BumpNet(1, 4))
    with pytest.raises(CheckpointError, match=r"holds no evolution: load it with checkpoint.load"):
        evolution_checkpoint.load(path)


@pytest.mark.parametrize("key", ["times", "states", "frame", "method"])
def test_a_damaged_file_says_so(path, key):
    evolution_checkpoint.save(path, evolve(Heat(), 9, times=1))
    content = torch.load(path, weights_only=True)
    del content["evolution"][key]
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="is damaged"):
        evolution_checkpoint.load(path)
