"""Fixtures shared by all tests."""

import contextlib
import errno
import os
import re
import signal
import types

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch, which reads it once: workers share the processors already
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from interpreted import INTERPRETED

from bumpnet_fast import use_backend
from bumpnet_fast.core import backends as native
from bumpnet_fast.solvers import solution
from bumpnet_fast.solvers.evolution import result

#: The kernels of this process, and every backend that serves CPU tensors here: "auto" is the registered operators
#: without kernels, and "culled" the kernels with all their culling, which so few bumps would not get.
KERNELS = ("triton",) if INTERPRETED else native.variants()
BACKENDS = KERNELS if INTERPRETED else ("reference", *KERNELS, "culled" if KERNELS else "auto")


def pytest_collection_modifyitems(items):
    """Refuse names of tests that no other process has: `make test` shares the tests by their names."""
    unlike = [item.nodeid for item in items if re.search(r" at 0x[0-9a-f]+", item.nodeid)]
    if unlike:
        raise pytest.UsageError("an address is in the name of a test, give its parameters ids: " + ", ".join(unlike))


@pytest.fixture(params=BACKENDS)
def backend(request):
    """Run the test on every backend in turn; gives the backend's name."""
    culled = request.param == "culled"
    with (
        use_backend("auto" if INTERPRETED or culled else request.param),
        native.use_culling("always") if culled else contextlib.nullcontext(),
    ):
        yield request.param


@pytest.fixture(params=KERNELS or [pytest.param(None, marks=pytest.mark.skip(reason=str(native.missing)))])
def variant(request):
    """Run the test on every variant of the kernels; skipped without them."""
    with use_backend("auto" if INTERPRETED else request.param):
        yield request.param


@pytest.fixture
def threads():
    """``torch.set_num_threads``, undone afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def full_disk(monkeypatch):
    """Has a ``full``; while that is true, nothing that is written reaches the disk."""
    disk, sync = types.SimpleNamespace(full=False), os.fsync

    def fsync(file):
        if disk.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(file)

    monkeypatch.setattr(os, "fsync", fsync)
    return disk


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """An estimate has half a minute, not 0.2 s: what a test finds does not depend on the speed of the machine."""
    for module in (solution, result):
        monkeypatch.setattr(module, "estimate_seconds", lambda *_: 30.0)


@pytest.fixture(scope="session", autouse=True)
def interruptible():
    """A shell's background jobs ignore Ctrl-C, which some tests send."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
