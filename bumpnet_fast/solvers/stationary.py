"""Solve a problem with a net: options, method and run."""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from ..core.types import Boundary, MethodName, Sampling
from ..nets.bumpnet import BumpNet
from ..problems.base import Problem
from ..problems.sampling import KINDS
from . import run_state
from .arguments import check, check_fit, check_options, check_problem, choice, integer, positive
from .enriched import check_enrich, enriched
from .grad_mode import differentiating
from .levenberg_marquardt import LeastSquares
from .linear import POINTS, Linear, solved
from .loop import Callback, Method, Run, Stop, StopReason
from .refine import ROUNDS
from .report import at_the_start, doubts
from .restarts import restarted
from .solution import Solution
from .starting import Start, check_start, first_rows, trivial
from .task import Task
from .threads import few_threads
from .to_error import check_frozen, if_alone, is_linear, trained_as_well
from .to_size import check_sized, sized

#: Arguments of :func:`solve` beside a method's own options.
_RULES = {
    "sampling": choice(*KINDS),
    "condition_weight": positive(),
    "refine": integer(optional=True),
    "seed": integer(),
    "restarts": integer(),
}

#: Change of the shapes of a new net, relative to their sizes.
_TRACE = 1e-9


@differentiating
def solve(
    problem: Problem,
    net: BumpNet | int | tuple[int, ...] | None = None,
    *,
    method: MethodName | str | Method | Sequence[Method] = "auto",
    stop: Stop | None = None,
    boundary: Boundary | None = None,
    points: int | tuple[int, ...] | torch.Tensor | None = None,
    sampling: Sampling = "grid",
    condition_weight: float = 1.0,
    refine: int | None = None,
    seed: int = 0,
    start: Start | None = None,
    restarts: int = 0,
    error: float | None = None,
    parameters: int | None = None,
    enrich: bool | int = False,
    checkpoint: str | os.PathLike | run_state.Store | None = None,
    every_seconds: float = run_state.EVERY,
    callbacks: Iterable[Callback] = (),
    callback: Callback | None = None,
    group: Any = None,
    **options: Any,
) -> Solution:
    """Solve ``problem``: train ``net``, in place, or find a basis whose amplitudes reach a stated ``error``.

    Ctrl-C, or a callback that raises KeyboardInterrupt, ends the training; the best rows are kept.

    Parameters
    ----------
    problem : Problem
        The problem; unknowns of its equation are found along with u.
    net : BumpNet, int or tuple of int, optional
        A net with the problem's dimension, outputs and domain; its rows are the start.  Or the number of bumps of a new
        net in float64, in total or along the axes; by default the problem's.
    method : str, Method or sequence of Method
        A name, several names such as "adam+lbfgs", or objects such as ``VarPro(tolerance=1e-6)``, which have their own
        options.  In a chain each method starts with the best rows of the one before.  The names:

        - "auto": "varpro" if the problem is linear, else "gauss-newton".
        - "varpro": variable projection, which eliminates the amplitudes; for linear problems.
        - "gauss-newton": eliminates the amplitudes from every linearisation; for any problem.
        - "lm": Levenberg-Marquardt in all parameters together; for any problem.
        - "adam", "varpro-adam", "lbfgs": methods of first order.
        - "linear": amplitudes alone, over a basis of so many smooth bumps, which is chosen for the problem and not
          trained; a ``net`` that is given keeps its shapes.  In float64; nonlinear problems by Gauss-Newton steps.
    stop : Stop, optional
        Limits on iterations and time.
    boundary : str, optional
        "hard" builds boundary values and periods into the solution; "soft" adds the problem's conditions as rows.
        Default: "hard" where the problem allows it, but "soft" where the given values contradict one another, which
        `warnings` of the solution then says (docs/trust.md).
    points : int, tuple of int, or Tensor, optional
        Collocation points: their number, their numbers per axis, or the points [N, d].  Default: 5 per parameter.
    sampling : str
        "grid", "chebyshev", "sobol" or "uniform"; see :func:`bumpnet_fast.problems.sampling.interior`.
    condition_weight : float
        Factor on the weights of all conditions with "soft".
    refine : int, optional
        For least squares: how often, during the run, half as many points are added where the residual is large.  By
        default up to twice, in further rounds of half as many iterations, if the residual between the points is more
        than ten times that at the points; never if you gave the points.
    seed : int
        Seed of scattered points, of batches and of restarts.
    start : callable or Solution, optional
        A first u: a function of points [N, d] that gives [N] or [N, K], or a result.  The amplitudes are fitted to it
        before anything else.  Default: the problem's :meth:`~bumpnet_fast.problems.Problem.guess`, if the net has no
        amplitudes yet.  Methods that solve linear problems for the amplitudes do not depend on it.
    restarts : int
        How many further solves start from other shapes, and for nonlinear problems from other amplitudes and unknowns.
        The net gets the best rows by the residual at points that nothing was trained on.  ``iterations`` are those of
        every solve, ``max_seconds`` of all together.
    error : float, optional
        Relative L2 error to reach, without a ``net``.  Smooth bases of growing size are solved over, as by "linear",
        until the change of u from one to the next says that the error is smaller.  Where they do not get there, linear
        problems on rectangles are solved over patches, or else the problem's usual net is trained and enriched.
        ``stop`` of the solution is "error reached" or "error not reached", and :attr:`~Solution.error_estimate` tells
        how good it is.
    parameters : int, optional
        Find the best net with at most so many, without a ``net``, by least squares: grids with other numbers of bumps
        along the axes are trained for some iterations, and the one with the smallest residual at points that nothing
        was trained on is trained to the end.  That takes about three times as long as one solve.
    enrich : bool or int
        Whether smooth bumps are added to the trained net, and all amplitudes and unknowns solved for once more, as by
        :meth:`Solution.enrich`; or how many.  Twice as many are tried where more than 2 % of the residual between the
        points is left, and none are kept, with a warning, where it does not fall to 40 %.  The net that was given has
        the trained bumps alone.  Not part of the limits; not after an interrupted or diverged run.
    checkpoint : str or path, optional
        File for the state of the run; see :func:`bumpnet_fast.resume`.  Not for ``error``, whose runs are short.
    every_seconds : float
        Shortest time between two writes of that file; it is also written whenever the run ends.
    callbacks : iterable of callable, optional
        Each is called with a :class:`Progress` at every evaluation of the loss; ``callback`` is one more.
    group : torch.distributed.ProcessGroup, optional
        Its processes share the points and solve together; each calls this with the same net and arguments
        (docs/distributed.md).  A tensor of points is a rank's own; otherwise each takes its share.
    **options
        Options of a ``method`` given by name, and ``iterations`` and ``max_seconds`` as shorthand for ``stop``.

    Returns
    -------
    Solution
        With the best rows at which the loss was evaluated.

    Raises
    ------
    TypeError
        If an option does not exist, or problem or net are of another type.
    ValueError
        Before any computing, if an argument is out of range, net and problem do not fit, or "varpro" is used for a
        nonlinear problem.  Also if the residual is not finite at the start, or if the ranks of a group differ in the
        net or an argument, or would write a checkpoint.
    RuntimeError
        If another rank failed.
    OSError
        If the checkpoint cannot be written.

    Notes
    -----
    The documentation of each method names its sources.  docs/choosing.md has measurements.

    Examples
    --------
    >>> from bumpnet_fast import problems
    >>> solution = solve(problems.get("poisson"), (4, 4), stop=Stop(iterations=20))
    >>> solution.rel_l2 < 1e-3, solution.predict([[0.0, 0.5], [0.2, 0.1]]).shape
    (True, torch.Size([2, 1]))
    """
    started = time.perf_counter()
    _RULES["restarts"].check("restarts", restarts)
    check_problem(problem)
    check_enrich(enrich, None if error is None and not _over_smooth(method, net) else "error and method='linear'")
    callbacks = (*callbacks, *([] if callback is None else [callback]))
    if error is not None or _over_smooth(method, net):
        if parameters is not None:
            raise ValueError("parameters must be left out beside error and method='linear', which choose their own")
        given = {"method": method, "net": net, "points": points, "sampling": sampling, "refine": refine,
                 "restarts": restarts, "checkpoint": checkpoint}  # fmt: skip
        _RULES["condition_weight"].check("condition_weight", condition_weight)
        _RULES["seed"].check("seed", seed)
        check_frozen(error, given)
        (linear,), limits = configured(method if is_linear(method) else Linear.name, stop, options)
        about = {"boundary": boundary, "seed": seed, "start": start, "condition_weight": condition_weight}
        about |= {"callbacks": callbacks, "group": group}
        solution = solved(problem, linear, limits, error=error, bumps=net, started=started, **about)
        if solution.stop is StopReason.REACHED:
            meant = start is not None or type(problem).guess is not Problem.guess  # which solution is, is said
            return solution if meant else if_alone(solution)
        if solution.stop is not StopReason.NOT_REACHED:
            return solution
        return trained_as_well(solve, solution, error, limits, about)
    if parameters is not None:
        given = {"net": net, "restarts": restarts, "enrich": enrich, "checkpoint": checkpoint, "group": group}
        check_sized(given)
        methods, limits = configured(method, stop, options)
        about = {"method": method, "boundary": boundary, "points": points, "sampling": sampling, "seed": seed,
                 "condition_weight": condition_weight, "refine": refine, "start": start}  # fmt: skip
        about |= {key: value for key, value in options.items() if key not in ("iterations", "max_seconds")}
        return sized(solve, new_net, problem, parameters, methods, limits, about, callbacks)
    if restarts:
        own = {"method": method, "boundary": boundary, "points": points, "sampling": sampling,
               "condition_weight": condition_weight, "refine": refine, "seed": seed}  # fmt: skip
        check(_RULES, own | {"restarts": restarts})
        methods, limits = configured(method, stop, options)
        own |= {key: value for key, value in options.items() if key != "max_seconds"}
        own |= {"iterations": limits.iterations}
        settings = {key: value for key, value in own.items() if key in _RULES or key in ("boundary", "points")}
        settings |= {"method": described(methods), "iterations": limits.iterations} | _said(enrich)
        best = restarted(
            solve, problem, net if isinstance(net, BumpNet) else new_net(problem, net), restarts, start, settings,
            own | {"max_seconds": limits.seconds}, checkpoint, every_seconds, callbacks, group,
        )  # fmt: skip
        return enriched(best, enrich, seed)
    with torch.no_grad():
        settings = {"boundary": boundary, "points": points, "sampling": sampling, "condition_weight": condition_weight,
                    "refine": refine, "seed": seed} | _said(enrich)  # fmt: skip

        def prepared() -> tuple[list[Method], Stop, torch.Tensor | None]:
            """Check and interpret the arguments, before any work."""
            check(_RULES, {key: value for key, value in settings.items() if key != "enrich"} | {"restarts": 0})
            if enrich and task.ranks.count > 1:
                raise ValueError(f"enrich is for one process, and this run has {task.ranks.count} ranks: leave it out")
            check_fit(problem, net, boundary)
            check_start(problem, start)
            methods, limits = configured(method, stop, options)
            settings.update(method=described(methods), iterations=limits.iterations, boundary=task.boundary)
            stored = checkpoint.on if isinstance(checkpoint, run_state.Store) else checkpoint is not None
            _check_methods(methods, limits, settings, stored=stored, ranks=task.ranks.count)
            return methods, limits, first_rows(problem, net, task.boundary, start)

        def opened() -> run_state.Store:
            content = functools.partial(run_state.content, "solve", problem, net, settings)
            return run_state.opened(checkpoint, every_seconds, content)

        net = net if isinstance(net, BumpNet) else new_net(problem, net)
        task = Task(problem, net, boundary, group)
        methods, stop, rows = task.ranks.checked(prepared)
        if rows is not None:
            net.rows.copy_(task.ranks.agreed(rows))
        store = task.ranks.checked(opened)
        task.check_same("solve", settings)
        if points is None and problem.points is None and all(isinstance(m, Linear) for m in methods):
            points = POINTS * len(net.rows)
        rounds = refine if refine is not None or _may_refine(problem, methods, points) else 0
        task.collocate(points, sampling, condition_weight, rounds, seed)
        task.check()
        for m in methods:
            m.check_work(task)
        methods, stop = _rounds(methods, stop, rounds)
        with store, few_threads(task.entries):
            run = Run(task, methods, stop, callbacks, store, started)
            reason = run.follow()
            warnings = [*run.warnings, *doubts(task, reason, run.best["loss"]), *trivial(task)]
            rel_l2, max_error = run.errors()
            names = dict.fromkeys(m.name_for(task) for m in run.methods)
    solution = Solution(
        net=net, problem=problem, boundary=task.boundary, history=run.history, loss=run.best["loss"], rel_l2=rel_l2,
        max_error=max_error, seconds=run.seconds, processor_seconds=run.processor_seconds, iterations=run.done,
        stop=reason, method="+".join(names), unknowns=task.named_unknowns(),
        events=task.events, warnings=warnings, places=task.places(),
    )  # fmt: skip
    solution.warnings += at_the_start(solution)
    return enriched(solution, enrich, seed)


