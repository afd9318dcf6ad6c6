"""Losses over batches of functions, as Adam and L-BFGS use them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...nets.deeponet import BumpDeepONet
from ...problems.operators.base import Operator, OperatorData
from ..objective import Objective
from .branch import evaluating
from .check import equation_rows
from .fit import Fit, at_equation, function_weights, relative_weights

#: Loss of some functions, by their indices, or of all.
Loss = Callable[[Tensor | slice], Tensor]


def data_loss(net: BumpDeepONet, mix: Tensor, data: OperatorData) -> Loss:
    """Mean over the functions of the squared relative error; ``mix`` maps the branch's output to amplitudes."""
    inputs, outputs, points = data.to(net.rows)
    weights = relative_weights(outputs)

    def loss(chosen: Tensor | slice) -> Tensor:
        u = net.combine(net.coefficients(inputs[chosen]) @ mix, points).value
        return (weights[chosen] * (u - outputs[chosen])).square().sum(1).mean()

    return loss


def physics_loss(net: BumpDeepONet, mix: Tensor, operator: Operator, functions: Tensor) -> Loss:
    """Sum over the operator's equations of the weighted mean squares of their residuals.

    ``functions`` [B, fine] are input functions as the operator draws them.  Residuals are relative to the mean square
    of each function.
    """
    sensors, weights = operator.at_sensors(functions).to(net.rows), function_weights(functions).to(net.rows)
    parts = []
    for equation in operator.equations():
        y, f, factor = at_equation(operator, equation, functions)
        parts.append((equation, y.to(net.rows), f.to(net.rows), factor * weights))

    def loss(chosen: Tensor | slice) -> Tensor:
        h, total = net.coefficients(sensors[chosen]) @ mix, 0.0
        for equation, y, f, factor in parts:
            rows = equation_rows(equation, y, f[chosen], net.combine(h, y, equation.want))
            total = total + (factor[chosen] * rows).square().sum(1).mean()
        return total

    return loss


def branch_loss(net: BumpDeepONet, functions: Tensor, fit: Fit) -> Loss:
    """Mean over the functions of the squared residual of ``fit``, for the current shapes.

    ``functions`` [R, M] are the rows that the branch's output multiplies.
    """
    inputs, targets, weights, functions = (t.to(net.rows) for t in (fit.inputs, fit.targets, fit.weights, functions))

    def loss(chosen: Tensor | slice) -> Tensor:
        rows = net.coefficients(inputs[chosen]) @ functions.T - targets[chosen]
        return (weights[chosen] * rows).square().sum(1).mean()

    return loss


class FunctionsObjective(Objective):
    """A loss over functions, in random batches.

    Parameters
    ----------
    loss : callable
        Loss of some functions, or of all.
    module : nn.Module
        The trained module: all its parameters that require gradients.
    functions : int
        Number of functions.
    batch : int, optional
        Functions per step, drawn without replacement; all by default.
    seed : int
        Seed of the batches.
    leave : callable, optional
        Called at the end of the stage.
    """

    def __init__(
        self, loss: Loss, module: nn.Module, functions: int, batch: int | None = None, seed: int = 0,
        leave: Callable[[], None] | None = None,
    ):  # fmt: skip
        self.loss, self.module, self.functions, self.leave = loss, module, functions, leave
        self.batch = functions if batch is None else batch
        self.generator = torch.Generator().manual_seed(seed)

    @property
    def parameters(self) -> list[Tensor]:
        return [p for p in self.module.parameters() if p.requires_grad]

    def next(self) -> Tensor | slice:
        """The functions of the next batch."""
        if self.batch >= self.functions:
            return slice(None)
        drawn = torch.randperm(self.functions, generator=self.generator)[: self.batch]
        return drawn.to(self.parameters[0].device)

    def backward(self, whole: bool = False, scale: float = 1.0) -> Tensor:
        loss = scale * self.loss(slice(None) if whole else self.next())
        loss.backward()
        return loss.detach()

    @torch.no_grad()
    def observe(self) -> float:
        with evaluating(self.module):
            return float(self.loss(slice(None)))

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"])

    def finish(self) -> None:
        if self.leave is not None:
            self.leave()
