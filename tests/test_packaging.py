"""What gets built, what gets installed, and what happens when the compiled part cannot be built.

Every test works on a copy of the tree.  The builds that must compile something compile sources of
three lines instead of the kernels, so that they take a second.
"""

import importlib.util
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import torch

import bumpnet_fast

ROOT = Path(__file__).parents[1]
OBJECTS = ROOT / "build" / "objects"
SOURCES = {
    "names.h": "#pragma once\n#define PASTE_(a, b) kernel_##a##_##b\n#define PASTE(a, b) PASTE_(a, b)\n",
    "kernels.cpp": '#include "names.h"\n#ifdef __FAST_MATH__\n#error fast math\n#endif\n'
    'extern "C" int PASTE(BUMP_VARIANT, BUMP_DIM)() { return BUMP_DIM; }\n',
    "compact.cpp": "",
    "operators.cpp": '#include <Python.h>\nextern "C" int kernel_baseline_3();\n'
    'static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, 0, nullptr, nullptr, nullptr, nullptr};\n'
    "PyMODINIT_FUNC PyInit__C(void) {\n  PyObject* made = PyModule_Create(&module);\n"
    '  PyModule_AddIntConstant(made, "three", kernel_baseline_3());\n  return made;\n}\n',
}

compiler = (os.environ.get("CXX") or sysconfig.get_config_var("CXX") or "c++").split()[0]
needs_compiler = pytest.mark.skipif(shutil.which(compiler) is None, reason=f"no C++ compiler: {compiler}")


@pytest.fixture
def tree(tmp_path):
    """A fresh copy of what the repository holds, nothing built in it."""
    copy = tmp_path / "tree"
    copy.mkdir()
    built = shutil.ignore_patterns("__pycache__", "_C.*", "_build.json")
    for folder in ("bumpnet_fast", "kernels", "csrc", "tests"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=built)
    for path in ROOT.iterdir():
        if path.suffix in (".py", ".toml", ".md", ".in") or path.name in ("LICENSE", "Makefile"):
            shutil.copy(path, copy)
    return copy


@pytest.fixture
def small_tree(tree):
    """The same with C++ sources that compile in no time."""
    shutil.rmtree(tree / "csrc")
    (tree / "csrc").mkdir()
    for name, text in SOURCES.items():
        (tree / "csrc" / name).write_text(text)
    return tree


