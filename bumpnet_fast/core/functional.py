"""The functions on tensors: bump_jet, bump_basis, bump_design, bump_combine and bump_compact.

They check their arguments and call the registered operators.  Where an operator cannot answer (a ``torch.func``
transform, forward-mode differentiation, a forced reference), they call the closed forms in plain PyTorch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import backends, ops, reference
from .jet import Jet
from .reference import DIAGONAL, GRADIENT, level_of
from .rows import RowLayout
from .scopes import Choice
from .types import Backend, Precision, Want

_ops = torch.ops.bumpnet_fast
_forced_reference = Choice(False)


@contextlib.contextmanager
def use_backend(name: Backend) -> Iterator[None]:
    """Serve the bumps by one backend inside the block, in the thread that enters it.

    Blocks may overlap and be left in any order.  Other threads keep their own choice, those started inside the block
    too.

    Parameters
    ----------
    name : str
        "auto", "reference", or a variant of the CPU kernels: "baseline", "avx2", "avx512".

    Raises
    ------
    ValueError
        If there is no such backend on this machine.

    Examples
    --------
    >>> with use_backend("reference"):
    ...     backend()
    'reference'
    """
    if name not in (there := ("auto", "reference", *backends.variants())):
        raise ValueError(f"name must be one of {', '.join(there)}, got {name!r}")
    variant = contextlib.nullcontext() if name in ("auto", "reference") else backends.use_variant(name)
    with _forced_reference.use(name == "reference"), variant:
        yield


def backend() -> str:
    """Name of the backend that serves CPU tensors now, in this thread: "reference" or a kernel variant."""
    return "reference" if _forced_reference.get() else backends.variant() or "reference"


def _plain_torch(dim: int) -> bool:
    """Whether plain PyTorch must answer: forced, beyond the kernels' dimensions, or under a transform."""
    return _forced_reference.get() or dim > ops.MAX_DIM or ops.under_transform()


def serve(name: str, *args) -> tuple[Tensor, ...]:
    """Results of an operator, without autograd, from the backend that serves."""
    x = args[0] if name == "jet" else args[3]
    return ops.plain(name, *args) if _plain_torch(x.shape[1]) else ops.below_autograd(getattr(_ops, name), *args)


def check(x: Tensor, rows: Tensor, frame: Tensor, tied: bool) -> tuple[Tensor, Tensor]:
    """Validate the common arguments; returns ``x`` in the dtype of the rows under autocast, and the frame.

    Raises
    ------
    TypeError
        If a tensor is not a floating point tensor of the right dtype, or ``tied`` no bool.
    ValueError
        If a shape, a layout or a device does not fit.
    """
    dtype = rows.dtype if isinstance(rows, Tensor) else None
    for name, t in (("x", x), ("rows", rows), ("frame", frame)):
        _dense(name, t, dtype)
        if t.dim() != 2:
            raise ValueError(f"{name} must have 2 dimensions, got shape {tuple(t.shape)}")
    if not isinstance(tied, bool):
        raise TypeError(f"tied must be True or False, got {tied!r}")
    if frame.is_complex() or frame.dtype == torch.bool:
        raise TypeError(f"frame must hold real numbers, got {frame.dtype}")
    if frame.requires_grad and not ops.under_transform():
        raise ValueError("frame must not require a gradient, as it gets none; detach it")
    d = frame.shape[1]
    if x.shape[1] != d or d < 1:
        raise ValueError(f"x must have shape [N, {d}] for bumps in {d} dimensions, got {tuple(x.shape)}")
    if frame.shape[0] == 2:
        frame = torch.cat([frame, torch.ones_like(frame[:1])])
    if frame.shape[0] != 3:
        raise ValueError(f"frame must have shape [2, d] or [3, d], got {tuple(frame.shape)}")
    columns = RowLayout(d, 0, tied).columns
    if rows.shape[1] < columns:
        wanted = f"at least {columns} columns for d = {d} and tied = {tied}"
        raise ValueError(f"rows must have {wanted}, got shape {tuple(rows.shape)}")
    if rows.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"rows must be float32 or float64, got {rows.dtype}")
    x = _as_the_rows("x", x, rows)
    if x.device != rows.device or frame.device != rows.device:
        devices = f"x on {x.device}, rows on {rows.device}, frame on {frame.device}"
        raise ValueError(f"x, rows and frame must be on one device, got {devices}")
    return x, frame if frame.dtype == rows.dtype else frame.to(rows.dtype)


