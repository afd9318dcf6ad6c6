"""Rows of a least-squares system, and their derivatives, from a problem, a net and points.

Every row is one equation at one point, and depends on the net through its jet at that point only.  The linearised
row is therefore a row operator whose coefficients are the residual's derivatives by the jet.
:func:`bumpnet_fast.bump_design` evaluates it over all bumps (docs/math.md, "design").
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core import checking
from ..core.functional import bump_design, bump_jet
from ..core.jet import Jet
from ..core.maps import Mapped, inner_want
from ..core.ranks import ALONE, Ranks
from ..core.reference import WANTS, second_shape
from ..core.types import Want
from ..nets.bumpnet import BumpNet
from ..nets.frozen import free_parameters
from ..problems import sampling
from ..problems.base import Condition, Problem, call_residual
from . import arguments
from .edges import EdgeLimit
from .grad_mode import ordinary
from .trained import TrainedShapes

#: Kinds of equations beside one another in columns for the points, up to which the mistake is found.
_KINDS_OF_COLUMNS = 8
#: At more points than this, as many equations as points are a mistake.
_FEW_POINTS = 16

#: Coefficients that add up to a smaller share of their sizes add up to zero.
_SAME = 1e-12
#: Size of one of the two jets at which coefficients are compared: units of u may be such that it is large.
_FAR = 1e15

#: Coefficients c0, c1, c2 of the row operator of one equation for one output; None counts as zero.
Coefficients = tuple[Tensor | None, Tensor | None, Tensor | None]


@dataclass
class Block:
    """Rows of one kind: ``function(jet of the net at x)`` -> [n] or [n, E], times ``factor``.

    Their squares count ``weight`` times.  With ``balance``, a tensor [E], every equation has a factor.  With
    ``others``, further tensors of points [n, d], the function also gets the jets at these.  It gets the unknowns of the
    equation by name.  ``weights`` [n] multiply the rows of every point.  ``kind`` is the kind of thing that ``name``
    names in messages.  ``elsewhere``, if given, makes the same block at other points.
    """

    name: str
    x: Tensor
    want: str
    function: Callable[..., Tensor]
    factor: float
    others: tuple[Tensor, ...] = ()
    weights: Tensor | None = None
    weight: float = 1.0
    balance: Tensor | None = None
    kind: str = "problem"
    elsewhere: Callable[[Tensor], Block] | None = None

    def residual(self, jets: tuple[Jet, ...], unknowns: dict[str, Tensor]) -> Tensor:
        """Weighted and scaled rows [E, n]."""
        rows = self.rows(jets, unknowns)
        if self.weights is not None:
            rows = rows * self.weights[:, None]
        if self.balance is not None:
            rows = rows * self.balance
        return self.factor * math.sqrt(self.weight) * rows.T

    def rows(self, jets: tuple[Jet, ...], unknowns: dict[str, Tensor]) -> Tensor:
        """Rows [n, E] of the function, neither weighted nor scaled; ValueError for another shape or type."""
        rows, n = self.function(*jets, **unknowns), len(self.x)
        what = f"the residual of {self.kind} {self.name!r} must"
        if not isinstance(rows, Tensor):
            raise ValueError(f"{what} give a tensor [{n}] or [{n}, equations], got {type(rows).__name__}")
        if rows.dim() not in (1, 2) or rows.shape[0] != n or 0 in rows.shape[1:]:
            raise ValueError(f"{what} have shape [{n}] or [{n}, equations], got {tuple(rows.shape)}")
        if not rows.is_floating_point():
            raise ValueError(f"{what} give real numbers, got {rows.dtype}")
        return rows[:, None] if rows.dim() == 1 else rows


def blocks(
    problem: Problem,
    boundary: str,
    counts: tuple[int, ...],
    x: Tensor,
    condition_weight: float,
    weights: Tensor | None = None,
    ranks: Ranks = ALONE,
    balance: Sequence[Tensor] | None = None,
) -> list[Block]:
    """The rows of a problem: equation at ``x`` [N, d], side conditions and, if soft, conditions.

    The sum of squares of all rows is the mean square of the residual plus the weighted mean squares of the conditions.
    ``weights`` [N] multiply the rows of the equation, and ``balance`` gives each block the factors of its equations:
    see :mod:`bumpnet_fast.solvers.balance`.  Every rank has the equation at its own points.  Each condition belongs to
    one rank, because its values may depend on the order of the points.
    """
    number = ranks.number(len(x))
    made = ranks.checked(lambda: _blocks(problem, boundary, counts, x, number, condition_weight, weights, ranks))
    if balance is not None:
        balance_by(made, balance)
    return made


def balance_by(blocks: Sequence[Block], balance: Sequence[Tensor]) -> None:
    """Give each block the factors of its equations."""
    for block, factors in zip(blocks, balance, strict=True):
        block.balance = factors


def _blocks(problem, boundary, counts, x, number, condition_weight, weights, ranks) -> list[Block]:
    hard = boundary == "hard"
    shifts = problem.shifts()[1:] if hard else []

    def composed(x: Tensor, want: str) -> tuple[Callable[..., Jet], tuple[Tensor, ...]]:
        """u from the jets of the net at ``x`` and at other points, and these points."""
        if not hard:
            return lambda v: v, ()
        return problem.compose(x, want), tuple(x + x.new_tensor(shift) for shift in shifts)

    factor = 1 / math.sqrt(max(1, number))

    def equation(x: Tensor, weights: Tensor | None = None) -> Block:
        compose, others = composed(x, problem.want)

        def residual(*v: Jet, **unknowns: Tensor) -> Tensor:
            return call_residual(problem.residual, x, compose(*v), unknowns)

        name = problem.name or type(problem).__name__
        return Block(name, x, problem.want, residual, factor, others, weights, elsewhere=equation)

    rows = [equation(x, weights)]
    conditions = arguments.listed_conditions(problem, boundary)
    for condition in conditions[ranks.rank :: ranks.count]:
        points = ordinary(arguments.condition_points(problem, condition, counts).to(x))
        rows.append(_condition_block(condition, points, condition_weight * condition.weight, composed))
    return rows


def _condition_block(condition: Condition, x: Tensor, weight: float, composed: Callable) -> Block:
    here, others = composed(x, condition.want)
    u = here
    if condition.period is not None:
        beyond, single = x + x.new_tensor(condition.period), 1 + len(others)
        there, more = composed(beyond, condition.want)
        u = lambda *v: here(*v[:single]) - there(*v[single:])  # noqa: E731
        others = (*others, beyond, *more)
    function = lambda *v, **unknowns: call_residual(condition.residual, x, u(*v), unknowns)  # noqa: E731

    def elsewhere(x: Tensor) -> Block:
        return _condition_block(condition, x, weight, composed)

    factor = 1 / math.sqrt(max(1, len(x)))
    return Block(
        condition.name, x, condition.want, function, factor, others, weight=weight, kind="condition",
        elsewhere=elsewhere,
    )  # fmt: skip


def bumps_of(net: BumpNet, want: Want) -> Callable[[Tensor], Jet]:
    """The jet of a net, without boundary values, as a function of points [n, d] in float64."""
    return lambda x: net.jet(x.to(net.rows), want=want).map(Tensor.double)


class System(TrainedShapes):
    """Least-squares rows over the bumps of a net, in float64 whatever the net's dtype.

    R is the number of all rows; within a block they are ordered by equation, then by point.

    Parameters
    ----------
    blocks : list of Block
        Kinds of rows.
    net : BumpNet
        Gives layout, frame, dtype and device, and the shapes that are not trained; its other rows are not read.
    unknowns : mapping of str to float
        First guesses of the T unknowns of the equation.
    ranks : Ranks
        Ranks with further rows; the R rows here are this rank's.
    """

    def __init__(
        self,
        blocks: list[Block],
        net: BumpNet,
        unknowns: Mapping[str, float] | None = None,
        ranks: Ranks = ALONE,
    ):
        self.layout, self.frame, self.tied = net.layout, net.frame, net.tied
        self.dtype = net.rows.dtype
        self.hold_frozen(net)
        self.blocks, self.ranks = blocks, ranks
        self.names = tuple(unknowns or {})
        self.guesses = torch.tensor([*(unknowns or {}).values()], dtype=torch.float64, device=net.rows.device)
        self.maps = net.maps
        points = [[x.to(net.rows) for x in (block.x, *block.others)] for block in blocks]
        self._mapped = None if self.maps is None else [[self.maps.at(x) for x in places] for places in points]
        # in the coordinates of the bumps
        self._points = points if self._mapped is None else [[m.xi for m in places] for places in self._mapped]
        self._zero = [self._constant(block, 0.0) for block in blocks]
        named = self.named(None)
        pairs = [*zip(blocks, self._zero, strict=True)]
        self.equations = ranks.checked(lambda: [self._number(block, jets, named) for block, jets in pairs])
        self.size = sum(e * len(block.x) for e, block in zip(self.equations, blocks, strict=True))

    def _number(self, block: Block, zero: tuple[Jet, ...], named: dict[str, Tensor]) -> int:
        """Number of equations of a block at every point; ValueError if they are columns for the points."""
        number = block.rows(zero, named).shape[1]
        if number >= len(block.x) > 1:  # rare, except for columns
            generator = torch.Generator().manual_seed(0)
            check_broadcast(block, number, [self._constant(block, 1.0, generator) for _ in range(2)], named)
        return number

    def named(self, unknowns: Tensor | None = None) -> dict[str, Tensor]:
        """The unknowns of the equation by name; by default the first guesses."""
        values = self.guesses if unknowns is None else unknowns
        return dict(zip(self.names, values.unbind(), strict=True))

    @functools.cached_property
    def edges(self) -> EdgeLimit:
        """How thin edges of bumps may become beside the distances of the points of the equation."""
        x = self.blocks[0].x if self._mapped is None else self._points[0][0]
        return EdgeLimit(x, self.frame, self.layout, self.ranks)

    # --- residuals -----------------------------------------------------------------------------

    def jets(self, rows: Tensor) -> list[tuple[Jet, ...]]:
        """Jets of the net with the given rows [M, columns] at the points of every block, as float64."""
        rows = rows.to(self.dtype)

        def jet(block: Block, x: Tensor, mapped: Mapped | None) -> Jet:
            if mapped is None:
                return bump_jet(x, rows, self.frame, block.want, tied=self.tied).map(Tensor.double)
            inner = bump_jet(x, rows, self.frame, inner_want(block.want), tied=self.tied)
            return mapped.jet(inner, block.want).map(Tensor.double)

        return [
            tuple(jet(block, x, mapped) for x, mapped in zip(points, self._mapped_of(b), strict=True))
            for b, (block, points) in enumerate(zip(self.blocks, self._points, strict=True))
        ]

    def _mapped_of(self, b: int) -> Sequence[Mapped | None]:
        """The maps at the points of a block, or as many times None."""
        return [None] * len(self._points[b]) if self._mapped is None else self._mapped[b]

    def residual(self, jets: list[tuple[Jet, ...]] | None = None, unknowns: Tensor | None = None) -> Tensor:
        """All rows [R] at jets (by default of u = 0) and values of the unknowns [T] (by default the first guesses)."""
        named, pairs = self.named(unknowns), [*zip(self.blocks, jets or self._zero, strict=True)]
        return torch.cat(self.ranks.checked(lambda: [b.residual(js, named).flatten() for b, js in pairs]))

    def linearise(
        self, jets: list[tuple[Jet, ...]] | None = None, unknowns: Tensor | None = None
    ) -> tuple[Tensor, list[list[list[list[Coefficients]]]]]:
        """Rows [R] at the jets (by default of u = 0) and coefficients by block, equation, argument and output.

        Raises
        ------
        ValueError
            If some equation does not depend on the net at all.
        """
        named, pairs = self.named(unknowns), [*zip(self.blocks, jets or self._zero, strict=True)]
        parts = self.ranks.checked(lambda: [linearise(block, js, named) for block, js in pairs])
        return torch.cat([r.flatten() for r, _ in parts]), [coefficients for _, coefficients in parts]

    def sensitivity(self, jets: list[tuple[Jet, ...]], unknowns: Tensor) -> Tensor:
        """Derivatives [T, R] of the rows by the unknowns."""
        if not len(unknowns):
            return unknowns.new_empty(0, self.size)
        with torch.enable_grad():
            leaves = [value.detach().clone().requires_grad_() for value in unknowns]
            rows = self.residual(jets, torch.stack(leaves))
            # Reverse mode twice: the gradient is linear in the weights, with the wanted rows as its derivative.
            weights = torch.ones_like(rows, requires_grad=True)
            grads = torch.autograd.grad(rows @ weights, leaves, create_graph=True, allow_unused=True)
            columns = [torch.zeros_like(rows) if g is None else _derivative(g, weights) for g in grads]
        return torch.stack(columns).detach()

    def is_linear(self, declared: bool | None = None) -> bool:
        """Whether every row is affine in the jet, judged by its coefficients at two random jets.

        What is ``declared`` of the equation, the first block, is believed; conditions are looked at all the same.
        """
        if self.names or declared is False:
            return False
        blocks, named = self.blocks[0 if declared is None else 1 :], self.named()

        def coefficients(jets: list[tuple[Jet, ...]]) -> list:
            pairs = [*zip(blocks, jets, strict=True)]
            return self.ranks.checked(lambda: [linearise(block, js, named)[1] for block, js in pairs])

        first, second = self.samples(blocks)  # where u is large, a nonlinear term may count that else is rounding
        second = [tuple(jet.map(lambda part: _FAR * part) for jet in js) for js in second]
        flat = [[c for b in coefficients(jets) for e in b for a in e for k in a for c in k] for jets in (first, second)]

        def same(a: Tensor | None, b: Tensor | None) -> bool:
            return a is b if a is None or b is None else torch.allclose(a, b, 1e-9, 0.0, equal_nan=True)

        return self.ranks.every(all(same(a, b) for a, b in zip(*flat, strict=True)))

    def open_constants(self) -> list[int]:
        """The outputs that may be shifted by a constant without any row noticing.

        The coefficients of their values tell, in any units; a shift could be lost in rounding.
        """
        jets, named, found = self.samples(self.blocks)[0], self.named(), set(range(self.layout.outputs))
        pairs = [*zip(self.blocks, jets, strict=True)]
        parts = self.ranks.checked(lambda: [linearise(block, js, named)[1] for block, js in pairs])
        for by_argument in (equation for block in parts for equation in block):
            for k, by_output in enumerate(zip(*by_argument, strict=True)):
                values = [c[0] for c in by_output if c[0] is not None]
                if values and bool((sum(values).abs() > _SAME * sum(v.abs() for v in values)).any()):
                    found.discard(k)
        return [k for k in range(self.layout.outputs) if self.ranks.every(k in found)]

    def samples(self, blocks: Sequence[Block]) -> list[list[tuple[Jet, ...]]]:
        """Two random jets for each of the blocks."""
        generator = torch.Generator().manual_seed(0)
        return [[self._constant(block, 1.0, generator) for block in blocks] for _ in range(2)]

    def _constant(self, block: Block, size: float, generator: torch.Generator | None = None) -> tuple[Jet, ...]:
        n, k, d = len(block.x), self.layout.outputs, self.layout.dim
        level = WANTS.index(block.want)
        shapes = [(n, k), (n, k, d), (n, k, *second_shape(level, d))][: min(level, 2) + 1]

        def part(shape: tuple[int, ...]) -> Tensor:
            return torch.randn(shape, dtype=torch.float64, generator=generator) if size else torch.zeros(shape)

        arguments = range(1 + len(block.others))
        return tuple(Jet(block.want, *(part(shape).to(block.x) for shape in shapes)) for _ in arguments)

    # --- matrices ------------------------------------------------------------------------------

    def design(self, rows: Tensor, coefficients, derivatives: bool = False) -> tuple[Tensor, list]:
        """Derivatives of the linearised rows.

        Returns
        -------
        A : Tensor
            [M K, R] by the amplitudes.
        D : list
            By block, equation and output, [M, shape columns, n]: derivatives of the entries of A by
            the shape columns of the bump; empty unless ``derivatives``.
        """
        rows = rows.to(self.dtype)
        Phi, D = [], []
        for b, (block, by_equation) in enumerate(zip(self.blocks, coefficients, strict=True)):
            for by_argument in by_equation:
                pairs = [self._operator(block.want, b, cs, rows, derivatives) for cs in zip(*by_argument, strict=True)]
                Phi.append([phi for phi, _ in pairs])
                D.append([d for _, d in pairs])
        if len(Phi) == len(Phi[0]) == 1:
            return Phi[0][0].double(), D
        A = torch.cat([torch.stack(phis, 1) for phis in Phi], -1).double()
        return A.flatten(0, 1), D

    def _operator(self, want: Want, b: int, by_argument, rows: Tensor, derivatives: bool):
        """One row operator over the bumps, [M, n] and [M, shape columns, n], summed over the block's points."""
        Phi = D = None
        form = want if self._mapped is None else inner_want(want)
        for x, mapped, cs in zip(self._points[b], self._mapped_of(b), by_argument, strict=True):
            cs = tuple(None if c is None else c.to(self.dtype) for c in cs)
            if mapped is not None:
                cs = mapped.coefficients(cs, want)
            phi, d = bump_design(cs, x, rows, self.frame, form, tied=self.tied, derivatives=derivatives)
            Phi = phi.T if Phi is None else Phi.add_(phi.T)
            if derivatives:
                D = d.movedim(0, -1) if D is None else D.add_(d.movedim(0, -1))
        return Phi, D

    @staticmethod
    def applied(coefficients, jets: list[tuple[Jet, ...]]) -> Tensor:
        """The linearised rows [R] of a net, without their offset, from its jets."""
        rows = []
        for by_equation, of_block in zip(coefficients, jets, strict=True):
            for by_argument in by_equation:
                parts = [
                    (c * part[:, k]).reshape(len(part), -1).sum(1)
                    for by_output, jet in zip(by_argument, of_block, strict=True)
                    for k, cs in enumerate(by_output)
                    for c, part in zip(cs, jet.parts(), strict=True)
                    if c is not None and part is not None
                ]
                rows.append(sum(parts[1:], parts[0]))
        return torch.cat(rows)

    def shape_jacobian(self, D: list, amplitudes: Tensor, out: Tensor | None = None) -> Tensor:
        """Derivatives [M Q, R] of the rows by the Q shape columns of every bump, from ``amplitudes`` [M, K].

        ``D`` may be overwritten: it is as large as the result.
        """
        columns = self.layout.shape_columns
        if out is None and len(D) == len(D[0]) == 1 and D[0][0].dtype == torch.float64:
            return D[0][0].mul_(amplitudes[:, 0, None, None]).flatten(0, 1)
        if out is None:
            out = amplitudes.new_empty(len(amplitudes) * columns, self.size)
        target, start = out.view(len(amplitudes), columns, self.size), 0
        for by_output in D:
            stop = start + by_output[0].shape[-1]
            part = target[..., start:stop]
            torch.mul(by_output[0], amplitudes[:, 0, None, None], out=part)
            for k, d in enumerate(by_output[1:], start=1):
                part.addcmul_(d.double(), amplitudes[:, k, None, None])
            start = stop
        return out


