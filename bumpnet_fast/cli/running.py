"""How the commands run the library: threads, progress on a terminal, and whose mistake an error is."""

from __future__ import annotations

import argparse
import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .common import UsageError

if TYPE_CHECKING:
    from ..solvers import Progress


@contextlib.contextmanager
def computing_threads(number: int | None) -> Iterator[None]:
    """Compute with at most ``number`` threads; None keeps those of torch."""
    from ..core.scopes import torch_threads

    with contextlib.nullcontext() if number is None else torch_threads(number):
        yield


@contextlib.contextmanager
def followed(report: Callable[[Any], None], many: str = "bumps and points") -> Iterator[Callable[[Any], None]]:
    """A callback that hands progress on to ``report``; errors before its first call are mistakes of the caller.

    ``many`` names what there may be too much of for the memory.
    """
    started = False

    def follow(progress: Any) -> None:
        nonlocal started
        started = True
        report(progress)

    with _warnings_told(), mistakes(many, lambda: started):
        yield follow


@contextlib.contextmanager
def mistakes(many: str = "bumps", started: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Tell errors of the library as mistakes of the caller: of any kind until the work has ``started``.

    After that only numbers that are too large and memory that is too small are.
    """
    try:
        yield
    except ArithmeticError as error:
        reason = error.args[-1] if error.args else type(error).__name__
        raise UsageError(f"the settings are too large, or too small, to compute with: {reason}") from error
    except MemoryError as error:
        raise UsageError(f"not enough memory for so many {many}") from error
    except (ValueError, TypeError, RecursionError, ModuleNotFoundError) as error:
        if started():  # not about the arguments any more
            raise
        raise UsageError(str(error)) from error
    except RuntimeError as error:
        if not any(text in str(error) for text in _TOO_MANY):
            raise
        raise UsageError(f"not enough memory for so many {many}") from error


#: What torch says of a tensor that has no room, or whose size is no number of 64 bits.
_TOO_MANY = ("allocate memory", "not enough memory", "out of memory", "overflow", "Overflow", "represented as a SymInt")


@contextlib.contextmanager
def _warnings_told() -> Iterator[None]:
    """Tell at once, in one line, that the state of the run could not be written."""
    from ..core.files import CheckpointWarning

    with warnings.catch_warnings():
        warnings.simplefilter("always", CheckpointWarning)
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, CheckpointWarning):
                print("bumpnet: warning:", message, file=sys.stderr)
            else:
                others(message, category, *where, **more)

        warnings.showwarning = show
        yield


@contextlib.contextmanager
def progress(arguments: argparse.Namespace, watched: Sequence[str] = ()) -> Iterator[Callable[[Progress], None]]:
    """A line on the terminal that follows a run; nothing where nobody watches.

    Parameters
    ----------
    arguments : argparse.Namespace
        With ``problem``, the name of the line, and ``quiet``.
    watched : sequence of str
        What to show of the entries of the history beside iteration, loss and error, where they have it.
    """
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Display

    name, now = (TextColumn(f"{{task.{field}}}", markup=False) for field in ("description", "fields[now]"))
    columns = name, BarColumn(bar_width=10), TaskProgressColumn(), now, TimeElapsedColumn()
    console = Console(stderr=True)
    hidden = arguments.quiet or not console.is_terminal
    with Display(*columns, console=console, transient=True, disable=hidden) as line:
        task = line.add_task(arguments.problem, total=None, now="starting")
        error = "unknown"

        def report(progress: Progress) -> None:
            nonlocal error
            error = error if progress.rel_l2 is None else f"{progress.rel_l2:.2e}"
            parts = {"iteration": progress.iteration, "loss": f"{progress.loss:.2e}", "error": error}
            parts |= {key: progress.entry[key] for key in watched if key in progress.entry}
            text = "  ".join(f"{key} {_short(value)}" for key, value in parts.items())
            share = progress.share
            line.update(task, total=None if share is None else 1.0, completed=share or 0.0, now=text)

        yield report


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
