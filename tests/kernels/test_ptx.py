"""The operators as a GPU would run them: what Triton's compiler writes for it, executed, against the float64 reference.

Every launch of a call to ``jet`` and ``jet_vjp`` is compiled ahead of time and its PTX interpreted (ptx.py), with the
inline assembly and the device's own exponential.  No GPU is needed.  ``-s`` prints the errors.
"""

import importlib.util
import math
import re
from typing import NamedTuple

import pytest
import torch

if importlib.util.find_spec("triton") is None:
    pytest.skip("no Triton", allow_module_level=True)
if importlib.util.find_spec("triton.backends.nvidia") is None:
    pytest.skip("Triton without its compilers", allow_module_level=True)

import compiled
import oracle
import ptx
import triton
import triton.language as tl
from compiled import Launch, shortened
from emulated import emulated
from ptx_memory import Fault
from test_kernels import TOLERANCES, arguments, cast, levels, offset, problem, sharpened, wanted

from bumpnet_fast.core.reference import DIAGONAL, GRADIENT, HESSIAN, LAPLACIAN, VALUE, WANTS
from bumpnet_fast.core.rows import RowLayout

operators = compiled.operators
NAMES = ("jet", "jet_vjp")
LAUNCHES = ["pack_kernel", "jet_kernel", "pack_kernel", "jet_vjp_rows_kernel", "unpack_gradient_kernel",
            "jet_vjp_x_kernel"]  # fmt: skip

#: Dimension to the target of each want.  Compilation is what takes time: large kernels share what no want changes.
TARGETS = {
    1: (90, 80, 100, 120, 80),
    2: (90, 100, 80, 120, 90),
    3: (120, 120, 120, 120, 100),
    4: (100, 100, 100, 100, 100),
}


class Case(NamedTuple):
    dim: int
    want: int
    dtype: torch.dtype
    arch: int
    n: int
    m: int
    outputs: int
    tied: bool

    def problem(self):
        made = problem(self.dim, self.tied, self.want, self.n, self.m, self.outputs)
        return {name: cast(made[name], self.dtype) for name in NAMES}


def case(dim, want, dtype=torch.float32) -> Case:
    """Many points or few, outputs and ties take turns."""
    n, m = (1100, 7) if (dim + want) % 2 else (75, 11)
    other = want == LAPLACIAN and dim < 4
    return Case(dim, want, dtype, TARGETS[dim][want], n, m, 1 + other, not other)


CASES = [case(dim, want) for dim in TARGETS for want in range(5)] + [
    case(1, HESSIAN, torch.float64),
    case(2, DIAGONAL, torch.float64),
    case(2, GRADIENT, torch.float64),
    case(3, VALUE, torch.float64),
    case(4, VALUE, torch.float64),
]
#: Numbers that are compiled in: sizes divisible by 16, and one.
SPECIAL = [
    Case(1, DIAGONAL, torch.float32, 90, 96, 16, 1, True),
    Case(1, GRADIENT, torch.float32, 120, 1, 5, 3, False),
    Case(1, VALUE, torch.float64, 90, 40, 1, 1, True),
]
PLAIN = case(2, DIAGONAL)  # few points, sm_80
PACKED = case(2, GRADIENT)  # many points, sm_100: two numbers to an instruction
DOUBLE = case(2, DIAGONAL, torch.float64)


def label(c):
    return f"{c.dim}-{WANTS[c.want]}-{str(c.dtype)[6:]}-sm_{c.arch}-{c.n}"


