"""The specification of the cosine transforms in plain PyTorch.

    C[k, n] = 2 cos(pi k (2 n + 1) / 2N),   s_0 = 1 / sqrt(4N), s_k = 1 / sqrt(2N), k, n = 0 .. N - 1

diag(s) C is orthonormal. Two operators, for p = 0, 1 or 2, are each other's adjoints:

    dct(x, p) = diag(s)^p C x        dct(X, p, transposed) = C^T diag(s)^p X

DCT-II is p = 0, orthonormal p = 1; their inverses are transposed with p = 2 and p = 1. A third one, whose
adjoint is itself with the sizes swapped,

    dct_resample(x, m) = R x,   R = (diag(s) C)_m^T (diag(s) C)_N[:m]

keeps the first min(m, N) coefficients and gives m points. All act on the middle dimension of x (outer, N, inner), contiguous.

Above SMALL points one real transform of N points does it. With v = (x_0, x_2, x_4, .., x_5, x_3, x_1), and for real
X the Hermitian H_0 = 2 X_0, H_k = exp(i pi k / 2N) (X_k - i X_{N-k}):

    (C x)_k = 2 Re(exp(-i pi k / 2N) FFT(v)_k)        C^T X = the x of v = sum_k H_k exp(2 pi i k m / N)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .fft_conv_reference import compute_dtype
from .plain import constant, exporting, no_autocast

SMALL = 256  # points up to which a product with the matrix costs no more than the transform


def scales(size: int, power: int) -> Tensor:
    """s^p (N,) in float64."""
    s = torch.full((size,), (2 * size) ** -0.5, dtype=torch.float64, device="cpu")
    s[:1] = (4 * size) ** -0.5
    return s**power


def matrix(size: int, power: int) -> Tensor:
    """diag(s)^p C (N, N) in float64; the phase is reduced modulo 4 N as an integer."""
    k, n = torch.arange(size, device="cpu")[:, None], torch.arange(size, device="cpu")
    angle = (k * (2 * n + 1) % (4 * size)).to(torch.float64) * (math.pi / (2 * size))
    return 2 * angle.cos() * scales(size, power)[:, None]


def resampler(size: int, points: int) -> Tensor:
    """R (m, N) in float64."""
    kept = min(size, points)
    return matrix(points, 1)[:kept].mT @ matrix(size, 1)[:kept]


def _phase(size: int) -> Tensor:
    """cos, sin (2, N) of pi k / 2N."""
    angle = torch.arange(size, device="cpu").to(torch.float64) * (math.pi / (2 * size))
    return torch.stack([angle.cos(), angle.sin()])


def _product(table: Tensor, z: Tensor) -> Tensor:
    """(m, N), (outer, N, inner) -> (outer, m, inner)."""
    with no_autocast(z):
        return (z[..., 0] @ table.mT)[..., None] if z.shape[2] == 1 else table @ z


def dct(x: Tensor, power: int, transposed: bool) -> Tensor:
    size, z = x.shape[1], x.to(compute_dtype(x))
    if size <= SMALL or exporting():
        table = constant(matrix, (size, power), z, z.dtype)
        return _product(table.mT if transposed else table, z).to(x.dtype).contiguous()
    rows = z.transpose(1, 2)
    rows = _backward(rows, power) if transposed else _forward(rows, power)
    return rows.transpose(1, 2).to(x.dtype).contiguous()


def resample(x: Tensor, points: int) -> Tensor:
    size, z = x.shape[1], x.to(compute_dtype(x))
    if max(size, points) <= SMALL or exporting():
        return _product(constant(resampler, (size, points), z, z.dtype), z).to(x.dtype).contiguous()
    kept = dct(z, 1, False)[:, : min(size, points)]
    return dct(torch.nn.functional.pad(kept, (0, 0, 0, points - kept.shape[1])), 1, True).to(x.dtype)


def _forward(z: Tensor, power: int) -> Tensor:
    """(.., N) -> diag(s)^p C z."""
    size = z.shape[-1]
    half = size // 2 + 1
    rest = size - half  # bins half .. N - 1 are the conjugates of bins rest .. 1
    cos, sin = constant(_phase, (size,), z, z.dtype)
    spectrum = torch.fft.rfft(torch.cat([z[..., ::2], z[..., 1::2].flip(-1)], -1))
    re, im = spectrum.real, spectrum.imag
    low = re * cos[:half] + im * sin[:half]
    re, im = re[..., 1 : 1 + rest].flip(-1), im[..., 1 : 1 + rest].flip(-1)
    y = torch.cat([low, re * cos[half:] - im * sin[half:]], -1)
    return y * constant(_doubled_scales, (size, power), z, z.dtype)


def _doubled_scales(size: int, power: int) -> Tensor:
    return 2 * scales(size, power)


def _first_doubled_scales(size: int, power: int) -> Tensor:
    s = scales(size, power)
    s[:1] *= 2
    return s


def _backward(z: Tensor, power: int) -> Tensor:
    """(.., N) -> C^T diag(s)^p z."""
    size = z.shape[-1]
    half = size // 2 + 1
    z = z * constant(_first_doubled_scales, (size, power), z, z.dtype)
    cos, sin = (t[:half] for t in constant(_phase, (size,), z, z.dtype))
    x = z[..., :half]
    mirror = torch.cat([torch.zeros_like(z[..., :1]), z[..., 1:].flip(-1)], -1)[..., :half]
    v = torch.fft.irfft(torch.complex(x * cos + mirror * sin, x * sin - mirror * cos), n=size, norm="forward")
    even = (size + 1) // 2
    odd = torch.nn.functional.pad(v[..., even:].flip(-1), (0, size % 2))
    return torch.stack([v[..., :even], odd], -1).flatten(-2)[..., :size]
