"""`fft_conv2d`: true convolution of images, as one convolution of rows that stand one after the other.

An image (Y, X) written with pitch W >= X, zeros between its rows, is a row of Y W numbers, and the lag (i, j) of
the plane is the lag i W + j of that row: x - j leaves [0, X) only into the zeros between two rows if these are as
many as the furthest j on either side. So a plane of taps (Ky, Kx) is a row of (Ky - 1) W + Kx taps with lag (0, 0)
in place, and `fft_conv` does the rest in every backend, dtype and order of derivative. Its transform has the
area of the padded plane, as a two-dimensional one would.

    same      W = X + max(Kx - 1 - Kx // 2, Kx // 2), Y rows
    full      W = X + Kx - 1, Y + Ky - 1 rows
    circular  the image is continued periodically by Ky - 1 rows and Kx - 1 columns before it; no zeros are needed

A circular convolution needs no padding at all in the transform of the plane itself, a half to a ninth of the time
of the padded row from 3 x 3 to 51 x 51 on a CPU, so it is irfft2(rfft2(u) rfft2(k)) by torch unless another backend
than the reference is named.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import _check
from .fft_conv import _run
from .fft_conv_check import Arguments
from .fft_conv_reference import Call, compute_dtype

MODES = ("same", "circular", "full")


def _cut(k: Tensor, centre: int, size: int, dim: int) -> tuple[Tensor, int]:
    """Taps at lags of `size` or more, either side, meet no input; what is left, and its centre."""
    if k.shape[dim] <= size:
        return k, centre
    first = max(0, centre - (size - 1))
    last = min(k.shape[dim], centre + size)
    return k.narrow(dim, first, last - first), centre - first


def _fold(k: Tensor, period: int, dim: int) -> Tensor:
    """Tap j goes to j mod period."""
    size = k.shape[dim]
    if size <= period:
        return k
    parts = [k.narrow(dim, a, min(period, size - a)) for a in range(0, size, period)]
    gap = list(k.shape)
    gap[dim] = period - parts[-1].shape[dim]
    parts[-1] = torch.cat([parts[-1], k.new_zeros(gap)], dim)
    return torch.stack(parts).sum(0)


def _wrap(u: Tensor, before: int, dim: int) -> Tensor:
    return torch.cat([u.narrow(dim, u.shape[dim] - before, before), u], dim)


def _of_the_plane(u: Tensor, k: Tensor, skip: Tensor | None) -> Tensor:
    """(B, H, Y, X), (G, Y' <= Y, X' <= X) -> the circular convolution, in k's dtype."""
    b, h, *size = u.shape
    v = u.to(k.dtype)
    product = torch.fft.rfft2(v.unflatten(1, (k.shape[0], -1))) * torch.fft.rfft2(k, size)[:, None]
    y = torch.fft.irfft2(product, size).reshape(b, h, *size)
    return y if skip is None else y + skip[:, None, None] * v


