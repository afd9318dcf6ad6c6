"""Problems with a known solution, drawn at random: equation, domain, units, solution, and how it is solved.

``draw(seed, k)`` gives the k-th problem of a seed.  The right-hand side comes from the solution by automatic
differentiation.  The solver is not told the solution: it sees the right-hand side and the values on the boundary.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bumpnet_fast import Jet
from bumpnet_fast.problems import Condition, Problem, sampling

Function = Callable[[Tensor], Tensor]

#: Kinds of solutions, as often as they are drawn.
KINDS = ("smooth",) * 9 + ("polynomial",) * 2 + ("peaked",) * 3 + ("layered",) * 3 + ("cornered",) * 3


class Scaled:
    """The jet of u in numbers of order one: lengths and u by their units."""

    def __init__(self, u: Jet, lengths: Sequence[float], units: Tensor):
        self.jet, self.lengths, self.units = u, lengths, units.to(u.value)
        self.value = u.value / self.units

    def d(self, j: int) -> Tensor:
        return self.jet.d(j) / self.units * self.lengths[j]

    def dd(self, i: int, j: int | None = None) -> Tensor:
        j = i if j is None else j
        return self.jet.dd(i, j) / self.units * (self.lengths[i] * self.lengths[j])

    def laplacian(self, axes: int) -> Tensor:
        """Along the first axes."""
        if self.jet.want == "laplacian":
            return self.jet.laplacian / self.units * self.lengths[0] ** 2
        return sum(self.dd(j) for j in range(axes))


@dataclass(frozen=True)
class Equation:
    """A differential operator, drawn: ``apply(xi, v)`` -> [N, E] for a scaled jet v at scaled points xi."""

    name: str
    want: str
    apply: Callable[[Tensor, Scaled], Tensor]
    linear: bool = True
    time: bool = False
    time_order: int = 1
    outputs: int = 1
    inflow: tuple[tuple[int, int], ...] | None = None


# --- equations -----------------------------------------------------------------------------------


def _stationary(draw: random.Random, d: int) -> Equation:
    a, b, c = draw.uniform(0.5, 4), [draw.uniform(-3, 3) for _ in range(d)], draw.uniform(0.1, 1)

    def variable(xi: Tensor, v: Scaled) -> Tensor:
        k = 1 + 0.5 * torch.sin(a * xi[:, :1])
        return k * v.laplacian(d) + 0.5 * a * torch.cos(a * xi[:, :1]) * v.d(0)

    def mixed(xi: Tensor, v: Scaled) -> Tensor:
        return v.dd(0) + (1 + a) * v.dd(d - 1) + v.dd(0, d - 1)

    choices = [
        Equation("Poisson", "laplacian", lambda xi, v: v.laplacian(d)),
        Equation("Helmholtz", "laplacian", lambda xi, v: v.laplacian(d) + a * a * v.value),
        Equation("reaction and diffusion", "laplacian", lambda xi, v: c * v.laplacian(d) - 10 * a * v.value),
        Equation(
            "convection and diffusion", "diagonal",
            lambda xi, v: c * v.laplacian(d) - sum(s * v.d(j) for j, s in enumerate(b)),
        ),
        Equation("variable coefficients", "diagonal", variable),
        Equation("anisotropic", "hessian", mixed) if d > 1
        else Equation("decay", "gradient", lambda xi, v: v.d(0) + a * v.value, inflow=((0, 0),)),
    ]  # fmt: skip
    return draw.choice(choices)


def _nonlinear(draw: random.Random, d: int) -> Equation:
    a, c = draw.uniform(0.5, 2), draw.uniform(0.1, 1)
    choices = [
        ("cubic", "laplacian", lambda xi, v: v.laplacian(d) - a * v.value**3),
        ("stationary Burgers", "diagonal", lambda xi, v: c * v.laplacian(d) - v.value * v.d(0)),
        ("Bratu", "laplacian", lambda xi, v: v.laplacian(d) + c * torch.exp(v.value)),
        ("sine", "laplacian", lambda xi, v: v.laplacian(d) + a * torch.sin(v.value)),
        ("diffusivity of u", "diagonal", lambda xi, v: (1 + v.value**2) * v.laplacian(d)
         + 2 * v.value * sum(v.d(j) ** 2 for j in range(d))),
    ]  # fmt: skip
    name, want, apply = draw.choice(choices)
    return Equation(name, want, apply, linear=False)


def _evolving(draw: random.Random, d: int, linear: bool) -> Equation:
    """The last of the d axes is time."""
    a, c, n, t = draw.uniform(0.5, 3), draw.uniform(0.05, 0.5), d - 1, d - 1
    if linear:
        start = (*((j, 0) for j in range(n)), (t, 0))
        choices = [
            Equation("heat", "diagonal", lambda xi, v: v.d(t) - c * v.laplacian(n), time=True),
            Equation(
                "wave", "diagonal", lambda xi, v: v.dd(t) - a * a * v.laplacian(n), time=True, time_order=2
            ),
            Equation(
                "advection", "gradient", lambda xi, v: v.d(t) + a * sum(v.d(j) for j in range(n)), time=True,
                inflow=start,
            ),
        ]  # fmt: skip
        return draw.choice(choices)
    choices = [
        ("Burgers", lambda xi, v: v.d(t) + v.value * v.d(0) - c * v.laplacian(n)),
        ("Fisher", lambda xi, v: v.d(t) - c * v.laplacian(n) - a * v.value * (1 - v.value)),
        ("Allen-Cahn", lambda xi, v: v.d(t) - c * v.laplacian(n) + a * (v.value**3 - v.value)),
    ]
    name, apply = draw.choice(choices)
    return Equation(name, "diagonal", apply, linear=False, time=True)


def _system(draw: random.Random, d: int) -> Equation:
    a, c = draw.uniform(0.5, 2), draw.uniform(0.5, 2)

    def coupled(xi: Tensor, v: Scaled) -> Tensor:
        p, q = v.value.unbind(1)
        lap = v.laplacian(d)
        return torch.stack([lap[:, 0] + a * q, lap[:, 1] - c * p], 1)

    def reacting(xi: Tensor, v: Scaled) -> Tensor:
        p, q = v.value.unbind(1)
        lap = v.laplacian(d)
        return torch.stack([lap[:, 0] - a * p * q, lap[:, 1] - c * q + p * p], 1)

    def complex_waves(xi: Tensor, v: Scaled) -> Tensor:
        p, q = v.value.unbind(1)
        lap = v.laplacian(d)
        return torch.stack([lap[:, 0] + 9 * a * p - c * q, lap[:, 1] + 9 * a * q + c * p], 1)

    def first_order(xi: Tensor, v: Scaled) -> Tensor:
        p, q = v.value.unbind(1)
        slope = v.d(0)
        return torch.stack([slope[:, 0] - a * q, slope[:, 1] + c * p], 1)

    choices = [
        Equation("complex Helmholtz", "laplacian", complex_waves, outputs=2),
        Equation("two coupled", "laplacian", coupled, outputs=2),
        Equation("two reacting", "laplacian", reacting, linear=False, outputs=2),
    ]
    if d == 1:
        choices.append(Equation("oscillator", "gradient", first_order, outputs=2, inflow=((0, 0),)))
    return draw.choice(choices)


# --- solutions -----------------------------------------------------------------------------------


def _solution(draw: random.Random, kind: str, d: int, widths: Sequence[float], equation: Equation, periodic: bool):
    """A function of xi [N, d] -> [N], and words for it."""
    middle = [w * draw.uniform(0.25, 0.75) for w in widths]
    scale = draw.uniform(0.3, 1.0)
    if periodic:
        k, shift, peak = draw.randint(1, 2), draw.random(), draw.uniform(1, 30)

        def wave(xi: Tensor) -> Tensor:
            angle = 2 * math.pi * (xi[:, 0] / widths[0] - shift)
            profile = torch.exp(peak * (torch.cos(angle) - 1)) if kind == "peaked" else torch.sin(k * angle)
            return profile * torch.cos(scale * xi[:, 1:].sum(1)) if d > 1 else profile

        return wave, "periodic peak" if kind == "peaked" else "periodic wave"
    if kind == "polynomial":
        a, b, c = (draw.uniform(-1, 1) for _ in range(3))
        return lambda xi: a + b * xi.sum(1) + c * xi.prod(1) * xi[:, 0] + 0.5 * xi[:, -1] ** 2, "polynomial"
    most = (9.0, 5.0, 3.0)[d - 1] * draw.choice((1, 1, 1, 1, 1, 3))
    waves = [(draw.uniform(0.3, 1), [draw.uniform(-most, most) for _ in range(d)], draw.uniform(0, 6)) for _ in "ab"]

    def smooth(xi: Tensor) -> Tensor:
        return sum(a * torch.sin(xi @ xi.new_tensor(k) + p) for a, k, p in waves)

    if kind == "smooth":
        return smooth, "waves"
    if kind == "peaked":
        width = math.exp(draw.uniform(math.log((0.005, 0.03, 0.1)[d - 1]), math.log(0.3)))
        return (
            lambda xi: scale * smooth(xi) + torch.exp(-((xi - xi.new_tensor(middle)) ** 2).sum(1) / (2 * width**2)),
            f"peak of width {width:.2g}",
        )
    if kind == "layered":
        width = math.exp(draw.uniform(math.log((0.003, 0.02, 0.1)[d - 1]), math.log(0.2)))
        angle = draw.choice((0.0, draw.uniform(-1, 1)))
        if draw.random() < 0.5:
            end = widths[0]
            return lambda xi: scale * smooth(xi) + torch.exp((xi[:, 0] - end) / width), f"end layer of {width:.2g}"
        normal = [math.cos(angle), math.sin(angle), 0.0][:d]
        return (
            lambda xi: scale * smooth(xi) + torch.tanh((xi - xi.new_tensor(middle)) @ xi.new_tensor(normal) / width),
            f"front of {width:.2g}",
        )
    first = equation.want == "gradient" and equation.time_order == 1
    power = draw.uniform(1.0, 2.0) if first else draw.uniform(1.6, 3.0)
    if d > 1 and not equation.time and draw.random() < 0.5:
        at = [0.0] * d if draw.random() < 0.5 else middle
        power = max(power, 1.2)
        return (
            lambda xi: scale * smooth(xi) + ((xi - xi.new_tensor(at)) ** 2).sum(1).clamp_min(1e-300) ** (power / 2),
            f"r^{power:.2g}",
        )
    return lambda xi: scale * smooth(xi) + (xi[:, 0] - middle[0]).abs() ** power, f"|x - c|^{power:.2g}"


def _corner(xi: Tensor) -> Tensor:
    angle = torch.remainder(torch.atan2(xi[:, 1], xi[:, 0]), 2 * math.pi)
    return xi.norm(dim=1).clamp_min(1e-300) ** (2 / 3) * torch.sin(2 / 3 * angle)


# --- domains: in the box from -1 to 1 --------------------------------------------------------------


def _circle(counts: Sequence[int], radius: Function) -> Tensor:
    n = 4 * max(counts)
    angle = 2 * math.pi * torch.arange(n, dtype=torch.float64) / n
    return radius(angle)[:, None] * torch.stack([angle.cos(), angle.sin()], 1)


def _sphere(counts: Sequence[int]) -> Tensor:
    n = 6 * max(counts) ** 2
    k = torch.arange(n, dtype=torch.float64) + 0.5
    z, angle = 1 - 2 * k / n, math.pi * (1 + math.sqrt(5)) * k
    return torch.stack([(1 - z * z).sqrt() * angle.cos(), (1 - z * z).sqrt() * angle.sin(), z], 1)


def _star(angle: Tensor) -> Tensor:
    return 0.75 + 0.15 * torch.cos(4 * angle)


def _l_edges(counts: Sequence[int]) -> Tensor:
    box = torch.tensor([[-1.0, -1.0], [1.0, 1.0]])
    outer, steps = sampling.faces(box, tuple(counts)), [torch.arange(n, dtype=torch.float64) / n for n in counts]
    inner = [torch.stack([steps[0], 0 * steps[0]], 1), torch.stack([0 * steps[1], -steps[1]], 1)]
    return torch.cat([outer[(outer[:, 0] <= 0) | (outer[:, 1] >= 0)], *inner])


#: What is inside, and points of the edge, by name.
MASKS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Sequence[int]], Tensor]]] = {
    "disc": (lambda xi: xi.norm(dim=1) <= 1, lambda counts: _circle(counts, torch.ones_like)),
    "star": (
        lambda xi: xi.norm(dim=1) <= _star(torch.atan2(xi[:, 1], xi[:, 0])), lambda counts: _circle(counts, _star)
    ),
    "annulus": (
        lambda xi: (xi.norm(dim=1) <= 1) & (xi.norm(dim=1) >= 0.4),
        lambda counts: torch.cat([_circle(counts, lambda a, r=r: r * torch.ones_like(a)) for r in (1.0, 0.4)]),
    ),
    "L": (lambda xi: (xi[:, 0] < 0) | (xi[:, 1] > 0), _l_edges),
    "ball": (lambda xi: xi.norm(dim=1) <= 1, _sphere),
}  # fmt: skip


# --- the problem -----------------------------------------------------------------------------------


class Manufactured(Problem):
    """An equation on a domain, in some units, with a known solution that is not told."""

    def __init__(
        self, equation: Equation, solutions: Sequence[Function], lengths: Sequence[float], origin: Sequence[float],
        widths: Sequence[float], units: Sequence[float], equation_unit: float, mask: str | None, periodic: bool,
        flux: tuple[int, int] | None = None,
    ):  # fmt: skip
        d = len(widths)
        corner = [-1.0] * d if mask else [0.0] * d
        self.equation, self.solutions, self.lengths, self.origin = equation, solutions, tuple(lengths), tuple(origin)
        self.units, self.equation_unit, self.mask = torch.tensor(units, dtype=torch.float64), equation_unit, mask
        self.lower = tuple(o + a * s for o, a, s in zip(origin, corner, lengths, strict=True))
        self.upper = tuple(o + (a + w) * s for o, a, w, s in zip(origin, corner, widths, lengths, strict=True))
        self.name, self.want, self.outputs = "manufactured", equation.want, equation.outputs
        self.time, self.time_order = (d - 1 if equation.time else None), equation.time_order
        self.periodic = (0,) if periodic else ()
        self.dirichlet = ((d - 1, 0),) if periodic and equation.inflow else equation.inflow
        self.forms = ("soft",) if mask else ("hard",) if equation.time_order == 2 else ("hard", "soft")
        self.flux, self._known = flux, []
        if flux:
            self.dirichlet = tuple(face for face in super().faces if face != flux)

    def xi(self, x: Tensor) -> Tensor:
        """Points in numbers of order one."""
        return (x - x.new_tensor(self.origin)) / x.new_tensor(self.lengths)

    def solution(self, x: Tensor) -> Tensor:
        """[N, K]; only for measuring."""
        xi = self.xi(x)
        return torch.stack([u(xi) for u in self.solutions], 1) * self.units.to(x)

    def _terms(self, x: Tensor, u: Jet) -> Tensor:
        return self.equation_unit * self.equation.apply(self.xi(x), Scaled(u, self.lengths, self.units))

    def right_side(self, x: Tensor) -> Tensor:
        for known, values in self._known:
            if known is x:
                return values
        values = self._terms(x, Jet.of(self.solution, x, self.want))
        self._known = [*self._known[-5:], (x, values)]
        return values

    def residual(self, x, u, *_, **unknowns):
        return self._terms(x, u) - self.right_side(x)

    def boundary_values(self, x):
        return self.solution(x)

    def side_conditions(self):
        if not self.flux:
            return []
        axis, scale = self.flux[0], self.lengths[self.flux[0]] / self.units

        def misfit(x: Tensor, u: Jet) -> Tensor:
            return (u.d(axis) - Jet.of(self.solution, x, "gradient").d(axis)) * scale.to(x)

        return [Condition("flux", lambda counts: sampling.faces(self.domain, counts, [self.flux]), misfit, "gradient")]

    def inside(self, x):
        return MASKS[self.mask][0](self.xi(x)) if self.mask else super().inside(x)

    def boundary_points(self, counts):
        if not self.mask:
            return super().boundary_points(counts)
        xi = MASKS[self.mask][1](counts)
        return xi * xi.new_tensor(self.lengths) + xi.new_tensor(self.origin)


@dataclass
class Drawn:
    """A problem, words about it, and how it is solved."""

    problem: Problem
    about: dict[str, Any]
    bumps: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)


def _units(draw: random.Random) -> float:
    return 10 ** draw.uniform(-6, 6)


def draw(seed: int, k: int) -> Drawn:
    """The k-th problem of a seed; it does not depend on the others."""
    rng = random.Random(f"{seed}/{k}")
    d, kind = rng.choice((1, 1, 1, 2, 2, 2, 2, 3)), rng.choice(KINDS)
    mask = rng.choice(("disc", "star", "annulus", "L")) if d == 2 and rng.random() < 0.3 else None
    mask = "ball" if d == 3 and rng.random() < 0.3 else mask
    family = rng.random()
    if mask or d == 1:
        equation = _system(rng, d) if family < 0.15 else (_nonlinear if family < 0.45 else _stationary)(rng, d)
    elif family < 0.1:
        equation = _system(rng, d)
    elif family < 0.55:
        equation = (_nonlinear if family < 0.25 else _stationary)(rng, d)
    else:
        equation = _evolving(rng, d, linear=family < 0.85)
    periodic = equation.time and equation.time_order == 1 and d == 2 and rng.random() < 0.3
    if periodic and kind not in ("smooth", "peaked"):
        kind = "smooth"
    widths = [2.0] * d if mask else [rng.choice((1.0, 1.0, 2.0, 0.5)) for _ in range(d)]
    solutions, words = zip(
        *(_solution(rng, kind, d, widths, equation, periodic) for _ in range(equation.outputs)), strict=True
    )
    if kind == "cornered" and mask == "L":
        solutions, words = (_corner, *solutions[1:]), ("r^(2/3)", *words[1:])
    if equation.time_order == 2:  # at rest at the start
        solutions = tuple(lambda xi, u=u: u(torch.cat([xi[:, :-1], xi[:, -1:] ** 2], 1)) for u in solutions)
    plain = rng.random() < 0.3
    length, duration, unit = (1.0, 1.0, 1.0) if plain else (_units(rng), _units(rng), _units(rng))
    lengths = [length] * (d - 1) + [duration if equation.time else length]
    origin = [s * rng.choice((0.0, rng.uniform(-2, 2))) for s in lengths]
    units = [unit if plain else unit * 10 ** rng.uniform(-2, 2) for _ in range(equation.outputs)]
    flux = (0, rng.randint(0, 1)) if not (mask or periodic or equation.inflow) and rng.random() < 0.25 else None
    problem = Manufactured(
        equation, solutions, lengths, origin, widths, units, 1.0 if plain else _units(rng), mask, periodic, flux
    )
    bumps, options = _settings(rng, d, problem)
    about = {
        "equation": equation.name, "linear": equation.linear, "d": d, "kind": kind,
        "u": " and ".join(dict.fromkeys(words)),
        "domain": mask or ("periodic" if periodic else "box, flux" if flux else "box"), "boundary": options["boundary"],
        "units": "1" if plain else f"{length:.0e}, {unit:.0e}",
    }  # fmt: skip
    return Drawn(problem, about, bumps, options)


def _settings(rng: random.Random, d: int, problem: Manufactured) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Bumps and options of a solve, also bad ones: few bumps, few iterations, few points, methods that do not suit."""
    bumps = tuple(rng.randint(*((4, 16), (3, 7), (2, 3))[d - 1]) for _ in range(d))
    options: dict[str, Any] = {"boundary": rng.choice(problem.forms), "iterations": rng.choice((2, 5, 10, 20, 40))}
    many = rng.random()
    if many < 0.2:  # about as many equations as parameters
        options["points"] = round(math.prod(bumps) * problem.outputs * rng.uniform(2.0, 6.0)) + 10
    elif many < 0.35:
        options["sampling"] = rng.choice(("sobol", "chebyshev", "uniform"))
    how = rng.random()
    if how < 0.08:
        options |= {"method": "adam", "iterations": 150}
    elif how < 0.14:
        options |= {"method": "lbfgs", "iterations": 60}
    elif how < 0.2:
        options["method"] = "lm"
    elif how < 0.3:
        options["refine"] = 1
    return bumps, options


