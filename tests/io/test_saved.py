"""Checkpoints: what was saved comes back, a crash harms nothing, and a foreign file is told from a good one."""

import io
import os
import pickle
from dataclasses import dataclass

import pytest
import torch

from bumpnet_fast import BumpNet, problems
from bumpnet_fast.io import saved as checkpoint
from bumpnet_fast.io.saved import CheckpointError, load, save
from bumpnet_fast.problems.base import Problem


def a_net(dim=2, bumps=7, domain=None, **options):
    net = BumpNet(dim, bumps, domain, **options).perturb_(0.3, torch.Generator().manual_seed(0))
    with torch.no_grad():
        net.amplitudes.normal_(generator=torch.Generator().manual_seed(1))
    return net


def points(net, n=50):
    lo, hi = net.domain
    return lo + (hi - lo) * torch.rand(n, net.layout.dim, generator=torch.Generator().manual_seed(2)).to(net.rows)


@dataclass
class Unregistered(Problem):
    """A user's own problem, which no registry knows."""

    name = "my own"
    tilt: float = 2.0

    def residual(self, x, u):
        return u.laplacian[:, 0]

    def boundary_values(self, x):
        return self.tilt * x[:, 0]


@pytest.mark.parametrize(
    "net",
    [
        a_net(),
        a_net(1, 3, dtype="float64", outer="free"),
        a_net(3, (2, 1, 2), [[0, 0, -5], [1, 2, 5]], outputs=2, dtype="float64", scale=(1.0, 2.0, 0.1), centre_box=1.7),
    ],
    ids=["plain", "free", "everything"],
)
def test_round_trip(net, tmp_path):
    save(tmp_path / "model.pt", net)
    again = load(tmp_path / "model.pt")
    assert (again.problem, again.boundary) == (None, None)
    assert again.net.extra_repr() == net.extra_repr()
    for name in ("rows", "frame", "domain"):
        assert torch.equal(getattr(again.net, name), getattr(net, name)), name
    x = points(net)
    assert torch.equal(again(x), net(x))
    assert torch.equal(again.jet(x, "hessian").hessian, net.jet(x).hessian)


@pytest.mark.parametrize("boundary", ["hard", "soft"])
def test_the_boundary_condition_comes_back_too(boundary, tmp_path):
    problem = problems.get("helmholtz", a1=2, lower=(0, 0))
    net = a_net(domain=problem.domain, dtype="float64")
    save(tmp_path / "model.pt", net, problem=problem, boundary=boundary)
    u = load(tmp_path / "model.pt")
    assert (u.problem, u.boundary) == (problem, boundary)
    x = points(net)
    composed = problem.distance(x)[:, None] * net(x) + problem.lift(x)[:, None]
    torch.testing.assert_close(u(x), composed if boundary == "hard" else net(x))
    assert torch.autograd.grad(u(x).sum(), u.net.rows)[0].abs().sum() > 0  # it can be trained further


def test_the_jet_of_a_hard_model_is_that_of_its_values(tmp_path):
    problem = problems.get("poisson")
    save(tmp_path / "model.pt", a_net(dtype="float64"), problem=problem, boundary="hard")
    u = load(tmp_path / "model.pt")
    x, step = points(u.net, 5), torch.tensor([[1e-5, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(u.jet(x, "gradient").d(0), (u(x + step) - u(x - step)) / 2e-5, rtol=1e-7, atol=1e-7)


def test_a_problem_that_is_not_registered(tmp_path):
    problem, net = Unregistered(tilt=3.0), a_net()
    path, x = tmp_path / "model.pt", points(net)
    save(path, net, problem=problem, boundary="hard")
    with pytest.raises(CheckpointError, match=r"unknown problem 'my own'.*problem=\.\.\."):
        load(path)
    assert torch.equal(load(path, problem=problem)(x), problem.compose(x, "value")(net.jet(x, "value")).value)
    save(path, net, problem=problem, boundary="soft")
    assert load(path).problem is None
    assert torch.equal(load(path)(x), net(x))  # the net alone is the solution


def test_the_file_is_plain_data(tmp_path):
    save(tmp_path / "model.pt", a_net(), problem=problems.get("poisson"), boundary="hard")
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    assert content["version"] == checkpoint.VERSION
    assert content["kwargs"]["bumps"] == 7
    assert content["problem"]["name"] == "poisson"
    assert content["model"]["rows"].shape == (7, 7)
    assert not content["model"]["rows"].requires_grad


# --- all or nothing ------------------------------------------------------------------------------


def test_a_crash_while_saving_leaves_the_old_file(tmp_path, monkeypatch):
    path, old = tmp_path / "model.pt", a_net()
    save(path, old)

    def crash(content, file):
        file.write(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", crash)
    with pytest.raises(KeyboardInterrupt):
        save(path, a_net(bumps=9))
    assert torch.equal(load(path).net.rows, old.rows)
    assert os.listdir(tmp_path) == ["model.pt"]


def test_a_missing_directory_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        save(tmp_path / "nowhere" / "model.pt", a_net())


# --- bad files -----------------------------------------------------------------------------------


def saved(change=None):
    """Bytes of a good checkpoint, its dict changed beforehand."""
    content = {"version": 1, "kwargs": checkpoint.net_settings(a_net()), "model": a_net().state_dict()}
    content |= {"problem": None, "boundary": None} | (change or {})
    file = io.BytesIO()
    torch.save({key: value for key, value in content.items() if value != "left out"}, file)
    return file.getvalue()


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("executed",)


BAD = {
    "empty": (b"", "not a checkpoint, or is damaged"),
    "text": (b"not a checkpoint at all", "not a checkpoint, or is damaged"),
    "cut short": (saved()[:-200], "not a checkpoint, or is damaged"),
    "code": (pickle.dumps(Malicious(), protocol=2), "not a checkpoint, or is damaged"),
    "somebody else's": (saved({"version": "left out"}), "not written by bumpnet_fast"),
    "a newer format": (saved({"version": 3}), "format 3"),
    "unknown arguments": (saved({"kwargs": {"dims": 2}}), "damaged"),
    "bad arguments": (saved({"kwargs": checkpoint.net_settings(a_net()) | {"dim": -1}}), "dim must be"),
    "no weights": (saved({"model": {}}), "Missing key.*rows"),
    "weights of another net": (saved({"model": a_net(1).state_dict()}), "dim, outputs, tied"),
    "more bumps than there are": (
        saved({"kwargs": checkpoint.net_settings(a_net()) | {"bumps": 10**12}}),
        "ask for 7e",
    ),
    "no boundary": (saved({"boundary": "left out"}), "it has no boundary"),
    "a hard boundary of no problem": (saved({"boundary": "hard"}), "needs its problem, which was not saved; pass it"),
}


@pytest.mark.parametrize("content, message", BAD.values(), ids=BAD.keys())
def test_bad_files_are_refused(content, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as error:
        load(tmp_path / "model.pt")
    assert "\n" not in str(error.value)
    assert str(tmp_path / "model.pt") in str(error.value)
    assert os.listdir(tmp_path) == ["model.pt"]


def test_the_good_file_of_that_table_is_good(tmp_path):
    (tmp_path / "model.pt").write_bytes(saved())
    assert torch.equal(load(tmp_path / "model.pt").net.rows, a_net().rows)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "model.pt")
