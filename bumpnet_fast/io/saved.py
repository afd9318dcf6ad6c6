"""Results in files: one dict per file, written atomically, loaded without executing anything from the file.

The dict holds tensors and plain values only: ``torch.load(path, weights_only=True)`` reads it without this package.

========= ==========================================================================
version   format of the file, :data:`VERSION`
kwargs    arguments that rebuild the net; of a net of patches the cells of level 0
model     its ``state_dict``
problem   ``{"name": ..., "settings": {...}}``, or None
boundary  "hard", "soft", or None
windows   one ``state_dict`` for every window of a march
evolution times, states and rates of all rows, and how the evolution was computed; one to a stated error has its bumps
          from stretch to stretch, too
pairs     the functions that an operator was trained and tested on
result    how any other result was computed: history, errors, seconds, why the run ended
========= ==========================================================================

Files of older versions, and folders of the command line with ``history.json`` and ``summary.json``, are read as well.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import problems
from ..core.files import CheckpointError, atomic, damaged, one_line, read
from ..core.rows import RowLayout
from ..nets.bumpnet import BumpNet
from ..nets.cancelling import warn_of_saving
from ..nets.deeponet import BumpDeepONet
from ..nets.events import Event
from ..nets.patches import PatchNet
from ..problems.base import Problem
from ..problems.evolution import EvolutionProblem, get_evolution
from ..problems.operators import Operator, OperatorData, get_operator
from ..solvers import run_state
from ..solvers.arguments import BOUNDARIES, check_net, choice
from ..solvers.evolution.basis import IMAGES_MOST, Space
from ..solvers.evolution.estimate import EvolutionEstimate
from ..solvers.evolution.graded_result import Bumps, GradedEvolution
from ..solvers.evolution.result import Evolution
from ..solvers.loop import StopReason
from ..solvers.marching import March, Part, chain
from ..solvers.operators import OperatorSolution
from ..solvers.operators.check import check_data, check_operator
from ..solvers.operators.stored import operator_settings
from ..solvers.operators.task import relative_errors
from ..solvers.solution import ErrorMeasure, FieldResult, Result, Solution
from .recording import KIND as RECORDING
from .recording import frames_of

#: Format of the files that :func:`save` writes; :func:`load` reads it and all older ones.
VERSION = 3
#: Files in a folder of the command line.
MODEL, HISTORY, SUMMARY = "model.pt", "history.json", "summary.json"
#: Class of a problem that this installation does not know.
UNKNOWN = "Unknown"

#: A file's arguments may ask for this many numbers more than it has; beyond, the net says what is wrong.
_SLACK = 1_000_000
#: Fields of a result that are made from other entries of its file.
_MADE = {
    "net", "problem", "boundary", "parts", "places", "space", "data", "test", "times", "states", "rates",
    "stretches", "estimate",
}  # fmt: skip
#: Fields of a result that are not numbers, and their types.
_KINDS = {
    "history": list, "warnings": list, "events": list, "levels": list, "unknowns": dict, "stop": str, "method": str,
    "shapes": str,
    "physics": bool, "errors": Tensor,
}  # fmt: skip


# --- save ----------------------------------------------------------------------------------------


def save(
    path: str | os.PathLike,
    what: Result | BumpNet | PatchNet | BumpDeepONet,
    *,
    problem: Any = None,
    boundary: str | None = None,
) -> None:
    """Write a result, or a net alone, to ``path``, atomically.

    For an operator the functions that it was trained and tested on are written too.

    Parameters
    ----------
    path : str or path
        File to write; its directory must exist.
    what : Result, BumpNet, PatchNet or BumpDeepONet
        The result of a solver, or a net.
    problem : Problem or Operator, optional
        For a net alone: its problem.  The name and the fields of a problem are saved, not its code.
    boundary : "hard", "soft" or None
        For a net alone: how its boundary conditions are enforced; "hard" needs the problem.

    Raises
    ------
    TypeError, ValueError
        If ``what`` or ``problem`` is of another type, or they do not fit; if a result is given with a problem or
        boundary.
    OSError
        If the file cannot be written; an older one is then unchanged.

    Notes
    -----
    A net is saved in its own dtype.  A :class:`~bumpnet_fast.nets.cancelling.CancellationWarning` says how far u is off
    if float32 does not have the digits for its amplitudes.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path, net = pathlib.Path(tempfile.mkdtemp(), "model.pt"), BumpNet(2, 9)
    >>> save(path, net)
    >>> load(path).net
    BumpNet(dim=2, bumps=9, outputs=1, outer='tied', parameters=63, dtype=float32)
    """
    if not isinstance(what, (Result, BumpNet, PatchNet, BumpDeepONet)):
        raise TypeError(f"only the result of a solver or a net can be saved, got {type(what).__name__}")
    net, more = what, {}
    choice(*BOUNDARIES, optional=True).check("boundary", boundary)
    if isinstance(what, (BumpNet, PatchNet)) and given(problem, Problem):
        check_net(problem, what)
    if isinstance(what, BumpDeepONet) and given(problem, Operator):
        check_operator(problem, what)
    if isinstance(what, Result):
        if problem is not None or boundary is not None:
            raise ValueError("problem and boundary are for a net alone; a result has its own")
        net, problem, more = what.net, what.problem, {"result": _found(what)}
    if isinstance(what, FieldResult):
        boundary = what.boundary
    if isinstance(what, March):
        more["windows"] = [_state(part.net) for part in what.parts]
        net = what.parts[0].net
    if isinstance(what, Evolution):
        net = what.at(float(what.times[-1]))
        tensors = {name: getattr(what, name).cpu() for name in ("times", "states", "rates")}
        space = {"frame": what.space.frame.cpu(), "images": list(what.space.images)}
        more = {"evolution": more.pop("result") | tensors | space | _graded_content(what)}
    if isinstance(what, OperatorSolution):
        pairs = {"data": what.data, "test": what.test}
        more["pairs"] = run_state.plain({key: value and value._asdict() for key, value in pairs.items()})
    content = {
        "version": VERSION,
        "kwargs": operator_settings(net) if isinstance(net, BumpDeepONet) else net_settings(net),
        "model": _state(net),
        "problem": None if problem is None else {"name": problem.name, "settings": problem_settings(problem)},
        "boundary": boundary,
    }
    with atomic(path) as file:
        torch.save(content | more, file)
    if isinstance(net, BumpNet):
        warn_of_saving(net)


def _found(result: Result) -> dict[str, Any]:
    """How a result was computed, as plain values."""
    values = {f.name: getattr(result, f.name) for f in dataclasses.fields(result) if f.name not in _MADE}
    events = {"events": [vars(event) for event in values["events"]]} if "events" in values else {}
    return run_state.plain(values | events | {"stop": result.stop.value})


def _state(net: nn.Module) -> dict[str, Tensor]:
    return run_state.plain(dict(net.state_dict()))


def net_settings(net: BumpNet | PatchNet) -> dict[str, Any]:
    """The arguments that rebuild a net, before its state is loaded."""
    if isinstance(net, PatchNet):
        return {"roots": list(net.roots)}
    return {
        "dim": net.layout.dim,
        "bumps": len(net.rows),
        "domain": net.domain.tolist(),
        "outputs": net.layout.outputs,
        "outer": "tied" if net.tied else "free",
        "dtype": str(net.rows.dtype).removeprefix("torch."),
    }


def problem_settings(problem: Any) -> dict[str, Any]:
    """The values of a problem's fields by name, without functions and other objects: they rebuild it."""
    found = {}
    for field in dataclasses.fields(problem):
        with contextlib.suppress(ValueError):  # no file can hold it
            found[field.name] = run_state.plain(getattr(problem, field.name))
    return found


