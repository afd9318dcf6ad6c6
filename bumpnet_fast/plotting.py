"""Pictures of a solution: the fields, the error, the bumps themselves and the convergence.

Figures are built with matplotlib's objects, without ``pyplot``: nothing global is read or
changed, no window opens, and a figure is freed when the caller drops it.
"""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from scipy.stats import qmc

from .figures import (
    BLUE,
    ERROR,
    FAINT,
    FIELD,
    INK,
    MARGIN,
    OUTLINE,
    RED,
    SMALL,
    TEXT,
    TITLE,
    add_colour_bar,
    add_legend,
    as_array,
    aspect_of,
    bump_colours,
    bumps_title,
    draw_boxes,
    draw_convergence,
    error_norm,
    frame_axes,
    mathtext,
    set_title,
)
from .solvers.least_squares import Solution

CELLS = 200  # points along the longest side of a picture
CHUNK = 8192  # points per evaluation: bounds the memory


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
    box = as_array(solution.problem.domain)
    figure, axes = _panels(box, known=_exact(solution, box[:1]) is not None)
    figure.suptitle(_headline(solution), fontsize=TITLE + 1.5, color=INK)
    (_curves if box.shape[1] == 1 else _fields)(solution, box, axes)
    draw_convergence(axes["convergence"], solution)
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
    height = min(max(3.1 / aspect_of(box), 1.2), 5.0) + 0.9  # of a picture, with its labels
    heights = [max(height, 3.0) if "convergence" in row else height for row in mosaic]
    figure = Figure((4.3 * len(mosaic[0]), sum(heights) + 0.4), dpi=150, layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1, wspace=0.03, hspace=0.03)
    axes = figure.subplot_mosaic(mosaic, height_ratios=heights)
    for name, ax in axes.items():
        ax.set_label(name)
        ax.tick_params(labelsize=SMALL, colors=INK, width=0.6, length=3)
        ax.spines[:].set(linewidth=0.6, color=FAINT)
    return figure, axes


def _headline(solution: Solution) -> str:
    bumps, parameters = len(solution.net.rows), solution.net.rows.numel()
    parts = [solution.problem.name.capitalize(), f"{bumps} bumps, {parameters} parameters"]
    parts += [] if solution.rel_l2 is None else [f"relative $L_2$ error {mathtext(solution.rel_l2)}"]
    return "  ·  ".join([*parts, f"{solution.seconds:.1f} s"])


def _error_title(solution: Solution) -> str:
    return rf"Error $|u - u_\mathrm{{exact}}|$, max {mathtext(solution.max_error)}"


# --- values --------------------------------------------------------------------------------------


def _inside(solution: Solution, points: np.ndarray) -> np.ndarray:
    return solution.problem.inside(torch.from_numpy(points)).numpy()


@torch.no_grad()
def _predicted(solution: Solution, points: np.ndarray) -> np.ndarray:
    """Values [N] of the solution, and no number outside the domain."""
    x = torch.from_numpy(points).to(solution.net.rows)
    values = np.concatenate([as_array(solution.predict(part)[:, 0]) for part in x.split(CHUNK)])
    return np.where(_inside(solution, points), values, np.nan)


