"""What the integrations share, without the libraries."""

import importlib
from importlib import metadata

import pytest
import torch
from shared_lanes import randomise

from bumpnet_fast import BumpNet
from bumpnet_fast.integrations.lanes import FusedNet, LazyJet, known_version


def points(n=6):
    return torch.rand(n, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()


def net():
    return randomise(FusedNet(2, (3, 4), dtype="float64"))


@pytest.mark.parametrize("library", ("deepxde", "pina", "physicsnemo"))
def test_without_its_library_a_net_is_a_plain_one_and_compiles(library):
    made = randomise(importlib.import_module(f"bumpnet_fast.integrations.{library}").BumpNet(2, 12, dtype="float64"))
    plain, x = BumpNet.from_rows(made.rows, made.frame, made.domain), points()
    torch._dynamo.reset()
    for call in (made, torch.compile(made, fullgraph=True, backend="eager")):
        assert torch.equal(call(x), plain(x))
    made.load_state_dict(plain.state_dict())


def test_a_jet_is_taken_again_only_for_what_it_lacks():
    model, x = net(), points()
    jet = LazyJet(model, x)
    asked = (
        ("gradient", lambda: jet.gradient(0), lambda full: full.gradient[:, 0]),
        ("laplacian", lambda: jet.laplacian(0), lambda full: full.laplacian),
        ("diagonal", lambda: jet.second(0, 1, 1), lambda full: full.dd(1)),
        ("hessian", lambda: jet.second(0, 0, 1), lambda full: full.dd(0, 1)),
    )
    for want, ask, _ in asked:
        got = ask()
        assert jet.jet.want == want and model.usual == {6: want}
    held = jet.jet
    for _, ask, of_full in asked:
        got = ask()
        torch.testing.assert_close(got, of_full(model.jet(x)))
    assert jet.jet is held and LazyJet(model, x).jet.want == "hessian", "the next step has all at once"
    assert LazyJet(model.eval(), x).jet.want == "value"


@pytest.mark.parametrize("spare", ("never", "derivatives", "always"))
@pytest.mark.parametrize("training", (True, False))
def test_the_gradient_by_the_points_is_spared_as_said(spare, training):
    for derivative in (False, True):
        model, x = net().train(training), points()
        jet = LazyJet(model, x, spare)
        (jet.laplacian(0) if derivative else jet.value).sum().backward()
        spared = training and (spare == "always" or (spare == "derivatives" and derivative))
        assert (x.grad is None) == spared and model.rows.grad is not None


@pytest.mark.parametrize("ask", (lambda jet: jet.value, lambda jet: jet.laplacian(0)), ids=("value", "laplacian"))
def test_other_users_of_the_points_have_their_gradients(ask):
    """Nothing is noted on the points: what else is computed from them, by the same net too, is differentiated."""
    model, x = net(), points()
    wanted = torch.autograd.grad(model.jet(x, want="gradient").value.sum(), x)[0]
    jet = LazyJet(model, x, "always")
    before = dict(vars(x))
    (ask(jet).sum() + model(x).sum()).backward()
    torch.testing.assert_close(x.grad, wanted)
    assert vars(x) == before == {} and jet.x is x


def test_a_note_on_a_tensor_drops_no_gradient():
    """An attribute of that name is the user's own affair."""
    x, model = points(), net()
    x.spared = True
    model(x).sum().backward()
    assert x.grad.abs().max() > 0


def test_an_earlier_value_is_spared_once_derivatives_are_asked_for():
    """The backward looks when it runs, which is after the forward of the value."""
    model, x = net(), points()
    jet = LazyJet(model, x, "derivatives")
    value = jet.value
    jet.gradient(0)
    value.sum().backward()
    assert x.grad is None
    (by_x,) = torch.autograd.grad(LazyJet(model, x, "always").value.sum(), x, create_graph=True)
    assert by_x.abs().max() > 0


@pytest.mark.parametrize("of", (lambda x: torch.nn.Parameter(x.detach()), lambda x: 2 * x), ids=("trained", "computed"))
def test_other_points_than_sampled_ones_are_never_spared(of):
    x = of(points())
    x.retain_grad()
    LazyJet(net(), x, "always").laplacian(0).sum().backward()
    assert x.grad is not None


def test_a_version_is_known_by_its_first_numbers():
    version = metadata.version("torch")
    assert known_version("torch", (version.split(".")[0],)) and known_version("torch", ("0.1", version))
    with pytest.warns(UserWarning, match=r"torch .* is not among the versions whose insides are known \(0\.1\)"):
        assert not known_version("torch", ("0.1",))
