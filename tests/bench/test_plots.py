"""bench/plots.py: the cases that differ in one size, as curves and as a table."""

import sys
from pathlib import Path

import pytest
from matplotlib import image

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import plots

from bumpnet_fast.diagnostics.bench import COMPILED, EAGER, OURS, Case

CENTRE, FEWER, MORE, OTHER = plots.CENTRE, Case(100, 400), Case(10_000, 4_000), Case(1_000, 40)


@pytest.fixture
def found():
    def stats(milliseconds, peak):
        return {"backward": {"min": milliseconds / 1e3, "peak": peak}}

    return {
        MORE: {OURS: stats(100, 2.0)},
        CENTRE: {OURS: stats(10, None), EAGER: stats(300, 1000.0), COMPILED: {"adam": {}}},
        FEWER: {OURS: stats(0.2, 0.0), EAGER: stats(3, 10.0)},
        OTHER: {OURS: stats(0.1, 0.0)},
        CENTRE._replace(points=100, dtype="float64"): {OURS: stats(0.1, 0.0)},
    }


def test_which_cases_are_of_the_sweep(found):
    assert [one for one in found if plots.is_swept(one)] == [MORE, FEWER]
    assert list(plots.along(found, "points")) == [100, 10_000]
    assert list(plots.along(found, "bumps")) == [400, 4_000]


def test_a_curve_has_what_was_measured(found):
    by_points = plots.along(found, "points")
    assert plots.curve(by_points, EAGER, "min") == ([100, 10_000], [3e-3, 0.3])
    assert plots.curve(by_points, OURS, "peak") == ([100], [0.0])
    assert plots.curve(by_points, COMPILED, "min") == ([], [])


def test_the_table(found):
    lines = plots.table(found)
    assert lines[0].startswith("| points | bumps | ours | torch.compile / ours |")
    assert lines[2:] == [
        "| 100 | 400 | 0.2 ms | - | - | 15.0 | - |",
        "| 10000 | 400 | 10 ms | - | - | 30.0 | - |",
        "| 10000 | 4000 | 100 ms | - | - | - | - |",
    ]


def test_the_picture(found, tmp_path):
    plots.draw(found, tmp_path / "a.png", "a machine")
    plots.draw(found, tmp_path / "b.png", "a machine")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert image.imread(tmp_path / "a.png").shape[:2] == (390, 1100)
