"""Settings that hold inside a ``with`` block, for the thread that entered it; blocks may end in any order.

Blocks overlap where generators or callbacks hold them, or where two threads solve at the same time.  Restoring the
value from the start of a block could then leave another block's setting behind.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


class _Block(Generic[T]):
    """A block that was entered.  It equals only itself, so that ``list.remove`` removes the right one."""

    def __init__(self, value: T):
        self.value = value


class Choice(Generic[T]):
    """A setting with a default, which every thread chooses for itself.

    Parameters
    ----------
    default : T
        Holds outside of all blocks.
    tell : callable, optional
        Called in the thread concerned with the new value.

    Examples
    --------
    >>> colour = Choice("grey")
    >>> with colour.use("red"):
    ...     colour.get()
    'red'
    >>> colour.get()
    'grey'
    """

    def __init__(self, default: T, tell: Callable[[T], object] = lambda value: None):
        self.default, self._tell = default, tell
        self._anywhere: list[_Block[T]] = []  # of all threads: empty most of the time, and torch.compile can ask
        self._here = threading.local()

    def get(self) -> T:
        """The value in this thread: that of the innermost open block, or the default."""
        if not self._anywhere:
            return self.default
        blocks = getattr(self._here, "blocks", None)
        return blocks[-1].value if blocks else self.default

    @contextlib.contextmanager
    def use(self, value: T) -> Iterator[None]:
        """Choose ``value`` inside the block."""
        if not hasattr(self._here, "blocks"):
            self._here.blocks = []
        blocks, block = self._here.blocks, _Block(value)
        blocks.append(block)
        self._anywhere.append(block)
        try:
            self._tell(value)
            yield
        finally:
            blocks.remove(block)  # the entering thread's list, in case another thread ends the block
            self._anywhere.remove(block)
            self._tell(self.get())


# --- the number of torch's threads ---------------------------------------------------------------

_threads_here = threading.local()
_lock = threading.Lock()


@contextlib.contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Have torch compute with ``number`` threads what this thread of Python asks for inside the block.

    Notes
    -----
    ``torch.set_num_threads`` sets the number of the calling thread, and that of all threads that have not used torch
    yet.  The latter is put back at once, as such a thread would keep it beyond the block.  A thread that uses torch for
    the first time in the fraction of a millisecond between keeps the number of the block.

    Examples
    --------
    >>> with torch_threads(1):
    ...     torch.get_num_threads()
    1
    """
    if not hasattr(_threads_here, "blocks"):
        _threads_here.blocks = []
    blocks, block, owner = _threads_here.blocks, _Block(number), threading.get_ident()
    if not blocks:
        _threads_here.usual = torch.get_num_threads()
    _set_threads_here(number)
    blocks.append(block)
    try:
        yield
    finally:
        blocks.remove(block)
        if threading.get_ident() == owner:
            _set_threads_here(blocks[-1].value if blocks else _threads_here.usual)


def _set_threads_here(number: int) -> None:
    with _lock:
        of_new_threads = _in_a_new_thread(torch.get_num_threads)
        torch.set_num_threads(number)
        if of_new_threads != number:
            _in_a_new_thread(lambda: torch.set_num_threads(of_new_threads))


def _in_a_new_thread(function: Callable[[], T]) -> T:
    """The result of ``function`` in a thread that has not used torch before; takes 50 microseconds."""
    results: list[T] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


__all__ = ["Choice", "torch_threads"]
