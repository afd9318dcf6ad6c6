"""The command ``bumpnet``: list the problems, describe and check the installation, solve a problem.

This file parses arguments, hands them to the library and writes down what comes back; it computes
nothing itself.  What needs torch or matplotlib is imported where it is used, so that help and
mistakes of grammar are answered at once.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import inspect
import json
import math
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from . import __version__, cli_solve

if TYPE_CHECKING:
    from .layer import BumpNet
    from .problems.base import Problem
    from .solvers import March, Progress, Solution

#: Exit codes besides 0.
FAILED, USAGE, INTERRUPTED = 1, 2, 130
#: Those of solvers.least_squares, which it would take torch to import.
METHODS = ("auto", "varpro", "gauss-newton", "lm")
#: Standard deviation of the random change of the initial shapes, when a seed is given.
PERTURB = 0.05


class UsageError(Exception):
    """A mistake of the caller: told in one line, without a traceback."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; by default those of the process.

    Returns
    -------
    int
        Exit code: 0 for success; 2 for a mistake in the arguments, told in one line before anything
        is computed; 130 after Ctrl-C (what was found by then is written like any other solution);
        1 if a result could not be written, or if a check failed.

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
    print("bumpnet: error:", " ".join(message.split()), file=sys.stderr)
    return code


def _reason(error: OSError) -> str:
    return f"cannot write {error.filename}: {error.strerror}" if error.filename else str(error)


# --- arguments -----------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="bumpnet", description="Solve partial differential equations with networks of bumps.")
    parser.add_argument("--version", action="version", version=f"bumpnet_fast {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    info = commands.add_parser("info", help="versions, compiled kernels, devices, and why something is missing")
    info.add_argument("--json", action="store_true", help="as JSON")
    info.set_defaults(run=_info)

    about = "Solve a problem; write the model, the history, a summary and a picture."
    ending = "Ctrl-C ends the solving early: the best solution so far is written, and the exit code is 130."
    solve = commands.add_parser("solve", help=about[0].lower() + about[1:-1], description=about, epilog=ending)
    _add_solve_arguments(solve.add_argument)
    solve.set_defaults(run=_solve)

    from . import cli_check, cli_evolve, cli_list, cli_operator

    for module in (cli_list, cli_check, cli_evolve, cli_operator):
        module.add_command(commands)
    return parser


def _add_solve_arguments(add: Callable[..., Any]) -> None:
    random = f"perturb the initial shapes at random, by {PERTURB} unless perturb is set"
    setting = "a field of the problem, an option of the solver or of the net, or perturb; see 'bumpnet list'"
    add("problem", metavar="PROBLEM", nargs="?", help="one of 'bumpnet list'")
    add("--bumps", type=_bumps, metavar="N|NxM", help="number of bumps, or of grid cells per axis, such as 4x10")
    methods = f"{', '.join(METHODS)}, or {', '.join(cli_solve.FIRST_ORDER)}, joined by +; default: %(default)s"
    add("--method", type=cli_solve.method_type(METHODS), metavar="METHOD", default="auto", help=methods)
    add("--windows", type=_windows, metavar="N", help="march in time, with a net of --bumps for each of N windows")
    add("--boundary", choices=("hard", "soft"), help="exact or by least squares; default: hard if possible")
    add("--resume", type=Path, metavar="DIR", help="go on with the run of a first-order method that wrote to DIR")
    _add_output_arguments(add, random, setting)


def _add_output_arguments(add: Callable[..., Any], random: str, setting: str) -> None:
    """What every command that computes has, with the help on ``--seed`` and ``--set``."""
    add("--dtype", choices=("float32", "float64"), default="float64", help="default: %(default)s")
    add("--seed", type=_seed, metavar="N", help=random)
    add("--set", action="append", default=[], type=_assignment, metavar="KEY=VALUE", dest="settings", help=setting)
    add("--out", type=Path, metavar="DIR", help="where to write; default: runs/PROBLEM")
    add("--json", metavar="FILE", help="write the summary to FILE as well; - is the standard output")
    add("--threads", type=_threads, metavar="N", help="most threads to compute with; default: those of torch")
    add("--quiet", action="store_true", help="neither progress nor summary")


def _integer(text: str, least: int, most: float = math.inf) -> int:
    if not (text.isascii() and text.isdigit()) or not least <= int(text) <= most:
        limits = f"of at least {least}" if most == math.inf else f"from {least} to {most}"
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number {limits}")
    return int(text)


def _seed(text: str) -> int:
    return _integer(text, 0, 2**63 - 1)


def _windows(text: str) -> int:
    return _integer(text, 1)


def _threads(text: str) -> int:
    return _integer(text, 1, os.cpu_count() or 1)


def _bumps(text: str) -> int | tuple[int, ...]:
    try:
        counts = tuple(_integer(part, 1) for part in text.split("x"))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1 or a grid such as 4x10") from None
    return counts if len(counts) > 1 else counts[0]


def _assignment(text: str) -> tuple[str, Any]:
    key, value = (part.strip() for part in text.partition("=")[::2])
    if not key or not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form KEY=VALUE")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


# --- one name space for all settings -------------------------------------------------------------


def _options(function: Callable) -> dict[str, Any]:
    """Keyword-only parameters that have no flag of their own, with their defaults."""
    flags = {"method", "boundary", "seed", "dtype", "device", "callback", "checkpoint"}
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in flags}


