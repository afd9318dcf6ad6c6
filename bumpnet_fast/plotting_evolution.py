"""Pictures of an evolution: space and time, snapshots, the course of the error, and an animation.

As in :mod:`bumpnet_fast.plotting`, figures are built without ``pyplot``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image

from .figures import (
    BLUE,
    FAINT,
    FIELD,
    INK,
    RED,
    SMALL,
    TEXT,
    TITLE,
    add_colour_bar,
    add_legend,
    frame_axes,
    mathtext,
    set_title,
)
from .problems.sampling import lattice
from .solvers.evolution.result import Evolution

SNAPSHOTS = 4  # pictures or curves of a figure
ACROSS = 81  # points along the longer side of a picture
CURVE = 401  # points of a curve
ROWS = 120  # times of a picture of space and time
FRAMES, PER_SECOND = 40, 12  # of an animation


def evolution_figure(run: Evolution) -> Figure:
    """Draw an evolution: over space and time in one dimension, as snapshots in more, and how the error went.

    In more than two dimensions a plane of the first two coordinates is drawn, through the point where the start is
    largest.

    Parameters
    ----------
    run : Evolution
        What :func:`bumpnet_fast.solvers.evolve` returns.  The first output is drawn.

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
    view = _View(run)
    if view.dim == 1:
        figure, axes = _panels([["evolution", "profiles", "error"]], 3.6)
        _space_time(axes["evolution"], view)
        _profiles(axes["profiles"], view)
    else:
        names = [f"time {i}" for i in range(SNAPSHOTS)]
        figure, axes = _panels([[*names[:2], "error"], [*names[2:], "error"]], 3.6)
        norm = view.norm(view.times(SNAPSHOTS))
        for name, t in zip(names, view.times(SNAPSHOTS), strict=True):
            _snapshot(axes[name], view, t, norm)
    _error(axes["error"], run)
    figure.suptitle(_headline(run), fontsize=TITLE + 1.5, color=INK)
    return figure


def write_animation(run: Evolution, file: BinaryIO, frames: int = FRAMES) -> None:
    """Write an animated GIF of u to an open binary file.

    Examples
    --------
    >>> import io
    >>> from bumpnet_fast.problems.evolution import Heat
    >>> from bumpnet_fast.solvers import evolve
    >>> file = io.BytesIO()
    >>> write_animation(evolve(Heat(), 12), file, frames=3)
    >>> Image.open(io.BytesIO(file.getvalue())).n_frames
    3
    """
    view = _View(run)
    times = view.times(frames)
    norm = view.norm(times)
    figure = Figure((5.0, 3.6 if view.dim == 1 else 4.4), dpi=80, layout="constrained", facecolor="white")
    canvas, ax = FigureCanvasAgg(figure), figure.add_subplot()
    update = _moving(ax, view, norm)
    images = []
    for t in times:
        update(t)
        set_title(ax, f"$t = {t:.3g}$")
        canvas.draw()
        figure.set_layout_engine("none")  # once laid out is enough
        picture = Image.fromarray(np.asarray(canvas.buffer_rgba()).copy()).convert("RGB")
        images.append(picture.quantize(128))
    images[0].save(file, format="GIF", save_all=True, append_images=images[1:], duration=1000 // PER_SECOND, loop=0)


def _moving(ax: Axes, view: _View, norm: Normalize) -> Callable[[float], None]:
    """Draws u on ``ax``; what it returns changes it to another time."""
    start = float(view.run.times[0])
    if view.dim == 1:
        (curve,) = ax.plot(view.x[:, 0], view.u(start), color=BLUE, linewidth=1.6)
        pad = 0.05 * (norm.vmax - norm.vmin)
        ax.set(xlim=view.box[:, 0], ylim=(norm.vmin - pad, norm.vmax + pad), xlabel="$x$", ylabel="$u$")
        return lambda t: curve.set_ydata(view.u(t))
    image = ax.imshow(view.u(start).reshape(view.size), **_image_options(view, norm))
    frame_axes(ax, view.box)
    return lambda t: image.set_data(view.u(t).reshape(view.size))


class _View:
    """What is drawn: the first output at the points of a curve or a plane, for any time."""

    def __init__(self, run: Evolution):
        self.run, self.box = run, run.problem.domain.numpy()
        self.dim = self.box.shape[1]
        lo, hi = self.box
        if self.dim == 1:
            self.x = np.linspace(lo, hi, CURVE)
        else:
            widths = (hi - lo)[:2]
            nx, ny = np.maximum(2, np.rint(ACROSS * widths / widths.max())).astype(int)
            grid = np.meshgrid(
                lo[0] + widths[0] * (np.arange(nx) + 0.5) / nx, lo[1] + widths[1] * (np.arange(ny) + 0.5) / ny
            )
            coarse = lattice(run.problem.domain, 4096)
            through = coarse[int(run.predict(coarse, 0.0)[:, 0].abs().nan_to_num().argmax())].numpy()
            self.size = (ny, nx)
            self.x = np.tile(through, (ny * nx, 1))
            self.x[:, :2] = np.stack(grid, -1).reshape(-1, 2)
        self._values = run.on(torch.from_numpy(self.x).to(run.states.device))

    @torch.no_grad()
    def u(self, t: float) -> np.ndarray:
        return self._values(t)[:, 0].cpu().numpy()

    def times(self, n: int) -> list[float]:
        """``n`` times from the first to the last."""
        return np.linspace(float(self.run.times[0]), float(self.run.times[-1]), n).tolist()

    def norm(self, times: list[float]) -> Normalize:
        values = [self.u(t) for t in times]
        low, high = min(v.min() for v in values), max(v.max() for v in values)
        return Normalize(low, high if high > low else low + 1)


def _panels(mosaic: list[list[str]], height: float) -> tuple[Figure, dict[str, Axes]]:
    figure = Figure(
        (4.4 * len(mosaic[0]), height * len(mosaic) + 0.4), dpi=150, layout="constrained", facecolor="white"
    )
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1, wspace=0.03, hspace=0.03)
    axes = figure.subplot_mosaic(mosaic)
    for name, ax in axes.items():
        ax.set_label(name)
        ax.tick_params(labelsize=SMALL, colors=INK, width=0.6, length=3)
        ax.spines[:].set(linewidth=0.6, color=FAINT)
    return figure, axes


