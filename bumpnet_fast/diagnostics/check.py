"""``bumpnet check``: compares every backend on this machine with the float64 reference, over a table of cases.

The tests check more, where the package is developed.  This check is for the user's machine, above all its GPU.  A
backend takes cases and returns a row of plain data for every operator and dtype.  Any error in an operator gives a
failed row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, NamedTuple

import torch
from torch import Tensor

from ..core import backends, ops
from ..core.private import has_kernel
from ..core.reference import DIAGONAL, WANTS
from . import info
from .cases import Case, moved, problem, questions, results, table, tolerances

DEVICES = ("cpu", "cuda")
DTYPES = (torch.float64, torch.float32)
#: Largest number of failures that are printed.
SHOWN = 20

_ops = torch.ops.bumpnet_fast


# --- one answer ----------------------------------------------------------------------------------


class Verdict(NamedTuple):
    """The result that is worst relative to its tolerance; an error that is NaN is None, and explained."""

    error: float | None
    tolerance: float | None
    message: str | None = None

    @property
    def passed(self) -> bool:
        if self.message is not None:
            return False
        return self.tolerance is None or (self.error is not None and self.error <= self.tolerance)


def compare(got: Sequence[Tensor], wanted: Sequence[Tensor], tolerances: Sequence[float | None], dtype) -> Verdict:
    """Compare results with those wanted: shape, dtype, which entries are finite, and how close they are.

    Parameters
    ----------
    got, wanted : sequence of Tensor
        The results, and float64 tensors to compare with.
    tolerances : sequence of float or None
        Largest difference of each result, relative to its largest entry; None requires finite numbers only.
    dtype : torch.dtype
        Dtype of the floating point results.

    Examples
    --------
    >>> compare([torch.ones(2)], [torch.tensor([1.0, 1.5]).double()], [1e-3], torch.float32)
    Verdict(error=0.3333333333333333, tolerance=0.001, message=None)
    >>> compare([torch.full((2,), float("nan"))], [torch.ones(2).double()], [1e-3], torch.float32).message
    'result 0 is no number at 2 of 2 places'
    """
    if len(got) != len(wanted):
        return Verdict(None, None, f"{len(got)} results, wanted {len(wanted)}")
    verdicts = [Verdict(0.0, tolerances[0] if tolerances else 0.0)]
    for i, (g, w, tolerance) in enumerate(zip(got, wanted, tolerances, strict=True)):
        of_type = dtype if w.is_floating_point() else w.dtype
        if g.shape != w.shape or g.dtype != of_type:
            found = f"{tuple(g.shape)}, {g.dtype}; wanted {tuple(w.shape)}, {of_type}"
            return Verdict(None, tolerance, f"result {i} is {found}")
        g = g.cpu().to(w.dtype)
        numbers = torch.isfinite(w)
        if bad := int((torch.isfinite(g) != numbers).sum()):
            kind = "no number" if bool(numbers.all()) else "a number, or none, against the reference,"
            return Verdict(None, tolerance, f"result {i} is {kind} at {bad} of {g.numel()} places")
        if tolerance is not None and bool(numbers.any()):
            g, w = g[numbers].double(), w[numbers].double()
            difference = (g - w).abs().max().item()
            verdicts.append(Verdict(difference / max(w.abs().max().item(), 1e-30), tolerance))
    return max(verdicts, key=lambda v: v.error / v.tolerance if v.tolerance else v.error)


def _same_bits(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    pairs = zip(first, second, strict=True)
    return all(torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs)


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


# --- backends ------------------------------------------------------------------------------------


class Backend(NamedTuple):
    """A backend: ``run(operator, *args)``; ``served_by`` names the kernels that ran."""

    name: str
    device: str
    missing: str | None
    run: Callable[..., Sequence[Tensor]]
    served_by: Callable[..., str]
    dtypes: tuple[torch.dtype, ...] = DTYPES
    operators: tuple[str, ...] = ()  # empty: all

    def check(self, case: Case) -> Iterator[dict]:
        """A row for every operator and dtype."""
        for operator, question in questions(case).items():
            for dtype in self.dtypes if not self.operators or operator in self.operators else ():
                served = ""
                try:
                    if isinstance(question, Exception):
                        raise question
                    args = moved(question.args, dtype, self.device)
                    served = self.served_by(operator, *args)
                    limits = tolerances(case, operator, dtype, len(question.wanted), served)
                    got = self.run(operator, *args)
                    verdict = compare(got, question.wanted, limits, dtype)
                    # torch does not promise the order of its sums
                    if verdict.passed and served != "reference" and not _same_bits(got, self.run(operator, *args)):
                        verdict = verdict._replace(message="a second run gives other bits")
                except Exception as error:  # an operator that raises has failed; the others are still checked
                    verdict = Verdict(None, None, _text(error))
                yield _row(self, served, operator, dtype, case, verdict)


def _row(backend, served: str, operator: str, dtype: torch.dtype, case: Case, verdict: Verdict) -> dict:
    shape = case._asdict() | {"want": WANTS[case.want]}
    who = {"backend": backend.name, "served_by": served, "operator": operator, "dtype": str(dtype).split(".")[1]}
    return who | shape | verdict._asdict() | {"passed": verdict.passed}


def _registered(operator: str, *args) -> Sequence[Tensor]:
    return results(getattr(_ops, operator)(*args))


def _plain(operator: str, *args) -> Sequence[Tensor]:
    return ops.plain_compact(*args) if operator == "compact" else results(ops.plain(operator, *args))


def _compiled_for(operator: str, device: str) -> bool:
    known = has_kernel(f"bumpnet_fast::{operator}", device)
    return (backends.missing_cuda if device == "cuda" else backends.missing) is None if known is None else known


def _variant(name: str, missing: str | None) -> Backend:
    def run(operator: str, *args) -> Sequence[Tensor]:
        with backends.use_variant(name):
            return _registered(operator, *args)

    if missing is None and name not in backends.variants():
        missing = "not built, or not for this processor"
    return Backend(name, "cpu", missing, run, lambda operator, *args: "compiled" if operator == "compact" else name)


def _on_cuda(device: str, missing: str | None) -> Backend:
    def served_by(operator: str, *args) -> str:
        if operator == "compact":
            return "cuda" if _compiled_for(operator, device) else "reference"
        return "reference" if ops.cuda_kernel(operator, *args) is None else "triton"

    return Backend("cuda", device, missing, _registered, served_by)


def _culled(device: str, missing: str | None) -> Backend:
    """Jets on CUDA with culling, which cases so small would not get."""

    def run(operator: str, *args) -> Sequence[Tensor]:
        with backends.use_culling("always"):
            return _registered(operator, *args)

    return _on_cuda(device, missing)._replace(name="cuda culled", run=run, operators=("jet", "jet_vjp"))


class GraphBackend(NamedTuple):
    """``jet`` and ``jet_vjp`` in a CUDA graph: replayed with other inputs they must give what the calls give."""

    device: str
    missing: str | None
    capture: Callable[[Callable[[], list[Tensor]]], tuple[list[Tensor], Callable[[], None]]]
    name: str = "cuda graph"

    def check(self, case: Case) -> Iterator[dict]:
        """A row for every dtype, if Triton serves."""
        for dtype in DTYPES if case.points else ():
            try:
                first, second = (moved(problem(case, seed), dtype, self.device) for seed in (0, 1))
                if ops.cuda_kernel("jet", *first, case.want, case.tied) is None:
                    continue
                verdict = self._verdict(case, first, second, dtype)
            except Exception as error:
                verdict = Verdict(None, None, _text(error))
            yield _row(self, "triton", "jet, jet_vjp", dtype, case, verdict)

    def _verdict(self, case: Case, inputs: list[Tensor], others: list[Tensor], dtype: torch.dtype) -> Verdict:
        def step() -> list[Tensor]:
            jet = _ops.jet(*inputs, case.want, case.tied)
            cotangents = [t if i <= min(case.want, DIAGONAL) else None for i, t in enumerate(jet)]
            return [*jet, *_ops.jet_vjp(*cotangents, *inputs, case.want, case.tied, True, True)]

        results, replay = self.capture(step)
        for t, other in zip(inputs, others, strict=True):
            t.copy_(other)
        replay()
        eager = [t.cpu().double() for t in step()]
        return compare(results, eager, [0.0] * len(eager), dtype)


def capture(step: Callable[[], list[Tensor]]) -> tuple[list[Tensor], Callable[[], None]]:
    """Capture ``step`` in a CUDA graph: its results, and the function that computes them again in place.

    The inputs of ``step`` must stay where they are in memory; to change them, copy into them.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # Triton compiles and caches fill before the capture, which allows neither
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step()
    return results, graph.replay


