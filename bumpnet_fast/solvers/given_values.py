"""Given values that contradict one another: no smooth u has them, and no residual at points inside shows it.

Three kinds are found: faces that differ where they meet, values of one face that jump, and values of one face with a
kink, which an exact boundary carries through the whole domain.  Values that jump are not imposed close to the jump.
"""

from __future__ import annotations

import copy
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..core import checking
from ..nets.bumpnet import BumpNet
from ..problems.base import Condition, Problem
from ..problems.evolution.base import EvolutionProblem
from .arguments import widths

#: Distances from an edge, relative to the width, at which two faces are compared: far, then near.
_FAR, _NEAR = 1e-4, 1e-5
#: A difference is a jump if it is a larger share of the range of the given values, and hardly falls towards the edge.
_JUMP, _STAYS = 1e-2, 0.5
#: A change of the slope is a kink if it is a larger share of the range of the given values over the width.
_KINK = 1e-2
#: Most places on a face or an edge, most points of all lines along a face.
_PLACES_MOST, _POINTS_MOST = 27, 4096
#: Most and fewest intervals of a line, those of a section, which has one candidate, and most candidates.
_INTERVALS, _FEWEST, _SECTION, _CANDIDATES = 1024, 128, 16, 32
#: A candidate is looked at more closely by this factor, so often, in windows of so many intervals on either side.
_CLOSER, _LOOKS, _HALF_WINDOW = 4, 6, 8
#: From look to look the slope at a kink changes by no more than these factors: of smooth values it falls to a quarter,
#: and that of rounding rises fourfold.
_FALLS, _RISES = 0.5, 3.0
#: Differences are believed from so many units of rounding on.
_UNITS = 200.0
#: Share of the spacing of bumps within which a jump is not imposed.  With less, more iterations are needed; with more,
#: the error around the jump grows.
_REACH = 0.75
#: Places on either side at which a point looks for a jump of its face.
_LOOKOUT = 8

#: Verbs of "the given values", and those of "the start".
_SINGULAR = {"jump": "jumps", "have": "has", "do": "does"}

#: A face of the box: its axis, and 0 or 1.
Face = tuple[int, int]
Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Contradiction:
    """A place where the given values are not those of a smooth function.

    Attributes
    ----------
    sentence : str
        Where, and by how much.
    kind : str
        "jump" or "kink" of the given values, or "velocity" for one that the sides do not have.
    faces : tuple of (int, int)
        The two faces that disagree where they meet, or the one whose values are broken; none for the start of an
        evolution.
    axis : int or None
        Along which the values of one face are broken.
    jump : float
        By how much the values jump; 0 if they do not.
    """

    sentence: str
    kind: Literal["jump", "kink", "velocity"]
    faces: tuple[Face, ...] = ()
    axis: int | None = None
    jump: float = 0.0

    def __str__(self) -> str:
        return self.sentence


@torch.no_grad()
def contradictions(problem: Problem) -> list[Contradiction]:
    """Where given values contradict one another.

    Parameters
    ----------
    problem : Problem or EvolutionProblem
        Gives the faces, and the values on them.

    Returns
    -------
    list of Contradiction
        One for every pair of faces that disagree, and for every face and axis along which its values are broken; none
        if the values are a table that is known at the points of the problem only.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Lid(Problem):
    ...     def boundary_values(self, x):
    ...         return (x[:, 1] == 1).double()
    >>> print(contradictions(Lid())[0])
    the given values disagree at (-1, 1): the face x1 = -1 has 0 there and the face x2 = 1 has 1
    """
    faces = tuple(face for face in problem.faces if not (problem.continues and face[0] == problem.time))
    evolves = isinstance(problem, EvolutionProblem)
    with checking.undisturbed(torch.device("cpu")):
        try:
            through: list[tuple[Face, ...]] = [*((face,) for face in faces), *([()] if evolves else [])]
            along = itertools.product(through, range(len(problem.lower)))
            lines = [_Line(problem, held, axis) for held, axis in along if axis not in dict(held)]
            sizes = _sizes(problem, faces, lines)
            pairs = [pair for pair in itertools.combinations(faces, 2) if pair[0][0] != pair[1][0]]
            largest = max((size for size in sizes.tolist() if size < math.inf), default=0.0)
            found = [_of_velocity(problem, face, largest) for face in faces]
            found += [_of_edge(problem, *pair, sizes) for pair in pairs]
            if isinstance(problem, EvolutionProblem):
                found += [_of_start(problem, face, sizes) for face in faces]
            found += [line.broken(sizes) or line.open_seam(sizes) for line in lines]
        except Exception:  # whatever a user's function raises at points that it does not know
            return []
    return [one for one in found if one is not None and not (evolves and one.kind == "kink")]


