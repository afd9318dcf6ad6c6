"""Checks of the arguments of a training, before any work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...core import checking
from ...core.jet import Jet
from ...nets.deeponet import BumpDeepONet
from ...problems.operators.base import Equation, Operator, OperatorData
from ..arguments import check_domain, check_options, choice, flag, integer, number, option, positive

METHODS = ("two-step", "adam")

_RIDGE = {torch.float32: 1e-12, torch.float64: 1e-16}


@dataclass(frozen=True)
class Options:
    """Options of :func:`.learn.learn`; raises ValueError for one out of range."""

    method: str = option("two-step", choice(*METHODS))
    physics: bool = option(False, flag())
    functions: int = option(1000, integer(2))
    test_functions: int = option(200, integer())
    iterations: int = option(4000, integer())
    learning_rate: float = option(3e-3, positive())
    batch: int = option(256, integer(1))
    polish: int = option(0, integer())
    trunk_iterations: int = option(200, integer())
    tolerance: float = option(1e-3, number())
    ridge: float | None = option(None, number(optional=True))
    max_seconds: float | None = option(None, positive(optional=True))
    seed: int = option(0, integer())

    def __post_init__(self):
        check_options(self)

    def ridge_for(self, net: BumpDeepONet) -> float:
        """The ridge; the default depends on the net's precision."""
        return _RIDGE[net.rows.dtype] if self.ridge is None else float(self.ridge)


def check_operator(operator: Operator, net: BumpDeepONet) -> None:
    """Raise ValueError unless ``net`` can represent the operator's output functions."""
    name = operator.name or type(operator).__name__
    if net.sensors != operator.sensors:
        raise ValueError(f"net has {net.sensors} sensors and operator {name!r} has {operator.sensors}")
    check_domain(net.domain, operator.domain, f"operator {name!r}")


def check_kinds(operator_or_data: Any, net: Any, test: Any) -> None:
    """Raise TypeError unless these are an operator or pairs of functions, a net, and pairs of functions or None."""
    if not isinstance(operator_or_data, (Operator, OperatorData)):
        what = f"an Operator, such as get_operator('heat'), or OperatorData, got {type(operator_or_data).__name__}"
        raise TypeError(f"operator_or_data must be {what}")
    if not isinstance(net, BumpDeepONet):
        raise TypeError(f"net must be a BumpDeepONet, got {type(net).__name__}")
    if test is not None and not isinstance(test, OperatorData):
        raise TypeError(f"test must be OperatorData or None, got {type(test).__name__}")


def check_finite(net: BumpDeepONet) -> None:
    """Raise ValueError if a parameter of a net is infinite or not a number."""
    for name, parameter in net.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise ValueError(f"net must be finite, and its parameter {name!r} is not")


def check_physics(operator: Operator | None) -> None:
    """Raise ValueError unless there are equations to train on."""
    if operator is None:
        raise ValueError("physics needs an operator with equations as data, got pairs of functions")
    if not operator.equations():
        raise ValueError(f"operator {operator.name!r} has no equations to train on; use physics=False")


def equation_points(equation: Equation, dim: int) -> Tensor:
    """The points [N, dim] of an equation; ValueError unless they are that, and finite."""
    what, y = f"points of equation {equation.name!r}", equation.points
    checking.check_real(what, y, f"[N, {dim}]")
    if y.dim() != 2 or y.shape[1] != dim or not len(y):
        raise ValueError(f"{what} must have shape [N, {dim}], got {tuple(y.shape)}")
    checking.check_finite(what, y)
    return y


def equation_rows(equation: Equation, y: Tensor, f: Tensor, u: Jet) -> Tensor:
    """The residual [B or 1, N] of an equation; ValueError unless it is that."""
    rows, what, wanted = equation.residual(y, f, u), f"the residual of equation {equation.name!r}", (len(f), len(y))
    checking.check_real(what, rows, str(list(wanted)))
    if tuple(rows.shape) not in (wanted, (1, len(y))):
        raise ValueError(f"{what} must have shape {list(wanted)}, a row per function, got {tuple(rows.shape)}")
    return rows


def check_data(name: str, data: OperatorData, net: BumpDeepONet) -> None:
    """Raise TypeError or ValueError unless ``data`` are finite pairs of functions that ``net`` is made for."""
    for part, t in data._asdict().items():
        if not isinstance(t, Tensor) or not t.is_floating_point():
            raise TypeError(
                f"{name}.{part} must be a floating point tensor, got {getattr(t, 'dtype', type(t).__name__)}"
            )
    inputs, outputs, points = data
    dim = net.layout.dim
    if points.dim() != 2 or points.shape[1] != dim or not len(points):
        raise ValueError(f"{name}.points must have shape [points, {dim}], got {tuple(points.shape)}")
    if inputs.dim() != 2 or inputs.shape[1] != net.sensors or not len(inputs):
        wanted = f"[functions, {net.sensors}], one column per sensor of the net"
        raise ValueError(f"{name}.inputs must have shape {wanted}, got {tuple(inputs.shape)}")
    if outputs.shape != (len(inputs), len(points)):
        wanted = f"[{len(inputs)}, {len(points)}], a row per input function and a column per point"
        raise ValueError(f"{name}.outputs must have shape {wanted}, got {tuple(outputs.shape)}")
    for part, t in data._asdict().items():
        checking.check_finite(f"{name}.{part}", t)
    lo, hi = net.domain.cpu().double()
    slack, y = 1e-5 * (hi - lo), points.detach().cpu().double()
    if not bool(((y >= lo - slack) & (y <= hi + slack)).all()):
        raise ValueError(f"{name}.points must lie in the domain of the net, {net.domain.tolist()}")
