"""What is Triton's own of the kernels in its interpreter: blocks, configurations, launches, and which operators.

Run by test_interpreted.py in a process of its own, as are the tests that all backends share (tests/test_kernels.py,
tests/test_ops.py): see tests/interpreted.py.
"""

import functools

import compiled
import oracle
import pytest
import torch
from interpreted import OPERATORS
from test_kernels import TOLERANCES, assert_agrees, cast, levels, problem, wanted

from bumpnet_fast import BumpNet
from bumpnet_fast.core import backends as native
from bumpnet_fast.core import ops
from bumpnet_fast.core.reference import GRADIENT, HESSIAN, LAPLACIAN, WANTS
from bumpnet_fast.kernels import operators


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


def check(dim, tied, want, n, m, outputs, dtype):
    for name, args in problem(dim, tied, want, n, m, outputs).items():
        limits = [TOLERANCES[dtype][k] for k in levels(name, want)]
        assert_agrees(run(name, *cast(args, dtype)), wanted(name, args), limits, f"{name} {dtype} {n} {m}")


def test_the_interpreter_is_on():
    from triton.runtime.interpreter import InterpretedFunction

    assert native.missing and isinstance(operators.jet_kernel, InterpretedFunction)


def test_the_operators_that_have_kernels():
    """Those without are left out of all that the interpreter runs: their names stand here."""
    assert set(ops.OPERATORS) - set(OPERATORS) == set()


@pytest.mark.parametrize("name", OPERATORS)
def test_a_cpu_tensor_gets_to_the_kernels(monkeypatch, name):
    """Else the tests would compare the reference with itself."""
    launches = compiled.record(monkeypatch, run=True)
    for dtype in TOLERANCES:
        for dim, outputs in ((1, 1), (2, 4), (4, 1)):
            before = len(launches)
            run(name, *cast(problem(dim, True, GRADIENT, 3, 2, outputs)[name], dtype))
            assert len(launches) >= before + 2, f"d = {dim}, K = {outputs}, {dtype}"


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
    assert operators.serves("jet", 4, 4, torch.float32) and operators.serves("basis", 1, 9, torch.float64)
    too_many = ((5, 1, torch.float32), (2, 5, torch.float32), (2, 0, torch.float64))
    assert not any(operators.serves("jet", *a) for a in too_many)
    assert not operators.serves("design", 2, 1, torch.float16)
    launches = compiled.record(monkeypatch, run=True)
    for outputs in (1, 5):
        args = problem(2, True, LAPLACIAN, 7, 3, outputs)
        for name in ("jet", "jet_vjp"):
            launches.clear()
            got = run(name, *cast(args[name], torch.float64))
            assert_agrees(got, wanted(name, args[name]), [1e-10] * len(got), name)
            assert bool(launches) == (outputs == 1)
    assert ops._triton_kernels() is operators
    monkeypatch.setenv("BUMPNET_FAST_BACKEND", "reference")
    monkeypatch.setattr(ops, "_triton_kernels", functools.cache(ops._triton_kernels.__wrapped__))
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
