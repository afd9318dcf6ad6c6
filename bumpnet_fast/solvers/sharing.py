"""What a run over several ranks asks for before it begins, and how it is interrupted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..core.ranks import Ranks
from ..nets.bumpnet import BumpNet
from ..problems.base import Problem
from . import run_state


def check_unstored(ranks: Ranks, stored: bool) -> None:
    """Raise ValueError if several ranks are to write down the state of a run."""
    if stored and not ranks.alone:
        raise ValueError(f"checkpoint is for runs of one process, and this one has {ranks.count} ranks: save the rows")


def check_same(ranks: Ranks, solver: str, problem: Problem, net: BumpNet, settings: dict[str, Any]) -> None:
    """Raise ValueError, which names what differs, unless all ranks are about to do the same."""
    if ranks.alone:
        return
    own = {"points": "a rank's own"} if isinstance(settings["points"], Tensor) else {}
    about = {"solver": solver, "problem": run_state.described(problem), "rows": net.rows, "frame": net.frame}
    ranks.check_same(about | {"domain": net.domain, "outer": "tied" if net.tied else "free"} | settings | own)


def interrupts_shared(ranks: Ranks) -> contextlib.AbstractContextManager[Callable[[], None]]:
    """Hold interrupts back where other ranks would wait for this one; the function that it gives raises them."""
    return contextlib.nullcontext(lambda: None) if ranks.alone else run_state.interrupts_held()


__all__ = ["check_same", "check_unstored", "interrupts_shared"]
