"""Results of evolutions: states over time, and u at any point and any time between them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...core.jet import Jet
from ...core.rows import bounded_atanh
from ...nets.bumpnet import BumpNet
from ..estimate import estimate_seconds
from ..solution import Result, as_points
from .basis import Space
from .estimate import EvolutionEstimate, estimated
from .report import EvolutionReport

if TYPE_CHECKING:
    from ...problems.evolution.base import EvolutionProblem


#: A time within this many units in the last place of an end counts as that end.
ROUNDING = 4


@dataclass(kw_only=True)
class Evolution(Result):
    """An evolution, up to the last time reached.

    Attributes
    ----------
    net, problem
        The bumps at the start, and the solved problem.
    times : Tensor
        [T], output times, 0 first.
    states, rates : Tensor
        [T, M, columns], float64: the rows of all bumps, and their derivatives by t.
    history : list of dict
        One entry per output time: ``time`` and ``final_time``; ``seconds`` since the run began; ``norm``, the root mean
        square of u; ``residual``, the part of u_t that the bumps miss, relative to u_t, an indicator of the error;
        ``rel_l2`` where an exact solution is known; ``steps`` so far.  As in every solver, ``iteration`` is the number
        of the time, and ``loss`` is the residual again.
    fit_error : float
        Relative misfit of the initial values.
    rel_l2, max_error : float or None
        Errors at the last time, on a regular grid over the domain, against the problem's reference.
    setup_seconds : float
        Time before the first step: to fit the initial values, factorise the basis, and choose an integrator.
    seconds : float
        Time in the steps, by the clock, without the setup and the work at output times.  All sessions of a resumed run
        together.
    steps, stages : int
        Number of steps, and of evaluations of the right-hand side.
    solve_seconds : float
        Time of one solve for the rates: one stage without its right-hand side.
    method, shapes : str
        The integrator, and whether the shapes were fixed ("frozen") or moving ("evolve").
    stop, processor_seconds, warnings
        As of every :class:`~bumpnet_fast.solvers.solution.Result`.
    """

    net: BumpNet
    problem: EvolutionProblem
    times: Tensor
    states: Tensor = field(repr=False)
    rates: Tensor = field(repr=False)
    space: Space = field(repr=False)
    fit_error: float
    rel_l2: float | None = None
    max_error: float | None = None
    setup_seconds: float
    steps: int
    stages: int
    solve_seconds: float
    method: str
    shapes: str

    # --- how good it is --------------------------------------------------------------------------

    @property
    def error_estimate(self) -> EvolutionEstimate:
        """How large the error of u is at the last time, without an exact solution: see docs/trust.md.

        It is computed when it is first asked for, and kept.  That takes about 0.2 s of the processor at most, or a
        fifth of what the evolution took.
        """
        if "_error_estimate" not in vars(self):
            self._error_estimate = estimated(self, estimate_seconds(self.processor_seconds))
        return self._error_estimate

    def estimate_error(self) -> EvolutionEstimate:
        """As :attr:`error_estimate`, computed anew, however long it takes."""
        return estimated(self)

    def report(self, *, estimate: bool = True) -> EvolutionReport:
        """What is known about the quality of the evolution, as a table: ``print(run.report())``.

        ``estimate`` is whether to estimate the error, which takes a fraction of a second.
        """
        return EvolutionReport.of(self, estimate)

    # --- what it is ------------------------------------------------------------------------------

    @property
    def amplitudes(self) -> Tensor:
        """[T, M, K], float64."""
        return self.states[..., self.net.layout.amplitude]

    def at(self, t: float) -> BumpNet:
        """The net at time ``t``, in the dtype of the start.

        u is this net alone only without periodic axes and boundary values; otherwise use :meth:`predict`.  In float32
        the amplitudes cancel, which limits the accuracy to about 1e-3.

        Raises
        ------
        ValueError
            If ``t`` is not between the first and the last time.
        """
        return BumpNet.from_rows(self._rows(t).to(self.net.rows), self._frame(), self.net.domain, self.net.tied)

    def _frame(self) -> Tensor:
        return self.space.frame.to(self.net.rows)

    def predict(self, x: Any, t: float, *, grad: bool = False) -> Tensor:
        """u [N, K] at points and a time.

        Between output times the amplitudes are interpolated by cubics with their rates.

        Parameters
        ----------
        x : Tensor, array or nested lists
            [N, d].  The result has the dtype of a floating-point ``x``, else float64.  It is computed in float64.
        t : float
            Between the first and the last time.
        grad : bool
            Whether the result can be differentiated by ``x``.
        """
        with torch.set_grad_enabled(grad):
            return self.jet(x, t, "value").value

    def __call__(self, x: Any, t: float) -> Tensor:
        """As :meth:`predict`."""
        return self.predict(x, t)

    def jet(self, x: Any, t: float, want: str = "hessian") -> Jet:
        """u and its derivatives by x at points and a time; ``want`` as for :meth:`bumpnet_fast.BumpNet.jet`."""
        points, dtype = as_points(x, self.states, len(self.problem.lower))
        return self.space.jet(points, self._rows(t), want).map(lambda part: part.to(dtype))

    def on(self, x: Any) -> Callable[[float], Tensor]:
        """u [N, K] at fixed points ``x`` [N, d] as a function of time; a fixed basis is evaluated there once.

        Examples
        --------
        >>> from bumpnet_fast.problems.evolution import Heat
        >>> from bumpnet_fast.solvers import evolve
        >>> run, x = evolve(Heat(), 20), torch.rand(5, 1, dtype=torch.float64)
        >>> u = run.on(x)
        >>> torch.allclose(u(0.1), run.predict(x, 0.1)), torch.allclose(u(0.5), run(x, 0.5))
        (True, True)
        """
        if self.shapes != "frozen":
            return lambda t: self.predict(x, t)
        points, dtype = as_points(x, self.states, len(self.problem.lower))
        with torch.no_grad():
            basis = self.space.basis(points, self.states[0], "value").value
            lift = self.space.lift(points, "value").value
        return lambda t: (basis @ self._rows(t)[:, self.net.layout.amplitude] + lift).to(dtype)

    def within(self, t: Any) -> float:
        """A time as a number; ValueError if it is not one of the evolution."""
        first, last, given = float(self.times[0]), float(self.times[-1]), t
        try:
            t = float(t)
        except (TypeError, ValueError):
            t = math.nan
        slack = ROUNDING * math.ulp(last)
        if not first - slack <= t <= last + slack:
            raise ValueError(f"t must be from {first:g} to {last:g}, got {given!r}")
        return min(max(t, first), last)

    def _rows(self, t: float) -> Tensor:
        t = self.within(t)
        after = int(torch.searchsorted(self.times, torch.tensor(t, dtype=torch.float64)))
        if float(self.times[after]) == t:
            return self.states[after]
        span = float(self.times[after] - self.times[after - 1])
        ends = [(self.states[i], self.rates[i]) for i in (after - 1, after)]
        return interpolate(self.space, *ends[0], *ends[1], span, (t - float(self.times[after - 1])) / span)


def interpolate(space: Space, a: Tensor, da: Tensor, b: Tensor, db: Tensor, span: float, s: float) -> Tensor:
    """Rows [M, columns] at the fraction ``s`` from ``a`` to ``b``, by cubics.  Centres take the shorter way."""
    layout = space.layout(a)
    lo, hi = space.frame[:2]
    half, middle = 0.5 * (hi - lo), 0.5 * (hi + lo)

    def plain(rows: Tensor, rates: Tensor) -> tuple[Tensor, Tensor]:
        rows, rates = rows.clone(), rates.clone()
        unit = torch.tanh(rows[:, layout.centre])
        rates[:, layout.centre] *= half * (1 - unit**2)
        rows[:, layout.centre] = middle + half * unit
        return rows, rates

    (a, da), (b, db) = plain(a, da), plain(b, db)
    width = (space.problem.domain[1] - space.problem.domain[0]).to(a)
    for j in space.problem.periodic_axes:
        b[:, j] -= width[j] * torch.round((b[:, j] - a[:, j]) / width[j])
    r = 1 - s
    rows = r * r * (1 + 2 * s) * a + s * s * (1 + 2 * r) * b + span * s * r * (r * da - s * db)
    rows[:, layout.centre] = bounded_atanh((rows[:, layout.centre] - middle) / half)  # a cubic may overshoot
    return rows


__all__ = ["Evolution", "interpolate"]
