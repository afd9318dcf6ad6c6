"""README, CONTRIBUTING and docs: code runs, commands can be typed, links lead somewhere."""

import argparse
import ast
import functools
import importlib.util
import itertools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

import bumpnet_fast
from bumpnet_fast.cli import main

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
LANGUAGES = {"python", "sh", "text", "", "{toctree}"}  # of blocks; without one they are commands, and "text" is output

#: Commands that take long, and what shortens them; all but the length of the computation is run.
SHORTENED = {
    "bumpnet solve helmholtz --method adam+lbfgs --out runs/h": "--set max_seconds=0.5",  # 17 s
    "bumpnet solve --resume runs/h": "--set max_seconds=0.5",  # the rest of these
    "bumpnet solve helmholtz --bumps 5x10 --prune-to 40 --animate --out runs/h": "--set max_seconds=0.1",
    "bumpnet solve heat2d --out runs/heat2d": "--set max_seconds=0.5",  # 20 s
}
#: Commands that are parsed only, and the tests that run them.
PARSED = {
    "bumpnet bench": "tests/diagnostics/test_bench.py",  # a minute
    "bumpnet check": "tests/diagnostics/test_check.py",  # 5 s, on several pages
}
#: A page that imports one of these is left out where it is missing.
OPTIONAL = ("deepxde", "physicsnemo", "pina")


@functools.cache
def tokens(page):
    return MarkdownIt().enable("table").parse((ROOT / page).read_text(encoding="utf-8"))


def inline(page, kind):
    return [child for token in tokens(page) for child in token.children or () if child.type == kind]


def blocks(page, *languages):
    return [token for token in tokens(page) if token.type == "fence" and token.info in languages]


def script(page):
    """The Python of a page, as one script with the page's line numbers."""
    lines = []
    for block in blocks(page, "python"):
        lines += [""] * (block.map[0] + 1 - len(lines)) + block.content.splitlines()
    return "\n".join(lines)


