"""A second-order run that was stopped, however, and resumed ends with the very bits of one that was not."""

import itertools
import os
import random
import signal
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from cases import Cubic
from test_resume import assert_same, changed, interrupt_at, net_for

from bumpnet_fast import BumpNet
from bumpnet_fast.core.files import CheckpointWarning
from bumpnet_fast.io.saved import CheckpointError, resume
from bumpnet_fast.problems import Poisson, get
from bumpnet_fast.solvers import grow, march, prune, reach, run_state, solve, train

ROOT = Path(__file__).parents[2]

CASES = {
    "varpro": ("poisson", {}),
    "soft": ("helmholtz", {"boundary": "soft"}),
    "gauss-newton": ("poisson", {"method": "gauss-newton"}),
    "lm": ("poisson", {"method": "lm"}),
    "unknowns": ("inverse-heat", {}),
    "refined": ("convection-diffusion", {"refine": 2}),
    "refined gauss-newton": ("poisson", {"refine": 1, "method": "gauss-newton"}),
    "converged": ("poisson", {"tolerance": 0.5}),
    "no decrease": ("poisson", {"step_cap": 1e-13, "tolerance": 0.0}),
    "points of its own": ("poisson", {"points": torch.rand(90, 2, dtype=torch.float64) * 2 - 1}),
}


