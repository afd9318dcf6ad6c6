"""Every public function on inputs that nobody thought of, against the reference in float64.

BUMPNET_TEST_EXAMPLES in the environment says how many inputs each test draws.  Without it they are 40, the same in
every run; otherwise they are new ones each time, and a failure prints them.
"""

import math
import os

import oracle
import pytest
import torch

pytest.importorskip("hypothesis", reason="no hypothesis")
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bumpnet_fast import BumpNet, bump_basis, bump_combine, bump_compact, bump_design, bump_jet
from bumpnet_fast.core import reference
from bumpnet_fast.core.reference import DIAGONAL, WANTS, second_shape
from bumpnet_fast.core.rows import RowLayout

EXAMPLES = int(os.environ.get("BUMPNET_TEST_EXAMPLES", "40"))
drawn = settings(
    max_examples=EXAMPLES,
    derandomize="BUMPNET_TEST_EXAMPLES" not in os.environ,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

#: Relative to the largest entry: values, first and second derivatives, gradients.
TOLERANCES = {torch.float64: (1e-12, 1e-11, 1e-10, 1e-9), torch.float32: (2e-5, 2e-4, 1e-3, 3e-3)}


def laid_out(t, how):
    """The same numbers in another layout of memory."""
    if how == "strided":
        wide = torch.full([2 * size for size in t.shape], math.nan, dtype=t.dtype)
        return wide[tuple(slice(None, None, 2) for _ in t.shape)].copy_(t)
    if how == "transposed":
        return t.permute(*reversed(range(t.dim()))).contiguous().permute(*reversed(range(t.dim())))
    if how == "offset":
        return torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape)
    return t


LAYOUTS = st.sampled_from(("plain", "strided", "transposed", "offset"))


@st.composite
def questions(draw, extreme=False):
    """(x, rows, frame, want, tied, generator): everyday bumps, or ``extreme`` ones."""
    dim = draw(st.integers(1, 5))
    n, m = draw(st.integers(0, 40)), draw(st.integers(0, 20))
    outputs, tied = draw(st.integers(0, 3)), draw(st.booleans())
    dtype, want = draw(st.sampled_from(list(TOLERANCES))), draw(st.sampled_from(WANTS))
    seed = draw(st.integers(0, 10**6))
    rows, frame = oracle.bumps(dim, max(m, 1), outputs, tied, seed=seed)
    x = oracle.points(dim, n, seed=seed)
    rows = rows[:m]
    if extreme:
        kinds = st.sampled_from((0.0, 1e-30, 1.0, 30.0, -30.0))
        for column in range(rows.shape[1]):
            if m and draw(st.booleans()):
                rows[draw(st.integers(0, m - 1)), column] = draw(kinds)
        if n and draw(st.booleans()):
            x[draw(st.integers(0, n - 1))] = draw(st.sampled_from((0.0, 1e3, -1e20, math.nan, math.inf)))
    x, rows = (laid_out(t.to(dtype), draw(LAYOUTS)) for t in (x, rows))
    return x, rows, frame.to(dtype), want, tied, torch.Generator().manual_seed(seed)


def doubled(*tensors):
    return [None if t is None else t.detach().double().contiguous() for t in tensors]


def assert_all_close(got, wanted, tolerances, what):
    for i, (g, w, tolerance) in enumerate(zip(got, wanted, tolerances, strict=True)):
        oracle.assert_close(g, w, tolerance, f"{what} {i}")


def random_like(tensors, generator):
    return [torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.dtype) for t in tensors]


def gradients(results, inputs, weights):
    """Of the weighted sum of all results, by the inputs that want one; zeros where there is no way."""
    total = sum(((r * w).sum() for r, w in zip(results, weights, strict=True)), start=torch.zeros(()))
    if not total.requires_grad:
        return [torch.zeros_like(t) for t in inputs]
    return torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)


@drawn
@given(questions(), st.booleans(), st.booleans())
def test_jets_and_their_gradients(question, by_x, by_rows):
    x, rows, frame, want, tied, generator = question
    level = WANTS.index(want)
    x, rows = x.requires_grad_(by_x), rows.requires_grad_(by_rows)
    got = [t for t in bump_jet(x, rows, frame, want, tied=tied).parts() if t is not None]
    exact_x, exact_rows, exact_frame = doubled(x, rows, frame)
    exact_x, exact_rows = exact_x.requires_grad_(by_x), exact_rows.requires_grad_(by_rows)
    wanted = reference.jet(exact_x, exact_rows, exact_frame, level, tied)[: len(got)]
    assert all(g.dtype == x.dtype and g.requires_grad == (by_x or by_rows) for g in got)
    assert_all_close(got, wanted, TOLERANCES[x.dtype][: len(got)], "jet")
    weights = random_like(got, generator)
    inputs = [t for t, by in ((x, by_x), (rows, by_rows)) if by]
    exact = [t for t, by in ((exact_x, by_x), (exact_rows, by_rows)) if by]
    if inputs:
        pairs = zip(gradients(got, inputs, weights), gradients(wanted, exact, doubled(*weights)), strict=True)
        for g, w in pairs:
            oracle.assert_close(g, w, TOLERANCES[x.dtype][3], "gradient")


