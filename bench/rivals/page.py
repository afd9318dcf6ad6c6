"""Make docs/rivals.md from what ``python bench/rivals run`` measured, alone."""

from __future__ import annotations

import math
from typing import Any

from results_page import scientific

from . import domains
from .methods import METHODS, OURS, SLOW
from .rungs import LONGEST, SHORT, TIMES

Record = dict[str, Any]

#: Errors to which the time is given.
ERRORS = (1e-2, 1e-4, 1e-6, 1e-8)
#: A rival counts as faster if it is by this factor.
CLEARLY = 1.5

INTRODUCTION = f"""# When to use which method, and when not this one

Nothing solves everything best. This page measures other good methods on the problems of the library, and on Poisson's
equation in a star, a disk and a ball. `make rivals` makes it from `bench/rivals` and `bench/measured/rivals.json`; its
numbers and comparisons are not written by hand.

* Errors are relative L2 errors at regular points of the domain. The time to an error is that of the fastest size
  with at most this error.
* Seconds are processor seconds on one thread: meshes, assembly and solving, not the measuring of the error. What takes
  less than {SHORT:g} s is run {TIMES} times, and the least time counts. The file has the seconds by the clock, too.
  Sizes end at {LONGEST:g} s.
* The rivals are tuned: sizes, meshes and points by someone who knows the solution. For radial functions, random
  features and untrained bumps, the best of several widths counts, by the true error. A user who does not know it has
  to search, which costs several solves more.
"""

#: Kinds of problems, with examples of the library, the advice, and the reason.
ADVICE: tuple[tuple[str, tuple[str, ...], str], ...] = (
    (
        "A smooth solution in a box", ("poisson", "helmholtz", "wave"),
        "Chebyshev polynomials converge fastest, and need no choice but the degree.",
    ),
    (
        "A smooth solution in another domain", ("star", "disk", "ball"),
        "Polynomials on the bounding box, as long as the solution continues smoothly to there; else P4 elements in two "
        "dimensions. Bumps need no mesh either.",
    ),
    (
        "A periodic evolution, fronts included", ("advection", "burgers", "allen-cahn"),
        "Fourier with an exponential integrator; it is exact for the single sines of advection, heat and wave. Use "
        "`bumpnet evolve` where the ends are not periodic.",
    ),
    ("A boundary layer along a side", ("convection-diffusion",), "Chebyshev points are dense there. Or a fine mesh."),
    ("A narrow peak inside", ("sharp-poisson",), "Graded P4 elements: all that is global needs many unknowns."),
    ("A corner with a singularity", ("lshape",), "Elements on a mesh graded to the corner."),
    ("A nonlinear system with a smooth solution", ("kovasznay",), "Chebyshev or bumps with Gauss-Newton."),
    ("An unknown coefficient beside u", ("inverse-heat",), "Any least squares; elements need an outer loop."),
)  # fmt: skip


def page(found: dict[str, Any]) -> str:
    records = found["records"]
    names = [name for name in domains.NAMES if any(r["problem"] == name for r in records)]
    parts = [INTRODUCTION, "![Error against processor seconds, for every problem and method](rivals.png)\n"]
    parts += [advice(records), *verdicts(records, names), beside(), methods(), "## Time to an error\n"]
    parts += ["Processor seconds; the fastest in bold. A dash: not reached by the sizes that were run."]
    parts += ["A method that is missing was not run.\n"]
    parts += [table(name, records) for name in names]
    return "\n".join([*parts, *origin(found)]) + "\n"


# --- figures -------------------------------------------------------------------------------------


def time_to(error: float, name: str, method: str, records: list[Record]) -> float | None:
    """The least processor seconds in which a method has at most this error; None if it never has."""
    times = [r["processor_seconds"] for r in records
             if (r["problem"], r["method"]) == (name, method) and r.get("error", 1 + error) <= error]  # fmt: skip
    return min(times, default=None)


def fastest(error: float, name: str, methods: Any, records: list[Record]) -> tuple[float, str] | None:
    """The least time of some methods to an error, and the method; None if none reaches it."""
    times = ((time_to(error, name, method, records), method) for method in methods)
    return min(((t, method) for t, method in times if t is not None), default=None)


def measured(name: str, methods: Any, records: list[Record]) -> bool:
    """Whether one of some methods was run on a problem."""
    return any(r["problem"] == name and r["method"] in methods for r in records)


def seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


# --- parts of the page ---------------------------------------------------------------------------


def advice(records: list[Record]) -> str:
    """What to use when, with the fastest times to 1e-6, or to the smallest error that anything reaches."""
    lines = ["## What to use when\n", "| problem | use | measured |", "|---|---|---|"]
    for kind, examples, reason in ADVICE:
        measured = "; ".join(filter(None, (_compared(name, records) for name in examples)))
        lines.append(f"| {kind} | {reason} | {measured} |")
    return "\n".join(lines) + "\n"