def _settable(problem: type[Problem], method: str = "auto") -> dict[str, dict[str, Any]]:
    """All that ``--set`` reaches, with the defaults, by what it belongs to."""
    from .layer import BumpNet

    scopes = {"solver": _options(cli_solve.options_of(method)), "net": _options(BumpNet)}
    return {"problem": problem.settings(), **scopes, "run": {"graded": 0.0, "perturb": 0.0}}


def _sorted_settings(
    name: str, assignments: Sequence[tuple[str, Any]], method: str = "auto"
) -> dict[str, dict[str, Any]]:
    """The assignments by what they belong to: ``{"problem": ..., "solver": ..., "net": ..., "run": ...}``."""
    from .problems import PROBLEMS

    if name not in PROBLEMS:
        raise UsageError(f"unknown problem {name!r}; there are: {', '.join(PROBLEMS)}")
    settable = _settable(PROBLEMS[name], method)
    known = {key for keys in settable.values() for key in keys}
    own = [(key, value) for key, value in PROBLEMS[name].options.items() if key in known]
    return _scoped(name, settable, [*own, *assignments])


def _scoped(name: str, settable: dict[str, dict[str, Any]], assignments: Sequence[tuple[str, Any]]) -> dict:
    """The assignments by the scopes of ``settable``, which lists what there is."""
    chosen: dict[str, dict[str, Any]] = {scope: {} for scope in settable}
    for key, value in assignments:
        scope = next((scope for scope, known in settable.items() if key in known), None)
        if scope is None:
            known = ", ".join(key for keys in settable.values() for key in keys)
            raise UsageError(f"{name} has no setting {key!r}; there are: {known}")
        chosen[scope][key] = value
    return chosen


# --- commands ------------------------------------------------------------------------------------


def _pairs(settings: dict[str, Any]) -> str:
    def text(value: Any) -> str:
        if isinstance(value, tuple):
            return ",".join(map(text, value))
        return f"{value:g}" if isinstance(value, float) else str(value)

    return " ".join(f"{key}={text(value)}" for key, value in settings.items())


def _info(arguments: argparse.Namespace) -> int:
    from .info import format_report, report

    print(json.dumps(report(), indent=2) if arguments.json else format_report(report()))
    return 0


