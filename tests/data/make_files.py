"""Write one small file of each kind that a version of bumpnet_fast writes, for tests/test_older_files.py.

The script calls the interface of this version, and writes its files; for those of another version take the script of
that version, and run it with that version::

    git worktree add old <commit of that version>   # and build its kernels there
    cd old && OMP_NUM_THREADS=1 python tests/data/make_files.py <here>/version-<that version>

The argument is the folder to write; it must not exist yet.  Beside the files the script writes ``expected.json``, by
the name of the file or folder:

========== ===========================================================================================================
models     values ``u`` at three points ``x`` (and a time ``t``, or an input function ``f``), in float64
results    the same, and the numbers of the result, of whole folders that the command line wrote
recordings iteration and number of bumps of every frame
runs       "stopped": number of entries in the history of an unfinished run, where the last entry was made, and its
           loss; "ended": what the run ends with when it is resumed
commands   the same of unfinished runs of the command line, without "stopped"
========== ===========================================================================================================

The state of `evolve` with frozen bumps is in coordinates of a singular value decomposition, which is computed again
when the run is resumed.  Of equal bumps the singular values come in pairs, whose vectors depend on rounding: on another
processor such a run goes on from another function.  So the bumps here are not equal.

The numbers come from the objects in memory and from a run that is resumed by the version that wrote it; all of a
resumed run is bounded by the settings in its file, so that it takes a few iterations.
"""

import contextlib
import copy
import itertools
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import scipy
import torch

import bumpnet_fast
from bumpnet_fast import BumpDeepONet, BumpNet, problems
from bumpnet_fast.cli import command as commands
from bumpnet_fast.cli import main as command_line
from bumpnet_fast.cli import writing
from bumpnet_fast.io import load, resume, save
from bumpnet_fast.problems.evolution import get_evolution
from bumpnet_fast.problems.operators import get_operator
from bumpnet_fast.solvers import (
    Evolution,
    OperatorSolution,
    evolve,
    grow,
    learn,
    march,
    prune,
    reach,
    solve,
    uniform_net,
)
from bumpnet_fast.solvers.solution import FieldResult

#: Where values are compared: fractions of the box, three points of up to three coordinates.
POINTS = torch.tensor([[0.21, 0.83, 0.4], [0.55, 0.37, 0.7], [0.88, 0.12, 0.2]], dtype=torch.float64)


