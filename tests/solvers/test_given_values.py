"""Given values that contradict one another are found, and steep ones are not taken for them."""

from dataclasses import dataclass

import pytest
import torch

from bumpnet_fast import EvolutionProblem, Problem, evolve, march, problems, solve
from bumpnet_fast.problems import PROBLEMS
from bumpnet_fast.problems.evolution import EVOLUTIONS
from bumpnet_fast.solvers.given_values import contradictions


@dataclass
class Given(Problem):
    """Laplace's equation with the values that ``values`` gives."""

    name, want = "given", "laplacian"
    lower: tuple = (0.0, 0.0)
    upper: tuple = (2.0, 1e-3)
    values = None

    def residual(self, x, u):
        return u.laplacian[:, 0]

    def boundary_values(self, x):
        return type(self).values(x)


def given(function, **members):
    return type("_Given", (Given,), {"values": staticmethod(function), **members})()


CONTRADICT = {
    "a lid": (lambda x: (x[:, 1] == 1e-3).double(), 2, r"at \(0, 0.001\): the face x1 = 0 has 0 there and the face x2"),
    "a lid, to rounding": (lambda x: (x[:, 1] > 0.999999 * 1e-3).double(), 2, "disagree at"),
    "one corner": (lambda x: torch.where(x[:, 0] == 0, 5.0, 5 - 1e3 * x[:, 1]).double(), 1, r"at \(0, 0.001\)"),
    "in other units": (lambda x: 1e-9 * (x[:, 1] == 1e-3).double(), 2, "has 1e-09"),
}
AGREE = {
    "zero": lambda x: torch.zeros_like(x[:, 0]),
    "a constant": lambda x: torch.full_like(x[:, 0], 7.0),
    "smooth": lambda x: torch.sin(3 * x[:, 0]) * torch.cos(1e3 * x[:, 1]),
    "a thin layer at a corner": lambda x: torch.exp(-x[:, 0] / 2e-3 - x[:, 1] / 1e-6),
    "a table for other points": lambda x: torch.zeros(57, dtype=x.dtype) + x[:, 0],
    "no number": lambda x: x[:, 0] * float("nan"),
}


@pytest.mark.parametrize(("values", "count", "message"), CONTRADICT.values(), ids=CONTRADICT)
def test_faces_that_disagree(values, count, message):
    found = contradictions(given(values))
    assert len(found) == count
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(found[0])


@pytest.mark.parametrize("values", AGREE.values(), ids=AGREE)
def test_faces_that_agree(values):
    assert contradictions(given(values)) == []


@pytest.mark.parametrize("kind", [*PROBLEMS.values(), *EVOLUTIONS.values()], ids=lambda kind: kind.__name__)
def test_the_library_does_not_contradict_itself(kind):
    assert contradictions(kind()) == []


def test_one_of_several_outputs():
    found = contradictions(given(lambda x: torch.stack([x[:, 0], (x[:, 1] == 1e-3).double()], 1), outputs=2))
    assert "of output 1" in str(found[0])


def test_random_numbers_go_on_as_if_not_asked():
    torch.manual_seed(3)
    wanted = torch.rand(3)
    torch.manual_seed(3)
    contradictions(given(lambda x: torch.rand(len(x)).to(x)))
    assert torch.equal(torch.rand(3), wanted)


def test_a_solution_says_so():
    solution = solve(given(lambda x: (x[:, 1] == 1e-3).double()), (3, 3), iterations=1)
    assert sum("the given values disagree at" in warning for warning in solution.warnings) == 2
    assert not solve(problems.get("poisson"), (3, 3), iterations=1).warnings


@dataclass
class Cooling(EvolutionProblem):
    """Heat that starts at 1 and is held at ``ends``."""

    name, periodic = "cooling", False
    ends: float = 0.0
    lower: tuple = (0.0,)
    upper: tuple = (1.0,)
    final_time: float = 0.01

    def initial(self, x):
        return torch.ones_like(x[:, 0])

    def rhs(self, x, u, t):
        return u.laplacian

    def boundary_values(self, x):
        return torch.full_like(x[:, 0], self.ends)


def test_a_start_that_disagrees_with_the_ends():
    warnings = evolve(Cooling(), 12, times=1, measure=False).warnings
    assert any("initial has 1 there and boundary_values 0" in warning for warning in warnings)
    assert not any("disagree" in warning for warning in evolve(Cooling(ends=1.0), 12, times=1, measure=False).warnings)


@dataclass
class Heated(Problem):
    """Heat whose left end is warmed: the start, too, is given by a function of x alone."""

    name, want, time = "heated", "diagonal", 1
    lower: tuple = (0.0, 0.0)
    upper: tuple = (1.0, 1.0)

    def residual(self, x, u):
        return u.d(1) - u.dd(0, 0)

    def boundary_values(self, x):
        return torch.where(x[:, 0] == 0, x[:, 1], 0.0)


def test_a_window_starts_from_the_one_before_and_not_from_given_values():
    solution = march(Heated(), (3, 3), windows=3, iterations=2)
    assert not any("disagree" in warning for warning in solution.warnings)
