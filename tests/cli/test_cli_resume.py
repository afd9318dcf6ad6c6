"""--resume of every command: a run that was stopped ends with the files of one that was not."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from bumpnet_fast import plotting
from bumpnet_fast.cli import command, main
from bumpnet_fast.core.locks import locked
from bumpnet_fast.solvers import run_state

ROOT = Path(__file__).parents[2]
SMALL = ("--set", "functions=40", "--set", "test_functions=10", "--bumps", "5")
LINES = {
    "varpro": "solve poisson --bumps 3x4 --set iterations=12 --seed 3",
    "gauss-newton": "solve poisson --bumps 3x4 --set iterations=12 --method gauss-newton --boundary soft",
    "lm": "solve poisson --bumps 3x4 --set iterations=12 --method lm --dtype float32",
    "refined": "solve convection-diffusion --bumps 4x3 --set iterations=12 --set refine=1",
    "chain": "solve poisson --bumps 3x4 --method auto+lbfgs+adam --set iterations=6,5,40",
    "pruned march": "solve advection --bumps 3x3 --windows 3 --method adam --set iterations=40 "
    "--set prune_threshold=0.99 --set prune_every=5 --set prune_least=5 --set log_every=5",
    "march": "solve advection --bumps 3x3 --windows 3 --set iterations=5 --seed 1",
    "reach": "solve poisson --bumps 3x3 --reach 2e-2 --set iterations=5",
    "prune": "solve poisson --bumps 3x4 --prune-to 9 --set iterations=5",
    "expm": "evolve heat --bumps 12 --set times=10",
    "bdf": "evolve burgers --bumps 16 --method bdf --set times=10 --set tolerance=1e-4 --seed 2",
    "moving": "evolve advection --bumps 6 --shapes evolve --set step=0.1 --set times=10",
    "two steps": f"operator burgers --branch 8 --set iterations=40 --set trunk_iterations=5 {' '.join(SMALL)}",
    "adam": f"operator antiderivative --method adam --set iterations=40 --seed 5 {' '.join(SMALL)}",
}


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    for name in ("evolution_figure", "operator_figure", "solution_figure"):
        monkeypatch.setattr(plotting, name, lambda *_: Figure((1, 1)))
    monkeypatch.setattr(plotting, "write_animation", lambda *_: None)


def run(line, folder, *more):
    return main([*line.split(), "--out", str(folder), "--threads", "1", "--quiet", *more])


def resume(line, folder, *more):
    return main([line.split()[0], "--resume", str(folder), "--threads", "1", "--quiet", *more])


@contextlib.contextmanager
def interrupted_at(line, number):
    """Ctrl-C at the ``number``-th progress."""
    count = iter(range(1000))

    @contextlib.contextmanager
    def progress(*_):
        def report(progress):
            if next(count) == number:
                raise KeyboardInterrupt

        yield report

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "progress", progress)
        yield


def without_seconds(content):
    if isinstance(content, dict):
        return {key: without_seconds(value) for key, value in content.items() if not key.endswith("seconds")}
    return [without_seconds(item) for item in content] if isinstance(content, list) else content


def same(first, second):
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(value, second[key]) for key, value in first.items())
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


def assert_same_files(folder, whole):
    assert {path.name for path in folder.iterdir()} == {path.name for path in whole.iterdir()}
    for name in ("history.json", "summary.json"):
        contents = [without_seconds(json.loads((place / name).read_text())) for place in (folder, whole)]
        assert contents[0] == contents[1]
    models = [torch.load(place / "model.pt", weights_only=True) for place in (folder, whole)]
    assert same(*map(without_seconds, models))


@pytest.mark.parametrize("case", LINES)
def test_a_run_goes_on_as_if_it_had_never_stopped(case, tmp_path):
    line, whole, stopped = LINES[case], tmp_path / "whole", tmp_path / "stopped"
    assert run(line, whole) == 0
    with interrupted_at(line, 7):
        assert run(line, stopped) == 130
    assert json.loads((stopped / "summary.json").read_text())["stop_reason"] == "interrupted"
    assert resume(line, stopped) == 0
    assert_same_files(stopped, whole)
    assert resume(line, stopped) == 0  # nothing is left to do
    assert_same_files(stopped, whole)


SLOW = """
import sys, time
from bumpnet_fast.cli import command, main
import contextlib

@contextlib.contextmanager
def progress(*_):
    yield lambda progress: time.sleep(0.05)

