"""Nets with bumps that are not trained, in every solver: what stays, what it costs, what is the same."""

import warnings

import oracle
import pytest
import torch

from bumpnet_fast import BumpNet, evolve, load, problems, resume, save, solve
from bumpnet_fast.problems.evolution import Heat
from bumpnet_fast.solvers.elimination import Joint, Projected, Separable
from bumpnet_fast.solvers.strategies import grow, prune, reach
from bumpnet_fast.solvers.task import Task

METHODS = ("varpro", "gauss-newton", "lm", "adam", "varpro-adam", "lbfgs")


def net_for(problem, trained=4, frozen=9, dtype="float64"):
    """Some bumps to be trained before a background of others."""
    nets = [BumpNet(len(problem.lower), n, problem.domain, problem.outputs, dtype=dtype) for n in (trained, frozen)]
    rows = torch.cat([net.rows.detach() for net in nets])
    net = BumpNet.from_rows(rows, nets[0].frame, problem.domain, True, torch.arange(len(rows)) < trained)
    perturbed = BumpNet.from_rows(rows, nets[0].frame, problem.domain).perturb_(0.1, torch.Generator().manual_seed(0))
    with torch.no_grad():
        net.rows.copy_(perturbed.rows)
    return net


def held(net, before):
    """Whether the frozen shapes are the same to the last bit, and everything else moved."""
    moved, shapes, trained = net.rows.detach() != before, net.layout.shape_columns, net.trainable
    assert moved[:, shapes:].all() and moved[trained].all()
    return not moved[~trained, :shapes].any()


@pytest.mark.parametrize("dtype", ("float64", "float32"))
@pytest.mark.parametrize("method", METHODS)
def test_no_solver_moves_their_shapes(method, dtype):
    problem = problems.get("poisson")
    net = net_for(problem, dtype=dtype)
    before = net.rows.detach().clone()
    first = solve(problem, BumpNet.from_rows(before, net.frame, net.domain), method="varpro", iterations=0).loss
    solution = solve(problem, net, method=method, iterations=10)
    assert held(net, before) and int(net.trainable.sum()) == 4
    if method in ("varpro", "gauss-newton", "lm", "varpro-adam"):
        assert solution.loss < first, "and the others are trained"


@pytest.mark.parametrize("method", ("gauss-newton", "lm", "adam"))
def test_systems_with_unknowns_of_the_equation(method):
    problem = problems.get("inverse-heat")
    net = net_for(problem)
    before = net.rows.detach().clone()
    solve(problem, net, method=method, iterations=4)
    assert held(net, before)


@pytest.mark.parametrize("name, kind", [
    ("poisson", Separable), ("poisson", Projected), ("poisson", Joint), ("kovasznay", Projected), ("kovasznay", Joint),
])  # fmt: skip
def test_the_jacobian_is_the_part_of_the_whole_one(name, kind):
    problem = problems.get(name)
    net = net_for(problem)
    whole = BumpNet.from_rows(net.rows, net.frame, net.domain)
    models = [kind(Task(problem, n).collocate(300).system, 1e-12) for n in (net, whole)]
    points = [model.start(n.rows.detach()) for model, n in zip(models, (net, whole), strict=True)]
    (J, g), (K, h) = (model.jacobian(point) for model, point in zip(models, points, strict=True))
    amplitudes = points[0].inner.numel() if kind is Joint else 0
    part = torch.arange(amplitudes + 4 * net.layout.shape_columns)
    assert len(J) == len(part) < len(K)
    oracle.assert_close(J, K[part], 1e-10)
    assert torch.allclose(g, h[part], rtol=1e-8, atol=1e-10 * float(h.abs().max()))
    shapes = net.layout.shape_columns
    assert torch.equal(models[0].rows(points[0])[:, :shapes], net.rows[:, :shapes])


def test_all_marked_is_as_unmarked_to_the_last_bit():
    problem, results = problems.get("poisson"), []
    for marked in (False, True):
        net = net_for(problem)
        net.trainable = torch.ones(13, dtype=torch.bool)
        if marked:
            net.trainable = torch.arange(13) > 2
            net.trainable = [True] * 13
        solve(problem, net, iterations=5)
        solve(problem, net, method="adam", iterations=5)
        results.append(net.rows.detach().clone())
    assert torch.equal(*results)


