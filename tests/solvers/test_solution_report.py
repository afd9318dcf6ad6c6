"""The report: what is measured, in the units of the problem, and the warnings with what to do."""

import json
import math
import re
from dataclasses import dataclass, replace

import pytest
import torch
from cases import Rotation

from bumpnet_fast import BumpNet, load, problems, save
from bumpnet_fast.problems import Problem, sampling
from bumpnet_fast.problems.base import Condition
from bumpnet_fast.problems.regression import Regression
from bumpnet_fast.solvers import march, prune, solve
from bumpnet_fast.solvers import report as solution_report
from bumpnet_fast.solvers import solution as solution_module
from bumpnet_fast.solvers.estimate import ErrorEstimate, Stage
from bumpnet_fast.solvers.loop import StopReason
from bumpnet_fast.solvers.report import Report

get = problems.get


@dataclass
class Scaled(Problem):
    """u'' = size on [0, length]: a source of known size in units of one's own."""

    name, want = "scaled", "laplacian"
    size: float = 1.0
    lower: tuple = (0.0,)
    upper: tuple = (1.0,)

    def residual(self, x, u):
        return u.laplacian[:, 0] - self.size


@dataclass
class Contradiction(Problem):
    """Two equations that cannot hold both."""

    name, want = "contradiction", "laplacian"
    lower: tuple = (0.0,)
    upper: tuple = (1.0,)

    def residual(self, x, u):
        return torch.stack([u.laplacian[:, 0] - 1, u.laplacian[:, 0] + 1 + 0 * x[:, 0]], 1)


@dataclass
class Pitchfork(Problem):
    """u = 0 solves it, and other functions, too."""

    name, want = "pitchfork", "laplacian"
    lower: tuple = (0.0,)
    upper: tuple = (1.0,)

    def residual(self, x, u):
        return u.laplacian + 20 * (u.value - u.value**3)


def names(report):
    return [misfit.name for misfit in report.misfits]


def test_rows_of_equations_conditions_and_measurements():
    assert names(solve(get("poisson"), (4, 4), iterations=2).report()) == ["equation"]
    assert names(solve(get("heat"), (4, 4), iterations=2, boundary="soft").report()) == [
        "equation", "boundary", "initial",
    ]  # fmt: skip
    assert names(solve(get("inverse-heat"), (4, 4), iterations=2).report()) == ["equation", "measured"]
    rows = names(solve(Rotation(), 5, iterations=2, boundary="soft").report())
    assert rows == ["equation 1", "equation 2", "start 1", "start 2"]
    periodic = names(solve(get("advection", nu=3.0), (4, 4), iterations=2, boundary="soft").report())
    assert periodic == ["equation", "initial", "period of axis 0"] or "period of axis 0" in " ".join(periodic)


@pytest.mark.parametrize("size", (1e-6, 1.0, 1e9))
def test_misfits_are_in_the_units_of_the_equation(size):
    solution = solve(Scaled(size=size), 4, iterations=2)
    (row,) = solution.report().misfits
    x = solution.places.x
    residual = solution.problem.residual(x, solution.jet(x, "laplacian")).detach()
    assert row.rms == pytest.approx(float(residual.square().mean().sqrt()))
    assert row.largest == pytest.approx(float(residual.abs().max()))
    assert row.size == pytest.approx(2 * size, rel=0.1), "the source, and the derivative that it equals"
    assert row.relative == pytest.approx(row.rms / row.size)


def test_loss_and_residual_between_the_points():
    solution = solve(get("poisson"), (4, 4), iterations=20)
    report = solution.report()
    zero = BumpNet(2, (4, 4), solution.problem.domain, dtype="float64")
    x = solution.places.x
    rows = solution.problem.residual(
        x, solution.problem.extend(lambda x: zero.jet(x, want="laplacian").map(torch.detach), x, "laplacian")
    )
    assert report.loss == solution.loss
    assert report.reference_loss == pytest.approx(float(rows.square().mean()))
    assert 0.3 < report.held_out < 5 and report.stop is StopReason.ITERATIONS and report.warnings == ()


