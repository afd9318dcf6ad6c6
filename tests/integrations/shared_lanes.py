"""What the tests of the integrations share."""

import contextlib

import torch


@contextlib.contextmanager
def calls_of_autograd(monkeypatch):
    """A list that grows by one for every call of ``torch.autograd.grad``."""
    calls, grad = [], torch.autograd.grad
    with monkeypatch.context() as patch:
        patch.setattr(torch.autograd, "grad", lambda *args, **kwargs: calls.append(1) or grad(*args, **kwargs))
        yield calls


def randomise(net):
    """Bumps with nothing special about them, the same for every net of the same layout."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        net.perturb_(0.1, generator).amplitudes.normal_(generator=generator)
    return net