@pytest.mark.parametrize("method", METHODS)
def test_where_none_is_trained_amplitudes_are(method):
    problem = problems.get("poisson")
    net = net_for(problem)
    net.trainable = torch.zeros(13, dtype=torch.bool)
    before, shapes = net.rows.detach().clone(), net.layout.shape_columns
    solution = solve(problem, net, method=method, iterations=5)
    assert torch.equal(net.rows[:, :shapes], before[:, :shapes]) and (net.rows[:, shapes:] != before[:, shapes:]).all()
    best = solve(problem, BumpNet.from_rows(before, net.frame, net.domain), iterations=0, points=5 * 13).loss
    if method in ("varpro", "gauss-newton", "varpro-adam"):
        assert solution.loss == pytest.approx(best, rel=1e-6)


def test_points_go_by_what_is_solved_for():
    problem = problems.get("poisson")
    net = net_for(problem, trained=4, frozen=100)
    assert 0.8 < len(Task(problem, net).collocate().x) / (5 * (4 * 7 + 100)) < 1.2


def test_a_run_that_is_interrupted_goes_on_with_them(tmp_path):
    problem = problems.get("poisson")
    before = net_for(problem).rows.detach().clone()

    def interrupt(progress):
        if progress.iteration == 3:
            raise KeyboardInterrupt

    for method in ("varpro", "lm", "adam"):
        path = tmp_path / f"{method}.pt"
        nets = net_for(problem), net_for(problem)
        about = dict(method=method, iterations=8) | ({"log_every": 1} if method == "adam" else {})
        solve(problem, nets[0], checkpoint=path, callback=interrupt, **about)
        resumed, whole = resume(path, problem=problem).net, solve(problem, nets[1], **about).net
        assert held(resumed, before) and torch.equal(resumed.rows, whole.rows)
        assert torch.equal(resumed.trainable, whole.trainable)


def test_a_result_in_a_file(tmp_path):
    problem = problems.get("poisson")
    solution = solve(problem, net_for(problem), iterations=2)
    save(tmp_path / "model.pt", solution)
    net = load(tmp_path / "model.pt").net
    assert torch.equal(net.trainable, solution.net.trainable) and torch.equal(net.rows, solution.net.rows)


# --- fewer and more bumps ----------------------------------------------------------------------------------


@pytest.mark.parametrize("score", ("loss", "peak", lambda solution: torch.arange(len(solution.net.rows)).double()))
def test_pruning_takes_out_trained_ones_alone(score):
    problem = problems.get("poisson")
    net = net_for(problem, trained=6)
    before = net.rows[6:, : net.layout.shape_columns].detach().clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prune(problem, net, 11, score=score, iterations=2)
    assert net.trainable.tolist() == [True] * 2 + [False] * 9
    assert torch.equal(net.rows[2:, : net.layout.shape_columns], before)
    with pytest.raises(ValueError, match="bumps must be at least 9, those that are not trained and therefore stay"):
        prune(problem, net, 8)


def test_growing_adds_trained_ones():
    problem = problems.get("poisson")
    net = net_for(problem)
    before = net.rows[4:, : net.layout.shape_columns].detach().clone()
    grow(problem, net, 15, iterations=2)
    assert net.trainable.tolist() == [True] * 4 + [False] * 9 + [True] * 2
    assert torch.equal(net.rows[4:13, : net.layout.shape_columns], before)


def test_searching_for_the_fewest_keeps_them():
    problem = problems.get("poisson")
    net = net_for(problem)
    before = net.rows[4:, : net.layout.shape_columns].detach().clone()
    solution = reach(problem, net, 0.5, iterations=2, most=15)
    frozen = net.rows[~net.trainable, : net.layout.shape_columns]
    assert torch.equal(frozen, before) and len(net.rows) < 13 and solution.rel_l2 < 0.5


def test_adam_prunes_trained_ones_alone():
    problem = problems.get("poisson")
    net = net_for(problem, trained=6)
    solve(problem, net, method="adam", iterations=20, prune_threshold=1.0, prune_every=5)
    assert int((~net.trainable).sum()) == 9 and int(net.trainable.sum()) <= 1


# --- evolutions ----------------------------------------------------------------------------------------------


def test_an_evolution_that_moves_all_bumps_is_refused():
    problem = Heat()
    net = BumpNet(1, 12, problem.domain, dtype="float64")
    net.trainable = torch.arange(12) < 5
    for options in ({"shapes": "evolve"}, {"initial_shapes": "fit"}):
        with pytest.raises(ValueError, match="move all bumps of net, and 7 of its bumps are not trained"):
            evolve(problem, net, **options)
