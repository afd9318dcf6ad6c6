"""The command ``bumpnet operator``: learn an operator and write down what comes out; ``cli.py`` for operators."""

from __future__ import annotations

import argparse
import contextlib
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__
from .cli import (
    INTERRUPTED,
    UsageError,
    _add_output_arguments,
    _bumps,
    _check_writable,
    _computing_threads,
    _integer,
    _json,
    _options,
    _pairs,
    _progress,
    _scoped,
    _show,
    _write_json,
)

if TYPE_CHECKING:
    from .deeponet import BumpDeepONet
    from .problems.operators import Operator
    from .solvers.deeponet import OperatorSolution

_SHOWN = ("problem", "method", "physics", "bumps", "branch", "parameters", "rel_l2", "train_rel_l2",
          "projection_rel_l2", "loss", "seconds", "iterations", "stop_reason", "dtype", "backend",
          "threads")  # fmt: skip


# --- arguments -----------------------------------------------------------------------------------


def add_command(commands: Any) -> None:
    """Add ``operator`` to the subcommands of the program."""
    about = "Learn an operator between functions; write the model, the history, a summary and a picture."
    ending = "Ctrl-C ends the training early: the best net so far is written, and the exit code is 130."
    parser = commands.add_parser("operator", help=about[0].lower() + about[1:-1], description=about, epilog=ending)
    add = parser.add_argument
    add("problem", metavar="OPERATOR", help="one of those that 'bumpnet list' lists")
    add("--bumps", type=_bumps, metavar="N|NxM", help="number of bumps, or of grid cells per axis, such as 10x4")
    add("--method", choices=("two-step", "adam"), default="two-step", help="default: %(default)s")
    add("--physics", action="store_true", help="train on the operator's equations instead of on output functions")
    branch = (
        "linear, or the widths of hidden layers, such as 64 or 32x32; default: linear for linear operators, else 64"
    )
    add("--branch", type=_branch, metavar="linear|N|NxM", help=branch)
    setting = "a field of the operator, an option of the training or of the net; see 'bumpnet list'"
    _add_output_arguments(add, "of the functions, of the batches and of the branch's start", setting)
    parser.set_defaults(run=_operator)


def _branch(text: str) -> tuple[int, ...]:
    if text == "linear":
        return ()
    try:
        return tuple(_integer(part, 1) for part in text.split("x"))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not linear, nor widths such as 64 or 32x32") from None


def _settable(operator: type[Operator]) -> dict[str, dict[str, Any]]:
    """All that ``--set`` reaches, with the defaults, by what it belongs to."""
    from .layer import BumpNet
    from .solvers.deeponet import train

    solver = {key: value for key, value in _options(train).items() if key not in ("physics", "test")}
    return {"problem": operator.settings(), "solver": solver, "net": _options(BumpNet) | {"bias": False}}


def list_operators() -> None:
    """Print the operators, and all that ``--set`` can set."""
    from .problems.operators import OPERATORS

    for name, operator in OPERATORS.items():
        print(f"{name:<15} {operator.summary}\n{'':<15} {_pairs(operator.settings())}")
    print("\nFor every operator, --set also reaches")
    for scope, options in _settable(operator).items():
        if scope != "problem":
            print(f"{scope:<15} {_pairs(options)}")


# --- the command ---------------------------------------------------------------------------------


def _operator(arguments: argparse.Namespace) -> int:
    from .problems.operators import OPERATORS

    if arguments.problem not in OPERATORS:
        raise UsageError(f"unknown operator {arguments.problem!r}; there are: {', '.join(OPERATORS)}")
    settings = _scoped(arguments.problem, _settable(OPERATORS[arguments.problem]), arguments.settings)
    with _computing_threads(arguments.threads):
        operator, net = _prepare(arguments, settings)
        folder = arguments.out or Path("runs", arguments.problem)
        _check_writable(folder, arguments.json)
        solution = _run(operator, net, arguments, settings["solver"])
        summary = _summary(solution, arguments, settings)
        _write(folder, arguments.json, solution, summary)
    if not arguments.quiet:
        _show(summary, folder, sys.stderr if arguments.json == "-" else sys.stdout, _SHOWN)
    return INTERRUPTED if solution.stop_reason == "interrupted" else 0


