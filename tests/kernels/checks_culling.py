"""What is Triton's own of leaving pairs out, in its interpreter: the lists, when they are made, and what is launched.

Answers are held to those of all pairs by ../test_culling.py, which the compiled kernels share; the rule by which pairs
are left out is written down in ../culling_rule.py, which holds both sides to it.
"""

import math

import compiled
import culling_rule as rule
import pytest
import torch
from test_culling import LENGTHS, TILE, assert_same, bumps, cast, cotangents, evaluate, points, tiles  # noqa: F401
from test_kernels import TOLERANCES, assert_agrees, levels, wanted

from bumpnet_fast.core import backends as native
from bumpnet_fast.core.reference import DIAGONAL, GRADIENT, HESSIAN, LAPLACIAN, VALUE
from bumpnet_fast.core.rows import RowLayout
from bumpnet_fast.kernels import operators
from bumpnet_fast.kernels import tiles as host

SORTING = ["cells_kernel", "boxes_kernel"]


def made_lists(x, rows, frame, want):
    """Lists by tile and by bump as the operators make them, of points in their order; the cotangents are ones."""
    outputs, order = RowLayout.of(rows, x.shape[1], True).outputs, torch.arange(len(x))
    points = operators.Points.of(x, (x.new_ones(len(x), outputs), None, None), outputs, VALUE, order)
    table = operators.pack_tables(rows, frame, True, outputs, points)
    found = host.lists(order, x, table, outputs, want, "always", False, (True, False), points.table, 1)
    return found[True], found[False]


def as_matrix(lists, others):
    """Which of the others every owner has in its list."""
    met = torch.zeros(len(lists.starts) - 1, others, dtype=torch.bool)
    for owner, (begin, end) in enumerate(zip(lists.starts, lists.starts[1:], strict=False)):
        mine = lists.ids[begin:end]
        assert (mine[1:] > mine[:-1]).all(), "in one order, each once"
        met[owner, mine.long()] = True
    return met


# --- the lists -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype, sharpness", [(torch.float32, 20), (torch.float64, 40)], ids=str)
@pytest.mark.parametrize("dim, outputs, want", [(1, 1, VALUE), (2, 3, HESSIAN), (3, 1, GRADIENT), (4, 1, LAPLACIAN)])
def test_the_lists_are_those_of_the_rule(dim, outputs, want, dtype, sharpness):
    """By tile and by bump; bumps of unlike steepness and amplitudes, so that their margins differ."""
    rows, frame = bumps(dim, 25, sharpness, outputs)
    rows[::3] += 0.3
    x, rows, frame = cast(dtype, points(dim, 16 * TILE - 3), rows, frame)
    by_tile, by_bump = made_lists(x, rows, frame, want)
    least, most, margin = rule.bounds(x, rows, frame, True, TILE, min(want, DIAGONAL))
    out, one = most < -margin, least > margin
    clear = ((most + margin).abs() > 1e-3) & ((least - margin).abs() > 1e-3)
    met = as_matrix(by_tile, len(rows))
    assert torch.equal(met[clear], ~(out | one)[clear]) and torch.equal(met, as_matrix(by_bump, len(least)).T)
    assert 0.02 < met.double().mean() < 0.9 and out.any() and one.any(), "nothing to tell them by"
    clear |= ~one
    amplitudes = one.double() @ rows[:, RowLayout(dim, outputs).amplitude].double()
    torch.testing.assert_close(by_tile.within[clear.all(1)], amplitudes[clear.all(1)])
    sizes = torch.tensor([len(part) for part in x.split(TILE)]).double()
    cotangents = (sizes @ one.double())[:, None].expand(-1, outputs)
    torch.testing.assert_close(by_bump.within[clear.all(0)], cotangents[clear.all(0)])


def test_the_constants_are_those_of_the_cpu():
    assert rule.CONSTANTS == {"kTile": 128, "kWorthwhile": host.WORTHWHILE, "kNothingLeft": (17, 37)}
    assert (*host.NOTHING_LEFT.values(),) == rule.CONSTANTS["kNothingLeft"]


@pytest.mark.parametrize("n", (0, *LENGTHS, 40 * 32))
@pytest.mark.parametrize("dim", (1, 2, 3))
def test_the_order_has_every_point_once_and_neighbours_together(dim, n):
    x = torch.rand(n, dim, generator=torch.Generator().manual_seed(n))
    if n == 0:
        assert not host.may_pay(x, torch.zeros(3, 9), True, "always")
        return
    order = host.z_order(x)
    assert torch.equal(order.sort().values, torch.arange(n))
    if n > 1000:
        jumps = [x[o].diff(dim=0).abs().sum(1).mean() for o in (order, torch.arange(n))]
        assert jumps[0] < (0.1, 0.4, 0.7)[dim - 1] * jumps[1]


def test_points_that_are_no_numbers_come_first():
    x = points(2, 200)
    x[7, 0], x[9, 1] = math.nan, math.nan
    x[11] = math.inf
    assert torch.equal(host.z_order(x).sort().values, torch.arange(200))


# --- what is computed ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_steps_at_points_in_one_place(dtype):
    """p A = 1e6: tiles without a bump, bumps without a tile, and tiles in one place."""
    rows, frame = bumps(2, 4, 1e6)
    x = torch.cat([points(2, TILE), points(2, 1).expand(2 * TILE, 2), torch.full((TILE, 2), 9.0).double()])
    x, rows, frame, g = cast(dtype, x, rows, frame, torch.ones(len(x), 1))
    by_tile, by_bump = made_lists(x, rows, frame, VALUE)
    assert (by_tile.starts.diff() == 0).any() and (by_bump.starts.diff() == 0).any()
    got = evaluate("always", x, rows, frame, VALUE, [g, None, None])
    expected = evaluate("never", x, rows, frame, VALUE, [g, None, None])
    assert_same(got, expected, 1e-6)
    assert not got[0][-TILE:].any() and all(t.isfinite().all() for t in got)


