"""BumpNet as a layer: construction, names, and the habits of an nn.Module."""

import copy
import io
import math
import pickle
import subprocess
import sys

import numpy as np
import oracle
import pytest
import torch

from bumpnet_fast import BumpNet, bump_basis, bump_design, bump_jet
from bumpnet_fast.core.reference import WANTS

DOMAIN = [[0.0, -1.0], [4.0, 1.0]]


def trained(dim=2, bumps=6, seed=0, **options):
    """A net whose rows are all different."""
    net = BumpNet(dim, bumps, dtype="float64", **options)
    generator = torch.Generator().manual_seed(seed)
    net.perturb_(0.3, generator)
    net.amplitudes.data.copy_(torch.randn(net.amplitudes.shape, generator=generator, dtype=torch.float64))
    return net


# --- construction ------------------------------------------------------------------------------------


@pytest.mark.parametrize("outer", ("tied", "free"))
@pytest.mark.parametrize("dim", (1, 2, 3, 4, 5))
def test_shapes(backend, dim, outer):
    net, x = BumpNet(dim, 5, outputs=2, outer=outer), torch.rand(7, dim)
    assert net(x).shape == (7, 2)
    assert isinstance(net.rows, torch.nn.Parameter) and net.rows.shape == (5, net.layout.columns)
    assert [name for name, _ in net.named_parameters()] == ["rows"]
    assert [name for name, _ in net.named_buffers()] == ["frame", "domain", "trainable"]
    assert net.tied == (outer == "tied")
    jet = net.jet(x)
    assert (jet.value.shape, jet.gradient.shape, jet.hessian.shape) == ((7, 2), (7, 2, dim), (7, 2, dim, dim))
    assert net.basis(x, "laplacian").laplacian.shape == (7, 5)
    assert net.boxes().shape == (5, 2**dim, dim)


def test_the_grid_starts_by_the_recipe():
    net = BumpNet(2, (2, 4), DOMAIN, 3, dtype="float64")
    first, second = (t.double() for t in (torch.tensor([1.0, 3.0]), torch.tensor([-0.75, -0.25, 0.25, 0.75])))
    assert torch.allclose(net.centres, torch.cartesian_prod(first, second))
    cell = net.frame[2] * torch.tensor([2.0, 0.5], dtype=torch.float64)  # the grid's spacing, in internal units
    assert torch.allclose(cell[0], cell[1]) and math.isclose((4 * 2 * net.frame[2].prod()).item(), 4)
    assert torch.allclose(net.sizes, (3 * cell).expand(8, 2))
    assert torch.allclose(net.sharpness, cell[0].rsqrt().expand(8))
    assert torch.allclose(net.outer_slope, 2 * net.sharpness)
    assert not net.rows[:, net.layout.skew].any() and not net.amplitudes.any()
    assert torch.equal(net.domain, torch.tensor(DOMAIN, dtype=torch.float64))
    assert torch.allclose(net.frame[:2], torch.tensor([[-0.6, -1.3], [4.6, 1.3]], dtype=torch.float64))
    assert net.check() == []


def test_options():
    net = BumpNet(2, 9, DOMAIN, centre_box=2, scale=(1, 3), overlap=2, sharpness=7, outer="free", dtype=torch.float64)
    assert torch.equal(net.frame, torch.tensor([[-2.0, -2.0], [6.0, 2.0], [1.0, 3.0]], dtype=torch.float64))
    assert torch.allclose(net.sharpness, torch.full((9,), 7.0, dtype=torch.float64))
    assert torch.allclose(net.outer_slope, torch.full((9,), 14.0, dtype=torch.float64))
    assert torch.equal(BumpNet(2, 9, scale=2.0).frame[2], torch.full((2,), 2.0))
    assert torch.equal(BumpNet(2, 9).domain, torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))


@pytest.mark.parametrize("count", (1, 2, 7, 40, 41))
@pytest.mark.parametrize("dim", (1, 2, 3))
def test_any_count_of_bumps(dim, count):
    net = BumpNet(dim, count)
    assert len(net.rows) == count and torch.isfinite(net.rows).all()
    assert (net.centres.abs() <= 1).all()


