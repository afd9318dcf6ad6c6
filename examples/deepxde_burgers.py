"""DeepXDE's Burgers problem, u_t + u u_x = 0.01/pi u_xx, with bumps in the place of a perceptron."""

import sys

import deepxde as dde
import numpy as np

from bumpnet_fast.integrations.deepxde import BumpNet


def equation(x, u):
    u_x, u_t = dde.grad.jacobian(u, x, i=0, j=0), dde.grad.jacobian(u, x, i=0, j=1)
    return u_t + u * u_x - 0.01 / np.pi * dde.grad.hessian(u, x, i=0, j=0)


def data(points=2540):
    box = dde.geometry.GeometryXTime(dde.geometry.Interval(-1, 1), dde.geometry.TimeDomain(0, 0.99))
    walls = dde.icbc.DirichletBC(box, lambda x: 0, lambda _, on_boundary: on_boundary)
    start = dde.icbc.IC(box, lambda x: -np.sin(np.pi * x[:, :1]), lambda _, on_initial: on_initial)
    return dde.data.TimePDE(box, equation, [walls, start], num_domain=points, num_boundary=80, num_initial=160)


def network(bumps=(16, 8)):
    return BumpNet(2, bumps, [[-1, 0], [1, 0.99]])


def perceptron():
    return dde.nn.FNN([2] + [20] * 3 + [1], "tanh", "Glorot normal")


if __name__ == "__main__":
    model = dde.Model(data(), perceptron() if "perceptron" in sys.argv else network())
    model.compile("adam", lr=1e-3 if "perceptron" in sys.argv else 1e-2)
    losses, _ = model.train(iterations=400)
    print(f"final loss {losses.loss_train[-1].sum():.1e}, u(0.5, 0.5) = {model.predict([[0.5, 0.5]])[0, 0]:.3f}")
