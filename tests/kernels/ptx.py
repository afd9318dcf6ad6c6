"""Executes PTX, as Triton's compiler writes it, on the CPU: all threads of a launch side by side, in numpy.

    run(Program(text), grid, arguments)        arguments: numpy arrays, changed in place, and integers

It looks for mistakes on the way, and raises ``Fault`` with the instruction:

* an access outside the arguments' memory (there are gaps between the buffers), or not aligned to its width;
* a store to, or a load from, a place that another thread uses too without a barrier in between;
* a barrier or a shuffle that not all threads reach.

A register or a shared place that was never written reads as NaN, a predicate raises.  Threads may part at a branch:
those furthest behind in the text go on first, so that all meet again after it.  What is not known raises ``Unknown``:
of the tensor cores only tf32 by ``mma.sync``, no asynchronous copies, no atomics.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from ptx_arithmetic import TYPES, UNSIGNED, Unknown, bits_of, semantics
from ptx_memory import POISON, Fault, Memory

#: Where arguments begin: past 32 bits, so that an address that lost its upper half is found out.
_GLOBAL = 0x7F00_0000_0000


class Instruction(NamedTuple):
    step: Callable  # of the machine and the mask of active threads
    guard: tuple[str, bool] | None  # a predicate, and whether it is negated
    text: str


# --- the text --------------------------------------------------------------------------------------


class Program:
    """A kernel, read once: blocks of instructions, of which only the last may jump."""

    def __init__(self, text: str):
        text = re.sub(r"//.*", "", text)
        head = re.search(r"\.entry\s+(\S+?)\s*\((.*?)\)(.*?)\{", text, re.S)
        self.parameters = {
            p.split()[-1]: UNSIGNED[int(re.search(r"\.[ubs](\d+)", p)[1])] for p in head[2].split(",") if p.strip()
        }
        self.threads = int(re.search(r"\.(?:req|max)ntid\s+(\d+)", head[3])[1])
        self.widths: dict[str, int] = {}
        self.labels: dict[str, int] = {}
        self.blocks: list[list[Instruction]] = [[]]
        for statement in _body(text[head.end() :]).split(";"):
            self._read(statement.strip())

    def width(self, register: str) -> int:
        """Bits of a register; 1 for a predicate."""
        name = register if register in self.widths else register.rstrip("0123456789")
        if name not in self.widths:
            raise Unknown(f"operand {register}")
        return self.widths[name]

    def _read(self, text):
        while label := re.match(r"(\$[\w$]+):\s*|[{}]\s*|\.(?:loc|pragma)\b[^\n]*(?:\n\s*|$)", text):
            if label[1]:
                if self.blocks[-1]:
                    self.blocks.append([])
                self.labels[label[1]] = len(self.blocks) - 1
            text = text[label.end() :]
        if not text:
            return
        if declared := re.match(r"\.reg\s+\.(\w+)\s+(.*)", text, re.S):
            for name in declared[2].split(","):
                self.widths[name.strip().split("<")[0]] = bits_of(declared[1])
            return
        guard, opcode, rest = re.fullmatch(r"(?:@(!?%?\w+)\s+)?([\w.:]+)\s*(.*)", text, re.S).groups()
        opcode = tuple(opcode.replace("::cta", "").split("."))
        operands = [o.strip() for o in re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,{}\[\]]+", rest) if o.strip()]
        try:
            make = _CONTROL.get(opcode[0]) or _arithmetic
            step = make(self, opcode, operands)
        except (Unknown, ValueError, KeyError) as error:
            raise Unknown(f"{text}: {error}") from error
        guard = guard and (guard.lstrip("!"), guard.startswith("!"))
        self.blocks[-1].append(Instruction(step, guard, text))
        if opcode[0] in ("bra", "ret"):
            self.blocks.append([])


def _body(text):
    """Up to the brace that closes the function."""
    depth = 1
    for brace in re.finditer(r"[{}]", text):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return text[: brace.start()]
    raise Unknown("a function without an end")


def _members(operand):
    return [part.strip() for part in operand.strip("{} ").split(",")]


def _source(operand: str, kind: str) -> Callable:
    """What reads an operand of that type from a machine."""
    dtype = TYPES[kind]
    if literal := re.fullmatch(r"0f([0-9a-fA-F]{8})|0d([0-9a-fA-F]{16})", operand):
        value = np.uint32(int(literal[1], 16)) if literal[1] else np.uint64(int(literal[2], 16))
        value = value.view(dtype)
        return lambda machine: value
    if operand == "global_smem":
        return lambda machine: dtype(0)
    if operand in _SPECIAL:
        return lambda machine: machine.special[operand].astype(dtype)
    if re.fullmatch(r"-?(0x[0-9a-fA-F]+|\d+)", operand) and not kind.startswith("f"):
        number = int(operand, 0)
        value = np.bool_(number) if kind == "pred" else UNSIGNED[bits_of(kind)](number % 2 ** bits_of(kind)).view(dtype)
        return lambda machine: value
    if not re.fullmatch(r"%?[a-zA-Z_]\w*", operand):
        raise Unknown(f"operand {operand}")
    return lambda machine: machine.read(operand, kind)


# --- the machine -----------------------------------------------------------------------------------

_SPECIAL = {"%laneid", *(f"%{name}.{axis}" for name in ("tid", "ctaid", "ntid", "nctaid") for axis in "xyz")}


class Machine:
    """All threads of a launch, program after program: their registers, their memory, and where they are."""

    def __init__(self, program: Program, grid, arguments, shared: int, error: float):
        sizes = (*grid, 1, 1)[:3]
        programs = math.prod(sizes)
        self.program, self.count = program, programs * program.threads
        self.thread = np.arange(self.count)
        self.warp = self.thread // 32
        which, tid = np.divmod(self.thread, program.threads)
        everyone = np.ones(self.count, np.int64)
        self.special = {"%laneid": tid % 32, "%tid.x": tid, "%tid.y": 0 * tid, "%tid.z": 0 * tid,
                        "%ctaid.x": which % sizes[0], "%ctaid.y": which // sizes[0] % sizes[1],
                        "%ctaid.z": which // (sizes[0] * sizes[1]),
                        "%ntid.x": program.threads * everyone, "%ntid.y": everyone, "%ntid.z": everyone,
                        "%nctaid.x": sizes[0] * everyone, "%nctaid.y": sizes[1] * everyone,
                        "%nctaid.z": sizes[2] * everyone}  # fmt: skip
        self.registers: dict[str, np.ndarray] = {}
        self.at = np.zeros(self.count, int)
        self.error, self.random = error, np.random.default_rng(0)
        self._place(arguments)
        self.shared, self.shared_size = Memory(0), shared
        self.shared_base = np.repeat([self.shared.add(shared) for _ in range(programs)], program.threads)
        self.shared.close()

    def _place(self, arguments):
        """Arguments to memory.  Whoever passes one array twice means one buffer."""
        memory, places, values = Memory(_GLOBAL), {}, []
        for argument in arguments:
            if isinstance(argument, np.ndarray):
                if not argument.flags.c_contiguous:
                    raise ValueError("arguments must be contiguous")
                origin = argument.ctypes.data
                if origin not in places:
                    places[origin] = memory.add(argument.nbytes, origin), argument
                if places[origin][1].nbytes != argument.nbytes:
                    raise ValueError("one place with two sizes")
                values.append(places[origin][0])
            else:
                values.append(argument)
        memory.close()
        self.memory, self.arrays = memory, list(places.values())
        for address, array in self.arrays:
            at = address - _GLOBAL
            memory.bytes[at : at + array.nbytes] = array.reshape(-1).view(np.uint8)
        values += [0] * (len(self.program.parameters) - len(values))  # scratch memory that nobody uses
        self.parameters = {
            name: dtype(value % 2 ** (8 * dtype().itemsize))
            for (name, dtype), value in zip(self.program.parameters.items(), values, strict=True)
        }

    def give_back(self):
        for address, array in self.arrays:
            at = address - _GLOBAL
            array.reshape(-1).view(np.uint8)[:] = self.memory.bytes[at : at + array.nbytes]

    def read(self, register: str, kind: str):
        values = self.registers.get(register)
        if values is None:
            if kind == "pred":
                raise Fault(f"{register} was never written")
            values = np.full(self.count, POISON << 32 | POISON, np.uint64)
            values = values.astype(UNSIGNED[self.program.width(register)])
        if kind == "pred":
            return values
        if kind != "f32x2" and values.dtype.itemsize != TYPES[kind]().itemsize:
            values = values.astype(UNSIGNED[bits_of(kind)])
        return values.view(TYPES[kind])

    def write(self, register: str, values, mask):
        """Of all threads, of which those in the mask count; short integers are extended."""
        if register == "_":
            return
        width = self.program.width(register)
        if width > 1:
            word = UNSIGNED[width]
            values = np.broadcast_to(values, (self.count,)) if values.size == 1 else values
            if values.nbytes == self.count * width // 8:
                values = np.ascontiguousarray(values).view(word)
            elif values.nbytes > self.count * width // 8:
                raise Unknown("a result wider than its register")
            else:
                values = values.astype(word)
        if mask is not None:
            before = self.registers.get(register, ~values) if width == 1 else self.read(register, f"b{width}")
            values = np.where(mask, values, before)
        self.registers[register] = values

    def space(self, name):
        """Memory, and who is taken for one user of it: a warp orders its own accesses to shared memory."""
        return (self.memory, self.thread) if name == "global" else (self.shared, self.warp)

    def whole(self, mask, size):
        """Which groups of so many threads are there; a fault if one is there in part."""
        mask = np.ones(self.count, bool) if mask is None else mask
        mask = mask.reshape(-1, size)
        if (mask.any(1) != mask.all(1)).any():
            raise Fault("not all threads are here")
        return mask.all(1)

    def run(self):
        """Always the block that comes first in the text, for all threads that have come to it."""
        blocks = self.program.blocks
        while (block := self.at.min()) < len(blocks):
            here = self.at == block
            mask = None if here.all() else here
            self.at[here] += 1
            for step, guard, text in blocks[block]:
                try:
                    active = mask
                    if guard:
                        chosen = self.read(guard[0], "pred") != guard[1]
                        active = chosen if mask is None else chosen & mask
                        if not active.any():
                            continue
                        active = None if active.all() else active
                    step(self, active)
                except (Fault, Unknown) as wrong:
                    raise type(wrong)(f"{wrong}: {text}") from None


def run(program: Program, grid, arguments, shared: int = 0, error: float = 0.0):
    """Launch ``program`` on a grid: arrays are changed in place.

    ``shared``: bytes of shared memory.  ``error``: largest relative error put on approximations, at random.
    """
    machine = Machine(program, grid, arguments, shared, error)
    with np.errstate(all="ignore"):
        machine.run()
    machine.give_back()


# --- what instructions do: text to a step of the machine -------------------------------------------


def _arithmetic(program, opcode, operands):
    function, kinds, _, approximate = semantics(opcode)
    target, *operands = operands
    sources = [_source(operand, kind) for operand, kind in zip(operands, kinds, strict=True)]

    def step(machine, mask):
        result = function(*[source(machine) for source in sources])
        if approximate and machine.error:
            noise = machine.random.uniform(-machine.error, machine.error, machine.count)
            result = (result * (1 + noise)).astype(result.dtype)
        machine.write(target, result, mask)

    return step


_LOAD_STORE = {"global", "shared", "nc", "ca", "cg", "cs", "wb"}


def _access(opcode, place):
    """Of a load or store: memory, type, how many, and what gives the addresses."""
    *modifiers, kind = opcode[1:]
    count = next((int(m[1]) for m in modifiers if m in ("v2", "v4")), 1)
    modifiers = set(modifiers) - {"v2", "v4"}
    [name] = modifiers & {"global", "shared"}
    if modifiers - _LOAD_STORE:
        raise Unknown("this modifier")
    base, _, offset = place.strip("[] ").partition("+")
    base, offset = _source(base.strip(), "u64" if name == "global" else "u32"), int(offset.strip() or "0", 0)

    def addresses(machine):
        at = base(machine).astype(np.int64) + offset
        return at if name == "global" else at + machine.shared_base

    return name, kind, count, addresses


def _load(program, opcode, operands):
    targets = _members(operands[0])
    if "param" in opcode:
        dtype, name = TYPES[opcode[-1]], operands[1].strip("[] ")
        return lambda machine, mask: machine.write(targets[0], machine.parameters[name].view(dtype), mask)
    name, kind, count, addresses = _access(opcode, operands[1])
    if count != len(targets):
        raise Unknown("this many registers")

    def step(machine, mask):
        memory, agents = machine.space(name)
        chosen = slice(None) if mask is None else mask
        found = memory.load(addresses(machine)[chosen], agents[chosen], count * bits_of(kind) // 8)
        found = found.view(TYPES[kind])
        for j, target in enumerate(targets):
            values = np.zeros(machine.count, TYPES[kind])
            values[chosen] = found[:, j]
            machine.write(target, values, mask)

    return step


def _store(program, opcode, operands):
    name, kind, count, addresses = _access(opcode, operands[0])
    sources = [_source(operand, kind) for operand in _members(operands[1])]
    if count != len(sources):
        raise Unknown("this many registers")

    def step(machine, mask):
        memory, agents = machine.space(name)
        chosen = slice(None) if mask is None else mask
        values = np.empty((machine.count, count), TYPES[kind])
        for j, source in enumerate(sources):
            values[:, j] = source(machine)
        memory.store(addresses(machine)[chosen], agents[chosen], values[chosen].view(np.uint8))

    return step


def _move(program, opcode, operands):
    kind, (target, operand) = opcode[-1], operands
    if operand.startswith("{"):
        low, high = (_source(part, f"b{bits_of(kind) // 2}") for part in _members(operand))

        def step(machine, mask):
            halves = [np.broadcast_to(half(machine), machine.count) for half in (low, high)]
            machine.write(target, np.stack(halves, 1).reshape(-1).view(TYPES[kind]), mask)

    elif target.startswith("{"):
        source, half = _source(operand, kind), TYPES[f"b{bits_of(kind) // 2}"]

        def step(machine, mask):
            values = np.broadcast_to(source(machine), machine.count)
            values = np.ascontiguousarray(values).view(half).reshape(-1, 2)
            for j, part in enumerate(_members(target)):
                machine.write(part, values[:, j], mask)

    else:
        source = _source(operand, kind)

        def step(machine, mask):
            machine.write(target, source(machine), mask)

    return step


def _branch(program, opcode, operands):
    [label] = operands

    def step(machine, mask):
        machine.at[slice(None) if mask is None else mask] = machine.program.labels[label]

    return step


def _return(program, opcode, operands):
    def step(machine, mask):
        machine.at[slice(None) if mask is None else mask] = len(machine.program.blocks)

    return step


def _barrier(program, opcode, operands):
    if opcode == ("bar", "warp", "sync"):
        return lambda machine, mask: machine.whole(mask, 32)
    if opcode != ("bar", "sync") or operands != ["0"]:
        raise Unknown("this barrier")

    def step(machine, mask):
        for base in machine.shared_base[:: program.threads][machine.whole(mask, program.threads)]:
            machine.shared.barrier(base, base + machine.shared_size + 4)

    return step


def _shuffle(program, opcode, operands):
    """As the manual spells it; the last operand, the members, must be the whole warp."""
    _, sync, mode, kind = opcode
    if (sync, operands[4]) != ("sync", "-1"):
        raise Unknown("a shuffle within part of a warp")
    target, _, inside = operands[0].partition("|")
    value, amount, limits = (_source(operand, kind) for operand in operands[1:4])

    def step(machine, mask):
        machine.whole(mask, 32)
        lane = machine.special["%laneid"]
        by, limit = (np.broadcast_to(v(machine), machine.count).astype(np.int64) for v in (amount, limits))
        clamp, segment = limit & 31, limit >> 8 & 31
        first, last = lane & segment, (lane & segment) | (clamp & ~segment)
        source = {"up": lane - by, "down": lane + by, "bfly": lane ^ by, "idx": first | (by & 31 & ~segment)}[mode]
        within = source >= last if mode == "up" else source <= last
        source = machine.thread - lane + np.where(within, source, lane)
        machine.write(target, np.broadcast_to(value(machine), machine.count)[source], mask)
        if inside:
            machine.write(inside, within, mask)

    return step


def _sum_of_warp(program, opcode, operands):
    """redux.sync.add of integers; the last operand, the members, must be the whole warp."""
    if opcode != ("redux", "sync", "add", "s32"):
        raise Unknown("this opcode")
    value, members = (_source(operand, "s32") for operand in operands[1:])

    def step(machine, mask):
        machine.whole(mask, 32)
        if (np.broadcast_to(members(machine), machine.count)[mask] != -1).any():
            raise Unknown("a sum over part of a warp")
        sums = np.broadcast_to(value(machine), machine.count).reshape(-1, 32).sum(1, np.int32)
        machine.write(operands[0], np.repeat(sums, 32), mask)

    return step


def _matrices(program, opcode, operands):
    """ldmatrix: lane 8 i + j has the address of row j of matrix i; every lane gets two of its 8 x 8 entries."""
    *_, shape, many, space, kind = opcode
    if (shape, space, kind) != ("m8n8", "shared", "b16") or "trans" in opcode:
        raise Unknown("these matrices")
    targets = _members(operands[0])
    _, _, _, addresses = _access(("ld", "shared", "b32"), operands[1])

    def step(machine, mask):
        present = np.repeat(machine.whole(mask, 32), 32)
        lane, rows = machine.special["%laneid"], addresses(machine)
        for i, target in enumerate(targets):
            at = rows[machine.thread - lane + 8 * i + lane // 4] + 4 * (lane % 4)
            if (at[present & (lane % 4 == 0)] % 16 != machine.shared.start).any():
                raise Fault("misaligned row of a matrix")
            values = np.zeros(machine.count, np.uint32)
            values[present] = machine.shared.load(at[present], machine.warp[present], 4).view(np.uint32)[:, 0]
            machine.write(target, values, mask)

    return step


def _multiply_matrices(program, opcode, operands):
    """mma, 16 x 8 by 8 x 8: lane 4 i + j has entries of row i (and i + 8) and column j (and j + 4) of the first, and of
    the others as below.  How a GPU rounds the sum is not documented; here it is rounded once."""
    if opcode[1:] != ("sync", "aligned", "m16n8k8", "row", "col", "f32", "tf32", "tf32", "f32"):
        raise Unknown("these matrices")
    targets, *factors = (_members(operand) for operand in operands)
    sources = [
        [_source(name, kind) for name in some] for some, kind in zip(factors, ("b32", "b32", "f32"), strict=True)
    ]
    i, j = np.divmod(np.arange(32), 4)
    places = (
        ((16, 8), [(i, j), (i + 8, j), (i, j + 4), (i + 8, j + 4)]),
        ((8, 8), [(j, i), (j + 4, i)]),
        ((16, 8), [(i, 2 * j), (i, 2 * j + 1), (i + 8, 2 * j), (i + 8, 2 * j + 1)]),
    )

    def step(machine, mask):
        machine.whole(mask, 32)
        matrices = []
        for some, (shape, entries) in zip(sources, places, strict=True):
            matrix = np.zeros((machine.count // 32, *shape))
            for source, (row, column) in zip(some, entries, strict=True):
                values = np.broadcast_to(source(machine), machine.count)
                if values.dtype == np.uint32:
                    values = (values & 0xFFFFE000).view(np.float32)  # tf32 has 13 bits less
                matrix[:, row, column] = values.reshape(-1, 32)
            matrices.append(matrix)
        a, b, c = matrices
        result = (a @ b + c).astype(np.float32)
        for target, (row, column) in zip(targets, places[2][1], strict=True):
            machine.write(target, result[:, row, column].reshape(-1), mask)

    return step


_CONTROL = {
    "ld": _load, "st": _store, "mov": _move, "cvta": _move, "bra": _branch, "ret": _return,
    "bar": _barrier, "shfl": _shuffle, "redux": _sum_of_warp, "ldmatrix": _matrices, "mma": _multiply_matrices,
}  # fmt: skip
