"""BumpDeepONet as a module: shapes, types, derivatives, periodicity, any branch, and its arguments."""

import copy
import math

import pytest
import torch
from torch import nn

from bumpnet_fast import BumpDeepONet, BumpNet, Jet

LINE, SQUARE = [[0.0], [1.0]], [[0.0, -1.0], [2.0, 1.0]]


def wild(sensors=5, bumps=3, domain=LINE, dtype="float64", seed=0, **options):
    """A net with random parameters."""
    net = BumpDeepONet(sensors, bumps, domain, dtype=dtype, **options)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return net


def functions(count=2, sensors=5, dtype=torch.float64):
    return torch.randn(count, sensors, dtype=dtype, generator=torch.Generator().manual_seed(1))


def points(count=4, dim=1, dtype=torch.float64):
    return torch.rand(count, dim, dtype=dtype, generator=torch.Generator().manual_seed(2))


def test_parameters_are_counted_as_in_the_paper():
    net = BumpDeepONet(51, 8, LINE)
    assert sum(p.numel() for p in net.parameters()) == 51 * 8 + 8 + 3 * 8 == 440
    assert "parameters=440" in repr(net)
    assert sum(p.numel() for p in BumpDeepONet(51, 8, LINE, bias=True).parameters()) == 441


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("domain", [LINE, SQUARE])
def test_shapes_and_types(dtype, periodic, domain):
    dim = len(domain[0])
    net = wild(domain=domain, dtype=dtype, periodic=periodic)
    f, y = functions(dtype=dtype), points(dim=dim, dtype=dtype)
    assert net(f, y).shape == (2, 4) and net(f, y).dtype == dtype
    jet = net.jet(f, y, "hessian")
    assert jet.gradient.shape == (2, 4, dim) and jet.hessian.shape == (2, 4, dim, dim)
    assert net(f[:0], y).shape == (0, 4) and net(f, y[:0]).shape == (2, 0)


def test_it_is_the_sum_of_its_bumps():
    net, f, y = wild(domain=SQUARE), functions(), points(dim=2)
    rows = torch.cat([net.rows, net.coefficients(f).T], 1)
    sums = BumpNet.from_rows(rows, net.frame, net.domain).jet(y)
    jet = net.jet(f, y)
    torch.testing.assert_close(jet.value, sums.value.T)
    torch.testing.assert_close(jet.gradient, sums.gradient.transpose(0, 1))
    torch.testing.assert_close(jet.hessian, sums.hessian.transpose(0, 1))
    torch.testing.assert_close(net.trunk(y)[:, 0], net.basis(y).value.sum(1))
    assert net.trunk.check() == []


@pytest.mark.parametrize("periodic", [False, (True, False)])
@pytest.mark.parametrize("want", ["gradient", "diagonal", "hessian", "laplacian"])
def test_jets_are_derivatives(periodic, want):
    net, f, y = wild(domain=SQUARE, periodic=periodic, bias=True), functions(), points(dim=2)
    jet, wanted = net.jet(f, y, want), Jet.of(lambda y: net(f, y).T, y, want)
    for part, other in zip(jet.parts(), wanted.parts(), strict=True):
        assert (part is None) == (other is None)
        if part is not None:
            torch.testing.assert_close(part, other.transpose(0, 1))


def test_only_the_axes_said_to_be_periodic_are():
    net, f, y = BumpDeepONet(5, (6, 4), SQUARE, dtype="float64", periodic=(True, False)), functions(), points(dim=2)
    nn.init.normal_(net.branch.weight)
    u = net(f, y).detach()
    torch.testing.assert_close(net(f, y + torch.tensor([2.0, 0.0])), u, rtol=0, atol=1e-3 * float(u.abs().max()))
    assert (net(f, y + torch.tensor([0.0, 2.0])) - u).abs().max() > 0.1 * u.abs().max()


@pytest.mark.parametrize("options", [{}, {"periodic": True}, {"branch": (4,), "bias": True, "outer": "free"}], ids=str)
def test_gradients_of_everything(options):
    net, f, y = wild(**options), functions().requires_grad_(), points().requires_grad_()
    names, parameters = zip(*net.named_parameters(), strict=True)

    def whole(f, y, *values):
        return torch.func.functional_call(net, dict(zip(names, values, strict=True)), (f, y))

    assert torch.autograd.gradcheck(whole, (f, y, *parameters))
    net.jet(f, y, "laplacian").laplacian.square().sum().backward()
    assert all(
        torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0 for n, p in net.named_parameters() if n != "bias"
    )


@pytest.mark.parametrize(
    "branch",
    [
        nn.Linear(5, 3, bias=False),
        nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.LayerNorm(7), nn.Linear(7, 3)),
        nn.Sequential(nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 2, 3), nn.Flatten(), nn.Linear(6, 3)),
    ],
    ids=["linear", "mlp", "convolution"],
)
def test_any_branch(branch):
    net, f, y = BumpDeepONet(5, 3, LINE, branch=branch), functions(dtype=torch.float32), points(dtype=torch.float32)
    assert net.branch is branch
    torch.testing.assert_close(net(f, y), branch(f) @ net.basis(y).value.T)


def test_branches_made_here_start_with_zero_and_can_learn():
    for branch in (None, 6, (6, 7)):
        net, f, y = BumpDeepONet(5, 3, LINE, branch=branch), functions(dtype=torch.float32), points(dtype=torch.float32)
        assert (net(f, y) == 0).all()
        (net(f, y) - 1).square().sum().backward()
        assert any(p.grad.abs().sum() > 0 for p in net.branch.parameters())
    assert [tuple(p.shape) for p in net.branch.parameters()] == [(6, 5), (6,), (7, 6), (7,), (3, 7), (3,)]


