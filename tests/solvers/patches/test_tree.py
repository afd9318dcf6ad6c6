"""Quadtrees: they cover the domain, stay balanced, and know every edge once."""

import random

import pytest

from bumpnet_fast.solvers.patches.tree import SIDES, Leaf, Tree


def refined(roots, rounds, seed):
    draw, tree = random.Random(seed), Tree.even(roots, 1)
    for _ in range(rounds):
        tree = tree.split(draw.sample(tree.leaves, 3))
    return tree


@pytest.mark.parametrize("roots", [(1, 1), (4, 1), (1, 2)])
@pytest.mark.parametrize("seed", [0, 1])
def test_leaves_cover_the_domain_and_neighbours_differ_by_one_level(roots, seed):
    tree = refined(roots, 5, seed)
    assert sum(4.0**-leaf.level for leaf in tree.leaves) == roots[0] * roots[1]
    assert len(set(tree.leaves)) == len(tree)
    for leaf in tree.leaves:
        for axis, side in SIDES:
            beside = leaf.beside(axis, side)
            if tree.inside(beside) and (owner := tree.owner(beside)) is not None:
                assert leaf.level - owner.level in (0, 1)


def test_every_edge_is_named_once_from_its_finer_side():
    tree = refined((1, 1), 4, 2)
    lengths, boundary = {}, 0.0
    for leaf, axis, side, other in tree.edges():
        if other is None:
            boundary += 0.5**leaf.level
            continue
        assert other.level <= leaf.level and other == tree.owner(leaf.beside(axis, side))
        for one, at in ((leaf, side), (other, 1 - side)):
            lengths[one, axis, at] = lengths.get((one, axis, at), 0.0) + 0.5**leaf.level
    assert boundary == 4.0
    inner = [(leaf, a, s) for leaf in tree.leaves for a, s in SIDES if tree.inside(leaf.beside(a, s))]
    assert {key: 0.5 ** key[0].level for key in inner} == lengths


def test_splitting_one_leaf_splits_others_as_far_as_needed():
    tree = Tree.even((1, 1), 1).split([Leaf(1, 0, 0)]).split([Leaf(2, 1, 1)])
    assert Leaf(1, 1, 0) not in tree.number and Leaf(1, 1, 1) in tree.number
