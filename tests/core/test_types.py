"""The words that types name are those that the checks at run time allow."""

from typing import get_args

from bumpnet_fast.core import backends, ops, reference, types
from bumpnet_fast.problems import sampling
from bumpnet_fast.solvers import Method, arguments, operators
from bumpnet_fast.solvers.evolution import ednn


def test_words_are_those_of_the_checks():
    assert get_args(types.Want) == reference.WANTS
    assert get_args(types.Precision) == ops.PRECISIONS
    assert get_args(types.Backend) == ("auto", "reference", *backends.VARIANTS)
    assert get_args(types.Boundary) == arguments.BOUNDARIES
    assert get_args(types.Sampling) == sampling.KINDS
    own = {name for name, kind in Method.known.items() if kind.__module__.startswith("bumpnet_fast.")}
    assert set(get_args(types.MethodName)) == own
    assert get_args(types.Shapes) == ednn.SHAPES
    assert get_args(types.InitialShapes) == ednn.INITIAL_SHAPES
    assert get_args(types.OperatorMethod) == operators.METHODS
