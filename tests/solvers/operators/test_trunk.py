"""The trunk: modes, the normal equations of variable projection, and descent."""

import itertools

import pytest
import torch

from bumpnet_fast import BumpDeepONet
from bumpnet_fast.problems.operators import get_operator
from bumpnet_fast.solvers.levenberg_marquardt import descend
from bumpnet_fast.solvers.operators.fit import fit_to_data, fit_to_equations
from bumpnet_fast.solvers.operators.trunk import Projection, Trunk, modes, scaled_qr


def posed(name="antiderivative", bumps=5, physics=False, **options):
    operator = get_operator(name)
    periodic = (operator.periodic, False)[: len(operator.domain[0])]
    net = BumpDeepONet(operator.sensors, bumps, operator.domain, periodic=periodic, dtype="float64", **options)
    f = operator.inputs(60)
    with torch.no_grad():
        net.rows.add_(0.1 * torch.randn(net.rows.shape, generator=torch.Generator().manual_seed(0)))
        fit = fit_to_equations(net, operator, f) if physics else fit_to_data(net, operator.generate(60))
    return net, fit


def test_modes_hold_the_functions_best():
    u = torch.randn(30, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    m = modes(u, 4)
    assert m.shape == (12, 4) and modes(u, 99).square().sum().item() == pytest.approx(1)
    Q = torch.linalg.qr(m)[0]
    missed = 1 - float(m.square().sum())
    assert float((u - u @ Q @ Q.T).square().sum() / u.square().sum()) == pytest.approx(missed)
    other = torch.linalg.qr(torch.randn(12, 4, dtype=torch.float64))[0]
    assert (u - u @ other @ other.T).square().sum() > (u - u @ Q @ Q.T).square().sum()


@pytest.mark.parametrize("physics", [False, True])
@pytest.mark.parametrize("outer", ["tied", "free"])
@pytest.mark.parametrize(("name", "bumps"), [("antiderivative", 5), ("heat", (3, 2))])
def test_normal_equations_are_those_of_the_jacobian(name, bumps, outer, physics):
    net, fit = posed(name, bumps, physics, outer=outer)
    targets = modes(fit.weights * fit.targets, 3)
    model = Projection(net, fit, targets, ridge=1e-14)
    rows = net.rows.detach()
    point = model.evaluate(rows)
    normal = model.normal(point)
    H, gradient = normal.matrix, normal.gradient
    assert normal.jacobian is None

    def residual(rows):  # with the amplitudes held: Kaufman's Jacobian is this one off the span of the bumps
        return fit.design(net, rows)[0] @ point.amplitudes - targets

    step, J = 1e-6, []
    for index in itertools.product(range(rows.shape[0]), range(rows.shape[1])):
        change = torch.zeros_like(rows)
        change[index] = step
        J.append((residual(rows + change) - residual(rows - change)) / (2 * step))
    J = torch.stack(J)
    J = (J - point.basis @ (point.basis.T @ J)).flatten(1)
    torch.testing.assert_close(H, J @ J.T, rtol=0, atol=1e-5 * float(H.abs().max()))
    torch.testing.assert_close(gradient, J @ point.residual.flatten(), rtol=0, atol=1e-5 * float(gradient.abs().max()))


def test_every_step_descends():
    net, fit = posed()
    model = Projection(net, fit, modes(fit.weights * fit.targets, 5), 1e-14)
    point = model.evaluate(net.rows.detach())
    losses = [point.loss, *(p.loss for p in itertools.islice(descend(model, point, Trunk.damping, Trunk.step_cap), 10))]
    assert all(b < a for a, b in itertools.pairwise(losses)) and losses[-1] < 0.05 * losses[0]


def test_the_qr_keeps_a_dying_bump_finite():
    A = torch.randn(20, 3, dtype=torch.float64)
    A[:, 1] *= 1e-30
    Q, R, length = scaled_qr(A, 1e-12)
    torch.testing.assert_close(Q[:20] @ R * length, A, rtol=0, atol=1e-12)
    assert torch.isfinite(torch.linalg.inv(R)).all() and length.min() >= 1e-7


def test_bumps_that_are_zero_at_all_points_get_no_amplitudes():
    A = torch.zeros(9, 3, dtype=torch.float64)
    Q, R, length = scaled_qr(A, 1e-12)
    assert all(torch.isfinite(t).all() for t in (Q, R, length)) and (R.diagonal().abs() > 0).all()


def test_a_descent_whose_steps_have_no_length_ends():
    net, fit = posed()
    model = Projection(net, fit, torch.zeros(len(fit.targets[0]), 2, dtype=torch.float64), 1e-12)
    point = model.evaluate(net.rows.detach().double())
    assert point.loss == 0 and list(descend(model, point, Trunk.damping, Trunk.step_cap)) == []
