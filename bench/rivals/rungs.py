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
SHORT, TIMES = 2.0, 3


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


def timed(solve: Callable[[], Answer]) -> tuple[Answer, dict[str, float]]:
    """An answer, and the ``processor_seconds`` and ``seconds`` that it took."""
    found = []
    while len(found) < TIMES and all(spent["processor_seconds"] < SHORT for spent in found):
        timer = training.Timer()
        answer = solve()
        found.append(timer.spent())
    return answer, min(found, key=lambda spent: spent["processor_seconds"])


def climb(problem: Problem, rungs: list[Rung], longest: float = LONGEST) -> Iterator[Record]:
    """The records of a ladder: size, unknowns, error, processor_seconds and seconds; or size and why it failed."""
    measure = ErrorMeasure(problem, torch.device("cpu"))
    for rung in rungs:
        try:
            record = min((_record(measure, way) for way in rung.ways), key=lambda record: record["error"])
        except (ValueError, RuntimeError, ArithmeticError) as error:
            yield {"size": rung.size, "failed": f"{type(error).__name__}: {error}".split("\n")[0]}
            continue
        yield {"size": rung.size} | record
        if record["processor_seconds"] > longest:
            return


def _record(measure: ErrorMeasure, way: Callable[[], Answer]) -> Record:
    answer, spent = timed(way)
    with torch.no_grad():
        error, _ = measure(answer.u)
    return {"unknowns": answer.unknowns, "error": error, **spent}
