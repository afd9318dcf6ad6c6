"""An evolution that was stopped and resumed has the very states of one that was not."""

import functools
import itertools

import pytest
import torch

from bumpnet_fast import use_backend
from bumpnet_fast.core.files import CheckpointError
from bumpnet_fast.io import resume
from bumpnet_fast.problems.evolution import get_evolution
from bumpnet_fast.solvers import evolve, run_state
from bumpnet_fast.solvers.evolution import integrators
from bumpnet_fast.solvers.evolution.integrators import SCIPY

CASES = {
    "expm": ("heat", {"times": [0.01, 0.013, 0.2, 0.4, 0.6, 0.8, 1.0]}),
    "cn": ("heat", {"method": "cn", "tolerance": 1e-4}),
    "rk4": ("advection", {"method": "rk4", "tolerance": 1e-4}),
    "rk4 steps": ("advection", {"method": "rk4", "step": 0.005}),
    "etdrk4": ("burgers", {"method": "etdrk4", "tolerance": 1e-4}),
    **{name: ("burgers", {"method": name, "tolerance": 1e-5}) for name in SCIPY},
    "fitted": ("advection", {"initial_shapes": "fit"}),
    "moving": ("advection", {"shapes": "evolve", "step": 0.1}),
    "allen-cahn": ("allen-cahn", {"tolerance": 1e-4}),
}


def interrupt_at(number, error=KeyboardInterrupt):
    """Raise at the ``number``-th of the times."""
    calls = itertools.count()

    def callback(progress):
        if next(calls) == number:
            raise error

    return callback


def run(case, **follow):
    name, options = CASES[case]
    bumps = 8 if "shapes" in options or "initial_shapes" in options else 16
    return evolve(get_evolution(name), bumps, **{"times": 7} | options | follow)


whole_run = functools.cache(run)


def assert_same(evolution, whole):
    assert torch.equal(evolution.states, whole.states) and torch.equal(evolution.rates, whole.rates)
    assert torch.equal(evolution.times, whole.times) and torch.equal(evolution.net.rows, whole.net.rows)
    for name in ("steps", "stages", "rel_l2", "max_error", "fit_error", "method", "stop_reason", "warnings"):
        assert getattr(evolution, name) == getattr(whole, name), name
    histories = [[{k: v for k, v in e.items() if k != "seconds"} for e in r.history] for r in (evolution, whole)]
    assert histories[0] == histories[1]
    seconds = [entry["seconds"] for entry in evolution.history]
    assert seconds == sorted(seconds)


