"""torch's private names are there, and what takes their place where they are gone gives the same."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.autograd import forward_ad

from bumpnet_fast import BumpNet, bump_jet
from bumpnet_fast.core import backends as native
from bumpnet_fast.core import ops, private
from bumpnet_fast.diagnostics import check as parity
from bumpnet_fast.nets import adapt

WHERE = "look for what torch did with it, and see that the substitute in bumpnet_fast/private.py still serves"

NAMES = {
    "torch._C._are_functorch_transforms_active": torch._C,
    "torch._C._AutoDispatchBelowAutograd": torch._C,
    "torch._C.DisableTorchFunctionSubclass": torch._C,
    "torch._C._dispatch_has_kernel_for_dispatch_key": torch._C,
    "torch.autograd.forward_ad._current_level": forward_ad,
    "torch.Tensor._base": torch.Tensor,
    "torch.optim.LBFGS._numel_cache": torch.optim.LBFGS([torch.zeros(1)]),
}


@pytest.mark.parametrize("name", NAMES)
def test_the_name_is_there(name):
    assert hasattr(NAMES[name], name.rpartition(".")[2]), f"{name} is gone in torch {torch.__version__}: {WHERE}"


def of_torch(source):
    """Private names of torch in a source; those of operators of this package are its own."""
    found = re.findall(r"\b(?:torch|forward_ad)(?:\.\w+)*\._(?!_)\w+|\._(?:numel_cache|base|version)\b", source)
    return [name for name in found if not name.startswith("torch.ops.bumpnet_fast.")]


def test_they_are_in_one_place():
    package = Path(private.__file__).parent
    sources = {path: path.read_text(encoding="utf-8") for path in package.rglob("*.py")}
    assert {path.name for path, source in sources.items() if of_torch(source)} == {"private.py"}


@pytest.mark.parametrize(
    "source", ["torch._C._name()", "torch.optim.lbfgs._cache", "forward_ad._level", "y._base is x"]
)
def test_a_private_name_is_found(source):
    assert of_torch(source) and not of_torch("torch.__version__, torch.ops.bumpnet_fast._cpu_variant(1), self._own")


@pytest.fixture(params=("private", "substitute"))
def way(request, monkeypatch):
    """Every test runs with the names of torch and without them."""
    if request.param == "substitute":
        for name in ("_transforms_active", "_below_autograd", "_without_subclasses", "_has_kernel"):
            monkeypatch.setattr(private, name, None)
        for name in ("_knows_level", "_knows_base"):
            monkeypatch.setattr(private, name, False)
    return request.param


@pytest.mark.parametrize("gone", ["_transforms_active", "_knows_level"])
def test_one_of_two_names_is_not_enough(gone, monkeypatch):
    monkeypatch.setattr(private, gone, None)
    assert not private.under_transform()
    assert torch.func.vmap(lambda x: x + private.under_transform())(torch.zeros(2)).tolist() == [1, 1]
    with forward_ad.dual_level():
        assert private.under_transform()


def test_transforms_are_seen(way):
    seen = []

    def look(x):
        seen.append(private.under_transform())
        return (x * x).sum()

    x = torch.ones(2, requires_grad=True)
    look(x)
    with torch.no_grad():
        look(x)
    assert seen == [False, False]
    for call in (
        lambda: torch.func.vmap(look)(torch.ones(2, 2)),
        lambda: torch.func.grad(look)(torch.ones(2)),
        lambda: torch.func.jvp(look, (torch.ones(2),), (torch.ones(2),)),
        lambda: torch.func.functionalize(look)(torch.ones(2)),
        lambda: torch.func.grad(lambda y: look(torch.ones(3)) + y)(torch.ones(())),
    ):
        seen.clear()
        call()
        assert seen and all(seen)
    with forward_ad.dual_level():
        assert private.under_transform()
    assert not private.under_transform()


def test_derivatives_under_transforms_are_right(way):
    """An operator under forward mode would give zero, and no error."""
    net = BumpNet(2, 9, dtype="float64")
    torch.nn.init.ones_(net.amplitudes.data)
    x = torch.rand(5, 2, dtype=torch.float64)
    gradient = net.jet(x, want="gradient").gradient[:, 0].detach()
    tangent = torch.func.jvp(lambda x: net(x)[:, 0], (x,), (torch.ones_like(x),))[1]
    torch.testing.assert_close(tangent.detach(), gradient.sum(1))
    by_vmap = torch.func.vmap(torch.func.grad(lambda p: net(p[None])[0, 0]))(x)
    torch.testing.assert_close(by_vmap.detach(), gradient)


def test_below_autograd(way):
    rows, frame = torch.zeros(3, 4, requires_grad=True), torch.tensor([[-1.0], [1.0], [1.0]])
    op = torch.ops.bumpnet_fast.jet
    value = private.below_autograd(op, torch.zeros(2, 1), rows, frame, 0, True)[0]
    assert not value.requires_grad and torch.is_grad_enabled()
    assert op(torch.zeros(2, 1), rows, frame, 0, True)[0].requires_grad


def test_a_net_trains_alike(way):
    """The operators' forward and backward pass both ways."""
    rows, frame = torch.linspace(-1, 1, 12).reshape(3, 4), torch.tensor([[-1.0], [1.0]])
    rows = rows.requires_grad_()
    jet = bump_jet(torch.linspace(-1, 1, 7)[:, None], rows, frame, "laplacian")
    (grad,) = torch.autograd.grad(jet.laplacian.square().sum(), rows)
    plain = ops.plain("jet", torch.linspace(-1, 1, 7)[:, None], rows, torch.cat([frame, torch.ones(1, 1)]), 4, True)
    (wanted,) = torch.autograd.grad(plain[2].square().sum(), rows)
    torch.testing.assert_close(grad, wanted, rtol=1e-4, atol=1e-5)


