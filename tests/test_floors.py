"""The house keeps its floors: imports go down and never in a circle, and no file grows too long."""

import ast
import graphlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "bumpnet_fast"

#: From the ground up; what shares a floor may import one another, but for problems and solvers, see below.
FLOORS = [
    {"_C", "_C_cuda", "core", "kernels"},
    {"nets", "problems"},
    {"solvers"},
    {"io"},
    {"plotting"},
    {"diagnostics", "integrations"},
    {"cli"},
    {"__main__"},
]
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}
#: Problems know no solver; solvers know what a problem is and how points are drawn, but no problem by name.
SHARED = ("problems.base", "problems.evolution.base", "problems.operators.base", "problems.sampling")
#: What every floor may take from ``bumpnet_fast`` itself.
ROOF = {"__version__"}
LONGEST = 700

SOURCES = sorted(path for folder in (PACKAGE, ROOT / "kernels") for path in folder.rglob("*.py"))


def module_name(path: Path) -> str:
    """Dotted name below bumpnet_fast: ``bumpnet_fast/problems/base.py`` -> ``problems.base``."""
    relative = path.relative_to(PACKAGE if path.is_relative_to(PACKAGE) else ROOT).with_suffix("")
    return ".".join(relative.parts).removesuffix(".__init__")


def imports(name: str, source: str, is_package: bool = False) -> set[str]:
    """Everything that the source imports from bumpnet_fast, inside functions too: ``{"rows.RowLayout", "native"}``."""
    found = set()
    folder = ["bumpnet_fast", *(name.split(".") if is_package and name != "__init__" else name.split(".")[:-1])]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) - node.level + 1] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return {target.partition(".")[2] for target in found if target.split(".")[0] == "bumpnet_fast"}


def trespasses(name: str, imported: set[str]) -> list[str]:
    """What is wrong with a module's imports."""
    top = name.split(".")[0]
    wrong = []
    for target in sorted(imported - ROOF):
        floor = target.split(".")[0]
        if floor not in FLOOR:
            wrong.append(f"{name} imports {target!r}, which is no module with a floor: see FLOORS")
        elif floor == top:
            continue
        elif FLOOR[floor] > FLOOR[top]:
            wrong.append(f"{name} imports {target} from a floor above")
        elif (top == "problems" and floor == "nets") or (
            top == "solvers" and floor == "problems" and not target.startswith(SHARED)
        ):
            wrong.append(f"{name} imports {target}: problems and solvers must not know one another")
    return wrong


def sources() -> dict[str, set[str]]:
    """What every module imports, by its name."""
    return {
        module_name(path): imports(module_name(path), path.read_text(encoding="utf-8"), path.name == "__init__.py")
        for path in SOURCES
    }


def circle(imported: dict[str, set[str]]) -> list[str]:
    """Modules that import one another in a circle, the first of them again at the end; none if there is no circle."""

    def module(target: str) -> str | None:  # "rows.RowLayout" is in rows
        return next((name for name in (target, target.rpartition(".")[0]) if name in imported), None)

    graph = {name: {module(target) for target in targets} - {name, None} for name, targets in imported.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_only_from_floors_below(path):
    name = module_name(path)
    imported = imports(name, path.read_text(encoding="utf-8"), path.name == "__init__.py")
    if name == "__init__":  # the roof: may import everything that has a floor
        assert {target.split(".")[0] for target in imported} <= FLOOR.keys()
        return
    assert name.split(".")[0] in FLOOR, f"{name} has no floor: add it to FLOORS"
    assert not trespasses(name, imported)


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("core.rows", "from ..nets.bumpnet import BumpNet", "floor above"),
        ("core.rows", "from .. import nets", "floor above"),
        ("nets.bumpnet", "from .. import BumpNet", "no module with a floor"),
        ("nets.bumpnet", "import bumpnet_fast", "no module with a floor"),
        ("core.ops", "def f():\n    import bumpnet_fast.cli", "floor above"),
        ("problems.poisson", "from ..solvers import stationary", "floor above"),
        ("solvers.stationary", "from ..problems import get", "must not know"),
        ("solvers.stationary", "from ..problems.poisson import Poisson", "must not know"),
        ("solvers.operators.train", "from ...problems.operators import get_operator", "must not know"),
    ],
)
def test_the_check_sees_a_trespass(name, source, message):
    assert message in " ".join(trespasses(name, imports(name, source)))


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("core.ops", "from . import backends\nfrom .rows import RowLayout\nimport torch"),
        ("nets.bumpnet", "from bumpnet_fast.core import functional"),
        ("diagnostics.info", "from .. import __version__"),
        ("solvers.stationary", "from ..problems.base import Problem\nfrom .pinn import fit"),
    ],
)
def test_the_check_lets_good_imports_pass(name, source):
    assert not trespasses(name, imports(name, source))


