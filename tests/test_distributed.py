"""Two processes that hold the points between them: they do what one does, and are the same to the last bit.

Processes take long to start, so all scenarios run in the same two, one after the other; the tests look at what
they brought back.
"""

import datetime
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import oracle
import pytest
import torch
from test_habits import Residual, net_of
from torch import distributed as dist
from torch import nn

from bumpnet_fast import BumpNet, problems
from bumpnet_fast.adapt import Pruning, add_bumps, keep_bumps, loss_increases, residual_peaks, rows_at
from bumpnet_fast.distributed import ALONE, Ranks
from bumpnet_fast.problems import sampling
from bumpnet_fast.solvers import grow, march, prune, solve, train

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="PyTorch without torch.distributed")

ROOT = Path(__file__).parents[1]
WORLD = 2
#: A rank that waits for one that does not come is told so after this time.
PATIENCE = datetime.timedelta(seconds=60)


def posed(name="poisson", bumps=(3, 3), seed=0, **settings):
    """A problem and a net that no symmetry makes to begin in a place where rounding decides the way."""
    problem = problems.get(name, **settings)
    net = BumpNet(2, bumps, problem.domain, problem.outputs, dtype="float64")
    return problem, net.perturb_(0.1, torch.Generator().manual_seed(seed))


def outcome(solution):
    """What can be compared of a solution."""
    kept = {name: getattr(solution, name) for name in ("loss", "rel_l2", "iterations", "stop_reason", "unknowns")}
    losses = [entry["loss"] for entry in solution.history]
    events = [(event.step, event.kind, event.before, event.after) for event in solution.events]
    return kept | {"rows": solution.net.rows.detach().clone(), "losses": losses, "events": events}


# --- what the processes do: functions of their group, of None for one process ---------------------------------

SOLVES = {
    "varpro": ("poisson", {}),
    "soft": ("helmholtz", {"boundary": "soft"}),
    "gauss-newton": ("inverse-heat", {}),
    "lm": ("inverse-heat", {"method": "lm"}),
}
TRAININGS = {
    "adam": {"method": "adam", "iterations": 10},
    "varpro-adam": {"method": "varpro-adam", "iterations": 5},
    "lbfgs": {"method": "adam+lbfgs", "iterations": (3, 5)},
}


def solved(group, which):
    name, options = SOLVES[which]
    return outcome(solve(*posed(name), iterations=5, group=group, **options))


def converged(group):
    return outcome(solve(*posed(bumps=(4, 4)), iterations=60, group=group))


def own_points(group):
    """Few points on rank 0, fewer than amplitudes, and the others on rank 1."""
    problem, net = posed()
    x = sampling.interior(problem.domain, (12, 10), "grid")
    own = x if group is None else x[:5] if group.rank() == 0 else x[5:]
    return outcome(solve(problem, net, points=own, boundary="soft", iterations=5, group=group))


def rounded(group):
    """With linear algebra that rounds in its own way on rank 1."""

    def otherwise(function):
        def call(*arguments, **options):
            found = function(*arguments, **options)
            return tuple(t * (1 + 1e-13) for t in found) if isinstance(found, tuple) else found * (1 + 1e-13)

        return call

    with pytest.MonkeyPatch.context() as patch:
        if group and group.rank() == 1:
            for place, name in ((torch.linalg, "solve_triangular"), (torch, "cholesky_solve")):
                patch.setattr(place, name, otherwise(getattr(place, name)))
        return [outcome(solve(*posed(name), iterations=8, group=group)) for name in ("poisson", "inverse-heat")]


def refined(group):
    return outcome(solve(*posed(), iterations=6, refine=2, group=group))


def trained(group, which):
    return outcome(train(*posed(), group=group, **TRAININGS[which]))


def trained_in_batches(group):
    options = {"batch": 90, "prune_threshold": 0.2, "prune_every": 10, "sampling": "sobol", "resample": 15}
    return outcome(train(*posed("heat"), iterations=40, group=group, **options))


def pruned_and_grown(group):
    problem, net = posed(bumps=(3, 3))
    pruned = outcome(prune(problem, net, 7, iterations=5, group=group))
    return pruned, outcome(grow(problem, net, 9, iterations=5, group=group))


def marched(group):
    problem = problems.get("heat")
    solution = march(problem, (3, 3), windows=2, perturb=0.1, iterations=4, group=group)
    return {"losses": [entry["loss"] for entry in solution.history], "rel_l2": solution.rel_l2}


def wrapped(net, group):
    module = Residual(net)
    return module if group is None else nn.parallel.DistributedDataParallel(module, process_group=group)


