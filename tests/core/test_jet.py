"""Jets: names, product rule, and jets of any function."""

import oracle
import pytest
import torch

from bumpnet_fast import Jet
from bumpnet_fast.core.reference import WANTS


def f(x):
    return torch.sin(x[:, 0]) * torch.exp(x[:, 1] * x[:, 0])


def g(x):
    return 1 + x[:, 0] ** 2 * x[:, 1] + torch.cos(x[:, 1])


@pytest.fixture
def x():
    return oracle.points(2, 6)


def assert_same(a: Jet, b: Jet, tolerance=1e-13):
    assert a.want == b.want
    for got, wanted in zip(a.parts(), b.parts(), strict=True):
        assert (got is None) == (wanted is None)
        if wanted is not None:
            oracle.assert_close(got, wanted, tolerance)


@pytest.mark.parametrize("want", WANTS)
def test_jet_of_a_function(x, want):
    leaf = x.clone().requires_grad_()
    wanted = oracle.jet(torch.stack([f(leaf), g(leaf)], 1), leaf, want)
    made = Jet.of(lambda t: torch.stack([f(t), g(t)], 1), x, want)
    got = [t for t in made.parts() if t is not None]
    assert made.want == want and len(got) == len(wanted)
    for a, b in zip(got, wanted, strict=True):
        assert not a.requires_grad
        oracle.assert_close(a, b, 1e-13)


def test_jet_of_functions_without_a_dependence(x):
    constant = Jet.of(lambda t: torch.ones(len(t), dtype=t.dtype), x, "hessian")
    assert torch.equal(constant.value, torch.ones(6, 1, dtype=x.dtype))
    assert not constant.gradient.any() and not constant.hessian.any()
    linear = Jet.of(lambda t: 3 * t[:, 0], x, "laplacian")
    assert torch.equal(linear.d(0), torch.full((6, 1), 3.0, dtype=x.dtype)) and not linear.laplacian.any()


def test_jet_of_a_function_works_without_grad_mode(x):
    with torch.no_grad():
        assert_same(Jet.of(f, x, "hessian"), Jet.of(f, x.clone(), "hessian"))


@pytest.mark.parametrize("want", WANTS)
def test_arithmetic_is_that_of_the_functions(x, want):
    a, b = Jet.of(f, x, want), Jet.of(g, x, want)
    assert_same(a * b, Jet.of(lambda t: f(t) * g(t), x, want))
    assert_same(a + b, Jet.of(lambda t: f(t) + g(t), x, want))
    assert_same(a - b, Jet.of(lambda t: f(t) - g(t), x, want))
    assert_same(-a, Jet.of(lambda t: -f(t), x, want))
    assert_same(2.5 * a, Jet.of(lambda t: 2.5 * f(t), x, want))
    assert_same(a * 2.5, 2.5 * a)


@pytest.mark.parametrize("want", WANTS)
def test_a_tensor_scales_every_part(x, want):
    a, weight = Jet.of(f, x, want), torch.arange(6.0, dtype=x.dtype)[:, None]
    for made in (a * weight, weight * a):
        for got, part in zip(made.parts(), a.parts(), strict=True):
            if part is not None:
                assert torch.equal(got, part * weight.reshape(-1, *[1] * (part.dim() - 1)))


def test_a_scalar_jet_multiplies_every_output(x):
    pair = Jet.of(lambda t: torch.stack([f(t), g(t)], 1), x, "hessian")
    distance = Jet.of(lambda t: t[:, 0] * t[:, 1], x, "hessian")
    wanted = Jet.of(lambda t: torch.stack([f(t), g(t)], 1) * (t[:, 0] * t[:, 1])[:, None], x, "hessian")
    assert_same(distance * pair, wanted)
    assert_same(pair.output(1), Jet.of(g, x, "hessian"))


@pytest.mark.parametrize("want", WANTS)
def test_a_fuller_jet_serves_a_smaller_one(x, want):
    assert_same(Jet.of(f, x, want) * Jet.of(g, x, "hessian"), Jet.of(lambda t: f(t) * g(t), x, want))
    assert_same(Jet.of(f, x, want) + Jet.of(g, x, "hessian"), Jet.of(lambda t: f(t) + g(t), x, want))


def test_names(x):
    jet = Jet.of(f, x, "hessian")
    H = jet.second
    assert torch.equal(jet.d(1), jet.gradient[..., 1])
    assert torch.equal(jet.dd(0, 1), H[..., 0, 1]) and torch.equal(jet.dd(1), H[..., 1, 1])
    assert torch.equal(jet.diagonal, torch.stack([jet.dd(0), jet.dd(1)], -1))
    assert torch.equal(jet.laplacian, jet.dd(0) + jet.dd(1))
    diagonal = Jet.of(f, x, "diagonal")
    assert torch.equal(diagonal.dd(1, 1), diagonal.diagonal[..., 1])
    assert torch.allclose(diagonal.laplacian, Jet.of(f, x, "laplacian").laplacian)


def test_physicsnemo_names(x):
    named = Jet.of(f, x, "hessian").as_dict("u", ["x", "t"])
    assert sorted(named) == ["u", "u__t", "u__t__t", "u__t__x", "u__x", "u__x__t", "u__x__x"]
    assert torch.allclose(named["u__x__t"], named["u__t__x"], rtol=1e-13)
    assert sorted(Jet.of(f, x, "gradient").as_dict("v", ["x", "t"])) == ["v", "v__t", "v__x"]


@pytest.mark.parametrize(
    "want, missing",
    [
        ("value", lambda jet: jet.d(0)),
        ("gradient", lambda jet: jet.hessian),
        ("gradient", lambda jet: jet.laplacian),
        ("diagonal", lambda jet: jet.dd(0, 1)),
        ("laplacian", lambda jet: jet.dd(0)),
        ("laplacian", lambda jet: jet.hessian),
        ("hessian", lambda jet: jet * Jet("gradient", jet.value, jet.gradient)),
        ("gradient", lambda jet: jet + Jet("value", jet.value)),
    ],
)
def test_what_was_not_computed_is_an_error_that_says_so(x, want, missing):
    with pytest.raises(AttributeError, match="ask for it by want="):
        missing(Jet.of(f, x, want))


def test_unrelated_types_do_not_mix(x):
    with pytest.raises(TypeError):
        Jet.of(f, x, "value") + 1
    with pytest.raises(TypeError):
        Jet.of(f, x, "value") - "u"
