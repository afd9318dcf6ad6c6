"""Keep the figures of the benchmarks, and write them into docs/benchmarks.md.

    python bench/report.py write NEW.json --limit LIMIT.json     into bench/measured and docs

NEW.json is what ``pytest bench/test_speed.py --benchmark-json`` writes, LIMIT.json comes from ``bench/limit.py``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import limit
import plots

from bumpnet_fast.diagnostics.bench import EAGER, NESTED, OURS, STEP, Case, Stages

ROOT = Path(__file__).parents[1]
RESULTS, LIMIT = ROOT / "bench" / "measured" / "benchmarks.json", ROOT / "bench" / "measured" / "limit.json"
PAGE, MARKER = ROOT / "docs" / "benchmarks.md", "<!-- measured -->"
PICTURE = ROOT / "docs" / "benchmarks.png"

#: Statistics by case, contestant and stage.
Figures = dict[Case, dict[str, dict[str, dict[str, Any]]]]


def kept(content: dict[str, Any]) -> dict[str, Any]:
    """The part of pytest-benchmark's file that is kept: no single timings, and no name of a folder or a branch."""
    benchmarks = [
        {"name": one["name"], "extra_info": one["extra_info"], "timer": one["options"]["timer"],
         "load": content["machine_info"].get("load"),
         "stats": {key: one["stats"][key] for key in ("min", "median", "iqr", "rounds")}}
        for one in content["benchmarks"]
        if "case" in one["extra_info"]
    ]  # fmt: skip
    commit = {key: content["commit_info"].get(key) for key in ("id", "dirty")}
    return {key: content[key] for key in ("machine_info", "datetime")} | {
        "commit_info": commit,
        "benchmarks": benchmarks,
    }


