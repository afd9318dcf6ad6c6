"""Bumps placed by the slopes of the start."""

from dataclasses import dataclass

import pytest
import torch

from bumpnet_fast import BumpNet
from bumpnet_fast.problems import Problem, get
from bumpnet_fast.solvers.placement import grade


@dataclass
class Front(Problem):
    """Something that starts as a steep front at x = 0.4."""

    name, want, time = "front", "diagonal", 1
    lower: tuple = (-1.0, 0.0)
    upper: tuple = (1.0, 1.0)

    def boundary_values(self, x):
        return torch.tanh(50 * (x[:, 0] - 0.4))


def test_bumps_gather_at_a_front_and_shrink_there():
    problem = Front()
    net = BumpNet(2, (20, 3), problem.domain, dtype="float64")
    before = net.rows.detach().clone()
    grade(net, problem, 0.5)
    x, sizes = net.centres[:, 0], net.sizes / net.frame[2]
    assert ((x - 0.4).abs() < 0.1).double().mean() == pytest.approx(0.5, abs=0.12)
    at_front = (x - 0.4).abs() < 0.05
    assert sizes[at_front, 0].max() < 0.3 * sizes[~at_front, 0].max()
    assert net.sharpness[at_front].min() > net.sharpness[(x - 0.4).abs() > 0.5].max()
    assert torch.equal(net.rows[:, 1], before[:, 1]) and torch.equal(net.rows[:, 3], before[:, 3])
    columns = x.reshape(20, 3)
    assert (columns.diff(dim=0) > 0).all() and columns.abs().max() < 1


def test_without_slopes_or_share_nothing_moves():
    problem = get("poisson")
    for share, where in ((0.5, problem), (0.0, Front())):
        net = BumpNet(2, (4, 4), where.domain, dtype="float64")
        before = net.rows.detach().clone()
        grade(net, where, share)
        torch.testing.assert_close(net.rows.detach(), before)
