"""Least-squares rows for the amplitudes, from data or from equations.

Both give the same task: for function b, amplitudes h with ``A h = targets[b]`` in the sense of least squares.  A
[R, M] is a row operator applied to the bumps; for data it is their values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core import checking
from ...core.functional import bump_design
from ...core.jet import Jet
from ...core.reference import WANTS, second_shape
from ...nets.deeponet import BumpDeepONet
from ...problems.operators.base import Equation, Operator, OperatorData
from .check import equation_points, equation_rows


@dataclass(frozen=True)
class Block:
    """Rows of one kind: the row operator with the given coefficients (see :func:`bump_design`) at ``points`` [n, d]."""

    points: Tensor
    want: str
    coefficients: tuple[Tensor | None, ...]


@dataclass(frozen=True)
class Fit:
    """A least-squares problem per function.

    Attributes
    ----------
    blocks : list of Block
        R rows in all.
    inputs : Tensor
        [B, S].
    targets : Tensor
        [B, R], float64.
    weights : Tensor
        [B, 1], float64; give all functions the same weight.
    """

    blocks: list[Block]
    inputs: Tensor
    targets: Tensor
    weights: Tensor

    def design(self, net: BumpDeepONet, rows: Tensor, derivatives: bool = False) -> tuple[Tensor, Tensor | None]:
        """A [R, M] for the shapes ``rows``, periodic images included, and its derivatives [R, M, columns]."""
        parts = [_design(net, block, rows, derivatives) for block in self.blocks]
        A, D = zip(*parts, strict=True)
        return torch.cat(A), torch.cat(D) if derivatives else None


def _design(net: BumpDeepONet, block: Block, rows: Tensor, derivatives: bool) -> tuple[Tensor, Tensor | None]:
    shifts, n = net.shifts.to(rows), len(block.points)
    images = (block.points + shifts[:, None]).flatten(0, 1)
    coefficients = [None if c is None else c.repeat(len(shifts), *(1,) * (c.dim() - 1)) for c in block.coefficients]
    parts = bump_design(
        tuple(coefficients), images, rows, net.frame.to(rows), block.want, tied=net.tied, derivatives=derivatives
    )
    return tuple(None if t is None else t.unflatten(0, (len(shifts), n)).sum(0) for t in parts)


def relative_weights(functions: Tensor) -> Tensor:
    """Factors [B, 1] that scale the squares of every function's N values to sum 1; 0 stays 0.

    >>> relative_weights(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))[:, 0]
    tensor([0.2000, 0.0000])
    """
    size = torch.linalg.vector_norm(functions, dim=1, keepdim=True)
    known = size > torch.finfo(size.dtype).eps * size.max()
    return torch.where(known, 1 / size.where(known, torch.ones_like(size)), torch.zeros_like(size))


def fit_to_data(net: BumpDeepONet, data: OperatorData) -> Fit:
    """Fit of the values of the output functions by the values of the bumps."""
    inputs, outputs, points = data.to(net.rows.device, torch.float64)
    targets = outputs if net.bias is None else outputs - net.bias.detach()
    one = torch.ones_like(points[:, 0])
    return Fit([Block(points, "value", (one, None, None))], inputs, targets, relative_weights(outputs))


def fit_to_equations(net: BumpDeepONet, operator: Operator, functions: Tensor) -> Fit:
    """Fit of what the equations require for the input functions ``functions`` [B, fine].

    Raises
    ------
    ValueError
        If an equation is not linear in u with the same coefficients for all functions.
    """
    functions = functions.to(net.rows.device, torch.float64)
    blocks, targets = [], []
    for equation in operator.equations():
        y, f, factor = at_equation(operator, equation, functions)
        coefficients = _linear(equation, y, f)
        zero = _jet(equation.want, y, value=0.0 if net.bias is None else net.bias.detach())
        targets.append(-factor * equation_rows(equation, y, f, zero).expand(len(f), -1))
        blocks.append(Block(y, equation.want, tuple(None if c is None else factor * c for c in coefficients)))
    return Fit(blocks, operator.at_sensors(functions), torch.cat(targets, 1), function_weights(functions))


def function_weights(functions: Tensor) -> Tensor:
    """Factors [B, 1] that scale the mean square of every input function to 1."""
    return relative_weights(functions) * math.sqrt(functions.shape[1])


def at_equation(operator: Operator, equation: Equation, functions: Tensor) -> tuple[Tensor, Tensor, float]:
    """Points, input functions there, and the factor that turns residuals into weighted mean squares."""
    y = equation_points(equation, operator.domain.shape[1]).to(functions)
    return y, operator.at_points(functions, y), math.sqrt(equation.weight / len(y))


def _jet(want: str, y: Tensor, value=0.0, gradient: int | None = None, second: tuple[int, ...] | None = None) -> Jet:
    """A jet [1, N] that is zero except for a value, or a one in one derivative."""
    (n, d), level = y.shape, WANTS.index(want)
    jet = Jet(
        want,
        y.new_zeros(1, n) + value,
        y.new_zeros(1, n, d) if level >= 1 else None,
        y.new_zeros(1, n, *second_shape(level, d)) if level >= 2 else None,
    )
    if gradient is not None:
        jet.gradient[..., gradient] = 1
    if second is not None:
        jet.second[(..., *second)] = 1
    return jet


def _linear(equation: Equation, y: Tensor, f: Tensor) -> tuple[Tensor | None, ...]:
    """Coefficients c0 [N], c1 [N, d] and c2 of an equation that is linear in u, the same for all ``f`` [B, N]."""
    d, level = y.shape[1], WANTS.index(equation.want)

    def residual(**unit) -> Tensor:
        return equation_rows(equation, y, f[:1], _jet(equation.want, y, **unit))[0]

    base = residual()
    checking.check_finite(f"the residual of equation {equation.name!r} at u = 0", base, y)
    c0, c1, c2 = residual(value=1.0) - base, None, None
    if level >= 1:
        c1 = torch.stack([residual(gradient=i) - base for i in range(d)], -1)
    if level >= 2:
        shape = second_shape(level, d)
        entries = [residual(second=tuple(i)) - base for i in torch.ones(shape).nonzero().tolist()]
        c2 = torch.stack(entries, -1).unflatten(-1, shape) if shape else entries[0]
        c2 = 0.5 * (c2 + c2.transpose(-1, -2)) if equation.want == "hessian" else c2
    _check_linear(equation, y, f, (c0, c1, c2))
    return c0, c1, c2


def _check_linear(equation: Equation, y: Tensor, f: Tensor, coefficients: tuple[Tensor | None, ...]) -> None:
    """Check the coefficients on a random jet and all functions."""
    generator = torch.Generator().manual_seed(0)
    zero = _jet(equation.want, y)
    jet = zero.map(lambda t: torch.randn(t.shape, generator=generator, dtype=t.dtype).to(t))
    if equation.want == "hessian":
        jet = Jet("hessian", jet.value, jet.gradient, jet.second + jet.second.transpose(-1, -2))
    parts = (jet.value, jet.gradient, jet.second)
    terms = [(c * p[0]).reshape(len(y), -1).sum(1) for c, p in zip(coefficients, parts, strict=True) if c is not None]
    found, wanted = equation_rows(equation, y, f, jet), equation_rows(equation, y, f, zero) + sum(terms)
    if not torch.allclose(found, wanted.expand_as(found), rtol=1e-9, atol=1e-9 * float(wanted.abs().max())):
        wanted = "linear in u with coefficients that do not depend on f"
        raise ValueError(f"two steps need an equation {wanted}, and {equation.name!r} is not; use method='adam'")
