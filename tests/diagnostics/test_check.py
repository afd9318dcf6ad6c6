"""``bumpnet check``: passes on what is right, and finds what is planted."""

import contextlib
import importlib.util
import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bumpnet_fast import cli
from bumpnet_fast.core import backends as native
from bumpnet_fast.core import ops
from bumpnet_fast.core.reference import HESSIAN, LAPLACIAN
from bumpnet_fast.diagnostics import cases, info
from bumpnet_fast.diagnostics import check as parity
from bumpnet_fast.diagnostics.cases import Case
from bumpnet_fast.diagnostics.check import Backend, GraphBackend, check, compare, show

ROOT = Path(__file__).parents[2]
SMALL = [
    Case("edges", 2, LAPLACIAN, True, 33, 8, 1),
    Case("edges", 3, HESSIAN, False, 0, 3, 2),
    Case("no number", 1, HESSIAN, True, 41, 3, 2),
    Case("steps", 2, LAPLACIAN, True, 20, 3, 1),
]
OPERATORS = {*ops.OPERATORS, *ops.COMBINED, "compact"}


def small(_):
    return SMALL


def registered(name, *args):
    return cases.results(getattr(torch.ops.bumpnet_fast, name)(*args))


def planted(name, spoil):
    """A backend on the CPU, right but for one operator, whose results are spoilt; as CUDA is checked."""

    def run(operator, *args):
        results = registered(operator, *args)
        return spoil(list(results)) if operator == name else results

    return Backend("planted", "cpu", None, run, lambda operator, *args: "a fake")


def off(results, factor=1.001):
    return [factor * t if t.is_floating_point() else t for t in results]


def with_nan(results):
    results = [t.clone() for t in results]
    if results[0].numel():
        results[0].view(-1)[0] = math.nan
    return results


def wrong_shape(results):
    return [results[0][..., None], *results[1:]]


def wrong_dtype(results):
    return [results[0].to(torch.float16), *results[1:]]


def raising(results):
    raise RuntimeError("an illegal\nmemory access")


@pytest.fixture(scope="module")
def report():
    return check(follow=small)


# --- what is right -------------------------------------------------------------------------------


def test_every_backend_here_passes():
    report = check(["cpu"])
    assert [row for row in report["cases"] if not row["passed"]] == []
    assert report["passed"] and {b["name"] for b in report["backends"]} == {"reference", *native.VARIANTS}
    here = {b["name"] for b in report["backends"] if b["missing"] is None}
    assert here == {"reference", *native.variants()}
    assert {(row["backend"], row["operator"]) for row in report["cases"]} == {(b, o) for b in here for o in OPERATORS}


def test_the_report_is_strict_json(report):
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["info"]["versions"] == info.report()["versions"]


def test_a_row_tells_all_of_its_case(report):
    row = report["cases"][0]
    told = {"backend": "reference", "served_by": "reference", "operator": "jet", "dtype": "float32", "kind": "edges",
            "dim": 2, "want": "laplacian", "tied": True, "points": 33, "bumps": 8, "outputs": 1}  # fmt: skip
    assert {key: row[key] for key in told} == told
    assert 0 < row["error"] <= row["tolerance"] and row["passed"] and row["message"] is None


def test_what_is_missing_is_listed_with_its_reason(monkeypatch):
    monkeypatch.setattr(info, "report", lambda: {"kernels": {"missing": "no compiler"}, "cuda": {"error": "bad day"},
                                                 "triton": {"missing": "not installed"}})  # fmt: skip
    report = check(follow=small)
    missing = {b["name"]: b["missing"] for b in report["backends"]}
    assert missing == {"reference": None} | dict.fromkeys(native.VARIANTS, "no compiler") | dict.fromkeys(
        ("cuda", "cuda culled", "cuda graph"), "bad day"
    )
    assert {row["backend"] for row in report["cases"]} == {"reference"} and report["passed"]
    assert "not here: avx2: no compiler" in text(report)


def test_a_variant_that_this_processor_cannot_run_is_missing(monkeypatch):
    monkeypatch.setattr(native, "variants", lambda: ("baseline",))
    missing = {b.name: b.missing for b in parity.there_may_be()}
    assert missing["avx512"] == (info.report()["kernels"]["missing"] or "not built, or not for this processor")


