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
    ratios = [(e or 0.0) / t if t > 0 else math.inf for e, t in zip(record["estimate"], record["error"], strict=True)]
    return max(ratios, key=lambda r: abs(math.log(r)) if r > 0 and math.isfinite(r) else math.inf)


def too_low(record: Record) -> float:
    """How many times the error is larger than the estimate, of the worst output."""
    return max(t / e if e else math.inf for e, t in zip(record["estimate"], record["error"], strict=True))


def silent(record: Record) -> bool:
    """Whether an error above 1 % has neither a warning nor an estimate above a third of it."""
    if max(record["error"]) <= LARGE or record["report_warnings"]:
        return False
    return not not_below(record)


def not_below(record: Record) -> bool:
    """Whether no estimate is below a third of an error above 1 %."""
    pairs = zip(record["estimate"], record["error"], strict=True)
    return all(e is not None and e > t / 3 for e, t in pairs if t > LARGE)


def dear(record: Record) -> bool:
    solving = record.get("processor_seconds", record["seconds"])  # older records call them seconds
    return record["estimate_seconds"] > max(SECONDS, OF_SOLVE * solving)


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
    keys = ("number", "problem", "d", "equation", "domain", "boundary", "u", "units")
    who = " ".join(str(record[key]) for key in keys if key in record)
    if "failed" in record:
        return f"{who}: {record['failed']}"
    numbers = ", ".join(f"{t:.1e} ({_e(e)})" for t, e in zip(record["error"], record["estimate"], strict=True))
    seconds = f"{record['estimate_seconds']:.2f} of {record['seconds']:.1f} s"
    return f"{who}: {numbers} {'reliable' if record['reliable'] else record['reason']}; {seconds}"


def _e(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1e}"


class Count:
    """What the rules say about some records."""

    def __init__(self, records: list[Record]):
        done = solved(records)
        self.solved, self.refused = len(done), len(records) - len(done)
        reliable = [r for r in done if r["reliable"]]
        self.reliable = len(reliable)
        self.right = sum(1 / FACTOR <= ratio(r) <= FACTOR for r in reliable)
        self.too_low = sum(too_low(r) > NEVER for r in reliable)
        wrong = [r for r in done if max(r["error"]) > LARGE]
        self.wrong, self.silent = len(wrong), sum(map(silent, wrong))
        self.told = sum(not_below(r) for r in wrong)
        self.cost = [r["estimate_seconds"] for r in done]
        self.dear = sum(map(dear, done))

    @property
    def kept(self) -> bool:
        """Whether all rules about errors are kept."""
        return self.right >= SHARE * self.reliable and not self.too_low and not self.silent

    def row(self, name: str) -> str:
        return (
            f"| {name} | {self.solved} | {self.reliable} | {self.right} | {self.too_low} | {self.wrong} | {self.told} "
            f"| {self.silent} |"
        )


COLUMNS = (
    "problems", "solved", "called reliable", "of these within a factor of 3", "of these 10 times too low",
    "errors above 1 %", "of these with an estimate above a third", "of these without any word",
)  # fmt: skip
HEAD = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|\n"

INTRODUCTION = """# How often the estimate is right

* `make trust` makes this page from the problems of the library and from two hundred problems drawn at random
  (`bench/manufactured.py`). Nothing on it is written by hand.
* A drawn problem has a known solution. The solver and the estimate see its right-hand side and its values on the
  boundary, not the solution. One to three dimensions; linear and nonlinear equations, systems of two; boxes, discs,
  stars, rings, an L, balls; hard, soft and periodic boundaries, fluxes; units from 1e-6 to 1e6; smooth, peaked, layered
  and cornered solutions.
* Many are solved badly on purpose: few bumps, few iterations, few points, methods that do not suit.
* The estimate was improved with problems of both hundreds at hand, so neither is an independent check.
  `python bench/trust.py run --seeds 21 22` draws and measures others, and marks every problem that breaks a rule.
"""


def counted(records: list[Record]) -> str:
    """The rules in a line, to watch a run."""
    c = Count(records)
    return (
        f"solved {c.solved}, refused {c.refused}; reliable {c.reliable}, right {c.right}, too low {c.too_low}; "
        f"above 1 % {c.wrong}, told {c.told}, silent {c.silent}; "
        f"seconds {statistics.median(c.cost):.2f}, worst {max(c.cost):.2f}, too dear {c.dear}"
    )


def page(records: Record, stated: Record) -> str:
    hundreds = records["hundreds"]
    drawn = [r for part in hundreds.values() for r in part]
    parts = [
        INTRODUCTION,
        _summary(records),
        _kinds(drawn),
        _costs(drawn, records["load"]),
        _stated(stated),
        _library(records["library"]),
    ]
    parts += [_inverse(records["inverse"])]
    parts += [_hundred(f"All problems of seed {seed}", part) for seed, part in hundreds.items()]
    return "\n".join(parts)


def _summary(records: Record) -> str:
    rows = [Count(records["library"]).row("library")]
    names = ("first", "second", "third", "fourth")
    rows += [Count(part).row(f"{names[k]} hundred") for k, part in enumerate(records["hundreds"].values())]
    rules = """
The rules: where the estimate is called reliable, it is within a factor of 3 of the true error in 95 % of the cases, and
never 10 times too low. No result with an error above 1 % is without both a warning and an estimate of more than a third
of the error.
"""
    return "## Summary\n" + rules + "\n" + HEAD + "\n".join(rows) + "\n"


