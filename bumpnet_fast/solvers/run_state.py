"""The state of a run in a file: everything needed to continue it.

The file holds tensors and plain values only, and ``torch.load(path, weights_only=True)`` reads it:

========= =======================================================================
kind      "run", which tells it from a saved model
version   format of the file, :data:`VERSION`
solver    which solver: "solve", "march", "evolve", "operator", ...
problem   ``{"name": ..., "settings": {...}}``
settings  what else defines the run
net       what the run began with
state     where it is, see :meth:`bumpnet_fast.solvers.loop.Run`; None at the start
command   what the command line wants again in a resumption; only in its own runs
========= =======================================================================
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from ..core.files import CheckpointError, CheckpointWarning, atomic, one_line, read, sweep
from ..core.maps import Maps
from ..nets.bumpnet import BumpNet

#: Format of the files.  In 1 all runs were of "train"; until 2 every solver had its own form of state.
VERSION = 3
#: Entries of every file.
KEYS = ("problem", "settings", "net")
#: Default number of seconds between two writes.
EVERY = 10.0

#: Errors that reading a changed file may raise.
_WRONG = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError)


def write(path: str | os.PathLike, content: dict[str, Any]) -> None:
    """Write the state of a run, atomically."""
    with atomic(path) as file:
        torch.save(plain({"kind": "run", "version": VERSION, **content}), file)


class File(os.PathLike):
    """The file of a run's state.  Solvers accept one instead of a path.

    Raises if the first write fails; later failures only give a ``CheckpointWarning``, the run
    continues, and the next write is a new attempt.

    Parameters
    ----------
    path : str or path
        Path of the file.
    command : dict, optional
        Entry of the file: plain values of the caller, kept for a resumption.
    begun : callable, optional
        Called once, after the first state of a new run has replaced the content of the file.
    """

    def __init__(
        self, path: str | os.PathLike, command: dict[str, Any] | None = None, begun: Callable[[], Any] | None = None
    ):
        self.path, self._begun, self._late = os.fspath(path), begun, False
        self._more = {} if command is None else {"command": command}

    def __fspath__(self) -> str:
        return self.path

    def __str__(self) -> str:
        return str(self.path)

    def begin(self, content: dict[str, Any]) -> None:
        """Write the first state, and remove what a process left that was killed while writing."""
        sweep(self.path)
        write(self.path, content | self._more)
        if self._begun is not None:
            self._begun()

    def write(self, content: dict[str, Any]) -> None:
        """Write a later state, if possible."""
        try:
            write(self.path, content | self._more)
            self._late = False
        except OSError as error:
            if not self._late:
                reason = f"cannot write {self.path}: {error.strerror}"
                warnings.warn(f"{reason}; the run continues and tries again", CheckpointWarning, stacklevel=2)
            self._late = True

    def end(self) -> None:
        """Warn if the file is older than the run."""
        if self._late:
            message = f"the end of the run could not be written: what is in {self.path} is older"
            warnings.warn(message, CheckpointWarning, stacklevel=2)


def as_file(path: str | os.PathLike) -> File:
    """The file at ``path``, or ``path`` itself if it is one."""
    return path if isinstance(path, File) else File(path)


def load(path: str | os.PathLike) -> dict[str, Any]:
    """Read what :func:`write` wrote; raises as :func:`bumpnet_fast.core.files.read`."""
    return {"solver": "train"} | read(path, {"run": (VERSION, KEYS)})


def plain(value: Any) -> Any:
    """The same content in builtin types and CPU tensors that own no more memory than they show.

    Raises
    ------
    ValueError
        If it contains something that a file cannot hold.

    Examples
    --------
    >>> plain({"size": (2, torch.arange(9)[:2])})
    {'size': (2, tensor([0, 1]))}
    """
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        return value.clone() if value.untyped_storage().nbytes() > value.nbytes else value
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return (list if isinstance(value, list) else tuple)(plain(item) for item in value)
    for kind in (bool, int, float, str):
        if isinstance(value, kind):  # NumPy's floats are floats
            return kind(value)
    if value is None or isinstance(value, (torch.dtype, torch.device)):
        return value
    raise ValueError(f"checkpoint can keep numbers, strings and tensors, not {type(value).__name__} {value!r}")


# --- what a run is about -------------------------------------------------------------------------


def described(problem: Any) -> dict[str, Any]:
    """Name of a problem, and those of its fields that are plain values."""
    values = {f.name: getattr(problem, f.name) for f in fields(problem)}
    kinds = (bool, int, float, str, tuple, type(None))
    return {"name": problem.name, "settings": plain({key: v for key, v in values.items() if isinstance(v, kinds)})}


def content(solver: str, problem: Any, net: BumpNet | None, settings: dict[str, Any]) -> dict[str, Any]:
    """Content of the file of a new run without its state; ValueError for settings that no file can hold."""
    began = {"problem": described(problem), "net": None if net is None else net_state(net)}
    return plain({"solver": solver, **began, "settings": settings})


def check_same(path: str | os.PathLike, what: str, saved: Any, given: Any) -> None:
    """Raise ValueError, naming the difference, unless a run has the given value."""
    if saved != given:
        raise ValueError(f"{path} is about another {what}: {saved}, not {given}")


def net_state(net: BumpNet) -> dict[str, Any]:
    tensors = {name: getattr(net, name).detach().cpu().clone() for name in ("rows", "frame", "domain", "trainable")}
    maps = {} if net.maps is None else {"maps": net.maps.to_tensor()}
    return tensors | {"tied": net.tied, "device": str(net.rows.device)} | maps


def check_device(device: str) -> str:
    """The device of a run; ValueError if this machine has none like it."""
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"the run was on {device!r}, and there is no CUDA device here")
    return device


def net_from(state: dict[str, Any]) -> BumpNet:
    """The net of a run, on its device; ValueError if this machine has none like it."""
    device = check_device(state["device"])
    about = state["rows"], state["frame"], state["domain"], state["tied"], state.get("trainable")  # none until 0.1.0
    maps = Maps.from_tensor(state["maps"]) if "maps" in state else None
    return BumpNet.from_rows(*about, maps=maps).to(device)


def random_state(device: torch.device) -> dict[str, Tensor | None]:
    """State of torch's own random numbers, which a residual may draw."""
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"torch": torch.get_rng_state(), "cuda": cuda}


