"""bench/compare.py: a slowdown is noticed, and the noise of a busy machine is not taken for one."""

import itertools
import json
import random
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import compare

from bumpnet_fast.diagnostics import bench as speed


class Machine:
    """A clock, and calls that take time on it: seconds that other work lengthens as it likes."""

    def __init__(self, noise=lambda: 1.0):
        self.now, self.noise = 0.0, noise

    def clock(self):
        return self.now

    def call(self, seconds):
        def run():
            self.now += seconds * self.noise()

        return run


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Ratios that were measured when ours took 1 ms and the peer 2."""
    monkeypatch.setattr(compare, "KEPT", tmp_path / "compare.json")
    return {"a": 0.5, "b": 0.5}


def compared(machine, monkeypatch, kept, seconds):
    least = compare.least
    monkeypatch.setattr(compare, "least", lambda calls, turns: least(calls, turns, machine.clock))
    found = {name: (machine.call(seconds), machine.call(2e-3)) for name in kept}
    return compare.compare(found, kept)


def busy():
    """Seldom undisturbed, and in stretches: for some calls all takes three times as long."""
    generator = random.Random(0)
    stretches = itertools.chain.from_iterable(itertools.repeat(generator.choice((1, 3)), 10) for _ in itertools.count())
    return lambda: next(stretches) * (1 + abs(generator.gauss(0.02, 0.2)))


@pytest.mark.parametrize(("factor", "good"), [(1.0, True), (1.1, True), (1.27, False), (0.5, True)])
def test_slower_is_told_on_a_busy_machine(monkeypatch, kept, factor, good):
    lines, passed = compared(Machine(busy()), monkeypatch, kept, factor * 1e-3)
    assert passed is good and len(lines) == len(kept)
    assert all(("SLOWER" in line) is not good for line in lines)


def test_what_looks_slower_is_measured_again(monkeypatch, kept):
    """The first measurement of ours is disturbed from its beginning to its end."""
    found = iter([0.7, 0.5, 0.5])
    monkeypatch.setattr(compare, "ratio", lambda pair, turns: next(found))
    lines, passed = compare.compare(dict.fromkeys(kept), kept)
    assert passed and sum("measured 2 times" in line for line in lines) == 1


def test_and_given_up_in_the_end(monkeypatch, kept):
    asked = []
    monkeypatch.setattr(compare, "ratio", lambda pair, turns: asked.append(turns) or 0.61)
    lines, passed = compare.compare({"a": None}, kept)
    assert not passed and lines == [" 1.22 times the kept time: a (measured 3 times)  SLOWER"]
    assert asked == [compare.TURNS * i for i in (1, 2, 3)]


def test_nothing_to_compare_is_no_success(kept):
    lines, passed = compare.compare({}, kept)
    assert not passed and lines == ["no case is in both"]


def test_calls_take_turns(monkeypatch):
    machine, turns = Machine(), []
    calls = [lambda i=i: (turns.append(i), machine.call(0.6 * compare.TURN)()) for i in range(2)]
    assert compare.least(calls, 2, machine.clock) == pytest.approx([0.6 * compare.TURN] * 2)
    assert turns == [0, 1] + [0, 0, 1, 1] + [1, 1, 0, 0]


def test_the_command(kept, monkeypatch, capsys):
    cases, pairs, before = (speed.Case(20, 3), speed.Case(20, 3, 1)), compare.pairs, torch.get_num_threads()
    monkeypatch.setattr(compare, "TURN", 1e-4)
    monkeypatch.setattr(compare, "pairs", lambda: pairs(cases))
    assert compare.main(["--write"]) == 0
    content = json.loads(compare.KEPT.read_text())
    assert list(content["ratios"]) == list(pairs(cases)) and len(content["ratios"]) == 6
    monkeypatch.setattr(compare, "SLOWER", float("inf"))
    compare.KEPT.write_text(json.dumps(content | {"torch": "another"}))
    assert compare.main([]) == 0 and torch.get_num_threads() == before
    output = capsys.readouterr().out
    assert output.count("times the kept time") == 6 and "it was another" in output
    monkeypatch.setattr(compare, "SLOWER", 0.0)
    assert compare.main([]) == 1


def test_what_is_kept_is_of_the_cases_that_are():
    content = json.loads((Path(compare.__file__).parent / "measured" / "compare.json").read_text(encoding="utf-8"))
    names = {f"{stage}, {one.name}" for one in speed.SHORT for stage in speed.Stages._fields}
    assert content["ratios"].keys() == names and all(0 < value < 10 for value in content["ratios"].values())