def check_broadcast(block: Block, equations: int, jets: list[tuple[Jet, ...]], unknowns: dict[str, Tensor]) -> None:
    """Raise ValueError if the equations of a block are columns for its points, as [n, 1] combined with [n] gives.

    Called for blocks with at least as many equations as points.  With more than a few points these are never meant.
    With two equations at two points they may be; three signs tell.

    1. The rows of a point depend on the jet at another point: ``u.laplacian[:, 0] - f(x)[:, None]``.
    2. The number of equations depends on the number of points: ``u.laplacian - f(x)``.  A function with a
       table of values for its points may fail at fewer points, which proves nothing.
    3. As many columns as points differ by constants only: ``u.value - data``, with data [n].  Such equations contradict
       one another.

    At few points a table [n] that multiplies [n, 1] looks like n equations with coefficients of their own, and is not
    detected.

    Parameters
    ----------
    block : Block
        The rows.
    equations : int
        Number of equations at every point.
    jets : list of tuple of Jet
        Two samples of the arguments of its function, neither of them special.
    unknowns : dict of str to Tensor
        The unknowns of the equation by name.
    """
    n = len(block.x)
    with checking.undisturbed(block.x.device):
        few = None if n > _FEW_POINTS else _equations_of_few(block, jets[0], unknowns)
        if n > _FEW_POINTS or _by_other_points(block, jets[0], unknowns) or few not in (None, equations):
            found = True
        else:
            found = _columns_of_a_table(*(block.rows(js, unknowns).detach() for js in jets), exactly=few is not None)
    if found:
        wanted = f"[{n}] or [{n}, equations], got ({n}, {equations}): a column for every point"
        advice = f"with u.value, u.laplacian or u.d(i), which are [{n}, outputs], write f(x)[:, None] for values f(x)"
        advice = f"{advice} [{n}] of a function or a table; or write u.laplacian[:, 0]"
        raise ValueError(f"the residual of {block.kind} {block.name!r} must have shape {wanted}; {advice}")


