"""The command ``evolve``: what it writes, what it says, and that mistakes cost one line and no computing."""

import contextlib
import io
import json
import re
from pathlib import Path

import matplotlib.image
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from bumpnet_fast import backend, plotting
from bumpnet_fast import io as checkpoint
from bumpnet_fast.cli import command, main
from bumpnet_fast.cli import evolve as evolving
from bumpnet_fast.plotting.evolution import FRAMES
from bumpnet_fast.problems.evolution import EVOLUTIONS
from bumpnet_fast.solvers.evolution import ednn

TINY = ("--bumps", "12", "--set", "times=4", "--threads", "1")
FILES = {"model.pt", "history.json", "summary.json", "evolution.png", "evolution.gif", "run.pt"}


def evolve(*arguments, problem="heat"):
    """Exit code and summary of a small run."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        code = main(["evolve", problem, *TINY, "--json", "-", "--quiet", *map(str, arguments)])
    return code, json.loads(output.getvalue())


@pytest.fixture
def no_picture(monkeypatch):
    """Leave the pictures out, which take most of the time of a small run."""
    blank = Figure((1, 1))
    monkeypatch.setattr(plotting, "evolution_figure", lambda run: blank)
    monkeypatch.setattr(plotting, "write_animation", lambda run, file: file.write(b"GIF"))


@pytest.fixture(scope="module")
def evolved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "not there" / "yet"
    code, summary = evolve("--out", folder, "--set", "nu=0.5")
    assert code == 0
    return folder, summary


def test_the_summary(evolved):
    _, summary = evolved
    expected = {
        "problem": "heat", "method": "expm", "shapes": "frozen", "bumps": 12, "parameters": 48, "time": 0.5, "steps": 4,
        "stop_reason": "finished", "dtype": "float64", "backend": backend(), "threads": 1, "seed": None, "warnings": [],
        "stop_message": "the final time was reached",
    }  # fmt: skip
    assert {key: summary[key] for key in expected} == expected
    positive = ("rel_l2", "max_error", "fit_error", "residual", "setup_seconds", "seconds", "stages", "solve_seconds",
                "processor_seconds")  # fmt: skip
    assert all(summary[key] > 0 for key in positive)
    assert summary["settings"]["problem"]["nu"] == 0.5 and summary["settings"]["solver"] == {"times": 4}
    assert set(summary["versions"]) == {"bumpnet_fast", "torch", "python"}
    assert summary["error_estimate_reliable"] and summary["report"]["time"] == 0.5
    assert 1 / 3 < summary["error_estimate"] / summary["rel_l2"] < 3


def test_the_files(evolved):
    folder, summary = evolved
    assert {path.name for path in folder.iterdir()} == FILES
    assert json.loads((folder / "summary.json").read_text()) == summary
    history = json.loads((folder / "history.json").read_text())
    assert [entry["time"] for entry in history] == [0, 0.125, 0.25, 0.375, 0.5]
    height, width, _ = matplotlib.image.imread(folder / "evolution.png").shape
    assert width > height > 400
    assert Image.open(folder / "evolution.gif").n_frames == FRAMES


def test_the_model_is_the_solution(evolved):
    folder, summary = evolved
    assert torch.load(folder / "model.pt", weights_only=True)["problem"]["name"] == "heat"
    run = checkpoint.load(folder / "model.pt")
    x = torch.linspace(0, 6, 30, dtype=torch.float64)[:, None]
    error = run.predict(x, 0.5)[:, 0] - run.problem.exact(x, 0.5)
    assert run.problem.nu == 0.5 and error.abs().max() <= 1.1 * summary["max_error"]


def test_every_choice_reaches_its_place(no_picture, tmp_path):
    choices = ("--method", "cn", "--dtype", "float32", "--bumps", "14", "--seed", 3)
    settings = ("step=0.01", "times=(0.1,0.2)", "overlap=3", "periodic=False", "perturb=0.01", "measure=False")
    code, summary = evolve("--out", tmp_path, *choices, *(part for s in settings for part in ("--set", s)))
    assert code == 0
    wanted = {"method": "cn", "dtype": "float32", "bumps": 14, "seed": 3, "time": 0.2, "steps": 20}
    assert {key: summary[key] for key in wanted} == wanted
    assert summary["settings"]["net"] == {"overlap": 3} and summary["settings"]["run"] == {"perturb": 0.01}
    run = checkpoint.load(tmp_path / "model.pt")
    assert run.net.rows.dtype == torch.float32 and run.problem.periodic is False


def test_the_seed_perturbs_and_rotates_nothing_that_is_periodic(no_picture, tmp_path):
    small = ("--bumps", "4x4", "--set", "times=1", "--out", tmp_path)
    fits = [evolve(*small, *seed, problem="heat2d")[1]["fit_error"] for seed in ((), ("--seed", 1), ("--seed", 2))]
    assert len(set(fits)) == 3
    code, _ = evolve(*small, "--seed", 1, "--set", "periodic=False", problem="heat2d")
    run = checkpoint.load(tmp_path / "model.pt")
    assert code == 0 and run.net.rows[:, run.net.layout.skew].abs().max() > 0


def test_moving_shapes(no_picture, tmp_path):
    settings = ("--shapes", "evolve", "--bumps", "4", "--set", "narrow=2", "--set", "step=0.3")
    code, summary = evolve("--out", tmp_path, *settings, problem="advection")
    assert (code, summary["shapes"], summary["method"]) == (0, "evolve", "rk4") and summary["rel_l2"] < 1e-2


def stated(*arguments, problem="heat"):
    """Exit code and summary of a run to a stated error."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        code = main(["evolve", problem, "--threads", "1", "--json", "-", "--quiet", *map(str, arguments)])
    return code, json.loads(output.getvalue())


