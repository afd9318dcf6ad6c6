"""Builds the native code of bumpnet_fast; all else about the package is in pyproject.toml.

The compiled CPU kernels are optional.  Without a compiler or without torch the package installs in
pure Python, and the reason goes into ``bumpnet_fast/_build.json``, which ``bumpnet info`` shows.  The
environment variable ``BUMPNET_FAST_BUILD`` chooses: ``auto`` (the default), ``cpu`` (build, or fail) or
``none``.  Compilers and flags are chosen by CXX, CXXFLAGS and their like, as for any extension module.

One extension module, ``bumpnet_fast._C``, is linked from one object of ``csrc/operators.cpp`` (the
libtorch stable ABI; the only one that knows torch) and, for every instruction set and dimension, one
of ``csrc/kernels.cpp``.  setuptools knows flags per extension only, hence the compiling done here.
"""

import hashlib
import importlib.util
import json
import os
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

CSRC = Path("csrc")
RECORD = "_build.json"
DIMENSIONS = (1, 2, 3, 4)
VARIANTS = {
    "baseline": (),
    "avx2": ("-mavx2", "-mfma"),
    "avx512": (
        *("-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mavx2", "-mfma"),
        *("-mprefer-vector-width=512", "-Wno-unknown-warning-option", "-Wno-maybe-uninitialized"),  # GCC bug 105593
    ),
}
# -fno-fast-math comes after the user's CXXFLAGS: the kernels' 2^x is wrong under -ffast-math.
GNU_FLAGS = (
    *("-std=c++17", "-O3", "-g0", "-fno-fast-math", "-fno-math-errno", "-fno-trapping-math"),
    *("-fvisibility=hidden", "-Wno-psabi"),
)
MSVC_FLAGS = ("/std:c++17", "/O2", "/fp:precise")
TORCH_TARGET = "0x020a000000000000"  # torch 2.10; the module runs with this version and later ones


def choice() -> str:
    """What the user asks for."""
    asked = os.environ.get("BUMPNET_FAST_BUILD") or "auto"
    if asked not in ("auto", "cpu", "none"):
        raise SystemExit(f"BUMPNET_FAST_BUILD must be auto, cpu or none, got {asked!r}")
    return asked


ASKED = choice()


def obstacle(asked: str) -> str | None:
    """Why no extension can be built here, as far as one can tell before compiling."""
    if asked == "none":
        return "not asked for: built with BUMPNET_FAST_BUILD=none"
    if importlib.util.find_spec("torch") is None:
        return (
            "torch was missing in the build environment: "
            "pip install setuptools torch, then pip install --no-build-isolation bumpnet_fast"
        )
    version = metadata.version("torch")
    if tuple(int(part) for part in version.split(".")[:2]) < (2, 10):
        return f"the kernels need torch >= 2.10, the build environment had {version}"
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "the stable ABI of Python does not cover free-threaded builds"
    if not any(Path(sysconfig.get_path(name), "Python.h").exists() for name in ("include", "platinclude")):
        return "Python.h is missing: install Python's headers (python3-dev on Debian and Ubuntu)"
    return None


class Unit(NamedTuple):
    """One object file: a source and how to compile it."""

    name: str
    source: Path
    macros: tuple[tuple[str, str | None], ...] = ()
    flags: tuple[str, ...] = ()
    include: tuple[str, ...] = ()


def torch_folder() -> Path:
    """Where torch is installed, found without the seconds that its import takes."""
    return Path(importlib.util.find_spec("torch").origin).parent


def units(variants: dict[str, tuple[str, ...]], flags: tuple[str, ...]) -> list[Unit]:
    """The objects of the extension, the longest to compile first."""
    only = () if len(variants) > 1 else (("BUMP_ONLY_BASELINE", "1"),)
    macros = (("TORCH_TARGET_VERSION", TORCH_TARGET), ("Py_LIMITED_API", "0x030a0000"), *only)
    operators = Unit("operators", CSRC / "operators.cpp", macros, flags, (str(torch_folder() / "include"),))
    kernels = [
        Unit(
            f"{variant}_{dim}",
            CSRC / "kernels.cpp",
            (("BUMP_VARIANT", variant), ("BUMP_DIM", str(dim))),
            (*flags, *instruction_set),
        )
        for dim in reversed(DIMENSIONS)
        for variant, instruction_set in variants.items()
    ]
    return [operators, *kernels]