def adaptive_loop(group):
    """Somebody's own training loop: DistributedDataParallel and Adam, bumps pruned, then grown where it is wrong."""
    ranks, net = Ranks(group), net_of(12)
    with torch.no_grad():
        net.amplitudes[3:5] = 1e-3
    x, module = ranks.share(oracle.points(2, 40)), wrapped(net, group)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    pruning = Pruning(net, optimizer, threshold=0.05, every=4, start=4, stop=4, group=group)
    for step in range(9):
        optimizer.zero_grad()
        module(x).mean().backward()
        optimizer.step()
        changed = pruning.step()
        if step == 6:
            places = residual_peaks(net, x, Residual(net)(x).detach(), 3, group=group)
            add_bumps(net, rows_at(net, places), optimizer, group=group)
        if changed or step == 6:
            module = wrapped(net, group)  # its exchange of gradients knows the old parameter only
    state = {key: value.clone() for key, value in optimizer.state[net.rows].items()}
    return {"rows": net.rows.detach().clone(), "grad": net.rows.grad, "places": places, "after": len(net.rows), **state}


def primitives(group):
    ranks, A, far = Ranks(group), oracle.points(5, 24), oracle.points(1, 1)
    own = ranks.share(A)
    Q, R = ranks.qr(own)
    increases = loss_increases(own.T, oracle.points(1, 5), group=group)
    return {
        "Q": Q, "R": R, "increases": increases, "triangle": ranks.triangle(own), "total": ranks.total(own.sum(0)),
        "norm": ranks.norm(torch.linalg.vector_norm(own, dim=0)), "number": ranks.number(len(own)),
        "agreed": ranks.agreed(far + ranks.rank), "rows": ranks.agreed_rows(A[: 3 + ranks.rank]),
        "every": (ranks.every(True), ranks.every(ranks.rank == 0)), "most": ranks.most(3 + ranks.rank),
        "highest": (ranks.highest(ranks.rank), ranks.highest(-ranks.rank), ranks.highest(1.0)),
        "flag": ranks.agreed_flag(ranks.rank == 0),
    }  # fmt: skip


