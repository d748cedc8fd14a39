"""The specification of `fft_conv` in plain PyTorch, forward and backward.

With v = gate_in u, c = conv(v) + skip v, z = gate_out c and e a row's incoming gradient times its mask:

    forward    y = act(z) mask
    backward   dz = e act'(z), dc = dz gate_out,  dmask = sum_t grad act(z),  dgate_out = dz c,  dskip = sum_{b,t} dc v,
               dv = corr(dc, k) + skip dc,  du = dv gate_in,  dgate_in = dv u,  dk[j] = sum_{b,t} dc[t] v[t + lag0 - j]

Shapes: u, gate_in (B, H, L); grad, gate_out, y (B, F, H, L); skip (F, H); mask (B, H). A kernel is either taps in time,
(S, F, G, K) with tap j at lag j - lag0, or, where `call.grid` is not 0, its spectrum (S, F, G, N, 2) on N = call.grid points

    Q_m = sum_j h_j exp(-2 pi i j (m + 1/4) / N),   m = 0 .. N - 1,

h_j the tap at lag j. On that grid a real row of 2N numbers is a complex one of N, z_j = (x_j - i x_{j+N}) exp(-i pi j / 2N), and
the product of two spectra is their negacyclic convolution, y_{t+2N} = -y_t: that of polynomials modulo X^{2N} + 1, or of
complex ones modulo X^N + i. It is linear wherever 2N >= L + max(lag0, K - 1 - lag0), as a cyclic one of 2N is, and needs no
split into even and odd parts (the right-angle convolution; Crandall, Fagin, Math. Comp. 62, 1994). S is 1 or the number of
rows B; channel h takes kernel h // (H / G). With cu_seqlens (R + 1,) u is (1, H, T), its rows are the R stretches of T, and R
stands for B in mask and S.
"""

# Conjugates are physical: on the first call of a compiled function torch runs operators with the Conjugate key excluded, under
# which a lazy one is multiplied as if it were plain.

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

ACTIVATIONS = ("identity", "silu", "gelu")
GRADIENTS = ("u", "kernel", "skip", "gate_in", "gate_out", "mask")  # the order of `needs`


class Call(NamedTuple):
    """What a call is beside its tensors."""

    lag0: int  # lag of tap j is j - lag0; 0 for a spectrum, which holds the lags already
    grid: int  # 0: the kernel is taps; else the points of its spectrum
    activation: str
    precision: str
    blh: bool  # results are contiguous as (B, L, F, H), not as (B, F, H, L)
    length: int  # of the longest row


def compute_dtype(t: Tensor) -> torch.dtype:
    return torch.float64 if t.dtype == torch.float64 else torch.float32


