"""docs/errors.md: every mistake in its tables raises what the page says."""

import re
from pathlib import Path

import pytest

import bumpnet_fast
from bumpnet_fast import io, solvers

PAGE = (Path(__file__).parents[1] / "docs" / "errors.md").read_text(encoding="utf-8")
[BEFORE] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
ROWS = re.findall(r"^\| `(.+)` \| `(\w+)` \| (.+) \|$", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """What the page has at hand, in a folder of its own."""
    names = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        exec(BEFORE, names)
        yield names


@pytest.mark.parametrize(("code", "error", "message"), ROWS, ids=[code for code, _, _ in ROWS])
def test_a_mistake(code, error, message, names):
    wanted = re.escape(message).replace(r"\.\.\.", ".+")
    with pytest.raises(Exception, match=f"(?s)^{wanted}$") as caught:
        exec(code, dict(names))
    assert caught.type.__name__ == error


def test_every_public_function_is_there():
    public = {name for module in (bumpnet_fast, solvers, io) for name in module.__all__}
    results = {
        "ErrorEstimate",
        "Evolution",
        "EvolutionEstimate",
        "EvolutionReport",
        "GradedEvolution",
        "Jet",
        "March",
        "OperatorSolution",
        "Progress",
        "Report",
        "Solution",
        "StopReason",
    }  # made by functions
    bases = {"Condition", "EvolutionProblem", "Method", "OperatorProblem", "Problem"}  # a user's own are of these
    nothing = {"__version__", "backend", "problems"} | bases
    text = "\n".join(code for code, _, _ in ROWS)
    assert not [name for name in public - results - nothing if not re.search(rf"\b{name}\(", text)]
