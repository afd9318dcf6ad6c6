"""u over named axes, of a solution or of an evolution, and slices of it: for pictures and exported files.

A field evaluates at points in NumPy's double precision, and is NaN outside of the domain.  For an evolution time is
the last axis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import qmc
from torch import Tensor

from ..solvers import Evolution
from ..solvers.solution import FieldResult

#: Points per evaluation; bounds the memory.
CHUNK = 8192
#: A plane through the middle is replaced if u is smaller there than this part of its maximum.
VANISHING = 0.05


def axis_names(dim: int, time: int | None) -> tuple[str, ...]:
    """Names of the axes: x, y, z (x1, x2, ... if there are more than three in space) and t.

    Examples
    --------
    >>> axis_names(3, 2), axis_names(4, None)
    (('x', 'y', 't'), ('x1', 'x2', 'x3', 'x4'))
    """
    space = dim - (time is not None)
    names = list("xyz"[:space]) if space <= 3 else [f"x{k}" for k in range(1, space + 1)]
    if time is not None:
        names.insert(time, "t")
    return tuple(names)


class Field:
    """u of a solution, over the axes of its problem.

    Attributes
    ----------
    of : FieldResult or Evolution
        The result it is taken from.
    box : ndarray
        [2, d], lower and upper corner.
    names : tuple of str
        Names of the axes.
    time : int or None
        Index of the axis of time.
    outputs : int
        Number of components K of u.
    """

    def __init__(self, of: FieldResult):
        self.of, self.problem = of, of.problem
        self.time = self.problem.time
        self.box, self.outputs = self.problem.domain.numpy(), of.net.layout.outputs
        self.names = axis_names(self.box.shape[1], self.time)
        self._like = of.like.detach()

    # --- at points [N, d] ------------------------------------------------------------------------

    def inside(self, points: np.ndarray) -> np.ndarray:
        """Which of the points belong to the domain, [N]."""
        return self.problem.inside(torch.from_numpy(points)).numpy()

    def u(self, points: np.ndarray) -> np.ndarray:
        """u at the points, [N, K]."""
        return self._masked(points, self._in_parts(points, lambda x: self.of.predict(x)))

    def gradient(self, points: np.ndarray) -> np.ndarray | None:
        """Gradient at the points, [N, K, d]."""
        return self._masked(points, self._in_parts(points, lambda x: self.of.jet(x, "gradient").gradient))

    def exact(self, points: np.ndarray) -> np.ndarray | None:
        """The exact solution or another reference for errors, [N, K]; None if unknown."""
        with torch.no_grad():
            values = self.problem.reference(torch.from_numpy(points))
        return None if values is None else self._masked(points, _as_array(values.reshape(len(points), -1)))

    def residual(self, points: np.ndarray) -> np.ndarray | None:
        """Largest absolute residual of the equations at the points, [N, 1]; None if it is not known there."""
        if self.problem.points is not None:
            return None
        try:
            values = self._in_parts(points, lambda x: self.of.residual(x).abs().amax(1, True))
        except Exception:  # of a problem that is not known any more, or of a user's function
            return None
        return self._masked(points, values)

    def estimated_error(self, points: np.ndarray) -> np.ndarray | None:
        """Absolute estimated error at the points, [N, K]; None if there is no estimate."""
        if self.problem.points is not None or not self.of.error_estimate.enriched:
            return None
        return self._masked(points, self._in_parts(points, lambda x: self.of.estimated_error(x).abs()))

    def over(self, points: np.ndarray) -> Callable[[float], np.ndarray]:
        """u [N, K] at fixed points ``points`` [N, d - 1] as a function of time."""
        return lambda t: self.u(np.insert(points, self.time, t, axis=1))

    @torch.no_grad()
    def _in_parts(self, points: np.ndarray, values: Callable[[Tensor], Tensor]) -> np.ndarray:
        x = torch.from_numpy(points).to(self._like)
        return np.concatenate([_as_array(values(part)) for part in x.split(CHUNK)])

    def _masked(self, points: np.ndarray, values: np.ndarray) -> np.ndarray:
        return np.where(self.inside(points).reshape(-1, *(1,) * (values.ndim - 1)), values, np.nan)

    # --- places ----------------------------------------------------------------------------------

    def held(self, at: Mapping[str, float] | None) -> dict[int, float]:
        """Fixed axes with their values, from a mapping by name; ValueError if impossible."""
        held = {}
        for name, value in (at or {}).items():
            if name not in self.names:
                raise ValueError(f"there is no axis {name!r} to slice at; there are: {', '.join(self.names)}")
            axis = self.names.index(name)
            lo, hi = self.box[:, axis]
            if not lo <= value <= hi:
                raise ValueError(f"the slice at {name} must be from {lo:g} to {hi:g}, got {value!r}")
            held[axis] = float(value)
        if len(held) >= len(self.names):
            raise ValueError(f"slices must leave at least one of the axes {', '.join(self.names)}, got all of them")
        return held

    def component(self, output: int) -> int:
        """``output``, if u has such a component; otherwise ValueError."""
        if not isinstance(output, int) or isinstance(output, bool) or not 0 <= output < self.outputs:
            raise ValueError(f"output must be an integer from 0 to {self.outputs - 1}, got {output!r}")
        return output

    def peak(self, held: Mapping[int, float] | None = None, output: int = 0) -> np.ndarray:
        """The point [d] where u is largest, among some thousand points with the given coordinates fixed."""
        points = qmc.scale(qmc.Sobol(self.box.shape[1], scramble=False).random_base2(12)[1:], *self.box)
        for axis, value in (held or {}).items():
            points[:, axis] = value
        return points[np.argmax(np.abs(np.nan_to_num(self.u(points)[:, output])))]


class EvolutionField(Field):
    """u of an evolution, over space and time."""

    def __init__(self, of: Evolution):
        self.of, self.problem = of, of.problem
        space = of.problem.domain.numpy()
        self.time = space.shape[1]
        first, last = float(of.times[0]), float(of.times[-1])
        self.box, self.outputs = np.column_stack([space, (first, last)]), of.net.layout.outputs
        self.names = axis_names(self.time + 1, self.time)

    def inside(self, points: np.ndarray) -> np.ndarray:
        return self.problem.inside(torch.from_numpy(np.ascontiguousarray(points[:, : self.time]))).numpy()

    def u(self, points: np.ndarray) -> np.ndarray:
        return self._masked(points, self._by_time(points, lambda x, t: self.of.predict(x, t)))

    def gradient(self, points: np.ndarray) -> np.ndarray | None:
        """Gradient in space, [N, K, d - 1]."""
        return self._masked(points, self._by_time(points, lambda x, t: self.of.jet(x, t, "gradient").gradient))

    def exact(self, points: np.ndarray) -> np.ndarray | None:
        if self.problem.exact(torch.from_numpy(self.box[:1, : self.time]), 0.0) is None:
            return None
        values = self._by_time(points, lambda x, t: self.problem.exact(x, t).reshape(len(x), -1))
        return self._masked(points, values)

    def residual(self, points: np.ndarray) -> None:
        return None

    def estimated_error(self, points: np.ndarray) -> None:
        return None

    def over(self, points: np.ndarray) -> Callable[[float], np.ndarray]:
        values = self.of.on(torch.from_numpy(points).to(self.of.states.device))
        return lambda t: self._masked(points, _as_array(values(t)))

    @torch.no_grad()
    def _by_time(self, points: np.ndarray, values: Callable[[Tensor, float], Tensor]) -> np.ndarray:
        """``values(x, t)`` for every time in ``points``, in the order of the points."""
        times, which = np.unique(points[:, -1], return_inverse=True)
        device, parts, order = self.of.states.device, [], np.argsort(which, kind="stable")
        for t, rows in zip(times, np.split(order, np.cumsum(np.bincount(which))[:-1]), strict=True):
            x = torch.from_numpy(np.ascontiguousarray(points[rows, :-1])).to(device)
            parts += [_as_array(values(part, float(t))) for part in x.split(CHUNK)]
        return np.concatenate(parts)[np.argsort(order)]


def field_of(result: FieldResult | Evolution) -> Field:
    """The field of a solution, a march or an evolution; TypeError for something else."""
    if not isinstance(result, (FieldResult, Evolution)):
        raise TypeError(f"result must be a solution, a march or an evolution, got {type(result).__name__}")
    return (EvolutionField if isinstance(result, Evolution) else Field)(result)


def _as_array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().double().numpy()


# --- slices ----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Slice:
    """A part of a field to draw: a line, a plane or a block.

    Attributes
    ----------
    field : Field
        The field.
    axes : tuple of int
        The axes along the slice.
    through : ndarray
        [d], the coordinates of the others.
    """

    field: Field
    axes: tuple[int, ...]
    through: np.ndarray

    @property
    def box(self) -> np.ndarray:
        """Corners of the slice, [2, axes]."""
        return self.field.box[:, list(self.axes)]

    @property
    def names(self) -> list[str]:
        """Names of the axes along the slice."""
        return [self.field.names[axis] for axis in self.axes]

    @property
    def held(self) -> dict[str, float]:
        """The other axes, with their values."""
        names = self.field.names
        return {names[k]: float(value) for k, value in enumerate(self.through) if k not in self.axes}

    def points(self, ticks: Sequence[np.ndarray]) -> np.ndarray:
        """The grid [n, d] with these coordinates along its axes; the first axis varies fastest."""
        grid = np.stack(np.meshgrid(*reversed(ticks), indexing="ij")[::-1], -1).reshape(-1, len(ticks))
        points = np.tile(self.through, (len(grid), 1))
        points[:, list(self.axes)] = grid
        return points


def middles(lo: float, hi: float, cells: int) -> np.ndarray:
    """Centres of equal cells."""
    return lo + (hi - lo) * (np.arange(cells) + 0.5) / cells


def default_plane(field: Field, axes: Sequence[int], held: Mapping[int, float] | None = None) -> Slice:
    """The plane of the first two of these axes, through the point where u is largest."""
    return Slice(field, tuple(axes[:2]), field.box[0] if len(axes) <= 2 else field.peak(held))


def mid_planes(field: Field, at: Mapping[str, float] | None = None) -> list[Slice]:
    """Slices that show a field: its line, its plane, or three planes through the middle; some axes may be fixed.

    With more than three free axes, the last are fixed in the middle.  A plane on which u vanishes is moved to the point
    where u is largest.
    """
    held, middle = field.held(at), field.box.mean(0)
    free = [axis for axis in range(len(middle)) if axis not in held]
    for axis in free[3:]:
        held[axis] = middle[axis]
    for axis, value in held.items():
        middle[axis] = value
    free = free[:3]
    if len(free) < 3:
        return [Slice(field, tuple(free), middle)]
    planes, peak = [], field.peak(held)
    largest = np.nanmax(np.abs(field.u(peak[None])), initial=0.0)
    for axis in reversed(free):
        along = tuple(other for other in free if other != axis)
        plane = Slice(field, along, middle)
        ticks = [middles(*field.box[:, other], 20) for other in along]
        if not np.nanmax(np.abs(field.u(plane.points(ticks))), initial=0.0) > VANISHING * largest:
            plane = Slice(field, along, np.where(np.arange(len(middle)) == axis, peak, middle))
        planes.append(plane)
    return planes


__all__ = ["CHUNK", "EvolutionField", "Field", "Slice", "axis_names", "default_plane", "field_of", "mid_planes",
           "middles"]  # fmt: skip
