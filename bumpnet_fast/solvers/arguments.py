"""Checks of arguments: a mistake raises one error, before any work, that says what was given and what is wanted.

An option states its range where it is declared, as a :class:`Rule`.  Functions check problems, nets and points.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor

from ..core import checking
from ..core.reference import WANTS
from ..core.types import Boundary
from ..nets.bumpnet import BumpNet
from ..problems import sampling
from ..problems.base import Condition, Problem, required, taken

#: How boundary conditions are enforced: exactly, by the ansatz, or by least squares.
BOUNDARIES: tuple[Boundary, ...] = get_args(Boundary)
#: Points of a condition may lie so far beyond the domain, in widths of it.
_BEYOND = 1e-9


# --- numbers and choices -------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """What values an argument may have.

    Attributes
    ----------
    integer : bool
        Whether the argument is a whole number.
    least, most : float
        Closed range of a number.
    open : str
        Excluded ends of the range: "", "low", "high" or "both".
    choices : tuple of str
        The allowed words, instead of a number.
    flag : bool
        Whether the argument is True or False, instead of a number.
    optional : bool
        Whether None is allowed.

    Examples
    --------
    >>> number(least=0).check("ridge", -1)
    Traceback (most recent call last):
    ValueError: ridge must be at least 0, got -1
    """

    integer: bool = False
    least: float = -math.inf
    most: float = math.inf
    open: str = ""
    choices: tuple[str, ...] = ()
    flag: bool = False
    optional: bool = False

    def check(self, name: str, value: Any) -> Any:
        """Return ``value``, or raise ValueError that names the argument."""
        if value is None and self.optional:
            return value
        if not self._allows(value):
            raise ValueError(f"{name} must be {self}, got {value!r}")
        return value

    def _allows(self, value: Any) -> bool:
        if self.choices:
            return value in self.choices
        if self.flag:
            return isinstance(value, bool)
        if not isinstance(value, int if self.integer else (int, float)) or isinstance(value, bool):
            return False
        low = self.least < value if self.open in ("low", "both") else self.least <= value
        high = value < self.most if self.open in ("high", "both") else value <= self.most
        return low and high and abs(value) <= sys.float_info.max  # a longer integer makes no float

    def __str__(self) -> str:
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.flag:
            return "True or False"
        what = "an integer of " if self.integer else ""
        if self.most == math.inf:
            if self.least == -math.inf:
                return "a finite number"
            return "positive" if self.open and not self.least else f"{what}at least {self.least:g}"
        if self.open == "high":
            return f"{what}at least {self.least:g} and less than {self.most:g}"
        return f"{what}between {self.least:g} and {self.most:g}"


def integer(least: int = 0, *, optional: bool = False) -> Rule:
    """A whole number of at least ``least``."""
    return Rule(integer=True, least=least, optional=optional)


def number(least: float = 0.0, most: float = math.inf, *, open: str = "", optional: bool = False) -> Rule:
    """A finite number from ``least`` to ``most``."""
    return Rule(least=least, most=most, open=open, optional=optional)


def positive(*, optional: bool = False) -> Rule:
    """A finite number above 0."""
    return Rule(least=0, open="low", optional=optional)


def choice(*choices: str, optional: bool = False) -> Rule:
    """One of several words."""
    return Rule(choices=choices, optional=optional)


def flag() -> Rule:
    """True or False."""
    return Rule(flag=True)


def check(rules: dict[str, Rule], values: dict[str, Any]) -> None:
    """Check the values by the rules of their names."""
    for name, rule in rules.items():
        rule.check(name, values[name])


def option(default: Any, rule: Rule) -> Any:
    """A field of a dataclass of options, with the rule for its values."""
    return dataclasses.field(default=default, metadata={"rule": rule})


def check_options(options: Any) -> None:
    """Check every field of a dataclass by the rule of its :func:`option`."""
    for field in dataclasses.fields(options):
        if "rule" in field.metadata:
            field.metadata["rule"].check(field.name, getattr(options, field.name))


# --- problems and nets ---------------------------------------------------------------------------


def check_problem(problem: Problem) -> None:
    """Raise TypeError for anything but a problem, such as a name."""
    if not isinstance(problem, Problem):
        raise TypeError(f"problem must be a Problem, such as problems.get('poisson'), got {type(problem).__name__}")


def check_kinds(problem: Problem, net: BumpNet) -> None:
    """Raise TypeError unless these are a problem and a net."""
    check_problem(problem)
    if not isinstance(net, BumpNet):
        raise TypeError(f"net must be a BumpNet, got {type(net).__name__}")


def check_net(problem: Any, net: BumpNet) -> None:
    """Raise ValueError unless the net fits the problem, ``want`` is known, and all rows are finite."""
    domain, name = problem.domain, problem.name or type(problem).__name__
    for what, own, wanted in (
        ("dimensions", net.layout.dim, domain.shape[1]),
        ("outputs", net.layout.outputs, problem.outputs),
    ):
        if own != wanted:
            raise ValueError(f"net has {own} {what} and problem {name!r} has {wanted}")
    check_domain(net.domain, domain, f"problem {name!r}")
    if not bool(torch.isfinite(net.rows).all()):
        raise ValueError("net has rows that are not finite")
    if problem.want not in WANTS:
        raise ValueError(f"want of problem {name!r} must be one of {', '.join(WANTS)}, got {problem.want!r}")


def check_domain(own: Tensor, domain: Tensor, whose: str) -> None:
    """Raise ValueError unless a net's domain [2, d] equals that of ``whose``."""
    own, width = own.cpu().double(), domain[1] - domain[0]
    if own.shape != domain.shape or not bool(((own - domain).abs() <= 1e-5 * width).all()):
        raise ValueError(f"net is for the domain {own.tolist()} and {whose} is posed on {domain.tolist()}")


