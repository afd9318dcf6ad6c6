"""The command ``bumpnet solve``: solve a problem, or go on with a run that was stopped."""

from __future__ import annotations

import argparse
from collections.abc import Callable
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
    positive,
    positive_number,
    print_settable,
    scoped,
)
from .running import computing_threads, followed, mistakes, progress
from .writing import check_writable, show, surroundings, write_results

if TYPE_CHECKING:
    from ..nets.bumpnet import BumpNet
    from ..problems.base import Problem
    from ..solvers import March, Solution, run_state

#: Those of solvers.least_squares, which it would take torch to import.
METHODS = ("auto", "varpro", "gauss-newton", "lm")
#: Those of solvers.first_order; they can be joined by "+".
FIRST_ORDER = ("adam", "varpro-adam", "lbfgs")
#: Arguments that a resumption must know.
_RECORDED = ("problem", "method", "dtype", "seed", "reach", "prune_to", "animate")

_SHOWN = ("problem", "method", "boundary", "bumps", "parameters", "windows", "unknowns", "rel_l2",
          "max_error", "loss", "seconds", "iterations", "stop_reason", "dtype", "backend", "threads")  # fmt: skip


# --- arguments -----------------------------------------------------------------------------------


def add_command(commands: Any) -> None:
    """Add ``solve`` to the subparsers ``commands`` of the program."""
    about = "Solve a problem; write the model, the history, a summary and a picture."
    ending = "Ctrl-C ends the solving early: the best solution so far is written, and the exit code is 130. "
    ending += "It is 1 if --reach did not get there."
    solve = commands.add_parser("solve", help=about[0].lower() + about[1:-1], description=about, epilog=ending)
    add = solve.add_argument
    add("problem", metavar="PROBLEM", nargs="?", help="one of 'bumpnet list'")
    add("--bumps", type=bump_counts, metavar="N|NxM", help="number of bumps, or of grid cells per axis, such as 4x10")
    methods = f"{', '.join(METHODS)}, or {', '.join(FIRST_ORDER)}, joined by +; default: %(default)s"
    add("--method", type=_method, metavar="METHOD", default="auto", help=methods)
    add("--windows", type=positive, metavar="N", help="march in time, with a net of --bumps for each of N windows")
    add("--boundary", choices=("hard", "soft"), help="exact or by least squares; default: hard if possible")
    few = solve.add_mutually_exclusive_group()
    reach = "with as few bumps as can be found for this relative L2 error, or this root of the loss if u is unknown"
    few.add_argument("--reach", type=positive_number, metavar="ERROR", help=reach)
    few.add_argument(
        "--prune-to", type=positive, metavar="N", help="then take out bumps, training on, until N are left"
    )
    moving = "record the bumps on the way, and draw training.gif: how they move, are taken out and put in"
    add("--animate", action="store_true", help=moving)
    add("--resume", type=Path, metavar="DIR", help=resume.HELP)
    add_output_arguments(add)
    solve.set_defaults(run=lambda arguments: _solve(arguments, solve.parse_args([])))


def _method(text: str) -> str:
    if text in METHODS or is_first_order(text):
        return text
    choices = f"{', '.join(METHODS)}, or {', '.join(FIRST_ORDER)}, joined by +"
    raise argparse.ArgumentTypeError(f"invalid choice: {text!r} (choose from {choices})")


def is_first_order(method: str) -> bool:
    """Whether ``method`` is one of :data:`FIRST_ORDER`, or several joined by "+"."""
    return all(name in FIRST_ORDER for name in method.split("+"))


def settable(problem: type[Problem], method: str = "auto", search: str | None = None) -> dict[str, dict[str, Any]]:
    """All that ``--set`` reaches, with the defaults, by what it belongs to; ``search`` is "reach" or "prune"."""
    from ..nets.bumpnet import BumpNet
    from ..solvers import stationary, strategies

    solver = stationary.options_of(method) | options_of(stationary.solve)
    solver |= options_of(getattr(strategies, search)) if search else {}
    scopes = {"solver": solver, "net": options_of(BumpNet), "run": {"graded": 0.0, "perturb": 0.0}}
    return {"problem": problem.settings(), **scopes}


