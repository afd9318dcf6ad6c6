"""To a stated error: the best of a solution over smooth bases, a trained net, and that net enriched."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from .arguments import positive
from .linear import Linear
from .loop import Stop, StopReason
from .refine import held_out_loss
from .solution import Solution

#: Points at which solutions are compared.
_COMPARED = 2048


def is_linear(method: Any) -> bool:
    """Whether a method is the one that solves over smooth bases."""
    return isinstance(method, Linear) or method == Linear.name


def trained_as_well(
    solve: Callable[..., Solution], solution: Solution, error: float, limits: Stop, about: dict[str, Any]
) -> Solution:
    """The best of a solution over smooth bases that do not reach an error, a trained net, and that net enriched.

    ``solve`` is :func:`~bumpnet_fast.solvers.solve`, and ``about`` its arguments for the training.
    """
    before, left = solution, None
    if limits.seconds is not None:
        left = limits.seconds - before.seconds
        if left <= 0:
            return before
    trained = solve(before.problem, max_seconds=left, **about)
    candidates = [before, trained]
    if trained.places is not None and trained.stop not in (StopReason.INTERRUPTED, StopReason.DIVERGED):
        candidates.append(trained.enrich(seed=about["seed"]))
    best = min(candidates, key=_worth)
    estimate = best.error_estimate
    against = trained.error_estimate
    if against.incompatible and not estimate.reliable:  # which only the estimate of a trained net finds out
        estimate = dataclasses.replace(estimate, reason=against.reason, incompatible=against.incompatible)
    reached = estimate.reliable and max(estimate.rel_l2) <= error
    stop = trained.stop if trained.stop is StopReason.INTERRUPTED else StopReason.NOT_REACHED
    history = [*before.history, *({**e, "iteration": e["iteration"] + before.iterations} for e in trained.history)]
    spent = [sum(getattr(s, name) for s in (before, candidates[-1])) for name in ("seconds", "processor_seconds")]
    found = dataclasses.replace(
        best, history=history, iterations=before.iterations + trained.iterations, seconds=spent[0],
        processor_seconds=spent[1], stop=StopReason.REACHED if reached else stop,
    )  # fmt: skip
    found.error_estimate = estimate
    return found


def if_alone(solution: Solution) -> Solution:
    """A solution that reached an error; it is not called that if the equation has another solution."""
    estimate = solution.error_estimate
    if not estimate.reliable:
        solution.stop = StopReason.NOT_REACHED
        solution.warnings.append(f"this may not be the solution that is meant: {estimate.reason}")
    return solution


def _worth(solution: Solution) -> tuple[bool, float]:
    """What tells which solution is the best: a reliable estimate, or else the residual between the points."""
    estimate = solution.error_estimate
    if estimate.reliable:
        return False, max(estimate.rel_l2)
    about = solution.problem, solution.net, solution.boundary, solution.unknowns
    return True, held_out_loss(*about, _COMPARED, 0)


def check_frozen(error: float | None, given: dict[str, Any]) -> None:
    """Raise ValueError for arguments of :func:`solve` that a solve over smooth bases cannot follow."""
    what = f"method={Linear.name!r}" if error is None else "error"
    if error is not None:
        positive().check("error", error)
        if given["method"] != "auto" and not is_linear(given["method"]):
            raise ValueError(f"method must be left out, as error chooses it, got {given['method']!r}")
        if given["net"] is not None:
            raise ValueError(f"net must be left out, as error chooses the bumps, got {given['net']!r}")
    usual = {"points": None, "sampling": "grid", "refine": None, "restarts": 0, "checkpoint": None}
    for name, value in usual.items():
        if type(given[name]) is not type(value) or given[name] != value:
            raise ValueError(f"{name} must be left out, as {what} chooses its points itself and is not trained")


__all__ = ["check_frozen", "if_alone", "is_linear", "trained_as_well"]
