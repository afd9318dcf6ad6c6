"""Error against processor seconds, a panel for every problem: the picture of docs/rivals.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from bumpnet_fast.plotting.style import BLUE, FAINT, INK, RED, SMALL, TEXT, set_title

from . import chebyshev, domains, elements, features, fourier, ours, perceptron, radial

#: Colour and marker of every method.
STYLES = {
    ours.ToError.NAME: (BLUE, "o"),
    ours.Untrained.NAME: ("#7fb0e6", "o"),
    ours.Trained.NAME: ("#1d4270", "*"),
    chebyshev.NAME: (RED, "s"),
    fourier.NAME: ("#8a4fb0", "D"),
    elements.P2.NAME: ("#9bc48c", "v"),
    elements.P4.NAME: ("#3f8f5c", "^"),
    elements.MULTIGRID.NAME: ("#9bc48c", "<"),
    radial.NAME: ("#d99a2b", "P"),
    features.NAME: (FAINT, "X"),
    perceptron.NAME: (INK, "h"),
}
COLUMNS = 4
#: Limits of the axes: seconds, and errors.
SECONDS, ERRORS = (1e-4, 3e2), (1e-14, 3.0)


def draw(records: list[dict[str, Any]], path: Path) -> None:
    """The picture of all records, as a PNG; errors below the limit are drawn on it."""
    there = {r["problem"] for r in records}
    names = [name for name in domains.NAMES if name in there]
    rows = -(-len(names) // COLUMNS)
    figure = Figure(figsize=(11, 0.6 + 2.3 * max(1, rows)), layout="constrained")
    axes = figure.subplots(max(1, rows), COLUMNS, sharex=True, sharey=True, squeeze=False).ravel()
    for ax, name in zip(axes, names, strict=False):
        for method, (colour, marker) in STYLES.items():
            found = [r for r in records if (r["problem"], r["method"]) == (name, method) and "failed" not in r]
            seconds = [r["processor_seconds"] for r in found]
            errors = [max(r["error"], ERRORS[0]) for r in found]
            width = 2 if method in (ours.ToError.NAME, ours.Untrained.NAME) else 1.2
            ax.plot(seconds, errors, color=colour, marker=marker, markersize=4.5, linewidth=width, label=method)
        set_title(ax, name)
        ax.set(xscale="log", yscale="log", xlim=SECONDS, ylim=ERRORS)
        ax.tick_params(labelsize=SMALL, colors=INK)
        ax.grid(color=FAINT, linewidth=0.4, alpha=0.5)
    for ax in axes[len(names) :]:
        ax.set_axis_off()
    figure.supxlabel("processor seconds", fontsize=TEXT, color=INK)
    figure.supylabel("relative L2 error", fontsize=TEXT, color=INK)
    figure.legend(loc="outside upper center", ncols=6, frameon=False, fontsize=TEXT, labelcolor=INK,
                  handles=axes[0].get_lines())  # fmt: skip
    figure.savefig(path, dpi=80, metadata={"Software": None})
