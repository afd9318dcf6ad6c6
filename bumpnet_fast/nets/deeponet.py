"""BumpDeepONet: an operator between functions, with bumps as its trunk."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..core.functional import bump_basis, bump_combine, not_a_tensor
from ..core.jet import Jet
from ..core.reference import level_of
from ..core.rows import RowLayout
from ..core.types import Want
from .bumpnet import BumpNet, positive_integer, unfit_state

#: Number of periods on either side whose bumps are summed.
_IMAGES = 2


class BumpDeepONet(nn.Module):
    """``G(f)(y) = sum_i b_i(f) psi_i(y)``: a branch gives the amplitudes of the bumps for every input function.

    Parameters
    ----------
    sensors : int
        Number S of values in which an input function is given.
    bumps : int or tuple of int
        Number of bumps M, or of grid cells along each axis.
    domain : nested sequence or Tensor
        [2, d], lower and upper corner of the box of the points y.
    branch : nn.Module, sequence of int, or None
        What maps [B, S] to [B, M]: a module of your own, the widths of the hidden layers of a tanh
        network, or None for one linear layer, which suffices for a linear operator.  A branch that is
        made here starts with zero output.
    periodic : bool or sequence of bool
        Axes along which the output functions are periodic; the period is the domain's width.
    bias : bool
        Whether to add a trainable constant.
    **options
        centre_box, scale, overlap, sharpness, outer, dtype and device, as for :class:`BumpNet`.

    Attributes
    ----------
    rows : nn.Parameter
        [M, columns]: the shapes of the bumps; they have no amplitudes of their own.
    branch : nn.Module
        As given, in its own dtype and on its own device.
    frame, domain : Tensor
        Buffers [3, d] and [2, d].

    Raises
    ------
    TypeError, ValueError
        For an argument out of range, before anything is computed.

    Notes
    -----
    arXiv:2512.17198, section 3; DeepONet: Lu et al., arXiv:1910.03193.

    Examples
    --------
    >>> net = BumpDeepONet(51, 8, [[0.0], [1.0]])
    >>> net(torch.randn(3, 51), torch.rand(10, 1)).shape
    torch.Size([3, 10])
    >>> sum(p.numel() for p in net.parameters())
    440
    """

    rows: nn.Parameter
    frame: Tensor
    domain: Tensor
    shifts: Tensor
    layout: RowLayout
    tied: bool

    def __init__(
        self,
        sensors: int,
        bumps: int | tuple[int, ...],
        domain: Sequence | Tensor,
        *,
        branch: nn.Module | Sequence[int] | None = None,
        periodic: bool | Sequence[bool] = False,
        bias: bool = False,
        **options: Any,
    ):
        super().__init__()
        if "outputs" in options:
            raise TypeError("BumpDeepONet got an unexpected keyword argument 'outputs'")
        self.sensors = positive_integer("sensors", sensors)
        dim = _dimension(domain)
        if options.get("maps") is not None:
            raise ValueError("maps must not be given: the trunk of a BumpDeepONet has none")
        start = BumpNet(dim, bumps, domain, **options)
        self.layout, self.tied = RowLayout(dim, 0, start.tied), start.tied
        self.rows = nn.Parameter(start.rows.detach()[:, : self.layout.shape_columns].clone())
        self.register_buffer("frame", start.frame)
        self.register_buffer("domain", start.domain)
        self.periodic = _flags(periodic, dim)
        self.register_buffer("shifts", self._shifts(), persistent=False)
        self.hidden = None if isinstance(branch, nn.Module) else _widths(branch)
        self.branch = branch if isinstance(branch, nn.Module) else self._default_branch()
        self.bias = nn.Parameter(self.rows.new_zeros(())) if bias else None

    def _shifts(self) -> Tensor:
        """Shifts [I, d] of the periodic images of the domain."""
        width = self.domain[1] - self.domain[0]
        steps = [range(-_IMAGES, _IMAGES + 1) if p else (0,) for p in self.periodic]
        return width * width.new_tensor(list(itertools.product(*steps)))

    def _default_branch(self) -> nn.Module:
        like: dict[str, Any] = {"dtype": self.rows.dtype, "device": self.rows.device}
        layers: list[nn.Module] = []
        sizes = (self.sensors, *(self.hidden or ()))
        for inputs, outputs in itertools.pairwise(sizes):
            layers += [nn.Linear(inputs, outputs, **like), nn.Tanh()]
        last = nn.Linear(sizes[-1], len(self.rows), **like)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        return nn.Sequential(*layers, last) if layers else last

    # --- evaluation ----------------------------------------------------------------------------

    if TYPE_CHECKING:  # torch says that it may be anything

        def __call__(self, f: Tensor, y: Tensor) -> Tensor: ...

    def forward(self, f: Tensor, y: Tensor) -> Tensor:
        """Output functions [B, N] at the points ``y`` [N, d] for the input functions ``f`` [B, S]."""
        return self.jet(f, y, "value").value

    def jet(self, f: Tensor, y: Tensor, want: Want = "hessian") -> Jet:
        """Output functions at ``y`` [N, d] with derivatives by y: values [B, N], gradients [B, N, d] and so on.

        The functions are in the place of a jet's points, and the points in that of its outputs: a tensor [B] goes with
        such a jet as a value per function, and a value per point must have shape [1, N].

        Examples
        --------
        >>> net, f, y = BumpDeepONet(20, (4, 4), [[0, 0], [1, 1]]), torch.randn(3, 20), torch.rand(10, 2)
        >>> u = net.jet(f, y, "laplacian")
        >>> u.d(0).shape, u.laplacian.shape
        (torch.Size([3, 10]), torch.Size([3, 10]))
        """
        level_of(want)  # refused before the branch computes anything
        return self.combine(self.coefficients(f), y, want)

    def coefficients(self, f: Tensor) -> Tensor:
        """Amplitudes [B, M] that the branch gives for the input functions ``f`` [B, S]."""
        if not isinstance(f, Tensor):
            raise TypeError(not_a_tensor("f", f, self.rows.dtype))
        if f.dim() != 2 or f.shape[1] != self.sensors:
            raise ValueError(f"f must have shape [functions, {self.sensors}], one column per sensor, got {_shape(f)}")
        if f.dtype != self.rows.dtype and not torch.is_autocast_enabled(f.device.type):
            raise TypeError(f"f must have the dtype of the bumps, {self.rows.dtype}, got {f.dtype}")
        h = self.branch(f)
        if h.shape != (len(f), len(self.rows)):
            wanted = f"[{len(f)}, {len(self.rows)}], one column per bump"
            raise ValueError(f"the branch must return a tensor of shape {wanted}, got {_shape(h)}")
        return h

    def combine(self, h: Tensor, y: Tensor, want: Want = "value") -> Jet:
        """Jets at ``y`` [N, d] of the output functions with the amplitudes ``h`` [B, M]."""
        if want == "value" and not any(self.periodic):
            jet = Jet(want, bump_combine(h, y, self.rows, self.frame, tied=self.tied))
        else:  # images are summed before they are multiplied
            jet = self.basis(y, want).map(lambda psi: torch.einsum("bm,nm...->bn...", h, psi))
        return jet if self.bias is None else jet + self.bias

    def basis(self, y: Tensor, want: Want = "value") -> Jet:
        """Jets [N, M, ...] of the bumps at ``y`` [N, d], each with all its periodic images."""
        if not any(self.periodic):
            return bump_basis(y, self.rows, self.frame, want, tied=self.tied)
        images = (y + self.shifts[:, None]).flatten(0, 1)
        jet = bump_basis(images, self.rows, self.frame, want, tied=self.tied)
        return jet.map(lambda t: t.unflatten(0, (len(self.shifts), len(y))).sum(0))

    # --- the bumps -----------------------------------------------------------------------------

    @property
    def trunk(self) -> BumpNet:
        """The bumps as a net of their own, copied, each with amplitude 1; without periodic images."""
        rows = torch.cat([self.rows.detach(), torch.ones_like(self.rows[:, :1])], 1)
        return BumpNet.from_rows(rows, self.frame, self.domain, self.tied)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing, unexpected, error_msgs):
        """As usual, but impossible bumps are refused before anything is changed."""
        if problem := unfit_state(state_dict, prefix, self.layout, self.rows.dtype):
            error_msgs.append(f"{prefix}{problem}")
            return
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected, error_msgs)

    def extra_repr(self) -> str:
        layout, outer = self.layout, "tied" if self.tied else "free"
        parameters, dtype = sum(p.numel() for p in self.parameters()), str(self.rows.dtype).removeprefix("torch.")
        counts = f"sensors={self.sensors}, dim={layout.dim}, bumps={len(self.rows)}, periodic={self.periodic}"
        return f"{counts}, outer={outer!r}, parameters={parameters}, dtype={dtype}"


# --- arguments -----------------------------------------------------------------------------------


def _shape(t) -> tuple[int, ...] | str:
    return tuple(t.shape) if isinstance(t, Tensor) else type(t).__name__


def _dimension(domain) -> int:
    shape = tuple(domain.shape) if isinstance(domain, Tensor) else None
    if shape is None:
        try:
            shape = tuple(torch.as_tensor(domain).shape)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"domain must be numbers [[lo, ...], [hi, ...]], got {domain!r}") from None
    if len(shape) != 2 or shape[0] != 2 or shape[1] < 1:
        raise ValueError(f"domain must have shape [2, d] (lower and upper corner), got {shape}")
    return shape[1]


def _flags(periodic, dim: int) -> tuple[bool, ...]:
    flags = (periodic,) * dim if isinstance(periodic, bool) else periodic
    if not isinstance(flags, (tuple, list)) or len(flags) != dim or not all(isinstance(p, bool) for p in flags):
        raise ValueError(f"periodic must be a bool or {dim} of them, one per dimension, got {periodic!r}")
    return tuple(flags)


def _widths(branch) -> tuple[int, ...]:
    if branch is None:
        return ()
    if isinstance(branch, int) and not isinstance(branch, bool):
        branch = (branch,)
    if not isinstance(branch, (tuple, list)):
        raise TypeError(f"branch must be a module, the widths of hidden layers, or None, got {branch!r}")
    return tuple(positive_integer("branch", width) for width in branch)


__all__ = ["BumpDeepONet"]
