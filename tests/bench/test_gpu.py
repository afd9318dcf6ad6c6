"""bench/gpu.py from end to end, with the CPU in the place of the GPU and fakes for what CUDA alone has."""

import importlib.util
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

if importlib.util.find_spec("triton.backends.nvidia" if importlib.util.find_spec("triton") else "triton") is None:
    pytest.skip("no Triton with compilers, which the bounds are counted with", allow_module_level=True)

# The benchmarks are scripts beside the package.  Not in a conftest.py, which doctest would take for that of tests/.
sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import gpu
import memory
import static
from gpu import BEGIN, END, GRAPH, OURS, Case, Sharp

from bumpnet_fast.core.reference import DIAGONAL, LAPLACIAN, VALUE

H100 = static.GPUS["H100"]


class Event:
    """A CUDA event on the clock of the CPU."""

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.at = time.perf_counter()

    def elapsed_time(self, end):
        return 1e3 * (end.at - self.at)


@pytest.fixture
def cuda(monkeypatch):
    """What bench/gpu.py asks of torch.cuda, on a machine without it."""
    held = iter(range(0, 10**9, 2**20))
    fakes = {
        "is_available": lambda: True,
        "Event": Event,
        "synchronize": lambda: None,
        "reset_peak_memory_stats": lambda: None,
        "memory_allocated": lambda: next(held),
        "max_memory_allocated": lambda: next(held),
        "get_device_properties": lambda: SimpleNamespace(
            name="Some GPU", major=9, minor=0, multi_processor_count=100, clock_rate=1_500_000
        ),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(gpu, "capture", lambda step: (step(), step))
    monkeypatch.setitem(gpu.PEERS, "torch.compile", lambda: gpu.speed.analytic)  # which needs no compiler


# --- bounds ----------------------------------------------------------------------------------------


def test_the_counts_are_those_of_the_page():
    """d = 2 with the Hessian diagonal on sm_90: docs/gpu.md."""
    forward = static.count("jet_kernel", 2, DIAGONAL, 90)
    assert 65 <= forward.instructions <= 68 and forward.mufu == 6 and 52 <= forward.fp32 <= 55
    assert 1 / H100._replace(clock=1.755).seconds_per_pair(forward) == pytest.approx(445e9, rel=0.03)


def test_listed_pairs_cost_little_more_than_all():
    """Which is what makes the pairs that are left out a gain."""
    dense, listed = (static.count("jet_vjp_rows_kernel", 2, LAPLACIAN, 90, listed) for listed in (False, True))
    assert 1 < listed.instructions / dense.instructions < 1.15 and listed.mufu == dense.mufu


def test_what_binds():
    count = static.Count(instructions=64, mufu=2, fp32=50, registers=1)
    one = H100._replace(processors=1, clock=1.0)
    assert one.seconds_per_pair(count) == pytest.approx(0.5e-9)
    assert one.seconds_per_pair(count._replace(mufu=16)) == pytest.approx(1e-9)
    assert one._replace(lanes=25).seconds_per_pair(count) == pytest.approx(2e-9)


@pytest.mark.parametrize("gpu", static.GPUS.values(), ids=static.GPUS)
def test_the_clocks_are_plausible(gpu):
    assert 1.2 < gpu.clock < 3 and "TFLOP/s" in gpu.source


def test_a_loop_that_is_not_understood_is_no_count(monkeypatch):
    found = SimpleNamespace(pairs=7.5, total=1, fp32=1, opcodes={})
    monkeypatch.setattr(static.compiled, "profile", lambda binary, expected: found)
    monkeypatch.setattr(static.compiled, "compile_launch", lambda *args: None)
    with pytest.raises(RuntimeError, match=r"7.5 pairs in a loop over"):
        static.count("jet_kernel", 2, VALUE, 90)


def test_packed_arithmetic_counts_twice(monkeypatch):
    opcodes, usage = {"FFMA2.FTZ": 16, "FADD2": 8, "MUFU.EX2": 9}, SimpleNamespace(registers=1)
    found = SimpleNamespace(pairs=8, total=50, fp32=10, opcodes=opcodes, usage=usage)
    monkeypatch.setattr(static.compiled, "profile", lambda binary, expected: found)
    monkeypatch.setattr(static.compiled, "compile_launch", lambda *args: None)
    assert static.count("jet_kernel", 2, DIAGONAL, 100).fp32 == 10 + 2 * 24 / 8


def test_bounds_on_the_command_line(tmp_path, capsys):
    """No GPU is asked for."""
    file = tmp_path / "bounds.json"
    arguments = ["--static", "--dims", "1", "--wants", "value", "--gpu", "A100", "--clock", "1.0", "--json", str(file)]
    assert gpu.main(arguments) == 0
    record = json.loads(file.read_text())
    assert record["gpu"]["clock"] == 1.0 and len(record["bounds"]) == len(static.KERNELS) == 6
    for row in record["bounds"]:
        least = max(row["instructions"] / 128, row["mufu"] / 16, row["fp32"] / 64)
        assert row["pairs_per_s"] == pytest.approx(108e9 / least)
    output = capsys.readouterr().out
    assert "A100, sm_80, 108 processors at 1.0 GHz" in output
    assert all(f"| {kernel} | 1 | value |" in output for kernel in static.KERNELS)


def test_bounds_are_not_put_where_measurements_belong(tmp_path, capsys):
    page = tmp_path / "gpu.md"
    page.write_text(PAGE)
    assert gpu.main(["--static", "--markdown", str(page)]) == 2
    assert page.read_text() == PAGE and "--static measures nothing" in capsys.readouterr().err


# --- measuring -------------------------------------------------------------------------------------

SHARP = (Sharp(300, 20, 10),)
CASES = (Case(200, 9, 2, "laplacian"), Case(100, 5, 2, "gradient"))
PAGE = f"# On a GPU\n\nbefore\n\n{BEGIN}\n\nnothing\n\n{END}\n\nafter\n"


def test_one_command_fills_the_page(cuda, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gpu, "counted", lambda *args: static.Count(64, 2, 50, 100))
    page, file = tmp_path / "gpu.md", tmp_path / "run.json"
    page.write_text(PAGE)
    arguments = ["--seconds", "0.001", "--json", str(file), "--markdown", str(page)]
    assert gpu.main(arguments, CASES, "cpu", SHARP) == 0
    record = json.loads(file.read_text())
    where = record["machine"]
    assert (where["device"], where["processors"], where["clock_ghz"]) == ("Some GPU", 100, 1.5)
    assert where["torch"] == torch.__version__ and {"driver", "triton", "commit"} < where.keys()
    first, second = record["cases"]
    assert first["case"] == CASES[0]._asdict() and "steps" not in second
    for one in (first["forward"], first["backward"]):
        assert one["pairs_per_s"] == pytest.approx(1800 / one["ms"] * 1e3)
        assert one["of_bound"] == pytest.approx(one["pairs_per_s"] * 0.5 / 150e9)
    assert first["steps"].keys() == {OURS, GRAPH, "torch.compile", "eager analytic", "nested autograd"}
    assert all(one["ms"] > 0 for one in first["steps"].values())
    [one] = record["sharp"]
    assert one["case"] == SHARP[0]._asdict() and one["difference"] < 1e-6
    assert all(one[when][way] > 0 for when in ("auto", "never") for way in ("forward", "backward"))
    text = page.read_text()
    assert text.startswith("# On a GPU\n\nbefore\n") and text.endswith("\n\nafter\n") and "nothing" not in text
    assert "| 200 | 9 | 2 | laplacian |" in text and "| 100 | 5 | 2 | gradient |" in text
    assert "| 300 | 20 | 10 |" in text
    assert text[text.index(BEGIN) + len(BEGIN) : text.index(END)].strip() == capsys.readouterr().out.strip()
    assert gpu.main(arguments, CASES[1:], "cpu", ()) == 0  # and again
    assert page.read_text().count("Some GPU") == 1 and "| 200 |" not in page.read_text()


def test_a_peer_that_runs_out_of_memory_is_told_so(cuda, monkeypatch):
    def out_of_memory():
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 100 GiB")

    def broken():
        raise NotImplementedError("no\nsuch thing")

    monkeypatch.setitem(gpu.PEERS, "nested autograd", out_of_memory)
    monkeypatch.setitem(gpu.PEERS, "eager analytic", broken)
    found = gpu.measure(CASES[0], None, "cpu", 0.001)
    assert found["forward"]["of_bound"] is None
    assert found["steps"]["nested autograd"] == {"failed": "out of memory"}
    assert found["steps"]["eager analytic"] == {"failed": "NotImplementedError: no such thing"}
    table = "\n".join(gpu.markdown(gpu.machine(H100), [found], []))
    assert "| out of memory |" in table and "NotImplementedError" in table


def test_the_median_is_of_single_calls(cuda):
    pauses = iter([0, 0, 0, 0.003, 0.3, *[0.003] * 1000])
    found = gpu.milliseconds(lambda: time.sleep(next(pauses)), 0.03)
    assert 3 <= found < 60


def test_the_replayed_step_is_the_step(cuda):
    args = gpu.speed.case(2, 30, 4, torch.float32)
    loss, gradient = gpu._replay(args)()
    expected = gpu.speed.step(gpu.speed.ours, *args)
    assert torch.equal(loss, expected[0]) and torch.equal(gradient, expected[1])


def test_memory_on_cuda_is_the_allocators(cuda):
    calls = []
    assert memory.peak_extra_mib(lambda: calls.append(1), "cuda") == 1.0
    assert len(calls) == 2


def test_a_page_without_markers_is_left_alone(tmp_path):
    page = tmp_path / "page.md"
    for text in ("", f"{END}\n{BEGIN}", f"{BEGIN}\n{END}\n{BEGIN}"):
        page.write_text(text)
        with pytest.raises(ValueError, match="once each"):
            gpu.fill(page, ["new"])
        assert page.read_text() == text


def test_the_page_has_its_markers():
    text = (gpu.ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1 and text.index(BEGIN) < text.index(END)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_it_says_what_it_can_do(capsys):
    assert gpu.main([]) == 2
    assert capsys.readouterr().err == "no CUDA device; --static needs none\n"
