"""Cholesky factors of a symmetric matrix of blocks of one size, most of which are zero."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

#: Share of the mean of the diagonal that is added to it where it is singular.
_SINGULAR = 1e-14


def elimination(neighbours: Sequence[set[int]]) -> tuple[list[int], list[list[int]]]:
    """An order by minimum degree, and for every number in that order those after it that it is coupled to then."""
    graph = [set(some) for some in neighbours]
    heap = [(len(some), k) for k, some in enumerate(graph)]
    heapq.heapify(heap)
    order: list[int] = []
    coupled: list[list[int]] = []
    done = [False] * len(graph)
    while heap:
        degree, k = heapq.heappop(heap)
        if done[k] or degree != len(graph[k]):
            continue
        done[k] = True
        order.append(k)
        coupled.append(list(graph[k]))
        for a in graph[k]:
            graph[a] |= graph[k]
            graph[a] -= {a, k}
            heapq.heappush(heap, (len(graph[a]), a))
    return order, coupled


class Factors:
    """The factors of a positive definite matrix; the work is linear in its size as far as its graph allows.

    Parameters
    ----------
    diagonal : Tensor
        [n, r, r].
    coupling : mapping
        Blocks [r, r] by row and column, each pair once.

    Raises
    ------
    torch.linalg.LinAlgError
        If the matrix is not positive definite beyond rounding.
    """

    def __init__(self, diagonal: Tensor, coupling: Mapping[tuple[int, int], Tensor]):
        n, r = diagonal.shape[:2]
        neighbours: list[set[int]] = [set() for _ in range(n)]
        for a, b in coupling:
            neighbours[a].add(b)
            neighbours[b].add(a)
        self.order, coupled = elimination(neighbours)
        place = {k: p for p, k in enumerate(self.order)}
        self._rows = [sorted(place[k] for k in some) for some in coupled]
        at = [{q: k + 1 for k, q in enumerate(rows)} for rows in self._rows]
        columns = [diagonal.new_zeros(1 + len(rows), r, r) for rows in self._rows]
        for p, k in enumerate(self.order):
            columns[p][0] = diagonal[k]
        for (a, b), block in coupling.items():
            p, q = place[a], place[b]
            p, q, block = (p, q, block) if p > q else (q, p, block.T)
            columns[q][at[q][p]] = block
        self._inverses, self._panels = [], []
        for p, rows in enumerate(self._rows):
            inverse = _inverse_root(columns[p][0])
            panel = (columns[p][1:].reshape(-1, r) @ inverse.T).view(-1, r, r)
            for k, q in enumerate(rows):
                update = (panel[k:].reshape(-1, r) @ panel[k].T).view(-1, r, r)
                into = torch.tensor([0, *(at[q][later] for later in rows[k + 1 :])])
                columns[q].index_add_(0, into, update, alpha=-1)
            columns[p] = diagonal.new_empty(0)
            self._inverses.append(inverse)
            self._panels.append(panel.reshape(-1, r))

    def solve(self, right: Tensor) -> Tensor:
        """The solution [n, r] for a right side [n, r]."""
        y = right[self.order]
        for p, rows in enumerate(self._rows):
            y[p] = self._inverses[p] @ y[p]
            if rows:
                y[rows] -= (self._panels[p] @ y[p]).view(len(rows), -1)
        for p in range(len(y) - 1, -1, -1):
            known = y[p] - self._panels[p].T @ y[self._rows[p]].flatten() if self._rows[p] else y[p]
            y[p] = self._inverses[p].T @ known
        found = torch.empty_like(y)
        found[self.order] = y
        return found


def _inverse_root(A: Tensor) -> Tensor:
    """The inverse of the lower Cholesky factor."""
    lower, info = torch.linalg.cholesky_ex(A)
    if info:
        lower = torch.linalg.cholesky(A + _SINGULAR * A.diagonal().mean() * torch.eye(len(A), dtype=A.dtype))
    return torch.linalg.solve_triangular(lower, torch.eye(len(A), dtype=A.dtype), upper=False)


__all__ = ["Factors", "elimination"]
