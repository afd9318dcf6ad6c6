"""Every backend's kernels, called as operators, against the float64 reference."""

import itertools
import math
import subprocess
import sys
from functools import cache

import oracle
import pytest
import torch
from interpreted import INTERPRETED, OPERATORS

from bumpnet_fast.core import ops, reference
from bumpnet_fast.core.reference import DIAGONAL, WANTS, second_shape
from bumpnet_fast.core.rows import RowLayout, orientation, pack

#: Lengths around every vector width and block size a kernel may use, and no points at all.
POINTS = (0, 1, 7, 8, 9, 15, 16, 17, 31, 33, 255, 257, 1025)
BUMPS = (1, 2, 3, 8, 33)
#: Points and bumps for several chunks, tiles and threads, and to run twice; points on the edges of bumps; a few points,
#: and more than two of the longest vectors with a tail.
MANY = ((20000, 5), (300, 400))
AGAIN = (1001, 17)
EDGES = {"sharp": 500, "extreme": 200}
FEW, VECTORS = 33, 41

if INTERPRETED:  # a millisecond for every operation of a program, and the sums per bump go point by point
    POINTS, BUMPS = (5, 33), (1, 2, 3, 8, 9)
    MANY = ((66, 2), (3, 300))
    AGAIN = (5, 3)
    EDGES = {"sharp": 16, "extreme": 3}
    FEW, VECTORS = 3, 3

no_interpreter = pytest.mark.skipif(INTERPRETED, reason="says nothing of a GPU when interpreted on a CPU")


def in_turn(choices, turn, every=2):
    """All ``choices``; for the interpreter those whose turn it is: each is met by one test of ``every``."""
    return choices[turn % every :: every] if INTERPRETED else choices


#: Relative to the largest entry: value, first derivatives, second derivatives and gradients.
TOLERANCES = {torch.float64: (1e-12, 1e-11, 1e-10), torch.float32: (1e-5, 1e-4, 5e-4)}


#: Backends that are plain PyTorch: "auto" is the operators where there are no kernels.
PLAIN = ("reference", "auto")


def run(backend, name, *args):
    """An operator on one backend; "reference" is the operators' own fallback, also where kernels exist."""
    if backend == "reference":
        return ops._chunked(name, *args)
    return getattr(torch.ops.bumpnet_fast, name)(*args)


def random_like_jet(leading, dim, want, seed=3):
    """Cotangents (or coefficients) of the value, gradient and second derivatives; None past ``want``."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (leading, (*leading, dim), (*leading, *second_shape(want, dim)))
    return [
        torch.randn(shape, generator=generator) if i <= min(want, DIAGONAL) else None for i, shape in enumerate(shapes)
    ]


def points_last(t):
    return t if t is None or t.dim() < 2 else t.movedim(0, -1)


def tolerances(backend, dtype, levels):
    """The reference takes more operations, each of them rounded, than a kernel."""
    slack = 5 if backend in PLAIN and dtype == torch.float32 else 1
    return [slack * TOLERANCES[dtype][k] for k in levels]


def sharpened(rows, frame, tied, pA):
    """The bumps ``rows`` with p A as given."""
    layout = RowLayout.of(rows, frame.shape[1], tied)
    rows = rows.clone()
    found = torch.exp(rows[:, layout.sharpness]) * pack(rows, frame, tied).A.amax(1)
    rows[:, layout.sharpness] += 0.5 * torch.log(pA / found)
    return rows


def cast(args, dtype):
    return [t.to(dtype) if isinstance(t, torch.Tensor) else t for t in args]


def points_on_edges(rows, frame, tied, n):
    """Points that take turns on the bumps' edges: where the numbers are largest and hardest."""
    generator = torch.Generator().manual_seed(n)
    V, c, A, s, _ = (t.double() for t in pack(rows, frame, tied))
    turn, axis = torch.arange(n) % len(rows), torch.arange(n) % frame.shape[1]
    B = 0.5 * A[turn] * (2 * torch.rand(n, frame.shape[1], generator=generator, dtype=torch.float64) - 1)
    beyond = torch.randn(n, generator=generator, dtype=torch.float64) / s[turn].clamp(min=1)
    B[torch.arange(n), axis] = A[turn, axis] + beyond
    return (c[turn] + torch.linalg.solve(V[turn], B)).to(rows)


