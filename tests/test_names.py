"""The names at the top of the package: what there is, and what importing it costs."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import bumpnet_fast

SOURCE = Path(bumpnet_fast.__file__).read_text(encoding="utf-8")


def in_a_new_process(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_names():
    assert set(bumpnet_fast.__all__) == {
        "BumpDeepONet", "BumpNet", "Jet", "compile_step",
        "bump_basis", "bump_combine", "bump_compact", "bump_design", "bump_jet", "backend", "use_backend",
        "problems", "Problem", "EvolutionProblem", "OperatorProblem", "Condition",
        "solve", "evolve", "learn", "march", "Solution", "Stop", "Progress",
        "save", "load", "resume", "__version__",
    }  # fmt: skip


def test_dir_lists_what_there_is():
    assert dir(bumpnet_fast) == sorted(set(bumpnet_fast.__all__))
    assert all(getattr(bumpnet_fast, name) is not None for name in dir(bumpnet_fast))
    star = {}
    exec("from bumpnet_fast import *", star)
    assert set(bumpnet_fast.__all__) <= star.keys()


@pytest.mark.parametrize("module, name, at_the_top", [
    ("core.functional", "bump_jet", "bump_jet"),
    ("core.functional", "bump_basis", "bump_basis"),
    ("core.functional", "bump_design", "bump_design"),
    ("core.functional", "bump_combine", "bump_combine"),
    ("core.functional", "bump_compact", "bump_compact"),
    ("problems", "Problem", "Problem"),
    ("problems", "Condition", "Condition"),
    ("problems.evolution", "EvolutionProblem", "EvolutionProblem"),
    ("problems.operators", "Operator", "OperatorProblem"),
    ("solvers", "solve", "solve"),
    ("solvers", "evolve", "evolve"),
    ("solvers", "march", "march"),
    ("solvers", "Solution", "Solution"),
    ("solvers", "Stop", "Stop"),
    ("solvers", "Progress", "Progress"),
    ("solvers", "learn", "learn"),
    ("io", "save", "save"),
    ("io", "load", "load"),
    ("io", "resume", "resume"),
])  # fmt: skip
def test_a_name_means_the_same_everywhere(module, name, at_the_top):
    assert getattr(bumpnet_fast, at_the_top) is getattr(importlib.import_module(f"bumpnet_fast.{module}"), name)


def test_type_checkers_and_python_import_the_same():
    [block] = [node for node in ast.parse(SOURCE).body if isinstance(node, ast.If)]
    told = {}
    for node in block.body:
        for alias in node.names:
            place = (node.module, alias.name) if node.module else (alias.name, None)
            told[alias.asname or alias.name] = place
    [later] = [n for n in ast.parse(SOURCE).body if isinstance(n, ast.Assign) and n.targets[0].id == "_LATER"]
    assert told == ast.literal_eval(later.value)


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="module 'bumpnet_fast' has no attribute 'sovle'"):
        bumpnet_fast.sovle  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'sovle'"):
        exec("from bumpnet_fast import sovle")


def test_nets_alone_load_nothing_else():
    code = "import bumpnet_fast, sys; bumpnet_fast.BumpNet(1, 2); dir(bumpnet_fast); print(*sys.modules)"
    loaded = in_a_new_process(code)
    folders = {name.split(".")[1] for name in loaded if name.startswith("bumpnet_fast.")}
    assert folders <= {"_C", "_C_cuda", "core", "kernels", "nets"}
    assert not {"scipy", "matplotlib", "rich"} & set(loaded)


def test_problems_load_scipy_when_it_is_needed():
    code = "import sys; from bumpnet_fast import problems, EvolutionProblem, OperatorProblem; print(*sys.modules)"
    assert not {"scipy", "bumpnet_fast.solvers"} & set(in_a_new_process(code))
