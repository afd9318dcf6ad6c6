"""BumpNet: a module whose parameters are one tensor, one row per bump."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn

from ..core.functional import bump_basis, bump_design, bump_jet, check
from ..core.jet import Jet
from ..core.maps import AxisMap, Maps, check_maps, inner_want, mapped_jet
from ..core.reference import level_of
from ..core.rows import Packed, RowLayout, check_memory, grid_rows, orientation, pack
from ..core.types import FloatName, Outer, Want
from . import cancelling, frozen

#: Numbers of an extra state before those of the maps.
_ABOUT = 3

#: What ``jet`` was asked for by numbers in version 0.1.
_BY_ORDER = ("value", "gradient", "hessian")

#: Beyond this p A the second derivatives of float32 have no digits left (docs/math.md, "accuracy").
FLOAT32_SHARPEST = 1e5

#: Half side lengths in edge widths (of psi, 1/s in units of B) beyond which hardly a point sees a gradient.
_SHARPEST_EDGE = 1e3


class BumpNet(nn.Module):
    """Sum of rotated soft boxes, ``u(x) = sum_i h_i psi_i(x)``, with fast exact derivatives.

    The bumps start on a uniform grid over the domain with zero amplitudes.  Their initial shapes are those with the
    smallest measured errors (docs/choosing.md).

    Parameters
    ----------
    dim : int
        Space dimension d >= 1.
    bumps : int or tuple of int
        Number of bumps, or of grid cells along each axis.  A number is spread so that the cells are nearly square, or
        alike over axes whose widths differ more than ten times.
    domain : nested sequence or Tensor, optional
        [2, d], lower and upper corner of the box where the network is used; [-1, 1]^d by default.
    outputs : int
        Number of outputs K.
    centre_box : float
        The centres cannot leave the domain enlarged by this factor, at least 1.
    scale : "auto", float or sequence of float
        Internal units per unit of each coordinate.  "auto" makes the grid cells square, and keeps
        many bumps from starting too small to train.
    overlap : float
        Initial side lengths in grid cells.
    sharpness : float, optional
        Initial sharpness p; by default 1/sqrt(grid spacing), in internal units.
    outer : "tied" or "free"
        "tied" is the paper's outer slope ``s = 2 p``; "free" makes it a separate parameter.
    dtype : torch.dtype or str, optional
        float32 or float64; torch's default dtype by default.
    device : torch.device or str, optional
        Where the parameters live.
    maps : Maps or sequence of AxisMap, optional
        A map ``xi = g(x)`` for every axis of the domain: the bumps are those above in the coordinates xi, and small
        where g is steep, as in layers and peaks.

    Attributes
    ----------
    rows : nn.Parameter
        [M, columns]: all parameters; :attr:`layout` names the columns.
    frame, domain : Tensor
        Buffers [3, d] and [2, d].
    trainable : Tensor
        Buffer [M], bool: which bumps are trained, all by default.  Of the others the shape stays as it is, and the
        amplitude is still solved for or trained.  Assign a mask, ``net.trainable = mask``; entries changed in place are
        seen by the package's solvers, but not by a loop of your own.
    layout : RowLayout
        The columns of a row.
    tied : bool
        Whether the outer slope is tied to the sharpness.
    maps : Maps or None
        Maps of the coordinates, constants; None if there are none.

    Raises
    ------
    TypeError, ValueError
        For an argument out of range, before anything is computed.

    Notes
    -----
    arXiv:2512.17198, section 3; docs/math.md.

    What ``trainable`` guarantees: the shapes of the other bumps do not change by a single bit in any step of any
    :class:`torch.optim.Optimizer`, with weight decay, momentum from before and after ``load_state_dict`` too, nor in
    any solver of this package; what the net evaluates gives them a gradient of zero.  It does not hold for what
    writes into ``rows`` without an optimiser's step, for a step inside ``torch.compile``, and for rows that a
    parametrization computes.

    Examples
    --------
    >>> net = BumpNet(2, (4, 10))
    >>> net
    BumpNet(dim=2, bumps=40, outputs=1, outer='tied', parameters=280, dtype=float32)
    >>> x = torch.rand(5, 2)
    >>> net(x).shape, net.jet(x, want="laplacian").laplacian.shape
    (torch.Size([5, 1]), torch.Size([5, 1]))
    """

    rows: nn.Parameter
    frame: Tensor
    domain: Tensor
    trainable: Tensor
    layout: RowLayout
    tied: bool
    maps: Maps | None = None

    def __init__(
        self,
        dim: int,
        bumps: int | tuple[int, ...],
        domain: Sequence | Tensor | None = None,
        outputs: int = 1,
        *,
        centre_box: float = 1.3,
        scale: str | float | Sequence[float] = "auto",
        overlap: float = 3.0,
        sharpness: float | None = None,
        outer: Outer = "tied",
        dtype: torch.dtype | FloatName | None = None,
        device: torch.device | str | None = None,
        maps: Maps | Sequence[AxisMap] | None = None,
    ):
        super().__init__()
        dim, outputs = positive_integer("dim", dim), positive_integer("outputs", outputs)
        dtype, device = _float_type(dtype), torch.get_default_device() if device is None else torch.device(device)
        if outer not in ("tied", "free"):
            raise ValueError(f"outer must be 'tied' or 'free', got {outer!r}")
        if _positive("centre_box", centre_box) < 1:
            raise ValueError(f"centre_box must be at least 1, or the grid would leave it, got {centre_box}")
        layout = RowLayout(dim, outputs, outer == "tied")
        with torch.device("cpu"):
            domain, grid, scale = _box(domain, dim, dtype), _grid(bumps, dim), _scale(scale, dim)
            options: dict[str, Any] = {
                "centre_box": float(centre_box),
                "overlap": _positive("overlap", overlap),
                "sharpness": None if sharpness is None else _positive("sharpness", sharpness),
            }
            check_memory("bumps", bumps, bumps, layout.columns)
            rows, frame = grid_rows(grid, domain, layout, scale=scale, **options)
        self._adopt(layout, *(t.to(device, dtype) for t in (rows, frame, domain)))
        self.maps = check_maps(maps, self.domain)

    def _adopt(self, layout: RowLayout, rows: Tensor, frame: Tensor, domain: Tensor) -> None:
        self.layout, self.tied = layout, layout.tied
        self.rows = nn.Parameter(rows)
        self.register_buffer("frame", frame)
        self.register_buffer("domain", domain)
        self.register_buffer("trainable", torch.ones(len(rows), dtype=torch.bool, device=rows.device))
        self.all_trained = True  # the tensor's content, which a forward pass should not have to wait for

    @classmethod
    def from_rows(
        cls,
        rows: Tensor,
        frame: Tensor,
        domain: Sequence | Tensor,
        tied: bool = True,
        trainable: Tensor | None = None,
        *,
        maps: Maps | Sequence[AxisMap] | None = None,
    ) -> BumpNet:
        """A net of the bumps ``rows`` [M, columns], copied, in the frame [3, d] and with ``maps`` of the coordinates.

        ``trainable`` [M] is copied, too.

        Raises
        ------
        TypeError, ValueError
            If the tensors are of the wrong kind or shape, are not finite, or span no box; if the maps are not those of
            the domain.

        Examples
        --------
        >>> net = BumpNet(1, 8)
        >>> BumpNet.from_rows(net.rows[:3], net.frame, net.domain)
        BumpNet(dim=1, bumps=3, outputs=1, outer='tied', parameters=12, dtype=float32)
        """
        if not isinstance(rows, Tensor) or not isinstance(frame, Tensor) or frame.dim() != 2:
            raise TypeError("rows and frame must be tensors [M, columns] and [3, d]")
        _, frame = check(rows.new_empty(0, frame.shape[1]), rows, frame, tied)
        layout = RowLayout.of(rows, frame.shape[1], bool(tied))
        if layout.outputs < 1:
            raise ValueError(f"rows must have at least one amplitude, got shape {tuple(rows.shape)}")
        if problem := _unfit(rows, layout) or _unfit_frame(frame, layout.dim):
            raise ValueError(problem)
        net = cls.__new__(cls)
        nn.Module.__init__(net)
        copies = (t.detach().clone() for t in (rows, frame, _box(domain, layout.dim, rows.dtype).to(rows)))
        net._adopt(layout, *copies)
        net.maps = check_maps(maps, net.domain)
        if trainable is not None:
            net.trainable = trainable
        return net

    # --- which bumps are trained ---------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "trainable":
            value = frozen.checked(value, self.rows)
        super().__setattr__(name, value)
        if name == "trainable":
            self._see_trainable()
        elif name == "rows" and self.__dict__.get("all_trained") and len(value) != len(self.trainable):
            self._buffers["trainable"] = self.trainable.new_ones(len(value))

    def __setstate__(self, state: dict[str, Any]) -> None:
        """After copying and unpickling: a net from before there was ``trainable`` is trained whole."""
        super().__setstate__(state)
        if "trainable" not in self._buffers:
            rows = self.rows
            self.register_buffer("trainable", torch.ones(len(rows), dtype=torch.bool, device=rows.device))
        self._see_trainable()

    def _see_trainable(self) -> None:
        self.all_trained = not frozen.some_frozen(self)
        if not self.all_trained:
            frozen.hold(self)

    def _seen(self) -> Tensor:
        """The rows, as everything that evaluates the net sees them."""
        if self.all_trained:
            return self.rows
        return frozen.without_gradient(self.rows, self.trainable, self.layout.shape_columns)

    # --- evaluation ----------------------------------------------------------------------------

    if TYPE_CHECKING:  # torch says that it may be anything

        def __call__(self, x: Tensor) -> Tensor: ...

    def forward(self, x: Tensor) -> Tensor:
        """Value [N, K] at the points ``x`` [N, d]; as for :class:`torch.nn.Linear`, N may be any number of dimensions.

        >>> net = BumpNet(2, 9, outputs=3)
        >>> net(torch.zeros(5, 2)).shape, net(torch.zeros(4, 6, 2)).shape, net(torch.zeros(2)).shape
        (torch.Size([5, 3]), torch.Size([4, 6, 3]), torch.Size([3]))
        """
        shape = None
        if isinstance(x, Tensor) and x.dim() != 2 and _is_points(x, self.layout.dim):
            shape, x = x.shape[:-1], x.reshape(x.shape[:-1].numel(), x.shape[-1])
        xi = x if self.maps is None else self._mapped(x)
        value = bump_jet(xi, self._seen(), self.frame, "value", tied=self.tied).value
        return value if shape is None else value.reshape(*shape, value.shape[-1])

    def jet(self, x: Tensor, want: Want = "hessian", **former: NoReturn) -> Jet:
        """Value and derivatives at ``x`` [N, d] in one pass.

        Parameters
        ----------
        x : Tensor
            [N, d].
        want : str
            How far: "value", "gradient", "diagonal" (with the unmixed second derivatives), "hessian" (with all of
            them) or "laplacian" (with the sum of the unmixed ones).

        Examples
        --------
        >>> net, x = BumpNet(2, 9), torch.rand(5, 2)
        >>> net.jet(x).hessian.shape, net.jet(x, want="gradient").gradient.shape
        (torch.Size([5, 1, 2, 2]), torch.Size([5, 1, 2]))
        """
        if former:
            raise TypeError(_no_option(former))
        if self.maps is not None:
            return self._mapped_jet(bump_jet, x, want)
        return bump_jet(x, self._rows_now(), self.frame, want, tied=self.tied)

    def basis(self, x: Tensor, want: Want = "value") -> Jet:
        """Jets of the bumps themselves: M functions instead of K outputs."""
        if self.maps is not None:
            return self._mapped_jet(bump_basis, x, want)
        return bump_basis(x, self._rows_now(), self.frame, want, tied=self.tied)

    def _mapped_jet(self, function: Callable[..., Jet], x: Tensor, want: Want) -> Jet:
        level_of(want)
        check(x, self.rows, self.frame, self.tied)
        rows = self._rows_now()
        return mapped_jet(self.maps, x, want, lambda xi, want: function(xi, rows, self.frame, want, tied=self.tied))

    def _mapped(self, x: Tensor) -> Tensor:
        assert self.maps is not None
        check(x, self.rows, self.frame, self.tied)
        return self.maps.at(x).xi

    def design(
        self,
        coefficients: tuple[Tensor | None, Tensor | None, Tensor | None],
        x: Tensor,
        want: Want,
        derivatives: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Design matrix [N, M] of a row operator, and its shape derivatives; see :func:`bump_design`."""
        rows = self._rows_now()
        if self.maps is not None:
            check(x, rows, self.frame, self.tied)
            mapped = self.maps.at(x)
            x, coefficients, want = mapped.xi, mapped.coefficients(coefficients, want), inner_want(want)
        return bump_design(coefficients, x, rows, self.frame, want, tied=self.tied, derivatives=derivatives)

    def _rows_now(self) -> Tensor:
        """The rows, for use outside ``__call__``: refused if a hook computes them, as hooks do not run here."""
        if self._forward_pre_hooks and "rows" in vars(self):
            remedy = "torch.nn.utils.prune.remove(net, 'rows') makes them a parameter again; a parametrization may stay"
            raise RuntimeError(f"rows is computed by a hook of __call__, so that here it may be out of date: {remedy}")
        return self._seen()

    # --- the bumps by name ---------------------------------------------------------------------

    def _packed(self) -> Packed:
        return pack(self._seen(), self.frame, self.tied)

    @property
    def centres(self) -> Tensor:
        """[M, d], in coordinates; with maps, those beyond the domain are on its faces."""
        centres = self._packed().c
        return centres if self.maps is None else self.maps.inverse(centres)

    @property
    def sizes(self) -> Tensor:
        """Side lengths [M, d], in internal units (those of ``frame[2]``)."""
        return torch.exp(self._seen()[:, self.layout.size])

    @property
    def sharpness(self) -> Tensor:
        """Sharpness p [M] of the edges, per internal unit."""
        return torch.exp(self._seen()[:, self.layout.sharpness])

    @property
    def outer_slope(self) -> Tensor:
        """Slope s [M] of the outer sigmoid; ``2 p`` when tied."""
        return self._packed().s

    @property
    def amplitudes(self) -> Tensor:
        """[M, K], a view of the rows."""
        return self.rows[:, self.layout.amplitude]

    @property
    def peaks(self) -> Tensor:
        """Height ``h psi(centre)`` [M, K] of each bump on its own."""
        return self.amplitudes * _psi_at_centre(self._packed())[:, None]

    def boxes(self) -> Tensor:
        """Corners [M, 2^d, d] of the rotated boxes, in coordinates; neighbours share an edge.

        In two dimensions the four corners go around the box.  With maps, edges of a rotated box are bent, and corners
        beyond the domain are on its faces.

        Examples
        --------
        >>> BumpNet(1, 2, overlap=1.0).boxes()[:, :, 0].round(decimals=3).abs().tolist()
        [[1.0, 0.0], [0.0, 1.0]]
        """
        d = self.layout.dim
        gray = [i ^ i >> 1 for i in range(2**d)]
        signs = self.rows.new_tensor([[1.0 if code >> k & 1 else -1.0 for k in range(d)] for code in gray])
        rows = self.rows.detach()
        _, Q, _ = orientation(rows[:, self.layout.skew], d)
        along = 0.5 * signs * torch.exp(rows[:, None, self.layout.size])
        corners = self._packed().c.detach()[:, None] + along @ Q / self.frame[2]
        return corners if self.maps is None else self.maps.inverse(corners)

    # --- care ----------------------------------------------------------------------------------

    @torch.no_grad()
    def perturb_(self, std: float, generator: torch.Generator | None = None) -> BumpNet:
        """Add ``std`` N(0, 1) to all shapes of trained bumps, in place; the same for every dtype and device."""
        std = 0.0 if std == 0 else _positive("std", std)
        shape = rows_to_change(self)[:, : self.layout.shape_columns]
        noise = torch.randn(shape.shape, dtype=torch.float64, device="cpu", generator=generator)
        noise = (std * noise).to(shape)
        shape.add_(noise if not frozen.some_frozen(self) else noise * self.trainable[:, None])
        return self

    def cancellation(self, x: Tensor | None = None) -> float:
        """How much larger the bumps are than their sum: ``sum_i |h_i psi_i|`` over ``|u|``.

        Both are root mean squares over points.  Smooth bumps are nearly dependent, and the best amplitudes of many of
        them cancel by 1e5 to 1e7: u has so many digits fewer than the numbers, and needs float64.

        Parameters
        ----------
        x : Tensor, optional
            Points [n, d]; by default some hundred points of a Sobol sequence in the domain.

        Returns
        -------
        float
            At least 1, of the output where it is largest; 1 without amplitudes, infinite if u is zero at all points.

        Examples
        --------
        >>> net = BumpNet(1, 2)
        >>> with torch.no_grad():
        ...     net.rows[1], net.amplitudes[:, 0] = net.rows[0], torch.tensor([1.0, -0.99])
        ...
        >>> round(net.cancellation())
        199
        """
        if x is not None and (not isinstance(x, Tensor) or not _is_points(x, self.layout.dim) or x.dim() != 2):
            raise ValueError(f"x must be a tensor of points [n, {self.layout.dim}], got {getattr(x, 'shape', x)!r}")
        return cancelling.cancellation(self, cancelling.points(self) if x is None else x.detach().to(self.rows))

    @torch.no_grad()
    def check(self) -> list[str]:
        """Health problems of the bumps in words; empty when there are none.

        Looks for rows that are not finite, dying bumps (no higher at their centre than far away),
        edges so sharp that gradients vanish, float32 second derivatives without digits, and amplitudes that cancel
        so much that u has few digits.  It reads every row, so call it occasionally, not in every step.

        Examples
        --------
        >>> BumpNet(2, 16).check()
        []
        """
        packed, dtype = self._packed(), self.rows.dtype
        rise = _psi_at_centre(packed) - torch.sigmoid(-packed.s * (2 * self.layout.dim - 1))
        sA, pA = packed.s * packed.A.amin(1), self.sharpness * packed.A.amax(1)
        findings = {
            "have rows that are not finite": ~torch.isfinite(self.rows).all(1),
            "are dying: no higher at their centre than far away": rise < torch.finfo(dtype).eps,
            f"have edges so thin (s A > {_SHARPEST_EDGE:g}) that gradients vanish": sA > _SHARPEST_EDGE,
        }
        if dtype == torch.float32:
            findings[f"have no digits in float32 second derivatives (p A > {FLOAT32_SHARPEST:g})"] = (
                pA > FLOAT32_SHARPEST
            )
        counts = {text: int(mask.sum()) for text, mask in findings.items()}
        found = [f"{count} of {len(self.rows)} bumps {text}" for text, count in counts.items() if count]
        lost = cancelling.ROUNDING * torch.finfo(dtype).eps * (amount := self.cancellation())
        if lost > cancelling.ERROR:
            kind = str(dtype).removeprefix("torch.")
            off = f"in {kind} u is off by about {100 * lost:.1g} %"
            found.append(f"the amplitudes cancel by a factor of {amount:.0e}: {off}")
        if self.all_trained == frozen.some_frozen(self):
            found.append("trainable was changed in place, which gradients do not honour: assign a mask to it")
        return found

    def extra_repr(self) -> str:
        bumps, layout = self.rows.shape[0], self.layout
        outer, dtype = "tied" if self.tied else "free", str(self.rows.dtype).removeprefix("torch.")
        trained = f" trained={int(self.trainable.sum())}," if frozen.some_frozen(self) else ""
        counts = f"dim={layout.dim}, bumps={bumps},{trained} outputs={layout.outputs}"
        maps = "" if self.maps is None else f", maps='{self.maps.described()}'"
        return f"{counts}, outer={outer!r}, parameters={self.rows.numel()}, dtype={dtype}{maps}"

    # --- casting, saving and loading -----------------------------------------------------------

    def _apply(self, fn, *args, **kwargs):
        """As usual, for casting and moving; warns if u loses digits in a narrower dtype."""
        rows, frame = self._parameters.get("rows"), self.frame  # None where a parametrization computes them
        before = None if rows is None else rows.detach()
        super()._apply(fn, *args, **kwargs)
        real = type(before) is Tensor and not before.is_meta and not self.rows.is_meta
        if real and self.rows.dtype.itemsize < before.dtype.itemsize:
            cancelling.warn_of_cast(self, before, frame)
        return self

    def get_extra_state(self) -> Tensor:
        """Dimension, outputs and ``tied``, which do not follow from the width of the rows alone; then any maps."""
        about = torch.tensor([self.layout.dim, self.layout.outputs, int(self.tied)], device="cpu")
        return about if self.maps is None else torch.cat([about.double(), self.maps.to_tensor()])

    def set_extra_state(self, state: Tensor) -> None:
        """The maps; loading has already refused a layout that differs."""
        self.maps = _maps_of(state)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing, unexpected, error_msgs):
        """As usual, but with any number of bumps.

        The Parameter is resized and stays the same object, so an optimiser still trains it; ``assign=True`` replaces it
        as usual.  As after every load, the backward of an older graph fails.
        """
        rows, saved = state_dict.get(prefix + "rows"), state_dict.get(prefix + "_extra_state")
        problem, own = None, self.get_extra_state().tolist()
        own = own[:_ABOUT]
        if saved is not None and (not isinstance(saved, Tensor) or saved.tolist()[:_ABOUT] != own):
            there = saved.tolist()[:_ABOUT] if isinstance(saved, Tensor) else repr(saved)
            problem = f"rows: (dim, outputs, tied) are {there} in the checkpoint and {own} here"
        problem = problem or unfit_state(state_dict, prefix, self.layout, self.rows.dtype)
        problem = problem or _unfit_maps(saved, state_dict.get(prefix + "domain", self.domain))
        if not problem:
            problem = self._complete_trainable(state_dict, prefix)
        if problem:
            error_msgs.append(f"{prefix}{problem}")
            return
        if rows is not None and rows.shape != self.rows.shape:
            if local_metadata.get("assign_to_params_buffers", False):
                self.rows = nn.Parameter(self.rows.data.new_empty(rows.shape), self.rows.requires_grad)
            else:
                _resize(self.rows, rows.shape)
            self._buffers["trainable"] = self.trainable.new_ones(len(rows))
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected, error_msgs)
        self._see_trainable()

    def _complete_trainable(self, state: dict[str, Any], prefix: str) -> str | None:
        """Add what a state from before there was ``trainable`` means by it; why there can be no such mask, or None."""
        rows, key = state.get(prefix + "rows"), prefix + "trainable"
        count = len(self.trainable) if rows is None else len(rows)
        if key not in state:
            state[key] = self.trainable if rows is None else self.trainable.new_ones(count)
        mask = state[key]
        if isinstance(mask, Tensor) and mask.dtype == torch.bool and (rows is None or mask.shape == (count,)):
            return None  # without rows a mask of another length is torch's to refuse
        got = f"{mask.dtype} of shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
        return f"trainable: must be a bool tensor [{count}], got {got}"


