"""The enrichment at the end of a solve: kept only where the residual between the points falls by much."""

from __future__ import annotations

import dataclasses
import time

from .arguments import integer
from .enriching import accepted
from .loop import StopReason
from .solution import Solution


def check_enrich(enrich: bool | int, refused: str | None = None) -> None:
    """Raise ValueError if ``enrich`` is no choice, or if it is one beside what is ``refused``."""
    if not isinstance(enrich, bool) and enrich is not None:
        integer(1).check("enrich", enrich)
    if enrich and refused is not None:
        raise ValueError(f"enrich must be left out beside {refused}, got {enrich!r}")


def enriched(solution: Solution, enrich: bool | int, seed: int) -> Solution:
    """``solution``, or a better one with smooth bumps added to its net, if ``enrich`` asks for it."""
    if not enrich or solution.stop in (StopReason.INTERRUPTED, StopReason.DIVERGED):
        return solution
    started, clock = time.process_time(), time.perf_counter()
    (stage,) = solution.stages()
    found = accepted(stage, None if enrich is True else int(enrich), seed)
    if found is None:
        why = "the residual between the points did not fall by much with smooth bumps, so none were added"
        return dataclasses.replace(solution, warnings=[*solution.warnings, f"{why}: they do not reach what is missing"])
    return solution.over(found, started, clock)


__all__ = ["check_enrich", "enriched"]
