"""Results in files: what was saved comes back, a crash harms nothing, and a foreign file is told from a good one."""

import dataclasses
import functools
import io
import json
import math
import os
import pickle
from dataclasses import dataclass

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from bumpnet_fast import BumpDeepONet, BumpNet, plotting, problems
from bumpnet_fast import io as files
from bumpnet_fast.cli import main
from bumpnet_fast.core.files import CheckpointError
from bumpnet_fast.io import load, save, saved
from bumpnet_fast.problems.base import Problem
from bumpnet_fast.problems.evolution import Advection, Burgers, Heat
from bumpnet_fast.problems.operators import OperatorData, get_operator
from bumpnet_fast.solvers import Evolution, OperatorSolution, evolve, learn, march, prune, reach, solve

POISSON = problems.get("poisson")


def a_net(dim=2, bumps=7, domain=None, **options):
    net = BumpNet(dim, bumps, domain, **options).perturb_(0.3, torch.Generator().manual_seed(0))
    with torch.no_grad():
        net.amplitudes.normal_(generator=torch.Generator().manual_seed(1))
    return net


def an_operator_net(**options):
    options = {"sensors": 5, "bumps": (3, 2), "domain": [[0, -1], [1, 2]], "dtype": "float64"} | options
    torch.manual_seed(0)
    net = BumpDeepONet(**options)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn(p.shape, dtype=p.dtype))
    return net


def points(net, n=50):
    lo, hi = net.domain
    return lo + (hi - lo) * torch.rand(n, net.layout.dim, generator=torch.Generator().manual_seed(2)).to(net.rows)


@dataclass
class Unregistered(Problem):
    """A user's own problem, which no registry knows."""

    name = "my own"
    tilt: float = 2.0

    def residual(self, x, u):
        return u.laplacian[:, 0]

    def boundary_values(self, x):
        return self.tilt * x[:, 0]


# --- results -------------------------------------------------------------------------------------


def interrupted(progress):
    if progress.iteration == 3:
        raise KeyboardInterrupt


def grid(problem, *bumps, dtype="float64"):
    return BumpNet(len(problem.lower), bumps, problem.domain, problem.outputs, dtype=dtype)


def solved(name, *bumps, how=solve, arguments=(), dtype="float64", **options):
    problem = problems.get(name)
    return how(problem, grid(problem, *bumps, dtype=dtype), *arguments, **{"iterations": 3, "points": 100} | options)


def learned(name="antiderivative", bumps=5, own=None, **options):
    operator = get_operator(name) if own is None else None
    torch.manual_seed(0)
    sizes = {"functions": 20, "test_functions": 6, "trunk_iterations": 3, "iterations": 4}
    data, net = (operator, bumps) if own is None else own
    return learn(data, net, **({} if own is not None else sizes) | options)


def own_pairs(count, seed):
    x, f = torch.linspace(0, 1, 30)[:, None], torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    return OperatorData(f, f[:, :1] * x.T, x)