def _maps_of(state: Tensor) -> Maps | None:
    return Maps.from_tensor(state[_ABOUT:]) if len(state) > _ABOUT else None


def _unfit_maps(state: Tensor | None, domain: Tensor) -> str | None:
    """Why an extra state has no maps of the domain, or None."""
    if state is None:
        return None
    try:
        check_maps(_maps_of(state), domain)
    except ValueError as error:
        return f"maps: {error}"
    return None


def _resize(parameter: nn.Parameter, shape: Sequence[int]) -> None:
    """Resize a Parameter in place; its values are undefined afterwards."""
    data = parameter.data
    # Autograd remembers the size while a graph is alive; changing the dtype makes it forget.
    parameter.data = data.new_empty(0, dtype=torch.float16)
    parameter.data = data.new_empty(shape)
    parameter.grad = None


def _psi_at_centre(packed: Packed) -> Tensor:
    S = 2 * torch.tanh(packed.A).sum(-1) - (2 * packed.A.shape[-1] - 1)
    return torch.sigmoid(packed.s * S)


# --- arguments -----------------------------------------------------------------------------------


def _is_points(x: Tensor, dim: int) -> bool:
    """Whether this is a point [dim], or points [..., dim], that :func:`bump_jet` can take flattened."""
    return x.dim() > 0 and not x.is_nested and x.layout == torch.strided and x.shape[-1] == dim


