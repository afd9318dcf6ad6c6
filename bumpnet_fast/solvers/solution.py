"""Results of solvers: a net, how it was trained, why the run ended, and u at any points."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core import checking
from ..core.functional import bump_jet
from ..core.jet import Jet
from ..core.types import Boundary, Want
from ..nets.bumpnet import BumpNet
from ..nets.events import Event
from ..nets.patches import PatchNet
from ..problems.base import Problem, call_residual
from ..problems.sampling import lattice
from .arguments import integer
from .enriching import Joined, joined
from .estimate import ErrorEstimate, Places, Stage, estimate_seconds, estimated
from .loop import StopReason
from .report import Report

#: Added bumps are kept if the held-out residual falls to a smaller share.
_FALLS = 0.9


def as_points(
    x: Any, like: Tensor, dim: int | None = None, name: str = "x", shape: str = "[N, {d}]"
) -> tuple[Tensor, torch.dtype]:
    """Points [N, d] from a tensor, an array or nested lists, in the dtype of ``like``; and the dtype of the result.

    With ``dim`` they must have so many coordinates.  ``name`` and ``shape`` are for messages: other matrices are read
    in the same way.

    Raises
    ------
    TypeError
        If they are not real numbers.
    ValueError
        If they have another shape.
    """
    given = x if isinstance(x, Tensor) else torch.as_tensor(np.asarray(x))  # torch would round lists to float32
    if given.is_complex() or given.dtype == torch.bool:
        raise TypeError(f"{name} must be of real numbers, got {given.dtype}")
    if given.dim() != 2 or dim not in (None, given.shape[1]):
        raise ValueError(f"{name} must have shape {shape.format(d=dim or 'd')}, got {tuple(given.shape)}")
    return given.to(like), given.dtype if given.is_floating_point() and hasattr(x, "dtype") else like.dtype


@dataclass(kw_only=True)
class Result:
    """The base class of all results.

    Attributes
    ----------
    net
        The trained net.
    problem
        The solved problem.
    history : list of dict
        An entry for every evaluation of the loss, with ``iteration``, ``seconds`` and ``loss``.
    stop : StopReason
        Why the run ended; ``stop.message`` explains it.
    method : str
        Name of the method.
    rel_l2 : float or None
        Relative L2 error, where known.
    seconds, processor_seconds : float
        Time by the clock, and processor time of all threads; all sessions of a resumed run together.
    warnings : list of str
        What looks wrong, and what to do about it.
    """

    net: Any
    problem: Any
    history: list[dict[str, Any]] = field(repr=False)
    stop: StopReason
    method: str = ""
    rel_l2: float | None = None
    seconds: float
    processor_seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.stop = StopReason(self.stop)

    @property
    def stop_reason(self) -> str:
        """The word of :attr:`stop`."""
        return self.stop.value

    @property
    def nets(self) -> list[BumpNet]:
        """All nets of bumps in the result."""
        return [self.net]


@dataclass(kw_only=True)
class FieldResult(Result):
    """A result that is a function u of points: call it, or ask for its jet.

    Attributes
    ----------
    boundary : str
        Boundary enforcement: "hard" or "soft".
    loss : float
        Mean square of the scaled residual, plus weighted conditions and the ridge.
    rel_l2, max_error : float or None
        Errors against the exact solution, where known, on a regular grid over the domain (101 x 101 in 2D).
    iterations : int
        Number of accepted steps.
    unknowns : dict of str to float
        Values found for the unknowns of the equation.
    events : list of Event
        Bumps added and removed during the run.
    """

    boundary: Boundary
    loss: float
    max_error: float | None = None
    iterations: int = 0
    unknowns: dict[str, float] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)

    def jet(self, x: Tensor, want: Want = "hessian") -> Jet:
        """Value and derivatives of u at the points ``x`` [N, d]; ``want`` as for :meth:`bumpnet_fast.BumpNet.jet`."""
        raise NotImplementedError

    def predict(self, x: Any, *, grad: bool = False) -> Tensor:
        """The solution [N, K] at points.

        Parameters
        ----------
        x : Tensor, array or nested lists
            [N, d], of any real dtype.  The result has the dtype of a floating-point ``x``, else that of the net.
        grad : bool
            Whether the result can be differentiated by ``x`` and the parameters.
        """
        points, dtype = as_points(x, self.like, len(self.problem.lower))
        with torch.set_grad_enabled(grad):
            return self.jet(points, "value").value.to(dtype)

    def __call__(self, x: Any) -> Tensor:
        """As :meth:`predict`."""
        return self.predict(x)

    # --- how good it is --------------------------------------------------------------------------

    @property
    def error_estimate(self) -> ErrorEstimate:
        """How large the error of u is, without an exact solution: see docs/trust.md.

        It is computed when it is first asked for, and kept.  That takes about 0.2 s of the processor at most, for every
        window of a march, or a fifth of what the solve took.  Where more would be needed it says so.
        """
        if "_error_estimate" not in vars(self):
            known, stages = vars(self).get("_known_estimate", (None, self.stages))
            stages = stages()
            self._error_estimate = estimated(stages, estimate_seconds(self.processor_seconds, len(stages)), known=known)
        return self._error_estimate

    @error_estimate.setter
    def error_estimate(self, estimate: ErrorEstimate) -> None:
        self._error_estimate = estimate

    def know_error(self, estimate: ErrorEstimate, coarse: Callable[[], Stage]) -> None:
        """Set what the solver knows of the error; :attr:`error_estimate` then tells whether u is the only solution.

        Parameters
        ----------
        estimate : ErrorEstimate
            If it is not reliable, it is computed as usual.
        coarse : callable
            Gives u with an error that is not rounding, from which other solutions are looked for.
        """
        if estimate.reliable:
            self._known_estimate = estimate, lambda: [coarse()]

    def estimate_error(self, *, bumps: int | None = None, seed: int = 0) -> ErrorEstimate:
        """As :attr:`error_estimate`, computed anew, however long it takes.

        Parameters
        ----------
        bumps : int, optional
            Smooth bumps that are added to the net, and twice as many for the check; by default as many as suit the
            dimension, and more until the check is passed.
        seed : int
            Of the added bumps and of the points.
        """
        integer(1, optional=True).check("bumps", bumps)
        integer().check("seed", seed)
        return estimated(self.stages(), bumps=bumps, seed=seed)

    def estimated_error(self, x: Any) -> Tensor:
        """What is missing from u at points, [N, K]: the better solution of :attr:`error_estimate` minus u.

        NaN where there is no estimate.  It is as reliable as the estimate is.

        Parameters
        ----------
        x : Tensor, array or nested lists
            [N, d]; as for :meth:`predict`.
        """
        points, _ = as_points(x, self.like.detach().double(), len(self.problem.lower))
        with torch.no_grad():
            u, enriched = self.predict(points), self.error_estimate.enriched
            return self._over_time(enriched, points, "value").value - u if enriched else torch.full_like(u, math.nan)

    def residual(self, x: Any) -> Tensor:
        """The residual of all equations at points, [N, E], as the problem writes it.

        Parameters
        ----------
        x : Tensor, array or nested lists
            [N, d]; as for :meth:`predict`.
        """
        points, _ = as_points(x, self.like.detach().double(), len(self.problem.lower))
        with torch.no_grad():
            u = self.jet(points.to(self.like), self.problem.want).map(Tensor.double)
            named = {name: points.new_tensor(value) for name, value in self.unknowns.items()}
            return call_residual(self.problem.residual, points, u, named).reshape(len(points), -1)

    def report(self, *, estimate: bool = True) -> Report:
        """What is known about the quality of the solution, as a table: ``print(solution.report())``.

        Parameters
        ----------
        estimate : bool
            Whether to estimate the error of u, unless that is done already.
        """
        return Report.of(self, estimate)

    def _over_time(self, parts: Sequence[Any], x: Tensor, want: Want) -> Jet:
        """The jet of a function that is given by window of time."""
        return parts[0].jet(x, want)

    def stages(self) -> list[Stage]:
        """What was solved, one after the other in time."""
        raise NotImplementedError

    @property
    def like(self) -> Tensor:
        """A tensor with the dtype and device of computations at points."""
        return self.net.rows


@dataclass(kw_only=True)
class Solution(FieldResult):
    """A trained net, and how it was trained.

    Attributes
    ----------
    net : BumpNet or PatchNet
        The net that was given, with the best rows found; with ``error`` it may be one of patches.
    places : Places, optional
        Where it was solved, for :attr:`error_estimate` and :meth:`report`; not saved.
    """

    net: BumpNet | PatchNet
    problem: Problem
    places: Places | None = field(default=None, repr=False, compare=False)

    def stages(self) -> list[Stage]:
        return [Stage(self.problem, self.net, self.boundary, self.unknowns, self.places)]

    def enrich(self, bumps: int | None = None, *, seed: int = 0) -> Solution:
        """A better solution: smooth bumps are added to the net, and all amplitudes and unknowns solved for once more.

        A few trained bumps hold what is sharp, and a background of smooth ones, whose amplitudes alone are solved for,
        holds all the rest: often ten to a thousand times better, for one linear solve (docs/choosing.md).  The
        amplitudes of such a background cancel, so it is for float64.

        Parameters
        ----------
        bumps : int, optional
            About how many are added; by default as many as suit the dimension, 200 in two.
        seed : int
            Of the added bumps and of the points.

        Returns
        -------
        Solution
            With a new net in float64, whose first rows are those of the present one; the others are not trained if it
            is trained on (:attr:`~bumpnet_fast.BumpNet.trainable`).  It is the present solution, with a warning, if the
            residual at points that nothing was solved on does not fall.

        Raises
        ------
        ValueError
            For an invalid number of bumps or seed, a net of patches, or a net with a scale of its own that is far from
            the usual one.

        Examples
        --------
        >>> from bumpnet_fast import problems
        >>> from bumpnet_fast.solvers import solve
        >>> solution = solve(problems.get("poisson"), (4, 4), iterations=10)
        >>> better = solution.enrich()
        >>> better.rel_l2 < 0.01 * solution.rel_l2, len(better.net.rows) > 200
        (True, True)
        """
        integer(1, optional=True).check("bumps", bumps)
        integer().check("seed", seed)
        if isinstance(self.net, PatchNet):
            raise ValueError("a solution over patches cannot be enriched: solve with a smaller error")
        started, clock = time.process_time(), time.perf_counter()
        (stage,) = self.stages()
        found = joined(stage, bumps, seed)
        if not found.fall < _FALLS:
            why = "the residual between the points did not fall with smooth bumps, so none were added"
            return replace(self, warnings=[*self.warnings, f"{why}: they do not reach the features of u"])
        return replace(self.over(found, started, clock), stop=StopReason.SOLVED)

    @torch.no_grad()
    def over(self, found: Joined, started: float, clock: float) -> Solution:
        """This solution over a larger net that was found since ``started`` of the processor, and ``clock``."""
        rel_l2, max_error = NetErrorMeasure(self.problem, found.net, self.boundary).of(found.net.rows.detach())
        return replace(
            self, net=found.net, unknowns=found.unknowns, places=found.places, loss=found.loss, rel_l2=rel_l2,
            max_error=max_error, method=f"{self.method}+enrich",
            processor_seconds=self.processor_seconds + time.process_time() - started,
            seconds=self.seconds + time.perf_counter() - clock,
        )  # fmt: skip

    def jet(self, x: Tensor, want: Want = "hessian") -> Jet:
        """Jet of the solution at the points ``x`` [N, d], boundary values included."""
        return self.problem.extend(lambda x: self.net.jet(x, want=want), x, want, self.boundary)


class ErrorMeasure:
    """Relative L2 and maximum error on a lattice over a domain, against the reference; None and None if there is none.

    Parameters
    ----------
    problem : Problem
        Gives the domain and the reference.
    device : torch.device
        Where to compute.
    """

    def __init__(self, problem: Problem, device: torch.device):
        x = lattice(problem.domain)
        self.x = x[problem.inside(x)].to(device)
        exact = problem.reference(self.x)
        if exact is not None:
            name = "exact" if type(problem).reference is Problem.reference else "reference"
            checking.check_shape(checking.called(name, problem), exact, len(self.x), problem.outputs, one_for_all=False)
        self.exact = None if exact is None else exact.reshape(len(self.x), -1)

    def __call__(self, u: Callable[[Tensor], Tensor]) -> tuple[float | None, float | None]:
        """The errors of ``u`` [N, K] at the lattice points [N, d]."""
        if self.exact is None:
            return None, None
        return errors(u(self.x).double(), self.exact)


def errors(values: Tensor, known: Tensor) -> tuple[float, float]:
    """Relative L2 error (absolute where ``known`` [N, K] is zero) and maximum error of ``values``."""
    difference = values - known.reshape(values.shape)
    size = float(torch.linalg.vector_norm(known)) or 1.0
    return float(torch.linalg.vector_norm(difference)) / size, float(difference.abs().max())


class NetErrorMeasure(ErrorMeasure):
    """The errors of many rows of one net, one after the other, boundary values included."""

    def __init__(self, problem: Problem, net: BumpNet, boundary: str):
        super().__init__(problem, net.rows.device)
        self.net, hard = net, boundary == "hard"
        self.compose = problem.compose(self.x, "value") if hard else None
        self.shifts = problem.shifts() if hard else [(0.0,) * net.layout.dim]

    def of(self, rows: Tensor) -> tuple[float | None, float | None]:
        """The errors with these rows [M, columns]."""

        def u(x: Tensor) -> Tensor:
            at, net = rows.to(self.net.rows), self.net
            places = [(x + x.new_tensor(shift)).to(at) for shift in self.shifts]
            places = places if net.maps is None else [net.maps.at(x).xi for x in places]
            jets = [bump_jet(x, at, net.frame, "value", tied=net.tied).map(Tensor.double) for x in places]
            return (self.compose(*jets) if self.compose else jets[0]).value

        return self(u)


__all__ = ["ErrorMeasure", "FieldResult", "NetErrorMeasure", "Result", "Solution", "as_points", "errors"]
