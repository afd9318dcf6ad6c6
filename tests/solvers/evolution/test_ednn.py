"""Bump-EDNN: accuracy, the basis, the choice of a method, instability, moving shapes, bad input."""

import math
import sys
import time

import pytest
import torch
from evolutions import Bistable, Porous, Rod, Swelling, Tidal, Waves

from bumpnet_fast import BumpNet
from bumpnet_fast.problems import Poisson
from bumpnet_fast.problems.evolution import Advection, AllenCahn, Burgers, Heat, Heat2D
from bumpnet_fast.solvers import Stop, StopReason, evolve, uniform_net
from bumpnet_fast.solvers.evolution import ednn
from bumpnet_fast.solvers.evolution.basis import Space, _rule, quadrature
from bumpnet_fast.solvers.evolution.models import FixedBasis, MovingBasis, fitted_shapes
from bumpnet_fast.solvers.evolution.result import interpolate


def model_of(problem, bumps, kind=FixedBasis, **options):
    net = uniform_net(problem, bumps)
    x, weights = quadrature(problem, net, None)
    with torch.no_grad():
        return kind(Space.of(problem, net), net.rows.double(), x, weights, 1e-8)


# --- accuracy ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("problem", "bumps", "method", "wanted"), [
    (Heat(), 40, "expm", 1e-10),
    (Heat(periodic=False), 40, "expm", 1e-8),
    (Advection(), 40, "expm", 1e-10),
    (Advection(narrow=2.0), 40, "expm", 1e-10),
    (Advection(speed=30.0, final_time=1.0), 20, "expm", 1e-7),
    (Heat2D(), (8, 8), "expm", 5e-4),
    (Heat2D(periodic=False), (10, 10), "expm", 5e-4),
    (Rod(), 20, "expm", 1e-6),
    (Waves(), 24, "expm", 1e-6),
    (Tidal(), 24, "dop853", 1e-6),
    (Porous(), 24, "radau", 1e-6),
], ids=str)  # fmt: skip
def test_accuracy_and_the_method_chosen(problem, bumps, method, wanted):
    run = evolve(problem, bumps, times=4)
    assert (run.method, run.stop_reason, run.warnings) == (method, "finished", [])
    assert run.rel_l2 < wanted and run.max_error < 10 * wanted


def test_burgers_forms_its_front():
    run = evolve(Burgers(), 40, times=4)
    assert run.method == "dop853" and run.rel_l2 < 5e-5 and run.warnings == []
    x = torch.linspace(-1, 1, 2001, dtype=torch.float64)[:, None]
    slope = run.predict(x, 1.0)[:, 0].diff() / x[:, 0].diff()
    assert slope.min() < -10 and run.predict(x, 1.0).abs().max() < 1


@pytest.mark.parametrize("method", ["rk4", "etdrk4", "dop853", "radau", "bdf"])
def test_methods_agree_on_burgers(method):
    problem = Burgers(nu=0.1, final_time=0.5)
    run = evolve(problem, 16, method=method, tolerance=1e-7, times=2, measure=False)
    wanted = evolve(problem, 16, method="dop853", tolerance=1e-11, times=2, measure=False)
    x = torch.linspace(-1, 1, 50, dtype=torch.float64)[:, None]
    assert run.method == method and run.rel_l2 is None
    torch.testing.assert_close(run.predict(x, 0.5), wanted.predict(x, 0.5), rtol=0, atol=2e-6)


@pytest.mark.parametrize(("method", "order"), [("rk4", 4), ("cn", 2), ("etdrk4", 4)])
def test_given_steps_converge_at_the_order_of_the_method(method, order):
    problem = Rod(beat=20.0)
    errors = []
    for n in (24, 48) if method != "rk4" else (400, 800):
        run = evolve(problem, 12, method=method, step=problem.final_time / n, times=1)
        assert (run.steps, run.method) == (n, method)
        errors.append(run)
    exact = evolve(problem, 12, method="radau", tolerance=1e-12, times=1)
    size = [float((r.predict(run_points, 0.2) - exact.predict(run_points, 0.2)).norm()) for r in errors]
    assert math.log2(size[0] / size[1]) == pytest.approx(order, abs=0.5)


run_points = torch.linspace(0, 1, 40, dtype=torch.float64)[:, None]


