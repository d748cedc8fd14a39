"""`KANLinear` and `KAN`: Kolmogorov-Arnold layers as modules, with adaptive grids, edge statistics and pruning."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .. import _check
from ..basis import Basis, BSpline, Mix
from ..ops.kan import PRECISIONS, kan_linear
from ..ops.kan_basis import BASES
from .kan_edges import edge_norms, l1_and_entropy
from .kan_grid import adaptive_knots, refit
from .kan_spec import activation, as_basis, chosen, mean_square


class KANLinear(nn.Module):
    r"""A Kolmogorov-Arnold layer, :math:`y_o = \sum_i \phi_{oi}(x_i) + b_o`,
    :math:`\phi_{oi}(x) = \sum_k c_{oik} B_k(x) + w_{oi}\,\sigma(x)`; dtypes, derivatives and memory are
    :func:`spectralops.kan_linear`'s.

    Args:
        in_features, out_features: I and O; x is (..., I), the result (..., O).
        basis: a :mod:`spectralops.basis` object, a name ("bspline", "rbf", "chebyshev", ...), {"name": ..., arguments}, or a
            list of these (a Mix).
        base_activation: sigma, "silu", "gelu", "relu", "identity" or "tanh"; None for no base branch. bias: b.
        layer_norm: the basis sees LayerNorm(x), the base branch x, as in fast-kan.
        selector: for a Mix, each of its bases is weighted by its share of a learnable softmax (S-KAN).
        scale: root mean square of the spline part of y at the start, for x uniform on the basis's interval; default 0.1 beside
            a base branch (as efficient-kan's `scale_noise`), else 1.
        precision, backend: :func:`spectralops.kan_linear`'s.

    Parameters: `coeff` (O, I, K), independent normal; `base_weight` (O, I), kaiming uniform as nn.Linear's; `bias` (O,) zero;
    `selection` (bases,) zero; `norm`. Buffers: `grid`, (1 or I, T) knots, of a spline with knots of its own or after
    :meth:`update_grid`; `mask`, (O, I) bool, after :meth:`prune`. Both are saved with the model, and a state dict that has
    them loads into a fresh layer. The grid stays in at least float32 when the layer is cast to 16 bits.
    A basis with a learnable table (knots, centres) keeps it: the caller's parameter, not the layer's.

    While torch.export or torch.onnx follows the layer it uses the plain formula, so that the graph has standard operators only.

    Source: Z. Liu et al., KAN, 2024; Blealtan, efficient-kan; Z. Li, fast-kan; initialisation and refit are our own.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        basis: Basis | str | dict | list = "bspline",
        *,
        base_activation: str | None = "silu",
        bias: bool = False,
        layer_norm: bool = False,
        selector: bool = False,
        scale: float | None = None,
        precision: str = "highest",
        backend: str | None = None,
        device=None,
        dtype=None,
    ):
        super().__init__()
        for name, value in (("in_features", in_features), ("out_features", out_features)):
            if _check.integer(name, value) < 1:
                raise ValueError(f"{name} must be at least 1; got {value}")
        _check.choice("base_activation", base_activation, (None, *BASES[1:]))
        _check.choice("precision", precision, PRECISIONS)
        self.basis = as_basis(basis)
        self.basis.check_inputs(in_features)
        if selector and not isinstance(self.basis, Mix):
            raise ValueError(f"selector chooses among the bases of a Mix; got {self.basis!r}")
        self.in_features, self.out_features = in_features, out_features
        self.base_activation, self.precision, self.backend = base_activation, precision, backend
        self.scale = (0.1 if base_activation else 1.0) if scale is None else float(scale)
        place = {"device": device, "dtype": dtype}
        self.coeff = nn.Parameter(torch.empty(out_features, in_features, self.basis.size, **place))
        self.base_weight = nn.Parameter(torch.empty(out_features, in_features, **place)) if base_activation else None
        self.bias = nn.Parameter(torch.empty(out_features, **place)) if bias else None
        self.selection = nn.Parameter(torch.empty(len(self.basis.bases), **place)) if selector else None
        self.norm = nn.LayerNorm(in_features, **place) if layer_norm else None
        self.register_buffer("grid", None)
        self.register_buffer("mask", None)
        knots = getattr(self.basis, "knots", None)
        if knots is not None and not knots.requires_grad:
            self.grid = self._grid_like(knots.reshape(-1, knots.shape[-1]).clone())
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The initial values; the grid and the mask stay."""
        nn.init.normal_(self.coeff, std=self.scale / math.sqrt(self.in_features * mean_square(self.basis)))
        if self.base_weight is not None:
            nn.init.kaiming_uniform_(self.base_weight, a=math.sqrt(5))
        for zero in (self.bias, self.selection):
            if zero is not None:
                nn.init.zeros_(zero)
        if self.norm is not None:
            self.norm.reset_parameters()

    # ---- forward -------------------------------------------------------------------------------------------------

    def current_basis(self) -> Basis:
        """The basis with the knots of `grid`, where there is one."""
        if self.grid is None:
            return self.basis
        return BSpline(order=self.basis.order, knots=self.grid, outside=self.basis.outside, edge=self.basis.edge)

    def weights(self) -> tuple[Tensor, Tensor | None]:
        """c (O, I, K) and w (O, I) or None as they act: selected and masked."""
        c, w = self.coeff, self.base_weight
        if self.selection is not None:
            share = self.selection.softmax(0)
            c = c * torch.cat([s.expand(b.size) for s, b in zip(share.unbind(), self.basis.bases)])
        if self.mask is not None:
            c, w = c * self.mask[..., None], None if w is None else w * self.mask
        return c, w

    def forward(self, x: Tensor) -> Tensor:
        c, w = self.weights()
        basis, how = self.current_basis(), {"precision": self.precision, "backend": chosen(self.backend)}
        if self.norm is None:
            activation_name = self.base_activation or "silu"
            return kan_linear(x, c, basis, base_weight=w, base_activation=activation_name, bias=self.bias, **how)
        y = kan_linear(self.norm(x), c, basis, bias=self.bias, **how)
        if w is None:
            return y
        return y + nn.functional.linear(activation(x, self.base_activation), w.to(x.dtype))

    def extra_repr(self) -> str:
        shown = f"{self.in_features}, {self.out_features}, {self.basis!r}, base_activation={self.base_activation!r}"
        return f"{shown}, bias={self.bias is not None}" + (", grid=adapted" if self.grid is not None else "")

    # ---- the grid ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def update_grid(
        self, x: Tensor, margin: float = 0.01, grid_eps: float = 0.02, *, fence: float | None = 3.0
    ) -> None:
        """Move the knots to where x (..., I) is and refit the coefficients to the function they had.

        New knots, per input: (1 - grid_eps) quantiles of x + grid_eps uniform over its range and `margin` on both sides. Values
        more than `fence` times the width of the central nine tenths beyond them do not stretch the range (None: they do).
        A column without spread keeps its knots and coefficients. Rows that are not finite are left out; without any row nothing
        happens. The fit is least squares in float64 at the rows of x and, with small weight, at points in every interval, so
        that empty intervals keep the function they had; it is never NaN. Memory: x in float64, I K^2 and a chunk of
        rows. `coeff` is changed in place; `grid` becomes (I, T) knots of this layer, float32 (float64 for a float64 layer).

        Raises TypeError where the basis is not a BSpline, ValueError on shapes.
        """
        if not isinstance(self.basis, BSpline) or self.basis.differentiable:
            raise TypeError(f"update_grid needs a BSpline whose knots are not learnable; the basis is {self.basis!r}")
        if not (margin >= 0 and 0 <= grid_eps <= 1):
            raise ValueError(f"margin must not be negative and grid_eps must be in [0, 1]; got {margin} and {grid_eps}")
        x = self._seen(x)[1]
        x = x[torch.isfinite(x).all(1)]
        if not len(x):
            return
        old = self.current_basis()
        knots, moved = adaptive_knots(x, _knots(old, x.device), old.order, margin, grid_eps, fence)
        if not moved.any():
            return
        grid = self._grid_like(knots)
        new = BSpline(order=old.order, knots=grid, outside=old.outside, edge=old.edge)
        self.coeff.copy_(torch.where(moved[:, None], refit(self.coeff, old, new, x), self.coeff))
        self.grid = grid

    def _grid_like(self, knots: Tensor) -> Tensor:
        dtype = torch.float64 if self.coeff.dtype == torch.float64 else torch.float32
        return knots.detach().to(device=self.coeff.device, dtype=dtype)

    def _apply(self, fn, recurse=True):
        grid = self.grid
        super()._apply(fn, recurse)
        if grid is not None and self.grid.dtype.itemsize < 4:  # knots in 16 bits would be other knots
            self.grid = grid.to(device=self.grid.device, dtype=torch.float32)
        return self

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        """A layer has a grid or a mask where the state dict has one."""
        for name in ("grid", "mask") if isinstance(self.basis, BSpline) else ("mask",):
            given = state_dict.get(prefix + name)
            if given is not None and (self._buffers[name] is None or self._buffers[name].shape != given.shape):
                dtype = torch.bool if name == "mask" else self._grid_like(given[:0]).dtype
                self._buffers[name] = torch.empty(given.shape, dtype=dtype, device=self.coeff.device)
            elif given is None and prefix + "coeff" in state_dict:
                self._buffers[name] = None
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    # ---- edges ---------------------------------------------------------------------------------------------------

    def _seen(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the base branch and the basis see, (N, I) each."""
        _check.tensor("x", x)
        if x.dim() < 1 or x.shape[-1] != self.in_features:
            raise ValueError(f"x must be (..., {self.in_features}); got {_check.shape(x)}")
        x = x.reshape(-1, self.in_features)
        return x, x if self.norm is None else self.norm(x)

    def edge_norms(self, x: Tensor) -> Tensor:
        r""":math:`\sum_n |\phi_{oi}(x_n)|` over the rows of x (..., I): (O, I), float32 (float64 for float64), without the
        bias. Differentiable in x and the parameters. Memory: a few MB and (O, I) whatever N is, for the gradient too, which
        evaluates the functions again."""
        c, w = self.weights()
        return edge_norms(*self._seen(x), c, w, self.current_basis(), self.base_activation)

    def regularization_loss(self, x: Tensor, l1: float = 1.0, entropy: float = 1.0) -> Tensor:
        r"""l1 * sum Q - entropy * sum p log p, with Q_oi the mean over rows of \|phi_oi(x)\| and p = Q / sum Q: what KAN training adds
        to its loss before pruning. A scalar, differentiable. Source: Z. Liu et al., KAN, 2024, section 2.5."""
        return l1_and_entropy(self.edge_norms(x), x.numel() // self.in_features, l1, entropy)

    @torch.no_grad()
    def prune(self, x: Tensor, threshold: float = 0.01) -> int:
        """Switch off the edges whose mean absolute value over the rows of x is below `threshold`, by `mask`; the parameters stay.
        Returns how many edges are left. An edge once off stays off; `mask = None` brings all back."""
        rows = max(1, x.numel() // self.in_features)
        kept = ~(self.edge_norms(x) / rows < threshold)  # an edge that is NaN stays, to be seen
        self.mask = kept if self.mask is None else self.mask & kept
        return int(self.mask.sum())


def _knots(basis: BSpline, device) -> Tensor:
    """(1 or I, T) in float64."""
    if hasattr(basis, "knots"):
        return basis.knots.reshape(-1, basis.knots.shape[-1])
    start, step = basis._scalars
    return (start + step * torch.arange(basis.size + basis.order + 1, dtype=torch.float64, device=device))[None]


class KAN(nn.Module):
    """KANLinear layers of the given widths, one after the other, in `layers`.

    Args:
        widths: (I, hidden..., O), two numbers or more. basis and the rest: :class:`KANLinear`'s, the same for all layers.

    x (..., I) -> (..., O). Source: Z. Liu et al., KAN, 2024.
    """

    def __init__(self, widths: Sequence[int], basis: Basis | str | dict | list = "bspline", **kwargs):
        widths = tuple(widths)
        if len(widths) < 2:
            raise ValueError(f"widths must have two numbers or more; got {widths}")
        super().__init__()
        basis = as_basis(basis)
        self.widths = widths
        self.layers = nn.ModuleList(KANLinear(i, o, basis, **kwargs) for i, o in zip(widths, widths[1:]))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x

    @torch.no_grad()
    def update_grid(self, x: Tensor, margin: float = 0.01, grid_eps: float = 0.02, *, fence: float | None = 3.0) -> None:
        """:meth:`KANLinear.update_grid` of each layer, on what the layers before it, already updated, make of x."""
        for layer in self.layers:
            layer.update_grid(x, margin, grid_eps, fence=fence)
            x = layer(x)

    def edge_norms(self, x: Tensor) -> list[Tensor]:
        """:meth:`KANLinear.edge_norms` of each layer, on its own input."""
        return [layer.edge_norms(z) for layer, z in self._inputs(x)]

    def regularization_loss(self, x: Tensor, l1: float = 1.0, entropy: float = 1.0) -> Tensor:
        """The sum of :meth:`KANLinear.regularization_loss` over the layers; costs one forward pass and the statistics."""
        return torch.stack([layer.regularization_loss(z, l1, entropy) for layer, z in self._inputs(x)]).sum()

    @torch.no_grad()
    def prune(self, x: Tensor, threshold: float = 0.01) -> int:
        """:meth:`KANLinear.prune` of each layer, on what the pruned layers before it make of x; the edges left."""
        return sum(layer.prune(z, threshold) for layer, z in self._inputs(x))

    def _inputs(self, x: Tensor):
        for layer in self.layers:
            yield layer, x
            x = layer(x)
