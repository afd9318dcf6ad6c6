"""Benchmarks: one thread unless a case says otherwise, and a table of ratios at the end.  --device cuda for a GPU."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections import defaultdict
from importlib import metadata
from pathlib import Path

import pytest
import torch

from bumpnet_fast.core import backends as native

sys.path.insert(0, str(Path(__file__).parent))

collect_ignore = [] if importlib.util.find_spec("jax") else ["jax_peers.py"]  # whose docstrings are looked at

OURS = "ours"
#: Processes that wanted to run before the benchmarks began.
LOAD = os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def pytest_addoption(parser):
    parser.addoption("--device", choices=("cpu", "cuda"), default="cpu", help="where the benchmarks run")


def pytest_configure(config):
    config.addinivalue_line("markers", "short: a few minutes of all of them")
    config.addinivalue_line("markers", "threads(n): computes in n threads")
    if config.getoption("--device") == "cuda" and not torch.cuda.is_available():
        raise pytest.UsageError("--device cuda: there is no CUDA device")


def pytest_collection_modifyitems(config, items):
    """Time on the processor, which a busy machine disturbs less than time on the clock.

    Of several threads it is that of the one that shares out the work and waits for the others.
    """
    for item in items if config.getoption("--device") == "cpu" else ():
        if mark := item.get_closest_marker("threads"):
            timer = time.process_time if mark.args == (1,) else time.thread_time
            item.add_marker(pytest.mark.benchmark(timer=timer))


@pytest.fixture(scope="session")
def device(request):
    return request.config.getoption("--device")


@pytest.fixture
def settled(device):
    """Makes a function wait for the GPU whenever it is called."""

    def wait_too(function):
        def settled(*args):
            result = function(*args)
            torch.cuda.synchronize()
            return result

        return settled if device == "cuda" else function

    return wait_too


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_benchmark_update_machine_info(config, machine_info):
    """What figures depend on, and nothing that tells whose machine it was."""
    processor = machine_info.get("cpu", {})
    known = {"python": machine_info.get("python_version"), "system": machine_info.get("system")}
    known |= {"processor": processor.get("brand_raw"), "processors": processor.get("count")}
    known |= {"variant": native.variant(), "torch": str(torch.__version__)}
    known["load"] = LOAD
    known["jax"] = metadata.version("jax") if importlib.util.find_spec("jax") else None
    known["device"] = torch.cuda.get_device_name() if config.getoption("--device") == "cuda" else "CPU"
    machine_info.clear()
    machine_info |= known


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
