"""`make test` and `make test-all` run every test between them, and what the scripts of .ci name is there."""

import re
import subprocess
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / ".ci").glob("*")) if (ROOT / ".ci").is_dir() else []


def recipe(target):
    """The commands of a target."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return re.search(rf"^{target}:.*\n((?:\t.*\n)+)", text, re.MULTILINE)[1]


def test_make_runs_every_test_once():
    assert recipe("test").endswith('-m "not long"\n') and recipe("test-all").endswith("-m long\n")


@pytest.mark.skipif(not SCRIPTS, reason="a copy without .ci")
def test_continuous_integration_runs_the_long_tests_too():
    run = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.findall(r"^make (test\S*)", run, re.MULTILINE) == ["test", "test-all"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_tests_that_a_script_names_are_there(script):
    """Braces are the shell's: tests/core/test_{jet,rows}.py."""
    words = re.findall(r"(?<!\w)tests/[\w/{},.]+", script.read_text(encoding="utf-8"))
    assert words
    named = subprocess.run(["bash", "-c", f"printf '%s\\n' {' '.join(words)}"], capture_output=True, text=True).stdout
    assert not [path for path in named.split() if not (ROOT / path).exists()]


def test_a_name_that_no_other_process_has_is_refused(request):
    collected = request.config.pluginmanager.get_plugin(
        str(ROOT / "tests" / "conftest.py")
    ).pytest_collection_modifyitems
    collected([types.SimpleNamespace(nodeid="tests/test_it.py::test_it[0x7f]")])
    with pytest.raises(pytest.UsageError, match=r"test_it\[<function solve at 0x7f>\]"):
        collected([types.SimpleNamespace(nodeid="tests/test_it.py::test_it[<function solve at 0x7f>]")])
