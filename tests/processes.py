"""What two processes of test_distributed.py do: functions of their group, of None for one process alone."""

import datetime
import os
import re
import signal
import time
from pathlib import Path

import oracle
import pytest
import torch
from residual_module import Residual, net_of
from torch import distributed as dist
from torch import nn

from bumpnet_fast import BumpNet, problems
from bumpnet_fast.core.ranks import Ranks
from bumpnet_fast.nets.adapt import Pruning, add_bumps, keep_bumps, loss_increases, residual_peaks, rows_at
from bumpnet_fast.problems import sampling
from bumpnet_fast.solvers import grow, march, prune, solve, train

ROOT = Path(__file__).parents[1]
WORLD = 2
#: A rank that waits for one that does not come is told so after this time.
PATIENCE = datetime.timedelta(seconds=300)


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


def to_an_error(group):
    """Over smooth bases of growing size; with a soft boundary the conditions belong to one of the ranks."""
    found = {}
    for name, boundary in (("poisson", "hard"), ("heat", "soft"), ("inverse-heat", "hard")):
        found[name] = outcome(solve(problems.get(name), error=1e-4, boundary=boundary, group=group))
    return found


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
        "stages": lambda: train(*posed(), method="adam+lbfgs", learning_rate=0.1 + second, group=group),
        "option": lambda: solve(*posed(), nonsense=1, group=group),
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
    "to an error": to_an_error,
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
