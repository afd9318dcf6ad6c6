"""The branch: coordinates, its last layer, and the ridge that cross-validation chooses."""

import torch
from torch import nn

from bumpnet_fast import BumpDeepONet
from bumpnet_fast.solvers.operators.branch import (
    coordinates,
    enter_coordinates,
    last_layer,
    leave_coordinates,
    ridge_regression,
)


def overlapping(bumps=8):
    net = BumpDeepONet(5, bumps, [[0.0], [1.0]], dtype="float64", branch=(4,))
    nn.init.normal_(net.branch[-1].weight)
    y = torch.linspace(0, 1, 40, dtype=torch.float64)[:, None]
    return net, y, net.basis(y).value.detach()


def test_coordinates_are_orthonormal_combinations():
    _, _, Psi = overlapping()
    functions, mix = coordinates(Psi, 1e-16)
    torch.testing.assert_close(functions.T @ functions / 40, torch.eye(8, dtype=torch.float64), rtol=0, atol=1e-6)
    torch.testing.assert_close(Psi @ mix.T, functions, rtol=0, atol=1e-6)


def test_a_change_of_coordinates_changes_no_function_and_is_undone():
    net, y, Psi = overlapping()
    f = torch.randn(3, 5, dtype=torch.float64)
    before, weight = net(f, y).detach(), net.branch[-1].weight.detach().clone()
    _, mix = coordinates(Psi, 1e-16)
    mixed = enter_coordinates(net, mix)
    assert not torch.allclose(net.branch[-1].weight, weight)
    inside = net.combine(net.coefficients(f) @ mixed, y).value
    torch.testing.assert_close(inside, before, rtol=0, atol=1e-8)
    leave_coordinates(net, mixed)
    torch.testing.assert_close(net.branch[-1].weight, weight, rtol=0, atol=1e-8)


def test_a_branch_that_ends_otherwise_keeps_its_amplitudes():
    net = BumpDeepONet(5, 3, [[0.0], [1.0]], branch=nn.Sequential(nn.Linear(5, 3), nn.Tanh()), dtype="float64")
    mixed = enter_coordinates(net, torch.randn(3, 3, dtype=torch.float64))
    assert torch.equal(mixed, torch.eye(3, dtype=torch.float64))
    leave_coordinates(net, mixed)  # and there is nothing to undo


def test_last_layers():
    linear, mlp = nn.Linear(2, 3), nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3))
    assert last_layer(linear)[1] is linear
    body, last = last_layer(mlp)
    x = torch.randn(5, 2)
    assert last is mlp[-1] and torch.equal(last(body(x)), mlp(x))
    assert last_layer(mlp[:2])[1] is None and last_layer(nn.Sequential())[1] is None


def test_cross_validation_finds_a_ridge_for_noise_and_none_without():
    generator = torch.Generator().manual_seed(0)
    x = torch.linspace(0, 1, 30, dtype=torch.float64)
    kernel = torch.exp(-((x[:, None] - x) ** 2) / 0.08)  # sensors of a smooth function: nearly dependent
    A = torch.randn(100, 30, dtype=torch.float64, generator=generator) @ kernel
    W = kernel[:, :4]
    fresh = torch.randn(100, 30, dtype=torch.float64, generator=generator) @ kernel
    clean = ridge_regression(A, A @ W)
    assert torch.linalg.norm(fresh @ (clean - W)) < 1e-6 * torch.linalg.norm(fresh @ W)
    noise = 0.1 * torch.randn(100, 4, dtype=torch.float64, generator=generator)
    noisy = ridge_regression(A, A @ W + noise)
    plain = torch.linalg.pinv(A, rtol=1e-14) @ (A @ W + noise)
    error, without = (torch.linalg.norm(fresh @ (V - W)) for V in (noisy, plain))
    assert error < 0.7 * without
