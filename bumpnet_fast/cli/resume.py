"""Going on with a run that was stopped, of any command.

A run keeps its state in two files of its folder: ``run.pt``, which the library writes, and ``run.json``,
what the command line alone knows.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import UsageError
from .writing import write_json

if TYPE_CHECKING:
    from ..io.recording import Frame

#: Files of a run: its state, what the command line knows, and the bumps over time, if they are recorded.
STATE, RECORD, TRAINING = "run.pt", "run.json", "training.pt"
#: Arguments that a resumption takes, whatever the command.
_ARGUMENTS = {"resume", "settings", "json", "threads", "quiet", "run"}
#: Of the argument.
HELP = "go on with the run that wrote to DIR, with its settings"


@contextlib.contextmanager
def remembered(
    folder: Path, command: str, arguments: argparse.Namespace, names: Sequence[str], settings: dict[str, dict[str, Any]]
) -> Iterator[None]:
    """Write down what a resumption must know, the arguments ``names`` among it, for the run inside.

    An earlier run in the folder is forgotten, and so is this one if it was a mistake of the caller.
    """
    _forget(folder)
    record = {key: getattr(arguments, key) for key in names}
    write_json(folder / RECORD, {"command": command} | record | {"settings": settings})
    try:
        yield
    except UsageError:
        _forget(folder)
        raise


def _forget(folder: Path) -> None:
    for name in (STATE, RECORD, TRAINING, "training.gif"):
        (folder / name).unlink(missing_ok=True)


@contextlib.contextmanager
def recorded(folder: Path | None, report: Callable[[Any], None]) -> Iterator[Callable[[Any], None]]:
    """A callback that keeps the bumps in ``folder``, if there is one, and hands progress on to ``report``."""
    if folder is None:
        yield report
        return
    from ..io.recording import Recording

    try:
        recording = Recording(folder / TRAINING, report)
    except ValueError as error:
        raise UsageError(f"the run in {folder} cannot be resumed: {error}") from error
    with recording:
        yield recording


def recorded_frames(folder: Path) -> list[Frame]:
    """The frames of a run; none if it was not recorded."""
    from ..io.recording import load

    try:
        return load(folder / TRAINING)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except ValueError as error:
        raise UsageError(str(error)) from error


def refuse_others(
    arguments: argparse.Namespace, defaults: argparse.Namespace, keys: Sequence[str], more: Sequence[str] = ()
) -> None:
    """Refuse what a resumption does not take: but for the arguments ``more`` and ``keys`` of ``--set``, nearly all."""
    given = [name for name, value in vars(arguments).items() if value != getattr(defaults, name)]
    taken = _ARGUMENTS.union(more)
    flags = ["PROBLEM" if name == "problem" else f"--{name.replace('_', '-')}" for name in given if name not in taken]
    flags += [f"--set {key}" for key, _ in arguments.settings if key not in keys]
    if flags:
        allowed = f"besides --set {' and --set '.join(keys)}"
        raise UsageError(f"--resume goes on with the settings of the run, and takes no {flags[0]}; {allowed}")


def recall(
    folder: Path, command: str, arguments: argparse.Namespace, names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """The settings of a run; what else is recorded goes into ``arguments``."""
    from ..solvers import run_state

    try:
        content = dict(json.loads((folder / RECORD).read_text(encoding="utf-8")))
        if (other := content.get("command", command)) != command:
            raise UsageError(f"the run in {folder} is of 'bumpnet {other}': bumpnet {other} --resume {folder}")
        there = vars(arguments) | content | {"problem": content["problem"]}  # older records have less in them
        record, settings = {key: there[key] for key in names}, dict(content["settings"])
        settings["solver"] = dict(settings["solver"])
        run_state.load(folder / STATE)
    except OSError as error:
        raise UsageError(f"there is no run to resume in {folder}: {error.filename}: {error.strerror}") from error
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise UsageError(f"{folder / RECORD} is damaged: {error}") from error
    except ValueError as error:
        raise UsageError(f"the run in {folder} cannot be resumed: {error}") from error
    for key, value in record.items():
        setattr(arguments, key, value)
    settings["solver"] |= dict(arguments.settings)
    return settings


def call(folder: Path, arguments: argparse.Namespace, settings: dict[str, dict[str, Any]]) -> Callable[..., Any]:
    """The call of the library that goes on; it takes the callback."""
    from ..io import saved

    kept = {key: value for key, value in settings["solver"].items() if key == "every_seconds"}
    options = kept | dict(arguments.settings)
    return lambda callback: saved.resume(folder / STATE, callback=callback, **options)
