"""Whether a net fits a problem, of either kind, is said by one function."""

import pytest
import torch

from bumpnet_fast import BumpNet, problems
from bumpnet_fast.problems.evolution import Burgers
from bumpnet_fast.solvers.checks import check_net

KINDS = pytest.mark.parametrize("problem", (problems.get("burgers"), Burgers()), ids=("solved", "evolves"))


def net_for(problem, **changes):
    return BumpNet(**{"dim": problem.domain.shape[1], "bumps": 5, "domain": problem.domain, "outputs": 1} | changes)


@KINDS
def test_a_net_that_fits_passes(problem):
    check_net(problem, net_for(problem))
    check_net(problem, net_for(problem, dtype="float64"))


@KINDS
@pytest.mark.parametrize(
    ("changes", "text"),
    (
        (dict(dim=3, domain=None), "net has 3 dimensions and problem 'burgers' has"),
        (dict(outputs=2), "net has 2 outputs and problem 'burgers' has 1"),
        (dict(domain=None), "net is for the domain"),
    ),
)
def test_what_does_not_fit_is_named(problem, changes, text):
    if "domain" in changes and "dim" not in changes:
        changes = dict(domain=problem.domain + 1.0)
    with pytest.raises(ValueError, match=text):
        check_net(problem, net_for(problem, **changes))


@KINDS
def test_rows_must_be_finite(problem):
    net = net_for(problem)
    with torch.no_grad():
        net.rows[3, 1] = torch.nan
    with pytest.raises(ValueError, match="rows that are not finite"):
        check_net(problem, net)
