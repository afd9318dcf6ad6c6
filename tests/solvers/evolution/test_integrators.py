"""Integrators: orders, exactness, step control, and what they do with solutions that end."""

import itertools
import math
import sys
import types

import pytest
import torch

from bumpnet_fast.solvers.evolution import integrators
from bumpnet_fast.solvers.evolution.integrators import (
    SCIPY,
    CrankNicolson,
    Exponential,
    ExponentialRungeKutta4,
    Marcher,
    Rosenbrock,
    RungeKutta4,
    ScipyMarcher,
    StepTooSmall,
    TorchdiffeqMarcher,
    phi_functions,
)

A = torch.tensor([[-1.0, 2.0], [-3.0, -0.5]], dtype=torch.float64)
START = torch.tensor([1.0, -0.3], dtype=torch.float64)


def source(t):
    return torch.tensor([math.sin(t), math.cos(2 * t)], dtype=torch.float64)


def linear(t, y):
    return A @ y + source(t)


def nonlinear(t, y):
    return A @ y + 0.5 * torch.sin(y) * y.flip(0) + source(t)


def nothing(t, y):
    pass


METHODS = {
    "rk4": (lambda f: RungeKutta4(f), nonlinear, 4),
    "etdrk4": (lambda f: ExponentialRungeKutta4(A, f), nonlinear, 4),
    "cn": (lambda f: CrankNicolson(A, source), linear, 2),
}


def at_the_end(marcher, y=START, until=1.0):
    return marcher.advance(0.0, y, until, nothing)


def precise(slope):
    return at_the_end(Marcher(RungeKutta4(slope), 1.0, step=1 / 2000))


@pytest.mark.parametrize("name", METHODS)
def test_the_order(name):
    make, slope, order = METHODS[name]
    wanted = precise(slope)
    errors = [float((at_the_end(Marcher(make(slope), 1.0, step=1 / n)) - wanted).norm()) for n in (16, 32, 64)]
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert orders == pytest.approx([order] * 2, abs=0.3) and errors[0] < 0.05


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("tolerance", [1e-5, 1e-8])
def test_steps_are_chosen_by_the_tolerance(name, tolerance):
    make, slope, order = METHODS[name]
    times = []
    marcher = Marcher(make(slope), 1.0, tolerance=tolerance)
    y = marcher.advance(0.0, START, 0.3, lambda t, y: times.append(t))
    y = marcher.advance(0.3, y, 1.0, lambda t, y: times.append(t))
    assert float((y - precise(slope)).norm()) < 2 * tolerance
    assert times == sorted(times) and 0.3 in times and times[-1] == 1.0 and marcher.steps == len(times)


def test_steps_grow_again_after_a_fast_start():
    steps = []

    def slope(t, y):
        return -1000 * math.exp(-1000 * t) * torch.ones_like(y)

    marcher = Marcher(RungeKutta4(slope), 1.0, tolerance=1e-6)
    y = marcher.advance(0.0, START, 1.0, lambda t, y: steps.append(t))
    torch.testing.assert_close(y, START - 1 + math.exp(-1000), rtol=0, atol=2e-6)
    lengths = torch.tensor([0.0, *steps]).diff()
    assert lengths.max() > 20 * lengths.min() and lengths.argmin() < len(lengths) // 2


def test_the_exponential_is_exact_whatever_the_step():
    b = torch.tensor([0.3, -1.0], dtype=torch.float64)
    wanted = at_the_end(Marcher(RungeKutta4(lambda t, y: A @ y + b), 1.0, step=1 / 2000))
    marcher = Marcher(Exponential(A, b), 1.0)
    torch.testing.assert_close(at_the_end(marcher), wanted, rtol=1e-11, atol=0)
    assert marcher.steps == 1


