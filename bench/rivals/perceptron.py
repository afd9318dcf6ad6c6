"""A perceptron trained by Adam and L-BFGS (bench/mlp_pinn.py), on those problems that it solves in minutes."""

from __future__ import annotations

import functools

import mlp_pinn
import torch

from bumpnet_fast.problems import Problem

from .rungs import Answer, Rung

NAME = "perceptron, L-BFGS"
ABOUT = "a physics-informed perceptron of three layers, Adam, then L-BFGS (`bench/mlp_pinn.py`), where it takes minutes"

#: Width of the three layers and the most processor seconds, by problem.
SIZES: dict[str, tuple[tuple[int, float], ...]] = {
    "poisson": ((10, 20.0), (20, 60.0)),
    "heat": ((10, 20.0), (20, 60.0)),
}
#: Iterations of Adam; the rest of the time is for L-BFGS.
ADAM = 1000


def solve(problem: Problem, width: int, seconds: float) -> Answer:
    options = mlp_pinn.parser().parse_args(
        [problem.name, "--width", str(width), "--seconds", str(seconds), "--adam", str(ADAM)]
    )
    parts, _ = mlp_pinn.solve(problem, options)

    def u(x: torch.Tensor) -> torch.Tensor:
        return parts[0].jet(x, "value").value.detach()

    return Answer(sum(p.numel() for p in parts[0].net.parameters()), u)


def ladder(name: str, problem: Problem) -> list[Rung]:
    return [
        Rung(f"3 x {width}", [functools.partial(solve, problem, width, seconds)])
        for width, seconds in SIZES.get(name, ())
    ]
