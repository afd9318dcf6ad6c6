"""Estimates keep their rules on problems drawn at random, and the page of these is made of the records."""

import json
import sys
from pathlib import Path

import pytest
import torch

from bumpnet_fast import Jet

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import manufactured
import trust
import trust_page

RECORDS = json.loads(trust.FILE.read_text(encoding="utf-8"))
STATED = json.loads(trust.STATED.read_text(encoding="utf-8"))
HUNDREDS = RECORDS["hundreds"]


def test_the_page_is_what_the_records_make_it():
    assert trust.PAGE.read_text(encoding="utf-8") == trust_page.page(RECORDS, STATED), "run: make trust"


@pytest.mark.parametrize("seed", [str(seed) for seed in trust.SEEDS])
def test_the_rules_are_kept(seed):
    count = trust_page.Count(HUNDREDS[seed])
    assert count.solved + count.refused == trust.NUMBER and count.refused <= 5
    assert count.kept and count.reliable >= 50 and count.wrong >= 25


def test_the_rules_are_kept_by_the_library():
    count = trust_page.Count(RECORDS["library"])
    assert count.kept and not count.refused
    assert {r["problem"] for r in RECORDS["library"]} == set(trust.problems.PROBLEMS)


def test_true_unknowns_are_within_three_deviations():
    assert len(RECORDS["inverse"]) == trust.INVERSE
    assert sum(map(trust_page.within_three, RECORDS["inverse"])) >= 0.95 * trust.INVERSE


def test_everything_is_drawn():
    about = [manufactured.draw(trust.SEEDS[0], k).about for k in range(trust.NUMBER)]
    assert {a["d"] for a in about} == {1, 2, 3} and {a["kind"] for a in about} == set(manufactured.KINDS)
    assert {a["linear"] for a in about} == {True, False} and {a["boundary"] for a in about} == {"hard", "soft"}
    assert {"box", "periodic", *manufactured.MASKS} <= {a["domain"] for a in about}
    assert [a["u"] for a in about] == [r["u"] for r in HUNDREDS[str(trust.SEEDS[0])]]


def test_a_solution_solves_its_equation_and_is_not_told():
    for k in range(10):
        problem = manufactured.draw(5, k).problem
        x = torch.rand(7, len(problem.lower), dtype=torch.float64) * (problem.domain[1] - problem.domain[0])
        x = x + problem.domain[0]
        u = Jet.of(problem.solution, x, problem.want)
        assert not bool(problem.residual(x, u).any()) and problem.exact(x) is None


@pytest.mark.parametrize("number", range(8))
def test_the_rules_hold_here_and_now(number):
    (record,) = trust.of_hundred(3, [number])
    assert "failed" not in record and not trust_page.flaws(record)


def test_a_record_has_both_times():
    (record,) = trust.of_hundred(3, [0])
    assert record["processor_seconds"] > 0 and record["seconds"] > 0
    assert not trust_page.dear(record | {"processor_seconds": 10.0, "estimate_seconds": 1.0})
    assert trust_page.dear(record | {"processor_seconds": 1.0, "estimate_seconds": 1.0})


def test_flaws_are_seen():
    good = {"error": [0.1], "estimate": [0.1], "reliable": True, "report_warnings": [], "warnings": []}
    assert trust_page.flaws(good) == []
    assert trust_page.flaws(good | {"estimate": [0.02]}) == ["off by 0.2", "SILENT"]
    assert trust_page.flaws(good | {"estimate": [0.001]}) == ["off by 0.01", "TOO LOW", "SILENT"]
    assert trust_page.flaws(good | {"estimate": [None], "reliable": False}) == ["SILENT"]
    assert trust_page.flaws(good | {"estimate": [None], "reliable": False, "report_warnings": ["look"]}) == []


def test_stated_errors_are_reached_or_it_is_said():
    drawn = [r for part in STATED["hundreds"].values() for r in part]
    there = trust_page.solved([*STATED["library"], *drawn])
    assert len(there) >= 0.95 * (len(drawn) + len(STATED["library"]))
    reached = [r for r in there if r["reached"]]
    assert len(reached) >= 0.7 * len(there) and all(map(trust_page.kept, reached))


def test_a_result_is_kept_to_its_word():
    good = {"reached": True, "wanted": 1e-3, "error": [1e-5, 2e-3]}
    assert trust_page.kept(good) and not trust_page.kept(good | {"error": [4e-3, 0.0]})
    assert trust_page.kept(good | {"error": [1.0], "reached": False})


def test_a_stated_error_is_tried(monkeypatch):
    problem = trust.problems.get("poisson")
    record = trust.stated(problem, 1e-4, problem.reference)
    assert record["reached"] and trust_page.kept(record) and record["processor_seconds"] < 100
