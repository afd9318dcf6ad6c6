"""How often ``evolve(problem, error=...)`` is right: the estimate against the true largest error over time.

``python bench/evolution_errors.py`` prints the table of docs/evolution.md.  The problems are those of the library, and
others that nothing was tuned for: fronts that form, move, meet and vanish, systems, and three kinds of ends.  The
references are exact solutions or spectral methods, at tolerances far below the errors.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import time
from dataclasses import dataclass, replace

import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from bumpnet_fast import EvolutionProblem, evolve
from bumpnet_fast.problems.evolution import Advection, AllenCahn, Burgers, Heat
from bumpnet_fast.problems.evolution.spectral import _Fourier
from bumpnet_fast.solvers.evolution.estimate import _Axis, _Grid
from bumpnet_fast.solvers.evolution.integrators import Rosenbrock

#: Errors that are asked for.
ERRORS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9)
#: Times at which the true error is measured, and points.
TIMES, POINTS = 60, 4001


# --- problems that nothing was tuned for ---------------------------------------------------------


@dataclass
class Meeting(Burgers):
    """Two fronts that form, move towards one another and meet."""

    name = "meeting"
    nu: float = 0.01

    def initial(self, x):
        s = math.pi * x[:, 0]
        return torch.sin(2 * s) + 0.5 * torch.sin(s)


@dataclass
class Travelling(Burgers):
    """A front that forms and moves."""

    name = "travelling"
    nu: float = 0.01 / math.pi

    def initial(self, x):
        return 0.5 - torch.sin(math.pi * x[:, 0])


@dataclass
class Held(Burgers):
    """A front between held ends, away from the middle."""

    name, periodic = "held", False
    nu: float = 0.02

    def initial(self, x):
        s = math.pi * x[:, 0]
        return -torch.sin(s) + 0.3 * torch.sin(2 * s)


@dataclass
class Vanishing(AllenCahn):
    """Two fronts that run into one another and vanish."""

    name = "vanishing"
    diffusion: float = 0.01
    final_time: float = 2.0

    def initial(self, x):
        return torch.tanh(12 * (torch.cos(math.pi * x[:, 0]) - 0.75))


@dataclass
class Fisher(EvolutionProblem):
    """Two fronts that run apart, and meet across the period."""

    name, want = "fisher", "laplacian"
    lower: tuple = (0.0,)
    upper: tuple = (20.0,)
    final_time: float = 6.0

    def initial(self, x):
        return torch.exp(-((x[:, 0] - 8) ** 2))

    def rhs(self, x, u, t):
        return u.laplacian + u.value * (1 - u.value)


@dataclass
class Soliton(EvolutionProblem):
    """Schroedinger's equation with a cube, in its real and imaginary part: a pulse that moves and turns."""

    name, want, outputs, growth = "soliton", "laplacian", 2, 2.0
    lower: tuple = (-30.0,)
    upper: tuple = (30.0,)
    final_time: float = 3.0
    speed: float = 1.0

    def rhs(self, x, u, t):
        a, b = u.value.unbind(1)
        second, square = u.laplacian, a * a + b * b
        return torch.stack([-0.5 * second[:, 1] - square * b, 0.5 * second[:, 0] + square * a], 1)

    def exact(self, x, t):
        s, v = x[:, 0], self.speed
        size, phase = 1 / torch.cosh(s - v * t), v * s + 0.5 * (1 - v * v) * t
        return torch.stack([size * torch.cos(phase), size * torch.sin(phase)], 1)


@dataclass
class Waves(EvolutionProblem):
    """u_t = v_x, v_t = u_x: two pulses that run through one another."""

    name, want, outputs, growth = "waves", "gradient", 2, 2.0

    def rhs(self, x, u, t):
        return u.d(0).flip(1)

    def exact(self, x, t):
        def pulse(s):
            return torch.exp(8 * (torch.cos(math.pi * s) - 1))

        right, left = pulse(x[:, 0] - t + 0.5), 0.7 * pulse(x[:, 0] + t - 0.3)
        return torch.stack([right + left, left - right], 1)


