"""Going on with a run that was stopped, whichever solver it is of."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from ..files import CheckpointError
from . import adaptive, ednn, first_order, least_squares, marching, runs

#: The solvers that keep their state in a :class:`~bumpnet_fast.solvers.runs.Store`, and what a resumption may change.
_SOLVERS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "solve": (least_squares.solve, ("iterations", "max_seconds")),
    "march": (marching.march, ("iterations", "max_seconds")),
    "prune": (adaptive.prune, ("score",)),
    "evolve": (ednn.evolve, ("max_seconds",)),
    "grow": (adaptive.grow, ()),
    "reach": (adaptive.reach, ("score",)),
}


def resume(path: str | os.PathLike, problem: Any, content: dict[str, Any], **options: Any) -> Any:
    """Go on with the run in ``path``, which holds ``content``; see :func:`bumpnet_fast.checkpoint.resume`."""
    if content["solver"] == "train":
        return first_order.resume(path, problem, **options)
    if content["solver"] not in _SOLVERS:
        raise CheckpointError(f"{path} holds a run of {content['solver']!r}, which is not known here")
    solver, changeable = _SOLVERS[content["solver"]]
    following = ("every_seconds", "callback")
    if wrong := [key for key in options if key not in (*changeable, *following)]:
        there = ", ".join((*changeable, *following))
        raise ValueError(f"a run of {content['solver']!r} that is resumed takes {there}, got {wrong[0]}")
    runs.check_same(path, "problem", content["problem"], runs.described(problem))
    store = runs.Store(path, content=content)
    with store.reading():
        settings = dict(content["settings"])
        start = [] if content["net"] is None else [runs.net_from(content["net"])]
    store.every = runs.checked_seconds(options.get("every_seconds", runs.EVERY))
    return solver(problem, *start, **settings | options, checkpoint=store)


__all__ = ["resume"]