def list_problems() -> None:
    """Print the problems and all that ``--set`` can set."""
    from ..problems import PROBLEMS

    for name, problem in PROBLEMS.items():
        print(f"{name:<20} {problem.summary}\n{'':<20} {pairs(problem.settings())}")
    print("\nFor every problem, --set also reaches")
    print_settable(settable(problem), 20)
    print(f"\nand with {', '.join(FIRST_ORDER)}")
    print_settable({"solver": settable(problem, FIRST_ORDER[0])["solver"]}, 20)
    plain, few = (settable(problem, search=search)["solver"] for search in (None, "reach"))
    print("\nand with --reach, --prune-to; iterations and max_seconds are then those of every solve")
    print_settable({"solver": {key: value for key, value in few.items() if plain.get(key) != value}}, 20)


def _search(arguments: argparse.Namespace) -> str | None:
    """How few bumps are looked for: "reach", "prune" or not at all."""
    return "reach" if arguments.reach is not None else None if arguments.prune_to is None else "prune"


def _check_search(arguments: argparse.Namespace) -> None:
    """Refuse what a search for few bumps cannot be combined with."""
    flag = "--reach" if arguments.prune_to is None else "--prune-to"
    if is_first_order(arguments.method):
        raise UsageError(f"{flag} needs one of the methods {', '.join(METHODS)}, got {arguments.method!r}")
    if arguments.windows is not None:
        raise UsageError(f"{flag} solves all of the time at once, and takes no --windows")


