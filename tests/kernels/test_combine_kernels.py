"""The kernels of ``combine``: compiled for every target, and counted.

Nothing here needs a GPU; see test_compiled.py.  test_interpreted.py runs checks_combine.py in the interpreter.
"""

import importlib.util

import pytest
import torch

if importlib.util.find_spec("triton") is None:
    pytest.skip("no Triton", allow_module_level=True)

import compiled
from compiled import compile_launch, profile, shortened

from bumpnet_fast.core.ops import PRECISIONS
from bumpnet_fast.core.rows import RowLayout

NVIDIA = {"sm_80": 80, "sm_90": 90, "sm_100": 100, "sm_120": 120}
KERNELS = ("combine_kernel", "combine_vjp_h_kernel", "combine_vjp_rows_kernel", "combine_vjp_x_kernel")
MATRIX = ("HMMA", "HGMMA", "UTCHMMA", "DMMA", "UTCQMMA")
SINGLE, DOUBLE = torch.float32, torch.float64

needs_compilers = pytest.mark.skipif(
    importlib.util.find_spec("triton.backends.nvidia") is None, reason="Triton without its compilers"
)


def module():
    from bumpnet_fast.kernels import combine_operators

    return combine_operators


def launches(dim, functions, n, m, dtype=SINGLE, precision="tf32x3", nvidia=True, amd=None):
    """What a value with gradients of everything launches on such a device: {name: launch} of the kernels here."""
    combine, made = module(), []
    with pytest.MonkeyPatch.context() as patch:
        for name in KERNELS:
            patch.setattr(combine, name, compiled.Recorder(name, getattr(combine, name), made))
        compiled.record(patch)
        for name in ("pack_tables", "unpack_gradient"):
            patch.setattr(combine, name, getattr(compiled.operators, name))
        patch.setattr(combine, "_nvidia", lambda x: nvidia)
        patch.setattr(combine, "_target", lambda x, precision: combine.products(precision, x.dtype, amd))
        x, frame = (torch.empty(size, dim, device="meta", dtype=dtype) for size in (n, 3))
        rows = torch.empty(m, RowLayout(dim, 0).columns, device="meta", dtype=dtype)
        h, g = (torch.empty(functions, size, device="meta", dtype=dtype) for size in (m, n))
        combine.combine(h, x, rows, frame, True, precision)
        combine.combine_vjp(g, h, x, rows, frame, True, precision, True, True, True)
    assert [launch.name for launch in made] == list(KERNELS)
    return {launch.name: launch for launch in made}


def counted(launch, arch):
    """Profile of the loop with the formulas, per pair that the loop is for."""
    options = launch.options
    pairs = options["BLOCK_N"] * options["BLOCK_M"] / (32 * options["num_warps"])
    found = profile(compile_launch(launch, "cuda", arch), 1)
    return found._replace(total=found.total * found.pairs / pairs, mufu=found.mufu * found.pairs / pairs, pairs=pairs)


def assert_lean(found, products):
    """No stack and no spills; tensor cores where products are to be theirs."""
    assert found.usage.stack == 0
    assert not [op for op in found.usage.opcodes if op.startswith(("LDL", "STL"))]
    assert any(op.startswith(MATRIX) for op in found.usage.opcodes) == products


# --- everything compiles ---------------------------------------------------------------------------


@pytest.mark.long
@needs_compilers
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("target", NVIDIA)
def test_every_precision_on_every_nvidia_target(target, precision):
    for name, launch in launches(2, 64, 2**20, 1000, precision=precision).items():
        found = counted(launch, NVIDIA[target])
        print(
            f"{target} {precision} {name}: {found.total:.1f} instructions per pair, {found.usage.registers} registers"
        )
        assert_lean(found, precision != "ieee")
        # the compiler makes a part of a tile again rather than move it, more of it without tensor cores
        most = 8 if name in KERNELS[2:] else 5
        assert found.mufu <= most, f"{name} makes psi more than once"


@pytest.mark.long
@needs_compilers
@pytest.mark.parametrize("dim", (1, 2, 3, 4))
def test_every_dimension_and_size(dim):
    """Sizes, dtypes and targets in turn; float64 is held to being lean where it has tensor cores."""
    for turn, (functions, n, dtype) in enumerate(((20, 2500, SINGLE), (300, 2**20, SINGLE), (40, 2**20, DOUBLE))):
        for name, launch in launches(dim, functions, n, 1000, dtype).items():
            arch = list(NVIDIA.values())[(turn + dim + KERNELS.index(name)) % 4]
            if dtype == SINGLE or arch in (80, 90):
                assert_lean(counted(launch, arch), True)
            else:
                assert compile_launch(launch, "cuda", arch).asm["cubin"]


