"""The declarations of all operators in the namespace ``torch.ops.bumpnet_fast`` (docs/design.md).

Each has a schema, a fake, autograd, vmap and autocast.

* ``jet``, ``jet_vjp``, ``basis``, ``basis_vjp`` and ``design``: on the CPU the compiled extension serves d <= 4, on
  CUDA devices the Triton kernels serve d <= 4 and jets of up to four outputs; ``reference.py`` serves the rest.
* ``combine`` and ``combine_vjp``, many functions of the same bumps: Triton kernels on CUDA devices, ``basis`` with
  matrix products elsewhere.
* ``compact`` keeps some rows of several tensors: compiled for the CPU, for CUDA where that part is built, and plain
  PyTorch elsewhere.

Layouts.  Jets come out in the user's shape, [N, K, ...].  Tensors with an entry for every pair of
point and bump have the points last ([M, N], [M, d, N], [M, columns, N]), as vector kernels
and LAPACK need them.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import warnings
from typing import get_args

import torch
from torch import Tensor

from . import backends as native  # native loads the extension, which registers the CPU kernels
from . import reference
from .private import below_autograd, under_transform
from .reference import DIAGONAL, GRADIENT, HESSIAN, VALUE, second_shape
from .rows import RowLayout
from .types import Precision

_LIBRARY = torch.library.Library("bumpnet_fast", "DEF")

_COTANGENTS = "Tensor? g0, Tensor? g1, Tensor? g2"
_BUMPS = "Tensor x, Tensor rows, Tensor frame, int want, bool tied"
_NEEDS = "bool need_x, bool need_rows"
_SCHEMAS = {
    "jet": f"({_BUMPS}) -> (Tensor, Tensor, Tensor)",
    "jet_vjp": f"({_COTANGENTS}, {_BUMPS}, {_NEEDS}) -> (Tensor, Tensor)",
    "basis": f"({_BUMPS}) -> (Tensor, Tensor, Tensor)",
    "basis_vjp": f"({_COTANGENTS}, {_BUMPS}, {_NEEDS}) -> (Tensor, Tensor)",
    "design": f"(Tensor? c0, Tensor? c1, Tensor? c2, {_BUMPS}, bool derivatives) -> (Tensor, Tensor)",
}
OPERATORS = tuple(_SCHEMAS)
#: Largest dimension that compiled kernels serve; functional.py answers beyond it in plain PyTorch.
MAX_DIM = 4
for _name, _schema in _SCHEMAS.items():
    _LIBRARY.define(_name + _schema, tags=(torch.Tag.pt2_compliant_tag,))

#: Tensors of the reference may hold about this many (point, bump, axis, axis) entries at once.
_CHUNK_ENTRIES = 2**22


# --- the reference in the operators' layouts ---------------------------------------------------


def _points_last(t: Tensor) -> Tensor:
    """[N, M, ...] -> [M, ..., N]; an empty placeholder stays."""
    return t if t.dim() < 2 else t.movedim(0, -1).contiguous()


def _points_first(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.movedim(-1, 0)


def _ref_jet(x, rows, frame, want, tied):
    return reference.jet(x, rows, frame, want, tied)


def _ref_jet_vjp(g0, g1, g2, x, rows, frame, want, tied, need_x, need_rows):
    gx, grows = reference.jet_vjp(g0, g1, g2, x, rows, frame, want, tied)
    return gx if need_x else x.new_zeros(0), grows if need_rows else x.new_zeros(0)


def _ref_basis(x, rows, frame, want, tied):
    return tuple(_points_last(t) for t in reference.basis(x, rows, frame, want, tied))


def _ref_basis_vjp(g0, g1, g2, x, rows, frame, want, tied, need_x, need_rows):
    g = (_points_first(t) for t in (g0, g1, g2))
    gx, grows = reference.basis_vjp(*g, x, rows, frame, want, tied)
    return gx if need_x else x.new_zeros(0), grows if need_rows else x.new_zeros(0)


def reference_design(c0, c1, c2, x, rows, frame, want, tied, derivatives):
    out = reference.design(c0, c1, c2, x, rows, frame, want, tied, derivatives)
    return tuple(_points_last(t) for t in out)


# For each operator: its function, the dimension of the points in the tensor arguments before x, and that in
# each result; None marks a result that is summed over the points.
_REFERENCE = {
    "jet": (_ref_jet, 0, (0, 0, 0)),
    "jet_vjp": (_ref_jet_vjp, 0, (0, None)),
    "basis": (_ref_basis, 0, (-1, -1, -1)),
    "basis_vjp": (_ref_basis_vjp, -1, (0, None)),
    "design": (reference_design, 0, (-1, -1)),
}


def _arguments_before_x(name: str) -> int:
    return 0 if name in ("jet", "basis") else 3


def _join(parts: list[Tensor], dim: int | None) -> Tensor:
    """Combine the results of chunks of points: sum, concatenate, or keep an empty placeholder."""
    if dim is None or parts[0].shape == (0,):
        return functools.reduce(torch.add, parts)
    return torch.cat(parts, dim)


def _chunked(name: str, *args):
    """The reference over chunks of points, so that its memory does not grow with N."""
    function, points_dim, result_dims = _REFERENCE[name]
    at = _arguments_before_x(name)
    x, rows = args[at], args[at + 1]
    step = max(1, _CHUNK_ENTRIES // max(1, rows.shape[0] * x.shape[1] ** 2))
    if x.shape[0] <= step:
        results = function(*args)
    else:
        pieces = []
        for start in range(0, x.shape[0], step):
            size = min(step, x.shape[0] - start)
            head = [None if t is None else t.narrow(points_dim, start, size) for t in args[:at]]
            pieces.append(function(*head, x.narrow(0, start, size), *args[at + 1 :]))
        results = tuple(_join(list(p), dim) for p, dim in zip(zip(*pieces, strict=True), result_dims, strict=True))
    return tuple(t.contiguous() for t in results)


def plain(name: str, *args):
    """An operator by its closed form in PyTorch, on any device, in the operator's layout."""
    return _REFERENCE[name][0](*args) if name in COMBINED else _chunked(name, *args)


