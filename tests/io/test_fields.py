"""Fields and their slices: the values of what they are made of, named axes, and nothing outside of the domain."""

import numpy as np
import pytest
import torch
from solved import RESULTS, evolution, fitted, result

from bumpnet_fast.io.fields import Slice, axis_names, default_plane, field_of, mid_planes


def scattered(field, count=50):
    points = np.random.default_rng(0).random((count, len(field.names)))
    return field.box[0] + (field.box[1] - field.box[0]) * points


@pytest.mark.parametrize("name", RESULTS)
def test_a_field_is_the_solution_inside_and_nothing_outside(name):
    solution, field = result(name), field_of(result(name))
    points = scattered(field)
    x = torch.from_numpy(points)
    inside = solution.problem.inside(x).numpy()
    assert inside.all() == (name != "masked")
    jet, exact = solution.jet(x, "gradient"), solution.problem.exact(x).reshape(len(x), -1).numpy()
    for mine, wanted in (
        (field.u(points), jet.value), (field.gradient(points), jet.gradient), (field.exact(points), exact)
    ):  # fmt: skip
        wanted = wanted if isinstance(wanted, np.ndarray) else wanted.detach().numpy()
        np.testing.assert_allclose(mine[inside], wanted[inside], rtol=1e-12)
        assert np.isnan(mine[~inside]).all()
    assert field.outputs == jet.value.shape[1]


@pytest.mark.parametrize("shapes", ["frozen", "evolve"])
def test_the_field_of_an_evolution_has_time_as_its_last_axis(shapes):
    run = evolution(shapes)
    field = field_of(run)
    assert field.names[-1] == "t" and field.time == len(field.names) - 1
    points = scattered(field)
    points[::5, -1] = points[0, -1]
    u, gradient, exact = field.u(points), field.gradient(points), field.exact(points)
    h = 1e-5
    for i, point in enumerate(points):
        x, t = torch.from_numpy(point[None, :-1]), float(point[-1])
        np.testing.assert_allclose(u[i], run.predict(x, t)[0], rtol=1e-12)
        np.testing.assert_allclose(exact[i], run.problem.exact(x, t)[0], rtol=1e-12)
        step = torch.zeros_like(x)
        step[0, 0] = h
        slope = (run.predict(x + step, t) - run.predict(x - step, t))[0] / (2 * h)
        np.testing.assert_allclose(gradient[i, :, 0], slope, atol=1e-6)
    over, t = field.over(points[:, :-1]), float(points[3, -1])
    np.testing.assert_allclose(over(t), field.u(np.column_stack([points[:, :-1], np.full(len(points), t)])), atol=1e-12)


def test_u_over_time_at_the_same_places():
    field = field_of(result("block"))
    places = scattered(field)[:, :2]
    np.testing.assert_array_equal(field.over(places)(0.3), field.u(np.column_stack([places, np.full(50, 0.3)])))


def test_the_names_of_axes():
    assert axis_names(1, None) == ("x",) and axis_names(2, 1) == ("x", "t") and axis_names(1, 0) == ("t",)
    assert axis_names(4, 3) == ("x", "y", "z", "t") and axis_names(5, 4) == ("x1", "x2", "x3", "x4", "t")


def test_the_points_of_a_slice():
    field = field_of(result("block"))
    plane = Slice(field, (0, 2), np.array([9.0, 0.25, 9.0]))
    points = plane.points([np.array([0.1, 0.2, 0.3]), np.array([0.5, 0.6])])
    assert points.tolist() == [[x, 0.25, t] for t in (0.5, 0.6) for x in (0.1, 0.2, 0.3)]  # the first axis runs fastest
    assert plane.names == ["x", "t"] and plane.held == {"y": 0.25} and plane.box.shape == (2, 2)


@pytest.mark.parametrize(("name", "at", "slices"), [
    ("line", {}, [("x", {})]),
    ("outputs", {}, [("xy", {})]),
    ("outputs", {"y": 0.5}, [("x", {"y": 0.5})]),
    ("block", {}, [("xy", {"t": 0.5}), ("xt", {"y": 0.5}), ("yt", {"x": 0.5})]),
    ("block", {"t": 0}, [("xy", {"t": 0.0})]),
    ("block", {"t": 0.1, "x": 0.2}, [("y", {"x": 0.2, "t": 0.1})]),
    ("four", {"x2": 1, "x4": 0.3}, [("x1x3", {"x2": 1.0, "x4": 0.3})]),
    ("four", {}, [("x1x2", {"x3": 0.5, "x4": 0.5}), ("x1x3", {"x2": 0.5, "x4": 0.5}),
                  ("x2x3", {"x1": 0.5, "x4": 0.5})]),
])  # fmt: skip
def test_where_a_field_is_cut(name, at, slices):
    cuts = mid_planes(field_of(result(name)), at)
    assert [("".join(cut.names), cut.held) for cut in cuts] == slices


def test_a_plane_on_which_u_vanishes_is_left():
    field = field_of(fitted(lambda x: torch.sin(2 * torch.pi * x[:, 0]), 3))
    field.u = lambda points: np.sin(2 * np.pi * points[:, :1])
    xy, xz, yz = mid_planes(field)
    assert (xy.held, xz.held) == ({"z": 0.5}, {"y": 0.5})
    assert abs(np.sin(2 * np.pi * yz.held["x"])) > 0.99
    assert abs(np.sin(2 * np.pi * default_plane(field, (1, 2, 0)).held["x"])) > 0.99


@pytest.mark.parametrize(("at", "message"), [
    ({"w": 0.1}, "there is no axis 'w' to slice at; there are: x, y, t"),
    ({"t": 1.5}, "the slice at t must be from 0 to 1, got 1.5"),
    ({"t": float("nan")}, "the slice at t must be from 0 to 1, got nan"),
    ({"x": 0, "y": 0, "t": 0}, "slices must leave at least one of the axes x, y, t, got all of them"),
])  # fmt: skip
def test_cuts_that_cannot_be(at, message):
    with pytest.raises(ValueError, match=message):
        mid_planes(field_of(result("block")), at)
