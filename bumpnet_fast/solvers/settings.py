"""What defines a run of first-order training, and what its settings can be."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from .stages import PRUNE_UNTIL, STAGES

#: Kinds of points that can be drawn anew.
_SCATTERED = ("sobol", "uniform")


@dataclass(frozen=True)
class Settings:
    """What defines a run besides problem, net and points; see :func:`bumpnet_fast.solvers.first_order.train`."""

    method: str
    iterations: tuple[int, ...]
    boundary: str
    sampling: str
    learning_rate: float
    batch: int | None
    resample: int | None
    prune_threshold: float
    prune_every: int
    prune_least: int
    ridge: float
    condition_weight: float
    seed: int
    log_every: int

    @property
    def stages(self) -> list[str]:
        return self.method.split("+")


def extended(settings: Settings, iterations, progress: dict[str, Any]) -> Settings:
    """The settings with other numbers of iterations."""
    if iterations is None:
        return settings
    old, at = settings.iterations, progress["stage"]
    new = tuple(iterations) if isinstance(iterations, (tuple, list)) else (iterations,) * len(old)
    settings = replace(settings, iterations=new)
    _check_iterations(settings)
    done = progress["taken"] - progress["begun"]
    if new[at] < done:
        raise ValueError(
            f"iterations must be at least {done} of {settings.stages[at]!r}, which are done, got {new[at]}"
        )
    return settings


def _check_iterations(settings: Settings) -> None:
    stages, numbers = settings.stages, settings.iterations
    if len(numbers) != len(stages):
        raise ValueError(f"iterations must be a number or {len(stages)} numbers for {settings.method!r}, got {numbers}")
    for number in numbers:
        _check_integer("iterations", number, 0)


def check_settings(s: Settings, points) -> None:
    unknown = [name for name in str(s.method).split("+") if name not in STAGES]
    if unknown:
        raise ValueError(f"method must be of {', '.join(STAGES)}, joined by '+', got {s.method!r}")
    _check_iterations(s)
    for name, least in (("seed", 0), ("log_every", 1), ("prune_every", 1), ("prune_least", 1)):
        _check_integer(name, getattr(s, name), least)
    for name in ("batch", "resample"):
        if getattr(s, name) is not None:
            _check_integer(name, getattr(s, name), 1)
    for name, most in (("prune_threshold", 1.0), ("ridge", math.inf)):
        _check_number(name, getattr(s, name), 0.0, most)
    for name in ("learning_rate", "condition_weight"):
        _check_positive(name, getattr(s, name))
    _check_places(s, points)


def _check_places(s: Settings, points) -> None:
    """What only some methods and points can have."""
    if s.batch is not None and set(s.stages) <= {"lbfgs", "varpro-adam"}:
        raise ValueError(f"batch is for method 'adam'; {s.method!r} takes all points at a time")
    adams = [n for name, n in zip(s.stages, s.iterations, strict=True) if name != "lbfgs"]
    if (s.resample is not None or s.prune_threshold) and not adams:
        name = "resample" if s.resample is not None else "prune_threshold"
        raise ValueError(f"{name} is for Adam, got method {s.method!r}")
    if s.resample is not None and (s.sampling not in _SCATTERED or isinstance(points, Tensor)):
        kind = "points of one's own" if isinstance(points, Tensor) else repr(s.sampling)
        raise ValueError(f"resample needs sampling of {', '.join(_SCATTERED)}, got {kind}")
    if s.prune_threshold and s.prune_every > PRUNE_UNTIL * max(adams):
        most = f"{PRUNE_UNTIL:.0%} of the iterations of Adam"
        raise ValueError(f"prune_every must be at most {most}, {int(PRUNE_UNTIL * max(adams))}, got {s.prune_every}")


def check_ending(max_seconds: float | None, every: int) -> None:
    if max_seconds is not None:
        _check_positive("max_seconds", max_seconds)
    _check_integer("every", every, 1)


def _check_integer(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")


def _check_number(name: str, value: Any, least: float, most: float) -> None:
    if not isinstance(value, (int, float)) or not least <= value <= min(most, sys.float_info.max):
        wanted = f"at least {least:g}" if most == math.inf else f"between {least:g} and {most:g}"
        raise ValueError(f"{name} must be {wanted}, got {value!r}")


def _check_positive(name: str, value: Any) -> None:
    if not isinstance(value, (int, float)) or not 0 < value <= sys.float_info.max:
        raise ValueError(f"{name} must be positive, got {value!r}")