for _name in OPERATORS:
    _LIBRARY.impl(_name, functools.partial(_chunked, _name), "CompositeExplicitAutograd")


@functools.cache
def _triton_kernels():
    """``kernels.operators``, imported when the first CUDA tensor comes: Triton is slow to start.  None without it."""
    return None if os.environ.get("BUMPNET_FAST_BACKEND") == "reference" else _imported("operators")


def _imported(name: str):
    """A module of the Triton kernels, or None; warns unless Triton is just not installed."""
    try:
        return importlib.import_module(f"bumpnet_fast.kernels.{name}")
    except ImportError as error:
        if not (isinstance(error, ModuleNotFoundError) and error.name == "triton"):
            warnings.warn(
                f"the Triton kernels could not be imported: {error!r}; "
                "on CUDA devices plain PyTorch serves in their place, which is correct and slower",
                RuntimeWarning,
                stacklevel=2,
            )
        return None


def cuda_kernel(name: str, *args):
    """The Triton kernel that serves an operator with these arguments on CUDA, or None where the reference does."""
    if name in COMBINED:
        x, combined = args[COMBINED.index(name) + 1], _combine_kernels()
        return None if combined is None or not combined.serves(x.shape[1], x.dtype) else getattr(combined, name)
    at = _arguments_before_x(name)
    x, rows, _, _, tied = args[at : at + 5]
    kernels = _triton_kernels()
    if kernels is None or not kernels.serves(name, x.shape[1], RowLayout.of(rows, x.shape[1], tied).outputs, x.dtype):
        return None
    kernel = getattr(kernels, name)
    return functools.partial(kernel, culling=native.culling()) if name in ("jet", "jet_vjp") else kernel


def _on_cuda(name: str, *args):
    """An operator on CUDA tensors: its Triton kernel, or the reference."""
    kernel = cuda_kernel(name, *args)
    return _chunked(name, *args) if kernel is None else kernel(*args)


for _name in OPERATORS:
    _LIBRARY.impl(_name, functools.partial(_on_cuda, _name), "CUDA")


# --- fakes -------------------------------------------------------------------------------------


def _fake_jet(x, rows, frame, want, tied):
    n, d = x.shape
    lead = (n, RowLayout.of(rows, d, tied).outputs)
    return (
        x.new_empty(lead),
        x.new_empty((*lead, d)) if want >= GRADIENT else x.new_empty(0),
        x.new_empty((*lead, *second_shape(want, d))) if want >= DIAGONAL else x.new_empty(0),
    )


