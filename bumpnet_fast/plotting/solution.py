"""Pictures of a solution: fields, error, bumps and convergence.

Figures are built with matplotlib's objects, without ``pyplot``.  Nothing global is read or changed, no window opens,
and a figure is freed when the caller drops it.
"""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..io.fields import Field, default_plane, field_of
from ..nets.patches import PatchNet
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
    draw_leaves,
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

#: Names of axes that show what is wrong.
WRONG = ("error", "residual", "estimated error")


def solution_figure(solution: FieldResult, *, estimate: bool = True) -> Figure:
    """Draw a solution: field, exact solution, error, bumps and convergence.

    Where no exact solution is known, the residual and the estimated error are drawn instead of it and of the error.

    One dimension gives curves, two give pictures.  More give the plane of the first two coordinates through the point
    where the solution is largest; the bumps are then seen from above.

    Parameters
    ----------
    solution : FieldResult
        Result of :func:`bumpnet_fast.solve` or :func:`bumpnet_fast.march`.  Its first output is drawn.
    estimate : bool
        Whether to draw the estimated error, which is computed unless it was before.

    Returns
    -------
    matplotlib.figure.Figure
        With axes labelled "solution", "exact", "error" (or "residual", "estimated error", as far as they are known),
        "bumps" and "convergence" (where there is a history), besides the colour bars.
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
    figure, axes = _panels(field.box, _beside(field, estimate), bool(solution.history))
    figure.suptitle(_headline(solution, estimate), fontsize=TITLE + 1.5, color=INK)
    (_curves if len(field.names) == 1 else _fields)(solution, field, axes)
    if solution.history:
        draw_convergence(axes["convergence"], solution)
    return figure


# --- the page ------------------------------------------------------------------------------------


def _beside(field: Field, estimate: bool) -> list[str]:
    """What is drawn beside the solution."""
    at = field.box[:1]
    if field.exact(at) is not None:
        return ["error"] if len(field.names) == 1 else ["exact", "error"]  # curves include the exact ones
    known = {"residual": field.residual(at), "estimated error": field.estimated_error(at) if estimate else None}
    return [name for name, values in known.items() if values is not None]


def _panels(box: np.ndarray, beside: list[str], followed: bool) -> tuple[Figure, dict[str, Axes]]:
    """The figure and its axes by name: the solution, what is beside it, the bumps, and perhaps a history."""
    last = ["bumps", *(["convergence"] if followed else [])]
    if not beside:
        mosaic = [["solution", *last]]
    elif len(beside) == 1:
        mosaic = [["solution", *beside], last] if followed else [["solution", *beside, *last]]
    elif followed:
        mosaic = [["solution", *beside], [*last, "convergence"]]
    else:
        mosaic = [["solution", beside[0]], [beside[1], *last]]
    height = picture_height(box)
    return panels(mosaic, 4.3, [max(height, 3.0) if "convergence" in row else height for row in mosaic])


def _headline(solution: FieldResult, estimate: bool) -> str:
    bumps, parameters = len(solution.net.rows), solution.net.rows.numel()
    parts = [solution.problem.name.capitalize(), f"{bumps} bumps, {parameters} parameters"]
    if solution.rel_l2 is not None:
        parts.append(f"relative $L_2$ error {mathtext(solution.rel_l2)}")
    elif estimate and math.isfinite(largest := max(solution.error_estimate.rel_l2)):
        doubt = "" if solution.error_estimate.reliable else " (not reliable)"
        parts.append(f"estimated relative $L_2$ error {mathtext(largest)}{doubt}")
    parts += [f"{solution.seconds:.1f} s"] if solution.history else []
    return "  ·  ".join(parts)


def _values(solution: FieldResult, field: Field, points: np.ndarray, kind: str) -> tuple[np.ndarray, str]:
    """What is wrong with the first output at points [N, d], of one kind, and its title."""
    if kind == "error":
        error = np.abs(field.u(points)[:, 0] - field.exact(points)[:, 0])
        return error, rf"Error $|u - u_\mathrm{{exact}}|$, max {mathtext(solution.max_error)}"
    values = (field.residual if kind == "residual" else field.estimated_error)(points)[:, 0]
    return values, f"{kind.capitalize()}, max {mathtext(float(np.nanmax(values, initial=0.0)))}"


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
        draw_image(axes["exact"], exact[:, 0].reshape(size), plane, norm, f"Exact solution{where}")
    for kind in filter(axes.__contains__, WRONG):
        values, title = _values(solution, field, points, kind)
        draw_image(axes[kind], values.reshape(size), plane, error_norm(values), title, ERROR)
    whole = box.shape[1] != 2 or bool(inside.all())
    if isinstance(solution.net, PatchNet):
        draw_leaves(axes["bumps"], solution.net, box, names=plane.names)
    else:
        draw_boxes(axes["bumps"], solution.net, box, outline=whole, names=plane.names)
    if not whole:
        for name in axes.keys() - {"convergence"}:
            draw_edge(axes[name], ticks, inside.reshape(size))


# --- one dimension -------------------------------------------------------------------------------


def _curves(solution: FieldResult, field: Field, axes: dict[str, Axes]) -> None:
    x = np.linspace(*field.box[:, 0], CURVE)
    u, exact = field.u(x[:, None])[:, 0], field.exact(x[:, None])
    draw_curves(axes["solution"], x, u, None if exact is None else exact[:, 0])
    for kind in filter(axes.__contains__, WRONG):
        draw_error_curve(axes[kind], x, *_values(solution, field, x[:, None], kind))
    set_title(axes["solution"], "Solution $u$")
    draw_intervals(axes["bumps"], solution.net, field.box)
    for name in axes.keys() - {"convergence"}:
        label_axes(axes[name], field.names)


__all__ = ["solution_figure"]
