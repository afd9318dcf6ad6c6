"""Pairs of points and bumps that add nothing are left out: never a different answer, and far fewer of them.

The backend "culled" of the other tests holds all operators to the reference with every tile cut out of few points;
here the bumps are many and sharp, as where it is for.  In Triton's interpreter (tests/interpreted.py) they are few, and
so are the points of a tile; what is Triton's own is in kernels/checks_culling.py.
"""

import itertools
import math
import threading

import culling_rule as rule
import pytest
import torch
from interpreted import INTERPRETED

from bumpnet_fast import bump_jet
from bumpnet_fast.core import backends as native
from bumpnet_fast.core import ops, reference
from bumpnet_fast.core.reference import DIAGONAL, GRADIENT, HESSIAN, LAPLACIAN, VALUE, WANTS, second_shape
from bumpnet_fast.core.rows import RowLayout

pytestmark = pytest.mark.skipif(native.missing is not None and not INTERPRETED, reason="no compiled extension")
only_compiled = pytest.mark.skipif(INTERPRETED, reason="about the compiled kernels")

#: Bumps and points of a problem, and points of a tile.
BUMPS, POINTS, TILE = 300, 2500, 128
KINDS = [(1, 1), (2, 1), (2, 3), (3, 2), (4, 1)]  # dimension, outputs
CASES = list(itertools.product(KINDS, range(5), (torch.float32, torch.float64)))
LENGTHS = (1, TILE - 1, TILE, TILE + 1, 64 * TILE - 1, 64 * TILE + 1)
NO_NUMBER = [(bad, outputs) for bad in (math.nan, math.inf) for outputs in (1, 2)]
if INTERPRETED:  # a hundred operations for every pair of a tile and a bump, of a millisecond each
    BUMPS, POINTS, TILE = 7, 36, 8
    CASES = [(KINDS[i // 2 % 5], i % 5, (torch.float32, torch.float64)[i % 2]) for i in range(10)]
    LENGTHS = (1, TILE - 1, TILE, TILE + 1)
    NO_NUMBER = NO_NUMBER[3:]
#: p A, so that most of a tile's bumps are out of it or 1 all over it.
SHARP = {torch.float32: 12, torch.float64: 25}

#: Largest difference to all pairs, relative to the largest entry.
ROUNDING = {torch.float32: 1e-6, torch.float64: 1e-14}


@pytest.fixture(autouse=True)
def tiles(monkeypatch):
    """The interpreter's are short, and two programs share a bump's."""
    if INTERPRETED:
        from bumpnet_fast.kernels import operators, tiles

        monkeypatch.setattr(tiles, "TILE", TILE)
        monkeypatch.setattr(operators, "by_lists", lambda *_: (TILE, 1, 2))


def bumps(dim, m, sharpness, outputs=1, seed=0):
    """Rows and frame of bumps at random that cover the domain four times, ``sharpness`` being p A."""
    generator = torch.Generator().manual_seed(seed)
    layout = RowLayout(dim, outputs)
    half = (4 / m) ** (1 / dim)
    frame = torch.stack([torch.full((dim,), v, dtype=torch.float64) for v in (-1.2, 1.2, 1 / half)])
    rows = torch.zeros(m, layout.columns, dtype=torch.float64)
    rows[:, layout.centre] = torch.atanh((2 * torch.rand(m, dim, generator=generator, dtype=torch.float64) - 1) / 1.2)
    rows[:, layout.size] = math.log(2)
    rows[:, layout.skew] = torch.rand(m, layout.skews, generator=generator, dtype=torch.float64) - 0.5
    rows[:, layout.sharpness] = math.log(sharpness)
    rows[:, layout.amplitude] = torch.randn(m, outputs, generator=generator, dtype=torch.float64)
    return rows, frame


def points(dim, n, seed=1):
    """All over the domain; the interpreter's few are close together in a tile, as many would be."""
    generator = torch.Generator().manual_seed(seed)
    x = 2 * torch.rand(n, dim, generator=generator, dtype=torch.float64) - 1
    return x[::TILE].repeat_interleave(TILE, 0)[:n] + 0.03 * x if INTERPRETED else x


def cotangents(n, outputs, dim, want, seed=2):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(n, outputs), (n, outputs, dim), (n, outputs, *second_shape(want, dim))]
    return [torch.randn(s, generator=generator, dtype=torch.float64) if i <= min(want, DIAGONAL) else None
            for i, s in enumerate(shapes)]  # fmt: skip


def evaluate(when, x, rows, frame, want, weights):
    with native.use_culling(when):
        jet = torch.ops.bumpnet_fast.jet(x, rows, frame, want, True)
        return *jet, *torch.ops.bumpnet_fast.jet_vjp(*weights, x, rows, frame, want, True, True, True)


def cast(dtype, *tensors):
    return [None if t is None else t.to(dtype) for t in tensors]


def assert_same(got, expected, tolerance, usual=()):
    """Differences relative to the largest entry, or to what is ``usual`` elsewhere."""
    for i, (g, e, *elsewhere) in enumerate(zip(got, expected, *([usual] if usual else []), strict=True)):
        assert g.shape == e.shape
        if e.numel():
            scale = max(t.abs().max() for t in (e, *elsewhere))
            assert (g - e).abs().max() <= tolerance * scale, f"result {i}"


@pytest.mark.parametrize("kind, want, dtype", CASES, ids=lambda v: WANTS[v] if isinstance(v, int) else str(v))
def test_the_answer_is_that_of_all_pairs(kind, want, dtype):
    (dim, outputs), sharpness = kind, SHARP[dtype]
    rows, frame = bumps(dim, BUMPS, sharpness, outputs)
    x, weights = points(dim, POINTS), cotangents(POINTS, outputs, dim, want)
    x, rows, frame, *weights = cast(dtype, x, rows, frame, *weights)
    expected = evaluate("never", x, rows, frame, want, weights)
    assert_same(evaluate("always", x, rows, frame, want, weights), expected, ROUNDING[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bumps_too_small_to_rise_are_not_left_out(dtype):
    """As many bumps of the default sharpness are: what they come to is small everywhere, and all there is."""
    layout, sharpness = RowLayout(2, 1), SHARP[dtype]
    rows, frame = bumps(2, BUMPS, sharpness)
    rows[:, layout.size] -= math.log(2 * sharpness)
    centres = torch.tanh(rows[:, layout.centre]) * 1.2
    assert reference.basis(centres, rows, frame, VALUE, True)[0].max() < 1e-6
    x = centres[torch.arange(POINTS) % BUMPS] + 0.01 * points(2, POINTS)
    weights = cotangents(POINTS, 1, 2, LAPLACIAN)
    x, rows, frame, *weights = cast(dtype, x, rows, frame, *weights)
    expected = evaluate("never", x, rows, frame, LAPLACIAN, weights)
    assert_same(evaluate("always", x, rows, frame, LAPLACIAN, weights), expected, ROUNDING[dtype])


@only_compiled
@pytest.mark.parametrize("dtype, sharpness", [(torch.float32, 12), (torch.float64, 25)], ids=str)
@pytest.mark.parametrize("dim, want", [(1, VALUE), (2, HESSIAN), (3, GRADIENT)])
def test_what_is_left_out_is_what_the_rule_says(dim, want, dtype, sharpness):
    """An output for every bump, so that one that is left out is 0 there; kernels/checks_culling.py reads the lists."""
    m, places = 40, 60
    rows, frame = bumps(dim, m, sharpness, m)
    rows[::3, : RowLayout(dim, 0).shape_columns] += 0.3
    rows[:, RowLayout(dim, m).amplitude] = torch.diag(torch.logspace(-3, 3, m).double())
    x = points(dim, places).repeat_interleave(TILE, 0)  # a tile in every place, whatever their order
    x, rows, frame = cast(dtype, x, rows, frame)
    with native.use_culling("always"):
        value = torch.ops.bumpnet_fast.jet(x, rows, frame, want, True)[0]
    least, most, margin = rule.bounds(x, rows, frame, True, TILE, min(want, DIAGONAL))
    out, clear = most < -margin, (most + margin).abs() > 1e-3
    assert torch.equal((value[::TILE] == 0)[clear], out[clear]) and 0.1 < out.double().mean() < 0.9
    assert margin.max() > margin.min() + 1, "all margins are alike"


@only_compiled
def test_it_is_chosen_where_it_pays_and_not_elsewhere():
    """What is left out shows in the bits; the same bits as with all pairs say that all of them were taken."""
    for n, sharpness, pays in ((2**14, 20, True), (2**10, 20, False), (2**14, 2, False)):
        rows, frame = bumps(2, 1000, sharpness)
        weights = cotangents(n, 1, 2, LAPLACIAN)
        args = (*cast(torch.float32, points(2, n), rows, frame), LAPLACIAN, cast(torch.float32, *weights))
        auto, dense, culled = (evaluate(when, *args) for when in ("auto", "never", "always"))
        for a, d, c in zip(auto, dense, culled, strict=True):
            assert torch.equal(a, c if pays else d)
        assert not torch.equal(dense[4], culled[4]), "nothing to tell them by"


@pytest.mark.parametrize("n", LENGTHS)
def test_last_tiles_of_any_length(n):
    rows, frame = bumps(2, BUMPS, 20)
    x, weights = points(2, n), cotangents(n, 1, 2, LAPLACIAN)
    dense, culled = (evaluate(when, x, rows, frame, LAPLACIAN, weights) for when in ("never", "always"))
    usual = evaluate("never", points(2, POINTS), rows, frame, LAPLACIAN, cotangents(POINTS, 1, 2, LAPLACIAN))
    assert_same(culled, dense, ROUNDING[torch.float64], usual)


@pytest.mark.parametrize("where", ("clustered", "line", "one place"))
def test_points_that_are_not_uniform(where):
    rows, frame = bumps(2, BUMPS, 20)
    x = points(2, POINTS)
    x = {"clustered": x**5, "line": x * torch.tensor([1.0, 0.0]), "one place": x * 0 + 0.3}[where].double()
    weights = cotangents(POINTS, 1, 2, LAPLACIAN)
    dense, culled = (evaluate(when, x, rows, frame, LAPLACIAN, weights) for when in ("never", "always"))
    usual = evaluate("never", points(2, POINTS), rows, frame, LAPLACIAN, weights)
    assert_same(culled, dense, ROUNDING[torch.float64], usual)


@pytest.mark.parametrize("column, more", [("sharpness", math.log(100)), ("amplitude", 1e9)])
def test_one_large_bump_among_small_ones_keeps_its_tails(column, more):
    """Small next to its own peak is not small next to the others: its tail is theirs to compare with."""
    rows, frame = bumps(2, BUMPS, 20)
    x, weights = points(2, POINTS), cotangents(POINTS, 1, 2, LAPLACIAN)
    x, rows, frame, *weights = cast(torch.float32, x, rows, frame, *weights)
    others = evaluate("never", x, rows, frame, LAPLACIAN, weights)
    rows[3, getattr(RowLayout(2), column)] += more
    dense, culled = (evaluate(when, x, rows, frame, LAPLACIAN, weights) for when in ("never", "always"))
    for got, expected, usual in zip(culled[:3], dense[:3], others[:3], strict=True):
        assert ((got - expected).abs() <= 1e-5 * expected.abs() + 1e-6 * usual.abs().max()).all()


@pytest.mark.parametrize("bad, outputs", NO_NUMBER)
def test_what_is_no_number_spreads_as_with_all_pairs(bad, outputs):
    rows, frame = bumps(2, BUMPS, 20, outputs)
    x, weights = points(2, POINTS), cotangents(POINTS, outputs, 2, LAPLACIAN)
    broken = {"amplitude": rows.clone(), "sharpness": rows.clone()}
    broken["amplitude"][3, -1] = broken["sharpness"][3, RowLayout(2).sharpness] = bad
    cases = [(x, r, weights) for r in broken.values()]
    cases += [(torch.where(torch.arange(POINTS)[:, None] == 5, bad, x), rows, weights)]
    for which in range(3):
        dirty = [g.clone() for g in weights]
        dirty[which].view(POINTS, -1)[17, 0] = bad
        cases.append((x, rows, dirty))
    for x, rows, weights in cases:
        dense, culled = (evaluate(when, x, rows, frame, LAPLACIAN, weights) for when in ("never", "always"))
        for d, c in zip(dense, culled, strict=True):
            assert torch.equal(d.isfinite(), c.isfinite())


@only_compiled
def test_the_same_bits_with_any_number_of_threads(threads):
    rows, frame = bumps(2, 500, 20)
    x, weights = points(2, 20000), cotangents(20000, 1, 2, LAPLACIAN)
    results = []
    for count in (1, 2, 3):
        threads(count)
        results.append(evaluate("always", x, rows, frame, LAPLACIAN, weights))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


def test_the_choice_is_undone_and_checked():
    assert native.culling() == "auto"
    with native.use_culling("never"):
        with pytest.raises(RuntimeError, match="stop"), native.use_culling("always"):
            assert native.culling() == "always"
            raise RuntimeError("stop")
        assert native.culling() == "never"
    assert native.culling() == "auto"
    with pytest.raises(ValueError, match="never, auto, always, got 'often'"), native.use_culling("often"):
        pass


@only_compiled
@pytest.mark.parametrize("elsewhere", [False, True], ids=("outside the block", "in another thread"))
@pytest.mark.parametrize("through", ["bump_jet", "operator"])
def test_a_backward_has_the_choice_of_its_forward(through, elsewhere, monkeypatch):
    """CUDA devices have threads of their own for it, which were in no block."""
    seen, serve = [], ops._serve
    monkeypatch.setattr(ops, "_serve", lambda name: seen.append((name, native.culling())) or serve(name))
    rows, frame = bumps(2, 3, 5)
    rows, x = rows.requires_grad_(), points(2, 4)
    with native.use_culling("never"):
        if through == "operator":
            value = torch.ops.bumpnet_fast.jet(x, rows, frame, VALUE, True)[0]
        else:
            value = bump_jet(x, rows, frame).value
    backward = threading.Thread(target=value.sum().backward) if elsewhere else None
    if backward is None:
        value.sum().backward()
    else:
        backward.start()
        backward.join()
    assert seen == [("jet_vjp", "never")] and rows.grad.abs().max() > 0 and native.culling() == "auto"


@only_compiled
def test_the_compiled_kernels_are_told():
    for i, when in enumerate(native.CULLING):
        with native.use_culling(when):
            assert torch.ops.bumpnet_fast._cpu_culling(-1) == i
    assert native.CULLING[torch.ops.bumpnet_fast._cpu_culling(-1)] == "auto"
    with pytest.raises(RuntimeError, match="culling is 0"):
        torch.ops.bumpnet_fast._cpu_culling(3)
