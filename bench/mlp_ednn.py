"""EDNN with a multilayer perceptron, the baseline: every weight evolves, by a least-squares solution at every stage.

    python bench/mlp_ednn.py burgers --json -

times it beside a Bump-EDNN in one process, in float64 and at the same points.  Its seconds are the processor's: one of
its solves takes milliseconds, in which other work on the machine would be counted, and one of ours microseconds.

Periodic in one dimension through cos and sin of x as inputs: 2-20-20-20-1, tanh, 921 weights.  All derivatives are by
torch.func.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import training
from torch import Tensor
from torch.func import grad, vmap

from bumpnet_fast import Jet
from bumpnet_fast.problems.evolution import EVOLUTIONS, EvolutionProblem, get_evolution
from bumpnet_fast.solvers import evolve as evolve_bumps

WIDTH, LAYERS = 20, 3
POINTS, TIMED = 256, 20
#: Steps are halved until the error falls by less than this share, from so many steps on and up to so many.
SHARE, FEWEST, MOST = 0.1, 50, 1600
#: Relative cut-off of the least-squares solution.
CUT = 1e-4


class Perceptron:
    """u(x) with the period ``length``, as a function of one flat tensor of weights [P], float64."""

    def __init__(self, length: float, seed: int = 0):
        sizes = [2, *[WIDTH] * LAYERS, 1]
        self.shapes, self.length = list(itertools.pairwise(sizes)), length
        generator = torch.Generator().manual_seed(seed)
        parts = []
        for inputs, outputs in self.shapes:
            weights = torch.randn(inputs * outputs, generator=generator, dtype=torch.float64) / math.sqrt(inputs)
            parts += [weights, torch.zeros(outputs, dtype=torch.float64)]
        self.weights = torch.cat(parts)
        self.u = vmap(self._value, (None, 0))
        self.u_x = vmap(grad(self._value, 1), (None, 0))
        self.u_xx = vmap(grad(grad(self._value, 1), 1), (None, 0))
        self.jacobian = vmap(grad(self._value, 0), (None, 0))

    def _value(self, weights: Tensor, x: Tensor) -> Tensor:
        z, at = torch.stack([torch.cos(2 * math.pi * x / self.length), torch.sin(2 * math.pi * x / self.length)]), 0
        for layer, (inputs, outputs) in enumerate(self.shapes):
            W = weights[at : at + inputs * outputs].view(outputs, inputs)
            at += inputs * outputs
            z = W @ z + weights[at : at + outputs]
            at += outputs
            z = torch.tanh(z) if layer < len(self.shapes) - 1 else z
        return z[0]

    def fit(self, x: Tensor, values: Tensor, steps: int = 60) -> float:
        """Levenberg-Marquardt on ``values`` [N] at ``x`` [N]; returns the relative misfit."""
        damping, weights = 1e-2, self.weights
        misfit = self.u(weights, x) - values
        for _ in range(steps):
            J = self.jacobian(weights, x)
            while damping < 1e8:
                damped = J @ J.T + damping * torch.eye(len(x), dtype=x.dtype)
                trial = weights - J.T @ torch.linalg.solve(damped, misfit)
                after = self.u(trial, x) - values
                if after.norm() < misfit.norm():
                    weights, misfit, damping = trial, after, max(damping / 4, 1e-12)
                    break
                damping *= 4
        self.weights = weights
        return float(misfit.norm() / values.norm())


def solve_for_rates(J: Tensor, slope: Tensor) -> Tensor:
    """Rates [P] of the weights for u_t = ``slope`` [N]: the least-squares solution over all weights."""
    return torch.linalg.lstsq(J, slope[:, None], rcond=CUT, driver="gelsd").solution[:, 0]


def evolve(
    net: Perceptron, x: Tensor, rhs: Callable[[Tensor, Tensor, Tensor], Tensor], final: float, steps: int
) -> Tensor:
    """Weights at the final time by the classical Runge-Kutta method; ``rhs(u, u_x, u_xx)`` is u_t."""

    def slope(w: Tensor) -> Tensor:
        return solve_for_rates(net.jacobian(w, x), rhs(net.u(w, x), net.u_x(w, x), net.u_xx(w, x)))

    h, w = final / steps, net.weights
    for _ in range(steps):
        k1 = slope(w)
        k2 = slope(w + h / 2 * k1)
        k3 = slope(w + h / 2 * k2)
        w = w + h / 6 * (k1 + 2 * k2 + 2 * k3 + slope(w + h * k3))
    return w


# --- beside bumps ----------------------------------------------------------------------------------


def measure(problem: EvolutionProblem, seed: int) -> dict[str, Any]:
    """Error and seconds of the perceptron, with enough steps in time."""
    timer = training.Timer()
    net = Perceptron(problem.upper[0] - problem.lower[0], seed)
    x = problem.lower[0] + net.length * torch.arange(POINTS, dtype=torch.float64) / POINTS
    misfit = net.fit(x, problem.initial(x[:, None]).flatten())
    fitted = timer.spent()
    J, slope = net.jacobian(net.weights, x), _rates(problem, x)(*_jet(net, net.weights, x))
    report = {"parameters": len(net.weights), "fit_error": misfit, "solve_seconds": _fastest(J, slope)}
    exact = problem.reference(x[:, None], problem.final_time).flatten()
    errors: dict[int, float] = {}
    steps = FEWEST
    while True:
        timer = training.Timer()
        errors[steps] = _error(net, x, problem, steps, exact)
        spent = {key: fitted[key] + value for key, value in timer.spent().items()}
        fell = math.inf if steps == FEWEST else 1 - errors[steps] / errors[steps // 2]
        settled = math.isfinite(errors[steps]) and fell < SHARE
        if settled or 2 * steps > MOST:
            reason = "converged in time" if settled else "stopped at the most steps"
            return (
                report
                | {"rel_l2": errors[steps], **spent, "steps": steps, "stop_reason": reason}
                | {"errors_by_steps": {str(n): e if math.isfinite(e) else None for n, e in errors.items()}}
            )
        steps *= 2


def _jet(net: Perceptron, w: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return net.u(w, x), net.u_x(w, x), net.u_xx(w, x)


def _rates(problem: EvolutionProblem, x: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    def rhs(u: Tensor, u_x: Tensor, u_xx: Tensor) -> Tensor:
        jet = Jet("laplacian", u[:, None], u_x[:, None, None], u_xx[:, None])
        return problem.rhs(x[:, None], jet, 0.0).flatten()

    return rhs


def _fastest(J: Tensor, slope: Tensor) -> float:
    times = []
    for _ in range(TIMED):
        start = time.process_time()
        solve_for_rates(J, slope)
        times.append(time.process_time() - start)
    return min(times)


def _error(net: Perceptron, x: Tensor, problem: EvolutionProblem, steps: int, exact: Tensor) -> float:
    """At the end; infinite where so few steps are unstable."""
    try:
        weights = evolve(net, x, _rates(problem, x), problem.final_time, steps)
    except torch.linalg.LinAlgError:
        return math.inf
    error = float((net.u(weights, x) - exact).norm() / exact.norm())
    return error if math.isfinite(error) else math.inf


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    one = [name for name, problem in EVOLUTIONS.items() if len(problem().lower) == 1]
    parser.add_argument("problem", choices=one)
    parser.add_argument("--bumps", type=int, default=40)
    training.add_arguments(parser, seconds=None)
    return parser


def main(argv: list[str] | None = None) -> int:
    options = parser().parse_args(argv)
    torch.set_num_threads(1)
    problem = get_evolution(options.problem)
    run = evolve_bumps(problem, options.bumps, points=POINTS)
    found = measure(problem, options.seed)
    report = {"problem": problem.name, "method": "EDNN on a perceptron, 3 x 20 tanh", **found}
    report |= {
        "bumps": options.bumps,
        "bumps_rel_l2": run.rel_l2,
        "bumps_solve_seconds": run.solve_seconds,
        "bumps_processor_seconds": run.processor_seconds,
        "bumps_seconds": run.setup_seconds + run.seconds,
        "solve_ratio": found["solve_seconds"] / run.solve_seconds,
    }
    training.write(options, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