def there_may_be() -> list[Backend | GraphBackend]:
    """All backends, each with the reason why it is missing, or None."""
    found = info.report()
    kernels, cuda, triton = (
        found[part].get("missing", found[part].get("error")) for part in ("kernels", "cuda", "triton")
    )
    return [
        Backend("reference", "cpu", None, _plain, lambda operator, *args: "reference", (torch.float32,)),
        *(_variant(name, kernels) for name in backends.VARIANTS),
        _on_cuda("cuda", cuda),
        _culled("cuda", cuda),
        GraphBackend("cuda", cuda or triton, capture),
    ]


# --- all of it -----------------------------------------------------------------------------------


def check(
    devices: Sequence[str] = DEVICES,
    full: bool = False,
    follow: Callable[[list[Case]], Iterable[Case]] = iter,
    candidates: Sequence[Backend | GraphBackend] | None = None,
) -> dict:
    """Run the available backends over the table of cases.

    Parameters
    ----------
    devices : sequence of str
        "cpu", "cuda", or both.
    full : bool
        As for :func:`table`.
    follow : callable
        Wraps the list of cases, as a progress bar does.
    candidates : sequence of Backend, optional
        Backends to check; by default :func:`backends`.

    Returns
    -------
    dict
        Plain data for JSON: ``passed``; ``backends`` (name, device, and why it is missing, or None); ``cases`` (a row
        for every backend, operator, dtype and case, with its error relative to the largest entry, the tolerance,
        ``passed``, and a message if something else is wrong); and ``info``, the report of the installation.  A check
        has passed if it found a backend and no case failed.

    Raises
    ------
    ValueError
        If a device is unknown.

    Examples
    --------
    >>> report = check(["cpu"], follow=lambda cases: cases[:2])
    >>> report["passed"], {row["dtype"] for row in report["cases"]} >= {"float32"}
    (True, True)
    """
    for device in devices:
        if device not in DEVICES:
            raise ValueError(f"devices must be of {', '.join(DEVICES)}, got {device!r}")
    chosen = [b for b in (there_may_be() if candidates is None else candidates) if b.device in devices]
    here = [b for b in chosen if b.missing is None]
    rows = [row for case in follow(table(full)) for backend in here for row in backend.check(case)]
    return {
        "passed": bool(rows) and all(row["passed"] for row in rows),
        "full": full,
        "backends": [{"name": b.name, "device": b.device, "missing": b.missing} for b in chosen],
        "cases": rows,
        "info": info.report(),
    }


