"""How the baselines are trained: Adam, the rate falling like a cosine, then L-BFGS until the loss stalls."""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

#: L-BFGS has converged when so many iterations lower the loss by less than this share.
ROUND, SHARE = 1000, 0.1
#: Iterations between looks at the clock and at the error for which the best weights are kept.
CHUNK = 50
#: Adam's rate ends at this share of its first.
FINAL_RATE = 0.01
RULE = f"Adam, then L-BFGS until {ROUND} iterations lower the loss by less than {SHARE:.0%}"


class Timer:
    """Processor seconds, and seconds by the clock, since it was made."""

    def __init__(self):
        self._processor, self._clock = time.process_time(), time.perf_counter()

    def spent(self) -> dict[str, float]:
        processor, clock = time.process_time() - self._processor, time.perf_counter() - self._clock
        return {"processor_seconds": processor, "seconds": clock}


def train(
    net: nn.Module,
    loss: Callable[[], Tensor],
    *,
    adam: int,
    rate: float,
    seconds: float,
    batch_loss: Callable[[], Tensor] | None = None,
    error: Callable[[], float] | None = None,
) -> dict[str, Any]:
    """Minimise ``loss()`` over the weights of ``net``; what was done, with a ``stop_reason``.

    Adam takes ``batch_loss`` where there is one.  With ``error``, of data that are not trained on, the weights at
    which it was least are those that stay.  ``seconds`` are of the processor, not of the clock, and half of them are
    for Adam at most.
    """
    keep, start, timer = _Best(net, error), time.process_time(), Timer()
    done = _adam(net, batch_loss or loss, adam, rate, start + seconds / 2, keep)
    rounds, reason = [float(loss().detach())], ""
    iterations = 0
    while not reason:
        taken, finished = _lbfgs(net, loss, start + seconds, keep)
        iterations += taken
        rounds.append(float(loss().detach()))
        if not finished:
            reason = "stopped at the cap"
        elif not rounds[-1] < (1 - SHARE) * rounds[-2]:
            reason = "converged"
    keep.restore()
    return timer.spent() | {
        "loss": float(loss().detach()),
        "iterations": done + iterations,
        "adam": done,
        "lbfgs": iterations,
        "stop_reason": reason,
        "stopping_rule": f"{RULE}; cap {seconds:g} s of processor time",
        "losses": rounds,
    }


class _Best:
    """The weights with the least error so far; those of the end where no error is given."""

    def __init__(self, net: nn.Module, error: Callable[[], float] | None):
        self.net, self.error, self.least, self.weights = net, error, float("inf"), None

    def look(self) -> None:
        if self.error is not None and (now := self.error()) < self.least:
            self.least, self.weights = now, copy.deepcopy(self.net.state_dict())

    def restore(self) -> None:
        if self.weights is not None:
            self.net.load_state_dict(self.weights)


def _adam(net: nn.Module, loss: Callable[[], Tensor], steps: int, rate: float, until: float, best: _Best) -> int:
    """At most ``steps``; the rate falls over these, or over the time where that is shorter."""
    optimizer = torch.optim.Adam(net.parameters(), lr=rate, fused=True)
    start = time.process_time()
    for done in range(steps):
        share = max(done / steps, (time.process_time() - start) / (until - start))
        if share >= 1:
            return done
        optimizer.param_groups[0]["lr"] = rate * (FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * share)))
        if done % CHUNK == 0:
            best.look()
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    return steps


def _lbfgs(net: nn.Module, loss: Callable[[], Tensor], until: float, best: _Best) -> tuple[int, bool]:
    """One round from an empty memory: its iterations, and whether there was time for all of it."""
    # torch's forgets a step whose curvature is below 1e-10, so the loss has to be of the size of 1.
    scale = 1 / max(float(loss().detach()), 1e-300)
    options = {"line_search_fn": "strong_wolfe", "history_size": 100, "tolerance_grad": 0.0, "tolerance_change": 0.0}
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=CHUNK, max_eval=4 * CHUNK, **options)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = scale * loss()
        value.backward()
        return value.detach()

    state = optimizer.state[optimizer.param_groups[0]["params"][0]]
    for _ in range(ROUND // CHUNK):
        optimizer.step(closure)
        best.look()
        if time.process_time() > until:
            return state["n_iter"], False
    return state["n_iter"], True


# --- what the scripts have in common ---------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser, seconds: float | None) -> None:
    if seconds:
        parser.add_argument(
            "--seconds", type=float, default=seconds, help="most, of the processor; default: %(default)s"
        )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", metavar="FILE", default="-", help="default: the standard output")


def write(options: argparse.Namespace, report: dict[str, Any]) -> None:
    """The report as JSON, where ``--json`` says."""
    text = json.dumps(report | {"dtype": "float64", "threads": 1, "seed": options.seed}, indent=2)
    if options.json == "-":
        print(text)
    else:
        Path(options.json).write_text(f"{text}\n", encoding="utf-8")
