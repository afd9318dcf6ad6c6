"""Training: what it reaches, that it repeats, ends early and keeps the best, and its arguments."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from bumpnet_fast import BumpDeepONet
from bumpnet_fast.problems.operators import Equation, Operator, OperatorData, get_operator
from bumpnet_fast.solvers.operators import train

SMALL = {"functions": 100, "test_functions": 30}
FEW = SMALL | {"iterations": 60, "trunk_iterations": 3}


def net_for(operator, bumps=None, dtype="float64", seed=0, **options):
    periodic = tuple(operator.periodic and axis == 0 for axis in range(len(operator.domain[0])))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        bumps = bumps or operator.default_bumps
        return BumpDeepONet(operator.sensors, bumps, operator.domain, periodic=periodic, dtype=dtype, **options)


def interrupt_at(iteration, stage_length=0):
    def callback(progress):
        if progress.iteration >= iteration:
            raise KeyboardInterrupt

    return callback


# --- what is reached -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings", "bumps", "parameters", "error"),
    [
        ("antiderivative", {}, 8, 440, 3e-3),
        ("antiderivative", {}, 16, 880, 1e-5),
        ("advection", {}, 16, 576, 1e-4),
        ("advection", {"length_scale": 0.11}, 16, 576, 3e-3),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_two_steps_reach_what_is_promised(name, settings, bumps, parameters, error, dtype):
    operator = get_operator(name, **settings)
    net = net_for(operator, bumps, dtype)
    solution = train(operator, net)
    assert solution.parameters == parameters and solution.net is net
    assert solution.rel_l2 < error * (1 if dtype == "float64" or error > 1e-3 else 40)
    assert solution.projection_rel_l2 <= solution.rel_l2 * 1.01
    assert solution.seconds < 60 and solution.stop_reason in ("converged", "no further decrease")


def test_the_errors_are_those_of_the_net():
    operator = get_operator("antiderivative")
    solution = train(operator, net_for(operator), **SMALL)
    assert len(solution.data.inputs) == 100 and len(solution.test.inputs) == 30
    for data, error in ((solution.data, solution.train_rel_l2), (solution.test, solution.rel_l2)):
        difference = (solution.net(data.inputs, data.points) - data.outputs).detach()
        errors = torch.linalg.vector_norm(difference, dim=1) / torch.linalg.vector_norm(data.outputs, dim=1)
        assert float(errors.mean()) == pytest.approx(error)
    torch.testing.assert_close(solution.errors, errors)
    Psi = solution.net.basis(data.points).value.detach()
    best = data.outputs @ torch.linalg.pinv(Psi, rtol=1e-15).T @ Psi.T
    limit = torch.linalg.vector_norm(best - data.outputs, dim=1) / torch.linalg.vector_norm(data.outputs, dim=1)
    assert float(limit.mean()) == pytest.approx(solution.projection_rel_l2, rel=1e-3)


@pytest.mark.parametrize(("bumps", "error"), [(8, 6e-3), (16, 1e-5)])
def test_equations_take_the_place_of_outputs(bumps, error, monkeypatch):
    operator = get_operator("antiderivative")
    right = operator.apply
    monkeypatch.setattr(type(operator), "apply", lambda self, f: torch.full_like(right(f), 7.0))  # wrong outputs
    net = net_for(operator, bumps)
    train(operator, net, physics=True, **SMALL)
    monkeypatch.undo()
    data = operator.generate(50, seed=9)
    difference = torch.linalg.vector_norm(net(data.inputs, data.points) - data.outputs, dim=1)
    assert (difference / torch.linalg.vector_norm(data.outputs, dim=1)).mean() < error


def test_equations_in_space_and_time():
    operator = get_operator("heat", nu=0.003, grid=40, times=9)
    solution = train(operator, net_for(operator, (10, 4)), physics=True, functions=300, trunk_iterations=30)
    assert solution.rel_l2 < 0.05


def test_adam_descends_on_data_and_on_equations():
    operator = get_operator("antiderivative")
    for physics in (False, True):
        start = train(operator, net_for(operator), method="adam", physics=physics, **SMALL, iterations=0)
        end = train(operator, net_for(operator), method="adam", physics=physics, **SMALL, iterations=300, polish=40)
        assert end.loss < 0.1 * start.loss and end.rel_l2 < 0.5 * start.rel_l2
        assert end.iterations == 340 and end.stop_reason == "iterations"
        assert [e["stage"] for e in end.history if "rel_l2" in e][-1] == "lbfgs"
        assert not torch.equal(end.net.rows, start.net.rows)


@dataclass
class Logistic(Operator):
    """u' = f u (1 - u), u(0) = 1/2: nonlinear in f and in u."""

    name, linear = "logistic", False

    def apply(self, f):
        integral = get_operator("antiderivative").apply(f)
        return torch.sigmoid(integral)

    def equations(self):
        start = torch.zeros(1, 1, dtype=torch.float64)
        return [
            Equation("u' = f u (1 - u)", self.points, lambda y, f, u: u.d(0) - f * u.value * (1 - u.value), "gradient"),
            Equation("u(0) = 1/2", start, lambda y, f, u: u.value - 0.5, weight=10.0),
        ]


