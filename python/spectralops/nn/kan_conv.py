"""`KANConv2d`: a convolution whose every kernel tap is a function of one variable."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .. import _check
from ..basis import Basis
from .kan import KANLinear
from .kan_spec import exporting


def _pair(name: str, value, least: int) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or any(_check.integer(name, v) < least for v in pair):
        raise ValueError(f"{name} must be one or two integers, at least {least}; got {value!r}")
    return pair


class KANConv2d(nn.Module):
    r"""y[b, o, p, q] = sum_{c, u, v} phi_{o,c,u,v}(x[b, c, p s + u d - pad, q s + v d - pad]) + bias[o]: x (B, C, H, W) or
    (C, H, W) -> (B, O, H', W'), shapes as nn.Conv2d's.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode: as nn.Conv2d's, padding in
            numbers. A padded zero is a zero input, and phi(0) counts, as in other KAN convolutions.
        basis and the rest (base_activation, bias, selector, scale, precision, backend, device, dtype): :class:`KANLinear`'s.
        chunk: the most elements of gathered patches at a time, None for no bound.

    `edges`: for each group a :class:`KANLinear` with C / groups * kh * kw inputs, ordered (c, u, v) as nn.Conv2d's weight.

    Memory: the patches are gathered, kh kw times the input, and the basis is not, which a basis convolution makes K times as
    large again. With more than `chunk` elements of patches it works image by image, or in bands of output rows, and gathers
    again in the backward pass, so that beside x and y only one band lives. While a graph is traced (compile, export) all is one
    band. Derivatives of every order, from :func:`spectralops.kan_linear`. Groups run one after the other.

    Source: A. D. Bodner et al., Convolutional Kolmogorov-Arnold Networks, 2024; the bands are our own.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        basis: Basis | str | dict | list = "bspline",
        *,
        padding_mode: str = "zeros",
        chunk: int | None = 1 << 24,
        **kwargs,
    ):
        super().__init__()
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(f"groups must divide in_channels and out_channels; got {groups}, {in_channels} and {out_channels}")
        if "layer_norm" in kwargs:
            raise TypeError("KANConv2d takes no layer_norm")
        _check.choice("padding_mode", padding_mode, ("zeros", "reflect", "replicate", "circular"))
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride = _pair("kernel_size", kernel_size, 1), _pair("stride", stride, 1)
        self.padding, self.dilation = _pair("padding", padding, 0), _pair("dilation", dilation, 1)
        self.padding_mode, self.chunk = padding_mode, chunk
        taps = self.kernel_size[0] * self.kernel_size[1]
        shape = (in_channels // groups * taps, out_channels // groups)
        self.edges = nn.ModuleList(KANLinear(*shape, basis, **kwargs) for _ in range(groups))

    def forward(self, x: Tensor) -> Tensor:
        x, single = self._padded(x)
        height, width = self._output_size(x)
        row = x.shape[1] * self.kernel_size[0] * self.kernel_size[1] * width
        whole = self.chunk is None or exporting() or torch.compiler.is_compiling()
        if whole or x.shape[0] * height * row <= self.chunk:
            y = self._band(x)
            return y[0] if single else y
        images = max(1, self.chunk // (height * row))
        band = max(1, min(height, self.chunk // row))
        again = torch.is_grad_enabled() and not torch._C._are_functorch_transforms_active()
        y = []
        for image in x.split(images):
            parts = []
            for top in range(0, height, band):
                part = image[:, :, slice(*self._rows(top, min(top + band, height)))]
                if again:
                    parts.append(checkpoint(self._band, part, use_reentrant=False, preserve_rng_state=False))
                else:
                    parts.append(self._band(part))
            y.append(torch.cat(parts, 2))
        y = torch.cat(y)
        return y[0] if single else y

    def _padded(self, x: Tensor) -> tuple[Tensor, bool]:
        _check.tensor("x", x)
        if x.dim() not in (3, 4) or x.shape[-3] != self.in_channels:
            raise ValueError(f"x must be (B, {self.in_channels}, H, W) or without B; got {_check.shape(x)}")
        single = x.dim() == 3
        x = x[None] if single else x
        (top, left), mode = self.padding, "constant" if self.padding_mode == "zeros" else self.padding_mode
        x = F.pad(x, (left, left, top, top), mode=mode) if top or left else x
        if min(self._output_size(x)) < 1:
            raise ValueError(f"kernel_size {self.kernel_size} with dilation {self.dilation} is larger than x, {_check.shape(x)}")
        return x, single

    def _output_size(self, x: Tensor) -> tuple[int, int]:
        """Of a padded x."""
        sides = zip(x.shape[2:], self.kernel_size, self.dilation, self.stride)
        return tuple((n - d * (k - 1) - 1) // s + 1 for n, k, d, s in sides)

    def _rows(self, first: int, last: int) -> tuple[int, int]:
        """The input rows that output rows first..last - 1 read."""
        return first * self.stride[0], (last - 1) * self.stride[0] + self.dilation[0] * (self.kernel_size[0] - 1) + 1

    def patches(self, x: Tensor, group: int = 0) -> Tensor:
        """(B, H', W', C / groups * kh * kw) of a padded x (B, C, H, W)."""
        height, width = self._output_size(x)
        (s, t), (d, e), each = self.stride, self.dilation, self.in_channels // self.groups
        x = x[:, group * each : (group + 1) * each].permute(0, 2, 3, 1)
        views = [
            x[:, u * d : u * d + (height - 1) * s + 1 : s, v * e : v * e + (width - 1) * t + 1 : t]
            for u in range(self.kernel_size[0])
            for v in range(self.kernel_size[1])
        ]
        return torch.stack(views, -1).flatten(3)

    def _band(self, x: Tensor) -> Tensor:
        y = [edge(self.patches(x, g)) for g, edge in enumerate(self.edges)]
        return (y[0] if len(y) == 1 else torch.cat(y, -1)).permute(0, 3, 1, 2)

    def update_grid(self, x: Tensor, margin: float = 0.01, grid_eps: float = 0.02, *, fence: float | None = 3.0) -> None:
        """:meth:`KANLinear.update_grid` on the patches of x, which are gathered at once: give it a sample of the images."""
        x, _ = self._padded(x)
        for g, edge in enumerate(self.edges):
            edge.update_grid(self.patches(x, g), margin, grid_eps, fence=fence)

    def edge_norms(self, x: Tensor) -> Tensor:
        """Sums over images and places of |phi|, (O, C / groups, kh, kw), as :meth:`KANLinear.edge_norms`."""
        x, _ = self._padded(x)
        each = [edge.edge_norms(self.patches(x, g)) for g, edge in enumerate(self.edges)]
        return torch.cat(each).unflatten(1, (-1, *self.kernel_size))

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}"
        )