def test_two_dimensions_nonlinear_periodic_along_one_axis_only():
    problem = Bistable()
    run = evolve(problem, (8, 8), times=2)
    assert run.stop_reason == "finished" and run.space.images[0] > 0 == run.space.images[1]
    finer = evolve(problem, (12, 11), times=2)
    x = torch.rand(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * torch.tensor([2, 1])
    torch.testing.assert_close(run.predict(x, 0.5), finer.predict(x, 0.5), rtol=0, atol=2e-3)
    wall = x.clone()
    wall[::2, 1], wall[1::2, 1] = 0, 1
    assert run.predict(wall, 0.3).abs().max() == 0


# --- the basis -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("problem", "bumps"), [(Advection(), 6), (Burgers(), 40), (Heat2D(), (5, 4))], ids=str)
def test_the_seam_is_smooth_to_rounding(problem, bumps):
    net = uniform_net(problem, bumps)
    space, rows = Space.of(problem, net), net.rows.detach()
    lo, hi = problem.domain
    left = lo + (hi - lo) * torch.rand(20, len(lo), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    left[:, 0] = lo[0]
    right = left.clone()
    right[:, 0] = hi[0]
    a, b = (space.basis(x, rows, "hessian") for x in (left, right))
    for part, other in zip(a.parts(), b.parts(), strict=True):
        torch.testing.assert_close(part, other, rtol=0, atol=1e-13 * float(1 + part.abs().max()))


def test_more_images_change_nothing_but_a_constant():
    problem = Advection()
    net = uniform_net(problem, 8)
    space, x = Space.of(problem, net), torch.linspace(0, 6, 30, dtype=torch.float64)[:, None]
    more = Space(problem, space.frame, space.tied, (space.images[0] + 2,))
    fewer = Space(problem, space.frame, space.tied, (1,))
    few, basis, many = (s.basis(x, net.rows.detach(), "gradient") for s in (fewer, space, more))
    torch.testing.assert_close(basis.gradient, many.gradient, rtol=0, atol=1e-15)
    assert (few.gradient - basis.gradient).abs().max() > 1e-6
    change = many.value - basis.value
    torch.testing.assert_close(change, change[:1].expand_as(change), rtol=0, atol=1e-14)


def test_boundary_values_hold_exactly():
    run = evolve(Rod(beat=3.0), 12, times=3)
    ends = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    for t in (0.0, 0.03, 0.2):
        torch.testing.assert_close(run.predict(ends, t), torch.tensor([[1.0], [3.0]]).double(), rtol=0, atol=1e-12)
    assert not run.predict(ends.requires_grad_(), 0.2).requires_grad
    by_graph = run.predict(ends, 0.2, grad=True)
    assert torch.autograd.grad(by_graph.sum(), ends)[0].shape == (2, 1)


def test_quadrature_integrates():
    integrals = [
        (Heat(periodic=False), lambda x: (x[:, 0] / (2 * math.pi)) ** 9),
        (Bistable(), lambda x: (1 + torch.cos(math.pi * x[:, 0])) * x[:, 1] ** 9),
    ]
    for problem, integral in integrals:
        x, weights = quadrature(problem, uniform_net(problem, 20), 36)
        assert float(weights @ integral(x)) == pytest.approx(0.1, rel=1e-12)
        assert float(weights.sum()) == pytest.approx(1) and (weights > 0).all()


@pytest.mark.parametrize("n", [1, 2, 5, 64, 301])
def test_a_rule_of_gauss_is_exact_to_its_degree(n):
    lo, hi = -0.5, 2.0
    x, weights = _rule(torch.tensor([lo, hi], dtype=torch.float64), n, periodic=False)
    assert x.shape == weights.shape == (n,) and bool((x.diff() > 0).all()) and lo < x[0] and x[-1] < hi
    s = (2 * x - lo - hi) / (hi - lo)
    for degree in {0, 1, n, 2 * n - 2, 2 * n - 1}:
        wanted = 1 / (degree + 1) if degree % 2 == 0 else 0.0
        assert float(weights @ s**degree) == pytest.approx(wanted, rel=1e-10, abs=1e-13)


def test_the_basis_is_factorised_once(monkeypatch):
    calls = []
    svd = torch.linalg.svd
    monkeypatch.setattr(torch.linalg, "svd", lambda *args, **options: calls.append(1) or svd(*args, **options))
    run = evolve(Burgers(nu=0.1), 12, times=5, measure=False)
    assert len(calls) == 1 and run.stages > 50 and 0 < run.solve_seconds < 0.1


def test_frozen_shapes_stay():
    net = uniform_net(Burgers(), 12)
    before = net.rows.detach().clone()
    run = evolve(Burgers(nu=0.1), net, times=3, measure=False)
    assert torch.equal(net.rows, before)
    shapes = run.net.layout.shape_columns
    assert torch.equal(run.states[..., :shapes], before[:, :shapes].expand(4, -1, -1))
    assert not torch.equal(run.amplitudes[0], run.amplitudes[-1])


@pytest.mark.parametrize("problem", [Burgers(), Waves(), Rod(), Bistable()], ids=str)
def test_the_jacobian_is_the_derivative_of_the_slope(problem):
    with torch.no_grad():
        model = model_of(problem, 9)
        y = model.state + 0.1 * torch.randn(len(model.state), generator=torch.Generator().manual_seed(0)).double()
        v = torch.randn(len(y), generator=torch.Generator().manual_seed(1)).double()
        change = (model.slope(0.3, y + 1e-5 * v) - model.slope(0.3, y - 1e-5 * v)) / 2e-5
        found = model.jacobian(0.3, y) @ v
    torch.testing.assert_close(found, change, rtol=0, atol=1e-6 * float(change.norm()))


def test_the_state_is_u_in_an_orthonormal_basis():
    with torch.no_grad():
        model = model_of(Waves(), 20)
        u = model.jet(model.state)
    assert float(model.state.norm()) == pytest.approx(model.rms(u.value), rel=1e-12)
    torch.testing.assert_close(model.solve(u.value), model.state)
    assert model.fit_error < 1e-6


# --- what comes back -----------------------------------------------------------------------------


def test_history_callback_and_times():
    told, problem = [], Heat()
    run = evolve(problem, 12, times=(0.1, 0.25, 1.0), callback=told.append)
    assert run.times.tolist() == [0, 0.1, 0.25, 1.0] == [e["time"] for e in run.history]
    assert [p.entry for p in told] == run.history and [p.share for p in told] == [0, 0.1, 0.25, 1.0]
    assert [p.rel_l2 for p in told] == [e["rel_l2"] for e in run.history]
    assert [e["loss"] for e in run.history] == [e["residual"] for e in run.history] == [p.loss for p in told]
    assert [(e["iteration"], e["steps"], e["final_time"], e["stage"]) for e in run.history] == [
        (i, i, 1.0, "expm") for i in range(4)
    ]
    assert all(0 < e["rel_l2"] < 1e-3 and 0 <= e["residual"] < 1e-2 for e in run.history)
    norms = [e["norm"] for e in run.history]
    assert norms == sorted(norms, reverse=True) and norms[0] == pytest.approx(math.sqrt(0.625), rel=1e-3)
    assert run.states.shape == run.rates.shape == (4, 12, 4) and run.amplitudes.shape == (4, 12, 1)
    assert run.history[-1]["rel_l2"] == pytest.approx(run.rel_l2, rel=0.1)
    assert min(run.setup_seconds, run.seconds, run.processor_seconds) > 0 and run.steps == 3
    assert run.setup_seconds + run.seconds <= run.history[-1]["seconds"]
    assert torch.equal(told[-1].net().rows, run.at(1.0).rows) and run.stop is StopReason.FINISHED


def test_the_solution_is_asked_for_as_any_other():
    run = evolve(Heat(), 12, times=4, measure=False)
    x = torch.linspace(0, 6, 5, dtype=torch.float64)[:, None]
    wanted = run.jet(x, 0.2)
    assert wanted.hessian.shape == (5, 1, 1, 1)
    for points in (x, x.numpy(), x.tolist()):
        for u in (run.predict(points, 0.2), run(points, 0.2), run.on(points)(0.2), run.jet(points, 0.2).value):
            torch.testing.assert_close(u, wanted.value, rtol=0, atol=1e-12)
    assert run(x.float().numpy(), 0.2).dtype == torch.float32 and run([[1]], 0.2).dtype == torch.float64
    with pytest.raises(ValueError, match=r"x must have shape \[N, 1\]"):
        run.predict([0.1, 0.2], 0.2)


def test_between_the_times_u_is_interpolated():
    problem = Advection(narrow=2.0)
    run = evolve(problem, 30, times=60)
    x = torch.linspace(0, 6, 40, dtype=torch.float64)[:, None]
    for t in (0.0, 0.05, 1.2345, 6.2, float(run.times[-1])):
        torch.testing.assert_close(run.predict(x, t)[:, 0], problem.exact(x, t), rtol=0, atol=1e-5)
    for t in (-0.1, 7.0, float("nan")):
        with pytest.raises(ValueError, match=r"t must be from 0 to 6.28319, got"):
            run.predict(x, t)


@pytest.mark.parametrize(("final", "times"), [(0.35, 3), (0.1, 3), (0.7, 10), (1.1, 7), (0.35, [0.1, 0.35 * 3 / 3])])
def test_the_last_time_is_the_final_one(final, times):
    run = evolve(Heat(final_time=final), 12, times=times, measure=False)
    x = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None]
    assert float(run.times[-1]) == final and (run.times.diff() > 0).all()
    torch.testing.assert_close(run.predict(x, final)[:, 0], run.problem.exact(x, final), rtol=0, atol=1e-3)
    for near in (math.nextafter(final, 2), final + 3 * math.ulp(final), torch.tensor(final, dtype=torch.float64)):
        assert torch.equal(run.predict(x, near), run.predict(x, final))
    assert torch.equal(run.at(-1e-17).rows, run.at(0.0).rows)
    for t in (final * (1 + 1e-12), math.nan, math.inf, -1e-9, None, "late", torch.tensor(math.nan)):
        with pytest.raises(ValueError, match="t must be from 0 to"):
            run.predict(x, t)


def test_a_time_within_rounding_of_the_final_one_is_that():
    run = evolve(Heat(final_time=0.35), 12, times=[0.1, math.nextafter(0.35, 0)], measure=False)
    assert float(run.times[-1]) == 0.35
    assert float(evolve(Heat(final_time=0.35), 12, times=[0.3, 0.349], measure=False).times[-1]) == 0.349


@pytest.mark.parametrize("given", [[1.0], 0.0, None])
def test_what_is_no_right_hand_side_is_named(given):
    class Wrong(Heat):
        def rhs(self, x, u, t):
            return given

    with pytest.raises(ValueError, match=rf"rhs\(x, u, t\) of .* must give a tensor .*, got {type(given).__name__}"):
        evolve(Wrong(), 12)


def test_centres_that_reach_the_end_of_their_box_stay_finite():
    problem = Heat(periodic=False)
    net = uniform_net(problem, 12)
    space, a = Space.of(problem, net), net.rows.detach().double()
    rates = torch.zeros_like(a)
    rates[:, 0] = 1e3  # a cubic between two states overshoots
    for s in (0.25, 0.5, 0.75):
        between = interpolate(space, a, rates, a, -rates, 1.0, s)
        assert torch.isfinite(between).all()
    run = evolve(Heat(), BumpNet.from_rows(_at_the_end(net), net.frame, net.domain), times=1, shapes="evolve",
                 initial_shapes="uniform", measure=False, max_seconds=1e-9)  # fmt: skip
    assert torch.isfinite(run.states).all()


def _at_the_end(net):
    rows = net.rows.detach().clone()
    rows[0, 0], rows[-1, 0] = -40.0, 40.0
    return rows


def test_the_net_of_a_time_carries_its_amplitudes():
    run = evolve(Burgers(nu=0.1), 16, times=4, measure=False)
    net = run.at(float(run.times[2]))
    assert isinstance(net, BumpNet) and torch.equal(net.amplitudes, run.amplitudes[2])
    assert torch.equal(net.frame, run.net.frame)


def test_the_residual_indicates_the_error():
    worst = {}
    for bumps in (10, 20, 40):
        run = evolve(Burgers(), bumps, times=20)
        worst[bumps] = max(e["residual"] for e in run.history), run.rel_l2, run.warnings
    assert worst[10][0] > worst[20][0] > worst[40][0] and worst[10][1] > worst[20][1] > worst[40][1]
    assert "error at the end is 37.9% of u" in worst[10][2][-1] and worst[40][2] == []


def test_float32_nets_keep_float64_states():
    net = uniform_net(Advection(), 20, dtype="float32")
    run = evolve(Advection(), net)
    assert run.rel_l2 < 1e-5 and run.states.dtype == torch.float64
    x = torch.rand(5, 1)
    assert run.predict(x, 1.0).dtype == torch.float32 and run.predict(x.double(), 1.0).dtype == torch.float64
    torch.testing.assert_close(run.predict(x, 6.0)[:, 0], Advection().exact(x, 6.0), rtol=0, atol=1e-4)
    assert run.at(1.0).rows.dtype == torch.float32


# --- instability and other ends ------------------------------------------------------------------


def test_too_long_steps_are_noticed_and_the_longest_is_named():
    run = evolve(Heat(), 40, method="rk4", step=0.02, times=5)
    assert run.stop_reason == "unstable" and float(run.times[-1]) < 0.5
    assert torch.isfinite(run.states).all()
    (warning,) = run.warnings
    assert warning.startswith("unstable at t = ") and "steps of 'rk4' can be" in warning
    longest = float(warning.split("can be ")[1].split()[0])
    assert evolve(Heat(), 40, method="rk4", step=longest, times=5).stop_reason == "finished"


@pytest.mark.parametrize("options", [{}, {"method": "rk4"}, {"method": "rk4", "step": 0.01}, {"method": "radau"},
                                     {"method": "etdrk4"}])  # fmt: skip
def test_blow_up_is_reported(options):
    run = evolve(Swelling(final_time=2.0), 6, times=20, **options)
    assert run.stop_reason == "unstable" and 0.9 <= float(run.times[-1]) <= 1.0
    assert "unstable at t = " in run.warnings[0] and torch.isfinite(run.states).all()
    x = torch.zeros(1, 1, dtype=torch.float64)
    assert float(run.predict(x, 0.5)) == pytest.approx(2, rel=1e-3)


def test_growth_that_a_problem_allows_is_none():
    class Allowed(Swelling):
        growth = 10.0
        linear = True

    fast, slow = (evolve(Allowed(power=1, final_time=t), 6, times=8) for t in (8.0, 2.0))
    assert fast.stop_reason == "unstable" and "by more than 10, set growth" in fast.warnings[0]
    assert float(fast.times[-1]) == 2.0
    assert slow.stop_reason == "finished"


@pytest.mark.parametrize("when", [0, 3])
def test_an_interrupt_keeps_what_was_computed(when):
    def press_ctrl_c(progress):
        if len(seen) == when:
            raise KeyboardInterrupt
        seen.append(progress)

    seen = []
    run = evolve(Heat(), 12, times=10, callback=press_ctrl_c)
    assert run.stop_reason == "interrupted" and len(run.times) == len(run.states) == when + 1
    assert run.rel_l2 < 1e-3


def test_time_is_limited():
    told = []
    run = evolve(Burgers(), 16, times=10, max_seconds=1e-9, measure=False)
    assert run.stop_reason == "time" and run.times.tolist() == [0]
    assert evolve(Burgers(), 16, times=10, stop=Stop(seconds=1e-9), measure=False).stop is StopReason.TIME
    some = evolve(Heat(), 12, times=10, stop=Stop(iterations=3), measure=False, callbacks=[told.append])
    assert some.stop is StopReason.ITERATIONS and len(some.times) == 4 and some.history[-1]["time"] == some.times[-1]
    assert [round(p.share, 9) for p in told] == [0, round(1 / 3, 9), round(2 / 3, 9), 1]


def test_time_is_limited_within_a_step_too():
    class Slow(Burgers):
        def rhs(self, x, u, t):
            if t > 0.5:
                time.sleep(0.5)
            return super().rhs(x, u, t)

    started = time.perf_counter()
    run = evolve(Slow(), 12, method="rk4", step=1e-2, times=[0.4, 1.0], measure=False, max_seconds=4.0)
    assert run.stop_reason == "time" and run.times.tolist() == [0, 0.4]
    assert time.perf_counter() - started < 60  # all of it would take 100 s, and the slow part is left within a step


def test_other_errors_of_a_callback_pass_through():
    def broken(progress):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        evolve(Heat(), 8, callback=broken)


def test_threads_are_given_back(threads):
    threads(2)
    during = []
    evolve(Heat(), 8, times=1, callback=lambda _: during.append(torch.get_num_threads()))
    assert set(during) == {1} and torch.get_num_threads() == 2


# --- moving shapes -------------------------------------------------------------------------------


def test_moving_shapes_carry_a_pulse_that_few_frozen_ones_cannot():
    problem = Advection(narrow=2.0)
    frozen = evolve(problem, 4, times=8)
    moving = evolve(problem, 4, times=8, shapes="evolve")
    assert frozen.rel_l2 > 0.1 and moving.rel_l2 < 1e-3
    assert moving.method == "rk4" and moving.fit_error < 1e-4 < frozen.fit_error
    x = torch.linspace(0, 6, 40, dtype=torch.float64)[:, None]
    for t in (0.3, 5.1):  # between the times, while bumps go around
        torch.testing.assert_close(moving.predict(x, t)[:, 0], problem.exact(x, t), rtol=0, atol=2e-3)
    domain = problem.domain
    centres = torch.stack([moving.at(t).centres.detach() for t in moving.times.tolist()])
    assert (centres >= domain[0]).all() and (centres <= domain[1]).all() and centres[:, 0].std() > 1


def test_moving_shapes_in_two_dimensions():
    problem = Heat2D(periodic=False, final_time=0.1)
    net = uniform_net(problem, (3, 3)).perturb_(0.03, torch.Generator().manual_seed(0))  # a grid keeps its symmetry
    run = evolve(problem, net, times=1, shapes="evolve", step=0.005)
    frozen = evolve(problem, (3, 3), times=1)
    assert run.stop_reason == "finished" and run.rel_l2 < 3e-3 < 0.1 * frozen.rel_l2
    skew = run.states[..., run.net.layout.skew]
    assert not torch.equal(skew[0], skew[-1])
    problem = Heat2D(final_time=0.01)
    sharp = uniform_net(problem, (4, 4), sharpness=4.0)
    closed = evolve(problem, sharp, times=1, shapes="evolve", initial_shapes="uniform", step=0.01)
    assert (closed.states[..., closed.net.layout.skew] == 0).all()
    assert not torch.equal(closed.states[0, :, 0], closed.states[-1, :, 0])


def test_rates_of_moving_shapes_follow_u_t():
    """Two outputs, boundary data and a lift: the rates move the rows so that u changes by rhs."""
    for problem, kind in ((Waves(), 5), (Rod(beat=2.0), 5)):
        with torch.no_grad():
            model = model_of(problem, kind, MovingBasis)
            report = model.report(0.1, model.state)
            y, rate = model.state, report.rates.flatten()
            change = (model._value(y + 1e-6 * rate) - model._value(y - 1e-6 * rate)) / 2e-6
            missed = model.rms(change - model.rhs(0.1, model.jet(y)))
        assert missed == pytest.approx(report.residual, rel=1e-3) and report.residual < 0.9 * report.rate


def test_a_fit_of_the_shapes_fits_the_start():
    problem = Burgers()
    net = uniform_net(problem, 8)
    x, weights = quadrature(problem, net, None)
    with torch.no_grad():
        space = Space.of(problem, net, slack=2.0)
        rows = fitted_shapes(space, net.rows.double(), x, weights)
        before, after = (FixedBasis(space, r, x, weights).fit_error for r in (net.rows.double(), rows))
    assert after < 1e-2 * before


def test_centres_go_the_short_way_around():
    problem = Advection()
    net = evolve(problem, 3, shapes="evolve", times=1, max_seconds=1e-9).space
    rows = torch.zeros(1, 4, dtype=torch.float64)
    lo, hi = net.frame[:2, 0]

    def with_centre(c):
        out = rows.clone()
        out[0, 0] = torch.atanh((2 * c - lo - hi) / (hi - lo))
        return out

    a, b = with_centre(torch.tensor(6.2)), with_centre(torch.tensor(0.1))
    middle = interpolate(net, a, 0 * a, b, 0 * b, 1.0, 0.5)
    centre = float(lo + (hi - lo) * (1 + torch.tanh(middle[0, 0])) / 2)
    assert centre == pytest.approx((6.2 + 0.1 + 2 * math.pi) / 2)


# --- bad input -----------------------------------------------------------------------------------

ROTATED = uniform_net(Heat2D(), (3, 3)).perturb_(0.1, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("problem", "net", "options", "message"), [
    (Heat(), 8, {"method": "expn"}, "method 'expn' is not built in"),
    (Heat(), 8, {"method": 4}, "method must be one of auto, expm, cn, rk4, etdrk4, dop853, radau, bdf, or of"),
    (Heat(), 8, {"step": 0}, "step must be positive, got 0"),
    (Heat(), 8, {"step": "short"}, "step must be positive, got 'short'"),
    (Heat(), 8, {"tolerance": -1e-3}, "tolerance must be positive"),
    (Heat(), 8, {"ridge": None}, "ridge must be positive, got None"),
    (Heat(), 8, {"max_seconds": float("inf")}, "max_seconds must be positive"),
    (Heat(), 8, {"times": 0}, "times must be at least 1"),
    (Heat(), 8, {"times": (0.2, 0.1)}, "times must be an integer, or ascending numbers above 0"),
    (Heat(), 8, {"times": ()}, "times must be an integer, or ascending"),
    (Heat(), 8, {"times": 2.5}, "times must be an integer, or ascending"),
    (Heat(), 8, {"stop": 3.0}, "stop must be a Stop, got float"),
    (Heat(), 8, {"stop": Stop(), "max_seconds": 3.0}, "max_seconds must go into stop"),
    (Heat(), 8, {"stop": Stop(iterations=(1, 2))}, "iterations must be a number or 1 numbers for 'auto'"),
    (Heat(), 8, {"points": 7}, "points must be at least as many as the 8 bumps, got 7"),
    (Heat(), 8, {"points": (9, 9)}, "points must be 1 positive numbers"),
    (Heat(), 8, {"points": torch.zeros(3)}, r"points must be finite and of shape \[N, 1\]"),
    (Heat(), 8, {"shapes": "fixed"}, "shapes must be one of frozen, evolve, got 'fixed'"),
    (Heat(), 8, {"initial_shapes": "random"}, "initial_shapes must be one of uniform, fit, got 'random'"),
    (Heat(), 0, {}, "bumps must be at least 1"),
    (Heat(), BumpNet(1, 8, dtype="float64"), {}, "net is for the domain"),
    (Heat(), BumpNet(2, 8), {}, "net has 2 dimensions and problem 'heat' has 1"),
    (Waves(), BumpNet(1, 8), {}, "net has 1 outputs and problem 'waves' has 2"),
    (Heat2D(), ROTATED, {}, "rotated bumps"),
    (Heat(), uniform_net(Heat(), 8, sharpness=1e-3), {}, "so wide that .* sharpen them"),
    (Burgers(), 8, {"method": "expm"}, "'burgers' is nonlinear in u, which 'expm' cannot do; use 'rk4' or 'etdrk4'"),
    (Tidal(), 8, {"method": "cn"}, "operator of problem 'tidal' depends on t, which 'cn' cannot do"),
    (Rod(beat=1.0), 8, {"method": "expm"}, "source of problem 'rod' depends on t, which 'expm' cannot do"),
    (Heat(), 8, {"method": "radau", "shapes": "evolve"}, "'radau' needs frozen shapes"),
])  # fmt: skip
def test_wrong_arguments_are_named(problem, net, options, message, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    with pytest.raises((ValueError, TypeError, ModuleNotFoundError), match=message):
        evolve(problem, net, **options)


@pytest.mark.parametrize("method", ["radau", "no such"])
def test_methods_are_checked_before_shapes_are_fitted(method, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    monkeypatch.setattr(ednn, "fitted_shapes", lambda *_: pytest.fail("computing began"))
    with pytest.raises((ValueError, ModuleNotFoundError), match=method):
        evolve(Heat(), 8, method=method, shapes="evolve")


def test_single_precision_in_rhs_does_no_harm():
    class Single(Heat):
        def rhs(self, x, u, t):
            return u.laplacian.float()

    assert evolve(Single(), 20, times=2).rel_l2 < 1e-4


def test_wrong_problems_are_named():
    with pytest.raises(TypeError, match="problem must be an EvolutionProblem, got Poisson"):
        evolve(Poisson(), 8)

    class Wrong(AllenCahn):
        def rhs(self, x, u, t):
            return u.value[:-1]

    class Infinite(AllenCahn):
        def rhs(self, x, u, t):
            return u.value / 0

    class Nowhere(AllenCahn):
        def initial(self, x):
            return x[:, 0] * math.nan

    for kind, message in (
        (Wrong, r"rhs\(x, u, t\) of problem 'allen-cahn' must have shape \[48\] or \[48, 1\], got \(47, 1\)"),
        (Infinite, "right-hand side of problem 'allen-cahn' is not finite at the start"),
        (Nowhere, r"initial\(x\) of problem 'allen-cahn' must be finite: 48 of 48 values are not, the first is nan at"),
    ):
        with pytest.raises(ValueError, match=message):
            evolve(kind(), 8)
