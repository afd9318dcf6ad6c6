"""A multilayer perceptron on the problems of this library, beside a BumpNet trained in the same process.

    python bench/mlp_pinn.py helmholtz --adam 2000 --lbfgs 500

prints parameters, error and seconds of both as JSON.  The perceptron minimises the same rows at the same
points; its derivatives are taken by nested automatic differentiation, as PINN codes do.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time

import torch
from torch import Tensor, nn

from bumpnet_fast import BumpNet, Jet, problems
from bumpnet_fast.problems import Problem
from bumpnet_fast.problems.sampling import lattice
from bumpnet_fast.reference import WANTS
from bumpnet_fast.solvers import solve, train
from bumpnet_fast.solvers.system import Block, blocks, collocation


class Perceptron(nn.Module):
    """``layers`` hidden layers of ``width`` with tanh, float64, on coordinates scaled to [-1, 1]."""

    def __init__(self, problem: Problem, layers: int, width: int, seed: int):
        super().__init__()
        torch.manual_seed(seed)
        sizes = [len(problem.lower), *[width] * layers, problem.outputs]
        linear = [nn.Linear(a, b, dtype=torch.float64) for a, b in itertools.pairwise(sizes)]
        for layer in linear:
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.body = nn.Sequential(*[part for layer in linear[:-1] for part in (layer, nn.Tanh())], linear[-1])
        self.register_buffer("domain", problem.domain)

    def forward(self, x: Tensor) -> Tensor:
        lo, hi = self.domain
        return self.body((2 * x - lo - hi) / (hi - lo))

    def jet(self, x: Tensor, want: str) -> Jet:
        """Jet at ``x`` [N, d] by nested automatic differentiation, with a graph."""
        level, x = WANTS.index(want), x.detach().requires_grad_()
        value = self(x)
        if level == 0:
            return Jet(want, value)
        first = [torch.autograd.grad(v.sum(), x, create_graph=True)[0] for v in value.unbind(1)]
        if level == 1:
            return Jet(want, value, torch.stack(first, 1))
        hessian = [
            torch.stack([torch.autograd.grad(g.sum(), x, create_graph=True)[0] for g in by.unbind(1)], 1)
            for by in first
        ]
        jet = Jet("hessian", value, torch.stack(first, 1), torch.stack(hessian, 1))
        return jet if want == "hessian" else Jet(want, *jet._parts_as(want))


def loss_of(net: Perceptron, rows: list[Block]) -> Tensor:
    """Sum of squares of the rows."""
    parts = (block.residual(tuple(net.jet(x, block.want) for x in (block.x, *block.others)), {}) for block in rows)
    return sum(part.square().sum() for part in parts)


def train_perceptron(net: Perceptron, rows: list[Block], adam: int, lbfgs: int, rate: float, seconds: float) -> str:
    """Adam with cosine decay, then L-BFGS, each for half of ``seconds`` at most; how far they came."""
    start, done = time.perf_counter(), 0
    optimizer = torch.optim.Adam(net.parameters(), lr=rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, adam, 0.01 * rate)
    while done < adam and time.perf_counter() - start < seconds / 2:
        optimizer.zero_grad()
        loss_of(net, rows).backward()
        optimizer.step()
        schedule.step()
        done += 1
    said = f"{done} of Adam"
    options = {"line_search_fn": "strong_wolfe", "history_size": 50, "tolerance_grad": 0.0, "tolerance_change": 0.0}
    scale = 1 / max(float(loss_of(net, rows).detach()), 1e-300)  # see solvers/stages.py
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=10, max_eval=40, **options)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = scale * loss_of(net, rows)
        loss.backward()
        return loss.detach()

    first = optimizer.param_groups[0]["params"][0]
    while optimizer.state[first].get("n_iter", 0) < lbfgs and time.perf_counter() - start < seconds:
        optimizer.step(closure)
    return f"{said}, {optimizer.state[first].get('n_iter', 0)} of L-BFGS"


@torch.no_grad()
def error_of(jet, problem: Problem, boundary: str) -> float:
    """Relative L2 error on a regular grid over the domain."""
    x = lattice(problem.domain)
    exact = problem.reference(x).reshape(len(x), -1)
    u = problem.extend(lambda x: jet(x, "value"), x, "value") if boundary == "hard" else jet(x, "value")
    return float(torch.linalg.vector_norm(u.value - exact) / torch.linalg.vector_norm(exact))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problem", choices=problems.PROBLEMS)
    parser.add_argument("--adam", type=int, default=2000, help="iterations")
    parser.add_argument("--lbfgs", type=int, default=500, help="iterations")
    parser.add_argument("--rate", type=float, default=2e-3, help="Adam's for the perceptron")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--width", type=int, default=40)
    parser.add_argument("--boundary", choices=("hard", "soft"), default="soft", help="of the perceptron; ours is hard")
    parser.add_argument("--seconds", type=float, default=math.inf, help="most for the perceptron")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    problem = problems.get(arguments.problem)
    torch.set_num_threads(1)

    def bumps() -> BumpNet:
        return BumpNet(len(problem.lower), problem.default_bumps, problem.domain, problem.outputs, dtype="float64")

    x, counts = collocation(problem, bumps(), None, "grid", 0)
    report = {"problem": problem.name, "points": len(x), "dtype": "float64", "threads": 1}
    for name, call in (
        ("varpro", lambda net: solve(problem, net)),
        ("adam+lbfgs", lambda net: train(problem, net, method="adam+lbfgs", iterations=(1000, 1000))),
    ):
        solution = call(bumps())
        found = {"parameters": solution.net.rows.numel(), "rel_l2": solution.rel_l2, "loss": solution.loss}
        report[f"bumps, {name}"] = found | {"seconds": round(solution.seconds, 2), "iterations": solution.iterations}
    net = Perceptron(problem, arguments.layers, arguments.width, arguments.seed)
    rows, start = blocks(problem, arguments.boundary, counts, x, 1.0), time.perf_counter()
    said = train_perceptron(net, rows, arguments.adam, arguments.lbfgs, arguments.rate, arguments.seconds)
    seconds = round(time.perf_counter() - start, 2)
    found = {"parameters": sum(p.numel() for p in net.parameters()), "boundary": arguments.boundary}
    found |= {"rel_l2": error_of(net.jet, problem, arguments.boundary), "loss": float(loss_of(net, rows).detach())}
    report["perceptron"] = found | {"seconds": seconds, "iterations": said}
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
