"""The operators in PyTorch's machinery: autograd to any order, torch.func, autocast, torch.compile."""

import itertools
import shutil
import sys
import warnings

import oracle
import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from interpreted import INTERPRETED, OPERATORS
from torch.library import opcheck

from bumpnet_fast import BumpNet, bump_basis, bump_design, bump_jet, use_backend
from bumpnet_fast.core import ops
from bumpnet_fast.core.reference import WANTS, second_shape

OPS = torch.ops.bumpnet_fast
QUICK = ("test_schema", "test_autograd_registration", "test_faketensor")
in_every_want = pytest.mark.parametrize("want", WANTS)


def problem(dim=2, bumps=2, outputs=1, tied=True, points=3, dtype=torch.float64):
    rows, frame = oracle.bumps(dim, bumps, outputs, tied, dtype=dtype)
    x = oracle.points(dim, points, dtype=dtype)
    return x.requires_grad_(), rows.requires_grad_(), frame


def parts(jet):
    return tuple(t for t in (jet.value, jet.gradient, jet.second) if t is not None)


def random_like(tensors, seed=2):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in tensors]


# --- registration ----------------------------------------------------------------------------------


def calls(name, level, present=(True, True, True), needs=(True, True)):
    """Arguments of one operator; what ``present`` leaves out is None."""
    x, rows, frame = problem(outputs=2)
    bumps = (x, rows, frame, level, True)
    if name in ("jet", "basis"):
        return bumps
    tails = ((), (2,), second_shape(level, 2))
    shape = {"jet_vjp": lambda t: (3, 2, *t), "basis_vjp": lambda t: (2, *t, 3), "design": lambda t: (3, *t)}[name]
    weights = random_like([torch.empty(shape(t), dtype=torch.float64) for t in tails])
    weights = [w.requires_grad_() if p else None for w, p in zip(weights[: level + 1], present, strict=False)]
    weights += [None] * (3 - len(weights))
    return (*weights, *bumps, *((True,) if name == "design" else needs))


@in_every_want
@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck(name, want):
    opcheck(getattr(OPS, name), calls(name, WANTS.index(want)), test_utils=QUICK)


@pytest.mark.parametrize("name", ("jet_vjp", "basis_vjp", "design"))
@pytest.mark.parametrize("present", list(itertools.product((True, False), repeat=3)))
def test_opcheck_with_missing_cotangents(name, present):
    opcheck(getattr(OPS, name), calls(name, 4, present), test_utils=QUICK)


@pytest.mark.parametrize("name", ("jet_vjp", "basis_vjp"))
@pytest.mark.parametrize("needs", ((True, False), (False, True)))
def test_opcheck_with_one_gradient(name, needs):
    opcheck(getattr(OPS, name), calls(name, 3, needs=needs), test_utils=QUICK)


@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck_traced_with_dynamic_shapes(name):
    opcheck(getattr(OPS, name), calls(name, 3), test_utils="test_aot_dispatch_dynamic")


# --- reverse mode, to any order ----------------------------------------------------------------------


@in_every_want
@pytest.mark.parametrize("function", (bump_jet, bump_basis))
def test_gradcheck(backend, function, want):
    x, rows, frame = problem(outputs=2)
    assert torch.autograd.gradcheck(lambda x, r: parts(function(x, r, frame, want)), (x, rows))


@pytest.mark.parametrize("dim, tied", [(1, True), (1, False), (2, False), (3, True), (4, False)])
def test_gradcheck_in_other_dimensions(backend, dim, tied):
    x, rows, frame = problem(dim, tied=tied)
    assert torch.autograd.gradcheck(lambda x, r: parts(bump_jet(x, r, frame, "hessian", tied=tied)), (x, rows))


def design(c0, c1, c2, x, rows, frame, want):
    return bump_design((c0, c1, c2), x, rows, frame, want, derivatives=True)


