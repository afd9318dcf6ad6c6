"""What any solver does: it is resumed bit for bit, can be interrupted, keeps to limits, tells of itself, and refuses.

A solver joins by an entry of CASES: a function that begins the same run whenever it is called.  Nothing below knows
which solver it tests.
"""

import itertools
import math
import os
import signal
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import pytest
import torch
from toy_solver import RandomRestarts

from bumpnet_fast import BumpNet
from bumpnet_fast.core.files import CheckpointWarning
from bumpnet_fast.io import resume
from bumpnet_fast.problems import get
from bumpnet_fast.solvers import StopReason, grow, march, prune, reach, residual, run_state, solve
from bumpnet_fast.solvers.task import Task


@dataclass(frozen=True)
class Case:
    """A solver in the hands of the tests.

    Attributes
    ----------
    begin : callable
        ``begin(**follow)`` begins the same run at every call, with further arguments of the solver.
    problem
        Given to ``resume``.
    iterations : int or None
        That the limits allow, all of which the run takes; None where it ends by itself.
    stop : StopReason
        Why it ends.
    shares : bool
        Whether it is known how much of the run is done.
    late : StopReason
        Why it ends if there is no time at all; for TIME it is the same run again after it was resumed.
    best : bool
        Whether the loss of the result is the least of the history.
    refused : dict
        Further arguments that must be refused, by message.
    """

    begin: Callable[..., Any]
    problem: Any
    iterations: int | None
    stop: StopReason = StopReason.ITERATIONS
    shares: bool = True
    late: StopReason = StopReason.TIME
    best: bool = False
    refused: dict[str, dict[str, Any]] = field(default_factory=dict)


def net_for(problem, bumps):
    net = BumpNet(len(problem.lower), bumps, problem.domain, problem.outputs, dtype="float64")
    return net.perturb_(0.05, torch.Generator().manual_seed(0))


#: What no solver of problems takes, by what it says.
REFUSED = {
    "has no option 'nonsense'; there are: .*iterations": {"nonsense": 1},
    "boundary must be one of hard, soft, got 'firm'": {"boundary": "firm"},
    "points must be": {"points": -1},
    "sampling must be one of .* got 'halton'": {"sampling": "halton"},
    "every_seconds must be at least 0, got -1": {"every_seconds": -1},
    "max_seconds must be positive, got 0": {"max_seconds": 0},
    "seed must be an integer of at least 0, got 'a'": {"seed": "a"},
    "iterations must be an integer of at least .*, got 1.5": {"iterations": 1.5},
}


def solved(name="poisson", iterations=12, bumps=(3, 3), refused=None, best=True, **options):
    """A case of ``solve``."""
    problem, total = get(name), sum(iterations) if isinstance(iterations, tuple) else iterations
    options |= {"iterations": iterations, "points": 80}
    refused = REFUSED | (refused or {})
    if not isinstance(options["method"], str):  # a message of its own
        refused = {key: value for key, value in refused.items() if "nonsense" not in value}
        refused["nonsense must be an option of the method, which is given as an object"] = {"nonsense": 1}
    if options.get("method") in ("auto", "varpro", "gauss-newton", "lm"):
        options["tolerance"] = 0.0

    def begin(**follow):
        return solve(problem, net_for(problem, bumps), **options | follow)

    return Case(begin, problem, total, best=best, refused=refused)


def searched(search, target, total, stop=StopReason.ITERATIONS, shares=True, **options):
    """A case of ``prune``, ``grow`` or ``reach``."""
    problem, refused = get("poisson"), {key: value for key, value in REFUSED.items() if "seed" not in value}

    def begin(**follow):
        given = {"iterations": 4, "points": 80, "tolerance": 0.0} | options | follow
        if given.get("method") == "adam":
            del given["tolerance"]
        return search(problem, net_for(problem, (3, 3)), target, **given)

    return Case(begin, problem, total, stop, shares, refused=refused)


def marched(iterations, **options):
    """A case of ``march``."""
    problem = get("heat")

    def begin(**follow):
        return march(problem, (3, 3), **{"windows": 2, "iterations": iterations, "points": 80} | options | follow)

    return Case(begin, problem, 2 * iterations, StopReason.MARCHED, late=StopReason.MARCHED, refused=REFUSED)


