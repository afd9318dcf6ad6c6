"""The animation of a training: u and the bumps of every frame, those that went, and how far the run was."""

import io
import itertools

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.collections import PolyCollection
from PIL import Image

from bumpnet_fast import BumpNet, problems
from bumpnet_fast.io.recording import Recording
from bumpnet_fast.plotting import training, write_training
from bumpnet_fast.solvers import march, prune, reach, solve


def grid(name, *bumps):
    problem = problems.get(name)
    return problem, BumpNet(len(problem.lower), bumps, problem.domain, problem.outputs, dtype="float64")


RUNS = {
    "plane": lambda callback: solve(*grid("poisson", 3, 3), iterations=3, callback=callback),
    "line": lambda callback: prune(*grid("regression", 4), 3, iterations=2, callback=callback),
    "masked": lambda callback: solve(*grid("lshape", 3, 3), iterations=2, callback=callback),
    "block": lambda callback: solve(*grid("heat2d", 2, 2, 2), iterations=2, points=200, callback=callback),
    "outputs": lambda callback: solve(*grid("kovasznay", 2, 2), iterations=2, callback=callback),
    "pruned": lambda callback: prune(*grid("poisson", 3, 3), 7, iterations=2, callback=callback),
    "grown": lambda callback: reach(*grid("poisson", 2, 2), 0.1, iterations=3, callback=callback),
    "marched": lambda callback: march(problems.get("heat"), (3, 3), windows=2, iterations=2, callback=callback),
    "adam": lambda callback: solve(*grid("poisson", 2, 2), method="adam", iterations=30, callback=callback),
}


class Watch:
    """What is on the page at every moment, by a look at it when it is drawn."""

    def __init__(self, monkeypatch):
        self.seen = []
        for kind in (training._Plane, training._Curve):
            monkeypatch.setattr(kind, "draw", self.watched(kind.draw))

    def watched(self, draw):
        def wrapped(movie, u, net, gone):
            draw(movie, u, net, gone)
            self.seen.append((movie, u, net, gone, [*movie.axes["bumps"].collections]))

        return wrapped


@pytest.mark.parametrize("name", RUNS)
def test_every_frame_and_the_solution(name, monkeypatch):
    watch, recording, file = Watch(monkeypatch), Recording(), io.BytesIO()
    solution = RUNS[name](recording)
    write_training(solution, recording.frames, file)
    image = Image.open(io.BytesIO(file.getvalue()))
    assert image.n_frames == len(recording.frames) + 1 and image.info["loop"] == 0
    image.seek(image.n_frames - 1)
    assert image.info["duration"] == 1500  # the solution stays
    seen = watch.seen[1:]  # the first is drawn once more, to be laid out
    assert len(seen) == image.n_frames
    for (movie, u, net, _, drawn), frame in zip(seen, recording.frames, strict=False):
        assert torch.equal(net.rows, frame.rows)
        boxes = next(c for c in drawn if isinstance(c, PolyCollection))
        assert len(boxes.get_paths()) == len(frame.rows)
        if name == "marched":
            continue
        inside = movie.inside
        points = torch.from_numpy(movie.points[inside])
        wanted = solution.problem.extend(
            lambda x, net=net: net.jet(x, want="value"), points, "value", solution.boundary
        )
        np.testing.assert_allclose(u[inside], wanted.value[:, 0].detach(), atol=1e-12)
        assert np.isnan(u[~inside]).all()
    movie, u, net, *_ = seen[-1]
    inside = movie.inside
    np.testing.assert_allclose(u[inside], solution.predict(torch.from_numpy(movie.points[inside]))[:, 0].detach())
    assert torch.equal(net.rows, solution.net.rows)


def test_a_march_shows_what_is_done_and_nothing_beyond_the_window_in_work(monkeypatch):
    watch, recording = Watch(monkeypatch), Recording()
    solution = RUNS["marched"](recording)
    write_training(solution, recording.frames, io.BytesIO())
    for (movie, u, *_), frame in zip(watch.seen[1:], recording.frames, strict=False):
        start, end = frame.domain[:, 1].tolist()
        t, final = movie.points[:, 1], solution.predict(torch.from_numpy(movie.points))[:, 0].detach().numpy()
        np.testing.assert_allclose(u[t <= start], final[t <= start])
        assert np.isfinite(u[t <= end]).all() and np.isnan(u[t > end]).all()
    last = recording.frames[-1]  # that of the end of the last window
    assert last.domain[1, 1] == 1 and np.nanmax(np.abs(watch.seen[-2][1] - final)) < 1e-12


def test_bumps_that_went_are_dashed_once(monkeypatch):
    watch, recording = Watch(monkeypatch), Recording()
    write_training(RUNS["pruned"](recording), recording.frames, io.BytesIO())
    before = [None, *recording.frames]
    went = 0
    for (*_, gone, drawn), earlier, now in zip(watch.seen[1:], before, recording.frames, strict=False):
        number = 0 if earlier is None else len(earlier.rows) - len(now.rows)
        assert (0 if gone is None else len(gone.rows)) == number
        dashed = [c for c in drawn if isinstance(c, PolyCollection) and c.get_linestyle()[0][1] is not None]
        assert len(dashed) == bool(number)
        if number:  # the shapes of those that stayed are the same at first
            kept = {tuple(row) for row in now.rows[:, :6].tolist()}
            assert {tuple(row) for row in gone.rows[:, :6].tolist()} == {
                tuple(row) for row in earlier.rows[:, :6].tolist()
            } - kept
            went += number
    assert went == 2


def test_the_line_says_where_the_run_is(monkeypatch):
    watch, recording, texts, places = Watch(monkeypatch), Recording(), [], []
    solution = RUNS["pruned"](recording)

    def gif(figure, moments, update, file):
        cursor = next(ax for ax in figure.axes if ax.get_label() == "convergence").lines[-1]
        for moment in moments:
            update(moment)
            texts.append(figure.get_suptitle())
            places.append(cursor.get_xdata()[0])

    monkeypatch.setattr(training, "write_gif", gif)
    write_training(solution, recording.frames, None)
    assert places == [*(frame.seconds for frame in recording.frames), solution.seconds] and watch.seen
    assert "iteration 0  ·  9 bumps  ·  loss" in texts[0] and "the solution  ·  7 bumps" in texts[-1]
    assert ["(−1)" in text for text in texts].count(True) == 2


def test_frames_differ_and_matplotlib_is_left_as_it_was():
    before, recording, file = dict(matplotlib.rcParams), Recording(), io.BytesIO()
    write_training(RUNS["plane"](recording), recording.frames, file)
    image, pictures = Image.open(io.BytesIO(file.getvalue())), []
    for i in range(image.n_frames):
        image.seek(i)
        pictures.append(np.asarray(image.convert("RGB")).astype(int))
    assert all(np.abs(a - b).max() > 50 for a, b in itertools.pairwise(pictures))
    assert dict(matplotlib.rcParams) == before


def test_the_page_is_white():
    recording, file = Recording(), io.BytesIO()
    write_training(RUNS["plane"](recording), recording.frames, file)
    picture = np.asarray(Image.open(io.BytesIO(file.getvalue())).convert("RGB"))
    assert (picture[[0, -1]] == 255).mean() > 0.99
