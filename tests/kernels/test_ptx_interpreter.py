"""The PTX interpreter itself, on instructions whose meaning is easily missed and on mistakes that it must find."""

import math
from fractions import Fraction

import numpy as np
import ptx
import pytest
from ptx_arithmetic import Unknown
from ptx_memory import Fault

F32, F64, I32, U32, I64, U64 = np.float32, np.float64, np.int32, np.uint32, np.int64, np.uint64
WARP = np.arange(32)

HEAD = """
.visible .entry snippet({parameters})
.reqntid {threads}
{{
    .reg .pred %p<9>;
    .reg .b16 %rs<9>;
    .reg .b32 %r<99>;
    .reg .b64 %rd<99>;
    mov.u32 %r0, %tid.x;
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %ntid.x;
    mad.lo.s32 %r3, %r1, %r2, %r0; // the thread
"""


def execute(body, *arguments, threads=32, grid=(1,), shared=0, error=0.0):
    """Run a snippet; argument i is in %rd{i}, the thread's number in %r3."""
    parameters = ", ".join(f".param .u64 a{i}" for i in range(len(arguments)))
    loads = "".join(f"ld.param.u64 %rd{i}, [a{i}];\n" for i in range(len(arguments)))
    program = ptx.Program(HEAD.format(parameters=parameters, threads=threads) + loads + body + "\nret;\n}")
    ptx.run(program, grid, arguments, shared, error)


def compute(instruction, result, *values, error=0.0):
    """One arithmetic instruction, a thread for every entry of the values."""
    count = max(len(v) for v in values)
    out = np.zeros(count, result)
    names = []
    body = "mov.b64 %rd20, 0;\n"
    arrays = [*values, out]
    for i, v in enumerate(arrays):
        bits = 8 * v.dtype.itemsize
        names.append({16: "%rs", 32: "%r", 64: "%rd"}[bits] + ("9" if bits == 16 else f"{40 + i}"))
        body += f"mul.wide.u32 %rd21, %r3, {bits // 8};\nadd.s64 %rd{30 + i}, %rd{i}, %rd21;\n"
        if v is not out:
            body += f"ld.global.b{bits} {names[i]}, [%rd{30 + i}];\n"
    *sources, target = names
    body += f"{instruction} {', '.join([target, *sources])};\n"
    body += f"st.global.b{8 * out.dtype.itemsize} [%rd{29 + len(arrays)}], {target};"
    execute(body, *arrays, threads=count, error=error)
    return out


def same(got, wanted):
    """Bit for bit, one NaN as good as another."""
    wanted = np.asarray(wanted, got.dtype)
    assert np.array_equal(np.isnan(got), np.isnan(wanted)), (got, wanted)
    number = ~np.isnan(got)
    assert np.array_equal(got[number], wanted[number]), (got, wanted)
    assert np.array_equal(np.signbit(got[number]), np.signbit(wanted[number])), (got, wanted)


def rounded(exact: Fraction, kind):
    """The nearest number of a type, ties to even, by exact comparison."""
    near = kind(float(exact))
    candidates = [near, np.nextafter(near, kind(math.inf)), np.nextafter(near, kind(-math.inf))]
    word = {F32: U32, F64: U64}[kind]
    return min(candidates, key=lambda c: (abs(Fraction(float(c)) - exact), int(c.view(word)) & 1))


# --- arithmetic ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind, name", [(F32, "f32"), (F64, "f64")])
def test_fma_rounds_once(kind, name):
    random = np.random.default_rng(1)
    x, y, z = random.standard_normal((3, 256)).astype(kind)
    z[128:] = -(x[128:] * y[128:])  # all but the rounding cancels
    z[:64] *= kind(2.0) ** random.integers(-40, 40, 64).astype(kind)
    got = compute(f"fma.rn.{name}", kind, x, y, z)
    for i in range(256):
        exact = Fraction(float(x[i])) * Fraction(float(y[i])) + Fraction(float(z[i]))
        assert got[i] == rounded(exact, kind), i
    assert (got[128:] != 0).any() and (got != x * y + z).any()


def test_fma_in_float32_is_not_rounded_in_double_first():
    x, y, z = (np.array([v], F32) for v in (1 + 2.0**-18, 2.0**-24 * (1 - 2.0**-18), 1 + 2.0**-23))
    assert (x.astype(F64) * y + z).astype(F32)[0] == 1 + F32(2.0**-22)  # in double it is a tie
    assert compute("fma.rn.f32", F32, x, y, z)[0] == 1 + F32(2.0**-23)


