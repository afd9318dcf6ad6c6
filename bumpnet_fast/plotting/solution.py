"""Pictures of a solution: the fields, the error, the bumps themselves and the convergence.

Figures are built with matplotlib's objects, without ``pyplot``: nothing global is read or
changed, no window opens, and a figure is freed when the caller drops it.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..io.fields import Field, default_plane, field_of
from ..solvers.solution import FieldResult
from .style import (
    CURVE,
    ERROR,
    INK,
    TITLE,
    draw_boxes,
    draw_convergence,
    draw_curves,
    draw_edge,
    draw_error_curve,
    draw_image,
    draw_intervals,
    error_norm,
    finite_norm,
    label_axes,
    mathtext,
    panels,
    picture_height,
    pixels,
    place,
    set_title,
)


def solution_figure(solution: FieldResult) -> Figure:
    """Draw a solution: field, exact solution, error, bumps and convergence.

    One space dimension gives curves, two give pictures, more give a plane of the first two
    coordinates, through the point where the solution is largest; the bumps are then seen from above.

    Parameters
    ----------
    solution : FieldResult
        What :func:`bumpnet_fast.solvers.solve` or :func:`~bumpnet_fast.solvers.march` returns.  Its first output is
        drawn.

    Returns
    -------
    matplotlib.figure.Figure
        With axes labelled "solution", "exact", "error" (the last two only where an exact solution is
        known), "bumps" and "convergence" (where there is a history), besides the colour bars.
        ``figure.savefig(path)`` saves it.

    Examples
    --------
    >>> from bumpnet_fast import BumpNet, problems
    >>> from bumpnet_fast.solvers import solve
    >>> problem = problems.get("poisson")
    >>> solution = solve(problem, BumpNet(2, 9, problem.domain, dtype="float64"), iterations=1)
    >>> [axes.get_label() for axes in solution_figure(solution).axes][:5]
    ['solution', 'exact', 'error', 'bumps', 'convergence']
    """
    field = field_of(solution)
    figure, axes = _panels(field.box, field.exact(field.box[:1]) is not None, bool(solution.history))
    figure.suptitle(_headline(solution), fontsize=TITLE + 1.5, color=INK)
    (_curves if len(field.names) == 1 else _fields)(solution, field, axes)
    if solution.history:
        draw_convergence(axes["convergence"], solution)
    return figure


# --- the page ------------------------------------------------------------------------------------


def _panels(box: np.ndarray, known: bool, followed: bool) -> tuple[Figure, dict[str, Axes]]:
    """The figure and its axes by name: is there an exact solution, and is it known how this one came about?"""
    flat = box.shape[1] == 1
    if not known:
        mosaic = [["solution", "bumps", "convergence"]]
    elif flat:
        mosaic = [["solution", "error"], ["bumps", "convergence"]]
    else:
        mosaic = [["solution", "exact", "error"], ["bumps", "convergence", "convergence"]]
    if not followed:
        mosaic = [["solution", "error", "bumps"]] if flat else [["solution", "exact"], ["error", "bumps"]]
        mosaic = mosaic if known else [["solution", "bumps"]]
    height = picture_height(box)
    return panels(mosaic, 4.3, [max(height, 3.0) if "convergence" in row else height for row in mosaic])


def _headline(solution: FieldResult) -> str:
    bumps, parameters = len(solution.net.rows), solution.net.rows.numel()
    parts = [solution.problem.name.capitalize(), f"{bumps} bumps, {parameters} parameters"]
    parts += [] if solution.rel_l2 is None else [f"relative $L_2$ error {mathtext(solution.rel_l2)}"]
    parts += [f"{solution.seconds:.1f} s"] if solution.history else []
    return "  ·  ".join(parts)


def _error_title(solution: FieldResult) -> str:
    return rf"Error $|u - u_\mathrm{{exact}}|$, max {mathtext(solution.max_error)}"


# --- two and more dimensions ---------------------------------------------------------------------


def _fields(solution: FieldResult, field: Field, axes: dict[str, Axes]) -> None:
    plane, box = default_plane(field, range(len(field.names))), field.box
    ticks, size = pixels(plane.box)
    points = plane.points(ticks)
    u, exact, inside = field.u(points)[:, 0].reshape(size), field.exact(points), field.inside(points)
    where = f", {place(plane.held)}" if plane.held else ""
    norm = finite_norm(u) if exact is None else finite_norm(u, exact[:, 0])
    draw_image(axes["solution"], u, plane, norm, f"Solution $u${where}")
    if exact is not None:
        exact = exact[:, 0].reshape(size)
        draw_image(axes["exact"], exact, plane, norm, f"Exact solution{where}")
        error = np.abs(u - exact)
        draw_image(axes["error"], error, plane, error_norm(error), _error_title(solution), ERROR)
    whole = box.shape[1] != 2 or bool(inside.all())
    draw_boxes(axes["bumps"], solution.net, box, outline=whole, names=plane.names)
    if not whole:
        for name in ("solution", "exact", "error", "bumps"):
            if name in axes:
                draw_edge(axes[name], ticks, inside.reshape(size))


# --- one dimension -------------------------------------------------------------------------------


def _curves(solution: FieldResult, field: Field, axes: dict[str, Axes]) -> None:
    x = np.linspace(*field.box[:, 0], CURVE)
    u, exact = field.u(x[:, None])[:, 0], field.exact(x[:, None])
    draw_curves(axes["solution"], x, u, None if exact is None else exact[:, 0])
    if exact is not None:
        draw_error_curve(axes["error"], x, np.abs(u - exact[:, 0]), _error_title(solution))
    set_title(axes["solution"], "Solution $u$")
    draw_intervals(axes["bumps"], solution.net, field.box)
    for name in ("solution", "error", "bumps"):
        if name in axes:
            label_axes(axes[name], field.names)


__all__ = ["solution_figure"]
