"""PhysicsNeMo takes its derivatives from the jet by name, and takes its own where that cannot be."""

import gc
import importlib.metadata

import pytest
import torch
from shared_lanes import calls_of_autograd, randomise

pytest.importorskip(
    "physicsnemo.sym",
    reason="PhysicsNeMo is not installed: pip install bumpnet_fast[physicsnemo]",
    exc_type=ImportError,
)

from physicsnemo import Module
from physicsnemo.sym.eq import gradients
from physicsnemo.sym.eq.pde import PDE
from physicsnemo.sym.eq.phy_informer import PhysicsInformer
from physicsnemo.sym.graph import Graph
from sympy import Function, sin, symbols

from bumpnet_fast.integrations import physicsnemo as integration

BumpNet = integration.BumpNet


class Flow(PDE):
    """Equations with first, second and mixed derivatives of two unknowns."""

    dim = 2

    def __init__(self):
        x, y = symbols("x y")
        u, v = Function("u")(x, y), Function("v")(x, y)
        self.equations = {
            "mass": u.diff(x) + v.diff(y),
            "force": u * u.diff(x) - 0.1 * (u.diff(x, 2) + u.diff(y, 2)) + v,
            "shear": u.diff(x, y) * v.diff(y) - v.diff(y, 2),
        }


class Burgers(PDE):
    """With time, which a PhysicsInformer does not differentiate by, and coordinates in the equation itself."""

    dim = 1

    def __init__(self):
        x, t = symbols("x t")
        u = Function("u")(x, t)
        self.equations = {"burgers": u.diff(t) + u * u.diff(x) - 0.1 * u.diff(x, 2) - t * sin(x)}


def net(fused=True, outputs=2):
    made = randomise(BumpNet(2, (3, 4), [[-1, 0], [1, 1]], outputs, dtype="float64"))
    made.fused = fused
    return made


