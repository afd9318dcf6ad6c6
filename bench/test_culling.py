"""Sharp bumps in large numbers: N = 2^18 points, M = 10^4 bumps, d = 2, float32, one thread.

    pytest bench/test_culling.py

prints the seconds of a Laplacian and its gradient to the rows, with the pairs that are zero to float32 left out (the
default here) beside all pairs.  The results are compared.  It takes a minute.
"""

from __future__ import annotations

import pytest
from sharp import Sharp, backward, forward

from bumpnet_fast.core import backends as native

POINTS, BUMPS = 2**18, 10**4
WHEN = {"ours": "auto", "all pairs": "never"}


def step(*args):
    return forward(*args), backward(*args)


@pytest.fixture(scope="module")
def results():
    return {}


@pytest.mark.parametrize("contestant", WHEN)
@pytest.mark.parametrize("sharpness", (10, 50))
@pytest.mark.benchmark(warmup=False, min_rounds=1, max_time=0.1)
def test_culling(benchmark, device, settled, results, contestant, sharpness):
    if device == "cpu" and native.missing is not None:
        pytest.skip("no compiled extension")
    benchmark.group = f"laplacian and gradient to rows, N = 2^18, M = 10^4, p A = {sharpness}, float32"
    benchmark.extra_info |= {"contestant": contestant, "pairs": POINTS * BUMPS}
    with native.use_culling(WHEN[contestant]):
        args = Sharp(POINTS, BUMPS, sharpness).arguments(device)
        got = benchmark.pedantic(settled(step), args, rounds=3 if contestant == "ours" else 1)
    expected = results.setdefault(sharpness, got)
    for g, e in zip(got, expected, strict=True):
        assert (g - e).abs().max() <= 1e-6 * e.abs().max()