def test_points_that_are_too_few_show_between_them():
    report = solve(get("poisson"), (4, 4), points=(6, 6), iterations=60, refine=0).report()
    assert report.held_out > 10
    assert any("times that at the points: take more points" in warning for warning in report.warnings)


def test_as_text():
    text = str(solve(get("inverse-heat"), (4, 4), iterations=5).report())
    lines = text.splitlines()
    assert re.split(" {2,}", lines[0]) == [
        "residual of",
        "root mean square",
        "between points",
        "largest",
        "size of terms",
        "relative",
    ]
    assert lines[1].startswith("equation") and lines[2].startswith("measured") and lines[3] == ""
    assert len({len(line) for line in lines[:3]}) == 1, "the columns are aligned"
    starts = [line.split("  ")[0] for line in lines[4:] if line[0] != " "]
    assert starts == ["loss", "between the points", "error", "estimate", "k", "stopped"]
    assert " +- " in text and "reliable: two enrichments agree" in text and "nan" not in text
    assert lines[2].split()[2] == "-", "measurements are at their own points alone"


def test_as_dict():
    report = solve(get("kovasznay"), (3, 3), iterations=2).report()
    content = report.as_dict()
    assert [row["name"] for row in content["misfits"]] == ["equation 1", "equation 2", "equation 3"]
    assert len(content["error"]["rel_l2"]) == 3 and content["stop"] == "iterations"
    assert content["warnings"] == list(report.warnings) and content["loss"] == report.loss
    assert "error of output 3" in str(report)
    assert {"rms", "held_out", "largest", "size", "relative"} < content["misfits"][0].keys()


def test_of_a_march():
    solution = march(get("heat"), (4, 3), windows=2, iterations=10)
    report = solution.report()
    assert names(report) == ["equation"] and report.error is solution.error_estimate
    assert report.stop is StopReason.MARCHED and report.held_out < 10


def test_of_a_file(tmp_path):
    solution = solve(get("poisson"), (4, 4), iterations=20)
    save(tmp_path / "model.pt", solution)
    again, report = load(tmp_path / "model.pt").report(), solution.report()
    assert again.misfits[0].rms == pytest.approx(report.misfits[0].rms) and again.warnings == report.warnings


@dataclass
class Free(Problem):
    """u' = 1 and a condition with a long name, for which two outputs have different equations."""

    name, want, outputs, dirichlet = "free", "gradient", 2, ()
    lower: tuple = (0.0,)
    upper: tuple = (1e-3,)

    def residual(self, x, u):
        return torch.stack([u.d(0)[:, 0] - u.value[:, 1], 1e-3 * u.d(0)[:, 1] - 1], 1)

    def side_conditions(self):
        name = "what was read from the instrument at the very beginning of\nthe experiment"
        x = torch.zeros(1, 1, dtype=torch.float64)
        return [Condition(name, lambda counts: x, lambda x, u: u.value - 1)]


