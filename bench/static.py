"""What a GPU can do at best, from the compiled code: instructions per pair over issue slots per second.

The kernels are compiled ahead of time for the GPU's architecture, as they are launched for many points (float32, one
output); no GPU is needed.  Bank conflicts, latency and wave tails are not in the bound.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from bumpnet_fast.core.reference import DIAGONAL, VALUE, WANTS, second_shape
from bumpnet_fast.core.rows import RowLayout

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "kernels"))
import compiled

#: Per clock and multiprocessor: lanes that are issued, and special functions (ex2, rcp).
ISSUE, MUFU = 128, 16
#: Kernels by what they compute, of all pairs or of those in the lists of tiles and bumps that meet.
KERNELS = {
    "jet": ("jet_kernel", False),
    "sums per bump": ("jet_vjp_rows_kernel", False),
    "gradient of the points": ("jet_vjp_x_kernel", False),
    "jet, by lists": ("jet_kernel", True),
    "sums per bump, by lists": ("jet_vjp_rows_kernel", True),
    "gradient of the points, by lists": ("jet_vjp_x_kernel", True),
}


class GPU(NamedTuple):
    """Multiprocessors, boost clock in GHz, float32 lanes of a multiprocessor, and where the figures come from."""

    name: str
    arch: int
    processors: int
    clock: float
    lanes: int
    source: str

    def seconds_per_pair(self, count: Count) -> float:
        """By whichever binds: issue, special functions, or float32 arithmetic."""
        clocks = max(count.instructions / ISSUE, count.mufu / MUFU, count.fp32 / self.lanes)
        return clocks / (self.processors * self.clock * 1e9)


def _of_rate(name: str, arch: int, processors: int, teraflops: float, lanes: int, source: str) -> GPU:
    """The clock at which the float32 rate of the source is reached, a multiply-add being two operations."""
    clock = round(teraflops * 1e3 / (2 * lanes * processors), 3)
    return GPU(name, arch, processors, clock, lanes, f"{source}: {teraflops:g} TFLOP/s in float32")


GPUS = {
    gpu.name: gpu
    for gpu in (
        _of_rate("A100", 80, 108, 19.5, 64, "NVIDIA A100 data sheet"),
        _of_rate("H100", 90, 132, 67, 128, "NVIDIA H100 data sheet, SXM"),
        _of_rate("H200", 90, 132, 67, 128, "NVIDIA H200 data sheet, SXM"),
        _of_rate("B200", 100, 148, 75, 128, "hmc-tech.com, NVIDIA B200"),
        _of_rate("RTX 4090", 89, 128, 82.6, 128, "NVIDIA Ada whitepaper"),
        _of_rate("RTX 5090", 120, 170, 104.8, 128, "NVIDIA RTX Blackwell whitepaper"),
    )
}


def this_gpu(clock: float | None = None) -> GPU:
    """The CUDA device in use, at its highest clock or the one given in GHz."""
    found = torch.cuda.get_device_properties()
    lanes = 64 if (found.major, found.minor) == (8, 0) else 128
    clock = clock or found.clock_rate / 1e6
    arch = 10 * found.major + found.minor
    return GPU(found.name, arch, found.multi_processor_count, clock, lanes, "the device itself")


class Count(NamedTuple):
    """Per pair of point and bump, of the loop that does the work."""

    instructions: float
    mufu: float
    fp32: float
    registers: int


def launches(dim: int, want: int, points: int = 2**20, bumps: int = 1000) -> list[compiled.Launch]:
    """What a step with gradients of rows and points launches, written down on tensors without memory."""
    operators = compiled.operators
    with pytest.MonkeyPatch.context() as patch:
        made = compiled.record(patch)
        x, frame = (torch.empty(size, dim, device="meta") for size in (points, 3))
        rows = torch.empty(bumps, RowLayout(dim).columns, device="meta")
        operators.jet(x, rows, frame, want, True)
        shapes = [(points, 1), (points, 1, dim), (points, 1, *second_shape(want, dim))]
        g = [torch.empty(s, device="meta") if i <= min(want, DIAGONAL) else None for i, s in enumerate(shapes)]
        operators.jet_vjp(*g, x, rows, frame, want, True, True, True)
    return made


def _special_functions(kernel: str, dim: int, want: int) -> int:
    """An exponential and a reciprocal for every axis and for the sigmoid; values alone let axes share a reciprocal."""
    return 2 * dim + 2 - (dim // 2 if kernel == "jet_kernel" and want == VALUE else 0)


def count(kernel: str, dim: int, want: int, arch: int, listed: bool = False) -> Count:
    """Count a kernel's instructions in its code for one architecture, of all pairs or of ``listed`` ones.

    Raises
    ------
    RuntimeError
        If the loop holds other special functions than the formulas ask for: then "per pair" would have no meaning.
    """
    made = compiled.culled_launches(dim, want) if listed else launches(dim, want)
    [launch] = (one for one in made if one.name == kernel)
    expected = _special_functions(kernel, dim, want)
    found = compiled.profile(compiled.compile_launch(launch, "cuda", arch), expected)
    per_thread = launch.options["BLOCK"] / (32 * launch.options["num_warps"])
    if found.pairs % per_thread:
        raise RuntimeError(f"{kernel}, d = {dim}, {WANTS[want]}: {found.pairs} pairs in a loop over {per_thread}")
    packed = sum(n for opcode, n in found.opcodes.items() if re.match(r"(FADD|FMUL|FFMA)2", opcode))  # two at a time
    return Count(found.total, expected, found.fp32 + 2 * packed / found.pairs, found.usage.registers)


def bounds(gpu: GPU, dims: Iterable[int], wants: Iterable[int]) -> list[dict]:
    """A row for every kernel, dimension and want: counts, and pairs per second at best."""
    rows = []
    for name, (kernel, listed) in KERNELS.items():
        for dim in dims:
            for want in wants:
                found = count(kernel, dim, want, gpu.arch, listed)
                rate = 1 / gpu.seconds_per_pair(found)
                rows.append({"kernel": name, "d": dim, "want": WANTS[want]} | found._asdict() | {"pairs_per_s": rate})
    return rows


def markdown(rows: list[dict]) -> list[str]:
    lines = ["| kernel | d | want | instructions | MUFU | FP32 | registers | G pairs/s at best |", "|" + "---|" * 8]
    for row in rows:
        counts = f"{row['instructions']:.1f} | {row['mufu']:g} | {row['fp32']:.1f} | {row['registers']}"
        lines.append(f"| {row['kernel']} | {row['d']} | {row['want']} | {counts} | {row['pairs_per_s'] / 1e9:.0f} |")
    return lines