# --- what is wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize("operator", sorted(OPERATORS))
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (off, None),
        (with_nan, "result 0 is no number at 1 of"),
        (wrong_shape, r"result 0 is ("),
        (wrong_dtype, "torch.float16; wanted"),
        (raising, "RuntimeError: an illegal memory access"),
        (lambda results: results[:-1], "results, wanted"),
    ],
    ids=["off", "nan", "shape", "dtype", "raises", "too few"],
)
def test_a_planted_fault_is_found(operator, spoil, message):
    report = check(["cpu"], follow=lambda table: SMALL[:1], candidates=[planted(operator, spoil)])
    assert not report["passed"]
    failed = [row for row in report["cases"] if not row["passed"]]
    assert [(row["operator"], row["dtype"]) for row in failed] == [(operator, "float64"), (operator, "float32")]
    for row in failed:
        if message is None:
            assert row["error"] == pytest.approx(1e-3, rel=0.01) and row["message"] is None
        else:
            assert message in row["message"]
        assert f"failed: planted (a fake) {operator} {row['dtype']}, edges, d = 2, laplacian" in text(report)
    json.dumps(report, allow_nan=False)


def test_a_number_in_the_place_of_a_nan_is_found():
    backend = planted("jet", lambda results: [t.nan_to_num() for t in results])
    report = check(["cpu"], follow=small, candidates=[backend])
    assert {row["kind"] for row in report["cases"] if not row["passed"]} == {"no number"}


def test_an_overflow_of_a_sharp_bump_is_found():
    backend = planted("jet", lambda results: [t + math.inf for t in results])
    report = check(["cpu"], follow=lambda table: SMALL[3:], candidates=[backend])
    assert "no number at 20 of 20 places" in report["cases"][0]["message"]


def test_results_that_change_from_run_to_run_are_found():
    calls = iter(range(10**6))
    backend = planted("jet_vjp", lambda results: off(results, 1 + 2e-7 * (next(calls) % 2)))
    report = check(["cpu"], follow=lambda table: SMALL[:1], candidates=[backend])
    failed = [row for row in report["cases"] if not row["passed"]]
    assert {row["message"] for row in failed if row["dtype"] == "float32"} == {"a second run gives other bits"}


def test_an_operator_without_cases_fails_loudly(monkeypatch):
    monkeypatch.setattr(ops, "OPERATORS", (*ops.OPERATORS, "brand_new"))
    cases.questions.cache_clear()
    report = check(["cpu"], follow=lambda table: SMALL[:1])
    cases.questions.cache_clear()
    failed = [row for row in report["cases"] if not row["passed"]]
    assert {row["operator"] for row in failed} == {"brand_new"}
    assert all("there are no cases for this operator" in row["message"] for row in failed)


def test_a_planted_fault_in_a_registered_operator_is_found(monkeypatch):
    """Through the command, as it would show."""
    jet = parity._registered

    def wrong(name, *args):
        return off(jet(name, *args)) if name == "design" else jet(name, *args)

    monkeypatch.setattr(parity, "_registered", wrong)
    report = check(["cpu"], follow=small)
    failed = {(row["backend"], row["operator"]) for row in report["cases"] if not row["passed"]}
    assert failed == {(variant, "design") for variant in native.variants()}


def test_compare_takes_the_worst_for_its_tolerance():
    one = torch.ones(3, dtype=torch.float64)
    verdict = compare([one * 1.01, one * 1.002], [one, one], [0.1, 0.01], torch.float64)
    assert (verdict.error, verdict.tolerance, verdict.passed) == (pytest.approx(0.002), 0.01, True)
    exact = compare([one, one + 1e-15], [one, one], [0.0, 0.0], torch.float64)
    assert exact.error > 0 and not exact.passed
    assert compare([], [], [], torch.float64).passed


# --- what only CUDA has, on the CPU ----------------------------------------------------------------


def capturing(step):
    """As a CUDA graph: the results keep their place."""
    results = [t.clone() for t in step()]

    def replay():
        for place, new in zip(results, step(), strict=True):
            place.copy_(new)

    return results, replay


