"""`FAN`: a linear layer, part of it through sine and cosine."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..ops.fan import fan
from .kan_spec import chosen


class FAN(nn.Module):
    r"""y = [cos(W_p x), sin(W_p x), GELU(W_g x + b_g)]: x (..., I) -> (..., O), a Fourier analysis layer.

    Args:
        in_features, out_features: I and O. p_ratio: W_p has int(p_ratio O) rows, p_ratio in [0, 0.5].
        backend: :func:`spectralops.fan`'s, whose derivatives these are: first and second, and every order with "reference".

    Parameters: `weight_p` (P, I), `weight_g` (O - 2 P, I), `bias_g`, initialised as nn.Linear's.

    Source: Y. Dong et al., FAN: Fourier Analysis Networks, 2024.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        p_ratio: float = 0.25,
        *,
        bias: bool = True,
        backend: str | None = None,
        device=None,
        dtype=None,
    ):
        super().__init__()
        if not 0 <= p_ratio <= 0.5:
            raise ValueError(f"p_ratio must be in [0, 0.5]; got {p_ratio}")
        periodic, place = int(p_ratio * out_features), {"device": device, "dtype": dtype}
        self.in_features, self.out_features, self.p_ratio, self.backend = in_features, out_features, p_ratio, backend
        self.weight_p = nn.Parameter(torch.empty(periodic, in_features, **place))
        self.weight_g = nn.Parameter(torch.empty(out_features - 2 * periodic, in_features, **place))
        self.bias_g = nn.Parameter(torch.empty(out_features - 2 * periodic, **place)) if bias else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        bound = self.in_features**-0.5  # what nn.Linear's kaiming_uniform_(a=sqrt 5) comes to
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return fan(x, self.weight_p, self.weight_g, self.bias_g, backend=chosen(self.backend))

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, p_ratio={self.p_ratio}"
