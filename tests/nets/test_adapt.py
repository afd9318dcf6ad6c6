"""Bumps taken out and put in, with the optimiser's state; what a bump is worth; schedules."""

import copy
import math

import oracle
import pytest
import torch

from bumpnet_fast import BumpNet
from bumpnet_fast.nets.adapt import (
    Event,
    Pruning,
    add_bumps,
    keep_bumps,
    loss_increases,
    peak_scores,
    residual_peaks,
    rows_at,
    worth_keeping,
)

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.01, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, 0.01),
    "fused adamw": lambda p: torch.optim.AdamW(p, 0.01, fused=True),
    "amsgrad": lambda p: torch.optim.Adam(p, 0.01, amsgrad=True),
    "nadam": lambda p: torch.optim.NAdam(p, 0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.5, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, 0.01),
    "adafactor": lambda p: torch.optim.Adafactor(p, 0.01),
    "lbfgs": lambda p: torch.optim.LBFGS(p, 0.5, max_iter=3),
}


def net_of(bumps=6, outputs=1, dim=2, dtype=torch.float64):
    rows, frame = oracle.bumps(dim, bumps, outputs, dtype=dtype)
    return BumpNet.from_rows(rows, frame, [[-1.0] * dim, [1.0] * dim])


def train(net, optimizer, steps=3):
    x = oracle.points(net.layout.dim, 40, dtype=net.rows.dtype)

    def closure():
        optimizer.zero_grad()
        loss = (net(x) - 1).square().mean()
        loss.backward()
        return loss

    for _ in range(steps):
        loss = optimizer.step(closure)
    return float(loss.detach())


def mask(*keep):
    return torch.tensor([bool(k) for k in keep])


# --- taking out and putting in ---------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_rows_and_moments_move_together(name):
    net = net_of()
    optimizer = OPTIMIZERS[name](net.parameters())
    train(net, optimizer)
    old, rows = net.rows, net.rows.detach().clone()
    before = copy.deepcopy(dict(optimizer.state[net.rows]))
    keep = mask(1, 0, 1, 1, 0, 1)
    assert keep_bumps(net, keep, optimizer) == 2
    assert torch.equal(net.rows.detach(), rows[keep]) and net.rows.grad is None and net.rows.requires_grad
    assert optimizer.param_groups[0]["params"][0] is net.rows and old not in optimizer.state
    if name == "lbfgs":
        assert not optimizer.state[net.rows]
    for key, value in optimizer.state[net.rows].items():
        old = before[key]
        by_bump = isinstance(old, torch.Tensor) and old.dim() == 2 and len(old) == 6
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(old[keep] if by_bump else old)), key
    assert math.isfinite(train(net, optimizer)) and len(net.rows) == 4


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "adafactor"])  # whose moments couple the rows
def test_training_goes_on_as_if_the_others_had_never_been(name):
    """Bumps without amplitude and gradient take no part: with and without them the rest is trained alike."""
    alone, keep = net_of(4), mask(1, 1, 0, 1, 1, 0)
    rows = torch.zeros(6, 7, dtype=torch.float64)
    rows[keep] = alone.rows.detach()
    crowded = BumpNet.from_rows(rows, alone.frame, alone.domain)
    nets, optimizers = (alone, crowded), [OPTIMIZERS[name](net.parameters()) for net in (alone, crowded)]
    hook = crowded.rows.register_hook(lambda g: g * keep[:, None])
    for net, optimizer in zip(nets, optimizers, strict=True):
        train(net, optimizer)
    hook.remove()
    keep_bumps(crowded, keep, optimizers[1])
    if name == "lbfgs":  # starts again, so let it do so in both
        keep_bumps(alone, mask(1, 1, 1, 1), optimizers[0])
    before = alone.rows.detach().clone()
    for net, optimizer in zip(nets, optimizers, strict=True):
        train(net, optimizer)
    oracle.assert_close(crowded.rows, alone.rows, 1e-9, name)
    assert not torch.equal(before, alone.rows)


def test_a_living_graph_does_not_matter():
    """The loss of the last step is usually still at hand when bumps go."""
    net = net_of()
    optimizer = torch.optim.Adam(net.parameters())
    x = oracle.points(2, 9)
    loss = net(x).square().mean()
    loss.backward()
    optimizer.step()
    keep_bumps(net, mask(1, 0, 1, 1, 0, 1), optimizer)
    net(x).square().mean().backward()
    assert net.rows.grad.shape == (4, 7) and loss.requires_grad


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_new_bumps_start_without_moments(name):
    net = net_of()
    optimizer = OPTIMIZERS[name](net.parameters())
    train(net, optimizer)
    x = oracle.points(2, 9)
    before, values = copy.deepcopy(dict(optimizer.state[net.rows])), net(x).detach()
    new = rows_at(net, torch.tensor([[0.5, 0.25], [-0.5, 0.0]]))
    add_bumps(net, new, optimizer)
    assert len(net.rows) == 8 and torch.equal(net.rows.detach()[6:], new)
    assert torch.equal(net(x), values), "amplitude zero changes nothing"
    for key, value in optimizer.state[net.rows].items():
        if isinstance(value, torch.Tensor) and value.dim() == 2 and len(value) == 8:
            assert torch.equal(value[:6], before[key]) and not value[6:].any()
    train(net, optimizer)
    assert (net.amplitudes[6:] != 0).all()