def show(report: dict, file: IO[str] | None = None) -> None:
    """Print a report of :func:`check`: a line per backend and operator, and the failures.

    Parameters
    ----------
    report : dict
        Result of :func:`check`.
    file : text file, optional
        Where to print; by default the standard output.
    """
    from rich.console import Console
    from rich.table import Table

    lines: dict[tuple[str, str, str], list[dict]] = {}
    for row in report["cases"]:
        lines.setdefault((row["backend"], row["served_by"], row["operator"]), []).append(row)
    table = Table(box=None, padding=(0, 1, 0, 0))
    for name in ("backend", "served by", "operator", "cases", "float64", "float32", ""):
        table.add_column(name, no_wrap=True)
    order = [backend["name"] for backend in report["backends"]]
    for key, rows in sorted(lines.items(), key=lambda line: order.index(line[0][0])):
        passed = all(row["passed"] for row in rows)
        table.add_row(*key, str(len(rows)), _worst(rows, "float64"), _worst(rows, "float32"), _OUTCOMES[passed])
    console = Console(file=file, highlight=False, soft_wrap=True)
    console.print(table)
    failed = [row for row in report["cases"] if not row["passed"]]
    for row in failed[:SHOWN]:
        console.print(_failure(row), style="red", markup=False)
    if len(failed) > SHOWN:
        console.print(f"... and {len(failed) - SHOWN} more; --json tells them all")
    for backend in report["backends"]:
        if backend["missing"] is not None:
            console.print(f"not here: {backend['name']}: {backend['missing']}", markup=False)
    console.print("Errors are relative to the largest entry; each the worst for its tolerance, which follows.")
    number = len(report["cases"])
    console.print(f"{number - len(failed)} of {number} cases passed" if number else "nothing to check")


_OUTCOMES = {True: "[green]pass[/]", False: "[red]FAIL[/]"}


def _worst(rows: list[dict], dtype: str) -> str:
    """The error that is worst relative to its tolerance."""
    known = [row for row in rows if row["dtype"] == dtype and row["tolerance"] is not None and row["error"] is not None]
    if not known:
        return "-"
    worst = max(known, key=lambda row: row["error"] / (row["tolerance"] or 1e-300))
    return f"{_short(worst['error'])} / {_short(worst['tolerance'])}"


def _short(number: float) -> str:
    """Two digits, as short as possible: 2.5e-3, 1e-12, 0."""
    return f"{number:.1e}".replace("e-0", "e-").replace(".0e", "e") if number else "0"


def _failure(row: dict) -> str:
    why = row["message"] or f"error {_short(row['error'])}, tolerance {_short(row['tolerance'])}"
    sizes = f"N = {row['points']}, M = {row['bumps']}, K = {row['outputs']}, {'tied' if row['tied'] else 'free'}"
    served = f" ({row['served_by']})" if row["served_by"] else ""
    shape = f"{row['kind']}, d = {row['dim']}, {row['want']}, {sizes}"
    return f"failed: {row['backend']}{served} {row['operator']} {row['dtype']}, {shape}: {why}"