def points(n=7):
    return torch.rand(n, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()


def informer(*names):
    return PhysicsInformer(list(names), Flow(), grad_method="autodiff")


def residuals(x, u, *names):
    u, v = u.split(1, 1)
    return informer(*names).forward({"coordinates": x, "u": u, "v": v})


@pytest.mark.parametrize(
    ("names", "want"),
    ((["mass"], "gradient"), (["mass", "force"], "diagonal"), (["mass", "force", "shear"], "hessian")),
    ids=("first", "second", "mixed"),
)
def test_an_informer_gets_what_autograd_gives(names, want, monkeypatch):
    results = {}
    for fused in (True, False):
        model, x = net(fused), points()
        for _ in range(2):  # the second step takes all from one jet
            with calls_of_autograd(monkeypatch) as calls:
                parts = residuals(x, model(x), *names)
        assert bool(calls) != fused and model.usual == ({7: want} if fused else {})
        loss = sum(part.square().mean() for part in parts.values())
        loss.backward()
        results[fused] = [*parts.values(), model.rows.grad, x.grad]  # whose loop it is may read the points' gradient
    for a, b in zip(*results.values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


COLUMNS = {
    "slice": lambda u: u[:, 1:2],
    "ellipsis": lambda u: u[..., 1:],
    "split": lambda u: u.split(1, 1)[1],
    "unsqueezed": lambda u: u[:, 1].unsqueeze(1),
}
OTHERS = {
    "square": lambda u: u[:, 1:2] ** 2,
    "points turned": lambda u: u.flip(0)[:, 1:2],
    "in place": lambda u: u.mul_(2)[:, 1:2],
    "column in place": lambda u: u[:, 1:2].mul_(2),
    "one for all": lambda u: u[:1, 1:2].expand(7, 1),
    "sum": lambda u: u.sum(1, keepdim=True),
}


@pytest.mark.parametrize("take", COLUMNS | OTHERS)
def test_a_column_is_recognised_and_nothing_else_is_taken_for_one(take, monkeypatch):
    gradient = gradients.GradientsAutoDiff("v", dim=2, order=1)
    results = []
    for fused in (True, False):
        model, x = net(fused), points()
        u = model(x)
        with calls_of_autograd(monkeypatch) as calls:
            results.append(gradient({"coordinates": x, "v": (COLUMNS | OTHERS)[take](u)}))
        assert bool(calls) == (take in OTHERS or not fused)
    for name, values in results[1].items():
        torch.testing.assert_close(results[0][name], values)


def test_a_single_output_is_its_own_column_until_it_is_changed(monkeypatch):
    gradient = gradients.GradientsAutoDiff("u", dim=2, order=1)
    for change in (False, True):
        model, x = net(outputs=1), points()
        u = model(x).mul_(2) if change else model(x)
        with calls_of_autograd(monkeypatch) as calls:
            u_x = gradient({"coordinates": x, "u": u})["u__x"]
        assert bool(calls) == change
        torch.testing.assert_close(u_x, model.jet(x, "gradient").d(0) * (1 + change))


def test_an_output_at_other_points_is_not_taken_for_the_latest():
    results = []
    for fused in (True, False):
        model, x, other = net(fused), points(), points() * 0.5
        u = model(x)
        model(other)
        results.append(residuals(x, u, "force")["force"])
    torch.testing.assert_close(*results)


def test_the_net_as_a_node_names_time_and_coordinates(monkeypatch):
    model, x = net(outputs=1), points()
    equations = Burgers().make_computations()
    node = model.computation(equations, ["u"], ["x", "t"])
    assert node.outputs == ["t", "u", "u__t", "u__x", "u__x__x", "x"] and node.evaluate.want == "diagonal"
    graph = Graph([node, *equations], ["coordinates"], ["burgers"])
    with calls_of_autograd(monkeypatch) as calls:
        residual = graph({"coordinates": x.detach()})["burgers"]
    residual.square().mean().backward()
    assert not calls and model.rows.grad is not None
    plain = net(False, 1)
    u = plain(x)
    first = torch.autograd.grad(u.sum(), x, create_graph=True)[0]
    second = torch.autograd.grad(first[:, 0].sum(), x, create_graph=True)[0][:, :1]
    expected = first[:, 1:] + u * first[:, :1] - 0.1 * second - x[:, 1:] * x[:, :1].sin()
    expected.square().mean().backward()
    torch.testing.assert_close(residual, expected)
    torch.testing.assert_close(model.rows.grad, plain.rows.grad)


def test_the_node_and_an_informer_agree_on_two_outputs():
    model, x, equations = net(), points(), Flow().make_computations()
    names = ["mass", "force", "shear"]
    node = model.computation(equations, "uv", "xy")
    ours = Graph([node, *equations], ["coordinates"], names)({"coordinates": x})
    for name, values in residuals(x, model(x), *names).items():
        torch.testing.assert_close(ours[name], values)


class Third(PDE):
    dim = 2

    def __init__(self):
        x, y = symbols("x y")
        self.equations = {"third": Function("u")(x, y).diff(x, 3)}


@pytest.mark.parametrize(
    ("equations", "outputs", "coordinates", "message"),
    [
        (Flow, ["u"], ["x", "y"], r"outputs must be 2 different names, got \['u'\]"),
        (Flow, ["u", "u"], ["x", "y"], "outputs must be 2 different names"),
        (Flow, ["u", "v"], ["x", "y", "z"], "coordinates must be 2 different names"),
        (Flow, ["u", "v"], ["x", "t"], "at most the second by x, t, got u__"),
        (Third, ["u", "v"], ["x", "y"], "at most the second by x, y, got u__x__x__x"),
    ],
)
def test_names_that_do_not_fit_are_refused(equations, outputs, coordinates, message):
    with pytest.raises(ValueError, match=message):
        net().computation(equations().make_computations(), outputs, coordinates)


def test_a_checkpoint_of_physicsnemo_holds_the_net(tmp_path):
    wrapped = Module.from_torch(BumpNet, register=True, name="BumpNetOfTheTests")
    model, x = wrapped(dim=2, bumps=12, outputs=2, dtype="float64"), points()
    randomise(model.inner_model)
    model.save(str(tmp_path / "net.mdlus"))
    loaded = Module.from_checkpoint(str(tmp_path / "net.mdlus"))
    torch.testing.assert_close(loaded(x), model(x), rtol=0, atol=0)
    torch.testing.assert_close(residuals(x, loaded(x), "force"), residuals(x, model(x), "force"))


def test_a_net_that_is_gone_leaves_nothing_behind():
    gc.collect()
    before = len(integration._LATEST)
    model = net()
    model(points())
    assert len(integration._LATEST) == before + 1
    del model
    gc.collect()
    assert len(integration._LATEST) == before


@pytest.mark.parametrize("change", ("version", "parameters"))
def test_another_physicsnemo_is_warned_of_and_left_alone(change, monkeypatch):
    version = importlib.metadata.version("nvidia-physicsnemo")
    message = f"nvidia-physicsnemo {version} is not among the versions"
    if change == "version":
        monkeypatch.setattr(integration, "KNOWN", ("0.1",))
    else:
        monkeypatch.setattr(gradients.GradientsAutoDiff, "__init__", lambda self, invar: None)
        message = "GradientsAutoDiff has other parameters"
    before = gradients.GradientsAutoDiff.forward
    integration._wrap_gradients.cache_clear()
    x = points()
    try:
        with pytest.warns(UserWarning, match=message):
            u = net()(x)
        assert gradients.GradientsAutoDiff.forward is before
    finally:
        monkeypatch.undo()
        integration._wrap_gradients.cache_clear()
    torch.testing.assert_close(residuals(x, u, "force"), residuals(x, net(False)(x), "force"))