@dataclass
class Nerve(EvolutionProblem):
    """FitzHugh and Nagumo: a pulse that splits in two, with a slow second output."""

    name, want, outputs = "nerve", "laplacian", 2
    lower: tuple = (0.0,)
    upper: tuple = (10.0,)
    final_time: float = 8.0

    def initial(self, x):
        u = torch.exp(-(((x[:, 0] - 4) / 0.6) ** 2))
        return torch.stack([u, 0 * u], 1)

    def rhs(self, x, u, t):
        a, b = u.value.unbind(1)
        return torch.stack([0.02 * u.laplacian[:, 0] + 2 * a * (1 - a) * (a - 0.1) - b, 0.1 * (a - b)], 1)


@dataclass
class Layer(EvolutionProblem):
    """What flows to a held end, where a layer forms."""

    name, want, periodic = "layer", "laplacian", False
    lower: tuple = (0.0,)
    final_time: float = 1.0
    nu: float = 0.02

    def initial(self, x):
        return torch.sin(math.pi * x[:, 0]) ** 2

    def rhs(self, x, u, t):
        return self.nu * u.laplacian - u.d(0)


@dataclass
class Beating(EvolutionProblem):
    """Heat with a source that varies in time and place, between held ends at 1 and 3."""

    name, want, periodic = "beating", "laplacian", False
    lower: tuple = (0.0,)
    final_time: float = 1.0
    beat: float = 9.0

    def boundary_values(self, x):
        return 1 + 2 * x[:, 0]

    def rhs(self, x, u, t):
        s = torch.sin(math.pi * x[:, 0])
        rate = 0.1 * math.pi**2 * math.cos(self.beat * t) - self.beat * math.sin(self.beat * t)
        return 0.1 * u.laplacian[:, 0] + rate * s

    def exact(self, x, t):
        return 1 + 2 * x[:, 0] + math.cos(self.beat * t) * torch.sin(math.pi * x[:, 0])


@dataclass
class Porous(EvolutionProblem):
    """Diffusion that depends on u."""

    name, want = "porous", "laplacian"
    final_time: float = 0.3

    def initial(self, x):
        return 0.2 + torch.exp(6 * (torch.cos(math.pi * x[:, 0]) - 1))

    def rhs(self, x, u, t):
        return u.value * u.laplacian + u.d(0) ** 2


@dataclass
class Switch(EvolutionProblem):
    """A front between two held ends at -1 and 1 that moves aside."""

    name, want, periodic = "switch", "laplacian", False
    final_time: float = 1.0

    def boundary_values(self, x):
        return x[:, 0]

    def initial(self, x):
        return torch.sin(0.5 * math.pi * x[:, 0]) + 0.2 * torch.sin(math.pi * x[:, 0])

    def rhs(self, x, u, t):
        return 5e-3 * u.laplacian + 4 * (u.value - u.value**3) + 0.5 * (1 - u.value**2)


@dataclass
class Insulated(EvolutionProblem):
    """Heat between insulated ends."""

    name, want, periodic = "insulated", "laplacian", False
    lower: tuple = (0.0,)
    final_time: float = 0.2

    def boundary_slopes(self, x):
        return 0 * x[:, 0]

    def rhs(self, x, u, t):
        return u.laplacian

    def exact(self, x, t):
        s, w = math.pi * x[:, 0], math.pi**2 * t
        return 1 + math.exp(-w) * torch.cos(s) + 0.5 * math.exp(-16 * w) * torch.cos(4 * s)


