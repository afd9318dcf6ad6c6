"""The one run loop: history, the best state, limits, interrupts, callbacks, checkpoints, and why a run ended.

A :class:`Run` drives the stages of a run, each of which is a :class:`Method`: an object that starts, takes steps
and can put its state into plain values.  What is solved, and where the result goes, is the :class:`Work`.
"""

from __future__ import annotations

import copy
import enum
import functools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.ranks import ALONE
from ..nets.bumpnet import BumpNet
from . import run_state
from .arguments import check_options, integer, option, positive


class StopReason(str, enum.Enum):
    """Why a run ended: a word, equal to the string of it, and what that means."""

    CONVERGED = "converged", "the loss hardly decreases any more"
    ITERATIONS = "iterations", "all iterations that were allowed are done"
    TIME = "time", "the time that was allowed is over"
    INTERRUPTED = "interrupted", "it was interrupted"
    NO_DECREASE = "no further decrease", "no step decreases the loss"
    LOSS_FLOOR = "loss floor", "the loss is rounding, compared with that of u = 0"
    DIVERGED = "diverged", "the loss is not finite"
    FINISHED = "finished", "the final time was reached"
    UNSTABLE = "unstable", "the solution left the bounds of its problem, or no step is small enough"
    MARCHED = "marched", "all windows of time are solved"
    REACHED = "error reached", "the error that was asked for is reached"
    NOT_REACHED = "error not reached", "the error that was asked for is not reached"
    NO_RESIDUAL = "no residual to grow at", "the residual is zero wherever it was looked at"
    UNKNOWN = "", "it is not known how the result came about"

    message: str

    def __new__(cls, word: str, message: str) -> StopReason:
        reason = str.__new__(cls, word)
        reason._value_, reason.message = word, message
        return reason

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Stop:
    """When a run ends at the latest.

    Parameters
    ----------
    iterations : int or tuple of int, optional
        Of every stage, or one number for each; by default what suits the method.
    seconds : float, optional
        By the clock, in this session of the run.
    """

    iterations: int | tuple[int, ...] | None = None
    seconds: float | None = option(None, positive(optional=True))

    def __post_init__(self):
        check_options(self)

    def limits(self, methods: Sequence[Method]) -> tuple[int, ...]:
        """Iterations of each of the methods."""
        several = isinstance(self.iterations, (tuple, list))
        limits = tuple(self.iterations) if several else (self.iterations,) * len(methods)
        if len(limits) != len(methods):
            names = "+".join(method.name for method in methods)
            raise ValueError(f"iterations must be a number or {len(methods)} numbers for {names!r}, got {limits}")
        for limit in limits:
            integer(optional=True).check("iterations", limit)
        return tuple(m.iterations if limit is None else limit for m, limit in zip(methods, limits, strict=True))


@dataclass(frozen=True)
class Progress:
    """What a callback is told at every look at the loss; iteration 0 is the start.

    Attributes
    ----------
    iteration : int
        Steps done.
    seconds : float
        By the clock, all sessions of the run together.
    loss : float
        What is minimised, or NaN where nothing is.
    rel_l2 : float or None
        Error, where it was measured.
    share : float or None
        Of the run, how much is done, as far as limits tell.
    net : callable or None
        Makes a net of the bumps as they are now, which costs nothing unless it is asked for.
    entry : dict
        The same moment in the history, with all that the solver has to say.
    """

    iteration: int
    seconds: float
    loss: float
    rel_l2: float | None = None
    net: Callable[[], BumpNet] | None = field(default=None, repr=False, compare=False)
    share: float | None = field(default=None, compare=False)
    entry: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)


Callback = Callable[[Progress], Any]


class Ended(Exception):
    """Raised inside of a step that cannot be finished: the run ends, with what was reached before the step."""

    def __init__(self, reason: StopReason, warning: str | None = None):
        super().__init__(reason)
        self.reason, self.warning = reason, warning


