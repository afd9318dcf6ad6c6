"""Training a BumpDeepONet: from data in two steps or by Adam, or from an equation alone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...nets.deeponet import BumpDeepONet
from ...problems.operators.base import Operator, OperatorData
from .. import run_state
from ..grad_mode import differentiating
from ..loop import Progress
from ..threads import few_threads
from . import branch as branches
from . import gradient, stored
from .check import Options, check_data, check_operator, check_physics
from .fit import Fit, fit_to_data, fit_to_equations
from .run import Run, relative, relative_errors
from .trunk import points_of_descent


@dataclass
class OperatorSolution:
    """A trained net and how it came about.

    Attributes
    ----------
    net : BumpDeepONet
        The net that was given, now with the best parameters found.
    operator : Operator or None
        Where the data came from, if that is known.
    method : str
        As given to :func:`train`.
    physics : bool
        As given to :func:`train`.
    data, test : OperatorData or None
        What was trained on, and what errors are measured on.
    history : list of dict
        ``stage`` ("trunk", "branch", "adam" or "lbfgs"), ``iteration``, ``seconds``, ``loss``, and
        ``rel_l2``, the error on the test functions, where it was measured.
    train_rel_l2 : float
        Mean relative L2 error of an output function, over the training functions.
    rel_l2 : float
        The same over the test functions, or over the training functions if there are no others.
    projection_rel_l2 : float
        The same for the best amplitudes that the bumps allow: what no branch could improve.
    errors : Tensor
        [count], relative L2 error of each of these functions.
    loss : float
        Of the last stage, at its best.
    parameters : int
        All trainable numbers of the net.
    seconds : float
        Wall time of the training; making data is not counted.
    iterations : int
        Steps of all stages.
    stop_reason : str
        "converged", "iterations", "time", "interrupted" or "no further decrease".
    """

    net: BumpDeepONet
    operator: Operator | None
    method: str
    physics: bool
    data: OperatorData = field(repr=False)
    test: OperatorData | None = field(repr=False)
    history: list[dict[str, Any]] = field(repr=False)
    train_rel_l2: float
    rel_l2: float
    projection_rel_l2: float
    errors: Tensor = field(repr=False)
    loss: float
    parameters: int
    seconds: float
    iterations: int
    stop_reason: str


@differentiating
def train(
    data: Operator | OperatorData,
    net: BumpDeepONet,
    *,
    method: str = "two-step",
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
    callback: Callable[[Progress], Any] | None = None,
) -> OperatorSolution:
    """Train ``net``, in place, to be the operator that the data show, or that equations define.

    Ctrl-C, or a callback that raises KeyboardInterrupt, ends the training; the best parameters are kept.

    Parameters
    ----------
    data : Operator or OperatorData
        An operator, which makes its own data, or pairs of functions.
    net : BumpDeepONet
        Its shapes are the start, and so is its branch, except for a linear last layer in two steps.
    method : str
        "two-step": the bumps' shapes by variable projection, then the branch: its last layer by ridge
        regression and, if there is more to it, all of it by Adam.  "adam": everything by Adam.
    physics : bool
        Train on the equations of the operator instead of on output functions, which are then used to
        measure errors only.
    test : OperatorData, optional
        What errors are measured on.  Default: the operator's own, or the training data.
    functions, test_functions : int
        How many functions an operator makes to train and to test on.
    iterations : int
        Steps of Adam.
    learning_rate : float
        Of Adam at the start; it falls to a thousandth like a cosine.
    batch : int
        Functions in a step of Adam.
    polish : int
        Steps of L-BFGS on all functions after Adam, in rounds of 20; best in float64.
    trunk_iterations : int
        Most steps of the variable projection.
    tolerance : float
        The shapes have converged when their loss decreases by less than this fraction over ten steps.
    ridge : float, optional
        Tikhonov weight on the squares of the scaled amplitudes.  Default: 1e-16 for a net in float64,
        1e-12 in float32, whose amplitudes must not cancel as much.
    max_seconds : float, optional
        Stop after this time.
    seed : int
        Of an operator's functions, and of the batches.
    checkpoint : str or path, optional
        File for the state of the run, see :func:`bumpnet_fast.io.saved.resume`.
    every_seconds : float
        Write it no more often than this, and at the end, however that comes.
    callback : callable, optional
        Called with a :class:`Progress` after steps; its error is that on the test functions.

    Returns
    -------
    OperatorSolution

    Raises
    ------
    ValueError
        Before any computing, if an argument is out of range, if net and data do not fit, or if
        ``physics`` is asked of an operator without equations; also if "two-step" is asked to
        fulfil an equation that is nonlinear in u, or linear with coefficients that depend on f.

    Notes
    -----
    Two steps: Lee and Shin, arXiv:2309.01020, who train the trunk by gradients.  Here its shapes are
    those that hold the leading modes of the outputs best, which variable projection finds.
    docs/operators.md says what was measured.

    Examples
    --------
    >>> from bumpnet_fast.problems.operators import get_operator
    >>> operator = get_operator("antiderivative")
    >>> net = BumpDeepONet(operator.sensors, 8, operator.domain, dtype="float64")
    >>> solution = train(operator, net, functions=200, test_functions=50)
    >>> solution.rel_l2 < 4e-3, solution.parameters
    (True, 440)
    """
    options = Options(
        method, physics, functions, test_functions, iterations, learning_rate, batch, polish, trunk_iterations,
        tolerance, ridge, max_seconds, seed,
    )  # fmt: skip
    given = data, test
    operator, drawn = data if isinstance(data, Operator) else None, None
    if physics:
        check_physics(operator)
    if operator is not None:
        check_operator(operator, net)
        drawn = operator.inputs(functions + test_functions, seed)
        pairs = OperatorData(operator.at_sensors(drawn), operator.apply(drawn), operator.points)
        data, own = pairs.split(functions)
        drawn, test = drawn[:functions], own if test is None and test_functions else test
    for name, pairs in (("data", data), ("test", test)):
        if pairs is not None:
            check_data(name, pairs, net)
    store = run_state.opened(checkpoint, every_seconds, lambda: stored.content(*given, net, options))
    with store:
        run = Run(net, data if test is None else test, time.perf_counter(), max_seconds, callback, store)
        if method == "two-step":
            with torch.no_grad():
                fit = fit_to_equations(net, operator, drawn) if physics else fit_to_data(net, data)
            _two_step(run, fit, options)
        else:
            _all_together(run, data, (operator, drawn) if physics else None, options)
    seconds, errors = time.perf_counter() - run.start, relative_errors(net, run.data)
    return OperatorSolution(
        net, operator, method, physics, data, test, run.history,
        train_rel_l2=float(relative_errors(net, data).mean()), rel_l2=float(errors.mean()),
        projection_rel_l2=_projection_error(net, run.data), errors=errors, loss=run.loss,
        parameters=sum(p.numel() for p in net.parameters()), seconds=seconds, iterations=run.iterations,
        stop_reason=run.reason,
    )  # fmt: skip


def _two_step(run: Run, fit: Fit, options: Options) -> None:
    net = run.net
    ridge = options.ridge_for(net)
    with torch.no_grad(), few_threads(fit.targets.shape[1] * net.rows.numel()):
        run.check_stage("trunk", "branch", "lbfgs")
        if run.at in (None, "trunk"):
            points = points_of_descent(net, fit, ridge, run.trunk_memory())
            run.trunk(points, options.trunk_iterations, options.tolerance)
        else:
            run.put_trunk()
        A, _ = fit.design(net, net.rows.double())
        functions, mix = branches.coordinates(A, ridge)
        branches.regress(net, fit, fit.targets @ functions / len(functions), mix)
    if branches.is_linear(net.branch) or run.ended:
        return
    with branches.orthonormal(net, mix) as mixed:
        loss = gradient.branch_loss(net, A @ mixed.double().T, fit)
        _descend(run, "branch", loss, net.branch, mixed, len(fit.inputs), options)


def _all_together(run: Run, data: OperatorData, equations: tuple[Operator, Tensor] | None, options: Options) -> None:
    """Everything by Adam, on the data or, if given, on the equations of an operator for its input functions."""
    net = run.net
    run.check_stage("adam", "lbfgs")
    with torch.no_grad():
        Psi, _ = fit_to_data(net, data).design(net, net.rows.double())
        _, mix = branches.coordinates(Psi, options.ridge_for(net))
    with branches.orthonormal(net, mix) as mixed:
        by_data = equations is None
        loss = gradient.data_loss(net, mixed, data) if by_data else gradient.physics_loss(net, mixed, *equations)
        _descend(run, "adam", loss, net, mixed, len(data.inputs), options)


def _descend(run: Run, stage: str, loss, module: nn.Module, mix: Tensor, functions: int, o: Options) -> None:
    parameters = [p for p in module.parameters() if p.requires_grad]
    if run.at != "lbfgs":
        steps = gradient.Adam(loss, parameters, functions, o.iterations, o.learning_rate, o.batch, o.seed)
        run.gradient(stage, steps, loss, parameters, mix)
    if o.polish and not run.ended:
        run.gradient("lbfgs", gradient.Lbfgs(loss, parameters, o.polish), loss, parameters, mix)


@torch.no_grad()
def _projection_error(net: BumpDeepONet, data: OperatorData) -> float:
    fit = fit_to_data(net, data)
    A, _ = fit.design(net, net.rows.double())
    Q, _ = torch.linalg.qr(A / torch.linalg.vector_norm(A, dim=0))
    return float(relative(fit.targets - fit.targets @ Q @ Q.T, data.outputs.to(Q)).mean())