def forgetful(step):
    """A graph that has taken a copy of its inputs."""
    return step(), lambda: None


@pytest.fixture
def triton_serves(monkeypatch):
    monkeypatch.setattr(ops, "cuda_kernel", lambda name, *args: registered if name in ("jet", "jet_vjp") else None)


def test_the_way_of_cuda_says_who_served(triton_serves):
    report = check(["cpu"], follow=small, candidates=[parity._on_cuda("cpu", None)])
    served = {row["operator"]: row["served_by"] for row in report["cases"]}
    assert report["passed"]
    compaction = {"compact": "cuda" if native.missing is None else "reference"}
    assert served == dict.fromkeys(OPERATORS, "reference") | {"jet": "triton", "jet_vjp": "triton"} | compaction


@pytest.mark.parametrize("name", ["jet", "jet_vjp"])
def test_who_serves_on_cuda_is_what_the_operators_ask(monkeypatch, name):
    """``served_by`` cannot lie: the operators' way to the kernels asks the same function."""

    class Kernels:
        jet = jet_vjp = staticmethod(lambda *args, culling: f"triton was here, {culling}")

        @staticmethod
        def serves(*asked):
            return asked[-3:] == (2, 1, torch.float32)

    monkeypatch.setattr(ops, "_triton_kernels", lambda: Kernels)
    single = cases.moved(cases.questions(SMALL[0])[name].args, torch.float32, "cpu")
    double = cases.moved(single, torch.float64, "cpu")
    backend = parity._on_cuda("cpu", None)
    assert backend.served_by(name, *single) == "triton" and ops._on_cuda(name, *single) == "triton was here, auto"
    assert backend.served_by(name, *double) == "reference" and len(ops._on_cuda(name, *double)) >= 2
    with native.use_culling("never"):
        assert ops._on_cuda(name, *single) == "triton was here, never"


def test_pairs_are_left_out_of_the_jets_as_well(monkeypatch):
    asked = []
    monkeypatch.setattr(
        parity, "_registered", lambda name, *args: asked.append(native.culling()) or registered(name, *args)
    )
    rows = check(["cpu"], follow=small, candidates=[parity._culled("cpu", None)])["cases"]
    assert {row["operator"] for row in rows} == {"jet", "jet_vjp"} and all(row["passed"] for row in rows)
    assert {row["backend"] for row in rows} == {"cuda culled"} and set(asked) == {"always"}


