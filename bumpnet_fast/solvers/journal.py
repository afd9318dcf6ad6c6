"""Many solves as one run: finished solves are stored and never computed again.

Such a run needs no state of its own between its solves.  A resumed run begins again, and every finished solve
returns at once what it returned the first time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..nets.adapt import put_rows
from ..nets.bumpnet import BumpNet
from ..nets.events import Event
from ..problems.base import Problem
from . import run_state
from .loop import StopReason
from .solution import Solution

#: Fields of a solution that neither the caller nor the net's rows provide.
_FOUND = ("boundary", "history", "loss", "rel_l2", "max_error", "seconds", "processor_seconds", "iterations", "stop",
          "method", "unknowns", "warnings")  # fmt: skip


class Journal:
    """The solves of a run, in order.

    Parameters
    ----------
    solve : callable
        :func:`bumpnet_fast.solvers.solve`.
    store : run_state.Store
        The file of the run.
    start : float
        ``time.perf_counter()`` when the run began.
    unfinished : sequence of StopReason
        A solve that ended for one of these reasons continues when the run is resumed.

    Attributes
    ----------
    ended : float
        Seconds of the run when the last solve ended.
    processor_seconds : float
        Processor time of all solves, all sessions together.
    """

    def __init__(
        self,
        solve: Callable[..., Solution],
        store: run_state.Store,
        start: float,
        unfinished: Sequence[StopReason] = (StopReason.INTERRUPTED,),
    ):
        self.store, self.done, self.at, self.ended = store, [], 0, 0.0
        self._solve = solve
        self.unfinished, self.processor_seconds = tuple(unfinished), 0.0
        self._now: dict[str, Any] | None = None
        self._start = start
        with store.reading() as state:
            if state is not None:
                self.done, self._now = list(state["done"]), state["now"]
                self._start -= float(state["seconds"])

    def seconds(self) -> float:
        """Seconds of the run so far, all sessions together."""
        return time.perf_counter() - self._start

    def solve(self, problem: Problem, net: BumpNet, **options: Any) -> Solution:
        """As :func:`bumpnet_fast.solvers.solve`; no other solve may follow an unfinished one."""
        if self.at < len(self.done):
            solution = self._again(problem, net)
        else:
            solution = self._solve(problem, net, checkpoint=_Part(self, self._now), **options)
            solution.places = None  # as of a finished solve: what is said of the result must not depend on a resumption
            self._now, self.ended = None, self.seconds()
            self.processor_seconds += solution.processor_seconds
            if solution.stop in self.unfinished:
                return solution
            if self.store.on:
                self.done.append(self._entry(solution))
                self.keep(lambda: None)
        self.at += 1
        return solution

    def keep(self, make: Callable[[], Any]) -> None:
        """Keep the state of the current solve, or None between two solves."""
        done = tuple(self.done)
        self.store.keep(lambda: {"done": list(done), "now": make(), "seconds": self.seconds()})

    def _entry(self, solution: Solution) -> dict[str, Any]:
        net = solution.net
        random = run_state.random_state(net.rows.device)
        entry = {"rows": net.rows.detach().cpu().clone(), "ended": self.ended, "random": random}
        entry["trainable"] = net.trainable.cpu().clone()
        entry["events"] = [vars(event) for event in solution.events]
        return entry | {name: getattr(solution, name) for name in _FOUND}

    def _again(self, problem: Problem, net: BumpNet) -> Solution:
        with self.store.reading(), torch.no_grad():
            entry = self.done[self.at]
            put_rows(net, entry["rows"], entry.get("trainable"))  # bumps may have been removed
            run_state.set_random_state(entry["random"], net.rows.device)
            self.ended = float(entry["ended"])
            self.processor_seconds += float(entry["processor_seconds"])
            events = [Event(**event) for event in entry.get("events", [])]
            return Solution(net=net, problem=problem, events=events, **{name: entry[name] for name in _FOUND})


class _Part(run_state.Store):
    """Store of one solve within a journal."""

    def __init__(self, journal: Journal, state: dict[str, Any] | None):
        super().__init__(journal.store.path, content={"state": state})
        self.journal = journal

    def __enter__(self) -> _Part:
        return self

    def __exit__(self, *_) -> None:
        """The store of the journal writes."""

    def keep(self, make: Callable[[], dict[str, Any]]) -> None:
        self.journal.keep(make)

    def forget(self) -> None:
        self.journal.store.forget()

    def settle(self) -> None:
        self.journal.store.settle()

    def flush(self) -> None:
        """The store of the journal writes, but the method is about to leave the state that was kept."""
        self.journal.store.settle()


__all__ = ["Journal"]
