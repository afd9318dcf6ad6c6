"""All methods, by name, in the order of tables and legends."""

from __future__ import annotations

from typing import Any

from . import chebyshev, elements, features, fourier, ours, perceptron, radial

#: Each has a NAME, an ABOUT for the page, and a function ``ladder(name, problem)`` that gives rungs, none where the
#: method has no use.
METHODS: dict[str, Any] = {
    method.NAME: method
    for method in (
        ours.ToError, ours.Untrained, ours.Trained, chebyshev, fourier, elements.P2, elements.P4, elements.MULTIGRID,
        radial, features, perceptron,
    )
}  # fmt: skip
#: Ours among them.
OURS = (ours.ToError.NAME, ours.Untrained.NAME, ours.Trained.NAME)
#: Run only if asked for by name, as they take minutes; what is in the file stays.
SLOW = (perceptron.NAME,)
