"""As few bumps as an error needs: heat over space and time, pruned from 36 bumps to 18; and a search for 1e-4.

python examples/few_bumps.py [--seed N] [--json FILE]
"""

import argparse
import json
import time
from pathlib import Path

import torch

from bumpnet_fast import BumpNet, problems
from bumpnet_fast.solvers import grow, prune, reach

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--seed", type=int, default=0, help="of the change of the initial shapes that breaks the grid")
parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE as well")
arguments = parser.parse_args()


def bumps(problem, grid):
    net = BumpNet(2, grid, problem.domain, dtype="float64")
    return net.perturb_(0.05, torch.Generator().manual_seed(arguments.seed))


problem, start, processor = problems.get("heat"), time.perf_counter(), time.process_time()
net = bumps(problem, (6, 6))
solution = prune(problem, net, 18)
errors = {entry["bumps"]: entry["rel_l2"] for entry in solution.history if "rel_l2" in entry}
print("pruned:", ", ".join(f"{bumps} bumps {error:.1e}" for bumps, error in errors.items()))

poor = prune(problem, net, 5, iterations=30).rel_l2
regrown = grow(problem, net, 18, iterations=30).rel_l2
print(f"pruned to 5 bumps {poor:.1e}, grown to 18 again {regrown:.1e}")

problem = problems.get("helmholtz")
net = bumps(problem, (3, 6))
solution_found = reach(problem, net, 1e-4)
print(f"Helmholtz to {solution_found.rel_l2:.1e} with {len(net.rows)} bumps, {net.rows.numel()} parameters")

if arguments.json:
    figures = {"full": errors[36], "rel_l2": solution.rel_l2, "pruned_by_full": solution.rel_l2 / errors[36]}
    figures |= {"errors": errors, "poor": poor, "regrown": regrown, "parameters": 18 * 7}
    figures |= {"reached": solution_found.rel_l2, "reached_bumps": len(net.rows), "seed": arguments.seed}
    figures |= {"processor_seconds": time.process_time() - processor, "seconds": time.perf_counter() - start}
    arguments.json.write_text(json.dumps(figures, indent=2))
