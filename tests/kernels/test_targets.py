"""Every kernel that can be launched compiles for every target, ahead of time: no GPU is needed.

A compilation takes 0.3 to 4 seconds (d = 1 to 4), nearly all of it Triton's own work, so not every combination is
compiled every time.  With d <= 2 the kernels of the jets are compiled for every target, want and dtype; with d > 2, and
all other kernels, for every want and dtype, and a target in turn.  Outputs, ties, missing cotangents and sizes, which
choose the configuration, take turns everywhere.  BUMPNET_TEST_COMPILE=all in the environment compiles every kernel for
every d, want, dtype, number of outputs, tie and target: an hour or two.
"""

import importlib.util
import itertools
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch

if importlib.util.find_spec("triton") is None or importlib.util.find_spec("triton.backends.nvidia") is None:
    pytest.skip("no Triton with its compilers", allow_module_level=True)

from compiled import KERNELS, Build, failure, launches, specialise

from bumpnet_fast.core.reference import VALUE
from bumpnet_fast.kernels import operators

TARGETS = {"sm_80": ("cuda", 80), "sm_90": ("cuda", 90), "sm_100": ("cuda", 100), "sm_120": ("cuda", 120),
           "gfx942": ("hip", "gfx942", 64)}  # fmt: skip
DIMS = range(1, operators.MAX_DIM + 1)
OUTPUTS = range(1, operators.MAX_OUTPUTS + 1)
DTYPES = (torch.float32, torch.float64)
#: Points and bumps: each row of the tables of configurations, blocks of bumps large and small.
SIZES = ((2500, 40), (2**15, 1000), (2**17, 7), (2**20, 1000), (7, 1), (10**6, 100))
GIVEN = tuple(itertools.product((True, False), repeat=2))
JETS = ("jet_kernel", "jet_vjp_rows_kernel", "jet_vjp_x_kernel")
EVERYTHING = os.environ.get("BUMPNET_TEST_COMPILE") == "all"


def cases():
    """Arguments of ``launches``, a target, and whether it is the target's turn."""
    for turn, (dtype, dim, want, at) in enumerate(itertools.product(DTYPES, DIMS, range(5), range(len(TARGETS)))):
        target = list(TARGETS)[at]
        its_turn = (dim + want + DTYPES.index(dtype)) % len(TARGETS) == at
        later = turn // len(TARGETS) + at  # other choices than for the target before, and than for the want before
        if EVERYTHING:
            for outputs, tied in itertools.product(OUTPUTS, (True, False)):
                some = later + outputs + tied
                yield (dim, want, *SIZES[some % 6], outputs, dtype, tied, GIVEN[some % 4]), target, True
        elif dim <= 2 or its_turn:
            case = (dim, want, *SIZES[later % 6], OUTPUTS[turn % 4], dtype, bool(later % 2), GIVEN[turn % 4])
            yield case, target, its_turn


@pytest.fixture(scope="module")
def builds() -> dict[Build, tuple]:
    """What to compile, without repetition, and the first case that launches it."""
    found = {}
    for case, target, its_turn in cases():
        for launch in launches(*case):
            if its_turn or launch.name in JETS:
                found.setdefault(specialise(launch, *TARGETS[target]), (target, *case))
    return found


@pytest.fixture(scope="module")
def failures(builds, tmp_path_factory):
    """Compiled in as many processes as there are processors, into a new cache: the user's would hide failures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        patch.setenv("OMP_NUM_THREADS", "1")
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(os.cpu_count(), mp_context=spawn) as pool:
            outcomes = pool.map(failure, builds, chunksize=4)
            return {build: why for build, why in zip(builds, outcomes, strict=True) if why is not None}


@pytest.mark.long
@pytest.mark.parametrize("target", TARGETS)
def test_every_kernel_compiles(builds, failures, target):
    print(f"{sum(case[0] == target for case in builds.values())} kernels for {target}")
    wrong = [
        f"{build.name} {builds[build][1:]}: {why}" for build, why in failures.items() if builds[build][0] == target
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("target", TARGETS)
def test_one_kernel_compiles(tmp_path, monkeypatch, target):
    """What `make test` compiles for every target."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    [launch] = (one for one in launches(1, VALUE) if one.name == "jet_kernel")
    assert failure(specialise(launch, *TARGETS[target])) is None


@pytest.mark.long
def test_a_failure_is_seen(builds, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    build = next(iter(builds))
    broken = build._replace(constants=tuple((name, 3 if name == "BLOCK" else value) for name, value in build.constants))
    assert "power of 2" in failure(broken)


@pytest.mark.long
def test_what_is_compiled_meets_every_value_of_every_choice(builds):
    for kernel in KERNELS:
        met = [(dict(b.constants), dict(b.signature), case[0]) for b, case in builds.items() if b.name == kernel]
        values = {name: {constants.get(name) for constants, _, _ in met} for name in met[0][0]}
        wanted = {"D": set(DIMS), "WANT": set(range(5)), "TIED": {True, False}, "HAS0": {True, False},
                  "HAS1": {True, False}, "FAST": {True, False}}  # fmt: skip
        for name, everything in wanted.items():
            assert values.get(name, everything) == everything, f"{kernel}: {name}"
        outputs = values.get("K", {0}) - {0}  # 0: the amplitudes take no part
        assert outputs in (set(), set(OUTPUTS)), f"{kernel}: K"
        together = {(target, c["D"], kind) for c, s, target in met for kind in ("*fp32", "*fp64") if kind in s.values()}
        assert together >= set(itertools.product(TARGETS, DIMS, ("*fp32", "*fp64"))), kernel
        if "WANT" in met[0][0]:
            every = {(c["D"], c["WANT"], kind) for c, s, _ in met for kind in ("*fp32", "*fp64") if kind in s.values()}
            assert every == set(itertools.product(DIMS, range(5), ("*fp32", "*fp64"))), kernel
