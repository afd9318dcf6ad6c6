"""The picture of a solution: it shows what the solution is, where the net says the bumps are, legibly."""

import functools
import io
import itertools
from dataclasses import make_dataclass, replace

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.contour import ContourSet
from matplotlib.patches import Rectangle
from scipy.spatial import ConvexHull

from bumpnet_fast import BumpNet, problems
from bumpnet_fast.plotting import solution_figure
from bumpnet_fast.problems.base import Problem
from bumpnet_fast.problems.regression import Regression
from bumpnet_fast.solvers import prune, solve


def field(x):
    return torch.sin(torch.pi * (x - 0.5)).prod(1) + 0.2


def product(*widths, known=True):
    """Poisson's equation on a box of these widths off the origin, with the solution ``field``."""
    corners = [("lower", tuple, tuple(0.5 for _ in widths)), ("upper", tuple, tuple(0.5 + w for w in widths))]
    members = {
        "name": "product",
        "residual": lambda self, x, u: u.laplacian[:, 0] + len(widths) * torch.pi**2 * (field(x) - 0.2),
        "exact": lambda self, x: field(x) if known else None,
        "boundary_values": lambda self, x: field(x),
    }
    return make_dataclass("Product", corners, bases=(Problem,), namespace=members)()


def solution_of(problem, bumps, dtype="float64", **options):
    net = BumpNet(len(problem.lower), bumps, problem.domain, dtype=dtype)
    options = {"iterations": 8, "points": 300} | options
    return solve(problem, net.perturb_(0.1, torch.Generator().manual_seed(0)), **options)


PROBLEMS = {
    "curve": (product(2.0), 5),
    "curve, unknown": (product(2.0, known=False), 5),
    "square": (product(2.0, 2.0), 9),
    "square, unknown": (product(2.0, 2.0, known=False), 9),
    "many bumps": (product(2.0, 2.0), 150),
    "wide": (product(3.0, 1.0), 9),
    "tall": (product(1.0, 2.0), 9),
    "sliver": (product(1.0, 20.0), 9),
    "solid": (product(2.0, 2.0, 1.0), 12),
    "four dimensions": (product(1.0, 1.0, 1.0, 1.0), 6),
    "a part of the box": (problems.get("lshape"), 9),
}


@functools.cache
def solved(name):
    return solution_of(*PROBLEMS[name])


@functools.cache
def drawn(name):
    """The figure and its axes by name, of the problem of that name."""
    figure = solution_figure(solved(name))
    return figure, axes_of(figure)


def axes_of(figure):
    return {axes.get_label(): axes for axes in figure.axes if not axes.get_label().startswith("<")}


def values_at_pixels(axes, depth=()):
    """Picture of an axes, and the coordinates of the centres of its pixels."""
    image = axes.images[0]
    values = np.asarray(image.get_array())
    left, right, bottom, top = image.get_extent()
    height, width = values.shape
    x = left + (right - left) * (np.arange(width) + 0.5) / width
    y = bottom + (top - bottom) * (np.arange(height) + 0.5) / height
    grid = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    points = np.hstack([grid, np.tile(depth, (len(grid), 1))]) if len(depth) else grid
    return values.ravel(), torch.from_numpy(points)


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_axes(name):
    labels = [axes.get_label() for axes in drawn(name)[0].axes]
    wanted = ["solution", "exact", "error", "bumps", "convergence"]
    if "curve" in name:  # which shows the exact solution together with the other
        wanted.remove("exact")
    if "unknown" in name:
        wanted = ["solution", "residual", "estimated error", "bumps", "convergence"]
    assert labels[: len(wanted)] == wanted


def test_the_fields_are_those_of_the_solution():
    solution, axes = solved("wide"), drawn("wide")[1]
    u, x = values_at_pixels(axes["solution"])
    predicted = solution.predict(x)[:, 0].detach().numpy()
    np.testing.assert_allclose(u, predicted, rtol=1e-12)
    exact, _ = values_at_pixels(axes["exact"])
    np.testing.assert_allclose(exact, field(x), rtol=1e-12)
    error, _ = values_at_pixels(axes["error"])
    np.testing.assert_allclose(error, np.abs(predicted - field(x).numpy()), rtol=1e-9)
    shown = [axes[name].images[0].norm for name in ("solution", "exact")]
    assert (shown[0].vmin, shown[0].vmax) == (shown[1].vmin, shown[1].vmax)
    assert shown[0].vmin <= min(u.min(), exact.min())
    assert shown[0].vmax >= max(u.max(), exact.max())


