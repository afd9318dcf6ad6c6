"""BumpNet (arXiv:2512.17198) as a kernel-accelerated PyTorch extension."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .core.functional import backend, bump_basis, bump_combine, bump_compact, bump_design, bump_jet, use_backend
from .core.jet import Jet
from .nets.bumpnet import BumpNet
from .nets.deeponet import BumpDeepONet
from .nets.step import compile_step

if TYPE_CHECKING:
    from . import problems
    from .io import load, resume, save
    from .problems.base import Condition, Problem
    from .problems.evolution.base import EvolutionProblem
    from .problems.operators.base import Operator as OperatorProblem
    from .solvers.evolution import evolve
    from .solvers.loop import Progress, Stop
    from .solvers.marching import march
    from .solvers.operators.learn import learn
    from .solvers.solution import Solution
    from .solvers.stationary import solve

__version__ = "0.1.0"

#: Names that are imported when they are first used: many programs need the nets alone.
_LATER = {
    "Condition": ("problems.base", "Condition"),
    "EvolutionProblem": ("problems.evolution.base", "EvolutionProblem"),
    "OperatorProblem": ("problems.operators.base", "Operator"),
    "Problem": ("problems.base", "Problem"),
    "Progress": ("solvers.loop", "Progress"),
    "Solution": ("solvers.solution", "Solution"),
    "Stop": ("solvers.loop", "Stop"),
    "evolve": ("solvers.evolution", "evolve"),
    "learn": ("solvers.operators.learn", "learn"),
    "load": ("io", "load"),
    "march": ("solvers.marching", "march"),
    "problems": ("problems", None),
    "resume": ("io", "resume"),
    "save": ("io", "save"),
    "solve": ("solvers.stationary", "solve"),
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _LATER[name]
    found = importlib.import_module(f".{module}", __name__)
    globals()[name] = found = found if attribute is None else getattr(found, attribute)
    return found


def __dir__() -> list[str]:
    return sorted(__all__)


__all__ = [
    "BumpDeepONet",
    "BumpNet",
    "Condition",
    "EvolutionProblem",
    "Jet",
    "OperatorProblem",
    "Problem",
    "Progress",
    "Solution",
    "Stop",
    "__version__",
    "backend",
    "bump_basis",
    "bump_combine",
    "bump_compact",
    "bump_design",
    "bump_jet",
    "compile_step",
    "evolve",
    "learn",
    "load",
    "march",
    "problems",
    "resume",
    "save",
    "solve",
    "use_backend",
]
