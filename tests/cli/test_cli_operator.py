"""``bumpnet operator``: what it writes, what it says, and that mistakes cost one line and no computing."""

import contextlib
import io
import json
from pathlib import Path

import matplotlib.image
import pytest
import torch
from matplotlib.figure import Figure

from bumpnet_fast import backend, plotting
from bumpnet_fast import io as checkpoint
from bumpnet_fast.cli import command, main
from bumpnet_fast.cli import operator as operating
from bumpnet_fast.problems.operators import OPERATORS, OperatorData, get_operator
from bumpnet_fast.solvers.operators import check
from bumpnet_fast.solvers.operators.task import relative_errors

TINY = ("--set", "functions=40", "--set", "test_functions=10", "--set", "trunk_iterations=3", "--set", "iterations=8",
        "--threads", "1")  # fmt: skip
FILES = {"model.pt", "history.json", "summary.json", "operator.png", "run.pt"}


def operate(*arguments, problem="antiderivative"):
    """Exit code and summary of a small run, its picture included."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        code = main(["operator", problem, *TINY, "--json", "-", "--quiet", *map(str, arguments)])
    return code, json.loads(output.getvalue())


@pytest.fixture
def no_picture(monkeypatch):
    """Leave the picture out, which takes most of the time of a small run."""
    monkeypatch.setattr(plotting, "operator_figure", lambda solution: Figure((1, 1)))


def test_what_is_written(tmp_path):
    folder = tmp_path / "not there" / "yet"
    code, summary = operate("--out", folder, "--bumps", 6, "--set", "length_scale=0.3")
    assert code == 0
    assert {path.name for path in folder.iterdir()} == FILES
    expected = {
        "problem": "antiderivative", "method": "two-step", "physics": False, "bumps": 6, "branch": "linear",
        "parameters": 6 * (51 + 1 + 3), "iterations": 3, "stop_reason": "iterations", "dtype": "float64",
        "backend": backend(), "threads": 1, "seed": None, "functions": [40, 10],
    }  # fmt: skip
    assert {key: summary[key] for key in expected} == expected
    assert all(summary[key] > 0 for key in ("rel_l2", "train_rel_l2", "projection_rel_l2", "max_rel_l2"))
    assert summary["seconds"] > 0 and summary["processor_seconds"] > 0 and summary["stop_message"]
    assert summary["settings"]["problem"] == {"length_scale": 0.3, "sensors": 51, "grid": 101}
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert [e["iteration"] for e in json.loads((folder / "history.json").read_text())] == [0, 1, 2, 3]
    height, width, _ = matplotlib.image.imread(folder / "operator.png").shape
    assert width > height > 500


def test_the_model_is_the_one_that_was_measured(no_picture, tmp_path):
    _, summary = operate("--out", tmp_path, "--seed", 3, problem="advection")
    assert torch.load(tmp_path / "model.pt", weights_only=True)["problem"]["name"] == "advection"
    model = checkpoint.load(tmp_path / "model.pt")
    f = model.operator.inputs(50, seed=3)[40:]
    test = OperatorData(model.operator.at_sensors(f), model.operator.apply(f), model.operator.points)
    assert float(relative_errors(model.net, test).mean()) == pytest.approx(summary["rel_l2"], rel=1e-4)


def test_every_choice_reaches_its_place(no_picture, tmp_path):
    choices = ("--method", "adam", "--physics", "--branch", "5x4", "--dtype", "float32", "--bumps", "3x2")
    settings = ("overlap=2.5", "outer=free", "bias=True", "nu=0.02", "batch=7", "grid=16")
    sets = (part for s in settings for part in ("--set", s))
    code, summary = operate("--out", tmp_path, *choices, *sets, problem="heat")
    assert code == 0
    keys = ("method", "physics", "branch", "dtype", "bumps", "iterations")
    assert [summary[key] for key in keys] == ["adam", True, "5x4", "float32", 6, 8]
    assert summary["settings"]["net"] == {"overlap": 2.5, "outer": "free", "bias": True}
    assert summary["settings"]["solver"]["batch"] == 7
    model = checkpoint.load(tmp_path / "model.pt")
    assert (model.net.tied, model.net.hidden, model.net.periodic) == (False, (5, 4), (True, False))
    assert model.operator == get_operator("heat", nu=0.02, grid=16)


def test_a_nonlinear_operator_gets_a_branch_that_is_not_linear(no_picture, tmp_path):
    assert operate("--out", tmp_path, problem="burgers")[1]["branch"] == "64"
    assert operate("--out", tmp_path, "--branch", "linear", problem="burgers")[1]["branch"] == "linear"


def test_the_seed_decides(no_picture, tmp_path):
    def loss(*arguments):
        return operate("--out", tmp_path, "--branch", "4", *arguments)[1]["loss"]

    plain, zero, one = loss(), loss("--seed", 0), loss("--seed", 1)
    assert plain == zero == loss() != one


def test_the_summary_for_people(no_picture, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["operator", "antiderivative", *TINY]) == 0
    output, errors = capsys.readouterr()
    assert errors == ""
    lines = [line.split() for line in output.splitlines()]
    assert ["parameters", "440"] in lines and ["branch", "linear"] in lines
    assert {path.name for path in (tmp_path / "runs" / "antiderivative").iterdir()} == FILES


def test_ctrl_c_keeps_what_was_found(no_picture, tmp_path, monkeypatch):
    @contextlib.contextmanager
    def progress(*_):
        def report(progress):
            if progress.iteration == 2:
                raise KeyboardInterrupt

        yield report

    monkeypatch.setattr(command, "progress", progress)
    code, summary = operate("--out", tmp_path)
    assert (code, summary["stop_reason"], summary["iterations"]) == (130, "interrupted", 2)
    assert {path.name for path in tmp_path.iterdir()} == FILES
    assert summary["rel_l2"] < 0.1


def test_a_fault_of_ours_is_not_taken_for_a_mistake_of_the_caller(tmp_path, monkeypatch):
    @contextlib.contextmanager
    def progress(*_):
        def report(progress):
            raise ValueError("a bug")

        yield report

    monkeypatch.setattr(command, "progress", progress)
    with pytest.raises(ValueError, match="a bug"):
        operate("--out", tmp_path)


MISTAKES = {
    "": "required: OPERATOR",
    "burger": f"unknown operator 'burger'; there are: {', '.join(OPERATORS)}",
    "burgers --foo": "unrecognized arguments: --foo",
    "burgers --bumps 0": "'0' is not a number of at least 1 or a grid such as 4x10",
    "burgers --bumps 3x3": "one per dimension",
    "burgers --method lm": "invalid choice: 'lm'",
    "burgers --branch deep": "'deep' is not linear, nor widths such as 64 or 32x32",
    "burgers --branch 32x0": "'32x0' is not linear",
    "burgers --bumps 99999999999": "bumps must be so few that all of them fit into the memory",
    "burgers --branch 99999999999999": "not enough memory for so many bumps",
    f"burgers --branch {'9' * 30}": "is not linear, nor widths such as 64 or 32x32",
    f"burgers --set nu={'9' * 400}": "nu must be a smaller number",
    "burgers --set nu=b'1'": "nu must be a number, a word, or several with commas, got b'1'",
    "antiderivative --set length_scale=1e-320": "the settings are too large, or too small, to compute with",
    "antiderivative --set grid=9223372036854775807": "not enough memory",
    "burgers --set functions=99999999999999": "not enough memory for so many functions and points",
    "burgers --physics": "operator 'burgers' has no equations to train on",
    "burgers --set shift=1": "burgers has no setting 'shift'; there are: length_scale, sensors, grid, nu, horizon,",
    "burgers --set physics=1": "no setting 'physics'",
    "burgers --set periodic=1": "no setting 'periodic'",
    "burgers --set nu=-1": "nu must be positive",
    "burgers --set sensors=few": "sensors must be an integer, got 'few'",
    "burgers --set functions=0": "functions must be an integer of at least 2",
    "burgers --set learning_rate=0": "learning_rate must be positive",
    "burgers --set overlap=0": "overlap must be positive",
    "burgers --dtype float16": "invalid choice: 'float16'",
    "burgers --seed one": "--seed: 'one' is not a whole number",
    "burgers --set functions=1000000000000": "not enough memory",
    "burgers --json .": "cannot write the file .: it is a directory",
    "burgers --out file": "cannot write to the directory file: File exists",
}


@pytest.mark.parametrize("line, message", MISTAKES.items(), ids=MISTAKES.keys())
def test_a_mistake_costs_one_line(line, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    assert main(["operator", *line.split()]) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith("bumpnet: error: ") and errors.count("\n") == 1
    assert message in errors
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "file"]


def test_the_choices_are_those_of_the_training(capsys):
    assert main(["operator", "heat", "--method", "no such"]) == 2
    assert f"(choose from {', '.join(check.METHODS)})" in capsys.readouterr().err.replace("'", "")


@pytest.mark.parametrize("name", OPERATORS)
def test_settings_have_one_meaning_each(name):
    settable = operating.settable(OPERATORS[name])
    keys = [key for scope in settable.values() for key in scope]
    assert len(keys) == len(set(keys)), "an operator's field has the name of an option: rename it"
    assert {"functions", "iterations", "ridge"} <= set(settable["solver"])
    assert {"overlap", "bias"} <= set(settable["net"])


def test_list(capsys):
    assert main(["list"]) == 0
    output = capsys.readouterr().out
    for name, operator in OPERATORS.items():
        assert f"{name} " in output and operator.summary in output
    for setting in ("shift=0.3", "test_functions=200", "bias=False"):
        assert setting in output


def test_help_goes_to_the_output(capsys):
    with pytest.raises(SystemExit) as end:
        main(["operator", "--help"])
    assert end.value.code == 0 and "--physics" in capsys.readouterr().out
