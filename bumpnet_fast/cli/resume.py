"""Going on with a run that was stopped, of any command.

A run keeps its state in ``run.pt`` of its folder, what the command line alone knows included.  In folders that were
written before it was, the latter is in ``run.json``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.locks import LockedError, locked
from .common import UsageError

if TYPE_CHECKING:
    from ..io.recording import Frame
    from ..solvers import run_state

#: Files of a run: its state, what older versions wrote beside it, and the bumps over time, if they are recorded.
STATE, RECORD, TRAINING = "run.pt", "run.json", "training.pt"
#: Arguments that a resumption takes, whatever the command.
_ARGUMENTS = {"resume", "settings", "json", "threads", "quiet", "run"}
#: Of the argument.
HELP = "go on with the run that wrote to DIR, with its settings"


@contextlib.contextmanager
def alone(folder: Path, purpose: str) -> Iterator[None]:
    """Keep other runs out of the folder while this one is in it."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folder, f"bumpnet {purpose}"))
        except LockedError as error:
            raise UsageError(f"{error}; wait until that has ended, or choose another folder") from error
        yield


def state_of(
    folder: Path, command: str, arguments: argparse.Namespace, names: Sequence[str], settings: dict[str, dict[str, Any]]
) -> run_state.File:
    """The file of a new run, with what a resumption must know, the arguments ``names`` among it.

    An earlier run in the folder is forgotten when the library writes the file, that is, once it has checked all that it
    was given.
    """
    from ..solvers import run_state

    record = {"command": command} | {key: getattr(arguments, key) for key in names} | {"settings": settings}
    return run_state.File(folder / STATE, record, begun=lambda: _forget(folder))


def _forget(folder: Path) -> None:
    """Remove what an earlier run left beside its state."""
    for name in (RECORD, TRAINING, "training.gif"):
        (folder / name).unlink(missing_ok=True)


@contextlib.contextmanager
def recorded(
    folder: Path | None, report: Callable[[Any], None], goes_on: bool = False
) -> Iterator[Callable[[Any], None]]:
    """A callback that keeps the bumps in ``folder``, if there is one, and hands progress on to ``report``.

    The frames that are there go on if the run does; those of another run are not looked at.
    """
    if folder is None:
        yield report
        return
    from ..io.recording import Recording

    try:
        recording = Recording(folder / TRAINING if goes_on else None, report)
    except ValueError as error:
        raise UsageError(f"the run in {folder} cannot be resumed: {error}") from error
    recording.path = folder / TRAINING
    with recording:
        yield recording


def recorded_frames(folder: Path) -> list[Frame]:
    """The frames of a run; none if it was not recorded."""
    from ..io import load

    try:
        return load(folder / TRAINING)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except ValueError as error:
        raise UsageError(str(error)) from error


def refuse_others(
    arguments: argparse.Namespace,
    defaults: argparse.Namespace,
    metavar: str,
    keys: Sequence[str],
    more: Sequence[str] = (),
) -> None:
    """Refuse what a resumption does not take: but for the arguments ``more`` and ``keys`` of ``--set``, nearly all."""
    given = [name for name, value in vars(arguments).items() if value != getattr(defaults, name)]
    taken = _ARGUMENTS.union(more)
    flags = [metavar if name == "problem" else f"--{name.replace('_', '-')}" for name in given if name not in taken]
    flags += [f"--set {key}" for key, _ in arguments.settings if key not in keys]
    if flags:
        allowed = f"besides --set {' and --set '.join(keys)}"
        raise UsageError(f"--resume goes on with the settings of the run, and takes no {flags[0]}; {allowed}")


def recall(
    folder: Path, command: str, arguments: argparse.Namespace, names: Sequence[str]
) -> tuple[dict[str, dict[str, Any]], run_state.File]:
    """The settings of a run, and the file to go on with; what else is recorded goes into ``arguments``."""
    from ..solvers import run_state

    place = folder / STATE
    try:
        content = run_state.load(place).get("command")
        if content is None:  # of an older version
            place = folder / RECORD
            content = json.loads(place.read_text(encoding="utf-8"))
        content = dict(content)
        if (other := content.get("command", command)) != command:
            raise UsageError(f"the run in {folder} is of 'bumpnet {other}': bumpnet {other} --resume {folder}")
        there = vars(arguments) | content | {"problem": content["problem"]}  # older records have less in them
        record, settings = {key: there[key] for key in names}, dict(content["settings"])
        settings["solver"] = dict(settings["solver"])
    except OSError as error:
        raise UsageError(f"there is no run to resume in {folder}: {error.filename}: {error.strerror}") from error
    except (KeyError, TypeError, RecursionError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{place} is damaged: {error}") from error
    except ValueError as error:
        raise UsageError(f"the run in {folder} cannot be resumed: {error}") from error
    for key, value in record.items():
        setattr(arguments, key, value)
    settings["solver"] |= dict(arguments.settings)
    return settings, run_state.File(folder / STATE, content)


def call(
    file: run_state.File, arguments: argparse.Namespace, settings: dict[str, dict[str, Any]]
) -> Callable[..., Any]:
    """The call of the library that goes on; it takes the callback."""
    from ..io import resume

    kept = {key: value for key, value in settings["solver"].items() if key == "every_seconds"}
    options = kept | dict(arguments.settings)
    return lambda callback: resume(file, callback=callback, **options)
