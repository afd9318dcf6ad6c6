"""Operators against independent truths: exact integrals, shifts, decays, the Cole-Hopf solution; and their settings."""

import math
from dataclasses import dataclass

import pytest
import torch

from bumpnet_fast import Jet
from bumpnet_fast.problems.operators import OPERATORS, Operator, OperatorData, get_operator
from bumpnet_fast.problems.operators.fields import grid

TAU = 2 * math.pi


@pytest.mark.parametrize("name", OPERATORS)
def test_generated_data(name):
    operator = get_operator(name)
    data = operator.generate(3, seed=1)
    assert isinstance(data, OperatorData)
    assert data.inputs.shape == (3, operator.sensors)
    assert data.outputs.shape == (3, len(operator.points))
    assert all(t.dtype == torch.float64 and torch.isfinite(t).all() for t in data)
    lo, hi = operator.domain
    assert ((data.points >= lo) & (data.points <= hi)).all()
    again, other = operator.generate(3, seed=1), operator.generate(3, seed=2)
    assert torch.equal(data.inputs, again.inputs) and torch.equal(data.outputs, again.outputs)
    assert not torch.allclose(data.inputs, other.inputs)


@pytest.mark.parametrize("name", OPERATORS)
def test_data_do_not_hang_on_the_number_of_threads(name, threads):
    data = []
    for count in (1, 2):
        threads(count)
        data.append(get_operator(name).generate(30))
        assert torch.get_num_threads() == count, "left as it was"
    assert all(torch.equal(a, b) for a, b in zip(*data, strict=True))


@dataclass
class _Own(Operator):
    """A user's operator with a sum of its own."""

    name, linear = "own", True

    def apply(self, f):
        return self.at_points(f) @ torch.ones(101, 101, dtype=f.dtype).cumsum(1).sin()


@pytest.mark.parametrize("operator", [*map(get_operator, OPERATORS), _Own()], ids=lambda operator: operator.name)
def test_inputs_and_outputs_do_not_hang_on_the_number_of_threads(operator, threads):
    found, number = [], 300 if operator.linear else 40
    for count in (1, 2, 3):
        threads(count)
        f = operator.inputs(number, seed=2)
        found.append((f, operator.apply(f), operator.at_points(f), *operator.generate(number, seed=2)))
        assert torch.get_num_threads() == count, "left as it was"
    assert all(torch.equal(a, b) for others in found[1:] for a, b in zip(found[0], others, strict=True))
    torch.testing.assert_close(found[0][1], found[0][4], rtol=0, atol=0)


def test_the_threads_are_as_before_where_an_operator_fails(threads):
    @dataclass
    class Failing(Operator):
        def apply(self, f):
            assert torch.get_num_threads() == 1
            raise ArithmeticError

    threads(2)
    with pytest.raises(ArithmeticError):
        Failing().apply(torch.zeros(1, 5))
    with pytest.raises(NotImplementedError, match="Operator must define apply"):
        Operator().generate(2)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("sensors", [20, 33])
def test_sensors_see_the_functions_that_were_drawn(name, sensors):
    operator = get_operator(name, sensors=sensors)
    f = operator.inputs(2)
    seen = operator.at_sensors(f)
    x = grid(sensors, operator.periodic)
    assert seen.shape == (2, sensors)
    torch.testing.assert_close(seen, operator.at_points(f, x[:, None]))


@pytest.mark.parametrize("name", OPERATORS)
def test_linearity_is_as_declared(name):
    operator = get_operator(name)
    f, g = operator.inputs(2, seed=3).split(1)
    together, apart = operator.apply(2 * f + g), 2 * operator.apply(f) + operator.apply(g)
    assert torch.allclose(together, apart, atol=1e-10) == operator.linear


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_antiderivative_of_polynomials_is_exact(degree):
    operator, x = get_operator("antiderivative"), grid(30, periodic=False)
    y = operator.points[:, 0]
    torch.testing.assert_close(operator.apply((x**degree)[None])[0], y ** (degree + 1) / (degree + 1))


