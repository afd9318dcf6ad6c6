"""The command ``bumpnet bench``: times a training step on this machine, beside the usual ways to write it."""

from __future__ import annotations

import argparse
import functools
from typing import Any

from .writing import as_json


def add_command(commands: Any) -> None:
    """Add ``bench`` to the subparsers ``commands`` of the program."""
    about = "time a small training step beside plain PyTorch"
    note = "One thread, on the CPU; the cases take turns in one process.  It takes about a minute."
    bench = commands.add_parser("bench", help=about, description=about[0].upper() + about[1:] + ".", epilog=note)
    bench.add_argument(
        "--compile", action="store_true", help="compiled contestants too; takes minutes and a C++ compiler"
    )
    bench.add_argument("--seconds", type=_seconds, default=3.0, metavar="S", help="for each case; default: %(default)s")
    bench.add_argument("--json", action="store_true", help="as JSON")
    bench.set_defaults(run=_bench)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to 3600")
    return seconds


def _bench(arguments: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import track

    from ..diagnostics.bench import COMPILED, EAGER, NESTED, OURS, STEP, run, show

    console = Console(stderr=True)
    watched = functools.partial(
        track, description="timing", console=console, transient=True, disable=not console.is_terminal
    )
    names = [OURS, *([STEP, COMPILED] if arguments.compile else []), EAGER, NESTED]
    report = run(names, arguments.seconds, watched)
    print(as_json(report)) if arguments.json else show(report)
    return 0
