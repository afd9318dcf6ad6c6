"""Compile the kernels for a target that is not there, exactly as ``kernels.operators`` would launch them.

Launches are recorded on meta tensors, which have sizes but no memory, and compiled ahead of time with what Triton's
launcher would specialise: pointers and integers divisible by 16, integers equal to 1.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from bumpnet_fast.core.ops import OPERATORS
from bumpnet_fast.core.reference import DIAGONAL, second_shape
from bumpnet_fast.core.rows import RowLayout
from bumpnet_fast.kernels import operators, tiles

#: The kernels that operators.py launches.
KERNELS = tuple(name for name in vars(operators) if name.endswith("_kernel"))
#: Those that tiles.py launches, where pairs are left out.
SORTING = tuple(name for name in vars(tiles) if name.endswith("_kernel"))
#: Where a kernel is looked up by its name.
OWNERS = dict.fromkeys(KERNELS, operators) | dict.fromkeys(SORTING, tiles)


class Launch(NamedTuple):
    name: str
    kernel: object
    grid: tuple
    args: tuple
    options: dict


class Recorder:
    """Stands in for a kernel: ``kernel[grid](...)`` is written down, and passed on if ``run``."""

    def __init__(self, name, kernel, launches, run=False):
        self.name, self.kernel, self.launches, self.run = name, kernel, launches, run

    def __getitem__(self, grid):
        def launch(*args, **options):
            self.launches.append(Launch(self.name, self.kernel, grid, args, options))
            if self.run:
                self.kernel[grid](*args, **options)

        return launch


def record(monkeypatch, run=False) -> list[Launch]:
    """The list that all launches go to from now on."""
    launches = []
    for name, owner in OWNERS.items():
        monkeypatch.setattr(owner, name, Recorder(name, getattr(owner, name), launches, run))
    return launches


def arguments(dim, want, n=2**20, m=1000, outputs=1, dtype=torch.float32, tied=True, given=(True, True)) -> dict:
    """Of every operator that has kernels, on meta tensors; ``given``: cotangents of the values, and of the gradients.

    The highest one is always there: without it the operators would do less than ``want``.
    """

    def empty(*shape):
        return torch.empty(shape, device="meta", dtype=dtype)

    kinds = [(), (dim,), second_shape(want, dim)][: min(want, DIAGONAL) + 1]
    there = [*given, True][: len(kinds) - 1] + [True]

    def weights(shape):
        made = [empty(*shape(kind)) if here else None for kind, here in zip(kinds, there, strict=True)]
        return made + [None] * (3 - len(made))

    bumps = [empty(n, dim), empty(m, RowLayout(dim, outputs, tied).columns), empty(3, dim), want, tied]
    made = {
        "jet": bumps,
        "jet_vjp": [*weights(lambda kind: (n, outputs, *kind)), *bumps, True, True],
        "basis": bumps,
        "basis_vjp": [*weights(lambda kind: (m, *kind, n)), *bumps, True, True],
        "design": [*weights(lambda kind: (n, *kind)), *bumps, True],
    }
    return {name: made[name] for name in OPERATORS if hasattr(operators, name)}


def launches(*case, **more) -> list[Launch]:
    """What a step with gradients of everything launches, as it would on a GPU; the case as for :func:`arguments`."""
    with pytest.MonkeyPatch.context() as patch:
        made = record(patch)
        for name, args in arguments(*case, **more).items():
            getattr(operators, name)(*args)
        return made


def culled_launches(*case, **more) -> list[Launch]:
    """The same of the jets with pairs left out, the lists being of some length."""
    with pytest.MonkeyPatch.context() as patch:
        made = record(patch)
        patch.setattr(tiles, "may_wait", lambda x: True)
        patch.setattr(tiles, "read", lambda numbers: [10**5] * len(numbers))
        for name in ("jet", "jet_vjp"):
            getattr(operators, name)(*arguments(*case, **more)[name], culling="always")
        return made


def is_compiled_in(value) -> bool:
    """Whether an argument is no parameter of the compiled kernel any more."""
    return value is None or (not isinstance(value, torch.Tensor) and value == 1)


def shortened(cases, short) -> list:
    """Cases as parameters of a test, of which `make test` runs the short one, and `make test-all` the others."""
    assert short in cases
    return [case if case == short else pytest.param(case, marks=pytest.mark.long) for case in cases]


_POINTERS = {torch.float32: "*fp32", torch.float64: "*fp64", torch.int16: "*i16", torch.int32: "*i32",
             torch.int64: "*i64"}  # fmt: skip


class Build(NamedTuple):
    """A kernel specialised as Triton's launcher would, and a target: plain data, so that any process can compile it."""

    name: str
    signature: tuple
    constants: tuple
    attributes: tuple
    options: tuple
    target: tuple


