"""`SpectralGate1d`: FFTNet's spectral attention, a gate that the sequence chooses on its own spectrum."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import _check
from ..ops.spectral_gate1d import spectral_gate1d
from .long_conv import positive


class SpectralGate1d(nn.Module):
    r"""y = LayerNorm(x + dropout(irfft(modReLU(g rfft(x))))), g = base_filter + MLP(mean of x): x (B, N, D) -> (B, N,
    D).

    One gate a head and frequency, real, shared by the D / heads channels of a head; modReLU(z) = z relu(|z| + bias) /
    (|z| + 1e-6).

    Args:
        embed_dim: D. seq_len: N; shorter sequences are a ValueError. num_heads. dropout. adaptive: whether there is
            the MLP.
        backend: :func:`spectralops.spectral_gate1d`'s.

    Parameters as upstream's MultiHeadSpectralAttention, whose state loads, K = N // 2 + 1: `base_filter` (heads, K,
    1), ones, `adaptive_mlp` (Linear(D, D), GELU, Linear(D, heads K)), `modrelu_bias` (heads, K, 1), zeros, `norm`.

    Source: J. Fein-Ashley et al., The FFT Strikes Back: An Efficient Alternative to Self-Attention, 2025.
    """

    def __init__(
        self,
        embed_dim: int,
        seq_len: int,
        num_heads: int = 4,
        dropout: float = 0.1,
        adaptive: bool = True,
        *,
        backend: str | None = None,
        device=None,
        dtype=None,
    ):
        super().__init__()
        positive(embed_dim=embed_dim, seq_len=seq_len, num_heads=num_heads)
        if embed_dim % num_heads:
            raise ValueError(f"num_heads must divide embed_dim, {embed_dim}; got {num_heads}")
        self.embed_dim, self.seq_len, self.num_heads = embed_dim, seq_len, num_heads
        self.adaptive, self.backend = adaptive, backend
        self.freq_bins, place = seq_len // 2 + 1, {"device": device, "dtype": dtype}
        self.base_filter = nn.Parameter(torch.empty(num_heads, self.freq_bins, 1, **place))
        if adaptive:
            last = nn.Linear(embed_dim, num_heads * self.freq_bins, **place)
            self.adaptive_mlp = nn.Sequential(nn.Linear(embed_dim, embed_dim, **place), nn.GELU(), last)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(embed_dim, **place)
        self.modrelu_bias = nn.Parameter(torch.empty(num_heads, self.freq_bins, 1, **place))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        nn.init.ones_(self.base_filter)
        nn.init.zeros_(self.modrelu_bias)
        for module in (self.norm, *((self.adaptive_mlp[0], self.adaptive_mlp[2]) if self.adaptive else ())):
            module.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        _check.tensor("x", x)
        if x.dim() != 3 or tuple(x.shape[1:]) != (self.seq_len, self.embed_dim):
            raise ValueError(f"x must have shape (B, {self.seq_len}, {self.embed_dim}); got {_check.shape(x)}")
        gate = self.base_filter[None, ..., 0]
        if self.adaptive:
            gate = gate + self.adaptive_mlp(x.mean(1)).reshape(-1, self.num_heads, self.freq_bins)
        y = spectral_gate1d(x, gate, modrelu_bias=self.modrelu_bias, backend=self.backend)
        return self.norm(x + self.dropout(y))

    def extra_repr(self) -> str:
        return f"{self.embed_dim}, seq_len={self.seq_len}, num_heads={self.num_heads}, adaptive={self.adaptive}"
