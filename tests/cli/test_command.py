"""The skeleton of a command, by one of the tests' own: ``grow``, which the library has and the command line has not."""

import argparse
import contextlib
import json

import pytest

from bumpnet_fast import BumpNet, problems
from bumpnet_fast.cli import command as skeleton
from bumpnet_fast.cli import common, evolve, operator, running, solve
from bumpnet_fast.io import load
from bumpnet_fast.problems import Poisson
from bumpnet_fast.solvers import Progress, StopReason, strategies


class Grow(skeleton.Command):
    """``grow``: it has one argument of its own."""

    name, about, ending = "grow", "Grow a net.", "That is all."
    recorded = ("problem", "dtype", "seed", "to")
    failures = ("iterations",)

    def add_arguments(self, parser):
        parser.add_argument("--to", type=common.positive, default=6)

    def problems(self):
        return {"poisson": Poisson}

    def settable(self, problem, arguments):
        return {"problem": problem.settings(), "solver": common.keywords_of(strategies.grow), "net": {"overlap": 2.0}}

    def wanted(self, problem, arguments):
        return {"iterations": 4, "every_seconds": 0.0, "unknown here": 1}

    def check(self, arguments):
        if arguments.to == 13:
            raise ValueError("to must be lucky, got 13")

    def prepare(self, arguments, settings):
        problem = problems.get("poisson", **settings["problem"])
        return problem, BumpNet(2, 4, problem.domain, dtype=arguments.dtype, **settings["net"])

    def call(self, problem, net, arguments, settings, state):
        options = settings["solver"] | {"checkpoint": state}
        return lambda callback: strategies.grow(problem, net, arguments.to, callback=callback, **options)

    def entries(self, result, arguments):
        return {"to": arguments.to}

    def warnings(self, result, arguments):
        return ["a toy"]

    def pictures(self, result, arguments, folder):
        return {"toy.png": lambda image: image.write(b"picture")}


def grow(*line):
    """What ``bumpnet grow`` would do with this line."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    Grow().add_command(parser.add_subparsers())
    arguments = parser.parse_args(["grow", *map(str, line)])
    return arguments.run(arguments)


def test_a_run_from_its_arguments_to_its_files(tmp_path, capsys):
    assert grow("poisson", "--out", tmp_path, "--set", "overlap=3", "--set", "iterations=3") == 1  # one of its failures
    assert {path.name for path in tmp_path.iterdir()} == {
        "run.pt", "model.pt", "history.json", "summary.json", "toy.png"
    }  # fmt: skip
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["problem"], summary["to"], summary["bumps"], summary["method"]) == ("poisson", 6, 6, "varpro")
    assert (summary["stop_reason"], summary["stop_message"]) == ("iterations", StopReason.ITERATIONS.message)
    assert summary["seconds"] > 0 and summary["processor_seconds"] > 0 and summary["rel_l2"] > 0
    assert summary["settings"]["solver"] == {"iterations": 3, "every_seconds": 0.0}
    assert summary["settings"]["net"] == {"overlap": 3} and summary["warnings"] == ["a toy"]
    assert len(load(tmp_path).net.rows) == 6
    output, errors = capsys.readouterr()
    assert f"iterations: {StopReason.ITERATIONS.message}" in " ".join(output.split())
    assert errors == "bumpnet: warning: a toy\n"


def test_an_interrupted_run_goes_on(tmp_path, monkeypatch, capsys):
    @contextlib.contextmanager
    def progress(arguments, watched):
        def report(progress):
            if progress.iteration == 6:
                raise KeyboardInterrupt

        yield report

    with monkeypatch.context() as patch:
        patch.setattr(skeleton, "progress", progress)
        assert grow("poisson", "--out", tmp_path, "--to", 7, "--quiet") == 130
    assert grow("--resume", tmp_path, "--quiet") == 1
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["to"], summary["bumps"], summary["stop_reason"]) == (7, 7, "iterations")
    with pytest.raises(common.UsageError, match="takes no --to; besides --set max_seconds"):
        grow("--resume", tmp_path, "--to", 8)


@pytest.mark.parametrize(("line", "message"), [
    ("", "required: PROBLEM"),
    ("heat", "unknown problem 'heat'; there are: poisson"),
    ("poisson --to 13", "to must be lucky, got 13"),
    ("poisson --set depth=3", "poisson has no setting 'depth'; there are: lower, upper, a1, a2, iterations,"),
    ("poisson --set a1=x", "a1 must be a finite number, got 'x'"),
    ("poisson --set overlap=0", "overlap must be positive"),
    ("poisson --set iterations=0", "iterations must be an integer of at least 1"),
])  # fmt: skip
def test_a_mistake_is_told_before_anything_is_written(line, message, tmp_path):
    with pytest.raises(common.UsageError, match=message):
        grow(*line.split(), "--out", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [solve.Solve, evolve.Evolve, operator.Learn])
def test_failures_are_reasons_of_the_library(command):
    assert {StopReason(word).value for word in command.failures} == set(command.failures)


# --- the display ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "percent"), [(0.25, "25%"), (1.0, "100%"), (None, None)])
def test_the_display_shows_the_progress(share, percent, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # makes rich take any stream for a terminal
    monkeypatch.setenv("COLUMNS", "150")
    arguments = argparse.Namespace(quiet=False, problem="[red]poisson")
    with running.progress(arguments, ("stage", "time", "steps")) as report:
        report(Progress(3, 0.1, 2.5e-7, 0.125, share=share, entry={"stage": "adam", "time": 0.33333}))
        report(Progress(17, 0.2, 1.5e-7, None, share=share, entry={"stage": "adam", "time": 0.66666}))
    shown = capsys.readouterr().err
    assert "iteration 17  loss 1.50e-07  error 1.25e-01  stage adam  time 0.667" in shown
    assert "[red]poisson" in shown and "steps" not in shown
    assert percent in shown if percent else "%" not in shown
