"""Pictures of a field: every output, on every plane that is needed, beside the exact solution and the error."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..io.fields import Slice, field_of, mid_planes
from ..solvers import Evolution
from ..solvers.solution import FieldResult
from .style import (
    CURVE,
    ERROR,
    INK,
    TITLE,
    draw_curves,
    draw_edge,
    draw_error_curve,
    draw_image,
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

#: Name of the axes of the estimated error.
ESTIMATED = "estimated error"


def fields_figure(
    result: FieldResult | Evolution, at: Mapping[str, float] | None = None, *, estimate: bool = True
) -> Figure:
    """Draw all outputs of a solution, with exact solution and error: as curves, maps, or planes through a block.

    Where no exact solution is known, the estimated error is drawn.

    With three free axes, three planes through the middle of the domain are drawn.  A plane on which u vanishes is moved
    to the point where u is largest.  With more axes the last ones are fixed in the middle.

    Parameters
    ----------
    result : FieldResult or Evolution
        A solution, a march or an evolution; for an evolution time is an axis too.
    at : mapping of str to float, optional
        Coordinates to fix, by the names of their axes: x, y, z (x1, x2, ... if there are more than three in space) and
        t.
    estimate : bool
        Whether to draw the estimated error, which is computed unless it was before.

    Returns
    -------
    matplotlib.figure.Figure
        With axes labelled "u 0", "exact 0", "error 0" and so on, numbered by output and then by plane; "u 0",
        "estimated error 0" and so on without an exact solution; and "u 0", "u 1", ... if there is no estimate either.

    Raises
    ------
    ValueError
        If there is no such axis, if its value is outside of the domain, or if all axes are fixed.

    Examples
    --------
    >>> from bumpnet_fast import BumpNet, problems
    >>> from bumpnet_fast.solvers import solve
    >>> problem = problems.get("heat2d")
    >>> solution = solve(problem, BumpNet(3, 8, problem.domain), iterations=1, points=100)
    >>> [axes.get_label() for axes in fields_figure(solution, {"t": 0.1}).axes][:3]
    ['u 0', 'exact 0', 'error 0']
    >>> fields_figure(solution, {"w": 0.1})
    Traceback (most recent call last):
    ValueError: there is no axis 'w' to slice at; there are: x, y, t
    """
    field = field_of(result)
    slices = mid_planes(field, at)
    parts = [(output, part) for output in range(field.outputs) for part in slices]
    kinds = ["u"]
    if field.exact(field.box[:1]) is not None:  # curves include the exact ones
        kinds += ["error"] if len(slices[0].axes) == 1 else ["exact", "error"]
    elif estimate and field.estimated_error(field.box[:1]) is not None:
        kinds += [ESTIMATED]
    mosaic = [[f"{kind} {i}" for kind in kinds] for i in range(len(parts))]
    beside = len(kinds) > 1
    if not beside:  # rows with one output each
        names = [row[0] for row in mosaic]
        mosaic = [names[i : i + len(slices)] for i in range(0, len(names), len(slices))]
    boxes = [part.box for _, part in (parts if beside else parts[:: len(slices)])]
    figure, axes = panels(mosaic, 4.3, [picture_height(box) for box in boxes])
    for output in range(field.outputs):
        numbers = [i for i, (k, _) in enumerate(parts) if k == output]
        _draw(
            output,
            [(part, {kind: axes[f"{kind} {i}"] for kind in kinds}) for i, part in zip(numbers, slices, strict=True)],
        )
    figure.suptitle(_headline(result), fontsize=TITLE + 1.5, color=INK)
    return figure


def _headline(result: FieldResult | Evolution) -> str:
    parts = [result.problem.name.capitalize(), f"{len(result.net.rows)} bumps"]
    parts += [] if result.rel_l2 is None else [f"relative $L_2$ error {mathtext(result.rel_l2)}"]
    return "  ·  ".join(parts)


def _draw(output: int, parts: list[tuple[Slice, dict[str, Axes]]]) -> None:
    """All slices of an output, with a common scale of colours."""
    found = [_values(part, output) for part, _ in parts]
    norm = finite_norm(*(values for _, _, *both in found for values in both if values is not None))
    for (part, axes), (ticks, size, u, exact) in zip(parts, found, strict=True):
        name = "u" if part.field.outputs == 1 else f"u_{{{output + 1}}}"
        where = f", {place(part.held)}" if part.held else ""
        if len(part.axes) == 1:
            _curve(axes, part, ticks[0], u, exact, output, name, where)
        else:
            _plane(axes, part, ticks, size, u, exact, norm, output, name, where)


def _values(part: Slice, output: int):
    """Ticks of a slice, the size of its picture, and u and the exact solution there, or None."""
    if len(part.axes) == 1:
        ticks, size = [np.linspace(*part.box[:, 0], CURVE)], (CURVE,)
    else:
        ticks, size = pixels(part.box)
    points = part.points(ticks)
    exact = part.field.exact(points)
    both = part.field.u(points), exact
    return ticks, size, *(None if values is None else values[:, output].reshape(size) for values in both)


def _curve(axes: dict[str, Axes], part: Slice, x: np.ndarray, u, exact, output: int, name: str, where: str) -> None:
    draw_curves(axes["u"], x, u, exact, name)
    set_title(axes["u"], f"${name}${where}")
    if exact is not None:
        error = np.abs(u - exact)
        draw_error_curve(axes["error"], x, error, _error_title(error))
    if ESTIMATED in axes:
        error = _estimated(part, [x], output)
        draw_error_curve(axes[ESTIMATED], x, error, _error_title(error, ESTIMATED))
    for ax in axes.values():
        label_axes(ax, part.names)


def _plane(axes: dict[str, Axes], part: Slice, ticks, size, u, exact, norm, output: int, name: str, where: str) -> None:
    draw_image(axes["u"], u, part, norm, f"${name}${where}")
    if exact is not None:
        error = np.abs(u - exact)
        draw_image(axes["exact"], exact, part, norm, f"Exact ${name}${where}")
        draw_image(axes["error"], error, part, error_norm(error), _error_title(error), ERROR)
    if ESTIMATED in axes:
        error = _estimated(part, ticks, output).reshape(size)
        draw_image(axes[ESTIMATED], error, part, error_norm(error), _error_title(error, ESTIMATED), ERROR)
    inside = part.field.inside(part.points(ticks))
    if not inside.all():
        for ax in axes.values():
            draw_edge(ax, ticks, inside.reshape(size))


def _estimated(part: Slice, ticks, output: int) -> np.ndarray:
    """The estimated error of an output on a slice."""
    return part.field.estimated_error(part.points(ticks))[:, output]


def _error_title(error: np.ndarray, kind: str = "error") -> str:
    known, kind = error[np.isfinite(error)], kind.capitalize()
    return f"{kind}, max {mathtext(float(known.max()))}" if len(known) else kind


__all__ = ["fields_figure"]