command.progress = progress
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
@pytest.mark.parametrize(("number", "code", "every"), [(signal.SIGKILL, -9, 0.1), (signal.SIGTERM, 143, 1000)])
def test_a_killed_run_goes_on(number, code, every, tmp_path):
    line = f"solve helmholtz --bumps 3x4 --set iterations=40 --set tolerance=0 --set every_seconds={every}"
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(line, whole) == 0
    arguments = [sys.executable, "-c", SLOW, *line.split(), "--out", str(killed), "--threads", "1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 60
    while not (killed / "run.pt").exists() or (
        number == signal.SIGKILL and run_state.load(killed / "run.pt")["state"] is None
    ):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(number)
    output, _ = process.communicate()
    assert process.returncode == code, output
    done = len(run_state.load(killed / "run.pt")["state"]["history"]) - 1
    assert 0 <= done < 40 and not (killed / "model.pt").exists()
    assert resume(line, killed) == 0
    assert_same_files(killed, whole)


@pytest.mark.parametrize("case", ["varpro", "expm", "adam"])
def test_a_full_disk_loses_nothing(case, tmp_path, full_disk, monkeypatch, capsys):
    line, whole, full = LINES[case], tmp_path / "whole", tmp_path / "full"
    assert run(line, whole) == 0

    @contextlib.contextmanager
    def progress(*_):
        count = iter(range(1000))

        def report(progress):
            full_disk.full = next(count) > 5

        yield report

    with monkeypatch.context() as patch:
        patch.setattr(command, "progress", progress)
        assert run(line, full, "--set", "every_seconds=0") == 1
    warned, late, error = capsys.readouterr().err.splitlines()
    reason = r"No space left on device \([\d,]+ bytes were to be written"
    untouched = f"{reason}; what was there before is untouched"
    goes_on = rf"bumpnet: warning: cannot write \S+run.pt: {untouched}\); the run goes on, and tries again"
    assert re.fullmatch(goes_on, warned), warned
    assert late == f"bumpnet: warning: the end of the run could not be written: what is in {full / 'run.pt'} is older"
    not_lost = rf"the run is not lost: --resume {full} writes this again"
    assert re.fullmatch(rf"bumpnet: error: cannot write \S+model.pt: {reason}\); {not_lost}", error), error
    assert {path.name for path in full.iterdir()} == {"run.pt"}
    full_disk.full = False
    assert resume(line, full) == 0
    for folder in (whole, full):  # in which every_seconds differs
        summary = json.loads((folder / "summary.json").read_text())
        summary["settings"]["solver"].pop("every_seconds", None)
        (folder / "summary.json").write_text(json.dumps(summary))
    assert_same_files(full, whole)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plotting, "evolution_figure", lambda *_: Figure((1, 1)))
        with interrupted_at(LINES["bdf"], 5):
            assert run(LINES["bdf"], folder, "--no-animation") == 130
    return folder


@pytest.mark.parametrize(("line", "message"), [
    ("evolve heat", "takes no PROBLEM; besides --set max_seconds"),
    ("evolve --method radau", "takes no --method"),
    ("evolve --shapes evolve", "takes no --shapes"),
    ("evolve --bumps 4", "takes no --bumps"),
    ("evolve --set tolerance=1", "takes no --set tolerance"),
    ("evolve --set max_seconds=0", "max_seconds must be positive, got 0"),
    ("solve", "is of 'bumpnet evolve': bumpnet evolve --resume"),
    ("solve --prune-to 3", "takes no --prune-to; besides --set iterations and --set max_seconds"),
    ("operator --branch 3", "takes no --branch"),
])  # fmt: skip
def test_what_contradicts_the_run_is_refused(line, message, stopped, capsys):
    before = {path.name: path.read_bytes() for path in stopped.iterdir()}
    command, *more = line.split()
    assert main([command, "--resume", str(stopped), *more]) == 2
    errors = capsys.readouterr().err
    assert message in errors.replace(str(stopped), "DIR") and errors.count("\n") == 1
    assert {path.name: path.read_bytes() for path in stopped.iterdir()} == before