def joined(contents: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Several runs as one.  Every case is taken whole, from the last run that has it."""
    last = {str(one["extra_info"]["case"]): i for i, content in enumerate(contents) for one in content["benchmarks"]}
    benchmarks = [
        one
        for i, content in enumerate(contents)
        for one in content["benchmarks"]
        if last[str(one["extra_info"]["case"])] == i
    ]
    return contents[-1] | {"benchmarks": benchmarks}


def figures(content: dict[str, Any]) -> Figures:
    """The benchmarks of a file that have a case, by case, contestant and stage."""
    found: Figures = {}
    for one in content["benchmarks"]:
        info = one["extra_info"]
        if "case" in info:
            stages = found.setdefault(Case(**info["case"]), {}).setdefault(info["contestant"], {})
            load = one.get("load", content["machine_info"].get("load"))
            stages[info["stage"]] = one["stats"] | {"peak": info["peak_extra_mib"], "load": load}
    return found


# --- the page ------------------------------------------------------------------------------------


def measured(content: dict[str, Any], reached: Sequence[dict]) -> list[str]:
    """The lines of the page below its marker."""
    found, machine, commit = figures(content), content["machine_info"], content["commit_info"]
    of = named(machine)
    busy = "" if machine.get("load") is None else f" load {machine['load']:.1f} before it began;"
    versions = f"Python {machine['python']}, torch {machine['torch']}, JAX {machine['jax']}"
    at = f"commit {commit['id'][:12]}{' with changes' if commit['dirty'] else ''}"
    lines = [f"Measured on {content['datetime'][:10]}: {of};{busy} {versions}; {at}."]
    lines += ["", "## Goals and what was measured", "", *wanted(found, reached)]
    if any(plots.is_swept(one) for one in found):
        lines += ["", "## Time and memory against points and bumps", "", *swept(found)]
    lines += ["", "## All cases"]
    for one, contestants in found.items():
        if plots.is_swept(one):
            continue
        lines += ["", f"### {one.name}", "", *table(one, contestants)]
    return [*lines, "", "## The processor's limit", "", *limit.markdown(reached)]


def named(machine: dict[str, Any]) -> str:
    """Name of the machine."""
    parts = machine["processor"], f"{machine['processors']} processors", f"{machine['variant']} kernels"
    return ", ".join([*parts, machine["device"]])


def swept(found: Figures) -> list[str]:
    """Picture and table of the cases that differ in points or bumps."""
    load = max(by[OURS]["backward"]["load"] or 0 for one, by in found.items() if plots.is_swept(one))
    shown = "Time of a step against points and against bumps, memory against their product, ours and four peers"
    return [
        f"![{shown}]({PICTURE.name})",
        "",
        "A step is a loss and its gradient. Times are the shortest of several runs, which other work disturbs "
        f"least; the load was {load:.1f} before the measurement began. Memory is what a step needs beyond what was "
        f"held before. Below {plots.LEAST_MIB} MiB it only shows the system's pages; JAX may take small arrays from "
        "memory that it has kept.",
        "",
        *plots.table(found),
    ]


def fill(page: Path, lines: Sequence[str]) -> None:
    """Replace all that follows the marker of a page.

    Raises
    ------
    ValueError
        If the page has not the marker once.
    """
    text = page.read_text(encoding="utf-8")
    if text.count(MARKER) != 1:
        raise ValueError(f"{page} must have the line {MARKER} once")
    page.write_text("\n".join([text[: text.index(MARKER)] + MARKER, "", *lines, ""]), encoding="utf-8")


def table(one: Case, contestants: dict[str, dict[str, dict[str, Any]]]) -> list[str]:
    """One case: a line for each contestant."""
    stage = "adam" if "adam" in contestants[OURS] else "backward"
    lines = ["| | forward | step | Adam step | peak extra memory | ns/pair | / ours, medians | / ours, fastest runs |"]
    lines += ["|---" * 8 + "|"]
    there = {name: stages for name, stages in contestants.items() if stage in stages}
    for name, stages in sorted(there.items(), key=lambda item: item[1][stage]["median"]):
        times = [f"{1e3 * stages[s]['median']:.3g} ms" if s in stages else "-" for s in Stages._fields]
        peaks = [one_stage["peak"] for one_stage in stages.values() if one_stage["peak"] is not None]
        rate = stages["backward" if "backward" in stages else stage]["median"] / (one.points * one.bumps) * 1e9
        ratios = [f"{stages[stage][of] / contestants[OURS][stage][of]:.1f}" for of in ("median", "min")]
        lines.append(
            f"| {' | '.join([name, *times, f'{max(peaks):.0f} MiB' if peaks else '-', f'{rate:.2f}', *ratios])} |"
        )
    return lines


USUAL, SMALL = Case(10_000, 400), Case(1_000, 40)
NOT_COMPILED = (OURS, STEP, EAGER, NESTED)


def wanted(found: Figures, reached: Sequence[dict]) -> list[str]:
    """Table of the project's goals and the measured figures, without those that were not measured."""

    def time(one: Case, name: str = OURS, stage: str = "backward") -> float:
        return found[one][name][stage]["median"]

    def times_ours(one: Case, name: str, stage: str = "backward") -> float:
        return time(one, name, stage) / time(one, stage=stage)

    def fastest_compiled(one: Case, stage: str = "backward") -> float:
        return min(times_ours(one, name, stage) for name in found[one] if name not in NOT_COMPILED)

    others = [USUAL._replace(dim=dim) for dim in (1, 3)]
    others += [USUAL._replace(want=want) for want in ("value", "gradient", "diagonal", "hessian")]
    two, double = USUAL._replace(threads=2), USUAL._replace(dtype="float64")
    large = Case(1_000_000, 1_000)
    rows = [
        ("nested autograd / ours", ">= 60", lambda: times_ours(USUAL, NESTED)),
        ("fastest compiled peer / ours", ">= 7", lambda: fastest_compiled(USUAL)),
        ("float64 / float32", "<= 2.5", lambda: time(double) / time(USUAL)),
        ("one thread / two threads", ">= 1.8", lambda: time(USUAL) / time(two)),
        ("one thread / two threads, float64", ">= 1.8", lambda: time(double) / time(double._replace(threads=2))),
        *(
            (f"fastest compiled peer / ours, {one.dim}d, {one.want}", ">= 4", lambda one=one: fastest_compiled(one))
            for one in others
        ),
        ("Adam step of 40 bumps: nested autograd / ours", ">= 15", lambda: times_ours(SMALL, NESTED, "adam")),
        ("Adam step of 40 bumps: fastest compiled peer / ours", ">= 3", lambda: fastest_compiled(SMALL, "adam")),
        (
            "Adam step of 40 bumps: fastest compiled peer / ours with compile_step",
            ">= 3",
            lambda: fastest_compiled(SMALL, "adam") * time(SMALL, stage="adam") / time(SMALL, STEP, "adam"),
        ),
        (
            "Adam step of 10^6 points and 10^3 bumps: memory in MiB",
            "<= 1000",
            lambda: found[large][OURS]["adam"]["peak"],
        ),
        ("smallest fraction of the processor's limit", ">= 0.5", lambda: min(one["of_limit"] for one in reached)),
    ]
    lines = ["| ratio of times, unless named otherwise | goal | measured | |", "|---|---|---|---|"]
    for what, aim, measured in rows:
        try:
            value = measured()
        except (KeyError, ValueError):  # this run has not all of it
            continue
        relation, number = aim.split()
        met = value >= float(number) if relation == ">=" else value <= float(number)
        lines.append(f"| {what} | {aim} | {value:.3g} | {'' if met else '**missed**'} |")
    return lines


# --- the command ---------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, dest="command")
    write = commands.add_parser("write")
    write.add_argument("new", type=Path, nargs="+", metavar="NEW.json", help="of several, the last with a case")
    write.add_argument("--add", action="store_true", help="keep the cases that NEW.json lacks, and what machine it was")
    write.add_argument("--limit", type=Path, metavar="LIMIT.json", help="what bench/limit.py wrote")
    options = parser.parse_args(argv)
    new = joined([kept(json.loads(path.read_text(encoding="utf-8"))) for path in options.new])
    if options.add:
        old = json.loads(RESULTS.read_text(encoding="utf-8"))
        new = old | {"benchmarks": joined([old, new])["benchmarks"]}
    RESULTS.parent.mkdir(exist_ok=True)
    if options.limit:
        LIMIT.write_text(options.limit.read_text(encoding="utf-8"), encoding="utf-8")
    reached = json.loads(LIMIT.read_text(encoding="utf-8")) if LIMIT.exists() else []
    RESULTS.write_text(json.dumps(new, indent=1) + "\n", encoding="utf-8")
    found = figures(new)
    if any(map(plots.is_swept, found)):
        plots.draw(found, PICTURE, named(new["machine_info"]))
    fill(PAGE, measured(new, reached))
    return 0


if __name__ == "__main__":
    sys.exit(main())
