"""A training step in every case of the registry, and in every way a user could write it.

    pytest bench/test_speed.py [-m short] [--device cuda]

prints, at the end, every contestant's time, its ratio to ours, and its peak extra memory.  What a contestant computes
is compared with our operators in float64 before it is timed.
"""

from __future__ import annotations

import time

import cases
import memory
import pytest
import torch

SECONDS, LEAST, MOST = 0.5, 3, 300
#: Relative, of the loss and of the gradient's largest entry.
TOLERANCE = {"float32": (1e-4, 2e-3), "float64": (1e-11, 1e-9)}


def marks(entry: cases.Entry) -> list[pytest.MarkDecorator]:
    return [pytest.mark.threads(entry.case.threads), *([pytest.mark.short] if entry.short else [])]


RUNS = [
    pytest.param(entry, name, stage, id=f"{stage}, {name}, {entry.case.name}", marks=marks(entry))
    for entry in cases.ENTRIES
    for name in entry.contestants
    for stage in entry.stages
]


def check(found: tuple, expected: tuple[torch.Tensor, torch.Tensor], dtype: str) -> None:
    """Loss and gradient, which JAX has as arrays of its own."""
    loss, gradient = (torch.from_dlpack(t).to(e) for t, e in zip(found, expected, strict=True))
    for got, wanted, tolerance in zip((loss, gradient), expected, TOLERANCE[dtype], strict=True):
        assert (got - wanted).abs().max() <= tolerance * wanted.abs().max()


@pytest.mark.parametrize(("entry", "contestant", "stage"), RUNS)
def test_speed(benchmark, device, settled, entry, contestant, stage):
    one = entry.case
    if why := cases.obstacle(contestant, one, device):
        pytest.skip(why)
    torch.set_num_threads(one.threads)
    call = getattr(cases.stages(contestant, one, device), stage)
    if stage == "backward":
        check(call(), cases.expected(one, device), one.dtype)
    call = settled(call)
    peak = memory.peak_extra_mib(call, device)  # which warms up
    start = time.perf_counter()
    call()
    once = time.perf_counter() - start
    benchmark.group = f"{stage}, {one.name}"
    benchmark.extra_info |= {
        "contestant": contestant,
        "stage": stage,
        "case": one._asdict(),
        "short": entry.short,
        "pairs": one.points * one.bumps,
        "peak_extra_mib": peak,
    }
    benchmark.pedantic(call, rounds=max(LEAST, min(MOST, int(SECONDS / once))))
