"""A training that was stopped, however, and resumed ends with the very rows of one that was not."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from cases import Cubic

from bumpnet_fast import BumpNet
from bumpnet_fast.io.saved import CheckpointError, resume, save
from bumpnet_fast.problems import Poisson, get
from bumpnet_fast.solvers import first_order, run_state, train

ROOT = Path(__file__).parents[2]

SMALL = {"points": 150, "learning_rate": 0.03}
CASES = {
    "adam": {"iterations": 60},
    "batches": {"iterations": 60, "batch": 40},
    "new points": {"iterations": 60, "batch": 40, "sampling": "uniform", "resample": 13},
    "pruning": {"iterations": 60, "prune_threshold": 0.97, "prune_every": 24, "prune_least": 5},
    "varpro-adam": {"iterations": 40, "method": "varpro-adam"},
    "pruned varpro-adam": {
        "iterations": 40, "method": "varpro-adam", "prune_threshold": 0.5, "prune_every": 12, "prune_least": 5,
    },
    "lbfgs": {"iterations": 40, "method": "lbfgs", "boundary": "soft"},
    "chain": {"iterations": (30, 30), "method": "adam+lbfgs", "batch": 64},
    "long chain": {"iterations": (15, 11, 20), "method": "varpro-adam+lbfgs+adam", "log_every": 5},
}  # fmt: skip


def net_for(problem, dtype="float64", bumps=(3, 4)):
    bumps = bumps if len(problem.lower) == 2 else 8
    return BumpNet(len(problem.lower), bumps, problem.domain, dtype=dtype).perturb_(
        0.02, torch.Generator().manual_seed(0)
    )


def interrupt_at(iteration):
    def callback(progress):
        if progress.iteration == iteration:
            raise KeyboardInterrupt

    return callback


def assert_same(solution, whole):
    assert torch.equal(solution.net.rows, whole.net.rows)
    assert (solution.loss, solution.unknowns, solution.events) == (whole.loss, whole.unknowns, whole.events)
    assert (solution.stop_reason, solution.iterations) == (whole.stop_reason, whole.iterations)
    histories = [[{k: v for k, v in e.items() if k != "seconds"} for e in s.history] for s in (solution, whole)]
    assert histories[0] == histories[1]
    seconds = [entry["seconds"] for entry in solution.history]
    assert seconds == sorted(seconds) and solution.seconds >= seconds[-1]


@pytest.mark.parametrize("stops", [(10,), (30,), (20, 40)], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_interrupted_by_a_callback(case, stops, tmp_path):
    problem, options = get("poisson"), SMALL | CASES[case]
    whole = train(problem, net_for(problem), **options)
    path = tmp_path / "run.pt"
    stopped = train(problem, net_for(problem), checkpoint=path, callback=interrupt_at(stops[0]), **options)
    assert stopped.stop_reason == "interrupted" and stopped.iterations == stops[0]
    torch.rand(7)  # whatever happens between
    for stop in stops[1:]:
        assert resume(path, callback=interrupt_at(stop)).iterations in (stop, whole.iterations)
    assert_same(resume(path), whole)
    assert os.listdir(tmp_path) == ["run.pt"]


def test_the_cases_prune_where_they_say_so():
    for case, options in CASES.items():
        solution = train(get("poisson"), net_for(get("poisson")), **SMALL, **options)
        assert bool(solution.events) == ("prune_threshold" in options), case


@dataclass
class Stopping(Poisson):
    """Sends a signal to its own process in the middle of the step of its n-th residual."""

    name = "stopping"
    signals = ()
    calls = 0

    def residual(self, x, u):
        Stopping.calls += 1
        for at, number in self.signals:
            if Stopping.calls == at:
                os.kill(os.getpid(), number)
        return super().residual(x, u)


@pytest.mark.parametrize("method", ["adam", "lbfgs"])
def test_interrupted_in_the_middle_of_a_step(method, tmp_path, monkeypatch):
    problem, options = Stopping(), SMALL | {"iterations": 40, "method": method}
    whole = train(problem, net_for(problem), **options)
    monkeypatch.setattr(Stopping, "signals", ((30, signal.SIGINT),))
    Stopping.calls = 0
    stopped = train(problem, net_for(problem), checkpoint=tmp_path / "run.pt", **options)
    assert stopped.stop_reason == "interrupted" and 0 < stopped.iterations < 40
    if method == "adam":
        assert stopped.iterations % 10  # not where the loss is looked at anyway
    assert_same(resume(tmp_path / "run.pt", problem=problem), whole)


def test_a_second_interrupt_does_not_wait_and_leaves_the_last_good_state(tmp_path, monkeypatch):
    problem, options = Stopping(), SMALL | {"iterations": 40}
    whole = train(problem, net_for(problem), **options)
    monkeypatch.setattr(Stopping, "signals", ((30, signal.SIGINT), (30, signal.SIGINT)))
    Stopping.calls = 0
    stopped = train(problem, net_for(problem), checkpoint=tmp_path / "run.pt", every=8, **options)
    assert stopped.stop_reason == "interrupted"
    assert run_state.load(tmp_path / "run.pt")["progress"]["taken"] in (16, 24)
    assert torch.isfinite(stopped.net.rows).all()
    assert_same(resume(tmp_path / "run.pt", problem=problem), whole)


def test_stopped_by_time(tmp_path):
    problem, options = get("poisson"), SMALL | {"iterations": 400}
    whole = train(problem, net_for(problem), **options)
    stopped = train(problem, net_for(problem), checkpoint=tmp_path / "run.pt", max_seconds=0.05, **options)
    assert stopped.stop_reason == "time" and stopped.iterations < 400
    assert_same(resume(tmp_path / "run.pt"), whole)


KILLED = """
import json, os, signal, sys
import torch
from bumpnet_fast import BumpNet
from bumpnet_fast.problems import get
from bumpnet_fast.solvers import train