def test_nonlinear_equations_go_by_adam():
    operator = Logistic()
    with pytest.raises(ValueError, match="two steps need an equation linear in u"):
        train(operator, net_for(operator, branch=(16,)), physics=True, **SMALL)
    solution = train(operator, net_for(operator, branch=(16,)), method="adam", physics=True, **SMALL, iterations=400)
    assert solution.rel_l2 < 0.15


def test_a_branch_that_is_not_linear_learns_more():
    operator = Logistic()
    linear = train(operator, net_for(operator), **SMALL)
    solution = train(operator, net_for(operator, branch=(24,)), **SMALL, iterations=1000)
    assert solution.projection_rel_l2 == pytest.approx(linear.projection_rel_l2)
    assert solution.rel_l2 < 0.5 * linear.rel_l2
    assert {e["stage"] for e in solution.history} == {"trunk", "branch"}


def test_a_branch_without_a_linear_end_is_trained_too():
    operator = get_operator("antiderivative")
    branch = nn.Sequential(nn.Linear(51, 8, dtype=torch.float64), nn.Identity())
    solution = train(operator, net_for(operator, branch=branch), **SMALL, iterations=200)
    assert solution.loss < 0.9 and solution.net.branch is branch


def test_dropout_is_for_training_only():
    operator = get_operator("antiderivative")
    double = {"dtype": torch.float64}
    branch = nn.Sequential(nn.Linear(51, 40, **double), nn.Dropout(0.5), nn.Linear(40, 8, **double))
    net = net_for(operator, branch=branch)
    solution = train(operator, net, **SMALL, iterations=30)
    assert net.training and branch[1].training
    net.eval()
    difference = (net(*solution.test[::2]) - solution.test.outputs).detach()
    size = torch.linalg.vector_norm(solution.test.outputs, dim=1)
    assert float((torch.linalg.vector_norm(difference, dim=1) / size).mean()) == pytest.approx(solution.rel_l2)
    assert solution.rel_l2 < 0.01


