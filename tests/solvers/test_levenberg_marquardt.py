"""The descent that all methods of the second order take."""

import itertools

import torch
from test_elimination import model_for, net_for

from bumpnet_fast.problems import get
from bumpnet_fast.solvers.elimination import Separable
from bumpnet_fast.solvers.levenberg_marquardt import PATIENCE, converged, descend


def test_every_step_descends():
    problem = get("poisson")
    net = net_for(problem)
    model = model_for(Separable, problem, net)
    point = model.start(net.rows.detach())
    losses = [point.loss]
    losses += [later.loss for later in itertools.islice(descend(model, point, damping=1.0, step_cap=1.0), 8)]
    assert len(losses) == 9 and all(b < a for a, b in itertools.pairwise(losses))
    assert losses[-1] < 1e-4 * losses[0]


def test_step_cap_holds():
    problem = get("helmholtz", a1=2, a2=2)
    net = net_for(problem).perturb_(0.3, torch.Generator().manual_seed(1))
    model = model_for(Separable, problem, net)
    point = model.start(net.rows.detach())
    after = next(descend(model, point, damping=1e-8, step_cap=0.01))
    # The step is the capped velocity and an acceleration of at most 0.4 of it in the scaled norm.
    assert 0 < (after.x - point.x).abs().max() < 0.05


def test_convergence_is_a_small_decrease_over_some_iterations():
    fast = [{"loss": 0.5**k} for k in range(30)]
    slow = fast + [{"loss": fast[-1]["loss"] * (1 - 1e-6 * k)} for k in range(1, PATIENCE + 1)]
    assert not converged(fast, 1e-4) and converged(slow, 1e-4) and not converged(slow, 1e-6)
    assert not converged(slow[:PATIENCE], 1.0)