def _solve(arguments: argparse.Namespace) -> int:
    if arguments.resume:
        return cli_solve.resume(arguments, _parser().parse_args(["solve"]))
    if arguments.problem is None:
        raise UsageError("the following arguments are required: PROBLEM")
    settings = _sorted_settings(arguments.problem, arguments.settings, arguments.method)
    with _computing_threads(arguments.threads):
        problem, net = _prepare(arguments, settings)
        folder = arguments.out or Path("runs", arguments.problem)
        _check_writable(folder, arguments.json)
        cli_solve.remember(folder, arguments, settings)
        solution = _run(problem, net, arguments, settings, folder)
        return _finish(solution, arguments, settings, folder)


def _finish(
    solution: Solution | March, arguments: argparse.Namespace, settings: dict[str, dict[str, Any]], folder: Path
) -> int:
    """Write and show a solution; the exit code."""
    summary = _summary(solution, arguments, settings)
    _write(folder, arguments.json, solution, summary)
    if not arguments.quiet:
        _show(summary, folder, sys.stderr if arguments.json == "-" else sys.stdout)
    return INTERRUPTED if solution.stop_reason == "interrupted" else 0


@contextlib.contextmanager
def _computing_threads(number: int | None) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _prepare(arguments: argparse.Namespace, settings: dict[str, dict[str, Any]]) -> tuple[Problem, BumpNet]:
    """The problem, and the net to solve it with, at its start."""
    import torch

    from . import problems
    from .layer import BumpNet
    from .solvers.placement import drop_outside, grade

    perturb = settings["run"].setdefault("perturb", 0.0 if arguments.seed is None else PERTURB)
    if not isinstance(perturb, (int, float)) or not 0 <= perturb < math.inf:
        raise UsageError(f"perturb must be a finite number of at least 0, got {perturb!r}")
    try:
        problem = problems.get(arguments.problem, **settings["problem"])
        bumps = arguments.bumps or problem.default_bumps
        dim, domain = problem.domain.shape[1], problem.domain
        net = BumpNet(dim, bumps, domain, problem.outputs, dtype=arguments.dtype, **settings["net"])
        grade(net, problem, settings["run"].setdefault("graded", 0.0))
        drop_outside(net, problem)
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error
    if perturb:
        net.perturb_(perturb, torch.Generator().manual_seed(arguments.seed or 0))
    return problem, net


def _check_writable(folder: Path, file: str | None, create: bool = True) -> None:
    """Create ``folder`` and make sure that it, and the folder of ``file``, can be written to."""
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


def _run(
    problem: Problem, net: BumpNet | None, arguments: argparse.Namespace, settings: dict[str, Any], folder: Path
) -> Solution | March:
    from .solvers import marching

    choices = {"method": arguments.method, "boundary": arguments.boundary, "seed": arguments.seed or 0}
    choices |= settings["solver"]

    def run(**follow: Any) -> Solution | March:
        windows = arguments.windows or problem.default_windows
        if windows is None or cli_solve.is_first_order(arguments.method):
            return cli_solve.solver(arguments, folder)(problem, net, **choices, **follow)
        start = {"net": settings["net"] | {"dtype": arguments.dtype}, **settings["run"]}
        return marching.march(problem, arguments.bumps, windows=windows, **start, **choices, **follow)

    started = False

    def follow(progress: Progress) -> None:
        nonlocal started
        started = True
        report(progress)

    with _progress(arguments) as report:
        try:
            return run(callback=follow)
        except ValueError as error:
            if started:  # not about the arguments any more
                raise
            raise UsageError(str(error)) from error
        except RuntimeError as error:
            if "allocate memory" not in str(error) and "not enough memory" not in str(error):
                raise
            raise UsageError("not enough memory for so many bumps and points") from error


# --- what the user sees --------------------------------------------------------------------------


