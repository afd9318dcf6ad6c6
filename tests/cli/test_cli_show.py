"""bumpnet show: the same pictures again, others of the same run, files for ParaView, and one line for every mistake."""

import contextlib
import io
import shutil
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from bumpnet_fast import BumpNet, plotting, problems
from bumpnet_fast.cli import command, main
from bumpnet_fast.io import load, save
from bumpnet_fast.solvers import run_state

TINY = ("--threads", "1", "--quiet")
SOLVE = ("--set", "points=64", "--set", "iterations=3", *TINY)
#: The folder of a version whose model.pt does not hold the run.
OLDER = Path(__file__).parents[1] / "data" / "version-0.1.0" / "results" / "solve"


def run(*arguments):
    """Exit code, and the lines of output and errors."""
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        code = main([*map(str, arguments)])
    return code, output.getvalue().splitlines(), errors.getvalue().splitlines()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The folders of some runs, drawn by their commands."""
    made = {}
    for name, arguments in {
        "pruned": ("solve", "poisson", "--bumps", "3x3", "--prune-to", 8, "--animate", *SOLVE),
        "in time": ("solve", "heat2d", "--bumps", "2x2x2", *SOLVE),
        "evolution": ("evolve", "heat", "--bumps", 12, "--set", "times=3", *TINY),
        "operator": ("operator", "antiderivative", "--bumps", 4, "--set", "functions=20", "--set", "trunk_iterations=2",
                     *TINY),
    }.items():  # fmt: skip
        made[name] = tmp_path_factory.mktemp("run")
        assert run(*arguments, "--out", made[name])[0] == 0
    return made


@pytest.fixture
def no_picture(monkeypatch):
    """Leave the pictures out; what is drawn, and of which slices, is in the list."""
    drawn = []

    def blank(name):
        def draw(result, *arguments, **options):
            drawn.append((name, *arguments, *options.values()))
            return Figure((1, 1))

        return draw

    for name in ("evolution_figure", "fields_figure", "operator_figure", "solution_figure"):
        monkeypatch.setattr(plotting, name, blank(name))
    monkeypatch.setattr(plotting, "write_animation", lambda run, file: file.write(b"GIF"))
    return drawn


@pytest.mark.parametrize(("name", "flags", "pictures"), [
    ("pruned", ["--animate"], ["solution.png", "training.gif"]),
    ("in time", [], ["solution.png", "fields.png"]),
    ("evolution", ["--animate"], ["evolution.png", "evolution.gif"]),
    ("operator", [], ["operator.png"]),
])  # fmt: skip
def test_the_pictures_of_a_run_are_drawn_again_to_the_last_byte(name, flags, pictures, folders, tmp_path):
    code, output, errors = run("show", folders[name], *flags, "--out", tmp_path / "new")
    assert (code, errors) == (0, []) and output == [str(tmp_path / "new" / picture) for picture in pictures]
    for picture in pictures:
        assert (tmp_path / "new" / picture).read_bytes() == (folders[name] / picture).read_bytes(), picture


def test_how_good_a_run_is(folders, no_picture, tmp_path):
    code, output, errors = run("show", folders["in time"], "--report", "--out", tmp_path)
    assert code == 0 and output[2].startswith("residual of") and output[3].startswith("equation")
    assert output[-1].startswith("stopped") and errors[-1].startswith("bumpnet: warning: the error is about")
    code, output, errors = run("show", folders["in time"], "--report", "--no-estimate", "--out", tmp_path)
    assert code == 0 and any(line.startswith("estimate") and line.endswith("switched off") for line in output)
    code, output, _ = run("show", folders["evolution"], "--report", "--out", tmp_path)
    assert code == 0 and any(line.startswith("estimate    reliable") for line in output), output
    code, _, errors = run("show", folders["operator"], "--report", "--out", tmp_path)
    assert code == 2 and "--report is for solutions" in errors[0] and errors[0].endswith("an operator")


def test_by_default_they_are_drawn_in_the_folder(folders, no_picture, tmp_path):
    folder = shutil.copytree(folders["pruned"], tmp_path / "run")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    code, output, _ = run("show", folder)
    assert (code, output) == (0, [str(folder / "solution.png")])
    assert {path.name for path in folder.iterdir() if path.read_bytes() != before[path.name]} == {"solution.png"}
    assert run("show", folder, "--quiet")[1] == []


def test_slices_and_time(folders, no_picture, tmp_path):
    code, output, errors = run(
        "show", folders["in time"], "--slice", "t=0.5", "--slice", "x = 0.25", "--animate", "--out", tmp_path
    )
    assert (code, errors) == (0, []) and no_picture == [("solution_figure",), ("fields_figure", {"t": 0.5, "x": 0.25})]
    assert [line.split("/")[-1] for line in output] == ["solution.png", "fields.png", "evolution.gif"]
    run("show", folders["evolution"], "--slice", "t=0.1", "--out", tmp_path)
    assert no_picture[-2:] == [("evolution_figure",), ("fields_figure", {"t": 0.1})]


@pytest.mark.parametrize(("name", "file", "flags", "count"), [
    ("pruned", "u.vti", [], 1),
    ("in time", "u.vti", ["--slice", "t=1"], 1),
    ("in time", "u.pvd", [], 42),
    ("evolution", "u.pvd", [], 42),
])  # fmt: skip
def test_files_for_paraview(name, file, flags, count, folders, no_picture, tmp_path):
    code, output, errors = run(
        "show", folders[name], "--vtk", tmp_path / file, "--points", 5, *flags, "--out", tmp_path / "p"
    )
    assert (code, errors, output[0]) == (0, [], str(tmp_path / file))
    files = sorted(path.name for path in tmp_path.iterdir() if path.is_file())
    assert len(files) == count and b'WholeExtent="0 4' in next(tmp_path.glob("*.vti")).read_bytes()


def test_a_model_alone_says_what_it_lacks(folders, no_picture, tmp_path):
    code, output, errors = run("show", folders["pruned"] / "model.pt", "--out", tmp_path)
    assert (code, output, errors) == (0, [str(tmp_path / "solution.png")], [])  # which has its run in it
    code, output, errors = run("show", OLDER / "model.pt", "--out", tmp_path)
    assert (code, output) == (0, [str(tmp_path / "solution.png")])
    assert len(errors) == 1 and "is a model without its run: how it came about is not shown" in errors[0]
    path = tmp_path / "mine.pt"
    save(path, BumpNet(2, 4))
    code, output, errors = run("show", path)
    assert code == 0 and output == [str(tmp_path / "solution.png")]
    assert "problem 'a net' is not known here" in errors[1] and len(errors) == 2


@pytest.mark.parametrize(("name", "arguments", "message"), [
    ("pruned", ["--slice", "z=0"], "there is no axis 'z' to slice at; there are: x, y"),
    ("pruned", ["--slice", "x"], "--slice: 'x' is not of the form AXIS=VALUE"),
    ("pruned", ["--slice", "x=nan"], "--slice: 'x=nan' is not of the form AXIS=VALUE"),
    ("pruned", ["--slice", "x=5"], "the slice at x must be from -1 to 1, got 5.0"),
    ("pruned", ["--slice", "x=0", "--slice", "y=0"], "slices must leave at least one of the axes x, y"),
    ("pruned", ["--vtk", "u.vtk"], "must be called NAME.vti or NAME.pvd"),
    ("pruned", ["--vtk", "no/where.vti"], "cannot write the file no/where.vti"),
    ("pruned", ["--vtk", "u.pvd"], "a series over time, .pvd, needs an axis t"),
    ("pruned", ["--points", "9"], "--points is for --vtk"),
    ("pruned", ["--vtk", "u.vti", "--points", "1"], "'1' is not a whole number from 2 to 2000"),
    ("operator", ["--slice", "x=0"], "--slice is for solutions and evolutions; "),
    ("operator", ["--animate"], "--animate is for solutions and evolutions; "),
    ("operator", ["--vtk", "u.vti"], "--vtk is for solutions and evolutions; "),
])  # fmt: skip
def test_mistakes(name, arguments, message, folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in folders[name].iterdir()}
    code, output, errors = run("show", folders[name], *arguments)
    assert (code, output, len(errors)) == (2, [], 1) and message in errors[0]
    assert before == {path.name: path.stat().st_mtime_ns for path in folders[name].iterdir()}
    assert not list(tmp_path.iterdir())


def test_points_that_do_not_fit_into_the_memory_are_a_mistake(folders, tmp_path, monkeypatch):
    def full(*_, **__):
        raise MemoryError("Unable to allocate 59.6 GiB")

    monkeypatch.setattr("numpy.meshgrid", full)
    code, output, errors = run("show", folders["in time"], "--vtk", tmp_path / "u.vti", "--points", 2000)
    assert (code, output, errors) == (2, [], ["bumpnet: error: not enough memory for so many points"])


@pytest.mark.parametrize(("keep", "message"), [
    ([], "is not the folder of a run: it has no model.pt"),
    (["run.pt"], "has not ended: it has no model.pt yet; continue it with --resume"),
    (["model.pt", "summary.json"], "is not the whole folder of a run: it has no history.json"),
])  # fmt: skip
def test_folders_that_are_not_whole(keep, message, tmp_path):
    for name in keep:
        (tmp_path / name).write_bytes((OLDER / name).read_bytes())
    code, output, errors = run("show", tmp_path)
    assert (code, output, len(errors)) == (2, [], 1) and message in errors[0]
    code, _, errors = run("show", tmp_path / "nowhere")
    assert code == 2 and errors[0].endswith("nowhere: No such file or directory")


def test_the_record_of_a_training_is_not_a_result(folders, tmp_path):
    code, output, errors = run("show", folders["pruned"] / "training.pt", "--out", tmp_path)
    assert (code, output, len(errors)) == (2, [], 1) and "is the record of a training" in errors[0]


def test_damaged_files(folders, tmp_path):
    folder = shutil.copytree(folders["pruned"], tmp_path / "run")
    (folder / "training.pt").write_bytes(b"no record")
    code, _, errors = run("show", folder, "--animate")
    assert code == 2 and len(errors) == 1 and "training.pt is not a checkpoint, or is damaged" in errors[0]
    (folder / "training.pt").unlink()
    code, _, errors = run("show", folder, "--animate")
    assert code == 2 and "the training was not recorded, which solve --animate does" in errors[0]


# --- solve --animate -----------------------------------------------------------------------------


def interrupt_at(iteration):
    @contextlib.contextmanager
    def progress(*_):
        def report(progress):
            if progress.iteration == iteration:
                raise KeyboardInterrupt

        yield report

    return progress


def test_a_resumed_run_is_recorded_as_one_that_was_never_stopped(no_picture, tmp_path, monkeypatch):
    choices = ("solve", "poisson", "--bumps", "3x3", "--prune-to", 7, "--animate", *SOLVE)
    assert run(*choices, "--out", tmp_path / "whole")[0] == 0
    usual = command.progress
    monkeypatch.setattr(command, "progress", interrupt_at(5))
    assert run(*choices, "--out", tmp_path / "stopped")[0] == 130
    assert Image.open(tmp_path / "stopped" / "training.gif").n_frames == 7 + 1  # what there was by then
    monkeypatch.setattr(command, "progress", usual)
    assert run("solve", "--resume", tmp_path / "stopped", *TINY)[0] == 0
    frames, whole = (load(tmp_path / name / "training.pt") for name in ("stopped", "whole"))
    assert [(f.iteration, len(f.rows)) for f in frames] == [(f.iteration, len(f.rows)) for f in whole]
    assert all(torch.equal(a.rows, b.rows) for a, b in zip(frames, whole, strict=True))
    assert Image.open(tmp_path / "stopped" / "training.gif").n_frames == len(frames) + 1


def test_another_run_forgets_the_record_and_a_resumption_takes_no_flag(no_picture, folders, tmp_path):
    folder = shutil.copytree(folders["pruned"], tmp_path / "run")
    code, _, errors = run("solve", "--resume", folder, "--animate")
    assert code == 2 and "takes no --animate" in errors[0]
    assert run_state.load(folder / "run.pt")["command"]["animate"] is True
    assert run("solve", "poisson", "--bumps", "3x3", *SOLVE, "--out", folder)[0] == 0
    assert not {"training.pt", "training.gif"} & {path.name for path in folder.iterdir()}


def test_the_record_of_another_run_is_not_gone_on_with(no_picture, folders, tmp_path):
    folder = shutil.copytree(folders["pruned"], tmp_path / "run")
    before = load(folder / "training.pt")
    assert run("solve", "poisson", "--animate", "--bumps", "3x3", *SOLVE, "--out", folder)[0] == 0
    frames = load(folder / "training.pt")
    assert len(before) > len(frames) and [f.iteration for f in frames] == list(range(len(frames)))
    (folder / "training.pt").write_bytes(b"no record")
    assert run("solve", "poisson", "--animate", "--bumps", "3x3", *SOLVE, "--out", folder)[0] == 0
    assert len(load(folder / "training.pt")) == len(frames)


def test_a_mistake_leaves_no_record(tmp_path):
    assert run("solve", "poisson", "--animate", "--set", "damping=-1", "--out", tmp_path, "--quiet")[0] == 2
    assert not list(tmp_path.iterdir())


def test_a_damaged_record_is_not_resumed(folders, tmp_path):
    folder = shutil.copytree(folders["pruned"], tmp_path / "run")
    (folder / "training.pt").write_bytes(b"no record")
    code, _, errors = run("solve", "--resume", folder, "--quiet")
    assert code == 2 and len(errors) == 1 and "training.pt is not a checkpoint, or is damaged" in errors[0]


def test_all_outputs_are_drawn_without_being_asked_for(no_picture, tmp_path):
    assert problems.get("kovasznay").outputs == 3
    assert run("solve", "kovasznay", "--bumps", "2x2", *SOLVE, "--out", tmp_path)[0] == 0
    assert no_picture == [("solution_figure",), ("fields_figure", None)]