def check_local(block: Block, jets: tuple[Jet, ...], unknowns: dict[str, Tensor]) -> None:
    """Raise ValueError if the rows of a block at a point depend on u at others, as with a mean or an integral."""
    if len(block.x) > 1 and _by_other_points(block, jets, unknowns):
        wanted = "must depend on u at that point only: the first row changes with u at other points"
        advice = "an integral of u can be imposed as one more output (docs/writing_a_problem.md)"
        raise ValueError(f"the residual of {block.kind} {block.name!r} at a point {wanted}; {advice}")


def _by_other_points(block: Block, jets: tuple[Jet, ...], unknowns: dict[str, Tensor]) -> bool:
    """Whether the rows of the first point depend on the jets at others."""
    with torch.enable_grad():
        leaves = [[t.detach().clone().requires_grad_() for t in jet.parts() if t is not None] for jet in jets]
        first = block.rows(tuple(Jet(block.want, *parts) for parts in leaves), unknowns)[0]
        if not first.requires_grad:
            return False
        flat = [t for parts in leaves for t in parts]
        grads = torch.autograd.grad(first @ torch.arange(1, len(first) + 1).to(first), flat, allow_unused=True)
    return any(g is not None and bool(g[1:].nan_to_num(0.0).any()) for g in grads)