def test_only_the_optimizer_of_the_net_will_do():
    net, other = net_of(), net_of()
    rows = net.rows.detach().clone()
    wrong = torch.optim.Adam(other.parameters())
    for call in (lambda: keep_bumps(net, mask(1, 1, 1, 0, 0, 0), wrong), lambda: add_bumps(net, net.rows[:1], wrong)):
        with pytest.raises(ValueError, match=r"optimizer must train net\.rows"):
            call()
    assert torch.equal(net.rows.detach(), rows)


def test_other_parameters_of_the_optimizer_are_left_alone():
    """A coefficient beside the rows, and even one of a bump's size in another parameter."""
    net, beside = net_of(), torch.nn.Parameter(torch.ones(6, 3, dtype=torch.float64))
    optimizer = torch.optim.Adam([*net.parameters(), beside])
    (net(oracle.points(2, 9)).sum() + beside.square().sum()).backward()
    optimizer.step()
    keep_bumps(net, mask(1, 0, 0, 0, 0, 1), optimizer)
    assert optimizer.state[beside]["exp_avg"].shape == (6, 3) and optimizer.state[net.rows]["exp_avg"].shape == (2, 7)


@pytest.mark.parametrize(
    ("keep", "error", "message"),
    [
        (torch.ones(6), TypeError, "bool tensor"),
        ([True] * 6, TypeError, "list"),
        (torch.ones(5, dtype=torch.bool), ValueError, r"shape \[6\]"),
        (torch.zeros(6, dtype=torch.bool), ValueError, "at least one bump"),
    ],
)
def test_a_bad_mask_is_refused(keep, error, message):
    net = net_of()
    with pytest.raises(error, match=message):
        keep_bumps(net, keep)
    assert len(net.rows) == 6


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (torch.zeros(2, 6, dtype=torch.float64), r"\[new, 7\]"),
        (torch.zeros(2, 7), "float64"),
        (torch.full((1, 7), math.nan, dtype=torch.float64), "finite"),
    ],
)
def test_bad_rows_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        add_bumps(net_of(), rows)


# --- what a bump is worth --------------------------------------------------------------------------


@pytest.mark.parametrize("outputs", (1, 2))
def test_loss_increase_is_that_of_solving_without_the_bump(outputs):
    generator = torch.Generator().manual_seed(0)
    net = net_of(7, outputs, dtype=torch.float64)
    x = oracle.points(2, 60)
    Psi = net.basis(x).value.detach()
    A = torch.stack([torch.block_diag(*[p[None]] * outputs) for p in Psi.T]).flatten(0, 1)  # [M K, K N]
    target = torch.randn(A.shape[1], generator=generator, dtype=torch.float64)

    def solved(rows):
        h = torch.linalg.lstsq(rows.T, target[:, None]).solution
        return h, float((rows.T @ h - target[:, None]).square().sum())

    h, loss = solved(A)
    found = loss_increases(A, h.view(7, outputs), ridge=0.0)
    for i in range(7):
        without = torch.cat([A[: i * outputs], A[(i + 1) * outputs :]])
        assert abs(found[i] - (solved(without)[1] - loss)) <= 1e-8 * loss
    with pytest.raises(ValueError, match="design must have shape"):
        loss_increases(A[1:], h.view(7, outputs))


def test_a_dying_bump_costs_nothing():
    A = torch.eye(3, 8, dtype=torch.float64)
    A[1] = 0
    assert loss_increases(A, torch.tensor([[1.0], [5.0], [2.0]], dtype=torch.float64))[1] < 1e-9


def test_scores_are_heights_not_amplitudes():
    net = BumpNet(1, 3, sharpness=0.3, dtype="float64")
    with torch.no_grad():
        net.amplitudes.fill_(1e3)
        net.amplitudes[1] = -2e3
    scores = peak_scores(net)
    assert scores.argmax() == 1 and (scores < 1e3).all()
    heights = net.basis(net.centres).value.diagonal() * torch.tensor([1e3, 2e3, 1e3])
    oracle.assert_close(scores, heights, 1e-12)


@pytest.mark.parametrize(
    ("scores", "threshold", "least", "wanted"),
    [
        ([1.0, 0.01, 0.2, 0.05], 0.05, 1, (1, 0, 1, 1)),
        ([1.0, 0.01, 0.2, 0.05], 1.0, 1, (1, 0, 0, 0)),
        ([1.0, 0.01, 0.2, 0.05], 1.0, 3, (1, 0, 1, 1)),
        ([1.0, math.nan, 0.0], 0.5, 1, (1, 1, 0)),
        ([0.0, 0.0], 0.5, 1, (1, 1)),
        ([math.inf, 1.0, 0.1], 0.5, 1, (1, 1, 0)),
    ],
)
def test_worth_keeping(scores, threshold, least, wanted):
    assert torch.equal(worth_keeping(torch.tensor(scores), threshold, least), mask(*wanted))


