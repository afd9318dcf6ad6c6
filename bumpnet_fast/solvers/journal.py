"""Many solves as one run: what is finished is written down, and never computed again.

A run that consists of solves, and of little work between them, needs no state of its own: it is
begun again, and every finished solve gives at once what it gave the first time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from ..nets.bumpnet import BumpNet
from ..problems.base import Problem
from . import run_state
from .loop import StopReason
from .solution import Solution
from .stationary import solve

#: What of a solution is neither given by the caller nor the net's rows.
_FOUND = ("boundary", "history", "loss", "rel_l2", "max_error", "seconds", "processor_seconds", "iterations", "stop",
          "method", "unknowns", "warnings")  # fmt: skip


class Journal:
    """The solves of a run, in their order.

    Attributes
    ----------
    ended : float
        Seconds of the run at the end of the last solve.
    """

    def __init__(self, store: run_state.Store, start: float):
        self.store, self.done, self.at, self.ended = store, [], 0, 0.0
        self._now: dict[str, Any] | None = None
        self._start = start
        with store.reading() as state:
            if state is not None:
                self.done, self._now = list(state["done"]), state["now"]
                self._start -= float(state["seconds"])

    def seconds(self) -> float:
        """Of the run so far, all its sessions together."""
        return time.perf_counter() - self._start

    def solve(self, problem: Problem, net: BumpNet, **options: Any) -> Solution:
        """As :func:`bumpnet_fast.solvers.solve`; after one that was interrupted there must be no other."""
        if self.at < len(self.done):
            solution = self._again(problem, net)
        else:
            solution = solve(problem, net, checkpoint=_Part(self, self._now), **options)
            self._now, self.ended = None, self.seconds()
            if solution.stop is StopReason.INTERRUPTED:
                return solution
            if self.store.on:
                self.done.append(self._entry(solution))
                self.keep(lambda: None)
        self.at += 1
        return solution

    def keep(self, make: Callable[[], Any]) -> None:
        """Keep the state of the solve in work, or None between two of them."""
        done = tuple(self.done)
        self.store.keep(lambda: {"done": list(done), "now": make(), "seconds": self.seconds()})

    def _entry(self, solution: Solution) -> dict[str, Any]:
        net = solution.net
        random = run_state.random_state(net.rows.device)
        entry = {"rows": net.rows.detach().cpu().clone(), "ended": self.ended, "random": random}
        return entry | {name: getattr(solution, name) for name in _FOUND}

    def _again(self, problem: Problem, net: BumpNet) -> Solution:
        with self.store.reading(), torch.no_grad():
            entry = self.done[self.at]
            net.rows.copy_(entry["rows"])
            run_state.set_random_state(entry["random"], net.rows.device)
            self.ended = float(entry["ended"])
            return Solution(net=net, problem=problem, **{name: entry[name] for name in _FOUND})


class _Part(run_state.Store):
    """What one solve of a journal takes for its store."""

    def __init__(self, journal: Journal, state: dict[str, Any] | None):
        super().__init__(journal.store.path, content={"state": state})
        self.journal = journal

    def __enter__(self) -> _Part:
        return self

    def __exit__(self, *_) -> None:
        """The store of the journal writes."""

    def keep(self, make: Callable[[], dict[str, Any]]) -> None:
        self.journal.keep(make)


__all__ = ["Journal"]
