"""Lifts in closed form: the same as the interpolation that is differentiated automatically."""

import itertools
import math
from dataclasses import dataclass

import pytest
import torch

from bumpnet_fast.core.jet import Jet
from bumpnet_fast.problems import Problem, get
from bumpnet_fast.problems.transfinite import interpolated, interpolated_jet, linear

WANTS = ("gradient", "diagonal", "hessian", "laplacian")


def made(dim, **about):
    """A problem in so many dimensions whose values vary along all faces."""

    def values(self, x):
        waves = [torch.sin((j + 1.3) * x[:, j] + 0.2 * j) * torch.exp(0.4 * x[:, (j + 1) % dim]) for j in range(dim)]
        columns = [sum((1 + 0.5 * k) * wave ** (k + 1) for wave in waves) for k in range(self.outputs)]
        return torch.stack(columns, 1)

    body = {"name": "made", "boundary_values": values, "residual": lambda self, x, u: u.value} | about
    lower, upper = (tuple(c + 0.1 * j for j in range(dim)) for c in (-1.0, 0.7))
    types = {"lower": tuple[float, ...], "upper": tuple[float, ...]}
    return dataclass(type("Made", (Problem,), body | {"__annotations__": types, "lower": lower, "upper": upper}))()


def points(problem, n=7):
    lo, hi = problem.domain
    generator = torch.Generator().manual_seed(0)
    return lo + (hi - lo) * torch.rand(n, len(lo), dtype=torch.float64, generator=generator)


def same(jet, other):
    for a, b in zip(jet.parts(), other.parts(), strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            a, b = torch.broadcast_tensors(a, b)
            assert not a.requires_grad and torch.allclose(a, b, rtol=1e-11, atol=1e-11 * float(b.abs().max() + 1))


PROBLEMS = {
    "1d": made(1),
    "2d": made(2),
    "3d": made(3),
    "4d": made(4),
    "outputs": made(2, outputs=3),
    "one side": made(2, dirichlet=((0, 0), (1, 1), (1, 0))),
    "other sides": made(3, outputs=3, dirichlet={0: "all", 2: ((0, 0), (0, 1), (2, 1))}),
    "no sides": made(2, dirichlet=()),
    "time": made(2, time=1),
    "periodic": made(3, time=2, periodic=(0,)),
    "velocity": made(2, time=1, time_order=2, velocity=lambda self, x: torch.cos(3 * x[:, 0]) + x[:, 0] ** 3),
    "velocity of some": made(
        2, outputs=2, time=1, time_order=2, dirichlet={1: "all"}, velocity=lambda self, x: torch.exp(x)
    ),
    "wave": get("wave"),
}


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("want", WANTS)
def test_lifts_are_those_that_are_differentiated(name, want):
    problem = PROBLEMS[name]
    x = points(problem)
    same(problem._lift_jet(x, want), Jet.of(problem._lift_with_velocity, x, want))


@pytest.mark.parametrize("name", PROBLEMS)
def test_u_has_the_given_values_on_the_faces(name):
    problem = PROBLEMS[name]
    for axis, side in problem.faces:
        x = points(problem)
        x[:, axis] = problem.domain[side, axis]
        ones = [Jet.of(lambda x: torch.ones(len(x), problem.outputs).double(), x, "hessian")] * len(problem.shifts())
        u = problem.compose(x, "hessian")(*ones).value.expand(-1, problem.outputs)
        given = problem.boundary_values(x).reshape(len(x), -1).expand(-1, problem.outputs)
        own = [k for k in range(problem.outputs) if (axis, side) in problem.faces_of(k)]
        assert torch.allclose(u[:, own], given[:, own], atol=1e-12)


@pytest.mark.parametrize("want", WANTS)
def test_seams_are_those_that_are_differentiated(want):
    problem = made(3, time=2, periodic=(0, 1))
    x = points(problem, 40)

    def weight(x):
        return problem._seam_jet(x, "value").value[:, 0]

    same(problem._seam_jet(x, want), Jet.of(weight, x, want))
    weights = [problem._seam_jet(x + x.new_tensor(shift), "value").value for shift in problem.shifts()]
    assert torch.allclose(sum(weights), torch.ones_like(weights[0]))


def test_values_are_differentiated_along_faces_only():
    """A root has no slope across the face where it ends."""
    domain = torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    x = torch.rand(9, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    jet = interpolated_jet(domain, x, "hessian", [(0, 0)], lambda x: torch.sqrt(x[:, 0]) + x[:, 1] ** 3)
    same(jet, Jet.of(lambda x: x[:, 1] ** 3, x, "hessian"))


def test_zeros_are_not_added_up():
    called = []

    def nothing(x):
        called.append(len(x))
        return torch.zeros_like(x[:, 0])

    domain = torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    faces = [*itertools.product((0, 1), (0, 1))]
    jet = interpolated_jet(domain, torch.rand(5, 2).double(), "laplacian", faces, nothing)
    assert called == [4 * 5 + 4] and not jet.value.any() and not jet.laplacian.any()


def test_values_for_just_so_many_points_are_differentiated_as_a_whole():
    table = torch.arange(6, dtype=torch.float64)

    @dataclass
    class Table(Problem):
        name = "table"

        def boundary_values(self, x):
            return table * x[:, 0]

    problem = Table()
    x = points(problem, 6)
    same(problem._lift_jet(x, "laplacian"), Jet.of(problem.lift, x, "laplacian"))


def test_a_lift_of_your_own_is_differentiated():
    @dataclass
    class Own(Problem):
        name = "own"

        def lift(self, x):
            return torch.sin(math.pi * x[:, 0]) * x[:, 1]

    problem = Own()
    x = points(problem)
    same(problem._lift_jet(x, "hessian"), Jet.of(problem.lift, x, "hessian"))


def test_the_blend_of_two_faces():
    domain = torch.tensor([[0.0], [2.0]], dtype=torch.float64)
    x = torch.tensor([[0.5]], dtype=torch.float64)
    at = interpolated(domain, x, [(0, 0), (0, 1)], lambda x: 3 + x[:, 0] * 2)
    assert at.tolist() == [4.0] and linear(torch.tensor([0.25]), 1)[0].item() == 0.25
