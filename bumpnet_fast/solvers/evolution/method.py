"""Which integrator serves which evolution."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .integrators import (
    SCIPY,
    CrankNicolson,
    Exponential,
    ExponentialRungeKutta4,
    Marcher,
    RungeKutta4,
    ScipyMarcher,
    TorchdiffeqMarcher,
)
from .models import Frozen, Moving

METHODS = ("auto", "expm", "cn", "rk4", "etdrk4", *SCIPY)

#: Explicit steps are stable while step times spectral radius is below this (2.78 on the real axis, 2.83 on the other).
RK4_STABLE = 2.7
#: Up to so many steps for stability alone, explicit ones are the cheapest.
_STEPS_CHEAP = 400
#: A stiff linear part is worth treating exactly if what remains is so much less stiff, or not stiff.
_REST = 0.3


@dataclass(frozen=True)
class Linearity:
    """How a frozen model's right-hand side depends on u and t.

    ``constant``: the derivative by u does not depend on t, at u = 0 at least; ``steady``: neither does rhs at u = 0.
    """

    linear: bool
    constant: bool
    steady: bool
    at_zero: Any

    @classmethod
    def of(cls, model: Frozen, final: float) -> Linearity:
        zero = model.random_jet(0) * 0.0
        at_zero = model.linearise(0.0, zero)
        later = [model.linearise(s * final, zero) for s in (0.371, 1.0)]
        linear = model.problem.linear
        if linear is None:
            linear = all(_same(at_zero[1], model.linearise(0.0, model.random_jet(i))[1]) for i in (1, 2))
        constant = all(_same(at_zero[1], other[1]) for other in later)
        steady = all(torch.allclose(at_zero[0], other[0], 1e-9, 0.0) for other in later)
        return cls(linear, constant, steady, at_zero)


def _same(a: Any, b: Any) -> bool:
    pairs = zip(_flat(a), _flat(b), strict=True)
    return all((p is None) == (q is None) and (p is None or torch.allclose(p, q, 1e-9, 0.0)) for p, q in pairs)


def _flat(coefficients: Any) -> list[Tensor | None]:
    return [c for by_output in coefficients for cs in by_output for c in cs]


def marcher(model: Frozen | Moving, method: str, step: float | None, tolerance: float, final: float):
    """What takes the model's state from time to time, and the name of the method chosen.

    Raises
    ------
    ValueError
        If the method does not serve the problem.
    ModuleNotFoundError
        If it is one of torchdiffeq's, and that is not installed.
    """
    size = tolerance * (model.size or 1.0)
    if method not in METHODS:
        return TorchdiffeqMarcher(method, model.slope, size, step), method
    common = {"step": step, "tolerance": size, "distance": model.distance, "settle": model.settle}
    if isinstance(model, Moving):
        if method not in ("auto", "rk4"):
            raise ValueError(f"method {method!r} needs frozen shapes; shapes='evolve' takes 'rk4' or torchdiffeq's")
        return Marcher(RungeKutta4(model.slope), final, **common), "rk4"
    facts = Linearity.of(model, final)
    _check_serves(model, method, facts)
    if method == "auto":
        method = _choice(model, facts, final, step)
    if method in SCIPY:
        return ScipyMarcher(method, model.slope, model.jacobian, final, tolerance, model.size or 1.0, step), method
    one_step, radius = _one_step(model, method, facts)
    return Marcher(one_step, final, first=1 / radius if radius > 0 else math.inf, **common), method


def _check_serves(model: Frozen, method: str, facts: Linearity) -> None:
    name = model.problem.name
    if method in ("expm", "cn") and not facts.linear:
        raise ValueError(f"problem {name!r} is nonlinear in u, which {method!r} cannot do; use 'rk4' or 'etdrk4'")
    if method in ("expm", "cn") and not facts.constant:
        raise ValueError(f"the operator of problem {name!r} depends on t, which {method!r} cannot do; use 'radau'")
    if method == "expm" and not facts.steady:
        raise ValueError(f"the source of problem {name!r} depends on t, which 'expm' cannot do; use 'etdrk4' or 'cn'")


def spectral_radius(A: Tensor) -> float:
    return float(torch.linalg.eigvals(A).abs().max()) if bool(torch.isfinite(A).all()) else math.inf


def _stiff_operator(model: Frozen, facts: Linearity) -> Tensor:
    zero = model.random_jet(0) * 0.0
    if model.problem.stiff_part(model.x, zero) is None:
        return model.operator(facts.at_zero[1])
    return model.operator(model.linearise(0.0, zero, model.problem.stiff_part)[1])


def _choice(model: Frozen, facts: Linearity, final: float, step: float | None) -> str:
    if facts.linear and facts.constant and facts.steady:
        return "expm"
    J = model.jacobian(0.0, model.state)
    whole = spectral_radius(J)
    if whole * final <= RK4_STABLE * _STEPS_CHEAP:
        return "dop853" if step is None else "rk4"
    rest = spectral_radius(J - _stiff_operator(model, facts))
    return "etdrk4" if rest <= _REST * whole or rest * final <= RK4_STABLE * _STEPS_CHEAP else "radau"


def _one_step(model: Frozen, method: str, facts: Linearity) -> tuple[Any, float]:
    """The method, and the largest rate that its first step has to resolve; 0 for none."""
    if method == "rk4":
        return RungeKutta4(model.slope), spectral_radius(model.jacobian(0.0, model.state))
    if method == "etdrk4":
        A = _stiff_operator(model, facts)
        return ExponentialRungeKutta4(A, model.slope), spectral_radius(model.jacobian(0.0, model.state) - A)
    A, zero = model.operator(facts.at_zero[1]), torch.zeros_like(model.state)
    if method == "expm":
        return Exponential(A, model.slope(0.0, zero)), 0.0
    return CrankNicolson(A, lambda t: model.slope(t, zero)), 0.0


__all__ = ["METHODS", "RK4_STABLE", "Linearity", "marcher", "spectral_radius"]
