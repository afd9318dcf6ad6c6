"""The class of problems: a domain, a residual written with a jet, boundary data, perhaps an exact solution.

A problem knows nothing of bumps or solvers, and solvers use only what is declared here.  To pose a problem, subclass
:class:`Problem`; ``poisson.py`` is a short example.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core import checking
from ..core.jet import Jet
from ..core.types import Want
from . import sampling, transfinite
from .condition import Condition as Condition
from .condition import call_residual as call_residual
from .condition import required as required
from .condition import taken as taken
from .transfinite import Faces, Factor, sides, smooth_step

#: Half width, in periods, of the region in which the two ends of a periodic function are blended.
SEAM = 0.1
#: Width, in widths of the box, over which a velocity at the start gives way to that of the sides, if these disagree.
RIM = 0.1
#: A velocity that the lift lacks is rounding below this share of what is given.
_ROUNDING = 1e-10
#: Points at which that is looked at.
_PROBES = 256


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
        1, or 2 if :meth:`velocity` is given at the start as well.  Then :meth:`distance` has a double zero there.
    periodic : tuple of int
        Axes along which u is periodic, with the width of the box as the period.
    dirichlet : tuple of (int, int), mapping, or None
        Faces on which u is given: the axis, and 0 for its lower or 1 for its upper face.  None means all
        but those of periodic axes and the end of time.  If the faces differ from output to output: a mapping from
        the number of the output to its faces, or to "all" for those that None means, as in
        ``{0: "all", 1: ((0, 0), (0, 1))}``.  Outputs that it does not name are free.  Those of your own
        :meth:`boundary_points` that lie on no face of the box belong to the outputs with all faces.
    forms : tuple of str
        Possible ways to enforce the boundary, "hard" or "soft", the better one first.
    points : Tensor or None
        [N, d], where the equation holds, if that is not the whole domain.
    unknowns : dict of str to float
        Unknown coefficients of the equation with their first guesses.  They are found along with u, and passed by
        name to :meth:`residual` and to the residuals of conditions, as far as these take them.

    Raises
    ------
    TypeError, ValueError
        If a field cannot be what its default is (a number, some numbers), the domain is empty, or ``dirichlet`` names
        faces or outputs that do not exist.

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
    dirichlet: ClassVar[Faces | Mapping[int, Faces | str] | None] = None
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
        self._check_declared()
        _check_dirichlet(self.dirichlet, len(self.lower), self.outputs, self.periodic)

    def _check_periodic(self) -> None:
        if not isinstance(self.periodic, (tuple, list)) or not set(self.periodic) <= set(range(len(self.lower))):
            raise ValueError(f"periodic must hold axes from 0 to {len(self.lower) - 1}, got {self.periodic!r}")

    def _check_declared(self) -> None:
        """Raise ValueError for class attributes that cannot be, or would be ignored."""
        axes = range(len(self.lower))
        wanted = f"from 0 to {len(self.lower) - 1}"
        if self.time is not None and self.time not in axes:
            raise ValueError(f"time must be an axis {wanted}, or None, got {self.time!r}")
        if self.time_order not in (1, 2):
            raise ValueError(f"time_order must be 1 or 2, got {self.time_order!r}")
        if type(self).velocity is not Problem.velocity and (self.time is None or self.time_order != 2):
            raise ValueError("velocity(x) would be ignored: set time, and time_order = 2")
        self._check_periodic()
        if not isinstance(self.unknowns, Mapping):
            raise ValueError(f"unknowns must map names to first guesses, got {self.unknowns!r}")

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

    def guess(self, x: Tensor) -> Tensor | None:
        """A first u, [N] or [N, K], from which a nonlinear problem is solved; None, the default, for none.

        It needs not fulfil anything.  It says which of several solutions is looked for, or leads away from u = 0 where
        that is a solution or a stationary point.
        """
        return None

    def boundary_values(self, x: Tensor) -> Tensor:
        """Given values, [N] or [N, K], at points of the boundary: the exact solution, or else zero.

        The columns of outputs that are not given at a point are not read there.
        """
        exact = self.exact(x)
        return torch.zeros_like(x[:, 0]) if exact is None else exact

    def velocity(self, x: Tensor) -> Tensor:
        """The given derivative of u by time, [N] or [N, K], at points of the start, if ``time_order`` is 2.

        By default that of the exact solution, or else zero.  If :meth:`lift` is overridden and this is not, it is that
        of the lift.
        """
        return torch.zeros_like(x[:, 0]) if self.exact(x) is None else self._rate(self.exact, x)

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
        """Faces of the box, (axis, 0 or 1), on which u is given, or at least one of its outputs."""
        if isinstance(self.dirichlet, Mapping):
            return tuple(dict.fromkeys(face for k in self.dirichlet for face in self.faces_of(k)))
        return self._all_faces() if self.dirichlet is None else tuple(self.dirichlet)

    def faces_of(self, output: int) -> tuple[tuple[int, int], ...]:
        """Faces of the box on which an output of u is given.

        >>> @dataclass
        ... class Flow(Problem):
        ...     outputs = 3
        ...     dirichlet = {0: "all", 1: ((0, 0),)}
        >>> Flow().faces_of(0), Flow().faces_of(1), Flow().faces_of(2)
        (((0, 0), (0, 1), (1, 0), (1, 1)), ((0, 0),), ())
        """
        if not isinstance(self.dirichlet, Mapping):
            return self.faces
        faces = self.dirichlet.get(output, ())
        return self._all_faces() if isinstance(faces, str) else tuple((axis, side) for axis, side in faces)

    def _all_faces(self) -> tuple[tuple[int, int], ...]:
        both = itertools.product(range(len(self.lower)), (0, 1))
        return tuple((j, k) for j, k in both if j not in self.periodic and (j, k) != (self.time, 1))

    def distance(self, x: Tensor) -> Tensor:
        """A smooth function that is zero on the given faces and positive elsewhere in the box.

        It is 1 in the middle between two given faces, and on the face opposite to a single given one.  It is [N], or
        [N, K] if other faces are given for other outputs.
        """
        if isinstance(self.dirichlet, Mapping):
            return torch.stack([self._distance_to(self.faces_of(k), x) for k in range(self.outputs)], 1)
        return self._distance_to(self.faces, x)

    def _distance_to(self, faces: Faces, x: Tensor) -> Tensor:
        lo, hi = self.domain.to(x)
        factors = [torch.ones_like(x[:, 0])]
        for axis, side in faces:
            width = (hi - lo)[axis] / len(sides(faces, axis))
            factor = (hi[axis] - x[:, axis] if side else x[:, axis] - lo[axis]) / width
            factors.append(factor**self.time_order if axis == self.time else factor)
        return torch.prod(torch.stack(factors), dim=0)

    def lift(self, x: Tensor) -> Tensor:
        """A smooth function, [N] or [N, K], with the boundary values on the given faces.

        For a box, transfinite interpolation: with P_j the linear interpolation along axis j between
        the two faces, or the value on its only one, ``1 - (1 - P_1) ... (1 - P_d)`` applied to the
        boundary values.
        """

        given = [
            transfinite.interpolated(self.domain, x, faces, function) for _, faces, function in self._given_values()
        ]
        return self._by_output(given) if isinstance(self.dirichlet, Mapping) else given[0]

    def _given_values(self) -> list[tuple[list[int], Faces, Callable[[Tensor], Tensor]]]:
        """Outputs with the same faces, these faces, and the values there: [n], or [n, outputs]."""
        if not isinstance(self.dirichlet, Mapping):
            return [([*range(self.outputs)], self.faces, self.boundary_values)]
        return [(ks, faces, self._outputs(self.boundary_values, ks)) for faces, ks in self._alike()]

    def _alike(self) -> list[tuple[tuple[tuple[int, int], ...], list[int]]]:
        """Faces, and the outputs that are given there, for all outputs."""
        found: dict[tuple[tuple[int, int], ...], list[int]] = {}
        for k in range(self.outputs):
            found.setdefault(self.faces_of(k), []).append(k)
        return [*found.items()]

    def _by_output(self, parts: Sequence[Tensor]) -> Tensor:
        """Parts [N, 1 or outputs with the same faces, ...] as one [N, K, ...]."""
        groups = [ks for _, ks in self._alike()]
        parts = [part[:, None] if part.dim() == 1 else part for part in parts]
        wide = [part.expand(-1, len(ks), *part.shape[2:]) for part, ks in zip(parts, groups, strict=True)]
        order = torch.tensor([k for ks in groups for k in ks]).argsort()
        return torch.cat(wide, 1)[:, order.to(wide[0].device)]

    @staticmethod
    def _outputs(function: Callable[[Tensor], Tensor], ks: Sequence[int]) -> Callable[[Tensor], Tensor]:
        """Some outputs [N, k] of a function with values [N] or [N, K]; they do not depend on the others."""

        def some(x: Tensor) -> Tensor:
            values = function(x).reshape(len(x), -1)
            return values.expand(-1, len(ks)) if values.shape[1] == 1 else values[:, list(ks)]

        return some

    # --- the velocity at the start ------------------------------------------------------------------

    def _rate(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Derivative of a function by time at ``x``, [N] or [N, K]; differentiable where gradients are enabled."""
        further = torch.is_grad_enabled() and x.requires_grad
        with torch.enable_grad():
            columns = list(x.unbind(1))
            columns[self.time] = t = columns[self.time] + torch.zeros_like(x[:, 0], requires_grad=True)
            values = function(torch.stack(columns, 1))
            rates = [
                torch.autograd.grad(v.sum(), t, create_graph=further, retain_graph=True, allow_unused=True)[0]
                if v.requires_grad
                else None
                for v in values.reshape(len(x), -1).unbind(1)
            ]
            rates = [torch.zeros_like(t) if rate is None else rate for rate in rates]
        rate = torch.stack(rates, 1).reshape(values.shape)
        return rate if further else rate.detach()

    def lift_has_velocity(self) -> bool:
        """Whether the velocity at the start is that of a lift of the user's own."""
        return type(self).lift is not Problem.lift and type(self).velocity is Problem.velocity

    def lacking_velocity(self, x: Tensor) -> Tensor:
        """The given velocity minus that of the lift, [N, 1 or K], at the start of time above or below ``x``."""
        columns = list(x.unbind(1))
        columns[self.time] = torch.full_like(x[:, 0], self.lower[self.time])
        start = torch.stack(columns, 1)
        return self.velocity(start).reshape(len(x), -1) - self._rate(self.lift, start).reshape(len(x), -1)

    def _lift_with_velocity(self, x: Tensor) -> Tensor:
        """The lift, plus a function with its values on all faces that gives u the velocity at the start."""
        lift = self.lift(x)
        if not self._lacks_velocity():
            return lift
        parts = []
        for beside, lacking in self._moving():
            # Where sides and velocity agree, nothing is lacking at the sides, and what is subtracted is zero.
            inside = transfinite.interpolated(self.domain, x, beside, lacking, _rim)
            parts.append(lacking(x) - inside.reshape(len(x), -1))
        return lift.reshape(len(x), -1) + (x[:, self.time] - self.lower[self.time])[:, None] * self._by_output(parts)

    def _moving(self) -> list[tuple[Faces, Callable[[Tensor], Tensor]]]:
        """Sides, and what velocity is lacking at the start, [n, outputs], for all outputs with the same faces."""
        found: list[tuple[Faces, Callable[[Tensor], Tensor]]] = []
        for faces, ks in self._alike():
            starts = (self.time, 0) in faces
            lacking = self._outputs(self.lacking_velocity, ks) if starts else _zeros(len(ks))
            found.append(([face for face in faces if face[0] != self.time], lacking))
        return found

    def _lift_jet(self, x: Tensor, want: Want) -> Jet:
        """The jet of :meth:`_lift_with_velocity`; of a lift of the user's own by automatic differentiation."""
        if want == "value" or type(self).lift is not Problem.lift or "lift" in vars(self):
            return self.jet_of(self._lift_with_velocity, x, want)
        try:
            about = self.domain, x, want
            given = [transfinite.interpolated_jet(*about, *terms) for _, *terms in self._given_values()]
            lift = self._joined(given, want) if isinstance(self.dirichlet, Mapping) else given[0]
            if not self._lacks_velocity():
                return lift
            lacking = [transfinite.interpolated_jet(*about, *terms, _rim, rest=True) for terms in self._moving()]
            return self._ramp(x, want) * self._joined(lacking, want) + lift
        except Exception:  # values that are known for just so many points
            return self.jet_of(self._lift_with_velocity, x, want)

    def _joined(self, jets: Sequence[Jet], want: Want) -> Jet:
        """The jets of outputs with the same faces as one."""
        parts = zip(*(jet.parts() for jet in jets), strict=True)
        return Jet(want, *(None if part[0] is None else self._by_output(part) for part in parts))

    def _ramp(self, x: Tensor, want: Want) -> Jet:
        """The time since the start, with one output."""
        one, zero = torch.ones_like(x[:, 0]), torch.zeros_like(x[:, 0])
        axes = [(one, zero, zero)] * x.shape[1]
        axes[self.time] = (x[:, self.time] - self.lower[self.time], one, zero)
        return transfinite.product_jet(axes, want)

    def _lacks_velocity(self) -> bool:
        """Whether the lift does not start with the given velocity."""
        if self.time is None or self.time_order != 2 or (self.time, 0) not in self.faces or self.lift_has_velocity():
            return False
        x = sampling.interior(self.domain, (_PROBES,) + (1,) * (len(self.lower) - 1), "sobol")
        x[:, self.time] = self.lower[self.time]
        with torch.no_grad():
            velocity, lift, rate = (
                part.reshape(len(x), -1).expand(-1, self.outputs)
                for part in (self.velocity(x), self.lift(x), self._rate(self.lift, x))
            )
            lasts = self.upper[self.time] - self.lower[self.time]
            sizes = [part.abs().amax(0).tolist() for part in (velocity - rate, velocity, lift / lasts)]
        starting = [k for k in range(self.outputs) if (self.time, 0) in self.faces_of(k)]
        return any(sizes[0][k] > _ROUNDING * max(sizes[1][k], sizes[2][k]) for k in starting)

    # --- u from the bumps ---------------------------------------------------------------------------

    def compose(self, x: Tensor, want: str) -> Callable[..., Jet]:
        """The ansatz: a map from the net's jet v at ``x`` [N, d] to ``u = lift + distance * v``, exact on the boundary.

        With ``time_order = 2`` the lift is changed so that u starts with the given velocity.

        With periodic axes the map takes the net's jets at ``x + shift`` for all :meth:`shifts`, and v is
        :meth:`wrap` of these.  Values can be differentiated by ``x``; the derivatives of distance, lift and
        weights are constants.

        >>> from bumpnet_fast.problems import get
        >>> edge, v = torch.tensor([[1.0, 0.3]]), Jet("value", torch.ones(1, 1))
        >>> get("poisson").compose(edge, "value")(v).value.abs().item() < 1e-6
        True
        """
        distance, lift = self._distance_jet(x, want), self._lift_jet(x, want)
        wrap = self.wrap(x, want)
        return lambda *v: distance * wrap(*v) + lift

    def _distance_jet(self, x: Tensor, want: Want) -> Jet:
        """The jet of :meth:`distance`, which is known where it is a product of functions of one coordinate each."""
        if type(self).distance is not Problem.distance or want == "value" or "distance" in vars(self):
            return self.jet_of(self.distance, x, want)
        if not isinstance(self.dirichlet, Mapping):
            return self._product_jet(self.faces, x, want)
        jets = [self._product_jet(self.faces_of(k), x, want).parts() for k in range(self.outputs)]
        return Jet(want, *(torch.cat(parts, 1) for parts in zip(*jets, strict=True) if parts[0] is not None))

    def _product_jet(self, faces: Faces, x: Tensor, want: Want) -> Jet:
        """The jet of the distance to some faces."""
        (lo, hi), one, zero = self.domain.to(x), torch.ones_like(x[:, 0]), torch.zeros_like(x[:, 0])
        axes = [(one, zero, zero)] * len(lo)  # value, slope and bend of the factor of every axis
        for axis, side in faces:
            width = float(hi[axis] - lo[axis]) / len(sides(faces, axis))
            t = (hi[axis] - x[:, axis] if side else x[:, axis] - lo[axis]) / width
            slope = (-1.0 if side else 1.0) / width
            for _ in range(self.time_order if axis == self.time else 1):
                f, f1, f2 = axes[axis]
                axes[axis] = (f * t, f1 * t + f * slope, f2 * t + 2 * f1 * slope)
        return transfinite.product_jet(axes, want)

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
        weights = [self._seam_jet(x + x.new_tensor(shift), want) for shift in self.shifts()]
        return lambda *v: functools.reduce(Jet.__add__, (w * jet for w, jet in zip(weights, v, strict=True)))

    def _seam_jet(self, x: Tensor, want: Want) -> Jet:
        """The weight w of :meth:`wrap`, with one output."""
        (lo, hi), one, zero = self.domain.to(x), torch.ones_like(x[:, 0]), torch.zeros_like(x[:, 0])
        axes = [(one, zero, zero)] * x.shape[1]
        for j in self.periodic:
            scale = 0.5 / (SEAM * (hi[j] - lo[j]))
            f, f1, f2 = smooth_step(0.5 + scale * (x[:, j] - lo[j]))
            g, g1, g2 = smooth_step(0.5 + scale * (hi[j] - x[:, j]))
            bend = f2 * g - 2 * f1 * g1 + f * g2
            axes[j] = (f * g, scale * (f1 * g - f * g1), scale * scale * bend)
        return transfinite.product_jet(axes, want)

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
        """Conditions of the soft boundary: given values, a velocity at the start, and periodicity."""
        if isinstance(self.dirichlet, Mapping):
            by_output = [self._given(self.faces_of(k), k) for k in range(self.outputs)]
            by_kind = itertools.zip_longest(*by_output) if by_output else ()
            given = [condition for kind in by_kind for condition in kind if condition is not None]
        else:
            given = self._given(self.faces)
        return [c for c in given if c is not None] + [self.periodicity(axis) for axis in self.periodic]

    def _given(self, faces: Faces, output: int | None = None) -> list[Condition | None]:
        """Conditions on the sides, at the start, and on the velocity there, of one output or of all."""
        number = f" {output + 1}" if output is not None and self.outputs > 1 else ""

        def part(values: Tensor) -> Tensor:
            values = values.reshape(len(values), -1)
            return values if output is None or values.shape[1] == 1 else values[:, output : output + 1]

        def checked(name: str, method: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
            read = None if output is None else [output]
            return checking.values(checking.called(name, self), method(x), x, self.outputs, read)

        def given(x: Tensor, u: Jet) -> Tensor:
            return part(u.value) - part(checked("boundary_values", self.boundary_values, x))

        def starts(x: Tensor, u: Jet) -> Tensor:
            return part(u.value) - part(checked("boundary_values", self._start_values, x))

        def moves(x: Tensor, u: Jet) -> Tensor:
            return part(u.d(self.time)) - part(checked("velocity", self.velocity, x))

        def on(faces: Faces) -> Callable[[tuple[int, ...]], Tensor]:
            return lambda counts: sampling.faces(self.domain, counts, faces)

        sides, start = ([face for face in faces if (face[0] == self.time) is at] for at in (False, True))
        first = [face for face in start if face[1] == 0]
        points = self.boundary_points if output is None else functools.partial(self._points_on, sides)
        return [
            Condition("boundary" + number, points, given) if sides else None,
            Condition("initial" + number, on(start), starts) if start else None,
            Condition("velocity" + number, on(first), moves, "gradient") if first and self.time_order == 2 else None,
        ]

    def _start_values(self, x: Tensor) -> Tensor:
        """Given values, [N] or [N, K], at points of the start of time; a window of a march starts from another u."""
        return self.boundary_values(x)

    def _points_on(self, faces: Faces, counts: tuple[int, ...]) -> Tensor:
        """Those of the boundary points that lie on some of the faces; all, if these are all that are given."""
        x = self.boundary_points(counts)
        if set(faces) == {face for face in self.faces if face[0] != self.time}:
            return x
        unit = (x - self.domain[0].to(x)) / (self.domain[1] - self.domain[0]).to(x)
        return x[torch.stack([(unit[:, axis] - side).abs() < 1e-9 for axis, side in faces]).any(0)]

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


def _check_dirichlet(dirichlet: Any, dim: int, outputs: int, periodic: Sequence[int]) -> None:
    """Raise TypeError or ValueError unless ``dirichlet`` names faces and outputs that there are."""
    if dirichlet is None:
        return
    by_output = dict(dirichlet) if isinstance(dirichlet, Mapping) else {None: dirichlet}
    wanted = f"faces (axis, side) with an axis from 0 to {dim - 1} and a side of 0 or 1"
    for output, faces in by_output.items():
        of = "" if output is None else f"[{output!r}]"
        if output is not None and (not isinstance(output, int) or not 0 <= output < outputs):
            raise ValueError(f"dirichlet must name outputs from 0 to {outputs - 1}, got {output!r}")
        if output is not None and isinstance(faces, str) and faces == "all":
            continue
        if not isinstance(faces, (tuple, list)):
            also = " or be 'all'" if output is not None else ""
            raise TypeError(f"dirichlet{of} must hold {wanted}{also}, got {faces!r}")
        for face in faces:
            if (
                not isinstance(face, (tuple, list))
                or len(face) != 2
                or face[0] not in range(dim)
                or face[1] not in (0, 1)
            ):
                raise ValueError(f"dirichlet{of} must hold {wanted}, got {face!r}")
            if face[0] in periodic:
                advice = "give u there by a Condition in side_conditions()"
                raise ValueError(f"dirichlet{of} must not hold faces of a periodic axis, got {face!r}: {advice}")
        if len(set(map(tuple, faces))) < len(faces):
            raise ValueError(f"dirichlet{of} must name every face once, got {faces!r}")


def _rim(t: Tensor, side: int) -> Factor:
    """From 1 on a face to 0 at a distance of :data:`RIM`."""
    sign = -1.0 if side else 1.0
    f, f1, f2 = smooth_step((1 - t if side else t) / RIM)
    return 1 - f, -sign / RIM * f1, -f2 / RIM**2


def _zeros(outputs: int) -> Callable[[Tensor], Tensor]:
    return lambda x: x.new_zeros(len(x), outputs)


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