ADAM = {
    "learning_rate must be positive, got nan": {"learning_rate": math.nan},
    "batch must be an integer of at least 1, got 0": {"batch": 0},
    "resample needs sampling of sobol, uniform, got 'grid'": {"resample": 5},
    "prune_every must be at most 80% .*, 9, got 500": {"prune_threshold": 0.5},
}
SQUARES = {
    "damping must be positive, got 0.0": {"damping": 0.0},
    "tolerance must be at least 0, got inf": {"tolerance": math.inf},
}
SCATTERED = {"batch": 40, "sampling": "uniform", "resample": 5}
PRUNED = {"prune_threshold": 0.97, "prune_every": 4, "prune_least": 4}

CASES = {
    "varpro": solved(method="varpro", refused=SQUARES),
    "varpro, refined": solved(method="varpro", refine=2, best=False),
    "gauss-newton": solved("inverse-heat", method="gauss-newton", refused=SQUARES),
    "lm": solved("inverse-heat", method="lm", refused=SQUARES),
    "adam": solved(method="adam", log_every=2, refused=ADAM),
    "adam on the way": solved(method="adam", iterations=40, best=False, log_every=4, **SCATTERED, **PRUNED),
    "varpro-adam": solved(method="varpro-adam", log_every=2),
    "lbfgs": solved("helmholtz", method="lbfgs", boundary="soft", log_every=2),
    "adam+lbfgs": solved(method="adam+lbfgs", iterations=(7, 6), log_every=2, batch=40),
    "random-restarts": solved(method="random-restarts"),
    "RandomRestarts": solved("inverse-heat", method=RandomRestarts(tries=2, amplitudes="random")),
    "march": marched(6, tolerance=0.0),
    "march by adam": marched(8, method="adam", log_every=2),
    "prune": searched(prune, 6, 16),
    "prune by adam": searched(prune, 7, 12, method="adam", log_every=2),
    "grow": searched(grow, 13, 12),
    "reach": searched(reach, 2e-1, None, StopReason.REACHED, shares=False, iterations=3),
}  # fmt: skip

every = pytest.mark.parametrize("name", CASES)


@lru_cache
def whole(name):
    """The run as it goes when nothing happens to it, and what its callback was told."""
    told = []
    return CASES[name].begin(callback=told.append), told


def without_seconds(history):
    return [{key: value for key, value in entry.items() if key != "seconds"} for entry in history]


def assert_same(result, wanted):
    assert torch.equal(result.net.rows, wanted.net.rows)
    assert without_seconds(result.history) == without_seconds(wanted.history)
    for key in ("loss", "rel_l2", "max_error", "iterations", "stop", "method", "unknowns", "events", "warnings"):
        assert getattr(result, key, None) == getattr(wanted, key, None), key


def at_look(number, act):
    """A callback that acts at the look of this number."""
    looks = itertools.count()

    def callback(progress):
        if next(looks) == number:
            act()

    return callback


def press():
    raise KeyboardInterrupt


def send():
    os.kill(os.getpid(), signal.SIGINT)


def look(name, when):
    """The number of an early look, or of a late one."""
    return 1 if when == "early" else len(whole(name)[1]) - 2


# --- the course of a run ---------------------------------------------------------------------------


@every
def test_a_run_takes_the_iterations_that_it_may_and_says_why_it_ends(name):
    result, case = whole(name)[0], CASES[name]
    assert result.stop is case.stop and result.stop_reason == case.stop.value
    assert case.iterations is None or result.iterations == case.iterations
    assert result.history[-1]["iteration"] == result.iterations > 0
    if case.best:
        assert result.loss == min(entry["loss"] for entry in result.history)


@every
def test_callbacks_are_told_once_per_look_and_in_order(name):
    (result, told), case = whole(name), CASES[name]
    keys = ("iteration", "loss", "rel_l2")
    assert [[getattr(p, key) for key in keys] for p in told] == [[e.get(key) for key in keys] for e in result.history]
    assert without_seconds(p.entry for p in told) == without_seconds(result.history)
    iterations, seconds = ([getattr(p, key) for p in told] for key in ("iteration", "seconds"))
    assert iterations == sorted(iterations) and seconds == sorted(seconds) and seconds[-1] <= result.seconds
    shares = [p.share for p in told]
    if case.shares:
        assert shares == sorted(shares) and shares[0] >= 0 and shares[-1] == 1 and len(set(shares)) > 4
    else:
        assert set(shares) == {None}
    assert all({"stage", "bumps"} <= entry.keys() for entry in result.history)