# --- unknown coefficients from noisy measurements ----------------------------------------------------


class Measured(Manufactured):
    """A manufactured equation with a factor that is unknown, and measurements of u with noise."""

    linear = False

    def __init__(self, *given: Any, terms: Callable, truth: float, guess: float, noise: float, number: int, seed: int):
        super().__init__(*given)
        self.terms, self.truth, self.unknowns = terms, truth, {"k": guess}
        generator = torch.Generator().manual_seed(seed)
        self.at = sampling.interior(self.domain, (number,) + (1,) * (len(self.lower) - 1), "sobol", seed)
        values = self.solution(self.at)
        self.values = values + noise * self.units * torch.randn(values.shape, dtype=torch.float64, generator=generator)

    def _terms(self, x, u, k=None):
        scaled = Scaled(u, self.lengths, self.units)
        return self.equation_unit * self.terms(self.xi(x), scaled, self.truth if k is None else k)

    def residual(self, x, u, *_, **unknowns):
        return self._terms(x, u, unknowns["k"]) - self.right_side(x)

    def side_conditions(self):
        unit = self.units

        def misfit(x: Tensor, u: Jet) -> Tensor:
            return (u.value - self.values.to(x)) / unit.to(x)

        return [Condition("measured", lambda counts: self.at, misfit)]


