"""bumpnet solve with few bumps and with first-order methods: what it writes, and how a run is resumed."""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from matplotlib.figure import Figure

from bumpnet_fast import io as checkpoint
from bumpnet_fast import plotting, problems
from bumpnet_fast.cli import command, main
from bumpnet_fast.cli import solve as solving
from bumpnet_fast.solvers import Method, VarPro
from bumpnet_fast.solvers.arguments import integer, option

ROOT = Path(__file__).parents[2]
TINY = ("--bumps", "3x3", "--set", "points=64", "--threads", "1")
FILES = {"model.pt", "history.json", "summary.json", "solution.png", "run.pt"}


@pytest.fixture(autouse=True)
def no_picture(monkeypatch):
    monkeypatch.setattr(plotting, "solution_figure", lambda solution, **_: Figure((1, 1)))


def solve(*arguments, out):
    """Exit code and summary."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        code = main(["solve", "poisson", *TINY, "--out", str(out), "--json", "-", "--quiet", *map(str, arguments)])
    return code, json.loads(output.getvalue())


def resume(folder, *arguments):
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        code = main(["solve", "--resume", str(folder), "--json", "-", "--quiet", "--threads", "1", *arguments])
    return code, json.loads(output.getvalue())


def rows(folder):
    return checkpoint.load(folder / "model.pt").net.rows.detach()


def interrupt_at(iteration):
    @contextlib.contextmanager
    def progress(*_):
        def report(progress):
            if progress.iteration == iteration:
                raise KeyboardInterrupt

        yield report

    return progress


def test_the_methods_are_those_of_the_library():
    own = (name for name, kind in Method.known.items() if kind.__module__.startswith("bumpnet_fast."))
    assert tuple(own) == solving.METHODS


def test_a_method_of_ones_own_is_taken_and_listed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Method, "known", dict(Method.known))

    @dataclass
    class Mine(VarPro):
        name: ClassVar[str] = "mine"
        patience: int = option(3, integer(1))

    code, summary = solve("--method", "mine+lm", "--set", "iterations=2", "--set", "patience=5", out=tmp_path)
    assert (code, summary["method"], summary["iterations"]) == (0, "mine+lm", 4)
    assert main(["solve", "poisson", "--method", "mine", "--set", "patience=0", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "bumpnet: error: patience must be an integer of at least 1, got 0\n"
    assert main(["list"]) == 0
    assert "\nmine                 iterations=100" in (output := capsys.readouterr().out) and "patience=3" in output


# --- few bumps -----------------------------------------------------------------------------------


def events_of(folder):
    """The events of the history, after a look at whether each of them is where it belongs."""
    history, now, events = json.loads((folder / "history.json").read_text()), None, []
    for entry in history:
        if "event" in entry:
            assert entry["before"] == now
            events.append((entry["event"], entry["before"], entry["bumps"]))
        else:
            assert now in (None, entry["bumps"])
        now = entry["bumps"]
    for key in ("iteration", "seconds"):
        values = [entry[key] for entry in history]
        assert values == sorted(values)
    return events


def test_an_error_is_reached_with_few_bumps(tmp_path):
    code, summary = solve("--reach", "1e-3", "--set", "iterations=15", "--set", "points=400", out=tmp_path)
    assert (code, summary["stop_reason"], summary["reach"]) == (0, "error reached", 1e-3)
    assert summary["rel_l2"] <= 1e-3 and summary["settings"]["solver"] == {"points": 400, "iterations": 15}
    assert {path.name for path in tmp_path.iterdir()} == FILES
    events = events_of(tmp_path)
    assert events == [(e["kind"], e["before"], e["after"]) for e in summary["events"]]
    assert events[-1][2] == summary["bumps"] == len(rows(tmp_path)) < 9 and events[-1][0] == "restore"


def test_an_error_that_is_not_reached_is_a_failure_and_written(tmp_path):
    choices = ("--reach", "1e-12", "--set", "most=12", "--set", "iterations=2", "--set", "score=peak")
    code, summary = solve(*choices, out=tmp_path)
    assert (code, summary["stop_reason"], summary["bumps"]) == (1, "error not reached", 12)
    assert "the error 1e-12 was not reached with 12 bumps; see --set most" in summary["warnings"]
    assert {kind for kind, *_ in events_of(tmp_path)} >= {"grow"} and len(rows(tmp_path)) == 12


def stated(problem, *arguments, out):
    """Exit code and summary of a run that chooses its bumps."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        code = main(["solve", problem, *arguments, "--threads", "1", "--out", str(out), "--json", "-", "--quiet"])
    return code, json.loads(output.getvalue())