def not_a_tensor(name: str, given: Any, dtype: torch.dtype | None = None) -> str:
    """The message for what is no tensor; numbers, lists and arrays can become one, of ``dtype`` if that is known."""
    message = f"{name} must be a torch.Tensor, got {type(given).__name__}"
    if isinstance(given, (list, tuple, bool, int, float)) or hasattr(given, "__array__"):
        message += f": torch.as_tensor(..., dtype={dtype}) makes one of it" if dtype else ": use torch.as_tensor"
    return message


def _dense(name: str, t: Tensor, dtype: torch.dtype | None = None) -> None:
    if not isinstance(t, Tensor):
        raise TypeError(not_a_tensor(name, t, dtype))
    if t.is_nested or t.layout != torch.strided:
        kind = "a nested tensor" if t.is_nested else f"layout {t.layout}"
        raise ValueError(f"{name} must be a dense tensor, got {kind}")


def _as_the_rows(name: str, t: Tensor, rows: Tensor) -> Tensor:
    """``t`` in the dtype of the rows; unless under autocast, ``t`` must have it already."""
    if t.dtype == rows.dtype:
        return t
    low = t.dtype in (torch.float16, torch.bfloat16) or rows.dtype == torch.float32
    if not (t.is_floating_point() and low and torch.is_autocast_enabled(t.device.type)):
        raise TypeError(f"{name} must have the dtype of the rows, {rows.dtype}, got {t.dtype}")
    return t.to(rows.dtype)


def _plain_tensor(x: Tensor) -> Tensor:
    """Strip tensor subclasses that other libraries pass (labelled tensors); tracing needs them kept."""
    if type(x) is Tensor or torch.compiler.is_compiling() or not isinstance(x, Tensor) or x.is_nested:
        return x
    return x.as_subclass(Tensor)


@dataclass
class Spare:
    """What a backward may leave out.  It can be set until the backward runs, also after the forward.

    Attributes
    ----------
    points : bool
        Leave out the gradient by the points, unless it is differentiated again.  Only the registered operators
        look at this; the reference in their place leaves nothing out.
    """

    points: bool = False


class _BumpnetJet(torch.autograd.Function):
    """The operator ``jet`` and its registered backward, with fewer layers of Python around them.

    For a small net these layers take a tenth of a training step.
    """

    @staticmethod
    def forward(ctx, x, rows, frame, want, tied, spare: Spare | None):
        args = x, rows, frame, want, tied
        ops.save_inputs(ctx, args, None)
        ctx.spare = spare
        return ops.below_autograd(_ops.jet, *args)

    @staticmethod
    def backward(ctx, *cotangents):
        spared = ctx.spare is not None and ctx.spare.points
        return *ops.jet_backward(ctx, *cotangents, spare_x=spared), None


def bump_jet(x: Tensor, rows: Tensor, frame: Tensor, want: Want = "value", *, tied: bool = True) -> Jet:
    """Jet of ``u(x) = sum_i h_i psi_i(x)``.

    Parameters
    ----------
    x : Tensor
        Points [N, d].  A NaN or an infinity gives NaN at that point only.
    rows : Tensor
        Bumps [M, columns], see :class:`bumpnet_fast.core.rows.RowLayout`.
    frame : Tensor
        [3, d]: lower and upper corner of the centres' box and the scale of each coordinate;
        [2, d] means scale 1.  A constant: no gradient flows to it.
    want : str
        "value", "gradient", "diagonal", "hessian" or "laplacian".
    tied : bool
        Whether the outer slope is tied to the sharpness (``s = 2 p``).

    Returns
    -------
    Jet
        value [N, K], gradient [N, K, d] and second derivatives as wanted.

    Raises
    ------
    TypeError, ValueError
        For tensors of a wrong type, dtype, shape or device, and for an unknown ``want``.

    Notes
    -----
    arXiv:2512.17198, section 3; docs/math.md, "jets".

    Examples
    --------
    >>> rows = torch.tensor([[0.0, 0.0, 0.0, 1.0]])          # centre, log size, log p, amplitude
    >>> frame = torch.tensor([[-1.0], [1.0]])
    >>> jet = bump_jet(torch.zeros(1, 1), rows, frame, "laplacian")
    >>> jet.value.shape, abs(jet.gradient.item()) < 1e-6, bool(jet.laplacian < 0)
    (torch.Size([1, 1]), True, True)
    """
    return sparing_jet(None, x, rows, frame, want, tied=tied)


def sparing_jet(
    spare: Spare | None, x: Tensor, rows: Tensor, frame: Tensor, want: Want = "value", *, tied: bool = True
) -> Jet:
    """:func:`bump_jet` whose backward leaves out what ``spare`` says when it runs."""
    level = level_of(want)
    x, frame = check(_plain_tensor(x), rows, frame, tied)
    args = x, rows, frame, level, tied
    if _plain_torch(x.shape[1]):
        parts = reference.jet(*args)
    elif torch.compiler.is_compiling() or torch.jit.is_tracing():
        parts = _ops.jet(*args)  # the graph shall have the operator
    else:
        parts = _BumpnetJet.apply(*args, spare)
    value, gradient, second = parts
    return Jet(want, value, gradient if level >= GRADIENT else None, second if level >= DIAGONAL else None)