def train(
    problem: Problem, net: BumpNet, *, method: MethodName | str | Method | Sequence[Method] = "adam", **options: Any
) -> Solution:
    """As :func:`solve`, with Adam unless another method is given.

    Examples
    --------
    >>> from bumpnet_fast import problems
    >>> problem = problems.get("poisson")
    >>> net = BumpNet(2, (4, 4), problem.domain, dtype="float64")
    >>> solution = train(problem, net, method="varpro-adam", iterations=100)
    >>> solution.rel_l2 < 1e-2, solution.stop_reason
    (True, 'iterations')
    """
    return solve(problem, net, method=method, **options)


def new_net(problem: Problem, bumps: int | tuple[int, ...] | None, **options: Any) -> BumpNet:
    """A net for a problem, in float64 by default; by default with the problem's number of bumps.

    A plain number is spread over space and time as if the time were as long as the space is wide: they have units of
    their own.  The grid is broken by a trace: where the problem is symmetric, training would stay symmetric.
    """
    bumps = problem.default_bumps if bumps is None else bumps
    if not isinstance(bumps, (int, tuple, list)) or isinstance(bumps, bool):
        raise TypeError(f"net must be a BumpNet, or how many bumps, in all or along the axes, got {bumps!r}")
    domain, time, dim = problem.domain, problem.time, len(problem.lower)
    maps = options.pop("maps", None)
    made = functools.partial(BumpNet, dim, bumps, outputs=problem.outputs, **{"dtype": torch.float64} | options)
    if isinstance(bumps, (tuple, list)) or time is None or dim == 1 or options.get("scale", "auto") != "auto":
        return _broken(made(domain, maps=maps))
    widths = domain[1] - domain[0]
    alike = widths.clone()
    alike[time] = torch.cat([widths[:time], widths[time + 1 :]]).log().mean().exp()
    net = made(torch.stack([domain[0], domain[0] + alike]))
    corners = domain[0] + (net.frame[:2].double().cpu() - domain[0]) * widths / alike
    frame = torch.cat([corners, net.frame[2:].double().cpu() * alike / widths]).to(net.frame)
    return _broken(BumpNet.from_rows(net.rows.detach(), frame, domain, net.tied, maps=maps))