# --- load ----------------------------------------------------------------------------------------


def load(path: str | os.PathLike, *, problem: Any = None, branch: nn.Module | None = None) -> Any:
    """Read what :func:`save`, a command, or a :class:`~bumpnet_fast.io.recording.Recording` wrote.  Nothing is trained.

    Parameters
    ----------
    path : str or path
        A file, or the folder of a command.
    problem : Problem, EvolutionProblem or Operator, optional
        Replaces the saved one.  Needed to evaluate u if the problem is not one of the library's.
    branch : nn.Module, optional
        Replaces a branch of its own kind, and gets its saved parameters.

    Returns
    -------
    Solution, March, Evolution or OperatorSolution
        What the solver returned, on the CPU.  A net saved alone is returned as a solution with an empty history; its
        errors are measured again.  For a recording: its frames.

    Raises
    ------
    FileNotFoundError
        If there is no such file or folder.
    CheckpointError
        If it is of another kind, is damaged, is from a newer version, or needs its problem or branch; if the run in the
        folder is not finished.
    TypeError, ValueError
        If ``problem`` is of another type, or does not fit the net.

    Examples
    --------
    >>> from bumpnet_fast import problems
    >>> import pathlib, tempfile
    >>> path, poisson = pathlib.Path(tempfile.mkdtemp(), "model.pt"), problems.get("poisson", a1=2)
    >>> save(path, BumpNet(2, 9, poisson.domain), problem=poisson, boundary="hard")
    >>> u = load(path)
    >>> u.problem.a1, u(torch.rand(5, 2)).shape
    (2.0, torch.Size([5, 1]))
    """
    path = Path(path)
    file, history, summary = path, None, None
    if path.is_dir():
        file = path / MODEL
        if not file.exists():
            raise CheckpointError(_without_model(path))
    content = read(file, {"model": (VERSION, ("kwargs", "model", "problem", "boundary"))} | RECORDING | _RUN)
    if content.get("kind") == "run":
        raise CheckpointError(f"{file} is the state of a run, not its result; continue the run by resume(path)")
    if content.get("kind") == "record":
        return frames_of(file, content)
    if path.is_dir() and not content.keys() & {"result", "evolution"}:  # of an older version
        history, summary = (_json(path / name, kind) for name, kind in ((HISTORY, list), (SUMMARY, dict)))
    if "evolution" in content:
        return _evolution(file, content, given(problem, EvolutionProblem))
    with damaged(file):
        is_operator = "sensors" in content["kwargs"]
    if is_operator:
        return _operator(file, content, given(problem, Operator), branch, history, summary)
    return _solution(file, content, given(problem, Problem), history, summary)


