"""The course of a training: history, errors, the best parameters so far, and why it ended."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...nets.deeponet import BumpDeepONet
from ...problems.operators.base import OperatorData
from .. import run_state
from ..loop import Progress
from .branch import evaluating
from .gradient import Adam, Lbfgs, Loss
from .trunk import Point

#: Errors are measured about so many times in a stage of gradient steps.
_MEASUREMENTS = 40
#: Steps of the trunk over which the relative decrease of its loss is judged.
_PATIENCE = 10


@torch.no_grad()
def relative_errors(net: BumpDeepONet, data: OperatorData, mix: Tensor | None = None) -> Tensor:
    """Relative L2 error [count], float64, of every output function; absolute where the function is zero.

    ``mix`` makes amplitudes of what the branch gives, if these are not amplitudes.
    """
    inputs, _, points = data.to(net.rows)
    with evaluating(net):
        h = net.coefficients(inputs)
    u = net.combine(h if mix is None else h @ mix, points).value.double()
    return relative(u - data.outputs.to(u), data.outputs.to(u))


def relative(difference: Tensor, functions: Tensor) -> Tensor:
    """Ratio [count] of the norms of ``difference`` and ``functions`` [count, N], with 1 for a norm of 0."""
    size = torch.linalg.vector_norm(functions, dim=1)
    return torch.linalg.vector_norm(difference, dim=1) / torch.where(size > 0, size, torch.ones_like(size))


class Run:
    """Follows the stages of the training of ``net``; errors are measured on ``data``."""

    def __init__(
        self, net: BumpDeepONet, data: OperatorData, start: float, max_seconds: float | None,
        callback: Callable[[Progress], Any] | None, store: run_state.Store,
    ):  # fmt: skip
        self.net, self.data, self.start, self.callback, self.store = net, data, start, callback, store
        self.limit = math.inf if max_seconds is None else start + max_seconds
        self.history: list[dict[str, Any]] = []
        self.iterations, self.loss, self.reason = 0, math.nan, "iterations"
        self.at: str | None = None
        with store.reading() as state:
            if state is not None:
                self.at, self.now = str(state["stage"]), dict(state["now"])
                self.history, self.iterations = list(state["history"]), int(state["iterations"])
                self.start -= float(state["seconds"])

    @property
    def ended(self) -> bool:
        return self.reason in ("time", "interrupted")

    def _out_of_time(self) -> bool:
        return time.perf_counter() >= self.limit

    def _record(self, stage: str, loss: float, error: float | None = None) -> Progress:
        progress = Progress(self.iterations, time.perf_counter() - self.start, loss, error)
        entry = {"stage": stage, "iteration": progress.iteration, "seconds": progress.seconds, "loss": loss}
        self.history.append(entry if error is None else entry | {"rel_l2": error})
        return progress

    def _tell(self, progress: Progress | None) -> None:
        if progress is not None and self.callback is not None:
            self.callback(progress)

    def _state(self, stage: str, now: dict[str, Any]) -> dict[str, Any]:
        return {
            "stage": stage,
            "now": now,
            "history": list(self.history),
            "iterations": self.iterations,
            "seconds": time.perf_counter() - self.start,
            "random": run_state.random_state(self.net.rows.device),
        }

    def check_stage(self, *stages: str) -> None:
        """Raise CheckpointError if a resumed run is in another stage than one of these."""
        with self.store.reading():
            if self.at not in (None, *stages):
                raise ValueError(f"its stage is {self.at!r}, which the method has not")

    # --- the trunk -----------------------------------------------------------------------------

    def trunk_memory(self) -> dict[str, Any] | None:
        """Of the point that a resumed run is at, if it is in its trunk."""
        return self.now["point"] if self.at == "trunk" else None

    @torch.no_grad()
    def put_trunk(self) -> None:
        """Give the net the shapes of a resumed run whose trunk is done."""
        with self.store.reading():
            self.net.rows.copy_(self.now["net"]["rows"])

    @torch.no_grad()
    def trunk(self, points: Iterator[Point], iterations: int, tolerance: float) -> None:
        """Give the net the shapes of the last of ``points``, each of which is better than the one before."""
        best, losses, seen = None, [], self.at == "trunk"
        if seen:
            losses, self.at = list(self.now["losses"]), None
        self.reason = "no further decrease"
        try:
            for best in points:
                self.loss = best.loss
                if not seen:
                    losses.append(best.loss)
                    progress = self._record("trunk", best.loss)
                    if self.store.on:
                        state = self._state("trunk", {"point": best.memory(), "losses": list(losses)})
                        self.store.keep(lambda state=state: state)
                    self._tell(progress)
                seen = False
                if len(losses) > iterations:
                    self.reason = "iterations"
                    break
                if self._out_of_time():
                    self.reason = "time"
                    break
                if len(losses) > _PATIENCE and losses[-1 - _PATIENCE] - best.loss <= tolerance * losses[-1 - _PATIENCE]:
                    self.reason = "converged"
                    break
                self.iterations += 1
        except KeyboardInterrupt:
            self.reason = "interrupted"
        if best is not None:
            self.net.rows.copy_(best.rows)

    # --- gradients -----------------------------------------------------------------------------

    def gradient(
        self, stage: str, steps: Adam | Lbfgs, loss: Loss, parameters: Sequence[nn.Parameter], mix: Tensor
    ) -> None:
        """Take ``steps``, and keep the parameters with which the loss of all functions was least."""
        best = _Best(parameters, self._whole(loss))
        if self.at == stage:
            self._take_up(steps, best)
        every = max(1, steps.total // _MEASUREMENTS)
        self.reason = "iterations"

        def look() -> Progress:
            best.consider(self._whole(loss))
            return self._record(stage, best.latest, float(relative_errors(self.net, self.data, mix).mean()))

        def state() -> dict[str, Any]:
            return self._state(
                stage, {"net": self.net.state_dict(), "steps": steps.state_dict(), "best": best.state_dict()}
            )

        try:
            with run_state.interrupts_held() as release:
                while steps.left > 0:
                    self.store.forget()  # the parameters change in place
                    taken = steps.step()
                    self.iterations, best.since = self.iterations + taken, best.since + taken
                    progress = look() if best.since >= every or steps.left <= 0 else None
                    self.store.keep(state)
                    self._tell(progress)
                    release()
                    if self._out_of_time():
                        self.store.flush()  # a run that is resumed has not seen what comes now
                        self._tell(look() if best.since else None)
                        self.reason = "time"
                        break
        except KeyboardInterrupt:
            self.reason = "interrupted"
        finally:
            self.store.flush()
        best.put_back()
        self.loss = best.loss

    def _take_up(self, steps: Adam | Lbfgs, best: _Best) -> None:
        """Go on where the state of the store is."""
        with self.store.reading() as state:
            self.net.load_state_dict(self.now["net"])
            steps.load_state_dict(self.now["steps"])
            best.load_state_dict(self.now["best"])
            run_state.set_random_state(state["random"], self.net.rows.device)
        self.at = None

    @torch.no_grad()
    def _whole(self, loss: Loss) -> float:
        with evaluating(self.net):
            return float(loss(slice(None)))


class _Best:
    """The parameters with which the loss was least, and how many steps ago it was looked at."""

    def __init__(self, parameters: Sequence[nn.Parameter], loss: float):
        self.parameters, self.loss, self.latest, self.since = parameters, loss, loss, 0
        self.kept = [p.detach().clone() for p in parameters]

    def consider(self, loss: float) -> None:
        self.latest, self.since = loss, 0
        if loss < self.loss:
            self.loss, self.kept = loss, [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def put_back(self) -> None:
        for p, value in zip(self.parameters, self.kept, strict=True):
            p.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        return {"loss": self.loss, "latest": self.latest, "since": self.since, "kept": self.kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loss, self.latest, self.since = float(state["loss"]), float(state["latest"]), int(state["since"])
        pairs = zip(state["kept"], self.parameters, strict=True)
        self.kept = [value.to(p).reshape(p.shape) for value, p in pairs]
