"""Peak extra memory of a call: from the system's high-water mark on the CPU, from torch's allocator on CUDA."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _read(field: str) -> float:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def peak_extra_mib(call: Callable[[], object], device: str = "cpu") -> float | None:
    """MiB that ``call`` needs beyond what was held before; None where the system does not tell."""
    if device == "cuda":
        return _peak_on_cuda(call)
    if not _RESET.exists():
        return None
    call()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what the allocator kept from the first call is not "held before"
    _RESET.write_text("5")
    before = _read("VmRSS")
    call()
    return max(0.0, _read("VmHWM") - before)


def _peak_on_cuda(call: Callable[[], object]) -> float:
    call()
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20
