"""Make docs/results.md from the records of bench/results.py alone."""

from __future__ import annotations

import operator
import statistics
from typing import Any, NamedTuple

from experiments import CLAIMS, EXPERIMENTS, NAMED, PARTS, Experiment

Record = dict[str, Any]
Records = dict[tuple[str, int | None], Record]

COMPARE = {"<=": operator.le, ">=": operator.ge}
SIGNS = {"<=": "≤", ">=": "≥"}
#: Names of the goals' figures on the page.
NAMES = {
    "rel_l2": "error",
    "seconds": "seconds",
    "solve_ratio": "times cheaper",
    "fewer": "times fewer parameters",
    "of_baseline": "error / baseline's error",
    "pruned_by_full": "error / error before pruning",
}
SEEDED = "median, and the worst in brackets, over seeds 0 to 2"

INTRODUCTION = f"""# How accurate it is: every claim and problem

* `make results` makes this page from the files in `bench/results`, one for each command and seed. Nothing on it is
  written by hand. `python bench/results.py list` lists the experiments.
* Errors are relative L2 errors on a grid that is not trained on, against the exact or an independent reference
  solution: {SEEDED}.
* `--seed` perturbs the initial shapes by 5 % in `bumpnet solve`, and draws the functions in `bumpnet operator`.
  Nothing is random in `bumpnet evolve`.
* Seconds are processor seconds of solving, on one thread. Results before December 2026 have seconds by the clock.
"""


class Verdict(NamedTuple):
    """Whether a goal is met; None if that is not known."""

    met: bool | None
    text: str


# --- figures -------------------------------------------------------------------------------------


def results_of(experiment: Experiment, records: Records) -> list[dict[str, Any]]:
    """Results of the runs of an experiment that did not fail."""
    found = (records.get((experiment.name, seed), {}) for seed in experiment.seeds)
    return [record["result"] for record in found if "result" in record]


def values_of(key: str, experiment: Experiment, records: Records) -> list[float]:
    """The figure ``key`` for every seed, derived ones included; empty if not known."""
    results = results_of(experiment, records)
    if key == "seconds":
        return [spent(result) for result in results]
    if key not in ("fewer", "of_baseline"):
        return [result[key] for result in results]
    opponents = [results_of(NAMED[name], records) for name in experiment.baselines]
    if not opponents or not all(opponents):
        return []
    flat = [result for opponent in opponents for result in opponent]
    if key == "fewer":
        return [min(result["parameters"] for result in flat) / result["parameters"] for result in results]
    return [result["rel_l2"] / min(other["rel_l2"] for other in flat) for result in results]


def spent(result: dict[str, Any]) -> float:
    """Processor seconds; those of older results are by the clock, or else they are called seconds."""
    return result.get("processor_seconds", result["seconds"])


def verdict(want: str, experiment: Experiment, records: Records) -> Verdict:
    key, sign, limit = want.split()
    wanted, values = f"{NAMES[key]} {SIGNS[sign]} {limit}", values_of(key, experiment, records)
    here = [records[experiment.name, seed] for seed in experiment.seeds if (experiment.name, seed) in records]
    failed = any("failed" in record for record in here)
    if not values:
        return Verdict(False if failed else None, f"{wanted}: **{'failed' if failed else 'not measured'}**")
    good = [COMPARE[sign](value, float(limit)) for value in values]
    seeds = len(experiment.seeds)
    if all(good) and not failed:
        missing = f" by {len(good)} of {seeds} seeds, **the others not measured**" if len(good) < seeds else ""
        return Verdict(None if missing else True, f"{wanted}: met{missing}")
    said = [number(max(values) if sign == "<=" else min(values))]
    said += [f"met by {sum(good)} of {seeds} seeds"] if any(good) else []
    load = max(record.get("machine", {}).get("load_before") or 0 for record in here)
    said += [f"at a load of {load:.0f}"] if key == "seconds" and load > 2 else []
    return Verdict(False, f"{wanted}: **missed** ({', '.join(said)})")


def number(value: float) -> str:
    if 0.01 <= abs(value) < 1e6:
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2g}"
    return scientific(value) if value else "0"