def _fake_vjp(g0, g1, g2, x, rows, frame, want, tied, need_x, need_rows):
    return (
        x.new_empty(x.shape) if need_x else x.new_empty(0),
        rows.new_empty(rows.shape) if need_rows else x.new_empty(0),
    )


def _fake_basis(x, rows, frame, want, tied):
    (n, d), m = x.shape, rows.shape[0]
    return (
        x.new_empty((m, n)),
        x.new_empty((m, d, n)) if want >= GRADIENT else x.new_empty(0),
        x.new_empty((m, *second_shape(want, d), n)) if want >= DIAGONAL else x.new_empty(0),
    )


def _fake_design(c0, c1, c2, x, rows, frame, want, tied, derivatives):
    (n, d), m = x.shape, rows.shape[0]
    columns = RowLayout.of(rows, d, tied).shape_columns
    return x.new_empty((m, n)), x.new_empty((m, columns, n)) if derivatives else x.new_empty(0)


_FAKES = {
    "jet": _fake_jet,
    "jet_vjp": _fake_vjp,
    "basis": _fake_basis,
    "basis_vjp": _fake_vjp,
    "design": _fake_design,
}


# --- autograd ----------------------------------------------------------------------------------

_ops = torch.ops.bumpnet_fast


def _serve(name: str):
    """Call an operator in a backward, or its reference if the cotangents are under a transform."""
    if under_transform():
        return _REFERENCE[name][0]
    op = getattr(_ops, name)
    return op if torch.is_grad_enabled() else functools.partial(below_autograd, op)


def save_inputs(ctx, inputs, output):
    ctx.set_materialize_grads(False)
    ctx.culling = native.culling()  # autograd's threads for CUDA devices would not know of it
    ctx.save_for_backward(*(t for t in inputs if isinstance(t, Tensor)))
    ctx.layout = [isinstance(t, Tensor) for t in inputs]
    ctx.constants = [t for t in inputs if not isinstance(t, Tensor)]


def _saved(ctx) -> list:
    tensors, constants = iter(ctx.saved_tensors), iter(ctx.constants)
    return [next(tensors) if is_tensor else next(constants) for is_tensor in ctx.layout]


def _asked(want: int, g0, g1, g2):
    """Cotangents without those of the empty placeholders, which tracing may fill in."""
    return g0, g1 if want >= GRADIENT else None, g2 if want >= DIAGONAL else None


def jet_backward(ctx, g0, g1, g2, spare_x=False):
    """Backward of ``jet``; ``spare_x`` leaves out the gradient by the points unless it is differentiated again."""
    x, rows, frame, want, tied = _saved(ctx)
    need_x, need_rows = ctx.needs_input_grad[:2]
    need_x &= torch.is_grad_enabled() or not spare_x
    g0, g1, g2 = _asked(want, g0, g1, g2)
    if g0 is None and g1 is None and g2 is None:
        return (None,) * 5
    gx = None
    if need_x and torch.is_grad_enabled() and want <= GRADIENT:
        # The gradient will be differentiated again: return it as the next jet, whose backward is a
        # fused kernel, instead of the slower reference.
        gx = _gradient_as_jet(g0, g1, x, rows, frame, tied)
        need_x = False
    if need_x or need_rows:
        as_before = ctx.culling == native.culling()
        with contextlib.nullcontext() if as_before else native.use_culling(ctx.culling):
            fused_x, grows = _serve("jet_vjp")(g0, g1, g2, x, rows, frame, want, tied, need_x, need_rows)
        gx = fused_x if need_x else gx
    return gx, grows if need_rows else None, None, None, None


def _gradient_as_jet(g0, g1, x, rows, frame, tied):
    _, gradient, hessian = _serve("jet")(x, rows, frame, GRADIENT if g1 is None else HESSIAN, tied)
    gx = 0 if g0 is None else (g0[..., None] * gradient).sum(1)
    return gx if g1 is None else gx + (g1[..., None] * hessian).sum((1, 2))


def _basis_backward(ctx, g0, g1, g2):
    x, rows, frame, want, tied = _saved(ctx)
    need_x, need_rows = ctx.needs_input_grad[:2]
    g0, g1, g2 = _asked(want, g0, g1, g2)
    if g0 is None and g1 is None and g2 is None:
        return (None,) * 5
    gx, grows = _serve("basis_vjp")(g0, g1, g2, x, rows, frame, want, tied, need_x, need_rows)
    return gx if need_x else None, grows if need_rows else None, None, None, None