def test_dtype_and_device():
    assert BumpNet(1, 2).rows.dtype == torch.float32
    for dtype in ("float64", torch.float64):
        net = BumpNet(1, 2, dtype=dtype)
        assert {net.rows.dtype, net.frame.dtype, net.domain.dtype} == {torch.float64}
    torch.set_default_dtype(torch.float64)
    try:
        assert BumpNet(1, 2).rows.dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.device("meta"):
        assert BumpNet(1, 2).rows.is_meta
    assert BumpNet(1, 2, device="meta").frame.is_meta


BAD = [
    (dict(dim=0), ValueError, "dim must be at least 1, got 0"),
    (dict(dim=2.0), TypeError, "dim must be an integer, got 2.0"),
    (dict(bumps=0), ValueError, "bumps must be at least 1, got 0"),
    (dict(bumps=-3), ValueError, "bumps must be at least 1, got -3"),
    (dict(bumps=2.5), TypeError, "bumps must be an integer, got 2.5"),
    (dict(bumps=True), ValueError, "bumps must be at least 1, got True"),
    (dict(bumps=(4,)), ValueError, r"bumps must be a number or 2 numbers, one per dimension, got \(4,\)"),
    (dict(bumps=(4, 0)), ValueError, "bumps must be at least 1, got 0"),
    (dict(bumps="4x4"), TypeError, "bumps must be an integer, got '4x4'"),
    (dict(outputs=0), ValueError, "outputs must be at least 1, got 0"),
    (dict(domain="box"), TypeError, "domain must be numbers .* got 'box'"),
    (dict(domain=[[0, 0], [1]]), TypeError, "domain must be numbers"),
    (dict(domain=[0, 1]), ValueError, r"domain must have shape \[2, 2\] .* got \(2,\)"),
    (dict(domain=[[0, 0, 0], [1, 1, 1]]), ValueError, r"domain must have shape \[2, 2\] .* got \(2, 3\)"),
    (dict(domain=[[0, 0], [1, 0]]), ValueError, "lower < upper"),
    (dict(domain=[[0, 2], [1, 1]]), ValueError, "lower < upper"),
    (dict(domain=[[0, 0], [1, math.nan]]), ValueError, "domain must be finite"),
    (dict(domain=[[0, 0], [1, math.inf]]), ValueError, "domain must be finite"),
    (dict(domain=[[1e9, 0], [1e9 + 1, 1]]), ValueError, "lower < upper in every coordinate, in torch.float32"),
    (dict(centre_box=0), ValueError, "centre_box must be positive"),
    (dict(centre_box=0.9), ValueError, "centre_box must be at least 1"),
    (dict(centre_box="wide"), TypeError, "centre_box must be a number, got 'wide'"),
    (dict(overlap=-1), ValueError, "overlap must be positive and finite, got -1"),
    (dict(overlap=math.inf), ValueError, "overlap must be positive and finite"),
    (dict(sharpness=0), ValueError, "sharpness must be positive and finite, got 0"),
    (dict(scale="cells"), ValueError, "scale must be 'auto' or positive numbers, got 'cells'"),
    (dict(scale=(1, 2, 3)), ValueError, r"scale must be one number or 2, one per dimension, got \(1, 2, 3\)"),
    (dict(scale=(1, 0)), ValueError, "scale must be positive and finite, got 0"),
    (dict(scale=None), TypeError, "scale must be 'auto' or positive numbers, got None"),
    (dict(outer="loose"), ValueError, "outer must be 'tied' or 'free', got 'loose'"),
    (dict(dtype="float16"), TypeError, "dtype must be float32 or float64, got 'float16'"),
    (dict(dtype=torch.int64), TypeError, "dtype must be float32 or float64, got torch.int64"),
    (dict(dtype="double precision"), TypeError, "dtype must be float32 or float64, got 'double precision'"),
]


@pytest.mark.parametrize("changed, error, message", BAD)
def test_bad_arguments(changed, error, message):
    with pytest.raises(error, match=message):
        BumpNet(**(dict(dim=2, bumps=4) | changed))


def test_bad_points(backend):
    net = BumpNet(2, 4)
    for x, error in (
        (torch.rand(3, 3), ValueError),
        (torch.rand(3), ValueError),
        (torch.rand(3, 2).double(), TypeError),
    ):
        for call in (net, net.jet, net.basis, lambda x: net.design((None, None, None), x, "value")):
            with pytest.raises(error, match="x must have"):
                call(x)
    for call in (net.jet, net.basis, lambda x, want: net.design((None, None, None), x, want)):
        for want in ("curl", 1, None):
            with pytest.raises(ValueError, match=f"want must be one of value, .*, got {want!r}"):
                call(torch.rand(3, 2), want)


