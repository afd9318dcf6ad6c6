"""The state of a training run in a file: all that it takes to go on as if nothing had happened.

The file holds tensors and plain values only, and ``torch.load(path, weights_only=True)`` reads it:

========= =======================================================================
kind      "run", which tells it from a saved model
version   format of the file, :data:`VERSION`
problem   ``{"name": ..., "settings": {...}}``
settings  what defines the run, see :class:`~bumpnet_fast.solvers.settings.Settings`
net       rows, frame, domain, tied and device
progress  stage, iterations, seconds, history and events
best      loss, rows and unknowns of the best rows seen
stage     the state of optimiser and schedule
batches   the points and what comes next of them
random    the state of torch's random numbers
========= =======================================================================
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from ..files import atomic, read
from ..layer import BumpNet
from ..problems.base import Problem

#: Format of the files.
VERSION = 1

KEYS = ("problem", "settings", "net", "unknowns", "progress", "best", "stage", "batches", "random")


def write(path: str | os.PathLike, content: dict[str, Any]) -> None:
    """Write the state of a run, atomically."""
    with atomic(path) as file:
        torch.save({"kind": "run", "version": VERSION, **content}, file)


def load(path: str | os.PathLike) -> dict[str, Any]:
    """Read what :func:`write` wrote; raises as :func:`bumpnet_fast.files.read`."""
    return read(path, "run", VERSION, KEYS)


def described(problem: Problem) -> dict[str, Any]:
    """Name of a problem and those of its fields that are plain values."""
    values = {f.name: getattr(problem, f.name) for f in fields(problem)}
    plain = (bool, int, float, str, tuple, type(None))
    return {"name": problem.name, "settings": {key: v for key, v in values.items() if isinstance(v, plain)}}


def net_state(net: BumpNet) -> dict[str, Any]:
    tensors = {name: getattr(net, name).detach().cpu() for name in ("rows", "frame", "domain")}
    return tensors | {"tied": net.tied, "device": str(net.rows.device)}


def net_from(state: dict[str, Any]) -> BumpNet:
    """The net of a run, on the device that it ran on; ValueError if that is not here."""
    if torch.device(state["device"]).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"the run was on {state['device']!r}, and there is no CUDA device here")
    net = BumpNet.from_rows(state["rows"], state["frame"], state["domain"], state["tied"])
    return net.to(state["device"])


def random_state(device: torch.device) -> dict[str, Tensor | None]:
    """That of torch's own random numbers, which a residual may draw."""
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"torch": torch.get_rng_state(), "cuda": cuda}


def set_random_state(state: dict[str, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)


@contextlib.contextmanager
def interrupts_held() -> Iterator[Callable[[], None]]:
    """Hold Ctrl-C back; the function that it gives raises KeyboardInterrupt if there was one.

    So a step is never left half done.  A second Ctrl-C is not held back.  Where somebody else handles
    the signal, or outside the main thread, nothing is changed.
    """
    held = False

    def hold(*_) -> None:
        nonlocal held
        if held:
            raise KeyboardInterrupt
        held = True

    def release() -> None:
        if held:
            raise KeyboardInterrupt

    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ours = usual and threading.current_thread() is threading.main_thread()
    if ours:
        signal.signal(signal.SIGINT, hold)
    try:
        yield release
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