def _no_option(given: dict[str, Any]) -> str:
    name, value = next(iter(given.items()))
    message = f"jet() got an unexpected keyword argument {name!r}"
    if name != "order":
        return message
    wants = [_BY_ORDER[value]] if isinstance(value, int) and 0 <= value < len(_BY_ORDER) else _BY_ORDER
    return f"{message}: write {' or '.join(f'want={want!r}' for want in wants)} in the place of order={value!r}"


def positive_integer(name: str, value) -> int:
    """``value`` as an int of at least 1; TypeError or ValueError naming the argument ``name``."""
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if count < 1 or isinstance(value, bool):
        raise ValueError(f"{name} must be at least 1, got {value!r}")
    return count


def _positive(name: str, value) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, got {value!r}") from None
    if not 0 < number < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value!r}")
    return number


def _grid(bumps, dim: int) -> int | tuple[int, ...]:
    if not isinstance(bumps, (tuple, list)):
        return positive_integer("bumps", bumps)
    if len(bumps) != dim:
        raise ValueError(f"bumps must be a number or {dim} numbers, one per dimension, got {bumps!r}")
    return tuple(positive_integer("bumps", n) for n in bumps)


def _box(domain, dim: int, dtype: torch.dtype) -> Tensor:
    if domain is None:
        return torch.tensor([[-1.0] * dim, [1.0] * dim], dtype=torch.float64)
    try:
        box = torch.as_tensor(domain).detach().to("cpu", torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise TypeError(f"domain must be numbers [[lo, ...], [hi, ...]], got {domain!r}") from None
    if box.shape != (2, dim):
        raise ValueError(f"domain must have shape [2, {dim}] (lower and upper corner), got {tuple(box.shape)}")
    seen = box.to(dtype)
    if not bool(torch.isfinite(seen).all()) or not bool((seen[0] < seen[1]).all()):
        wanted = f"finite with lower < upper in every coordinate, in {dtype}"
        raise ValueError(f"domain must be {wanted}, got {box.tolist()}")
    return box


def _scale(scale, dim: int) -> str | tuple[float, ...]:
    if isinstance(scale, str):
        if scale != "auto":
            raise ValueError(f"scale must be 'auto' or positive numbers, got {scale!r}")
        return scale
    try:
        scales = torch.as_tensor(scale).flatten().tolist()
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise TypeError(f"scale must be 'auto' or positive numbers, got {scale!r}") from None
    if len(scales) not in (1, dim):
        raise ValueError(f"scale must be one number or {dim}, one per dimension, got {scale!r}")
    return tuple(_positive("scale", s) for s in scales * (dim if len(scales) == 1 else 1))


def _float_type(dtype: torch.dtype | str | None) -> torch.dtype:
    wanted: Any = torch.get_default_dtype() if dtype is None else dtype
    wanted = getattr(torch, wanted, None) if isinstance(wanted, str) else wanted
    if wanted not in (torch.float32, torch.float64):
        raise TypeError(f"dtype must be float32 or float64, got {wanted if dtype is None else dtype!r}")
    return wanted


def unfit_state(state_dict: Mapping[str, Any], prefix: str, layout: RowLayout, dtype: torch.dtype) -> str | None:
    """Why rows, frame or domain in a ``state_dict`` cannot be those of a net of this layout and dtype, or None.

    Missing entries are not reported here.
    """
    checks = {
        "rows": lambda rows: _unfit(rows, layout),
        "frame": lambda frame: _unfit_frame(frame, layout.dim),
        "domain": lambda domain: _unfit_box("domain", domain, (2, layout.dim)),
    }
    for name, check_one in checks.items():
        if (value := state_dict.get(prefix + name)) is None:
            continue
        if not isinstance(value, Tensor) or not value.is_floating_point():
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            return f"{name}: the {name} must be a tensor of floating point numbers, got {kind}"
        # check the shape first: a tensor may claim far more memory than its file has
        if value.dim() != 2:
            return f"{name}: must have 2 dimensions, got shape {tuple(value.shape)}"
        if problem := check_one(value.to(dtype)):
            return f"{name}: {problem}"
    return None


def _unfit_frame(frame: Tensor, dim: int) -> str | None:
    """Why ``frame`` cannot be the frame of a net in ``dim`` dimensions, or None."""
    if problem := _unfit_box("frame", frame, (3, dim)):
        return problem
    if not bool((frame[2] > 0).all()):
        return f"the scales of the frame, its third row, must be positive, got {frame[2].tolist()}"
    return None


def _unfit_box(name: str, box: Tensor, shape: tuple[int, int]) -> str | None:
    """Why the first two rows of ``box`` cannot be the corners of one, or None."""
    if box.shape != shape:
        return f"the {name} must have shape {list(shape)}, got {tuple(box.shape)}"
    if not bool(torch.isfinite(box).all()) or not bool((box[0] < box[1]).all()):
        return f"the {name} must be finite with lower < upper in every coordinate, got {box.tolist()}"
    return None


def _unfit(rows: Tensor, layout: RowLayout) -> str | None:
    """Why ``rows`` cannot be the rows of a net of this layout, or None."""
    if rows.dim() != 2 or rows.shape[0] < 1 or rows.shape[1] != layout.columns:
        return f"the rows must have shape [bumps, {layout.columns}] with bumps >= 1, got {tuple(rows.shape)}"
    if not bool(torch.isfinite(rows).all()):
        return f"the rows must be finite, got {int((~torch.isfinite(rows)).any(1).sum())} rows that are not"
    return None


def rows_to_change(net: BumpNet) -> nn.Parameter:
    """The net's Parameter, for changes in place; RuntimeError if ``rows`` is computed, as changes would be lost."""
    if "rows" not in dict(net.named_parameters(recurse=False)):
        remedy = (
            "torch.nn.utils.parametrize.remove_parametrizations or torch.nn.utils.prune.remove makes them one again"
        )
        raise RuntimeError(f"rows must be a parameter to be changed, but they are computed from others: {remedy}")
    return net.rows


__all__ = ["FLOAT32_SHARPEST", "BumpNet"]
