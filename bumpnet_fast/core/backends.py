"""Load the compiled kernels, say why they are missing, and choose the variant of the CPU kernels.

Nothing here is required: without the extension every operator is served by ``reference.py``.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch  # the extension needs libtorch to be loaded first

from .scopes import Choice

VARIANTS = ("baseline", "avx2", "avx512")

#: Why the extension with the CPU kernels is not in use, or None; the same for the extension with CUDA code.
missing: str | None = None
missing_cuda: str | None = None

if os.environ.get("BUMPNET_FAST_BACKEND") == "reference":
    missing = missing_cuda = "switched off by BUMPNET_FAST_BACKEND=reference"
else:
    try:
        from .. import _C  # noqa: F401
    except ImportError as error:
        missing = f"the compiled extension could not be loaded: {error}"
    else:
        if not hasattr(torch.ops.bumpnet_fast, "_cpu_variant"):  # asked for below, and importing must not raise
            missing = "the compiled extension is of another version: build it again"
    try:
        from .. import _C_cuda  # noqa: F401
    except ImportError as error:
        missing_cuda = f"the extension with CUDA code could not be loaded: {error}"


def _find_kernels(package: Path) -> None:
    """Make the Triton kernels importable in a checkout, where they lie beside the package, not in it.

    They are not imported yet, as that needs Triton.
    """
    name, folder = "bumpnet_fast.kernels", package.parent / "kernels"
    if (package / "kernels").exists() or not (folder / "operators.py").exists():
        return
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])


_find_kernels(Path(__file__).parents[1])


def variants() -> tuple[str, ...]:
    """Variants of the CPU kernels that are built in and that this processor can run."""
    if missing is not None:
        return ()
    mask = torch.ops.bumpnet_fast._cpu_variants()
    return tuple(name for i, name in enumerate(VARIANTS) if mask >> i & 1)


def variant() -> str | None:
    """Name of the variant in use in this thread, or None without the extension."""
    return None if missing is not None else VARIANTS[torch.ops.bumpnet_fast._cpu_variant(-1)]


def _tell(operator: str, index: int | None) -> None:
    """Tell the compiled kernels what this thread chose."""
    if missing is None:
        getattr(torch.ops.bumpnet_fast, operator)(index)


_variant = Choice(
    None if missing is not None else torch.ops.bumpnet_fast._cpu_variant(-1), functools.partial(_tell, "_cpu_variant")
)


@contextlib.contextmanager
def use_variant(name: str) -> Iterator[None]:
    """Run the CPU kernels in one variant inside the block, in this thread (for tests and benchmarks).

    Raises
    ------
    ValueError
        If the variant is unknown, not built, or not runnable on this processor.
    """
    if name not in variants():
        raise ValueError(f"variant must be one of {variants()}, got {name!r}")
    with _variant.use(VARIANTS.index(name)):
        yield


#: When kernels leave out pairs of points and bumps that add nothing (csrc/cull.h, kernels/cull.py).
CULLING = ("never", "auto", "always")
_culling = Choice("auto", lambda when: _tell("_cpu_culling", CULLING.index(when)))


def culling() -> str:
    """When pairs that add nothing are left out now, in this thread: one of ``CULLING``."""
    return _culling.get()


@contextlib.contextmanager
def use_culling(when: str) -> Iterator[None]:
    """Choose, inside the block, when jets and their gradients leave out pairs that are zero to working precision.

    It holds for the thread that enters the block, and for the backward of what is computed in the block.

    "auto", the default, leaves pairs out where bumps are many and sharp enough for a gain; "never" and "always" are
    for tests and benchmarks.  The choice concerns the CPU and the Triton kernels; the reference takes all pairs.

    Raises
    ------
    ValueError
        If ``when`` is none of the three.

    Examples
    --------
    >>> with use_culling("never"):
    ...     culling()
    'never'
    """
    if when not in CULLING:
        raise ValueError(f"when must be one of {', '.join(CULLING)}, got {when!r}")
    with _culling.use(when):
        yield
