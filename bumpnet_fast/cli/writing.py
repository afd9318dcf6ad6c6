"""What commands write: the model, the history, a summary and pictures."""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from .. import __version__
from .common import UsageError

if TYPE_CHECKING:
    from ..solvers.evolution.report import EvolutionReport
    from ..solvers.report import Report
    from ..solvers.solution import Result

#: Entries of a summary that are printed, in this order, where known.
SHOWN = ("problem", "method", "shapes", "physics", "boundary", "bumps", "branch", "parameters", "windows", "unknowns",
         "time", "rel_l2", "error_estimate", "train_rel_l2", "projection_rel_l2", "max_error", "fit_error", "residual",
         "loss", "setup_seconds", "seconds", "processor_seconds", "iterations", "steps", "solve_seconds", "stop_reason",
         "dtype", "backend", "threads")  # fmt: skip
#: Those that a report has, too.
REPORTED = ("unknowns", "error_estimate", "loss", "stop_reason")
#: Columns of the summary where it goes to a file or a pipe.
_WIDE = 4096


def _seconds(value: float) -> str:
    return f"{value:.2f}" if value >= 1 else f"{value:.3f}"


_SMALL = ("rel_l2", "max_error", "loss", "train_rel_l2", "projection_rel_l2", "fit_error", "residual", "solve_seconds")
_FORMATS: dict[str, Callable[[Any], str]] = dict.fromkeys(_SMALL, "{:.2e}".format)
_FORMATS |= dict.fromkeys(("setup_seconds", "seconds", "processor_seconds"), _seconds) | {"time": "{:g}".format}


def check_writable(folder: Path, file: str | None, create: bool = True) -> None:
    """Create ``folder``; check that it, and the folder of ``file``, can be written to."""
    try:
        if create:
            folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UsageError(f"cannot write to the directory {folder}: {error.strerror}") from error
    if file in (None, "-"):
        return
    try:
        if Path(file).is_dir():
            raise IsADirectoryError(None, "it is a directory")
        if Path(file).is_file() or not Path(file).exists():
            tempfile.TemporaryFile(dir=Path(file).resolve().parent).close()
    except OSError as error:
        raise UsageError(f"cannot write the file {file}: {error.strerror}") from error


def summary_of(
    result: Result,
    arguments: argparse.Namespace,
    settings: dict[str, dict[str, Any]],
    more: dict[str, Any],
    warnings: Sequence[str],
    report: Report | EvolutionReport | None = None,
) -> dict[str, Any]:
    """The summary of a result, with what it was computed with and where.

    ``more`` are entries of the command, and ``warnings`` its warnings; ``report`` has those of the result.
    """
    import torch

    from ..core.functional import backend
    from ..io.saved import problem_settings

    if report is None:
        looks_wrong = [*result.warnings, *(warning for net in result.nets for warning in net.check())]
    else:
        looks_wrong = list(report.warnings)
    return {
        "problem": arguments.problem,
        "method": result.method,
        "bumps": sum(len(net.rows) for net in result.nets),
        "rel_l2": result.rel_l2,
        "seconds": result.seconds,
        "processor_seconds": result.processor_seconds,
        "stop_reason": result.stop_reason,
        "stop_message": result.stop.message,
        **more,
        **({} if report is None else _reported(report)),
        "dtype": arguments.dtype,
        "backend": backend(),
        "threads": torch.get_num_threads(),
        "seed": arguments.seed,
        "settings": settings | {"problem": problem_settings(result.problem)},
        "warnings": list(dict.fromkeys([*looks_wrong, *warnings])),
        "versions": {
            "bumpnet_fast": __version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
    }


def _reported(report: Report | EvolutionReport) -> dict[str, Any]:
    """Entries of a summary by a report."""
    error = report.error
    estimate = {} if error is None else {
        "error_estimate": max(error.rel_l2),
        "error_estimate_reliable": error.reliable,
        "error_estimate_reason": error.reason,
    }  # fmt: skip
    return estimate | {"report": report.as_dict()}


def write_results(
    folder: Path,
    file: str | None,
    save: Callable[[Path], None],
    history: Sequence[dict[str, Any]],
    summary: dict[str, Any],
    pictures: dict[str, Callable[[BinaryIO], Any]],
) -> None:
    """Write everything of a run to ``folder``, and the summary to ``file``; pictures come last, as they may fail."""
    try:
        save(folder / "model.pt")
        write_json(folder / "history.json", history)
        write_json(folder / "summary.json", summary)
        if file == "-":
            print(as_json(summary))
        elif file is not None:
            write_json(Path(file), summary)
        for name, draw in pictures.items():
            write_picture(folder / name, draw)
    except OSError as error:
        if error.filename is None:  # the standard output, which nobody reads any more
            raise
        again = f"the run is not lost: --resume {folder} writes this again"
        raise OSError(error.errno, f"{error.strerror}; {again}", error.filename) from error


def write_picture(path: Path, draw: Callable[[BinaryIO], Any]) -> None:
    """Write a picture, atomically."""
    from ..core.files import atomic

    with atomic(path) as image:
        draw(image)


def show(
    summary: dict[str, Any], folder: Path, arguments: argparse.Namespace,
    report: Report | EvolutionReport | None = None,
) -> None:  # fmt: skip
    """Print the summary and the report, unless quiet; to the standard error if JSON goes to the standard output."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if arguments.quiet:
        return
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column()
    told = summary | {"stop_reason": f"{summary['stop_reason']}: {summary['stop_message']}"}
    if (estimate := summary.get("error_estimate")) is not None:
        verdict = "" if summary["error_estimate_reliable"] else f", not reliable: {summary['error_estimate_reason']}"
        told["error_estimate"] = f"{estimate:.1e}{verdict}"
    told |= {"windows": None} if told.get("windows") == 1 else {}
    if report is not None and arguments.no_report:
        report = None
    for key in SHOWN:
        if (value := told.get(key)) is not None and (report is None or key not in REPORTED):
            table.add_row(key.replace("_", " "), Text(_FORMATS.get(key, str)(value)))
    table.add_row("written to", Text(str(folder)))  # as text: brackets in a path are not markup
    console = Console(file=sys.stderr if arguments.json == "-" else sys.stdout, highlight=False)
    if not console.is_terminal:
        console.width = _WIDE  # a file or a pipe has no edge at which a path would have to be cut
    console.print(table)
    if report is not None:
        print(f"\n{report.table()}", file=console.file)
    for warning in summary["warnings"]:
        print(f"bumpnet: warning: {warning}", file=sys.stderr)


def write_json(path: Path, content: Any) -> None:
    """Write a file of JSON, atomically."""
    from ..core.files import atomic

    with atomic(path) as file:
        file.write(f"{as_json(content)}\n".encode())


def as_json(content: Any) -> str:
    """The content as JSON, with null for NaN and infinity."""
    return json.dumps(_strict(content), indent=2, allow_nan=False)


def _strict(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _strict(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_strict(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
