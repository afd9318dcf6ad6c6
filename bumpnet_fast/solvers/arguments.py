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

from ..core.reference import WANTS
from ..core.types import Boundary
from ..nets.bumpnet import BumpNet
from ..problems import sampling
from ..problems.base import Problem

#: How boundary conditions are enforced: exactly, by the ansatz, or by least squares.
BOUNDARIES: tuple[Boundary, ...] = get_args(Boundary)


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


# --- points --------------------------------------------------------------------------------------


def widths(domain: Tensor, net: BumpNet) -> tuple[float, ...]:
    """Widths of a domain [2, d] in the internal units of a net; along each axis points are as dense as bumps."""
    return tuple(((domain[1] - domain[0]) * net.frame[2].cpu().double()).tolist())


def check_points(points: Tensor, dim: int) -> None:
    """Raise ValueError unless ``points`` are finite and of shape [N, dim]."""
    if points.dim() != 2 or points.shape[1] != dim or len(points) < 1 or not bool(torch.isfinite(points).all()):
        raise ValueError(f"points must be finite and of shape [N, {dim}] with N >= 1, got {tuple(points.shape)}")


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


__all__ = ["BOUNDARIES", "Rule", "check", "check_domain", "check_fit", "check_kinds", "check_net", "check_options",
           "check_points", "check_problem", "choice", "counts", "flag", "integer", "number", "option", "positive",
           "widths"]  # fmt: skip
