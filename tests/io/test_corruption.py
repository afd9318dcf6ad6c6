"""Files that were cut, flipped, filled in or hostile are refused with one clear error, and nothing in them is run."""

import contextlib
import functools
import pickle
import random
import zipfile
from pathlib import Path

import pytest
import torch

from bumpnet_fast import BumpDeepONet, BumpNet, problems
from bumpnet_fast.core.files import CheckpointError
from bumpnet_fast.io import Recording, load, resume, save
from bumpnet_fast.problems.evolution import Heat
from bumpnet_fast.problems.operators import get_operator
from bumpnet_fast.solvers import Evolution, March, OperatorSolution, evolve, learn, march, prune, solve

MUTANTS = 100  # of every kind of file


def a_model(path):
    problem = problems.get("helmholtz")
    save(path, BumpNet(2, 9, problem.domain), problem=problem, boundary="soft")


def a_solution(path):
    problem = problems.get("poisson")
    save(path, prune(problem, BumpNet(2, 9, problem.domain, dtype="float64"), 8, iterations=2, points=64))


def a_marched_solution(path):
    save(path, march(problems.get("advection"), 4, windows=2, iterations=1, points=64))


def an_evolution(path):
    save(path, evolve(Heat(), 9, times=2, measure=False))


def an_operator(path):
    save(path, BumpDeepONet(5, (3, 2), [[0.0, -1.0], [1.0, 2.0]]))


def a_learned_operator(path):
    sizes = {"functions": 9, "test_functions": 4, "trunk_iterations": 1}
    save(path, learn(get_operator("antiderivative", sensors=8, grid=20), 3, **sizes))


def a_recording(path):
    problem = problems.get("helmholtz")
    with Recording(path) as recording:
        solve(problem, BumpNet(2, 4, problem.domain), iterations=2, points=64, callback=recording)


def state(what):
    """All tensors in a result or a recording, by name."""
    if isinstance(what, list):
        return {f"{i} {name}": getattr(frame, name) for i, frame in enumerate(what) for name in ("rows", "domain")}
    nets = [what.net, *(part.net for part in what.parts)] if isinstance(what, March) else [what.net]
    tensors = {f"{i} {name}": value for i, net in enumerate(nets) for name, value in net.state_dict().items()}
    numbers = [value for entry in what.history for value in entry.values() if isinstance(value, float)]
    tensors |= {"seconds": torch.tensor(what.seconds), "history": torch.tensor(numbers, dtype=torch.float64)}
    if isinstance(what, Evolution):
        tensors |= {name: getattr(what, name) for name in ("times", "states", "rates")}
    if isinstance(what, OperatorSolution) and what.data is not None:
        tensors |= {"errors": what.errors} | what.data._asdict()
    return tensors


KINDS = (a_model, a_solution, a_marched_solution, an_evolution, an_operator, a_learned_operator, a_recording)


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
    trace = tmp_path / "trace"
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


# --- files that are whole, and hold what cannot be -------------------------------------------------


def a_run(path):
    solve(problems.get("helmholtz"), BumpNet(2, 9, problems.get("helmholtz").domain), iterations=2, checkpoint=path)


def a_march(path):
    march(problems.get("advection"), 4, windows=1, iterations=1, checkpoint=path)


def a_training(path):
    problem = problems.get("helmholtz")
    solve(problem, BumpNet(2, 9, problem.domain), method="adam", iterations=2, checkpoint=path)


LOADERS = dict.fromkeys(KINDS, load) | dict.fromkeys((a_run, a_march, a_training), resume)
#: Where the bumps of a file are.
NETS = {write: ("model",) for write in KINDS[:-1] if write is not a_marched_solution}
NETS |= {a_marched_solution: ("windows", 1), a_run: ("net",), a_training: ("net",), a_recording: ("frames", 0)}


def swapped(box):
    return torch.cat([box[:2].flip(0), box[2:]])


