"""Saved models: one dict per file, written all or nothing, loaded without running foreign code.

The dict holds tensors and plain values only, so ``torch.load(path, weights_only=True)`` reads it
without this package:

======== ==========================================================================
version  format of the file, :data:`VERSION`
kwargs   arguments that rebuild the :class:`~bumpnet_fast.layer.BumpNet`
model    its ``state_dict``
problem  ``{"name": ..., "settings": {...}}``, or None
boundary "hard", "soft", or None
windows  one ``state_dict`` for every window of a solution that was marched in time, or none
======== ==========================================================================
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import problems
from .files import CheckpointError, atomic, damaged, one_line, read
from .jet import Jet
from .layer import BumpNet
from .problems.evolution import get_evolution
from .problems.operators import get_operator
from .rows import RowLayout
from .solvers import resuming, runs
from .solvers.marching import Part, chain, chained_jet

#: Format of the files that :func:`save` writes; :func:`load` reads this one and all older ones.
VERSION = 2

#: So many numbers more than a file has may be asked for by its arguments; what is wrong is then said by the net.
_SLACK = 1_000_000
#: What finds the problem of a run, where that is not :func:`bumpnet_fast.problems.get`.
_REGISTRIES = {"evolve": get_evolution, "operator": get_operator}


def save(
    path: str | os.PathLike, net: BumpNet | Sequence[BumpNet], *, problem: Any = None, boundary: str | None = None
) -> None:
    """Write a net, and what it solves, to ``path``, atomically.

    Parameters
    ----------
    path : str or path
        File to write; its directory must exist.
    net : BumpNet, or sequence of them
        The bumps; several if the problem was marched in time, one for every window.
    problem : Problem, optional
        What the net was trained for.  Its name and its fields are saved, not its code.
    boundary : "hard", "soft" or None
        How the boundary conditions enter; "hard" needs the problem to evaluate u.

    Raises
    ------
    TypeError
        If ``net`` is something else.
    OSError
        If the file cannot be written; an older one is then untouched.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path, net = pathlib.Path(tempfile.mkdtemp(), "model.pt"), BumpNet(2, 9)
    >>> save(path, net)
    >>> load(path).net
    BumpNet(dim=2, bumps=9, outputs=1, outer='tied', parameters=63, dtype=float32)
    """
    nets = [net] if isinstance(net, BumpNet) else list(net) if isinstance(net, Sequence) else []
    if not nets or not all(isinstance(n, BumpNet) for n in nets):
        raise TypeError(f"net must be a BumpNet, or one for every window, got {type(net).__name__}")
    windows = [] if isinstance(net, BumpNet) else [_state(n) for n in nets]
    write_model(path, nets[0], net_settings(nets[0]), problem, boundary=boundary, windows=windows)


def write_model(path: str | os.PathLike, net: nn.Module, kwargs: dict[str, Any], problem: Any, **entries: Any) -> None:
    """Write what every checkpoint has (see above), and the ``entries`` of its kind, atomically."""
    content = {
        "version": VERSION,
        "kwargs": kwargs,
        "model": _state(net),
        "problem": None if problem is None else {"name": problem.name, "settings": problem_settings(problem)},
        "boundary": None,
    }
    with atomic(path) as file:
        torch.save(content | entries, file)


def _state(net: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().cpu() for key, value in net.state_dict().items()}


def net_settings(net: BumpNet) -> dict[str, Any]:
    """The arguments that rebuild a net, before its state is loaded."""
    return {
        "dim": net.layout.dim,
        "bumps": len(net.rows),
        "domain": net.domain.tolist(),
        "outputs": net.layout.outputs,
        "outer": "tied" if net.tied else "free",
        "dtype": str(net.rows.dtype).removeprefix("torch."),
    }


def problem_settings(problem: Any) -> dict[str, Any]:
    """The values of a problem's fields, by name: what rebuilds it."""
    return {field.name: getattr(problem, field.name) for field in dataclasses.fields(problem)}


@dataclasses.dataclass(frozen=True)
class Model:
    """A loaded solution u: call it, or ask for its jet.

    Attributes
    ----------
    net : BumpNet
        The bumps.
    problem : Problem or None
        What it was trained for.
    boundary : "hard", "soft" or None
        How the boundary conditions enter: "hard" means ``u = lift + distance * net``.
    windows : tuple
        The parts of a solution that was marched in time; ``net`` is then the first part's.
    """

    net: BumpNet
    problem: Any = None
    boundary: str | None = None
    windows: tuple[Part, ...] = ()

    def __call__(self, x: Tensor) -> Tensor:
        """The values [N, K] of u at the points ``x`` [N, d]."""
        return self.jet(x, "value").value

    def jet(self, x: Tensor, want: str = "hessian") -> Jet:
        """Values and derivatives of u at ``x`` [N, d]; ``want`` as in :meth:`BumpNet.jet`."""
        if self.windows:
            return chained_jet(self.windows, x, want)
        if self.boundary != "hard":
            return self.net.jet(x, want=want)
        return self.problem.extend(lambda x: self.net.jet(x, want=want), x, want)


