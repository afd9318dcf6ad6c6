"""A physics-informed multilayer perceptron on the problems of this library, as good as practice makes it.

    python bench/mlp_pinn.py helmholtz --json -

It minimises the same rows as our solvers, in float64, by Adam and L-BFGS (``training.py`` has the stopping rule).
Boundary and initial values are built in wherever ours are, and periods by cosines and sines as inputs.  Its
derivatives are carried forward through the layers, which is exact and several times faster than nested
automatic differentiation.  ``--windows`` marches in time like ours, every window from the weights of the one before.
"""

from __future__ import annotations

import argparse
import copy
import functools
import itertools
import math
import sys
from typing import Any

import torch
import training
from torch import Tensor, nn

from bumpnet_fast import BumpNet, Jet, problems
from bumpnet_fast.core.reference import DIAGONAL, HESSIAN, LAPLACIAN, WANTS
from bumpnet_fast.problems import Problem
from bumpnet_fast.problems.sampling import lattice
from bumpnet_fast.solvers.marching import Part, chained_jet, window
from bumpnet_fast.solvers.residual import Block, blocks, collocation


class Perceptron(nn.Module):
    """``layers`` hidden layers of ``width`` with tanh, float64, on coordinates scaled to [-1, 1] or to angles."""

    def __init__(self, problem: Problem, layers: int, width: int, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.periodic = tuple(problem.periodic)
        sizes = [len(problem.lower) + len(self.periodic), *[width] * layers, problem.outputs]
        linear = [nn.Linear(a, b, dtype=torch.float64) for a, b in itertools.pairwise(sizes)]
        for layer in linear:
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.layers = nn.ModuleList(linear)
        self.register_buffer("domain", problem.domain)

    def features(self, x: Tensor) -> Tensor:
        """What the first layer gets, [N, F]."""
        lo, hi = self.domain
        scaled = (2 * x - lo - hi) / (hi - lo)
        columns = []
        for j, s in enumerate(scaled.unbind(1)):
            columns += [torch.cos(math.pi * s), torch.sin(math.pi * s)] if j in self.periodic else [s]
        return torch.stack(columns, 1)

    def jet(self, x: Tensor, want: str = "value") -> Jet:
        """Jet at ``x`` [N, d]."""
        return self.through(Jet.of(self.features, x, want))

    def through(self, inputs: Jet) -> Jet:
        """Jet of the outputs from that of :meth:`features`, by Taylor's formula layer by layer."""
        parts = [inputs.value[None]]
        level, n = WANTS.index(inputs.want), len(inputs.value)
        if inputs.gradient is not None:
            parts.append(inputs.gradient.permute(2, 0, 1))
        if inputs.second is not None:
            parts.append(inputs.second.reshape(n, inputs.value.shape[1], -1).permute(2, 0, 1))
        sizes = [len(part) for part in parts]
        z = torch.cat(parts)
        for k, layer in enumerate(self.layers):
            z = z @ layer.weight.T
            value, *rest = z.split(sizes)
            value = value + layer.bias
            if k < len(self.layers) - 1:
                value, *rest = _tanh(value, rest, level)
                z = torch.cat([value, *rest])
        value, *rest = value[0], *(part.permute(1, 2, 0) for part in rest)
        if rest[1:]:
            d = rest[0].shape[2]
            shape = {DIAGONAL: (d,), HESSIAN: (d, d), LAPLACIAN: ()}[level]
            rest[1] = rest[1].reshape(*value.shape, *shape)
        return Jet(inputs.want, value, *rest)


def _tanh(value: Tensor, rest: list[Tensor], level: int) -> tuple[Tensor, ...]:
    """Value [1, N, W], gradient [d, N, W] and second derivatives [s, N, W] of tanh of what has the given ones."""
    t = torch.tanh(value)
    if not rest:
        return (t,)
    slope = 1 - t * t
    if not rest[1:]:
        return t, slope * rest[0]
    gradient, second = rest
    if level == HESSIAN:
        squares = (gradient[:, None] * gradient[None]).flatten(0, 1)
    else:
        squares = gradient.square()
        squares = squares.sum(0, keepdim=True) if level == LAPLACIAN else squares
    return t, slope * gradient, slope * (second - 2 * t * squares)


def naturally_periodic(problem: Problem) -> Problem:
    """The problem for functions that are periodic as they are: nothing is left to wrap or to impose."""
    if not problem.periodic:
        return problem

    class Periodic(type(problem)):
        def wrap(self, x, want):
            return lambda v: v

        def shifts(self):
            return [(0.0,) * len(self.lower)]

        def periodicity(self, axis):
            raise RuntimeError(f"axis {axis} is periodic as it is")

    return Periodic(**{name: getattr(problem, name) for name in problem.settings()})


def loss_of(net: Perceptron, rows: list[Block]):
    """A function without arguments: the sum of squares of the rows.  The inputs' jets are computed once."""
    inputs = [[Jet.of(net.features, x, block.want) for x in (block.x, *block.others)] for block in rows]

    def loss() -> Tensor:
        parts = (
            block.residual(tuple(map(net.through, jets)), {}).square().sum()
            for block, jets in zip(rows, inputs, strict=True)
        )
        return functools.reduce(torch.add, parts)

    return loss


def solve(problem: Problem, options: argparse.Namespace) -> tuple[list[Part], dict[str, Any]]:
    """The trained perceptrons, one per window of time, and what was done, added up."""
    boundary = options.boundary or problem.forms[0]
    whole, parts, net = naturally_periodic(problem), [], None
    edges = [None, None]
    if options.windows > 1:
        first, last = problem.lower[problem.time], problem.upper[problem.time]
        edges = [first + (last - first) * k / options.windows for k in range(options.windows + 1)]
    reports = []
    for start, stop in itertools.pairwise(edges):
        part = whole if start is None else window(whole, start, stop, parts[-1].jet if parts else None)
        fresh = Perceptron(part, options.layers, options.width, options.seed)
        if net is not None:
            fresh.load_state_dict(net.state_dict() | {"domain": fresh.domain})
        net = fresh
        with torch.no_grad():  # of the windows before
            rows = _rows(part, boundary, options)
        said = training.train(
            net, loss_of(net, rows), adam=options.adam, rate=options.rate, seconds=options.seconds / (len(edges) - 1)
        )
        parts.append(Part(part, copy.deepcopy(net), boundary))
        reports.append(said)
    return parts, _together(reports) | {"boundary": boundary, "points": sum(len(block.x) for block in rows)}


def _rows(part: Problem, boundary: str, options: argparse.Namespace) -> list[Block]:
    bumps = part.default_bumps if options.bumps is None else options.bumps
    ours = BumpNet(len(part.lower), bumps, part.domain, part.outputs, dtype="float64")
    x, counts = collocation(part, ours, options.points, options.sampling, options.seed)
    return blocks(part, boundary, counts, x, 1.0)


def _together(reports: list[dict[str, Any]]) -> dict[str, Any]:
    keys = "processor_seconds", "seconds", "iterations", "adam", "lbfgs"
    sums = {key: sum(r[key] for r in reports) for key in keys}
    capped = sum(r["stop_reason"] != "converged" for r in reports)
    reason = "stopped at the cap" if capped else "converged"
    reason += f" in {capped} of {len(reports)} windows" if capped and len(reports) > 1 else ""
    return {"loss": max(r["loss"] for r in reports), **sums, "stop_reason": reason} | {
        "stopping_rule": reports[0]["stopping_rule"],
        "losses": [r["losses"] for r in reports],
    }


@torch.no_grad()
def error_of(problem: Problem, parts: list[Part]) -> float:
    """Relative L2 error on a regular grid over the domain, the one that ours is measured on."""
    x = lattice(problem.domain)
    x = x[problem.inside(x)]
    exact = problem.reference(x).reshape(len(x), -1)
    value = (chained_jet(parts, x, "value") if len(parts) > 1 else parts[0].jet(x, "value")).value
    return float(torch.linalg.vector_norm(value - exact) / torch.linalg.vector_norm(exact))


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("problem", choices=problems.PROBLEMS)
    add("--layers", type=int, default=3)
    add("--width", type=int, default=40)
    add("--boundary", choices=("hard", "soft"), help="default: as ours")
    add("--windows", type=int, default=1, help="march in time")
    add("--bumps", type=_grid, help="of ours, which say how many points there are by default")
    add("--points", type=int, help="default: those of ours")
    add("--sampling", choices=("grid", "chebyshev", "sobol", "uniform"), default="grid", help="default: as ours")
    add("--adam", type=int, default=3000, help="iterations, of every window")
    add("--rate", type=float, default=5e-3, help="Adam's at the start")
    training.add_arguments(parser, seconds=600.0)
    return parser


def _grid(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split("x")))


def main(argv: list[str] | None = None) -> int:
    options = parser().parse_args(argv)
    torch.set_num_threads(1)
    problem = problems.get(options.problem)
    parts, said = solve(problem, options)
    parameters = sum(p.numel() for p in parts[0].net.parameters())
    report = {
        "problem": problem.name,
        "method": f"perceptron, {options.layers} x {options.width} tanh",
        "parameters": parameters * len(parts),
        "windows": len(parts),
        "parameters_per_window": parameters,
        "rel_l2": error_of(problem, parts),
    }
    training.write(options, report | said)
    return 0


if __name__ == "__main__":
    sys.exit(main())
