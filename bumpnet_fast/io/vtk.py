"""Fields for ParaView: regular grids in VTK's XML format, ImageData (.vti), and series of them over time (.pvd).

The format is a head of XML around base64 of the numbers (VTK File Formats, kitware.com).  The libraries for it that
need no more than NumPy would spare about fifteen lines: pyevtk writes raw bytes, which make a file that is no XML; both
pyevtk and uvw open the file themselves, so that it may be left half written.  meshio writes no ImageData.
"""

from __future__ import annotations

import base64
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree as xml

import numpy as np
import torch

from ..core.files import atomic
from ..solvers import Evolution
from ..solvers.solution import FieldResult
from .fields import EvolutionField, Field, Slice, field_of

#: Points along every axis of a line, a plane and a block.
POINTS = {1: 1001, 2: 201, 3: 65}
#: Times of a series.
TIMES = 41
#: What VTK calls a point that belongs to the grid and not to the domain.
_HIDDEN = 2


def write_vtk(
    result: FieldResult | Evolution,
    path: str | os.PathLike,
    at: Mapping[str, float] | None = None,
    *,
    points: int | None = None,
    times: int = TIMES,
) -> list[Path]:
    """Write u, its gradient and, where the exact solution is known, that and the error, for ParaView.

    Parameters
    ----------
    result : FieldResult or Evolution
        A solution, a march or an evolution: what a solver returned, or :func:`bumpnet_fast.io.load` read.
    path : str or path
        ``NAME.vti`` for one grid over all axes, time among them; or ``NAME.pvd`` for a series over time, whose grids
        become ``NAME_000.vti`` and so on beside it.
    at : mapping of str to float, optional
        Coordinates to hold, by the names of their axes.
    points : int, optional
        Along every axis, ends included; by default 1001 for a line, 201 for a plane and 65 for a block.
    times : int
        Of a series, at least 2, the first and the last time among them.

    Returns
    -------
    list of Path
        The files written, ``path`` first.

    Raises
    ------
    ValueError
        Before anything is written, if the name ends in something else, if one to three axes are not what is left, if a
        series is asked for without an axis of time, or if a number is out of range.
    OSError
        If a file cannot be written; each one is whole or not there.

    Notes
    -----
    Arrays are ``u``, ``gradient``, ``exact`` and ``error``, its absolute value, with ``_1``, ``_2``, ... if u has
    several outputs, in the precision of the net.  The gradient is by the axes of the grid; an evolution has none
    where time is one of them.  Points outside of the domain are hidden (``vtkGhostType``).

    Examples
    --------
    >>> import tempfile
    >>> from bumpnet_fast.problems.evolution import Heat
    >>> from bumpnet_fast.solvers import evolve
    >>> run, folder = evolve(Heat(), 12), Path(tempfile.mkdtemp())
    >>> [path.name for path in write_vtk(run, folder / "heat.pvd", times=2)]
    ['heat.pvd', 'heat_000.vti', 'heat_001.vti']
    >>> [path.name for path in write_vtk(run, folder / "heat.vti", {"t": 0.25})]
    ['heat.vti']
    """
    path, field = Path(path), field_of(result)
    held = field.held(at)
    free = tuple(axis for axis in range(len(field.names)) if axis not in held)
    if path.suffix not in (".vti", ".pvd"):
        raise ValueError(f"the file for ParaView must be called NAME.vti or NAME.pvd, got {path.name!r}")
    series = path.suffix == ".pvd"
    if series:
        if field.time not in free:
            raise ValueError("a series over time, .pvd, needs an axis t that is not held; use .vti")
        free = tuple(axis for axis in free if axis != field.time)
    if not 1 <= len(free) <= 3:
        names = ", ".join(field.names[axis] for axis in free) or "none"
        advice = "hold some by slices" + (", or write a series over time, .pvd" if field.time in free else "")
        raise ValueError(f"a grid has 1 to 3 axes, got {names}; {advice if free else 'hold fewer by slices'}")
    points = POINTS[len(free)] if points is None else points
    for name, value in (("points", points), ("times", times)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 2:
            raise ValueError(f"{name} must be an integer of at least 2, got {value!r}")
    through = field.box[0].copy()
    through[list(held)] = list(held.values())
    if not series:
        _write(path, _grid(Slice(field, free, through), points))
        return [path]
    return _write_series(path, field, free, through, points, times)


def _write_series(
    path: Path, field: Field, free: tuple[int, ...], through: np.ndarray, points: int, times: int
) -> list[Path]:
    files, root = [], _root("Collection")
    collection = xml.SubElement(root, "Collection")
    for i, t in enumerate(np.linspace(*field.box[:, field.time], times)):
        through = np.where(np.arange(len(through)) == field.time, t, through)
        files.append(path.with_name(f"{path.stem}_{i:03d}.vti"))
        _write(files[-1], _grid(Slice(field, free, through), points))
        xml.SubElement(collection, "DataSet", timestep=repr(float(t)), file=files[-1].name)
    _write(path, root)  # last: what it names is there
    return [path, *files]


def _grid(part: Slice, n: int) -> xml.Element:
    """The file of a line, plane or block with n points along every axis."""
    axes = len(part.axes)
    missing = 3 - axes
    extent = " ".join([f"0 {n - 1}"] * axes + ["0 0"] * missing)
    spacing = [*((part.box[1] - part.box[0]) / (n - 1)), *[1.0] * missing]
    origin = [*part.box[0], *[0.0] * missing]
    root = _root("ImageData")
    root.append(xml.Comment(f" the axes are {', '.join(part.names)} {_where(part)}"))
    where = {"Origin": _numbers(origin), "Spacing": _numbers(spacing)}
    piece = xml.SubElement(xml.SubElement(root, "ImageData", WholeExtent=extent, **where), "Piece", Extent=extent)
    arrays = _arrays(part, part.points([np.linspace(*ends, n) for ends in part.box.T]))
    active = {"Scalars": next(iter(arrays))} | ({"Vectors": v} if (v := _first(arrays, "gradient")) else {})
    data = xml.SubElement(piece, "PointData", **active)
    for name, values in arrays.items():
        components = {} if values.ndim == 1 else {"NumberOfComponents": str(values.shape[1])}
        kind = {"f": "Float", "u": "UInt"}[values.dtype.kind] + str(8 * values.dtype.itemsize)
        element = xml.SubElement(data, "DataArray", type=kind, Name=name, format="binary", **components)
        content = values.astype(values.dtype.newbyteorder("<")).tobytes()
        element.text = base64.b64encode(struct.pack("<Q", len(content)) + content).decode()
    return root


def _where(part: Slice) -> str:
    held = ", ".join(f"{name} = {value:g}" for name, value in part.held.items())
    return f"at {held} " if held else ""


def _arrays(part: Slice, points: np.ndarray) -> dict[str, np.ndarray]:
    """What is written of a field at these points, by name."""
    field, arrays = part.field, {}
    u, exact = field.u(points), field.exact(points)
    gradient = None if isinstance(field, EvolutionField) and field.time in part.axes else field.gradient(points)
    dtype = np.float32 if field.of.net.rows.dtype == torch.float32 else np.float64
    for k in range(field.outputs):
        ending = f"_{k + 1}" if field.outputs > 1 else ""
        arrays[f"u{ending}"] = u[:, k]
        if gradient is not None:
            arrays[f"gradient{ending}"] = np.zeros((len(points), 3))
            arrays[f"gradient{ending}"][:, : len(part.axes)] = gradient[:, k][:, list(part.axes)]
        if exact is not None:
            arrays[f"exact{ending}"], arrays[f"error{ending}"] = exact[:, k], np.abs(u[:, k] - exact[:, k])
    arrays = {name: values.astype(dtype) for name, values in arrays.items()}
    if not (inside := field.inside(points)).all():
        arrays["vtkGhostType"] = np.where(inside, 0, _HIDDEN).astype(np.uint8)
    return arrays


def _first(arrays: Mapping[str, np.ndarray], start: str) -> str | None:
    return next((name for name in arrays if name.startswith(start)), None)


def _root(kind: str) -> xml.Element:
    return xml.Element("VTKFile", type=kind, version="1.0", byte_order="LittleEndian", header_type="UInt64")


def _numbers(values) -> str:
    return " ".join(repr(float(value)) for value in values)


def _write(path: Path, root: xml.Element) -> None:
    xml.indent(root)
    with atomic(path) as file:
        xml.ElementTree(root).write(file, encoding="utf-8", xml_declaration=True)


__all__ = ["POINTS", "TIMES", "write_vtk"]
