"""Peak extra memory of a call, from the operating system's own high-water mark."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _read(field: str) -> float:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def peak_extra_mib(call: Callable[[], object]) -> float | None:
    """MiB that ``call`` needs beyond what the process held before; None where the system does not tell."""
    if not _RESET.exists():
        return None
    call()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what the allocator kept from the first call is not "held before"
    _RESET.write_text("5")
    before = _read("VmRSS")
    call()
    return max(0.0, _read("VmHWM") - before)
