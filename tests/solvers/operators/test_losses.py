"""Losses and optimisers."""

import pytest
import torch

from bumpnet_fast import BumpDeepONet
from bumpnet_fast.problems.operators import get_operator
from bumpnet_fast.solvers.loop import Run, Stop, Work
from bumpnet_fast.solvers.operators import gradient
from bumpnet_fast.solvers.operators.fit import fit_to_data, fit_to_equations
from bumpnet_fast.solvers.operators.task import Adam, Polish


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


def trained(method, net, objective, iterations):
    """The losses at the looks of a run of one stage."""
    work = OneLoss(net, objective)
    run = Run(work, [method], Stop(iterations=iterations))
    with torch.no_grad():
        run.follow()
    return [entry["loss"] for entry in run.history], run.done


class OneLoss(Work):
    generation = 0

    def __init__(self, net, objective):
        self.net, self.objective = net, lambda batch: objective

    def snapshot(self):
        return {"rows": self.net.rows.detach().clone()}

    def put_back(self, best):
        self.net.rows.copy_(best["rows"])


@pytest.mark.parametrize("batch", [3, 100])
def test_adam_follows_its_seed_and_descends(batch):
    operator, _, mix = posed()
    data, results = operator.generate(20), []
    for seed in (1, 1, 2):
        _, net, _ = posed()
        loss = gradient.data_loss(net, mix, data)
        objective = gradient.FunctionsObjective(loss, net, 20, batch, seed)
        losses, done = trained(Adam(learning_rate=1e-3, log_every=30), net, objective, 30)
        results.append(net.rows.detach())
        assert losses[-1] < losses[0] and done == 30
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2]) == (batch == 100)


def test_batches_are_drawn_without_replacement():
    objective = gradient.FunctionsObjective(None, torch.nn.Linear(1, 1), 7, 5)
    drawn = [objective.next().tolist() for _ in range(20)]
    assert all(len(set(batch)) == 5 and set(batch) <= set(range(7)) for batch in drawn)
    assert {index for batch in drawn for index in batch} == set(range(7)) and drawn[0] != drawn[1]
    again = gradient.FunctionsObjective(None, torch.nn.Linear(1, 1), 7, 5, seed=4)
    again.load_state_dict(objective.state_dict())
    assert again.next().tolist() == objective.next().tolist()


def test_lbfgs_descends_in_rounds():
    operator, net, mix = posed()
    objective = gradient.FunctionsObjective(gradient.data_loss(net, mix, operator.generate(20)), net, 20)
    values, done = trained(Polish(log_every=20), net, objective, 60)
    assert len(values) == 4 and values == sorted(values, reverse=True) and values[-1] < 0.1 * values[0]
    assert done == 60


def test_the_end_of_a_stage_is_told():
    left, net = [], torch.nn.Linear(1, 1)
    objective = gradient.FunctionsObjective(None, net, 7, leave=lambda: left.append(1))
    objective.finish()
    gradient.FunctionsObjective(None, net, 7).finish()
    assert left == [1]