def draw_inverse(seed: int, k: int) -> Drawn:
    """The k-th problem with an unknown."""
    rng = random.Random(f"inverse {seed}/{k}")
    name, want, time, d, terms = rng.choice([
        ("heat, diffusivity", "diagonal", True, 2, lambda xi, v, k: v.d(1) - k * v.dd(0)),
        ("advection and diffusion, speed", "diagonal", True, 2, lambda xi, v, k: v.d(1) + k * v.d(0) - 0.1 * v.dd(0)),
        ("reaction rate", "laplacian", False, 2, lambda xi, v, k: v.laplacian(2) - k * v.value),
        ("cubic, rate", "laplacian", False, 1, lambda xi, v, k: v.laplacian(1) - k * v.value**3),
        ("variable diffusivity", "diagonal", False, 1, lambda xi, v, k: (1 + k * xi) * v.dd(0) + k * v.d(0)),
    ])  # fmt: skip
    equation = Equation(name, want, lambda xi, v: v.value, linear=False, time=time)
    widths = [1.0] * d
    solution, words = _solution(rng, "smooth", d, widths, equation, False)
    truth, noise = rng.uniform(0.2, 1.0), rng.choice((1e-3, 3e-3, 1e-2))
    lengths, units = ([1.0] * d, [1.0]) if rng.random() < 0.5 else ([_units(rng)] * d, [_units(rng)])
    problem = Measured(
        equation, [solution], lengths, [0.0] * d, widths, units, 1.0, None, False, terms=terms, truth=truth,
        guess=truth * rng.uniform(0.5, 2), noise=noise, number=rng.randint(30, 100), seed=k,
    )  # fmt: skip
    about = {"equation": name, "d": d, "u": words, "noise": noise, "units": f"{lengths[0]:.0e}, {units[0]:.0e}"}
    return Drawn(problem, about, (8,) if d == 1 else (5, 5), {"boundary": "hard", "iterations": 20})
