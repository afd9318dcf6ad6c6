"""The experiments of docs/results.md: every claim of arXiv:2512.17198, and every problem of the library, as a command.

``bumpnet`` commands get ``--seed``, which perturbs the initial shapes or draws the functions, where ``seeds`` has
numbers; those that have nothing random run once.  The baselines are scripts beside this file.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

PINN, MARCHING, PRUNING, EDNN, DEEPONET = PARTS = (
    "Bump-PINN",
    "Marching in time",
    "Pruning and growth",
    "Bump-EDNN",
    "Bump-DeepONet",
)
#: What the paper claims of each, in our words.
CLAIMS = {
    PINN: "20 to 100 times fewer parameters than a PINN of equal accuracy.",
    MARCHING: "Advection at speed 30 is an open problem: PINN and Bump-PINN both fail.",
    PRUNING: "Bumps of small amplitude can be removed during training. A named limit is that this cannot be undone.",
    EDNN: "If only amplitudes evolve, solving for their rates is nearly 1000 times cheaper than for a perceptron.",
    DEEPONET: "100 times fewer parameters than a DeepONet.",
}


@dataclass(frozen=True)
class Experiment:
    """One line of the page.

    Parameters
    ----------
    name : str
        Of its files in ``bench/results``.
    part : str
        One of :data:`PARTS`.
    title : str
        What the page calls it.
    command : str
        ``bumpnet`` or a script with its arguments, without seed and output.
    wants : tuple of str
        Figures that were set as a goal, ``"rel_l2 <= 1e-6"``: of what the command reports, or of what
        results.py derives from it and the baselines: ``fewer`` (parameters of the smallest of them by ours) and
        ``of_baseline`` (our error by the least of theirs).
    baselines : tuple of str
        Names of the experiments that it is measured against.
    seeds : tuple of int or None
    minutes : float
        Of one run, roughly, on an idle core.
    is_baseline : bool
    note : str
        For the page: what the paper has for this very problem, or what else to know.
    """

    name: str
    part: str
    title: str
    command: str
    wants: tuple[str, ...] = ()
    baselines: tuple[str, ...] = ()
    seeds: tuple[int | None, ...] = (0, 1, 2)
    minutes: float = 0.1
    is_baseline: bool = False
    note: str = ""

    def line(self, seed: int | None) -> str:
        """The command as one would type it."""
        return self.command if seed is None else f"{self.command} --seed {seed}"

    def words(self, seed: int | None) -> list[str]:
        return shlex.split(self.line(seed))


def _baseline(name: str, part: str, title: str, command: str) -> Experiment:
    script, minutes = ("bench/deeponet.py", 5) if part == DEEPONET else ("bench/mlp_pinn.py", 10)
    return Experiment(name, part, title, f"python {script} {command}", seeds=(0,), minutes=minutes, is_baseline=True)


def _deeponets(operator: str) -> tuple[str, ...]:
    return f"deeponet-{operator}-linear", f"deeponet-{operator}"


_MARCH = "--windows 10 --bumps 4x4"
_OPERATOR = ("rel_l2 <= 3e-3", "fewer >= 100", "of_baseline <= 1")

EXPERIMENTS = (
    Experiment("sin", PINN, "sin x, 24 parameters", "bumpnet solve regression", ("rel_l2 <= 1e-6",)),
    Experiment(
        "poisson", PINN, "Poisson", "bumpnet solve poisson", ("rel_l2 <= 1e-7", "seconds <= 10"), ("poisson-mlp",)
    ),
    Experiment(
        "helmholtz", PINN, "Helmholtz, waves 1 and 4", "bumpnet solve helmholtz", ("rel_l2 <= 4e-5", "seconds <= 10"),
        ("helmholtz-mlp",), note="The paper: 280 parameters, where a PINN takes 55 times more.",
    ),
    Experiment(
        "helmholtz-soft", PINN, "Helmholtz, soft boundary", "bumpnet solve helmholtz --boundary soft",
        ("rel_l2 <= 1e-3",),
    ),
    Experiment(
        "helmholtz-first-order", PINN, "Helmholtz, Adam and L-BFGS",
        "bumpnet solve helmholtz --method adam+lbfgs --set iterations=1000,1000", minutes=0.5,
        note="Trained as in the paper.",
    ),
    Experiment("sharp-poisson", PINN, "Poisson, a narrow peak", "bumpnet solve sharp-poisson"),
    Experiment("lshape", PINN, "Laplace on an L", "bumpnet solve lshape", minutes=0.2),
    Experiment(
        "convection-diffusion", PINN, "Convection-diffusion, a layer of 0.01", "bumpnet solve convection-diffusion",
        ("rel_l2 <= 1e-3",), minutes=1,
    ),
    Experiment("heat", PINN, "Heat, space and time", "bumpnet solve heat", baselines=("heat-mlp",)),
    Experiment("heat2d", PINN, "Heat, two dimensions and time", "bumpnet solve heat2d", minutes=0.2),
    Experiment("wave", PINN, "Wave", "bumpnet solve wave", minutes=0.2),
    Experiment("kovasznay", PINN, "Navier-Stokes, Kovasznay's flow", "bumpnet solve kovasznay", minutes=0.2),
    Experiment(
        "inverse-heat", PINN, "Heat with unknown conductivity", "bumpnet solve inverse-heat",
        note="The conductivity is found along with u. Over seeds 0 to 7 the median is 2.4e-7; it was 1.2e-7 before"
        " all rows counted alike. Weights of the measurements from 1e-4 to 100, no limit on thin edges, no refinement"
        " and more iterations change it by less than the seeds do.",
    ),
    _baseline("poisson-mlp", PINN, "Poisson", "poisson"),
    _baseline("helmholtz-mlp", PINN, "Helmholtz", "helmholtz"),
    _baseline("heat-mlp", PINN, "Heat", "heat"),
    Experiment(
        "advection-marched", MARCHING, "Advection, speed 30, 10 windows",
        f"bumpnet solve advection {_MARCH} --set tolerance=1e-3", ("rel_l2 <= 5e-4", "seconds <= 5"),
        ("advection-mlp",),
    ),
    Experiment(
        "advection", MARCHING, "Advection, speed 30, one solve", "bumpnet solve advection", ("rel_l2 <= 1e-3",),
        ("advection-mlp",), minutes=0.3,
    ),
    Experiment(
        "advection-100", MARCHING, "Advection, speed 100, 34 windows",
        "bumpnet solve advection --set nu=100 --windows 34 --bumps 4x4 --set tolerance=1e-3", ("rel_l2 <= 1e-3",),
        minutes=0.3,
    ),
    Experiment(
        "burgers", MARCHING, "Burgers, viscosity 0.01/pi", "bumpnet solve burgers", ("rel_l2 <= 1e-3",),
        ("burgers-mlp",), minutes=4,
    ),
    Experiment(
        "allen-cahn", MARCHING, "Allen-Cahn", "bumpnet solve allen-cahn", ("rel_l2 <= 1e-3",), minutes=2,
    ),
    _baseline("advection-mlp", MARCHING, "Advection, speed 30, 10 windows", f"advection {_MARCH}"),
    _baseline("burgers-mlp", MARCHING, "Burgers", "burgers --points 8000 --sampling sobol"),
    Experiment(
        "few-bumps", PRUNING, "Heat, 36 bumps pruned to 18", "python examples/few_bumps.py",
        ("pruned_by_full <= 2",), seeds=(None, 0, 1, 2), minutes=0.2,
    ),
    Experiment(
        "heat-18", PRUNING, "Heat, 18 bumps from the start", "bumpnet solve heat --bumps 3x6 --set iterations=400",
        seeds=(None, 0, 1, 2),
    ),
    Experiment(
        "ednn-heat", EDNN, "Heat", "bumpnet evolve heat --bumps 40", ("rel_l2 <= 1e-7",), seeds=(None,),
    ),
    Experiment(
        "ednn-advection", EDNN, "Advection, one period", "bumpnet evolve advection --bumps 40", ("rel_l2 <= 1e-7",),
        seeds=(None,),
    ),
    Experiment(
        "ednn-pulse", EDNN, "Advection of a pulse", "bumpnet evolve advection --bumps 40 --set narrow=2", seeds=(None,),
    ),
    Experiment(
        "ednn-burgers", EDNN, "Burgers, viscosity 0.02", "bumpnet evolve burgers --bumps 40",
        ("rel_l2 <= 5e-5", "seconds <= 0.5"), seeds=(None,),
    ),
    Experiment("ednn-allen-cahn", EDNN, "Allen-Cahn", "bumpnet evolve allen-cahn --bumps 80", seeds=(None,)),
    Experiment("ednn-heat2d", EDNN, "Heat, two dimensions", "bumpnet evolve heat2d", seeds=(None,)),
    *(
        Experiment(
            f"ednn-{name}-mlp", EDNN, title, f"python bench/mlp_ednn.py {name}", ("solve_ratio >= 1000",), minutes=0.7,
            is_baseline=True,
        )
        for name, title in (
            ("heat", "Heat"), ("advection", "Advection"), ("burgers", "Burgers"), ("allen-cahn", "Allen-Cahn"),
        )
    ),
    Experiment(
        "antiderivative", DEEPONET, "Antiderivative, 8 bumps", "bumpnet operator antiderivative",
        _OPERATOR, _deeponets("antiderivative"),
    ),
    Experiment(
        "antiderivative-9", DEEPONET, "Antiderivative, 9 bumps", "bumpnet operator antiderivative --bumps 9",
        _OPERATOR, _deeponets("antiderivative"),
    ),
    Experiment(
        "antiderivative-12", DEEPONET, "Antiderivative, 12 bumps", "bumpnet operator antiderivative --bumps 12",
        (), _deeponets("antiderivative"),
    ),
    Experiment(
        "operator-advection", DEEPONET, "Advection, 16 bumps", "bumpnet operator advection", _OPERATOR[:1],
        _deeponets("advection"),
    ),
    Experiment(
        "operator-advection-13", DEEPONET, "Advection, 13 bumps", "bumpnet operator advection --bumps 13",
        _OPERATOR, _deeponets("advection"),
    ),
    Experiment(
        "operator-heat", DEEPONET, "Heat, 40 bumps in space and time", "bumpnet operator heat", _OPERATOR,
        _deeponets("heat"),
    ),
    Experiment(
        "operator-burgers", DEEPONET, "Burgers, 32 bumps",
        "bumpnet operator burgers --set iterations=20000 --set learning_rate=0.01", _OPERATOR, ("deeponet-burgers",),
        minutes=0.7,
    ),
    *(
        _baseline(f"deeponet-{name}{end}", DEEPONET, f"{name.capitalize()}, {branch} branch", f"{name}{flag}")
        for name in ("antiderivative", "advection", "heat", "burgers")
        for end, branch, flag in (("-linear", "linear", " --linear"), ("", "ReLU", ""))
        if (name, end) != ("burgers", "-linear")  # no linear map
    ),
)  # fmt: skip
NAMED = {experiment.name: experiment for experiment in EXPERIMENTS}
