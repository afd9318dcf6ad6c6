"""How much faster a step in DeepXDE, PINA and PhysicsNeMo is by the fused lane than by torch.autograd on the same net.

``python bench/integrations.py`` trains the problems of ``examples/`` in several lanes, step by step in turn, and prints
a table of the processor time of a step on one thread, at the problem's own size and at a larger one:

* fused: derivatives from one jet;
* autograd: the library's own automatic differentiation of the same net, which runs on our kernels, too;
* PyTorch: the same on the net's closed form in plain PyTorch, at the own size only, as it takes gigabytes;
* one bump: the fused lane with next to nothing for the kernels to do, so what the library, PyTorch and Python take;
* perceptron: the library's tutorial network.

The losses of the first two must agree.  Libraries that are not installed are left out, and named.
"""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import logging
import os
import runpy
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from bumpnet_fast.core.functional import use_backend

EXAMPLES = Path(__file__).parents[1] / "examples"
PROBLEMS = (
    ("pina", "poisson"),
    ("pina", "burgers"),
    ("physicsnemo", "cavity"),
    ("deepxde", "burgers"),
    ("deepxde", "poisson"),  # last, as it sets DeepXDE's default dtype
)
COLUMNS = ("fused", "autograd", "PyTorch", "one bump", "perceptron")
LARGER = dict(points=8000, bumps=(20, 20))

Step = tuple[Callable[[], None], Callable[[], float]]


def deepxde_step(example: dict, points: int, model: Callable) -> Step:
    """One step of DeepXDE's own training loop, and its training loss now."""
    import deepxde as dde

    dde.config.set_random_seed(0)
    data = example["data"](points)  # first, as it may set DeepXDE's default dtype
    model = dde.Model(data, model())
    model.compile("adam", lr=1e-3, verbose=0)
    model.train(iterations=1, verbose=0)
    state = model.train_state
    return (
        lambda: model.train_step(state.X_train, state.y_train, None),
        lambda: float(model.outputs_losses_train(state.X_train, state.y_train, None)[1].sum()),
    )


def pina_step(example: dict, points: int, model: Callable) -> Step:
    """One step of PINA's solver on the whole batch, without Lightning around it, and the training loss now."""
    import lightning

    lightning.seed_everything(0, verbose=False)  # PINA draws from three generators
    solver = example["solver"](model(), points)
    conditions = solver.problem.conditions
    points = {name: solver.problem.discretised_domains[c.domain] for name, c in conditions.items()}

    def loss() -> torch.Tensor:
        parts = (c.equation.residual(x := points[n].requires_grad_(True), solver(x)) for n, c in conditions.items())
        return sum(part.tensor.square().mean() for part in parts)

    return _adam(solver.parameters(), loss)


def physicsnemo_step(example: dict, points: int, model: Callable) -> Step:
    """One step of the loop in PhysicsNeMo's tutorial, with the same points every time, and its loss now."""
    torch.manual_seed(0)
    model, informer = model(), example["informer"]()

    def loss() -> torch.Tensor:
        torch.manual_seed(1)
        return example["loss"](model, informer, points)

    return _adam(model.parameters(), loss)


def _adam(parameters, loss: Callable[[], torch.Tensor]) -> Step:
    optimizer = torch.optim.Adam(parameters, lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step, lambda: float(loss().detach())


MAKE = {"deepxde": deepxde_step, "pina": pina_step, "physicsnemo": physicsnemo_step}


def own_size(example: dict) -> dict:
    """Points and bumps that the example has by itself."""
    takes_points = example.get("data") or example.get("solver") or example["loss"]
    points, bumps = (
        inspect.signature(f).parameters[n] for f, n in ((takes_points, "points"), (example["network"], "bumps"))
    )
    return dict(points=points.default, bumps=bumps.default)


def _step(make: Callable, example: dict, column: str, points: int, bumps: tuple[int, int]) -> Step:
    def model():
        if column == "perceptron":
            return example["perceptron"]()
        net = example["network"]((1, 1) if column == "one bump" else bumps)
        net.fused = column in ("fused", "one bump")
        return net

    backend = "reference" if column == "PyTorch" else "auto"
    with use_backend(backend):
        step, loss = make(example, points, model)

    def timed() -> None:
        with use_backend(backend):
            step()

    return timed, loss


def compare(library: str, problem: str, size: dict | None, repeats: int) -> dict:
    """Milliseconds of a step by each of COLUMNS; the loss of the first two afterwards and their relative difference."""
    torch.set_default_dtype(torch.float32)
    example = runpy.run_path(str(EXAMPLES / f"{library}_{problem}.py"))
    columns = [column for column in COLUMNS if size is None or column != "PyTorch"]
    size = size or own_size(example)
    lanes = {column: _step(MAKE[library], example, column, **size) for column in columns}
    times = {column: [] for column in columns}
    for turn in range(repeats + 2):
        for column, (step, _) in lanes.items():
            if column == "PyTorch" and turn > 4:
                continue
            start = time.process_time()
            step()
            times[column].append(time.process_time() - start)
    losses = [lanes[column][1]() for column in ("fused", "autograd")]
    result = {column: 1e3 * statistics.median(some[2:]) for column, some in times.items()}
    return result | size | dict(loss=losses[0], difference=abs(losses[0] - losses[1]) / abs(losses[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=LARGER["points"], help="at the larger size")
    parser.add_argument("--bumps", type=int, default=LARGER["bumps"][0], help="along each axis, at the larger size")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--short", action="store_true", help="the larger size only")
    args = parser.parse_args()
    os.environ.setdefault("DDE_BACKEND", "pytorch")
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    installed = {library for library in MAKE if importlib.util.find_spec(library)}
    print(f"| problem | points, bumps | {' | '.join(COLUMNS)} | autograd / fused | loss | difference |")
    print("|---" * (len(COLUMNS) + 5) + "|")
    for library, problem in PROBLEMS:
        if library not in installed:
            continue
        for size in (None, dict(points=args.points, bumps=(args.bumps, args.bumps)))[1 if args.short else 0 :]:
            r = compare(library, problem, size, args.repeats)
            figures = [f"{library} {problem}", f"{r['points']}, {r['bumps'][0]} x {r['bumps'][1]}"]
            figures += [f"{r[column]:.1f}" if column in r else "" for column in COLUMNS]
            figures += [f"{r['autograd'] / r['fused']:.1f}", f"{r['loss']:.3e}", f"{r['difference']:.0e}"]
            print(f"| {' | '.join(figures)} |", flush=True)
    if missing := sorted(MAKE.keys() - installed):
        print(f"\nnot installed: {', '.join(missing)}")


if __name__ == "__main__":
    main()
