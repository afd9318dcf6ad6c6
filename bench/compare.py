"""Whether ours has become slower since bench/measured/compare.json was written, relative to a fixed peer.

    python bench/compare.py             exit status 1 if a short case is slower by more than 20 %
    python bench/compare.py --write     measure twice as long, and keep it for later comparisons

``make bench-compare`` and ``make bench`` do that.  Built to tell the same on a busy machine, where it found ratios that
were alike to 3 %: ours and the peer take turns, on the processor's clock; of every call the least time counts, which
other work can only lengthen; the peer, the loss in plain PyTorch at a few points, takes as long as ours and like ours
keeps to the first caches; and what looks slower is measured again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from bumpnet_fast.core import backends as native
from bumpnet_fast.diagnostics import bench as speed
from bumpnet_fast.diagnostics.bench import EAGER, OURS, SHORT, Case, Stages

KEPT = Path(__file__).parent / "measured" / "compare.json"
PEER, PEER_POINTS = EAGER, 100
SLOWER = 1.2
#: Seconds of a turn, turns of a measurement, and how often what looks slower is measured again, longer each time.
TURN, TURNS, AGAIN = 0.01, 20, 2

Call = Callable[[], object]


def least(calls: Sequence[Call], turns: int, clock: Callable[[], float] = time.thread_time) -> list[float]:
    """The least seconds that each of the calls took, all of them in turn, every other time backwards."""
    found = [float("inf")] * len(calls)
    order = list(range(len(calls)))
    for i in order:
        calls[i]()
    for _ in range(turns):
        for i in order:
            start = clock()
            end = start + TURN
            while start < end:
                calls[i]()
                stop = clock()
                found[i], start = min(found[i], stop - start), stop
        order.reverse()
    return found


def pairs(cases: Sequence[Case] = SHORT) -> dict[str, tuple[Call, Call]]:
    """Every stage of ours, and the peer, by stage and case."""
    found = {}
    for one in cases:
        ours, peer = speed.CONTESTANTS[OURS](one), speed.CONTESTANTS[PEER](one._replace(points=PEER_POINTS))
        found |= {f"{stage}, {one.name}": (getattr(ours, stage), peer.forward) for stage in Stages._fields}
    return found


def ratio(pair: tuple[Call, Call], turns: int) -> float:
    """Our time in that of the peer."""
    ours, peer = least(pair, turns)
    return ours / peer


def compare(found: Mapping[str, tuple[Call, Call]], before: Mapping[str, float]) -> tuple[list[str], bool]:
    """A line for every case that both have, and whether none has become slower."""
    lines, good = [], True
    for name in found.keys() & before.keys():
        changes = [ratio(found[name], TURNS) / before[name]]
        while changes[-1] > SLOWER and len(changes) <= AGAIN:
            changes.append(ratio(found[name], TURNS * (1 + len(changes))) / before[name])
        slower = changes[-1] > SLOWER
        good = good and not slower
        tries = "" if len(changes) == 1 else f" (measured {len(changes)} times)"
        lines.append(f"{changes[-1]:5.2f} times the kept time: {name}{tries}{'  SLOWER' if slower else ''}")
    return (sorted(lines), good) if lines else (["no case is in both"], False)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"write {KEPT.name} in place of comparing with it")
    options = parser.parse_args(argv)
    where = {"variant": native.variant(), "torch": str(torch.__version__)}
    before_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if options.write:
            kept = where | {"ratios": {name: ratio(pair, 2 * TURNS) for name, pair in pairs().items()}}
            KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
            return 0
        kept = json.loads(KEPT.read_text(encoding="utf-8"))
        lines, good = compare(pairs(), kept["ratios"])
    finally:
        torch.set_num_threads(before_threads)
    lines += [f"note: {key} is {now}, it was {kept[key]}" for key, now in where.items() if kept[key] != now]
    print("\n".join(lines))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