def test_where_the_error_is_not_known_there_are_residual_and_estimate():
    solution, axes = solved("square, unknown"), drawn("square, unknown")[1]
    residual, x = values_at_pixels(axes["residual"])
    np.testing.assert_allclose(residual, solution.residual(x)[:, 0].abs(), rtol=1e-9, atol=1e-12)
    error, _ = values_at_pixels(axes["estimated error"])
    true = (solution.predict(x)[:, 0] - field(x)).abs().numpy()
    assert np.abs(error - true).max() < 0.1 * true.max() and solution.error_estimate.reliable
    assert f"max {error.max():.2g}" in axes["estimated error"].get_title()
    assert f"{solution.error_estimate.rel_l2[0]:.2g}" in drawn("square, unknown")[0].get_suptitle()
    curve = drawn("curve, unknown")[1]["estimated error"].lines[0]
    at = torch.from_numpy(curve.get_xdata())[:, None]
    np.testing.assert_array_equal(curve.get_ydata(), solved("curve, unknown").estimated_error(at)[:, 0].abs())


def test_without_an_estimate_there_is_the_residual():
    solution = replace(solved("curve, unknown"))
    labels = list(axes_of(solution_figure(solution, estimate=False)))
    assert labels == ["solution", "residual", "bumps", "convergence"] and "_error_estimate" not in vars(solution)
    x = torch.linspace(0, 1, 20, dtype=torch.float64)[:, None]
    data = solution_of(Regression.through(x, x[:, 0]), 3, points=None)
    assert list(axes_of(solution_figure(data))) == ["solution", "bumps", "convergence"], "it holds at its points alone"
    wide = replace(solved("square, unknown"), history=[])
    assert list(axes_of(solution_figure(wide))) == ["solution", "residual", "estimated error", "bumps"]


def test_outside_of_the_domain_nothing_is_shown():
    solution, axes = solved("a part of the box"), drawn("a part of the box")[1]
    for name in ("solution", "exact", "error"):
        values, x = values_at_pixels(axes[name])
        np.testing.assert_array_equal(np.isfinite(values), solution.problem.inside(x))
        assert np.isfinite([axes[name].images[0].norm.vmin, axes[name].images[0].norm.vmax]).all()
    values, x = values_at_pixels(axes["solution"])
    inside = solution.problem.inside(x)
    np.testing.assert_allclose(values[inside], solution.predict(x[inside])[:, 0].detach(), rtol=1e-12)


def test_the_edge_of_a_part_of_the_box_is_drawn():
    axes = drawn("a part of the box")[1]
    for name in ("solution", "exact", "error", "bumps"):
        assert not [p for p in axes[name].patches if isinstance(p, Rectangle)]
        (edge,) = (c for c in axes[name].collections if isinstance(c, ContourSet))
        (corners,) = edge.get_paths()
        for corner in itertools.product((-1, 0, 1), (-1, 0, 1)):
            near = np.abs(corners.vertices - corner).max(1).min() < 0.02  # in cells of 0.01
            assert near == (corner != (1, -1)), corner


def test_a_plane_of_a_solid_is_where_the_title_says_and_shows_something():
    solution, axes = solved("solid"), drawn("solid")[1]
    depth = float(axes["solution"].get_title().split("=")[1].strip("$ "))
    u, x = values_at_pixels(axes["solution"], (depth,))
    np.testing.assert_allclose(u, solution.predict(x)[:, 0].detach().numpy(), atol=0.02)  # the title rounds
    assert np.abs(u).max() > 0.8


def test_curves_are_those_of_the_solution():
    solution, axes = solved("curve"), drawn("curve")[1]
    u, exact = axes["solution"].lines
    x = torch.from_numpy(u.get_xdata())[:, None]
    np.testing.assert_allclose(u.get_ydata(), solution.predict(x)[:, 0].detach().numpy())
    np.testing.assert_allclose(exact.get_ydata(), field(x))
    assert (x.min(), x.max()) == (0.5, 2.5)


