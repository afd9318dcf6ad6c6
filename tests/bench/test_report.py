"""bench/report.py: what is kept of a run, and the page."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import report

from bumpnet_fast.diagnostics.bench import COMPILED, EAGER, NESTED, OURS, Case, Stages

USUAL, SMALL = Case(10_000, 400), Case(1_000, 40)
REACHED = [{"variant": "avx2", "dtype": "float32", "kernel": "forward", "instructions_per_pair": 19, "of_limit": 0.7,
            "multiplications_per_pair": 8, "fma_per_s": 7e9, "mixed_per_s": 1e10, "limit_ns_per_pair": 1.9,
            "ns_per_pair": 2.5}]  # fmt: skip


def benchmark(one, contestant, stage, seconds):
    stats = {"min": 0.9 * seconds, "median": seconds, "iqr": 0.1, "rounds": 7, "data": [seconds] * 7}
    info = {"contestant": contestant, "stage": stage, "case": one._asdict(), "short": one == SMALL,
            "pairs": one.points * one.bumps, "peak_extra_mib": 12.0}  # fmt: skip
    return {"name": f"{stage}, {contestant}", "extra_info": info, "stats": stats, "options": {"timer": "process_time"}}


@pytest.fixture
def run():
    """A file of pytest-benchmark; ours takes 1 ms, compiled 8, eager 20, nested 50, each stage half as much again."""
    times = {OURS: 1e-3, COMPILED: 8e-3, EAGER: 20e-3, NESTED: 50e-3}
    benchmarks = [
        benchmark(one, name, stage, seconds * 1.5**i)
        for one in (USUAL, SMALL)
        for name, seconds in times.items()
        for i, stage in enumerate(Stages._fields)
    ]
    benchmarks.append({"name": "another", "extra_info": {"contestant": OURS}, "stats": {}, "options": {}})
    machine = {"processor": "P", "processors": 2, "variant": "avx2", "device": "CPU", "python": "3", "torch": "2",
               "jax": None, "load": 3.25}  # fmt: skip
    commit = {"id": "0123456789abcdef", "dirty": False, "project": "folder", "branch": "mine"}
    return {"machine_info": machine, "commit_info": commit, "datetime": "2030-01-02T03:04:05", "benchmarks": benchmarks}


def test_what_is_kept(run):
    kept = report.kept(run)
    text = json.dumps(kept)
    assert "data" not in text and "folder" not in text and "mine" not in text
    assert len(kept["benchmarks"]) == 24
    assert report.figures(kept) == report.figures(report.kept(kept | {"benchmarks": run["benchmarks"]}))


def test_the_figures(run):
    found = report.figures(run)
    assert list(found) == [USUAL, SMALL] and list(found[USUAL]) == [OURS, COMPILED, EAGER, NESTED]
    assert found[SMALL][EAGER]["adam"]["median"] == pytest.approx(45e-3)


def test_of_several_runs_the_last_has_a_case(run):
    """... and all of it: ratios are of one process."""
    other = benchmark(SMALL, OURS, "adam", 7.0)
    found = report.figures(report.joined([report.kept(run), report.kept(run | {"benchmarks": [other]})]))
    assert list(found[USUAL]) == [OURS, COMPILED, EAGER, NESTED]
    assert list(found[SMALL]) == [OURS] and found[SMALL][OURS]["adam"]["median"] == 7.0


def test_a_case_as_a_table(run):
    lines = report.table(USUAL, report.figures(run)[USUAL])
    assert lines[2] == "| ours | 1 ms | 1.5 ms | 2.25 ms | 12 MiB | 0.38 | 1.0 | 1.0 |"
    assert lines[5].startswith("| nested autograd | 50 ms |") and lines[5].endswith("| 50.0 | 50.0 |")
    assert len({line.count("|") for line in lines}) == 1


def test_what_was_wanted(run):
    """Of what was not measured nothing is said, and what is missed is said to be."""
    lines = report.wanted(report.figures(run), REACHED)
    assert "| nested autograd / ours | >= 60 | 50 | **missed** |" in lines
    assert "| fastest compiled peer / ours | >= 7 | 8 |  |" in lines
    assert "| smallest fraction of the processor's limit | >= 0.5 | 0.7 |  |" in lines
    assert not any("float64" in line for line in lines) and len(lines) == 2 + 5


def test_the_page(run, tmp_path, monkeypatch):
    page, new, reached = (tmp_path / name for name in ("page.md", "new.json", "limit.json"))
    monkeypatch.setattr(report, "PAGE", page)
    monkeypatch.setattr(report, "PICTURE", tmp_path / "picture.png")
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results" / "benchmarks.json")
    monkeypatch.setattr(report, "LIMIT", tmp_path / "results" / "limit.json")
    page.write_text(f"# Speed\n\n{report.MARKER}\n\nold\n")
    new.write_text(json.dumps(run))
    reached.write_text(json.dumps(REACHED))
    for _ in range(2):
        assert report.main(["write", str(new), "--limit", str(reached)]) == 0
        text = page.read_text()
        assert text.startswith("# Speed\n\n") and "old" not in text
        assert "Measured on 2030-01-02: P, 2 processors, avx2 kernels, CPU; load 3.2 before it began;" in text
        assert "commit 0123456789ab." in text and text.count(USUAL.name) == 1 and "| avx2 | float32 |" in text


def test_cases_may_be_added(run, tmp_path, monkeypatch):
    """What was measured before stays, with the machine that it was measured on, and every figure has its load."""
    page, new = tmp_path / "page.md", tmp_path / "new.json"
    for name, path in (("PAGE", page), ("PICTURE", tmp_path / "p.png"), ("RESULTS", tmp_path / "r.json")):
        monkeypatch.setattr(report, name, path)
    monkeypatch.setattr(report, "LIMIT", tmp_path / "limit.json")
    page.write_text(report.MARKER)
    more = USUAL._replace(points=100)
    runs = (run["benchmarks"], 1.0, []), ([benchmark(more, OURS, "backward", 1e-4)], 9.0, ["--add"])
    for benchmarks, load, options in runs:
        machine = run["machine_info"] | {"load": load}
        new.write_text(json.dumps(run | {"machine_info": machine, "benchmarks": benchmarks}))
        assert report.main(["write", str(new), *options]) == 0
        assert report.PICTURE.exists() is bool(options)  # without the sweep there is nothing to draw
    found = report.figures(json.loads(report.RESULTS.read_text()))
    assert list(found) == [USUAL, SMALL, more]
    assert found[more][OURS]["backward"]["load"] == 9.0 and found[USUAL][OURS]["backward"]["load"] == 1.0
    text = page.read_text()
    assert "load 1.0 before it began" in text and "load was 9.0" in text
    assert f"### {USUAL.name}" in text and f"### {more.name}" not in text


def test_a_page_without_its_marker_is_left_alone(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("text")
    with pytest.raises(ValueError, match="once"):
        report.fill(page, [])
    assert page.read_text() == "text"


def test_the_committed_page_and_results_belong_together():
    content = json.loads(report.RESULTS.read_text(encoding="utf-8"))
    below = report.PAGE.read_text(encoding="utf-8").split(report.MARKER)[1].strip()
    assert below == "\n".join(report.measured(content, json.loads(report.LIMIT.read_text(encoding="utf-8")))).strip()
    assert 0 < report.PICTURE.stat().st_size < 150_000
