"""A Bump-DeepONet beside plain DeepONets on one operator: parameters, error and seconds, in one process.

    python bench/deeponet.py antiderivative --seconds 60

The plain ones have a tanh trunk of three layers 128 wide, 100 functions, and periodic features where the
operator is periodic; their branch is a ReLU network 128 wide, or one linear layer.  They are trained in
float32 by Adam on batches of 256 with the loss that ours has (squared relative errors), the learning rate
falling like a cosine over the given time.  Seconds are those of one processor; ours include making the
data.  Errors are mean relative L2 errors over 200 test functions;
the three before the end, at the quarters of the training, show whether it has converged.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time

import torch
from torch import Tensor, nn

from bumpnet_fast import BumpDeepONet
from bumpnet_fast.problems.operators import OPERATORS, Operator, OperatorData, get_operator
from bumpnet_fast.solvers.deeponet import train
from bumpnet_fast.solvers.deeponet.fit import relative_weights

WIDTH, FUNCTIONS, BATCH = 128, 100, 256
RATE, FINAL_RATE = 1e-3, 1e-6


class DeepONet(nn.Module):
    """The peer: two multilayer perceptrons, or a linear branch."""

    def __init__(self, operator: Operator, linear: bool):
        super().__init__()
        dim, sensors = operator.domain.shape[1], operator.sensors
        self.periodic = operator.periodic
        self.branch = nn.Linear(sensors, FUNCTIONS) if linear else layers([sensors, WIDTH, WIDTH, FUNCTIONS], nn.ReLU)
        self.trunk = layers([dim + self.periodic, WIDTH, WIDTH, WIDTH, FUNCTIONS], nn.Tanh)
        self.bias = nn.Parameter(torch.zeros(()))

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


def train_peer(net: DeepONet, data: OperatorData, test: OperatorData, seconds: float) -> list[float]:
    """Errors at the quarters of the training."""
    weights, errors, steps = relative_weights(data.outputs), [], 0
    optimiser = torch.optim.Adam(net.parameters(), RATE)
    start = time.process_time()
    while (share := (time.process_time() - start) / seconds) < 1:
        optimiser.param_groups[0]["lr"] = FINAL_RATE + (RATE - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * share))
        chosen = torch.randint(0, len(data.inputs), (BATCH,))
        optimiser.zero_grad(set_to_none=True)
        difference = net(data.inputs[chosen], data.points) - data.outputs[chosen]
        (weights[chosen] * difference).square().sum(1).mean().backward()
        optimiser.step()
        steps += 1
        if share > 0.25 * (len(errors) + 1):
            errors.append(error(net, test))
    print(f"  {steps} steps, training error {error(net, data):.2e}")
    return [*errors, error(net, test)]


def report(name: str, parameters: int, errors: list[float], seconds: float) -> None:
    quarters = "  ".join(f"{e:.2e}" for e in errors[:-1])
    print(f"{name:<44}{parameters:>8} parameters  error {errors[-1]:.2e}  {seconds:8.1f} s   {quarters}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("operator", choices=OPERATORS)
    parser.add_argument("--seconds", type=float, default=60.0, help="of processor time, for each plain DeepONet")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a field of the operator")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    operator = get_operator(arguments.operator, **dict(pair.split("=") for pair in arguments.set))
    periodic = [operator.periodic and axis == 0 for axis in range(operator.domain.shape[1])]
    sizes = (8, 12, 16) if len(periodic) == 1 and operator.linear else (operator.default_bumps,)
    for bumps in sizes:
        torch.manual_seed(0)
        branch = None if operator.linear else (64,)
        net = BumpDeepONet(
            operator.sensors, bumps, operator.domain, branch=branch, periodic=periodic, dtype=torch.float64
        )
        solution = train(operator, net, iterations=20_000, learning_rate=1e-2)
        report(
            f"Bump-DeepONet, two steps, {len(net.rows)} bumps", solution.parameters, [solution.rel_l2], solution.seconds
        )
    data, test = operator.generate(1200).to(torch.float32).split(1000)
    for linear in (True, False):
        torch.manual_seed(0)
        peer = DeepONet(operator, linear)
        errors = train_peer(peer, data, test, arguments.seconds)
        parameters = sum(p.numel() for p in peer.parameters())
        report(f"DeepONet, {'linear' if linear else 'ReLU'} branch", parameters, errors, arguments.seconds)


if __name__ == "__main__":
    main()