@pytest.mark.parametrize("kind, name", [(F32, "f32"), (F64, "f64")])
def test_fma_of_what_is_no_number(kind, name):
    x = np.array([math.inf, 0, math.nan, math.inf, -0.0, -1, 2.0**100, 0], kind)
    y = np.array([1, math.inf, 1, 1, 1, 0, 2.0**100, 0], kind)
    z = np.array([1, 1, 1, -math.inf, -0.0, 0, -1, -0.0], kind)
    large = math.inf if kind == F32 else 2.0**200
    same(compute(f"fma.rn.{name}", kind, x, y, z), [math.inf, *[math.nan] * 3, -0.0, 0.0, large, 0.0])


def test_two_numbers_in_one_register():
    x, y, z = np.random.default_rng(2).standard_normal((3, 64)).astype(F32)
    one = compute("fma.rn.f32", F32, x, y, z)
    two = compute("fma.rn.f32x2", U64, x.view(U64), y.view(U64), z.view(U64)).view(F32)
    same(two, one)
    same(compute("mul.f32x2", U64, x.view(U64), y.view(U64)).view(F32), x * y)


def test_subnormal_numbers_are_flushed_only_with_ftz():
    tiny = np.array([1e-40, -1e-40, 1e-30, 1.5e-38], F32)
    same(compute("add.f32", F32, tiny, tiny * F32(0)), tiny)
    same(compute("add.ftz.f32", F32, tiny, tiny * F32(0)), [0.0, -0.0, 1e-30, 1.5e-38])
    same(compute("abs.ftz.f32", F32, -tiny), [0.0, 0.0, 1e-30, 1.5e-38])
    same(compute("mul.ftz.f32", F32, tiny, np.full(4, -0.5, F32)), [-0.0, 0.0, -5e-31, -0.0])  # on the way out, too


def test_extremes_and_nan():
    x = np.array([1, math.nan, 2, math.nan, -0.0, 0.0], F32)
    y = np.array([3, 1, math.nan, math.nan, 0.0, -0.0], F32)
    same(compute("min.f32", F32, x, y), [1, 1, 2, math.nan, -0.0, -0.0])
    same(compute("min.NaN.f32", F32, x, y), [1, math.nan, math.nan, math.nan, -0.0, -0.0])
    same(compute("max.f32", F32, x, y), [3, 1, 2, math.nan, 0.0, 0.0])
    same(compute("max.NaN.f32", F32, x, y), [3, math.nan, math.nan, math.nan, 0.0, 0.0])
    same(compute("min.s64", I64, np.array([-1, 5]), np.array([2, 3])), [-1, 3])
    same(compute("min.u32", U32, np.array([2**32 - 1], U32), np.array([2], U32)), [2])


def test_approximations():
    x = np.array([0, 1, -1, 10, -200, 200, math.inf, -math.inf, math.nan, 1e-40], F32)
    same(compute("ex2.approx.ftz.f32", F32, x), [1, 2, 0.5, 1024, 0, math.inf, math.inf, 0, math.nan, 1])
    x = np.array([0, -0.0, 4, math.inf, -math.inf, math.nan, 1e-40, 2e38], F32)
    same(compute("rcp.approx.ftz.f32", F32, x), [math.inf, -math.inf, 0.25, 0, -0.0, math.nan, math.inf, 0])
    x = np.linspace(-3, 3, 64).astype(F32)
    exact = compute("ex2.approx.ftz.f32", F32, x)
    error = np.abs(compute("ex2.approx.ftz.f32", F32, x, error=2.0**-22) / exact.astype(F64) - 1).max()
    assert 2.0**-24 < error < 2.0**-22 + 2.0**-24


def test_double_precision_is_exact_to_the_last_digit():
    x, y = np.random.default_rng(3).uniform(0.1, 9, (2, 64))
    for i, (q, r) in enumerate(zip(compute("div.rn.f64", F64, x, y), compute("sqrt.rn.f64", F64, x), strict=True)):
        assert q == rounded(Fraction(x[i]) / Fraction(y[i]), F64) and r == math.sqrt(x[i])


def test_shifts_past_the_width():
    x, n = np.array([-8] * 5, I32), np.array([0, 1, 31, 32, 1000], U32)
    same(compute("shl.b32", I32, x, n), [-8, -16, 0, 0, 0])
    same(compute("shr.s32", I32, x, n), [-8, -4, -1, -1, -1])
    same(compute("shr.u32", U32, x, n), [2**32 - 8, 2**31 - 4, 1, 0, 0])
    same(compute("shr.u64", U64, np.array([2**63] * 2, U64), np.array([63, 64], U32)), [1, 0])