@pytest.mark.parametrize("order, want", [(0, "value"), (1, "gradient"), (2, "hessian")])
def test_the_former_order_is_refused_with_what_to_write(order, want):
    with pytest.raises(TypeError, match=f"'order': write want='{want}' in the place of order={order}$"):
        BumpNet(2, 4).jet(torch.rand(3, 2), order=order)


@pytest.mark.parametrize("x", [[[0.0, 0.0]], ((0.0, 0.0),), np.zeros((3, 2)), np.float64(1.0), 0.5])
def test_what_is_no_tensor_is_refused_with_what_to_write(x):
    net = BumpNet(2, 4)
    for call in (net, net.jet, net.basis):
        with pytest.raises(TypeError, match=r"x must be .*: torch.as_tensor\(..., dtype=torch.float32\) makes"):
            call(x)
    with pytest.raises(TypeError, match=r"x must be a torch.Tensor, got str$"):
        net("x")


# --- evaluation ------------------------------------------------------------------------------------


def test_it_calls_the_functions(backend):
    net, x = trained(outputs=2, outer="free"), oracle.points(2, 5)
    direct = bump_jet(x, net.rows, net.frame, "hessian", tied=False)
    assert torch.equal(net(x), bump_jet(x, net.rows, net.frame, tied=False).value)
    assert torch.equal(net.jet(x).hessian, direct.hessian)
    assert torch.equal(
        net.basis(x, "gradient").gradient, bump_basis(x, net.rows, net.frame, "gradient", tied=False).gradient
    )
    weights = (torch.ones(5, dtype=x.dtype), None, torch.ones(5, dtype=x.dtype))
    wanted = bump_design(weights, x, net.rows, net.frame, "laplacian", tied=False, derivatives=True)
    for got, w in zip(net.design(weights, x, "laplacian", derivatives=True), wanted, strict=True):
        assert torch.equal(got, w)


def test_a_jet_goes_as_far_as_wanted():
    net, x = trained(), oracle.points(2, 5)
    assert net.jet(x).want == "hessian"
    assert [net.jet(x, want=want).want for want in WANTS] == list(WANTS)
    assert [net.jet(x, want).want for want in WANTS] == list(WANTS)


def test_points_in_any_number_of_dimensions(backend):
    """As for torch.nn.Linear: the last dimension is that of the coordinates."""
    net, x = trained(outputs=2), oracle.points(2, 24)
    flat = net(x)
    assert torch.equal(net(x.reshape(4, 6, 2)), flat.reshape(4, 6, 2))
    assert torch.equal(net(x.reshape(2, 3, 4, 2).transpose(0, 2)), flat.reshape(2, 3, 4, 2).transpose(0, 2))
    oracle.assert_close(net(x[3]), flat[3], 1e-14)
    oracle.assert_close(torch.vmap(net)(x), flat, 1e-13)
    assert net(x.new_zeros(0, 3, 2)).shape == (0, 3, 2)
    for shape in ((4, 6), (4, 6, 3), (3,), ()):
        with pytest.raises(ValueError, match="x must have"):
            net(x.new_zeros(shape))


def test_hooks_run_once_for_points_in_any_number_of_dimensions():
    net, calls = BumpNet(2, 4), []
    net.register_forward_hook(lambda module, inputs, output: calls.append(output.shape))
    net(torch.zeros(4, 6, 2))
    assert calls == [(4, 6, 1)]


def test_it_is_the_sum_of_its_bumps(backend):
    net, x = trained(outputs=2), oracle.points(2, 5)
    oracle.assert_close(net(x), net.basis(x).value @ net.amplitudes, 1e-13)
    oracle.assert_close(net(x), oracle.net(x, net.rows, net.frame, True), 1e-12)


# --- the bumps by name ---------------------------------------------------------------------------------


@pytest.mark.parametrize("outer", ("tied", "free"))
@pytest.mark.parametrize("dim", (1, 2, 3))
def test_peaks_are_the_heights_at_the_centres(dim, outer):
    net = trained(dim, outputs=2, outer=outer)
    at_centres = net.basis(net.centres.detach()).value.diagonal()
    oracle.assert_close(net.peaks, at_centres[:, None] * net.amplitudes, 1e-12)