def test_antiderivative_of_sines():
    operator = get_operator("antiderivative")
    x, y = grid(operator.fine, periodic=False), operator.points[:, 0]
    wanted = (1 - torch.cos(TAU * y)) / TAU
    assert (operator.apply(torch.sin(TAU * x)[None])[0] - wanted).abs().max() < 1e-8


@pytest.mark.parametrize("shift", [0.3, 0.0, -0.71])
def test_advection_shifts(shift):
    operator = get_operator("advection", shift=shift)

    def f(x):
        return torch.exp(torch.sin(TAU * x))

    wanted = f(operator.points[:, 0] - shift)
    torch.testing.assert_close(operator.apply(f(grid(operator.fine, True))[None])[0], wanted)


@pytest.mark.parametrize("k", [0, 1, 5])
def test_heat_lets_a_mode_decay(k):
    operator = get_operator("heat", nu=0.003, horizon=2.0)
    x, t = operator.points.unbind(1)
    assert t.max() == 2
    mode = torch.cos(TAU * k * grid(operator.fine, True) + 0.4)
    wanted = torch.cos(TAU * k * x + 0.4) * torch.exp(-0.003 * (TAU * k) ** 2 * t)
    torch.testing.assert_close(operator.apply(mode[None])[0], wanted)


def cole_hopf(x: torch.Tensor, mean: float, nu: float, time: float, n: int = 2048) -> torch.Tensor:
    """Burgers' u from mean + sin(2 pi x) / 2, by the heat equation for phi = exp(-integral of u / 2 nu)."""
    s = grid(n, periodic=True)
    phi = torch.fft.rfft(torch.exp(torch.cos(TAU * s) / (8 * math.pi * nu)), norm="forward")
    k = TAU * torch.arange(len(phi), dtype=torch.float64)
    phi = phi * torch.exp(-nu * k**2 * time)
    phase = k[:, None] * (x - mean * time)  # a mean velocity carries everything along
    scale = torch.full_like(k, 2.0)
    scale[0] = 1
    values = (scale[:, None] * (phi[:, None] * torch.exp(1j * phase)).real).sum(0)
    slopes = (scale[:, None] * (1j * k[:, None] * phi[:, None] * torch.exp(1j * phase)).real).sum(0)
    return mean - 2 * nu * slopes / values


@pytest.mark.parametrize("nu", [0.02, 0.005])
@pytest.mark.parametrize("mean", [0.0, 0.4])
def test_burgers_is_the_cole_hopf_solution(nu, mean):
    operator = get_operator("burgers", nu=nu, amplitude=0.5)
    f = 2 * (mean + 0.5 * torch.sin(TAU * grid(256, True)))
    wanted = cole_hopf(operator.points[:, 0], mean, nu, operator.horizon)
    assert (wanted.diff().abs().max() > 0.05) == (nu == 0.005)  # a front
    assert (operator.apply(f[None])[0] - wanted).abs().max() < 1e-6


def test_burgers_converges_in_space_and_time(monkeypatch):
    operator = get_operator("burgers", nu=0.005)
    f = operator.inputs(20, seed=1)
    u, finer = operator.apply(f), get_operator("burgers", nu=0.005, resolution=768).apply(f)
    monkeypatch.setattr("bumpnet_fast.problems.operators.burgers._COURANT", 0.75)
    size = torch.linalg.vector_norm(u, dim=1)
    for other in (finer, operator.apply(f)):
        assert (torch.linalg.vector_norm(u - other, dim=1) / size).max() < 1e-6


def test_burgers_steps_functions_in_any_company_alike():
    operator = get_operator("burgers")
    f = operator.inputs(3, seed=1)
    alone = torch.cat([operator.apply(part) for part in f.split(1)])
    torch.testing.assert_close(operator.apply(f), alone, rtol=0, atol=1e-6)


# --- equations -----------------------------------------------------------------------------------


