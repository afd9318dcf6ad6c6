"""A DeepONet of two multilayer perceptrons on one of the operators, trained until its loss stalls.

    python bench/deeponet.py antiderivative --linear --json -

Its tanh trunk has three layers 128 wide and 100 functions, and periodic features where the operator is periodic; its
branch is a ReLU network 128 wide, or one linear layer.  Data, loss (squared relative errors) and the measure of the
error are those of ``bumpnet operator`` with the same seed.  It is trained in float64 by Adam on batches of 256, then by
L-BFGS on all functions (``training.py`` has the stopping rule), and keeps the weights that are best on 200 functions
more, which ours does not get.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys

import torch
import training
from torch import Tensor, nn

from bumpnet_fast.problems.operators import OPERATORS, Operator, OperatorData, get_operator
from bumpnet_fast.solvers.operators.fit import relative_weights

WIDTH, FUNCTIONS, BATCH = 128, 100, 256
TRAINED, TESTED = 1000, 200
#: Seeds of the functions that choose the weights, away from those that the rest is drawn by.
OTHER = 10_000


class DeepONet(nn.Module):
    """float64, with a linear branch or one of two hidden layers."""

    def __init__(self, operator: Operator, linear: bool):
        super().__init__()
        dim, sensors = operator.domain.shape[1], operator.sensors
        self.periodic = operator.periodic
        branch = [sensors, FUNCTIONS] if linear else [sensors, WIDTH, WIDTH, FUNCTIONS]
        self.branch = layers(branch, nn.ReLU)
        self.trunk = layers([dim + self.periodic, WIDTH, WIDTH, WIDTH, FUNCTIONS], nn.Tanh)
        self.bias = nn.Parameter(torch.zeros(()))
        self.double()

    def forward(self, f: Tensor, y: Tensor) -> Tensor:
        if self.periodic:
            angle = 2 * math.pi * y[:, :1]
            y = torch.cat([torch.cos(angle), torch.sin(angle), y[:, 1:]], 1)
        return self.branch(f) @ self.trunk(y).T + self.bias


def layers(widths: list[int], activation: type[nn.Module]) -> nn.Sequential:
    parts = [part for a, b in itertools.pairwise(widths) for part in (nn.Linear(a, b), activation())]
    return nn.Sequential(*parts[:-1])


@torch.no_grad()
def error(net: nn.Module, data: OperatorData) -> float:
    difference = torch.linalg.vector_norm(net(data.inputs, data.points) - data.outputs, dim=1)
    return float((difference / torch.linalg.vector_norm(data.outputs, dim=1)).mean())


def train(net: DeepONet, data: OperatorData, chooser: OperatorData, options: argparse.Namespace) -> dict:
    weights, everything = relative_weights(data.outputs), torch.arange(len(data.inputs))

    def loss(chosen: Tensor) -> Tensor:
        difference = net(data.inputs[chosen], data.points) - data.outputs[chosen]
        return (weights[chosen] * difference).square().sum(1).mean()

    return training.train(
        net,
        lambda: loss(everything),
        adam=options.adam,
        rate=options.rate,
        seconds=options.seconds,
        batch_loss=lambda: loss(torch.randint(0, len(everything), (BATCH,))),
        error=lambda: error(net, chooser),
    )


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("operator", choices=OPERATORS)
    parser.add_argument("--linear", action="store_true", help="a linear branch")
    parser.add_argument("--adam", type=int, default=100_000, help="iterations")
    parser.add_argument("--rate", type=float, default=1e-3, help="Adam's at the start")
    training.add_arguments(parser, seconds=300.0)
    return parser


def main(argv: list[str] | None = None) -> int:
    options = parser().parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    operator = get_operator(options.operator)
    data, test = operator.generate(TRAINED + TESTED, options.seed).split(TRAINED)
    net = DeepONet(operator, options.linear)
    said = train(net, data, operator.generate(TESTED, OTHER + options.seed), options)
    report = {
        "problem": operator.name,
        "method": f"DeepONet, {'linear' if options.linear else 'ReLU'} branch",
        "parameters": sum(p.numel() for p in net.parameters()),
        "rel_l2": error(net, test),
        "train_rel_l2": error(net, data),
    }
    training.write(options, report | said)
    return 0


if __name__ == "__main__":
    sys.exit(main())
