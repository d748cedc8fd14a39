"""`dtcwt`, `idtcwt`: one level of the dual-tree complex wavelet transform of images, with the near-symmetric filters
of 13 and 19 taps.

Rows and columns are filtered by h0 (low) and h1 (high), images continued by reflection about their edges, x_-1 = x_0,
nothing left out:   L = filter by h0 both ways,   three highs: columns h1 and rows h0, both h1, columns h0 and rows h1.
Each high is cut into 2 x 2 quads (a b / c d), which make a coefficient in each of two directions,

    z1 = ((a - d) + i (b + c)) / sqrt 2,   z2 = ((a + d) + i (b - c)) / sqrt 2

The inverse puts the quads together again and filters by g0, g1. With n counted from the middle tap h1_n = (-1)^n
g0_n, g1_n = (-1)^n h0_n and h0 * g0 is 1/2 at lag 0 and 0 at the other even ones, so h0 * g0 + h1 * g1 = 1 and the
inverse is exact; filters and continuation are symmetric, so the matrix of a filter is, and the adjoint of each
transform is the other one with analysis and synthesis exchanged.

The taps are rational: h0 over 5120, g0 over 1146880 (N. Kingsbury, Complex Wavelets for Shift Invariant Analysis and
Filtering of Signals, 2001).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import _check
from .fft_conv_reference import compute_dtype
from .plain import constant, no_autocast

_H0 = (2844, 1520, -247, -240, 114, 0, -9)  # lags 0 .. 6, over 5120
_G0 = (641600, 343786, -59280, -63816, 27360, 8208, -2160, -1539, 0, 81)  # lags 0 .. 9, over 1146880
DENSE = 128  # points up to which a filter is a product with its matrix


def taps(high: bool, inverse: bool) -> Tensor:
    """(2 m + 1,) in float64: h0, h1, g0 or g1."""
    long = high != inverse
    half = torch.tensor(_G0 if long else _H0, dtype=torch.float64, device="cpu") / (1146880 if long else 5120)
    if high:
        half = half * (1 - 2 * (torch.arange(len(half), device="cpu") % 2))
    return torch.cat([half.flip(0)[:-1], half])


def _reflected(size: int, reach: int) -> Tensor:
    """The positions -reach .. size + reach - 1 of a row continued by reflection."""
    n = torch.arange(-reach, size + reach, device="cpu") % (2 * size)
    return torch.where(n < size, n, 2 * size - 1 - n)


def filter_pair(size: int, inverse: bool) -> Tensor:
    """The matrices of the low and of the high filter (2, N, N), both symmetric."""
    both = []
    for high in (False, True):
        h = taps(high, inverse)
        reach = len(h) // 2
        columns = _reflected(size, reach).unfold(0, len(h), 1)  # (N, taps)
        both.append(torch.zeros(size, size, dtype=torch.float64, device="cpu").scatter_add(1, columns, h.expand(size, -1)))
    return torch.stack(both)


def _filtered(x: Tensor, dim: int, high: bool, inverse: bool) -> Tensor:
    """One filter along dimension -1 or -2 of x (.., H, W)."""
    size = x.shape[dim]
    if size <= DENSE:
        matrix = constant(filter_pair, (size, inverse), x, x.dtype)[int(high)]
        return x @ matrix if dim == -1 else matrix @ x
    h = constant(taps, (high, inverse), x, x.dtype)
    index = constant(_reflected, (size, h.shape[0] // 2), x, torch.int64)
    images = x.reshape(-1, 1, *x.shape[-2:]).index_select(dim, index)
    return F.conv2d(images, h.view((1, 1, 1, -1) if dim == -1 else (1, 1, -1, 1))).view(x.shape)


def _directions(y: Tensor) -> tuple[Tensor, Tensor]:
    """(.., H, W) -> two of (.., H/2, W/2, 2)."""
    y = y * 0.5**0.5
    a, b, c, d = y[..., ::2, ::2], y[..., ::2, 1::2], y[..., 1::2, ::2], y[..., 1::2, 1::2]
    return torch.stack([a - d, b + c], -1), torch.stack([a + d, b - c], -1)


def _quads(z1: Tensor, z2: Tensor) -> Tensor:
    """The inverse of _directions, and its adjoint."""
    plus, minus = (z1 + z2) * 0.5**0.5, (z1 - z2) * 0.5**0.5
    rows = torch.stack([plus, torch.stack([minus[..., 1], -minus[..., 0]], -1)], -3)  # (.., H/2, 2, W/2, 2): (a b), (c d)
    return rows.flatten(-2).flatten(-3, -2)


def _image(name: str, x: Tensor) -> None:
    _check.tensor(name, x)
    if x.dim() < 2 or x.shape[-1] % 2 or x.shape[-2] % 2 or 0 in x.shape[-2:]:
        raise ValueError(f"{name} must have shape (.., H, W) with H and W even and positive; got {_check.shape(x)}")


def dtcwt(x: Tensor) -> tuple[Tensor, Tensor]:
    r"""One level of the dual-tree complex wavelet transform, near_sym_b filters: pytorch_wavelets' DTCWTForward(J=1), SVT's.

    Args:
        x: (.., H, W), H and W even, float16, bfloat16, float32 or float64, any strides, empty allowed.

    Returns low (.., H, W) and high (.., 6, H/2, W/2, 2), real and imaginary parts of the directions 15, 45, 75, 105,
    135 and 165 degrees, of x's dtype, computed in float32 (float64 for float64) and rounded once.

    Plain PyTorch of standard real operators: derivatives of every order, torch.compile and export as they come;
    nothing but x's dtype is kept. Autocast: takes what it is given. Errors: TypeError for dtypes, ValueError for odd
    sizes, which upstream pads.

    Source: N. Kingsbury, 2001; B. Patro, V. Agneeswaran, Scattering Vision Transformer, 2023.
    """
    _image("x", x)
    z = x.to(compute_dtype(x))
    with no_autocast(z):
        lo, hi = (_filtered(z, -1, high, False) for high in (False, True))
        low, lh = (_filtered(lo, -2, high, False) for high in (False, True))
        hl, hh = (_filtered(hi, -2, high, False) for high in (False, True))
    (d15, d165), (d45, d135), (d75, d105) = map(_directions, (lh, hh, hl))
    high = torch.stack([d15, d45, d75, d105, d135, d165], -4)
    return low.to(x.dtype), high.to(x.dtype)


def idtcwt(low: Tensor, high: Tensor) -> Tensor:
    r"""The inverse of :func:`dtcwt`, exact: low (.., H, W), high (.., 6, H/2, W/2, 2) -> x (.., H, W). The rest as there."""
    _image("low", low)
    _check.tensor("high", high)
    _check.same_device("low", low, high=high)
    *lead, height, width = low.shape
    wanted = (*lead, 6, height // 2, width // 2, 2)
    if tuple(high.shape) != wanted or high.dtype != low.dtype:
        raise ValueError(f"high must have shape {wanted} and low's dtype {low.dtype}; got {_check.shape(high)}, {high.dtype}")
    compute = compute_dtype(low)
    d15, d45, d75, d105, d135, d165 = high.to(compute).unbind(-4)
    lh, hh, hl = _quads(d15, d165), _quads(d45, d135), _quads(d75, d105)
    with no_autocast(low):
        lo = _filtered(low.to(compute), -2, False, True) + _filtered(lh, -2, True, True)
        hi = _filtered(hl, -2, False, True) + _filtered(hh, -2, True, True)
        return (_filtered(lo, -1, False, True) + _filtered(hi, -1, True, True)).to(low.dtype)
