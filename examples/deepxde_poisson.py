"""DeepXDE's Poisson problem on an L-shaped domain, -u_xx - u_yy = 1, with bumps in the place of a perceptron."""

import sys

import deepxde as dde

from bumpnet_fast.integrations.deepxde import BumpNet


def equation(x, u):
    return -dde.grad.hessian(u, x, i=0, j=0) - dde.grad.hessian(u, x, i=1, j=1) - 1


def data(points=1200):
    dde.config.set_default_float("float64")
    shape = dde.geometry.Polygon([[0, 0], [1, 0], [1, -1], [-1, -1], [-1, 1], [0, 1]])
    walls = dde.icbc.DirichletBC(shape, lambda x: 0, lambda _, on_boundary: on_boundary)
    return dde.data.PDE(shape, equation, walls, num_domain=points, num_boundary=points // 10, num_test=1500)


def network(bumps=(12, 12)):
    return BumpNet(2, bumps, [[-1, -1], [1, 1]])


def perceptron():
    return dde.nn.FNN([2] + [50] * 4 + [1], "tanh", "Glorot uniform")


if __name__ == "__main__":
    model = dde.Model(data(), perceptron() if "perceptron" in sys.argv else network())
    model.compile("adam", lr=1e-3 if "perceptron" in sys.argv else 1e-2)
    losses, _ = model.train(iterations=400)
    print(f"final loss {losses.loss_train[-1].sum():.1e}, u(-0.5, -0.5) = {model.predict([[-0.5, -0.5]])[0, 0]:.3f}")