class BuildExtension(build_ext):
    """Compiles the units, links them, and records the outcome; a failure is no error unless asked to be."""

    def run(self) -> None:
        in_place = self.inplace or self.editable_mode  # build_ext.run() loses it when it fails
        reason = obstacle(ASKED)
        if reason is None:
            try:
                super().run()
            except Exception as error:  # whatever it is, pure Python does without
                if ASKED == "cpu":
                    raise
                reason = f"the build failed: {error} (pip install --verbose shows the compiler's own message)"
        elif ASKED == "cpu":
            raise SystemExit(f"BUMPNET_FAST_BUILD=cpu: {reason}")
        folders = [Path(self.build_lib, "bumpnet_fast"), *([Path("bumpnet_fast")] if in_place else [])]
        if reason is not None:
            self.give_up(folders)
            self.warn(f"bumpnet_fast is built without its compiled kernels: {reason}")
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / RECORD).write_text(json.dumps(self.record(reason), indent=1) + "\n")

    def give_up(self, folders: list[Path]) -> None:
        """Leave no older module behind, and make the wheel an honest one of pure Python."""
        for stale in (path for folder in folders for path in folder.glob("_C.*")):
            stale.unlink()
        self.extensions = self.distribution.ext_modules = []
        if wheel := self.distribution.command_obj.get("bdist_wheel"):
            wheel.root_is_pure, wheel.py_limited_api = True, False

    def record(self, reason: str | None) -> dict:
        """What ``bumpnet info`` shows; a key for every part of the native code, of which there is one."""
        if reason is not None:
            return {"cpu": {"built": False, "reason": reason}}
        return {"cpu": {"built": True, "variants": list(self.variants()), "torch": metadata.version("torch")}}

    def variants(self) -> dict[str, tuple[str, ...]]:
        """Instruction sets that compiler and processor family know, with their flags."""
        x86_64 = self.plat_name.endswith(("x86_64", "amd64"))
        return VARIANTS if x86_64 and self.compiler.compiler_type != "msvc" else {"baseline": ()}

    def build_extension(self, ext: Extension) -> None:
        self.objects = Path(self.get_finalized_command("build").build_base, "objects")
        self.objects.mkdir(parents=True, exist_ok=True)
        flags = MSVC_FLAGS if self.compiler.compiler_type == "msvc" else GNU_FLAGS
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            ext.extra_objects = list(pool.map(self.compile_unit, units(self.variants(), flags)))
        ext.depends = ["setup.py", *ext.extra_objects]
        ext.library_dirs, ext.libraries = [str(torch_folder() / "lib")], ["torch_cpu", "c10"]
        super().build_extension(ext)

    def compile_unit(self, unit: Unit) -> str:
        """The unit's object file, compiled anew only if anything it is made of has changed."""
        compiler = getattr(self.compiler, "compiler_so_cxx", self.compiler.compiler_type)
        contents = [path.read_bytes() for path in (unit.source, *sorted(CSRC.glob("*.h")))]
        torch = metadata.version("torch") if unit.include else None
        key = hashlib.sha256(repr((compiler, unit, torch, contents)).encode()).hexdigest()
        target, stamp = self.objects / f"{unit.name}.o", self.objects / f"{unit.name}.key"
        if target.exists() and stamp.exists() and stamp.read_text() == key:
            return str(target)
        # In a folder of its own, then moved: an interrupted compiler leaves nothing that looks whole.
        with tempfile.TemporaryDirectory(dir=self.objects) as scratch:
            [result] = self.compiler.compile(
                [str(unit.source)],
                output_dir=scratch,
                macros=list(unit.macros),
                include_dirs=list(unit.include),
                extra_postargs=list(unit.flags),
            )
            stamp.unlink(missing_ok=True)
            os.replace(result, target)
        stamp.write_text(key)
        return str(target)


class Build(build):
    """The usual build, with build_ext run even if there is no extension: it writes the record."""

    sub_commands = [(name, None if name == "build_ext" else needed) for name, needed in build.sub_commands]


if __name__ == "__main__":
    native = obstacle(ASKED) is None
    setup(
        ext_modules=[Extension("bumpnet_fast._C", [], language="c++", py_limited_api=True)] if native else [],
        options={"bdist_wheel": {"py_limited_api": "cp310"}} if native else {},
        cmdclass={"build": Build, "build_ext": BuildExtension},
    )
