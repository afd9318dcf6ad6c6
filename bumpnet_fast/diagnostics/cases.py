"""Cases for the operators, for ``bumpnet check`` and tests: arguments, and the answers of the float64 reference.

An operator needs an entry in ARGUMENTS.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core import ops
from ..core.reference import DIAGONAL, HESSIAN, LAPLACIAN, WANTS, second_shape
from ..core.rows import RowLayout, orientation, pack

#: Tolerances of value, first derivatives, second derivatives and gradients, relative to the largest entry.
TOLERANCES = {torch.float64: (1e-12, 1e-11, 1e-10), torch.float32: (1e-5, 1e-4, 5e-4)}
#: Tolerances in float32.  The reference takes more rounded operations; a GPU's exponential and reciprocal have a digit
#: less.
SLACK = {"reference": 5, "triton": 2}


# --- problems ---------------------------------------------------------------------------------------


class Case(NamedTuple):
    """One case; ``kind`` is "edges", "sharp", "steps", or "no number"."""

    kind: str
    dim: int
    want: int
    tied: bool
    points: int
    bumps: int
    outputs: int


#: Lengths around every vector width and block size of the kernels.
_POINTS = (1, 7, 8, 9, 15, 16, 17, 31, 33, 255, 257, 1025)
_BUMPS = (1, 2, 3, 8, 33)
_DIMS, _LEVELS = range(1, 5), range(len(WANTS))


def table(full: bool = False) -> list[Case]:
    """The cases: every dimension with every want, irregular sizes in turn, and special cases.

    Parameters
    ----------
    full : bool
        Every dimension, want and kind of slope with all sizes, and more points.

    Examples
    --------
    >>> {case.kind for case in table()} == {"edges", "sharp", "steps", "no number"}
    True
    """
    # A GPU compiles for every (d, want, K); the short table limits their number.
    cases = [
        Case("edges", d, want, tied, _POINTS[i % 12], _BUMPS[(i + want) % 5], 1 + (i if full else want * (d < 3)) % 3)
        for turn, (d, want, tied) in enumerate((d, w, t) for d in _DIMS for w in _LEVELS for t in (True, False))
        for i in (range(12) if full else (5 * turn,))
    ]
    for d in _DIMS:
        tied = d % 2 == 0
        cases += [
            Case("edges", d, HESSIAN, tied, 0, 3, 1),
            Case("edges", d, DIAGONAL, tied, 5, 0, 1),
            Case("sharp", d, HESSIAN, tied, 500, 20, 1),
            Case("sharp", d, DIAGONAL, not tied, 500, 20, 1),
            Case("steps", d, LAPLACIAN if tied else HESSIAN, tied, 100, 5, 1),
            Case("no number", d, d, tied, 41, 3, 2),
        ]
    cases += [
        Case("edges", 2, LAPLACIAN, True, 20_000, 5, 1),
        Case("edges", 3, DIAGONAL, False, 300, 400, 1),
        Case("edges", 2, HESSIAN, True, 33, 7, 5),
        Case("edges", 1, DIAGONAL, True, 3, 5_000, 1),
    ]
    if full:  # a GPU takes other blocks beyond each of these numbers
        cases += [Case("edges", d, DIAGONAL, True, n + 1, 3, 1) for n in (2**13, 2**16, 2**18) for d in (1, 2, 3)]
    return cases


def problem(case: Case, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Points [N, d], rows [M, columns] and frame [3, d] of a case: float64 numbers that float32 represents exactly.

    Amplitudes are positive, so nothing cancels, and errors are relative to the result.
    """
    dim, layout = case.dim, RowLayout(case.dim, case.outputs, case.tied)
    generator = torch.Generator().manual_seed(1000 * seed + 100 * dim + 10 * case.want + case.points)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    frame = torch.stack([-1.2 - normal(dim).abs(), 1 + normal(dim).abs(), 0.5 + normal(dim).abs()])
    rows = 0.4 * normal(case.bumps, layout.columns)
    rows[:, layout.size] += 0.25 * dim
    rows[:, layout.outer] += 0.5
    rows[:, layout.amplitude] = 0.5 + rows[:, layout.amplitude].abs()
    # p A: from 1 to 20, or as the kind says
    sharp = {"sharp": 50.0, "steps": 1e8}.get(case.kind)
    pA = 20 ** torch.rand(case.bumps, generator=generator, dtype=torch.float64) if sharp is None else sharp
    reach = orientation(rows[:, layout.skew], dim)[2] * rows[:, layout.size].exp().amax(1)
    rows[:, layout.sharpness] = 0.5 * torch.log(2 * pA / reach)
    rows, frame = rows.float().double(), frame.float().double()
    if sharp is None and case.bumps:
        x = _points_on_edges(rows, frame, case, generator)
    else:
        x = 2.4 * torch.rand(case.points, dim, generator=generator, dtype=torch.float64) - 1.2
    if case.kind == "steps":
        x[:2] *= 1e6
    if case.kind == "no number":
        x[1, 0], x[17, -1] = math.nan, -math.inf
    return x.float().double(), rows, frame


