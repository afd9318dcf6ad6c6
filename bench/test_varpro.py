"""Ten iterations of variable projection: 280 parameters, 1,024 points, float64, one thread.

    pytest bench/test_varpro.py

prints the time with the compiled kernels beside that with the plain PyTorch reference.
"""

from __future__ import annotations

import pytest
import torch

from bumpnet_fast import BumpNet, use_backend
from bumpnet_fast.problems import Helmholtz
from bumpnet_fast.solvers import solve

CONTESTANTS = {"ours": "auto", "reference": "reference"}


def ten_iterations(backend: str):
    problem = Helmholtz()
    net = BumpNet(2, (4, 10), problem.domain, dtype=torch.float64)
    with use_backend(backend):
        return solve(problem, net, points=(32, 32), iterations=10)


@pytest.mark.parametrize("contestant", CONTESTANTS)
@pytest.mark.benchmark(group="ten varpro iterations, 280 parameters, 1024 points, float64", warmup=True, min_rounds=5)
def test_varpro(benchmark, device, contestant):
    if device != "cpu":
        pytest.skip("a problem of this size is solved on the CPU")
    benchmark.extra_info["contestant"] = contestant
    solution = benchmark(ten_iterations, CONTESTANTS[contestant])
    assert solution.iterations == 10 and solution.rel_l2 < 1e-2
