"""The operators as a GPU would run them: what Triton's compiler writes for it, executed, against the float64 reference.

Every launch of a call to ``jet`` and ``jet_vjp`` is compiled ahead of time and its PTX interpreted (ptx.py), with the
inline assembly and the device's own exponential.  No GPU is needed.
"""

import importlib.util

import pytest
import torch

if importlib.util.find_spec("triton") is None:
    pytest.skip("no Triton", allow_module_level=True)
if importlib.util.find_spec("triton.backends.nvidia") is None:
    pytest.skip("Triton without its compilers", allow_module_level=True)

import compiled
import oracle
from emulated import emulated
from test_kernels import TOLERANCES, cast, levels, problem, wanted

from bumpnet_fast.reference import WANTS

operators = compiled.operators()
TARGETS = (80, 90, 100, 120)
NAMES = ("jet", "jet_vjp")
#: Numbers of points and bumps, few of them: ragged, divisible by 16, and one, which is compiled in.
FEW = ((75, 11), (96, 16), (1, 5), (40, 1))


@pytest.fixture
def many(monkeypatch):
    """Configurations as for 2^20 points and 1000 bumps, chunks of 64 points apart."""
    by_points, by_bumps = operators.by_points, operators.by_bumps
    monkeypatch.setattr(operators, "by_points", lambda n, *rest: by_points(2**20, *rest))
    monkeypatch.setattr(operators, "by_bumps", lambda n, m, *rest: (*by_bumps(2**20, 1000, *rest)[:2], 64, -(-n // 64)))


def run(name, *args):
    return getattr(operators, name)(*args)


def check(args, dtype, name, want, result=None):
    """Run on the emulated device, compare, and return the errors."""
    args = cast(args, dtype)
    before = [t.clone() if isinstance(t, torch.Tensor) else t for t in args]
    got = run(name, *args)
    assert all(torch.equal(t, b) for t, b in zip(args, before, strict=True) if isinstance(t, torch.Tensor))
    result = wanted(name, args) if result is None else result
    errors = [oracle.error(g, w) for g, w in zip(got, result, strict=True)]
    limits = [TOLERANCES[dtype][level] for level in levels(name, want)]
    assert all(e <= limit for e, limit in zip(errors, limits, strict=True)), f"{name}: {errors}"
    print(f"{name} {dtype} {' '.join(f'{e:.1e}' for e in errors)}")
    return errors


def step(dim, tied, want, n, m, outputs, dtype):
    for name, args in problem(dim, tied, want, n, m, outputs).items():
        if name in NAMES:
            check(args, dtype, name, want)


# --- whole calls -----------------------------------------------------------------------------------


def turns():
    """Every dimension with every want; targets, sizes, outputs and ties take turns."""
    for dim in (1, 2, 3, 4):
        for want in range(5):
            turn = 5 * (dim - 1) + want
            yield pytest.param(turn, dim, want, id=f"{dim}-{WANTS[want]}-sm_{TARGETS[turn // 2 % 4]}")


@pytest.mark.parametrize("turn, dim, want", turns())
def test_float32(request, turn, dim, want):
    if turn % 2:
        request.getfixturevalue("many")
    n, m = (1100, 7) if turn % 2 else FEW[turn // 2 % 4]
    arch, outputs, tied = TARGETS[turn // 2 % 4], 1 + (turn % 3 == 0), bool(turn // 3 % 2)
    with emulated(arch) as ran:
        step(dim, tied, want, n, m, outputs, torch.float32)
    assert [one.launch.name for one in ran] == [
        "pack_kernel", "jet_kernel", "pack_kernel", "jet_vjp_rows_kernel", "unpack_gradient_kernel", "jet_vjp_x_kernel",
    ]  # fmt: skip
    for one in ran:
        if one.launch.name.startswith("jet"):
            assert "rcp.approx.ftz.f32" in one.text and "ex2.approx.ftz.f32" in one.text
            assert "div." not in one.text