def _points_on_edges(rows: Tensor, frame: Tensor, case: Case, generator: torch.Generator) -> Tensor:
    """Points on the bumps' edges, in turn: there the numbers are largest and hardest to compute."""
    n, dim = case.points, case.dim
    V, c, A, s, _ = pack(rows, frame, case.tied)
    each = torch.arange(n)
    bump, axis = each % case.bumps, each % dim
    B = A[bump] * (torch.rand(n, dim, generator=generator, dtype=torch.float64) - 0.5)
    beyond = torch.randn(n, generator=generator, dtype=torch.float64) / s[bump].clamp(min=1)
    B[each, axis] = A[bump, axis] + beyond
    return c[bump] + torch.linalg.solve(V[bump], B)


def _random_jet(case: Case, *leading: int) -> list[Tensor | None]:
    """Cotangents or coefficients of a value, its gradient and its second derivatives; None beyond ``want``."""
    generator = torch.Generator().manual_seed(100 * case.dim + 10 * case.want + case.points)
    shapes = (leading, (*leading, case.dim), (*leading, *second_shape(case.want, case.dim)))
    made = [torch.randn(shape, generator=generator).double() for shape in shapes]
    return [t if i <= min(case.want, DIAGONAL) else None for i, t in enumerate(made)]


def _random_basis(case: Case) -> list[Tensor | None]:
    """The same for every bump, with the points last."""
    return [None if t is None else t.movedim(0, -1) for t in _random_jet(case, case.points, case.bumps)]


def _functions(case: Case) -> list[Tensor]:
    """Cotangents [B, N] and coefficients [B, M] of B functions of the same bumps."""
    generator = torch.Generator().manual_seed(case.points + case.bumps)
    functions = 1 + 16 * case.outputs
    cotangents, h = (torch.randn(functions, n, generator=generator).double() for n in (case.points, case.bumps))
    return [cotangents, h.abs()]


def _compaction(case: Case, rows: Tensor) -> list:
    keep = torch.rand(case.bumps, generator=torch.Generator().manual_seed(case.bumps)) < 0.6
    return [keep, [rows, rows.t().contiguous().t(), torch.arange(case.bumps)]]


#: Arguments of every operator, in float64, from a case and its points, rows, frame, want and tied.
ARGUMENTS: dict[str, Callable[[Case, list], list]] = {
    "jet": lambda case, bumps: bumps,
    "jet_vjp": lambda case, bumps: [*_random_jet(case, case.points, case.outputs), *bumps, True, True],
    "basis": lambda case, bumps: bumps,
    "basis_vjp": lambda case, bumps: [*_random_basis(case), *bumps, True, True],
    "design": lambda case, bumps: [*_random_jet(case, case.points), *bumps, True],
    "combine": lambda case, bumps: [*_functions(case)[1:], *bumps[:3], case.tied, "tf32x3"],
    "combine_vjp": lambda case, bumps: [*_functions(case), *bumps[:3], case.tied, "tf32x3", True, True, True],
    "compact": lambda case, bumps: _compaction(case, bumps[1]),
}


class Question(NamedTuple):
    """Arguments of an operator, and the answer of the float64 reference."""

    args: list
    wanted: Sequence[Tensor]


@functools.lru_cache(maxsize=2)
def questions(case: Case) -> dict[str, Question | Exception]:
    """By operator; the backends take the same case one after another and share these."""
    made: dict[str, Question | Exception] = {}
    bumps = [*problem(case), case.want, case.tied]
    for operator in (*ops.OPERATORS, *ops.COMBINED, "compact"):
        try:
            if operator not in ARGUMENTS:
                raise LookupError("there are no cases for this operator: cases.ARGUMENTS needs an entry")
            args = ARGUMENTS[operator](case, bumps)
            made[operator] = Question(args, reference(operator, *args))
        except Exception as error:  # an error of the check itself is a failure like any other
            made[operator] = error
    return made


def reference(operator: str, *args) -> Sequence[Tensor]:
    if operator == "compact":
        return [t[args[0]] for t in args[1]]
    return results(ops.plain(operator, *args))


def results(answer: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    """The results of an operator as a sequence, also for a single tensor."""
    return (answer,) if isinstance(answer, Tensor) else answer


def moved(args: Iterable, dtype: torch.dtype, device: str) -> list:
    """The arguments, with tensors on the device, and floating point ones in the dtype."""

    def move(value: Any) -> Any:
        if isinstance(value, list):
            return [move(v) for v in value]
        if not isinstance(value, Tensor):
            return value
        return value.to(device, dtype if value.is_floating_point() else value.dtype)

    return [move(value) for value in args]


def _levels(operator: str, want: int, results: int) -> Sequence[int]:
    """The tolerance of each result."""
    return {"jet": (0, 1, 2), "basis": (0, 1, 2), "combine": (0,), "design": (min(want, DIAGONAL), 2)}.get(
        operator, (2,) * results
    )


def tolerances(case: Case, operator: str, dtype: torch.dtype, results: int, served: str) -> list[float | None]:
    if operator == "compact":
        return [0.0] * results
    if case.kind == "steps":  # edges too thin for any digits; there must be numbers
        return [None] * results
    slack = SLACK.get(served, 1) if dtype == torch.float32 else 1
    return [slack * TOLERANCES[dtype][k] for k in _levels(operator, case.want, results)]