@in_every_want
def test_gradcheck_of_the_design_matrix(backend, want):
    x, rows, frame = problem(points=2)
    level = WANTS.index(want)
    shapes = ((2,), (2, 2), (2, *second_shape(level, 2)))[: min(level, 2) + 1]
    weights = [w.requires_grad_() for w in random_like([torch.empty(s, dtype=torch.float64) for s in shapes])]

    def function(x, rows, *weights):
        return design(*(list(weights) + [None] * (3 - len(weights))), x, rows, frame, want)

    assert torch.autograd.gradcheck(function, (x, rows, *weights))
    assert torch.autograd.gradgradcheck(function, (x, rows, *weights), fast_mode=True)


@in_every_want
@pytest.mark.parametrize("function", (bump_jet, bump_basis))
def test_gradgradcheck(backend, function, want):
    x, rows, frame = problem()
    assert torch.autograd.gradgradcheck(lambda x, r: parts(function(x, r, frame, want)), (x, rows), fast_mode=True)


@pytest.mark.parametrize("name", OPERATORS)
def test_gradgradcheck_with_batched_gradients(name):
    args = calls(name, 4)
    slots = [i for i, a in enumerate(args) if isinstance(a, torch.Tensor) and a.requires_grad]

    def function(*values):
        filled = list(args)
        for slot, value in zip(slots, values, strict=True):
            filled[slot] = value
        return getattr(OPS, name)(*filled)

    inputs = tuple(args[i] for i in slots)
    assert torch.autograd.gradcheck(function, inputs, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(function, inputs, check_batched_grad=True, fast_mode=name != "jet")


@pytest.mark.parametrize("dim, tied", [(1, False), (2, True), (2, False), (3, True), (5, True)])
def test_chains_of_autograd_grad_to_third_order(backend, dim, tied):
    """The transparent lane: what DeepXDE and others do to ``net(x)``."""
    x, rows, frame = problem(dim, bumps=3, tied=tied)
    results = []
    for net in (lambda: bump_jet(x, rows, frame, tied=tied).value, lambda: oracle.net(x, rows, frame, tied)):
        u = net()[:, 0]
        first = oracle.gradient(u, x)
        second = oracle.gradient(first, x)
        third = oracle.gradient(second, x)
        residual = (third.flatten(1).sum(1) + u * second[:, 0, 0] - first[:, -1]).square().sum()
        results.append((u, first, second, third, *torch.autograd.grad(residual, (x, rows))))
    for i, (got, wanted) in enumerate(zip(*results, strict=True)):
        oracle.assert_close(got, wanted, 1e-10, f"result {i}")


@pytest.mark.parametrize("want", WANTS)
def test_a_jet_can_be_differentiated_three_times(backend, want):
    x, rows, frame = problem(bumps=3, outputs=2)
    results = []
    for jet in (parts(bump_jet(x, rows, frame, want)), oracle.jet(oracle.net(x, rows, frame, True), x, want)):
        scalar = sum((part * w).sum() for part, w in zip(jet, random_like(jet), strict=True))
        for seed in (5, 6):
            grads = torch.autograd.grad(scalar, (x, rows), create_graph=True)
            scalar = sum((g * w).sum() for g, w in zip(grads, random_like(grads, seed), strict=True))
        results.append(torch.autograd.grad(scalar, (x, rows)))
    for got, wanted in zip(*results, strict=True):
        oracle.assert_close(got, wanted, 1e-10)


@pytest.mark.parametrize("want", ("value", "gradient"))
def test_both_ways_to_the_gradient_by_x_agree(backend, want):
    """With create_graph the gradient is the next jet, without it is the fused product."""
    x, rows, frame = problem(bumps=3, outputs=2)
    jet = parts(bump_jet(x, rows, frame, want))
    weights = random_like(jet)
    fused = torch.autograd.grad(jet, (x, rows), weights, retain_graph=True)
    as_jet = torch.autograd.grad(jet, (x, rows), weights, create_graph=True)
    for a, b in zip(fused, as_jet, strict=True):
        assert not a.requires_grad and b.requires_grad
        oracle.assert_close(a, b, 1e-13)


def test_only_what_requires_a_gradient_gets_one(backend):
    x, rows, frame = problem()
    loss = bump_jet(x.detach(), rows, frame, "laplacian").laplacian.sum()
    assert torch.autograd.grad(loss, rows)[0].shape == rows.shape
    loss = bump_jet(x, rows.detach(), frame, "laplacian").laplacian.sum()
    assert torch.autograd.grad(loss, x)[0].shape == x.shape
    assert not bump_jet(x.detach(), rows.detach(), frame, "laplacian").laplacian.requires_grad
    with torch.no_grad():
        assert not bump_jet(x, rows, frame).value.requires_grad


@in_every_want
def test_part_of_a_jet_in_the_loss(backend, want):
    """Cotangents that are None, and the zeros of a part that another part pulls in."""
    x, rows, frame = problem(bumps=3)
    jet = parts(bump_jet(x, rows, frame, want))
    for used in range(len(jet)):
        got = torch.autograd.grad(jet[used].square().sum(), (x, rows), retain_graph=True)
        wanted_part = oracle.jet(oracle.net(x, rows, frame, True), x, want)[used]
        for g, w in zip(got, torch.autograd.grad(wanted_part.square().sum(), (x, rows)), strict=True):
            oracle.assert_close(g, w, 1e-11)


# --- torch.func and forward mode ---------------------------------------------------------------------


def scalar_field(net, rows, frame):
    return lambda point, rows=rows: net(point[None], rows, frame)[0, 0]


def by_bump_jet(x, rows, frame):
    return bump_jet(x, rows, frame).value


def by_oracle(x, rows, frame):
    return oracle.net(x, rows, frame, True)


def plain(*tensors):
    return tuple(t.detach() for t in tensors)


@pytest.mark.parametrize("transform", ("jvp", "jacfwd", "jacrev", "hessian", "vmap_grad", "grad_by_rows", "vjp"))
def test_torch_func(backend, transform):
    x, rows, frame = plain(*problem(bumps=3, outputs=2))
    dx, drows = random_like((x, rows))
    func = torch.func

    def answer(net):
        field = scalar_field(net, rows, frame)
        values = lambda x, rows: net(x, rows, frame)  # noqa: E731
        return {
            "jvp": lambda: func.jvp(values, (x, rows), (dx, drows)),
            "jacfwd": lambda: func.jacfwd(values, (0, 1))(x, rows),
            "jacrev": lambda: func.jacrev(values, (0, 1))(x, rows),
            "hessian": lambda: (func.vmap(func.hessian(field))(x),),
            "vmap_grad": lambda: (func.vmap(func.grad(field))(x),),
            "grad_by_rows": lambda: (func.grad(lambda r: values(x, r).square().sum())(rows),),
            "vjp": lambda: func.vjp(values, x, rows)[1](torch.ones(3, 2, dtype=x.dtype)),
        }[transform]()

    for got, wanted in zip(answer(by_bump_jet), answer(by_oracle), strict=True):
        assert wanted.abs().max() > 0
        oracle.assert_close(got, wanted, 1e-11)


@in_every_want
def test_forward_mode_is_right_and_not_silently_zero(backend, want):
    x, rows, frame = plain(*problem(bumps=3, outputs=2))
    dx, drows = random_like((x, rows))
    _, tangents = torch.func.jvp(lambda x, r: parts(bump_jet(x, r, frame, want)), (x, rows), (dx, drows))
    with forward_ad.dual_level():
        duals = parts(bump_jet(forward_ad.make_dual(x, dx), forward_ad.make_dual(rows, drows), frame, want))
        dual_tangents = [forward_ad.unpack_dual(part).tangent for part in duals]
    leaves = (x.requires_grad_(), rows.requires_grad_())
    for part, tangent, dual_tangent in zip(parts(bump_jet(*leaves, frame, want)), tangents, dual_tangents, strict=True):
        weights = random_like([part])[0]
        by_x, by_rows = torch.autograd.grad(part, leaves, weights, retain_graph=True)
        wanted = (by_x * dx).sum() + (by_rows * drows).sum()
        for got in (tangent, dual_tangent):
            assert got is not None and got.abs().max() > 0
            oracle.assert_close((got * weights).sum(), wanted, 1e-11)


@pytest.mark.parametrize("function", (bump_basis, bump_design))
def test_forward_mode_of_basis_and_design(backend, function):
    x, rows, frame = plain(*problem(bumps=3))
    dx, drows = random_like((x, rows))
    weights = tuple(random_like((x[:, 0], x, x[:, 0])))

    def values(x, rows):
        if function is bump_design:
            return bump_design(weights, x, rows, frame, "laplacian", derivatives=True)
        return parts(bump_basis(x, rows, frame, "laplacian"))

    _, tangents = torch.func.jvp(values, (x, rows), (dx, drows))
    step = 1e-5
    above, below = (values(x + s * dx, rows + s * drows) for s in (step, -step))
    for tangent, a, b in zip(tangents, above, below, strict=True):
        assert tangent.abs().max() > 0
        oracle.assert_close(tangent, (a - b) / (2 * step), 1e-7)


def test_a_dual_cotangent_alone_gets_its_tangent(backend):
    """The forward ran outside the dual level, so only the backward can see it."""
    x, rows, frame = problem(bumps=3)
    for values in (bump_jet(x, rows, frame).value, bump_basis(x, rows, frame).value):
        v, dv = random_like((values, values))
        with forward_ad.dual_level():
            grads = torch.autograd.grad(values, (x, rows), forward_ad.make_dual(v, dv), retain_graph=True)
            tangents = [forward_ad.unpack_dual(g).tangent for g in grads]
        linear = torch.autograd.grad(values, (x, rows), dv, retain_graph=True)
        for tangent, wanted in zip(tangents, linear, strict=True):
            assert tangent is not None
            oracle.assert_close(tangent, wanted, 1e-13)


def test_the_private_names_that_detect_transforms():
    """Forward mode is zero without an error if PyTorch renames these: then ops.under_transform needs care."""
    seen = []

    def look(x):
        seen.append((torch._C._are_functorch_transforms_active(), ops.under_transform()))
        return x

    assert not torch._C._are_functorch_transforms_active()
    assert torch.autograd.forward_ad._current_level < 0
    assert not ops.under_transform()
    for transform in (torch.func.vmap(look), torch.func.grad(lambda x: look(x).sum())):
        transform(torch.ones(2))
    torch.func.jvp(look, (torch.ones(2),), (torch.ones(2),))
    assert seen == [(True, True)] * 3
    with forward_ad.dual_level():
        assert torch.autograd.forward_ad._current_level >= 0 and ops.under_transform()


@pytest.mark.parametrize("name", OPERATORS)
def test_vmap_of_the_operators_themselves(name):
    """Batched over every tensor argument in turn, and over all of them at once."""
    args = [a.detach() if isinstance(a, torch.Tensor) else a for a in calls(name, 3)]
    tensors = [i for i, a in enumerate(args) if isinstance(a, torch.Tensor)]
    for mapped in [[i] for i in tensors] + [tensors]:
        stacked = list(args)
        for i in mapped:
            stacked[i] = torch.stack([args[i], 1.1 * args[i]])
        in_dims = tuple(0 if i in mapped else None for i in range(len(args)))
        got = torch.vmap(getattr(OPS, name), in_dims)(*stacked)
        each = [getattr(OPS, name)(*(a[k] if i in mapped else a for i, a in enumerate(stacked))) for k in (0, 1)]
        for g, pair in zip(got, zip(*each, strict=True), strict=True):
            oracle.assert_close(g, torch.stack(pair), 1e-13, f"{name} over {mapped}")


# --- autocast ----------------------------------------------------------------------------------------


def test_autocast_computes_in_the_dtype_of_the_rows(backend):
    for dtype in (torch.float32, torch.float64):
        x, rows, frame = plain(*problem(bumps=3, dtype=dtype))
        expected = bump_jet(x, rows, frame, "hessian")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = bump_jet(x, rows, frame, "hessian")
        for g, e in zip(parts(got), parts(expected), strict=True):
            assert g.dtype == dtype and torch.equal(g, e)


def test_autocast_lifts_low_precision_points(backend):
    x, rows, frame = plain(*problem(bumps=3, dtype=torch.float32))
    low = x.bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = bump_jet(low, rows, frame).value
    assert value.dtype == torch.float32
    assert torch.equal(value, bump_jet(low.float(), rows, frame).value)
    assert torch.autograd.grad(value.sum(), low)[0].dtype == torch.bfloat16


def test_autocast_of_the_operators_themselves():
    x, rows, frame = plain(*problem(bumps=3, dtype=torch.float32))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = OPS.jet(x.bfloat16(), rows, frame, 0, True)[0]
        double = OPS.jet(x.double(), rows.double(), frame.double(), 0, True)[0]
    assert torch.equal(value, OPS.jet(x.bfloat16().float(), rows, frame, 0, True)[0])
    assert double.dtype == torch.float64


# --- tracing -----------------------------------------------------------------------------------------

needs_compiler = pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler")


@pytest.mark.parametrize("compiler", ["aot_eager", pytest.param("inductor", marks=needs_compiler)])
def test_a_compiled_loss_and_its_gradient(compiler):
    net = BumpNet(2, 6, dtype="float64")
    net.perturb_(0.2, torch.Generator().manual_seed(0))
    torch.nn.init.ones_(net.amplitudes.data)

    def loss(x):
        jet = net.jet(x, want="laplacian")
        return (jet.laplacian + jet.value**2 - jet.d(0)).square().mean()

    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend=compiler)
    for n in (5, 9):
        x = oracle.points(2, n).requires_grad_()
        got, wanted = compiled(x), loss(x)
        oracle.assert_close(got, wanted, 1e-13)
        for g, w in zip(*(torch.autograd.grad(t, (x, net.rows)) for t in (got, wanted)), strict=True):
            oracle.assert_close(g, w, 1e-12)


