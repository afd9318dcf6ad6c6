"""Other methods solve what they should, and the page about them is made of what was measured."""

import copy
import json
import sys
from pathlib import Path

import pytest
import torch

from bumpnet_fast import Jet, solvers
from bumpnet_fast.solvers.solution import ErrorMeasure

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from rivals import (
    chebyshev,
    domains,
    elements,
    features,
    fourier,
    ours,
    page,
    perceptron,
    picture,
    radial,
    rows,
    runner,
)
from rivals.methods import METHODS, OURS, SLOW
from rivals.rungs import Answer, Rung, climb

FOUND = runner.load()
RECORDS = FOUND["records"]


def error(name, answer):
    measured, _ = ErrorMeasure(domains.get(name), torch.device("cpu"))(answer.u)
    return measured


# --- the page ------------------------------------------------------------------------------------


def test_the_page_is_what_the_records_make_it():
    assert runner.PAGE.read_text(encoding="utf-8") == page.page(FOUND), "run: make rivals"


def test_every_record_has_both_times():
    for record in (FOUND, *(r for r in RECORDS if "failed" not in r)):
        assert record["processor_seconds"] > 0 and record["seconds"] > 0


def test_every_problem_was_solved_by_a_rival_and_most_by_ours():
    solved = {(r["problem"], r["method"] in OURS) for r in RECORDS if "failed" not in r}
    assert {name for name, ours_too in solved if not ours_too} == set(domains.NAMES)
    assert len({name for name, ours_too in solved if ours_too}) >= 10


def test_everything_measured_is_known():
    assert {r["problem"] for r in RECORDS} <= set(domains.NAMES) and {r["method"] for r in RECORDS} <= set(METHODS)
    assert set(picture.STYLES) == set(METHODS) >= {*OURS, *SLOW}


def test_the_fastest_is_in_bold_and_a_rival_that_is_faster_is_told():
    def record(method, error, seconds):
        return {"problem": "poisson", "method": method, "size": "1", "unknowns": 9, "error": error,
                "processor_seconds": seconds, "seconds": seconds}  # fmt: skip

    records = [record("Chebyshev", 1e-5, 0.1), record("Chebyshev", 1e-3, 0.01), record("bumps, trained", 1e-7, 2.0)]
    table = page.table("poisson", records)
    assert "| Chebyshev | **0.01** | **0.1** | - | - | 1.0e-5: 9, 0.1 |" in table
    assert "| bumps, trained | 2 | 2 | **2** | - | 1.0e-7: 9, 2 |" in table
    told = "\n".join(page.verdicts(records, ["poisson"]))
    assert "fastest in 1, about as fast as the best rival in 0, and slower in 2." in told
    assert "| poisson | 1e-04 | bumps, trained, 2 s | Chebyshev, 0.1 s | 20 |" in told
    assert "| poisson | 1e-06 | bumps, trained, 2 s | not reached |  |" in told


def test_the_picture_is_drawn(tmp_path):
    picture.draw(RECORDS[:20], tmp_path / "rivals.png")
    assert (tmp_path / "rivals.png").read_bytes().startswith(b"\x89PNG")


# --- measuring -----------------------------------------------------------------------------------


def test_a_run_replaces_only_what_it_measures(tmp_path):
    path = tmp_path / "rivals.json"
    first = runner.run(["regression"], ["Chebyshev", "radial functions"], path)
    kept = copy.deepcopy([r for r in first["records"] if r["method"] == "radial functions"])
    second = runner.run(["regression"], ["Chebyshev"], path)
    assert json.loads(path.read_text(encoding="utf-8")) == second
    assert [r for r in second["records"] if r["method"] == "radial functions"] == kept
    assert len(second["records"]) == len(first["records"]) == 6


def test_a_failure_is_a_record_and_a_long_answer_the_last():
    def fail():
        raise ValueError("no way")

    problem = domains.get("poisson")
    good = Rung("2", [lambda: Answer(1, problem.exact)] * 2)
    failed, solved = climb(problem, [Rung("1", [fail]), good, Rung("3", [fail])], longest=0.0)
    assert failed == {"size": "1", "failed": "ValueError: no way"} and solved["error"] == 0 and solved["unknowns"] == 1


def test_the_best_setting_counts():
    problem = domains.get("poisson")
    ways = [lambda share=share: Answer(1, lambda x: share * problem.exact(x)) for share in (0.5, 0.9, 1.2)]
    (record,) = climb(problem, [Rung("1", ways)])
    assert record["error"] == pytest.approx(0.1)


@pytest.mark.parametrize("words", [["run", "poison"], ["run", "--methods", "Tchebychev"]])
def test_unknown_names_are_refused(words, capsys):
    assert runner.main(words) == 2
    assert "there is no" in capsys.readouterr().err


