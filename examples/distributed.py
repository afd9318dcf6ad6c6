"""Solve Helmholtz's equation with several processes that share the points, then with fewer bumps; and train by DDP.

torchrun --nproc-per-node 2 examples/distributed.py
"""

import os
import time

import torch
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from bumpnet_fast import BumpNet, problems
from bumpnet_fast.nets.adapt import Pruning
from bumpnet_fast.solvers import prune, solve


def say(text):
    if dist.get_rank() == 0:
        print(text, flush=True)


def spread(rows):
    """The largest difference of any rank's rows from those of rank 0."""
    first = rows.detach().clone()
    dist.broadcast(first, 0)
    difference = (first - rows.detach()).abs().max()
    dist.all_reduce(difference, dist.ReduceOp.MAX)
    return float(difference)


class Loss(torch.nn.Module):
    """What DistributedDataParallel wraps: the jet must be taken in ``forward``, or it cannot see it."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        u, target = self.net.jet(x, want="value"), torch.exp(-4 * x.square().sum(1, keepdim=True))
        return (u.value - target).square().mean()


def solve_and_prune(device):
    group = dist.group.WORLD
    problem = problems.get("helmholtz")
    net = BumpNet(2, (4, 8), problem.domain, dtype="float64", device=device)
    solution = solve(problem, net, iterations=60, group=group)  # every rank gets its share of the points
    say(f"{dist.get_world_size()} ranks: relative L2 error {solution.rel_l2:.1e} with {len(net.rows)} bumps")
    solution = prune(problem, net, 24, iterations=10, group=group)
    say(f"pruned: relative L2 error {solution.rel_l2:.1e} with {len(net.rows)} bumps")
    say(f"ranks differ by {spread(net.rows)}")


def train(device):
    group, rank = dist.group.WORLD, dist.get_rank()
    net = BumpNet(2, 36, device=device)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    pruning = Pruning(net, optimizer, threshold=0.05, every=50, start=100, group=group)
    x = torch.rand(2000, 2, generator=torch.Generator().manual_seed(rank)).to(device) * 2 - 1  # a rank's own points
    loss = DistributedDataParallel(Loss(net))
    for _ in range(200):
        optimizer.zero_grad()
        error = loss(x)
        error.backward()
        optimizer.step()
        if pruning.step(error):
            loss = DistributedDataParallel(Loss(net))  # the rows are a new parameter, which must be exchanged
    say(f"DDP: mean square error {error:.1e} with {len(net.rows)} of 36 bumps, ranks differ by {spread(net.rows)}")


def main():
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo")
    solve_and_prune(device)
    train(device)
    dist.destroy_process_group()
    time.sleep(0.5)  # for gloo's threads to drop their last tensors: PyTorch 2.14 aborts if Python ends before that


if __name__ == "__main__":
    main()