def test_no_imports_run_in_a_circle():
    assert not circle(sources())


@pytest.mark.parametrize(
    ("modules", "wrong"),
    [
        ({"a": "from .b import f", "b": "def f():\n    from . import a"}, {"a", "b"}),
        ({"p.a": "from . import b", "p.b": "from .c import f", "p.c": "from .a import g"}, {"p.a", "p.b", "p.c"}),
        ({"p": "from .a import f", "p.a": "from . import f"}, {"p", "p.a"}),
        ({"p": "from .a import f", "p.a": "from . import b", "p.b": "import torch"}, set()),
    ],
)
def test_the_check_sees_a_circle(modules, wrong):
    packages = {name.rpartition(".")[0] for name in modules}
    assert set(circle({name: imports(name, source, name in packages) for name, source in modules.items()})) == wrong


def private_names(source: str) -> tuple[set[str], set[str]]:
    """The names with one underscore that a module defines, and those that it takes from elsewhere."""
    tree, own, taken = ast.parse(source), set(), set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            own.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own.add(node.id)
        elif isinstance(node, ast.ImportFrom):
            taken |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Attribute):
            (own if isinstance(node.ctx, ast.Store) else taken).add(node.attr)
    private = re.compile(r"_(?!_)\w+").fullmatch
    own, taken = ({name for name in names if private(name)} for names in (own, taken))
    return own, taken - {"_replace", "_asdict", "_make", "_fields"}  # which are public in a NamedTuple


def borrowed(modules: dict[str, str]) -> list[str]:
    """Private names that a module takes from another one; compiled modules have names like _C, which are public."""
    names = {name: private_names(source) for name, source in modules.items()}
    return [
        f"{name} takes {private} from {other}"
        for name, (own, taken) in names.items()
        for private in sorted(taken - own)
        for other, (theirs, _) in names.items()
        if private in theirs
    ]


def test_private_names_stay_at_home():
    assert not borrowed({module_name(path): path.read_text(encoding="utf-8") for path in SOURCES})


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from .a import _f", True),
        ("from . import a\na._f()", True),
        ("def g(thing):\n    thing._method()", True),
        ("def g(thing):\n    return thing._kept", True),
        ("from .a import f\nimport torch\ntorch._dynamo.reset()\nf.__name__", False),
        ("def _f():\n    pass\n\nclass C:\n    def _method(self):\n        self._method()\n\n_f()", False),
    ],
)
def test_the_check_sees_a_borrowed_name(source, found):
    home = "def _f():\n    pass\n\nclass A:\n    def _method(self):\n        self._kept = 1\n"
    assert bool(borrowed({"a": home, "b": source})) == found


def test_no_file_is_too_long():
    sources = [*SOURCES, *(path for path in (ROOT / "csrc").rglob("*") if path.is_file())]
    assert len(sources) > 10
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in sources}
    assert not {name: length for name, length in lengths.items() if length > LONGEST}


def test_no_two_files_of_tests_have_one_name():
    """pytest imports them by their names alone."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names))