def check_fit(problem: Problem, net: BumpNet, boundary: str | None) -> None:
    """Raise TypeError or ValueError unless the net can represent the problem's solution on the problem's domain."""
    check_kinds(problem, net)
    boundary = problem.forms[0] if boundary is None else boundary
    name = problem.name or type(problem).__name__
    choice(*BOUNDARIES).check("boundary", boundary)
    if boundary not in problem.forms:
        raise ValueError(f"boundary of problem {name!r} must be {' or '.join(problem.forms)}, got {boundary!r}")
    check_net(problem, net)
    check_unknowns(problem, boundary)


# --- what a problem's methods give ---------------------------------------------------------------


@torch.no_grad()
def check_data(problem: Problem, boundary: str, x: Tensor, counts: Sequence[int]) -> None:
    """Raise ValueError or TypeError for given values, or functions of a hard boundary, that are not as they should be.

    Conditions and residuals are looked at where they are evaluated.

    Parameters
    ----------
    problem : Problem
        The problem.
    boundary : str
        "hard" or "soft".
    x : Tensor
        [N, d], where the equation holds.
    counts : sequence of int
        Points along the axes, for the boundary.
    """
    if boundary == "soft":
        return
    kind, domain, start = type(problem), problem.domain, (problem.time, 0)

    def check(method: str, at: Tensor, outputs: Sequence[int] | None = None) -> None:
        checking.values(checking.called(method, problem), getattr(problem, method)(at), at, problem.outputs, outputs)

    def given(face: tuple[int, int]) -> list[int]:
        return [k for k in range(problem.outputs) if face in problem.faces_of(k)]

    with checking.undisturbed(x.device):
        if kind.lift is Problem.lift:
            for face in problem.faces:
                if face != start or not problem.continues:
                    check("boundary_values", sampling.faces(domain, tuple(counts), [face]).to(x), given(face))
        check("distance", x)
        check("lift", x)
        if problem.time_order == 2 and start in problem.faces:
            check("velocity", sampling.faces(domain, tuple(counts), [start]).to(x), given(start))


def check_unknowns(problem: Problem, boundary: str) -> None:
    """Raise ValueError if a residual takes what is no unknown, or no residual takes one of the unknowns."""
    conditions = listed_conditions(problem, boundary)
    residuals = [(checking.called("the residual", problem), problem.residual)]
    residuals += [(f"the residual of condition {c.name!r}", c.residual) for c in conditions]
    names = list(problem.unknowns)
    for what, residual in residuals:
        if missing := [name for name in required(residual) if name not in names]:
            there = f"its unknowns are {', '.join(names)}" if names else "the problem has no unknowns"
            raise ValueError(f"{what} takes {missing[0]!r}, and {there}")
    for name, guess in problem.unknowns.items():
        number(-math.inf).check(f"the first guess of unknown {name!r}", guess)
        if not any(name in taken(residual, names) for _, residual in residuals):
            where = "neither the residual of the equation nor that of a condition takes it"
            raise ValueError(f"{checking.called(f'unknown {name!r}', problem)} cannot be found: {where}")


