"""The number of threads that a computation is worth."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from ..core.scopes import torch_threads

#: Entries of the Jacobian per thread.
ENTRIES_PER_THREAD = 2 * 10**6


@contextlib.contextmanager
def few_threads(entries: int) -> Iterator[None]:
    """Limit torch, in this Python thread, to the threads that matrices of this size can use.

    A small iteration is a hundred parallel regions of microseconds.  A second thread saves a quarter on an idle
    machine, and makes it thirty times slower where another process uses the core.
    """
    with torch_threads(min(torch.get_num_threads(), 1 + entries // ENTRIES_PER_THREAD)):
        yield


__all__ = ["few_threads"]
