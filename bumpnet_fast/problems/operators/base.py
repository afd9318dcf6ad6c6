"""The class of operator problems: input functions, output functions, and the points where both are known.

An operator knows nothing of bumps or solvers.  To pose one, subclass :class:`Operator` (``antiderivative.py`` is an
example), or use your own arrays as :class:`OperatorData`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ...core.jet import Jet
from ...core.scopes import torch_threads
from ..base import settle_fields
from . import fields as random_fields

#: Smallest number of sensors or points.
_FEWEST = 4


#: Methods of an operator that generate data.  The order of sums depends on the number of threads, and changes
#: eigenvectors of a covariance in the seventh digit.
_DATA = ("inputs", "apply", "at_points", "at_sensors", "generate")


class OperatorData(NamedTuple):
    """Pairs of functions.

    Attributes
    ----------
    inputs : Tensor
        [count, S]: the input functions at the S sensors.
    outputs : Tensor
        [count, N]: the output functions at the points.
    points : Tensor
        [N, d].

    Examples
    --------
    >>> x = torch.linspace(0, 1, 20)
    >>> f = torch.randn(5, 1) * x
    >>> data = OperatorData(inputs=f, outputs=f**2, points=x[:, None])
    >>> train, test = data.split(4)
    >>> len(train.inputs), test.outputs.shape
    (4, torch.Size([1, 20]))
    """

    inputs: Tensor
    outputs: Tensor
    points: Tensor

    def split(self, count: int) -> tuple[OperatorData, OperatorData]:
        """The first ``count`` pairs, and the rest."""
        first = OperatorData(self.inputs[:count], self.outputs[:count], self.points)
        return first, OperatorData(self.inputs[count:], self.outputs[count:], self.points)

    def to(self, *arguments, **options) -> OperatorData:
        """All tensors in another dtype or on another device, as :meth:`torch.Tensor.to`."""
        return OperatorData(*(t.to(*arguments, **options) for t in self))


@dataclass(frozen=True)
class Equation:
    """An equation that the output function fulfils, for training without outputs.

    Parameters
    ----------
    name : str
        For messages.
    points : Tensor
        [N, d], where it holds.
    residual : callable
        ``residual(y, f, u)`` -> [B, N], zero where it holds: ``y`` [N, d] are the points, ``f`` [B, N]
        the input functions at the first coordinate of ``y``, and ``u`` the output functions' jet with
        values [B, N], gradients [B, N, d] and second derivatives.
    want : str
        The jet that ``residual`` needs.
    weight : float
        Factor of its mean square in the loss.
    """

    name: str
    points: Tensor
    residual: Callable[[Tensor, Tensor, Jet], Tensor]
    want: str = "value"
    weight: float = 1.0


@dataclass
class Operator:
    """An operator from functions f on [0, 1] to functions u of d coordinates.

    A subclass is a dataclass: its fields, with defaults, are what a user may set
    (``Advection(shift=0.1)``, ``bumpnet operator advection --set shift=0.1``).  It must define
    :meth:`apply`; the rest has defaults.  Methods that generate data run on one thread, also those of a subclass, so
    that the data are the same bit for bit for any number of threads.

    Parameters
    ----------
    length_scale : float
        Of the random input functions, see :func:`.fields.gaussian_field`.
    sensors : int
        Number S of points, equally spaced over [0, 1], where a net sees an input function.
    grid : int
        Number of points per coordinate where output functions are known.

    Attributes
    ----------
    name, summary : str
        Its name in :data:`bumpnet_fast.problems.operators.OPERATORS`, and a line for the list.
    periodic : bool
        Whether input and output functions have period 1 in x.
    linear : bool
        Whether the operator is linear: a linear branch can then represent it.
    default_bumps : int or tuple of int
        Number of bumps of a trunk that works well.
    signed : tuple of str
        Fields that need not be positive.

    Raises
    ------
    ValueError
        If a field cannot be what its default is, or is out of range.

    Examples
    --------
    Everything it takes to pose f -> f^2:

    >>> @dataclass
    ... class Square(Operator):
    ...     name, linear = "square", False
    ...
    ...     def apply(self, f):
    ...         return self.at_points(f) ** 2
    ...
    >>> data = Square(sensors=11).generate(3, seed=0)
    >>> data.inputs.shape, data.outputs.shape, data.points.shape
    (torch.Size([3, 11]), torch.Size([3, 101]), torch.Size([101, 1]))
    """

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    periodic: ClassVar[bool] = False
    linear: ClassVar[bool] = True
    default_bumps: ClassVar[Any] = 8
    signed: ClassVar[tuple[str, ...]] = ()

    length_scale: float = 0.2
    sensors: int = 51
    grid: int = 101

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        _make_data_on_one_thread(cls)

    def __post_init__(self):
        settle_fields(self)
        for field in fields(self):
            value = getattr(self, field.name)
            least = _FEWEST if isinstance(field.default, int) else 0
            if field.name not in self.signed and (value < least or value == 0):
                raise ValueError(f"{field.name} must be {f'at least {least}' if least else 'positive'}, got {value!r}")

    @classmethod
    def settings(cls) -> dict[str, Any]:
        """Names and defaults of the fields that a user may set."""
        return {field.name: field.default for field in fields(cls)}

    # --- where functions are known -------------------------------------------------------------

    @property
    def fine(self) -> int:
        """Number of grid points of the random input functions; the grid resolves them and contains the sensors."""
        parts = self.sensors if self.periodic else self.sensors - 1
        wanted = max(200, math.ceil(10 / self.length_scale))
        return math.ceil(wanted / parts) * parts + (not self.periodic)

    @property
    def domain(self) -> Tensor:
        """Lower and upper corner [2, d] of the box of the output functions, float64."""
        return torch.tensor([[0.0], [1.0]], dtype=torch.float64)

    @property
    def points(self) -> Tensor:
        """Where outputs are known, [N, d], float64."""
        return random_fields.grid(self.grid, self.periodic)[:, None]

    # --- the operator: what a subclass writes ----------------------------------------------------

    def apply(self, f: Tensor) -> Tensor:
        """Output functions [B, N] at :attr:`points` of the input functions ``f`` [B, n] on any regular grid."""
        raise NotImplementedError(f"{type(self).__name__} must define apply(f)")

    def equations(self) -> list[Equation]:
        """Equations that determine the output functions, for training without data; none by default."""
        return []

    # --- data ------------------------------------------------------------------------------------

    def at_points(self, f: Tensor, y: Tensor | None = None) -> Tensor:
        """Values [B, N] of ``f`` [B, n], given on a regular grid, at the first coordinate of ``y`` [N, d]."""
        y = self.points if y is None else y
        matrix = random_fields.interpolation(f.shape[1], y[:, 0].detach().cpu(), self.periodic)
        return f @ matrix.to(f)

    def inputs(self, count: int, seed: int = 0) -> Tensor:
        """Random input functions [count, fine]."""
        generator = torch.Generator().manual_seed(seed)
        return random_fields.gaussian_field(
            count, self.fine, self.length_scale, periodic=self.periodic, generator=generator
        )

    def at_sensors(self, f: Tensor) -> Tensor:
        """Values [B, sensors] of the input functions ``f`` [B, fine] at the sensors."""
        ends = 0 if self.periodic else 1
        return f[:, :: (self.fine - ends) // (self.sensors - ends)].contiguous()

    def generate(self, count: int, seed: int = 0) -> OperatorData:
        """``count`` random input functions with their output functions, float64.

        Raises
        ------
        ValueError
            If ``count`` is not a positive integer.

        Examples
        --------
        >>> from bumpnet_fast.problems.operators import get_operator
        >>> data = get_operator("antiderivative").generate(5)
        >>> data.inputs.shape, data.outputs.shape
        (torch.Size([5, 51]), torch.Size([5, 101]))
        """
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ValueError(f"count must be a positive integer, got {count!r}")
        f = self.inputs(count, seed)
        return OperatorData(self.at_sensors(f), self.apply(f), self.points)


def _make_data_on_one_thread(kind: type[Operator]) -> None:
    """Pin the methods that a class itself defines."""
    for name in _DATA:
        method = vars(kind).get(name)
        if callable(method):
            setattr(kind, name, _pinned(method))


def _pinned(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def pinned(*arguments: Any, **options: Any) -> Any:
        with torch_threads(1):
            return method(*arguments, **options)

    return pinned


_make_data_on_one_thread(Operator)