def problem(dim, tied, want, n, m, outputs):
    """Arguments of all five operators, in numbers that float32 holds exactly; half of the bumps are sharp."""
    rows, frame = oracle.bumps(dim, m, outputs, tied, dtype=torch.float32)
    rows[::2] = sharpened(rows[::2], frame, tied, 40.0)
    amplitude = RowLayout(dim, outputs, tied).amplitude
    rows[:, amplitude] = rows[:, amplitude].abs()  # nothing cancels: errors are relative to the result
    return arguments(points_on_edges(rows, frame, tied, n), rows, frame, want, tied)


def arguments(x, rows, frame, want, tied):
    (n, dim), m = x.shape, len(rows)
    outputs = RowLayout.of(rows, dim, tied).outputs
    bumps = [x, rows, frame, want, tied]
    jet = random_like_jet((n, outputs), dim, want)
    basis = [points_last(t) for t in random_like_jet((n, m), dim, want)]
    row = random_like_jet((n,), dim, want)
    made = {
        "jet": bumps,
        "jet_vjp": [*jet, *bumps, True, True],
        "basis": bumps,
        "basis_vjp": [*basis, *bumps, True, True],
        "design": [*row, *bumps, True],
    }
    return {name: made[name] for name in OPERATORS}


def wanted(name, args):
    """The float64 reference in the operators' layouts."""
    args = cast(args, torch.float64)
    if name == "basis_vjp":
        args[:3] = [None if t is None else t.movedim(-1, 0) for t in args[:3]]
    out = getattr(reference, name)(*(args[:-2] if name.endswith("vjp") else args))
    return tuple(points_last(t) for t in out) if name in ("basis", "design") else out


def levels(name, want):
    """Which tolerance each result is held to."""
    return {"jet": (0, 1, 2), "basis": (0, 1, 2), "design": (min(want, DIAGONAL), 2)}.get(name, (2, 2))


