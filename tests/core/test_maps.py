"""Maps of coordinates: derivatives, inverses, bounds and what a chain rule makes of jets and row operators."""

import math

import pytest
import torch

from bumpnet_fast.core.jet import WANTS, Jet
from bumpnet_fast.core.maps import AxisMap, Maps, check_maps, inner_want, mapped_jet

LAYER = AxisMap(0.0, 1.0, "asinh", (1.0,), (1e-3,), 0.2)
PEAK = AxisMap(-1.0, 2.0, "logistic", (0.3, 1.5), (0.05, 0.2), 0.3)
EVEN = AxisMap(2.0, 5.0)
AXES = pytest.mark.parametrize("axis", [LAYER, PEAK, EVEN], ids=["asinh", "logistic", "identity"])


def places(axis, n=200):
    """Points of an axis: evenly spread, and near its features."""
    t = torch.linspace(0, 1, n, dtype=torch.float64)
    near = [c + w * (6 * t - 3) for c, w in zip(axis.centres, axis.widths, strict=True)]
    return torch.cat([axis.lo + (axis.hi - axis.lo) * t, *near]).clamp(axis.lo, axis.hi)


@AXES
def test_derivatives_are_those_of_autograd(axis):
    x = places(axis).requires_grad_()
    xi, first, second = axis(x)
    (by_autograd,) = torch.autograd.grad(xi.sum(), x, create_graph=True)
    torch.testing.assert_close(first, by_autograd, rtol=1e-12, atol=0)
    if axis.kind != "identity":
        (twice,) = torch.autograd.grad(by_autograd.sum(), x)
        torch.testing.assert_close(second, twice, rtol=1e-9, atol=1e-9 * float(twice.abs().max()))


def test_gradcheck():
    x = torch.tensor([-0.7, 0.31, 1.4, 1.9], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(PEAK, (x,))
    assert torch.autograd.gradgradcheck(PEAK, (x,))


@AXES
def test_ends_stay_and_the_map_rises(axis):
    ends = torch.tensor([axis.lo, axis.hi], dtype=torch.float64)
    torch.testing.assert_close(axis(ends)[0], ends, rtol=1e-14, atol=1e-14)
    x = places(axis).sort().values.unique()
    assert bool((axis(x)[0].diff() >= 0).all())
    assert bool((axis(x)[1] > 0).all())


@AXES
def test_inverse(axis):
    xi = axis.lo + (axis.hi - axis.lo) * torch.rand(
        1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    x = axis.inverse(xi)
    torch.testing.assert_close(axis(x)[0], xi, rtol=1e-13, atol=1e-12)
    x = places(axis)
    assert float((axis.inverse(axis(x)[0]) - x).abs().max()) < 1e-13 * max(abs(axis.lo), axis.hi) * 10


@pytest.mark.parametrize("width", [1e-8, 1e-5, 0.1, 10.0])
@pytest.mark.parametrize("kind", ["asinh", "logistic"])
@pytest.mark.parametrize("share", [1e-3, 0.5, 0.999])
def test_inverse_at_the_bounds(kind, width, share):
    axis = AxisMap(0.0, 1.0, kind, (0.3,), (width,), share)
    xi = torch.linspace(0, 1, 500, dtype=torch.float64)
    x = axis.inverse(xi)
    slope = axis(x)[1]
    assert bool(((axis(x)[0] - xi).abs() <= 1e-14 + 4e-16 * slope).all())
    assert bool((x.diff() >= 0).all()) and 0.0 <= float(x[0]) <= float(x[-1]) <= 1.0


def test_a_nan_stays_one():
    x = torch.tensor([0.5, math.nan], dtype=torch.float64)
    for part in (*LAYER(x), LAYER.inverse(x)):
        assert part.isnan().tolist() == [False, True]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"centres": (1.2,)}, "centres must be in"),
        ({"widths": (1e-9,)}, "widths must be in"),
        ({"widths": (math.nan,)}, "widths must be in"),
        ({"share": 0.0}, "share must be in"),
        ({"share": 1.0}, "share must be in"),
        ({"kind": "cubic"}, "kind must be one of"),
        ({"hi": 0.0}, "lo < hi"),
        ({"centres": ()}, "as many"),
        ({"kind": "identity"}, "an identity has"),
    ],
)
def test_bounds(wrong, message):
    given = {"lo": 0.0, "hi": 1.0, "kind": "asinh", "centres": (1.0,), "widths": (0.1,), "share": 0.2}
    with pytest.raises(ValueError, match=message):
        AxisMap(**(given | wrong))


