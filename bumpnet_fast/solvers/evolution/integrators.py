"""Integrators in time of y' = slope(t, y) for a flat float64 tensor y.

One-step methods are steppers ``step(t, y, h)`` of known order.  :class:`Marcher` applies them across an interval, with
given steps, or with steps chosen by comparing one step with two halves.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from scipy import integrate
from torch import Tensor

Slope = Callable[[float, Tensor], Tensor]
Watch = Callable[[float, Tensor], None]

#: scipy's integrators, by our names.
SCIPY = {"dop853": integrate.DOP853, "radau": integrate.Radau, "bdf": integrate.BDF}
IMPLICIT = ("radau", "bdf")
#: Smallest step, as a fraction of the whole time.
_SHORTEST = 2.0**-40
#: Number of step sizes whose matrices are kept.
_KEPT = 16
#: Steps after which an integrator of scipy is replaced by a fresh one.  A resumed evolution repeats no more.
_STRETCH = 100


class StepTooSmall(ArithmeticError):
    """No step is small enough to be accurate; the solution cannot be continued."""


class OneStep(Protocol):
    """A method that needs no earlier steps."""

    order: int

    def step(self, t: float, y: Tensor, h: float) -> Tensor: ...


class RungeKutta4:
    """The classical Runge-Kutta method."""

    order = 4

    def __init__(self, slope: Slope):
        self.slope = slope

    def step(self, t, y, h):
        k1 = self.slope(t, y)
        k2 = self.slope(t + h / 2, torch.add(y, k1, alpha=h / 2))
        k3 = self.slope(t + h / 2, torch.add(y, k2, alpha=h / 2))
        k4 = self.slope(t + h, torch.add(y, k3, alpha=h))
        return y + (h / 6) * (k1 + 2 * (k2 + k3) + k4)


class _ByStepSize:
    """A cache of the results of :meth:`prepare`, by step size."""

    def __init__(self):
        self._kept: dict[str, tuple[float, Any]] = {}

    def prepared(self, h: float):
        key = f"{h:.12e}"  # equal intervals differ by rounding
        if key not in self._kept:
            if len(self._kept) >= _KEPT:
                self._kept.pop(next(iter(self._kept)))
            self._kept[key] = h, self.prepare(h)
        return self._kept[key][1]

    def prepare(self, h: float):
        raise NotImplementedError

    @property
    def prepared_for(self) -> list[float]:
        """The cached step sizes, in order."""
        return [h for h, _ in self._kept.values()]

    @prepared_for.setter
    def prepared_for(self, steps: list[float]) -> None:
        self._kept.clear()
        for h in steps:
            self.prepared(float(h))


class Exponential(_ByStepSize):
    """``y' = A y + b`` by the matrix exponential: exact for any step."""

    def __init__(self, A: Tensor, b: Tensor):
        super().__init__()
        self.A, self.b = A, b

    def prepare(self, h):
        n = len(self.A)
        whole = self.A.new_zeros(n + 1, n + 1)
        whole[:n, :n], whole[:n, n] = h * self.A, h * self.b
        exponential = torch.linalg.matrix_exp(whole)
        return exponential[:n, :n], exponential[:n, n]

    def step(self, t, y, h):
        E, constant = self.prepared(h)
        return torch.addmv(constant, E, y)


class CrankNicolson(_ByStepSize):
    """``y' = A y + b(t)`` by the trapezoidal rule: second order, stable for any step."""

    order = 2

    def __init__(self, A: Tensor, source: Callable[[float], Tensor]):
        super().__init__()
        self.A, self.source = A, source

    def prepare(self, h):
        half, one = 0.5 * h * self.A, torch.eye(len(self.A)).to(self.A)
        return torch.linalg.solve(one - half, torch.stack([one + half, 0.5 * h * one]))

    def step(self, t, y, h):
        forward, source = self.prepared(h)
        return torch.addmv(source @ (self.source(t) + self.source(t + h)), forward, y)


