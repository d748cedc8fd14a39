"""Gaunt tensor products by two-dimensional Fourier products: `GauntTensorProduct`.

A function on the sphere of degree at most l is a trigonometric polynomial of degree l in each of its angles,

    Y_lm(theta, phi) = sum_{u, v} y_{lm,uv} e^{i (u theta + v phi)},    |u| <= l, v = +-m,

so the product of two such functions is the convolution of their coefficients, `fft_conv2d` with mode "full", and back

    x_lm = int F Y_lm sin theta dtheta dphi = sum_{u, v} F_uv z_{lm,uv},
    z_{lm,uv} = 2 pi sum_w y_{lm,w(-v)} I(u + w),
    I(s) = int_0^pi e^{i s theta} sin theta dtheta = 2 / (1 - s^2) for even s, +-i pi / 2 for s = +-1, else 0.

The whole contracts with the Gaunt coefficients, G = int Y_a Y_b Y_c, without ever forming them: O(L^3) for the
product where the dense contraction takes O(L^6); the two changes of basis are dense here, O(L^4), which for the
degrees in use is a small matrix product.

Source: S. Luo, T. Chen, A. Krishnapriyan, Enabling Efficient Equivariant Operations in the Fourier Basis via Gaunt
Tensor Products, ICLR 2024.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .. import _check
from ..ops.fft_conv2d import fft_conv2d


def _legendre(degree: int, cos: Tensor, sin: Tensor) -> dict[tuple[int, int], Tensor]:
    """Normalised associated Legendre functions P_lm, m >= 0, no Condon-Shortley sign; sin may be negative."""
    found = {(0, 0): torch.full_like(cos, 1 / math.sqrt(4 * math.pi))}
    for m in range(1, degree + 1):
        found[m, m] = math.sqrt((2 * m + 1) / (2 * m)) * sin * found[m - 1, m - 1]
    for m in range(degree + 1):
        for l in range(m + 1, degree + 1):  # noqa: E741
            below = found[l - 2, m] if l > m + 1 else 0
            a, b = math.sqrt((4 * l * l - 1) / (l * l - m * m)), math.sqrt(((l - 1) ** 2 - m * m) / (4 * (l - 1) ** 2 - 1))
            found[l, m] = a * (cos * found[l - 1, m] - b * below)
    return found


def to_fourier(degree: int) -> Tensor:
    """y: ((degree + 1)^2, 2 degree + 1, 2 degree + 1) complex128, [l^2 + l + m, u + degree, v + degree]."""
    size = 2 * degree + 1
    theta = torch.arange(size, dtype=torch.float64) * (2 * math.pi / size)
    y = torch.zeros((degree + 1) ** 2, size, size, dtype=torch.complex128)
    for (l, m), p in _legendre(degree, theta.cos(), theta.sin()).items():  # noqa: E741
        row = torch.fft.fftshift(torch.fft.fft(p)) / size  # coefficients of e^{i u theta}
        if m == 0:
            y[l * l + l, :, degree] = row
            continue
        row = row * math.sqrt(0.5)  # sqrt 2 cos(m phi), sqrt 2 sin(m phi)
        y[l * l + l + m, :, degree + m] = y[l * l + l + m, :, degree - m] = row
        y[l * l + l - m, :, degree + m], y[l * l + l - m, :, degree - m] = -1j * row, 1j * row
    return y


def from_fourier(degree: int, out: int) -> Tensor:
    """z: ((out + 1)^2, 2 degree + 1, 2 degree + 1) complex128, from a series of `degree` to harmonics of `out`."""
    s = torch.arange(-degree, degree + 1)[:, None] + torch.arange(-out, out + 1)  # u + w
    square = torch.where(s % 2 == 0, s.double().square(), 0.0)
    integral = torch.where(s % 2 == 0, 2 / (1 - square), 0.0) + 1j * (math.pi / 2) * s.double() * (s.abs() == 1)
    y = to_fourier(out).flip(2)  # at -v
    inner = 2 * math.pi * torch.einsum("uw,cwv->cuv", integral, y)
    gap = degree - out
    return torch.nn.functional.pad(inner, (gap, gap)) if gap >= 0 else inner[:, :, -gap : 2 * degree + 1 - gap]


def _real(t: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.view_as_real(t.resolve_conj()).to(dtype).contiguous()


class GauntTensorProduct(nn.Module):
    r"""The product of two functions on the sphere in spherical harmonics, to the degree `degree_out`:
    :math:`x_c = \sum_{a,b} G_{abc}\, x_a y_b`, :math:`G_{abc} = \int Y_a Y_b Y_c`, an equivariant tensor product.

    Args:
        degree1, degree2: of the two inputs, (..., (degree + 1)^2), coefficient of Y_lm at l^2 + l + m, real
            orthonormal harmonics without the Condon-Shortley sign, sqrt 2 cos(m phi) for m > 0 and sqrt 2 sin(\|m\|
            phi) for m < 0.
        degree_out: of the result; degree1 + degree2 by default, the whole product.
        dtype: of the tables; inputs must have it.

    forward(x, y): leading dimensions broadcast. Derivatives of every order. No parameters; the tables are not in
    the state_dict.
    """

    def __init__(self, degree1: int, degree2: int, degree_out: int | None = None, *, dtype: torch.dtype = torch.float32):
        super().__init__()
        degree_out = degree1 + degree2 if degree_out is None else degree_out
        for name, value in (("degree1", degree1), ("degree2", degree2), ("degree_out", degree_out)):
            if _check.integer(name, value) < 0:
                raise ValueError(f"{name} must not be negative; got {value}")
        if dtype not in (torch.float32, torch.float64):
            raise TypeError(f"dtype must be float32 or float64; got {dtype}")
        self.degrees = degree1, degree2, degree_out
        self.register_buffer("first", _real(to_fourier(degree1), dtype), persistent=False)  # (a, u, v, 2)
        self.register_buffer("second", _real(to_fourier(degree2), dtype), persistent=False)
        self.register_buffer("back", _real(from_fourier(degree1 + degree2, degree_out), dtype), persistent=False)

    def extra_repr(self) -> str:
        return "degrees {} x {} -> {}".format(*self.degrees)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        for name, t, degree in (("x", x, self.degrees[0]), ("y", y, self.degrees[1])):
            _check.tensor(name, t, (self.first.dtype,))
            if t.dim() < 1 or t.shape[-1] != (degree + 1) ** 2:
                raise ValueError(f"{name} must have shape (..., {(degree + 1) ** 2}) for degree {degree}; got {_check.shape(t)}")
        try:
            leading = torch.broadcast_shapes(x.shape[:-1], y.shape[:-1])
        except RuntimeError:
            raise ValueError(f"the leading dimensions of x and y must broadcast; got {_check.shape(x)} and {_check.shape(y)}") from None
        x, y = (t.expand(*leading, t.shape[-1]).reshape(-1, t.shape[-1]) for t in (x, y))
        if x.shape[0] == 0:
            return (x[:, :1] + y[:, :1]).expand(-1, self.back.shape[0]).reshape(*leading, self.back.shape[0])
        with torch.autocast(x.device.type, enabled=False):
            return self._product(x, y).reshape(*leading, -1)

    def _product(self, x: Tensor, y: Tensor) -> Tensor:
        """(N, a), (N, b) -> (N, c)."""
        f = torch.einsum("na,auvc->cnuv", x, self.first)  # (2, N, u, v), real and imaginary
        g = torch.einsum("nb,buvc->cnuv", y, self.second)
        by_real, by_imaginary = (fft_conv2d(f, k, mode="full") for k in g)  # every row with its own kernel
        real, imaginary = by_real[0] - by_imaginary[1], by_real[1] + by_imaginary[0]
        # the real part of F z; the imaginary one is zero, both functions being real
        return torch.einsum("nuv,cuv->nc", real, self.back[..., 0]) - torch.einsum("nuv,cuv->nc", imaginary, self.back[..., 1])