def specialise(launch: Launch, backend: str, arch, warp: int = 32) -> Build:
    constants = dict(launch.options)
    options = (("num_warps", constants.pop("num_warps")),)
    constants["FAST"] = backend == "cuda" and _real(launch) == torch.float32
    names = launch.kernel.arg_names
    constants = {name: value for name, value in constants.items() if name in names}
    signature, attributes = {}, []
    for i, (name, value) in enumerate(zip(names, launch.args, strict=False)):
        if isinstance(value, torch.Tensor):
            signature[name] = _POINTERS[value.dtype]
            if value.data_ptr() % 16 == 0:  # meta tensors: 0
                attributes.append(i)
        elif is_compiled_in(value):
            constants[name] = value
        else:
            signature[name] = "i32" if abs(value) < 2**31 else "i64"
            if value % 16 == 0:
                attributes.append(i)
    signature |= {name: "constexpr" for name in constants}
    pieces = (tuple(signature.items()), tuple(constants.items()), tuple(attributes), options)
    return Build(launch.name, *pieces, (backend, arch, warp))


def compile_build(build: Build, kernel=None):
    """By default the kernel of that name in operators.py or tiles.py."""
    from triton import compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    attributes = {(i,): [["tt.divisibility", 16]] for i in build.attributes}
    kernel = kernel or getattr(OWNERS[build.name], build.name)
    source = ASTSource(kernel, signature=dict(build.signature), constexprs=dict(build.constants), attrs=attributes)
    return compile(source, target=GPUTarget(*build.target), options=dict(build.options))


def compile_launch(launch: Launch, *target):
    return compile_build(specialise(launch, *target), launch.kernel)


def failure(build: Build) -> str | None:
    """Why it does not compile, or None."""
    try:
        binary = compile_build(build)
    except Exception as error:  # of any kind: it is what the test reports
        return f"{type(error).__name__}: {error}"
    return None if binary.asm.get("cubin") or binary.asm.get("hsaco") else "no binary"


def _real(launch: Launch) -> torch.dtype:
    return next(a.dtype for a in launch.args if isinstance(a, torch.Tensor))


# --- what a cubin says of itself -------------------------------------------------------------------

_GROUPS = {
    "fp32": r"(FADD|FMUL|FFMA)(32I)?(\.|$)",
    "fp64": r"(DADD|DMUL|DFMA|DSETP)(\.|$)",
    "mufu": r"MUFU",
    "load": r"(LDG|LDS|LD|LDC|LDL|LDCU|ULDC)(\.|$)",
}


def tool(name: str) -> Path:
    import triton

    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name


class Usage(NamedTuple):
    """Of a whole kernel."""

    registers: int
    stack: int
    opcodes: Counter

    @property
    def spills(self) -> bool:
        return self.stack > 0 or any(op.startswith(("LDL", "STL")) for op in self.opcodes)


class Profile(NamedTuple):
    """Of the loop with the most MUFU instructions, per pair; and of the kernel."""

    total: float
    mufu: float
    fp32: float
    fp64: float
    load: float
    pairs: float  # in one pass of the loop, per thread
    opcodes: Counter
    usage: Usage


def disassemble(binary) -> tuple[Usage, list[str], dict[str, int]]:
    """What a kernel uses, its instructions, and where its labels point."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(binary.asm["cubin"])

        def say(*command):
            return subprocess.run([*map(str, command), str(cubin)], capture_output=True, text=True, check=True).stdout

        sass = say(tool("nvdisasm"), "-c")
        printed = say(tool("cuobjdump"), "--dump-resource-usage")
    code, labels = [], {}
    for line in sass.splitlines():
        if label := re.match(r"^(\.L_x_\d+):", line):
            labels[label[1]] = len(code)
        elif instruction := re.match(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(.*?);", line):
            code.append(instruction[1])
    registers, stack = (int(re.search(rf"{name}:(\d+)", printed)[1]) for name in ("REG", "STACK"))
    return Usage(registers, stack, Counter(text.split()[0] for text in code)), code, labels


def profile(binary, mufu_per_pair: int) -> Profile:
    usage, code, labels = disassemble(binary)
    loops = []
    for i, text in enumerate(code):
        jump = re.match(r"BRA.*\((\.L_x_\d+)\)", text)
        if jump and labels.get(jump[1], len(code)) < i:
            loops.append([line.split()[0] for line in code[labels[jump[1]] : i + 1]])
    loop = max(loops, key=lambda ops: sum(op.startswith("MUFU") for op in ops))
    counts = {name: sum(bool(re.match(pattern, op)) for op in loop) for name, pattern in _GROUPS.items()}
    pairs = counts["mufu"] / mufu_per_pair
    found = {name: count / pairs for name, count in counts.items()}
    return Profile(len(loop) / pairs, **found, pairs=pairs, opcodes=Counter(loop), usage=usage)
