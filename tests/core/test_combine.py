"""Many functions of the same bumps: bump_combine and its operators on the CPU."""

import math

import numpy
import oracle
import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch.library import opcheck

from bumpnet_fast import bump_combine, use_backend
from bumpnet_fast.core import ops, reference
from bumpnet_fast.core.rows import RowLayout

OPS = torch.ops.bumpnet_fast
NAMES = ("combine", "combine_vjp")
QUICK = ("test_schema", "test_autograd_registration", "test_faketensor")


def problem(dim=2, functions=3, points=4, bumps=2, outputs=1, tied=True, dtype=torch.float64):
    """h, x, rows and frame; the first three are leaves."""
    rows, frame = oracle.bumps(dim, bumps, outputs, tied, dtype=dtype)
    h = torch.randn(functions, bumps, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(dtype)
    x = oracle.points(dim, points, dtype=dtype)
    return h.requires_grad_(), x.requires_grad_(), rows.requires_grad_(), frame


def plain(*tensors):
    return tuple(t.detach() for t in tensors)


def random_like(tensors, seed=2):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.dtype) for t in tensors]


def literally(h, x, rows, frame, tied=True):
    return h @ oracle.basis(x, rows, frame, tied).T


def calls(name, needs=(True, True, True)):
    h, x, rows, frame = problem()
    if name == "combine":
        return h, x, rows, frame, True, "tf32x3"
    g = torch.randn(3, 4, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    return g.requires_grad_(), h, x, rows, frame, True, "tf32x3", *needs


# --- results -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("outputs, tied", [(0, True), (0, False), (2, True), (1, False)])
@pytest.mark.parametrize("dim", (1, 2, 3, 4, 5))
def test_values_and_gradients_are_those_of_the_formula(backend, dim, outputs, tied):
    h, x, rows, frame = problem(dim, functions=4, points=33, bumps=7, outputs=outputs, tied=tied)
    got, wanted = bump_combine(h, x, rows, frame, tied=tied), literally(h, x, rows, frame, tied)
    oracle.assert_close(got, wanted, 1e-12)
    [weights] = random_like([wanted])
    for g, w in zip(*(torch.autograd.grad(t, (h, x, rows), weights) for t in (got, wanted)), strict=True):
        oracle.assert_close(g, w, 1e-10)


def test_single_precision(backend):
    leaves = problem(3, functions=5, points=70, bumps=9, dtype=torch.float32)
    got, wanted = bump_combine(*leaves), reference.combine(*(t.double() for t in leaves), True)
    assert got.dtype == torch.float32
    oracle.assert_close(got, wanted, 1e-5)
    for g, w in zip(*(torch.autograd.grad(t.square().sum(), leaves[:3]) for t in (got, wanted)), strict=True):
        assert g.dtype == torch.float32
        oracle.assert_close(g, w, 5e-4)


def test_amplitudes_take_no_part(backend):
    h, x, rows, frame = problem(outputs=2)
    out = bump_combine(h, x, rows, frame)
    assert torch.equal(out, bump_combine(h, x, rows[:, : RowLayout(2).shape_columns], frame))
    gradient = torch.autograd.grad(out.sum(), rows)[0]
    amplitude = RowLayout(2, 2).amplitude
    assert not gradient[:, amplitude].any() and gradient[:, : amplitude.start].all()


@pytest.mark.parametrize("functions, points, bumps", [(0, 4, 2), (3, 0, 2), (3, 4, 0), (0, 0, 0), (1, 1, 1)])
def test_nothing_and_one(backend, functions, points, bumps):
    h, x, rows, frame = problem(functions=functions, points=points, bumps=bumps)
    out = bump_combine(h, x, rows, frame)
    assert out.shape == (functions, points)
    gradients = torch.autograd.grad(out.sum(), (h, x, rows))
    assert [g.shape for g in gradients] == [h.shape, x.shape, rows.shape]
    if functions * points * bumps == 0:
        assert not out.any() and not any(g.any() for g in gradients)


def test_no_number_in_no_number_out(backend):
    h, x, rows, frame = plain(*problem(points=5))
    x[1, 0], x[3, 1] = math.nan, math.inf
    out = bump_combine(h, x, rows, frame)
    assert torch.isnan(out[:, [1, 3]]).all() and torch.isfinite(out[:, [0, 2, 4]]).all()
    h[1, 0] = math.nan
    assert torch.isnan(bump_combine(h, x, rows, frame)[1]).all()
    rows[1, 2] = math.nan
    assert torch.isnan(bump_combine(h, x, rows, frame)).all()


def test_any_strides(backend):
    h, x, rows, frame = plain(*problem(functions=4, points=9, bumps=5))
    wanted = bump_combine(h, x, rows, frame)
    for view in (lambda t: t.T.contiguous().T, lambda t: torch.stack([t, t], -1)[..., 0]):
        leaves = [view(t).requires_grad_() for t in (h, x, rows)]
        out = bump_combine(*leaves, view(frame))
        oracle.assert_close(out, wanted, 1e-14)
        # a cotangent without memory of its own
        for g, leaf in zip(torch.autograd.grad(out.sum(), leaves), leaves, strict=True):
            assert g.shape == leaf.shape and g.all(dim=0)[:2].all()


@pytest.mark.parametrize("name", NAMES)
def test_memory_is_bounded_and_the_chunks_are_the_whole(name, monkeypatch):
    """The basis is held for a stretch of the points at a time."""
    args = [a.detach() if isinstance(a, torch.Tensor) else a for a in calls(name)]
    whole = getattr(OPS, name)(*args)
    monkeypatch.setattr(ops, "_CHUNK_ENTRIES", 7)
    x, rows = args[1:3] if name == "combine" else args[2:4]
    assert [x[some].shape[0] for some in ops._stretches(x, rows)] == [3, 1]
    pieces = getattr(OPS, name)(*args)
    for got, wanted in zip(pieces, whole, strict=True):
        oracle.assert_close(got, wanted, 1e-14)


# --- bad input ---------------------------------------------------------------------------------------

GOOD = dict(h=torch.zeros(4, 3), x=torch.zeros(5, 2), rows=torch.zeros(3, 7), frame=torch.tensor([[-1.0, -1], [1, 1]]))


@pytest.mark.parametrize("changed, error, message", [
    (dict(h=[[0.0]]), TypeError, "h must be a torch.Tensor, got list"),
    (dict(h=torch.zeros(3)), ValueError, r"h must have shape \[B, 3\], a column per bump, got \(3,\)"),
    (dict(h=torch.zeros(3, 4)), ValueError, r"h must have shape \[B, 3\], a column per bump, got \(3, 4\)"),
    (dict(h=torch.zeros(4, 3).double()), TypeError, "h must have the dtype of the rows, torch.float32, got .*float64"),
    (dict(h=torch.zeros(4, 3).bfloat16()), TypeError, "h must have the dtype of the rows"),
    (dict(h=torch.zeros(4, 3, device="meta")), ValueError, "h must be on the device of the rows, cpu, got meta"),
    (dict(precision="bf16"), ValueError, "precision must be one of tf32, tf32x3, ieee, got 'bf16'"),
    (dict(precision=None), ValueError, "precision must be one of tf32, tf32x3, ieee, got None"),
    (dict(x=torch.zeros(5, 3)), ValueError, r"x must have shape \[N, 2\]"),
    (dict(rows=torch.zeros(3, 5)), ValueError, "rows must have at least 6 columns"),
    (dict(frame=torch.zeros(4, 2)), ValueError, r"frame must have shape \[2, d\] or \[3, d\]"),
])  # fmt: skip
def test_bad_input(backend, changed, error, message):
    with pytest.raises(error, match=message):
        bump_combine(**(GOOD | changed))


# --- registration ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_opcheck(name):
    opcheck(getattr(OPS, name), calls(name), test_utils=(*QUICK, "test_aot_dispatch_dynamic"))


@pytest.mark.parametrize("needs", [(True, False, False), (False, True, False), (False, False, True)])
def test_opcheck_with_one_gradient(needs):
    opcheck(OPS.combine_vjp, calls("combine_vjp", needs), test_utils=QUICK)


def test_only_what_requires_a_gradient_gets_one(backend):
    leaves = problem()
    *plains, frame = plain(*leaves)
    for i in range(3):
        mixed = [leaves[j] if i == j else plains[j] for j in range(3)]
        [gradient] = torch.autograd.grad(bump_combine(*mixed, frame).sum(), mixed[i])
        wanted = torch.autograd.grad(bump_combine(*leaves).sum(), leaves[i])[0]
        oracle.assert_close(gradient, wanted, 1e-14)
    assert not bump_combine(*plains, frame).requires_grad


@pytest.mark.parametrize("tied", (True, False))
def test_gradcheck_to_second_order(backend, tied):
    *leaves, frame = problem(tied=tied)
    function = lambda h, x, rows: bump_combine(h, x, rows, frame, tied=tied)  # noqa: E731
    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


def test_gradcheck_of_the_backward():
    g, *leaves, frame = calls("combine_vjp")[:5]
    function = lambda g, h, x, rows: OPS.combine_vjp(g, h, x, rows, frame, True, "ieee", True, True, True)  # noqa: E731
    assert torch.autograd.gradcheck(function, (g, *leaves), check_batched_grad=True)
    assert torch.autograd.gradgradcheck(function, (g, *leaves), fast_mode=True)


def test_a_pde_residual_by_nested_autograd(backend):
    """What a physics-informed DeepONet does: derivatives by x in the loss, and its gradient."""
    h, x, rows, frame = problem(points=5, bumps=4)
    results = []
    for function in (bump_combine, literally):
        out = function(h, x, rows, frame)
        first = torch.autograd.grad(out[1].sum(), x, create_graph=True)[0]
        second = torch.autograd.grad(first[:, 0].sum(), x, create_graph=True)[0][:, 0]
        loss = (second + first[:, 1] * out[1]).square().sum()
        results.append((second, *torch.autograd.grad(loss, (h, x, rows))))
    for got, wanted in zip(*results, strict=True):
        oracle.assert_close(got, wanted, 1e-10)


# --- transforms, autocast, tracing -------------------------------------------------------------------


@pytest.mark.parametrize("transform", ("jvp", "jacfwd", "jacrev", "vmap", "grad"))
def test_torch_func(backend, transform):
    h, x, rows, frame = plain(*problem())
    tangents = tuple(random_like((h, x, rows)))

    def answer(function):
        values = lambda h, x, rows: function(h, x, rows, frame)  # noqa: E731
        return {
            "jvp": lambda: torch.func.jvp(values, (h, x, rows), tangents),
            "jacfwd": lambda: torch.func.jacfwd(values, (0, 1, 2))(h, x, rows),
            "jacrev": lambda: torch.func.jacrev(values, (0, 1, 2))(h, x, rows),
            "vmap": lambda: (torch.vmap(values, (0, None, None))(torch.stack([h, 2 * h]), x, rows),),
            "grad": lambda: (torch.func.grad(lambda r: values(h, x, r).square().sum())(rows),),
        }[transform]()

    for got, wanted in zip(answer(bump_combine), answer(literally), strict=True):
        assert wanted.abs().max() > 0
        oracle.assert_close(got, wanted, 1e-11)


def test_forward_mode_is_right_and_not_silently_zero(backend):
    h, x, rows, frame = plain(*problem())
    dh, dx, drows = random_like((h, x, rows))
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(t, d) for t, d in ((h, dh), (x, dx), (rows, drows))]
        tangent = forward_ad.unpack_dual(bump_combine(*duals, frame)).tangent
    wanted = torch.func.jvp(lambda *a: literally(*a, frame), (h, x, rows), (dh, dx, drows))[1]
    oracle.assert_close(tangent, wanted, 1e-11)
    leaves = [t.requires_grad_() for t in (h, x, rows)]
    out = bump_combine(*leaves, frame)
    v, dv = random_like((out, out))
    with forward_ad.dual_level():  # comes in by the cotangent alone
        got = torch.autograd.grad(out, leaves, forward_ad.make_dual(v, dv), retain_graph=True)
        got = [forward_ad.unpack_dual(g).tangent for g in got]
    for g, w in zip(got, torch.autograd.grad(out, leaves, dv), strict=True):
        oracle.assert_close(g, w, 1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_vmap_of_the_operators_themselves(name):
    args = [a.detach() if isinstance(a, torch.Tensor) else a for a in calls(name)]
    tensors = [i for i, a in enumerate(args) if isinstance(a, torch.Tensor)]
    for mapped in [[i] for i in tensors] + [tensors]:
        stacked = [torch.stack([a, 1.1 * a]) if i in mapped else a for i, a in enumerate(args)]
        in_dims = tuple(0 if i in mapped else None for i in range(len(args)))
        got = torch.vmap(getattr(OPS, name), in_dims)(*stacked)
        each = [getattr(OPS, name)(*(a[k] if i in mapped else a for i, a in enumerate(stacked))) for k in (0, 1)]
        if name == "combine":
            got, each = (got,), [(one,) for one in each]
        for g, pair in zip(got, zip(*each, strict=True), strict=True):
            oracle.assert_close(g, torch.stack(pair), 1e-13, f"{name} over {mapped}")


def test_autocast_computes_in_the_dtype_of_the_rows(backend):
    """A branch net's output comes in bfloat16 there; nothing of the product may."""
    h, x, rows, frame = plain(*problem(dtype=torch.float32))
    low = h.bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = bump_combine(low, x, rows, frame)
        raw = OPS.combine(low, x.bfloat16(), rows, frame, True, "ieee")
        [gradient] = torch.autograd.grad(out.sum(), low)
    assert out.dtype == torch.float32 and gradient.dtype == torch.bfloat16
    assert torch.equal(out, bump_combine(low.float(), x, rows, frame))
    assert torch.equal(raw, bump_combine(low.float(), x.bfloat16().float(), rows, frame)) or backend == "reference"
    double = [t.double() for t in (h, x, rows, frame)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        oracle.assert_close(bump_combine(*double), literally(*double), 1e-12)


def test_tracing():
    *leaves, frame = problem()
    function = lambda h, x, rows: bump_combine(h, x, rows, frame).square().sum()  # noqa: E731
    torch._dynamo.reset()
    got, wanted = torch.compile(function, fullgraph=True, backend="aot_eager")(*leaves), function(*leaves)
    oracle.assert_close(got, wanted, 1e-13)
    for g, w in zip(*(torch.autograd.grad(t, leaves) for t in (got, wanted)), strict=True):
        oracle.assert_close(g, w, 1e-12)


def test_a_forced_reference_does_not_call_operators():
    leaves = problem()
    with use_backend("reference"):
        assert "bumpnet" not in str(bump_combine(*leaves).grad_fn).lower()
    assert "bumpnet" in str(bump_combine(*leaves).grad_fn).lower()


# --- what the precisions cost ------------------------------------------------------------------------


def tf32(a):
    """float32 with the 10 bits of mantissa that tensor cores read; the rest is cut off."""
    return (numpy.ascontiguousarray(a, numpy.float32).view(numpy.uint32) & numpy.uint32(0xFFFFE000)).view(numpy.float32)


def product(a, b, precision):
    """float32 ``a @ b`` as a device takes it: exact products of what is read of the operands, summed in float32."""
    if precision == "ieee":
        return a @ b
    high_a, high_b = tf32(a), tf32(b)
    high = high_a @ high_b
    if precision == "tf32":
        return high
    return high + (tf32(a - high_a) @ high_b + high_a @ tf32(b - high_b))


@pytest.mark.parametrize("precision, limit", [("tf32", 1e-3), ("tf32x3", 6e-7), ("ieee", 6e-7)])
def test_relative_error_of_each_precision(precision, limit):
    """In the norm, for coefficients of both signs: what the docstring and docs/gpu.md promise."""
    h, x, rows, frame = plain(*problem(functions=64, points=500, bumps=300))
    psi = reference.basis(x, rows, frame, 0, True)[0].T
    exact = (h @ psi).numpy()
    got = product(h.float().numpy(), psi.float().numpy(), precision)
    error = numpy.linalg.norm(got - exact) / numpy.linalg.norm(exact)
    print(f"{precision}: {error:.2g}")
    assert limit / 10 < error < limit