def _equations_of_few(block: Block, jets: tuple[Jet, ...], unknowns: dict[str, Tensor]) -> int | None:
    """Number of equations at the first points alone; None if the function cannot do that."""
    if block.elsewhere is None:
        return None
    few = 1 if len(block.x) == 2 else 2
    try:
        there = block.elsewhere(block.x[:few])
        return there.rows(tuple(jet.map(lambda t: t[:few]) for jet in jets), unknowns).shape[1]
    except Exception:  # a user's function may raise anything where its tables do not fit
        return None


def _columns_of_a_table(a: Tensor, b: Tensor, exactly: bool) -> bool:
    """Whether n columns of rows [n, E] change alike between two samples, but are not equal.

    With ``exactly`` they must differ by the same constant at all points.
    """

    def alike(t: Tensor) -> Tensor:
        return ((t - t[:, :1]).abs() <= 1e-9 * (a.abs() + b.abs() + (a + b)[:, :1].abs())).all(0)

    for _ in range(_KINDS_OF_COLUMNS):
        if a.shape[1] < len(a):
            break
        group = alike(a - b)
        apart = (a - a[:, :1])[:, group]
        if int(group.sum()) >= len(a) and not bool(alike(a)[group].all()):
            constant = (apart - apart[:1]).abs() <= 1e-9 * a.abs().amax()
            if not exactly or bool(constant.all()):
                return True
        group[0] = True  # also where a NaN equals nothing
        a, b = a[:, ~group], b[:, ~group]
    return False


