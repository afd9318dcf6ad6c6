"""Shared by the pictures: colours and sizes, titles and axes, bumps and convergence."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import AsinhNorm, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from PIL import Image
from scipy.spatial import ConvexHull

from ..io.fields import Slice, middles
from ..nets.bumpnet import BumpNet
from ..nets.events import with_events
from ..nets.patches import PatchNet
from ..solvers.operators import OperatorSolution
from ..solvers.solution import FieldResult

FIELD, ERROR, SIGNED = "viridis", "magma", "coolwarm"  # perceptually uniform; the last diverges from zero
INK, FAINT, BLUE, RED = "#22252a", "#9aa0a8", "#2f6db3", "#c2452d"
TITLE, TEXT, SMALL = 10.5, 9, 8  # font sizes in points
DECADES = 4  # how far below its maximum an error is resolved
MARKERS = {"prune": "v", "grow": "^", "restore": "D", "restart": "s"}  # of events
OUTLINE = 1.4  # width of the line around the domain
CELLS, CURVE = 200, 1001  # points along the longest side of a picture, and of a curve
PER_SECOND, LAST = 12, 1500  # frames of an animation, and milliseconds of its last one
MARGIN = 0.15  # how much of the surroundings the picture of the bumps shows, in domain widths


def as_array(tensor: torch.Tensor) -> np.ndarray:
    """A tensor in double precision."""
    return tensor.detach().cpu().double().numpy()


def mathtext(value: float) -> str:
    """Two significant digits as mathtext: 0.012 stays, 0.000012 becomes 1.2 x 10^-5."""
    if not math.isfinite(value) or value == 0:
        return str(value)
    mantissa, exponent = f"{value:.1e}".split("e")
    plain = -3 <= int(exponent) <= 3
    return f"{value:.2g}" if plain else rf"${mantissa}\times10^{{{int(exponent)}}}$"


# --- axes ----------------------------------------------------------------------------------------


def panels(mosaic: Sequence[Sequence[str]], width: float, heights: Sequence[float]) -> tuple[Figure, dict[str, Axes]]:
    """A figure of named axes, in inches: a column ``width`` and row ``heights``; "." leaves a place empty."""
    size = width * len(mosaic[0]), sum(heights) + 0.4
    figure = Figure(size, dpi=150, layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1, wspace=0.03, hspace=0.03)
    axes = figure.subplot_mosaic(mosaic, height_ratios=heights)
    for name, ax in axes.items():
        ax.set_label(name)
        dress(ax)
    return figure, axes


def dress(ax: Axes) -> None:
    """Set ticks and spines of an axes."""
    ax.tick_params(labelsize=SMALL, colors=INK, width=0.6, length=3)
    ax.spines[:].set(linewidth=0.6, color=FAINT)


def picture_height(box: np.ndarray) -> float:
    """Size, in inches, of a picture of the box with its labels."""
    return min(max(3.1 / aspect_of(box), 1.2), 5.0) + 0.9


def aspect_of(box: np.ndarray) -> float:
    """Width by height of a picture of the domain; fixed for curves."""
    return 4 / 3 if box.shape[1] == 1 else float(np.divide(*(box[1] - box[0])[:2]))


def set_title(ax: Axes, text: str) -> None:
    """Set the title of an axes."""
    ax.set_title(text, fontsize=TITLE, color=INK, pad=7)


def frame_axes(ax: Axes, box: np.ndarray, margin: float = 0.0, names: Sequence[str] = ("x", "y")) -> None:
    """Set limits, aspect and labels of an axes over the box [2, d], with a margin in widths."""
    (lo, hi), pad = box[:, :2], margin * (box[1] - box[0])[:2]
    ax.set(xlim=(lo[0] - pad[0], hi[0] + pad[0]), ylim=(lo[1] - pad[1], hi[1] + pad[1]))
    ax.set_aspect("equal" if 1 / 3 <= aspect_of(box) <= 3 else "auto")
    label_axes(ax, names)
    ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    ax.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))


def label_axes(ax: Axes, names: Sequence[str]) -> None:
    """Label an axes with one or two coordinates; the number of x1 is an index."""
    for name, label in zip(names, (ax.set_xlabel, ax.set_ylabel), strict=False):
        label(f"${mathname(name)}$", fontsize=TEXT, color=INK, labelpad=2)


def mathname(name: str) -> str:
    """A name in mathtext, with its number as an index.

    Examples
    --------
    >>> mathname("t"), mathname("x1")
    ('t', 'x_{1}')
    """
    return f"{name[0]}_{{{name[1:]}}}" if name[1:] else name


def place(coordinates: Mapping[str, float]) -> str:
    """Coordinates with their names in mathtext: z = 0.5."""
    return ", ".join(f"${mathname(name)} = {value:.3g}$" for name, value in coordinates.items())


def finite_norm(*arrays: np.ndarray) -> Normalize:
    """A common scale of colours for all numbers in the arrays."""
    known = np.concatenate([a[np.isfinite(a)] for a in arrays])
    low, high = (known.min(), known.max()) if len(known) else (0.0, 1.0)
    return Normalize(low, high)


def add_colour_bar(ax: Axes, mappable: ScalarMappable, **options) -> None:
    """A colour bar at the right of an axes, as high as the picture."""
    bar = ax.figure.colorbar(mappable, cax=ax.inset_axes((1.03, 0, 0.045, 1)), **options)
    bar.ax.tick_params(labelsize=SMALL, colors=INK, width=0.6, length=3)
    bar.outline.set(linewidth=0.6, edgecolor=FAINT)


def add_legend(ax: Axes, *others: Axes) -> None:
    """A legend, if there is something to explain; below the axes if it also explains the ``others``."""
    handles = [handle for axes in (ax, *others) for handle in axes.get_legend_handles_labels()[0]]
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.13), "ncols": 4} if others else {}
    if handles:
        ax.legend(handles=handles, fontsize=TEXT, labelcolor=INK, frameon=False, **below)


def error_norm(error: np.ndarray) -> LogNorm:
    """A logarithmic scale of colours below the largest error."""
    top = np.nanmax(error, initial=0.0)
    top = top if 0 < top < np.inf else 1.0
    return LogNorm(top / 10**DECADES, top)


# --- fields --------------------------------------------------------------------------------------


def pixels(box: np.ndarray, cells: int = CELLS) -> tuple[list[np.ndarray], tuple[int, int]]:
    """Centres of the cells of a picture of a plane, by coordinate, and its size, height first."""
    aspect = min(max(aspect_of(box), 1 / 4), 4)
    size = round(cells * min(1, 1 / aspect)), round(cells * min(1, aspect))
    return [middles(*box[:, k], size[1 - k]) for k in (0, 1)], size


def draw_image(ax: Axes, values: np.ndarray, plane: Slice, norm: Normalize, title: str, cmap: str = FIELD) -> AxesImage:
    """A picture [height, width] of a plane, with its colour bar."""
    extent = (*plane.box[:, 0], *plane.box[:, 1])
    image = ax.imshow(values, origin="lower", extent=extent, cmap=cmap, norm=norm, interpolation="bilinear")
    frame_axes(ax, plane.box, names=plane.names)
    set_title(ax, title)
    add_colour_bar(ax, image)
    return image


def draw_edge(ax: Axes, ticks: Sequence[np.ndarray], inside: np.ndarray) -> None:
    """The boundary of a domain within the box; outside of the box nothing is inside."""
    x, y = (np.concatenate([[t[0] - (t[1] - t[0])], t, [t[-1] + (t[-1] - t[-2])]]) for t in ticks)
    ax.contour(x, y, np.pad(inside, 1), levels=[0.5], colors=INK, linewidths=OUTLINE, zorder=3)


def draw_curves(ax: Axes, x: np.ndarray, u: np.ndarray, exact: np.ndarray | None, name: str = "u") -> Line2D:
    """A curve, and the exact one if known."""
    (curve,) = ax.plot(x, u, color=BLUE, linewidth=1.6, label=f"${name}$")
    if exact is not None:
        ax.plot(x, exact, color=INK, linewidth=1.0, linestyle=(0, (4, 3)), label=r"$u_\mathrm{exact}$")
    add_legend(ax)
    return curve


def draw_error_curve(ax: Axes, x: np.ndarray, error: np.ndarray, title: str) -> None:
    """An error over a coordinate."""
    norm = error_norm(error)
    ax.semilogy(x, error, color=RED, linewidth=1.2)
    ax.set_ylim(norm.vmin, 2 * norm.vmax)
    set_title(ax, title)


# --- the bumps -----------------------------------------------------------------------------------


#: Boxes of bumps that are not trained.
BACKGROUND = {"facecolors": "none", "edgecolors": FAINT, "linewidths": 0.5, "alpha": 0.5}


def bumps_title(peaks: np.ndarray, others: int = 0) -> str:
    """Number of bumps, and the meaning of their colours; ``others`` are not trained and have none."""
    more = f", {others} not trained" if others else ""
    return rf"{len(peaks)} bumps by peak $h\,\psi(c)${more}"


def trained_bumps(net: BumpNet) -> np.ndarray:
    """Mask [M] of the bumps in colour: the trained ones, or all if none is trained."""
    trained = net.trainable.cpu().numpy()
    return trained if trained.any() else np.ones_like(trained)


def draw_boxes(
    ax: Axes, net: BumpNet, box: np.ndarray, outline: bool = True, names: Sequence[str] = ("x", "y")
) -> None:
    """The bumps over the domain, the strongest on top; ``outline`` is False if the domain is not the box.

    Bumps that are not trained are a grey background.
    """
    solid, outlines, heights = box.shape[1] == 2, box_outlines(net), as_array(net.peaks[:, 0])
    shown = np.flatnonzero(trained := trained_bumps(net))
    if others := [outlines[i] for i in np.flatnonzero(~trained)]:
        ax.add_collection(PolyCollection(others, zorder=0.5, **BACKGROUND))
    order = shown[np.argsort(np.abs(heights[shown]))]
    peaks = heights[shown]
    edges, faces = bump_colours(heights[order])
    boxes = [outlines[i] for i in order]
    ax.add_collection(PolyCollection(boxes, facecolors=faces if solid else "none", edgecolors=edges, linewidths=0.9))
    ax.scatter(*as_array(net.centres)[order, :2].T, s=9, color=edges, linewidths=0, zorder=2.5)
    if outline:
        (lo, hi) = box[:, :2]
        ax.add_patch(Rectangle(lo, *(hi - lo), fill=False, edgecolor=INK, linewidth=OUTLINE, zorder=3))
    frame_axes(ax, box, MARGIN, names)
    set_title(ax, bumps_title(peaks, len(others)))
    norm = _signed_norm(peaks)
    step = 10 ** math.floor(math.log10(norm.vmax))
    step *= max(m for m in (1, 2, 5) if m * step <= norm.vmax)
    ticks = [-step, -step / 10, 0, step / 10, step]
    add_colour_bar(ax, ScalarMappable(norm, SIGNED), ticks=ticks, format=lambda t, _: f"{t:g}".replace("-", "−"))


def draw_leaves(ax: Axes, net: PatchNet, box: np.ndarray, names: Sequence[str] = ("x", "y")) -> None:
    """The leaves of a net of patches; its bumps are too many to be seen."""
    lo, hi = as_array(net.boxes).transpose(1, 0, 2)
    corners = np.stack([lo, np.stack([hi[:, 0], lo[:, 1]], 1), hi, np.stack([lo[:, 0], hi[:, 1]], 1)], 1)
    ax.add_collection(PolyCollection(list(corners), facecolors="none", edgecolors=INK, linewidths=0.6))
    frame_axes(ax, box, MARGIN, names)
    set_title(ax, f"{len(net.leaves)} patches of {net.amplitudes.shape[1]} bumps")


def box_outlines(net: BumpNet) -> list[np.ndarray]:
    """Corners [n, 2] of the boxes of the bumps by the first two axes; in more dimensions seen from above."""
    corners = as_array(net.boxes())[:, :, :2]
    return list(corners) if net.layout.dim == 2 else [part[ConvexHull(part).vertices] for part in corners]


def draw_intervals(ax: Axes, net: BumpNet, box: np.ndarray) -> None:
    """The bumps as boxes on the axis, as high as their peaks; those that are not trained as grey bars."""
    trained, bases = trained_bumps(net), as_array(net.boxes())[:, :, 0]
    ends, peaks = bases[trained], as_array(net.peaks[:, 0])[trained]
    if len(others := bases[~trained]):  # their heights may cancel by many powers of ten
        tall = 0.1 * (np.nanmax(np.abs(peaks)) or 1.0)
        bars = [[(a, -tall), (a, tall), (b, tall), (b, -tall)] for a, b in others]
        ax.add_collection(PolyCollection(bars, zorder=0.5, **BACKGROUND))
    corners = [[(a, 0), (a, h), (b, h), (b, 0)] for (a, b), h in zip(ends, peaks, strict=True)]
    edges, faces = bump_colours(peaks)
    ax.add_collection(PolyCollection(corners, facecolors=faces, edgecolors=edges, linewidths=1.0))
    ax.autoscale_view()
    width = box[1, 0] - box[0, 0]
    ax.set_xlim(box[0, 0] - MARGIN * width, box[1, 0] + MARGIN * width)
    for end in box[:, 0]:
        ax.axvline(end, color=INK, linewidth=1.2)
    set_title(ax, bumps_title(peaks, len(others)))


def bump_colours(peaks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colours [M, 4] of the boxes' edges and faces: weak bumps are faint."""
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


