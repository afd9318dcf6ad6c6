"""The examples run, and both lanes agree."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

LIBRARIES = ("deepxde", "pina", "physicsnemo")
ROOT = Path(__file__).parents[2]


def run_python(folder, *arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "DDE_BACKEND": "pytorch"}
    run = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


def needs(*libraries):
    missing = [library for library in libraries if importlib.util.find_spec(library) is None]
    extras = "pip install bumpnet_fast[integrations,physicsnemo]"
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed: {extras}")


@needs(*LIBRARIES)
def test_both_lanes_of_the_examples_have_the_same_losses(tmp_path):
    script = str(ROOT / "bench" / "integrations.py")
    printed = run_python(tmp_path, script, "--points", "200", "--bumps", "4", "--repeats", "2", "--short")
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| ")][1:]
    examples = sorted(path.stem.replace("_", " ") for name in LIBRARIES for path in ROOT.glob(f"examples/{name}_*.py"))
    assert sorted(row[0] for row in rows) == examples and len(examples) == 5
    assert all(float(row[-1]) < 1e-6 for row in rows), printed
