"""`KAF`: a linear layer after GELU and learnable Fourier features."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..ops.fan import fourier_features
from .kan_spec import chosen


class KAF(nn.Module):
    r"""y = W (alpha GELU(x) + beta C [cos(z), sin(z)]) + b, z = A LayerNorm(x) + phi: x (..., I) -> (..., O).

    Args:
        in_features, out_features: I and O. features: F, rows of A. layer_norm: False leaves the norm out.
        expectation: of the initial variance of A, 1 / (expectation I). backend: :func:`spectralops.fourier_features`'s, whose
            derivatives this layer has: first and second, and every order with "reference".

    Parameters: `frequencies` A (F, I), normal; `phase` (F,), uniform on [0, 2 pi]; `combine` C, a linear layer from 2 F to I with
    Xavier uniform weight; `alpha` = 1, `beta` = 0.01, scalars; `linear` W, b.

    Source: J. Zhang et al., Kolmogorov-Arnold Fourier Networks, 2025.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        features: int = 8,
        *,
        layer_norm: bool = True,
        expectation: float = 1.64,
        bias: bool = True,
        backend: str | None = None,
        device=None,
        dtype=None,
    ):
        super().__init__()
        place = {"device": device, "dtype": dtype}
        self.in_features, self.features, self.expectation, self.backend = in_features, features, expectation, backend
        self.norm = nn.LayerNorm(in_features, **place) if layer_norm else None
        self.frequencies = nn.Parameter(torch.empty(features, in_features, **place))
        self.phase = nn.Parameter(torch.empty(features, **place))
        self.combine = nn.Linear(2 * features, in_features, **place)
        self.linear = nn.Linear(in_features, out_features, bias, **place)
        self.alpha, self.beta = (nn.Parameter(torch.empty((), **place)) for _ in range(2))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        nn.init.normal_(self.frequencies, std=(self.expectation * self.in_features) ** -0.5)
        nn.init.uniform_(self.phase, 0, 2 * math.pi)
        self.combine.reset_parameters()
        nn.init.xavier_uniform_(self.combine.weight)
        self.linear.reset_parameters()
        nn.init.ones_(self.alpha)
        nn.init.constant_(self.beta, 1e-2)
        if self.norm is not None:
            self.norm.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        z = x if self.norm is None else self.norm(x)
        features = self.combine(fourier_features(z, self.frequencies, self.phase, backend=chosen(self.backend)))
        return self.linear(self.alpha * F.gelu(x) + self.beta * features)

    def extra_repr(self) -> str:
        return f"features={self.features}"
