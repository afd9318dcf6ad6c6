"""Saved operators: the round trip, branches of one's own, and files that are something else."""

import pytest
import torch
from torch import nn

from bumpnet_fast import BumpDeepONet, BumpNet
from bumpnet_fast.core.files import CheckpointError
from bumpnet_fast.io import load, save
from bumpnet_fast.problems.operators import Operator, get_operator
from bumpnet_fast.solvers import OperatorSolution


def wild(**options):
    options = {"sensors": 5, "bumps": (3, 2), "domain": [[0, -1], [1, 2]], "dtype": "float64"} | options
    net = BumpDeepONet(**options)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn(p.shape, dtype=p.dtype))
    return net


def same(one, two):
    f, y = torch.randn(3, 5, dtype=torch.float64), torch.rand(4, 2, dtype=torch.float64)
    return torch.equal(one(f, y), two(f, y))


@pytest.mark.parametrize(
    "options", [{}, {"branch": (4, 3)}, {"bias": True, "periodic": (True, False), "outer": "free"}], ids=str
)
def test_round_trip(options, tmp_path):
    net, operator = wild(**options), get_operator("advection", shift=-0.2, sensors=16)
    save(tmp_path / "model.pt", net, problem=operator)
    model = load(tmp_path / "model.pt")
    assert same(model, net) and model.operator == operator
    assert (model.net.periodic, model.net.tied, model.net.hidden) == (net.periodic, net.tied, net.hidden)
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    assert content["problem"]["name"] == "advection"


def test_dtype_is_kept(tmp_path):
    net = wild(dtype="float32")
    save(tmp_path / "model.pt", net)
    model = load(tmp_path / "model.pt")
    assert model.net.rows.dtype == torch.float32 and model.operator is None


def test_a_branch_of_ones_own_has_to_be_brought(tmp_path):
    def branch():
        return nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 6)).double()

    net = wild(branch=branch())
    save(tmp_path / "model.pt", net)
    with pytest.raises(CheckpointError, match=r"pass one as load\(path, branch=...\)"):
        load(tmp_path / "model.pt")
    assert same(load(tmp_path / "model.pt", branch=branch()), net)
    with pytest.raises(CheckpointError, match="does not fit the branch"):
        load(tmp_path / "model.pt", branch=nn.Linear(5, 6).double())


def test_an_unknown_operator_leaves_the_net_whole(tmp_path):
    class Mine(Operator):
        name = "mine"

    net = wild()
    save(tmp_path / "model.pt", net, problem=Mine())
    model = load(tmp_path / "model.pt")
    assert model.operator is None and same(model, net)


def test_what_is_no_operator_is_named(tmp_path):
    save(tmp_path / "net.pt", BumpNet(2, 9))
    assert not isinstance(load(tmp_path / "net.pt"), OperatorSolution)
    (tmp_path / "text.pt").write_text("no checkpoint")
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        load(tmp_path / "text.pt")
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nothing.pt")
    save(tmp_path / "model.pt", wild())
    assert isinstance(load(tmp_path / "model.pt"), OperatorSolution)