RESULTS = {
    "hard": lambda: solved("poisson", 3, 3),
    "soft": lambda: solved("poisson", 3, 3, boundary="soft"),
    "float32": lambda: solved("poisson", 3, 3, dtype="float32"),
    "adam": lambda: solved("poisson", 3, 3, method="adam"),
    "outputs": lambda: solved("kovasznay", 3, 3),
    "unknowns": lambda: solved("inverse-heat", 3, 3),
    "pruned": lambda: solved("poisson", 3, 3, how=prune, arguments=(7,)),
    "not reached": lambda: solved("poisson", 2, 2, how=reach, arguments=(1e-9,), most=6),
    "interrupted": lambda: solved("poisson", 3, 3, iterations=9, callback=interrupted),
    "nothing done": lambda: solved("poisson", 3, 3, iterations=0),
    "march": lambda: march(problems.get("heat"), (3, 3), windows=2, iterations=3),
    "soft march": lambda: march(problems.get("advection"), (3, 3), windows=2, iterations=3, boundary="soft"),
    "march that was stopped": lambda: march(
        problems.get("advection"), (3, 3), windows=3, iterations=4, callback=interrupted
    ),
    "evolution": lambda: evolve(Burgers(nu=0.1), 12, times=3, measure=False),
    "evolution with ends": lambda: evolve(Heat(periodic=False), 10, times=4),
    "evolution that moves": lambda: evolve(Advection(narrow=2.0), 4, times=4, shapes="evolve", step=0.3),
    "evolution in float32": lambda: evolve(Heat(), BumpNet(1, 9, Heat().domain, dtype="float32"), times=2),
    "evolution that was stopped": lambda: evolve(Heat(), 9, times=4, callback=interrupted),
    "evolution at its start": lambda: evolve(Heat(), 9, times=4, max_seconds=1e-9),
    "operator": learned,
    "operator with a hidden layer": lambda: learned("burgers", 4, method="adam"),
    "operator, untested": lambda: learned(test_functions=0),
    "operator, tested on other functions": lambda: learned(test=get_operator("antiderivative").generate(4, 9)),
    "operator from pairs": lambda: learned(own=(own_pairs(9, 0), BumpDeepONet(4, 3, [[0.0], [1.0]]))),
    "operator from pairs and others": lambda: learned(
        own=(own_pairs(9, 0), BumpDeepONet(4, 3, [[0.0], [1.0]])), test=own_pairs(5, 1)
    ),
}


@functools.cache
def result(name):
    return RESULTS[name]()


def assert_same(a, b, where):
    """Equal to the last bit, NaN included, and of the same types all the way down."""
    if where.endswith((".problem", ".space", ".places")):  # made anew, a window's problem of another class; not saved
        return
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), where
    elif isinstance(a, nn.Module):
        assert_same(dict(a.state_dict()), dict(b.state_dict()), where)
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{i}]")
    elif isinstance(a, float) and math.isnan(a):
        assert math.isnan(b), where
    elif dataclasses.is_dataclass(a):
        assert_same(vars(a), vars(b), where)
    else:
        assert a == b, where


def assert_same_result(again, what):
    assert type(again) is type(what)
    ours, theirs = ({f.name: getattr(r, f.name) for f in dataclasses.fields(r)} for r in (again, what))
    if isinstance(what, Evolution):  # the bumps at the start are those of the first state
        ours["net"], theirs["net"] = again.at(0.0), what.at(0.0)
    assert_same(ours, theirs, type(what).__name__)
    assert again.problem == what.problem and again.stop_reason == what.stop_reason


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_comes_back(name, tmp_path):
    what, path = result(name), tmp_path / "model.pt"
    save(path, what)
    again = load(path)
    assert_same_result(again, what)
    save(tmp_path / "again.pt", again)
    assert_same_result(load(tmp_path / "again.pt"), what)
    assert torch.load(path, weights_only=True)["version"] == saved.VERSION


def test_the_cases_are_what_they_say():
    assert result("unknowns").unknowns and result("pruned").events and result("float32").net.rows.dtype == torch.float32
    assert [result(f"{name} that was stopped").stop_reason for name in ("march", "evolution")] == ["interrupted"] * 2
    assert len(result("march that was stopped").parts) < 3 and len(result("evolution at its start").times) == 1
    assert result("operator from pairs").problem is None and result("operator, untested").test is None


@pytest.mark.parametrize("name", [n for n in RESULTS if not n.startswith("operator")])
def test_u_comes_back(name, tmp_path):
    what = result(name)
    save(tmp_path / "model.pt", what)
    again = load(tmp_path / "model.pt")
    if isinstance(what, Evolution):
        x = torch.rand(20, 1, dtype=torch.float64)
        for t in (0.0, 0.33 * float(what.times[-1]), float(what.times[-1])):
            assert torch.equal(again(x, t), what(x, t)) and torch.equal(again.at(t).rows, what.at(t).rows)
        return
    lo, hi = what.problem.domain
    x = (lo + (hi - lo) * torch.rand(50, len(lo), dtype=torch.float64)).to(what.net.rows)
    assert torch.equal(again(x), what(x))
    assert torch.equal(again.jet(x).hessian, what.jet(x).hessian)


