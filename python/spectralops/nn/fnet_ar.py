"""`FNetARMixing`: FNet's mixing of tokens made causal, a Fourier transform of the last M of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .. import _check
from ..ops.fft_conv import fft_conv
from .kan_spec import chosen
from .long_conv import positive


def causal_fourier(x: Tensor, window: int, rows: int, *, backend: str | None = None) -> Tensor:
    r"""y_i = M^{-1/2} sum_{s<M} cos(2 pi i s / M) x_{i+s-(M-1)}, i = 0 .. rows - 1, M = window: x (B, S, D) -> (B, rows, D).

    x_i, i counted from the first of the last `rows` of S; what lies before x is 0. Row i is bin i of the Fourier transform
    of the M tokens that end with it. With the lag tau = M - 1 - s and j = i - tau, i s = -(i tau + i) modulo M, and
    i tau = (i^2 + tau^2 - j^2) / 2 makes the sum a convolution with the chirp exp(i pi tau^2 / M) between two others:

        y_i = M^{-1/2} Re( exp(i pi (i^2 + 2 i) / M) sum_{tau<M} exp(i pi tau^2 / M) exp(-i pi j^2 / M) x_j ).

    Squares are reduced modulo 2 M in integers. Four real convolutions of length S, one call of two filters on two gated
    inputs; the matrix of the sum, rows x S, is never built.
    """
    start = x.shape[1] - rows
    wide = torch.promote_types(x.dtype, torch.float32)

    def chirp(numerator: Tensor) -> tuple[Tensor, Tensor]:
        angle = (numerator % (2 * window)).double() * (math.pi / window)
        return angle.cos().to(wide), angle.sin().to(wide)

    tau = torch.arange(min(window, x.shape[1]), device=x.device)
    j = torch.arange(-start, rows, device=x.device)
    cos, sin = chirp(tau * tau)
    k = torch.stack([cos, sin])[:, None]  # (2 filters, 1 group, taps)
    cos, sin = chirp(j * j)
    gates = torch.stack([cos, -sin])[:, None, :, None]  # (2, 1, S, 1): Re and Im of exp(-i pi j^2 / M)
    both = x.expand(2, *x.shape)
    # (2 inputs, B, S, 2 filters, D) -> the last rows
    c = fft_conv(both.to(wide), k, gate_in=gates, layout="blh", multi=True, backend=backend)[:, :, start:]
    re, im = c[0, ..., 0, :] - c[1, ..., 1, :], c[0, ..., 1, :] + c[1, ..., 0, :]
    i = torch.arange(rows, device=x.device)
    cos, sin = chirp(i * i + 2 * i)
    return ((cos[:, None] * re - sin[:, None] * im) * window**-0.5).to(x.dtype)


class FNetARMixing(nn.Module):
    r"""y = LayerNorm(x + F(dropout([memory, x] + p)) / sqrt(M - 1 + L)), F of :func:`causal_fourier`: x (B, L, D) -> (B, L, D).

    Args:
        d_model: D. window: M, tokens each sum has, itself and M - 1 before it. dropout. backend: :func:`spectralops.fft_conv`'s.

    Parameters: `norm`, a LayerNorm, as in upstream's CausalFT, whose state loads.

    forward(x, memory=None, position=None): memory (B, up to M - 1, D), the tokens before x, which count as 0 where they are
    missing (upstream takes M - 1 to be the length of its memory); position p, broadcast to (B, M - 1 + L, D).

    Upstream multiplies by a dense complex matrix; this takes O(L log L), see causal_fourier. Position i is counted from
    the start of x, so that the same token in another segment has another frequency, as upstream.

    Source: T. Lou et al., FNetAR: Mixing Tokens with Autoregressive Fourier Transforms, 2021.
    """

    def __init__(self, d_model: int, window: int, dropout: float = 0.1, *, backend: str | None = None, device=None, dtype=None):
        super().__init__()
        positive(d_model=d_model, window=window)
        self.d_model, self.window, self.backend = d_model, window, backend
        self.norm = nn.LayerNorm(d_model, device=device, dtype=dtype)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, memory: Tensor | None = None, position: Tensor | None = None) -> Tensor:
        _check.tensor("x", x)
        if x.dim() != 3 or x.shape[-1] != self.d_model:
            raise ValueError(f"x must have shape (B, L, {self.d_model}); got {_check.shape(x)}")
        (batch, rows, _), before = x.shape, self.window - 1
        memory = x.new_zeros(batch, 0, self.d_model) if memory is None else memory
        if memory.dim() != 3 or memory.shape[::2] != x.shape[::2] or memory.shape[1] > before:
            raise ValueError(f"memory must have shape ({batch}, up to {before}, {self.d_model}); got {_check.shape(memory)}")
        tokens = torch.cat([memory, x], 1)
        if position is not None:
            missing = before - memory.shape[1]
            tokens = nn.functional.pad(tokens, (0, 0, missing, 0)) + position
        mixed = causal_fourier(self.dropout(tokens), self.window, rows, backend=chosen(self.backend))
        return self.norm(x + mixed / math.sqrt(max(before + rows, 1)))

    def extra_repr(self) -> str:
        return f"{self.d_model}, window={self.window}"