def _reference_backward(name: str, ctx, *cotangents):
    """Backward of an operator by ``torch.func.vjp`` of its closed-form reference."""
    args = _saved(ctx)
    slots = [i for i, needed in enumerate(ctx.needs_input_grad) if needed]
    results: list[Tensor | None] = [None] * len(args)
    live = [i for i, g in enumerate(cotangents) if g is not None and g.shape != (0,)]
    if not live or not slots:
        return tuple(results)

    def function(*values):
        filled = list(args)
        for slot, value in zip(slots, values, strict=True):
            filled[slot] = value
        out = _REFERENCE[name][0](*filled)
        return tuple(out[i] for i in live)

    _, vjp = torch.func.vjp(function, *(args[i] for i in slots))
    for slot, grad in zip(slots, vjp(tuple(cotangents[i] for i in live)), strict=True):
        results[slot] = grad
    return tuple(results)


_BACKWARDS = {"jet": jet_backward, "basis": _basis_backward} | {
    name: functools.partial(_reference_backward, name) for name in ("jet_vjp", "basis_vjp", "design")
}


# --- vmap, autocast ----------------------------------------------------------------------------


def _vmap(name: str, info, in_dims, *args):
    """One call per batch entry: each is a whole kernel's work."""
    calls = []
    for i in range(info.batch_size):
        calls.append([a if dim is None else a.select(dim, i) for a, dim in zip(args, in_dims, strict=True)])
    results = [getattr(_ops, name)(*call) for call in calls]
    if isinstance(results[0], Tensor):
        return torch.stack(results), 0
    out = [torch.stack(parts) for parts in zip(*results, strict=True)]
    return tuple(out), (0,) * len(out)


for _name in OPERATORS:
    _qualified = f"bumpnet_fast::{_name}"
    torch.library.register_fake(_qualified, _FAKES[_name], lib=_LIBRARY)
    torch.library.register_autograd(_qualified, _BACKWARDS[_name], setup_context=save_inputs, lib=_LIBRARY)
    torch.library.register_vmap(_qualified, functools.partial(_vmap, _name), lib=_LIBRARY)
    for _device in ("cpu", "cuda"):
        torch.library.register_autocast(_qualified, _device, torch.float32, lib=_LIBRARY)


# --- many outputs ------------------------------------------------------------------------------

#: Precisions of the float32 matrix products in these operators' CUDA kernels; unused elsewhere.
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
_COMBINED = "Tensor h, Tensor x, Tensor rows, Tensor frame, bool tied, str precision"
_COMBINE_SCHEMAS = {
    "combine": f"({_COMBINED}) -> Tensor",
    "combine_vjp": f"(Tensor g, {_COMBINED}, bool need_h, bool need_x, bool need_rows) -> (Tensor, Tensor, Tensor)",
}
COMBINED = tuple(_COMBINE_SCHEMAS)
for _name, _schema in _COMBINE_SCHEMAS.items():
    _LIBRARY.define(_name + _schema, tags=(torch.Tag.pt2_compliant_tag,))


