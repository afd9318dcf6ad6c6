"""The examples run, and both lanes agree."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run_python(folder, *arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "DDE_BACKEND": "pytorch"}
    run = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


def needs(library):
    missing = importlib.util.find_spec(library) is None
    return pytest.mark.skipif(missing, reason=f"{library} is not installed: pip install bumpnet_fast[integrations]")


@needs("deepxde")
@needs("pina")
def test_both_lanes_of_the_examples_have_the_same_losses(tmp_path):
    script = str(ROOT / "bench" / "integrations.py")
    printed = run_python(tmp_path, script, "--points", "200", "--bumps", "4", "--repeats", "4")
    differences = [float(d) for d in re.findall(r"relative difference (\S+)", printed)]
    assert len(differences) == 4 and max(differences) < 1e-6, printed
