"""An evolution as a method of the run loop, and the choice of the integrator."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..loop import Ended, Method, StopReason
from .integrators import (
    SCIPY,
    CrankNicolson,
    Exponential,
    ExponentialRungeKutta4,
    Marcher,
    RungeKutta4,
    ScipyMarcher,
    StepTooSmall,
    TorchdiffeqMarcher,
)
from .models import FixedBasis, MovingBasis
from .task import Evolving

METHODS = ("auto", "expm", "cn", "rk4", "etdrk4", *SCIPY)
#: Methods for moving shapes, beside those of torchdiffeq.
METHODS_MOVING = ("auto", "rk4")

#: Explicit steps are stable while step times spectral radius is below this (real axis: 2.78, imaginary: 2.83).
RK4_STABLE = 2.7
#: With up to this many steps for stability alone, explicit methods are cheapest.
_STEPS_CHEAP = 400
#: A stiff linear part is integrated exactly if the rest is this much less stiff, or not stiff.
_REST = 0.3
#: Times at which rhs is looked at for changes; from one to the next, a larger share of its range is an abrupt change.
_LOOKS, _ABRUPT = 200, 0.15
#: Factor by which a solution may exceed the growth that its problem allows.
_MARGIN = 1.5
#: Reason given where a solution is not finite or too large.
_LEFT = "the solution is not finite, or larger than its problem allows"


class Advance(Method):
    """A method whose step ends at the next output time.

    Parameters
    ----------
    method, step, tolerance
        As for :func:`~bumpnet_fast.solvers.evolve`.
    iterations : int
        Number of output times after 0.

    Attributes
    ----------
    marcher
        Integrator that advances the state from time to time.
    setup_seconds, seconds : float
        Time before the first step, and time in the steps; all sessions together.
    """

    steady: ClassVar[bool] = True
    measure_every: ClassVar[int] = 1

    def __init__(self, method: str, step: float | None, tolerance: float, iterations: int):
        self.chosen, self.longest, self.tolerance, self.iterations = method, step, tolerance, iterations
        self.name, self.seconds = method, 0.0

    @torch.no_grad()
    def start(self, work: Evolving, iterations: int) -> None:
        model, self.work = work.model, work
        self.marcher, self.name = marcher(model, self.chosen, self.longest, self.tolerance, work.ends[-1])
        self.bound = _MARGIN * model.problem.growth * model.size if model.size > 0 else math.inf
        self.setup_seconds = time.perf_counter() - work.started

    @torch.no_grad()
    def step(self, most: int) -> int:
        work = self.work
        t, until = work.times[-1], work.ends[len(work.times) - 1]
        self._began = time.perf_counter()
        try:
            y = self.marcher.advance(t, work.y, until, self._watch)
        except StepTooSmall as error:
            raise self._unstable(t, "no step is small enough to go on") from error
        finally:
            self.seconds += time.perf_counter() - self._began
        report = work.model.report(until, y)
        if not report.is_finite():
            raise self._unstable(until, _LEFT)
        work.reach(until, y, report)
        return 1

    def _watch(self, t: float, y: Tensor) -> None:
        if time.perf_counter() > self.deadline:
            raise Ended(StopReason.TIME)
        if not self.work.model.norm(y) <= self.bound:  # true for a NaN, too
            raise self._unstable(t, _LEFT)

    def _unstable(self, t: float, what: str) -> Ended:
        model = self.work.model
        advice = "more bumps or points, a smaller tolerance or another method may help"
        if self.name == "rk4" and self.longest and isinstance(model, FixedBasis):
            radius = spectral_radius(model.jacobian(0.0, model.state))
            if self.longest * radius > RK4_STABLE:
                advice = f"steps of 'rk4' can be {RK4_STABLE / radius:.2g} at most, or leave step out"
        advice += f"; if u does grow by more than {model.problem.growth:g}, set growth of the problem"
        return Ended(StopReason.UNSTABLE, f"unstable at t = {t:.4g}: {what}; {advice}")

    def loss(self) -> float:
        return self.work.reports[-1].relative

    def over(self, history: Sequence[dict[str, Any]]) -> StopReason | None:
        return StopReason.FINISHED if len(self.work.times) > len(self.work.ends) else None

    def notes(self) -> dict[str, Any]:
        return {"steps": self.marcher.steps}

    def state_dict(self) -> dict[str, Any]:
        return {
            "marcher": self.marcher.state_dict(),
            "stages": self.work.model.stages,
            "setup_seconds": self.setup_seconds,
            "seconds": self.seconds,
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        work = self.work
        self.marcher.load_state_dict(state["marcher"], work.times[-1], work.y, work.same)
        work.model.stages = int(state["stages"])
        self.setup_seconds, self.seconds = float(state["setup_seconds"]), float(state["seconds"])


def check_method(method: str, moving: bool, step: float | None) -> None:
    """Raise ValueError or ModuleNotFoundError for a method that is not there, or does not move shapes."""
    if not isinstance(method, str):
        raise ValueError(f"method must be one of {', '.join(METHODS)}, or of torchdiffeq, got {method!r}")
    if method not in METHODS:
        TorchdiffeqMarcher(method, lambda t, y: y, 1.0, step)
    elif moving and method not in METHODS_MOVING:
        raise ValueError(f"method {method!r} needs frozen shapes; shapes='evolve' takes 'rk4' or torchdiffeq's")


# --- the choice ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Linearity:
    """How the right-hand side over a fixed basis depends on u and t.

    ``constant``: the derivative by u does not depend on t, at u = 0 at least; ``steady``: neither does rhs at u = 0.
    """

    linear: bool
    constant: bool
    steady: bool
    at_zero: Any

    @classmethod
    def of(cls, model: FixedBasis, final: float, over_time: OverTime) -> Linearity:
        zero = model.random_jet(0) * 0.0
        at_zero = model.linearise(0.0, zero)
        later = [model.linearise(t, zero) for t in (0.371 * final, final, over_time.other or final)]
        linear = model.problem.linear
        if linear is None:
            linear = all(_same(at_zero[1], model.linearise(0.0, model.random_jet(i))[1]) for i in (1, 2))
        constant = all(_same(at_zero[1], other[1]) for other in later)
        steady = all(torch.allclose(at_zero[0], other[0], 1e-9, 0.0) for other in later)
        return cls(linear, constant, steady, at_zero)


@dataclass(frozen=True)
class OverTime:
    """How the right-hand side of a given u depends on t.

    Attributes
    ----------
    other : float or None
        A time at which it is not what it is at the start; None if it never changes.
    longest : float or None
        Longest step that does not miss a change: a pulse that begins and ends within one step leaves no trace in its
        error.  None if all changes are slow.
    """

    other: float | None
    longest: float | None

    @classmethod
    def of(cls, rate: Callable[[float], Tensor], final: float) -> OverTime:
        """That of ``rate``, a function of t alone."""
        times = [final * (i + 0.5) / _LOOKS for i in range(_LOOKS)]
        start, least, most = rate(0.0), None, None
        before, other, fastest = start, None, start.new_zeros(())
        for t in times:
            now = rate(t)
            if other is None and not torch.allclose(now, start, 1e-9, 1e-9 * float(start.abs().max())):
                other = t
            fastest = torch.maximum(fastest, (now - before).abs().amax())
            least, most = (now, now) if least is None else (torch.minimum(least, now), torch.maximum(most, now))
            before = now
        abrupt = other is not None and float(fastest) > _ABRUPT * float((most - least).amax())
        return cls(other, final / _LOOKS if abrupt else None)


def _same(a: Any, b: Any) -> bool:
    pairs = zip(_flat(a), _flat(b), strict=True)
    return all((p is None) == (q is None) and (p is None or torch.allclose(p, q, 1e-9, 0.0)) for p, q in pairs)


def _flat(coefficients: Any) -> list[Tensor | None]:
    return [c for by_output in coefficients for cs in by_output for c in cs]


def marcher(model: FixedBasis | MovingBasis, method: str, step: float | None, tolerance: float, final: float):
    """The integrator of a model, and the name of the chosen method.

    Raises
    ------
    ValueError
        If the method cannot solve the problem.
    """
    size = tolerance * (model.size or 1.0)
    if method not in METHODS:
        return TorchdiffeqMarcher(method, model.slope, size, step), method
    common = {"step": step, "tolerance": size, "distance": model.distance, "settle": model.settle}
    if isinstance(model, MovingBasis):
        return Marcher(RungeKutta4(model.slope), final, **common), "rk4"
    jet, over_time = model.random_jet(0), OverTime(None, None)
    if method in ("auto", "expm", "cn", *SCIPY):
        over_time = OverTime.of(lambda t: model.rhs(t, jet), final)
    facts = Linearity.of(model, final, over_time)
    _check_serves(model, method, facts)
    if method == "auto":
        method = _choice(model, facts, final, step)
    if method in SCIPY:
        longest = over_time.longest if step is None else step
        return ScipyMarcher(method, model.slope, model.jacobian, final, tolerance, model.size or 1.0, longest), method
    one_step, radius = _one_step(model, method, facts)
    return Marcher(one_step, final, first=1 / radius if radius > 0 else math.inf, **common), method


def _check_serves(model: FixedBasis, method: str, facts: Linearity) -> None:
    name = model.problem.name
    if method in ("expm", "cn") and not facts.linear:
        raise ValueError(f"problem {name!r} is nonlinear in u, which {method!r} cannot do; use 'rk4' or 'etdrk4'")
    if method in ("expm", "cn") and not facts.constant:
        raise ValueError(f"the operator of problem {name!r} depends on t, which {method!r} cannot do; use 'radau'")
    if method == "expm" and not facts.steady:
        raise ValueError(f"the source of problem {name!r} depends on t, which 'expm' cannot do; use 'etdrk4' or 'cn'")


def spectral_radius(A: Tensor) -> float:
    return float(torch.linalg.eigvals(A).abs().max()) if bool(torch.isfinite(A).all()) else math.inf


def _stiff_operator(model: FixedBasis, facts: Linearity) -> Tensor:
    zero = model.random_jet(0) * 0.0
    if model.problem.stiff_part(model.x, zero) is None:
        return model.operator(facts.at_zero[1])
    return model.operator(model.linearise(0.0, zero, model.problem.stiff_part)[1])


def _choice(model: FixedBasis, facts: Linearity, final: float, step: float | None) -> str:
    if facts.linear and facts.constant and facts.steady:
        return "expm"
    J = model.jacobian(0.0, model.state)
    whole = spectral_radius(J)
    if whole * final <= RK4_STABLE * _STEPS_CHEAP:
        return "dop853" if step is None else "rk4"
    rest = spectral_radius(J - _stiff_operator(model, facts))
    return "etdrk4" if rest <= _REST * whole or rest * final <= RK4_STABLE * _STEPS_CHEAP else "radau"


def _one_step(model: FixedBasis, method: str, facts: Linearity) -> tuple[Any, float]:
    """The method, and the largest rate that its first step must resolve; 0 for none."""
    if method == "rk4":
        return RungeKutta4(model.slope), spectral_radius(model.jacobian(0.0, model.state))
    if method == "etdrk4":
        A = _stiff_operator(model, facts)
        return ExponentialRungeKutta4(A, model.slope), spectral_radius(model.jacobian(0.0, model.state) - A)
    A, zero = model.operator(facts.at_zero[1]), torch.zeros_like(model.state)
    if method == "expm":
        return Exponential(A, model.slope(0.0, zero)), 0.0
    return CrankNicolson(A, lambda t: model.slope(t, zero)), 0.0


__all__ = ["METHODS", "RK4_STABLE", "Advance", "Linearity", "OverTime", "check_method", "marcher", "spectral_radius"]