def load(path: str | os.PathLike, *, problem: Any = None) -> Model:
    """Read what :func:`save` wrote.

    Parameters
    ----------
    path : str or path
        The file.
    problem : Problem, optional
        Takes the place of the saved one; needed if that is not among
        :data:`bumpnet_fast.problems.PROBLEMS`.

    Returns
    -------
    Model
        With the net in the dtype it was saved in, on the CPU.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CheckpointError
        If it is no checkpoint, is damaged, or comes from a newer version.

    Examples
    --------
    >>> from bumpnet_fast import problems
    >>> import pathlib, tempfile
    >>> path, poisson = pathlib.Path(tempfile.mkdtemp(), "model.pt"), problems.get("poisson", a1=2)
    >>> save(path, BumpNet(2, 9, poisson.domain), problem=poisson, boundary="hard")
    >>> u = load(path)
    >>> u.problem.a1, u(torch.rand(5, 2)).shape
    (2.0, torch.Size([5, 1]))
    """
    content = read_model(path)
    if "evolution" in content:
        raise CheckpointError(f"{path} holds an evolution: load it with evolution_checkpoint.load")
    windows, boundary = content.get("windows", []), content["boundary"]
    with damaged(path):
        nets = [rebuilt(BumpNet, content["kwargs"], state) for state in windows or [content["model"]]]
    if problem is None:
        problem = saved_problem(path, content, problems.get, needed=boundary == "hard" or bool(windows))
    return Model(nets[0], problem, boundary, tuple(chain(problem, nets, boundary)) if windows else ())


def read_model(path: str | os.PathLike) -> dict[str, Any]:
    """Read what :func:`write_model` wrote; raises as :func:`bumpnet_fast.files.read`."""
    return read(path, "model", VERSION, ("kwargs", "model", "problem", "boundary"))


def rebuilt(kind: Callable[..., Any], kwargs: dict[str, Any], state: dict[str, Tensor]) -> Any:
    """A net of a checkpoint; ValueError, before memory is taken, if its tensors have less than its arguments ask."""
    _check_sizes(kwargs, state)
    net = kind(**kwargs)
    net.load_state_dict(state)
    return net


def _check_sizes(kwargs: dict[str, Any], state: dict[str, Tensor]) -> None:
    counts = kwargs["bumps"] if isinstance(kwargs["bumps"], (tuple, list)) else [kwargs["bumps"]]
    bumps, dim = math.prod(counts), len(kwargs["domain"][0])
    asked = bumps * RowLayout(dim, kwargs.get("outputs", 0), True).columns
    if isinstance(kwargs.get("branch"), (tuple, list)):
        widths = (kwargs["sensors"], *kwargs["branch"], bumps)
        asked += sum(a * b for a, b in itertools.pairwise(widths))
    found = sum(value.numel() for value in state.values() if isinstance(value, Tensor))
    if not asked <= found + _SLACK:
        raise ValueError(f"its arguments ask for {asked:.3g} numbers, and its tensors have {found}")


def saved_problem(path: str | os.PathLike, content: dict[str, Any], get: Callable[..., Any], needed: bool) -> Any:
    """The problem of a file, from ``get``; None if there is none, or if it is unknown here and not ``needed``."""
    saved = content["problem"]
    if saved is None and not needed:
        return None
    try:
        if saved is None:
            raise ValueError("which was not saved")
        return get(saved["name"], **saved["settings"])
    except (KeyError, TypeError, ValueError) as error:
        if not needed:
            return None
        raise CheckpointError(f"{path} needs its problem, {one_line(error)}; pass it as problem=...") from error


def resume(path: str | os.PathLike, *, problem: Any = None, **options: Any) -> Any:
    """Go on with the run whose state one of the solvers wrote to its ``checkpoint``.

    On the same machine, with the same number of threads, all comes out as if the run had never been stopped, bit for
    bit: rows, history and the log of bumps taken out and put in.  docs/resume.md has more.

    Parameters
    ----------
    path : str or path
        The ``checkpoint`` of that run; it is written further.
    problem : Problem, optional
        Needed if it is not among the library's own; data that an operator was trained on instead of one.
    options
        ``callback``; ``every_seconds``, or ``every`` for :func:`bumpnet_fast.solvers.train`; ``iterations`` and
        ``max_seconds`` where the solver has them.  What no file can hold has to be given again: ``score`` if it was a
        function, ``net`` if its branch was of its own kind, and ``test``.  All else is as it was.

    Returns
    -------
    Solution, March, Evolution or OperatorSolution
        As the solver that the run is of.  Seconds, iterations and history are those of the whole run.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CheckpointError
        If it is no state of a run, is damaged, or comes from a newer version.
    ValueError
        For another problem than that of the run, or for a number out of range.

    Examples
    --------
    >>> from bumpnet_fast import problems
    >>> from bumpnet_fast.solvers import train
    >>> import pathlib, tempfile
    >>> path, poisson = pathlib.Path(tempfile.mkdtemp(), "run.pt"), problems.get("poisson")
    >>> train(poisson, BumpNet(2, 9, poisson.domain), iterations=20, checkpoint=path).iterations
    20
    >>> resume(path, iterations=30).iterations
    30
    """
    content = runs.load(path)
    if problem is None:
        problem = saved_problem(path, content, _REGISTRIES.get(content["solver"], problems.get), needed=True)
    return resuming.resume(path, problem, content, **options)


__all__ = ["VERSION", "CheckpointError", "Model", "atomic", "load", "resume", "save"]