@dataclass
class Method:
    """A way to solve: the base class of every solver, and of one's own.

    A subclass is a dataclass of its options, declared by :func:`~bumpnet_fast.solvers.arguments.option`.  It defines
    :meth:`start`, :meth:`step` and :meth:`loss`, and :meth:`state_dict` and :meth:`load_state_dict` if it remembers
    anything.  Progress, limits, interrupts, checkpoints and the result come from the run loop.  The object that a
    user makes is never changed: a run works with a copy.

    Attributes
    ----------
    name : str
        For ``solve(..., method=name)`` and for checkpoints; a subclass with a name of its own is known by it from
        then on.
    iterations : int
        How many there are unless :class:`Stop` says otherwise.
    log_every : int
        The loss is looked at every so many iterations of the stage.
    measure_every : int
        The error is measured at every so many of these looks.
    steady : bool
        Whether a step changes nothing in place before it is complete: it can then be interrupted at any moment.
    generation : int
        Goes up when the loss becomes another function: losses are only compared within one generation.
    begun : int
        Iterations of the run before this stage; set before :meth:`start`.
    deadline : float
        By ``time.perf_counter()``, likewise: a step that takes long raises :class:`Ended` beyond it.

    Notes
    -----
    In ``solve``, ``work`` is a :class:`~bumpnet_fast.solvers.task.Task`.  It offers

    - ``net``: the net to be trained in place; its ``rows`` are at the start what :meth:`start` begins with;
    - ``problem``, ``seed``, ``device``: what is solved, the seed that the user gave, and where;
    - ``loss()``: what all solvers minimise, for the net and unknowns as they are now;
    - ``solve_amplitudes()``: sets the amplitudes, and the unknowns of the equation, to the best for the shapes;
    - ``snapshot()``, ``put_back(snapshot)``: rows and unknowns, to be kept and taken up again;
    - ``is_linear()``: whether the problem is;
    - ``objective(batch)``: the same loss and its gradient, in batches if one likes;
    - ``system``: the rows whose sum of squares the loss is, and their derivatives.

    The run keeps the rows with the smallest :meth:`loss`, and stores the present ones with :meth:`state_dict`, so a
    method that changes ``work.net.rows`` in place has nothing else to do.

    Examples
    --------
    The smallest method: a random walk.

    >>> from bumpnet_fast import problems
    >>> from bumpnet_fast.solvers import solve
    >>> class Walk(Method):
    ...     def start(self, work, iterations):
    ...         self.work = work
    ...         torch.manual_seed(work.seed)
    ...     def step(self, most):
    ...         self.work.net.rows += 0.01 * torch.randn_like(self.work.net.rows)
    ...         self.work.solve_amplitudes()
    ...         return 1
    ...     def loss(self):
    ...         return self.work.loss()
    >>> solution = solve(problems.get("poisson"), (3, 3), method=Walk(), iterations=20)
    >>> solution.iterations, solution.loss < solution.history[0]["loss"]
    (20, True)
    """

    name: ClassVar[str] = ""
    iterations: ClassVar[int] = 100
    steady: ClassVar[bool] = False
    #: Every name that ``method=`` knows.
    known: ClassVar[dict[str, type[Method]]] = {}
    log_every: ClassVar[int] = 1
    measure_every: ClassVar[int] = 10
    generation: ClassVar[int] = 0
    begun: ClassVar[int] = 0
    deadline: ClassVar[float] = math.inf

    def __init_subclass__(cls, listed: bool = True, **options: Any):
        super().__init_subclass__(**options)
        if vars(cls).get("name") and listed:  # not one that it inherits, which means its base
            Method.known[cls.name] = cls

    def name_for(self, work: Any) -> str:
        """The name of what it is for ``work``: another one than its own if it chooses among methods."""
        return self.name

    def check(self, settings: dict[str, Any], iterations: int) -> None:
        """Raise ValueError, before any work, for options that do not suit the arguments of the solver."""

    def check_work(self, work: Any) -> None:
        """Raise ValueError, before the first stage begins, for a work that this method cannot do."""

    def start(self, work: Any, iterations: int) -> None:
        """Begin with ``work`` as it is now; at most ``iterations`` will follow."""
        raise NotImplementedError(f"{type(self).__name__} must define start(work, iterations)")

    def step(self, most: int) -> int:
        """Go on by 1 to ``most`` iterations; gives their number, or 0 if there is nothing to be gained any more."""
        raise NotImplementedError(f"{type(self).__name__} must define step(most)")

    def loss(self) -> float:
        """What is minimised, as it is now."""
        raise NotImplementedError(f"{type(self).__name__} must define loss()")

    def state_dict(self) -> dict[str, Any]:
        """All that it remembers between two steps beside the net and what else the work stores: plain values, tensors.

        Among it must be whatever :meth:`start` took from the net, which is another one when a run is resumed.
        """
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state; called after :meth:`start`."""

    def best(self) -> dict[str, Tensor] | None:
        """What the work is to be given back at the end if nothing better follows; None for the work as it is now."""
        return None

    def over(self, history: Sequence[dict[str, Any]]) -> StopReason | None:
        """Why this stage is over, judged by its entries of the history."""
        return None

    def notes(self) -> dict[str, Any]:
        """Further entries for the history."""
        return {}

    def finish(self) -> None:
        """The stage is over, for whatever reason."""


class Work:
    """What a run is about: a net and what it is to become.  The base class; it is told of stages and of the best."""

    name: str = "the loss"
    #: Whether iterations that a stage leaves are the next one's.
    carries: bool = False
    ranks = ALONE
    device = torch.device("cpu")

    def begin(self, stage: int) -> bool:
        """A stage that was not resumed is about to begin; gives whether the loss is another function from now on."""
        return False

    def snapshot(self) -> dict[str, Tensor]:
        """What there is now, to be put back later; empty where what comes last counts, not the best."""
        raise NotImplementedError

    def put_back(self, best: dict[str, Tensor]) -> None:
        """Become what :meth:`snapshot` gave."""
        raise NotImplementedError

    def measure(self, now: dict[str, Tensor] | None) -> float | None:
        """Relative error of a snapshot, or of what there is now; None if it is not known."""
        return None

    def notes(self, now: dict[str, Tensor] | None) -> dict[str, Any]:
        """Further entries for the history."""
        return {}

    def net_at(self, now: dict[str, Tensor] | None) -> BumpNet | None:
        """The bumps of a snapshot, or those that there are now."""
        return None

    def share(self, done: int, most: int) -> float | None:
        """How much is done after ``done`` of at most ``most`` iterations."""
        return done / most if most else None

    def state_dict(self) -> dict[str, Any]:
        """All that it remembers: plain values and tensors."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what :meth:`state_dict` gave."""


