"""`GRKAN`: KAT's group-rational MLP."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .rational import Rational
from .rational_init import evaluate


@torch.no_grad()
def mean_square(act: Rational) -> float:
    """E[F(x)^2] for x ~ N(0, 1), averaged over groups, of the function that this version really computes."""
    x = torch.linspace(-12, 12, 4801, dtype=torch.float64, device="cpu")
    density = torch.exp(-0.5 * x * x) * (x[1] - x[0]) / math.sqrt(2 * math.pi)
    num, den = (t.detach().double().cpu() for t in (act.numerator, act.denominator))
    groups = max(len(num), len(den))
    values = [evaluate(x, num[g % len(num)], den[g % len(den)], act.version) for g in range(groups)]
    return sum((density * v * v).sum().item() for v in values) / groups


class GRKAN(nn.Module):
    r"""y = W_2 F_2(drop(W_1 F_1(x) + b_1)) + b_2, F_1 and F_2 rational, one function for each of `groups` slices of channels.

    Args:
        in_features, hidden_features, out_features: x (..., in) -> (..., out); the last two default to in_features. `groups` must
            divide in_features and hidden_features.
        inits: the activations F_1 and F_2 start as. dropout: after each linear layer.
        version, degrees, sign_at_zero, share_numerator: :class:`Rational`'s; the defaults are KAT's kernels'.

    Initial W_l: normal with variance 1 / (fan_in E[F_l(z)^2]), z ~ N(0, 1), biases zero, so that inputs of unit variance keep it
    through each F and W. E[F^2] is integrated for the version in use: KAT's constant for GELU, 1 / 2.3568, is that of version
    B, while its kernels compute A. Derivatives: :func:`spectralops.rational`'s, first and second.

    Source: X. Yang, X. Wang, Kolmogorov-Arnold Transformer, 2024.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int | None = None,
        out_features: int | None = None,
        *,
        groups: int = 8,
        inits: tuple[str, str] = ("identity", "gelu"),
        degrees: tuple[int, int] = (5, 4),
        version: str = "A",
        sign_at_zero: int = 1,
        share_numerator: bool = True,
        bias: bool = True,
        dropout: float = 0.0,
        device=None,
        dtype=None,
    ):
        super().__init__()
        hidden_features, out_features = hidden_features or in_features, out_features or in_features
        for name, size in (("in_features", in_features), ("hidden_features", hidden_features)):
            if size % groups:
                raise ValueError(f"groups must divide {name}; got {groups} and {size}")
        place = {"device": device, "dtype": dtype}
        rest = dict(degrees=degrees, version=version, sign_at_zero=sign_at_zero, share_numerator=share_numerator, **place)
        self.act1, self.act2 = (Rational(groups, init=init, **rest) for init in inits)
        self.fc1 = nn.Linear(in_features, hidden_features, bias, **place)
        self.fc2 = nn.Linear(hidden_features, out_features, bias, **place)
        self.drop = nn.Dropout(dropout)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The linear layers' initial values, for what the activations are now."""
        for act, fc in ((self.act1, self.fc1), (self.act2, self.fc2)):
            if not act.numerator.is_meta:
                nn.init.normal_(fc.weight, std=(fc.in_features * mean_square(act)) ** -0.5)
            if fc.bias is not None:
                nn.init.zeros_(fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.fc1(self.act1(x)))
        return self.drop(self.fc2(self.act2(x)))
