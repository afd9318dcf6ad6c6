"""Small problems gain nothing from threads, and lose much where other processes want the cores."""

import pytest

from bumpnet_fast.solvers import marching


@pytest.fixture(autouse=True)
def one_thread(threads):
    threads(1)


@pytest.fixture(autouse=True)
def few_points_held_out(monkeypatch):
    """The windows of a march are judged at fewer points, which these small ones do not need."""
    monkeypatch.setattr(marching, "_HELD_OUT", 2000)