def run(tree, *args, **environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BUMPNET_")}
    return subprocess.run(
        [sys.executable, *args], cwd=tree, env=clean | environment, capture_output=True, text=True, check=False
    )


def build(tree, kind, **environment) -> Path:
    """Build a wheel or an sdist as an installer does; returns the file."""
    done = run(tree, "-c", f"from setuptools import build_meta; build_meta.build_{kind}('out')", **environment)
    assert done.returncode == 0, done.stderr
    [result] = (tree / "out").iterdir()
    return result


def build_in_place(tree, **environment):
    return run(tree, "setup.py", "build_ext", "--inplace", **environment)


def record(tree, part="cpu") -> dict:
    return json.loads((tree / "bumpnet_fast" / "_build.json").read_text())[part]


@pytest.fixture
def script():
    """The setup.py of the repository as a module."""
    spec = importlib.util.spec_from_file_location("setup_script", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- wheels and sdists ---------------------------------------------------------------------------


def test_a_pure_wheel_has_all_of_python_and_says_why_it_has_no_more(tree):
    wheel = build(tree, "wheel", BUMPNET_FAST_BUILD="none")
    assert wheel.name == f"bumpnet_fast-{bumpnet_fast.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tree.parent / "installed")
    package = {path.relative_to(tree).as_posix() for path in (tree / "bumpnet_fast").rglob("*.py")}
    kernels = {f"bumpnet_fast/{path.relative_to(tree).as_posix()}" for path in (tree / "kernels").rglob("*.py")}
    files = {name for name in names if ".dist-info/" not in name}
    others = {"bumpnet_fast/_build.json", "bumpnet_fast/py.typed"}
    assert files == package | kernels | others  # every package listed; no csrc, no tests

    points = next(name for name in names if name.endswith("entry_points.txt"))
    assert "bumpnet = bumpnet_fast.cli:main" in (tree.parent / "installed" / points).read_text()

    code = (
        "import bumpnet_fast.kernels; from bumpnet_fast.diagnostics import info; r = info.report();"
        "print(r['package']); print(r['kernels']['backend']); print(info.format_report(r))"
    )
    # -S: without the .pth files of this environment, and so without the package's editable installation.
    path = os.pathsep.join([str(tree.parent / "installed"), sysconfig.get_path("purelib")])
    done = run(tree.parent, "-S", "-c", code, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    folder, backend, *report = done.stdout.splitlines()
    assert Path(folder) == tree.parent / "installed" / "bumpnet_fast"
    assert backend == "reference"
    assert "BUMPNET_FAST_BUILD=none" in " ".join(report)


def test_an_sdist_has_what_a_build_needs(tree):
    (tree / "bumpnet_fast" / "_build.json").write_text("{}")  # what was built here is not for others
    (tree / "bumpnet_fast" / "_C.abi3.so").write_text("")
    with tarfile.open(build(tree, "sdist", BUMPNET_FAST_BUILD="none")) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for folder in ("bumpnet_fast", "kernels", "csrc", "tests"):
        wanted = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*.*") if path.is_file()}
        assert {name for name in wanted if name.endswith((".py", ".cpp", ".h", ".cu"))} <= names
    assert {"setup.py", "pyproject.toml", "LICENSE", "Makefile", "bumpnet_fast/py.typed"} <= names
    assert not {name for name in names if re.search(r"_build\.json|_C\.|\.so$|\.pyc$", name)}


USER = """
from dataclasses import dataclass

import torch

from bumpnet_fast import BumpNet, EvolutionProblem, Jet, Problem, Stop, solve


@dataclass
class Mine(Problem):
    name, want = "mine", "diagonal"

    def residual(self, x: torch.Tensor, u: Jet) -> torch.Tensor:
        return (1 - x[:, 0] * u / 2 + u * u).dd(0)


@dataclass
class Inverse(Problem):
    want, unknowns = "gradient", {"rate": 1.0}

    def residual(self, x, u, rate):
        return u.d(0) + rate * u.value


@dataclass
class Moving(EvolutionProblem):
    want = "diagonal"

    def rhs(self, x, u, t):
        return u.dd(0)


net = BumpNet(2, (3, 4), [[0, 0], [1, 1]], outer="free", dtype="float64")
corner: torch.Tensor = net.frame[2] + net(net.centres).mean()
values: torch.Tensor = net.jet(net.centres, want="laplacian").laplacian
error: float | None = solve(Mine(), net, method="adam+lbfgs", boundary="soft", stop=Stop(3)).rel_l2
"""
WRONG = {
    "net.jet(net.centres, want='curl')": "arg-type",
    "net.jet(net.centres, order=1)": "arg-type",
    "BumpNet(2, 9, outer='loose')": "arg-type",
    "solve(Mine(), net, sampling='grit')": "arg-type",
    "solve(Mine(), net, boundary='open')": "arg-type",
    "net.jet(net.centres) + 'u'": "operator",
    "net.jet(net.centres).hesian": "attr-defined",
}


def test_typed_programs_of_users_are_checked(tmp_path):
    """The types that are installed with the package, as mypy sees them with its default settings."""
    pytest.importorskip("mypy", reason="pip install bumpnet_fast[dev]")
    (tmp_path / "user.py").write_text("\n".join([USER, *WRONG]))
    (tmp_path / "bumpnet_fast").symlink_to(ROOT / "bumpnet_fast")
    done = run(tmp_path, "-m", "mypy", "--follow-imports=silent", "user.py")
    found = re.findall(r"user\.py:(\d+): error: .*\[([\w-]+)\]$", done.stdout, re.MULTILINE)
    first = len(USER.splitlines()) + 2
    assert found == [(str(first + i), kind) for i, kind in enumerate(WRONG.values())], done.stdout


@needs_compiler
def test_a_compiled_wheel_is_for_any_python(small_tree):
    wheel = build(small_tree, "wheel", BUMPNET_FAST_BUILD="cpu")
    assert "-cp310-abi3-" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        [module] = (name for name in archive.namelist() if name.startswith("bumpnet_fast/_C."))
        assert json.loads(archive.read("bumpnet_fast/_build.json"))["cpu"]["built"]
    assert "abi3" in module or os.name == "nt"


def test_a_wheel_whose_compilation_failed_is_a_pure_one(small_tree):
    wheel = build(small_tree, "wheel", CC="false", CXX="false")
    assert wheel.name.endswith("py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert "bumpnet_fast/cli/__init__.py" in archive.namelist()
        assert "the build failed" in json.loads(archive.read("bumpnet_fast/_build.json"))["cpu"]["reason"]


def test_an_sdist_installs_without_a_compiler(tree, tmp_path):
    with tarfile.open(build(tree, "sdist", BUMPNET_FAST_BUILD="none")) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    [source] = (tmp_path / "unpacked").iterdir()
    wheel = build(source, "wheel", CC="false", CXX="false")
    assert wheel.name.endswith("py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    code = (
        "import torch, bumpnet_fast as b; print(b.__file__, b.backend());"
        "print(b.BumpNet(2, 9)(torch.zeros(3, 2)).shape)"
    )
    path = os.pathsep.join([str(tmp_path / "installed"), sysconfig.get_path("purelib")])
    done = run(tmp_path, "-S", "-c", code, PYTHONPATH=path)
    where, backend = done.stdout.splitlines()[0].split()
    assert Path(where).is_relative_to(tmp_path / "installed") and backend == "reference"
    assert done.stdout.endswith("torch.Size([3, 1])\n")


# --- the extension -------------------------------------------------------------------------------


@needs_compiler
def test_the_build_compiles_what_changed_and_nothing_else(small_tree, script):
    def built():
        assert build_in_place(small_tree, BUMPNET_FAST_BUILD="cpu").returncode == 0
        return {path.stem: path.stat().st_mtime_ns for path in (small_tree / "build" / "objects").glob("*.o")}

    def touched(before, after):
        return {name for name in after if after[name] != before[name]}

    first = built()
    variants = record(small_tree)["variants"]
    kernels = {f"{variant}_{dim}" for variant in variants for dim in script.DIMENSIONS}
    assert first.keys() == kernels | {"operators", "compact"}
    code = "import bumpnet_fast._C as c; print(c.three)"
    assert run(small_tree, "-c", code, PYTHONPATH=str(small_tree)).stdout == "3\n"

    assert built() == first
    with (small_tree / "csrc" / "kernels.cpp").open("a") as file:
        file.write("// a remark\n")
    second = built()
    assert touched(first, second) == kernels
    with (small_tree / "csrc" / "names.h").open("a") as file:
        file.write("// another\n")
    assert touched(second, built()) == first.keys()


@needs_compiler
def test_fast_math_in_the_environment_does_not_reach_the_kernels(small_tree):
    done = build_in_place(small_tree, BUMPNET_FAST_BUILD="cpu", CFLAGS="-ffast-math", CXXFLAGS="-ffast-math")
    assert done.returncode == 0, done.stderr


def test_a_broken_compiler_is_no_error_but_recorded(small_tree):
    stale = small_tree / "bumpnet_fast" / "_C.abi3.so"
    stale.write_text("of an older build")
    done = build_in_place(small_tree, CC="false", CXX="false")
    assert done.returncode == 0, done.stderr
    assert not record(small_tree)["built"]
    assert "the build failed" in record(small_tree)["reason"]
    assert not stale.exists()


def test_a_build_asked_for_fails_loudly(small_tree):
    assert build_in_place(small_tree, BUMPNET_FAST_BUILD="cpu", CC="false", CXX="false").returncode != 0


def test_an_unknown_choice_is_refused(tree):
    done = build_in_place(tree, BUMPNET_FAST_BUILD="gpu")
    assert done.returncode != 0
    assert "BUMPNET_FAST_BUILD must be auto, cpu, cuda or none, got 'gpu'" in done.stderr


@pytest.mark.parametrize(
    ("patch", "reason"),
    [
        ((importlib.util, "find_spec", lambda name: None), "torch was missing"),
        ((metadata, "version", lambda name: "2.9.1+cpu"), "torch >= 2.10"),
        ((sysconfig, "get_path", lambda name: "/nowhere"), "Python.h is missing"),
        ((sysconfig, "get_config_var", lambda name: 1), "free-threaded"),
    ],
)
def test_obstacles_are_named_before_compiling(monkeypatch, script, patch, reason):
    monkeypatch.setattr(*patch)
    assert reason in script.obstacle("auto")


def test_other_processors_get_the_baseline_only(script):
    everything = script.units(script.VARIANTS, script.GNU_FLAGS)
    portable = script.units({"baseline": ()}, script.GNU_FLAGS)
    assert len(everything) == 2 + 3 * 4 and len(portable) == 2 + 4
    assert "BUMP_ONLY_BASELINE" not in dict(everything[0].macros)
    assert "BUMP_ONLY_BASELINE" in dict(portable[0].macros)
    assert not [unit for unit in portable if any(flag.startswith("-m") for flag in unit.flags)]


@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm to list symbols with")
@pytest.mark.skipif(not list(OBJECTS.glob("avx*.o")), reason="no objects of a build in build/objects")
def test_no_variant_shares_code_with_another():
    """A linker keeps one copy of an inline function: were it the AVX-512 one, the baseline would crash.

    So whatever an object defines weakly must carry the variant's namespace in its name.
    """
    for path in OBJECTS.glob("avx*.o"):
        variant = path.stem.partition("_")[0]
        symbols = subprocess.run(["nm", str(path)], capture_output=True, text=True, check=True).stdout
        weak = [line.split()[-1] for line in symbols.splitlines() if re.search(r"^\S+ [WVu] ", line)]
        assert not [name for name in weak if variant not in name]


# --- a checkout that is not installed ------------------------------------------------------------


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no Triton")
@pytest.mark.parametrize("flags", [("-S",), ()], ids=("alone", "beside an installation"))
def test_a_checkout_on_the_path_has_its_own_triton_kernels(tmp_path, flags):
    """Else CUDA tensors would take the reference without a word.

    -S leaves the installation of this environment out, whose finder would answer in the checkout's place.
    """
    shutil.copytree(ROOT / "bumpnet_fast", tmp_path / "bumpnet_fast", ignore=shutil.ignore_patterns("kernels", "_C*"))
    shutil.copytree(ROOT / "kernels", tmp_path / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    code = (
        "import sys; from bumpnet_fast.diagnostics import info; from bumpnet_fast.core import ops;"
        "print('triton' in sys.modules);"
        "print(info.report()['triton']); print(ops._triton_kernels().__file__)"
    )
    path = os.pathsep.join([str(tmp_path), sysconfig.get_path("purelib")])
    done = run(tmp_path.parent, *flags, "-c", code, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    eager, report, operators = done.stdout.splitlines()
    assert eager == "False", "Triton must wait for a CUDA tensor"
    assert "no Triton kernels" not in report
    assert Path(operators) == tmp_path / "kernels" / "operators.py"


# --- CUDA ----------------------------------------------------------------------------------------


def nvcc_here(setup_script):
    """The toolkit of this machine if the CUDA code can be built with it; skips otherwise."""
    try:
        toolkit = setup_script.find_toolkit()
        setup_script.check_torch(toolkit, torch.version.cuda)
    except SystemExit as reason:
        pytest.skip(str(reason))
    return toolkit


def cuobjdump(toolkit) -> str:
    spec = importlib.util.find_spec("triton")
    folders = [toolkit.nvcc.parent, toolkit.home / "bin"]
    folders += [Path(spec.origin).parent / "backends" / "nvidia" / "bin"] if spec else []
    found = shutil.which("cuobjdump") or shutil.which("cuobjdump", path=os.pathsep.join(map(str, folders)))
    return found or pytest.skip("no cuobjdump to look into the result with")


@needs_compiler
def test_a_wheel_with_cuda_code_has_the_architectures_asked_for(small_tree, script):
    toolkit = nvcc_here(script)
    dump = cuobjdump(toolkit)
    shutil.copytree(ROOT / "csrc" / "cuda", small_tree / "csrc" / "cuda")
    wheel = build(small_tree, "wheel", BUMPNET_CUDA="1", TORCH_CUDA_ARCH_LIST="9.0+PTX")
    assert "-cp310-abi3-" in wheel.name
    installed = small_tree.parent / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    assert record(installed)["built"]
    assert record(installed, "cuda")["architectures"] == ["9.0+PTX"]
    assert record(installed, "cuda")["toolkit"] == toolkit.release

    [module] = (installed / "bumpnet_fast").glob("_C_cuda.*")
    listed = {}
    for kind in ("elf", "ptx"):
        done = subprocess.run([dump, f"--list-{kind}", module], capture_output=True, text=True, check=True)
        listed[kind] = set(re.findall(r"\bsm_\d+", done.stdout))
    assert listed == {"elf": {"sm_90"}, "ptx": {"sm_90"}}
    used = subprocess.run([dump, "--dump-resource-usage", module], capture_output=True, text=True, check=True).stdout
    kernels = re.findall(r"(select|gather)_kernel\S*:\s+REG:(\d+) STACK:(\d+)", used)
    assert {name for name, _, _ in kernels} == {"select", "gather"}
    assert not [kernel for kernel in kernels if int(kernel[1]) > 64 or int(kernel[2]) > 0]  # 1024 threads have 64 each

    # Nothing of the CUDA runtime in it is seen by others: torch has a runtime of its own.
    if shutil.which("nm"):
        symbols = subprocess.run(["nm", "-D", "--defined-only", module], capture_output=True, text=True, check=True)
        assert "PyInit__C_cuda" in symbols.stdout and not re.search(r" cuda[A-Z]", symbols.stdout)

    code = (
        "import torch; from bumpnet_fast.diagnostics import info; from bumpnet_fast.core import backends as native;"
        "assert native.missing_cuda is None, native.missing_cuda;"
        "print(torch._C._dispatch_has_kernel_for_dispatch_key('bumpnet_fast::compact', 'CUDA'));"
        "print(info.format_report(info.report()))"
    )
    path = os.pathsep.join([str(installed), sysconfig.get_path("purelib")])
    done = run(small_tree.parent, "-S", "-c", code, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("True\n")
    assert f"loaded, built for 9.0+PTX with CUDA {toolkit.release}" in done.stdout


@needs_compiler
def test_a_build_without_cuda_leaves_no_older_module_with_it(small_tree):
    stale = small_tree / "bumpnet_fast" / "_C_cuda.abi3.so"
    stale.write_text("of an older build")
    assert build_in_place(small_tree, BUMPNET_FAST_BUILD="cpu").returncode == 0
    assert not stale.exists()
    assert record(small_tree, "cuda") == {"built": False, "reason": "not asked for: build with BUMPNET_CUDA=1"}


@pytest.fixture
def fake_toolkit(tmp_path):
    """A function making a folder that looks like a toolkit of some release, as much of it as told."""

    def make(release="9.1", headers=("cuda.h", "cuda_runtime.h"), home=tmp_path / "toolkit", nvcc=True) -> Path:
        (home / "bin").mkdir(parents=True)
        (home / "include").mkdir()
        for name in headers:
            (home / "include" / name).touch()
        if nvcc:
            (home / "bin" / "nvcc").write_text(
                f"#!/bin/sh\necho Cuda compilation tools, release {release}, V{release}.1\n"
            )
            (home / "bin" / "nvcc").chmod(0o755)
        return home

    return make


needs_posix = pytest.mark.skipif(os.name != "posix", reason="the toolkit is imitated by a shell script")


@needs_posix
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ({"nvcc": False}, "CUDA: CUDA_HOME is {home}, but there is no nvcc in its folder bin"),
        ({"headers": ()}, "CUDA: cuda.h and cuda_runtime.h are not both in {home}/include"),
        ({"headers": ("cuda.h",)}, "CUDA: cuda.h and cuda_runtime.h are not both in {home}/include"),
        ({"release": "?"}, "CUDA: {home}/bin/nvcc --version names no release"),
    ],
)
def test_what_a_toolkit_lacks_is_named(monkeypatch, script, fake_toolkit, what, message):
    home = fake_toolkit(**what)
    monkeypatch.setenv("CUDA_HOME", str(home))
    with pytest.raises(SystemExit, match=re.escape(message.format(home=home))):
        script.find_toolkit()


@needs_posix
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the CUDA code is built on Linux only")
def test_a_build_with_cuda_fails_at_once_where_the_toolkit_does_not_fit(small_tree, fake_toolkit, script):
    if script.obstacle("cuda") is not None:
        pytest.skip(script.obstacle("cuda"))
    done = build_in_place(small_tree, BUMPNET_CUDA="1", CUDA_HOME=str(fake_toolkit("9.1")))
    assert done.returncode != 0
    wanted = "nvcc is of release 9.1, but torch is built for" if torch.version.cuda else "is built without CUDA"
    assert wanted in done.stderr
    assert not (small_tree / "build" / "objects").exists()  # nothing was compiled in vain


def test_no_nvcc_at_all_is_said(monkeypatch, script):
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(shutil, "which", lambda *args, **settings: None)
    with pytest.raises(SystemExit, match="no nvcc on the PATH: install the CUDA toolkit, or set CUDA_HOME"):
        script.find_toolkit()


@needs_posix
def test_an_nvcc_on_the_path_may_call_one_elsewhere(monkeypatch, script, fake_toolkit, tmp_path):
    home = fake_toolkit("12.9", home=tmp_path / "prefix" / "cuda")
    wrapper = tmp_path / "prefix" / "bin" / "nvcc"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec {home}/bin/nvcc "$@"\n')
    wrapper.chmod(0o755)
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(wrapper.parent) + os.pathsep + os.environ["PATH"])
    assert script.find_toolkit() == (wrapper, home, "12.9")


def test_torch_must_be_built_for_the_same_cuda(script):
    toolkit = script.Toolkit(Path("nvcc"), Path("home"), "13.0")
    script.check_torch(toolkit, "13.2")
    with pytest.raises(SystemExit, match=r"release 13.0, but torch is built for CUDA 12.9"):
        script.check_torch(toolkit, "12.9")
    with pytest.raises(SystemExit, match="built without CUDA"):
        script.check_torch(toolkit, None)
    assert script.torch_cuda() == torch.version.cuda


NVCC_13 = "compute_75\ncompute_80\ncompute_90\ncompute_100\ncompute_103\ncompute_120\n"


@pytest.mark.parametrize(
    ("asked", "known", "wanted"),
    [
        ("", NVCC_13, ["8.0", "9.0", "10.0", "12.0+PTX"]),
        ("", "compute_70\ncompute_80\ncompute_90\n", ["8.0", "9.0+PTX"]),
        ("", "compute_60\ncompute_70\n", ["7.0+PTX"]),
        ("9.0", NVCC_13, ["9.0"]),
        ("9.0a;10.3 12.0+PTX", NVCC_13, ["9.0a", "10.3", "12.0+PTX"]),
    ],
)
def test_architectures(script, asked, known, wanted):
    assert script.architectures(asked, known) == wanted


@pytest.mark.parametrize("asked", ["7.0", "9.0;13.0", "Hopper", "90", "9.0+ptx"])
def test_architectures_that_nvcc_does_not_know_are_refused(script, asked):
    wrong = asked.split(";")[-1]
    with pytest.raises(
        SystemExit, match=re.escape(f"TORCH_CUDA_ARCH_LIST has {wrong}; this nvcc knows 7.5, 8.0, 9.0,")
    ):
        script.architectures(asked, NVCC_13)


def test_flags_of_nvcc(monkeypatch, script):
    monkeypatch.delenv("CXX", raising=False)
    flags = script.nvcc_flags(["9.0a", "12.0+PTX"])
    code = [flag for before, flag in itertools.pairwise(flags) if before == "-gencode"]
    assert code == [
        f"arch=compute_{a},code={b}" for a, b in (("90a", "sm_90a"), ("120", "sm_120"), ("120", "compute_120"))
    ]
    assert "-ccbin" not in flags
    monkeypatch.setenv("CXX", "g++-14")
    assert script.nvcc_flags(["9.0"])[-2:] == ["-ccbin", "g++-14"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"BUMPNET_CUDA": "yes"}, "BUMPNET_CUDA must be 0 or 1, got 'yes'"),
        ({"BUMPNET_CUDA": "1", "BUMPNET_FAST_BUILD": "none"}, "unset one"),
    ],
)
def test_contradictions_are_refused(monkeypatch, script, settings, message):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=message):
        script.choice()
