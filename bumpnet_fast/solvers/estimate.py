"""How good an answer is: the change of u when smooth frozen bumps are added and all amplitudes solved for once more.

A trained net spans few functions.  Together with some hundreds of smooth bumps on a grid it spans nearly all that is
smooth, and one linear solve finds the best amplitudes of all.  If that solution is much better than the trained one,
the difference of the two is the error of the trained one.  Two checks say whether it is much better: the residual at
points that nothing was solved on, and a second, larger enrichment that has to agree with the first.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..core.jet import Jet
from ..nets.bumpnet import BumpNet
from ..nets.patches import PatchNet
from ..problems import sampling
from ..problems.base import Problem
from . import refine
from .balance import balancing
from .enrichment import AMPLIFIED, UNDETERMINED, Enriched, EnrichedFit, Rows, added_bumps, fitted, in_float64, jets_of
from .given_values import Contradiction, contradictions
from .grad_mode import differentiating
from .incompatible import incompatible
from .other_solutions import other_solution
from .residual import Block, System, balance_by, blocks, collocation
from .threads import few_threads

#: Added bumps of the first enrichment by dimension, and of more dimensions; every further one has twice as many.
_BUMPS, _MORE_BUMPS = (20, 120, 140, 160), 200
#: How often the first may be halved where that is too dear, and doubled where two enrichments do not agree.
_HALVED, _DOUBLED = 2, 3
#: Points for every amplitude of an output, at least.
_POINTS = 3
#: Candidates for further points, and points of the held-out residual, of all windows together; the least of a window.
_CANDIDATES, _HELD_OUT, _LEAST = 2048, 1024, 128
#: Points that tell how many equations there are, and whether they are linear.
_FEW = 32
#: Share of the points that the training did not have, at least.
_FURTHER = 0.4
#: Share of the further points that are spread evenly; the others go where the residual is large.
_EVEN = 0.5
#: Gauss-Newton steps that a nonlinear problem mostly takes.
_MOSTLY = 2
#: Points at which u is compared, and those of the lattices for the largest errors, of all windows together.
_COMPARED, _LATTICE = 3072, 441
#: Points at which two solutions are compared, and added bumps to look for another one, at least.
_FEWER, _FEWEST = 512, 20
#: Two enrichments agree if their estimates differ by no more than this factor, and themselves by this share of these.
_FACTOR, _APART = 2.5, 1.2
#: An error that is a larger share of u is believed only where the held-out residual has all but gone, if it is no
#: larger than the last.
_LARGE, _GONE, _LARGEST = 0.5, 0.01, 5.0
#: The held-out residual must have fallen to this share by the larger enrichment; to this share of that of the smaller
#: one, which shows that it goes on falling, unless the latter is as small as that.
_FALLEN, _FALLING, _FELL = 0.1, 0.7, 1e-3
#: Seconds of the processor for a window, or a share of those of the solve if that is more; flops in such a second.
_SECONDS, _SHARE, _SPEED = 0.2, 0.2, 16e9
#: Seconds for a derivative of one term of a lift at a point, and the share of all time that lifts may take.
_LIFTED, _LIFTING = 3e-7, 0.5
#: A further enrichment takes at least this share of the time before it, and the search for another solution so many
#: times as long as the enrichment that it starts from.
_LONGER, _LOOKING = 0.4, 4
#: A relative change as small as this is rounding: smooth bumps cancel.
_ROUNDING = 1e-11
#: Where a larger share of the held-out loss of u = 0 is left, no change means that the equations were not solved.
_LEFT = 1e-6


@dataclass(frozen=True)
class Places:
    """Where a problem was solved: what an estimate and a report need to make the same rows again.

    Attributes
    ----------
    x : Tensor
        [N, d], collocation points.
    counts : tuple of int
        Points along the axes, for the conditions.
    weights : Tensor or None
        [N], factors of the rows of the equation.
    condition_weight : float
        Factor of the weights of all conditions.
    balance : list of Tensor or None
        Factors of the equations of every block of rows.
    reference_loss : float or None
        The loss of u = 0, or of what the boundary alone makes of u.
    """

    x: Tensor
    counts: tuple[int, ...]
    weights: Tensor | None = None
    condition_weight: float = 1.0
    balance: list[Tensor] | None = None
    reference_loss: float | None = None

    @classmethod
    def default(cls, problem: Problem, net: BumpNet) -> Places:
        """The points that a solve takes unless it is told otherwise."""
        return cls(*collocation(problem, net, None, "grid", 0))

    def balanced(self, problem: Problem, net: BumpNet, boundary: str, unknowns: dict[str, float]) -> Places:
        """The same with the factors of the equations, if these are not known."""
        if self.balance is not None or isinstance(net, PatchNet):  # over patches every leaf has factors of its own
            return self
        rows = blocks(problem, boundary, self.counts, self.x, self.condition_weight, self.weights)
        balance = balancing(rows, net, unknowns)
        balance_by(rows, balance)
        zero = System(rows, net, unknowns).residual()
        return replace(self, balance=balance, reference_loss=float(zero @ zero))


@dataclass(frozen=True)
class ErrorEstimate:
    """An estimate of the error of a solution, which does not need the exact one.

    Attributes
    ----------
    rel_l2 : tuple of float
        Relative L2 error of every output; absolute where u is zero.  NaN where it could not be computed.
    max : tuple of float
        Largest error of every output, in the units of u.
    reliable : bool
        Whether the checks were passed: then the true error is within a factor of about three.
    reason : str
        What the checks found, in words.
    unknowns : dict of str to float
        Standard deviations of the unknowns of the equation: what the misfit of the data and the error of u leave open.
        Infinite where equation and data do not determine an unknown.
    held_out : float
        Root mean square of the residual at points that were not solved on, after the enrichment relative to before.
    incompatible : tuple of str
        Names of the side conditions without each of which all the others and the equation have a solution, and with
        which they have none.
    seconds : float
        Of the processor.
    enriched : tuple
        u with the added bumps, by window of time, for :meth:`Solution.estimated_error`; empty if it is not known.
    """

    rel_l2: tuple[float, ...]
    max: tuple[float, ...]
    reliable: bool
    reason: str
    unknowns: dict[str, float] = field(default_factory=dict)
    held_out: float = math.nan
    incompatible: tuple[str, ...] = ()
    seconds: float = field(default=0.0, compare=False)
    enriched: tuple[Enriched, ...] = field(default=(), repr=False, compare=False)

    @property
    def is_rounding(self) -> bool:
        """Whether the enrichment changed nothing but the last digits of u."""
        return max(self.rel_l2) < _ROUNDING

    def as_dict(self) -> dict[str, Any]:
        """What it says, as plain values."""
        return {
            "rel_l2": list(self.rel_l2), "max": list(self.max), "reliable": self.reliable, "reason": self.reason,
            "unknowns": dict(self.unknowns), "incompatible": list(self.incompatible),
        }  # fmt: skip


@dataclass
class _Compared:
    """What is known of one window of time, or of the whole."""

    values: list[Tensor]  # of u and of its two enrichments, spread evenly, [n, K]
    elsewhere: list[Tensor]  # the same near the bumps, and on a lattice
    losses: list[float]  # held-out, likewise
    converged: bool
    unknowns: list[Tensor]  # of u and of its two enrichments
    deviations: Tensor
    doubt: str = ""  # why nothing of this can be relied upon
    noisy: bool = False  # whether there may be measurements
    stuck: bool = False  # whether nothing changed, although much of the residual is left


def jump(found: Sequence[Contradiction]) -> str:
    """Why an estimate says little about u near where the given values jump; empty if they do not."""
    return next((f"no smooth u has the given values: {one}" for one in found if one.kind == "jump"), "")


class Window:
    """A problem whose solution was found, and all that an estimate needs of it that the enrichments share.

    Parameters
    ----------
    problem, net, boundary
        What was solved.
    unknowns : Tensor
        [T], as found.
    places : Places, optional
        Where it was solved.
    seed : int
        Of the further points.
    continued : callable, optional
        See :class:`Stage`.
    """

    def __init__(
        self, problem: Problem, net: BumpNet, boundary: str, unknowns: Tensor, places: Places | None, seed: int,
        continued: Callable | None = None,
    ):  # fmt: skip
        self.problem, self.boundary, self.seed, self.continued = problem, boundary, seed, continued
        self.net = in_float64(net)
        self.u = Enriched(problem, boundary, [self.net], unknowns)
        self.places = Places.default(problem, net) if places is None else places
        self.doubt = jump(contradictions(problem))
        self._kept: dict[str, tuple[Problem, list[Block]]] = {}
        self.x, self.weights, self.counts = self.places.x.to(self.net.rows), None, self.places.counts
        self.held_out = self.held_out_weights = None
        few = self.x[:_FEW] if problem.points is None else self.x
        self._few = System(blocks(problem, boundary, self.places.counts, few, 1.0), self.net, self._named())
        self.equations = self._few.equations[0]
        self._peaked: Tensor | None = None
        self.places = self.places.balanced(problem, self.net, boundary, self._named())

    def _named(self) -> dict[str, float]:
        return dict(zip(self.problem.unknowns, self.u.unknowns.tolist(), strict=True))

    def linear(self) -> bool:
        """Whether one step solves it."""
        if self.problem.unknowns:
            return False
        return self._few.is_linear(self.problem.linear)

    def cost(self, number: int) -> float:
        """Seconds of an enrichment by ``number`` bumps."""
        bumps = len(self.net.rows) + number
        rows, amplitudes = _POINTS * bumps * self.equations, bumps * self.net.layout.outputs
        steps = 1 if self.linear() else _MOSTLY
        return steps * 4 * (rows + amplitudes) * amplitudes**2 / _SPEED + _POINTS * bumps * self._lifting()

    def _lifting(self) -> float:
        """Seconds that the derivatives of a lift take at a point."""
        if self.boundary == "soft":
            return 0.0
        dim, given = self.net.layout.dim, [axis for axis, _ in self.problem.faces]
        terms = math.prod(1 + given.count(axis) for axis in range(dim)) * len(self.problem.shifts())
        return _LIFTED * terms * (1 + dim) * self.net.layout.outputs

    def share(self, seconds: float) -> float:
        """The share of the usual points that can be had in so many seconds, where lifts are slow to differentiate."""
        usual = 2 * (_CANDIDATES + _HELD_OUT) * self._lifting()
        return min(1.0, _LIFTING * seconds / usual) if usual else 1.0

    def place(self, amplitudes: int, share: float) -> None:
        """Choose the points, for so many amplitudes of an output; ``share`` of those that are usual."""
        places, problem, self._kept = self.places, self.problem, {}
        x = places.x.to(self.net.rows)
        generator = torch.Generator().manual_seed(self.seed)
        if problem.points is not None:
            self.doubt = "the equation holds at given points only, and says nothing about u between them"
            return
        needed = _POINTS * amplitudes
        own = math.ceil((1 - _FURTHER) * needed)
        if len(x) > own:
            x = x[torch.randperm(len(x), generator=generator)[:own].to(x.device)]
        number = needed - len(x)
        most, held_out = (max(_LEAST, round(share * n)) for n in (_CANDIDATES, _HELD_OUT))
        most = max(most, 2 * number)
        if self._peaked is None:
            few = max(_LEAST, round(share * refine.PEAKED))
            self._peaked = refine.where_data_peak(problem, self.net, self._named(), few, held_out // 2, self.seed)
        peaked = self._peaked
        there = torch.cat([refine.candidates(problem, self.net, most, generator, self.seed + 1).to(x), peaked[::2]])
        check = torch.cat(
            [refine.candidates(problem, self.net, held_out, generator, self.seed + 2).to(x), peaked[1::2]]
        )
        everywhere = torch.cat([x, there, check])
        bumps = lambda at: self.u.bumps(at, problem.want)  # noqa: E731
        residual, terms = refine.residual_and_terms(
            problem, bumps, self.boundary, self._named(), everywhere, self.places.balance[0]
        )
        weights = 1 / (1 + terms / terms.mean().clamp_min(1e-300))
        size = (residual * weights)[len(x) : len(x) + len(there)].cpu().nan_to_num(0.0)
        density = (size / (size.max() or 1.0)).square()
        density = (1 - _EVEN) * density / (density.sum() or 1.0) + _EVEN / len(density)
        chosen = torch.multinomial(density, min(number, len(density)), generator=generator).to(x.device)
        there_own, others, checked = weights.split([len(x), len(there), len(check)])
        self.x, self.weights = torch.cat([x, there[chosen]]), torch.cat([there_own, others[chosen]])
        self.held_out, self.held_out_weights = check, checked
        dense = max(1.0, (len(self.x) / math.prod(places.counts)) ** (1 / len(places.counts)))
        self.counts = tuple(math.ceil(dense * count) for count in places.counts)

    def rows(self, problem: Problem) -> list[Block]:
        """The rows that are solved."""
        return self._blocks("solved", problem, self.x, self.weights, self.counts)

    def held_out_rows(self, problem: Problem) -> list[Block]:
        """Rows that nothing is solved on."""
        return self._blocks("held out", problem, self.held_out, self.held_out_weights, denser(self.counts))

    def _blocks(
        self, what: str, problem: Problem, x: Tensor, weights: Tensor | None, counts: tuple[int, ...]
    ) -> list[Block]:
        """Rows; kept, as those of one problem serve all its enrichments, and lifts are slow to differentiate."""
        kept = self._kept.get(what)
        if kept is None or kept[0] is not problem:
            weight = self.places.condition_weight
            counts = counts if self._allows(counts) else self.places.counts
            made = blocks(problem, self.boundary, counts, x, weight, weights)
            self._kept[what] = kept = problem, made
        return kept[1]

    def _allows(self, counts: tuple[int, ...]) -> bool:
        """Whether the conditions can be had at so many points: some have tables for those that they were solved on."""
        try:
            System(blocks(self.problem, self.boundary, counts, self.x[:_FEW], 1.0), self.net, self._named())
        except Exception:  # whatever a user's function raises
            return self.problem.points is not None
        return True

    def compared(self, first: EnrichedFit, second: EnrichedFit, share: float) -> _Compared:
        """u and its enrichments beside one another, at a share of the points of all windows."""
        even = self.spread(round(share * _COMPARED))
        lattice = sampling.lattice(self.problem.domain, max(64, round(share * _LATTICE)))
        candidates = [self.u, first.u, second.u]
        elsewhere = self.x if self.held_out is None else self.held_out
        elsewhere = torch.cat([elsewhere, lattice[self.problem.inside(lattice)].to(elsewhere)])
        losses = [math.nan] * 3
        if self.held_out is not None:
            losses = [self.held_out_loss(u, second.balance) for u in candidates]
        doubt = self.doubt or (UNDETERMINED if second.amplified(even[:_FEWER]) > AMPLIFIED else "")
        values = [u.jet(even, "value").value for u in candidates]
        stuck = float((values[2] - values[0]).norm()) <= _ROUNDING * float(values[0].norm()) and self._left(second)
        return _Compared(
            values, [u.jet(elsewhere, "value").value for u in candidates], losses,
            first.converged and second.converged, [u.unknowns for u in candidates],
            torch.maximum(first.deviations, second.deviations), doubt, bool(self.problem.side_conditions()), stuck,
        )  # fmt: skip

    def _left(self, fit: EnrichedFit) -> bool:
        """Whether much of the residual between the points is left."""
        if self.held_out is None:
            return False
        zero = fit.u.moved(torch.zeros_like(fit.u.amplitudes()), fit.u.unknowns)
        return self.held_out_loss(fit.u, fit.balance) > _LEFT * self.held_out_loss(zero, fit.balance)

    def spread(self, number: int) -> Tensor:
        """About so many points, evenly spread: a lattice can miss a thin feature that lies between its lines."""
        few = (max(_LEAST, number),) + (1,) * (self.net.layout.dim - 1)
        x = sampling.interior(self.problem.domain, few, "sobol", self.seed + 4)
        return x[self.problem.inside(x)].to(self.net.rows)

    def held_out_fall(self, fit: EnrichedFit) -> float:
        """The root of the held-out loss of an enrichment, relative to that of u."""
        return _ratio(*(self.held_out_loss(u, fit.balance) for u in (fit.u, self.u)))

    def held_out_loss(self, u: Enriched, balance: Tensor) -> float:
        systems = u.systems(self.held_out_rows(u.problem))
        rows = Rows(systems[0].blocks, systems[0])
        residual = systems[0].residual(jets_of(systems, u.nets), u.unknowns) * rows.weights(balance)
        return float(residual @ residual)

    def enriched(self, problem: Problem, number: int, u: Enriched | None = None) -> EnrichedFit:
        """u with about ``number`` added bumps, for ``problem``: that which was solved, or one with another start."""
        u = u or self.u
        added = added_bumps(self.net, problem.domain, number, self.seed + number)
        return fitted(Enriched(problem, self.boundary, [*u.nets, added], u.unknowns), self.rows(problem))


# --- the estimate --------------------------------------------------------------------------------


@dataclass
class Stage:
    """What was solved: a whole problem, or one window of time.

    Attributes
    ----------
    problem, net, boundary
        As they were.
    unknowns : dict of str to float
        As found.
    places : Places, optional
        Where it was solved.
    continued : callable, optional
        Gives the problem for another start, the state in which the window before ends; None for the first one.
    """

    problem: Problem
    net: BumpNet
    boundary: str
    unknowns: dict[str, float] = field(default_factory=dict)
    places: Places | None = None
    continued: Callable[[Callable[[Tensor, str], Jet]], Problem] | None = None


def estimate_seconds(solve: float, windows: int = 1) -> float:
    """Seconds of the processor that an estimate may take after a solve, or a march in windows, that took so many."""
    return max(_SECONDS * windows, _SHARE * solve)


@differentiating
def estimated(
    stages: Sequence[Stage], seconds: float = math.inf, bumps: int | None = None, seed: int = 0,
    known: ErrorEstimate | None = None,
) -> ErrorEstimate:  # fmt: skip
    """The error of a solution; it never raises, and changes nothing.

    Parameters
    ----------
    stages : sequence of Stage
        The solution, one after the other in time.
    seconds : float
        Of the processor, about, that it may take.
    bumps : int, optional
        Added bumps of the first enrichment; by default as many as suit the dimension and the time.
    seed : int
        Of the points and of the added bumps.
    known : ErrorEstimate, optional
        What is known already and can be relied upon: it is only seen whether the equation has another solution.
    """
    started = time.process_time()
    outputs = stages[0].net.layout.outputs
    entries = _POINTS * max(len(stage.net.rows) + 2 * _MORE_BUMPS for stage in stages) ** 2 * outputs**2
    try:
        with torch.no_grad(), few_threads(entries):
            if known is None:
                found = _estimated(stages, seconds, bumps, seed)
            else:
                found = _alone(known, stages[0], seconds, seed)
    except Exception as error:  # a finished solution is worth more than its estimate
        found = _unknown(outputs, f"it could not be computed: {type(error).__name__}: {error}".split("\n")[0])
    return replace(found, seconds=time.process_time() - started)


def denser(counts: Sequence[int]) -> tuple[int, ...]:
    """Points along the axes for conditions, other than those of ``counts``."""
    return tuple(count + count // 2 + 1 for count in counts)


def _unknown(outputs: int, reason: str) -> ErrorEstimate:
    return ErrorEstimate((math.nan,) * outputs, (math.nan,) * outputs, False, reason)


def _window(stage: Stage, seed: int) -> Window:
    unknowns = torch.tensor([*stage.unknowns.values()], dtype=torch.float64, device=stage.net.rows.device)
    return Window(stage.problem, stage.net, stage.boundary, unknowns, stage.places, seed, stage.continued)


def _usual(dim: int) -> int:
    """Added bumps of the first enrichment."""
    return _BUMPS[dim - 1] if dim <= len(_BUMPS) else _MORE_BUMPS


def _alone(known: ErrorEstimate, stage: Stage, seconds: float, seed: int) -> ErrorEstimate:
    """A reliable estimate, if no other solution is met in the time."""
    window, number = _window(stage, seed), max(_FEWEST, _usual(stage.net.layout.dim) // 2)
    if _LOOKING * window.cost(number) > seconds:
        return known
    return _if_alone(known, window, number, window.share(seconds), seconds)


def _estimated(stages: Sequence[Stage], seconds: float, bumps: int | None, seed: int) -> ErrorEstimate:
    started, windows = time.process_time(), []
    for stage in stages:
        if isinstance(stage.net, PatchNet):
            return _unknown(1, "the error over patches is estimated while these are solved for, and not afterwards")
        if not bool(torch.isfinite(stage.net.rows).all()):
            return _unknown(stage.net.layout.outputs, "the solution is not finite")
        found = [one for one in contradictions(stage.problem) if one.kind != "velocity"]
        if stage.boundary == "hard" and found:  # the solution is of another problem than is meant
            return _unknown(stage.net.layout.outputs, f"no smooth u has the given values: {found[0]}")
        windows.append(_window(stage, seed))
    dim, outputs = windows[0].net.layout.dim, windows[0].net.layout.outputs
    share = windows[0].share(seconds / len(windows)) / len(windows)

    def cost(number: int) -> float:
        return sum(w.cost(number) for w in windows)

    first = bumps or _usual(dim)
    if bumps is None:
        for _ in range(_HALVED):
            if cost(first) + cost(2 * first) > seconds:
                first //= 2
    if cost(first) + cost(2 * first) > seconds:
        wanted = cost(first) + cost(2 * first)
        advice = "solution.estimate_error() takes that time"
        return _unknown(outputs, f"it would take about {wanted:.2g} s, more than {seconds:.2g} s; {advice}")
    small, found, number, left = None, None, first, seconds - cost(first)
    for _ in range(1 + (_DOUBLED if bumps is None else 0)):
        spent = time.process_time() - started
        if found is not None and (cost(2 * number) > left or (1 + _LONGER) * spent > seconds):
            break
        left -= cost(2 * number)
        for w in windows:
            w.place(len(w.net.rows) + 2 * number, share)
        small = _chain(windows, number) if small is None else small
        large = _chain(windows, 2 * number)
        compared = [w.compared(a, b, 1 / len(windows)) for w, a, b in zip(windows, small, large, strict=True)]
        found = _judged(compared, list(stages[0].problem.unknowns))
        found = replace(found, enriched=tuple(fit.u for fit in large))
        last = cost(4 * number) > left
        if len(windows) == 1 and not found.reliable and (number == first or last):
            found = _if_compatible(found, windows[0], small[0], large[0])
        if found.incompatible or found.reliable or any(c.doubt for c in compared) or max(found.rel_l2) < _ROUNDING:
            break
        small, number = large, 2 * number
    number = max(_FEWEST, first // 2)  # to know that there is another solution, a coarse one is enough
    if found.reliable and len(windows) == 1 and _LOOKING * cost(number) <= max(left, 0.0):
        return _if_alone(found, windows[0], number, share, seconds - (time.process_time() - started))
    return found


def _if_compatible(found: ErrorEstimate, window: Window, small: EnrichedFit, large: EnrichedFit) -> ErrorEstimate:
    """What was found, if no side condition contradicts the equation or other conditions."""
    names = [condition.name for condition in window.problem.side_conditions()]
    if not names or window.problem.unknowns or window.problem.points is not None:
        return found
    rows = window.held_out_rows(window.problem)
    own = window.u.amplitudes()  # those of the enrichment are large, and so is their rounding
    start = large.u.moved(torch.cat([own, own.new_zeros(len(large.u.amplitudes()) - len(own))]), large.u.unknowns)
    against, left = incompatible(names, small, large, lambda some: fitted(start, some), rows)
    if not against:
        return found
    listed = " or ".join(map(repr, against))
    reason = (
        f"no u fulfils all conditions: without {listed} the residual vanishes, and with it {left:.1g} of that of u = 0"
        " is left, however many bumps there are. The data contradict one another, have noise or few digits, or u is not"
        " smooth where this condition holds"
    )
    return replace(found, reason=reason, incompatible=against)


def _if_alone(found: ErrorEstimate, window: Window, number: int, share: float, seconds: float) -> ErrorEstimate:
    """What was found, if no other solution is met with ``number`` added bumps; one that starts in time has no other."""
    if window.linear() or window.problem.unknowns or window.problem.time is not None:
        return found
    window.place(len(window.net.rows) + 3 * number, share)
    x = window.spread(_FEWER)
    fit = window.enriched(window.problem, number)
    other = other_solution(fit, lambda u: window.enriched(window.problem, 2 * number, u), x, seconds)
    if other is None:
        return found
    u = window.u.jet(x, "value").value
    apart = torch.linalg.vector_norm(other.jet(x, "value").value - u, dim=0) / torch.linalg.vector_norm(u, dim=0)
    reason = f"the equation has another solution, {float(apart.max()):.0%} from this one: solve from another start"
    return replace(found, reliable=False, reason=f"{reason} to find it; as a solution this one is known well")


def _chain(windows: Sequence[Window], number: int) -> list[EnrichedFit]:
    """The enrichments of all windows; each starts from where that of the window before ends."""
    fits: list[EnrichedFit] = []
    for w in windows:
        problem = w.problem if w.continued is None or not fits else w.continued(fits[-1].u.state)
        fits.append(w.enriched(problem, number))
    return fits


def _judged(compared: Sequence[_Compared], names: Sequence[str]) -> ErrorEstimate:
    """The estimate, and whether it can be relied upon."""
    u, small, large = (torch.cat(parts) for parts in zip(*(c.values for c in compared), strict=True))
    u_there, small_there, large_there = (
        torch.cat(parts) for parts in zip(*(c.elsewhere for c in compared), strict=True)
    )
    size = torch.linalg.vector_norm(large, dim=0)
    size = torch.where(size > 1e-12 * size.max(), size, torch.ones_like(size))
    by_small, by_large = (torch.linalg.vector_norm(v - u, dim=0) / size for v in (small, large))
    most_small, most_large = (
        torch.cat([v - u, v_there - u_there]).abs().amax(0)
        for v, v_there in ((small, small_there), (large, large_there))
    )
    before, held_out = (max(_ratio(c.losses[k], c.losses[0]) for c in compared) for k in (1, 2))
    apart = float((torch.linalg.vector_norm(large - small, dim=0) / (size * by_large)).max())
    deviations = {}
    for k, name in enumerate(names):
        moved = float((compared[-1].unknowns[2] - compared[-1].unknowns[0])[k])
        deviations[name] = math.hypot(moved, float(compared[-1].deviations[k]))
    noisy = any(c.noisy for c in compared)
    doubt = next((c.doubt for c in compared if c.doubt), "")
    off = float(torch.maximum(by_small / by_large, by_large / by_small).nan_to_num(math.inf, math.inf).max())
    if not bool(torch.isfinite(by_large).all()):
        return _unknown(len(size), "the enrichment is not finite")
    if any(c.stuck for c in compared) and float(by_large.max()) < _ROUNDING and not doubt:
        return _unknown(
            len(size), "added bumps change nothing, although much of the residual is left: u is stuck there"
        )
    if doubt:
        reason = doubt
    elif not all(c.converged for c in compared):
        reason = "the enriched equations were not solved: their Gauss-Newton steps did not converge"
    elif not bool(u.any()) and not bool(large.any()):
        reason = "u is zero everywhere, and so is its enrichment: another solution may exist"
    elif float(by_large.max()) < _ROUNDING:
        reason = "the change is rounding: u is exact, or what is wrong with it is at no point that was looked at"
    elif not held_out <= _FALLEN:
        share = f"fell to {held_out:.0%} only" if held_out < 1 else "did not fall"
        why = "smooth bumps do not reach the features of u" + (", or data are noisy" if noisy else "")
        reason = f"the residual between the points {share}: {why}"
    elif not held_out <= max(_FALLING * before, _FELL):
        reason = "the residual does not fall any more with more bumps: they do not reach the features of u"
    elif float(by_large.max()) > (_LARGEST if held_out <= _GONE else _LARGE):
        reason = "the error is about as large as u itself: how large cannot be told"
    elif off > _FACTOR or apart > _APART:
        reason = f"two enrichments disagree: estimates {max(by_small.tolist()):.1g} and {max(by_large.tolist()):.1g}"
    else:
        reason = f"two enrichments agree, and the residual between the points fell to {held_out:.1g} of what it was"
        return ErrorEstimate(_tuple(by_large), _tuple(most_large), True, reason, deviations, held_out)
    at_worst = _tuple(torch.maximum(by_small, by_large)), _tuple(torch.maximum(most_small, most_large))
    return ErrorEstimate(*at_worst, False, reason, deviations, held_out)


def _ratio(loss: float, trained: float) -> float:
    """Root of a held-out loss relative to that of what was trained; infinite where that is not known."""
    return math.sqrt(loss / trained) if trained > 0 and math.isfinite(loss) else math.inf


def _tuple(t: Tensor) -> tuple[float, ...]:
    return tuple(t.tolist())


__all__ = ["ErrorEstimate", "Places", "Stage", "Window", "denser", "estimate_seconds", "estimated"]
