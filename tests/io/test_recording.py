"""The record of a training: what it holds of every solver's runs, that it stays small, and outlives interruptions."""

import itertools

import pytest
import torch

from bumpnet_fast import BumpNet, problems
from bumpnet_fast.core.files import CheckpointError
from bumpnet_fast.io import Recording, load, resume, save
from bumpnet_fast.solvers import Adam, Progress, march, prune, reach, run_state, solve

POISSON = problems.get("poisson")


def grid(*bumps, problem=POISSON):
    return BumpNet(2, bumps, problem.domain, dtype="float64")


RUNS = {
    "solve": lambda **o: solve(POISSON, grid(3, 3), iterations=4, **o),
    "refined": lambda **o: solve(POISSON, grid(3, 3), iterations=4, refine=1, **o),
    "nonlinear": lambda **o: solve(POISSON, grid(3, 3), iterations=4, method="lm", **o),
    "float32": lambda **o: solve(POISSON, BumpNet(2, 9, POISSON.domain), iterations=3, **o),
    "prune": lambda **o: prune(POISSON, grid(3, 3), 7, iterations=3, **o),
    "reach": lambda **o: reach(POISSON, grid(2, 2), 0.05, iterations=10, **o),
    "march": lambda **o: march(problems.get("heat"), (3, 3), windows=2, iterations=3, **o),
    "adam": lambda **o: solve(POISSON, grid(3, 3), method="adam", iterations=30, **o),
    "lbfgs": lambda **o: solve(POISSON, grid(3, 3), method="lbfgs", iterations=30, **o),
}


def places(frames):
    return [(frame.iteration, len(frame.rows)) for frame in frames]


@pytest.mark.parametrize("name", RUNS)
def test_frames_follow_the_history_and_end_with_the_solution(name):
    recording = Recording()
    solution = RUNS[name](callback=recording)
    frames, net = recording.frames, solution.parts[-1].net if name == "march" else solution.net
    assert all(a.seconds < b.seconds for a, b in itertools.pairwise(frames))
    known = {(e["iteration"], e["loss"]) for e in solution.history}
    assert known <= {(frame.iteration, frame.loss) for frame in frames}
    if name in (
        "solve",
        "refined",
        "nonlinear",
        "float32",
        "prune",
        "march",
    ):  # which end with the last rows, not the best
        assert torch.equal(frames[-1].rows, net.rows.detach())
    assert frames[-1].rows.dtype == net.rows.dtype and torch.equal(frames[-1].net.frame, net.frame)
    assert not torch.equal(frames[0].rows[0], frames[-1].rows[0])
    if name == "prune":
        assert [n for n, _ in itertools.groupby(len(f.rows) for f in frames)] == [9, 8, 7]
    if name == "march":
        assert [t for t, _ in itertools.groupby(float(f.domain[0, 1]) for f in frames)] == [0.0, 0.5]


def test_a_frame_is_the_net_of_its_iteration():
    seen = []
    solve(POISSON, grid(3, 3), iterations=5, callback=lambda progress: seen.append(progress))
    for progress in seen:  # asked for later, it is still that of its iteration
        shorter = grid(3, 3)
        solve(POISSON, shorter, iterations=progress.iteration)
        assert torch.equal(progress.net().rows, shorter.rows)


@pytest.mark.parametrize("most", (2, 5, 100))
def test_it_stays_small_and_even(most):
    recording = Recording(most=most)
    solve(POISSON, grid(2, 2), method=Adam(log_every=2), iterations=700, callback=recording)
    iterations = [frame.iteration for frame in recording.frames]
    assert most / 2 < len(iterations) <= most and iterations[0] == 0
    assert len({b - a for a, b in itertools.pairwise(iterations)}) == 1 and iterations[-1] > 700 * (1 - 2 / most)


