"""The kernels of ``combine`` in Triton's interpreter, against the float64 reference.

Run by test_combine_kernels.py in a process of its own; see checks_interpreted.py.  The interpreter ignores how precise
a product is asked to be, so float32 is held to its own precision.
"""

import math

import compiled
import oracle
import pytest
import torch

from bumpnet_fast import bump_combine
from bumpnet_fast.core import backends as native
from bumpnet_fast.core import ops, reference
from bumpnet_fast.core.rows import RowLayout
from bumpnet_fast.kernels import combine_operators

_LIBRARY = torch.library.Library("bumpnet_fast", "IMPL")
for _name in ("combine", "combine_vjp"):
    _LIBRARY.impl(_name, getattr(combine_operators, _name), "CPU")

SINGLE, DOUBLE = torch.float32, torch.float64
TOLERANCES = {DOUBLE: (1e-12, 1e-10), SINGLE: (1e-5, 5e-4)}
BLOCK = (16, 32, 16)  # functions, points and bumps, as ``small`` sets them


@pytest.fixture
def small(monkeypatch):
    """Small blocks, so that several of each kind meet in a small problem."""
    b, n, m = BLOCK
    shape = dict(BLOCK_B=b, BLOCK_N=n, BLOCK_M=m, num_warps=4)
    monkeypatch.setattr(combine_operators, "blocks", lambda *_: dict.fromkeys(("forward", "h", "rows", "x"), shape))
    monkeypatch.setattr(combine_operators, "chunks", lambda n, tiles: (40, -(-n // 40)))


def problem(dim, functions, points, bumps, outputs=0, tied=True, dtype=DOUBLE):
    """g, h, x, rows and frame, in numbers that float32 holds exactly."""
    generator = torch.Generator().manual_seed(functions + 10 * points + 100 * bumps)
    rows, frame = oracle.bumps(dim, bumps, outputs, tied, dtype=SINGLE)
    g, h = (torch.rand(functions, size, generator=generator) + 0.1 for size in (points, bumps))
    return [t.to(dtype) for t in (g, h, oracle.points(dim, points, dtype=SINGLE), rows, frame)]


def run(g, h, x, rows, frame, tied=True, precision="tf32x3"):
    call = torch.ops.bumpnet_fast
    out = call.combine(h, x, rows, frame, tied, precision)
    return out, *call.combine_vjp(g, h, x, rows, frame, tied, precision, True, True, True)


def check(*arguments, precision="tf32x3"):
    dim, functions, points, bumps, outputs, tied, dtype = arguments
    args = problem(*arguments)
    got = run(*args, tied, precision)
    double = [t.double() for t in args]
    wanted = (reference.combine(*double[1:], tied), *reference.combine_vjp(*double, tied))
    value, gradient = TOLERANCES[dtype]
    for what, a, b, limit in zip(
        ["out", "h", "x", "rows"], got, wanted, (value, value, gradient, gradient), strict=True
    ):
        assert a.dtype == dtype and a.is_contiguous()
        oracle.assert_close(a, b, limit, f"{what} {arguments} {precision}")


def test_the_interpreter_is_on():
    from triton.runtime.interpreter import InterpretedFunction

    assert native.missing and isinstance(combine_operators.combine_kernel, InterpretedFunction)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("tied", (True, False), ids=("tied", "free"))
@pytest.mark.parametrize("outputs", (0, 2))
@pytest.mark.parametrize("dim", (1, 2, 3, 4))
def test_agreement_with_the_reference(dim, outputs, tied, dtype):
    """With the blocks that would be launched."""
    check(dim, 5 + dim, 41 - dim, 20 - dim, outputs, tied, dtype)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("which", (0, 1, 2), ids=("functions", "points", "bumps"))
@pytest.mark.parametrize("more", (-1, 0, 1))
def test_numbers_around_a_block(small, which, more, dtype):
    sizes = [5, 9, 7]
    sizes[which] = BLOCK[which] + more
    check(2, *sizes, 1, True, dtype)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("precision", ops.PRECISIONS)
def test_many_blocks_and_chunks(small, precision, dtype):
    if precision != "tf32" or dtype == DOUBLE:
        check(2, 18, 85, 18, 0, True, dtype, precision=precision)


def test_the_blocks_of_many_points(monkeypatch):
    many = combine_operators.blocks(2, 70, 2**20, "tf32x3", SINGLE)
    monkeypatch.setattr(combine_operators, "blocks", lambda *_: many)
    check(2, 70, 140, 17, 0, True, SINGLE)


@pytest.mark.parametrize("functions, points, bumps", [(0, 3, 2), (3, 0, 2), (3, 2, 0), (0, 0, 0), (1, 1, 1)])
def test_nothing_and_one(functions, points, bumps):
    check(2, functions, points, bumps, 1, True, DOUBLE)


def test_amplitudes_get_no_gradient():
    _, _, _, by_rows = run(*problem(2, 3, 9, 4, outputs=2))
    amplitude = RowLayout(2, 2).amplitude
    assert not by_rows[:, amplitude].any() and by_rows[:, : amplitude.start].all()


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("bad", (math.nan, math.inf, -math.inf))
def test_a_point_that_is_no_number_gives_nan_there_only(bad, dtype):
    for dim in (1, 2, 3, 4):
        g, h, x, rows, frame = problem(dim, 3, 5, 4, dtype=dtype)
        clean = run(g, h, x, rows, frame)
        x[2, dim - 1] = bad
        dirty = run(g, h, x, rows, frame)
        others = torch.arange(5) != 2
        assert torch.isnan(dirty[0][:, 2]).all() and torch.equal(dirty[0][:, others], clean[0][:, others])
        assert torch.isnan(dirty[2][2]).all() and torch.equal(dirty[2][others], clean[2][others])
        assert torch.isnan(dirty[1]).all() and torch.isnan(dirty[3]).all()


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_a_row_or_a_coefficient_that_is_no_number(dtype):
    layout = RowLayout(3, 0, False)
    for column in range(layout.columns):
        g, h, x, rows, frame = problem(3, 3, 5, 4, 0, False, dtype)
        rows[1, column] = math.nan
        out = torch.ops.bumpnet_fast.combine(h, x, rows, frame, False, "ieee")
        assert torch.isnan(out).all(), layout.names[column]
    g, h, x, rows, frame = problem(2, 3, 5, 4, dtype=dtype)
    h[1, 2] = math.nan
    out = run(g, h, x, rows, frame)[0]
    assert torch.isnan(out[1]).all() and torch.isfinite(out[[0, 2]]).all()


def test_any_strides():
    args = problem(2, 4, 9, 5)
    for view in (lambda t: t.T.contiguous().T, lambda t: torch.stack([t, t], -1)[..., 0]):
        for got, wanted in zip(run(*map(view, args)), run(*args), strict=True):
            assert torch.equal(got, wanted)
    g, *rest = args
    for got, wanted in zip(
        run(g[:1, :1].expand(g.shape), *rest), run(g[0, 0] * torch.ones_like(g), *rest), strict=True
    ):
        assert torch.equal(got, wanted)


def test_only_what_is_needed():
    args = problem(2, 3, 5, 4)
    full = run(*args)[1:]
    for i in range(8):
        needs = [bool(i >> j & 1) for j in range(3)]
        for got, wanted, need in zip(
            torch.ops.bumpnet_fast.combine_vjp(*args, True, "ieee", *needs), full, needs, strict=True
        ):
            assert torch.equal(got, wanted) if need else got.shape == (0,)


def test_the_split_holds_float32(small):
    """tf32x3 in the interpreter multiplies exactly, so the parts must add up to the whole."""
    args = problem(2, 20, 33, 17, dtype=SINGLE)
    for split, whole in zip(run(*args, precision="tf32x3"), run(*args, precision="ieee"), strict=True):
        oracle.assert_close(split, whole, 2e-6)


def test_autograd_runs_on_the_kernels(monkeypatch):
    launches = []
    names = [name for name in vars(combine_operators) if name.endswith("_kernel")]
    for name in names:
        kernel = getattr(combine_operators, name)
        monkeypatch.setattr(combine_operators, name, compiled.Recorder(name, kernel, launches, run=True))
    _, *leaves, frame = problem(2, 3, 9, 4)
    leaves = [t.requires_grad_() for t in leaves]
    bump_combine(*leaves, frame).square().sum().backward()
    assert sorted(launch.name for launch in launches) == sorted(names) and len(names) == 4
    got = [t.grad for t in leaves]
    wanted = torch.autograd.grad(reference.combine(*leaves, frame, True).square().sum(), leaves)
    for a, b in zip(got, wanted, strict=True):
        oracle.assert_close(a, b, 1e-10)


def test_results_do_not_change_from_call_to_call(small):
    args = problem(2, 17, 85, 17, dtype=SINGLE)
    for first, second in zip(run(*args), run(*args), strict=True):
        assert torch.equal(first, second)


def test_what_a_cuda_tensor_meets(monkeypatch):
    """The CUDA entry of the operators: these kernels up to d = 4, the basis beyond and without Triton."""
    assert combine_operators.serves(4, SINGLE) and not combine_operators.serves(5, SINGLE)
    assert not combine_operators.serves(2, torch.float16)
    for backend in ("", "reference"):
        monkeypatch.setenv("BUMPNET_FAST_BACKEND", backend)
        ops._triton_kernels.cache_clear()
        ops._combine_kernels.cache_clear()
        assert (ops._combine_kernels() is combine_operators) == (backend == "")
        for dim in (2, 5):
            args = problem(dim, 3, 5, 4)
            got = ops._combine_on_cuda("combine", *args[1:], True, "tf32x3")
            oracle.assert_close(got, reference.combine(*args[1:], True), 1e-12)
            got = ops._combine_on_cuda("combine_vjp", *args, True, "tf32x3", True, True, True)
            for a, b in zip(got, reference.combine_vjp(*args, True), strict=True):
                oracle.assert_close(a, b, 1e-10)
    ops._triton_kernels.cache_clear()
    ops._combine_kernels.cache_clear()