KINDS = {
    "one dimension": lambda: solve(Scaled(), 3, iterations=1),
    "two dimensions, part of a box": lambda: solve(get("lshape"), (3, 3), iterations=1),
    "three dimensions": lambda: solve(get("heat2d"), 4, iterations=1, points=100),
    "system": lambda: solve(get("kovasznay"), (2, 2), iterations=1, boundary="soft"),
    "long names": lambda: solve(Free(), 3, iterations=1),
    "march": lambda: march(get("allen-cahn"), (3, 2), windows=2, iterations=1),
    "inverse": lambda: solve(get("inverse-heat"), (2, 2), iterations=1),
    "first order, single precision": lambda: solve(
        get("poisson"), BumpNet(2, 4, get("poisson").domain), method="adam", iterations=2
    ),
    "data": lambda: solve(Regression.through(torch.rand(30, 1), torch.rand(30)), 3, iterations=1),
    "pruned": lambda: prune(get("poisson"), BumpNet(2, 4, get("poisson").domain, dtype="float64"), 3, iterations=1),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_result_has_a_legible_report(kind):
    solution = KINDS[kind]()
    report = solution.report()
    text, content = str(report), json.dumps(report.as_dict())
    assert max(map(len, text.splitlines())) <= 100 and "nan" not in text and "not everything" not in text
    assert report.misfits and all(math.isfinite(m.rms) and m.largest >= m.rms > 0 for m in report.misfits)
    assert all(m.held_out > 0 for m in report.misfits if m.name.startswith("equation") and kind != "data")
    assert report.loss == solution.loss and report.reference_loss > 0 and report.stop.message in text.replace("\n", "")
    assert report.table() == text[: len(report.table())] and "warning" not in report.table()
    assert json.loads(content)["stop"] == solution.stop_reason


def test_equations_between_the_points():
    row = solve(get("poisson"), (4, 4), points=(6, 6), iterations=60, refine=0).report().misfits[0]
    assert row.held_out > 10 * row.rms
    row = solve(get("poisson"), (4, 4), iterations=5).report().misfits[0]
    assert row.held_out == pytest.approx(row.rms, rel=0.5)


@pytest.mark.parametrize(("read", "size"), [
    (lambda u: u.laplacian, 4.0),
    (lambda u: u.second, 0.0),  # only the sum can be had
    (lambda u: u.second[:, 0], 0.0),
])  # fmt: skip
def test_the_terms_of_a_laplacian_are_those_that_cancel_in_it(read, size):
    class Laplace(Problem):
        """u = x^2 - y^2."""

        name, want = "laplace", "laplacian"

        def residual(self, x, u):
            return read(u)

        def boundary_values(self, x):
            return x[:, 0] ** 2 - x[:, 1] ** 2

    row = solve(Laplace(), (3, 3), boundary="soft", iterations=40).report().misfits[0]
    assert row.name == "equation" and row.size == pytest.approx(size or row.rms, rel=0.1)


def test_nothing_can_break_a_report(monkeypatch):
    def broken(*_, **__):
        raise ValueError("broken\nby me")

    solution = solve(get("poisson"), (3, 3), iterations=1)
    for name in ("residual", "extend"):
        with monkeypatch.context() as patch:
            patch.setattr(type(solution.problem), name, broken)
            report = replace(solution).report()
            assert "not everything could be measured: ValueError: broken" in report.warnings and "by me" not in str(
                report
            )
            assert "it could not be computed: ValueError: broken" in " ".join(str(report).split())
    for name in ("stages", "error_estimate"):
        with monkeypatch.context() as patch:
            patch.setattr(type(solution), name, property(broken) if name == "error_estimate" else broken)
            assert "not everything could be measured: ValueError: broken" in solution.report().warnings
    with torch.no_grad():
        solution.net.rows.fill_(math.nan)
    assert "the solution is not finite" in str(replace(solution).report())


def test_a_condition_at_points_of_its_own():
    class Sampled(Scaled):
        def side_conditions(self):
            used = []

            def points(counts):
                if used and used[0] != counts:
                    raise ValueError("there is a table for those points alone")
                used.append(counts)
                return torch.tensor([[0.25], [0.75]], dtype=torch.float64)

            return [Condition("sampled", points, lambda x, u: u.value - torch.tensor([[-0.1], [-0.1]]).double())]

    report = solve(Sampled(), 4, iterations=3).report()
    assert names(report) == ["equation", "sampled"] and report.warnings[0].startswith("the error is")
    assert math.isnan(report.misfits[1].held_out) and report.misfits[1].rms > 0 and report.misfits[0].held_out > 0


def test_without_an_estimate():
    solution = solve(get("poisson"), (3, 3), iterations=1)
    report = solution.report(estimate=False)
    assert report.error is None and report.as_dict()["error"] is None and "_error_estimate" not in vars(solution)
    assert "switched off" in str(report) and any("the loss is still" in warning for warning in report.warnings)
    assert solution.error_estimate is solution.report(estimate=False).error, "what is known is told"


# --- fields of what is wrong ---------------------------------------------------------------------------------


@pytest.mark.parametrize("made", [
    lambda: solve(get("kovasznay"), (3, 3), iterations=3),
    lambda: march(get("heat"), (4, 3), windows=2, iterations=10),
])  # fmt: skip
def test_the_estimated_error_is_a_field_and_computed_once(made, monkeypatch):
    solution, estimated, calls = made(), solution_module.estimated, []
    monkeypatch.setattr(solution_module, "estimated", lambda *a, **k: calls.append(1) or estimated(*a, **k))
    x = sampling.lattice(solution.problem.domain, 400)
    missing = solution.problem.reference(x).reshape(len(x), -1) - solution(x).detach()
    found = solution.estimated_error(x)
    assert found.shape == missing.shape and float((found - missing).norm()) < 0.05 * float(missing.norm())
    sizes = found.norm(dim=0) / (solution(x) + found).detach().norm(dim=0)
    torch.testing.assert_close(sizes, torch.tensor(solution.error_estimate.rel_l2).double(), rtol=0.3, atol=0)
    assert solution.report().error is solution.error_estimate and len(calls) == 1
    with pytest.raises(ValueError, match=r"x must have shape \[N, 2\], got \(1, 1\)"):
        solution.estimated_error([[0.0]])


def test_an_error_that_cannot_be_estimated_is_no_number():
    solution = solve(get("poisson"), (2, 2), iterations=0)
    with torch.no_grad():
        solution.net.rows.fill_(math.inf)
    assert bool(solution.estimated_error([[0.0, 0.5]]).isnan().all())


def test_the_residual_is_a_field():
    solution = solve(get("inverse-heat"), (3, 3), iterations=2)
    x = torch.tensor([[0.25, 0.1], [-0.5, 0.3]], dtype=torch.float64)
    u = solution.jet(x, solution.problem.want)
    wanted = solution.problem.residual(x, u, k=torch.tensor(solution.unknowns["k"], dtype=torch.float64))
    torch.testing.assert_close(solution.residual(x.tolist()), wanted.detach().reshape(2, 1), rtol=1e-9, atol=1e-12)
    assert march(get("heat"), (2, 2), windows=2, iterations=0).residual(x.abs()).shape == (2, 1)


# --- warnings ------------------------------------------------------------------------------------------------


def test_no_decrease_of_a_large_loss():
    solution = solve(Contradiction(), 4)
    (warning,) = solution.warnings
    assert solution.stop is StopReason.NO_DECREASE and "boundary" not in warning
    assert "does not decrease any more, but is still 100% of that of u = 0" in warning
    assert solution.report().warnings.count(warning) == 1


@dataclass
class Quarrel(Problem):
    """u' + u = 1 and u' + u = -1, from u(0) = 1."""

    name, want, time = "quarrel", "gradient", 0
    lower: tuple = (0.0,)
    upper: tuple = (1.0,)

    def residual(self, x, u):
        rate = u.d(0)[:, 0] + u.value[:, 0]
        return torch.stack([rate - 1, rate + 1], 1)

    def boundary_values(self, x):
        return torch.ones_like(x[:, 0])


def test_what_stalls_has_not_converged(tmp_path):
    solution = solve(Quarrel(), 3, boundary="soft")
    assert solution.stop is StopReason.STALLED and "large part of that of u = 0" in solution.stop.message
    (warning,) = solution.warnings
    assert "but is still" in warning and "or boundary='hard'" in warning
    assert solution.report().warnings.count(warning) == 1
    save(tmp_path / "model.pt", solution)
    assert load(tmp_path / "model.pt").stop is StopReason.STALLED
    marched = march(Quarrel(), 3, windows=2)
    assert marched.stop is StopReason.STALLED and marched.warnings
    assert solve(get("poisson"), (4, 4), tolerance=0.5).stop is StopReason.CONVERGED


@torch.no_grad()
def test_a_large_loss_where_zero_has_none():
    stage = Stage(Pitchfork(), BumpNet(1, 4, Pitchfork().domain, dtype="float64"), "hard")
    with torch.no_grad():
        stage.net.amplitudes.fill_(1.0)
    (warning,) = solution_report._large_loss(stage, 1.0, 0.0)
    assert "is large, and u = 0 has none" in warning
    solved = solve(Pitchfork(), stage.net, iterations=60)
    assert solved.loss > 0 and not solution_report._large_loss(solved.stages()[0], solved.loss, 0.0)


@dataclass
class Line(Problem):
    """u'' = 0, u(0) = 1, u(1) = 3: what the boundary makes of u = 0 is the solution."""

    name, want = "line", "laplacian"
    lower: tuple = (0.0,)
    upper: tuple = (1.0,)

    def residual(self, x, u):
        return u.laplacian

    def exact(self, x):
        return 1 + 2 * x[:, 0]


@pytest.mark.parametrize("boundary", ("hard", "soft"))
def test_where_zero_fits_already_the_loss_is_not_called_large(boundary):
    solution = solve(Line(), 4, boundary=boundary)
    assert solution.warnings == [] and not any("that of u = 0" in w for w in solution.report().warnings)


def test_bumps_that_slip_between_the_points():
    problem = get("poisson")
    net = BumpNet(2, (4, 4), problem.domain, dtype="float64")
    with torch.no_grad():
        net.rows[0, net.layout.sharpness] = 8.0
    solution = solve(problem, net, iterations=0)
    (warning,) = solution.warnings
    assert warning.startswith("1 of 16 bumps have edges so thin") and "take more points" in warning
    assert warning in solution.report().warnings


def test_zero_that_solves_the_equation():
    solution = solve(Pitchfork(), 6, iterations=5)
    (warning,) = solution.warnings
    report = solution.report()
    assert solution.stop is StopReason.LOSS_FLOOR and warning.startswith("u = 0 solves the equation")
    assert report.warnings.count(warning) == 1 and "that of u = 0 is 0" in str(report)


def test_a_large_error_and_one_that_is_not_known():
    large = solve(get("wave"), (5, 5), iterations=5).report()
    assert large.error.reliable and any("the error is about" in warning for warning in large.warnings)
    unknown = solve(get("lshape"), (4, 4), iterations=10).report()
    assert any("the error is not known reliably" in warning for warning in unknown.warnings)


def test_a_good_solution_has_no_warnings():
    for name, bumps in (("poisson", (4, 4)), ("heat", (4, 4))):
        solution = solve(get(name), bumps, iterations=40)
        assert solution.warnings == [] and solution.report().warnings == ()


def test_a_loss_that_is_not_finite():
    report = Report(
        (), math.nan, 1.0, math.nan, ErrorEstimate((math.nan,), (math.nan,), False, "why"), {}, StopReason.DIVERGED
    )
    assert "unknown" in str(report) and "nan" not in str(report)


def test_data_at_points():
    x = torch.linspace(0, 1, 30, dtype=torch.float64)[:, None]
    report = solve(Regression.through(x, x[:, 0] ** 2), 4, iterations=5).report()
    assert names(report) == ["equation"] and math.isnan(report.held_out)


def test_a_net_whose_problem_is_not_known(tmp_path):
    save(tmp_path / "net.pt", BumpNet(2, 9))
    report = getattr(load(tmp_path / "net.pt"), "report", None)
    if report is not None:
        assert any("not everything could be measured" in warning for warning in report().warnings)