def _headline(run: Evolution) -> str:
    parts = [run.problem.name.capitalize(), f"{len(run.net.rows)} bumps", run.method]
    parts += [] if run.rel_l2 is None else [f"relative $L_2$ error {mathtext(run.rel_l2)}"]
    return "  ·  ".join([*parts, f"{run.setup_seconds + run.seconds:.2g} s"])


def _image_options(view: _View, norm: Normalize) -> dict:
    extent = (*view.box[:, 0], *view.box[:, 1])
    return {"origin": "lower", "extent": extent, "cmap": FIELD, "norm": norm, "interpolation": "bilinear"}


def _space_time(ax: Axes, view: _View) -> None:
    times = view.times(ROWS)
    values = np.stack([view.u(t) for t in times])
    extent = (*view.box[:, 0], times[0], max(times[-1], times[0] + 1e-12))
    image = ax.imshow(values, origin="lower", extent=extent, aspect="auto", cmap=FIELD, interpolation="bilinear")
    ax.set_xlabel("$x$", fontsize=TEXT, color=INK, labelpad=2)
    ax.set_ylabel("$t$", fontsize=TEXT, color=INK, labelpad=2)
    set_title(ax, "$u(x, t)$")
    add_colour_bar(ax, image)


def _profiles(ax: Axes, view: _View) -> None:
    x = torch.from_numpy(view.x)
    times = view.times(SNAPSHOTS)
    for i, t in enumerate(times):
        shade = 0.25 + 0.75 * i / (len(times) - 1)
        ax.plot(view.x[:, 0], view.u(t), color=BLUE, alpha=shade, linewidth=1.5, label=f"$t = {t:.3g}$")
        exact = view.run.problem.exact(x, t)
        if exact is not None:
            values = exact.reshape(len(x), -1)[:, 0]
            label = "exact" if i == len(times) - 1 else None
            ax.plot(view.x[:, 0], values, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), label=label)
    ax.set_xlabel("$x$", fontsize=TEXT, color=INK, labelpad=2)
    add_legend(ax)
    set_title(ax, "$u$ over $x$")


def _snapshot(ax: Axes, view: _View, t: float, norm: Normalize) -> None:
    image = ax.imshow(view.u(t).reshape(view.size), **_image_options(view, norm))
    frame_axes(ax, view.box)
    set_title(ax, f"$t = {t:.3g}$")
    add_colour_bar(ax, image)


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