def scientific(value: float) -> str:
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def error(values: list[float]) -> str:
    """The median, with the worst in brackets if there are several."""
    if not values:
        return ""
    middle = scientific(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({scientific(max(values))})"


def seconds(values: list[float]) -> str:
    return number(statistics.median(values)) if values else ""


def parameters(result: dict[str, Any]) -> str:
    windows = result.get("windows", 1)
    return f"{windows} x {result['parameters_per_window']:,}" if windows > 1 else f"{result['parameters']:,}"


# --- the page ------------------------------------------------------------------------------------


def page(records: Records) -> str:
    parts = [INTRODUCTION, *summary(records)]
    for part in PARTS:
        parts += [f"\n## {part}\n", f"The paper: {CLAIMS[part]}\n"]
        parts += SECTIONS.get(part, standard)(part, records)
    return "\n".join([*parts, *origin(records)]) + "\n"


def summary(records: Records) -> list[str]:
    verdicts = [(e, verdict(want, e, records)) for e in EXPERIMENTS for want in e.wants]
    met = sum(v.met is True for _, v in verdicts)
    lines = [f"**{met} of {len(verdicts)} goals are met.**"]
    for title, kind in (("Missed", False), ("Not measured, or not for all seeds", None)):
        here = [f"- {e.title} ({e.part}): {v.text}" for e, v in verdicts if v.met is kind]
        lines += [f"\n{title}:\n", *here] if here else []
    return lines


def standard(part: str, records: Records) -> list[str]:
    ours = [e for e in EXPERIMENTS if e.part == part and not e.is_baseline]
    lines = [
        "| | command | parameters | error | seconds | goal | baseline |",
        "|---|---|---|---|---|---|---|",
        *(_line(e, records) for e in ours),
    ]
    notes = [f"- {e.title}: {e.note}" for e in ours if e.note]
    return lines + (["", *notes] if notes else []) + baselines(part, records)


def _line(e: Experiment, records: Records) -> str:
    results = results_of(e, records)
    wanted = "; ".join(verdict(want, e, records).text for want in e.wants)
    cells = [e.title, f"`{e.command}`", parameters(results[0]) if results else "", _errors(e, records)]
    cells += [seconds(list(map(spent, results))), wanted, "; ".join(_opponent(n, records) for n in e.baselines)]
    return "| " + " | ".join(cells) + " |"


def _errors(e: Experiment, records: Records) -> str:
    here = [records[e.name, seed] for seed in e.seeds if (e.name, seed) in records]
    failed = [f"seed {record['seed']}: {record['failed']}" for record in here if "failed" in record]
    said = error([r["rel_l2"] for r in results_of(e, records)])
    return "; ".join([*([said] if said else []), *failed]) or "not measured"


def _opponent(name: str, records: Records) -> str:
    results = results_of(NAMED[name], records)
    if not results:
        return f"{NAMED[name].title}: not measured"
    return f"{error([r['rel_l2'] for r in results])} with {parameters(results[0])}"


def baselines(part: str, records: Records) -> list[str]:
    """How the training of the baselines ended."""
    theirs = [e for e in EXPERIMENTS if e.part == part and e.is_baseline]
    if not theirs:
        return []
    lines = [
        "\nThe baselines are trained in float64 by `bench/training.py`: Adam, then L-BFGS until 1000 iterations "
        "lower the loss by less than 10 %, or until a cap on processor seconds. Seconds are processor seconds.\n",
        "| | command | parameters | error | seconds | iterations of Adam, L-BFGS | ended |",
        "|---|---|---|---|---|---|---|",
    ]
    for e in theirs:
        results = results_of(e, records)
        cells = [e.title, f"`{e.command}`", parameters(results[0]) if results else "", _errors(e, records)]
        cells.append(seconds(list(map(spent, results))))
        cells.append("; ".join(f"{r['adam']:,}, {r['lbfgs']:,}" for r in results))
        cells.append("; ".join(r["stop_reason"] for r in results))
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def pruning(part: str, records: Records) -> list[str]:
    e, *others = (e for e in EXPERIMENTS if e.part == part)
    lines = [
        f"`{e.command}`, for each seed. Heat over space and time starts with 36 bumps, is pruned to 18 and to 5, and "
        "is grown to 18 again. Helmholtz starts with 18 bumps, which are stuck, and is grown to an error of 1e-4. "
        "Without a seed the bumps start unperturbed.\n",
        "| seed | 36 bumps | pruned to 18 | to 5 | grown to 18 again | Helmholtz: error, bumps | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results_of(e, records):
        keys = ("full", "rel_l2", "poor", "regrown")
        seed = "none" if result["seed"] is None else str(result["seed"])
        cells = [seed, *(scientific(result[key]) for key in keys)]
        cells += [f"{scientific(result['reached'])}, {result['reached_bumps']}", seconds([spent(result)])]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", *(f"- {verdict(want, e, records).text}" for want in e.wants)]
    return lines + [f"- {o.title} (`{o.command}`): {_errors(o, records)}" for o in others]


def evolving(part: str, records: Records) -> list[str]:
    ours = [e for e in EXPERIMENTS if e.part == part and not e.is_baseline]
    theirs = [e for e in EXPERIMENTS if e.part == part and e.is_baseline]
    lines = [
        "| | command | amplitudes | error | seconds of set-up, of stepping | goal |",
        "|---|---|---|---|---|---|",
    ]
    for e in ours:
        results = results_of(e, records)
        times = f"{results[0]['setup_seconds']:.2g}, {results[0]['seconds']:.2g}" if results else ""
        wanted = "; ".join(verdict(want, e, records).text for want in e.wants)
        bumps = str(results[0]["bumps"]) if results else ""
        lines.append("| " + " | ".join([e.title, f"`{e.command}`", bumps, _errors(e, records), times, wanted]) + " |")
    lines += [
        "\nThe next table compares with an EDNN on a perceptron whose weights all evolve. Both run in one process, "
        "at the same 256 points, in float64. A solve is one solution for the rates of the weights. The perceptron's "
        "steps are halved until its error falls by less than a tenth. Its seconds are processor seconds, and "
        "medians over seeds 0 to 2 of its start.\n",
        "| | command | one solve: ours, perceptron | ratio | whole: ours, perceptron | error: ours, its | goal |",
        "|---|---|---|---|---|---|---|",
    ]
    for e in theirs:
        results = results_of(e, records)

        def middle(key: str, results=results) -> float:
            return statistics.median(result[key] for result in results)

        cells = [e.title, f"`{e.command}`", *[""] * 5]
        if results:
            cells[2] = f"{1e6 * middle('bumps_solve_seconds'):.2g} µs, {1e3 * middle('solve_seconds'):.2g} ms"
            cells[3] = f"{middle('solve_ratio'):,.0f}"
            cells[4] = f"{middle('bumps_seconds'):.2g} s, {middle('seconds'):.2g} s"
            cells[5] = f"{scientific(middle('bumps_rel_l2'))}, {error([r['rel_l2'] for r in results])}"
        cells[6] = "; ".join(verdict(want, e, records).text for want in e.wants)
        lines.append("| " + " | ".join(cells) + " |")
    return lines


SECTIONS = {PARTS[2]: pruning, PARTS[3]: evolving}


def origin(records: Records) -> list[str]:
    """Machines and versions behind the page."""
    lines = [
        "\n## Commits and machines of the runs\n",
        "| commit | date | machine | torch | runs |",
        "|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, ...], int] = {}
    for record in records.values():
        machine = record["machine"]
        where = f"{machine['processor']}, {machine['cores']} cores, one thread"
        key = record["commit"], record["date"], where, record["versions"]["torch"]
        groups[key] = groups.get(key, 0) + 1
    lines += ["| " + " | ".join([*key, str(count)]) + " |" for key, count in sorted(groups.items())]
    loads = [record["machine"]["load_before"] for record in records.values() if record["machine"]["load_before"]]
    if loads:
        busy = f"{statistics.median(loads):.1f} in the median and at most {max(loads):.1f}"
        lines.append(
            f"\nOther work ran on the machine: the load was {busy} when the runs began. So seconds may be too high."
        )
    lines.append("A `+` after a commit marks code with changes since that commit.")
    return lines
