"""What a command wrote gives back what the solver returned."""

import json

import pytest
import torch
from matplotlib.figure import Figure

from bumpnet_fast import BumpNet, plotting, problems
from bumpnet_fast.cli import evolve, main, operator, solve
from bumpnet_fast.io import saved as checkpoint
from bumpnet_fast.io.results import load
from bumpnet_fast.io.saved import CheckpointError
from bumpnet_fast.io.saved_operator import load_operator
from bumpnet_fast.solvers import Evolution, March
from bumpnet_fast.solvers import solve as solve_problem

RUNS = {
    "solve": "solve helmholtz --bumps 3x3 --set a1=2 --set points=64 --set iterations=3 --seed 1",
    "unknowns": "solve inverse-heat --bumps 3x3 --set iterations=3",
    "pruned": "solve poisson --bumps 3x3 --prune-to 7 --set points=64 --set iterations=3",
    "adam": "solve poisson --bumps 3x3 --method adam --set iterations=20 --boundary soft --dtype float32",
    "marched": "solve heat --bumps 3x3 --windows 2 --set iterations=3",
    "evolve": "evolve heat --bumps 12 --set times=3 --no-animation",
    "operator": "operator antiderivative --bumps 6 --set functions=40 --set test_functions=10 --set trunk_iterations=3",
    "operator, untested": "operator burgers --bumps 4 --set functions=20 --set test_functions=0 --branch 8 --seed 3 "
    "--set iterations=20 --set trunk_iterations=3",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folder of every run by its name, with what its solver returned; the pictures are left out."""
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("evolution_figure", "fields_figure", "operator_figure", "solution_figure"):
            patch.setattr(plotting, name, lambda *_, **__: Figure((1, 1)))
        returned = []
        for module in (solve, evolve, operator):
            finish = module._finish
            patch.setattr(
                module, "_finish", lambda result, *a, finish=finish: returned.append(result) or finish(result, *a)
            )
        for name, line in RUNS.items():
            folder = tmp_path_factory.mktemp("run")
            assert main([*line.split(), "--out", str(folder), "--quiet", "--threads", "1"]) == 0
            made[name] = folder, returned[-1]
    return made


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, torch.nn.Module):
        return all(torch.equal(value, b.state_dict()[key]) for key, value in a.state_dict().items())
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if hasattr(a, "boundary") and hasattr(a, "net"):  # a part of a march
        return a.boundary == b.boundary and same(a.net, b.net)
    return a == b


@pytest.mark.parametrize("name", RUNS)
def test_the_result_is_what_the_solver_returned(name, runs):
    folder, solution = runs[name]
    again = load(folder)
    assert type(again) is type(solution)
    for key in vars(solution):
        if key != "space" and (key, name) != ("net", "evolve"):  # made anew, and the start as it was fitted
            assert same(getattr(solution, key), getattr(again, key)), key
    if isinstance(solution, Evolution):
        x = torch.rand(5, 1, dtype=torch.float64)
        assert torch.equal(solution.predict(x, 0.1), again.predict(x, 0.1))
    elif isinstance(solution, March):
        x = torch.rand(50, 2, dtype=torch.float64)
        torch.testing.assert_close(solution.predict(x), again.predict(x), rtol=1e-12, atol=1e-12)
    elif not name.startswith("operator"):
        x = torch.rand(5, 2).to(solution.net.rows)
        assert torch.equal(solution.predict(x), again.predict(x))


@pytest.mark.parametrize("name", ["solve", "marched", "evolve"])
def test_a_model_alone(name, runs):
    folder, solution = runs[name]
    again = load(folder / "model.pt")
    assert again.rel_l2 == pytest.approx(solution.rel_l2) and again.max_error == pytest.approx(solution.max_error)
    assert name == "evolve" or again.history == []


def test_a_model_without_a_problem(tmp_path):
    net = BumpNet(3, 8, [[0, 0, 0], [1, 2, 3]], outputs=2)
    checkpoint.save(tmp_path / "model.pt", net)
    again = load(tmp_path / "model.pt")
    x = torch.rand(5, 3)
    assert torch.equal(again.predict(x), net(x)) and again.problem.domain.tolist() == [[0, 0, 0], [1, 2, 3]]
    assert again.problem.outputs == 2 and again.rel_l2 is None and again.problem.name == "a net"


def test_a_problem_of_ones_own(tmp_path):
    problem = problems.Regression.of(lambda x: x[:, 0] ** 2, [0.0], [1.0])
    solution = solve_problem(problem, BumpNet(1, 4, problem.domain, dtype="float64"), iterations=5)
    checkpoint.save(tmp_path / "model.pt", solution.net, problem=problem, boundary="soft")
    assert load(tmp_path / "model.pt", problem=problem).rel_l2 == pytest.approx(solution.rel_l2)


def copied(folder, target):
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def test_numbers_that_json_has_not_come_back(runs, tmp_path):
    folder = copied(runs["solve"][0], tmp_path)
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | {"loss": None}))
    loss = load(folder).loss
    assert loss != loss


@pytest.mark.parametrize(("name", "file", "content", "message"), [
    ("solve", "model.pt", None, "the run in .* has not ended: it has no model.pt yet; go on with it by --resume"),
    ("solve", "history.json", None, "is not the whole folder of a run: it has no history.json"),
    ("solve", "summary.json", None, "is not the whole folder of a run: it has no summary.json"),
    ("solve", "summary.json", b"{", "summary.json is damaged"),
    ("solve", "summary.json", b"[]", "summary.json is damaged: it is no dict"),
    ("solve", "summary.json", b"{\"loss\": 1}", "is damaged: 'rel_l2'"),
    ("pruned", "history.json", b"[{\"event\": \"prune\"}]", "is damaged: 'iteration'"),
    ("operator", "summary.json", b"{\"seed\": 1}", "is damaged: 'functions'"),
    ("solve", "model.pt", b"no model", "model.pt is not a checkpoint, or is damaged"),
])  # fmt: skip
def test_folders_that_are_not_whole(name, file, content, message, runs, tmp_path):
    folder = copied(runs[name][0], tmp_path)
    (folder / file).unlink() if content is None else (folder / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load(folder)


def test_foreign_folders_and_files(runs, tmp_path):
    with pytest.raises(CheckpointError, match=r"is not the folder of a run: it has no model\.pt"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="holds a run, not a model"):
        load(runs["solve"][0] / "run.pt")
    alone = runs["operator"][0] / "model.pt"
    assert load_operator(alone).operator is not None
    with pytest.raises(CheckpointError, match="its data are made anew from the folder of its run"):
        load(alone)
