"""The command ``bumpnet show``: draw the pictures of a run again, draw others, and export it for ParaView."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import pictures, resume
from .common import UsageError, integer, threads
from .running import computing_threads, mistakes
from .writing import check_writable, write_picture

if TYPE_CHECKING:
    from ..solvers import Evolution, March, Solution
    from ..solvers.operators import OperatorSolution

#: Range of points along an axis of an exported field.
_POINTS = 2, 2000


# --- arguments -----------------------------------------------------------------------------------


def add_command(commands: Any) -> None:
    """Add ``show`` to the subparsers ``commands`` of the program."""
    about = "Draw the pictures of a run again, and others; export it for ParaView.  Nothing is solved again."
    show = commands.add_parser("show", help=about.partition(";")[0].lower() + ", and export it", description=about)
    add = show.add_argument
    add("result", metavar="RUN", type=Path, help="the output folder of solve, evolve or operator, or a saved model")
    add("--out", type=Path, metavar="DIR", help="where to draw; default: the folder of the run")
    held = "fix a coordinate, such as t=0.5, in fields.png and --vtk; can be repeated"
    add("--slice", action="append", default=[], type=_coordinate, metavar="AXIS=VALUE", dest="slices", help=held)
    moving = "also draw GIFs: over time, and of the training if solve --animate recorded it"
    add("--animate", action="store_true", help=moving)
    export = "write u, its gradient and its error for ParaView: an image, FILE.vti, or a series over time, FILE.pvd"
    add("--vtk", type=Path, metavar="FILE", help=export)
    add("--points", type=_points, metavar="N", help="points per axis of FILE; default: 65 of a block, 201 of a plane")
    add("--report", action="store_true", help="also print how good the solution is, as solve does")
    add("--no-estimate", action="store_true", help="do not estimate the error, for pictures and the report")
    add("--threads", type=threads, metavar="N", help="largest number of threads; default: torch's own")
    add("--quiet", action="store_true", help="do not list the files that were written")
    show.set_defaults(run=_show)


def _coordinate(text: str) -> tuple[str, float]:
    name, _, value = (part.strip() for part in text.partition("="))
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not name or not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form AXIS=VALUE")
    return name, number


def _points(text: str) -> int:
    return integer(text, *_POINTS)


# --- the command ---------------------------------------------------------------------------------


def _show(arguments: argparse.Namespace) -> int:
    from ..solvers.operators import OperatorSolution

    if arguments.points is not None and arguments.vtk is None:
        raise UsageError("--points is for --vtk")
    with computing_threads(arguments.threads), mistakes("points", lambda: True):
        result = _load(arguments.result)
        is_operator = isinstance(result, OperatorSolution)
        drawn = _of_operator(result, arguments) if is_operator else _of_field(result, arguments)
        inside = arguments.result if arguments.result.is_dir() else arguments.result.parent
        folder = arguments.out or inside
        check_writable(folder, None if arguments.vtk is None else str(arguments.vtk))
        if arguments.vtk is not None:  # first, as it may be a mistake of the caller
            _export(result, arguments)
        for name, draw in drawn.items():
            write_picture(folder / name, draw)
            _tell(arguments, folder / name)
        if arguments.report:
            _report(result, arguments)
    return 0


def _report(result: Solution | March | Evolution, arguments: argparse.Namespace) -> None:
    report = result.report(estimate=not arguments.no_estimate)
    print(report.table())
    for warning in report.warnings:
        _warn(warning)


def _load(path: Path) -> Any:
    """The result in a folder or file; warns of what is not known."""
    from ..core.files import CheckpointError
    from ..io.saved import UNKNOWN, load
    from ..solvers.solution import Result

    try:
        result = load(path)
    except OSError as error:
        raise UsageError(f"there is nothing to show in {path}: {error.strerror}") from error
    except CheckpointError as error:
        raise UsageError(str(error)) from error
    if not isinstance(result, Result):
        raise UsageError(f"{path} is the record of a training, which the folder of its run shows with --animate")
    if not result.history:
        _warn(f"{path} is a model without its run: how it came about is not shown")
    problem = result.problem
    if type(problem).__name__ == UNKNOWN:
        _warn(
            f"problem {problem.name!r} is not known here: its exact solution and the shape of its domain are not shown"
        )
    return result


def _of_operator(solution: OperatorSolution, arguments: argparse.Namespace) -> pictures.Pictures:
    options = {
        "--slice": arguments.slices, "--animate": arguments.animate, "--vtk": arguments.vtk,
        "--report": arguments.report,
    }  # fmt: skip
    if wrong := next((flag for flag, value in options.items() if value), None):
        raise UsageError(f"{wrong} is for solutions and evolutions; {arguments.result} holds an operator")
    return pictures.of_operator(solution)


def _of_field(result: Solution | March | Evolution, arguments: argparse.Namespace) -> pictures.Pictures:
    from ..io.fields import field_of
    from ..solvers import Evolution

    at = dict(arguments.slices)
    field = field_of(result)
    try:
        field.held(at)
    except ValueError as error:
        raise UsageError(str(error)) from error
    moves = field.time is not None and len(field.names) > 1
    if isinstance(result, Evolution):
        return pictures.of_evolution(result, arguments.animate, at)
    frames = resume.recorded_frames(arguments.result) if arguments.animate else []
    if arguments.animate and not moves and not frames:
        wanted = "the problem has no time, and the training was not recorded, which solve --animate does"
        raise UsageError(f"there is nothing to animate in {arguments.result}: {wanted}")
    drawn = pictures.of_solution(result, frames, at, not arguments.no_estimate)
    return drawn | (pictures.over_time(result) if arguments.animate and moves else {})


def _export(result: Solution | March | Evolution, arguments: argparse.Namespace) -> None:
    from ..io.vtk import write_vtk

    try:
        files = write_vtk(result, arguments.vtk, dict(arguments.slices), points=arguments.points)
    except ValueError as error:
        raise UsageError(str(error)) from error
    _tell(arguments, files[0])


def _tell(arguments: argparse.Namespace, path: Path) -> None:
    if not arguments.quiet:
        print(path)


def _warn(message: str) -> None:
    print(f"bumpnet: warning: {message}", file=sys.stderr)