class ExponentialRungeKutta4(_ByStepSize):
    """``y' = A y + g(t, y)``: exact in A, fourth order in g (ETDRK4 of Cox and Matthews, 2002).

    Parameters
    ----------
    A : Tensor
        [n, n], the stiff part.
    slope : callable
        The whole right-hand side; ``g = slope - A y``.
    """

    order = 4

    def __init__(self, A: Tensor, slope: Slope):
        super().__init__()
        self.A, self.slope = A, slope

    def prepare(self, h):
        half_exponential, half_phi, *_ = phi_functions(0.5 * h * self.A)
        exponential, phi1, phi2, phi3 = phi_functions(h * self.A)
        weights = h * (phi1 - 3 * phi2 + 4 * phi3), h * (2 * phi2 - 4 * phi3), h * (4 * phi3 - phi2)
        return half_exponential, 0.5 * h * half_phi, exponential, *weights

    def step(self, t, y, h):
        E2, Q, E, first, middle, last = self.prepared(h)

        def g(s: float, v: Tensor) -> Tensor:
            return torch.addmv(self.slope(s, v), self.A, v, alpha=-1)

        g0, across = g(t, y), E2 @ y
        a = torch.addmv(across, Q, g0)
        ga = g(t + h / 2, a)
        gb = g(t + h / 2, torch.addmv(across, Q, ga))
        gc = g(t + h, torch.addmv(E2 @ a, Q, 2 * gb - g0))
        return E @ y + first @ g0 + middle @ (ga + gb) + last @ gc