@every
def test_a_callback_is_given_the_bumps_of_the_moment(name):
    sizes = []
    result = CASES[name].begin(callbacks=[lambda p: sizes.append((len(p.net().rows), p.entry["bumps"]))])
    assert all(net == noted for net, noted in sizes) and len(sizes) == len(result.history)


@every
def test_the_time_that_is_allowed(name, tmp_path):
    case, path = CASES[name], tmp_path / "run.pt"
    stopped = case.begin(max_seconds=1e-9, checkpoint=path)
    assert stopped.stop is case.late and stopped.iterations == 0 and math.isfinite(stopped.loss)
    if case.late is StopReason.TIME:
        assert_same(resume(path, problem=case.problem), whole(name)[0])


@every
def test_an_error_of_a_callback_passes_through(name):
    def broken(progress):
        raise ArithmeticError("mine")

    with pytest.raises(ArithmeticError, match="mine"):
        CASES[name].begin(callback=broken)


# --- interrupted and resumed -----------------------------------------------------------------------


@pytest.mark.parametrize("when", ["early", "late"])
@every
def test_an_interrupted_run_is_resumed_bit_for_bit(name, when, tmp_path):
    case, path, (wanted, looks) = CASES[name], tmp_path / "run.pt", whole(name)
    stopped = case.begin(checkpoint=path, callback=at_look(look(name, when), press))
    assert stopped.stop is StopReason.INTERRUPTED and stopped.iterations < wanted.iterations
    torch.rand(7)  # whatever happens between
    told = []
    assert_same(resume(path, problem=case.problem, callback=told.append), wanted)
    assert len(told) == len(looks) - 1 - look(name, when)  # nothing is told twice
    assert_same(resume(path, problem=case.problem, callback=pytest.fail), wanted)  # a finished run is finished
    assert os.listdir(tmp_path) == ["run.pt"]


@pytest.mark.parametrize("when", ["early", "late"])
@every
def test_ctrl_c_and_an_interrupting_callback_keep_the_best(name, when):
    case = CASES[name]
    pressed, sent = (case.begin(callback=at_look(look(name, when), act)) for act in (press, send))
    assert_same(sent, pressed)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert pressed.stop is StopReason.INTERRUPTED and bool(torch.isfinite(pressed.net.rows).all())
    assert without_seconds(pressed.history) == without_seconds(whole(name)[0].history)[: len(pressed.history)]
    if case.best:
        assert pressed.loss == min(entry["loss"] for entry in pressed.history)
        points = pressed.problem, pressed.net, pressed.boundary
        task = Task(*points).collocate(80)
        task.balance = pressed.places.balance  # of the start
        task.unknowns = torch.tensor([*pressed.unknowns.values()], dtype=torch.float64)
        assert task.loss() == pytest.approx(pressed.loss, rel=1e-4)  # but for the ridge


@pytest.mark.parametrize("share", [0.4, 0.9])
@every
def test_an_interrupt_in_the_middle_of_a_step(name, share, tmp_path, monkeypatch):
    """Or in the middle of what a solver does between its steps."""
    case, path, calls, at = CASES[name], tmp_path / "run.pt", itertools.count(), None

    def counted(function):
        def call(*arguments, **options):
            if next(calls) == at:
                send()
            return function(*arguments, **options)

        return call

    for function in ("bump_design", "bump_jet"):  # one of which any step calls
        monkeypatch.setattr(residual, function, counted(getattr(residual, function)))
    case.begin()
    at, calls = int(share * next(calls)), itertools.count()
    stopped = case.begin(checkpoint=path)
    assert stopped.stop is StopReason.INTERRUPTED and stopped.iterations <= whole(name)[0].iterations
    assert stopped.history and bool(torch.isfinite(stopped.net.rows).all()) and math.isfinite(stopped.loss)
    assert_same(resume(path, problem=case.problem), whole(name)[0])


# --- the file ----------------------------------------------------------------------------------------