@pytest.mark.parametrize("scale", [1e-6, 0.3, 5.0, 400.0])
def test_phi_functions_are_blocks_of_an_exponential(scale):
    generator = torch.Generator().manual_seed(0)
    M = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    M = scale * (M - M.T - 0.1 * M @ M.T)
    whole = torch.zeros(16, 16, dtype=torch.float64)
    whole[:4, :4] = M
    for k in range(3):
        whole[4 * k : 4 * k + 4, 4 * k + 4 : 4 * k + 8] = torch.eye(4)
    wanted = torch.linalg.matrix_exp(whole)[:4].split(4, 1)
    for found, block in zip(phi_functions(M), wanted, strict=True):
        torch.testing.assert_close(found, block, rtol=0, atol=1e-12 * max(1.0, float(block.abs().max())))


@pytest.mark.parametrize("name", SCIPY)
def test_scipy_methods(name):
    def jacobian(t, y):
        return torch.func.jacrev(lambda y: nonlinear(t, y))(y)

    marcher, times = ScipyMarcher(name, nonlinear, jacobian, 1.0, 1e-8, 1.0, None), []
    y = marcher.advance(0.0, START, 0.4, lambda t, y: times.append(t))
    torch.testing.assert_close(
        y, at_the_end(Marcher(RungeKutta4(nonlinear), 1.0, 1 / 2000), until=0.4), rtol=0, atol=1e-6
    )
    y = marcher.advance(0.4, y, 1.0, lambda t, y: times.append(t))
    torch.testing.assert_close(y, precise(nonlinear), rtol=0, atol=1e-6)
    assert times == sorted(times) and times[-1] == 1.0 and marcher.steps == len(times)
    short = ScipyMarcher(name, nonlinear, jacobian, 1.0, 1e-2, 1.0, 1 / 50)
    at_the_end(short)
    assert short.steps >= 50


@pytest.mark.parametrize("name", SCIPY)
def test_a_scipy_method_does_not_depend_on_the_times_of_the_output(name):
    """Nor does it get dearer: an integrator that begins anew at each of them would."""
    ends = []
    for number in (1, 40):
        marcher, y, t = ScipyMarcher(name, nonlinear, lambda t, y: A, 1.0, 1e-9, 1.0, None), START, 0.0
        for i in range(1, number + 1):
            y, t = marcher.advance(t, y, i / number, nothing), i / number
        ends.append((y, marcher.steps))
    assert torch.equal(ends[0][0], ends[1][0]) and ends[0][1] == ends[1][1]


@pytest.mark.parametrize("name", SCIPY)
def test_a_fresh_scipy_method_takes_the_place_of_another(name, monkeypatch):
    """With the step size at which that was, and where it was; a resumed evolution repeats no more than its steps."""
    begins = []
    begin = ScipyMarcher._begin
    monkeypatch.setattr(ScipyMarcher, "_begin", lambda self, *args: begins.append(args) or begin(self, *args))
    monkeypatch.setattr(integrators, "_STRETCH", 5)
    times = []
    marcher = ScipyMarcher(name, nonlinear, lambda t, y: A, 1.0, 1e-8, 1.0, None)
    y = marcher.advance(0.0, START, 1.0, lambda t, y: times.append(t))
    torch.testing.assert_close(y, precise(nonlinear), rtol=0, atol=1e-4)
    assert times == sorted(times) and len(begins) == math.ceil(len(times) / 5) > 1
    for number, (t, _, first) in enumerate(begins[1:], 1):
        assert t == times[5 * number - 1] and first == pytest.approx(t - times[5 * number - 2])
    again = ScipyMarcher(name, nonlinear, lambda t, y: A, 1.0, 1e-8, 1.0, None)
    again.load_state_dict(marcher.state_dict(), 1.0, y)
    assert again.steps == marcher.steps and again.solver.t == 1.0 and again.taken <= 5


