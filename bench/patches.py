"""Local features to a stated error: the table of docs/choosing.md.

    python bench/patches.py        # prints the table, in about half a minute

Times are of the processor, with one thread, and the whole of the solve: smooth bases, maps and patches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from bumpnet_fast import Jet, problems
from bumpnet_fast.problems import Problem, sampling
from bumpnet_fast.solvers import solve

#: Peaks of height 1: centre and width.
_WIDE, _NARROW = ((-0.2, -0.1), 0.3), ((0.35, 0.4), 0.04)
_OTHERS = (((-0.55, 0.5), 0.04), ((0.1, -0.6), 0.04))


def peaks(*of: tuple[tuple[float, float], float]) -> Callable[[Tensor], Tensor]:
    return lambda x: sum(torch.exp(-(x - x.new_tensor(c)).square().sum(1) / (2 * s * s)) for c, s in of)


def poisson(exact: Callable[[Tensor], Tensor]) -> Problem:
    """Poisson's equation on the square, with a solution that is not told."""

    def residual(self: Problem, x: Tensor, u: Jet) -> Tensor:
        return u.laplacian[:, 0] - Jet.of(exact, x, "laplacian").laplacian[:, 0]

    members = {"name": "made", "residual": residual, "boundary_values": lambda self, x: exact(x), "known": exact}
    return dataclasses.make_dataclass("Made", [], bases=(Problem,), namespace=members)()


#: Words, problem, the exact solution, and the error that is asked for.
CASES = [
    ("sharp-poisson", problems.get("sharp-poisson"), 1e-6),
    ("two peaks, 0.3 and 0.04 wide", poisson(peaks(_WIDE, _NARROW)), 1e-6),
    ("four peaks, 0.3 and 0.04 wide", poisson(peaks(_WIDE, _NARROW, *_OTHERS)), 1e-6),
    ("oblique layer, tanh 0.08 wide", poisson(lambda x: torch.tanh((x[:, 0] + 0.7 * x[:, 1] - 0.1) / 0.08)), 1e-6),
    ("ring, tanh 0.1 wide", poisson(lambda x: torch.tanh((x.square().sum(1) - 0.3) / 0.1)), 1e-6),
    ("helmholtz, 16 waves along each axis", problems.get("helmholtz", a1=16, a2=16), 1e-4),
]


def main() -> None:
    torch.set_num_threads(1)
    solve(problems.get("poisson"), error=1e-2)  # what is loaded at the first solve
    print("| problem | asked for | true error | estimated | patches | s |\n|---|---|---|---|---|---|")
    for words, problem, error in CASES:
        solution = solve(problem, error=error)
        x = sampling.interior(problem.domain, (16384, 1), "sobol", 99)
        exact = (problem.exact(x) if problem.exact(x) is not None else type(problem).known(x)).reshape(-1)
        true = float((solution.predict(x)[:, 0] - exact).norm() / exact.norm())
        estimate = max(solution.error_estimate.rel_l2)
        patches = len(solution.net.leaves) if hasattr(solution.net, "leaves") else "none"
        numbers = f"{error:.0e} | {true:.1e} | {estimate:.1e} | {patches} | {solution.processor_seconds:.1f}"
        print(f"| {words} | {numbers} |{'' if solution.stop == 'error reached' else ' not reached'}", flush=True)


if __name__ == "__main__":
    main()
