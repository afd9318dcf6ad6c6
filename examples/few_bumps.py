"""As few bumps as an error needs: heat over space and time, pruned from 36 bumps to 18; and a search for 1e-4.

python examples/few_bumps.py
"""

from bumpnet_fast import BumpNet, problems
from bumpnet_fast.solvers import grow, prune, reach

problem = problems.get("heat")
net = BumpNet(2, (6, 6), problem.domain, dtype="float64")
solution = prune(problem, net, 18)
errors = {entry["bumps"]: entry["rel_l2"] for entry in solution.history if "rel_l2" in entry}
print("pruned:", ", ".join(f"{bumps} bumps {error:.1e}" for bumps, error in errors.items()))

poor = prune(problem, net, 5, iterations=30).rel_l2
print(f"pruned to 5 bumps {poor:.1e}, grown to 18 again {grow(problem, net, 18, iterations=30).rel_l2:.1e}")

problem = problems.get("helmholtz")
net = BumpNet(2, (3, 6), problem.domain, dtype="float64")
solution = reach(problem, net, 1e-4)
print(f"Helmholtz to {solution.rel_l2:.1e} with {len(net.rows)} bumps, {net.rows.numel()} parameters")