def test_a_stated_error(tmp_path):
    code, summary = stated("poisson", "--error", "1e-6", out=tmp_path)
    assert (code, summary["stop_reason"], summary["error"], summary["method"]) == (0, "error reached", 1e-6, "linear")
    assert summary["rel_l2"] <= 3e-6 and summary["report"]["error"]["reliable"]
    assert {path.name for path in tmp_path.iterdir()} == FILES - {"run.pt"}
    assert checkpoint.load(tmp_path / "model.pt").rel_l2 == pytest.approx(summary["rel_l2"])


def test_a_stated_error_that_is_not_reached_is_a_failure(tmp_path):
    code, summary = stated("lshape", "--error", "1e-9", "--set", "most=100", "--no-estimate", out=tmp_path)
    assert (code, summary["stop_reason"]) == (1, "error not reached")
    assert any("the error 1e-09 was not reached" in warning for warning in summary["warnings"])


def test_the_best_net_of_a_size(tmp_path):
    code, summary = stated("poisson", "--parameters", "84", "--set", "iterations=20", out=tmp_path)
    assert (code, summary["stop_reason"], summary["method"]) == (0, "iterations", "varpro")
    assert 75 <= summary["parameters"] <= 84 and summary["rel_l2"] < 0.01
    assert checkpoint.load(tmp_path / "model.pt").rel_l2 == pytest.approx(summary["rel_l2"])


def test_a_basis_of_so_many_bumps(tmp_path):
    code, summary = stated("heat", "--method", "linear", "--bumps", "10x10", "--set", "ridge=1e-24", out=tmp_path)
    assert (code, summary["bumps"], summary["stop_reason"]) == (0, 100, "solved") and summary["rel_l2"] < 1e-3


def test_pruning_to_a_number(tmp_path):
    code, summary = solve("--prune-to", 6, "--set", "iterations=5", "--seed", 2, "--method", "lm", out=tmp_path)
    assert (code, summary["bumps"], summary["prune_to"], summary["method"]) == (0, 6, 6, "lm")
    assert events_of(tmp_path) == [("prune", 9, 8), ("prune", 8, 7), ("prune", 7, 6)]
    assert len(rows(tmp_path)) == 6 and summary["iterations"] == 20


def test_a_problem_that_is_marched_is_searched_in_one_piece(tmp_path):
    output = io.StringIO()
    line = "solve burgers --bumps 2x2 --prune-to 3 --set points=64 --set iterations=1 --threads 1 --quiet --json -"
    with contextlib.redirect_stdout(output):
        assert main([*line.split(), "--out", str(tmp_path)]) == 0
    summary = json.loads(output.getvalue())
    assert (summary["windows"], summary["bumps"]) == (1, 3)


def test_ctrl_c_keeps_what_was_found(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "progress", interrupt_at(7))
    code, summary = solve("--prune-to", 2, "--set", "iterations=5", out=tmp_path)
    assert (code, summary["stop_reason"], summary["bumps"]) == (130, "interrupted", 8)
    assert len(rows(tmp_path)) == 8


@pytest.mark.parametrize("search", ("reach", "prune"))
def test_the_settings_of_a_search_are_those_of_the_library(search):
    solver = solving.settable(problems.PROBLEMS["poisson"], search=search)["solver"]
    assert solver["iterations"] == 60 and solver["score"] == "loss" and {"ridge", "points"} <= set(solver)
    assert ("most" in solver) == (search == "reach")


def test_the_list_says_what_a_search_can_be_told(capsys):
    assert main(["list"]) == 0
    assert "and with --reach, --prune-to" in (output := capsys.readouterr().out) and "most=1000 score=loss" in output


# --- first-order methods -------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["adam", "varpro-adam", "lbfgs", "adam+lbfgs"])
def test_a_first_order_method(method, tmp_path):
    code, summary = solve("--method", method, "--set", "iterations=20", out=tmp_path)
    assert (code, summary["method"], summary["stop_reason"]) == (0, method, "iterations")
    assert summary["iterations"] == 20 * len(method.split("+"))
    assert {path.name for path in tmp_path.iterdir()} == FILES
    history = json.loads((tmp_path / "history.json").read_text())
    assert {entry["stage"] for entry in history} == set(method.split("+"))


