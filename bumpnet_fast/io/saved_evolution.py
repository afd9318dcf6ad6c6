"""Saved evolutions: one dict per file, that of :mod:`bumpnet_fast.io.saved` with the states over time.

``torch.load(path, weights_only=True)`` reads it without this package.  ``kwargs`` and ``model`` are the net at
the last of the times; ``evolution`` holds the times, the states and rates of all rows, and the history.
"""

from __future__ import annotations

import os
from typing import Any

from ..core.files import CheckpointError, damaged
from ..nets.bumpnet import BumpNet
from ..problems.evolution import get_evolution
from ..solvers.evolution.basis import Space
from ..solvers.evolution.result import Evolution
from .saved import net_settings, read_model, rebuilt, saved_problem, write_model

#: What of an evolution is neither a tensor of the states nor made from other parts of the file.
_PLAIN = ("history", "fit_error", "rel_l2", "max_error", "setup_seconds", "seconds", "steps", "stages",
          "solve_seconds", "method", "shapes", "stop_reason", "processor_seconds", "warnings")  # fmt: skip
_TENSORS = ("times", "states", "rates")


def save(path: str | os.PathLike, run: Evolution) -> None:
    """Write an evolution to ``path``, atomically.

    Raises
    ------
    OSError
        If the file cannot be written; an older one is then untouched.

    Examples
    --------
    >>> import tempfile, torch
    >>> from bumpnet_fast.problems.evolution import Heat
    >>> from bumpnet_fast.solvers import evolve
    >>> path, run = tempfile.mkdtemp() + "/model.pt", evolve(Heat(nu=0.5), 12)
    >>> save(path, run)
    >>> again, x = load(path), torch.rand(5, 1)
    >>> again.problem.nu, torch.equal(again.predict(x, 0.3), run.predict(x, 0.3))
    (0.5, True)
    """
    net = run.at(float(run.times[-1]))
    evolution = {name: getattr(run, name) for name in _PLAIN}
    evolution |= {name: getattr(run, name).cpu() for name in _TENSORS}
    evolution |= {"frame": run.space.frame.cpu(), "images": list(run.space.images)}
    write_model(path, net, net_settings(net), run.problem, evolution=evolution)


def load(path: str | os.PathLike, *, problem: Any = None) -> Evolution:
    """Read what :func:`save` wrote; the net is that of the start.

    Parameters
    ----------
    path : str or path
        The file.
    problem : EvolutionProblem, optional
        Takes the place of the saved one; needed if that is not among
        :data:`bumpnet_fast.problems.evolution.EVOLUTIONS`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CheckpointError
        If it holds no evolution, is damaged, comes from a newer version, or its problem is unknown.
    """
    content = read_model(path)
    if "evolution" not in content:
        raise CheckpointError(f"{path} holds no evolution: load it with checkpoint.load")
    if problem is None:
        problem = saved_problem(path, content, get_evolution, needed=True)
    with damaged(path):
        evolution = dict(content["evolution"])
        frame, images = evolution.pop("frame"), tuple(evolution.pop("images"))
        last = rebuilt(BumpNet, content["kwargs"], content["model"])
        net = BumpNet.from_rows(evolution["states"][0].to(last.rows), frame.to(last.rows), last.domain, last.tied)
        evolution = {"processor_seconds": 0.0} | evolution  # which version 0.1.0 did not measure
        if missing := {*_PLAIN, *_TENSORS} - set(evolution):
            raise ValueError(f"it has no {', '.join(sorted(missing))}")
        values = {name: evolution[name] for name in (*_PLAIN, *_TENSORS)}
        values["stop"] = values.pop("stop_reason")
        return Evolution(problem=problem, net=net, space=Space(problem, frame, last.tied, images), **values)


__all__ = ["load", "save"]
