"""The class of problems: a domain, a residual written with a jet, boundary data, perhaps an exact solution.

A problem knows nothing of bumps or solvers, and solvers use only what is declared here.  To pose a problem, subclass
:class:`Problem`; ``poisson.py`` is a short example.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.jet import Jet
from ..core.types import Want
from . import sampling

#: Half width, in periods, of the region in which the two ends of a periodic function are blended.
SEAM = 0.1


@dataclass(frozen=True)
class Condition:
    """A condition that is imposed by least squares, beside the residual of the equation.

    Parameters
    ----------
    name : str
        For messages.
    points : callable
        Gives the points [n, d] for a number of points per axis, ``points((32, 32))``.
    residual : callable
        ``residual(x, u)`` -> [n] or [n, E], zero where the jet ``u`` fulfils the condition at ``x``.
    want : str
        The jet that ``residual`` needs.
    weight : float
        Factor of the mean square of the residual in the loss.
    period : tuple of float, optional
        If given, ``residual`` gets the jet of ``u(x) - u(x + period)`` instead of that of u.
    """

    name: str
    points: Callable[[tuple[int, ...]], Tensor]
    residual: Callable[[Tensor, Jet], Tensor]
    want: Want = "value"
    weight: float = 1.0
    period: tuple[float, ...] | None = None


@dataclass
class Problem:
    """A boundary value problem for u(x) on the box from ``lower`` to ``upper``.

    A subclass is a dataclass: its fields, with defaults, are what a user may set
    (``Poisson(a1=2)``, ``bumpnet solve poisson --set a1=2``).  It must define :meth:`residual`;
    the rest has defaults.

    Parameters
    ----------
    lower, upper : tuple of float
        Corners of the domain.

    Attributes
    ----------
    name, summary : str
        Its name in :data:`bumpnet_fast.problems.PROBLEMS`, and a line for the list.
    outputs : int
        Number of components K of u.
    want : str
        The jet that :meth:`residual` needs: "value", "gradient", "diagonal", "hessian" or "laplacian".
    linear : bool or None
        Whether the residual is affine in u; None lets the solver find out.
    default_bumps : int or tuple of int
        Size of a net that solves it well; if it is marched in time, of each window's net.
    default_windows : int or None
        Number of windows of time in `bumpnet solve`; None for one solution over all of time.
    options : dict
        Default settings of `bumpnet solve` for this problem, by the names of ``--set``.  Those of the method, such as
        iterations, are for least squares alone.
    time : int or None
        The axis that is time: u is given at its lower face, and nothing at its upper one.
    time_order : int
        1, or 2 if the velocity is given at the start as well.  Then :meth:`distance` has a double zero there, and
        the velocity is that of :meth:`lift`: zero unless overridden.
    periodic : tuple of int
        Axes along which u is periodic, with the width of the box as the period.
    dirichlet : tuple of (int, int), or None
        Faces on which u is given: the axis, and 0 for its lower or 1 for its upper face.  None means all
        but those of periodic axes and the end of time.
    forms : tuple of str
        Possible ways to enforce the boundary, "hard" or "soft", the better one first.
    points : Tensor or None
        [N, d], where the equation holds, if that is not the whole domain.
    unknowns : dict of str to float
        Unknown coefficients of the equation with their first guesses.  They are found along with u, and passed to
        :meth:`residual` by name.

    Raises
    ------
    ValueError
        If a field cannot be what its default is (a number, some numbers), or the domain is empty.

    Examples
    --------
    Everything it takes to pose u' + u = 0, u(0) = 1:

    >>> @dataclass
    ... class Decay(Problem):
    ...     name, want = "decay", "gradient"
    ...     rate: float = 1.0
    ...     time = 0
    ...     lower: tuple = (0.0,)
    ...     upper: tuple = (1.0,)
    ...
    ...     def residual(self, x, u):
    ...         return u.d(0) + self.rate * u.value
    ...
    ...     def boundary_values(self, x):
    ...         return torch.ones_like(x[:, 0])
    ...
    >>> Decay(rate="2.5")
    Decay(lower=(0.0,), upper=(1.0,), rate=2.5)
    """

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    outputs: ClassVar[int] = 1
    want: ClassVar[Want] = "laplacian"
    linear: ClassVar[bool | None] = None
    default_bumps: ClassVar[Any] = 40
    default_windows: ClassVar[int | None] = None
    options: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    time: ClassVar[int | None] = None
    time_order: ClassVar[int] = 1
    periodic: ClassVar[tuple[int, ...]] = ()
    dirichlet: ClassVar[tuple[tuple[int, int], ...] | None] = None
    forms: ClassVar[tuple[str, ...]] = ("hard", "soft")
    #: Whether it starts from another solution, as a window of a march does, and not from given values.
    continues: ClassVar[bool] = False
    points: ClassVar[Tensor | None] = None
    unknowns: ClassVar[Mapping[str, float]] = MappingProxyType({})

    lower: tuple[float, ...] = (-1.0, -1.0)
    upper: tuple[float, ...] = (1.0, 1.0)

    def __post_init__(self):
        settle_fields(self)
        if len(self.lower) != len(self.upper) or not all(a < b for a, b in zip(self.lower, self.upper, strict=True)):
            raise ValueError(f"lower must be below upper in every coordinate, got {self.lower} and {self.upper}")

    @classmethod
    def settings(cls) -> dict[str, Any]:
        """Names and defaults of the fields that a user may set."""
        return {field.name: field.default for field in fields(cls)}

    @property
    def domain(self) -> Tensor:
        """Lower and upper corner [2, d], float64."""
        return torch.tensor([self.lower, self.upper], dtype=torch.float64)

    # --- the equation: what a subclass writes ------------------------------------------------------

    def residual(self, x: Tensor, u: Jet, *_: Any, **unknowns: Any) -> Tensor:
        """Residual of the equation, [N] or [N, E], from the jet of u at the points ``x`` [N, d].

        It may be nonlinear.  The residual at a point may depend on u at that point only.
        """
        raise NotImplementedError(f"{type(self).__name__} must define residual(x, u)")

    def exact(self, x: Tensor) -> Tensor | None:
        """Exact solution, [N] or [N, K], where known, differentiable by ``x``."""
        return None

    def reference(self, x: Tensor) -> Tensor | None:
        """Reference solution for error measures, [N] or [N, K]: by default the exact solution."""
        return self.exact(x)

    def outline(self, x: Tensor) -> Tensor | None:
        """A function, [N] or [N, K], that is steep where u is expected to be steep; graded bumps are placed there.

        None, the default, means the lift, which is all that is known of u before solving.
        """
        return None

    def boundary_values(self, x: Tensor) -> Tensor:
        """Given values, [N] or [N, K], at points of the boundary: the exact solution, or else zero."""
        exact = self.exact(x)
        return torch.zeros_like(x[:, 0]) if exact is None else exact

    def inside(self, x: Tensor) -> Tensor:
        """Which points of the box belong to the domain, [N] bool: by default all.

        A problem on a part of the box must also override :meth:`boundary_points` and set ``forms = ("soft",)``, or
        override :meth:`distance` and :meth:`lift`.
        """
        return torch.ones(len(x), dtype=torch.bool, device=x.device)

    def side_conditions(self) -> list[Condition]:
        """Extra conditions, such as fluxes and measurements.  They are imposed with both kinds of boundary."""
        return []

    # --- the boundary, exactly ("hard") or by least squares ("soft") --------------------------------

    @property
    def faces(self) -> tuple[tuple[int, int], ...]:
        """Faces of the box, (axis, 0 or 1), on which u is given."""
        if self.dirichlet is not None:
            return tuple(self.dirichlet)
        sides = itertools.product(range(len(self.lower)), (0, 1))
        return tuple((j, k) for j, k in sides if j not in self.periodic and (j, k) != (self.time, 1))

    def _sides(self, axis: int) -> list[int]:
        return [side for j, side in self.faces if j == axis]

    def distance(self, x: Tensor) -> Tensor:
        """A smooth function [N] that is zero on the given faces and positive elsewhere in the box.

        It is 1 in the middle between two given faces, and on the face opposite to a single given one.
        """
        lo, hi = self.domain.to(x)
        factors = [torch.ones_like(x[:, 0])]
        for axis, side in self.faces:
            width = (hi - lo)[axis] / len(self._sides(axis))
            factor = (hi[axis] - x[:, axis] if side else x[:, axis] - lo[axis]) / width
            factors.append(factor**self.time_order if axis == self.time else factor)
        return torch.prod(torch.stack(factors), dim=0)

    def lift(self, x: Tensor) -> Tensor:
        """A smooth function, [N] or [N, K], with the boundary values on the given faces.

        For a box, transfinite interpolation: with P_j the linear interpolation along axis j between
        the two faces, or the value on its only one, ``1 - (1 - P_1) ... (1 - P_d)`` applied to the
        boundary values.
        """
        corners = self.domain.to(x)
        t = ((x - corners[0]) / (corners[1] - corners[0])).unbind(1)
        total = None
        for faces in itertools.product(*((None, *self._sides(j)) for j in range(len(t)))):  # None: a free axis
            held = [(j, face) for j, face in enumerate(faces) if face is not None]
            if held:
                at = list(x.unbind(1))
                for j, face in held:
                    at[j] = corners[face, j].expand(len(x))
                values = self.boundary_values(torch.stack(at, 1))
                blend = math.prod(t[j] if face else 1 - t[j] for j, face in held if len(self._sides(j)) == 2)
                if isinstance(blend, Tensor):
                    blend = blend.reshape(-1, *(1,) * (values.dim() - 1))
                part = -((-1) ** len(held)) * blend * values
                total = part if total is None else total + part
        return torch.zeros_like(x[:, 0]) if total is None else total

    def compose(self, x: Tensor, want: str) -> Callable[..., Jet]:
        """The ansatz: a map from the net's jet v at ``x`` [N, d] to ``u = lift + distance * v``, exact on the boundary.

        With periodic axes the map takes the net's jets at ``x + shift`` for all :meth:`shifts`, and v is
        :meth:`wrap` of these.  Values can be differentiated by ``x``; the derivatives of distance, lift and
        weights are constants.

        >>> from bumpnet_fast.problems import get
        >>> edge, v = torch.tensor([[1.0, 0.3]]), Jet("value", torch.ones(1, 1))
        >>> get("poisson").compose(edge, "value")(v).value.abs().item() < 1e-6
        True
        """
        distance, lift = (self.jet_of(function, x, want) for function in (self.distance, self.lift))
        wrap = self.wrap(x, want)
        return lambda *v: distance * wrap(*v) + lift

    @staticmethod
    def jet_of(function: Callable[[Tensor], Tensor], x: Tensor, want: Want) -> Jet:
        """The jet of a function at ``x`` [N, d]: its value is differentiable by ``x``, derivatives are constants."""
        return Jet(want, function(x).reshape(len(x), -1)) if want == "value" else Jet.of(function, x, want)

    def shifts(self) -> list[tuple[float, ...]]:
        """Shifts of a point by up to one period, zero first, at which :meth:`compose` needs the jets."""
        widths = (b - a for a, b in zip(self.lower, self.upper, strict=True))
        return list(itertools.product(*((0.0, w, -w) if j in self.periodic else (0.0,) for j, w in enumerate(widths))))

    def wrap(self, x: Tensor, want: str) -> Callable[..., Jet]:
        """The map from jets at all shifts of ``x`` to the jet of a periodic function.

        The function is ``sum_s w(x + s) v(x + s)``.  The weight w rises smoothly from 0 to 1 around one end of the
        period and falls to 0 around the other, and the weights add up to 1.  So the function is periodic to the
        second derivative for any v, and equals v if v is periodic.
        """
        if not self.periodic:
            return lambda v: v
        lo, hi = self.domain.to(x)

        def weight(x: Tensor) -> Tensor:
            reach = SEAM * (hi - lo)
            rise = [_smooth_step(0.5 + 0.5 * (x[:, j] - lo[j]) / reach[j]) for j in self.periodic]
            fall = [_smooth_step(0.5 + 0.5 * (hi[j] - x[:, j]) / reach[j]) for j in self.periodic]
            return math.prod(rise) * math.prod(fall)

        weights = [self.jet_of(weight, x + x.new_tensor(shift), want) for shift in self.shifts()]
        return lambda *v: functools.reduce(Jet.__add__, (w * jet for w, jet in zip(weights, v, strict=True)))

    def extend(self, jet: Callable[[Tensor], Jet], x: Tensor, want: str, boundary: str = "hard") -> Jet:
        """The jet of u at ``x`` [N, d], from the jet of the bumps, ``jet(x)``; with a soft boundary they are the same.

        >>> from bumpnet_fast.problems import get
        >>> constant = lambda x: Jet("value", torch.ones(len(x), 1))
        >>> get("poisson").extend(constant, torch.zeros(1, 2), "value").value.item()
        1.0
        """
        if boundary == "soft":
            return jet(x)
        return self.compose(x, want)(*(jet(x + x.new_tensor(shift)) for shift in self.shifts()))

    def boundary_points(self, counts: tuple[int, ...]) -> Tensor:
        """Points [n, d] of the boundary where u is given, without the start of time; ``counts`` per axis."""
        faces = [face for face in self.faces if face[0] != self.time]
        return sampling.faces(self.domain, counts, faces)

    def conditions(self) -> list[Condition]:
        """Conditions of the soft boundary: given values and periodicity."""

        def given(x: Tensor, u: Jet) -> Tensor:
            return u.value - self.boundary_values(x).reshape(len(x), -1)

        conditions = []
        if any(axis != self.time for axis, _ in self.faces):
            conditions.append(Condition("boundary", self.boundary_points, given))
        start = [face for face in self.faces if face[0] == self.time]
        if start:
            conditions.append(Condition("initial", lambda counts: sampling.faces(self.domain, counts, start), given))
        return conditions + [self.periodicity(axis) for axis in self.periodic]

    def periodicity(self, axis: int, length: float = 1.0) -> Condition:
        """The condition that u and its derivative along ``axis`` are the same on the two faces of the axis.

        The derivative is multiplied by ``length``, the width of the thinnest layer expected at a face.
        """
        first_order = self.want == "gradient"

        def residual(x: Tensor, difference: Jet) -> Tensor:
            value = difference.value
            return value if first_order else torch.cat([value, length * difference.d(axis)], 1)

        period = tuple((b - a) * (j == axis) for j, (a, b) in enumerate(zip(self.lower, self.upper, strict=True)))

        def points(counts: tuple[int, ...]) -> Tensor:
            return sampling.faces(self.domain, counts, [(axis, 0)])

        return Condition(f"period of axis {axis}", points, residual, "gradient", period=period)


def _smooth_step(t: Tensor) -> Tensor:
    """From 0 at t = 0 to 1 at t = 1, with two continuous derivatives; ``f(t) + f(1 - t) = 1``."""
    t = t.clamp(0, 1)
    return t**3 * (10 - 15 * t + 6 * t * t)


def choose(registry: dict[str, type[Problem]], name: str, settings: dict[str, Any]) -> Problem:
    """The problem called ``name`` in a registry, with some of its fields set; ValueError if either does not exist."""
    if name not in registry:
        raise ValueError(f"unknown problem {name!r}; there are: {', '.join(sorted(registry))}")
    known = registry[name].settings()
    for field in settings:
        if field not in known:
            raise ValueError(f"{name} has no field {field!r}; it has: {', '.join(known)}")
    return registry[name](**settings)


def settle_fields(problem: Any) -> None:
    """Convert every field of a dataclass to the type of its default; TypeError for a field that would be ignored.

    If a subclass sets a field without ``@dataclass``, or without a type, Python silently keeps the older default.
    """
    kind = type(problem)
    for field in fields(problem):
        own = getattr(kind, field.name, field.default)
        if own is not field.default and own != field.default:
            wanted = f"decorate the class with @dataclass and write `{field.name}: {type(own).__name__} = ...`"
            raise TypeError(f"{kind.__name__}.{field.name} is a field and would be left unread: {wanted}")
        setattr(problem, field.name, like_default(field.name, getattr(problem, field.name), field.default))


def like_default(name: str, value: Any, default: Any) -> Any:
    """``value``, possibly text from a command line, in the type of the field's default."""
    if default is MISSING or default is None or isinstance(default, bool):
        return value
    try:
        if isinstance(default, (float, int)):
            number = type(default)(value)
            if math.isfinite(number) and (isinstance(value, str) or number == value):
                return number
        elif isinstance(default, tuple):
            parts = value.strip("()[] ").split(",") if isinstance(value, str) else value
            numbers = tuple(float(part) for part in parts)
            if len(numbers) == len(default) and all(map(math.isfinite, numbers)):
                return numbers
        else:
            return type(default)(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(f"{name} must be {_kind(default)}, got {_shown(value)}")


def _shown(value: Any) -> str:
    """A value for a message; Python refuses to print integers of several thousand digits."""
    try:
        text = repr(value)
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= 500 else f"{text[:450]}..."


def _kind(default: Any) -> str:
    if isinstance(default, tuple):
        return f"{len(default)} finite number{'s' * (len(default) != 1)}"
    return {float: "a finite number", int: "an integer"}.get(type(default), f"a {type(default).__name__}")