def test_integers():
    x, y = np.array([-7, 7, 2**31 - 1], I32), np.array([2, -2, 2], I32)
    same(compute("mul.lo.s32", I32, x, y), [-14, -14, -2])
    same(compute("mul.wide.s32", I64, x, y), [-14, -14, 2**32 - 2])
    same(compute("mul.wide.u32", I64, x[:1], y[:1]), [2 * (2**32 - 7)])
    same(compute("mul.hi.s32", I32, x, y), [-1, -1, 0])
    same(compute("div.s32", I32, x, y), [-3, -3, 2**30 - 1])  # towards zero
    same(compute("rem.s32", I32, x, y), [-1, 1, 1])
    same(compute("mad.wide.s32", I64, x, y, np.array([1, 2, 3])), [-13, -12, 2**32 + 1])
    word = np.array([0xABCD1234], U32)
    for first, length, wanted in ((0, 4, 4), (4, 8, 0x23), (28, 8, 0xA), (0, 32, 0xABCD1234), (40, 4, 0)):
        same(compute("bfe.u32", U32, word, np.array([first], U32), np.array([length], U32)), [wanted])
    for first, length, wanted in ((4, 4, 3), (12, 4, 1), (8, 4, 2), (16, 8, 0xCD - 256), (28, 8, 0xA - 16), (0, 0, 0)):
        same(compute("bfe.s32", I32, word, np.array([first], U32), np.array([length], U32)), [wanted])


def test_conversions():
    x = np.array([0.5, 1.5, -1.5, 2.7, -2.7, 3e9, -3e9, math.nan])
    same(compute("cvt.rni.s32.f64", I32, x), [0, 2, -2, 3, -3, 2**31 - 1, -(2**31), 0])
    same(compute("cvt.rzi.s32.f64", I32, x), [0, 1, -1, 2, -2, 2**31 - 1, -(2**31), 0])
    same(compute("cvt.rzi.u32.f64", U32, x), [0, 1, 0, 2, 0, 3 * 10**9, 0, 0])
    x = np.array([1 + 2.0**-24 + 2.0**-40, -1 - 2.0**-30, 1 + 2.0**-24])
    up = 1 + 2.0**-23
    same(compute("cvt.rn.f32.f64", F32, x), [up, -1, 1])  # the last is a tie
    same(compute("cvt.rz.f32.f64", F32, x), [1, -1, 1])
    same(compute("cvt.rp.f32.f64", F32, x), [up, -1, up])
    same(compute("cvt.rm.f32.f64", F32, x), [1, -up, 1])
    same(compute("cvt.s64.s32", I64, np.array([-1], I32)), [-1])
    same(compute("cvt.u64.u32", I64, np.array([-1], I32)), [2**32 - 1])
    same(compute("cvt.u32.u64", U32, np.array([2**40 + 3])), [3])
    x = np.array([1 + 2.0**-11, 1 + 2.0**-12, -1 - 2.0**-11 - 2.0**-12], F32)
    same(compute("cvt.rna.tf32.f32", F32, x), [1 + 2.0**-10, 1, -1 - 2.0**-10])
    same(compute("cvt.rn.f32.s32", F32, np.array([2**24 + 1], I32)), [2**24])


@pytest.mark.parametrize(
    "name, wanted",
    [("lt", "100"), ("ltu", "111"), ("ne", "100"), ("neu", "111"), ("equ", "011"), ("nan", "011"), ("num", "100")],
)
def test_comparisons_with_nan(name, wanted):
    x, y = np.array([1, math.nan, 1], F32), np.array([2, 1, math.nan], F32)
    out = np.zeros(3, U32)
    body = f"""
        mul.wide.u32 %rd9, %r3, 4;
        add.s64 %rd10, %rd0, %rd9; add.s64 %rd11, %rd1, %rd9; add.s64 %rd12, %rd2, %rd9;
        ld.global.b32 %r10, [%rd10]; ld.global.b32 %r11, [%rd11];
        setp.{name}.f32 %p1, %r10, %r11;
        selp.b32 %r12, 1, 0, %p1;
        st.global.b32 [%rd12], {{ %r12 }};"""
    execute(body, x, y, out, threads=3)
    assert "".join(map(str, out)) == wanted


# --- threads and memory ----------------------------------------------------------------------------

