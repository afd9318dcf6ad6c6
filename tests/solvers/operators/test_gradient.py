"""Losses and optimisers."""

import pytest
import torch

from bumpnet_fast import BumpDeepONet
from bumpnet_fast.problems.operators import get_operator
from bumpnet_fast.solvers.operators import gradient
from bumpnet_fast.solvers.operators.fit import fit_to_data, fit_to_equations


def posed():
    operator = get_operator("antiderivative")
    net = BumpDeepONet(operator.sensors, 5, operator.domain, dtype="float64")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        net.branch.weight.copy_(0.01 * torch.randn(net.branch.weight.shape, generator=generator, dtype=torch.float64))
    return operator, net, torch.eye(5, dtype=torch.float64)


def test_the_data_loss_is_the_mean_squared_relative_error():
    operator, net, mix = posed()
    data = operator.generate(6)
    difference = torch.linalg.vector_norm(net(data.inputs, data.points) - data.outputs, dim=1)
    wanted = (difference / torch.linalg.vector_norm(data.outputs, dim=1)).square()
    loss = gradient.data_loss(net, mix, data)
    torch.testing.assert_close(loss(slice(None)), wanted.mean())
    torch.testing.assert_close(loss(torch.tensor([4, 1])), wanted[[4, 1]].mean())
    A = net.basis(data.points).value
    torch.testing.assert_close(gradient.branch_loss(net, A, fit_to_data(net, data))(slice(None)), wanted.mean())


def test_the_physics_loss_is_the_residual_of_the_equations():
    operator, net, mix = posed()
    f = operator.inputs(6)
    fit = fit_to_equations(net, operator, f)
    rows = net.coefficients(fit.inputs) @ fit.design(net, net.rows.detach())[0].T - fit.targets
    size = f.square().mean(1).sqrt()
    wanted = (rows.square().sum(1) / size**2).mean()
    loss = gradient.physics_loss(net, mix, operator, f)
    torch.testing.assert_close(loss(slice(None)), wanted)
    loss(slice(None)).backward()
    assert net.rows.grad.abs().sum() > 0


@pytest.mark.parametrize("batch", [3, 100])
def test_adam_follows_its_seed_and_descends(batch):
    operator, _, mix = posed()
    data, results = operator.generate(20), []
    for seed in (1, 1, 2):
        _, net, _ = posed()
        loss = gradient.data_loss(net, mix, data)
        before, parameters = float(loss(slice(None)).detach()), list(net.parameters())
        adam = gradient.Adam(loss, parameters, 20, 30, 1e-3, batch, seed)
        assert [(adam.step(), adam.left) for _ in range(30)] == [(1, left) for left in range(29, -1, -1)]
        results.append(net.rows.detach())
        assert float(loss(slice(None)).detach()) < before
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2]) == (batch == 100)


def test_lbfgs_descends_in_rounds():
    operator, net, mix = posed()
    loss = gradient.data_loss(net, mix, operator.generate(20))
    values = [float(loss(slice(None)).detach())]
    lbfgs = gradient.Lbfgs(loss, list(net.parameters()), 3 * gradient.ROUND)
    while lbfgs.left > 0:
        assert lbfgs.step() == gradient.ROUND
        values.append(float(loss(slice(None)).detach()))
    assert len(values) == 4 and values == sorted(values, reverse=True) and values[-1] < 0.1 * values[0]
