"""How many threads a computation is worth."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from ..core.scopes import torch_threads

#: Entries of the Jacobian that make a thread worth its while.
ENTRIES_PER_THREAD = 2 * 10**6


@contextlib.contextmanager
def few_threads(entries: int) -> Iterator[None]:
    """Run torch on no more threads than matrices of this size can use, in this thread of Python.

    A small iteration is a hundred parallel regions of microseconds.  A second thread saves it a
    quarter on an idle machine, and makes it thirty times slower where another process holds the core.
    """
    with torch_threads(min(torch.get_num_threads(), 1 + entries // ENTRIES_PER_THREAD)):
        yield


__all__ = ["few_threads"]
