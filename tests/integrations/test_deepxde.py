"""DeepXDE takes its derivatives from the jet, and takes its own where that cannot be."""

import copy
import os
import pickle

import numpy as np
import pytest
import torch
from shared_lanes import calls_of_autograd, randomise

os.environ.setdefault("DDE_BACKEND", "pytorch")
dde = pytest.importorskip("deepxde", reason="DeepXDE is not installed: pip install bumpnet_fast[integrations]")

from bumpnet_fast.integrations import deepxde as integration  # noqa: E402

BumpNet = integration.BumpNet


@pytest.fixture(autouse=True)
def double():
    dtype = torch.get_default_dtype()
    dde.config.set_default_float("float64")
    yield
    dde.gradients.clear()
    dde.config.set_default_float(str(dtype).removeprefix("torch."))


def net(fused, outputs=1):
    made = randomise(BumpNet(2, (3, 4), [[-1, 0], [1, 1]], outputs))
    made.fused = fused
    return made


def points(n=7):
    return torch.rand(n, 2, generator=torch.Generator().manual_seed(1)).requires_grad_()


def derivatives(u, x):
    """All that can be asked of an output with two components, and a third derivative."""
    first = [dde.grad.jacobian(u, x, i=k, j=j) for k in range(2) for j in (0, 1, None)]
    second = [dde.grad.hessian(u, x, component=k, i=i, j=j) for k in range(2) for i in range(2) for j in range(2)]
    return first + second + [dde.grad.jacobian(second[1], x, i=0, j=0)]


@pytest.mark.parametrize("training", (True, False))
def test_the_caches_hold_what_autograd_gives(training, monkeypatch):
    results = {}
    for fused in (True, False):
        model, x = net(fused, 2).train(training), points()
        for _ in range(2):  # the second step takes all from one jet
            dde.gradients.clear()
            with calls_of_autograd(monkeypatch) as calls:
                results[fused] = derivatives(model(x), x)
        assert len(calls) == (1 if fused else 7)
    for a, b in zip(*results.values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def burgers(x, u):
    parts = u, dde.grad.jacobian(u, x, i=0, j=0), dde.grad.jacobian(u, x, i=0, j=1), dde.grad.hessian(u, x)
    u, u_x, u_t, u_xx = (part[0] if isinstance(part, tuple) else part for part in parts)  # pairs in forward mode
    return u_t + u * u_x - 0.01 * u_xx


def trained(model, optimizer="adam", iterations=4):
    dde.config.set_random_seed(0)
    box = dde.geometry.GeometryXTime(dde.geometry.Interval(-1, 1), dde.geometry.TimeDomain(0, 1))
    start = dde.icbc.IC(box, lambda x: -np.sin(np.pi * x[:, :1]), lambda _, on_initial: on_initial)
    made = dde.Model(dde.data.TimePDE(box, burgers, [start], num_domain=40, num_initial=10), model)
    made.compile(optimizer, **({"lr": 1e-2} if optimizer == "adam" else {}), verbose=0)
    losses, _ = made.train(iterations=iterations, display_every=1, verbose=0)
    return made, np.array(losses.loss_train)


def test_training_is_the_same_and_calls_no_autograd(monkeypatch):
    with calls_of_autograd(monkeypatch) as calls:
        model, losses = trained(net(True))
    assert not calls and model.net.usual == {60: "diagonal"}
    np.testing.assert_allclose(losses, trained(net(False))[1], rtol=1e-12)


def test_second_order_optimisers_and_forward_mode_get_the_same(monkeypatch):
    for name in ("maxiter", "iter_per_step", "fun_per_step"):  # more would tell rounding errors apart
        monkeypatch.setitem(dde.optimizers.config.LBFGS_options, name, 8)

    def final(fused, optimizer):
        return trained(net(fused), optimizer, 6)[1][-1]

    np.testing.assert_allclose(final(True, "L-BFGS"), final(False, "L-BFGS"), rtol=1e-8)
    reverse = final(True, "adam")
    dde.config.set_default_autodiff("forward")
    try:
        np.testing.assert_allclose(final(True, "adam"), reverse, rtol=1e-10)
    finally:
        dde.config.set_default_autodiff("reverse")


def gradient_by(x, of=None):
    """What a plain backward of a residual leaves in ``of``, by default in ``x``."""
    model = net(True)
    dde.gradients.clear()
    burgers(x, model(x)).square().sum().backward()
    assert model.rows.grad is not None
    return (x if of is None else of).grad


def test_a_plain_backward_spares_sampled_points_only():
    assert gradient_by(points()) is None
    trained_points, scale = torch.nn.Parameter(points().detach()), torch.ones((), requires_grad=True)
    x = points()
    model = net(False)
    burgers(x, model(x)).square().sum().backward()
    torch.testing.assert_close(gradient_by(trained_points), x.grad)
    torch.testing.assert_close(gradient_by(points() * scale, of=scale), (x.grad * x.detach()).sum())


def test_values_alone_are_differentiated_as_ever():
    model, x = net(True), points()
    model(x).sum().backward()
    torch.testing.assert_close(x.grad, model.jet(x, "gradient").gradient[:, 0].detach())


def test_transforms_go_to_autograd_and_are_right():
    results = []
    for fused in (True, False):
        model, x = net(fused, 2), points()
        model.apply_feature_transform(lambda x: 0.5 * x)
        model.apply_output_transform(lambda x, u: x[:, :1] * u)
        results.append(derivatives(model(x), x))
        dde.gradients.clear()
    plain = net(True, 2)
    torch.testing.assert_close(model(x), x[:, :1] * plain(0.5 * x))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def test_an_unknown_version_is_warned_of_and_served_by_autograd(monkeypatch):
    monkeypatch.setattr(integration, "KNOWN", ("0.9",))
    integration._caches.cache_clear()
    try:
        with pytest.warns(UserWarning, match=r"deepxde .* is not among the versions"):
            model, losses = trained(net(True))
        assert not model.net.usual
    finally:
        integration._caches.cache_clear()
    np.testing.assert_allclose(losses, trained(net(False))[1], rtol=1e-12)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda u, x: dde.grad.jacobian(u, x, i=2, j=0), "i must be from 0 to 1, got 2"),
        (lambda u, x: dde.grad.jacobian(u, x, i=0, j=2), "j must be from 0 to 1, got 2"),
        (lambda u, x: dde.grad.hessian(u, x, i=0, j=-1), "j must be from 0 to 1, got -1"),
        (lambda u, x: dde.grad.jacobian(u, x), "cannot be both None"),
    ],
)
def test_an_index_out_of_range_is_refused(ask, message):
    x = points()
    with pytest.raises(ValueError, match=message):
        ask(net(True, 2)(x), x)


def test_a_model_is_saved_copied_and_asked(tmp_path):
    model, _ = trained(net(True))
    path = model.save(str(tmp_path / "model"))
    x = points().detach().numpy()
    u, residual = model.predict(x), model.predict(x, operator=burgers)
    other, _ = trained(net(True), iterations=1)
    other.restore(path)
    np.testing.assert_array_equal(other.predict(x), u)
    np.testing.assert_allclose(other.predict(x, operator=burgers), residual)
    for twin in (copy.deepcopy(model.net), pickle.loads(pickle.dumps(model.net))):
        torch.testing.assert_close(twin(torch.as_tensor(x)).detach().numpy(), u)
