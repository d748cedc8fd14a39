"""`TransformOnce`: layers that act on the low coefficients of one cosine transform (T1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .. import _check
from ..ops.dct import dct, idct
from .kan_spec import chosen
from .long_conv import positive

_ACTIVATIONS = {"sin": torch.sin, "gelu": nn.functional.gelu}


class TransformOnceLayer(nn.Module):
    r"""z' = z + S(act(C z)) on DCT coefficients: z (B, channels, m) or (B, channels, m1, m2) -> the same.

        C mixes channels in each mode,   (C z)[o, p] = sum_i z[i, p] c[i, o, p],
        S mixes modes in each channel, one dimension after the other,   (S z)[c, o] = sum_i z[c, i] s[i, o, c].

    Args:
        channels. modes: m, or (m1, m2). activation: "sin" or "gelu". residual: whether z is added. signal_length:
            points of the signal, N or N1 N2, for the variance-preserving initialisation sqrt(N / (channels m)); None: N = m.

    Parameters: `ch_mixing_1` (channels, channels, *modes), `spatial_mixing_1` (m1, m1, channels) and, for two dimensions,
    `spatial_mixing_2` (m2, m2, channels), as upstream, whose state loads where m1 = m2 (upstream gives both the
    second's size).

    Source: M. Poli et al., Transform Once: Efficient Operator Learning in Frequency Domain, 2022.
    """

    def __init__(
        self,
        channels: int,
        modes: int | tuple[int, ...],
        *,
        activation: str = "sin",
        residual: bool = True,
        signal_length: int | None = None,
        device=None,
        dtype=None,
    ):
        super().__init__()
        modes = (modes,) if isinstance(modes, int) else tuple(modes)
        if len(modes) not in (1, 2):
            raise ValueError(f"modes must be one or two numbers; got {modes}")
        count = math.prod(modes)
        positive(channels=channels, **{f"modes[{i}]": m for i, m in enumerate(modes)})
        positive(signal_length=count if signal_length is None else signal_length)
        _check.choice("activation", activation, tuple(_ACTIVATIONS))
        self.channels, self.modes, self.activation, self.residual = channels, modes, activation, residual
        like = {"device": device, "dtype": dtype}
        scale = math.sqrt((signal_length or count) / (channels * count))
        self.ch_mixing_1 = nn.Parameter(scale * torch.randn(channels, channels, *modes, **like))
        self.spatial_mixing_1 = nn.Parameter(modes[0] ** -0.5 * torch.randn(modes[0], modes[0], channels, **like))
        if len(modes) == 2:
            self.spatial_mixing_2 = nn.Parameter(modes[1] ** -0.5 * torch.randn(modes[1], modes[1], channels, **like))

    def forward(self, z: Tensor) -> Tensor:
        _check.tensor("z", z)
        if tuple(z.shape[1:]) != (self.channels, *self.modes):
            raise ValueError(f"z must have shape (B, {self.channels}, {', '.join(map(str, self.modes))}); got {_check.shape(z)}")
        if len(self.modes) == 1:
            y = _ACTIVATIONS[self.activation](torch.einsum("bix,iox->box", z, self.ch_mixing_1))
            y = torch.einsum("bcx,xyc->bcy", y, self.spatial_mixing_1)
        else:
            y = _ACTIVATIONS[self.activation](torch.einsum("bixy,ioxy->boxy", z, self.ch_mixing_1))
            y = torch.einsum("bcix,ioc->bcox", y, self.spatial_mixing_1)
            y = torch.einsum("bcyi,ioc->bcyo", y, self.spatial_mixing_2)
        return z + y if self.residual else y

    def extra_repr(self) -> str:
        return f"{self.channels}, modes={self.modes}, activation={self.activation!r}, residual={self.residual}"


class TransformOnce(nn.Module):
    r"""y = idct(L_n(.. L_1(dct(x)[low]))), orthonormal, 0 in the other coefficients: one transform for any number of layers.

    Args:
        channels, modes, activation, residual, signal_length: :class:`TransformOnceLayer`'s. layers: how many.
            keep_high: the other coefficients of x pass instead of 0. backend: :func:`spectralops.dct`'s.

    forward(x): (B, channels, N) or (B, channels, N1, N2), N >= m; any sizes, one module for all of them. Result like x.
    """

    def __init__(self, channels: int, modes, layers: int = 4, *, keep_high: bool = False, backend: str | None = None, **kwargs):
        super().__init__()
        positive(layers=layers)
        self.keep_high, self.backend = keep_high, backend
        self.layers = nn.ModuleList(TransformOnceLayer(channels, modes, **kwargs) for _ in range(layers))
        self.modes = self.layers[0].modes

    def forward(self, x: Tensor) -> Tensor:
        _check.tensor("x", x)
        sizes = x.shape[2:]
        if len(sizes) != len(self.modes) or any(n < m for n, m in zip(sizes, self.modes)):
            raise ValueError(f"x must have shape (B, C, N..), N at least {self.modes}; got {_check.shape(x)}")
        backend = chosen(self.backend)
        dims = range(2, x.dim())
        spectrum = x
        for d in dims:
            spectrum = dct(spectrum, dim=d, backend=backend)
            if not self.keep_high:
                spectrum = spectrum.narrow(d, 0, self.modes[d - 2])
        low = spectrum
        for d in dims:
            low = low.narrow(d, 0, self.modes[d - 2])
        z = low
        for layer in self.layers:
            z = layer(z)
        pad = [p for n, m in zip(reversed(sizes), reversed(self.modes)) for p in (0, n - m)]
        y = nn.functional.pad(z - low if self.keep_high else z, pad)
        y = spectrum + y if self.keep_high else y
        for d in dims:
            y = idct(y, dim=d, backend=backend)
        return y.to(x.dtype)