def test_state_and_copies():
    net, f, y = wild(periodic=True, branch=(4,)), functions(), points()
    other = BumpDeepONet(5, 3, LINE, periodic=True, branch=(4,), dtype="float64")
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(f, y), net(f, y))
    twin = copy.deepcopy(net)
    assert torch.equal(twin(f, y), net(f, y))
    with torch.no_grad():
        twin.rows.zero_()
    assert not torch.equal(twin(f, y), net(f, y))
    single = copy.deepcopy(net).float()
    torch.testing.assert_close(single(f.float(), y.float()), net(f, y).float(), rtol=1e-4, atol=1e-4)
    with pytest.raises(RuntimeError, match="size mismatch"):
        BumpDeepONet(5, 4, LINE, branch=(4,)).load_state_dict(net.state_dict())


def test_a_nan_stays_a_nan():
    net, f, y = wild(), functions(), points()
    f[0, 2] = float("nan")
    assert net(f, y).isnan().tolist() == [[True] * 4, [False] * 4]
    y[1] = float("nan")
    assert net(f, y)[1].isnan().tolist() == [False, True, False, False]


def test_backends_agree(backend):
    net, f, y = wild(domain=SQUARE, periodic=(False, True)), functions(), points(dim=2)
    wanted = Jet.of(lambda y: net(f, y).T, y, "laplacian").laplacian.T
    torch.testing.assert_close(net.jet(f, y, "laplacian").laplacian, wanted)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"sensors": 0}, ValueError, "sensors must be at least 1, got 0"),
        ({"sensors": 2.5}, TypeError, "sensors must be an integer, got 2.5"),
        ({"bumps": 0}, ValueError, "bumps must be at least 1"),
        ({"bumps": (2, 2)}, ValueError, "bumps must be a number or 1 numbers, one per dimension"),
        ({"domain": [0.0, 1.0]}, ValueError, r"domain must have shape \[2, d\] .*, got \(2,\)"),
        ({"domain": "line"}, TypeError, "domain must be numbers"),
        ({"domain": [[1.0], [0.0]]}, ValueError, "domain must be finite with lower < upper"),
        ({"periodic": (True, True)}, ValueError, r"periodic must be a bool or 1 of them, .* got \(True, True\)"),
        ({"periodic": "x"}, ValueError, "periodic must be a bool"),
        ({"branch": "deep"}, TypeError, "branch must be a module, the widths of hidden layers, or None, got 'deep'"),
        ({"branch": (4, 0)}, ValueError, "branch must be at least 1, got 0"),
        ({"branch": (4.5,)}, TypeError, "branch must be an integer, got 4.5"),
        ({"overlap": -1}, ValueError, "overlap must be positive"),
        ({"dtype": "float16"}, TypeError, "dtype must be float32 or float64"),
        ({"outputs": 2}, TypeError, "unexpected keyword argument 'outputs'"),
    ],
)
def test_bad_arguments_are_named(change, error, message):
    arguments = {"sensors": 5, "bumps": 3, "domain": LINE} | change
    with pytest.raises(error, match=message):
        BumpDeepONet(**arguments)


@pytest.mark.parametrize(
    ("f", "y", "error", "message"),
    [
        (functions(sensors=4), points(), ValueError, r"f must have shape \[functions, 5\], .*, got \(2, 4\)"),
        (functions()[0], points(), ValueError, r"f must have shape \[functions, 5\], .*, got \(5,\)"),
        ([1, 2], points(), TypeError, "f must be a torch.Tensor, got list"),
        (functions().float(), points(), TypeError, "f must have the dtype of the bumps, torch.float64, got"),
        (functions(), points(dim=2), ValueError, r"x must have shape \[N, 1\]"),
        (functions(), points().float(), TypeError, "x must have the dtype of the rows"),
    ],
)
def test_bad_inputs_are_named(f, y, error, message):
    with pytest.raises(error, match=message):
        wild()(f, y)


def test_a_branch_of_the_wrong_width_is_named():
    net = BumpDeepONet(5, 3, LINE, branch=nn.Linear(5, 4))
    with pytest.raises(ValueError, match=r"the branch must return a tensor of shape \[2, 3\], .*, got \(2, 4\)"):
        net(functions(dtype=torch.float32), points(dtype=torch.float32))


@pytest.mark.parametrize(("name", "change", "message"), [
    ("rows", lambda t: t * math.nan, "the rows must be finite"),
    ("rows", lambda t: t + 0j, "must be a tensor of floating point numbers"),
    ("rows", lambda t: t.long(), "must be a tensor of floating point numbers"),
    ("rows", lambda t: t[:, 1:], "the rows must have shape"),
    ("frame", lambda t: t * math.nan, "the frame must be finite"),
    ("frame", lambda t: t[[1, 0, 2]], "the frame must be finite with lower < upper"),
    ("domain", lambda t: t.flip(0), "the domain must be finite with lower < upper"),
])  # fmt: skip
def test_a_state_of_bumps_that_cannot_be_is_refused_and_changes_nothing(name, change, message):
    net = BumpDeepONet(5, (3, 2), [[0.0, -1.0], [1.0, 2.0]], branch=4)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    state = dict(net.state_dict(), **{name: change(net.state_dict()[name])})
    with pytest.raises(RuntimeError, match=message):
        net.load_state_dict(state)
    bumps = [key for key in before if not key.startswith("branch")]
    assert len(bumps) == 3 and all(torch.equal(net.state_dict()[key], before[key]) for key in bumps)