#: What becomes of a tensor of a net.
SPOILED = {
    "NaN frame": ("frame", lambda t: t * float("nan")),
    "swapped frame": ("frame", swapped),
    "frame without scale": ("frame", lambda t: t * torch.tensor([[1.0], [1.0], [0.0]])),
    "frame of another dimension": ("frame", lambda t: torch.cat([t, t], 1)),
    "complex frame": ("frame", lambda t: t + 0j),
    "infinite domain": ("domain", lambda t: t / 0),
    "swapped domain": ("domain", swapped),
    "NaN rows": ("rows", lambda t: t * float("nan")),
    "complex rows": ("rows", lambda t: t + 0j),
    "integer rows": ("rows", lambda t: t.long()),
    "boolean rows": ("rows", lambda t: t > 0),
    "text": ("rows", lambda t: "rows"),
    "flat rows": ("rows", lambda t: t.flatten()),
    "no bumps": ("rows", lambda t: t[:0]),
    "rows by a stride of 0": ("rows", lambda t: t[:1].expand(10**10, -1)),
    "frame by a stride of 0": ("frame", lambda t: t[:, :1].expand(-1, 10**11)),
}


@pytest.mark.parametrize("spoiled", SPOILED)
@pytest.mark.parametrize("write", NETS, ids=lambda w: w.__name__)
def test_bumps_that_cannot_be_are_refused(write, spoiled, tmp_path):
    path, (name, change) = tmp_path / "file.pt", SPOILED[spoiled]
    write(path)
    content = torch.load(path, weights_only=True)
    bumps = functools.reduce(lambda part, key: part[key], NETS[write], content)
    bumps[name] = change(bumps[name])
    torch.save(content, path)
    before = path.read_bytes()
    with limited_memory(), pytest.raises(CheckpointError) as error:
        LOADERS[write](path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert path.read_bytes() == before


HUGE = {
    (a_model, "kwargs", "bumps"): (10**12, 1e12, (10**6, 10**6), -1, True, "9", None),
    (a_model, "kwargs", "dim"): (10**7, 0, 2.5),
    (a_model, "kwargs", "outputs"): (10**12, 0, -5),
    (an_evolution, "kwargs", "bumps"): (10**12, 1e12),
    (an_operator, "kwargs", "bumps"): (10**12, 1e12, (10**6, 10**6)),
    (an_operator, "kwargs", "sensors"): (10**12, 1e12, -1, None),
    (an_operator, "kwargs", "branch"): ([10**6, 10**6], [10**12], [-1], "wide", 7),
    (a_march, "settings", "bumps"): (10**12, 1e12, -1, "many"),
    (a_march, "settings", "windows"): (1e12, -1, None),
    (a_run, "settings", "points"): (10**14, -1, "many", {}),
    (a_run, "settings", "nothing"): (1,),
    (a_run, "settings", "iterations"): (-1, "many", [1, 2, 3]),
}


@pytest.mark.parametrize(
    ("place", "value"), [(place, value) for place, values in HUGE.items() for value in values], ids=str
)
def test_arguments_that_cannot_be_cost_no_memory(place, value, tmp_path):
    write, part, name = place
    path = tmp_path / "file.pt"
    write(path)
    content = torch.load(path, weights_only=True)
    content[part][name] = value
    torch.save(content, path)
    with limited_memory(), pytest.raises(CheckpointError) as error:
        LOADERS[write](path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "change"), [
    ("times", lambda t: t * float("nan")),
    ("times", lambda t: t.flip(0)),
    ("times", lambda t: t[:-1]),
    ("times", lambda t: t.long()),
    ("states", lambda t: t * float("nan")),
    ("states", lambda t: t[..., :-1]),
    ("states", lambda t: t + 0j),
    ("rates", lambda t: t[:-1]),
    ("rates", lambda t: "rates"),
    ("frame", lambda t: t * float("nan")),
    ("frame", swapped),
    ("images", lambda n: [10**9]),
    ("images", lambda n: [-1]),
    ("images", lambda n: [1.5]),
    ("images", lambda n: []),
    ("history", lambda h: h[1:]),
    ("history", lambda h: 3),
])  # fmt: skip
def test_an_evolution_that_cannot_be_is_refused(name, change, tmp_path):
    path = tmp_path / "file.pt"
    an_evolution(path)
    content = torch.load(path, weights_only=True)
    content["evolution"][name] = change(content["evolution"][name])
    torch.save(content, path)
    with limited_memory(), pytest.raises(CheckpointError) as error:
        load(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_was_compressed_is_refused(tmp_path):
    """It may be a thousand times larger inside."""
    good, path = tmp_path / "good.pt", tmp_path / "packed.pt"
    a_model(good)
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(CheckpointError, match="not a checkpoint, or is damaged"):
        load(path)


@contextlib.contextmanager
def limited_memory():
    """Two more GB at most, where the system can be told so."""
    resource = pytest.importorskip("resource")
    used = Path("/proc/self/statm")
    if not used.exists():
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    size = int(used.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 2 * 1024**3, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