@dataclass
class Free(EvolutionProblem):
    """Burgers' equation between ends of given slopes, with a source."""

    name, want, periodic = "free", "laplacian", False
    nu: float = 0.05

    def boundary_slopes(self, x):
        return 0.5 + 0 * x[:, 0]

    def rhs(self, x, u, t):
        s, e, w = math.pi * x[:, 0], math.exp(-t), math.pi
        own, slope, second = 0.5 * x[:, 0] + e * torch.cos(s), 0.5 - e * w * torch.sin(s), -e * w**2 * torch.cos(s)
        source = -e * torch.cos(s) + own * slope - self.nu * second
        return self.nu * u.laplacian[:, 0] - u.value[:, 0] * u.d(0)[:, 0] + source

    def exact(self, x, t):
        return 0.5 * x[:, 0] + math.exp(-t) * torch.cos(math.pi * x[:, 0])


@dataclass
class Spreading(EvolutionProblem):
    """A front that runs into an insulated end; its mirror image is periodic."""

    name, want = "spreading", "laplacian"
    lower: tuple = (0.0,)
    upper: tuple = (10.0,)
    final_time: float = 5.0
    periodic: bool = False

    def boundary_slopes(self, x):
        return 0 * x[:, 0]

    def initial(self, x):
        return torch.exp(20 * (torch.cos(0.1 * math.pi * x[:, 0]) - 1))

    def rhs(self, x, u, t):
        return u.laplacian + 2 * u.value * (1 - u.value)


#: Problems, and nodes of their references; None where the exact solution is known.
LIBRARY = {
    "heat": (Heat(), None), "heat, held": (Heat(periodic=False), None), "advection": (Advection(), None),
    "pulse": (Advection(narrow=20), None), "burgers, nu 0.02": (Burgers(), 512),
    "burgers, nu 0.01/pi": (Burgers(nu=0.01 / math.pi), 2048), "allen-cahn": (AllenCahn(), 1024),
}  # fmt: skip
OTHERS = {
    "meeting": (Meeting(), 768), "travelling": (Travelling(), 2048), "held": (Held(), 400),
    "vanishing": (Vanishing(), 512), "fisher": (Fisher(), 256), "soliton": (Soliton(), None),
    "waves": (Waves(), None), "nerve": (Nerve(), 512), "layer": (Layer(), 96), "beating": (Beating(), None),
    "porous": (Porous(), 192), "switch": (Switch(), 320), "insulated": (Insulated(), None), "free": (Free(), None),
    "spreading": (Spreading(), 256),
}  # fmt: skip


# --- what is true --------------------------------------------------------------------------------


def times_of(problem: EvolutionProblem) -> list[float]:
    """Times from 0 on, denser at the start."""
    return [problem.final_time * (i / TIMES) ** 2 for i in range(TIMES + 1)]


@functools.lru_cache(maxsize=4)
def _reference(name: str, finer: float = 1.0) -> Tensor:
    """u [T, n, K] of a problem by a spectral method."""
    problem, nodes = (LIBRARY | OTHERS)[name]
    points = _points(problem)[:, 0]
    if problem.sloped:  # the mirror images make it periodic
        (lo,), (hi,) = problem.lower, problem.upper
        problem = replace(problem, lower=(lo - (hi - lo),), periodic=True)
    times, nodes = times_of(problem), round(finer * nodes)
    if problem.periodic_axes:
        fourier = _Fourier(problem, nodes)
        states = [fourier.states[0.0].ravel()]
        for interval in itertools.pairwise(times):  # between its steps scipy interpolates, which is less accurate
            run = solve_ivp(fourier._slope, interval, states[-1], "DOP853", rtol=1e-12, atol=1e-13)
            states.append(run.y[:, -1])
        seen = _Axis(*problem.domain[:, 0].tolist(), nodes, True).interpolation(points)
        return torch.stack([seen @ torch.from_numpy(y.reshape(nodes, -1)) for y in states])
    grid = _Grid(problem, (nodes,))
    seen, y, states = grid.seen_from([points]), grid.start, [grid.start]
    marcher = Rosenbrock(grid.slope, grid.jacobian, times[-1], 1e-12)
    for t, until in itertools.pairwise(times):
        y = marcher.advance(t, y, until, lambda t, y: None)
        states.append(y)
    return torch.stack([seen(grid.values(y)) for y in states])


