"""The file of a run: what is in it, when it is written, what damages it, and what goes on from it.

That every solver is resumed bit for bit is proved by test_every_solver.py.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from cases import Cubic
from test_every_solver import assert_same, at_look, press

from bumpnet_fast import BumpNet
from bumpnet_fast.core.files import CheckpointError
from bumpnet_fast.io import resume, save
from bumpnet_fast.problems import Poisson, get
from bumpnet_fast.solvers import Method, VarPro, march, marching, prune, run_state, solve, train

ROOT = Path(__file__).parents[2]


def net_for(problem, dtype="float64", bumps=(3, 4)):
    bumps = bumps if len(problem.lower) == 2 else 8
    net = BumpNet(len(problem.lower), bumps, problem.domain, dtype=dtype)
    return net.perturb_(0.02, torch.Generator().manual_seed(0))


def interrupt_at(iteration):
    def callback(progress):
        if progress.iteration == iteration:
            raise KeyboardInterrupt

    return callback


# --- what is resumed, beside test_every_solver.py --------------------------------------------------

#: Runs of which a state holds something special.
CASES = {
    "long chain": {"iterations": (15, 11, 20), "method": "varpro-adam+lbfgs+adam", "log_every": 5},
    "least squares in a chain": {"iterations": (10, 5), "method": "adam+varpro"},
    "pruned varpro-adam": {
        "iterations": 40, "method": "varpro-adam", "prune_threshold": 0.5, "prune_every": 12, "prune_least": 5,
    },
    "refined gauss-newton": {"iterations": 14, "refine": 1, "method": "gauss-newton"},
    "converged": {"iterations": 14, "tolerance": 0.5},
    "no decrease": {"iterations": 14, "step_cap": 1e-13, "tolerance": 0.0},
    "points of its own": {"iterations": 14, "points": torch.rand(90, 2, dtype=torch.float64) * 2 - 1},
    "objects": {"iterations": 14, "method": VarPro(damping=2.0)},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_interrupted_twice(case, tmp_path):
    problem, options, path = get("poisson"), {"points": 150} | CASES[case], tmp_path / "run.pt"
    told = []
    whole = solve(problem, net_for(problem), callback=told.append, **options)
    assert bool(whole.events) == ("prune_threshold" in options)
    look = len(told) // 3
    solve(problem, net_for(problem), checkpoint=path, callback=at_look(look, press), **options)
    assert resume(path, callback=at_look(look, press)).stop_reason == "interrupted"
    assert_same(resume(path), whole)


@pytest.mark.parametrize("options", [
    {"method": "adam+lbfgs", "iterations": 20}, {"method": "gauss-newton", "iterations": 8, "refine": 1},
], ids=str)  # fmt: skip
def test_float32_and_unknowns(options, tmp_path):
    @dataclass
    class Unknown(Cubic):
        name = "unknown"
        unknowns = {"k": 0.3}

        def residual(self, x, u, k):
            return super().residual(x, u) + (k - 1) * u.value

    problem, path = Unknown(), tmp_path / "run.pt"
    whole = solve(problem, net_for(problem, "float32"), **options)
    solve(problem, net_for(problem, "float32"), checkpoint=path, callback=at_look(3, press), **options)
    solution = resume(path, problem=problem)
    assert solution.net.rows.dtype == torch.float32
    assert_same(solution, whole)


def test_random_numbers_of_the_residual_go_on(tmp_path):
    @dataclass
    class Noisy(Poisson):
        name = "noisy"

        def residual(self, x, u):
            return super().residual(x, u) + 0.01 * torch.randn(len(x), dtype=x.dtype)

    problem, options = Noisy(), {"points": 150, "iterations": 40}
    torch.manual_seed(5)
    whole = train(problem, net_for(problem), **options)
    torch.manual_seed(5)
    train(problem, net_for(problem), checkpoint=tmp_path / "run.pt", callback=interrupt_at(20), **options)
    torch.manual_seed(6)
    assert_same(resume(tmp_path / "run.pt", problem=problem), whole)


def test_a_run_that_went_as_far_as_it_could_has_not_moved(tmp_path):
    problem, path = get("poisson"), tmp_path / "run.pt"
    options = {"points": 150, "method": "lbfgs", "iterations": 3000}
    whole = solve(problem, net_for(problem, "float32", (2, 2)), checkpoint=path, **options)
    assert whole.stop_reason == "no further decrease"
    assert resume(path).loss <= whole.loss


@pytest.mark.parametrize(("method", "limit", "more", "few"), [
    ("adam+lbfgs", (20, 20), (20, 30), (20, 5)), ("varpro", 7, 12, 6),
], ids=str)  # fmt: skip
def test_more_iterations(method, limit, more, few, tmp_path):
    problem, path = get("poisson"), tmp_path / "run.pt"
    whole = solve(problem, net_for(problem), method=method, iterations=more)
    first = solve(problem, net_for(problem), method=method, iterations=limit, checkpoint=path)
    with pytest.raises(ValueError, match=r"iterations must be at least .* of '(lbfgs|varpro)', which are done, got"):
        resume(path, iterations=few)
    resume(path, iterations=more, callback=at_look(1, press))
    longer = resume(path)  # the file knows of the new limit
    assert torch.equal(longer.net.rows, whole.net.rows) and longer.loss < first.loss
    assert [e["loss"] for e in longer.history] == [e["loss"] for e in whole.history]


@dataclass
class Stopping(Cubic):
    """Sends signals to its own process, or raises, in the middle of the step of its n-th residual."""

    name = "stopping"
    calls, stop, act = 0, None, staticmethod(lambda: None)

    def residual(self, x, u):
        Stopping.calls += 1
        if Stopping.calls == self.stop:
            self.act()
        return super().residual(x, u)


def stopped(monkeypatch, act, **options):
    """What a run would give, after its file has got what another left that did ``act`` half way."""
    problem = Stopping()
    Stopping.calls = 0
    whole = solve(problem, net_for(problem), **{key: v for key, v in options.items() if key != "checkpoint"})
    monkeypatch.setattr(Stopping, "stop", Stopping.calls * 4 // 5)  # checks before the first step call it as well
    monkeypatch.setattr(Stopping, "act", staticmethod(act))
    Stopping.calls = 0
    with contextlib.suppress(MemoryError):
        solve(problem, net_for(problem), **options)
    monkeypatch.setattr(Stopping, "stop", None)
    return whole


def fail():
    raise MemoryError


@pytest.mark.parametrize("method", ["lm", "adam"])
def test_an_error_in_the_middle_of_a_step(method, tmp_path, monkeypatch):
    path = tmp_path / "run.pt"
    whole = stopped(monkeypatch, fail, method=method, iterations=20, checkpoint=path, every_seconds=0)
    assert run_state.load(path)["state"]["done"] > 0
    assert_same(resume(path, problem=Stopping()), whole)


def test_a_second_interrupt_does_not_wait_and_leaves_the_last_good_state(tmp_path, monkeypatch):
    path = tmp_path / "run.pt"

    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    whole = stopped(monkeypatch, twice, method="adam", iterations=40, checkpoint=path, every_seconds=0)
    assert 0 < run_state.load(path)["state"]["done"] < 40
    assert_same(resume(path, problem=Stopping()), whole)


KILLED = """
import json, os, signal, sys
import torch
from bumpnet_fast import BumpNet
from bumpnet_fast.problems import get
from bumpnet_fast.solvers import solve

