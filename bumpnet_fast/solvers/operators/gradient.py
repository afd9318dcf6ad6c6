"""Training by gradients: losses over a batch of functions, Adam, and L-BFGS to the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...nets.deeponet import BumpDeepONet
from ...problems.operators.base import Operator, OperatorData
from .fit import Fit, at_equation, function_weights, relative_weights

#: Learning rate at the end, relative to the start.
_FINAL_RATE = 1e-3
#: Steps of L-BFGS that it remembers, steps in a round, and evaluations that a round may take.
_HISTORY, ROUND, _EVALUATIONS = 50, 20, 60

#: Loss of some of the functions, by their indices, or of all.
Loss = Callable[[Tensor | slice], Tensor]


def data_loss(net: BumpDeepONet, mix: Tensor, data: OperatorData) -> Loss:
    """Mean over the functions of the squared relative error; ``mix`` makes amplitudes of what the branch gives."""
    inputs, outputs, points = data.to(net.rows)
    weights = relative_weights(outputs)

    def loss(chosen: Tensor | slice) -> Tensor:
        u = net.combine(net.coefficients(inputs[chosen]) @ mix, points).value
        return (weights[chosen] * (u - outputs[chosen])).square().sum(1).mean()

    return loss


def physics_loss(net: BumpDeepONet, mix: Tensor, operator: Operator, functions: Tensor) -> Loss:
    """Sum over the operator's equations of the weighted mean squares of their residuals.

    ``functions`` [B, fine] are input functions as the operator draws them.  The residuals of every
    function are relative to its mean square.
    """
    sensors, weights = operator.at_sensors(functions).to(net.rows), function_weights(functions).to(net.rows)
    parts = []
    for equation in operator.equations():
        y, f, factor = at_equation(operator, equation, functions)
        parts.append((equation, y.to(net.rows), f.to(net.rows), factor * weights))

    def loss(chosen: Tensor | slice) -> Tensor:
        h, total = net.coefficients(sensors[chosen]) @ mix, 0.0
        for equation, y, f, factor in parts:
            rows = equation.residual(y, f[chosen], net.combine(h, y, equation.want))
            total = total + (factor[chosen] * rows).square().sum(1).mean()
        return total

    return loss


def branch_loss(net: BumpDeepONet, functions: Tensor, fit: Fit) -> Loss:
    """Mean over the functions of the squared residual of ``fit``, the bumps' shapes being what they are.

    ``functions`` [R, M] are the rows of what the branch gives factors for.
    """
    inputs, targets, weights, functions = (t.to(net.rows) for t in (fit.inputs, fit.targets, fit.weights, functions))

    def loss(chosen: Tensor | slice) -> Tensor:
        rows = net.coefficients(inputs[chosen]) @ functions.T - targets[chosen]
        return (weights[chosen] * rows).square().sum(1).mean()

    return loss


class Adam:
    """Adam on random batches, the learning rate falling like a cosine.

    Attributes
    ----------
    total, left : int
        Steps in all, and those not yet taken.
    """

    def __init__(
        self, loss: Loss, parameters: Sequence[nn.Parameter], functions: int, iterations: int, learning_rate: float,
        batch: int, seed: int,
    ):  # fmt: skip
        self.loss, self.functions, self.batch = loss, functions, batch
        self.total = self.left = iterations
        self.device, self.generator = parameters[0].device, torch.Generator().manual_seed(seed)
        self.optimiser = torch.optim.Adam(parameters, learning_rate)
        least = _FINAL_RATE * learning_rate
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimiser, max(iterations, 1), least)

    def step(self) -> int:
        """Take a step; gives the number of steps, 1."""
        drawn = torch.randperm(self.functions, generator=self.generator)[: self.batch].to(self.device)
        self.optimiser.zero_grad(set_to_none=True)
        self.loss(slice(None) if self.batch >= self.functions else drawn).backward()
        self.optimiser.step()
        self.schedule.step()
        self.left -= 1
        return 1

    def state_dict(self) -> dict[str, Any]:
        """What it remembers between two steps, beside the parameters."""
        parts = {"optimiser": self.optimiser.state_dict(), "schedule": self.schedule.state_dict()}
        return parts | {"generator": self.generator.get_state(), "left": self.left}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.generator.set_state(state["generator"])
        self.left = int(state["left"])


class Lbfgs:
    """L-BFGS on all functions together, in rounds of steps; otherwise as :class:`Adam`."""

    def __init__(self, loss: Loss, parameters: Sequence[nn.Parameter], iterations: int):
        self.loss, self.total, self.left = loss, iterations, iterations
        self.optimiser = torch.optim.LBFGS(
            parameters, max_iter=ROUND, max_eval=_EVALUATIONS, history_size=_HISTORY, line_search_fn="strong_wolfe",
            tolerance_change=0.0, tolerance_grad=0.0,
        )  # fmt: skip

    def step(self) -> int:
        """Take a round of steps; gives their number."""
        self.optimiser.step(self._closure)
        self.left -= ROUND
        return ROUND

    def _closure(self) -> Tensor:
        self.optimiser.zero_grad(set_to_none=True)
        value = self.loss(slice(None))
        value.backward()
        return value

    def state_dict(self) -> dict[str, Any]:
        """What it remembers between two rounds, beside the parameters."""
        return {"optimiser": self.optimiser.state_dict(), "left": self.left}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimiser.load_state_dict(state["optimiser"])
        self.left = int(state["left"])
