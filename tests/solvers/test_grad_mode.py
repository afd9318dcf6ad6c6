"""Solvers give the same, to the last bit, whatever mode of gradients their caller is in."""

import pytest
import torch
from torch import nn

from bumpnet_fast import BumpDeepONet, BumpNet
from bumpnet_fast.io import resume
from bumpnet_fast.problems import Condition, get
from bumpnet_fast.problems.evolution import Burgers
from bumpnet_fast.problems.operators import OperatorData, get_operator
from bumpnet_fast.solvers import evolve, grow, learn, march, prune, solve, train, uniform_net
from bumpnet_fast.solvers.grad_mode import ordinary
from bumpnet_fast.solvers.strategies import removal_costs


def poisson():
    problem = get("poisson")
    return problem, BumpNet(2, (3, 3), problem.domain, dtype="float64")


def rows_of(solver, *arguments, **options):
    problem, net = poisson()
    points = torch.rand(200, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    solution = solver(problem, net, *arguments, **options | ({"points": points} if "points" in options else {}))
    assert solution.net is net, "it is trained in place"
    return [net.rows, solution.predict(points)]


def marched():
    return [march(get("advection"), (3, 3), windows=2, iterations=3, perturb=0.1, graded=0.3).net.rows]


def evolved(**options):
    problem = Burgers(nu=0.1, final_time=0.4)
    return [evolve(problem, uniform_net(problem, 8), times=2, measure=False, **options).states]


def operator(**options):
    problem = get_operator("antiderivative", sensors=11)
    net = BumpDeepONet(11, 5, problem.domain, dtype="float64", **options.pop("net", {}))
    given = problem if options.get("physics") else problem.generate(40)
    solution = learn(given, net, functions=40, test_functions=5, iterations=5, trunk_iterations=3, **options)
    return [*net.parameters(), solution.errors]


def measured():
    """A condition whose points and values are tensors of the caller's."""
    problem, net = poisson()
    at, values = torch.rand(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), torch.ones(7, 1)
    condition = Condition("probes", lambda counts: at, lambda x, u: u.value * x[:, :1] - values)
    problem.side_conditions = lambda: [condition]
    train(problem, net, iterations=4)
    return [net.rows]


def costs():
    problem, net = poisson()
    return [removal_costs(solve(problem, net, iterations=2))]


RUNS = {
    "solve": lambda: rows_of(solve, iterations=3, points=None),
    "lm": lambda: rows_of(solve, iterations=3, method="lm"),
    "refined": lambda: rows_of(solve, iterations=4, refine=1),
    "adam": lambda: rows_of(train, iterations=10, points=None),
    "batches": lambda: rows_of(train, iterations=10, batch=50),
    "pruned": lambda: rows_of(train, iterations=20, prune_threshold=0.01, prune_every=5),
    "chain": lambda: rows_of(train, iterations=4, method="varpro-adam+lbfgs"),
    "condition": measured,
    "march": marched,
    "evolve": evolved,
    "moving": lambda: evolved(shapes="evolve", initial_shapes="uniform", step=0.2),
    "prune": lambda: rows_of(prune, 6, iterations=3),
    "grow": lambda: rows_of(grow, 11, iterations=3),
    "costs": costs,
    "operator": operator,
    "operator by adam": lambda: operator(method="adam", polish=2),
    "operator by equations": lambda: operator(method="adam", physics=True),
}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_a_run_does_not_hang_on_the_mode_of_its_caller(run, mode):
    wanted = run()
    with mode():
        found = run()
        assert not torch.is_grad_enabled() and torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
    assert all(torch.equal(a, b) for a, b in zip(wanted, found, strict=True))


@pytest.mark.parametrize("solver", [solve, train])
def test_a_run_goes_on_in_inference_mode(solver, tmp_path):
    problem, net = poisson()
    whole = solver(problem, net, iterations=8)
    problem, net = poisson()
    solver(problem, net, iterations=8, checkpoint=tmp_path / "run.pt", callback=_interrupting(4))
    with torch.inference_mode():
        again = resume(tmp_path / "run.pt")
    assert again.iterations == whole.iterations and torch.equal(again.net.rows, whole.net.rows)


def _interrupting(at):
    def callback(progress):
        if progress.iteration >= at:
            raise KeyboardInterrupt

    return callback


def test_a_net_that_was_made_in_inference_mode_can_be_trained():
    with torch.inference_mode():
        problem, net = poisson()
        train(problem, net, iterations=2)
    assert not any(t.is_inference() for t in (net.rows, net.frame, net.domain)) and net.rows.requires_grad
    net(torch.zeros(1, 2, dtype=torch.float64)).sum().backward()
    assert net.rows.grad is not None


def test_what_allows_gradients_is_left_alone():
    net = BumpNet(2, 4)
    rows, x = net.rows, torch.rand(3)
    assert ordinary(net) is net and net.rows is rows and ordinary(x) is x and ordinary("adam") == "adam"
    data = OperatorData(x, x, x)
    assert ordinary(data) is data
    with torch.inference_mode():
        made = OperatorData(x, x, x + 1)
    assert not ordinary(made).points.is_inference() and torch.equal(ordinary(made).points, x + 1)
    with torch.inference_mode():
        shared = nn.Linear(2, 2)
        both = nn.Sequential(shared, nn.ReLU(), nn.Linear(2, 2))
        both[2].weight = shared.weight
        both[2].bias.requires_grad_(False)
    ordinary(both)
    assert both[2].weight is both[0].weight and [p.requires_grad for p in both.parameters()] == [True, True, False]
    assert not any(p.is_inference() for p in both.parameters())
