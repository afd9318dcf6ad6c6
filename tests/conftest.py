"""Fixtures shared by all tests."""

import pytest
import torch

from bumpnet_fast import native, use_backend

#: Every backend that serves CPU tensors here; "auto" is the registered operators without kernels.
BACKENDS = ("reference", *(native.variants() or ("auto",)))


@pytest.fixture(params=BACKENDS)
def backend(request):
    """Run the test on every backend in turn; gives the backend's name."""
    with use_backend(request.param):
        yield request.param


@pytest.fixture(params=native.variants() or [pytest.param(None, marks=pytest.mark.skip(reason=str(native.missing)))])
def variant(request):
    """Run the test on every variant of the compiled kernels; skipped without them."""
    with use_backend(request.param):
        yield request.param


@pytest.fixture
def threads():
    """``torch.set_num_threads``, undone afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
