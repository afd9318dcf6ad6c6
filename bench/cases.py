"""The one registry of what is timed: cases, and who takes part in each.

``pytest bench/test_speed.py`` times them, ``tests/bench/test_registry.py`` compares what the contestants compute.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from typing import NamedTuple

import torch

from bumpnet_fast.diagnostics import bench as speed
from bumpnet_fast.diagnostics.bench import COMPILED, EAGER, NESTED, OURS, STEP, Case, Stages

JAX, JAX_NESTED = "JAX jit analytic", "JAX jit nested jvp"
ALL = (OURS, COMPILED, JAX, EAGER, NESTED, JAX_NESTED)
FASTEST = (OURS, COMPILED, JAX)
BOTH = ("forward", "backward")


class Entry(NamedTuple):
    """A case, its contestants, which stages are timed, and whether the short form has it."""

    case: Case
    contestants: tuple[str, ...]
    stages: tuple[str, ...] = Stages._fields
    short: bool = False


_USUAL = Case(10_000, 400)
#: How time and memory grow with the points and with the bumps.  Of more than 400 bumps, as they start on their grid, so
#: little is left to float32 that ours leaves pairs out, and nothing could be compared.
_SWEEP = [*(_USUAL._replace(points=n) for n in (100, 1_000)), *(_USUAL._replace(bumps=m) for m in (10, 50))]
#: The peers would need gigabytes.
_LARGE = _USUAL._replace(points=100_000)
_SMALL = {speed.SHORT[0]: (OURS, STEP, *ALL[1:])}
ENTRIES = (
    *(Entry(one, _SMALL.get(one, (OURS, COMPILED, EAGER)), short=True) for one in speed.SHORT),
    Entry(_USUAL, ALL),
    Entry(_USUAL._replace(dtype="float64"), FASTEST),
    Entry(_USUAL._replace(threads=2), (OURS,), BOTH),
    Entry(_USUAL._replace(dtype="float64", threads=2), (OURS,), BOTH),
    *(Entry(_USUAL._replace(dim=dim), FASTEST, BOTH) for dim in (1, 3)),
    *(Entry(_USUAL._replace(want=want), FASTEST, BOTH) for want in ("value", "gradient", "diagonal", "hessian")),
    *(Entry(one, (OURS, COMPILED, JAX, EAGER, NESTED), ("backward",)) for one in _SWEEP),
    Entry(_LARGE, (OURS,), ("backward",)),
    Entry(Case(1_000_000, 1_000), (OURS,), ("adam",)),
)


def obstacle(name: str, one: Case, device: str = "cpu") -> str | None:
    """Why a contestant cannot take part here, or None."""
    if name in (JAX, JAX_NESTED):
        if device != "cpu" or one.threads > 1:
            return "the JAX here runs on one thread of the CPU"
        if importlib.util.find_spec("jax") is None:
            return 'JAX is not installed: pip install "bumpnet_fast[peers]"'
    if device == "cpu" and one.threads > (os.cpu_count() or 1):
        return f"{one.threads} threads on {os.cpu_count()} processors say nothing"
    if device != "cpu" and one.threads > 1:
        return "threads are the CPU's"
    return None


@functools.lru_cache(maxsize=1)  # the stages of one contestant follow each other, and may have been compiled
def stages(name: str, one: Case, device: str = "cpu") -> Stages:
    """The calls of a contestant."""
    if name in speed.CONTESTANTS:
        return speed.CONTESTANTS[name](one, device)
    import jax_peers

    return jax_peers.CONTESTANTS[name](one)


def expected(one: Case, device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and gradient to the rows by our operators in float64, from what the case has in its own precision."""
    arguments = (t.detach().double() for t in one.arguments(device))
    x, rows, frame, f = arguments
    return speed.step(speed.ours, x, rows.requires_grad_(), frame, f, one.want)
