"""Saved models: one dict per file, written all or nothing, loaded without running foreign code.

The dict holds tensors and plain values only, so ``torch.load(path, weights_only=True)`` reads it
without this package:

======== ==========================================================================
version  format of the file, :data:`VERSION`
kwargs   arguments that rebuild the :class:`~bumpnet_fast.layer.BumpNet`
model    its ``state_dict``
problem  ``{"name": ..., "settings": {...}}``, or None
boundary "hard", "soft", or None
windows  one ``state_dict`` for every window of a solution that was marched in time, or none
======== ==========================================================================
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pickle
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from . import problems
from .jet import Jet
from .layer import BumpNet
from .solvers.marching import Part, chain, chained_jet

#: Format of the files that :func:`save` writes; :func:`load` reads this one and all older ones.
VERSION = 2


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


def save(
    path: str | os.PathLike, net: BumpNet | Sequence[BumpNet], *, problem: Any = None, boundary: str | None = None
) -> None:
    """Write a net, and what it solves, to ``path``, atomically.

    Parameters
    ----------
    path : str or path
        File to write; its directory must exist.
    net : BumpNet, or sequence of them
        The bumps; several if the problem was marched in time, one for every window.
    problem : Problem, optional
        What the net was trained for.  Its name and its fields are saved, not its code.
    boundary : "hard", "soft" or None
        How the boundary conditions enter; "hard" needs the problem to evaluate u.

    Raises
    ------
    OSError
        If the file cannot be written; an older one is then untouched.

    Examples
    --------
    >>> import tempfile
    >>> path, net = Path(tempfile.mkdtemp(), "model.pt"), BumpNet(2, 9)
    >>> save(path, net)
    >>> load(path).net
    BumpNet(dim=2, bumps=9, outputs=1, outer='tied', parameters=63, dtype=float32)
    """
    nets = [net] if isinstance(net, BumpNet) else list(net)
    states = [{key: value.detach().cpu() for key, value in n.state_dict().items()} for n in nets]
    content = {
        "version": VERSION,
        "kwargs": _kwargs(nets[0]),
        "model": states[0],
        "windows": [] if isinstance(net, BumpNet) else states,
        "problem": None if problem is None else {"name": problem.name, "settings": problem_settings(problem)},
        "boundary": boundary,
    }
    with atomic(path) as file:
        torch.save(content, file)


def _kwargs(net: BumpNet) -> dict[str, Any]:
    return {
        "dim": net.layout.dim,
        "bumps": len(net.rows),
        "domain": net.domain.tolist(),
        "outputs": net.layout.outputs,
        "outer": "tied" if net.tied else "free",
        "dtype": str(net.rows.dtype).removeprefix("torch."),
    }


def problem_settings(problem: Any) -> dict[str, Any]:
    """The values of a problem's fields, by name: what rebuilds it."""
    return {field.name: getattr(problem, field.name) for field in dataclasses.fields(problem)}


@dataclasses.dataclass(frozen=True)
class Model:
    """A loaded solution u: call it, or ask for its jet.

    Attributes
    ----------
    net : BumpNet
        The bumps.
    problem : Problem or None
        What it was trained for.
    boundary : "hard", "soft" or None
        How the boundary conditions enter: "hard" means ``u = lift + distance * net``.
    windows : tuple
        The parts of a solution that was marched in time; ``net`` is then the first part's.
    """

    net: BumpNet
    problem: Any = None
    boundary: str | None = None
    windows: tuple[Part, ...] = ()

    def __call__(self, x: Tensor) -> Tensor:
        """The values [N, K] of u at the points ``x`` [N, d]."""
        return self.jet(x, "value").value

    def jet(self, x: Tensor, want: str = "hessian") -> Jet:
        """Values and derivatives of u at ``x`` [N, d]; ``want`` as in :meth:`BumpNet.jet`."""
        if self.windows:
            return chained_jet(self.windows, x, want)
        if self.boundary != "hard":
            return self.net.jet(x, want=want)
        return self.problem.extend(lambda x: self.net.jet(x, want=want), x, want)


def load(path: str | os.PathLike, *, problem: Any = None) -> Model:
    """Read what :func:`save` wrote.

    Parameters
    ----------
    path : str or path
        The file.
    problem : Problem, optional
        Takes the place of the saved one; needed if that is not among
        :data:`bumpnet_fast.problems.PROBLEMS`.

    Returns
    -------
    Model
        With the net in the dtype it was saved in, on the CPU.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CheckpointError
        If it is no checkpoint, is damaged, or comes from a newer version.

    Examples
    --------
    >>> from bumpnet_fast import problems
    >>> import tempfile
    >>> path, poisson = Path(tempfile.mkdtemp(), "model.pt"), problems.get("poisson", a1=2)
    >>> save(path, BumpNet(2, 9, poisson.domain), problem=poisson, boundary="hard")
    >>> u = load(path)
    >>> u.problem.a1, u(torch.rand(5, 2)).shape
    (2.0, torch.Size([5, 1]))
    """
    content = _read(path)
    if "evolution" in content:
        raise CheckpointError(f"{path} holds an evolution: load it with evolution_checkpoint.load")
    try:
        nets = [BumpNet(**content["kwargs"]) for _ in content.get("windows", []) or [None]]
        for net, state in zip(nets, content.get("windows") or [content["model"]], strict=True):
            net.load_state_dict(state)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} is damaged: {_line(error)}") from error
    saved, boundary = content["problem"], content["boundary"]
    if problem is None and saved is not None:
        problem = _problem(path, saved, needed=boundary == "hard" or bool(content.get("windows")))
    windows = chain(problem, nets, boundary) if content.get("windows") else ()
    return Model(nets[0], problem, boundary, tuple(windows))


def _read(path: str | os.PathLike) -> dict[str, Any]:
    with open(path, "rb") as file:
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
            # torch's own message advises to load it unsafely
            raise CheckpointError(f"{path} is not a checkpoint, or is damaged") from error
    if not isinstance(content, dict) or not isinstance(content.get("version"), int):
        raise CheckpointError(f"{path} was not written by bumpnet_fast")
    if not 1 <= content["version"] <= VERSION:
        known = f"this version of bumpnet_fast reads formats up to {VERSION}"
        raise CheckpointError(f"{path} has format {content['version']}; {known}")
    if missing := [key for key in ("kwargs", "model", "problem", "boundary") if key not in content]:
        raise CheckpointError(f"{path} is damaged: it has no {', '.join(missing)}")
    return content


def _problem(path: str | os.PathLike, saved: dict[str, Any], needed: bool) -> Any:
    """The saved problem; None if it is unknown here and the net alone is the solution."""
    try:
        return problems.get(saved["name"], **saved["settings"])
    except (KeyError, TypeError, ValueError) as error:
        if not needed:
            return None
        advice = "pass it as load(path, problem=...)"
        raise CheckpointError(f"{path} needs its problem, {_line(error)}; {advice}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


__all__ = ["VERSION", "CheckpointError", "Model", "atomic", "load", "save"]