def commands(page):
    """The command lines in a page's blocks."""
    lines = [line for block in blocks(page, "sh", "") for line in block.content.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def mentioned(page):
    """Command lines in text and tables, but for those that are cut short or have something to be put in."""
    found = [code.content for code in inline(page, "code_inline")]
    cut = re.compile(r"\.\.\.|\||\b[A-Z]{2,}\b|\bN\b")
    return [shlex.split(code) for code in found if code.startswith((*CHECKS, "bumpnet ")) and not cut.search(code)]


def imports(code):
    """Modules that the code imports; of ``from bumpnet_fast import ...`` the names, which may be modules or not."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
            found |= {f"bumpnet_fast.{alias.name}" for alias in node.names if node.module == "bumpnet_fast"}
    return found


# --- commands ----------------------------------------------------------------------------------------------


def check_make(target, *others):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def check_pip(command, *words):
    extras = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("[project.optional-dependencies]")[2]
    assert command == "install"
    for group in re.findall(r"\[(.+)\]", " ".join(words)):
        for extra in group.split(","):
            assert re.search(rf"^{extra} = ", extras.partition("\n[")[0], re.MULTILINE), extra


def check_python(script, *words):
    if script == "-m":
        return CHECKS[words[0] + " "](*words[1:])
    source = (ROOT / script).read_text(encoding="utf-8")
    for option in [word for word in words if word.startswith("--")]:
        assert f'"{option}"' in source, option


def check_pytest(*words):
    for path in [word for word in words if word.startswith(("bench", "tests"))]:
        assert (ROOT / path).exists(), path


def check_torchrun(*words):
    script = next(number for number, word in enumerate(words) if word.endswith(".py"))
    check_python(*words[script:])


CHECKS = {
    "make ": check_make,
    "pip ": check_pip,
    "python ": check_python,
    "pytest ": check_pytest,
    "torchrun ": check_torchrun,
}


def check(words):
    """Whether a command that is not run could be."""
    command, *words = itertools.dropwhile(re.compile("[A-Z_]+=").match, words)
    CHECKS[command + " "](*words)


def parse(words, monkeypatch):
    """Have the program's own parser read a command line."""

    class ParsedError(Exception):
        pass

    def only(*args):
        parse_args(*args)
        raise ParsedError

    parse_args = argparse.ArgumentParser.parse_args
    with monkeypatch.context() as patch, pytest.raises(ParsedError):
        patch.setattr(argparse.ArgumentParser, "parse_args", only)
        main(words)


def test_commands_that_are_not_run_as_they_stand_are_there():
    assert SHORTENED.keys() | PARSED.keys() <= {" ".join(words) for page in PAGES for words in commands(page)}
    for line, test in PARSED.items():
        assert f'"{line.split()[1]}"' in (ROOT / test).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", [page for page in PAGES if mentioned(page)])
def test_commands_in_the_text_can_be_typed(page, monkeypatch):
    for words in mentioned(page):
        parse(words[1:], monkeypatch) if words[0] == "bumpnet" else check(words)


# --- what runs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, *LANGUAGES)])
def test_what_a_page_shows_runs(page, tmp_path, monkeypatch, threads):
    """Its commands and then its Python, in one folder."""
    assert {token.info for token in tokens(page) if token.type == "fence"} <= LANGUAGES
    code = script(page)
    for library in OPTIONAL:
        if library in imports(code) and importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed: pip install bumpnet_fast[integrations,physicsnemo]")
    threads(1)
    monkeypatch.chdir(tmp_path)
    for words in commands(page):
        line = " ".join(words)
        if words[0] != "bumpnet":
            check(words)
        elif line in PARSED:
            parse(words[1:], monkeypatch)
        else:
            assert main([*words[1:], *SHORTENED.get(line, "").split()]) == 0, line
    if code:
        Path("page.py").write_text(code, encoding="utf-8")
        settings = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", "DDE_BACKEND": "pytorch"}
        settings |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "0", "RANK": "0", "WORLD_SIZE": "1"}  # as torchrun does
        run = subprocess.run([sys.executable, "page.py"], env=os.environ | settings, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr


def test_the_page_on_writing_a_problem_is_as_short_as_it_promises():
    assert len(blocks("docs/writing_a_problem.md", "python")[0].content.splitlines()) < 30


# --- where links lead --------------------------------------------------------------------------------------


def anchors(page):
    """What GitHub makes of a page's headings."""
    following = itertools.pairwise(tokens(page))
    titles = [text.content for heading, text in following if heading.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    links = [link.attrs["href"] for link in inline(page, "link_open")]
    for link in [*links, *(image.attrs["src"] for image in inline(page, "image"))]:
        if not link.startswith("https://"):
            path, _, anchor = link.partition("#")
            target = (ROOT / page).parent.joinpath(path).resolve() if path else ROOT / page
            assert target.is_file() and target.is_relative_to(ROOT), link
            assert not anchor or anchor in anchors(target.relative_to(ROOT).as_posix()), link


def test_the_reference_has_every_module_that_pages_and_examples_use():
    codes = [*map(script, PAGES), *(path.read_text(encoding="utf-8") for path in (ROOT / "examples").glob("*.py"))]
    used = {name for code in codes for name in imports(code) if name.split(".")[0] == "bumpnet_fast"}
    modules = {name for name in used if importlib.util.find_spec(name) is not None}
    reference = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "api").glob("*.md"))
    assert modules <= set(re.findall(r"automodule:: (\S+)", reference))


def test_the_citation_file_has_what_its_format_demands():
    yaml = pytest.importorskip("yaml", reason="pip install bumpnet_fast[docs]")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert (citation["cff-version"], citation["license"]) == ("1.2.0", "MIT")
    assert citation["version"] == bumpnet_fast.__version__
    [method] = citation["references"]
    assert {"type", "title", "authors"} <= method.keys() and "2512.17198" in method["url"]
    assert method["title"] in " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
