"""What methods of a problem give, checked."""

import math

import pytest
import torch

from bumpnet_fast.core.checking import check_finite, values

X = torch.linspace(0, 1, 4, dtype=torch.float64)[:, None]


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 3)])
def test_every_allowed_shape_passes(shape):
    given = torch.ones(shape)
    assert values("f", given, X, 3) is given


@pytest.mark.parametrize(("given", "message"), [
    ([1.0], r"f must give a tensor \[4\] or \[4, 3\], got list"),
    (2.5, r"f must give a tensor \[4\] or \[4, 3\], got float 2.5"),
    (torch.ones(4, dtype=torch.int64), "f must give real numbers, float32 or float64, got torch.int64"),
    (torch.ones(4, 2), r"f must have shape \[4\] or \[4, 3\] at 4 points, got \(4, 2\)"),
    (torch.ones(()), r"f must have shape .*, got \(\)"),
    (torch.tensor([1, math.nan, 1, math.inf]), r"f must be finite: 2 of 4 values are not, the first is nan"),
    (torch.tensor([1, 1, 1, -math.inf]), r"f must be finite: 1 of 4 values is not, the first is -inf at \(1\)"),
])  # fmt: skip
def test_what_is_wrong_is_named(given, message):
    with pytest.raises(ValueError, match=message):
        values("f", given, X, 3)


def test_columns_that_are_not_read_may_be_anything():
    given = torch.ones(4, 3)
    given[:, 2] = math.nan
    assert values("f", given, X, 3, read=[0, 1]) is given
    with pytest.raises(ValueError, match="4 of 4 values are not"):
        values("f", given, X, 3, read=[1, 2])


def test_rows_of_a_table_are_counted():
    with pytest.raises(ValueError, match="data must be finite: 1 of 3 rows is not, the first is inf in row 2"):
        check_finite("data", torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, math.inf]]))
