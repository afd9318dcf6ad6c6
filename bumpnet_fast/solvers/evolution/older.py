"""States of evolutions that earlier versions wrote."""

from __future__ import annotations

import math
from typing import Any


def from_version_2(state: dict[str, Any]) -> dict[str, Any]:
    """The state of an evolution from a file of format 2, as :class:`~bumpnet_fast.solvers.loop.Run` keeps it today."""
    setup, solve, seconds = map(float, state["seconds"])
    names = {"defect": "residual", "speed": "rate"}
    reports = [{names.get(key, key): value for key, value in report.items()} for report in state["reports"]]
    entries = [{"iteration": i, "loss": e["residual"], "stage": "", **e} for i, e in enumerate(state["history"])]
    return {
        "stage": 0,
        "begun": 0,
        "first": 0,
        "done": len(state["times"]) - 1,
        "history": entries,
        "seconds": setup + seconds,
        "processor_seconds": setup + seconds,  # it was not measured
        "best": {"loss": math.inf, "work": {}},
        "work": {key: state[key] for key in ("rows", "y", "times")} | {"reports": reports, "solve_seconds": solve},
        "method": {"marcher": state["march"], "stages": state["stages"], "setup_seconds": setup, "seconds": seconds},
        "random": state["random"],
    }


__all__ = ["from_version_2"]
