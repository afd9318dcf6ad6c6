"""The closed forms against the paper's formula: nested autograd, and 200 digits of mpmath."""

import math
from functools import cache

import mpmath
import oracle
import pytest
import torch

from bumpnet_fast.core import reference
from bumpnet_fast.core.reference import WANTS
from bumpnet_fast.core.rows import RowLayout

M, N, K = 3, 5, 2
TOLERANCES = (1e-13, 1e-12, 1e-11)

everywhere = [
    pytest.mark.parametrize("want", WANTS),
    pytest.mark.parametrize("tied", (True, False), ids=("tied", "free")),
    pytest.mark.parametrize("dim", (1, 2, 3, 4, 5)),
]


def in_every_setting(test):
    for mark in everywhere:
        test = mark(test)
    return test


@cache
def problem(dim, tied):
    """Points, rows, frame and the oracle's basis; points and rows are leaves."""
    rows, frame = oracle.bumps(dim, M, K, tied)
    x = oracle.points(dim, N).requires_grad_()
    return x, rows.requires_grad_(), frame, oracle.basis(x, rows, frame, tied)


@cache
def basis_jet(dim, tied):
    x, _, _, psi = problem(dim, tied)
    return oracle.jet(psi, x, "hessian")


def wanted_basis(dim, tied, want):
    """The oracle's basis jet in the form ``want``; graph attached."""
    parts = basis_jet(dim, tied)
    level = WANTS.index(want)
    diagonal = parts[2].diagonal(dim1=-2, dim2=-1)
    second = {"diagonal": diagonal, "hessian": parts[2], "laplacian": diagonal.sum(-1)}.get(want)
    return [*parts[: min(level, 1) + 1], *([second] if level >= 2 else [])]


def wanted_jet(dim, tied, want):
    rows = problem(dim, tied)[1]
    h = rows[:, RowLayout(dim, K, tied).amplitude]
    return [torch.einsum("nm...,mk->nk...", part, h) for part in wanted_basis(dim, tied, want)]


def cotangents(parts, seed=1):
    generator = torch.Generator().manual_seed(seed)
    random = [torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in parts]
    return random + [None] * (3 - len(parts))


def contraction(parts, weights):
    return sum((part * weight).sum() for part, weight in zip(parts, weights, strict=False))


def assert_parts(got, wanted):
    for i, part in enumerate(got):
        if i < len(wanted):
            oracle.assert_close(part, wanted[i], TOLERANCES[i], f"part {i}")
        else:
            assert part.shape == (0,), "what is not wanted is an empty tensor"


@in_every_setting
def test_jet(dim, tied, want):
    x, rows, frame, _ = problem(dim, tied)
    assert_parts(reference.jet(x, rows, frame, WANTS.index(want), tied), wanted_jet(dim, tied, want))


@in_every_setting
def test_basis(dim, tied, want):
    x, rows, frame, _ = problem(dim, tied)
    assert_parts(reference.basis(x, rows, frame, WANTS.index(want), tied), wanted_basis(dim, tied, want))


@in_every_setting
@pytest.mark.parametrize("operator", ("jet", "basis"))
def test_vjp(dim, tied, want, operator):
    x, rows, frame, _ = problem(dim, tied)
    parts = (wanted_jet if operator == "jet" else wanted_basis)(dim, tied, want)
    weights = cotangents(parts)
    wanted = torch.autograd.grad(contraction(parts, weights), (x, rows), retain_graph=True)
    got = getattr(reference, operator + "_vjp")(*weights, x, rows, frame, WANTS.index(want), tied)
    for name, g, w in zip(("x", "rows"), got, wanted, strict=True):
        oracle.assert_close(g, w, 1e-11, name)


@pytest.mark.parametrize("operator", ("jet", "basis"))
@pytest.mark.parametrize("present", range(8))
def test_a_missing_cotangent_counts_as_zero(operator, present):
    x, rows, frame, _ = problem(2, True)
    parts = (wanted_jet if operator == "jet" else wanted_basis)(2, True, "hessian")
    given = [g if present >> i & 1 else None for i, g in enumerate(cotangents(parts))]
    zeros = [torch.zeros_like(p) if g is None else g for g, p in zip(given, parts, strict=True)]
    vjp = getattr(reference, operator + "_vjp")
    for got, wanted in zip(vjp(*given, x, rows, frame, 3, True), vjp(*zeros, x, rows, frame, 3, True), strict=True):
        assert torch.equal(got, wanted)


