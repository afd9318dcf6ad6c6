"""Fixtures shared by all tests."""

import pytest
import torch
from interpreted import INTERPRETED

from bumpnet_fast import native, use_backend

#: Every backend that serves CPU tensors here; "auto" is the registered operators without kernels.
BACKENDS = ("triton",) if INTERPRETED else ("reference", *(native.variants() or ("auto",)))
#: Those of them that are kernels.
KERNELS = ("triton",) if INTERPRETED else native.variants()


@pytest.fixture(params=BACKENDS)
def backend(request):
    """Run the test on every backend in turn; gives the backend's name."""
    with use_backend("auto" if INTERPRETED else request.param):
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
