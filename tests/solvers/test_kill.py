"""kill -9 at any moment, inside a write too: at most the last interval is computed again, and to the same bits.

BUMPNET_TEST_KILLS in the environment says how many runs are killed, twice each; ``make kills`` takes 20.
"""

import builtins
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bumpnet_fast import BumpNet
from bumpnet_fast.core import files
from bumpnet_fast.io import resume
from bumpnet_fast.problems import get
from bumpnet_fast.problems.evolution import get_evolution
from bumpnet_fast.solvers import evolve, march, run_state, solve, train

HERE = Path(__file__).parent
KILLS = int(os.environ.get("BUMPNET_TEST_KILLS", "2"))
#: Where in a write the process dies; or at any time at all.
PLACES = ("any", "begin", "half", "sync", "replace", "end")
#: A state is written at every look: none of the iterations told may be missing in the file.
FOLLOW = {"every_seconds": 0}


def begin(name, **follow):
    """A run of half a second."""
    if name == "evolve":
        return evolve(get_evolution("heat"), 12, times=40, method="bdf", **follow)
    problem = get("burgers" if name == "march" else "poisson")
    if name == "march":
        return march(problem, (3, 3), windows=2, iterations=20, tolerance=0.0, **follow)
    net = BumpNet(2, (3, 4), problem.domain, dtype="float64")
    if name == "solve":
        return solve(problem, net, iterations=40, tolerance=0.0, **follow)
    return train(problem, net, method="adam+lbfgs", iterations=(40, 20), points=150, log_every=1, **follow)


# --- the process that dies -------------------------------------------------------------------------


def child(name, path, place, number):
    """Begin the run, or go on with it, and die in the ``number``-th write."""
    torch.set_num_threads(1)
    torch.manual_seed(0)  # of which a run that had not begun to compute has stored nothing
    if place != "any":
        die_in(place, int(number))
    follow = FOLLOW | {"callback": lambda progress: print("told", flush=True)}
    resume(path, **follow) if os.path.exists(path) else begin(name, checkpoint=path, **follow)


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def half_written(*arguments):
    file = builtins.open(*arguments)  # noqa: SIM115

    class Half:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            file.close()

        def write(self, content):
            file.write(content[: len(content) // 2])
            file.flush()
            die()

    return Half()


def die_in(place, number):
    write, count = files._replace, itertools.count(1)

    def doomed(path, content):
        if next(count) != number:
            return write(path, content)
        if place == "begin":
            die()
        elif place == "half":
            files.open = half_written
        elif place != "end":
            setattr(os, {"sync": "fsync", "replace": "replace"}[place], die)
        write(path, content)
        die()

    files._replace = doomed


# --- the one that looks on --------------------------------------------------------------------------


def kept(path):
    """Of how many iterations the file knows."""
    content = run_state.load(path)
    if content["state"] is None:
        return 0
    if content["solver"] != "march":
        return len(content["state"]["history"])
    parts = [*content["state"]["done"], *filter(None, [content["state"]["now"]])]
    return sum(len(part["history"]) for part in parts)


def killed(name, path, dice, place):
    """Let a process die; how many iterations it told of."""
    code = f"import sys; sys.path.insert(1, {str(HERE)!r}); import test_kill; test_kill.child(*sys.argv[1:])"
    command = [sys.executable, "-c", code, name, str(path), place, str(dice.randint(1, 5))]
    process = subprocess.Popen(command, cwd=HERE.parents[1], stdout=subprocess.PIPE, text=True)
    told = 0
    if place == "any":
        for _ in range(dice.randint(0, 8)):
            told += bool(process.stdout.readline())
        time.sleep(dice.uniform(0, 0.02))
        process.kill()
    told += process.communicate()[0].count("told")
    assert process.returncode == -signal.SIGKILL
    return told


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        keys = {key for key in one if not str(key).endswith("seconds")} - {"ended"}
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in keys)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
@pytest.mark.parametrize("seed", range(KILLS))
def test_a_run_killed_twice_ends_as_if_it_had_not_been(seed, tmp_path):
    dice, name = random.Random(seed), ("train", "solve", "march", "evolve")[seed % 4]
    folder = tmp_path / "run"
    folder.mkdir()
    path, before = folder / "run.pt", 0
    for place in dice.sample(PLACES, 2):
        told = killed(name, path, dice, place)
        assert path.exists() or told == 0
        after = kept(path) if path.exists() else 0
        assert after >= before + told, f"{place}: {told} iterations after {before}, and {after} kept"
        before = after
    torch.manual_seed(0)
    resume(path) if path.exists() else begin(name, checkpoint=path, **FOLLOW)
    assert os.listdir(folder) == ["run.pt"]
    torch.manual_seed(0)
    begin(name, checkpoint=tmp_path / "whole.pt", **FOLLOW)
    assert same(*(torch.load(file, weights_only=True) for file in (path, tmp_path / "whole.pt")))