# --- animations ----------------------------------------------------------------------------------


def write_gif(figure: Figure, moments: Sequence[Any], update: Callable[[Any], None], file: BinaryIO) -> None:
    """Write a figure after ``update(moment)`` for all moments to a file; the last frame stays longer.

    Pillow chooses the colours.  matplotlib's writer does the same, but writes to paths only, and cannot pause at the
    end.
    """
    canvas, images = FigureCanvasAgg(figure), []
    update(moments[0])
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # one layout is enough
    for moment in moments:
        update(moment)
        canvas.draw()
        images.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"))
    durations = [1000 // PER_SECOND] * (len(images) - 1) + [LAST]
    images[0].save(file, format="GIF", save_all=True, append_images=images[1:], duration=durations, loop=0)


# --- convergence ---------------------------------------------------------------------------------


def draw_convergence(ax: Axes, solution: FieldResult | OperatorSolution) -> None:
    """Loss and error over time, the number of bumps if it changes, and why the run ended."""
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


def _draw_numbers(ax: Axes, solution: FieldResult | OperatorSolution) -> list[Axes]:
    """Number of bumps over time, with its changes, on axes at the right; None if constant."""
    events = solution.events if isinstance(solution, FieldResult) else []
    merged = [e for e in with_events(solution.history, events) if "bumps" in e]
    if len({entry["bumps"] for entry in merged}) < 2:
        return []
    right = ax.twinx()
    right.set_label("number of bumps")
    ax.set_zorder(right.get_zorder() + 1)  # the curves on top, without hiding what is below
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
    dress(right)
    right.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    return [right]
