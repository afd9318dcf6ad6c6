"""The picture of a field: every output on every slice, where its titles say, beside what is exact."""

import functools
import io
import itertools

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.contour import ContourSet
from solved import evolution, result
from test_plotting_solution import product, solution_of

from bumpnet_fast.io.fields import field_of, mid_planes
from bumpnet_fast.plotting import fields_figure


@functools.cache
def unknown():
    return solution_of(product(1.0, 1.0, 1.0, known=False), 6)


CASES = {
    "line": (lambda: result("line"), None, ["u 0", "error 0"]),
    "outputs": (lambda: result("outputs"), None, [f"{kind} {i}" for i in range(3) for kind in ("u", "exact", "error")]),
    "masked": (lambda: result("masked"), None, ["u 0", "exact 0", "error 0"]),
    "block": (lambda: result("block"), None, [f"{kind} {i}" for i in range(3) for kind in ("u", "exact", "error")]),
    "cut to a line": (lambda: result("block"), {"t": 0.1, "y": 0.5}, ["u 0", "error 0"]),
    "unknown": (unknown, None, [f"{kind} {i}" for i in range(3) for kind in ("u", "estimated error")]),
    "an unknown line": (unknown, {"x": 0.9, "y": 0.9}, ["u 0", "estimated error 0"]),
    "evolution": (evolution, {"t": 0.1}, ["u 0", "exact 0", "error 0"]),
}


def drawn(name):
    make, at, _ = CASES[name]
    figure = fields_figure(make(), at)
    return figure, {ax.get_label(): ax for ax in figure.axes if not ax.get_label().startswith("<")}


@pytest.mark.parametrize("name", CASES)
def test_every_picture_is_there_and_nothing_overlaps(name):
    figure, axes = drawn(name)
    assert list(axes) == CASES[name][2]
    figure.draw_without_rendering()
    boxes = [*(ax.get_tightbbox() for ax in axes.values()), figure.texts[0].get_window_extent()]
    for one, other in itertools.combinations(boxes, 2):
        assert min(min(one.x1, other.x1) - max(one.x0, other.x0), min(one.y1, other.y1) - max(one.y0, other.y0)) <= 0
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0 for box in boxes)


@pytest.mark.parametrize("name", ["outputs", "masked", "block", "unknown", "evolution"])
def test_pictures_are_u_where_they_say(name):
    make, at, _ = CASES[name]
    axes, field = drawn(name)[1], field_of(make())
    slices = mid_planes(field, at)
    for i, (output, plane) in enumerate(itertools.product(range(field.outputs), slices)):
        image = axes[f"u {i}"].images[0]
        left, right, bottom, top = image.get_extent()
        assert [[left, bottom], [right, top]] == plane.box.tolist()
        height, width = image.get_array().shape
        ticks = [a + (b - a) * (np.arange(n) + 0.5) / n for a, b, n in ((left, right, width), (bottom, top, height))]
        u = field.u(plane.points(ticks))[:, output].reshape(height, width)
        np.testing.assert_allclose(np.asarray(image.get_array().filled(np.nan)), u, rtol=1e-12)
        assert (
            axes[f"u {i}"].get_xlabel() == f"${plane.names[0]}$"
            and axes[f"u {i}"].get_ylabel() == f"${plane.names[1]}$"
        )
        for key, value in plane.held.items():
            assert f"${key} = {value:.3g}$" in axes[f"u {i}"].get_title()
        if name == "unknown":
            error, at = axes[f"estimated error {i}"].images[0].get_array(), torch.from_numpy(plane.points(ticks))
            estimated = make().estimated_error(at)[:, output].abs().reshape(height, width)
            np.testing.assert_allclose(error, estimated, rtol=1e-9)
        else:
            exact, error = (axes[f"{kind} {i}"].images[0].get_array().filled(np.nan) for kind in ("exact", "error"))
            np.testing.assert_allclose(error, np.abs(u - exact), rtol=1e-9)
            assert (np.isfinite(exact) == np.isfinite(u)).all()


def test_without_an_estimate_there_is_u_alone():
    labels = [ax.get_label() for ax in fields_figure(unknown(), estimate=False).axes]
    assert [label for label in labels if not label.startswith("<")] == ["u 0", "u 1", "u 2"]


def test_slices_of_an_output_share_their_colours():
    axes = drawn("block")[1]
    norms = {
        (axes[f"{k} {i}"].images[0].norm.vmin, axes[f"{k} {i}"].images[0].norm.vmax)
        for k in ("u", "exact")
        for i in range(3)
    }
    assert len(norms) == 1


def test_the_edge_of_a_part_of_the_box_is_drawn():
    axes = drawn("masked")[1]
    assert all(any(isinstance(c, ContourSet) for c in axes[name].collections) for name in CASES["masked"][2])
    assert not any(isinstance(c, ContourSet) for ax in drawn("outputs")[1].values() for c in ax.collections)


def test_curves_are_u_on_a_line():
    axes, solution = drawn("cut to a line")[1], result("block")
    u, exact = axes["u 0"].lines
    x = torch.from_numpy(
        np.column_stack([u.get_xdata(), np.full(len(u.get_xdata()), 0.5), np.full(len(u.get_xdata()), 0.1)])
    )
    np.testing.assert_allclose(u.get_ydata(), solution.predict(x)[:, 0].detach())
    np.testing.assert_allclose(exact.get_ydata(), solution.problem.exact(x))
    np.testing.assert_allclose(axes["error 0"].lines[0].get_ydata(), np.abs(u.get_ydata() - exact.get_ydata()))


def test_a_solution_that_is_no_number_can_be_drawn():
    solution = solution_of(product(1.0, 1.0, 1.0), 6)
    with torch.no_grad():
        solution.net.rows.fill_(torch.nan)
    figure = fields_figure(solution)
    figure.savefig(io.BytesIO())
    assert not np.isfinite(figure.axes[0].images[0].get_array().filled(np.nan)).any()


def test_matplotlib_is_left_as_it_was():
    before = dict(matplotlib.rcParams)
    drawn("line")[0].savefig(io.BytesIO())
    assert dict(matplotlib.rcParams) == before
