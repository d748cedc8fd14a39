"""`MegaEMA`: Mega's multi-dimensional damped exponential moving average."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import _check
from ..ops.fft_conv import fft_conv
from .exponentials import exponential_sum
from .kan_spec import chosen
from .long_conv import positive


class MegaEMA(nn.Module):
    r"""y = silu(k * (m x) + omega x), k[d, l] = N^{-1/2} sum_n p_dn beta_dn gamma_dn q_dn^l: x (B, L, D) -> (B, L, D).

    p = sigmoid(delta) damps, q = 1 - p sigmoid(alpha) decays.

    Args:
        embed_dim, ndim: D and N. bidirectional: anticausal taps too, with parameters of their own; lag 0 gets both.
            truncation: the most taps. batch_first: False for x (L, B, D), transformers' order. backend:
            :func:`spectralops.fft_conv`'s.

    Parameters as in transformers' MegaMultiDimensionDampedEma, whose state loads and whose initial values these are:
    `damping_factor` delta, `decay_factor` alpha, `ema_expansion_matrix` beta (D or 2 D, N, 1), `kernel_projection_matrix` gamma
    (D or 2 D, N), `residual_weight` omega (D,).

    forward(x, attention_mask=None): m (B, L), nonzero where x counts; omega x is not masked, as upstream.

    Source: X. Ma et al., Mega: Moving Average Equipped Gated Attention, 2022.
    """

    def __init__(
        self,
        embed_dim: int,
        ndim: int = 16,
        bidirectional: bool = False,
        truncation: int | None = None,
        *,
        batch_first: bool = True,
        backend: str | None = None,
        device=None,
        dtype=None,
    ):
        super().__init__()
        positive(embed_dim=embed_dim, ndim=ndim, **({} if truncation is None else {"truncation": truncation}))
        self.embed_dim, self.ndim, self.bidirectional, self.truncation = embed_dim, ndim, bidirectional, truncation
        self.batch_first, self.backend = batch_first, backend
        place, rows = {"device": device, "dtype": dtype}, embed_dim * (1 + bidirectional)
        self.damping_factor, self.decay_factor, self.ema_expansion_matrix = (
            nn.Parameter(torch.empty(rows, ndim, 1, **place)) for _ in range(3)
        )
        self.kernel_projection_matrix = nn.Parameter(torch.empty(rows, ndim, **place))
        self.residual_weight = nn.Parameter(torch.empty(embed_dim, **place))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        for parameter in (self.damping_factor, self.decay_factor):
            nn.init.normal_(parameter, std=0.2)
        nn.init.normal_(self.ema_expansion_matrix, std=0.02)
        self.ema_expansion_matrix[:, 0::2] += 1
        self.ema_expansion_matrix[:, 1::2] -= 1
        for parameter in (self.kernel_projection_matrix, self.residual_weight):
            nn.init.normal_(parameter)

    def taps(self, length: int) -> Tensor:
        """(D or 2 D, K), K the length or the truncation, in float32 or float64."""
        wide = torch.promote_types(self.damping_factor.dtype, torch.float32)
        delta, alpha, beta = (t[..., 0].to(wide) for t in (self.damping_factor, self.decay_factor, self.ema_expansion_matrix))
        p = torch.sigmoid(delta)
        c = p * beta * self.kernel_projection_matrix.to(wide) * self.ndim**-0.5
        return exponential_sum(c, torch.log1p(-p * torch.sigmoid(alpha)), min(length, self.truncation or length))

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        _check.tensor("x", x)
        if x.dim() != 3 or x.shape[-1] != self.embed_dim:
            takes = "(B, L, D)" if self.batch_first else "(L, B, D)"
            raise ValueError(f"x must have shape {takes} with D = {self.embed_dim}; got {_check.shape(x)}")
        x = x if self.batch_first else x.transpose(0, 1)
        k, k_rev = self.taps(max(1, x.shape[1])), None
        if self.bidirectional:
            k, k_rev = k.chunk(2)
        how = {"k_rev": k_rev, "layout": "blh", "backend": chosen(self.backend)}
        if attention_mask is None:
            y = fft_conv(x, k, skip=self.residual_weight, activation="silu", **how)
        else:
            if attention_mask.shape != x.shape[:2]:
                raise ValueError(f"attention_mask must have shape {tuple(x.shape[:2])}; got {_check.shape(attention_mask)}")
            conv = fft_conv(x, k, gate_in=attention_mask[..., None].to(x.dtype), **how)
            y = F.silu(conv + x * self.residual_weight.to(x.dtype))
        return y if self.batch_first else y.transpose(0, 1)

    def extra_repr(self) -> str:
        return f"{self.embed_dim}, {self.ndim}, bidirectional={self.bidirectional}, truncation={self.truncation}"
