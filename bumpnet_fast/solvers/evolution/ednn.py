"""Bump-EDNN: evolution problems, solved by bumps of fixed shapes with moving amplitudes.

The initial values are fitted once, and the basis is factorised once.  u_t = rhs is then an ordinary differential
equation for the amplitudes.  Its linearity and stiffness decide how it is integrated.
"""

from __future__ import annotations

import functools
import math
import os
import time
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...core import checking
from ...core.files import CheckpointError
from ...core.maps import refuse_maps
from ...core.rows import bounded_atanh
from ...nets.bumpnet import BumpNet
from ...nets.frozen import some_frozen
from ...problems.evolution.base import EvolutionProblem
from ...problems.sampling import lattice
from .. import run_state
from ..arguments import check, check_data, check_net, choice, positive
from ..grad_mode import differentiating
from ..loop import Callback, Run, Stop, StopReason
from ..report import LARGE_ERROR
from ..solution import errors
from ..threads import few_threads
from .basis import Space, quadrature, uniform_net
from .method import METHODS, Advance, check_method
from .models import FixedBasis, MovingBasis, Report, fitted_shapes
from .older import from_version_2
from .report import ADVICE, POOR_RESIDUAL, by_error, doubts, missed
from .result import ROUNDING, Evolution
from .stated import check_error, evolve_to
from .task import Evolving

SHAPES = ("frozen", "evolve")
INITIAL_SHAPES = ("uniform", "fit")
#: Arguments of :func:`evolve`.
_RULES = {
    "step": positive(optional=True),
    "tolerance": positive(optional=True),
    "shapes": choice(*SHAPES),
    "initial_shapes": choice(*INITIAL_SHAPES),
    "ridge": positive(),
}

#: Default tolerances in time.  Moving shapes cost more, and other errors limit their accuracy.
_TOLERANCE, _TOLERANCE_MOVING = 1e-8, 1e-3
#: Factor by which bumps may widen before their images no longer add up to rounding.
_SLACK = 1.5
#: Points along each axis at which the values on the faces are checked.
_ON_FACES = 17
#: Largest number of output times; all states are kept.
_TIMES_MOST = 10_000_000


