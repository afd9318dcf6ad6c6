"""What a method is asked for: answers of growing size.  How they are timed, and how their errors are measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import training
from torch import Tensor

from bumpnet_fast.problems import Problem
from bumpnet_fast.solvers.solution import ErrorMeasure

#: A ladder ends with the first answer that takes so many processor seconds.
LONGEST = 20.0
#: What takes less is solved again, up to so many times in all; the least time counts.
SHORT, TIMES = 0.5, 3


@dataclass(frozen=True)
class Answer:
    """An approximate solution: ``u`` maps points [N, d] to values [N, K]."""

    unknowns: int
    u: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Rung:
    """One size of a method: its name, and functions that solve, with all that a user has to pay for.

    Several functions are several settings of the method.  The one with the least error counts, and its time alone.
    """

    size: str
    ways: Sequence[Callable[[], Answer]]


Record = dict[str, Any]


def climb(problem: Problem, rungs: list[Rung], longest: float = LONGEST) -> Iterator[Record]:
    """The records of a ladder: size, unknowns, error, processor_seconds and seconds; or size and why it failed."""
    measure = ErrorMeasure(problem, torch.device("cpu"))
    for rung in rungs:
        try:
            record = _record(measure, rung.ways)
        except (ValueError, RuntimeError, ArithmeticError) as error:
            yield {"size": rung.size, "failed": f"{type(error).__name__}: {error}".split("\n")[0]}
            continue
        yield {"size": rung.size} | record
        if record["processor_seconds"] > longest:
            return


def _timed(way: Callable[[], Answer]) -> tuple[Answer, dict[str, float]]:
    """An answer, and the ``processor_seconds`` and ``seconds`` that it took."""
    timer = training.Timer()
    return way(), timer.spent()


def _record(measure: ErrorMeasure, ways: Sequence[Callable[[], Answer]]) -> Record:
    """Of the way with the least error, which alone is timed again."""
    found = []
    for way in ways:
        answer, spent = _timed(way)
        with torch.no_grad():
            found.append((measure(answer.u)[0], int(answer.unknowns), spent, way))
    error, unknowns, spent, way = min(found, key=lambda one: one[0])
    for _ in range(TIMES - 1 if spent["processor_seconds"] < SHORT else 0):
        spent = min(spent, _timed(way)[1], key=lambda one: one["processor_seconds"])
    return {"unknowns": unknowns, "error": error, **spent}