def test_amplitudes_are_a_view():
    net = trained(outputs=2)
    with torch.no_grad():
        net.amplitudes.fill_(3)
    assert torch.equal(net.rows[:, -2:], torch.full((6, 2), 3.0, dtype=torch.float64))


@pytest.mark.parametrize("dim", (1, 2, 3, 4))
def test_boxes_are_where_the_edges_are(dim):
    """At a corner |B_k| = A_k for every axis k; neighbours differ in one sign."""
    net = trained(dim, domain=[[0.0] * dim, [1.0 + k for k in range(dim)]])
    packed, corners = net._packed(), net.boxes()
    B = torch.einsum("mkj,mcj->mck", packed.V, corners - packed.c[:, None])
    assert torch.allclose(B.abs(), packed.A[:, None].expand_as(B), rtol=1e-12)
    signs = torch.sign(B)
    assert len(torch.unique(signs[0], dim=0)) == 2**dim
    assert ((signs != signs.roll(1, dims=1)).sum(2) == 1).all()
    assert not corners.requires_grad


def test_the_corners_of_an_upright_box_go_around_it():
    net = BumpNet(2, 1, overlap=0.5)
    corners = net.boxes()[0]
    assert torch.allclose(corners, torch.tensor([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]]))


def test_extra_repr():
    net = BumpNet(3, 4, outputs=2, outer="free", dtype="float64")
    assert repr(net) == "BumpNet(dim=3, bumps=4, outputs=2, outer='free', parameters=52, dtype=float64)"


# --- care ----------------------------------------------------------------------------------------------


def test_perturb_moves_shapes_alone_and_repeatably():
    nets = [
        BumpNet(2, 50, dtype=dtype).perturb_(0.1, torch.Generator().manual_seed(3)) for dtype in ("float64", "float32")
    ]
    moved = nets[0].rows - BumpNet(2, 50, dtype="float64").rows
    assert not moved[:, -1].any()
    assert 0.08 < moved[:, :-1].std() < 0.12 and moved[:, :-1].ne(0).all()
    assert torch.allclose(nets[0].rows.float(), nets[1].rows)
    assert nets[0].rows.requires_grad and nets[0].rows.is_leaf


def test_check_names_the_illness():
    def ill(column, value, dtype="float32"):
        net = BumpNet(2, 4, dtype=dtype)
        net.rows.data[1, column] = value
        return net.check()

    sharpness, size, no_digits = (
        5,
        slice(2, 4),
        "1 of 4 bumps have no digits in float32 second derivatives (p A > 100000)",
    )
    assert BumpNet(2, 40).check() == []
    assert "1 of 4 bumps have rows that are not finite" in ill(0, math.nan)
    assert ill(size, -20.0) == ["1 of 4 bumps are dying: no higher at their centre than far away"]
    assert ill(sharpness, 4.0) == ["1 of 4 bumps have edges so thin (s A > 1000) that gradients vanish"]
    assert no_digits in ill(sharpness, 7.0) and no_digits not in ill(sharpness, 7.0, "float64")


# --- habits of an nn.Module ------------------------------------------------------------------------------


def assert_same_net(a, b):
    x = oracle.points(a.layout.dim, 5).to(a.rows.dtype)
    assert type(a) is type(b) and a.layout == b.layout and a.tied == b.tied
    for name, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[name]), name
    assert torch.equal(a.jet(x).hessian, b.jet(x).hessian)


def test_deepcopy_and_pickle():
    net = trained(outer="free", outputs=2)
    twins = copy.deepcopy(net), pickle.loads(pickle.dumps(net))
    for twin in twins:
        assert_same_net(net, twin)
        assert twin.rows.data_ptr() != net.rows.data_ptr()


def test_to_and_double():
    net = BumpNet(2, 5).double()
    assert {t.dtype for t in (net.rows, net.frame, net.domain)} == {torch.float64}
    assert net(oracle.points(2, 3)).dtype == torch.float64
    assert net.to(torch.float32).rows.dtype == torch.float32
    with pytest.raises(TypeError, match="rows must be float32 or float64"):
        net.half()(torch.rand(3, 2).half())


