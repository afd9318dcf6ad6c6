"""Regression: a function given by a formula or by data, fitted by bumps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, make_dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from ..core import checking
from .base import Problem


@dataclass
class Regression(Problem):
    """``u(x) = f(x)`` on [-pi, pi], with f = sin; nothing is prescribed at the ends.

    Other functions, in any dimension, by :meth:`of`; scattered data by :meth:`through`.

    Examples
    --------
    >>> problem = Regression.of(lambda x: torch.exp(-x.square().sum(1)), [-1, -1, -1], [1, 1, 1])
    >>> problem.exact(torch.zeros(1, 3)).item()
    1.0
    """

    name = "regression"
    summary = "u = sin(x): a fit by least squares"
    want = "value"
    linear = True
    dirichlet = ()
    default_bumps = 6
    options = MappingProxyType({"ridge": 1e-17, "iterations": 300, "tolerance": 1e-5})

    function: ClassVar[Callable[[Tensor], Tensor]] = staticmethod(lambda x: torch.sin(x[:, 0]))

    lower: tuple[float, ...] = (-torch.pi,)
    upper: tuple[float, ...] = (torch.pi,)

    def residual(self, x, u):
        return u.value - self.exact(x).reshape(len(x), -1)

    def exact(self, x):
        return self.function(x)

    @classmethod
    def of(cls, function: Callable[[Tensor], Tensor], lower, upper, outputs: int = 1) -> Problem:
        """The regression of ``function``, [N, d] -> [N] or [N, K], on the box from ``lower`` to ``upper``."""
        return cls._on(lower, upper, function=staticmethod(function), outputs=outputs)

    @classmethod
    def through(cls, x: Tensor, values: Tensor, lower=None, upper=None) -> Problem:
        """The regression of ``values`` [N] or [N, K] at the points ``x`` [N, d], on their bounding box by default.

        Raises
        ------
        TypeError, ValueError
            If these are no tensors, are not finite, or there are not as many values as points.

        Examples
        --------
        >>> x = torch.linspace(0, 1, 50)[:, None]
        >>> Regression.through(x, x[:, 0] ** 2).upper
        (1.0,)
        """
        for name, given, wanted in (("x", x, "[N, d]"), ("values", values, "[N] or [N, K]")):
            if not isinstance(given, Tensor):
                raise TypeError(f"{name} must be a tensor {wanted}, got {type(given).__name__}: use torch.as_tensor")
            checking.check_finite(name, given)
        if x.dim() != 2 or len(values) != len(x):
            raise ValueError(f"x must be [N, d] and values [N] or [N, K], got {tuple(x.shape)}, {tuple(values.shape)}")
        x, data = x.detach().double(), values.detach().reshape(len(x), -1).double()

        def residual(self, at, u):
            return u.value - data.to(u.value)

        lower, upper = x.amin(0) if lower is None else lower, x.amax(0) if upper is None else upper
        return cls._on(lower, upper, points=x, outputs=data.shape[1], residual=residual, exact=lambda self, x: None)

    @classmethod
    def _on(cls, lower, upper, **members) -> Problem:
        corners = [(name, tuple, tuple(map(float, end))) for name, end in (("lower", lower), ("upper", upper))]
        return make_dataclass(cls.__name__, corners, bases=(cls,), namespace=members)()
