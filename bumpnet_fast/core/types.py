"""The words that arguments take, as types: an editor offers them, and a type checker refuses others.

The modules that check an argument at run time take its words from here where they can import this one.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

#: How far a jet goes.
Want: TypeAlias = Literal["value", "gradient", "diagonal", "hessian", "laplacian"]
#: Whether the outer slope of a bump is tied to its sharpness, or a parameter of its own.
Outer: TypeAlias = Literal["tied", "free"]
#: The dtypes that bumps have, by name.
FloatName: TypeAlias = Literal["float32", "float64"]
#: How float32 products are taken on CUDA devices.
Precision: TypeAlias = Literal["tf32", "tf32x3", "ieee"]
#: What can serve the bumps on the CPU.
Backend: TypeAlias = Literal["auto", "reference", "baseline", "avx2", "avx512"]

#: How the conditions on the boundary are enforced: built into the solution, or by least squares.
Boundary: TypeAlias = Literal["hard", "soft"]
#: How collocation points are placed.
Sampling: TypeAlias = Literal["grid", "chebyshev", "sobol", "uniform"]
#: The methods of :func:`bumpnet_fast.solve`; several may be joined by "+".
MethodName: TypeAlias = Literal["auto", "varpro", "gauss-newton", "lm", "adam", "varpro-adam", "lbfgs", "linear"]
#: Whether an evolution keeps the bumps where they start, or moves them.
Shapes: TypeAlias = Literal["frozen", "evolve"]
#: Which bumps an evolution starts with.
InitialShapes: TypeAlias = Literal["uniform", "fit"]
#: How an operator is learned.
OperatorMethod: TypeAlias = Literal["two-step", "adam"]

__all__ = [
    "Backend",
    "Boundary",
    "FloatName",
    "InitialShapes",
    "MethodName",
    "OperatorMethod",
    "Outer",
    "Precision",
    "Sampling",
    "Shapes",
    "Want",
]
