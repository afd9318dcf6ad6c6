"""Losses with gradients: over batches, and the sum of squares of the rows of a problem."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..nets.frozen import clear_gradient_, some_frozen
from .residual import System


class Objective:
    """A loss and its gradient, batch by batch or whole."""

    #: Whether all parameters are few, and on one device that has a fused Adam.
    fused = False

    @property
    def parameters(self) -> list[Tensor]:
        """The trained parameters."""
        raise NotImplementedError

    def sizes(self) -> list[Tensor]:
        """Typical sizes of the parameters, in shapes that multiply these: what has units is trained in these units."""
        return [p.new_ones(()) for p in self.parameters]

    def backward(self, whole: bool = False, scale: float = 1.0) -> Tensor:
        """``scale`` times the loss of the next batch, or of everything; the gradient is stored in ``grad``."""
        raise NotImplementedError

    def limit(self, before: Sequence[Tensor]) -> bool:
        """Called after every step, with the parameters before it: undo what a step may not do; whether it had to."""
        return False

    def observe(self) -> float:
        """The loss over everything."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """State of the batches."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with this state of the batches."""

    def finish(self) -> None:
        """Called when the stage is over: undo changes to the parameters that were made for it."""


class RowsObjective(Objective):
    """The sum of squares of the rows of a problem, in float64: the loss that all solvers minimise.

    Parameters
    ----------
    task : bumpnet_fast.solvers.task.Task
        Work whose rows these are.
    batch : int, optional
        Size of the batches.  The points are dealt at random into batches of about this size, in a new order in every
        epoch; every batch contains the conditions.  By default all points are one batch.
    """

    def __init__(self, task: Any, batch: int | None = None):
        self.task, self.net, self.batch, self.draws = task, task.net, batch, 0
        self.fused, self.frozen = task.net.rows.device.type in ("cpu", "cuda"), some_frozen(task.net)
        self.unknowns = torch.nn.Parameter(task.unknowns.to(task.net.rows))
        self.generator = torch.Generator().manual_seed(task.seed)
        self._deal()

    def _deal(self, deal: Tensor | None = None, queue: Sequence[int] = ()) -> None:
        task, x = self.task, self.task.x
        self.parts, self.deal, self.queue = [task.system], deal, list(queue)
        number = task.ranks.number(len(x))
        if self.batch is not None and self.batch < number:
            self.deal = torch.randperm(len(x), generator=self.generator) if deal is None else deal
            chunks = self.deal.tensor_split(math.ceil(number / self.batch))
            self.parts = [task.system_at(x[chunk.to(x.device)]) for chunk in chunks]

    @property
    def parameters(self) -> list[Tensor]:
        return [self.net.rows, self.unknowns] if len(self.unknowns) else [self.net.rows]

    @torch.no_grad()
    def sizes(self) -> list[Tensor]:
        layout, rows = self.net.layout, self.net.rows
        of_rows = rows.new_ones(layout.columns)
        of_rows[layout.amplitude] = self.task.sizes_of_u().to(rows)
        guesses = self.task.unknowns.abs().to(rows)
        of_unknowns = torch.where(guesses > 0, guesses, 1.0)
        return [of_rows, of_unknowns] if len(self.unknowns) else [of_rows]

    def next(self) -> System:
        """The rows of the next batch."""
        if len(self.parts) == 1:
            return self.parts[0]
        if not self.queue:
            order = torch.randperm(len(self.parts), generator=self.generator)
            self.queue = self.task.ranks.agreed(order.to(self.task.device)).tolist()
        return self.parts[self.queue.pop()]

    def redraw(self) -> None:
        """Draw new collocation points, as many as before."""
        self.draws += 1
        self.task.redraw(self.draws)
        self._deal()

    def _loss(self, system: System) -> Tensor:
        """This rank's part of the loss."""
        rows = system.residual(system.jets(self.net.rows), self.unknowns.double())
        return rows @ rows

    def backward(self, whole: bool = False, scale: float = 1.0) -> Tensor:
        return self.backward_of(self.task.system if whole else self.next(), scale)

    def backward_of(self, system: System, scale: float = 1.0) -> Tensor:
        """``scale`` times the loss of some rows over all ranks; the gradient is stored in ``grad``."""
        loss = scale * self._loss(system)
        loss.backward()
        for p in self.parameters:
            p.grad = system.ranks.total(p.grad)
        if self.frozen:
            clear_gradient_(self.net, self.net.rows.grad)
        return system.ranks.total(loss.detach())

    @torch.no_grad()
    def limit(self, before: Sequence[Tensor]) -> bool:
        """Keep edges of bumps as thick as the points can see."""
        limited = self.task.ranks.agreed(self.task.system.edges.limited(before[0], self.net.rows.detach()))
        if torch.equal(limited, self.net.rows):
            return False
        self.net.rows.copy_(limited)
        return True

    @torch.no_grad()
    def observe(self) -> float:
        self.task.unknowns = self.unknowns.detach().double()
        return float(self.task.ranks.total(self._loss(self.task.system)))

    def state_dict(self) -> dict[str, Any]:
        places = {"deal": self.deal, "queue": list(self.queue), "draws": self.draws}
        return places | {"generator": self.generator.get_state(), "unknowns": self.unknowns.detach()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.draws = int(state["draws"])
        self._deal(state["deal"], state["queue"])
        self.generator.set_state(state["generator"])
        self.unknowns.copy_(state["unknowns"])


__all__ = ["Objective", "RowsObjective"]
