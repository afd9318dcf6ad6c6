"""Solves over patches: errors, estimates, and which problems they are for."""

import dataclasses
import math

import pytest
import torch

from bumpnet_fast import BumpNet, Jet, io
from bumpnet_fast.nets.patches import PatchNet
from bumpnet_fast.problems import Condition, Problem, get, sampling
from bumpnet_fast.solvers import StopReason, solve
from bumpnet_fast.solvers.linear import Linear
from bumpnet_fast.solvers.linear import solved as linear_solved
from bumpnet_fast.solvers.loop import Ended, Stop
from bumpnet_fast.solvers.patches import Patches, PatchWork, local, suits


def posed(
    exact, operator=lambda x, u: u.laplacian[:, 0], want="laplacian", lower=(-1.0, -1.0), upper=(1.0, 1.0), **more
):
    """A problem with a known solution."""

    def residual(self, x, u):
        return operator(x, u) - operator(x, Jet.of(exact, x, want))

    members = {"name": "posed", "want": want, "residual": residual, "exact": lambda self, x: exact(x)} | more
    fields = [("lower", tuple, lower), ("upper", tuple, upper)]
    return dataclasses.make_dataclass("Posed", fields, bases=(Problem,), namespace=members)()


def peaks(*of):
    def exact(x):
        return sum(torch.exp(-(x - x.new_tensor(c)).square().sum(1) / (2 * s * s)) for c, s in of)

    return exact


def varying(x, u):
    return (1 + 0.5 * torch.sin(3 * x[:, 0])) * u.dd(0)[:, 0] + u.dd(1)[:, 0] + 3 * u.d(0)[:, 0] - 5 * u.value[:, 0]


def mixed(x, u):
    return u.dd(0)[:, 0] + u.dd(1)[:, 0] + 0.6 * u.dd(0, 1)[:, 0] + 20 * u.d(0)[:, 0]


def tiny(x, u):
    return 1e-6 * u.dd(0)[:, 0] + 25 * u.dd(1)[:, 0]


def peak_in_units(x):
    return 1e4 * torch.exp(-(((x[:, 0] / 1e-3 - 0.4) / 0.08) ** 2 + ((x[:, 1] / 5 - 0.6) / 0.08) ** 2))


CASES = {
    "two scales": posed(peaks(((-0.2, -0.1), 0.3), ((0.35, 0.4), 0.06))),
    "in the corner": posed(peaks(((0.93, 0.9), 0.07))),
    "oblique layer": posed(lambda x: torch.tanh((x[:, 0] + 0.7 * x[:, 1] - 0.1) / 0.12)),
    "ring": posed(lambda x: torch.tanh((x.square().sum(1) - 0.3) / 0.15)),
    "coefficients": posed(peaks(((0.35, 0.4), 0.08)), varying, "diagonal"),
    "mixed": posed(peaks(((0.35, 0.4), 0.08)), mixed, "hessian"),
    "units": posed(peak_in_units, tiny, "diagonal", (0.0, 0.0), (1e-3, 5.0)),
    "long": posed(peaks(((3.3, 0.4), 0.1)), lower=(0.0, 0.0), upper=(8.0, 1.0)),
}


def true_error(problem, u):
    x = sampling.interior(problem.domain, (8192, 1), "sobol", 99)
    exact = problem.exact(x)
    return float((u(x)[:, 0] - exact).norm() / exact.norm())


def followed(problem, error, most=400):
    """The stage alone."""
    work, stage = PatchWork(problem, error), Patches(error=error, most=most)
    stage.start(work, 64)
    reason = None
    while reason is None:
        stage.step(1)
        reason = stage.over([])
    return work, stage, reason


