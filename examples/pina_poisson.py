"""PINA's Poisson problem on the unit square, with bumps in the place of a perceptron."""

import sys

import torch
from pina import Trainer
from pina.model import FeedForward
from pina.optim import TorchOptimizer
from pina.problem.zoo import Poisson2DSquareProblem
from pina.solver import PhysicsInformedSingleModelSolver
from pina.weighting import ScalarWeighting

from bumpnet_fast.integrations.pina import BumpNet


def network(bumps=(6, 6)):
    return BumpNet(2, bumps, [[0, 0], [1, 1]])


def perceptron():
    return FeedForward(2, 1, layers=[20, 20])


def solver(model, points=500):
    problem = Poisson2DSquareProblem()
    problem.discretise_domain(points, "random", domains="D")
    problem.discretise_domain(points // 4, "random", domains="boundary")
    adam, weights = TorchOptimizer(torch.optim.Adam, lr=1e-2), ScalarWeighting({"D": 1.0, "boundary": 1000.0})
    return PhysicsInformedSingleModelSolver(problem, model, optimizer=adam, weighting=weights)


if __name__ == "__main__":
    torch.manual_seed(0)
    pinn = solver(perceptron() if "perceptron" in sys.argv else network())
    Trainer(pinn, max_epochs=400, accelerator="cpu", logger=False, enable_checkpointing=False).train()
    x = pinn.problem.spatial_domain.sample(2000, "random")
    u, exact = pinn(x).tensor.detach(), pinn.problem.solution(x).tensor
    print(f"relative L2 error {float((u - exact).norm() / exact.norm()):.1e}")