@contextlib.contextmanager
def _progress(arguments: argparse.Namespace) -> Iterator[Callable[[Progress], None]]:
    """A line on the terminal that follows the solving; nothing where nobody watches."""
    from rich.console import Console
    from rich.progress import Progress as Display
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    text = "[bold]{task.description}[/]  iteration {task.completed}"
    text += "  loss {task.fields[loss]}  error {task.fields[error]}"
    columns = SpinnerColumn(), TextColumn(text), TimeElapsedColumn()
    hidden = arguments.quiet or not console.is_terminal
    with Display(*columns, console=console, transient=True, disable=hidden) as display:
        task = display.add_task(arguments.problem, total=None, loss="...", error="unknown")

        def report(progress: Progress) -> None:
            fields = {"loss": f"{progress.loss:.2e}"}
            fields |= {} if progress.rel_l2 is None else {"error": f"{progress.rel_l2:.2e}"}
            display.update(task, completed=progress.iteration, **fields)

        yield report


def _show(summary: dict[str, Any], folder: Path, stream: Any, shown: Sequence[str] | None = None) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column()
    for key in shown or _SHOWN:
        value = summary[key]
        if value is not None:
            table.add_row(key.replace("_", " "), _FORMATS.get(key, str)(value))
    table.add_row("written to", str(folder))
    Console(file=stream, highlight=False).print(table)
    for warning in summary["warnings"]:
        print(f"bumpnet: warning: {warning}", file=sys.stderr)


_SHOWN = ("problem", "method", "boundary", "bumps", "parameters", "windows", "unknowns", "rel_l2",
          "max_error", "loss", "seconds", "iterations", "stop_reason", "dtype", "backend", "threads")  # fmt: skip
_SMALL = ("rel_l2", "max_error", "loss", "train_rel_l2", "projection_rel_l2")
_FORMATS: dict[str, Callable[[Any], str]] = dict.fromkeys(_SMALL, "{:.2e}".format)
_FORMATS["seconds"] = "{:.2f}".format


# --- what is written -----------------------------------------------------------------------------


def _summary(
    solution: Solution | March, arguments: argparse.Namespace, settings: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    import torch

    from .checkpoint import problem_settings
    from .functional import backend

    net, nets = solution.net, _nets(solution)
    return {
        "problem": arguments.problem,
        "method": solution.method,
        "boundary": solution.boundary,
        "bumps": len(net.rows),
        "parameters": net.rows.numel(),
        "windows": len(nets),
        "parameters_per_window": nets[0].rows.numel(),
        "unknowns": getattr(solution, "unknowns", None) or None,
        "rel_l2": solution.rel_l2,
        "max_error": solution.max_error,
        "loss": solution.loss,
        "seconds": solution.seconds,
        "iterations": solution.iterations,
        "stop_reason": solution.stop_reason,
        "events": [vars(event) for event in getattr(solution, "events", ())],
        "dtype": arguments.dtype,
        "backend": backend(),
        "threads": torch.get_num_threads(),
        "seed": arguments.seed,
        "settings": settings | {"problem": problem_settings(solution.problem)},
        "warnings": [warning for part in nets for warning in part.check()],
        "versions": {
            "bumpnet_fast": __version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
    }


def _nets(solution: Solution | March) -> list[BumpNet]:
    return [part.net for part in getattr(solution, "parts", [solution])]


def _write(folder: Path, file: str | None, solution: Solution | March, summary: dict[str, Any]) -> None:
    from .checkpoint import atomic, save
    from .plotting import solution_figure

    nets = _nets(solution) if hasattr(solution, "parts") else solution.net
    save(folder / "model.pt", nets, problem=solution.problem, boundary=solution.boundary)
    _write_json(folder / "history.json", solution.history)
    _write_json(folder / "summary.json", summary)
    if file == "-":
        print(_json(summary))
    elif file is not None:
        _write_json(Path(file), summary)
    with atomic(folder / "solution.png") as image:
        solution_figure(solution).savefig(image, format="png")


def _write_json(path: Path, content: Any) -> None:
    from .checkpoint import atomic

    with atomic(path) as file:
        file.write(f"{_json(content)}\n".encode())


def _json(content: Any) -> str:
    return json.dumps(_strict(content), indent=2, allow_nan=False)


def _strict(content: Any) -> Any:
    """The content with null for what JSON has no number for."""
    if isinstance(content, dict):
        return {key: _strict(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_strict(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
