"""The specification of `spectral_filter` in plain PyTorch, and of its gradient with respect to the weight.

On a grid of N = N1 N2 N3 points (unused dimensions have size 1), with theta = 2 pi sum_d k_d n_d / N_d, k over the half spectrum
k3 = 0 .. N3 // 2 and c_k = 1 where k3 = 0 or 2 k3 = N3, else 2:

    X[k] = sum_n x[n] exp(-i theta)
    F(x, W)[n] = 1/N sum_k c_k Re(W[k] X[k] exp(+i theta))             = irfftn(rfftn(x) W), any `norm`
    G(x, g)[k] = c_k / N sum_b conj(X_b[k]) G_b[k]                     the gradient of <g, F(x, W)> with respect to W

The real part makes the meaning of the columns k3 = 0 and 2 k3 = N3 one on every device: there W acts by its Hermitian part,
(W[k1, k2] + conj W[-k1, -k2]) / 2. F(., W) is a circular convolution, one a channel, and F(., conj W) its adjoint:

    y = F(x, W)        dx = F(y*, conj W)      dW = G(x, y*)
    V = G(x, g)        dx = F(g, conj V*)      dg = F(x, V*)

so F and G are closed under differentiation.

Shapes: x, grad, residual, y (B, N1, N2, N3, C), any strides; y in the memory order of x. weight (S, N1, N2, N3 // 2 + 1, G, 2) in the
compute dtype, contiguous; S is 1 or B, G divides C and channel c takes weight c // (C / G). With eps >= 0 the filter acts on
layer_norm(x) over C with the affine norm_weight, norm_bias (C,) or None; a residual is added to the result.
"""

# Conjugates are physical: see fft_conv_reference.py.

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .fft_conv_reference import compute_dtype

GRID = (1, 2, 3)


def half_size(n: int) -> int:
    return n // 2 + 1


def normalised(x: Tensor, norm_weight: Tensor | None, norm_bias: Tensor | None, eps: float) -> Tensor:
    """x in the compute dtype, or its layer norm where eps >= 0."""
    x = x.to(compute_dtype(x))
    return x if eps < 0 else F.layer_norm(x, x.shape[-1:], norm_weight, norm_bias, eps)


def real_ends(spectrum: Tensor, size: int, dim: int) -> Tensor:
    """The imaginary parts at frequency 0 and size / 2 of `dim` replaced by 0: what every irfft is meant to ignore, and one on GPUs
    does not. Rows that are not finite stay so."""
    bins = torch.arange(spectrum.shape[dim], device=spectrum.device)
    ends = ((bins == 0) | (2 * bins == size)).view(-1, *(1,) * (spectrum.dim() - 1 - dim))
    return torch.complex(spectrum.real, torch.where(ends, 0 * spectrum.imag, spectrum.imag))


def _weighted(spectrum: Tensor, weight: Tensor) -> Tensor:
    """(B, N1, N2, bins, C) times (S, N1, N2, bins, G)."""
    return (spectrum.unflatten(-1, (weight.shape[-1], -1)) * weight[..., None]).flatten(-2)


def forward(x, weight, norm_weight, norm_bias, residual, eps, conj):
    """-> y (B, N1, N2, N3, C)."""
    weight = torch.view_as_complex(weight)
    outer = tuple(d for d in GRID[:2] if x.shape[d] > 1)
    spectrum = _weighted(torch.fft.rfftn(normalised(x, norm_weight, norm_bias, eps), dim=(*outer, 3)),
                         weight.conj_physical() if conj else weight)  # fmt: skip
    lines = torch.fft.ifftn(spectrum, dim=outer) if outer else spectrum
    y = torch.fft.irfft(real_ends(lines, x.shape[3], 3), n=x.shape[3], dim=3)
    if residual is not None:
        y = y + residual
    return torch.empty_like(x).copy_(y)


def gradient(x, grad, norm_weight, norm_bias, eps, samples, groups):
    """-> dweight (S, N1, N2, bins, G, 2) in the compute dtype."""
    size = x.shape[3]
    a = torch.fft.rfftn(normalised(x, norm_weight, norm_bias, eps), dim=GRID)
    b = torch.fft.rfftn(grad.to(compute_dtype(grad)), dim=GRID)
    product = (a.conj_physical() * b).unflatten(-1, (groups, -1)).sum(-1)  # (B, N1, N2, bins, G)
    if samples == 1:
        product = product.sum(0, keepdim=True)
    bins = torch.arange(half_size(size), device=x.device)
    count = torch.where((bins == 0) | (2 * bins == size), 1.0, 2.0).to(a.real.dtype) / (x.shape[1] * x.shape[2] * size)
    return torch.view_as_real(product * count[:, None]).contiguous()