def enforcement(problem: Problem, boundary: str | None, found: Sequence[Contradiction]) -> str:
    """How the boundary is enforced: as asked, or else as suits the problem; a smooth lift needs values that agree."""
    if boundary is None and "soft" in problem.forms and any(one.kind != "velocity" for one in found):
        return "soft"
    return problem.forms[0] if boundary is None else boundary


def warned(problem: Problem, net: BumpNet, boundary: str, found: Sequence[Contradiction]) -> list[str]:
    """Warnings for a solution: the contradictions of its given values, and what was made of them."""
    reach = ", ".join(f"{float(length):.2g}" for length in lengths(problem, net))
    instead = "take boundary='soft'" if "soft" in problem.forms else "let them change smoothly"
    ended = {
        ("soft", "jump"): f"within ({reach}) of there they are not imposed, and u is smoothed: expect errors there",
        ("soft", "kink"): "boundary='soft' imposes them by least squares, and rounds the kink off",
        ("hard", "jump"): f"boundary='hard' builds the jump into u, which is then wrong: {instead}",
        ("hard", "kink"): f"boundary='hard' carries the kink through the domain, and u is then wrong: {instead}",
    }
    return [
        f"{one}; {ended.get((boundary, one.kind), 'no smooth u has both: expect errors near there')}" for one in found
    ]


def lengths(problem: Problem, net: BumpNet) -> Tensor:
    """Lengths [d] about a jump within which it is not imposed: a share of the spacing of bumps spread evenly."""
    inner = torch.tensor(widths(problem.domain, net), dtype=torch.float64)
    spacing = (inner.prod() / len(net.rows)) ** (1 / len(inner))
    return (_REACH * spacing / inner).clamp(max=0.5) * (problem.domain[1] - problem.domain[0])


def eased(problem: Problem, net: BumpNet, found: Sequence[Contradiction]) -> Problem:
    """``problem``, whose soft boundary does not impose given values within a bump of where they jump.

    Bumps cannot follow a jump.  Where they are made to try, they pay with oscillations and a residual that fills the
    domain.  The weight of the conditions falls smoothly towards a jump instead, and u chooses its way across.
    """
    jumps = [one for one in found if one.kind == "jump"]
    if not jumps:
        return problem
    reach = lengths(problem, net)

    def fading(condition: Condition) -> Condition:
        kept: list[Tensor] = []  # points, and their weights: mostly the same ones

        @functools.wraps(condition.residual)
        def residual(x: Tensor, *arguments, **named) -> Tensor:
            if not kept or kept[0] is not x:
                away = torch.stack([_away(problem, one, x, reach.to(x)) for one in jumps]).amin(0)
                kept[:] = x, _smooth(away)
            rows = condition.residual(x, *arguments, **named)
            return rows * kept[1].reshape(-1, *(1,) * (rows.dim() - 1))

        return condition if condition.period is not None else replace(condition, residual=residual)

    posed = copy.copy(problem)
    posed.conditions = lambda: [fading(c) for c in problem.conditions()]  # type: ignore[method-assign]
    return posed


def _smooth(t: Tensor) -> Tensor:
    """From 0 at t = 0 to 1 at t = 1, with three continuous derivatives."""
    t = t.clamp(0, 1)
    return t**4 * (35 - 84 * t + 70 * t**2 - 20 * t**3)