def page(group):
    """The code of docs/distributed.md."""
    text = (ROOT / "docs" / "distributed.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    code = "\n".join(blocks).replace('dist.init_process_group("gloo")', "")
    torch.manual_seed(dist.get_rank())
    names = {}
    exec(compile(code, "docs/distributed.md", "exec"), names)
    return {"blocks": len(blocks), "rel_l2": names["solution"].rel_l2, "rows": names["net"].rows.detach()}


def alone_in_a_group(group):
    """Every process in a group of its own: nothing is exchanged, and no bit differs from no group."""
    groups = [dist.new_group([rank]) for rank in range(WORLD)]
    own, other = groups[dist.get_rank()], groups[1 - dist.get_rank()]
    return solved(own, "varpro"), solved(None, "varpro"), failure(solved, other, "varpro")


def failure(function, *arguments, **options):
    """What a call raises, and how long it took to."""
    began = time.perf_counter()
    try:
        function(*arguments, **options)
    except (Exception, KeyboardInterrupt) as error:
        return f"{type(error).__name__}: {error}", time.perf_counter() - began
    return "nothing", time.perf_counter() - began


def mistakes(group):
    """Calls in which the ranks differ or one of them fails, by name."""
    second = int(dist.get_rank() == 1)

    def raising(error):
        def callback(progress):
            if second and progress.iteration == 2 and error is None:
                os.kill(os.getpid(), signal.SIGINT)
            elif second and progress.iteration == 2:
                raise error

        return callback

    class Broken(type(problems.get("poisson"))):
        calls = 0

        def residual(self, x, u):
            Broken.calls += 1
            if second and Broken.calls > 8:
                raise ArithmeticError("no such residual")
            return super().residual(x, u)

    problem, net = posed()
    broken = (Broken(), posed()[1])
    optimizers = [torch.optim.Adam(net.parameters()) for _ in range(2)]
    net(oracle.points(2, 9)).square().sum().backward()
    for optimizer in optimizers:
        optimizer.step()
    optimizers[1].state[net.rows]["exp_avg"] += second
    keep = torch.arange(9) != 4
    calls = {
        "setting": lambda: solve(*posed(), iterations=5 + second, group=group),
        "rows": lambda: solve(*posed(seed=second), group=group),
        "problem": lambda: solve(*posed(a1=1.0 + second), group=group),
        "bad": lambda: solve(*posed(), damping=-1.0 if second else 1.0, group=group),
        "own points": lambda: solve(*posed(), points=torch.zeros(0 if second else 5, 2), group=group),
        "few points": lambda: solve(*posed(), points=(1, 1), group=group),
        "checkpoint": lambda: solve(*posed(), checkpoint="run.pt", group=group),
        "train": lambda: train(*posed(), learning_rate=0.1 + second, group=group),
        "train checkpoint": lambda: train(*posed(), checkpoint="run.pt", group=group),
        "solvers": lambda: (train if second else solve)(*posed(), group=group),
        "residual": lambda: solve(*broken, method="lm", group=group),
        "callback": lambda: solve(*posed(), callback=raising(OSError("disk full")), group=group),
        "bumps": lambda: prune(*posed(), 7 - second, group=group),
        "mask": lambda: keep_bumps(net, keep[second:], group=group),
        "keep": lambda: keep_bumps(posed(seed=second)[1], keep, group=group),
        "moments": lambda: keep_bumps(net, keep, optimizers[1], group=group),
        "schedule": lambda: Pruning(net, every=5 + second, group=group),
        "no group": lambda: solve(*posed(), group="world"),
    }
    told = {name: failure(call) for name, call in calls.items()}
    stopped = outcome(solve(*posed(), callback=raising(KeyboardInterrupt()), group=group))
    interrupted = train(*posed(), log_every=2, callback=raising(KeyboardInterrupt()), group=group)
    signalled = outcome(solve(*posed(), callback=raising(None), group=group))
    late = outcome(solve(*posed(), iterations=10**6, tolerance=0.0, max_seconds=0.3 if second else 0.1, group=group))
    taken = keep_bumps(net, keep if not second else keep.flip(0), optimizers[0], group=group)
    interrupted = {"solve": stopped, "train": outcome(interrupted)}
    left = taken, net.rows.detach().clone()
    return told | {
        "interrupted": interrupted,
        "signalled": signalled,
        "late": late,
        "left": left,
        "files": os.listdir(),
    }


SCENARIOS = {
    "primitives": primitives,
    "alone": alone_in_a_group,
    "adaptive loop": adaptive_loop,
    "converged": converged,
    "own points": own_points,
    "rounded": rounded,
    "refined": refined,
    "batches": trained_in_batches,
    "pruned and grown": pruned_and_grown,
    "marched": marched,
    "page": page,
    "mistakes": mistakes,
} | {f"solve {which}": lambda group, which=which: solved(group, which) for which in SOLVES}
SCENARIOS |= {f"train {which}": lambda group, which=which: trained(group, which) for which in TRAININGS}


def rank(index, folder):
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background ignores
    os.makedirs(f"{folder}/of{index}")
    os.chdir(f"{folder}/of{index}")
    meet = f"file://{folder}/meet"
    dist.init_process_group("gloo", init_method=meet, rank=index, world_size=WORLD, timeout=PATIENCE)
    try:
        brought = {name: scenario(dist.group.WORLD) for name, scenario in SCENARIOS.items()}
        torch.save(brought, f"{folder}/{index}.pt")
    finally:
        dist.destroy_process_group()


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
    "solvers": AGREE + "solver is 'solve' on rank 0 and 'train' on rank 1",
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
        assert message.startswith(TOGETHER[name]) and seconds < 20


@pytest.mark.parametrize("name", SECOND)
def test_a_mistake_on_one_rank_ends_all(ranks, name):
    first, second = (own["mistakes"][name] for own in ranks)
    assert second[0].startswith(SECOND[name])
    kind, text = second[0].split(": ", 1)
    assert first[0] == f"RuntimeError: rank 1 of 2 failed with {kind}: {text}" and first[1] < 20


def test_an_interrupt_on_one_rank_ends_all_at_the_same_rows(ranks):
    first, second = (own["mistakes"]["interrupted"] for own in ranks)
    assert same(first, second)
    for found in first.values():
        assert found["stop_reason"] == "interrupted" and found["iterations"] == 2


def test_ctrl_c_on_one_rank_waits_for_the_others(ranks):
    first, second = (own["mistakes"]["signalled"] for own in ranks)
    assert same(first, second) and first["stop_reason"] == "interrupted" and first["iterations"] == 3


def test_the_clock_is_that_of_rank_0(ranks):
    first, second = (own["mistakes"]["late"] for own in ranks)
    assert same(first, second) and first["stop_reason"] == "time"


def test_the_mask_is_that_of_rank_0(ranks):
    for own in ranks:
        assert own["mistakes"]["left"][0] == 1 and own["mistakes"]["files"] == []
    assert same(*(own["mistakes"]["left"] for own in ranks))
