"""Benchmarks of one training step, written in all the ways that a user could.

The step is ``loss = mean(r^2)`` of a residual r that is linear in the jet, its gradient by all rows, and a step of
Adam.  Every contestant starts from the same rows [M, columns] and points [N, d], so results can be compared too.
"""

from __future__ import annotations

import functools
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

from ..core.functional import backend, bump_jet
from ..core.jet import Jet
from ..core.reference import DIAGONAL, GRADIENT, HESSIAN, VALUE, WANTS
from ..core.rows import RowLayout, grid_rows, orientation
from ..core.scopes import torch_threads
from ..nets.bumpnet import BumpNet
from ..nets.step import compile_step

Residual = Callable[..., Tensor]
OURS, STEP = "ours", "ours, compile_step"
EAGER, COMPILED, NESTED = "eager analytic", "torch.compile", "nested autograd"
#: A learning rate so small that a thousand steps do not change the problem.
RATE = 1e-6


class Case(NamedTuple):
    """A case: sizes, dimension, derivatives in the residual, precision and threads."""

    points: int
    bumps: int
    dim: int = 2
    want: str = "laplacian"
    dtype: str = "float32"
    threads: int = 1

    @property
    def name(self) -> str:
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{self.points} points, {self.bumps} bumps, {self.dim}d, {self.want}, {self.dtype}, {threads}"

    def arguments(self, device: str = "cpu", seed: int = 0) -> tuple[Tensor, ...]:
        return case(self.dim, self.points, self.bumps, getattr(torch, self.dtype), seed, device)


#: Cases of a second each; the training step of a small net comes first.
SHORT = (
    Case(1_000, 40),
    Case(1_000, 40, dtype="float64"),
    Case(1_000, 40, want="hessian"),
    Case(1_000, 40, 1),
    Case(1_000, 40, 3),
)


def case(
    dim: int, points: int, bumps: int, dtype: torch.dtype, seed: int = 0, device: str = "cpu"
) -> tuple[Tensor, ...]:
    """Points x [N, d], rows [M, columns] with gradients, their frame, and a right-hand side f [N]."""
    generator = torch.Generator().manual_seed(seed)
    layout = RowLayout(dim)
    domain = torch.stack([-torch.ones(dim), torch.ones(dim)])
    # In one dimension plain float32 could not resolve many bumps of the default width.
    wide = dict(scale=1.0, overlap=3 * math.sqrt(bumps / 2)) if dim == 1 else {}
    rows, frame = grid_rows(bumps, domain, layout, **wide)
    rows += 0.05 * torch.randn(rows.shape, generator=generator, dtype=rows.dtype)
    x = 2 * torch.rand(points, dim, generator=generator, dtype=torch.float64) - 1
    f = torch.randn(points, generator=generator, dtype=torch.float64)
    x, rows, frame, f = (t.to(device, dtype) for t in (x, rows, frame, f))
    return x, rows.requires_grad_(), frame, f


# --- the residual --------------------------------------------------------------------------------


def weights(want: str, dim: int) -> tuple[list[float], list[list[float]]]:
    """Coefficients of u_j and u_ij in the residual, beside u; with "laplacian" it is ``u_xx + u_yy + u - f``.

    Otherwise all coefficients differ, so that no contestant can omit a derivative.
    """
    level, axes = WANTS.index(want), range(dim)
    if want == "laplacian":
        return [0.0] * dim, [[float(i == j) for j in axes] for i in axes]
    mixed = {DIAGONAL: [[float(i == j) for j in axes] for i in axes], HESSIAN: [[1.0] * dim] * dim}
    second = [[(1.0 + i + 2 * j) * mixed[level][i][j] if level in mixed else 0.0 for j in axes] for i in axes]
    return [0.5 + j if level >= GRADIENT else 0.0 for j in axes], second