def seeded(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


# --- nets ----------------------------------------------------------------------------------------


def net_for(problem, bumps=(3, 3), **options) -> BumpNet:
    """A small net, slightly irregular, so that no two of its bumps are alike."""
    net = BumpNet(len(problem.lower), bumps, problem.domain, problem.outputs, **{"dtype": "float64"} | options)
    return net.perturb_(0.02, seeded())


def operator_net(operator, branch=(), bumps=5) -> BumpDeepONet:
    torch.manual_seed(0)
    return BumpDeepONet(operator.sensors, bumps, operator.domain, branch=branch, dtype="float64")


def small_operator():
    """Its functions change fast: the less singular their covariance, the less its square root magnifies rounding."""
    return get_operator("antiderivative", sensors=8, grid=20, length_scale=0.05)


#: Points of the runs, whose files hold them, and what keeps the operators' small.
FEW = 90
SMALL = {"functions": 20, "test_functions": 5, "trunk_iterations": 5, "iterations": 8, "batch": 8}


# --- saved models --------------------------------------------------------------------------------


def points(domain) -> torch.Tensor:
    lower, upper = torch.as_tensor(domain, dtype=torch.float64)
    return lower + (upper - lower) * POINTS[:, : len(lower)]


def values(u: Callable, domain, **more) -> dict:
    """What is expected of a function ``u`` of points."""
    x = points(domain)
    with torch.no_grad():
        return {"x": x.tolist(), **more, "u": u(x).tolist()}


def a_net(path):
    net = BumpNet(2, 4, [[0.0, -1.0], [2.0, 1.0]], outputs=2, outer="free").perturb_(0.3, seeded())
    with torch.no_grad():
        net.amplitudes.normal_(generator=seeded(1))
    save(path, net)
    return values(copy.deepcopy(net).double(), net.domain, dtype="float32")


def a_solution(path, name, boundary):
    problem = problems.get(name)
    solution = solve(problem, net_for(problem), boundary=boundary, iterations=3)
    save(path, solution)
    return values(solution.predict, problem.domain, dtype="float64", boundary=boundary)


def a_march(path):
    problem = problems.get("advection")
    solution = march(problem, (3, 3), windows=2, iterations=3)
    save(path, solution)
    return values(solution.predict, problem.domain, dtype="float64", boundary=solution.boundary, windows=2)


def an_evolution(path):
    run = evolve(get_evolution("heat"), 6, times=3)
    save(path, run)
    t = 0.4 * float(run.times[-1])  # between two of the states
    return values(lambda x: run.predict(x, t), run.problem.domain, t=t)


def an_operator(path, branch):
    operator = small_operator()
    solution = learn(operator, operator_net(operator, branch), **SMALL)
    save(path, solution)
    return operator_values(solution.net, operator.domain)


def operator_values(net, domain) -> dict:
    f = torch.cos(3 * torch.linspace(0, 1, net.sensors, dtype=torch.float64))[None]
    return values(lambda x: net(f, x), domain, f=f.tolist())


MODELS = {
    "net.pt": a_net,
    "hard.pt": lambda path: a_solution(path, "poisson", "hard"),
    "soft.pt": lambda path: a_solution(path, "helmholtz", "soft"),
    "march.pt": a_march,
    "evolution.pt": an_evolution,
    "operator-linear.pt": lambda path: an_operator(path, ()),
    "operator-hidden.pt": lambda path: an_operator(path, (4,)),
}


# --- unfinished runs -----------------------------------------------------------------------------


def interrupt_at(number: int) -> Callable:
    """A callback that raises KeyboardInterrupt at its ``number``-th call, counted from 0."""
    calls = itertools.count()

    def callback(progress):
        if next(calls) == number:
            raise KeyboardInterrupt

    return callback


def solving(name, function=solve, bumps=(3, 3), arguments=(), dtype="float64", **options):
    def run(**follow):
        problem = problems.get(name)
        chosen = {"points": FEW, "every_seconds": 0} | options
        return function(problem, net_for(problem, bumps, dtype=dtype), *arguments, **chosen, **follow)

    return run


def training(method, **options):
    def run(**follow):
        problem = problems.get("poisson")
        chosen = {"points": FEW, "log_every": 2, "iterations": 12} | options
        return solve(problem, net_for(problem), method=method, every_seconds=0, **chosen, **follow)

    return run


def marching(**follow):
    options = {"windows": 2, "iterations": 4, "points": FEW, "every_seconds": 0}
    return march(problems.get("advection"), (3, 3), **options, **follow)


def evolving(name, bumps, **options):
    def run(**follow):
        problem = get_evolution(name)
        net = uniform_net(problem, bumps).perturb_(0.1, seeded())  # see `evolve` in the note above
        return evolve(problem, net, **{"times": 4, "measure": False} | options, every_seconds=0, **follow)

    return run


def learning(branch, bumps=5, **options):
    def run(**follow):
        operator = small_operator()
        net = operator_net(operator, branch, bumps)
        return learn(operator, net, **SMALL | options, every_seconds=0, **follow)

    return run


#: By name: the run, the call of the callback at which it stops, and what must be true of the unfinished result.
RUNS: dict[str, tuple[Callable, int, Callable]] = {
    "solve-varpro": (solving("poisson", iterations=6), 3, lambda s: s.method == "varpro"),
    "solve-gauss-newton": (
        solving("inverse-heat", iterations=6), 3, lambda s: s.method == "gauss-newton" and s.unknowns,
    ),
    "solve-lm": (solving("poisson", method="lm", iterations=6), 3, lambda s: s.method == "lm"),
    "solve-refined": (solving("poisson", refine=1, iterations=8), 6, lambda s: s.iterations > 4),
    "solve-float32": (
        solving("poisson", dtype="float32", iterations=4), 2, lambda s: s.net.rows.dtype == torch.float32,
    ),
    "train-adam": (
        training("adam", batch=30, resample=4, sampling="uniform"), 3, lambda s: s.history[-1]["stage"] == "adam",
    ),
    "train-adam-lbfgs": (
        training("adam+lbfgs", iterations=(6, 8)), 6, lambda s: s.history[-1]["stage"] == "lbfgs",
    ),
    "train-varpro-adam": (training("varpro-adam"), 3, lambda s: s.method == "varpro-adam"),
    "train-pruning": (
        training("adam", prune_threshold=0.8, prune_every=5, iterations=20), 3, lambda s: len(s.events) == 1,
    ),
    "march": (marching, 7, lambda s: len(s.parts) == 2),
    "prune": (solving("poisson", prune, arguments=(6,), iterations=3), 6, lambda s: len(s.events) == 1),
    "grow": (solving("poisson", grow, arguments=(13,), iterations=3), 6, lambda s: len(s.events) == 1),
    "reach": (
        solving("poisson", reach, (2, 3), arguments=(3e-2,), most=30, iterations=6), 9, lambda s: len(s.events) == 1,
    ),
    "evolve-rk4": (evolving("advection", 8, method="rk4", step=0.05), 2, lambda r: r.method == "rk4"),
    "evolve-etdrk4": (evolving("burgers", 10, method="etdrk4", tolerance=1e-3), 2, lambda r: r.method == "etdrk4"),
    "evolve-dop853": (evolving("burgers", 10, method="dop853", tolerance=1e-4), 2, lambda r: r.method == "dop853"),
    "evolve-bdf": (evolving("burgers", 10, method="bdf", tolerance=1e-4), 2, lambda r: r.method == "bdf"),
    "evolve-moving": (evolving("advection", 4, shapes="evolve", step=0.25), 2, lambda r: r.shapes == "evolve"),
    "operator-trunk": (learning(()), 3, lambda s: s.history[-1]["stage"] == "trunk"),
    "operator-branch": (learning((4,)), 10, lambda s: s.history[-1]["stage"] == "branch"),
    "operator-adam": (learning((4,), method="adam"), 4, lambda s: s.history[-1]["stage"] == "adam"),
    "operator-lbfgs": (
        learning((), bumps=3, method="adam", polish=40, iterations=6), 7, lambda s: s.history[-1]["stage"] == "lbfgs",
    ),
}  # fmt: skip


def unfinished(name: str, folder: Path) -> dict:
    """Write the state of an unfinished run; say where it stopped and what it ends with."""
    run, stop, fits = RUNS[name]
    path = folder / f"{name}.pt"
    stopped = run(checkpoint=path, callback=interrupt_at(stop))
    assert stopped.stop_reason == "interrupted", (name, stopped.stop_reason)
    assert fits(stopped), (name, stopped)
    with tempfile.TemporaryDirectory() as scratch:
        again = Path(scratch, "run.pt")
        shutil.copy(path, again)
        ended = resume(again)
    assert len(ended.history) > len(stopped.history), name
    return {"stopped": last_entry(stopped.history), "ended": numbers(ended)}


def last_entry(history: list[dict]) -> dict:
    entry = {key: value for key, value in history[-1].items() if key in ("iteration", "time", "loss", "norm")}
    return {"entries": len(history)} | entry


def numbers(result) -> dict:
    """What every result has, and what an evolution has instead of a loss."""
    found = {"bumps": len(result.net.rows), "rel_l2": result.rel_l2, "entries": len(result.history)}
    found["stop_reason"] = result.stop_reason
    if isinstance(result, Evolution):
        return found | {"steps": result.steps, "norm": result.history[-1]["norm"]}
    found |= {"iterations": result.iterations, "loss": result.loss}
    if isinstance(result, FieldResult):
        found |= {"unknowns": result.unknowns} if result.unknowns else {}
        events = [[event.kind, event.before, event.after] for event in result.events]
        found |= {"events": events} if events else {}
    return found


# --- what the command line leaves behind ---------------------------------------------------------

_OPERATOR = (
    "operator antiderivative --bumps 5 --set sensors=8 --set grid=20 --set length_scale=0.05 --set functions=20 "
    "--set batch=8 --set test_functions=5 --set trunk_iterations=5 --set iterations=8"
)

FOLDERS = {
    "solve": "solve inverse-heat --bumps 3x3 --prune-to 7 --animate --set iterations=2 --set points=90 --seed 3",
    "windows": "solve advection --bumps 3x3 --windows 2 --set iterations=3 --set points=90",
    "evolve": "evolve heat --bumps 6 --seed 3 --set perturb=0.1 --set times=3 --no-animation",
    "operator": f"{_OPERATOR} --branch 4",
}
#: By name: the arguments, and the progress at which the run stops.
STOPPED = {
    "unfinished-solve": ("solve poisson --bumps 3x3 --animate --set iterations=6 --set points=90", 3),
    "unfinished-evolve": ("evolve heat --bumps 6 --seed 3 --set perturb=0.1 --set times=4 --no-animation", 2),
    "unfinished-operator": (f"{_OPERATOR} --branch linear", 3),
}


def command(line: str, folder: Path, *more: str) -> int:
    """Run the command line, without its pictures."""
    with mock.patch.object(writing, "write_picture"):
        return command_line([*line.split(), "--out", str(folder), "--threads", "1", "--quiet", *more])


def whole_folder(name: str, folder: Path) -> dict:
    assert command(FOLDERS[name], folder, "--json", str(folder.with_name(f"{name}.json"))) == 0, name
    result = load(folder)
    if isinstance(result, Evolution):
        t = 0.4 * float(result.times[-1])
        return numbers(result) | values(lambda x: result.predict(x, t), result.problem.domain, t=t)
    if isinstance(result, OperatorSolution):
        return numbers(result) | operator_values(result.net, result.operator.domain)
    return numbers(result) | values(result.predict, result.problem.domain)


def stopped_folder(name: str, folder: Path) -> dict:
    """Let Ctrl-C stop the command; keep only what is there while a run is going on."""
    line, stop = STOPPED[name]

    @contextlib.contextmanager
    def progress(arguments, watched=()):
        yield interrupt_at(stop)

    kind = line.split()[0]
    with mock.patch.object(commands, "progress", progress):
        assert command(line, folder) == 130, name
    for leftover in ("model.pt", "history.json", "summary.json"):
        (folder / leftover).unlink()
    with tempfile.TemporaryDirectory() as scratch:
        again = Path(scratch, "again")
        shutil.copytree(folder, again)
        with mock.patch.object(writing, "write_picture"):
            assert command_line([kind, "--resume", str(again), "--threads", "1", "--quiet"]) == 0, name
        return {"command": kind} | numbers(load(again))


# --- all of it -----------------------------------------------------------------------------------


def main(target: Path) -> None:
    target.mkdir(parents=True)
    torch.set_num_threads(1)
    version = {"bumpnet_fast": bumpnet_fast.__version__, "torch": str(torch.__version__), "scipy": scipy.__version__}
    for name in ("models", "runs", "results", "commands"):
        (target / name).mkdir()
    expected = {
        "versions": version,
        "models": {name: make(target / "models" / name) for name, make in MODELS.items()},
        "runs": {name: unfinished(name, target / "runs") for name in RUNS},
        "results": {name: whole_folder(name, target / "results" / name) for name in FOLDERS},
        "commands": {name: stopped_folder(name, target / "commands" / name) for name in STOPPED},
    }
    frames = {path: load(path) for path in sorted(target.rglob("training.pt"))}
    expected["recordings"] = {
        path.relative_to(target).as_posix(): [[frame.iteration, len(frame.rows)] for frame in kept]
        for path, kept in frames.items()
    }
    (target / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
