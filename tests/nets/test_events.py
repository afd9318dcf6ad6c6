"""The events of a run in its history."""

from bumpnet_fast.nets.events import Event, with_events


def history_of(*pairs):
    return [{"iteration": i, "seconds": i + k / 100, "loss": 1.0, "bumps": b} for k, (i, b) in enumerate(pairs)]


def test_events_lie_between_what_they_part():
    history = history_of((0, 9), (5, 9), (5, 8), (10, 8), (10, 7), (15, 7), (15, 8), (20, 8))
    events = [
        Event(5, "prune", 9, 8, 0.5), Event(10, "prune", 8, 7), Event(15, "restore", 7, 9), Event(15, "prune", 9, 8),
        Event(20, "restore", 8, 9),
    ]  # fmt: skip
    merged = with_events(history, events)
    assert [e for e in merged if "event" not in e] == history
    assert [(e.get("event"), e["bumps"]) for e in merged] == [
        (None, 9), (None, 9), ("prune", 8), (None, 8), (None, 8), ("prune", 7), (None, 7), (None, 7),
        ("restore", 9), ("prune", 8), (None, 8), (None, 8), ("restore", 9),
    ]  # fmt: skip
    assert merged[2] == {
        "iteration": 5, "seconds": history[1]["seconds"], "loss": 0.5, "event": "prune", "before": 9, "bumps": 8,
    }  # fmt: skip


def test_an_event_between_two_looks_lies_between_them():
    merged = with_events(history_of((0, 9), (10, 9), (20, 5)), [Event(16, "prune", 9, 7), Event(18, "prune", 7, 5)])
    assert [e["bumps"] for e in merged] == [9, 9, 7, 5, 5] and [e["iteration"] for e in merged] == [0, 10, 16, 18, 20]


def test_a_history_without_events_stays_as_it_is():
    history = [{"iteration": 0, "seconds": 0.0, "loss": 1.0}]
    assert with_events(history, []) == history and with_events([], []) == []
    assert [e["seconds"] for e in with_events([], [Event(3, "grow", 1, 2)])] == [0.0]
