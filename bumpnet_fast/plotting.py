"""Pictures of a solution: the fields, the error, the bumps themselves and the convergence.

Figures are built with matplotlib's objects, without ``pyplot``: nothing global is read or
changed, no window opens, and a figure is freed when the caller drops it.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import AsinhNorm, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from scipy.spatial import ConvexHull
from scipy.stats import qmc

from .solvers.least_squares import Solution

FIELD, ERROR, SIGNED = "viridis", "magma", "coolwarm"  # perceptually uniform; the last diverges from zero
INK, FAINT, BLUE, RED = "#22252a", "#9aa0a8", "#2f6db3", "#c2452d"
TITLE, TEXT, SMALL = 10.5, 9, 8  # font sizes in points
CELLS = 200  # points along the longest side of a picture
DECADES = 4  # how far below its maximum an error is resolved
CHUNK = 8192  # points per evaluation: bounds the memory
MARGIN = 0.15  # how much of the surroundings the picture of the bumps shows, in domain widths


def solution_figure(solution: Solution) -> Figure:
    """Draw a solution: field, exact solution, error, bumps and convergence.

    One space dimension gives curves, two give pictures, more give a plane of the first two
    coordinates, through the point where the solution is largest; the bumps are then seen from above.

    Parameters
    ----------
    solution : Solution
        What :func:`bumpnet_fast.solvers.least_squares.solve` returns.  Its first output is drawn.

    Returns
    -------
    matplotlib.figure.Figure
        With axes labelled "solution", "exact", "error" (the last two only where an exact solution is
        known), "bumps" and "convergence", besides the colour bars.  ``figure.savefig(path)`` saves it.

    Examples
    --------
    >>> from bumpnet_fast import BumpNet, problems
    >>> from bumpnet_fast.solvers.least_squares import solve
    >>> problem = problems.get("poisson")
    >>> solution = solve(problem, BumpNet(2, 9, problem.domain, dtype="float64"), iterations=1)
    >>> [axes.get_label() for axes in solution_figure(solution).axes][:5]
    ['solution', 'exact', 'error', 'bumps', 'convergence']
    """
    box = _array(solution.problem.domain)
    figure, axes = _panels(box, known=_exact(solution, box[:1]) is not None)
    figure.suptitle(_headline(solution), fontsize=TITLE + 1.5, color=INK)
    (_curves if box.shape[1] == 1 else _fields)(solution, box, axes)
    _convergence(axes["convergence"], solution)
    return figure


# --- the page ------------------------------------------------------------------------------------


def _panels(box: np.ndarray, known: bool) -> tuple[Figure, dict[str, Axes]]:
    """The figure and its axes by name; ``known`` says whether there is an exact solution."""
    if not known:
        mosaic = [["solution", "bumps", "convergence"]]
    elif box.shape[1] == 1:
        mosaic = [["solution", "error"], ["bumps", "convergence"]]
    else:
        mosaic = [["solution", "exact", "error"], ["bumps", "convergence", "convergence"]]
    height = min(max(3.1 / _aspect(box), 1.2), 5.0) + 0.9  # of a picture, with its labels
    heights = [max(height, 3.0) if "convergence" in row else height for row in mosaic]
    figure = Figure((4.3 * len(mosaic[0]), sum(heights) + 0.4), dpi=150, layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1, wspace=0.03, hspace=0.03)
    axes = figure.subplot_mosaic(mosaic, height_ratios=heights)
    for name, ax in axes.items():
        ax.set_label(name)
        ax.tick_params(labelsize=SMALL, colors=INK, width=0.6, length=3)
        ax.spines[:].set(linewidth=0.6, color=FAINT)
    return figure, axes


def _aspect(box: np.ndarray) -> float:
    """Width by height of a picture of the domain; curves get a pleasant one."""
    return 4 / 3 if box.shape[1] == 1 else float(np.divide(*(box[1] - box[0])[:2]))


def _headline(solution: Solution) -> str:
    bumps, parameters = len(solution.net.rows), solution.net.rows.numel()
    parts = [solution.problem.name.capitalize(), f"{bumps} bumps, {parameters} parameters"]
    parts += [] if solution.rel_l2 is None else [f"relative $L_2$ error {_number(solution.rel_l2)}"]
    return "  ·  ".join([*parts, f"{solution.seconds:.1f} s"])


def _title(ax: Axes, text: str) -> None:
    ax.set_title(text, fontsize=TITLE, color=INK, pad=7)


def _error_title(solution: Solution) -> str:
    return rf"Error $|u - u_\mathrm{{exact}}|$, max {_number(solution.max_error)}"


def _bumps_title(peaks: np.ndarray) -> str:
    return rf"{len(peaks)} bumps by peak $h\,\psi(c)$"


def _number(value: float) -> str:
    """Two significant digits as mathtext: 0.012 stays so, 0.000012 becomes 1.2 x 10^-5."""
    if not math.isfinite(value) or value == 0:
        return str(value)
    mantissa, exponent = f"{value:.1e}".split("e")
    plain = -3 <= int(exponent) <= 3
    return f"{value:.2g}" if plain else rf"${mantissa}\times10^{{{int(exponent)}}}$"


# --- values --------------------------------------------------------------------------------------


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().double().numpy()


@torch.no_grad()
def _predicted(solution: Solution, points: np.ndarray) -> np.ndarray:
    x = torch.from_numpy(points).to(solution.net.rows)
    return np.concatenate([_array(solution.predict(part)[:, 0]) for part in x.split(CHUNK)])


@torch.no_grad()
def _exact(solution: Solution, points: np.ndarray) -> np.ndarray | None:
    values = solution.problem.reference(torch.from_numpy(points))
    return None if values is None else _array(values.reshape(len(points), -1)[:, 0])


def _plane(solution: Solution, box: np.ndarray) -> np.ndarray:
    """A point of the plane to draw: where the solution is largest, to miss the planes where it vanishes."""
    if box.shape[1] == 2:
        return box[0]
    unit = qmc.Sobol(box.shape[1], scramble=False).random_base2(12)[1:]
    points = qmc.scale(unit, *box)
    return points[np.argmax(np.abs(np.nan_to_num(_predicted(solution, points))))]


def _grid(box: np.ndarray, through: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """Centres [height x width, d] of the cells of a picture of the plane, and its size."""
    lo, hi = box
    aspect = min(max(_aspect(box), 1 / 4), 4)
    width, height = round(CELLS * min(1, aspect)), round(CELLS * min(1, 1 / aspect))
    x = lo[0] + (hi[0] - lo[0]) * (np.arange(width) + 0.5) / width
    y = lo[1] + (hi[1] - lo[1]) * (np.arange(height) + 0.5) / height
    points = np.tile(through, (height, width, 1))
    points[..., 0], points[..., 1] = np.meshgrid(x, y)
    return points.reshape(-1, len(through)), (height, width)


def _error_norm(error: np.ndarray) -> LogNorm:
    top = np.nanmax(error, initial=0.0)
    top = top if 0 < top < np.inf else 1.0
    return LogNorm(top / 10**DECADES, top)


# --- two and more dimensions ---------------------------------------------------------------------


def _fields(solution: Solution, box: np.ndarray, axes: dict[str, Axes]) -> None:
    through = _plane(solution, box)
    points, size = _grid(box, through)
    u, exact = _predicted(solution, points).reshape(size), _exact(solution, points)
    others = ["z"] if box.shape[1] == 3 else [f"x_{k}" for k in range(3, box.shape[1] + 1)]
    where = "".join(f", ${name} = {value:.3g}$" for name, value in zip(others, through[2:], strict=True))
    shared = Normalize(np.nanmin(u), np.nanmax(u))
    _image(axes["solution"], u, box, FIELD, shared, f"Solution $u${where}")
    if exact is not None:
        exact = exact.reshape(size)
        error = np.abs(u - exact)
        shared.vmin, shared.vmax = min(shared.vmin, exact.min()), max(shared.vmax, exact.max())
        _image(axes["exact"], exact, box, FIELD, shared, f"Exact solution{where}")
        _image(axes["error"], error, box, ERROR, _error_norm(error), _error_title(solution))
    _boxes(axes["bumps"], solution, box)


def _frame_axes(ax: Axes, box: np.ndarray, margin: float = 0.0) -> None:
    (lo, hi), pad = box[:, :2], margin * (box[1] - box[0])[:2]
    ax.set(xlim=(lo[0] - pad[0], hi[0] + pad[0]), ylim=(lo[1] - pad[1], hi[1] + pad[1]))
    ax.set_aspect("equal" if 1 / 3 <= _aspect(box) <= 3 else "auto")
    ax.set_xlabel("$x$" if box.shape[1] <= 3 else "$x_1$", fontsize=TEXT, color=INK, labelpad=2)
    ax.set_ylabel("$y$" if box.shape[1] <= 3 else "$x_2$", fontsize=TEXT, color=INK, labelpad=2)
    ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    ax.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))


def _image(ax: Axes, values: np.ndarray, box: np.ndarray, cmap: str, norm: Normalize, title: str) -> None:
    extent = (*box[:, 0], *box[:, 1])
    image = ax.imshow(values, origin="lower", extent=extent, cmap=cmap, norm=norm, interpolation="bilinear")
    _frame_axes(ax, box)
    _title(ax, title)
    _colour_bar(ax, image)


def _colour_bar(ax: Axes, mappable: ScalarMappable, **options) -> None:
    # as high as the picture, whatever its aspect
    bar = ax.figure.colorbar(mappable, cax=ax.inset_axes((1.03, 0, 0.045, 1)), **options)
    bar.ax.tick_params(labelsize=SMALL, colors=INK, width=0.6, length=3)
    bar.outline.set(linewidth=0.6, edgecolor=FAINT)


def _boxes(ax: Axes, solution: Solution, box: np.ndarray) -> None:
    """The bumps as they lie over the domain, strong ones on top."""
    net, solid = solution.net, box.shape[1] == 2
    corners, peaks = _array(net.boxes())[:, :, :2], _array(net.peaks[:, 0])
    order = np.argsort(np.abs(peaks))
    if not solid:  # the outline of a box in more dimensions, seen from above
        corners = [part[ConvexHull(part).vertices] for part in corners]
    edges, faces = _bump_colours(peaks[order])
    boxes = [corners[i] for i in order]
    ax.add_collection(PolyCollection(boxes, facecolors=faces if solid else "none", edgecolors=edges, linewidths=0.9))
    ax.scatter(*_array(net.centres)[order, :2].T, s=9, color=edges, linewidths=0, zorder=2.5)
    (lo, hi) = box[:, :2]
    ax.add_patch(Rectangle(lo, *(hi - lo), fill=False, edgecolor=INK, linewidth=1.4, zorder=3))
    _frame_axes(ax, box, MARGIN)
    _title(ax, _bumps_title(peaks))
    norm = _signed_norm(peaks)
    step = 10 ** math.floor(math.log10(norm.vmax))
    step *= max(m for m in (1, 2, 5) if m * step <= norm.vmax)
    ticks = [-step, -step / 10, 0, step / 10, step]
    _colour_bar(ax, ScalarMappable(norm, SIGNED), ticks=ticks, format=lambda t, _: f"{t:g}".replace("-", "−"))


def _bump_colours(peaks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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


# --- one dimension -------------------------------------------------------------------------------


def _curves(solution: Solution, box: np.ndarray, axes: dict[str, Axes]) -> None:
    x = np.linspace(*box[:, 0], 1001)
    u, exact = _predicted(solution, x[:, None]), _exact(solution, x[:, None])
    ax = axes["solution"]
    ax.plot(x, u, color=BLUE, linewidth=1.6, label="$u$")
    if exact is not None:
        ax.plot(x, exact, color=INK, linewidth=1.0, linestyle=(0, (4, 3)), label=r"$u_\mathrm{exact}$")
        error = np.abs(u - exact)
        norm = _error_norm(error)
        axes["error"].semilogy(x, error, color=RED, linewidth=1.2)
        axes["error"].set_ylim(norm.vmin, 2 * norm.vmax)
        _title(axes["error"], _error_title(solution))
    _legend(ax)
    _title(ax, "Solution $u$")
    _intervals(axes["bumps"], solution, box)
    for name in ("solution", "error", "bumps"):
        if name in axes:
            axes[name].set_xlabel("$x$", fontsize=TEXT, color=INK, labelpad=2)


def _intervals(ax: Axes, solution: Solution, box: np.ndarray) -> None:
    """The bumps as boxes that stand on the axis, as high as their peaks."""
    ends, peaks = _array(solution.net.boxes())[:, :, 0], _array(solution.net.peaks[:, 0])
    corners = [[(a, 0), (a, h), (b, h), (b, 0)] for (a, b), h in zip(ends, peaks, strict=True)]
    edges, faces = _bump_colours(peaks)
    ax.add_collection(PolyCollection(corners, facecolors=faces, edgecolors=edges, linewidths=1.0))
    ax.autoscale_view()
    width = box[1, 0] - box[0, 0]
    ax.set_xlim(box[0, 0] - MARGIN * width, box[1, 0] + MARGIN * width)
    for end in box[:, 0]:
        ax.axvline(end, color=INK, linewidth=1.2)
    _title(ax, _bumps_title(peaks))


# --- convergence ---------------------------------------------------------------------------------


def _convergence(ax: Axes, solution: Solution) -> None:
    for key, label, colour, marker in (("loss", "loss", BLUE, ""), ("rel_l2", "relative $L_2$ error", RED, "o")):
        known = [(e["seconds"], e[key]) for e in solution.history if e.get(key) is not None]
        if known:
            ax.plot(*zip(*known, strict=True), color=colour, linewidth=1.4, label=label, marker=marker, markersize=3)
    ax.set_yscale("log")
    ax.set_xlim(left=0)
    ax.grid(axis="y", color=FAINT, alpha=0.3, linewidth=0.6)
    ax.set_xlabel("seconds", fontsize=TEXT, color=INK, labelpad=2)
    _legend(ax)
    ending = "" if solution.stop_reason == "iterations" else f" ({solution.stop_reason})"
    _title(ax, f"Convergence: {solution.iterations} iterations{ending}")


def _legend(ax: Axes) -> None:
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=TEXT, labelcolor=INK, frameon=False)


__all__ = ["solution_figure"]
