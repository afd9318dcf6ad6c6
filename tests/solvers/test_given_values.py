"""Given values that contradict one another are found and dealt with, and steep ones are not taken for them."""

import math
from dataclasses import dataclass

import pytest
import torch

from bumpnet_fast import EvolutionProblem, Problem, evolve, load, march, problems, resume, save, solve
from bumpnet_fast.core.jet import Jet
from bumpnet_fast.problems import PROBLEMS
from bumpnet_fast.problems.evolution import EVOLUTIONS
from bumpnet_fast.solvers.given_values import contradictions, eased
from bumpnet_fast.solvers.stationary import new_net


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


#: Of starts along x1 in [-1, 1]: what they are, and what is found.
BROKEN = {
    "a tent": (lambda x: 1 - x.abs(), r"have a kink at \(0, 0\): the slope along x1 changes from 1 to -1$"),
    "a tent on an offset": (lambda x: 300 - x.abs(), r"have a kink at \(0, 0\)"),
    "a narrow tent": (lambda x: (1 - 50 * (x - 0.3).abs()).clamp(min=0), r"have a kink at \(0.3, 0\).*, and [12] more"),
    "a small kink": (lambda x: x + 0.05 * (x - 0.1234).abs(), r"at \(0.1234, 0\): .* from 0.95 to 1.05"),
    "a kink beside a layer": (lambda x: torch.tanh(100 * x) + (x - 0.5).abs(), r"kink at \(0.5, 0\)"),
    "a cusp": (lambda x: (x - 0.31).abs().sqrt(), r"kink at \(0.31, 0\)"),
    "a kink in single precision": (lambda x: 1e5 * x.float().abs(), r"kink at \(0, 0\)"),
    "a step": (lambda x: 3.0 * (x > 0.2), r"x2 = 0 jump at \(0.2, 0\) from 0 to 3"),
}
SMOOTH = {
    "a layer": lambda x: torch.tanh(x / 0.01),
    "a thin layer": lambda x: torch.tanh((x - 0.2) / 1e-4),
    "a peak": lambda x: torch.exp(-(((x - 0.2) / 0.001) ** 2)),
    "waves": lambda x: torch.sin(2000 * x),
    "one and a half derivatives": lambda x: x.abs() ** 1.5,
    "single precision": lambda x: torch.sin(3 * x.float()).double() + 300,
}


@dataclass
class Start(Problem):
    """u_t = nu u_xx, zero at the ends, from ``shape``."""

    name, want, time, linear, shape = "start", "diagonal", 1, True, staticmethod(lambda x: 1 - x.abs())
    nu: float = 0.1
    lower: tuple = (-1.0, 0.0)
    upper: tuple = (1.0, 1.0)

    def residual(self, x, u):
        return u.d(1) - self.nu * u.dd(0)

    def boundary_values(self, x):
        t = 2 * (x[:, 0] - self.lower[0]) / (self.upper[0] - self.lower[0]) - 1
        return torch.where(x[:, 1] == 0, type(self).shape(t), torch.zeros_like(t))


def start(shape, **members):
    return type("_Start", (Start,), {"shape": staticmethod(shape), **members})()


def at_start(problem):
    """What is said about the start, without its ends."""
    return [str(one) for one in contradictions(problem) if one.faces == ((1, 0),)]


@pytest.mark.parametrize(("shape", "message"), BROKEN.values(), ids=BROKEN)
def test_values_of_one_face_that_break(shape, message):
    (found,) = at_start(start(shape))
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(found)


@pytest.mark.parametrize("shape", SMOOTH.values(), ids=SMOOTH)
def test_values_of_one_face_that_are_steep(shape):
    assert at_start(start(shape)) == []


def test_a_period_that_does_not_close():
    assert "do not close the period at (-1, 0): 1 at its end and -1" in at_start(start(lambda x: x, periodic=(0,)))[0]
    (found,) = at_start(start(lambda x: x * x, periodic=(0,)))
    assert "a kink where the period closes at (-1, 0): the slope along x1 changes from 2 to -2" in found
    assert not at_start(start(lambda x: torch.tanh(50 * torch.sin(math.pi * x)), periodic=(0,)))


