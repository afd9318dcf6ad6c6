"""What a second thread gives, at 10,000 points and 400 bumps.

    python bench/threads.py [--dtype float64] [--json]

Two answers.  By the wall clock, one thread's time in that of two, which needs two processors that nobody else uses.
And, whatever else the machine does, how the work is shared: the processor's time of either thread, and that of one
thread alone in that of the busier of two, which is what the wall clock would say if both ran undisturbed.

Linux only.  Waiting threads must sleep, or their spinning would count as work: so it sets OMP_WAIT_POLICY, which is
read when torch is loaded, and runs in a process of its own.
"""

from __future__ import annotations

import os

os.environ["OMP_WAIT_POLICY"] = "passive"

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch

from bumpnet_fast.diagnostics import bench as speed

CASE, ROUNDS = speed.Case(10_000, 400), 15


def processor_seconds() -> dict[int, float]:
    """The processor's time that every thread of this process has taken."""
    return {int(tid): time.clock_gettime(clock_of(int(tid))) for tid in os.listdir("/proc/self/task")}


def clock_of(tid: int) -> int:
    """The CPU clock of a thread, in the encoding of the kernel (6: of one thread, what the scheduler counts)."""
    return ~tid << 3 | 6


def taken(call: Callable[[], object]) -> tuple[float, list[float]]:
    """Seconds by the wall clock, and those of every thread that worked, the busiest first."""
    before, start = processor_seconds(), time.perf_counter()
    call()
    wall, after = time.perf_counter() - start, processor_seconds()
    return wall, sorted((after[tid] - before.get(tid, 0.0) for tid in after), reverse=True)


def measure(one: speed.Case = CASE, rounds: int = ROUNDS) -> dict[str, float]:
    """Medians of rounds in which one thread and two take turns: of a step's loss and gradient."""
    step = speed.our_stages(one).backward
    found: dict[str, list[float]] = {"wall": [], "share": [], "work": []}
    before = torch.get_num_threads()
    try:
        for i in range(rounds + 1):
            torch.set_num_threads(1)
            wall, (alone, *_) = taken(step)
            torch.set_num_threads(2)
            wall_of_two, (busier, other, *_) = taken(step)
            if i:  # the first starts the threads
                found["wall"].append(wall / wall_of_two)
                found["share"].append(busier / (busier + other))
                found["work"].append(alone / busier)
    finally:
        torch.set_num_threads(before)
    return {key: statistics.median(values) for key, values in found.items()}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--json", action="store_true", help="print the figures for machines")
    options = parser.parse_args(argv)
    one = CASE._replace(dtype=options.dtype)
    found = measure(one)
    if options.json:
        print(json.dumps(found))
        return 0
    print(f"{one.name.rpartition(',')[0]}: loss and gradient in one thread, in two, medians")
    print(f"  by the wall clock      {found['wall']:.2f}   (load {os.getloadavg()[0]:.1f})")
    print(f"  by the busier's work   {found['work']:.2f}   (it does {100 * found['share']:.0f} % of it)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