def bump_basis(x: Tensor, rows: Tensor, frame: Tensor, want: Want = "value", *, tied: bool = True) -> Jet:
    """Jets of the bumps themselves, without amplitudes: M functions instead of K outputs.

    Parameters are those of :func:`bump_jet`.

    Returns
    -------
    Jet
        value [N, M], gradient [N, M, d] and second derivatives as wanted; views of tensors in
        which the points vary fastest.

    Examples
    --------
    >>> rows, frame = torch.zeros(3, 4), torch.tensor([[-1.0], [1.0]])
    >>> bump_basis(torch.zeros(5, 1), rows, frame, "gradient").gradient.shape
    torch.Size([5, 3, 1])
    """
    level = level_of(want)
    x, frame = check(_plain_tensor(x), rows, frame, tied)
    if _plain_torch(x.shape[1]):
        parts = reference.basis(x, rows, frame, level, tied)
    else:
        parts = [t if t.dim() < 2 else t.movedim(-1, 0) for t in _ops.basis(x, rows, frame, level, tied)]
    return Jet(want, parts[0], parts[1] if level >= GRADIENT else None, parts[2] if level >= DIAGONAL else None)


def bump_design(
    coefficients: tuple[Tensor | None, Tensor | None, Tensor | None],
    x: Tensor,
    rows: Tensor,
    frame: Tensor,
    want: Want,
    *,
    tied: bool = True,
    derivatives: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Design matrix of a linear row operator over the bumps, and its shape derivatives.

    ``(L psi)(x_n) = c0_n psi + c1_n . grad psi + c2_n : second derivatives``, the latter in the
    form of ``want``.  Variable projection and Levenberg-Marquardt are built from
    these matrices.

    Parameters
    ----------
    coefficients : tuple of Tensor or None
        ``c0`` [N], ``c1`` [N, d] and ``c2`` ([N, d], [N, d, d] or [N]); None counts as zero.
    x, rows, frame, want, tied
        As for :func:`bump_jet`.
    derivatives : bool
        Whether to give the derivative by every shape column as well.

    Returns
    -------
    Phi : Tensor
        [N, M].
    D : Tensor or None
        [N, M, shape columns].  Both are views of tensors in which the points vary fastest.

    Examples
    --------
    >>> rows, frame = torch.zeros(3, 4), torch.tensor([[-1.0], [1.0]])
    >>> Phi, D = bump_design((torch.ones(5), None, None), torch.zeros(5, 1), rows, frame, "value", derivatives=True)
    >>> Phi.shape, D.shape
    (torch.Size([5, 3]), torch.Size([5, 3, 3]))
    """
    level = level_of(want)
    x, frame = check(_plain_tensor(x), rows, frame, tied)
    n, d = x.shape
    shapes = ((n,), (n, d), (n, *reference.second_shape(level, d)))
    names = ("c0 (value)", "c1 (gradient)", "c2 (second derivatives)")
    if not isinstance(coefficients, (tuple, list)) or len(coefficients) != 3:
        got = f"{len(coefficients)} of them" if isinstance(coefficients, (tuple, list)) else type(coefficients).__name__
        raise ValueError(f"coefficients must be three, {', '.join(names)}, each a tensor or None, got {got}")
    for i, (c, shape) in enumerate(zip(coefficients, shapes, strict=True)):
        if c is None:
            continue
        _dense(f"coefficients: {names[i]}", c, rows.dtype)
        if i > min(level, DIAGONAL):
            raise ValueError(f"coefficients: {names[i]} given, but want is {want!r}")
        if tuple(c.shape) != shape or c.dtype != rows.dtype:
            got = f"{tuple(c.shape)}, {c.dtype}"
            raise ValueError(f"coefficients: {names[i]} must have shape {shape} and dtype {rows.dtype}, got {got}")
        if c.device != rows.device:
            raise ValueError(
                f"coefficients: {names[i]} must be on the device of the rows, {rows.device}, got {c.device}"
            )
    function = ops.reference_design if _plain_torch(x.shape[1]) else _ops.design
    Phi, D = function(*coefficients, x, rows, frame, level, tied, derivatives)
    return Phi.movedim(-1, 0), D.movedim(-1, 0) if derivatives else None


def bump_combine(
    h: Tensor, x: Tensor, rows: Tensor, frame: Tensor, *, tied: bool = True, precision: Precision = "tf32x3"
) -> Tensor:
    """Many functions of the same bumps: ``out[b, n] = sum_i h[b, i] psi_i(x_n)``.

    This is a DeepONet for a batch of B input functions: the branch gives ``h``, the bumps are the trunk.

    Parameters
    ----------
    h : Tensor
        Coefficients [B, M], one row per function, in the dtype of the rows.
    x, rows, frame, tied
        As for :func:`bump_jet`; the amplitudes in ``rows`` take no part, and there may be none.
    precision : str
        Precision of float32 products on CUDA devices, with the relative error of the result (emulated): "tf32",
        7e-4; "tf32x3", 4e-7, three products on tensor cores; "ieee", 3e-7, plain float32 without tensor cores.
        On AMD only gfx942 has "tf32"; everything else is "ieee" there.  float64 and the CPU always compute in
        full precision.

    Returns
    -------
    Tensor
        [B, N], differentiable by ``h``, ``x`` and ``rows`` to any order.

    Raises
    ------
    TypeError, ValueError
        For tensors of a wrong type, dtype, shape or device, and for an unknown ``precision``.

    Notes
    -----
    The bumps' values [M, N] are never held as a whole: on CUDA devices they are computed in registers, and
    elsewhere for a limited number of points at once.  The same holds for gradients, which have kernels of
    their own.  Second derivatives do hold all pairs.  docs/gpu.md, "many outputs".

    Examples
    --------
    >>> rows, frame = torch.zeros(3, 3), torch.tensor([[-1.0], [1.0]])
    >>> out = bump_combine(torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]]), torch.zeros(5, 1), rows, frame)
    >>> out.shape, bool(torch.allclose(out[1], 3 * out[0]))
    (torch.Size([2, 5]), True)
    """
    if precision not in ops.PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(ops.PRECISIONS)}, got {precision!r}")
    x, frame = check(_plain_tensor(x), rows, frame, tied)
    _dense("h", h, rows.dtype)
    if h.dim() != 2 or h.shape[1] != rows.shape[0]:
        raise ValueError(f"h must have shape [B, {rows.shape[0]}], a column per bump, got {tuple(h.shape)}")
    if h.device != rows.device:
        raise ValueError(f"h must be on the device of the rows, {rows.device}, got {h.device}")
    h = _as_the_rows("h", _plain_tensor(h), rows)
    if _plain_torch(x.shape[1]):
        return reference.combine(h, x, rows, frame, tied)
    return _ops.combine(h, x, rows, frame, tied, precision)


def bump_compact(keep: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Keep some rows of several tensors at once, such as the remaining bumps and their optimiser state.

    Parameters
    ----------
    keep : Tensor
        [M], bool: True for a row that stays.
    tensors : sequence of Tensor
        Each [M, ...] on the device of ``keep``, of any dtype; need not be contiguous.

    Returns
    -------
    list of Tensor
        Each [kept, ...], contiguous, with its rows in their order.  Differentiable: a kept row's
        gradient goes to where the row came from.

    Raises
    ------
    TypeError
        If something is no tensor, or ``keep`` is not bool.
    ValueError
        If a shape, a layout or a device does not fit.

    Notes
    -----
    On the CPU this is one compiled pass over ``keep`` and one copy per run of kept rows.  On CUDA, where that part
    is built, it is two kernels on the current stream; between them the host waits once, for the number of kept
    rows.  Otherwise it is plain PyTorch.

    Examples
    --------
    >>> rows, moments = torch.arange(6.0).reshape(3, 2), torch.tensor([7, 8, 9])
    >>> bump_compact(torch.tensor([True, False, True]), [rows, moments])
    [tensor([[0., 1.],
            [4., 5.]]), tensor([7, 9])]
    """
    tensors = list(tensors)
    for name, t in [("keep", keep), *((f"tensors[{i}]", t) for i, t in enumerate(tensors))]:
        _dense(name, t)
        if t.device != keep.device:
            raise ValueError(f"{name} must be on the device of keep, {keep.device}, got {t.device}")
    if keep.dtype != torch.bool:
        raise TypeError(f"keep must be a bool tensor, got {keep.dtype}")
    if keep.dim() != 1:
        raise ValueError(f"keep must have shape [M], got {tuple(keep.shape)}")
    for i, t in enumerate(tensors):
        if t.dim() < 1 or t.shape[0] != keep.shape[0]:
            raise ValueError(f"tensors[{i}] must have shape [{keep.shape[0]}, ...] as keep has, got {tuple(t.shape)}")
    keep, tensors = _plain_tensor(keep), [_plain_tensor(t) for t in tensors]
    plain = _forced_reference.get() or ops.under_transform()
    return ops.plain_compact(keep, tensors) if plain else _ops.compact(keep, tensors)
