"""Nets with maps of their coordinates: derivatives, storage, and what refuses them."""

import copy

import pytest
import torch

import bumpnet_fast as bf
from bumpnet_fast import BumpDeepONet, BumpNet
from bumpnet_fast.core.maps import AxisMap, Maps
from bumpnet_fast.core.reference import WANTS
from bumpnet_fast.nets.adapt import residual_peaks, rows_at
from bumpnet_fast.nets.step import compile_step

DOMAIN = [[0.0, 0.0], [1.0, 2.0]]
MAPS = Maps((AxisMap(0.0, 1.0, "asinh", (1.0,), (0.05,), 0.2), AxisMap(0.0, 2.0, "logistic", (0.7,), (0.1,), 0.3)))


def random_net(dtype="float64", **options):
    net = BumpNet(2, (3, 4), DOMAIN, dtype=dtype, **({"maps": MAPS, "outputs": 2} | options))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        net.rows += 0.3 * torch.randn(net.rows.shape, dtype=torch.float64, generator=generator).to(net.rows)
    return net


def points(n=15, dtype=torch.float64):
    unit = torch.rand(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return (unit * torch.tensor(DOMAIN[1], dtype=torch.float64)).to(dtype)


@pytest.mark.parametrize("want", WANTS)
def test_jet_agrees_with_autograd_of_the_value(want):
    net, x = random_net(), points()
    jet, expected = net.jet(x, want=want), bf.Jet.of(net, x, want)
    for part, other in zip(jet.parts(), expected.parts(), strict=True):
        assert (part is None) == (other is None)
        if part is not None:
            torch.testing.assert_close(part, other, rtol=1e-9, atol=1e-9 * float(other.abs().max()))


@pytest.mark.parametrize("want", WANTS)
def test_basis_and_design_agree_with_the_jet(want):
    net, x = random_net(outputs=1), points()
    basis, jet = net.basis(x, want), net.jet(x, want=want)
    for part, other in zip(basis.parts(), jet.parts(), strict=True):
        if part is not None:
            torch.testing.assert_close(torch.einsum("nm...,mk->nk...", part, net.amplitudes), other)
    last = [part for part in jet.parts() if part is not None][-1]
    coefficients: list = [None, None, None]
    coefficients[min(WANTS.index(want), 2)] = torch.ones_like(last[:, 0])
    Phi, _ = net.design(tuple(coefficients), x, want)
    expected = last.flatten(1).sum(1, keepdim=True)
    torch.testing.assert_close(
        Phi @ net.amplitudes, expected, rtol=1e-9, atol=1e-9 * float(expected.detach().abs().max())
    )


def test_gradcheck_of_jets():
    net, x = random_net(), points(3).requires_grad_()
    rows = net.rows.detach().clone().requires_grad_()

    def parts(x, rows):
        return torch.func.functional_call(_Jets(net), {"net.rows": rows}, (x,))

    assert torch.autograd.gradcheck(parts, (x, rows))


class _Jets(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        jet = self.net.jet(x, want="hessian")
        return jet.gradient, jet.hessian


def test_identity_maps_are_none():
    domain = torch.tensor(DOMAIN, dtype=torch.float64)
    net, plain = random_net(maps=Maps.identity(domain)), random_net(maps=None)
    assert net.maps is None and repr(net) == repr(plain)
    assert list(net.state_dict()) == list(plain.state_dict())
    assert net.state_dict()["_extra_state"].tolist() == [2, 2, 1]
    for part, other in zip(net.jet(points()).parts(), plain.jet(points()).parts(), strict=True):
        assert torch.equal(part, other)


def test_state_dict_and_copies_keep_the_maps():
    net = random_net()
    other = BumpNet(2, 5, DOMAIN, outputs=2, dtype="float64")
    other.load_state_dict(net.state_dict())
    for same in (other, copy.deepcopy(net), BumpNet.from_rows(net.rows, net.frame, net.domain, maps=net.maps)):
        assert same.maps == MAPS and torch.equal(same(points()), net(points()))
    plain = random_net(maps=None)
    other.load_state_dict(plain.state_dict())
    assert other.maps is None and torch.equal(other(points()), plain(points()))


def test_damaged_maps_are_not_loaded():
    state = random_net().state_dict()
    state["_extra_state"] = state["_extra_state"][:-1]
    with pytest.raises(RuntimeError, match="maps: the numbers of the maps are damaged"):
        random_net(maps=None).load_state_dict(state)


def test_file(tmp_path):
    net = random_net()
    bf.save(tmp_path / "net.pt", net)
    loaded = bf.load(tmp_path / "net.pt").net
    assert loaded.maps == MAPS and torch.equal(loaded(points()), net(points()))


def test_float32_maps_in_float64():
    net = random_net("float32")
    assert net(points(dtype=torch.float32)).dtype == torch.float32
    wide, x = copy.deepcopy(net).double(), points()
    torch.testing.assert_close(net(x.float()).double(), wide(x), rtol=1e-4, atol=1e-4)
    assert wide.float().maps == MAPS


def test_centres_and_boxes_are_in_coordinates():
    net = BumpNet(2, (4, 4), DOMAIN, dtype="float64", maps=MAPS)
    plain = BumpNet(2, (4, 4), DOMAIN, dtype="float64")
    torch.testing.assert_close(MAPS.at(net.centres).xi, plain.centres)
    assert bool((net.centres[:, 0] > 0.9).sum() > (plain.centres[:, 0] > 0.9).sum())
    inside = plain.boxes().clamp(net.domain[0], net.domain[1])
    torch.testing.assert_close(MAPS.at(net.boxes()).xi, inside, rtol=1e-10, atol=1e-10)
    (grad,) = torch.autograd.grad(net.centres[:, 0].sum(), net.rows)
    (even,) = torch.autograd.grad(plain.centres[:, 0].sum(), plain.rows)
    torch.testing.assert_close(grad[:, 0], even[:, 0] / MAPS.at(net.centres).first[:, 0].detach())


def test_new_bumps_are_where_they_were_asked_for():
    net, x = random_net(), torch.tensor([[0.99, 0.7], [0.2, 1.5]], dtype=torch.float64)
    grown = BumpNet.from_rows(rows_at(net, x), net.frame, net.domain, maps=net.maps)
    torch.testing.assert_close(grown.centres, x)
    line = torch.stack([torch.linspace(0, 1, 4001), torch.full((4001,), 0.7)], 1).double()
    height = ((line[:, 0] - 0.999).abs() < 1e-4).double() + 0.5 * ((line[:, 0] - 0.5).abs() < 1e-4).double()
    assert sorted(residual_peaks(net, line, height, 2)[:, 0].round(decimals=2).tolist()) == [0.5, 1.0]


def test_repr_names_the_maps():
    assert "maps='asinh at 1 (width 0.05); logistic at 0.7 (width 0.1)'" in repr(random_net())


def test_wrong_points_are_refused():
    for call in (random_net(), random_net().jet):
        with pytest.raises(ValueError, match="x must"):
            call(torch.zeros(5, 3, dtype=torch.float64))


def test_refused_where_they_are_not_supported():
    with pytest.raises(ValueError, match="maps must not be given"):
        BumpDeepONet(5, (3, 3), DOMAIN, maps=MAPS)
    with pytest.raises(ValueError, match="no maps for a compiled step"):
        compile_step(random_net(), lambda u: u.value.sum())
    with pytest.raises(ValueError, match="maps must be those of the domain"):
        BumpNet(2, 4, maps=MAPS)
