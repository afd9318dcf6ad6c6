"""Let one process at a time use a folder; the lock ends with its process, even if it is killed."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None
    with contextlib.suppress(ImportError):
        import msvcrt

#: Name of the lock file; its text says who uses the folder.
NAME = "run.lock"
#: Errors for a lock that another process holds; the last is that of Windows.
_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK)
#: The byte that is locked on Windows; a locked byte cannot be read, so it is far behind the text.
_FAR = 1 << 20


class LockedError(RuntimeError):
    """Another process uses the folder; the message names it."""


@contextlib.contextmanager
def locked(folder: str | os.PathLike, purpose: str) -> Iterator[None]:
    """Keep other processes from writing in ``folder`` while the block runs; they may read.

    The system locks the file :data:`NAME`, so a process that is killed leaves the file, but no lock; the next one takes
    it over.  The file is removed at the end.  On a file system that has no locks this does nothing.

    Parameters
    ----------
    folder : str or path
        The folder, which must exist.
    purpose : str
        What the folder is used for, for the message to others.

    Raises
    ------
    LockedError
        If another process, or another block of this one, has the folder.
    OSError
        If the file cannot be made.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> with locked(folder, "a test"):
    ...     with locked(folder, "another"):
    ...         pass
    Traceback (most recent call last):
    bumpnet_fast.core.locks.LockedError: ... is in use by process ... since ... (a test)
    >>> os.listdir(folder)
    []
    """
    path = Path(folder) / NAME
    file = _acquired(path, folder)
    try:
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        with contextlib.suppress(OSError):  # a full disk: the lock works, but does not name its user
            os.ftruncate(file, 0)
            os.write(file, f"process {os.getpid()} since {since} ({purpose})\n".encode())
        yield
    finally:
        _released(path, file)


def _acquired(path: Path, folder: str | os.PathLike) -> int:
    """The descriptor of the lock file, locked."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(file)
            if _is_at(path, file):
                return file
            os.close(file)  # its last holder has removed it since it was opened
        except OSError as error:
            os.close(file)
            if error.errno not in _HELD:
                raise
            raise LockedError(f"{folder} is in use by {_holder(path)}") from None
        except BaseException:
            os.close(file)
            raise


def _lock(file: int) -> None:
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _HELD:
                raise
    else:
        os.lseek(file, _FAR, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        os.lseek(file, 0, os.SEEK_SET)


def _is_at(path: Path, file: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file), path.stat())
    return False


def _holder(path: Path) -> str:
    with contextlib.suppress(OSError):
        if text := " ".join(path.read_text(encoding="utf-8", errors="replace").split()):
            return text
    return "another process"


def _released(path: Path, file: int) -> None:
    """Remove the file, if possible while it is still locked, so that no other process loses its lock."""
    steps: list[Callable[[], None]] = [path.unlink, lambda: os.close(file)]
    for step in steps if fcntl is not None else reversed(steps):  # Windows removes no open file
        with contextlib.suppress(OSError):
            step()


__all__ = ["NAME", "LockedError", "locked"]
