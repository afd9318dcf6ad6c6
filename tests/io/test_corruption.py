"""Files that were cut, flipped, filled in or hostile are refused with one clear error, and nothing in them is run."""

import pickle
import random
import zipfile
from pathlib import Path

import pytest
import torch

from bumpnet_fast import BumpDeepONet, BumpNet, problems
from bumpnet_fast.core.files import CheckpointError
from bumpnet_fast.io import saved as checkpoint
from bumpnet_fast.io import saved_evolution as evolution_checkpoint
from bumpnet_fast.io import saved_operator as checkpoint_operator
from bumpnet_fast.problems.evolution import Heat
from bumpnet_fast.solvers import evolve

MUTANTS = 100  # of every kind of file


def a_model(path):
    problem = problems.get("helmholtz")
    checkpoint.save(path, BumpNet(2, 9, problem.domain), problem=problem, boundary="soft")


def an_evolution(path):
    evolution_checkpoint.save(path, evolve(Heat(), 9, times=2, measure=False))


def an_operator(path):
    checkpoint_operator.save_operator(path, BumpDeepONet(5, (3, 2), [[0.0, -1.0], [1.0, 2.0]]))


KINDS = {
    a_model: (checkpoint.load, lambda model: model.net.state_dict()),
    an_evolution: (
        evolution_checkpoint.load,
        lambda run: {**run.net.state_dict(), "times": torch.as_tensor(run.times)},
    ),
    an_operator: (checkpoint_operator.load_operator, lambda model: model.net.state_dict()),
}


def mutate(content: bytes, dice: random.Random) -> bytes:
    """Cut off, with flipped bits, overwritten, with a piece missing, or with one too many."""
    some, length = dice.randrange(len(content)), dice.randrange(1, 200)
    end, other = some + length, dice.randrange(len(content))
    kind = dice.randrange(5)
    if kind == 0:
        return content[:some]
    if kind == 1:
        flipped = bytearray(content)
        for _ in range(dice.choice((1, 1, 8, 64))):
            flipped[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        return bytes(flipped)
    if kind == 2:
        return content[:some] + dice.randbytes(length) + content[end:]
    if kind == 3:
        return content[:some] + content[end:]
    return content[:some] + content[other : other + length] + content[some:]


@pytest.mark.parametrize("write", KINDS, ids=lambda w: w.__name__)
def test_a_mutant_is_refused_or_loads_as_it_was(write, tmp_path):
    load, state = KINDS[write]
    good, mutant = tmp_path / "good.pt", tmp_path / "mutant.pt"
    write(good)
    expected, content, dice = state(load(good)), good.read_bytes(), random.Random(0)
    refused = 0
    for number in range(MUTANTS):
        mutant.write_bytes(mutate(content, dice))
        try:
            got = state(load(mutant))
        except CheckpointError as error:
            refused += 1
            assert str(mutant) in str(error)
            continue
        for name, value in expected.items():
            assert torch.equal(got[name], value), f"mutant {number}: {name}"
    assert refused > MUTANTS // 2  # many a byte of a zip file has no meaning


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("write", KINDS, ids=lambda w: w.__name__)
def test_nothing_in_a_file_is_run(write, tmp_path):
    load, trace = KINDS[write][0], tmp_path / "trace"
    write(tmp_path / "good.pt")
    content = torch.load(tmp_path / "good.pt", weights_only=True)
    torch.save(content | {"problem": Bomb(trace)}, tmp_path / "hostile.pt")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Bomb(trace), protocol=2))
    with zipfile.ZipFile(tmp_path / "zipped.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Bomb(trace), protocol=2))
        archive.writestr("archive/version", "3\n")
    for name in ("hostile.pt", "bare.pt", "zipped.pt"):
        with pytest.raises(CheckpointError, match="not a checkpoint, or is damaged"):
            load(tmp_path / name)
        assert not trace.exists()
    torch.load(tmp_path / "hostile.pt", weights_only=False)
    assert trace.exists(), "the file would have done no harm anyway"
