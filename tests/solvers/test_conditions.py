"""Solves with values given by output, conditions with unknowns, and a velocity at the start."""

import math
from dataclasses import dataclass

import pytest
import torch

from bumpnet_fast import Condition, Problem, load, march, save, solve
from bumpnet_fast.core.jet import Jet
from bumpnet_fast.problems import get, sampling

# --- by output -----------------------------------------------------------------------------------


@dataclass
class Channel(Problem):
    """Stokes flow in a channel: the velocity is given on all sides, and the pressure at one point."""

    name, want, outputs = "channel", "diagonal", 3
    dirichlet = {0: "all", 1: "all"}
    lower: tuple = (0.0, 0.0)
    upper: tuple = (2.0, 1.0)

    def residual(self, x, u):
        momentum = torch.stack([u.d(0)[:, 2], u.d(1)[:, 2]], 1) - u.laplacian[:, :2]
        return torch.cat([momentum, u.d(0)[:, :1] + u.d(1)[:, 1:2]], 1)

    def boundary_values(self, x):
        nothing = torch.full_like(x[:, 0], math.nan)
        return torch.stack([4 * x[:, 1] * (1 - x[:, 1]), 0 * x[:, 0], nothing], 1)

    def side_conditions(self):
        def outlet(counts):
            return torch.tensor([[self.upper[0], self.upper[1] / 2]], dtype=torch.float64)

        return [Condition("pressure at the outlet", outlet, lambda x, u: u.value[:, 2])]

    def reference(self, x):
        return torch.stack([4 * x[:, 1] * (1 - x[:, 1]), 0 * x[:, 0], 8 * (self.upper[0] - x[:, 0])], 1)


def test_a_pressure_that_is_left_free_is_found():
    solution = solve(Channel(), (4, 4), iterations=8)
    assert solution.rel_l2 < 1e-3 and not solution.warnings
    x = sampling.faces(Channel().domain, (5, 5))
    off = (solution(x) - Channel().reference(x)).abs().amax(0)
    assert off[:2].max() < 1e-12 < off[2] < 0.1
    assert [m.name for m in solution.report().misfits][-1] == "pressure at the outlet"


def test_an_output_that_only_derivatives_determine_is_a_warning():
    loose = type("Loose", (Channel,), {"side_conditions": lambda self: []})()
    [warning] = solve(loose, (3, 3), iterations=1).warnings
    assert warning.startswith("output 2 is determined up to a constant only")
    ring = type("Ring", (type(get("helmholtz")),), {"periodic": (0, 1), "residual": lambda self, x, u: u.laplacian})
    for boundary in ("hard", "soft"):
        warning, zero = solve(ring(), (3, 3), iterations=1, boundary=boundary).warnings
        assert zero.startswith("u = 0 solves")
        assert warning.startswith("u is determined up to a constant only")


@dataclass
class Mixed(Problem):
    """A reaction and diffusion: the first output is given at both ends, the second insulated at the lower one."""

    name, want, time, outputs = "mixed", "diagonal", 1, 2
    dirichlet = {0: "all", 1: ((1, 0), (0, 1))}
    lower: tuple = (0.0, 0.0)
    upper: tuple = (1.0, 1.0)

    def true(self, x):
        a, t = x.unbind(1)
        u = torch.sin(math.pi * a) * torch.exp(-t) + a * t
        return torch.stack([u, torch.cos(math.pi * a) * torch.cos(t)], 1)

    def residual(self, x, u):
        def left(u):
            reaction = u.value.prod(1)
            return u.d(1) - u.dd(0) + torch.stack([reaction, -reaction], 1)

        return left(u) - left(Jet.of(self.true, x, "diagonal"))

    def boundary_values(self, x):
        return self.true(x)

    def side_conditions(self):
        def lower_end(counts):
            t = torch.linspace(self.lower[1], self.upper[1], counts[1], dtype=torch.float64)
            return torch.stack([0 * t, t], 1)

        return [Condition("no flux", lower_end, lambda x, u: u.d(0)[:, 1], "gradient")]

    def reference(self, x):
        return self.true(x)


