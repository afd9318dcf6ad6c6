"""What is asked of the arguments of a training, before any work."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch
from torch import Tensor

from ...nets.deeponet import BumpDeepONet
from ...problems.operators.base import Operator, OperatorData

METHODS = ("two-step", "adam")

_RIDGE = {torch.float32: 1e-12, torch.float64: 1e-16}


@dataclass(frozen=True)
class Options:
    """The options of :func:`.train.train`; raises ValueError for one that is out of range."""

    method: str
    physics: bool
    functions: int
    test_functions: int
    iterations: int
    learning_rate: float
    batch: int
    polish: int
    trunk_iterations: int
    tolerance: float
    ridge: float | None
    max_seconds: float | None
    seed: int

    def __post_init__(self):
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {self.method!r}")
        if not isinstance(self.physics, bool):
            raise ValueError(f"physics must be True or False, got {self.physics!r}")
        least = {"functions": 2, "test_functions": 0, "iterations": 0, "batch": 1, "polish": 0}
        for name, limit in (least | {"trunk_iterations": 0, "seed": 0}).items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < limit:
                raise ValueError(f"{name} must be an integer of at least {limit}, got {value!r}")
        for name, positive in (("learning_rate", True), ("max_seconds", True), ("tolerance", False), ("ridge", False)):
            value = getattr(self, name)
            if value is None and name in ("max_seconds", "ridge"):
                continue
            if not isinstance(value, (int, float)) or not 0 <= value <= sys.float_info.max or (positive and value == 0):
                raise ValueError(f"{name} must be {'positive' if positive else 'at least 0'}, got {value!r}")

    def ridge_for(self, net: BumpDeepONet) -> float:
        """The ridge, by default one that suits the net's precision."""
        return _RIDGE[net.rows.dtype] if self.ridge is None else float(self.ridge)


def check_operator(operator: Operator, net: BumpDeepONet) -> None:
    """Raise ValueError unless ``net`` can represent the operator's output functions."""
    name, domain, own = operator.name or type(operator).__name__, operator.domain, net.domain.cpu().double()
    if net.sensors != operator.sensors:
        raise ValueError(f"net has {net.sensors} sensors and operator {name!r} has {operator.sensors}")
    if own.shape != domain.shape or not bool(((own - domain).abs() <= 1e-5 * (domain[1] - domain[0])).all()):
        raise ValueError(f"net is for the domain {own.tolist()} and operator {name!r} is posed on {domain.tolist()}")


def check_physics(operator: Operator | None) -> None:
    """Raise ValueError unless there are equations to train on."""
    if operator is None:
        raise ValueError("physics needs an operator with equations as data, got pairs of functions")
    if not operator.equations():
        raise ValueError(f"operator {operator.name!r} has no equations to train on; use physics=False")


def check_data(name: str, data: OperatorData, net: BumpDeepONet) -> None:
    """Raise TypeError or ValueError unless ``data`` are finite pairs of functions that ``net`` is made for."""
    if not isinstance(data, OperatorData):
        raise TypeError(f"{name} must be an Operator or OperatorData, got {type(data).__name__}")
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
        if not bool(torch.isfinite(t).all()):
            raise ValueError(f"{name}.{part} must be finite")
    lo, hi = net.domain.cpu().double()
    slack, y = 1e-5 * (hi - lo), points.detach().cpu().double()
    if not bool(((y >= lo - slack) & (y <= hi + slack)).all()):
        raise ValueError(f"{name}.points must lie in the domain of the net, {net.domain.tolist()}")
