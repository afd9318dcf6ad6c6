"""How a step's time and memory grow with the points and the bumps: the picture and the table of docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bumpnet_fast.diagnostics.bench import COMPILED, EAGER, NESTED, OURS, Case
from bumpnet_fast.plotting.style import BLUE, FAINT, INK, RED, SMALL, TEXT, set_title

JAX = "JAX jit analytic"
#: Line and marker of every contestant, in the order of the legend.
STYLES = {
    NESTED: (RED, "^"),
    EAGER: ("#d99a2b", "s"),
    JAX: ("#3f8f5c", "D"),
    COMPILED: (FAINT, "v"),
    OURS: (BLUE, "o"),
}
CENTRE, STAGE = Case(10_000, 400), "backward"
#: Peaks below it are pages of the system's, not of the step.
LEAST_MIB = 0.25

#: As ``report.figures`` gives them: statistics by case, contestant and stage.
Figures = Mapping[Case, Mapping[str, Mapping[str, Mapping[str, Any]]]]


def along(found: Figures, field: str) -> dict[int, Mapping[str, Any]]:
    """Contestants by ``field``, the cases that differ from the one in the middle in it alone."""
    cases = (one for one in found if one == CENTRE._replace(**{field: getattr(one, field)}))
    return {getattr(one, field): found[one] for one in sorted(cases, key=lambda one: getattr(one, field))}


def is_swept(one: Case) -> bool:
    """Whether a case is there for the sweep alone, which has a table of its own."""
    return one != CENTRE and any(one == CENTRE._replace(**{f: getattr(one, f)}) for f in ("points", "bumps"))


def curve(by_size: Mapping[int, Mapping[str, Any]], name: str, of: str) -> tuple[list[int], list[float]]:
    """Sizes at which a contestant took part, and its figures."""
    there = [(size, found[name][STAGE][of]) for size, found in by_size.items() if STAGE in found.get(name, {})]
    known = [(size, value) for size, value in there if value is not None]
    return [size for size, _ in known], [value for _, value in known]


def draw(found: Figures, path: Path, machine: str) -> None:
    """Time against points and against bumps, and memory against their product, as a PNG."""
    figure = Figure(figsize=(11, 3.9), layout="constrained")
    by_points, by_bumps = along(found, "points"), along(found, "bumps")
    left, middle, right = figure.subplots(1, 3)
    by_pairs = {n * CENTRE.bumps: by_points[n] for n in by_points} | {m * CENTRE.points: by_bumps[m] for m in by_bumps}
    by_pairs = dict(sorted(by_pairs.items()))
    for name, (colour, marker) in STYLES.items():
        style = {"color": colour, "marker": marker, "markersize": 5, "linewidth": 2 if name == OURS else 1.3}
        for ax, sizes in ((left, by_points), (middle, by_bumps)):
            x, seconds = curve(sizes, name, "min")
            ax.plot(x, [1e3 * t for t in seconds], label=name, **style)
        x, peaks = curve(by_pairs, name, "peak")
        right.plot(x, [max(LEAST_MIB, peak) for peak in peaks], **style)
    label(left, "time of a step", f"points, at {CENTRE.bumps} bumps", "ms")
    label(middle, "time of a step", f"bumps, at {CENTRE.points:,} points", "ms")
    label(right, "peak extra memory of a step", "points × bumps", "MiB")
    figure.legend(loc="outside lower center", ncols=len(STYLES), frameon=False, fontsize=TEXT, labelcolor=INK,
                  handles=left.get_lines())  # fmt: skip
    figure.suptitle(f"{machine}; d = 2, Laplacian, float32, one thread", fontsize=TEXT, color=INK)
    figure.savefig(path, dpi=100, metadata={"Software": None})


def label(ax: Axes, title: str, across: str, up: str) -> None:
    set_title(ax, title)
    ax.set(xscale="log", yscale="log")
    ax.set_xlabel(across, fontsize=TEXT, color=INK)
    ax.set_ylabel(up, fontsize=TEXT, color=INK)
    ax.tick_params(labelsize=SMALL, colors=INK)
    ax.grid(color=FAINT, linewidth=0.4, alpha=0.5)


def table(found: Figures) -> list[str]:
    """Our shortest time, and the others' relative to it; "-" for those that did not take part."""
    peers = [name for name in reversed(STYLES) if name != OURS]
    lines = [f"| points | bumps | ours | {' | '.join(f'{name} / ours' for name in peers)} |"]
    lines += ["|" + "---|" * (3 + len(peers))]
    for one in sorted(one for one in found if is_swept(one) or one == CENTRE):
        least = {name: stages[STAGE]["min"] for name, stages in found[one].items() if STAGE in stages}
        ratios = [f"{least[name] / least[OURS]:.1f}" if name in least else "-" for name in peers]
        lines.append(f"| {one.points} | {one.bumps} | {1e3 * least[OURS]:.3g} ms | {' | '.join(ratios)} |")
    return lines