def test_tracing_keeps_the_operators():
    """A compiled backward must hold the fused kernels, not the reference taken apart."""
    graphs = []

    def keep(graph, _):
        graphs.append({str(node.target) for node in graph.graph.nodes})
        return graph

    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    backend = aot_autograd(fw_compiler=lambda g, i: make_boxed_func(keep(g, i)))
    net = BumpNet(2, 3)
    torch._dynamo.reset()
    loss = torch.compile(lambda x: net.jet(x).hessian.square().sum(), fullgraph=True, backend=backend)(torch.rand(4, 2))
    loss.backward()
    assert "bumpnet_fast.jet.default" in graphs[0]
    assert any("bumpnet_fast.jet_vjp.default" in graph for graph in graphs[1:])


def test_compiled_transforms():
    x, rows, frame = plain(*problem(bumps=3))
    dx, _ = random_like((x, rows))

    def tangent(x):
        return torch.func.jvp(lambda x: bump_jet(x, rows, frame, "gradient").gradient, (x,), (dx,))[1]

    torch._dynamo.reset()
    got = torch.compile(tangent, fullgraph=True, backend="aot_eager")(x)
    assert got.abs().max() > 0
    oracle.assert_close(got, tangent(x), 1e-13)


def test_export():
    net, x = BumpNet(2, 3), torch.rand(4, 2)
    torch.nn.init.ones_(net.amplitudes.data)
    assert torch.equal(torch.export.export(net, (x,)).module()(x), net(x))


