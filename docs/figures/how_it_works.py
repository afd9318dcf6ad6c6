"""Draws docs/how_it_works.png, from two solves of the Helmholtz equation: python docs/figures/how_it_works.py"""

import io
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, Polygon, Rectangle
from PIL import Image

from bumpnet_fast import BumpNet, problems
from bumpnet_fast.plotting.style import BLUE, ERROR, FAINT, FIELD, INK, RED, SIGNED, as_array
from bumpnet_fast.solvers import Solution, solve

FILE = Path(__file__).parents[1] / "how_it_works.png"
WIDTH, HEIGHT = 11.0, 3.75  # all lengths are inches
SIDE, BOTTOM, LEFTS = 1.9, 1.3, (0.25, 3.15, 5.85, 8.75)  # of the four pictures
STEPS = (
    ("1  A bump is one row", r"$\psi$ = sigmoid$(2pS)$, and $S$ sums" + "\ntwo tanh for each pair of sides"),
    ("2  One fused pass", r"$u=\sum h\,\psi$ and its derivatives," + "\nno tensor of points × bumps"),
    ("3  Residual", r"$r = \Delta u + k^2 u - f$" + "\nat the collocation points"),
    ("4  Least squares", "amplitudes $h$ exactly,\nthe rest by Levenberg-Marquardt"),
)
GREEN, PURPLE = "#2e8b6f", "#7a5aa6"
COLUMNS = (
    ("$c_1$", BLUE),
    ("$c_2$", BLUE),
    ("$l_1$", RED),
    ("$l_2$", RED),
    ("$a$", PURPLE),
    ("$p$", GREEN),
    ("$h$", INK),
)


def solved(iterations: int) -> Solution:
    """The Helmholtz equation with 40 bumps, after at most so many iterations."""
    problem = problems.get("helmholtz")
    return solve(problem, BumpNet(2, (4, 10), problem.domain, dtype="float64"), iterations=iterations)


def grid(width: int, height: int) -> torch.Tensor:
    """Points [height x width, 2] over [-1, 1]^2."""
    x, y = ((2 * torch.arange(n, dtype=torch.float64) + 1) / n - 1 for n in (width, height))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).reshape(-1, 2)


# --- the page ------------------------------------------------------------------------------------


def place(figure: Figure, left: float, bottom: float, width: float = SIDE, height: float = SIDE) -> Axes:
    """Axes at a place of the page, without ticks."""
    ax = figure.add_axes((left / WIDTH, bottom / HEIGHT, width / WIDTH, height / HEIGHT))
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set(linewidth=0.6, color=FAINT)
    return ax


def image(ax: Axes, values: torch.Tensor, size: tuple[int, int], cmap: str) -> None:
    """Values over [-1, 1]^2; colours that diverge do so from zero."""
    array = as_array(values).reshape(size)
    top = abs(array).max()
    limits = {"vmin": -top, "vmax": top} if cmap == SIGNED else {}
    ax.imshow(array, origin="lower", extent=(-1, 1, -1, 1), cmap=cmap, aspect="auto", **limits)


def arrow(figure: Figure, *corners: tuple[float, float]) -> None:
    """A line through the corners, with a head at its end."""
    points = [(x / WIDTH, y / HEIGHT) for x, y in corners]
    style = {"color": INK, "linewidth": 1.2, "transform": figure.transFigure}
    if len(points) > 2:
        figure.add_artist(Line2D(*zip(*points[:-1], strict=True), **style))
    head = {"arrowstyle": "-|>,head_length=5,head_width=2.6", "shrinkA": 0, "shrinkB": 0, "joinstyle": "miter"}
    figure.add_artist(FancyArrowPatch(*points[-2:], **head, **style))


def write(figure: Figure, x: float, y: float, text: str, **style) -> None:
    """Text in the middle of a place."""
    figure.text(x / WIDTH, y / HEIGHT, text, color=INK, ha="center", linespacing=1.35, **style)


# --- the four steps ------------------------------------------------------------------------------


