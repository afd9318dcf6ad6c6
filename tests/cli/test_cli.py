"""The command line: what it writes, what it says, and that mistakes cost one line and no computing."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import pytest
import torch
from matplotlib.figure import Figure

from bumpnet_fast import __version__, backend, plotting, problems
from bumpnet_fast import io as checkpoint
from bumpnet_fast.cli import command, common, main, writing
from bumpnet_fast.cli import solve as solving
from bumpnet_fast.problems.sampling import lattice
from bumpnet_fast.solvers import Method, StopReason, arguments, stationary

ROOT = Path(__file__).parents[2]
TINY = ("--bumps", "3x3", "--set", "points=64", "--set", "iterations=3", "--threads", "1")
FILES = {"model.pt", "history.json", "summary.json", "solution.png", "run.pt"}


def solve(*arguments, problem="poisson"):
    """Exit code and summary of a small run, its picture included."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        code = main(["solve", problem, *TINY, "--json", "-", "--quiet", *map(str, arguments)])
    return code, json.loads(output.getvalue())


@pytest.fixture
def no_picture(monkeypatch):
    """Leave the picture out, which takes most of the time of a small run."""
    monkeypatch.setattr(plotting, "solution_figure", lambda solution, **_: Figure((1, 1)))


@pytest.fixture(scope="module")
def solved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "not there" / "yet"
    code, summary = solve("--out", folder, "--set", "a1=2", "--seed", 5, problem="helmholtz")
    assert code == 0
    return folder, summary


# --- a solution ----------------------------------------------------------------------------------


def test_the_summary(solved):
    _, summary = solved
    expected = {
        "problem": "helmholtz", "method": "varpro", "boundary": "hard", "bumps": 9, "parameters": 63, "iterations": 3,
        "stop_reason": "iterations", "dtype": "float64", "backend": backend(), "threads": 1, "seed": 5,
        "stop_message": StopReason.ITERATIONS.message,
    }  # fmt: skip
    assert {key: summary[key] for key in expected} == expected
    assert all(summary[key] > 0 for key in ("rel_l2", "max_error", "loss", "seconds", "processor_seconds"))
    report = summary["report"]
    assert [row["name"] for row in report["misfits"]] == ["equation"] and report["loss"] == summary["loss"]
    assert summary["error_estimate"] == max(report["error"]["rel_l2"]) > 0
    assert summary["warnings"] == report["warnings"] and "the error is about" in summary["warnings"][-1]
    assert summary["versions"]["bumpnet_fast"] == __version__
    assert summary["versions"]["torch"] == str(torch.__version__)
    settings = summary["settings"]
    assert settings["problem"] == {"lower": [-1, -1], "upper": [1, 1], "a1": 2, "a2": 4, "k": 1}
    assert settings["solver"] == {"points": 64, "iterations": 3}
    assert settings["run"] == {"perturb": common.PERTURB, "graded": 0.0}


def test_the_files(solved):
    folder, summary = solved
    assert {path.name for path in folder.iterdir()} == FILES
    assert json.loads((folder / "summary.json").read_text()) == summary
    history = json.loads((folder / "history.json").read_text())
    assert [entry["iteration"] for entry in history] == [0, 1, 2, 3]
    assert (history[-1]["loss"], history[-1]["rel_l2"]) == (summary["loss"], pytest.approx(summary["rel_l2"]))
    height, width, _ = matplotlib.image.imread(folder / "solution.png").shape
    assert width > height > 500


def test_the_model_is_the_solution(solved):
    folder, summary = solved
    assert torch.load(folder / "model.pt", weights_only=True)["problem"]["name"] == "helmholtz"
    u = checkpoint.load(folder / "model.pt")
    x = lattice(u.problem.domain)
    exact, values = u.problem.exact(x), u(x)[:, 0].detach()
    assert float(torch.norm(values - exact) / torch.norm(exact)) == pytest.approx(summary["rel_l2"])
    edge = x[(x.abs() == 1).any(1)]
    torch.testing.assert_close(u(edge)[:, 0], u.problem.exact(edge), rtol=0, atol=1e-12)


