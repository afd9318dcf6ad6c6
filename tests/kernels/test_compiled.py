"""Every kernel that can be launched compiles for every target, and the sm_90 code is as lean as it was.

Nothing here needs a GPU: compilation is ahead of time, and what counts is read from the cubin.
"""

import importlib.util
import itertools
import os
import subprocess
import sys

import pytest
import torch

if importlib.util.find_spec("triton") is None:
    pytest.skip("no Triton", allow_module_level=True)
if importlib.util.find_spec("triton.backends.nvidia") is None:
    pytest.skip("Triton without its compilers", allow_module_level=True)

import compiled
from compiled import Launch, compile_launch, profile

from bumpnet_fast import ops
from bumpnet_fast.reference import DIAGONAL, GRADIENT, HESSIAN, LAPLACIAN, VALUE, WANTS, second_shape
from bumpnet_fast.rows import RowLayout

TARGETS = {"sm_80": ("cuda", 80), "sm_90": ("cuda", 90), "sm_100": ("cuda", 100), "sm_120": ("cuda", 120),
           "gfx942": ("hip", "gfx942", 64)}  # fmt: skip


def launches(dim, want, n=2**20, m=1000, outputs=1, dtype=torch.float32, tied=True) -> list[Launch]:
    """What a step with gradients of everything launches, as it would on a GPU."""
    operators = compiled.operators()
    with pytest.MonkeyPatch.context() as patch:
        made = compiled.record(patch)
        x, frame = (torch.empty(size, dim, device="meta", dtype=dtype) for size in (n, 3))
        rows = torch.empty(m, RowLayout(dim, outputs, tied).columns, device="meta", dtype=dtype)
        operators.jet(x, rows, frame, want, tied)
        shapes = [(n, outputs), (n, outputs, dim), (n, outputs, *second_shape(want, dim))][: min(want, DIAGONAL) + 1]
        cotangents = [torch.empty(shape, device="meta", dtype=dtype) for shape in shapes] + [None, None]
        operators.jet_vjp(*cotangents[:3], x, rows, frame, want, tied, True, True)
        return made


def pair_launches(dim, want, n=2**20, m=100, dtype=torch.float32, tied=True) -> list[Launch]:
    """What the operators with an entry for every pair launch."""
    operators = compiled.operators()

    def meta(*shape):
        return torch.empty(*shape, device="meta", dtype=dtype)

    def three(*shapes):
        return [meta(*shape) if i <= want else None for i, shape in enumerate(shapes)]

    with pytest.MonkeyPatch.context() as patch:
        made = compiled.record(patch)
        bumps = meta(n, dim), meta(m, RowLayout(dim, 0, tied).columns), meta(3, dim), want, tied
        second = second_shape(want, dim)
        operators.basis(*bumps)
        operators.basis_vjp(*three((m, n), (m, dim, n), (m, *second, n)), *bumps, True, True)
        operators.design(*three((n,), (n, dim), (n, *second)), *bumps, True)
        return made


