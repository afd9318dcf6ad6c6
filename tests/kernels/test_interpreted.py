"""Runs tests in processes whose Triton interprets: those that all backends share, and checks_*.py."""

import importlib.util
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

#: The files, and which of their tests: of PyTorch's machinery what calls the kernels in another way than the rest does.
RUNS = {
    "test_kernels.py": "",
    "test_ops.py": "(opcheck or gradcheck or part_of or both_ways) and not (other_dimensions or batched or dynamic)",
    "test_culling.py": "",
    "kernels/checks_interpreted.py": "",
    "kernels/checks_combine.py": "",
    "kernels/checks_culling.py": "",
}


def run(file):
    path = os.pathsep.join([str(TESTS / "kernels"), str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    ours = {"TRITON_INTERPRET": "1", "BUMPNET_FAST_BACKEND": "reference", "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    chosen = ["-k", RUNS[file]] if RUNS[file] else []
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", *chosen, str(TESTS / file)]
    return subprocess.run(command, env=os.environ | ours, capture_output=True, text=True, cwd=TESTS.parent, check=False)


@pytest.fixture(scope="module")
def runs(request):
    """Those that are asked for, side by side: each takes one processor for a minute or more."""
    asked = [item.callspec.params["file"] for item in request.session.items if item.path == request.path]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {file: pool.submit(run, file) for file in asked}
        pool.shutdown(cancel_futures=True)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no Triton")
@pytest.mark.parametrize("file", RUNS)
def test_in_the_interpreter(runs, file):
    done = runs[file].result()
    said = done.stdout + done.stderr
    closing = next((line for line in reversed(done.stdout.splitlines()) if " in " in line), "no closing line")
    print(f"{file}: {closing}")
    if done.returncode != 0:  # 5, nothing collected, too
        pytest.fail(f"{file} in the interpreter: {closing}\n{said[-20000:]}", pytrace=False)
