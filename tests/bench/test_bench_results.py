"""The page of results is made of the results, and there is an experiment for everything."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from bumpnet_fast import cli
from bumpnet_fast.cli import common, evolve, operator, solve
from bumpnet_fast.problems import PROBLEMS
from bumpnet_fast.problems.evolution import EVOLUTIONS
from bumpnet_fast.problems.operators import OPERATORS

# The benchmarks are scripts beside the package.  Not in a conftest.py, which doctest would take for that of tests/.
sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import experiments
import results
import results_page
from experiments import DEEPONET, EDNN, EXPERIMENTS, NAMED, PARTS, PINN, Experiment


def test_the_page_is_what_the_results_make_it():
    assert results.PAGE.read_text(encoding="utf-8") == results_page.page(results.load_all()), "run: make results"


def test_no_result_is_without_an_experiment():
    known = {results.path_of(e, seed) for e in EXPERIMENTS for seed in e.seeds}
    assert set(results.FOLDER.glob("*.json")) <= known


@pytest.mark.parametrize(
    "command, library", [("solve", PROBLEMS), ("evolve", EVOLUTIONS), ("operator", OPERATORS)], ids=str
)
def test_every_problem_of_the_library_has_an_experiment(command, library):
    words = [e.command.split() for e in EXPERIMENTS]
    assert {w[2] for w in words if w[:2] == ["bumpnet", command]} == set(library)


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda e: e.name)
def test_the_commands_are_commands(experiment, tmp_path):
    seed = experiment.seeds[-1]
    _, *words = results.process(experiment, seed, tmp_path)
    if words[:2] == ["-m", "bumpnet_fast"]:
        arguments = cli._parser().parse_args(words[2:])
        settable = {
            "solve": lambda name: solve.settable(PROBLEMS[name], arguments.method),
            "evolve": lambda name: evolve.settable(EVOLUTIONS[name]),
            "operator": lambda name: operator.settable(OPERATORS[name]),
        }[words[2]](arguments.problem)
        common.scoped(arguments.problem, settable, arguments.settings)
        assert arguments.seed == seed and arguments.json == str(tmp_path / "summary.json")
    else:
        script = results.ROOT / words[0]
        assert script.is_file()
        if script.parent.name == "bench":
            arguments = importlib.import_module(script.stem).parser().parse_args(words[1:])
            assert arguments.seed == seed


def test_names_parts_and_baselines_agree():
    assert len(NAMED) == len(EXPERIMENTS)
    for e in EXPERIMENTS:
        assert e.part in PARTS and all(NAMED[name].is_baseline for name in e.baselines)
        for want in e.wants:
            key, sign, limit = want.split()
            assert key in results_page.NAMES and sign in results_page.COMPARE and float(limit) > 0


# --- running -------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    monkeypatch.setattr(results, "PAGE", tmp_path / "results.md")
    return tmp_path


def test_a_run_leaves_a_record_and_is_kept(elsewhere, capsys):
    assert results.main(["run", "ednn-heat"]) == 0
    record = json.loads((elsewhere / "ednn-heat.json").read_text())
    assert record["command"] == "bumpnet evolve heat --bumps 40" and record["result"]["rel_l2"] < 1e-7
    for timed in (record, record["result"]):
        assert timed["processor_seconds"] > 0 and timed["seconds"] > 0
    assert record["machine"]["threads"] == 1 and {"torch", "bumpnet_fast"} < record["versions"].keys()
    assert not list(results.chosen(["ednn-heat"], None, missing=True))
    assert list(results.chosen(["ednn-heat"], None, missing=False)) == [(NAMED["ednn-heat"], None)]
    assert results.main(["write"]) == 0
    assert "error ≤ 1e-7: met" in (elsewhere / "results.md").read_text()
    results.main(["list"])
    assert "minutes for what is missing" in capsys.readouterr().out


def test_a_run_that_fails_is_recorded_and_wanted_again(elsewhere, monkeypatch):
    broken = Experiment("sin", PINN, "sin x", "bumpnet solve no-such-problem", ("rel_l2 <= 1",), seeds=(0,))
    monkeypatch.setitem(results.NAMED, "sin", broken)
    assert results.main(["run", "sin"]) == 1
    records = {("sin", 0): results.load(broken, 0)}
    assert "unknown problem 'no-such-problem'" in records["sin", 0]["failed"]
    assert list(results.chosen(["sin"], None, missing=True)) == [(broken, 0)]
    assert results_page.verdict("rel_l2 <= 1", broken, records) == (False, "error ≤ 1: **failed**")


def test_a_result_of_another_command_does_not_count(elsewhere):
    e = NAMED["sin"]
    results.path_of(e, 0).write_text(json.dumps({"command": "bumpnet solve regression --bumps 9 --seed 0"}))
    assert results.load(e, 0) is None


def test_short_runs_come_first():
    minutes = [e.minutes for e, _ in results.chosen([], [0], missing=False)]
    assert minutes == sorted(minutes) and len(minutes) == len(EXPERIMENTS)


def test_an_unknown_name_is_told(capsys):
    assert results.main(["run", "nothing"]) == 2
    assert "there is no experiment 'nothing'; there are: sin, poisson" in capsys.readouterr().err


# --- what the page says --------------------------------------------------------------------------


def record(rel_l2, parameters=100, seconds=1.0):
    return {"result": {"rel_l2": rel_l2, "parameters": parameters, "seconds": seconds}}


def test_a_goal_is_met_by_all_seeds_or_missed():
    e = Experiment("x", PINN, "x", "bumpnet solve poisson", ("rel_l2 <= 1e-3",))
    good = {("x", seed): record(1e-4) for seed in e.seeds}
    assert results_page.verdict(e.wants[0], e, good) == (True, "error ≤ 1e-3: met")
    bad = good | {("x", 2): record(2e-3)}
    assert results_page.verdict(e.wants[0], e, bad) == (
        False,
        "error ≤ 1e-3: **missed** (2.0e-3, met by 2 of 3 seeds)",
    )
    assert results_page.verdict(e.wants[0], e, {}).met is None
    some = results_page.verdict(e.wants[0], e, {("x", 0): record(1e-4)})
    assert some == (None, "error ≤ 1e-3: met by 1 of 3 seeds, **the others not measured**")


def test_seconds_are_those_of_the_processor_where_known():
    e = Experiment("x", PINN, "x", "", ("seconds <= 5",), seeds=(0,))
    for times, seconds in (({"seconds": 9.0, "processor_seconds": 4.0}, 4.0), ({"seconds": 9.0}, 9.0)):
        records = {("x", 0): {"result": {"rel_l2": 1.0, "parameters": 7} | times}}
        assert results_page.values_of("seconds", e, records) == [seconds]
        assert results_page.verdict(e.wants[0], e, records).met == (seconds <= 5)


def test_missed_seconds_come_with_the_load_of_the_machine():
    e = Experiment("x", PINN, "x", "", ("seconds <= 5",), seeds=(0,))
    busy = record(1e-4, seconds=9.0) | {"machine": {"load_before": 7.2}}
    assert results_page.verdict(e.wants[0], e, {("x", 0): busy}).text == ("seconds ≤ 5: **missed** (9, at a load of 7)")


def test_ratios_are_to_the_best_and_smallest_opponent(monkeypatch):
    e = Experiment("x", DEEPONET, "x", "", (), ("linear", "relu"), seeds=(0,))
    for name in e.baselines:
        monkeypatch.setitem(experiments.NAMED, name, Experiment(name, DEEPONET, "", "", seeds=(0,), is_baseline=True))
    records = {("x", 0): record(1e-3, 500), ("linear", 0): record(2e-3, 50_000)}
    assert results_page.values_of("fewer", e, records) == []  # one of them is not known yet
    records["relu", 0] = record(4e-3, 80_000)
    assert results_page.values_of("fewer", e, records) == [100]
    assert results_page.values_of("of_baseline", e, records) == [0.5]


def test_medians_and_the_worst():
    assert results_page.error([1e-3, 3e-3, 2e-3]) == "2.0e-3 (3.0e-3)"
    assert results_page.error([1e-3]) == "1.0e-3"
    assert [results_page.number(v) for v in (0, 0.25, 12.3, 1234.5, 1e-5)] == ["0", "0.25", "12", "1,234", "1.0e-5"]


def test_every_part_has_a_section_without_any_result():
    text = results_page.page({})
    assert all(f"\n## {part}\n" in text for part in PARTS) and "**0 of " in text
    assert text.count("not measured") > 50 and EDNN in text