def test_settings_are_those_of_the_method(tmp_path):
    choices = ("iterations=40,10", "learning_rate=0.05", "prune_threshold=0.97", "prune_every=16", "prune_least=4")
    settings = [part for choice in choices for part in ("--set", choice)]
    code, summary = solve("--method", "adam+lbfgs", *settings, "--seed", 3, out=tmp_path)
    assert code == 0
    assert summary["settings"]["solver"]["iterations"] == [40, 10] and summary["iterations"] == 50
    assert summary["events"] and summary["events"][-1]["after"] == summary["bumps"] < 9
    assert events_of(tmp_path) == [("prune", e["before"], e["after"]) for e in summary["events"]]


def test_any_methods_are_joined_and_march(tmp_path):
    choices = ("--method", "adam+varpro", "--set", "iterations=20,3", "--set", "tolerance=0.1")
    code, summary = solve(*choices, "--set", "learning_rate=0.01", out=tmp_path)
    assert (code, summary["method"], summary["windows"]) == (0, "adam+varpro", 1) and summary["iterations"] <= 23
    choices = ("--method", "adam", "--windows", "2", "--set", "iterations=20", "--set", "prune_threshold=0.5")
    line = ("solve", "advection", *TINY, *choices, "--set", "prune_every=5", "--out", str(tmp_path), "--quiet")
    assert main([*line]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["method"], summary["windows"], summary["stop_reason"]) == ("adam", 2, "marched")
    steps = [event["step"] for event in summary["events"]]
    assert steps == sorted(steps) and max(steps) > 20, "the iterations of the windows count on"


