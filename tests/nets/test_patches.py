"""A net of patches: which leaf has a point, its jet, and what it refuses."""

import math

import pytest
import torch

from bumpnet_fast import Jet, io
from bumpnet_fast.nets.adapt import keep_bumps
from bumpnet_fast.nets.patches import PatchNet
from bumpnet_fast.problems import get
from bumpnet_fast.solvers import solve
from bumpnet_fast.solvers.patches.basis import basis
from bumpnet_fast.solvers.patches.tree import Leaf, Tree

DOMAIN = torch.tensor([[0.0, -1.0], [3e-3, 4.0]], dtype=torch.float64)


def net_of(tree, function=None, domain=DOMAIN):
    """A net over a tree; in every leaf it fits a function, or has random amplitudes."""
    shared, leaves = basis(), torch.tensor(tree.leaves)
    amplitudes = torch.randn(
        len(tree), len(shared.shapes), dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    net = PatchNet(shared.shapes, shared.frame, domain, tree.roots, leaves, amplitudes)
    if function is not None:
        table = shared.inside
        for k, (lo, hi) in enumerate(net.boxes):
            values = function(lo + (hi - lo) * table.points)
            net.amplitudes[k] = shared.mixture @ torch.linalg.lstsq(table.parts[""], values).solution
    return net


@pytest.fixture
def tree():
    return Tree.even((2, 1), 1).split([Leaf(1, 0, 0)]).split([Leaf(2, 1, 1)])


def test_every_point_has_the_leaf_that_covers_it(tree):
    net = net_of(tree)
    lo, hi = net.boxes.unbind(1)
    x = DOMAIN[0] + (DOMAIN[1] - DOMAIN[0]) * torch.rand(
        5000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )
    leaf = net.leaf_of(x)
    assert bool(((x >= lo[leaf]) & (x <= hi[leaf])).all())
    assert len(set(leaf.tolist())) == len(tree)
    corners = torch.cartesian_prod(*DOMAIN.T)
    assert bool(((corners >= lo[net.leaf_of(corners)]) & (corners <= hi[net.leaf_of(corners)])).all())
    assert torch.equal(
        net.leaf_of(net.spread(3, torch.Generator().manual_seed(1))), torch.arange(len(tree)).repeat_interleave(3)
    )


@pytest.mark.parametrize("want", ["value", "gradient", "diagonal", "hessian", "laplacian"])
def test_the_jet_is_that_of_the_function_that_it_fits(tree, want):
    def function(x):
        return torch.sin(500 * x[:, 0] + 0.5 * x[:, 1])

    x = DOMAIN[0] + (DOMAIN[1] - DOMAIN[0]) * torch.rand(
        50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )
    found, known = net_of(tree, function).jet(x, want), Jet.of(function, x, want)
    assert found.want == want
    for own, right in zip(found.parts(), known.parts(), strict=True):
        assert (own is None) == (right is None)
        if own is not None:
            assert own.shape == right.shape
            assert torch.allclose(own, right, rtol=0, atol=1e-3 * float(right.abs().max()))


def test_it_can_be_differentiated_by_the_points(tree):
    net, x = net_of(tree), torch.tensor([[1e-3, 0.3], [2e-3, 2.0]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(net(x).sum(), x)
    assert torch.allclose(gradient, net.jet(x.detach(), "gradient").gradient[:, 0])


@pytest.mark.parametrize("leaves, named", [
    ([[1, 0, 0], [1, 0, 1], [1, 1, 0]], "cover the domain once"),
    ([[0, 0, 0], [1, 0, 0]], "cover the domain once"),
    ([[0, 1, 0]], "a place inside"),
    ([[-1, 0, 0]], "a level"),
    ([[40, 0, 0]], "a level"),
])  # fmt: skip
def test_leaves_that_are_no_tree_are_refused(leaves, named):
    shared = basis()
    amplitudes = torch.zeros(len(leaves), len(shared.shapes), dtype=torch.float64)
    with pytest.raises(ValueError, match=named):
        PatchNet(shared.shapes, shared.frame, DOMAIN, (1, 1), torch.tensor(leaves), amplitudes)


def test_what_it_is_not_made_for_is_refused(tree):
    net = net_of(tree)
    x = torch.zeros(3, 2, dtype=torch.float64)
    with pytest.raises(TypeError, match="float64"):
        net.float()
    with pytest.raises(TypeError, match="float64"):
        net(x.float())
    with pytest.raises(ValueError, match="N, 2"):
        net(x[:, :1])
    with pytest.raises(TypeError, match="must be a BumpNet"):
        solve(get("poisson"), net)
    with pytest.raises(RuntimeError, match="rows"):
        keep_bumps(net, torch.ones(len(net.rows), dtype=torch.bool))


def test_it_is_saved_alone(tree, tmp_path):
    net = net_of(tree)
    io.save(tmp_path / "net.pt", net)
    loaded = io.load(tmp_path / "net.pt").net
    x = DOMAIN[0] + (DOMAIN[1] - DOMAIN[0]) * torch.rand(
        20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )
    assert isinstance(loaded, PatchNet) and torch.equal(loaded(x), net(x)) and loaded.roots == net.roots
    assert not math.isnan(float(loaded(x).sum()))
