"""Shared by the commands: mistakes and exit codes, types of arguments, and one name space for all settings."""

from __future__ import annotations

import argparse
import ast
import inspect
import math
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

#: Exit codes besides 0.
FAILED, USAGE, INTERRUPTED = 1, 2, 130
#: Largest whole number: torch's have 64 bits.
MOST = 2**63 - 1
#: Standard deviation of the random change of the initial shapes, if a seed is given.
PERTURB = 0.05
#: Help on ``--seed`` and ``--set`` of commands with a net of their own.
RANDOM = f"seed of a random change of the initial shapes, by {PERTURB} unless perturb is set"
SETTING = "a field of the problem, an option of the solver or of the net, or perturb; see 'bumpnet list'"


class UsageError(Exception):
    """A mistake of the caller: reported in one line, without a traceback."""


# --- arguments -----------------------------------------------------------------------------------


def add_output_arguments(
    add: Callable[..., Any], random: str = RANDOM, setting: str = SETTING, folder: str = "runs/PROBLEM"
) -> None:
    """Arguments of every command that computes, with its help on ``--seed`` and ``--set``."""
    add("--dtype", choices=("float32", "float64"), default="float64", help="default: %(default)s")
    add("--seed", type=_seed, metavar="N", help=random)
    add("--set", action="append", default=[], type=_assignment, metavar="KEY=VALUE", dest="settings", help=setting)
    add("--out", type=Path, metavar="DIR", help=f"where to write; default: {folder}")
    add("--json", metavar="FILE", help="also write the summary to FILE; - is the standard output")
    add("--threads", type=threads, metavar="N", help="largest number of threads; default: torch's own")
    add("--quiet", action="store_true", help="show neither progress nor summary")


def integer(text: str, least: int, most: float = math.inf) -> int:
    """A whole number from ``least`` to ``most``."""
    digits = text.isascii() and text.isdigit()
    if digits and len(text) > len(str(MOST)) and most == math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is too large a number")
    if not digits or len(text) > len(str(MOST)) or not least <= int(text) <= most:
        limits = f"of at least {least}" if most == math.inf else f"from {least} to {most}"
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number {limits}")
    return int(text)


def positive(text: str) -> int:
    """A whole number of at least 1."""
    return integer(text, 1)


def positive_number(text: str) -> float:
    """A finite number above zero."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return number


def bump_counts(text: str) -> int | tuple[int, ...]:
    """A number of bumps, or of grid cells per axis."""
    try:
        counts = tuple(positive(part) for part in text.split("x"))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1 or a grid such as 4x10") from None
    return counts if len(counts) > 1 else counts[0]


def _seed(text: str) -> int:
    return integer(text, 0, MOST)


def threads(text: str) -> int:
    """A number of threads that this machine has."""
    return integer(text, 1, os.cpu_count() or 1)


def _assignment(text: str) -> tuple[str, Any]:
    key, value = (part.strip() for part in text.partition("=")[::2])
    if not key or not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form KEY=VALUE")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's warnings about likely mistakes in a program
            found = ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError):
        return key, value
    except (RecursionError, MemoryError):
        raise argparse.ArgumentTypeError(f"the value of {key} is nested too deeply") from None
    return key, _setting(key, found)


def _setting(key: str, value: Any) -> Any:
    """A value of a setting; whole numbers beyond 64 bits become floats."""
    if isinstance(value, (tuple, list)):
        return type(value)(_setting(key, part) for part in value)
    if isinstance(value, int) and not isinstance(value, bool) and not -MOST - 1 <= value <= MOST:
        try:
            return float(value)
        except OverflowError:
            raise argparse.ArgumentTypeError(f"{key} must be a smaller number: beyond 1e308 there are none") from None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise argparse.ArgumentTypeError(f"{key} must be a number, a word, or several with commas, got {value!r}")


# --- settings ------------------------------------------------------------------------------------


def keywords_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Keyword-only parameters without a flag of their own that can be set, with their defaults."""
    flags = {"method", "boundary", "seed", "dtype", "device"}
    flags |= {"callback", "callbacks", "checkpoint", "stop", "group", "net", "test", "start"}  # not numbers or words
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in flags}


def known(name: str, registry: Mapping[str, Any], what: str) -> Any:
    """The entry of a registry; ``what`` says what it is."""
    if name not in registry:
        raise UsageError(f"unknown {what} {name!r}; there are: {', '.join(registry)}")
    return registry[name]


def scoped(name: str, settable: dict[str, dict[str, Any]], assignments: Sequence[tuple[str, Any]]) -> dict:
    """The assignments by the scopes of ``settable``, which lists what can be set."""
    chosen: dict[str, dict[str, Any]] = {scope: {} for scope in settable}
    for key, value in assignments:
        scope = next((scope for scope, keys in settable.items() if key in keys), None)
        if scope is None:
            there = ", ".join(key for keys in settable.values() for key in keys)
            raise UsageError(f"{name} has no setting {key!r}; there are: {there}")
        chosen[scope][key] = value
    return chosen


def perturbation(arguments: argparse.Namespace, settings: dict[str, dict[str, Any]]) -> float:
    """Size of the random change of the initial shapes; also written into ``settings``."""
    perturb = settings["run"].setdefault("perturb", 0.0 if arguments.seed is None else PERTURB)
    if not isinstance(perturb, (int, float)) or not 0 <= perturb <= sys.float_info.max:
        raise UsageError(f"perturb must be a finite number of at least 0, got {perturb!r}")
    return perturb


def pairs(settings: dict[str, Any]) -> str:
    """Settings as text: ``a1=2 lower=-1,-1``."""

    def text(value: Any) -> str:
        if isinstance(value, tuple):
            return ",".join(map(text, value))
        return f"{value:g}" if isinstance(value, float) else str(value)

    return " ".join(f"{key}={text(value)}" for key, value in settings.items())


def print_settable(settable: dict[str, dict[str, Any]], width: int) -> None:
    """Print what ``--set`` can set besides the fields of a problem."""
    for scope, keys in settable.items():
        if scope != "problem":
            print(f"{scope:<{width}} {pairs(keys)}")
