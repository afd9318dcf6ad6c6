"""What the pictures share: colours and sizes, titles and axes, the bumps and the convergence."""

from __future__ import annotations

import math

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import AsinhNorm, LogNorm, Normalize
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from scipy.spatial import ConvexHull

from .events import with_events
from .solvers.least_squares import Solution

FIELD, ERROR, SIGNED = "viridis", "magma", "coolwarm"  # perceptually uniform; the last diverges from zero
INK, FAINT, BLUE, RED = "#22252a", "#9aa0a8", "#2f6db3", "#c2452d"
TITLE, TEXT, SMALL = 10.5, 9, 8  # font sizes in points
DECADES = 4  # how far below its maximum an error is resolved
MARKERS = {"prune": "v", "grow": "^", "restore": "D", "restart": "s"}  # of events
OUTLINE = 1.4  # width of the line around the domain
MARGIN = 0.15  # how much of the surroundings the picture of the bumps shows, in domain widths


def as_array(tensor: torch.Tensor) -> np.ndarray:
    """A tensor in double precision."""
    return tensor.detach().cpu().double().numpy()


def mathtext(value: float) -> str:
    """Two significant digits as mathtext: 0.012 stays so, 0.000012 becomes 1.2 x 10^-5."""
    if not math.isfinite(value) or value == 0:
        return str(value)
    mantissa, exponent = f"{value:.1e}".split("e")
    plain = -3 <= int(exponent) <= 3
    return f"{value:.2g}" if plain else rf"${mantissa}\times10^{{{int(exponent)}}}$"


# --- axes ----------------------------------------------------------------------------------------


def aspect_of(box: np.ndarray) -> float:
    """Width by height of a picture of the domain; curves get a pleasant one."""
    return 4 / 3 if box.shape[1] == 1 else float(np.divide(*(box[1] - box[0])[:2]))


def set_title(ax: Axes, text: str) -> None:
    """Title an axes as all of them are."""
    ax.set_title(text, fontsize=TITLE, color=INK, pad=7)


def frame_axes(ax: Axes, box: np.ndarray, margin: float = 0.0) -> None:
    """Limits, aspect and labels of an axes over the box [2, d], with so much around it, in widths."""
    (lo, hi), pad = box[:, :2], margin * (box[1] - box[0])[:2]
    ax.set(xlim=(lo[0] - pad[0], hi[0] + pad[0]), ylim=(lo[1] - pad[1], hi[1] + pad[1]))
    ax.set_aspect("equal" if 1 / 3 <= aspect_of(box) <= 3 else "auto")
    ax.set_xlabel("$x$" if box.shape[1] <= 3 else "$x_1$", fontsize=TEXT, color=INK, labelpad=2)
    ax.set_ylabel("$y$" if box.shape[1] <= 3 else "$x_2$", fontsize=TEXT, color=INK, labelpad=2)
    ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    ax.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))


def add_colour_bar(ax: Axes, mappable: ScalarMappable, **options) -> None:
    """A bar at the right of an axes, as high as the picture, whatever its aspect."""
    bar = ax.figure.colorbar(mappable, cax=ax.inset_axes((1.03, 0, 0.045, 1)), **options)
    bar.ax.tick_params(labelsize=SMALL, colors=INK, width=0.6, length=3)
    bar.outline.set(linewidth=0.6, edgecolor=FAINT)


def add_legend(ax: Axes, *others: Axes) -> None:
    """A legend, if there is anything to explain; below the axes if ``others`` over it are explained as well."""
    handles = [handle for axes in (ax, *others) for handle in axes.get_legend_handles_labels()[0]]
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.13), "ncols": 4} if others else {}
    if handles:
        ax.legend(handles=handles, fontsize=TEXT, labelcolor=INK, frameon=False, **below)


def error_norm(error: np.ndarray) -> LogNorm:
    """A logarithmic scale of colours down from the largest error."""
    top = np.nanmax(error, initial=0.0)
    top = top if 0 < top < np.inf else 1.0
    return LogNorm(top / 10**DECADES, top)


# --- the bumps -----------------------------------------------------------------------------------


def bumps_title(peaks: np.ndarray) -> str:
    """How many bumps there are, and what their colours mean."""
    return rf"{len(peaks)} bumps by peak $h\,\psi(c)$"


