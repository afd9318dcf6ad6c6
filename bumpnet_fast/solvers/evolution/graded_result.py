"""The result of an evolution to a stated error: an :class:`Evolution` whose bumps change from stretch to stretch."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..solution import as_points
from .estimate import EvolutionEstimate
from .graded import axis_of, basis_of, centre_columns
from .integrators import within_step
from .result import Evolution


@dataclass(frozen=True)
class Bumps:
    """The bumps of a stretch of time, and u in each of its steps.

    Attributes
    ----------
    rows : Tensor
        [M, columns], where they are at the first time.
    speed : float
        At which all of them move, along a periodic axis.
    times : Tensor
        [n + 1], the ends of the steps.
    amplitudes : Tensor
        [n + 1, M, K], at these times.
    within : Tensor
        [n, 3, M, K], what gives the amplitudes within each step.
    """

    rows: Tensor
    speed: float
    times: Tensor
    amplitudes: Tensor
    within: Tensor

    def amplitudes_at(self, t: float) -> Tensor:
        """[M, K], at a time of the stretch."""
        times = self.times.tolist()
        i = min(max(bisect_right(times, t) - 1, 0), len(self.within) - 1)
        if i < 0 or t == times[i]:
            return self.amplitudes[max(i, 0)]
        share = (t - times[i]) / (times[i + 1] - times[i])
        return within_step(self.amplitudes[i], self.amplitudes[i + 1], self.within[i], share)

    def check(self, columns: int, outputs: int) -> None:
        """Raise ValueError unless the parts fit together."""
        n, m = len(self.within), len(self.rows)
        shapes = {
            "rows": (m, columns), "times": (n + 1,), "amplitudes": (n + 1, m, outputs), "within": (n, 3, m, outputs),
        }  # fmt: skip
        for name, shape in shapes.items():
            found = getattr(self, name)
            if found.dtype != torch.float64 or found.shape != shape or not bool(torch.isfinite(found).all()):
                wanted = f"finite, float64, of shape {list(shape)}"
                raise ValueError(f"the {name} of its bumps must be {wanted}, got {found.dtype} {tuple(found.shape)}")
        if not m or not bool((self.times[1:] > self.times[:-1]).all()):
            raise ValueError("the times of its bumps must ascend")


@dataclass(kw_only=True)
class GradedEvolution(Evolution):
    """An evolution to a stated error, from ``evolve(problem, error=...)``.

    It is used like every :class:`Evolution`.  Its bumps are other ones in every stretch of time: ``at(t)`` gives those
    of a time.  Where a time has fewer bumps than another, the last of ``states`` have amplitudes of 0.

    Attributes
    ----------
    error : float
        What was asked for: the largest relative L2 error over time.
    stretches : list of Bumps
        The bumps from stretch to stretch of time.
    levels : list of dict
        What was solved: ``bumps``, ``steps``, ``seconds`` of the processor, and ``change``, the largest relative
        difference to the next level.
    """

    error: float
    stretches: list[Bumps] = field(repr=False)
    estimate: EvolutionEstimate = field(repr=False)
    levels: list[dict[str, Any]] = field(repr=False, default_factory=list)

    @property
    def error_estimate(self) -> EvolutionEstimate:
        """The change of u to a finer level, at the ends of its steps."""
        return self.estimate

    def estimate_error(self) -> EvolutionEstimate:
        """As :attr:`error_estimate`: the finer level is not solved again."""
        return self.estimate

    def _stretch(self, t: float) -> tuple[Bumps, float]:
        t = self.within(t)
        i = bisect_right([float(one.times[0]) for one in self.stretches], t) - 1
        return self.stretches[max(i, 0)], t

    def _rows(self, t: float) -> Tensor:
        bumps, t = self._stretch(t)
        rows, layout = bumps.rows.clone(), self.net.layout
        rows[:, layout.amplitude] = bumps.amplitudes_at(t)
        if bumps.speed:
            axis, (lo, hi) = axis_of(self.problem), self.space.frame[:2, 0]
            centres = lo + (hi - lo) * 0.5 * (1 + torch.tanh(rows[:, 0]))
            centres = torch.from_numpy(axis.wrapped((centres + bumps.speed * (t - bumps.times[0])).numpy()))
            rows[:, layout.centre] = centre_columns(centres, self.space.frame)[:, None]
        return rows

    def on(self, x: Any) -> Callable[[float], Tensor]:
        """u [N, K] at fixed points ``x`` [N, d] as a function of time; bumps that stay are evaluated there once."""
        points, dtype = as_points(x, self.states, len(self.problem.lower))
        axis, known = axis_of(self.problem), {}
        with torch.no_grad():
            lift = self.space.lift(points, "value").value

        @torch.no_grad()
        def u(t: float) -> Tensor:
            bumps, t = self._stretch(t)
            basis = known.get(id(bumps))
            if basis is None:
                moved = bumps.speed * (t - float(bumps.times[0]))
                basis = basis_of(self.space, axis, bumps.rows, points[:, 0], moved)
                if not bumps.speed:
                    known.clear()  # times mostly ascend
                    known[id(bumps)] = basis
            return (basis @ bumps.amplitudes_at(t) + lift).to(dtype)

        return u


__all__ = ["Bumps", "GradedEvolution"]
