"""Given values that contradict one another: no smooth u has them, and no residual at points inside shows it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ..problems.base import Problem
from ..problems.evolution.base import EvolutionProblem

#: Distances from an edge, relative to the width, at which two faces are compared: far, then near.
_FAR, _NEAR = 1e-4, 1e-5
#: A difference is a jump if it is a larger share of the given values, and hardly falls towards the edge.
_JUMP, _STAYS = 1e-2, 0.5
#: Places along an edge, as shares of the other widths.
_ALONG = (0.13, 0.5, 0.87)
#: Most places along an edge.
_PLACES_MOST = 27


@torch.no_grad()
def contradictions(problem: Problem) -> list[str]:
    """Where given values disagree, in words: at edges where two faces meet, and of a start with the values at the ends.

    Parameters
    ----------
    problem : Problem or EvolutionProblem
        Gives the faces, and the values on them.

    Returns
    -------
    list of str
        A sentence for every pair of faces that disagree; none if the values are a table that is known at the points of
        the problem only.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Lid(Problem):
    ...     def boundary_values(self, x):
    ...         return (x[:, 1] == 1).double()
    >>> print(contradictions(Lid())[0])
    the given values disagree at (-1, 1): the face x1 = -1 has 0 there and the face x2 = 1 has 1
    """
    faces = tuple(face for face in problem.faces if not (problem.continues and face[0] == problem.time))
    with torch.random.fork_rng(devices=[]):  # values that are drawn at random go on as if not asked
        try:
            size = _size(problem, faces)
            found = [_of_velocity(problem, face, size) for face in faces]
            if not 0 < size < math.inf:
                return [sentence for sentence in found if sentence]
            pairs = [pair for pair in itertools.combinations(faces, 2) if pair[0][0] != pair[1][0]]
            found += [_of_edge(problem, *pair, size) for pair in pairs]
            if isinstance(problem, EvolutionProblem):
                found += [_of_start(problem, face, size) for face in faces]
        except Exception:  # whatever a user's function raises at points that it does not know
            return []
    return [sentence for sentence in found if sentence]


def _size(problem: Problem, faces: tuple[tuple[int, int], ...]) -> float:
    """The largest given value."""
    values = [
        _given(problem, face, problem.boundary_values(x))
        for face in faces
        if len(x := _inside(problem, _on(problem, (face,))))
    ]
    if isinstance(problem, EvolutionProblem):
        values.append(problem.initial(_on(problem, ())))
    return max((float(v.abs().max()) for v in values), default=0.0)


def _on(problem: Problem, held: tuple[tuple[int, int], ...]) -> Tensor:
    """Places [n, d] where the axes ``held`` are at their ends."""
    lo, hi = problem.domain
    ends = dict(held)
    choices = [(float(ends[j]),) if j in ends else _ALONG for j in range(len(lo))]
    places: Iterator[tuple[float, ...]] = itertools.islice(itertools.product(*choices), _PLACES_MOST)
    return lo + (hi - lo) * torch.tensor(list(places), dtype=torch.float64)


def _inside(problem: Problem, x: Tensor) -> Tensor:
    return x[problem.inside(x)] if len(x) else x


def _of_edge(problem: Problem, one: tuple[int, int], other: tuple[int, int], size: float) -> str | None:
    """What is wrong along the edge of two faces."""
    x = _inside(problem, _on(problem, (one, other)))
    if not len(x):
        return None
    far, near = (_values_beside(problem, x, one, other, distance) for distance in (_FAR, _NEAR))
    apart, nearer = ((a - b).abs() for a, b in (far, near))
    jump = (nearer > _JUMP * size) & (nearer > _STAYS * apart)
    if not bool(jump.any()):
        return None
    place, output = (int(i) for i in jump.nonzero()[0])
    values = [float(v[place, output]) for v in near]
    names = [f"the face x{axis + 1} = {float(problem.domain[side, axis]):g}" for axis, side in (one, other)]
    where = ", ".join(f"{float(v):g}" for v in x[place])
    which = f" of output {output}" if near[0].shape[1] > 1 else ""
    there = f"{names[0]} has {values[0]:g} there and {names[1]} has {values[1]:g}"
    return f"the given values{which} disagree at ({where}): {there}"


def _values_beside(
    problem: Problem, x: Tensor, one: tuple[int, int], other: tuple[int, int], distance: float
) -> tuple[Tensor, Tensor]:
    """Given values [n, K] on two faces, at a distance from their edge ``x`` [n, d]."""
    found = []
    for leave, side in (other, one):  # on the first face one goes away from the other, and the other way round
        width = problem.domain[1, leave] - problem.domain[0, leave]
        beside = x.clone()
        beside[:, leave] += (1 - 2 * side) * distance * width
        values = problem.boundary_values(beside).reshape(len(x), -1)
        found.append(_given(problem, one, _given(problem, other, values)))
    return found[0], found[1]


def _given(problem: Problem, face: tuple[int, int], values: Tensor) -> Tensor:
    """Values [n, K] or [n] on a face, and zero for the outputs that are not given there."""
    free = [k for k in range(problem.outputs) if face not in problem.faces_of(k)]
    if not free:
        return values
    values = values.reshape(len(values), -1).repeat(
        1, 1 if values.dim() > 1 and values.shape[1] > 1 else problem.outputs
    )
    values[:, free] = 0.0
    return values


def _of_velocity(problem: Problem, face: tuple[int, int], size: float) -> str | None:
    """What is wrong with a velocity at the start on a face that moves in time."""
    start = (problem.time, 0)
    if problem.time_order != 2 or start not in problem.faces or face[0] == problem.time or problem.lift_has_velocity():
        return None
    x = _inside(problem, _on(problem, (face, start)))
    if not len(x):
        return None
    apart, velocity = (
        _given(problem, face, _given(problem, start, function(x).reshape(len(x), -1)))
        for function in (problem.lacking_velocity, problem.velocity)
    )
    velocity = velocity.expand_as(apart)
    moves = velocity - apart
    rounding = 1e-10 * size / (problem.upper[problem.time] - problem.lower[problem.time])
    wrong = apart.abs() > max(_JUMP * max(float(velocity.abs().max()), float(moves.abs().max())), rounding)
    if not bool(wrong.any()):
        return None
    place, output = (int(i) for i in wrong.nonzero()[0])
    where = ", ".join(f"{float(v):g}" for v in x[place])
    which = f" of output {output}" if problem.outputs > 1 else ""
    rates = float(velocity[place, output]), float(moves[place, output])
    there = f"velocity has {rates[0]:g} there and the boundary values change by {rates[1]:g}"
    return f"the velocity at the start{which} is not that of the side at ({where}): {there}"


def _of_start(problem: EvolutionProblem, face: tuple[int, int], size: float) -> str | None:
    """What is wrong with the start of an evolution on a face."""
    x = _inside(problem, _on(problem, (face,)))
    if not len(x):
        return None
    start, held = (function(x).reshape(len(x), -1) for function in (problem.initial, problem.boundary_values))
    apart = (start - held).abs()
    if not float(apart.max()) > _JUMP * size:
        return None
    place, output = divmod(int(apart.argmax()), apart.shape[1])
    where = ", ".join(f"{float(v):g}" for v in x[place])
    values = float(start[place, output]), float(held[place, output if held.shape[1] > 1 else 0])
    there = f"initial has {values[0]:g} there and boundary_values {values[1]:g}"
    return f"the start and the boundary values disagree at ({where}): {there}"


__all__ = ["contradictions"]