def _sorted_settings(arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The assignments, and the options that the problem wants, by what they belong to."""
    from ..problems import PROBLEMS

    name, assignments = arguments.problem, arguments.settings
    problem = known(name, PROBLEMS, "problem")
    scopes = settable(problem, arguments.method, _search(arguments))
    there = {key for keys in scopes.values() for key in keys}
    own = [(key, value) for key, value in problem.options.items() if key in there]
    return scoped(name, scopes, [*own, *assignments])


# --- the command ---------------------------------------------------------------------------------


def _solve(arguments: argparse.Namespace, defaults: argparse.Namespace) -> int:
    if arguments.resume:
        return _resume(arguments, defaults)
    if arguments.problem is None:
        raise UsageError("the following arguments are required: PROBLEM")
    if _search(arguments):
        _check_search(arguments)
    settings = _sorted_settings(arguments)
    with computing_threads(arguments.threads):
        problem, net = _prepare(arguments, settings)
        folder = arguments.out or Path("runs", arguments.problem)
        check_writable(folder, arguments.json)
        with resume.alone(folder, f"solve {arguments.problem}"):
            state = resume.state_of(folder, "solve", arguments, _RECORDED, settings)
            solution = _run(arguments, folder, _call(problem, net, arguments, settings, state))
            return _finish(solution, arguments, settings, folder)


def _resume(arguments: argparse.Namespace, defaults: argparse.Namespace) -> int:
    """``bumpnet solve --resume DIR``."""
    resume.refuse_others(arguments, defaults, ("iterations", "max_seconds"))
    folder = arguments.resume
    check_writable(folder, arguments.json, create=False)
    with resume.alone(folder, "solve --resume"), computing_threads(arguments.threads):
        settings, state = resume.recall(folder, "solve", arguments, _RECORDED)
        solution = _run(arguments, folder, resume.call(state, arguments, settings))
        return _finish(solution, arguments, settings, folder)


def _prepare(arguments: argparse.Namespace, settings: dict[str, dict[str, Any]]) -> tuple[Problem, BumpNet]:
    """The problem, and the net to solve it with, at its start."""
    import torch

    from .. import problems
    from ..nets.bumpnet import BumpNet
    from ..solvers.placement import drop_outside, grade

    perturb = perturbation(arguments, settings)
    with mistakes():
        problem = problems.get(arguments.problem, **settings["problem"])
        bumps = arguments.bumps or problem.default_bumps
        dim, domain = problem.domain.shape[1], problem.domain
        net = BumpNet(dim, bumps, domain, problem.outputs, dtype=arguments.dtype, **settings["net"])
        if perturb:  # before grading: by a share of the spacing, which is small where the solution is steep
            net.perturb_(perturb, torch.Generator().manual_seed(arguments.seed or 0))
        grade(net, problem, settings["run"].setdefault("graded", 0.0))
        drop_outside(net, problem)
    if (arguments.prune_to or 0) > len(net.rows):
        raise UsageError(f"--prune-to must be at most the number of bumps, {len(net.rows)}, got {arguments.prune_to}")
    return problem, net


def _call(
    problem: Problem, net: BumpNet, arguments: argparse.Namespace, settings: dict[str, Any], state: run_state.File
) -> Callable[..., Solution | March]:
    """The call of the library that is asked for; it takes the callback."""
    from ..solvers import marching, stationary, strategies

    choices = {"method": arguments.method, "boundary": arguments.boundary, "seed": arguments.seed or 0}
    choices |= settings["solver"] | {"checkpoint": state}
    if arguments.reach is not None:
        return lambda callback: strategies.reach(problem, net, arguments.reach, callback=callback, **choices)
    if arguments.prune_to is not None:
        return lambda callback: strategies.prune(problem, net, arguments.prune_to, callback=callback, **choices)
    windows = arguments.windows or problem.default_windows
    if windows is not None and not is_first_order(arguments.method):
        start = {"net": settings["net"] | {"dtype": arguments.dtype}, **settings["run"]}
        choices |= {"windows": windows, **start}
        return lambda callback: marching.march(problem, arguments.bumps, callback=callback, **choices)
    return lambda callback: stationary.solve(problem, net, callback=callback, **choices)


def _run(arguments: argparse.Namespace, folder: Path, call: Callable[..., Solution | March]) -> Solution | March:
    kept = folder if arguments.animate else None
    goes_on = arguments.resume is not None
    with progress(arguments) as report, resume.recorded(kept, report, goes_on) as watch, followed(watch) as callback:
        return call(callback)


# --- what is written -----------------------------------------------------------------------------


def _finish(
    solution: Solution | March, arguments: argparse.Namespace, settings: dict[str, dict[str, Any]], folder: Path
) -> int:
    """Write and show a solution; the exit code."""
    from ..io import save
    from ..nets.events import with_events

    summary = _summary(solution, arguments, settings)
    write_results(
        folder,
        arguments.json,
        lambda path: save(path, solution),
        with_events(solution.history, getattr(solution, "events", ())),
        summary,
        pictures.of_solution(solution, resume.recorded_frames(folder) if arguments.animate else []),
    )
    show(summary, folder, arguments, _SHOWN)
    return {"interrupted": INTERRUPTED, "error not reached": FAILED}.get(solution.stop_reason, 0)


def _summary(
    solution: Solution | March, arguments: argparse.Namespace, settings: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    net, nets = solution.net, _nets(solution)
    warnings = [warning for part in nets for warning in part.check()]
    if solution.stop_reason == "error not reached":
        warnings.append(f"the error {arguments.reach:g} was not reached with {len(net.rows)} bumps; see --set most")
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
        "reach": arguments.reach,
        "prune_to": arguments.prune_to,
        "events": [vars(event) for event in getattr(solution, "events", ())],
    } | surroundings(arguments, settings, solution.problem, warnings)


def _nets(solution: Solution | March) -> list[BumpNet]:
    return [part.net for part in getattr(solution, "parts", [solution])]