def listed_conditions(problem: Problem, boundary: str) -> list[Condition]:
    """The conditions that are imposed; TypeError if a method gives anything but a list of them."""
    found: list[Condition] = []
    for method in ("side_conditions",) if boundary == "hard" else ("conditions", "side_conditions"):
        given = getattr(problem, method)()
        if not isinstance(given, (list, tuple)) or not all(isinstance(c, Condition) for c in given):
            wrong = [c for c in given if not isinstance(c, Condition)] if isinstance(given, (list, tuple)) else [given]
            got = f"got {'one that is ' if isinstance(given, (list, tuple)) else ''}{type(wrong[0]).__name__}"
            raise TypeError(f"{checking.called(method, problem)} must give a list of Condition, {got}")
        found += given
    return found


def condition_points(problem: Problem, condition: Condition, counts: Sequence[int]) -> Tensor:
    """The points [n, d] of a condition; ValueError unless they are finite and in the box of the problem."""
    x, domain = condition.points(tuple(counts)), problem.domain
    what, d = f"points of condition {condition.name!r}", domain.shape[1]
    checking.check_real(what, x, f"[n, {d}]")
    if x.dim() != 2 or x.shape[1] != d or not len(x):
        raise ValueError(f"{what} must have shape [n, {d}] with n >= 1, got {tuple(x.shape)}")
    checking.check_finite(what, x)
    lo, hi = domain.to(x)
    slack = max(_BEYOND, 4 * torch.finfo(x.dtype).eps) * (hi - lo)
    beyond = ((x < lo - slack) | (x > hi + slack)).any(1).nonzero()[:, 0]
    if len(beyond):
        count = f"{len(beyond)} of {len(x)} {'is' if len(beyond) == 1 else 'are'} not"
        box, first = " to ".join(map(checking.place, domain)), checking.place(x[beyond[0]])
        advice = "make them from self.lower and self.upper"  # which differ from window to window of a march
        raise ValueError(f"{what} must lie in the domain, {box}: {count}, the first is {first}; {advice}")
    return x


def inside(problem: Problem, x: Tensor) -> Tensor:
    """Which of the points [n, d] belong to the domain, [n] bool; ValueError if the problem gives something else."""
    given = problem.inside(x)
    if not isinstance(given, Tensor) or given.dtype != torch.bool or given.shape != (len(x),):
        got = f"{given.dtype} {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
        raise ValueError(f"{checking.called('inside', problem)} must give a bool tensor [{len(x)}], got {got}")
    return given


# --- points --------------------------------------------------------------------------------------


def widths(domain: Tensor, net: BumpNet) -> tuple[float, ...]:
    """Widths of a domain [2, d] in the internal units of a net; along each axis points are as dense as bumps."""
    return tuple(((domain[1] - domain[0]) * net.frame[2].cpu().double()).tolist())


def check_points(points: Tensor, dim: int) -> None:
    """Raise ValueError unless ``points`` are finite and of shape [N, dim]."""
    if points.dim() != 2 or points.shape[1] != dim or len(points) < 1:
        raise ValueError(f"points must be finite and of shape [N, {dim}] with N >= 1, got {tuple(points.shape)}")
    checking.check_finite("points", points)


def counts(points: int | Sequence[int] | None, default: int, domain: Tensor, net: BumpNet) -> tuple[int, ...]:
    """Numbers of points along the axes: given per axis, or distributed from a total."""
    d = net.layout.dim
    if isinstance(points, (tuple, list)):
        if len(points) != d or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in points):
            raise ValueError(f"points must be {d} positive numbers, one per dimension, got {points!r}")
        return tuple(points)
    total = default if points is None else points
    if not isinstance(total, int) or isinstance(total, bool) or total < 1:
        raise ValueError(f"points must be a positive integer, {d} of them, or a tensor [N, {d}], got {points!r}")
    return sampling.spread(total, widths(domain, net))


__all__ = ["BOUNDARIES", "Rule", "check", "check_data", "check_domain", "check_fit", "check_kinds", "check_net",
           "check_options", "check_points", "check_problem", "check_unknowns", "choice", "condition_points", "counts",
           "flag", "inside", "integer", "listed_conditions", "number", "option", "positive", "widths"]  # fmt: skip