def test_a_solution_that_ends_has_no_step():
    def watch(t, y):
        if not y.norm() < 1e6:  # a method may jump over the pole
            raise StepTooSmall

    one = torch.ones(1, dtype=torch.float64)
    for make in (Marcher, lambda f, *_: ScipyMarcher("dop853", f.slope, None, 2.0, 1e-8, 1.0, None)):
        marcher = make(RungeKutta4(lambda t, y: y * y), 2.0)
        before = marcher.advance(0.0, one, 0.9, watch)
        torch.testing.assert_close(before, 10 * one, rtol=1e-5, atol=0)
        with pytest.raises(StepTooSmall):
            marcher.advance(0.9, before, 2.0, watch)


# --- torchdiffeq ---------------------------------------------------------------------------------


def test_without_torchdiffeq_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    message = r"method 'dopri5' is not built in, .* pip install 'bumpnet_fast\[ode\]'"
    with pytest.raises(ModuleNotFoundError, match=message):
        TorchdiffeqMarcher("dopri5", nonlinear, 1e-8, None)


def test_torchdiffeq_gets_what_it_needs(monkeypatch):
    """A stand-in with torchdiffeq's signature: Euler's method."""
    calls = []

    def odeint(func, y0, t, *, rtol, atol, method, options):
        if method != "euler":
            raise ValueError(f'Invalid method "{method}"')
        calls.append((rtol, atol, options))
        h, y = float(t[1] - t[0]) / 1000, y0
        for i in range(1000):
            y = y + h * func(t[0] + i * h, y)
        return torch.stack([y0, y])

    monkeypatch.setitem(sys.modules, "torchdiffeq", types.SimpleNamespace(odeint=odeint))
    with pytest.raises(ValueError, match="Invalid method"):
        TorchdiffeqMarcher("eulre", nonlinear, 1e-6, None)
    marcher = TorchdiffeqMarcher("euler", nonlinear, 1e-6, 0.7)
    y = marcher.advance(0.5, marcher.advance(0.0, START, 0.5, nothing), 1.0, nothing)
    torch.testing.assert_close(y, precise(nonlinear), rtol=0, atol=5e-3)
    assert calls[-1] == (1e-6, 1e-6, {"step_size": 0.5}) and marcher.steps == 2


@pytest.mark.parametrize(("method", "step"), [("dopri5", None), ("midpoint", 1e-3), ("implicit_adams", 1e-2)])
def test_torchdiffeq_itself(method, step):
    pytest.importorskip("torchdiffeq", reason="torchdiffeq is not installed")
    y = at_the_end(TorchdiffeqMarcher(method, nonlinear, 1e-8, step))
    torch.testing.assert_close(y, precise(nonlinear), rtol=0, atol=1e-5)


def test_rodas_has_order_five_and_keeps_its_tolerance():
    def slope(t, y):
        return torch.stack([y[1], -(1 + 0.1 * t) * y[0] - y[0] ** 3])

    def jacobian(t, y):
        return y.new_tensor([[0.0, 1.0], [-(1 + 0.1 * t) - 3 * float(y[0]) ** 2, 0.0]])

    start = torch.tensor([1.0, 0.0], dtype=torch.float64)
    exact = ScipyMarcher("dop853", slope, jacobian, 2.0, 1e-12, 1.0, None).advance(0.0, start, 2.0, lambda t, y: None)
    errors = []
    for n in (10, 20):
        method, y, h = Rosenbrock(slope, jacobian, 2.0, 1.0), start, 2.0 / n
        for i in range(n):
            t = i * h
            y, _ = method.attempt(t, y, h, slope(t, y), method.by_time(t, y), jacobian(t, y))
        errors.append(float((y - exact).norm()))
    assert errors[1] < 1e-6 and math.log2(errors[0] / errors[1]) > 4.5
    seen = []
    chosen = Rosenbrock(slope, jacobian, 2.0, 1e-8, step=0.1)
    y = chosen.advance(0.0, start, 2.0, lambda t, y: seen.append(t))
    assert float((y - exact).norm()) < 1e-7 and seen[-1] == 2.0 and chosen.steps == len(seen) >= 20