def linearise(block: Block, jets: tuple[Jet, ...], unknowns: dict[str, Tensor]):
    """Rows [E, n] of a block at the given jets, and their coefficients by equation, argument and output."""
    with torch.enable_grad():
        leaves = [[t.detach().requires_grad_() for t in jet.parts() if t is not None] for jet in jets]
        residual = block.residual(tuple(Jet(block.want, *parts) for parts in leaves), unknowns)
        if not residual.requires_grad:
            raise ValueError(f"the residual of {block.kind} {block.name!r} does not depend on u")
        flat, per_jet = [t for parts in leaves for t in parts], len(leaves[0])
        grads = [torch.autograd.grad(e.sum(), flat, retain_graph=True, allow_unused=True) for e in residual]
    outputs, starts = range(jets[0].value.shape[1]), range(0, len(flat), per_jet)
    by_equation = [
        [[_of_output(by[at : at + per_jet], k, block.want) for k in outputs] for at in starts] for by in grads
    ]
    return residual.detach(), by_equation


def _derivative(function: Tensor, by: Tensor) -> Tensor:
    return torch.autograd.grad(function, by, retain_graph=True)[0]


def _of_output(grads: tuple[Tensor | None, ...], k: int, want: str) -> Coefficients:
    c0, c1, c2 = [*(None if g is None else g[:, k] for g in grads), None, None][:3]
    if want == "hessian" and c2 is not None:
        c2 = 0.5 * (c2 + c2.transpose(-1, -2))  # a residual may read only one of two equal entries
    return c0, c1, c2


