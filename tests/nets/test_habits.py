"""What people do with any ``nn.Module`` of PyTorch, done with a BumpNet; test_layer.py and test_ops.py hold more."""

import copy
import math

import oracle
import pytest
import torch
from residual_module import Residual, net_of, target
from torch import nn
from torch.nn.utils import parametrize, prune

from bumpnet_fast import BumpNet
from bumpnet_fast.nets.adapt import add_bumps, keep_bumps

STEPS = 30


def misfit(net, x):
    return (net(x) - target(x)).square().mean()


# --- optimisers ------------------------------------------------------------------------------------------


def optimisers():
    """Every optimiser of torch.optim that takes dense parameters, by name."""
    classes = {name: c for name, c in vars(torch.optim).items() if isinstance(c, type)}
    kinds = {
        n: c for n, c in classes.items() if issubclass(c, torch.optim.Optimizer) and c is not torch.optim.Optimizer
    }
    return sorted(kinds.keys() - {"SparseAdam"})


@pytest.mark.parametrize("name", optimisers())
def test_every_optimiser_of_torch_trains_it(name):
    net, x = BumpNet(2, 16, dtype="float64"), oracle.points(2, 60)
    slow = {"Adadelta": 1.0, "SGD": 0.3, "ASGD": 0.3, "Adagrad": 0.1, "LBFGS": 1.0, "RAdam": 0.1}
    extra = {"LBFGS": dict(max_iter=2, line_search_fn="strong_wolfe")}
    optimiser = getattr(torch.optim, name)(net.parameters(), lr=slow.get(name, 0.02), **extra.get(name, {}))

    def closure():
        optimiser.zero_grad()
        loss = misfit(net, x)
        loss.backward()
        return loss

    first = closure().item()
    for _ in range(STEPS):
        optimiser.step(closure)
    assert closure().item() < 0.8 * first


@pytest.mark.parametrize("options", (dict(fused=True), dict(foreach=True), dict(capturable=False, amsgrad=True)))
def test_forms_of_adam_agree(options):
    nets = [net_of(), net_of()]
    x = oracle.points(2, 20)
    for net, chosen in zip(nets, (options, options | dict(fused=False, foreach=False)), strict=True):
        optimiser = torch.optim.Adam(net.parameters(), lr=1e-2, **chosen)
        for _ in range(5):
            optimiser.zero_grad()
            misfit(net, x).backward()
            optimiser.step()
    oracle.assert_close(nets[0].rows, nets[1].rows, 1e-10)


def test_clipping_averaging_and_schedules():
    net, x = net_of(), oracle.points(2, 20)
    average = torch.optim.swa_utils.AveragedModel(
        net, avg_fn=lambda mean, new, count: mean + (new - mean) / (count + 1)
    )
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, 1, 0.5)
    seen = []
    for _ in range(3):
        optimiser.zero_grad()
        misfit(net, x).backward()
        norm = net.rows.grad.norm().item()
        assert nn.utils.clip_grad_norm_(net.parameters(), 1e-3).item() == pytest.approx(norm, rel=1e-12)
        assert net.rows.grad.norm().item() == pytest.approx(1e-3, rel=1e-3)
        optimiser.step()
        schedule.step()
        average.update_parameters(net)
        seen.append(net.rows.detach().clone())
    oracle.assert_close(average.module.rows, torch.stack(seen).mean(0), 1e-12)
    assert average(x).shape == (20, 1)
    assert nn.utils.get_total_norm([net.rows.grad]).item() == pytest.approx(1e-3, rel=1e-3)


def test_a_vector_of_parameters_and_back():
    net, other = net_of(), BumpNet(2, 9, dtype="float64")
    nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(net.parameters()), other.parameters())
    assert torch.equal(net.rows, other.rows)


