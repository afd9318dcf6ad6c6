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
    "core/test_kernels.py": "",
    "core/test_ops.py": "(opcheck or gradcheck or part_of or both_ways)"
    " and not (other_dimensions or batched or dynamic)",
    "core/test_culling.py": "",
    "kernels/checks_interpreted.py": "",
    "kernels/checks_combine.py": "",
    "kernels/checks_culling.py": "",
}
#: What `make test` runs in the interpreter: every operator gets to its kernel, and a few bumps are right.
SHORT = "kernels/checks_interpreted.py"
CHOSEN = "interpreter_is_on or gets_to_the_kernels or (blocks_of_any_size and float64)"
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no Triton")


def run(file, chosen):
    path = os.pathsep.join([str(TESTS / "kernels"), str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    ours = {"TRITON_INTERPRET": "1", "BUMPNET_FAST_BACKEND": "reference", "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", "-k", chosen]
    command.append(str(TESTS / file))
    return subprocess.run(command, env=os.environ | ours, capture_output=True, text=True, cwd=TESTS.parent, check=False)


@pytest.fixture(scope="module")
def runs(request):
    """Those that are asked for, side by side: each takes one processor for a minute or more."""
    items = [item for item in request.session.items if item.path == request.path and hasattr(item, "callspec")]
    asked = [item.callspec.params["file"] for item in items]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {file: pool.submit(run, file, RUNS[file]) for file in asked}
        pool.shutdown(cancel_futures=True)


def assert_passed(file, done):
    said = done.stdout + done.stderr
    closing = next((line for line in reversed(done.stdout.splitlines()) if " in " in line), "no closing line")
    print(f"{file}: {closing}")
    if done.returncode != 0:  # 5, nothing collected, too
        pytest.fail(f"{file} in the interpreter: {closing}\n{said[-20000:]}", pytrace=False)


@needs_triton
@pytest.mark.long
@pytest.mark.parametrize("file", RUNS)
def test_in_the_interpreter(runs, file):
    assert_passed(file, runs[file].result())


@needs_triton
def test_a_part_in_the_interpreter():
    assert_passed(SHORT, run(SHORT, CHOSEN))
