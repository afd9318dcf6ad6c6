"""The command ``bumpnet info``: what is installed, and why something is missing."""

from __future__ import annotations

import argparse
import json
from typing import Any


def add_command(commands: Any) -> None:
    """Add ``info`` to the subparsers ``commands`` of the program."""
    info = commands.add_parser("info", help="versions, compiled kernels, devices, and why something is missing")
    info.add_argument("--json", action="store_true", help="as JSON")
    info.set_defaults(run=_info)


def _info(arguments: argparse.Namespace) -> int:
    from ..diagnostics.info import format_report, report

    print(json.dumps(report(), indent=2) if arguments.json else format_report(report()))
    return 0
