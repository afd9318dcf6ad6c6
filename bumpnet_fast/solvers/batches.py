"""The rows of a problem at its collocation points, dealt into batches and drawn anew."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..core.ranks import ALONE, Ranks
from ..nets.bumpnet import BumpNet
from ..problems.base import Problem
from .residual import System, blocks, collocation


class Batches:
    """Systems of rows to train on, one after the other.

    Parameters
    ----------
    problem, net, boundary
        Whose rows.
    x : Tensor
        [N, d], the points.
    counts : tuple of int
        How many per axis.
    size : int, optional
        The points are dealt at random into batches of about this size, which are taken in an order that is
        new in every epoch; the conditions are in each of them.  By default all points are one batch.
    sampling : str
        Of points that :meth:`redraw` draws.
    condition_weight : float
        As in :func:`bumpnet_fast.solvers.residual.blocks`.
    seed : int
        Of all that is random.
    ranks : Ranks
        Who has further points of every batch.
    """

    def __init__(
        self,
        problem: Problem,
        net: BumpNet,
        boundary: str,
        x: Tensor,
        counts: tuple[int, ...],
        *,
        size: int | None,
        sampling: str,
        condition_weight: float,
        seed: int,
        ranks: Ranks = ALONE,
    ):
        self.ranks = ranks
        self._problem, self._net, self._boundary, self.counts = problem, net, boundary, counts
        self._size, self._sampling, self._weight, self._seed = size, sampling, condition_weight, seed
        self.generator, self.draws = torch.Generator().manual_seed(seed), 0
        self._place(x)

    def _place(self, x: Tensor, deal: Tensor | None = None, queue: tuple[int, ...] = ()) -> None:
        self.x, self.whole, self.deal, self.queue = x, self._system(x), deal, list(queue)
        self.parts, number = [self.whole], self.ranks.number(len(x))
        if self._size is not None and self._size < number:
            self.deal = torch.randperm(len(x), generator=self.generator) if deal is None else deal
            chunks = self.deal.tensor_split(math.ceil(number / self._size))
            self.parts = [self._system(x[chunk.to(x.device)]) for chunk in chunks]

    @torch.no_grad()
    def _system(self, x: Tensor) -> System:
        rows = blocks(self._problem, self._boundary, self.counts, x, self._weight, ranks=self.ranks)
        return System(rows, self._net, self._problem.unknowns, self.ranks)

    def next(self) -> System:
        """The next batch."""
        if len(self.parts) == 1:
            return self.whole
        if not self.queue:
            order = torch.randperm(len(self.parts), generator=self.generator)
            self.queue = self.ranks.agreed(order.to(self.x.device)).tolist()
        return self.parts[self.queue.pop()]

    def redraw(self) -> None:
        """Draw as many points anew."""
        self.draws += 1
        seed = self._seed + self.draws
        x, _ = collocation(self._problem, self._net, self.counts, self._sampling, seed, self.ranks)
        self._place(x)

    def state_dict(self) -> dict[str, Any]:
        """Points, their batches and what comes next, as tensors and plain values."""
        return {
            "x": self.x.cpu(),
            "counts": self.counts,
            "deal": self.deal,
            "queue": self.queue,
            "draws": self.draws,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.draws = int(state["draws"])
        self._place(state["x"].to(self.x.device), state["deal"], tuple(state["queue"]))
        self.generator.set_state(state["generator"])
