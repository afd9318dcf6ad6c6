"""Collectives of a torch.distributed process group; no-ops for one process.

Every rank holds its own points and all parameters.  Sums over the points are summed over the ranks.  Everything that
is computed from such sums comes from rank 0.  So no decision depends on how a library rounds on one machine or with
some number of threads, and parameters are the same on all ranks to the last bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Result = TypeVar("Result")


class Ranks:
    """The processes of a group.  With one process every method returns its argument unchanged.

    All ranks must call the same methods in the same order, as with any collective of torch.distributed.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup, optional
        None is this process alone.
    device : torch.device
        Device of the tensors that the group's backend sends.

    Attributes
    ----------
    rank, count : int
        Which one this is, and how many there are.
    alone : bool
        Whether there is only one.

    Raises
    ------
    TypeError
        If ``group`` is no group, or one that this process is not in.

    Examples
    --------
    >>> ALONE.total(torch.tensor([1.0, 2.0])), ALONE.every(True), ALONE.share(torch.arange(3))
    (tensor([1., 2.]), True, tensor([0, 1, 2]))
    """

    def __init__(self, group: Any = None, device: torch.device | str = "cpu"):
        if group is not None and not (dist.is_available() and isinstance(group, dist.ProcessGroup)):
            wanted = "a torch.distributed.ProcessGroup that this process is in, such as torch.distributed.group.WORLD"
            raise TypeError(f"group must be None or {wanted}, got {group!r}")
        self.group, self.device = group, torch.device(device)
        self.rank = 0 if group is None else group.rank()
        self.count = 1 if group is None else group.size()
        self.alone = self.count == 1

    # --- sums over the points ------------------------------------------------------------------

    def total(self, t: Tensor) -> Tensor:
        """The sum of ``t`` over the ranks."""
        if self.alone:
            return t
        t = t.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(t, group=self.group)
        return t

    def norm(self, t: Tensor) -> Tensor:
        """The root of the sum of the squares of ``t`` over the ranks."""
        return t if self.alone else self.total(t.square()).sqrt()

    def number(self, n: int) -> int:
        """The sum of ``n`` over the ranks."""
        return n if self.alone else int(self.total(self._number(n)))

    def most(self, n: int) -> int:
        """The largest ``n`` of all ranks."""
        return n if self.alone else int(self._stacked(self._number(n)[None]).max())

    def every(self, flag: bool) -> bool:
        """Whether the flag is true on all ranks."""
        return flag if self.alone else self.number(not flag) == 0

    def qr(self, A: Tensor) -> tuple[Tensor, Tensor]:
        """QR of the stacked rows [m, n] of all ranks, m >= n: this rank's rows of Q [m, n], and R [n, n].

        Every rank factorises its own rows, and then the stack of all R (TSQR: Demmel, Grigori, Hoemmen and Langou,
        arXiv:0808.2664).  That is as stable as one QR of all rows; normal equations are less stable.
        """
        Q, R = torch.linalg.qr(A)
        if self.alone:
            return Q, R
        inner, R = torch.linalg.qr(self._stacked(R))
        return Q @ inner[self.rank * len(R) : (self.rank + 1) * len(R)], R

    def triangle(self, A: Tensor) -> Tensor:
        """R of :meth:`qr` alone."""
        R = torch.linalg.qr(A, mode="r").R
        return R if self.alone else torch.linalg.qr(self._stacked(R), mode="r").R

    def _stacked(self, t: Tensor) -> Tensor:
        parts = [torch.empty_like(t, memory_format=torch.contiguous_format) for _ in range(self.count)]
        dist.all_gather(parts, t.contiguous(), group=self.group)
        return torch.cat(parts)

    # --- what rank 0 says, and what belongs to whom ----------------------------------------------

    def agreed(self, t: Tensor, source: int = 0) -> Tensor:
        """The ``t`` of rank 0, or of another rank; it has the same shape on all ranks."""
        if self.alone:
            return t
        t = t.clone(memory_format=torch.contiguous_format)
        dist.broadcast(t, group=self.group, group_src=source)
        return t

    def agreed_flag(self, flag: bool) -> bool:
        """The flag of rank 0."""
        return flag if self.alone else float(self.agreed(self._number(flag))) != 0

    def agreed_rows(self, t: Tensor) -> Tensor:
        """The ``t`` [n, ...] of rank 0, where n may differ from this rank's."""
        if self.alone:
            return t
        n = int(self.agreed(self._number(len(t))))
        return self.agreed(t if self.rank == 0 else t.new_empty(n, *t.shape[1:]))

    def share(self, x: Tensor) -> Tensor:
        """Every ``count``-th row of ``x``, from this rank's on."""
        return x if self.alone else x[self.rank :: self.count].contiguous()  # a copy: frees the others

    def highest(self, height: float) -> int:
        """The rank with the largest ``height``, the first of them."""
        return 0 if self.alone else int(self._stacked(self._number(height)[None]).argmax())

    # --- mistakes ----------------------------------------------------------------------------------

    def checked(self, work: Callable[[], Result]) -> Result:
        """Result of ``work()``, which must not use collectives.  If it raises on one rank, all ranks raise.

        Raises
        ------
        Exception
            Of this rank, or KeyboardInterrupt if that came to another one.
        RuntimeError
            That names the rank and its exception, if another one has failed.
        """
        if self.alone:
            return work()
        result = failure = None
        try:
            result = work()
        except BaseException as error:
            failure = error
        if self.every(failure is None):
            return result
        told = self._told(None if failure is None else (type(failure).__name__, str(failure)))
        if failure is not None:
            raise failure
        rank, (kind, message) = next((rank, failed) for rank, failed in enumerate(told) if failed)
        if kind == "KeyboardInterrupt":
            raise KeyboardInterrupt
        raise RuntimeError(f"rank {rank} of {self.count} failed with {kind}: {message}")

    def check_same(self, things: dict[str, Any]) -> None:
        """Raise ValueError, which names what differs, unless all ranks have the same ``things``.

        Of a tensor its size and a digest are compared.
        """
        if self.alone:
            return
        told = self._told({name: _digest(v) if isinstance(v, Tensor) else v for name, v in things.items()})
        for rank, others in enumerate(told):
            for name in told[0] | others:
                mine, theirs = (t.get(name, "missing") for t in (told[0], others))
                if mine != theirs:
                    advice = "; torch.distributed.broadcast makes it so" if isinstance(things.get(name), Tensor) else ""
                    raise ValueError(
                        f"ranks must agree: {name} is {mine!r} on rank 0 and {theirs!r} on rank {rank}{advice}"
                    )

    def _told(self, thing: Any) -> list[Any]:
        """The objects of all ranks, in order of rank."""
        told = [None] * self.count
        dist.all_gather_object(told, thing, group=self.group)
        return told

    def _number(self, value: float) -> Tensor:
        return torch.tensor(float(value), dtype=torch.float64, device=self.device)


def _digest(t: Tensor) -> str:
    content = t.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
    return f"{list(t.shape)}, {t.dtype}, sha256 {hashlib.sha256(content).hexdigest()[:12]}"


#: One process.
ALONE = Ranks()

__all__ = ["ALONE", "Ranks"]
