"""Resume an interrupted run, of any solver."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from .. import problems
from ..core.files import CheckpointError, damaged, one_line
from ..problems.base import Problem
from ..problems.evolution import EvolutionProblem, get_evolution
from ..problems.operators import Operator, OperatorData, get_operator
from ..solvers import evolution, marching, operators, run_state, stationary, strategies
from ..solvers.operators import stored
from . import older
from .saved import given, saved_problem

#: The solvers, and the options that a resumption may change.
_SOLVERS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "solve": (stationary.solve, ("iterations", "max_seconds")),
    "march": (marching.march, ("iterations", "max_seconds")),
    "prune": (strategies.prune, ("max_seconds", "score")),
    "evolve": (evolution.evolve, ("max_seconds",)),
    "grow": (strategies.grow, ("max_seconds",)),
    "reach": (strategies.reach, ("max_seconds", "score")),
    "operator": (operators.learn, ("max_seconds", "net", "test")),
}
_FOLLOWING = ("every_seconds", "callback", "callbacks")
#: Functions that find the problem of a run, where that is not :func:`bumpnet_fast.problems.get`.
_REGISTRIES = {"evolve": get_evolution, "operator": get_operator}
#: What that is, where it is no :class:`Problem`.
_KINDS: dict[str, tuple[type, ...]] = {"evolve": (EvolutionProblem,), "operator": (Operator, OperatorData)}


def resume(path: str | os.PathLike | run_state.File, *, problem: Any = None, **options: Any) -> Any:
    """Continue an interrupted run from the file that its solver wrote as ``checkpoint``.

    The result is identical, bit for bit, to that of a run that was never interrupted: rows, history and the log of
    bumps added and removed.  This holds on the same machine with the same number of threads; see docs/resume.md.

    Parameters
    ----------
    path : str or path
        The ``checkpoint`` of that run.  It is updated further.
    problem : Problem, optional
        Needed if it is not one of the library's.  For an operator trained on data: these data.
    options
        ``callback``, ``callbacks``, ``every_seconds``; ``iterations`` and ``max_seconds`` where the solver has them.
        What a file cannot hold must be given again: ``score`` if it was a function, ``net`` if its branch was of its
        own kind, and ``test``.  Everything else is stored.

    Returns
    -------
    Solution, March, Evolution or OperatorSolution
        As the solver returns it.  Seconds, iterations and history are those of the whole run.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    CheckpointError
        If it is not the state of a run, is damaged, or is from a newer version.
    TypeError, ValueError
        If the problem differs from that of the run, or a number is out of range.

    Examples
    --------
    >>> from bumpnet_fast import BumpNet, problems
    >>> from bumpnet_fast.solvers import solve
    >>> import pathlib, tempfile
    >>> path, poisson = pathlib.Path(tempfile.mkdtemp(), "run.pt"), problems.get("poisson")
    >>> solve(poisson, BumpNet(2, 9, poisson.domain), method="adam", iterations=20, checkpoint=path).iterations
    20
    >>> resume(path, iterations=30).iterations
    30
    """
    content = run_state.load(path)
    file = path if isinstance(path, run_state.File) else run_state.File(path, content.get("command"))
    name = content["solver"]
    if given(problem, *_KINDS.get(name, (Problem,))) is None:
        problem = saved_problem(file.path, content, _REGISTRIES.get(name, problems.get), needed=True)
    described = stored.described if name == "operator" else run_state.described
    run_state.check_same(file.path, "problem", content["problem"], described(problem))
    every = run_state.checked_seconds(options.pop("every_seconds", run_state.EVERY))
    with damaged(file.path):
        content = older.upgraded(content)
    if content["solver"] not in _SOLVERS:
        raise CheckpointError(f"{file.path} holds a run of {name!r}, which this version does not know")
    solver, changeable = _SOLVERS[content["solver"]]
    if wrong := [key for key in options if key not in (*changeable, *_FOLLOWING)]:
        there = ", ".join((*changeable, *_FOLLOWING))
        raise ValueError(f"a run of {name!r} that is resumed takes {there}, got {wrong[0]}")
    if options.get("iterations") is not None and content["settings"].get("restarts"):
        raise ValueError("iterations of a run with restarts cannot be changed: its first starts are finished")
    store = run_state.Store(file, every, content)
    start = _operator_start(store, options) if name == "operator" else _start(store)
    with store.reading():
        settings = stationary.from_settings(dict(content["settings"]))
        longer = {key: value for key, value in options.items() if key == "iterations"}  # for the next resumption
        store.content = content | {"settings": content["settings"] | longer}
    try:
        return solver(problem, *start, **settings | options, checkpoint=store)
    except (ArithmeticError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        if store.begun or isinstance(error, CheckpointError) or set(options) - {"callback", "callbacks"}:
            raise  # about the work, or about an argument
        raise CheckpointError(f"{file} cannot be resumed: {one_line(error)}") from error


def _start(store: run_state.Store) -> list[Any]:
    """Arguments of the run at its start, except its problem."""
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
