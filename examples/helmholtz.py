"""Solve Helmholtz's equation with 40 bumps, save the model and a picture, and use the model again."""

import torch

from bumpnet_fast import BumpNet, load, problems, save, solve
from bumpnet_fast.plotting import solution_figure

problem = problems.get("helmholtz", a1=1, a2=4, k=1)
net = BumpNet(2, (4, 10), problem.domain, dtype="float64")
solution = solve(problem, net)
print(f"relative L2 error {solution.rel_l2:.1e} with {net.rows.numel()} parameters in {solution.seconds:.1f} s")
solution_figure(solution).savefig("helmholtz.png")
save("helmholtz.pt", solution)

u, x = load("helmholtz.pt"), torch.rand(5, 2, dtype=torch.float64)
print("u =", u(x)[:, 0].tolist())
print("u_xx + u_yy =", u.jet(x, "laplacian").laplacian[:, 0].tolist())