STORE = "mul.wide.u32 %rd9, %r3, 4; add.s64 %rd10, %rd0, %rd9; st.global.b32 [ %rd10 + 0 ], { %r9 };"


@pytest.mark.parametrize(
    "mode, by, limits, wanted",
    [
        ("bfly", 5, 31, WARP ^ 5),
        ("idx", 7, 31, WARP * 0 + 7),
        ("up", 3, 0, np.where(WARP < 3, WARP, WARP - 3)),
        ("down", 3, 31, np.where(WARP > 28, WARP, WARP + 3)),
        ("down", 3, 0x181F, np.where(WARP % 8 > 4, WARP, WARP + 3)),  # in segments of eight
        ("bfly", 8, 0x181F, np.where((WARP ^ 8) <= (WARP & 24 | 7), WARP ^ 8, WARP)),
    ],
)
def test_shuffles(mode, by, limits, wanted):
    out = np.zeros(64, U32)
    execute(f"shfl.sync.{mode}.b32 %r9, %r3, {by}, {limits}, -1;" + STORE, out, threads=64)
    assert np.array_equal(out, np.concatenate([wanted, wanted + 32]))


def test_a_sum_over_a_warp():
    out = np.zeros(64, U32)
    execute("mov.b32 %r8, -1;\nredux.sync.add.s32 %r9, %r3, %r8;" + STORE, out, threads=64)
    assert np.array_equal(out, np.repeat([sum(range(32)), sum(range(32, 64))], 32))
    with pytest.raises(Unknown, match="part of a warp"):
        execute("mov.b32 %r8, 15;\nredux.sync.add.s32 %r9, %r3, %r8;", out, threads=64)


def test_threads_part_and_meet():
    """A loop that every thread leaves at another time, in two programs."""
    out = np.zeros(64, U32)
    body = """
        mov.b32 %r9, 0;
        setp.gt.u32 %p1, %r0, 20;
        @%p1 bra $SKIP;
    $LOOP:
        setp.ge.u32 %p2, %r9, %r3;
        @%p2 bra $SKIP;
        add.s32 %r9, %r9, 1;
        bra.uni $LOOP;
    $SKIP:
        bar.sync 0;
        @!%p1 add.s32 %r9, %r9, 100;
    """
    execute(body + STORE, out, threads=32, grid=(2,))
    thread = np.arange(64)
    assert np.array_equal(out, np.where(thread % 32 > 20, 0, thread + 100))


def test_a_barrier_that_not_all_reach_is_a_fault():
    with pytest.raises(Fault, match="not all threads"):
        execute("setp.eq.u32 %p1, %r0, 0;\n@%p1 ret;\nbar.sync 0;", threads=32)


NEIGHBOUR = """
    shl.b32 %r4, %r3, 2;
    xor.b32 %r5, %r4, 128;
    st.shared::cta.b32 [ %r4 + 0 ], %r3;
    {barrier}
    ld.shared.b32 %r9, [%r5];
"""


def test_shared_memory_between_warps_needs_a_barrier():
    out = np.zeros(64, U32)
    execute(NEIGHBOUR.format(barrier="bar.sync 0;") + STORE, out, threads=64, shared=256)
    assert np.array_equal(out, np.arange(64) ^ 32)
    with pytest.raises(Fault, match="race: loads what another"):
        execute(NEIGHBOUR.format(barrier="") + STORE, out, threads=64, shared=256)
    with pytest.raises(Fault, match="out of bounds"):
        execute(NEIGHBOUR.format(barrier="bar.sync 0;") + STORE, out, threads=64, shared=252)


def test_two_threads_that_store_at_one_place():
    out = np.zeros(1, U32)
    execute("st.global.b32 [%rd0], %r1;", out)  # the same number
    with pytest.raises(Fault, match="race"):
        execute("st.global.b32 [%rd0], %r3;", out)
    with pytest.raises(Fault, match="race"):
        execute("st.global.b32 [%rd0], %r1;", out, grid=(2,))


def test_ldmatrix_hands_out_rows():
    """Lane 4 i + j gets entries 2 j and 2 j + 1 of row i."""
    out = np.zeros(32, U32)
    body = """
        shl.b32 %r4, %r3, 2;
        st.shared.b32 [%r4], %r3;
        bar.sync 0;
        and.b32 %r5, %r3, 7; shl.b32 %r5, %r5, 4;
        ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r9}, [%r5];
    """
    execute(body + STORE, out, shared=128)
    assert np.array_equal(out, WARP)