# --- the methods ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", domains.DOMAINS)
def test_a_solution_in_a_domain_solves_its_equation(name):
    problem = domains.get(name)
    x = torch.rand(50, len(problem.lower), dtype=torch.float64) - 0.5
    assert float(problem.residual(x, Jet.of(problem.exact, x, problem.want)).abs().max()) < 1e-12
    edge = problem.boundary_points((9,) * x.shape[1])
    assert bool(problem.inside(0.999 * edge).all()) and not bool(problem.inside(1.001 * edge).any())


SOLVED = {
    "Chebyshev": lambda p: chebyshev.solve(p, (8, 8)),
    "radial": lambda p: radial.solve(p, (9, 9), 0.3),
    "features": lambda p: features.solve(p, (1, 1), 100, 0.7),
    "patches": lambda p: features.solve(p, (2, 1), 100, 0.7),
    "P2": lambda p: elements.solve(p, elements.even(1, 1)(p, 16), elements.element(2, 2)),
    "P4": lambda p: elements.solve(p, elements.even(1, 1)(p, 5), elements.element(2, 4)),
    "untrained": lambda p: ours.untrained(p, (7, 7), 0.3),
    "trained": ours.trained,
}


@pytest.mark.parametrize("method", SOLVED)
def test_poisson(method):
    if method.startswith("P"):
        pytest.importorskip("skfem")
    assert error("poisson", SOLVED[method](domains.get("poisson"))) < 2e-3


@pytest.mark.parametrize(
    ("name", "size", "limit"),
    [
        ("regression", (12,), 1e-6), ("heat", (16, 10), 1e-4), ("advection", (12, 44), 1e-4), ("wave", (16, 16), 1e-4),
        ("kovasznay", (8, 10), 0.05), ("inverse-heat", (6, 6), 1e-2),
    ],
)  # fmt: skip
def test_chebyshev_on_boxes(name, size, limit):
    """Initial values, periods, velocities, systems, Newton's method and an unknown, all by the problem's own rows."""
    assert error(name, chebyshev.solve(domains.get(name), size)) < limit


@pytest.mark.parametrize(("name", "size"), [("star", (10, 10)), ("disk", (10, 10)), ("ball", (8, 8, 8))])
def test_polynomials_in_a_domain(name, size):
    assert error(name, chebyshev.solve(domains.get(name), size, total=True)) < 1e-3


def test_radial_functions_and_features_in_a_star():
    problem = domains.get("star")
    assert error("star", radial.solve(problem, (8, 8), 0.3)) < 1e-3
    assert error("star", features.solve(problem, (1, 1), 80, 0.7)) < 1e-3


@pytest.mark.parametrize(
    ("name", "size", "limit"),
    [("heat", (8,), 1e-12), ("heat2d", (4,), 1e-12), ("wave", (8,), 1e-12), ("advection", (8,), 1e-12),
     ("burgers", (256, 100), 0.02), ("allen-cahn", (256, 100), 5e-4)],
)  # fmt: skip
def test_fourier(name, size, limit):
    problem = domains.get(name)
    solve = fourier.periodic if name in fourier.PERIODIC else fourier.sines
    assert error(name, solve(problem, *size)) < limit


def test_etdrk4_is_of_fourth_order():
    problem = domains.get("burgers")
    x = torch.tensor([[0.3, 0.2], [-0.4, 0.2]], dtype=torch.float64)
    fine, *coarse = (fourier.periodic(problem, 128, steps).u(x) for steps in (1600, 100, 200))
    first, second = (float((u - fine).norm()) for u in coarse)
    assert 12 < first / second < 20


def test_a_series_is_not_read_between_its_times():
    with pytest.raises(ValueError, match=r"multiples of 0\.01"):
        fourier.periodic(domains.get("allen-cahn"), 32, 100).u(torch.tensor([[0.0, 0.005]], dtype=torch.float64))


@pytest.mark.parametrize(
    ("name", "degree", "size", "limit"),
    [
        ("lshape", 4, 4, 1e-3), ("helmholtz", 4, 6, 5e-3), ("convection-diffusion", 4, 8, 1e-3), ("star", 4, 2, 1e-4),
        ("sharp-poisson", 4, 6, 2e-2), ("regression", 4, 4, 1e-3), ("heat", 4, 4, 5e-3), ("disk", 2, 3, 1e-3),
        ("kovasznay", 4, 4, 1e-2), ("ball", 2, 2, 1e-2),
    ],
)  # fmt: skip
def test_elements(name, degree, size, limit):
    pytest.importorskip("skfem")
    method = elements.P4 if degree == 4 else elements.P2
    rung = next(r for r in method.ladder(name, domains.get(name)) if r.size == f"mesh {size}")
    assert error(name, rung.ways[0]()) < limit