def test_an_equation_without_second_derivatives_does_not_mind_a_kink():
    assert not at_start(start(lambda x: x.abs(), want="gradient"))
    ramp = given(lambda x: torch.where(x[:, 0] == 0, (x[:, 1] - 5e-4).clamp(min=0), 0.0), time=1, want="diagonal")
    assert not any("kink" in str(one) for one in contradictions(ramp))


def test_a_disc_on_a_face_of_two_dimensions():
    @dataclass
    class Disc(Problem):
        lower: tuple = (0.0, 0.0, 0.0)
        upper: tuple = (1.0, 1.0, 1.0)

        def boundary_values(self, x):
            return (x[:, 2] == 0) * ((x[:, 0] - 0.4) ** 2 + (x[:, 1] - 0.55) ** 2 < 0.002).double()

    found = [str(one) for one in contradictions(Disc())]
    assert len(found) == 2 and all("x3 = 0 jump at" in sentence for sentence in found)


def test_a_lift_of_its_own_replaces_the_given_values():
    function = lambda x: (x[:, 1] == 1e-3).double()  # noqa: E731
    smoothed = given(function, lift=lambda self, x: (x[:, 1] / 1e-3) ** 2 * torch.sin(x[:, 0] * math.pi / 2))
    assert contradictions(given(function)) and not contradictions(smoothed)


@pytest.mark.parametrize("kind", [*PROBLEMS.values(), *EVOLUTIONS.values()], ids=lambda kind: kind.__name__)
def test_the_library_does_not_contradict_itself(kind):
    assert contradictions(kind()) == []


def test_one_of_several_outputs():
    found = contradictions(given(lambda x: torch.stack([x[:, 0], (x[:, 1] == 1e-3).double()], 1), outputs=2))
    assert "of output 1" in str(found[0])


def test_an_output_that_is_free_on_a_face_is_left_out():
    lid = lambda x: torch.stack([torch.zeros_like(x[:, 0]), (x[:, 1] == 1e-3).double()], 1)  # noqa: E731
    sides = ((0, 0), (0, 1))
    assert contradictions(given(lid, outputs=2, dirichlet={0: "all", 1: ((1, 1),)})) == []
    assert contradictions(given(lid, outputs=2, dirichlet={0: "all", 1: sides})) == []
    assert len(contradictions(given(lid, outputs=2, dirichlet={0: "all", 1: (*sides, (1, 1))}))) == 2


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


def _centre(solution, *x):
    return float(solution(torch.tensor([x], dtype=torch.float64)))


def test_a_hot_lid_on_cold_walls():
    lid = given(lambda x: 1e5 * (x[:, 1] == 2.0), linear=True)
    lid = type(lid)(upper=(2.0, 2.0))
    solution = solve(lid, (5, 5), iterations=40)
    assert solution.boundary == "soft" and solution.problem is lid
    assert _centre(solution, 1, 1) == pytest.approx(0.25e5, rel=0.02)
    for corner in ("(0, 2)", "(2, 2)"):
        assert any(f"disagree at {corner}" in w and "within (0.3, 0.3)" in w for w in solution.warnings)
    error = solution.error_estimate
    assert not error.reliable and "no smooth u" in error.reason and 0.01 < error.rel_l2[0] < 0.3


@pytest.mark.parametrize("units", [(1.0, 1.0), (1e7, 1e12)], ids=["metres", "geology"])
def test_a_tent_as_the_start(units):
    (length, seconds), terms = units, range(1, 40, 2)
    series = sum(8 / (k * math.pi) ** 2 * math.exp(-0.1 * (k * math.pi / 2) ** 2) for k in terms)
    tent = Start(nu=0.1 * length**2 / seconds, lower=(-length, 0.0), upper=(length, seconds))
    solution = solve(tent, (5, 5), iterations=30)
    assert _centre(solution, 0, seconds) == pytest.approx(series, rel=5e-3)
    (warning,) = solution.warnings
    assert "kink at (0, 0)" in warning and "boundary='soft'" in warning
    x = torch.stack([torch.linspace(-length, length, 41).double(), torch.full((41,), 0.1 * seconds).double()], 1)
    wanted = sum(
        8
        / (k * math.pi) ** 2
        * torch.cos(k * math.pi / 2 * x[:, 0] / length)
        * math.exp(-0.01 * (k * math.pi / 2) ** 2)
        for k in range(1, 200, 2)
    )
    off = float((solution(x)[:, 0] - wanted).norm() / wanted.norm())
    assert solution.error_estimate.rel_l2[0] > off / 3


