"""Pictures of an evolution: space and time, snapshots, the course of the error, and an animation.

As in :mod:`bumpnet_fast.plotting`, figures are built without ``pyplot``.  The animation is of anything that has
an axis of time, evolution or not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from ..io.fields import Slice, default_plane, field_of
from ..solvers import Evolution
from ..solvers.solution import FieldResult
from .style import (
    BLUE,
    FAINT,
    FIELD,
    INK,
    RED,
    TEXT,
    TITLE,
    add_colour_bar,
    add_legend,
    draw_curves,
    draw_image,
    dress,
    finite_norm,
    label_axes,
    mathtext,
    panels,
    pixels,
    place,
    set_title,
    write_gif,
)

SNAPSHOTS = 4  # pictures or curves of a figure
ACROSS = 81  # points along the longer side of a picture
CURVE = 401  # points of a curve
ROWS = 120  # times of a picture of space and time
FRAMES = 40  # of an animation


def evolution_figure(run: Evolution, output: int = 0) -> Figure:
    """Draw an evolution: over space and time in one dimension, as snapshots in more, and how the error went.

    In more than two dimensions a plane of the first two coordinates is drawn, through the point where the start is
    largest.

    Parameters
    ----------
    run : Evolution
        What :func:`bumpnet_fast.solvers.evolve` returns.
    output : int
        Which component of u is drawn.

    Returns
    -------
    matplotlib.figure.Figure
        With axes labelled "evolution" and "profiles" (one dimension) or "time 0", "time 1", ... (more), and "error".

    Examples
    --------
    >>> from bumpnet_fast.problems.evolution import Heat
    >>> from bumpnet_fast.solvers import evolve
    >>> [axes.get_label() for axes in evolution_figure(evolve(Heat(), 12)).axes][:3]
    ['evolution', 'profiles', 'error']
    """
    view = _View(run, output)
    if view.flat:
        figure, axes = panels([["evolution", "profiles", "error"]], 4.4, [3.6])
        _space_time(axes["evolution"], view)
        _profiles(axes["profiles"], view)
    else:
        names = [f"time {i}" for i in range(SNAPSHOTS)]
        figure, axes = panels([[*names[:2], "error"], [*names[2:], "error"]], 4.4, [3.6, 3.6])
        norm = view.norm(view.times(SNAPSHOTS))
        for name, t in zip(names, view.times(SNAPSHOTS), strict=True):
            draw_image(axes[name], view.u(t), view.plane, norm, view.title(t))
    _error(axes["error"], run)
    figure.suptitle(_headline(run), fontsize=TITLE + 1.5, color=INK)
    return figure


def write_animation(run: FieldResult | Evolution, file: BinaryIO, frames: int = FRAMES, output: int = 0) -> None:
    """Write an animated GIF of u over time to an open binary file.

    Parameters
    ----------
    run : FieldResult or Evolution
        A solution, a march or an evolution; its problem must have an axis of time.
    file : binary file
        Where to.
    frames : int
        How many, from the first to the last time.
    output : int
        Which component of u is drawn; in more than two dimensions on a plane as for :func:`evolution_figure`.

    Raises
    ------
    ValueError
        If there is no axis of time or none of space, or no such output.

    Examples
    --------
    >>> import io
    >>> from PIL import Image
    >>> from bumpnet_fast.problems.evolution import Heat
    >>> from bumpnet_fast.solvers import evolve
    >>> file = io.BytesIO()
    >>> write_animation(evolve(Heat(), 12), file, frames=3)
    >>> Image.open(io.BytesIO(file.getvalue())).n_frames
    3
    """
    view = _View(run, output)
    times = view.times(frames)
    figure = Figure((5.2, 3.6 if view.flat else 4.4), dpi=80, layout="constrained", facecolor="white")
    ax = figure.add_subplot()
    dress(ax)
    draw = _moving(ax, view, view.norm(times))

    def update(t: float) -> None:
        draw(t)
        set_title(ax, view.title(t))

    write_gif(figure, times, update, file)


def _moving(ax: Axes, view: _View, norm: Normalize) -> Callable[[float], None]:
    """Draws u on ``ax``; what it returns changes it to another time."""
    start = view.times(1)[0]
    if not view.flat:
        image = draw_image(ax, view.u(start), view.plane, norm, view.title(start))
        return lambda t: image.set_data(view.u(t))
    curve = draw_curves(ax, view.x, view.u(start), view.exact(start))
    pad = 0.05 * ((norm.vmax - norm.vmin) or 1.0)
    ax.set(xlim=view.x[[0, -1]], ylim=(norm.vmin - pad, norm.vmax + pad), ylabel="$u$")
    label_axes(ax, view.plane.names)

    def move(t: float) -> None:
        for line, values in zip((curve, *ax.lines[1:]), (view.u(t), view.exact(t)), strict=False):
            line.set_ydata(values)

    return move


class _View:
    """What is drawn of u for any time: a curve or a plane of its space."""

    def __init__(self, run: FieldResult | Evolution, output: int = 0):
        self.field = field_of(run)
        self.output = self.field.component(output)
        if self.field.time is None or len(self.field.names) < 2:
            raise ValueError(f"problem {self.field.problem.name!r} does not evolve over a space: there is no animation")
        self.start, self.end = self.field.box[:, self.field.time]
        space = [axis for axis in range(len(self.field.names)) if axis != self.field.time]
        self.flat = len(space) == 1
        if self.flat:
            self.plane, self.x = (
                Slice(self.field, tuple(space), self.field.box[0]),
                np.linspace(*self.field.box[:, space[0]], CURVE),
            )
            ticks, self.size = [self.x], (CURVE,)
        else:
            self.plane = default_plane(self.field, space, {self.field.time: self.start})
            ticks, self.size = pixels(self.plane.box, ACROSS)
        self.points = np.delete(self.plane.points(ticks), self.field.time, axis=1)
        self._values = self.field.over(self.points)

    def u(self, t: float) -> np.ndarray:
        return self._values(t)[:, self.output].reshape(self.size)

    def exact(self, t: float) -> np.ndarray | None:
        values = self.field.exact(np.insert(self.points, self.field.time, t, axis=1))
        return None if values is None else values[:, self.output].reshape(self.size)

    def title(self, t: float) -> str:
        """Where and when."""
        return place(self.plane.held | {"t": t})

    def times(self, n: int) -> list[float]:
        """``n`` times from the first to the last."""
        return np.linspace(self.start, self.end, n).tolist()

    def norm(self, times: list[float]) -> Normalize:
        return finite_norm(*(self.u(t) for t in times))


def _headline(run: Evolution) -> str:
    parts = [run.problem.name.capitalize(), f"{len(run.net.rows)} bumps", run.method]
    parts += [] if run.rel_l2 is None else [f"relative $L_2$ error {mathtext(run.rel_l2)}"]
    return "  ·  ".join([*parts, f"{run.setup_seconds + run.seconds:.2g} s"])


def _space_time(ax: Axes, view: _View) -> None:
    times = view.times(ROWS)
    values = np.stack([view.u(t) for t in times])
    extent = (*view.x[[0, -1]], times[0], max(times[-1], times[0] + 1e-12))
    norm = finite_norm(values)
    image = ax.imshow(
        values, origin="lower", extent=extent, aspect="auto", cmap=FIELD, norm=norm, interpolation="bilinear"
    )
    label_axes(ax, (*view.plane.names, "t"))
    set_title(ax, "$u(x, t)$")
    add_colour_bar(ax, image)


def _profiles(ax: Axes, view: _View) -> None:
    times = view.times(SNAPSHOTS)
    for i, t in enumerate(times):
        shade = 0.25 + 0.75 * i / (len(times) - 1)
        ax.plot(view.x, view.u(t), color=BLUE, alpha=shade, linewidth=1.5, label=view.title(t))
        exact = view.exact(t)
        if exact is not None:
            label = "exact" if i == len(times) - 1 else None
            ax.plot(view.x, exact, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), label=label)
    label_axes(ax, view.plane.names)
    add_legend(ax)
    set_title(ax, "$u$ over $x$")


def _error(ax: Axes, run: Evolution) -> None:
    curves = (("residual", "residual: part of $u_t$ missed", BLUE), ("rel_l2", "relative $L_2$ error", RED))
    for key, label, colour in curves:
        known = [(e["time"], e[key]) for e in run.history if e.get(key)]
        if known:
            ax.plot(*zip(*known, strict=True), color=colour, linewidth=1.4, label=label)
    ax.set_yscale("log")
    ax.grid(axis="y", color=FAINT, alpha=0.3, linewidth=0.6)
    ax.set_xlabel("$t$", fontsize=TEXT, color=INK, labelpad=2)
    add_legend(ax)
    ending = "" if run.stop_reason == "finished" else f" ({run.stop_reason})"
    set_title(ax, f"{run.steps} steps{ending}")


__all__ = ["evolution_figure", "write_animation"]