@pytest.mark.long
@needs_compilers
@pytest.mark.parametrize("precision, products", [("tf32", "tf32"), ("tf32x3", "ieee"), ("ieee", "ieee")])
def test_amd(precision, products):
    """gfx942 has matrix products of float32 itself, and no tf32x3."""
    for name, launch in launches(2, 64, 2**20, 1000, precision=precision, nvidia=False, amd="gfx942:sramecc+").items():
        assert launch.options["PRECISION"] == products
        text = compile_launch(launch, "hip", "gfx942", 64).asm["amdgcn"]
        assert "v_mfma" in text and "scratch_store" not in text, name


def test_the_products_of_a_target():
    products = module().products
    assert [products(p, DOUBLE, None) for p in PRECISIONS] == ["ieee"] * 3
    assert [products(p, SINGLE, None) for p in PRECISIONS] == list(PRECISIONS)
    assert [products(p, SINGLE, "gfx90a") for p in PRECISIONS] == ["ieee"] * 3
    assert [products(p, SINGLE, "gfx942") for p in PRECISIONS] == ["tf32", "ieee", "ieee"]


@pytest.mark.long
@needs_compilers
def test_large_sizes_take_64_bits():
    for launch in launches(2, 3, 2**32 + 3, 7).values():
        assert "add.s64" in compile_launch(launch, "cuda", 90).asm["ptx"]


# --- resources -------------------------------------------------------------------------------------

#: (kernel, d, functions): most instructions per pair, and registers, of sm_90 in tf32x3.
LIMITS = {
    ("combine_kernel", 2, 64): (41.1, 236),
    ("combine_kernel", 2, 128): (48.3, 176),
    ("combine_kernel", 3, 64): (58.5, 255),
    ("combine_vjp_h_kernel", 2, 64): (52.5, 168),
    ("combine_vjp_rows_kernel", 2, 64): (94.0, 168),
    ("combine_vjp_x_kernel", 2, 64): (65.2, 168),
}


@needs_compilers
@pytest.mark.parametrize("case", shortened(LIMITS, ("combine_kernel", 2, 64)), ids=lambda c: f"{c[0]}-{c[1]}-{c[2]}")
def test_instructions_per_pair(case):
    """As counted in docs/gpu.md, and 3 %.  A loop over functions inside counts once: 16 functions."""
    name, dim, functions = case
    instructions, registers = LIMITS[case]
    found = counted(launches(dim, functions, 2**20, 1000)[name], 90)
    print(f"{name} d = {dim}, {functions} functions: {found.total:.1f} instructions, {found.mufu:g} MUFU per pair; "
          f"{found.usage.registers} registers")  # fmt: skip
    assert found.total <= instructions
    assert found.usage.registers <= registers
    assert_lean(found, True)


@pytest.mark.long
@needs_compilers
def test_the_count_sees_a_tile_that_is_made_twice():
    """Without the pieces of assembly the compiler makes psi again, which the count of MUFU must show."""
    launch = launches(2, 64, 2**20, 1000)["combine_kernel"]
    plain = launch._replace(options=launch.options | {"NVIDIA": False})
    assert counted(launch, 90).mufu == 5
    assert counted(plain, 90).mufu >= 7.5


# --- configurations --------------------------------------------------------------------------------


@pytest.mark.parametrize("n", (1, 2500, 10**6, 10**8))
@pytest.mark.parametrize("m", (1, 40, 10**4))
def test_memory_is_bounded(n, m):
    for functions in (1, 100, 1000):
        for dtype in (SINGLE, DOUBLE):
            made = launches(2, functions, n, m, dtype)
            ours = functions * (n + m) + 32 * (n + m)
            assert max(t.numel() for one in made.values() for t in one.args if isinstance(t, torch.Tensor)) <= (
                ours + 2 * 396 * 128 * 64
            )
            for one in made.values():
                assert all(1 <= size < 2**31 for size in one.grid) and all(size <= 65535 for size in one.grid[1:])