def _stretches(x: Tensor, rows: Tensor) -> list[slice]:
    """Slices of the points, so that the memory for pairs of points and bumps does not grow with N."""
    step = max(1, _CHUNK_ENTRIES // max(1, rows.shape[0]))
    return [slice(start, start + step) for start in range(0, x.shape[0], step)]


def _combine(h, x, rows, frame, tied, precision):
    out = x.new_empty(h.shape[0], x.shape[0])
    for some in _stretches(x, rows):
        out[:, some] = h @ _ops.basis(x[some], rows, frame, VALUE, tied)[0]
    return out


def _combine_vjp(g, h, x, rows, frame, tied, precision, need_h, need_x, need_rows):
    by_h, by_x, by_rows = (
        t.new_zeros(t.shape if need else (0,)) for t, need in ((h, need_h), (x, need_x), (rows, need_rows))
    )
    for some in _stretches(x, rows):
        if need_h:
            by_h += g[:, some] @ _ops.basis(x[some], rows, frame, VALUE, tied)[0].T
        if need_x or need_rows:
            cotangent = h.T @ g[:, some]
            part, share = _ops.basis_vjp(cotangent, None, None, x[some], rows, frame, VALUE, tied, need_x, need_rows)
            if need_x:
                by_x[some] = part
            if need_rows:
                by_rows += share
    return by_h, by_x, by_rows


@functools.cache
def _combine_kernels():
    """``kernels.combine_operators``, likewise."""
    return None if _triton_kernels() is None else _imported("combine_operators")


def _combine_on_cuda(name: str, *args):
    """As :func:`_on_cuda`; where Triton does not serve, the basis does."""
    kernel = cuda_kernel(name, *args)
    return ({"combine": _combine, "combine_vjp": _combine_vjp}[name] if kernel is None else kernel)(*args)


def _fake_combine(h, x, rows, frame, tied, precision):
    return x.new_empty((h.shape[0], x.shape[0]))


def _fake_combine_vjp(g, h, x, rows, frame, tied, precision, *needs):
    return tuple(t.new_empty(t.shape if need else (0,)) for t, need in zip((h, x, rows), needs, strict=True))


def _ref_combine_vjp(g, h, x, rows, frame, tied, precision, *needs):
    parts = reference.combine_vjp(g, h, x, rows, frame, tied)
    return tuple(t if need else x.new_zeros(0) for t, need in zip(parts, needs, strict=True))


def _ref_combine(h, x, rows, frame, tied, precision):
    return reference.combine(h, x, rows, frame, tied)


_REFERENCE |= {"combine": (_ref_combine, 1, (1,)), "combine_vjp": (_ref_combine_vjp, 1, (None, 0, None))}


def _combine_backward(ctx, g):
    if g is None:
        return (None,) * 6
    needs = ctx.needs_input_grad[:3]
    parts = _serve("combine_vjp")(g, *_saved(ctx), *needs)
    return *(t if need else None for t, need in zip(parts, needs, strict=True)), None, None, None


for _name, _plain, _fake, _backward in (
    ("combine", _combine, _fake_combine, _combine_backward),
    ("combine_vjp", _combine_vjp, _fake_combine_vjp, functools.partial(_reference_backward, "combine_vjp")),
):
    _LIBRARY.impl(_name, _plain, "CompositeExplicitAutograd")
    _LIBRARY.impl(_name, functools.partial(_combine_on_cuda, _name), "CUDA")
    _qualified = f"bumpnet_fast::{_name}"
    torch.library.register_fake(_qualified, _fake, lib=_LIBRARY)
    torch.library.register_autograd(_qualified, _backward, setup_context=save_inputs, lib=_LIBRARY)
    torch.library.register_vmap(_qualified, functools.partial(_vmap, _name), lib=_LIBRARY)
    for _device in ("cpu", "cuda"):
        torch.library.register_autocast(_qualified, _device, torch.float32, lib=_LIBRARY)


# --- compaction --------------------------------------------------------------------------------

_LIBRARY.define(
    "compact(Tensor keep, Tensor[] tensors) -> Tensor[]",
    tags=(torch.Tag.pt2_compliant_tag, torch.Tag.dynamic_output_shape),
)


def plain_compact(keep: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    index = keep.nonzero().squeeze(1)
    return [t[index].contiguous() for t in tensors]


def _fake_compact(keep: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    if not tensors:
        return []
    kept = torch.library.get_ctx().new_dynamic_size()
    return [t.new_empty((kept, *t.shape[1:])) for t in tensors]


def _compact_backward(ctx, gradients):
    """A kept row's gradient goes back to its place; the others' is zero."""
    (keep,) = ctx.saved_tensors
    places = keep.nonzero().squeeze(1)

    def spread(g: Tensor) -> Tensor:
        return g.new_zeros((keep.shape[0], *g.shape[1:])).index_copy(0, places, g)

    return None, [spread(g) if need else None for g, need in zip(gradients, ctx.needs_input_grad[1], strict=True)]


def _save_compact(ctx, inputs, output):
    ctx.save_for_backward(inputs[0])


_LIBRARY.impl("compact", plain_compact, "CompositeExplicitAutograd")
torch.library.register_fake("bumpnet_fast::compact", _fake_compact, lib=_LIBRARY)
torch.library.register_autograd("bumpnet_fast::compact", _compact_backward, setup_context=_save_compact, lib=_LIBRARY)

__all__ = [
    "COMBINED", "MAX_DIM", "OPERATORS", "PRECISIONS", "below_autograd", "cuda_kernel", "jet_backward",
    "plain", "plain_compact", "reference_design", "save_inputs", "under_transform",
]  # fmt: skip
