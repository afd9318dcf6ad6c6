"""The row: packing, its derivative, orientation, and the initial grid."""

import math

import oracle
import pytest
import torch

from bumpnet_fast import BumpNet
from bumpnet_fast.core import rows as R
from bumpnet_fast.core.rows import RowLayout

DIMS = (1, 2, 3, 4, 5)


def skews(dim, count=4):
    generator = torch.Generator().manual_seed(dim)
    return torch.randn(count, dim * (dim - 1) // 2, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("tied", (True, False))
@pytest.mark.parametrize("dim", DIMS)
def test_the_columns_cover_the_row_once(dim, tied):
    layout = RowLayout(dim, 3, tied)
    columns = list(range(layout.columns))
    named = [columns[block] for block in (layout.centre, layout.size, layout.skew)]
    named += [[layout.sharpness]] + ([] if tied else [[layout.outer]]) + [columns[layout.amplitude]]
    assert sum(named, []) == columns
    assert len(set(layout.names)) == layout.columns
    assert RowLayout.of(torch.empty(5, layout.columns), dim, tied) == layout


def test_a_bump_has_4_7_or_11_parameters():
    assert [RowLayout(d).columns for d in (1, 2, 3)] == [4, 7, 11]


def test_in_two_dimensions_the_normals_are_the_papers():
    a = skews(2)
    W, _, length = R.orientation(a, 2)
    one = torch.ones(4, dtype=torch.float64)
    assert torch.equal(W[:, 0], torch.stack([one, a[:, 0]], 1))
    assert torch.equal(W[:, 1], torch.stack([-a[:, 0], one], 1))
    assert torch.equal(length, torch.sqrt(1 + a[:, 0] ** 2))


@pytest.mark.parametrize("dim", DIMS)
def test_the_normals_are_orthogonal_of_one_length_and_turn_from_the_axes(dim):
    skew = skews(dim)
    W, Q, length = R.orientation(skew, dim)
    eye = torch.eye(dim, dtype=torch.float64)
    assert torch.allclose(Q @ Q.transpose(1, 2), eye.expand_as(Q), atol=1e-14)
    assert torch.allclose(W, length[:, None, None] * Q, atol=1e-14)
    assert torch.allclose(W[:, 0], R.skew_matrix(skew, dim)[:, 0], atol=1e-14)
    assert torch.allclose(torch.linalg.det(Q), torch.ones(len(Q), dtype=torch.float64))
    assert torch.equal(R.orientation(torch.zeros_like(skew), dim)[0], eye.expand_as(W))
    assert torch.allclose(W, torch.stack([oracle.normals(s, dim) for s in skew]), atol=1e-13)


@pytest.mark.parametrize("dim", DIMS)
def test_orientation_jacobian(dim):
    skew = skews(dim)
    dW, dlength = R.orientation_jacobian(skew, dim)
    assert dW.shape == (4, skew.shape[1], dim, dim) and dlength.shape == skew.shape
    for wanted, part in ((dW, 0), (dlength, 2)):
        summed = torch.autograd.functional.jacobian(lambda s, part=part: R.orientation(s, dim)[part].sum(0), skew)
        assert torch.allclose(summed.movedim((-2, -1), (0, 1)), wanted, atol=1e-13)


@pytest.mark.parametrize("tied", (True, False))
@pytest.mark.parametrize("dim", DIMS)
def test_packed_values(dim, tied):
    rows, frame = oracle.bumps(dim, 5, 2, tied)
    layout = RowLayout(dim, 2, tied)
    packed = R.pack(rows, frame, tied)
    lo, hi, scale = frame
    p = torch.exp(rows[:, layout.sharpness])
    W = torch.stack([oracle.normals(s, dim) for s in rows[:, layout.skew]])
    reach = 0.5 * torch.exp(rows[:, layout.size]) * torch.linalg.vector_norm(W, dim=2)
    assert torch.allclose(packed.V, p[:, None, None] * W * scale, rtol=1e-13, atol=1e-14)
    assert torch.allclose(packed.c, lo + (hi - lo) * torch.sigmoid(2 * rows[:, layout.centre]), rtol=1e-13)
    assert torch.allclose(packed.A, p[:, None] * reach, rtol=1e-13)
    assert torch.allclose(packed.s, 2 * p if tied else torch.exp(rows[:, layout.outer]), rtol=1e-13)
    assert torch.equal(packed.h, rows[:, layout.amplitude])


@pytest.mark.parametrize("tied", (True, False))
@pytest.mark.parametrize("dim", DIMS)
def test_chain_to_rows_is_the_derivative_of_pack(dim, tied):
    rows, frame = oracle.bumps(dim, 5, 2, tied)
    rows.requires_grad_()
    packed = R.pack(rows, frame, tied)
    generator = torch.Generator().manual_seed(0)
    lead = [[torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in packed[:4]] for _ in range(2)]
    wanted = [torch.autograd.grad(packed[:4], rows, c, retain_graph=True)[0] for c in lead]
    stacked = [torch.stack(pair) for pair in zip(*lead, strict=True)]
    got = R.chain_to_rows(packed, rows, frame, tied, *stacked)
    shape_columns = RowLayout(dim, 2, tied).shape_columns
    oracle.assert_close(got, torch.stack(wanted)[..., :shape_columns], 1e-13)


def test_centres_never_leave_their_box():
    rows = torch.tensor([[-1e6, 1e6, 0, 0, 0, 0, 1], [-3.0, 3, 0, 0, 0, 0, 1]])
    frame = torch.tensor([[-0.1, -0.3], [0.7, 1e3], [1, 1]])
    c = R.pack(rows, frame, True).c
    assert (c >= frame[0]).all() and (c <= frame[1]).all()


def test_a_nan_stays_a_nan():
    rows, frame = oracle.bumps(3, 2)
    for column in range(rows.shape[1]):
        broken = rows.clone()
        broken[0, column] = math.nan
        packed = R.pack(broken, frame, True)
        assert any(torch.isnan(t[0]).any() for t in packed)
        assert not any(torch.isnan(t[1]).any() for t in packed)


# --- the initial grid ------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", (1, 2, 3, 4))
def test_any_count_of_bumps_is_met_exactly(dim):
    domain = torch.tensor([[-1.0] * dim, [float(k + 1) for k in range(dim)]])
    for count in (*range(1, 42), 97, 100, 128):
        centres, spacing = R.grid_centres(count, *domain)
        assert centres.shape == (count, dim) and len(spacing) == dim
        assert (centres > domain[0]).all() and (centres < domain[1]).all()
        assert len(torch.unique(centres, dim=0)) == count


@pytest.mark.parametrize("widths", ((1e-6, 86400.0), (1e12, 1e7), (1.0, 1.0)))
def test_a_number_of_bumps_does_not_depend_on_the_units_of_length_and_time(widths):
    domain = torch.tensor([[0.0, 0.0], widths], dtype=torch.float64)
    centres, spacing = R.grid_centres(16, *domain)
    assert torch.allclose(centres / domain[1], R.grid_centres(16, torch.zeros(2), torch.ones(2))[0])
    assert all(math.isclose(4 * s, w) for s, w in zip(spacing, widths, strict=True))


def test_a_tuple_is_the_number_of_cells_per_axis():
    domain = torch.tensor([[0.0, -1.0], [4.0, 1.0]])
    centres, spacing = R.grid_centres((2, 4), *domain)
    first, second = torch.meshgrid(torch.tensor([1.0, 3.0]), torch.tensor([-0.75, -0.25, 0.25, 0.75]), indexing="ij")
    assert spacing == (2.0, 0.5)
    assert torch.equal(centres, torch.stack([first.flatten(), second.flatten()], 1).double())


@pytest.mark.parametrize("tied", (True, False))
def test_the_grid_follows_the_recipe(tied):
    domain = torch.tensor([[0.0, -1.0], [4.0, 1.0]], dtype=torch.float64)
    layout = RowLayout(2, 2, tied)
    rows, frame = R.grid_rows((2, 4), domain, layout)
    cells = torch.tensor([2.0, 0.5], dtype=torch.float64)
    scaled = frame[2] * cells
    p = 1 / math.sqrt(scaled[0].item())
    assert torch.allclose(scaled[0], scaled[1]), "the cells are square in internal units"
    assert math.isclose(torch.prod(frame[2] * (domain[1] - domain[0])).item(), 4), "as large as [-1, 1]^2"
    assert torch.allclose(frame[:2], torch.tensor([[-0.6, -1.3], [4.6, 1.3]], dtype=torch.float64))
    packed = R.pack(rows, frame, tied)
    assert torch.allclose(packed.c, R.grid_centres((2, 4), *domain)[0])
    assert torch.allclose(torch.exp(rows[:, layout.size]), (3 * scaled).expand(8, 2))
    assert torch.equal(rows[:, layout.skew], torch.zeros(8, 1, dtype=torch.float64))
    assert torch.allclose(torch.exp(rows[:, layout.sharpness]), torch.full((8,), p, dtype=torch.float64))
    assert torch.allclose(packed.s, torch.full((8,), 2 * p, dtype=torch.float64))
    assert torch.equal(rows[:, layout.amplitude], torch.zeros(8, 2, dtype=torch.float64))


@pytest.mark.parametrize(("dim", "few", "many"), ((1, 140, 2000), (2, 840, 4000), (3, 4500, 20_000)))
def test_many_bumps_start_no_lower_than_trains(dim, few, many):
    """More bumps are closer to one another, in larger internal units: none starts flat."""
    domain, layout = torch.stack([-torch.ones(dim), torch.ones(dim)]), RowLayout(dim)

    def spacing_and_height(bumps):
        rows, frame = R.grid_rows(bumps, domain, layout)
        packed = R.pack(rows, frame, True)
        S = (2 * torch.tanh(packed.A)).sum(1) - (2 * dim - 1)
        return float(rows[0, layout.size][0].exp()) / 3, float((packed.s * S).min())

    least = R.least_spacing(dim)
    assert spacing_and_height(few)[0] > least, "units as ever"
    spacing, height = spacing_and_height(many)
    assert math.isclose(spacing, least, rel_tol=1e-12) and -14 < height < -10
    assert not BumpNet(dim, many).check()


def test_scale_and_shape_can_be_given():
    domain = torch.tensor([[0.0, -1.0], [4.0, 1.0]])
    layout = RowLayout(2, 1, tied=False)
    options = dict(centre_box=1.0, scale=(0.5, 2.0), overlap=2.0, sharpness=5.0, outer=3.0)
    rows, frame = R.grid_rows((2, 4), domain, layout, **options)
    packed = R.pack(rows, frame, False)
    assert torch.equal(frame, torch.tensor([[0.0, -1.0], [4.0, 1.0], [0.5, 2.0]], dtype=torch.float64))
    assert torch.allclose(torch.exp(rows[:, layout.size]), torch.tensor([2.0, 2.0], dtype=torch.float64))
    assert torch.allclose(packed.V[0], torch.diag(5 * frame[2]))
    assert torch.allclose(packed.s, torch.full((8,), 3.0, dtype=torch.float64))
