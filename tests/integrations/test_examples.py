"""The examples and the page run, and both lanes of the examples agree."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

LIBRARIES = ("deepxde", "pina", "physicsnemo")
ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "integrations.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def run_python(folder, *arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "DDE_BACKEND": "pytorch"}
    run = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


def needs(*libraries):
    missing = [library for library in libraries if importlib.util.find_spec(library) is None]
    extras = "pip install bumpnet_fast[integrations,physicsnemo]"
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed: {extras}")


def test_the_page_has_a_block_for_each_library():
    assert [[name for name in LIBRARIES if f"from {name}" in b or f"import {name}" in b] for b in BLOCKS] == [
        [name] for name in LIBRARIES
    ]


@pytest.mark.parametrize(
    "code", [pytest.param(code, marks=needs(name), id=name) for name, code in zip(LIBRARIES, BLOCKS, strict=False)]
)
def test_the_code_of_the_page_runs_as_printed(code, tmp_path):
    (tmp_path / "page.py").write_text(code, encoding="utf-8")
    run_python(tmp_path, "page.py")


@needs(*LIBRARIES)
def test_both_lanes_of_the_examples_have_the_same_losses(tmp_path):
    script = str(ROOT / "bench" / "integrations.py")
    printed = run_python(tmp_path, script, "--points", "200", "--bumps", "4", "--repeats", "2", "--short")
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| ")][1:]
    examples = sorted(path.stem.replace("_", " ") for name in LIBRARIES for path in ROOT.glob(f"examples/{name}_*.py"))
    assert sorted(row[0] for row in rows) == examples and len(examples) == 5
    assert all(float(row[-1]) < 1e-6 for row in rows), printed
