"""One level: bumps that are rebuilt as u changes, and what ends it early."""

import math
from dataclasses import dataclass

import pytest
import torch
from evolutions import Decay, Swelling

from bumpnet_fast.problems.evolution import Advection, Burgers
from bumpnet_fast.solvers import StopReason
from bumpnet_fast.solvers.evolution import level
from bumpnet_fast.solvers.evolution.level import Fineness, Level

THIRDS = (1 / 3, 2 / 3, 1.0)


def solved(problem, error=1e-4, ends=THIRDS, **options):
    ends = [problem.final_time * end for end in ends]
    with torch.no_grad():
        return Level(problem, Fineness.of(error), ends, False, False, None, **options).follow()


def test_finer_levels_have_more_bumps_and_shorter_steps():
    fine, coarse = Fineness.of(1e-8), Fineness.of(1e-4)
    assert fine.kappa < coarse.kappa and fine.tolerance < coarse.tolerance


@pytest.mark.parametrize("error", [1e-4, 1e-6])
def test_a_pulse_that_moves_has_about_the_error_of_its_level(error):
    problem = Advection(narrow=30)
    found = solved(problem, error)
    x = torch.linspace(0, 6, 500, dtype=torch.float64)
    for t in (0.7, 2.9, 6.0):  # within steps
        off = found.values(x, t)[:, 0] - problem.exact(x[:, None], t)
        assert float(off.norm() / problem.exact(x[:, None], t).norm()) < error
    assert found.reason is StopReason.FINISHED and len({len(s.model.grid.centres) for s in found.stretches}) == 1
    assert abs(found.stretches[0].model.speed - 1) < 1e-3


def test_bumps_are_rebuilt_as_a_front_forms():
    found = solved(Burgers(nu=0.01))
    sizes = [stretch.model.grid.sizes.min() for stretch in found.stretches]
    assert len(sizes) > 3 and sizes[-1] < 0.3 * sizes[0]
    assert [stretch.times[0] for stretch in found.stretches[1:]] == [s.times[-1] for s in found.stretches[:-1]]
    assert found.times == pytest.approx([0, *THIRDS]) and len(found.reports) == 4


def test_a_front_that_needs_too_many_bumps_ends_it_with_time_and_place(monkeypatch):
    monkeypatch.setattr(level, "MOST", 60)
    found = solved(Burgers(nu=1e-3))
    assert found.reason is StopReason.NOT_REACHED and 0.2 < found.reached < 0.5
    assert found.message.startswith("too fine at t = 0.") and "x = " in found.message and "60 unknowns" in found.message
    assert len(found.reports) == len(found.times) >= 1


def test_a_solution_that_blows_up_ends_it_with_time_and_place():
    found = solved(Swelling(final_time=2.0), ends=(0.25, 0.4, 1.0))
    assert found.reason is StopReason.UNSTABLE and found.times == [0, 0.5, 0.8]
    assert "unstable at t = 0.99" in found.message and "x = " in found.message


def test_a_layer_that_begins_at_an_end_is_resolved_from_the_start():
    @dataclass
    class Lifted(Decay):
        """u_t = nu u_xx + 1 from 0: the ends stay at 0."""

        start: str = "zero"

        def rhs(self, x, u, t):
            return self.nu * u.laplacian[:, 0] + 1

    found = solved(Lifted(), 1e-5, ends=(0.01, 1.0))
    x = torch.linspace(-1, 1, 2001, dtype=torch.float64)
    for t in (1e-3, 0.01):  # far from the other end: u = t minus the response to a ramp at the end
        near = torch.minimum(1 + x, 1 - x) / math.sqrt(4 * 0.1 * t)
        ramp = (1 + 2 * near**2) * torch.erfc(near) - 2 / math.sqrt(math.pi) * near * torch.exp(-(near**2))
        off = found.values(x, t)[:, 0] - t * (1 - ramp)
        assert float(off.square().mean().sqrt()) < 1e-4 * t