def collocation(
    problem: Problem, net: BumpNet, points, kind: str, seed: int, ranks: Ranks = ALONE
) -> tuple[Tensor, tuple[int, ...]]:
    """Points [N, d] for the equation, and the numbers per axis that suit the conditions.

    ``points`` is their number, the numbers per axis, the points themselves, or None for those of the problem or else
    five points per parameter.  A number is distributed so that along each axis points are as dense as bumps.  Several
    ranks share the points; a tensor of points is a rank's own.
    """
    points = problem.points if points is None else points
    x, counts = ranks.checked(lambda: _collocation(problem, net, points, kind, seed, ranks))
    if isinstance(points, Tensor) and not ranks.alone:
        counts = arguments.counts(ranks.number(len(x)), 0, problem.domain, net)
    return x, counts


def _collocation(problem: Problem, net: BumpNet, points, kind: str, seed: int, ranks: Ranks):
    domain = problem.domain
    if isinstance(points, Tensor):
        arguments.check_points(points, net.layout.dim)
        return ordinary(points).double().to(net.rows.device), arguments.counts(len(points), 0, domain, net)
    counts = arguments.counts(points, 5 * free_parameters(net), domain, net)
    x = sampling.interior(domain, counts, kind, seed)
    x = x[arguments.inside(problem, x)]
    if not len(x):
        raise ValueError(f"no point of {counts} in the box is inside the domain of problem {problem.name!r}")
    if len(x) < ranks.count:
        raise ValueError(f"points must be at least one for each of {ranks.count} ranks, got {len(x)}")
    return ranks.share(x).to(net.rows.device), counts
