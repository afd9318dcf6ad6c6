"""First-order training: Adam, Adam with exact amplitudes, L-BFGS, and chains of them; exactly resumable.

The loss is that of :func:`bumpnet_fast.solvers.solve`, the sum of squares of the rows of a
:class:`~bumpnet_fast.solvers.system.System`.  An iteration evaluates one jet of the net per kind of row and
goes back once; the host waits for the device only where the loss is looked at.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from ..distributed import ALONE, Ranks
from ..events import Event
from ..files import CheckpointError
from ..layer import BumpNet
from ..problems.base import Problem
from . import runs
from .batches import Batches
from .grad_mode import differentiating
from .least_squares import ErrorMeasure, Progress, Solution
from .settings import Settings, check_ending, check_settings, extended
from .sharing import check_same, check_unstored
from .stages import STAGES, pruned_by
from .system import check_fit, check_kinds, collocation
from .threads import few_threads

#: The error is measured at every so many looks at the loss.
_MEASURE_EVERY = 10
#: What the file of a run has beside the entries of all runs.
_KEYS = ("unknowns", "progress", "best", "stage", "batches", "random")


@differentiating
def train(
    problem: Problem,
    net: BumpNet,
    *,
    method: str = "adam",
    boundary: str | None = None,
    points: int | tuple[int, ...] | Tensor | None = None,
    sampling: str = "grid",
    iterations: int | tuple[int, ...] = 2000,
    max_seconds: float | None = None,
    learning_rate: float = 3e-2,
    batch: int | None = None,
    resample: int | None = None,
    prune_threshold: float = 0.0,
    prune_every: int = 500,
    prune_least: int = 1,
    ridge: float = 1e-12,
    condition_weight: float = 1.0,
    seed: int = 0,
    log_every: int = 10,
    checkpoint: str | os.PathLike | None = None,
    every: int = 500,
    callback: Callable[[Progress], Any] | None = None,
    group: Any = None,
) -> Solution:
    """Train ``net``, in place, to solve ``problem`` by first-order methods.

    Where the Jacobian of :func:`bumpnet_fast.solvers.solve` fits into memory, that one is the better choice
    (docs/choosing.md has figures).  Ctrl-C, or a callback that raises KeyboardInterrupt, ends the
    training; the best rows are kept.

    Parameters
    ----------
    problem : Problem
        What to solve; unknowns of its equation are trained along.
    net : BumpNet
        With the problem's dimension, outputs and domain.  Its rows are the start.
    method : str
        "adam": all parameters, cosine decay of the learning rate.  "varpro-adam": Adam on the shapes with the
        best amplitudes at every step; linear problems only.  "lbfgs": L-BFGS with a strong Wolfe line search;
        in float64, as float32 has too few digits for the line search.  Or several one after the other, such as
        "adam+lbfgs"; each starts at the best rows of the one before.
    boundary : str, optional
        "hard" builds given values and periods into the solution, "soft" adds the problem's conditions as rows.
        By default the first form that the problem has.
    points : int, tuple of int, or Tensor, optional
        Collocation points: how many, how many per axis, or [N, d].  Default: 5 per parameter.
    sampling : str
        "grid", "chebyshev", "sobol" or "uniform", see :func:`bumpnet_fast.problems.sampling.interior`.
    iterations : int or tuple of int
        Of every method in the chain, or one number for each.
    max_seconds : float, optional
        Stop after this time.
    learning_rate : float
        Of Adam, at the start; it decays to a hundredth.
    batch : int, optional
        "adam" takes about so many points at a time; all by default.
    resample : int, optional
        Adam draws new points every so many iterations; for the scattered kinds of points.
    prune_threshold : float
        Adam takes out bumps whose peak-normalised amplitude is below this fraction of the largest; 0 for never.
    prune_every : int
        How often, until 80 % of the iterations of Adam.
    prune_least : int
        Never fewer bumps than this.
    ridge : float
        Tikhonov weight on the squares of the scaled amplitudes, of "varpro-adam".
    condition_weight : float
        Factor on the weights of all conditions of the soft form.
    seed : int
        Of the scattered kinds of points and of the batches.
    log_every : int
        Look at the loss, for the history, the callback and the best rows, every so many iterations.
    checkpoint : str or path, optional
        File for the state of the run, see :func:`bumpnet_fast.checkpoint.resume`.
    every : int
        Write it every so many iterations, and at the end.
    callback : callable, optional
        Called with a :class:`~bumpnet_fast.solvers.Progress` at every look at the loss.
    group : torch.distributed.ProcessGroup, optional
        Its processes share the points, as for :func:`bumpnet_fast.solvers.solve` (docs/distributed.md).

    Returns
    -------
    Solution
        With the best rows that a look at the loss has seen, since the points or the number of bumps last
        changed.  The stop reason is "iterations", "time", "interrupted", "diverged" (the loss is not finite),
        or "no further decrease" (L-BFGS).  Entries of ``history`` have ``stage`` and ``bumps`` as well.

    Raises
    ------
    ValueError
        Before any computing, if an argument is out of range, if net and problem do not fit, or if the ranks of a
        group differ in the net or an argument, or are to write a checkpoint.
    RuntimeError
        If another rank has failed.
    OSError
        If the checkpoint cannot be written.

    Notes
    -----
    Adam: Kingma and Ba, arXiv:1412.6980.  L-BFGS: Liu and Nocedal (1989).

    Examples
    --------
    >>> from bumpnet_fast import problems
    >>> problem = problems.get("poisson")
    >>> net = BumpNet(2, (4, 4), problem.domain, dtype="float64")
    >>> solution = train(problem, net, method="varpro-adam", iterations=100)
    >>> solution.rel_l2 < 1e-2, solution.stop_reason
    (True, 'iterations')
    """
    began = time.perf_counter()
    check_kinds(problem, net)
    boundary = problem.forms[0] if boundary is None else boundary
    numbers = iterations if isinstance(iterations, (tuple, list)) else (iterations,) * len(str(method).split("+"))
    settings = Settings(
        method, tuple(numbers), boundary, sampling, learning_rate, batch, resample, prune_threshold, prune_every,
        prune_least, ridge, condition_weight, seed, log_every,
    )  # fmt: skip
    ranks = Ranks(group, net.rows.device)

    def check() -> None:
        check_settings(settings, points)
        check_ending(max_seconds, every)
        check_fit(problem, net, boundary)
        check_unstored(ranks, checkpoint is not None)

    ranks.checked(check)
    check_same(ranks, "train", problem, net, asdict(settings) | {"points": points})
    x, counts = collocation(problem, net, points, sampling, seed, ranks)
    run = _Run(problem, net, settings, x, counts, ranks)
    run.check_linear()
    run.begin_stage(0)
    if not math.isfinite(run.stage.observe()):
        raise ValueError(f"the residual of problem {problem.name!r} is not finite at the start")
    return run.follow(began, max_seconds, checkpoint, every, callback)


@differentiating
def resume(
    path: str | os.PathLike,
    problem: Problem,
    *,
    iterations: int | tuple[int, ...] | None = None,
    max_seconds: float | None = None,
    every: int = 500,
    callback: Callable[[Progress], Any] | None = None,
) -> Solution:
    """Go on with a run from its checkpoint, to the same rows, bit for bit, as if it had never stopped.

    Parameters
    ----------
    path : str or path
        The checkpoint, which is written further.
    problem : Problem
        What the run solves; :func:`bumpnet_fast.checkpoint.resume` finds the library's own by name.
    iterations : int or tuple of int, optional
        New numbers for all methods of the chain; the learning rate goes on as if they had been so from the start.
    max_seconds, every, callback
        As for :func:`train`.

    Returns
    -------
    Solution
        Seconds, iterations and history are those of the whole run.

    Raises
    ------
    CheckpointError
        If the file is no state of a run, or damaged.
    ValueError
        For another problem than the run's, or numbers that are too small for what is done already.
    """
    began = time.perf_counter()
    check_ending(max_seconds, every)
    state = runs.load(path, _KEYS)
    if state["solver"] != "train":
        raise CheckpointError(f"{path} holds a run of {state['solver']!r}, not of 'train'")
    runs.check_same(path, "problem", state["problem"], runs.described(problem))
    try:
        run = _Run.restored(problem, state, iterations)
    except (AttributeError, IndexError, KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{path} is damaged: {' '.join(str(error).split())}") from error
    return run.follow(began, max_seconds, path, every, callback)


class _Run:
    """A run: where it is, the best that it has seen, and what it writes down."""

    def __init__(
        self,
        problem: Problem,
        net: BumpNet,
        settings: Settings,
        x: Tensor,
        counts: tuple[int, ...],
        ranks: Ranks = ALONE,
    ):
        self.problem, self.net, self.settings, self.ranks = problem, net, settings, ranks
        self.batches = Batches(
            problem,
            net,
            settings.boundary,
            x,
            counts,
            size=settings.batch,
            sampling=settings.sampling,
            condition_weight=float(settings.condition_weight),
            seed=settings.seed,
            ranks=ranks,
        )
        self.names = self.batches.whole.names
        self.unknowns = torch.nn.Parameter(self.batches.whole.guesses.to(net.rows))
        self.error = ErrorMeasure(problem, net, settings.boundary, ranks)
        self.history: list[dict[str, Any]] = []
        self.events: list[Event] = []
        self.at, self.begun, self.taken, self.seconds = 0, 0, 0, 0.0
        self.best = self._here(math.inf)
        self.torn = False

    def check_linear(self) -> None:
        """Raise ValueError if amplitudes are to be solved for in a problem that is not linear in them."""
        linear = not self.names
        if linear and "varpro-adam" in self.settings.stages:
            linear = self.batches.whole.is_linear() if self.problem.linear is None else self.problem.linear
        if "varpro-adam" in self.settings.stages and not linear:
            advice = "which 'varpro-adam' cannot do; use method='adam'"
            raise ValueError(f"problem {self.problem.name!r} is nonlinear in u or its unknowns, {advice}")

    # --- stages --------------------------------------------------------------------------------

    def begin_stage(self, at: int) -> None:
        """Start the stage ``at`` of the chain, from the best rows of the one before."""
        self.at, self.begun = at, self.taken
        self._put_back()
        self.stage = self._stage()

    def _stage(self):
        s, prune = self.settings, None
        if s.prune_threshold:
            group = self.ranks.group
            prune = pruned_by(self.net, s.prune_threshold, s.prune_every, s.prune_least, self.events, group)
        return STAGES[s.stages[self.at]](
            self.net,
            self.unknowns,
            self.batches,
            s.iterations[self.at],
            learning_rate=s.learning_rate,
            resample=s.resample,
            prune=prune,
            begun=self.begun,
            ridge=s.ridge,
        )

    def _left(self) -> int:
        return self.begun + self.settings.iterations[self.at] - self.taken

    # --- the loop ------------------------------------------------------------------------------

    def follow(self, began: float, max_seconds: float | None, path, every: int, callback) -> Solution:
        """Train to the end, or to what comes first, and say how it went."""
        self.clock, self.callback = began - self.seconds, callback
        file = None if path is None else runs.File(path)
        if file is not None:
            file.begin(self._state())
        limit = math.inf if max_seconds is None else began + max_seconds
        with few_threads(self.net.rows.numel() * self.ranks.most(len(self.batches.x))):
            terminated = contextlib.nullcontext() if file is None else runs.termination_raised()
            try:
                with terminated, runs.interrupts_held() as release:
                    reason = self._train(limit, file, every, release)
            except KeyboardInterrupt:
                reason = "interrupted"
            finally:
                self.seconds = time.perf_counter() - self.clock
                if file is not None:
                    if not self.torn:
                        self.write(file)
                    file.end()
            if reason in ("time", "interrupted") and not self.torn:
                self._look(last=True)  # after the checkpoint: a run that is resumed has not seen these rows
            self._put_back()
        return self._solution(reason)

    def _train(self, limit: float, file: runs.File | None, every: int, release: Callable[[], None]) -> str:
        reason = "iterations"
        while True:
            over = self._left() <= 0 or reason == "no further decrease"
            look = over or self.taken % self.settings.log_every == 0
            if look and not math.isfinite(self._look(last=over, tell=True)):
                return "diverged"
            if over and self.at + 1 == len(self.settings.stages):
                return reason
            if over:
                self.begin_stage(self.at + 1)
                reason = "iterations"
            if look or self.ranks.alone:
                self.ranks.checked(release)
                if self.ranks.agreed_flag(time.perf_counter() >= limit):
                    return "time"
            self.torn = True
            ahead = self.settings.log_every - self.taken % self.settings.log_every
            done, moved = self.stage.advance(min(ahead, self._left()))
            self.taken += done
            self.torn = False
            if moved:
                self.best = self._here(math.inf)
            if not done and self._left() > 0:
                reason = "no further decrease"
            if file is not None and done and self.taken // every > (self.taken - done) // every:
                self.seconds = time.perf_counter() - self.clock
                self.write(file)

    def _look(self, last: bool, tell: bool = False) -> float:
        """The loss here, once: it goes into the history, and a run that is resumed finds it there."""
        if self.history and self.history[-1]["iteration"] == self.taken:
            return self.history[-1]["loss"]
        loss = self.stage.observe()
        if loss < self.best["loss"]:
            self.best = self._here(loss)
        rel_l2 = None
        if last or self.taken % (_MEASURE_EVERY * self.settings.log_every) == 0:
            rel_l2, _ = self._measured()
        progress = Progress(self.taken, time.perf_counter() - self.clock, loss, rel_l2, self._net_now)
        entry = {"iteration": self.taken, "seconds": progress.seconds, "loss": loss}
        entry |= {"stage": self.settings.stages[self.at], "bumps": len(self.net.rows)}
        self.history.append(entry if rel_l2 is None else entry | {"rel_l2": rel_l2})
        if tell:
            self.ranks.checked(lambda: self.callback and self.callback(progress))
        return loss

    def _here(self, loss: float) -> dict[str, Any]:
        return {
            "loss": loss,
            "rows": self.net.rows.detach().clone(),
            "unknowns": self.unknowns.detach().clone(),
        }

    def _net_now(self) -> BumpNet:
        return BumpNet.from_rows(self.net.rows, self.net.frame, self.net.domain, self.net.tied)

    @torch.no_grad()
    def _measured(self) -> tuple[float | None, float | None]:
        return self.error(self.net.rows.detach())

    @torch.no_grad()
    def _put_back(self) -> None:
        """Give the net the best rows."""
        rows = self.best["rows"]
        if rows.shape == self.net.rows.shape:
            self.net.rows.copy_(rows)
        else:
            self.net.rows = torch.nn.Parameter(rows.clone(), self.net.rows.requires_grad)
        self.unknowns.copy_(self.best["unknowns"])
        self.net.rows.grad = self.unknowns.grad = None

    def _solution(self, reason: str) -> Solution:
        rel_l2, max_error = self._measured()
        return Solution(
            self.net,
            self.problem,
            self.settings.boundary,
            self.history,
            self.best["loss"],
            rel_l2,
            max_error,
            self.seconds,
            self.taken,
            reason,
            self.settings.method,
            dict(zip(self.names, self.unknowns.tolist(), strict=True)),
            self.events,
        )

    # --- its state -----------------------------------------------------------------------------

    def write(self, file: runs.File) -> None:
        """Write the state down, unless the run has diverged: then the file stays what it was."""
        if bool(torch.isfinite(self.net.rows).all()):
            file.write(self._state())

    def _state(self) -> dict[str, Any]:
        progress = {"stage": self.at, "begun": self.begun, "taken": self.taken, "seconds": self.seconds}
        progress |= {"history": self.history, "events": [asdict(event) for event in self.events]}
        return {
            "solver": "train",
            "problem": runs.described(self.problem),
            "settings": asdict(self.settings),
            "net": runs.net_state(self.net),
            "unknowns": self.unknowns.detach().cpu(),
            "progress": progress,
            "best": self.best,
            "stage": self.stage.state_dict(),
            "batches": self.batches.state_dict(),
            "random": runs.random_state(self.net.rows.device),
        }

    @classmethod
    def restored(cls, problem: Problem, state: dict[str, Any], iterations) -> _Run:
        net, settings, progress = runs.net_from(state["net"]), Settings(**state["settings"]), state["progress"]
        settings = extended(settings, iterations, progress)
        batches = state["batches"]
        run = cls(problem, net, settings, batches["x"].to(net.rows.device), batches["counts"])
        run.batches.load_state_dict(batches)
        with torch.no_grad():
            run.unknowns.copy_(state["unknowns"])
        run.at, run.begun, run.taken = progress["stage"], progress["begun"], progress["taken"]
        run.seconds, run.history = progress["seconds"], progress["history"]
        run.events = [Event(**event) for event in progress["events"]]
        run.best = {key: v.to(net.rows.device) if isinstance(v, Tensor) else v for key, v in state["best"].items()}
        run.stage = run._stage()
        run.stage.load_state_dict(state["stage"], run.taken)
        runs.set_random_state(state["random"], net.rows.device)
        return run


__all__ = ["resume", "train"]