@in_every_setting
def test_design(dim, tied, want):
    x, rows, frame, _ = problem(dim, tied)
    parts = wanted_basis(dim, tied, want)
    weights = cotangents([part[:, 0] for part in parts])
    wanted = sum(
        (weight[:, None] * part).flatten(2).sum(-1) if part.dim() > 2 else weight[:, None] * part
        for part, weight in zip(parts, weights, strict=False)
    )
    # a bump depends on its own row alone, so the gradient of a point's sum holds every bump's
    by_rows = torch.stack([torch.autograd.grad(line.sum(), rows, retain_graph=True)[0] for line in wanted])
    Phi, D = reference.design(*weights, x, rows, frame, WANTS.index(want), tied, True)
    oracle.assert_close(Phi, wanted, 1e-12, "Phi")
    oracle.assert_close(D, by_rows[..., : RowLayout(dim, K, tied).shape_columns], 1e-11, "D")
    Phi_alone, empty = reference.design(*weights, x, rows, frame, WANTS.index(want), tied, False)
    assert torch.equal(Phi_alone, Phi) and empty.shape == (0,)


# --- far ranges, in 200 digits ----------------------------------------------------------------------


def exact_bump(x: float, log_p: float, log_size: float):
    """Value and two derivatives of a 1D bump at the origin of its centre, frame [-1, 1], scale 1."""
    with mpmath.workdps(200):
        p, size = mpmath.exp(mpmath.mpf(log_p)), mpmath.exp(mpmath.mpf(log_size))
        z, reach = mpmath.mpf(x), size / 2
        up, down = mpmath.tanh(p * (z + reach)), mpmath.tanh(p * (reach - z))
        psi = (1 + mpmath.tanh(p * (up + down - 1))) / 2
        S1 = p * (down**2 - up**2)
        S2 = 2 * p**2 * (-up * (1 - up**2) - down * (1 - down**2))
        p1, s = psi * (1 - psi), 2 * p
        return psi, s * p1 * S1, s * p1 * S2 + s**2 * p1 * (1 - 2 * psi) * S1**2


@pytest.mark.parametrize("A", (1e-3, 0.1, 1.0, 30.0, 1e3, 1e4))
@pytest.mark.parametrize("p", (1e-2, 1.0, 100.0, 1e4))
def test_the_closed_forms_hold_for_every_sharpness_and_size(p, A):
    log_p, log_size = math.log(p), math.log(2 * A / p)
    edge = A / p
    steps = [t / p for t in (-3, -1, -0.3, -0.5 / p, -0.2 / p, 0, 0.2 / p, 0.5 / p, 0.3, 1, 3, 30)]
    places = (0.0, 0.5 * edge, *(edge + s for s in steps), *(s - edge for s in steps), 1e6)
    x = torch.tensor(places, dtype=torch.float64)[:, None]
    rows = torch.tensor([[0.0, log_size, log_p, 1.0]], dtype=torch.float64)
    frame = torch.tensor([[-1.0], [1.0], [1.0]], dtype=torch.float64)
    got = reference.jet(x, rows, frame, reference.HESSIAN, True)
    exact = [exact_bump(t, log_p, log_size) for t in x[:, 0].tolist()]
    for i, part in enumerate(got):
        assert torch.isfinite(part).all()
        wanted = torch.tensor([float(line[i]) for line in exact], dtype=torch.float64)
        # rounding x, p and the size alone moves the result by about eps s A
        oracle.assert_close(part.flatten(), wanted, 1e-14 * max(1.0, 2 * p * A) * 10**i, f"derivative {i}")


def test_the_tail_keeps_its_relative_accuracy():
    x = torch.linspace(2, 60, 30, dtype=torch.float64)[:, None]
    rows = torch.tensor([[0.0, 0.0, 0.5, 1.0]], dtype=torch.float64)
    frame = torch.tensor([[-1.0], [1.0], [1.0]], dtype=torch.float64)
    _, gradient, second = reference.jet(x, rows, frame, reference.HESSIAN, True)
    for t, first, bend in zip(x[:, 0].tolist(), gradient.flatten().tolist(), second.flatten().tolist(), strict=True):
        _, wanted_first, wanted_bend = exact_bump(t, 0.5, 0.0)
        assert math.isclose(first, float(wanted_first), rel_tol=1e-12)
        assert math.isclose(bend, float(wanted_bend), rel_tol=1e-12)


@pytest.mark.parametrize("dim", (1, 2, 3))
@pytest.mark.parametrize("bad", (math.nan, math.inf, -math.inf))
def test_a_point_that_is_no_number_gives_nan_there_only(dim, bad):
    rows, frame = oracle.bumps(dim, 3, 2)
    x = oracle.points(dim, 4)
    broken = x.clone()
    broken[2, dim - 1] = bad
    others = torch.tensor([0, 1, 3])
    for want in range(5):
        clean, dirty = (reference.jet(t, rows, frame, want, True) for t in (x, broken))
        for c, d in zip(clean[: min(want, 2) + 1], dirty, strict=False):
            assert torch.isnan(d[2]).all()
            assert torch.equal(d[others], c[others])
