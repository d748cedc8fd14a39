"""The specification of the truncated transforms and of the mixing of modes, in plain PyTorch.

On a grid of N1 N2 N3 points (unused dimensions have size 1) and a box of M1 M2 M3 modes, mode (r1, r2, r3) of which has the
frequencies f_d = start_d + (r_d + shift_d) mod M_d (distinct modulo N_d), theta = 2 pi sum_d f_d n_d / N_d, s = scale, and c = 2
except where f3 = 0 or 2 f3 = 0 modulo N3, there 1; c = 1 throughout unless `doubled`:

    mode_dft(x)[f]  = s c_f sum_n x[n] exp(-i theta)
    mode_idft(X)[n] = s sum_f c_f Re(X[f] exp(+i theta))

The two are each other's adjoint for equal modes, s and `doubled`. mode_idft(mode_dft(x)) with s = 1/sqrt(N) each, the half
spectrum and `doubled` in one of them is x. The real part is the projection that makes DC and Nyquist one on every device.
mode_idft also ends a layer: y = act(z), z = mode_idft(X) + skip + bias; or, where grad is given, y = grad act'(z).

    mode_mix(X, W)[b, o, p] = sum_i X[b, i, p] W[i, o, p]              adjoint: Y, W -> sum_o Y[b, o, p] conj(W[i, o, p])
    mode_mix_gradient(X, Y)[i, o, p] = sum_b conj(X[b, i, p]) Y[b, o, p]

are three products that are each other's derivatives.

Shapes: grids (x, skip, grad, y) (B, C, N1, N2, N3), spectra (B, C, M1, M2, M3, 2); with `last` (B, N1, N2, N3, C) and
(B, M1, M2, M3, C, 2). Grids may have any strides; spectra, bias (C,) and results are contiguous, spectra and bias in the compute
dtype. W (Ci, Co, P, 2) contiguous, of any float dtype.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .fft_conv_reference import compute_dtype
from .plain import constant, exporting, no_autocast, turns
from .spectral_filter_reference import real_ends

ACTIVATIONS = ("identity", "gelu")


class Modes(NamedTuple):
    """A box of modes of a grid; three of each."""

    sizes: tuple[int, ...]
    starts: tuple[int, ...]
    shifts: tuple[int, ...]
    counts: tuple[int, ...]

    def frequencies(self, d: int, device=None) -> Tensor:
        """(M_d,) int64."""
        count = self.counts[d]
        return self.starts[d] + (torch.arange(count, device=device) + self.shifts[d]) % count


def factor(modes: Modes, d: int, dtype: torch.dtype, device) -> tuple[Tensor, Tensor]:
    """cos, sin (M_d, N_d) of theta_d, exact in the phase: f n is reduced modulo N_d as an integer."""
    if exporting():
        sizes, like = (modes.sizes[d], modes.starts[d], modes.shifts[d], modes.counts[d]), torch.empty(0, device=device)
        return constant(_cosines, sizes, like, dtype), constant(_sines, sizes, like, dtype)
    angle = turns(modes.frequencies(d, device), torch.arange(modes.sizes[d], device=device), modes.sizes[d])
    return angle.cos().to(dtype), angle.sin().to(dtype)


def _angles(size: int, start: int, shift: int, count: int) -> Tensor:
    return turns(start + (torch.arange(count) + shift) % count, torch.arange(size), size)


def _cosines(*sizes: int) -> Tensor:
    return _angles(*sizes).cos()


def _sines(*sizes: int) -> Tensor:
    return _angles(*sizes).sin()


def count(modes: Modes, dtype: torch.dtype, device) -> Tensor:
    """c (M3,)."""
    return torch.where((2 * modes.frequencies(2, device)) % modes.sizes[2] == 0, 1.0, 2.0).to(dtype)


def _turned(re: Tensor, im: Tensor | None, cos: Tensor, sin: Tensor, d: int) -> tuple[Tensor, Tensor]:
    """(re + i im) (.., N_d at dimension d, ..) times exp(-i theta_d), summed over n: (.., M_d, ..)."""
    if im is not None and cos.shape == (1, 1):  # a dimension of one point: theta is 0
        return re, im

    def along(t, matrix):
        with no_autocast(t):  # which would narrow the product
            return torch.tensordot(t, matrix, dims=([d], [1])).movedim(-1, d)

    if im is None:
        return along(re, cos), -along(re, sin)
    return along(re, cos) + along(im, sin), along(im, cos) - along(re, sin)


def wide(modes: Modes) -> bool:
    """Whether a fast transform of the whole grid, of which the rest is dropped, is cheaper than products with the kept modes alone;
    what is exported has products, which are standard and real."""
    half = 0 <= modes.starts[2] and modes.starts[2] + modes.counts[2] <= modes.sizes[2] // 2 + 1
    return not exporting() and half and any(n > 64 and 4 * m > n for m, n in zip(modes.counts, modes.sizes))


def _outer(modes: Modes, first: int) -> tuple[int, ...]:
    """The dimensions but the last that have more than one point."""
    return tuple(first + d for d in (0, 1) if modes.sizes[d] > 1)


def _fast_dft(x: Tensor, modes: Modes, first: int) -> Tensor:
    """Complex, unscaled."""
    out = torch.fft.rfftn(x, dim=(*_outer(modes, first), first + 2))
    for d in range(3):
        index = modes.frequencies(d, x.device) % modes.sizes[d]
        if modes.counts[d] < out.shape[first + d] or modes.starts[d] or modes.shifts[d]:
            out = out.index_select(first + d, index)
    return out


def _fast_idft(spectrum: Tensor, modes: Modes, first: int) -> Tensor:
    """Real, unscaled, c = 2 (complex spectrum)."""
    for d in range(3):
        index, size = modes.frequencies(d, spectrum.device) % modes.sizes[d], modes.sizes[d] if d < 2 else modes.sizes[2] // 2 + 1
        if modes.counts[d] < size or modes.starts[d] or modes.shifts[d]:
            shape = list(spectrum.shape)
            shape[first + d] = size
            spectrum = spectrum.new_zeros(shape).index_copy(first + d, index, spectrum)
    lines = torch.fft.ifftn(spectrum, dim=outer, norm="forward") if (outer := _outer(modes, first)) else spectrum
    return torch.fft.irfft(real_ends(lines, modes.sizes[2], first + 2), n=modes.sizes[2], dim=first + 2, norm="forward")


def dft(x: Tensor, modes: Modes, last: bool, scale: float, doubled: bool) -> Tensor:
    """-> spectrum."""
    dtype, first = compute_dtype(x), 1 if last else 2
    if wide(modes):
        out = torch.view_as_real(_fast_dft(x.to(dtype), modes, first)) * scale
    else:
        re, im = x.to(dtype), None
        for d in (2, 1, 0):
            re, im = _turned(re, im, *factor(modes, d, dtype, x.device), first + d)
        out = torch.stack([re, im], -1) * scale
    if doubled:
        out = out * count(modes, dtype, x.device).view(-1, *(1,) * (2 if last else 1))
    return out.contiguous()


def _slow_idft(spectrum: Tensor, modes: Modes, first: int, scale: float) -> Tensor:
    re, im = spectrum[..., 0] * scale, -spectrum[..., 1] * scale  # Re(X e^{i theta}) = Re(conj(X) e^{-i theta})
    for d in (0, 1, 2):
        cos, sin = factor(modes, d, spectrum.dtype, spectrum.device)
        re, im = _turned(re, im, cos.T, sin.T, first + d)
    return re


def idft(spectrum, modes, last, scale, doubled, skip, bias, grad, activation, dtype):
    """-> y of `dtype`."""
    compute, first = spectrum.dtype, 1 if last else 2
    fast = wide(modes)
    if doubled is not fast:
        twice = count(modes, compute, spectrum.device)
        spectrum = spectrum * (1 / twice if fast else twice).view(-1, *(1,) * (2 if last else 1))
    if fast:
        re = _fast_idft(torch.view_as_complex((spectrum * scale).contiguous()), modes, first)
    else:
        re = _slow_idft(spectrum, modes, first, scale)
    z = re
    if skip is not None:
        z = z + skip
    if bias is not None:
        z = z + (bias if last else bias[:, None, None, None])
    if grad is not None:
        y = grad if activation == "identity" else torch.ops.aten.gelu_backward(grad.to(compute), z)
    else:
        y = z if activation == "identity" else F.gelu(z)
    return y.to(dtype).contiguous()


def matrix(t: Tensor) -> Tensor:
    """Complex numbers a + ib (.., 2) as what multiplies a row (re, im) by them, [[a, b], [-b, a]] (.., 2, 2)."""
    return torch.stack([t, torch.stack([-t[..., 1], t[..., 0]], -1)], -2)


def mix(spectrum: Tensor, weight: Tensor, adjoint: bool) -> Tensor:
    """(B, Ci, P, 2) -> (B, Co, P, 2), or, adjoint, back."""
    w = matrix(weight.to(spectrum.dtype))
    with no_autocast(spectrum):
        out = torch.einsum("bopT,iopST->bipS" if adjoint else "bipS,iopST->bopT", spectrum, w)
    return out.contiguous()


def mix_gradient(spectrum: Tensor, grad: Tensor) -> Tensor:
    """(B, Ci, P, 2), (B, Co, P, 2) -> (Ci, Co, P, 2)."""
    with no_autocast(spectrum):
        return torch.einsum("bipST,bopT->iopS", matrix(spectrum), grad.to(spectrum.dtype)).contiguous()
