"""Events of a run that change the number of bumps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Event:
    """Bumps removed or added: the step, the kind ("prune" or "grow"), and the numbers of bumps."""

    step: int
    kind: str
    before: int
    after: int
    loss: float | None = None


def with_events(history: Sequence[dict[str, Any]], events: Sequence[Event]) -> list[dict[str, Any]]:
    """The history of a run with its events inserted, each with the time of the entry before it.

    Examples
    --------
    >>> entry = {"iteration": 5, "seconds": 0.2, "loss": 1.0, "bumps": 9}
    >>> merged = with_events([entry, entry | {"bumps": 8}], [Event(5, "prune", 9, 8)])
    >>> [(e.get("event"), e["bumps"]) for e in merged]
    [(None, 9), ('prune', 8), (None, 8)]
    """
    places, place = [], 0
    for event in events:
        # two solves meet in an iteration: the event lies behind the last entry with the old number of bumps
        ends = (i for i, e in enumerate(history, 1) if e["iteration"] <= event.step and e.get("bumps") == event.before)
        place = max((place, *ends))
        places.append(place)
    merged = list(history)
    for place, event in reversed([*zip(places, events, strict=True)]):
        seconds = history[place - 1]["seconds"] if place else 0.0
        entry = {"iteration": event.step, "seconds": seconds, "loss": event.loss, "event": event.kind}
        merged.insert(place, entry | {"before": event.before, "bumps": event.after})
    return merged


__all__ = ["Event", "with_events"]
