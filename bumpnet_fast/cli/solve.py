"""The command ``bumpnet solve``: solve a problem."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import pictures, resume
from .command import Call, Command, Settings
from .common import UsageError, bump_counts, keywords_of, pairs, perturbation, positive, positive_number, print_settable

if TYPE_CHECKING:
    from ..nets.bumpnet import BumpNet
    from ..problems.base import Problem
    from ..solvers import March, Progress, Report, Solution, run_state

#: For the help alone, which must not wait for torch: names of methods.
METHODS = ("auto", "varpro", "gauss-newton", "lm", "adam", "varpro-adam", "lbfgs", "linear")
#: The method that chooses its basis.
LINEAR = "linear"


def settable(problem: type[Problem], method: str = "auto", search: str | None = None) -> Settings:
    """Everything that ``--set`` can set, with defaults, by scope; ``search`` is "reach" or "prune"."""
    from ..nets.bumpnet import BumpNet
    from ..solvers import stationary, strategies

    solver = stationary.options_of(method) | keywords_of(stationary.solve)
    for name in ("error", "parameters", "enrich"):  # options of their own
        solver.pop(name, None)
    if method == LINEAR:  # its basis and its points are chosen
        own = {*stationary.options_of(method), "condition_weight", "every_seconds"}
        return {"problem": problem.settings(), "solver": {key: value for key, value in solver.items() if key in own}}
    if "+" in method or not _second_order(method):
        del solver["refine"]  # it is for one method of least squares, and some problems set it
    searches: dict[str, Callable[..., Any]] = {"reach": strategies.reach, "prune": strategies.prune}
    solver |= {} if search is None else keywords_of(searches[search])
    scopes = {"solver": solver, "net": keywords_of(BumpNet), "run": {"graded": 0.0, "perturb": 0.0}}
    return {"problem": problem.settings(), **scopes}


def list_problems() -> None:
    """Print the problems and everything that ``--set`` can set."""
    from ..problems import PROBLEMS
    from ..solvers import Method, stationary

    for name, problem in PROBLEMS.items():
        print(f"{name:<20} {problem.summary}\n{'':<20} {pairs(problem.settings())}")
    print("\nFor every problem, --set also reaches")
    usual = settable(problem)
    print_settable(usual | {"solver": keywords_of(stationary.solve)}, 20)
    print("\nand the options of the --method; several can be joined by +, and each then has its own iterations")
    for name in Method.known:
        print(f"{name:<20} {pairs(stationary.options_of(name))}")
    few = settable(problem, search="reach")["solver"]
    print("\nand with --reach, --prune-to; iterations are then those of every solve")
    print_settable({"solver": {key: value for key, value in few.items() if usual["solver"].get(key) != value}}, 20)


def _search(arguments: argparse.Namespace) -> str | None:
    """Which search for few bumps: "reach", "prune" or none."""
    return "reach" if arguments.reach is not None else None if arguments.prune_to is None else "prune"


def _method(arguments: argparse.Namespace) -> str:
    """The method whose options can be set."""
    return LINEAR if arguments.error is not None else arguments.method


def _second_order(method: str) -> bool:
    """Whether all methods joined by "+" are of least squares."""
    from ..solvers import LeastSquares, Method

    return all(issubclass(Method.known[name], LeastSquares) for name in method.split("+"))


class Solve(Command):
    """``bumpnet solve``."""

    name = "solve"
    about = "Solve a problem; write the model, the history, a summary and a picture."
    ending = (
        "Ctrl-C ends the run early: the best solution so far is written, and the exit code is 130. "
        "It is 1 if --error or --reach did not reach the error, or if the loss became NaN or infinite."
    )
    recorded = ("problem", "method", "dtype", "seed", "reach", "prune_to", "error", "parameters", "enrich", "animate")
    changeable = ("iterations", "max_seconds")
    allowed = ("no_estimate", "no_report")
    failures = ("diverged", "error not reached")

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        add("--bumps", type=bump_counts, metavar="N|NxM", help="number of bumps, or of grid cells per axis: 4x10")
        methods = f"{', '.join(METHODS)}, or several joined by +; default: %(default)s"
        add("--method", metavar="METHOD", default="auto", help=methods)
        add("--windows", type=positive, metavar="N", help="march in time through N windows, each with a net of --bumps")
        add("--boundary", choices=("hard", "soft"), help="exact or by least squares; default: hard if possible")
        few = parser.add_mutually_exclusive_group()
        error = "reach this relative L2 error by the shortest way, and say whether it was reached"
        few.add_argument("--error", type=positive_number, metavar="E", help=error)
        size = "find the best net of at most N parameters: grids with other numbers of bumps along the axes are tried"
        few.add_argument("--parameters", type=positive, metavar="N", help=size)
        reach = "find the fewest bumps for this relative L2 error (root of the loss where u is unknown)"
        few.add_argument("--reach", type=positive_number, metavar="ERROR", help=reach)
        prune = "solve, then remove bumps and train on until N are left"
        few.add_argument("--prune-to", type=positive, metavar="N", help=prune)
        moving = "record the training, and draw training.gif: how bumps move, and are added and removed"
        enrich = "add smooth bumps to the trained net, so many or as many as are usual, and solve for all amplitudes"
        add("--enrich", type=positive, nargs="?", const=True, default=False, metavar="N", help=enrich)
        add("--animate", action="store_true", help=moving)
        add("--no-estimate", action="store_true", help="do not estimate the error, which takes a fraction of a second")
        add("--no-report", action="store_true", help="do not print how well the equations are solved")

    def problems(self) -> Mapping[str, type[Problem]]:
        from ..problems import PROBLEMS

        return PROBLEMS

    def settable(self, problem: type[Problem], arguments: argparse.Namespace) -> Settings:
        return settable(problem, _method(arguments), _search(arguments))

    def wanted(self, problem: type[Problem], arguments: argparse.Namespace) -> Mapping[str, Any]:
        from ..solvers import LeastSquares, stationary

        if _method(arguments) == LINEAR:
            return {}
        if _second_order(arguments.method):
            return problem.options
        own = stationary.options_of(LeastSquares.name)  # as many iterations of another method are far too few
        return {key: value for key, value in problem.options.items() if key not in own}

    def check(self, arguments: argparse.Namespace) -> None:
        from ..solvers import LeastSquares, Method, stationary

        stationary.options_of(arguments.method)  # is there such a method?
        if _method(arguments) == LINEAR:
            self._check_linear(arguments)
        if arguments.parameters is not None:
            self._check_sized(arguments)
        if arguments.enrich and _search(arguments) is not None:
            raise UsageError("--enrich goes without --reach and --prune-to")
        if _search(arguments) is None:
            return
        flag = "--reach" if arguments.prune_to is None else "--prune-to"
        if not _second_order(arguments.method):
            there = ", ".join(name for name, kind in Method.known.items() if issubclass(kind, LeastSquares))
            raise UsageError(f"{flag} needs one of the methods {there}, got {arguments.method!r}")
        if arguments.windows is not None:
            raise UsageError(f"{flag} solves all of the time at once, and takes no --windows")

    def _check_sized(self, arguments: argparse.Namespace) -> None:
        """Raise UsageError for arguments that do not go with --parameters."""
        refused = {"--bumps": arguments.bumps, "--windows": arguments.windows, "--animate": arguments.animate or None}
        refused |= {"--enrich": arguments.enrich or None}
        if found := [name for name, value in refused.items() if value is not None]:
            raise UsageError(f"--parameters goes without {found[0]}")
        if "+" in arguments.method or not _second_order(arguments.method):
            raise UsageError(f"--parameters needs one method of least squares, got --method {arguments.method}")
        if arguments.dtype != "float64":
            raise UsageError("--parameters is for --dtype float64")

    def _check_linear(self, arguments: argparse.Namespace) -> None:
        """Raise UsageError for arguments that a solve over a chosen basis cannot follow."""
        flag = "--error" if arguments.error is not None else f"--method {LINEAR}"
        refused = {"--windows": arguments.windows, "--animate": arguments.animate or None}
        refused |= {"--enrich": arguments.enrich or None}
        if arguments.error is not None:
            refused |= {"--bumps": arguments.bumps}
            if arguments.method not in ("auto", LINEAR):
                raise UsageError(f"--error chooses the method itself: leave out --method {arguments.method}")
        if found := [name for name, value in refused.items() if value is not None]:
            raise UsageError(f"{flag} goes without {found[0]}")
        if arguments.dtype != "float64":
            raise UsageError(f"{flag} is for --dtype float64: the amplitudes of smooth bumps cancel")

    def prepare(self, arguments: argparse.Namespace, settings: Settings) -> tuple[Problem, BumpNet | None]:
        import torch

        from .. import problems
        from ..solvers.placement import drop_outside, grade
        from ..solvers.stationary import new_net

        if _method(arguments) == LINEAR or arguments.parameters is not None:
            return problems.get(arguments.problem, **settings["problem"]), None
        perturb = perturbation(arguments, settings)
        problem = problems.get(arguments.problem, **settings["problem"])
        net = new_net(problem, arguments.bumps, dtype=arguments.dtype, **settings["net"])
        if perturb:  # before grading: relative to the spacing, which is small where the solution is steep
            net.perturb_(perturb, torch.Generator().manual_seed(arguments.seed or 0))
        grade(net, problem, settings["run"].setdefault("graded", 0.0))
        drop_outside(net, problem)
        if (arguments.prune_to or 0) > len(net.rows):
            there = f"the number of bumps, {len(net.rows)}"
            raise UsageError(f"--prune-to must be at most {there}, got {arguments.prune_to}")
        return problem, net

    def call(
        self, problem: Problem, net: BumpNet, arguments: argparse.Namespace, settings: Settings, state: run_state.File
    ) -> Call:
        from ..solvers import marching, stationary, strategies

        choices = {"method": arguments.method, "boundary": arguments.boundary, "seed": arguments.seed or 0}
        if _method(arguments) == LINEAR:
            choices |= settings["solver"] | ({"method": "auto", "error": arguments.error} if arguments.error else {})
            return lambda callback: stationary.solve(problem, arguments.bumps, callback=callback, **choices)
        if arguments.parameters is not None:
            choices |= settings["solver"] | {"parameters": arguments.parameters}
            return lambda callback: stationary.solve(problem, callback=callback, **choices)
        choices |= settings["solver"] | {"checkpoint": state}
        if arguments.reach is not None:
            return lambda callback: strategies.reach(problem, net, arguments.reach, callback=callback, **choices)
        if arguments.prune_to is not None:
            return lambda callback: strategies.prune(problem, net, arguments.prune_to, callback=callback, **choices)
        choices |= {"enrich": arguments.enrich} if arguments.enrich else {}
        windows = arguments.windows
        if windows is None and _second_order(arguments.method):  # the problem's own are for least squares
            windows = problem.default_windows
        if windows is not None:
            choices |= {"windows": windows, "net": settings["net"] | {"dtype": arguments.dtype}, **settings["run"]}
            return lambda callback: marching.march(problem, arguments.bumps, callback=callback, **choices)
        return lambda callback: stationary.solve(problem, net, callback=callback, **choices)

    @contextlib.contextmanager
    def watching(
        self, report: Callable[[Progress], None], arguments: argparse.Namespace, folder: Path
    ) -> Iterator[Callable[[Progress], None]]:
        kept = folder if arguments.animate else None
        with resume.recorded(kept, report, arguments.resume is not None) as watch:
            yield watch

    def entries(self, result: Solution | March, arguments: argparse.Namespace) -> dict[str, Any]:
        return {
            "boundary": result.boundary,
            "parameters": result.net.rows.numel(),
            "windows": len(result.nets),
            "parameters_per_window": result.nets[0].rows.numel(),
            "unknowns": result.unknowns or None,
            "max_error": result.max_error,
            "loss": result.loss,
            "iterations": result.iterations,
            "reach": arguments.reach,
            "error": arguments.error,
            "prune_to": arguments.prune_to,
            "events": [vars(event) for event in result.events],
        }

    def report(self, result: Solution | March, arguments: argparse.Namespace) -> Report:
        return result.report(estimate=not arguments.no_estimate)

    def warnings(self, result: Solution | March, arguments: argparse.Namespace) -> Sequence[str]:
        if result.stop_reason != "error not reached":
            return ()
        wanted, bumps = arguments.error or arguments.reach, len(result.net.rows)
        return [f"the error {wanted:g} was not reached with {bumps} bumps; see --set most"]

    def history(self, result: Solution | March) -> Sequence[dict[str, Any]]:
        from ..nets.events import with_events

        return with_events(result.history, result.events)

    def pictures(self, result: Solution | March, arguments: argparse.Namespace, folder: Path) -> pictures.Pictures:
        frames = resume.recorded_frames(folder) if arguments.animate else []
        return pictures.of_solution(result, frames, estimate=not arguments.no_estimate)


add_command = Solve().add_command
