"""PhysicsNeMo's lid-driven cavity, steady Navier-Stokes equations, with bumps in the place of a perceptron."""

import sys

import torch
from physicsnemo.models.mlp import FullyConnected
from physicsnemo.sym.eq.pde import PDE
from physicsnemo.sym.eq.phy_informer import PhysicsInformer
from sympy import Function, symbols

from bumpnet_fast.integrations.physicsnemo import BumpNet

SIDE = 0.1  # the cavity is [-SIDE/2, SIDE/2]^2; its lid moves with speed 1


class NavierStokes(PDE):
    dim = 2

    def __init__(self, nu=0.01):
        x, y = symbols("x y")
        u, v, p = (Function(name)(x, y) for name in "uvp")
        self.equations = {"continuity": u.diff(x) + v.diff(y)} | {
            f"momentum_{a}": u * w.diff(x) + v * w.diff(y) + p.diff(a) - nu * (w.diff(x, 2) + w.diff(y, 2))
            for a, w in ((x, u), (y, v))
        }


def network(bumps=(16, 16)):
    box = [[-SIDE / 2] * 2, [SIDE / 2] * 2]
    return BumpNet(2, bumps, box, 3)


def perceptron(width=512):
    return FullyConnected(2, out_features=3, num_layers=6, layer_size=width)


def walls(points):
    """Points on the three walls at rest and on the lid."""
    along, side = SIDE * (torch.rand(4, points // 4, 1) - 0.5), torch.full((points // 4, 1), SIDE / 2)
    at_rest = [torch.cat(pair, 1) for pair in ((along[0], -side), (side, along[1]), (-side, along[2]))]
    return torch.cat(at_rest), torch.cat([along[3], side], 1)


def loss(net, informer, points=4000):
    x = (SIDE * (torch.rand(points, 2) - 0.5)).requires_grad_()
    out = net(x)
    residuals = informer.forward({"coordinates": x} | dict(zip("uvp", out.split(1, 1), strict=True)))
    distance = SIDE / 2 - x.detach().abs().amax(1, keepdim=True)
    inside = sum((r * distance).square().mean() for r in residuals.values())
    still, lid = walls(points // 2)
    at_rest, (u, v) = net(still)[:, :2], net(lid)[:, :2].split(1, 1)
    slip = (u - 1).square() * (1 - 20 * lid[:, :1].abs()) + v.square()
    return inside + at_rest.square().sum(1).mean() + slip.mean()


def informer():
    equations = NavierStokes()
    return PhysicsInformer(list(equations.equations), equations, grad_method="autodiff")


if __name__ == "__main__":
    torch.manual_seed(0)
    net, physics = perceptron() if "perceptron" in sys.argv else network(), informer()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3 if "perceptron" in sys.argv else 1e-2)
    for _ in range(400):
        optimizer.zero_grad()
        final = loss(net, physics)
        final.backward()
        optimizer.step()
    print(f"final loss {final.item():.1e}, u at the centre {net(torch.zeros(1, 2))[0, 0].item():.3f}")
