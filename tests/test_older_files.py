"""Files of earlier versions still load, and runs that an earlier version began still go on.

The files lie in ``tests/data/version-*``, with the numbers that they must give in ``expected.json``;
``tests/data/make_files.py`` wrote them.
"""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bumpnet_fast.cli import main as command_line
from bumpnet_fast.cli import writing
from bumpnet_fast.io import load, resume
from bumpnet_fast.solvers import March

FOLDERS = sorted(Path(__file__).with_name("data").glob("version-*"))
EXPECTED = {folder: json.loads((folder / "expected.json").read_text(encoding="utf-8")) for folder in FOLDERS}


def entries(part):
    """(folder of the version, name, expected) of all that ``expected.json`` lists under ``part``."""
    cases = [(folder, name, entry) for folder in FOLDERS for name, entry in EXPECTED[folder][part].items()]
    return pytest.mark.parametrize(("folder", "name", "expected"), cases, ids=[f"{f.name}-{n}" for f, n, _ in cases])


# --- today's interface: all calls that depend on it ----------------------------------------------


def loaded_model(path, expected):
    """What a saved model is, and its values ``u(x)`` in float64."""
    x, result = torch.tensor(expected["x"], dtype=torch.float64), load(path)
    if "t" in expected:
        return SimpleNamespace(values=result.predict(x, expected["t"]))
    if "f" in expected:
        return SimpleNamespace(values=result.predict(torch.tensor(expected["f"], dtype=torch.float64), x))
    dtype = str(result.net.rows.dtype).removeprefix("torch.")
    parts = result.parts if isinstance(result, March) else []
    for part in [result, *parts]:
        part.net.double()
    boundary = result.boundary if result.problem.name != "a net" else None
    return SimpleNamespace(values=result.predict(x), dtype=dtype, boundary=boundary, windows=len(parts))


def loaded_result(folder, expected):
    """The result of a run from its folder, and its values ``u(x)``."""
    x, result = torch.tensor(expected["x"], dtype=torch.float64), load(folder)
    if "t" in expected:
        return result, result.predict(x, expected["t"])
    if "f" in expected:
        return result, result.predict(torch.tensor(expected["f"], dtype=torch.float64), x)
    return result, result.predict(x)


def recorded_bumps(path):
    """Iteration and number of bumps of every frame of a record."""
    return [[frame.iteration, len(frame.rows)] for frame in load(path)]


def resumed(path):
    """The result of a run that goes on, and the iterations, or times, of which its callback was told."""
    told = []
    result = resume(path, callback=told.append)
    return result, [progress.entry.get("time", progress.iteration) for progress in told]


def resumed_command(command, folder, json_file, monkeypatch):
    """The result of ``bumpnet COMMAND --resume FOLDER``, without its pictures."""
    monkeypatch.setattr(writing, "write_picture", lambda *_: None)
    line = [command, "--resume", str(folder), "--threads", "1", "--quiet", "--json", str(json_file)]
    assert command_line(line) == 0
    return load(folder)


def numbers(result):
    """The numbers of a result by their names in ``expected.json``."""
    found = {"bumps": len(result.net.rows), "entries": len(result.history)}
    for name in ("loss", "rel_l2", "iterations", "steps", "stop_reason", "unknowns"):
        found[name] = getattr(result, name, None)
    found["norm"] = result.history[-1].get("norm")
    found["events"] = [[event.kind, event.before, event.after] for event in getattr(result, "events", ())]
    return found


# --- what must come back -------------------------------------------------------------------------

#: Numbers that are rounded; float32 has so few digits that a second processor takes another path.
ROUNDED = ("loss", "rel_l2", "norm", "unknowns")
DIGITS, DIGITS_FLOAT32 = 1e-6, 3e-2
#: Whose integrator of scipy begins anew: in version 0.1.0 its internals were stored, which are not read any more.
ANEW, DIGITS_ANEW = ("evolve-bdf", "evolve-dop853"), 1e-4