def test_multigrid_gives_what_the_direct_solver_gives():
    pytest.importorskip("skfem")
    pytest.importorskip("pyamg")
    problem = domains.get("ball")
    answers = [elements.solve(problem, elements.ball(problem, 2), elements.element(3, 2), s)
               for s in (elements.direct, elements.multigrid)]  # fmt: skip
    x = 0.5 * torch.rand(20, 3, dtype=torch.float64)
    assert torch.allclose(answers[0].u(x), answers[1].u(x), atol=1e-8)


def test_elements_need_constant_factors_of_second_derivatives():
    pytest.importorskip("skfem")
    problem = domains.get("poisson")
    problem.residual = lambda x, u: (1 + x[:, 0] ** 2) * u.laplacian[:, 0]
    with pytest.raises(ValueError, match="constant factors"):
        elements.solve(problem, elements.even(1, 1)(problem, 2), elements.element(2, 2))


@pytest.mark.parametrize(
    "basis",
    [
        features.Features(domains.get("helmholtz"), (2, 3), 5, 2.0),
        radial.basis(domains.get("star"), (5, 6), 0.4),
        chebyshev.basis(domains.get("helmholtz"), (5, 6)),
        chebyshev.basis(domains.get("disk"), (5, 6), total=True),
    ],
    ids=("features", "radial", "Chebyshev", "total degree"),
)
def test_derivatives_of_bases(basis):
    step, generator = 1e-5, torch.Generator().manual_seed(0)
    x = 1.8 * torch.rand(60, 2, generator=generator, dtype=torch.float64) - 0.9
    for axis in range(2):
        orders = torch.eye(2, dtype=torch.int64)[axis]
        for order in (1, 2):
            low, high = (basis.columns(x + s * step * orders)(tuple(((order - 1) * orders).tolist())) for s in (-1, 1))
            derivative = basis.columns(x)(tuple((order * orders).tolist()))
            assert derivative.shape == (60, len(basis))
            # the weights of patches have a kink in their slopes, near few of the points
            assert float(((high - low) / (2 * step) - derivative).abs().quantile(0.99)) < 1e-5


def test_weights_of_patches_add_up_to_one():
    basis = features.Features(domains.get("helmholtz"), (2, 3), 1, 0.0)  # tanh(0) = 0, so the weights alone
    x = 2 * torch.rand(100, 2, dtype=torch.float64) - 1
    basis.parts = [(place, centre, w, b + 1) for place, centre, w, b in basis.parts]
    total = basis.columns(x)((0, 0)).sum(1)
    assert torch.allclose(total, torch.full_like(total, float(torch.tanh(torch.tensor(1.0, dtype=torch.float64)))))


def test_conditions_have_the_norm_of_the_equation():
    a, b = torch.rand(1, 5, 3, dtype=torch.float64), 100 * torch.rand(1, 4, 3, dtype=torch.float64)
    blocks = rows.blocks(domains.get("poisson"), "soft", (4, 4), torch.zeros(1, 2, dtype=torch.float64), 1.0)
    first, second = rows._factors(blocks, [a, b], 1.0)
    assert float((first * a).norm()) == pytest.approx(float((second * b).norm()))


def test_a_perceptron_learns(monkeypatch):
    monkeypatch.setattr(perceptron, "ADAM", 60)
    for name in ("ROUND", "CHUNK"):
        monkeypatch.setattr(perceptron.mlp_pinn.training, name, 20)
    answer = perceptron.solve(domains.get("poisson"), width=6, seconds=0.1)
    assert error("poisson", answer) < 0.9 and answer.unknowns == 3 * 6 + 2 * 7 * 6 + 7


def test_solve_does_not_see_the_solution():
    problem = ours.unknown(domains.get("heat"))
    assert isinstance(problem, type(domains.get("heat"))) and problem.nu == 0.1
    assert problem.reference(torch.zeros(1, 2)) is None and solvers.solve(problem, 4, iterations=0).rel_l2 is None


def test_what_solve_does_not_take_is_not_asked_for(monkeypatch):
    problem = domains.get("poisson")
    monkeypatch.setattr(ours, "solve", lambda problem, net=None: None)
    assert not ours.takes_error() and ours.ToError.ladder("poisson", problem) == []
    asked = []

    def solve(problem, net=None, *, error=None, **options):
        asked.append(error)
        return solvers.solve(problem, 4, iterations=0)

    monkeypatch.setattr(ours, "solve", solve)
    rungs = ours.ToError.ladder("poisson", problem)
    assert [rung.ways[0]().unknowns for rung in rungs] == [4 * 7] * len(rungs) and tuple(asked) == ours.ERRORS
