"""`HyenaOperator`: gates and implicit long convolutions in turn."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import _check
from ..ops.fft_conv import fft_conv
from .hyena_filter import HyenaFilter
from .kan_spec import chosen
from .long_conv import positive


def hyena_recurrence(
    x: list[Tensor], v: Tensor, k: Tensor, bias: Tensor | None, dropout: nn.Module | None, activation: str | None = None,
    backend: str | None = None,
) -> Tensor:  # fmt: skip
    """act(x_0 v_n), v_{o+1} = k_o * (x_{n-o} v_o) + D_o x_{n-o} v_o.

    x: n + 1 gates, v: (B, H, L) each; k (n, H, L), bias (n, H).
    `dropout`, where it drops, acts on x v and stands between gate and convolution.
    """
    orders = len(x) - 1
    for o, gate in enumerate(reversed(x[1:])):
        last = o == orders - 1
        if dropout is not None:
            v, gate = dropout(v * gate), None
        v = fft_conv(
            v, k[o], skip=None if bias is None else bias[o], gate_in=gate, gate_out=x[0] if last else None,
            activation=activation if last else None, backend=chosen(backend),
        )  # fmt: skip
    return v


class HyenaOperator(nn.Module):
    r"""y = W_out act(x_0 v_n), v_{o+1} = k_o * (x_{n-o} v_o) + D_o (x_{n-o} v_o), n = order - 1: u (B, L, D) -> (B, L, D).

    x_0, .., x_n and v_0 are the parts of short(W_in u), a short causal convolution of a linear layer.

    Args:
        d_model: D. l_max: the longest row. order: 2 or more, one convolution fewer. filter_order: width of the filter's network.
        short_filter_order: taps of the causal depthwise convolution after W_in. dropout: of x v, before each convolution.
        activation: None, "silu" or "gelu", on x_0 v. backend: :func:`spectralops.fft_conv`'s. Others: :class:`HyenaFilter`'s.

    Parameters as in safari's HyenaOperator with one head and one block, whose state loads: `in_proj`, `short_filter`, `filter_fn`
    (for D (order - 1) channels, channel d (order - 1) + o for order o), `out_proj`; initialised alike. Where safari cuts
    rows beyond l_max, this raises. Every convolution is one call with its gates and skip inside; with order 2 there is
    nothing else between the projections but the short filter.

    Source: M. Poli et al., Hyena Hierarchy: Towards Larger Convolutional Language Models, 2023.
    """

    def __init__(
        self,
        d_model: int,
        l_max: int,
        order: int = 2,
        filter_order: int = 64,
        *,
        dropout: float = 0.0,
        short_filter_order: int = 3,
        activation: str | None = None,
        backend: str | None = None,
        device=None,
        dtype=None,
        **filter_args,
    ):
        super().__init__()
        positive(d_model=d_model, l_max=l_max, short_filter_order=short_filter_order)
        if _check.integer("order", order) < 2:
            raise ValueError(f"order must be at least 2; got {order}")
        if filter_args.get("bidirectional"):
            raise ValueError("bidirectional is not for HyenaOperator, whose recurrence is causal; see M2Mixer")
        _check.choice("activation", activation, (None, "silu", "gelu"))
        place, width = {"device": device, "dtype": dtype}, (order + 1) * d_model
        self.d_model, self.l_max, self.order, self.activation, self.backend = d_model, l_max, order, activation, backend
        self.dropout = nn.Dropout(dropout)
        self.out_proj = nn.Linear(d_model, d_model, **place)
        self.in_proj = nn.Linear(d_model, width, **place)
        self.short_filter = nn.Conv1d(width, width, short_filter_order, groups=width, padding=short_filter_order - 1, **place)
        self.filter_fn = HyenaFilter(d_model * (order - 1), l_max, order=filter_order, **filter_args, **place)

    def forward(self, u: Tensor) -> Tensor:
        _check.tensor("u", u)
        if u.dim() != 3 or u.shape[-1] != self.d_model:
            raise ValueError(f"u must have shape (B, L, {self.d_model}); got {_check.shape(u)}")
        length, n = u.shape[1], self.order - 1
        if length > self.l_max:
            raise ValueError(f"u has rows of {length}, longer than l_max = {self.l_max}")
        uc = self.short_filter(self.in_proj(u).transpose(1, 2))[..., :length]  # (B, (order + 1) D, L)
        *x, v = uc.split(self.d_model, 1)
        k = self.filter_fn.taps(length).unflatten(0, (self.d_model, n)).transpose(0, 1)  # (n, D, L)
        bias = self.filter_fn.skip()
        bias = None if bias is None else bias.view(self.d_model, n).T
        dropout = self.dropout if self.training and self.dropout.p else None
        y = hyena_recurrence(x, v, k, bias, dropout, self.activation, self.backend)
        return self.out_proj(y.transpose(1, 2))

    def extra_repr(self) -> str:
        return f"{self.d_model}, l_max={self.l_max}, order={self.order}"