@pytest.mark.parametrize("want", (VALUE, LAPLACIAN))
def test_runs_of_listed_bumps(monkeypatch, want):
    """Long lists are summed in two levels, the bumps that are 1 first; a list may be empty."""
    rows, frame = bumps(2, 9, 20, 2)
    x = torch.cat([points(2, 2 * TILE), torch.full((3, 2), 9.0).double()])
    expected = wanted("jet", [x, rows, frame, want, True])
    for run in (2, 100):
        monkeypatch.setattr(operators, "run_of_bumps", lambda *_, run=run: run)
        got = operators.jet(x, rows, frame, want, True, "always")
        assert_agrees(got, expected, [TOLERANCES[torch.float64][k] for k in levels("jet", want)], f"runs of {run}")


def test_the_same_bits_from_a_second_call():
    rows, frame = bumps(2, 6, 12)
    args = cast(torch.float32, points(2, 40), rows, frame)
    weights = cast(torch.float32, *cotangents(40, 1, 2, GRADIENT))
    for first, second in zip(*(evaluate("always", *args, GRADIENT, weights) for _ in range(2)), strict=True):
        assert torch.equal(first, second)


def test_only_the_needed_gradients_and_their_lists(monkeypatch):
    rows, frame = bumps(2, 6, 20)
    x, weights = points(2, 40), cotangents(40, 1, 2, GRADIENT)
    launches = compiled.record(monkeypatch, run=True)
    both = operators.jet_vjp(*weights, x, rows, frame, GRADIENT, True, True, True, "always")
    assert sum(one.name == "lists_kernel" for one in launches) == 4
    for needs in ((True, False), (False, True)):
        launches.clear()
        got = operators.jet_vjp(*weights, x, rows, frame, GRADIENT, True, *needs, "always")
        assert [one.options["BY_TILE"] for one in launches if one.name == "lists_kernel"] == [needs[0]] * 2
        for g, full, need in zip(got, both, needs, strict=True):
            assert torch.equal(g, full) if need else g.shape == (0,)


# --- when ------------------------------------------------------------------------------------------


@pytest.fixture
def launched(monkeypatch):
    """Names of what an operator launches, and its waits, small problems counting as large ones."""
    monkeypatch.setattr(host, "FEWEST_POINTS", 4 * TILE)
    monkeypatch.setattr(host, "FEWEST_PAIRS", 4 * TILE * 9)
    launches, waits = compiled.record(monkeypatch, run=True), []
    monkeypatch.setattr(host, "read", lambda numbers: waits.append(len(numbers)) or numbers.tolist())

    def call(n, m, sharpness, name="jet", when="auto", **met):
        del launches[:], waits[:]
        rows, frame = bumps(2, m, sharpness)
        x, weights = points(2, n).float(), cast(torch.float32, *cotangents(n, 1, 2, VALUE))
        args = (x, *cast(torch.float32, rows, frame), VALUE, True)
        with native.use_culling(when):
            args = args if name == "jet" else (*weights, *args, True, True)
            getattr(torch.ops.bumpnet_fast, name)(*args)
        return [one.name for one in launches], list(waits)

    return call


@pytest.mark.parametrize("name, kernel", [("jet", "jet_kernel"), ("jet_vjp", "jet_vjp_rows_kernel")])
def test_it_is_chosen_where_it_pays_and_not_elsewhere(launched, monkeypatch, name, kernel):
    many, few = 4 * TILE, 4 * TILE - 1
    dense = launched(many, 9, 2, when="never", name=name)[0]
    assert not {*dense} & {*SORTING, "lists_kernel"} and kernel in dense
    culled, waits = launched(many, 9, 20, when="always", name=name)
    lists = 2 if name == "jet" else 4
    assert [n for n in culled if n not in dense] == SORTING + ["lists_kernel"] * lists and kernel in culled
    assert waits == [lists // 2], "for the lengths alone"
    for n, m, sharpness in ((few, 9, 20), (many, 8, 20)):
        assert launched(n, m, sharpness, name=name) == (dense, []), "too small: no questions"
    assert launched(many, 9, 2, name=name) == (dense, [1]), "not sharp: one question, nothing sorted"
    monkeypatch.setattr(host, "WORTHWHILE", math.inf)
    assert launched(many, 9, 20, name=name) == (culled, [1, lists // 2])
    monkeypatch.setattr(host, "WORTHWHILE", -1)
    given_up, waits = launched(many, 9, 20, name=name)
    assert given_up[-len(dense) :] == dense and waits == [1, lists // 2], "too few pairs are left out"


def test_it_waits_for_nothing_while_a_graph_is_captured(launched, monkeypatch):
    monkeypatch.setattr(host, "may_wait", lambda x: False)
    for when in ("auto", "always"):
        names, waits = launched(4 * TILE, 9, 20, when=when)
        assert names == ["pack_kernel", "jet_kernel"] and not waits


def test_what_may_be_waited_for(monkeypatch):
    assert host.may_wait(torch.zeros(1)) and not host.may_wait(torch.zeros(1, device="meta"))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)

    class OnDevice:
        is_meta, is_cuda = False, True

    assert not host.may_wait(OnDevice())
