"""A GPU that is not there: launches of ``kernels.operators`` on CPU tensors, compiled for it and executed as PTX.

    with emulated(90) as ran:
        operators.jet(x, rows, frame, want, tied)

``ran`` lists the launches.  Where tensors would hold whatever was in memory they hold NaN, so that what a kernel does
not write shows.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import NamedTuple

import compiled
import ptx
import pytest
import torch
from compiled import Launch

_program = functools.lru_cache(ptx.Program)


class Ran(NamedTuple):
    launch: Launch
    text: str  # the PTX


class _Kernel:
    """Stands in for a Triton kernel."""

    def __init__(self, name, kernel, launch):
        self.name, self.kernel, self.launch = name, kernel, launch

    def __getitem__(self, grid):
        return lambda *args, **options: self.launch(Launch(self.name, self.kernel, grid, args, options))


@contextlib.contextmanager
def emulated(arch: int, error: float = 0.0, change: Callable[[str, str], str] = lambda name, text: text):
    """For the compute capability ``arch`` (90 is sm_90).

    ``error`` is that of the approximations (ptx.run); ``change`` gets a kernel's name and PTX, and returns what is
    executed in its place.
    """
    ran: list[Ran] = []

    def launch(one: Launch):
        binary = compiled.compile_launch(one, "cuda", arch)
        text = change(one.name, binary.asm["ptx"])
        ran.append(Ran(one, text))
        arguments = [
            a.numpy() if isinstance(a, torch.Tensor) else a for a in one.args if not compiled.is_compiled_in(a)
        ]
        ptx.run(_program(text), one.grid, arguments, binary.metadata.shared, error)

    before = torch.are_deterministic_algorithms_enabled()
    with pytest.MonkeyPatch.context() as patch:
        for name, owner in compiled.OWNERS.items():
            patch.setattr(owner, name, _Kernel(name, getattr(owner, name), launch))
        torch.use_deterministic_algorithms(True)  # fills empty tensors with NaN
        try:
            yield ran
        finally:
            torch.use_deterministic_algorithms(before)
