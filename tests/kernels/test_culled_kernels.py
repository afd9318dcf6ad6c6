"""Leaving pairs out on a GPU: what is compiled for it, counted and executed without one; see test_compiled.py.

test_interpreted.py runs checks_culling.py, and the tests that the compiled kernels share, in Triton's interpreter.
"""

import importlib.util

import pytest
import torch

if importlib.util.find_spec("triton") is None or importlib.util.find_spec("triton.backends.nvidia") is None:
    pytest.skip("no Triton with its compilers", allow_module_level=True)

import compiled
import oracle
from compiled import SORTING, compile_launch, culled_launches, failure, profile, shortened, specialise
from emulated import emulated
from test_culling import SHARP, bumps, cast, cotangents, points
from test_kernels import TOLERANCES, levels, wanted
from test_targets import TARGETS

from bumpnet_fast.core.reference import DIAGONAL, GRADIENT, HESSIAN, LAPLACIAN, VALUE, WANTS
from bumpnet_fast.core.rows import RowLayout
from bumpnet_fast.kernels import tiles

SINGLE, DOUBLE = torch.float32, torch.float64
JETS = ("jet_kernel", "jet_vjp_rows_kernel", "jet_vjp_x_kernel")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


# --- everything compiles ---------------------------------------------------------------------------

#: A target's turn: dimension, want, outputs, dtype and bumps, beyond 4096 of which sums have two levels.
TURNS = {
    "sm_80": (3, GRADIENT, 1, SINGLE, 1000),
    "sm_90": (1, HESSIAN, 4, DOUBLE, 1000),
    "sm_100": (2, DIAGONAL, 1, SINGLE, 10**4),
    "sm_120": (4, VALUE, 2, SINGLE, 1000),
    "gfx942": (2, LAPLACIAN, 1, SINGLE, 1000),
}


@pytest.mark.long
@pytest.mark.parametrize("target", TURNS)
def test_every_kernel_compiles(target):
    dim, want, outputs, dtype, m = TURNS[target]
    made = culled_launches(dim, want, 2**20, m, outputs, dtype)
    assert {one.name for one in made} == {"pack_kernel", "unpack_gradient_kernel", *JETS, *SORTING}
    builds = {specialise(one, *TARGETS[target]) for one in made if one.name != "unpack_gradient_kernel"}
    for build in builds:
        assert failure(build) is None, build


def test_counting_and_filling_are_the_same_code():
    """Else they might disagree about a bump on the edge of its margin, and leave a hole in a list."""
    for dim, dtype in ((1, DOUBLE), (2, SINGLE)):
        found = [one for one in culled_launches(dim, DIAGONAL, n=10**6 + 1, m=999, dtype=dtype)]
        builds = [specialise(one, "cuda", 90) for one in found if one.name == "lists_kernel"]
        assert len(builds) == 6 and len({(b.constants, b.signature, b.attributes) for b in builds}) == 2
        assert builds[0] == builds[1] == builds[2] == builds[4] and builds[3] == builds[5]


# --- resources -------------------------------------------------------------------------------------

#: (kernel, d, want): most instructions and most loads per pair, and most registers, on sm_90.
LIMITS = {
    ("jet_kernel", 2, DIAGONAL): (72.3, 1.5, 96),
    ("jet_kernel", 2, LAPLACIAN): (68, 1.5, 88),
    ("jet_kernel", 3, DIAGONAL): (112.1, 2.5, 128),
    ("jet_vjp_rows_kernel", 2, DIAGONAL): (156.6, 4, 112),
    ("jet_vjp_rows_kernel", 2, LAPLACIAN): (146.8, 3.5, 96),
    ("jet_vjp_rows_kernel", 3, DIAGONAL): (236.4, 5.5, 168),
    ("jet_vjp_x_kernel", 2, DIAGONAL): (109.2, 1.25, 96),
    ("jet_vjp_x_kernel", 3, DIAGONAL): (187.5, 4, 80),
}


