"""PINA's Burgers problem, u_t + u u_x = 0.01/pi u_xx, with bumps in the place of a perceptron."""

import math
import sys

import torch
from pina import Trainer
from pina.model import FeedForward
from pina.optim import TorchOptimizer
from pina.problem.zoo import BurgersProblem
from pina.solver import PhysicsInformedSingleModelSolver

from bumpnet_fast.integrations.pina import BumpNet


def network(bumps=(16, 8)):
    return BumpNet(2, bumps, [[-1, 0], [1, 1]])


def perceptron():
    return FeedForward(2, 1, layers=[20, 20, 20])


def solver(model, points=2000):
    problem = BurgersProblem(nu=0.01 / math.pi)
    problem.discretise_domain(points, "random", domains="D")
    problem.discretise_domain(points // 10, "random", domains=["t0", "boundary"])
    adam = TorchOptimizer(torch.optim.Adam, lr=1e-2)
    return PhysicsInformedSingleModelSolver(problem, model, optimizer=adam)


if __name__ == "__main__":
    torch.manual_seed(0)
    pinn = solver(perceptron() if "perceptron" in sys.argv else network())
    trainer = Trainer(pinn, max_epochs=400, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.train()
    print(f"final loss {float(trainer.callback_metrics['train_loss']):.1e}")
