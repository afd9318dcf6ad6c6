"""Saved evolutions: one dict per file, that of :mod:`bumpnet_fast.checkpoint` with the states over time.

``torch.load(path, weights_only=True)`` reads it without this package.  ``kwargs`` and ``model`` are the net at
the last of the times; ``evolution`` holds the times, the states and rates of all rows, and the history.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import torch

from .checkpoint import net_settings, read_model, rebuilt, saved_problem, write_model
from .files import CheckpointError, damaged
from .layer import BumpNet
from .problems.evolution import get_evolution
from .solvers.evolution.basis import IMAGES_MOST, Space
from .solvers.evolution.result import Evolution

#: What of an evolution is neither a tensor of the states nor made from other parts of the file.
_PLAIN = ("history", "fit_error", "rel_l2", "max_error", "setup_seconds", "seconds", "steps", "stages",
          "solve_seconds", "method", "shapes", "stop_reason", "warnings")  # fmt: skip
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
        _check_states(evolution, last, images)
        net = BumpNet.from_rows(evolution["states"][0].to(last.rows), frame.to(last.rows), last.domain, last.tied)
        names = {field.name for field in dataclasses.fields(Evolution)} - {"problem", "net", "space"}
        if missing := names - set(evolution):
            raise ValueError(f"it has no {', '.join(sorted(missing))}")
        space = Space(problem, frame, last.tied, images)
        return Evolution(problem=problem, net=net, space=space, **{name: evolution[name] for name in names})


def _check_states(evolution: dict[str, Any], net: BumpNet, images: tuple[int, ...]) -> None:
    """Raise ValueError unless times, states and rates are an evolution of the bumps of ``net``."""
    times, count = evolution["times"], len(evolution["history"])
    shapes = {"times": (count,), "states": (count, *net.rows.shape), "rates": (count, *net.rows.shape)}
    for name, shape in shapes.items():
        found = evolution[name]
        if found.dtype != torch.float64 or found.shape != shape:
            wanted = f"float64 of shape {list(shape)}"
            raise ValueError(f"its {name} must be {wanted}, got {found.dtype} of shape {tuple(found.shape)}")
        if not bool(torch.isfinite(found).all()):
            raise ValueError(f"its {name} must be finite")
    if not count or times[0] != 0 or not bool((times[1:] > times[:-1]).all()):
        raise ValueError("its times must ascend from 0")
    if len(images) != net.layout.dim or not all(type(n) is int and 0 <= n <= IMAGES_MOST for n in images):
        raise ValueError(f"its images must be {net.layout.dim} integers from 0 to {IMAGES_MOST}, got {images}")


__all__ = ["load", "save"]