@pytest.mark.parametrize("boundary", ["hard", "soft"])
def test_outputs_with_conditions_of_their_own_can_be_marched_saved_and_judged(boundary, tmp_path):
    problem = Mixed()
    marched = march(problem, (4, 3), windows=2, iterations=8, boundary=boundary)
    assert marched.rel_l2 < (2e-3 if boundary == "hard" else 5e-2)
    if boundary == "hard":
        at = [sampling.faces(problem.domain, (5, 7), [face]) for face in ((0, 0), (0, 1), (1, 0))]
        off = [(marched(x) - problem.true(x)).abs().amax(0) for x in at]
        assert max(off[0][0], off[1].max(), off[2].max()) < 1e-12 < off[0][1]
    estimate = marched.error_estimate
    assert 1 / 3 < max(estimate.rel_l2) / marched.rel_l2 < 3
    save(tmp_path / "mixed.pt", marched)
    x = sampling.lattice(problem.domain, 50)
    assert torch.equal(load(tmp_path / "mixed.pt", problem=problem)(x), marched(x))


# --- unknowns in conditions ----------------------------------------------------------------------


@dataclass
class Rod(Problem):
    """u'' = -2 from 0 to a measured 0.25; the flux -k u' = 3 at the end tells k = 4, and q is the first slope."""

    name, want, unknowns = "rod", "laplacian", {"k": 1.0, "q": 0.5}
    dirichlet = ((0, 0),)
    lower: tuple = (0.0,)
    upper: tuple = (1.0,)

    def residual(self, x, u):
        return u.laplacian[:, 0] + 2

    def side_conditions(self):
        end = torch.ones(1, 1, dtype=torch.float64)
        return [
            Condition("flux", lambda counts: end, lambda x, u, k: -k * u.d(0) - 3, "gradient"),
            Condition("slope", lambda counts: 0 * end, lambda x, u, *, q: u.d(0) - q, "gradient"),
            Condition("measured", lambda counts: end, lambda x, u: u.value - 0.25),
        ]


def test_unknowns_that_only_conditions_have_are_found():
    solution = solve(Rod(), 5, iterations=20)
    assert solution.unknowns == pytest.approx({"k": 4, "q": 1.25}, abs=1e-3)
    report = solution.report()
    assert {m.name: m.relative < 1e-3 for m in report.misfits} == dict.fromkeys(
        ("equation", "flux", "slope", "measured"), True
    )
    assert set(report.error.unknowns) == {"k", "q"}


class Taking(Rod):
    def residual(self, x, u, m):
        return u.laplacian[:, 0] + m


class Untaken(Rod):
    unknowns = {"k": 1.0, "q": 0.5, "r": 1.0}


class Guessed(Rod):
    unknowns = {"k": math.nan, "q": 0.5}


@pytest.mark.parametrize(("problem", "message"), [
    (Taking(), "the residual of problem 'rod' takes 'm', and its unknowns are k, q"),
    (Guessed(), "the first guess of unknown 'k' must be a finite number, got nan"),
    (Untaken(), "unknown 'r' of problem 'rod' cannot be found: neither the residual of the equation nor"),
])  # fmt: skip
def test_unknowns_that_do_not_match_are_named(problem, message):
    with pytest.raises(ValueError, match=message):
        solve(problem, 5, iterations=1)


def test_a_nonlinear_condition_makes_a_linear_problem_nonlinear():
    class Radiating(Rod):
        linear, unknowns = True, {}

        def side_conditions(self):
            end = torch.ones(1, 1, dtype=torch.float64)
            return [Condition("radiation", lambda counts: end, lambda x, u: u.d(0) + u.value**4, "gradient")]

    solution = solve(Radiating(), 5, iterations=20)
    b = solution([[1.0]]).item() + 1  # u = b x - x^2
    assert solution.method == "gauss-newton" and abs(b - 2 + (b - 1) ** 4) < 1e-3
    assert solve(get("poisson"), (3, 3), iterations=1).method == "varpro"


# --- the velocity at the start -------------------------------------------------------------------


@dataclass
class String(Problem):
    """A string with an end that moves: u = sin(2 pi x) sin(2 pi t) / (2 pi) + x t."""

    name, want, time, time_order = "string", "diagonal", 1, 2
    lower: tuple = (0.0, 0.0)
    upper: tuple = (1.0, 0.5)

    def residual(self, x, u):
        return u.dd(1) - u.dd(0)

    def reference(self, x):
        a, t = x.unbind(1)
        return torch.sin(2 * math.pi * a) * torch.sin(2 * math.pi * t) / (2 * math.pi) + a * t

    def boundary_values(self, x):
        return x.prod(1)

    def velocity(self, x):
        return torch.sin(2 * math.pi * x[:, 0]) + x[:, 0]