@pytest.fixture(autouse=True)
def configurations(monkeypatch):
    """From 1000 points on they are those for 2^20 points and 1000 bumps, with chunks of 64 points."""
    by_points, by_bumps = operators.by_points, operators.by_bumps

    def points(n, *rest):
        return by_points(n if n < 1000 else 2**20, *rest)

    def bumps(n, m, *rest):
        return by_bumps(n, m, *rest) if n < 1000 else (*by_bumps(2**20, 1000, *rest)[:2], 64, -(-n // 64))

    monkeypatch.setattr(operators, "by_points", points)
    monkeypatch.setattr(operators, "by_bumps", bumps)


def run(c: Case, args, names=NAMES, **how):
    """Results of the calls, and what was launched."""
    with emulated(c.arch, **how) as ran:
        return {name: getattr(operators, name)(*args[name]) for name in names}, ran


def errors(c, got, expected, name):
    """Of each result, over what is allowed; of gradients column by column, so that small ones count as well."""
    parts = list(zip(got, expected, levels(name, c.want), strict=True))
    if name == "jet_vjp":
        parts = [(*columns, level) for g, w, level in parts for columns in zip(g.T, w.T, strict=True)]
    found = [oracle.error(g, w) for g, w, _ in parts]
    print(f"{name} {label(c)}: " + ", ".join(f"{error:.1e}" for error in found))
    return [error / TOLERANCES[c.dtype][level] for error, (_, _, level) in zip(found, parts, strict=True)]


def check(c: Case, **how):
    args = c.problem()
    before = {name: [t.clone() if isinstance(t, torch.Tensor) else t for t in args[name]] for name in NAMES}
    results, ran = run(c, args, **how)
    for name in NAMES:
        for t, b in zip(args[name], before[name], strict=True):
            assert not isinstance(t, torch.Tensor) or torch.equal(t, b), "an input was changed"
        for ratio in errors(c, results[name], wanted(name, args[name]), name):
            assert ratio <= 1, name
    return results, ran


# --- whole calls -----------------------------------------------------------------------------------


@pytest.mark.parametrize("c", shortened(CASES + SPECIAL, case(1, GRADIENT)), ids=label)
def test_agreement_with_the_reference(c):
    _, ran = check(c)
    assert [one.launch.name for one in ran] == LAUNCHES
    for one in ran:
        if c.dtype == torch.float32 and one.launch.name.startswith("jet"):
            assert "rcp.approx.ftz.f32" in one.text and "ex2.approx.ftz.f32" in one.text
            assert "div." not in one.text


def test_every_combination_is_met():
    single = [c for c in CASES if c.dtype == torch.float32]
    assert {(c.dim, c.want) for c in single} == {(dim, want) for dim in (1, 2, 3, 4) for want in range(5)}
    for dtype in TOLERANCES:
        some = [c for c in CASES + SPECIAL if c.dtype == dtype]
        assert {c.arch for c in some} == {80, 90, 100, 120} and {c.n >= 1000 for c in some} == {True, False}, dtype
    assert {(c.arch, c.n >= 1000) for c in single} == {(a, many) for a in (80, 90, 100, 120) for many in (True, False)}
    assert {c.outputs for c in single} >= {1, 2} and {c.tied for c in single} == {True, False}


@pytest.mark.long
def test_many_points_are_packed_in_pairs_on_sm_100():
    """fma.rn.f32x2 is what only the newer targets have: it must be among what is tested."""
    _, ran = run(PACKED, PACKED.problem())
    for one in ran:
        if one.launch.name.startswith("jet"):
            assert one.text.count("fma.rn.f32x2") > 10


@pytest.mark.long
def test_several_blocks_of_bumps(monkeypatch):
    monkeypatch.setattr(operators, "by_points", lambda *_: (64, 1, 1))
    monkeypatch.setattr(operators, "by_bumps", lambda n, m, *_: (32, 1, 20, -(-n // 20)))
    check(Case(1, LAPLACIAN, torch.float32, 120, 75, 70, 2, True))


@pytest.mark.long
@pytest.mark.parametrize("c", (PLAIN, PACKED), ids=label)
def test_approximations_may_be_as_wrong_as_documented(c):
    """ex2.approx and rcp.approx have relative errors of up to 2^-22 and 2^-23."""
    exact, _ = run(c, c.problem())
    rough, _ = check(c, error=2.0**-22)
    assert not torch.equal(exact["jet"][0], rough["jet"][0])


@pytest.mark.long
@pytest.mark.parametrize("c", (PLAIN, PACKED, DOUBLE), ids=label)
def test_a_point_that_is_no_number_gives_nan_there_only(c):
    args = c.problem()
    clean, _ = run(c, args)
    for i, bad in ((0, math.nan), (37, math.inf)):
        dirty_args = {name: list(args[name]) for name in NAMES}
        x = args["jet"][0].clone()
        x[i, i % c.dim] = bad
        dirty_args["jet"][0] = dirty_args["jet_vjp"][3] = x
        dirty, _ = run(c, dirty_args)
        assert torch.isnan(dirty["jet_vjp"][1][:, : RowLayout(c.dim).shape_columns]).all()
        others = torch.arange(c.n) != i
        pairs = zip((*dirty["jet"], dirty["jet_vjp"][0]), (*clean["jet"], clean["jet_vjp"][0]), strict=True)
        for d, expected in pairs:
            if d.shape != (0,):
                assert torch.isnan(d[i]).all() and torch.equal(d[others], expected[others])


@pytest.mark.long
def test_a_row_that_is_no_number_gives_nan_everywhere():
    args = PLAIN.problem()["jet"]
    for column in range(args[1].shape[1]):
        rows = args[1].clone()
        rows[3, column] = math.nan
        results, _ = run(PLAIN, {"jet": [args[0], rows, *args[2:]]}, ["jet"])
        assert all(torch.isnan(t).all() for t in results["jet"]), column


@pytest.mark.long
@pytest.mark.parametrize("c", (PLAIN, DOUBLE), ids=label)
@pytest.mark.parametrize("pA", (1e-4, 1e8))
def test_extreme_bumps(c, pA):
    """p A from nothing to steps: always numbers, and right in float64; exp takes its rare branches."""
    rows, frame = oracle.bumps(2, c.m, 1, True, dtype=torch.float32)
    rows[0, RowLayout(2).skew] = 100.0
    rows = sharpened(rows, frame, True, pA)
    far = torch.tensor([[1e6, -1e6], [-1e18, 1e18]])
    x = torch.cat([oracle.points(2, c.n - 2, dtype=torch.float32), far])
    args = {name: cast(a, c.dtype) for name, a in arguments(x, rows, frame, c.want, True).items() if name in NAMES}
    results, _ = run(c, args)
    for name in NAMES:
        assert all(torch.isfinite(t).all() for t in results[name])
        if c.dtype == torch.float64 or pA < 1:
            limit = 5e-4 if c.dtype == torch.float32 else 1e-9 if pA < 1 else 1e-4
            for got, expected in zip(results[name], wanted(name, args[name]), strict=True):
                oracle.assert_close(got, expected, limit, name)


@pytest.mark.long
def test_tensors_at_addresses_that_no_vector_load_is_aligned_to():
    c = Case(1, VALUE, torch.float32, 90, 75, 11, 1, True)
    args = c.problem()
    moved = {name: [offset(t) if isinstance(t, torch.Tensor) else t for t in args[name]] for name in NAMES}
    assert moved["jet"][0].data_ptr() % 16
    results, _ = run(c, moved)
    for name in NAMES:
        assert all(ratio <= 1 for ratio in errors(c, results[name], wanted(name, args[name]), name))


# --- tensor cores ----------------------------------------------------------------------------------


@triton.jit
def product_kernel(a, b, c, SIZE: tl.constexpr, PRECISION: tl.constexpr):
    i, j = tl.arange(0, SIZE)[:, None], tl.arange(0, SIZE)[None, :]
    left, right = tl.load(a + i * SIZE + j), tl.load(b + i * SIZE + j)
    tl.store(c + i * SIZE + j, tl.dot(left, right, input_precision=PRECISION))


@pytest.mark.long
@pytest.mark.parametrize("precision, limits", [("tf32", (1e-5, 1e-3)), ("tf32x3", (0, 1e-6)), ("ieee", (0, 1e-6))])
@pytest.mark.parametrize("arch", (80, 120))
def test_matrix_products(arch, precision, limits):
    """What ``tl.dot`` becomes: ldmatrix and mma.sync."""
    a, b = torch.randn(2, 32, 32, generator=torch.Generator().manual_seed(0))
    c = torch.full((32, 32), math.nan)
    options = {"SIZE": 32, "PRECISION": precision, "num_warps": 4}
    binary = compiled.compile_launch(Launch("", product_kernel, (1,), (a, b, c), options), "cuda", arch)
    assert ("mma.sync" in binary.asm["ptx"]) == (precision != "ieee")
    ptx.run(ptx.Program(binary.asm["ptx"]), (1,), [a.numpy(), b.numpy(), c.numpy()], binary.metadata.shared)
    assert limits[0] <= oracle.error(c, a.double() @ b.double()) <= limits[1]


# --- mistakes are found ----------------------------------------------------------------------------


def edit(kernel, pattern, replacement, which=0):
    """Changes one place in a kernel's PTX, the ``which``-th that fits."""

    def change(name, text):
        if name != kernel:
            return text
        found = list(re.finditer(pattern, text))[which]
        return text[: found.start()] + found.expand(replacement) + text[found.end() :]

    return change


def places(name, kernel, pattern):
    _, ran = run(PLAIN, PLAIN.problem(), [name])
    [text] = (one.text for one in ran if one.launch.name == kernel)
    return len(re.findall(pattern, text))


def is_noticed(change, name):
    args = PLAIN.problem()
    results, _ = run(PLAIN, args, [name], change=change)
    return not all(ratio <= 1 for ratio in errors(PLAIN, results[name], wanted(name, args[name]), name))


# Not z + 4 y of docs/math.md: it counts q = exp(-2 A) times only, which is too little to see here.
ADDITION = r"fma\.rn\.f32( \t|\t| )(%r\d+), (%r\d+), (?!0f40800000)([%\w]+), [%\w]+;"
CONSTANT = r"0f(?!3F800000|00000000|42C80000)3|0f(?!42C80000)4"  # not 1, 0, nor the cap of the exponent


@pytest.mark.long
@pytest.mark.parametrize("name, kernel", [("jet", "jet_kernel"), ("jet_vjp", "jet_vjp_rows_kernel")])
def test_a_missing_addition_is_noticed(name, kernel):
    """Every fused multiplication and addition in turn (of many, some) loses its addend."""
    count = places(name, kernel, ADDITION)
    assert count > 50
    for which in range(0, count, count // 8):
        assert is_noticed(edit(kernel, ADDITION, r"mul.f32 \2, \3, \4;", which), name), which


@pytest.mark.long
@pytest.mark.parametrize("name, kernel", [("jet", "jet_kernel"), ("jet_vjp", "jet_vjp_rows_kernel")])
def test_a_wrong_constant_is_noticed(name, kernel):
    """A constant's sign is turned."""
    count = places(name, kernel, CONSTANT)
    assert count >= 4
    for which in range(0, count, -(-count // 8)):
        sign = edit(kernel, CONSTANT, "0fB", which)
        assert is_noticed(sign, name), which


@pytest.mark.long
def test_a_place_that_is_not_written_is_noticed():
    for which in range(places("jet", "jet_kernel", r"st\.global")):
        lost = edit("jet_kernel", r"@%p\d+ st\.global[^;]*;", "", which)
        assert is_noticed(lost, "jet"), which


@pytest.mark.long
@pytest.mark.parametrize("instruction", ("ld", "st"))
def test_an_access_past_the_end_is_a_fault(instruction):
    """Without its guard: the last block of points is not full."""
    with pytest.raises(Fault, match=rf"out of bounds: .* {instruction}\.global"):
        is_noticed(edit("jet_kernel", rf"@%p\d+ ({instruction}\.global)", r"\1"), "jet")


@pytest.mark.long
def test_a_missing_barrier_is_a_fault():
    count = places("jet", "jet_kernel", r"bar\.sync")
    assert count > 1
    for which in range(count):
        with pytest.raises(Fault, match="race"):
            is_noticed(edit("jet_kernel", r"bar\.sync\s+0;", "", which), "jet")


@pytest.mark.long
def test_a_buffer_that_is_too_short_is_a_fault(monkeypatch):
    """As if ``operators`` had counted wrongly."""
    monkeypatch.setattr(operators, "second_shape", lambda want, dim: (dim - 1,))
    with pytest.raises(Fault, match=r"out of bounds: byte \d+ of buffer 4, which has 300: .* st\.global"):
        run(PLAIN, PLAIN.problem(), ["jet"])
