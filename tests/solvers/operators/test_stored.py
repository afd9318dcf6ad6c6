"""A training of an operator that was stopped and resumed ends with the very net of one that was not."""

import functools
import itertools

import pytest
import torch
from torch import nn

from bumpnet_fast import BumpDeepONet
from bumpnet_fast.core.files import CheckpointError
from bumpnet_fast.io import resume
from bumpnet_fast.problems.operators import get_operator
from bumpnet_fast.solvers import run_state
from bumpnet_fast.solvers.operators import learn, task

SMALL = {"functions": 60, "test_functions": 20, "trunk_iterations": 12, "iterations": 40, "batch": 32}
CASES = {
    "linear": ("antiderivative", (), {}),
    "converged": ("antiderivative", (), {"tolerance": 0.5}),
    "two steps": ("burgers", (12,), {}),
    "two steps, polished": ("burgers", (12,), {"polish": 50}),
    "adam": ("antiderivative", (), {"method": "adam"}),
    "adam, polished": ("burgers", (12,), {"method": "adam", "polish": 50}),
    "physics": ("antiderivative", (), {"method": "adam", "physics": True}),
    "physics in two steps": ("antiderivative", (12,), {"physics": True}),
}


def net_for(operator, branch, **options):
    periodic = [operator.periodic and axis == 0 for axis in range(operator.domain.shape[1])]
    torch.manual_seed(0)
    return BumpDeepONet(
        operator.sensors, 6, operator.domain, **{"branch": branch, "dtype": "float64"} | options, periodic=periodic
    )


def run(case, **follow):
    name, branch, options = CASES[case]
    operator = get_operator(name)
    return learn(operator, net_for(operator, branch), **SMALL | options | follow)


def interrupt_at(number, error=KeyboardInterrupt):
    """Raise at the ``number``-th call."""
    calls = itertools.count()

    def callback(progress):
        if next(calls) == number:
            raise error

    return callback


whole_run = functools.cache(run)


def assert_same(solution, whole):
    states = [s.net.state_dict() for s in (solution, whole)]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    for name in ("loss", "rel_l2", "train_rel_l2", "projection_rel_l2", "iterations", "stop_reason", "method"):
        assert getattr(solution, name) == getattr(whole, name), name
    histories = [[{k: v for k, v in e.items() if k != "seconds"} for e in s.history] for s in (solution, whole)]
    assert histories[0] == histories[1]
    seconds = [entry["seconds"] for entry in solution.history]
    assert seconds == sorted(seconds)


@pytest.mark.parametrize("stops", [(0,), (30, 13)], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_interrupted_by_a_callback(case, stops, tmp_path):
    whole, path = whole_run(case), tmp_path / "run.pt"
    assert {"trunk", "branch", "adam", "lbfgs"} >= {entry["stage"] for entry in whole.history}
    stopped = run(case, checkpoint=path, callback=interrupt_at(stops[0]))
    assert (stopped.stop_reason == "interrupted") == (len(whole.history) > stops[0])
    torch.rand(7)  # whatever happens between
    for stop in stops[1:]:
        resume(path, callback=interrupt_at(stop))
    assert_same(resume(path), whole)
    assert_same(resume(path), whole)


def test_every_stage_is_interrupted_somewhere():
    calls = {case: [entry["stage"] for entry in whole_run(case).history] for case in CASES}
    stopped = {stages[stop] for stages in calls.values() for stop in (0, 30) if stop < len(stages)}
    assert stopped == {"trunk", "branch", "adam"}
    assert "lbfgs" in calls["two steps, polished"][30 + 13 :]


def test_interrupted_in_lbfgs(tmp_path):
    whole, path = whole_run("adam, polished"), tmp_path / "run.pt"
    number = [entry["stage"] for entry in whole.history].index("lbfgs")
    run("adam, polished", checkpoint=path, callback=interrupt_at(number))
    assert run_state.load(path)["state"]["stage"] == 1
    assert_same(resume(path), whole)


@pytest.mark.parametrize("case", ["two steps, polished", "linear"])
def test_storing_changes_nothing(case, tmp_path):
    assert_same(run(case, checkpoint=tmp_path / "run.pt", every_seconds=0), whole_run(case))


@pytest.mark.parametrize("case", ["adam", "two steps"])
def test_an_error_in_the_middle_of_a_step_leaves_the_last_good_state(case, tmp_path, monkeypatch):
    whole, path, step, taken = whole_run(case), tmp_path / "run.pt", task.Adam.step, itertools.count()

    def torn(self, most):
        if next(taken) == 30:
            self.optimizer.param_groups[0]["params"][0].data.zero_()
            raise MemoryError
        return step(self, most)

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(task.Adam, "step", torn)
        run(case, checkpoint=path, every_seconds=0)
    assert run_state.load(path)["state"]["method"]["taken"] == 30
    assert_same(resume(path), whole)


@pytest.mark.parametrize("case", ["adam", "two steps"])
def test_stopped_by_time(case, tmp_path):
    path = tmp_path / "run.pt"
    assert run(case, checkpoint=path, max_seconds=1e-9).stop_reason == "time"
    assert_same(resume(path), whole_run(case))


def test_what_the_file_does_not_hold_is_given_again(tmp_path):
    operator, path = get_operator("burgers"), tmp_path / "run.pt"
    data, test = operator.generate(40).split(30)

    def own():
        torch.manual_seed(1)
        layers = nn.Sequential(nn.Linear(operator.sensors, 8), nn.Dropout(0.1), nn.Tanh(), nn.Linear(8, 6))
        return net_for(operator, layers.double())

    options = {"test": test, "method": "adam", "iterations": 40}
    torch.manual_seed(4)
    whole = learn(data, own(), **options)
    torch.manual_seed(4)
    learn(data, own(), **options, checkpoint=path, callback=interrupt_at(20))
    with pytest.raises(CheckpointError, match=r"needs its problem.*pass it as problem="):
        resume(path, net=own(), test=test)
    with pytest.raises(ValueError, match="about another problem"):
        resume(path, problem=test, net=own(), test=test)
    with pytest.raises(ValueError, match="about another test"):
        resume(path, problem=data, net=own())
    with pytest.raises(CheckpointError, match=r"a branch of its own kind; pass one as net=\.\.\."):
        resume(path, problem=data, test=test)
    assert_same(resume(path, problem=data, net=own(), test=test), whole)


@pytest.mark.parametrize(("part", "value"), [
    ("stage", "sweep"), ("stage", "branch"), ("stage", "adam"), ("stage", 7), ("history", None), ("best", {}),
    ("method", {}), ("work", {}), ("net", {}), ("mix", torch.ones(2)), ("random", {}),
])  # fmt: skip
def test_a_state_with_something_else_in_it_is_refused(part, value, tmp_path):
    path = tmp_path / "run.pt"
    run("adam", checkpoint=path, callback=interrupt_at(20))
    content = torch.load(path, weights_only=True)
    (content["state"] if part in content["state"] else content["state"]["work"])[part] = value
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="is damaged"):
        resume(path)


def test_another_operator_is_refused(tmp_path):
    path = tmp_path / "run.pt"
    run("linear", checkpoint=path, callback=interrupt_at(3))
    with pytest.raises(ValueError, match=r"about another problem: .*antiderivative.*, not .*burgers"):
        resume(path, problem=get_operator("burgers"))
    with pytest.raises(ValueError, match=r"takes max_seconds, net, test, .*, callbacks, got iterations"):
        resume(path, iterations=3)