@pytest.mark.parametrize("stops", [(0,), (7,), (5, 9)], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_a_solve_interrupted_by_a_callback(case, stops, tmp_path):
    name, options = CASES[case]
    problem, options, path = get(name), {"iterations": 14} | options, tmp_path / "run.pt"
    whole = solve(problem, net_for(problem), **options)
    stopped = solve(problem, net_for(problem), checkpoint=path, callback=interrupt_at(stops[0]), **options)
    assert stopped.stop_reason == "interrupted" or whole.iterations < stops[0]
    torch.rand(7)  # whatever happens between
    for stop in stops[1:]:
        resume(path, callback=interrupt_at(stop))
    assert_same(resume(path), whole)
    assert_same(resume(path), whole)  # a finished run is finished
    assert os.listdir(tmp_path) == ["run.pt"]


def test_storing_changes_nothing(tmp_path):
    problem = get("helmholtz")
    whole = solve(problem, net_for(problem), iterations=12)
    stored = solve(problem, net_for(problem), iterations=12, checkpoint=tmp_path / "run.pt", every_seconds=0)
    assert_same(stored, whole)


def test_float32(tmp_path):
    problem, path = get("poisson"), tmp_path / "run.pt"
    whole = solve(problem, net_for(problem, "float32"), iterations=10, refine=1)
    solve(problem, net_for(problem, "float32"), iterations=10, refine=1, checkpoint=path, callback=interrupt_at(7))
    again = resume(path)
    assert again.net.rows.dtype == torch.float32
    assert_same(again, whole)


def test_a_limit_of_iterations_that_is_raised(tmp_path):
    problem, path = get("poisson"), tmp_path / "run.pt"
    whole = solve(problem, net_for(problem), iterations=12)
    solve(problem, net_for(problem), iterations=7, checkpoint=path)
    with pytest.raises(ValueError, match="iterations must be at least 7, which are done, got 6"):
        resume(path, iterations=6)
    longer = resume(path, iterations=12)
    assert torch.equal(longer.net.rows, whole.net.rows)
    assert [e["loss"] for e in longer.history] == [e["loss"] for e in whole.history]


def test_stopped_by_time(tmp_path):
    problem, path = get("poisson"), tmp_path / "run.pt"
    whole = solve(problem, net_for(problem), iterations=15)
    stopped = solve(problem, net_for(problem), iterations=15, checkpoint=path, max_seconds=1e-9)
    assert (stopped.stop_reason, stopped.iterations) == ("time", 0)
    assert_same(resume(path), whole)


@dataclass
class Stopping(Cubic):
    """Is interrupted in the middle of the step of its n-th residual."""

    name = "stopping"
    calls, stop, how = 0, None, KeyboardInterrupt

    def residual(self, x, u):
        Stopping.calls += 1
        if Stopping.calls == self.stop:
            raise self.how
        return super().residual(x, u)


@pytest.mark.parametrize("how", [KeyboardInterrupt, MemoryError])
def test_stopped_in_the_middle_of_a_step(how, tmp_path, monkeypatch):
    problem, path, options = Stopping(), tmp_path / "run.pt", {"method": "lm", "iterations": 8, "tolerance": 0.0}
    Stopping.calls = 0
    whole = solve(problem, net_for(problem), **options)
    monkeypatch.setattr(Stopping, "stop", Stopping.calls // 2)
    monkeypatch.setattr(Stopping, "how", how)
    Stopping.calls = 0
    try:
        stopped = solve(problem, net_for(problem), checkpoint=path, **options)
        assert how is KeyboardInterrupt and 0 < stopped.iterations < 8
    except MemoryError:
        assert how is MemoryError
    monkeypatch.setattr(Stopping, "stop", None)
    assert_same(resume(path, problem=problem), whole)


KILLED = """
import os, signal, sys
import torch
from bumpnet_fast import BumpNet
from bumpnet_fast.problems import get
from bumpnet_fast.solvers import solve

torch.set_num_threads(1)
problem = get("poisson")
net = BumpNet(2, (3, 4), problem.domain, dtype="float64").perturb_(0.02, torch.Generator().manual_seed(0))

def die(progress):
    if progress.iteration == 9:
        os.kill(os.getpid(), getattr(signal, sys.argv[2]))

solve(problem, net, iterations=14, checkpoint=sys.argv[1], every_seconds=float(sys.argv[3]), callback=die)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
@pytest.mark.parametrize(("name", "every", "code", "done"), [
    ("SIGKILL", 0, -signal.SIGKILL, 9), ("SIGTERM", 1000, 128 + signal.SIGTERM, 9),
])  # fmt: skip
def test_killed(name, every, code, done, tmp_path):
    problem, path = get("poisson"), tmp_path / "run.pt"
    whole = solve(problem, net_for(problem), iterations=14)
    command = [sys.executable, "-c", KILLED, str(path), name, str(every)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == code, process.stderr
    assert len(run_state.load(path)["state"]["history"]) == done + 1
    assert_same(resume(path), whole)
    assert os.listdir(tmp_path) == ["run.pt"]


# --- many solves as one run ----------------------------------------------------------------------


def assert_same_march(march, whole):
    assert [torch.equal(p.net.rows, q.net.rows) for p, q in zip(march.parts, whole.parts, strict=True)]
    assert torch.equal(march.net.rows, whole.net.rows)
    assert (march.loss, march.rel_l2, march.iterations) == (whole.loss, whole.rel_l2, whole.iterations)
    assert march.stop_reason == whole.stop_reason
    histories = [[{k: v for k, v in e.items() if k != "seconds"} for e in m.history] for m in (march, whole)]
    assert histories[0] == histories[1]
    seconds = [entry["seconds"] for entry in march.history]
    assert all(a <= b + 1e-3 for a, b in itertools.pairwise(seconds))


@pytest.mark.parametrize("stop", [0, 3, 9, 14])
@pytest.mark.parametrize("options", [{}, {"graded": 0.5}, {"perturb": 0.01, "refine": 1}], ids=str)
def test_a_march_goes_on_in_its_window(options, stop, tmp_path, monkeypatch):
    problem, path = get("burgers"), tmp_path / "run.pt"
    options = {"windows": 3, "iterations": 6, "seed": 2} | options
    whole = march(problem, (3, 3), **options)
    stopped = march(problem, (3, 3), checkpoint=path, callback=interrupt_at(stop), **options)
    assert stopped.stop_reason == "interrupted"
    finished = len(stopped.parts) - 1
    assert len(run_state.load(path)["state"]["done"]) == finished
    told = []
    assert_same_march(resume(path, callback=told.append), whole)
    assert told[0].iteration > stop  # nothing is computed again
    assert_same_march(resume(path), whole)


def test_a_march_whose_window_is_solved_afresh(tmp_path, monkeypatch):
    from bumpnet_fast.solvers import marching

    monkeypatch.setattr(marching, "_BAD_LOSS", 0.0)
    problem, path, options = get("heat"), tmp_path / "run.pt", {"windows": 3, "iterations": 4}
    whole = march(problem, (3, 3), **options)
    for times in range(12, 14):  # in the second window: the first solve, and the one afresh
        count = iter(range(100))

        def callback(progress, count=count, times=times):
            if next(count) == times:
                raise KeyboardInterrupt

        stopped = march(problem, (3, 3), checkpoint=path, callback=callback, **options)
        assert stopped.stop_reason == "interrupted" and len(stopped.parts) == 2
        assert_same_march(resume(path), whole)


SEARCHES = {
    "prune": lambda problem, net, **follow: prune(problem, net, 8, iterations=5, **follow),
    "grow": lambda problem, net, **follow: grow(problem, net, 20, iterations=5, **follow),
    "reach": lambda problem, net, **follow: reach(problem, net, 3e-2, most=30, iterations=5, **follow),
    "reach from few": lambda problem, net, **follow: reach(problem, net, 1e-3, most=18, iterations=3, **follow),
}


@pytest.mark.parametrize("stop", [0, 7, 14])
@pytest.mark.parametrize("case", SEARCHES)
def test_a_search_for_few_bumps_goes_on(case, stop, tmp_path):
    problem, path, search = get("poisson"), tmp_path / "run.pt", SEARCHES[case]
    whole = search(problem, net_for(problem))
    assert whole.events and whole.iterations > 16
    stopped = search(problem, net_for(problem), checkpoint=path, callback=interrupt_at(stop))
    assert stopped.stop_reason == "interrupted"
    assert_same(resume(path), whole)


def test_a_score_of_ones_own_is_given_again(tmp_path):
    def score(solution):
        return torch.rand(len(solution.net.rows), dtype=torch.float64)

    problem, path = get("poisson"), tmp_path / "run.pt"
    torch.manual_seed(3)
    whole = prune(problem, net_for(problem), 8, score=score, iterations=4)
    torch.manual_seed(3)
    prune(problem, net_for(problem), 8, score=score, iterations=4, checkpoint=path, callback=interrupt_at(6))
    with pytest.raises(ValueError, match=r"score must be one of .* or a function, got 'a function'"):
        resume(path)
    assert_same(resume(path, score=score), whole)


# --- the file ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path, problem = tmp_path_factory.mktemp("run") / "run.pt", get("poisson")
    solve(problem, net_for(problem), iterations=9, checkpoint=path, callback=interrupt_at(5))
    return path.read_bytes()


def test_the_file_is_plain_data(good, tmp_path):
    (tmp_path / "run.pt").write_bytes(good)
    content = torch.load(tmp_path / "run.pt", weights_only=True)
    assert (content["kind"], content["version"], content["solver"]) == ("run", run_state.VERSION, "solve")
    assert content["settings"]["iterations"] == 9 and len(content["state"]["history"]) == 6


@pytest.mark.parametrize(("change", "message"), [
    ({"version": 99}, "has format 99"),
    ({"kind": "sweep"}, "holds a sweep, not a run"),
    ({"solver": "guess"}, "holds a run of 'guess', which is not known here"),
    ({"solver": "train"}, "is damaged: it has no unknowns"),
    ({"settings": "left out"}, "is damaged: it has no settings"),
    ({"net": {}}, "is damaged: 'device'"),
    ({"state": {}}, "is damaged: 'history'"),
    ({"state": 3}, "is damaged"),
    ({"problem": {"name": "mine", "settings": {}}}, r"needs its problem, unknown problem 'mine'.*problem=\.\.\."),
])  # fmt: skip
def test_damaged_files_are_refused(change, message, good, tmp_path):
    path = tmp_path / "run.pt"
    path.write_bytes(good)
    torch.save(changed(torch.load(path, weights_only=True), **change), path)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=message) as error:
        resume(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize("part", ["x", "scale", "stage", "random"])
def test_a_state_with_something_else_in_it_is_refused(part, good, tmp_path):
    path = tmp_path / "run.pt"
    path.write_bytes(good)
    content = torch.load(path, weights_only=True)
    inner = content["state"]["point"] if part in ("x", "scale") else content["state"]
    inner[part] = {} if inner is content["state"] else torch.zeros(5, dtype=torch.float64)
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="is damaged"):
        resume(path)


def test_no_changed_byte_goes_unnoticed(good, tmp_path):
    path, problem, draw = tmp_path / "run.pt", get("poisson"), random.Random(0)
    whole = solve(problem, net_for(problem), iterations=9)
    noticed = 0
    for _ in range(60):
        at, content = draw.randrange(len(good)), bytearray(good)
        content[at] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
        try:
            solution = resume(path)
        except CheckpointError as error:
            noticed += "\n" not in str(error)
        else:  # it was in the padding
            noticed += torch.equal(solution.net.rows, whole.net.rows)
    assert noticed == 60


@pytest.mark.parametrize("size", [0, 100, -300])
def test_a_truncated_file_is_refused(size, good, tmp_path):
    (tmp_path / "run.pt").write_bytes(good[:size])
    with pytest.raises(CheckpointError, match="is not a checkpoint, or is damaged"):
        resume(tmp_path / "run.pt")


@pytest.mark.parametrize(("options", "message"), [
    ({"problem": get("helmholtz")}, "about another problem: .*poisson.*, not .*helmholtz"),
    ({"problem": get("poisson", a1=2)}, "about another problem"),
    ({"ridge": 1.0}, "a run of 'solve' that is resumed takes iterations, max_seconds.*, got ridge"),
    ({"every_seconds": -1}, "every_seconds must be at least 0, got -1"),
    ({"max_seconds": 0}, "max_seconds must be positive, got 0"),
])  # fmt: skip
def test_wrong_options_leave_the_file_alone(options, message, good, tmp_path):
    path = tmp_path / "run.pt"
    path.write_bytes(good)
    with pytest.raises(ValueError, match=message):
        resume(path, **options)
    assert path.read_bytes() == good


def test_what_cannot_be_stored_is_said_before_the_work(tmp_path):
    problem = get("advection")
    with pytest.raises(ValueError, match="checkpoint can keep numbers, strings and tensors, not object"):
        march(problem, (3, 3), windows=2, net={"device": object()}, checkpoint=tmp_path / "run.pt")
    with pytest.raises(OSError, match="no/such"):
        solve(Poisson(), net_for(Poisson()), checkpoint="no/such/run.pt")
    assert not os.listdir(tmp_path)


def test_writes_are_seldom(tmp_path, monkeypatch):
    written, write = [], run_state.write
    monkeypatch.setattr(run_state, "write", lambda path, content: (written.append(1), write(path, content)))
    net = BumpNet(2, (3, 4), Poisson().domain, dtype="float64")
    solve(Poisson(), net, iterations=20, checkpoint=tmp_path / "run.pt")
    assert len(written) == 2  # at the start and at the end


# --- a full disk -----------------------------------------------------------------------------------


RUNS = {
    "train": lambda problem, **follow: train(problem, net_for(problem), iterations=60, every=1, log_every=1, **follow),
    "solve": lambda problem, **follow: solve(problem, net_for(problem), iterations=9, every_seconds=0, **follow),
    "march": lambda problem, **follow: march(
        problem, (3, 3), windows=2, iterations=5, tolerance=0, every_seconds=0, **follow
    ),
}


@pytest.mark.parametrize("ends_full", [False, True])
@pytest.mark.parametrize("name", RUNS)
def test_a_run_goes_on_when_the_disk_is_full(name, ends_full, tmp_path, full_disk):
    problem, path = get("heat"), tmp_path / "run.pt"
    whole = RUNS[name](problem)

    def callback(progress):
        full_disk.full = progress.iteration >= 3 and (ends_full or progress.iteration < 6)

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        solution = RUNS[name](problem, checkpoint=path, callback=callback)
    assert torch.equal(solution.net.rows, whole.net.rows) and solution.iterations == whole.iterations
    messages = [str(w.message) for w in told if w.category is CheckpointWarning]
    assert messages[0].startswith(f"cannot write {path}: No space left on device (")
    assert messages[0].endswith("what was there before is untouched); the run goes on, and tries again")
    late = [f"the end of the run could not be written: what is in {path} is older"]
    assert messages[1:] == (late if ends_full else [])
    assert os.listdir(tmp_path) == ["run.pt"]
    full_disk.full = False
    again = resume(path)  # from the last state that went to the disk, or from the end
    assert torch.equal(again.net.rows, whole.net.rows) and again.loss == whole.loss


@pytest.mark.parametrize("name", RUNS)
def test_a_disk_that_is_full_from_the_start_is_an_error(name, tmp_path, full_disk):
    full_disk.full = True
    with pytest.raises(OSError, match="No space left on device"):
        RUNS[name](get("heat"), checkpoint=tmp_path / "run.pt", callback=lambda progress: pytest.fail("work was done"))
    assert os.listdir(tmp_path) == []
