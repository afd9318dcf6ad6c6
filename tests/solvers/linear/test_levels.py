"""Sizes and shapes of bases: what is solved over, and in which order."""

from dataclasses import dataclass

import pytest
import torch

from bumpnet_fast.nets.smooth import Shape
from bumpnet_fast.problems import Problem, get
from bumpnet_fast.solvers import solve
from bumpnet_fast.solvers.linear import levels
from bumpnet_fast.solvers.linear.levels import Levels
from bumpnet_fast.solvers.linear.mapped_fits import MappedFits
from bumpnet_fast.solvers.linear.task import FrozenTask
from bumpnet_fast.solvers.loop import StopReason


class Watched(FrozenTask):
    """Knows the cells of the basis before the last change of the size."""

    def resize(self, bumps):
        if self.best is not None:
            self.counts_before = self.best.shape.counts(self.bumps, self.widths)
        super().resize(bumps)


def begun(problem, bumps=64, **settings):
    """A stage before its first size."""
    stage = Levels(**settings)
    work = Watched(problem, bumps, levels.first_shape(len(problem.lower)), None, 1e-26, 0)
    stage.start(work, 10)
    return stage, work


@pytest.mark.parametrize("name, error", [("heat", 1e-6), ("helmholtz", 1e-4), ("heat2d", 1e-4), ("kovasznay", 1e-4)])
def test_every_size_has_more_cells_along_every_axis(name, error):
    """With as many along one of them, the change of u does not say what that axis leaves."""
    stage, work = begun(get(name), error=error)
    stage.step(1)
    for _ in range(2):
        stage.step(1)
        before, after = work.counts_before, work.best.shape.counts(work.bumps, work.widths)
        assert all(now > then for now, then in zip(after, before, strict=True))


def test_a_basis_is_solved_over_once(monkeypatch):
    solved = []
    original = FrozenTask._solved

    def counted(self, shape):
        solved.append((self.bumps, shape.counts(self.bumps, self.widths), round(shape.sharpness, 9)))
        return original(self, shape)

    monkeypatch.setattr(FrozenTask, "_solved", counted)
    solution = solve(get("helmholtz"), error=1e-5)
    assert solution.rel_l2 < 3e-5 and len(solved) == len(set(solved))


def test_shapes_that_are_rounded_up_are_not_tried():
    """A basis of 2 x 128 where 64 bumps were asked for has four times as many, and too few points."""
    stage, work = begun(get("poisson"))
    assert stage._allowed(Shape(0.3, (0.0, 0.0))) and not stage._allowed(Shape(0.3, (4.0, -4.0)))
    assert not stage._allowed(Shape(10.0, (0.0, 0.0)))


def test_cells_that_are_given_are_kept_while_the_size_grows():
    solution = solve(get("poisson"), (6, 24), method="linear")
    assert solution.history[-1]["cells"] == [6, 24]


def test_where_cells_are_even_along_an_axis_the_error_is_not_taken_for_reached():
    """The layer is resolved along one axis; the other axis, with two cells, is what the error is."""
    for seed in (2, 3):
        solution = solve(get("convection-diffusion"), error=1e-6, seed=seed)
        assert solution.rel_l2 <= 3e-6 or solution.stop.value != "error reached"


@dataclass
class Bilinear(Problem):
    """Laplace's equation whose lift solves it: the residual is rounding from the start."""

    name, want = "bilinear", "laplacian"

    def residual(self, x, u):
        return u.laplacian[:, 0]

    def exact(self, x):
        return 0.04 * x[:, 0] * x[:, 1] + 0.2


def test_a_residual_that_is_rounding_need_not_fall():
    solution = solve(Bilinear(), error=1e-6)
    assert solution.stop is StopReason.REACHED and solution.method == "linear" and solution.rel_l2 < 1e-8
    assert solution.error_estimate.reliable


@torch.no_grad()
def test_rounding_is_what_amplitudes_that_cancel_leave():
    stage, work = begun(get("poisson"), 196)
    stage.step(1)
    assert 1e-16 < work.rounding() < 0.1 * stage.levels[-1].held_out
    work.best.rows[:, work.net.layout.amplitude] *= 1e9
    assert work.rounding() > 1e-8


def test_fits_of_maps_have_more_cells_where_there_is_one():
    problem = get("convection-diffusion", eps=0.001)
    _, work = begun(problem, 128)
    assert work.is_linear()
    fits = MappedFits(work, Shape(0.3, (0.0, 0.0)))
    with torch.no_grad():
        held_out, net = fits(None)
    assert len(net.rows) == 121 and held_out > 0.1