def phi_functions(A: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``exp(A)`` and ``phi_k(A) = sum_j A^j / (j + k)!`` for k = 1, 2, 3, by scaling and squaring.

    >>> [round(m.item(), 6) for m in phi_functions(torch.tensor([[1.0]], dtype=torch.float64))]
    [2.718282, 1.718282, 0.718282, 0.218282]
    """
    norm = float(torch.linalg.matrix_norm(A, 1))
    squarings = max(0, math.ceil(math.log2(2 * norm))) if norm > 0.5 else 0
    B, one = A / 2**squarings, torch.eye(len(A)).to(A)
    phi3 = one / math.factorial(18)
    for k in range(17, 2, -1):
        phi3 = B @ phi3 + one / math.factorial(k)
    phi2 = B @ phi3 + one / 2
    phi1 = B @ phi2 + one
    exponential = B @ phi1 + one
    for _ in range(squarings):
        phi3 = (exponential @ phi3 + phi1 / 2 + phi2 + phi3) / 8
        phi2 = (exponential @ phi2 + phi1 + phi2) / 4
        phi1 = (exponential @ phi1 + phi1) / 2
        exponential = exponential @ exponential
    return exponential, phi1, phi2, phi3


# --- across an interval --------------------------------------------------------------------------


class Marcher:
    """A one-step method with given steps, or with steps that keep the error below a tolerance.

    Parameters
    ----------
    method : OneStep
        Makes a step.
    horizon : float
        The whole time, over which the tolerance is distributed.
    step : float or None
        Longest step; None lets the tolerance choose.
    tolerance : float
        Largest error of all steps together, in ``distance``.
    first : float
        First step to try.
    distance : callable
        Distance of two states.
    settle : callable
        Applied to the state after every step; may change its representation, not its meaning.
    """

    def __init__(
        self,
        method: OneStep | Exponential,
        horizon: float,
        step: float | None = None,
        tolerance: float = 1e-8,
        first: float = math.inf,
        distance: Callable[[Tensor, Tensor], float] = lambda a, b: float(torch.linalg.vector_norm(a - b)),
        settle: Callable[[Tensor], Tensor] = lambda y: y,
    ):
        self.method, self.horizon, self.step, self.tolerance = method, horizon, step, tolerance
        self.last, self.distance, self.settle, self.steps = first, distance, settle, 0

    def state_dict(self) -> dict[str, Any]:
        """State between two calls of :meth:`advance`."""
        return {"steps": self.steps, "last": self.last, "prepared": getattr(self.method, "prepared_for", None)}

    def load_state_dict(self, state: dict[str, Any], t: float, y: Tensor, same: bool = True) -> None:
        """Continue from the state of another integrator of the same method, at ``t`` and ``y``."""
        self.steps, self.last = int(state["steps"]), float(state["last"])
        if state["prepared"] is not None:
            self.method.prepared_for = state["prepared"]

    def advance(self, t: float, y: Tensor, until: float, watch: Watch) -> Tensor:
        """The state at ``until``, from ``y`` at ``t``; ``watch`` gets every intermediate state."""
        way = self._chosen if self.step is None else self._equal
        if isinstance(self.method, Exponential):
            way = self._whole
        state = y
        for at, state in way(t, y, until):
            self.steps += 1
            watch(at, state)
        return state

    def _whole(self, t, y, until):
        yield until, self.method.step(t, y, until - t)

    def _equal(self, t, y, until):
        n = max(1, math.ceil((until - t) / self.step - 1e-9))
        h = (until - t) / n
        for i in range(n):
            y = self.settle(self.method.step(t + i * h, y, h))
            yield t + (i + 1) * h, y

    def _chosen(self, t, y, until):
        span, i = until - t, 0
        n = 1 if self.last >= span else 2 ** math.ceil(math.log2(span / self.last) - 1e-6)
        one = None
        shrink = 2**self.method.order - 1
        while i < n:
            h, at = span / n, t + span * (i / n)
            one = self.method.step(at, y, h) if one is None else one
            half = self.method.step(at, y, h / 2)
            two = self.method.step(at + h / 2, half, h / 2)
            error, allowed = self.distance(one, two) / shrink, self.tolerance * h / self.horizon
            if error <= allowed:
                y, one, i = self.settle(two + (two - one) / shrink), None, i + 1
                self.last = h
                yield t + span * (i / n), y
                if n > 1 and i % 2 == 0 and error * 2 ** (self.method.order + 2) < allowed:
                    i, n, self.last = i // 2, n // 2, 2 * h
            elif h < _SHORTEST * self.horizon:
                raise StepTooSmall
            else:
                i, n, one = 2 * i, 2 * n, half


#: Rodas5P of Steinebach (BIT 63, 2023): gamma, and the coefficients of stages, of their combinations, and of time.
_GAMMA = 0.21193756319429014
_STAGES = (
    (),
    (3.0,),
    (2.849394379747939, 0.45842242204463923),
    (-6.954028509809101, 2.489845061869568, -10.358996098473584),
    (2.8029986275628964, 0.5072464736228206, -0.3988312541770524, -0.04721187230404641),
    (-7.502846399306121, 2.561846144803919, -11.627539656261098, -0.18268767659942256, 0.030198172008377946),
)
_STAGES += ((*_STAGES[5], 1.0), (*_STAGES[5], 1.0, 1.0))
_COMBINED = (
    (),
    (-14.155112264123755,),
    (-17.97296035885952, -2.859693295451294),
    (147.12150275711716, -1.41221402718213, 71.68940251302358),
    (165.43517024871676, -0.4592823456491126, 42.90938336958603, -5.961986721573306),
    (24.854864614690072, -3.0009227002832186, 47.4931110020768, 5.5814197821558125, -0.6610691825249471),
    (30.91273214028599, -3.1208243349937974, 77.79954646070892, 34.28646028294783, -19.097331116725623,
     -28.087943162872662),
    (37.80277123390563, -3.2571969029072276, 112.26918849496327, 66.9347231244047, -40.06618937091002,
     -54.66780262877968, -9.48861652309627),
)  # fmt: skip
_TIMES = (0.0, 0.6358126895828704, 0.4095798393397535, 0.9769306725060716, 0.4288403609558664, 1.0, 1.0, 1.0)
_BY_TIME = (
    0.21193756319429014, -0.42387512638858027, -0.3384627126235924, 1.8046452872882734, 2.325825639765069, 0.0, 0.0, 0.0
)  # fmt: skip
#: The states within a step, from the stages.
_WITHIN = (
    (25.948786856663858, -2.5579724845846235, 10.433815404888879, -2.3679251022685204, 0.524948541321073,
     1.1241088310450404, 0.4272876194431874, -0.17202221070155493),
    (-9.91568850695171, -0.9689944594115154, 3.0438037242978453, -24.495224566215796, 20.176138334709044,
     15.98066361424651, -6.789040303419874, -6.710236069923372),
    (11.419903575922262, 2.8879645146136994, 72.92137995996029, 80.12511834622643, -52.072871366152654,
     -59.78993625266729, -0.15582684282751913, 4.883087185713722),
)  # fmt: skip


class Rosenbrock:
    """Rodas5P with steps chosen by its embedded error: order 5, for stiff equations, one factorisation per step.

    Parameters
    ----------
    slope, jacobian : callable
        Functions of t and y.
    horizon : float
        The whole time.
    tolerance : float
        Largest error of a step, as a root mean square over y.
    step : float or None
        Longest step.
    """

    def __init__(self, slope: Slope, jacobian: Slope, horizon: float, tolerance: float, step: float | None = None):
        self.slope, self.jacobian, self.horizon, self.tolerance = slope, jacobian, horizon, tolerance
        self.longest = math.inf if step is None else step
        self.last, self.steps = 1e-3 * horizon, 0

    def advance(self, t: float, y: Tensor, until: float, watch: Watch) -> Tensor:
        """The state at ``until``, from ``y`` at ``t``; ``watch`` gets every intermediate state."""
        known = None
        while t < until:
            h, rest = self.last, until - t
            ending = h >= rest * (1 - 1e-9)
            h = rest if ending else h
            known = known or (self.slope(t, y), self.by_time(t, y), self.jacobian(t, y))
            new, stages = self.attempt(t, y, h, *known)
            error = float(torch.linalg.vector_norm(stages[-1])) / math.sqrt(len(y)) / self.tolerance
            factor = 0.9 * max(error, 1e-8) ** -0.2 if math.isfinite(error) else 0.0
            if error <= 1:
                t, y, known = until if ending else t + h, new, None
                self.steps += 1
                watch(t, y)
            elif h < _SHORTEST * self.horizon:
                raise StepTooSmall
            proposed = min(h * min(4.0, max(0.2, factor)), self.longest)
            self.last = max(self.last, proposed) if ending and error <= 1 else proposed
        return y

    def by_time(self, t: float, y: Tensor) -> Tensor:
        """The derivative of the slope by t alone."""
        later = 1e-7 * self.horizon
        return (self.slope(t + later, y) - self.slope(t, y)) / later

    def attempt(
        self, t: float, y: Tensor, h: float, slope: Tensor, by_time: Tensor | None, jacobian: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The state a step later, and the stages [8, n]; the last one is the embedded estimate of the error."""
        matrix = -jacobian
        matrix.diagonal().add_(1 / (_GAMMA * h))
        factors = torch.linalg.lu_factor(matrix)
        k = y.new_empty(len(_STAGES), len(y))
        a, c = (_lower(rows).to(y) for rows in (_STAGES, _COMBINED))
        for i, (at, by) in enumerate(zip(_TIMES, _BY_TIME, strict=True)):
            right = slope if i == 0 else self.slope(t + at * h, y + a[i, :i] @ k[:i]) + (c[i, :i] / h) @ k[:i]
            right = right if by_time is None or not by else torch.add(right, by_time, alpha=by * h)
            k[i] = torch.linalg.lu_solve(*factors, right[:, None])[:, 0]
        return y + a[-1, :-1] @ k[:-1] + k[-1], k

    @staticmethod
    def within(stages: Tensor) -> Tensor:
        """Three vectors [3, n] that give the states within a step, see :func:`within_step`."""
        return torch.tensor(_WITHIN, dtype=stages.dtype, device=stages.device) @ stages


def within_step(start: Tensor, end: Tensor, within: Tensor, s: float) -> Tensor:
    """The state at the share ``s`` of a step of :class:`Rosenbrock`, of order 4, from those at its ends."""
    r = 1 - s
    return r * start + s * (end + r * (within[0] + s * (within[1] + s * within[2])))


@functools.cache
def _lower(rows: tuple[tuple[float, ...], ...]) -> Tensor:
    """A strictly lower triangular matrix from its rows."""
    matrix = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for i, row in enumerate(rows):
        matrix[i, :i] = torch.tensor(row, dtype=torch.float64)
    return matrix


class ScipyMarcher:
    """An integrator of scipy, step by step.

    Parameters
    ----------
    name : str
        A key of :data:`SCIPY`.
    slope, jacobian : callable
        Functions of t and y; implicit methods use the Jacobian.
    horizon : float
        End of the whole evolution.
    tolerance, size : float
        Relative tolerance of a step, and the size of y below which it is relative to that size.
    step : float or None
        Longest step.

    Notes
    -----
    scipy cannot store an integrator.  One is therefore replaced by a fresh one after :data:`_STRETCH` steps, and the
    stored state is where the latest one began: a resumed evolution repeats its steps, to the same bits.  A fresh one at
    every output time would avoid the repetition, but BDF begins with first order: with 50 times it took 6 times the
    steps, and was 20 times less accurate.
    """

    def __init__(self, name: str, slope: Slope, jacobian: Slope, horizon: float, tolerance: float, size: float, step):
        self.kind, self.slope, self.jacobian, self.horizon = SCIPY[name], slope, jacobian, horizon
        self.rtol, self.atol = max(tolerance, 1e-12), tolerance * size
        self.step, self.implicit, self.solver, self.steps = step, name in IMPLICIT, None, 0

    def _begin(self, t: float, y: Tensor, first: float | None) -> None:
        """Start a fresh integrator, with a given first step or one that scipy chooses."""

        def array(function: Slope):
            return lambda s, v: function(s, torch.from_numpy(v).to(y)).cpu().numpy()

        options = {"rtol": self.rtol, "atol": self.atol / math.sqrt(len(y))}
        options |= {} if self.step is None else {"max_step": self.step}
        options |= {} if first is None else {"first_step": min(first, self.horizon - t)}
        options |= {"jac": array(self.jacobian)} if self.implicit else {}
        self.begun, self.taken = {"t": t, "y": y.clone(), "first": first}, 0
        self.solver = self.kind(array(self.slope), t, y.cpu().numpy(), self.horizon, **options)

    def _steps_to(self, until: float, y: Tensor) -> Iterator[tuple[float, Tensor]]:
        """Yield time and state after every step until ``until`` is reached or passed; ``y`` is a state like them."""
        while self.solver.t < until:
            if self.taken == _STRETCH:
                self._begin(float(self.solver.t), self._state(y), float(self.solver.step_size))
            self.solver.step()
            if self.solver.status == "failed":
                raise StepTooSmall
            self.taken += 1
            yield self.solver.t, self._state(y)

    def _state(self, y: Tensor, t: float | None = None) -> Tensor:
        """The state at the end of the last step, or at ``t`` within it."""
        inside = t is not None and t < self.solver.t
        return torch.from_numpy(self.solver.dense_output()(t) if inside else self.solver.y.copy()).to(y)

    def state_dict(self) -> dict[str, Any]:
        """State between two calls of :meth:`advance`."""
        return {"steps": self.steps, "begun": None if self.solver is None else self.begun}

    def load_state_dict(self, state: dict[str, Any], t: float, y: Tensor, same: bool = True) -> None:
        """Continue from the state of another integrator of the same method, at ``t`` and ``y``.

        A fresh integrator starts there in three cases: y is not the ``same`` as before, because it is in other
        coordinates; the repeated steps differ, as on another machine; or the state is of an older version, which stored
        the numbers of scipy's integrator ("solver").
        """
        self.steps, self.solver = int(state["steps"]), None
        begun = state["begun"] if same and "solver" not in state else None
        if begun is None:
            return
        start, first = float(begun["t"]), begun["first"]
        if begun["y"].shape != y.shape or not 0 <= start < self.horizon or not (first is None or 0 < first < math.inf):
            raise ValueError(f"the state is not that of {self.kind.__name__} for this evolution")
        self._begin(start, begun["y"].to(y), first)
        try:
            for _ in self._steps_to(t, y):
                pass
            same = torch.equal(self._state(y, t), y)
        except StepTooSmall:
            same = False
        if not same:
            self.solver = None

    def advance(self, t: float, y: Tensor, until: float, watch: Watch) -> Tensor:
        """The state at ``until``, from ``y`` at ``t``; ``watch`` gets every intermediate state."""
        if self.solver is None:
            self._begin(t, y, None)
        for at, state in self._steps_to(until, y):
            self.steps += 1
            watch(at, state)
        return self._state(y, until)


class TorchdiffeqMarcher:
    """Any method of torchdiffeq, by name.

    Raises
    ------
    ModuleNotFoundError
        If torchdiffeq is not installed.
    ValueError
        If it has no such method.
    """

    def __init__(self, name: str, slope: Slope, tolerance: float, step: float | None):
        self.name, self.slope, self.tolerance, self.step, self.steps = name, slope, tolerance, step, 0
        try:
            self.odeint = importlib.import_module("torchdiffeq").odeint
        except ModuleNotFoundError as error:
            wanted = "is not built in, and those of torchdiffeq need it: pip install 'bumpnet_fast[ode]'"
            raise ModuleNotFoundError(f"method {name!r} {wanted}", name="torchdiffeq") from error
        self._run(0.0, torch.zeros(1, dtype=torch.float64), 1.0, lambda t, y: torch.zeros_like(y))

    def _run(self, t: float, y: Tensor, until: float, slope: Slope) -> Tensor:
        options = None if self.step is None else {"step_size": min(self.step, until - t)}
        ends = torch.tensor([t, until], dtype=torch.float64, device=y.device)
        return self.odeint(
            lambda s, v: slope(float(s), v), y, ends,
            rtol=self.tolerance, atol=self.tolerance, method=self.name, options=options,
        )[-1]  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """State between two calls of :meth:`advance`: none, as each begins anew."""
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any], t: float, y: Tensor, same: bool = True) -> None:
        """Continue from the state of another integrator."""
        self.steps = int(state["steps"])

    def advance(self, t: float, y: Tensor, until: float, watch: Watch) -> Tensor:
        try:
            y = self._run(t, y, until, self.slope)
        except AssertionError as error:  # its step underflows, or y is not finite
            raise StepTooSmall from error
        self.steps += 1
        watch(until, y)
        return y


__all__ = [
    "SCIPY",
    "CrankNicolson",
    "Exponential",
    "ExponentialRungeKutta4",
    "Marcher",
    "Rosenbrock",
    "RungeKutta4",
    "ScipyMarcher",
    "StepTooSmall",
    "TorchdiffeqMarcher",
    "phi_functions",
    "within_step",
]