def test_every_choice_reaches_its_place(no_picture, tmp_path):
    choices = ("--method", "lm", "--boundary", "soft", "--dtype", "float32", "--bumps", "7")
    settings = ("overlap=2.5", "outer=free", "ridge=1e-10", "lower=0,0", "perturb=0.1")
    code, summary = solve("--out", tmp_path, *choices, *(part for s in settings for part in ("--set", s)))
    assert code == 0
    assert [summary[key] for key in ("method", "boundary", "dtype", "bumps")] == ["lm", "soft", "float32", 7]
    assert summary["settings"]["net"] == {"overlap": 2.5, "outer": "free"}
    assert summary["settings"]["solver"]["ridge"] == 1e-10
    assert summary["settings"]["run"]["perturb"] == 0.1
    u = checkpoint.load(tmp_path / "model.pt")
    assert u.net.rows.shape == (7, 8)
    assert (u.net.rows.dtype, u.boundary, u.problem.lower) == (torch.float32, "soft", (0.0, 0.0))


def test_the_seed_decides_the_start(no_picture, tmp_path):
    def loss(*arguments):
        return solve("--out", tmp_path, "--set", "iterations=0", *arguments)[1]["loss"]

    plain, one, two = loss(), loss("--seed", 1), loss("--seed", 2)
    assert len({plain, one, two}) == 3
    assert loss("--seed", 1) == one
    assert loss("--seed", 1, "--set", "perturb=0") == plain
    assert loss("--seed", 1, "--set", "perturb=0.2") not in (one, plain)


