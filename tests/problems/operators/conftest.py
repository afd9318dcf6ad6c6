"""Small matrices gain nothing from threads, and lose much where other processes want the cores."""

import pytest


@pytest.fixture(autouse=True)
def one_thread(threads):
    threads(1)
