"""The class of evolution problems: a domain, a start, and u_t written with a jet of u in space.

An evolution problem knows nothing of bumps or solvers.  To pose one, subclass :class:`EvolutionProblem`; see
``burgers.py`` for an example, and docs/evolution.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...core.jet import Jet
from ..base import Problem
from .spectral import fourier_solution

#: What only problems for ``solve`` have, and what to do instead.
_OF_OTHERS = {
    "dirichlet": "u is given on the faces of all axes that are not periodic",
    "unknowns": "find them with solve, with time as an axis of a Problem",
    "conditions": "u is given on the faces of all axes that are not periodic",
    "side_conditions": "use solve or march, with time as an axis of a Problem",
    "velocity": "write an equation of second order as two of first order",
    "points": "give evolve its points",
}


@dataclass
class EvolutionProblem(Problem):
    """``u_t = rhs(x, u, t)`` from ``u = initial(x)`` at t = 0 on the box from ``lower`` to ``upper``.

    A subclass is a dataclass: its fields, with defaults, are what a user may set.  It must define
    :meth:`rhs`, and :meth:`initial` or :meth:`exact`.  Each axis is periodic, or u is prescribed on its
    two faces by :meth:`~bumpnet_fast.problems.Problem.boundary_values`.  These values are steady, and zero by
    default.  They hold exactly through ``u = lift + distance * net``, as in every other problem.  In one dimension a
    problem with :meth:`boundary_slopes` has these slopes at the ends instead.

    Parameters
    ----------
    lower, upper : tuple of float
        Corners of the domain in space.
    final_time : float
        Where the evolution ends; it starts at t = 0.

    Attributes
    ----------
    periodic : bool or tuple of bool
        One flag for all axes, or one for each; may be a field.
    linear : bool or None
        Whether rhs is affine in u; None lets the solver find out.
    growth : float
        The largest factor by which the root mean square of u can grow.  A run is stopped as unstable
        beyond one and a half times that.  1 for equations that dissipate or conserve.
    default_sharpness, default_overlap : float
        Initial shapes of the bumps: sharpness in units of 1/sqrt(grid spacing), side lengths in grid spacings.
    name, summary, outputs, want, default_bumps
        As for every :class:`~bumpnet_fast.problems.Problem`; ``want`` is the jet that :meth:`rhs` needs.

    Raises
    ------
    ValueError
        If a field cannot be what its default is, the domain is empty, or final_time is not positive.

    Examples
    --------
    Everything it takes to pose u_t = u_xx + u (1 - u) on a periodic interval:

    >>> @dataclass
    ... class Fisher(EvolutionProblem):
    ...     name = "fisher"
    ...     lower: tuple = (0.0,)
    ...     upper: tuple = (10.0,)
    ...
    ...     def initial(self, x):
    ...         return torch.exp(-((x[:, 0] - 5) ** 2))
    ...
    ...     def rhs(self, x, u, t):
    ...         return u.laplacian + u.value * (1 - u.value)
    ...
    >>> Fisher(final_time="2.5")
    Fisher(lower=(0.0,), upper=(10.0,), final_time=2.5)
    """

    periodic: ClassVar[bool | tuple[bool, ...]] = True
    growth: ClassVar[float] = 100.0
    default_sharpness: ClassVar[float] = 0.8
    default_overlap: ClassVar[float] = 2.5

    lower: tuple[float, ...] = (-1.0,)
    upper: tuple[float, ...] = (1.0,)
    final_time: float = 1.0

    def __post_init__(self):
        for name, instead in _OF_OTHERS.items():
            if getattr(type(self), name) is not getattr(Problem, name):
                raise ValueError(f"{name} is not for an evolution problem, and would be ignored: {instead}")
        super().__post_init__()
        if self.sloped and len(self.lower) != 1:
            raise ValueError(f"boundary_slopes is for one space dimension, and the problem has {len(self.lower)}")
        if not self.final_time > 0:
            raise ValueError(f"final_time must be positive, got {self.final_time!r}")

    def _check_periodic(self) -> None:
        flags = self.periodic if isinstance(self.periodic, tuple) else (self.periodic,)
        if len(flags) not in (1, len(self.lower)) or not all(isinstance(flag, bool) for flag in flags):
            wanted = f"True, False or {len(self.lower)} of them, one per axis"
            raise ValueError(f"periodic must be {wanted}, got {self.periodic!r}")

    @property
    def periodic_axes(self) -> tuple[int, ...]:
        """The axes along which u repeats."""
        d = len(self.lower)
        flags = self.periodic if isinstance(self.periodic, tuple) else (self.periodic,) * d
        return tuple(j for j in range(d) if (flags * d)[j])

    @property
    def sloped(self) -> bool:
        """Whether the slope of u is prescribed at the ends, and not u."""
        given = type(self).boundary_slopes is not EvolutionProblem.boundary_slopes
        return given and len(self.periodic_axes) < len(self.lower)

    @property
    def held_axes(self) -> tuple[int, ...]:
        """The axes on whose faces u is prescribed: those that are not periodic, unless the slope of u is prescribed."""
        if self.sloped:
            return ()
        return tuple(j for j in range(len(self.lower)) if j not in self.periodic_axes)

    # --- the equation: what a subclass writes ------------------------------------------------------

    def rhs(self, x: Tensor, u: Jet, t: float) -> Tensor:
        """u_t, [N] or [N, K], from the jet of u at the points ``x`` [N, d] and at time ``t``.

        It may depend on u at that point only.
        """
        raise NotImplementedError(f"{type(self).__name__} must define rhs(x, u, t)")

    def stiff_part(self, x: Tensor, u: Jet) -> Tensor | None:
        """The terms of :meth:`rhs` that are linear in u and stiff, in the same form.

        Exponential integrators treat them exactly.  None means the linearisation of rhs about u = 0.
        """
        return None

    def initial(self, x: Tensor) -> Tensor:
        """u at t = 0, [N] or [N, K]; by default the exact solution there."""
        start = self.exact(x, 0.0)
        if start is None:
            raise NotImplementedError(f"{type(self).__name__} must define initial(x) or exact(x, t)")
        return start

    def exact(self, x: Tensor, t: float) -> Tensor | None:
        """Exact solution, [N] or [N, K], where known."""
        return None

    def reference(self, x: Tensor, t: float | None = None) -> Tensor | None:
        """The exact solution, or on a periodic domain that of a Fourier method, which is stored for later calls.

        None if neither is available.
        """
        if t is None:  # a solver without time asks
            return self.residual(x, None)
        exact = self.exact(x, t)
        if exact is None and len(self.periodic_axes) == len(self.lower):
            return fourier_solution(self, x, t)
        return exact

    # --- the boundary ------------------------------------------------------------------------------

    @property
    def faces(self) -> tuple[tuple[int, int], ...]:
        """Faces of the box, (axis, 0 or 1), on which u is given."""
        return tuple((j, side) for j in self.held_axes for side in (0, 1))

    def shifts(self) -> list[tuple[float, ...]]:
        """Only the point itself: the images of the bumps make u periodic."""
        return [(0.0,) * len(self.lower)]

    def wrap(self, x: Tensor, want: str) -> Callable[[Jet], Jet]:
        """Nothing to do, for the same reason."""
        return lambda v: v

    def boundary_values(self, x: Tensor) -> Tensor:
        """Steady Dirichlet data, [N] or [N, K], at points of the faces that are not periodic: zero by default."""
        return torch.zeros_like(x[:, 0])

    def boundary_slopes(self, x: Tensor) -> Tensor:
        """Steady Neumann data: u_x, [N] or [N, K], at the ends of an axis that is not periodic.

        If a subclass defines it, the slopes of u are given there and not its values.  This is for one space dimension,
        and for ``evolve(problem, error=...)``.
        """
        return torch.zeros_like(x[:, 0])

    def lift(self, x: Tensor) -> Tensor:
        """A smooth function with the values on the faces, or with the slopes at the ends where those are given."""
        if not self.sloped:
            return super().lift(x)
        ends = self.domain.to(x)
        first, last = self.boundary_slopes(ends).reshape(2, -1)
        s, width = x - ends[0], ends[1] - ends[0]
        values = first * s + 0.5 * (last - first) * s * s / width
        return values[:, 0] if self.outputs == 1 else values

    def residual(self, x: Tensor, u: Jet) -> Tensor:
        name = self.name or type(self).__name__
        raise NotImplementedError(f"problem {name!r} evolves in time: use solvers.evolve")
