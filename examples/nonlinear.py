"""Pose a nonlinear equation of your own, Fisher's travelling wave, and solve it: u_t = u_xx + u (1 - u)."""

import math
from dataclasses import dataclass

import torch

from bumpnet_fast import BumpNet
from bumpnet_fast.problems import Problem
from bumpnet_fast.solvers import solve


@dataclass
class Fisher(Problem):
    name, want, time = "fisher", "diagonal", 1  # the residual needs u_xx and u_t; axis 1 is time
    lower: tuple = (-10.0, 0.0)
    upper: tuple = (10.0, 2.0)

    def residual(self, x, u):
        return u.d(1) - u.dd(0) - u.value * (1 - u.value)

    def exact(self, x):  # gives the initial and the boundary values, and measures the error
        return (1 + torch.exp((x[:, 0] - 5 / math.sqrt(6) * x[:, 1]) / math.sqrt(6))) ** -2


problem = Fisher()
net = BumpNet(2, (8, 3), problem.domain, dtype="float64")
solution = solve(problem, net)
print(f"relative L2 error {solution.rel_l2:.1e} with {net.rows.numel()} parameters by {solution.method}")
