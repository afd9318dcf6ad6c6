"""Builds the native code of bumpnet_fast; all else about the package is in pyproject.toml.

The compiled CPU kernels are optional.  Without a compiler or without torch the package installs in
pure Python, and the reason goes into ``bumpnet_fast/_build.json``, which ``bumpnet info`` shows.  The
environment variable ``BUMPNET_FAST_BUILD`` chooses: ``auto`` (the default), ``cpu`` (build, or fail),
``cuda`` (build the CUDA code as well, or fail; ``BUMPNET_CUDA=1`` says the same) or ``none``.  Compilers and
flags are chosen by CXX, CXXFLAGS and their like, as for any extension module, CUDA's by CUDA_HOME and
TORCH_CUDA_ARCH_LIST; MAX_JOBS says how many compilers may run at a time, as for torch's own extensions.

The extension module ``bumpnet_fast._C`` is linked from the objects of ``csrc/operators.cpp`` and
``csrc/compact.cpp`` (the libtorch stable ABI; the only ones that know torch) and, for every instruction set
and dimension, one of ``csrc/kernels.cpp``.  setuptools knows flags per extension only, hence the
compiling done here.  ``bumpnet_fast._C_cuda``, made of ``csrc/cuda``, is a module of its own: where its
libraries are missing, the import of the other still works.  No GPU is needed to build it.
"""

import hashlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
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
# GCC on x86 otherwise keeps the order of the source until registers are given out, which is too late to set long chains
# of instructions side by side: six percent of the forward kernels' time.  Other compilers do not know these.
GCC_FLAGS = ("-fschedule-insns", "-fsched-pressure")
MSVC_FLAGS = ("/std:c++17", "/O2", "/fp:precise")
CUDA_ARCHITECTURES = ("8.0", "9.0", "10.0", "12.0")  # those that the nvcc found knows; PTX of the last for later ones
HEADERS = ("cuda.h", "cuda_runtime.h")
TORCH_TARGET = "0x020a000000000000"  # torch 2.10; the module runs with this version and later ones
STABLE_ABI = (("TORCH_TARGET_VERSION", TORCH_TARGET), ("Py_LIMITED_API", "0x030a0000"))


def choice() -> str:
    """What the user asks for."""
    asked, cuda = os.environ.get("BUMPNET_FAST_BUILD") or "auto", os.environ.get("BUMPNET_CUDA") or "0"
    if asked not in ("auto", "cpu", "cuda", "none"):
        raise SystemExit(f"BUMPNET_FAST_BUILD must be auto, cpu, cuda or none, got {asked!r}")
    if cuda not in ("0", "1"):
        raise SystemExit(f"BUMPNET_CUDA must be 0 or 1, got {cuda!r}")
    if cuda == "1" and asked == "none":
        raise SystemExit("BUMPNET_CUDA=1 asks for CUDA code and BUMPNET_FAST_BUILD=none for none: unset one")
    return "cuda" if cuda == "1" else asked


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


# --- CUDA -----------------------------------------------------------------------------------------


class Toolkit(NamedTuple):
    """A CUDA toolkit: its compiler, its folder, and the compiler's release such as "13.0"."""

    nvcc: Path
    home: Path
    release: str


def find_toolkit() -> Toolkit:
    """The toolkit of CUDA_HOME (or CUDA_PATH), else of the nvcc on the PATH, else of a usual folder."""
    asked = next((name for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)), None)
    if asked is not None:
        homes = [Path(os.environ[asked])]
        nvcc = nvcc_in(homes[0] / "bin")
        if nvcc is None:
            raise SystemExit(f"CUDA: {asked} is {homes[0]}, but there is no nvcc in its folder bin")
    else:
        usual = [Path("/usr/local/cuda"), Path("/opt/cuda")]
        found = shutil.which("nvcc")
        nvcc = Path(found) if found else next(filter(None, (nvcc_in(home / "bin") for home in usual)), None)
        if nvcc is None:
            raise SystemExit("CUDA: no nvcc on the PATH: install the CUDA toolkit, or set CUDA_HOME to its folder")
        # The nvcc on the PATH may be a link to one elsewhere, or a script that calls one.
        prefixes = [nvcc.resolve().parents[1], nvcc.absolute().parents[1]]
        homes = [*prefixes, *(prefix / "cuda" for prefix in prefixes), *usual]
    home = next((home for home in homes if all((home / "include" / name).exists() for name in HEADERS)), None)
    if home is None:
        folders = ", ".join(dict.fromkeys(str(home / "include") for home in homes))
        raise SystemExit(f"CUDA: {' and '.join(HEADERS)} are not both in {folders}: set CUDA_HOME to a whole toolkit")
    answer = ask(nvcc, "--version")
    release = re.search(r"release (\d+\.\d+)", answer)
    if release is None:
        raise SystemExit(f"CUDA: {nvcc} --version names no release: {answer.strip()[-200:]!r}")
    return Toolkit(nvcc, home, release[1])


def nvcc_in(folder: Path) -> Path | None:
    found = shutil.which("nvcc", path=str(folder))
    return Path(found) if found else None


