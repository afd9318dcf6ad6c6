"""Adam, Adam with exact amplitudes and L-BFGS: errors reached, chains, pruning, batches, how it ends."""

import math
from dataclasses import dataclass
from types import MappingProxyType

import pytest
import torch
from cases import Cubic, Rotation

from bumpnet_fast import BumpNet
from bumpnet_fast.problems import Problem, get
from bumpnet_fast.solvers import LBFGS, VarProAdam, solve, train
from bumpnet_fast.solvers.elimination import Separable
from bumpnet_fast.solvers.objective import Objective, RowsObjective
from bumpnet_fast.solvers.task import Task


def net_for(problem, bumps=(4, 4), dtype="float64", seed=0):
    bumps = bumps if len(problem.lower) == 2 else 8
    net = BumpNet(len(problem.lower), bumps, problem.domain, problem.outputs, dtype=dtype)
    return net.perturb_(0.02, torch.Generator().manual_seed(seed))


def run(problem, net=None, **options):
    net = net_for(problem) if net is None else net
    return train(problem, net, **({"points": 200} | options))


@dataclass
class Decay(Problem):
    """u' + rate u = 0, u(0) = 1 with an unknown rate, u = exp(-2 x) given at a few points."""

    name, want, time = "decay", "gradient", 0
    lower: tuple = (0.0,)
    upper: tuple = (1.0,)
    unknowns = MappingProxyType({"rate": 0.5})

    def residual(self, x, u, rate):
        return torch.cat([u.d(0) + rate * u.value, 3 * (u.value - self.exact(x)[:, None])], 1)

    def boundary_values(self, x):
        return torch.ones_like(x[:, 0])

    def exact(self, x):
        return torch.exp(-2 * x[:, 0])


# --- what is reached -----------------------------------------------------------------------------


@pytest.mark.parametrize(("problem", "method", "options", "error"), [
    (get("poisson"), "adam", {"iterations": 400, "learning_rate": 0.03}, 3e-2),
    (get("poisson"), "varpro-adam", {"iterations": 100}, 2e-3),
    (get("poisson"), "lbfgs", {"iterations": 200}, 1e-3),
    (get("poisson"), "adam+lbfgs", {"iterations": (200, 150)}, 1e-3),
    (get("poisson"), "varpro-adam+lbfgs", {"iterations": (50, 100)}, 1e-3),
    (get("poisson"), "lbfgs", {"iterations": 200, "boundary": "soft"}, 1e-1),
    (Cubic(), "adam+lbfgs", {"iterations": (200, 200), "learning_rate": 0.03}, 1e-2),
    (Rotation(), "lbfgs", {"iterations": 200}, 1e-2),
    (Rotation(), "varpro-adam", {"iterations": 60}, 2e-3),
], ids=str)  # fmt: skip
def test_errors_that_are_reached(problem, method, options, error):
    solution = run(problem, method=method, **options)
    assert solution.rel_l2 < error and math.isfinite(solution.max_error)
    assert solution.method == method and solution.stop_reason == "iterations"


@pytest.mark.parametrize("boundary", ["hard", "soft"])
def test_the_loss_is_that_of_the_second_order_solver(boundary):
    problem, net = get("poisson"), net_for(get("poisson"))
    solved = solve(problem, net, points=200, iterations=3, ridge=0.0, boundary=boundary)
    task = Task(problem, net, boundary).collocate(200)
    task.balance = solved.places.balance  # of the start
    assert task.loss() == pytest.approx(solved.loss, rel=1e-6)
    if boundary == "hard":
        assert run(problem, net, iterations=0, boundary=boundary).loss == pytest.approx(solved.loss, rel=1e-6)


def test_the_solution_is_the_net_with_the_best_rows():
    problem = get("helmholtz", a1=1, a2=1)
    net = net_for(problem)
    solution = run(problem, net, iterations=30, learning_rate=1.0, log_every=1)
    assert solution.net is net
    losses = [entry["loss"] for entry in solution.history]
    assert solution.loss == min(losses) < losses[-1]  # such steps overshoot
    assert run(problem, net, iterations=0).loss == pytest.approx(solution.loss, rel=1e-12)