@pytest.mark.parametrize("name", [n for n in RESULTS if n.startswith("operator")])
def test_an_operator_comes_back(name, tmp_path):
    what = result(name)
    save(tmp_path / "model.pt", what)
    again, pairs = load(tmp_path / "model.pt"), what.data
    assert isinstance(again, OperatorSolution)
    assert torch.equal(again(pairs.inputs, pairs.points), what(pairs.inputs, pairs.points))


def test_numbers_that_are_none(tmp_path):
    """A run that diverged has them in its history."""
    what = solved("poisson", 3, 3)
    odd = {"loss": math.nan, "rel_l2": math.inf, "max_error": -math.inf, "warnings": ["odd"], "stop": "diverged"}
    history = [entry | {"loss": math.inf, "rel_l2": math.nan} for entry in what.history]
    what = dataclasses.replace(what, history=history, **odd)
    save(tmp_path / "model.pt", what)
    assert_same_result(load(tmp_path / "model.pt"), what)


def test_it_can_be_trained_further(tmp_path):
    save(tmp_path / "model.pt", result("hard"))
    u = load(tmp_path / "model.pt")
    assert torch.autograd.grad(u.predict(points(u.net), grad=True).sum(), u.net.rows)[0].abs().sum() > 0
    loss = u.loss
    assert solve(u.problem, u.net, iterations=5, points=100).loss < loss


def test_torch_reads_an_evolution_safely_and_finds_the_last_net(tmp_path):
    run = evolve(Heat(), 9, times=2)
    save(tmp_path / "model.pt", run)
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    net = BumpNet(**content["kwargs"])
    net.load_state_dict(content["model"])
    assert torch.equal(net.rows, run.at(0.5).rows)


def test_what_is_no_result_is_refused(tmp_path):
    for what in (None, "model", {"rows": 1}, nn.Linear(2, 3), a_net().rows):
        with pytest.raises(TypeError, match="only the result of a solver or a net can be saved, got "):
            save(tmp_path / "model.pt", what)
    with pytest.raises(ValueError, match="a result has its own"):
        save(tmp_path / "model.pt", result("hard"), problem=POISSON)
    assert os.listdir(tmp_path) == []


# --- nets alone ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "net",
    [
        a_net(),
        a_net(1, 3, dtype="float64", outer="free"),
        a_net(3, (2, 1, 2), [[0, 0, -5], [1, 2, 5]], outputs=2, dtype="float64", scale=(1.0, 2.0, 0.1), centre_box=1.7),
    ],
    ids=["plain", "free", "everything"],
)
def test_a_net_comes_back(net, tmp_path):
    save(tmp_path / "model.pt", net)
    again = load(tmp_path / "model.pt")
    assert (again.problem.name, again.boundary, again.history, again.stop_reason) == ("a net", "soft", [], "")
    assert again.net.extra_repr() == net.extra_repr() and again.rel_l2 is None and math.isnan(again.loss)
    assert torch.equal(again.problem.domain, net.domain.double()) and again.problem.outputs == net.layout.outputs
    for name in ("rows", "frame", "domain"):
        assert torch.equal(getattr(again.net, name), getattr(net, name)), name
    x = points(net)
    assert torch.equal(again(x), net(x))
    assert torch.equal(again.jet(x, "hessian").hessian, net.jet(x).hessian)


@pytest.mark.parametrize("boundary", ["hard", "soft"])
def test_the_boundary_condition_comes_back_too(boundary, tmp_path):
    problem = problems.get("helmholtz", a1=2, lower=(0, 0))
    net = a_net(domain=problem.domain, dtype="float64")
    save(tmp_path / "model.pt", net, problem=problem, boundary=boundary)
    u = load(tmp_path / "model.pt")
    assert (u.problem, u.boundary) == (problem, boundary)
    x = points(net)
    composed = problem.distance(x)[:, None] * net(x) + problem.lift(x)[:, None]
    torch.testing.assert_close(u(x), (composed if boundary == "hard" else net(x)).detach())


