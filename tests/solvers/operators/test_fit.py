"""What amplitudes are fitted to: design matrices of data and of equations."""

from dataclasses import dataclass

import pytest
import torch

from bumpnet_fast import BumpDeepONet
from bumpnet_fast.problems.operators import Equation, Operator, get_operator
from bumpnet_fast.solvers.operators.fit import fit_to_data, fit_to_equations, relative_weights


@dataclass
class Mixed(Operator):
    """Every term that a linear equation in two dimensions can have, and, with ``cubic``, one it cannot."""

    name, want = "mixed", "hessian"
    grid: int = 6
    cubic: int = 4

    @property
    def domain(self):
        return torch.tensor([[0.0, 0.0], [1.0, 2.0]], dtype=torch.float64)

    @property
    def points(self):
        return torch.rand(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def equations(self):
        def residual(y, f, u):
            curved = u.dd(0) + y[:, 0] * u.dd(0, 1) - 2 * u.dd(1)
            power = 0 if self.cubic == 4 else u.value**3
            return curved + y[:, 1] * u.d(0) - 3 * u.d(1) + 5 * u.value - 4 * f + power

        return [Equation("mixed", self.points, residual, self.want, weight=3.0)]


def net_for(operator, **options):
    net = BumpDeepONet(operator.sensors, 4, operator.domain, dtype="float64", branch=(3,), **options)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    return net


@pytest.mark.parametrize("name", ["antiderivative", "advection", "heat"])
def test_rows_of_data_are_the_values(name):
    operator = get_operator(name)
    flags = tuple(operator.periodic and axis == 0 for axis in range(len(operator.domain[0])))
    net, data = net_for(operator, periodic=flags, bias=True), operator.generate(3)
    fit = fit_to_data(net, data)
    A, _ = fit.design(net, net.rows.detach())
    torch.testing.assert_close(A, net.basis(data.points).value.detach())
    wrong = net.coefficients(data.inputs) @ A.T - fit.targets
    torch.testing.assert_close(wrong, net(data.inputs, data.points) - data.outputs)
    torch.testing.assert_close((fit.weights * data.outputs).square().sum(1), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("operator", [get_operator("antiderivative"), get_operator("heat"), Mixed()], ids=str)
def test_rows_of_equations_are_their_residuals(operator, bias):
    flags = tuple(operator.periodic and axis == 0 for axis in range(len(operator.domain[0])))
    net, f = net_for(operator, periodic=flags, bias=bias), operator.inputs(3)
    fit, seen = fit_to_equations(net, operator, f), operator.at_sensors(f)
    A, _ = fit.design(net, net.rows.detach())
    found = (net.coefficients(seen) @ A.T - fit.targets).square().sum(1)
    wanted = 0.0
    for equation in operator.equations():
        y = equation.points
        residual = equation.residual(y, operator.at_points(f, y), net.jet(seen, y, equation.want))
        wanted = wanted + equation.weight * residual.square().mean(1)
    torch.testing.assert_close(found, wanted)


def test_derivatives_of_the_rows():
    operator = get_operator("heat")
    net = net_for(operator, periodic=(True, False))
    fit = fit_to_equations(net, operator, operator.inputs(2))
    rows = net.rows.detach()
    _, D = fit.design(net, rows, derivatives=True)
    change = 1e-6 * torch.randn(rows.shape, dtype=rows.dtype, generator=torch.Generator().manual_seed(2))
    found = fit.design(net, rows + change)[0] - fit.design(net, rows - change)[0]
    torch.testing.assert_close(found, 2 * (D * change).sum(-1), rtol=1e-5, atol=1e-7 * float(D.abs().max()))


@dataclass
class Product(Operator):
    """u' = f u: linear in u, but not in the same way for every f."""

    name = "product"

    def equations(self):
        return [Equation("u' = f u", self.points, lambda y, f, u: u.d(0) - f * u.value, "gradient")]


@pytest.mark.parametrize("operator", [Mixed(cubic=5), Product()], ids=["nonlinear", "product"])
def test_other_equations_are_refused(operator):
    name = operator.equations()[0].name
    message = f"two steps need an equation linear in u .* and {name!r} is not; use method='adam'"
    with pytest.raises(ValueError, match=message):
        fit_to_equations(net_for(operator), operator, operator.inputs(2))


def test_a_function_that_is_zero_counts_for_nothing():
    weights = relative_weights(torch.tensor([[0.0, 0.0], [0.0, 2.0]]))
    assert weights.tolist() == [[0.0], [0.5]]
    assert relative_weights(torch.zeros(2, 3)).tolist() == [[0.0], [0.0]]
