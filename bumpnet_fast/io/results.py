"""What a command left in its folder, as the solver gave it back.

``bumpnet solve``, ``evolve`` and ``operator`` write ``model.pt``, ``history.json`` and ``summary.json``.  From these
the result is made again; the data of an operator come anew from their seed.  Nothing is trained.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import make_dataclass
from pathlib import Path
from typing import Any

import torch

from ..core.files import damaged
from ..nets.events import Event
from ..problems.base import Problem
from ..problems.sampling import lattice
from ..solvers import Evolution, March, Solution
from ..solvers.operators import OperatorSolution
from ..solvers.operators.task import relative_errors
from . import saved, saved_evolution
from .fields import field_of
from .saved import CheckpointError, Model, read_model
from .saved_operator import load_operator

#: Files of a folder.
MODEL, HISTORY, SUMMARY = "model.pt", "history.json", "summary.json"
#: Class of a problem that is not known here.
UNKNOWN = "Unknown"


def load(path: str | os.PathLike, *, problem: Any = None) -> Solution | March | Evolution | OperatorSolution:
    """Read the result of a run.

    Parameters
    ----------
    path : str or path
        The folder of the run, or a saved model.
    problem : Problem, EvolutionProblem, optional
        Takes the place of the saved one; needed if that is not among the library's own.

    Returns
    -------
    Solution, March, Evolution or OperatorSolution
        What the solver returned.  Of a model alone, without its folder, the history is empty, and errors are measured
        again.

    Raises
    ------
    FileNotFoundError
        If there is no such folder or file.
    CheckpointError
        If a file is missing, damaged or something else, comes from a newer version, or needs its problem; if the run in
        the folder has not ended.

    Examples
    --------
    >>> import tempfile
    >>> from bumpnet_fast.cli import main
    >>> folder = tempfile.mkdtemp()
    >>> main(["solve", "poisson", "--bumps", "3x3", "--set", "iterations=5", "--out", folder, "--quiet"])
    0
    >>> load(folder).iterations
    5
    """
    path = Path(path)
    file, history, summary = path, [], {}
    if path.is_dir():
        file = path / MODEL
        if not file.exists():
            raise CheckpointError(_without_model(path))
        history, summary = (_json(path / name, kind) for name, kind in ((HISTORY, list), (SUMMARY, dict)))
    content = read_model(file)
    if "evolution" in content:
        return saved_evolution.load(file, problem=problem)
    make = _operator if "sensors" in content["kwargs"] else _solution
    with damaged(path):
        return make(file, problem, history, summary)


def _without_model(folder: Path) -> str:
    if (folder / "run.pt").exists():
        return f"the run in {folder} has not ended: it has no {MODEL} yet; go on with it by --resume {folder}"
    return f"{folder} is not the folder of a run: it has no {MODEL}"


def _json(path: Path, kind: type) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent} is not the whole folder of a run: it has no {path.name}") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if not isinstance(content, kind):
        raise CheckpointError(f"{path} is damaged: it is no {kind.__name__}")
    return content


# --- solutions -----------------------------------------------------------------------------------


def _solution(file: Path, problem: Any, history: list[dict], summary: dict[str, Any]) -> Solution | March:
    model = saved.load(file, problem=problem)
    problem = model.problem or _unknown(file, model)
    entries = [entry for entry in history if "event" not in entry]
    begun = {"boundary": model.boundary or "soft", "history": entries}
    if model.windows:
        return _completed(March(problem=problem, parts=list(model.windows), **begun | _numbers(summary)), summary)
    events = [Event(e["iteration"], e["event"], e["before"], e["bumps"], e["loss"]) for e in history if "event" in e]
    more = {"unknowns": summary.get("unknowns") or {}, "events": events}
    return _completed(Solution(net=model.net, problem=problem, **begun | more | _numbers(summary)), summary)


def _numbers(summary: dict[str, Any]) -> dict[str, Any]:
    """What a summary knows of a solution; null stands for what JSON has no number for."""
    if not summary:
        unknown = {"loss": math.nan, "rel_l2": None, "max_error": None, "seconds": 0.0, "iterations": 0}
        return unknown | {"stop": "", "method": ""}
    keys = ("rel_l2", "max_error", "seconds", "iterations", "method")
    return {key: summary[key] for key in keys} | {"loss": _number(summary["loss"]), "stop": summary["stop_reason"]}


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _completed(solution: Solution | March, summary: dict[str, Any]) -> Solution | March:
    """Its errors measured again, if nothing is known about it."""
    if summary:
        return solution
    field = field_of(solution)
    x = lattice(solution.problem.domain)
    x = x[solution.problem.inside(x)].numpy()
    exact = field.exact(x)
    if exact is not None:
        difference = torch.from_numpy(field.u(x) - exact)
        size = float(torch.from_numpy(exact).norm()) or 1.0
        solution.rel_l2, solution.max_error = float(difference.norm()) / size, float(difference.abs().max())
    return solution


def _unknown(file: Path, model: Model) -> Problem:
    """A problem of which nothing is known but the domain."""
    (lo, hi), saved = model.net.domain.double().tolist(), read_model(file)["problem"]
    members = {"name": saved["name"] if saved else "a net", "outputs": model.net.layout.outputs}
    return make_dataclass(
        UNKNOWN, [("lower", tuple, tuple(lo)), ("upper", tuple, tuple(hi))], bases=(Problem,), namespace=members
    )()


# --- operators -----------------------------------------------------------------------------------


def _operator(file: Path, problem: Any, history: list[dict], summary: dict[str, Any]) -> OperatorSolution:
    net, operator = vars(load_operator(file)).values()
    operator = problem or operator
    if operator is None or not summary:
        what = "the operator, which is not known here" if summary else "the folder of its run"
        raise CheckpointError(f"{file} holds an operator, and its data are made anew from {what}")
    count, tested = summary["functions"]
    data, test = operator.generate(count + tested, summary["seed"] or 0).split(count)
    test = test if tested else None
    keys = ("method", "physics", "train_rel_l2", "rel_l2", "projection_rel_l2", "parameters", "seconds", "iterations")
    numbers = {key: summary[key] for key in keys} | {"loss": _number(summary["loss"]), "stop": summary["stop_reason"]}
    errors = relative_errors(net, data if test is None else test)
    more = {"data": data, "test": test, "history": history, "errors": errors}
    return OperatorSolution(net=net, problem=operator, **more | numbers)


__all__ = ["HISTORY", "MODEL", "SUMMARY", "UNKNOWN", "load"]
