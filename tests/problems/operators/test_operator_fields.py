"""Random fields and what is between the values of a function."""

import math

import pytest
import torch

from bumpnet_fast.problems.operators.fields import fourier, fourier_sum, gaussian_field, grid, interpolation


def draw(count=4000, points=40, length_scale=0.2, periodic=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return gaussian_field(count, points, length_scale, periodic=periodic, generator=generator)


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("length_scale", [0.1, 0.3])
def test_covariance_of_the_draws(periodic, length_scale):
    f, x = draw(length_scale=length_scale, periodic=periodic), grid(40, periodic)
    distance = x[:, None] - x
    if periodic:
        distance = torch.sin(math.pi * distance) / math.pi
    wanted = torch.exp(-(distance**2) / (2 * length_scale**2))
    assert f.mean(0).abs().max() < 0.07
    assert (f.T @ f / len(f) - wanted).abs().max() < 0.1


def test_a_length_scale_means_the_same_on_a_circle():
    slopes = [torch.gradient(draw(points=400, periodic=p), spacing=1 / 400, dim=1)[0].std() for p in (False, True)]
    assert slopes[0] == pytest.approx(1 / 0.2, rel=0.05)
    assert slopes[1] == pytest.approx(float(slopes[0]), rel=0.05)


def test_draws_follow_the_seed():
    assert torch.equal(draw(3, seed=1), draw(3, seed=1))
    assert not torch.allclose(draw(3, seed=1), draw(3, seed=2))


@pytest.mark.parametrize("n", [7, 8])
def test_the_fourier_sum_is_the_function_between_its_values(n):
    def wave(x):
        return 0.3 + torch.cos(2 * math.pi * x) - 2 * torch.sin(6 * math.pi * x)

    anywhere = torch.rand(20, dtype=torch.float64)
    values = fourier_sum(fourier(wave(grid(n, True))[None]), anywhere)
    torch.testing.assert_close(values[0], wave(anywhere))


@pytest.mark.parametrize("periodic", [False, True])
def test_interpolation_meets_the_values_and_the_function(periodic):
    x, y = grid(32, periodic), torch.linspace(0, 1, 101, dtype=torch.float64)
    f = torch.sin(2 * math.pi * x) + 0.5 * torch.cos(4 * math.pi * x)
    torch.testing.assert_close((f[None] @ interpolation(32, x, periodic))[0], f)
    between = (f[None] @ interpolation(32, y, periodic))[0]
    exact = torch.sin(2 * math.pi * y) + 0.5 * torch.cos(4 * math.pi * y)
    assert (between - exact).abs().max() < (1e-12 if periodic else 1e-3)
