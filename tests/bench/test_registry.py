"""bench/cases.py: every contestant of every case computes the same loss and gradient."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from bumpnet_fast.diagnostics import bench as speed
from bumpnet_fast.diagnostics.bench import COMPILED, OURS, Stages

BENCH = Path(__file__).parents[2] / "bench"
sys.path.insert(0, str(BENCH))


def load(name):
    """A script of bench/ by a name of its own: there are other modules called ``cases``."""
    spec = importlib.util.spec_from_file_location(f"bench_{name}", BENCH / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


cases = load("cases")
SMALL = dict.fromkeys(
    (entry.case._replace(points=60, bumps=7, threads=1), name) for entry in cases.ENTRIES for name in entry.contestants
)
CONTESTANTS = [pytest.param(one, name, id=f"{name}, {one.name}") for one, name in SMALL]


@pytest.fixture(autouse=True)
def no_compiler(monkeypatch):
    """What would be compiled, as it is: the benchmarks themselves compare what was compiled, which takes minutes."""
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)


@pytest.mark.parametrize(("one", "contestant"), CONTESTANTS)
def test_all_compute_the_same(one, contestant):
    if why := cases.obstacle(contestant, one):
        pytest.skip(why)
    calls = cases.stages(contestant, one)
    expected = cases.expected(one)
    loss, gradient = (torch.from_dlpack(t).double() for t in calls.backward())
    tolerance = {"float32": 1e-4, "float64": 1e-11}[one.dtype]
    assert gradient.shape == (7, speed.RowLayout(one.dim).columns)
    assert abs(loss - expected[0]) <= tolerance * expected[0]
    assert (gradient - expected[1]).abs().max() <= tolerance * expected[1].abs().max()
    for call in (calls.forward, calls.adam, calls.adam):  # Adam's rate moves the loss by less than the tolerance
        assert abs(torch.from_dlpack(call()).double() - expected[0]) <= max(tolerance, 1e-4) * expected[0]


def test_adam_moves_the_rows():
    """All contestants by the same step: the sign of the gradient, as in every first step."""
    one = speed.Case(60, 7, dtype="float64")
    x, rows, frame, f = one.arguments()
    net = speed.BumpNet.from_rows(rows, frame, [[-1.0, -1.0], [1.0, 1.0]])
    gradient = speed.our_stages(one).backward()[1]
    speed._adam(net.rows, lambda: speed.of_jet(net.jet(x, want=one.want), f[:, None]))()
    assert torch.allclose(net.rows - rows, -speed.RATE * gradient.sign(), atol=1e-3 * speed.RATE)


def test_no_case_is_there_twice_and_ours_is_in_all():
    assert len({entry.case for entry in cases.ENTRIES}) == len(cases.ENTRIES)
    assert all(OURS in entry.contestants and set(entry.stages) <= set(Stages._fields) for entry in cases.ENTRIES)
    assert {entry.case for entry in cases.ENTRIES if entry.short} == set(speed.SHORT)


@pytest.mark.parametrize("want", speed.WANTS)
def test_a_residual_has_all_its_derivatives(want):
    """No weight of what the jet was asked for is zero, or like another."""
    first, second = speed.weights(want, 3)
    used = [w for row in second for w in row if w]
    assert len(used) == {"value": 0, "gradient": 0, "diagonal": 3, "hessian": 9, "laplacian": 3}[want]
    if want != "laplacian":
        assert len(set(first)) == (1 if want == "value" else 3)
        assert len(set(used)) >= len(used) // 2


def test_who_cannot_take_part(monkeypatch):
    one = speed.Case(10, 2)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "bumpnet_fast[peers]" in cases.obstacle(cases.JAX, one)
    assert "one thread" in cases.obstacle(cases.JAX, one._replace(threads=2))
    assert "say nothing" in cases.obstacle(OURS, one._replace(threads=10**6))
    assert "CPU" in cases.obstacle(OURS, one._replace(threads=2), "cuda")
    assert cases.obstacle(COMPILED, one) is None