@pytest.mark.parametrize("name", ["hard", "soft"])
def test_the_errors_of_a_net_are_measured_anew(name, tmp_path):
    what = result(name)
    save(tmp_path / "model.pt", what.net, problem=what.problem, boundary=what.boundary)
    again = load(tmp_path / "model.pt")
    assert again.rel_l2 == pytest.approx(what.rel_l2) and again.max_error == pytest.approx(what.max_error)
    assert again.history == [] and again.stop_reason == ""


def test_the_jet_of_a_hard_model_is_that_of_its_values(tmp_path):
    save(tmp_path / "model.pt", a_net(domain=POISSON.domain, dtype="float64"), problem=POISSON, boundary="hard")
    u = load(tmp_path / "model.pt")
    x, step = points(u.net, 5), torch.tensor([[1e-5, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(u.jet(x, "gradient").d(0), (u(x + step) - u(x - step)) / 2e-5, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    "options", [{}, {"branch": (4, 3)}, {"bias": True, "periodic": (True, False), "outer": "free"}], ids=str
)
def test_an_operator_net_comes_back(options, tmp_path):
    net = an_operator_net(**options)
    save(tmp_path / "model.pt", net)
    again = load(tmp_path / "model.pt")
    assert again.operator is None and again.data is None and again.stop_reason == "" and math.isnan(again.rel_l2)
    assert_same(again.net, net, "net")
    assert (again.net.periodic, again.net.tied, again.net.hidden) == (net.periodic, net.tied, net.hidden)
    f, y = torch.randn(3, 5, dtype=torch.float64), torch.rand(4, 2, dtype=torch.float64)
    assert torch.equal(again(f, y), net(f, y).detach())


def test_the_operator_of_a_net_comes_back(tmp_path):
    operator = get_operator("advection", shift=-0.2, sensors=16)
    save(tmp_path / "model.pt", BumpDeepONet(16, 3, operator.domain, dtype="float32"), problem=operator)
    again = load(tmp_path / "model.pt")
    assert again.operator == operator and again.net.rows.dtype == torch.float32
    assert torch.load(tmp_path / "model.pt", weights_only=True)["problem"]["name"] == "advection"


def test_a_branch_of_ones_own_has_to_be_brought(tmp_path):
    def branch():
        return nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 6)).double()

    net, path = an_operator_net(branch=branch()), tmp_path / "model.pt"
    save(path, net)
    with pytest.raises(CheckpointError, match=r"pass one as load\(path, branch=...\)"):
        load(path)
    assert_same(load(path, branch=branch()).net, net, "net")
    with pytest.raises(CheckpointError, match="does not fit the branch"):
        load(path, branch=nn.Linear(5, 6).double())


def test_what_does_not_fit_a_net_is_refused_before_anything_is_written(tmp_path):
    advection = get_operator("advection", sensors=16)
    for what, options, error, message in (
        (a_net(domain=[[0, 0], [1, 1]]), {"problem": POISSON}, ValueError, r"net is for the domain \[\[0"),
        (a_net(1), {"problem": POISSON}, ValueError, "net has 1 dimensions and problem 'poisson' has 2"),
        (a_net(), {"problem": "poisson"}, TypeError, "problem must be of Problem, or None, got str"),
        (a_net(), {"problem": get_operator("heat")}, TypeError, "problem must be of Problem, or None, got Heat"),
        (a_net(), {"boundary": "open"}, ValueError, "boundary must be one of hard, soft, got 'open'"),
        (an_operator_net(), {"problem": advection}, ValueError, "net has 5 sensors and operator 'advection' has 16"),
        (an_operator_net(), {"problem": POISSON}, TypeError, "problem must be of Operator, or None, got Poisson"),
    ):
        with pytest.raises(error, match=message):
            save(tmp_path / "model.pt", what, **options)
    assert os.listdir(tmp_path) == []


# --- problems of one's own -----------------------------------------------------------------------


def test_a_problem_that_is_not_registered(tmp_path):
    problem, net, path = Unregistered(tilt=3.0), a_net(), tmp_path / "model.pt"
    x = points(net)
    save(path, net, problem=problem, boundary="hard")
    with pytest.raises(CheckpointError, match=r"unknown problem 'my own'.*problem=\.\.\."):
        load(path)
    wanted = problem.compose(x, "value")(net.jet(x, want="value")).value.detach()
    assert torch.equal(load(path, problem=problem)(x), wanted)
    save(path, net, problem=problem, boundary="soft")
    assert load(path).problem.name == "my own" and torch.equal(load(path)(x), net(x))  # the net alone is the solution


def test_a_problem_that_holds_what_no_file_can(tmp_path):
    @dataclass
    class Driven(problems.Poisson):
        name = "driven"
        force: object = None

    for force in (torch.sin, lambda x: x, a_net(), object()):
        problem = Driven(force=force)
        what = solve(problem, grid(problem, 3, 3), iterations=1, points=50)
        save(tmp_path / "model.pt", what)
        assert_same_result(load(tmp_path / "model.pt", problem=problem), what)


def test_an_evolution_of_ones_own(tmp_path):
    class Mine(Heat):
        name = "mine"

    save(tmp_path / "model.pt", evolve(Mine(), 9, times=1))
    with pytest.raises(CheckpointError, match=r"needs its problem, unknown problem 'mine'.*pass it as problem="):
        load(tmp_path / "model.pt")
    assert load(tmp_path / "model.pt", problem=Mine()).problem.name == "mine"


def test_an_operator_of_ones_own_leaves_the_result_whole(tmp_path):
    class Mine(type(get_operator("antiderivative"))):
        name = "mine"

    what = learn(Mine(), 4, functions=20, test_functions=5, trunk_iterations=2)
    save(tmp_path / "model.pt", what)
    again = load(tmp_path / "model.pt")
    assert again.operator is None and torch.equal(again.errors, what.errors) and again.history == what.history
    assert_same_result(load(tmp_path / "model.pt", problem=what.operator), what)


def test_a_regression_of_ones_own(tmp_path):
    problem = problems.Regression.of(lambda x: x[:, 0] ** 2, [0.0], [1.0])
    what = solve(problem, BumpNet(1, 4, problem.domain, dtype="float64"), iterations=5)
    save(tmp_path / "model.pt", what)
    assert_same_result(load(tmp_path / "model.pt", problem=problem), what)


@pytest.mark.parametrize(("name", "problem", "error", "message"), [
    ("hard", "poisson", TypeError, "problem must be of Problem, or None, got str"),
    ("hard", Heat(), ValueError, "net has 2 dimensions and problem 'heat' has 1"),
    ("hard", problems.get("heat2d"), ValueError, "net has 2 dimensions and problem 'heat2d' has 3"),
    ("hard", problems.get("kovasznay"), ValueError, "net has 1 outputs and problem 'kovasznay' has 3"),
    ("hard", problems.get("heat"), ValueError, "net is for the domain"),
    ("march", POISSON, ValueError, "problem 'poisson' has no axis of time, and the solution is in windows"),
    ("march", problems.get("advection"), ValueError, "net is for the domain"),
    ("evolution", POISSON, TypeError, "problem must be of EvolutionProblem, or None, got Poisson"),
    ("operator", POISSON, TypeError, "problem must be of Operator, or None, got Poisson"),
    ("operator", get_operator("heat"), ValueError, "sensors"),
])  # fmt: skip
def test_a_problem_that_does_not_fit(name, problem, error, message, tmp_path):
    save(tmp_path / "model.pt", result(name))
    with pytest.raises(error, match=message) as caught:
        load(tmp_path / "model.pt", problem=problem)
    assert not isinstance(caught.value, CheckpointError)  # the file is good


# --- folders of the command line -----------------------------------------------------------------

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
        patch.setattr(files, "save", lambda path, result: returned.append(result) or save(path, result))
        for name, line in RUNS.items():
            folder = tmp_path_factory.mktemp("run")
            assert main([*line.split(), "--out", str(folder), "--quiet", "--threads", "1"]) == 0
            made[name] = folder, returned[-1]
    return made


def copied(folder, target):
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


@pytest.mark.parametrize("name", RUNS)
def test_a_folder_holds_what_the_solver_returned(name, runs, tmp_path):
    folder, what = runs[name]
    assert_same_result(load(folder), what)
    assert_same_result(load(folder / "model.pt"), what)
    folder = copied(folder, tmp_path)
    for file in ("history.json", "summary.json"):  # which are for people
        (folder / file).unlink()
    assert_same_result(load(folder), what)


def older(name, folder, target):
    """The folder as version 0.1.0 wrote it: how the result came about is in its files of JSON."""
    content = torch.load(copied(folder, target) / "model.pt", weights_only=True)
    del content["result"]
    torch.save(content | {"version": 2}, target / "model.pt")
    return target


def test_the_numbers_of_an_older_folder(runs, tmp_path):
    folder, what = older("pruned", runs["pruned"][0], tmp_path), runs["pruned"][1]
    again = load(folder)
    for name in ("history", "events", "loss", "rel_l2", "max_error", "seconds", "iterations", "method", "stop"):
        assert getattr(again, name) == getattr(what, name), name
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | {"loss": None}))  # JSON has no NaN
    assert math.isnan(load(folder).loss)