def fft_conv2d(u: Tensor, k: Tensor, *, skip: Tensor | None = None, mode: str = "same", backend: str | None = None) -> Tensor:
    r"""Depthwise convolution of images with kernels of any size,
    :math:`y_{t,x} = \sum_{i,j} k_{i,j} u_{t-i,x-j} + D u_{t,x}`.

    A true convolution (torch's conv2d correlates: flip k in both dimensions to go from one to the other), in
    O(Y X log Y X) for k of any size.

    Args:
        u: (..., H, Y, X); float16, bfloat16, float32 or float64. Any strides, any size, empty allowed.
        k: (H, Ky, Kx), or (G, Ky, Kx), each shared by a contiguous block of H / G channels. Any size, also larger
            than the image.
        skip: D, (H,) or None; modes "same" and "circular".
        mode: "same": y[t, x] = full[t + Ky // 2, x + Kx // 2], of u's size. "circular": indices modulo Y and X, lag
            (0, 0) first, taps beyond the image wrap around. "full": (..., H, Y + Ky - 1, X + Kx - 1).
        backend: None (automatic) or "reference", "cpu", "triton", "cuda".

    Returns: a contiguous tensor in u's dtype, computed in float32 (float64 for float64) and rounded once. NaN or
        infinity makes its channel of its image NaN throughout.

    Derivatives: every order, in u, k and skip. Saved are u, padded to its pitch, the kernel and skip (mode
        "circular": both spectra). Deterministic as fft_conv. Autocast: none.

    Raises:
        TypeError: not a tensor, not dense, an unsupported dtype, float64 parameters with narrower u.
        ValueError: shapes that do not fit, an empty k, an unknown mode, skip with mode "full", mixed devices.
        RuntimeError: `backend` was named and cannot run this call.

    In mode "full" it multiplies two-dimensional Fourier series, whose coefficients convolve:
    :mod:`spectralops.nn.gaunt` builds on that the Gaunt tensor product of equivariant networks.

    Source: the large kernels of S. Kim, E. Park, SMPConv, CVPR 2023; S. Luo et al., Gaunt Tensor Products, 2024.
    """
    _check.tensor("u", u)
    _check.tensor("k", k)
    _check.choice("mode", mode, MODES)
    _check.coefficients_dtype("k", k, "u", u)
    _check.same_device("u", u, k=k)
    if u.dim() < 3:
        raise ValueError(f"u must have shape (..., H, Y, X); got {_check.shape(u)}")
    channels, height, width = u.shape[-3:]
    if k.dim() != 3 or 0 in k.shape:
        raise ValueError(f"k must have shape (H, Ky, Kx) or (G, Ky, Kx) and be nowhere empty; got {_check.shape(k)}")
    if channels % k.shape[0]:
        raise ValueError(f"k has {k.shape[0]} groups, which do not divide the {channels} channels of u")
    if skip is not None:
        _check.tensor("skip", skip)
        _check.coefficients_dtype("skip", skip, "u", u)
        _check.same_device("u", u, skip=skip)
        if mode == "full":
            raise ValueError("skip is for the modes 'same' and 'circular', whose result has u's size; got mode='full'")
        if tuple(skip.shape) != (channels,):
            raise ValueError(f"skip must have shape (H,) = ({channels},); got {_check.shape(skip)}")
    dtype = compute_dtype(u)
    ky, kx = k.shape[1:]
    size = (height + ky - 1, width + kx - 1) if mode == "full" else (height, width)
    k = k.to(dtype)
    if u.numel() == 0:  # nothing but zeros, which gradients reach all the same
        zero = u.sum() + k[:0].sum().to(u.dtype)
        zero = zero if skip is None else zero + skip[:0].sum().to(u.dtype)
        return zero.expand(*u.shape[:-2], *size).clone(memory_format=torch.contiguous_format)
    x = u.reshape(-1, channels, height, width) if u.dim() != 4 else u
    skip = None if skip is None else skip.to(dtype)
    if mode == "circular":
        k = _fold(_fold(k, height, 1), width, 2)
        if backend in (None, "reference"):
            return _of_the_plane(x, k, skip).to(u.dtype).reshape(u.shape)
    top = left = cy = cx = 0  # where the result begins in the padded plane; lag 0 of the taps
    if mode == "same":
        k, cy = _cut(k, ky // 2, height, 1)
        k, cx = _cut(k, kx // 2, width, 2)
        pad = (max(cx, k.shape[2] - 1 - cx), 0)
    elif mode == "full":
        pad = (kx - 1, ky - 1)
    else:
        top, left = k.shape[1] - 1, k.shape[2] - 1
        x, pad = _wrap(_wrap(x, top, 2), left, 3), (0, 0)
    x = F.pad(x, (0, pad[0], 0, pad[1])) if any(pad) else x
    rows, pitch = x.shape[-2:]
    taps = F.pad(k, (0, pitch - k.shape[2])).flatten(1)[:, : (k.shape[1] - 1) * pitch + k.shape[2]]
    call = Call(cy * pitch + cx, 0, "identity", "highest", False, rows * pitch)
    skip = skip if skip is None else skip[None]
    y = _run(Arguments(x.flatten(2), taps[None, None], skip, None, None, None, None, call), backend)[:, 0]
    y = y.unflatten(-1, (rows, pitch))[..., top : top + size[0], left : left + size[1]]
    return y.reshape(*u.shape[:-2], *size).contiguous()