def _over_smooth(method: Any, net: Any) -> bool:
    """Whether the method chooses its basis."""
    return is_linear(method) and not isinstance(net, BumpNet)


def _said(enrich: bool | int) -> dict[str, Any]:
    """What a checkpoint says of the enrichment at the end."""
    return {"enrich": enrich} if enrich else {}


def _broken(net: BumpNet) -> BumpNet:
    return net.perturb_(_TRACE, torch.Generator().manual_seed(0))


# --- methods -------------------------------------------------------------------------------------


def configured(
    method: MethodName | str | Method | Sequence[Method], stop: Stop | None, options: dict[str, Any]
) -> tuple[list[Method], Stop]:
    """The methods and limits that the arguments of :func:`solve` describe.

    Raises
    ------
    TypeError
        If an option does not exist.
    ValueError
        If an option is out of range, or a method is unknown.
    """
    left = dict(options)
    limits = {key: left.pop(key) for key in ("iterations", "max_seconds") if key in left}
    if stop is not None and limits:
        raise TypeError(f"{', '.join(limits)} must go into stop, which is given as well")
    positive(optional=True).check("max_seconds", limits.get("max_seconds"))
    if stop is None:
        stop = Stop(limits.get("iterations"), limits.get("max_seconds"))
    if not isinstance(stop, Stop):
        raise TypeError(f"stop must be a Stop, got {type(stop).__name__}")
    if isinstance(method, str):
        kinds = [_named(name, method) for name in method.split("+")]
        fields = [{field.name for field in dataclasses.fields(kind)} for kind in kinds]
        if unknown := [key for key in left if not any(key in names for names in fields)]:
            there = sorted({*("iterations", "max_seconds"), *(name for names in fields for name in names)})
            raise TypeError(f"method {method!r} has no option {unknown[0]!r}; there are: {', '.join(there)}")
        pairs = zip(kinds, fields, strict=True)
        methods = [kind(**{key: value for key, value in left.items() if key in names}) for kind, names in pairs]
    else:
        methods = list(method) if isinstance(method, (list, tuple)) else [method]
        if not methods or not all(isinstance(m, Method) for m in methods):
            raise TypeError(f"method must be a name, a Method or several of them, got {method!r}")
        if left:
            raise TypeError(f"{next(iter(left))} must be an option of the method, which is given as an object")
    for m in methods:
        check_options(m)
    stop.limits(methods)
    return methods, stop