@pytest.mark.parametrize("name", ["square", "sliver", "many bumps"])
def test_the_boxes_are_where_the_net_says(name):
    solution, axes = solved(name), drawn(name)[1]["bumps"]
    (collection,) = (c for c in axes.collections if isinstance(c, PolyCollection))
    order = solution.net.peaks[:, 0].abs().argsort()
    boxes = solution.net.boxes()[order].numpy()
    for path, corners in zip(collection.get_paths(), boxes, strict=True):
        np.testing.assert_allclose(path.vertices[:4], corners, rtol=1e-12)
    (dots,) = (c for c in axes.collections if isinstance(c, PathCollection))
    np.testing.assert_allclose(dots.get_offsets(), solution.net.centres[order].detach(), rtol=1e-12)
    colours, peaks = collection.get_edgecolor(), solution.net.peaks[order, 0].detach().numpy()
    red_over_blue = colours[:, 0] - colours[:, 2]
    assert (np.sign(red_over_blue) == np.sign(peaks))[np.abs(peaks) > 0.01 * np.abs(peaks).max()].all()
    (domain,) = (p for p in axes.patches if isinstance(p, Rectangle))
    np.testing.assert_allclose(domain.get_xy(), solution.problem.lower)
    np.testing.assert_allclose((domain.get_width(), domain.get_height()), np.ptp(solution.problem.domain.numpy(), 0))


def test_boxes_of_more_dimensions_are_seen_from_above():
    solution, axes = solved("solid"), drawn("solid")[1]["bumps"]
    (collection,) = (c for c in axes.collections if isinstance(c, PolyCollection))
    order = solution.net.peaks[:, 0].abs().argsort()
    for path, corners in zip(collection.get_paths(), solution.net.boxes()[order, :, :2].numpy(), strict=True):
        outline = ConvexHull(path.vertices)
        assert outline.volume == pytest.approx(ConvexHull(corners).volume)
        assert (corners @ outline.equations[:, :2].T + outline.equations[:, 2] <= 1e-9).all()


def test_intervals_are_where_the_net_says():
    solution, axes = solved("curve"), drawn("curve")[1]["bumps"]
    (collection,) = (c for c in axes.collections if isinstance(c, PolyCollection))
    boxes, peaks = solution.net.boxes()[:, :, 0].numpy(), solution.net.peaks[:, 0].detach().numpy()
    for path, ends, peak in zip(collection.get_paths(), boxes, peaks, strict=True):
        x, y = path.vertices[:4].T
        np.testing.assert_allclose((x.min(), x.max()), (ends.min(), ends.max()))
        np.testing.assert_allclose(sorted(set(y)), sorted((0, peak)))


def test_the_convergence():
    solution, axes = solved("square"), drawn("square")[1]["convergence"]
    curves = {curve.get_label(): curve for curve in axes.lines}
    history = solution.history
    np.testing.assert_array_equal(curves["loss"].get_xdata(), [e["seconds"] for e in history])
    np.testing.assert_array_equal(curves["loss"].get_ydata(), [e["loss"] for e in history])
    measured = [e["rel_l2"] for e in history if "rel_l2" in e]
    np.testing.assert_array_equal(curves["relative $L_2$ error"].get_ydata(), measured)
    assert axes.get_yscale() == "log"


@functools.cache
def pruned():
    net = BumpNet(2, (3, 3), product(2.0, 2.0).domain, dtype="float64")
    return prune(product(2.0, 2.0), net, 7, iterations=3, points=300)


@pytest.mark.parametrize("name", ["square", "curve"])
def test_bumps_that_are_not_trained_are_a_background(name):
    solution = solved(name)
    net = BumpNet.from_rows(solution.net.rows, solution.net.frame, solution.net.domain)
    net.trainable = torch.arange(len(net.rows)) < 3
    axes = axes_of(solution_figure(replace(solution, net=net), estimate=False))["bumps"]
    others, coloured = (c for c in axes.collections if isinstance(c, PolyCollection))
    assert (len(others.get_paths()), len(coloured.get_paths())) == (len(net.rows) - 3, 3)
    assert others.get_zorder() < coloured.get_zorder() and others.get_alpha() == 0.5
    assert axes.get_title().startswith("3 bumps by peak")
    assert axes.get_title().endswith(f", {len(net.rows) - 3} not trained")


