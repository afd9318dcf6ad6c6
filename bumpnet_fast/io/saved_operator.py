"""Saved operators: a :class:`~bumpnet_fast.nets.deeponet.BumpDeepONet` and what it was trained for, in one file.

The file is a checkpoint as in ``checkpoint.py``, whose ``kwargs`` rebuild the BumpDeepONet and whose
``problem`` is the operator.  The code of a branch of your own is not in it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from torch import Tensor, nn

from ..core.files import CheckpointError, damaged
from ..nets.deeponet import BumpDeepONet
from ..problems.operators import Operator, get_operator
from ..solvers.operators.stored import operator_settings
from .saved import read_model, rebuilt, saved_problem, write_model


def save_operator(path: str | os.PathLike, net: BumpDeepONet, *, operator: Operator | None = None) -> None:
    """Write a net, and the operator it is for, to ``path``, atomically.

    Raises
    ------
    OSError
        If the file cannot be written; an older one is then untouched.

    Examples
    --------
    >>> import tempfile
    >>> path, net = os.path.join(tempfile.mkdtemp(), "model.pt"), BumpDeepONet(51, 8, [[0.0], [1.0]])
    >>> save_operator(path, net)
    >>> load_operator(path).net.load_state_dict(net.state_dict())
    <All keys matched successfully>
    """
    write_model(path, net, operator_settings(net), operator)


@dataclass(frozen=True)
class OperatorModel:
    """A loaded operator: call it.

    Attributes
    ----------
    net : BumpDeepONet
        Branch and bumps.
    operator : Operator or None
        What it was trained for; None if that is not known here.
    """

    net: BumpDeepONet
    operator: Operator | None = None

    def __call__(self, f: Tensor, y: Tensor) -> Tensor:
        """Output functions [B, N] at the points ``y`` [N, d] for the input functions ``f`` [B, S]."""
        return self.net(f, y)


def load_operator(path: str | os.PathLike, *, branch: nn.Module | None = None) -> OperatorModel:
    """Read what :func:`save_operator` wrote.

    Parameters
    ----------
    path : str or path
        The file.
    branch : nn.Module, optional
        Takes the place of a branch of your own, and gets its saved parameters.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CheckpointError
        If it is no checkpoint of an operator, is damaged, or needs a ``branch``.
    """
    content = read_model(path)
    kwargs = dict(content["kwargs"])
    if "sensors" not in kwargs:
        raise CheckpointError(f"{path} holds a solution, not an operator; read it by checkpoint.load")
    if kwargs.pop("own_branch") and branch is None:
        raise CheckpointError(f"{path} has a branch of its own kind; pass one as load_operator(path, branch=...)")
    with damaged(path, "is damaged or does not fit the branch"):
        net = rebuilt(BumpDeepONet, kwargs | ({} if branch is None else {"branch": branch}), content["model"])
    # without an operator that somebody else defined the net is whole, too
    return OperatorModel(net, saved_problem(path, content, get_operator, needed=False))


__all__ = ["OperatorModel", "load_operator", "save_operator"]
