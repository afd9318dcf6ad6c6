"""compile_step: the loss and the gradient of autograd, without autograd."""

import shutil

import pytest
import torch

from bumpnet_fast import BumpNet, use_backend
from bumpnet_fast.nets import adapt
from bumpnet_fast.nets.step import compile_step

POINTS = 50
LOSSES = {
    "value": lambda u, f: (u.value - f).square().mean(),
    "gradient": lambda u, f: (u.gradient.sum(-1) * u.value - f).square().mean(),
    "diagonal": lambda u, f: (u.dd(0) + u.value * u.d(0) - f).square().mean(),
    "hessian": lambda u, f: (u.hessian.square().sum((-1, -2)) - f).abs().mean(),
    "laplacian": lambda u, f: (u.laplacian + u.value**3 - f).square().mean(),
}


def problem(dim=2, dtype=torch.float64, **options):
    net = BumpNet(dim, 9, dtype=dtype, **options)
    generator = torch.Generator().manual_seed(0)
    net.perturb_(0.1, generator)
    with torch.no_grad():
        net.amplitudes.copy_(torch.randn(net.amplitudes.shape, generator=generator))
    x = 2 * torch.rand(POINTS, dim, generator=generator, dtype=dtype) - 1
    return net, x, torch.randn(POINTS, net.layout.outputs, generator=generator, dtype=dtype)


def by_autograd(net, x, f, want):
    loss = LOSSES[want](net.jet(x, want=want), f)
    return loss.detach(), torch.autograd.grad(loss, net.rows)[0]


def agree(net, x, f, want, step, rtol=1e-12):
    expected, gradient = by_autograd(net, x, f, want)
    loss = step(x, f)
    assert not loss.requires_grad and net.rows.grad.dtype == net.rows.dtype
    torch.testing.assert_close(loss, expected, rtol=rtol, atol=0)
    torch.testing.assert_close(net.rows.grad, gradient, rtol=rtol, atol=rtol * gradient.abs().max().item())


@pytest.mark.parametrize("want", LOSSES)
def test_loss_and_gradient(backend, want):
    net, x, f = problem()
    step = compile_step(net, LOSSES[want], want, backend="eager")
    agree(net, x, f, want, step)
    agree(net, x, 2 * f, want, step)  # replaced, not added to


@pytest.mark.parametrize("options", [{"dim": 1, "outer": "free"}, {"dim": 3, "outputs": 2}, {"dim": 5}], ids=str)
def test_other_nets(options):
    net, x, f = problem(**options)
    agree(net, x, f, "laplacian", compile_step(net, LOSSES["laplacian"], backend="eager"))


def test_float32_and_the_forced_reference():
    net, x, f = problem(dtype=torch.float32)
    step = compile_step(net, LOSSES["laplacian"], backend="eager")
    agree(net, x, f, "laplacian", step, 1e-5)
    with use_backend("reference"):
        agree(net, x, f, "laplacian", step, 1e-5)


def test_bumps_may_go_between_steps():
    net, x, f = problem()
    step = compile_step(net, LOSSES["laplacian"], backend="eager")
    step(x, f)
    keep = torch.arange(9) % 2 == 0
    adapt.keep_bumps(net, keep)
    agree(net, x[:7], f[:7], "laplacian", step)


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled():
    net, x, f = problem()
    agree(net, x, f, "laplacian", compile_step(net, LOSSES["laplacian"]))


def test_what_would_get_no_gradient_is_refused():
    net, x, f = problem()
    step = compile_step(net, LOSSES["value"], "value", backend="eager")
    for arguments in ((x.requires_grad_(), f), (x.detach(), f.requires_grad_())):
        with pytest.raises(ValueError, match="must not require gradients"):
            step(*arguments)
    assert net.rows.grad is None


def test_mistakes():
    net, x, f = problem()
    with pytest.raises(ValueError, match="want must be one of"):
        compile_step(net, LOSSES["value"], "laplace")
    with pytest.raises(TypeError, match="x must have the dtype"):
        compile_step(net, LOSSES["value"], "value", backend="eager")(x.float(), f)