torch.set_num_threads(1)
problem = get("poisson")
net = BumpNet(2, (3, 4), problem.domain, dtype="float64").perturb_(0.02, torch.Generator().manual_seed(0))

def die(progress):
    if progress.iteration == int(sys.argv[2]):
        os.kill(os.getpid(), getattr(signal, sys.argv[4]))

options = json.loads(sys.argv[3])
train(problem, net, checkpoint=sys.argv[1], every=7, callback=die, **options)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
@pytest.mark.parametrize(("case", "at"), [("pruning", 30), ("chain", 40)])
def test_killed(case, at, tmp_path):
    problem, path = get("poisson"), tmp_path / "run.pt"
    options = SMALL | CASES[case]
    whole = train(problem, net_for(problem), **options)
    command = [sys.executable, "-c", KILLED, str(path), str(at), json.dumps(options), "SIGKILL"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert 0 < run_state.load(path)["progress"]["taken"] <= at
    assert_same(resume(path), whole)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM on Windows")
def test_terminated(tmp_path):
    problem, path = get("poisson"), tmp_path / "run.pt"
    options = SMALL | {"iterations": 60}
    whole = train(problem, net_for(problem), **options)
    command = [sys.executable, "-c", KILLED, str(path), "30", json.dumps(options), "SIGTERM"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 128 + signal.SIGTERM, process.stderr
    assert run_state.load(path)["progress"]["taken"] == 30  # not 28, where it is written anyway
    assert_same(resume(path), whole)


def test_float32_and_unknowns(tmp_path):
    @dataclass
    class Unknown(Cubic):
        name = "unknown"
        unknowns = {"k": 0.3}

        def residual(self, x, u, k):
            return super().residual(x, u) + (k - 1) * u.value

    problem, options = Unknown(), SMALL | {"method": "adam+lbfgs", "iterations": 30}
    whole = train(problem, net_for(problem, "float32"), **options)
    for stop in (20, 40):
        callback, path = interrupt_at(stop), tmp_path / f"{stop}.pt"
        train(problem, net_for(problem, "float32"), checkpoint=path, callback=callback, **options)
        solution = resume(path, problem=problem)
        assert solution.net.rows.dtype == torch.float32
        assert_same(solution, whole)


def test_random_numbers_of_the_residual_go_on(tmp_path):
    @dataclass
    class Noisy(Poisson):
        name = "noisy"

        def residual(self, x, u):
            return super().residual(x, u) + 0.01 * torch.randn(len(x), dtype=x.dtype)

    problem, options = Noisy(), SMALL | {"iterations": 40}
    torch.manual_seed(5)
    whole = train(problem, net_for(problem), **options)
    torch.manual_seed(5)
    train(problem, net_for(problem), checkpoint=tmp_path / "run.pt", callback=interrupt_at(20), **options)
    torch.manual_seed(6)
    assert_same(resume(tmp_path / "run.pt", problem=problem), whole)


# --- going on with a finished run ----------------------------------------------------------------


@pytest.mark.parametrize("method", ["adam", "lbfgs"])
def test_a_finished_run_is_finished(method, tmp_path):
    problem, path = get("poisson"), tmp_path / "run.pt"
    whole = train(problem, net_for(problem), method=method, iterations=25, checkpoint=path, **SMALL)
    assert_same(resume(path), whole)


def test_a_run_that_went_as_far_as_it_could_has_not_moved(tmp_path):
    problem, path = get("poisson"), tmp_path / "run.pt"
    options = SMALL | {"method": "lbfgs", "iterations": 3000}
    whole = train(problem, net_for(problem, "float32", (2, 2)), checkpoint=path, **options)
    assert whole.stop_reason == "no further decrease"
    assert resume(path).loss <= whole.loss


def test_more_iterations(tmp_path):
    problem, path = get("poisson"), tmp_path / "run.pt"
    first = train(problem, net_for(problem), method="adam+lbfgs", iterations=(20, 20), checkpoint=path, **SMALL)
    longer = resume(path, iterations=(20, 60))
    assert longer.iterations == 80 and longer.loss < first.loss
    assert run_state.load(path)["settings"]["iterations"] == (20, 60)
    whole = train(problem, net_for(problem), method="adam+lbfgs", iterations=(20, 60), **SMALL)
    assert torch.equal(longer.net.rows, whole.net.rows)
    assert [e["loss"] for e in longer.history] == [e["loss"] for e in whole.history]


@pytest.mark.parametrize(("options", "message"), [
    ({"iterations": (20, 5)}, "iterations must be at least 20 of 'lbfgs', which are done, got 5"),
    ({"iterations": (1, 2, 3)}, "iterations must be a number or 2 numbers"),
    ({"iterations": -1}, "iterations must be an integer of at least 0"),
    ({"max_seconds": -1.0}, "max_seconds must be positive"),
    ({"every": 0}, "every must be an integer of at least 1"),
    ({"problem": get("helmholtz")}, "about another problem: .*poisson.*, not .*helmholtz"),
    ({"problem": get("poisson", a1=2)}, "about another problem"),
])  # fmt: skip
def test_wrong_options_leave_the_file_alone(options, message, tmp_path):
    problem, path = get("poisson"), tmp_path / "run.pt"
    train(problem, net_for(problem), method="adam+lbfgs", iterations=20, checkpoint=path, **SMALL)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        resume(path, **options)
    assert path.read_bytes() == before


# --- the file ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path, problem = tmp_path_factory.mktemp("run") / "run.pt", get("poisson")
    train(problem, net_for(problem), method="adam+lbfgs", iterations=20, checkpoint=path, **SMALL)
    return path.read_bytes()


def changed(content, **changes):
    return {key: value for key, value in (content | changes).items() if value != "left out"}


def test_the_file_is_plain_data(good, tmp_path):
    (tmp_path / "run.pt").write_bytes(good)
    content = torch.load(tmp_path / "run.pt", weights_only=True)
    assert content["kind"] == "run" and content["version"] == run_state.VERSION
    assert content["problem"] == {"name": "poisson", "settings": run_state.described(get("poisson"))["settings"]}
    assert content["progress"]["taken"] == 40 and content["settings"]["method"] == "adam+lbfgs"


@pytest.mark.parametrize(("change", "message"), [
    ({"version": 99}, "has format 99"),
    ({"kind": "sweep"}, "holds a sweep, not a run"),
    ({"best": "left out"}, "is damaged: it has no best"),
    ({"settings": {"method": "adam"}}, "is damaged: .*missing"),
    ({"progress": {}}, "is damaged: 'stage'"),
    ({"stage": {}}, "is damaged: 'optimizer'"),
    ({"problem": {"name": "mine", "settings": {}}}, r"needs its problem, unknown problem 'mine'.*problem=\.\.\."),
])  # fmt: skip
def test_damaged_files_are_refused(change, message, good, tmp_path):
    path = tmp_path / "run.pt"
    path.write_bytes(good)
    torch.save(changed(torch.load(path, weights_only=True), **change), path)
    with pytest.raises(CheckpointError, match=message) as error:
        resume(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("size", [0, 100, -300])
def test_a_truncated_file_is_refused(size, good, tmp_path):
    (tmp_path / "run.pt").write_bytes(good[:size])
    with pytest.raises(CheckpointError, match="is not a checkpoint, or is damaged"):
        resume(tmp_path / "run.pt")


def test_a_saved_model_is_not_a_run(tmp_path):
    problem = get("poisson")
    save(tmp_path / "model.pt", net_for(problem), problem=problem, boundary="hard")
    with pytest.raises(CheckpointError, match=r"model.pt holds a model, not a run"):
        resume(tmp_path / "model.pt")
    with pytest.raises(FileNotFoundError):
        resume(tmp_path / "nothing.pt")


def test_a_device_that_is_not_here(good, tmp_path, monkeypatch):
    path = tmp_path / "run.pt"
    path.write_bytes(good)
    content = torch.load(path, weights_only=True)
    torch.save(changed(content, net=content["net"] | {"device": "cuda:0"}), path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="the run was on 'cuda:0', and there is no CUDA device here"):
        first_order.resume(path, get("poisson"))


def test_a_diverged_run_does_not_spoil_its_file(tmp_path):
    @dataclass
    class Cliff(Poisson):
        name = "cliff"
        calls = 0

        def residual(self, x, u):
            Cliff.calls += 1
            return super().residual(x, u) * (float("nan") if Cliff.calls > 25 else 1.0)

    path = tmp_path / "run.pt"
    solution = train(Cliff(), net_for(Cliff()), iterations=100, checkpoint=path, every=5, **SMALL)
    assert solution.stop_reason == "diverged"
    assert torch.isfinite(run_state.load(path)["net"]["rows"]).all()