@pytest.mark.parametrize("damage", ["truncated", "changed", "of a solve"])
def test_a_damaged_state_is_refused(damage, stopped, tmp_path, capsys):
    path = tmp_path / "run.pt"
    path.write_bytes((stopped / "run.pt").read_bytes())
    content = bytearray(path.read_bytes())
    if damage == "of a solve":
        torch.save(torch.load(path, weights_only=True) | {"solver": "solve"}, path)
    elif damage == "truncated":
        path.write_bytes(content[:-400])
    else:
        content[content.index(b"burgers")] ^= 1
        path.write_bytes(content)
    assert main(["evolve", "--resume", str(tmp_path)]) == 2
    errors = capsys.readouterr().err
    assert str(tmp_path) in errors and errors.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"run.pt"}


@pytest.mark.parametrize("command", ["evolve", "operator"])
def test_without_a_problem_there_is_nothing_to_do(command, capsys):
    assert main([command]) == 2
    assert "are required" in capsys.readouterr().err


# --- what is in the folder before ----------------------------------------------------------------

#: Mistakes that only the solver can see, some of them after its first computing.
LATE = [
    "solve helmholtz --set iterations=-5",
    "solve helmholtz --set iterations=5 --set damping=-1 --method lm",
    "solve burgers --method varpro",
    "solve burgers --windows 1 --method varpro",
    "solve advection --windows 2 --set iterations=-5",
    "solve advection --windows 2 --set graded=1.5",
    "solve poisson --bumps 3x3 --prune-to 4 --set ridge=-1",
    "solve poisson --bumps 3x3 --reach 1e-2 --set tolerance=-1",
    "solve poisson --bumps 3x3 --reach 1e-2 --set score=size",
    "solve poisson --method adam --set iterations=-5",
    "solve burgers --method varpro-adam",
    "solve poisson --method adam+lbfgs --set batch=0",
    "solve poisson --animate --set iterations=-5",
    "solve poisson --set every_seconds=-1",
    "evolve heat --set times=0",
    "evolve heat --method nothing",
    "evolve heat --method rk4 --set step=-1",
    "evolve burgers --method expm",
    "evolve heat --set points=1",
    "operator antiderivative --set iterations=-5",
    "operator burgers --physics",
    "operator antiderivative --set functions=0",
]


@pytest.fixture(scope="module")
def animated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("animated")
    assert run("solve poisson --bumps 3x3 --set iterations=3 --animate", folder) == 0
    return folder


@pytest.mark.parametrize("line", LATE)
def test_a_mistake_leaves_the_run_in_the_folder_as_it_is(line, animated, capsys):
    before = {path.name: path.read_bytes() for path in animated.iterdir()}
    assert {"run.pt", "model.pt", "training.pt", "training.gif"} <= set(before)
    assert run(line, animated) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("bumpnet: error: ") and errors.count("\n") == 1
    assert {path.name: path.read_bytes() for path in animated.iterdir()} == before


@pytest.mark.parametrize("line", LATE)
def test_a_mistake_leaves_nothing_in_an_empty_folder(line, tmp_path):
    assert run(line, tmp_path) == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("line", ["solve poisson", "solve --resume", "evolve heat", "operator antiderivative"])
def test_a_folder_is_for_one_run_at_a_time(line, animated, tmp_path, capsys):
    folder = shutil.copytree(animated, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with locked(folder, "bumpnet solve heat"):
        arguments = [*line.split(), str(folder)] if "--resume" in line else [*line.split(), "--out", str(folder)]
        assert main([*arguments, "--quiet"]) == 2
        told = (
            rf"bumpnet: error: \S+ is in use by process {os.getpid()} since .* \(bumpnet solve heat\); wait until .*\n"
        )
        assert re.fullmatch(told, capsys.readouterr().err)
        assert main(["show", str(folder), "--out", str(tmp_path / "pictures"), "--quiet"]) == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
def test_the_second_of_two_commands_is_refused_and_a_lock_that_was_left_is_taken_over(tmp_path, capsys):
    line = "solve helmholtz --bumps 3x4 --set iterations=40 --set tolerance=0 --set every_seconds=0"
    command = [sys.executable, "-c", SLOW, *line.split(), "--out", str(tmp_path), "--threads", "1", "--quiet"]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + 60
    while not (tmp_path / "run.pt").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    assert run("solve poisson", tmp_path) == 2 and resume(line, tmp_path) == 2
    errors = capsys.readouterr().err
    assert errors.count(f"is in use by process {process.pid} since") == errors.count("(bumpnet solve helmholtz)") == 2
    process.kill()
    process.wait()
    assert (tmp_path / "run.lock").exists()
    assert resume(line, tmp_path) == 0
    assert not (tmp_path / "run.lock").exists() and (tmp_path / "model.pt").exists()