def test_the_history():
    told = []
    solution = run(get("poisson"), method="adam+lbfgs", iterations=(25, 12), log_every=5, callback=told.append)
    assert [e["iteration"] for e in solution.history] == [0, 5, 10, 15, 20, 25, 30, 35, 37]
    assert [e["stage"] for e in solution.history] == ["adam"] * 6 + ["lbfgs"] * 3
    assert {e["bumps"] for e in solution.history} == {16}
    assert [e["iteration"] for e in solution.history if "rel_l2" in e] == [0, 25, 37]
    assert [(p.iteration, p.loss) for p in told] == [(e["iteration"], e["loss"]) for e in solution.history]
    seconds = [e["seconds"] for e in solution.history]
    assert seconds == sorted(seconds) and solution.seconds >= seconds[-1]
    assert solution.iterations == 37


def test_one_number_of_iterations_is_for_every_stage():
    assert run(get("poisson"), method="adam+lbfgs", iterations=7).iterations == 14


def test_float32_stays_float32():
    problem = get("poisson")
    for method, error in (("adam", 0.2), ("varpro-adam", 1e-2)):
        net = net_for(problem, dtype="float32")
        solution = run(problem, net, method=method, iterations=60, learning_rate=0.03)
        assert net.rows.dtype == torch.float32 and solution.rel_l2 < error


def test_unknowns_are_found():
    problem = Decay()
    solution = run(problem, method="adam+lbfgs", iterations=(100, 150), learning_rate=0.03)
    assert solution.unknowns["rate"] == pytest.approx(2.0, abs=1e-2) and solution.rel_l2 < 1e-3


# --- variable projection -------------------------------------------------------------------------