@pytest.mark.parametrize(("boundary", "most"), [("hard", 1e-3), ("soft", 0.2)])
def test_a_string_that_starts_with_a_velocity(boundary, most):
    solution = solve(String(), (5, 4), iterations=15, boundary=boundary)
    assert solution.rel_l2 < most and not solution.warnings


def test_the_velocity_is_that_of_the_outputs_that_start():
    class Two(String):
        outputs, reference = 2, Problem.reference
        dirichlet = {0: "all", 1: ((0, 0),)}

        def boundary_values(self, x):
            return torch.stack([x.prod(1), 1 + x[:, 1]], 1)

        def velocity(self, x):
            return torch.stack([torch.sin(math.pi * x[:, 0]) + x[:, 0], torch.full_like(x[:, 0], math.nan)], 1)

        def residual(self, x, u):
            return u.dd(1) - u.dd(0) + u.value

    problem = Two()
    x = sampling.faces(problem.domain, (7, 7), [(1, 0)])
    u = problem.extend(
        lambda x: Jet.of(lambda x: 9 * torch.cos(x.sum(1))[:, None].expand(-1, 2), x, "gradient"), x, "gradient"
    )
    torch.testing.assert_close(u.d(1)[:, 0], torch.sin(math.pi * x[:, 0]) + x[:, 0])
    assert u.value[:, 1].isfinite().all()
    assert [c.name for c in problem.conditions()] == ["boundary 1", "boundary 2", "initial 1", "velocity 1"]
    for boundary in ("hard", "soft"):
        assert not solve(problem, (3, 3), iterations=1, boundary=boundary).warnings


@pytest.mark.parametrize("boundary", ["hard", "soft"])
def test_a_velocity_that_is_not_that_of_the_sides_is_a_warning(boundary):
    still = type("Still", (String,), {"velocity": Problem.velocity})()
    [warning] = solve(still, (4, 4), iterations=1, boundary=boundary).warnings
    assert "the velocity at the start is not that of the side at (1, 0)" in warning
    assert "velocity has 0 there and the boundary values change by 1" in warning
    fixed = type("Fixed", (String,), {"boundary_values": Problem.boundary_values})()
    fixed.velocity = lambda x: 1 + 0 * x[:, 0]
    assert len(solve(fixed, (4, 4), iterations=1, boundary=boundary).warnings) == 2


# --- bad input -----------------------------------------------------------------------------------


@dataclass
class Slab(Problem):
    name, want, time = "slab", "diagonal", 1
    lower: tuple = (0.0, 0.0)
    upper: tuple = (1.0, 1.0)

    def residual(self, x, u):
        return u.d(1)[:, 0] - u.dd(0)[:, 0] - 1


POINT = torch.tensor([[0.5, 0.5]], dtype=torch.float64)


def given(points=lambda counts: POINT, residual=lambda x, u: u.value):
    return {"side_conditions": lambda self: [Condition("c", points, residual)]}


