"""`GlobalFilter` and `SpectralGating`: a learned filter in the spectrum of a grid of tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import _check
from ..ops.spectral_filter import spectral_filter
from .long_conv import positive


class GlobalFilter(nn.Module):
    r"""y = irfft2(W rfft2(x)) over a grid of a x b tokens, a circular convolution of each channel as large as the
    grid.

    Args:
        dim: C. h, w: rows and columns of the half spectrum, a and b // 2 + 1, b = 2 w - 2 or 2 w - 1.
        backend: :func:`spectralops.spectral_filter`'s.

    Parameters: `complex_weight` (h, w, C, 2), real and imaginary part, normal with deviation 0.02, as upstream's,
    whose state loads.

    forward(x, spatial_size=None): x (B, a b, C), or (B, a, b, C); spatial_size (a, b), by default h and what remains.
    Returns x's shape and dtype, where upstream returns float32; sums are float32 (float64 for float64) and rounded
    once.

    :meth:`resized` gives the filter for another grid.

    Source: Y. Rao et al., Global Filter Networks for Image Classification, 2021.
    """

    def __init__(self, dim: int, h: int = 14, w: int = 8, *, backend: str | None = None, device=None, dtype=None):
        super().__init__()
        positive(dim=dim, h=h, w=w)
        self.dim, self.h, self.w, self.backend = dim, h, w, backend
        self.complex_weight = nn.Parameter(torch.empty(h, w, dim, 2, device=device, dtype=dtype))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        nn.init.normal_(self.complex_weight, std=0.02)

    def forward(self, x: Tensor, spatial_size: tuple[int, int] | None = None) -> Tensor:
        _check.tensor("x", x)
        if x.dim() not in (3, 4) or x.shape[-1] != self.dim:
            raise ValueError(f"x must have shape (B, a b, {self.dim}) or (B, a, b, {self.dim}); got {_check.shape(x)}")
        if x.dim() == 4:
            a, b = x.shape[1:3]
        elif spatial_size is None:
            a, b = self.h, x.shape[1] // self.h
        else:
            a, b = spatial_size
        if x.dim() == 3 and a * b != x.shape[1] or a != self.h or b // 2 + 1 != self.w:
            raise ValueError(f"a grid of {a} x {b} is not that of x, {_check.shape(x)}, or of the weight, which is for"
                             f" {self.h} x {2 * self.w - 2} or {self.h} x {2 * self.w - 1} tokens")  # fmt: skip
        z = x if x.dim() == 4 else x.reshape(x.shape[0], a, b, self.dim)
        return spectral_filter(z, self.complex_weight, backend=self.backend).reshape(x.shape)

    @torch.no_grad()
    def resized(self, h: int, w: int) -> GlobalFilter:
        """A new module for a half spectrum of h x w, its weight interpolated bicubically, as upstream does for larger images."""
        like = self.complex_weight
        new = type(self)(self.dim, h, w, backend=self.backend, device=like.device, dtype=like.dtype)
        flat = like.flatten(2).permute(2, 0, 1)[None].float()
        flat = nn.functional.interpolate(flat, size=(h, w), mode="bicubic", align_corners=True)
        new.complex_weight.copy_(flat[0].permute(1, 2, 0).unflatten(2, (self.dim, 2)))
        return new

    def extra_repr(self) -> str:
        return f"{self.dim}, h={self.h}, w={self.w}"


class SpectralGating(GlobalFilter):
    r"""SpectFormer's spectral gating network, the same layer as :class:`GlobalFilter` with the same parameters.

    Source: B. Patro et al., SpectFormer: Frequency and Attention is what you need in a Vision Transformer, 2023.
    """