@pytest.mark.parametrize("boundary", ["hard", "soft"])
@pytest.mark.parametrize("problem", [get("helmholtz", a1=1, a2=1), Rotation()], ids=str)
def test_the_gradient_with_exact_amplitudes_is_that_of_the_least_loss(problem, boundary):
    net = net_for(problem)
    task = Task(problem, net, boundary).collocate(200)
    with torch.no_grad():
        model = Separable(task.system, 0.0)

    method = VarProAdam(learning_rate=1e-12, ridge=0.0)
    method.start(task, 1)
    shapes = net.rows.detach()[:, : net.layout.shape_columns].flatten().clone()
    method.step(1)
    gradient = net.rows.grad[:, : net.layout.shape_columns].flatten() / method.scale
    assert net.rows.grad[:, net.layout.amplitude].abs().max() == 0
    assert method.loss() == pytest.approx(model.evaluate(shapes).loss)
    v = torch.randn(len(shapes), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        ahead, behind = (model.evaluate(shapes + sign * 1e-6 * v).loss for sign in (1, -1))
    assert float(gradient @ v) == pytest.approx((ahead - behind) / 2e-6, rel=1e-4)


@pytest.mark.parametrize("problem", [Cubic(), Decay()], ids=["cubic", "decay"])
def test_exact_amplitudes_need_a_linear_problem(problem):
    with pytest.raises(ValueError, match=r"is nonlinear in u or its unknowns, which 'varpro-adam' cannot do"):
        run(problem, method="varpro-adam")


# --- L-BFGS --------------------------------------------------------------------------------------


def test_lbfgs_ends_where_no_step_decreases_the_loss():
    problem = get("poisson")
    net = net_for(problem, (2, 2), dtype="float32")
    solution = run(problem, net, method="lbfgs", iterations=10_000)
    assert solution.stop_reason == "no further decrease" and solution.iterations < 10_000
    assert solution.loss == min(entry["loss"] for entry in solution.history)


def test_lbfgs_survives_rows_that_overflow_on_the_way():
    """A line search that meets a NaN must not take it for a success."""
    net, beyond = BumpNet(1, 4, dtype="float64"), []

    class Cliff(Objective):
        parameters = [net.rows]

        def loss(self):
            total = net.rows[:, 0].sum()
            beyond.append(float(total.detach()) > 3.2)
            loss = (total - 3).abs() ** 1.5  # from afar, a quadratic model steps twice as far as it should
            return loss * (math.nan if beyond[-1] else 1.0)

        def backward(self, whole=False, scale=1.0):
            loss = scale * self.loss()
            loss.backward()
            return loss.detach()

        def observe(self):
            return float(self.loss().detach())

    class Work:
        generation = 0

        def objective(self, batch):
            return Cliff()

    method = LBFGS()
    method.start(Work(), 20)
    before = method.loss()
    for _ in range(4):
        method.step(5)
    assert any(beyond) and method.loss() < 1e-3 * before


# --- batches -------------------------------------------------------------------------------------


def test_batches_are_reproducible_by_seed():
    options = {"iterations": 60, "batch": 50, "learning_rate": 0.03}
    first, again, other = (run(get("poisson"), seed=seed, **options) for seed in (0, 0, 1))
    assert torch.equal(first.net.rows, again.net.rows)
    assert not torch.equal(first.net.rows, other.net.rows)
    assert first.rel_l2 < 0.5


def test_a_batch_as_large_as_the_points_is_all_of_them():
    whole, batch = (run(get("poisson"), iterations=20, batch=batch) for batch in (None, 10_000))
    assert torch.equal(whole.net.rows, batch.net.rows)


@pytest.mark.parametrize("batch", [None, 64])
def test_points_are_drawn_anew(batch):
    options = {"iterations": 40, "sampling": "sobol", "learning_rate": 0.03, "batch": batch}
    still, moving, again = (run(get("poisson"), resample=k, **options) for k in (None, 7, 7))
    assert torch.equal(moving.net.rows, again.net.rows)
    assert not torch.equal(moving.net.rows, still.net.rows)


def test_an_epoch_takes_every_point_once():
    problem, net = get("poisson"), net_for(get("poisson"))
    task = Task(problem, net, "soft").collocate((10, 10), seed=3)
    objective = RowsObjective(task, 30)
    for _ in range(2):
        seen = [objective.next() for _ in range(4)]
        points = torch.cat([system.blocks[0].x for system in seen])
        assert {len(system.blocks[0].x) for system in seen} == {25}
        assert sorted(map(tuple, points.tolist())) == sorted(map(tuple, task.x.tolist()))
    mean = sum(float(objective.backward_of(system)) for system in seen) / 4
    assert mean == pytest.approx(objective.observe()) == pytest.approx(task.loss())


# --- pruning -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["adam", "varpro-adam", "adam+lbfgs"])
def test_pruning_on_the_way(method):
    problem = get("poisson")
    net = net_for(problem)
    options = {"iterations": 60, "learning_rate": 0.03, "prune_threshold": 0.97, "prune_every": 20, "prune_least": 6}
    solution = run(problem, net, method=method, **options)
    assert solution.events and all(e.kind == "prune" and e.step in (20, 40) for e in solution.events)
    assert 6 <= len(net.rows) == solution.events[-1].after < 16
    after = {e["iteration"]: e["bumps"] for e in solution.history}
    assert after[10] == 16 and after[60] == len(net.rows)
    last = solution.events[-1].step
    assert solution.loss == min(e["loss"] for e in solution.history if e["iteration"] > last)
    assert run(problem, net, iterations=0).loss == pytest.approx(solution.loss, rel=1e-12)


# --- how it ends ---------------------------------------------------------------------------------


def test_it_ends_by_time():
    solution = run(get("poisson"), iterations=10**6, max_seconds=2.0)
    assert solution.stop_reason == "time" and 0 < solution.iterations < 10**6


def test_a_diverged_run_keeps_the_best_rows():
    class Cliff(type(get("poisson"))):
        calls = 0

        def residual(self, x, u):
            Cliff.calls += 1
            return super().residual(x, u) * (math.nan if Cliff.calls > 25 else 1.0)

    solution = run(Cliff(), iterations=100, log_every=5)
    assert solution.stop_reason == "diverged" and 10 <= solution.iterations <= 25
    assert torch.isfinite(solution.net.rows).all() and math.isfinite(solution.loss)
    assert math.isnan(solution.history[-1]["loss"])
