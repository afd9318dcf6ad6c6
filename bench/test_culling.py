"""Sharp bumps in large numbers: N = 2^18 points, M = 10^4 bumps, d = 2, float32, one thread.

    pytest bench/test_culling.py

prints the seconds of a Laplacian and its gradient to the rows, with the pairs that are zero to float32 left out (the
default here) beside all pairs.  The results are compared.  It takes a minute.
"""

from __future__ import annotations

import math

import pytest
import torch

from bumpnet_fast import native
from bumpnet_fast.reference import LAPLACIAN
from bumpnet_fast.rows import RowLayout

POINTS, BUMPS = 2**18, 10**4
WHEN = {"ours": "auto", "all pairs": "never"}


def sharp_bumps(sharpness: float) -> tuple[torch.Tensor, ...]:
    """Points, rows, frame and cotangents: bumps anywhere, which cover the domain four times; p A is ``sharpness``."""
    generator = torch.Generator().manual_seed(0)
    layout = RowLayout(2)
    rows = torch.zeros(BUMPS, layout.columns)
    rows[:, layout.centre] = torch.atanh((2 * torch.rand(BUMPS, 2, generator=generator) - 1) / 1.2)
    rows[:, layout.size] = math.log(2)
    rows[:, layout.skew] = torch.rand(BUMPS, 1, generator=generator) - 0.5
    rows[:, layout.sharpness] = math.log(sharpness)
    rows[:, layout.amplitude] = torch.randn(BUMPS, 1, generator=generator)
    frame = torch.tensor([[-1.2, -1.2], [1.2, 1.2], [math.sqrt(BUMPS / 4)] * 2])
    x = 2 * torch.rand(POINTS, 2, generator=generator) - 1
    return x, rows, frame, torch.randn(POINTS, 1, generator=generator)


def step(x, rows, frame, cotangent):
    second = torch.ops.bumpnet_fast.jet(x, rows, frame, LAPLACIAN, True)[2]
    gradient = torch.ops.bumpnet_fast.jet_vjp(None, None, cotangent, x, rows, frame, LAPLACIAN, True, False, True)[1]
    return second, gradient


@pytest.fixture(scope="module")
def results():
    return {}


@pytest.mark.skipif(native.missing is not None, reason="no compiled extension")
@pytest.mark.parametrize("contestant", WHEN)
@pytest.mark.parametrize("sharpness", (10, 50))
@pytest.mark.benchmark(warmup=False, min_rounds=1, max_time=0.1)
def test_culling(benchmark, device, results, contestant, sharpness):
    if device != "cpu":
        pytest.skip("so far the CPU's kernels alone leave pairs out")
    benchmark.group = f"laplacian and gradient to rows, N = 2^18, M = 10^4, p A = {sharpness}, float32"
    benchmark.extra_info |= {"contestant": contestant, "pairs": POINTS * BUMPS}
    with native.use_culling(WHEN[contestant]):
        got = benchmark.pedantic(step, sharp_bumps(sharpness), rounds=3 if contestant == "ours" else 1)
    expected = results.setdefault(sharpness, got)
    for g, e in zip(got, expected, strict=True):
        assert (g - e).abs().max() <= 1e-6 * e.abs().max()
