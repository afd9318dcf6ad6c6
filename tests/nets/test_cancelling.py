"""How much bumps cancel, and whether what is said of the loss of digits is what happens."""

import math
import warnings

import oracle
import pytest
import torch

from bumpnet_fast import BumpNet, load, problems, save, solve
from bumpnet_fast.nets import cancelling
from bumpnet_fast.nets.adapt import Pruning, peak_scores
from bumpnet_fast.nets.cancelling import CancellationWarning


def smooth(name, bumps, sharpness):
    """Flat, wide bumps, whose amplitudes solve a problem: a nearly spectral basis that cancels."""
    problem = problems.get(name)
    about = dict(outputs=problem.outputs, dtype="float64")
    default = BumpNet(len(problem.lower), bumps, problem.domain, **about)
    net = BumpNet(
        default.layout.dim, bumps, problem.domain, overlap=6.0,
        sharpness=sharpness * default.sharpness[0].item(), **about,
    )  # fmt: skip
    net.perturb_(0.1, torch.Generator().manual_seed(0))
    solve(problem, net, iterations=0, ridge=1e-26, points=3 * bumps)
    return net


@pytest.fixture(scope="module")
def flat():
    return smooth("poisson", 128, 0.2)


def points(net, n=1500):
    lo, hi = net.domain
    unit = torch.rand(n, net.layout.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    return (lo + unit * (hi - lo)).float().double()


def copied(net):
    return BumpNet.from_rows(net.rows, net.frame, net.domain, net.tied)


@torch.no_grad()
def measured(net, cast, x):
    exact = net(x)
    return float(((cast(x.float()).double() - exact).norm(dim=0) / exact.norm(dim=0)).max())


# --- the number ------------------------------------------------------------------------------------------


def test_it_is_the_ratio_of_the_bumps_to_their_sum():
    net = BumpNet(2, 12, outputs=2, dtype="float64").perturb_(0.3, torch.Generator().manual_seed(0))
    net.amplitudes.data.copy_(torch.randn(12, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    x = oracle.points(2, 40)
    with torch.no_grad():
        terms = (net.basis(x).value[:, :, None] * net.amplitudes).abs().sum(1)
        wanted = (terms.square().mean(0).sqrt() / net(x).square().mean(0).sqrt()).max()
    assert net.cancellation(x) == pytest.approx(float(wanted), rel=1e-12)
    assert net.cancellation() == pytest.approx(float(wanted), rel=0.5)
    with torch.no_grad():
        net.amplitudes.mul_(-1e-3)
    assert net.cancellation(x) == pytest.approx(float(wanted), rel=1e-12), "whatever the units of u"


def test_its_ends():
    net = BumpNet(1, 2, dtype="float64")
    assert net.cancellation() == 1 and net.cancellation(oracle.points(1, 3)) == 1
    with torch.no_grad():
        net.rows[1] = net.rows[0]
        net.amplitudes[:, 0] = torch.tensor([1.0, 1.0])
        assert net.cancellation() == pytest.approx(1.0)
        net.amplitudes[:, 0] = torch.tensor([1.0, -1.0])
        assert net.cancellation() == math.inf
        net.rows[0, 0] = math.nan
        assert math.isnan(net.cancellation())
    for x in (torch.zeros(3), torch.zeros(3, 2), 3.0):
        with pytest.raises(ValueError, match=r"x must be a tensor of points \[n, 1\]"):
            net.cancellation(x)


def test_an_output_that_is_nothing_but_rounding_does_not_count():
    net = BumpNet(1, 2, outputs=2, dtype="float64")
    with torch.no_grad():
        net.rows[1] = net.rows[0]
        net.amplitudes.copy_(torch.tensor([[1.0, 1e-6], [1.0, -1e-6 * (1 + 1e-9)]]))
    assert net.cancellation() == pytest.approx(1.0)


# --- what it costs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, bumps, sharpness", [
    ("poisson", 128, 0.2), ("poisson", 64, 0.3), ("helmholtz", 256, 0.3), ("kovasznay", 64, 0.2), ("heat", 150, 0.3),
])  # fmt: skip
def test_the_error_that_is_predicted_is_the_one_that_is_measured(name, bumps, sharpness):
    net = smooth(name, bumps, sharpness)
    x, eps = points(net), torch.finfo(torch.float32).eps
    amount, predicted = net.cancellation(), cancelling.error_in(net, torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CancellationWarning)
        cast = copied(net).float()
    off = measured(net, cast, x)
    assert amount > 1e3
    assert 0.5 * off < predicted < 2 * off
    assert 0.1 * off < cancelling.ROUNDING * eps * amount < 10 * off, "what check() says"


CASTS = (torch.nn.Module.float, lambda n: n.to(torch.float32), lambda n: torch.nn.Sequential(n).float()[0])


@pytest.mark.parametrize("cast", CASTS)
def test_a_cast_says_how_far_off_u_will_be(flat, cast):
    net = copied(flat)
    with pytest.warns(CancellationWarning, match=r"was cast to float32: u will be off by about \d") as caught:
        narrow = cast(net)
    off = measured(flat, narrow, points(flat))
    said = float(str(caught[0].message).split("about ")[1].split(" %")[0]) / 100
    assert narrow is net and 0.3 * off < said < 3 * off and off > 1e-3
    assert any("in float32 u is off by about" in text for text in net.check()) and flat.check() == []


def test_half_precision_loses_it_all(flat):
    with pytest.warns(CancellationWarning, match="was cast to float16: u will be off by more than its own size"):
        assert copied(flat).half().rows.dtype == torch.float16


def test_what_loses_nothing_is_not_mentioned(flat):
    ordinary = BumpNet(2, 30, dtype="float64").perturb_(0.2)
    ordinary.amplitudes.data.normal_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copied(flat).double().to("cpu").to(torch.float64).share_memory()
        ordinary.float().double()
        BumpNet(2, 30, dtype="float64").float()
        copied(flat).to("meta").float()
        peak_scores(ordinary)


def test_a_file_in_float32_says_so(flat, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(tmp_path / "whole.pt", flat)
    assert torch.equal(load(tmp_path / "whole.pt").net.rows, flat.rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        narrow = copied(flat).float()
    with pytest.warns(CancellationWarning, match="was saved in float32: u will be off by about"):
        save(tmp_path / "narrow.pt", narrow)
    assert load(tmp_path / "narrow.pt").net.rows.dtype == torch.float32


def test_heights_of_such_bumps_tell_nothing(flat):
    net = copied(flat)
    with pytest.warns(CancellationWarning, match="cancel by a factor of .*: the heights of its bumps do not tell"):
        peak_scores(net)
    with pytest.warns(CancellationWarning):
        event = Pruning(net, threshold=1e-3, every=1, start=1).step()
    x = points(flat)
    with torch.no_grad():
        change = float((net(x) - flat(x)).norm() / flat(x).norm())
    assert event.after < event.before and change > 1, "it is true"


def test_adam_says_what_its_first_steps_do(flat):
    net, problem = copied(flat), problems.get("poisson")
    with pytest.warns(CancellationWarning, match="first steps of Adam lose what the net is; use 'varpro'"):
        solution = solve(problem, net, method="adam", iterations=20)
    assert solution.history[-1]["loss"] > 1e3 * solution.history[0]["loss"], "it is true"
    with warnings.catch_warnings():
        warnings.simplefilter("error", CancellationWarning)
        solve(problem, copied(flat), method="varpro-adam", iterations=1)
        solve(problem, copied(flat), iterations=0)
        solve(problem, 16, method="adam", iterations=1)