@pytest.mark.parametrize(
    "offset, wrong", [(-4, "out of bounds"), (124, None), (128, "out of bounds"), (2, "misaligned")]
)
@pytest.mark.parametrize("access", ("ld.global.b32 %r9, [%rd0+{}];", "@%p1 st.global.b32 [%rd0+{}], %r1;"))
def test_bounds_and_alignment(access, offset, wrong):
    body = "setp.eq.u32 %p1, %r3, 0;\n" + access.format(offset)
    buffers = np.zeros(32, F32), np.zeros(32, F32)
    if wrong is None:
        execute(body, *buffers)
    else:
        with pytest.raises(Fault, match=wrong):
            execute(body, *buffers)


def test_four_numbers_at_once():
    x = np.arange(16, dtype=F32)
    out = np.zeros(8, F32)
    body = "ld.global.v4.b32 { %r9, %r10, %r11, %r12 }, [ %rd0 + 16 ];\nst.global.v2.b32 [%rd1], {%r12, %r9};"
    execute(body, x, out)
    assert np.array_equal(out[:2], [7, 4]) and not out[2:].any()
    with pytest.raises(Fault, match="misaligned: 16 bytes"):
        execute(body.replace("+ 16", "+ 8"), x, out)
    with pytest.raises(Fault, match="misaligned: 16 bytes"):
        execute(body, np.arange(17, dtype=F32)[1:], out)
    with pytest.raises(Fault, match="out of bounds"):
        execute(body.replace("+ 16", "+ 64"), x, out)


def test_an_address_of_32_bits_is_out_of_bounds():
    with pytest.raises(Fault, match="out of bounds"):
        execute("cvt.u32.u64 %r9, %rd0;\ncvt.u64.u32 %rd9, %r9;\nst.global.b32 [%rd9], %r1;", np.zeros(1, F32))


def test_what_was_never_written_is_poison():
    out, wide = np.zeros(32, F32), np.zeros(32, F64)
    execute("mov.b32 %r9, %r77;" + STORE, out)
    assert np.isnan(out).all()
    execute("mul.wide.u32 %rd9, %r3, 8;\nadd.s64 %rd10, %rd0, %rd9;\nst.global.b64 [%rd10], %rd77;", wide)
    assert np.isnan(wide).all()
    execute("ld.shared.b32 %r9, [0];" + STORE, out * 0, shared=4)
    with pytest.raises(Fault, match="%p7 was never written"):
        execute("@%p7 mov.b32 %r9, 0;")


def test_halves_of_a_register():
    out = np.zeros(32, U32)
    execute("mov.b64 %rd8, {%r3, %r1};\nmov.b64 {_, %r10}, %rd8;\nmov.b64 {%r9, _}, %rd8;" + STORE, out)
    assert np.array_equal(out, WARP)


def test_a_short_load_is_extended_by_its_type():
    out = np.zeros(2, I64)
    body = "ld.global.s32 %rd8, [%rd1];\nld.global.u32 %rd9, [%rd1];\nst.global.v2.b64 [%rd0], {%rd8, %rd9};"
    execute(body, out, np.array([-5], I32))
    assert list(out) == [-5, 2**32 - 5]


@pytest.mark.parametrize(
    "text",
    [
        "frobnicate.f32 %r1, %r2;",
        "add.sat.f32 %r1, %r2, %r3;",
        "setp.lt.and.f32 %p1, %r2, %r3, %p2;",
        "ld.local.b32 %r1, [%rd1];",
        "shfl.sync.bfly.b32 %r1, %r2, 1, 31, 255;",
        "redux.sync.min.s32 %r1, %r2, -1;",
        "bar.sync 1, 64;",
        "mov.u32 %r1, %clock;",
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%r1}, {%r2}, {%r3}, {%r4};",
    ],
)
def test_what_is_not_known_raises_with_its_text(text):
    with pytest.raises(Unknown) as caught:
        execute(text)
    assert text.rstrip(";") in str(caught.value)


def test_arguments_that_share_memory():
    """One array twice is one buffer."""
    both = np.zeros(1, U32)
    execute("mov.b32 %r9, 5;\nst.global.b32 [%rd0], %r9;\nld.global.b32 %r10, [%rd1];\n"
            "add.s32 %r10, %r10, 1;\nst.global.b32 [%rd0], %r10;", both, both, threads=1)  # fmt: skip
    assert both[0] == 6
    both = np.zeros(32, U32)
    with pytest.raises(ValueError, match="two sizes"):
        execute(STORE, both, both[:3])
    with pytest.raises(ValueError, match="contiguous"):
        execute(STORE, both[::2])