INTERPRETED = """
import json
from bumpnet_fast.core import ops
from bumpnet_fast.diagnostics import cases, check as parity

def run(operator, *args):
    on_cuda = operator in ("jet", "jet_vjp")
    return ops._on_cuda(operator, *args) if on_cuda else parity._plain(operator, *args)

backend = parity._on_cuda("cpu", None)._replace(run=run)
table = [cases.Case("edges", 2, 4, True, 3, 2, 1), cases.Case("steps", 1, 2, True, 2, 2, 2),
         cases.Case("edges", 2, 1, True, 3, 2, 5)]
print(json.dumps(parity.check(["cpu"], follow=lambda _: table, candidates=[backend])["cases"]))
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no Triton")
@pytest.mark.skipif(importlib.util.find_spec("bumpnet_fast.kernels") is None, reason="the package is not installed")
def test_the_triton_kernels_pass_in_the_interpreter():
    ours = {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "BUMPNET_FAST_BACKEND": ""}
    command = [sys.executable, "-c", INTERPRETED]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | ours, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row for row in rows if not row["passed"]] == []
    for name in ("jet", "jet_vjp"):
        served = {(row["outputs"], row["served_by"]) for row in rows if row["operator"] == name}
        assert served == {(1, "triton"), (2, "triton"), (5, "reference")}


def test_a_replayed_graph_gives_what_the_calls_give(triton_serves):
    report = check(["cpu"], follow=small, candidates=[GraphBackend("cpu", None, capturing)])
    assert report["passed"]
    assert [(row["points"], row["dtype"]) for row in report["cases"]] == [
        (n, dtype) for n in (33, 41, 20) for dtype in ("float64", "float32")
    ]
    assert {(row["operator"], row["error"], row["tolerance"]) for row in report["cases"]} == {("jet, jet_vjp", 0, 0)}


def test_a_graph_that_forgets_its_inputs_is_found(triton_serves):
    report = check(["cpu"], follow=small, candidates=[GraphBackend("cpu", None, forgetful)])
    assert not any(row["passed"] for row in report["cases"] if row["kind"] == "edges")


def test_a_capture_that_fails_is_a_failure(triton_serves):
    report = check(["cpu"], follow=small, candidates=[GraphBackend("cpu", None, raising)])
    assert {row["message"] for row in report["cases"]} == {"RuntimeError: an illegal memory access"}


def test_where_triton_does_not_serve_no_graph_is_checked(monkeypatch):
    monkeypatch.setattr(ops, "cuda_kernel", lambda name, *args: None)
    report = check(["cpu"], follow=small, candidates=[GraphBackend("cpu", None, capturing)])
    assert report["cases"] == [] and not report["passed"]
    assert "nothing to check" in text(report)


def test_a_capture_warms_up_on_a_stream_of_its_own(monkeypatch):
    """The order of what is asked of torch.cuda; a real graph is captured by ``bumpnet check`` on a GPU."""
    said = []

    class Stream:
        def __init__(self, name="own"):
            self.name = name

        def wait_stream(self, other):
            said.append(f"{self.name} waits for {other.name}")

    class Graph:
        def replay(self):
            said.append("replay")

    @contextlib.contextmanager
    def within(what):
        said.append(f"into {getattr(what, 'name', 'graph')}")
        yield
        said.append("out")

    fakes = {"Stream": Stream, "current_stream": lambda: Stream("current"), "stream": within, "CUDAGraph": Graph,
             "graph": within}  # fmt: skip
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    results, replay = parity.capture(lambda: said.append("step") or ["result"])
    replay()
    assert results == ["result"]
    assert said == ["own waits for current", "into own", "step", "step", "step", "out", "current waits for own",
                    "into graph", "step", "out", "replay"]  # fmt: skip


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_passes():
    report = check(["cuda"])
    assert [row for row in report["cases"] if not row["passed"]] == []


# --- what people see, and the command --------------------------------------------------------------


def text(report) -> str:
    file = io.StringIO()
    show(report, file)
    return file.getvalue()


def test_the_table(report):
    lines = text(report).splitlines()
    here = [b["name"] for b in report["backends"] if b["missing"] is None]
    table = [line.split() for line in lines[1 : 1 + len(here) * len(OPERATORS)]]
    assert list(dict.fromkeys(line[0] for line in table)) == here
    assert all(line[-1] == "pass" for line in table)
    assert {line[2] for line in table} == OPERATORS
    assert lines[-1] == f"{len(report['cases'])} of {len(report['cases'])} cases passed"


def test_only_the_first_failures_are_shown_one_by_one():
    report = check(["cpu"], follow=lambda table: SMALL[:1] * 12, candidates=[planted("jet", off)])
    assert text(report).count("failed:") == parity.SHOWN
    assert "... and 4 more; --json tells them all" in text(report)


def test_unknown_devices_are_told():
    with pytest.raises(ValueError, match="devices must be of cpu, cuda, got 'tpu'"):
        check(["tpu"])


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(parity, "table", lambda full: SMALL if full else SMALL[:1])


def test_the_command(few, capsys):
    assert cli.main(["check", "--device", "cpu"]) == 0
    output, errors = capsys.readouterr()
    assert "cases passed" in output and errors == ""
    assert cli.main(["check", "--device", "cpu", "--full", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] and report["full"] and {row["kind"] for row in report["cases"]} > {"edges"}


def test_the_exit_code_of_a_failure(few, monkeypatch, capsys):
    monkeypatch.setattr(parity, "there_may_be", lambda: [planted("basis", raising)])
    assert cli.main(["check"]) == 1
    assert "FAIL" in capsys.readouterr().out
    assert cli.main(["check", "--json"]) == 1
    assert not json.loads(capsys.readouterr().out)["passed"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_asked_for_and_not_there_is_a_failure(few, capsys):
    assert cli.main(["check", "--device", "cuda"]) == 1
    output = capsys.readouterr().out
    assert "not here: cuda:" in output and "nothing to check" in output
