"""The Triton kernels in Triton's interpreter, against the float64 reference.

Run by test_interpreted.py in a process of its own: whether kernels are interpreted is decided when Triton is imported.
The kernels serve the operators' CPU tensors here, through autograd and all, in the place of the compiled extension.
"""

import itertools
import math

import compiled
import oracle
import pytest
import test_kernels
import torch
from test_kernels import TOLERANCES, assert_agrees, cast, levels, problem, sharpened, wanted

from bumpnet_fast import BumpNet, native, ops
from bumpnet_fast.reference import DIAGONAL, GRADIENT, HESSIAN, LAPLACIAN, VALUE, WANTS
from bumpnet_fast.rows import RowLayout

operators = compiled.operators()
_LIBRARY = torch.library.Library("bumpnet_fast", "IMPL")
for _name in ops.OPERATORS:
    _LIBRARY.impl(_name, getattr(operators, _name), "CPU")

NAMES = ops.OPERATORS


def run(name, *args):
    return getattr(torch.ops.bumpnet_fast, name)(*args)


@pytest.fixture
def blocks(monkeypatch):
    """Choose points in a block, bumps side by side, bumps in a block, and points in a chunk."""

    def choose(block, split, bumps, length):
        monkeypatch.setattr(operators, "by_points", lambda *_: (block, split, 4))
        chunks = lambda n, *_: (bumps, 1, length, -(-n // length))  # noqa: E731
        monkeypatch.setattr(operators, "by_bumps", chunks)

    return choose


def check(dim, tied, want, n, m, outputs, dtype, slack=1):
    for name, args in problem(dim, tied, want, n, m, outputs).items():
        if name in NAMES:
            limits = [slack * TOLERANCES[dtype][k] for k in levels(name, want)]
            assert_agrees(run(name, *cast(args, dtype)), wanted(name, args), limits, f"{name} {dtype} {n} {m}")


def test_the_interpreter_is_on():
    from triton.runtime.interpreter import InterpretedFunction

    assert native.missing and isinstance(operators.jet_kernel, InterpretedFunction)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("want", range(5), ids=WANTS)
@pytest.mark.parametrize("dim", (1, 2, 3, 4))
def test_agreement_with_the_reference(dim, want, dtype):
    """Ragged numbers of points, bumps and outputs, as the tables would launch them."""
    many = 33 + dim if dtype == torch.float64 else 9
    check(dim, bool((dim + want) % 2), want, many, 9 - want, 1, dtype)
    check(dim, bool((dim + want + 1) % 2), want, 5, 2 + dim, 1 + (dim + want) % 4, dtype)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("want", range(5), ids=WANTS)
def test_blocks_of_any_size(blocks, want, dtype):
    """Bumps one after another, several blocks of points and of bumps, several chunks."""
    for dim, outputs in ((1, 2), (2, 1)):
        blocks(8, 1, 4, 5)
        check(dim, True, want, 11, 6, outputs, dtype)


@pytest.mark.parametrize("split", (1, 4))
@pytest.mark.parametrize("want", range(5), ids=WANTS)
def test_a_sum_of_very_many_bumps_in_two_levels(blocks, monkeypatch, want, split):
    """Runs of bumps, the last one short, added to what the program has stored; every entry of a Hessian once."""
    blocks(8, split, 4, 5)
    monkeypatch.setattr(operators, "run_of_bumps", lambda *_: 2)
    args = problem(2, True, want, 11, 9, 2)["jet"]
    limits = [TOLERANCES[torch.float64][k] for k in levels("jet", want)]
    assert_agrees(run("jet", *cast(args, torch.float64)), wanted("jet", args), limits, f"runs of {2 * split}")


def test_sums_in_float32_are_short():
    assert operators.run_of_bumps(1000, torch.float32) == operators.run_of_bumps(10**6, torch.float64) == 0
    assert 1 < operators.run_of_bumps(10**4, torch.float32) < 1000
    for n, m in ((10**6, 1000), (10**8, 1000), (10**9, 40)):
        _, _, length, chunks = operators.by_bumps(n, m, 9, True)
        assert length <= 2**14 and (chunks - 1) * length < n <= chunks * length and chunks < 2**16


@pytest.mark.parametrize("n", (2**13 + 1, 2**16 + 1))
def test_many_points(n):
    """The other rows of the table; the forward only, for the interpreter's backward runs point by point."""
    args = problem(2, True, HESSIAN, n, 2, 1)["jet"]
    assert_agrees(run("jet", *cast(args, torch.float64)), wanted("jet", args), TOLERANCES[torch.float64], f"{n}")


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("pA", (1e-4, 1e3, 1e8))
def test_extreme_bumps(pA, dtype):
    """p A from nothing to steps: always numbers; right in float64, and in float32 as far as that has digits."""
    rows, frame = oracle.bumps(2, 4, 1, True, dtype=torch.float32)
    rows[0, RowLayout(2).skew] = 100.0
    rows = sharpened(rows, frame, True, pA)
    x = torch.cat([oracle.points(2, 12, dtype=torch.float32), torch.tensor([[1e6, -1e6], [-1e18, 1e18]])])
    for name, args in test_kernels.arguments(x, rows, frame, HESSIAN, True).items():
        if name in NAMES:
            got, expected = run(name, *cast(args, dtype)), wanted(name, args)
            assert all(torch.isfinite(t).all() for t in got), name
            if dtype == torch.float64:
                assert_agrees(got, expected, [1e-9] * len(got) if pA < 1e8 else [1e-4] * len(got), f"{name} {pA}")
            elif pA < 1:
                assert_agrees(got, expected, [5e-4] * len(got), f"{name} {pA}")


@pytest.mark.parametrize("dim", (1, 2, 3, 4))
def test_a_point_that_is_no_number_gives_nan_there_only(dim):
    for dtype, want in ((torch.float32, VALUE), (torch.float64, HESSIAN)):
        problems = {name: cast(a, dtype) for name, a in problem(dim, True, want, 3, 2, 2).items() if name in NAMES}
        clean = {name: run(name, *args) for name, args in problems.items()}
        for i, bad in enumerate((math.nan, math.inf, -math.inf)):
            broken = problems["jet"][0].clone()
            broken[i, i % dim] = bad
            others = torch.arange(3) != i
            dirty = run("jet", broken, *problems["jet"][1:])
            dirty_x, dirty_rows = run("jet_vjp", *problems["jet_vjp"][:3], broken, *problems["jet_vjp"][4:])
            assert torch.isnan(dirty_rows[:, : RowLayout(dim).shape_columns]).all()
            for d, c in zip((*dirty, dirty_x), (*clean["jet"], clean["jet_vjp"][0]), strict=True):
                if d.shape != (0,):
                    assert torch.isnan(d[i]).all() and torch.equal(d[others], c[others])


@pytest.mark.parametrize("tied", (True, False), ids=("tied", "free"))
def test_a_row_that_is_no_number_gives_nan_everywhere(tied):
    layout = RowLayout(3, 1, tied)
    args = cast(problem(3, tied, HESSIAN, 5, 3, 1)["jet"], torch.float32)
    for column in range(layout.columns):
        broken = args[1].clone()
        broken[1, column] = math.nan
        for t in run("jet", args[0], broken, *args[2:]):
            assert torch.isnan(t).all(), layout.names[column]


def test_only_what_is_needed_and_given():
    head = cast(problem(2, True, DIAGONAL, 3, 2, 2)["jet_vjp"], torch.float64)[:-2]
    for present in itertools.product((True, False), repeat=3):
        some = [g if here else None for g, here in zip(head[:3], present, strict=True)]
        zeros = [g if here else torch.zeros_like(g) for g, here in zip(head[:3], present, strict=True)]
        both = run("jet_vjp", *zeros, *head[3:], True, True)
        for needs in itertools.product((True, False), repeat=2):
            got = run("jet_vjp", *some, *head[3:], *needs)
            for g, full, need in zip(got, both, needs, strict=True):
                assert g.shape == (full.shape if need else (0,))
                if need:
                    oracle.assert_close(g, full, 1e-13, f"{present} {needs}")


@pytest.mark.parametrize("view", (test_kernels.strided, test_kernels.transposed, test_kernels.offset))
def test_any_strides(view):
    for name, args in problem(2, False, HESSIAN, 9, 3, 2).items():
        if name in NAMES:
            viewed = [view(t) if isinstance(t, torch.Tensor) else t for t in args]
            for got, expected in zip(run(name, *viewed), run(name, *args), strict=True):
                assert torch.equal(got, expected), name


@pytest.mark.parametrize("n, m", ((0, 3), (3, 0), (0, 0)))
def test_no_points_or_no_bumps(n, m):
    rows, frame = oracle.bumps(2, m, 2, True)
    x = oracle.points(2, n)
    value, gradient, hessian = run("jet", x, rows, frame, HESSIAN, True)
    assert value.shape == (n, 2) and gradient.shape == (n, 2, 2) and hessian.shape == (n, 2, 2, 2)
    assert not value.any() and not gradient.any() and not hessian.any()
    by_x, by_rows = run("jet_vjp", value, gradient, hessian, x, rows, frame, HESSIAN, True, True, True)
    assert by_x.shape == x.shape and by_rows.shape == rows.shape and not by_x.any() and not by_rows.any()


def test_what_the_kernels_do_not_serve_is_left_to_the_reference(monkeypatch):
    monkeypatch.delenv("BUMPNET_FAST_BACKEND")
    ops._triton_kernels.cache_clear()
    assert operators.serves("jet", 4, 4, torch.float32) and operators.serves("basis", 1, 9, torch.float64)
    assert not any(
        operators.serves("jet", *a) for a in ((5, 1, torch.float32), (2, 5, torch.float32), (2, 0, torch.float64))
    )
    assert not operators.serves("design", 2, 1, torch.float16)
    for outputs in (1, 5):
        args = problem(2, True, LAPLACIAN, 7, 3, outputs)
        for name in NAMES:
            got = ops._on_cuda(name, *cast(args[name], torch.float64))
            assert_agrees(got, wanted(name, args[name]), [1e-10] * len(got), name)
    assert ops._triton_kernels() is operators
    monkeypatch.setenv("BUMPNET_FAST_BACKEND", "reference")
    ops._triton_kernels.cache_clear()
    assert ops._triton_kernels() is None


# --- a training step -------------------------------------------------------------------------------


@pytest.mark.parametrize("want", ("value", "diagonal", "laplacian"))
def test_a_training_step_is_five_launches(monkeypatch, want):
    launches = compiled.record(monkeypatch, run=True)
    net = BumpNet(2, 9)
    with torch.no_grad():
        net.amplitudes.fill_(0.3)
    jet = net.jet(oracle.points(2, 21, dtype=net.rows.dtype), want=want)
    (jet.value.square().mean() + getattr(jet, want).square().mean()).backward()
    assert torch.isfinite(net.rows.grad).all() and net.rows.grad.any()
    assert [launch.name for launch in launches] == [
        "pack_kernel", "jet_kernel", "pack_kernel", "jet_vjp_rows_kernel", "unpack_gradient_kernel",
    ]  # fmt: skip


def test_autograd_to_the_third_order_stays_on_the_kernels(monkeypatch):
    """A Laplacian taken by nested autograd agrees with the fused one, in its gradient too."""
    launches = compiled.record(monkeypatch, run=True)
    net = BumpNet(2, 4, dtype="float64")
    with torch.no_grad():
        net.amplitudes.fill_(0.3)
    x = oracle.points(2, 6).requires_grad_()
    [gradient] = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    nested = sum(torch.autograd.grad(gradient[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(2))
    [wanted_rows] = torch.autograd.grad(nested.square().sum(), net.rows)
    assert {"jet_kernel", "jet_vjp_rows_kernel"} <= {launch.name for launch in launches}
    fused = net.jet(x.detach(), want="laplacian").laplacian[:, 0]
    oracle.assert_close(fused, nested, 1e-10)
    [got_rows] = torch.autograd.grad(fused.square().sum(), net.rows)
    oracle.assert_close(got_rows, wanted_rows, 1e-9)


def test_results_do_not_change_from_call_to_call(blocks):
    """Deterministic, also where many programs share a sum."""
    blocks(8, 4, 4, 5)
    args = cast(problem(2, True, GRADIENT, 40, 6, 1)["jet_vjp"], torch.float32)
    for first, second in zip(run("jet_vjp", *args), run("jet_vjp", *args), strict=True):
        assert torch.equal(first, second)
