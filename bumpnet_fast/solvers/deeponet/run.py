"""The course of a training: history, errors, the best parameters so far, and why it ended."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...deeponet import BumpDeepONet
from ...problems.operators.base import OperatorData
from ..least_squares import Progress
from .branch import evaluating
from .gradient import Loss
from .trunk import Point

#: Errors are measured about so many times in a stage of gradient steps.
_MEASUREMENTS = 40
#: Steps of the trunk over which the relative decrease of its loss is judged.
_PATIENCE = 10


@torch.no_grad()
def relative_errors(net: BumpDeepONet, data: OperatorData, mix: Tensor | None = None) -> Tensor:
    """Relative L2 error [count], float64, of every output function; absolute where the function is zero.

    ``mix`` makes amplitudes of what the branch gives, if these are not amplitudes.
    """
    inputs, _, points = data.to(net.rows)
    with evaluating(net):
        h = net.coefficients(inputs)
    u = net.combine(h if mix is None else h @ mix, points).value.double()
    return relative(u - data.outputs.to(u), data.outputs.to(u))


def relative(difference: Tensor, functions: Tensor) -> Tensor:
    """Ratio [count] of the norms of ``difference`` and ``functions`` [count, N], with 1 for a norm of 0."""
    size = torch.linalg.vector_norm(functions, dim=1)
    return torch.linalg.vector_norm(difference, dim=1) / torch.where(size > 0, size, torch.ones_like(size))


class Run:
    """Follows the stages of the training of ``net``; errors are measured on ``data``."""

    def __init__(
        self, net: BumpDeepONet, data: OperatorData, start: float, max_seconds: float | None,
        callback: Callable[[Progress], Any] | None,
    ):  # fmt: skip
        self.net, self.data, self.start, self.max_seconds, self.callback = net, data, start, max_seconds, callback
        self.history: list[dict[str, Any]] = []
        self.iterations, self.loss, self.reason = 0, math.nan, "iterations"

    @property
    def ended(self) -> bool:
        return self.reason in ("time", "interrupted")

    def _out_of_time(self) -> bool:
        return self.max_seconds is not None and time.perf_counter() - self.start >= self.max_seconds

    def _record(self, stage: str, loss: float, error: float | None = None) -> None:
        progress = Progress(self.iterations, time.perf_counter() - self.start, loss, error)
        entry = {"stage": stage, "iteration": progress.iteration, "seconds": progress.seconds, "loss": loss}
        self.history.append(entry if error is None else entry | {"rel_l2": error})
        if self.callback is not None:
            self.callback(progress)

    @torch.no_grad()
    def trunk(self, points: Iterator[Point], iterations: int, tolerance: float) -> None:
        """Give the net the shapes of the last of ``points``, each of which is better than the one before."""
        best, losses = None, []
        self.reason = "no further decrease"
        try:
            for best in points:
                self.loss = best.loss
                losses.append(best.loss)
                self._record("trunk", best.loss)
                if len(losses) > iterations:
                    self.reason = "iterations"
                    break
                if self._out_of_time():
                    self.reason = "time"
                    break
                if len(losses) > _PATIENCE and losses[-1 - _PATIENCE] - best.loss <= tolerance * losses[-1 - _PATIENCE]:
                    self.reason = "converged"
                    break
                self.iterations += 1
        except KeyboardInterrupt:
            self.reason = "interrupted"
        if best is not None:
            self.net.rows.copy_(best.rows)

    def gradient(
        self, stage: str, steps: Iterator[int], total: int, loss: Loss, parameters: Sequence[nn.Parameter], mix: Tensor
    ) -> None:
        """Take ``steps``, ``total`` in all, and keep the parameters with which the loss of all functions was least."""
        best, kept = self._whole(loss), [p.detach().clone() for p in parameters]
        every, since = max(1, total // _MEASUREMENTS), 0
        self.reason = "iterations"
        try:
            for taken in steps:
                self.iterations, since, total = self.iterations + taken, since + taken, total - taken
                late = self._out_of_time()
                if since >= every or total <= 0 or late:
                    since, value = 0, self._whole(loss)
                    if value < best:
                        best, kept = value, [p.detach().clone() for p in parameters]
                    self._record(stage, value, float(relative_errors(self.net, self.data, mix).mean()))
                if late:
                    self.reason = "time"
                    break
        except KeyboardInterrupt:
            self.reason = "interrupted"
        with torch.no_grad():
            for p, value in zip(parameters, kept, strict=True):
                p.copy_(value)
        self.loss = best

    @torch.no_grad()
    def _whole(self, loss: Loss) -> float:
        with evaluating(self.net):
            return float(loss(slice(None)))
