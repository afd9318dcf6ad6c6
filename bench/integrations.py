"""How much faster a step in DeepXDE and PINA is by the fused lane than by torch.autograd on the same net.

``python bench/integrations.py`` trains the problems of ``examples/`` in both lanes, step by step in turn, and prints
the processor time of a step on one thread, their ratio, and the losses, which must agree.  Needs the libraries:
``pip install bumpnet_fast[integrations]``.
"""

from __future__ import annotations

import argparse
import logging
import os
import runpy
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

EXAMPLES = Path(__file__).parents[1] / "examples"
LANES = {"fused": True, "autograd": False}


def deepxde_step(example: dict, points: int, bumps: int, fused: bool) -> tuple[Callable[[], None], Callable[[], float]]:
    """One step of DeepXDE's own training loop, and its training loss now."""
    import deepxde as dde

    dde.config.set_random_seed(0)
    data = example["data"](points)  # first, as it may set DeepXDE's default dtype
    net = example["network"]((bumps, bumps))
    net.fused = fused
    model = dde.Model(data, net)
    model.compile("adam", lr=1e-3, verbose=0)
    model.train(iterations=1, verbose=0)
    state = model.train_state
    return (
        lambda: model.train_step(state.X_train, state.y_train, None),
        lambda: float(model.outputs_losses_train(state.X_train, state.y_train, None)[1].sum()),
    )


def pina_step(example: dict, points: int, bumps: int, fused: bool) -> tuple[Callable[[], None], Callable[[], float]]:
    """One step of PINA's solver on the whole batch, as its trainer calls it, and the training loss now."""
    import lightning

    lightning.seed_everything(0, verbose=False)  # PINA draws from three generators
    solver = example["solver"](points, (bumps, bumps))
    solver.model.fused = fused
    optimizer = torch.optim.Adam(solver.parameters(), lr=1e-3)
    conditions = solver.problem.conditions
    points = {name: solver.problem.discretised_domains[c.domain] for name, c in conditions.items()}

    def loss() -> torch.Tensor:
        parts = (c.equation.residual(x := points[n].requires_grad_(True), solver(x)) for n, c in conditions.items())
        return sum(part.tensor.square().mean() for part in parts)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step, lambda: float(loss().detach())


def compare(library: str, problem: str, points: int, bumps: int, repeats: int) -> dict[str, float]:
    """Milliseconds of a step by each lane, their ratio and the relative difference of the losses afterwards."""
    torch.set_default_dtype(torch.float32)
    example = runpy.run_path(str(EXAMPLES / f"{library}_{problem}.py"))
    make = {"deepxde": deepxde_step, "pina": pina_step}[library]
    lanes = {name: make(example, points, bumps, fused) for name, fused in LANES.items()}
    times = {name: [] for name in LANES}
    for _ in range(repeats):
        for name, (step, _) in lanes.items():
            start = time.process_time()
            step()
            times[name].append(time.process_time() - start)
    result = {name: 1e3 * statistics.median(some[2:]) for name, some in times.items()}
    fused, autograd = (loss() for _, loss in lanes.values())
    return result | {
        "ratio": result["autograd"] / result["fused"],
        "loss": fused,
        "difference": abs(fused - autograd) / abs(autograd),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=8000)
    parser.add_argument("--bumps", type=int, default=20, help="along each axis")
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    os.environ.setdefault("DDE_BACKEND", "pytorch")
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    lines = []
    for library, problem in (("pina", "poisson"), ("pina", "burgers"), ("deepxde", "burgers"), ("deepxde", "poisson")):
        r = compare(library, problem, args.points, args.bumps, args.repeats)
        dtype = str(torch.get_default_dtype()).removeprefix("torch.")
        lines.append(f"{library:8} {problem:8} {dtype}  fused {r['fused']:7.1f} ms  autograd {r['autograd']:7.1f} ms")
        lines[-1] += f"  ratio {r['ratio']:4.1f}  loss {r['loss']:.3e}, relative difference {r['difference']:.0e}"
    print(*lines, sep="\n")


if __name__ == "__main__":
    main()