def draw_bump(figure: Figure, left: float) -> None:
    """A bump, its box, and the row of numbers that it is."""
    net = BumpNet(2, 1, dtype="float64", scale=1.0, sharpness=4.2)
    with torch.no_grad():
        net.rows[0, net.layout.size] = torch.tensor([1.15, 0.62], dtype=torch.float64).log()
        net.rows[0, net.layout.skew] = 0.45
    ax = place(figure, left, BOTTOM)
    image(ax, net.basis(grid(200, 200)).value, (200, 200), "Blues")
    ax.add_patch(Polygon(as_array(net.boxes())[0], fill=False, edgecolor=RED, linewidth=1.4))
    ax.plot(*as_array(net.centres)[0], "o", color="white", markersize=4)
    ax.set(xlim=(-1, 1), ylim=(-1, 1))
    row = place(figure, left, BOTTOM - 0.36, height=0.27)
    for k, (name, colour) in enumerate(COLUMNS):
        row.add_patch(Rectangle((k, 0), 1, 1, facecolor=colour, alpha=0.15, linewidth=0))
        row.text(k + 0.5, 0.45, name, color=colour, fontsize=10, ha="center", va="center")
        row.axvline(k, color=FAINT, linewidth=0.6)
    row.set(xlim=(0, len(COLUMNS)), ylim=(0, 1))


def draw_jet(figure: Figure, left: float, solution: Solution) -> None:
    """The value, the gradient and the Laplacian."""
    jet, size = solution.jet(grid(100, 100), "laplacian"), (100, 100)
    fields = (
        (jet.value, FIELD, "$u$"),
        (jet.gradient.norm(dim=-1), ERROR, r"$|\nabla u|$"),
        (jet.laplacian, SIGNED, r"$\Delta u$"),
    )
    for k, (values, cmap, name) in enumerate(fields):
        ax = place(figure, left, BOTTOM + (2 - k) * 0.65, height=0.6)
        image(ax, values, size, cmap)
        ax.set_ylabel(name, fontsize=10, color=INK, rotation=0, ha="right", va="center", labelpad=5)


def draw_residual(figure: Figure, left: float, solution: Solution) -> None:
    """The residual at points of the domain."""
    ax, x, problem = place(figure, left, BOTTOM), grid(24, 34), solution.problem
    residual = as_array(problem.residual(x, solution.jet(x, problem.want)))
    top = abs(residual).max() / 2  # the corners stand out
    ax.scatter(*as_array(x).T, c=residual, s=7, cmap=SIGNED, vmin=-top, vmax=top, linewidths=0)
    ax.set(xlim=(-1, 1), ylim=(-1, 1))


def draw_convergence(figure: Figure, left: float, solution: Solution) -> None:
    """The error over the iterations."""
    ax = place(figure, left, BOTTOM)
    known = [(entry["iteration"], entry["rel_l2"]) for entry in solution.history if entry.get("rel_l2") is not None]
    ax.semilogy(*zip(*known, strict=True), color=RED, marker="o", markersize=3, linewidth=1.4)
    ax.minorticks_off()
    ax.set(xticks=[0, 50, 100], yticks=[1e-1, 1e-3, 1e-5], xlim=(-4, 104))
    ax.tick_params(labelsize=7.5, colors=INK, width=0.6, length=3, pad=2)
    ax.grid(axis="y", color=FAINT, alpha=0.3, linewidth=0.6)
    ax.text(
        0.95,
        0.9,
        "relative $L_2$ error\nby iteration",
        transform=ax.transAxes,
        fontsize=8.5,
        color=INK,
        ha="right",
        va="top",
    )


def main() -> None:
    """Draw the figure and write it."""
    figure = Figure((WIDTH, HEIGHT), dpi=140, facecolor="white")
    early = solved(4)
    draw_bump(figure, LEFTS[0])
    draw_jet(figure, LEFTS[1], early)
    draw_residual(figure, LEFTS[2], early)
    draw_convergence(figure, LEFTS[3], solved(100))
    for left, (title, text) in zip(LEFTS, STEPS, strict=True):
        write(figure, left + SIDE / 2, BOTTOM + SIDE + 0.2, title, fontsize=11.5, weight="bold")
        write(figure, left + SIDE / 2, 0.62, text, fontsize=9, va="center")
    middle = BOTTOM + SIDE / 2
    for left, right, gap in ((*LEFTS[0:2], 0.5), (*LEFTS[1:3], 0.1), (*LEFTS[2:4], 0.5)):
        arrow(figure, (left + SIDE + 0.1, middle), (right - gap, middle))
    last, first = LEFTS[3] + SIDE / 2, LEFTS[0] + SIDE / 2
    arrow(figure, (last, 0.38), (last, 0.18), (first, 0.18), (first, 0.4))
    text = "new shapes; bumps that add little can be pruned: their rows are left out"
    write(figure, WIDTH / 2, 0.18, text, fontsize=9, va="center", backgroundcolor="white")
    drawn = io.BytesIO()
    figure.savefig(drawn)
    small = Image.open(drawn).convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE)  # a third of the size
    small.save(FILE, optimize=True)


if __name__ == "__main__":
    main()