@differentiating
def evolve(
    problem: EvolutionProblem,
    net: BumpNet | int | tuple[int, ...] | None = None,
    *,
    error: float | None = None,
    method: str = "auto",
    step: float | None = None,
    tolerance: float | None = None,
    times: int | Sequence[float] = 50,
    points: int | tuple[int, ...] | Tensor | None = None,
    shapes: str = "frozen",
    initial_shapes: str | None = None,
    ridge: float = 1e-8,
    stop: Stop | None = None,
    max_seconds: float | None = None,
    measure: bool = True,
    checkpoint: str | os.PathLike | run_state.Store | None = None,
    every_seconds: float = run_state.EVERY,
    callbacks: Iterable[Callback] = (),
    callback: Callback | None = None,
) -> Evolution:
    """Solve an evolution problem from its initial values.

    Ctrl-C, or a callback that raises KeyboardInterrupt, ends the run early.  A solution that is not finite, or grows
    beyond what the problem allows, ends it as well (``StopReason.UNSTABLE``).  The states up to the last good time are
    returned.

    Parameters
    ----------
    problem : EvolutionProblem
        What to solve.
    net : BumpNet, int or tuple of int, optional
        A net, whose shapes are the basis and which is not changed; or the number of bumps for :func:`uniform_net`.
        Bumps must not be rotated if an axis is periodic.
    error : float, optional
        In one space dimension: the relative L2 error that u may have at any time.  Bumps, their places and widths, the
        integrator and its tolerance are then chosen, as u changes, and the bumps follow it.  Finer and finer levels are
        solved until the change to the next one says that the error is reached.  ``stop`` says whether it was.  Only
        ``times``, ``stop``, ``max_seconds`` and callbacks can be given beside it.
    method : str
        "auto" chooses by linearity and stiffness.  "expm" is exact, for linear problems constant in time; "cn",
        Crank-Nicolson, is for linear ones; "rk4" and "dop853" are explicit; "etdrk4" is for a stiff linear part;
        "radau" and "bdf" are implicit.  Any other name is a method of torchdiffeq, such as "dopri5", if that is
        installed.
    step : float, optional
        Length of the steps; by default the tolerance chooses it.  "expm" needs none.  For "dop853", "radau" and "bdf"
        it is the longest step.  Methods of torchdiffeq with fixed steps use it.
    tolerance : float, optional
        Allowed error in time, relative to the size of u: by default 1e-8, and 1e-3 for moving shapes.
    times : int or sequence of float
        Output times after 0: a number of equal intervals up to the problem's final time, or the times themselves.
    points : int, tuple of int, or Tensor, optional
        Collocation points, see :func:`~bumpnet_fast.solvers.evolution.basis.quadrature`.
    shapes : str
        "frozen": fixed shapes.  "evolve": all parameters move, at a far higher cost ("rk4" and torchdiffeq only).
    initial_shapes : str, optional
        "uniform" uses the net as it is: the default for fixed shapes.  "fit" first trains the shapes on the initial
        values: the default for moving shapes.  With fixed shapes use "fit" only if the solution keeps its form.
    ridge : float
        For moving shapes: weight of the squares of their scaled rates in the least squares.
    stop : Stop, optional
        Limits on the number of output times, and on the seconds of this session, including the setup.  Work beyond the
        last output time reached is lost.
    max_seconds : float, optional
        Shorthand for ``stop=Stop(seconds=max_seconds)``.
    measure : bool
        Whether to measure the error at the end against a computed reference if there is no exact solution.
    checkpoint : str or path, optional
        File for the state of the run at one of the output times; see :func:`bumpnet_fast.resume`.
    every_seconds : float
        Shortest time between two writes of that file; it is also written whenever the run ends.
    callbacks : iterable of callable, optional
        Each is called with a :class:`Progress` at every output time; ``callback`` is one more.  Its ``entry`` is that
        of the history, see :class:`Evolution`.

    Returns
    -------
    Evolution

    Raises
    ------
    ValueError
        Before any computing, if an argument is out of range, net and problem do not fit, or the method cannot solve the
        problem.  Also if the initial values or their right-hand side are not finite.
    TypeError
        If ``problem`` is not an evolution problem, or a limit is given twice.
    ModuleNotFoundError
        If the method is one of torchdiffeq, and that is not installed.

    Notes
    -----
    Evolutional networks: Du and Zaki, arXiv:2104.14320; with bumps, arXiv:2512.17198.  Everything is computed in
    float64, whatever the dtype of the net.  docs/evolution.md has measurements.

    Examples
    --------
    >>> from bumpnet_fast.problems.evolution import Heat
    >>> run = evolve(Heat(), 20)
    >>> run.method, run.stop_reason, run.rel_l2 < 1e-6
    ('expm', 'finished', True)
    >>> run.predict(torch.zeros(3, 1), 0.25).shape
    torch.Size([3, 1])

    To a stated error:

    >>> run = evolve(Heat(), error=1e-6)
    >>> run.stop_reason, run.rel_l2 < 1e-6
    ('error reached', True)
    """
    started = time.perf_counter()
    with torch.no_grad():
        if not isinstance(problem, EvolutionProblem):
            raise TypeError(f"problem must be an EvolutionProblem, got {type(problem).__name__}")
        stop = _stop(stop, max_seconds)
        ends = _times(times, problem.final_time)
        if error is not None:
            given = {
                "net": net, "method": method, "step": step, "tolerance": tolerance, "points": points,
                "shapes": shapes, "initial_shapes": initial_shapes, "checkpoint": checkpoint,
            }  # fmt: skip
            check_error(problem, error, given)
            return evolve_to(problem, error, ends, stop, _all(callbacks, callback), started)
        if problem.sloped:
            given = f"problem {problem.name!r} gives slopes at its ends (boundary_slopes)"
            raise ValueError(f"{given}, which evolve can impose only where error is given")
        settings = {
            "method": method, "step": step, "tolerance": tolerance, "times": ends, "points": points, "shapes": shapes,
            "initial_shapes": _initial(shapes) if initial_shapes is None else initial_shapes, "ridge": ridge,
            "measure": measure,
        }  # fmt: skip
        check(_RULES, settings)
        check_method(method, shapes == "evolve", step)
        net = net if isinstance(net, BumpNet) else uniform_net(problem, net)
        check_net(problem, net)
        refuse_maps(net, "evolve")
        if shapes == "evolve" or settings["initial_shapes"] == "fit":
            _check_trainable(net)
        x, weights = quadrature(problem, net, points)
        check_data(problem, "hard", x, (_ON_FACES,) * len(problem.lower))
        if tolerance is None:
            tolerance = _TOLERANCE if shapes == "frozen" else _TOLERANCE_MOVING
        advance = Advance(method, step, tolerance, len(ends))
        stop.limits([advance])
        content = functools.partial(run_state.content, "evolve", problem, net, settings)
        store = run_state.opened(checkpoint, every_seconds, content)
        callbacks = _all(callbacks, callback)
        with store, few_threads(len(x) * len(net.rows)):
            net, model = _begun(problem, net, x, weights, settings, store)
            work = Evolving(model, net, ends, started)
            run = Run(work, [advance], stop, callbacks, store, started)
            if not run.done + 1 == len(work.times) == max(1, len(run.history)):
                raise CheckpointError(f"{store.path} is damaged: its times and its history do not fit together")
            reason = run.follow()
            return _evolution(run, reason, measure)