def _named(name: str, whole: str) -> type[Method]:
    if name not in Method.known:
        raise ValueError(f"method must be of {', '.join(Method.known)}, joined by '+', got {whole!r}")
    return Method.known[name]


def _check_name(method: Method) -> None:
    """Raise ValueError for a method that a checkpoint cannot name."""
    kind = type(method)
    if Method.known.get(kind.name) is not kind:
        raise ValueError(
            f"method must have a name of its own for a checkpoint: set {kind.__name__}.name, {kind.name!r}"
        )


def described(methods: Sequence[Method]) -> list[dict[str, Any]]:
    """Plain values from which :func:`rebuilt` makes the methods again."""
    return [{"name": m.name, "options": dataclasses.asdict(m)} for m in methods]


def as_settings(options: dict[str, Any]) -> dict[str, Any]:
    """Options of :func:`solve` as a file can hold them; ValueError for a method that cannot be named."""
    method = options.get("method", "auto")
    if isinstance(method, str):
        return dict(options)
    methods = configured(method, None, {})[0]
    for m in methods:
        _check_name(m)
    return options | {"method": described(methods)}


def from_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """The options that :func:`as_settings` got."""
    method = settings.get("method", "auto")
    return settings if isinstance(method, str) else settings | {"method": rebuilt(method)}


