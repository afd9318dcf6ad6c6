"""The baselines are what they say: exact derivatives and periods, and a training that ends when it has converged."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import deeponet
import mlp_ednn
import mlp_pinn
import training

from bumpnet_fast import Jet, problems
from bumpnet_fast.problems.evolution import get_evolution


@pytest.mark.parametrize("want", ["value", "gradient", "diagonal", "hessian", "laplacian"])
@pytest.mark.parametrize("name", ["kovasznay", "allen-cahn"])  # three outputs; a period
def test_derivatives_through_the_layers_are_those_of_autograd(name, want):
    problem = problems.get(name)
    net = mlp_pinn.Perceptron(problem, 3, 7)
    x = torch.rand(5, 2, dtype=torch.float64)
    jet = net.jet(x, want)
    expected = Jet.of(lambda x: net.through(Jet("value", net.features(x))).value, x, want)
    for part, wanted in zip(jet.parts(), expected.parts(), strict=True):
        torch.testing.assert_close(part, wanted, rtol=1e-12, atol=1e-12)


def test_periods_and_starts_are_exact():
    problem = mlp_pinn.naturally_periodic(problems.get("advection"))
    part = mlp_pinn.Part(problem, mlp_pinn.Perceptron(problem, 2, 9), "hard")
    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    left, right = (part.jet(torch.stack([torch.full_like(t, x), t], 1), "gradient") for x in (0.0, 2 * math.pi))
    torch.testing.assert_close(left.value, right.value, rtol=0, atol=1e-14)
    torch.testing.assert_close(left.gradient, right.gradient, rtol=0, atol=1e-13)
    x = torch.linspace(0, 6, 5, dtype=torch.float64)
    start = part.jet(torch.stack([x, torch.zeros_like(x)], 1), "value").value
    torch.testing.assert_close(start[:, 0], torch.sin(x), rtol=0, atol=1e-14)


def report_of(main, capsys, *words):
    assert main([*words]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["processor_seconds"] > 0 and report["seconds"] > 0
    return report


def test_a_perceptron_learns_poisson(capsys):
    words = ["poisson", "--layers", "2", "--width", "12", "--adam", "200", "--seconds", "3", "--points", "300"]
    report = report_of(mlp_pinn.main, capsys, *words)
    assert report["rel_l2"] < 3e-3 and report["parameters"] == 36 + 156 + 13 and report["boundary"] == "hard"
    assert report["adam"] == 200 and report["stop_reason"] in ("converged", "stopped at the cap")


def test_windows_go_on_from_one_another(capsys):
    words = ["advection", "--windows", "2", "--layers", "1", "--width", "8", "--adam", "20", "--seconds", "0.2"]
    report = report_of(mlp_pinn.main, capsys, *words)
    assert report["windows"] == 2 and report["parameters"] == 2 * report["parameters_per_window"]
    assert report["stop_reason"] == "stopped at the cap in 2 of 2 windows" and math.isfinite(report["rel_l2"])


def line(rate=1e-2, seconds=60.0, **more):
    net = torch.nn.Linear(1, 1, dtype=torch.float64)
    x = torch.linspace(0, 1, 9, dtype=torch.float64)[:, None]

    def loss():
        return (net(x) - 2 * x - 1).square().mean() + 1e-3

    return net, training.train(net, loss, adam=10, rate=rate, seconds=seconds, **more)


def test_training_ends_when_it_has_converged():
    net, said = line()
    assert said["stop_reason"] == "converged" and said["loss"] == pytest.approx(1e-3, rel=1e-9)
    assert net.weight.item() == pytest.approx(2) and said["adam"] == 10 and said["lbfgs"] > 0


def test_training_ends_at_the_cap():
    assert line(seconds=1e-9)[1]["stop_reason"] == "stopped at the cap"


def test_the_weights_that_are_best_elsewhere_stay():
    errors = iter([3.0, 1.0, 2.0, *[5.0] * 1000])
    net, seen = None, []

    def error():
        seen.append(1)
        return next(errors)

    torch.manual_seed(0)
    net, said = line(error=error)
    assert len(seen) >= 3
    assert said["loss"] > 0 and net.weight.item() == pytest.approx(2, abs=1e-3)  # after the first round of L-BFGS


def test_a_deeponet_learns(capsys):
    words = ["antiderivative", "--linear", "--adam", "100", "--seconds", "1"]
    report = report_of(deeponet.main, capsys, *words)
    assert report["parameters"] == 51_381 and report["rel_l2"] < 0.5


def test_an_ednn_on_a_perceptron_follows_heat():
    problem = get_evolution("heat")
    net = mlp_ednn.Perceptron(2 * math.pi)
    x = 2 * math.pi * torch.arange(64, dtype=torch.float64) / 64
    assert net.fit(x, problem.initial(x[:, None]).flatten(), 30) < 1e-3 and len(net.weights) == 921
    exact = problem.exact(x[:, None], problem.final_time)
    assert mlp_ednn._error(net, x, problem, 20, exact) < 1e-2
