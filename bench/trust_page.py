"""Make docs/trust_table.md from the records of bench/trust.py alone."""

from __future__ import annotations

import math
import statistics
from typing import Any

Record = dict[str, Any]

#: A reliable estimate is right within this factor in this share of all cases, and never so many times too low.
FACTOR, SHARE, NEVER = 3.0, 0.95, 10.0
#: A larger error needs a word, or an estimate of more than a third of it.
LARGE = 0.01
#: An estimate costs no more than so many seconds, or this share of the solve.
SECONDS, OF_SOLVE = 0.2, 0.2


def solved(records: list[Record]) -> list[Record]:
    return [r for r in records if "failed" not in r]


def ratio(record: Record) -> float:
    """Estimate by error, of the output for which it is farthest from 1."""
    ratios = [e / t if t > 0 else math.inf for e, t in zip(record["estimate"], record["error"], strict=True)]
    return max(ratios, key=lambda r: abs(math.log(r)) if r > 0 and math.isfinite(r) else math.inf)


def too_low(record: Record) -> float:
    """How many times the error is larger than the estimate, of the worst output."""
    return max(t / e if e > 0 else math.inf for e, t in zip(record["estimate"], record["error"], strict=True))


def silent(record: Record) -> bool:
    """Whether an error above 1 % has neither a warning nor an estimate above a third of it."""
    if max(record["error"]) <= LARGE or record["report_warnings"]:
        return False
    return not all(e > t / 3 for e, t in zip(record["estimate"], record["error"], strict=True) if t > LARGE)


def dear(record: Record) -> bool:
    return record["estimate_seconds"] > max(SECONDS, OF_SOLVE * record["seconds"])


def flaws(record: Record) -> list[str]:
    """What a record says against the estimate."""
    if "failed" in record:
        return []
    found = []
    if record["reliable"] and not 1 / FACTOR <= ratio(record) <= FACTOR:
        found.append(f"off by {ratio(record):.2g}")
    if record["reliable"] and too_low(record) > NEVER:
        found.append("TOO LOW")
    if silent(record):
        found.append("SILENT")
    return found


def line(record: Record) -> str:
    """A record, to watch a run."""
    who = " ".join(
        str(record.get(key, "")) for key in ("number", "problem", "d", "equation", "domain", "boundary", "u", "units")
    )
    if "failed" in record:
        return f"{who}: {record['failed']}"
    numbers = ", ".join(f"{t:.1e} ({e:.1e})" for t, e in zip(record["error"], record["estimate"], strict=True))
    seconds = f"{record['estimate_seconds']:.2f} of {record['seconds']:.1f} s"
    return f"{who}: {numbers} {'reliable' if record['reliable'] else record['reason']}; {seconds}"


def counted(records: list[Record]) -> list[str]:
    """The rules, as a list for a page."""
    done = solved(records)
    reliable = [r for r in done if r["reliable"]]
    right = [r for r in reliable if 1 / FACTOR <= ratio(r) <= FACTOR]
    wrong = [r for r in done if max(r["error"]) > LARGE]
    costs = [r["estimate_seconds"] for r in done]
    return [
        f"solved {len(done)}, refused {len(records) - len(done)}",
        f"reliable {len(reliable)}, within 3: {len(right)}, too low by 10: {sum(too_low(r) > NEVER for r in reliable)}",
        f"errors above 1 %: {len(wrong)}, silent {sum(map(silent, wrong))}, of which only the report tells "
        f"{sum(not r['warnings'] and not max(r['estimate']) > max(r['error']) / 3 for r in wrong)}",
        f"cost median {statistics.median(costs):.2f} worst {max(costs):.2f} dear {sum(map(dear, done))}",
    ]