def test_it_calls_what_it_is_given_and_needs_no_net():
    seen = []
    recording = Recording(callback=seen.append)
    solve(POISSON, grid(2, 2), iterations=2, callback=recording)
    assert [progress.iteration for progress in seen] == [0, 1, 2]
    with pytest.raises(ValueError, match="most must be an integer of at least 2, got 1"):
        Recording(most=1)


def test_rows_that_are_no_numbers_are_left_out():
    recording, net = Recording(), grid(2, 2)
    recording(Progress(0, 0.1, 1.0, None, lambda: net))
    broken = grid(2, 2)
    with torch.no_grad():
        broken.rows[0, 0] = torch.nan
    recording(Progress(1, 0.2, float("nan"), None, lambda: broken))
    recording(Progress(2, 0.3, 1.0, None))  # of something that is no net of bumps
    assert places(recording.frames) == [(0, 4)]


def stopping(call, at):
    """Raise KeyboardInterrupt after the ``at``-th call."""
    calls = itertools.count(1)

    def callback(progress):
        call(progress)
        if next(calls) == at:
            raise KeyboardInterrupt

    return callback


@pytest.mark.parametrize(
    ("name", "most"), [("solve", 9), ("prune", 9), ("prune", 4), ("reach", 9), ("march", 4), ("adam", 9)]
)
def test_a_resumed_run_has_the_frames_of_one_that_was_never_stopped(name, most, tmp_path):
    whole = Recording(most=most)
    RUNS[name](callback=whole)
    state, path = tmp_path / "run.pt", tmp_path / "record.pt"
    for stop in (2, 5, None):
        with Recording(path, most=most) as recording:
            callback = recording if stop is None else stopping(recording, stop)
            if state.exists():
                resume(state, callback=callback)
            else:
                RUNS[name](callback=callback, checkpoint=state)
    frames = load(path)
    assert places(frames) == places(whole.frames)
    assert all(torch.equal(a.rows, b.rows) for a, b in zip(frames, whole.frames, strict=True))


def test_what_a_killed_run_had_recorded_after_its_state_is_forgotten(tmp_path):
    state, path, whole = tmp_path / "run.pt", tmp_path / "record.pt", Recording()
    solve(POISSON, grid(3, 3), iterations=6, callback=whole)
    solve(POISSON, grid(3, 3), iterations=6, checkpoint=state, callback=stopping(lambda progress: None, 3))
    early = run_state.load(state)
    with Recording(path) as recording:
        resume(state, callback=recording)
    run_state.write(state, early)  # as if the file had not been written since
    with Recording(path) as recording:
        assert places(recording.frames) == [(i, 9) for i in range(3, 7)]
        resume(state, callback=recording)
    assert places(load(path)) == [(i, 9) for i in range(3, 7)]


def test_damaged_and_foreign_files(tmp_path):
    path = tmp_path / "record.pt"
    with pytest.raises(FileNotFoundError):
        load(path)
    path.write_bytes(b"no record")
    with pytest.raises(CheckpointError, match="is not a checkpoint, or is damaged"):
        Recording(path)
    save(path, grid(2, 2))
    with pytest.raises(CheckpointError, match="holds a model, not a record"):
        Recording(path)


@pytest.mark.parametrize("change", [
    {"rows": 3}, {"rows": torch.zeros(4)}, {"rows": torch.full((4, 7), torch.nan)}, {"frame": torch.zeros(2, 2)},
    {"tied": "yes"}, {"rows": torch.zeros(4, 7).long()}, {"domain": None},
], ids=str)  # fmt: skip
def test_frames_that_cannot_be(change, tmp_path):
    path, net = tmp_path / "record.pt", grid(2, 2)
    with Recording(path) as recording:
        recording(Progress(0, 0.1, 1.0, None, lambda: net))
    assert places(load(path)) == [(0, 4)]
    content = torch.load(path, weights_only=True)
    content["frames"][0] |= change
    torch.save(content, path)
    for read in (load, Recording):
        with pytest.raises(CheckpointError, match="is damaged") as error:
            read(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)
