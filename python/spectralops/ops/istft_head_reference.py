"""The specification of `istft_head`, in plain PyTorch: magnitude and phase of L frames to audio.

With K = n // 2 + 1 bins and a frame's 2 K numbers (a_k, b_k),

    vocos      X_k = min(exp(a_k), limit) exp(i b_k)
    istftnet   X_k = min(exp(a_k), limit) exp(i sin(b_k))
    cartesian  X_k = a_k + i b_k
    f_l[m] = (1 / n) Re sum_k c_k X_{l,k} exp(2 pi i k m / n)        c_k = 2, but 1 at k = 0 and 2 k = n
    z[t]   = sum_l w[t - l hop] f_l[t - l hop]                       0 <= t - l hop < n
    y[t]   = z[t + start] / e[t + start],   e[t] = sum_l w[t - l hop]^2,   0 <= t < length; without e where not `normalize`

The imaginary parts at k = 0 and 2 k = n have no effect, as in irfft. Adjoint, g = grad / e at its place: with
F_{l,k} = (c_k / n) sum_m w[m] g[l hop + m] exp(-2 pi i k m / n), the gradient of (Re X, Im X) is (Re F, Im F), and then

    da_k = Re F Re X + Im F Im X where exp(a_k) <= limit, else 0
    db_k = Im F Re X - Re F Im X                                     times cos(b_k) for istftnet

Shapes: x (B, L, 2 K) of any strides; window w (n,) and scale = 1 / e (length,) or None contiguous in the compute dtype; results
contiguous in x's dtype. For n <= 64 the transform is a product with a matrix of 2 K x n that holds the window; above, an FFT.
On a CPU long inputs go through in blocks of 128 frames, whose intermediate results stay in the cache.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .fft_conv_reference import compute_dtype

VARIANTS = ("vocos", "istftnet", "cartesian")
SMALL = 64  # n: up to here a GEMM beats the FFT
BLOCK = 128  # frames


def bins(n: int) -> int:
    return n // 2 + 1


def basis(n: int, window: Tensor) -> Tensor:
    """(2 K, n): row k, or K + k, is what Re X_k, or Im X_k, gives to the windowed frame."""
    k = torch.arange(bins(n), device=window.device)[:, None]
    turns = k * torch.arange(n, device=window.device) % n
    angle = turns.to(torch.float64) * (2 * math.pi / n)
    c = torch.where(2 * k % n == 0, 1.0, 2.0).to(torch.float64) / n
    return torch.cat([angle.cos() * c, angle.sin() * -c * (2 * turns % n != 0)]).to(window.dtype) * window


_kept_basis = functools.lru_cache(maxsize=32)(lambda n, dtype, device: basis(n, torch.ones(n, dtype=dtype, device=device)))


def spectrum(a: Tensor, b: Tensor, variant: str, limit: float) -> tuple[Tensor, Tensor]:
    """Re X, Im X; every order of derivative."""
    if variant == "cartesian":
        return a, b
    if limit != math.inf:  # the inner bound keeps exp, whose derivative is met with a factor 0, finite
        a = a.clamp(max=math.log(limit) + 1)
    magnitude = a.exp()
    magnitude = magnitude if limit == math.inf else magnitude.clamp(max=limit)
    phase = b.sin() if variant == "istftnet" else b
    return magnitude * phase.cos(), magnitude * phase.sin()


def envelope(window: Tensor, frames: int, hop: int) -> Tensor:
    """e over (frames - 1) hop + n samples."""
    n = window.shape[0]
    z = window.new_zeros(frames + -(-n // hop) - 1, hop)
    overlap_add(window.square().expand(1, frames, n), z[None], hop, None)
    return z.flatten()[: (frames - 1) * hop + n]


def overlap_add(f: Tensor, out: Tensor, hop: int, window: Tensor | None) -> None:
    """Add the windowed frames f (B, l, n) to out (B, l + ceil(n / hop) - 1, hop), the oldest frame of a sample first."""
    n, count = f.shape[-1], f.shape[1]
    for j in reversed(range(-(-n // hop))):
        size = min(hop, n - j * hop)
        part, place = f[..., j * hop : j * hop + size], out[:, j : j + count, :size]
        if window is None:
            place.add_(part)
        else:
            place.addcmul_(part, window[j * hop : j * hop + size])


def forward(x, window, scale, hop, start, length, variant, limit):
    """-> y (B, length)."""
    rows, frames, _ = x.shape
    n, dtype = window.shape[0], compute_dtype(x)
    small, segments = n <= SMALL, -(-n // hop)
    if small:
        re, im = _spectrum(x.transpose(1, 2).to(dtype).contiguous(), 1, variant, limit)
        matrix = (_kept_basis(n, dtype, x.device) * window).T
        f = torch.matmul(matrix, torch.cat([re, im], 1))  # (B, n, L)
        z = x.new_zeros(rows, hop, frames + segments - 1, dtype=dtype)
        for j in reversed(range(segments)):
            size = min(hop, n - j * hop)
            z[:, :size, j : j + frames] += f[:, j * hop : j * hop + size]
        z = z.transpose(1, 2).reshape(rows, -1)
    else:
        z = x.new_zeros(rows, frames + segments - 1, hop, dtype=dtype)
        room = None
        for r, begin, end in _blocks(x):
            re, im = _spectrum(x[r, begin:end].to(dtype), 2, variant, limit)
            if room is None or room.shape != re.shape:  # one for all blocks: fresh pages cost more than the arithmetic
                room = torch.empty(re.shape, dtype=dtype.to_complex(), device=x.device)
            f = torch.fft.irfft(torch.complex(re, im, out=room), n)
            overlap_add(f, z[r, begin : end + segments - 1], hop, window)
        z = z.flatten(1)
    y = z[:, start : start + length]
    y = y.mul(scale) if scale is not None else y
    return y.to(x.dtype).contiguous()


def backward(grad, x, window, scale, frames, hop, start, variant, limit):
    """-> the gradient of x, (B, frames, 2 K). x may be None for "cartesian"."""
    rows, length = grad.shape
    n, dtype = window.shape[0], compute_dtype(grad)
    segments, half = -(-n // hop), bins(window.shape[0])
    out = grad.new_empty(rows, frames, 2 * half)
    total = (frames + segments - 1) * hop
    g = grad.new_zeros(rows, total, dtype=dtype)
    place = g[:, start : start + length]
    torch.mul(grad.to(dtype), scale, out=place) if scale is not None else place.copy_(grad)
    if n <= SMALL:
        matrix = _kept_basis(n, dtype, grad.device) * window
        g = g.view(rows, -1, hop).transpose(1, 2).contiguous()
        parts = [g[:, : min(hop, n - j * hop), j : j + frames] for j in range(segments)]
        d = torch.matmul(matrix, torch.cat(parts, 1))  # (B, 2 K, L)
        a = None if x is None else x.transpose(1, 2).to(dtype).contiguous()
        out.copy_(torch.cat(_through(d[:, :half], d[:, half:], a, 1, variant, limit), 1).transpose(1, 2))
        return out
    count = torch.full((half,), 2.0 / n, dtype=dtype, device=grad.device)
    count[0] = 1 / n
    if n % 2 == 0:
        count[-1] = 1 / n
    cut = g.as_strided((rows, frames, n), (total, hop, 1))
    for r, begin, end in _blocks(cut):
        d = torch.fft.rfft(cut[r, begin:end] * window)
        d = torch.view_as_real(d)
        block = None if x is None else x[r, begin:end].to(dtype)
        da, db = _through(d[..., 0] * count, d[..., 1] * count, block, 2, variant, limit)
        out[r, begin:end, :half] = da
        out[r, begin:end, half:] = db
    return out


def _blocks(x: Tensor):
    """Slices of rows, first and last frame."""
    rows, frames = x.shape[:2]
    if x.device.type != "cpu" or rows * frames <= BLOCK:
        return [(slice(0, rows), 0, frames)]
    if frames <= BLOCK // 2:
        step = BLOCK // frames
        return [(slice(r, r + step), 0, frames) for r in range(0, rows, step)]
    return [(slice(r, r + 1), b, min(b + BLOCK, frames)) for r in range(rows) for b in range(0, frames, BLOCK)]


def _spectrum(x: Tensor, dim: int, variant: str, limit: float) -> tuple[Tensor, Tensor]:
    """spectrum of both halves of x, in as few passes as there are."""
    a, b = x.chunk(2, dim)
    if variant == "cartesian":
        return a, b
    magnitude = a.exp()
    magnitude = magnitude if limit == math.inf else magnitude.clamp_(max=limit)
    phase = b.sin() if variant == "istftnet" else b
    return phase.cos().mul_(magnitude), phase.sin().mul_(magnitude)


def _through(fr: Tensor, fi: Tensor, x: Tensor | None, dim: int, variant: str, limit: float) -> tuple[Tensor, Tensor]:
    """The gradients of (Re X, Im X) to those of (a, b)."""
    if variant == "cartesian":
        return fr, fi
    a, b = x.chunk(2, dim)
    magnitude = a.exp()
    inside = None if limit == math.inf else magnitude <= limit
    magnitude = magnitude if inside is None else magnitude.clamp_(max=limit)
    phase = b.sin() if variant == "istftnet" else b
    re, im = phase.cos().mul_(magnitude), phase.sin().mul_(magnitude)
    da = (fr * re).addcmul_(fi, im)
    db = (fi * re).addcmul_(fr, im, value=-1)
    return da if inside is None else da.mul_(inside), db.mul_(b.cos()) if variant == "istftnet" else db


def lowered(x: Tensor, window: Tensor, hop: int, start: int, length, normalize: bool, variant: str, limit: float) -> Tensor:
    """The same as one transposed convolution with a real weight, of operations that every exporter knows."""
    n, dtype = window.shape[0], compute_dtype(x)
    re, im = spectrum(*x.to(dtype).chunk(2, 2), variant, limit)
    z = F.conv_transpose1d(torch.cat([re, im], 2).transpose(1, 2), basis(n, window)[:, None], stride=hop)[:, 0]
    if normalize:
        ones = torch.ones_like(x[:1, :, :1], dtype=dtype).transpose(1, 2)
        z = z / F.conv_transpose1d(ones, window.square()[None, None], stride=hop)[:, 0].clamp(min=1e-11)
    return z[:, start : start + length].to(x.dtype)
