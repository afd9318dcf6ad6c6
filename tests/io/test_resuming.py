"""Whatever solver a run is of, `resume` finds it, goes on with it, and says what it cannot do.

That a resumed run is that of one that was never stopped, bit for bit, is tested beside every solver.
"""

import functools
import shutil

import pytest
import torch

from bumpnet_fast import BumpNet, problems
from bumpnet_fast.core.files import CheckpointError
from bumpnet_fast.io import load, resume, save
from bumpnet_fast.problems.evolution import Heat
from bumpnet_fast.problems.operators import get_operator
from bumpnet_fast.solvers import evolve, grow, learn, march, prune, reach, run_state, solve

POISSON = problems.get("poisson")
SMALL = {"points": 64}


def net(*bumps):
    return BumpNet(2, bumps, POISSON.domain, dtype="float64")


def operator():
    return get_operator("antiderivative", sensors=8, grid=20)


RUNS = {
    "solve": lambda **o: solve(POISSON, net(3, 3), iterations=6, **SMALL, **o),
    "adam": lambda **o: solve(POISSON, net(3, 3), method="adam", iterations=60, **SMALL, **o),
    "march": lambda **o: march(problems.get("heat"), (3, 3), windows=2, iterations=3, **o),
    "prune": lambda **o: prune(POISSON, net(3, 3), 7, iterations=3, **SMALL, **o),
    "grow": lambda **o: grow(POISSON, net(2, 2), 6, iterations=3, **SMALL, **o),
    "reach": lambda **o: reach(POISSON, net(2, 2), 1e-9, most=6, iterations=3, **SMALL, **o),
    "evolve": lambda **o: evolve(Heat(), 9, times=6, **o),
    "operator": lambda **o: learn(operator(), 4, functions=20, test_functions=5, trunk_iterations=9, **o),
}


def stopping(at):
    def callback(progress):
        if progress.iteration >= at:
            raise KeyboardInterrupt

    return callback


@functools.cache
def stopped(name, tmp_path):
    path = tmp_path / f"{name}.pt"
    assert RUNS[name](checkpoint=path, every_seconds=0, callback=stopping(2)).stop_reason == "interrupted"
    return path


@pytest.fixture
def run(request, tmp_path, tmp_path_factory):
    """Copy of the file of a run that was stopped."""
    return shutil.copy(stopped(request.param, tmp_path_factory.getbasetemp()), tmp_path / "run.pt")


every = pytest.mark.parametrize("run", RUNS, indirect=True)
one = pytest.mark.parametrize("run", ["solve"], indirect=True)


@pytest.mark.parametrize("run, name", [(name, name) for name in RUNS], indirect=["run"])
def test_every_run_goes_on_to_its_end(run, name):
    told = []
    ended, whole = resume(run, callback=told.append), RUNS[name]()
    assert type(ended) is type(whole) and torch.equal(ended.net.rows, whole.net.rows)
    assert (ended.stop_reason, len(ended.history)) == (whole.stop_reason, len(whole.history))
    assert told[0].iteration > 2
    again = resume(run)  # an end is an end
    assert torch.equal(again.net.rows, ended.net.rows) and again.stop_reason == ended.stop_reason


@every
def test_the_state_of_a_run_is_told_from_a_result(run, tmp_path):
    with pytest.raises(CheckpointError, match=r"run.pt is the state of a run, not its result; continue the run by"):
        load(run)
    save(tmp_path / "model.pt", resume(run))
    with pytest.raises(CheckpointError, match="holds a model, not a run"):
        resume(tmp_path / "model.pt")


@every
def test_what_defines_a_run_cannot_be_changed(run):
    before = run.read_bytes()
    with pytest.raises(ValueError, match=r"that is resumed takes .*every_seconds, callback, callbacks, got ridge"):
        resume(run, ridge=1.0)
    for wrong in (-1, float("nan"), "often", True):
        with pytest.raises(ValueError, match="every_seconds must be at least 0, got"):
            resume(run, every_seconds=wrong)
    with pytest.raises((TypeError, ValueError), match="problem"):
        resume(run, problem=problems.get("helmholtz"))
    assert run.read_bytes() == before


@pytest.mark.parametrize("run", ["solve", "evolve", "operator"], indirect=True)
@pytest.mark.parametrize("problem", ["poisson", 3, [1]])
def test_what_is_no_problem(run, problem):
    with pytest.raises(TypeError, match=r"problem must be of .*, or None, got"):
        resume(run, problem=problem)


@one
@pytest.mark.parametrize(("change", "message"), [
    ({"solver": "guess"}, "holds a run of 'guess', which is not known here"),
    ({"solver": 3}, "holds a run of 3, which is not known here"),
    ({"version": run_state.VERSION + 1}, "has format 4"),
    ({"problem": {"name": "poison", "settings": {}}}, "needs its problem, unknown problem 'poison'"),
    ({"problem": None}, "run.pt"),
    ({"problem": {"name": "poisson"}}, "run.pt"),
    ({"problem": {"name": "helmholtz", "settings": {"a9": 1}}}, "needs its problem, helmholtz has no field 'a9'"),
    ({"net": {}}, "run.pt"),
    ({"settings": None}, "run.pt"),
    ({"settings": {"method": 3}}, "run.pt"),
    ({"state": {}}, "run.pt"),
    ({"state": 3}, "run.pt"),
    ({"version": 2, "state": 3}, "run.pt"),
    ({"version": 2, "solver": "train"}, "run.pt"),
])  # fmt: skip
def test_files_that_cannot_be(run, change, message):
    content = torch.load(run, weights_only=True) | change
    torch.save(content, run)
    before = run.read_bytes()
    with pytest.raises(CheckpointError, match=message) as error:
        resume(run)
    assert "run.pt" in str(error.value) and "\n" not in str(error.value)
    assert run.read_bytes() == before


def test_other_files(tmp_path):
    with pytest.raises(FileNotFoundError):
        resume(tmp_path / "run.pt")
    for content in (b"", b"no run", b"PK\x03\x04"):
        (tmp_path / "run.pt").write_bytes(content)
        with pytest.raises(CheckpointError, match="is not a checkpoint, or is damaged"):
            resume(tmp_path / "run.pt")
