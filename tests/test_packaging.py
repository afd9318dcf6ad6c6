"""What gets built, what gets installed, and what happens when the compiled part cannot be built.

Every test works on a copy of the tree.  The builds that must compile something compile sources of
three lines instead of the kernels, so that they take a second.
"""

import importlib.util
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

import bumpnet_fast

ROOT = Path(__file__).parents[1]
OBJECTS = ROOT / "build" / "objects"
SOURCES = {
    "names.h": "#pragma once\n#define PASTE_(a, b) kernel_##a##_##b\n#define PASTE(a, b) PASTE_(a, b)\n",
    "kernels.cpp": '#include "names.h"\n#ifdef __FAST_MATH__\n#error fast math\n#endif\n'
    'extern "C" int PASTE(BUMP_VARIANT, BUMP_DIM)() { return BUMP_DIM; }\n',
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
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BUMPNET_FAST_")}
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


def record(tree) -> dict:
    return json.loads((tree / "bumpnet_fast" / "_build.json").read_text())["cpu"]


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
    assert files == package | kernels | {"bumpnet_fast/_build.json"}  # every package listed; no csrc, no tests

    points = next(name for name in names if name.endswith("entry_points.txt"))
    assert "bumpnet = bumpnet_fast.cli:main" in (tree.parent / "installed" / points).read_text()

    code = (
        "import bumpnet_fast.kernels; from bumpnet_fast import info; r = info.report();"
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
        assert {name for name in wanted if name.endswith((".py", ".cpp", ".h"))} <= names
    assert {"setup.py", "pyproject.toml", "LICENSE", "Makefile"} <= names
    assert not {name for name in names if re.search(r"_build\.json|_C\.|\.so$|\.pyc$", name)}


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
        assert "bumpnet_fast/cli.py" in archive.namelist()
        assert "the build failed" in json.loads(archive.read("bumpnet_fast/_build.json"))["cpu"]["reason"]


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
    assert first.keys() == kernels | {"operators"}
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
    assert "BUMPNET_FAST_BUILD must be auto, cpu or none, got 'gpu'" in done.stderr


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
    assert len(everything) == 1 + 3 * 4 and len(portable) == 1 + 4
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