def _points(problem: EvolutionProblem) -> Tensor:
    lo, hi = problem.domain[:, 0].tolist()
    return (lo + (hi - lo) * (torch.arange(POINTS, dtype=torch.float64) + 0.5) / POINTS)[:, None]


def truth(name: str) -> Tensor:
    """u [T, n, K] of a problem at its times and points."""
    problem, nodes = (LIBRARY | OTHERS)[name]
    if nodes is not None:
        return _reference(name)
    x = _points(problem)
    return torch.stack([problem.exact(x, t).reshape(len(x), -1) for t in times_of(problem)])


def largest(found: Tensor, true: Tensor) -> float:
    """The largest relative L2 error over time and outputs, as ``evolve`` means it."""
    error, size = ((part**2).mean(1).sqrt() for part in (found - true, true))
    size = torch.maximum(size, 1e-3 * size.amax(0))
    return float((error / size).max())


def measured(name: str, error: float) -> dict:
    """What ``evolve`` makes of a problem and an error, and what is true."""
    problem = (LIBRARY | OTHERS)[name][0]
    began = time.process_time()
    run = evolve(problem, error=error)
    seconds = time.process_time() - began
    true, u = truth(name), run.on(_points(problem))
    there = [i for i, t in enumerate(times_of(problem)) if t <= float(run.times[-1])]
    off = largest(torch.stack([u(times_of(problem)[i]) for i in there]), true[there])
    estimate = max((*run.error_estimate.over_time, *run.error_estimate.rel_l2))
    bumps = max(entry["bumps"] for entry in run.history)
    return {
        "problem": name, "error": error, "true": off, "estimate": estimate, "stop": run.stop_reason, "bumps": bumps,
        "steps": run.steps, "levels": len(run.levels), "seconds": seconds, "warnings": run.warnings,
    }  # fmt: skip


def table(rows: list[dict]) -> str:
    """The rows as a table in Markdown."""
    lines = ["| problem | asked for | true | estimate | bumps | steps | s | |", "|---|---|---|---|---|---|---|---|"]
    for r in rows:
        said = "" if r["stop"] == "error reached" else r["stop"]
        lines.append(
            f"| {r['problem']} | {r['error']:.0e} | {r['true']:.1e} | {r['estimate']:.1e} | {r['bumps']} | {r['steps']}"
            f" | {r['seconds']:.2f} | {said} |"
        )
    return "\n".join(lines)


def summary(rows: list[dict]) -> str:
    """How often the estimates are right."""
    reached = [r for r in rows if r["stop"] == "error reached"]
    near = sum(1 / 3 <= r["estimate"] / r["true"] <= 3 for r in rows)
    wrong = sum(r["true"] > 3 * r["error"] for r in reached)
    over = sum(r["true"] > r["error"] for r in reached)
    return (
        f"{len(rows)} runs: {len(reached)} reached; the estimate is within a factor of 3 of the true error in {near};"
        f" of those reached {over} have a larger error than asked for, {wrong} one more than three times as large"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("problems", nargs="*", help="names; default: all")
    parser.add_argument("--errors", type=float, nargs="+", default=ERRORS)
    parser.add_argument("--check", action="store_true", help="compare the references with ones on coarser grids")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in arguments.problems or [*LIBRARY, *OTHERS]:
        if arguments.check and (LIBRARY | OTHERS)[name][1] is not None:
            print(f"{name}: the reference is right to {largest(_reference(name, 0.75), truth(name)):.1e}", flush=True)
        for error in arguments.errors:
            rows.append(measured(name, error))
            print(table(rows[-1:]).split("\n")[-1], f"{rows[-1]['estimate'] / rows[-1]['true']:.2f}", flush=True)
            for warning in rows[-1]["warnings"]:
                print("   ", warning)
    print("\n" + table(rows) + "\n\n" + summary(rows))


if __name__ == "__main__":
    main()
