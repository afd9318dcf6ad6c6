"""An animation of a training: u and the bumps as they move, are added and removed, beside the loss.

As in all of :mod:`bumpnet_fast.plotting`, figures are built without ``pyplot``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
import torch
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from ..io.fields import Slice, default_plane, field_of
from ..io.recording import Frame
from ..nets.bumpnet import BumpNet
from ..solvers.marching import March, Part
from ..solvers.solution import FieldResult
from .style import (
    CURVE,
    FAINT,
    INK,
    TITLE,
    as_array,
    box_outlines,
    draw_boxes,
    draw_convergence,
    draw_curves,
    draw_edge,
    draw_image,
    draw_intervals,
    dress,
    finite_norm,
    label_axes,
    mathtext,
    pixels,
    place,
    write_gif,
)

ACROSS = 81  # pixels along the longer side of a picture
GONE = {"facecolors": "none", "edgecolors": FAINT, "linestyles": "dashed", "linewidths": 1.0}  # of bumps


def write_training(solution: FieldResult, frames: Sequence[Frame], file: BinaryIO, output: int = 0) -> None:
    """Write an animated GIF of a training to an open binary file.

    On the left: u (in more than two dimensions, on the plane of the first two coordinates where the solution is
    largest), and the boxes of the bumps as in :func:`~bumpnet_fast.plotting.solution_figure`.  Bumps removed since the
    frame before are dashed.  On the right: the loss of the whole run, changes of the number of bumps, and the position
    in the run.  The last frame is the solution.

    Parameters
    ----------
    solution : FieldResult
        The solution or march of the run.  For a march, the windows before the current one are drawn as in the result.
    frames : sequence of Frame
        Frames of a :class:`~bumpnet_fast.io.recording.Recording` of the run.
    file : binary file
        Open file to write to.
    output : int
        Component of u to draw.

    Examples
    --------
    >>> import io
    >>> from PIL import Image
    >>> from bumpnet_fast import problems
    >>> from bumpnet_fast.io.recording import Recording
    >>> from bumpnet_fast.solvers import solve
    >>> problem, recording, file = problems.get("poisson"), Recording(), io.BytesIO()
    >>> solution = solve(problem, BumpNet(2, 9, problem.domain), iterations=2, callback=recording)
    >>> write_training(solution, recording.frames, file)
    >>> Image.open(io.BytesIO(file.getvalue())).n_frames
    4
    """
    movie = (_Curve if len(solution.problem.lower) == 1 else _Plane)(solution, output)
    draw_convergence(movie.axes["convergence"], solution)
    cursor = movie.axes["convergence"].axvline(0.0, color=INK, linewidth=1.0, zorder=4)

    def update(moment: tuple[Frame | None, Frame | None]) -> None:
        before, now = moment
        net = solution.net if now is None else now.net
        movie.draw(movie.u(now, net), net, _gone(before, net))
        cursor.set_xdata([solution.seconds if now is None else now.seconds] * 2)
        movie.title.set_text(_headline(solution, before, now, net))

    write_gif(movie.figure, [*zip([None, *frames], [*frames, None], strict=True)], update, file)


def _headline(solution: FieldResult, before: Frame | None, now: Frame | None, net: BumpNet) -> str:
    iteration, loss = (solution.iterations, solution.loss) if now is None else (now.iteration, now.loss)
    parts = [solution.problem.name.capitalize(), "the solution" if now is None else f"iteration {iteration}"]
    change = 0 if before is None or now is None else len(now.rows) - len(before.rows)
    bumps = f"{len(net.rows)} bumps" + (f" ({change:+d})".replace("-", "−") if change else "")
    return "  ·  ".join([*parts, bumps, f"loss {mathtext(loss)}"])


def _gone(before: Frame | None, net: BumpNet) -> BumpNet | None:
    """The bumps of a frame without a counterpart in a net with fewer; counterparts minimise the total distance."""
    if before is None or len(before.rows) <= len(net.rows) or not bool((before.domain == net.domain).all()):
        return None
    distances = cdist(as_array(before.net.centres), as_array(net.centres))
    stay, _ = linear_sum_assignment(distances)
    rows = np.setdiff1d(np.arange(len(before.rows)), stay)
    old = before.net
    return BumpNet.from_rows(old.rows[rows], old.frame, old.domain, old.tied, maps=old.maps)


class _Movie:
    """The figure, and u at the points that it shows."""

    def __init__(self, solution: FieldResult, output: int, mosaic: list[list[str]], plane: Slice, points: np.ndarray):
        self.solution, self.output, self.plane, self.points = solution, plane.field.component(output), plane, points
        size = 4.2 * len(mosaic[0]) + 1.2, 4.6
        self.figure = Figure(size, dpi=80, layout="constrained", facecolor="white")
        self.axes = self.figure.subplot_mosaic(mosaic)
        for name, ax in self.axes.items():
            ax.set_label(name)
            dress(ax)
        self.title = self.figure.suptitle(" ", fontsize=TITLE, color=INK)
        field = plane.field
        exact = field.exact(points)
        self.exact = None if exact is None else exact[:, output]
        self.inside, self.final = field.inside(points), field.u(points)[:, output]
        self.norm = finite_norm(self.final, *([] if exact is None else [self.exact]))

    @torch.no_grad()
    def u(self, now: Frame | None, net: BumpNet) -> np.ndarray:
        """u [N] with the bumps of a frame, or of the solution; for a march, NaN after the current window."""
        if now is None:
            return self.final
        u, where, problem = np.full(len(self.points), np.nan), self.inside, self.solution.problem
        if isinstance(self.solution, March):
            t, (start, end) = self.points[:, problem.time], now.domain[:, problem.time].tolist()
            problem = min((part.problem for part in self.solution.parts), key=lambda p: abs(p.lower[p.time] - start))
            u, where = np.where(t <= start, self.final, np.nan), self.inside & (t > start) & (t <= end)
        x = torch.from_numpy(self.points[where]).to(net.rows)
        u[where] = as_array(Part(problem, net, self.solution.boundary).jet(x, "value").value[:, self.output])
        return u


class _Curve(_Movie):
    """One dimension: a curve, and the bumps below it."""

    def __init__(self, solution: FieldResult, output: int):
        field = field_of(solution)
        x = np.linspace(*field.box[:, 0], CURVE)
        mosaic = [["solution", "convergence"], ["bumps", "convergence"]]
        super().__init__(solution, output, mosaic, Slice(field, (0,), field.box[0]), x[:, None])
        ax, norm = self.axes["solution"], self.norm
        self.curve = draw_curves(ax, x, self.final, self.exact)
        pad = 0.1 * ((norm.vmax - norm.vmin) or 1.0)
        ax.set(xlim=x[[0, -1]], ylim=(norm.vmin - pad, norm.vmax + pad))

    def draw(self, u: np.ndarray, net: BumpNet, gone: BumpNet | None) -> None:
        self.curve.set_ydata(u)
        ax, box = self.axes["bumps"], self.plane.box
        ax.clear()
        draw_intervals(ax, net, box)
        if gone is not None:
            ends, peaks = as_array(gone.boxes())[:, :, 0], as_array(gone.peaks[:, 0])
            corners = [[(a, 0), (a, h), (b, h), (b, 0)] for (a, b), h in zip(ends, peaks, strict=True)]
            ax.add_collection(PolyCollection(corners, **GONE), autolim=False)
        label_axes(ax, self.plane.names)
        dress(ax)


class _Plane(_Movie):
    """Two and more dimensions: a picture, and the bumps beside it."""

    def __init__(self, solution: FieldResult, output: int):
        plane = default_plane(field := field_of(solution), range(len(field.names)))
        ticks, self.size = pixels(plane.box, ACROSS)
        super().__init__(solution, output, [["solution", "bumps", "convergence"]], plane, plane.points(ticks))
        where = f", {place(plane.held)}" if plane.held else ""
        image = self.final.reshape(self.size)
        self.image = draw_image(self.axes["solution"], image, plane, self.norm, f"Solution $u${where}")
        self.whole = len(field.names) > 2 or self.inside.all()
        self.edge = ticks, self.inside.reshape(self.size)

    def draw(self, u: np.ndarray, net: BumpNet, gone: BumpNet | None) -> None:
        self.image.set_data(u.reshape(self.size))
        ax = self.axes["bumps"]
        ax.clear()
        draw_boxes(ax, net, self.plane.field.box, self.whole, self.plane.names)
        if gone is not None:
            ax.add_collection(PolyCollection(box_outlines(gone), **GONE))
        if not self.whole:
            draw_edge(ax, *self.edge)
        dress(ax)


__all__ = ["write_training"]