def jet_of(function, y, want):
    """The jet of a function of y, as that of one output function: values [1, N]."""
    return Jet.of(function, y, want).map(lambda t: t.transpose(0, 1))


def antiderivative_of_cosine(y):
    return torch.sin(TAU * y[:, 0]) / TAU


def heat_of_cosine(y):
    return torch.cos(TAU * y[:, 0]) * torch.exp(-0.01 * TAU**2 * y[:, 1])


@pytest.mark.parametrize(("name", "solution"), [("antiderivative", antiderivative_of_cosine), ("heat", heat_of_cosine)])
def test_equations_hold_for_the_solution_only(name, solution):
    operator = get_operator(name)
    f = torch.cos(TAU * grid(operator.fine, operator.periodic))[None]
    for equation in operator.equations():
        y = equation.points
        at_y = operator.at_points(f, y)
        right = equation.residual(y, at_y, jet_of(solution, y, equation.want))
        assert right.shape == (1, len(y)) and right.abs().max() < 1e-6
        wrong = equation.residual(y, at_y, jet_of(lambda y: 1 + y.sum(1) ** 2, y, equation.want))
        assert wrong.abs().max() > 0.1


def test_operators_without_equations_say_so():
    assert get_operator("burgers").equations() == []


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("laplace", {}, r"unknown operator 'laplace'; there are: advection, antiderivative, burgers, heat"),
        ("heat", {"shift": 1}, r"heat has no field 'shift'; it has: length_scale, sensors, grid, nu, horizon, times"),
        ("heat", {"nu": "thick"}, r"nu must be a finite number, got 'thick'"),
        ("heat", {"nu": 0}, r"nu must be positive, got 0.0"),
        ("heat", {"times": 3}, r"times must be at least 4, got 3"),
        ("advection", {"sensors": 2.5}, r"sensors must be an integer, got 2.5"),
        ("advection", {"sensors": 1}, r"sensors must be at least 4, got 1"),
        ("advection", {"length_scale": -1}, r"length_scale must be positive, got -1"),
        ("burgers", {"amplitude": float("nan")}, r"amplitude must be a finite number"),
    ],
)
def test_wrong_settings_are_named(name, settings, message):
    with pytest.raises(ValueError, match=message):
        get_operator(name, **settings)


@pytest.mark.parametrize("count", [0, -1, 2.0, True, None])
def test_wrong_counts_are_named(count):
    with pytest.raises(ValueError, match="count must be a positive integer"):
        get_operator("advection").generate(count)


def test_settings_take_text():
    assert get_operator("advection", shift="-0.25", sensors="16") == get_operator("advection", shift=-0.25, sensors=16)


def test_an_operator_without_apply_says_so():
    with pytest.raises(NotImplementedError, match=r"Operator must define apply"):
        Operator().generate(1)


def test_an_operator_of_ones_own():
    @dataclass
    class Cube(Operator):
        name, linear, periodic = "cube", False, True
        gain: float = 2.0

        def apply(self, f):
            return self.gain * self.at_points(f) ** 3

    data = Cube(gain=3, sensors=16).generate(2)
    at = grid(Cube().fine, True)
    assert data.inputs.shape == (2, 16) and len(at) >= 200
    # the first sensor and the first point are both at 0
    torch.testing.assert_close(data.outputs[:, 0], 3 * data.inputs[:, 0] ** 3)


def test_data_can_be_split_and_moved():
    data = get_operator("advection").generate(5)
    first, rest = data.split(3)
    assert len(first.inputs) == 3 and len(rest.outputs) == 2 and first.points is data.points
    assert all(t.dtype == torch.float32 for t in data.to(torch.float32))


def test_a_setting_that_would_be_left_unread_is_refused():
    class Undecorated(type(get_operator("antiderivative"))):
        sensors: int = 20

    with pytest.raises(TypeError, match=r"Undecorated.sensors is a field .* @dataclass and write `sensors: int = ...`"):
        Undecorated()
