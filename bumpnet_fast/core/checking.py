"""What a problem's methods give: real numbers in a tensor of the wanted shape, or an error that names the method."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor


def called(method: str, problem: Any) -> str:
    """A method of a problem, for messages."""
    return f"{method} of problem {problem.name or type(problem).__name__!r}"


def values(what: str, given: Any, x: Tensor, columns: int = 1, read: Sequence[int] | None = None) -> Tensor:
    """``given`` [n] or [n, columns], what some method gives at points ``x`` [n, d].

    Parameters
    ----------
    what : str
        The method, for messages.
    given : Tensor
        To be checked.  One column stands for all.
    x : Tensor
        [n, d].
    columns : int
        Number of outputs.
    read : sequence of int, optional
        Those of the columns that are read; the others need not be finite.

    Raises
    ------
    ValueError
        For anything but a tensor of real numbers of this shape, or if a number that is read is not finite.

    Examples
    --------
    >>> values("lift of problem 'p'", torch.tensor([1.0, torch.nan]), torch.tensor([[0.0], [0.5]]))
    Traceback (most recent call last):
    ValueError: lift of problem 'p' must be finite: 1 of 2 values is not, the first is nan at (0.5)
    """
    check_shape(what, given, len(x), columns)
    flat = given.reshape(len(x), -1)
    check_finite(what, flat if read is None or flat.shape[1] == 1 else flat[:, list(read)], x)
    return given


def check_shape(what: str, given: Any, n: int, columns: int, one_for_all: bool = True) -> None:
    """Raise ValueError for anything but a tensor of real numbers [n, columns]; or [n], one column for all."""
    alone = one_for_all or columns == 1
    wanted = f"[{n}] or [{n}, {columns}]" if alone else f"[{n}, {columns}]"
    check_real(what, given, wanted)
    if tuple(given.shape) not in ((n, columns), *(((n,), (n, 1)) if alone else ())):
        raise ValueError(f"{what} must have shape {wanted} at {n} points, got {tuple(given.shape)}")


def check_real(what: str, given: Any, wanted: str) -> None:
    """Raise ValueError for anything but a tensor of floating point numbers; ``wanted`` is its shape."""
    if not isinstance(given, Tensor):
        shown = f" {given!r}" if isinstance(given, (int, float)) else ""
        raise ValueError(f"{what} must give a tensor {wanted}, got {type(given).__name__}{shown}")
    if not given.is_floating_point():
        raise ValueError(f"{what} must give real numbers, float32 or float64, got {given.dtype}")


def check_finite(what: str, given: Tensor, x: Tensor | None = None) -> None:
    """Raise ValueError, with how many and where, if some of the rows [n, ...] are not finite."""
    if found := not_finite(given, x):
        raise ValueError(f"{what} must be finite: {found}")


def not_finite(given: Tensor, x: Tensor | None = None) -> str:
    """How many of the rows [n, ...] are not finite, and where, in words; nothing if all are.

    ``x`` [n, d] are the points that they belong to; without, the number of the first row is told.
    """
    flat = given.detach().reshape(len(given), -1)
    bad = ~torch.isfinite(flat)
    rows = bad.any(1).nonzero()[:, 0]
    if not len(rows):
        return ""
    first, number = int(rows[0]), len(rows)
    what, where = ("rows", f"in row {first}") if x is None else ("values", f"at {place(x[first])}")
    value = float(flat[first][bad[first]][0])
    return f"{number} of {len(flat)} {what} {'is' if number == 1 else 'are'} not, the first is {value:g} {where}"


def place(x: Tensor, digits: int = 6) -> str:
    """A point [d] in words."""
    return f"({', '.join(f'{float(v) + 0.0:.{digits}g}' for v in x)})"


def undisturbed(device: torch.device) -> AbstractContextManager:
    """Context manager to look at a user's function: random numbers go on afterwards as if none had been drawn."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


__all__ = ["called", "check_finite", "check_real", "check_shape", "not_finite", "place", "undisturbed", "values"]