#: Types of files: results, which differ from states of runs.
_RUN = {"run": (run_state.VERSION, ())}


def given(problem: Any, *kinds: type) -> Any:
    """``problem``, if it is None or of one of these types; otherwise TypeError."""
    if problem is not None and not isinstance(problem, kinds):
        wanted = ", ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"problem must be of {wanted}, or None, got {type(problem).__name__}")
    return problem


def _without_model(folder: Path) -> str:
    if (folder / "run.pt").exists():
        return f"the run in {folder} has not ended: it has no {MODEL} yet; continue it with --resume {folder}"
    return f"{folder} is not the folder of a run: it has no {MODEL}"


def _json(path: Path, kind: type) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent} is not the whole folder of a run: it has no {path.name}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {one_line(error)}") from error
    if not isinstance(content, kind):
        raise CheckpointError(f"{path} is damaged: it is no {kind.__name__}")
    return content


def _rebuilt(kind: Callable[..., Any], kwargs: dict[str, Any], state: dict[str, Tensor]) -> Any:
    """The net of a file; ValueError, before memory is allocated, if its tensors are too small for its arguments."""
    counts = kwargs["bumps"] if isinstance(kwargs["bumps"], (tuple, list)) else [kwargs["bumps"]]
    bumps, dim = math.prod(counts), len(kwargs["domain"][0])
    asked = bumps * RowLayout(dim, kwargs.get("outputs", 0), True).columns
    if isinstance(kwargs.get("branch"), (tuple, list)):
        widths = (kwargs["sensors"], *kwargs["branch"], bumps)
        asked += sum(a * b for a, b in itertools.pairwise(widths))
    found = sum(value.numel() for value in state.values() if isinstance(value, Tensor))
    if not asked <= found + _SLACK:
        raise ValueError(f"its arguments ask for {asked:.3g} numbers, and its tensors have {found}")
    net = kind(**kwargs)
    net.load_state_dict(state)
    return net


def saved_problem(path: str | os.PathLike, content: dict[str, Any], get: Callable[..., Any], needed: bool) -> Any:
    """The problem of a file, from ``get``; None if there is none, or if it is unknown and not ``needed``."""
    saved = content["problem"]
    if saved is None and not needed:
        return None
    try:
        if saved is None:
            raise ValueError("which was not saved")
        return get(saved["name"], **saved["settings"])
    except (KeyError, TypeError, ValueError) as error:
        if not needed:
            return None
        raise CheckpointError(f"{path} needs its problem, {one_line(error)}; pass it as problem=...") from error


# --- solutions -----------------------------------------------------------------------------------


def _solution(
    file: Path, content: dict[str, Any], problem: Any, history: list | None, summary: dict | None
) -> Solution | March:
    windows, boundary = content.get("windows", []), content["boundary"]
    with damaged(file):
        choice(*BOUNDARIES, optional=True).check("boundary", boundary)
        if "roots" in content["kwargs"]:
            nets: list[Any] = [PatchNet(**content["kwargs"], **content["model"])]
        else:
            nets = [_rebuilt(BumpNet, content["kwargs"], state) for state in windows or [content["model"]]]
    guarded: Any = contextlib.nullcontext() if problem is not None else damaged(file)
    if problem is None:
        problem = saved_problem(file, content, problems.get, needed=boundary == "hard" or bool(windows))
        problem = problem or _unknown(nets[0], content["problem"])
    about = {"problem": problem, "boundary": boundary or "soft"}
    with guarded:  # a mistake of the caller is reported as such
        parts = _parts(problem, nets, boundary) if windows else [Part(net=nets[0], **about)]
        for part in parts:
            check_net(part.problem, part.net)
    with damaged(file):
        found = _how(content, history, summary)
        if windows:
            result: FieldResult = March(parts=parts, **about, **found)
        else:
            result = Solution(net=nets[0], **about, **found)
    if result.stop is StopReason.UNKNOWN:
        measure = ErrorMeasure(problem, nets[0].rows.device)
        result.rel_l2, result.max_error = measure(result.predict)
    return result


