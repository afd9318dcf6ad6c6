"""The search for maps: layers and peaks are found, and smooth problems get none."""

import math

import pytest
import torch

from bumpnet_fast import BumpNet, problems
from bumpnet_fast.core.maps import AxisMap, Maps
from bumpnet_fast.nets.smooth import smooth_net
from bumpnet_fast.solvers.elimination import triangular_solve
from bumpnet_fast.solvers.map_search import HeldOut, _moved, _moves, feature, polished, search
from bumpnet_fast.solvers.residual import System, blocks


def fitter(problem, bumps):
    """Best amplitudes over mapped smooth bumps, at points uniform in xi; the list gets the maps that were tried."""
    held, tried = HeldOut(problem), []
    base = smooth_net(bumps, problem.domain, 1, 0.4, 0, torch.device("cpu"))
    lo, hi = problem.domain
    ticks = [(torch.arange(2 * n, dtype=torch.float64) + 0.5) / (2 * n) for n in bumps]
    xi = lo + (hi - lo) * torch.cartesian_prod(*ticks).reshape(-1, len(bumps))

    @torch.no_grad()
    def fit(maps):
        tried.append(maps)
        x, weights = (xi, None) if maps is None else (maps.inverse(xi), maps.weights(maps.inverse(xi)))
        net = BumpNet.from_rows(base.rows, base.frame, base.domain, maps=maps)
        system = System(blocks(problem, "hard", bumps, x, 1.0, weights), net)
        offset, coefficients = system.linearise()
        h, _ = triangular_solve(system.design(net.rows.detach(), coefficients)[0], -offset, 1e-26)
        net.rows[:, net.layout.amplitude] = h[:, None]
        return held(net), net

    return fit, tried


def error(problem, net):
    x = torch.rand(2000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    u = problem.extend(lambda x: net.jet(x, want="value"), x, "value", "hard").value.detach()[:, 0]
    exact = problem.reference(x).reshape(-1)
    return float((u - exact).norm() / exact.norm())


def test_a_layer_is_found():
    problem = problems.get("convection-diffusion")
    fit, _ = fitter(problem, (12, 5))
    maps = search(problem, (12, 5), fit)
    assert maps is not None and maps.axes[0].kind == "asinh" and max(maps.axes[0].centres) > 0.9
    assert error(problem, fit(maps)[1]) < 0.05 * error(problem, fit(None)[1])


def test_a_smooth_problem_gets_none_at_once():
    problem = problems.get("poisson")
    fit, tried = fitter(problem, (8, 8))
    assert search(problem, (8, 8), fit) is None
    assert tried == [None]


def test_a_polish_may_bring_a_centre_to_a_face():
    """Then there is one parameter less, and the others are still what they were."""
    problem = problems.get("convection-diffusion")
    fit, tried = fitter(problem, (12, 5))
    near = Maps(
        (AxisMap(0.0, 1.0, "asinh", (0.999,), (0.05,), 0.3), AxisMap(0.0, 1.0, "logistic", (0.5,), (0.3,), 0.5))
    )
    before = fit(near)[0]
    found = polished(problem, near, fit)
    assert fit(found)[0] <= before and len(tried) > 4
    assert len(_moves(near)) == 6
    moved = near
    for move in _moves(near):
        moved, _ = _moved(moved, move, 1.0)
    assert moved.axes[0].centres == (1.0,) and len(_moves(moved)) == 5


def test_points_of_both_kinds_count():
    """A map that leaves out the layer has a small residual at its own points, and is not believed."""
    problem = problems.get("convection-diffusion", eps=0.001)
    wrong = Maps((AxisMap(0.0, 1.0, "asinh", (0.0,), (0.01,), 0.05), AxisMap(0.0, 1.0)))
    fit, _ = fitter(problem, (12, 5))
    held_out, net = fit(wrong)
    held = HeldOut(problem)
    assert held_out == held(net) and held_out >= float(held.even.residual(net).detach().square().mean().sqrt())


def test_feature():
    x = torch.linspace(0, 1, 2001, dtype=torch.float64)
    found = feature(x, 1 / (1e-4 + (x - 0.3) ** 2))
    assert found is not None and found.centre == pytest.approx(0.3, abs=0.01) and 0.005 < found.width < 0.02
    assert feature(x, torch.ones_like(x)) is None and feature(x, torch.zeros_like(x)) is None
    assert feature(x, torch.full_like(x, math.nan)) is None


def test_numbers_of_bumps_are_checked():
    with pytest.raises(ValueError, match="bumps must be 2 numbers"):
        search(problems.get("poisson"), (8,), lambda maps: (0.0, None))
