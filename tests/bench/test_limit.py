"""bench/limit.py: counting in listings whose counts are known, and the whole of it where a compiler is."""

import json
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import limit

from bumpnet_fast.core import backends as native
from bumpnet_fast.diagnostics import bench as speed

FMA, MIN, MOVE = "vfmadd231ps zmm1,zmm2,zmm3", "vminps zmm1,zmm2,zmm3", "vmovaps zmm1,zmm2"


def listing(*lines, start=0x100):
    """As objdump prints it, every instruction four bytes long; "loop N" jumps back over N instructions."""
    text = ["", "limit.so:     file format elf64-x86-64", ""]
    for i, line in enumerate(lines):
        at = start + 4 * i
        line = f"jne    {at - 4 * int(line.split()[1]):x} <name+0x8>" if line.startswith("loop") else line
        text.append(f"  {at:x}:\t{line}")
    return limit.parse("\n".join(text))


def test_instructions_and_jumps():
    code = listing("xor eax,eax", FMA, "loop 1", "jmp    300 <name>", "ret")
    assert [i.opcode for i in code] == ["xor", "vfmadd231ps", "jne", "jmp", "ret"]
    assert [i.target for i in code] == [None, None, 0x104, 0x300, None]


def test_only_innermost_loops_and_each_once():
    code = listing(MOVE, FMA, FMA, "loop 1", MOVE, "loop 4")
    assert [[i.opcode for i in body] for body in limit.innermost(code)] == [["vfmadd231ps", "jne"]]
    two_ways_in = listing(MOVE, FMA, FMA, "loop 2", "loop 2", "ret")
    assert len(limit.innermost(two_ways_in)) == 1


def test_a_loop_counts_for_the_vectors_that_go_through_it():
    """Two dimensions: three minima for a vector, so six are two vectors; a loop without any takes one at a time."""
    edges = [*[FMA] * 20, *[MIN] * 6, *[MOVE] * 4, "add eax,1"]
    rest = [*[FMA] * 11, "vmulps zmm1,zmm2,zmm3", "vaddps zmm1,zmm2,zmm3"]
    code = listing(*edges, f"loop {len(edges)}", *rest, f"loop {len(rest)}", MOVE, "loop 1", "ret")
    assert limit.per_vector(code) == (26 / 2 + 13, 20 / 2 + 12), "moves take no time"


def test_what_is_done_once_in_a_block_of_bumps_is_no_pair():
    pairs, last = [*[FMA] * 20, *[MIN] * 6], [*[FMA] * 15, *[MIN] * 2]
    code = listing(*pairs, f"loop {len(pairs)}", *last, f"loop {len(pairs + last) + 1}", "ret")
    assert limit.per_vector(code) == limit.per_vector(listing(*pairs, f"loop {len(pairs)}", "ret")) == (13, 10)


def test_what_is_not_understood_is_no_count():
    body = [*[FMA] * 12, *[MIN] * 4]
    with pytest.raises(limit.Unable, match="4 minima"):
        limit.per_vector(listing(*body, "loop 16"))
    with pytest.raises(limit.Unable, match="no loop over pairs"):
        limit.per_vector(listing(*[FMA] * 12, "ret"))


def test_the_table():
    one = {"variant": "avx2", "dtype": "float32", "kernel": "forward", "instructions_per_pair": 19.04,
           "of_limit": 0.756, "multiplications_per_pair": 8.0, "fma_per_s": 7e9, "mixed_per_s": 1e10,
           "limit_ns_per_pair": 1.9, "ns_per_pair": 2.5}  # fmt: skip
    head, rule, line = limit.markdown([one])
    assert head.count("|") == rule.count("|") == line.count("|")
    assert line == "| avx2 | float32 | forward | 19.0 | 8.0 | 7.0 G | 10.0 G | 1.90 ns/pair | 2.50 ns/pair | 76 % |"


def test_without_kernels_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(native, "variants", lambda: ("baseline",))
    monkeypatch.setattr(native, "missing", "not built")
    assert limit.main([]) == 2
    assert capsys.readouterr().err == "limit: not built\n"


@pytest.mark.skipif(not any(v in limit.WIDTHS for v in native.variants()), reason="no kernels with known vectors")
@pytest.mark.skipif(not all(map(shutil.which, ("nm", "objdump", "cc"))), reason="needs nm, objdump and a C compiler")
def test_the_compiled_kernels(tmp_path, capsys):
    """A count for every kernel; speeds are measured, not judged: a busy machine has any."""
    file = tmp_path / "limit.json"
    assert limit.main(["--json", str(file)], speed.Case(512, 64), 5) == 0
    found = json.loads(file.read_text())
    variants = [v for v in native.variants() if v in limit.WIDTHS]
    assert len(found) == 4 * len(variants) == len(capsys.readouterr().out.splitlines()) - 2
    for one in found:
        assert 0 < one["multiplications_per_pair"] < one["instructions_per_pair"] < 200
        assert one["of_limit"] > 0 and one["mixed_per_s"] > 0 and one["fma_per_s"] > 0
