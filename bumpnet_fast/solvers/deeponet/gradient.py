"""Training by gradients: losses over a batch of functions, Adam, and L-BFGS to the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from ...deeponet import BumpDeepONet
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


def adam(
    loss: Loss, parameters: Sequence[nn.Parameter], functions: int, iterations: int, learning_rate: float,
    batch: int, seed: int,
) -> Iterator[int]:  # fmt: skip
    """Adam on random batches, the learning rate falling like a cosine; gives the number of steps, one by one."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(parameters, learning_rate)
    least = _FINAL_RATE * learning_rate
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(iterations, 1), least)
    for _ in range(iterations):
        drawn = torch.randperm(functions, generator=generator)[:batch].to(parameters[0].device)
        optimiser.zero_grad(set_to_none=True)
        loss(slice(None) if batch >= functions else drawn).backward()
        optimiser.step()
        schedule.step()
        yield 1


def lbfgs(loss: Loss, parameters: Sequence[nn.Parameter], iterations: int) -> Iterator[int]:
    """L-BFGS on all functions together; gives the number of steps after every round of them."""
    optimiser = torch.optim.LBFGS(
        parameters, max_iter=ROUND, max_eval=_EVALUATIONS, history_size=_HISTORY, line_search_fn="strong_wolfe",
        tolerance_change=0.0, tolerance_grad=0.0,
    )  # fmt: skip

    def closure() -> Tensor:
        optimiser.zero_grad(set_to_none=True)
        value = loss(slice(None))
        value.backward()
        return value

    for _ in range(0, iterations, ROUND):
        optimiser.step(closure)
        yield ROUND
