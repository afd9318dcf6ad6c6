"""The command ``bumpnet list``: problems, evolutions and operators, and all that can be set."""

from __future__ import annotations

import argparse
from typing import Any

from .cli_solve import FIRST_ORDER


def add_command(commands: Any) -> None:
    """Add ``list`` to the subparsers ``commands`` of the program."""
    listing = commands.add_parser("list", help="the problems, and all that --set can set")
    listing.set_defaults(run=_list)


def _list(arguments: argparse.Namespace) -> int:
    from . import cli_evolve, cli_operator
    from .cli import _pairs, _settable
    from .problems import PROBLEMS

    for name, problem in PROBLEMS.items():
        print(f"{name:<20} {problem.summary}\n{'':<20} {_pairs(problem.settings())}")
    print("\nFor every problem, --set also reaches")
    for scope, options in _settable(problem).items():
        if scope != "problem":
            print(f"{scope:<20} {_pairs(options)}")
    first_order = _settable(problem, FIRST_ORDER[0])["solver"]
    print(f"\nand with {', '.join(FIRST_ORDER)}\n{'solver':<20} {_pairs(first_order)}")

    cli_evolve.list_problems()
    print("\nOperators, for 'bumpnet operator'")
    cli_operator.list_operators()
    return 0
