"""The command ``bumpnet evolve``: follow an evolution problem through time."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import pictures, resume
from .common import (
    FAILED,
    INTERRUPTED,
    UsageError,
    add_output_arguments,
    bump_counts,
    known,
    options_of,
    pairs,
    perturbation,
    print_settable,
    scoped,
)
from .running import computing_threads, display, followed, mistakes
from .writing import check_writable, show, surroundings, write_results

if TYPE_CHECKING:
    from ..nets.bumpnet import BumpNet
    from ..problems.evolution.base import EvolutionProblem
    from ..solvers import Evolution, Progress

#: Arguments that a resumption must know.
_RECORDED = ("problem", "method", "shapes", "dtype", "seed")

_SHOWN = ("problem", "method", "shapes", "bumps", "time", "rel_l2", "max_error", "fit_error", "residual",
          "setup_seconds", "seconds", "steps", "solve_seconds", "stop_reason", "dtype", "backend",
          "threads")  # fmt: skip


# --- arguments -----------------------------------------------------------------------------------


def add_command(commands: Any) -> None:
    """Add ``evolve`` to the subparsers ``commands`` of the program."""
    about = "Follow an evolution problem through time; write the model, the history, a summary and pictures."
    ending = "Ctrl-C ends it early: what was computed is written, and the exit code is 130. It is 1 after instability."
    evolve = commands.add_parser("evolve", help=about[0].lower() + about[1:-1], description=about, epilog=ending)
    add = evolve.add_argument
    method = "auto, expm, cn, rk4, etdrk4, dop853, radau, bdf, or one of torchdiffeq; default: %(default)s"
    add("problem", metavar="PROBLEM", nargs="?", help="one of 'bumpnet list'")
    add("--bumps", type=bump_counts, metavar="N|NxM", help="number of bumps, or of grid cells per axis, such as 12x12")
    add("--method", default="auto", help=method)
    add("--shapes", choices=("frozen", "evolve"), default="frozen", help="of the bumps; default: %(default)s")
    add("--no-animation", action="store_true", help="leave evolution.gif out, which takes a few seconds")
    add("--resume", type=Path, metavar="DIR", help=resume.HELP)
    add_output_arguments(add, folder="runs/evolve-PROBLEM")
    evolve.set_defaults(run=lambda arguments: _evolve(arguments, evolve.parse_args([])))


def settable(problem: type[EvolutionProblem]) -> dict[str, dict[str, Any]]:
    """All that ``--set`` reaches, with the defaults, by what it belongs to."""
    from ..nets.bumpnet import BumpNet
    from ..solvers.evolution.ednn import evolve

    solver = {key: value for key, value in options_of(evolve).items() if key != "shapes"}
    net = options_of(BumpNet) | {"overlap": problem.default_overlap}
    return {"problem": problem.settings(), "solver": solver, "net": net, "run": {"perturb": 0.0}}


def list_problems() -> None:
    """Print the evolution problems and what can be set."""
    from ..problems.evolution import EVOLUTIONS

    for name, problem in EVOLUTIONS.items():
        print(f"{name:<12} {problem.summary}\n{'':<12} {pairs(problem.settings())}")
    print_settable({"solver": settable(problem)["solver"]}, 12)


def _sorted_settings(name: str, assignments: Sequence[tuple[str, Any]]) -> dict[str, dict[str, Any]]:
    """The assignments by what they belong to."""
    from ..problems.evolution import EVOLUTIONS

    return scoped(name, settable(known(name, EVOLUTIONS, "evolution problem")), assignments)


# --- the command ---------------------------------------------------------------------------------


def _evolve(arguments: argparse.Namespace, defaults: argparse.Namespace) -> int:
    if arguments.resume:
        return _resume(arguments, defaults)
    if arguments.problem is None:
        raise UsageError("the following arguments are required: PROBLEM")
    settings = _sorted_settings(arguments.problem, arguments.settings)
    with computing_threads(arguments.threads):
        problem, net = _prepare(arguments, settings)
        folder = arguments.out or Path("runs", f"evolve-{arguments.problem}")
        check_writable(folder, arguments.json)
        with resume.alone(folder, f"evolve {arguments.problem}"):
            state = resume.state_of(folder, "evolve", arguments, _RECORDED, settings)
            run = _run(arguments, _call(problem, net, arguments, settings["solver"] | {"checkpoint": state}))
            return _finish(run, arguments, settings, folder)


def _resume(arguments: argparse.Namespace, defaults: argparse.Namespace) -> int:
    """``bumpnet evolve --resume DIR``."""
    resume.refuse_others(arguments, defaults, ("max_seconds",), ("no_animation",))
    folder = arguments.resume
    check_writable(folder, arguments.json, create=False)
    with resume.alone(folder, "evolve --resume"), computing_threads(arguments.threads):
        settings, state = resume.recall(folder, "evolve", arguments, _RECORDED)
        run = _run(arguments, resume.call(state, arguments, settings))
        return _finish(run, arguments, settings, folder)


def _prepare(arguments: argparse.Namespace, settings: dict[str, dict[str, Any]]) -> tuple[EvolutionProblem, BumpNet]:
    """The problem, and the net to follow it with, at its start."""
    import torch

    from ..problems.evolution import get_evolution
    from ..solvers import uniform_net

    perturb = perturbation(arguments, settings)
    with mistakes():
        problem = get_evolution(arguments.problem, **settings["problem"])
        net = uniform_net(problem, arguments.bumps, dtype=arguments.dtype, **settings["net"])
        if perturb:
            net.perturb_(perturb, torch.Generator().manual_seed(arguments.seed or 0))
            if problem.periodic_axes:  # images of rotated bumps do not add up
                with torch.no_grad():
                    net.rows[:, net.layout.skew] = 0
    return problem, net


def _call(
    problem: EvolutionProblem, net: BumpNet, arguments: argparse.Namespace, options: dict[str, Any]
) -> Callable[..., Evolution]:
    """The call of the library that is asked for; it takes the callback."""
    from ..solvers.evolution.ednn import evolve

    choices = options | {"method": arguments.method, "shapes": arguments.shapes}
    return lambda callback: evolve(problem, net, **choices, callback=callback)


def _run(arguments: argparse.Namespace, call: Callable[..., Evolution]) -> Evolution:
    with progress(arguments) as report, followed(report) as callback:
        return call(callback)


@contextlib.contextmanager
def progress(arguments: argparse.Namespace) -> Iterator[Callable[[Progress], None]]:
    """A bar on the terminal that follows the time."""
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

    text = "t = {task.completed:.3g}  steps {task.fields[steps]}  error {task.fields[error]}"
    columns = TextColumn("[bold]{task.description}"), BarColumn(), TextColumn(text), TimeElapsedColumn()
    with display(arguments, *columns, steps=0, error="unknown") as update:

        def report(progress: Progress) -> None:
            error = "unknown" if progress.rel_l2 is None else f"{progress.rel_l2:.2e}"
            entry = progress.entry
            update(total=entry["final_time"], completed=entry["time"], steps=entry["steps"], error=error)

        yield report


# --- what is written -----------------------------------------------------------------------------


def _finish(run: Evolution, arguments: argparse.Namespace, settings: dict[str, dict[str, Any]], folder: Path) -> int:
    """Write and show an evolution; the exit code."""
    from ..io import save

    summary = _summary(run, arguments, settings)
    drawn = pictures.of_evolution(run, not arguments.no_animation)
    write_results(folder, arguments.json, lambda path: save(path, run), run.history, summary, drawn)
    show(summary, folder, arguments, _SHOWN, seconds="{:.3f}".format)
    return {"interrupted": INTERRUPTED, "unstable": FAILED}.get(run.stop_reason, 0)


def _summary(run: Evolution, arguments: argparse.Namespace, settings: dict[str, dict[str, Any]]) -> dict[str, Any]:
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
    } | surroundings(arguments, settings, run.problem, [*run.warnings, *net.check()])
