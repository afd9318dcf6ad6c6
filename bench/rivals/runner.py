"""From the methods of this folder to docs/rivals.md: run what is asked for, then write the page from one JSON file.

    python bench/rivals list                     # problems, methods, and what was measured
    python bench/rivals run                      # everything but the perceptron; writes bench/measured/rivals.json
    python bench/rivals run poisson --methods chebyshev "P4 elements"
    python bench/rivals write                    # the page and its picture, from that file alone

One thread, and processor seconds: of solving, with all that it takes, but without measuring the error.  What a run does
not touch stays in the file.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import results
import torch
import training

from . import domains, page, picture
from .methods import METHODS, SLOW
from .ours import ToError, takes_error
from .rungs import climb

FILE = results.ROOT / "bench" / "measured" / "rivals.json"
PAGE, PICTURE = results.ROOT / "docs" / "rivals.md", results.ROOT / "docs" / "rivals.png"

Records = dict[str, Any]


def load(path: Path | None = None) -> Records:
    """What was measured; nothing if there is no file."""
    path = path or FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"records": []}


def text(found: Records) -> str:
    """The file's, one record a line."""
    head = "".join(f"{json.dumps(key)}: {json.dumps(value)},\n" for key, value in found.items() if key != "records")
    return "{\n" + head + '"records": [\n' + ",\n".join(map(json.dumps, found["records"])) + "\n]\n}\n"


def run(names: Sequence[str], methods: Sequence[str], path: Path | None = None) -> Records:
    """Measure methods on problems, in the place of what the file has of these; it is written after every problem."""
    found, path, about, timer = load(path), path or FILE, results.origin(), training.Timer()
    for name in names:
        problem = domains.get(name)
        for method in methods:
            where = {"problem": name, "method": method}
            new = [where | _short(record) | {"commit": about["commit"]}
                   for record in climb(problem, METHODS[method].ladder(name, problem))]  # fmt: skip
            for record in new:
                print(line(record), flush=True)
            kept = [r for r in found["records"] if (r["problem"], r["method"]) != (name, method)]
            found["records"] = kept + new
        found = about | _short(timer.spent()) | {"records": _sorted(found["records"])}
        path.write_text(text(found), encoding="utf-8")
    return found


def _sorted(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By problem, then by method; sizes stay in their order."""
    order = {name: k for k, name in enumerate((*domains.NAMES, *METHODS))}
    return sorted(records, key=lambda r: (order[r["problem"]], order[r["method"]]))


def _short(record: dict[str, Any]) -> dict[str, Any]:
    """Numbers with four digits."""
    return {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in record.items()}


def line(record: dict[str, Any]) -> str:
    about = f"{record['problem']:<22}{record['method']:<26}{record['size']:<28}"
    if "failed" in record:
        return f"{about}failed: {record['failed']}"
    return f"{about}{record['unknowns']:>7}  {record['error']:.1e}  {record['processor_seconds']:.4f} s"


def show() -> None:
    """Problems, methods, and how many sizes were measured."""
    records = load()["records"]
    for name in domains.NAMES:
        print(f"{name:<22}{domains.get(name).summary}")
    print()
    for method, module in METHODS.items():
        sizes = sum(len(module.ladder(name, domains.get(name))) for name in domains.NAMES)
        measured = sum(record["method"] == method for record in records)
        print(f"{method:<26}{sizes:>3} sizes, {measured:>3} measured{'; only if named' if method in SLOW else ''}")


def write() -> None:
    """The page and its picture."""
    found = load()
    PAGE.write_text(page.page(found), encoding="utf-8")
    picture.draw(found["records"], PICTURE)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rivals", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="problems, methods, and what was measured")
    running = commands.add_parser("run", help="measure, and write bench/measured/rivals.json")
    running.add_argument("names", metavar="PROBLEM", nargs="*", help="default: all")
    running.add_argument("--methods", metavar="METHOD", nargs="+", help="default: all but the slow ones")
    commands.add_parser("write", help="write docs/rivals.md and its picture from that file")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    torch.set_num_threads(1)
    if arguments.command == "list":
        show()
    elif arguments.command == "write":
        write()
    else:
        methods = arguments.methods or [method for method in METHODS if method not in SLOW]
        for given, known, what in ((arguments.names, domains.NAMES, "problem"), (methods, METHODS, "method")):
            if unknown := [name for name in given if name not in known]:
                print(f"there is no {what} {unknown[0]!r}; there are: {', '.join(known)}", file=sys.stderr)
                return 2
        if ToError.NAME in methods and not takes_error():
            print(f"{ToError.NAME!r} is left out: solve() of this version has no argument error")
        try:
            run(arguments.names or domains.NAMES, methods)
        except ImportError as error:
            print(error, file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("\ninterrupted; the problems that were finished are in the file", file=sys.stderr)
            return 130
    return 0
