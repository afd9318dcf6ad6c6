"""The training step of a PINN: N = 10,000 points, M = 400 bumps, d = 2, float32, one thread or a GPU.

    pytest bench/test_training_step.py [--device cuda]

prints, at the end, every contestant's time, its ratio to ours, and its peak extra memory.
"""

from __future__ import annotations

import memory
import peers
import pytest
import torch

POINTS, BUMPS = 10_000, 400
CONTESTANTS = {
    "ours": lambda: peers.ours,
    "torch.compile analytic": peers.compiled,
    "eager analytic": lambda: peers.analytic,
    "nested autograd": lambda: peers.nested_autograd,
}


@pytest.fixture(scope="module")
def expected(device):
    args = peers.case(2, POINTS, BUMPS, torch.float32, device=device)
    return args, peers.step(peers.ours, *(t.double() if t.is_floating_point() else t for t in args))


@pytest.mark.parametrize("contestant", CONTESTANTS)
@pytest.mark.benchmark(group="training step, N=10000 M=400 d=2 float32 laplacian", warmup=True, min_rounds=7)
def test_training_step(benchmark, timed, device, contestant, expected):
    args, (loss, gradient) = expected
    residual = CONTESTANTS[contestant]()
    ours_loss, ours_gradient = peers.step(residual, *args)
    assert abs(ours_loss.double() - loss) <= 1e-4 * loss
    assert (ours_gradient.double() - gradient).abs().max() <= 2e-3 * gradient.abs().max()
    benchmark.extra_info |= {
        "contestant": contestant,
        "pairs": POINTS * BUMPS,
        "peak_extra_mib": memory.peak_extra_mib(lambda: peers.step(residual, *args), device),
    }
    timed(peers.step, residual, *args)