def fast_length(minimum: int) -> int:
    """The smallest 2^a {1, 3, 5} that is at least `minimum`, and at least 16."""
    return min(m << max(0, (-(-max(minimum, 16) // m) - 1).bit_length()) for m in (1, 3, 5))


def plain_length(minimum: int) -> int:
    """Of the plain formula: a fast one, or, where a size that is not yet known is being traced, one that is even whatever it is."""
    return fast_length(minimum) if type(minimum) is int and not torch.jit.is_tracing() else 2 * minimum


def linear_length(length: int, size: int, lag0: int) -> int:
    """Period from which on a circular convolution of a row of `length` with `size` taps is the linear one."""
    return length + max(lag0, size - 1 - lag0)


def new_like_u(u: Tensor, blh: bool) -> Tensor:
    """(B, H, L), in the memory order of the layout."""
    b, h, length = u.shape
    return u.new_empty(b, length, h).transpose(1, 2) if blh else u.new_empty(b, h, length)


def new_like_y(u: Tensor, filters: int, blh: bool) -> Tensor:
    """(B, F, H, L), in the memory order of the layout."""
    b, h, length = u.shape
    return u.new_empty(b, length, filters, h).permute(0, 2, 3, 1) if blh else u.new_empty(b, filters, h, length)


# ---- the quarter-shifted grid ----------------------------------------------------------------------------------------


def _turn(grid: int, like: Tensor) -> Tensor:
    """exp(-i pi j / 2N), j = 0 .. N - 1."""
    angle = torch.arange(grid, device=like.device, dtype=torch.float64) * (-math.pi / (2 * grid))
    return torch.polar(torch.ones_like(angle), angle).to(torch.complex128 if like.dtype == torch.float64 else torch.complex64)


def to_grid(x: Tensor, grid: int) -> Tensor:
    """Real (.., up to 2N) -> complex (.., N)."""
    low, high = F.pad(x, (0, 2 * grid - x.shape[-1])).split(grid, -1)
    return torch.fft.fft(torch.complex(low, -high) * _turn(grid, x))


def from_grid(spectrum: Tensor) -> Tensor:
    """Complex (.., N) -> real (.., 2N)."""
    z = torch.fft.ifft(spectrum)
    z = z * _turn(z.shape[-1], z.real).conj_physical()
    return torch.cat([z.real, -z.imag], -1)


def spectrum(taps: Tensor, lag0: int, grid: int) -> Tensor:
    """Taps (.., K) at lags -lag0 .. K - 1 - lag0 -> their spectrum (.., N, 2): lag -j stands at 2N - j with its sign turned."""
    gap = taps.new_zeros(*taps.shape[:-1], 2 * grid - taps.shape[-1])
    return torch.view_as_real(to_grid(torch.cat([taps[..., lag0:], gap, -taps[..., :lag0]], -1), grid))


# ---- the convolution and its adjoints --------------------------------------------------------------------------------


class _Transform:
    """The three products of a call: rfft of a linear length for taps, the quarter-shifted grid for a spectrum."""

    def __init__(self, kernel_shape, call: Call, length: int):
        self.shape, self.grid, self.lag0, self.length = tuple(kernel_shape), call.grid, call.lag0, length
        self.n = 2 * call.grid or plain_length(linear_length(length, self.shape[3], call.lag0))

    def row(self, x: Tensor) -> Tensor:
        """(B, [F,] H, L) -> spectra (B, F or 1, G, H / G, bins)."""
        x = x.unflatten(-2, (self.shape[2], -1))
        x = x if x.dim() == 5 else x[:, None]
        return to_grid(x, self.grid) if self.grid else torch.fft.rfft(x, self.n)

    def kernel(self, kernel: Tensor) -> Tensor:
        """(S, F, G, 1, bins)."""
        found = torch.view_as_complex(kernel.contiguous()) if self.grid else torch.fft.rfft(kernel, self.n)
        return found[:, :, :, None]

    def back(self, spectra: Tensor, start: int, size: int) -> Tensor:
        """Spectra -> `size` numbers from `start` on."""
        x = from_grid(spectra) if self.grid else torch.fft.irfft(spectra, self.n)
        return x[..., start : start + size]

    def convolve(self, v: Tensor, kernel: Tensor) -> Tensor:
        return self.back(self.row(v) * self.kernel(kernel), self.lag0, self.length).flatten(2, 3)

    def adjoint(self, dc: Tensor, kernel: Tensor) -> Tensor:
        product = (self.row(F.pad(dc, (self.lag0, 0))) * self.kernel(kernel).conj_physical()).sum(1)
        return self.back(product, 0, self.length).flatten(1, 2)

    def kernel_gradient(self, dc: Tensor, v: Tensor) -> Tensor:
        product = (self.row(v).conj_physical() * self.row(F.pad(dc, (self.lag0, 0)))).sum(3)
        product = product if self.shape[0] > 1 else product.sum(0, keepdim=True)
        return torch.view_as_real(product / self.grid) if self.grid else self.back(product, 0, self.shape[3])


def _act(z: Tensor, activation: str) -> Tensor:
    return {"identity": lambda t: t, "silu": F.silu, "gelu": F.gelu}[activation](z)


def _act_gradient(z: Tensor, activation: str) -> Tensor:
    if activation == "silu":
        s = torch.sigmoid(z)
        return s * (1 + z * (1 - s))
    normal = torch.exp(-0.5 * z * z) * (1 / math.sqrt(2 * math.pi))
    return 0.5 * (1 + torch.erf(z * math.sqrt(0.5))) + z * normal


def _stretches(cu_seqlens: Tensor) -> list[tuple[int, int, int]]:
    ends = cu_seqlens.tolist()
    return [(r, start, end - start) for r, (start, end) in enumerate(zip(ends, ends[1:]))]


def _cut(t: Tensor | None, start: int, size: int) -> Tensor | None:
    return None if t is None else t.narrow(-1, start, size)


def _pick(t: Tensor | None, r: int) -> Tensor | None:
    return None if t is None else t[r : r + 1] if t.shape[0] > 1 else t


def forward(u, kernel, skip, gate_in, gate_out, mask, cu_seqlens, call: Call) -> Tensor:
    """y (B, F, H, L) in u's dtype; differentiable by autograd to any order."""
    if cu_seqlens is not None:
        rows = [
            forward(_cut(u, a, n), _pick(kernel, r), skip, _cut(gate_in, a, n), _cut(gate_out, a, n), _pick(mask, r), None, call)
            for r, a, n in _stretches(cu_seqlens)
            if n
        ]
        return torch.cat(rows, -1)
    dtype = compute_dtype(u)
    v = u.to(dtype) if gate_in is None else u.to(dtype) * gate_in.to(dtype)
    z = _Transform(kernel.shape, call, u.shape[-1]).convolve(v, kernel)
    if skip is not None:
        z = z + skip[..., None] * v[:, None]
    if gate_out is not None:
        z = gate_out.to(dtype) * z
    y = _act(z, call.activation)
    if mask is not None:
        y = y * mask[:, None, :, None]
    y = y.to(u.dtype)
    return y.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1) if call.blh else y.contiguous()


def backward(grad, u, kernel, skip, gate_in, gate_out, mask, cu_seqlens, kernel_shape, call: Call, needs):
    """The six gradients of GRADIENTS, None where not needed. Without u, or without kernel, only what does not need it."""
    if cu_seqlens is not None:
        return _backward_of_stretches(grad, u, kernel, skip, gate_in, gate_out, mask, cu_seqlens, kernel_shape, call, needs)
    dtype = compute_dtype(grad)
    if grad.shape[-1] == 0:  # an empty stretch
        grad, u, gate_in, gate_out = (t if t is None else F.pad(t, (0, 1)) for t in (grad, u, gate_in, gate_out))
        found = backward(grad, u, kernel, skip, gate_in, gate_out, mask, None, kernel_shape, call, needs)
        return tuple(t[..., :0] if t is not None and g in ("u", "gate_in", "gate_out") else t for g, t in zip(GRADIENTS, found))
    transform = _Transform(kernel_shape, call, grad.shape[-1])
    dz, out = grad.to(dtype), gate_out if gate_out is None else gate_out.to(dtype)
    v = u if u is None else u.to(dtype) if gate_in is None else u.to(dtype) * gate_in.to(dtype)
    found = dict.fromkeys(GRADIENTS)
    need = dict(zip(GRADIENTS, needs))
    if call.activation != "identity" or need["gate_out"] or need["mask"]:
        c = transform.convolve(v, kernel)
        c = c if skip is None else c + skip[..., None] * v[:, None]
        z = c if out is None else out * c
        if need["mask"]:
            found["mask"] = (dz * _act(z, call.activation)).sum((1, 3))
        if mask is not None:
            dz = dz * mask[:, None, :, None]
        if call.activation != "identity":
            dz = dz * _act_gradient(z, call.activation)
        if need["gate_out"]:
            found["gate_out"] = (dz * c).to(grad.dtype)
    elif mask is not None:
        dz = dz * mask[:, None, :, None]
    dc = dz if out is None else dz * out
    if need["skip"]:
        found["skip"] = (dc * v[:, None]).sum((0, 3))
    if need["kernel"]:
        found["kernel"] = transform.kernel_gradient(dc, v)
    if need["u"] or need["gate_in"]:
        dv = transform.adjoint(dc, kernel)
        dv = dv if skip is None else dv + (skip[..., None] * dc).sum(1)
        found["u"] = (dv if gate_in is None else dv * gate_in).to(grad.dtype) if need["u"] else None
        found["gate_in"] = (dv * u).to(grad.dtype) if need["gate_in"] else None
    return tuple(_laid_out(name, t, call.blh) for name, t in found.items())


def _laid_out(name: str, t: Tensor | None, blh: bool) -> Tensor | None:
    """Contiguous, the gradients of rows in the memory order of the layout."""
    if t is None or not blh or name not in ("u", "gate_in", "gate_out"):
        return t if t is None else t.contiguous()
    return t.movedim(-1, 1).contiguous().movedim(1, -1)


def _backward_of_stretches(grad, u, kernel, skip, gate_in, gate_out, mask, cu_seqlens, kernel_shape, call, needs):
    one = (1, *kernel_shape[1:])
    rows = [
        backward(_cut(grad, a, n), _cut(u, a, n), _pick(kernel, r), skip, _cut(gate_in, a, n), _cut(gate_out, a, n),
                 _pick(mask, r), None, one, call, needs)
        for r, a, n in _stretches(cu_seqlens)
    ]  # fmt: skip
    found = []
    for name, parts in zip(GRADIENTS, zip(*rows)):
        if parts[0] is None:
            found.append(None)
        elif name in ("u", "gate_in", "gate_out"):
            found.append(_laid_out(name, torch.cat(parts, -1), call.blh))
        elif name == "mask" or name == "kernel" and kernel_shape[0] > 1:
            found.append(torch.cat(parts, 0))
        else:
            found.append(torch.stack(parts).sum(0))
    return tuple(found)