@pytest.mark.parametrize("name", CASES)
def test_a_stated_error_is_reached_and_estimated(name):
    problem = CASES[name]
    work, stage, reason = followed(problem, 1e-4)
    estimate, error = stage.estimate(), true_error(problem, work.net)
    assert reason is StopReason.REACHED and estimate.reliable and estimate.rel_l2[0] <= 1e-4
    assert error <= 1e-4 and error <= 3 * estimate.rel_l2[0] and estimate.rel_l2[0] <= 300 * error
    assert len(work.net.leaves) < 400


def test_cells_of_level_0_suit_the_shape_of_the_domain():
    assert PatchWork(CASES["long"]).rows.roots == (8, 1) and PatchWork(CASES["units"]).rows.roots == (1, 1)


def test_leaves_are_small_where_the_solution_is_steep():
    work, *_ = followed(CASES["in the corner"], 1e-3)
    lo, hi = work.net.boxes.unbind(1)
    widths = (hi - lo)[:, 0]
    assert bool(((lo + hi) / 2 > 0.5).all(1)[widths == widths.min()].all()) and float(widths.max()) == 0.5


def test_solve_takes_patches_for_a_local_feature(tmp_path):
    problem = get("sharp-poisson")
    solution = solve(problem, error=1e-4)
    assert solution.stop is StopReason.REACHED and isinstance(solution.net, PatchNet) and not solution.warnings
    assert solution.method == "linear+patches" and solution.boundary == "soft"
    assert solution.rel_l2 <= 1e-4 and solution.error_estimate.reliable
    assert [entry["iteration"] for entry in solution.history] == list(range(len(solution.history)))
    io.save(tmp_path / "model.pt", solution)
    loaded, x = io.load(tmp_path / "model.pt"), torch.rand(9, 2, dtype=torch.float64)
    assert torch.equal(loaded.predict(x), solution.predict(x)) and loaded.rel_l2 == solution.rel_l2
    assert torch.equal(loaded.jet(x).hessian, solution.jet(x).hessian)
    assert "reliable" in str(solution.report()) and "afterwards" in str(loaded.report())
    assert not solution.estimate_error().reliable and solution.error_estimate.reliable
    with pytest.raises(ValueError, match="patches"):
        solution.enrich()


def test_callbacks_see_every_tree_and_can_interrupt():
    seen = []

    def stop(progress):
        seen.append(progress.entry)
        if progress.entry["stage"] == "patches" and progress.entry.get("leaves", 0) > 16:
            raise KeyboardInterrupt

    solution = solve(get("sharp-poisson"), error=1e-6, callback=stop)
    assert solution.stop is StopReason.INTERRUPTED and len(solution.net.leaves) > 16
    assert seen[-1]["bumps"] == len(solution.net.rows)


@pytest.mark.parametrize("exact, expected", [
    (peaks(((0.3, 0.2), 0.07)), True),
    (peaks(((0.3, 0.2), 0.05), ((-0.6, -0.5), 0.05)), True),
    (lambda x: torch.tanh((x[:, 0] + 0.7 * x[:, 1] - 0.1) / 0.03), True),
    (lambda x: torch.exp((x[:, 0] - 1) / 0.01) * torch.cos(x[:, 1]), False),
    (lambda x: torch.tanh((x[:, 1] - 0.2) / 0.01) * torch.cos(2 * x[:, 0]), False),
    (lambda x: torch.sin(9 * x[:, 0]) * torch.cos(7 * x[:, 1]), False),
], ids=["peak", "two peaks", "oblique", "layer", "inner layer", "waves"])  # fmt: skip
def test_a_residual_in_bands_along_the_axes_is_left_to_maps(exact, expected):
    problem = posed(exact)
    zero = BumpNet(2, 4, problem.domain, dtype="float64")
    assert local(problem, zero, "soft") is expected


def test_two_trees_that_agree_by_chance_are_not_believed():
    kink = posed(lambda x: (x[:, 0] + 0.115).abs() ** 2.7)
    work, stage, reason = followed(kink, 1e-6, most=100)
    assert reason is not StopReason.REACHED or true_error(kink, work.net) <= 3e-6
    slow = [one for one in stage.known[1:] if not one.steep]
    assert slow and not stage.known[1].converged