class Run:
    """Follows the stages of a run, keeps the best and the history, and says why it ended.

    Parameters
    ----------
    work : Work
        What the run is about.
    methods : sequence of Method
        Its stages.
    stop : Stop
        Its limits.
    callbacks : iterable of callable
        Told after every look at the loss; one that raises KeyboardInterrupt ends the run.
    store : run_state.Store
        Keeps the state; if there is one in it, the run goes on from there.
    started : float, optional
        ``time.perf_counter()`` when the run began.

    Attributes
    ----------
    history : list of dict
        ``iteration``, ``seconds``, ``loss``, ``stage``; ``rel_l2`` where it was measured; and what the method notes.
    done : int
        Iterations.
    warnings : list of str
        What looks wrong, and what to do about it.
    """

    def __init__(
        self,
        work: Work,
        methods: Sequence[Method],
        stop: Stop,
        callbacks: Iterable[Callback] = (),
        store: run_state.Store | None = None,
        started: float | None = None,
    ):
        self.work, self.ranks, self.callbacks = work, work.ranks, tuple(callbacks)
        self.methods, self.limits = [copy.copy(m) for m in methods], stop.limits(methods)
        self.store = run_state.Store(None) if store is None else store
        self.history: list[dict[str, Any]] = []
        self.warnings: list[str] = []
        self.done = self.stage = self.begun = self.first = 0
        self.best: dict[str, Any] = {"loss": math.inf, "work": {}}
        self._began = time.perf_counter() if started is None else started
        self._processor_began, self._resumed = time.process_time(), None
        self._deadline = math.inf if stop.seconds is None else self._began + stop.seconds
        with self.store.reading() as state:
            if state is not None:
                self._restore(state)
        if self._resumed is not None and self._end() < self.done:
            least, name = self.done - self._end() + self.limits[self.stage], self.methods[self.stage].name
            raise ValueError(
                f"iterations must be at least {least} of {name!r}, which are done, got {self.limits[self.stage]}"
            )

    # --- the loop ------------------------------------------------------------------------------

    @property
    def method(self) -> Method:
        """That of the stage that the run is in."""
        return self.methods[self.stage]

    @property
    def seconds(self) -> float:
        """By the clock, all sessions together."""
        return time.perf_counter() - self._began

    @property
    def processor_seconds(self) -> float:
        """Of all threads, all sessions together."""
        return time.process_time() - self._processor_began

    def follow(self) -> StopReason:
        """Go through the stages to the end, or to what comes first; the work is then the best that there was."""
        reason = StopReason.ITERATIONS
        try:
            while True:
                reason = self._one_stage()
                over = reason in (StopReason.TIME, StopReason.INTERRUPTED, StopReason.DIVERGED, StopReason.UNSTABLE)
                if over or self.stage + 1 == len(self.methods):
                    return reason
                self.stage += 1
        finally:
            if self.best["work"]:
                self.work.put_back(self.best["work"])

    def _one_stage(self) -> StopReason:
        method, resumed = self.method, self._resumed
        if resumed is None:
            self.begun, self.first = self.done, max(0, len(self.history) - 1)
            if self.best["work"]:
                self.work.put_back(self.best["work"])
            if self.work.begin(self.stage):
                self.best = {"loss": math.inf, "work": {}}
        method.begun, method.deadline = self.begun, self._deadline
        started, self._torn = False, True
        try:
            method.start(self.work, self.limits[self.stage])
            if resumed is not None:
                with self.store.reading():
                    method.load_state_dict(resumed["method"])
                    run_state.set_random_state(resumed["random"], self.work.device)
                self._resumed = None
                if not self.best["work"]:
                    self._consider(method.loss(), method, method.best())
            started, self._torn = True, False
            with run_state.interrupts_held(not (method.steady and self.ranks.alone)) as self._release:
                reason = self._steps(method, fresh=resumed is None)
        except KeyboardInterrupt:
            if not self.history:
                raise  # there is no result yet
            reason = StopReason.INTERRUPTED
        except Ended as end:
            reason = end.reason
            self.warnings += [end.warning] if end.warning else []
        except BaseException:
            if started:
                method.finish()
            raise
        finally:
            self.store.flush()
        if reason in (StopReason.TIME, StopReason.INTERRUPTED) and not method.steady and not self._torn:
            self._look(method, last=True, silent=True)  # a run that is resumed has not seen what is here
        if started:
            method.finish()
        return reason

    def _steps(self, method: Method, fresh: bool) -> StopReason:
        stuck = False
        while True:
            left = self._end() - self.done
            over = left <= 0 or stuck
            ahead = method.log_every - (self.done - self.begun) % method.log_every
            if over or fresh or ahead == method.log_every:
                if not math.isfinite(self._look(method, last=over, fresh=fresh)):
                    return StopReason.DIVERGED
                if (reason := method.over(self.history[self.first :])) is not None:
                    return reason
            elif self.store.on:
                self._keep(method)
            if over:
                return StopReason.NO_DECREASE if stuck else StopReason.ITERATIONS
            fresh = False
            self.ranks.checked(self._release)
            if self.ranks.agreed_flag(time.perf_counter() >= self._deadline):
                return StopReason.TIME
            if not method.steady:
                self.store.forget()  # what a state would be made of is about to change
            self._torn = True
            taken = method.step(min(ahead, left))
            self.done, stuck, self._torn = self.done + taken, taken == 0, False

    def _end(self) -> int:
        """The iteration at which this stage ends at the latest."""
        return sum(self.limits[: self.stage + 1]) if self.work.carries else self.begun + self.limits[self.stage]

    def _look(self, method: Method, last: bool, fresh: bool = False, silent: bool = False) -> float:
        """The loss here: it goes into the history once, and a run that is resumed finds it there."""
        known = bool(self.history) and self.history[-1]["iteration"] == self.done
        if known and not fresh:
            return self.history[-1]["loss"]
        loss, now = method.loss(), method.best()
        if not self.history and not math.isfinite(loss):
            raise ValueError(f"{self.work.name} is not finite at the start")
        self._consider(loss, method, now)
        if known:
            return loss
        entry = {"iteration": self.done, "seconds": self.seconds, "loss": loss, "stage": method.name}
        entry |= self.work.notes(now) | method.notes()
        if last or (self.done - self.begun) % (method.measure_every * method.log_every) == 0:
            rel_l2 = self.work.measure(now)
            entry |= {} if rel_l2 is None else {"rel_l2": rel_l2}
        self.history.append(entry)
        if self.store.on and not silent:
            self._keep(method)
        if not silent:
            self.ranks.checked(lambda: self._tell(entry, now))
        return loss

    def _consider(self, loss: float, method: Method, now: dict[str, Tensor] | None) -> None:
        """Keep what there is now if it is the best of its generation."""
        if method.generation != self.best.get("generation", method.generation):
            self.best = {"loss": math.inf, "work": {}}
        if loss < self.best["loss"]:
            work = self.work.snapshot() if now is None else now
            self.best = {"loss": loss, "generation": method.generation, "work": work}

    def _tell(self, entry: dict[str, Any], now: dict[str, Tensor] | None) -> None:
        self._release()
        if not self.callbacks:
            return
        values = entry["iteration"], entry["seconds"], entry["loss"], entry.get("rel_l2")
        progress = Progress(*values, functools.partial(self.work.net_at, now), self._share(), entry)
        for callback in self.callbacks:
            callback(progress)

    def _share(self) -> float | None:
        """How much of the run is done, by whichever limit is nearest."""
        share = self.work.share(self.done, sum(self.limits))
        shares = [] if share is None else [share]
        shares += [self.seconds / (self._deadline - self._began)] if self._deadline < math.inf else []
        return min(1.0, max(shares)) if shares else None

    # --- its state -----------------------------------------------------------------------------

    def _keep(self, method: Method) -> None:
        """Keep the state: at once if an interrupt may come in the middle of a step, else when it is written."""
        if method.steady:
            state = self._state(method)
            self.store.keep(lambda: state)
        else:
            self.store.keep(lambda: self._state(method))

    def _state(self, method: Method) -> dict[str, Any]:
        return {
            "stage": self.stage,
            "begun": self.begun,
            "first": self.first,
            "done": self.done,
            "history": list(self.history),
            "seconds": self.seconds,
            "processor_seconds": self.processor_seconds,
            "best": dict(self.best),
            "work": self.work.state_dict(),
            "method": method.state_dict(),
            "random": run_state.random_state(self.work.device),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        numbers = (int(state[key]) for key in ("stage", "begun", "first", "done"))
        self.stage, self.begun, self.first, self.done = numbers
        self.history, best = [dict(entry) for entry in state["history"]], state["best"]
        self.best = best | {"loss": float(best["loss"]), "work": dict(best["work"])}
        self._began -= float(state["seconds"])
        self._processor_began -= float(state["processor_seconds"])
        self.work.load_state_dict(state["work"])
        self._resumed = state
        if not 0 <= self.stage < len(self.methods) or self.done < self.begun:
            raise ValueError(f"there is no stage {self.stage} with {self.done - self.begun} iterations")
        losses = [float(entry["loss"]) for entry in self.history if 0 <= entry["iteration"] <= self.done]
        if not losses or len(losses) != len(self.history) or not {"loss", "work"} <= self.best.keys():
            raise ValueError("history or best have not the entries of a run")


__all__ = ["Callback", "Ended", "Method", "Progress", "Run", "Stop", "StopReason", "Work"]
