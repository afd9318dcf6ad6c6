"""First-order methods of ``bumpnet solve``, and going on with a run that was stopped.

A run keeps its state in two files of its folder: ``run.pt``, which the library writes, and ``run.json``,
what the command line alone knows.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .solvers.least_squares import Solution

#: Those of solvers.first_order, which it would take torch to import; they can be joined by "+".
FIRST_ORDER = ("adam", "varpro-adam", "lbfgs")
#: Files of a run.
STATE, RECORD = "run.pt", "run.json"
#: What the command line says beside the state of a run.
_RECORDED = ("problem", "method", "dtype", "seed")
#: Arguments, and keys of --set, that a run which is resumed takes.
_ARGUMENTS, _SETTINGS = {"resume", "settings", "json", "threads", "quiet", "run"}, ("iterations", "max_seconds")


def is_first_order(method: str) -> bool:
    """Whether ``method`` is one of :data:`FIRST_ORDER`, or several joined by "+"."""
    return all(name in FIRST_ORDER for name in method.split("+"))


def method_type(second_order: tuple[str, ...]) -> Callable[[str], str]:
    """The argument type of ``--method``."""

    def method(text: str) -> str:
        if text in second_order or is_first_order(text):
            return text
        choices = f"{', '.join(second_order)}, or {', '.join(FIRST_ORDER)}, joined by +"
        raise argparse.ArgumentTypeError(f"invalid choice: {text!r} (choose from {choices})")

    return method


def options_of(method: str) -> Callable[..., Solution]:
    """The function of the library whose options ``method`` has."""
    from .solvers import first_order, least_squares

    return first_order.train if is_first_order(method) else least_squares.solve


def solver(arguments: argparse.Namespace, folder: Path) -> Callable[..., Solution]:
    """What is called with problem, net and all options: one of the solvers, or the resumption of a run."""
    from . import checkpoint

    if arguments.resume:
        fixed = {"method", "boundary", "seed"}
        return lambda problem, net, **options: checkpoint.resume(
            folder / STATE, problem=problem, **{key: value for key, value in options.items() if key not in fixed}
        )
    solve = options_of(arguments.method)
    if not is_first_order(arguments.method):
        return solve
    return lambda problem, net, **options: solve(problem, net, checkpoint=folder / STATE, **options)


def remember(folder: Path, arguments: argparse.Namespace, settings: dict[str, dict[str, Any]]) -> None:
    """Write down what a resumption must know; the record and the state of an earlier run go."""
    from .cli import _write_json

    for name in (STATE, RECORD):
        (folder / name).unlink(missing_ok=True)
    if is_first_order(arguments.method):
        record = {key: getattr(arguments, key) for key in _RECORDED}
        _write_json(folder / RECORD, record | {"settings": settings})


def resume(arguments: argparse.Namespace, defaults: argparse.Namespace) -> int:
    """``bumpnet solve --resume DIR``."""
    from . import cli

    _refuse_others(arguments, defaults)
    folder, options = arguments.resume, dict(arguments.settings)
    cli._check_writable(folder, arguments.json, create=False)
    record, problem = _recorded(folder)
    for key in _RECORDED:
        setattr(arguments, key, record[key])
    arguments.boundary = None
    settings = record["settings"]
    settings["solver"] |= options
    with cli._computing_threads(arguments.threads):
        solution = cli._run(problem, None, arguments, {"solver": options}, folder)
        return cli._finish(solution, arguments, settings, folder)


def _refuse_others(arguments: argparse.Namespace, defaults: argparse.Namespace) -> None:
    from .cli import UsageError

    given = [name for name, value in vars(arguments).items() if value != getattr(defaults, name)]
    given = ["PROBLEM" if name == "problem" else f"--{name}" for name in given if name not in _ARGUMENTS]
    given += [f"--set {key}" for key, _ in arguments.settings if key not in _SETTINGS]
    if given:
        allowed = f"besides --set {' and --set '.join(_SETTINGS)}"
        raise UsageError(f"--resume goes on with the settings of the run, and takes no {given[0]}; {allowed}")


def _recorded(folder: Path) -> tuple[dict[str, Any], Any]:
    """The record of a run and its problem."""
    from . import problems
    from .cli import UsageError
    from .solvers import runs

    try:
        content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        record = {key: content[key] for key in _RECORDED} | {"settings": dict(content["settings"])}
        record["settings"]["solver"] = dict(content["settings"]["solver"])
        saved = runs.load(folder / STATE)["problem"]
        return record, problems.get(saved["name"], **saved["settings"])
    except OSError as error:
        raise UsageError(f"there is no run to resume in {folder}: {error.filename}: {error.strerror}") from error
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise UsageError(f"{folder / RECORD} is damaged: {error}") from error
    except ValueError as error:
        raise UsageError(f"the run in {folder} cannot be resumed: {error}") from error
