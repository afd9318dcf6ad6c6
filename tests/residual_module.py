"""A net and a loss with second derivatives as a module, for tests of what people do with modules."""

import torch
from torch import nn

from bumpnet_fast import BumpNet


def net_of(bumps=9, seed=0, dtype="float64", **options):
    """A net whose bumps differ and have amplitudes."""
    net = BumpNet(2, bumps, dtype=dtype, **options).perturb_(0.2, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        net.amplitudes.copy_(torch.linspace(-1, 1, net.amplitudes.numel()).view_as(net.amplitudes))
    return net


def target(x):
    return torch.sin(3 * x[:, :1]) * x[:, 1:]


class Residual(nn.Module):
    """A loss with second derivatives as a module: what wrappers of ``forward`` (DDP, export) can see."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        jet = self.net.jet(x, want="laplacian")
        return (jet.laplacian + jet.value * jet.d(0) - target(x)).square()
