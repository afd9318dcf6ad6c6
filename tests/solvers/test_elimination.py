"""What a descent needs of a model of the rows: residuals, derivatives and moves; and how amplitudes are eliminated."""

import math

import pytest
import torch
from cases import Cubic, Rotation, Tangle

from bumpnet_fast import BumpNet
from bumpnet_fast.problems import get
from bumpnet_fast.solvers.elimination import Joint, Projected, Separable, lower_gram, ridge_solve
from bumpnet_fast.solvers.residual import System, blocks, collocation


def net_for(problem, bumps=(4, 4), dtype="float64", **options):
    return BumpNet(len(problem.lower), bumps, problem.domain, problem.outputs, dtype=dtype, **options)


def model_for(kind, problem, net, boundary="hard", ridge=1e-12):
    x, counts = collocation(problem, net, 60, "grid", 0)
    return kind(System(blocks(problem, boundary, counts, x, 1.0), net), ridge)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- any model -----------------------------------------------------------------------------------

MODELS = [
    (Separable, get("helmholtz", a1=0.7, a2=1)), (Separable, Rotation()), (Projected, Cubic()), (Projected, Rotation()),
    (Projected, Tangle()), (Joint, Cubic()), (Joint, Rotation()), (Joint, get("poisson")),
]  # fmt: skip

any_model = pytest.mark.parametrize(
    ("kind", "problem"), MODELS, ids=[f"{kind.__name__}-{problem.name}" for kind, problem in MODELS]
)
boundaries = pytest.mark.parametrize("boundary", ["hard", "soft"])


def central(function, x, v, step=1e-6):
    return (function(x + step * v) - function(x - step * v)) / (2 * step)


def started(kind, problem, boundary="hard", bumps=5, **options):
    """A model and a point of it away from any symmetry and from the best amplitudes."""
    net = net_for(problem, bumps).perturb_(0.2, torch.Generator().manual_seed(0))
    model = model_for(kind, problem, net, boundary, **options)
    if kind is Projected:
        shapes, inner = model._split(net.rows.detach())
        return model, model._fitted(shapes, noise(len(inner), seed=1), most=0, tolerance=0.0)
    return model, model.start(net.rows.detach())


def beyond_the_fit(model, point, rows):
    """The part of a change of rows that no change of the inner parameters can make."""
    return rows if point.fit is None else rows - point.fit.basis @ (rows @ point.fit.basis)


@boundaries
@any_model
def test_the_jacobian_is_the_derivative_of_the_rows_ahead(kind, problem, boundary):
    """Where inner parameters are eliminated: beyond their reach (Kaufman)."""
    model, point = started(kind, problem, boundary)
    J, gradient = model.jacobian(point)
    v = noise(len(point.x))
    change = beyond_the_fit(model, point, central(lambda step: model.ahead(point, step), torch.zeros_like(v), v))
    torch.testing.assert_close(v @ J, change, rtol=0, atol=float(1e-5 * change.abs().max()))
    torch.testing.assert_close(gradient, J @ point.residual)
    if point.fit is not None:
        assert (J @ point.fit.basis).abs().max() < 1e-8 * J.abs().max()


@any_model
def test_the_normal_equations_are_those_of_the_jacobian(kind, problem):
    model, point = started(kind, problem)
    normal, (J, gradient) = model.normal(point), model.jacobian(point)
    torch.testing.assert_close(normal.matrix.tril(), (J @ J.T).tril())
    torch.testing.assert_close(normal.gradient, gradient)
    torch.testing.assert_close(normal.jacobian, J)
    assert torch.equal(normal.matrix.tril(), lower_gram(J).tril())


@boundaries
@any_model
def test_a_point_is_rows_and_their_loss(kind, problem, boundary):
    model, point = started(kind, problem, boundary, ridge=0.0)
    rows = model.rows(point)
    assert rows.shape[1] == model.system.layout.columns and len(model.unknowns(point)) == 0
    residual = model.system.residual(model.system.jets(rows))
    torch.testing.assert_close(point.residual, residual, rtol=0, atol=float(1e-9 * residual.abs().max()))
    assert point.loss == pytest.approx(float(residual @ residual), rel=1e-9)
    again = model.start(rows)
    assert again.loss <= point.loss * (1 + 1e-9)


@any_model
def test_a_short_step_down_the_gradient_descends(kind, problem):
    if problem.name == "tangle":
        pytest.skip("there is nothing to solve")
    model, point = started(kind, problem, ridge=0.0)
    point = point if kind is not Projected else model.start(model.rows(point))
    J, gradient = model.jacobian(point)
    step = -1e-4 * gradient / torch.linalg.vector_norm(gradient @ J) * math.sqrt(point.loss)
    moved = model.move(point, step)
    torch.testing.assert_close(moved.x, point.x + step)
    if kind is Joint:  # elsewhere the ridge of the inner solve and its tolerance are in the way of digits
        assert moved.loss - point.loss == pytest.approx(2 * float(gradient @ step), rel=1e-2)
    assert moved.loss < point.loss


@any_model
def test_a_point_is_recalled_to_the_last_bit(kind, problem):
    model, point = started(kind, problem)
    model.jacobian(point)
    point = model.move(point, 0.01 * noise(len(point.x)))
    again = model.recalled(model.memory(point))
    assert again.loss == point.loss
    for name in ("x", "residual", "inner"):
        assert torch.equal(getattr(again, name), getattr(point, name)), name
    assert torch.equal(model.jacobian(again)[0], model.jacobian(point)[0])
    with pytest.raises(ValueError, match="parameters and 2 scales"):
        model.recalled(model.memory(point) | {"scale": torch.ones(2, dtype=torch.float64)})


