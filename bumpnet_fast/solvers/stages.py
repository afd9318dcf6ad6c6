"""The stages of first-order training: Adam, Adam with exact amplitudes, L-BFGS.

A stage changes the rows of a net, and the unknowns of the equation, by ``advance``; between two calls all
that it remembers is in its ``state_dict``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from ..nets.adapt import Pruning
from ..nets.bumpnet import BumpNet
from ..nets.events import Event
from .batches import Batches
from .elimination import Separable
from .residual import System

#: The learning rate decays to this fraction of itself.
_LEAST_RATE = 0.01
#: Adam's pruning ends at this fraction of its iterations: what is left heals the last cut.
PRUNE_UNTIL = 0.8
#: Pairs of steps and gradients that L-BFGS remembers.
_MEMORY = 50
#: Evaluations for an iteration of L-BFGS, with something to spare for one long line search.
_EVALUATIONS, _SPARE = 2, 20


class Adam:
    """Adam on all parameters with cosine decay."""

    def __init__(
        self,
        net: BumpNet,
        unknowns: Tensor,
        batches: Batches,
        iterations: int,
        *,
        learning_rate: float,
        resample: int | None,
        prune: Callable[..., Pruning] | None,
        begun: int,
        **_: Any,
    ):
        self.net, self.unknowns, self.batches, self.iterations, self.begun = net, unknowns, batches, iterations, begun
        self.resample, self.taken = resample, begun
        fused = net.rows.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.Adam(parameters(net, unknowns), lr=learning_rate, fused=fused)
        self.schedule = LambdaLR(self.optimizer, lambda step: _cosine(step / max(1, iterations)))
        self.pruning = None if prune is None else prune(self.optimizer, begun, int(PRUNE_UNTIL * iterations))

    def advance(self, limit: int) -> tuple[int, bool]:
        """At most ``limit`` iterations; how many they were, and whether the loss is no longer the same function."""
        moved = bool(self.resample) and self.taken > self.begun and (self.taken - self.begun) % self.resample == 0
        if moved:
            self.batches.redraw()
        self.optimizer.zero_grad()
        loss = self._backward(self.batches.next())
        self.optimizer.step()
        self.schedule.step()
        self.taken += 1
        event = None if self.pruning is None else self.pruning.step(loss)
        return 1, moved or event is not None

    def _backward(self, system: System) -> Tensor:
        return backward(system, self.net, self.unknowns)

    def observe(self) -> float:
        """The loss over all points."""
        return observed(self.batches.whole, self.net, self.unknowns)

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict()}

    def load_state_dict(self, state: dict[str, Any], taken: int) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.taken = taken
        if self.pruning is not None:
            self.pruning.taken = taken


class VarproAdam(Adam):
    """Adam on the shapes, with the best amplitudes at every step.

    The derivative of the least loss over the amplitudes is that by the shapes alone, taken at the best
    amplitudes (envelope theorem): no Jacobian is needed.
    """

    def __init__(self, *arguments: Any, ridge: float, **options: Any):
        super().__init__(*arguments, **options)
        self.ridge, self._system = ridge, None

    @torch.no_grad()
    def _solve(self, system: System) -> None:
        if self._system is not system:
            self._system, self._model = system, Separable(system, self.ridge)
        layout = self.net.layout
        shapes = self.net.rows[:, : layout.shape_columns].double().flatten()
        self.net.rows[:, layout.amplitude] = (
            self._model.evaluate(shapes).inner.view(-1, layout.outputs).to(self.net.rows)
        )

    def _backward(self, system: System) -> Tensor:
        self._solve(system)
        loss = super()._backward(system)
        self.net.rows.grad[:, self.net.layout.amplitude] = 0  # it is rounding, which Adam would blow up
        return loss

    def observe(self) -> float:
        self._solve(self.batches.whole)
        return super().observe()


class Lbfgs:
    """L-BFGS with a strong Wolfe line search, on all points.

    In float32 it stops early: the line search compares losses that differ in digits which are not there.
    """

    pruning = None

    def __init__(self, net: BumpNet, unknowns: Tensor, batches: Batches, iterations: int, **_: Any):
        self.net, self.unknowns, self.batches, self.iterations = net, unknowns, batches, iterations
        # No tolerances: they are absolute, and losses go far below any of them.
        self.optimizer = torch.optim.LBFGS(
            parameters(net, unknowns),
            history_size=_MEMORY,
            line_search_fn="strong_wolfe",
            tolerance_grad=0.0,
            tolerance_change=0.0,
        )
        self.scale = None

    def advance(self, limit: int) -> tuple[int, bool]:
        """At most ``limit`` iterations; how many they were, 0 when no step decreases the loss."""
        if self.scale is None:  # torch forgets pairs with a product below 1e-10, so the loss must not be small
            self.scale = 1 / max(self.observe(), 1e-300)
        group, before = self.optimizer.param_groups[0], self._count()
        group["max_iter"], group["max_eval"] = limit, _EVALUATIONS * limit + _SPARE
        start = [p.detach().clone() for p in group["params"]]
        self.optimizer.step(self._closure)
        if all(torch.equal(p, q) for p, q in zip(start, group["params"], strict=True)):
            return 0, False
        return self._count() - before, False

    def _count(self) -> int:
        return self.optimizer.state[self.net.rows].get("n_iter", 0)

    def _closure(self) -> Tensor:
        self.optimizer.zero_grad()
        loss = backward(self.batches.whole, self.net, self.unknowns, self.scale)
        return torch.where(torch.isfinite(loss), loss, math.inf)  # a NaN would end the line search as a success

    def observe(self) -> float:
        """The loss over all points."""
        return observed(self.batches.whole, self.net, self.unknowns)

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "scale": self.scale}

    def load_state_dict(self, state: dict[str, Any], taken: int) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.scale = state["scale"]


STAGES = {"adam": Adam, "varpro-adam": VarproAdam, "lbfgs": Lbfgs}


def pruned_by(
    net: BumpNet, threshold: float, every: int, least: int, events: list[Event], group: Any = None
) -> Callable[..., Pruning]:
    """What makes a :class:`Pruning` for the stage that begins after ``begun`` iterations, its events in one list."""

    def prune(optimizer: torch.optim.Optimizer, begun: int, until: int) -> Pruning:
        start, stop = begun + every, begun + max(every, until)
        return Pruning(net, optimizer, threshold, every, start, stop, least, events=events, taken=begun, group=group)

    return prune


def sum_of_squares(system: System, net: BumpNet, unknowns: Tensor) -> Tensor:
    """The loss, in float64: what all solvers minimise; of several ranks, this one's part of it."""
    rows = system.residual(system.jets(net.rows), unknowns.double())
    return rows @ rows


def observed(system: System, net: BumpNet, unknowns: Tensor) -> float:
    """The loss over all ranks."""
    with torch.no_grad():
        return float(system.ranks.total(sum_of_squares(system, net, unknowns)))


def backward(system: System, net: BumpNet, unknowns: Tensor, scale: float = 1.0) -> Tensor:
    """``scale`` times the loss over all ranks, its gradient left in ``grad``."""
    loss = scale * sum_of_squares(system, net, unknowns)
    loss.backward()
    for p in parameters(net, unknowns):
        p.grad = system.ranks.total(p.grad)
    return system.ranks.total(loss.detach())


def parameters(net: BumpNet, unknowns: Tensor) -> list[Tensor]:
    return [net.rows, unknowns] if len(unknowns) else [net.rows]


def _cosine(t: float) -> float:
    return _LEAST_RATE + (1 - _LEAST_RATE) * 0.5 * (1 + math.cos(math.pi * min(t, 1.0)))
