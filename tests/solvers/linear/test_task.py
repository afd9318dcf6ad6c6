"""The work of linear solves: Newton's method without an orthonormal basis, and places where u is seen."""

import math

import pytest
import torch
from cases import Cubic

from bumpnet_fast.core.maps import AxisMap, Maps
from bumpnet_fast.problems import get
from bumpnet_fast.solvers.elimination import Projected
from bumpnet_fast.solvers.linear.levels import first_shape
from bumpnet_fast.solvers.linear.task import FrozenTask, Seen
from bumpnet_fast.solvers.starting import first_rows


def task(problem, bumps, **more):
    return FrozenTask(problem, bumps, first_shape(len(problem.lower)), None, 1e-26, 0, **more)


@pytest.mark.parametrize("problem, start", [
    (get("kovasznay"), None),
    (Cubic(), lambda x: 3 * torch.sin(math.pi * x[:, 0])),
    (Cubic(), lambda x: 0.5 * torch.sin(math.pi * x[:, 0])),
])  # fmt: skip
@torch.no_grad()
def test_newton_finds_what_elimination_finds(problem, start):
    work = task(problem, 40 if start is None else 12, start=start)
    work.take(work.candidate(first_shape(len(problem.lower))))
    rows = work.best.rows
    first = rows.clone()
    first[:, work.net.layout.amplitude] = 0.0
    if start is not None:
        first = first_rows(problem, work._net_of(first, work.best.frame), work.boundary, start)
    point = Projected(work.system, 1e-26).start(first)
    residual = work.system.residual(work.system.jets(rows))
    assert float(residual @ residual) == pytest.approx(point.loss, rel=0.03)


@torch.no_grad()
def test_no_step_is_taken_where_the_rows_are_as_predicted(monkeypatch):
    work = task(get("kovasznay"), 60)
    work.take(work.candidate(first_shape(2)))
    near = work.candidate(first_shape(2).sharper(0.95))
    monkeypatch.setattr(FrozenTask, "_newton", lambda *_: pytest.fail("a step was taken"))
    assert work.polished(near) is near


@torch.no_grad()
def test_what_is_applied_is_the_design_times_the_amplitudes():
    work = task(get("kovasznay"), 30)
    work.take(work.candidate(first_shape(2)))
    rows, system = work.best.rows, work.system
    jets = system.jets(rows)
    _, coefficients = system.linearise(jets)
    A, _ = system.design(rows, coefficients)
    h = rows[:, work.net.layout.amplitude].flatten()
    size = float((h.abs() @ A.abs()).max())
    assert torch.allclose(system.applied(coefficients, jets), h @ A, rtol=0, atol=1e-11 * size)


@pytest.mark.parametrize("name, maps", [("poisson", None), ("advection", None), ("convection-diffusion", "layer")])
@torch.no_grad()
def test_u_is_seen_as_the_net_has_it(name, maps):
    problem = get(name)
    if maps is not None:
        maps = Maps((AxisMap(0.0, 1.0, "asinh", (1.0,), (0.05,), 0.1), AxisMap(0.0, 1.0)))
    work = task(problem, 64)
    work.remap(maps, 64)
    work.take(work.candidate(first_shape(2)))
    seen = work._places()
    assert isinstance(seen, Seen) and torch.allclose(work.u(), work._values(work.net, seen.x), rtol=1e-12, atol=1e-12)
    n = len(work.best.rows)
    inner = torch.randn(2, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    changes = seen.changes(work.best.rows, work.best.frame, inner, 50)
    for h, change in zip(inner, changes, strict=True):
        rows = work.best.rows.clone()
        rows[:, work.net.layout.amplitude] += h[:, None]
        u = work._values(work._net_of(rows, work.best.frame), seen.x)[:50]
        assert torch.allclose(u - work.u()[:50], change, rtol=1e-6, atol=1e-9 * float(work.best.rows.abs().max()))


@torch.no_grad()
def test_a_doubt_is_looked_at_once_for_every_solution(monkeypatch):
    work = task(get("poisson"), 64)
    work.take(work.candidate(first_shape(2)))
    assert work.doubt() == ""
    monkeypatch.setattr(Seen, "changes", lambda *_: pytest.fail("it is known"))
    assert work.doubt() == ""