def _kinds(records: list[Record]) -> str:
    groups = {
        "smooth": [r for r in records if r["kind"] in ("smooth", "polynomial")],
        **{kind: [r for r in records if r["kind"] == kind] for kind in ("peaked", "layered", "cornered")},
        "linear": [r for r in records if r["linear"]],
        "nonlinear": [r for r in records if not r["linear"]],
        **{f"d = {d}": [r for r in records if r["d"] == d] for d in (1, 2, 3)},
    }
    rows = [Count(group).row(name) for name, group in groups.items()]
    return "## By kind, both hundreds together\n\n" + HEAD + "\n".join(rows) + "\n"


def _costs(records: list[Record], load: list[float]) -> str:
    c = Count(records)
    return f"""## What the estimate costs

Seconds of one processor for an estimate: {statistics.median(c.cost):.2f} in the median, {max(c.cost):.2f} at worst.
The limit is {SECONDS} s, or a fifth of the solve if that is more. {c.dear} of {c.solved} took longer.
Measured while {load[0]:.0f} processes shared {load[1]} cores.
"""


def kept(record: Record) -> bool:
    """Whether a result that is called good enough is so, up to a factor."""
    return not record["reached"] or max(record["error"]) <= FACTOR * record["wanted"]


def _stated(records: Record) -> str:
    """What came of asking for an error."""
    drawn = [r for part in records["hundreds"].values() for r in part]
    groups = {
        "library": records["library"],
        "first hundred, linear": [r for r in drawn if r["linear"]],
        "first hundred, nonlinear": [r for r in drawn if not r["linear"]],
        **{kind: [r for r in drawn if r["kind"] == kind] for kind in ("peaked", "layered", "cornered")},
    }
    rows = []
    for name, group in groups.items():
        for wanted in sorted({r["wanted"] for r in group}, reverse=True):
            part = solved([r for r in group if r["wanted"] == wanted])
            reached = [r for r in part if r["reached"]]
            seconds = f"{statistics.median(r['processor_seconds'] for r in reached):.2f}" if reached else ""
            good = sum(map(kept, reached))
            rows.append(f"| {name} | {wanted:.0e} | {len(part)} | {len(reached)} | {good} | {seconds} |")
    wrong = [r for r in solved([*records["library"], *drawn]) if not kept(r)]
    word = (
        f"{len(wrong)} results that are called good enough are not." if wrong else "None is called good enough wrongly."
    )
    return (
        f"""## To a stated error

`solve(problem, error=...)`, with ten seconds at most: how often it says "error reached", and how often the true
error is then at most {FACTOR:.0f} times what was asked for. {word}
Seconds are those of the processor, in the median of what was reached.
Corners and narrow features are what smooth bases do not reach.

| problems | asked for | solved | reached | rightly | seconds |
|---|---|---|---|---|---|
"""
        + "\n".join(rows)
        + "\n"
    )


def _library(records: list[Record]) -> str:
    rows = [f"| {r['problem']} | {r['iterations']} | {_numbers(r)} |" for r in solved(records)]
    head = "| problem | iterations | error | estimate | reliable | warned |\n|---|---|---|---|---|---|\n"
    return "## The problems of the library, with few iterations\n\n" + head + "\n".join(rows) + "\n"


def within_three(record: Record) -> bool:
    """Whether the true unknown is within three standard deviations of the one that was found."""
    found, deviation = record["unknowns"]["k"]
    return deviation is not None and abs(found - record["truth"]) <= 3 * deviation


def _inverse(records: list[Record]) -> str:
    done = solved(records)
    rows = []
    for r in done:
        found, deviation = r["unknowns"]["k"]
        rows.append(f"| {r['equation']} | {r['noise']:g} | {r['truth']:.4f} | {found:.4f} | {_e(deviation)} |")
    inside = sum(map(within_three, done))
    text = f"""## Unknown coefficients, from noisy measurements

The true value is within 3 standard deviations of the found one in {inside} of {len(done)} problems.

| equation, unknown | noise, relative to u | true | found | standard deviation |
|---|---|---|---|---|
"""
    return text + "\n".join(rows) + "\n"


def _numbers(r: Record) -> str:
    errors, estimates = (", ".join(map(_e, r[key])) for key in ("error", "estimate"))
    return f"{errors} | {estimates} | {'yes' if r['reliable'] else 'no'} | {'yes' if r['report_warnings'] else 'no'}"


def _hundred(title: str, records: list[Record]) -> str:
    columns = ("", "equation", "d", "u", "domain", "bumps, iterations", "error", "estimate", "reliable", "warned")
    head = f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|\n"
    rows = []
    for r in records:
        u = r["u"].replace("|x - c|", "abs(x - c)")
        how = f"{' x '.join(map(str, r['bumps']))}, {r['options']['iterations']}"
        about = f"| {r['number']} | {r['equation']} | {r['d']} | {u} | {r['domain']}, {r['boundary']} | {how} "
        rows.append(
            about + (f"| refused: {r['failed'].replace('|', '/')} | | | |" if "failed" in r else f"| {_numbers(r)} |")
        )
    return f"## {title}\n\n" + head + "\n".join(rows) + "\n"
