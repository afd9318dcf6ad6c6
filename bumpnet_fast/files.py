"""Files that are written all or nothing, and read without running foreign code."""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch


class CheckpointError(ValueError):
    """The file is not a checkpoint that this version can read; the message says why."""


@contextlib.contextmanager
def atomic(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Open ``path`` for writing so that a reader finds the old file or the whole new one, never a part.

    The bytes go to a temporary file in the same directory, reach the disk, and take the place of
    ``path`` when the block ends.  If the block raises, ``path`` stays as it was.

    Raises
    ------
    OSError
        If the directory does not exist or cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "greeting")
    >>> with atomic(path) as file:
    ...     _ = file.write(b"hello")
    >>> path.read_bytes()
    b'hello'
    """
    path = Path(path)
    if path.exists() and not path.is_file():  # a device or a pipe must not be replaced, and keeps nothing
        with open(path, "wb") as file:
            yield file
        return
    path = path.resolve()
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(part, "xb") as file:
            yield file
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
    """Tell what goes wrong with the content of ``path`` as a :class:`CheckpointError` of one line."""
    try:
        yield
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} {how}: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    """The message of an error without its line breaks."""
    return " ".join(str(error).split())


def read(path: str | os.PathLike, kind: str, version: int, keys: Sequence[str]) -> dict[str, Any]:
    """The dict of tensors and plain values that ``torch.save`` wrote to ``path``, on the CPU.

    Parameters
    ----------
    path : str or path
        The file.
    kind : str
        What its entry "kind" must be; without one it is a "model".
    version : int
        Newest format that can be read.
    keys : sequence of str
        Entries that must be there.

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
                wrong = archive.testzip()  # torch.load does not look at the checksums that torch.save writes
            if wrong is None:
                file.seek(0)
                content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # of any kind, as damaged bytes are; torch's message advises to load them unsafely
            raise CheckpointError(f"{path} is not a checkpoint, or is damaged") from error
    if wrong is not None:
        raise CheckpointError(f"{path} is damaged: the checksum of {wrong} is wrong")
    if not isinstance(content, dict) or not isinstance(content.get("version"), int):
        raise CheckpointError(f"{path} was not written by bumpnet_fast")
    if (found := content.get("kind", "model")) != kind:
        raise CheckpointError(f"{path} holds a {found}, not a {kind}")
    if not 1 <= content["version"] <= version:
        known = f"this version of bumpnet_fast reads formats up to {version}"
        raise CheckpointError(f"{path} has format {content['version']}; {known}")
    if missing := [key for key in keys if key not in content]:
        raise CheckpointError(f"{path} is damaged: it has no {', '.join(missing)}")
    return content


__all__ = ["CheckpointError", "atomic", "damaged", "one_line", "read", "sweep"]