def _all(callbacks: Iterable[Callback], callback: Callback | None) -> tuple[Callback, ...]:
    return (*callbacks, *([] if callback is None else [callback]))


def _initial(shapes: str) -> str:
    return "uniform" if shapes == "frozen" else "fit"


def _stop(stop: Stop | None, max_seconds: float | None) -> Stop:
    positive(optional=True).check("max_seconds", max_seconds)
    if stop is None:
        return Stop(seconds=max_seconds)
    if not isinstance(stop, Stop):
        raise TypeError(f"stop must be a Stop, got {type(stop).__name__}")
    if max_seconds is not None:
        raise TypeError("max_seconds must go into stop, which is given as well")
    return stop


def _begun(
    problem: EvolutionProblem, net: BumpNet, x: Tensor, weights: Tensor, settings: dict[str, Any],
    store: run_state.Store,
) -> tuple[BumpNet, FixedBasis | MovingBasis]:  # fmt: skip
    """The net and the model to start with: shapes fitted to the initial values, or those of the resumed run."""
    frozen, fitted = settings["shapes"] == "frozen", settings["initial_shapes"] == "fit"
    net = net if frozen else _roomy(problem, net)
    space = Space.of(problem, net, slack=1.0 if frozen and not fitted else _SLACK)
    rows = net.rows.detach().double()
    with store.reading() as state:
        if state is not None:
            store.state = state if "work" in state else from_version_2(state)
            rows = store.state["work"]["rows"].to(x)
    if fitted and store.state is None:
        rows = fitted_shapes(space, rows, x, weights)
    model = (FixedBasis if frozen else MovingBasis)(space, rows, x, weights, settings["ridge"])
    if not bool(torch.isfinite(model.slope(0.0, model.state)).all()):
        found = checking.not_finite(model.rhs(0.0, model.jet(model.state)), x)
        where = f": {found}" if found else ""
        raise ValueError(f"the right-hand side of problem {problem.name!r} is not finite at the start{where}")
    return net, model