def test_a_stated_error(no_picture, tmp_path):
    (tmp_path / "run.pt").write_bytes(b"of an earlier run")
    code, summary = stated("--error", "1e-4", "--set", "times=3", "--set", "nu=0.5", "--out", tmp_path)
    assert code == 0 and summary["stop_reason"] == "error reached"
    assert (summary["error"], summary["shapes"], summary["method"]) == (1e-4, "graded", "rodas5p")
    assert summary["rel_l2"] < 1e-4 and summary["error_estimate"] < 1e-4 and summary["bumps"] >= 16
    run = checkpoint.load(tmp_path)
    assert run.problem.nu == 0.5 and len(run.times) == 4 and run.stop_reason == "error reached"
    assert {path.name for path in tmp_path.iterdir()} == FILES - {"run.pt"}


def test_a_stated_error_that_is_not_reached_has_exit_code_1(no_picture, tmp_path):
    code, summary = stated("--error", "1e-14", "--set", "periodic=False", "--out", tmp_path)
    assert code == 1 and summary["stop_reason"] == "error not reached" and "was not reached" in summary["warnings"][-1]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("heat", "--error", "1e-4", "--bumps", "20"), "--error chooses the bumps itself: leave out --bumps 20"),
        (("heat", "--error", "1e-4", "--method", "rk4"), "--error chooses the method itself: leave out --method rk4"),
        (("heat", "--error", "1e-4", "--dtype", "float32"), "--error is for --dtype float64, got float32"),
        (("heat", "--error", "1e-4", "--set", "step=0.1"), "step"),
        (("heat2d", "--error", "1e-4"), "one space dimension, and problem 'heat2d' has 2"),
        (("heat", "--error", "2"), "error must be above 0 and below 1"),
    ],
)
def test_what_does_not_go_with_a_stated_error(tmp_path, capsys, arguments, message):
    assert main(["evolve", *arguments, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_by_default_the_problem_names_the_directory(no_picture, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert evolve()[0] == 0
    assert {path.name for path in (tmp_path / "runs" / "evolve-heat").iterdir()} == FILES


def test_the_summary_for_people(no_picture, tmp_path, capsys):
    more = tmp_path / "more.json"
    assert main(["evolve", "heat", *TINY, "--no-animation", "--out", str(tmp_path), "--json", str(more)]) == 0
    summary = json.loads(more.read_text())
    output, errors = capsys.readouterr()
    assert errors == ""  # nobody watches, so no progress
    lines = dict(re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in output.splitlines() if line)
    assert (lines["problem"], lines["method"], lines["time"]) == ("heat", "expm", "0.5")
    assert float(lines["rel l2"]) == pytest.approx(summary["rel_l2"], rel=0.01)
    assert lines["estimate"].startswith("reliable") and lines["error"].endswith("at the end (estimated)")
    assert not (tmp_path / "evolution.gif").exists()
    assert main(["evolve", "heat", *TINY, "--no-estimate", "--no-report", "--out", str(tmp_path)]) == 0
    assert "estimate" not in capsys.readouterr().out


@pytest.mark.parametrize("quiet", [False, True])
def test_a_terminal_shows_progress_unless_quiet(quiet, no_picture, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # makes rich take any stream for a terminal
    assert main(["evolve", "heat", *TINY, "--out", str(tmp_path), *["--quiet"] * quiet]) == 0
    output, errors = capsys.readouterr()
    assert ("steps" in errors) == (not quiet) == bool(output)


def test_instability_is_written_warned_of_and_a_failure(no_picture, tmp_path, capsys):
    options = ("--method", "rk4", "--bumps", "40", "--set", "step=0.05")
    code, summary = evolve("--out", tmp_path, *options)
    assert (code, summary["stop_reason"]) == (1, "unstable") and summary["time"] < 0.5
    assert {path.name for path in tmp_path.iterdir()} == FILES
    assert main(["evolve", "heat", *TINY, "--out", str(tmp_path), *options]) == 1
    assert "bumpnet: warning: unstable at t = " in capsys.readouterr().err


def interrupt_at(time, error):
    @contextlib.contextmanager
    def progress(*_):
        def report(progress):
            if progress.entry["time"] >= time:
                raise error

        yield report

    return progress


def test_ctrl_c_keeps_what_was_computed(no_picture, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "progress", interrupt_at(0.25, KeyboardInterrupt))
    code, summary = evolve("--out", tmp_path)
    assert (code, summary["stop_reason"], summary["time"]) == (130, "interrupted", 0.25)
    assert {path.name for path in tmp_path.iterdir()} == FILES


def test_a_fault_of_ours_is_not_taken_for_a_mistake_of_the_caller(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "progress", interrupt_at(0.1, ValueError("a bug")))
    with pytest.raises(ValueError, match="a bug"):
        evolve("--out", tmp_path)


MISTAKES = {
    "evolve": "required: PROBLEM",
    "evolve poisson": f"unknown evolution problem 'poisson'; there are: {', '.join(EVOLUTIONS)}",
    "evolve heat --foo": "unrecognized arguments: --foo",
    "evolve heat --bumps 0": "'0' is not a number of at least 1",
    "evolve heat --bumps 3x3": "one per dimension",
    "evolve heat --shapes fixed": "invalid choice: 'fixed'",
    "evolve heat --dtype float16": "invalid choice: 'float16'",
    "evolve heat --method no-such": "no-such",
    "evolve burgers --method expm": "nonlinear in u, which 'expm' cannot do",
    "evolve heat --shapes evolve --method radau": "needs frozen shapes",
    "evolve heat --set nu": "'nu' is not of the form KEY=VALUE",
    "evolve heat --set speed=1": "heat has no setting 'speed'; there are: periodic, lower, upper, final_time,",
    "evolve heat --set shapes=evolve": "heat has no setting 'shapes'",
    "evolve heat --bumps 99999999999": "bumps must be so few that all of them fit into the memory",
    "evolve heat --set nu=1e300": "u_t of problem 'heat' is not finite at the start",
    f"evolve heat --set nu={'9' * 400}": "nu must be a smaller number",
    f"evolve heat --set nu={'-' * 5000}1": "the value of nu is nested too deeply",
    "evolve heat --set nu=1j": "nu must be a number, a word, or several with commas, got 1j",
    "evolve heat --set times=99999999999": "times must be at most 10,000,000",
    f"evolve heat --set max_seconds=1{'0' * 309}": "max_seconds must be a smaller number",
    "evolve heat --set points=9223372036854775807": "points must be so few that all of them fit into the memory",
    "evolve heat --set nu=thick": "nu must be a finite number, got 'thick'",
    "evolve heat --set periodic=maybe": "periodic must be True, False",
    "evolve heat --set final_time=0": "final_time must be positive",
    "evolve heat --set times=0": "times must be at least 1",
    "evolve heat --set step=-1": "step must be positive",
    "evolve heat --set tolerance=tight": "tolerance must be positive",
    "evolve heat --set points=3": "points must be at least as many as the",
    "evolve heat --set initial_shapes=odd": "initial_shapes must be one of uniform, fit",
    "evolve heat --set overlap=0": "overlap must be positive",
    "evolve heat --set perturb=-1": "perturb must be",
    "evolve heat --out file": "cannot write to the directory file: File exists",
    "evolve heat --json .": "cannot write the file .: it is a directory",
}


@pytest.mark.parametrize("line, message", MISTAKES.items(), ids=MISTAKES.keys())
def test_a_mistake_costs_one_line(line, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    monkeypatch.setattr(command, "progress", interrupt_at(0.0, AssertionError("computing began")))
    assert main(line.split()) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith("bumpnet: error: ") and errors.count("\n") == 1
    assert message in errors
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "file"]


def test_the_choices_are_those_of_the_solver(capsys):
    assert main(["evolve", "heat", "--shapes", "no such"]) == 2
    assert f"(choose from {', '.join(ednn.SHAPES)})" in capsys.readouterr().err.replace("'", "")
    assert (evolving.METHODS, evolving.SHAPES) == (ednn.METHODS, ednn.SHAPES)
    with pytest.raises(SystemExit):
        main(["evolve", "--help"])
    assert f"{', '.join(ednn.METHODS)}, or one of" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("name", EVOLUTIONS)
def test_settings_have_one_meaning_each(name):
    settable = evolving.settable(EVOLUTIONS[name])
    keys = [key for scope in settable.values() for key in scope]
    assert len(keys) == len(set(keys)), "a problem's field has the name of an option: rename it"
    assert settable["net"]["overlap"] == EVOLUTIONS[name].default_overlap


def test_list(capsys):
    assert main(["list"]) == 0
    output = capsys.readouterr().out
    for name, problem in EVOLUTIONS.items():
        assert re.search(rf"^{name} +{re.escape(problem.summary)}$", output, re.MULTILINE)
    assert "final_time=0.5" in output and "times=50" in output
