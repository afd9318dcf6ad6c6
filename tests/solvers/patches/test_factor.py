"""Block Cholesky factors against dense ones."""

import pytest
import torch

from bumpnet_fast.solvers.patches.factor import Factors, elimination


def random_blocks(n, r, pairs, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coupling = {pair: torch.randn(r, r, dtype=torch.float64, generator=generator) for pair in pairs}
    diagonal = torch.randn(n, r, r, dtype=torch.float64, generator=generator)
    diagonal = diagonal @ diagonal.mT + 10 * r * torch.eye(r, dtype=torch.float64)
    whole = torch.block_diag(*diagonal)
    for (a, b), block in coupling.items():
        whole[a * r : (a + 1) * r, b * r : (b + 1) * r] = block
        whole[b * r : (b + 1) * r, a * r : (a + 1) * r] = block.T
    return diagonal, coupling, whole


RING = [(k, (k + 1) % 9) for k in range(9)]


@pytest.mark.parametrize("pairs", [[], [(0, 1)], RING, [*RING, (0, 4), (7, 2), (3, 8)]])
def test_the_solution_is_that_of_the_whole_matrix(pairs):
    diagonal, coupling, whole = random_blocks(9, 4, pairs)
    right = torch.randn(9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    known = torch.linalg.solve(whole, right.flatten()).view(9, 4)
    assert torch.allclose(Factors(diagonal, coupling).solve(right), known, rtol=1e-9, atol=1e-12)


def test_the_order_is_by_degree_and_a_chain_fills_nothing():
    chain = [{1}, {0, 2}, {1, 3}, {2, 4}, {3}]
    order, coupled = elimination(chain)
    assert sorted(order) == [0, 1, 2, 3, 4] and max(map(len, coupled)) == 1


def test_a_singular_matrix_is_not_solved_silently():
    diagonal = torch.zeros(2, 3, 3, dtype=torch.float64)
    with pytest.raises(torch.linalg.LinAlgError):
        Factors(diagonal - torch.eye(3, dtype=torch.float64), {})
