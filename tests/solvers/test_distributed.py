"""Two processes that hold the points between them: they do what one does, and are the same to the last bit.

Processes take long to start, so all scenarios of processes.py run in the same two, one after the other; the tests
look at what they brought back.
"""

import os
import re
import subprocess
import sys

import oracle
import pytest
import torch
from processes import (
    PATIENCE,
    ROOT,
    SOLVES,
    TRAININGS,
    WORLD,
    adaptive_loop,
    converged,
    marched,
    own_points,
    primitives,
    pruned_and_grown,
    rank,
    refined,
    rounded,
    solved,
    to_an_error,
    trained,
)
from torch import distributed as dist

from bumpnet_fast.core.ranks import ALONE, Ranks

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="PyTorch without torch.distributed")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of the two processes brings back from every scenario."""
    folder = str(tmp_path_factory.mktemp("ranks"))
    torch.multiprocessing.spawn(rank, (folder,), nprocs=WORLD)
    return [torch.load(f"{folder}/{index}.pt", weights_only=False) for index in range(WORLD)]


@pytest.fixture(autouse=True)
def one_thread(threads):
    threads(1)


def same(a, b):
    """Whether two outcomes are the same to the last bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def brought(ranks, name):
    """The outcome of a scenario, which is the same on all ranks."""
    assert same(ranks[0][name], ranks[1][name])
    return ranks[0][name]


# --- the exchange ---------------------------------------------------------------------------------------------


def test_sums_and_factors_are_those_of_all_points(ranks):
    alone, A = primitives(None), oracle.points(5, 24)
    for r, own in enumerate(ranks):
        mine = own["primitives"]
        for name in ("R", "triangle"):
            assert torch.equal(mine[name].abs(), ranks[0]["primitives"][name].abs())
            oracle.assert_close(mine[name].abs(), alone[name].abs(), 1e-13)
        oracle.assert_close(mine["Q"] @ mine["R"], A[r::WORLD], 1e-13)
        for name in ("total", "norm", "increases"):
            oracle.assert_close(mine[name], alone[name], 1e-12)
        assert mine["number"] == len(A) and torch.equal(mine["agreed"], alone["agreed"])
        assert torch.equal(mine["rows"], A[:3]) and mine["most"] == 4 and mine["flag"]
        assert mine["every"] == (True, False) and mine["highest"] == (1, 0, 0)
    Q = torch.cat([own["primitives"]["Q"] for own in ranks])
    oracle.assert_close(Q.T @ Q, torch.eye(5, dtype=torch.float64), 1e-13)


