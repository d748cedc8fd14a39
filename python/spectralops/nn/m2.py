"""`M2Mixer`: the sequence mixer of Monarch Mixer BERT."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import _check
from ..ops.fft_conv import fft_conv
from .hyena_filter import HyenaFilter
from .kan_spec import chosen
from .long_conv import positive


class M2Mixer(nn.Module):
    r"""y = W_out (x_2 (k * (x_1 v) + D x_1 v) [+ k' * u + D' u]), [x_1, x_2, v] = short(W_in u): u (B, L, H) -> (B, L, H).

    k is causal, or with `bidirectional` has both directions: (k * w)_t = sum_j k_j w_{t-j} + sum_j r_j w_{t+j+rev_offset}.

    Args:
        d_model, l_max: H and the longest row. bidirectional: True, as M2-BERT is trained. residual_long_conv: the second
            convolution, of u itself. rev_offset: 0, k and r share lag 0, as H3's reference has it; 1, r begins at lag -1, as
            where upstream pads and joins the two kernels. Weights of one are not for the other.
        training_additions: LayerNorm of u first, and dropout of x_1 v and before W_out. filter_order, emb_dim, w, w_mod and
            the rest: :class:`HyenaFilter`'s. backend: :func:`spectralops.fft_conv`'s.

    Parameters as in upstream's MonarchMixerSequenceMixing, whose state loads: `filter_fn`, `filter_fn2`, `in_linear`,
    `short_filter` (three causal taps), `out_linear`, `layernorm`. Upstream returns (y, None).

    Source: D. Fu et al., Monarch Mixer: A Simple Sub-Quadratic GEMM-Based Architecture, 2023.
    """

    def __init__(
        self,
        d_model: int,
        l_max: int = 128,
        *,
        bidirectional: bool = True,
        residual_long_conv: bool = False,
        rev_offset: int = 0,
        training_additions: bool = False,
        dropout: float = 0.0,
        filter_order: int = 16,
        w: float = 10.0,
        backend: str | None = None,
        device=None,
        dtype=None,
        **filter_args,
    ):
        super().__init__()
        positive(d_model=d_model, l_max=l_max)
        if rev_offset not in (0, 1):
            raise ValueError(f"rev_offset must be 0 or 1; got {rev_offset!r}")
        place = {"device": device, "dtype": dtype}
        self.d_model, self.l_max, self.bidirectional, self.rev_offset = d_model, l_max, bidirectional, rev_offset
        self.backend = backend
        filters = {"order": filter_order, "w": w, "bidirectional": bidirectional, **filter_args, **place}
        self.filter_fn = HyenaFilter(d_model, l_max, **filters)
        self.filter_fn2 = HyenaFilter(d_model, l_max, **filters) if residual_long_conv else None
        self.in_linear = nn.Linear(d_model, 3 * d_model, **place)
        self.out_linear = nn.Linear(d_model, d_model, **place)
        self.layernorm = nn.LayerNorm(d_model, **place) if training_additions else None
        self.drop = nn.Dropout(dropout) if training_additions else None
        self.short_filter = nn.Conv1d(3 * d_model, 3 * d_model, 3, groups=3 * d_model, padding=2, **place)

    def _convolve(self, filters: HyenaFilter, v: Tensor, gate_in: Tensor | None, gate_out: Tensor | None) -> Tensor:
        length = v.shape[-1]
        how = {"skip": filters.skip(), "gate_in": gate_in, "gate_out": gate_out, "backend": chosen(self.backend)}
        if self.bidirectional:
            how |= {"k_rev": filters.taps(length, reverse=True), "rev_offset": self.rev_offset}
        return fft_conv(v, filters.taps(length), **how)

    def forward(self, u: Tensor) -> Tensor:
        _check.tensor("u", u)
        if u.dim() != 3 or u.shape[-1] != self.d_model:
            raise ValueError(f"u must have shape (B, L, {self.d_model}); got {_check.shape(u)}")
        if u.shape[1] > self.l_max:
            raise ValueError(f"u has rows of {u.shape[1]}, longer than l_max = {self.l_max}")
        u = u if self.layernorm is None else self.layernorm(u)
        x1, x2, v = self.short_filter(self.in_linear(u).transpose(1, 2))[..., : u.shape[1]].chunk(3, 1)  # (B, H, L) each
        if self.drop is not None and self.training and self.drop.p:
            v, x1 = self.drop(v * x1), None
        y = self._convolve(self.filter_fn, v, x1, x2)
        if self.filter_fn2 is not None:
            y = y + self._convolve(self.filter_fn2, u.transpose(1, 2), None, None)
        y = y.transpose(1, 2)
        return self.out_linear(y if self.drop is None else self.drop(y))

    def extra_repr(self) -> str:
        return f"{self.d_model}, l_max={self.l_max}, bidirectional={self.bidirectional}, rev_offset={self.rev_offset}"
