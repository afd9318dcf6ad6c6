"""speed.py: what ``bumpnet bench`` measures and tells."""

import io
import json

import pytest
import torch

from bumpnet_fast.cli import main
from bumpnet_fast.diagnostics import bench as speed
from bumpnet_fast.diagnostics.bench import EAGER, NESTED, OURS, Case

CASES = (Case(40, 4), Case(30, 3, 1, "gradient", "float64"))


@pytest.fixture
def small(monkeypatch):
    """``bumpnet bench`` with cases of no size."""
    run = speed.run
    monkeypatch.setattr(speed, "run", lambda names, seconds, watched: run(names, 0.0, watched, CASES))


def test_every_contestant_is_timed():
    before = torch.get_num_threads()
    report = speed.run([OURS, EAGER], 0.0, cases=CASES)
    assert torch.get_num_threads() == before
    for one, found in zip(CASES, report["cases"], strict=True):
        assert {key: found[key] for key in one._fields} == one._asdict()
        for times in (found["processor_seconds"], found["seconds"]):
            assert list(times) == [OURS, EAGER]
            for stages in times.values():
                assert list(stages) == list(speed.Stages._fields) and all(t > 0 for t in stages.values())


def test_calls_take_turns(monkeypatch):
    turns = []

    def stages(one):
        return speed.Stages(*(lambda stage=stage: turns.append(stage) for stage in speed.Stages._fields))

    monkeypatch.setitem(speed.CONTESTANTS, OURS, stages)
    speed.measure(CASES[0], [OURS], 0.0)
    assert turns == ["forward", "backward", "adam"] * 4  # once to warm up, then three rounds


def test_the_table():
    seconds = {
        OURS: {"forward": 1e-4, "backward": 4e-4, "adam": 5e-4},
        NESTED: {"forward": 1, "backward": 2, "adam": 3},
    }
    output = io.StringIO()
    found = [Case(1000, 40)._asdict() | {"processor_seconds": {}, "seconds": seconds}]
    speed.show({"cases": found, "backend": "avx2", "torch": "2", "machine": "x"}, output)
    head, case, ours, nested, *_ = output.getvalue().splitlines()
    assert head.split() == ["forward", "backward", "adam", "ns/pair", "ratio"]
    assert case.strip() == "1000 x 40, 2d laplacian, f32" and len(head) <= 80
    assert ours.split() == ["ours", "0.1", "ms", "0.4", "ms", "0.5", "ms", "10.0", "1.0"]
    assert nested.split() == ["nested", "autograd", "1e+03", "ms", "2e+03", "ms", "3e+03", "ms", "50000.0", "6000.0"]


def test_the_command(small, capsys):
    assert main(["bench"]) == 0
    output = capsys.readouterr().out
    assert "40 x 4, 2d laplacian, f32" in output and NESTED in output and "torch.compile" not in output


def test_the_command_as_json(small, capsys):
    assert main(["bench", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [set(found["seconds"]) for found in report["cases"]] == [{OURS, EAGER, NESTED}] * 2


@pytest.mark.parametrize("seconds", ["-1", "nan", "soon"])
def test_seconds_that_are_none(seconds, capsys):
    assert main(["bench", "--seconds", seconds]) == 2
    assert "not a number of seconds" in capsys.readouterr().err
