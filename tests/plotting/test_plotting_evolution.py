"""Pictures of an evolution show what it is."""

import functools
import io
import itertools
from dataclasses import dataclass

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from bumpnet_fast import BumpNet, problems
from bumpnet_fast.plotting import evolution_figure, write_animation
from bumpnet_fast.problems.evolution import Burgers, EvolutionProblem, Heat, Heat2D
from bumpnet_fast.solvers import evolve, march, solve


@dataclass
class Solid(EvolutionProblem):
    """u_t = -u in three dimensions."""

    name, want, periodic = "solid", "value", False
    lower: tuple = (0.0, 0.0, 0.0)
    upper: tuple = (1.0, 2.0, 1.0)

    def initial(self, x):
        return (torch.sin(torch.pi * x) * x).prod(1)

    def rhs(self, x, u, t):
        return -u.value


@dataclass
class Pair(EvolutionProblem):
    """u_t = -u and v_t = -v from a sine and twice that."""

    name, want, outputs = "pair", "value", 2
    lower: tuple = (0.0,)
    upper: tuple = (1.0,)

    def initial(self, x):
        return torch.sin(2 * torch.pi * x) * torch.tensor([1.0, 2.0], dtype=x.dtype)

    def rhs(self, x, u, t):
        return -u.value


RUNS = {
    "curve": (Heat(), 12, {}),
    "curve, unknown": (Burgers(nu=0.1), 12, {}),
    "square": (Heat2D(periodic=False), (6, 6), {}),
    "solid": (Solid(), 27, {}),
    "start only": (Heat(), 12, {"max_seconds": 1e-9}),
}


@functools.cache
def evolved(name):
    problem, bumps, options = RUNS[name]
    return evolve(problem, bumps, times=5, **options)


@functools.cache
def axes_of(name):
    figure = evolution_figure(evolved(name))
    figure.savefig(io.BytesIO())
    return {axes.get_label(): axes for axes in figure.axes if not axes.get_label().startswith("<")}, figure


@pytest.mark.parametrize("name", RUNS)
def test_the_panels(name):
    axes, figure = axes_of(name)
    flat = len(evolved(name).problem.lower) == 1
    assert set(axes) == ({"evolution", "profiles", "error"} if flat else {*(f"time {i}" for i in range(4)), "error"})
    assert f"{len(evolved(name).net.rows)} bumps" in figure.get_suptitle()


def test_space_and_time():
    run, (axes, _) = evolved("curve"), axes_of("curve")
    (image,) = axes["evolution"].images
    values = image.get_array()
    assert tuple(image.get_extent()) == pytest.approx((0, 2 * np.pi, 0, 0.5))
    x = torch.linspace(0, 2 * np.pi, values.shape[1], dtype=torch.float64)[:, None]
    np.testing.assert_allclose(values[0], run.predict(x, 0.0)[:, 0], atol=1e-12)
    np.testing.assert_allclose(values[-1], run.predict(x, 0.5)[:, 0], atol=1e-12)


def test_profiles_come_with_the_exact_ones():
    curves = axes_of("curve")[0]["profiles"].lines
    assert len(curves) == 8 and len(axes_of("curve, unknown")[0]["profiles"].lines) == 4
    for ours, exact in zip(curves[::2], curves[1::2], strict=True):
        np.testing.assert_allclose(ours.get_ydata(), exact.get_ydata(), atol=1e-2)


@pytest.mark.parametrize("name", ["square", "solid"])
def test_snapshots_are_u_on_a_plane_and_share_their_colours(name):
    run, (axes, _) = evolved(name), axes_of(name)
    images = [axes[f"time {i}"].images[0] for i in range(4)]
    assert len({(image.norm.vmin, image.norm.vmax) for image in images}) == 1
    largest = [float(np.abs(image.get_array()).max()) for image in images]
    assert largest == sorted(largest, reverse=True) and largest[-1] > 0
    lattice = torch.rand(4000, len(run.problem.lower), dtype=torch.float64) * run.problem.domain[1]
    assert largest[0] == pytest.approx(float(run.predict(lattice, 0.0).abs().max()), rel=0.15)
    width, height = images[0].get_array().shape[::-1]
    assert width / height == pytest.approx(run.problem.upper[0] / run.problem.upper[1], rel=0.05)


def test_the_course_of_the_error():
    run, axes = evolved("curve"), axes_of("curve")[0]["error"]
    curves = {curve.get_label(): curve for curve in axes.lines}
    for label, key in (("relative $L_2$ error", "rel_l2"), ("residual: part of $u_t$ missed", "residual")):
        np.testing.assert_array_equal(curves[label].get_ydata(), [e[key] for e in run.history])
    assert axes.get_yscale() == "log" and axes.get_title() == "5 steps"
    assert "(time)" in axes_of("start only")[0]["error"].get_title()


def solved(name, *bumps):
    problem = problems.get(name)
    return solve(problem, BumpNet(len(bumps), bumps, problem.domain, dtype="float64"), iterations=2, points=200)


ANIMATED = {
    "curve": lambda: evolved("curve"),
    "square": lambda: evolved("square"),
    "a solution over time": lambda: solved("heat", 3, 3),
    "a solution over time and a plane": lambda: solved("heat2d", 2, 2, 2),
    "a march": lambda: march(problems.get("heat"), (3, 3), windows=2, iterations=2),
}


@pytest.mark.parametrize("name", ANIMATED)
def test_the_animation_moves(name):
    file = io.BytesIO()
    write_animation(ANIMATED[name](), file, frames=3)
    image = Image.open(io.BytesIO(file.getvalue()))
    assert image.n_frames == 3 and image.info["loop"] == 0
    frames = []
    for i in range(3):
        image.seek(i)
        frames.append(np.asarray(image.convert("RGB")).astype(int))
    assert all(np.abs(a - b).max() > 50 for a, b in itertools.pairwise(frames))


def test_what_has_no_time_or_nothing_but_time_is_not_animated():
    with pytest.raises(ValueError, match="problem 'poisson' does not evolve over a space"):
        write_animation(solved("poisson", 2, 2), io.BytesIO())


@pytest.mark.parametrize("output", (-1, 1, True, 0.0))
def test_an_output_that_is_not_there(output):
    with pytest.raises(ValueError, match="output must be an integer from 0 to 0, got"):
        evolution_figure(evolved("curve"), output=output)


def test_another_output_can_be_drawn():
    axes = {ax.get_label(): ax for ax in evolution_figure(evolve(Pair(), 8, times=2), output=1).axes}
    assert axes["profiles"].lines[0].get_ydata().max() == pytest.approx(2, abs=1e-2)
    np.testing.assert_allclose(axes["evolution"].images[0].get_array()[0].max(), 2, atol=1e-2)


def test_matplotlib_is_left_as_it_was():
    before = dict(matplotlib.rcParams)
    evolution_figure(evolved("curve")).savefig(io.BytesIO())
    assert dict(matplotlib.rcParams) == before
