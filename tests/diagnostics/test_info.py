"""``bumpnet info``: complete, truthful about what is missing, and never in the way."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch

from bumpnet_fast import __version__, backend
from bumpnet_fast.core import backends as native
from bumpnet_fast.diagnostics import info

ROOT = Path(__file__).parents[2]
BUILT_CUDA = {"built": True, "architectures": ["9.0", "12.0+PTX"], "toolkit": "13.0", "torch": "2.14.1"}


@pytest.fixture
def report():
    return info.report()


def run_report(**environment) -> dict:
    """The report of a new process, where environment variables count from the start."""
    code = "import json; from bumpnet_fast.diagnostics import info; print(json.dumps(info.report()))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, cwd=ROOT, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_the_report_is_plain_data(report):
    assert json.loads(json.dumps(report)) == report
    assert not [name for name, section in report.items() if "error" in section]


def test_versions(report):
    assert report["versions"]["bumpnet_fast"] == __version__
    assert report["versions"]["python"] == sys.version.split()[0]
    assert report["versions"]["torch"] == torch.__version__
    assert report["versions"]["numpy"] == numpy.__version__


def test_system(report):
    assert report["system"]["threads"] == torch.get_num_threads()
    assert report["system"]["cores"] >= 1
    assert report["system"]["processor"]


def test_kernels_are_those_in_use(report):
    kernels = report["kernels"]
    assert kernels["backend"] == backend()
    assert kernels["variants"] == list(native.variants())
    assert (kernels["missing"] is None) == bool(kernels["variants"])
    if kernels["missing"] is None and kernels["build"]["built"]:
        assert set(kernels["variants"]) <= set(kernels["build"]["variants"])


def test_cuda_is_there_or_missing_for_a_reason(report):
    cuda = report["cuda"]
    assert len(cuda["devices"]) == torch.cuda.device_count()
    assert (cuda["missing"] is None) == torch.cuda.is_available()


def test_kernels_switched_off():
    kernels = run_report(BUMPNET_FAST_BACKEND="reference")["kernels"]
    assert kernels["backend"] == "reference" and kernels["variants"] == []
    assert "BUMPNET_FAST_BACKEND=reference" in kernels["missing"]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"cpu": {"built": False, "reason": "no compiler was found"}}, "no compiler was found"),
        ({"cpu": {"built": True}}, "cannot load"),
        (None, "never built"),
    ],
)
def test_why_the_kernels_are_missing(monkeypatch, tmp_path, record, reason):
    monkeypatch.setattr(info, "_PACKAGE", tmp_path)
    monkeypatch.setattr(native, "missing", "cannot load")
    monkeypatch.delenv("BUMPNET_FAST_BACKEND", raising=False)
    if record is not None:
        (tmp_path / "_build.json").write_text(json.dumps(record))
    report = info.report()
    assert reason in report["kernels"]["missing"]
    assert reason in info.format_report(report)


def test_a_broken_part_is_reported_not_raised(monkeypatch):
    def broken():
        raise RuntimeError("the driver has a bad day")

    monkeypatch.setattr(torch.cuda, "is_available", broken)
    report = info.report()
    assert report["cuda"] == {"error": "RuntimeError: the driver has a bad day"}
    assert "the driver has a bad day" in info.format_report(report)
    assert report["versions"]["torch"] == torch.__version__


def test_a_device_is_described(monkeypatch):
    class Properties:
        name, major, minor, total_memory = "Some GPU", 9, 0, 80 * 2**30

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Properties)
    report = info.report()
    assert report["cuda"]["devices"] == [{"name": "Some GPU", "capability": "9.0", "memory_gib": 80.0}]
    assert "Some GPU, capability 9.0, 80.0 GiB" in info.format_report(report)


@pytest.mark.parametrize(
    ("record", "missing", "line"),
    [
        ({"built": False, "reason": "not asked for"}, "no module", "CUDA code     none: not asked for"),
        (BUILT_CUDA, None, "CUDA code     loaded, built for 9.0, 12.0+PTX with CUDA 13.0"),
        (BUILT_CUDA, "no libtorch", "CUDA code     none: no libtorch (built for 9.0, 12.0+PTX with CUDA 13.0)"),
        (None, "no module", "CUDA code     none: the record of the build says nothing about it"),
    ],
)
def test_the_cuda_code_is_described(monkeypatch, tmp_path, record, missing, line):
    monkeypatch.setattr(info, "_PACKAGE", tmp_path)
    monkeypatch.setattr(native, "missing_cuda", missing)
    monkeypatch.delenv("BUMPNET_FAST_BACKEND", raising=False)
    (tmp_path / "_build.json").write_text(json.dumps({"cpu": {"built": True}} | ({"cuda": record} if record else {})))
    report = info.report()
    assert (report["cuda"]["code"]["missing"] is None) == (missing is None)
    assert line in info.format_report(report).splitlines()


def test_the_text_names_what_matters(report):
    text = info.format_report(report)
    for name in ("bumpnet_fast", "python", "torch", "triton", "processor", "kernels", "CUDA", "Triton", "package"):
        assert re.search(rf"^{name} +\S", text, re.MULTILINE), name


def test_every_environment_variable_is_listed():
    sources = [*(ROOT / "bumpnet_fast").rglob("*.py"), *(ROOT / "kernels").rglob("*.py"), ROOT / "setup.py"]
    used = {name for path in sources for name in re.findall(r"BUMPNET_FAST_[A-Z]+", path.read_text(encoding="utf-8"))}
    assert used == {name for name in info.ENVIRONMENT if name.startswith("BUMPNET_FAST_")}
