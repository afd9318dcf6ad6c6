"""The run loop of all solvers: history, best state, limits, interrupts, callbacks and checkpoints.

A :class:`Run` runs one or more stages.  Each stage is a :class:`Method`: an object that starts, steps, and stores its
state as plain values.  The :class:`Work` is what is solved, and receives the result.
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
    """Why a run ended: a word, equal to its string, with a ``message`` that explains it."""

    CONVERGED = "converged", "the loss hardly decreases any more"
    STALLED = "stalled", "the loss hardly decreases any more, but is still a large part of that of u = 0"
    ITERATIONS = "iterations", "the limit on iterations was reached"
    TIME = "time", "the limit on time was reached"
    INTERRUPTED = "interrupted", "the run was interrupted"
    NO_DECREASE = "no further decrease", "no step decreases the loss"
    LOSS_FLOOR = "loss floor", "the loss is rounding, compared with that of u = 0"
    DIVERGED = "diverged", "the loss is not finite"
    FINISHED = "finished", "the final time was reached"
    UNSTABLE = "unstable", "the solution is not finite or too large, or no time step is small enough"
    MARCHED = "marched", "the last window of time was reached"
    SOLVED = "solved", "the amplitudes are solved for"
    REACHED = "error reached", "the requested error is reached"
    NOT_REACHED = "error not reached", "the requested error is not reached"
    NO_RESIDUAL = "no residual to grow at", "the residual is zero at all points that were tried"
    UNKNOWN = "", "it is unknown how the result was computed"

    message: str

    def __new__(cls, word: str, message: str) -> StopReason:
        reason = str.__new__(cls, word)
        reason._value_, reason.message = word, message
        return reason

    def __str__(self) -> str:
        return self.value


#: A loss that is a larger share of that of u = 0 is no solution.
LARGE_LOSS = 0.01
#: Earlier states that are kept, for the case that the one with the smallest loss is not the best.
_SEEN = 10


@dataclass(frozen=True)
class Stop:
    """Limits of a run.

    Parameters
    ----------
    iterations : int or tuple of int, optional
        Iterations of every stage, or a tuple with one number per stage; by default the method's own number.
    seconds : float, optional
        Seconds by the clock, in this session of the run.
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
    """What a callback gets whenever the loss is evaluated; iteration 0 is the start.

    Attributes
    ----------
    iteration : int
        Number of steps so far.
    seconds : float
        Time by the clock, all sessions of the run together.
    loss : float
        The minimised loss; NaN where nothing is minimised.
    rel_l2 : float or None
        Relative error, where it was measured.
    share : float or None
        Finished part of the run, from 0 to 1, as far as the limits tell.
    net : callable or None
        Returns a net with the current bumps; costs nothing unless called.
    entry : dict
        The same moment in the history, with all entries of the solver.
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
    """Raised within a step that cannot be finished: the run ends with the state before the step."""

    def __init__(self, reason: StopReason, warning: str | None = None):
        super().__init__(reason)
        self.reason, self.warning = reason, warning


@dataclass
class Method:
    """A way to solve: the base class of every method, and of your own.

    A subclass is a dataclass of its options, declared by :func:`~bumpnet_fast.solvers.arguments.option`.  It defines
    :meth:`start`, :meth:`step` and :meth:`loss`.  If it has a state, it also defines :meth:`state_dict` and
    :meth:`load_state_dict`.  The run loop provides progress, limits, interrupts, checkpoints and the result.  A run
    works with a copy: your object is never changed.

    Attributes
    ----------
    name : str
        Used by ``solve(..., method=name)`` and by checkpoints.  A subclass with its own name is registered under it.
    iterations : int
        Default number of iterations, unless :class:`Stop` says otherwise.
    log_every : int
        The loss is evaluated every so many iterations of the stage.
    measure_every : int
        The error is measured at every so many of these evaluations.
    steady : bool
        Whether a step changes nothing in place before it is complete; it may then be interrupted at any moment.
    generation : int
        Increases when the loss becomes another function; losses are compared within one generation only.
    begun : int
        Iterations of the run before this stage; set before :meth:`start`.
    deadline : float
        End of the run by ``time.perf_counter()``, set before :meth:`start`.  A long step raises :class:`Ended` after
        it.

    Notes
    -----
    In ``solve``, ``work`` is a :class:`~bumpnet_fast.solvers.task.Task`.  It offers

    - ``net``: the net, trained in place; at :meth:`start` its ``rows`` are the initial ones;
    - ``problem``, ``seed``, ``device``: the problem, the user's seed, and the device;
    - ``loss()``: the loss that all solvers minimise, for the current net and unknowns;
    - ``solve_amplitudes()``: sets amplitudes and unknowns to the best for the shapes;
    - ``snapshot()``, ``put_back(snapshot)``: a copy of rows and unknowns, and back;
    - ``is_linear()``: whether the problem is linear;
    - ``objective(batch)``: the same loss with its gradient, optionally in batches;
    - ``system``: the rows whose sum of squares is the loss, and their derivatives.

    The run keeps the rows with the smallest :meth:`loss`, and stores the current ones with :meth:`state_dict`.  A
    method that changes ``work.net.rows`` in place needs nothing else.

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
    #: All names that ``method=`` accepts.
    known: ClassVar[dict[str, type[Method]]] = {}
    log_every: ClassVar[int] = 1
    measure_every: ClassVar[int] = 10
    generation: ClassVar[int] = 0
    begun: ClassVar[int] = 0
    deadline: ClassVar[float] = math.inf

    def __init_subclass__(cls, listed: bool = True, **options: Any):
        super().__init_subclass__(**options)
        if vars(cls).get("name") and listed:  # not an inherited name, which means the base class
            Method.known[cls.name] = cls

    def name_for(self, work: Any) -> str:
        """Name of the method that is used for ``work``; differs from ``name`` if the method chooses among others."""
        return self.name

    def check(self, settings: dict[str, Any], iterations: int) -> None:
        """Raise ValueError, before any work, for options that do not fit the arguments of the solver."""

    def check_work(self, work: Any) -> None:
        """Raise ValueError, before the first stage, for work that this method cannot do."""

    def start(self, work: Any, iterations: int) -> None:
        """Prepare for at most ``iterations`` steps on ``work`` as it is now."""
        raise NotImplementedError(f"{type(self).__name__} must define start(work, iterations)")

    def step(self, most: int) -> int:
        """Do 1 to ``most`` iterations; return their number, or 0 if no further progress is possible."""
        raise NotImplementedError(f"{type(self).__name__} must define step(most)")

    def loss(self) -> float:
        """The minimised loss, for the current state."""
        raise NotImplementedError(f"{type(self).__name__} must define loss()")

    def state_dict(self) -> dict[str, Any]:
        """State between two steps, without the net and what the work stores: plain values and tensors.

        Include everything that :meth:`start` took from the net: a resumed run has another net.
        """
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state; called after :meth:`start`."""

    def best(self) -> dict[str, Tensor] | None:
        """State to restore at the end if nothing better follows; None for the current one."""
        return None

    def over(self, history: Sequence[dict[str, Any]]) -> StopReason | None:
        """Why this stage is over, judged by its entries of the history; None if it is not."""
        return None

    def notes(self) -> dict[str, Any]:
        """Further entries for the history."""
        return {}

    def finish(self) -> None:
        """Called when the stage is over, for whatever reason."""


class Work:
    """What a run trains: the base class.  The run tells it about stages and about the best state."""

    name: str = "the loss"
    #: Whether the next stage gets the iterations that a stage did not use.
    carries: bool = False
    #: Whether all stages are needed: else :meth:`goes_on` tells.
    all_stages: bool = True
    ranks = ALONE
    device = torch.device("cpu")

    def begin(self, stage: int) -> bool:
        """Called before a stage that was not resumed; returns whether the loss is another function from now on."""
        return False

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of the current state; empty where the last state counts and not the best."""
        raise NotImplementedError

    def put_back(self, best: dict[str, Tensor]) -> None:
        """Restore what :meth:`snapshot` returned."""
        raise NotImplementedError

    def measure(self, now: dict[str, Tensor] | None) -> float | None:
        """Relative error of a snapshot, or of the current state; None if unknown."""
        return None

    def goes_on(self) -> bool:
        """Whether the next stage is needed, judged by the best state, which was put back."""
        return True

    def chosen(self, states: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Which of some states, each with ``loss`` and ``work``, is the result: the last has the smallest loss."""
        return states[-1]

    def errors(self) -> tuple[float | None, float | None]:
        """Relative L2 and maximum error of what there is now; None and None if they are not known."""
        return None, None

    def ended(self, reason: StopReason, loss: float) -> StopReason:
        """Why a run ended, judged by its best state and the loss of that: one that stalled has not converged."""
        return reason

    def notes(self, now: dict[str, Tensor] | None) -> dict[str, Any]:
        """Further entries for the history."""
        return {}

    def not_finite(self) -> str:
        """What to say if the loss is not finite at the start."""
        return f"{self.name} is not finite at the start"

    def net_at(self, now: dict[str, Tensor] | None) -> BumpNet | None:
        """The bumps of a snapshot, or the current ones."""
        return None

    def share(self, done: int, most: int) -> float | None:
        """Finished part after ``done`` of at most ``most`` iterations."""
        return done / most if most else None

    def state_dict(self) -> dict[str, Any]:
        """All state: plain values and tensors."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> bool | None:
        """Restore what :meth:`state_dict` returned; returns whether the loss is another function than it was then."""


class Run:
    """Runs the stages, keeps the best state and the history, and says why the run ended.

    Parameters
    ----------
    work : Work
        What the run is about.
    methods : sequence of Method
        Its stages.
    stop : Stop
        Its limits.
    callbacks : iterable of callable
        Called after every evaluation of the loss; KeyboardInterrupt from one of them ends the run.
    store : run_state.Store
        Stores the state; if it contains one, the run continues from there.
    started : float, optional
        ``time.perf_counter()`` when the run began.

    Attributes
    ----------
    history : list of dict
        ``iteration``, ``seconds``, ``loss``, ``stage``; ``rel_l2`` where measured; and the notes of the method.
    done : int
        Number of iterations.
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
        self._seen: list[dict[str, Any]] = []  # earlier best states
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
        """The method of the current stage."""
        return self.methods[self.stage]

    @property
    def seconds(self) -> float:
        """Seconds by the clock, all sessions together."""
        return time.perf_counter() - self._began

    @property
    def processor_seconds(self) -> float:
        """Processor seconds of all threads, all sessions together."""
        return time.process_time() - self._processor_began

    def errors(self) -> tuple[float | None, float | None]:
        """Relative L2 and maximum error of the result; None and None if they are not known."""
        return self.work.errors()

    def follow(self) -> StopReason:
        """Run all stages to the end or to a limit; the work then has its best state."""
        try:
            reason = self._all_stages()
            if reason is not StopReason.INTERRUPTED and self.best["work"]:
                self.best = self.work.chosen([*self._seen, self.best])
        finally:
            self._put_back()
        return self.work.ended(reason, self.best["loss"])

    def _put_back(self) -> None:
        if self.best["work"]:
            self.work.put_back(self.best["work"])

    def _all_stages(self) -> StopReason:
        while True:
            reason = self._one_stage()
            over = reason in (StopReason.TIME, StopReason.INTERRUPTED, StopReason.DIVERGED, StopReason.UNSTABLE)
            if over or self.stage + 1 == len(self.methods):
                return reason
            self._put_back()
            if not self.work.goes_on():
                return reason
            self.stage += 1

    def _one_stage(self) -> StopReason:
        method, resumed = self.method, self._resumed
        if resumed is None:
            self.begun, self.first = self.done, max(0, len(self.history) - 1)
            self._put_back()
            if self.work.begin(self.stage):
                self.best, self.first = {"loss": math.inf, "work": {}}, len(self.history)
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
            self._look(method, last=True, silent=True)  # a resumed run has not evaluated this state
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
                self.store.forget()  # the state refers to values that are about to change
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
            raise ValueError(self.work.not_finite())
        self._consider(loss, method, now)
        if known:
            return loss
        entry = {"iteration": self.done, "seconds": self.seconds, "loss": loss, "stage": method.name}
        entry |= self.work.notes(now) | method.notes()
        if last or (self.done - self.begun) % (method.measure_every * method.log_every) == 0:
            self._seen = [*self._seen, self.best][-_SEEN:] if self.best["work"] else self._seen
            rel_l2 = self.work.measure(now)
            entry |= {} if rel_l2 is None else {"rel_l2": rel_l2}
        self.history.append(entry)
        if self.store.on and not silent:
            self._keep(method)
        if not silent:
            self.ranks.checked(lambda: self._tell(entry, now))
        return loss

    def _consider(self, loss: float, method: Method, now: dict[str, Tensor] | None) -> None:
        """Keep the current state if it is the best of its generation."""
        if method.generation != self.best.get("generation", method.generation):
            self.best, self._seen = {"loss": math.inf, "work": {}}, []
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
        """Finished part of the run, by the nearest limit."""
        share = self.work.share(self.done, sum(self.limits) if self.work.all_stages else self._end())
        shares = [] if share is None else [share]
        shares += [self.seconds / (self._deadline - self._began)] if self._deadline < math.inf else []
        return min(1.0, max(shares)) if shares else None

    # --- its state -----------------------------------------------------------------------------

    def _keep(self, method: Method) -> None:
        """Keep the state: at once if an interrupt may come within a step, else when it is written."""
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
            "seen": [dict(state) for state in self._seen],
            "work": self.work.state_dict(),
            "method": method.state_dict(),
            "random": run_state.random_state(self.work.device),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        numbers = (int(state[key]) for key in ("stage", "begun", "first", "done"))
        self.stage, self.begun, self.first, self.done = numbers
        self.history, best = [dict(entry) for entry in state["history"]], state["best"]
        self.best = best | {"loss": float(best["loss"]), "work": dict(best["work"])}
        self._seen = [dict(seen) for seen in state.get("seen", [])]
        self._began -= float(state["seconds"])
        self._processor_began -= float(state["processor_seconds"])
        if self.work.load_state_dict(state["work"]):
            self.best, self.first, self._seen = {"loss": math.inf, "work": {}}, len(self.history), []
        self._resumed = state
        if not 0 <= self.stage < len(self.methods) or self.done < self.begun:
            raise ValueError(f"there is no stage {self.stage} with {self.done - self.begun} iterations")
        losses = [float(entry["loss"]) for entry in self.history if 0 <= entry["iteration"] <= self.done]
        if not losses or len(losses) != len(self.history) or not {"loss", "work"} <= self.best.keys():
            raise ValueError("history or best have not the entries of a run")


__all__ = ["LARGE_LOSS", "Callback", "Ended", "Method", "Progress", "Run", "Stop", "StopReason", "Work"]
