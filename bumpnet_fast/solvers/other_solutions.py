"""Whether a nonlinear problem has another solution than the one that was found.

The equation is looked at along the softest direction, the change of u that disturbs it least: there solutions branch
off.  If the equation is zero again further along it, Gauss-Newton steps from there show whether that is a solution.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from .enrichment import Enriched, EnrichedFit, fitted, jets_of
from .residual import Block, System

#: How far to go along a direction, relative to u, and in how many steps on each side; halvings of the one that matters.
_NEAR, _FAR, _STEPS, _HALVINGS = 1e-2, 1e3, 40, 20
#: Directions that are tried.
_DIRECTIONS = 2
#: Gauss-Newton steps; they must end as far from u, and with more bumps the residual must fall to this share.
_ITERATIONS, _APART, _FALLEN = 10, 0.2, 0.2


def other_solution(
    fit: EnrichedFit, finer: Callable[[Enriched], EnrichedFit], x: Tensor, seconds: float = math.inf
) -> Enriched | None:  # fmt: skip
    """Another solution of the same problem, or None if none was met.

    Parameters
    ----------
    fit : EnrichedFit
        Of the solution that was found.
    finer : callable
        Adds bumps and solves again, which tells a solution from another least of the residual.
    x : Tensor
        [n, d], points at which solutions are compared.
    seconds : float
        Of the processor, after which no further direction is tried.
    """
    started, u = time.process_time(), fit.u
    here = u.jet(x, "value").value
    size = torch.linalg.vector_norm(here, dim=0)
    if not bool(size.all()):
        return None
    systems = u.systems(fit.rows)
    values = _changes(u, x) / size.repeat_interleave(len(x))  # [amplitudes, K n]
    soft = torch.linalg.solve_triangular(fit.factors.upper.T, values / fit.factors.length[:, None], upper=False)
    _, directions = torch.linalg.eigh(soft @ soft.T)
    own, tried = jets_of(systems, u.nets), False
    for y in directions.T.flip(0)[:_DIRECTIONS]:
        step, rows = fit.factors.solve(y), (fit.factors.basis @ y) * fit.weights
        step = step / torch.linalg.vector_norm(step @ values)
        along = jets_of(systems, u.moved(step, u.unknowns).nets)
        for side in (1.0, -1.0):
            far = _root(lambda s, a=along, r=rows: r @ systems[0].residual(_moved(own, a, s), u.unknowns), side)
            if far is None:
                continue
            if tried and time.process_time() - started > seconds:
                return None
            tried = True
            other = fitted(u.moved(u.amplitudes() + far * step, u.unknowns), fit.rows, _ITERATIONS)
            if not other.converged:
                continue
            better = finer(other.u)
            apart = torch.linalg.vector_norm(better.u.jet(x, "value").value - here, dim=0) / size
            fallen = better.norms[1] <= max(_FALLEN * better.norms[0], fit.norms[1])
            if fallen and bool((apart > _APART).any()):
                return better.u
    return None


def _changes(u: Enriched, x: Tensor) -> Tensor:
    """Derivatives [amplitudes, K n] of u at points by the amplitudes."""
    hard = u.boundary == "hard"
    compose = u.problem.compose(x, "value") if hard else lambda v: v
    others = tuple(x + x.new_tensor(shift) for shift in u.problem.shifts()[1:]) if hard else ()
    block = Block("u", x, "value", lambda *v, **_: compose(*v).value, 1.0, others)
    parts = []
    for net in u.nets:
        system = System([block], net)
        _, coefficients = system.linearise()
        parts.append(system.design(net.rows.detach(), coefficients)[0])
    return torch.cat(parts)


def _moved(own: list, along: list, s: float) -> list:
    return [tuple(a + s * b for a, b in zip(*both, strict=True)) for both in zip(own, along, strict=True)]


def _root(g: Callable[[float], Tensor], side: float) -> float | None:
    """Where g, which is zero at 0, is zero again on one side; None if it is not."""
    steps = [side * _NEAR * (_FAR / _NEAR) ** (k / (_STEPS - 1)) for k in range(_STEPS)]
    before, first = steps[0], float(g(steps[0]))
    for s in steps[1:]:
        now = float(g(s))
        if not abs(now) < float("inf"):
            return None
        if now * first < 0:
            for _ in range(_HALVINGS):
                middle = 0.5 * (before + s)
                before, s = (before, middle) if float(g(middle)) * first < 0 else (middle, s)
            return before
        before = s
    return None


__all__ = ["other_solution"]
