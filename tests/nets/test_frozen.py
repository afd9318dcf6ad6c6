"""Bumps that are not trained: what stays, under which optimisers, and what changes of the net keep the marks."""

import copy
import io
import pickle
import subprocess
import sys

import oracle
import pytest
import torch
from torch import nn

from bumpnet_fast import BumpNet, compile_step
from bumpnet_fast.nets import frozen
from bumpnet_fast.nets.adapt import Pruning, add_bumps, keep_bumps, put_rows, rows_at

M, TRAINED = 9, torch.arange(9) < 4


def net_of(trained=TRAINED, dtype="float64", **options):
    net = BumpNet(2, M, dtype=dtype, **options).perturb_(0.2, torch.Generator().manual_seed(0))
    amplitudes = torch.randn(net.amplitudes.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    net.amplitudes.data.copy_(amplitudes)
    if trained is not None:
        net.trainable = trained
    return net


def assert_held(net, before):
    """Frozen shapes are the same to the last bit; every other number has moved."""
    moved, shapes = net.rows.detach() != before, net.layout.shape_columns
    assert not moved[~TRAINED, :shapes].any()
    assert moved[TRAINED].all() and moved[:, shapes:].all()


def loss_of(net, x):
    return (net(x) - x[:, :1].sin()).square().mean() + 1e-3 * net.sizes.sum()


# --- optimisers ------------------------------------------------------------------------------------------


def optimisers():
    """Every optimiser of torch.optim that takes dense parameters, by name."""
    kinds = {n: c for n, c in vars(torch.optim).items() if isinstance(c, type) and n != "Optimizer"}
    return sorted(n for n, c in kinds.items() if issubclass(c, torch.optim.Optimizer) and n != "SparseAdam")


def stepped(net, optimiser, x, steps=3, loss=loss_of):
    def closure():
        optimiser.zero_grad()
        value = loss(net, x)
        value.backward()
        return value

    for _ in range(steps):
        optimiser.step(closure)


@pytest.mark.parametrize("name", optimisers())
def test_no_optimiser_of_torch_moves_their_shapes(name):
    """Weight decay, moments from before they were frozen, and updates that mix all entries of the matrix included."""
    net, x = net_of(None), oracle.points(2, 30)
    decays = {"LBFGS", "Rprop"}
    options = {} if name in decays else {"weight_decay": 0.1}
    options |= {"momentum": 0.9} if name in ("SGD", "RMSprop") else {}
    optimiser = getattr(torch.optim, name)(net.parameters(), lr=0.01, **options)
    stepped(net, optimiser, x)
    net.trainable, before = TRAINED, net.rows.detach().clone()
    stepped(net, optimiser, x)
    assert_held(net, before)


def test_gradients_that_did_not_come_through_the_net_do_not_move_them():
    net, x = net_of(), oracle.points(2, 30)
    before = net.rows.detach().clone()
    stepped(net, torch.optim.Adam(net.parameters()), x, loss=lambda n, x: loss_of(n, x) + n.rows.square().sum())
    assert_held(net, before)


def test_several_nets_and_other_parameters_in_one_optimiser():
    nets, linear = [net_of(), net_of(None), net_of()], nn.Linear(2, 2, dtype=torch.float64)
    model, x = nn.ModuleList([*nets, linear]), oracle.points(2, 30)
    before = [net.rows.detach().clone() for net in nets]
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.5)
    stepped(nets, optimiser, x, loss=lambda ns, x: sum(loss_of(n, linear(x)) for n in ns))
    assert_held(nets[0], before[0])
    assert_held(nets[2], before[2])
    assert (nets[1].rows != before[1]).all()


def test_a_program_without_them_has_no_hooks():
    code = "import bumpnet_fast as b; from bumpnet_fast.nets.frozen import _hooks as h; n = b.BumpNet(2, 4);"
    code += "a = len(h); n.trainable = [True] * 4; m = len(h); n.trainable = [False] * 4; print(a, m, len(h))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "0", "2"]


# --- gradients -------------------------------------------------------------------------------------------


def test_values_are_the_same_and_only_their_shapes_have_no_gradient(backend):
    net, free, x = net_of(outputs=2), net_of(None, outputs=2), oracle.points(2, 20)
    for call in (lambda n: n(x), lambda n: n.jet(x).hessian, lambda n: n.basis(x, "gradient").gradient,
                 lambda n: n.centres, lambda n: n.peaks, lambda n: n.sharpness):  # fmt: skip
        a, b = call(net), call(free)
        assert torch.equal(a, b)
        (got,), (whole,) = (torch.autograd.grad(v.square().sum(), n.rows) for v, n in ((a, net), (b, free)))
        shapes = net.layout.shape_columns
        assert not got[~TRAINED, :shapes].any()
        assert torch.equal(got[TRAINED], whole[TRAINED]) and torch.equal(got[:, shapes:], whole[:, shapes:])


def test_under_transforms_and_torch_compile():
    net, x = net_of(), oracle.points(2, 5)
    wanted = torch.autograd.grad(net(x).sum(), net.rows)[0]
    rows, buffers = dict(net.named_parameters()), dict(net.named_buffers())

    def value(rows):
        return torch.func.functional_call(net, (rows, buffers), (x,)).sum()

    oracle.assert_close(torch.func.grad(value)(rows)["rows"], wanted, 1e-12)
    both, held = torch.func.stack_module_state([net, net_of(dtype="float64")])
    one = lambda p, b: torch.func.functional_call(net, (p, b), (x,))  # noqa: E731
    oracle.assert_close(torch.vmap(one)(both, held)[0], net(x), 1e-13)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    assert torch.equal(torch.autograd.grad(compiled(x).sum(), net.rows)[0], wanted)


