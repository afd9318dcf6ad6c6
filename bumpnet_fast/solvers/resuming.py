"""Going on with a run that was stopped, whichever solver it is of."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from ..files import CheckpointError, one_line
from . import adaptive, evolution, first_order, least_squares, marching, runs
from .deeponet import stored, train

#: The solvers that keep their state in a :class:`~bumpnet_fast.solvers.runs.Store`, and what a resumption may change.
_SOLVERS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "solve": (least_squares.solve, ("iterations", "max_seconds")),
    "march": (marching.march, ("iterations", "max_seconds")),
    "prune": (adaptive.prune, ("score",)),
    "evolve": (evolution.evolve, ("max_seconds",)),
    "grow": (adaptive.grow, ()),
    "reach": (adaptive.reach, ("score",)),
    "operator": (train, ("max_seconds", "net", "test")),
}
_FOLLOWING = ("every_seconds", "callback")


def resume(path: str | os.PathLike, problem: Any, content: dict[str, Any], **options: Any) -> Any:
    """Go on with the run in ``path``, which holds ``content``; see :func:`bumpnet_fast.checkpoint.resume`."""
    name = content["solver"]
    path = path if isinstance(path, runs.File) else runs.File(path, content.get("command"))
    if name == "train":
        return first_order.resume(path, problem, **options)
    if name not in _SOLVERS:
        raise CheckpointError(f"{path} holds a run of {name!r}, which is not known here")
    solver, changeable = _SOLVERS[name]
    if wrong := [key for key in options if key not in (*changeable, *_FOLLOWING)]:
        there = ", ".join((*changeable, *_FOLLOWING))
        raise ValueError(f"a run of {name!r} that is resumed takes {there}, got {wrong[0]}")
    described = stored.described if name == "operator" else runs.described
    runs.check_same(path, "problem", content["problem"], described(problem))
    store = runs.Store(path, runs.checked_seconds(options.pop("every_seconds", runs.EVERY)), content)
    start = _operator_start(store, options) if name == "operator" else _start(store)
    with store.reading():
        settings = dict(content["settings"])
    try:
        return solver(problem, *start, **settings | options, checkpoint=store)
    except (ArithmeticError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        if store.begun or isinstance(error, CheckpointError) or set(options) - {"callback"}:
            raise  # about the work, or about an argument
        raise CheckpointError(f"{path} cannot be resumed: {one_line(error)}") from error


def _start(store: runs.Store) -> list[Any]:
    """What the run began with, beside its problem."""
    with store.reading():
        net = store.content["net"]
        return [] if net is None else [runs.net_from(net)]


def _operator_start(store: runs.Store, options: dict[str, Any]) -> list[Any]:
    test = options.get("test")
    given = None if test is None else stored.described(test)
    runs.check_same(store.path, "test", store.content.get("test"), given)
    with store.reading():
        return [stored.net_from(store.content["net"], options.pop("net", None))]


__all__ = ["resume"]
