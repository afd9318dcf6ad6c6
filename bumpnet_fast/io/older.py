"""States of runs of older versions, converted to the current format.

Until version 0.1.0 every solver had its own loop, and its own form of state.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..solvers import run_state

#: Last format of those runs.
_LAST = 2
#: Options of the least-squares methods.
_LEAST_SQUARES = ("tolerance", "ridge", "damping", "step_cap")
#: Options of Adam.
_ADAM = ("learning_rate", "batch", "resample", "prune_threshold", "prune_every", "prune_least", "log_every")


def upgraded(content: dict[str, Any]) -> dict[str, Any]:
    """The content of a run's file in the current format; unchanged if it is current.

    ``evolve`` and ``learn`` convert their own states, which takes more than the file.
    """
    if content["version"] > _LAST:
        return content
    convert: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
        "solve": _solve, "train": _train, "march": _journal, "prune": _journal, "grow": _journal, "reach": _journal,
    }  # fmt: skip
    return convert.get(content["solver"], lambda same: same)(content) | {"version": run_state.VERSION}


def _solve(content: dict[str, Any]) -> dict[str, Any]:
    settings, rows = dict(content["settings"]), content["net"]["rows"]
    options = {name: settings.pop(name) for name in _LEAST_SQUARES}
    settings["method"] = [{"name": settings["method"], "options": options}]
    return content | {"settings": settings, "state": _of_solve(content["state"], rows)}


def _of_solve(state: dict[str, Any] | None, rows: Tensor | None = None) -> dict[str, Any] | None:
    """The state of a least-squares solve that began with ``rows``; without them the caller has the net."""
    if state is None:
        return None
    stage, history = state["stage"], list(state["history"])
    unknowns = torch.tensor([*stage["unknowns"].values()], dtype=torch.float64)
    work = {"rows": rows, "unknowns": unknowns, "x": stage["x"], "weights": stage["weights"], "counts": None}
    work |= {"generation": stage["round"], "events": []}
    place = {"stage": stage["round"], "begun": stage["first"], "first": stage["first"], "done": len(history) - 1}
    return place | _common(state, history) | {"work": work, "method": state["point"]}


def _train(content: dict[str, Any]) -> dict[str, Any]:
    old, progress, batches, stage = (content[key] for key in ("settings", "progress", "batches", "stage"))
    names = old["method"].split("+")
    methods = []
    for name in names:
        kept = _ADAM if name != "lbfgs" else ("log_every",)
        options = {key: old[key] for key in kept}
        if name == "varpro-adam":
            options |= {"ridge": old["ridge"], "batch": None}
        methods.append({"name": name, "options": options})
    settings = {key: old[key] for key in ("iterations", "boundary", "sampling", "condition_weight", "seed")}
    settings |= {"method": methods, "points": batches["counts"], "refine": 0}
    history, rows = list(progress["history"]), content["net"]["rows"]
    work = {"rows": rows, "unknowns": content["unknowns"].double(), "x": batches["x"], "weights": None}
    work |= {"counts": batches["counts"], "events": progress["events"], "generation": len(progress["events"])}
    objective = {key: batches[key] for key in ("deal", "queue", "draws", "generator")}
    method = {"optimizer": stage["optimizer"], "objective": objective | {"unknowns": content["unknowns"]}}
    if names[progress["stage"]] == "lbfgs":
        method["scale"] = stage["scale"]
    else:
        method |= {"schedule": stage["schedule"], "taken": progress["taken"] - progress["begun"]}
    best = content["best"]
    first = max((k for k, entry in enumerate(history) if entry["iteration"] <= progress["begun"]), default=0)
    state = {"stage": progress["stage"], "begun": progress["begun"], "first": first, "done": progress["taken"]}
    state |= _common(progress | {"random": content["random"]}, history) | {"work": work, "method": method}
    state["best"] = {"loss": best["loss"], "generation": work["generation"]} | {
        "work": {"rows": best["rows"], "unknowns": best["unknowns"].double()}
    }
    kept = {key: content[key] for key in ("version", "problem", "net", "command") if key in content}
    return kept | {"solver": "solve", "settings": settings, "state": state}


def _journal(content: dict[str, Any]) -> dict[str, Any]:
    state = content["state"]
    if state is None:
        return content
    done = []
    for entry in state["done"]:
        entry = dict(entry)
        entry |= {"stop": entry.pop("stop_reason"), "processor_seconds": entry["seconds"], "warnings": []}
        done.append(entry)
    return content | {"state": state | {"done": done, "now": _of_solve(state["now"])}}


def _common(state: dict[str, Any], history: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = {"seconds": state["seconds"], "processor_seconds": state["seconds"]}
    best = {"loss": math.inf, "work": {}}
    return {"history": history, "best": best, "random": state["random"]} | seconds
