"""Benchmarks: one thread unless a case says otherwise, and a table of ratios at the end.  --device cuda for a GPU."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

OURS = "ours"


def pytest_addoption(parser):
    parser.addoption("--device", choices=("cpu", "cuda"), default="cpu", help="where the benchmarks run")


def pytest_configure(config):
    if config.getoption("--device") == "cuda" and not torch.cuda.is_available():
        raise pytest.UsageError("--device cuda: there is no CUDA device")


@pytest.fixture(scope="session")
def device(request):
    return request.config.getoption("--device")


@pytest.fixture
def timed(benchmark, device):
    """``benchmark``, which waits for the GPU in every timed call."""

    def settled(function, *args):
        result = function(*args)
        torch.cuda.synchronize()
        return result

    return lambda function, *args: benchmark(*((settled,) if device == "cuda" else ()), function, *args)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_terminal_summary(terminalreporter, config):
    """Per group: median seconds of every contestant, its ratio to ours, and peak extra memory."""
    session = getattr(config, "_benchmarksession", None)
    groups = defaultdict(dict)
    for bench in session.benchmarks if session else ():
        if "contestant" in bench.extra_info and bench.stats.data:
            groups[bench.group][bench.extra_info["contestant"]] = bench
    write = terminalreporter.write_line
    where = torch.cuda.get_device_name() if config.getoption("--device") == "cuda" else "CPU"
    for name, group in groups.items():
        write("")
        write(f"{name}  ({where}, one process, medians, {torch.get_num_threads()} threads outside the cases)")
        reference = group.get(OURS)
        for contestant, bench in sorted(group.items(), key=lambda item: item[1].stats.median):
            ratio = f"{bench.stats.median / reference.stats.median:8.1f} x ours" if reference else ""
            peak = bench.extra_info.get("peak_extra_mib")
            memory = "" if peak is None else f"{peak:10.1f} MiB peak extra"
            pairs = bench.extra_info.get("pairs")
            rate = "" if pairs is None else f"{bench.stats.median / pairs * 1e9:9.2f} ns/pair"
            write(f"  {contestant:<24}{bench.stats.median * 1e3:10.3f} ms {rate} {ratio}{memory}")
