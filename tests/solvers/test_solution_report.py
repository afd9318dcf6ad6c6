"""The report: what is measured, in the units of the problem, and the warnings with what to do."""

import math
import re
from dataclasses import dataclass

import pytest
import torch
from cases import Rotation

from bumpnet_fast import BumpNet, load, problems, save
from bumpnet_fast.problems import Problem
from bumpnet_fast.problems.regression import Regression
from bumpnet_fast.solvers import march, solve
from bumpnet_fast.solvers.estimate import ErrorEstimate
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
    report = solve(get("poisson"), (4, 4), points=(6, 6), iterations=60).report()
    assert report.held_out > 10
    assert any("times that at the points: take more points" in warning for warning in report.warnings)


def test_as_text():
    text = str(solve(get("inverse-heat"), (4, 4), iterations=5).report())
    lines = text.splitlines()
    assert re.split(" {2,}", lines[0]) == [
        "residual of",
        "root mean square",
        "largest",
        "size of its terms",
        "relative",
    ]
    assert lines[1].startswith("equation") and lines[2].startswith("measured") and lines[3] == ""
    assert len({len(line) for line in lines[:3]}) == 1, "the columns are aligned"
    starts = [line.split("  ")[0] for line in lines[4:]]
    assert starts == ["loss", "between the points", "error", "estimate", "k", "stopped"]
    assert " +- " in text and "reliable: two enrichments agree" in text and "nan" not in text


def test_as_dict():
    report = solve(get("kovasznay"), (3, 3), iterations=2).report()
    content = report.as_dict()
    assert [row["name"] for row in content["misfits"]] == ["equation 1", "equation 2", "equation 3"]
    assert len(content["error"]["rel_l2"]) == 3 and content["stop"] == "iterations"
    assert content["warnings"] == list(report.warnings) and content["loss"] == report.loss
    assert "error of output 3" in str(report)


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


# --- warnings ------------------------------------------------------------------------------------------------


def test_converged_at_a_large_loss():
    solution = solve(Contradiction(), 4)
    (warning,) = solution.warnings
    assert solution.stop in (StopReason.CONVERGED, StopReason.NO_DECREASE)
    assert "does not decrease any more, but is still 100% of that of u = 0" in warning
    assert solution.report().warnings.count(warning) == 1


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
    report = solve(Pitchfork(), 6, iterations=5).report()
    assert any(warning.startswith("u = 0 solves the equation") for warning in report.warnings)
    assert any(warning.startswith("the loss was rounding before any step") for warning in report.warnings)


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
