"""The pictures of a result, by file name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from ..io.recording import Frame
    from ..solvers import Evolution, March, Solution
    from ..solvers.operators import OperatorSolution

Pictures = dict[str, Callable[[BinaryIO], Any]]


def of_solution(
    solution: Solution | March, frames: Sequence[Frame] = (), at: Mapping[str, float] | None = None,
    estimate: bool = True,
) -> Pictures:  # fmt: skip
    """The overview; all outputs on slices if it does not show all; the training if there are ``frames`` of it.

    ``estimate`` is whether to show the estimated error where the error is not known.
    """
    from ..plotting import solution_figure

    options = {} if estimate else {"estimate": False}
    pictures: Pictures = {
        "solution.png": lambda image: solution_figure(solution, **options).savefig(image, format="png")
    }
    if at or len(solution.problem.lower) > 2 or solution.net.layout.outputs > 1:
        pictures |= of_slices(solution, at, **options)
    if frames:
        from ..plotting import write_training

        pictures["training.gif"] = lambda image: write_training(solution, frames, image)
    return pictures


def of_evolution(run: Evolution, animation: bool, at: Mapping[str, float] | None = None) -> Pictures:
    """One picture per output, slices if requested, and an animation."""
    from ..plotting import evolution_figure

    def draw(output: int) -> Callable[[BinaryIO], Any]:
        which = {"output": output} if output else {}
        return lambda image: evolution_figure(run, **which).savefig(image, format="png")

    outputs = range(run.net.layout.outputs)
    pictures: Pictures = {f"evolution{-k - 1 if k else ''}.png": draw(k) for k in outputs}
    return pictures | (of_slices(run, at) if at else {}) | (over_time(run) if animation else {})


def over_time(result: Solution | March | Evolution) -> Pictures:
    """The animation of a result with an axis of time."""
    from ..plotting import write_animation

    return {"evolution.gif": lambda image: write_animation(result, image)}


def of_slices(result: Solution | March | Evolution, at: Mapping[str, float] | None, **options: bool) -> Pictures:
    """All outputs, with some coordinates fixed; the options are those of the figure."""
    from ..plotting import fields_figure

    return {"fields.png": lambda image: fields_figure(result, at, **options).savefig(image, format="png")}


def of_operator(solution: OperatorSolution) -> Pictures:
    """The only picture of an operator."""
    from ..plotting import operator_figure

    return {"operator.png": lambda image: operator_figure(solution).savefig(image, format="png")}
