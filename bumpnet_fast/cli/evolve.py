"""The command ``bumpnet evolve``: solve an evolution problem."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import pictures
from .command import Call, Command, Settings
from .common import UsageError, bump_counts, keywords_of, pairs, perturbation, positive_number, print_settable

if TYPE_CHECKING:
    from ..nets.bumpnet import BumpNet
    from ..problems.evolution.base import EvolutionProblem
    from ..solvers import Evolution, EvolutionReport, run_state

#: For the help alone, which must not wait for torch: names of methods and choices.
METHODS = ("auto", "expm", "cn", "rk4", "etdrk4", "dop853", "radau", "bdf")
SHAPES = ("frozen", "evolve")


def settable(problem: type[EvolutionProblem], error: bool = False) -> Settings:
    """All that ``--set`` reaches, with the defaults, by what it belongs to; ``error`` is whether that is stated."""
    from ..nets.bumpnet import BumpNet
    from ..solvers.evolution.ednn import evolve

    solver = {key: value for key, value in keywords_of(evolve).items() if key not in ("shapes", "error")}
    if error:  # all else is chosen
        return {"problem": problem.settings(), "solver": {key: solver[key] for key in ("times", "max_seconds")}}
    net = keywords_of(BumpNet) | {"overlap": problem.default_overlap}
    return {"problem": problem.settings(), "solver": solver, "net": net, "run": {"perturb": 0.0}}


def list_problems() -> None:
    """Print the evolution problems and what can be set."""
    from ..problems.evolution import EVOLUTIONS

    for name, problem in EVOLUTIONS.items():
        print(f"{name:<12} {problem.summary}\n{'':<12} {pairs(problem.settings())}")
    print_settable({"solver": settable(problem)["solver"]}, 12)


class Evolve(Command):
    """``bumpnet evolve``."""

    name = "evolve"
    about = "Solve an evolution problem; write the model, the history, a summary and pictures."
    ending = (
        "Ctrl-C ends the run early: the results are written, and the exit code is 130. It is 1 after instability, or if"
        " --error was not reached."
    )
    kind = "evolution problem"
    folder = "runs/evolve-{}"
    recorded = ("problem", "method", "shapes", "dtype", "seed")
    allowed = ("no_animation", "no_estimate", "no_report")
    watched = ("time", "steps", "bumps")
    failures = ("diverged", "unstable", "error not reached")

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        add("--bumps", type=bump_counts, metavar="N|NxM", help="number of bumps, or of grid cells per axis: 12x12")
        error = "the relative L2 error that u may have at any time, in one dimension; all else is chosen"
        add("--error", type=positive_number, metavar="E", help=error)
        method = f"{', '.join(METHODS)}, or one of torchdiffeq; default: %(default)s"
        add("--method", default="auto", help=method)
        add("--shapes", choices=SHAPES, default="frozen", help="fixed or moving; default: %(default)s")
        add("--no-animation", action="store_true", help="do not draw evolution.gif, which takes a few seconds")
        add("--no-estimate", action="store_true", help="do not estimate the error, which takes a fraction of a second")
        add("--no-report", action="store_true", help="do not print how good the evolution is")

    def problems(self) -> Mapping[str, type[EvolutionProblem]]:
        from ..problems.evolution import EVOLUTIONS

        return EVOLUTIONS

    def settable(self, problem: type[EvolutionProblem], arguments: argparse.Namespace) -> Settings:
        return settable(problem, arguments.error is not None)

    def check(self, arguments: argparse.Namespace) -> None:
        if arguments.error is None:
            return
        chosen = {"bumps": None, "method": "auto", "shapes": "frozen"}
        for name, default in chosen.items():
            if getattr(arguments, name) != default:
                raise UsageError(f"--error chooses the {name} itself: leave out --{name} {getattr(arguments, name)}")
        if arguments.dtype != "float64":
            raise UsageError(f"--error is for --dtype float64, got {arguments.dtype}")

    def prepare(self, arguments: argparse.Namespace, settings: Settings) -> tuple[EvolutionProblem, BumpNet | None]:
        import torch

        from ..problems.evolution import get_evolution
        from ..solvers import uniform_net
        from ..solvers.evolution.stated import CHOSEN, check_error

        problem = get_evolution(arguments.problem, **settings["problem"])
        if arguments.error is not None:
            check_error(problem, arguments.error, CHOSEN)
            return problem, None
        perturb = perturbation(arguments, settings)
        net = uniform_net(problem, arguments.bumps, dtype=arguments.dtype, **settings["net"])
        if perturb:
            net.perturb_(perturb, torch.Generator().manual_seed(arguments.seed or 0))
            if problem.periodic_axes:  # images of rotated bumps do not match
                with torch.no_grad():
                    net.rows[:, net.layout.skew] = 0
        return problem, net

    def call(
        self, problem: EvolutionProblem, net: BumpNet | None, arguments: argparse.Namespace, settings: Settings,
        state: run_state.File,
    ) -> Call:  # fmt: skip
        from ..solvers.evolution.ednn import evolve

        if arguments.error is not None:
            Path(state.path).unlink(missing_ok=True)  # of an earlier run; this one cannot be resumed
            stated = settings["solver"] | {"error": arguments.error}
            return lambda callback: evolve(problem, **stated, callback=callback)
        choices = settings["solver"] | {"method": arguments.method, "shapes": arguments.shapes, "checkpoint": state}
        return lambda callback: evolve(problem, net, **choices, callback=callback)

    def entries(self, result: Evolution, arguments: argparse.Namespace) -> dict[str, Any]:
        bumps, columns = result.net.rows.shape
        stated: dict[str, Any] = {}
        if arguments.error is not None:  # the net is that of the start, and others have more bumps
            bumps = max(entry["bumps"] for entry in result.history)
            stated = {"bumps": bumps, "error": arguments.error}
        return stated | {
            "shapes": result.shapes,
            "parameters": bumps * columns,
            "time": float(result.times[-1]),
            "max_error": result.max_error,
            "fit_error": result.fit_error,
            "residual": max(entry["residual"] for entry in result.history),
            "setup_seconds": result.setup_seconds,
            "steps": result.steps,
            "stages": result.stages,
            "solve_seconds": result.solve_seconds,
        }

    def report(self, result: Evolution, arguments: argparse.Namespace) -> EvolutionReport:
        return result.report(estimate=not arguments.no_estimate)

    def pictures(self, result: Evolution, arguments: argparse.Namespace, folder: Path) -> pictures.Pictures:
        return pictures.of_evolution(result, not arguments.no_animation)


add_command = Evolve().add_command