torch.set_num_threads(1)
problem = get("poisson")
net = BumpNet(2, (3, 4), problem.domain, dtype="float64").perturb_(0.02, torch.Generator().manual_seed(0))

def die(progress):
    if progress.iteration == int(sys.argv[2]):
        os.kill(os.getpid(), getattr(signal, sys.argv[4]))

solve(problem, net, checkpoint=sys.argv[1], callback=die, **json.loads(sys.argv[3]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM on Windows")
def test_terminated(tmp_path):
    """And so that it loses nothing; test_kill.py does what cannot be caught."""
    problem, path, options = get("poisson"), tmp_path / "run.pt", {"method": "adam", "iterations": 20}
    whole = solve(problem, net_for(problem), **options)
    command = [sys.executable, "-c", KILLED, str(path), "10", json.dumps(options | {"every_seconds": 1000}), "SIGTERM"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 128 + signal.SIGTERM, process.stderr
    assert run_state.load(path)["state"]["done"] == 10
    assert_same(resume(path), whole)
    assert os.listdir(tmp_path) == ["run.pt"]


def test_a_diverged_run_does_not_spoil_its_file(tmp_path):
    @dataclass
    class Cliff(Poisson):
        name = "cliff"
        calls = 0

        def residual(self, x, u):
            Cliff.calls += 1
            return super().residual(x, u) * (float("nan") if Cliff.calls > 25 else 1.0)

    path = tmp_path / "run.pt"
    solution = train(Cliff(), net_for(Cliff()), iterations=100, checkpoint=path, points=150)
    assert solution.stop_reason == "diverged"
    assert torch.isfinite(run_state.load(path)["state"]["best"]["work"]["rows"]).all()
    assert torch.isfinite(solution.net.rows).all() and resume(path, problem=Cliff()).stop_reason == "diverged"


# --- many solves as one run ----------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"graded": 0.5}, {"perturb": 0.01, "refine": 1}], ids=str)
def test_a_march_goes_on_in_its_window(options, tmp_path):
    problem, path = get("burgers"), tmp_path / "run.pt"
    options = {"windows": 3, "iterations": 6, "seed": 2} | options
    whole = march(problem, (3, 3), **options)
    for look in (9,):
        stopped = march(problem, (3, 3), checkpoint=path, callback=at_look(look, press), **options)
        assert len(run_state.load(path)["state"]["done"]) == len(stopped.parts) - 1
        assert_same(resume(path), whole)


def test_a_march_whose_window_is_solved_afresh(tmp_path, monkeypatch):
    monkeypatch.setattr(marching, "_BAD_LOSS", 0.0)
    problem, path, options = get("heat"), tmp_path / "run.pt", {"windows": 3, "iterations": 4}
    shares = []
    whole = march(problem, (3, 3), callback=lambda progress: shares.append(progress.share), **options)
    assert shares == sorted(shares) and shares[-1] == 1
    for look in range(12, 14):  # in the second window: the first solve, and the one afresh
        stopped = march(problem, (3, 3), checkpoint=path, callback=at_look(look, press), **options)
        assert stopped.stop_reason == "interrupted" and len(stopped.parts) == 2
        assert_same(resume(path), whole)


@pytest.mark.parametrize("name", ["march", "prune"])
def test_methods_that_are_objects_are_known_to_the_file_of_many_solves(name, tmp_path):
    path, method = tmp_path / "run.pt", VarPro(tolerance=0.0, damping=2.0)

    def begin(**follow):
        follow |= {"method": method, "iterations": 4}
        if name == "march":
            return march(get("heat"), (3, 3), windows=2, **follow)
        return prune(get("poisson"), net_for(get("poisson")), 8, **follow)

    begin(checkpoint=path, callback=at_look(6, press))
    assert_same(resume(path), begin())


def test_bumps_that_a_finished_solve_has_taken_out_stay_out(tmp_path):
    problem, path = get("poisson"), tmp_path / "run.pt"
    options = {"method": "adam", "prune_threshold": 0.9, "prune_every": 5, "prune_least": 9, "log_every": 5}

    def begin(**follow):
        return prune(problem, net_for(problem), 7, iterations=20, **options, **follow)

    whole = begin()
    assert len({event.step for event in whole.events}) > 2
    begin(checkpoint=path, callback=at_look(8, press))
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


RUNS = {"squares": {"iterations": 9}, "adam": {"method": "adam+lbfgs", "iterations": (5, 5), "log_every": 1}}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    path, problem = tmp_path_factory.mktemp("run") / "run.pt", get("poisson")
    contents = {}
    for name, options in RUNS.items():
        solve(problem, net_for(problem), checkpoint=path, callback=interrupt_at(6), points=150, **options)
        contents[name] = path.read_bytes()
    return contents


@pytest.fixture(params=RUNS)
def path(request, files, tmp_path):
    """The file of a run that was interrupted after 6 iterations."""
    (tmp_path / "run.pt").write_bytes(files[request.param])
    return tmp_path / "run.pt"


def changed(content, **changes):
    return {key: value for key, value in (content | changes).items() if value != "left out"}


def test_the_file_is_plain_data(path):
    content = torch.load(path, weights_only=True)
    assert (content["kind"], content["version"], content["solver"]) == ("run", run_state.VERSION, "solve")
    assert content["problem"] == {"name": "poisson", "settings": run_state.described(get("poisson"))["settings"]}
    assert content["settings"]["iterations"] in (9, (5, 5)) and len(content["state"]["history"]) == 7


@pytest.mark.parametrize(("change", "message"), [
    ({"version": 99}, "has format 99"),
    ({"kind": "sweep"}, "holds a sweep, not a run"),
    ({"solver": "guess"}, "holds a run of 'guess', which this version does not know"),
    ({"settings": "left out"}, "is damaged: it has no settings"),
    ({"net": {}}, "is damaged: 'device'"),
    ({"state": {}}, "is damaged: 'stage'"),
    ({"state": 3}, "is damaged"),
    ({"problem": {"name": "mine", "settings": {}}}, r"needs its problem, unknown problem 'mine'.*problem=\.\.\."),
])  # fmt: skip
def test_damaged_files_are_refused(change, message, path):
    torch.save(changed(torch.load(path, weights_only=True), **change), path)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=message) as error:
        resume(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert path.read_bytes() == before


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")
@pytest.mark.parametrize("part", ["work", "method", "stage", "done", "random", "best", "history"])
@pytest.mark.parametrize("value", [{}, torch.zeros(5, dtype=torch.float64), "none"], ids=["empty", "tensor", "text"])
def test_a_state_with_something_else_in_it_is_refused(part, value, path):
    content = torch.load(path, weights_only=True)
    content["state"][part] = value
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="is damaged"):
        resume(path)


def test_no_changed_byte_goes_unnoticed(files, tmp_path):
    path, problem, draw, good = tmp_path / "run.pt", get("poisson"), random.Random(0), files["squares"]
    whole = solve(problem, net_for(problem), points=150, **RUNS["squares"])
    noticed = 0
    for _ in range(40):
        at, content = draw.randrange(len(good)), bytearray(good)
        content[at] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
        try:
            solution = resume(path)
        except CheckpointError as error:
            noticed += "\n" not in str(error)
        else:  # it was in the padding
            noticed += torch.equal(solution.net.rows, whole.net.rows)
    assert noticed == 40


@pytest.mark.parametrize("size", [0, 100, -300])
def test_a_truncated_file_is_refused(size, path):
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match="is not a checkpoint, or is damaged"):
        resume(path)


@pytest.mark.parametrize(("options", "message"), [
    ({"problem": get("helmholtz")}, "about another problem: .*poisson.*, not .*helmholtz"),
    ({"problem": get("poisson", a1=2)}, "about another problem"),
    ({"ridge": 1.0}, "a run of 'solve' that is resumed takes iterations, max_seconds.*, got ridge"),
    ({"every_seconds": -1}, "every_seconds must be at least 0, got -1"),
    ({"max_seconds": 0}, "max_seconds must be positive, got 0"),
    ({"iterations": -1}, "iterations must be an integer of at least 0"),
    ({"iterations": (1, 2, 3)}, "iterations must be a number or . numbers"),
])  # fmt: skip
def test_wrong_options_leave_the_file_alone(options, message, path):
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        resume(path, **options)
    assert path.read_bytes() == before


def test_what_cannot_be_stored_is_said_before_the_work(tmp_path):
    class Nameless(Method):
        pass

    problem, path = get("poisson"), tmp_path / "run.pt"
    with pytest.raises(ValueError, match="checkpoint can keep numbers, strings and tensors, not object"):
        march(get("advection"), (3, 3), windows=2, net={"device": object()}, checkpoint=path)
    for function in (solve, lambda *a, **o: prune(*a, 8, **o)):
        with pytest.raises(ValueError, match=r"method must have a name of its own for a checkpoint: set Nameless.name"):
            function(problem, net_for(problem), method=Nameless(), checkpoint=path)
    assert not os.listdir(tmp_path)


def test_a_saved_model_is_not_a_run(tmp_path):
    problem = get("poisson")
    save(tmp_path / "model.pt", net_for(problem), problem=problem, boundary="hard")
    with pytest.raises(CheckpointError, match=r"model.pt holds a model, not a run"):
        resume(tmp_path / "model.pt")
    with pytest.raises(FileNotFoundError):
        resume(tmp_path / "nothing.pt")


def test_a_device_that_is_not_here(path, monkeypatch):
    content = torch.load(path, weights_only=True)
    torch.save(changed(content, net=content["net"] | {"device": "cuda:0"}), path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(CheckpointError, match="the run was on 'cuda:0', and there is no CUDA device here"):
        resume(path)


@pytest.mark.parametrize("name", ["solve", "prune"])
def test_writes_are_seldom(name, tmp_path, monkeypatch):
    written, write = [], run_state.write
    monkeypatch.setattr(run_state, "write", lambda path, content: (written.append(1), write(path, content)))
    problem = Poisson()
    if name == "solve":
        solve(problem, net_for(problem), iterations=20, checkpoint=tmp_path / "run.pt")
    else:
        prune(problem, net_for(problem), 6, iterations=3, checkpoint=tmp_path / "run.pt")
    assert len(written) == 2  # at the start and at the end
