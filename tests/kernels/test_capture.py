"""The launching code asks nothing of the device, so a step can be captured in a CUDA graph.

Shown without a GPU: all that the operators call of PyTorch is seen, and it is allocation and copies only; what they
launch depends on sizes and on nothing in the tensors.
"""

import importlib.util
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

if importlib.util.find_spec("triton") is None:
    pytest.skip("no Triton", allow_module_level=True)

import compiled

from bumpnet_fast.kernels import operators

#: Memory that graphs may allocate while they are captured, and copies that make an argument contiguous.
HARMLESS = {"new_empty", "new_zeros", "empty", "clone", "copy_", "view", "slice", "select", "detach"}
NAMES = tuple(compiled.arguments(1, 0))


class Watch(TorchDispatchMode):
    """Writes down what is called and on which devices the results are."""

    def __init__(self):
        super().__init__()
        self.called, self.devices = set(), set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.called.add(function.overloadpacket.__name__)
        if isinstance(result, torch.Tensor):
            self.devices.add(result.device.type)
        return result


def described(launch):
    """A launch but for its addresses and numbers."""
    args = [(tuple(a.shape), a.stride(), a.dtype) if isinstance(a, torch.Tensor) else a for a in launch.args]
    return launch.name, launch.grid, args, launch.options


@pytest.fixture
def call(monkeypatch):
    """An operator on what ``fill`` makes of the meta tensors: its launches, and what was called meanwhile."""
    made = compiled.record(monkeypatch)

    def forbidden(*args, **settings):
        raise AssertionError("waited for the device")

    for owner in (torch.cuda, torch.cuda.Stream, torch.cuda.Event):
        monkeypatch.setattr(owner, "synchronize", forbidden)

    def run(name, fill, *case):
        made.clear()
        args = [fill(a) if isinstance(a, torch.Tensor) else a for a in compiled.arguments(*case)[name]]
        with Watch() as watch:
            getattr(operators, name)(*args)
        return [described(launch) for launch in made], watch

    return run


def wide(t):
    """As large, with gaps."""
    return t.new_empty([2 * size for size in t.shape])[tuple(slice(None, None, 2) for _ in t.shape)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fill", (lambda t: t, wide), ids=("contiguous", "strided"))
def test_nothing_but_allocation_and_copies(call, name, fill):
    """Meta tensors have no numbers to ask for: a size that depends on one is an error."""
    for dim, want, n, m in ((1, 0, 7, 3), (2, 3, 2500, 40), (3, 2, 2**17, 1000), (4, 4, 2**20, 10**5), (2, 1, 0, 3)):
        launches, watch = call(name, fill, dim, want, n, m)
        assert bool(launches) == (n > 0)
        assert watch.called <= HARMLESS and watch.devices == {"meta"}


@pytest.mark.parametrize("name", NAMES)
def test_launches_depend_on_sizes_only(call, name):
    generator = torch.Generator().manual_seed(0)
    fills = (
        lambda t: torch.zeros(t.shape, dtype=t.dtype),
        lambda t: torch.randn(t.shape, generator=generator, dtype=t.dtype),
        lambda t: torch.full(t.shape, math.nan, dtype=t.dtype),
    )
    for dim, want, n, m in ((1, 2, 33, 5), (2, 3, 9000, 40), (3, 4, 100, 2)):
        (first, watch), *others = [call(name, fill, dim, want, n, m) for fill in fills]
        assert len(first) >= 2 and watch.called <= HARMLESS
        assert all(launches == first for launches, _ in others)
        assert call(name, fills[0], dim, want, n + 64, m)[0] != first


@pytest.mark.parametrize(
    "ask", (lambda t: t.sum().item(), torch.nonzero, torch.Tensor.tolist, lambda t: t[t > 0], lambda t: bool(t[0]))
)
def test_the_watch_sees_what_would_wait(ask):
    with Watch() as watch:
        ask(torch.ones(3))
    assert watch.called - HARMLESS