def _compared(name: str, records: list[Record]) -> str:
    rivals = [method for method in METHODS if method not in OURS]
    for error in (1e-6, 1e-4, 1e-2):
        best, ours = (fastest(error, name, methods, records) for methods in (rivals, OURS))
        if best or ours:
            said = f"{name} to {error:.0e}: "
            said += f"{best[1]} {seconds(best[0])} s" if best else "no rival"
            none = "bumps do not reach it" if measured(name, OURS, records) else "bumps were not measured"
            return said + f", {f'{ours[1]} {seconds(ours[0])} s' if ours else none}"
    return ""


def verdicts(records: list[Record], names: list[str]) -> list[str]:
    """Where bumps are fastest, and where a rival is."""
    rivals = [method for method in METHODS if method not in OURS]
    rows: dict[str, list[str]] = {"fastest": [], "level": [], "slower": []}
    for name in names:
        if not measured(name, OURS, records) or not measured(name, rivals, records):
            continue
        for error in ERRORS:
            best, ours = (fastest(error, name, methods, records) for methods in (rivals, OURS))
            if not best and not ours:
                continue
            times = (ours[0] if ours else math.inf) / best[0] if best else 0.0
            which = "fastest" if times * CLEARLY < 1 else "slower" if times > CLEARLY else "level"
            said = (f"{found[1]}, {seconds(found[0])} s" if found else "not reached" for found in (ours, best))
            factor = "" if times in (0.0, math.inf) else f"{times:.2g}" if times < 99.5 else f"{times:.0f}"
            rows[which].append(f"| {name} | {error:.0e} | {' | '.join(said)} | {factor} |")
    number = {which: len(found) for which, found in rows.items()}
    lines = [
        "## When not this one\n",
        f"There are {sum(number.values())} pairs of a problem and an error that some method reaches. Bumps are the "
        f"fastest in {number['fastest']}, about as fast as the best rival in {number['level']}, and slower in "
        f"{number['slower']}.\n",
    ]
    head = "| problem | error | bumps | fastest rival | time of bumps / rival's |\n|---|---|---|---|---|"
    titles = {
        "fastest": "Bumps are the fastest",
        "level": f"Within a factor of {CLEARLY:g}",
        "slower": "A rival is faster",
    }
    for which, title in titles.items():
        lines += [f"{title}:\n", head, *rows[which], ""] if rows[which] else []
    return lines


def beside() -> str:
    """What the times do not show."""
    return """## What the times do not show

* Only `solve` says how large its error is. The others need a second solve with another size, and a comparison.
* Elements need a mesh that fits the domain and the solution. Bumps, polynomials, radial functions and features need
  points inside and on the boundary, and take the equation as it is written in `Problem`.
* Polynomials suit the star, the disk and the ball because `exp(x) sin(2 y)` is smooth in all of the plane. A solution
  that is not smooth beyond the boundary would need many more.
* Trained bumps need the fewest parameters: see [Results](results.md).
* Evolution problems `u_t = ...` have a solver of their own, `evolve`, which is not on this page:
  [evolution](evolution.md).
"""


def methods() -> str:
    """What the methods are."""
    lines = [f"| {name} | {method.ABOUT} |" for name, method in METHODS.items()]
    return "\n".join(["## The methods\n", "| method | what it is |", "|---|---|", *lines, ""])


def table(name: str, records: list[Record]) -> str:
    """The time of every method to every error, and the least error of its sizes."""
    lines = [f"### {name}\n", f"`{domains.get(name).summary}`\n"]
    lines += [f"| method | {' | '.join(f'{e:.0e}' for e in ERRORS)} | least error: unknowns, seconds |"]
    lines += ["|---" * (len(ERRORS) + 2) + "|"]
    least = {error: fastest(error, name, METHODS, records) for error in ERRORS}
    for method in METHODS:
        here = [r for r in records if (r["problem"], r["method"]) == (name, method)]
        solved = [r for r in here if "failed" not in r]
        if not here:
            continue
        cells = []
        for error in ERRORS:
            text = seconds(time_to(error, name, method, records))
            cells.append(f"**{text}**" if least[error] and least[error][1] == method else text)
        best = min(solved, key=lambda r: r["error"], default=None)
        said = "failed: " + here[0]["failed"].replace("|", "/") if best is None else _least(best)
        lines.append(f"| {method} | {' | '.join(cells)} | {said} |")
    return "\n".join(lines) + "\n"


def _least(r: Record) -> str:
    return f"{scientific(r['error'])}: {r['unknowns']:,}, {seconds(r['processor_seconds'])}"


def origin(found: dict[str, Any]) -> list[str]:
    machine, versions = found["machine"], found["versions"]
    commits = ", ".join(sorted({r["commit"] for r in found["records"]}))
    return [
        "## Commit and machine\n",
        f"Commit {commits}; the last run on {found['date']}, {machine['processor']}, one thread; torch "
        f"{versions['torch']}, scipy {versions['scipy']}. The load was {machine['load_before']:.1f} when it began. It "
        f"took {found['processor_seconds']:.0f} processor seconds and {found['seconds']:.0f} s by the clock. A plain "
        f"`run` leaves out what takes minutes, and keeps what was measured of it: {', '.join(SLOW)}.",
    ]