def test_plain_tensors(way):
    class Labelled(torch.Tensor):
        pass

    x = torch.arange(3.0).as_subclass(Labelled)
    with private.plain_tensors():
        assert (x + 1).tolist() == [1, 2, 3]
    assert type(x + 1) is Labelled


def test_who_has_a_kernel(way):
    known = way == "private"
    assert private.has_kernel("bumpnet_fast::jet", "cpu") is (True if known else None)
    assert private.has_kernel("bumpnet_fast::jet", "xpu") is (False if known else None)
    assert parity._compiled_for("compact", "cpu") == (native.missing is None)
    assert parity._compiled_for("compact", "cuda") == (native.missing_cuda is None)


def test_views_are_recognised(way):
    value = torch.rand(5, 3, requires_grad=True) * 2
    other = torch.rand(5, 3, requires_grad=True) * 2
    views = (
        value[:, 1:2],
        value.T,
        value[1],
        value.view(15)[2:],
        value.unbind(1)[0],
        value[:, 1:2][1:],
        value.detach()[1],
    )
    assert [private.is_view(t, value) for t in views] == [True] * 6 + [way == "private" and views[6]._base is value]
    assert not any(private.is_view(t, value) for t in (value, other, other[:, :1], value + 1, value[:, 1:2].clone()))
    changed = value * 1
    assert not private.is_view(changed[:, :1], value)


@pytest.mark.parametrize("change", [1, 5])
def test_lbfgs_counts_anew(way, change):
    """A net that lost or got bumps: the next step would stop at the old number of parameters."""

    class Renamed(torch.optim.LBFGS):
        """As if the cache had another name."""

        @property
        def _numel_cache(self):
            if way == "substitute" and hidden:
                raise AttributeError
            return self.__dict__["cache"]

        @_numel_cache.setter
        def _numel_cache(self, number):
            self.__dict__["cache"] = number

    hidden = []
    net = BumpNet(1, 6)
    optimizer = Renamed([net.rows], 0.25, max_iter=3, history_size=7, line_search_fn="strong_wolfe")
    x = torch.linspace(-1, 1, 20)[:, None]

    def closure():
        optimizer.zero_grad()
        loss = (net(x) - x.sin()).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    settings = {k: v for k, v in optimizer.param_groups[0].items() if k != "params"}
    hidden.append(True)
    adapt.keep_bumps(net, torch.arange(6) < change, optimizer)
    hidden.clear()
    assert {k: v for k, v in optimizer.param_groups[0].items() if k != "params"} == settings
    assert len(net.rows) == change and optimizer.param_groups[0]["params"][0] is net.rows
    before = net.rows.detach().clone()
    optimizer.step(closure)
    assert not torch.equal(net.rows, before) and net.rows.shape == before.shape


#: private.py is loaded first, and alone: torch itself needs the names as soon as an operator is registered.
WITHOUT = """
import importlib.util, sys, types, torch
gone = ("_AutoDispatchBelowAutograd", "_are_functorch_transforms_active", "DisableTorchFunctionSubclass",
        "_dispatch_has_kernel_for_dispatch_key")
whole = torch._C
torch._C = types.SimpleNamespace(**{name: value for name, value in vars(whole).items() if name not in gone})
spec = importlib.util.spec_from_file_location("bumpnet_fast.core.private", sys.argv[1])
private = sys.modules["bumpnet_fast.core.private"] = importlib.util.module_from_spec(spec)
try:
    spec.loader.exec_module(private)
finally:
    torch._C = whole
from bumpnet_fast import BumpNet
from bumpnet_fast.core import ops
from bumpnet_fast.problems.evolution import Heat
from bumpnet_fast.solvers import evolve
assert ops.under_transform is private.under_transform and private._transforms_active is None
BumpNet(1, 5)(torch.zeros(3, 1)).sum().backward()
print(evolve(Heat(), 20).rel_l2 < 1e-6)
"""


def test_the_package_imports_and_trains_without_the_names():
    done = subprocess.run([sys.executable, "-c", WITHOUT, private.__file__], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "True", done.stderr
