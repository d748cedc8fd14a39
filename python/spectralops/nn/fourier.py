"""`KAF`, `FAN` and `SIREN`: layers and networks of sines of linear maps."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _sine(x: Tensor, omega: float) -> Tensor:
    return torch.sin(omega * x)


def _fourier_features(x: Tensor, weight: Tensor, phase: Tensor) -> Tensor:
    z = x @ weight + phase
    return torch.cat([z.cos(), z.sin()], -1)


def _fan(x: Tensor, weight_p: Tensor, weight_g: Tensor, bias_g: Tensor | None) -> Tensor:
    z = F.linear(x, weight_p)
    return torch.cat([z.cos(), z.sin(), F.gelu(F.linear(x, weight_g, bias_g))], -1)


class KAF(nn.Module):
    r"""y = W (alpha GELU(x) + beta C [cos(z), sin(z)]) + b, z = LayerNorm(x) A + phi: x (..., I) -> (..., O).

    Args:
        in_features, out_features: I and O. features: F, columns of A. layer_norm: False leaves the norm out.
        expectation: of the initial variance of A, 1 / (expectation I).

    Parameters: `frequencies` A (I, F), normal; `phase` (F,), uniform on [0, 2 pi]; `combine` C, a linear layer from 2 F to I with
    Xavier uniform weight; `alpha` = 1, `beta` = 0.01, scalars; `linear` W, b. Derivatives: every order.

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
        device=None,
        dtype=None,
    ):
        super().__init__()
        place = {"device": device, "dtype": dtype}
        self.in_features, self.features, self.expectation = in_features, features, expectation
        self.norm = nn.LayerNorm(in_features, **place) if layer_norm else None
        self.frequencies = nn.Parameter(torch.empty(in_features, features, **place))
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
        features = self.combine(_fourier_features(z, self.frequencies, self.phase))
        return self.linear(self.alpha * F.gelu(x) + self.beta * features)

    def extra_repr(self) -> str:
        return f"features={self.features}"


class FAN(nn.Module):
    r"""y = [cos(W_p x), sin(W_p x), GELU(W_g x + b_g)]: x (..., I) -> (..., O), a Fourier analysis layer.

    Args:
        in_features, out_features: I and O. p_ratio: W_p has int(p_ratio O) rows, p_ratio in [0, 0.5].

    Parameters: `weight_p` (P, I), `weight_g` (O - 2 P, I), `bias_g`, initialised as nn.Linear's. Derivatives: every order.

    Source: Y. Dong et al., FAN: Fourier Analysis Networks, 2024.
    """

    def __init__(self, in_features: int, out_features: int, p_ratio: float = 0.25, *, bias: bool = True, device=None, dtype=None):
        super().__init__()
        if not 0 <= p_ratio <= 0.5:
            raise ValueError(f"p_ratio must be in [0, 0.5]; got {p_ratio}")
        periodic, place = int(p_ratio * out_features), {"device": device, "dtype": dtype}
        self.in_features, self.out_features, self.p_ratio = in_features, out_features, p_ratio
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
        return _fan(x, self.weight_p, self.weight_g, self.bias_g)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, p_ratio={self.p_ratio}"


class SIREN(nn.Sequential):
    r"""h_{l+1} = sin(omega (W_l h_l + b_l)), then a linear layer (or a sine layer): x (..., in) -> (..., out).

    Args:
        in_features, hidden_features, out_features; layers: how many hidden sine layers, 1 or more.
        omega_0: omega of the first layer, omega of the others. outermost_linear: False ends with a sine.

    Initial weights: uniform on +-1 / in in the first layer, +-sqrt(6 / fan_in) / omega after it; biases as nn.Linear's. So every
    pre-activation after the first is about normal with unit variance, whatever the depth. Derivatives: every order.

    Source: V. Sitzmann et al., Implicit Neural Representations with Periodic Activation Functions, 2020.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int,
        layers: int = 3,
        *,
        omega_0: float = 30.0,
        omega: float = 30.0,
        outermost_linear: bool = True,
        device=None,
        dtype=None,
    ):
        if layers < 1:
            raise ValueError(f"layers must be at least 1; got {layers}")
        widths = [in_features, *[hidden_features] * layers, out_features]
        super().__init__(*(nn.Linear(i, o, device=device, dtype=dtype) for i, o in zip(widths, widths[1:])))
        self.omega_0, self.omega, self.outermost_linear = omega_0, omega, outermost_linear
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        for number, linear in enumerate(self):
            linear.reset_parameters()
            bound = math.sqrt(6 / linear.in_features) / self.omega if number else 1 / linear.in_features
            nn.init.uniform_(linear.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        for number, linear in enumerate(self):
            x = linear(x)
            if number < len(self) - 1 or not self.outermost_linear:
                x = _sine(x, self.omega if number else self.omega_0)
        return x

    def extra_repr(self) -> str:
        return f"omega_0={self.omega_0}, omega={self.omega}"
