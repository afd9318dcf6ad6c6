"""Pictures of a learned operator: sample functions, errors, the bumps and the convergence."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.tri import Triangulation

from ..solvers.operators import OperatorSolution
from .style import (
    BLUE,
    DECADES,
    ERROR,
    FIELD,
    INK,
    RED,
    TEXT,
    TITLE,
    add_colour_bar,
    add_legend,
    as_array,
    draw_boxes,
    draw_convergence,
    error_norm,
    frame_axes,
    mathtext,
    panels,
    set_title,
)

#: Which test functions are drawn, by the rank of their error.
RANKS = {"typical": 0.5, "hard": 0.9, "worst": 1.0}


def operator_figure(solution: OperatorSolution) -> Figure:
    """Draw a learned operator: sample functions, the histogram of errors, the bumps and the convergence.

    Output functions of one coordinate are drawn as curves, for a typical, a hard and the worst test
    function; those of two coordinates as pictures of the typical one.  Of a net whose functions are not known only the
    bumps are drawn.

    Parameters
    ----------
    solution : OperatorSolution
        What :func:`bumpnet_fast.solvers.operators.learn` returns.

    Returns
    -------
    matplotlib.figure.Figure
        With axes labelled "typical", "hard" and "worst", or "prediction", "truth" and "error", and
        "errors", "bumps" and "convergence", besides the colour bars.

    Raises
    ------
    ValueError
        If the output functions have more than two coordinates.

    Examples
    --------
    >>> from bumpnet_fast.problems.operators import get_operator
    >>> from bumpnet_fast.solvers import learn
    >>> solution = learn(get_operator("antiderivative"), 6, functions=50, test_functions=10, trunk_iterations=1)
    >>> [axes.get_label() for axes in operator_figure(solution).axes]
    ['typical', 'hard', 'worst', 'errors', 'bumps', 'convergence']
    """
    dim = solution.net.layout.dim
    if dim > 2:
        raise ValueError(f"only functions of one or two coordinates can be drawn, got {dim}")
    samples = list(RANKS) if dim == 1 else ["prediction", "truth", "error"]
    known = solution.data is not None or solution.test is not None
    mosaic = [samples, ["errors", "bumps", "convergence"]] if known else [["bumps"]]
    figure, axes = panels(mosaic, 13 / 3, [3.4] * len(mosaic))
    figure.suptitle(_headline(solution), fontsize=TITLE + 1.5, color=INK)
    (_draw_basis if dim == 1 else _draw_boxes)(solution, axes["bumps"])
    if known:
        (_curves if dim == 1 else _fields)(solution, axes)
        _histogram(axes["errors"], solution)
        draw_convergence(axes["convergence"], solution)
    return figure


def _headline(solution: OperatorSolution) -> str:
    name = "Operator" if solution.operator is None else solution.operator.name.capitalize()
    parts = [name, f"{len(solution.net.rows)} bumps"]
    if solution.history:
        parts[1] += f", {solution.parameters} parameters"
        parts += [f"mean relative $L_2$ error {mathtext(solution.rel_l2)}", f"{solution.seconds:.1f} s"]
    return "  ·  ".join(parts)


@torch.no_grad()
def _sample(solution: OperatorSolution, rank: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Prediction and truth [N] of the function with the error of this rank, and the error."""
    data = solution.data if solution.test is None else solution.test
    index = int(solution.errors.argsort()[round(rank * (len(solution.errors) - 1))])
    inputs, outputs, points = data.to(solution.net.rows)
    prediction = solution.predict(inputs[index : index + 1], points)[0]
    return as_array(prediction), as_array(outputs[index]), float(solution.errors[index])


def _points(solution: OperatorSolution) -> np.ndarray:
    return as_array(solution.data.points if solution.test is None else solution.test.points)


# --- one coordinate ------------------------------------------------------------------------------


def _curves(solution: OperatorSolution, axes: dict[str, Axes]) -> None:
    y = _points(solution)[:, 0]
    order = np.argsort(y)
    for name, rank in RANKS.items():
        prediction, truth, error = _sample(solution, rank)
        axes[name].plot(y[order], prediction[order], color=BLUE, linewidth=1.6, label="$G(f)$")
        dashes = {"color": INK, "linewidth": 1.0, "linestyle": (0, (4, 3))}
        axes[name].plot(y[order], truth[order], label="truth", **dashes)
        set_title(axes[name], f"A {name} function, error {mathtext(error)}".replace("A worst", "The worst"))
        axes[name].set_xlabel("$y$", fontsize=TEXT, color=INK, labelpad=2)
    add_legend(axes["typical"])


def _draw_basis(solution: OperatorSolution, ax: Axes) -> None:
    lo, hi = as_array(solution.net.domain)[:, 0]
    grid = torch.linspace(lo, hi, 500, dtype=torch.float64)[:, None].to(solution.net.rows)
    with torch.no_grad():
        psi = as_array(solution.net.basis(grid).value)
    ax.plot(as_array(grid)[:, 0], psi / np.abs(psi).max(0), color=BLUE, linewidth=0.9, alpha=0.7)
    set_title(ax, f"{psi.shape[1]} bumps, each over its maximum")
    ax.set_xlabel("$y$", fontsize=TEXT, color=INK, labelpad=2)


# --- two coordinates -----------------------------------------------------------------------------


def _fields(solution: OperatorSolution, axes: dict[str, Axes]) -> None:
    box, points = as_array(solution.net.domain), _points(solution)
    prediction, truth, error = _sample(solution, RANKS["typical"])
    difference = np.abs(prediction - truth)
    shared = Normalize(min(prediction.min(), truth.min()), max(prediction.max(), truth.max()))
    titles = {"prediction": "$G(f)$ of a typical function", "truth": "Truth", "error": f"Error, {mathtext(error)}"}
    triangles = Triangulation(*points.T)
    for name, values in (("prediction", prediction), ("truth", truth), ("error", difference)):
        norm = error_norm(difference) if name == "error" else shared
        floor = norm.vmax / 10**DECADES if name == "error" else -np.inf
        colours = ERROR if name == "error" else FIELD
        image = axes[name].tripcolor(triangles, np.maximum(values, floor), cmap=colours, norm=norm, shading="gouraud")
        frame_axes(axes[name], box)
        set_title(axes[name], titles[name])
        add_colour_bar(axes[name], image)


def _draw_boxes(solution: OperatorSolution, ax: Axes) -> None:
    draw_boxes(ax, solution.net.trunk, as_array(solution.net.domain))
    set_title(ax, f"{len(solution.net.rows)} bumps")


# --- errors --------------------------------------------------------------------------------------


def _histogram(ax: Axes, solution: OperatorSolution) -> None:
    errors = as_array(solution.errors)
    known = errors[np.isfinite(errors) & (errors > 0)]
    if len(known):
        lo, hi = known.min() / 1.1, known.max() * 1.1
        ax.hist(known, bins=np.geomspace(lo, hi, 25), color=BLUE, alpha=0.8)
    ax.set_xscale("log")
    for value, colour, label in ((solution.rel_l2, INK, "mean"), (solution.projection_rel_l2, RED, "best amplitudes")):
        if np.isfinite(value) and value > 0:
            ax.axvline(value, color=colour, linewidth=1.2, linestyle=(0, (4, 3)), label=f"{label} {mathtext(value)}")
    ax.set_xlabel("relative $L_2$ error", fontsize=TEXT, color=INK, labelpad=2)
    add_legend(ax)
    which = "training" if solution.test is None else "test"
    set_title(ax, f"{len(errors)} {which} functions")


__all__ = ["operator_figure"]