@dataclasses.dataclass
class Robin(Problem):
    """A flux or Robin condition on one side."""

    name, want, dirichlet = "robin", "laplacian", ((0, 0), (1, 0), (1, 1))
    rate: float = 0.0
    part: float = 1.0

    def exact(self, x):
        return peaks(((0.6, 0.2), 0.1))(x)

    def residual(self, x, u):
        return u.laplacian[:, 0] - Jet.of(self.exact, x, "laplacian").laplacian[:, 0]

    def side_conditions(self):
        def points(counts):
            x = sampling.faces(self.domain, counts, [(0, 1)])
            return x[: math.ceil(self.part * len(x))]

        def misfit(x, u):
            return u.d(0)[:, 0] + self.rate * u.value[:, 0] - robin(Jet.of(self.exact, x, "gradient"))

        def robin(u):
            return u.d(0)[:, 0] + self.rate * u.value[:, 0]

        return [Condition("flux", points, misfit, "gradient")]


@pytest.mark.parametrize("rate", [0.0, 3.0])
def test_derivatives_may_be_given_on_a_whole_side(rate):
    problem = Robin(rate=rate)
    assert suits(problem, None)
    work, stage, reason = followed(problem, 1e-4)
    assert reason is StopReason.REACHED
    assert true_error(problem, work.net) <= min(1e-4, 3 * stage.estimate().rel_l2[0])


def test_other_problems_do_not_get_patches():
    assert suits(get("sharp-poisson"), None) and suits(get("sharp-poisson"), "soft")
    assert not suits(get("sharp-poisson"), "hard") and not suits(get("sharp-poisson"), None, 2.0)
    assert not suits(Robin(part=0.5), None)
    for name in ("heat", "wave", "heat2d", "lshape", "kovasznay", "inverse-heat", "regression", "advection"):
        assert not suits(get(name), None), name
    assert not suits(posed(peaks(((0.0, 0.0), 0.1)), dirichlet=((0, 0), (0, 1))), None)
    assert not suits(posed(peaks(((0.0, 0.0), 0.1)), periodic=(0,)), None)


def test_what_is_not_reached_is_said():
    kink = posed(lambda x: (x[:, 0] + 0.3 * x[:, 1]).abs(), lambda x, u: u.value[:, 0] - 0.01 * u.laplacian[:, 0])
    _, stage, reason = followed(kink, 1e-8, most=80)
    assert reason is not StopReason.REACHED and (not stage.estimate().reliable or stage.estimate().rel_l2[0] > 1e-8)
    one, alone = PatchWork(kink), Patches(error=1e-8)
    alone.start(one, 64)
    alone.step(1)
    assert "one tree" in alone.estimate().reason and not alone.estimate().reliable


def test_what_patches_do_not_reach_is_tried_by_maps_and_larger_bases(monkeypatch):
    monkeypatch.setattr(Patches.__init__, "__defaults__", (1e-6, 4))
    solution = linear_solved(get("sharp-poisson"), Linear(), Stop(), error=1e-2)
    stages = [entry["stage"] for entry in solution.history]
    assert solution.stop is StopReason.REACHED and solution.method == "linear" and set(stages) == {"linear"}
    assert solution.rel_l2 <= 3e-2 and not isinstance(solution.net, PatchNet)


def test_equations_that_determine_nothing_end_the_stage(monkeypatch):
    def fails(self, tree):
        raise torch.linalg.LinAlgError("singular")

    monkeypatch.setattr(PatchWork, "solve", fails)
    stage, work = Patches(error=1e-3), PatchWork(CASES["ring"])
    stage.start(work, 64)
    with pytest.raises(Ended) as ended:
        stage.step(1)
    assert ended.value.reason is StopReason.NOT_REACHED