def draw_boxes(ax: Axes, solution: Solution, box: np.ndarray, outline: bool = True) -> None:
    """The bumps as they lie over the domain, strong ones on top; ``outline`` says whether that is the box."""
    net, solid = solution.net, box.shape[1] == 2
    corners, peaks = as_array(net.boxes())[:, :, :2], as_array(net.peaks[:, 0])
    order = np.argsort(np.abs(peaks))
    if not solid:  # the outline of a box in more dimensions, seen from above
        corners = [part[ConvexHull(part).vertices] for part in corners]
    edges, faces = bump_colours(peaks[order])
    boxes = [corners[i] for i in order]
    ax.add_collection(PolyCollection(boxes, facecolors=faces if solid else "none", edgecolors=edges, linewidths=0.9))
    ax.scatter(*as_array(net.centres)[order, :2].T, s=9, color=edges, linewidths=0, zorder=2.5)
    if outline:
        (lo, hi) = box[:, :2]
        ax.add_patch(Rectangle(lo, *(hi - lo), fill=False, edgecolor=INK, linewidth=OUTLINE, zorder=3))
    frame_axes(ax, box, MARGIN)
    set_title(ax, bumps_title(peaks))
    norm = _signed_norm(peaks)
    step = 10 ** math.floor(math.log10(norm.vmax))
    step *= max(m for m in (1, 2, 5) if m * step <= norm.vmax)
    ticks = [-step, -step / 10, 0, step / 10, step]
    add_colour_bar(ax, ScalarMappable(norm, SIGNED), ticks=ticks, format=lambda t, _: f"{t:g}".replace("-", "−"))


def bump_colours(peaks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colours [M, 4] of the boxes' edges and faces: the weaker a bump, the fainter."""
    norm = _signed_norm(peaks)
    edges = ScalarMappable(norm, SIGNED).to_rgba(peaks)
    strength = np.abs(2 * np.ma.filled(norm(peaks), 0.5) - 1)
    faces = edges.copy()
    edges[:, 3] = 0.4 + 0.6 * strength
    faces[:, 3] = min(0.25, 5 / len(peaks)) * strength
    return edges, faces


def _signed_norm(peaks: np.ndarray) -> Normalize:
    """Symmetric about zero, linear for small peaks and logarithmic for large ones."""
    top = np.max(np.abs(peaks[np.isfinite(peaks)]), initial=0.0) or 1.0
    return AsinhNorm(linear_width=top / 20, vmin=-top, vmax=top)


# --- convergence ---------------------------------------------------------------------------------


def draw_convergence(ax: Axes, solution: Solution) -> None:
    """Loss and error over time, the number of bumps if that changes, and how it ended."""
    for key, label, colour, marker in (("loss", "loss", BLUE, ""), ("rel_l2", "relative $L_2$ error", RED, "o")):
        known = [(e["seconds"], e[key]) for e in solution.history if e.get(key) is not None]
        if known:
            ax.plot(*zip(*known, strict=True), color=colour, linewidth=1.4, label=label, marker=marker, markersize=3)
    ax.set_yscale("log")
    ax.set_xlim(left=0)
    ax.grid(axis="y", color=FAINT, alpha=0.3, linewidth=0.6)
    ax.set_xlabel("seconds", fontsize=TEXT, color=INK, labelpad=2)
    add_legend(ax, *_draw_numbers(ax, solution))
    ending = "" if solution.stop_reason == "iterations" else f" ({solution.stop_reason})"
    set_title(ax, f"Convergence: {solution.iterations} iterations{ending}")


def _draw_numbers(ax: Axes, solution: Solution) -> list[Axes]:
    """The number of bumps over time, and what changed it, on axes at the right; none if it stayed the same."""
    merged = [e for e in with_events(solution.history, getattr(solution, "events", ())) if "bumps" in e]
    if len({entry["bumps"] for entry in merged}) < 2:
        return []
    right = ax.twinx()
    right.set_label("number of bumps")
    ax.set_zorder(right.get_zorder() + 1)  # the curves on top, and what lies below to be seen
    ax.patch.set_visible(False)
    seconds, numbers = ([e[key] for e in merged] for key in ("seconds", "bumps"))
    end = max(solution.seconds, seconds[-1])
    right.step([*seconds, end], [*numbers, numbers[-1]], where="post", color=INK, linewidth=1.0, label="bumps")
    for kind in dict.fromkeys(e["event"] for e in merged if "event" in e):
        at = [(e["seconds"], e["bumps"]) for e in merged if e.get("event") == kind]
        marker = MARKERS.get(kind, "o")
        right.plot(*zip(*at, strict=True), marker, color=INK, markersize=4, label=kind)
    right.set_ylim(bottom=0)
    right.set_ylabel("bumps", fontsize=TEXT, color=INK, labelpad=2)
    right.tick_params(labelsize=SMALL, colors=INK, width=0.6, length=3)
    right.spines[:].set(linewidth=0.6, color=FAINT)
    right.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    return [right]