def test_from_rows():
    net = trained(outer="free", outputs=2)
    part = BumpNet.from_rows(net.rows[:2], net.frame, net.domain, tied=False)
    x = oracle.points(2, 5)
    oracle.assert_close(part(x), bump_jet(x, net.rows[:2], net.frame, tied=False).value, 1e-15)
    assert part.rows.is_leaf and part.rows.requires_grad
    assert_same_net(net, BumpNet.from_rows(net.rows, net.frame, net.domain, tied=False))
    assert torch.equal(
        BumpNet.from_rows(net.rows, net.frame[:2], net.domain, tied=False).frame[2], torch.ones(2).double()
    )


@pytest.mark.parametrize("changed, error, message", [
    (dict(rows=[[0.0]]), TypeError, "must be tensors"),
    (dict(rows=torch.zeros(3, 5)), ValueError, "rows must have at least 6 columns"),
    (dict(rows=torch.zeros(3, 6)), ValueError, r"rows must have at least one amplitude, got shape \(3, 6\)"),
    (dict(rows=torch.zeros(0, 7)), ValueError, r"bumps >= 1, got \(0, 7\)"),
    (dict(rows=torch.full((3, 7), math.nan)), ValueError, "rows must be finite, got 3 rows that are not"),
    (dict(frame=torch.zeros(5, 2)), ValueError, "frame must have shape"),
    (dict(domain=[[0, 0], [0, 1]]), ValueError, "lower < upper"),
    (dict(frame=torch.full((3, 2), math.nan)), ValueError, "the frame must be finite with lower < upper"),
    (dict(frame=torch.tensor([[1.0, 1], [-1, -1], [1, 1]])), ValueError, "the frame must be finite with lower < upper"),
    (dict(frame=torch.tensor([[-1.0, -1], [1, 1], [1, -1]])), ValueError, "the scales of the frame.* must be positive"),
    (dict(frame=torch.tensor([[-1, -1], [1e300, 1], [1, 1]]).double()), ValueError, "the frame must be finite"),
    (dict(rows=torch.zeros(3, 7).long()), TypeError, "rows must be float32 or float64"),
    (dict(rows=torch.zeros(3, 7) + 0j), TypeError, "rows must be float32 or float64"),
    (dict(tied=1), TypeError, "tied must be True or False"),
])  # fmt: skip
def test_from_bad_rows(changed, error, message):
    good = dict(rows=torch.zeros(3, 7), frame=torch.tensor([[-1.0, -1], [1, 1], [1, 1]]), domain=[[-1, -1], [1, 1]])
    with pytest.raises(error, match=message):
        BumpNet.from_rows(**(good | changed))


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("outer", ("tied", "free"))
@pytest.mark.parametrize("bumps", (2, 6, 31))
def test_a_state_loads_into_any_number_of_bumps(bumps, outer):
    net, other = trained(outer=outer), BumpNet(2, bumps, DOMAIN, outer=outer, dtype="float64")
    parameter = other.rows
    other(oracle.points(2, 3)).sum().backward()
    other.load_state_dict(through_a_file(net.state_dict()))
    assert other.rows is parameter
    assert parameter.grad is None or parameter.grad.shape == parameter.shape
    assert_same_net(net, other)
    optimiser = torch.optim.Adam(other.parameters())
    other(oracle.points(2, 3)).sum().backward()
    optimiser.step()
    assert parameter.shape == net.rows.shape


def test_a_state_loads_inside_a_bigger_module_and_into_another_dtype():
    model = torch.nn.Sequential(BumpNet(2, 3), torch.nn.Linear(1, 1))
    source = torch.nn.Sequential(trained(), torch.nn.Linear(1, 1, dtype=torch.float64))
    model.load_state_dict(through_a_file(source.state_dict()))
    assert model[0].rows.dtype == torch.float32
    assert torch.equal(model[0].rows, source[0].rows.float())


def loss_of(net, dtype=torch.float64):
    return net(oracle.points(2, 9, dtype=dtype)).square().sum()


@pytest.mark.parametrize("bumps", (3, 6, 11))
@pytest.mark.parametrize("strict", (True, False))
def test_a_state_loads_while_a_graph_is_alive(bumps, strict):
    net, other = trained(), BumpNet(2, bumps, DOMAIN, dtype="float64")
    old = loss_of(other)
    other.load_state_dict(net.state_dict(), strict=strict)
    loss_of(other).backward()
    loss_of(net).backward()
    assert torch.equal(other.rows.grad, net.rows.grad)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        old.backward()


