"""The compiled kernels: loads them, says why they are missing, and picks the variant of the CPU's.

Nothing here is required: without the extension every operator is served by ``reference.py``.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch  # the extension needs libtorch to be loaded first

VARIANTS = ("baseline", "avx2", "avx512")

#: Why the extension with the CPU kernels is not in use, or None; and the same of the one with CUDA code.
missing: str | None = None
missing_cuda: str | None = None

if os.environ.get("BUMPNET_FAST_BACKEND") == "reference":
    missing = missing_cuda = "switched off by BUMPNET_FAST_BACKEND=reference"
else:
    try:
        from . import _C  # noqa: F401
    except ImportError as error:
        missing = f"the compiled extension could not be loaded: {error}"
    try:
        from . import _C_cuda  # noqa: F401
    except ImportError as error:
        missing_cuda = f"the extension with CUDA code could not be loaded: {error}"


def variants() -> tuple[str, ...]:
    """Variants of the CPU kernels that are built in and that this processor can run."""
    if missing is not None:
        return ()
    mask = torch.ops.bumpnet_fast._cpu_variants()
    return tuple(name for i, name in enumerate(VARIANTS) if mask >> i & 1)


def variant() -> str | None:
    """Name of the variant in use, or None without the extension."""
    return None if missing is not None else VARIANTS[torch.ops.bumpnet_fast._cpu_variant(-1)]


@contextlib.contextmanager
def use_variant(name: str) -> Iterator[None]:
    """Run the CPU kernels in one variant inside the block (for tests and benchmarks).

    Raises
    ------
    ValueError
        If the variant is unknown, not built, or not runnable on this processor.
    """
    if name not in variants():
        raise ValueError(f"variant must be one of {variants()}, got {name!r}")
    before = torch.ops.bumpnet_fast._cpu_variant(-1)
    torch.ops.bumpnet_fast._cpu_variant(VARIANTS.index(name))
    try:
        yield
    finally:
        torch.ops.bumpnet_fast._cpu_variant(before)
