"""The command ``bumpnet operator``: learn an operator and write down what comes out."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import pictures, resume
from .common import (
    INTERRUPTED,
    UsageError,
    add_output_arguments,
    bump_counts,
    known,
    options_of,
    pairs,
    positive,
    print_settable,
    scoped,
)
from .running import computing_threads, followed, mistakes, progress
from .writing import check_writable, show, surroundings, write_results

if TYPE_CHECKING:
    from ..nets.deeponet import BumpDeepONet
    from ..problems.operators import Operator
    from ..solvers.operators import OperatorSolution

#: Arguments that a resumption must know.
_RECORDED = ("problem", "method", "physics", "dtype", "seed")

_SHOWN = ("problem", "method", "physics", "bumps", "branch", "parameters", "rel_l2", "train_rel_l2",
          "projection_rel_l2", "loss", "seconds", "iterations", "stop_reason", "dtype", "backend",
          "threads")  # fmt: skip


# --- arguments -----------------------------------------------------------------------------------


def add_command(commands: Any) -> None:
    """Add ``operator`` to the subparsers ``commands`` of the program."""
    about = "Learn an operator between functions; write the model, the history, a summary and a picture."
    ending = "Ctrl-C ends the training early: the best net so far is written, and the exit code is 130."
    parser = commands.add_parser("operator", help=about[0].lower() + about[1:-1], description=about, epilog=ending)
    add = parser.add_argument
    add("problem", metavar="OPERATOR", nargs="?", help="one of those that 'bumpnet list' lists")
    add("--bumps", type=bump_counts, metavar="N|NxM", help="number of bumps, or of grid cells per axis, such as 10x4")
    add("--method", choices=("two-step", "adam"), default="two-step", help="default: %(default)s")
    add("--physics", action="store_true", help="train on the operator's equations instead of on output functions")
    branch = (
        "linear, or the widths of hidden layers, such as 64 or 32x32; default: linear for linear operators, else 64"
    )
    add("--branch", type=_branch, metavar="linear|N|NxM", help=branch)
    add("--resume", type=Path, metavar="DIR", help=resume.HELP)
    setting = "a field of the operator, an option of the training or of the net; see 'bumpnet list'"
    add_output_arguments(add, "of the functions, of the batches and of the branch's start", setting, "runs/OPERATOR")
    parser.set_defaults(run=lambda arguments: _operator(arguments, parser.parse_args([])))


def _branch(text: str) -> tuple[int, ...]:
    if text == "linear":
        return ()
    try:
        return tuple(positive(part) for part in text.split("x"))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not linear, nor widths such as 64 or 32x32") from None


def settable(operator: type[Operator]) -> dict[str, dict[str, Any]]:
    """All that ``--set`` reaches, with the defaults, by what it belongs to."""
    from ..nets.bumpnet import BumpNet
    from ..solvers.operators import learn

    solver = {key: value for key, value in options_of(learn).items() if key not in ("physics", "test")}
    return {"problem": operator.settings(), "solver": solver, "net": options_of(BumpNet) | {"bias": False}}


def list_operators() -> None:
    """Print the operators, and all that ``--set`` can set."""
    from ..problems.operators import OPERATORS

    for name, operator in OPERATORS.items():
        print(f"{name:<15} {operator.summary}\n{'':<15} {pairs(operator.settings())}")
    print("\nFor every operator, --set also reaches")
    print_settable(settable(operator), 15)


# --- the command ---------------------------------------------------------------------------------


def _operator(arguments: argparse.Namespace, defaults: argparse.Namespace) -> int:
    from ..problems.operators import OPERATORS

    if arguments.resume:
        return _resume(arguments, defaults)
    if arguments.problem is None:
        raise UsageError("the following arguments are required: OPERATOR")
    scopes = settable(known(arguments.problem, OPERATORS, "operator"))
    settings = scoped(arguments.problem, scopes, arguments.settings)
    with computing_threads(arguments.threads):
        operator, net = _prepare(arguments, settings)
        folder = arguments.out or Path("runs", arguments.problem)
        check_writable(folder, arguments.json)
        with resume.alone(folder, f"operator {arguments.problem}"):
            state = resume.state_of(folder, "operator", arguments, _RECORDED, settings)
            solution = _run(arguments, _call(operator, net, arguments, settings["solver"] | {"checkpoint": state}))
            return _finish(solution, arguments, settings, folder)


def _resume(arguments: argparse.Namespace, defaults: argparse.Namespace) -> int:
    """``bumpnet operator --resume DIR``."""
    resume.refuse_others(arguments, defaults, ("max_seconds",))
    folder = arguments.resume
    check_writable(folder, arguments.json, create=False)
    with resume.alone(folder, "operator --resume"), computing_threads(arguments.threads):
        settings, state = resume.recall(folder, "operator", arguments, _RECORDED)
        solution = _run(arguments, resume.call(state, arguments, settings))
        return _finish(solution, arguments, settings, folder)


def _prepare(arguments: argparse.Namespace, settings: dict[str, dict[str, Any]]) -> tuple[Operator, BumpDeepONet]:
    from ..problems.operators import get_operator
    from ..solvers.operators import new_net

    with mistakes():
        operator = get_operator(arguments.problem, **settings["problem"])
        chosen = {"branch": arguments.branch, "seed": arguments.seed or 0, "dtype": arguments.dtype}
        net = new_net(operator, arguments.bumps, **chosen | settings["net"])
    return operator, net


def _call(
    operator: Operator, net: BumpDeepONet, arguments: argparse.Namespace, options: dict[str, Any]
) -> Callable[..., OperatorSolution]:
    """The call of the library that is asked for; it takes the callback."""
    from ..solvers.operators import learn

    choices = {"method": arguments.method, "physics": arguments.physics, "seed": arguments.seed or 0}
    return lambda callback: learn(operator, net, **choices, **options, callback=callback)


def _run(arguments: argparse.Namespace, call: Callable[..., OperatorSolution]) -> OperatorSolution:
    with progress(arguments) as report, followed(report, "functions and points") as callback:
        return call(callback)


# --- what is written -----------------------------------------------------------------------------


def _finish(
    solution: OperatorSolution, arguments: argparse.Namespace, settings: dict[str, dict[str, Any]], folder: Path
) -> int:
    """Write and show an operator; the exit code."""
    from ..io import save

    summary = _summary(solution, arguments, settings)
    write_results(
        folder,
        arguments.json,
        lambda path: save(path, solution),
        solution.history,
        summary,
        pictures.of_operator(solution),
    )
    show(summary, folder, arguments, _SHOWN)
    return INTERRUPTED if solution.stop_reason == "interrupted" else 0


def _summary(solution: OperatorSolution, arguments: argparse.Namespace, settings: dict[str, Any]) -> dict[str, Any]:
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
        "functions": [len(solution.data.inputs), 0 if solution.test is None else len(solution.test.inputs)],
    } | surroundings(arguments, settings, solution.operator, net.trunk.check())