def test_autocast_and_a_scaler_of_gradients():
    """Mixed precision around a bigger module: the Linear is low, the bumps keep their dtype, and it trains."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), BumpNet(2, 9, [[-3, -3], [3, 3]], dtype="float32"))
    scaler = torch.amp.GradScaler("cpu")
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-2)
    x, losses = oracle.points(2, 40).float(), []
    for _ in range(STEPS):
        optimiser.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = model(x)
            assert model[0](x).dtype == torch.bfloat16 and out.dtype == torch.float32
            loss = (out - target(x)).square().mean()
        scaler.scale(loss).backward()
        scaler.unscale_(optimiser)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimiser)
        scaler.update()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


# --- hooks, parametrizations, pruning of torch's own ----------------------------------------------------------


def hooked(module, parameter, x):
    """What hooks of every kind see of ``module(x)`` and its gradient, in order, and the gradient that they triple."""
    seen = []
    handles = [
        module.register_forward_pre_hook(lambda m, args: seen.append("before")),
        module.register_forward_hook(lambda m, args, out: seen.append("after") or 2 * out),
        module.register_full_backward_pre_hook(lambda m, gout: seen.append(f"backward of {tuple(gout[0].shape)}")),
        module.register_full_backward_hook(lambda m, gin, gout: seen.append(f"backward to {tuple(gin[0].shape)}")),
        parameter.register_hook(lambda g: seen.append("gradient") or 3 * g),
        parameter.register_post_accumulate_grad_hook(lambda p: seen.append(f"done {p.grad is not None}")),
    ]
    module(x.requires_grad_()).sum().backward()
    for handle in handles:
        handle.remove()
    gradient, parameter.grad = parameter.grad, None
    return seen, gradient


def test_hooks_see_what_they_see_of_a_linear_layer():
    net, linear, x = net_of(), nn.Linear(2, 1, bias=False, dtype=torch.float64), oracle.points(2, 5)
    seen, gradient = hooked(net, net.rows, x)
    assert seen == hooked(linear, linear.weight, x)[0] and len(seen) == 6
    oracle.assert_close(gradient, 6 * torch.autograd.grad(net(x).sum(), net.rows)[0], 1e-13)


class Held(nn.Module):
    """The first columns stay at a given value."""

    def __init__(self, value):
        super().__init__()
        self.register_buffer("value", value.detach().clone())

    def forward(self, rows):
        return torch.cat([self.value, rows[:, self.value.shape[1] :]], 1)


def test_a_parametrization_reaches_values_jets_and_gradients():
    net, x = net_of(), oracle.points(2, 10)
    fixed = net_of(seed=1).rows[:, :2]
    plain = BumpNet.from_rows(torch.cat([fixed, net.rows[:, 2:]], 1), net.frame, net.domain)
    parametrize.register_parametrization(net, "rows", Held(fixed))
    assert torch.equal(net(x), plain(x)) and torch.equal(net.jet(x).hessian, plain.jet(x).hessian)
    assert torch.equal(net.centres, plain.centres) and net.check() == plain.check()
    Residual(net)(x).mean().backward()
    Residual(plain)(x).mean().backward()
    original = net.parametrizations.rows.original
    oracle.assert_close(original.grad[:, 2:], plain.rows.grad[:, 2:], 1e-13)
    assert not original.grad[:, :2].any()
    twin = net_of()
    parametrize.register_parametrization(twin, "rows", Held(torch.zeros_like(fixed)))
    twin.load_state_dict(net.state_dict())
    assert torch.equal(twin(x), net(x)) and torch.equal(copy.deepcopy(net)(x), net(x))
    parametrize.remove_parametrizations(net, "rows")
    assert isinstance(net.rows, nn.Parameter) and torch.equal(net(x), plain(x))


@pytest.mark.parametrize("change", [
    lambda net: net.perturb_(0.1),
    lambda net: keep_bumps(net, torch.tensor([True] * 8 + [False])),
    lambda net: add_bumps(net, torch.zeros(1, 7, dtype=torch.float64)),
])  # fmt: skip
@pytest.mark.parametrize("wrap", [
    lambda net: parametrize.register_parametrization(net, "rows", Held(net.rows[:, :2])),
    lambda net: prune.l1_unstructured(net, "rows", 0.5),
])  # fmt: skip
def test_rows_that_are_computed_cannot_be_changed_in_place(wrap, change):
    """A change of what is recomputed at the next look would be lost without a word."""
    net = net_of()
    wrap(net)
    before = net.rows.detach().clone()
    with pytest.raises(RuntimeError, match=r"rows must be a parameter .*remove_parametrizations or .*prune\.remove"):
        change(net)
    assert torch.equal(net.rows, before)


def test_torch_prune_masks_values_and_jets_are_refused_until_it_is_made_permanent():
    """torch.nn.utils.prune recomputes the rows in a hook of ``__call__``, which ``jet`` does not run."""
    net, x = net_of(), oracle.points(2, 5)
    prune.l1_unstructured(net, "rows", 0.5)
    assert int((net.rows == 0).sum()) == round(net.rows.numel() / 2)
    net(x).sum().backward()
    assert not net.rows_orig.grad[net.rows_mask == 0].any()
    for ask in (net.jet, net.basis, lambda x: net.design((None, None, None), x, "value")):
        with pytest.raises(RuntimeError, match=r"rows is computed by a hook .*prune\.remove\(net, 'rows'\)"):
            ask(x)
    value = net(x)
    prune.remove(net, "rows")
    assert torch.equal(net.jet(x, "value").value, value)


# --- devices without data ------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [
    lambda: BumpNet(2, 9, device="meta").to_empty(device="cpu"),
    lambda: nn.utils.skip_init(BumpNet, 2, 9),
])  # fmt: skip
def test_a_net_without_values_gets_them_from_a_checkpoint(make):
    source, net, x = net_of(dtype="float32", bumps=4), make(), oracle.points(2, 5).float()
    assert {t.device.type for t in net.state_dict().values()} == {"cpu"}
    net.load_state_dict(source.state_dict())
    assert torch.equal(net.jet(x).hessian, source.jet(x).hessian) and torch.equal(net.boxes(), source.boxes())


def test_the_meta_device_knows_shapes():
    with torch.device("meta"):
        net = BumpNet(2, 9, outputs=3)
    assert {p.device.type for p in (net.rows, net.frame, net.domain)} == {"meta"}
    x = torch.empty(5, 2, device="meta", requires_grad=True)
    jet = net.jet(x)
    assert jet.hessian.shape == (5, 3, 2, 2) and jet.hessian.device.type == "meta"
    gx, grows = torch.autograd.grad(jet.laplacian.sum(), (x, net.rows))
    assert gx.shape == (5, 2) and grows.shape == net.rows.shape
    assert net.boxes().shape == (9, 4, 2) and "bumps=9" in repr(net)
    source = net_of(outputs=3, dtype="float32")
    net.load_state_dict(source.state_dict(), assign=True)
    assert torch.equal(net(torch.zeros(1, 2)), source(torch.zeros(1, 2)))


# --- torch.func on the module ------------------------------------------------------------------------------


def test_torch_func_on_parameters_and_points():
    net, x = net_of(bumps=3), oracle.points(2, 4)
    rows, frame = dict(net.named_parameters()), dict(net.named_buffers())

    def u(parameters, x):
        return torch.func.functional_call(net, (parameters, frame), (x,))

    def at(point):
        return u(rows, point[None])[0, 0]

    jet = net.jet(x)
    oracle.assert_close(torch.vmap(torch.func.grad(at))(x), jet.gradient[:, 0], 1e-12)
    oracle.assert_close(torch.vmap(torch.func.hessian(at))(x), jet.hessian[:, 0], 1e-11)
    by_rows = torch.func.jacrev(u)(rows, x)["rows"]
    oracle.assert_close(torch.func.jacfwd(u)(rows, x)["rows"], by_rows, 1e-12)
    direction = {"rows": torch.ones_like(net.rows)}
    tangent = torch.func.jvp(lambda p: u(p, x), (rows,), (direction,))[1]
    oracle.assert_close(tangent, by_rows.sum((-1, -2)), 1e-12)
    value, pullback = torch.func.vjp(lambda p: u(p, x), rows)
    oracle.assert_close(pullback(torch.ones_like(value))[0]["rows"], by_rows.sum((0, 1)), 1e-12)
    per_sample = torch.vmap(torch.func.grad(lambda p, x: u(p, x[None]).square().sum()), (None, 0))(rows, x)
    oracle.assert_close(per_sample["rows"], 2 * jet.value[:, :, None] * by_rows[:, 0], 1e-12)
    curvature = torch.func.hessian(lambda p: u(p, x).square().sum())(rows)["rows"]["rows"].flatten(2).flatten(0, 1)
    oracle.assert_close(curvature, curvature.mT, 1e-11)


def test_linearize_and_forward_over_reverse():
    net, x = net_of(bumps=3), oracle.points(2, 4)
    value, push = torch.func.linearize(net, x)
    oracle.assert_close(value, net(x), 1e-14)
    oracle.assert_close(push(torch.ones_like(x)), net.jet(x, "gradient").gradient.sum(-1), 1e-12)


# --- compile and export --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dynamic, most", ((None, 2), (True, 1)))
def test_compiling_for_many_sizes_compiles_at_most_twice(dynamic, most):
    """One graph for the first size and one for all others, as for any module; a single one if told so at once."""
    compilations = []

    def count(graph, inputs):
        compilations.append(graph)
        return graph.forward

    torch._dynamo.reset()
    residual = Residual(net_of())
    compiled = torch.compile(residual, fullgraph=True, dynamic=dynamic, backend=count)
    for n in (5, 7, 12, 33, 2):
        x = oracle.points(2, n)
        oracle.assert_close(compiled(x), residual(x), 1e-12)
    assert len(compilations) <= most


def compilations_of(module):
    """How often ``module`` is compiled for points of many sizes, with and without gradients, in both modes."""
    compilations = []

    def count(graph, inputs):
        compilations.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, backend=count)
    for training in (True, False):
        module.train(training)
        for grad in (True, False):
            for by_points in (True, False):
                for n in (5, 7, 12):
                    with torch.set_grad_enabled(grad):
                        x = oracle.points(2, n).requires_grad_(by_points)
                        oracle.assert_close(compiled(x), module(x), 1e-13)
    return len(compilations)


def test_compiling_starts_again_no_more_often_than_for_a_linear_layer():
    assert compilations_of(net_of()) <= compilations_of(nn.Linear(2, 1, dtype=torch.float64)) <= 8


def test_compiling_does_not_start_again_for_steps_states_or_pruning():
    compilations = []

    def count(graph, inputs):
        compilations.append(graph)
        return graph.forward

    torch._dynamo.reset()
    net, x = net_of(), oracle.points(2, 20)
    residual = Residual(net)
    compiled = torch.compile(residual, fullgraph=True, backend=count)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(4):
        optimiser.zero_grad()
        compiled(x).mean().backward()
        optimiser.step()
    net.load_state_dict(net_of(seed=5).state_dict())
    oracle.assert_close(compiled(x), residual(x), 1e-12)
    assert len(compilations) == 1, "neither steps nor loading"
    for kept in (8, 7, 6):
        keep_bumps(net, torch.arange(len(net.rows)) < kept, optimiser)
        optimiser.zero_grad()
        compiled(x).mean().backward()
        optimiser.step()
        oracle.assert_close(compiled(x), residual(x), 1e-12)
    assert len(compilations) <= 4, "once per pruning at most"


@pytest.mark.parametrize("strict", (False, True))
def test_export_with_any_number_of_points(strict, tmp_path):
    residual, x = Residual(net_of()), oracle.points(2, 6)
    shapes = {"x": {0: torch.export.Dim("points", min=1)}}
    program = torch.export.export(residual, (x,), dynamic_shapes=shapes, strict=strict)
    torch.export.save(program, tmp_path / "net.pt2")
    loaded = torch.export.load(tmp_path / "net.pt2").module()
    for n in (1, 6, 50):
        x = oracle.points(2, n)
        oracle.assert_close(loaded(x), residual(x), 1e-13)
    with pytest.raises((RuntimeError, AssertionError)):
        loaded(torch.zeros(4, 3, dtype=torch.float64))


# --- two processes ---------------------------------------------------------------------------------------------


def rank(index, folder, world=2):
    """One process of two: its half of the points, through DistributedDataParallel."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=index, world_size=world)
    try:
        net = net_of(seed=index)  # differs by process: DDP hands out that of process 0
        module = nn.parallel.DistributedDataParallel(Residual(net))
        optimiser = torch.optim.Adam(module.parameters(), lr=1e-2)
        for _ in range(3):
            optimiser.zero_grad()
            module(oracle.points(2, 20)[index::world]).mean().backward()
            optimiser.step()
        torch.save({"rows": net.rows.detach(), "grad": net.rows.grad}, f"{folder}/{index}.pt")
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="PyTorch without torch.distributed")
def test_two_processes_train_as_one(tmp_path):
    torch.multiprocessing.spawn(rank, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{i}.pt") for i in range(2))
    assert torch.equal(first["rows"], second["rows"]) and torch.equal(first["grad"], second["grad"])
    alone = net_of()
    optimiser = torch.optim.Adam(alone.parameters(), lr=1e-2)
    for _ in range(3):
        optimiser.zero_grad()
        Residual(alone)(oracle.points(2, 20)).mean().backward()
        optimiser.step()
    oracle.assert_close(first["rows"], alone.rows, 1e-9)
    assert math.isfinite(first["grad"].norm())