@torch.no_grad()
def _away(problem: Problem, one: Contradiction, x: Tensor, reach: Tensor) -> Tensor:
    """How far [n] points of the boundary are from a jump, in units of ``reach`` [d]; 1 or more is far."""
    domain = problem.domain.to(x)
    apart = [(x[:, axis] - domain[side, axis]).abs() / reach[axis] for axis, side in one.faces]
    if one.axis is None:
        return torch.stack(apart).square().sum(0).sqrt()
    steps = torch.linspace(-1, 1, 2 * _LOOKOUT + 1, dtype=x.dtype, device=x.device)
    (axis, side), (lo, hi) = one.faces[0], domain[:, one.axis]
    along = x[:, None, one.axis] + reach[one.axis] * steps
    closes = one.axis in problem.periodic
    there = x[:, None].expand(-1, len(steps), -1).clone()
    there[..., one.axis] = lo + (along - lo).remainder(hi - lo) if closes else along.clamp(lo, hi)
    there[..., axis] = domain[side, axis]
    values = _given(problem, one.faces)(there.flatten(0, 1)).reshape(*there.shape[:2], -1)
    jumps = values.diff(dim=1).abs().amax(2) > 0.5 * one.jump
    middle = (0.5 * (steps[1:] + steps[:-1])).abs()
    nearest = torch.where(jumps, middle, torch.ones_like(middle)).amin(1)
    return torch.where(apart[0] < 1e-9, nearest, torch.ones_like(nearest))


def _sizes(problem: Problem, faces: tuple[Face, ...], lines: Sequence[_Line]) -> Tensor:
    """The ranges [K] of the given values by output; infinite where that is rounding, so that nothing exceeds it."""
    given = [_given(problem, (face,))(_inside(problem, _on(problem, (face,)))).double() for face in faces]
    values = torch.cat([torch.empty(0, problem.outputs, dtype=torch.float64), *given, *(line.flat() for line in lines)])
    known = values.isfinite().all(1)
    if not bool(known.any()):
        return torch.full(values.shape[1:], math.inf, dtype=torch.float64)
    values = values[known]
    size = values.amax(0) - values.amin(0)
    return torch.where(size > 1e-9 * values.abs().amax(0), size, math.inf)


def _given(problem: Problem, held: tuple[Face, ...]) -> Function:
    """The values [n, K] that are given on all of some faces, or at the start of an evolution; see :func:`_where_given`.

    They are those of the problem's own lift, if it has one.
    """
    own = type(problem).lift is not Problem.lift and not isinstance(problem, EvolutionProblem)
    function: Function = problem.lift if own and problem.forms[0] == "hard" else problem.boundary_values
    if isinstance(problem, EvolutionProblem) and not held:
        function = problem.initial
    return lambda x: _where_given(problem, held, function(x))


def _where_given(problem: Problem, held: tuple[Face, ...], values: Tensor) -> Tensor:
    """Values [n, K] from [n] or [n, K], with zeros for the outputs that are not given on all of the faces."""
    values = values.reshape(len(values), -1).expand(-1, problem.outputs)
    free = [k for k in range(problem.outputs) if any(face not in problem.faces_of(k) for face in held)]
    return values.index_fill(1, torch.tensor(free, device=values.device), 0.0) if free else values


def _on(problem: Problem, held: tuple[Face, ...], free: int | None = None) -> Tensor:
    """Places [n, d] where the axes ``held`` are at their ends, and the axis ``free`` at its lower one."""
    (lo, hi), ends = problem.domain, dict(held) | ({} if free is None else {free: 0})
    number = math.floor(_PLACES_MOST ** (1 / max(1, len(lo) - len(ends))) + 1e-9)
    inside = torch.arange(0.5, number, dtype=torch.float64) / number  # an odd number has the middle
    choices = [torch.tensor([float(ends[j])]).double() if j in ends else inside for j in range(len(lo))]
    return lo + (hi - lo) * torch.cartesian_prod(*choices).reshape(-1, len(lo))


def _inside(problem: Problem, x: Tensor) -> Tensor:
    return x[problem.inside(x)] if len(x) else x


# --- where two faces meet ------------------------------------------------------------------------


