"""Write files atomically, and read them without running foreign code."""

from __future__ import annotations

import contextlib
import errno
import glob
import io
import os
import secrets
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch


class CheckpointError(ValueError):
    """The file is not a checkpoint that this version can read; the message says why."""


class CheckpointWarning(RuntimeWarning):
    """The state of a run could not be written, and the run goes on; the message says why."""


@contextlib.contextmanager
def atomic(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Write ``path`` atomically: a reader finds the old file or the whole new one, never a part.

    When the block ends, the bytes go to a temporary file in the same directory, reach the disk, and take
    the place of ``path``.  If the block raises, or the disk is full, ``path`` stays as it was.

    Raises
    ------
    OSError
        If the directory does not exist or cannot be written, or if the disk is full: the error names ``path``, and
        says how much was wanted.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "greeting")
    >>> with atomic(path) as file:
    ...     _ = file.write(b"hello")
    >>> path.read_bytes()
    b'hello'
    """
    # Collect in memory first: errors of PyTorch and Pillow do not say that the disk is full.
    whole, path = io.BytesIO(), Path(path)
    yield whole
    content = whole.getvalue()
    try:
        _replace(path, content)
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _FULL:
            before = "; what was there before is untouched" if path.is_file() else ""
            reason += f" ({len(content):,} bytes were to be written{before})"
        raise OSError(error.errno, reason, str(path)) from error


#: Errors of a full disk, a full quota, and a limit on the size of files.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _replace(path: Path, content: bytes) -> None:
    if path.exists() and not path.is_file():  # a device or a pipe: write to it, do not replace it
        with open(path, "wb") as file:
            file.write(content)
        return
    path = path.resolve()
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(part, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def sweep(path: str | os.PathLike) -> None:
    """Remove what :func:`atomic` left beside ``path`` when its process was killed; nobody else may be writing there.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / ".model.pt.0123abcd.part").touch()
    >>> sweep(folder / "model.pt")
    >>> list(folder.iterdir())
    []
    """
    path = Path(path).resolve()
    for part in path.parent.glob(f".{glob.escape(path.name)}.????????.part"):
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def damaged(path: str | os.PathLike, how: str = "is damaged") -> Iterator[None]:
    """Turn errors about the content of ``path`` into a :class:`CheckpointError` of one line."""
    try:
        yield
    except CheckpointError:
        raise
    except _WRONG as error:
        raise CheckpointError(f"{path} {how}: {one_line(error)}") from error


#: Exceptions that unexpected content may raise.
_WRONG = (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError, RuntimeError)


def one_line(error: Exception) -> str:
    """The message of an error without its line breaks."""
    return " ".join((str(error) or type(error).__name__).split())


def read(path: str | os.PathLike, kinds: Mapping[str, tuple[int, Sequence[str]]]) -> dict[str, Any]:
    """The dict of tensors and plain values that ``torch.save`` wrote to ``path``, on the CPU.

    Parameters
    ----------
    path : str or path
        The file.
    kinds : mapping
        What its entry "kind" may be ("model" where it has none): the newest format of each that can be read, and
        the entries that must be there.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CheckpointError
        If it is something else, is damaged, or comes from a newer version.
    """
    with open(path, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise ValueError("torch.save compresses nothing, and a little may become a lot")
                wrong = archive.testzip()  # torch.load does not look at the checksums that torch.save writes
            if wrong is None:
                file.seek(0)
                with torch.inference_mode(False):  # tensors that can be trained, in whatever mode they are read
                    content = torch.load(file, map_location="cpu", weights_only=True)
                if _exceeds(content, os.fstat(file.fileno()).st_size):
                    raise ValueError("a tensor is larger than the file")
        except Exception as error:  # of any kind, as damaged bytes are; torch's message advises to load them unsafely
            raise CheckpointError(f"{path} is not a checkpoint, or is damaged") from error
    if wrong is not None:
        raise CheckpointError(f"{path} is damaged: the checksum of {wrong} is wrong")
    if not isinstance(content, dict) or not isinstance(content.get("version"), int):
        raise CheckpointError(f"{path} was not written by bumpnet_fast")
    if (found := content.get("kind", "model")) not in kinds:
        raise CheckpointError(f"{path} holds a {found}, not a {' or '.join(kinds)}")
    version, keys = kinds[found]
    if not 1 <= content["version"] <= version:
        known = f"this version of bumpnet_fast reads formats up to {version}"
        raise CheckpointError(f"{path} has format {content['version']}; {known}")
    if missing := [key for key in keys if key not in content]:
        raise CheckpointError(f"{path} is damaged: it has no {', '.join(missing)}")
    return content


def _exceeds(content: Any, size: int) -> bool:
    """Whether a tensor in ``content`` shows much more than ``size`` bytes, by strides of 0."""
    if isinstance(content, torch.Tensor):
        return content.nbytes > max(_SHOWN, size)
    if isinstance(content, dict):
        return any(_exceeds(value, size) for value in content.values())
    return isinstance(content, (list, tuple)) and any(_exceeds(value, size) for value in content)


#: Bytes that a tensor may show whatever its file's size.
_SHOWN = 1 << 26

__all__ = ["CheckpointError", "CheckpointWarning", "atomic", "damaged", "one_line", "read", "sweep"]
