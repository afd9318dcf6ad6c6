"""The work of :func:`~bumpnet_fast.solvers.solve`: a problem, a net and points, which the methods train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..core import checking
from ..core.ranks import Ranks
from ..nets.adapt import put_rows
from ..nets.bumpnet import BumpNet
from ..nets.events import Event
from ..nets.frozen import free_parameters
from ..problems.base import Problem
from ..problems.sampling import spread
from . import arguments, refine, report, run_state
from .balance import balancing
from .elimination import Projected, Separable
from .estimate import Places
from .given_values import contradictions, eased, enforcement
from .loop import StopReason, Work
from .objective import RowsObjective
from .residual import Block, System, balance_by, blocks, check_local, collocation, linearise
from .solution import NetErrorMeasure

#: Points per parameter that a round of refinement, which nobody asked for, reaches at least.
_ENOUGH = 3
#: A residual that is a smaller share of its terms is not worth further points.
_ROUNDING = 1e-9
#: Bumps that tell how large u is.
_FEW_BUMPS = 32
#: Points at which it is looked at whether an equation is linear.
_FEW = 32


class Task(Work):
    """A net to be trained, in place, to solve a problem.

    Attributes
    ----------
    problem, net, boundary
        As given to :func:`~bumpnet_fast.solvers.solve`; see :mod:`bumpnet_fast.solvers.given_values`.
    contradictions : list of Contradiction
        Of the given values.
    unknowns : Tensor
        [T], float64: values of the unknowns of the equation.
    x : Tensor
        [N, d], the collocation points of this rank.
    weights : Tensor or None
        [N], factors of the rows of the equation.
    counts : tuple of int
        Points along the axes, for the conditions.
    events : list of Event
        Bumps added and removed.
    """

    def __init__(self, problem: Problem, net: BumpNet, boundary: str | None = None, group: Any = None):
        self.problem, self.net, self.ranks = problem, net, Ranks(group, net.rows.device)
        self.contradictions = contradictions(problem)
        self.boundary = enforcement(problem, boundary, self.contradictions)
        self.name, self.device = f"the residual of problem {problem.name!r}", net.rows.device
        self.unknowns = torch.tensor([*problem.unknowns.values()], dtype=torch.float64, device=self.device)
        self.events: list[Event] = []
        self.generation, self.refinements, self._error = 0, 0, None
        self._linear: bool | None = None

    def collocate(
        self, points: Any = None, sampling: str = "grid", condition_weight: float = 1.0, refinements: int | None = 0,
        seed: int = 0,
    ) -> Task:  # fmt: skip
        """Choose the points; the arguments are those of :func:`~bumpnet_fast.solvers.solve`."""
        self.sampling, self.condition_weight, self.seed = sampling, float(condition_weight), seed
        self.refinements, self.carries, self.all_stages = refinements, bool(refinements), refinements is not None
        if self.boundary == "soft":
            self.problem = eased(self.problem, self.net, self.contradictions)
        x, self.counts = collocation(self.problem, self.net, points, sampling, seed, self.ranks)
        self.place(x)
        self.first_x, self.balance = x, None
        return self

    # --- rows ----------------------------------------------------------------------------------

    @property
    @torch.no_grad()
    def system(self) -> System:
        """The rows of the problem at all points."""
        if self._system is None:
            rows, about = self._blocks(self.x, self.weights), (self.net, self.named_unknowns(), self.ranks)
            if self.balance is None:  # that of the start is kept; the rows are made once, as lifts are slow
                self.balance = balancing(rows, *about)
                balance_by(rows, self.balance)
            self._system = System(rows, *about)
        return self._system

    @torch.no_grad()
    def system_at(self, x: Tensor, weights: Tensor | None = None) -> System:
        """The rows at other points of the equation; the conditions stay as they are."""
        if self.balance is None:
            _ = self.system
        return System(self._blocks(x, weights), self.net, self.named_unknowns(), self.ranks)

    def _blocks(self, x: Tensor, weights: Tensor | None) -> list[Block]:
        about = self.problem, self.boundary, self.counts, x, self.condition_weight, weights, self.ranks
        return blocks(*about, self.balance)

    @torch.no_grad()
    def check(self) -> None:
        """Raise ValueError, before any work, for methods of the problem that do not give what they should."""
        self.ranks.checked(lambda: arguments.check_data(self.problem, self.boundary, self.x, self.counts))
        system = self.system  # made by all ranks together
        self.ranks.checked(lambda: self._check_rows(system))

    def _check_rows(self, system: System) -> None:
        with checking.undisturbed(self.device):
            for block, jets in zip(system.blocks, system.samples(system.blocks)[0], strict=True):
                check_local(block, jets, system.named())
            if self.problem.linear and not self.problem.unknowns and not self._linear_at_few_points():
                what = checking.called("linear", self.problem)
                raise ValueError(f"{what} is True, and its residual is not affine in u: leave it out")

    def _linear_at_few_points(self) -> bool:
        equation = self.system.blocks[0]
        try:
            return System([equation.elsewhere(equation.x[:_FEW])], self.net).is_linear()
        except Exception:  # a residual with a table for its own points
            return True

    @torch.no_grad()
    def check_always(self) -> None:
        """Raise ValueError if the equation is not finite at some points whatever u is there."""
        block = self.system.blocks[0]
        samples = [jets for (jets,) in self.system.samples([block])]
        for c in (0.0, 1.0, -10.0, 100.0):
            samples.append(tuple(jet.map(lambda part, c=c: torch.full_like(part, c)) for jet in samples[0]))
        rows = torch.stack([block.rows(jets, self.system.named()) for jets in samples])
        never = ~torch.isfinite(rows).all(2).any(0)
        if bool(never.any()):
            found = checking.not_finite(rows[0].masked_fill(~never[:, None], 0.0), block.x)
            raise ValueError(f"{self.name} must be finite: {found}")

    def is_linear(self) -> bool:
        """Whether every row is affine in u, and there are no unknowns."""
        if self.problem.unknowns:
            return False
        if self._linear is None:
            self._linear = self.system.is_linear(self.problem.linear)
        return self._linear

    def objective(self, batch: int | None) -> RowsObjective:
        """The loss with its gradient, in batches of points or over all."""
        return RowsObjective(self, batch)

    @torch.no_grad()
    def loss(self) -> float:
        """Sum of squares of the rows for the current net and unknowns: the loss that all solvers minimise."""
        rows = self.system.residual(self.system.jets(self.net.rows.detach()), self.unknowns)
        return float(self.ranks.total(rows @ rows))

    @torch.no_grad()
    def solve_amplitudes(self, ridge: float = 1e-12) -> None:
        """Set the amplitudes of the net, and the unknowns, to the best for its shapes; ``ridge`` as for VarPro."""
        model = (Separable if self.is_linear() else Projected)(self.system, ridge)
        point = model.start(self.net.rows.detach().double())
        self.put_back({"rows": model.rows(point), "unknowns": model.unknowns(point)})

    @torch.no_grad()
    def sizes_of_u(self) -> Tensor:
        """Typical sizes [K] of what the net has to give, from a fit with a few bumps; 1 for zero."""
        about = {"outputs": self.net.layout.outputs, "dtype": torch.float64, "device": self.device}
        counts = spread(_FEW_BUMPS, arguments.widths(self.problem.domain, self.net))
        few = BumpNet(self.net.layout.dim, counts, self.problem.domain, **about)
        coarse = Task(self.problem, few, self.boundary, self.ranks.group)
        coarse.collocate()
        coarse.solve_amplitudes()
        squares = few(coarse.x).square()
        mean = self.ranks.total(squares.sum(0)) / self.ranks.number(len(squares))
        return torch.where((mean > 0) & mean.isfinite(), 2 * mean.sqrt(), 1.0)

    def place(self, x: Tensor, weights: Tensor | None = None) -> None:
        """Move the collocation points."""
        self.x, self.weights, self._system = x, weights, None

    def redraw(self, draw: int) -> None:
        """Draw new collocation points, as many as before, from the ``draw``-th seed."""
        x, _ = collocation(self.problem, self.net, self.counts, self.sampling, self.seed + draw, self.ranks)
        self.place(x)

    def named_unknowns(self) -> dict[str, float]:
        """The unknowns by their names in the equation."""
        return dict(zip(self.problem.unknowns, self.unknowns.tolist(), strict=True))

    @property
    def entries(self) -> int:
        """Approximate number of entries of the Jacobian of the rows by the parameters."""
        return free_parameters(self.net) * self.ranks.most(len(self.x))

    def places(self) -> Places | None:
        """Where it is solved; None with several ranks, of which none knows all points."""
        if not self.ranks.alone:
            return None
        reference = self.reference_loss()
        return Places(self.x, self.counts, self.weights, self.condition_weight, self.balance, reference)

    @torch.no_grad()
    def reference_loss(self) -> float:
        """The loss of u = 0, or of what the boundary alone makes of u."""
        rows = self.system.residual()
        return float(self.ranks.total(rows @ rows))

    @torch.no_grad()
    def not_finite(self) -> str:
        """What is not finite, and where, in words."""
        system = self.system
        pairs = zip(system.blocks, system.jets(self.net.rows.detach()), strict=True)
        for block, jets in pairs:
            rows, coefficients = linearise(block, jets, system.named(self.unknowns))
            flat = [c for by_equation in coefficients for by_jet in by_equation for cs in by_jet for c in cs]
            slopes = torch.cat([rows.T[:, :0], *(c.reshape(len(c), -1) for c in flat if c is not None)], 1)
            for what, values in (("", rows.T), ("derivative by u of the ", slopes)):
                if found := checking.not_finite(values, block.x):
                    return f"the {what}residual of {block.kind} {block.name!r} is not finite at the start: {found}"
        return super().not_finite()

    # --- as the work of a run ------------------------------------------------------------------

    def begin(self, stage: int) -> bool:
        """Of several stages of least squares, all but the first have additional points where the residual is large."""
        if self.refinements == 0 or not stage:
            return False
        rounds = refine.ROUNDS if self.refinements is None else self.refinements
        seed = self.seed + stage - 1 + (rounds + 1) * self.ranks.rank  # every rank has its own candidates
        about = self.problem, self.net, self.boundary, self.named_unknowns()
        number = max(1, len(self.first_x) // 2)
        if self.refinements is None:  # they may be too few altogether
            number = max(number, _ENOUGH * free_parameters(self.net) - len(self.first_x))
        self.place(*self.ranks.checked(lambda: refine.refined(*about, self.first_x, number, seed, self.balance[0])))
        self.generation += 1
        return True

    def goes_on(self) -> bool:
        return self.refinements is not None or self._misses(*self._between())

    def chosen(self, states: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The best at points that nothing was trained on, if the last one is much worse there than where it was."""
        last = states[-1]
        if len(states) == 1 or self.problem.points is not None:
            return last
        if not self._misses(*self._between(last["work"])):
            return last
        held_out = [self._between(state["work"])[1] for state in states]
        return states[min(range(len(states)), key=lambda k: (held_out[k], -k))]

    def _misses(self, own: float, others: float, terms: float) -> bool:
        """Whether the residual between the points is much larger than at them, and not only rounding."""
        return self.ranks.agreed_flag(others > max(refine.MISSED * own, _ROUNDING * terms))

    def _between(self, work: dict[str, Tensor] | None = None) -> tuple[float, float, float]:
        """Residual at the points and between them, and the size of its terms, of what there is or of a snapshot."""
        net = self.net if work is None else self.net_at(work)
        unknowns = self.unknowns if work is None else work["unknowns"]
        named = dict(zip(self.problem.unknowns, unknowns.tolist(), strict=True))
        x, balance = self.x[:: -(-len(self.x) // refine.BETWEEN)], self.balance[0]
        about = self.problem, net, self.boundary, named, x, refine.BETWEEN, self.seed + 1, balance
        try:
            return refine.between(*about)
        except Exception:  # a residual with a table for its own points
            return 0.0, 0.0, 1.0

    def snapshot(self) -> dict[str, Tensor]:
        now = {"rows": self.net.rows.detach().clone(), "unknowns": self.unknowns.clone()}
        return now | {"trainable": self.net.trainable.clone()}

    @torch.no_grad()
    def put_back(self, best: dict[str, Tensor]) -> None:
        put_rows(self.net, best["rows"], best.get("trainable"))
        self.net.rows.grad = None
        self.unknowns = best["unknowns"].to(self.unknowns)

    def measured(self, rows: Tensor) -> tuple[float | None, float | None]:
        """Relative L2 and maximum error of some rows, computed on rank 0."""
        if self._error is None:
            self._error = NetErrorMeasure(self.problem, self.net, self.boundary)
        found = self._error.of(rows)
        return found if None in found else tuple(self.ranks.agreed(self.unknowns.new_tensor(found)).tolist())

    def errors(self) -> tuple[float | None, float | None]:
        return self.measured(self.net.rows.detach())

    @torch.no_grad()
    def measure(self, now: dict[str, Tensor] | None) -> float | None:
        return self.measured(self._rows(now))[0]

    def ended(self, reason: StopReason, loss: float) -> StopReason:
        large = reason is StopReason.CONVERGED and report.is_large(self, loss)
        return StopReason.STALLED if large else reason

    def notes(self, now: dict[str, Tensor] | None) -> dict[str, Any]:
        return {"bumps": len(self._rows(now))}

    @torch.no_grad()
    def net_at(self, now: dict[str, Tensor] | None) -> BumpNet:
        net = self.net
        rows = self._rows(now).to(net.rows)
        return BumpNet.from_rows(rows, net.frame, net.domain, net.tied, maps=net.maps)

    def _rows(self, now: dict[str, Tensor] | None) -> Tensor:
        return self.net.rows.detach() if now is None else now["rows"]

    def state_dict(self) -> dict[str, Any]:
        places = {"x": self.x, "weights": self.weights, "counts": self.counts, "generation": self.generation}
        places |= {"balance": None if self.balance is None else list(self.balance)}
        return self.snapshot() | places | {"events": [vars(event) for event in self.events]}

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        if state["rows"] is None:  # of an older version, which stored no rows here
            state = state | {"rows": self.net.rows.detach()}
        self.put_back(state)
        weights = state["weights"]
        self.counts = self.counts if state["counts"] is None else tuple(state["counts"])
        self.place(state["x"].to(self.device), None if weights is None else weights.to(self.device))
        self.events, self.generation = [Event(**event) for event in state["events"]], int(state["generation"])
        balance = state.get("balance")
        self.balance = None if balance is None else [factors.to(self.device) for factors in balance]
        return "balance" not in state  # of an older version, whose rows were not balanced

    def check_same(self, solver: str, settings: dict[str, Any]) -> None:
        """Raise ValueError, naming the difference, unless all ranks are about to do the same."""
        if self.ranks.alone:
            return
        net, own = self.net, {}
        if isinstance(settings.get("points"), Tensor):
            own = {"points": "a rank's own"}
        about = {"solver": solver, "problem": run_state.described(self.problem), "rows": net.rows, "frame": net.frame}
        about |= {"domain": net.domain, "trainable": net.trainable, "outer": "tied" if net.tied else "free"}
        about |= {} if net.maps is None else {"maps": net.maps.to_tensor()}
        settings = settings | own
        if isinstance(settings.get("method"), list):
            settings |= _spelt_out(settings["method"])
        self.ranks.check_same(about | settings)


def _spelt_out(methods: list[dict[str, Any]]) -> dict[str, Any]:
    """Names and options of methods one by one, so that a message can name the one that differs."""
    spelt = {"method": "+".join(m["name"] for m in methods)}
    for number, m in enumerate(methods, 1):
        of = f" of stage {number}" if len(methods) > 1 else ""
        spelt |= {name + of: value for name, value in m["options"].items()}
    return spelt
