"""Files for ParaView, parsed back: the numbers are those of the field at the points that the head promises."""

import base64
import itertools
from xml.etree import ElementTree as xml

import numpy as np
import pytest
import torch
from solved import evolution, fitted, result

from bumpnet_fast import BumpNet, problems
from bumpnet_fast.io.fields import field_of
from bumpnet_fast.io.vtk import write_vtk
from bumpnet_fast.solvers import solve


def parsed(path):
    """Points [n, 3] of the grid in a file, and its arrays by name."""
    root = xml.parse(path).getroot()
    assert (root.get("type"), root.get("byte_order"), root.get("header_type")) == (
        "ImageData",
        "LittleEndian",
        "UInt64",
    )
    image = root.find("ImageData")
    piece = image.find("Piece")
    assert piece.get("Extent") == image.get("WholeExtent")
    ends = np.array(piece.get("Extent").split(), int).reshape(3, 2)
    origin, spacing = (np.array(image.get(name).split(), float) for name in ("Origin", "Spacing"))
    z, y, x = (o + s * np.arange(b + 1) for o, s, (_, b) in reversed([*zip(origin, spacing, ends, strict=True)]))
    points = np.array([(i, j, k) for k, j, i in itertools.product(z, y, x)])
    arrays = {}
    for element in piece.find("PointData"):
        content = base64.b64decode(element.text)
        kind = {"Float64": "<f8", "Float32": "<f4", "UInt8": "u1"}[element.get("type")]
        values = np.frombuffer(content[8:], kind)
        assert int.from_bytes(content[:8], "little") == len(content) - 8
        arrays[element.get("Name")] = values.reshape(len(points), -1)
    assert piece.find("PointData").get("Scalars") in arrays
    return points, arrays


