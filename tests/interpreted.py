"""Triton's interpreter as a backend of the tests: the Triton kernels serve the operators' CPU tensors.

Whether kernels are interpreted is decided when Triton is imported, so by a process and not by a test.  In one with
TRITON_INTERPRET=1 (tests/kernels/test_interpreted.py starts them) "triton" is the only backend, and a CPU tensor is
served as one on a CUDA device would be: by ``kernels.operators`` where that can, else by the reference.
"""

from __future__ import annotations

import functools
import os

import torch

from bumpnet_fast.core import ops

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
#: The operators that the tests are about: all of them, or those that have a Triton kernel.
OPERATORS = ops.OPERATORS

if INTERPRETED:
    os.environ.pop("BUMPNET_FAST_BACKEND", None)  # it kept the compiled extension out, and has no other use here
    from bumpnet_fast.kernels import operators

    OPERATORS = tuple(name for name in ops.OPERATORS if hasattr(operators, name))
    _LIBRARY = torch.library.Library("bumpnet_fast", "IMPL")
    for _name in OPERATORS:
        _LIBRARY.impl(_name, functools.partial(ops._on_cuda, _name), "CPU")
