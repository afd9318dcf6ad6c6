"""Bumps: trained as ``solve`` does it by default, untrained, and to a stated error where ``solve`` takes one."""

from __future__ import annotations

import functools
import inspect
import warnings
from typing import Any

import torch

from bumpnet_fast import BumpNet
from bumpnet_fast.problems import Problem
from bumpnet_fast.solvers import drop_outside, solve
from bumpnet_fast.solvers.placement import grade
from bumpnet_fast.solvers.solution import FieldResult
from bumpnet_fast.solvers.stationary import new_net

from .rungs import Answer, Rung

#: Errors that are asked for.
ERRORS = (1e-2, 1e-4, 1e-6, 1e-8)
#: Untrained bumps along the axes, by problem.
SIZES: dict[str, tuple[tuple[int, ...], ...]] = {
    "poisson": ((6, 6), (8, 8), (11, 11), (16, 16)),
    "sharp-poisson": ((22, 22), (32, 32)),
    "lshape": ((12, 12), (20, 20)),
    "helmholtz": ((8, 16), (10, 22), (13, 32)),
    "convection-diffusion": ((23, 6), (45, 6), (60, 8)),
    "regression": ((6,), (12,), (24,)),
    "heat": ((8, 8), (12, 12), (16, 16)),
    "heat2d": ((5, 5, 4), (6, 6, 5), (9, 9, 8)),
    "advection": ((8, 40), (10, 60)),
    "wave": ((12, 12), (17, 17), (22, 22)),
    "kovasznay": ((8, 8), (10, 12)),
    "inverse-heat": ((5, 5), (8, 8)),
    "star": ((8, 8), (11, 11), (16, 16)),
    "disk": ((8, 8), (11, 11), (16, 16)),
    "ball": ((5, 5, 5), (7, 7, 7), (9, 9, 9), (11, 11, 11)),
}
#: Of untrained bumps: shares of the usual sharpness to choose from; the best one by the true error counts.
SHARES = (0.1, 0.15, 0.2, 0.3, 0.45)
#: The rest of what suits untrained bumps: wide and flat, in no regular order, hardly damped.
OVERLAP, PERTURBED, RIDGE, POINTS = 6.0, 0.1, 1e-26, 3


def takes_error() -> bool:
    """Whether this version of ``solve`` takes ``error=``."""
    return "error" in inspect.signature(solve).parameters


def unknown(problem: Problem) -> Problem:
    """The problem without its reference, so that ``solve`` does not spend time on measuring the error."""
    kind = type(problem)
    hidden = type(kind.__name__, (kind,), {"reference": lambda self, x: None})
    return hidden(**{name: getattr(problem, name) for name in problem.settings()})


def _quietly(problem: Problem, *arguments: Any, **options: Any) -> FieldResult:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the error is measured
        return solve(unknown(problem), *arguments, **options)


def _answer(solution: FieldResult) -> Answer:
    """With all parameters of all bumps as unknowns."""
    return Answer(sum(net.rows.numel() for net in solution.nets) + len(solution.unknowns), solution.predict)


def trained(problem: Problem) -> Answer:
    """As ``bumpnet solve NAME`` does it."""
    options = dict(problem.options)
    of_net = {key: options.pop(key) for key in ("scale",) if key in options}
    graded = options.pop("graded", 0.0)
    net = new_net(problem, None, **of_net)
    grade(net, problem, graded)
    drop_outside(net, problem)
    return _answer(_quietly(problem, net, **options))


def to_error(problem: Problem, error: float) -> Answer:
    """``solve(problem, error=error)``, which chooses everything else."""
    return _answer(_quietly(problem, error=error))


def untrained(problem: Problem, counts: tuple[int, ...], share: float) -> Answer:
    """Bumps that keep their shapes, and one linear solve; Gauss-Newton if the problem is not linear."""
    d = len(counts)
    usual = float(BumpNet(d, counts, problem.domain, problem.outputs, dtype="float64").sharpness[0].detach())
    net = BumpNet(d, counts, problem.domain, problem.outputs, dtype="float64", overlap=OVERLAP, sharpness=share * usual)
    net.perturb_(PERTURBED, torch.Generator().manual_seed(0))
    drop_outside(net, problem)
    solution = _quietly(problem, net, iterations=0, ridge=RIDGE, points=POINTS * len(net.rows))
    return Answer(len(net.rows) * problem.outputs + len(solution.unknowns), solution.predict)


class Trained:
    NAME = "bumps, trained"
    ABOUT = "`bumpnet solve NAME`: few bumps, all their parameters trained"

    @staticmethod
    def ladder(name: str, problem: Problem) -> list[Rung]:
        """None for problems that are marched through windows of time, which takes minutes: see docs/results.md."""
        return [] if problem.default_windows else [Rung("default", [functools.partial(trained, problem)])]


class Untrained:
    NAME = "bumps, untrained"
    ABOUT = "wide, flat bumps that keep their shapes, one linear solve (Gauss-Newton for nonlinear problems)"

    @staticmethod
    def ladder(name: str, problem: Problem) -> list[Rung]:
        return [
            Rung("x".join(map(str, counts)), [functools.partial(untrained, problem, counts, share) for share in SHARES])
            for counts in SIZES.get(name, ())
        ]


class ToError:
    NAME = "bumps, to an error"
    ABOUT = "`solve(problem, error=...)`: the program chooses everything, and says how large the error is"

    @staticmethod
    def ladder(name: str, problem: Problem) -> list[Rung]:
        """None where ``solve`` has no argument ``error``; the runner says so."""
        if not takes_error():
            return []
        return [Rung(f"error {error:.0e}", [functools.partial(to_error, problem, error)]) for error in ERRORS]