def set_random_state(state: dict[str, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)


# --- the file of a run ---------------------------------------------------------------------------


class Store:
    """The file of a run: written at most every so many seconds, and when the ``with`` block of the run ends.

    Without a path nothing is kept or written.  The old content of the file stays until the run has a first state to
    keep, so a mistake found before that destroys nothing.

    Parameters
    ----------
    path : str, path, File or None
        The file.
    every : float
        Seconds between two writes.
    content : dict, optional
        Content of the file, if a run continues.

    Attributes
    ----------
    on : bool
        Whether there is a file.
    state : dict or None
        Last state that :meth:`keep` got before the run was stopped.
    begun : bool
        Whether the run has kept a first state.
    """

    def __init__(self, path: str | os.PathLike | None, every: float = EVERY, content: dict[str, Any] | None = None):
        self.path, self.every, self.on = path, every, path is not None
        self.content, self.state = content, None if content is None else content.get("state")
        self._make: Callable[[], dict[str, Any]] | None = None
        self._file = as_file(path) if self.on else None
        self.begun, self._written = False, -math.inf
        self._cleared = contextlib.ExitStack()

    def describe(self, describe: Callable[[], dict[str, Any]]) -> None:
        """Set the entries of the file of a new run, without its state."""
        if self.on and self.content is None:
            self.content = describe()

    def __enter__(self) -> Store:
        if self.on:
            self._cleared.enter_context(termination_raised())
        return self

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        with self._cleared:
            if self.on and kind is None:
                self._begin()
            self.flush()
            if self.on:
                self._file.end()

    def _begin(self) -> None:
        """Write the file without a state, once, unless a run continues."""
        if self.begun:
            return
        if self.state is None:
            self._file.begin(self.content | {"state": None})
        else:
            sweep(self.path)
        self.begun, self._written = True, time.monotonic()

    def keep(self, make: Callable[[], dict[str, Any]]) -> None:
        """Keep a function that makes the state from which the run could continue; write it if it is time."""
        if self.on:
            self._begin()
            self._make = make
            if time.monotonic() - self._written >= self.every:
                self.flush()

    def forget(self) -> None:
        """Discard the kept state: values that it refers to are about to change."""
        self._make = None

    def settle(self) -> None:
        """Make the kept state now, to be written later: values that it refers to are about to change for good."""
        if self._make is not None:
            state = self._make()
            self._make = lambda: state

    def flush(self) -> None:
        """Write the kept state, unless written; :class:`File` says what happens if that fails."""
        if self._make is not None:
            self._file.write(self.content | {"state": self._make()})
            self._make, self._written = None, time.monotonic()

    @contextlib.contextmanager
    def reading(self) -> Iterator[dict[str, Any] | None]:
        """Context manager: yields the state; an error inside is a CheckpointError."""
        try:
            yield self.state
        except CheckpointError:
            raise
        except _WRONG as error:
            raise CheckpointError(f"{self.path} is damaged: {one_line(error)}") from error


def opened(checkpoint: Any, every: float, describe: Callable[[], dict[str, Any]]) -> Store:
    """The store of a run from the arguments ``checkpoint`` (path, file or store) and ``every_seconds``."""
    store = checkpoint if isinstance(checkpoint, Store) else Store(checkpoint, checked_seconds(every))
    store.describe(describe)
    return store


def checked_seconds(every: float) -> float:
    """Seconds between two writes; ValueError if out of range."""
    if not isinstance(every, (int, float)) or isinstance(every, bool) or not 0 <= every <= sys.float_info.max:
        raise ValueError(f"every_seconds must be at least 0, got {every!r}")
    return float(every)


# --- signals -------------------------------------------------------------------------------------


def _terminate(*_) -> None:
    raise SystemExit(128 + signal.SIGTERM)


@contextlib.contextmanager
def termination_raised() -> Iterator[None]:
    """Make SIGTERM raise SystemExit, so that open files are closed; unchanged where SIGTERM is handled already."""
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def interrupts_held(on: bool = True) -> Iterator[Callable[[], None]]:
    """Delay Ctrl-C, and SIGTERM where it raises; the function that it yields raises what arrived.

    Nothing is delayed unless ``on``.  A step is then never left unfinished.  A second signal is not delayed.  Signals
    that are handled elsewhere, and threads other than the main one, are left alone.
    """
    held: list[Callable] = []
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: _terminate}
    main = on and threading.current_thread() is threading.main_thread()
    ours = {number: handler for number, handler in usual.items() if main and signal.getsignal(number) is handler}

    def hold(number: int, frame) -> None:
        if held:
            ours[number](number, frame)
        held.append(ours[number])

    def release() -> None:
        if held:
            held[0](signal.SIGINT, None)

    for number in ours:
        signal.signal(number, hold)
    try:
        yield release
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)
