"""What is known about the quality of an evolution, as a table, and what looks wrong with it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from ...core import checking
from ...problems.sampling import lattice
from ..given_values import contradictions
from ..loop import StopReason
from ..report import LARGE_ERROR, beside_names, not_reliable, number, of_error
from .estimate import SMALL, EvolutionEstimate
from .models import FixedBasis, MovingBasis
from .models import Report as Sample

#: What to do about a large error.
ADVICE = "use more bumps, or a smaller step or tolerance if you have set one"
#: The share that is missed of u_t, and what that adds up to over the time relative to u, from which on the error is
#: estimated; without an estimate the first one is worth a word.
POOR_RESIDUAL, _DRIFT = 0.3, 0.02
#: An error on the way that is so many times that at the end is worth a word of its own.
_ON_THE_WAY = 3.0
#: Points at which the start is looked at, and others for the rate; times at which the rate is looked at there.
_LOOKED_AT, _HELD_OUT, _TIMES = 16384, 128, 9
#: A start that exceeds the range at the points by this share of it has something between them.
_BEYOND = 0.2
#: An evolution that moves less than this, relative to u, does not move; one that has shrunk to this is over.
_STILL, _GONE = 1e-6, 1e-8


@dataclass(frozen=True)
class EvolutionReport:
    """What is known about the quality of an evolution; ``str`` makes a table of it.

    Attributes
    ----------
    fit_error : float
        Relative misfit of the initial values.
    residual : float
        The largest share of u_t that the bumps miss, over all output times.
    error : EvolutionEstimate or None
        The estimated error of u at the last time, and on the way; None if it was switched off.
    time : float
        The last time reached.
    stop : StopReason
        Why the evolution ended.
    warnings : tuple of str
        What looks wrong, and what to do about it.
    """

    fit_error: float
    residual: float
    error: EvolutionEstimate | None
    time: float
    stop: StopReason
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, run: Any, estimate: bool = True) -> EvolutionReport:
        """That of an evolution; it never raises.  ``estimate`` is whether to estimate the error of u."""
        error = run.error_estimate if estimate else None
        residual = max((entry["residual"] for entry in run.history), default=math.nan)
        warnings = dict.fromkeys([*run.warnings, *([] if error is None else by_error(run, error, every=True))])
        return cls(run.fit_error, residual, error, float(run.times[-1]), run.stop, tuple(warnings))

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values."""
        return {
            "fit_error": self.fit_error, "residual": self.residual,
            "error": self.error and self.error.as_dict(), "time": self.time,
            "stop": self.stop.value, "stop_message": self.stop.message, "warnings": list(self.warnings),
        }  # fmt: skip

    def __str__(self) -> str:
        return self.table(warnings=True)

    def table(self, *, warnings: bool = False) -> str:
        """The report as text, with or without the warnings."""
        lines = [
            ("start", f"the bumps fit it up to {number(self.fit_error)}, relative"),
            ("rate", f"the bumps miss up to {number(self.residual)} of u_t"),
        ]
        lines += of_error(self.error, "at most, at the end (estimated)", self._on_the_way())
        lines.append(("stopped", f"at t = {self.time:g}, {self.stop.value}: {self.stop.message}"))
        return "\n".join(beside_names([*lines, *(("warning", warning) for warning in self.warnings if warnings)]))

    def _on_the_way(self) -> list[tuple[str, str]]:
        if self.error is None or not self.error.over_time:
            return []
        worst, t = max(zip(self.error.over_time, self.error.times, strict=True))
        return [("on the way", f"up to {number(worst)} relative L2, at t = {t:.3g}")]


# --- what looks wrong ----------------------------------------------------------------------------


def by_error(run: Any, error: EvolutionEstimate, every: bool = False) -> list[str]:
    """What is wrong by the estimated error; with ``every``, an unknown error alone is worth a word, too."""
    worst, known = max(error.rel_l2), run.rel_l2 is not None  # then that is told
    if not error.reliable:
        if known or error.reason.startswith(SMALL) or not (every or not worst <= LARGE_ERROR):
            return []
        about = f" (perhaps {worst:.1g})" if math.isfinite(worst) else ""
        return [not_reliable(error, about)]
    found = [f"the error at the end is about {worst:.1%} of u: {ADVICE}"] if worst > LARGE_ERROR and not known else []
    if every and error.over_time:
        between, t = max(zip(error.over_time, error.times, strict=True))
        if between > max(LARGE_ERROR, _ON_THE_WAY * worst):
            found.append(
                f"the error on the way is up to {between:.1%} of u, at t = {t:.3g}: use more bumps, or more times if"
                " there are few, as u is interpolated between them"
            )
    return found