@cache
def cases(dim, tied, want):
    """All lengths, with numbers of bumps and outputs that take turns; and their results."""
    start = 3 * dim + 2 * tied + want
    made = []
    for i, n in enumerate(in_turn(POINTS, start // 2)):
        m = BUMPS[(start + i) % 5] if n < 100 else 1 + (start + i) % 3
        problems = problem(dim, tied, want, n, m, 1 + (start + i) % 3)
        made += [(name, args, wanted(name, args)) for name, args in problems.items()]
    return made


def assert_agrees(got, wanted, limits, what):
    for i, (g, w, tolerance) in enumerate(zip(got, wanted, limits, strict=True)):
        assert g.is_contiguous()
        oracle.assert_close(g, w, tolerance, f"{what}, result {i}")


@pytest.mark.parametrize("tied", (True, False), ids=("tied", "free"))
@pytest.mark.parametrize("want", range(5), ids=WANTS)
@pytest.mark.parametrize("dim", (1, 2, 3, 4))
def test_agreement_with_the_reference(backend, dim, tied, want):
    every = list(itertools.product(TOLERANCES, cases(dim, tied, want)))
    for dtype, (name, args, result) in in_turn(every, tied):
        got = run(backend, name, *cast(args, dtype))
        assert {t.dtype for t in got} == {dtype}
        at = 3 * (len(args) > 6)
        what = f"{name} {dtype} N, M = {args[at].shape[0]}, {args[at + 1].shape[0]}"
        assert_agrees(got, result, tolerances(backend, dtype, levels(name, want)), what)


@cache
def sharp_cases(dim, tied):
    """Points all over the domain, bumps as sharp as the tolerances of float32 are meant for."""
    rows, frame = oracle.bumps(dim, 20, 1, tied, dtype=torch.float32)
    rows = sharpened(rows, frame, tied, 100.0)
    x = oracle.points(dim, EDGES["sharp"], dtype=torch.float32)
    problems = {want: arguments(x, rows, frame, want, tied) for want in (reference.GRADIENT, reference.HESSIAN)}
    return [(want, name, a, wanted(name, a)) for want, each in problems.items() for name, a in each.items()]


@pytest.mark.parametrize("tied", (True, False), ids=("tied", "free"))
@pytest.mark.parametrize("dim", (1, 2, 3, 4))
def test_float32_keeps_its_digits_up_to_p_A_of_100(variant, dim, tied):
    for want, name, args, result in sharp_cases(dim, tied):
        limits = tolerances(variant, torch.float32, levels(name, want))
        assert_agrees(run(variant, name, *args), result, limits, name)


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_many_points_and_bumps(backend, dtype):
    """Long enough for several chunks and threads."""
    for n, m in MANY:
        for name, args in problem(2, True, reference.LAPLACIAN, n, m, 1).items():
            got = run(backend, name, *cast(args, dtype))
            limits = tolerances(backend, dtype, levels(name, reference.LAPLACIAN))
            assert_agrees(got, wanted(name, args), limits, f"{name} {n} {m}")


@pytest.mark.parametrize("name", OPERATORS)
def test_no_points(backend, name):
    for dim, want in itertools.product((1, 2, 3, 4), range(5)):
        args = problem(dim, True, want, 0, 3, 2)[name]
        for got, expected in zip(run(backend, name, *args), wanted(name, args), strict=True):
            assert got.shape == expected.shape and not got.any()


@pytest.mark.parametrize("dim", (1, 2, 3, 4))
def test_bumps_without_amplitudes(backend, dim):
    """K = 0 is how a trunk without heads looks."""
    for name, args in problem(dim, True, reference.HESSIAN, 9, 3, 0).items():
        got = run(backend, name, *cast(args, torch.float64))
        assert_agrees(got, wanted(name, args), [1e-10] * len(got), name)


# --- what is asked for -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in OPERATORS if name.endswith("vjp")])
@pytest.mark.parametrize("dim", (1, 2, 3))
def test_only_the_needed_gradients(backend, name, dim):
    *head, _, _ = cast(problem(dim, True, reference.DIAGONAL, FEW, 3, 2)[name], torch.float64)
    both = run(backend, name, *head, True, True)
    for needs in itertools.product((True, False), repeat=2):
        for got, full, need in zip(run(backend, name, *head, *needs), both, needs, strict=True):
            if need:
                oracle.assert_close(got, full, 1e-14, f"{name} {needs}")
            else:
                assert got.shape == (0,)


@pytest.mark.parametrize(
    "name, want",
    [(n, w) for i, n in enumerate(OPERATORS) if n not in ("jet", "basis") for w in in_turn(range(5), i)],
)
def test_a_missing_cotangent_counts_as_zero(backend, name, want):
    args = cast(problem(2, True, want, FEW, 3, 2)[name], torch.float64)
    for present in set(itertools.product((True, False), repeat=3)) - {(True, True, True)}:
        some = [g if here else None for g, here in zip(args[:3], present, strict=True)]
        zeros = [g if here or g is None else torch.zeros_like(g) for g, here in zip(args[:3], present, strict=True)]
        results = (run(backend, name, *head, *args[3:]) for head in (some, zeros))
        for got, expected in zip(*results, strict=True):
            oracle.assert_close(got, expected, 1e-14, f"{name} {present}")


# --- memory layouts --------------------------------------------------------------------------------


def strided(t):
    """The same numbers with gaps in every dimension."""
    wide = torch.full([2 * size for size in t.shape], math.nan, dtype=t.dtype)
    view = wide[tuple(slice(None, None, 2) for _ in t.shape)]
    return view.copy_(t)


def transposed(t):
    """The same numbers with the dimensions laid out in the opposite order."""
    return t.permute(*reversed(range(t.dim()))).contiguous().permute(*reversed(range(t.dim())))


def offset(t):
    """The same numbers from an address that no vector load is aligned to."""
    return torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape)


@pytest.mark.parametrize("view", (strided, transposed, offset))
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("dim", (1, 2, 3))
def test_any_strides(backend, dim, dtype, view):
    for name, args in problem(dim, False, reference.HESSIAN, FEW, 3, 2).items():
        args = cast(args, dtype)
        viewed = [view(t) if isinstance(t, torch.Tensor) else t for t in args]
        for got, expected in zip(run(backend, name, *viewed), run(backend, name, *args), strict=True):
            if backend in PLAIN:  # torch.einsum sums strided tensors in another order
                oracle.assert_close(got, expected, TOLERANCES[dtype][1], name)
            else:
                assert torch.equal(got, expected), name


def test_expanded_inputs(backend):
    """Stride 0: one point repeated, one bump repeated, and the ones that ``.sum().backward()`` sends."""
    for name, args in problem(2, True, reference.HESSIAN, 1, 1, 1).items():
        args = cast(args, torch.float64)
        at = 3 * (len(args) > 6)
        args[at], args[at + 1] = args[at].expand(17, 2), args[at + 1].expand(3, 7)
        lead = {"jet_vjp": (17, 1), "basis_vjp": (3, 17), "design": (17,)}.get(name)
        if lead is not None:
            middle = [(), (2,), (2, 2)]
            shapes = [(3, *mid, 17) if name == "basis_vjp" else (*lead, *mid) for mid in middle]
            args[:3] = [torch.ones((), dtype=torch.float64).expand(shape) for shape in shapes]
        solid = [t.contiguous() if isinstance(t, torch.Tensor) else t for t in args]
        for got, expected in zip(run(backend, name, *args), run(backend, name, *solid), strict=True):
            assert torch.equal(got, expected), name


def test_inputs_are_left_alone(backend):
    for name, args in problem(2, True, reference.HESSIAN, FEW, 3, 1).items():
        before = [t.clone() if isinstance(t, torch.Tensor) else t for t in args]
        run(backend, name, *args)
        for t, b in zip(args, before, strict=True):
            assert not isinstance(t, torch.Tensor) or torch.equal(t, b)


# --- no number -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("dim", (1, 2, 3, 4))
def test_a_point_that_is_no_number_gives_nan_there_only(backend, dim, dtype):
    n = 7 if backend in PLAIN else VECTORS
    for want in in_turn((reference.VALUE, reference.HESSIAN), dtype == torch.float64):
        problems = {name: cast(args, dtype) for name, args in problem(dim, True, want, n, 3, 2).items()}
        clean = {name: run(backend, name, *args) for name, args in problems.items()}
        for i in range(n):
            broken = problems["jet"][0].clone()
            broken[i, i % dim] = (math.nan, math.inf, -math.inf)[(i + dim) % 3]
            others = torch.arange(n) != i
            for name, args in problems.items():
                at = 3 * (len(args) > 6)
                dirty = run(backend, name, *args[:at], broken, *args[at + 1 :])
                if name.endswith("vjp"):
                    rows_gradient = dirty[1][:, : RowLayout(dim, 2).shape_columns]
                    assert torch.isnan(rows_gradient).all(), f"{name}: a sum over the points has the NaN in it"
                    dirty, before = dirty[:1], clean[name][:1]
                else:
                    before = clean[name]
                for d, c in zip(dirty, before, strict=True):
                    if d.shape != (0,):
                        d, c = (t.movedim(-1, 0) if name in ("basis", "design") else t for t in (d, c))
                        assert torch.isnan(d[i]).all(), f"{name} at {i}"
                        assert torch.equal(d[others], c[others]), f"{name} beside {i}"


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("tied", (True, False), ids=("tied", "free"))
@pytest.mark.parametrize("dim", (1, 2, 3, 4))
def test_a_row_that_is_no_number_gives_nan(backend, dim, tied, dtype):
    problems = {name: cast(args, dtype) for name, args in problem(dim, tied, reference.HESSIAN, FEW, 3, 1).items()}
    rows = problems["jet"][1]
    for column in in_turn(range(rows.shape[1]), 2 * tied + (dtype == torch.float64), every=4):
        broken = rows.clone()
        broken[1, column] = math.nan
        is_amplitude = column == rows.shape[1] - 1
        for name, args in problems.items():
            at = 3 * (len(args) > 6)
            got = run(backend, name, *args[: at + 1], broken, *args[at + 2 :])
            if name == "jet":
                assert all(torch.isnan(t).all() for t in got), f"column {column}"
            elif name in ("basis", "design"):
                for t in got:
                    assert torch.isnan(t[1]).all() == (not is_amplitude), f"{name}, column {column}"
                    assert torch.isfinite(t[[0, 2]]).all()
            elif not (is_amplitude and name == "basis_vjp"):
                assert torch.isnan(got[0]).all() and torch.isnan(got[1][1]).any(), f"{name}, column {column}"
                assert torch.isfinite(got[1][[0, 2]]).all()


# --- far ranges ------------------------------------------------------------------------------------


def extreme(dim, p, A, slope, reach):
    """Two bumps of sharpness ``p`` and half length ``A`` edge widths, |V| = ``slope``, near |x| = ``reach``."""
    layout = RowLayout(dim, 1, tied=True)
    rows = torch.zeros(2, layout.columns, dtype=torch.float64)
    rows[:, layout.skew] = 0.3
    rows[:, layout.sharpness] = math.log(p)
    rows[:, layout.amplitude] = 1
    rows[1, layout.centre] = 0.4
    length = orientation(rows[:, layout.skew], dim)[2][0]
    rows[:, layout.size] = torch.log(2 * A / (p * length))
    frame = torch.full((3, dim), slope / (p * length), dtype=torch.float64)
    frame[0], frame[1] = reach - A / slope, reach + A / slope
    return points_on_edges(rows, frame, True, EDGES["extreme"]), rows, frame


@cache
def extreme_cases(dim, *shape):
    problems = arguments(*extreme(dim, *shape), reference.HESSIAN, True)
    made = []
    for name in problems.keys() - {"basis", "basis_vjp"}:
        args = cast(problems[name], torch.float64)
        made.append((name, args, *rounding_noise(name, args)))
    return made


def rounding_noise(name, args):
    """How far the float64 reference moves when its inputs are rounded: the digits there are not."""
    generator = torch.Generator().manual_seed(1)
    base = wanted(name, args)
    worst = [0.0] * len(base)
    for _ in range(4):
        moved = list(args)
        for i, t in enumerate(args):
            if isinstance(t, torch.Tensor):
                moved[i] = t * (1 + 2.2e-16 * (2 * torch.rand(t.shape, generator=generator, dtype=t.dtype) - 1))
        worst = [max(a, oracle.error(m, b)) for a, m, b in zip(worst, wanted(name, moved), base, strict=True)]
    return base, worst


SHAPES = (
    (1.0, 1e-3, 1e-2, 0.0),
    (1.0, 1e4, 1.0, 1e6),
    (1e2, 1e-3, 1e2, 0.0),
    (1e2, 1e2, 1e5, 1.0),
    (1e4, 1.0, 1e4, 0.0),
    (1e4, 1e4, 1e5, 0.0),
    (1e4, 1e4, 1e-2, 1e6),
    (1e-2, 1e4, 1e5, 1e3),
    (30.0, 30.0, 1e3, 1e6),
)


@pytest.mark.parametrize(
    "dim, p, A, slope, reach", [(d, *shape) for i, shape in enumerate(SHAPES) for d in in_turn((1, 2, 3, 4), i)]
)
def test_extreme_shapes(backend, dim, p, A, slope, reach):
    for name, args, expected, noise in extreme_cases(dim, p, A, slope, reach):
        for i, got in enumerate(run(backend, name, *args)):
            assert torch.isfinite(got).all()
            oracle.assert_close(got, expected[i], 1e-11 + 100 * noise[i], f"{name}, result {i}")
        single = run(backend, name, *cast(args, torch.float32))
        assert all(torch.isfinite(t).all() for t in single), f"{name} float32"


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("dim", (1, 2, 3, 4))
def test_points_far_away(backend, dim, dtype):
    """Nothing overflows however far a point is, and nothing spills over to the others."""
    rows, frame = oracle.bumps(dim, 3, 1, True, dtype=torch.float32)
    far = torch.tensor([[1e6], [-1e18], [1e18]]).expand(3, dim)
    near = oracle.points(dim, 3, dtype=torch.float32)
    for name, args in arguments(torch.cat([far, near]), rows, frame, reference.HESSIAN, True).items():
        got = run(backend, name, *cast(args, dtype))
        limits = tolerances(backend, dtype, [2] * len(got))
        assert_agrees(got, wanted(name, args), limits, f"{name} {dtype}")


#: Logarithms of side lengths, each with how many eps a result may be off, relative to its largest entry or to 1, which
#: is about the size of the terms: an entry that should be 0 has none of its own.
SIZES = {"thin": (-12.0, 8), "everyday": (0.5, 200), "wide": (12.0, 8), "very wide": (25.0, 8)}
PLACES = ("centre", "near", "far")


def placed(dim, place, dtype):
    """Points at the common centre of the bumps, about it, or as far as the numbers of ``dtype`` go."""
    if place == "centre":
        return torch.zeros(1, dim, dtype=dtype)
    if place == "near":
        return oracle.points(dim, 4, dtype=dtype)
    most = torch.finfo(dtype).max
    # interpreted, V (x - c) has no fused multiply-add, and infinities of both signs would meet
    last = most if dim == 1 or not INTERPRETED else most / 1e4
    far = torch.tensor([1e3, -1e6, 1e18, most**0.5, -(most**0.75), last, -last], dtype=torch.float64)
    signs = torch.tensor([1.0, -1.0, 1.0, 1.0])[:dim]
    return (far[:, None] * signs).to(dtype)


@cache
def sized_cases(dim, want, size, place, dtype):
    """(operator, its arguments in numbers that ``dtype`` holds exactly, the results), for three bumps of one size."""
    tied = (dim + want) % 2 == 0
    layout = RowLayout(dim, 1, tied)
    rows = 0.3 * torch.randn(3, layout.columns, generator=torch.Generator().manual_seed(10 * dim + want))
    rows[:, layout.size] += SIZES[size][0]
    rows[:, layout.amplitude] = 1 + rows[:, layout.amplitude].abs()
    if place == "centre":
        rows[:, layout.centre] = 0
    frame = torch.tensor([[-1.0], [1.0], [1.0]]).expand(3, dim).to(dtype)
    problems = arguments(placed(dim, place, dtype), rows.to(dtype), frame, want, tied)
    return [(name, args, wanted(name, args)) for name, args in problems.items()]


@pytest.mark.parametrize("want", range(5), ids=WANTS)
@pytest.mark.parametrize("dim", (1, 2, 3, 4))
def test_bumps_of_all_sizes_at_their_centres_and_far_away(backend, dim, want):
    """Derivatives that vanish do so where something large multiplies them: a wide bump's size, a far point's x."""
    every = list(itertools.product(SIZES, PLACES, TOLERANCES, range(len(OPERATORS))))
    for size, place, dtype, i in in_turn(every, 5 * dim + want, 20):
        name, args, results = sized_cases(dim, want, size, place, dtype)[i]
        for j, (got, w) in enumerate(zip(run(backend, name, *cast(args, dtype)), results, strict=True)):
            off = (got.double() - w).abs().max().item() if w.numel() else 0.0
            allowed = SIZES[size][1] * torch.finfo(dtype).eps * max(1.0, w.abs().max().item() if w.numel() else 0.0)
            assert off <= allowed, f"{name} {dtype} result {j} of a {size} bump, {place}: off by {off:.3g}"


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_a_gradient_vanishes_at_the_centre(backend, dtype):
    """Within a few eps of its terms: with r = 1 / cosh(A)^2 it is w g (r - r), times V = 1, for every A alike."""
    A = torch.logspace(-2, math.log10(10 if dtype == torch.float32 else 40), 20 if INTERPRETED else 500)
    rows = torch.zeros(len(A), 4)
    rows[:, 1] = torch.log(2 * A)
    frame = torch.tensor([[-1.0], [1.0], [1.0]])
    value, gradient, _ = run(backend, "basis", *cast([torch.zeros(1, 1), rows, frame], dtype), reference.GRADIENT, True)
    A = 0.5 * rows[:, 1].double().exp()
    terms = 2 * value[:, 0] * (1 - value[:, 0]) * 2 * torch.tanh(A) / torch.cosh(A) ** 2
    assert (gradient[:, 0, 0].abs() <= 4 * torch.finfo(dtype).eps * terms).all()


# --- memory ----------------------------------------------------------------------------------------

MEASURE = """
import resource, torch
from bumpnet_fast import BumpNet, use_backend
torch.set_num_threads(1)
net, x = BumpNet(2, {bumps}), torch.rand({points}, 2, requires_grad=True)
def step(x):
    net.jet(x, want="laplacian").laplacian.square().mean().backward()
with use_backend({variant!r}):
    step(x[:8].detach().requires_grad_())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step(x)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@no_interpreter
def test_memory_is_that_of_points_and_bumps_not_of_pairs(variant):
    """4e7 pairs: one float32 for each would be 160 MB."""
    script = MEASURE.format(bumps=400, points=100_000, variant=variant)
    grown = int(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout)
    if sys.platform == "darwin":
        grown //= 1024  # bytes there, KiB elsewhere
    assert grown < 20 * 1024


# --- determinism -----------------------------------------------------------------------------------


def all_results(backend, n, m, dtype):
    problems = problem(2, True, reference.LAPLACIAN, n, m, 1)
    return {name: run(backend, name, *cast(args, dtype)) for name, args in problems.items()}


def assert_identical(first, second):
    for name, results in first.items():
        for a, b in zip(results, second[name], strict=True):
            assert torch.equal(a, b), name


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_two_runs_give_the_same_bits(backend, dtype):
    assert_identical(all_results(backend, *AGAIN, dtype), all_results(backend, *AGAIN, dtype))


@no_interpreter
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("n, m", [(20000, 50), (200000, 3), (100, 2000)])
def test_one_thread_and_two_give_the_same_bits(variant, threads, n, m, dtype):
    threads(1)
    alone = all_results(variant, n, m, dtype)
    threads(2)
    assert_identical(alone, all_results(variant, n, m, dtype))
