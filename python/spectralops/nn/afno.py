"""`AFNO2D`: the mixer of the adaptive Fourier neural operator, in the variants that are published."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .. import _check
from ..ops.spectral_mlp import VARIANTS, spectral_mlp
from .long_conv import positive


class AFNO2D(nn.Module):
    r"""y = x + irfft2(shrink(act(X w1 + b1) w2 + b2)), X = rfft2(x): one complex MLP, in blocks of channels, for all
    the modes kept.

    Args:
        hidden_size, num_blocks: C and nb, bs = C / nb. hidden_size_factor: hidden channels of a block over bs.
        sparsity_threshold: of the soft shrinkage, None: 0.01, in "dpot" 0. hard_thresholding_fraction: the part of
            the modes kept by "afno" and "physicsnemo". modes: rows and columns kept by "dpot".
        variant, activation: :func:`spectralops.spectral_mlp`'s, which also has the backends, the derivatives and what
            is saved: "afno" NVlabs', "physicsnemo" FourCastNet's and PhysicsNeMo's, "dpot" DPOT's, "aff" AFFNet's,
            where the MLP is a mask.
        channels_first: x is (B, C, h, w).

    Parameters: `w1` (2, nb, bs, bs f), `b1` (2, nb, bs f), `w2` (2, nb, bs f, bs), `b2` (2, nb, bs), real and
    imaginary part in front, normal with deviation 0.02, "dpot" uniform in [0, 1 / (bs^2 f)), as upstream's modules
    have them.

    forward(x, spatial_size=None): x (B, h, w, C), or (B, h w, C) with spatial_size (h, w), by default a square.

    Source: J. Guibas et al., Adaptive Fourier Neural Operators, 2021; Z. Hao et al., DPOT, 2024; Z. Huang et al.,
    Adaptive Frequency Filters As Efficient Global Token Mixers, 2023.
    """

    def __init__(
        self,
        hidden_size: int,
        num_blocks: int = 8,
        sparsity_threshold: float | None = None,
        hard_thresholding_fraction: float = 1.0,
        hidden_size_factor: int = 1,
        *,
        variant: str = "afno",
        modes: int | None = None,
        activation: str | None = None,
        channels_first: bool = False,
        backend: str | None = None,
        device=None,
        dtype=None,
    ):
        super().__init__()
        positive(hidden_size=hidden_size, num_blocks=num_blocks, hidden_size_factor=hidden_size_factor)
        _check.choice("variant", variant, VARIANTS)
        if hidden_size % num_blocks:
            raise ValueError(f"num_blocks must divide hidden_size, {hidden_size}; got {num_blocks}")
        self.hidden_size, self.num_blocks, self.variant, self.modes = hidden_size, num_blocks, variant, modes
        self.sparsity_threshold, self._kept = sparsity_threshold, float(hard_thresholding_fraction).as_integer_ratio()
        self.activation, self.channels_first, self.backend = activation, channels_first, backend
        size, place = hidden_size // num_blocks, {"device": device, "dtype": dtype}
        hidden = size * hidden_size_factor
        self.w1 = nn.Parameter(torch.empty(2, num_blocks, size, hidden, **place))
        self.b1 = nn.Parameter(torch.empty(2, num_blocks, hidden, **place))
        self.w2 = nn.Parameter(torch.empty(2, num_blocks, hidden, size, **place))
        self.b2 = nn.Parameter(torch.empty(2, num_blocks, size, **place))
        self.reset_parameters()

    @property
    def hard_thresholding_fraction(self) -> float:
        """From two integers: a float that differs between modules is a symbol to torch.compile, and sizes depend on it."""
        part, whole = self._kept
        return part / whole

    @torch.no_grad()
    def reset_parameters(self) -> None:
        _, _, size, hidden = self.w1.shape
        for parameter in (self.w1, self.b1, self.w2, self.b2):
            if self.variant == "dpot":
                nn.init.uniform_(parameter, 0, 1 / (size * hidden))
            else:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, x: Tensor, spatial_size: tuple[int, int] | None = None) -> Tensor:
        _check.tensor("x", x)
        if x.dim() not in (3, 4) or x.dim() == 3 and self.channels_first:
            last = "(B, h, w, C) or (B, h w, C)"
            takes = "(B, C, h, w)" if self.channels_first else last
            raise ValueError(f"x must have shape {takes}, C = {self.hidden_size}; got {_check.shape(x)}")
        z = x.movedim(1, -1) if self.channels_first else x
        if x.dim() == 3:
            h, w = (math.isqrt(x.shape[1]),) * 2 if spatial_size is None else spatial_size
            if h * w != x.shape[1]:
                raise ValueError(f"spatial_size must be the grid of the {x.shape[1]} tokens of x; got {spatial_size}")
            z = x.reshape(x.shape[0], h, w, x.shape[2])
        y = spectral_mlp(
            z, self.w1, self.b1, self.w2, self.b2, threshold=self.sparsity_threshold, activation=self.activation,
            keep=self.hard_thresholding_fraction, modes=self.modes, variant=self.variant, backend=self.backend,
        )  # fmt: skip
        return y.movedim(-1, 1) if self.channels_first else y.reshape(x.shape)

    def extra_repr(self) -> str:
        return f"{self.hidden_size}, num_blocks={self.num_blocks}, variant={self.variant!r}"