def test_a_constant_is_learned_by_adam_and_kept_by_two_steps():
    x = torch.linspace(0, 1, 30, dtype=torch.float64)
    f = torch.randn(50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    data = OperatorData(f, 10 + f[:, :1] * torch.sin(x), x[:, None])
    net = BumpDeepONet(4, 5, [[0.0], [1.0]], bias=True, dtype="float64")
    train(data, net, method="adam", iterations=300, learning_rate=0.05)
    bias = float(net.bias.detach())
    assert bias > 0.1
    solution = train(data, net)
    assert float(net.bias.detach()) == bias and solution.rel_l2 < 1e-3


def test_arrays_of_ones_own():
    x = torch.rand(60, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    f = torch.randn(80, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    shapes = torch.stack([torch.sin(x[:, 0]), torch.cos(2 * x[:, 1]), x.prod(1)])
    data, test = OperatorData(f, f @ shapes, x).split(60)
    net = BumpDeepONet(3, 6, [[0.0, 0.0], [1.0, 1.0]], dtype="float64")
    solution = train(data, net, test=test)
    assert solution.rel_l2 < 1e-2 and solution.operator is None and solution.test is test
    alone = train(data, BumpDeepONet(3, 6, [[0.0, 0.0], [1.0, 1.0]], dtype="float64"))
    assert alone.test is None and alone.rel_l2 == alone.train_rel_l2


# --- course --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["two-step", "adam"])
def test_the_seed_decides(method):
    operator = get_operator("advection", sensors=16, grid=32)

    def rows(seed):
        return train(operator, net_for(operator, 5, branch=(4,)), method=method, seed=seed, **FEW).net.state_dict()

    one, again, two = rows(1), rows(1), rows(2)
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert not torch.equal(one["rows"], two["rows"])


def test_history_and_progress():
    operator, seen = get_operator("antiderivative"), []
    solution = train(operator, net_for(operator, branch=(6,)), **FEW, callback=seen.append)
    assert [e["stage"] for e in solution.history[:4]] == ["trunk"] * 4
    assert [p.iteration for p in seen] == [e["iteration"] for e in solution.history]
    assert [p.loss for p in seen] == [e["loss"] for e in solution.history]
    assert solution.iterations == 63 == seen[-1].iteration
    assert seen[-1].rel_l2 == pytest.approx(solution.rel_l2, rel=0.2)


@pytest.mark.parametrize(
    "method, branch, iteration", [("two-step", None, 2), ("two-step", (6,), 20), ("adam", None, 30)]
)
def test_ctrl_c_keeps_the_best(method, branch, iteration):
    operator = get_operator("antiderivative")
    net = net_for(operator, branch=branch)
    solution = train(operator, net, method=method, **FEW, callback=interrupt_at(iteration))
    assert solution.stop_reason == "interrupted"
    assert iteration <= solution.iterations <= iteration + 2
    assert solution.rel_l2 < 0.9
    assert torch.isfinite(net(*solution.test[::2])).all() and float(solution.errors.mean()) == solution.rel_l2


def test_time_ends_it():
    operator = get_operator("antiderivative")
    for method in ("two-step", "adam"):
        solution = train(operator, net_for(operator), method=method, **SMALL, iterations=10**6, max_seconds=0.05)
        assert solution.stop_reason in ("time", "converged") and solution.seconds < 30


def test_the_best_parameters_are_kept():
    operator = get_operator("antiderivative")
    solution = train(operator, net_for(operator), method="adam", learning_rate=3.0, **SMALL, iterations=40)
    assert solution.loss == min([e["loss"] for e in solution.history] + [solution.loss])
    assert solution.loss <= 1.0001  # that of the zero at the start


# --- arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "magic"}, "method must be one of two-step, adam, got 'magic'"),
        ({"physics": 1}, "physics must be True or False, got 1"),
        ({"functions": 1}, "functions must be an integer of at least 2, got 1"),
        ({"test_functions": -1}, "test_functions must be an integer of at least 0"),
        ({"iterations": 1.5}, "iterations must be an integer of at least 0, got 1.5"),
        ({"batch": 0}, "batch must be an integer of at least 1"),
        ({"polish": -1}, "polish must be an integer"),
        ({"trunk_iterations": True}, "trunk_iterations must be an integer"),
        ({"seed": "x"}, "seed must be an integer"),
        ({"learning_rate": 0}, "learning_rate must be positive, got 0"),
        ({"tolerance": -1}, "tolerance must be at least 0"),
        ({"ridge": math.inf}, "ridge must be at least 0, got inf"),
        ({"max_seconds": 0}, "max_seconds must be positive"),
    ],
)
def test_wrong_options_are_named(options, message):
    operator = get_operator("antiderivative")
    with pytest.raises(ValueError, match=message):
        train(operator, net_for(operator), **options)


def arrays(**changes):
    parts = {"inputs": torch.rand(4, 51), "outputs": torch.rand(4, 9), "points": torch.rand(9, 1)}
    return OperatorData(**(parts | changes))


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ("antiderivative", TypeError, "data must be an Operator or OperatorData, got str"),
        (get_operator("advection"), ValueError, "net has 51 sensors and operator 'advection' has 32"),
        (get_operator("heat", sensors=51), ValueError, "net is for the domain .* and operator 'heat' is posed on"),
        (arrays(inputs=torch.rand(4, 50)), ValueError, r"data.inputs must have shape \[functions, 51\], .*\(4, 50\)"),
        (arrays(inputs=torch.rand(0, 51)), ValueError, "data.inputs must have shape"),
        (arrays(outputs=torch.rand(4, 8)), ValueError, r"data.outputs must have shape \[4, 9\], .*, got \(4, 8\)"),
        (arrays(points=torch.rand(9)), ValueError, r"data.points must have shape \[points, 1\], got \(9,\)"),
        (arrays(points=torch.rand(9, 2)), ValueError, "data.points must have shape"),
        (arrays(points=2 + torch.rand(9, 1)), ValueError, "data.points must lie in the domain of the net"),
        (arrays(outputs=torch.full((4, 9), math.nan)), ValueError, "data.outputs must be finite"),
        (arrays(inputs=torch.ones(4, 51, dtype=torch.int64)), TypeError, "data.inputs must be a floating point tensor"),
        (arrays(inputs=[[1.0]]), TypeError, "data.inputs must be a floating point tensor, got list"),
    ],
)  # fmt: skip
def test_wrong_data_are_named(data, error, message):
    net = net_for(get_operator("antiderivative"))
    with pytest.raises(error, match=message):
        train(data, net)


def test_wrong_test_data_are_named():
    with pytest.raises(ValueError, match=r"test.outputs must have shape"):
        train(arrays(), net_for(get_operator("antiderivative")), test=arrays(outputs=torch.rand(4, 8)))


def test_physics_needs_equations():
    burgers = get_operator("burgers")
    with pytest.raises(ValueError, match="operator 'burgers' has no equations to train on"):
        train(burgers, net_for(burgers), physics=True)
    with pytest.raises(ValueError, match="physics needs an operator with equations as data"):
        train(arrays(), net_for(get_operator("antiderivative")), physics=True)