# --- the reference behind the operators ----------------------------------------------------------------


@pytest.mark.parametrize("name", OPERATORS)
def test_the_reference_in_chunks_is_the_reference(name, monkeypatch):
    args = calls(name, 3)
    whole = ops._chunked(name, *args)
    monkeypatch.setattr(ops, "_CHUNK_ENTRIES", 8)
    for got, wanted in zip(ops._chunked(name, *args), whole, strict=True):
        oracle.assert_close(got, wanted, 1e-14)


# --- Triton kernels that cannot be imported ------------------------------------------------------------


no_interpreter = pytest.mark.skipif(INTERPRETED, reason="there the kernels are loaded, and stay")


class Finder:
    """Stands in the way of an import with an error."""

    def __init__(self, name, error):
        self.name, self.error = name, error

    def find_spec(self, name, path=None, target=None):
        if name == self.name:
            raise self.error


@pytest.fixture
def fails(monkeypatch):
    """Have the import of a module fail, and the Triton kernels imported anew."""

    def fail(name, error):
        for loaded in [m for m in sys.modules if m.startswith("bumpnet_fast.kernels.")]:
            monkeypatch.delitem(sys.modules, loaded)
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.setattr(sys, "meta_path", [Finder(name, error), *sys.meta_path])

    monkeypatch.delenv("BUMPNET_FAST_BACKEND", raising=False)
    caches = ops._triton_kernels, ops._combine_kernels
    for cached in caches:
        cached.cache_clear()
    yield fail
    for cached in caches:
        cached.cache_clear()