# --- where to grow ---------------------------------------------------------------------------------


@pytest.mark.parametrize("outer", ("tied", "free"))
@pytest.mark.parametrize("dim", (1, 2, 3, 4))
def test_new_bumps_are_those_of_a_grid_of_so_many(dim, outer):
    """Put at a grid's centres they are the grid that a net starts on."""
    net = BumpNet(dim, (3,) * dim, dtype="float64", outer=outer)
    rows = rows_at(net, net.centres.detach(), bumps=len(net.rows))
    oracle.assert_close(rows, net.rows, 1e-12)
    small = BumpNet.from_rows(rows_at(net, net.centres.detach(), len(net.rows), 0.25), net.frame, net.domain, net.tied)
    oracle.assert_close(small.sizes, 0.25 * net.sizes, 1e-12)
    oracle.assert_close(small.sharpness, 2 * net.sharpness, 1e-12)
    assert not small.check()


def test_a_point_far_outside_goes_to_the_edge_of_the_box():
    net = BumpNet(1, 4)
    centre = BumpNet.from_rows(rows_at(net, torch.tensor([[99.0]])), net.frame, net.domain).centres
    assert 1.29 < centre.item() <= 1.3


@pytest.mark.parametrize("bad", (torch.zeros(2), torch.zeros(2, 3), torch.full((1, 2), math.nan)))
def test_bad_points_are_refused(bad):
    with pytest.raises(ValueError, match="x must be finite and of shape"):
        rows_at(net_of(), bad)


def test_peaks_of_a_residual_keep_apart_and_skip_what_is_no_number():
    net = BumpNet(2, (4, 4))
    x = oracle.points(2, 400, dtype=torch.float32)
    residual = torch.exp(-4 * (x - 0.5).square().sum(1))
    residual[3] = math.nan
    found = residual_peaks(net, x, residual, 3)
    assert len(found) == 3 and not (found == x[3]).all(1).any()
    assert torch.equal(found[0], x[residual.nan_to_num(-1).argmax()])
    distances = torch.pdist(found * net.frame[2])
    assert (distances >= 0.5 * net.sizes.median()).all()
    assert len(residual_peaks(net, x, torch.zeros(400, 2), 3)) == 0
    with pytest.raises(ValueError, match="residual must have shape"):
        residual_peaks(net, x, residual[1:], 3)
    with pytest.raises(ValueError, match="count"):
        residual_peaks(net, x, residual, 0)


# --- schedules -------------------------------------------------------------------------------------


def test_a_schedule_prunes_when_it_is_time():
    net = net_of(8)
    optimizer = torch.optim.Adam(net.parameters())
    scores = iter([torch.arange(8.0), torch.arange(7.0), torch.arange(6.0) + 9, torch.arange(6.0)])
    pruning = Pruning(net, optimizer, threshold=0.1, every=2, start=3, stop=8, score=lambda _: next(scores))
    done = [pruning.step(loss=0.5) for _ in range(12)]
    assert [event and (event.step, event.before, event.after) for event in done] == [
        None, None, (3, 8, 7), None, (5, 7, 6), *[None] * 7,
    ]  # fmt: skip
    assert pruning.events == [event for event in done if event]
    assert len(net.rows) == 6 and next(scores).tolist() == list(range(6)), "nothing was judged after the stop"


def test_a_schedule_survives_a_checkpoint():
    first = Pruning(net_of(), threshold=1.0, every=1, start=2)
    for _ in range(2):
        first.step(torch.tensor(0.25))
    second = Pruning(net_of(), threshold=1.0, every=1, start=2)
    second.load_state_dict(first.state_dict())
    assert second.events == first.events == [Event(2, "prune", 6, 1, 0.25)] and second.taken == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.5}, "threshold"),
        ({"every": 0}, "every"),
        ({"start": 1.5}, "start"),
        ({"least": True}, "least"),
        ({"start": 10, "stop": 9}, "stop"),
    ],
)
def test_bad_schedules_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Pruning(net_of(), **options)


def test_pruning_while_training_keeps_the_fit():
    """A fit with bumps to spare: those of no height go, and the loss at the end is as good."""
    torch.manual_seed(0)
    x = torch.linspace(-1, 1, 200, dtype=torch.float64)[:, None]
    target = torch.exp(-8 * x**2)
    losses = {}
    for threshold in (0.0, 0.05):
        net = BumpNet(1, 14, dtype="float64", sharpness=3.0)
        optimizer = torch.optim.Adam(net.parameters(), 0.02)
        pruning = Pruning(net, optimizer, threshold=threshold, every=100, start=100)
        for _ in range(400):
            optimizer.zero_grad()
            loss = (net(x) - target).square().mean()
            loss.backward()
            optimizer.step()
            pruning.step(loss)
        losses[threshold] = loss.item()
        assert bool(pruning.events) == (threshold > 0)
    assert len(net.rows) < 14 and losses[0.05] < 4 * losses[0.0] + 1e-5
