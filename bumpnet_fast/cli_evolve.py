"""The command ``bumpnet evolve``: follow an evolution problem through time.

Like :mod:`bumpnet_fast.cli`, whose conventions it keeps, it computes nothing itself.
"""

from __future__ import annotations

import argparse
import contextlib
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__
from .cli import (
    FAILED,
    INTERRUPTED,
    PERTURB,
    UsageError,
    _assignment,
    _bumps,
    _check_writable,
    _computing_threads,
    _json,
    _options,
    _pairs,
    _seed,
    _threads,
    _write_json,
)

if TYPE_CHECKING:
    from .layer import BumpNet
    from .problems.evolution.base import EvolutionProblem
    from .solvers.evolution import Evolution, EvolutionProgress


def add_command(commands: Any) -> None:
    """Add ``evolve`` to the commands of a parser."""
    about = "Follow an evolution problem through time; write the model, the history, a summary and pictures."
    ending = "Ctrl-C ends it early: what was computed is written, and the exit code is 130. It is 1 after instability."
    evolve = commands.add_parser("evolve", help=about[0].lower() + about[1:-1], description=about, epilog=ending)
    _add_arguments(evolve.add_argument)
    evolve.set_defaults(run=_evolve)


def _add_arguments(add: Callable[..., Any]) -> None:
    method = "auto, expm, cn, rk4, etdrk4, dop853, radau, bdf, or one of torchdiffeq; default: %(default)s"
    random = f"perturb the initial shapes at random, by {PERTURB} unless perturb is set"
    setting = "a field of the problem, an option of the solver or of the net, or perturb; see 'bumpnet list'"
    add("problem", metavar="PROBLEM", help="one of 'bumpnet list'")
    add("--bumps", type=_bumps, metavar="N|NxM", help="number of bumps, or of grid cells per axis, such as 12x12")
    add("--method", default="auto", help=method)
    add("--shapes", choices=("frozen", "evolve"), default="frozen", help="of the bumps; default: %(default)s")
    add("--dtype", choices=("float32", "float64"), default="float64", help="of the net; default: %(default)s")
    add("--seed", type=_seed, metavar="N", help=random)
    add("--set", action="append", default=[], type=_assignment, metavar="KEY=VALUE", dest="settings", help=setting)
    add("--out", type=Path, metavar="DIR", help="where to write; default: runs/evolve-PROBLEM")
    add("--json", metavar="FILE", help="write the summary to FILE as well; - is the standard output")
    add("--threads", type=_threads, metavar="N", help="most threads to compute with; default: those of torch")
    add("--no-animation", action="store_true", help="leave evolution.gif out, which takes a few seconds")
    add("--quiet", action="store_true", help="neither progress nor summary")


def list_problems() -> None:
    """Print the evolution problems and what can be set."""
    from .problems.evolution import EVOLUTIONS

    print("\nFor bumpnet evolve")
    for name, problem in EVOLUTIONS.items():
        print(f"{name:<12} {problem.summary}\n{'':<12} {_pairs(problem.settings())}")
    print(f"{'solver':<12} {_pairs(_settable(problem)['solver'])}")


# --- settings ------------------------------------------------------------------------------------


def _settable(problem: type[EvolutionProblem]) -> dict[str, dict[str, Any]]:
    """All that ``--set`` reaches, with the defaults, by what it belongs to."""
    from .layer import BumpNet
    from .solvers.ednn import evolve

    solver = {key: value for key, value in _options(evolve).items() if key != "shapes"}
    net = _options(BumpNet) | {"overlap": problem.default_overlap}
    return {"problem": problem.settings(), "solver": solver, "net": net, "run": {"perturb": 0.0}}


def _sorted_settings(name: str, assignments: Sequence[tuple[str, Any]]) -> dict[str, dict[str, Any]]:
    """The assignments by what they belong to."""
    from .problems.evolution import EVOLUTIONS

    if name not in EVOLUTIONS:
        raise UsageError(f"unknown evolution problem {name!r}; there are: {', '.join(EVOLUTIONS)}")
    settable = _settable(EVOLUTIONS[name])
    chosen: dict[str, dict[str, Any]] = {scope: {} for scope in settable}
    for key, value in assignments:
        scope = next((scope for scope, known in settable.items() if key in known), None)
        if scope is None:
            known = ", ".join(key for keys in settable.values() for key in keys)
            raise UsageError(f"{name} has no setting {key!r}; there are: {known}")
        chosen[scope][key] = value
    return chosen


# --- the command ---------------------------------------------------------------------------------


def _evolve(arguments: argparse.Namespace) -> int:
    settings = _sorted_settings(arguments.problem, arguments.settings)
    with _computing_threads(arguments.threads):
        problem, net = _prepare(arguments, settings)
        folder = arguments.out or Path("runs", f"evolve-{arguments.problem}")
        _check_writable(folder, arguments.json)
        run = _run(problem, net, arguments, settings["solver"])
        summary = _summary(run, arguments, settings)
        _write(folder, arguments, run, summary)
    if not arguments.quiet:
        _show(summary, folder, sys.stderr if arguments.json == "-" else sys.stdout)
    return {"interrupted": INTERRUPTED, "unstable": FAILED}.get(run.stop_reason, 0)