def test_the_number_of_bumps_over_time():
    solution = pruned()
    figure = solution_figure(solution)
    axes = axes_of(figure)
    left, right = axes["convergence"], axes["number of bumps"]
    steps, prunings = right.lines
    assert steps.get_drawstyle() == "steps-post"
    numbers = list(steps.get_ydata())
    assert [n for n, _ in itertools.groupby(numbers)] == [9, 8, 7] and list(prunings.get_ydata()) == [8, 7]
    seconds = np.asarray(steps.get_xdata())
    assert (np.diff(seconds) >= 0).all() and seconds[-1] == solution.seconds
    changed = [e["seconds"] for e, after in itertools.pairwise(solution.history) if e["bumps"] != after["bumps"]]
    np.testing.assert_array_equal(prunings.get_xdata(), changed)
    assert right.get_ylim()[0] == 0
    texts = [text.get_text() for text in left.get_legend().get_texts()]
    assert texts == ["loss", "relative $L_2$ error", "bumps", "prune"]
    figure.draw_without_rendering()
    boxes = [axes[name].get_tightbbox() for name in ("bumps", "convergence", "number of bumps")]
    assert max(box.x1 for box in boxes) <= figure.bbox.x1 and min(box.y0 for box in boxes) >= figure.bbox.y0
    assert boxes[0].x1 <= boxes[1].x0 < boxes[2].x1


def test_a_number_that_stays_needs_no_axes():
    solution = replace(pruned(), history=[e | {"bumps": 7} for e in pruned().history], events=[])
    assert "number of bumps" not in axes_of(solution_figure(solution))


@pytest.mark.parametrize(("name", "equal"), [("square", True), ("wide", True), ("sliver", False)])
def test_the_aspect_is_true_where_that_is_sensible(name, equal):
    axes = drawn(name)[1]
    assert [axes[name].get_aspect() for name in ("solution", "bumps")] == [1.0 if equal else "auto"] * 2


@pytest.mark.parametrize("name", PROBLEMS)
def test_nothing_overlaps(name):
    figure, axes = drawn(name)
    figure.draw_without_rendering()
    boxes = [ax.get_tightbbox() for ax in axes.values()]
    (headline,) = figure.texts
    boxes.append(headline.get_window_extent())
    for one, other in itertools.combinations(boxes, 2):
        overlap = min(one.x1, other.x1) - max(one.x0, other.x0), min(one.y1, other.y1) - max(one.y0, other.y0)
        assert min(overlap) <= 0
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)
    assert all(figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1 for box in boxes)


def test_the_titles_give_the_numbers():
    solution = replace(solved("square"), rel_l2=1.234e-5, max_error=0.5, seconds=3.14159, stop="converged")
    figure = solution_figure(solution)
    headline = figure.get_suptitle()
    for part in ("Product", "9 bumps", "63 parameters", r"1.2\times10^{-5}", "3.1 s"):
        assert part in headline
    axes = axes_of(figure)
    assert "max 0.5" in axes["error"].get_title()
    assert axes["convergence"].get_title() == f"Convergence: {solution.iterations} iterations (converged)"


def test_a_solution_of_zeros_can_be_drawn_and_float32_too(tmp_path):
    solution = solution_of(PROBLEMS["square"][0], 9, dtype="float32", boundary="soft")
    with torch.no_grad():
        solution.net.amplitudes.zero_()
    figure = solution_figure(replace(solution, rel_l2=1.0, max_error=0.0))
    figure.savefig(tmp_path / "zeros.png")
    assert not axes_of(figure)["solution"].images[0].get_array().any()


def test_matplotlib_is_left_as_it_was():
    before = dict(matplotlib.rcParams)
    solution_figure(solved("square")).savefig(io.BytesIO())
    assert dict(matplotlib.rcParams) == before