def _parts(problem: Problem, nets: list[BumpNet], boundary: str) -> list[Part]:
    if problem.time is None:
        raise ValueError(f"problem {problem.name!r} has no axis of time, and the solution is in windows of time")
    return chain(problem, nets, boundary or "soft")


def _how(content: dict[str, Any], history: list | None, summary: dict | None) -> dict[str, Any]:
    """How a solution was computed: from its file, from a folder of an older version, or unknown."""
    if "result" in content:
        found = _checked(content["result"])
        return found | {"events": [Event(**event) for event in found.get("events", ())]}
    if not summary:
        return {"history": [], "loss": math.nan, "seconds": 0.0, "stop": StopReason.UNKNOWN}
    events = [Event(e["iteration"], e["event"], e["before"], e["bumps"], e["loss"]) for e in history if "event" in e]
    keys = ("rel_l2", "max_error", "seconds", "iterations", "method")
    return {key: summary[key] for key in keys} | {
        "history": [entry for entry in history if "event" not in entry],
        "loss": _number(summary["loss"]),
        "stop": summary["stop_reason"],
        "unknowns": summary.get("unknowns") or {},
        "events": events,
    }


def _checked(found: dict[str, Any]) -> dict[str, Any]:
    """How a result was computed, as saved; ValueError if an entry has another type."""
    for name, value in found.items():
        kind = _KINDS.get(name, (int, float, None.__class__))
        if not isinstance(value, kind):
            raise ValueError(f"its {name} is of type {type(value).__name__}")
    if not all(isinstance(entry, dict) for entry in found["history"]):
        raise ValueError("its history is not of entries")
    return dict(found)


def _number(value: float | None) -> float:
    """Null stands for NaN."""
    return math.nan if value is None else value


def _unknown(net: BumpNet, saved: dict[str, Any] | None) -> Problem:
    """A problem of which only the domain is known."""
    lo, hi = net.domain.double().tolist()
    members = {"name": saved["name"] if saved else "a net", "outputs": net.layout.outputs, "forms": ("soft",)}
    box = [("lower", tuple, tuple(lo)), ("upper", tuple, tuple(hi))]
    return dataclasses.make_dataclass(UNKNOWN, box, bases=(Problem,), namespace=members)()


# --- evolutions and operators --------------------------------------------------------------------


def _evolution(file: Path, content: dict[str, Any], problem: Any) -> Evolution:
    if problem is None:
        problem = saved_problem(file, content, get_evolution, needed=True)
    with damaged(file):
        evolution = dict(content["evolution"])
        evolution["stop"] = evolution.pop("stop_reason", evolution.get("stop"))  # as older versions called it
        tensors = {name: evolution.pop(name) for name in ("times", "states", "rates")}
        frame, images = evolution.pop("frame"), tuple(evolution.pop("images"))
        stretches, estimate = evolution.pop("stretches", None), evolution.pop("estimate", None)
        last = _rebuilt(BumpNet, content["kwargs"], content["model"])
        evolution = _checked(evolution) | tensors
        _check_states(evolution, last, images)
        net = BumpNet.from_rows(evolution["states"][0].to(last.rows), frame.to(last.rows), last.domain, last.tied)
        evolution |= {"problem": problem, "net": net, "space": Space(problem, frame, last.tied, images)}
        return Evolution(**evolution) if stretches is None else _graded(evolution, stretches, estimate)


def _graded_content(run: Evolution) -> dict[str, Any]:
    """What only an evolution to a stated error has."""
    if not isinstance(run, GradedEvolution):
        return {}
    estimate = {field.name: getattr(run.estimate, field.name) for field in dataclasses.fields(EvolutionEstimate)}
    estimate.pop("enriched")
    return run_state.plain({"stretches": [vars(bumps) for bumps in run.stretches], "estimate": estimate})


