"""The command ``bumpnet evolve``: follow an evolution problem through time."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import pictures
from .command import Call, Command, Settings
from .common import bump_counts, keywords_of, pairs, perturbation, print_settable

if TYPE_CHECKING:
    from ..nets.bumpnet import BumpNet
    from ..problems.evolution.base import EvolutionProblem
    from ..solvers import Evolution, run_state

#: For the help alone, which is not to wait for torch: what the library calls its methods and choices.
METHODS = ("auto", "expm", "cn", "rk4", "etdrk4", "dop853", "radau", "bdf")
SHAPES = ("frozen", "evolve")


def settable(problem: type[EvolutionProblem]) -> Settings:
    """All that ``--set`` reaches, with the defaults, by what it belongs to."""
    from ..nets.bumpnet import BumpNet
    from ..solvers.evolution.ednn import evolve

    solver = {key: value for key, value in keywords_of(evolve).items() if key != "shapes"}
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
    about = "Follow an evolution problem through time; write the model, the history, a summary and pictures."
    ending = "Ctrl-C ends it early: what was computed is written, and the exit code is 130. It is 1 after instability."
    kind = "evolution problem"
    folder = "runs/evolve-{}"
    recorded = ("problem", "method", "shapes", "dtype", "seed")
    allowed = ("no_animation",)
    watched = ("time", "steps")
    failures = ("diverged", "unstable")

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        add("--bumps", type=bump_counts, metavar="N|NxM", help="number of bumps, or of grid cells per axis: 12x12")
        method = f"{', '.join(METHODS)}, or one of torchdiffeq; default: %(default)s"
        add("--method", default="auto", help=method)
        add("--shapes", choices=SHAPES, default="frozen", help="of the bumps; default: %(default)s")
        add("--no-animation", action="store_true", help="leave evolution.gif out, which takes a few seconds")

    def problems(self) -> Mapping[str, type[EvolutionProblem]]:
        from ..problems.evolution import EVOLUTIONS

        return EVOLUTIONS

    def settable(self, problem: type[EvolutionProblem], arguments: argparse.Namespace) -> Settings:
        return settable(problem)

    def prepare(self, arguments: argparse.Namespace, settings: Settings) -> tuple[EvolutionProblem, BumpNet]:
        import torch

        from ..problems.evolution import get_evolution
        from ..solvers import uniform_net

        perturb = perturbation(arguments, settings)
        problem = get_evolution(arguments.problem, **settings["problem"])
        net = uniform_net(problem, arguments.bumps, dtype=arguments.dtype, **settings["net"])
        if perturb:
            net.perturb_(perturb, torch.Generator().manual_seed(arguments.seed or 0))
            if problem.periodic_axes:  # images of rotated bumps do not add up
                with torch.no_grad():
                    net.rows[:, net.layout.skew] = 0
        return problem, net

    def call(
        self, problem: EvolutionProblem, net: BumpNet, arguments: argparse.Namespace, settings: Settings,
        state: run_state.File,
    ) -> Call:  # fmt: skip
        from ..solvers.evolution.ednn import evolve

        choices = settings["solver"] | {"method": arguments.method, "shapes": arguments.shapes, "checkpoint": state}
        return lambda callback: evolve(problem, net, **choices, callback=callback)

    def entries(self, result: Evolution, arguments: argparse.Namespace) -> dict[str, Any]:
        return {
            "shapes": result.shapes,
            "parameters": result.net.rows.numel(),
            "time": float(result.times[-1]),
            "max_error": result.max_error,
            "fit_error": result.fit_error,
            "residual": max(entry["residual"] for entry in result.history),
            "setup_seconds": result.setup_seconds,
            "steps": result.steps,
            "stages": result.stages,
            "solve_seconds": result.solve_seconds,
        }

    def pictures(self, result: Evolution, arguments: argparse.Namespace, folder: Path) -> pictures.Pictures:
        return pictures.of_evolution(result, not arguments.no_animation)


add_command = Evolve().add_command
