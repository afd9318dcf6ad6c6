"""The command ``bumpnet operator``: learn an operator."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import pictures
from .command import Call, Command, Settings
from .common import bump_counts, keywords_of, pairs, positive, print_settable

if TYPE_CHECKING:
    from ..nets.deeponet import BumpDeepONet
    from ..problems.operators import Operator
    from ..solvers import run_state
    from ..solvers.operators import OperatorSolution

#: For the help and the grammar alone, which are not to wait for torch: the methods of the library.
METHODS = ("two-step", "adam")


def settable(operator: type[Operator]) -> Settings:
    """All that ``--set`` reaches, with the defaults, by what it belongs to."""
    from ..nets.bumpnet import BumpNet
    from ..solvers.operators import learn

    solver = {key: value for key, value in keywords_of(learn).items() if key != "physics"}
    return {"problem": operator.settings(), "solver": solver, "net": keywords_of(BumpNet) | {"bias": False}}


def list_operators() -> None:
    """Print the operators, and all that ``--set`` can set."""
    from ..problems.operators import OPERATORS

    for name, operator in OPERATORS.items():
        print(f"{name:<15} {operator.summary}\n{'':<15} {pairs(operator.settings())}")
    print("\nFor every operator, --set also reaches")
    print_settable(settable(operator), 15)


def _branch(text: str) -> tuple[int, ...]:
    if text == "linear":
        return ()
    try:
        return tuple(positive(part) for part in text.split("x"))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not linear, nor widths such as 64 or 32x32") from None


class Learn(Command):
    """``bumpnet operator``."""

    name = "operator"
    about = "Learn an operator between functions; write the model, the history, a summary and a picture."
    ending = "Ctrl-C ends the training early: the best net so far is written, and the exit code is 130."
    metavar, kind = "OPERATOR", "operator"
    recorded = ("problem", "method", "physics", "dtype", "seed")
    many = "functions and points"
    random = "of the functions, of the batches and of the branch's start"
    setting = "a field of the operator, an option of the training or of the net; see 'bumpnet list'"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        add("--bumps", type=bump_counts, metavar="N|NxM", help="number of bumps, or of grid cells per axis: 10x4")
        add("--method", choices=METHODS, default="two-step", help="default: %(default)s")
        add("--physics", action="store_true", help="train on the operator's equations instead of on output functions")
        branch = "linear, or the widths of hidden layers: 64 or 32x32; default: linear for linear operators, else 64"
        add("--branch", type=_branch, metavar="linear|N|NxM", help=branch)

    def problems(self) -> Mapping[str, type[Operator]]:
        from ..problems.operators import OPERATORS

        return OPERATORS

    def settable(self, problem: type[Operator], arguments: argparse.Namespace) -> Settings:
        return settable(problem)

    def prepare(self, arguments: argparse.Namespace, settings: Settings) -> tuple[Operator, BumpDeepONet]:
        from ..problems.operators import get_operator
        from ..solvers.operators import new_net

        operator = get_operator(arguments.problem, **settings["problem"])
        chosen = {"branch": arguments.branch, "seed": arguments.seed or 0, "dtype": arguments.dtype}
        return operator, new_net(operator, arguments.bumps, **chosen | settings["net"])

    def call(
        self, problem: Operator, net: BumpDeepONet, arguments: argparse.Namespace, settings: Settings,
        state: run_state.File,
    ) -> Call:  # fmt: skip
        from ..solvers.operators import learn

        choices = {"method": arguments.method, "physics": arguments.physics, "seed": arguments.seed or 0}
        choices |= settings["solver"] | {"checkpoint": state}
        return lambda callback: learn(problem, net, **choices, callback=callback)

    def entries(self, result: OperatorSolution, arguments: argparse.Namespace) -> dict[str, Any]:
        return {
            "physics": result.physics,
            "branch": "x".join(map(str, result.net.hidden or ())) or "linear",
            "parameters": result.parameters,
            "train_rel_l2": result.train_rel_l2,
            "projection_rel_l2": result.projection_rel_l2,
            "max_rel_l2": float(result.errors.max()),
            "loss": result.loss,
            "iterations": result.iterations,
            "functions": [len(result.data.inputs), 0 if result.test is None else len(result.test.inputs)],
        }

    def pictures(self, result: OperatorSolution, arguments: argparse.Namespace, folder: Path) -> pictures.Pictures:
        return pictures.of_operator(result)


add_command = Learn().add_command