def _graded(evolution: dict[str, Any], stretches: list[dict[str, Any]], estimate: dict[str, Any]) -> GradedEvolution:
    net, several = evolution["net"], ("rel_l2", "max", "times", "over_time")
    bumps = [Bumps(**one) for one in stretches]
    for one in bumps:
        one.check(net.layout.columns, net.layout.outputs)
    begun, last = [float(one.times[0]) for one in bumps], float(evolution["times"][-1])
    if not bumps or begun[0] != 0 or begun != sorted(begun) or float(bumps[-1].times[-1]) < last:
        raise ValueError("its bumps do not cover its times")
    known = EvolutionEstimate(**estimate | {name: tuple(estimate[name]) for name in several})
    return GradedEvolution(**evolution, stretches=bumps, estimate=known)


def _check_states(evolution: dict[str, Any], net: BumpNet, images: tuple[int, ...]) -> None:
    """Raise ValueError unless times, states and rates are an evolution of the bumps of ``net``."""
    times, count = evolution["times"], len(evolution["history"])
    shapes = {"times": (count,), "states": (count, *net.rows.shape), "rates": (count, *net.rows.shape)}
    for name, shape in shapes.items():
        found = evolution[name]
        if found.dtype != torch.float64 or found.shape != shape:
            wanted = f"float64 of shape {list(shape)}"
            raise ValueError(f"its {name} must be {wanted}, got {found.dtype} of shape {tuple(found.shape)}")
        if not bool(torch.isfinite(found).all()):
            raise ValueError(f"its {name} must be finite")
    if not count or times[0] != 0 or not bool((times[1:] > times[:-1]).all()):
        raise ValueError("its times must ascend from 0")
    if len(images) != net.layout.dim or not all(type(n) is int and 0 <= n <= IMAGES_MOST for n in images):
        raise ValueError(f"its images must be {net.layout.dim} integers from 0 to {IMAGES_MOST}, got {images}")


def _operator(
    file: Path, content: dict[str, Any], operator: Any, branch: nn.Module | None, history: list | None,
    summary: dict | None,
) -> OperatorSolution:  # fmt: skip
    kwargs = dict(content["kwargs"])
    if kwargs.pop("own_branch") and branch is None:
        raise CheckpointError(f"{file} has a branch of its own kind; pass one as load(path, branch=...)")
    with damaged(file, "is damaged or does not fit the branch"):
        net = _rebuilt(BumpDeepONet, kwargs | ({} if branch is None else {"branch": branch}), content["model"])
    if operator is None:  # a net is complete without an unknown operator
        operator = saved_problem(file, content, get_operator, needed=False)
    else:
        check_operator(operator, net)
    with damaged(file):
        found = _how_learned(content, history, summary)
        functions = found.pop("functions", None)
        if "pairs" in content:
            data, test = (_pairs(name, content["pairs"][name], net) for name in ("data", "test"))
        elif operator is not None and functions:  # of an older version
            data, test = operator.generate(sum(functions), found["seed"]).split(functions[0])
            test = test if functions[1] else None
        else:
            data = test = None
        measured = data if test is None else test
        if "errors" not in found:
            found["errors"] = torch.empty(0) if measured is None else relative_errors(net, measured)
        if found["errors"].shape != (0 if measured is None else len(measured.inputs),):
            raise ValueError(f"its errors are of shape {tuple(found['errors'].shape)}")
        return OperatorSolution(net=net, problem=operator, data=data, test=test, **found)


def _pairs(name: str, tensors: dict[str, Tensor] | None, net: BumpDeepONet) -> OperatorData | None:
    if tensors is None:
        return None
    data = OperatorData(**tensors)
    check_data(name, data, net)
    return data


def _how_learned(content: dict[str, Any], history: list | None, summary: dict | None) -> dict[str, Any]:
    """How an operator was trained: from its file, from a folder of an older version, or unknown."""
    if "result" in content:
        return _checked(content["result"])
    numbers = ("train_rel_l2", "rel_l2", "projection_rel_l2", "loss")
    if not summary:
        unknown = {"method": "", "physics": False, "parameters": 0, "iterations": 0, "seconds": 0.0, "history": []}
        return unknown | dict.fromkeys(numbers, math.nan) | {"stop": StopReason.UNKNOWN}
    keys = ("method", "physics", "parameters", "seconds", "iterations", "functions")
    found = {key: summary[key] for key in keys} | {key: _number(summary[key]) for key in numbers}
    return found | {"history": history, "stop": summary["stop_reason"], "seed": summary["seed"] or 0}


__all__ = ["HISTORY", "MODEL", "SUMMARY", "UNKNOWN", "given", "load", "net_settings", "problem_settings", "save",
           "saved_problem"]  # fmt: skip