def _prepare(arguments: argparse.Namespace, settings: dict[str, dict[str, Any]]) -> tuple[EvolutionProblem, BumpNet]:
    """The problem, and the net to follow it with, at its start."""
    import torch

    from .problems.evolution import get_evolution
    from .solvers import uniform_net

    perturb = settings["run"].setdefault("perturb", 0.0 if arguments.seed is None else PERTURB)
    if not isinstance(perturb, (int, float)) or not 0 <= perturb < float("inf"):
        raise UsageError(f"perturb must be a finite number of at least 0, got {perturb!r}")
    try:
        problem = get_evolution(arguments.problem, **settings["problem"])
        net = uniform_net(problem, arguments.bumps, dtype=arguments.dtype, **settings["net"])
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error
    if perturb:
        net.perturb_(perturb, torch.Generator().manual_seed(arguments.seed or 0))
        if problem.periodic_axes:  # images of rotated bumps do not add up
            with torch.no_grad():
                net.rows[:, net.layout.skew] = 0
    return problem, net


def _run(problem: EvolutionProblem, net: BumpNet, arguments: argparse.Namespace, options: dict[str, Any]) -> Evolution:
    from .solvers.ednn import evolve

    started = False

    def follow(progress: EvolutionProgress) -> None:
        nonlocal started
        started = True
        report(progress)

    with _progress(arguments) as report:
        try:
            return evolve(problem, net, method=arguments.method, shapes=arguments.shapes, **options, callback=follow)
        except (ValueError, TypeError, ModuleNotFoundError) as error:
            if started:  # not about the arguments any more
                raise
            raise UsageError(str(error)) from error
        except RuntimeError as error:
            if "allocate memory" not in str(error) and "not enough memory" not in str(error):
                raise
            raise UsageError("not enough memory for so many bumps and points") from error


@contextlib.contextmanager
def _progress(arguments: argparse.Namespace) -> Iterator[Callable[[EvolutionProgress], None]]:
    """A bar on the terminal that follows the time; nothing where nobody watches."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Display

    console = Console(stderr=True)
    text = "t = {task.completed:.3g}  steps {task.fields[steps]}  error {task.fields[error]}"
    columns = TextColumn("[bold]{task.description}"), BarColumn(), TextColumn(text), TimeElapsedColumn()
    hidden = arguments.quiet or not console.is_terminal
    with Display(*columns, console=console, transient=True, disable=hidden) as display:
        task = display.add_task(arguments.problem, total=None, steps=0, error="unknown")

        def report(progress: EvolutionProgress) -> None:
            error = "unknown" if progress.rel_l2 is None else f"{progress.rel_l2:.2e}"
            display.update(task, total=progress.final_time, completed=progress.time, steps=progress.steps, error=error)

        yield report


# --- what comes out ------------------------------------------------------------------------------


def _summary(run: Evolution, arguments: argparse.Namespace, settings: dict[str, dict[str, Any]]) -> dict[str, Any]:
    import torch

    from .checkpoint import problem_settings
    from .functional import backend

    net = run.net
    return {
        "problem": arguments.problem,
        "method": run.method,
        "shapes": run.shapes,
        "bumps": len(net.rows),
        "parameters": net.rows.numel(),
        "time": float(run.times[-1]),
        "rel_l2": run.rel_l2,
        "max_error": run.max_error,
        "fit_error": run.fit_error,
        "residual": max(entry["residual"] for entry in run.history),
        "setup_seconds": run.setup_seconds,
        "seconds": run.seconds,
        "steps": run.steps,
        "stages": run.stages,
        "solve_seconds": run.solve_seconds,
        "stop_reason": run.stop_reason,
        "dtype": arguments.dtype,
        "backend": backend(),
        "threads": torch.get_num_threads(),
        "seed": arguments.seed,
        "settings": settings | {"problem": problem_settings(run.problem)},
        "warnings": [*run.warnings, *net.check()],
        "versions": {
            "bumpnet_fast": __version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
    }


def _write(folder: Path, arguments: argparse.Namespace, run: Evolution, summary: dict[str, Any]) -> None:
    from .checkpoint import atomic
    from .evolution_checkpoint import save
    from .plotting_evolution import evolution_figure, write_animation

    save(folder / "model.pt", run)
    _write_json(folder / "history.json", run.history)
    _write_json(folder / "summary.json", summary)
    if arguments.json == "-":
        print(_json(summary))
    elif arguments.json is not None:
        _write_json(Path(arguments.json), summary)
    with atomic(folder / "evolution.png") as image:
        evolution_figure(run).savefig(image, format="png")
    if not arguments.no_animation:
        with atomic(folder / "evolution.gif") as image:
            write_animation(run, image)


def _show(summary: dict[str, Any], folder: Path, stream: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column()
    for key in _SHOWN:
        value = summary[key]
        if value is not None:
            table.add_row(key.replace("_", " "), _FORMATS.get(key, str)(value))
    table.add_row("written to", str(folder))
    Console(file=stream, highlight=False).print(table)
    for warning in summary["warnings"]:
        print(f"bumpnet: warning: {warning}", file=sys.stderr)


_SHOWN = ("problem", "method", "shapes", "bumps", "time", "rel_l2", "max_error", "fit_error", "residual",
          "setup_seconds", "seconds", "steps", "solve_seconds", "stop_reason", "dtype", "backend",
          "threads")  # fmt: skip
_ROUNDED = ("rel_l2", "max_error", "fit_error", "residual", "solve_seconds")
_FORMATS: dict[str, Callable[[Any], str]] = dict.fromkeys(_ROUNDED, "{:.2e}".format)
_FORMATS |= {"setup_seconds": "{:.2f}".format, "seconds": "{:.3f}".format, "time": "{:g}".format}
