"""Time-marching: windows, what they start from, and what ends them."""

import itertools
from dataclasses import replace

import pytest
import torch
from cases import Cubic

from bumpnet_fast import Jet
from bumpnet_fast.problems import get, sampling
from bumpnet_fast.solvers import march, marching


def spread(problem, count=60):
    return sampling.interior(problem.domain, (count, 1), "uniform")


@pytest.mark.parametrize("name", ["advection", "heat", "burgers"])
@pytest.mark.parametrize("want", ["value", "gradient", "diagonal", "hessian", "laplacian"])
def test_a_window_starts_from_its_state(name, want):
    """At the start u is the state, and later it may be anything; given values at the sides hold."""
    problem = get(name)
    exact = problem.exact

    def state(x, want):
        return Jet(want, exact(x)[:, None]) if want == "value" else Jet.of(exact, x, want)

    part = marching.window(problem, 0.25, 0.5, state)
    assert (part.lower[1], part.upper[1], part.lower[0]) == (0.25, 0.5, problem.lower[0])
    x = spread(part)
    at_start = x.clone()
    at_start[:, 1] = 0.25

    def wild(x):
        return torch.exp(x[:, 0] * x[:, 1])

    def bumps(x):
        return Jet.of(wild, x, want)

    u, start = part.extend(bumps, at_start, want), Jet.of(exact, at_start, want)
    torch.testing.assert_close(u.value, start.value)
    if want not in ("value", "laplacian"):
        torch.testing.assert_close(u.d(0), start.d(0))
    edge = torch.stack([torch.full_like(x[:, 0], problem.upper[0]), x[:, 1]], 1)
    if name != "advection":
        torch.testing.assert_close(part.extend(bumps, edge, want).value[:, 0], exact(edge), atol=1e-12, rtol=0)
    whole = Jet.of(lambda x: part.extend(lambda x: Jet("value", wild(x)[:, None]), x, "value").value, x, want)
    for mine, wanted in zip(part.extend(bumps, x, want).parts(), whole.parts(), strict=True):
        assert (mine is None) == (wanted is None)
        if mine is not None:
            torch.testing.assert_close(mine, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("boundary", ["hard", "soft"])
def test_advection_around_the_ring(boundary):
    problem = get("advection", nu=6)
    solution = march(problem, (4, 4), windows=2, boundary=boundary, iterations=40, condition_weight=10.0)
    assert solution.rel_l2 < 1e-3 and solution.stop_reason == "marched"
    assert [len(part.net.rows) for part in solution.parts] == [16, 16] and len(solution.net.rows) == 32
    x = spread(problem)
    error = solution.predict(x)[:, 0] - problem.exact(x)
    assert error.abs().max() <= 2 * solution.max_error
    seam = x.clone()
    seam[:, 1] = 0.5
    before, after = (part.jet(seam, "value").value for part in solution.parts)
    torch.testing.assert_close(before, after, atol=1e-9 if boundary == "hard" else 1e-2, rtol=0)


def test_a_nonlinear_problem_with_graded_bumps():
    problem = get("burgers", nu=0.05)
    solution = march(problem, (8, 3), windows=3, graded=0.5, iterations=20)
    assert solution.method == "gauss-newton" and solution.rel_l2 < 5e-3


def test_the_bumps_of_all_windows_are_where_they_are():
    solution = march(get("heat"), (3, 3), windows=3, iterations=2)
    centres = torch.cat([part.net.centres for part in solution.parts])
    torch.testing.assert_close(solution.net.centres, centres)
    boxes = torch.cat([part.net.boxes() for part in solution.parts])
    torch.testing.assert_close(solution.net.boxes(), boxes)


def test_a_march_in_float32_stays_in_float32():
    solution = march(get("heat"), (4, 3), windows=2, iterations=10, net={"dtype": "float32"})
    x = spread(get("heat")).float()
    assert solution.predict(x).dtype == solution.net.rows.dtype == torch.float32 and solution.rel_l2 < 2e-2
    seam = x.clone()
    seam[:, 1] = 0.5
    before, after = (part.jet(seam, "value").value for part in solution.parts)
    torch.testing.assert_close(before, after, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_centres_at_the_ends_of_their_boxes_can_be_counted_and_drawn(dtype):
    solution = march(get("heat"), (3, 3), windows=2, iterations=1, net={"dtype": dtype})
    for part in solution.parts:
        part.net.rows.data[:2, :2] = torch.tensor([[30.0, -30.0], [-30.0, 30.0]])
    solution = replace(solution)  # whose net is made anew
    centres = torch.cat([part.net.centres for part in solution.parts])
    assert solution.net.rows.isfinite().all()
    torch.testing.assert_close(solution.net.centres, centres)


def test_the_history_counts_on():
    told = []
    solution = march(get("heat"), (3, 3), windows=2, iterations=3, callback=told.append)
    assert [entry["window"] for entry in solution.history] == [0] * 4 + [1] * 4
    assert [entry["iteration"] for entry in solution.history] == [0, 1, 2, 3, 3, 4, 5, 6] == [p.iteration for p in told]
    seconds = [entry["seconds"] for entry in solution.history]
    assert all(a <= b + 1e-3 for a, b in itertools.pairwise(seconds)) and solution.iterations == 6


def starts_where(monkeypatch, failing, **options):
    """What the windows of a march started from, if the solves of these numbers fail where nothing was trained."""
    starts, solve = [], marching.solve

    def followed(part, net, **settings):
        starts.append(net.rows.detach().clone())
        return solve(part, net, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(marching, "solve", followed)
        patch.setattr(marching, "held_out_loss", lambda *_: 1e6 if len(starts) in failing else 0.0)
        march(get("heat"), (3, 3), windows=2, iterations=3, **options)
    return starts


def test_a_window_that_fails_is_solved_afresh(monkeypatch):
    starts = starts_where(monkeypatch, [2])
    assert len(starts) == 3
    assert torch.equal(starts[2], starts[0]) and not torch.equal(starts[1], starts[0])


def test_graded_bumps_that_fail_give_way_to_unperturbed_ones_and_these_to_the_last_shapes(monkeypatch):
    _, perturbed, regular, _ = starts = starts_where(monkeypatch, [2, 3], graded=0.5, perturb=0.05)
    assert len(starts) == 4
    columns = regular[:, 0].reshape(3, 3)  # those of one place in space: a grid, but for the perturbation
    torch.testing.assert_close(columns, columns[:, :1].expand(3, 3), rtol=0, atol=1e-7)
    assert not torch.allclose(perturbed, regular, rtol=0, atol=1e-3)
    assert len(starts_where(monkeypatch, [2], graded=0.5, perturb=0.05)) == 3
    assert len(starts_where(monkeypatch, [2, 3], graded=0.5)) == 3


def test_ctrl_c_keeps_the_windows_so_far():
    def press(progress):
        if progress.iteration == 5:
            raise KeyboardInterrupt

    solution = march(get("heat"), (3, 3), windows=4, iterations=3, callback=press)
    assert solution.stop_reason == "interrupted" and len(solution.parts) == 2
    assert solution.problem.upper == (1.0, 0.5) and solution.rel_l2 < 0.1


def test_time_is_shared_among_the_windows():
    solution = march(get("heat"), (3, 3), windows=3, iterations=10**6, tolerance=0.0, max_seconds=0.6)
    assert solution.seconds < 60 and len(solution.parts) == 3


@pytest.mark.parametrize(("problem", "options", "message"), [
    (get("poisson"), {}, "problem 'poisson' cannot be marched in time"),
    (Cubic(), {}, "problem 'cubic' cannot be marched"),
    (get("wave"), {}, "problem 'wave' cannot be marched in time: .* of first order"),
    (get("heat"), {"windows": 0}, "windows must be an integer of at least 1, got 0"),
    (get("heat"), {"windows": 2.0}, "windows must be an integer"),
    (get("heat"), {"graded": 1.0}, "graded must be at least 0 and less than 1, got 1.0"),
    (get("heat"), {"max_seconds": -1}, "max_seconds must be positive, got -1"),
    (get("heat"), {"iterations": -1}, "iterations must be"),
])  # fmt: skip
def test_what_cannot_be_marched_is_named(problem, options, message):
    with pytest.raises(ValueError, match=message):
        march(problem, 4, **options)