@pytest.mark.parametrize(
    "case", shortened(LIMITS, ("jet_kernel", 2, DIAGONAL)), ids=lambda case: f"{case[0]}-{case[1]}-{WANTS[case[2]]}"
)
def test_instructions_per_active_pair(case):
    """float32, one output; limits are the counts of docs/gpu.md and 3 %."""
    name, dim, want = case
    [launch] = (one for one in culled_launches(dim, want) if one.name == name)
    found = profile(compile_launch(launch, "cuda", 90), 2 * dim + 2)
    print(f"{name} d = {dim} {WANTS[want]}: {found.total:.1f} instructions, {found.fp32:.1f} FP32, "
          f"{found.load:.2f} loads per active pair; {found.usage.registers} registers")  # fmt: skip
    assert found.pairs == launch.options["BLOCK"] / (32 * launch.options["num_warps"])
    assert not found.usage.spills
    for got, most in zip((found.total, found.load, found.usage.registers), LIMITS[case], strict=True):
        assert got <= most


@pytest.mark.long
@pytest.mark.parametrize("by_tile", (True, False), ids=("by tile", "by bump"))
def test_instructions_per_pair_of_a_tile_and_a_bump(by_tile):
    """d = 2 in float32: two evaluations of the edges, an exponential and a reciprocal each per axis."""
    found = [one for one in culled_launches(2, DIAGONAL) if one.name == "lists_kernel"]
    [launch, *_] = (one for one in found if one.options["BY_TILE"] == by_tile)
    counted = profile(compile_launch(launch, "cuda", 90), 8)
    print(f"by {'tile' if by_tile else 'bump'}: {counted.total:.1f} instructions; {counted.usage.registers} registers")
    assert counted.pairs == 4 and counted.usage.registers <= 80
    assert counted.total <= (114.6 if by_tile else 105.1)
    assert not counted.usage.spills


# --- memory ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n, m", [(2**13, 10**5), (10**6, 1000), (10**6, 10**5)])
def test_memory_is_of_the_order_of_points_bumps_and_lists(n, m):
    """The recorded lists have 10^5 entries, where tiles and bumps have up to 8e8 pairs."""
    for dim, dtype in ((1, DOUBLE), (4, SINGLE)):
        made = culled_launches(dim, LAPLACIAN, n, m, dtype=dtype)
        sizes = {t.numel() for launch in made for t in launch.args if isinstance(t, torch.Tensor)}
        assert max(sizes) <= 256 * (n + m) + 10**5
        for launch in made:
            assert all(1 <= size < 2**31 for size in launch.grid) and all(size <= 65535 for size in launch.grid[1:])


# --- the compiled code, executed -------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize(
    "dim, want, outputs, dtype, arch",
    [(2, LAPLACIAN, 1, SINGLE, 90), (2, HESSIAN, 2, DOUBLE, 120), (3, GRADIENT, 1, SINGLE, 80)],
    ids=lambda v: str(v),
)
def test_the_ptx_agrees_with_the_reference(dim, want, outputs, dtype, arch):
    """Whole calls: six tiles, each in one place, so that bumps are met, out of it, and 1 all over it."""
    n, m = 700, 40
    rows, frame = bumps(dim, m, SHARP[dtype], outputs)
    rows[:, RowLayout(dim, outputs).amplitude].abs_()  # nothing cancels: errors are relative to the result
    x = points(dim, n)[:: tiles.TILE].repeat_interleave(tiles.TILE, 0)[:n] + 0.02 * points(dim, n)
    args = [*cast(dtype, x, rows, frame), want, True]
    weights = cast(dtype, *cotangents(n, outputs, dim, want))
    with emulated(arch) as ran:
        got = {"jet": compiled.operators.jet(*args, "always")}
        got["jet_vjp"] = compiled.operators.jet_vjp(*weights, *args, True, True, "always")
    [first, *_] = (one.launch.args for one in ran if one.launch.name == "jet_kernel")
    _, ids, within = first[6:9]
    assert 0 < len(ids) < 0.6 * m * 6 and within.any(), "nothing to tell them by"
    assert sum(one.launch.name == "lists_kernel" for one in ran) == 6
    for name, question in (("jet", args), ("jet_vjp", [*weights, *args, True, True])):
        for g, w, level in zip(got[name], wanted(name, question), levels(name, want), strict=True):
            oracle.assert_close(g, w, TOLERANCES[dtype][level], name)