@drawn
@given(questions())
def test_bases(question):
    x, rows, frame, want, tied, _ = question
    got = [t for t in bump_basis(x, rows, frame, want, tied=tied).parts() if t is not None]
    wanted = reference.basis(*doubled(x, rows, frame), WANTS.index(want), tied)[: len(got)]
    assert_all_close(got, wanted, TOLERANCES[x.dtype][: len(got)], "basis")


@drawn
@given(questions(), st.tuples(st.booleans(), st.booleans(), st.booleans()), st.booleans())
def test_design_matrices(question, given_ones, derivatives):
    x, rows, frame, want, tied, generator = question
    level, (n, dim) = WANTS.index(want), x.shape
    shapes = ((n,), (n, dim), (n, *second_shape(level, dim)))
    coefficients = [
        random_like([x.new_empty(shape)], generator)[0] if there and i <= min(level, DIAGONAL) else None
        for i, (shape, there) in enumerate(zip(shapes, given_ones, strict=True))
    ]
    Phi, D = bump_design(tuple(coefficients), x, rows, frame, want, tied=tied, derivatives=derivatives)
    wanted = reference.design(*doubled(*coefficients, x, rows, frame), level, tied, derivatives)
    highest = max((i for i, c in enumerate(coefficients) if c is not None), default=0)
    oracle.assert_close(Phi, wanted[0], TOLERANCES[x.dtype][highest], "Phi")
    assert (D is not None) == derivatives
    if derivatives:
        oracle.assert_close(D, wanted[1], TOLERANCES[x.dtype][3], "D")


@drawn
@given(questions(), st.integers(0, 5), LAYOUTS)
def test_many_functions(question, functions, layout):
    x, rows, frame, _, tied, generator = question
    h = laid_out(random_like([x.new_empty(functions, len(rows))], generator)[0], layout)
    wanted = reference.combine(*doubled(h, x, rows, frame), tied)
    oracle.assert_close(bump_combine(h, x, rows, frame, tied=tied), wanted, TOLERANCES[x.dtype][0], "combine")


@drawn
@given(questions(extreme=True))
def test_extremes_are_no_number_only_where_they_should(question):
    """A point that is no number is so in the results, and it alone; bumps of any size and sharpness are numbers."""
    x, rows, frame, want, tied, _ = question
    bad = ~x.isfinite().all(1)
    for results in (bump_jet(x, rows, frame, want, tied=tied), bump_basis(x, rows, frame, want, tied=tied)):
        value = results.value
        if value.numel() and len(rows):
            assert value[bad].isnan().all() and value[~bad].isfinite().all()


@drawn
@given(
    st.lists(st.booleans(), max_size=50),
    st.lists(st.sampled_from((torch.float32, torch.float64, torch.int16, torch.bool, torch.complex64)), max_size=4),
    st.lists(st.integers(0, 3), max_size=2),
    LAYOUTS,
)
def test_compaction_is_indexing(keep, dtypes, tail, layout):
    keep = torch.tensor(keep, dtype=torch.bool)
    tensors = [
        laid_out((torch.arange(len(keep) * math.prod(tail)).reshape(len(keep), *tail) % 7).to(dtype), layout)
        for dtype in dtypes
        if layout != "strided" or dtype.is_floating_point
    ]
    for got, t in zip(bump_compact(keep, tensors), tensors, strict=True):
        assert torch.equal(got, t[keep]) and got.is_contiguous() and got.dtype == t.dtype


@drawn
@given(st.integers(1, 5), st.integers(1, 30), st.integers(1, 3), st.sampled_from(("tied", "free")))
def test_nets_are_their_functions(dim, bumps, outputs, outer):
    net = BumpNet(dim, bumps, outputs=outputs, outer=outer, dtype=torch.float64)
    with torch.no_grad():
        net.rows += 0.1 * torch.randn(net.rows.shape, generator=torch.Generator().manual_seed(bumps))
    x = oracle.points(dim, 7)
    again = BumpNet(dim, bumps, outputs=outputs, outer=outer, dtype=torch.float64)
    again.load_state_dict(net.state_dict())
    wanted = reference.jet(x, net.rows, net.frame, DIAGONAL, outer == "tied")
    for u in (net, again):
        got = u.jet(x, want="diagonal")
        assert_all_close((got.value, got.gradient, got.diagonal), wanted, TOLERANCES[torch.float64][:3], "net")
    assert RowLayout(dim, outputs, outer == "tied").columns == net.rows.shape[1]
