"""What a user calls with tensors: arguments, backends, and corners of the domain of definition."""

import io
import math

import oracle
import pytest
import torch

from bumpnet_fast import Jet, backend, bump_basis, bump_design, bump_jet, use_backend
from bumpnet_fast.core import backends as native
from bumpnet_fast.core import reference
from bumpnet_fast.core.reference import WANTS

D = torch.float64


def problem(dim=2, bumps=3, outputs=1, tied=True, points=5):
    rows, frame = oracle.bumps(dim, bumps, outputs, tied)
    return oracle.points(dim, points), rows, frame


def parts(jet):
    return [t for t in (jet.value, jet.gradient, jet.second) if t is not None]


# --- bad input ---------------------------------------------------------------------------------------

GOOD = dict(x=torch.zeros(5, 2), rows=torch.zeros(3, 7), frame=torch.tensor([[-1.0, -1], [1, 1], [1, 1]]), want="value")

BAD = [
    (dict(x=[[0.0, 0.0]]), TypeError, "x must be a torch.Tensor, got list"),
    (dict(rows=None), TypeError, "rows must be a torch.Tensor, got NoneType"),
    (dict(x=torch.zeros(2)), ValueError, r"x must have 2 dimensions, got shape \(2,\)"),
    (dict(rows=torch.zeros(7)), ValueError, r"rows must have 2 dimensions, got shape \(7,\)"),
    (dict(frame=torch.zeros(3)), ValueError, r"frame must have 2 dimensions, got shape \(3,\)"),
    (dict(x=torch.zeros(5, 3)), ValueError, r"x must have shape \[N, 2\] .* got \(5, 3\)"),
    (dict(x=torch.zeros(5, 0), frame=torch.zeros(3, 0)), ValueError, "x must have shape"),
    (dict(frame=torch.zeros(4, 2)), ValueError, r"frame must have shape \[2, d\] or \[3, d\], got \(4, 2\)"),
    (dict(rows=torch.zeros(3, 5)), ValueError, r"rows must have at least 6 columns .* got shape \(3, 5\)"),
    (dict(rows=torch.zeros(3, 7).half()), TypeError, "rows must be float32 or float64, got torch.float16"),
    (dict(rows=torch.zeros(3, 7).int()), TypeError, "rows must be float32 or float64, got torch.int32"),
    (
        dict(x=torch.zeros(5, 2).double()),
        TypeError,
        "x must have the dtype of the rows, torch.float32, got torch.float64",
    ),
    (dict(x=torch.zeros(5, 2).long()), TypeError, "x must have the dtype of the rows, torch.float32, got torch.int64"),
    (dict(x=torch.zeros(5, 2).bfloat16()), TypeError, "x must have the dtype of the rows"),
    (dict(x=torch.zeros(5, 2, device="meta")), ValueError, "on one device, got x on meta, rows on cpu"),
    (dict(frame=torch.zeros(3, 2, device="meta")), ValueError, "on one device, got .* frame on meta"),
    (dict(want="curl"), ValueError, "want must be one of value, gradient, .* got 'curl'"),
    (dict(want=2), ValueError, "want must be one of value, gradient, .* got 2"),
]


@pytest.mark.parametrize("changed, error, message", BAD)
def test_bad_input(backend, changed, error, message):
    arguments = GOOD | changed
    for call in (bump_jet, bump_basis, lambda *a: bump_design((None, None, None), *a)):
        with pytest.raises(error, match=message):
            call(*(arguments[k] for k in ("x", "rows", "frame", "want")))


@pytest.mark.parametrize("coefficients, want, message", [
    ((torch.ones(4), None, None), "value", r"c0 \(value\) must have shape \(5,\)"),
    ((None, torch.ones(5), None), "gradient", r"c1 \(gradient\) must have shape \(5, 2\)"),
    ((None, None, torch.ones(5, 2)), "hessian", r"c2 .* must have shape \(5, 2, 2\)"),
    ((None, None, torch.ones(5)), "diagonal", r"c2 .* must have shape \(5, 2\)"),
    ((torch.ones(5).double(), None, None), "value", "dtype torch.float32, got .*torch.float64"),
    ((None, torch.ones(5, 2), None), "value", r"c1 \(gradient\) given, but want is 'value'"),
    ((None, None, torch.ones(5)), "gradient", r"c2 .* given, but want is 'gradient'"),
    ((torch.ones(5),), "value", None),
])  # fmt: skip
def test_bad_coefficients(backend, coefficients, want, message):
    with pytest.raises(ValueError, match=message):
        bump_design(coefficients, GOOD["x"], GOOD["rows"], GOOD["frame"], want)


# --- results -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("want", WANTS)
@pytest.mark.parametrize("dim", (1, 2, 5))
def test_the_results_are_those_of_the_reference(backend, dim, want):
    x, rows, frame = problem(dim, outputs=2)
    level = WANTS.index(want)
    for call, function in ((bump_jet, reference.jet), (bump_basis, reference.basis)):
        jet = call(x, rows, frame, want)
        assert isinstance(jet, Jet) and jet.want == want
        for got, wanted in zip(parts(jet), function(x, rows, frame, level, True), strict=False):
            oracle.assert_close(got, wanted, 1e-12)
    weights = [torch.ones(s, dtype=D) for s in ((5,), (5, dim), (5, *reference.second_shape(level, dim)))]
    weights = [w if i <= level else None for i, w in enumerate(weights)]
    wanted = reference.design(*weights, x, rows, frame, level, True, True)
    for got, w in zip(bump_design(weights, x, rows, frame, want, derivatives=True), wanted, strict=True):
        oracle.assert_close(got, w, 1e-10)
    Phi, nothing = bump_design(weights, x, rows, frame, want)
    assert nothing is None
    oracle.assert_close(Phi, wanted[0], 1e-10)


