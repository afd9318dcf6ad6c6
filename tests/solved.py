"""Small results of every kind, each solved once, for the tests of fields, exports and pictures."""

import functools

from bumpnet_fast import BumpNet, problems
from bumpnet_fast.problems.evolution import Heat, Heat2D
from bumpnet_fast.problems.regression import Regression
from bumpnet_fast.solvers import evolve, march, solve


def solved(problem, bumps, **options):
    net = BumpNet(len(problem.lower), bumps, problem.domain, problem.outputs, dtype="float64")
    return solve(problem, net, iterations=1, points=200, **options)


def fitted(function, dim):
    return solved(Regression.of(function, [0.0] * dim, [1.0] * dim), 2**dim)


RESULTS = {
    "line": lambda: fitted(lambda x: x[:, 0], 1),
    "masked": lambda: solved(problems.get("lshape"), 9),
    "outputs": lambda: solved(problems.get("kovasznay"), (2, 2)),
    "block": lambda: solved(problems.get("heat2d"), 8),
    "march": lambda: march(problems.get("heat"), (3, 3), windows=2, iterations=1),
    "four": lambda: fitted(lambda x: x.sum(1), 4),
}


@functools.cache
def result(name):
    return RESULTS[name]()


@functools.cache
def evolution(shapes="frozen"):
    return (
        evolve(Heat2D(), (3, 3), times=2, shapes=shapes)
        if shapes == "frozen"
        else evolve(Heat(), 4, times=2, shapes=shapes)
    )