def doubts(model: FixedBasis | MovingBasis, times: list[float], samples: list[Sample]) -> list[str]:
    """What looks wrong with the data of an evolution, and with its bumps at the start."""
    problem = model.problem
    found = [str(one) for one in contradictions(problem)]
    if model.fit_error > LARGE_ERROR:
        found.append(f"the bumps fit the start to {model.fit_error:.1g} only: use more")
    found += _beyond_the_points(model)
    last = times[-1]
    if last > 0 and all(s.rate * last < _STILL * s.norm for s in samples):
        found.append(f"u hardly moves until t = {last:g}: check the units of the final time")
    if samples[-1].norm < _GONE * max(s.norm for s in samples):
        found.append(f"nothing is left of u at t = {last:g}: check the units of the final time")
    return found


def missed(model: FixedBasis | MovingBasis, times: list[float], samples: list[Sample]) -> tuple[float, bool]:
    """The largest share of u_t that the bumps miss, and whether that may make the error worth a word.

    Where there are few points, the residual at these is small and tells nothing, so it is looked at elsewhere as well.
    """
    size, final = max(s.norm for s in samples), model.problem.final_time
    pairs = [(s.residual, s) for s in samples]
    if isinstance(model, FixedBasis):
        pairs += _held_out(model, times, samples)
    # motion too slow to matter by the end is ignored
    share = max(r / (max(s.rate, s.norm / final) or 1.0) for r, s in pairs)
    drift = max(r * times[-1] / (max(s.norm, 1e-2 * size) or 1.0) for r, s in pairs)
    doubtful = not (share <= POOR_RESIDUAL and drift <= _DRIFT) or model.fit_error > LARGE_ERROR
    return share, doubtful


def _held_out(model: FixedBasis, times: list[float], samples: list[Sample]) -> list[tuple[float, Sample]]:
    """The part of u_t that the bumps miss at points that are not the model's, with the state, at some times."""
    problem, space, layout = model.problem, model.space, model.layout
    lo, hi = problem.domain.to(model.x)
    d = len(lo)
    generator = torch.Generator().manual_seed(0)
    x = lo + (hi - lo) * torch.rand(_HELD_OUT, d, generator=generator, dtype=torch.float64).to(model.x)
    basis, lift = space.basis(x, model.start_rows, problem.want), space.lift(x, problem.want)
    chosen = sorted({round(i * (len(times) - 1) / (_TIMES - 1)) for i in range(_TIMES)})
    found = []
    for i in chosen:
        amplitudes, rates = (part[:, layout.amplitude] for part in (samples[i].rows, samples[i].rates))
        u = basis.map(lambda part, h=amplitudes: torch.einsum("nm...,mk->nk...", part, h)) + lift
        off = problem.rhs(x, u, times[i]).reshape(len(x), -1) - basis.value @ rates
        found.append((float(off.square().sum(1).mean().sqrt()), samples[i]))
    return found


def _beyond_the_points(model: FixedBasis | MovingBasis) -> list[str]:
    """A peak of the start that lies between the points."""
    problem = model.problem
    x = lattice(problem.domain, _LOOKED_AT).to(model.x)
    start = problem.initial(x).reshape(len(x), -1).to(model.x)
    seen = model.start + model.lift.value
    if not bool(torch.isfinite(start).all()):
        return ["the start is not finite everywhere: look at initial(x)"]
    lo, hi = seen.amin(0), seen.amax(0)
    beyond = torch.maximum(start - hi, lo - start)
    place, output = divmod(int((beyond - _BEYOND * (hi - lo)).argmax()), start.shape[1])
    if not float(beyond[place, output]) > _BEYOND * float((hi - lo)[output]) + 1e-9 * model.size:
        return []
    there, most = float(start[place, output]), float((lo if start[place, output] < lo[output] else hi)[output])
    where = f"{there:.3g} at {checking.place(x[place], 4)}, and {most:.3g} at most where the bumps are fitted"
    return [f"the start is {where}: use more bumps"]


__all__ = ["ADVICE", "POOR_RESIDUAL", "EvolutionReport", "by_error", "doubts", "missed"]