#: Whose loss was another one in version 0.1.0, where rows were not balanced: they go on with the present one.
UNBALANCED, WORSE = ("solve", "train", "march", "prune", "grow", "reach"), 3


def assert_values(values, expected):
    wanted = torch.tensor(expected["u"], dtype=torch.float64)
    error = (values.detach().double() - wanted).abs().max() / wanted.abs().max()
    assert values.shape == wanted.shape and error < 1e-12


def assert_numbers(result, expected, digits=DIGITS):
    found = numbers(result)
    for name, value in expected.items():
        if name in found:
            rounded = name in ROUNDED and value is not None
            assert found[name] == (pytest.approx(value, rel=digits) if rounded else value), name


def assert_went_on(result, expected):
    """That a run with another loss went on as far as expected, and to an error that is no worse than this factor."""
    fixed = ("stop_reason",) if result.events else ("iterations", "entries", "stop_reason")
    assert_numbers(result, {name: value for name, value in expected.items() if name in fixed})
    assert result.rel_l2 < WORSE * expected["rel_l2"]


@pytest.fixture(autouse=True)
def one_thread(threads):
    """The order of sums depends on the number of threads."""
    threads(1)


def test_there_are_files():
    parts = {"models", "runs", "results", "commands", "recordings"}
    assert FOLDERS and all(parts <= {part for part in e if e[part]} for e in EXPECTED.values())


@entries("models")
def test_models(folder, name, expected):
    model = loaded_model(folder / "models" / name, expected)
    assert_values(model.values, expected)
    kept = {key: value for key, value in expected.items() if key in ("dtype", "boundary", "windows")}
    assert {key: getattr(model, key) for key in kept} == kept


@entries("results")
def test_results(folder, name, expected):
    result, values = loaded_result(folder / "results" / name, expected)
    assert_numbers(result, expected)
    assert_values(values, expected)


@entries("results")
def test_finished_runs_are_finished(folder, name, expected, tmp_path):
    """Nothing is computed again, so that the state of a run that has ended gives its result."""
    shutil.copy(folder / "results" / name / "run.pt", tmp_path)
    assert_numbers(resumed(tmp_path / "run.pt")[0], expected)


@entries("recordings")
def test_recordings(folder, name, expected):
    assert recorded_bumps(folder / name) == expected


@entries("runs")
def test_unfinished_runs(folder, name, expected, tmp_path):
    path, digits, ended = tmp_path / "run.pt", DIGITS_FLOAT32 if "float32" in name else DIGITS, expected["ended"]
    if folder.name == "version-0.1.0" and name in ANEW:
        digits, ended = DIGITS_ANEW, {key: value for key, value in ended.items() if key != "steps"}
    shutil.copy(folder / "runs" / f"{name}.pt", path)
    result, told = resumed(path)
    stopped = dict(expected["stopped"])
    last = result.history[stopped.pop("entries") - 1]
    assert {key: last[key] for key in stopped} == stopped  # what was done is kept as it was
    assert told[0] > stopped.get("time", stopped.get("iteration"))  # and not done again
    if folder.name == "version-0.1.0" and name.startswith(UNBALANCED):
        assert_went_on(result, ended)
    else:
        assert_numbers(result, ended, digits)


@entries("commands")
def test_unfinished_commands(folder, name, expected, tmp_path, monkeypatch):
    """As well, a script that reads the JSON of that version finds all its keys."""
    shutil.copytree(folder / "commands" / name, tmp_path / "run")
    result = resumed_command(expected["command"], tmp_path / "run", tmp_path / "out.json", monkeypatch)
    unbalanced = folder.name == "version-0.1.0" and expected["command"] == "solve"
    (assert_went_on if unbalanced else assert_numbers)(result, expected)
    older = json.loads((folder / "results" / f"{expected['command']}.json").read_text(encoding="utf-8"))
    assert older.keys() <= json.loads((tmp_path / "out.json").read_text(encoding="utf-8")).keys()