@every
def test_storing_changes_nothing_and_a_full_disk_only_warns(name, tmp_path, full_disk):
    case, path, looks = CASES[name], tmp_path / "run.pt", itertools.count()

    def callback(progress):
        full_disk.full = 2 <= next(looks) < 4

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        result = case.begin(checkpoint=path, every_seconds=0, callback=callback)
    assert_same(result, whole(name)[0])
    (message,) = [str(w.message) for w in told if w.category is CheckpointWarning]
    assert message.startswith(f"cannot write {path}: No space left on device (")
    assert message.endswith("what was there before is untouched); the run continues and tries again")
    assert os.listdir(tmp_path) == ["run.pt"]
    assert_same(resume(path, problem=case.problem), whole(name)[0])


@every
def test_a_disk_that_is_full_to_the_end_leaves_an_older_state(name, tmp_path, full_disk):
    case, path, looks = CASES[name], tmp_path / "run.pt", itertools.count()

    def callback(progress):
        full_disk.full = next(looks) >= 3

    with pytest.warns(CheckpointWarning) as told:
        result = case.begin(checkpoint=path, every_seconds=0, callback=callback)
    assert_same(result, whole(name)[0])
    assert str(told[-1].message) == f"the end of the run could not be written: what is in {path} is older"
    full_disk.full = False
    assert_same(resume(path, problem=case.problem), whole(name)[0])


@every
def test_a_file_that_cannot_be_written_is_an_error_before_any_work(name, tmp_path, full_disk):
    full_disk.full = True
    with pytest.raises(OSError, match="No space left on device"):
        CASES[name].begin(checkpoint=tmp_path / "run.pt", callback=pytest.fail)
    full_disk.full = False
    with pytest.raises(FileNotFoundError):
        CASES[name].begin(checkpoint=tmp_path / "nowhere" / "run.pt", callback=pytest.fail)
    assert os.listdir(tmp_path) == []


@every
def test_the_file_is_plain_data_that_says_what_the_run_is(name, tmp_path):
    path = tmp_path / "run.pt"
    CASES[name].begin(checkpoint=path, max_seconds=1e-9)
    content = torch.load(path, weights_only=True)
    assert (content["kind"], content["version"]) == ("run", run_state.VERSION)
    assert content["problem"] == run_state.described(CASES[name].problem)


# --- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "message"), [(name, m) for name, case in CASES.items() for m in case.refused])
def test_wrong_arguments_are_named_before_anything_happens(name, message, tmp_path):
    options = CASES[name].refused[message]
    kind = TypeError if "nonsense" in options else ValueError
    with pytest.raises(kind, match=message):
        CASES[name].begin(**{"checkpoint": tmp_path / "run.pt", "callback": pytest.fail} | options)
    assert os.listdir(tmp_path) == []


# --- the result --------------------------------------------------------------------------------------


@every
def test_the_result_is_a_function_with_a_report(name):
    result, _ = whole(name)
    problem = result.problem
    assert isinstance(result.net, BumpNet) and type(problem) is type(CASES[name].problem)
    assert isinstance(result.stop, StopReason) and result.stop.message and result.stop == result.stop_reason
    assert result.seconds >= result.history[-1]["seconds"] >= 0 and result.processor_seconds >= 0
    assert result.warnings == [] and result.method
    x = torch.tensor([[0.25, 0.5], [0.5, 0.125]], dtype=torch.float64)
    jet = result.jet(x)
    assert jet.want == "hessian" and jet.second.shape == (2, 1, 2, 2)
    assert result.jet(x, "gradient").want == "gradient"
    values = result.predict(x)
    torch.testing.assert_close(values, jet.value.detach(), rtol=1e-12, atol=1e-12)
    for given in (x.numpy(), x.tolist(), [tuple(point) for point in x.tolist()]):
        assert torch.equal(result.predict(given), values)
    assert torch.equal(result(x), values) and not values.requires_grad
    assert result.predict(x.float()).dtype == torch.float32
    x.requires_grad_()
    assert not result.predict(x).requires_grad
    (slope,) = torch.autograd.grad(result.predict(x, grad=True).sum(), x)
    torch.testing.assert_close(slope, result.jet(x, "gradient").gradient[:, 0], rtol=1e-9, atol=1e-9)
