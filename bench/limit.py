"""How near the CPU kernels come to what the processor can do: python bench/limit.py [--json FILE]

Counts the vector instructions for a pair of point and bump in the compiled loops of ``jet`` and ``jet_vjp`` (Laplacian,
d = 2), measures how many whole vectors the processor multiplies and adds in a second, alone and with additions beside,
which some processors do at the same time, and how many pairs the kernels do in the same moments.  At the limit the
multiplications take what multiply-adds alone take, or all vector instructions that compute what the mixture takes,
whichever is longer; nothing else takes any time, copies, loads and stores neither.

Needs objdump and nm, a C compiler ($CC or cc), and one thread of an x86-64 processor with AVX2 or AVX-512.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from bumpnet_fast.core import backends as native
from bumpnet_fast.core.reference import LAPLACIAN
from bumpnet_fast.diagnostics import bench as speed

DIM = 2
WIDTHS = {"avx2": 32, "avx512": 64}  # bytes of a vector
FLAGS = {"avx2": ("-mavx2", "-mfma"), "avx512": ("-mavx512f",)}
#: C names of the types, and their bytes.
TYPES = {"float32": ("float", 4), "float64": ("double", 8)}
KERNELS = {"forward": "jet", "backward": "vjp_rows"}
CASE = speed.Case(4096, 128)
ROUNDS = 15


class Unable(Exception):
    """Why nothing can be counted or measured here."""


# --- counting ------------------------------------------------------------------------------------


class Instruction(NamedTuple):
    address: int
    opcode: str
    target: int | None  # of a jump


def parse(listing: str) -> list[Instruction]:
    """Instructions from what ``objdump --no-show-raw-insn`` prints."""
    found = []
    for line in listing.splitlines():
        if match := re.match(r"\s*([0-9a-f]+):\s+(\S+)\s*([0-9a-f]+)?", line):
            address, opcode, operand = match.groups()
            found.append(
                Instruction(int(address, 16), opcode, int(operand, 16) if operand and opcode[0] == "j" else None)
            )
    return found


def innermost(code: Sequence[Instruction]) -> list[list[Instruction]]:
    """Bodies of the loops that have no loop inside; of those that overlap, ways into one loop, the first."""
    spans = sorted(
        {(i.target, i.address) for i in code if i.target is not None and code[0].address <= i.target <= i.address}
    )
    inner: list[tuple[int, int]] = []
    for span in spans:
        holds_another = any(other != span and span[0] <= other[0] and other[1] <= span[1] for other in spans)
        if not holds_another and not (inner and span[0] <= inner[-1][1]):
            inner.append(span)
    return [[i for i in code if first <= i.address <= last] for first, last in inner]


#: Copies, which a processor's renaming of registers may do in no time, loads and stores, which have units of their own.
_MOVES = ("vmova", "vmovu", "vmovdq", "vbroadcast")


def per_vector(code: Sequence[Instruction], dim: int = DIM) -> tuple[float, float]:
    """Vector instructions that compute, and multiplications among them, for one vector of points and one bump.

    A pair has an exponential for every axis and one for its sigmoid, each with one minimum that guards it, which tells
    how many vectors go through a loop at once; a loop without any has the edges from another and takes one at a time.

    Raises
    ------
    Unable
        If no loop looks like one over pairs.
    """
    total, products, exponentials = 0.0, 0.0, 0
    for body in innermost(code):
        vector = [i.opcode for i in body if i.opcode.startswith("v") and not i.opcode.startswith(_MOVES)]
        packed = [op for op in vector if re.match(r"v\w+p[sd]$", op)]
        if sum(op.startswith(("vfmadd", "vfnmadd")) for op in packed) < 10:
            continue  # sums and copies, once in many pairs
        guards = sum(op.startswith("vmin") for op in packed)
        if 0 < guards <= dim:
            continue  # exponentials of the last bump of a block, whose others were taken beside the next bump's
        if guards % (dim + 1):
            raise Unable(f"{guards} minima in a loop over pairs, not a multiple of {dim + 1}: the kernels have changed")
        at_once = max(1, guards // (dim + 1))
        total += len(vector) / at_once
        products += sum(op.startswith(("vmul", "vfm", "vfnm")) for op in packed) / at_once
        exponentials += guards
    if not exponentials:
        raise Unable("no loop over pairs among the compiled loops: the kernels have changed")
    return total, products


def _said(*command: str) -> str:
    if shutil.which(command[0]) is None:
        raise Unable(f"{command[0]} is missing (binutils)")
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def disassemble(module: Path, variant: str, kernel: str, c_type: str, want: int = LAPLACIAN) -> list[Instruction]:
    """The code of one kernel in the compiled module."""
    name = re.escape(f"bump::{variant}::{kernel}<{DIM}, {want}, {c_type}>(")
    found = re.search(rf"^(\w+) (\w+) \w void {name}", _said("nm", "-SC", str(module)), re.MULTILINE)
    if found is None:
        raise Unable(f"{module.name} has no symbol of {kernel} for {variant}: stripped, or built without it")
    start, size = (int(number, 16) for number in found.groups())
    span = (f"--start-address={start}", f"--stop-address={start + size}")
    return parse(_said("objdump", "-d", "--no-show-raw-insn", "-M", "intel", *span, str(module)))


# --- measuring -----------------------------------------------------------------------------------

#: Independent multiply-adds, and additions beside them: as many as AVX2 has registers for, and enough to hide latency.
PRODUCTS, SUMS = 8, 7
SOURCE = """
typedef TYPE V __attribute__((vector_size(BYTES)));
static double run(long n, int sums) {
  V a[PRODUCTS], s[SUMS], b;
  TYPE total = 0;
  for (int i = 0; i < (int)(sizeof(V) / sizeof(TYPE)); i++) b[i] = (TYPE)0.5;
  for (int k = 0; k < PRODUCTS; k++) a[k] = b * (TYPE)k;
  for (int k = 0; k < SUMS; k++) s[k] = b * (TYPE)k;
  for (long j = 0; j < n; j++) {
#pragma GCC unroll 8
    for (int k = 0; k < PRODUCTS; k++) a[k] = a[k] * b + b;
#pragma GCC unroll 8
    for (int k = 0; k < sums; k++) s[k] = s[k] + b;
  }
  for (int k = 0; k < PRODUCTS; k++) total += a[k][0];
  for (int k = 0; k < SUMS; k++) total += s[k][0];
  return total;
}
double products(long n) { return run(n, 0); }
double mixture(long n) { return run(n, SUMS); }
"""


def chains(variant: str, dtype: str, folder: Path) -> tuple[Callable[[int], float], Callable[[int], float]]:
    """Compiled functions of n: n times ``PRODUCTS`` multiply-adds of whole vectors, and with ``SUMS`` additions."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if shutil.which(compiler[0]) is None:
        raise Unable(f"there is no C compiler {compiler[0]!r}: set CC")
    c_type, _ = TYPES[dtype]
    text = SOURCE.replace("TYPE", c_type).replace("BYTES", str(WIDTHS[variant]))
    text = text.replace("PRODUCTS", str(PRODUCTS)).replace("SUMS", str(SUMS))
    source, library = folder / f"{variant}_{dtype}.c", folder / f"{variant}_{dtype}.so"
    source.write_text(text)
    command = [
        *compiler,
        "-O2",
        "-finline-functions",
        "-ffp-contract=fast",
        *FLAGS[variant],
        "-shared",
        "-fPIC",
        "-o",
        library,
        source,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unable(f"the compiler failed: {done.stderr.strip()[-300:]}")
    loaded = ctypes.CDLL(str(library))
    for function in (loaded.products, loaded.mixture):
        function.argtypes, function.restype = [ctypes.c_long], ctypes.c_double
    return loaded.products, loaded.mixture


def calls(one: speed.Case) -> dict[str, Callable[[], object]]:
    """Forward and backward of the kernels, as ``bench/gpu.py`` times them."""
    x, rows, frame, _ = (t.detach() for t in one.arguments())
    ops, g = torch.ops.bumpnet_fast, torch.randn(one.points, 1, dtype=x.dtype)
    return {
        "forward": lambda: ops.jet(x, rows, frame, LAPLACIAN, True),
        "backward": lambda: ops.jet_vjp(g, None, g, x, rows, frame, LAPLACIAN, True, False, True),
    }


def least_seconds(functions: dict[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """The least processor time of each, all taking turns: what a busy machine disturbs least."""
    least = dict.fromkeys(functions, float("inf"))
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.thread_time()
            function()
            least[name] = min(least[name], time.thread_time() - start)
    return least


def measure(variant: str, dtype: str, folder: Path, one: speed.Case = CASE, rounds: int = ROUNDS) -> list[dict]:
    """Both kernels: instructions, limit and measured time for a pair, and the fraction of the limit that is reached."""
    (products, mixture), n = chains(variant, dtype, folder), 100_000
    c_type, size = TYPES[dtype]
    lanes = WIDTHS[variant] // size
    module = next(Path(native.__file__).parents[1].glob("_C.*so"))
    with native.use_variant(variant), native.use_culling("never"):
        least = least_seconds(
            {"products": lambda: products(n), "mixture": lambda: mixture(n), **calls(one._replace(dtype=dtype))}, rounds
        )
    rates = {"fma_per_s": n * PRODUCTS / least["products"], "mixed_per_s": n * (PRODUCTS + SUMS) / least["mixture"]}
    found = []
    for direction, kernel in KERNELS.items():
        counts = [count / lanes for count in per_vector(disassemble(module, variant, kernel, c_type))]
        limit = max(counts[0] / rates["mixed_per_s"], counts[1] / rates["fma_per_s"])
        seconds = least[direction] / (one.points * one.bumps)
        found.append({
            "variant": variant, "dtype": dtype, "kernel": direction, **rates, "instructions_per_pair": counts[0],
            "multiplications_per_pair": counts[1], "limit_ns_per_pair": 1e9 * limit, "ns_per_pair": 1e9 * seconds,
            "of_limit": limit / seconds,
        })  # fmt: skip
    return found


def markdown(found: Sequence[dict]) -> list[str]:
    """A table; rates are of whole vectors."""
    names = "variant", "dtype", "kernel", "vector instructions per pair", "multiplications", "FMA/s", "with additions"
    lines = [f"| {' | '.join((*names, 'limit', 'measured', 'of the limit'))} |", "|" + "---|" * (len(names) + 3)]
    for one in found:
        rates = [f"{one[key] / 1e9:.1f} G" for key in ("fma_per_s", "mixed_per_s")]
        counts = [f"{one[key]:.1f}" for key in ("instructions_per_pair", "multiplications_per_pair")]
        times = [f"{one[key]:.2f} ns/pair" for key in ("limit_ns_per_pair", "ns_per_pair")]
        cells = one["variant"], one["dtype"], one["kernel"], *counts, *rates, *times, f"{100 * one['of_limit']:.0f} %"
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main(argv: Sequence[str] | None = None, one: speed.Case = CASE, rounds: int = ROUNDS) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    options = parser.parse_args(argv)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        variants = [v for v in native.variants() if v in WIDTHS]
        if not variants:
            raise Unable(native.missing or "no variant with vectors of a known width runs here")
        with tempfile.TemporaryDirectory() as folder:
            found = [f for v in variants for dtype in TYPES for f in measure(v, dtype, Path(folder), one, rounds)]
    except Unable as error:
        print(f"limit: {error}", file=sys.stderr)
        return 2
    finally:
        torch.set_num_threads(before)
    print("\n".join(markdown(found)))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
