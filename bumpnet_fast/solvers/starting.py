"""Where a solve starts: a first u that is fitted before anything else, and starts from which nothing leads away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..nets.bumpnet import BumpNet
from ..problems import sampling
from ..problems.base import Problem
from . import arguments
from .elimination import ridge_solve
from .residual import Block, System, bumps_of
from .solution import FieldResult
from .task import Task

#: A first u: a function of points, or the result of another solve.
Start = Callable[[Tensor], Any] | FieldResult

#: Points per bump at which a first u is fitted.
_POINTS = 10
_RIDGE = 1e-12
#: u this small, relative to the given values anywhere, is rounding; so is a loss, relative to that of random bumps.
_ROUNDING, _FLOOR = 1e-14, 1e-24
#: Where all data are zero, u this small, relative to where the equation becomes nonlinear, is zero.
_SMALL = 1e-5
#: There a loss that is a larger share of that of bumps as high as u is no solution.
_BAD = 1e-9
#: A u that varies by less than this share of itself is constant.
_CONSTANT = 1e-10
#: How the warnings begin that say that u is only trivially a solution, or none.
_TRIVIAL = (
    "u = 0 solves the equation and its conditions, and",
    "u is constant and solves",
    "what the boundary values alone make of u solves",
)
_STATIONARY = "the start is a stationary point"
#: What to do about them.
_ADVICE = "give solve() a first u, start=..., or try several starts, restarts=5"


def check_start(problem: Problem, start: Any) -> None:
    """Raise TypeError or ValueError unless ``start`` can be a first u of the problem."""
    if start is None:
        return
    if isinstance(start, FieldResult):
        own = {"dimensions": len(start.problem.lower), "outputs": start.problem.outputs}
        wanted = {"dimensions": len(problem.lower), "outputs": problem.outputs}
        for what, number in own.items():
            if number != wanted[what]:
                raise ValueError(f"start has {number} {what} and problem {problem.name!r} has {wanted[what]}")
    elif not callable(start) or isinstance(start, (type, torch.nn.Module)):
        wanted = "a function of points [N, d], or a Solution"
        raise TypeError(f"start must be {wanted}, got {type(start).__name__}")


@torch.no_grad()
def first_rows(problem: Problem, net: BumpNet, boundary: str, start: Start | None) -> Tensor | None:
    """The rows of ``net`` with the amplitudes that fit a first u best; None if there is no first u.

    That is ``start``, or else what the problem's :meth:`~bumpnet_fast.problems.Problem.guess` gives, if the net has no
    amplitudes yet and the problem does not continue another one.  With a hard boundary the whole u is fitted,
    boundary values included.

    Raises
    ------
    TypeError, ValueError
        If it gives no numbers, another shape, or what is not finite.
    """
    name = "start"
    if start is None:
        if problem.continues or bool(net.amplitudes.any()):
            return None
        start, name = problem.guess, f"guess of problem {problem.name!r}"
    counts = arguments.counts(None, _POINTS * len(net.rows), problem.domain, net)
    x = sampling.interior(problem.domain, counts) if problem.points is None else problem.points.double()
    x = x[arguments.inside(problem, x)].to(net.rows.device)
    given = start.predict(x) if isinstance(start, FieldResult) else start(x)
    if given is None and name != "start":
        return None
    values = _checked(given, name, len(x), problem.outputs).to(x)
    shifts = problem.shifts()[1:] if boundary == "hard" else []
    compose = problem.compose(x, "value") if boundary == "hard" else lambda v: v
    others = tuple(x + x.new_tensor(shift) for shift in shifts)
    block = Block(name, x, "value", lambda *v, **_: compose(*v).value - values, 1.0, others)
    system, rows = System([block], net), net.rows.detach().clone()
    offset, coefficients = system.linearise()
    A, _ = system.design(rows.double(), coefficients)
    h, *_ = ridge_solve(A, -offset, _RIDGE)
    rows[:, net.layout.amplitude] = h.view(len(rows), -1).to(rows)
    return rows


def _checked(given: Any, name: str, n: int, outputs: int) -> Tensor:
    """Values [N, K] of a first u."""
    wanted = f"[{n}] or [{n}, 1]" if outputs == 1 else f"[{n}, {outputs}]"
    if not isinstance(given, (Tensor, np.ndarray)):
        raise TypeError(f"{name} must give a tensor {wanted}, got {type(given).__name__}")
    values = torch.as_tensor(given).detach()
    if values.shape not in ((n, outputs), (n,) if outputs == 1 else (n, outputs)):
        raise ValueError(f"{name} must give a tensor of shape {wanted}, got {tuple(values.shape)}")
    if values.is_complex() or values.dtype == torch.bool:
        raise TypeError(f"{name} must give real numbers, got {values.dtype}")
    if bad := int((~torch.isfinite(values)).any(-1).sum() if values.dim() > 1 else (~torch.isfinite(values)).sum()):
        raise ValueError(f"{name} must give finite numbers, got others at {bad} of {n} points")
    return values.reshape(n, outputs)


# --- results that are no solutions, or trivial ones ------------------------------------------------


@torch.no_grad()
def trivial(task: Task) -> list[str]:
    """What is wrong with a result that never left a stationary start, or that solves the problem only trivially."""
    u, bumps, given = _sizes(task)
    constant = bool((u.amax(0) - u.amin(0) <= _CONSTANT * u.abs().amax(0)).all())
    size, rounding = given, _ROUNDING
    if given > 0 and not constant and all(float(part.abs().amax()) > rounding * size for part in (bumps, u)):
        return []
    linear, homogeneous = task.is_linear(), False
    usual = _usual_loss(task, given)
    if task.reference_loss() <= _FLOOR * usual and float((u - bumps).abs().amax()) <= _ROUNDING * given:
        homogeneous = True
        size, rounding = (given, 0.0) if linear else (nonlinear_height(task), _SMALL)
    still, zero = (float(part.abs().amax()) <= rounding * size for part in (bumps, u))
    if zero and homogeneous:
        found = "u = 0 solves the equation and its conditions, and nothing leads away from it"
        if linear:
            return [f"{found}: check that sources, boundary values and conditions are what you mean"]
        return [f"{found}: if you look for another solution, {_ADVICE}"]
    if homogeneous and task.loss() > _BAD * _usual_loss(task, float(u.abs().amax())):
        return [f"u = 0 solves the equation and its conditions better than the u that was found: {_ADVICE}"]
    if linear or not (still or constant):
        return []
    solved = task.loss() <= _FLOOR * usual
    if solved:
        what = "what the boundary values alone make of u" if still else "u is constant and"
        return [f"{what} solves the equation: if you look for another solution, {_ADVICE}"]
    if not still:
        return []
    where = "u = 0" if zero else "what the boundary values alone make of u"
    return [f"{_STATIONARY}, not a solution: the loss has no gradient at {where}, so nothing moved; {_ADVICE}"]


def is_trivial(warnings: list[str], solved: bool = False) -> bool:
    """Whether :func:`trivial` has found something; with ``solved`` only a solution."""
    return any(warning.startswith(_TRIVIAL if solved else (*_TRIVIAL, _STATIONARY)) for warning in warnings)


def _sizes(task: Task) -> tuple[Tensor, Tensor, float]:
    """u [n, K], the part of it that bumps make, and the size of the given values, inside the domain too.

    Values such as sin(pi x) are rounding on the boundary, and not zero.
    """
    problem, x, net = task.problem, task.x, task.net
    bumps = bumps_of(net, "value")
    u = problem.extend(bumps, x, "value", task.boundary).value.detach()
    only = problem.extend(lambda x: bumps(x).map(torch.zeros_like), x, "value", task.boundary).value.detach()
    try:
        given = float(problem.boundary_values(x).abs().amax())
    except Exception:  # it need not be defined inside the domain
        given = 0.0
    return u, u - only, max(given, float(only.abs().amax()))


def _usual_loss(task: Task, size: float) -> float:
    """The loss of bumps as high as the given values, or of height 1 if these are zero."""
    rows = _raised(task.net, size or 1.0)
    residual = task.system.residual(task.system.jets(rows), task.unknowns)
    return float(task.ranks.total(residual @ residual))


@torch.no_grad()
def nonlinear_height(task: Task) -> float:
    """How high bumps are where the equation begins to be nonlinear; 1 if it never does."""
    unit, at_zero = _raised(task.net, 1.0), task.system.residual()

    def slope(height: float) -> float:
        rows = unit.clone()
        rows[:, task.net.layout.amplitude] *= height
        change = task.system.residual(task.system.jets(rows), task.unknowns) - at_zero
        return float(task.ranks.total(change @ change)) ** 0.5 / height

    powers = [10.0**power for power in range(-12, 13)]
    slopes = [slope(height) for height in powers]
    first = next((s for s in slopes if s > 0), 0.0)
    return next((h for h, s in zip(powers, slopes, strict=True) if s > 0 and not 0.5 * first <= s <= 2 * first), 1.0)


def _raised(net: BumpNet, height: float) -> Tensor:
    """The rows of ``net``, in float64, with bumps of one height."""
    rows, at = net.rows.detach().double().clone(), net.layout.amplitude
    rows[:, at] = 1.0
    peaks = BumpNet.from_rows(rows, net.frame.double(), net.domain, net.tied, maps=net.maps).peaks.detach()
    rows[:, at] = height / peaks.clamp_min(1e-30)
    return rows


__all__ = ["Start", "check_start", "first_rows", "is_trivial", "nonlinear_height", "trivial"]
