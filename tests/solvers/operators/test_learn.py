"""Training: what it reaches, that it repeats, ends early and keeps the best, and its arguments."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from bumpnet_fast import BumpDeepONet, BumpNet
from bumpnet_fast.problems import get
from bumpnet_fast.problems.operators import Equation, Operator, OperatorData, get_operator
from bumpnet_fast.solvers import LBFGS, Adam, Method, Stop, learn, solve
from bumpnet_fast.solvers.operators import new_net

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
    solution = learn(operator, net)
    assert solution.parameters == parameters and solution.net is net
    assert solution.rel_l2 < error * (1 if dtype == "float64" or error > 1e-3 else 40)
    assert solution.projection_rel_l2 <= solution.rel_l2 * 1.01
    assert solution.seconds < 60 and solution.stop_reason in ("converged", "no further decrease")


def test_a_trunk_that_stalls_has_not_converged():
    operator = get_operator("antiderivative")
    solution = learn(operator, net_for(operator, 1), functions=50)
    assert solution.rel_l2 > 0.1 and solution.stop_reason == "stalled"


def test_the_errors_are_those_of_the_net():
    operator = get_operator("antiderivative")
    solution = learn(operator, net_for(operator), **SMALL)
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
    learn(operator, net, physics=True, **SMALL)
    monkeypatch.undo()
    data = operator.generate(50, seed=9)
    difference = torch.linalg.vector_norm(net(data.inputs, data.points) - data.outputs, dim=1)
    assert (difference / torch.linalg.vector_norm(data.outputs, dim=1)).mean() < error


def test_equations_in_space_and_time():
    operator = get_operator("heat", nu=0.003, grid=40, times=9)
    solution = learn(operator, net_for(operator, (10, 4)), physics=True, functions=300, trunk_iterations=30)
    assert solution.rel_l2 < 0.05


def test_adam_descends_on_data_and_on_equations():
    operator = get_operator("antiderivative")
    for physics in (False, True):
        start = learn(operator, net_for(operator), method="adam", physics=physics, **SMALL, iterations=0)
        end = learn(operator, net_for(operator), method="adam", physics=physics, **SMALL, iterations=300, polish=40)
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
        learn(operator, net_for(operator, branch=(16,)), physics=True, **SMALL)
    solution = learn(operator, net_for(operator, branch=(16,)), method="adam", physics=True, **SMALL, iterations=400)
    assert solution.rel_l2 < 0.15


def test_a_branch_that_is_not_linear_learns_more():
    operator = Logistic()
    linear = learn(operator, net_for(operator), **SMALL)
    solution = learn(operator, net_for(operator, branch=(24,)), **SMALL, iterations=1000)
    assert solution.projection_rel_l2 == pytest.approx(linear.projection_rel_l2)
    assert solution.rel_l2 < 0.5 * linear.rel_l2
    assert {e["stage"] for e in solution.history} == {"trunk", "branch"}


def test_a_branch_without_a_linear_end_is_trained_too():
    operator = get_operator("antiderivative")
    branch = nn.Sequential(nn.Linear(51, 8, dtype=torch.float64), nn.Identity())
    solution = learn(operator, net_for(operator, branch=branch), **SMALL, iterations=200)
    assert solution.loss < 0.9 and solution.net.branch is branch


def test_dropout_is_for_training_only():
    operator = get_operator("antiderivative")
    double = {"dtype": torch.float64}
    branch = nn.Sequential(nn.Linear(51, 40, **double), nn.Dropout(0.5), nn.Linear(40, 8, **double))
    net = net_for(operator, branch=branch)
    solution = learn(operator, net, **SMALL, iterations=30)
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
    learn(data, net, method="adam", iterations=300, learning_rate=0.05)
    bias = float(net.bias.detach())
    assert bias > 0.1
    solution = learn(data, net)
    assert float(net.bias.detach()) == bias and solution.rel_l2 < 1e-3


def test_arrays_of_ones_own():
    x = torch.rand(60, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    f = torch.randn(80, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    shapes = torch.stack([torch.sin(x[:, 0]), torch.cos(2 * x[:, 1]), x.prod(1)])
    data, test = OperatorData(f, f @ shapes, x).split(60)
    net = BumpDeepONet(3, 6, [[0.0, 0.0], [1.0, 1.0]], dtype="float64")
    solution = learn(data, net, test=test)
    assert solution.rel_l2 < 1e-2 and solution.operator is None and solution.test is test
    alone = learn(data, BumpDeepONet(3, 6, [[0.0, 0.0], [1.0, 1.0]], dtype="float64"))
    assert alone.test is None and alone.rel_l2 == alone.train_rel_l2


# --- course --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["two-step", "adam"])
def test_the_seed_decides(method):
    operator = get_operator("advection", sensors=16, grid=32)

    def rows(seed):
        return learn(operator, net_for(operator, 5, branch=(4,)), method=method, seed=seed, **FEW).net.state_dict()

    one, again, two = rows(1), rows(1), rows(2)
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert not torch.equal(one["rows"], two["rows"])


def test_history_and_progress():
    operator, seen = get_operator("antiderivative"), []
    solution = learn(operator, net_for(operator, branch=(6,)), **FEW, callback=seen.append)
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
    solution = learn(operator, net, method=method, **FEW, callback=interrupt_at(iteration))
    assert solution.stop_reason == "interrupted"
    assert iteration <= solution.iterations <= iteration + 2
    assert solution.rel_l2 < 0.9
    assert torch.isfinite(net(*solution.test[::2])).all() and float(solution.errors.mean()) == solution.rel_l2


def test_time_ends_it():
    operator = get_operator("antiderivative")
    for method in ("two-step", "adam"):
        solution = learn(operator, net_for(operator), method=method, **SMALL, iterations=10**6, max_seconds=0.05)
        assert solution.stop_reason in ("time", "converged") and solution.seconds < 30


def test_the_best_parameters_are_kept():
    operator = get_operator("antiderivative")
    solution = learn(operator, net_for(operator), method="adam", learning_rate=3.0, **SMALL, iterations=40)
    assert solution.loss == min([e["loss"] for e in solution.history] + [solution.loss])
    assert solution.loss <= 1.0001  # that of the zero at the start


def test_the_first_look_is_at_the_start():
    seen = []
    solution = learn(get_operator("antiderivative"), 5, method="adam", **FEW, callbacks=[seen.append])
    assert [p.iteration for p in seen] == [e["iteration"] for e in solution.history]
    assert solution.history[0]["iteration"] == 0 and len(solution.history) == 61
    assert all(e["rel_l2"] > 0 for e in solution.history) and seen[-1].share == 1


@pytest.mark.parametrize("iterations", [100, 1000])
def test_a_stage_of_gradient_steps_is_looked_at_forty_times(iterations):
    operator = get_operator("antiderivative")
    solution = learn(operator, net_for(operator, 4, branch=(3,)), **SMALL, trunk_iterations=3, iterations=iterations)
    looks = [e["iteration"] - 3 for e in solution.history if e["stage"] == "branch"]
    every = iterations // 40
    assert looks == [*range(every, iterations, every), iterations]


@pytest.mark.parametrize(("method", "branch"), [("two-step", None), ("two-step", (6,)), ("adam", (6,))])
def test_a_callback_gets_a_net_of_its_own(method, branch):
    operator, errors = get_operator("antiderivative"), []

    def callback(progress):
        net = progress.net()
        assert net is not own
        inputs, outputs, points = test
        difference = torch.linalg.vector_norm(net(inputs, points) - outputs, dim=1)
        found = float((difference / torch.linalg.vector_norm(outputs, dim=1)).mean())
        errors.append((found, progress.rel_l2))

    own, test = net_for(operator, branch=branch), operator.generate(130).split(100)[1]
    solution = learn(operator, own, method=method, test=test, **FEW, callback=callback)
    assert errors[-1][0] == pytest.approx(solution.rel_l2, rel=0.2)
    assert all(rel_l2 is None or rel_l2 == pytest.approx(found) for found, rel_l2 in errors)


@pytest.mark.parametrize("method", ["two-step", "adam"])
@pytest.mark.parametrize("iteration", [1, 40])
def test_an_error_leaves_a_net_that_is_the_best_so_far(method, iteration):
    operator, seen = get_operator("antiderivative"), []

    def callback(progress):
        seen.append(progress)
        if progress.iteration == iteration:
            raise MemoryError

    net = net_for(operator, branch=(6,))
    with pytest.raises(MemoryError):
        learn(operator, net, method=method, **FEW, callback=callback)
    data = operator.generate(130).split(100)[0]
    difference = (net(data.inputs, data.points) - data.outputs).detach()
    relative = torch.linalg.vector_norm(difference, dim=1) / torch.linalg.vector_norm(data.outputs, dim=1)
    stages = {p.entry["stage"] for p in seen}
    if stages != {"trunk"}:  # whose loss is not that of functions
        last = [p.loss for p in seen if p.entry["stage"] == seen[-1].entry["stage"]]
        assert float(relative.square().mean()) == pytest.approx(min(last), rel=1e-6)
    else:
        assert float(relative.mean()) < 0.5


def test_limits_of_the_stages():
    operator = get_operator("antiderivative")

    def taken(stop, **options):
        solution = learn(operator, net_for(operator, 4, branch=(3,)), **SMALL, stop=stop, **options)
        last = {e["stage"]: e["iteration"] for e in solution.history}
        return [last[stage] for stage in ("trunk", "branch", "lbfgs") if stage in last]

    assert taken(Stop(iterations=4)) == [4, 8]
    assert taken(Stop(iterations=(2, 5))) == [2, 7]
    assert taken(Stop(seconds=600), trunk_iterations=2, iterations=5) == [2, 7]
    assert taken(Stop(iterations=(2, 5, 3)), polish=1) == [2, 7, 10]
    assert taken(Stop(seconds=1e-9)) == [0]


def test_a_loss_that_is_not_finite_ends_it():
    operator = get_operator("antiderivative")
    solution = learn(operator, net_for(operator), method="adam", learning_rate=1e300, **FEW)
    assert solution.stop_reason == "diverged" and solution.loss == pytest.approx(1)
    assert all(torch.isfinite(p).all() for p in solution.net.parameters())


# --- the result ----------------------------------------------------------------------------------


def test_the_result_is_a_function_of_functions():
    operator = get_operator("heat", grid=12, times=5)
    solution = learn(operator, (3, 2), **FEW)
    assert solution.net.rows.dtype == torch.float64 and solution.net.periodic == (True, False)
    assert solution.problem is solution.operator is operator and solution.processor_seconds > 0
    inputs, _, points = solution.test
    u = solution(inputs, points)
    assert u.shape == (30, len(points)) and not u.requires_grad
    torch.testing.assert_close(u, solution.net(inputs, points).detach())
    torch.testing.assert_close(solution.predict(inputs.numpy(), points.tolist()), u)
    assert solution.predict(inputs.float(), points).dtype == torch.float32
    assert solution.predict(inputs.tolist(), points).dtype == torch.float64
    y = points.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(solution.predict(inputs[:1], y, grad=True).sum(), y)
    jet = solution.jet(inputs[:1], points)
    torch.testing.assert_close(jet.gradient[0].detach(), gradient)
    assert jet.second.shape == (1, len(points), 2, 2)


@pytest.mark.parametrize(
    ("f", "y", "error", "message"),
    [
        (torch.rand(51), [[0.5]], ValueError, r"f must have shape \[functions, 51\], got \(51,\)"),
        (torch.rand(2, 50), [[0.5]], ValueError, r"f must have shape \[functions, 51\]"),
        (torch.rand(2, 51, dtype=torch.complex64), [[0.5]], TypeError, "f must be of real numbers"),
        (torch.rand(2, 51), [0.5], ValueError, r"y must have shape \[points, 1\], got \(1,\)"),
        (torch.rand(2, 51), [[0.5, 0.5]], ValueError, "must have shape"),
    ],
)
def test_wrong_functions_and_points_are_named(f, y, error, message):
    solution = learn(get_operator("antiderivative"), 3, **FEW)
    with pytest.raises(error, match=message):
        solution.predict(f, y)


# --- nets ----------------------------------------------------------------------------------------


def test_nets_for_operators():
    linear, other = new_net(get_operator("advection")), new_net(get_operator("burgers"), (3,))
    assert linear.hidden == () and linear.periodic == (True,) and len(linear.rows) == 16
    assert other.hidden == (64,) and len(other.rows) == 3
    again = new_net(get_operator("burgers"), 3)
    assert torch.equal(again.branch[0].weight, other.branch[0].weight)
    assert not torch.equal(again.branch[0].weight, new_net(get_operator("burgers"), 3, seed=1).branch[0].weight)
    assert len(learn(get_operator("antiderivative"), **FEW).net.rows) == 8


@pytest.mark.parametrize(
    ("given", "net", "message"),
    [
        (get_operator("heat"), "heat", "net must be a BumpDeepONet, got str"),
        (get_operator("antiderivative"), BumpNet(1, 3), "net must be a BumpDeepONet, got BumpNet"),
        (OperatorData(torch.rand(4, 5), torch.rand(4, 9), torch.rand(9, 1)), 5, "net must be a BumpDeepONet where"),
        ("heat", 5, "operator_or_data must be an Operator"),
        (None, None, "operator_or_data must be an Operator, .* got NoneType"),
    ],
)
def test_wrong_kinds_are_named(given, net, message):
    with pytest.raises(TypeError, match=message):
        learn(given, net)


def test_a_net_that_is_not_finite_is_refused(tmp_path):
    operator = get_operator("antiderivative")
    net = net_for(operator)
    with torch.no_grad():
        net.branch.bias[2] = math.nan
    with pytest.raises(ValueError, match=r"its parameter 'branch\.bias' is not"):
        learn(operator, net, checkpoint=tmp_path / "run.pt")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("options", "message"), [
    ({"stop": Stop(iterations=5), "iterations": 7}, "iterations must go into stop"),
    ({"stop": Stop(iterations=5), "trunk_iterations": 7}, "trunk_iterations must go into stop"),
    ({"stop": Stop(seconds=5), "max_seconds": 7}, "max_seconds must go into stop"),
])  # fmt: skip
def test_a_limit_is_given_once(options, message):
    with pytest.raises(TypeError, match=message):
        learn(get_operator("antiderivative"), 4, **options)


def test_a_number_of_limits_that_is_wrong():
    with pytest.raises(ValueError, match="iterations must be a number or 1 numbers for 'trunk'"):
        learn(get_operator("antiderivative"), 4, stop=Stop(iterations=(3, 4)))


@pytest.mark.parametrize("name", ["trunk", "branch"])
def test_the_stages_are_no_methods_of_problems(name):
    with pytest.raises(ValueError, match="method must be of"):
        solve(get("poisson"), 4, method=name)
    assert Method.known["adam"] is Adam and Method.known["lbfgs"] is LBFGS


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
        learn(operator, net_for(operator), **options)


def arrays(**changes):
    parts = {"inputs": torch.rand(4, 51), "outputs": torch.rand(4, 9), "points": torch.rand(9, 1)}
    return OperatorData(**(parts | changes))


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ("antiderivative", TypeError, "operator_or_data must be an Operator, .* or OperatorData, got str"),
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
        learn(data, net)


def test_wrong_test_data_are_named():
    with pytest.raises(ValueError, match=r"test.outputs must have shape"):
        learn(arrays(), net_for(get_operator("antiderivative")), test=arrays(outputs=torch.rand(4, 8)))


def test_physics_needs_equations():
    burgers = get_operator("burgers")
    with pytest.raises(ValueError, match="operator 'burgers' has no equations to train on"):
        learn(burgers, net_for(burgers), physics=True)
    with pytest.raises(ValueError, match="physics needs an operator with equations as data"):
        learn(arrays(), net_for(get_operator("antiderivative")), physics=True)