def ask(nvcc: Path, question: str) -> str:
    try:
        done = subprocess.run([nvcc, question], capture_output=True, text=True, check=False)
    except OSError as error:
        raise SystemExit(f"CUDA: {nvcc} does not run: {error}") from error
    if done.returncode != 0:
        raise SystemExit(f"CUDA: {nvcc} {question} failed: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout


def check_torch(toolkit: Toolkit, built_for: str | None) -> None:
    """Refuse a torch that is built for another CUDA: kernels and libtorch would not work together."""
    if built_for is None:
        raise SystemExit("CUDA: the torch of the build environment is built without CUDA: install one that is")
    if toolkit.release.split(".")[0] != built_for.split(".")[0]:
        raise SystemExit(
            f"CUDA: {toolkit.nvcc} is of release {toolkit.release}, but torch is built for CUDA {built_for}: the major "
            "versions must agree; set CUDA_HOME to another toolkit, or install another torch"
        )


def torch_cuda() -> str | None:
    """``torch.version.cuda``, without the seconds that importing torch takes."""
    found = re.search(r"^cuda\b[^=]*= *'([^']+)'", (torch_folder() / "version.py").read_text(), re.MULTILINE)
    return found[1] if found else None


def architectures(asked: str, known: str) -> list[str]:
    """TORCH_CUDA_ARCH_LIST (``asked``), or a default, as a list such as ["8.0", "9.0+PTX"].

    ``known`` is what ``nvcc --list-gpu-arch`` prints.
    """
    # compute_90 stands for 9.0, 9.0a and 9.0f: which of the latter exist only the compilation shows.
    numbers = sorted({int(number) for number in re.findall(r"compute_(\d+)", known)})
    names = [f"{number // 10}.{number % 10}" for number in numbers]
    wanted = asked.replace(";", " ").replace(",", " ").split()
    if not wanted:
        wanted = [name for name in CUDA_ARCHITECTURES if name in names] or names[-1:]
        wanted = [*wanted[:-1], f"{wanted[-1]}+PTX"] if wanted else []
    wrong = [name for name in wanted if re.sub(r"[af]?(\+PTX)?$", "", name) not in names]
    if wrong or not wanted:
        got = f"TORCH_CUDA_ARCH_LIST has {', '.join(wrong)}" if wrong else "there is no architecture to build for"
        raise SystemExit(f"CUDA: {got}; this nvcc knows {', '.join(names) or 'none'} (written as in '9.0;12.0+PTX')")
    return list(dict.fromkeys(wanted))


def nvcc_flags(wanted: list[str]) -> list[str]:
    """Code for every architecture, and PTX where its name says so."""
    flags = ["-std=c++17", "-O3", "-Xcompiler", "-fPIC,-fvisibility=hidden"]
    for name in wanted:
        number = name.removesuffix("+PTX").replace(".", "")
        flags += ["-gencode", f"arch=compute_{number},code=sm_{number}"]
        if name.endswith("+PTX"):
            flags += ["-gencode", f"arch=compute_{number},code=compute_{number}"]
    compiler = shlex.split(os.environ.get("CXX", ""))
    return [*flags, *(["-ccbin", *compiler] if len(compiler) == 1 and "NVCC_CCBIN" not in os.environ else [])]


# --- compiling ------------------------------------------------------------------------------------


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
    macros, include = (*STABLE_ABI, *only), (str(torch_folder() / "include"),)
    operators = [Unit(name, CSRC / f"{name}.cpp", macros, flags, include) for name in ("operators", "compact")]
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
    return [*operators, *kernels]


class BuildExtension(build_ext):
    """Compiles the units, links them, and records the outcome; a failure is no error unless asked to be."""

    def run(self) -> None:
        in_place = self.inplace or self.editable_mode  # build_ext.run() loses it when it fails
        reason = obstacle(ASKED)
        if reason is None:
            if ASKED == "cuda":
                self.prepare_cuda()  # before the minutes that the rest may take
            try:
                super().run()
            except Exception as error:  # whatever it is, pure Python does without
                if ASKED != "auto":
                    raise
                reason = f"the build failed: {error} (pip install --verbose shows the compiler's own message)"
        elif ASKED in ("cpu", "cuda"):
            raise SystemExit(f"BUMPNET_FAST_BUILD={ASKED}: {reason}")
        folders = [Path(self.build_lib, "bumpnet_fast"), *([Path("bumpnet_fast")] if in_place else [])]
        if ASKED != "cuda":
            self.remove(folders, "_C_cuda.*")
        if reason is not None:
            self.give_up(folders)
            self.warn(f"bumpnet_fast is built without its compiled kernels: {reason}")
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / RECORD).write_text(json.dumps(self.record(reason), indent=1) + "\n")

    def give_up(self, folders: list[Path]) -> None:
        """Leave no older module behind, and make the wheel an honest one of pure Python."""
        self.remove(folders, "_C.*")
        self.extensions = self.distribution.ext_modules = []
        if wheel := self.distribution.command_obj.get("bdist_wheel"):
            wheel.root_is_pure, wheel.py_limited_api = True, False

    @staticmethod
    def remove(folders: list[Path], pattern: str) -> None:
        for stale in (path for folder in folders for path in folder.glob(pattern)):
            stale.unlink()

    def record(self, reason: str | None) -> dict:
        """What ``bumpnet info`` shows; a key for each of the two parts of the native code."""
        cuda = {"built": False, "reason": "not asked for: build with BUMPNET_CUDA=1"}
        if reason is not None:
            return {"cpu": {"built": False, "reason": reason}, "cuda": cuda}
        torch = {"torch": metadata.version("torch")}
        if ASKED == "cuda":
            cuda = {"built": True, "architectures": self.architectures, "toolkit": self.toolkit.release, **torch}
        return {"cpu": {"built": True, "variants": list(self.variants()), **torch}, "cuda": cuda}

    def variants(self) -> dict[str, tuple[str, ...]]:
        """Instruction sets that compiler and processor family know, with their flags."""
        x86_64 = self.plat_name.endswith(("x86_64", "amd64"))
        return VARIANTS if x86_64 and self.compiler.compiler_type != "msvc" else {"baseline": ()}

    def build_extension(self, ext: Extension) -> None:
        link = self.cuda_part if ext.name.endswith("_cuda") else self.cpu_part
        self.objects = Path(self.get_finalized_command("build").build_base, "objects")
        self.objects.mkdir(parents=True, exist_ok=True)
        ext.library_dirs, ext.libraries = [str(torch_folder() / "lib")], ["torch_cpu", "c10"]
        link(ext, MSVC_FLAGS if self.compiler.compiler_type == "msvc" else GNU_FLAGS)
        ext.depends = ["setup.py", *ext.extra_objects]
        super().build_extension(ext)

    def cpu_part(self, ext: Extension, flags: tuple[str, ...]) -> None:
        flags = (*flags, *GCC_FLAGS) if self.is_gcc() else flags
        with ThreadPoolExecutor(max_workers=int(os.environ.get("MAX_JOBS") or os.cpu_count())) as pool:
            ext.extra_objects = list(pool.map(self.compile_unit, units(self.variants(), flags)))

    def is_gcc(self) -> bool:
        """Whether the C++ compiler is GCC, whatever it is called."""
        command = getattr(self.compiler, "compiler_so_cxx", None) or getattr(self.compiler, "compiler_so", ())
        if not command:
            return False
        question = [command[0], "-dM", "-E", "-x", "c++", os.devnull]
        macros = subprocess.run(question, capture_output=True, text=True, check=False).stdout
        return "__GNUC__" in macros and "__clang__" not in macros

    def prepare_cuda(self) -> None:
        if not sys.platform.startswith("linux"):
            raise SystemExit(f"CUDA: the CUDA code is built on Linux only, this is {sys.platform}")
        self.toolkit = find_toolkit()
        check_torch(self.toolkit, torch_cuda())
        asked = os.environ.get("TORCH_CUDA_ARCH_LIST", "")
        self.architectures = architectures(asked, ask(self.toolkit.nvcc, "--list-gpu-arch"))

    def cuda_part(self, ext: Extension, flags: tuple[str, ...]) -> None:
        include = tuple(str(folder / "include") for folder in (torch_folder(), self.toolkit.home))
        operators = CSRC / "cuda" / "operators.cpp"
        unit = Unit("cuda_operators", operators, (*STABLE_ABI, ("USE_CUDA", None)), flags, include)
        ext.extra_objects = [self.compile_unit(unit), self.compile_cuda(CSRC / "cuda" / "compact.cu")]
        ext.libraries += ["torch_cuda", "cudart_static", "dl", "rt", "pthread"]
        ext.library_dirs += [str(path) for name in ("lib64", "lib") if (path := self.toolkit.home / name).exists()]
        # The module's copy of the CUDA runtime stays its own: torch has another.
        ext.extra_link_args = ["-Wl,--exclude-libs,ALL"]

    def compile_cuda(self, source: Path) -> str:
        """The object file of a CUDA source; it takes seconds, so it is always compiled."""
        target = self.objects / f"cuda_{source.stem}.o"
        command = [self.toolkit.nvcc, *nvcc_flags(self.architectures), "-c", source, "-o", target]
        self.announce(shlex.join(map(str, command)), level=2)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"CUDA: nvcc failed on {source}:\n{(done.stderr + done.stdout)[-3000:]}")
        return str(target)

    def compile_unit(self, unit: Unit) -> str:
        """The unit's object file, compiled anew only if anything it is made of has changed."""
        compiler = getattr(self.compiler, "compiler_so_cxx", self.compiler.compiler_type)
        headers = {path for folder in (CSRC, unit.source.parent) for path in folder.glob("*.h")}
        contents = [path.read_bytes() for path in (unit.source, *sorted(headers))]
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
    modules = ("_C", "_C_cuda") if ASKED == "cuda" else ("_C",)
    setup(
        ext_modules=[
            Extension(f"bumpnet_fast.{name}", [], language="c++", py_limited_api=True) for name in modules if native
        ],
        options={"bdist_wheel": {"py_limited_api": "cp310"}} if native else {},
        cmdclass={"build": Build, "build_ext": BuildExtension},
    )
