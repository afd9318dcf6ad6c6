"""The command ``bumpnet``: list problems, describe and check the installation, solve problems, show runs.

Every command has its own file.  The commands parse arguments, call the library and write the results; they compute
nothing themselves.  torch and matplotlib are imported where they are used, so that help and errors of grammar appear
at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from .. import __version__
from . import bench, check, evolve, info, listing, operator, show, solve
from .common import FAILED, INTERRUPTED, USAGE, UsageError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; by default those of the process.

    Returns
    -------
    int
        Exit code: 0 for success; 2 for a mistake in the arguments, reported in one line before any computing; 130 after
        Ctrl-C (the result so far is written as usual); 1 if a result could not be written, or if a check failed.

    Examples
    --------
    >>> main(["list"])
    poisson              u_xx + u_yy = f on a box, u = sin(a1 pi x) sin(a2 pi y)
                         lower=-1,-1 upper=1,1 a1=1 a2=1
    ...
    0
    """
    try:
        arguments = _parser().parse_args(argv)
        return arguments.run(arguments)
    except UsageError as error:
        return _complain(str(error), USAGE)
    except OSError as error:
        return _complain(_reason(error), FAILED)
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED)


def _complain(message: str, code: int) -> int:
    line = " ".join(message.split())
    if len(line) > _LONGEST:  # a value with thousands of digits: the message is at its ends
        line = f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"
    print("bumpnet: error:", line, file=sys.stderr)
    return code


#: Longest error message, in characters.
_LONGEST = 1500


def _reason(error: OSError) -> str:
    return f"cannot write {error.filename}: {error.strerror}" if error.filename else str(error)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="bumpnet", description="Solve partial differential equations with networks of bumps.")
    parser.add_argument("--version", action="version", version=f"bumpnet_fast {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (info, solve, listing, check, bench, evolve, operator, show):
        command.add_command(commands)
    return parser


__all__ = ["main"]