def test_what_a_problem_wants_of_least_squares_is_not_asked_of_other_methods(tmp_path):
    problem = problems.PROBLEMS["burgers"]
    assert problem.default_windows > 1 and problem.options.keys() == {"graded", "scale", "refine", "iterations"}
    line = ("solve", "burgers", *TINY, "--method", "lbfgs", "--set", "max_seconds=0.01", "--out", str(tmp_path))
    assert main([*line, "--quiet"]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["windows"] == 1 and summary["settings"]["solver"] == {"points": 64, "max_seconds": 0.01}
    assert (summary["settings"]["run"]["graded"], summary["settings"]["net"]) == (0.5, {"scale": 10})


def test_a_loss_that_is_no_number_is_a_failure(tmp_path):
    code, summary = solve("--method", "adam", "--set", "learning_rate=1e300", "--set", "iterations=30", out=tmp_path)
    assert (code, summary["stop_reason"], summary["stop_message"]) == (1, "diverged", "the loss is not finite")


def test_a_resumed_run_ends_as_if_it_had_never_stopped(tmp_path, monkeypatch):
    choices = ("--method", "adam+lbfgs", "--set", "iterations=30", "--set", "a1=2", "--seed", 7)
    _, whole = solve(*choices, out=tmp_path / "whole")
    progress = command.progress
    for iteration in (20, 40):
        folder = tmp_path / str(iteration)
        monkeypatch.setattr(command, "progress", interrupt_at(iteration))
        code, summary = solve(*choices, out=folder)
        assert (code, summary["stop_reason"], summary["iterations"]) == (130, "interrupted", iteration)
        monkeypatch.setattr(command, "progress", progress)
        code, summary = resume(folder)
        assert code == 0
        assert torch.equal(rows(folder), rows(tmp_path / "whole"))
        different = {key for key in whole if summary[key] != whole[key]}
        assert different <= {"seconds", "processor_seconds"}
        assert {path.name for path in folder.iterdir()} == FILES


KILLED = """
import os, signal, sys
from bumpnet_fast import cli
from bumpnet_fast.solvers import run_state

write, written = run_state.write, []

def write_and_die(path, content):
    write(path, content)
    if content["state"] is not None and content["state"]["done"] >= 20:
        os.kill(os.getpid(), signal.SIGKILL)

run_state.write = write_and_die
cli.main(sys.argv[1:])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
def test_a_killed_run_is_resumed(tmp_path):
    choices = ("--method", "adam", "--set", "iterations=40", "--set", "log_every=10")
    solve(*choices, out=tmp_path / "whole")
    folder = tmp_path / "killed"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", KILLED, "solve", "poisson", *TINY, *choices, "--out", str(folder)]
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert {path.name for path in folder.iterdir()} == {"run.pt", "run.lock"}
    code, summary = resume(folder)
    assert (code, summary["iterations"]) == (0, 40)
    assert torch.equal(rows(folder), rows(tmp_path / "whole"))


def test_more_iterations(tmp_path):
    _, first = solve("--method", "adam", "--set", "iterations=20", out=tmp_path)
    code, summary = resume(tmp_path, "--set", "iterations=50")
    assert (code, summary["iterations"]) == (0, 50) and summary["loss"] < first["loss"]
    assert summary["settings"]["solver"] == {"points": 64, "iterations": 50}
    assert resume(tmp_path)[1]["iterations"] == 50


def test_another_solve_leaves_nothing_of_the_first_to_resume(tmp_path, capsys):
    solve("--method", "adam", "--set", "iterations=10", out=tmp_path)
    solve("--set", "iterations=3", out=tmp_path)
    code, summary = resume(tmp_path)
    assert (code, summary["method"], summary["iterations"]) == (0, "varpro", 3)


@pytest.mark.parametrize("choices", [("--method", "adam+lbfgs"), (), ("--windows", "2"), ("--prune-to", "6")], ids=str)
def test_a_folder_of_an_older_version_is_resumed(choices, tmp_path):
    """Its run.pt lacks what the command line knows, which is in run.json."""
    folder, problem = tmp_path / "old", "advection" if "--windows" in choices else "poisson"
    line = ["solve", problem, "--bumps", "3x3", "--set", "iterations=4", "--quiet", *choices]
    assert main([*line, "--out", str(folder)]) == 0
    whole = rows(folder)
    content = torch.load(folder / "run.pt", weights_only=True)
    (folder / "run.json").write_text(json.dumps(content.pop("command")))
    torch.save(content, folder / "run.pt")
    (folder / "model.pt").unlink()
    for _ in range(2):
        assert main(["solve", "--resume", str(folder), "--quiet"]) == 0
        assert torch.equal(rows(folder), whole)
    assert main([*line, "--out", str(folder)]) == 0
    assert not (folder / "run.json").exists(), "it is about another run now"


def test_a_run_that_the_library_resumed_in_between(tmp_path):
    solve("--method", "adam", "--set", "iterations=20", out=tmp_path)
    checkpoint.resume(tmp_path / "run.pt", iterations=30)
    assert resume(tmp_path, "--set", "iterations=40")[1]["iterations"] == 40


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plotting, "solution_figure", lambda solution, **_: Figure((1, 1)))
        solve("--method", "adam", "--set", "iterations=20", out=folder)
    return folder


@pytest.mark.parametrize(("arguments", "message"), [
    (["poisson"], "takes no PROBLEM"),
    (["--method", "lbfgs"], "takes no --method"),
    (["--boundary", "soft"], "takes no --boundary"),
    (["--bumps", "4"], "takes no --bumps"),
    (["--prune-to", "4"], "takes no --prune-to"),
    (["--reach", "1e-3"], "takes no --reach"),
    (["--dtype", "float32"], "takes no --dtype"),
    (["--seed", "1"], "takes no --seed"),
    (["--out", "elsewhere"], "takes no --out"),
    (["--set", "learning_rate=1"], "takes no --set learning_rate; besides --set iterations and --set max_seconds"),
    (["--set", "iterations=5"], "iterations must be at least 20 of 'adam', which are done, got 5"),
    (["--set", "iterations=many"], "iterations must be"),
    (["--set", "max_seconds=0"], "max_seconds must be positive"),
    (["--json", "no/where.json"], "cannot write the file no/where.json"),
])  # fmt: skip
def test_a_resumption_takes_little(arguments, message, stopped, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = {path.name: path.read_bytes() for path in stopped.iterdir()}
    assert main(["solve", "--resume", str(stopped), *arguments]) == 2
    errors = capsys.readouterr().err
    assert message in errors and errors.count("\n") == 1
    assert {path.name: path.read_bytes() for path in stopped.iterdir()} == before


@pytest.mark.parametrize(("name", "content", "message"), [
    ("run.pt", b"", "run.pt is not a checkpoint, or is damaged"),
    ("run.json", b"{", "run.json is damaged"),
    ("run.json", b"{}", "run.json is damaged: 'problem'"),
    ("run.json", b"[]", "run.json is damaged"),
    ("run.json", b"\xff", "run.json is damaged"),
    ("run.json", b"[" * 100_000, "run.json is damaged"),
    ("run.pt", None, "there is no run to resume in .*run.pt: No such file"),
    ("run.json", None, "there is no run to resume in .*run.json: No such file"),
    ("run.pt", {}, "run.pt is damaged: 'problem'"),
    ("run.pt", {"problem": "poisson", "settings": 3}, "run.pt is damaged"),
    ("run.pt", 3, "run.pt is damaged"),
])  # fmt: skip
def test_a_damaged_run_is_refused(name, content, message, stopped, tmp_path, capsys):
    state = torch.load(stopped / "run.pt", weights_only=True)
    if name == "run.json":  # of an older version
        state = {key: value for key, value in state.items() if key != "command"}
    torch.save(state, tmp_path / "run.pt")
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif name == "run.pt" and content is None:
        (tmp_path / name).unlink()
    elif name == "run.pt":
        torch.save(state | {"command": content}, tmp_path / name)
    assert main(["solve", "--resume", str(tmp_path)]) == 2
    errors = capsys.readouterr().err
    assert re.search(message, errors) and errors.count("\n") == 1


def test_a_folder_that_is_not_there(tmp_path, capsys):
    assert main(["solve", "--resume", str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(("line", "message"), [
    ("--method adam+", "method must be of auto, varpro"),
    ("--method adam++lm", "joined by '+', got 'adam++lm'"),
    ("--method adam --set damping=1", "poisson has no setting 'damping'"),
    ("--method adam --set batch=0", "batch must be an integer of at least 1"),
    ("--method adam+lbfgs --set iterations=1,2,3", "iterations must be a number or 2 numbers"),
    ("--set batch=5", "poisson has no setting 'batch'"),
    ("--reach 0", "--reach: '0' is not a positive number"),
    ("--reach few", "--reach: 'few' is not a positive number"),
    ("--reach inf", "'inf' is not a positive number"),
    ("--error 0", "--error: '0' is not a positive number"),
    ("--error 1e-3 --reach 1e-3", "not allowed with argument"),
    ("--error 1e-3 --enrich", "--error goes without --enrich"),
    ("--enrich --reach 1e-3", "--enrich goes without --reach and --prune-to"),
    ("--error 1e-3 --bumps 40", "--error goes without --bumps"),
    ("--error 1e-3 --windows 2", "--error goes without --windows"),
    ("--error 1e-3 --method adam", "--error chooses the method itself: leave out --method adam"),
    ("--error 1e-3 --dtype float32", "--error is for --dtype float64"),
    ("--error 1e-3 --set points=9", "poisson has no setting 'points'"),
    ("--parameters 280 --bumps 40", "--parameters goes without --bumps"),
    ("--parameters 280 --error 1e-3", "not allowed with argument"),
    ("--parameters 280 --enrich", "--parameters goes without --enrich"),
    ("--parameters 280 --method adam", "--parameters needs one method of least squares, got --method adam"),
    ("--parameters 280 --dtype float32", "--parameters is for --dtype float64"),
    ("--parameters 3", "parameters must be at least 7, those of one bump, got 3"),
    ("--method linear --animate", "--method linear goes without --animate"),
    ("--prune-to 0", "--prune-to: '0' is not a whole number of at least 1"),
    ("--prune-to 5 --reach 0.1", "not allowed with argument"),
    ("--prune-to 10 --bumps 3x3", "--prune-to must be at most the number of bumps, 9, got 10"),
    ("--prune-to 5 --method adam", "--prune-to needs one of the methods auto, varpro, gauss-newton, lm, got 'adam'"),
    ("--reach 1e-3 --method adam+lm", "--reach needs one of the methods auto, varpro, gauss-newton, lm, got 'adam+lm'"),
    ("--method varpro+lbfgs --set iterations=1,2,3", "iterations must be a number or 2 numbers"),
    ("--method lm+adam --set outer=both --set dampng=1", "has no setting 'dampng'; there are:"),
    ("--method adam --set damping=1", "learning_rate, final_rate, batch, "),
    ("--reach 0.1 --windows 2", "--reach solves all of the time at once, and takes no --windows"),
    ("--reach 0.1 --set score=size", "score must be one of loss, peak"),
    ("--reach 0.1 --set most=0", "bumps must be an integer of at least 1"),
    ("--reach 0.1 --set iterations=0", "iterations must be an integer of at least 1"),
    ("--prune-to 5 --set most=9", "poisson has no setting 'most'"),
    ("--set most=9", "poisson has no setting 'most'"),
])  # fmt: skip
def test_mistakes(line, message, tmp_path, capsys):
    assert main(["solve", "poisson", "--out", str(tmp_path), *line.split()]) == 2
    errors = capsys.readouterr().err
    assert message in errors and errors.count("\n") == 1
    assert not (tmp_path / "run.pt").exists()
