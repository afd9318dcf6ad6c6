"""States of runs of older versions in today's form; that whole files go on is tested by tests/test_older_files.py."""

from pathlib import Path

import pytest
import torch

from bumpnet_fast.core.files import CheckpointError
from bumpnet_fast.io import older, resume
from bumpnet_fast.solvers import run_state

RUNS = sorted(Path(__file__).parents[1].joinpath("data").glob("version-*/runs/*.pt"))
ids = [path.stem for path in RUNS]


def content(name):
    return run_state.load(next(path for path in RUNS if path.stem == name))


@pytest.mark.parametrize("path", RUNS, ids=ids)
def test_what_is_converted_is_of_this_version_and_stays_so(path):
    old = run_state.load(path)
    new = older.upgraded(old)
    assert new["version"] == run_state.VERSION and older.upgraded(new) is new
    assert (new["problem"], old["version"]) == (old["problem"], 2)
    assert run_state.plain(new) is not None  # a file can hold it


@pytest.mark.parametrize("name", ["train-adam", "train-adam-lbfgs", "train-varpro-adam", "train-pruning"])
def test_trainings_are_solves(name):
    old, new = content(name), older.upgraded(content(name))
    assert new["solver"] == "solve"
    assert [method["name"] for method in new["settings"]["method"]] == old["settings"]["method"].split("+")
    state = new["state"]
    assert state["history"] == old["progress"]["history"] and state["done"] == old["progress"]["taken"]
    assert torch.equal(state["best"]["work"]["rows"], old["best"]["rows"])
    assert state["best"]["loss"] == old["best"]["loss"]
    assert state["work"]["generation"] == len(old["progress"]["events"])


@pytest.mark.parametrize("name", ["solve-varpro", "solve-gauss-newton", "solve-lm", "solve-refined"])
def test_solves_keep_where_they_are(name):
    old, new = content(name), older.upgraded(content(name))
    state = new["state"]
    assert state["history"] == old["state"]["history"] and state["seconds"] == old["state"]["seconds"]
    assert torch.equal(state["work"]["rows"], old["net"]["rows"])
    method = new["settings"]["method"][0]
    assert method["name"] == old["settings"]["method"] and not method["options"].keys() & new["settings"].keys()
    assert method["options"].keys() | new["settings"].keys() >= old["settings"].keys()


@pytest.mark.parametrize("name", ["march", "prune", "grow", "reach"])
def test_the_solves_that_are_done_stay_done(name):
    old, new = content(name)["state"], older.upgraded(content(name))["state"]
    assert len(new["done"]) == len(old["done"])
    for before, after in zip(old["done"], new["done"], strict=True):
        assert after["stop"] == before["stop_reason"] and after["processor_seconds"] == before["seconds"]


def test_a_run_that_had_no_state_yet():
    for name in ("solve-varpro", "march"):
        new = older.upgraded(content(name) | {"state": None})
        assert new["state"] is None and new["version"] == run_state.VERSION


@pytest.mark.parametrize("path", RUNS, ids=ids)
@pytest.mark.parametrize("part", ["settings", "net", "state", "progress", "batches", "stage", "best"])
@pytest.mark.parametrize("spoiled", [None, {}, 3, "text"], ids=str)
def test_old_files_that_are_damaged(path, part, spoiled, tmp_path):
    old = torch.load(path, weights_only=True)
    if part not in old or (spoiled is None and part in ("state", "net")):
        pytest.skip("nothing to spoil, or the start of a run")
    if part == "settings" and spoiled == {} and old["solver"] in ("evolve", "march", "operator"):
        pytest.skip("the defaults")
    torch.save(old | {part: spoiled}, tmp_path / "run.pt")
    with pytest.raises(CheckpointError) as error:
        resume(tmp_path / "run.pt")
    assert str(tmp_path / "run.pt") in str(error.value) and "\n" not in str(error.value)