@functools.cache
def _as_tensors(want: str, dim: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    first, second = (torch.tensor(w, dtype=dtype, device=device) for w in weights(want, dim))
    return first, second.diagonal().clone() if want == "diagonal" else second


def of_jet(jet: Jet, f: Tensor) -> Tensor:
    """The residual [N, 1], from the jet of a net and f [N, 1]."""
    if jet.want == "laplacian":
        return jet.second + jet.value - f
    r = jet.value - f
    if jet.gradient is None:
        return r
    first, second = _as_tensors(jet.want, jet.gradient.shape[-1], f.dtype, f.device)
    r = r + jet.gradient @ first
    if jet.want == "diagonal":
        r = r + jet.second @ second
    elif jet.want == "hessian":
        r = r + (jet.second * second).sum((-1, -2))
    return r


def used_values(rows: Tensor, frame: Tensor) -> tuple[Tensor, ...]:
    """For plain torch: normals w [M, d, d], centres, half sizes, sharpness and amplitudes, from the rows."""
    dim = frame.shape[1]
    layout = RowLayout(dim)
    p = rows[:, layout.sharpness].exp()
    w, _, length = orientation(rows[:, layout.skew], dim)
    c = frame[0] + (frame[1] - frame[0]) * (1 + rows[:, layout.centre].tanh()) / 2
    half = rows[:, layout.size].exp() * length[:, None] / 2
    return w * frame[2], c, half, p, rows[:, layout.amplitude][:, 0]


def formula_value(tanh: Callable, x: Any, bumps: Sequence[Any]) -> Any:
    """u(x) by the paper's formula, 2 d + 1 hyperbolic tangents per bump; works with any array library."""
    w, c, half, p, h = bumps
    dim = x.shape[1]
    S = 1 - 2 * dim
    for k in range(dim):
        z = sum((x[:, j : j + 1] - c[:, j]) * w[:, k, j] for j in range(dim))
        S = S + tanh(p * (z + half[:, k])) + tanh(p * (half[:, k] - z))
    return (0.5 * (1 + tanh(p * S))) @ h


def formula_residual(tanh: Callable, x: Any, bumps: Sequence[Any], f: Any, want: str) -> Any:
    """The residual in closed form: elementwise, with one sum over the bumps, so that a compiler can fuse it."""
    w, c, half, p, h = bumps
    dim, (first, second) = x.shape[1], weights(want, x.shape[1])
    pairs = [(i, j) for i in range(dim) for j in range(dim) if second[i][j]]
    slopes = sorted({i for pair in pairs for i in pair} | {j for j in range(dim) if first[j]})
    S, S1, S2 = 1 - 2 * dim, dict.fromkeys(slopes, 0.0), 0.0
    for k in range(dim):
        z = sum((x[:, j : j + 1] - c[:, j]) * w[:, k, j] for j in range(dim))
        up, down = tanh(p * (z + half[:, k])), tanh(p * (half[:, k] - z))
        g, d = up + down, up - down
        S = S + g
        if slopes:
            G1 = -d * g
            S1 = {j: S1[j] + G1 * (p * w[:, k, j]) for j in slopes}
        if pairs:
            G2 = g * ((g * g + 3 * d * d) / 2 - 2)
            S2 = S2 + G2 * (p * p * sum(second[i][j] * w[:, k, i] * w[:, k, j] for i, j in pairs))
    t = tanh(p * S)
    total = 0.5 * (1 + t)
    if slopes:
        change = sum(first[j] * S1[j] for j in slopes if first[j])
        if pairs:
            change = change + S2 - 2 * p * t * sum(second[i][j] * S1[i] * S1[j] for i, j in pairs)
        total = total + (0.5 * p) * (1 - t * t) * change
    return (total * h).sum(1) - f


# --- contestants ---------------------------------------------------------------------------------


def ours(x: Tensor, rows: Tensor, frame: Tensor, f: Tensor, want: str = "laplacian") -> Tensor:
    return of_jet(bump_jet(x, rows, frame, want), f[:, None]).squeeze(1)


def analytic(x: Tensor, rows: Tensor, frame: Tensor, f: Tensor, want: str = "laplacian") -> Tensor:
    """The closed form in plain torch."""
    return formula_residual(torch.tanh, x, used_values(rows, frame), f, want)


def nested_autograd(x: Tensor, rows: Tensor, frame: Tensor, f: Tensor, want: str = "laplacian") -> Tensor:
    """What a PINN code does: automatic differentiation of the value, once per derivative."""
    level, (first, second) = WANTS.index(want), weights(want, x.shape[1])
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        u = formula_value(torch.tanh, x, used_values(rows, frame))
        r = u - f
        if level == VALUE:
            return r
        gradient = torch.autograd.grad(u.sum(), x, create_graph=True)[0]
        r = r + sum(w * gradient[:, j] for j, w in enumerate(first) if w)
        for i in range(x.shape[1]):
            if any(second[i]):
                row = torch.autograd.grad(gradient[:, i].sum(), x, create_graph=True)[0]
                r = r + sum(w * row[:, j] for j, w in enumerate(second[i]) if w)
    return r


def compiled() -> Residual:
    return torch.compile(analytic, dynamic=False)


def step(
    residual: Residual, x: Tensor, rows: Tensor, frame: Tensor, f: Tensor, want: str = "laplacian"
) -> tuple[Tensor, Tensor]:
    """Loss, and its gradient by all rows."""
    loss = residual(x, rows, frame, f, want).square().mean()
    return loss.detach(), torch.autograd.grad(loss, rows)[0]


class Stages(NamedTuple):
    """Functions of the stages: the loss; loss and gradient; and these with a step of Adam."""

    forward: Callable[[], Any]
    backward: Callable[[], tuple[Any, Any]]
    adam: Callable[[], Any]


def torch_stages(residual: Residual, one: Case, device: str = "cpu") -> Stages:
    """The stages of a residual in torch."""
    x, rows, frame, f = one.arguments(device)
    still, moving = rows.detach(), torch.nn.Parameter(rows.detach().clone())

    def forward() -> Tensor:
        with torch.no_grad():
            return residual(x, still, frame, f, one.want).square().mean()

    return Stages(
        forward,
        lambda: step(residual, x, rows, frame, f, one.want),
        _adam(moving, lambda: residual(x, moving, frame, f, one.want)),
    )


def compiled_stages(one: Case, device: str = "cpu") -> Stages:
    """The closed form under torch.compile; loss and gradient in one graph, which is faster than two."""
    x, rows, frame, f = one.arguments(device)

    def loss(rows: Tensor) -> Tensor:
        return analytic(x, rows, frame, f, one.want).square().mean()

    forward, both = (torch.compile(g, dynamic=False) for g in (loss, torch.func.grad_and_value(loss)))
    rows, moving = rows.detach(), torch.nn.Parameter(rows.detach().clone())
    optimiser = torch.optim.Adam([moving], lr=RATE, fused=True)

    def adam() -> Tensor:
        moving.grad, value = both(moving.detach())
        optimiser.step()
        return value

    return Stages(lambda: forward(rows), lambda: both(rows)[::-1], adam)


def our_stages(one: Case, device: str = "cpu") -> Stages:
    """The stages with a :class:`BumpNet`, as a user writes them."""
    x, f, still, moving = _nets(one, device)

    def forward() -> Tensor:
        with torch.no_grad():
            return of_jet(still.jet(x, want=one.want), f).square().mean()

    def backward() -> tuple[Tensor, Tensor]:
        loss = of_jet(still.jet(x, want=one.want), f).square().mean()
        return loss.detach(), torch.autograd.grad(loss, still.rows)[0]

    return Stages(forward, backward, _adam(moving.rows, lambda: of_jet(moving.jet(x, want=one.want), f)))


def _nets(one: Case, device: str) -> tuple[Tensor, Tensor, BumpNet, BumpNet]:
    """Points, right-hand side [N, 1], and two nets: a fixed one, and one to be trained."""
    x, rows, frame, f = one.arguments(device)
    domain = torch.stack([-torch.ones(one.dim), torch.ones(one.dim)])
    return x, f[:, None], *(BumpNet.from_rows(rows, frame, domain) for _ in range(2))


def our_compiled_stages(one: Case, device: str = "cpu") -> Stages:
    """The same with :func:`compile_step`."""
    x, f, still, moving = _nets(one, device)
    take, train = (compile_step(net, lambda u, f: of_jet(u, f).square().mean(), one.want) for net in (still, moving))
    optimiser = torch.optim.Adam([moving.rows], lr=RATE, fused=True)

    def adam() -> Tensor:
        loss = train(x, f)
        optimiser.step()
        return loss

    return Stages(our_stages(one, device).forward, lambda: (take(x, f), still.rows.grad), adam)


def _adam(rows: torch.nn.Parameter, residual: Callable[[], Tensor]) -> Callable[[], Tensor]:
    optimiser = torch.optim.Adam([rows], lr=RATE, fused=True)

    def adam() -> Tensor:
        optimiser.zero_grad()
        loss = residual().square().mean()
        loss.backward()
        optimiser.step()
        return loss.detach()

    return adam


CONTESTANTS: dict[str, Callable[..., Stages]] = {
    OURS: our_stages,
    STEP: our_compiled_stages,
    EAGER: functools.partial(torch_stages, analytic),
    COMPILED: compiled_stages,
    NESTED: functools.partial(torch_stages, nested_autograd),
}


# --- the short form, on a user's machine ---------------------------------------------------------


def measure(one: Case, names: Iterable[str], seconds: float = 1.0) -> dict[str, dict[str, dict[str, float]]]:
    """Median times of every contestant and stage; they take turns, so that a busy moment affects all alike.

    Parameters
    ----------
    one : Case
        What to time.
    names : iterable of str
        Keys of ``CONTESTANTS``.
    seconds : float
        Duration; every call is timed at least three times.

    Returns
    -------
    dict
        "processor_seconds" and "seconds" (by the clock), each by contestant and stage.

    Examples
    --------
    >>> found = measure(Case(50, 4), [OURS, EAGER], 0.0)
    >>> list(found), list(found["seconds"]), list(found["seconds"][OURS])
    (['processor_seconds', 'seconds'], ['ours', 'eager analytic'], ['forward', 'backward', 'adam'])
    """
    with torch_threads(one.threads):
        calls = {(name, stage): call for name in names for stage, call in CONTESTANTS[name](one)._asdict().items()}
        for call in calls.values():
            call()
        times: dict[tuple[str, str], list[tuple[float, float]]] = {key: [] for key in calls}
        end, rounds = time.perf_counter() + seconds, 0
        while rounds < 3 or time.perf_counter() < end:
            rounds += 1
            for key, call in calls.items():
                processor, start = time.process_time(), time.perf_counter()
                call()
                clock = time.perf_counter() - start
                times[key].append((time.process_time() - processor, clock))
    found: dict[str, dict[str, dict[str, float]]] = {"processor_seconds": {}, "seconds": {}}
    for (name, stage), all_of_it in times.items():
        for by_name, each in zip(found.values(), zip(*all_of_it, strict=True), strict=True):
            by_name.setdefault(name, {})[stage] = statistics.median(each)
    return found


def run(
    names: Sequence[str], seconds: float = 1.0, watched: Callable[[Iterable], Iterable] = iter, cases=SHORT
) -> dict[str, Any]:
    """The report of ``bumpnet bench``: all cases by :func:`measure`, and the machine."""
    found = [one._asdict() | measure(one, names, seconds) for one in watched(cases)]
    return {"cases": found, "backend": backend(), "torch": str(torch.__version__), "machine": platform.machine()}


def show(report: dict[str, Any], file: IO[str] | None = None) -> None:
    """Print a report of :func:`run` for people."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    for name in (*Stages._fields, "ns/pair", "ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    for found in report["cases"]:
        one = Case(**{key: value for key, value in found.items() if key in Case._fields})
        table.add_row(
            f"{one.points} x {one.bumps}, {one.dim}d {one.want}, {one.dtype}".replace("float", "f"), style="bold"
        )
        for name, stages in found["seconds"].items():
            times = [f"{1e3 * t:.3g} ms" for t in stages.values()]
            rate = f"{1e9 * stages['backward'] / (one.points * one.bumps):.1f}"
            table.add_row(f"  {name}", *times, rate, f"{stages['adam'] / found['seconds'][OURS]['adam']:.1f}")
    console = Console(file=file, highlight=False, soft_wrap=True)
    console.print(table)
    console.print("Points x bumps.  forward: the loss; backward: with its gradient to all parameters, also in ns/pair;")
    console.print("adam: with a step of Adam, also in units of ours.")
    console.print(
        f"Medians.  Bumps served by {report['backend']}, torch {report['torch']}, {report['machine']}.", markup=False
    )


__all__ = [
    "COMPILED",
    "CONTESTANTS",
    "EAGER",
    "NESTED",
    "OURS",
    "SHORT",
    "STEP",
    "Case",
    "Stages",
    "measure",
    "run",
    "show",
]
