"""PINA's operators are served from the jet where the output is the net's, and are PINA's own where it is not."""

import gc
import importlib.metadata
import logging

import pytest
import torch
from shared_lanes import calls_of_autograd, randomise

pytest.importorskip("pina", reason="PINA is not installed: pip install bumpnet_fast[integrations]")

from pina import LabelTensor, Trainer
from pina.operator import advection, div, grad, laplacian
from pina.problem.zoo import BurgersProblem, Poisson2DSquareProblem
from pina.solver import PhysicsInformedSingleModelSolver

from bumpnet_fast.integrations import pina as integration

BumpNet = integration.BumpNet


@pytest.fixture(autouse=True)
def double():
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(dtype)


def net(fused, outputs=1):
    made = randomise(BumpNet(2, (3, 4), [[0, 0], [1, 1]], outputs))
    made.fused = fused
    return made


def evaluated(model, labels=("y", "x"), outputs=("u", "v")):
    """Points with their labels in another order than the net's, and the output, both as PINA's solvers make them."""
    values = torch.rand(7, 2, generator=torch.Generator().manual_seed(1))
    points = LabelTensor(values, list(labels)).requires_grad_()
    u = model(points.extract(["x", "y"])).as_subclass(LabelTensor)
    u.labels = list(outputs)
    return points, u


OPERATORS = {
    "all": lambda x, u: grad(u, x),
    "some": lambda x, u: grad(u, x, components=["v"], d=["y"]),
    "mixed": lambda x, u: grad(grad(u, x, components=["u", "v"]), x, components=["dudy", "dvdx"], d=["x", "y"]),
    "third": lambda x, u: grad(laplacian(u, x, components=["v"]), x, components=["ddv"]),
    "laplacian": lambda x, u: laplacian(u, x),
    "axis": lambda x, u: laplacian(u, x, components=["v"], d=["x"]),
    "divgrad": lambda x, u: laplacian(u, x, method="divgrad"),
    "div": lambda x, u: div(u, x, components=["u", "v"], d=["x", "y"]),
    "advection": lambda x, u: advection(u, x, velocity_field=["u", "v"], components=["u"], d=["x", "y"]),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_gives_what_autograd_gives(name, monkeypatch):
    results = []
    for fused in (True, False):
        model = net(fused, 2)
        for _ in range(2):  # the second step takes all from one jet
            with calls_of_autograd(monkeypatch) as calls:
                results.append(OPERATORS[name](*evaluated(model)))
        assert bool(calls) == (not fused or name == "third"), len(calls)
    ours, theirs = results[1], results[3]
    assert ours.labels == theirs.labels
    torch.testing.assert_close(ours.tensor, theirs.tensor, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("make", "want"),
    ((Poisson2DSquareProblem, "laplacian"), (lambda: BurgersProblem(nu=0.01), "diagonal")),
    ids=("poisson", "burgers"),
)
def test_training_is_the_same_and_calls_no_autograd(make, want, monkeypatch):
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    problem, losses = make(), {}
    problem.discretise_domain(30, "random", domains="D")
    problem.discretise_domain(10, "random", domains=[name for name in problem.domains if name != "D"])
    for fused in (True, False):
        solver = PhysicsInformedSingleModelSolver(problem, net(fused))
        trainer = Trainer(
            solver,
            max_epochs=4,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        with calls_of_autograd(monkeypatch) as calls:
            trainer.train()
        assert bool(calls) != fused and solver.model.usual == ({30: want} if fused else {})
        losses[fused] = float(trainer.callback_metrics["train_loss"])
    assert losses[True] == pytest.approx(losses[False], rel=1e-10)


@pytest.mark.parametrize(
    "change",
    (
        lambda x, u: (x, LabelTensor(u.tensor**2, u.labels)),
        lambda x, u: (x, u.extract(["v"])),
        lambda x, u: (x, _doubled(u)),
    ),
    ids=("square", "one of them", "in place"),
)
def test_another_function_is_not_taken_for_the_output(change):
    results = []
    for fused in (True, False):
        x, u = change(*evaluated(net(fused, 2)))
        results.append(grad(u, x).tensor)
    torch.testing.assert_close(*results)


def _doubled(u):
    u *= 2
    return u


def test_points_in_another_order_are_not_taken_for_the_points():
    results = []
    for fused in (True, False):
        points, _ = evaluated(net(False), outputs=["u"])
        u = net(fused)(LabelTensor(points.tensor.flip(0), ["y", "x"]).extract(["x", "y"])).as_subclass(LabelTensor)
        u.labels = ["u"]
        results.append(grad(u, points).tensor)
    torch.testing.assert_close(*results)
    assert results[0].abs().max() > 0


def test_a_gradient_changed_in_place_is_not_taken_for_what_it_was():
    results = []
    for fused in (True, False):
        x, u = evaluated(net(fused), outputs=["u"])
        g = grad(u, x)
        results.append(grad(_doubled(g), x).tensor)
    torch.testing.assert_close(*results)


def test_a_plain_backward_spares_the_points_and_one_with_a_graph_does_not():
    model = net(True)
    x, u = evaluated(model, outputs=["u"])
    laplacian(u, x).tensor.square().sum().backward()
    assert x.grad is None and model.rows.grad is not None
    x, u = evaluated(model, outputs=["u"])
    u.tensor.sum().backward()  # on the boundary nothing is asked but values
    assert x.grad is None
    by_points = []
    for fused in (True, False):
        x, u = evaluated(net(fused), outputs=["u"])
        loss = laplacian(u, x).tensor.square().sum()
        by_points.append(torch.autograd.grad(loss, x, create_graph=True)[0].tensor)
    torch.testing.assert_close(*by_points)


def test_a_net_that_is_gone_leaves_nothing_behind():
    gc.collect()
    before = len(integration._LATEST)
    model = net(True)
    grad(*reversed(evaluated(model, outputs=["u"])))
    assert len(integration._LATEST) == before + 1
    del model
    gc.collect()
    assert len(integration._LATEST) == before


def test_an_unknown_version_is_warned_of_and_left_alone(monkeypatch):
    monkeypatch.setattr(integration, "KNOWN", ("0.1",))
    integration._wrap_operators.cache_clear()
    version = importlib.metadata.version("pina-mathlab")
    try:
        with pytest.warns(UserWarning, match=f"pina-mathlab {version} is not among the versions"):
            x, u = evaluated(net(True), outputs=["u"])
    finally:
        monkeypatch.undo()
        integration._wrap_operators.cache_clear()
    torch.testing.assert_close(grad(u, x).tensor, grad(*reversed(evaluated(net(False), outputs=["u"]))).tensor)


def test_operators_of_another_shape_are_an_error_and_left_alone(monkeypatch):
    from pina._src.core import operator

    def fast_laplacian(output_, input_):
        return output_

    integration._wrap_operators.cache_clear()
    before = operator.fast_grad
    monkeypatch.setattr(operator, "fast_laplacian", fast_laplacian)
    try:
        with pytest.warns(UserWarning, match="fast_laplacian has other parameters"):
            evaluated(net(True), outputs=["u"])
        assert operator.fast_grad is before and operator.fast_laplacian is fast_laplacian
    finally:
        monkeypatch.undo()
        integration._wrap_operators.cache_clear()
