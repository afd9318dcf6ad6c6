"""Pictures of operators show what they say."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from bumpnet_fast import BumpDeepONet
from bumpnet_fast.io import load, save
from bumpnet_fast.plotting import operator_figure
from bumpnet_fast.problems.operators import OperatorData, get_operator
from bumpnet_fast.solvers import learn


def solved(name="antiderivative", bumps=6, **settings):
    operator = get_operator(name, **settings)
    periodic = (operator.periodic, False)[: len(operator.domain[0])]
    net = BumpDeepONet(operator.sensors, bumps, operator.domain, periodic=periodic, dtype="float64")
    return learn(operator, net, functions=50, test_functions=21, trunk_iterations=2)


def axes_of(figure):
    return {axes.get_label(): axes for axes in figure.axes}


def test_curves_are_the_functions_of_their_ranks(tmp_path):
    solution = solved()
    axes = axes_of(operator_figure(solution))
    for name, rank in (("typical", 10), ("hard", 18), ("worst", 20)):
        index = solution.errors.argsort()[rank]
        prediction, truth = (line.get_ydata() for line in axes[name].lines)
        test = solution.test
        np.testing.assert_allclose(truth, test.outputs[index])
        np.testing.assert_allclose(prediction, solution.net(test.inputs[index, None], test.points)[0].detach())
    assert len(axes["bumps"].lines) == 6
    assert all(line.get_ydata().max() == pytest.approx(1) for line in axes["bumps"].lines)
    figure = operator_figure(solution)
    figure.savefig(tmp_path / "operator.png")
    assert (tmp_path / "operator.png").stat().st_size > 10_000
    assert not plt.get_fignums()


def test_the_histogram_counts_every_function():
    solution = solved()
    axes = axes_of(operator_figure(solution))["errors"]
    assert sum(bar.get_height() for bar in axes.patches) == 21
    assert axes.lines[0].get_xdata()[0] == solution.rel_l2
    assert "21 test functions" in axes.get_title()


def test_functions_of_two_coordinates_are_pictures():
    solution = solved("heat", (3, 2), grid=12, times=5)
    axes = axes_of(operator_figure(solution))
    assert {"prediction", "truth", "error", "errors", "bumps", "convergence"} <= axes.keys()
    index = solution.errors.argsort()[10]
    np.testing.assert_allclose(axes["truth"].collections[0].get_array(), solution.test.outputs[index])


def test_arrays_without_test_functions_are_drawn_too():
    x, f = torch.linspace(0, 1, 30)[:, None], torch.randn(9, 4)
    f[0] = 0  # a function that is zero, with an error of zero
    data = OperatorData(f, f[:, :1] * x.T, x)
    solution = learn(data, BumpDeepONet(4, 3, [[0.0], [1.0]]), trunk_iterations=2)
    assert "9 training functions" in axes_of(operator_figure(solution))["errors"].get_title()


@pytest.mark.parametrize(("bumps", "domain"), [(3, [[0.0], [1.0]]), (4, [[0.0, 0.0], [1.0, 2.0]])])
def test_a_net_alone_shows_its_bumps(bumps, domain, tmp_path):
    save(tmp_path / "model.pt", BumpDeepONet(5, bumps, domain))
    figure = operator_figure(load(tmp_path / "model.pt"))
    figure.savefig(tmp_path / "operator.png")
    assert axes_of(figure).keys() - {"", "<colorbar>"} == {"bumps"} and f"{bumps} bumps" in figure.get_suptitle()


def test_three_coordinates_cannot_be_drawn():
    x, f = torch.rand(30, 3), torch.randn(9, 4)
    data = OperatorData(f, f[:, :1] * x.sum(1), x)
    solution = learn(data, BumpDeepONet(4, 3, [[0.0] * 3, [1.0] * 3]), trunk_iterations=2)
    with pytest.raises(ValueError, match="only functions of one or two coordinates can be drawn, got 3"):
        operator_figure(solution)
