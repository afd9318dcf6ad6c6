"""Runs of version 0.1.0: their states, converted to today's run loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .branch import last_layer
from .task import OperatorTask


def is_version_2(state: dict[str, Any]) -> bool:
    """Whether a state names its stage instead of numbering it, as those did."""
    return isinstance(state["stage"], str)


@torch.no_grad()
def from_version_2(
    state: dict[str, Any], task: OperatorTask, names: Sequence[str], limits: Sequence[int]
) -> dict[str, Any]:
    """The same state as :class:`~bumpnet_fast.solvers.loop.Run` keeps it.

    Parameters
    ----------
    state : dict
        State of an operator's run, from a file of version 2.
    task : OperatorTask
        With the net at the start of the run; its shapes may be changed here.
    names, limits : sequence
        Names of the stages, and their numbers of iterations.

    Raises
    ------
    LookupError, TypeError, ValueError, RuntimeError
        If something in the state is missing or of another kind.
    """
    name, now, history = state["stage"], state["now"], [dict(entry) for entry in state["history"]]
    if name not in names:
        raise ValueError(f"its stage is {name!r}, which the method has not")
    stage, done = names.index(name), int(state["iterations"])
    earlier = sum(entry["stage"] != name for entry in history)
    found = {
        "stage": stage, "begun": 0, "first": max(0, earlier - 1), "done": done, "history": history,
        "seconds": float(state["seconds"]), "processor_seconds": 0.0, "random": state["random"],
    }  # fmt: skip
    if name == "trunk":
        best = {"loss": float(now["losses"][-1]), "generation": 0, "work": {"rows": now["point"]["rows"]}}
        return found | {"best": best, "work": task.state_dict(), "method": now["point"]}
    steps, net, kept = now["steps"], now["net"], now["best"]
    taken = min(limits[stage] - int(steps["left"]), limits[stage])  # L-BFGS went in rounds, beyond its limit
    mix = _mix(task, net)
    trained, prefix = (task.net.branch, "branch.") if task.two_step else (task.net, "")
    parameters = [(prefix + key, p) for key, p in trained.named_parameters() if p.requires_grad]
    pairs = zip(parameters, kept["kept"], strict=True)
    best = net | {key: value.reshape(p.shape) for (key, p), value in pairs} | {"mix": mix}
    method = {"optimizer": steps["optimiser"]}
    if name == "lbfgs":
        generator = torch.Generator().manual_seed(task.seed).get_state()
        method |= {"objective": {"generator": generator}, "scale": 1.0}
    else:
        own = {key: value for key, value in steps["schedule"].items() if key not in ("T_max", "eta_min")}
        method |= {"objective": {"generator": steps["generator"]}, "schedule": own | {"lr_lambdas": [None]}}
        method |= {"taken": taken}
    return found | {
        "begun": done - taken,
        "best": {"loss": float(kept["loss"]), "generation": 0, "work": best},
        "work": {"net": net, "mix": mix},
        "method": method,
    }


def _mix(task: OperatorTask, net: dict[str, Any]) -> torch.Tensor:
    """The map to amplitudes, made of the shapes with which the gradient stages began."""
    if task.two_step:
        task.net.rows.copy_(net["rows"])
    _, _, mix = task.coordinates(task.net)
    return mix if last_layer(task.net.branch)[1] is not None else torch.eye(len(mix)).to(mix)


__all__ = ["from_version_2", "is_version_2"]
