"""The command ``bumpnet check``: compares every available backend with the float64 reference."""

from __future__ import annotations

import argparse
import functools
from typing import Any

from .common import FAILED
from .writing import as_json


def add_command(commands: Any) -> None:
    """Add ``check`` to the subparsers ``commands`` of the program."""
    about = "compare every available backend with the float64 reference"
    note = "The exit code is 1 if a case fails.  On a GPU the first run takes minutes: Triton compiles the kernels."
    check = commands.add_parser("check", help=about, description=about[0].upper() + about[1:] + ".", epilog=note)
    check.add_argument("--device", choices=("cpu", "cuda", "all"), default="all", help="default: %(default)s")
    check.add_argument("--full", action="store_true", help="many more cases; takes some minutes")
    check.add_argument("--json", action="store_true", help="every case as JSON")
    check.set_defaults(run=_check)


def _check(arguments: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import track

    from ..diagnostics.check import DEVICES, check, show

    console = Console(stderr=True)
    watched = functools.partial(
        track, description="checking", console=console, transient=True, disable=not console.is_terminal
    )
    report = check(DEVICES if arguments.device == "all" else [arguments.device], arguments.full, watched)
    print(as_json(report)) if arguments.json else show(report)
    return 0 if report["passed"] else FAILED