def test_a_plucked_string():
    @dataclass
    class String(Start):
        time_order = 2

        def residual(self, x, u):
            return u.dd(1) - u.dd(0)

    solution = solve(String(), (6, 6), iterations=30)  # the kink runs to both sides
    assert solution.boundary == "soft" and not solution.error_estimate.reliable
    assert _centre(solution, 0, 0.5) == pytest.approx(0.5, abs=0.03)
    assert _centre(solution, 0, 1) == pytest.approx(0, abs=0.06)


def test_asked_for_hard_it_is_hard_and_says_so():
    solution = solve(Start(), (4, 4), iterations=2, boundary="hard")
    assert solution.boundary == "hard" and "carries the kink through the domain" in solution.warnings[0]
    error = solution.error_estimate
    assert not error.reliable and math.isnan(error.rel_l2[0]) and "kink at (0, 0)" in error.reason


def test_jumps_are_not_imposed_within_a_bump():
    problem = start(lambda x: (x > 0.2).double())
    net = new_net(problem, (10, 5))
    posed, found = eased(problem, net, contradictions(problem)), contradictions(problem)
    x = torch.tensor([[0.2, 0.0], [0.25, 0.0], [0.1, 0.0], [0.45, 0.0], [-0.5, 0.0], [0.999, 0.0]], dtype=torch.float64)
    u = Jet("value", torch.full((6, 1), 7.0, dtype=torch.float64))
    eases, as_is = ({c.name: c for c in p.conditions()}["initial"].residual(x, u) for p in (posed, problem))
    weight = (eases / as_is)[:, 0].tolist()
    assert {one.faces for one in found} == {((1, 0),), ((0, 1), (1, 0))}
    assert weight[0] < 0.01 and 0.01 < weight[1] < 0.5 and 0.1 < weight[2] < 0.9 and weight[5] < 0.01
    assert weight[3:5] == [1, 1] and posed.conditions is not problem.conditions


def test_files_hold_what_was_solved(tmp_path):
    problem, x = start(lambda x: (x.abs() < 0.5).double()), torch.rand(9, 2).double()
    solution = solve(problem, (3, 3), iterations=4, checkpoint=tmp_path / "run.pt")
    save(tmp_path / "model.pt", solution)
    loaded = load(tmp_path / "model.pt", problem=problem)
    assert torch.equal(loaded(x), solution(x)) and loaded.boundary == "soft" and loaded.warnings == solution.warnings
    solve(problem, (3, 3), iterations=2, checkpoint=tmp_path / "half.pt")
    assert torch.equal(resume(tmp_path / "half.pt", problem=problem, iterations=4)(x), solution(x))


def test_a_march_is_soft_throughout():
    solution = march(Start(), (4, 4), windows=2, iterations=10)
    assert {part.boundary for part in solution.parts} == {"soft"} and "kink at" in solution.warnings[0]
    assert _centre(solution, 0, 1) == pytest.approx(0.6432, rel=5e-3)


def test_bumps_that_evolve_do_not_mind():
    class Tent(Cooling):
        def initial(self, x):
            return 0.5 - (x[:, 0] - 0.5).abs()

    class Step(Cooling):
        def initial(self, x):
            return (x[:, 0] > 0.3).double()

    assert not evolve(Tent(), 20, times=1, measure=False).warnings
    assert "the start jumps at (0.3) from 0 to 1" in evolve(Step(), 20, times=1, measure=False).warnings[1]


def test_a_window_starts_from_the_one_before_and_not_from_given_values():
    solution = march(Heated(), (3, 3), windows=3, iterations=2)
    assert not any("disagree" in warning for warning in solution.warnings)