MAPS = Maps((AxisMap(0.0, 1.0, "asinh", (1.0,), (0.05,), 0.2), AxisMap(0.0, 2.0, "logistic", (0.7,), (0.1,), 0.3)))
X = torch.tensor([1.0, 2.0], dtype=torch.float64) * torch.rand(
    20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
)


def wave(xi):
    return torch.stack([torch.sin(3 * xi[:, 0]) * torch.cos(2 * xi[:, 1]), xi[:, 0] ** 2 * xi[:, 1]], 1)


@pytest.mark.parametrize("want", WANTS)
def test_jet_is_that_of_the_composition(want):
    jet = mapped_jet(MAPS, X, want, lambda xi, want: Jet.of(wave, xi, want))
    expected = Jet.of(lambda x: wave(MAPS.at(x).xi), X, want)
    assert jet.want == want
    for part, other in zip(jet.parts(), expected.parts(), strict=True):
        assert (part is None) == (other is None)
        if part is not None:
            torch.testing.assert_close(part, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("want", WANTS)
def test_row_operator_is_that_of_the_composition(want):
    """L u in x equals the transformed operator in xi."""

    def contract(jet, coefficients):
        parts = [c[:, None] * p for c, p in zip(coefficients, jet.parts(), strict=True) if c is not None]
        return sum(part.flatten(2).sum(2) if part.dim() > 2 else part for part in parts)

    jet = Jet.of(lambda x: wave(MAPS.at(x).xi), X, want)
    generator = torch.Generator().manual_seed(2)
    given = [None if p is None else torch.randn(p[:, 0].shape, dtype=p.dtype, generator=generator) for p in jet.parts()]
    if want == "hessian":
        given[2] = given[2] + given[2].transpose(-1, -2)
    mapped = MAPS.at(X)
    inner = mapped.coefficients(tuple(given), want)
    there = contract(Jet.of(wave, mapped.xi, inner_want(want)), inner)
    torch.testing.assert_close(there, contract(jet, given), rtol=1e-10, atol=1e-9)


def test_second_derivatives_alone_bring_a_first_one():
    mapped = MAPS.at(X)
    c2 = torch.ones(len(X), dtype=torch.float64)
    c0, c1, c2 = mapped.coefficients((None, None, c2), "laplacian")
    assert c0 is None
    torch.testing.assert_close(c1, mapped.second)
    torch.testing.assert_close(c2, mapped.first**2)


def test_weights_make_mapped_points_an_integral():
    xi = torch.cartesian_prod(*[(torch.arange(200, dtype=torch.float64) + 0.5) / 200] * 2)
    x = MAPS.inverse(xi * torch.tensor([1.0, 2.0], dtype=torch.float64))
    w = MAPS.weights(x)
    f = torch.exp(-x[:, 0]) * x[:, 1]
    mean = float((w.square() * f).mean() / w.square().mean())
    assert mean == pytest.approx(1 - math.exp(-1), rel=1e-3)


def test_as_a_tensor():
    assert Maps.from_tensor(MAPS.to_tensor()) == MAPS
    for damaged in (MAPS.to_tensor()[:-1], MAPS.to_tensor() * float("nan"), torch.tensor([9.0, 0, 1, 1, 0])):
        with pytest.raises(ValueError, match="damaged"):
            Maps.from_tensor(damaged)


def test_maps_of_another_box_are_refused():
    box = torch.tensor([[0.0, 0.0], [1.0, 2.0]])
    assert check_maps(MAPS, box) is MAPS
    assert check_maps(Maps.identity(box), box) is None
    assert check_maps(list(MAPS.axes), box) == MAPS
    with pytest.raises(ValueError, match="maps must be those of the domain"):
        check_maps(MAPS, 2 * box)
    with pytest.raises(ValueError, match="maps must be those of the domain"):
        check_maps(MAPS.axes[:1], box)
    with pytest.raises(TypeError, match="maps must be Maps"):
        check_maps(3, box)
