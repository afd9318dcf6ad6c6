"""Going on with a run that was stopped, whichever solver it is of."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from ..core.files import CheckpointError
from ..solvers import evolution, marching, run_state, stationary, strategies
from ..solvers.operators import stored, train

#: The solvers that keep their state in a ``Store``, and what a resumption may change.
_SOLVERS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "solve": (stationary.solve, ("iterations", "max_seconds")),
    "march": (marching.march, ("iterations", "max_seconds")),
    "prune": (strategies.prune, ("max_seconds", "score")),
    "evolve": (evolution.evolve, ("max_seconds",)),
    "grow": (strategies.grow, ("max_seconds",)),
    "reach": (strategies.reach, ("max_seconds", "score")),
    "operator": (train, ("max_seconds", "net", "test")),
}
_FOLLOWING = ("every_seconds", "callback")


def resume(path: str | os.PathLike, problem: Any, content: dict[str, Any], **options: Any) -> Any:
    """Go on with the run in ``path``, which holds ``content``; see :func:`bumpnet_fast.io.saved.resume`."""
    name = content["solver"]
    if name not in _SOLVERS:
        raise CheckpointError(f"{path} holds a run of {name!r}, which is not known here")
    solver, changeable = _SOLVERS[name]
    if wrong := [key for key in options if key not in (*changeable, *_FOLLOWING)]:
        there = ", ".join((*changeable, *_FOLLOWING))
        raise ValueError(f"a run of {name!r} that is resumed takes {there}, got {wrong[0]}")
    described = stored.described if name == "operator" else run_state.described
    run_state.check_same(path, "problem", content["problem"], described(problem))
    store = run_state.Store(path, run_state.checked_seconds(options.pop("every_seconds", run_state.EVERY)), content)
    start = _operator_start(store, options) if name == "operator" else _start(store)
    with store.reading():
        settings = stationary.from_settings(dict(content["settings"]))
        longer = {key: value for key, value in options.items() if key == "iterations"}
        store.content = content | {"settings": content["settings"] | longer}
    return solver(problem, *start, **settings | options, checkpoint=store)


def _start(store: run_state.Store) -> list[Any]:
    """What the run began with, beside its problem."""
    with store.reading():
        net = store.content["net"]
        return [] if net is None else [run_state.net_from(net)]


def _operator_start(store: run_state.Store, options: dict[str, Any]) -> list[Any]:
    test = options.get("test")
    given = None if test is None else stored.described(test)
    run_state.check_same(store.path, "test", store.content.get("test"), given)
    with store.reading():
        return [stored.net_from(store.content["net"], options.pop("net", None))]


__all__ = ["resume"]