def test_a_graph_of_before_lives_on_if_the_parameter_is_replaced():
    net, other = trained(), BumpNet(2, 3, DOMAIN, dtype="float64")
    before, old = other.rows, loss_of(other)
    other.load_state_dict(net.state_dict(), assign=True)
    assert_same_net(net, other)
    assert other.rows is not before and other.rows.requires_grad
    loss_of(other).backward()
    old.backward()
    assert other.rows.grad.shape == net.rows.shape and before.grad.shape == before.shape == (3, 7)


def test_assign_keeps_the_dtype_of_the_state_and_what_is_frozen():
    net, other = trained(), BumpNet(2, 3)
    other.rows.requires_grad_(False)
    other.load_state_dict(net.state_dict(), assign=True)
    assert_same_net(net, other)
    assert other.rows.dtype == torch.float64 and not other.rows.requires_grad


def test_an_optimiser_made_before_goes_on_with_the_state_of_both():
    """The usual way to resume: build both, load both."""

    def step(net, optimiser):
        optimiser.zero_grad()
        loss_of(net).backward()
        optimiser.step()

    def built(net):
        return net, torch.optim.Adam(net.parameters(), lr=1e-2)

    one, two = built(trained()), built(BumpNet(2, 9, DOMAIN, dtype="float64"))
    step(*one)
    step(*two)  # so that there are gradients and moments of nine bumps
    for part, saved in zip(two, one, strict=True):
        part.load_state_dict(through_a_file(saved.state_dict()))
    for _ in range(3):
        step(*one)
        step(*two)
    assert torch.equal(one[0].rows, two[0].rows)


@pytest.mark.parametrize("duplicate", (copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))))
def test_a_net_with_a_loaded_state_can_be_copied(duplicate):
    net = BumpNet(2, 3, DOMAIN, dtype="float64")
    loss_of(net).backward()
    net.load_state_dict(trained().state_dict())
    other = duplicate(net)
    assert_same_net(net, other)
    loss_of(other).backward()
    assert other.rows.grad.shape == (6, 7) and net.rows.grad is None


def with_rows(state, rows):
    return state | {"rows": rows}


@pytest.mark.parametrize("spoil, message", [
    (lambda s: with_rows(s, s["rows"][:, :-1]), r"must have shape \[bumps, 7\] with bumps >= 1, got \(6, 6\)"),
    (lambda s: with_rows(s, s["rows"][:0]), r"bumps >= 1, got \(0, 7\)"),
    (lambda s: with_rows(s, s["rows"] * math.nan), "must be finite, got 6 rows that are not"),
    (lambda s: with_rows(s, s["rows"] * 1e300), "must be finite"),
    (lambda s: {"rows": s["rows"]}, "Missing key"),
    (lambda s: {k: v for k, v in s.items() if k != "rows"}, "Missing key"),
    (lambda s: s | {"colour": torch.ones(1)}, "Unexpected key"),
    (lambda s: BumpNet(3, 6).state_dict(), r"\(dim, outputs, tied\) are \[3, 1, 1\] in the checkpoint"),
    (lambda s: BumpNet(2, 6, outputs=2, outer="free").state_dict(), "are .2, 2, 0. in the checkpoint"),
    (lambda s: s | {"_extra_state": "2, 1, 1"}, "are '2, 1, 1' in the checkpoint"),
    (lambda s: s | {"_extra_state": torch.tensor([2])}, r"are \[2\] in the checkpoint"),
    (lambda s: with_rows(s, s["rows"] + 0j), "must be a tensor of floating point numbers, got torch.complex128"),
    (lambda s: with_rows(s, s["rows"].long()), "must be a tensor of floating point numbers, got torch.int64"),
    (lambda s: with_rows(s, s["rows"].tolist()), "must be a tensor of floating point numbers, got list"),
    (lambda s: with_rows(s, s["rows"][0]), "rows: must have 2 dimensions"),
    (lambda s: s | {"frame": s["frame"] * math.nan}, "the frame must be finite"),
    (lambda s: s | {"frame": s["frame"][[1, 0, 2]]}, "the frame must be finite with lower < upper"),
    (lambda s: s | {"frame": -s["frame"][[1, 0, 2]]}, "the scales of the frame.* must be positive"),
    (lambda s: s | {"frame": s["frame"][:2]}, r"the frame must have shape \[3, 2\], got \(2, 2\)"),
    (lambda s: s | {"domain": s["domain"].flip(0)}, "the domain must be finite with lower < upper"),
    (lambda s: s | {"domain": s["domain"][:, :1]}, r"the domain must have shape \[2, 2\], got \(2, 1\)"),
])  # fmt: skip
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(spoil, message):
    net = BumpNet(2, 4)
    before = copy.deepcopy(net)
    spoiled = spoil(trained().state_dict())
    with pytest.raises(RuntimeError, match=message):
        net.load_state_dict(spoiled)
    if "key" not in message:
        assert_same_net(net, before)