def _prepare(arguments: argparse.Namespace, settings: dict[str, dict[str, Any]]) -> tuple[Operator, BumpDeepONet]:
    import torch

    from .deeponet import BumpDeepONet
    from .problems.operators import get_operator

    try:
        operator = get_operator(arguments.problem, **settings["problem"])
        branch = arguments.branch if arguments.branch is not None else () if operator.linear else (64,)
        periodic = [operator.periodic and axis == 0 for axis in range(operator.domain.shape[1])]
        bumps = arguments.bumps or operator.default_bumps
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(arguments.seed or 0)
            net = BumpDeepONet(
                operator.sensors, bumps, operator.domain, branch=branch, periodic=periodic, dtype=arguments.dtype,
                **settings["net"],
            )  # fmt: skip
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error
    return operator, net


def _run(operator: Operator, net: BumpDeepONet, arguments: argparse.Namespace, options: dict) -> OperatorSolution:
    from .solvers.deeponet import train

    choices = {"method": arguments.method, "physics": arguments.physics, "seed": arguments.seed or 0}
    with _progress(arguments) as report, _mistakes() as follow:
        return train(operator, net, **choices, **options, callback=lambda progress: (follow(), report(progress)))


@contextlib.contextmanager
def _mistakes() -> Iterator[Any]:
    """Tell errors about the arguments from others: they come before the first call of what this gives."""
    started = []
    try:
        yield lambda: started.append(True)
    except ValueError as error:
        if started:
            raise
        raise UsageError(str(error)) from error
    except RuntimeError as error:
        if "allocate memory" not in str(error) and "not enough memory" not in str(error):
            raise
        raise UsageError("not enough memory for so many functions and points") from error


# --- what is written -----------------------------------------------------------------------------


def _summary(solution: OperatorSolution, arguments: argparse.Namespace, settings: dict[str, Any]) -> dict[str, Any]:
    import torch

    from .checkpoint import problem_settings
    from .functional import backend

    net = solution.net
    return {
        "problem": arguments.problem,
        "method": solution.method,
        "physics": solution.physics,
        "bumps": len(net.rows),
        "branch": "x".join(map(str, net.hidden)) or "linear",
        "parameters": solution.parameters,
        "rel_l2": solution.rel_l2,
        "train_rel_l2": solution.train_rel_l2,
        "projection_rel_l2": solution.projection_rel_l2,
        "max_rel_l2": float(solution.errors.max()),
        "loss": solution.loss,
        "seconds": solution.seconds,
        "iterations": solution.iterations,
        "stop_reason": solution.stop_reason,
        "dtype": arguments.dtype,
        "backend": backend(),
        "threads": torch.get_num_threads(),
        "seed": arguments.seed,
        "functions": [len(solution.data.inputs), 0 if solution.test is None else len(solution.test.inputs)],
        "settings": settings | {"problem": problem_settings(solution.operator)},
        "warnings": net.trunk.check(),
        "versions": {
            "bumpnet_fast": __version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
    }


def _write(folder: Path, file: str | None, solution: OperatorSolution, summary: dict[str, Any]) -> None:
    from .checkpoint import atomic
    from .checkpoint_operator import save_operator
    from .plotting_operator import operator_figure

    save_operator(folder / "model.pt", solution.net, operator=solution.operator)
    _write_json(folder / "history.json", solution.history)
    _write_json(folder / "summary.json", summary)
    if file == "-":
        print(_json(summary))
    elif file is not None:
        _write_json(Path(file), summary)
    with atomic(folder / "operator.png") as image:
        operator_figure(solution).savefig(image, format="png")
