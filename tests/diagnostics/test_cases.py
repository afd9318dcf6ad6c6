"""The cases of ``bumpnet check``: complete, hard enough, and the same in every process."""

import subprocess
import sys
from pathlib import Path

import oracle
import pytest
import torch

from bumpnet_fast.core import ops
from bumpnet_fast.core.reference import WANTS
from bumpnet_fast.core.rows import RowLayout, pack
from bumpnet_fast.diagnostics import cases

ROOT = Path(__file__).parents[2]


def test_every_operator_has_cases():
    """A new operator needs an entry in cases.ARGUMENTS; without one, ``bumpnet check`` fails."""
    assert set(cases.ARGUMENTS) == {*ops.OPERATORS, *ops.COMBINED, "compact"}


def test_the_table_meets_every_dimension_want_and_slope():
    table = cases.table()
    assert {(c.dim, c.want, c.tied) for c in table} == {
        (d, w, t) for d in (1, 2, 3, 4) for w in range(5) for t in (True, False)
    }
    assert {0, 1, 20_000} <= {c.points for c in table} and {0, 1, 5_000} <= {c.bumps for c in table}
    assert max(c.outputs for c in table) == 5  # more than the kernels on a GPU serve
    full = cases.table(full=True)
    assert len(full) > 5 * len(table) and max(c.points for c in full) > 2**18


def edge_units(x, rows, frame, tied):
    """p A of every bump, and how far every point is from the bumps' sides in edge widths: [N, M]."""
    V, c, A, _, _ = pack(rows, frame, tied)
    p = rows[:, RowLayout.of(rows, frame.shape[1], tied).sharpness].exp()
    B = ((x[:, None] - c)[:, :, None] * V).sum(-1)
    return p * A.amax(1), (B.abs() - A).abs().amin((1, 2))


@pytest.mark.parametrize("dim", (1, 2, 3, 4))
@pytest.mark.parametrize(("kind", "least", "most"), [("edges", 1, 20), ("sharp", 50, 50), ("steps", 1e8, 1e8)])
def test_problems_are_as_hard_as_they_say(dim, kind, least, most):
    case = cases.Case(kind, dim, 3, True, 60, 20, 1)
    x, rows, frame = cases.problem(case)
    assert all(torch.equal(t.float().double(), t) for t in (x, rows, frame))
    pA, distance = edge_units(x, rows, frame, True)
    assert least * 0.999 <= pA.min() and pA.max() <= most * 1.001
    if kind == "edges":
        assert distance.median() < 1
        assert not torch.equal(cases.problem(case, seed=1)[0], x)


def test_a_point_that_is_no_number():
    case = cases.Case("no number", 2, 3, True, 41, 3, 2)
    x, _, _ = cases.problem(case)
    assert (~torch.isfinite(x)).any(1).nonzero().flatten().tolist() == [1, 17]
    answers = cases.questions(case)["jet"].wanted
    assert all(torch.isnan(t).flatten(1).any(1).sum() == 2 for t in answers)


@pytest.mark.parametrize("dim", (1, 2, 3, 4))
def test_the_answers_are_those_of_the_formula(dim):
    """The reference that everything is held to, against the paper's formula and autograd."""
    for want, name in enumerate(WANTS):
        case = cases.Case("edges", dim, want, dim % 2 == 0, 9, 3, 2)
        asked = cases.questions(case)
        x, rows, frame, _, tied = asked["jet"].args
        x = x.detach().requires_grad_()
        expected = oracle.jet(oracle.net(x, rows, frame, tied), x, name)
        for got, value in zip(asked["jet"].wanted, expected, strict=False):
            oracle.assert_close(got, value, 1e-9, f"{name}, d = {dim}")
        assert asked["basis"].wanted[0].shape == (3, 9) and asked["design"].wanted[0].shape == (3, 9)


def test_compaction_is_plain_indexing():
    case = cases.Case("edges", 1, 0, True, 3, 5000, 1)
    (keep, tensors), wanted = cases.questions(case)["compact"]
    assert 0.5 < keep.double().mean() < 0.7 and not tensors[1].is_contiguous()
    assert wanted[2].tolist() == [i for i, kept in enumerate(keep.tolist()) if kept]


def test_moved_keeps_what_is_no_floating_point_number():
    x, (keep, index), n, nothing = cases.moved(
        [torch.ones(2).double(), [torch.ones(2, dtype=torch.bool), torch.arange(2)], 3, None], torch.float32, "cpu"
    )
    assert (x.dtype, keep.dtype, index.dtype, n, nothing) == (torch.float32, torch.bool, torch.int64, 3, None)


def test_the_tolerances():
    edges, steps = (cases.Case(kind, 2, 4, True, 9, 3, 1) for kind in ("edges", "steps"))
    assert cases.tolerances(edges, "jet", torch.float32, 3, "avx2") == [1e-5, 1e-4, 5e-4]
    assert cases.tolerances(edges, "jet", torch.float32, 3, "reference") == [5e-5, 5e-4, 2.5e-3]
    assert cases.tolerances(edges, "jet", torch.float32, 3, "triton") == [2e-5, 2e-4, 1e-3]
    assert cases.tolerances(edges, "jet", torch.float64, 3, "reference") == [1e-12, 1e-11, 1e-10]
    assert cases.tolerances(edges, "design", torch.float64, 2, "avx2") == [1e-10, 1e-10]
    assert cases.tolerances(edges, "compact", torch.float32, 3, "reference") == [0, 0, 0]
    assert cases.tolerances(steps, "jet", torch.float64, 3, "avx2") == [None] * 3
    assert cases.tolerances(edges, "new", torch.float64, 2, "avx2") == [1e-10, 1e-10]


def test_a_case_is_the_same_in_every_process():
    code = "from bumpnet_fast.diagnostics import cases; print(cases.problem(cases.table()[7])[0].sum().item())"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(run.stdout) == cases.problem(cases.table()[7])[0].sum().item()
