"""Points that nothing was trained on: the best state by them is kept, and points are added where they disagree."""

import copy

import pytest
import torch

from bumpnet_fast import BumpNet, problems, solve
from bumpnet_fast.io import resume
from bumpnet_fast.solvers import Method, refine
from bumpnet_fast.solvers.task import Task


def few_points(**options):
    return solve(problems.get("poisson"), (4, 4), points=(6, 6), iterations=60, **options)


def test_points_that_miss_something_get_more():
    without, given = few_points(refine=0), few_points()
    assert without.report(estimate=False).held_out > 1e3 and given.report(estimate=False).held_out < 100
    assert given.rel_l2 < 0.3 * without.rel_l2
    assert len(given.places.x) > 36 and {e["stage"] for e in given.history} == {"varpro"}


def test_points_that_miss_nothing_and_points_of_the_user_stay():
    problem = problems.get("poisson")
    solution = solve(problem, (4, 4), iterations=30)
    assert solution.iterations == 30 and torch.equal(solution.places.x, Task(problem, solution.net).collocate().x)
    x = 2 * torch.rand(36, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 1
    own = solve(problem, (4, 4), points=x, iterations=30)
    assert torch.equal(own.places.x, x) and own.iterations <= 30


def test_a_refined_run_goes_on_bit_for_bit(tmp_path):
    path, whole = tmp_path / "run.pt", few_points()
    stop_at = whole.iterations - 2

    def stop(progress):
        if progress.iteration == stop_at:
            raise KeyboardInterrupt

    few_points(checkpoint=path, every_seconds=0.0, callback=stop)
    later = resume(path)
    assert torch.equal(later.net.rows, whole.net.rows) and later.loss == whole.loss
    assert later.iterations == whole.iterations


class Slipping(Method):
    """Improves the amplitudes, and then lets a bump slip between the points: the loss is smaller, u is worse."""

    measure_every = 1

    def start(self, work, iterations):
        self.work, self.taken = work, 0

    def step(self, most):
        self.taken += 1
        if self.taken == 1:
            self.work.solve_amplitudes()
            self.first = self.work.loss()
        if self.taken == 2:
            self.work.net.rows[0, self.work.net.layout.size] = -7.0
        return 1

    def loss(self):
        return self.work.loss() if self.taken < 2 else 0.5 * self.first


def test_the_best_state_by_points_between_is_kept(monkeypatch):
    def between(problem, net, *_):
        slipped = bool((net.rows[:, net.layout.size] == -7.0).any())
        return 1e-3, 1.0 if slipped else 1e-2, 1.0

    monkeypatch.setattr(refine, "between", between)
    problem = problems.get("poisson")
    net = BumpNet(2, (4, 4), problem.domain, dtype="float64")
    wanted = copy.deepcopy(net)
    task = Task(problem, wanted).collocate()
    task.solve_amplitudes()
    solution = solve(problem, net, method=Slipping(), iterations=2)
    assert torch.equal(solution.net.rows, wanted.rows) and solution.loss == pytest.approx(task.loss())
    assert [entry["loss"] for entry in solution.history][-1] < solution.loss
