"""Going on with a run that was stopped.

A run keeps its state in two files of its folder: ``run.pt``, which the library writes, and ``run.json``,
what the command line alone knows.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import UsageError
from .writing import write_json

if TYPE_CHECKING:
    from ..problems.base import Problem
    from ..solvers import Solution

#: Files of a run.
STATE, RECORD = "run.pt", "run.json"
#: What the command line says beside the state of a run.
_RECORDED = ("problem", "method", "dtype", "seed")
#: Arguments, and keys of --set, that a run which is resumed takes.
_ARGUMENTS, _SETTINGS = {"resume", "settings", "json", "threads", "quiet", "run"}, ("iterations", "max_seconds")


def forget(folder: Path) -> None:
    """Remove the record and the state of an earlier run."""
    for name in (STATE, RECORD):
        (folder / name).unlink(missing_ok=True)


def remember(folder: Path, arguments: argparse.Namespace, settings: dict[str, dict[str, Any]]) -> None:
    """Write down what a resumption must know."""
    record = {key: getattr(arguments, key) for key in _RECORDED}
    write_json(folder / RECORD, record | {"settings": settings})


def refuse_others(arguments: argparse.Namespace, defaults: argparse.Namespace) -> None:
    """Refuse the arguments that a resumption does not take."""
    given = [name for name, value in vars(arguments).items() if value != getattr(defaults, name)]
    given = [
        "PROBLEM" if name == "problem" else f"--{name.replace('_', '-')}" for name in given if name not in _ARGUMENTS
    ]
    given += [f"--set {key}" for key, _ in arguments.settings if key not in _SETTINGS]
    if given:
        allowed = f"besides --set {' and --set '.join(_SETTINGS)}"
        raise UsageError(f"--resume goes on with the settings of the run, and takes no {given[0]}; {allowed}")


def recall(folder: Path, arguments: argparse.Namespace) -> tuple[dict[str, dict[str, Any]], Problem]:
    """The settings of a run and its problem; what else is recorded goes into ``arguments``."""
    from .. import problems
    from ..solvers import runs

    try:
        content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        record, settings = {key: content[key] for key in _RECORDED}, dict(content["settings"])
        settings["solver"] = dict(settings["solver"])
        saved = runs.load(folder / STATE)["problem"]
        problem = problems.get(saved["name"], **saved["settings"])
    except OSError as error:
        raise UsageError(f"there is no run to resume in {folder}: {error.filename}: {error.strerror}") from error
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise UsageError(f"{folder / RECORD} is damaged: {error}") from error
    except ValueError as error:
        raise UsageError(f"the run in {folder} cannot be resumed: {error}") from error
    for key, value in record.items():
        setattr(arguments, key, value)
    return settings, problem


def call(folder: Path, problem: Problem, options: dict[str, Any]) -> Callable[..., Solution]:
    """The call of the library that goes on; it takes the callback."""
    from .. import checkpoint

    return lambda callback: checkpoint.resume(folder / STATE, problem=problem, callback=callback, **options)
