"""Learn an operator with a BumpDeepONet, from data or from equations."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from ...core.jet import Jet
from ...nets.bumpnet import BumpNet
from ...nets.deeponet import BumpDeepONet
from ...problems.operators.base import Operator, OperatorData
from .. import run_state
from ..grad_mode import differentiating
from ..loop import Callback, Run, Stop
from ..solution import Result, as_points
from . import older, stored
from .branch import evaluating
from .check import Options, check_data, check_finite, check_kinds, check_operator, check_physics
from .task import LIMITS, OperatorTask, projection_error, relative_errors, stages


@dataclass(kw_only=True)
class OperatorSolution(Result):
    """A trained operator net and how it was trained.

    Attributes
    ----------
    net : BumpDeepONet
        The net that was given, with the best parameters found.
    problem : Operator or None
        Source of the data, if known; ``operator`` is the same.
    history : list of dict
        ``stage`` ("trunk", "branch", "adam" or "lbfgs"), ``iteration``, ``seconds``, ``loss``, and
        ``rel_l2``, the error on the test functions, where it was measured.
    stop : StopReason
        Why the run ended.
    seconds : float
        Time by the clock, without making data.
    method : str
        As given to :func:`learn`.
    physics : bool
        As given to :func:`learn`.
    data, test : OperatorData or None
        Functions for training, and functions for measuring errors.
    train_rel_l2 : float
        Mean relative L2 error over the training functions.
    rel_l2 : float
        Mean relative L2 error over the test functions; over the training functions if there are none.
    projection_rel_l2 : float
        The same with the best amplitudes for these bumps: no branch can do better.
    errors : Tensor
        [count], relative L2 error of each of these functions.
    loss : float
        Best loss of the last stage.
    parameters : int
        Number of trainable parameters of the net.
    iterations : int
        Number of steps of all stages.
    seed : int
        Seed of the operator's functions.
    """

    net: BumpDeepONet
    problem: Operator | None
    method: str
    physics: bool
    data: OperatorData = field(repr=False)
    test: OperatorData | None = field(repr=False)
    train_rel_l2: float
    rel_l2: float
    projection_rel_l2: float
    errors: Tensor = field(repr=False)
    loss: float
    parameters: int
    iterations: int
    seed: int = 0

    @property
    def operator(self) -> Operator | None:
        """As :attr:`problem`."""
        return self.problem

    @property
    def nets(self) -> list[BumpNet]:
        return [self.net.trunk]

    def jet(self, f: Any, y: Any, want: str = "hessian") -> Jet:
        """Output functions and their derivatives by y: values [B, N], gradients [B, N, d] and so on.

        Parameters
        ----------
        f : Tensor, array or nested lists
            [B, S], the input functions at the sensors.
        y : Tensor, array or nested lists
            [N, d].
        want : str
            As for :meth:`bumpnet_fast.BumpDeepONet.jet`.
        """
        f, _ = as_points(f, self.net.rows, self.net.sensors, "f", "[functions, {d}]")
        y, _ = as_points(y, self.net.rows, self.net.layout.dim, "y", "[points, {d}]")
        with evaluating(self.net):
            return self.net.jet(f, y, want)

    def predict(self, f: Any, y: Any, *, grad: bool = False) -> Tensor:
        """Output functions [B, N] at points.

        Parameters
        ----------
        f : Tensor, array or nested lists
            [B, S], the input functions at the sensors, of any real dtype; the result has the dtype of a floating-point
            ``f``, else that of the net.
        y : Tensor, array or nested lists
            [N, d].
        grad : bool
            Whether the result can be differentiated by ``f``, ``y`` and the parameters.
        """
        _, dtype = as_points(f, self.net.rows, self.net.sensors, "f", "[functions, {d}]")
        with torch.set_grad_enabled(grad):
            return self.jet(f, y, "value").value.to(dtype)

    def __call__(self, f: Any, y: Any) -> Tensor:
        """As :meth:`predict`."""
        return self.predict(f, y)


@differentiating
def learn(
    operator_or_data: Operator | OperatorData,
    net: BumpDeepONet | int | tuple[int, ...] | None = None,
    *,
    method: str = "two-step",
    stop: Stop | None = None,
    physics: bool = False,
    test: OperatorData | None = None,
    functions: int = 1000,
    test_functions: int = 200,
    iterations: int = 4000,
    learning_rate: float = 3e-3,
    batch: int = 256,
    polish: int = 0,
    trunk_iterations: int = 200,
    tolerance: float = 1e-3,
    ridge: float | None = None,
    max_seconds: float | None = None,
    seed: int = 0,
    checkpoint: str | os.PathLike | None = None,
    every_seconds: float = run_state.EVERY,
    callbacks: Iterable[Callback] = (),
    callback: Callback | None = None,
) -> OperatorSolution:
    """Train ``net``, in place, to approximate an operator given by data or by equations.

    Ctrl-C, or a callback that raises KeyboardInterrupt, ends the training; the best parameters are kept.

    Parameters
    ----------
    operator_or_data : Operator or OperatorData
        An operator, which makes its own data, or pairs of functions.
    net : BumpDeepONet, int or tuple of int, optional
        A net.  Its shapes and its branch are the start, except for a linear last layer in two steps.  Or the number of
        bumps, in total or along the axes, of a new net for an operator, see :func:`new_net`; by default the operator's.
    method : str
        "two-step": shapes by variable projection; then the branch, its last layer by ridge regression and, if it has
        more layers, all of it by Adam.  "adam": everything by Adam.
    stop : Stop, optional
        Limits on time and on the iterations of the stages, instead of ``iterations``, ``trunk_iterations`` and
        ``max_seconds``.  The stages of two steps are the trunk and, unless it is linear, the branch; otherwise Adam.
        With ``polish`` L-BFGS follows.
    physics : bool
        Train on the equations of the operator and not on output functions; these are used to measure errors only.
    test : OperatorData, optional
        Functions to measure errors on.  Default: the operator's own, or the training data.
    functions, test_functions : int
        How many functions an operator makes for training and for tests.
    iterations : int
        Steps of Adam.
    learning_rate : float
        Initial learning rate of Adam; it decays to a thousandth like a cosine.
    batch : int
        Functions per step of Adam.
    polish : int
        Steps of L-BFGS on all functions after Adam; best in float64.
    trunk_iterations : int
        Largest number of steps of the variable projection.
    tolerance : float
        The shapes have converged when their loss decreases by less than this fraction over ten steps.
    ridge : float, optional
        Tikhonov weight on the squares of the scaled amplitudes.  Default: 1e-16 in float64, and 1e-12 in float32, where
        amplitudes must not cancel as much.
    max_seconds : float, optional
        Stop after this time.
    seed : int
        Seed of the operator's functions, of the batches, and of the branch of a new net.
    checkpoint : str or path, optional
        File for the state of the run; see :func:`bumpnet_fast.resume`.
    every_seconds : float
        Shortest time between two writes of that file; it is also written whenever the run ends.
    callbacks : iterable of callable, optional
        Each is called with a :class:`~bumpnet_fast.solvers.Progress` at every evaluation of the loss, with the error on
        the test functions.  ``callback`` is one more.

    Returns
    -------
    OperatorSolution

    Raises
    ------
    TypeError
        If operator, data or net are of another type, or a limit is given twice.
    ValueError
        Before any computing, if an argument is out of range, net and data do not fit, or the operator has no equations
        for ``physics``.  Also if "two-step" gets an equation that is nonlinear in u, or linear with coefficients that
        depend on f.

    Notes
    -----
    Two steps: Lee and Shin, arXiv:2309.01020, who train the trunk by gradients.  Here variable projection fits the
    shapes to the leading modes of the outputs.  docs/operators.md has measurements.

    Examples
    --------
    >>> from bumpnet_fast.problems.operators import get_operator
    >>> operator = get_operator("antiderivative")
    >>> solution = learn(operator, 8, functions=200, test_functions=50)
    >>> solution.rel_l2 < 4e-3, solution.parameters
    (True, 440)
    >>> solution.predict(operator.generate(3).inputs, [[0.0], [0.5], [1.0]]).shape
    torch.Size([3, 3])
    """
    options = Options(
        method, physics, functions, test_functions, iterations, learning_rate, batch, polish, trunk_iterations,
        tolerance, ridge, max_seconds, seed,
    )  # fmt: skip
    callbacks = (*callbacks, *([] if callback is None else [callback]))
    with torch.no_grad():
        if net is None or isinstance(net, (int, tuple, list)):
            net = new_net(operator_or_data, net, seed=seed)
        check_kinds(operator_or_data, net, test)
        check_finite(net)
        options, stop = _limited(net, options, stop)
        given = operator_or_data, test
        operator, data, test, drawn = _pairs(*given, net, options)
        started = time.perf_counter()
        task = OperatorTask(net, data, test, (operator, drawn) if physics else None, options)
        store = run_state.opened(checkpoint, every_seconds, lambda: stored.content(*given, net, options))
        methods = stages(net, options)
        with store.reading() as state:
            if state is not None and older.is_version_2(state):
                store.state = older.from_version_2(state, task, [m.name for m in methods], stop.iterations)
        try:
            with store:
                run = Run(task, methods, stop, callbacks, store, started)
                reason = run.follow()
        finally:
            task.leave()
        about = {"seconds": run.seconds, "processor_seconds": run.processor_seconds, "warnings": run.warnings}
        errors = relative_errors(net, task.measured)
        return OperatorSolution(
            net=net, problem=operator, method=method, physics=physics, data=data, test=test, history=run.history,
            train_rel_l2=float(relative_errors(net, data).mean()), rel_l2=float(errors.mean()),
            projection_rel_l2=projection_error(net, task.measured), errors=errors, loss=run.best["loss"],
            parameters=sum(p.numel() for p in net.parameters()), iterations=run.done, stop=reason, seed=seed, **about,
        )  # fmt: skip


def new_net(
    operator: Operator,
    bumps: int | tuple[int, ...] | None = None,
    *,
    branch: Any = None,
    seed: int = 0,
    dtype: Any = torch.float64,
    **options: Any,
) -> BumpDeepONet:
    """A net for an operator.

    Parameters
    ----------
    operator : Operator
        Gives sensors, domain and whether the first coordinate is periodic.
    bumps : int or tuple of int, optional
        Number of bumps; by default the operator's.
    branch : optional
        As for :class:`bumpnet_fast.BumpDeepONet`; by default linear for a linear operator, else a hidden layer of 64.
    seed : int
        Seed of the initial branch, unless that is linear.
    dtype : torch.dtype or str
        Dtype of the parameters.
    **options
        Further arguments of the net.

    Examples
    --------
    >>> from bumpnet_fast.problems.operators import get_operator
    >>> new_net(get_operator("heat"), (4, 2)).periodic
    (True, False)
    """
    if not isinstance(operator, Operator):
        if isinstance(operator, OperatorData):
            raise TypeError("net must be a BumpDeepONet where pairs of functions are given: they have no domain")
        check_kinds(operator, None, None)
    branch = (() if operator.linear else (64,)) if branch is None else branch
    periodic = [operator.periodic and axis == 0 for axis in range(operator.domain.shape[1])]
    bumps = operator.default_bumps if bumps is None else bumps
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BumpDeepONet(
            operator.sensors, bumps, operator.domain, branch=branch, periodic=periodic, dtype=dtype, **options
        )


# --- arguments -----------------------------------------------------------------------------------


def _limited(net: BumpDeepONet, options: Options, stop: Stop | None) -> tuple[Options, Stop]:
    """The options with the limits of ``stop``, and these with the iterations of every stage."""
    stop = Stop() if stop is None else stop
    defaults = {f.name: f.default for f in fields(Options)}
    for limit, names in ((stop.iterations, ("iterations", "trunk_iterations")), (stop.seconds, ("max_seconds",))):
        if twice := [name for name in names if limit is not None and getattr(options, name) != defaults[name]]:
            raise TypeError(f"{twice[0]} must go into stop, which is given as well")
    methods = stages(net, options)
    limits = zip(methods, stop.limits(methods), strict=True)
    options = replace(options, **{LIMITS[method.name]: limit for method, limit in limits})
    seconds = options.max_seconds if stop.seconds is None else stop.seconds
    return options, Stop(tuple(method.iterations for method in stages(net, options)), seconds)


def _pairs(
    given: Operator | OperatorData, test: OperatorData | None, net: BumpDeepONet, options: Options
) -> tuple[Operator | None, OperatorData, OperatorData | None, Tensor | None]:
    """The operator, training and test data, and the input functions that an operator has drawn for training."""
    operator, data, drawn = given if isinstance(given, Operator) else None, given, None
    if options.physics:
        check_physics(operator)
    if operator is not None:
        check_operator(operator, net)
        drawn = operator.inputs(options.functions + options.test_functions, options.seed)
        pairs = OperatorData(operator.at_sensors(drawn), operator.apply(drawn), operator.points)
        data, own = pairs.split(options.functions)
        drawn, test = drawn[: options.functions], own if test is None and options.test_functions else test
    for name, pairs in (("data", data), ("test", test)):
        if pairs is not None:
            check_data(name, pairs, net)
    return operator, data, test, drawn


__all__ = ["OperatorSolution", "learn", "new_net"]