@pytest.mark.parametrize("stops", [(0,), (3,), (1, 2)], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_an_evolution_goes_on_from_the_last_of_its_times(case, stops, tmp_path):
    whole, path = whole_run(case), tmp_path / "run.pt"
    stopped = run(case, checkpoint=path, callback=interrupt_at(stops[0]))
    assert stopped.stop_reason == "interrupted" and len(stopped.times) == stops[0] + 1
    for stop in stops[1:]:
        resume(path, callback=interrupt_at(stop))
    assert_same(resume(path), whole)
    assert_same(resume(path), whole)


def test_storing_changes_nothing(tmp_path):
    assert_same(run("radau", checkpoint=tmp_path / "run.pt", every_seconds=0), whole_run("radau"))


def test_an_error_in_the_callback_loses_nothing(tmp_path):
    path = tmp_path / "run.pt"
    with pytest.raises(MemoryError):
        run("bdf", checkpoint=path, callback=interrupt_at(4, MemoryError))
    assert len(run_state.load(path)["state"]["work"]["times"]) == 5
    assert_same(resume(path), whole_run("bdf"))


def test_stopped_by_time(tmp_path):
    path = tmp_path / "run.pt"
    stopped = run("bdf", checkpoint=path, max_seconds=1e-9)
    assert (stopped.stop_reason, len(stopped.times)) == ("time", 1)
    assert_same(resume(path), whole_run("bdf"))


@pytest.mark.parametrize("stretch", [1, 4, 6])
@pytest.mark.parametrize("name", SCIPY)
def test_integrators_of_scipy_that_are_replaced_on_the_way(name, stretch, tmp_path, monkeypatch):
    """Fresh ones begin before, at and after the times at which a run is stopped."""
    monkeypatch.setattr(integrators, "_STRETCH", stretch)
    whole, path = run(name), tmp_path / "run.pt"
    assert whole.steps > stretch
    run(name, checkpoint=path, callback=interrupt_at(0))
    for stop in range(1, 7):
        resume(path, callback=interrupt_at(0))
        state = torch.load(path, weights_only=True)["state"]
        begun = state["method"]["marcher"]["begun"]["t"]
        assert len(state["work"]["times"]) == stop + 1 and begun < whole.times[stop]
    assert_same(resume(path), whole)


@pytest.mark.parametrize("name", SCIPY)
def test_a_state_of_an_older_version_is_taken_up(name, tmp_path):
    """It has the attributes of scipy's integrator, which nobody reads any more; a fresh one begins."""
    path = tmp_path / "run.pt"
    run(name, checkpoint=path, callback=interrupt_at(3))
    content = torch.load(path, weights_only=True)
    steps = content["state"]["method"]["marcher"]["steps"]
    content["state"]["method"]["marcher"] = {"steps": steps, "solver": {"t": 1.0, "y": torch.zeros(3), "h_abs": 0.1}}
    torch.save(content, path)
    resumed, whole = resume(path), whole_run(name)
    assert resumed.stop_reason == "finished" and resumed.steps > steps
    assert torch.equal(resumed.states[:4], whole.states[:4])
    scale = whole.states[-1].abs().max()
    assert float((resumed.states[-1] - whole.states[-1]).abs().max()) < 1e-2 * float(scale)
    assert_same(resume(path), resumed)


def test_steps_that_come_out_otherwise_are_not_gone_on_from(tmp_path):
    """As those of another machine may: the stored state counts."""
    path = tmp_path / "run.pt"
    run("radau", checkpoint=path, callback=interrupt_at(3))
    content = torch.load(path, weights_only=True)
    content["state"]["method"]["marcher"]["begun"]["y"] *= 1.5
    torch.save(content, path)
    resumed, whole = resume(path), whole_run("radau")
    torch.testing.assert_close(resumed.states[-1], whole.states[-1], rtol=1e-2, atol=1e-3)


# --- another basis -------------------------------------------------------------------------------


def turned(path):
    """Store the coordinates of another singular value decomposition: turned, and in another order."""
    content = torch.load(path, weights_only=True)
    work = content["state"]["work"]
    signs = torch.where(torch.arange(len(work["y"])) % 3 == 0, -1.0, 1.0)
    work["y"] = (signs * work["y"]).roll(2)
    torch.save(content, path)


@pytest.mark.parametrize("case", [case for case in CASES if case != "moving"])
def test_amplitudes_count_where_the_basis_comes_out_differently(case, tmp_path):
    whole, path = whole_run(case), tmp_path / "run.pt"
    run(case, checkpoint=path, callback=interrupt_at(3))
    turned(path)
    resumed, size = resume(path), float(whole.history[-1]["norm"])
    x = torch.linspace(float(whole.net.domain[0, 0]), float(whole.net.domain[1, 0]), 40, dtype=torch.float64)[:, None]
    assert torch.equal(resumed.states[:4], whole.states[:4])
    for t in whole.times[4:].tolist():
        torch.testing.assert_close(resumed.predict(x, t), whole.predict(x, t), rtol=0, atol=1e-4 * size)
    assert resumed.stop_reason == "finished" and resumed.rel_l2 == pytest.approx(whole.rel_l2, rel=0.1, abs=1e-6)


def test_a_basis_of_another_rank_is_none_of_the_states(tmp_path):
    whole, path = whole_run("expm"), tmp_path / "run.pt"
    run("expm", checkpoint=path, callback=interrupt_at(3))
    content = torch.load(path, weights_only=True)
    content["state"]["work"]["y"] = content["state"]["work"]["y"][:-1]
    torch.save(content, path)
    assert resume(path).rel_l2 == pytest.approx(whole.rel_l2, rel=1e-2, abs=1e-7)


@pytest.mark.parametrize(("name", "options"), [("advection", {"method": "rk4"}), ("burgers", {"method": "radau"})])
def test_another_backend_goes_on(name, options, tmp_path):
    def follow(**more):
        return evolve(get_evolution(name), 16, times=10, measure=False, **options, **more)

    whole, path = follow(), tmp_path / "run.pt"
    follow(checkpoint=path, callback=interrupt_at(4))
    with use_backend("reference"):
        resumed = resume(path)
    x = torch.linspace(-1, 1, 30, dtype=torch.float64)[:, None] if name == "burgers" else torch.rand(30, 1).double()
    torch.testing.assert_close(resumed.predict(x, 1.0), whole.predict(x, 1.0), rtol=0, atol=1e-5)
    if name == "advection":
        assert resumed.rel_l2 == pytest.approx(whole.rel_l2, rel=0.1) and whole.rel_l2 < 1e-6


# --- the file ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "run.pt"
    run("dop853", checkpoint=path, callback=interrupt_at(3))
    return path.read_bytes()


@pytest.mark.parametrize(("change", "message"), [
    ({"state": {}}, "is damaged: 'seconds'"),
    ({"net": {}}, "is damaged: 'device'"),
    ({"problem": {"name": "mine", "settings": {}}}, "needs its problem, .*'mine'"),
    ({"solver": "solve"}, "needs its problem|is damaged"),
])  # fmt: skip
def test_damaged_files_are_refused(change, message, good, tmp_path):
    path = tmp_path / "run.pt"
    path.write_bytes(good)
    torch.save(torch.load(path, weights_only=True) | change, path)
    with pytest.raises(CheckpointError, match=message):
        resume(path)


@pytest.mark.parametrize("part", ["rows", "times", "history", "marcher", "begun", "late", "first"])
def test_a_state_with_something_else_in_it_is_refused(part, good, tmp_path):
    path = tmp_path / "run.pt"
    path.write_bytes(good)
    content = torch.load(path, weights_only=True)
    state = content["state"]
    begun = state["method"]["marcher"]["begun"]
    if part == "first":
        begun["first"] = -1.0
    elif part == "late":
        begun["t"] = 1e9
    elif part == "begun":
        begun["y"] = torch.zeros(3, dtype=torch.float64)
    elif part == "rows":
        state["work"]["reports"][-1]["rows"] = torch.zeros(3, 4, dtype=torch.float64)
    elif part == "times":
        state["work"]["times"] = [0.0]
    elif part == "history":
        state["history"] = state["history"][:-1]
    else:
        state["method"]["marcher"] = {}
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="is damaged"):
        resume(path)


@pytest.mark.parametrize(("options", "message"), [
    ({"problem": get_evolution("burgers", nu=0.3)}, "about another problem"),
    ({"problem": get_evolution("heat")}, "about another problem: .*burgers.*, not .*heat"),
    ({"tolerance": 1e-3}, "takes max_seconds, every_seconds, callback, callbacks, got tolerance"),
])  # fmt: skip
def test_wrong_options_leave_the_file_alone(options, message, good, tmp_path):
    path = tmp_path / "run.pt"
    path.write_bytes(good)
    with pytest.raises(ValueError, match=message):
        resume(path, **options)
    assert path.read_bytes() == good
