"""An evolution as the work of a run: states at the output times, and their reports."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...nets.bumpnet import BumpNet
from ...problems.sampling import lattice
from ..loop import Work
from ..solution import errors
from .models import FixedBasis, MovingBasis, Report

#: Points of the lattice for the error during the run.
_FEW = 1024
#: How often the pseudo-inverse is timed; the fastest counts.
_TIMED = 50


class Evolving(Work):
    """A model that is advanced from one output time to the next.

    Parameters
    ----------
    model : FixedBasis or MovingBasis
        The moving quantities.
    net : BumpNet
        The bumps at the start.
    ends : sequence of float
        Output times after 0.
    started : float
        ``time.perf_counter()`` when the run began.

    Attributes
    ----------
    y : Tensor
        State at the last output time reached.
    times : list of float
        Output times reached, 0 first.
    reports : list of Report
        Reports of the states there.
    solve_seconds : float
        Time of one solve for the rates.
    same : bool
        Whether y has the coordinates in which it was stored.
    """

    def __init__(self, model: FixedBasis | MovingBasis, net: BumpNet, ends: Sequence[float], started: float):
        self.model, self.net, self.ends, self.started = model, net, tuple(ends), started
        self.problem, self.device = model.problem, model.x.device
        self.name = f"u_t of problem {self.problem.name!r}"
        self.y, self.times, self.reports = model.state, [0.0], [model.report(0.0, model.state)]
        self.solve_seconds, self.same = self._time_a_solve(), True
        self._few, self._few_basis = lattice(self.problem.domain, _FEW).to(model.x), None

    def _time_a_solve(self) -> float:
        values = torch.ones(len(self.model.x), self.model.layout.outputs).to(self.model.x)
        seconds = []
        for _ in range(_TIMED if isinstance(self.model, FixedBasis) else 1):
            start = time.perf_counter()
            self.model.solve(values)
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    def reach(self, t: float, y: Tensor, report: Report) -> None:
        """Store the state at the next output time."""
        self.y = y
        self.times.append(t)
        self.reports.append(report)

    # --- as the work of a run ------------------------------------------------------------------

    def snapshot(self) -> dict[str, Tensor]:
        return {}

    def measure(self, now: dict[str, Tensor] | None) -> float | None:
        exact = self.problem.exact(self._few, self.times[-1])
        return None if exact is None else errors(self._few_values(self.reports[-1].rows), exact)[0]

    def _few_values(self, rows: Tensor) -> Tensor:
        """u [n, K] on the lattice for the error; a fixed basis is evaluated there once."""
        space, layout = self.model.space, self.model.layout
        if not isinstance(self.model, FixedBasis):
            return space.jet(self._few, rows, "value").value
        if self._few_basis is None:
            self._few_basis = space.basis(self._few, rows, "value").value, space.lift(self._few, "value").value
        return self._few_basis[0] @ rows[:, layout.amplitude] + self._few_basis[1]

    def notes(self, now: dict[str, Tensor] | None) -> dict[str, Any]:
        report = self.reports[-1]
        return {
            "time": self.times[-1],
            "final_time": self.ends[-1],
            "norm": report.norm,
            "residual": report.relative,
        }

    @torch.no_grad()
    def net_at(self, now: dict[str, Tensor] | None) -> BumpNet:
        rows, frame = self.reports[-1].rows, self.model.space.frame
        return BumpNet.from_rows(rows.to(self.net.rows), frame.to(self.net.rows), self.net.domain, self.net.tied)

    def share(self, done: int, most: int) -> float | None:
        return self.times[-1] / self.ends[min(most, len(self.ends)) - 1] if most else None

    def state_dict(self) -> dict[str, Any]:
        return {
            "rows": self.model.start_rows,
            "y": self.y,
            "times": list(self.times),
            "reports": [vars(report) for report in self.reports],
            "solve_seconds": self.solve_seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        like = self.model.state
        tensors = ("rows", "rates")
        self.times = [float(t) for t in state["times"]]
        self.reports = [Report(**r | {name: r[name].to(like) for name in tensors}) for r in state["reports"]]
        shapes = {tuple(part.shape) for r in self.reports for part in (r.rows, r.rates)}
        if len(self.times) != len(self.reports) or shapes != {tuple(self.model.start_rows.shape)}:
            raise ValueError("times and states do not fit together")
        self.y, self.same = self.model.recalled(state["y"].to(like), self.reports[-1].rows)
        self.solve_seconds = float(state["solve_seconds"])


__all__ = ["Evolving"]