#: Members of a slab, and what is said of them with a hard boundary.
WRONG = [
    (
        {"boundary_values": lambda self, x: 0.0},
        "boundary_values of problem 'slab' must give a tensor .*, got float 0.0",
    ),
    ({"boundary_values": lambda self, x: [0.0] * len(x)}, "boundary_values of .* must give a tensor .*, got list"),
    (
        {"boundary_values": lambda self, x: (x[:, 0] > 0).int()},
        "boundary_values of .* real numbers, .*, got torch.int32",
    ),
    ({"boundary_values": lambda self, x: x}, r"boundary_values of .* must have shape \[\d+\] or \[\d+, 1\] .*, 2\)"),
    ({"boundary_values": lambda self, x: 1 / x[:, 0]}, r"boundary_values of .* must be finite: .* is inf at \(0, 0\)"),
    ({"distance": lambda self, x: 1.0}, "distance of problem 'slab' must give a tensor .*, got float 1.0"),
    ({"distance": lambda self, x: (x[:, 0] - 0.3).sqrt()}, "distance of .* must be finite: .* the first is nan at"),
    ({"lift": lambda self, x: torch.zeros(3)}, r"lift of problem 'slab' must have shape .*, got \(3,\)"),
    (
        {"inside": lambda self, x: (x[:, 0] > 0).long()},
        "inside of problem 'slab' must give a bool tensor .*, got torch.int",
    ),
    ({"residual": lambda self, x, u: u}, "residual of problem 'slab' must give a tensor .*, got Jet"),
    ({"residual": lambda self, x, u: u.d(1) + u.value.mean()}, "residual of .* must depend on u at that point only"),
    ({"linear": True, "residual": lambda self, x, u: u.d(1) + u.value**2}, "linear of problem 'slab' is True, and its"),
    (
        {"side_conditions": lambda self: None},
        "side_conditions of problem 'slab' must give a list of Condition, got None",
    ),
    ({"side_conditions": lambda self: [0]}, "side_conditions of .* must give a list of Condition, got one that is int"),
    (given(lambda counts: [[0.5, 0.5]]), r"points of condition 'c' must give a tensor \[n, 2\], got list"),
    (given(lambda counts: POINT.long()), "points of condition 'c' must give real numbers, .*, got torch.int64"),
    (given(lambda counts: POINT[0]), r"points of condition 'c' must have shape .*, got \(2,\)"),
    (given(lambda counts: POINT * math.nan), "points of condition 'c' must be finite: 1 of 1 rows is not"),
    (given(lambda counts: 3 * POINT), r"points of condition 'c' must lie in the domain, .* the first is \(1.5, 1.5\)"),
    (given(residual=lambda x, u: 0.0), "the residual of condition 'c' must give a tensor .*, got float"),
    (
        given(residual=lambda x, u, k: k * u.value),
        "residual of condition 'c' takes 'k', and the problem has no unknowns",
    ),
]


@pytest.mark.parametrize("solver", [solve, march])
@pytest.mark.parametrize(("members", "message"), WRONG, ids=[message for _, message in WRONG])
def test_what_a_method_should_not_give_is_named_before_any_work(members, message, solver):
    told = []
    with pytest.raises((TypeError, ValueError), match=message):
        solver(type("Wrong", (Slab,), members)(), (4, 4), callback=told.append)
    assert not told


@pytest.mark.parametrize("members", [
    {"boundary_values": lambda self, x: torch.where(x[:, 1] > 0.8, math.nan, 0.0)},
    {"residual": lambda self, x, u: u.d(1)[:, 0] + torch.where(x[:, 1] > 0.8, math.nan, 1.0)},
    given(lambda counts: POINT),
])  # fmt: skip
def test_a_march_does_not_start_what_a_later_window_cannot_do(members):
    told = []
    with pytest.raises(ValueError, match=r"must be finite: .* at|must lie in the domain"):
        march(type("Late", (Slab,), members)(), (4, 4), windows=3, callback=told.append)
    assert not told


@pytest.mark.parametrize(("members", "message"), [
    ({"residual": lambda self, x, u: u.d(1)[:, 0] - torch.where(x[:, 0] > 0.8, math.nan, 1.0)},
     r"the residual of problem 'slab' is not finite at the start: \d+ of \d+ values are not, the first is nan"),
    ({"residual": lambda self, x, u: u.d(1)[:, 0] - u.value[:, 0].abs().sqrt() - 1},
     "the derivative by u of the residual of problem 'slab' is not finite at the start: "),
    (given(residual=lambda x, u: u.value * math.inf), "the residual of condition 'c' is not finite at the start: 1"),
])  # fmt: skip
def test_where_a_residual_is_not_finite_is_told(members, message):
    with pytest.raises(ValueError, match=message):
        solve(type("Wrong", (Slab,), members)(), (4, 4))


def test_what_cannot_be_marched_is_refused():
    inverse = get("inverse-heat")
    with pytest.raises(ValueError, match=r"'inverse-heat' has unknowns \(k\), which march cannot find: .* solve finds"):
        march(inverse, (3, 3), windows=2)
    with pytest.raises(ValueError, match="points of a march must be their number"):
        march(Slab(), (3, 3), windows=2, points=POINT)
