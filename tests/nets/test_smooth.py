"""Smooth bases: what may be chosen of them, and their rows."""

import math

import pytest
import torch

from bumpnet_fast import BumpNet
from bumpnet_fast.core.rows import RowLayout
from bumpnet_fast.nets.smooth import OVERLAP, PERTURBED, Shape, smooth_net, smooth_rows

BOX = torch.tensor([[0.0, -1.0], [1.0, 3.0]])


def test_cells_are_square_unless_a_ratio_is_chosen():
    widths = (1.0, 4.0)
    assert Shape(0.3, (0.0, 0.0)).counts(64, widths) == (4, 16)
    assert Shape(0.3, (0.0, 0.0)).denser(0, 2.0).counts(64, widths) == (16, 4)
    assert Shape(0.3, (0.0, 0.0, 0.0)).denser(1, 2.0).counts(512, (1.0, 1.0, 1.0)) == (4, 32, 4)
    assert Shape(0.3, (0.0,)).counts(7, (1e-6,)) == (7,)


@pytest.mark.parametrize("counts", [(5,), (3, 11), (4, 6, 2)])
def test_counts_are_kept(counts):
    widths = (3.0, 0.01, 1e5)[: len(counts)]
    assert Shape.of_counts(0.3, counts, widths).counts(math.prod(counts), widths) == counts


def test_sharpness_is_relative():
    assert Shape(0.3, (0.0,)).sharper(2.0) == Shape(0.6, (0.0,))


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_rows_are_those_of_a_wide_flat_perturbed_net(dim):
    counts, box = (6, 5, 4)[:dim], torch.tensor([[0.0] * dim, [1.0, 2.0, 3.0][:dim]])
    rows, frame = smooth_rows(counts, box, RowLayout(dim), 0.3, seed=1)
    usual = BumpNet(dim, counts, box, dtype="float64")
    net = BumpNet(
        dim, counts, box, overlap=OVERLAP, sharpness=0.3 * float(usual.sharpness[0].detach()), dtype="float64"
    ).perturb_(PERTURBED, torch.Generator().manual_seed(1))
    assert torch.equal(frame, net.frame)
    assert torch.allclose(rows, net.rows.detach(), rtol=0, atol=1e-14)


def test_a_net_of_it_has_no_amplitudes_yet():
    net = smooth_net((4, 4), BOX, 2, 0.3, 0, torch.device("cpu"))
    assert net.rows.dtype == torch.float64 and net.layout.outputs == 2 and not bool(net.amplitudes.any())
    assert torch.equal(net.domain, BOX.double())
