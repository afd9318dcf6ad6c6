"""Compile the kernels for a target that is not there, exactly as ``kernels.operators`` would launch them.

Launches are recorded on meta tensors, which have sizes but no memory, and compiled ahead of time with what Triton's
launcher would specialise: pointers and integers divisible by 16, integers equal to 1.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch

ROOT = Path(__file__).parents[2]
KERNELS = ("pack_kernel", "jet_kernel", "jet_vjp_rows_kernel", "jet_vjp_x_kernel", "unpack_gradient_kernel",
           "basis_kernel", "basis_vjp_rows_kernel", "basis_vjp_x_kernel", "design_kernel")  # fmt: skip


def operators():
    """``bumpnet_fast.kernels.operators``, in a checkout that is not installed too."""
    if importlib.util.find_spec("bumpnet_fast.kernels") is None:
        where = ROOT / "kernels"
        spec = importlib.util.spec_from_file_location(
            "bumpnet_fast.kernels", where / "__init__.py", submodule_search_locations=[str(where)]
        )
        package = importlib.util.module_from_spec(spec)
        sys.modules["bumpnet_fast.kernels"] = package
        spec.loader.exec_module(package)
    from bumpnet_fast.kernels import operators

    return operators


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
    module, launches = operators(), []
    for name in KERNELS:
        monkeypatch.setattr(module, name, Recorder(name, getattr(module, name), launches, run))
    return launches


def compile_launch(launch: Launch, backend: str, arch, warp: int = 32):
    from triton import compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    constants, options = dict(launch.options), {}
    options["num_warps"] = constants.pop("num_warps")
    constants["FAST"] = backend == "cuda" and _real(launch) == torch.float32
    names = launch.kernel.arg_names
    constants = {name: value for name, value in constants.items() if name in names}
    signature, attributes = {}, {}
    for i, (name, value) in enumerate(zip(names, launch.args, strict=False)):
        if isinstance(value, torch.Tensor):
            signature[name] = {torch.float32: "*fp32", torch.float64: "*fp64"}[value.dtype]
            attributes[(i,)] = [["tt.divisibility", 16]]
        elif value == 1:
            constants[name] = 1
        else:
            signature[name] = "i32" if abs(value) < 2**31 else "i64"
            if value % 16 == 0:
                attributes[(i,)] = [["tt.divisibility", 16]]
    signature |= {name: "constexpr" for name in constants}
    source = ASTSource(launch.kernel, signature=signature, constexprs=constants, attrs=attributes)
    return compile(source, target=GPUTarget(backend, arch, warp), options=options)


def _real(launch: Launch) -> torch.dtype:
    return next(a.dtype for a in launch.args if isinstance(a, torch.Tensor))


# --- what a cubin says of itself -------------------------------------------------------------------

_GROUPS = {
    "fp32": r"(FADD|FMUL|FFMA)(32I)?(\.|$)",
    "mufu": r"MUFU",
    "load": r"(LDG|LDS|LD|LDC|LDL|LDCU|ULDC)(\.|$)",
}


def tool(name: str) -> Path:
    import triton

    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name


class Profile(NamedTuple):
    """Of the loop with the most MUFU instructions, per pair; and of the kernel."""

    total: float
    mufu: float
    fp32: float
    load: float
    pairs: float  # in one pass of the loop, per thread
    opcodes: Counter
    everything: Counter  # opcodes of the whole kernel
    registers: int
    stack: int


def profile(binary, mufu_per_pair: int) -> Profile:
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(binary.asm["cubin"])

        def say(*command):
            return subprocess.run([*map(str, command), str(cubin)], capture_output=True, text=True, check=True).stdout

        sass = say(tool("nvdisasm"), "-c")
        usage = say(tool("cuobjdump"), "--dump-resource-usage")
    code, labels = [], {}
    for line in sass.splitlines():
        if label := re.match(r"^(\.L_x_\d+):", line):
            labels[label[1]] = len(code)
        elif instruction := re.match(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(.*?);", line):
            code.append(instruction[1])
    loops = []
    for i, text in enumerate(code):
        jump = re.match(r"BRA.*\((\.L_x_\d+)\)", text)
        if jump and labels.get(jump[1], len(code)) < i:
            loops.append([line.split()[0] for line in code[labels[jump[1]] : i + 1]])
    loop = max(loops, key=lambda ops: sum(op.startswith("MUFU") for op in ops))
    counts = {name: sum(bool(re.match(pattern, op)) for op in loop) for name, pattern in _GROUPS.items()}
    pairs = counts["mufu"] / mufu_per_pair
    found = {name: count / pairs for name, count in counts.items()}
    registers, stack = (int(re.search(rf"{name}:(\d+)", usage)[1]) for name in ("REG", "STACK"))
    everything = Counter(text.split()[0] for text in code)
    return Profile(len(loop) / pairs, **found, pairs=pairs, opcodes=Counter(loop), everything=everything,
                   registers=registers, stack=stack)  # fmt: skip
