"""What is installed and what is missing: versions, processor, compiled kernels, CUDA, Triton.

``bumpnet info`` prints it.  Include it in a bug report.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pkgutil
import platform
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import torch

from .. import __version__
from ..core import backends, functional

#: The environment variables that the package reads, and their meaning.
ENVIRONMENT = {
    "BUMPNET_FAST_BACKEND": "'reference' leaves the compiled kernels unused",
    "BUMPNET_FAST_BUILD": "what an installation builds: auto, cpu (or fail), cuda (too, or fail), none",
    "BUMPNET_CUDA": "1: an installation builds the CUDA code too, or fails",
    "OMP_NUM_THREADS": "how many threads torch, and so the kernels, use",
}
_PACKAGE = Path(__file__).parents[1]


def report() -> dict:
    """Describe installation and machine as plain data for JSON.

    Returns
    -------
    dict
        Sections ``versions``, ``system``, ``kernels``, ``cuda``, ``triton``, ``environment``, and ``package``, the
        folder in use.  In ``kernels``, ``cuda`` and ``triton`` the entry ``missing`` is None, or the reason why it is
        missing.  A section that cannot be determined is ``{"error": why}``: this function never raises, and changes
        nothing.

    Examples
    --------
    >>> info = report()
    >>> info["versions"]["torch"] == torch.__version__
    True
    >>> info["kernels"]["backend"] in ("reference", *backends.VARIANTS)
    True
    """
    sections = {
        "versions": _versions,
        "system": _system,
        "kernels": _kernels,
        "cuda": _cuda,
        "triton": _triton,
        "environment": lambda: {name: os.environ.get(name) for name in ENVIRONMENT},
    }
    return {name: _guarded(section) for name, section in sections.items()} | {"package": str(_PACKAGE)}


def format_report(report: dict) -> str:
    """The report as aligned lines of text.

    Parameters
    ----------
    report : dict
        Result of :func:`report`.

    Examples
    --------
    >>> print(format_report({"versions": {"torch": "2.14.1", "triton": None}}))
    torch         2.14.1
    triton        not installed
    """
    lines: list[tuple[str, str]] = []
    for name, section in report.items():
        if not isinstance(section, dict):
            lines.append((name, str(section)))
        elif "error" in section:
            lines.append((name, f"could not be found out: {section['error']}"))
        else:
            lines.extend(_FORMATS[name](section))
    return "\n".join(f"{name:<14}{text}" for name, text in lines)


def _guarded(section: Callable[[], dict]) -> dict:
    try:
        return section()
    except Exception as error:  # a report of errors must not fail because of them
        return {"error": f"{type(error).__name__}: {error}"}


# --- the sections --------------------------------------------------------------------------------


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _versions() -> dict:
    others = {name: _version(name) for name in ("triton", "numpy", "scipy")}
    own = {"bumpnet_fast": __version__, "python": platform.python_version(), "torch": str(torch.__version__)}
    return own | others


def _system() -> dict:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "os": platform.platform(),
        "processor": _processor(),
        "cores": usable,
        "threads": torch.get_num_threads(),
    }


def _processor() -> str:
    """The processor's model, from a file on Linux, otherwise from ``platform``."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.lower().startswith("model name"))
    return next(models, "") or platform.processor() or platform.machine()


def _build(part: str) -> dict:
    """The record by setup.py of one part of the native code, "cpu" or "cuda"."""
    try:
        record = json.loads((_PACKAGE / "_build.json").read_text(encoding="utf-8"))
    except OSError:
        return {"built": False, "reason": "the package was never built: pip install it, or run make in the checkout"}
    return record.get(part, {"built": False, "reason": "the record of the build says nothing about it"})


def _why_missing(missing: str | None, build: dict) -> str | None:
    """Why a compiled module is not in use: what its build says, if that is the reason."""
    if missing is None or os.environ.get("BUMPNET_FAST_BACKEND") == "reference":
        return missing
    return build.get("reason") or missing


def _kernels() -> dict:
    build = _build("cpu")
    return {
        "backend": functional.backend(),
        "variants": list(backends.variants()),
        "missing": _why_missing(backends.missing, build),
        "build": build,
    }


def _cuda() -> dict:
    build = _build("cuda")
    return _devices() | {"code": {"missing": _why_missing(backends.missing_cuda, build), "build": build}}


def _devices() -> dict:
    toolkit = f"CUDA {torch.version.cuda}" if torch.version.cuda else torch.version.hip and f"ROCm {torch.version.hip}"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()  # explains itself by a warning, if at all
    if available:
        return {"toolkit": toolkit, "devices": [_device(i) for i in range(torch.cuda.device_count())], "missing": None}
    reasons = [str(warning.message).split("\n")[0] for warning in caught] or ["no device found"]
    return {"toolkit": toolkit, "devices": [], "missing": reasons[0] if toolkit else "torch is built without CUDA"}


def _device(index: int) -> dict:
    device = torch.cuda.get_device_properties(index)
    return {
        "name": device.name,
        "capability": f"{device.major}.{device.minor}",
        "memory_gib": round(device.total_memory / 2**30, 1),
    }


def _triton() -> dict:
    spec = importlib.util.find_spec("bumpnet_fast.kernels")
    if importlib.util.find_spec("triton") is None:
        missing = "not installed"
    elif spec is None or not list(pkgutil.iter_modules(spec.submodule_search_locations)):
        missing = "this version of bumpnet_fast has no Triton kernels"
    else:
        missing = None if torch.cuda.is_available() else "no CUDA device to run on"
    return {"missing": missing}


# --- the sections as text ------------------------------------------------------------------------


def _format_kernels(section: dict) -> list[tuple[str, str]]:
    if section["missing"] is not None:
        return [("kernels", f"none, the reference serves: {section['missing']}")]
    return [("kernels", f"{section['backend']} in use, of {', '.join(section['variants'])}")]


def _format_cuda(section: dict) -> list[tuple[str, str]]:
    devices = [f"{d['name']}, capability {d['capability']}, {d['memory_gib']} GiB" for d in section["devices"]]
    toolkit = f" (torch is built for {section['toolkit']})" if section["toolkit"] else ""
    lines = [("CUDA", text + toolkit) for text in devices or [f"none: {section['missing']}"]]
    return [*lines, ("CUDA code", _format_code(section["code"]["missing"], section["code"]["build"]))]


def _format_code(missing: str | None, build: dict) -> str:
    built = f"for {', '.join(build['architectures'])} with CUDA {build['toolkit']}" if build["built"] else ""
    if missing is None:
        return f"loaded, built {built or 'elsewhere'}"
    return f"none: {missing}" + (f" (built {built})" if built else "")


_FORMATS: dict[str, Callable[[dict], list[tuple[str, str]]]] = {
    "versions": lambda s: [(name, version or "not installed") for name, version in s.items()],
    "system": lambda s: [
        ("system", s["os"]),
        ("processor", f"{s['processor']}, {s['cores']} cores, {s['threads']} threads"),
    ],
    "kernels": _format_kernels,
    "cuda": _format_cuda,
    "triton": lambda s: [("Triton", "in use" if s["missing"] is None else f"not in use: {s['missing']}")],
    "environment": lambda s: [("environment", f"{name}={value}") for name, value in s.items() if value is not None],
}
