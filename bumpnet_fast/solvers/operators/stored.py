"""What the file of an operator's training says about net and data."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import Any

from ...nets.deeponet import BumpDeepONet
from ...problems.operators.base import Operator, OperatorData
from .. import run_state
from .check import Options


def content(
    data: Operator | OperatorData, test: OperatorData | None, net: BumpDeepONet, options: Options
) -> dict[str, Any]:
    """Content of the file of a new run without its state."""
    settings = {key: value for key, value in asdict(options).items() if key != "max_seconds"}
    tested = None if test is None else described(test)
    began = {"net": net_state(net), "problem": described(data), "test": tested}
    return run_state.plain({"solver": "operator", **began, "settings": settings})


def described(data: Operator | OperatorData) -> dict[str, Any]:
    """An operator by name and fields; data by shapes and a digest, as they are too large to be stored."""
    if isinstance(data, Operator):
        return run_state.described(data)
    digest = hashlib.sha256()
    for part in data:
        digest.update(part.detach().cpu().contiguous().numpy().tobytes())
    shapes = {name: tuple(part.shape) for name, part in data._asdict().items()}
    return {"name": "data", "settings": shapes | {"sha256": digest.hexdigest()}}


def operator_settings(net: BumpDeepONet) -> dict[str, Any]:
    """The arguments that rebuild a net, and whether its branch is of its own kind."""
    return {
        "sensors": net.sensors,
        "bumps": len(net.rows),
        "domain": net.domain.tolist(),
        "branch": None if net.hidden is None else list(net.hidden),
        "own_branch": net.hidden is None,
        "periodic": list(net.periodic),
        "bias": net.bias is not None,
        "outer": "tied" if net.tied else "free",
        "dtype": str(net.rows.dtype).removeprefix("torch."),
    }


def net_state(net: BumpDeepONet) -> dict[str, Any]:
    """Everything that rebuilds a net, except for the code of a branch of its own kind."""
    state = {key: value.detach().cpu().clone() for key, value in net.state_dict().items()}
    return {"kwargs": operator_settings(net), "state": state, "device": str(net.rows.device)}


def net_from(state: dict[str, Any], net: BumpDeepONet | None) -> BumpDeepONet:
    """The net of :func:`net_state`: made anew, or ``net`` with its state loaded.

    Raises
    ------
    LookupError
        If its branch is of its own kind, and ``net`` is None.
    """
    kwargs = dict(state["kwargs"])
    if kwargs.pop("own_branch") and net is None:
        raise LookupError("its net has a branch of its own kind; pass one as net=...")
    net = BumpDeepONet(**kwargs).to(run_state.check_device(state["device"])) if net is None else net
    net.load_state_dict(state["state"])
    return net


__all__ = ["content", "described", "net_from", "net_state", "operator_settings"]