def test_by_default_the_problem_names_the_directory(no_picture, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert solve()[0] == 0
    assert {path.name for path in (tmp_path / "runs" / "poisson").iterdir()} == FILES


def test_the_summary_for_people(no_picture, tmp_path, capsys):
    assert main(["solve", "poisson", *TINY, "--out", str(tmp_path), "--json", str(tmp_path / "more.json")]) == 0
    summary = json.loads((tmp_path / "more.json").read_text())
    output, errors = capsys.readouterr()
    assert errors.splitlines() == [f"bumpnet: warning: {warning}" for warning in summary["warnings"]]  # and no progress
    first, table, last = output.split("\n\n")
    lines = dict(
        re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in f"{first}\n{last}".splitlines() if line[0] != " "
    )  # it is wrapped
    assert (lines["problem"], lines["bumps"], lines["parameters"]) == ("poisson", "9", "63")
    assert lines["stopped"] == f"iterations: {StopReason.ITERATIONS.message}"
    assert float(lines["rel l2"]) == pytest.approx(summary["rel_l2"], rel=0.01)
    assert lines["written to"] == str(tmp_path) and "stop reason" not in lines
    head, equation = table.splitlines()
    assert head.startswith("residual of") and equation.startswith("equation")
    assert len(output.splitlines()) < 30 and output.count("estimate") == 2, "all is said once"


def test_report_and_estimate_can_be_switched_off(no_picture, tmp_path, capsys):
    line = ["solve", "helmholtz", *TINY, "--out", str(tmp_path)]
    assert main([*line, "--no-report"]) == 0
    output = capsys.readouterr().out
    assert "residual of" not in output and "stop reason" in output and "error estimate" in output
    assert main([*line, "--no-estimate"]) == 0
    output, errors = capsys.readouterr()
    assert "estimate            switched off" in output and "residual of" in output
    warning = r"bumpnet: warning: the loss is still \d+% of that of u = 0: take more iterations or bumps\n"
    assert re.fullmatch(warning, errors)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["report"]["error"] is None and "error_estimate" not in summary
    assert main(["solve", "--resume", str(tmp_path), "--no-report", "--no-estimate"]) == 0
    output = capsys.readouterr().out
    assert "residual of" not in output and "error estimate" not in output


def test_with_json_on_the_output_the_summary_for_people_moves_aside(no_picture, tmp_path, capsys):
    assert main(["solve", "poisson", *TINY, "--out", str(tmp_path), "--json", "-"]) == 0
    output, errors = capsys.readouterr()
    assert json.loads(output)["problem"] == "poisson"
    assert "63" in errors


@pytest.mark.parametrize("quiet", [False, True])
def test_a_terminal_shows_progress_unless_quiet(quiet, no_picture, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # makes rich take any stream for a terminal
    assert main(["solve", "poisson", *TINY, "--out", str(tmp_path), *["--quiet"] * quiet]) == 0
    output, errors = capsys.readouterr()
    assert ("iteration" in errors, "loss" in errors, "100%" in errors) == (not quiet,) * 3
    assert bool(output) == (not quiet)


def test_threads_are_given_back(no_picture, tmp_path, threads):
    threads(2)
    assert solve("--out", tmp_path)[1]["threads"] == 1
    assert torch.get_num_threads() == 2


# --- ends before the end -------------------------------------------------------------------------


def interrupt_at(iteration, error):
    @contextlib.contextmanager
    def progress(*_):
        def report(progress):
            if progress.iteration == iteration:
                raise error

        yield report

    return progress


def test_ctrl_c_keeps_what_was_found(no_picture, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "progress", interrupt_at(2, KeyboardInterrupt))
    code, summary = solve("--out", tmp_path)
    assert (code, summary["stop_reason"], summary["iterations"]) == (130, "interrupted", 2)
    assert {path.name for path in tmp_path.iterdir()} == FILES
    assert checkpoint.load(tmp_path / "model.pt").net.rows.shape == (9, 7)


def test_ctrl_c_elsewhere_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stationary, "solve", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(["solve", "poisson", "--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "bumpnet: error: interrupted\n"


def test_a_fault_of_ours_is_not_taken_for_a_mistake_of_the_caller(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "progress", interrupt_at(1, ValueError("a bug")))
    with pytest.raises(ValueError, match="a bug"):
        solve("--out", tmp_path)


def test_a_disk_that_is_full_from_the_start_is_one_line(no_picture, tmp_path, full_disk, capsys):
    full_disk.full = True
    assert main(["solve", "poisson", *TINY, "--out", str(tmp_path)]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith(f"bumpnet: error: cannot write {tmp_path / 'run.pt'}: No space left on device (")
    assert errors.count("\n") == 1 and not list(tmp_path.iterdir())


# --- mistakes ------------------------------------------------------------------------------------

UNKNOWN = f"unknown problem 'poison'; there are: {', '.join(problems.PROBLEMS)}"
MISTAKES = {
    "": "required: COMMAND",
    "slove": "invalid choice: 'slove'",
    "info extra": "unrecognized arguments: extra",
    "solve": "required: PROBLEM",
    "solve poison": UNKNOWN,
    "solve poisson --foo": "unrecognized arguments: --foo",
    "solve poisson --bumps 0": "'0' is not a number of at least 1 or a grid such as 4x10",
    "solve poisson --bumps -3": "'-3' is not",
    "solve poisson --bumps 4x": "'4x' is not",
    "solve poisson --bumps 4x0": "'4x0' is not",
    "solve poisson --bumps 2.5": "'2.5' is not",
    "solve poisson --bumps 3x3x3": "one per dimension",
    "solve poisson --method sgd": f"method must be of {', '.join(solving.METHODS)}",
    "solve poisson --method": "--method: expected one argument",
    "solve poisson --method lm+": "joined by '+', got 'lm+'",
    "solve poisson --method adam --set damping=1": "no setting 'damping'; there are: lower, upper, a1, a2, iterations,",
    "solve poisson --set group=1": "no setting 'group'",
    "solve poisson --boundary none": "invalid choice: 'none'",
    "solve poisson --dtype float16": "invalid choice: 'float16'",
    "solve poisson --windows 0": "--windows: '0' is not",
    "solve poisson --windows 2": "problem 'poisson' cannot be marched in time",
    "solve poisson --seed one": "--seed: 'one' is not a whole number",
    "solve poisson --seed 99999999999999999999": "--seed",
    "solve poisson --threads 0": "--threads: '0' is not a whole number from 1",
    "solve poisson --threads 1000000": "--threads",
    "solve poisson --set a1": "'a1' is not of the form KEY=VALUE",
    "solve poisson --set =1": "not of the form KEY=VALUE",
    "solve poisson --set a1=": "not of the form KEY=VALUE",
    "solve poisson --set k=2": "poisson has no setting 'k'; there are: lower, upper, a1, a2, iterations,",
    "solve poisson --set method=lm": "no setting 'method'",
    "solve poisson --set a1=abc": "a1 must be a finite number, got 'abc'",
    "solve poisson --set a1=nan": "a1 must be a finite number",
    "solve poisson --set lower=1": "lower must be 2 finite numbers",
    "solve poisson --set lower=2,2": "lower must be below upper",
    "solve poisson --set iterations=-1": "iterations must be an integer of at least 0",
    "solve poisson --set iterations=many": "iterations must be",
    "solve poisson --set points=0": "points must be",
    "solve poisson --set points=100000000000000": "points must be so few that all of them fit into the memory",
    "solve poisson --set sampling=hope": "sampling must be one of grid",
    "solve poisson --set max_seconds=-1": "max_seconds must be positive",
    "solve poisson --set ridge=inf": "ridge must be",
    "solve poisson --set overlap=0": "overlap must be positive",
    "solve poisson --set scale=big": "scale must be",
    "solve poisson --set centre_box=0.5": "centre_box must be at least 1",
    "solve poisson --set outer=both": "outer must be 'tied' or 'free'",
    "solve poisson --set perturb=-1": "perturb must be",
    "solve poisson --set perturb=some": "perturb must be",
    "solve poisson --bumps 99999999999": "bumps must be so few that all of them fit into the memory",
    "solve poisson --bumps 99999x99999999": "bumps must be so few that all of them fit into the memory",
    "solve advection --windows 99999999999": "windows must be so few that all of them fit into the memory",
    f"solve poisson --bumps {'9' * 5000}": "is not a number of at least 1 or a grid",
    f"solve poisson --prune-to {'9' * 5000}": "is too large a number",
    f"solve poisson --seed {'9' * 5000}": "is not a whole number from 0",
    "solve poisson --seed ١٢": "is not a whole number from 0",
    "solve helmholtz --set k=1e300": "the settings are too large, or too small, to compute with: Numerical",
    "solve kovasznay --set re=-1e300": "the settings are too large, or too small, to compute with",
    "solve sharp-poisson --set a=1e300": "the settings are too large, or too small, to compute with",
    f"solve poisson --set a1={'9' * 400}": "a1 must be a smaller number",
    f"solve poisson --set lower=1,{'9' * 400}": "lower must be a smaller number",
    f"solve poisson --set a1={'9' * 5000}": "a1 must be a finite number",
    f"solve poisson --set a1=0x{'f' * 5000}": "a1 must be a smaller number",
    f"solve poisson --set a1={'-' * 5000}1": "the value of a1 is nested too deeply",
    f"solve poisson --set a1={'[' * 150}1{']' * 150}": "a1 must be a finite number",
    f"solve poisson --set a1={'[' * 5000}": "a1 must be a finite number",
    f"solve poisson --set ridge={'1,' * 3000}": "ridge must be at least 0",
    "solve poisson --set a1=1e309": "a1 must be a finite number",
    "solve poisson --set a1=1j": "a1 must be a number, a word, or several with commas, got 1j",
    "solve poisson --set a1=b'1'": "a1 must be a number, a word, or several with commas, got b'1'",
    "solve poisson --set lower={1,2}": "lower must be a number, a word, or several with commas, got {1, 2}",
    "solve poisson --set lower=({},1)": "lower must be a number, a word, or several with commas, got {}",
    "solve poisson --set points={1:2}": "points must be a number, a word, or several with commas, got {1: 2}",
    "solve poisson --set ridge=...": "ridge must be a number, a word, or several with commas, got Ellipsis",
    "solve poisson --set damping=True": "damping must be positive, got True",
    "solve poisson --set points=9223372036854775808": "points must be",
    "solve poisson --set points=9223372036854775807": "points must be so few that all of them fit into the memory",
    f"solve poisson --set max_seconds={'9' * 309}": "max_seconds must be",
    "solve poisson --set seed=1": "no setting 'seed'",
    "solve poisson --json .": "cannot write the file .: it is a directory",
    "solve poisson --json no/where.json": "cannot write the file no/where.json: No such file",
    "solve poisson --json file/x.json": "cannot write the file file/x.json: Not a directory",
    "solve poisson --out file/x": "cannot write to the directory file/x: Not a directory",
    "solve poisson --out file": "cannot write to the directory file: File exists",
}


@pytest.mark.parametrize("line, message", MISTAKES.items(), ids=lambda text: text[:60])
def test_a_mistake_costs_one_line(line, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    monkeypatch.setattr(command, "progress", interrupt_at(0, AssertionError("computing began")))
    assert main(line.split()) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith("bumpnet: error: ")
    assert errors.count("\n") == 1 and len(errors) < 2000
    assert message in errors
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "file"]


@pytest.mark.parametrize("name", ["[red]x", "[/]", "[link=https://example.org]", "a[0]"])
def test_brackets_in_a_path_are_no_markup(name, no_picture, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = Path("runs", name)
    for choices in (("poisson", *TINY, "--out", str(folder)), ("--resume", str(folder))):
        assert main(["solve", *choices]) == 0
        output, errors = capsys.readouterr()
        assert re.search(rf"written to +{re.escape(str(folder))} *\n", output) and "error:" not in errors
    assert (folder / "model.pt").exists()
    assert main(["solve", "poisson", "--json", str(folder), "--out", str(folder)]) == 2
    assert f"cannot write the file {folder}:" in capsys.readouterr().err


def test_an_unwritable_directory_is_noticed_before_solving(tmp_path, monkeypatch, capsys):
    def never(*_, **__):
        raise AssertionError("solved before looking")

    monkeypatch.setattr(stationary, "solve", never)
    (tmp_path / "file").touch()
    assert main(["solve", "poisson", "--out", str(tmp_path / "file" / "x")]) == 2
    assert main(["solve", "poisson", "--out", str(tmp_path), "--json", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 2


# --- the rest ------------------------------------------------------------------------------------


def test_the_choices_are_those_of_the_solver(capsys):
    assert main(["solve", "poisson", "--boundary", "no such"]) == 2
    message = capsys.readouterr().err.replace("'", "")  # which some versions of argparse put around every choice
    assert f"(choose from {', '.join(arguments.BOUNDARIES)}" in message


@pytest.mark.parametrize("name", problems.PROBLEMS)
def test_settings_have_one_meaning_each(name):
    settable = solving.settable(problems.PROBLEMS[name])
    keys = [key for scope in settable.values() for key in scope]
    assert len(keys) == len(set(keys)), "a problem's field has the name of an option: rename it"
    assert {"points", "iterations", "ridge"} <= set(settable["solver"])
    assert {"centre_box", "overlap", "sharpness", "scale"} <= set(settable["net"])


def test_list(capsys):
    assert main(["list"]) == 0
    output = capsys.readouterr().out
    for name, problem in problems.PROBLEMS.items():
        assert re.search(rf"^{name} +{re.escape(problem.summary)}$", output, re.MULTILINE)
    for setting in ("a2=4", "lower=-1,-1", "iterations=100", "centre_box=1.3", "perturb=0"):
        assert setting in output
    for name in Method.known:
        line = re.search(rf"^{name} +(iterations=.*)$", output, re.MULTILINE)[1]
        assert [part.partition("=")[0] for part in line.split()] == list(stationary.options_of(name))


def test_info(capsys):
    assert main(["info"]) == 0
    assert torch.__version__ in capsys.readouterr().out
    assert main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["versions"]["torch"] == torch.__version__


@pytest.mark.parametrize("arguments", [["--help"], ["solve", "--help"], ["--version"]])
def test_help_goes_to_the_output(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 0
    assert "bumpnet" in capsys.readouterr().out


def test_json_has_no_numbers_that_are_none():
    assert json.loads(writing.as_json({"a": float("nan"), "b": [1.5, float("inf")]})) == {"a": None, "b": [1.5, None]}


def run_python(*arguments, folder):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def test_the_module_is_the_command(tmp_path):
    run = run_python("-m", "bumpnet_fast", "solve", "poison", folder=tmp_path)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == f"bumpnet: error: {UNKNOWN}\n"


def test_the_example_runs_as_printed(tmp_path):
    run = run_python(str(ROOT / "examples" / "helmholtz.py"), folder=tmp_path)
    assert run.returncode == 0, run.stderr
    assert float(re.search(r"relative L2 error (\S+) with 280 parameters", run.stdout)[1]) < 1e-4
    assert {path.name for path in tmp_path.iterdir()} == {"helmholtz.pt", "helmholtz.png"}


def test_the_example_of_few_bumps_finds_them(tmp_path):
    words = [str(ROOT / "examples" / "few_bumps.py"), "--json", "figures.json"]
    run = run_python(*words, folder=tmp_path)
    assert run.returncode == 0, run.stderr
    first, last = re.search(r"36 bumps (\S+), .* 18 bumps (\S+)$", run.stdout, re.MULTILINE).groups()
    assert float(last) < 20 * float(first) < 4e-4
    error, bumps = re.search(r"Helmholtz to (\S+) with (\d+) bumps", run.stdout).groups()
    assert float(error) <= 1e-4 and int(bumps) <= 40
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert figures["processor_seconds"] > 0 and figures["seconds"] > 0


def test_the_example_of_a_nonlinear_problem_is_short_and_solves_it(tmp_path):
    example = ROOT / "examples" / "nonlinear.py"
    assert len(example.read_text(encoding="utf-8").splitlines()) < 30
    run = run_python(str(example), folder=tmp_path)
    assert run.returncode == 0, run.stderr
    assert float(re.search(r"relative L2 error (\S+) .* by gauss-newton", run.stdout)[1]) < 1e-5


def test_marching_writes_a_model_of_all_windows(no_picture, tmp_path):
    code, summary = solve("--out", tmp_path, "--windows", 2, problem="heat")
    assert code == 0 and (summary["windows"], summary["bumps"], summary["stop_reason"]) == (2, 18, "marched")
    assert summary["parameters"] == 2 * summary["parameters_per_window"]
    u = checkpoint.load(tmp_path / "model.pt")
    x = lattice(u.problem.domain)
    exact = u.problem.exact(x)
    assert float(torch.norm(u(x).detach()[:, 0] - exact) / torch.norm(exact)) == pytest.approx(summary["rel_l2"])