def rebuilt(description: Sequence[dict[str, Any]]) -> list[Method]:
    """The methods of a run, from the values of :func:`described`."""
    return [_named(str(m["name"]), str(m["name"]))(**dict(m["options"])) for m in description]


def options_of(method: str) -> dict[str, Any]:
    """The options, with defaults, of a method by name, or of several joined by "+"."""
    kinds = [_named(name, method) for name in method.split("+")]
    iterations = kinds[0].iterations if len(kinds) == 1 else tuple(kind.iterations for kind in kinds)
    found = {"iterations": iterations, "max_seconds": None}
    for kind in kinds:
        found |= {field.name: field.default for field in dataclasses.fields(kind)}
    return found


def _may_refine(problem: Problem, methods: list[Method], points: Any) -> bool:
    """Whether points may be added where the residual is large although nobody said so."""
    own = isinstance(points, torch.Tensor) or problem.points is not None
    return len(methods) == 1 and isinstance(methods[0], LeastSquares) and not own


def _rounds(methods: list[Method], stop: Stop, refine: int | None) -> tuple[list[Method], Stop]:
    """Stages of least squares with refinement, one per round; they share the iterations.

    If ``refine`` is None they are for the case that the points miss something, and have half as many iterations more.
    """
    if refine == 0:
        return methods, stop
    (total,) = stop.limits(methods)
    if refine is None and total < 2:
        return methods, stop
    if refine is None:
        shares = (total, *(total // 2,) * ROUNDS)
        return methods * len(shares), dataclasses.replace(stop, iterations=shares)
    ends = [total * (k + 1) // (refine + 1) for k in range(refine + 1)]
    shares = tuple(end - begin for begin, end in zip([0, *ends], ends, strict=False))
    return methods * (refine + 1), dataclasses.replace(stop, iterations=shares)


def _check_methods(
    methods: Sequence[Method], stop: Stop, settings: dict[str, Any], *, stored: bool, ranks: int
) -> None:
    """Raise ValueError for methods that do not fit the other arguments, or an impossible checkpoint."""
    if stored and ranks > 1:
        raise ValueError(f"checkpoint is for runs of one process, and this one has {ranks} ranks: save the rows")
    for m in methods if stored else ():
        _check_name(m)
    if settings["refine"] and (len(methods) > 1 or not isinstance(methods[0], LeastSquares)):
        raise ValueError(f"refine is for least squares, got method {'+'.join(m.name for m in methods)!r}")
    for m, limit in zip(methods, stop.limits(methods), strict=True):
        m.check(settings, limit)


__all__ = [
    "as_settings",
    "configured",
    "described",
    "from_settings",
    "new_net",
    "options_of",
    "rebuilt",
    "solve",
    "train",
]