# --- everything compiles ---------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "dim, dtype", [*((d, torch.float32) for d in (1, 2, 3, 4)), (1, torch.float64), (2, torch.float64)], ids=str
)
def test_every_kernel_compiles(dim, dtype, target):
    """All kernels for all targets; wants take turns, so that each dimension meets all five, and so do sizes, outputs
    and ties."""
    turn = dim + list(TARGETS).index(target) + (dtype == torch.float64)
    n, outputs = (2500, 2**20)[turn // 2 % 2], 1 + (turn % 3 == 0)
    made = launches(dim, turn % 5, n, 1000, outputs, dtype, bool(turn % 2))
    for launch in made + pair_launches(dim, turn % 5, n, 1000, dtype, bool(turn % 2)):
        binary = compile_launch(launch, *TARGETS[target])
        assert binary.asm.get("cubin") or binary.asm.get("hsaco"), launch.name


def test_large_sizes_take_64_bits():
    """Sizes past 32 bits are launched with 64-bit arguments, and compile."""
    for launch in launches(2, DIAGONAL, n=2**32 + 3, m=7):
        if launch.name != "unpack_gradient_kernel":
            assert "add.s64" in compile_launch(launch, "cuda", 90).asm["ptx"]


# --- resources -------------------------------------------------------------------------------------

#: (kernel, d, want): most instructions per pair, MUFU per pair, most registers.
LIMITS = {
    ("jet_kernel", 1, DIAGONAL): (35.5, 4, 64),
    ("jet_kernel", 2, VALUE): (33.4, 5, 64),
    ("jet_kernel", 2, GRADIENT): (50.4, 6, 96),
    ("jet_kernel", 2, DIAGONAL): (68, 6, 128),
    ("jet_kernel", 2, HESSIAN): (77.3, 6, 80),
    ("jet_kernel", 2, LAPLACIAN): (64.5, 6, 128),
    ("jet_kernel", 3, VALUE): (49.1, 7, 80),
    ("jet_kernel", 3, DIAGONAL): (110, 8, 128),
    ("jet_vjp_rows_kernel", 1, DIAGONAL): (74.7, 4, 80),
    ("jet_vjp_rows_kernel", 2, VALUE): (67.5, 6, 80),
    ("jet_vjp_rows_kernel", 2, GRADIENT): (103, 6, 96),
    ("jet_vjp_rows_kernel", 2, DIAGONAL): (138, 6, 128),
    ("jet_vjp_rows_kernel", 2, HESSIAN): (160.7, 6, 128),
    ("jet_vjp_rows_kernel", 2, LAPLACIAN): (136, 6, 128),
    ("jet_vjp_rows_kernel", 3, DIAGONAL): (222, 8, 224),
    ("jet_vjp_x_kernel", 2, DIAGONAL): (109.2, 6, 96),
    ("jet_vjp_x_kernel", 2, LAPLACIAN): (102, 6, 96),
    ("basis_kernel", 2, DIAGONAL): (93.8, 6, 32),
    ("basis_vjp_rows_kernel", 2, DIAGONAL): (184.4, 6, 64),
    ("basis_vjp_x_kernel", 2, DIAGONAL): (120, 6, 96),
    ("design_kernel", 2, DIAGONAL): (196.8, 6, 80),
    ("design_kernel", 3, HESSIAN): (365.7, 8, 128),
}


def assert_no_stack(found):
    assert found.stack == 0
    assert not [op for op in found.everything if op.startswith(("LDL", "STL"))]


@pytest.mark.parametrize("case", LIMITS, ids=lambda c: f"{c[0]}-{c[1]}-{WANTS[c[2]]}")
def test_instructions_per_pair(case):
    """sm_90, float32, many points.  Limits: the counts of docs/gpu.md and 3 %, or the goal where there is one."""
    name, dim, want = case
    instructions, mufu, registers = LIMITS[case]
    [launch] = (one for one in launches(dim, want) + pair_launches(dim, want) if one.name == name)
    found = profile(compile_launch(launch, "cuda", 90), mufu)
    print(f"{name} d = {dim} {WANTS[want]}: {found.total:.1f} instructions, {mufu} MUFU, {found.fp32:.1f} FP32, "
          f"{found.load:.2f} loads per pair; {found.registers} registers")  # fmt: skip
    assert found.pairs in (1, 2, 4, 8), "MUFU do not divide: an exponential or a division was expanded"
    # points (or bumps) of a block over its threads: what the loop must contain
    assert found.pairs == launch.options["BLOCK"] / (32 * launch.options["num_warps"])
    assert found.total <= instructions
    assert found.registers <= registers
    assert_no_stack(found)


@pytest.mark.parametrize("dim, want", [(1, HESSIAN), (2, VALUE), (2, HESSIAN), (3, DIAGONAL)])
def test_few_points_do_not_spill_either(dim, want):
    for launch in launches(dim, want, 2500, 40) + pair_launches(dim, want, 2500, 40):
        if "pack" not in launch.name:
            assert_no_stack(profile(compile_launch(launch, "cuda", 90), 1))


def test_the_profile_sees_what_it_looks_for(monkeypatch):
    """Plain division instead of rcp.approx must show in the count."""
    [launch] = (one for one in launches(2, DIAGONAL) if one.name == "jet_kernel")
    monkeypatch.setattr(compiled, "_real", lambda launch: None)  # FAST off
    slow = profile(compile_launch(launch, "cuda", 90), 6)
    assert slow.total > 75 or slow.pairs != 8


# --- configurations --------------------------------------------------------------------------------


@pytest.mark.parametrize("n", (1, 33, 2500, 10**5, 10**6, 10**8))
@pytest.mark.parametrize("m", (1, 40, 1000, 10**5))
def test_memory_is_of_the_order_of_points_and_bumps(n, m):
    for dim, dtype in itertools.product((1, 2, 3, 4), (torch.float32, torch.float64)):
        made = launches(dim, LAPLACIAN, n, m, dtype=dtype)
        sizes = {t.numel() for launch in made for t in launch.args if isinstance(t, torch.Tensor)}
        assert max(sizes) <= 64 * (n + m) + 64 * 1056 * 512
        for launch in made:
            assert all(1 <= size < 2**31 for size in launch.grid) and all(size <= 65535 for size in launch.grid[1:])
        if n >= 10**4 and m <= 1000:
            [rows] = (one for one in made if one.name == "jet_vjp_rows_kernel")
            assert rows.grid[0] * rows.grid[1] >= 100, "a GPU would idle"


def test_importing_the_package_leaves_triton_alone():
    """Triton is slow to import: it must wait for a CUDA tensor."""
    code = "import sys, bumpnet_fast; print('triton' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    assert done.stdout == "False\n"


def test_without_triton_the_reference_serves(monkeypatch):
    """The CUDA entry of the operators on tensors that are at hand, Triton not."""
    from bumpnet_fast import reference

    x, rows, frame = torch.zeros(3, 2), torch.zeros(4, 7), torch.tensor([[-1.0, -1.0], [1.0, 1.0], [1.0, 1.0]])
    for name in ("bumpnet_fast.kernels.operators", "bumpnet_fast.kernels"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delattr(sys.modules["bumpnet_fast"], "kernels", raising=False)
    ops._triton_kernels.cache_clear()
    try:
        got = ops._on_cuda("jet", x, rows, frame, GRADIENT, True)
        assert torch.equal(got[1], reference.jet(x, rows, frame, GRADIENT, True)[1])
    finally:
        ops._triton_kernels.cache_clear()


def test_every_operator_has_a_cuda_kernel():
    for name in ops.OPERATORS:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"bumpnet_fast::{name}", "CUDA")
