"""The best net of a size beside the usual grid of that size: the table of docs/choosing.md.

    python bench/to_size.py        # prints the table, in about a minute

Times are of the processor, with one thread.
"""

from __future__ import annotations

import torch

from bumpnet_fast import problems
from bumpnet_fast.solvers import solve

#: Problem and parameters.
CASES = [("poisson", 280), ("helmholtz", 280), ("heat", 210), ("convection-diffusion", 336), ("sharp-poisson", 448)]


def main() -> None:
    torch.set_num_threads(1)
    print("| problem | parameters | usual grid: error, seconds | best of six grids: bumps, error, seconds |")
    print("|---|---|---|---|")
    for name, parameters in CASES:
        problem, cells = problems.get(name), []
        best = solve(problem, parameters=parameters, callback=lambda p, cells=cells: cells.append(p.entry["cells"]))
        usual = solve(problem, parameters // (best.net.rows.numel() // len(best.net.rows)))
        texts = [f"{s.rel_l2:.1e}, {s.processor_seconds:.1f}" for s in (usual, best)]
        print(f"| {name} | {parameters} | {texts[0]} | {'x'.join(map(str, cells[-1]))}, {texts[1]} |", flush=True)


if __name__ == "__main__":
    main()
