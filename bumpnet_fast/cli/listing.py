"""The command ``bumpnet list``: problems, evolutions, operators, and everything that can be set."""

from __future__ import annotations

import argparse
from typing import Any

from . import evolve, operator, solve


def add_command(commands: Any) -> None:
    """Add ``list`` to the subparsers ``commands`` of the program."""
    listing = commands.add_parser("list", help="list problems and everything that --set can set")
    listing.set_defaults(run=_list)


def _list(arguments: argparse.Namespace) -> int:
    solve.list_problems()
    print("\nFor bumpnet evolve")
    evolve.list_problems()
    print("\nOperators, for 'bumpnet operator'")
    operator.list_operators()
    return 0