@torch.no_grad()
def _exact(solution: Solution, points: np.ndarray) -> np.ndarray | None:
    """As :func:`_predicted`, or None if the exact solution is not known."""
    values = solution.problem.reference(torch.from_numpy(points))
    if values is None:
        return None
    return np.where(_inside(solution, points), as_array(values.reshape(len(points), -1)[:, 0]), np.nan)


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
    aspect = min(max(aspect_of(box), 1 / 4), 4)
    width, height = round(CELLS * min(1, aspect)), round(CELLS * min(1, 1 / aspect))
    x = lo[0] + (hi[0] - lo[0]) * (np.arange(width) + 0.5) / width
    y = lo[1] + (hi[1] - lo[1]) * (np.arange(height) + 0.5) / height
    points = np.tile(through, (height, width, 1))
    points[..., 0], points[..., 1] = np.meshgrid(x, y)
    return points.reshape(-1, len(through)), (height, width)


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
        shared.vmin, shared.vmax = min(shared.vmin, np.nanmin(exact)), max(shared.vmax, np.nanmax(exact))
        _image(axes["exact"], exact, box, FIELD, shared, f"Exact solution{where}")
        _image(axes["error"], error, box, ERROR, error_norm(error), _error_title(solution))
    whole = box.shape[1] != 2 or bool(_inside(solution, points).all())
    draw_boxes(axes["bumps"], solution, box, outline=whole)
    if not whole:
        for ax in axes.values():
            if ax is not axes["convergence"]:
                _outline(ax, points, _inside(solution, points), size)


def _outline(ax: Axes, points: np.ndarray, inside: np.ndarray, size: tuple[int, int]) -> None:
    """The edge of a domain that is a part of the box; outside of the box nothing is inside."""
    x, y = (np.unique(points[:, k]) for k in (0, 1))
    x, y = (np.concatenate([[t[0] - (t[1] - t[0])], t, [t[-1] + (t[-1] - t[-2])]]) for t in (x, y))
    ax.contour(x, y, np.pad(inside.reshape(size), 1), levels=[0.5], colors=INK, linewidths=OUTLINE, zorder=3)


def _image(ax: Axes, values: np.ndarray, box: np.ndarray, cmap: str, norm: Normalize, title: str) -> None:
    extent = (*box[:, 0], *box[:, 1])
    image = ax.imshow(values, origin="lower", extent=extent, cmap=cmap, norm=norm, interpolation="bilinear")
    frame_axes(ax, box)
    set_title(ax, title)
    add_colour_bar(ax, image)


# --- one dimension -------------------------------------------------------------------------------


def _curves(solution: Solution, box: np.ndarray, axes: dict[str, Axes]) -> None:
    x = np.linspace(*box[:, 0], 1001)
    u, exact = _predicted(solution, x[:, None]), _exact(solution, x[:, None])
    ax = axes["solution"]
    ax.plot(x, u, color=BLUE, linewidth=1.6, label="$u$")
    if exact is not None:
        ax.plot(x, exact, color=INK, linewidth=1.0, linestyle=(0, (4, 3)), label=r"$u_\mathrm{exact}$")
        error = np.abs(u - exact)
        norm = error_norm(error)
        axes["error"].semilogy(x, error, color=RED, linewidth=1.2)
        axes["error"].set_ylim(norm.vmin, 2 * norm.vmax)
        set_title(axes["error"], _error_title(solution))
    add_legend(ax)
    set_title(ax, "Solution $u$")
    _intervals(axes["bumps"], solution, box)
    for name in ("solution", "error", "bumps"):
        if name in axes:
            axes[name].set_xlabel("$x$", fontsize=TEXT, color=INK, labelpad=2)


def _intervals(ax: Axes, solution: Solution, box: np.ndarray) -> None:
    """The bumps as boxes that stand on the axis, as high as their peaks."""
    ends, peaks = as_array(solution.net.boxes())[:, :, 0], as_array(solution.net.peaks[:, 0])
    corners = [[(a, 0), (a, h), (b, h), (b, 0)] for (a, b), h in zip(ends, peaks, strict=True)]
    edges, faces = bump_colours(peaks)
    ax.add_collection(PolyCollection(corners, facecolors=faces, edgecolors=edges, linewidths=1.0))
    ax.autoscale_view()
    width = box[1, 0] - box[0, 0]
    ax.set_xlim(box[0, 0] - MARGIN * width, box[1, 0] + MARGIN * width)
    for end in box[:, 0]:
        ax.axvline(end, color=INK, linewidth=1.2)
    set_title(ax, bumps_title(peaks))


__all__ = ["solution_figure"]