def _of_edge(problem: Problem, one: Face, other: Face, sizes: Tensor) -> Contradiction | None:
    """What is wrong along the edge of two faces."""
    x = _inside(problem, _on(problem, (one, other)))
    if not len(x):
        return None
    far, near = (_values_beside(problem, x, one, other, distance) for distance in (_FAR, _NEAR))
    apart, nearer = ((a - b).abs() for a, b in (far, near))
    jump = (nearer > _JUMP * sizes) & (nearer > _STAYS * apart)
    if not bool(jump.any()):
        return None
    place, output = (int(i) for i in jump.nonzero()[0])
    values = [float(v[place, output]) + 0.0 for v in near]
    names = [_named(problem, face) for face in (one, other)]
    which = f" of output {output}" if near[0].shape[1] > 1 else ""
    there = f"{names[0]} has {values[0]:g} there and {names[1]} has {values[1]:g}"
    return Contradiction(
        f"the given values{which} disagree at {checking.place(x[place], 4)}: {there}", "jump", (one, other),
        jump=float(nearer[place, output]),
    )  # fmt: skip


def _named(problem: Problem, face: Face) -> str:
    axis, side = face
    return f"the face x{axis + 1} = {float(problem.domain[side, axis]):g}"


def _values_beside(problem: Problem, x: Tensor, one: Face, other: Face, distance: float) -> tuple[Tensor, Tensor]:
    """Given values [n, K] on two faces, at a distance from their edge ``x`` [n, d]."""
    found = []
    for leave, side in (other, one):  # on the first face one goes away from the other, and the other way round
        width = problem.domain[1, leave] - problem.domain[0, leave]
        beside = x.clone()
        beside[:, leave] += (1 - 2 * side) * distance * width
        found.append(_given(problem, (one, other))(beside))
    return found[0], found[1]


def _of_velocity(problem: Problem, face: tuple[int, int], size: float) -> Contradiction | None:
    """What is wrong with a velocity at the start on a face that moves in time."""
    start = (problem.time, 0)
    if problem.time_order != 2 or start not in problem.faces or face[0] == problem.time or problem.lift_has_velocity():
        return None
    x = _inside(problem, _on(problem, (face, start)))
    if not len(x):
        return None
    methods = problem.lacking_velocity, problem.velocity
    apart, velocity = (_where_given(problem, (face, start), method(x)) for method in methods)
    moves = velocity - apart
    rounding = 1e-10 * size / (problem.upper[problem.time] - problem.lower[problem.time])
    wrong = apart.abs() > max(_JUMP * max(float(velocity.abs().max()), float(moves.abs().max())), rounding)
    if not bool(wrong.any()):
        return None
    place, output = (int(i) for i in wrong.nonzero()[0])
    which = f" of output {output}" if problem.outputs > 1 else ""
    rates = float(velocity[place, output]), float(moves[place, output])
    there = f"velocity has {rates[0]:g} there and the boundary values change by {rates[1]:g}"
    sentence = f"the velocity at the start{which} is not that of the side at {checking.place(x[place], 4)}: {there}"
    return Contradiction(sentence, "velocity", (face, start))


def _of_start(problem: EvolutionProblem, face: Face, sizes: Tensor) -> Contradiction | None:
    """What is wrong with the start of an evolution on a face."""
    x = _inside(problem, _on(problem, (face,)))
    if not len(x):
        return None
    start, held = (_given(problem, faces)(x) for faces in ((), (face,)))
    apart = (start - held).abs()
    if not bool((apart > _JUMP * sizes).any()):
        return None
    place, output = divmod(int((apart / sizes).argmax()), apart.shape[1])
    values = [float(v[place, output]) + 0.0 for v in (start, held)]
    there = f"initial has {values[0]:g} there and boundary_values {values[1]:g}"
    return Contradiction(
        f"the start and the boundary values disagree at {checking.place(x[place], 4)}: {there}", "jump", (face,),
        jump=float(apart[place, output]),
    )  # fmt: skip


# --- along one face ------------------------------------------------------------------------------


