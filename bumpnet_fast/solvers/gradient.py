"""The gradient trainer: Adam, Adam with exact amplitudes, and L-BFGS, for anything with a loss.

The loss is an :class:`~bumpnet_fast.solvers.objective.Objective`, which the work of a run provides: from the rows of
a problem at its points, or from the functions of an operator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from ..nets.adapt import Pruning
from ..nets.bumpnet import BumpNet
from ..nets.cancelling import warn_if_heavy
from .arguments import integer, number, option, positive
from .elimination import Separable
from .loop import Method
from .objective import Objective
from .residual import System

#: Adam prunes until this fraction of its iterations; the rest repairs the last cut.
_PRUNE_UNTIL = 0.8
#: Kinds of sampling that can be repeated with new points.
_SCATTERED = ("sobol", "uniform")
#: Pairs of steps and gradients that L-BFGS keeps.
_MEMORY = 50
#: Evaluations per iteration of L-BFGS, with room for one long line search.
_EVALUATIONS, _SPARE = 2, 20


class _Gradient(Method):
    """What Adam and L-BFGS share."""

    objective: Objective
    optimizer: torch.optim.Optimizer
    #: Typical sizes of the parameters, by which they are divided before they are trained: u may have any units.
    sizes: list[Tensor]
    #: Factor of the loss: optimisers have absolute thresholds.
    scale: float | None

    def loss(self) -> float:
        """Loss over all points, or functions."""
        return self.objective.observe()

    def state_dict(self) -> dict[str, Any]:
        states = {"optimizer": self.optimizer.state_dict(), "objective": self.objective.state_dict()}
        return states | {"sizes": list(self.sizes), "scale": self.scale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        sizes = state.get("sizes", Objective.sizes(self.objective))  # none until version 0.1.0
        self.sizes = [size.to(p) for size, p in zip(sizes, self.objective.parameters, strict=True)]
        self.scale = state.get("scale", 1.0)

    def finish(self) -> None:
        self.objective.finish()


@dataclass
class Adam(_Gradient):
    """Adam on all parameters, with cosine decay of the learning rate (Kingma and Ba, arXiv:1412.6980).

    Parameters
    ----------
    learning_rate : float
        Initial learning rate.
    final_rate : float
        Final learning rate, relative to the initial one.
    batch : int, optional
        About this many points per step; all by default.
    resample : int, optional
        Draw new points after this many iterations; for scattered sampling.
    prune_threshold : float
        Remove bumps whose peak-normalised amplitude is below this fraction of the largest; 0 for never.
    prune_every : int
        Iterations between two prunings, until 80 % of the iterations.
    prune_least : int
        Never prune below this number of bumps.
    log_every : int
        Evaluate the loss, for the history, the callbacks and the best rows, every so many iterations.
    """

    name: ClassVar[str] = "adam"
    iterations: ClassVar[int] = 2000
    learning_rate: float = option(3e-2, positive())
    final_rate: float = option(1e-2, number(0, 1))
    batch: int | None = option(None, integer(1, optional=True))
    resample: int | None = option(None, integer(1, optional=True))
    prune_threshold: float = option(0.0, number(0, 1))
    prune_every: int = option(500, integer(1))
    prune_least: int = option(1, integer(1))
    log_every: int = option(10, integer(1))

    def check(self, settings: dict[str, Any], iterations: int) -> None:
        own = isinstance(settings["points"], Tensor)
        if self.resample is not None and (own or settings["sampling"] not in _SCATTERED):
            kind = "points that you gave" if own else repr(settings["sampling"])
            raise ValueError(f"resample needs sampling of {', '.join(_SCATTERED)}, got {kind}")
        until = int(_PRUNE_UNTIL * iterations)
        if self.prune_threshold and self.prune_every > until:
            most = f"{_PRUNE_UNTIL:.0%} of the iterations of Adam"
            raise ValueError(f"prune_every must be at most {most}, {until}, got {self.prune_every}")

    def start(self, work: Any, iterations: int) -> None:
        self.caution(work)
        self.work, self.objective, self.taken = work, work.objective(self.batch), 0
        parameters, self.sizes, self.scale = self.objective.parameters, self.objective.sizes(), None
        self.optimizer = torch.optim.Adam(parameters, lr=self.learning_rate, fused=self.objective.fused or None)
        self.schedule = LambdaLR(self.optimizer, lambda step: self._cosine(step / max(1, iterations)))
        self.pruning, self.generation = None, work.generation
        if self.prune_threshold:
            until = max(self.prune_every, int(_PRUNE_UNTIL * iterations))
            self.pruning = Pruning(
                work.net, self.optimizer, self.prune_threshold, self.prune_every, self.begun + self.prune_every,
                self.begun + until, self.prune_least, events=work.events, taken=self.begun, group=work.ranks.group,
            )  # fmt: skip

    def caution(self, work: Any) -> None:
        """Warn of amplitudes that cancel: steps of their own in every parameter ruin such a u."""
        if isinstance(net := getattr(work, "net", None), BumpNet):
            advice = "use 'varpro', 'gauss-newton' or 'varpro-adam', which solve for the amplitudes"
            warn_if_heavy(net, f"the first steps of Adam lose what the net is; {advice}")

    def _cosine(self, t: float) -> float:
        return self.final_rate + (1 - self.final_rate) * 0.5 * (1 + math.cos(math.pi * min(t, 1.0)))

    @torch.enable_grad()
    def step(self, most: int) -> int:
        if self.resample and self.taken and self.taken % self.resample == 0:
            self.objective.redraw()
            self._loss_changed()
        if self.scale is None:
            self.scale = _power_of_two(1 / max(self.loss(), 1e-300))
        self.optimizer.zero_grad()
        loss = self._backward()
        self._move()
        self.schedule.step()
        self.taken += 1
        if self.pruning is not None and self.pruning.step(loss) is not None:
            self._loss_changed()
        return 1

    def _loss_changed(self) -> None:
        """Losses from here on cannot be compared with earlier ones."""
        self.work.generation += 1
        self.generation = self.work.generation

    def _backward(self) -> Tensor:
        return self.objective.backward(scale=self.scale) / self.scale

    @torch.no_grad()
    def _move(self) -> None:
        """Step in the parameters divided by their sizes."""
        pairs = [*zip(self.objective.parameters, self.sizes, strict=True)]
        before = [p.detach().clone() for p, _ in pairs]
        for p, size in pairs:
            p.grad *= size
        self.optimizer.step()
        for (p, size), start in zip(pairs, before, strict=True):
            p.copy_(start + size * (p - start))
        self.objective.limit(before)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"schedule": self.schedule.state_dict(), "taken": self.taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.schedule.load_state_dict(state["schedule"])
        self.taken = int(state["taken"])
        if self.pruning is not None:
            self.pruning.taken = self.begun + self.taken


@dataclass
class VarProAdam(Adam):
    """Adam on the shapes, with the best amplitudes in every step; linear problems only.

    The derivative of the smallest loss over the amplitudes equals the derivative by the shapes alone, at the best
    amplitudes (envelope theorem), so no Jacobian is needed.

    Parameters
    ----------
    ridge : float
        Tikhonov weight on the squares of the scaled amplitudes.
    **options
        Those of :class:`Adam`.
    """

    name: ClassVar[str] = "varpro-adam"
    ridge: float = option(1e-12, number())

    def check(self, settings: dict[str, Any], iterations: int) -> None:
        super().check(settings, iterations)
        if self.batch is not None:
            raise ValueError(f"batch is for method 'adam'; {self.name!r} takes all points at a time")

    def caution(self, work: Any) -> None:
        """Nothing: the amplitudes are solved for in every step."""

    def check_work(self, work: Any) -> None:
        if not work.is_linear():
            advice = f"which {self.name!r} cannot do; use method='adam'"
            raise ValueError(f"problem {work.problem.name!r} is nonlinear in u or its unknowns, {advice}")

    def start(self, work: Any, iterations: int) -> None:
        super().start(work, iterations)
        self._system: System | None = None

    @torch.no_grad()
    def _solve(self) -> None:
        system, net = self.work.system, self.work.net
        if self._system is not system:
            self._system, self._model = system, Separable(system, self.ridge)
        layout = net.layout
        shapes = system.shapes_of(net.rows.double())
        net.rows[:, layout.amplitude] = self._model.evaluate(shapes).inner.view(-1, layout.outputs).to(net.rows)

    def _backward(self) -> Tensor:
        self._solve()
        loss = super()._backward()
        net = self.work.net
        net.rows.grad[:, net.layout.amplitude] = 0  # it is rounding, which Adam would amplify
        return loss

    def loss(self) -> float:
        self._solve()
        return super().loss()


@dataclass
class LBFGS(_Gradient):
    """L-BFGS with a strong Wolfe line search, on all points (Liu and Nocedal, 1989).

    In float32 it ends early: the line search compares losses that differ by less than float32 resolves.

    Parameters
    ----------
    log_every : int
        Evaluate the loss every so many iterations.
    """

    name: ClassVar[str] = "lbfgs"
    iterations: ClassVar[int] = 2000
    log_every: int = option(10, integer(1))

    def start(self, work: Any, iterations: int) -> None:
        self.objective, self.scale, self.generation = work.objective(None), None, work.generation
        self.sizes = self.objective.sizes()
        pairs = zip(self.objective.parameters, self.sizes, strict=True)
        self.scaled = [torch.nn.Parameter(p.detach() / size) for p, size in pairs]
        # No tolerances: they are absolute, and losses become far smaller than any of them.
        self.optimizer = torch.optim.LBFGS(
            self.scaled, history_size=_MEMORY, line_search_fn="strong_wolfe", tolerance_grad=0.0,
            tolerance_change=0.0,
        )  # fmt: skip

    @torch.enable_grad()
    def step(self, most: int) -> int:
        if self.scale is None:  # torch discards pairs with a product below 1e-10, so the loss must not be small
            self.scale = 1 / max(self.loss(), 1e-300)
        group, before = self.optimizer.param_groups[0], self._count()
        group["max_iter"], group["max_eval"] = most, _EVALUATIONS * most + _SPARE
        start, unlimited = ([p.detach().clone() for p in ps] for ps in (self.scaled, self.objective.parameters))
        self.optimizer.step(self._closure)
        self._place()
        if self.objective.limit(unlimited):
            self._scale_again()
        if all(torch.equal(p, q) for p, q in zip(start, self.scaled, strict=True)):
            return 0
        return self._count() - before

    def _count(self) -> int:
        return self.optimizer.state[self.optimizer.param_groups[0]["params"][0]].get("n_iter", 0)

    @torch.no_grad()
    def _place(self) -> None:
        """Set the parameters to the scaled ones, in their units."""
        for p, scaled, size in zip(self.objective.parameters, self.scaled, self.sizes, strict=True):
            p.copy_(scaled * size)

    @torch.no_grad()
    def _scale_again(self) -> None:
        """Set the scaled parameters to those that were changed."""
        for p, scaled, size in zip(self.objective.parameters, self.scaled, self.sizes, strict=True):
            scaled.copy_(p / size)

    def _closure(self) -> Tensor:
        self._place()
        for p in self.objective.parameters:
            p.grad = None
        loss = self.objective.backward(whole=True, scale=self.scale)
        for p, scaled, size in zip(self.objective.parameters, self.scaled, self.sizes, strict=True):
            scaled.grad = p.grad * size
        return torch.where(torch.isfinite(loss), loss, math.inf)  # the line search would accept a NaN

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        for scaled, kept in zip(self.scaled, state.get("scaled", self.objective.parameters), strict=True):
            scaled.copy_(kept)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"scaled": [p.detach() for p in self.scaled]}


def _power_of_two(number: float) -> float:
    return 2.0 ** round(math.log2(number))


__all__ = ["LBFGS", "Adam", "VarProAdam"]