@pytest.mark.parametrize("error", [
    ImportError("cannot import name 'jet_kernel'"),
    ModuleNotFoundError("No module named 'triton.language'", name="triton.language"),
    ModuleNotFoundError("No module named 'bumpnet_fast.kernels'", name="bumpnet_fast.kernels"),
], ids=str)  # fmt: skip
@no_interpreter
@pytest.mark.parametrize("module", ["operators", "combine_operators"])
def test_kernels_that_cannot_be_imported_are_told_of_once(module, error, fails, monkeypatch):
    fails(f"bumpnet_fast.kernels.{module}", error)
    if module == "combine_operators":
        monkeypatch.setattr(ops, "_triton_kernels", lambda: ops)
    x, rows, frame = torch.zeros(3, 1), torch.rand(2, 4), torch.tensor([[-1.0], [1.0], [1.0]])
    calls = {
        "operators": lambda: ops._on_cuda("jet", x, rows, frame, 0, True)[0],
        "combine_operators": lambda: ops._combine_on_cuda("combine", torch.ones(1, 2), x, rows, frame, True, "ieee"),
    }
    wanted = {
        "operators": lambda: ops.plain("jet", x, rows, frame, 0, True)[0],
        "combine_operators": lambda: ops.plain("combine", torch.ones(1, 2), x, rows, frame, True, "ieee"),
    }
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            torch.testing.assert_close(calls[module](), wanted[module]())
    told = [str(w.message) for w in caught if issubclass(w.category, RuntimeWarning)]
    assert len(told) == 1 and str(error) in told[0] and "slower" in told[0]


@no_interpreter
@pytest.mark.parametrize("backend", ["", "reference"])
def test_without_triton_the_reference_serves_without_a_word(backend, fails, monkeypatch):
    monkeypatch.setenv("BUMPNET_FAST_BACKEND", backend)
    fails("bumpnet_fast.kernels.operators", ModuleNotFoundError("No module named 'triton'", name="triton"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ops._triton_kernels() is None and ops._combine_kernels() is None


def test_a_forced_reference_does_not_call_operators():
    x, rows, frame = problem()
    with use_backend("reference"):
        assert "bumpnet" not in str(bump_jet(x, rows, frame).value.grad_fn).lower()
    assert "bumpnet" in str(bump_jet(x, rows, frame).value.grad_fn).lower()