def test_the_same_width_of_another_layout_is_refused():
    """Tied with two outputs and free with one are both 8 columns wide."""
    with pytest.raises(RuntimeError, match=r"are \[2, 1, 0\] in the checkpoint and \[2, 2, 1\] here"):
        BumpNet(2, 4, outputs=2).load_state_dict(BumpNet(2, 4, outer="free").state_dict())


@pytest.mark.parametrize("missing", ["nothing", "_extra_state", "_extra_state frame", "_extra_state domain"])
def test_the_same_width_of_another_dimension_is_refused_and_changes_nothing(missing):
    """One dimension with four outputs and two with one are both 7 columns wide; frame or domain tell them apart."""
    state = {k: v for k, v in BumpNet(1, 6, outputs=4).state_dict().items() if k not in missing.split()}
    net = BumpNet(2, 4)
    assert state["rows"].shape[1] == net.rows.shape[1]
    before = copy.deepcopy(net)
    with pytest.raises(RuntimeError, match=r"\(dim, outputs, tied\)|the (frame|domain) must have shape"):
        net.load_state_dict(state, strict=False)
    assert_same_net(net, before)


def test_functional_call(backend):
    net, other, x = trained(), trained(seed=1, bumps=9), oracle.points(2, 5)
    called = torch.func.functional_call(net, dict(other.named_parameters()), (x,))
    assert torch.equal(called, bump_jet(x, other.rows, net.frame).value)
    assert torch.equal(net(x), bump_jet(x, net.rows, net.frame).value), "nothing is left of it"
    grads = torch.func.grad(lambda p: torch.func.functional_call(net, p, (x,)).square().sum())(
        dict(net.named_parameters())
    )
    wanted = torch.autograd.grad(net(x).square().sum(), net.rows)[0]
    oracle.assert_close(grads["rows"], wanted, 1e-12)


def test_an_ensemble_by_vmap(backend):
    nets, x = [trained(seed=s) for s in range(3)], oracle.points(2, 5)
    state = torch.func.stack_module_state(nets)
    base = copy.deepcopy(nets[0]).to("meta")
    values = torch.vmap(lambda p, b: torch.func.functional_call(base, (p, b), (x,)))(*state)
    oracle.assert_close(values, torch.stack([net(x) for net in nets]), 1e-13)


def test_no_state_is_hidden_between_calls(backend):
    net, x = trained(), oracle.points(2, 5)
    before = net(x)
    with torch.no_grad():
        net.rows[:, 0] += 0.1
    assert not torch.equal(net(x), before)
    assert set(vars(net)) == set(vars(BumpNet(2, 3)))


def test_it_trains(backend):
    """A hundred steps of Adam on a smooth function take most of the error away."""
    net = BumpNet(2, 16, dtype="float64")
    x = oracle.points(2, 100)
    target = torch.sin(3 * x[:, :1]) * x[:, 1:]
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-2)
    losses = []
    for _ in range(100):
        optimiser.zero_grad()
        loss = (net(x) - target).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


IMPORT = """
import sys, torch
before = set(sys.modules)
import bumpnet_fast
print(*sorted({name.split(".")[0] for name in set(sys.modules) - before}))
"""


def test_importing_is_light():
    imported = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True).stdout
    assert not {"matplotlib", "scipy", "rich", "triton", "deepxde", "pina"} & set(imported.split())
    assert "bumpnet_fast" in imported