@pytest.mark.parametrize(("name", "file", "content", "message"), [
    ("solve", "model.pt", None, "the run in .* has not ended: it has no model.pt yet; continue it with --resume"),
    ("solve", "history.json", None, "is not the whole folder of a run: it has no history.json"),
    ("solve", "summary.json", None, "is not the whole folder of a run: it has no summary.json"),
    ("solve", "summary.json", b"{", "summary.json is damaged"),
    ("solve", "summary.json", b"[" * 100_000, "summary.json is damaged"),
    ("solve", "summary.json", b"[]", "summary.json is damaged: it is no dict"),
    ("solve", "summary.json", b"{\"loss\": 1}", "is damaged: 'rel_l2'"),
    ("pruned", "history.json", b"[{\"event\": \"prune\"}]", "is damaged: 'iteration'"),
    ("operator", "summary.json", b"{\"seed\": 1}", "is damaged: 'method'"),
    ("solve", "model.pt", b"no model", "model.pt is not a checkpoint, or is damaged"),
])  # fmt: skip
def test_older_folders_that_are_not_whole(name, file, content, message, runs, tmp_path):
    folder = older(name, runs[name][0], tmp_path)
    (folder / file).unlink() if content is None else (folder / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as error:
        load(folder)
    assert "\n" not in str(error.value)


def test_foreign_folders_and_files(runs, tmp_path):
    with pytest.raises(CheckpointError, match=r"is not the folder of a run: it has no model\.pt"):
        load(tmp_path)
    for missing in ("nowhere", "model.pt"):
        with pytest.raises(FileNotFoundError):
            load(tmp_path / missing)
    with pytest.raises(CheckpointError, match=r"run\.pt is the state of a run, not its result; continue the run by"):
        load(runs["solve"][0] / "run.pt")


# --- the file ------------------------------------------------------------------------------------


def test_the_file_is_plain_data(tmp_path):
    save(tmp_path / "model.pt", a_net(domain=POISSON.domain), problem=POISSON, boundary="hard")
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    assert content["version"] == saved.VERSION
    assert content["kwargs"]["bumps"] == 7
    assert content["problem"]["name"] == "poisson"
    assert content["model"]["rows"].shape == (7, 7)
    assert not content["model"]["rows"].requires_grad


def test_a_crash_while_saving_leaves_the_old_file(tmp_path, monkeypatch):
    path, old = tmp_path / "model.pt", a_net()
    save(path, old)

    def crash(content, file):
        file.write(b"half of it")
        raise KeyboardInterrupt

    for what in (a_net(bumps=9), result("march"), result("evolution"), result("operator")):
        with monkeypatch.context() as patch:
            patch.setattr(torch, "save", crash)
            with pytest.raises(KeyboardInterrupt):
                save(path, what)
        assert torch.equal(load(path).net.rows, old.rows)
        assert os.listdir(tmp_path) == ["model.pt"]


def test_a_missing_directory_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        save(tmp_path / "nowhere" / "model.pt", a_net())


def content_of(change=None):
    """Bytes of a good file, its dict changed beforehand."""
    content = {"version": 1, "kwargs": saved.net_settings(a_net()), "model": a_net().state_dict()}
    content |= {"problem": None, "boundary": None} | (change or {})
    file = io.BytesIO()
    torch.save({key: value for key, value in content.items() if value != "left out"}, file)
    return file.getvalue()


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("executed",)


BAD = {
    "empty": (b"", "not a checkpoint, or is damaged"),
    "text": (b"not a checkpoint at all", "not a checkpoint, or is damaged"),
    "cut short": (content_of()[:-200], "not a checkpoint, or is damaged"),
    "code": (pickle.dumps(Malicious(), protocol=2), "not a checkpoint, or is damaged"),
    "somebody else's": (content_of({"version": "left out"}), "not written by bumpnet_fast"),
    "a newer format": (content_of({"version": 4}), "format 4"),
    "of another kind": (content_of({"kind": "cake"}), "holds a cake, not a model"),
    "no arguments": (content_of({"kwargs": None}), "damaged"),
    "unknown arguments": (content_of({"kwargs": {"dims": 2}}), "damaged"),
    "bad arguments": (content_of({"kwargs": saved.net_settings(a_net()) | {"dim": -1}}), "dim must be"),
    "no weights": (content_of({"model": {}}), "Missing key.*rows"),
    "weights of another net": (content_of({"model": a_net(1).state_dict()}), "dim, outputs, tied"),
    "more bumps than there are": (
        content_of({"kwargs": saved.net_settings(a_net()) | {"bumps": 10**12}}),
        "ask for 7e",
    ),
    "no boundary": (content_of({"boundary": "left out"}), "it has no boundary"),
    "an odd boundary": (content_of({"boundary": "open"}), "boundary must be one of hard, soft, got 'open'"),
    "a hard boundary of no problem": (
        content_of({"boundary": "hard"}),
        "needs its problem, which was not saved; pass it",
    ),
    "the problem of another net": (
        content_of({"problem": {"name": "poisson", "settings": {"lower": (0, 0)}}}),
        "net is for the domain",
    ),
}


@pytest.mark.parametrize("content, message", BAD.values(), ids=BAD.keys())
def test_bad_files_are_refused(content, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as error:
        load(tmp_path / "model.pt")
    assert "\n" not in str(error.value)
    assert str(tmp_path / "model.pt") in str(error.value)
    assert os.listdir(tmp_path) == ["model.pt"]


def test_the_good_file_of_that_table_is_good(tmp_path):
    (tmp_path / "model.pt").write_bytes(content_of())
    assert torch.equal(load(tmp_path / "model.pt").net.rows, a_net().rows)


#: What cannot be of how a result came about, by entry of the file.
ODD = {
    "result": {
        "history": (3, "text", [1, 2], {}), "stop": ("a whim", 3, None), "loss": ("small", [1]), "seconds": ("long",),
        "warnings": ("one",), "method": (3,), "unknowns": ([1],), "events": ([3], [{"step": 1}], "none"),
        "more": (1,), "net": (1,),
    },
    "pairs": {"data": (3, [1], {"inputs": 1}), "test": ({},)},
}  # fmt: skip


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [(part, name, value) for part, names in ODD.items() for name, values in names.items() for value in values],
    ids=str,
)
def test_a_result_that_cannot_be_is_refused(part, name, value, tmp_path):
    path = tmp_path / "model.pt"
    save(path, result("pruned" if part == "result" else "operator"))
    content = torch.load(path, weights_only=True)
    content[part][name] = value
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="damaged") as error:
        load(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["times", "states", "frame", "steps", "stop", "history"])
def test_an_evolution_with_something_missing(key, tmp_path):
    save(tmp_path / "model.pt", result("evolution"))
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    del content["evolution"][key]
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="is damaged"):
        load(tmp_path / "model.pt")


def test_a_net_of_a_few_rows_of_many_is_saved_alone(tmp_path):
    net = a_net()
    net.rows.data = torch.zeros(100_000, 7)[:7]
    save(tmp_path / "model.pt", net)
    assert (tmp_path / "model.pt").stat().st_size < 20_000