def test_a_compiled_step_gives_them_no_gradient():
    net, free, x = net_of(), net_of(None), oracle.points(2, 20)
    for n in (net, free):
        compile_step(n, lambda u: (u.laplacian - 1).square().mean(), backend="eager")(x)
    shapes = net.layout.shape_columns
    assert not net.rows.grad[~TRAINED, :shapes].any() and free.rows.grad[~TRAINED, :shapes].all()
    assert torch.equal(net.rows.grad[TRAINED], free.rows.grad[TRAINED])


# --- the marks -------------------------------------------------------------------------------------------


def test_all_are_trained_by_default():
    net = BumpNet(2, M)
    assert net.trainable.dtype == torch.bool and net.trainable.shape == (M,) and net.trainable.all()
    assert net._seen() is net.rows, "no operation more than before"


@pytest.mark.parametrize("value, error, message", [
    (torch.ones(M), TypeError, r"trainable must be a bool tensor \[9\], got torch.float32"),
    (torch.ones(3, dtype=torch.bool), ValueError, r"trainable must have shape \[9\], one entry per bump, got \(3,\)"),
    (None, TypeError, "trainable must be a bool tensor .9., got NoneType"),
    ("all", TypeError, "trainable must be a bool tensor .9., got str"),
])  # fmt: skip
def test_bad_marks(value, error, message):
    net = net_of()
    with pytest.raises(error, match=message):
        net.trainable = value
    assert torch.equal(net.trainable, TRAINED)
    if value is not None:
        with pytest.raises((error, AttributeError)):
            BumpNet.from_rows(net.rows, net.frame, net.domain, True, value)


def test_copies_casts_and_files_keep_them():
    net, x = net_of(), oracle.points(2, 30)
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    loaded = BumpNet(2, 4, dtype="float64")
    loaded.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    assigned = BumpNet(2, 5, dtype="float64")
    assigned.load_state_dict(net.state_dict(), assign=True)
    alike = BumpNet.from_rows(net.rows, net.frame, net.domain, True, net.trainable)
    twice = copy.deepcopy(net).float().double()
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), loaded, assigned, alike, twice):
        assert torch.equal(twin.trainable, TRAINED)
        before = twin.rows.detach().clone()
        stepped(twin, torch.optim.AdamW(twin.parameters(), lr=0.01), x)
        assert_held(twin, before)
    alike.trainable = ~TRAINED
    assert torch.equal(net.trainable, TRAINED)


def test_what_was_saved_before_there_were_marks_is_trained_whole():
    state = {name: value for name, value in net_of().state_dict().items() if name != "trainable"}
    net = net_of()
    net.load_state_dict(state)
    assert net.trainable.all() and net.all_trained
    old = net_of(None)
    del old._buffers["trainable"], old.all_trained
    assert pickle.loads(pickle.dumps(old)).trainable.all()


@pytest.mark.parametrize("marks", [torch.ones(M), torch.ones(3, dtype=torch.bool), [True] * M])
def test_marks_that_do_not_fit_are_not_loaded(marks):
    with pytest.raises(RuntimeError, match=r"trainable: must be a bool tensor \[9\]"):
        BumpNet(2, M, dtype="float64").load_state_dict(net_of().state_dict() | {"trainable": marks})


def test_bumps_in_and_out():
    net = net_of()
    keep = torch.tensor([True, False] * 4 + [True])
    keep_bumps(net, keep)
    assert net.trainable.tolist() == TRAINED[keep].tolist()
    add_bumps(net, rows_at(net, torch.tensor([[0.3, 0.3]], dtype=torch.float64)))
    assert net.trainable.tolist() == [*TRAINED[keep].tolist(), True]
    put_rows(net, net.rows[:3].detach())
    assert net.trainable.tolist() == [True] * 3 and net.all_trained
    net.rows = nn.Parameter(net.rows[:2].detach())
    assert net(oracle.points(2, 3)).shape == (3, 1), "rows replaced by hand, where all are trained"
    net = net_of()
    net.rows = nn.Parameter(net.rows[:2].detach())
    with pytest.raises(RuntimeError, match=r"net\.trainable has 9 entries for 2 bumps: where rows are replaced"):
        net(oracle.points(2, 3))


def test_pruning_by_height_leaves_them():
    net = net_of()
    with torch.no_grad():
        net.amplitudes[:, 0] = torch.tensor([1.0, 1e-6, 1.0, 1e-6, 1e-6, 1.0, 1e-6, 1e-6, 1e-6])
    event = Pruning(net, every=1, start=1).step()
    assert (event.before, event.after) == (9, 7) and net.trainable.tolist() == [True] * 2 + [False] * 5


def test_they_are_not_perturbed():
    net, free = net_of(), net_of(None)
    before = net.rows.detach().clone()
    for n in (net, free):
        n.perturb_(0.1, torch.Generator().manual_seed(3))
    assert torch.equal(net.rows[~TRAINED], before[~TRAINED]) and torch.equal(net.rows[TRAINED], free.rows[TRAINED])


def test_words():
    net = net_of()
    assert repr(net) == "BumpNet(dim=2, bumps=9, trained=4, outputs=1, outer='tied', parameters=63, dtype=float64)"
    assert net.check() == [] and frozen.free_parameters(net) == 4 * 7 + 5
    net.trainable[:] = True
    assert any("trainable was changed in place, which gradients do not honour" in text for text in net.check())
    net.trainable = net.trainable
    assert net.check() == [] and net.all_trained
