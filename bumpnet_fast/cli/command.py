"""A command that computes: from arguments to exit code, and how its runs are resumed.

:class:`Command` is what ``solve``, ``evolve`` and ``operator`` share.  Each defines only its arguments, its problems,
the function of the library that it calls, and what else it writes.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from . import resume
from .common import FAILED, INTERRUPTED, RANDOM, SETTING, UsageError, add_output_arguments, known, scoped
from .running import computing_threads, followed, mistakes, progress
from .writing import check_writable, show, summary_of, write_results

if TYPE_CHECKING:
    from ..solvers import Progress, run_state
    from ..solvers.evolution.report import EvolutionReport
    from ..solvers.report import Report
    from ..solvers.solution import Result
    from .pictures import Pictures

#: Settings, or what can be set, by scope: "problem", "solver", "net" and "run".
Settings = dict[str, dict[str, Any]]
#: A call of the library that takes the callback.
Call = Callable[[Callable[["Progress"], None]], "Result"]


class Command:
    """A command that computes; the base class.

    Attributes
    ----------
    name, about, ending : str
        Name of the command, what it does, and the end of its help.
    metavar, kind : str
        Names of its problems in the help and in messages.
    folder : str
        Default output folder; ``{}`` stands for the problem.
    recorded : tuple of str
        Arguments that a resumption needs.
    changeable : tuple of str
        Keys of ``--set`` that a resumption accepts.
    allowed : tuple of str
        Further arguments that a resumption accepts.
    watched : tuple of str
        Entries of the history that the progress shows beside iteration, loss and error.
    many : str
        What may be too many for the memory.
    failures : tuple of str
        Words of :class:`~bumpnet_fast.solvers.StopReason` with exit code 1.
    random, setting : str
        Help on ``--seed`` and ``--set``.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    ending: ClassVar[str]
    metavar: ClassVar[str] = "PROBLEM"
    kind: ClassVar[str] = "problem"
    folder: ClassVar[str] = "runs/{}"
    recorded: ClassVar[tuple[str, ...]] = ("problem", "method", "dtype", "seed")
    changeable: ClassVar[tuple[str, ...]] = ("max_seconds",)
    allowed: ClassVar[tuple[str, ...]] = ()
    watched: ClassVar[tuple[str, ...]] = ("stage",)
    many: ClassVar[str] = "bumps and points"
    failures: ClassVar[tuple[str, ...]] = ("diverged",)
    random: ClassVar[str] = RANDOM
    setting: ClassVar[str] = SETTING

    # --- what differs --------------------------------------------------------------------------

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments that only this command has."""

    def problems(self) -> Mapping[str, type]:
        """The problems by name."""
        raise NotImplementedError

    def settable(self, problem: type, arguments: argparse.Namespace) -> Settings:
        """Everything that ``--set`` can set, with defaults."""
        raise NotImplementedError

    def wanted(self, problem: type, arguments: argparse.Namespace) -> Mapping[str, Any]:
        """Settings by the problem itself, unless ``--set`` changes them."""
        return {}

    def check(self, arguments: argparse.Namespace) -> None:
        """Raise UsageError for arguments that do not go together."""

    def prepare(self, arguments: argparse.Namespace, settings: Settings) -> tuple[Any, Any]:
        """The problem and the initial net."""
        raise NotImplementedError

    def call(
        self, problem: Any, net: Any, arguments: argparse.Namespace, settings: Settings, state: run_state.File
    ) -> Call:
        """The call of the library; it stores its state in ``state``."""
        raise NotImplementedError

    @contextlib.contextmanager
    def watching(
        self, report: Callable[[Progress], None], arguments: argparse.Namespace, folder: Path
    ) -> Iterator[Callable[[Progress], None]]:
        """A callback that does more than call ``report``."""
        yield report

    def entries(self, result: Any, arguments: argparse.Namespace) -> dict[str, Any]:
        """Entries of the summary beside the common ones."""
        return {}

    def report(self, result: Any, arguments: argparse.Namespace) -> Report | EvolutionReport | None:
        """What is known about the quality of a result."""
        return None

    def warnings(self, result: Any, arguments: argparse.Namespace) -> Sequence[str]:
        """Warnings beside those of the library."""
        return ()

    def history(self, result: Any) -> Sequence[dict[str, Any]]:
        """Content of ``history.json``."""
        return result.history

    def pictures(self, result: Any, arguments: argparse.Namespace, folder: Path) -> Pictures:
        """The pictures of a result in ``folder``."""
        return {}

    # --- what is common ------------------------------------------------------------------------

    def add_command(self, commands: Any) -> None:
        """Add the command to the subparsers ``commands`` of the program."""
        about = self.about[0].lower() + self.about[1:-1]
        parser = commands.add_parser(self.name, help=about, description=self.about, epilog=self.ending)
        parser.add_argument("problem", metavar=self.metavar, nargs="?", help="a name from 'bumpnet list'")
        self.add_arguments(parser)
        parser.add_argument("--resume", type=Path, metavar="DIR", help=resume.HELP)
        add_output_arguments(parser.add_argument, self.random, self.setting, self.folder.format(self.metavar))
        parser.set_defaults(run=lambda arguments: self.run(arguments, parser.parse_args([])))

    def run(self, arguments: argparse.Namespace, defaults: argparse.Namespace) -> int:
        """Execute the command; return the exit code."""
        if arguments.resume is not None:
            return self._resume(arguments, defaults)
        if arguments.problem is None:
            raise UsageError(f"the following arguments are required: {self.metavar}")
        return self._begin(arguments)

    def _begin(self, arguments: argparse.Namespace) -> int:
        with mistakes():
            self.check(arguments)
            settings = self._settings(arguments)
        with computing_threads(arguments.threads):
            with mistakes():
                problem, net = self.prepare(arguments, settings)
            folder = arguments.out or Path(self.folder.format(arguments.problem))
            check_writable(folder, arguments.json)
            with resume.alone(folder, f"{self.name} {arguments.problem}"):
                state = resume.state_of(folder, self.name, arguments, self.recorded, settings)
                return self._compute(self.call(problem, net, arguments, settings, state), arguments, settings, folder)

    def _resume(self, arguments: argparse.Namespace, defaults: argparse.Namespace) -> int:
        """``bumpnet COMMAND --resume DIR``."""
        resume.refuse_others(arguments, defaults, self.metavar, self.changeable, self.allowed)
        folder = arguments.resume
        check_writable(folder, arguments.json, create=False)
        with resume.alone(folder, f"{self.name} --resume"), computing_threads(arguments.threads):
            settings, state = resume.recall(folder, self.name, arguments, self.recorded)
            return self._compute(resume.call(state, arguments, settings), arguments, settings, folder)

    def _settings(self, arguments: argparse.Namespace) -> Settings:
        """Assignments of ``--set``, and settings by the problem itself, by scope."""
        problem = known(arguments.problem, self.problems(), self.kind)
        scopes = self.settable(problem, arguments)
        there = {key for keys in scopes.values() for key in keys}
        own = [(key, value) for key, value in self.wanted(problem, arguments).items() if key in there]
        return scoped(arguments.problem, scopes, [*own, *arguments.settings])

    def _compute(self, call: Call, arguments: argparse.Namespace, settings: Settings, folder: Path) -> int:
        """Call the library, write the results, show them; return the exit code."""
        from ..io import save

        with (
            progress(arguments, self.watched) as tell,
            self.watching(tell, arguments, folder) as watch,
            followed(watch, self.many) as callback,
        ):
            result = call(callback)
        report = self.report(result, arguments)
        own = self.entries(result, arguments), self.warnings(result, arguments)
        summary = summary_of(result, arguments, settings, *own, report)
        drawn = self.pictures(result, arguments, folder)
        write_results(folder, arguments.json, lambda path: save(path, result), self.history(result), summary, drawn)
        show(summary, folder, arguments, report)
        if result.stop_reason == "interrupted":
            return INTERRUPTED
        return FAILED if result.stop_reason in self.failures else 0


__all__ = ["Call", "Command", "Settings"]