def test_a_frame_without_scale_has_scale_one(backend):
    x, rows, frame = problem()
    frame[2] = 1
    assert torch.equal(bump_jet(x, rows, frame[:2]).value, bump_jet(x, rows, frame).value)


def test_a_frame_of_another_dtype_is_taken(backend):
    x, rows, frame = problem()
    single = bump_jet(x.float(), rows.float(), frame).value
    assert single.dtype == torch.float32
    assert torch.equal(single, bump_jet(x.float(), rows.float(), frame.float()).value)


@pytest.mark.parametrize("want", WANTS)
def test_no_points(backend, want):
    x, rows, frame = problem(points=0, outputs=2)
    second = {"diagonal": (0, 2, 2), "hessian": (0, 2, 2, 2), "laplacian": (0, 2)}.get(want)
    shapes = [(0, 2), (0, 2, 2), second][: min(WANTS.index(want), 2) + 1]
    leaf = rows.clone().requires_grad_()
    jet = bump_jet(x, leaf, frame, want)
    assert [tuple(t.shape) for t in parts(jet)] == shapes
    gradient = torch.autograd.grad(sum(t.sum() for t in parts(jet)), leaf)[0]
    assert torch.equal(gradient, torch.zeros_like(rows))
    assert bump_basis(x, rows, frame, want).value.shape == (0, 3)
    Phi, D = bump_design((None, None, None), x, rows, frame, want, derivatives=True)
    assert Phi.shape == (0, 3) and D.shape == (0, 3, 6)


def test_no_bumps(backend):
    x, rows, frame = problem()
    jet = bump_jet(x, rows[:0], frame, "hessian")
    assert [tuple(t.shape) for t in parts(jet)] == [(5, 1), (5, 1, 2), (5, 1, 2, 2)]
    assert not any(t.any() for t in parts(jet))
    assert bump_basis(x, rows[:0], frame).value.shape == (5, 0)
    leaf = x.clone().requires_grad_()
    value = bump_jet(leaf, rows[:0], frame).value
    assert not torch.autograd.grad(value.sum(), leaf)[0].any()


def test_outputs_are_columns_of_amplitudes(backend):
    x, rows, frame = problem(outputs=3)
    jet = bump_jet(x, rows, frame, "hessian")
    for k in range(3):
        alone = bump_jet(x, torch.cat([rows[:, :6], rows[:, 6 + k : 7 + k]], 1), frame, "hessian")
        for got, wanted in zip(parts(jet.output(k)), parts(alone), strict=True):
            oracle.assert_close(got, wanted, 1e-13)


def test_a_free_outer_slope_of_2p_is_the_tie(backend):
    x, rows, frame = problem()
    outer = math.log(2) + rows[:, 5:6]
    free = torch.cat([rows[:, :6], outer, rows[:, 6:]], 1)
    tied, untied = bump_jet(x, rows, frame, "hessian"), bump_jet(x, free, frame, "hessian", tied=False)
    for got, wanted in zip(parts(untied), parts(tied), strict=True):
        oracle.assert_close(got, wanted, 1e-13)


def test_no_number_in_no_number_out(backend):
    x, rows, frame = problem()
    x[1, 0], x[3, 1] = math.nan, math.inf
    for part in parts(bump_jet(x, rows, frame, "hessian")):
        assert torch.isnan(part[[1, 3]]).all() and torch.isfinite(part[[0, 2, 4]]).all()
    rows[1, 2] = math.nan
    assert torch.isnan(bump_jet(x, rows, frame).value).all()


class Labelled(torch.Tensor):
    """A subclass that only carries labels, as other libraries pass."""


def test_tensor_subclasses(backend):
    x, rows, frame = problem()
    plain = bump_jet(x, rows, frame).value
    value = bump_jet(x.as_subclass(Labelled), rows, frame).value
    assert type(value) is torch.Tensor and torch.equal(value, plain)
    leaf = x.clone().requires_grad_()
    bump_jet(leaf.as_subclass(Labelled), rows, frame).value.sum().backward()
    assert leaf.grad is not None


# --- backends ----------------------------------------------------------------------------------------


def test_use_backend_is_undone():
    before = backend()
    with pytest.raises(KeyError), use_backend("reference"):
        assert backend() == "reference"
        with use_backend("auto"):
            assert backend() == before
        assert backend() == "reference"
        raise KeyError
    assert backend() == before


def test_every_variant_can_be_chosen():
    for name in native.variants():
        with use_backend(name):
            assert backend() == native.variant() == name


def test_an_unknown_backend():
    with pytest.raises(ValueError, match="got 'gpu'"), use_backend("gpu"):
        pass


def test_the_backend_is_the_fastest_variant_or_the_reference():
    assert backend() == (native.variants() or ("reference",))[-1]


@pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated
def test_a_traced_jet_is_the_operator():
    """A traced module with a function of Python in it could not be saved."""
    x, rows, frame = problem()
    traced = torch.jit.trace(lambda x, rows: bump_jet(x, rows, frame).value, (x, rows.requires_grad_()))
    assert "bumpnet_fast::jet" in str(traced.graph)
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer)