def test_one_process_exchanges_nothing():
    t = torch.rand(3)
    for given in (ALONE.total(t), ALONE.norm(t), ALONE.agreed(t), ALONE.agreed_rows(t), ALONE.share(t)):
        assert given is t
    assert ALONE.checked(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        ALONE.checked(lambda: 1 / 0)
    with pytest.raises(TypeError, match="group must be None or a torch"):
        Ranks("world")


def test_a_group_of_one_changes_no_bit(ranks):
    for own in ranks:
        in_group, without, (refused, _) = own["alone"]
        assert same(in_group, without)
        assert refused.startswith("TypeError: group must be None or a torch.distributed.ProcessGroup that this process")


# --- solvers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", SOLVES)
def test_ranks_take_the_steps_of_one_process(ranks, which):
    found, alone = brought(ranks, f"solve {which}"), solved(None, which)
    assert found["losses"] == pytest.approx(alone["losses"], rel=1e-9) and len(found["losses"]) == 6
    assert found["losses"][:3] == pytest.approx(alone["losses"][:3], rel=1e-10)
    assert found["losses"][-1] < found["losses"][0]
    assert found["unknowns"] == pytest.approx(alone["unknowns"], rel=1e-9)


def test_an_error_is_reached_together(ranks):
    found, alone = brought(ranks, "to an error"), to_an_error(None)
    for name, one in found.items():
        assert one["stop_reason"] == alone[name]["stop_reason"] == "error reached", name
        assert one["rel_l2"] <= 3e-4 and len(one["rows"]) <= 2 * len(alone[name]["rows"])


def test_ranks_come_as_far_as_one_process(ranks):
    found, alone = brought(ranks, "converged"), converged(None)
    assert found["rel_l2"] == pytest.approx(alone["rel_l2"], rel=0.5) and found["rel_l2"] < 1e-5


def test_ranks_may_have_unlike_numbers_of_points_of_their_own(ranks):
    found, alone = brought(ranks, "own points"), own_points(None)
    assert found["losses"] == pytest.approx(alone["losses"], rel=1e-9) and len(found["losses"]) == 6


def test_no_rank_goes_its_own_way_where_its_libraries_round_otherwise(ranks):
    for found, alone in zip(brought(ranks, "rounded"), rounded(None), strict=True):
        assert found["losses"] == pytest.approx(alone["losses"], rel=1e-6)


def test_refinement_adds_points_on_every_rank(ranks):
    found, alone = brought(ranks, "refined"), refined(None)
    assert found["iterations"] == 6 and found["losses"][:2] == pytest.approx(alone["losses"][:2], rel=1e-10)
    assert found["rel_l2"] < 10 * alone["rel_l2"]


@pytest.mark.parametrize("which", TRAININGS)
def test_ranks_train_as_one_process(ranks, which):
    found, alone = brought(ranks, f"train {which}"), trained(None, which)
    assert found["losses"] == pytest.approx(alone["losses"], rel=1e-8)
    oracle.assert_close(found["rows"], alone["rows"], 1e-6)


def test_batches_and_pruning_are_the_same_on_all_ranks(ranks):
    found = brought(ranks, "batches")
    assert found["events"] and len(found["rows"]) == found["events"][-1][-1] < 9
    assert found["losses"][-1] < found["losses"][0]


def test_ranks_prune_and_grow_as_one_process(ranks):
    for found, alone in zip(brought(ranks, "pruned and grown"), pruned_and_grown(None), strict=True):
        assert found["events"] == alone["events"] != []
        assert found["losses"][:6] == pytest.approx(alone["losses"][:6], rel=1e-8)
        assert found["loss"] == pytest.approx(alone["loss"], rel=1e-3)


def test_ranks_march_as_one_process(ranks):
    found, alone = brought(ranks, "marched"), marched(None)
    assert found["losses"] == pytest.approx(alone["losses"], rel=1e-6)
    assert found["rel_l2"] == pytest.approx(alone["rel_l2"], rel=1e-6)


# --- somebody's own loop ------------------------------------------------------------------------------------------


def test_a_loop_with_ddp_prunes_and_grows_alike_with_the_state_of_adam(ranks):
    found, alone = brought(ranks, "adaptive loop"), adaptive_loop(None)
    assert found["after"] == alone["after"] == 13 and len(found["exp_avg"]) == 13
    assert found["step"] == 9 and bool((found["exp_avg_sq"][-3:] > 0).any())
    for name in ("rows", "grad", "places", "exp_avg"):
        oracle.assert_close(found[name], alone[name], 1e-8)


def test_the_code_of_the_page_runs(ranks):
    found = brought(ranks, "page")
    assert found["blocks"] == 2 and found["rel_l2"] < 1e-2 and torch.isfinite(found["rows"]).all()


def test_the_example_runs_under_torchrun(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    example = str(ROOT / "examples" / "distributed.py")
    run = subprocess.run(
        [*command, example], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    full, pruned = re.findall(r"relative L2 error (\S+) with", run.stdout)
    assert float(full) < 1e-4 and float(pruned) < 1e-2
    error, bumps = re.search(r"DDP: mean square error (\S+) with (\d+) of 36 bumps", run.stdout).groups()
    assert float(error) < 1e-3 and int(bumps) < 36
    assert re.findall(r"ranks differ by (\S+)", run.stdout) == ["0.0", "0.0"] and "2 ranks" in run.stdout


# --- mistakes -----------------------------------------------------------------------------------------------------

AGREE = "ValueError: ranks must agree: "
#: What both ranks say.
TOGETHER = {
    "setting": AGREE + "iterations is 5 on rank 0 and 6 on rank 1",
    "rows": AGREE + "rows is '[9, 7], torch.float64, sha256 ",
    "problem": AGREE + "problem is {'name': 'poisson', ",
    "few points": "ValueError: points must be at least one for each of 2 ranks, got 1",
    "checkpoint": "ValueError: checkpoint is for runs of one process, and this one has 2 ranks",
    "train checkpoint": "ValueError: checkpoint is for runs of one process, and this one has 2 ranks",
    "train": AGREE + "learning_rate is 0.1 on rank 0 and 1.1 on rank 1",
    "solvers": AGREE + "method is 'auto' on rank 0 and 'adam' on rank 1",
    "stages": AGREE + "learning_rate of stage 1 is 0.1 on rank 0 and 1.1 on rank 1",
    "option": "TypeError: method 'auto' has no option 'nonsense'; there are: ",
    "bumps": AGREE + "bumps is 7 on rank 0 and 6 on rank 1",
    "keep": AGREE + "the net's rows is '[9, 7], torch.float64, sha256 ",
    "moments": AGREE + "exp_avg of the optimiser is '[9, 7], torch.float64, sha256 ",
    "schedule": AGREE + "every is 5 on rank 0 and 6 on rank 1",
    "no group": "TypeError: group must be None or a torch.distributed.ProcessGroup",
}
#: What rank 1 says; rank 0 hears of it.
SECOND = {
    "bad": "ValueError: damping must be positive, got -1.0",
    "own points": "ValueError: points must be finite and of shape [N, 2] with N >= 1, got (0, 2)",
    "residual": "ArithmeticError: no such residual",
    "callback": "OSError: disk full",
    "mask": "ValueError: keep must be of shape [9] on cpu, got (8,) on cpu",
}


@pytest.mark.parametrize("name", TOGETHER)
def test_ranks_that_differ_are_told_what_differs(ranks, name):
    for own in ranks:
        message, seconds = own["mistakes"][name]
        assert message.startswith(TOGETHER[name]) and seconds < PATIENCE.seconds / 2


@pytest.mark.parametrize("name", SECOND)
def test_a_mistake_on_one_rank_ends_all(ranks, name):
    first, second = (own["mistakes"][name] for own in ranks)
    assert second[0].startswith(SECOND[name])
    kind, text = second[0].split(": ", 1)
    assert first[0] == f"RuntimeError: rank 1 of 2 failed with {kind}: {text}" and first[1] < PATIENCE.seconds / 2


def test_an_interrupt_on_one_rank_ends_all_at_the_same_rows(ranks):
    first, second = (own["mistakes"]["interrupted"] for own in ranks)
    assert same(first, second)
    for found in first.values():
        assert found["stop_reason"] == "interrupted" and found["iterations"] == 2


def test_ctrl_c_on_one_rank_waits_for_the_others(ranks):
    first, second = (own["mistakes"]["signalled"] for own in ranks)
    assert same(first, second) and first["stop_reason"] == "interrupted" and first["iterations"] == 2


def test_the_clock_is_that_of_rank_0(ranks):
    first, second = (own["mistakes"]["late"] for own in ranks)
    assert same(first, second) and first["stop_reason"] == "time"


def test_the_mask_is_that_of_rank_0(ranks):
    for own in ranks:
        assert own["mistakes"]["left"][0] == 1 and own["mistakes"]["files"] == []
    assert same(*(own["mistakes"]["left"] for own in ranks))