@pytest.mark.parametrize(("name", "at", "axes"), [
    ("line", {}, [0]),
    ("masked", {}, [0, 1]),
    ("outputs", {}, [0, 1]),
    ("block", {}, [0, 1, 2]),
    ("block", {"y": 0.25}, [0, 2]),
    ("four", {"x2": 0.5}, [0, 2, 3]),
    ("march", {}, [0, 1]),
])  # fmt: skip
def test_a_grid_holds_the_field(name, at, axes, tmp_path):
    field, file = field_of(result(name)), tmp_path / "u.vti"
    assert write_vtk(result(name), file, at, points=5) == [file]
    grid, arrays = parsed(file)
    assert len(grid) == 5 ** len(axes) and (grid[:, len(axes) :] == 0).all()
    np.testing.assert_allclose([grid[:, : len(axes)].min(0), grid[:, : len(axes)].max(0)], field.box[:, axes])
    points = np.tile([at.get(axis, 0.0) for axis in field.names], (len(grid), 1))
    points[:, axes] = grid[:, : len(axes)]
    u, gradient, exact, inside = field.u(points), field.gradient(points), field.exact(points), field.inside(points)
    names = set()
    for k in range(field.outputs):
        end = f"_{k + 1}" if field.outputs > 1 else ""
        np.testing.assert_allclose(arrays[f"u{end}"][:, 0], u[:, k], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(
            arrays[f"gradient{end}"][:, : len(axes)], gradient[:, k][:, axes], rtol=1e-9, atol=1e-9
        )
        assert arrays[f"gradient{end}"].shape[1] == 3 and (arrays[f"gradient{end}"][:, len(axes) :] == 0).all()
        np.testing.assert_allclose(arrays[f"exact{end}"][:, 0], exact[:, k], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(arrays[f"error{end}"][:, 0], np.abs(u - exact)[:, k], rtol=1e-6, atol=1e-12)
        names |= {f"{part}{end}" for part in ("u", "gradient", "exact", "error")}
    if name == "masked":
        np.testing.assert_array_equal(arrays.pop("vtkGhostType")[:, 0], np.where(inside, 0, 2))
    assert set(arrays) == names and arrays["u" if field.outputs == 1 else "u_1"].dtype == np.float64


def test_a_series_over_time(tmp_path):
    files = write_vtk(result("block"), tmp_path / "heat.pvd", points=4, times=3)
    assert [file.name for file in files] == ["heat.pvd", *(f"heat_{i:03d}.vti" for i in range(3))]
    entries = xml.parse(files[0]).getroot().find("Collection")
    assert [(e.get("file"), float(e.get("timestep"))) for e in entries] == [
        (file.name, t) for file, t in zip(files[1:], (0.0, 0.5, 1.0), strict=True)
    ]
    for file, t in zip(files[1:], (0.0, 0.5, 1.0), strict=True):
        grid, arrays = parsed(file)
        points = np.column_stack([grid[:, :2], np.full(len(grid), t)])
        np.testing.assert_allclose(arrays["u"], field_of(result("block")).u(points), atol=1e-12)


@pytest.mark.parametrize("shapes", ["frozen", "evolve"])
def test_an_evolution_over_time(shapes, tmp_path):
    run = evolution(shapes)
    dim = len(run.problem.lower)
    files = write_vtk(run, tmp_path / "run.pvd", points=4, times=3)
    for file, t in zip(files[1:], np.linspace(0, float(run.times[-1]), 3), strict=True):
        grid, arrays = parsed(file)
        jet = run.jet(torch.from_numpy(grid[:, :dim]), float(t), "gradient")
        np.testing.assert_allclose(arrays["u"], jet.value, atol=1e-12)
        np.testing.assert_allclose(arrays["gradient"][:, :dim], jet.gradient[:, 0], atol=1e-9)
        assert {"exact", "error"} < set(arrays)
    write_vtk(run, tmp_path / "run.vti", points=4)
    grid, arrays = parsed(tmp_path / "run.vti")
    np.testing.assert_allclose(arrays["u"], field_of(run).u(grid[:, : dim + 1]), atol=1e-12)
    assert "gradient" not in arrays


def test_float32_stays_float32(tmp_path):
    problem = problems.get("poisson")
    write_vtk(solve(problem, BumpNet(2, 9, problem.domain), iterations=1), tmp_path / "u.vti", points=3)
    assert {values.dtype for values in parsed(tmp_path / "u.vti")[1].values()} == {np.dtype(np.float32)}


def test_numbers_of_points_by_default(tmp_path):
    for name, count in (("line", 1001), ("masked", 201**2)):
        write_vtk(result(name), tmp_path / "u.vti")
        assert len(parsed(tmp_path / "u.vti")[0]) == count


@pytest.mark.parametrize(("name", "file", "options", "message"), [
    ("masked", "u.vtu", {}, r"must be called NAME.vti or NAME.pvd, got 'u.vtu'"),
    ("masked", "u.pvd", {}, "a series over time, .pvd, needs an axis t that is not held"),
    ("block", "u.pvd", {"at": {"t": 0.5}}, "a series over time, .pvd, needs an axis t that is not held"),
    ("block", "u.pvd", {"at": {"x": 0.5, "y": 0.5}}, "1 to 3 axes, got none; hold fewer by slices"),
    ("four", "u.vti", {}, "1 to 3 axes, got x1, x2, x3, x4; hold some by slices"),
    ("block", "u.vti", {"at": {"z": 0.5}}, "there is no axis 'z'"),
    ("block", "u.vti", {"points": 1}, "points must be an integer of at least 2, got 1"),
    ("block", "u.pvd", {"times": 1}, "times must be an integer of at least 2, got 1"),
])  # fmt: skip
def test_mistakes(name, file, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_vtk(result(name), tmp_path / file, **options)
    assert not list(tmp_path.iterdir())


def test_a_field_of_space_and_time_in_four_dimensions_is_offered_a_series(tmp_path):
    four = fitted(lambda x: x.sum(1), 4)
    type(four.problem).time = 3
    with pytest.raises(ValueError, match="hold some by slices, or write a series over time"):
        write_vtk(four, tmp_path / "u.vti")
    assert len(write_vtk(four, tmp_path / "u.pvd", points=3, times=2)) == 3
    assert len(parsed(tmp_path / "u_001.vti")[0]) == 27
