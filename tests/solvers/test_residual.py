"""Rows of the least-squares system: residuals, coefficients, design matrices, points."""

import pytest
import torch
from cases import Cubic, Free, Rotation, Tangle

from bumpnet_fast import BumpNet, Jet
from bumpnet_fast.problems import get
from bumpnet_fast.solvers.residual import System, blocks, collocation


def net_for(problem, bumps=5, dtype="float64", seed=0, **options):
    net = BumpNet(len(problem.lower), bumps, problem.domain, problem.outputs, dtype=dtype, **options)
    generator = torch.Generator().manual_seed(seed)
    net.perturb_(0.1, generator)
    net.rows.data[:, net.layout.amplitude] = torch.randn(net.amplitudes.shape, generator=generator).to(net.rows)
    return net


def system_for(problem, net, boundary="hard", points=30, weight=1.0):
    x, counts = collocation(problem, net, points, "uniform", 0)
    return System(blocks(problem, boundary, counts, x, weight), net)


@pytest.mark.parametrize("boundary", ["hard", "soft"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("problem", [get("poisson"), get("helmholtz", a1=1.3), Cubic(), Rotation(), Tangle()], ids=str)
def test_linearisation_is_the_derivative_by_all_parameters(problem, boundary, tied):
    net = net_for(problem, outer="tied" if tied else "free")
    system, layout = system_for(problem, net, boundary), net.layout
    rows = net.rows.detach()
    wanted = torch.autograd.functional.jacobian(lambda rows: system.residual(system.jets(rows)), rows)
    residual, coefficients = system.linearise(system.jets(rows))
    A, D = system.design(rows, coefficients, derivatives=True)
    by_shape = system.shape_jacobian(D, rows[:, layout.amplitude])
    assert residual.shape == (system.size,) and wanted.shape[0] == system.size
    torch.testing.assert_close(residual, system.residual(system.jets(rows)))
    by_shape = by_shape.view(len(rows), layout.shape_columns, -1).permute(2, 0, 1)
    by_amplitude = A.view(len(rows), layout.outputs, -1).permute(2, 0, 1)
    size = wanted.abs().max()
    torch.testing.assert_close(by_amplitude, wanted[..., layout.amplitude], rtol=0, atol=1e-12 * size)
    torch.testing.assert_close(by_shape, wanted[..., : layout.shape_columns], rtol=0, atol=1e-11 * size)


@pytest.mark.parametrize("problem", [get("helmholtz", a1=0.7), Cubic(), Tangle()], ids=str)
def test_hard_rows_are_the_residual_of_the_composed_function(problem):
    net = net_for(problem)
    system = system_for(problem, net)

    def u(x):
        return problem.lift(x).reshape(len(x), -1) + problem.distance(x)[:, None] * net(x)

    x = system.blocks[0].x
    wanted = problem.residual(x, Jet.of(u, x, problem.want)).reshape(len(x), -1)
    rows = system.residual(system.jets(net.rows.detach()))
    torch.testing.assert_close(rows, (wanted.T / problem.residual_scale / len(x) ** 0.5).flatten())


def test_soft_rows_are_mean_squares_with_weights():
    problem = get("poisson", a1=1.5)
    net = net_for(problem)
    system = system_for(problem, net, "soft", weight=7.0)
    equation, boundary = system.blocks
    u = Jet.of(net, equation.x, "laplacian")
    mean_square = (problem.residual(equation.x, u) / problem.residual_scale).square().mean()
    at_boundary = (net(boundary.x)[:, 0] - problem.exact(boundary.x)).square().mean()
    rows = system.residual(system.jets(net.rows.detach()))
    torch.testing.assert_close(rows @ rows, mean_square + 7 * at_boundary)


def test_a_linear_system_is_its_coefficients():
    problem = Rotation()
    net = net_for(problem)
    system = system_for(problem, net, "soft")
    offset, coefficients = system.linearise()
    A, _ = system.design(net.rows.detach(), coefficients)
    rows = system.residual(system.jets(net.rows.detach()))
    torch.testing.assert_close(offset + net.amplitudes.detach().flatten() @ A, rows)


@pytest.mark.parametrize(
    ("problem", "linear"), [(get("poisson"), True), (Rotation(), True), (Cubic(), False), (Tangle(), False)], ids=str
)
@pytest.mark.parametrize("boundary", ["hard", "soft"])
def test_linearity_is_found_out(problem, linear, boundary):
    assert system_for(problem, net_for(problem), boundary).is_linear() is linear


def test_float32_net_gives_float64_matrices():
    problem = get("helmholtz")
    wide, narrow = net_for(problem), net_for(problem, dtype="float32")
    results = []
    for net in (wide, narrow):
        system = system_for(problem, net)
        r, coefficients = system.linearise(system.jets(net.rows.detach()))
        A, D = system.design(net.rows.detach(), coefficients, derivatives=True)
        results.append((r, A, system.shape_jacobian(D, net.amplitudes.detach().double())))
    for exact, rounded in zip(*results, strict=True):
        assert rounded.dtype == torch.float64
        torch.testing.assert_close(rounded, exact, rtol=0, atol=float(2e-5 * exact.abs().max()))


def test_a_residual_that_forgets_u_is_refused():
    problem = Free()
    system = system_for(problem, net_for(problem))
    with pytest.raises(ValueError, match="'free' does not depend on u"):
        system.linearise()


def test_a_residual_of_a_wrong_shape_is_refused():
    class Sum(Free):
        def residual(self, x, u):
            return u.value.sum()

    with pytest.raises(ValueError, match=r"'free' must have shape \[36\] or \[36, equations\], got \(\)"):
        system_for(Sum(), net_for(Sum()))


# --- points --------------------------------------------------------------------------------------


def test_points_are_as_dense_as_the_bumps():
    problem = get("helmholtz")
    net = BumpNet(2, (4, 10), problem.domain)
    x, counts = collocation(problem, net, None, "grid", 0)
    assert counts == (24, 60) and x.shape == (24 * 60, 2) and x.dtype == torch.float64
    x, counts = collocation(problem, net, (3, 5), "grid", 0)
    assert counts == (3, 5) and len(x) == 15
    given = torch.rand(11, 2)
    x, counts = collocation(problem, net, given, "grid", 0)
    assert torch.equal(x, given.double()) and len(counts) == 2


_WRONG_TENSORS = [torch.rand(4), torch.rand(4, 3), torch.rand(0, 2), torch.full((1, 2), torch.nan)]


@pytest.mark.parametrize("points", [0, -3, 2.5, True, (3,), (3, 0), "many", *_WRONG_TENSORS])
def test_wrong_points_are_refused(points):
    problem = get("poisson")
    with pytest.raises(ValueError, match="points must be"):
        collocation(problem, BumpNet(2, 4), points, "grid", 0)