class _Line:
    """Given values along lines through one face, or through the start of an evolution.

    Parameters
    ----------
    problem : Problem
        Gives the values.
    held : tuple of (int, int)
        The face; none for the start of an evolution.
    axis : int
        The direction of the lines.
    """

    def __init__(self, problem: Problem, held: tuple[Face, ...], axis: int):
        self.problem, self.held, self.axis = problem, held, axis
        self.begins = _on(problem, held, axis)
        self.number = min(_INTERVALS, max(_FEWEST, _POINTS_MOST // len(self.begins) // _SECTION * _SECTION))
        self.spacing = (1 - 2 * _NEAR) / self.number
        self.shares = torch.linspace(_NEAR, 1 - _NEAR, self.number + 1, dtype=torch.float64)
        self.values = self.at(self.begins, self.shares.expand(len(self.begins), -1))

    def at(self, begins: Tensor, shares: Tensor) -> Tensor:
        """Values [L, n, K] at shares [L, n] of the width, from the begins [L, d]; NaN outside the domain."""
        problem, axis = self.problem, self.axis
        x = begins[:, None].expand(-1, shares.shape[1], -1).clone()
        x[..., axis] += shares * (problem.domain[1] - problem.domain[0])[axis]
        flat = x.flatten(0, 1)
        values = _given(problem, self.held)(flat)
        self.eps = torch.finfo(values.dtype).eps
        return torch.where(problem.inside(flat)[:, None], values.double(), math.nan).reshape(*shares.shape, -1)

    def flat(self) -> Tensor:
        """The values [n, K]."""
        return self.values.flatten(0, 1)

    def broken(self, sizes: Tensor) -> Contradiction | None:
        """The largest jump along the lines, or else the largest kink."""
        # Fourth differences pass a kink, and suppress all that is smooth on the scale of the points.
        fourth = (self._differences(self.values, 4) / sizes).amax(2)
        sections = torch.nn.functional.pad(fourth, (0, -fourth.shape[1] % _SECTION)).unflatten(1, (-1, _SECTION))
        highest, where = sections.max(2)
        lines, places = (highest > 0.5 * _KINK * self.spacing).nonzero(as_tuple=True)
        if not len(lines):
            return None
        order = highest[lines, places].argsort(descending=True)[:_CANDIDATES]
        lines, places = lines[order], places[order]
        middle = self.shares[(places * _SECTION + where[lines, places] + 2).clamp(max=self.number)]
        return self._judged(self.begins[lines], middle, sizes)

    @staticmethod
    def _differences(values: Tensor, order: int) -> Tensor:
        return values.diff(order, dim=1).abs().nan_to_num(0.0, 0.0, 0.0)

    def _judged(self, begins: Tensor, middle: Tensor, sizes: Tensor) -> Contradiction | None:
        """What there is at candidates, [C, d] and shares [C], by a closer and closer look."""
        window = torch.arange(-_HALF_WINDOW, _HALF_WINDOW + 1, dtype=torch.float64)
        spacing, slopes, jumps = self.spacing, [], []
        for look in range(_LOOKS):
            if look and spacing / _CLOSER < 0.1 * math.sqrt(self.eps):
                break
            spacing /= _CLOSER
            middle = middle.clamp(_NEAR + _HALF_WINDOW * spacing, 1 - _NEAR - _HALF_WINDOW * spacing)
            shares = middle[:, None] + spacing * window
            values = self.at(begins, shares)
            bends = values.diff(2, dim=1)
            slopes.append(((bends[:, 1:] + bends[:, :-1]).abs() / spacing).nan_to_num(0.0, 0.0, 0.0).amax(1))
            jumps.append(self._differences(values, 1).amax(1))
            middle = shares.gather(1, 2 + (self._differences(values, 4) / sizes).amax(2).argmax(1, keepdim=True))[:, 0]
        rounding = _UNITS * self.eps * values.abs().nan_to_num(0.0).amax((0, 1))
        jump = (jumps[-1] > _JUMP * sizes) & (jumps[-1] > _STAYS * jumps[-2]) & (jumps[-1] > rounding)
        kink = (slopes[-1] > _KINK * sizes) & (slopes[-1] > rounding / spacing) & self._kinks
        for closer, before in itertools.pairwise(reversed(slopes[-3:])):
            kink &= (closer > _FALLS * before) & (closer < _RISES * before)
        for true, by_how_much in ((jump, jumps[-1]), (kink, slopes[-1])):
            if bool(true.any()):
                most, output = divmod(int((by_how_much / sizes * true).argmax()), len(sizes))
                same = true.any(1) & (begins == begins[most]).all(1)
                others = int((middle[same].sort().values.diff() > 2 * self.spacing).sum())
                more = f", and {others} more along this line" if others else ""
                amount = float(jumps[-1][most, output]) if true is jump else 0.0
                return self._said(begins[most], middle[most], values[most, :, output], spacing, output, amount, more)
        return None

    @property
    def _kinks(self) -> bool:
        """Whether the equation minds a kink along the lines: whether it has second derivatives there."""
        return self.problem.want != "gradient" and (self.axis != self.problem.time or self.problem.time_order > 1)

    def _said(
        self, begin: Tensor, share: Tensor, values: Tensor, spacing: float, output: int, jump: float, more: str
    ) -> Contradiction:
        """A jump or a kink at a share of the width, from the values [n] about it."""
        width = float((self.problem.domain[1] - self.problem.domain[0])[self.axis])
        place = begin.clone()
        place[self.axis] += share * width
        if jump:
            before, after = (float(v) + 0.0 for v in (values[0], values[-1]))
            change = f"at {checking.place(place, 4)} from {before:g} to {after:g}{more}"
            return self._contradiction("jump", change, output, jump)
        before, after = (float(v) / (spacing * width) for v in (values[1] - values[0], values[-1] - values[-2]))
        slopes = f"the slope along x{self.axis + 1} changes from {before:.3g} to {after:.3g}{more}"
        return self._contradiction("have", f"a kink at {checking.place(place, 4)}: {slopes}", output)

    def _contradiction(self, verb: str, what: str, output: int, jump: float = 0.0) -> Contradiction:
        which = f" of output {output}" if self.values.shape[2] > 1 else ""
        subject = f"the start{which} {_SINGULAR[verb]}"
        if self.held:
            subject = f"the given values{which} on {_named(self.problem, self.held[0])} {verb}"
        return Contradiction(f"{subject} {what}", "jump" if jump else "kink", self.held, self.axis, jump)

    def open_seam(self, sizes: Tensor) -> Contradiction | None:
        """What is wrong where a period closes along the lines."""
        problem = self.problem
        periodic = problem.periodic_axes if isinstance(problem, EvolutionProblem) else problem.periodic
        if self.axis not in periodic:
            return None
        steps = _NEAR * torch.arange(3, dtype=torch.float64)
        ends = torch.cat([steps, 1 - steps.flip(0)]).expand(len(self.begins), -1)
        first, last = self.at(self.begins, ends).nan_to_num(0.0).split(3, dim=1)
        apart = (first[:, 0] - last[:, 2]).abs()
        rounding = _UNITS * self.eps * first.abs().amax((0, 1))
        if bool((apart > _JUMP * sizes).any()):
            line, output = divmod(int((apart / sizes).argmax()), len(sizes))
            a, b = float(last[line, 2, output]), float(first[line, 0, output])
            where = f"at {checking.place(self.begins[line], 4)}: {a:g} at its end and {b:g} at its start"
            return self._contradiction("do", f"not close the period {where}", output, abs(a - b))
        ends_of = ((1, first), (-1, last.flip(1)))
        slopes = [side * (4 * v[:, 1] - 3 * v[:, 0] - v[:, 2]) / (2 * _NEAR) for side, v in ends_of]
        bend = (slopes[0] - slopes[1]).abs()
        if not self._kinks or not bool(((bend > _KINK * sizes) & (bend > rounding / _NEAR)).any()):
            return None
        line, output = divmod(int((bend / sizes).argmax()), len(sizes))
        width = float((problem.domain[1] - problem.domain[0])[self.axis])
        after, before = (float(slope[line, output]) / width for slope in slopes)
        slope = f"the slope along x{self.axis + 1} changes from {before:.3g} to {after:.3g}"
        what = f"a kink where the period closes at {checking.place(self.begins[line], 4)}: {slope}"
        return self._contradiction("have", what, output)


__all__ = ["Contradiction", "contradictions", "eased", "enforcement", "lengths", "warned"]
