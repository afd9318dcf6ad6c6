"""The method "linear": amplitudes alone are solved for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..arguments import integer, number, option
from ..loop import Method, StopReason

#: Weight of the squares of the scaled amplitudes: the best smooth fits cancel, and a larger one forbids that.
RIDGE = 1e-26
#: Points for every bump.
POINTS = 3


@dataclass
class Linear(Method):
    """Amplitudes alone, and unknowns: the shapes of the bumps stay as they are.

    Without a net it is over a basis that is chosen for the problem; see :func:`~bumpnet_fast.solvers.solve`.

    Parameters
    ----------
    ridge : float
        Tikhonov weight on the squares of the scaled amplitudes.
    most : int, optional
        With ``error``: the largest number of bumps that is tried; by default 2048 amplitudes.
    """

    name: ClassVar[str] = "linear"
    iterations: ClassVar[int] = 64
    ridge: float = option(RIDGE, number())
    most: int | None = option(None, integer(1, optional=True))

    def start(self, work: Any, iterations: int) -> None:
        self.work, self.solved = work, False

    def step(self, most: int) -> int:
        self.work.solve_amplitudes(self.ridge)
        self.solved = True
        return 1

    def loss(self) -> float:
        return self.work.loss()

    def over(self, history: Sequence[dict[str, Any]]) -> StopReason | None:
        return StopReason.SOLVED if self.solved else None

    def state_dict(self) -> dict[str, Any]:
        return {"solved": self.solved}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.solved = bool(state["solved"])


__all__ = ["POINTS", "RIDGE", "Linear"]