def _evolution(run: Run, reason: StopReason, measure: bool) -> Evolution:
    work, advance, entries = run.work, run.method, len(run.history)
    if not entries:  # interrupted before the first evaluation
        raise KeyboardInterrupt
    model, problem = work.model, work.problem
    times, reports = work.times[:entries], work.reports[:entries]  # an interrupt may come before the look at a step
    x = lattice(problem.domain).to(model.x)
    known = problem.reference(x, times[-1]) if measure else problem.exact(x, times[-1])
    rel_l2 = max_error = None
    if known is not None:
        rel_l2, max_error = errors(model.space.jet(x, reports[-1].rows, "value").value, known)
    result = Evolution(
        net=work.net, problem=problem, history=run.history, stop=reason, seconds=advance.seconds,
        processor_seconds=run.processor_seconds, warnings=list(run.warnings),
        times=torch.tensor(times, dtype=torch.float64), states=torch.stack([r.rows for r in reports]),
        rates=torch.stack([r.rates for r in reports]), space=model.space, fit_error=model.fit_error, rel_l2=rel_l2,
        max_error=max_error, setup_seconds=advance.setup_seconds, steps=advance.marcher.steps, stages=model.stages,
        solve_seconds=work.solve_seconds, method=advance.name,
        shapes="frozen" if isinstance(model, FixedBasis) else "evolve",
    )  # fmt: skip
    return _warned(result, model, reports)


def _warned(run: Evolution, model: FixedBasis | MovingBasis, samples: list[Report]) -> Evolution:
    """The evolution, with what looks wrong: by its error where that is known, else by an estimate if in doubt."""
    times = run.times.tolist()
    run.warnings += doubts(model, times, samples)
    share, doubtful = missed(model, times, samples)
    if run.rel_l2 is not None:
        if not run.rel_l2 <= LARGE_ERROR:
            run.warnings.append(f"the error at the end is {run.rel_l2:.1%} of u: {ADVICE}")
    elif doubtful and run.stop is StopReason.FINISHED:
        run.warnings += by_error(run, run.error_estimate)
    elif share > POOR_RESIDUAL:
        run.warnings.append(f"the bumps cannot follow u_t (they miss up to {share:.0%} of it): use more")
    return run


def _times(times: int | Sequence[float], final: float) -> list[float]:
    if isinstance(times, int) and not isinstance(times, bool):
        if times < 1:
            raise ValueError(f"times must be at least 1, or ascending and above 0, got {times!r}")
        if times > _TIMES_MOST:
            raise ValueError(f"times must be at most {_TIMES_MOST:,}, as the states at all are kept, got {times!r}")
        return [*(final * i / times for i in range(1, times)), final]  # final * times / times may miss it by rounding
    try:
        ends = [float(t) for t in times]
    except (TypeError, ValueError):
        raise ValueError(f"times must be an integer, or ascending numbers above 0, got {times!r}") from None
    ends = ends[1:] if ends[:1] == [0.0] else ends
    if ends and abs(ends[-1] - final) <= ROUNDING * math.ulp(final):
        ends[-1] = final
    if not ends or not all(a < b < math.inf for a, b in zip([0.0, *ends], ends, strict=False)):
        raise ValueError(f"times must be an integer, or ascending numbers above 0, got {times!r}")
    return ends


def _check_trainable(net: BumpNet) -> None:
    if some_frozen(net):
        still = int((~net.trainable).sum())
        advice = f"{still} of its bumps are not trained (net.trainable); use shapes='frozen', initial_shapes='uniform'"
        raise ValueError(f"shapes='evolve' and initial_shapes='fit' move all bumps of net, and {advice}")


def _roomy(problem: EvolutionProblem, net: BumpNet) -> BumpNet:
    """The same bumps in a box enlarged by a period on either side along periodic axes, for moving centres."""
    domain, frame, rows = problem.domain.to(net.frame), net.frame.clone(), net.rows.detach().clone()
    centres = net.centres.detach()
    for j in problem.periodic_axes:
        width = domain[1, j] - domain[0, j]
        frame[0, j], frame[1, j] = domain[0, j] - width, domain[1, j] + width
        rows[:, j] = bounded_atanh((2 * centres[:, j] - frame[0, j] - frame[1, j]) / (frame[1, j] - frame[0, j]))
    return BumpNet.from_rows(rows, frame, net.domain, net.tied)


__all__ = ["INITIAL_SHAPES", "METHODS", "SHAPES", "Evolution", "evolve"]
