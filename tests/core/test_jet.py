"""Jets: names, product rule, and jets of any function."""

import re

import numpy as np
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
        ("laplacian", lambda jet: jet.diagonal),
        ("gradient", lambda jet: jet.dd(0)),
        ("hessian", lambda jet: jet / Jet("value", jet.value)),
        ("hessian", lambda jet: jet * Jet("gradient", jet.value, jet.gradient)),
        ("gradient", lambda jet: jet + Jet("value", jet.value)),
    ],
)
def test_what_was_not_computed_is_an_error_that_says_so(x, want, missing):
    with pytest.raises(AttributeError, match="ask for it by want="):
        missing(Jet.of(f, x, want))


# --- numbers and tensors ---------------------------------------------------------------------------


def pair(x):
    return torch.stack([f(x), g(x)], 1)


def six(x):
    """As many outputs as there are points."""
    return torch.stack([torch.sin((k + 1) * x[:, 0] + x[:, 1]) for k in range(6)], 1)


#: Written once for jets and once for functions: the operation, with a constant ``c`` [N, 1], [N, K] or a number.
OPERATIONS = {
    "u + c": lambda u, c: u + c,
    "c + u": lambda u, c: c + u,
    "u - c": lambda u, c: u - c,
    "c - u": lambda u, c: c - u,
    "u * c": lambda u, c: u * c,
    "c * u": lambda u, c: c * u,
    "u / c": lambda u, c: u / c,
    "c / u": lambda u, c: c / u,
}


@pytest.mark.parametrize("want", WANTS)
@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("function", [pair, six])
def test_numbers_and_tensors_are_constants(x, want, name, function):
    operation, u = OPERATIONS[name], Jet.of(function, x, want)
    k = u.value.shape[1]
    per_point = torch.linspace(1, 2, 6, dtype=x.dtype)
    per_both = torch.linspace(-3, -1, 6 * k, dtype=x.dtype).reshape(6, k)
    for given, meant in (
        (2.5, 2.5),
        (3, 3),
        (torch.tensor(2.5, dtype=x.dtype), 2.5),
        (per_point, per_point[:, None]),
        (per_point[:, None], per_point[:, None]),
        (per_both, per_both),
        (per_both[:1], per_both[:1]),
    ):
        wanted = Jet.of(lambda t, c=meant: operation(function(t), c), x, want)
        assert_same(operation(u, given), wanted, 1e-11)


@pytest.mark.parametrize("want", WANTS)
def test_quotients_of_jets_are_those_of_the_functions(x, want):
    u, v = Jet.of(pair, x, want), Jet.of(lambda t: (2 + g(t) ** 2)[:, None], x, "hessian")
    assert_same(u / v, Jet.of(lambda t: pair(t) / (2 + g(t) ** 2)[:, None], x, want), 1e-11)
    assert_same(u / v * v, u, 1e-11)


def test_as_many_points_as_outputs_is_no_ambiguity(x):
    u, c = Jet.of(six, x, "hessian"), torch.arange(1.0, 7.0, dtype=x.dtype)
    assert torch.equal((u * c).value, u.value * c[:, None]) and torch.equal((u + c).value, u.value + c[:, None])
    assert torch.equal((u * c[None]).value, u.value * c) and torch.equal((u * c).d(0), u.d(0) * c[:, None])


@pytest.mark.parametrize("want", WANTS)
def test_one_output_and_a_tensor_for_several_make_several(x, want):
    u, c = Jet.of(f, x, want), torch.arange(18.0, dtype=x.dtype).reshape(6, 3)
    for name in ("u + c", "c - u", "c * u", "c / u"):
        made = OPERATIONS[name](u, c)
        single = [OPERATIONS[name](u, c[:, k]) for k in range(3)]
        for k in range(3):
            assert_same(made.output(k), single[k])


def test_a_constant_gets_its_gradient(x):
    c = torch.ones(6, dtype=x.dtype, requires_grad=True)
    u = Jet.of(f, x, "laplacian")
    (c * u + c).laplacian.sum().backward()
    assert torch.equal(c.grad, u.laplacian[:, 0])


def test_sums_and_in_place_forms(x):
    u = Jet.of(f, x, "hessian")
    assert_same(sum([u, u]), 2 * u)
    v = u
    v += 1
    v *= 2
    assert_same(v, Jet.of(lambda t: 2 * (f(t) + 1), x, "hessian"))
    assert_same(u, Jet.of(f, x, "hessian")), "and what it was before is as it was"
    assert_same(+u, u)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("shape", [(2,), (5,), (6, 3), (5, 2), (6, 2, 1), (6, 2, 2), (0,)])
def test_a_tensor_of_another_shape_is_refused(x, name, shape):
    wanted = re.escape(
        f"a tensor must have shape [6] (a value per point) or [6, 2] to go with a jet [6, 2], got {shape}"
    )
    remedy = re.escape("; for a value per output, the same at all points, write t[None]") if shape == (2,) else ""
    with pytest.raises(ValueError, match=f"^{wanted}{remedy}$"):
        OPERATIONS[name](Jet.of(pair, x, "hessian"), torch.ones(shape, dtype=x.dtype))


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("other", [[1.0] * 6, (1.0,), np.ones(6), np.ones((6, 1))], ids=repr)
def test_lists_and_arrays_are_refused_with_what_to_write(x, name, other):
    with pytest.raises(TypeError, match=rf"got {type(other).__name__}: use torch\.as_tensor$"):
        OPERATIONS[name](Jet.of(f, x, "gradient"), other)


@pytest.mark.parametrize("number", [np.float64(2.5), np.float32(2.5), True])
def test_any_number_is_a_number(x, number):
    u = Jet.of(f, x, "gradient")
    assert_same(number * u, float(number) * u)
    assert_same(number - u, float(number) - u)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("other", ["u", None, f, {}], ids=["str", "None", "function", "dict"])
def test_unrelated_types_do_not_mix(x, name, other):
    with pytest.raises(TypeError, match=r"unsupported operand type|by non-int|concatenate str"):
        OPERATIONS[name](Jet.of(f, x, "value"), other)


# --- what does not exist ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ask, what",
    [
        (lambda u, i: u.d(i), "coordinate must be from 0 to 1"),
        (lambda u, i: u.dd(i), "coordinate must be from 0 to 1"),
        (lambda u, i: u.dd(0, i), "coordinate must be from 0 to 1"),
        (lambda u, i: u.dd(i, 0), "coordinate must be from 0 to 1"),
        (lambda u, i: u.output(i), "output must be from 0 to 1"),
    ],
)
def test_an_index_out_of_range(x, ask, what):
    u = Jet.of(pair, x, "hessian")
    for i in (2, -3):
        with pytest.raises(IndexError, match=f"^{what}, got {i}$"):
            ask(u, i)
    for i in ("x", 1.0, None):
        if not (i is None and "coordinate" in what):  # dd(0, None) is dd(0)
            with pytest.raises(TypeError, match=f"^{what.split()[0]} must be an integer, got {i!r}$"):
                ask(u, i)


def test_negative_indices_count_from_the_end(x):
    u, diagonal = Jet.of(pair, x, "hessian"), Jet.of(pair, x, "diagonal")
    assert torch.equal(u.d(-1), u.d(1)) and torch.equal(u.dd(-1, 0), u.dd(1, 0))
    assert torch.equal(diagonal.dd(-1, 1), diagonal.dd(1)), "one coordinate, by two names"
    assert_same(u.output(-2), Jet.of(f, x, "hessian"))