# --- single models -------------------------------------------------------------------------------


@pytest.mark.parametrize("boundary", ["hard", "soft"])
@pytest.mark.parametrize("problem", [get("helmholtz", a1=0.7, a2=1), Rotation()], ids=str)
def test_gradient_of_variable_projection_is_exact(problem, boundary):
    """The derivative of the loss with the amplitudes solved for; a ridge on scaled amplitudes is not varied."""
    net = net_for(problem, 6).perturb_(0.2, torch.Generator().manual_seed(0))
    model = model_for(Separable, problem, net, boundary, ridge=0.0)
    point = model.start(net.rows.detach())
    _, gradient = model.jacobian(point)
    for seed in range(3):
        v = noise(len(point.x), seed=seed)
        wanted = central(lambda x: model.evaluate(x).loss, point.x, v)
        assert 2 * float(gradient @ v) == pytest.approx(wanted, rel=1e-5)


def test_projection_is_variable_projection_where_the_problem_is_linear():
    problem = get("helmholtz", a1=0.7, a2=1)
    net = net_for(problem, 6)
    models = [model_for(kind, problem, net) for kind in (Separable, Projected)]
    points = [model.start(net.rows.detach()) for model in models]
    assert points[1].loss == pytest.approx(points[0].loss)
    torch.testing.assert_close(points[1].inner, points[0].inner)
    step = 0.1 * noise(len(points[0].x))
    (J, gradient), (J1, gradient1) = (model.jacobian(point) for model, point in zip(models, points, strict=True))
    torch.testing.assert_close(J1, J, rtol=0, atol=float(1e-7 * J.abs().max()))
    torch.testing.assert_close(gradient1, gradient, rtol=0, atol=float(1e-7 * gradient.abs().max()))
    moved = [model.move(point, step) for model, point in zip(models, points, strict=True)]
    assert moved[1].loss == pytest.approx(moved[0].loss)


def test_the_cold_start_solves_for_nonlinear_amplitudes():
    problem = Cubic()
    net = net_for(problem, 12)
    model = model_for(Projected, problem, net)
    point = model.start(net.rows.detach())
    reachable = point.residual @ point.fit.basis
    assert point.loss < 0.5 * model.reference_loss
    assert reachable @ reachable < 0.05 * point.loss
    assert model.start(model.rows(point)).loss <= point.loss


class Contradicted(Cubic):
    """With a second equation that nothing fulfils, and that is most of the loss."""

    def residual(self, x, u):
        return torch.cat([super().residual(x, u), 100 + 0 * u.value], 1)


def test_the_cold_start_does_not_stop_where_the_loss_that_can_be_gained_is_a_small_part_of_it():
    """At amplitudes 0 the shapes have no gradient: nothing would move away from there."""
    amplitudes = []
    for problem in (Cubic(), Contradicted()):
        net = net_for(problem, 12)
        model = model_for(Projected, problem, net)
        amplitudes.append(model.start(net.rows.detach()).inner)
    torch.testing.assert_close(*amplitudes, rtol=0, atol=float(1e-2 * amplitudes[0].abs().max()))


def test_a_point_is_settled_where_its_inner_parameters_are_not_the_best():
    problem = Cubic()
    net = net_for(problem, 12)
    model = model_for(Projected, problem, net)
    best = model.start(net.rows.detach())
    off = model._fitted(best.x, best.inner + 0.1, most=0, tolerance=0.0)
    assert model.settled(best) is None
    assert model.settled(off).loss == pytest.approx(best.loss, rel=1e-3)


# --- the amplitudes ------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "R"), [(6, 40), (6, 4)])
def test_ridge_solve_minimises_residual_and_ridge(n, R):
    A, target = noise(n, R) * torch.logspace(-2, 2, n, dtype=torch.float64)[:, None], noise(R, seed=1)
    h, residual, fit, loss = ridge_solve(A, target, 1e-3)
    length = A.norm(dim=1)
    rows = torch.cat([A, math.sqrt(1e-3) * torch.diag(length)], 1)
    wanted = torch.linalg.lstsq(rows.T, torch.cat([target, torch.zeros(n)])[:, None]).solution[:, 0]
    torch.testing.assert_close(h, wanted)
    torch.testing.assert_close(residual, h @ A - target)
    torch.testing.assert_close(loss, float(residual @ residual + 1e-3 * (length * h).square().sum()))
    back = torch.cat([residual, math.sqrt(1e-3) * length * h]) @ rows.T
    assert back.abs().max() < 1e-12 * length.max()
    assert torch.linalg.matrix_rank(torch.cat([fit.basis, (A / length[:, None]).T], 1)) == min(n, R)


def test_a_dying_bump_gets_no_boundless_amplitude():
    A = noise(3, 20)
    A[1] *= 1e-250
    h, residual, *_ = ridge_solve(A, noise(20, seed=1), 1e-12)
    assert torch.isfinite(h).all() and h.abs().max() < 1e9 and torch.isfinite(residual).all()


def test_a_ridge_solve_of_nothing_is_nothing():
    target = noise(7)
    for A in (torch.zeros(3, 7).double(), torch.cat([torch.ones(1, 7), torch.zeros(2, 7)]).double()):
        h, residual, fit, loss = ridge_solve(A, target, 0.0)
        assert torch.isfinite(h).all() and not h[1:].any()
        torch.testing.assert_close(residual, A.T @ h - target)
        assert loss == pytest.approx(float(residual.square().sum())) and torch.isfinite(fit.length).all()
